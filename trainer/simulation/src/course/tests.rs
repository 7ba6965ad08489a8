//! Whole runs on the digits, by real threads.

use swarmloom_classifiers::{Model, Network};
use swarmloom_federated::attack::Pretence;
use swarmloom_federated::{By, Faulty};
use swarmloom_population::Slow;

use super::*;
use crate::executor::Threads;

pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) data: Data,
}

impl World {
    pub(crate) fn new() -> Self {
        let split = swarmloom_datasets::digits();
        let data = Data {
            features: split.train.features.into(),
            labels: split.train.labels.into(),
            shape: split.train.shape,
            classes: split.train.classes,
            test_features: split.test.features.into(),
            test_labels: split.test.labels.into(),
        };
        Self { network: Network::mlp(64, &[16], 10), data }
    }

    pub(crate) fn setup(&self, rounds: u64, partition: Partition, slow: Option<Slow>) -> Setup<'_> {
        Setup {
            model: &self.network,
            data: &self.data,
            groups: None,
            drift: None,
            partition,
            samples_per_client: Some(20),
            population: Spec { clients: 20, slow, ..Spec::default() },
            local: LocalSpec { epochs: 2, batch_size: 8, learning_rate: 0.2, ..LocalSpec::default() },
            rounds,
            every: 3,
        }
    }

    /// Runs to the end on so many threads; goes on from a state where there is one, and stops after a round where it is said.
    pub(crate) fn run(
        &self,
        setup: &Setup<'_>,
        entry: &Entry,
        threads: usize,
        from: Option<&[u8]>,
        stop: u64,
    ) -> (Record, Vec<u8>) {
        std::thread::scope(|scope| {
            let executor = Threads::start(scope, threads, &self.network, &self.data, setup.drift);
            let mut course = Course::new(setup, entry.clone(), 3).expect("a course");
            if let Some(from) = from {
                course.restore(from).expect("restored");
            }
            while course.version() < stop && course.step(&executor).expect("a round") {}
            let mut record = course.record().clone();
            // The one thing that is measured.
            record.inversion_seconds = 0.0;
            course.state.record.inversion_seconds = 0.0;
            (record, course.save().expect("saved"))
        })
    }
}

pub(crate) fn entry(rule: Rule) -> Entry {
    Entry {
        name: rule.name().into(),
        rule,
        combine: Combine::default(),
        mode: Mode::SemiAsynchronous { per_round: 4, period_s: None, max_staleness: None, force_after: None },
        selection: Selection::RoundRobin,
        inversion: Inversion { samples: 8, iterations: 5, ..Inversion::default() },
        fresh: false,
        attackers: None,
        protection: None,
        compression: None,
        secure: None,
    }
}

pub(crate) fn slow() -> Option<Slow> {
    Some(Slow { classes: vec![5], count: 3, staleness: Some(4), factor: None, overlap: true })
}

pub(crate) const SORTED: Partition = Partition::Sorted { shards: 1, shuffle: true };

/// Every rule, in a world where updates are late: the same bits on one thread and on three, and the same whether the run
/// was interrupted or not.
#[test]
fn threads_and_interruptions_change_nothing() {
    let world = World::new();
    let setup = world.setup(12, SORTED, slow());
    for rule in Rule::all() {
        let entry = entry(rule);
        let (record, state) = world.run(&setup, &entry, 1, None, 99);
        assert_eq!(record.evaluations.len(), 5, "{}", entry.name);
        assert!(record.tally.updates > 40, "{}", entry.name);
        assert_eq!(record.tally.inverted > 0, entry.name == "inversion", "{}", entry.name);
        assert_eq!(world.run(&setup, &entry, 3, None, 99), (record.clone(), state.clone()), "{}", entry.name);
        let (_, half) = world.run(&setup, &entry, 2, None, 7);
        assert_eq!(world.run(&setup, &entry, 2, Some(&half), 99), (record, state), "{}", entry.name);
    }
}

/// A learning rate at which nothing holds: what was not reached counts as wrong, and a state of it is one that has ended.
#[test]
fn a_run_that_diverges_is_a_result_and_no_error() {
    let world = World::new();
    let mut setup = world.setup(12, SORTED, slow());
    setup.local.learning_rate = 1e30;
    let entry = entry(Rule::FedAvg(Default::default()));
    let (record, state) = world.run(&setup, &entry, 2, None, 99);
    let at = record.diverged.expect("it diverges");
    let versions: Vec<u64> = record.evaluations.iter().map(|evaluation| evaluation.version).collect();
    assert_eq!((versions, at < 12), (vec![0, 3, 6, 9, 12], true));
    let (first, last) = (&record.evaluations[0], &record.evaluations[4]);
    assert!(first.accuracy(&[]) > 0.0 && last.accuracy(&[]) == 0.0);
    assert_eq!(last.classes.iter().map(|[_, all]| all).sum::<u32>(), world.data.test_labels.len() as u32);
    assert_eq!(world.run(&setup, &entry, 1, Some(&state), 99), (record, state));
}

