//! The training file: which model learns from which text, and how.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use swarmloom_trainer::causal::optimizer::AdamW;
use swarmloom_trainer::causal::samples::Order;
use swarmloom_trainer::model::{self, ModelConfig};

use crate::config::{ConfigErrors, Located, locate, located, place};

/// A training file, read and checked as far as that is possible without data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainFile {
    /// For people, and for the folder that results go to.
    #[serde(default = "name")]
    pub(crate) name: String,
    /// What learns.
    pub(crate) model: ModelTable,
    /// What it learns from.
    pub(crate) data: DataTable,
    /// How it learns.
    pub(crate) training: TrainingTable,
    /// When the loss on held-out text is measured.
    #[serde(default)]
    pub(crate) evaluation: EvaluationTable,
    /// How ranks share the work; what is absent the plan decides.
    #[serde(default)]
    pub(crate) mesh: MeshTable,
    /// When all is saved.
    #[serde(default)]
    pub(crate) checkpoint: CheckpointTable,
    /// What ranks are like, and how they reach each other.
    #[serde(default)]
    pub(crate) cluster: ClusterTable,
}

/// `[model]`: a preset, a folder, or a shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelTable {
    /// A preset's name.
    pub(crate) preset: Option<String>,
    /// A folder with a Hugging Face `config.json` of the Llama family, and `model.safetensors` to start from where there is
    /// one.
    pub(crate) path: Option<PathBuf>,
    /// A shape.
    pub(crate) shape: Option<ModelConfig>,
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataTable {
    /// Text files: UTF-8, or any bytes.
    #[serde(default)]
    pub(crate) text: Vec<PathBuf>,
    /// A file of tokens instead, little-endian, two bytes each for vocabularies of up to 65,536, else four.
    pub(crate) tokens: Option<PathBuf>,
    /// Text that is held out.
    #[serde(default)]
    pub(crate) validation: Vec<PathBuf>,
    /// Tokens that are held out.
    pub(crate) validation_tokens: Option<PathBuf>,
    /// `bytes`, or a `tokenizer.json`.
    #[serde(default = "bytes")]
    pub(crate) tokenizer: String,
    /// In which order windows of the text come.
    #[serde(default = "shuffled")]
    pub(crate) order: Order,
}

/// `[training]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainingTable {
    /// Updates.
    pub(crate) steps: u64,
    /// Sequences of an update.
    pub(crate) global_batch: usize,
    /// Tokens of a sequence.
    pub(crate) sequence_length: usize,
    /// At its highest.
    pub(crate) learning_rate: f64,
    /// `constant`, `cosine` or `linear`.
    #[serde(default)]
    pub(crate) schedule: Decay,
    /// Updates over which the learning rate grows.
    #[serde(default)]
    pub(crate) warmup_steps: u64,
    /// Where a decay ends, a share of the highest.
    #[serde(default = "tenth")]
    pub(crate) final_share: f64,
    /// AdamW's.
    #[serde(default = "betas")]
    pub(crate) betas: [f32; 2],
    /// AdamW's.
    #[serde(default = "eps")]
    pub(crate) eps: f32,
    /// AdamW's, on matrices.
    #[serde(default = "weight_decay")]
    pub(crate) weight_decay: f32,
    /// The gradient is scaled down to this norm; 0 leaves it.
    #[serde(default = "one")]
    pub(crate) max_grad_norm: f64,
    /// `f32` or `bf16`: what parameters and activations are; the optimizer's are f32.
    #[serde(default)]
    pub(crate) dtype: Dtype,
    /// Of initial weights and of the data's order.
    #[serde(default)]
    pub(crate) seed: u64,
}

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Decay {
    /// Not at all.
    Constant,
    /// Half a cosine.
    #[default]
    Cosine,
    /// A straight line.
    Linear,
}

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, with f32's range.
    Bf16,
}

/// `[evaluation]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EvaluationTable {
    /// Updates between evaluations; the last one is always followed by one.
    pub(crate) every: u64,
    /// Sequences of an evaluation.
    pub(crate) sequences: usize,
}

impl Default for EvaluationTable {
    fn default() -> Self {
        Self { every: 100, sequences: 64 }
    }
}

/// `[mesh]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MeshTable {
    /// Stages of the pipeline.
    pub(crate) pipeline: Option<usize>,
    /// Replicas of the model.
    pub(crate) data: Option<usize>,
    /// Ranks that share each layer.
    pub(crate) tensor: Option<usize>,
    /// Sequences of a micro-batch.
    pub(crate) micro_batch: Option<usize>,
    /// `gpipe`, `1f1b`, `interleaved`, `zb-h1` or `delay-aware`.
    pub(crate) schedule: Option<swarmloom_placement::schedule::Kind>,
    /// Parts that each stage's layers are split into, for the interleaved schedule.
    pub(crate) chunks: Option<usize>,
    /// Layers of each stage.
    pub(crate) layers: Option<Vec<usize>>,
    /// Whether activations are computed again in the backward pass instead of kept.
    pub(crate) recompute: Option<bool>,
    /// Ranks in the order of the mesh: pipeline slowest, tensor fastest.
    pub(crate) order: Option<Vec<usize>>,
}

