//! Rules for servers that wait for nobody: FedAsync, FedBuff and PORT.

use serde::{Deserialize, Serialize};
use swarmloom_kernels::norms;

use super::{AggregateError, Checked, Of, Strategy, arrived, base, finite, moved, only_mean};
use crate::combine::{Combine, Weights};
use crate::memory::Memory;
use crate::rule::{RuleError, check};
use crate::update::{Local, Server, Update};

/// Each update is mixed in when it arrives: `x = (1 - a) x + a (x_base + delta)` with `a = alpha s(staleness)`. Xie, Koyejo and
/// Gupta, "Asynchronous Federated Optimization" (arXiv 1903.03934), algorithm 1. Several updates of one
/// aggregation are mixed in one after the other, each with the staleness that it had at its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAsync {
    /// What a fresh update weighs; the paper has 0.6 and 0.9.
    pub alpha: f64,
    /// `s`.
    pub discount: Discount,
    /// Weight of the clients' proximal term, the paper's `rho`.
    pub rho: f64,
}

impl Default for FedAsync {
    fn default() -> Self {
        Self { alpha: 0.6, discount: Discount::Polynomial { a: 0.5 }, rho: 0.005 }
    }
}

/// What staleness leaves of a weight: 1 for what is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Discount {
    /// All of it.
    Constant,
    /// `(staleness + 1)^-a`.
    Polynomial {
        /// The exponent; the paper has 0.5.
        #[serde(default = "half")]
        a: f64,
    },
    /// 1 up to `b`, then `1 / (a (staleness - b) + 1)`.
    Hinge {
        /// How fast it falls; the paper has 10 and 4.
        #[serde(default = "ten")]
        a: f64,
        /// From where it falls; the paper has 4 and 2.
        #[serde(default = "four")]
        b: f64,
    },
}

fn half() -> f64 {
    0.5
}

fn ten() -> f64 {
    10.0
}

fn four() -> f64 {
    4.0
}

impl Discount {
    /// For a staleness in versions.
    pub fn of(self, staleness: u64) -> f64 {
        let staleness = staleness as f64;
        match self {
            Self::Constant => 1.0,
            Self::Polynomial { a } => (staleness + 1.0).powf(-a),
            Self::Hinge { b, .. } if staleness <= b => 1.0,
            Self::Hinge { a, b } => 1.0 / (a * (staleness - b) + 1.0),
        }
    }
}

/// The mean of a buffer, each update discounted: `x + rate / K * sum of (1 + staleness)^-exponent delta_i`. Nguyen et al.,
/// "Federated Learning with Buffered Asynchronous Aggregation" (arXiv 2106.06639), algorithm 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedBuff {
    /// The server's learning rate.
    pub rate: f64,
    /// 0.5 in the paper; 0 for no discount.
    pub exponent: f64,
}

impl Default for FedBuff {
    fn default() -> Self {
        Self { rate: 1.0, exponent: 0.5 }
    }
}

/// Updates weigh by samples, by how much they point to where the server has gone since, and by how fresh they are:
/// `p_i (similarity (1 + cos(x_now - x_base, delta_i)) / 2 + staleness S / (staleness_i + S))`, over their sum. Su and Li, "How
/// Asynchronous can Federated Learning Be?" (2022), as their program has it. A fresh update has nothing to be compared
/// with: its cosine counts as 1, as there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Port {
    /// Weight of the cosine.
    pub similarity: f64,
    /// Weight of the freshness.
    pub staleness: f64,
    /// `S`, in versions.
    pub bound: f64,
}

impl Default for Port {
    fn default() -> Self {
        Self { similarity: 1.0, staleness: 3.0, bound: 10.0 }
    }
}

