//! Who computes: threads, each with its own means, or ranks.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use swarmloom_classifiers::{
    ClassifierError, Inversion, Inverted, LocalSpec, Model, Recovered, Repeated, Samples, Trained, Worker,
};
use swarmloom_federated::attack::Attack;

use crate::SimulationError;
use crate::data::{Data, Drift};
use crate::reveal::{Revealed, reveal};

/// Something to compute. It carries all that its result follows from.
#[derive(Debug, Clone)]
pub enum Job {
    /// A client's local training.
    Train {
        /// `[parameters]`.
        from: Arc<[f32]>,
        /// The client's samples.
        indices: Arc<[u32]>,
        /// The version at which it begins, which decides what its data look like.
        version: u64,
        /// How it trains.
        spec: LocalSpec,
        /// Added to every gradient.
        correction: Option<Arc<[f32]>>,
        /// Of this training.
        seed: u64,
        /// What the client does to its labels, if it is one that does harm.
        attack: Option<Attack>,
    },
    /// A part of the test set.
    Score {
        /// `[parameters]`.
        parameters: Arc<[f32]>,
        /// The part's first sample and the one past its last.
        range: [usize; 2],
    },
    /// A stale update turned into a fresh one.
    Invert {
        /// Where the client began, `[parameters]`.
        from: Arc<[f32]>,
        /// What it sent, `[parameters]`.
        delta: Arc<[f32]>,
        /// The server's parameters of now.
        now: Arc<[f32]>,
        /// How the client trained.
        training: Repeated,
        /// How the inversion goes about it.
        spec: Inversion,
        /// What the client's last inversion has found.
        before: Option<Arc<Recovered>>,
        /// Of this inversion.
        seed: u64,
        /// The client's samples: not for the inversion, but to see what it has revealed of them.
        indices: Arc<[u32]>,
        /// The version at which the client began.
        version: u64,
    },
}

/// What came of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Outcome {
    /// Of [`Job::Train`].
    Trained(Trained),
    /// Of [`Job::Score`]: right answers and samples by class.
    Scored(Vec<[u32; 2]>),
    /// Of [`Job::Invert`].
    Inverted {
        /// What the inversion has found.
        found: Inverted,
        /// The update that the recovered data give from the server's parameters of now.
        delta: Vec<f32>,
        /// What the recovered data say of the client's.
        revealed: Revealed,
        /// Seconds of processor time that it took; the one thing here that differs from run to run.
        seconds: f64,
    },
}

/// Computes jobs.
pub trait Executor: Sync {
    /// The outcomes, in the order of the jobs.
    ///
    /// # Errors
    /// The first error, in this order.
    fn run(&self, jobs: Vec<Job>) -> Result<Vec<Outcome>, SimulationError>;

    /// Jobs that are computed at a time.
    fn width(&self) -> usize;
}

/// Threads that share a queue.
#[derive(Debug)]
pub struct Threads {
    queue: Arc<Queue>,
    threads: usize,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<(Arc<Batch>, usize, Job)>,
    closed: bool,
}

/// What came of a job that has been computed.
type Done = Option<Result<Outcome, ClassifierError>>;

#[derive(Debug)]
struct Batch {
    /// How many are left, and what came of each.
    left: Mutex<(usize, Vec<Done>)>,
    done: Condvar,
}

/// A panic while a lock is held leaves nothing half done here: values are set whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// Starts threads that compute with this model until the value is dropped; the scope waits for their end.
    pub fn start<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        threads: usize,
        model: &'env dyn Model,
        data: &'env Data,
        drift: Option<&'env Drift>,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let threads = threads.max(1);
        for _ in 0..threads {
            let queue = queue.clone();
            scope.spawn(move || work(&queue, model, data, drift));
        }
        Self { queue, threads }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.ready.notify_all();
    }
}

