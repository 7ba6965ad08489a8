//! What holds for every timeline, on many that are drawn.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::availability::{Availability, Leaving};
use crate::device::{Devices, Network};
use crate::distribution::Distribution;
use crate::population::Slow;
use crate::random::{Purpose, Stream};
use crate::trace::Deal;

/// A population and a mode, drawn.
fn drawn(seed: u64) -> (Arc<Population>, Mode, Selection) {
    let mut stream = Stream::new(seed, Purpose::Variation, 77, 0);
    let mut pick = |count: u64| stream.below(count);
    let clients = 5 + pick(60) as u32;
    // Whole seconds make many events fall together.
    let seconds_per_sample = match pick(3) {
        0 => Distribution::Values { values: vec![1.0, 2.0, 3.0], in_order: false },
        1 => Distribution::Lognormal { median: 2.0, sigma: 1.0 },
        _ => Distribution::Constant { value: pick(2) as f64 },
    };
    let availability = match pick(4) {
        0 => Availability::Periodic { period_s: 50.0, available_s: 20.0, spread: pick(2) as f64 },
        1 => Availability::Trace {
            rows: vec![vec![[0.0, 9.0], [12.0, 30.0]], vec![[3.0, 40.0]]].into(),
            period_s: 40.0,
            deal: Deal::Shuffled,
            with_devices: false,
        },
        _ => Availability::Always,
    };
    let mode = pick(5);
    let bound = |pick: &mut dyn FnMut(u64) -> u64| (pick(3) == 0).then(|| 3 + pick(5));
    let (max_staleness, force_after) = (bound(&mut pick), (pick(3) == 0).then(|| 1 + pick(3)));
    let staleness = (mode == 1 && pick(2) == 0).then(|| pick(12));
    let slow = (pick(2) == 0 || staleness.is_some()).then(|| Slow {
        classes: if pick(2) == 0 { vec![0] } else { vec![] },
        count: 1 + pick(u64::from(clients) / 2) as u32,
        staleness,
        factor: staleness.is_none().then_some(5.0),
        overlap: pick(2) == 0,
    });
    let some = 1 + pick(u64::from(clients)) as u32;
    let mode = match mode {
        0 => Mode::Synchronous {
            per_round: some,
            over_selection: pick(3) as f64 * 0.3,
            deadline_s: (pick(2) == 0).then(|| 3.0 + pick(9) as f64),
        },
        1 => Mode::SemiAsynchronous {
            per_round: some,
            period_s: (staleness.is_none() || pick(2) == 0).then(|| 1.0 + pick(6) as f64),
            max_staleness,
            force_after,
        },
        2 => Mode::Asynchronous { concurrency: some, max_staleness, force_after },
        3 => Mode::Buffered { concurrency: some, buffer: 1 + pick(6) as u32, max_staleness, force_after },
        _ => {
            let tiers = 1 + pick(4) as u32;
            Mode::Tiered { tiers, per_tier: 1 + pick(u64::from(clients / tiers)) as u32 }
        }
    };
    let spec = Spec {
        clients,
        devices: Devices { seconds_per_sample, variation: pick(2) as f64 * 0.3, ..Devices::default() },
        network: Network { latency_s: Distribution::Constant { value: 0.25 * pick(2) as f64 }, ..Network::default() },
        availability,
        leaving: if pick(2) == 0 { Leaving::Lost } else { Leaving::Resumed },
        dropout: pick(3) as f64 * 0.2,
        slow,
        recorded: None,
    };
    let population = Arc::new(Population::new(&spec, &Holdings::even(clients, 1), seed).unwrap());
    (population, mode, if pick(2) == 0 { Selection::Uniform } else { Selection::RoundRobin })
}

const TIMELINES: u64 = 300;
const ROUNDS: u64 = 60;

