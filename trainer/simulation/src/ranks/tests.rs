//! Whole runs by ranks that are threads of this process, over real groups.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use swarmloom_classifiers::{
    ClassifierError, Inversion, Inverted, LocalSpec, Recovered, Repeated, Samples, Trained, Worker,
};
use swarmloom_collectives::bootstrap::Rendezvous;
use swarmloom_collectives::{GroupConfig, Transport};
use swarmloom_federated::Rule;
use swarmloom_population::{Mode, Partition};

use super::*;
use crate::course::tests::{SORTED, World, entry, slow};
use crate::{Course, Entry, Record, Setup};

/// Runs `body` on every rank of a group over the loopback; what each returned.
fn on_ranks<R: Send>(
    ranks: usize,
    transport: Transport,
    timeout: Duration,
    body: impl Fn(usize, &Mutex<Group>) -> R + Sync,
) -> Vec<R> {
    let address =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port");
    std::thread::scope(|scope| {
        let body = &body;
        let begin = |rank| {
            scope.spawn(move || {
                let at =
                    Rendezvous { address, token: b"token".to_vec(), rank, ranks, timeout: Duration::from_secs(20) };
                let config = GroupConfig { transport, timeout, cores: 1, ..GroupConfig::default() };
                body(rank, &Mutex::new(Group::join(at, config).expect("a group")))
            })
        };
        let threads: Vec<_> = (0..ranks).map(begin).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

const LONG: Duration = Duration::from_secs(60);

/// What a run ends with: its record without what is measured, and its parameters bit by bit.
type End = (Record, Vec<u32>);

fn finish(mut course: Course<'_>, executor: &dyn Executor) -> Result<End, SimulationError> {
    while course.step(executor)? {}
    let mut record = course.record().clone();
    record.inversion_seconds = 0.0;
    Ok((record, course.parameters().iter().map(|value| value.to_bits()).collect()))
}

/// Runs entry after entry in so many lanes on every rank; by rank and entry.
fn by_ranks(
    (ranks, transport, lanes): (usize, Transport, usize),
    setup: &Setup<'_>,
    entries: &[Entry],
) -> Vec<Vec<Result<End, String>>> {
    on_ranks(ranks, transport, LONG, |rank, group| {
        std::thread::scope(|scope| {
            // Ranks need not have as many threads.
            let all = Ranks::start(scope, 1 + rank % 2, setup.model, setup.data, setup.drift, group, &[7; 32]);
            let all = all.expect("ranks");
            assert_eq!(all.width(), ranks + ranks / 2);
            let mut ends: Vec<(usize, Result<End, String>)> = std::thread::scope(|scope| {
                let run = |(number, lane): (usize, Lane<'_>)| {
                    let mut ends = Vec::new();
                    for (at, entry) in entries.iter().enumerate().skip(number).step_by(lanes) {
                        let course = Course::new(setup, entry.clone(), 3).expect("a course");
                        let end = finish(course, &lane).map_err(|error| error.to_string());
                        end.as_ref().err().inspect(|why| lane.fail(why));
                        ends.push((at, end));
                    }
                    ends
                };
                let lanes: Vec<_> =
                    all.lanes(lanes).into_iter().enumerate().map(|lane| scope.spawn(move || run(lane))).collect();
                lanes.into_iter().flat_map(|lane| lane.join().expect("no panic")).collect()
            });
            ends.sort_by_key(|(at, _)| *at);
            ends.into_iter().map(|(_, end)| end).collect()
        })
    })
}

fn by_threads(setup: &Setup<'_>, entry: &Entry) -> Result<End, SimulationError> {
    std::thread::scope(|scope| {
        let executor = Threads::start(scope, 2, setup.model, setup.data, setup.drift);
        finish(Course::new(setup, entry.clone(), 3).expect("a course"), &executor)
    })
}

#[test]
fn any_number_of_ranks_gives_the_bits_that_threads_give() {
    let world = World::new();
    let late = world.setup(12, SORTED, slow());
    let prompt = world.setup(30, Partition::Iid {}, None);
    let mode = Mode::Asynchronous { concurrency: 7, max_staleness: Some(12), force_after: None };
    let each = Entry { mode, ..entry(Rule::FedAsync(Default::default())) };
    let all: Vec<Entry> = Rule::all().into_iter().map(entry).collect();
    let shapes = [
        (1, Transport::Shm, 1),
        (2, Transport::Shm, 3),
        (2, Transport::Tcp, 1),
        (3, Transport::Tcp, 2),
        (3, Transport::Shm, 4),
    ];
    for (setup, entries) in [(&late, all.as_slice()), (&prompt, &[each])] {
        let expected: Vec<Result<End, String>> =
            entries.iter().map(|entry| Ok(by_threads(setup, entry).expect("a run"))).collect();
        let inverted = expected.iter().flatten().any(|(record, _)| record.tally.inverted > 0);
        assert_eq!(inverted, entries.len() > 1);
        for (ranks, transport, lanes) in shapes {
            let found = by_ranks((ranks, transport, lanes), setup, entries);
            assert_eq!(found.len(), ranks);
            for (rank, ends) in found.iter().enumerate() {
                assert!(*ends == expected, "rank {rank} of {ranks}, {lanes} lanes");
            }
        }
    }
}

/// A model that fails in some trainings, or panics in them.
#[derive(Debug)]
struct Faulty<'a>(&'a dyn Model, bool);

struct FaultyWorker<'a>(Box<dyn Worker + 'a>, bool);

impl Model for Faulty<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn parameters(&self) -> usize {
        self.0.parameters()
    }

    fn features(&self) -> usize {
        self.0.features()
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn init(&self, seed: u64) -> Result<Vec<f32>, ClassifierError> {
        self.0.init(seed)
    }

    fn worker(&self) -> Result<Box<dyn Worker + '_>, ClassifierError> {
        Ok(Box::new(FaultyWorker(self.0.worker()?, self.1)))
    }
}

