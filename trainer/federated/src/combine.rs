//! From many vectors to one: the weighted mean, and what replaces it where some clients lie.

use serde::{Deserialize, Serialize};
use swarmloom_kernels::robust;

/// How a rule's mean is taken.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Combine {
    /// The mean or what stands for it.
    pub by: By,
    /// What an update weighs in a mean. Where it isn't given, a rule does as its source does: most by samples; SCAFFOLD,
    /// FedBuff, FADAS and CA2FL uniformly. Everything but [`By::Mean`] ignores weights.
    pub weights: Option<Weights>,
}

/// The mean or what stands for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum By {
    /// The weighted mean (McMahan et al. 2017, algorithm 1).
    #[default]
    Mean,
}

/// What an update weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// As many as its samples (McMahan et al. 2017).
    #[default]
    Samples,
    /// All the same, as the program of arXiv 2309.13536 has it.
    Uniform,
}

/// Why there is no combination.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// Too few vectors.
    #[error("{by} of {found} updates against {faulty} faulty ones needs at least {wanted}")]
    TooFew {
        /// What was to be computed.
        by: &'static str,
        /// The vectors that there are.
        found: usize,
        /// How many of them may be faulty.
        faulty: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// A setting is out of range.
    #[error("{what}: {why}")]
    Value {
        /// The setting.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Combine {
    /// Whether vectors are looked at one by one, which nobody can who sees only their sum.
    pub fn individual(&self) -> bool {
        self.by != By::Mean
    }

    /// Weights of updates with these samples; they sum to one. `own` is what the rule's source does.
    pub fn weights(&self, samples: &[u32], own: Weights) -> Vec<f64> {
        let uniform = self.weights.unwrap_or(own) == Weights::Uniform;
        let total: f64 = samples.iter().map(|samples| f64::from(*samples)).sum();
        // Where nobody has samples, nobody has more than another.
        if uniform || total == 0.0 {
            return vec![1.0 / samples.len() as f64; samples.len()];
        }
        samples.iter().map(|samples| f64::from(*samples) / total).collect()
    }

    /// The sum of `weights[i] * scales[i] * vectors[i]`, or what stands for it: of the vectors `scales[i] * vectors[i]`.
    /// There is at least one vector, and all have one length.
    ///
    /// # Errors
    /// [`CombineError`] where there are too few for what is asked.
    pub fn run(&self, vectors: &[&[f32]], weights: &[f64], scales: &[f64]) -> Result<Vec<f32>, CombineError> {
        match self.by {
            By::Mean => Ok(mean(vectors, weights, scales)),
        }
    }
}

fn mean(vectors: &[&[f32]], weights: &[f64], scales: &[f64]) -> Vec<f32> {
    let factors: Vec<f32> = weights.iter().zip(scales).map(|(weight, scale)| (weight * scale) as f32).collect();
    let mut out = vec![0.0; vectors.first().map_or(0, |vector| vector.len())];
    robust::weighted_mean(vectors, &factors, &mut out);
    out
}
