//! Federated learning on libtorch: the classifiers of `swarmloom-classifiers`, trained, scored and differentiated through
//! local training by automatic differentiation.
//!
//! Simulations run on that crate's engine. This is what it is compared with, and the ground for models that are no list of
//! layers.

use swarmloom_classifiers::local::shuffled;
use swarmloom_classifiers::{
    ClassifierError, Layer, LocalSpec, Network, Recovered, Repeated, Samples, Trained, Unroll, check,
};
use tch::{Kind, Reduction, TchError, Tensor};

use swarmloom_kernels::random;

/// A network on libtorch: a function from parameters and samples to logits.
#[derive(Debug, Clone, Copy)]
pub struct Torch<'a>(pub &'a Network);

impl Torch<'_> {
    /// Views of a flat vector, one for each parameter.
    fn views(&self, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let mut at = 0;
        let view = |shape: Vec<usize>| {
            let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            let length: i64 = shape.iter().product();
            at += length;
            flat.f_narrow(0, at - length, length)?.f_view(shape.as_slice())
        };
        self.0.shapes().into_iter().map(view).collect()
    }

    /// `[samples, channels, height, width]` of what is given flat.
    fn batch(&self, features: &[f32]) -> Result<Tensor, ClassifierError> {
        let [channels, height, width] = self.0.input.map(|size| size as i64);
        let samples = (features.len() / self.0.features().max(1)) as i64;
        check("the batch", features.len(), samples as usize * self.0.features())?;
        Tensor::f_from_slice(features).and_then(|x| x.f_view([samples, channels, height, width])).map_err(of)
    }

    /// Logits, `[samples, classes]`. With `training`, dropout follows from that seed.
    fn forward(&self, parameters: &[Tensor], x: &Tensor, training: Option<u64>) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        let mut next = parameters.iter();
        // There are as many as `shapes` says, by `views`.
        let mut take = || next.next().map(Tensor::shallow_clone).unwrap_or_default();
        for (number, layer) in self.0.layers.iter().enumerate() {
            x = match layer {
                Layer::Convolution { padding, .. } => {
                    let (weight, bias, padding) = (take(), take(), *padding as i64);
                    x.f_conv2d(&weight, Some(bias), [1, 1], [padding, padding], [1, 1], 1)?
                }
                Layer::MaxPool => x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?,
                Layer::Relu => x.f_relu()?,
                Layer::Dropout(part) => match training {
                    Some(seed) => x.f_mul(&kept(&x, *part, random::bits(seed, number as u64))?)?,
                    None => x,
                },
                Layer::Flatten => x.f_flatten(1, -1)?,
                Layer::Linear { .. } => {
                    let (weight, bias) = (take(), take());
                    x.f_linear(&weight, Some(bias))?
                }
            };
        }
        Ok(x)
    }

    /// Some epochs of gradient descent: [`swarmloom_classifiers::Worker::train`].
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit or libtorch fails.
    pub fn train(
        &self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError> {
        check("the parameters", from.len(), self.0.parameters())?;
        check("the features", samples.features.len(), samples.len() * self.0.features())?;
        if samples.is_empty() || spec.epochs == 0 {
            return Ok(Trained { delta: vec![0.0; from.len()], steps: 0, loss: 0.0 });
        }
        let x = self.batch(samples.features)?;
        self.descend(from, &x, samples.labels, spec, correction, seed).map_err(of)
    }

    fn descend(
        &self,
        from: &[f32],
        x: &Tensor,
        labels: &[u8],
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, TchError> {
        let start = Tensor::f_from_slice(from)?;
        let flat = start.f_mul_scalar(1.0)?;
        // Leaves that share the flat vector's memory: an operation on it is one on all of them.
        let leaves: Vec<Tensor> = self
            .views(&flat)?
            .into_iter()
            .map(|view| view.f_detach()?.f_set_requires_grad(true))
            .collect::<Result<_, _>>()?;
        let labels = Tensor::f_from_slice(&labels.iter().map(|label| i64::from(*label)).collect::<Vec<_>>())?;
        let correction = correction.map(Tensor::f_from_slice).transpose()?;
        let mut velocity: Option<Tensor> = None;
        let (mut steps, mut losses) = (0, Vec::new());
        let samples = x.size()[0] as usize;
        let size = if spec.batch_size == 0 { samples } else { spec.batch_size.min(samples) };
        'epochs: for epoch in 0..spec.epochs {
            let order: Vec<i64> = match size < samples {
                true => shuffled(samples, random::bits(seed, u64::from(epoch))).iter().map(|at| *at as i64).collect(),
                false => (0..samples as i64).collect(),
            };
            for batch in order.chunks(size) {
                if spec.stop_after == Some(steps) {
                    break 'epochs;
                }
                let index = Tensor::f_from_slice(batch)?;
                let (x, y) = (x.f_index_select(0, &index)?, labels.f_index_select(0, &index)?);
                let logits = self.forward(&leaves, &x, Some(random::bits(seed, (1 << 32) + u64::from(steps))))?;
                let loss = logits.f_cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0)?;
                let gradients = Tensor::f_run_backward(&[&loss], &leaves, false, false)?;
                losses.push(loss.f_detach()?);
                steps += 1;
                let _no_grad = tch::no_grad_guard();
                let flattened: Vec<Tensor> =
                    gradients.iter().map(|one| one.f_flatten(0, -1)).collect::<Result<_, _>>()?;
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
        let loss = Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?.f_double_value(&[])? as f32;
        Ok(Trained { delta, steps, loss })
    }

    /// Right answers and samples, by class: [`swarmloom_classifiers::Worker::score`].
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit or libtorch fails.
    pub fn score(&self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        check("the parameters", parameters.len(), self.0.parameters())?;
        let _no_grad = tch::no_grad_guard();
        let views = Tensor::f_from_slice(parameters).and_then(|flat| self.views(&flat)).map_err(of)?;
        let mut counts = vec![[0; 2]; self.0.classes()];
        // As much as stays in the cache.
        let parts = samples.features.chunks(512 * self.0.features().max(1)).zip(samples.labels.chunks(512));
        for (features, labels) in parts {
            let x = self.batch(features)?;
            let best = self.forward(&views, &x, None).and_then(|logits| logits.f_argmax(1, false)).map_err(of)?;
            for (found, label) in Vec::<i64>::try_from(best).map_err(of)?.into_iter().zip(labels) {
                if let Some(count) = counts.get_mut(usize::from(*label)) {
                    count[0] += u32::from(found == i64::from(*label));
                    count[1] += 1;
                }
            }
        }
        Ok(counts)
    }
}

/// What dropout multiplies with. Whole channels of images are dropped together (Tompson et al. 2015).
fn kept(x: &Tensor, part: f64, seed: u64) -> Result<Tensor, TchError> {
    let size = x.size();
    let shape: Vec<i64> = size.iter().enumerate().map(|(at, size)| if at < 2 { *size } else { 1 }).collect();
    let count: i64 = shape.iter().product();
    let scale = (1.0 / (1.0 - part)) as f32;
    let mask: Vec<f32> =
        (0..count as u64).map(|index| if random::unit(seed, index) < part { 0.0 } else { scale }).collect();
    Tensor::f_from_slice(&mask)?.f_view(shape.as_slice())
}

/// [`Unroll`] by automatic differentiation.
#[derive(Debug)]
pub struct Autograd<'a> {
    network: Torch<'a>,
    last: Option<(Tensor, Tensor, Tensor)>,
}

