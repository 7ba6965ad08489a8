//! The tasks of a run, ready to ask and to score: what joins the protocol's idea of a question (task, seed, index)
//! with the machinery that makes it.
//!
//! A question's seed follows from the run, its author and a counter, so nobody picks questions. The index is the first
//! whose question is not held out: all peers hold out the same ones, because those follow from the run.

use std::collections::HashSet;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use swarmloom_protocol::group::Group;
use swarmloom_protocol::run::{MAX_INDICES, RunLimits, RunSpec, TaskSpec, held_out_seed};
use swarmloom_tasks::{Item, Mode, Task};

use crate::config::{ConfigErrors, RunTable, locate};

/// A run's tasks, in the run's order; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TaskBook {
    entries: Arc<Vec<Entry>>,
}

/// One task of a run.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name within the run.
    pub(crate) label: String,
    /// How often the run draws it.
    pub(crate) weight: u32,
    task: Task,
    held_out: Vec<Question>,
    held_out_prompts: HashSet<[u8; 32]>,
}

/// A question that can be put to a policy.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The task's place in the run.
    pub(crate) task: u16,
    /// Seed of the task's generator.
    pub(crate) seed: u64,
    /// Index within that seed.
    pub(crate) index: u64,
    /// What the policy reads.
    pub(crate) prompt: String,
    item: Item,
}

/// Why a run's tasks cannot be used here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BookError {
    /// A task or its configuration is not known or not valid.
    #[error("{field}: {message}")]
    Task {
        /// The field of the run file that it is about, such as `run.tasks.2.config`.
        field: String,
        /// What is wrong.
        message: String,
    },
}

/// Why a group of another peer is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Unverifiable {
    /// The run has no such task.
    #[error("the run has no task {0}")]
    NoSuchTask(u16),
    /// No question follows from the seed.
    #[error("no question follows from its seed: {0}")]
    NoQuestion(String),
    /// Its question is one that nobody trains on.
    #[error("its question is held out")]
    HeldOut,
    /// Another question follows from the seed.
    #[error("index {found} does not follow from its seed, {expected} does")]
    Index {
        /// What does.
        expected: u64,
        /// What it says.
        found: u64,
    },
}

/// Draws per held-out question wanted; a small domain yields fewer distinct ones.
const DRAWS_PER_HELD_OUT: u64 = 32;

