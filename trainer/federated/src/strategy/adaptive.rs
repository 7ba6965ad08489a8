//! Rules that give every parameter a rate of its own: FedAdam, FedYogi and FedAdagrad, and FADAS for updates that are late.

use serde::{Deserialize, Serialize};
use swarmloom_kernels::outer;

use super::{AggregateError, Checked, Of, Strategy, arrived, finite};
use crate::combine::{Combine, Weights};
use crate::memory::Memory;
use crate::rule::{RuleError, check};
use crate::update::{Server, Update};

/// Reddi et al., "Adaptive Federated Optimization" (arXiv 2003.00295), algorithm 2, FedAdam: with `d` the mean delta,
/// `m = beta1 m + (1 - beta1) d`, `v = beta2 v + (1 - beta2) d^2`, `x + rate m / (sqrt(v) + tau)`; `m` begins at zero and `v` at
/// `tau^2`. No bias is corrected. The betas and `tau` are the paper's; it tunes the rate, whose default is ours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdam {
    /// The server's learning rate.
    pub rate: f64,
    /// How slowly `m` follows.
    pub beta1: f64,
    /// How slowly `v` follows.
    pub beta2: f64,
    /// How much the rule adapts: the less, the more.
    pub tau: f64,
}

/// As [`FedAdam`], with `v - (1 - beta2) d^2 sign(v - d^2)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedYogi {
    /// The server's learning rate.
    pub rate: f64,
    /// How slowly `m` follows.
    pub beta1: f64,
    /// How slowly `v` follows.
    pub beta2: f64,
    /// How much the rule adapts: the less, the more.
    pub tau: f64,
}

/// As [`FedAdam`], with `v + d^2`. The paper's has `beta1` 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdagrad {
    /// The server's learning rate.
    pub rate: f64,
    /// How slowly `m` follows.
    pub beta1: f64,
    /// How much the rule adapts: the less, the more.
    pub tau: f64,
}

/// Wang et al., "FADAS: Towards Federated Adaptive Asynchronous Optimization" (arXiv 2407.18365): AMSGrad on a
/// buffer's mean. `m` and `v` as in [`FedAdam`] but from zero, `w = max(w, v)`, `x + rate m / (sqrt(w) + eps)`.
///
/// Where the buffer's largest staleness is above `threshold`, the rate is smaller. The paper has `min(rate, 1 / staleness)`,
/// which does nothing at rates as small as its own; its program has `rate / staleness`, and so have we.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fadas {
    /// The server's learning rate.
    pub rate: f64,
    /// How slowly `m` follows.
    pub beta1: f64,
    /// How slowly `v` follows.
    pub beta2: f64,
    /// Keeps the quotient finite.
    pub eps: f64,
    /// The largest staleness, in versions, that leaves the rate as it is. Without it, all does.
    pub threshold: Option<u32>,
}

impl Default for FedAdam {
    fn default() -> Self {
        Self { rate: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 }
    }
}

impl Default for FedYogi {
    fn default() -> Self {
        Self { rate: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 }
    }
}

impl Default for FedAdagrad {
    fn default() -> Self {
        Self { rate: 0.1, beta1: 0.0, tau: 1e-3 }
    }
}

impl Default for Fadas {
    fn default() -> Self {
        Self { rate: 0.001, beta1: 0.9, beta2: 0.99, eps: 1e-8, threshold: Some(1) }
    }
}

/// Checks what these rules have in common.
fn within(rule: &'static str, rate: f64, betas: [f64; 2], (what, small): (&'static str, f64)) -> Result<(), RuleError> {
    check(rule, "rate", rate, rate > 0.0 && rate.is_finite(), "a rate is positive")?;
    for (what, beta) in ["beta1", "beta2"].into_iter().zip(betas) {
        check(rule, what, beta, (0.0..1.0).contains(&beta), "it is at least 0 and below 1")?;
    }
    check(rule, what, small, small > 0.0 && small.is_finite(), "it is positive")
}

