//! Who is slow, how slow, and what is wrong with a specification.

use super::*;
use crate::distribution::Distribution;

/// Client `c` holds `counts[c]` samples of class 5 and ten of class 0.
fn holdings(counts: &[u32]) -> Holdings {
    let mut labels = Vec::new();
    let parts: Vec<Vec<u32>> = counts
        .iter()
        .map(|&count| {
            let start = labels.len() as u32;
            labels.extend(vec![5; count as usize]);
            labels.extend([0; 10]);
            (start..labels.len() as u32).collect()
        })
        .collect();
    Holdings::new(&parts, &labels).unwrap()
}

fn spec(text: &str) -> Spec {
    toml::from_str(text).unwrap()
}

#[test]
fn those_that_hold_most_of_a_class_are_slow() {
    let holdings = holdings(&[3, 0, 9, 3, 1, 3]);
    let slow = |count| {
        let spec = spec(&format!("clients = 6\n[slow]\nclasses = [5]\ncount = {count}\nfactor = 4"));
        Population::new(&spec, &holdings, 1).map(|population| population.slow().to_vec())
    };
    assert_eq!(slow(1).unwrap(), [2]);
    assert_eq!(slow(3).unwrap(), [0, 2, 3]);
    assert_eq!(slow(5).unwrap(), [0, 2, 3, 4, 5]);
    let error = slow(6).unwrap_err().to_string();
    assert_eq!(error, "`slow.count`: 6, but 5 clients hold samples of classes [5]");
}

#[test]
fn without_classes_the_slow_are_drawn() {
    let holdings = Holdings::even(1_000, 5);
    let spec = spec("clients = 1000\n[slow]\ncount = 10\nstaleness = 4");
    let slow = |seed| Population::new(&spec, &holdings, seed).unwrap().slow().to_vec();
    assert!(slow(1).len() == 10 && slow(1).is_sorted() && slow(1) == slow(1) && slow(1) != slow(2));
    let population = Population::new(&spec, &holdings, 1).unwrap();
    assert_eq!((0..1_000).filter(|&client| population.is_slow(client)).collect::<Vec<_>>(), slow(1));
    assert_eq!(population.staleness(), Some(4));
}

#[test]
fn a_factor_makes_all_of_a_task_slower_but_latency() {
    let text = "clients = 2
        devices = { seconds_per_sample = { kind = 'constant', value = 0.1 }, overhead_s = { kind = 'constant', value = 2 } }
        slow = { classes = [5], count = 1, factor = 10 }
        [network]
        down_bytes_per_s = { kind = 'constant', value = 100 }
        up_bytes_per_s = { kind = 'constant', value = 50 }
        latency_s = { kind = 'constant', value = 0.5 }";
    let population = Population::new(&spec(text), &holdings(&[0, 0]), 1);
    assert!(population.is_err());
    let population = Population::new(&spec(text), &holdings(&[0, 10]), 1).unwrap();
    let work = Work { epochs: 3, bytes_down: 100, bytes_up: 200 };
    // 0.5 + 1, 2 + 0.1 * 10 * 3, 0.5 + 4; and 0.5 + 10, 10 * (2 + 0.1 * 20 * 3), 0.5 + 40.
    assert_eq!(population.task_seconds(0, &work), 11.0);
    assert_eq!(population.task_seconds(1, &work), 131.0);
}

#[test]
fn a_specification_is_read_with_its_defaults() {
    assert_eq!(spec(""), Spec::default());
    assert!(Population::new(&Spec::default(), &Holdings::even(100, 5), 1).unwrap().slow().is_empty());
    let read = spec(
        "clients = 7
        dropout = 0.1
        leaving = 'resumed'
        [devices]
        seconds_per_sample = { kind = 'values', values = [0.1, 1] }
        [availability]
        kind = 'periodic'
        available_s = 28800",
    );
    assert_eq!(read.devices.seconds_per_sample, Distribution::Values { values: vec![0.1, 1.0], in_order: false });
    assert_eq!(read.devices.overhead_s, Distribution::Constant { value: 0.0 });
    assert_eq!(read.availability, Availability::Periodic { period_s: 86_400.0, available_s: 28_800.0, spread: 1.0 });
    assert_eq!(toml::from_str::<Spec>(&toml::to_string(&read).unwrap()).unwrap(), read);
    for unknown in ["client = 7", "[slow]\ncount = 1\ntau = 3", "[devices]\nspeed = 1", "[network]\nup = 3"] {
        let error = toml::from_str::<Spec>(unknown).unwrap_err();
        assert!(error.message().contains("unknown field"), "{error}");
    }
}

