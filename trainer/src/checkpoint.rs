//! Checkpoints: folders that are either whole or recognised as not whole, and exports for other programs.
//!
//! A checkpoint is written under another name, made durable and then renamed: a crash leaves the old ones.
//! `SHA256SUMS` (as `sha256sum --check` reads it) covers every file, so that a torn or damaged checkpoint
//! is told from a sound one.
//!
//! | file | holds |
//! |---|---|
//! | `model.safetensors` | the weights, under Hugging Face names |
//! | `config.json` | the model's shape, as Hugging Face has it |
//! | `optimizer.safetensors` | AdamW's moments |
//! | `reference.safetensors` | the policy that the divergence is taken from, if there is one |
//! | `state.json` | counters, and what the caller keeps with them |
//! | `SHA256SUMS` | the digests of the others |

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::Device;
use crate::learner::{Learner, LearnerConfig, LearnerState, StepError};
use crate::model::{ModelConfig, ModelError};
use crate::weights::{self, Weights, WeightsError};

/// Why a checkpoint or an export could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system says so.
    #[error("{path}: {source}")]
    File {
        /// Of what.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// A file is not the one that was written.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that is known.
        why: String,
    },
    /// The place of an export is taken.
    #[error("{0} exists already: an export is a folder of its own, name another")]
    Exists(PathBuf),
    /// The model's shape is wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// JSON could not be written.
    #[error("state.json: {0}")]
    Json(#[from] serde_json::Error),
    /// The learner could not give its state, or not be made of it.
    #[error(transparent)]
    Learner(#[from] StepError),
}

/// A sound checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// The step that it was saved at.
    pub step: u64,
    /// What the caller kept with it.
    pub state: Value,
    /// The learner.
    pub learner_state: LearnerState,
}

/// What a folder of checkpoints holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The newest sound one.
    pub checkpoint: Option<Checkpoint>,
    /// Those newer than it, which are not sound.
    pub damaged: Vec<Damaged>,
}

/// A checkpoint that is not sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Where it was moved to.
    pub path: PathBuf,
    /// How that is known.
    pub why: String,
}

/// Contents of `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    step: u64,
    updates: u64,
    micro_batch_tokens: Option<usize>,
    state: Value,
}

const FORMAT: u32 = 1;
const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const REFERENCE: &str = "reference.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
/// Prefixes of the moments' names.
const MOMENTS: [&str; 2] = ["first_moment.", "second_moment."];
/// Most bytes of a JSON file and of the digests.
const SMALL_FILE: usize = 64 << 20;

/// Saves a learner, with `state` beside it, as the checkpoint of `step` in the folder `dir`, which is made
/// if it is not there. A checkpoint of that step is replaced. Returns the checkpoint's folder.
///
/// # Errors
/// If something cannot be written; the checkpoints that were there are still there.
pub fn save(dir: &Path, step: u64, learner: &Learner, state: &Value) -> Result<PathBuf, CheckpointError> {
    let learner = learner.checkpoint()?;
    let model = learner.weights.config();
    let [first, second] = MOMENTS;
    let numbers = State {
        format: FORMAT,
        step,
        updates: learner.updates,
        micro_batch_tokens: learner.micro_batch_tokens,
        state: state.clone(),
    };
    let mut files = vec![
        (MODEL, learner.weights.to_safetensors()?),
        (CONFIG, serde_json::to_vec_pretty(&model.to_json())?),
        (OPTIMIZER, weights::write(&[(first, &learner.first_moment), (second, &learner.second_moment)])?),
        (STATE, serde_json::to_vec_pretty(&numbers)?),
    ];
    if let Some(reference) = &learner.reference {
        files.push((REFERENCE, reference.to_safetensors()?));
    }
    let sums: String = files.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
    files.push((SUMS, sums.into_bytes()));

    fs::create_dir_all(dir).map_err(at(dir))?;
    let (path, unfinished) = (dir.join(name(step)), dir.join(format!("unfinished-{}", name(step))));
    remove(&unfinished)?;
    write_folder(&unfinished, &files)?;
    // A folder cannot be renamed onto another.
    remove(&path)?;
    fs::rename(&unfinished, &path).map_err(at(&path))?;
    sync_folder(dir)?;
    Ok(path)
}

/// The newest sound checkpoint in the folder `dir`. Newer ones that are not sound are moved aside, to names that begin
/// with `damaged-`: [`prune`] would else count them among those to keep. A folder that is not there holds none.
///
/// # Errors
/// If the folder cannot be read, or a damaged one not be moved.
pub fn latest(dir: &Path) -> Result<Found, CheckpointError> {
    let mut found = Found::default();
    for (step, path) in list(dir)?.into_iter().rev() {
        let why = match load(&path) {
            Ok(checkpoint) if checkpoint.step == step => {
                found.checkpoint = Some(checkpoint);
                break;
            }
            Ok(checkpoint) => format!("it is the checkpoint of step {}, under another name", checkpoint.step),
            Err(error) => error.to_string(),
        };
        found.damaged.push(Damaged { path: set_aside(dir, &path)?, why });
    }
    Ok(found)
}

/// Where a damaged checkpoint is now.
fn set_aside(dir: &Path, path: &Path) -> Result<PathBuf, CheckpointError> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or("checkpoint");
    let aside = dir.join(format!("damaged-{name}"));
    if aside.exists() {
        // One of each step is enough to look at.
        remove(&aside)?;
    }
    fs::rename(path, &aside).map_err(at(path))?;
    Ok(aside)
}

