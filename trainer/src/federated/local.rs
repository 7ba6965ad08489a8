//! What a client does: some epochs of gradient descent from the parameters that it was given.

use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

use super::{FederatedError, Network, Samples, check};
use crate::random;

/// How a client trains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSpec {
    /// Passes over its samples.
    pub epochs: u32,
    /// Samples of a step; 0 takes all of them.
    pub batch_size: usize,
    /// Of every step.
    pub learning_rate: f64,
    /// What is kept of the last step's direction.
    pub momentum: f64,
    /// Weight of half the squared distance to the parameters that were given: FedProx's term, Li et al. 2020.
    pub proximal: f64,
}

impl Default for LocalSpec {
    fn default() -> Self {
        Self { epochs: 5, batch_size: 0, learning_rate: 0.01, momentum: 0.0, proximal: 0.0 }
    }
}

impl LocalSpec {
    /// Steps that `samples` make.
    pub fn steps(&self, samples: usize) -> u32 {
        let batch = if self.batch_size == 0 { samples } else { self.batch_size };
        self.epochs * samples.div_ceil(batch.max(1)) as u32
    }
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Parameters after minus parameters before.
    pub delta: Vec<f32>,
    /// Steps that were taken.
    pub steps: u32,
    /// Mean loss over all steps, natural logarithm.
    pub loss: f32,
}

/// Trains. `correction` is added to every gradient (SCAFFOLD's `c - c_i`); `seed` decides the order of samples and what is
/// dropped out.
///
/// # Errors
/// [`FederatedError`] where lengths do not fit.
pub fn train(
    network: &Network,
    from: &[f32],
    samples: Samples<'_>,
    spec: &LocalSpec,
    correction: Option<&[f32]>,
    seed: u64,
) -> Result<Trained, FederatedError> {
    check("the parameters", from.len(), network.parameters())?;
    check("the features", samples.features.len(), samples.len() * network.features())?;
    if samples.is_empty() || spec.epochs == 0 {
        return Ok(Trained { delta: vec![0.0; from.len()], steps: 0, loss: 0.0 });
    }
    let start = Tensor::f_from_slice(from)?;
    let flat = start.f_mul_scalar(1.0)?;
    // Leaves that share the flat vector's memory: an operation on it is one on all of them.
    let leaves: Vec<Tensor> = network
        .views(&flat)?
        .into_iter()
        .map(|view| view.f_detach()?.f_set_requires_grad(true))
        .collect::<Result<_, _>>()?;
    let (x, labels) = (network.batch(samples.features)?, targets(samples.labels)?);
    let correction = correction.map(Tensor::f_from_slice).transpose()?;
    let mut velocity: Option<Tensor> = None;
    let (mut steps, mut losses) = (0, Vec::new());
    let size = if spec.batch_size == 0 { samples.len() } else { spec.batch_size.min(samples.len()) };
    for epoch in 0..spec.epochs {
        let order = (size < samples.len()).then(|| shuffled(samples.len(), random::bits(seed, u64::from(epoch))));
        for first in (0..samples.len()).step_by(size) {
            let last = (first + size).min(samples.len());
            let of_batch = order.as_ref().map(|order| Tensor::f_from_slice(&order[first..last])).transpose()?;
            let (x, y) = match &of_batch {
                Some(index) => (x.f_index_select(0, index)?, labels.f_index_select(0, index)?),
                None => (x.shallow_clone(), labels.shallow_clone()),
            };
            let logits = network.forward(&leaves, &x, Some(random::bits(seed, (1 << 32) + u64::from(steps))))?;
            let loss = logits.f_cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0)?;
            let gradients = Tensor::f_run_backward(&[&loss], &leaves, false, false)?;
            losses.push(loss.f_detach()?);
            steps += 1;
            let _no_grad = tch::no_grad_guard();
            let flattened: Vec<Tensor> = gradients.iter().map(|one| one.f_flatten(0, -1)).collect::<Result<_, _>>()?;
            let mut gradient = Tensor::f_cat(&flattened, 0)?;
            if let Some(correction) = &correction {
                let _ = gradient.f_add_(correction)?;
            }
            if spec.proximal > 0.0 {
                let _ = gradient.f_add_(&flat.f_sub(&start)?.f_mul_scalar(spec.proximal)?)?;
            }
            if spec.momentum > 0.0 {
                let moved = match &velocity {
                    Some(before) => before.f_mul_scalar(spec.momentum)?.f_add(&gradient)?,
                    None => gradient,
                };
                gradient = moved.shallow_clone();
                velocity = Some(moved);
            }
            let _ = flat.shallow_clone().f_sub_(&gradient.f_mul_scalar(spec.learning_rate)?)?;
        }
    }
    let delta = Vec::<f32>::try_from(flat.f_sub(&start)?)?;
    let loss = Tensor::f_stack(&losses, 0)?.f_mean(tch::Kind::Float)?.f_double_value(&[])? as f32;
    Ok(Trained { delta, steps, loss })
}

