//! Who takes part in the demo, and with what: plain data, made without looking at the machine.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{LimitsTable, NetworkTable, PeerTable, RunFile, RunTable, SharingTable, TaskTable, TrainingTable, WarmStartTable};

/// The demo as decided before anything starts.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The run that all peers join.
    pub(crate) run: RunTable,
    /// The peers; each also learns alone, as its own control.
    pub(crate) peers: Vec<DemoPeer>,
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

/// Correct examples of its specialty that a peer is shown at the start, and of each other task.
const OWN_EXAMPLES: u32 = 4000;
const OTHER_EXAMPLES: u32 = 600;

/// Plans a demo.
pub(crate) fn plan(seed: u64, steps: u64, evaluate_every: u64, questions: u32) -> Plan {
    let task = |label: &str, task: &str, mode: &str, weight| TaskTable {
        label: label.into(),
        task: task.into(),
        mode: mode.into(),
        weight,
        config: None,
    };
    let run = RunTable {
        name: "demo".into(),
        nonce: crate::hex::encode(&u128::from(seed).to_be_bytes()),
        held_out: 48,
        tasks: vec![
            task("matrix", "binary_matrix/3x3", "hardened", 8),
            task("spell", "spell_backward/short", "hardened", 8),
            task("bits", "count_bits/byte", "hardened", 8),
            task("sort", "number_sorting/4", "hardened", 8),
            task(UNMODIFIED, "calendar_arithmetic", "exact", 1),
        ],
        limits: Default::default(),
    };
    let peer = |at: u64, name, model, specialty| DemoPeer { name, model, specialty, seed: seed * 100 + at };
    let peers = vec![
        peer(1, "ada", "micro", "matrix"),
        peer(2, "ben", "nano", "spell"),
        peer(3, "cleo", "nano", "bits"),
        peer(4, "dev", "pico", "sort"),
    ];
    Plan { run, peers, steps, evaluate_every, questions }
}

impl Plan {
    /// The run file of one peer. `alone` is its control: the same peer, the same questions, nothing shared.
    pub(crate) fn run_file(&self, peer: &DemoPeer, data_dir: &Path, bootstrap: &[String], alone: bool) -> RunFile {
        let examples: BTreeMap<String, u32> = self
            .run
            .tasks
            .iter()
            .map(|task| (task.label.clone(), if task.label == peer.specialty { OWN_EXAMPLES } else { OTHER_EXAMPLES }))
            .collect();
        RunFile {
            run: Some(self.run.clone()),
            peer: PeerTable {
                data_dir: Some(data_dir.to_owned()),
                model: peer.model.into(),
                device: "cpu".into(),
                seed: peer.seed,
                warm_start: WarmStartTable { examples, ..WarmStartTable::default() },
                ..PeerTable::default()
            },
            sharing: SharingTable { enabled: !alone, ..SharingTable::default() },
            training: TrainingTable {
                // Measured per rule: imitation gains most at 1e-3, a peer alone at 3e-4.
                learning_rate: if alone { 3e-4 } else { 1e-3 },
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
        let plan = plan(3, 40, 10, 16);
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