impl Worker for FaultyWorker<'_> {
    fn train(
        &mut self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError> {
        if seed.is_multiple_of(5) {
            assert!(!self.1, "a fault of this test");
            return Err(ClassifierError::Library { library: "the model", why: format!("not with seed {seed}") });
        }
        self.0.train(from, samples, spec, correction, seed)
    }

    fn score(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        self.0.score(parameters, samples)
    }

    fn invert(
        &mut self,
        from: &[f32],
        delta: &[f32],
        training: Repeated,
        spec: &Inversion,
        before: Option<&Recovered>,
        seed: u64,
    ) -> Result<Inverted, ClassifierError> {
        self.0.invert(from, delta, training, spec, before, seed)
    }

    fn retrain(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        steps: u32,
    ) -> Result<Vec<f32>, ClassifierError> {
        self.0.retrain(from, data, training, steps)
    }
}

#[test]
fn an_error_of_one_rank_is_the_error_of_all() {
    let world = World::new();
    for panics in [false, true] {
        let faulty = Faulty(&world.network, panics);
        let setup = Setup { model: &faulty, ..world.setup(30, SORTED, slow()) };
        let entries = [entry(Rule::FedAvg(Default::default())), entry(Rule::FedAdam(Default::default()))];
        let alone = by_threads(&setup, &entries[0]).expect_err("faulty").to_string();
        assert!(
            alone.starts_with(if panics { "the model: it panicked" } else { "the model: not with seed" }),
            "{alone}"
        );
        let found = by_ranks((3, Transport::Shm, 1), &setup, &entries[..1]);
        let first = found[0][0].clone().expect_err("faulty");
        assert!(first.starts_with("rank ") && first.ends_with(&alone), "{first}");
        assert!(found.iter().all(|ends| ends[0].as_ref() == Err(&first)), "{found:?}");
        // Of several lanes one says it, and all end.
        for ends in by_ranks((2, Transport::Tcp, 2), &setup, &entries) {
            let texts: Vec<String> = ends.into_iter().map(|end| end.expect_err("faulty")).collect();
            assert!(texts.iter().any(|text| text.starts_with("rank ")), "{texts:?}");
        }
    }
}

