//! The run file: what all peers of a run agree on (`[run]`), and how this peer takes part
//! (every other table).
//!
//! Errors carry the file, line and column of the value they are about. Parsing knows nothing of
//! tasks or models beyond their names; what a task's configuration means is checked by
//! [`crate::book::TaskBook`], which reports through the same located errors.

mod checks;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

/// One thing wrong with a run file, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Located {
    /// The file as the person named it; `-` is standard input.
    pub(crate) file: String,
    /// 1-based; 0 when the error concerns the file as a whole.
    pub(crate) line: usize,
    /// 1-based, in characters.
    pub(crate) column: usize,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Everything wrong with a run file.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct ConfigErrors(pub(crate) Vec<Located>);

/// A run file, as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    /// What all peers share; its hash names the run. Absent in a file of settings for `join INVITE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<RunTable>,
    /// This peer's model and questions.
    #[serde(default)]
    pub(crate) peer: PeerTable,
    /// What this peer shares and takes.
    #[serde(default)]
    pub(crate) sharing: SharingTable,
    /// How this peer learns.
    #[serde(default)]
    pub(crate) training: TrainingTable,
    /// How this peer reaches others.
    #[serde(default)]
    pub(crate) network: NetworkTable,
    /// What this peer may use of its machine.
    #[serde(default)]
    pub(crate) limits: LimitsTable,
}

/// `[run]`: the part that every peer agrees on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunTable {
    /// A name for people, at most 64 bytes.
    pub(crate) name: String,
    /// 32 hexadecimal digits that make the run's hash its own.
    pub(crate) nonce: String,
    /// Questions per task that are held out: every peer evaluates on them, nobody trains on them.
    #[serde(default = "held_out")]
    pub(crate) held_out: u32,
    /// `[[run.tasks]]`: what is asked.
    pub(crate) tasks: Vec<TaskTable>,
    /// `[run.limits]`.
    #[serde(default)]
    pub(crate) limits: RunLimitsTable,
}

/// One entry of `[[run.tasks]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskTable {
    /// The name peers use for this entry within the run.
    pub(crate) label: String,
    /// A task or preset, as `swarmloom task list` prints them.
    pub(crate) task: String,
    /// `hardened` or `exact`.
    #[serde(default = "hardened")]
    pub(crate) mode: String,
    /// How often it is drawn, relative to the others.
    #[serde(default = "one")]
    pub(crate) weight: u32,
    /// Fields over the task's own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<serde_json::Value>,
}

/// `[run.limits]`: bounds that every peer enforces on what others send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunLimitsTable {
    /// Completions in one group.
    pub(crate) max_completions: u32,
    /// Bytes in one completion.
    pub(crate) max_completion_bytes: u32,
    /// Versions between the author's newest policy and a group's.
    pub(crate) max_staleness_versions: u64,
    /// Seconds since a group arrived.
    pub(crate) max_age_s: u64,
    /// Groups of one author that a peer takes in a minute.
    pub(crate) groups_per_minute: u32,
}

impl Default for RunLimitsTable {
    fn default() -> Self {
        Self {
            max_completions: 16,
            max_completion_bytes: 1024,
            max_staleness_versions: 64,
            max_age_s: 900,
            groups_per_minute: 1200,
        }
    }
}

/// `[peer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PeerTable {
    /// Where checkpoints, the store and the key live; a folder per run under the user's data
    /// folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The key file; `identity.key` in the data folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<PathBuf>,
    /// A model preset.
    pub(crate) model: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub(crate) device: String,
    /// With the peer's key, decides the model's initial weights and the warm start.
    pub(crate) seed: u64,
    /// Which tasks this peer asks itself, by label and relative weight; the run's own when empty.
    pub(crate) tasks: BTreeMap<String, u32>,
    /// The supervised warm start.
    pub(crate) warm_start: WarmStartTable,
}

impl Default for PeerTable {
    fn default() -> Self {
        Self {
            data_dir: None,
            identity: None,
            model: "nano".into(),
            device: "auto".into(),
            seed: 0,
            tasks: BTreeMap::new(),
            warm_start: WarmStartTable::default(),
        }
    }
}

/// `[peer.warm_start]`: correct examples a new policy sees before it learns from reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WarmStartTable {
    /// Optimizer steps; 0 for none.
    pub(crate) steps: u32,
    /// Examples in a step.
    pub(crate) batch: u32,
    /// Learning rate.
    pub(crate) learning_rate: f64,
    /// Examples per task label, in whose proportion they are shown; 400 of each of the peer's tasks when empty. A task of
    /// few questions repeats them.
    pub(crate) examples: BTreeMap<String, u32>,
}

impl Default for WarmStartTable {
    fn default() -> Self {
        Self { steps: 160, batch: 64, learning_rate: 3e-3, examples: BTreeMap::new() }
    }
}