impl TaskBook {
    /// The description of a run and its tasks, from `[run]` of the file `name` with this `text`.
    ///
    /// # Errors
    /// Every task that is unknown or misconfigured, at its place in the file.
    pub(crate) fn from_table(name: &str, text: &str, run: &RunTable) -> Result<(RunSpec, Self), ConfigErrors> {
        let mut wrong = Vec::new();
        let mut tasks = Vec::new();
        for (at, table) in run.tasks.iter().enumerate() {
            let mode = mode(table.mode == "hardened");
            match Task::new(&table.task, table.config.as_ref(), mode) {
                Ok(task) => tasks.push(TaskSpec {
                    label: table.label.clone(),
                    task: task.name().to_owned(),
                    hardened: table.mode == "hardened",
                    weight: table.weight,
                    config: task.config().to_string(),
                    config_hash: task.config_hash(),
                }),
                Err(error) => {
                    let field = if table.config.is_some() { "config" } else { "task" };
                    wrong.push(locate(name, text, &format!("run.tasks.{at}.{field}"), &error.to_string()));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(ConfigErrors(wrong));
        }
        let limits = &run.limits;
        let spec = RunSpec {
            name: run.name.clone(),
            // The file was checked: 32 digits stand there.
            nonce: crate::hex::decode(&run.nonce).unwrap_or_default(),
            tasks,
            held_out: run.held_out,
            limits: RunLimits {
                max_completions: limits.max_completions,
                max_completion_bytes: limits.max_completion_bytes,
                max_staleness_versions: limits.max_staleness_versions,
                max_age_s: limits.max_age_s,
                groups_per_minute: limits.groups_per_minute,
            },
        };
        let at_run = |message: String| ConfigErrors(vec![locate(name, text, "run", &message)]);
        spec.check().map_err(|error| at_run(error.to_string()))?;
        let book = Self::from_spec(&spec)
            .map_err(|BookError::Task { field, message }| ConfigErrors(vec![locate(name, text, &field, &message)]))?;
        Ok((spec, book))
    }

    /// The tasks of a run that somebody described.
    ///
    /// # Errors
    /// Where this version does not make the same questions, or a task has too few to hold some out.
    pub(crate) fn from_spec(spec: &RunSpec) -> Result<Self, BookError> {
        let run = spec.id();
        let mut entries = Vec::with_capacity(spec.tasks.len());
        for (at, described) in spec.tasks.iter().enumerate() {
            let fail =
                |field: &str, message: String| BookError::Task { field: format!("run.tasks.{at}.{field}"), message };
            let config = serde_json::from_str(&described.config).map_err(|error| fail("config", error.to_string()))?;
            let task = Task::new(&described.task, Some(&config), mode(described.hardened))
                .map_err(|error| fail("config", error.to_string()))?;
            if task.config_hash() != described.config_hash {
                let why =
                    "this version of swarmloom makes other questions from it; all peers of a run need one version";
                return Err(fail("config", why.into()));
            }
            let mut entry = Entry {
                label: described.label.clone(),
                weight: described.weight,
                task,
                held_out: Vec::new(),
                held_out_prompts: HashSet::new(),
            };
            entry
                .hold_out(at as u16, held_out_seed(&run, &described.label), spec.held_out)
                .map_err(|message| fail("task", message))?;
            entries.push(entry);
        }
        Ok(Self { entries: Arc::new(entries) })
    }

    /// The tasks in the run's order.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The question that follows from a seed.
    ///
    /// # Errors
    /// [`Unverifiable`], for one where nearly all questions of a task are held out.
    pub(crate) fn question(&self, task: u16, seed: u64) -> Result<Question, Unverifiable> {
        self.entries.get(usize::from(task)).ok_or(Unverifiable::NoSuchTask(task))?.question(task, seed)
    }

    /// The question of another peer's group, made anew from its seed.
    ///
    /// # Errors
    /// Where the group's index is not the one that follows.
    pub(crate) fn question_of(&self, group: &Group) -> Result<Question, Unverifiable> {
        let question = self.question(group.task, group.seed)?;
        if question.index != group.index {
            let entry = &self.entries[usize::from(group.task)];
            let theirs = entry.at(group.task, group.seed, group.index).map_err(Unverifiable::NoQuestion)?;
            if entry.held_out_prompts.contains(&prompt_hash(&theirs.prompt)) {
                return Err(Unverifiable::HeldOut);
            }
            return Err(Unverifiable::Index { expected: question.index, found: group.index });
        }
        Ok(question)
    }

    /// Rewards of completions to a question, each in `[0, 1]`. Text that is not UTF-8 is read with replacement
    /// characters, as every peer does.
    pub(crate) fn rewards<'a>(&self, question: &Question, texts: impl Iterator<Item = &'a [u8]>) -> Vec<f32> {
        let Some(entry) = self.entries.get(usize::from(question.task)) else { return Vec::new() };
        texts.map(|text| entry.task.reward(&question.item, &String::from_utf8_lossy(text)) as f32).collect()
    }
}

impl Entry {
    /// Questions for evaluation, the same for all peers of the run.
    pub(crate) fn held_out(&self) -> &[Question] {
        &self.held_out
    }

    /// Upper bound of a right completion, in bytes.
    pub(crate) fn max_target_bytes(&self) -> usize {
        self.task.max_target_bytes()
    }

    /// Upper bound of a prompt, in bytes.
    pub(crate) fn max_prompt_bytes(&self) -> usize {
        self.task.max_prompt_bytes()
    }

    /// A right completion; `None` where the task knows none.
    pub(crate) fn target(&self, question: &Question) -> Option<String> {
        self.task.target(&question.item)
    }

    fn question(&self, task: u16, seed: u64) -> Result<Question, Unverifiable> {
        for index in 0..MAX_INDICES {
            let question = self.at(task, seed, index).map_err(Unverifiable::NoQuestion)?;
            if !self.held_out_prompts.contains(&prompt_hash(&question.prompt)) {
                return Ok(question);
            }
        }
        Err(Unverifiable::NoQuestion(format!("its first {MAX_INDICES} questions are held out")))
    }

    fn at(&self, task: u16, seed: u64, index: u64) -> Result<Question, String> {
        let item = self.task.sample(seed, index).map_err(|error| error.to_string())?;
        Ok(Question { task, seed, index, prompt: self.task.prompt(&item), item })
    }

