//! Weight prediction: a client starts from where the server is expected to be when its update arrives.
//!
//! arXiv 2309.13536 has a baseline of that name and gives no formula. Ours follows linear weight prediction in pipelined and
//! asynchronous training (SpecTrain, Chen, Yang and Cheng 2018; DANA, Hakimi et al. 2019): the
//! expected parameters are those of now plus the staleness times a smoothed step. The smoothed step of the server is
//! `u = beta u + (1 - beta) (x_next - x)`, divided by `1 - beta^t` as Adam divides, since `u` begins at zero; the staleness is
//! that of the client's last update, so that a client's first update is not predicted. Both are our definition.

use serde::{Deserialize, Serialize};

use super::{AggregateError, Checked, Of, Strategy, arrived, moved};
use crate::combine::{Combine, Weights};
use crate::memory::Memory;
use crate::rule::{RuleError, check};
use crate::update::{Server, Start, Update};

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeightPrediction {
    /// How slowly the smoothed step follows.
    pub beta: f64,
    /// The staleness that is expected of everybody; without it, that of a client's last update.
    pub staleness: Option<u32>,
    /// Versions that are looked ahead at most.
    pub most: u32,
}

impl Default for WeightPrediction {
    fn default() -> Self {
        Self { beta: 0.9, staleness: None, most: 100 }
    }
}

impl Checked for WeightPrediction {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let beta = self.beta;
        check("weight-prediction", "beta", beta, (0.0..1.0).contains(&beta), "it is at least 0 and below 1")
    }
}

impl Strategy for Of<WeightPrediction> {
    fn start(&self, memory: &Memory, client: u32, server: &Server<'_>) -> Start {
        let expected = self.rule.staleness.map(u64::from).or_else(|| memory.staleness.get(&client).copied());
        let ahead = expected.unwrap_or(0).min(u64::from(self.rule.most));
        if ahead == 0 || memory.first.len() != server.parameters.len() {
            return Start::default();
        }
        let missing = 1.0 - self.rule.beta.powf(memory.steps as f64);
        let factor = (ahead as f64 / missing) as f32;
        let expected = server.parameters.iter().zip(&memory.first).map(|(value, step)| value + factor * step);
        Start { parameters: Some(expected.collect()), correction: None }
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
        let step = all.mean(&self.combine, &mut memory.combine)?;
        let next = moved(server, updates, 1.0, &step)?;
        memory.steps += 1;
        memory.first.resize(step.len(), 0.0);
        let beta = self.rule.beta as f32;
        for (smooth, step) in memory.first.iter_mut().zip(&step) {
            *smooth = beta * *smooth + (1.0 - beta) * step;
        }
        memory.staleness.extend(updates.iter().map(|update| (update.client, server.staleness(update))));
        Ok(next)
    }
}
