//! A task with its configuration: draws items, scores answers, writes prompts.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use ring::digest;
use serde_json::Value;

use crate::config::{Fields, canonical, wrong};
use crate::item::{Item, Metadata};
use crate::presets::{self, PRESETS};
use crate::prompt::{self, CLOSE, OPEN, SYSTEM, Style};
use crate::puzzle::{Bounds, Kind, Puzzle};
use crate::random::{ABREAST, Abreast, PyRandom};
use crate::{
    TaskError, arc_1d, base_conversion, basic_arithmetic, bf, binary_matrix, calendar_arithmetic, count_bits,
    decimal_arithmetic, fraction_simplification, number_sorting, propositional_logic, spell_backward,
};

/// How close to reasoning-gym a task stays. The crate's documentation lists every difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Items and scores of reasoning-gym 0.1.25, its quirks included.
    Exact,
    /// Without the quirks that pay for nothing.
    Hardened,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Hardened => "hardened",
        }
    }
}

/// A sort of task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskInfo {
    /// What [`Task::new`] takes.
    pub name: &'static str,
    /// What is asked, in a few words.
    pub description: &'static str,
    /// Every field with its default.
    pub default_config: Value,
}

/// All tasks: the nine of rl-swarm, with the configurations of its version 0.6.4 as defaults, then three more with
/// reasoning-gym's.
pub fn list() -> Vec<TaskInfo> {
    let info = |kind: &Kind| {
        // No field is wrong where none is given.
        let (_, default_config, _) = read(kind, None, None, Mode::Exact).ok()?;
        Some(TaskInfo { name: kind.name, description: kind.description, default_config })
    };
    KINDS.iter().filter_map(info).collect()
}

static KINDS: [Kind; 12] = [
    arc_1d::KIND,
    base_conversion::KIND,
    basic_arithmetic::KIND,
    bf::KIND,
    binary_matrix::KIND,
    calendar_arithmetic::KIND,
    decimal_arithmetic::KIND,
    fraction_simplification::KIND,
    propositional_logic::KIND,
    count_bits::KIND,
    number_sorting::KIND,
    spell_backward::KIND,
];

/// Part of [`Task::config_hash`]: it changes whenever the same configuration would give other items, prompts or scores.
const VERSION: u32 = 1;
/// A hardened task reads no longer answer.
const LONGEST_ANSWER: usize = 64 << 10;
/// How often an item is drawn again before that is an error.
const MOST_DRAWS: u32 = 1000;

/// A task with its configuration. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Task {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: &'static str,
    mode: Mode,
    config: Value,
    config_hash: [u8; 32],
    difficulty: Arc<Value>,
    style: Style,
    puzzle: Box<dyn Puzzle>,
}