fn targets(labels: &[u8]) -> Result<Tensor, FederatedError> {
    Ok(Tensor::f_from_slice(&labels.iter().map(|label| i64::from(*label)).collect::<Vec<_>>())?)
}

/// A permutation of `0..count` (Fisher and Yates).
fn shuffled(count: usize, seed: u64) -> Vec<i64> {
    let mut order: Vec<i64> = (0..count as i64).collect();
    for at in (1..count).rev() {
        order.swap(at, (random::unit(seed, at as u64) * (at + 1) as f64) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logistic regression on two samples, where the gradient is known.
    #[test]
    fn one_step_is_the_gradient_by_hand() {
        let network = Network::mlp(2, &[], 2);
        let samples = Samples { features: &[1.0, 0.0, 0.0, 2.0], labels: &[0, 1] };
        let spec = LocalSpec { epochs: 1, learning_rate: 1.0, ..LocalSpec::default() };
        let trained = train(&network, &[0.0; 6], samples, &spec, None, 1).expect("trained");
        // At zero every probability is a half: the mean over both of (p - y) x, and of p - y for the bias.
        assert_eq!(trained.delta, [0.25, -0.5, -0.25, 0.5, 0.0, 0.0]);
        assert_eq!(trained.steps, 1);
        assert!((trained.loss - std::f32::consts::LN_2).abs() < 1e-6);
        // SCAFFOLD's correction is taken off as a gradient would be.
        let corrected = train(&network, &[0.0; 6], samples, &spec, Some(&[0.5; 6]), 1).expect("trained");
        assert_eq!(corrected.delta, [-0.25, -1.0, -0.75, 0.0, -0.5, -0.5]);
    }

    #[test]
    fn momentum_and_the_proximal_term_act_from_the_second_step_on() {
        let network = Network::mlp(2, &[], 2);
        let samples = Samples { features: &[1.0, 0.0], labels: &[0] };
        let one = LocalSpec { epochs: 1, learning_rate: 0.5, ..LocalSpec::default() };
        let first = train(&network, &[0.0; 6], samples, &one, None, 1).expect("trained").delta;
        let plain = |spec: &LocalSpec| train(&network, &[0.0; 6], samples, spec, None, 1).expect("trained").delta;
        let two = LocalSpec { epochs: 2, ..one };
        let second: Vec<f32> = plain(&two).iter().zip(&first).map(|(all, first)| all - first).collect();
        let pulled = plain(&LocalSpec { proximal: 0.2, ..two });
        let carried = plain(&LocalSpec { momentum: 0.9, ..two });
        for at in 0..6 {
            // The second gradient has 0.2 times what the first step moved; the second step has 0.9 of the first.
            assert!((pulled[at] - (first[at] + second[at] - 0.5 * 0.2 * first[at])).abs() < 1e-6);
            assert!((carried[at] - (first[at] + second[at] + 0.9 * first[at])).abs() < 1e-6);
        }
    }

    #[test]
    fn a_seed_is_an_order_of_samples_and_the_same_seed_the_same_bits() {
        let network = Network::reference_cnn(1, 28, 10);
        let features: Vec<f32> = (0..40 * 784).map(|index| random::unit(9, index) as f32).collect();
        let labels: Vec<u8> = (0..40).map(|index| index % 10).collect();
        let samples = Samples { features: &features, labels: &labels };
        let spec = LocalSpec { epochs: 2, batch_size: 16, learning_rate: 0.05, ..LocalSpec::default() };
        let run = |seed| train(&network, &network.init(3), samples, &spec, None, seed).expect("trained");
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).delta, run(2).delta);
        assert_eq!(run(1).steps, spec.steps(40));
        assert_eq!(shuffled(5, 4).iter().sum::<i64>(), 10);
    }
}
