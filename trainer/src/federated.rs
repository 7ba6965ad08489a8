//! Federated learning on libtorch: any differentiable model as a `Model` of `swarmloom-classifiers`, trained, scored, and
//! differentiated through local training.
//!
//! A [`Net`] says what a model is, [`Torch`] makes a [`Model`] of it. Beside the [`Network`](swarmloom_classifiers::Network)s
//! of that crate, whose own engine is compared with this one, there are [`ResNet`]s, a [`Transformer`] over characters, and
//! whatever a TorchScript file holds: [`Script`].
//!
//! Everything is f32 on the processor, each worker on one thread of libtorch's, so results do not depend on how many
//! workers there are.

mod network;
mod resnet;
mod script;
mod transformer;

use std::fmt;

use swarmloom_classifiers::local::shuffled;
use swarmloom_classifiers::{
    ClassifierError, Inversion, Inverted, LocalSpec, Model, Recovered, Repeated, Samples, Trained, Unroll, Worker,
    check, invert,
};
use swarmloom_kernels::random;
use tch::{Kind, Reduction, TchError, Tensor};

pub use self::resnet::ResNet;
pub use self::script::{Script, ScriptError};
pub use self::transformer::Transformer;

/// Samples that are scored together: as much as stays in the cache.
const SCORED: usize = 64;

/// A function from parameters and samples to logits, on libtorch.
pub trait Net: fmt::Debug + Send + Sync {
    /// Its name for people.
    fn name(&self) -> &str;

    /// Shape of a sample as [`Instance::logits`] takes it.
    fn input(&self) -> Vec<i64>;

    /// Classes that it tells apart.
    fn classes(&self) -> usize;

    /// How many parameters there are.
    fn parameters(&self) -> usize;

    /// Fresh parameters, `[parameters]`.
    fn init(&self, seed: u64) -> Vec<f32>;

    /// Whether samples are numbers of something, such as characters, so that there is nothing to differentiate by.
    fn discrete(&self) -> bool {
        false
    }

    /// What one thread computes with.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn instance(&self) -> Result<Box<dyn Instance + '_>, TchError>;
}

/// A [`Net`] in the hands of one thread.
pub trait Instance {
    /// The leaves of the graph: tensors that require gradients and share the memory of `flat`, `[parameters] f32`; one after
    /// the other they are all of it.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn leaves(&mut self, flat: &Tensor) -> Result<Vec<Tensor>, TchError>;

    /// Logits, `[samples, classes] f32`, of `x`, `[samples, ..]` with [`Net::input`] after it. With `training`, what is drawn
    /// follows from that seed.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn logits(&self, leaves: &[Tensor], x: &Tensor, training: Option<u64>) -> Result<Tensor, TchError>;
}

/// A [`Model`] by libtorch.
#[derive(Debug, Clone, Copy)]
pub struct Torch<N>(pub N);

impl<N: Net> Model for Torch<N> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn parameters(&self) -> usize {
        self.0.parameters()
    }

    fn features(&self) -> usize {
        self.0.input().iter().product::<i64>() as usize
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn init(&self, seed: u64) -> Result<Vec<f32>, ClassifierError> {
        Ok(self.0.init(seed))
    }

    /// The worker stays with the thread that asks for it.
    fn worker(&self) -> Result<Box<dyn Worker + '_>, ClassifierError> {
        Ok(Box::new(TorchWorker::new(&self.0)?))
    }
}

/// One thread's means to compute with a [`Net`].
pub struct TorchWorker<'a> {
    net: &'a dyn Net,
    instance: Box<dyn Instance + 'a>,
    /// `[parameters]`: an operation on it is one on all leaves.
    flat: Tensor,
    leaves: Vec<Tensor>,
    input: Vec<i64>,
    features: usize,
    tape: Option<Tape>,
}

/// What [`Unroll::unroll`] leaves for [`Unroll::pull_back`].
struct Tape {
    x: Tensor,
    y: Tensor,
    /// Parameters before each step.
    before: Vec<Tensor>,
    rate: f64,
}

