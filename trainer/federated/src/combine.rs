//! From many vectors to one: the weighted mean, and what replaces it where some clients lie.
//!
//! What bounds the influence of liars also bounds that of honest clients that are unlike the others: where few hold a
//! class, these rules take their updates for lies. Mixing nearest neighbours beforehand softens that, no more.

mod distances;
mod robust;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use swarmloom_kernels::robust::weighted_mean;

use crate::privacy::Noise;
use crate::secagg::{self, SecAggError};

/// How a rule's mean is taken.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Combine {
    /// The mean or what stands for it.
    pub by: By,
    /// What is done to the vectors before that.
    pub mixing: Option<NearestNeighbours>,
    /// What an update weighs in a mean. Where it isn't given, a rule does as its source does: most by samples; SCAFFOLD,
    /// FedBuff, FADAS and CA2FL uniformly. Everything but [`By::Mean`] ignores weights: a liar could claim any.
    pub weights: Option<Weights>,
}

/// The mean or what stands for it. `n` are the vectors, `f` those that may be faulty.
///
/// A vector with a value that is no number counts as infinitely far from all others; the rules by coordinate take such a
/// value for the largest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum By {
    /// The weighted mean (McMahan et al. 2017, algorithm 1).
    #[default]
    Mean,
    /// The vector whose `n - f - 2` nearest others are nearest, by the sum of squared distances: Blanchard et al.,
    /// "Machine Learning with Adversaries" (arXiv 1703.02757). For `n > 2f + 2`.
    Krum {
        /// Faulty vectors.
        f: Faulty,
    },
    /// The mean of the best vectors by Krum's score, from the same paper.
    MultiKrum {
        /// Faulty vectors.
        f: Faulty,
        /// How many are taken; without it, `n - f`, as ByzFL has it.
        #[serde(default)]
        keep: Option<u32>,
    },
    /// Krum's choice is taken out `n - 2f` times; of those, in each coordinate, the mean of the `n - 4f` values nearest to
    /// the median: El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium"
    /// (2018). For `n >= 4f + 3`.
    Bulyan {
        /// Faulty vectors.
        f: Faulty,
    },
    /// The median of each coordinate: Yin et al. 2018 (arXiv 1803.01498), definition 1.
    Median,
    /// The mean of each coordinate without the `f` least and the `f` largest values: definition 2 there. For `n > 2f`.
    TrimmedMean {
        /// Faulty vectors.
        f: Faulty,
    },
    /// The point whose distances to the vectors have the least sum, by Weiszfeld's algorithm with smoothing: Pillutla,
    /// Kakade and Harchaoui, "Robust Aggregation for Federated Learning" (arXiv 1912.13445), algorithm 2. It begins at
    /// the median of each coordinate, which no liar moves far (our choice).
    GeometricMedian {
        /// Steps of the algorithm at most; it ends early where a step moves by less than a millionth.
        #[serde(default = "weiszfeld")]
        iterations: u32,
        /// The least distance that is divided by.
        #[serde(default = "millionth")]
        smoothing: f64,
    },
    /// `v + mean of (x_i - v) min(1, radius / |x_i - v|)`, from the last aggregation's result on: Karimireddy, He and Jaggi,
    /// "Learning from History for Byzantine Robust Optimization" (arXiv 2012.10333).
    CentredClipping {
        /// The radius; without it, the median of the distances (our definition: updates shrink as training goes on).
        #[serde(default)]
        radius: Option<f64>,
        /// How often that is done.
        #[serde(default = "once")]
        iterations: u32,
    },
}

fn weiszfeld() -> u32 {
    32
}

fn millionth() -> f64 {
    1e-6
}

fn once() -> u32 {
    1
}

/// Every vector becomes the mean of the `n - f` vectors nearest to it, itself included: Allouah et al., "Fixing by Mixing"
/// (arXiv 2302.01772). What comes after sees vectors that are less unlike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestNeighbours {
    /// Faulty vectors.
    pub f: Faulty,
}

/// How many vectors may be faulty. In a file: a whole number, or a part with a decimal point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Faulty {
    /// As many.
    Count(u32),
    /// At most this part of those that arrived.
    Part(f64),
}

