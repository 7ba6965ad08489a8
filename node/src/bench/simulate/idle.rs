//! A model that computes nothing: what is left is the simulator's own work.

use std::time::Instant;

use swarmloom_classifiers::{
    ClassifierError, Inversion, Inverted, LocalSpec, Model, Network, Recovered, Repeated, Samples, Trained, Worker,
};
use swarmloom_simulation::{Course, Setup, Threads};

use super::work::{PER_ROUND, Work};

/// Sends back what it got, as the idle clients of the peer do.
#[derive(Debug)]
struct Idle(Network);

impl Model for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn parameters(&self) -> usize {
        self.0.parameters()
    }

    fn features(&self) -> usize {
        self.0.features()
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn init(&self, seed: u64) -> Result<Vec<f32>, ClassifierError> {
        Ok(self.0.init(seed))
    }

    fn worker(&self) -> Result<Box<dyn Worker + '_>, ClassifierError> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

impl Worker for Idle {
    fn train(
        &mut self,
        from: &[f32],
        _: Samples<'_>,
        _: &LocalSpec,
        _: Option<&[f32]>,
        _: u64,
    ) -> Result<Trained, ClassifierError> {
        Ok(Trained { delta: vec![0.0; from.len()], steps: 1, loss: 0.0 })
    }

    fn score(&mut self, _: &[f32], _: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        Ok(vec![[0; 2]; self.0.classes()])
    }

    fn invert(
        &mut self,
        _: &[f32],
        _: &[f32],
        _: Repeated,
        _: &Inversion,
        _: Option<&Recovered>,
        _: u64,
    ) -> Result<Inverted, ClassifierError> {
        Err(ClassifierError::Value { what: "an inversion", why: "this model computes nothing".into() })
    }

    fn retrain(&mut self, from: &[f32], _: &Recovered, _: Repeated, _: u32) -> Result<Vec<f32>, ClassifierError> {
        Ok(vec![0.0; from.len()])
    }
}

/// Updates a second of clients that do nothing.
///
/// # Errors
/// Where the run fails.
pub(super) fn rate(work: &Work, rounds: usize) -> anyhow::Result<f64> {
    let model = Idle(work.network());
    // The peer's idle clients do not look at their data: here copying them to a worker would be most of the time.
    let rounds = rounds as u64;
    let setup = Setup { samples_per_client: Some(1), rounds, every: rounds, ..work.setup(&model) };
    let mut course = Course::new(&setup, work.entry()?, 0)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let executor = Threads::start(scope, threads, &model, setup.data, None);
        while course.step(&executor)? {}
        anyhow::Ok(())
    })?;
    Ok((rounds * PER_ROUND as u64) as f64 / begun.elapsed().as_secs_f64())
}