impl fmt::Debug for TorchWorker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TorchWorker").field("net", &self.net).finish_non_exhaustive()
    }
}

impl<'a> TorchWorker<'a> {
    /// For this thread, which computes without others' help from now on where libtorch is concerned.
    ///
    /// # Errors
    /// [`ClassifierError::Library`] where libtorch fails.
    pub fn new(net: &'a dyn Net) -> Result<Self, ClassifierError> {
        // OpenMP keeps this number for each thread. Asking first lets libtorch set up this one; later that would undo it.
        let _ = tch::get_num_threads();
        tch::set_num_threads(1);
        let make = || {
            let mut instance = net.instance()?;
            let flat = Tensor::f_zeros([net.parameters() as i64], (Kind::Float, tch::Device::Cpu))?;
            let leaves = instance.leaves(&flat)?;
            let input = net.input();
            let features = input.iter().product::<i64>() as usize;
            Ok(Self { net, instance, flat, leaves, input, features, tape: None })
        };
        make().map_err(of)
    }

    /// `[samples, ..]` of what is given flat.
    fn batch(&self, features: &[f32], samples: usize) -> Result<Tensor, ClassifierError> {
        check("the features", features.len(), samples * self.features)?;
        let mut shape = vec![samples as i64];
        shape.extend(&self.input);
        Tensor::f_from_slice(features).and_then(|x| x.f_view(shape.as_slice())).map_err(of)
    }

