//! What a simulation needs of a model.

use std::fmt::Debug;

use crate::invert::{Inversion, Inverted, Recovered, Repeated, Unroll, invert};
use crate::local::{LocalSpec, Trained};
use crate::network::Network;
use crate::{ClassifierError, Engine, Samples};

/// A classifier whose parameters are one flat vector. All clients share one; every thread has a [`Worker`] of its own.
pub trait Model: Debug + Send + Sync {
    /// Its name for people.
    fn name(&self) -> &str;

    /// How many parameters there are.
    fn parameters(&self) -> usize;

    /// Values of a sample.
    fn features(&self) -> usize;

    /// Classes that it tells apart.
    fn classes(&self) -> usize;

    /// Fresh parameters, `[parameters]`.
    ///
    /// # Errors
    /// [`ClassifierError`] where a library fails.
    fn init(&self, seed: u64) -> Result<Vec<f32>, ClassifierError>;

    /// One thread's means to compute with it.
    ///
    /// # Errors
    /// [`ClassifierError`] where a library fails.
    fn worker(&self) -> Result<Box<dyn Worker + '_>, ClassifierError>;
}

/// One thread's means to compute with a model. Equal arguments give equal bits, whatever was computed before.
pub trait Worker {
    /// Some epochs of gradient descent from `from`. `correction` is added to every gradient (SCAFFOLD's `c - c_i`); `seed`
    /// decides the order of samples and what is dropped out.
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit or a library fails.
    fn train(
        &mut self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError>;

    /// Right answers and samples, by class.
    ///
    /// # Errors
    /// As [`Worker::train`].
    fn score(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError>;

    /// Data that train from `from` to `from + delta`: see [`invert`].
    ///
    /// # Errors
    /// As [`Worker::train`].
    fn invert(
        &mut self,
        from: &[f32],
        delta: &[f32],
        training: Repeated,
        spec: &Inversion,
        before: Option<&Recovered>,
        seed: u64,
    ) -> Result<Inverted, ClassifierError>;

    /// The update that recovered data give from other parameters: what the client would have sent had it begun there.
    ///
    /// # Errors
    /// As [`Worker::train`].
    fn retrain(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        steps: u32,
    ) -> Result<Vec<f32>, ClassifierError>;
}

impl Model for Network {
    fn name(&self) -> &str {
        &self.name
    }

    fn parameters(&self) -> usize {
        Network::parameters(self)
    }

    fn features(&self) -> usize {
        Network::features(self)
    }

    fn classes(&self) -> usize {
        Network::classes(self)
    }

    fn init(&self, seed: u64) -> Result<Vec<f32>, ClassifierError> {
        Ok(Network::init(self, seed))
    }

    fn worker(&self) -> Result<Box<dyn Worker + '_>, ClassifierError> {
        Ok(Box::new(Engine::new(self)))
    }
}

impl Worker for Engine {
    fn train(
        &mut self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError> {
        Engine::train(self, from, samples, spec, correction, seed)
    }

    fn score(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        Engine::score(self, parameters, samples)
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
        let shape = (self.features(), self.classes());
        invert(self, shape, from, delta, training, spec, before, seed)
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