impl<'a> Autograd<'a> {
    /// For this network.
    pub fn new(network: Torch<'a>) -> Self {
        Self { network, last: None }
    }

    fn trained(
        &self,
        from: &[f32],
        (x, y): (&Tensor, &Tensor),
        (steps, rate): (u32, f64),
    ) -> Result<(Tensor, Vec<f32>), TchError> {
        let labels = y.f_softmax(-1, Kind::Float)?;
        let start = Tensor::f_from_slice(from)?;
        let mut flat = start.f_detach()?.f_set_requires_grad(true)?;
        for _ in 0..steps {
            let logits = self.network.forward(&self.network.views(&flat)?, x, None)?;
            let loss = logits.f_log_softmax(-1, Kind::Float)?.f_mul(&labels)?.f_sum(Kind::Float)?;
            let loss = loss.f_div_scalar(-x.size()[0])?;
            let gradient = Tensor::f_run_backward(&[&loss], &[&flat], true, true)?;
            flat = flat.f_sub(&gradient[0].f_mul_scalar(rate)?)?;
        }
        let trained = flat.f_sub(&start)?;
        let plain = Vec::<f32>::try_from(trained.f_detach()?)?;
        Ok((trained, plain))
    }
}

impl Unroll for Autograd<'_> {
    fn unroll(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        most: u32,
    ) -> Result<Vec<f32>, ClassifierError> {
        check("the parameters", from.len(), self.network.0.parameters())?;
        let x = self.network.batch(&data.features)?.set_requires_grad(true);
        let (samples, classes) = (x.size()[0], self.network.0.classes());
        check("the labels", data.labels.len(), samples as usize * classes)?;
        let y = Tensor::f_from_slice(&data.labels).and_then(|y| y.f_view([samples, classes as i64])).map_err(of)?;
        let y = y.set_requires_grad(true);
        let (trained, plain) = self.trained(from, (&x, &y), training.at_most(most)).map_err(of)?;
        self.last = Some((x, y, trained));
        Ok(plain)
    }

    fn pull_back(&mut self, adjoint: &[f32]) -> Result<Recovered, ClassifierError> {
        check("the adjoint", adjoint.len(), self.network.0.parameters())?;
        let Some((x, y, trained)) = self.last.take() else {
            return Err(ClassifierError::Value { what: "the adjoint", why: "nothing was unrolled".into() });
        };
        let gradients = || {
            let along = trained.f_mul(&Tensor::f_from_slice(adjoint)?)?.f_sum(Kind::Float)?;
            let gradients = Tensor::f_run_backward(&[&along], &[&x, &y], false, false)?;
            let plain = |tensor: &Tensor| Vec::<f32>::try_from(tensor.f_detach()?.f_flatten(0, -1)?);
            Ok(Recovered { features: plain(&gradients[0])?, labels: plain(&gradients[1])? })
        };
        gradients().map_err(of)
    }
}