    /// Puts parameters into the leaves.
    fn write(&mut self, parameters: &Tensor) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.flat.f_copy_(parameters)
    }

    /// Gradients by the leaves, `[parameters]`; those of what has no part in it are 0.
    fn joined(&self, gradients: &[Tensor]) -> Result<Tensor, TchError> {
        let whole = |(gradient, leaf): (&Tensor, &Tensor)| match gradient.defined() {
            true => gradient.f_reshape([-1]),
            false => leaf.f_detach()?.f_zeros_like()?.f_reshape([-1]),
        };
        let parts: Vec<Tensor> = gradients.iter().zip(&self.leaves).map(whole).collect::<Result<_, _>>()?;
        Tensor::f_cat(&parts, 0)
    }

    fn descend(
        &mut self,
        from: &[f32],
        x: &Tensor,
        labels: &[u8],
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, TchError> {
        let start = Tensor::f_from_slice(from)?;
        self.write(&start)?;
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
                let drawn = random::bits(seed, (1 << 32) + u64::from(steps));
                let logits = self.instance.logits(&self.leaves, &x, Some(drawn))?;
                let loss = logits.f_cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0)?;
                let gradients = Tensor::f_run_backward(&[&loss], &self.leaves, false, false)?;
                losses.push(loss.f_detach()?);
                steps += 1;
                let _no_grad = tch::no_grad_guard();
                let mut gradient = self.joined(&gradients)?;
                if let Some(correction) = &correction {
                    let _ = gradient.f_add_(correction)?;
                }
                if spec.proximal > 0.0 {
                    let _ = gradient.f_add_(&self.flat.f_sub(&start)?.f_mul_scalar(spec.proximal)?)?;
                }
                if spec.momentum > 0.0 {
                    let moved = match &velocity {
                        Some(before) => before.f_mul_scalar(spec.momentum)?.f_add(&gradient)?,
                        None => gradient,
                    };
                    gradient = moved.shallow_clone();
                    velocity = Some(moved);
                }
                let _ = self.flat.f_sub_(&gradient.f_mul_scalar(spec.learning_rate)?)?;
            }
        }
        let delta = Vec::<f32>::try_from(self.flat.f_sub(&start)?)?;
        let loss = match losses.is_empty() {
            true => 0.0,
            false => Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?.f_double_value(&[])? as f32,
        };
        Ok(Trained { delta, steps, loss })
    }

    fn scored(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        self.write(&Tensor::f_from_slice(parameters).map_err(of)?).map_err(of)?;
        let _no_grad = tch::no_grad_guard();
        let mut counts = vec![[0; 2]; self.net.classes()];
        let parts = samples.features.chunks(SCORED * self.features.max(1)).zip(samples.labels.chunks(SCORED));
        for (features, labels) in parts {
            let x = self.batch(features, labels.len())?;
            let best = self.instance.logits(&self.leaves, &x, None).and_then(|logits| logits.f_argmax(1, false));
            for (found, label) in Vec::<i64>::try_from(best.map_err(of)?).map_err(of)?.into_iter().zip(labels) {
                if let Some(count) = counts.get_mut(usize::from(*label)) {
                    count[0] += u32::from(found == i64::from(*label));
                    count[1] += 1;
                }
            }
        }
        Ok(counts)
    }

    /// Mean over the samples of the cross-entropy with labels that are the softmax of `y`.
    fn soft_loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, TchError> {
        let logits = self.instance.logits(&self.leaves, x, None)?;
        let labels = y.f_softmax(-1, Kind::Float)?;
        let loss = logits.f_log_softmax(-1, Kind::Float)?.f_mul(&labels)?.f_sum(Kind::Float)?;
        loss.f_div_scalar(-x.size()[0])
    }

    fn unrolled(&mut self, from: &[f32], x: Tensor, y: Tensor, steps: u32, rate: f64) -> Result<Vec<f32>, TchError> {
        let start = Tensor::f_from_slice(from)?;
        self.write(&start)?;
        let mut before = Vec::with_capacity(steps as usize);
        for _ in 0..steps {
            let loss = self.soft_loss(&x, &y)?;
            let gradients = Tensor::f_run_backward(&[&loss], &self.leaves, false, false)?;
            let _no_grad = tch::no_grad_guard();
            let gradient = self.joined(&gradients)?;
            before.push(self.flat.f_mul_scalar(1.0)?);
            let _ = self.flat.f_sub_(&gradient.f_mul_scalar(rate)?)?;
        }
        let _no_grad = tch::no_grad_guard();
        let plain = Vec::<f32>::try_from(self.flat.f_sub(&start)?)?;
        self.tape = Some(Tape { x: x.f_set_requires_grad(true)?, y: y.f_set_requires_grad(true)?, before, rate });
        Ok(plain)
    }

    /// With `p` for parameters, `g` for the gradient of the loss by them and `v` for the adjoint, a step `p' = p - rate g(p,
    /// x, y)` has `v = v' - rate d(g v')/dp`, and adds `- rate d(g v')/dx` and `- rate d(g v')/dy`. Steps are gone through
    /// from the last on, each with a graph of its own, so that memory is that of one step.
    fn pulled(&mut self, adjoint: &[f32], tape: &Tape) -> Result<Recovered, TchError> {
        let mut along = Tensor::f_from_slice(adjoint)?;
        let mut by_x = tape.x.f_detach()?.f_zeros_like()?;
        let mut by_y = tape.y.f_detach()?.f_zeros_like()?;
        for before in tape.before.iter().rev() {
            self.write(before)?;
            let loss = self.soft_loss(&tape.x, &tape.y)?;
            let gradient = self.joined(&Tensor::f_run_backward(&[&loss], &self.leaves, true, true)?)?;
            let product = gradient.f_dot(&along)?;
            if !product.requires_grad() {
                continue;
            }
            let by: Vec<&Tensor> = self.leaves.iter().chain([&tape.x, &tape.y]).collect();
            let second = Tensor::f_run_backward(&[&product], &by, false, false)?;
            let _no_grad = tch::no_grad_guard();
            let (of_leaves, of_data) = second.split_at(self.leaves.len());
            let _ = along.f_sub_(&self.joined(of_leaves)?.f_mul_scalar(tape.rate)?)?;
            for (sum, part) in [&mut by_x, &mut by_y].into_iter().zip(of_data) {
                if part.defined() {
                    let _ = sum.f_sub_(&part.f_mul_scalar(tape.rate)?)?;
                }
            }
        }
        let plain = |tensor: Tensor| Vec::<f32>::try_from(tensor.f_reshape([-1])?);
        Ok(Recovered { features: plain(by_x)?, labels: plain(by_y)? })
    }

    fn check_continuous(&self) -> Result<(), ClassifierError> {
        match self.net.discrete() {
            true => Err(ClassifierError::Value {
                what: "inversion",
                why: format!("{} takes characters: there is nothing between two of them", self.net.name()),
            }),
            false => Ok(()),
        }
    }
}