/// Runs `seed`'s timeline and checks each round; all rounds.
fn checked(seed: u64) -> Vec<Round> {
    let (population, mode, selection) = drawn(seed);
    let mut timeline = Timeline::new(population.clone(), &mode, selection, &WORK, ROUNDS, seed).unwrap();
    let context = format!("seed {seed}: {mode:?} {selection:?} {population:?}");
    let mut tasks = BTreeSet::new();
    let mut starts: Vec<(u32, u64)> = Vec::new();
    let mut flown: BTreeMap<u32, f64> = BTreeMap::new();
    let (mut version, mut seconds, mut oldest) = (0, 0.0, 0);
    let (mut begun, mut ended, mut uploaded, mut received) = (0, 0, 0, 0);
    let mut rounds = Vec::new();
    while let Some(round) = timeline.advance().unwrap_or_else(|error| panic!("{error}: {context}")) {
        assert_eq!(round.version, version, "{context}");
        assert!(round.seconds >= seconds, "{context}");
        for begun in &round.begun {
            assert_eq!(begun.task, starts.len() as u64, "{context}");
            starts.push((begun.client, version));
        }
        assert_eq!(round.begun.len() as u64, round.bytes_down / DOWN, "{context}");
        for arrival in &round.arrivals {
            assert!(tasks.insert(arrival.task), "task {} arrives twice: {context}", arrival.task);
            assert!(arrival.base <= version && arrival.base >= oldest, "{arrival:?} {oldest} {context}");
            assert_eq!(starts.get(arrival.task as usize), Some(&(arrival.client, arrival.base)), "{context}");
            assert!(arrival.started_s <= arrival.arrived_s && arrival.arrived_s <= round.seconds, "{context}");
            assert!(arrival.share > 0.0 && arrival.share <= 1.0, "{context}");
            if !(population.overlap() && population.is_slow(arrival.client)) {
                let last = flown.insert(arrival.client, arrival.arrived_s).unwrap_or(0.0);
                assert!(arrival.started_s >= last, "client {} works twice at a time: {context}", arrival.client);
            }
        }
        match &mode {
            Mode::Synchronous { per_round, .. } => {
                assert!(round.arrivals.len() <= *per_round as usize, "{context}");
                assert!(round.arrivals.iter().all(|arrival| arrival.base == version), "{context}");
            }
            Mode::SemiAsynchronous { max_staleness, .. }
            | Mode::Asynchronous { max_staleness, .. }
            | Mode::Buffered { max_staleness, .. } => {
                let most = max_staleness.unwrap_or(u64::MAX);
                assert!(round.arrivals.iter().all(|arrival| version - arrival.base <= most), "{context}");
            }
            Mode::Tiered { per_tier, .. } => {
                assert!((1..=*per_tier as usize).contains(&round.arrivals.len()), "{context}");
                let first = round.arrivals[0];
                assert!(round.arrivals.iter().all(|a| (a.tier, a.base) == (first.tier, first.base)), "{context}");
            }
        }
        if let Mode::Buffered { buffer, .. } = mode {
            assert!(round.arrivals.len() >= buffer as usize, "{context}");
        }
        // Every task that begins is used, dropped or late, or goes on.
        begun += round.bytes_down / DOWN;
        ended += round.arrivals.len() as u64 + u64::from(round.dropped) + u64::from(round.late);
        uploaded += round.bytes_up / UP;
        received += round.arrivals.len() as u64;
        if !matches!(mode, Mode::Tiered { .. }) {
            assert_eq!(begun, ended + timeline.in_flight() as u64, "{context}");
        }
        assert!(uploaded >= received && uploaded <= ended + 64, "{context}");
        (version, seconds, oldest) = (version + 1, round.seconds, timeline.oldest());
        assert!(oldest <= version, "{context}");
        rounds.push(round);
    }
    assert_eq!(rounds.len() as u64, ROUNDS, "{context}");
    rounds
}

#[test]
fn hold_for_every_timeline() {
    let mut kinds = BTreeSet::new();
    let (mut stale, mut forced, mut dropped, mut late) = (0, 0, 0, 0);
    for seed in 0..TIMELINES {
        let mode = format!("{:?}", drawn(seed).1);
        kinds.insert(mode.split(' ').next().unwrap_or_default().to_owned());
        for round in checked(seed) {
            stale += round.arrivals.iter().filter(|arrival| arrival.base < round.version).count();
            forced += round.arrivals.iter().filter(|arrival| arrival.share < 1.0).count();
            dropped += round.dropped;
            late += round.late;
        }
    }
    // The draws reach what they shall.
    assert_eq!(kinds.len(), 5);
    assert!(stale > 1_000 && forced > 100 && dropped > 1_000 && late > 1_000, "{stale} {forced} {dropped} {late}");
}