#[test]
fn clients_can_be_reached_when_their_trace_says() {
    let spec = spec("clients = 3\n[availability]\nkind = 'trace'\nrows = [[[1, 2]]]\nperiod_s = 3");
    let population = Population::new(&spec, &Holdings::even(3, 1), 1).unwrap();
    assert_eq!([0.5, 1.0, 2.0, 4.5].map(|at| population.reachable(1, at)), [false, true, false, true]);
}

#[test]
fn a_task_is_lost_as_often_as_said_and_at_any_moment() {
    let spec = spec("clients = 1\ndropout = 0.3");
    let population = Population::new(&spec, &Holdings::even(1, 1), 1).unwrap();
    let parts = Parts { down: 100, compute: 800, up: 100 };
    let ends: Vec<(Time, bool)> = (0..10_000).map(|task| population.end(0, task, Time(50), parts, 9)).collect();
    let lost: Vec<u64> = ends.iter().filter(|(_, arrives)| !arrives).map(|(end, _)| end.0).collect();
    // Five deviations of the binomial, 46.
    assert!(lost.len().abs_diff(3_000) < 230, "{}", lost.len());
    assert!(lost.iter().all(|end| (50..1_050).contains(end)));
    let mean = lost.iter().sum::<u64>() as f64 / lost.len() as f64;
    assert!((mean - 550.0).abs() < 5.0 * 289.0 / 54.0, "{mean}");
    assert!(ends.iter().all(|&(end, arrives)| !arrives || end == Time(1_050)));
}

#[test]
fn the_share_that_is_done_is_of_the_computing() {
    let more = "clients = 1\navailability = { kind = 'trace', rows = [[[0, 5], [10, 20]]], period_s = 20 }";
    let population = Population::new(&spec(more), &Holdings::even(1, 1), 1).unwrap();
    let second = 1_000_000_000;
    let parts = Parts { down: second, compute: 8 * second, up: 2 * second };
    let share = |now: u64| population.share(0, Time::START, Time(now * second), parts);
    // One second is for the transfer, and from 5 to 10 nothing is done.
    assert_eq!([0, 1, 3, 5, 10, 12, 14, 15].map(share), [0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 1.0, 1.0]);
    assert_eq!(population.share(0, Time::START, Time::START, Parts { compute: 0, ..parts }), 1.0);
}

#[test]
fn every_wrong_field_is_named_with_what_it_may_be() {
    let cases = [
        ("clients = 0", "`clients`: 0 is not a number from 1 to 10000000"),
        ("clients = 4", "`clients`: 4, but the data are shared out among 3"),
        ("dropout = 1", "`dropout`: 1 is not a number from 0 to 0.999"),
        ("dropout = -0.1", "`dropout`: -0.1 is not a number from 0 to 0.999"),
        ("devices.variation = 11", "`devices.variation`: 11 is not a number from 0 to 10"),
        (
            "devices.seconds_per_sample = { kind = 'constant', value = -1 }",
            "`devices.seconds_per_sample.value`: -1 is not a number from 0 to 1000000000",
        ),
        ("devices.overhead_s = { kind = 'exponential', mean = nan }", "`devices.overhead_s.mean`: NaN is not a number"),
        (
            "network.down_bytes_per_s = { kind = 'constant', value = 0 }",
            "`network.down_bytes_per_s.value`: 0 is not a number from 0.001 to 1000000000000000",
        ),
        (
            "network.up_bytes_per_s = { kind = 'values', values = [0] }",
            "`network.up_bytes_per_s.values[0]`: 0 is not a number from 0.001",
        ),
        ("network.latency_s = { kind = 'constant', value = inf }", "`network.latency_s.value`: inf is not a number"),
        ("availability = { kind = 'periodic', available_s = 0 }", "`availability.available_s`: 0 is not a number"),
        ("slow = { count = 0, factor = 2 }", "`slow.count`: 0 is not a number from 1 to 3"),
        ("slow = { count = 1 }", "`slow`: it takes `staleness` (in rounds) or `factor`"),
        ("slow = { count = 1, factor = 2, staleness = 1 }", "`slow`: it has `staleness` and `factor`"),
        ("slow = { count = 1, factor = 0.5 }", "`slow.factor`: 0.5 is not a number from 1 to 1000000"),
        ("slow = { count = 1, staleness = 1000001 }", "`slow.staleness`: 1000001 is not a number from 0 to 1000000"),
        (
            "slow = { count = 1, factor = 2, classes = [6] }",
            "`slow.count`: 1, but 0 clients hold samples of classes [6]",
        ),
    ];
    let holdings = holdings(&[0, 1, 2]);
    for (text, expected) in cases {
        let text = if text.starts_with("clients") { text.to_owned() } else { format!("clients = 3\n{text}") };
        let error = Population::new(&spec(&text), &holdings, 1).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let error = Population::new(&spec("clients = 2"), &Holdings::even(2, 0), 1).unwrap_err().to_string();
    assert_eq!(error, "`clients`: client 0 holds no sample and cannot train");
}