/// A free rider who sends the server's last step finds the version before it, though nobody works from that any more.
#[test]
fn free_riders_know_the_servers_last_step() {
    let world = World::new();
    let setup = world.setup(4, Partition::Iid {}, None);
    let mut entry = entry(Rule::FedAvg(Default::default()));
    entry.mode = Mode::Synchronous { per_round: 20, over_selection: 0.0, deadline_s: None };
    let what = Attack::FreeRider { send: Pretence::LastStep };
    entry.attackers = Some(Attackers { part: 0.5, what });
    let versions = |entry: &Entry| -> Vec<Arc<[f32]>> {
        std::thread::scope(|scope| {
            let executor = Threads::start(scope, 2, &world.network, &world.data, None);
            let mut course = Course::new(&setup, entry.clone(), 3).expect("a course");
            let mut versions = vec![course.state.parameters.clone()];
            while course.step(&executor).expect("a round") {
                versions.push(course.state.parameters.clone());
            }
            versions
        })
    };
    let ridden = versions(&entry);
    entry.attackers = Some(Attackers { part: 0.5, what: Attack::FreeRider { send: Pretence::Nothing } });
    let idle = versions(&entry);
    // Nobody has a last step to send in the first round. In the second, half of all send it and the others are the same.
    assert_eq!(ridden[1], idle[1]);
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let step: Vec<f32> = idle[1].iter().zip(idle[0].iter()).map(|(now, before)| now - before).collect();
    let more: Vec<f32> = ridden[2].iter().zip(idle[2].iter()).map(|(ridden, idle)| ridden - idle).collect();
    let wrong: Vec<f32> = more.iter().zip(&step).map(|(more, step)| more - 0.5 * step).collect();
    assert!(largest(&step) > 1e-3 && largest(&wrong) < 1e-5, "{} {}", largest(&step), largest(&wrong));
}

/// Updates that each make a version: few for a round, so that later rounds' are trained ahead.
#[test]
fn asynchronous_runs_do_not_depend_on_threads_either() {
    let world = World::new();
    let mut setup = world.setup(60, Partition::Iid {}, None);
    setup.population.dropout = 0.2;
    for mode in [
        Mode::Asynchronous { concurrency: 7, max_staleness: Some(12), force_after: None },
        Mode::Buffered { concurrency: 9, buffer: 3, max_staleness: None, force_after: Some(4) },
        Mode::Tiered { tiers: 3, per_tier: 2 },
    ] {
        for rule in
            Rule::all().into_iter().filter(|rule| matches!(rule, Rule::FedAsync(_) | Rule::FedBuff(_) | Rule::FedAt(_)))
        {
            let entry = Entry { mode: mode.clone(), ..entry(rule) };
            let one = world.run(&setup, &entry, 1, None, 99);
            assert_eq!(one, world.run(&setup, &entry, 3, None, 99), "{mode:?}");
            let (_, half) = world.run(&setup, &entry, 1, None, 31);
            assert_eq!(one, world.run(&setup, &entry, 3, Some(&half), 99), "{mode:?}");
        }
    }
}

