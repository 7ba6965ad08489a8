//! FedAT: synchronous in a tier, asynchronous across tiers.
//!
//! Chai et al., "FedAT: A High-Performance and Communication-Efficient Federated Learning System with Asynchronous Tiers"
//! (arXiv 2010.05958), the weighted aggregation across tiers: tier `m`'s model is the weighted mean of its clients' models, and the
//! server's is the sum of `T_(M+1-m) / T` times tier `m`'s, where `T_m` counts the updates of tier `m`, the fastest first: slow
//! tiers weigh as much as fast ones were updated.
//!
//! Where the paper leaves open what a tier counts that has never been updated: it is left out, and the others' weights are
//! divided by their sum; where that is zero, they are equal (our definition). The paper's clients also have a proximal
//! term: `mu`, none unless it is set.
//!
//! The paper's weights assume that each tier holds data of all kinds. Where a slow tier holds a class that no other one has,
//! they make the server's model nearly that tier's, to the cost of all other classes; [`Weigh::Samples`] (our definition)
//! weighs a tier by the samples that it has trained on instead.

use serde::{Deserialize, Serialize};

use super::{AggregateError, Checked, Of, Strategy, arrived, base, finite};
use crate::combine::{Combine, Weights};
use crate::memory::{Memory, Tier};
use crate::rule::{RuleError, check};
use crate::update::{Local, Server, Update};

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAt {
    /// How many tiers there are; 5 where nobody says.
    pub tiers: Option<u32>,
    /// Weight of the clients' proximal term.
    pub mu: f64,
    /// What tiers weigh.
    pub weigh: Weigh,
}

/// What tiers weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weigh {
    /// As much as the tier opposite was updated: the paper's.
    #[default]
    Opposite,
    /// As many samples as their clients' updates had so far.
    Samples,
}

impl Default for FedAt {
    fn default() -> Self {
        Self { tiers: None, mu: 0.0, weigh: Weigh::Opposite }
    }
}

impl FedAt {
    fn tiers(&self) -> u32 {
        self.tiers.unwrap_or(5)
    }
}

impl Checked for FedAt {
    fn check(&self, _: &Combine) -> Result<(), RuleError> {
        let tiers = self.tiers();
        check("fedat", "tiers", tiers.into(), (1..=1000).contains(&tiers), "there are 1 to 1000 tiers")?;
        check("fedat", "mu", self.mu, self.mu >= 0.0 && self.mu.is_finite(), "a weight is not negative")
    }
}

impl Strategy for Of<FedAt> {
    fn local(&self) -> Local {
        Local { proximal: self.rule.mu, ..Local::default() }
    }

    fn history(&self) -> bool {
        true
    }

    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError> {
        if arrived(server, updates, &self.combine, Weights::Samples)?.is_none() {
            return Ok(server.parameters.to_vec());
        }
        let last = self.rule.tiers() - 1;
        for tier in 0..=last {
            let of_tier: Vec<Update> = updates.iter().filter(|update| update.tier.min(last) == tier).cloned().collect();
            let Some(all) = arrived(server, &of_tier, &self.combine, Weights::Samples)? else {
                continue;
            };
            // From where the server is now: what stands for a mean may measure lengths.
            let step = all.changed(&self.combine, &mut memory.combine, |update| {
                let values = base(server, update)?.iter().zip(&update.delta).zip(server.parameters);
                Ok(Some(values.map(|((old, delta), now)| old + delta - now).collect()))
            })?;
            let parameters = server.parameters.iter().zip(&step).map(|(now, step)| now + step).collect();
            let (updates, samples) = memory.tiers.get(&tier).map_or((0, 0), |tier| (tier.updates, tier.samples));
            let samples = samples + of_tier.iter().map(|update| u64::from(update.samples)).sum::<u64>();
            memory.tiers.insert(tier, Tier { updates: updates + 1, samples, parameters });
        }
        let weights = weights(memory, &self.rule);
        let mut next = vec![0.0; server.parameters.len()];
        for (weight, tier) in weights.iter().zip(memory.tiers.values()) {
            for (next, value) in next.iter_mut().zip(&tier.parameters) {
                *next += *weight as f32 * value;
            }
        }
        finite(server, updates, next)
    }
}

/// What each tier that was ever updated weighs, in their order.
fn weights(memory: &Memory, rule: &FedAt) -> Vec<f64> {
    let opposite = |tier: &u32| memory.tiers.get(&(rule.tiers() - 1 - tier)).map_or(0, |tier| tier.updates);
    let count = |(tier, of): (&u32, &Tier)| match rule.weigh {
        Weigh::Opposite => opposite(tier) as f64,
        Weigh::Samples => of.samples as f64,
    };
    let counts: Vec<f64> = memory.tiers.iter().map(count).collect();
    let total: f64 = counts.iter().sum();
    if total == 0.0 {
        return vec![1.0 / counts.len() as f64; counts.len()];
    }
    counts.iter().map(|count| count / total).collect()
}