    /// Fills the held-out set with distinct questions; a small domain gives fewer than wanted, but never most of it.
    fn hold_out(&mut self, task: u16, seed: u64, wanted: u32) -> Result<(), String> {
        for index in 0..u64::from(wanted) * DRAWS_PER_HELD_OUT {
            if self.held_out.len() == wanted as usize {
                break;
            }
            let question = self.at(task, seed, index)?;
            if self.held_out_prompts.insert(prompt_hash(&question.prompt)) {
                self.held_out.push(question);
            }
        }
        // A sample of what is left for training: every second question or more must be one that is not held out.
        let probe = |at: u64| self.at(task, seed ^ u64::MAX, at);
        let mut free = 0;
        for at in 0..64 {
            free += u32::from(!self.held_out_prompts.contains(&prompt_hash(&probe(at)?.prompt)));
        }
        if free < 32 {
            return Err(format!(
                "it has too few different questions to hold out {wanted} of them: widen its configuration or lower run.held_out"
            ));
        }
        Ok(())
    }
}

/// What tells questions apart: a hash of the text that a policy reads.
pub(crate) fn prompt_hash(prompt: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, prompt.as_bytes()).as_ref());
    hash
}

fn mode(hardened: bool) -> Mode {
    if hardened { Mode::Hardened } else { Mode::Exact }
}

#[cfg(test)]
pub(crate) mod tests {
    use swarmloom_protocol::id::PeerKey;
    use swarmloom_protocol::run::question_seed;

    use super::*;
    use crate::config::RunFile;

    /// A run of two small tasks.
    pub(crate) fn small_run() -> (RunSpec, TaskBook) {
        let text = r#"
            [run]
            name = "small"
            nonce = "000102030405060708090a0b0c0d0e0f"
            [[run.tasks]]
            label = "matrix"
            task = "binary_matrix/3x3"
            [[run.tasks]]
            label = "spell"
            task = "spell_backward/short"
            weight = 3
        "#;
        let file = RunFile::parse("small", text).expect("valid");
        TaskBook::from_table("small", text, file.run.as_ref().expect("a run")).expect("a book")
    }

    #[test]
    fn a_described_run_gives_the_same_book_and_other_questions_are_refused() {
        let (mut spec, book) = small_run();
        let again = TaskBook::from_spec(&spec).expect("the same");
        let prompts = |book: &TaskBook| -> Vec<String> {
            book.entries()[0].held_out().iter().map(|question| question.prompt.clone()).collect()
        };
        assert_eq!(prompts(&book), prompts(&again));
        assert_eq!(prompts(&book).len(), 48);
        spec.tasks[1].config_hash[0] ^= 1;
        assert!(
            matches!(TaskBook::from_spec(&spec), Err(BookError::Task { field, .. }) if field == "run.tasks.1.config")
        );
    }

    #[test]
    fn no_training_question_is_held_out_and_a_question_follows_from_its_seed() {
        let (spec, book) = small_run();
        let held_out: HashSet<String> =
            book.entries()[0].held_out().iter().map(|question| question.prompt.clone()).collect();
        for counter in 0..500 {
            let seed = question_seed(&spec.id(), &PeerKey([7; 32]), counter);
            let question = book.question(0, seed).expect("a question");
            assert!(!held_out.contains(&question.prompt));
        }
        // 48 of 476 are held out: about every tenth draw is passed over.
        let first =
            |counter| book.question(0, question_seed(&spec.id(), &PeerKey([7; 32]), counter)).expect("one").index;
        let passed = (0..500).filter(|counter| first(*counter) > 0).count();
        assert!((20..120).contains(&passed), "{passed}");
        assert_eq!(book.question(9, 1).expect_err("no such task"), Unverifiable::NoSuchTask(9));
    }

    #[test]
    fn right_completions_earn_full_reward_and_others_do_not() {
        let (_, book) = small_run();
        for (task, entry) in book.entries().iter().enumerate() {
            let question = book.question(task as u16, 5).expect("a question");
            let target = entry.target(&question).expect("a target");
            assert!(target.len() <= entry.max_target_bytes() && question.prompt.len() <= entry.max_prompt_bytes());
            let texts: [&[u8]; 3] = [target.as_bytes(), b"", b"\xff\xfe"];
            assert_eq!(book.rewards(&question, texts.into_iter()), [1.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn a_task_that_would_be_held_out_whole_is_an_error_at_its_place() {
        let text = "[run]\nname = \"a\"\nnonce = \"000102030405060708090a0b0c0d0e0f\"\nheld_out = 400\n[[run.tasks]]\nlabel = \"bits\"\ntask = \"count_bits/byte\"\n[training]\nevaluate_questions = 10\n";
        let file = RunFile::parse("run.toml", text).expect("well-formed");
        let wrong = TaskBook::from_table("run.toml", text, file.run.as_ref().expect("a run")).expect_err("too many").0;
        assert_eq!(wrong[0].line, 7, "{wrong:?}");
        assert!(wrong[0].message.contains("run.held_out"));
    }
}
