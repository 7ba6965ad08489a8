//! Bubbles and transfers against their formulae.

use super::*;
use crate::schedule::{Kind, build, verify};

fn run(kind: Kind, stages: usize, micro_batches: usize, chunks: usize, costs: &Costs) -> Timeline {
    let schedule = build(kind, stages, micro_batches, chunks, costs).unwrap();
    verify(&schedule).unwrap();
    simulate(&schedule, costs).unwrap()
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{found} instead of {expected}");
}

/// Read: the table of bubbles in DualPipe's README; times of a stage's whole work, `b` the full backward pass, `w` its part for
/// weights.
#[test]
fn bubbles_are_those_of_the_formulae() {
    for (f, d, w) in [(1.0, 1.0, 1.0), (2.0, 3.0, 1.0), (1.0, 2.0, 0.5), (3.0, 3.5, 3.0)] {
        let b = d + w;
        for (p, m) in [(2, 2), (4, 8), (4, 32), (8, 16), (3, 12)] {
            let ahead = (p - 1) as f64;
            let ideal = m as f64 * (f + b);
            let even = Costs::even(p, f, d, w);
            near(run(Kind::Gpipe, p, m, 1, &even).makespan_s, ideal + ahead * (f + b));
            near(run(Kind::OneForwardOneBackward, p, m, 1, &even).makespan_s, ideal + ahead * (f + b));
            for v in [1, 2, 4] {
                let part = v as f64;
                let costs = Costs::even(p * v, f / part, d / part, w / part);
                near(run(Kind::Interleaved, p, m, v, &costs).makespan_s, ideal + ahead * (f + b) / part);
            }
        }
    }
}

/// Read: (p - 1)(F + B - 2W) for ZB1P, there. It holds where the gradients of weights fit the gaps: W no longer than F or D.
#[test]
fn the_bubble_of_zero_bubble_is_that_of_the_formula() {
    for (f, d, w) in [(1.0, 1.0, 1.0), (2.0, 3.0, 1.0), (1.0, 2.0, 0.5), (3.0, 3.5, 3.0)] {
        let b = d + w;
        for (p, m) in [(2, 4), (4, 8), (4, 32), (8, 16), (3, 12)] {
            let found = run(Kind::ZeroBubble, p, m, 1, &Costs::even(p, f, d, w)).makespan_s;
            near(found - m as f64 * (f + b), (p - 1) as f64 * (f + b - 2.0 * w));
        }
    }
}

/// Derived: (p - 1) / (m + p - 1), idle over all time.
#[test]
fn the_bubble_is_idle_time_over_all_time() {
    let even = Costs::even(4, 1.0, 1.0, 1.0);
    near(run(Kind::OneForwardOneBackward, 4, 8, 1, &even).bubble, 3.0 / 11.0);
    near(run(Kind::OneForwardOneBackward, 4, 32, 1, &even).bubble, 3.0 / 35.0);
    near(run(Kind::Gpipe, 4, 8, 1, &even).bubble, 3.0 / 11.0);
    near(run(Kind::DelayAware, 1, 8, 1, &Costs::even(1, 1.0, 1.0, 1.0)).bubble, 0.0);
}

/// Read: activations kept, as in the same table; 1F1B keeps `p - s` on stage `s`, GPipe all `m`.
#[test]
fn activations_kept_are_those_of_the_table() {
    let mut costs = Costs::even(4, 1.0, 1.0, 1.0);
    costs.activation_bytes = vec![10, 20, 30, 40];
    let found = |kind| run(kind, 4, 8, 1, &costs);
    assert_eq!(found(Kind::Gpipe).peak_live_activations, [8, 8, 8, 8]);
    assert_eq!(found(Kind::OneForwardOneBackward).peak_live_activations, [4, 3, 2, 1]);
    assert_eq!(found(Kind::OneForwardOneBackward).peak_activation_bytes, [40, 60, 60, 40]);
    assert_eq!(found(Kind::ZeroBubble).peak_live_activations, [4, 4, 4, 4]);
    // Derived from Megatron's order: 2 (p - 1 - s) + (v - 1) p + 1 chunks.
    let two = Costs::even(8, 0.5, 0.5, 0.5);
    assert_eq!(run(Kind::Interleaved, 4, 8, 2, &two).peak_live_activations, [11, 9, 7, 5]);
}

/// Derived by hand: two stages, one micro-batch.
#[test]
fn latency_is_pipelined_and_bandwidth_is_not() {
    let mut costs = Costs::even(2, 1.0, 1.0, 1.0);
    costs.transfers = vec![Transfer { latency_s: 10.0, bytes: 6.0, bandwidth: 2.0 }];
    let one = run(Kind::Gpipe, 2, 1, 1, &costs);
    near(one.makespan_s, 1.0 + 13.0 + 3.0 + 13.0 + 2.0);
    let four = run(Kind::Gpipe, 2, 4, 1, &costs);
    let arrivals: Vec<f64> = four.transfers.iter().filter(|it| it.from == 0).map(|it| it.arrival_s).collect();
    // Ready at 1, 2, 3, 4; the link takes three seconds for each.
    assert_eq!(arrivals, [14.0, 17.0, 20.0, 23.0]);
    assert_eq!(four.transfers[1].start_s, 4.0);
    // Gradients leave from 26 on, every three seconds on the link; then ten seconds, and two for the last.
    near(four.makespan_s, 26.0 + 4.0 * 3.0 + 10.0 + 2.0);
}

#[test]
fn costs_of_another_size_are_refused() {
    let costs = Costs::even(3, 1.0, 1.0, 1.0);
    let error = build(Kind::Gpipe, 4, 8, 1, &costs).unwrap_err();
    assert_eq!(error.to_string(), "costs: 4 times of forward passes expected, 3 found");
}
