//! Held-out reward of a policy: own generations on questions that no training sees, greedy and sampled.

use std::collections::BTreeMap;

use serde::Serialize;
use swarmloom_trainer::generate::{GenerateError, Generator, Request, Sample};

use super::batch::mean;
use super::curriculum::evaluation_seeds;
use crate::book::{Question, TaskBook};

/// Sampled completions of each question: an average over several is steadier than one.
pub(crate) const SAMPLES: usize = 2;

/// Mean rewards on one task's held-out questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct TaskReward {
    /// Of sampled completions at the training temperature.
    pub(crate) reward: f64,
    /// Of the greedy completion.
    pub(crate) greedy: f64,
    /// Questions asked.
    pub(crate) questions: usize,
}

/// Evaluates a policy on `questions` held-out questions of every task, by label. `max_new_tokens` caps the tasks' own
/// bounds. `None` where `is_stopped` said so between two tasks.
///
/// # Errors
/// What generation says.
pub(crate) fn evaluate(
    generator: &mut Generator,
    book: &TaskBook,
    questions: usize,
    temperature: f32,
    max_new_tokens: Option<u32>,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Option<BTreeMap<String, TaskReward>>, GenerateError> {
    let mut rewards = BTreeMap::new();
    for entry in book.entries() {
        if is_stopped() {
            return Ok(None);
        }
        let asked: Vec<&Question> = entry.held_out().iter().take(questions).collect();
        let requests: Vec<Request> = asked
            .iter()
            .map(|question| Request {
                prompt: question.prompt.clone().into_bytes(),
                samples: std::iter::once(Sample { seed: 0, temperature: 0.0 })
                    .chain(
                        evaluation_seeds(question.seed, question.index, SAMPLES)
                            .into_iter()
                            .map(|seed| Sample { seed, temperature }),
                    )
                    .collect(),
                max_new_tokens: new_tokens(entry.max_target_bytes(), max_new_tokens),
            })
            .collect();
        let (completions, _) = generator.generate(&requests)?;
        let (mut greedy, mut sampled) = (Vec::new(), Vec::new());
        for (question, completions) in asked.iter().zip(&completions) {
            let earned = book.rewards(question, completions.iter().map(|completion| completion.bytes.as_slice()));
            greedy.extend_from_slice(&earned[..1]);
            sampled.extend_from_slice(&earned[1..]);
        }
        rewards.insert(
            entry.label.clone(),
            TaskReward {
                reward: mean(sampled.iter()).unwrap_or(0.0),
                greedy: mean(greedy.iter()).unwrap_or(0.0),
                questions: asked.len(),
            },
        );
    }
    Ok(Some(rewards))
}

/// Tokens that a completion may have: a right one and its end, unless the peer allows fewer.
pub(crate) fn new_tokens(max_target_bytes: usize, cap: Option<u32>) -> usize {
    let needed = max_target_bytes + 1;
    cap.map_or(needed, |cap| needed.min(cap as usize))
}
