//! Differential privacy for clients: updates are clipped, and noise covers what any one of them did.
//!
//! *Central* privacy trusts the server: McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language
//! Models" (arXiv 1710.06963), with the uniform mean over the clients of a round. Every update is scaled to at most the
//! bound `S`, and the mean of `m` gets noise of standard deviation `z S / m`. With [`Adaptive`], the bound follows a quantile
//! of the updates' lengths: Andrew, Thakkar, McMahan and Ramaswamy, "Differentially Private Learning with Adaptive
//! Clipping" (arXiv 1905.03871), algorithm 1.
//!
//! *Local* privacy trusts nobody: every client clips and adds the noise itself. Two updates within the bound differ by up to
//! twice the bound, which is what the noise has to cover.
//!
//! [`Protection::protect`] does its part before an aggregation; noise of the central kind is added to the mean by the
//! strategy. That holds for rules that see updates through their uniform mean, each times at most one: see
//! [`compatible`](crate::compatible).

mod accountant;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use swarmloom_kernels::norms;

pub use accountant::{Step, divergence, epsilon};

use crate::memory::Memory;
use crate::normal;
use crate::rule::{RuleError, check};
use crate::update::{Server, Update};
use swarmloom_kernels::random;

/// How clients are protected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "trust", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Protection {
    /// The server adds noise to the mean.
    Central {
        /// The greatest length of an update; with `adaptive`, where it begins.
        clip: f64,
        /// The noise multiplier `z`: standard deviation of the noise on the sum, over the bound.
        noise: f64,
        /// For which epsilon is reported.
        #[serde(default = "hundred_thousandth")]
        delta: f64,
        /// Lets the bound follow the updates' lengths.
        #[serde(default)]
        adaptive: Option<Adaptive>,
    },
    /// Every client adds noise to its own update.
    Local {
        /// The greatest length of an update.
        clip: f64,
        /// What one update may tell.
        epsilon: f64,
        /// With all but that probability.
        #[serde(default = "hundred_thousandth")]
        delta: f64,
    },
}

fn hundred_thousandth() -> f64 {
    1e-5
}

/// A bound that follows a quantile of the lengths: `S exp(-rate (b - quantile))`, where `b` is the part of updates within the
/// bound, with noise. The paper's values are the defaults; it begins at a bound of 0.1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptive {
    /// The part of updates that are to be within the bound.
    pub quantile: f64,
    /// How fast the bound moves.
    pub rate: f64,
    /// Standard deviation of the noise on the count of updates within the bound; without it, a twentieth of the updates as in
    /// the paper, and no less than the noise multiplier (our definition: with half of it or less, the count alone would tell
    /// too much).
    pub count_noise: Option<f64>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { quantile: 0.5, rate: 0.2, count_noise: None }
    }
}

/// What clients have sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exposure {
    /// Aggregations so far.
    pub aggregations: u64,
    /// The part of all clients that each of them draws, with equal chances. `None` where who takes part does not hang on
    /// chance: then nobody can hope not to be drawn.
    pub drawn: Option<f64>,
    /// Updates of the client that has sent most.
    pub most: u64,
}

/// What protection keeps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// The adaptive bound.
    pub bound: Option<f64>,
}

/// Gaussian noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Its standard deviation.
    pub deviation: f64,
    /// What it follows from.
    pub seed: u64,
}

impl Noise {
    /// Adds it.
    pub fn add(self, values: &mut [f32]) {
        for (index, value) in values.iter_mut().enumerate() {
            *value += (self.deviation * normal::draw(self.seed, index as u64)) as f32;
        }
    }
}

impl Protection {
    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// [`RuleError`] with the setting.
    pub fn check(&self) -> Result<(), RuleError> {
        let check = |what, found: f64, holds, allowed| check("privacy", what, found, holds, allowed);
        let (Self::Central { clip, delta, .. } | Self::Local { clip, delta, .. }) = *self;
        check("clip", clip, clip > 0.0 && clip.is_finite(), "a length is positive")?;
        check("delta", delta, delta > 0.0 && delta < 1.0, "a probability of failure is above 0 and below 1")?;
        match *self {
            Self::Local { epsilon, .. } => {
                check("epsilon", epsilon, epsilon > 0.0 && epsilon.is_finite(), "it is positive")
            }
            Self::Central { noise, adaptive, .. } => {
                check("noise", noise, noise >= 0.0 && noise.is_finite(), "a multiplier is not negative")?;
                let Some(Adaptive { quantile, rate, count_noise }) = adaptive else { return Ok(()) };
                check("quantile", quantile, (0.0..=1.0).contains(&quantile), "a part is 0 to 1")?;
                check("rate", rate, rate >= 0.0 && rate.is_finite(), "a rate is not negative")?;
                let deviation = count_noise.unwrap_or(0.0);
                check("count_noise", deviation, deviation >= 0.0 && deviation.is_finite(), "it is not negative")?;
                // As the counts of section 3.1: what they tell has to be covered by the same multiplier.
                let covered = noise == 0.0 || count_noise.is_none_or(|deviation| 2.0 * deviation > noise);
                check("count_noise", deviation, covered, "it has to be more than half the noise multiplier")
            }
        }
    }

