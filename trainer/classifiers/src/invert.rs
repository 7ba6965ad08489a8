//! Gradient inversion: data whose local training from an old version gives a client's stale update. Trained from the
//! server's version of now, the same data give the update that the client would have sent.
//!
//! The method is that of "Tackling Intertwined Data and Device Heterogeneities in Federated Learning with Unlimited
//! Staleness" (arXiv 2309.13536): the recovered data need not look like the client's, they have to train like them. The
//! gradients go through all local steps; only the largest entries of the update count; a client's data of the time before
//! are where its next inversion begins; labels are found together with the data.
//!
//! Where the paper's own program minimises the sum of absolute differences, this divides it by that of the update, so that
//! one learning rate serves all sizes of update (our definition).

use swarmloom_kernels::random;

use crate::{ClassifierError, check};
use serde::{Deserialize, Serialize};

/// How an inversion goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inversion {
    /// Samples that are recovered.
    pub samples: usize,
    /// Steps of Adam on them.
    pub iterations: u32,
    /// Adam's, at the start; it falls to a tenth of that along half a cosine.
    pub learning_rate: f64,
    /// The part of the update's entries that count, those of largest magnitude; 1 takes all.
    pub top: f64,
    /// Ends early where the relative difference is below.
    pub enough: f64,
    /// Local steps that gradients go through at most: where a client took more, fewer and longer ones stand for them.
    pub steps: u32,
    /// Least and largest value of a feature.
    pub range: [f32; 2],
    /// Whether a client's inversion begins with what its last one has found.
    pub warm: bool,
    /// Where labels come from.
    pub labels: Labels,
}

/// Where the labels of recovered samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// They are found together with the data.
    #[default]
    Joint,
    /// Sample `i` has class `i` modulo the number of classes, and keeps it: what finding labels is measured against.
    Even,
}

impl Default for Inversion {
    fn default() -> Self {
        Self {
            samples: 16,
            iterations: 60,
            learning_rate: 0.05,
            top: 1.0,
            enough: 0.01,
            steps: 5,
            range: [0.0, 1.0],
            warm: true,
            labels: Labels::Joint,
        }
    }
}

impl Inversion {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// [`ClassifierError::Value`] with the one that does not.
    pub fn check(&self) -> Result<(), ClassifierError> {
        let refuse = |what, why: &str| Err(ClassifierError::Value { what, why: why.into() });
        if self.samples == 0 || self.samples > 4096 {
            return refuse("samples", "1 to 4096 are recovered");
        }
        if !(self.top > 0.0 && self.top <= 1.0) {
            return refuse("top", "a part is above 0 and at most 1");
        }
        if self.iterations > 1_000_000 {
            return refuse("iterations", "at most 1000000 steps are taken");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return refuse("learning_rate", "it is above 0");
        }
        if !(self.enough >= 0.0 && self.enough.is_finite()) {
            return refuse("enough", "a difference is not negative");
        }
        if !(1..=10_000).contains(&self.steps) {
            return refuse("steps", "gradients go through 1 to 10000 steps");
        }
        if !self.range.iter().all(|end| end.is_finite()) {
            return refuse("range", "its ends are numbers");
        }
        if self.range[0].partial_cmp(&self.range[1]) != Some(std::cmp::Ordering::Less) {
            return refuse("range", "the least value is below the largest");
        }
        Ok(())
    }
}

/// Recovered data: where the next inversion of the same client begins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// `[samples, features]`.
    pub features: Vec<f32>,
    /// `[samples, classes]`: labels are their softmax.
    pub labels: Vec<f32>,
}

/// What an inversion has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inverted {
    /// The data.
    pub data: Recovered,
    /// Steps of Adam that were taken.
    pub iterations: u32,
    /// Sum of absolute differences between the update and what the data train to, over the entries that count, relative
    /// to the update's.
    pub difference: f32,
    /// Cosine between the two, over all entries.
    pub cosine: f32,
    /// Length of what the data train to over that of the update.
    pub norm: f32,
}

/// A client's local training, as an inversion repeats it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeated {
    /// Steps that it took.
    pub steps: u32,
    /// Their learning rate.
    pub learning_rate: f64,
}

impl Repeated {
    /// As many steps, or fewer and longer ones; with their learning rate.
    pub fn at_most(&self, most: u32) -> (u32, f64) {
        let steps = self.steps.clamp(1, most.max(1));
        (steps, self.learning_rate * f64::from(self.steps.max(1)) / f64::from(steps))
    }
}

/// Local trainings on soft labels that gradients go through.
pub trait Unroll {
    /// Parameters after training minus parameters before, `[parameters]`. Where `training` has more steps than `most`,
    /// fewer and longer ones stand for them.
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit.
    fn unroll(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        most: u32,
    ) -> Result<Vec<f32>, ClassifierError>;