fn of(error: TchError) -> ClassifierError {
    ClassifierError::Library { library: "libtorch", why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use swarmloom_classifiers::Engine;

    use super::*;

    fn draw(seed: u64, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|at| scale * random::unit(seed, at as u64) as f32).collect()
    }

    /// The largest difference relative to the largest entry.
    fn apart(one: &[f32], other: &[f32]) -> f32 {
        let largest = other.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
    }

    fn padded() -> Network {
        Network {
            name: "padded".into(),
            input: [2, 8, 8],
            layers: vec![
                Layer::Relu,
                Layer::Convolution { from: 2, to: 5, kernel: 3, padding: 1 },
                Layer::MaxPool,
                Layer::Convolution { from: 5, to: 4, kernel: 3, padding: 1 },
                Layer::Relu,
                Layer::Flatten,
                Layer::Dropout(0.25),
                Layer::Linear { from: 64, to: 3 },
            ],
        }
    }

    /// Every network, batches that fill tiles of the engine and such that do not, with everything that changes a step.
    #[test]
    fn the_engine_trains_as_libtorch_does() {
        let networks = [
            Network::mlp(20, &[16, 9], 10),
            Network::lenet5(1, 28, 10),
            Network::lenet5(3, 32, 10),
            Network::reference_cnn(1, 28, 10),
            padded(),
        ];
        for network in networks {
            let features = draw(9, 40 * network.features(), 1.0);
            let labels: Vec<u8> = (0..40).map(|at| (at * 7 % network.classes()) as u8).collect();
            let samples = Samples { features: &features, labels: &labels };
            let from = network.init(3);
            let correction = draw(4, from.len(), 0.01);
            let plain = LocalSpec { epochs: 2, batch_size: 23, learning_rate: 0.05, ..LocalSpec::default() };
            let all = LocalSpec { batch_size: 0, momentum: 0.9, proximal: 0.1, stop_after: Some(2), ..plain };
            let (mut engine, torch) = (Engine::new(&network), Torch(&network));
            for (spec, correction) in [(plain, None), (all, Some(&correction[..])), (plain, None)] {
                let ours = engine.train(&from, samples, &spec, correction, 5).expect("trained");
                let theirs = torch.train(&from, samples, &spec, correction, 5).expect("trained");
                assert_eq!(ours.steps, theirs.steps);
                assert!((ours.loss - theirs.loss).abs() < 1e-5, "{} {} {}", network.name, ours.loss, theirs.loss);
                let apart = apart(&ours.delta, &theirs.delta);
                assert!(apart < 2e-4, "{} {spec:?}: {apart}", network.name);
            }
            let scored = engine.score(&from, samples).expect("scored");
            assert_eq!(scored, torch.score(&from, samples).expect("scored"));
        }
    }

    /// Derivatives through five steps by the engine's tangents and by automatic differentiation.
    #[test]
    fn gradients_through_local_training_are_those_of_libtorch() {
        let networks = [
            (Network::mlp(20, &[16], 10), 21),
            (Network::reference_cnn(1, 28, 10), 5),
            (Network::lenet5(1, 28, 10), 3),
            (padded(), 17),
        ];
        let training = Repeated { steps: 5, learning_rate: 0.3 };
        for (network, samples) in networks {
            let data = Recovered {
                features: draw(1, samples * network.features(), 1.0),
                labels: draw(2, samples * network.classes(), 3.0),
            };
            let from = network.init(3);
            let adjoint: Vec<f32> = draw(4, from.len(), 2.0).iter().map(|value| value - 1.0).collect();
            let (mut engine, mut autograd) = (Engine::new(&network), Autograd::new(Torch(&network)));
            let ours = engine.unroll(&from, &data, training, 5).expect("trained");
            let theirs = autograd.unroll(&from, &data, training, 5).expect("trained");
            assert!(apart(&ours, &theirs) < 1e-4, "{}: {}", network.name, apart(&ours, &theirs));
            let ours = engine.pull_back(&adjoint).expect("ours");
            let theirs = autograd.pull_back(&adjoint).expect("theirs");
            let [features, labels] = [apart(&ours.features, &theirs.features), apart(&ours.labels, &theirs.labels)];
            assert!(features < 1e-3 && labels < 1e-3, "{}: {features} {labels}", network.name);
        }
    }
}