/// One round of FedAvg is the mean of what its clients have learned, by hand.
#[test]
fn a_round_is_the_mean_of_its_updates() {
    let world = World::new();
    let setup = world.setup(1, Partition::Iid {}, None);
    let entry = Entry {
        mode: Mode::Synchronous { per_round: 3, over_selection: 0.0, deadline_s: None },
        ..entry(Rule::FedAvg(Default::default()))
    };
    std::thread::scope(|scope| {
        let executor = Threads::start(scope, 2, &world.network, &world.data, None);
        let mut course = Course::new(&setup, entry, 3).expect("a course");
        let before = course.parameters().to_vec();
        let round = course.timeline.clone().next().expect("a round");
        let mut mean = vec![0.0_f64; before.len()];
        for arrival in &round.arrivals {
            let (features, labels) = world.data.gather(&course.indices[arrival.client as usize], None, 0);
            let samples = swarmloom_classifiers::Samples { features: &features, labels: &labels };
            let seed = derived(3, Purpose::Training, arrival.task);
            let mut worker = world.network.worker().expect("a worker");
            let trained = worker.train(&before, samples, &setup.local, None, seed).expect("trained");
            mean.iter_mut().zip(&trained.delta).for_each(|(mean, delta)| *mean += f64::from(*delta) / 3.0);
        }
        assert!(course.step(&executor).expect("a round"));
        for ((after, before), mean) in course.parameters().iter().zip(&before).zip(&mean) {
            assert!((f64::from(*after) - f64::from(*before) - mean).abs() < 1e-6);
        }
        assert!(!course.step(&executor).expect("the end"));
        let tally = &course.record().tally;
        assert_eq!((tally.updates, tally.staleness.clone()), (3, vec![3]));
        let down = 4 * before.len() as u64 * 3;
        let last = course.record().evaluations.last().expect("evaluated");
        assert_eq!((last.bytes_down, last.bytes_up), (down, down));
    });
}

/// Who flips signs ruins a mean and does little to a median.
#[test]
fn lies_are_carried_out_and_withstood() {
    let world = World::new();
    let mut setup = world.setup(30, Partition::Iid {}, None);
    setup.samples_per_client = Some(70);
    let run = |by: By, part: f64| {
        let what = Attack::SignFlip { scale: 3.0 };
        let mut entry = Entry {
            mode: Mode::Synchronous { per_round: 20, over_selection: 0.0, deadline_s: None },
            attackers: (part > 0.0).then_some(Attackers { part, what }),
            ..entry(Rule::FedAvg(Default::default()))
        };
        entry.combine.by = by;
        world.run(&setup, &entry, 2, None, 99).0.last(&[])
    };
    let honest = run(By::Mean, 0.0);
    let (mean, median) = (run(By::Mean, 0.3), run(By::Median, 0.3));
    let krum = run(By::MultiKrum { f: Faulty::Count(6), keep: None }, 0.3);
    assert!(honest > 0.85 && mean < 0.5 && median > 0.75 && krum > 0.8, "{honest} {mean} {median} {krum}");
}

/// Compression takes the bytes that it says and still learns; privacy says what it has told; sums that nobody can look into
/// are the sums.
#[test]
fn what_travels_and_what_is_told() {
    let world = World::new();
    let mut setup = world.setup(20, Partition::Iid {}, None);
    setup.samples_per_client = Some(70);
    let base = Entry {
        mode: Mode::Synchronous { per_round: 10, over_selection: 0.0, deadline_s: None },
        ..entry(Rule::FedAvg(Default::default()))
    };
    let (plain, _) = world.run(&setup, &base, 2, None, 99);
    let compressed = Entry { compression: Some(Compression::TopK { part: 0.1 }), ..base.clone() };
    let (record, state) = world.run(&setup, &compressed, 2, None, 99);
    let bytes = |record: &Record| record.evaluations.last().map_or(0, |at| at.bytes_up);
    // Of a tenth of the values, index and value.
    assert_eq!(bytes(&record), 20 * 10 * 8 * world.network.parameters().div_ceil(10) as u64);
    assert!(record.last(&[]) > plain.last(&[]) - 0.1, "{} {}", record.last(&[]), plain.last(&[]));
    // What was left out so far is a part of the state.
    let (_, half) = world.run(&setup, &compressed, 2, None, 9);
    assert_eq!(world.run(&setup, &compressed, 2, Some(&half), 99), (record, state));

    let central = Protection::Central { clip: 1.0, noise: 1.0, delta: 1e-5, adaptive: None };
    let mut private = Entry { protection: Some(central), ..base.clone() };
    private.combine.weights = Some(swarmloom_federated::Weights::Uniform);
    let (record, _) = world.run(&setup, &private, 2, None, 99);
    // In turn, every client has sent ten of the two hundred updates, and nobody may hope not to be asked.
    let exposure = Exposure { aggregations: 20, drawn: None, most: 10 };
    assert_eq!(record.epsilon, Some(central.spent(&exposure)));
    let (drawn, _) = world.run(&setup, &Entry { selection: Selection::Uniform, ..private.clone() }, 2, None, 99);
    assert_eq!(drawn.epsilon, Some(central.spent(&Exposure { drawn: Some(0.5), ..exposure })));
    assert!(drawn.epsilon < record.epsilon);

    let secure = Entry { secure: Some(secagg::Settings::default()), ..base };
    let (summed, _) = world.run(&setup, &secure, 2, None, 99);
    assert!((summed.last(&[]) - plain.last(&[])).abs() < 0.03, "{} {}", summed.last(&[]), plain.last(&[]));
}

