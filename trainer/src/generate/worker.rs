//! One thread of generation: takes work while it has room, and decodes its rows together.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use swarmloom_kernels::attention::Cache;
use swarmloom_kernels::sampling;

use super::decoder::{Buffers, Decoder, Place};
use super::{Completion, Finish, Sample, next_if};
use crate::model::ModelConfig;
use crate::tokenizer::{self, EOS, TOKENS};
use swarmloom_kernels::random;

/// A request, checked.
pub(super) struct Task<'a> {
    pub(super) prompt: Vec<u32>,
    pub(super) samples: &'a [Sample],
    /// At least one, and no more than there are positions for.
    pub(super) most_tokens: usize,
}

/// Some samples of a task.
pub(super) struct Item {
    pub(super) task: usize,
    pub(super) samples: Range<usize>,
    /// Memory for keys and values.
    pub(super) bytes: usize,
    /// Computed by the first item of the task; freed when its last row has ended.
    pub(super) prefix: Arc<OnceLock<Prefix>>,
}

/// A prompt's keys and values, and the logits of what follows it.
pub(super) struct Prefix {
    caches: Vec<Cache>,
    logits: Vec<f32>,
}

/// What a thread did.
pub(super) struct Output {
    /// Index of the task and of the sample, and the completion.
    pub(super) completions: Vec<(usize, usize, Completion)>,
    pub(super) prompt_tokens: usize,
}

/// A thread's memory, kept from call to call.
pub(super) struct Worker {
    buffers: Buffers,
    logits: Vec<f32>,
    tokens: Vec<u32>,
    /// Keys and values that rows have left behind.
    pool: Vec<Vec<Cache>>,
}

/// A completion under way.
struct Row {
    task: usize,
    sample: usize,
    how: Sample,
    most_tokens: usize,
    prefix: Arc<OnceLock<Prefix>>,
    own: Vec<Cache>,
    bytes: usize,
    token: u32,
    text: Vec<u8>,
    logprob: f64,
    tokens: u32,
}

impl Worker {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self { buffers: Buffers::new(config), logits: Vec::new(), tokens: Vec::new(), pool: Vec::new() }
    }

    /// Works until the queue is empty and all rows have ended. Rows that decode at the same time are at
    /// most `most_rows` and take at most `most_bytes`, but one item is always admitted.
    pub(super) fn run(
        &mut self,
        decoder: &Decoder,
        tasks: &[Task<'_>],
        queue: &Mutex<VecDeque<Item>>,
        most_rows: usize,
        most_bytes: usize,
    ) -> Output {
        let mut output = Output { completions: Vec::new(), prompt_tokens: 0 };
        let mut rows: Vec<Row> = Vec::new();
        loop {
            loop {
                let used: usize = rows.iter().map(|row| row.bytes).sum();
                let fits = |item: &Item| {
                    let room = rows.len() + item.samples.len() <= most_rows && used + item.bytes <= most_bytes;
                    room || rows.is_empty()
                };
                let Some(item) = next_if(queue, fits) else { break };
                self.admit(decoder, &tasks[item.task], item, &mut rows, &mut output);
            }
            if rows.is_empty() {
                return output;
            }
            self.advance(decoder, &mut rows, &mut output);
        }
    }

    /// Computes the prompt unless that is done, and draws the first token of each sample.
    fn admit(&mut self, decoder: &Decoder, task: &Task<'_>, item: Item, rows: &mut Vec<Row>, output: &mut Output) {
        let prefix = item.prefix.get_or_init(|| {
            output.prompt_tokens += task.prompt.len();
            let (caches, logits) = decoder.prompt(&task.prompt, &mut self.buffers);
            Prefix { caches, logits }
        });
        let bytes = item.bytes / item.samples.len();
        for sample in item.samples {
            let mut row = Row {
                task: item.task,
                sample,
                how: task.samples[sample],
                most_tokens: task.most_tokens,
                prefix: Arc::clone(&item.prefix),
                own: Vec::new(),
                bytes,
                token: EOS,
                text: Vec::new(),
                logprob: 0.0,
                tokens: 0,
            };
            match row.draw(&prefix.logits) {
                Some(finish) => output.completions.push(row.end(finish)),
                None => {
                    row.own = self.caches(decoder, task.most_tokens);
                    rows.push(row);
                }
            }
        }
    }

    /// One more token of every row; rows that end leave.
    fn advance(&mut self, decoder: &Decoder, rows: &mut Vec<Row>, output: &mut Output) {
        self.tokens.clear();
        self.tokens.extend(rows.iter().map(|row| row.token));
        let mut places: Vec<Place<'_>> = rows.iter_mut().map(Row::place).collect();
        decoder.step(&self.tokens, &mut places, &mut self.buffers, &mut self.logits);
        let mut logits = self.logits.chunks_exact(TOKENS);
        rows.retain_mut(|row| {
            let Some(finish) = logits.next().and_then(|logits| row.draw(logits)) else { return true };
            self.pool.push(std::mem::take(&mut row.own));
            output.completions.push(row.end(finish));
            false
        });
    }

    /// Keys and values for a row: left behind by another, or new.
    fn caches(&mut self, decoder: &Decoder, positions: usize) -> Vec<Cache> {
        let positions = positions.next_multiple_of(16);
        // Those of another size are given up: the pool stays within twice what the rows need.
        while let Some(mut caches) = self.pool.pop() {
            if caches.first().is_some_and(|cache| (positions..=2 * positions).contains(&cache.capacity())) {
                caches.iter_mut().for_each(Cache::clear);
                return caches;
            }
        }
        decoder.caches(positions)
    }
}

impl Row {
    /// Draws the next token. Says why the completion has ended, if it has.
    fn draw(&mut self, logits: &[f32]) -> Option<Finish> {
        let drawn = if self.how.temperature == 0.0 {
            sampling::argmax(logits)
        } else {
            let uniform = random::unit(self.how.seed, u64::from(self.tokens));
            sampling::sample(logits, self.how.temperature, uniform)
        };
        self.token = drawn.token;
        self.logprob += f64::from(drawn.logprob);
        self.tokens += 1;
        // Marks other than the end have no weight; if all weights are gone, they end the row as well.
        let Some(byte) = tokenizer::byte(drawn.token) else { return Some(Finish::Stop) };
        self.text.push(byte);
        (self.tokens as usize >= self.most_tokens).then_some(Finish::Length)
    }

    fn place(&mut self) -> Place<'_> {
        Place { prefix: self.prefix.get().map(|prefix| &prefix.caches[..]), own: &mut self.own }
    }

    /// The completion, with its index, leaving the row empty.
    fn end(&mut self, finish: Finish) -> (usize, usize, Completion) {
        let bytes = std::mem::take(&mut self.text);
        let completion = Completion { bytes, finish, logprob: self.logprob as f32, tokens: self.tokens };
        (self.task, self.sample, completion)
    }
}
