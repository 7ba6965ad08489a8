//! Generating completions in one batch, on the CPU.
//!
//! All questions of a call decode together. A prompt is computed once and its keys and values are shared
//! by all its samples; a row leaves the batch as soon as it ends. Kernels whose results do not depend on
//! the batch, and random numbers that depend on the sample's seed and the token's index alone, make a
//! sample's text and log-probability the same bits whatever else is generated, in whatever order, on
//! however many threads.
//!
//! Generation runs on the CPU wherever training runs: only there are these kernels. For the small models
//! that this is made for that costs little, since a token depends on the one before and a GPU would wait.

mod decoder;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::VecDeque;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use swarmloom_kernels::Isa;

use crate::generate::decoder::Decoder;
use crate::generate::worker::{Item, Output, Task, Worker};
use crate::model::ModelConfig;
use crate::tokenizer;
use crate::weights::Weights;

/// A question and the samples wanted of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's bytes.
    pub prompt: Vec<u8>,
    /// One completion is generated for each.
    pub samples: Vec<Sample>,
    /// Most tokens of a completion, the end mark included. Less where the model has no more positions.
    pub max_new_tokens: usize,
}

/// How one completion is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Names the random numbers: the same seed gives the same completion.
    pub seed: u64,
    /// Divides the logits; 0 takes the most likely token each time. Not negative.
    pub temperature: f32,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// It was cut off at its longest.
    Length,
}

/// A generated completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Its bytes, without the end mark.
    pub bytes: Vec<u8>,
    /// Why it ended.
    pub finish: Finish,
    /// Natural logarithm of its probability under the distribution it was drawn from: the sum over its
    /// tokens, the end mark included. Greedy choices count as drawn at temperature 1.
    pub logprob: f32,
    /// Its tokens, the end mark included.
    pub tokens: u32,
}

/// What a call did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GenerateStats {
    /// Completions generated.
    pub completions: usize,
    /// Tokens of prompts computed: each prompt once.
    pub prompt_tokens: usize,
    /// Tokens generated, end marks included.
    pub tokens: usize,
    /// Wall time.
    pub elapsed: Duration,
}