/// `[checkpoint]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CheckpointTable {
    /// Updates between two; 0 saves at the end alone.
    pub(crate) every: u64,
    /// How many are kept.
    pub(crate) keep: usize,
}

impl Default for CheckpointTable {
    fn default() -> Self {
        Self { every: 200, keep: 2 }
    }
}

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterTable {
    /// `auto`, `cpu` or `cuda`: every rank takes the one of its number on its host.
    pub(crate) device: String,
    /// Threads of a rank; its share of the machine's cores when absent.
    pub(crate) threads: Option<usize>,
    /// What activations and their gradients are on the wire: what they are in memory, when absent.
    pub(crate) wire: Option<Dtype>,
    /// How long a rank waits for another one before it gives up, in seconds.
    pub(crate) timeout_s: u64,
    /// `auto`, `shm`, `tcp` or `ofi`.
    pub(crate) transport: String,
}

impl Default for ClusterTable {
    fn default() -> Self {
        Self { device: "auto".into(), threads: None, wire: None, timeout_s: 300, transport: "auto".into() }
    }
}

fn name() -> String {
    "training".into()
}

fn bytes() -> String {
    BYTES.into()
}

fn shuffled() -> Order {
    Order::Shuffled
}

fn tenth() -> f64 {
    0.1
}

fn one() -> f64 {
    1.0
}

fn betas() -> [f32; 2] {
    let (first, second) = AdamW::default().betas;
    [first, second]
}

fn eps() -> f32 {
    AdamW::default().eps
}

fn weight_decay() -> f32 {
    AdamW::default().weight_decay
}

/// The tokenizer that needs no file.
pub(crate) const BYTES: &str = "bytes";