impl Threads {
    /// What came of each job, in their order.
    pub(crate) fn results(&self, jobs: Vec<Job>) -> Vec<Result<Outcome, SimulationError>> {
        let count = jobs.len();
        let batch = Arc::new(Batch { left: Mutex::new((count, vec_of_none(count))), done: Condvar::new() });
        {
            let mut state = lock(&self.queue.state);
            state.jobs.extend(jobs.into_iter().enumerate().map(|(at, job)| (batch.clone(), at, job)));
        }
        self.queue.ready.notify_all();
        let mut left = lock(&batch.left);
        while left.0 > 0 {
            left = batch.done.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        let lost = || SimulationError::Worker("it gave no result".into());
        let outcome = |outcome: Done| Ok(outcome.ok_or_else(lost)??);
        std::mem::take(&mut left.1).into_iter().map(outcome).collect()
    }
}

impl Executor for Threads {
    fn run(&self, jobs: Vec<Job>) -> Result<Vec<Outcome>, SimulationError> {
        self.results(jobs).into_iter().collect()
    }

    fn width(&self) -> usize {
        self.threads
    }
}

fn vec_of_none<T>(count: usize) -> Vec<Option<T>> {
    std::iter::repeat_with(|| None).take(count).collect()
}

/// Of this thread: what else the machine is busy with does not count.
fn processor_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + 1e-9 * now.tv_nsec as f64
}

/// Counts a job as done however its computation ends, so that nobody waits for ever.
struct Ticket(Arc<Batch>, usize, Done);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut left = lock(&self.0.left);
        left.1[self.1] = self.2.take();
        left.0 -= 1;
        if left.0 == 0 {
            self.0.done.notify_all();
        }
    }
}

fn work(queue: &Queue, model: &dyn Model, data: &Data, drift: Option<&Drift>) {
    let mut worker = model.worker();
    loop {
        let (batch, at, job) = {
            let mut state = lock(&queue.state);
            loop {
                if let Some(next) = state.jobs.pop_front() {
                    break next;
                }
                if state.closed {
                    return;
                }
                state = queue.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let mut ticket = Ticket(batch, at, None);
        // A panic ends this job, not the others: the next one has a worker of its own.
        let computed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match &mut worker {
            Ok(worker) => compute(worker.as_mut(), &job, data, drift),
            Err(error) => Err(ClassifierError::Library { library: "the model", why: error.to_string() }),
        }));
        ticket.2 = Some(computed.unwrap_or_else(|_| {
            worker = model.worker();
            Err(ClassifierError::Library { library: "the model", why: "it panicked".into() })
        }));
    }
}

/// Computes one job.
///
/// # Errors
/// The worker's.
pub fn compute(
    worker: &mut dyn Worker,
    job: &Job,
    data: &Data,
    drift: Option<&Drift>,
) -> Result<Outcome, ClassifierError> {
    match job {
        Job::Train { from, indices, version, spec, correction, seed, attack } => {
            let (features, mut labels) = data.gather(indices, drift, *version);
            if let Some(attack) = attack {
                let classes = data.classes.min(255) as u8;
                labels.iter_mut().for_each(|label| *label = attack.label(*label, classes));
            }
            let samples = Samples { features: &features, labels: &labels };
            let trained = worker.train(from, samples, spec, correction.as_deref(), *seed)?;
            Ok(Outcome::Trained(trained))
        }
        Job::Score { parameters, range: [first, last] } => {
            let test = data.test();
            let width = data.width();
            let samples =
                Samples { features: &test.features[first * width..last * width], labels: &test.labels[*first..*last] };
            Ok(Outcome::Scored(worker.score(parameters, samples)?))
        }
        Job::Invert { from, delta, now, training, spec, before, seed, indices, version } => {
            let begun = processor_seconds();
            let found = worker.invert(from, delta, *training, spec, before.as_deref(), *seed)?;
            let delta = worker.retrain(now, &found.data, *training, spec.steps)?;
            let seconds = processor_seconds() - begun;
            let held = data.gather(indices, drift, *version);
            let revealed = reveal(worker, now, &found.data, (&held.0, &held.1), data)?;
            Ok(Outcome::Inverted { found, delta, revealed, seconds })
        }
    }
}
