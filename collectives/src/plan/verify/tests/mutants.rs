//! Valid plans, broken in every way: what the verifier accepts must compute the right thing in every order.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::interpreter;
use crate::plan::build::tests::{REACHES, random_tuning};
use crate::plan::build::{Tuning, build};
use crate::plan::verify::{Refusal, verify};
use crate::plan::{Algorithm, Buffer, Collective, Layout, Place, Plan, Rank, Slice, Step};

/// Every slice of a step.
fn slices(step: &mut Step) -> Vec<&mut Slice> {
    match step {
        Step::Put { from, to, .. } => vec![from, &mut to.slice],
        Step::Packet { from, .. } => vec![from],
        Step::Copy { from, to } => vec![&mut from.slice, to],
        Step::Reduce { from, to } => from.iter_mut().chain(to).map(|place| &mut place.slice).collect(),
        _ => Vec::new(),
    }
}

/// Every rank that a step names.
fn named(step: &mut Step) -> Vec<&mut Rank> {
    match step {
        Step::Put { to: Place { rank, .. }, .. } | Step::Copy { from: Place { rank, .. }, .. } => vec![rank],
        Step::Signal { to: rank }
        | Step::Packet { to: rank, .. }
        | Step::Expose { to: rank }
        | Step::Wait { from: rank }
        | Step::WaitPacket { from: rank }
        | Step::Meet { from: rank } => vec![rank],
        Step::Reduce { from, to } => from.iter_mut().chain(to).map(|place| &mut place.rank).collect(),
    }
}

