//! FedNova: clients that took more steps do not count for more.
//!
//! Wang, Liu, Liang, Joshi and Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization"
//! (arXiv 2007.07481): with `a_i` the sum of what the local solver gives each of its gradients, the server adds
//! `(sum of p_i a_i) * sum of p_i delta_i / a_i`. For plain gradient descent `a_i` is the number of steps; with momentum `m`
//! it is `(steps - m (1 - m^steps) / (1 - m)) / (1 - m)`.

use serde::{Deserialize, Serialize};

use super::{AggregateError, Checked, Of, Strategy, arrived, moved};
use crate::combine::{Combine, Weights};
use crate::memory::Memory;
use crate::rule::{RuleError, check};
use crate::update::{Server, Update};

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedNova {
    /// Momentum of the clients' local training; none where nobody says.
    pub momentum: Option<f64>,
}

impl FedNova {
    fn gradients(&self, steps: u32) -> f64 {
        let (steps, m) = (f64::from(steps), self.momentum.unwrap_or(0.0));
        (steps - m * (1.0 - m.powf(steps)) / (1.0 - m)) / (1.0 - m)
    }
}

impl Checked for FedNova {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let momentum = self.momentum.unwrap_or(0.0);
        check("fednova", "momentum", momentum, (0.0..1.0).contains(&momentum), "it is at least 0 and below 1")
    }
}

impl Strategy for Of<FedNova> {
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        let Some(all) = arrived(server, updates, &self.combine, Weights::Samples)? else {
            return Ok(server.parameters.to_vec());
        };
        let gradients: Vec<f64> = updates.iter().map(|update| self.rule.gradients(update.steps)).collect();
        let effective: f64 = all.weights.iter().zip(&gradients).map(|(weight, gradients)| weight * gradients).sum();
        // Who took no step has nothing to be divided.
        let inverse = |gradients: &f64| if *gradients > 0.0 { 1.0 / gradients } else { 0.0 };
        let scales: Vec<f64> = gradients.iter().map(inverse).collect();
        moved(server, updates, effective, &all.combined(&self.combine, &mut memory.combine, &scales)?)
    }
}
