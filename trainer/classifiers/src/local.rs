//! What a client does: some epochs of gradient descent from the parameters that it was given.

use serde::{Deserialize, Serialize};
use swarmloom_kernels::random;

use crate::invert::Repeated;

/// How a client trains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSpec {
    /// Passes over its samples.
    pub epochs: u32,
    /// Samples of a step; 0 takes all of them.
    pub batch_size: usize,
    /// Of every step.
    pub learning_rate: f64,
    /// What is kept of the last step's direction.
    pub momentum: f64,
    /// Weight of half the squared distance to the parameters that were given: FedProx's term, Li et al. 2020.
    pub proximal: f64,
    /// Steps after which it ends, whatever is left: a client that has to report early.
    #[serde(skip)]
    pub stop_after: Option<u32>,
}

impl Default for LocalSpec {
    fn default() -> Self {
        Self { epochs: 5, batch_size: 0, learning_rate: 0.01, momentum: 0.0, proximal: 0.0, stop_after: None }
    }
}

impl LocalSpec {
    /// Steps that `samples` make.
    pub fn steps(&self, samples: usize) -> u32 {
        let batch = if self.batch_size == 0 { samples } else { self.batch_size };
        self.epochs * samples.div_ceil(batch.max(1)) as u32
    }

    /// So many steps of it, as an inversion repeats them: without momentum, each as much longer as momentum makes steps on
    /// average. With momentum `m`, the gradient of the `i`-th of `s` steps is gone along `1 + m + .. + m^(s - i)` times by
    /// the end (our definition).
    pub fn repeated(&self, steps: u32) -> Repeated {
        let (count, momentum) = (f64::from(steps.max(1)), self.momentum);
        let left = 1.0 - momentum;
        let times = (count - momentum * (1.0 - momentum.powf(count)) / left) / (left * count);
        Repeated { steps, learning_rate: times * self.learning_rate }
    }
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Parameters after minus parameters before.
    pub delta: Vec<f32>,
    /// Steps that were taken.
    pub steps: u32,
    /// Mean loss over all steps, natural logarithm.
    pub loss: f32,
}

/// A permutation of `0..count` (Fisher and Yates): the order of samples in an epoch.
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, (random::unit(seed, at as u64) * (at + 1) as f64) as usize);
    }
    order
}
