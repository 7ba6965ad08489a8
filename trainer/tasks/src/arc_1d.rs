//! `arc_1d`: find the rule that maps one row of colours to another, from examples of it.
//!
//! Equal, draw for draw, to reasoning-gym 0.1.25 (`reasoning_gym/arc/arc_1d.py` and `arc_1d_tasks.py`, Apache-2.0),
//! whose tasks come from Ilya Sheprut's generators (github.com/optozorax/arc_1d, MIT), themselves after the 1D-ARC
//! data of Xu et al., "LLMs and the Abstraction and Reasoning Corpus" (arXiv:2305.18354). A row is a `Vec<u8>` of
//! colours 0 to 9; 0 is the background. [`tasks`] names the 70 tasks; [`moving`], [`pixels`] and [`blocks`] hold
//! their rules, in terms of [`row`].

mod blocks;
mod moving;
mod pixels;
mod row;
mod tasks;

use serde_json::{Value, json};

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::puzzle::{self, Bounds, Kind, Puzzle, default_score};
use crate::random::PyRandom;
use crate::{Mode, TaskError};
use row::{Pair, uniform};
use tasks::{TASKS, Task};

pub(crate) const KIND: Kind = Kind {
    name: "arc_1d",
    description: "find the rule that maps one row of colours to another and apply it",
    read: |fields, mode| Ok(Box::new(Arc1d::read(fields, mode)?)),
};

#[derive(Debug)]
struct Arc1d {
    config: Config,
    mode: Mode,
}

impl Arc1d {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let size = fields.span(["min_size", "max_size"], [10, 30], NARROWEST as i64..=100)?;
        let num_train = fields.int("num_train", 3, 1..=16)? as usize;
        Ok(Self { config: Config { min_size: size[0] as usize, max_size: size[1] as usize, num_train }, mode })
    }
}

impl Puzzle for Arc1d {
    fn draw(&self, rng: &mut PyRandom) -> Option<puzzle::Drawn> {
        let drawn = draw(rng, &self.config)?;
        let (question, answer) = (question(&drawn), Some(answer(&drawn)));
        Some(puzzle::Drawn { question, answer, facts: Facts::Arc1d(Box::new(drawn)) })
    }

    fn score(&self, item: &Item, answer: &str) -> f64 {
        default_score(item, answer, self.mode)
    }

    fn difficulty(&self) -> Value {
        json!({ "size": [self.config.min_size, self.config.max_size] })
    }

    fn bounds(&self) -> Bounds {
        let row = 2 * self.config.max_size;
        Bounds { prompt: HEAD.len() + REQUEST.len() + self.config.num_train * (2 * row + 36) + row, answer: row }
    }
}

const HEAD: &str = "Find the common rule that maps an input grid to an output grid, given the examples below.\n\n";
const REQUEST: &str = "Below is a test input grid. Predict the corresponding output grid by applying the rule you \
    found. Describe how you derived the rule and your overall reasoning process in detail before you submit your \
    answer. Your final answer should be just the test output grid itself.\n\nInput:\n";

/// The narrowest row that every rule has room in, which is also the least that reasoning-gym accepts.
const NARROWEST: usize = 8;

/// How often one example is drawn before [`draw`] gives up.
///
/// A rule refuses what it drew where that does not make an example, and reasoning-gym then draws again for as long as
/// it takes. Up to 60 cells every rule accepts more than one draw in 40, so that this many refusals do not happen. In
/// rows of several hundred cells they do: `paint_biggest_block` wants one biggest block of at most six cells.
const ATTEMPTS: usize = 10_000;

/// What an item is drawn from. reasoning-gym's default is also rl-swarm's: rows of 10 to 30 cells and 3 examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Config {
    /// The fewest cells of a row; at least 8.
    min_size: usize,
    /// The most cells of a row; at least `min_size`. Work and memory are proportional to it.
    max_size: usize,
    /// Examples before the test; at least 1.
    num_train: usize,
}

impl Config {
    fn is_valid(&self) -> bool {
        self.min_size >= NARROWEST && self.max_size >= self.min_size && self.num_train > 0
    }
}

/// One item. Every row in it has `size` cells; a pair is the row before the rule and the row after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// reasoning-gym's name of the rule.
    pub(crate) task_name: &'static str,
    /// Cells of every row.
    pub(crate) size: usize,
    /// The examples shown.
    pub(crate) train: Vec<Pair>,
    /// What is asked.
    pub(crate) test: Pair,
}

/// Draws one item from a generator that was freshly seeded for it.
///
/// `None` if `config` is outside its stated ranges, or if one of the examples was refused 10,000 times in a row.
fn draw(rng: &mut PyRandom, config: &Config) -> Option<Drawn> {
    if !config.is_valid() {
        return None;
    }
    let task = rng.choice(&TASKS);
    let size = uniform(rng, config.min_size, config.max_size);
    let train = (0..config.num_train).map(|_| example(rng, task, size)).collect::<Option<_>>()?;
    let test = example(rng, task, size)?;
    Some(Drawn { task_name: task.name, size, train, test })
}

/// The question as it is put to the policy.
fn question(drawn: &Drawn) -> String {
    let per_example = 4 * drawn.size + 36;
    let mut text = String::with_capacity(HEAD.len() + REQUEST.len() + drawn.train.len() * per_example + 2 * drawn.size);
    text.push_str(HEAD);
    for (i, (input, output)) in drawn.train.iter().enumerate() {
        text.push_str("Example ");
        text.push_str(&(i + 1).to_string());
        text.push_str(":\nInput:  ");
        push_row(&mut text, input);
        text.push_str("\nOutput: ");
        push_row(&mut text, output);
        text.push_str("\n\n");
    }
    text.push_str(REQUEST);
    push_row(&mut text, &drawn.test.0);
    text
}

/// The answer: the colours of the wanted row, with a space between them.
fn answer(drawn: &Drawn) -> String {
    let mut text = String::with_capacity(2 * drawn.size);
    push_row(&mut text, &drawn.test.1);
    text
}

/// What reasoning-gym says of the item beyond where it is from.
pub(crate) fn metadata(drawn: &Drawn) -> Value {
    let pair = |(input, output): &Pair| json!({"input": input, "output": output});
    json!({
        "task_name": drawn.task_name,
        "size": drawn.size,
        "train_examples": drawn.train.iter().map(pair).collect::<Vec<_>>(),
        "test_example": pair(&drawn.test),
    })
}

/// Draws until the rule accepts, at most [`ATTEMPTS`] times.
fn example(rng: &mut PyRandom, task: &Task, size: usize) -> Option<Pair> {
    (0..ATTEMPTS).find_map(|_| task.draw(rng, size))
}

fn push_row(text: &mut String, row: &[u8]) {
    for (i, colour) in row.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push(char::from(b'0' + colour));
    }
}

#[cfg(test)]
mod tests;
