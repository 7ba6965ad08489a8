//! `task list|sample|score`: the tasks from a terminal or a script.

use std::collections::HashMap;
use std::io::{BufRead, Write};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use swarmloom_tasks::{Mode, Task};

use crate::cli::{ModeArg, TaskVerb};
use crate::runs::Usage;

/// The longest line `task score` reads.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Built tasks that `task score` keeps: a file with a configuration per line must not fill memory.
const MAX_BUILT: usize = 256;

/// Carries out a `task` verb.
///
/// # Errors
/// Unknown tasks, bad configurations and malformed lines, each saying which.
pub(crate) fn run(verb: &TaskVerb, as_json: bool) -> anyhow::Result<()> {
    match verb {
        TaskVerb::List => list(as_json),
        TaskVerb::Sample { task, seed, index, count, config, mode, prompt } => {
            let config = config.as_deref().map(parse_config).transpose()?;
            let task = Task::new(task, config.as_ref(), (*mode).into())?;
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            for at in 0..*count {
                let Some(index) = index.checked_add(at) else { bail!("--index plus --count passes 2^64") };
                let item = task.sample(*seed, index)?;
                let mut line = json!({
                    "task": item.task, "seed": item.seed, "idx": item.index,
                    "question": item.question, "answer": item.answer, "metadata": item.metadata,
                });
                if *prompt {
                    line["prompt"] = task.prompt(&item).into();
                }
                writeln!(out, "{line}")?;
            }
            Ok(out.flush()?)
        }
        TaskVerb::Score { config, mode } => {
            let config = config.as_deref().map(parse_config).transpose()?;
            score(std::io::stdin().lock(), std::io::stdout().lock(), config.as_ref(), (*mode).into())
        }
    }
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Exact => Mode::Exact,
            ModeArg::Hardened => Mode::Hardened,
        }
    }
}

fn list(as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let tasks: Vec<Value> = swarmloom_tasks::list()
            .iter()
            .map(|info| json!({ "task": info.name, "description": info.description, "config": info.default_config }))
            .collect();
        let presets: Vec<Value> = swarmloom_tasks::presets()
            .iter()
            .map(|preset| json!({ "preset": preset.name, "description": preset.description, "config": preset.config }))
            .collect();
        return Ok(writeln!(out, "{}", json!({ "tasks": tasks, "presets": presets }))?);
    }
    for info in swarmloom_tasks::list() {
        writeln!(out, "{:28} {}", info.name, info.description)?;
        for preset in
            swarmloom_tasks::presets().iter().filter(|preset| preset.name.split('/').next() == Some(info.name))
        {
            writeln!(out, "  {:26} {}", preset.name, preset.description)?;
        }
    }
    Ok(())
}

/// One line of `task score`'s input.
#[derive(Debug, Deserialize)]
struct Candidate {
    task: String,
    seed: u64,
    idx: u64,
    answer: Option<String>,
    #[serde(default)]
    config: Option<Value>,
}

/// Scores each line of `input` in order.
fn score(mut input: impl BufRead, mut out: impl Write, config: Option<&Value>, mode: Mode) -> anyhow::Result<()> {
    let mut built: HashMap<String, Task> = HashMap::new();
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        let read = std::io::Read::take(&mut input, MAX_LINE_BYTES as u64 + 1).read_line(&mut line)?;
        if read == 0 {
            break;
        }
        if read > MAX_LINE_BYTES {
            bail!("line {number} of standard input is longer than {MAX_LINE_BYTES} bytes");
        }
        if line.trim().is_empty() {
            continue;
        }
        let candidate: Candidate = serde_json::from_str(&line)
            .with_context(|| format!("line {number} of standard input is not {{task, seed, idx, answer}}"))?;
        let config = candidate.config.as_ref().or(config);
        let key = format!("{}\n{}", candidate.task, config.map(ToString::to_string).unwrap_or_default());
        if !built.contains_key(&key) {
            if built.len() >= MAX_BUILT {
                built.clear();
            }
            let task = Task::new(&candidate.task, config, mode).with_context(|| format!("line {number}"))?;
            built.insert(key.clone(), task);
        }
        let Some(task) = built.get(&key) else { continue };
        let item = task.sample(candidate.seed, candidate.idx).with_context(|| format!("line {number}"))?;
        let score = task.score(&item, candidate.answer.as_deref());
        writeln!(out, "{}", json!({ "task": candidate.task, "idx": candidate.idx, "score": score }))?;
    }
    Ok(out.flush()?)
}

fn parse_config(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).map_err(|error| Usage(format!("--config is not JSON ({error}): {text}")).into())
}