/// Reads one checkpoint and checks every file.
///
/// # Errors
/// If a file is missing, damaged or not one of this program; the error says which.
pub fn load(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let damaged = |name: &str, why: String| CheckpointError::Damaged { path: path.join(name), why };
    let sums = read(&path.join(SUMS), SMALL_FILE)?;
    let sums = String::from_utf8(sums).map_err(|_| damaged(SUMS, "it is no text".into()))?;
    let checked = |name: &str, most: usize| {
        let listed = sums.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix("  "));
        let Some(expected) = listed else { return Err(damaged(SUMS, format!("{name} is not in it"))) };
        let bytes = read(&path.join(name), most)?;
        let found = sha256(&bytes);
        if found == expected {
            Ok(bytes)
        } else {
            Err(damaged(name, format!("its SHA-256 is {found}, not {expected}")))
        }
    };
    let numbers: State = serde_json::from_slice(&checked(STATE, SMALL_FILE)?)?;
    if numbers.format != FORMAT {
        return Err(damaged(STATE, format!("its format is {}, but {FORMAT} is read here", numbers.format)));
    }
    let model = ModelConfig::from_json(&checked(CONFIG, SMALL_FILE)?)?;
    let most = weights::most_bytes(&model);
    let [first_moment, second_moment] = weights::read(&model, MOMENTS, &checked(OPTIMIZER, 2 * most)?)?;
    let reference = match sums.contains(REFERENCE) {
        true => Some(Weights::from_safetensors(&model, &checked(REFERENCE, most)?)?),
        false => None,
    };
    let learner_state = LearnerState {
        weights: Weights::from_safetensors(&model, &checked(MODEL, most)?)?,
        first_moment,
        second_moment,
        updates: numbers.updates,
        reference,
        micro_batch_tokens: numbers.micro_batch_tokens,
    };
    Ok(Checkpoint { path: path.to_owned(), step: numbers.step, state: numbers.state, learner_state })
}

/// Removes all checkpoints in `dir` but the `keep` newest, and what a crash has left unfinished. At least
/// one is kept. Returns what was removed.
///
/// # Errors
/// If something cannot be removed.
pub fn prune(dir: &Path, keep: usize) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut old: Vec<PathBuf> = list(dir)?.into_iter().map(|(_, path)| path).collect();
    old.truncate(old.len().saturating_sub(keep.max(1)));
    old.extend(entries(dir)?.into_iter().filter(|path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.and_then(|name| name.strip_prefix("unfinished-")).and_then(step_of).is_some()
    }));
    for path in &old {
        remove(path)?;
    }
    Ok(old)
}

/// Writes a model for other programs into the folder `to`, which must not exist: `config.json`,
/// `model.safetensors` and a note on its tokens.
///
/// # Errors
/// If the folder exists, or something cannot be written.
pub fn export(to: &Path, weights: &Weights) -> Result<(), CheckpointError> {
    let files = vec![
        (CONFIG, serde_json::to_vec_pretty(&weights.config().to_json())?),
        (MODEL, weights.to_safetensors()?),
        ("TOKENIZER.md", TOKENIZER_NOTE.as_bytes().to_vec()),
    ];
    if to.exists() {
        return Err(CheckpointError::Exists(to.to_owned()));
    }
    write_folder(to, &files)
}

const TOKENIZER_NOTE: &str = "\
# Tokens

A token is a byte: ids 0 to 255 are the bytes of the text in UTF-8. Two ids are marks: 256 begins every
prompt, 257 ends a completion. Other ids are padding of the vocabulary.

A prompt is `[256, bytes...]`. In training, ids that cannot follow (256 and the padding) have a logit of minus
infinity: mask them when sampling with another program. `model.safetensors` and `config.json` are read by Hugging
Face's `LlamaForCausalLM.from_pretrained`.
";

impl Checkpoint {
    /// A learner that goes on from here.
    ///
    /// # Errors
    /// If the checkpoint is one of another model, or the learner cannot be made.
    pub fn learner(
        &self,
        model: &ModelConfig,
        config: LearnerConfig,
        device: Device,
        threads: usize,
    ) -> Result<Learner, CheckpointError> {
        let mut learner = Learner::new(model, &self.learner_state.weights, config, device, threads)?;
        learner.restore(&self.learner_state)?;
        Ok(learner)
    }

    /// Writes its model for other programs: see [`export`].
    ///
    /// # Errors
    /// As [`export`].
    pub fn export(&self, to: &Path) -> Result<(), CheckpointError> {
        export(to, &self.learner_state.weights)
    }
}

fn name(step: u64) -> String {
    format!("step-{step:012}")
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    (digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// The checkpoints in a folder, oldest first.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let step = |path: PathBuf| Some((step_of(path.file_name()?.to_str()?)?, path));
    let mut found: Vec<_> = entries(dir)?.into_iter().filter_map(step).collect();
    found.sort();
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(dir))?,
    };
    entries.map(|entry| Ok(entry.map_err(at(dir))?.path())).collect()
}

/// Makes a folder with these files, all of it durable.
fn write_folder(path: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), CheckpointError> {
    fs::create_dir_all(path).map_err(at(path))?;
    for (name, bytes) in files {
        let path = path.join(name);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(at(&path))?;
    }
    sync_folder(path)
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(at(path))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at(path)),
    }
}

/// Reads a file of at most `most` bytes.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() > most {
        return Err(CheckpointError::Damaged { path: path.to_owned(), why: format!("it has more than {most} bytes") });
    }
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    move |source| CheckpointError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
