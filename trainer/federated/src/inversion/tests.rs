//! Decisions on updates of two values, where everything can be computed by hand.

use super::*;

fn update(client: u32, base: u64, delta: [f32; 2]) -> Update {
    Update { client, base, tier: 0, samples: 10, steps: 1, delta: delta.to_vec(), control: None }
}

fn at(version: u64, check: impl FnOnce(&Server<'_>)) {
    let history = |_: u64| Some(&[0.0_f32, 0.0][..]);
    check(&Server { version, parameters: &[0.0, 0.0], history: &history, clients: 10, seed: 1 });
}

#[test]
fn only_unique_stale_updates_are_inverted() {
    let spec = Decisions { threshold: 0.3, ..Decisions::default() };
    let updates = [
        update(0, 9, [1.0, 0.0]),
        // cos 0.6: distance 0.4.
        update(1, 2, [3.0, 4.0]),
        // cos 0.8: distance 0.2.
        update(2, 2, [4.0, 3.0]),
        update(3, 2, [0.0, 0.0]),
        update(4, 2, [f32::NAN, 1.0]),
    ];
    at(9, |server| {
        use Treatment::{Drop, Invert, Keep};
        let mut memory = Memory::default();
        assert_eq!(spec.plan(&memory, server, &updates), [Keep, Invert, Keep, Keep, Keep]);
        let dropping = Decisions { common: Common::Drop, ..spec };
        assert_eq!(dropping.plan(&memory, server, &updates), [Keep, Invert, Drop, Keep, Keep]);
        let counting = dropping.settle(&mut memory, server, &updates, &[const { None }; 5]);
        assert_eq!(counting.iter().map(|update| update.client).collect::<Vec<_>>(), [0, 1, 3, 4]);
        // Without fresh updates, all that is stale is unique.
        assert_eq!(spec.plan(&Memory::default(), server, &updates[1..3]), [Invert, Invert]);
        // What was fresh within the window is remembered.
        assert_eq!(spec.plan(&memory, server, &updates[1..3]), [Invert, Keep]);
    });
    at(30, |server| {
        let mut memory = Memory::default();
        at(9, |server| drop(spec.settle(&mut memory, server, &updates[..1], &[None])));
        assert_eq!(spec.plan(&memory, server, &updates[1..3]), [Treatment::Invert, Treatment::Invert]);
    });
}

#[test]
fn versions_that_are_gone_cannot_be_inverted() {
    let gone = |_: u64| None;
    let server = Server { version: 9, parameters: &[0.0, 0.0], history: &gone, clients: 10, seed: 1 };
    let plan = Decisions::default().plan(&Memory::default(), &server, &[update(1, 2, [3.0, 4.0])]);
    assert_eq!(plan, [Treatment::Keep]);
}

#[test]
fn inverted_updates_count_and_are_not_too_long() {
    let spec = Decisions { longest: 2.0, ..Decisions::default() };
    at(9, |server| {
        let updates = [update(1, 2, [3.0, 4.0]), update(2, 2, [0.0, 1.0]), update(3, 2, [1.0, 0.0])];
        let inverted = [Some(vec![6.0, 0.0]), Some(vec![30.0, 40.0]), Some(vec![f32::INFINITY, 0.0])];
        let counting = spec.settle(&mut Memory::default(), server, &updates, &inverted);
        let deltas: Vec<&[f32]> = counting.iter().map(|update| update.delta.as_slice()).collect();
        // The second one has a length of 50 where 2 are allowed; the third is no number.
        for (found, wanted) in deltas.concat().iter().zip([6.0, 0.0, 1.2, 1.6, 1.0, 0.0]) {
            assert!((found - wanted).abs() < 1e-6, "{deltas:?}");
        }
    });
}

/// A client that is estimated at version 10 and whose truth of that version arrives at 20.
fn truth(memory: &mut Memory, spec: &Decisions, version: u64, [stale, inverted, truth]: [[f32; 2]; 3]) {
    at(version, |server| {
        spec.settle(memory, server, &[update(1, version - 1, stale)], &[Some(inverted.to_vec())]);
    });
    at(version + 1, |server| {
        spec.settle(memory, server, &[update(1, version, truth)], &[None]);
    });
}

#[test]
fn a_truth_shows_how_wrong_the_estimate_was() {
    let spec = Decisions { smoothing: 0.5, longest: 10.0, ..Decisions::default() };
    let mut memory = Memory::default();
    truth(&mut memory, &spec, 10, [[2.0, 0.0], [1.0, 2.0], [1.0, 3.0]]);
    // |1 - 1| + |2 - 3| over 4, and |2 - 1| + |0 - 3| over 4.
    assert_eq!((memory.inversion.inverted, memory.inversion.stale), (Some(0.25), Some(1.0)));
    assert_eq!(memory.inversion.truths, 1);
    // The best part: (-1, 2) (-1, 3) over (-1, 2)^2 = 7 / 5, and so all of it.
    at(12, |server| {
        let measured = Decisions { blend: Blend::Measured, ..spec };
        assert_eq!(measured.gamma(&memory, server), 1.0);
        assert_eq!(spec.gamma(&memory, server), 1.0);
    });
    // Now it is (2, 0) (1, 1) and (2, 0)^2, over 5: 0.4 and 0.8; before, 0.7 and 0.5.
    truth(&mut memory, &spec, 20, [[1.0, 0.0], [3.0, 0.0], [2.0, 1.0]]);
    at(22, |server| {
        let measured = Decisions { blend: Blend::Measured, ..spec };
        let gamma = measured.gamma(&memory, server);
        assert!((gamma - (0.7 + 0.4) / (0.5 + 0.8)).abs() < 1e-6, "{gamma}");
    });
    // Errors are smoothed: of both, 2 / 3 is new.
    let found = [memory.inversion.inverted, memory.inversion.stale].map(|error| error.expect("measured"));
    assert!((found[0] - (0.25 + 2.0 / 3.0) / 2.0).abs() < 1e-12 && (found[1] - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
}

#[test]
fn the_switch_back_is_smooth_and_can_be_undone() {
    let spec = Decisions { smoothing: 0.0, patience: 2, decay: 4, gate: 0.0, ..Decisions::default() };
    let mut memory = Memory::default();
    // Stale updates are wrong by 0.25, inverted ones by 0.5.
    let late = [[0.0, 3.0], [0.0, 2.0], [0.0, 4.0]];
    truth(&mut memory, &spec, 10, late);
    at(11, |server| assert_eq!(spec.gamma(&memory, server), 1.0));
    truth(&mut memory, &spec, 20, late);
    assert_eq!(memory.inversion.phase, Phase::Decaying { since: 21 });
    for (version, gamma) in [(21, 1.0), (22, 0.5 + 0.125_f64.sqrt()), (23, 0.5), (25, 0.0), (99, 0.0)] {
        at(version, |server| assert!((spec.gamma(&memory, server) - gamma).abs() < 1e-12, "{version}"));
    }
    let stale = [update(1, 19, [3.0, 4.0])];
    at(23, |server| {
        assert_eq!(spec.plan(&memory, server, &stale), [Treatment::Invert]);
        let mut copy = memory.clone();
        let counting = spec.settle(&mut copy, server, &stale, &[Some(vec![1.0, 2.0])]);
        assert_eq!(counting[0].delta, [2.0, 3.0]);
    });
    at(25, |server| assert_eq!(spec.plan(&memory, server, &stale), [Treatment::Keep]));
    // What staleness does is still measured: wrong by 0.5 is within a quarter of the inversion's 0.5, 0.75 is not.
    truth(&mut memory, &spec, 40, [[0.0, 2.0], [0.0, 0.0], [0.0, 4.0]]);
    assert_eq!(memory.inversion.phase, Phase::Off { inverted: 0.5 });
    truth(&mut memory, &spec, 50, [[0.0, 1.0], [0.0, 0.0], [0.0, 4.0]]);
    assert_eq!(memory.inversion.phase, Phase::Inverting);
    at(52, |server| assert_eq!(spec.plan(&memory, server, &[update(1, 19, [3.0, 4.0])]), [Treatment::Invert]));
}

#[test]
fn little_drift_is_not_inverted() {
    let spec = Decisions { gate: 0.2, window: 0, ..Decisions::default() };
    let mut memory = Memory::default();
    let stale = [update(7, 0, [3.0, 4.0])];
    at(10, |server| drop(spec.settle(&mut memory, server, &[update(1, 10, [2.0, 2.0])], &[None])));
    at(10, |server| assert_eq!(spec.plan(&memory, server, &stale), [Treatment::Invert]));
    // A fresh client's update changed by 0.4 of 4 in 10 versions: 0.01 a version.
    at(20, |server| drop(spec.settle(&mut memory, server, &[update(1, 20, [1.8, 2.2])], &[None])));
    assert!((memory.inversion.drift.expect("measured") - 0.01).abs() < 1e-6);
    for (base, treatment) in [(1, Treatment::Keep), (0, Treatment::Invert)] {
        at(20, |server| assert_eq!(spec.plan(&memory, server, &[update(7, base, [3.0, 4.0])]), [treatment], "{base}"));
    }
}

#[test]
fn memory_is_bounded() {
    let spec = Decisions { gate: 0.0, ..Decisions::default() };
    let mut memory = Memory::default();
    for round in 0..40 {
        let updates: Vec<Update> = (0..40)
            .map(|at| update(round * 40 + at, if at % 2 == 0 { 0 } else { 1000 + u64::from(round) }, [1.0, 2.0]))
            .collect();
        at(1000 + u64::from(round), |server| drop(spec.settle(&mut memory, server, &updates, &vec![None; 40])));
    }
    assert_eq!(memory.inversion.pending.values().map(Vec::len).sum::<usize>(), 512);
    assert_eq!(memory.inversion.seen.len(), 256);
    // The oldest ones were forgotten.
    assert!(memory.inversion.seen.values().all(|(base, _)| *base >= 1027));
}
