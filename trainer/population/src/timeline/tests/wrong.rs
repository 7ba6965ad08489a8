//! What is refused, and how a timeline ends early.

use super::*;

#[test]
fn every_wrong_field_is_named_with_what_it_may_be() {
    let cases = [
        ("kind = 'synchronous'\nper_round = 0", "`mode.per_round`: 0 is not a number from 1 to 4"),
        ("kind = 'synchronous'\nper_round = 5", "`mode.per_round`: 5 is not a number from 1 to 4"),
        (
            "kind = 'synchronous'\nper_round = 1\nover_selection = -1",
            "`mode.over_selection`: -1 is not a number from 0 to 100",
        ),
        (
            "kind = 'synchronous'\nper_round = 1\ndeadline_s = 0",
            "`mode.deadline_s`: 0 is not a number from 0.000001 to 1000000000",
        ),
        ("kind = 'semi_asynchronous'\nper_round = 0", "`mode.per_round`: 0 is not a number from 1 to 4"),
        ("kind = 'semi_asynchronous'\nper_round = 1\nperiod_s = nan", "`mode.period_s`: NaN is not a number"),
        ("kind = 'semi_asynchronous'\nper_round = 1", "`mode.period_s`: the time between aggregations, in seconds, is"),
        (
            "kind = 'semi_asynchronous'\nper_round = 1\nperiod_s = 1\nmax_staleness = 3\nforce_after = 4",
            "`mode.force_after`: 4 is not a number from 1 to 3",
        ),
        ("kind = 'asynchronous'\nconcurrency = 5", "`mode.concurrency`: 5 is not a number from 1 to 4"),
        ("kind = 'asynchronous'\nconcurrency = 1\nforce_after = 0", "`mode.force_after`: 0 is not a number from 1 to"),
        ("kind = 'buffered'\nconcurrency = 0\nbuffer = 1", "`mode.concurrency`: 0 is not a number from 1 to 4"),
        ("kind = 'buffered'\nconcurrency = 1\nbuffer = 0", "`mode.buffer`: 0 is not a number from 1 to 1000000"),
        ("kind = 'tiered'\ntiers = 0\nper_tier = 1", "`mode.tiers`: 0 is not a number from 1 to 4"),
        ("kind = 'tiered'\ntiers = 3\nper_tier = 2", "`mode.per_tier`: 2 is not a number from 1 to 1"),
    ];
    let population = population(&[1.0; 4], "");
    let made = |text: &str, work: &Work, rounds| {
        Timeline::new(population.clone(), &mode(text), Selection::Uniform, work, rounds, 1).map(drop)
    };
    for (text, expected) in cases {
        let error = made(text, &WORK, 1).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let right = "kind = 'asynchronous'\nconcurrency = 4";
    let error = made(right, &WORK, 0).unwrap_err().to_string();
    assert!(error.starts_with("`rounds`: 0 is not a number from 1 to"), "{error}");
    let error = made(right, &Work { epochs: 0, ..WORK }, 1).unwrap_err().to_string();
    assert_eq!(error, "`work.epochs`: 0 is not a number from 1 to 1000000");
    for bytes in [Work { bytes_up: u64::MAX, ..WORK }, Work { bytes_down: u64::MAX, ..WORK }] {
        assert!(made(right, &bytes, 1).unwrap_err().to_string().starts_with("`work.bytes_"));
    }
    assert_eq!(made(right, &WORK, 1), Ok(()));
    for text in ["kind = 'synchronous'", "kind = 'asynchronous'\nconcurrency = 1\nbuffer = 3", "kind = 'swift'"] {
        assert!(toml::from_str::<Mode>(text).is_err(), "{text}");
    }
}

#[test]
fn a_staleness_in_rounds_needs_rounds() {
    let population = population(&[1.0; 4], "slow = { count = 1, staleness = 3 }");
    for text in [
        "kind = 'synchronous'\nper_round = 1",
        "kind = 'asynchronous'\nconcurrency = 1",
        "kind = 'buffered'\nconcurrency = 1\nbuffer = 1",
        "kind = 'tiered'\ntiers = 1\nper_tier = 1",
    ] {
        let error = Timeline::new(population.clone(), &mode(text), Selection::Uniform, &WORK, 1, 1).unwrap_err();
        assert!(
            error.to_string().starts_with("`slow.staleness`: a staleness fixed in rounds needs the mode"),
            "{error}"
        );
    }
}

/// The rounds that there are before the timeline ends with an error, and the error.
fn end(population: &Arc<Population>, text: &str) -> (usize, String) {
    let mut timeline = timeline(population, text, 100_000);
    let rounds = timeline.by_ref().count();
    let error = timeline.error().unwrap().clone();
    assert_eq!(timeline.advance(), Err(error.clone()));
    (rounds, error.to_string())
}

#[test]
fn rounds_without_an_update_are_not_without_end() {
    let slow = population(&[10.0; 4], "");
    let (rounds, error) = end(&slow, "kind = 'synchronous'\nper_round = 4\ndeadline_s = 1");
    assert_eq!(rounds, 1_000);
    assert!(
        error.starts_with("version 1000, second 1001: 1001 rounds in a row without an update that could"),
        "{error}"
    );
    // Work takes ten seconds, and nobody can be reached for more than one.
    let away = population(&[10.0; 4], "availability = { kind = 'periodic', period_s = 5, available_s = 1 }");
    for text in [
        "kind = 'synchronous'\nper_round = 4",
        "kind = 'semi_asynchronous'\nper_round = 4\nperiod_s = 2.5",
        "kind = 'asynchronous'\nconcurrency = 2",
        "kind = 'buffered'\nconcurrency = 2\nbuffer = 2",
        "kind = 'tiered'\ntiers = 2\nper_tier = 1",
    ] {
        let (rounds, error) = end(&away, text);
        assert!(rounds <= 1_000 && error.contains("in a row without an update that could be used"), "{text}: {error}");
    }
}

#[test]
fn a_client_that_never_ends_is_named() {
    let more = "availability = { kind = 'trace', rows = [[[0, 0.001]]], period_s = 1e9 }\nleaving = 'resumed'";
    let forever = population(&[1e9; 2], more);
    for text in ["kind = 'synchronous'\nper_round = 2", "kind = 'asynchronous'\nconcurrency = 1"] {
        let (rounds, error) = end(&forever, text);
        assert!(rounds == 0 && error.contains("waits for client 0"), "{error}");
    }
}

#[test]
fn nobody_to_reach_is_an_error() {
    // One row for one of two clients; the other's is empty. The first takes part once: it never ends.
    let more = "availability = { kind = 'trace', rows = [[], [[0, 1]]], period_s = 2 }";
    let population = population(&[0.25, 0.25], more);
    let one = (0..2).find(|&client| population.reachable(client, 0.0)).unwrap();
    let mut timeline = timeline(&population, "kind = 'synchronous'\nper_round = 2", 9);
    assert!(timeline.all(|round| round.arrivals.iter().all(|arrival| arrival.client == one)));
    assert_eq!(timeline.error(), None);
}
