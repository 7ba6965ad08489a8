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

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use super::{FederatedError, Network, check};
use crate::random;

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
}

impl Default for Inversion {
    fn default() -> Self {
        Self { samples: 16, iterations: 200, learning_rate: 0.05, top: 1.0, enough: 0.01, steps: 5, range: [0.0, 1.0] }
    }
}

/// Recovered data: where the next inversion of the same client begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// `[samples, features]`.
    pub features: Vec<f32>,
    /// `[samples, classes]`: labels are their softmax.
    pub labels: Vec<f32>,
}

/// What an inversion has found.
#[derive(Debug, Clone, PartialEq)]
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

/// Finds data that train from `from` to `from + delta`. `before` is what the client's last inversion found; without it,
/// data begin at random in the middle of the range, labels undecided.
///
/// # Errors
/// [`FederatedError`] where lengths do not fit or a setting makes no sense.
pub fn invert(
    network: &Network,
    from: &[f32],
    delta: &[f32],
    training: Repeated,
    spec: &Inversion,
    before: Option<&Recovered>,
    seed: u64,
) -> Result<Inverted, FederatedError> {
    let parameters = network.parameters();
    check("the parameters", from.len(), parameters)?;
    check("the update", delta.len(), parameters)?;
    let refuse = |what, why: &str| Err(FederatedError::Value { what, why: why.into() });
    if spec.samples == 0 || spec.samples > 4096 {
        return refuse("samples", "1 to 4096 are recovered");
    }
    if !(spec.top > 0.0 && spec.top <= 1.0) {
        return refuse("top", "a part is above 0 and at most 1");
    }
    if spec.range[0].partial_cmp(&spec.range[1]) != Some(std::cmp::Ordering::Less) {
        return refuse("range", "the least value is below the largest");
    }
    if delta.iter().any(|value| !value.is_finite()) {
        return refuse("the update", "it has values that are no numbers");
    }
    let start = begin(network, spec, before, seed)?;
    let leaf = |values: &[f32], shape: &[i64]| -> Result<Tensor, TchError> {
        Ok(Tensor::f_from_slice(values)?.f_view(shape)?.set_requires_grad(true))
    };
    let [channels, height, width] = network.input.map(|size| size as i64);
    let samples = spec.samples as i64;
    let mut x = leaf(&start.features, &[samples, channels, height, width])?;
    let mut y = leaf(&start.labels, &[samples, network.classes() as i64])?;
    let old = Tensor::f_from_slice(from)?;
    let wanted = Tensor::f_from_slice(delta)?;
    let counts = largest(&wanted, spec.top)?;
    let size = wanted.f_mul(&counts)?.f_abs()?.f_sum(Kind::Float)?.f_double_value(&[])?.max(1e-12);
    let (mut of_x, mut of_y) = (Adam::default(), Adam::default());
    let mut iterations = 0;
    let mut last;
    loop {
        let trained = unrolled(network, &old, (&x, &y), training, spec.steps, true)?;
        let difference = trained.f_sub(&wanted)?.f_mul(&counts)?.f_abs()?.f_sum(Kind::Float)?.f_div_scalar(size)?;
        last = (difference.f_double_value(&[])?, trained.f_detach()?);
        if iterations == spec.iterations || last.0 < spec.enough || !last.0.is_finite() {
            break;
        }
        let gradients = Tensor::f_run_backward(&[&difference], &[&x, &y], false, false)?;
        let done = f64::from(iterations) / f64::from(spec.iterations);
        let rate = spec.learning_rate * (0.1 + 0.9 * (0.5 + 0.5 * (std::f64::consts::PI * done).cos()));
        iterations += 1;
        let _no_grad = tch::no_grad_guard();
        let (low, high) = (f64::from(spec.range[0]), f64::from(spec.range[1]));
        let moved = of_x.step(&x, &gradients[0], rate * (high - low), iterations)?.f_clamp(low, high)?;
        x = moved.f_detach()?.set_requires_grad(true);
        // Logits move on a scale of their own: ten of them decide a label.
        y = of_y.step(&y, &gradients[1], 10.0 * rate, iterations)?.f_detach()?.set_requires_grad(true);
    }
    let (difference, trained) = last;
    let dot = |one: &Tensor, other: &Tensor| -> Result<f64, TchError> {
        one.f_mul(other)?.f_sum(Kind::Double)?.f_double_value(&[])
    };
    let lengths = [dot(&trained, &trained)?.sqrt(), dot(&wanted, &wanted)?.sqrt()];
    let cosine = dot(&trained, &wanted)? / (lengths[0] * lengths[1]).max(1e-24);
    let plain = |tensor: &Tensor| Vec::<f32>::try_from(tensor.f_detach()?.f_flatten(0, -1)?);
    Ok(Inverted {
        data: Recovered { features: plain(&x)?, labels: plain(&y)? },
        iterations,
        difference: difference as f32,
        cosine: cosine as f32,
        norm: (lengths[0] / lengths[1].max(1e-24)) as f32,
    })
}

