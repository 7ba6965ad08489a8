//! Who takes part in the demo, and with what: plain data, made without looking at the machine.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{
    LimitsTable, NetworkTable, PeerTable, RunFile, RunLimitsTable, RunTable, SharingTable, TaskTable, TrainingTable,
    WarmStartTable,
};

/// The demo as decided before anything starts.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The run that all peers join.
    pub(crate) run: RunTable,
    /// The peers; each also learns alone, as its own control.
    pub(crate) peers: Vec<DemoPeer>,
    /// Steps of the supervised warm start.
    pub(crate) warm_steps: u32,
    /// Training steps of each peer.
    pub(crate) steps: u64,
    /// Steps between evaluations.
    pub(crate) evaluate_every: u64,
    /// Held-out questions per task.
    pub(crate) questions: u32,
}

/// One peer of the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DemoPeer {
    /// What the report calls it.
    pub(crate) name: &'static str,
    /// Its model preset.
    pub(crate) model: &'static str,
    /// The task it was shown before the swarm, by label.
    pub(crate) specialty: &'static str,
    /// Seeds its weights and warm start.
    pub(crate) seed: u64,
}

/// The task that stands unmodified, for comparison with published work.
pub(crate) const UNMODIFIED: &str = "calendar (unmodified)";

/// Shares of the warm start's examples: of its specialty, and of each other task.
const OWN_EXAMPLES: u32 = 4000;
const OTHER_EXAMPLES: u32 = 600;
/// How often a peer asks itself its specialty, each other task, and the unmodified one. Every peer asks itself every task,
/// in the swarm and alone, so that access to questions is no part of the difference.
const OWN_WEIGHT: u32 = 48;
const OTHER_WEIGHT: u32 = 8;
const UNMODIFIED_WEIGHT: u32 = 1;

/// Plans a demo.
pub(crate) fn plan(seed: u64, warm_steps: u32, steps: u64, evaluate_every: u64, questions: u32) -> Plan {
    let task = |label: &str, task: &str, mode: &str| TaskTable {
        label: label.into(),
        task: task.into(),
        mode: mode.into(),
        weight: 1,
        config: None,
    };
    let digits = serde_json::json!({ "min_numbers": 3, "max_numbers": 3, "max_value": 9.0 });
    let run = RunTable {
        name: "demo".into(),
        nonce: crate::hex::encode(&u128::from(seed).to_be_bytes()),
        held_out: 48,
        tasks: vec![
            task("matrix", "binary_matrix/3x3", "hardened"),
            task("spell", "spell_backward/short", "hardened"),
            TaskTable { config: Some(digits), ..task("sort", "number_sorting/4", "hardened") },
            task("bits", "count_bits/byte", "hardened"),
            task(UNMODIFIED, "calendar_arithmetic", "exact"),
        ],
        // Policies of this size make some thirty groups a second.
        limits: RunLimitsTable { groups_per_minute: 6000, ..RunLimitsTable::default() },
    };
    let peer = |at: u64, name, model, specialty| DemoPeer { name, model, specialty, seed: seed * 100 + at };
    let peers = vec![
        peer(1, "ada", "micro", "matrix"),
        peer(2, "ben", "nano", "spell"),
        peer(3, "cleo", "nano", "sort"),
        peer(4, "dev", "pico", "bits"),
    ];
    Plan { run, peers, warm_steps, steps, evaluate_every, questions }
}

impl DemoPeer {
    /// What served each side best when the rules were compared: 5e-4 with others' groups, which are more to learn from, and
    /// 3e-4 alone or for the larger model.
    pub(crate) fn learning_rate(&self, alone: bool) -> f64 {
        if alone || self.model == "micro" { 3e-4 } else { 5e-4 }
    }
}

impl Plan {
    /// The run file of one peer. `alone` is its control: the same peer, the same questions, nothing shared.
    pub(crate) fn run_file(&self, peer: &DemoPeer, data_dir: &Path, bootstrap: &[String], alone: bool) -> RunFile {
        let by_task = |own: u32, other: u32, unmodified: u32| -> BTreeMap<String, u32> {
            let number = |label: &str| match label {
                UNMODIFIED => unmodified,
                label if label == peer.specialty => own,
                _ => other,
            };
            self.run.tasks.iter().map(|task| (task.label.clone(), number(&task.label))).collect()
        };
        RunFile {
            run: Some(self.run.clone()),
            peer: PeerTable {
                data_dir: Some(data_dir.to_owned()),
                model: peer.model.into(),
                device: "cpu".into(),
                seed: peer.seed,
                tasks: by_task(OWN_WEIGHT, OTHER_WEIGHT, UNMODIFIED_WEIGHT),
                warm_start: WarmStartTable {
                    steps: self.warm_steps,
                    examples: by_task(OWN_EXAMPLES, OTHER_EXAMPLES, OTHER_EXAMPLES),
                    ..WarmStartTable::default()
                },
                ..PeerTable::default()
            },
            sharing: SharingTable { enabled: !alone, ..SharingTable::default() },
            training: TrainingTable {
                learning_rate: peer.learning_rate(alone),
                evaluate_every: self.evaluate_every,
                evaluate_questions: self.questions,
                stop_after_steps: Some(self.steps),
                ..TrainingTable::default()
            },
            network: NetworkTable {
                listen: vec!["/ip4/127.0.0.1/tcp/0".into(), "/ip4/127.0.0.1/udp/0/quic-v1".into()],
                bootstrap: bootstrap.to_vec(),
                mdns: false,
                upnp: false,
                ..NetworkTable::default()
            },
            limits: LimitsTable { threads: Some(1), ..LimitsTable::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_plan_is_a_valid_run_file_of_one_run() {
        let plan = plan(3, 20, 40, 10, 16);
        for peer in &plan.peers {
            for alone in [false, true] {
                let file = plan.run_file(peer, Path::new("data"), &[], alone);
                let text = toml::to_string(&file).expect("TOML");
                let back = RunFile::parse("demo", &text).expect("valid");
                assert_eq!(back.run.as_ref(), Some(&plan.run));
                assert_eq!(back.sharing.enabled, !alone);
                assert_eq!(back.peer.warm_start.examples[peer.specialty], OWN_EXAMPLES);
            }
        }
        let mut specialties: Vec<_> = plan.peers.iter().map(|peer| peer.specialty).collect();
        specialties.dedup();
        assert_eq!(specialties.len(), plan.peers.len());
    }
}