impl Task {
    /// The task of this name, or of the preset of this name such as `binary_matrix/3x3`.
    ///
    /// `config` is an object whose fields replace those of the preset or the default: reasoning-gym's fields, and
    /// `prompt` (see the crate's documentation). `seed` and `size`, which a configuration of reasoning-gym may
    /// have, say nothing here.
    ///
    /// # Errors
    /// [`TaskError::UnknownTask`]; [`TaskError::Config`] with the first field that is unknown, of the wrong type or out
    /// of range. The ranges bound what an item may cost, whoever wrote the configuration.
    pub fn new(name: &str, config: Option<&Value>, mode: Mode) -> Result<Self, TaskError> {
        let preset = PRESETS.iter().find(|preset| preset.name == name);
        let preset_config = preset.map(presets::Entry::config);
        let name = preset.map_or(name, |preset| preset.task());
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).chain(PRESETS.iter().map(|p| p.name)).collect();
            return Err(TaskError::UnknownTask { name: name.chars().take(80).collect(), known: known.join(", ") });
        };
        let (puzzle, config, style) = read(kind, preset_config.as_ref(), config, mode)?;
        let text = format!("swarmloom-tasks/{VERSION}\n{}\n{}\n{}", kind.name, mode.name(), canonical(&config));
        let mut config_hash = [0; 32];
        config_hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        let difficulty = Arc::new(puzzle.difficulty());
        Ok(Self { inner: Arc::new(Inner { name: kind.name, mode, config, config_hash, difficulty, style, puzzle }) })
    }

    /// The task's name, also where a preset was asked for.
    pub fn name(&self) -> &str {
        self.inner.name
    }

    /// How close to reasoning-gym it stays.
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// The whole configuration: every field, in the order of their names. With [`name`](Self::name) it makes the same
    /// task again.
    pub fn config(&self) -> &Value {
        &self.inner.config
    }

    /// SHA-256 over the generators' version, name, mode and configuration: equal where items, prompts and scores are.
    pub fn config_hash(&self) -> [u8; 32] {
        self.inner.config_hash
    }

    /// The item that `random.Random(seed + index)` gives: the same wherever and whenever it is drawn.
    ///
    /// # Errors
    /// [`TaskError::Generation`] where the configuration hardly has an item.
    pub fn sample(&self, seed: u64, index: u64) -> Result<Item, TaskError> {
        self.draw(&mut PyRandom::new(u128::from(seed) + u128::from(index)), seed, index)
    }

    /// The items of a range of indices, each as [`sample`](Self::sample) gives it. Several generators are seeded side
    /// by side, which makes the items of small tasks three times as fast to draw.
    pub fn samples(&self, seed: u64, indices: Range<u64>) -> Samples<'_> {
        Samples {
            task: self,
            seed,
            indices,
            lane: ABREAST,
            seeded: Arc::new(Abreast::new()),
            rng: Box::new(PyRandom::new(0)),
        }
    }

    fn draw(&self, rng: &mut PyRandom, seed: u64, index: u64) -> Result<Item, TaskError> {
        let Inner { name, difficulty, puzzle, .. } = &*self.inner;
        let drawn = (0..MOST_DRAWS).find_map(|_| puzzle.draw(rng)).ok_or_else(|| TaskError::Generation {
            task: (*name).to_owned(),
            seed,
            index,
            draws: MOST_DRAWS,
        })?;
        Ok(Item {
            task: (*name).to_owned(),
            seed,
            index,
            question: drawn.question,
            answer: drawn.answer,
            metadata: Metadata {
                source_dataset: name,
                source_index: index,
                facts: drawn.facts,
                difficulty: Arc::clone(difficulty),
            },
        })
    }

    /// The score of an answer, in `[0, 1]`; `None` is no answer. An item of another task scores 0.
    ///
    /// The answer is read, never run. Time is linear in its length but for a logarithm, and in hardened mode
    /// nothing longer than 64 KiB scores.
    pub fn score(&self, item: &Item, answer: Option<&str>) -> f64 {
        let Inner { name, mode, puzzle, .. } = &*self.inner;
        match answer {
            _ if item.metadata.source_dataset != *name => 0.0,
            None => puzzle.score_of_none(),
            Some(answer) if *mode == Mode::Hardened && answer.len() > LONGEST_ANSWER => 0.0,
            Some(answer) => puzzle.score(item, answer),
        }
    }

    /// What a policy reads, according to the configuration's `prompt`.
    pub fn prompt(&self, item: &Item) -> String {
        match self.inner.style {
            Style::Question => [item.question.as_str(), "\n"].concat(),
            Style::Compact => self.inner.puzzle.compact_prompt(item).unwrap_or_default(),
            Style::Tagged => [SYSTEM, &item.question, "\n"].concat(),
        }
    }

    /// A completion that earns full reward, if there is one.
    pub fn target(&self, item: &Item) -> Option<String> {
        let oracle = self.inner.puzzle.oracle(item)?;
        let target = match self.inner.style {
            Style::Question => oracle,
            Style::Compact => self.inner.puzzle.compact_answer(item, oracle),
            Style::Tagged => [OPEN, &oracle, CLOSE].concat(),
        };
        (self.reward(item, &target) >= 1.0).then_some(target)
    }

    /// The answer in a completion, as [`score`](Self::score) takes it: all of it without white space around it, or what
    /// is in the last `<answer>` tags where the prompt asks for tags. A compact answer is written out.
    pub fn answer_in<'a>(&self, completion: &'a str) -> Option<Cow<'a, str>> {
        let answer = prompt::answer_in(self.inner.style, completion)?;
        // Nothing is written out that is too long to score.
        let is_short = answer.len() <= LONGEST_ANSWER;
        Some(match self.inner.style {
            Style::Compact if is_short => self.inner.puzzle.expand(answer),
            _ => Cow::Borrowed(answer),
        })
    }

    /// The score of the answer in a completion.
    pub fn reward(&self, item: &Item, completion: &str) -> f64 {
        self.score(item, self.answer_in(completion).as_deref())
    }

    /// No prompt of this task has more bytes.
    pub fn max_prompt_bytes(&self) -> usize {
        match self.inner.style {
            Style::Question => self.bounds().prompt + 1,
            Style::Compact => self.bounds().prompt,
            Style::Tagged => SYSTEM.len() + self.bounds().prompt + 1,
        }
    }

    /// No target of this task has more bytes.
    pub fn max_target_bytes(&self) -> usize {
        match self.inner.style {
            Style::Question | Style::Compact => self.bounds().answer,
            Style::Tagged => OPEN.len() + self.bounds().answer + CLOSE.len(),
        }
    }

    fn bounds(&self) -> Bounds {
        let puzzle = &self.inner.puzzle;
        let compact = if self.inner.style == Style::Compact { puzzle.compact_bounds().ok() } else { None };
        compact.unwrap_or_else(|| puzzle.bounds())
    }
}

/// The items of a range of indices; see [`Task::samples`].
#[derive(Debug)]
pub struct Samples<'a> {
    task: &'a Task,
    seed: u64,
    indices: Range<u64>,
    /// The next generator of `seeded`.
    lane: usize,
    seeded: Arc<Abreast>,
    rng: Box<PyRandom>,
}

impl Iterator for Samples<'_> {
    type Item = Result<Item, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.indices.end.saturating_sub(self.indices.start);
        let index = self.indices.next()?;
        if self.lane == ABREAST {
            let first = u128::from(self.seed) + u128::from(index);
            if left < ABREAST as u64 / 2 {
                return Some(self.task.sample(self.seed, index));
            }
            self.rng.let_go();
            Arc::make_mut(&mut self.seeded).seed(first);
            self.lane = 0;
        }
        self.rng.take_lane(&self.seeded, self.lane);
        self.lane += 1;
        Some(self.task.draw(&mut self.rng, self.seed, index))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.indices.size_hint()
    }
}

/// Reads a configuration: the puzzle, every field, and the style of prompt.
fn read(
    kind: &Kind,
    preset: Option<&Value>,
    config: Option<&Value>,
    mode: Mode,
) -> Result<(Box<dyn Puzzle>, Value, Style), TaskError> {
    let mut fields = Fields::new(preset, config)?;
    let puzzle = (kind.read)(&mut fields, mode)?;
    let style = Style::ALL[fields.choice("prompt", &Style::NAMES)?];
    if style == Style::Compact {
        puzzle.compact_bounds().map_err(|why| wrong("prompt", why))?;
    }
    Ok((puzzle, fields.finish()?, style))
}

#[cfg(test)]
mod tests;