impl Checked for FedAdam {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        within("fedadam", self.rate, [self.beta1, self.beta2], ("tau", self.tau))
    }
}

impl Checked for FedYogi {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        within("fedyogi", self.rate, [self.beta1, self.beta2], ("tau", self.tau))
    }
}

impl Checked for FedAdagrad {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        within("fedadagrad", self.rate, [self.beta1, 0.0], ("tau", self.tau))
    }
}

impl Checked for Fadas {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        within("fadas", self.rate, [self.beta1, self.beta2], ("eps", self.eps))
    }
}

impl Strategy for Of<FedAdam> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let FedAdam { rate, beta1, beta2, tau } = self.rule;
        let rule = outer::Rule::Adam {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: tau as f32,
            weight_decay: 0.0,
            bias_correction: false,
        };
        step(rule, rate, tau, &self.combine, memory, server, updates)
    }
}

impl Strategy for Of<FedYogi> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let FedYogi { rate, beta1, beta2, tau } = self.rule;
        let rule = outer::Rule::Yogi { beta1: beta1 as f32, beta2: beta2 as f32, eps: tau as f32 };
        step(rule, rate, tau, &self.combine, memory, server, updates)
    }
}

impl Strategy for Of<FedAdagrad> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let FedAdagrad { rate, beta1, tau } = self.rule;
        let rule = outer::Rule::Adagrad { beta1: beta1 as f32, eps: tau as f32 };
        step(rule, rate, tau, &self.combine, memory, server, updates)
    }
}

fn step(
    rule: outer::Rule,
    rate: f64,
    tau: f64,
    combine: &Combine,
    memory: &mut Memory,
    server: &Server<'_>,
    updates: &[Update],
) -> Result<Vec<f32>, AggregateError> {
    let Some(all) = arrived(server, updates, combine, Weights::Samples)? else {
        return Ok(server.parameters.to_vec());
    };
    let mut gradient = all.mean(combine, &mut memory.combine)?;
    gradient.iter_mut().for_each(|value| *value = -*value);
    memory.steps += 1;
    memory.first.resize(gradient.len(), 0.0);
    memory.second.resize(gradient.len(), (tau * tau) as f32);
    let mut next = server.parameters.to_vec();
    let state = outer::State { first: &mut memory.first, second: &mut memory.second };
    outer::step(rule, rate as f32, memory.steps, &gradient, &mut next, state);
    finite(server, updates, next)
}

impl Strategy for Of<Fadas> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(all) = arrived(server, updates, &self.combine, Weights::Uniform)? else {
            return Ok(server.parameters.to_vec());
        };
        let Fadas { rate, beta1, beta2, eps, threshold } = self.rule;
        let mean = all.mean(&self.combine, &mut memory.combine)?;
        let staleness = updates.iter().map(|update| server.staleness(update)).max().unwrap_or(0);
        let late = threshold.is_some_and(|threshold| staleness > u64::from(threshold));
        let rate = if late { rate / staleness as f64 } else { rate } as f32;
        memory.steps += 1;
        for state in [&mut memory.first, &mut memory.second, &mut memory.largest] {
            state.resize(mean.len(), 0.0);
        }
        let (beta1, beta2, eps) = (beta1 as f32, beta2 as f32, eps as f32);
        let moments = memory.first.iter_mut().zip(&mut memory.second).zip(&mut memory.largest);
        let mut next = server.parameters.to_vec();
        for ((value, delta), ((first, second), largest)) in next.iter_mut().zip(&mean).zip(moments) {
            *first = beta1 * *first + (1.0 - beta1) * delta;
            *second = beta2 * *second + (1.0 - beta2) * delta * delta;
            *largest = largest.max(*second);
            *value += rate * *first / (largest.sqrt() + eps);
        }
        finite(server, updates, next)
    }
}
