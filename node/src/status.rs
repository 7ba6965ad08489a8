//! What a daemon says of itself: one structure, from which `status`, `/status`, `/metrics`, `/healthz` and
//! the demo's live lines are all made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The state of a daemon at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// This peer's id (libp2p text).
    pub(crate) peer: String,
    /// The run's hash, hexadecimal.
    pub(crate) run: String,
    /// The run's name.
    pub(crate) run_name: String,
    /// `starting`, `warming-up`, `training`, `paused`, `finished` or `failed`.
    pub(crate) state: String,
    /// What training waits for, and since when; absent while it works.
    pub(crate) waiting: Option<Waiting>,
    /// What sharing waits for, and since when; absent while groups come as they are announced.
    pub(crate) sharing_waiting: Option<Waiting>,
    /// Model preset, and parameters in it.
    pub(crate) model: String,
    /// Trainable parameters.
    pub(crate) parameters: u64,
    /// Where it computes.
    pub(crate) device: String,
    /// Updates applied to the policy.
    pub(crate) policy_version: u64,
    /// Training steps done.
    pub(crate) step: u64,
    /// Steps after which training stops.
    pub(crate) stop_after: Option<u64>,
    /// Completions generated for training.
    pub(crate) completions: u64,
    /// Completions per second of the last steps, training included.
    pub(crate) completions_per_s: f64,
    /// Mean rewards.
    pub(crate) rewards: Rewards,
    /// Groups, by what became of them.
    pub(crate) groups: Groups,
    /// Bytes.
    pub(crate) bytes: Bytes,
    /// Versions between the groups used and their authors' newest policies.
    pub(crate) staleness: Staleness,
    /// The peers known.
    pub(crate) peers: Vec<PeerStatus>,
    /// Addresses listened on.
    pub(crate) listen: Vec<String>,
    /// Addresses that others confirmed.
    pub(crate) external: Vec<String>,
    /// `public`, `private` or `unknown`.
    pub(crate) nat: String,
    /// What is wrong and what mends it.
    pub(crate) problems: Vec<Problem>,
    /// Seconds since the daemon started.
    pub(crate) uptime_s: u64,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// In words.
    pub(crate) what: String,
    /// Milliseconds since the epoch.
    pub(crate) since_ms: u64,
}

/// Mean rewards, own and others' apart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rewards {
    /// Of own completions in the last steps.
    pub(crate) own: Option<f64>,
    /// Of others' completions in the last steps, as scored here.
    pub(crate) external: Option<f64>,
    /// On held-out questions at the last evaluation, by task label.
    pub(crate) held_out: BTreeMap<String, f64>,
    /// The mean of `held_out`.
    pub(crate) held_out_mean: Option<f64>,
}

/// Groups, by what became of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Groups {
    /// Own groups announced.
    pub(crate) shared: u64,
    /// Own groups not announced, being more than the run allows an author.
    pub(crate) held_back: u64,
    /// Acknowledgements of own groups, each from one peer for one group.
    pub(crate) acknowledged: u64,
    /// Groups of others stored.
    pub(crate) stored: u64,
    /// Uses of others' groups in training.
    pub(crate) used: u64,
    /// Groups of others now in the buffer.
    pub(crate) buffered: u64,
    /// Groups of others refused or dropped, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
}

/// Bytes, each counted since the start but for what is held.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bytes {
    /// Received over the network.
    pub(crate) received: u64,
    /// Sent over the network.
    pub(crate) sent: u64,
    /// Bodies of groups sent.
    pub(crate) groups_sent: u64,
    /// Bodies of groups received.
    pub(crate) groups_received: u64,
    /// On disk in the data folder.
    pub(crate) disk: u64,
    /// Resident memory.
    pub(crate) resident: u64,
    /// Largest resident memory so far.
    pub(crate) resident_peak: u64,
}