    /// With the gradient of something by what [`Unroll::unroll`] has returned last, its gradient by the data.
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit.
    fn pull_back(&mut self, adjoint: &[f32]) -> Result<Recovered, ClassifierError>;
}

/// Finds data that train from `from` to `from + delta`. `before` is what the client's last inversion found; without it,
/// data begin at random in the middle of the range, labels undecided. A sample has so many features and classes.
///
/// # Errors
/// [`ClassifierError`] where lengths do not fit or a setting makes no sense.
#[allow(clippy::too_many_arguments)]
pub fn invert(
    unroll: &mut dyn Unroll,
    (features, classes): (usize, usize),
    from: &[f32],
    delta: &[f32],
    training: Repeated,
    spec: &Inversion,
    before: Option<&Recovered>,
    seed: u64,
) -> Result<Inverted, ClassifierError> {
    check("the update", delta.len(), from.len())?;
    spec.check()?;
    if delta.iter().any(|value| !value.is_finite()) {
        return Err(ClassifierError::Value { what: "the update", why: "it has values that are no numbers".into() });
    }
    let mut data = begin((features, classes), spec, before.filter(|_| spec.warm), seed)?;
    let counts = largest(delta, spec.top);
    let size = counts.iter().zip(delta).map(|(counts, value)| f64::from(counts * value.abs())).sum::<f64>().max(1e-12);
    let (mut of_features, mut of_labels) = (Adam::default(), Adam::default());
    let mut iterations = 0;
    let (mut trained, mut difference);
    loop {
        trained = unroll.unroll(from, &data, training, spec.steps)?;
        let apart = trained.iter().zip(delta).zip(&counts).map(|((one, other), counts)| (one - other) * counts);
        difference = apart.clone().map(|apart| f64::from(apart.abs())).sum::<f64>() / size;
        if iterations == spec.iterations || difference < spec.enough || !difference.is_finite() {
            break;
        }
        let sign = |apart: f32| if apart == 0.0 { 0.0 } else { apart.signum() / size as f32 };
        let gradient = unroll.pull_back(&apart.map(sign).collect::<Vec<_>>())?;
        let done = f64::from(iterations) / f64::from(spec.iterations);
        let rate = spec.learning_rate * (0.1 + 0.9 * (0.5 + 0.5 * (std::f64::consts::PI * done).cos()));
        iterations += 1;
        let [low, high] = spec.range;
        of_features.step(&mut data.features, &gradient.features, rate * f64::from(high - low), iterations);
        data.features.iter_mut().for_each(|value| *value = value.clamp(low, high));
        if spec.labels == Labels::Joint {
            // Logits move on a scale of their own: ten of them decide a label.
            of_labels.step(&mut data.labels, &gradient.labels, 10.0 * rate, iterations);
        }
    }
    let dot = |one: &[f32], other: &[f32]| swarmloom_kernels::norms::dot(one, other);
    let lengths = [dot(&trained, &trained).sqrt(), dot(delta, delta).sqrt()];
    let cosine = dot(&trained, delta) / (lengths[0] * lengths[1]).max(1e-24);
    let norm = lengths[0] / lengths[1].max(1e-24);
    Ok(Inverted { data, iterations, difference: difference as f32, cosine: cosine as f32, norm: norm as f32 })
}

/// The logit of a label that is as good as certain, beside zeros.
const DECIDED: f32 = 20.0;

fn begin(
    (features, classes): (usize, usize),
    spec: &Inversion,
    before: Option<&Recovered>,
    seed: u64,
) -> Result<Recovered, ClassifierError> {
    let (features, labels) = (spec.samples * features, spec.samples * classes);
    if let Some(before) = before {
        check("the recovered features", before.features.len(), features)?;
        check("the recovered labels", before.labels.len(), labels)?;
        return Ok(before.clone());
    }
    let [low, high] = spec.range;
    let at = |index: usize| random::unit(seed, index as u64) as f32;
    Ok(Recovered {
        // The middle half of the range.
        features: (0..features).map(|index| low + (high - low) * (0.25 + 0.5 * at(index))).collect(),
        labels: (0..labels)
            .map(|index| match spec.labels {
                Labels::Joint => 0.2 * (at(features + index) - 0.5),
                Labels::Even if index % classes == (index / classes) % classes => DECIDED,
                Labels::Even => 0.0,
            })
            .collect(),
    })
}

/// 1 where an entry is among the largest, 0 elsewhere.
fn largest(update: &[f32], part: f64) -> Vec<f32> {
    let kept = ((update.len() as f64 * part).ceil() as usize).clamp(1, update.len().max(1));
    if kept >= update.len() {
        return vec![1.0; update.len()];
    }
    let mut order: Vec<u32> = (0..update.len() as u32).collect();
    let larger = |one: &u32, other: &u32| {
        let of = |at: &u32| update[*at as usize].abs();
        of(other).total_cmp(&of(one)).then(one.cmp(other))
    };
    order.select_nth_unstable_by(kept - 1, larger);
    let mut counts = vec![0.0; update.len()];
    order[..kept].iter().for_each(|at| counts[*at as usize] = 1.0);
    counts
}