impl Checked for FedAsync {
    fn check(&self, combine: &Combine) -> Result<(), RuleError> {
        only_mean("fedasync", combine)?;
        let check = |what, found: f64, holds, allowed| check("fedasync", what, found, holds, allowed);
        check("alpha", self.alpha, self.alpha > 0.0 && self.alpha <= 1.0, "it is above 0 and at most 1")?;
        check("rho", self.rho, self.rho >= 0.0 && self.rho.is_finite(), "a weight is not negative")?;
        let (a, b) = match self.discount {
            Discount::Constant => (0.0, 0.0),
            Discount::Polynomial { a } => (a, 0.0),
            Discount::Hinge { a, b } => (a, b),
        };
        check("discount: a", a, a >= 0.0, "it is not negative")?;
        check("discount: b", b, b >= 0.0, "it is not negative")
    }
}

impl Strategy for Of<FedAsync> {
    fn local(&self) -> Local {
        Local { proximal: self.rule.rho, ..Local::default() }
    }

    fn history(&self) -> bool {
        true
    }

    fn aggregate(&self, _: &mut Memory, server: &Server<'_>, updates: &[Update]) -> Result<Vec<f32>, AggregateError> {
        let mut next = server.parameters.to_vec();
        arrived(server, updates, &self.combine, Weights::Uniform)?;
        for update in updates {
            let alpha = (self.rule.alpha * self.rule.discount.of(server.staleness(update))) as f32;
            for ((value, old), delta) in next.iter_mut().zip(base(server, update)?).zip(&update.delta) {
                *value = (1.0 - alpha) * *value + alpha * (old + delta);
            }
        }
        finite(server, updates, next)
    }
}

impl Checked for FedBuff {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let FedBuff { rate, exponent } = *self;
        check("fedbuff", "rate", rate, rate > 0.0 && rate.is_finite(), "a rate is positive")?;
        check("fedbuff", "exponent", exponent, exponent >= 0.0, "it is not negative")
    }
}

impl Strategy for Of<FedBuff> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(all) = arrived(server, updates, &self.combine, Weights::Uniform)? else {
            return Ok(server.parameters.to_vec());
        };
        let discount = Discount::Polynomial { a: self.rule.exponent };
        let scales: Vec<f64> = updates.iter().map(|update| discount.of(server.staleness(update))).collect();
        moved(server, updates, self.rule.rate, &all.combined(&self.combine, &mut memory.combine, &scales)?)
    }
}

impl Checked for Port {
    fn check(&self, combine: &Combine) -> Result<(), RuleError> {
        only_mean("port", combine)?;
        let check = |what, found: f64, holds, allowed| check("port", what, found, holds, allowed);
        check("similarity", self.similarity, self.similarity >= 0.0, "a weight is not negative")?;
        check("staleness", self.staleness, self.staleness > 0.0, "the weight of the freshness is positive")?;
        check("bound", self.bound, self.bound > 0.0, "it is a positive number of versions")
    }
}

impl Strategy for Of<Port> {
    fn history(&self) -> bool {
        true
    }

    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(mut all) = arrived(server, updates, &self.combine, Weights::Samples)? else {
            return Ok(server.parameters.to_vec());
        };
        let Port { similarity, staleness, bound } = self.rule;
        for (weight, update) in all.weights.iter_mut().zip(updates) {
            let late = server.staleness(update);
            let cosine = if late == 0 { 1.0 } else { agreement(server.parameters, base(server, update)?, update) };
            *weight *= similarity * (1.0 + cosine) / 2.0 + staleness * bound / (late as f64 + bound);
        }
        let total: f64 = all.weights.iter().sum();
        all.weights.iter_mut().for_each(|weight| *weight /= total);
        moved(server, updates, 1.0, &all.mean(&self.combine, &mut memory.combine)?)
    }
}

/// The cosine between where the server went and an update; 1 where one of them is zero.
fn agreement(now: &[f32], old: &[f32], update: &Update) -> f64 {
    let gone: Vec<f32> = now.iter().zip(old).map(|(now, old)| now - old).collect();
    let lengths = norms::l2(&gone) * norms::l2(&update.delta);
    if lengths == 0.0 { 1.0 } else { norms::dot(&gone, &update.delta) / lengths }
}