/// The update that recovered data give from other parameters: what the client would have sent had it begun there.
///
/// # Errors
/// [`FederatedError`] where lengths do not fit.
pub fn retrain(
    network: &Network,
    from: &[f32],
    data: &Recovered,
    training: Repeated,
    steps: u32,
) -> Result<Vec<f32>, FederatedError> {
    check("the parameters", from.len(), network.parameters())?;
    let x = network.batch(&data.features)?;
    let samples = x.size()[0];
    check("the labels", data.labels.len(), samples as usize * network.classes())?;
    let y = Tensor::f_from_slice(&data.labels)?.f_view([samples, network.classes() as i64])?;
    let delta = unrolled(network, &Tensor::f_from_slice(from)?, (&x, &y), training, steps, false)?;
    Ok(Vec::<f32>::try_from(delta)?)
}

fn begin(
    network: &Network,
    spec: &Inversion,
    before: Option<&Recovered>,
    seed: u64,
) -> Result<Recovered, FederatedError> {
    let (features, labels) = (spec.samples * network.features(), spec.samples * network.classes());
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
        labels: (0..labels).map(|index| 0.2 * (at(features + index) - 0.5)).collect(),
    })
}

/// 1 where an entry is among the largest, 0 elsewhere.
fn largest(update: &Tensor, part: f64) -> Result<Tensor, TchError> {
    let count = update.size()[0];
    let kept = ((count as f64 * part).ceil() as i64).clamp(1, count);
    if kept == count {
        return update.f_ones_like();
    }
    let (_, index) = update.f_abs()?.f_topk(kept, 0, true, false)?;
    update.f_zeros_like()?.f_index_fill(0, &index, 1.0)
}

/// Parameters after training on soft labels minus parameters before, with the graph through all steps where it is wanted.
fn unrolled(
    network: &Network,
    from: &Tensor,
    (x, y): (&Tensor, &Tensor),
    training: Repeated,
    most: u32,
    graph: bool,
) -> Result<Tensor, TchError> {
    let steps = training.steps.clamp(1, most.max(1));
    let rate = training.learning_rate * f64::from(training.steps.max(1)) / f64::from(steps);
    let labels = y.f_softmax(-1, Kind::Float)?;
    let mut flat = from.f_detach()?.f_set_requires_grad(true)?;
    for _ in 0..steps {
        let logits = network.forward(&network.views(&flat)?, x, None)?;
        let loss = logits.f_log_softmax(-1, Kind::Float)?.f_mul(&labels)?.f_sum(Kind::Float)?;
        let loss = loss.f_div_scalar(-x.size()[0])?;
        let gradient = Tensor::f_run_backward(&[&loss], &[&flat], graph, graph)?;
        flat = flat.f_sub(&gradient[0].f_mul_scalar(rate)?)?;
        if !graph {
            flat = flat.f_detach()?.f_set_requires_grad(true)?;
        }
    }
    flat.f_sub(&from.f_detach()?)
}

/// Kingma and Ba 2015, with its defaults.
#[derive(Debug, Default)]
struct Adam {
    moments: Option<(Tensor, Tensor)>,
}