/// Kingma and Ba 2015, with its defaults.
#[derive(Debug, Default)]
struct Adam {
    moments: Vec<[f32; 2]>,
}

impl Adam {
    /// The step of that number, counted from 1.
    fn step(&mut self, values: &mut [f32], gradient: &[f32], rate: f64, number: u32) {
        let (first, second) = (0.9_f32, 0.999_f32);
        self.moments.resize(values.len(), [0.0; 2]);
        let correct = |beta: f32| 1.0 - f64::from(beta).powi(number.cast_signed());
        let (rate, of_square) = ((rate / correct(first)) as f32, (1.0 / correct(second)) as f32);
        for ((value, gradient), [mean, square]) in values.iter_mut().zip(gradient).zip(&mut self.moments) {
            *mean = first * *mean + (1.0 - first) * gradient;
            *square = second * *square + (1.0 - second) * gradient * gradient;
            *value -= rate * *mean / ((*square * of_square).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, LocalSpec, Network, Samples};

    const TRAINING: Repeated = Repeated { steps: 5, learning_rate: 0.3 };

    /// A client with one class: a pattern with noise.
    fn client(class: u8, seed: u64) -> (Vec<f32>, Vec<u8>) {
        let pixel = |index: u64| {
            let pattern = random::unit(u64::from(class) + 100, index % 64);
            ((pattern + 0.2 * (random::unit(seed, index) - 0.5)).clamp(0.0, 1.0)) as f32
        };
        ((0..24 * 64).map(pixel).collect(), vec![class; 24])
    }

    fn cosine(one: &[f32], other: &[f32]) -> f64 {
        let dot = |one: &[f32], other: &[f32]| -> f64 {
            one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
    }

    /// A stale update is turned into the update that the client would send now, nearly: in direction and in length.
    #[test]
    fn a_stale_update_becomes_the_fresh_one() {
        let network = Network::mlp(64, &[32], 10);
        let spec = LocalSpec { epochs: 5, learning_rate: 0.3, ..LocalSpec::default() };
        let learn = |from: &[f32], class, seed| {
            let (features, labels) = client(class, seed);
            let samples = Samples { features: &features, labels: &labels };
            Engine::new(&network).train(from, samples, &spec, None, seed).expect("trained").delta
        };
        let old = network.init(1);
        // Meanwhile the server has learned other classes.
        let mut now = old.clone();
        for round in 0..12 {
            let deltas = [0, 1, 2].map(|class| learn(&now, class, round));
            for (at, value) in now.iter_mut().enumerate() {
                *value += deltas.iter().map(|delta| delta[at]).sum::<f32>() / 3.0;
            }
        }
        let (stale, fresh) = (learn(&old, 5, 77), learn(&now, 5, 77));
        let mut engine = Engine::new(&network);
        let mut invert = |spec: &Inversion, before| {
            invert(&mut engine, (64, 10), &old, &stale, TRAINING, spec, before, 3).expect("inverted")
        };
        let found = invert(&Inversion::default(), None);
        assert!(found.difference < 0.2 && found.cosine > 0.98, "{found:?}");
        let turned = Engine::new(&network).unroll(&now, &found.data, TRAINING, 5).expect("trained");
        let (of_stale, of_turned) = (cosine(&stale, &fresh), cosine(&turned, &fresh));
        assert!(1.0 - of_turned < 0.5 * (1.0 - of_stale), "stale {of_stale}, turned {of_turned}");
        // From there on it is done sooner.
        let again = Inversion { iterations: 20, ..Inversion::default() };
        let (warm, cold) = (invert(&again, Some(&found.data)), invert(&again, None));
        assert!(warm.difference < cold.difference, "{} {}", warm.difference, cold.difference);
    }

    /// Cold, what was found before does not matter; even labels stay what they are while data move.
    #[test]
    fn a_cold_start_forgets_and_even_labels_are_kept() {
        let network = Network::mlp(64, &[16], 10);
        let (features, class) = client(4, 1);
        let samples = Samples { features: &features, labels: &class };
        let spec = LocalSpec { epochs: 5, learning_rate: 0.3, ..LocalSpec::default() };
        let from = network.init(8);
        let delta = Engine::new(&network).train(&from, samples, &spec, None, 0).expect("trained").delta;
        let mut engine = Engine::new(&network);
        let mut find = |spec: &Inversion, before: Option<&Recovered>| {
            invert(&mut engine, (64, 10), &from, &delta, TRAINING, spec, before, 3).expect("inverted").data
        };
        let cold = Inversion { samples: 12, iterations: 5, warm: false, ..Inversion::default() };
        let found = find(&cold, None);
        assert_eq!(find(&cold, Some(&found)), found);
        assert_ne!(find(&Inversion { warm: true, ..cold }, Some(&found)), found);
        let even = find(&Inversion { labels: Labels::Even, ..cold }, None);
        let begun = find(&Inversion { labels: Labels::Even, iterations: 0, ..cold }, None);
        assert_ne!(even.features, begun.features);
        for (sample, labels) in even.labels.chunks(10).enumerate() {
            let wanted: Vec<f32> = (0..10).map(|class| if class == sample % 10 { 20.0 } else { 0.0 }).collect();
            assert_eq!(labels, wanted, "sample {sample}");
        }
    }

    #[test]
    fn the_largest_entries_are_those() {
        assert_eq!(largest(&[0.1, -3.0, 2.0, 0.0, -0.2], 0.4), [0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(largest(&[1.0, 1.0, -1.0], 0.5), [1.0, 1.0, 0.0]);
    }

    /// Training on hard labels by `local` and on soft ones that are as good as hard is the same.
    #[test]
    fn unrolled_training_is_local_training() {
        let network = Network::mlp(64, &[16], 10);
        let (features, class) = client(4, 1);
        let samples = Samples { features: &features, labels: &class };
        let spec = LocalSpec { epochs: 5, learning_rate: 0.3, ..LocalSpec::default() };
        let from = network.init(8);
        let wanted = Engine::new(&network).train(&from, samples, &spec, None, 0).expect("trained").delta;
        let labels = (0..24).flat_map(|_| (0..10).map(|class| if class == 4 { 40.0 } else { 0.0 })).collect();
        let data = Recovered { features, labels };
        let found = Engine::new(&network).unroll(&from, &data, TRAINING, 5).expect("trained");
        let largest = wanted.iter().zip(&found).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-6, "{largest}");
    }

    /// A training with momentum goes as far as its repetition without: nearly, while gradients stay what they are.
    #[test]
    fn momentum_makes_repeated_steps_longer() {
        let spec = LocalSpec { learning_rate: 0.1, momentum: 0.5, ..LocalSpec::default() };
        // Two steps: the first gradient counts 1.5 times, the second once.
        assert_eq!(spec.repeated(2), Repeated { steps: 2, learning_rate: 0.125 });
        assert_eq!(LocalSpec { momentum: 0.0, ..spec }.repeated(7).learning_rate, 0.1);
        let network = Network::mlp(64, &[16], 10);
        let (features, class) = client(4, 1);
        let samples = Samples { features: &features, labels: &class };
        let spec = LocalSpec { epochs: 8, learning_rate: 1e-4, momentum: 0.9, ..LocalSpec::default() };
        let from = network.init(8);
        let wanted = Engine::new(&network).train(&from, samples, &spec, None, 0).expect("trained").delta;
        let labels = (0..24).flat_map(|_| (0..10).map(|class| if class == 4 { 40.0 } else { 0.0 })).collect();
        let data = Recovered { features, labels };
        let found = Engine::new(&network).unroll(&from, &data, spec.repeated(8), 5).expect("trained");
        let length = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let ratio = length(&found) / length(&wanted);
        assert!(cosine(&found, &wanted) > 0.9999 && (ratio - 1.0).abs() < 0.01, "{ratio}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let network = Network::mlp(4, &[], 2);
        let refuse = |spec: Inversion, delta: &[f32]| {
            invert(&mut Engine::new(&network), (4, 2), &[0.0; 10], delta, TRAINING, &spec, None, 0)
                .expect_err("refused")
                .to_string()
        };
        assert!(refuse(Inversion { samples: 0, ..Inversion::default() }, &[0.0; 10]).contains("samples"));
        assert!(refuse(Inversion { top: 0.0, ..Inversion::default() }, &[0.0; 10]).contains("top"));
        assert!(
            refuse(Inversion { learning_rate: f64::NAN, ..Inversion::default() }, &[0.0; 10]).contains("learning_rate")
        );
        assert!(refuse(Inversion { enough: -1.0, ..Inversion::default() }, &[0.0; 10]).contains("enough"));
        assert!(refuse(Inversion { steps: 0, ..Inversion::default() }, &[0.0; 10]).contains("steps"));
        assert!(
            refuse(Inversion { range: [0.0, f32::INFINITY], ..Inversion::default() }, &[0.0; 10]).contains("range")
        );
        assert!(refuse(Inversion { range: [1.0, 1.0], ..Inversion::default() }, &[0.0; 10]).contains("range"));
        assert!(refuse(Inversion::default(), &[0.0; 9]).contains("9 elements, not 10"));
        assert!(refuse(Inversion::default(), &[f32::NAN; 10]).contains("no numbers"));
    }
}
