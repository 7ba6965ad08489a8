//! Timelines worked out by hand, and what holds for all of them.

mod by_hand;
mod properties;
mod wrong;

use super::*;
use crate::holdings::Holdings;
use crate::population::Spec;

/// Bytes of a task in these tests: they take no time.
const DOWN: u64 = 1_000;
const UP: u64 = 10;
const WORK: Work = Work { epochs: 1, bytes_down: DOWN, bytes_up: UP };

/// Clients that take so many seconds for a task. `more` is the rest of the specification.
fn population(seconds: &[f64], more: &str) -> Arc<Population> {
    let text = format!(
        "clients = {}\n{more}
        [devices]
        seconds_per_sample = {{ kind = 'values', values = {seconds:?}, in_order = true }}
        [network]
        down_bytes_per_s = {{ kind = 'constant', value = 1e15 }}
        up_bytes_per_s = {{ kind = 'constant', value = 1e15 }}
        latency_s = {{ kind = 'constant', value = 0 }}",
        seconds.len()
    );
    let spec: Spec = toml::from_str(&text).unwrap();
    Arc::new(Population::new(&spec, &Holdings::even(spec.clients, 1), 1).unwrap())
}

fn mode(text: &str) -> Mode {
    toml::from_str(text).unwrap()
}

fn timeline(population: &Arc<Population>, text: &str, rounds: u64) -> Timeline {
    Timeline::new(population.clone(), &mode(text), Selection::RoundRobin, &WORK, rounds, 1).unwrap()
}