impl TrainFile {
    /// Parses and checks a file. `name` is what errors call it.
    ///
    /// # Errors
    /// All that is wrong, each with its place; a syntax error hides what follows it.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let file: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = error.span().map_or((0, 0), |span| place(text, span.start));
            ConfigErrors(vec![located(name, (line, column), error.message().trim())])
        })?;
        let wrong: Vec<Located> =
            file.problems().iter().map(|(path, message)| locate(name, text, path, message)).collect();
        if wrong.is_empty() { Ok(file) } else { Err(ConfigErrors(wrong)) }
    }

    /// The model's shape. Paths are relative to `folder`.
    ///
    /// # Errors
    /// Where a folder has no usable `config.json`.
    pub(crate) fn model_config(&self, folder: &Path) -> anyhow::Result<ModelConfig> {
        let ModelTable { preset, path, shape } = &self.model;
        let mut config = match (preset, path, shape) {
            (Some(preset), ..) => model::preset(preset).ok_or_else(|| anyhow::anyhow!("no preset {preset}"))?,
            (_, Some(path), _) => {
                let path = folder.join(path).join("config.json");
                let json = std::fs::read(&path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
                ModelConfig::from_json(&json).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?
            }
            (.., Some(shape)) => shape.clone(),
            _ => anyhow::bail!("no model"),
        };
        // Rotary positions need no table of their own: a preset learns any length.
        if preset.is_some() {
            config.max_position_embeddings = config.max_position_embeddings.max(self.training.sequence_length);
        }
        Ok(config)
    }

    /// The learning rate of a step, counted from 0.
    pub(crate) fn learning_rate(&self, step: u64) -> f64 {
        let TrainingTable { steps, learning_rate, schedule, warmup_steps, final_share, .. } = self.training;
        if step < warmup_steps {
            return learning_rate * (step + 1) as f64 / warmup_steps as f64;
        }
        let span = steps.saturating_sub(warmup_steps).max(1);
        let done = ((step - warmup_steps) as f64 / span as f64).min(1.0);
        let share = match schedule {
            Decay::Constant => return learning_rate,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Decay::Linear => 1.0 - done,
        };
        learning_rate * (final_share + (1.0 - final_share) * share)
    }

    fn problems(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |fine: bool, path: &str, message: String| {
            if !fine {
                wrong.push((path.to_owned(), message));
            }
        };
        let ModelTable { preset, path, shape } = &self.model;
        let given = usize::from(preset.is_some()) + usize::from(path.is_some()) + usize::from(shape.is_some());
        check(given == 1, "model", "one of preset, path and shape says what learns".into());
        if let Some(preset) = preset {
            let names: Vec<&str> = model::presets().into_iter().map(|(name, _)| name).collect();
            let message = format!("{preset:?} is no preset: there are {}", names.join(", "));
            check(names.contains(&preset.as_str()), "model.preset", message);
        }
        if let Some(Err(error)) = shape.as_ref().map(ModelConfig::validate) {
            check(false, "model.shape", error.to_string());
        }
        let DataTable { text, tokens, validation, validation_tokens, .. } = &self.data;
        check(text.is_empty() != tokens.is_none(), "data", "either text or tokens says what is learned from".into());
        let one = validation.is_empty() || validation_tokens.is_none();
        check(one, "data.validation", "validation and validation_tokens cannot both be given".into());
        let training = &self.training;
        let numbers: [(&str, f64, f64, f64); 9] = [
            ("training.steps", training.steps as f64, 1.0, 1e12),
            ("training.global_batch", training.global_batch as f64, 1.0, 1e7),
            ("training.sequence_length", training.sequence_length as f64, 1.0, 1e6),
            ("training.learning_rate", training.learning_rate, 0.0, 10.0),
            ("training.final_share", training.final_share, 0.0, 1.0),
            ("training.eps", f64::from(training.eps), f64::MIN_POSITIVE, 1.0),
            ("training.weight_decay", f64::from(training.weight_decay), 0.0, 10.0),
            ("training.max_grad_norm", training.max_grad_norm, 0.0, f64::MAX),
            ("cluster.timeout_s", self.cluster.timeout_s as f64, 1.0, 86_400.0),
        ];
        for (path, value, low, high) in numbers {
            let fine = value.is_finite() && (low..=high).contains(&value);
            check(fine, path, format!("{value} is outside {low} to {high}"));
        }
        for (at, beta) in training.betas.iter().enumerate() {
            let path = format!("training.betas.{at}");
            check((0.0..1.0).contains(beta), &path, format!("{beta} is outside 0 to 1, 1 itself excluded"));
        }
        let sequences = self.evaluation.sequences;
        check(
            (1..=1 << 20).contains(&sequences),
            "evaluation.sequences",
            format!("{sequences} is outside 1 to 1048576"),
        );
        check(self.checkpoint.keep > 0, "checkpoint.keep", "at least one checkpoint is kept".into());
        let device = &self.cluster.device;
        let known = ["auto", "cpu", "cuda"].contains(&device.as_str());
        check(known, "cluster.device", format!("{device:?} is none of auto, cpu and cuda"));
        let transport = &self.cluster.transport;
        let known = ["auto", "shm", "tcp", "ofi"].contains(&transport.as_str());
        check(known, "cluster.transport", format!("{transport:?} is none of auto, shm, tcp and ofi"));
        check(self.cluster.threads != Some(0), "cluster.threads", "at least one thread is needed".into());
        let MeshTable { pipeline, data, tensor, micro_batch, chunks, .. } = &self.mesh;
        let sizes = [
            ("mesh.pipeline", pipeline),
            ("mesh.data", data),
            ("mesh.tensor", tensor),
            ("mesh.micro_batch", micro_batch),
            ("mesh.chunks", chunks),
        ];
        for (path, size) in sizes {
            check(*size != Some(0), path, "it counts from 1".into());
        }
        let fits = micro_batch.is_none_or(|size| size <= training.global_batch);
        check(fits, "mesh.micro_batch", format!("the global batch has only {} sequences", training.global_batch));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
[model]
preset = \"nano\"
[data]
text = [\"a.txt\"]
[training]
steps = 110
global_batch = 8
sequence_length = 4096
learning_rate = 1e-3
warmup_steps = 10
";

    #[test]
    fn a_short_file_takes_the_defaults() {
        let file = TrainFile::parse("train.toml", SMALL).expect("sound");
        assert_eq!((file.training.betas, file.training.weight_decay), ([0.9, 0.95], 0.1));
        let config = file.model_config(Path::new(".")).expect("a preset");
        assert_eq!(config.max_position_embeddings, 4096);
    }

    #[test]
    fn the_learning_rate_grows_and_falls() {
        let file = TrainFile::parse("train.toml", SMALL).expect("sound");
        let rates = [0, 9, 10, 60, 110, 500].map(|step| (file.learning_rate(step) * 1e7).round() / 1e7);
        assert_eq!(rates, [1e-4, 1e-3, 1e-3, 5.5e-4, 1e-4, 1e-4]);
        let linear = TrainFile { training: TrainingTable { schedule: Decay::Linear, ..file.training.clone() }, ..file };
        assert!((linear.learning_rate(35) - 7.75e-4).abs() < 1e-12);
    }

    #[test]
    fn all_that_is_wrong_is_said_with_its_place() {
        let text = SMALL
            .replace("nano", "giant")
            .replace("global_batch = 8", "global_batch = 0")
            .replace("[training]", "tokens = \"b.bin\"\n[mesh]\nmicro_batch = 9\n[training]");
        let wrong = TrainFile::parse("train.toml", &text).expect_err("wrong").0;
        let found: Vec<(usize, &str)> =
            wrong.iter().map(|one| (one.line, one.message.split(':').next().unwrap_or(""))).collect();
        assert_eq!(
            found,
            [(3, "model.preset"), (4, "data"), (11, "training.global_batch"), (8, "mesh.micro_batch")],
            "{wrong:?}"
        );
        let misspelt = SMALL.replace("steps", "stepps");
        let wrong = TrainFile::parse("train.toml", &misspelt).expect_err("wrong").0;
        assert!(wrong[0].message.contains("stepps") && wrong[0].line == 7, "{wrong:?}");
    }
}