/// `[sharing]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SharingTable {
    /// Off: nothing leaves or enters, and the network is not started.
    pub(crate) enabled: bool,
    /// `imitation` or `paper`.
    pub(crate) rule: RuleName,
    /// Weight of the imitation loss.
    pub(crate) imitation_weight: f64,
    /// Own groups per step (the paper's I).
    pub(crate) local: u32,
    /// Groups of others per step (the paper's J).
    pub(crate) external: u32,
    /// At most so many more own groups where others' are short.
    pub(crate) top_up: u32,
    /// How others' groups are chosen; what suits the rule when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) selection: Option<SelectionName>,
    /// Steps one group of others may serve in.
    pub(crate) max_uses: u32,
    /// Groups of others kept.
    pub(crate) buffer_groups: u32,
}

impl Default for SharingTable {
    fn default() -> Self {
        Self {
            enabled: true,
            rule: RuleName::Imitation,
            imitation_weight: 1.0,
            local: 4,
            external: 32,
            top_up: 4,
            selection: None,
            max_uses: 8,
            buffer_groups: 512,
        }
    }
}

/// How others' groups enter the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RuleName {
    /// A second loss on verified-correct completions.
    Imitation,
    /// As if they were own (SAPO, arXiv 2509.08721).
    Paper,
}

/// How others' groups are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SelectionName {
    /// Drop groups without advantage, then uniform.
    PaperUniform,
    /// Groups with at least one correct completion, uniform.
    AnyCorrect,
    /// Highest total reward first.
    TopK,
    /// `any-correct`, with an equal share per author first.
    PeerQuota,
    /// In proportion to the spread of advantages.
    AdvantageWeighted,
}

/// `[training]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TrainingTable {
    /// Completions per question (the paper's L, GRPO's G).
    pub(crate) group_size: u32,
    /// Longest completion; by the tasks' own bounds when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_new_tokens: Option<u32>,
    /// Sampling temperature.
    pub(crate) temperature: f64,
    /// AdamW's learning rate.
    pub(crate) learning_rate: f64,
    /// Steps over which the learning rate rises to its value.
    pub(crate) learning_rate_warmup: u32,
    /// `grpo`, `dr-grpo`, `cispo` or `gspo`.
    pub(crate) loss: String,
    /// Weight of the KL term against the warm-started policy; 0 for none.
    pub(crate) kl_weight: f64,
    /// Two-sided cap on the ratio for negative advantages; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio_cap: Option<f64>,
    /// Optimizer updates per step.
    pub(crate) updates_per_step: u32,
    /// Largest gradient norm.
    pub(crate) max_grad_norm: f64,
    /// Own groups without advantage are left out of the update.
    pub(crate) filter_zero_advantage: bool,
    /// Tokens in one forward pass; halved when memory runs out.
    pub(crate) micro_batch_tokens: u32,
    /// Steps between held-out evaluations; 0 for none.
    pub(crate) evaluate_every: u64,
    /// Held-out questions per task.
    pub(crate) evaluate_questions: u32,
    /// Steps between checkpoints.
    pub(crate) checkpoint_every: u64,
    /// Checkpoints kept.
    pub(crate) keep_checkpoints: u32,
    /// Stop after so many steps; never when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_after_steps: Option<u64>,
}

impl Default for TrainingTable {
    fn default() -> Self {
        Self {
            group_size: 8,
            max_new_tokens: None,
            temperature: 1.0,
            learning_rate: 3e-4,
            learning_rate_warmup: 5,
            loss: "grpo".into(),
            kl_weight: 0.0,
            ratio_cap: None,
            updates_per_step: 1,
            max_grad_norm: 1.0,
            filter_zero_advantage: true,
            micro_batch_tokens: 16_384,
            evaluate_every: 20,
            evaluate_questions: 48,
            checkpoint_every: 50,
            keep_checkpoints: 2,
            stop_after_steps: None,
        }
    }
}

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NetworkTable {
    /// Multiaddresses to listen on.
    pub(crate) listen: Vec<String>,
    /// Multiaddresses of peers to start from.
    pub(crate) bootstrap: Vec<String>,
    /// Addresses at which others reach this machine, where it cannot find out itself.
    pub(crate) external: Vec<String>,
    /// Peer ids that may connect; everybody when empty.
    pub(crate) allow: Vec<String>,
    /// Find peers on the local network.
    pub(crate) mdns: bool,
    /// Ask the home router for an open port.
    pub(crate) upnp: bool,
    /// Relay traffic for peers that nobody can reach.
    pub(crate) relay: bool,
    /// Connections at one time.
    pub(crate) max_connections: u32,
    /// Where `/metrics`, `/healthz` and `/status` are served; nowhere when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) web: Option<String>,
}

impl Default for NetworkTable {
    fn default() -> Self {
        Self {
            listen: vec!["/ip4/0.0.0.0/udp/0/quic-v1".into(), "/ip4/0.0.0.0/tcp/0".into()],
            bootstrap: Vec::new(),
            external: Vec::new(),
            allow: Vec::new(),
            mdns: true,
            upnp: true,
            relay: false,
            max_connections: 128,
            web: None,
        }
    }
}