/// Where the steps of a pair are that signal, or that wait.
fn channel(plan: &Plan, from: Rank, to: Rank) -> (Vec<usize>, Vec<usize>) {
    let signals = |step: &Step| match step {
        Step::Put { to: place, signal: true, .. } => place.rank == to,
        Step::Signal { to: peer } => *peer == to,
        _ => false,
    };
    let at = |rank: Rank, wanted: &dyn Fn(&Step) -> bool| {
        let program = plan.programs[rank].iter().enumerate();
        program.filter(|(_, step)| wanted(step)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    (at(from, &signals), at(to, &|step| *step == Step::Wait { from }))
}

/// Breaks `plan` in one way; none where that way does not apply to what was drawn.
fn mutant(valid: &Plan, rng: &mut ChaCha8Rng) -> Option<(&'static str, Plan)> {
    let mut plan = valid.clone();
    let ranks = plan.ranks();
    let rank = rng.random_range(0..ranks);
    let len = plan.programs[rank].len();
    if len == 0 {
        return None;
    }
    let at = rng.random_range(0..len);
    let program = &mut plan.programs[rank];
    let way = match rng.random_range(0..20) {
        0 => {
            program.remove(at);
            "a step is dropped"
        }
        1 => {
            let step = program[at].clone();
            program.insert(rng.random_range(at..=len), step);
            "a step is doubled"
        }
        2 if at + 1 < len => {
            program.swap(at, at + 1);
            "neighbours change places"
        }
        3 => {
            let step = program.remove(at);
            program.insert(rng.random_range(0..len), step);
            "a step moves"
        }
        4 => {
            let step = &mut program[at];
            let mut all = slices(step);
            let count = all.len();
            let slice = all.get_mut(rng.random_range(0..count.max(1)))?;
            slice.start = slice.start.checked_add_signed(rng.random_range(-8i32..=8) as isize)?;
            "a slice moves"
        }
        5 => {
            let by = rng.random_range(-8i32..=8) as isize;
            for slice in slices(&mut program[at]) {
                slice.start = slice.start.checked_add_signed(by)?;
            }
            "all slices of a step move"
        }
        6 => {
            let by = rng.random_range(-3i32..=3) as isize;
            for slice in slices(&mut program[at]) {
                slice.len = slice.len.checked_add_signed(by)?;
            }
            "a step does more or less"
        }
        7 => {
            let mut all = slices(&mut program[at]);
            let count = all.len();
            let slice = all.get_mut(rng.random_range(0..count.max(1)))?;
            slice.buffer = *[Buffer::Input, Buffer::Output, Buffer::Scratch, Buffer::Packet(0)].choose(rng)?;
            "a slice of another buffer"
        }
        8 => {
            let mut all = named(&mut program[at]);
            let count = all.len();
            **all.get_mut(rng.random_range(0..count.max(1)))? = rng.random_range(0..=ranks);
            "another rank"
        }
        9 => match &mut program[at] {
            Step::Reduce { from, .. } if from.len() > 1 => {
                from.remove(rng.random_range(0..from.len()));
                "a source is dropped"
            }
            _ => return None,
        },
        10 => match &mut program[at] {
            Step::Reduce { from, .. } if from.len() > 1 => {
                let one = rng.random_range(1..from.len());
                from.swap(one - 1, one);
                "sources change places"
            }
            _ => return None,
        },
        11 => match &mut program[at] {
            Step::Put { signal, .. } => {
                *signal = !*signal;
                "a put without its signal"
            }
            _ => return None,
        },
        12 => {
            let other = rng.random_range(0..ranks);
            let step = program.remove(at);
            let program = &mut plan.programs[other];
            program.insert(rng.random_range(0..=program.len()), step);
            "a step of another rank"
        }
        13 => {
            let (other, there) = (rng.random_range(0..ranks), rng.random_range(0..len));
            let step = plan.programs[other].get(there)?.clone();
            plan.programs[rank][at] = step;
            "a step instead of another"
        }
        // The next ones leave the books of signals balanced: what they break is the order alone.
        14 | 15 => {
            let other = rng.random_range(0..ranks);
            let (signals, waits) = channel(&plan, rank, other);
            let (signal, wait) = (*signals.choose(rng)?, *waits.choose(rng)?);
            match &mut plan.programs[rank][signal] {
                Step::Put { signal, .. } => *signal = false,
                _ => drop(plan.programs[rank].remove(signal)),
            }
            plan.programs[other].remove(wait);
            "a signal and a wait are dropped"
        }
        16 => {
            let other = rng.random_range(0..ranks);
            let (signals, _) = channel(&plan, rank, other);
            let from = *signals.choose(rng)?;
            match &mut plan.programs[rank][from] {
                Step::Put { signal, .. } => *signal = false,
                _ => drop(plan.programs[rank].remove(from)),
            }
            let program = &mut plan.programs[rank];
            let to = rng.random_range(0..=program.len());
            program.insert(to, Step::Signal { to: other });
            "a signal moves"
        }
        17 => {
            let waits: Vec<usize> = (0..len).filter(|&at| matches!(program[at], Step::Wait { .. })).collect();
            let step = program.remove(*waits.choose(rng)?);
            program.insert(rng.random_range(0..len), step);
            "a wait moves"
        }
        18 => {
            // Two cells become one, on every rank.
            let starts: Vec<usize> = plan
                .programs
                .iter_mut()
                .flatten()
                .flat_map(|step| slices(step).into_iter().filter(|it| it.buffer == Buffer::Scratch).map(|it| it.start))
                .collect();
            let (from, to) = (*starts.choose(rng)?, *starts.choose(rng)?);
            for slice in plan.programs.iter_mut().flatten().flat_map(slices) {
                if slice.buffer == Buffer::Scratch && slice.start == from {
                    slice.start = to;
                }
            }
            "two cells become one"
        }
        19 => {
            let other = (rank + 1) % ranks;
            let step = program[at].clone();
            program.insert(at, step);
            program.insert(at, Step::Signal { to: other });
            plan.programs[other].push(Step::Wait { from: rank });
            "a step is doubled, with a signal"
        }
        _ => return None,
    };
    (plan != *valid).then_some((way, plan))
}

/// Small plans of every algorithm, so cut that cells are used again.
fn plans(rng: &mut ChaCha8Rng, collective: impl Fn(&mut ChaCha8Rng, usize) -> Collective) -> Vec<(Plan, Layout)> {
    let mut plans = Vec::new();
    for algorithm in Algorithm::ALL {
        for (_, near) in REACHES {
            let ranks = rng.random_range(2..=4);
            let far = REACHES.choose(rng).unwrap().1;
            let hosts = (0..ranks).map(|_| usize::from(rng.random_range(0..3) == 0)).collect();
            let layout = Layout { hosts, near, far, scratch_bytes: *[512, 1024, 4096].choose(rng).unwrap() };
            let tuning = Tuning { chunk_bytes: 64, ..random_tuning(rng) };
            if let Ok(plan) = build(&collective(rng, ranks), algorithm, &layout, 8, &tuning) {
                plans.push((plan, layout));
            }
        }
    }
    plans
}

#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    refused: usize,
    /// Refused, run, and never seen to go wrong.
    unseen: usize,
    run: usize,
}

/// Breaks plans. What is accepted must run well in every order that is tried; and of what is refused, a sample must be
/// seen to go wrong, or the verifier would be refusing too much.
fn hunt(seed: u64, mutants: usize, collective: impl Fn(&mut ChaCha8Rng, usize) -> Collective) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ways: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut kinds: BTreeMap<String, Tally> = BTreeMap::new();
    for (plan, layout) in plans(&mut rng, collective) {
        let guarantee = verify(&plan, &layout).unwrap().guarantee;
        for _ in 0..50 {
            interpreter::run(&plan, guarantee, &mut rng).unwrap_or_else(|why| panic!("{why}: {plan:?}"));
        }
        for _ in 0..mutants {
            let Some((way, mutant)) = mutant(&plan, &mut rng) else { continue };
            let tally = ways.entry(way).or_default();
            match verify(&mutant, &layout) {
                Ok(proof) => {
                    tally.accepted += 1;
                    for _ in 0..200 {
                        interpreter::run(&mutant, proof.guarantee, &mut rng)
                            .unwrap_or_else(|why| panic!("{way}, and accepted, but {why}: {mutant:#?}\n{layout:?}"));
                    }
                }
                Err(why) => {
                    tally.refused += 1;
                    if runs(&why) && rng.random_range(0..4) == 0 {
                        let kind = format!("{why:?}").split(' ').next().unwrap_or_default().to_owned();
                        let kind = kinds.entry(kind).or_default();
                        kind.run += 1;
                        kind.unseen +=
                            usize::from((0..300).all(|_| interpreter::run(&mutant, guarantee, &mut rng).is_ok()));
                    }
                }
            }
        }
    }
    println!("{ways:#?}\n{kinds:#?}");
    let all = |count: fn(&Tally) -> usize| ways.values().map(count).sum::<usize>();
    assert!(all(|tally| tally.refused) > 500 && all(|tally| tally.accepted) > 50, "too few mutants: {ways:?}");
    for (kind, Tally { run, unseen, .. }) in &kinds {
        // Two orders may give the same values by chance, and what is read in vain does no harm.
        let harmless = if matches!(kind.as_str(), "Race" | "Open" | "Undefined") { run.div_ceil(5) } else { 0 };
        assert!(*unseen <= harmless, "{kind}: {unseen} of {run} were never seen to go wrong");
    }
}

