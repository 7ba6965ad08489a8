//! How fast the presets generate and train on this machine's CPU.
//!
//! `cargo run --release -p swarmloom-trainer --example throughput [PRESET]...`
//!
//! Prompts and completions have the lengths of the small tasks that peers train on: a few characters for
//! short answers, and a 3 by 3 matrix. 64 completions are 8 questions with 8 samples each, and a step
//! trains on 4 or 8 groups of 8. Every number is the fastest of several rounds, on one thread. For
//! comparison, a PyTorch program with the same batching, a character vocabulary of 98 and 117 thousand
//! parameters took 11 ms (short) and 51 ms (matrix) for 64 completions and 23 ms for an update, on one
//! core of another run.

use std::time::{Duration, Instant};

use swarmloom_trainer::device::Device;
use swarmloom_trainer::generate::{Finish, Generator, Request, Sample};
use swarmloom_trainer::learner::{Learner, LearnerConfig, StepBatch, TrainCompletion, TrainGroup};
use swarmloom_trainer::model::{ModelConfig, presets};
use swarmloom_trainer::weights::Weights;

const ROUNDS: usize = 60;
const MOST: Duration = Duration::from_secs(4);

/// A name, prompt bytes, and completion bytes.
const TEXTS: [(&str, usize, usize); 2] = [("short", 8, 4), ("matrix", 14, 22)];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "one thread, kernels on {:?}; milliseconds, fastest of up to {ROUNDS} rounds",
        swarmloom_trainer::generate::instruction_set()
    );
    println!(
        "{:8}{:8}{:>14}{:>12}{:>12}{:>12}{:>12}{:>10}{:>8}",
        "model", "text", "64 completions", "compl./s", "tokens/s", "step 4x8", "step 8x8", "tokens", "waste"
    );
    for (name, config) in presets() {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        for (text, prompt, completion) in TEXTS {
            line(name, &config, text, prompt, completion);
        }
    }
}

fn line(name: &str, config: &ModelConfig, text: &str, prompt: usize, completion: usize) {
    let weights = Weights::init(config, 1);
    let mut generator = Generator::new(config, &weights, 1);
    let requests: Vec<Request> = (0..8)
        .map(|question| Request {
            prompt: bytes(question, prompt),
            samples: (0..8).map(|sample| Sample { seed: question * 8 + sample, temperature: 1.0 }).collect(),
            max_new_tokens: completion + 1,
        })
        .collect();
    let mut tokens = 0;
    let generation = fastest(|| {
        if let Ok((_, stats)) = generator.generate(&requests) {
            tokens = stats.tokens;
        }
    });

    let learner = Learner::new(config, &weights, LearnerConfig::default(), Device::Cpu, 1);
    let mut learner = match learner {
        Ok(learner) => learner,
        Err(error) => return eprintln!("{name}: {error}"),
    };
    let group = |question: u64| TrainGroup {
        prompt: bytes(question, prompt),
        completions: (0..8)
            .map(|sample| TrainCompletion {
                bytes: bytes(100 + question * 8 + sample, completion),
                finish: Finish::Stop,
                reward: (sample % 2) as f32,
            })
            .collect(),
    };
    let mut steps = [4, 8].map(|groups| {
        let batch = StepBatch { groups: (0..groups).map(group).collect(), imitation: Vec::new() };
        let mut report = None;
        let time = fastest(|| report = learner.step(&batch, 1e-5).ok());
        (time, report.unwrap_or_default())
    });
    let [(four, _), (eight, report)] = &mut steps;
    println!(
        "{name:8}{text:8}{:14.1}{:12.0}{:12.0}{:12.1}{:12.1}{:10}{:8.2}",
        generation * 1e3,
        64.0 / generation,
        tokens as f64 / generation,
        *four * 1e3,
        *eight * 1e3,
        report.computed_tokens,
        report.waste
    );
}

/// Letters that depend on `seed`.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| b'a' + ((seed * 31 + i * 17 + seed * i) % 26) as u8).collect()
}

/// Seconds that `work` takes, the fastest of several times: what else runs on the machine only adds.
fn fastest(mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let (mut best, mut rounds) = (f64::INFINITY, 0);
    while rounds < ROUNDS && (rounds < 3 || begin.elapsed() < MOST) {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        rounds += 1;
    }
    best
}