impl GenerateStats {
    /// Generated tokens a second of wall time.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Generated completions a second of wall time.
    pub fn completions_per_second(&self) -> f64 {
        self.completions as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// No room is left after the prompt.
    #[error("request {request}: its prompt of {tokens} tokens leaves no room in the model's {positions} positions")]
    PromptTooLong {
        /// Index of the request.
        request: usize,
        /// Tokens of its prompt, the start mark included.
        tokens: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// No completion can have no tokens.
    #[error("request {request}: max_new_tokens is 0, but a completion has at least one token")]
    NoTokens {
        /// Index of the request.
        request: usize,
    },
    /// A temperature that is none.
    #[error("request {request}, sample {sample}: the temperature is {temperature}: use 0 (greedy) or a number above")]
    Temperature {
        /// Index of the request.
        request: usize,
        /// Index of the sample.
        sample: usize,
        /// What it is.
        temperature: f32,
    },
}

/// The instruction set that generation runs on.
pub fn instruction_set() -> Isa {
    swarmloom_kernels::detected()
}

/// Memory for keys and values of one call, unless [`Generator::set_cache_bytes`] says otherwise.
const CACHE_BYTES: usize = 512 << 20;

/// Generates completions with one model.
pub struct Generator {
    decoder: Decoder,
    workers: Vec<Worker>,
    cache_bytes: usize,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator")
            .field("model", &self.decoder.config().tag())
            .field("threads", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Generator {
    /// A generator for `weights`, on `threads` threads (at least one).
    ///
    /// # Panics
    /// If the weights are those of a model of another shape.
    pub fn new(config: &ModelConfig, weights: &Weights, threads: usize) -> Self {
        assert_eq!(weights.config(), config, "weights of another model");
        let workers = (0..threads.max(1)).map(|_| Worker::new(config)).collect();
        Self { decoder: Decoder::new(weights), workers, cache_bytes: CACHE_BYTES }
    }

    /// Goes on with other weights of the same model; memory is kept.
    ///
    /// # Panics
    /// If the weights are those of a model of another shape.
    pub fn load(&mut self, weights: &Weights) {
        assert_eq!(weights.config(), self.decoder.config(), "weights of another model");
        self.decoder = Decoder::new(weights);
    }

    /// Sets how many bytes the keys and values of rows that decode at the same time may take together.
    /// Further rows wait. One row a thread is always admitted. The result does not depend on it.
    pub fn set_cache_bytes(&mut self, bytes: usize) {
        self.cache_bytes = bytes;
    }

    /// Generates every sample of every request. The result has a list for each request, in order, with a
    /// completion for each sample, in order.
    ///
    /// # Errors
    /// If a request cannot be done; then nothing is generated.
    pub fn generate(&mut self, requests: &[Request]) -> Result<(Vec<Vec<Completion>>, GenerateStats), GenerateError> {
        let started = Instant::now();
        let tasks = self.tasks(requests)?;
        let rows: usize = requests.iter().map(|request| request.samples.len()).sum();
        let threads = self.workers.len();
        let (most_rows, most_bytes) = (rows.div_ceil(threads), self.cache_bytes / threads);
        let queue = self.queue(&tasks, most_rows, most_bytes);

        let decoder = &self.decoder;
        let run = |worker: &mut Worker| worker.run(decoder, &tasks, &queue, most_rows, most_bytes);
        let done: Vec<Output> = match &mut self.workers[..] {
            [worker] => vec![run(worker)],
            workers => std::thread::scope(|scope| {
                let handles: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| run(worker))).collect();
                let join =
                    |handle: ScopedJoinHandle<'_, Output>| handle.join().unwrap_or_else(|panic| resume_unwind(panic));
                handles.into_iter().map(join).collect()
            }),
        };

        let mut stats = GenerateStats { completions: rows, ..GenerateStats::default() };
        let empty = Completion { bytes: Vec::new(), finish: Finish::Length, logprob: 0.0, tokens: 0 };
        let mut results: Vec<Vec<Completion>> =
            requests.iter().map(|request| vec![empty.clone(); request.samples.len()]).collect();
        for output in done {
            stats.prompt_tokens += output.prompt_tokens;
            for (request, sample, completion) in output.completions {
                stats.tokens += completion.tokens as usize;
                results[request][sample] = completion;
            }
        }
        stats.elapsed = started.elapsed();
        Ok((results, stats))
    }

    /// Checks the requests and turns prompts into tokens.
    fn tasks<'a>(&self, requests: &'a [Request]) -> Result<Vec<Task<'a>>, GenerateError> {
        let positions = self.decoder.config().max_position_embeddings;
        let check = |(index, request): (usize, &'a Request)| {
            let prompt = tokenizer::encode_prompt(&request.prompt);
            if prompt.len() >= positions {
                return Err(GenerateError::PromptTooLong { request: index, tokens: prompt.len(), positions });
            }
            if request.max_new_tokens == 0 {
                return Err(GenerateError::NoTokens { request: index });
            }
            let temperatures = request.samples.iter().map(|sample| sample.temperature).enumerate();
            for (sample, temperature) in temperatures {
                if !temperature.is_finite() || temperature < 0.0 {
                    return Err(GenerateError::Temperature { request: index, sample, temperature });
                }
            }
            let most_tokens = request.max_new_tokens.min(positions - prompt.len());
            Ok(Task { prompt, samples: &request.samples, most_tokens })
        };
        requests.iter().enumerate().map(check).collect()
    }

    /// The work in the order of the requests, in pieces of at most `most_rows` rows and of a size that fits
    /// the memory of a thread.
    fn queue(&self, tasks: &[Task<'_>], most_rows: usize, most_bytes: usize) -> Mutex<VecDeque<Item>> {
        let mut queue = VecDeque::new();
        for (index, task) in tasks.iter().enumerate() {
            let prefix = Arc::new(OnceLock::new());
            let prefix_bytes = self.decoder.cache_bytes(task.prompt.len());
            let row_bytes = self.decoder.cache_bytes(task.most_tokens);
            let fitting = most_bytes.saturating_sub(prefix_bytes) / row_bytes;
            let step = most_rows.min(fitting).max(1);
            for first in (0..task.samples.len()).step_by(step) {
                let samples = first..task.samples.len().min(first + step);
                let bytes = prefix_bytes + row_bytes * samples.len();
                queue.push_back(Item { task: index, samples, bytes, prefix: Arc::clone(&prefix) });
            }
        }
        Mutex::new(queue)
    }
}

/// Takes the next piece of work if `fits` says so.
fn next_if(queue: &Mutex<VecDeque<Item>>, fits: impl FnOnce(&Item) -> bool) -> Option<Item> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    if fits(queue.front()?) { queue.pop_front() } else { None }
}