impl Adam {
    /// The value after the step of that number, counted from 1.
    fn step(&mut self, value: &Tensor, gradient: &Tensor, rate: f64, number: u32) -> Result<Tensor, TchError> {
        let (first, second) = (0.9_f64, 0.999_f64);
        let (mean, square) = match self.moments.take() {
            Some(moments) => moments,
            None => (gradient.f_zeros_like()?, gradient.f_zeros_like()?),
        };
        let mean = mean.f_mul_scalar(first)?.f_add(&gradient.f_mul_scalar(1.0 - first)?)?;
        let square = square.f_mul_scalar(second)?.f_add(&gradient.f_square()?.f_mul_scalar(1.0 - second)?)?;
        let correct = |beta: f64| 1.0 - beta.powi(number.cast_signed());
        let root = square.f_div_scalar(correct(second))?.f_sqrt()?.f_add_scalar(1e-8)?;
        let moved = value.f_sub(&mean.f_div(&root)?.f_mul_scalar(rate / correct(first))?)?;
        self.moments = Some((mean, square));
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Samples;
    use super::super::local::{LocalSpec, train};
    use super::*;

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
            train(&network, from, samples, &spec, None, seed).expect("trained").delta
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
        let found = invert(&network, &old, &stale, TRAINING, &Inversion::default(), None, 3).expect("inverted");
        assert!(found.difference < 0.2 && found.cosine > 0.98, "{found:?}");
        let turned = retrain(&network, &now, &found.data, TRAINING, 5).expect("retrained");
        let (of_stale, of_turned) = (cosine(&stale, &fresh), cosine(&turned, &fresh));
        assert!(1.0 - of_turned < 0.5 * (1.0 - of_stale), "stale {of_stale}, turned {of_turned}");
        // From there on it is done sooner.
        let again = Inversion { iterations: 20, ..Inversion::default() };
        let warm = invert(&network, &old, &stale, TRAINING, &again, Some(&found.data), 3).expect("inverted");
        let cold = invert(&network, &old, &stale, TRAINING, &again, None, 3).expect("inverted");
        assert!(warm.difference < cold.difference, "{} {}", warm.difference, cold.difference);
    }

    #[test]
    fn the_largest_entries_are_those() {
        let update = Tensor::from_slice(&[0.1_f32, -3.0, 2.0, 0.0, -0.2]);
        let counts = Vec::<f32>::try_from(largest(&update, 0.4).expect("counts")).expect("values");
        assert_eq!(counts, [0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    /// Training on hard labels by `local` and on soft ones that are as good as hard is the same.
    #[test]
    fn unrolled_training_is_local_training() {
        let network = Network::mlp(64, &[16], 10);
        let (features, class) = client(4, 1);
        let samples = Samples { features: &features, labels: &class };
        let spec = LocalSpec { epochs: 5, learning_rate: 0.3, ..LocalSpec::default() };
        let from = network.init(8);
        let wanted = train(&network, &from, samples, &spec, None, 0).expect("trained").delta;
        let labels = (0..24).flat_map(|_| (0..10).map(|class| if class == 4 { 40.0 } else { 0.0 })).collect();
        let data = Recovered { features, labels };
        let found = retrain(&network, &from, &data, TRAINING, 5).expect("retrained");
        let largest = wanted.iter().zip(&found).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-6, "{largest}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let network = Network::mlp(4, &[], 2);
        let refuse = |spec: Inversion, delta: &[f32]| {
            invert(&network, &[0.0; 10], delta, TRAINING, &spec, None, 0).expect_err("refused").to_string()
        };
        assert!(refuse(Inversion { samples: 0, ..Inversion::default() }, &[0.0; 10]).contains("samples"));
        assert!(refuse(Inversion { top: 0.0, ..Inversion::default() }, &[0.0; 10]).contains("top"));
        assert!(refuse(Inversion { range: [1.0, 1.0], ..Inversion::default() }, &[0.0; 10]).contains("range"));
        assert!(refuse(Inversion::default(), &[0.0; 9]).contains("9 elements, not 10"));
        assert!(refuse(Inversion::default(), &[f32::NAN; 10]).contains("no numbers"));
    }
}