/// `[limits]`: settings that hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsTable {
    /// Threads for training and generation; all cores when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<u32>,
    /// Memory of the process, in MiB; when it runs out the batch is halved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mib: Option<u64>,
    /// Disk for checkpoints, store and events, in MiB.
    pub(crate) disk_mib: u64,
    /// Upload, in KiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upload_kib_s: Option<u64>,
    /// Download, in KiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) download_kib_s: Option<u64>,
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self { threads: None, memory_mib: None, disk_mib: 2048, upload_kib_s: None, download_kib_s: None }
    }
}

fn hardened() -> String {
    "hardened".into()
}

fn one() -> u32 {
    1
}

fn held_out() -> u32 {
    48
}

impl RunFile {
    /// Parses and checks a file. `name` is what errors call it.
    ///
    /// # Errors
    /// All that is wrong, each with its place; a syntax error hides what follows it.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let file: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = error.span().map_or((0, 0), |span| place(text, span.start));
            ConfigErrors(vec![located(name, (line, column), error.message().trim())])
        })?;
        let wrong = file.problems();
        if wrong.is_empty() {
            return Ok(file);
        }
        Err(ConfigErrors(wrong.iter().map(|(path, message)| locate(name, text, path, message)).collect()))
    }

    /// The defaults of a peer's settings, without a run.
    pub(crate) fn settings_only() -> Self {
        Self {
            run: None,
            peer: PeerTable::default(),
            sharing: SharingTable::default(),
            training: TrainingTable::default(),
            network: NetworkTable::default(),
            limits: LimitsTable::default(),
        }
    }

    /// Checks values that came from elsewhere than a file; `name` is what errors call it.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn check(&self, name: &str) -> Result<(), ConfigErrors> {
        let wrong: Vec<Located> = self
            .problems()
            .into_iter()
            .map(|(path, message)| located(name, (0, 0), &format!("{path}: {message}")))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(ConfigErrors(wrong)) }
    }
}

/// An error about the value at `path` (segments joined by dots; numbers index arrays).
pub(crate) fn locate(name: &str, text: &str, path: &str, message: &str) -> Located {
    let start = DeTable::parse(text).ok().and_then(|root| {
        let mut at = root.span().start;
        let mut here: Option<&DeValue<'_>> = None;
        for part in path.split('.') {
            let next = match here {
                None => root.get_ref().get(part),
                Some(DeValue::Table(table)) => table.get(part),
                Some(DeValue::Array(items)) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                Some(_) => None,
            };
            // The nearest ancestor that stands in the file is where the missing value belongs.
            let Some(next) = next else { break };
            at = next.span().start;
            here = Some(next.get_ref());
        }
        here.map(|_| at)
    });
    located(name, start.map_or((0, 0), |start| place(text, start)), &format!("{path}: {message}"))
}

/// An error at a place; line and column 0 stand for the whole.
pub(crate) fn located(name: &str, (line, column): (usize, usize), message: &str) -> Located {
    Located { file: name.to_owned(), line, column, message: message.to_owned() }
}

/// Line and column, both from 1, of a byte offset.
pub(crate) fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[run]
name = "first"
nonce = "000102030405060708090a0b0c0d0e0f"

[[run.tasks]]
label = "matrix"
task = "binary_matrix/3x3"
"#;

    #[test]
    fn a_short_file_takes_the_defaults() {
        let file = RunFile::parse("run.toml", GOOD).expect("a good file");
        let run = file.run.expect("a run");
        assert_eq!(run.tasks[0].mode, "hardened");
        assert_eq!((file.sharing.local, file.sharing.external, file.training.group_size), (4, 32, 8));
    }

    #[test]
    fn a_misspelt_key_is_found_where_it_stands() {
        let text = format!("{GOOD}\n[training]\ngroup_sizes = 8\n");
        let wrong = RunFile::parse("run.toml", &text).expect_err("a wrong file").0;
        assert_eq!((wrong[0].line, wrong[0].column), (11, 1), "{wrong:?}");
        assert!(wrong[0].message.contains("group_sizes"), "{wrong:?}");
    }

    #[test]
    fn values_out_of_range_are_all_reported_with_their_place() {
        let text = format!("{GOOD}weight = 0\n[training]\ngroup_size = 1\nloss = \"ppo\"\n");
        let wrong = RunFile::parse("run.toml", &text).expect_err("a wrong file").0;
        let found: Vec<(usize, &str)> =
            wrong.iter().map(|w| (w.line, w.message.split(':').next().unwrap_or(""))).collect();
        assert_eq!(found, [(9, "run.tasks.0.weight"), (11, "training.group_size"), (12, "training.loss")]);
    }

    #[test]
    fn a_label_the_run_does_not_have_is_an_error() {
        let text = format!("{GOOD}[peer.tasks]\nspell = 1\n");
        let wrong = RunFile::parse("run.toml", &text).expect_err("a wrong file").0;
        assert_eq!(wrong[0].line, 10);
        assert!(wrong[0].message.contains("it has matrix"), "{wrong:?}");
    }
}