impl Faulty {
    /// Of `count` vectors.
    pub fn of(self, count: usize) -> usize {
        match self {
            Self::Count(faulty) => faulty as usize,
            // What a decimal part lacks of a whole number is no vector less.
            Self::Part(part) => (part * count as f64 + 1e-9) as usize,
        }
    }
}

/// Serde's own reading of two kinds of number cannot say what is allowed.
impl<'de> Deserialize<'de> for Faulty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Faulty;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of updates such as 2, or a part of them such as 0.2")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Faulty, E> {
                let count = u32::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))?;
                Ok(Faulty::Count(count))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Faulty, E> {
                let count = u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))?;
                self.visit_u64(count)
            }

            fn visit_f64<E>(self, value: f64) -> Result<Faulty, E> {
                Ok(Faulty::Part(value))
            }
        }
        deserializer.deserialize_any(Number)
    }
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

/// What is kept from one combination to the next.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// `[parameters]`: where centred clipping begins.
    pub centre: Vec<f32>,
    /// What the next combination gets: see [`Protection::protect`](crate::privacy::Protection::protect).
    pub noise: Option<Noise>,
    /// Lets the next mean be a secure sum: see [`secagg::Settings::prepare`].
    pub secure: Option<secagg::Secure>,
}

/// Why there is no combination.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// Too few vectors.
    #[error("{by} against {faulty} faulty updates needs at least {wanted}, and {found} arrived")]
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
    /// A secure sum failed.
    #[error(transparent)]
    Secure(#[from] SecAggError),
    /// A secure sum is no choice.
    #[error("{by} compares single updates, and secure aggregation tells only their sum")]
    Hidden {
        /// What was to be computed.
        by: &'static str,
    },
}

impl By {
    /// Its name, as files have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Krum { .. } => "krum",
            Self::MultiKrum { .. } => "multi-krum",
            Self::Bulyan { .. } => "bulyan",
            Self::Median => "median",
            Self::TrimmedMean { .. } => "trimmed-mean",
            Self::GeometricMedian { .. } => "geometric-median",
            Self::CentredClipping { .. } => "centred-clipping",
        }
    }
}

impl Combine {
    /// A mean with those weights, or what a rule's source has.
    pub fn by(by: By) -> Self {
        Self { by, ..Self::default() }
    }

    /// Whether vectors are looked at one by one, which nobody can who sees only their sum.
    pub fn individual(&self) -> bool {
        self.by != By::Mean || self.mixing.is_some()
    }