/// What `body` does with a lane of rank 1 or more, what rank 0 is told of it in a run, and how long that takes.
fn told(ranks: usize, timeout: Duration, body: impl Fn(Lane<'_>, &Mutex<Group>) + Sync) -> (String, Duration) {
    let world = World::new();
    let setup = world.setup(200, SORTED, slow());
    let told = on_ranks(ranks, Transport::Auto, timeout, |rank, group| {
        std::thread::scope(|scope| {
            let all = Ranks::start(scope, 1, setup.model, setup.data, None, group, &[7; 32]).expect("ranks");
            let lane = all.lanes(1).remove(0);
            if rank > 0 {
                body(lane, group);
                return None;
            }
            let began = Instant::now();
            let course = Course::new(&setup, entry(Rule::FedAvg(Default::default())), 3).expect("a course");
            Some((finish(course, &lane).expect_err("it cannot go on").to_string(), began.elapsed()))
        })
    });
    told.into_iter().flatten().next().expect("rank 0's error")
}

#[test]
fn whoever_is_silent_or_leaves_or_gives_up_ends_the_others() {
    let (error, after) = told(3, Duration::from_millis(400), |_lane, group| {
        let aborted = lock(group).aborter();
        let began = Instant::now();
        while aborted.reason().is_none() && began.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
    });
    assert!(error.contains("ranks cannot go on") && error.contains("not within 0.4 s"), "{error}");
    assert!(after < Duration::from_secs(5), "{after:?}");
    let (error, after) = told(2, LONG, |lane, _| drop(lane));
    assert!(error.contains("ranks cannot go on") && error.contains("rank 1"), "{error}");
    assert!(after < Duration::from_secs(10), "{after:?}");
    let (error, after) = told(2, LONG, |lane, _| lane.abort("its disk is full"));
    assert!(error.contains("aborted by rank 1: its disk is full"), "{error}");
    assert!(after < Duration::from_secs(10), "{after:?}");
    let (error, after) = told(2, LONG, |lane, _| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _lane = lane;
            panic!("a fault of this test");
        }));
        assert!(panic.is_err());
    });
    assert!(error.contains("aborted by rank 1: a run panicked"), "{error}");
    assert!(after < Duration::from_secs(10), "{after:?}");
}

#[test]
fn ranks_that_differ_are_told() {
    let world = World::new();
    let setup = world.setup(3, SORTED, slow());
    let start = |same: bool| {
        on_ranks(3, Transport::Shm, LONG, |rank, group| {
            std::thread::scope(|scope| {
                let what = [if rank == 2 && !same { 8 } else { 7 }; 32];
                let all =
                    Ranks::start(scope, 1, setup.model, setup.data, None, group, &what).map_err(|e| e.to_string())?;
                let lane = all.lanes(1).remove(0);
                // Another seed of the run, as a stand-in for another bit anywhere.
                let course = Course::new(&setup, entry(Rule::FedAvg(Default::default())), 3 + (rank == 1) as u64);
                finish(course.expect("a course"), &lane).map_err(|error| error.to_string())
            })
        })
    };
    for (same, says) in
        [(false, "rank 2 and rank 0 differ in what is simulated"), (true, "rank 1 and rank 0 differ in what is to")]
    {
        let found = start(same);
        assert!(found.iter().all(|end| end.as_ref().is_err_and(|error| error.starts_with(says))), "{found:?}");
    }
}

#[test]
fn what_rank_0_shares_is_what_all_get() {
    let world = World::new();
    let big: Vec<u8> = (0..PIECE * 2 + 99).map(|i| (i % 251) as u8).collect();
    for transport in [Transport::Shm, Transport::Tcp] {
        let found = on_ranks(3, transport, LONG, |rank, group| {
            std::thread::scope(|scope| {
                let all = Ranks::start(scope, 1, &world.network, &world.data, None, group, &[7; 32]).expect("ranks");
                let lane = all.lanes(1).remove(0);
                let own = |bytes: &[u8]| if rank == 0 { bytes.to_vec() } else { vec![9; rank] };
                [own(&[]), own(&[1, 2, 3]), own(&big)].map(|bytes| lane.share(bytes).expect("shared"))
            })
        });
        assert!(found.iter().all(|got| *got == [vec![], vec![1, 2, 3], big.clone()]));
    }
}