#[test]
fn a_seed_gives_one_timeline_however_it_is_read() {
    let mut unlike = 0;
    for seed in 0..40 {
        let (population, mode, selection) = drawn(seed);
        let made = |seed| Timeline::new(population.clone(), &mode, selection, &WORK, 30, seed).unwrap();
        let all: Vec<Round> = made(seed).collect();
        assert_eq!(all, made(seed).collect::<Vec<_>>());
        // A run that goes on where another ended.
        let mut skipped = made(seed);
        assert_eq!(skipped.nth(9).as_ref(), all.get(9));
        assert_eq!(skipped.clone().collect::<Vec<_>>(), all[10..]);
        assert_eq!(skipped.collect::<Vec<_>>(), all[10..]);
        unlike += u32::from(all != made(seed + 1).collect::<Vec<_>>());
    }
    assert!(unlike > 20, "{unlike}");
}

#[test]
fn an_asynchronous_servers_mean_staleness_is_its_concurrency_less_one() {
    // While one of m works, the others make as many versions as begin: over a long run m - 1 for each (Little's law),
    // and as many tasks end in a second as m clients do.
    let text = "clients = 200\n[devices]\nseconds_per_sample = { kind = 'exponential', mean = 1 }";
    let spec: Spec = toml::from_str(text).unwrap();
    let population = Arc::new(Population::new(&spec, &Holdings::even(200, 1), 3).unwrap());
    let run = |mode: &Mode, rounds| -> (f64, f64) {
        let rounds: Vec<Round> =
            Timeline::new(population.clone(), mode, Selection::Uniform, &WORK, rounds, 5).unwrap().collect();
        let stale = |round: &Round| round.arrivals.iter().map(|arrival| round.version - arrival.base).sum::<u64>();
        let arrivals = rounds.iter().map(|round| round.arrivals.len()).sum::<usize>() as f64;
        let work: f64 = rounds.iter().flat_map(|round| &round.arrivals).map(|a| a.arrived_s - a.started_s).sum();
        let at_work = work / rounds.last().unwrap().seconds;
        (rounds.iter().map(stale).sum::<u64>() as f64 / arrivals, at_work)
    };
    let (stale, at_work) = run(&Mode::Asynchronous { concurrency: 20, max_staleness: None, force_after: None }, 20_000);
    assert!((stale - 19.0).abs() < 0.1, "{stale}");
    assert!((at_work - 20.0).abs() < 0.1, "{at_work}");
    // With a buffer of k those that work when a version is made are m - k + k: m / k versions, less what begins and
    // ends between two of them.
    let buffered = Mode::Buffered { concurrency: 20, buffer: 10, max_staleness: None, force_after: None };
    let (stale, at_work) = run(&buffered, 2_000);
    assert!((stale - 1.9).abs() < 0.6 && (at_work - 20.0).abs() < 0.2, "{stale} {at_work}");
}

#[test]
fn a_hundred_thousand_clients_take_little_memory() {
    use crate::partition::{Over, Partition, partition};
    let clients = 100_000;
    let labels: Vec<u8> = (0..60_000u32).map(|i| (i % 10) as u8).collect();
    let spec = Partition::Dirichlet { alpha: 0.5, over: Over::Classes, least: 1 };
    let parts = partition(&spec, &labels, None, clients, Some(5), 1).unwrap();
    let holdings = Holdings::new(&parts, &labels).unwrap();
    assert!(holdings.bytes() < 10_000_000, "{}", holdings.bytes());
    let slow = Slow { classes: vec![5], count: 10_000, staleness: None, factor: Some(20.0), overlap: true };
    let spec = Spec {
        clients,
        availability: Availability::Periodic { period_s: 86_400.0, available_s: 28_800.0, spread: 1.0 },
        dropout: 0.1,
        slow: Some(slow),
        ..Spec::default()
    };
    let population = Arc::new(Population::new(&spec, &holdings, 1).unwrap());
    drop(holdings);
    for text in [
        "kind = 'synchronous'\nper_round = 100\nover_selection = 0.3\ndeadline_s = 30",
        "kind = 'semi_asynchronous'\nper_round = 100\nperiod_s = 2",
        "kind = 'asynchronous'\nconcurrency = 1000",
        "kind = 'buffered'\nconcurrency = 1000\nbuffer = 100",
        "kind = 'tiered'\ntiers = 5\nper_tier = 20",
    ] {
        let mut timeline = Timeline::new(population.clone(), &mode(text), Selection::Uniform, &WORK, 20, 1).unwrap();
        let mut arrivals = 0;
        while let Some(round) = timeline.advance().unwrap() {
            arrivals += round.arrivals.len();
            // All that is kept belongs to these.
            assert!(timeline.in_flight() <= 2_000, "{text}");
        }
        assert!(arrivals >= 20, "{text}: {arrivals}");
    }
}