    /// Clips the updates of an aggregation and adds local noise; what the mean has to get is left in the memory. Call it once,
    /// right before [`Strategy::aggregate`](crate::Strategy::aggregate).
    pub fn protect(&self, memory: &mut Memory, server: &Server<'_>, updates: &mut [Update]) {
        memory.combine.noise = None;
        if updates.is_empty() {
            return;
        }
        let count = updates.len() as f64;
        let seed = |stream: u64| random::bits(random::bits(server.seed, server.version), stream);
        match *self {
            Self::Local { clip: bound, epsilon, delta } => {
                let deviation = deviation(epsilon, delta, 2.0 * bound);
                for (stream, update) in (2..).zip(updates) {
                    clip(&mut update.delta, bound);
                    Noise { deviation, seed: seed(stream) }.add(&mut update.delta);
                }
            }
            Self::Central { clip: first, noise, adaptive, .. } => {
                let bound = adaptive.and(memory.privacy.bound).unwrap_or(first);
                let mut within = 0.0;
                for update in updates {
                    within += f64::from(u8::from(clip(&mut update.delta, bound)));
                }
                let mut multiplier = noise;
                if let Some(Adaptive { quantile, rate, count_noise }) = adaptive {
                    let of_count = count_noise.unwrap_or((count / 20.0).max(noise));
                    within += if noise > 0.0 { of_count * normal::draw(seed(0), 0) } else { 0.0 };
                    memory.privacy.bound = Some(bound * (-rate * (within / count - quantile)).exp());
                    multiplier = shared(noise, of_count);
                }
                let noise = Noise { deviation: multiplier * bound / count, seed: seed(1) };
                memory.combine.noise = (multiplier > 0.0).then_some(noise);
            }
        }
    }

    /// Epsilon of what was told about any one client by `exposure`. Local privacy tells its epsilon with every update (basic
    /// composition: the probability of failure adds up likewise).
    pub fn spent(&self, exposure: &Exposure) -> f64 {
        match *self {
            Self::Central { noise, delta, .. } => match exposure.drawn {
                Some(part) => epsilon(noise, part.min(1.0), exposure.aggregations, delta),
                None => epsilon(noise, 1.0, exposure.most, delta),
            },
            Self::Local { epsilon, .. } => epsilon * exposure.most as f64,
        }
    }
}

/// Scales a vector to at most that length: `delta min(1, bound / |delta|)`. Whether it was within.
pub fn clip(delta: &mut [f32], bound: f64) -> bool {
    let length = norms::l2(delta);
    if length <= bound {
        return true;
    }
    let scale = (bound / length) as f32;
    delta.iter_mut().for_each(|value| *value *= scale);
    false
}

/// The multiplier that is left for the updates, where the count of those within the bound is told with noise of that
/// deviation: `(z^-2 - (2 deviation)^-2)^(-1/2)`, algorithm 1 of arXiv 1905.03871. Infinite where the count alone tells too much.
pub fn shared(multiplier: f64, of_count: f64) -> f64 {
    if multiplier == 0.0 {
        return 0.0;
    }
    let left = multiplier.powi(-2) - (2.0 * of_count).powi(-2);
    if left > 0.0 { left.powf(-0.5) } else { f64::INFINITY }
}

/// The least standard deviation of Gaussian noise that hides changes of length `sensitivity`: Balle and Wang, "Improving the
/// Gaussian Mechanism for Differential Privacy" (arXiv 1805.06530), theorem 8. For any epsilon, and never more than the
/// classical `sensitivity sqrt(2 ln(1.25 / delta)) / epsilon`, which holds for an epsilon of at most 1.
pub fn deviation(epsilon: f64, delta: f64, sensitivity: f64) -> f64 {
    // The probability that the mechanism tells more than epsilon, which falls as the noise grows.
    let fails = |noise: f64| {
        let (near, far) = (0.5 / noise, epsilon * noise);
        normal::below(near - far) - (epsilon + normal::below(-near - far).ln()).exp()
    };
    let (mut low, mut high) = (1e-6, 1e6);
    for _ in 0..200 {
        let middle = f64::sqrt(low * high);
        if fails(middle) > delta { low = middle } else { high = middle }
    }
    sensitivity * high
}