/// Clients that are lost may leave too few for a robust rule or a secure sum: those versions are as the ones before, and the run
/// goes on, with the same bits on one thread and on three.
#[test]
fn a_round_with_too_few_updates_changes_nothing() {
    let world = World::new();
    let mut setup = world.setup(20, Partition::Iid {}, None);
    setup.population.dropout = 0.4;
    let krum = Combine::by(By::Krum { f: Faulty::Count(2) });
    let base = Entry {
        mode: Mode::Synchronous { per_round: 8, over_selection: 0.0, deadline_s: Some(1e6) },
        ..entry(Rule::FedAvg(Default::default()))
    };
    for entry in [
        Entry { combine: krum, ..base.clone() },
        Entry { secure: Some(secagg::Settings { least: 5, ..Default::default() }), ..base },
    ] {
        let (record, state) = world.run(&setup, &entry, 1, None, 99);
        let skipped = record.tally.skipped;
        assert!(record.evaluations.len() == 8 && skipped > 0 && skipped < 20, "{skipped}");
        if entry.secure.is_none() {
            assert_eq!(world.run(&setup, &entry, 3, None, 99), (record, state));
        }
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let world = World::new();
    let mut setup = world.setup(20, Partition::Iid {}, None);
    let synchronous = Mode::Synchronous { per_round: 10, over_selection: 0.0, deadline_s: None };
    let base = Entry { mode: synchronous, ..entry(Rule::FedAvg(Default::default())) };
    let buffered = Mode::Buffered { concurrency: 5, buffer: 2, max_staleness: None, force_after: None };
    let rule = |text: &str| -> Rule { Rule::all().into_iter().find(|rule| rule.name() == text).expect("a rule") };
    let mut tiers = rule("fedat");
    if let Rule::FedAt(rule) = &mut tiers {
        rule.tiers = Some(3);
    }
    let central = Protection::Central { clip: 1.0, noise: 1.0, delta: 1e-5, adaptive: None };
    let flip = Attackers { part: 0.2, what: Attack::LabelFlip { from: Some(3), to: Some(10) } };
    let krum = Combine::by(By::Krum { f: Faulty::Part(0.4) });
    let says = |setup: &Setup<'_>, entry: Entry| Course::new(setup, entry, 1).expect_err("refused").to_string();
    let cases = [
        (Entry { rule: tiers, mode: Mode::Tiered { tiers: 5, per_tier: 2 }, ..base.clone() }, "the server has 5"),
        (Entry { combine: krum, ..base.clone() }, "needs at least 11, and 10 arrived"),
        (
            Entry { secure: Some(Default::default()), mode: buffered.clone(), ..base.clone() },
            "2 clients finished, and 3",
        ),
        (Entry { protection: Some(central), mode: buffered, ..base.clone() }, "quick ones may have several"),
        (Entry { attackers: Some(flip), ..base.clone() }, "none is 10"),
    ];
    for (entry, wanted) in cases {
        let found = says(&setup, entry);
        assert!(found.contains(wanted), "{found}");
    }
    assert!(Course::new(&setup, Entry { rule: rule("fednova"), ..base.clone() }, 1).is_ok());
    (setup.local.momentum, setup.local.proximal) = (0.5, 0.1);
    assert!(says(&setup, Entry { rule: rule("scaffold"), ..base.clone() }).contains("without momentum"));
    assert!(says(&setup, Entry { rule: rule("inversion"), ..base.clone() }).contains("proximal"));
    // FedNova learns of it.
    assert!(Course::new(&setup, Entry { rule: rule("fednova"), ..base }, 1).is_ok());
}

#[test]
fn a_state_that_is_none_is_refused() {
    let world = World::new();
    let setup = world.setup(12, SORTED, slow());
    let entry = entry(Rule::FedAvg(Default::default()));
    let (_, state) = world.run(&setup, &entry, 1, None, 5);
    let restore = |bytes: &[u8], seed| Course::new(&setup, entry.clone(), seed).expect("a course").restore(bytes);
    assert!(restore(&state, 3).is_ok());
    assert!(restore(&state, 4).expect_err("another seed").to_string().contains("another run"));
    for cut in (0..state.len()).step_by(997) {
        restore(&state[..cut], 3).expect_err("cut");
    }
    assert!(restore(&[&state[..], &[0]].concat(), 3).is_err());
}