/// Staleness of the groups used, in versions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Staleness {
    /// Mean over the uses.
    pub(crate) mean: f64,
    /// Largest.
    pub(crate) max: u64,
    /// Uses by staleness 0, 1, 2-3, 4-7, …, doubling.
    pub(crate) histogram: Vec<u64>,
}

/// One other peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PeerStatus {
    /// Its id.
    pub(crate) peer: String,
    /// Whether there is a connection.
    pub(crate) connected: bool,
    /// Whether the connection runs over a relay.
    pub(crate) relayed: bool,
    /// `good`, `muted` or `banned`.
    pub(crate) standing: String,
    /// The decaying weight of its offences; 0 is spotless.
    pub(crate) score: f64,
    /// Groups of it stored here.
    pub(crate) groups_in: u64,
    /// Own groups it acknowledged.
    pub(crate) groups_out: u64,
    /// Uses of its groups in training.
    pub(crate) used: u64,
    /// Questions it must have asked itself and never shared, by its counters.
    pub(crate) withheld: u64,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// In words.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) fix: String,
}

impl Status {
    /// What `status` prints for people.
    pub(crate) fn text(&self) -> String {
        let reward = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.3}"));
        let connected: Vec<&PeerStatus> = self.peers.iter().filter(|peer| peer.connected).collect();
        let mut lines = vec![
            format!("{} ({}) on {}, {} parameters", self.state, self.model, self.device, self.parameters),
            format!("run        {} ({:.16}…)", self.run_name, self.run),
            format!("peer       {}", self.peer),
            format!(
                "step       {}{}, policy version {}, {} completions, {:.0} a second",
                self.step,
                self.stop_after.map_or_else(String::new, |last| format!(" of {last}")),
                self.policy_version,
                self.completions,
                self.completions_per_s
            ),
            format!(
                "reward     held out {}, own {}, others' {} (chosen for being right)",
                reward(self.rewards.held_out_mean),
                reward(self.rewards.own),
                reward(self.rewards.external)
            ),
        ];
        for (task, value) in &self.rewards.held_out {
            lines.push(format!("           {task}: {value:.3}"));
        }
        lines.push(format!(
            "groups     {} shared ({} kept back to stay within run.limits.groups_per_minute), {} acknowledged by others, {} stored, {} used, \
             {} in the buffer",
            self.groups.shared, self.groups.held_back, self.groups.acknowledged, self.groups.stored, self.groups.used, self.groups.buffered
        ));
        for (reason, count) in &self.groups.dropped {
            lines.push(format!("           dropped, {reason}: {count}"));
        }
        lines.push(format!("staleness  mean {:.1}, largest {} versions", self.staleness.mean, self.staleness.max));
        lines.push(format!(
            "bytes      {} in, {} out, {} on disk, {} in memory",
            mib(self.bytes.received),
            mib(self.bytes.sent),
            mib(self.bytes.disk),
            mib(self.bytes.resident)
        ));
        lines.push(format!("peers      {} connected, {} known; NAT: {}", connected.len(), self.peers.len(), self.nat));
        for peer in connected {
            let relayed = if peer.relayed { ", over a relay" } else { "" };
            lines.push(format!(
                "           {} {}{relayed}: gave {}, took {}",
                peer.peer, peer.standing, peer.groups_in, peer.groups_out
            ));
        }
        for waiting in self.waiting.iter().chain(&self.sharing_waiting) {
            let since = waiting.since_ms / 1000;
            lines.push(format!("waiting    for {} since {since} (Unix seconds)", waiting.what));
        }
        for problem in &self.problems {
            lines.push(format!("problem    {}\n           -> {}", problem.what, problem.fix));
        }
        lines.join("\n")
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// Resident memory of this process now and at its peak, in bytes; zeros where the system does not say.
pub(crate) fn resident_bytes() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (kib("VmRSS:").unwrap_or(0) * 1024, kib("VmHWM:").unwrap_or(0) * 1024)
}
