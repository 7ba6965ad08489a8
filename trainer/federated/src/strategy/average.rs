//! Rules that add a mean of the updates: FedAvg, FedProx, and what they do about stale ones: nothing (direct), weigh them
//! less (weighted), correct them by a Taylor term (first order), or take what the inversion made of them.

use serde::{Deserialize, Serialize};

use super::{AggregateError, Arrived, Checked, Of, Strategy, arrived, base, moved};
use crate::combine::{Combine, Weights};
use crate::inversion::Decisions;
use crate::memory::Memory;
use crate::rule::{RuleError, check};
use crate::update::{Local, Server, Update};

/// `x + rate * sum of p_i delta_i`, with `p_i` by samples: McMahan et al. 2017, algorithm 1, for a rate of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAvg {
    /// The server's learning rate.
    pub rate: f64,
}

impl Default for FedAvg {
    fn default() -> Self {
        Self { rate: 1.0 }
    }
}

/// FedAvg of clients that minimise `f(w) + mu / 2 |w - start|^2`: Li et al. 2020, equation 2 and algorithm 2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedProx {
    /// The term's weight. The paper tries 0.001, 0.01, 0.1 and 1; the default is ours.
    pub mu: f64,
}

impl Default for FedProx {
    fn default() -> Self {
        Self { mu: 0.01 }
    }
}

/// A stale update counts as a fresh one: `x + sum of p_i delta_i`, whatever the staleness. The baseline of that name in
/// arXiv 2309.13536.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Direct {}

/// A stale update counts for less: `x + sum of p_i 2^(-staleness / half_life) delta_i`. The baseline of that name in the
/// program of arXiv 2309.13536, where a staleness of 40 leaves a quarter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weighted {
    /// Versions after which an update counts for half.
    pub half_life: f64,
    /// Whether weights sum to one after that; in that program they do not.
    pub normalise: bool,
}

impl Default for Weighted {
    fn default() -> Self {
        Self { half_life: 20.0, normalise: false }
    }
}

/// A stale update is corrected to first order: `delta - lambda delta * delta * (x_now - x_base)`, element by element. With a
/// gradient `g = -delta` that is `g + lambda g * g * (x_now - x_base)`: DC-ASGD, Zheng et al. 2017, algorithm 2. In the
/// program of arXiv 2309.13536, lambda is 4.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirstOrder {
    /// The correction's weight.
    pub lambda: f64,
}

impl Default for FirstOrder {
    fn default() -> Self {
        Self { lambda: 4.0 }
    }
}

impl Checked for FedAvg {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let rate = self.rate;
        check("fedavg", "rate", rate, rate > 0.0 && rate.is_finite(), "a rate is positive")
    }
}

impl Strategy for Of<FedAvg> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        average(memory, server, updates, &self.combine, self.rule.rate)
    }
}

impl Checked for FedProx {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        check("fedprox", "mu", self.mu, self.mu >= 0.0 && self.mu.is_finite(), "a weight is not negative")
    }
}

impl Strategy for Of<FedProx> {
    fn local(&self) -> Local {
        Local { proximal: self.rule.mu, ..Local::default() }
    }

    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        average(memory, server, updates, &self.combine, 1.0)
    }
}

impl Checked for Direct {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        Ok(())
    }
}

impl Strategy for Of<Direct> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        average(memory, server, updates, &self.combine, 1.0)
    }
}

impl Checked for Weighted {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let half_life = self.half_life;
        check("weighted", "half_life", half_life, half_life > 0.0, "it is a positive number of versions")
    }
}

impl Strategy for Of<Weighted> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(mut all) = arrived(server, updates, &self.combine, Weights::Samples)? else {
            return Ok(server.parameters.to_vec());
        };
        let mut scales: Vec<f64> =
            updates.iter().map(|update| (-(server.staleness(update) as f64) / self.rule.half_life).exp2()).collect();
        if self.rule.normalise {
            normalise(&mut all, &mut scales);
        }
        moved(server, updates, 1.0, &all.combined(&self.combine, &mut memory.combine, &scales)?)
    }
}

/// Divides by what weights times scales sum to.
fn normalise(all: &mut Arrived<'_>, scales: &mut [f64]) {
    let total: f64 = all.weights.iter().zip(scales.iter()).map(|(weight, scale)| weight * scale).sum();
    if total > 0.0 {
        scales.iter_mut().for_each(|scale| *scale /= total);
    }
}

impl Checked for FirstOrder {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let lambda = self.lambda;
        check("first-order", "lambda", lambda, lambda >= 0.0 && lambda.is_finite(), "a weight is not negative")
    }
}

impl Strategy for Of<FirstOrder> {
    fn history(&self) -> bool {
        true
    }

    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(all) = arrived(server, updates, &self.combine, Weights::Samples)? else {
            return Ok(server.parameters.to_vec());
        };
        let lambda = self.rule.lambda as f32;
        let step = all.changed(&self.combine, &mut memory.combine, |update| {
            if server.staleness(update) == 0 {
                return Ok(None);
            }
            let values = update.delta.iter().zip(server.parameters).zip(base(server, update)?);
            Ok(Some(values.map(|((delta, now), old)| delta - lambda * delta * delta * (now - old)).collect()))
        })?;
        moved(server, updates, 1.0, &step)
    }
}

/// FedAvg's mean of what [`Decisions::settle`] returned.
impl Strategy for Of<Decisions> {
    fn history(&self) -> bool {
        true
    }

    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        average(memory, server, updates, &self.combine, 1.0)
    }
}

fn average(
    memory: &mut Memory,
    server: &Server<'_>,
    updates: &[Update],
    combine: &Combine,
    rate: f64,
) -> Result<Vec<f32>, AggregateError> {
    let Some(all) = arrived(server, updates, combine, Weights::Samples)? else {
        return Ok(server.parameters.to_vec());
    };
    moved(server, updates, rate, &all.mean(combine, &mut memory.combine)?)
}