/// Whether a plan that was refused so can run at all.
fn runs(why: &Refusal) -> bool {
    matches!(
        why,
        Refusal::Blocked { .. }
            | Refusal::LeftOver { .. }
            | Refusal::Undefined { .. }
            | Refusal::Race { .. }
            | Refusal::Open { .. }
            | Refusal::Unwritten { .. }
            | Refusal::Value { .. }
            | Refusal::Differs { .. }
            | Refusal::Barrier { .. }
    )
}

/// Seeds of a hunt: one, or as many as `SWARMLOOM_MUTANTS` says.
fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("SWARMLOOM_MUTANTS").ok().and_then(|seeds| seeds.parse().ok());
    0..wanted.unwrap_or(1)
}

#[test]
fn broken_reductions_are_refused() {
    for seed in seeds() {
        hunt(2 * seed, 150, |rng, ranks| {
            let count = rng.random_range(1..80);
            match rng.random_range(0..4) {
                0 => Collective::Reduce { root: rng.random_range(0..ranks), count },
                1 => Collective::ReduceScatter { parts: (0..ranks).map(|_| rng.random_range(0..40)).collect() },
                _ => Collective::AllReduce { count },
            }
        });
    }
}

#[test]
fn broken_copies_are_refused() {
    for seed in seeds() {
        hunt(2 * seed + 1, 150, |rng, ranks| {
            let count = rng.random_range(1..80);
            let parts = |rng: &mut ChaCha8Rng| (0..ranks).map(|_| rng.random_range(0..30)).collect::<Vec<usize>>();
            match rng.random_range(0..5) {
                0 => Collective::AllGather { parts: parts(rng) },
                1 => Collective::Broadcast { root: rng.random_range(0..ranks), count },
                2 => Collective::AllToAll { counts: (0..ranks).map(|_| parts(rng)).collect() },
                3 => Collective::Barrier,
                _ => Collective::Send { from: rng.random_range(0..ranks), to: rng.random_range(0..ranks), count },
            }
        });
    }
}
