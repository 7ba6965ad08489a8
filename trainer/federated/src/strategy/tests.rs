//! One aggregation of each rule, by hand.

mod average;
mod others;

use super::asynchronous::{Discount, FedAsync};
use super::*;

/// An update of client 0 and version 0 with one sample and one step.
pub(super) fn update(delta: &[f32]) -> Update {
    Update { client: 0, base: 0, tier: 0, samples: 1, steps: 1, delta: delta.to_vec(), control: None }
}

/// Versions that are kept: parameters by version, from 0.
pub(super) struct Kept(pub(super) Vec<Vec<f32>>);

impl Kept {
    /// The server at the last one.
    pub(super) fn with<T>(&self, check: impl FnOnce(&Server<'_>) -> T) -> T {
        let history = |version: u64| self.0.get(version as usize).map(Vec::as_slice);
        let version = self.0.len() as u64 - 1;
        check(&Server { version, parameters: &self.0[version as usize], history: &history, clients: 4, seed: 1 })
    }

    /// Aggregates and keeps what comes of it.
    pub(super) fn step(&mut self, strategy: &dyn Strategy, memory: &mut Memory, updates: &[Update]) -> Vec<f32> {
        let next = self.with(|server| strategy.aggregate(memory, server, updates)).expect("aggregated");
        self.0.push(next.clone());
        next
    }
}

pub(super) fn of(text: &str) -> Box<dyn Strategy> {
    with(text, "")
}

pub(super) fn with(rule: &str, combine: &str) -> Box<dyn Strategy> {
    let rule = toml::from_str(rule).expect("a rule");
    strategy(&rule, &toml::from_str(combine).expect("a mean")).expect("a strategy")
}

pub(super) fn near(found: &[f32], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (one, other) in found.iter().zip(wanted) {
        assert!((f64::from(*one) - other).abs() <= 2e-6 * other.abs().max(1.0), "{found:?} is not {wanted:?}");
    }
}

#[test]
fn every_rule_without_updates_stays_where_it_is_and_refuses_other_lengths() {
    for rule in Rule::all() {
        let strategy = strategy(&rule, &Combine::default()).expect("a strategy");
        let mut memory = Memory::default();
        let kept = Kept(vec![vec![1.0, 2.0]]);
        kept.with(|server| {
            assert_eq!(strategy.aggregate(&mut memory, server, &[]).expect("nothing"), [1.0, 2.0], "{rule:?}");
            assert_eq!(memory, Memory::default());
            let error = strategy.aggregate(&mut memory, server, &[update(&[1.0])]).expect_err("a wrong length");
            assert_eq!(error, AggregateError::Length { client: 0, found: 1, wanted: 2 });
            let wrong = Update { control: Some(vec![0.0; 2]), ..update(&[f32::NAN, 1.0]) };
            let error = strategy.aggregate(&mut memory, server, &[wrong]).expect_err("no number");
            assert_eq!(error, AggregateError::NotFinite { version: 1, client: Some(0) }, "{rule:?}");
        });
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    for rule in Rule::all() {
        let strategy = strategy(&rule, &Combine::default()).expect("a strategy");
        let run = || {
            let mut kept = Kept(vec![vec![0.5, -0.25, 1.0]]);
            let mut memory = Memory::default();
            for round in 0..6_u64 {
                let updates: Vec<Update> = (0..5_u32)
                    .map(|client| {
                        let at =
                            |index| swarmloom_kernels::random::unit(round, u64::from(client) * 3 + index) as f32 - 0.5;
                        let delta = vec![at(0), at(1), at(2)];
                        let base = round.saturating_sub(u64::from(client) % 3);
                        Update {
                            client,
                            base,
                            tier: client % 2,
                            samples: 3 + client,
                            control: Some(delta.clone()),
                            ..update(&delta)
                        }
                    })
                    .collect();
                kept.step(&*strategy, &mut memory, &updates);
            }
            (kept.0, serde_json::to_string(&memory).expect("memory as text"))
        };
        let (one, other) = (run(), run());
        assert_eq!(one, other);
        let back: Memory = serde_json::from_str(&one.1).expect("memory from text");
        assert_eq!(serde_json::to_string(&back).expect("text"), one.1);
    }
}