    /// Its name: of what stands for the mean, or of the mixing before a mean.
    pub fn name(&self) -> &'static str {
        if self.by == By::Mean && self.mixing.is_some() { "nearest-neighbour mixing" } else { self.by.name() }
    }

    /// What is wrong with the settings, if something is: the setting, its value, and what it may be.
    pub fn fault(&self) -> Option<(&'static str, f64, &'static str)> {
        let faulty = |f: Faulty| match f {
            Faulty::Part(part) if !(0.0..0.5).contains(&part) => {
                Some(("f", part, "a part is at least 0 and below 0.5"))
            }
            _ => None,
        };
        let own = match self.by {
            By::Mean | By::Median => None,
            By::Krum { f } | By::Bulyan { f } | By::TrimmedMean { f } => faulty(f),
            By::MultiKrum { keep: Some(0), .. } => Some(("keep", 0.0, "at least one is kept")),
            By::MultiKrum { f, .. } => faulty(f),
            By::GeometricMedian { iterations: 0, .. } | By::CentredClipping { iterations: 0, .. } => {
                Some(("iterations", 0.0, "there is at least one"))
            }
            By::GeometricMedian { smoothing, .. } if !(smoothing > 0.0 && smoothing.is_finite()) => {
                Some(("smoothing", smoothing, "it is positive"))
            }
            By::CentredClipping { radius: Some(radius), .. } if !(radius > 0.0 && radius.is_finite()) => {
                Some(("radius", radius, "it is positive"))
            }
            By::GeometricMedian { .. } | By::CentredClipping { .. } => None,
        };
        own.or_else(|| self.mixing.and_then(|mixing| faulty(mixing.f)))
    }

    /// Whether so many vectors are enough for what is asked; without faulty ones, any number is.
    ///
    /// # Errors
    /// [`CombineError::TooFew`].
    pub fn enough(&self, found: usize) -> Result<(), CombineError> {
        let enough = |by, faulty: usize, wanted: usize| match faulty == 0 || found >= wanted {
            true => Ok(()),
            false => Err(CombineError::TooFew { by, found, faulty, wanted }),
        };
        if let Some(mixing) = self.mixing {
            let faulty = mixing.f.of(found);
            enough("nearest-neighbour mixing", faulty, 2 * faulty + 1)?;
        }
        match self.by {
            By::Krum { f } | By::MultiKrum { f, .. } => enough(self.by.name(), f.of(found), 2 * f.of(found) + 3),
            By::Bulyan { f } => enough(self.by.name(), f.of(found), 4 * f.of(found) + 3),
            By::TrimmedMean { f } => enough(self.by.name(), f.of(found), 2 * f.of(found) + 1),
            By::Mean | By::Median | By::GeometricMedian { .. } | By::CentredClipping { .. } => Ok(()),
        }
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
    /// There is at least one vector, and all have one length. Noise that the state holds is added, once.
    ///
    /// # Errors
    /// [`CombineError`] where there are too few for what is asked.
    pub fn run(
        &self,
        state: &mut State,
        vectors: &[&[f32]],
        weights: &[f64],
        scales: &[f64],
    ) -> Result<Vec<f32>, CombineError> {
        let mut out = match state.secure.take() {
            Some(_) if self.individual() => return Err(CombineError::Hidden { by: self.name() }),
            Some(secure) => secure.sum(vectors, &products(weights, scales))?,
            None => self.of(&mut state.centre, vectors, weights, scales)?,
        };
        if let Some(noise) = state.noise.take() {
            noise.add(&mut out);
        }
        Ok(out)
    }

    fn of(
        &self,
        centre: &mut Vec<f32>,
        vectors: &[&[f32]],
        weights: &[f64],
        scales: &[f64],
    ) -> Result<Vec<f32>, CombineError> {
        if !self.individual() {
            return Ok(sum(vectors, &products(weights, scales)));
        }
        self.enough(vectors.len())?;
        let scaled: Vec<Cow<'_, [f32]>> =
            vectors.iter().zip(scales).map(|(vector, scale)| times(vector, *scale)).collect();
        let mut vectors: Vec<&[f32]> = scaled.iter().map(AsRef::as_ref).collect();
        let mixed;
        if let Some(mixing) = self.mixing {
            let count = vectors.len();
            let faulty = mixing.f.of(count);
            mixed = robust::mixed(&vectors, faulty);
            vectors = mixed.iter().map(Vec::as_slice).collect();
        }
        match self.by {
            By::Mean => Ok(sum(&vectors, weights)),
            By::Krum { f } => Ok(robust::krum(&vectors, f.of(vectors.len()))),
            By::MultiKrum { f, keep } => Ok(robust::multi_krum(&vectors, f.of(vectors.len()), keep)),
            By::Bulyan { f } => Ok(robust::bulyan(&vectors, f.of(vectors.len()))),
            By::Median => Ok(robust::median(&vectors)),
            By::TrimmedMean { f } => Ok(robust::trimmed(&vectors, f.of(vectors.len()))),
            By::GeometricMedian { iterations, smoothing } => {
                Ok(robust::geometric_median(&vectors, iterations, smoothing))
            }
            By::CentredClipping { radius, iterations } => {
                Ok(robust::centred_clipping(centre, &vectors, radius, iterations))
            }
        }
    }
}

fn products(weights: &[f64], scales: &[f64]) -> Vec<f64> {
    weights.iter().zip(scales).map(|(weight, scale)| weight * scale).collect()
}

/// The weighted sum, in the order of the vectors.
fn sum(vectors: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let mut out = vec![0.0; vectors.first().map_or(0, |vector| vector.len())];
    weighted_mean(vectors, &weights, &mut out);
    out
}

fn times(vector: &[f32], scale: f64) -> Cow<'_, [f32]> {
    if scale == 1.0 { Cow::Borrowed(vector) } else { vector.iter().map(|value| scale as f32 * value).collect() }
}
