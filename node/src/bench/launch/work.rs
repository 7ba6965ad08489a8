//! The work of `bench launch`: a model, its first parameters and tokens, in files that all programs read.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use swarmloom_trainer::checkpoint;
use swarmloom_trainer::model::{ModelConfig, preset};
use swarmloom_trainer::weights::Weights;

/// Sequences of an update, and tokens of each: those of the recorded figures of PyTorch.
pub(super) const BATCH: usize = 32;
pub(super) const LENGTH: usize = 128;
/// Micro-batches of PyTorch's pipelines.
pub(super) const MICRO_BATCHES: usize = 4;
/// Steps that are not measured.
pub(super) const WARM_UP: usize = 2;
const LEARNING_RATE: f64 = 1e-3;
const PRESET: &str = "small";

/// Files of one folder.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) folder: PathBuf,
    config: ModelConfig,
}

impl Work {
    /// Writes all files.
    ///
    /// # Errors
    /// Where one cannot be written.
    pub(super) fn write(folder: &Path, steps: usize) -> anyhow::Result<Self> {
        let config = preset(PRESET).with_context(|| format!("no preset {PRESET}"))?;
        let model = folder.join("model");
        checkpoint::export(&model, &Weights::init(&config, 1))?;
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(model.join(name), folder.join(name)).with_context(|| name.to_owned())?;
        }
        let count = (WARM_UP + steps + 1) * BATCH * LENGTH + 1;
        // A text with structure: the next byte follows from this one, but for every seventh.
        let mut at = 7_u32;
        let token = |index: usize| {
            at = if index.is_multiple_of(7) { (at * 31 + index as u32) % 251 } else { (at * 5 + 3) % 251 };
            (at as u16).to_le_bytes()
        };
        let bytes: Vec<u8> = (0..count).flat_map(token).collect();
        std::fs::write(folder.join("tokens.u16"), bytes).context("tokens.u16")?;
        Ok(Self { folder: folder.to_owned(), config })
    }

    /// What a training file says of it.
    pub(super) fn file(&self, steps: usize) -> String {
        format!(
            "name = \"bench\"\n[model]\npath = \"model\"\n[data]\ntokens = \"tokens.u16\"\norder = \"sequential\"\n\
             [training]\nsteps = {}\nglobal_batch = {BATCH}\nsequence_length = {LENGTH}\nlearning_rate = {LEARNING_RATE}\n\
             schedule = \"constant\"\nbetas = [0.9, 0.95]\nweight_decay = 0.1\nmax_grad_norm = 1.0\n\
             [checkpoint]\nevery = 0\n[cluster]\nthreads = 1\ntimeout_s = 120\n",
            WARM_UP + steps
        )
    }

    /// What the peer reads.
    pub(super) fn peer(&self, mode: &str, steps: usize) -> String {
        json!({
            "mode": mode, "sequence_length": LENGTH, "global_batch": BATCH, "micro_batches": MICRO_BATCHES,
            "steps": steps, "warm_up_steps": WARM_UP, "learning_rate": LEARNING_RATE, "betas": [0.9, 0.95],
            "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "dtype": "f32", "threads": 1,
        })
        .to_string()
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "Llama of {} parameters, {BATCH} sequences of {LENGTH} tokens a step, f32 everywhere, AdamW, clipping, one thread \
             a rank; PyTorch's pipelines have {MICRO_BATCHES} micro-batches, and 1F1B",
            self.config.parameters()
        )
    }

    /// Bytes of a step over the link between two clusters of two ranks, both ways together, by arithmetic.
    pub(super) fn link_bytes(&self, mode: &str) -> f64 {
        let gradients = 4.0 * self.config.parameters() as f64;
        let activations = 4.0 * (BATCH * LENGTH * self.config.hidden_size) as f64;
        match mode {
            // A ring of four, of which two links lead across: each carries 2 * 3/4 of all gradients.
            "ddp" => 2.0 * 2.0 * 0.75 * gradients,
            // Each half of the model is a pair of ranks across, each of which sends all of its half's gradients.
            "pp_in_ddp_across" => 2.0 * gradients,
            // Activations of all sequences one way, and their gradients the other.
            _ => 2.0 * activations,
        }
    }
}
