//! What a task is to the rest of the crate.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

/// A task with its configuration read.
pub(crate) trait Puzzle: fmt::Debug + Send + Sync {
    /// Draws one item, or `None` where what was drawn makes none; the caller then draws again.
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn>;

    /// The score of an answer, in `[0, 1]`. Time is bounded by the answer's length.
    fn score(&self, item: &Item, answer: &str) -> f64;

    /// The score where there is no answer.
    fn score_of_none(&self) -> f64 {
        0.0
    }

    /// The metadata's `difficulty`.
    fn difficulty(&self) -> Value;

    /// Upper bounds of the question and of the answer that earns full reward.
    fn bounds(&self) -> Bounds;

    /// An answer that earns full reward, if there is one.
    fn oracle(&self, item: &Item) -> Option<String> {
        item.answer.clone()
    }

    /// The same bounds for compact prompts, or why this configuration has none.
    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        Err("this task has no compact prompt")
    }

    /// A prompt of a few characters, which ends in `=`.
    fn compact_prompt(&self, _item: &Item) -> Option<String> {
        None
    }

    /// What to answer to a compact prompt, given the answer that the scorer takes.
    fn compact_answer(&self, _item: &Item, oracle: String) -> String {
        oracle
    }

    /// The answer that the scorer takes, given what was answered to a compact prompt.
    fn expand<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(answer)
    }
}

/// An item before it has a name.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) question: String,
    pub(crate) answer: Option<String>,
    pub(crate) facts: Facts,
}

/// The most bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) prompt: usize,
    pub(crate) answer: usize,
}

/// Reads the fields of a task's configuration.
type Read = fn(&mut Fields, Mode) -> Result<Box<dyn Puzzle>, TaskError>;

/// An entry in the list of tasks.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) read: Read,
}

/// reasoning-gym's default scorer: 1 for the answer itself, and for a text that contains it its share of that text in
/// code points. In hardened mode nothing but the answer itself, white space around it aside, scores.
pub(crate) fn default_score(item: &Item, answer: &str, mode: Mode) -> f64 {
    let Some(oracle) = item.answer.as_deref() else { return 0.0 };
    if answer.is_empty() {
        return 0.0;
    }
    match mode {
        _ if answer == oracle => 1.0,
        Mode::Exact if answer.contains(oracle) => oracle.chars().count() as f64 / answer.chars().count() as f64,
        Mode::Exact => 0.0,
        Mode::Hardened => f64::from(answer.trim() == oracle),
    }
}
