//! Rules that keep something for every client: SCAFFOLD's control variates and CA2FL's cached updates.

use serde::{Deserialize, Serialize};

use super::{AggregateError, Checked, Of, Strategy, arrived, moved};
use crate::combine::{Combine, Weights};
use crate::memory::Memory;
use crate::rule::{RuleError, check};
use crate::update::{Local, Server, Start, Update};

/// Clients correct their drift: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning"
/// (arXiv 1910.06378), algorithm 1 with option II.
///
/// - A client's gradients have `c - c_i` added: [`Start::correction`].
/// - Afterwards `c_i` becomes `c_i - c - delta / (steps * learning rate)`; what it changed by is [`Update::control`].
/// - The server adds `rate` times the mean delta, and `1/N` of the sum of the changes to `c`, with `N` all clients.
///
/// The memory holds `[clients that took part, parameters]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scaffold {
    /// The server's learning rate.
    pub rate: f64,
}

impl Default for Scaffold {
    fn default() -> Self {
        Self { rate: 1.0 }
    }
}

/// The server caches every client's last update, and corrects a buffer's mean by what the others would have sent: Wang et
/// al., "Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached Update Calibration" (ICLR 2024).
/// With `h_i` the cached update of client `i` (zero before its first) and `h` their mean over all clients:
/// `x + rate (h + mean of (delta_i - h_i))`; then `h_i = delta_i`.
///
/// The memory holds `[clients that took part, parameters]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ca2Fl {
    /// The server's learning rate.
    pub rate: f64,
}

impl Default for Ca2Fl {
    fn default() -> Self {
        Self { rate: 1.0 }
    }
}

impl Checked for Scaffold {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        check("scaffold", "rate", self.rate, self.rate > 0.0 && self.rate.is_finite(), "a rate is positive")
    }
}

impl Strategy for Of<Scaffold> {
    fn local(&self) -> Local {
        Local { control: true, ..Local::default() }
    }

    fn start(&self, memory: &Memory, client: u32, server: &Server<'_>) -> Start {
        let length = server.parameters.len();
        let common = some(&memory.common, length);
        let own = memory.of_client.get(&client).and_then(|own| some(own, length));
        let correction = match (common, own) {
            (Some(common), Some(own)) => Some(common.iter().zip(own).map(|(common, own)| common - own).collect()),
            (common, _) => common.map(<[f32]>::to_vec),
        };
        Start { parameters: None, correction }
    }

    fn control(
        &self,
        memory: &Memory,
        client: u32,
        start: &Start,
        delta: &[f32],
        steps: u32,
        learning_rate: f64,
    ) -> Option<Vec<f32>> {
        let taken = f64::from(steps) * learning_rate;
        if taken == 0.0 {
            return Some(vec![0.0; delta.len()]);
        }
        let correction = start.correction.as_deref().and_then(|one| some(one, delta.len()));
        let own = memory.of_client.get(&client).and_then(|own| some(own, delta.len()));
        let at = |of: Option<&[f32]>, at: usize| of.map_or(0.0, |of| of[at]);
        let factor = (1.0 / taken) as f32;
        // Common is what was added to the gradients and the client's own.
        let change = |(index, delta): (usize, &f32)| -(at(correction, index) + at(own, index)) - factor * delta;
        Some(delta.iter().enumerate().map(change).collect())
    }

    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(all) = arrived(server, updates, &self.combine, Weights::Uniform)? else {
            return Ok(server.parameters.to_vec());
        };
        let length = server.parameters.len();
        let next = moved(server, updates, self.rule.rate, &all.mean(&self.combine, &mut memory.combine)?)?;
        let part = 1.0 / server.clients.max(1) as f32;
        memory.common.resize(length, 0.0);
        for update in updates {
            let missing = AggregateError::Control { client: update.client };
            let change = update.control.as_deref().and_then(|change| some(change, length)).ok_or(missing)?;
            let own = memory.of_client.entry(update.client).or_default();
            own.resize(length, 0.0);
            for ((common, own), change) in memory.common.iter_mut().zip(own).zip(change) {
                *common += part * change;
                *own += change;
            }
        }
        Ok(next)
    }
}

impl Checked for Ca2Fl {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        check("ca2fl", "rate", self.rate, self.rate > 0.0 && self.rate.is_finite(), "a rate is positive")
    }
}

impl Strategy for Of<Ca2Fl> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(all) = arrived(server, updates, &self.combine, Weights::Uniform)? else {
            return Ok(server.parameters.to_vec());
        };
        let length = server.parameters.len();
        let mut step = all.changed(&self.combine, &mut memory.combine, |update| {
            let cached = memory.of_client.get(&update.client).and_then(|cached| some(cached, length));
            Ok(cached.map(|cached| update.delta.iter().zip(cached).map(|(delta, cached)| delta - cached).collect()))
        })?;
        memory.common.resize(length, 0.0);
        for (step, common) in step.iter_mut().zip(&memory.common) {
            *step += common;
        }
        let next = moved(server, updates, self.rule.rate, &step)?;
        let part = 1.0 / server.clients.max(1) as f32;
        for update in updates {
            let cached = memory.of_client.entry(update.client).or_default();
            cached.resize(length, 0.0);
            for ((common, cached), delta) in memory.common.iter_mut().zip(cached).zip(&update.delta) {
                *common += part * (delta - *cached);
                *cached = *delta;
            }
        }
        Ok(next)
    }
}

/// A vector, if it has that length.
fn some(vector: &[f32], length: usize) -> Option<&[f32]> {
    (vector.len() == length).then_some(vector)
}