impl Worker for TorchWorker<'_> {
    fn train(
        &mut self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError> {
        check("the parameters", from.len(), self.net.parameters())?;
        if let Some(correction) = correction {
            check("the correction", correction.len(), from.len())?;
        }
        samples.check(self.features, self.net.classes())?;
        let x = self.batch(samples.features, samples.len())?;
        if samples.is_empty() || spec.epochs == 0 {
            return Ok(Trained { delta: vec![0.0; from.len()], steps: 0, loss: 0.0 });
        }
        self.descend(from, &x, samples.labels, spec, correction, seed).map_err(of)
    }

    fn score(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        check("the parameters", parameters.len(), self.net.parameters())?;
        samples.check(self.features, self.net.classes())?;
        self.scored(parameters, samples)
    }

    fn invert(
        &mut self,
        from: &[f32],
        delta: &[f32],
        training: Repeated,
        spec: &Inversion,
        before: Option<&Recovered>,
        seed: u64,
    ) -> Result<Inverted, ClassifierError> {
        let shape = (self.features, self.net.classes());
        invert::invert(self, shape, from, delta, training, spec, before, seed)
    }

    fn retrain(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        steps: u32,
    ) -> Result<Vec<f32>, ClassifierError> {
        self.unroll(from, data, training, steps)
    }
}

impl Unroll for TorchWorker<'_> {
    fn unroll(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        most: u32,
    ) -> Result<Vec<f32>, ClassifierError> {
        self.check_continuous()?;
        check("the parameters", from.len(), self.net.parameters())?;
        let (samples, classes) = (data.features.len() / self.features.max(1), self.net.classes());
        let x = self.batch(&data.features, samples)?;
        check("the labels", data.labels.len(), samples * classes)?;
        let y = Tensor::f_from_slice(&data.labels).and_then(|y| y.f_view([samples as i64, classes as i64]));
        let (steps, rate) = training.at_most(most);
        self.unrolled(from, x, y.map_err(of)?, steps, rate).map_err(of)
    }

    fn pull_back(&mut self, adjoint: &[f32]) -> Result<Recovered, ClassifierError> {
        check("the adjoint", adjoint.len(), self.net.parameters())?;
        let Some(tape) = self.tape.take() else {
            return Err(ClassifierError::Value { what: "the adjoint", why: "nothing was unrolled".into() });
        };
        self.pulled(adjoint, &tape).map_err(of)
    }
}

/// Leaves that are views of a flat vector, one for each shape.
fn views(flat: &Tensor, shapes: &[Vec<usize>]) -> Result<Vec<Tensor>, TchError> {
    let mut at = 0;
    let view = |shape: &Vec<usize>| {
        let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
        let length: i64 = shape.iter().product();
        at += length;
        flat.f_narrow(0, at - length, length)?.f_view(shape.as_slice())?.f_detach()?.f_set_requires_grad(true)
    };
    shapes.iter().map(view).collect()
}

fn of(error: TchError) -> ClassifierError {
    ClassifierError::Library { library: "libtorch", why: gist(&error) }
}

/// What an error says, without the stacks of C++ calls and of a script's.
fn gist(error: &TchError) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.clone().find_map(|line| line.strip_prefix("RuntimeError: "));
    said.or_else(|| lines.next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
