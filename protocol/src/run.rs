//! A run: what all its peers agree on, and how a stranger is invited to it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, List, Text};
use crate::group::MAX_GROUP_BYTES;
use crate::id::{PeerKey, RunId, hash, leading_u64};

/// Longest encoding of a [`RunSpec`].
pub const MAX_SPEC_BYTES: usize = 64 << 10;
/// Tasks in a run.
pub const MAX_TASKS: usize = 64;
/// Bytes in the name of a run, a label, a task's name.
pub const MAX_NAME_BYTES: usize = 64;
/// Bytes in one task's configuration.
pub const MAX_CONFIG_BYTES: usize = 16 << 10;
/// Held-out questions per task.
pub const MAX_HELD_OUT: u32 = 4096;
/// Completions in a group of any run.
pub const MAX_COMPLETIONS: usize = 256;
/// Longest text of an [`Invite`].
pub const MAX_INVITE_BYTES: usize = 4096;
/// Addresses in an [`Invite`].
pub const MAX_INVITE_ADDRESSES: usize = 16;
/// Indices of a seed among which its question is found. It is the first that is not held out, so that an author
/// cannot look for an easy one; which that is, only the task machinery can tell.
pub const MAX_INDICES: u64 = 256;

/// A run. Its [`id`](Self::id) names all of it: another limit or another task is another run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// For people.
    #[serde(with = "Text")]
    pub name: String,
    /// Tells runs of equal content apart.
    pub nonce: [u8; 16],
    /// What is asked; groups name a task by its place here.
    #[serde(with = "List::<MAX_TASKS>")]
    pub tasks: Vec<TaskSpec>,
    /// Questions per task that nobody trains on: the first so many of [`held_out_seed`].
    pub held_out: u32,
    /// What every peer enforces.
    pub limits: RunLimits,
}

/// One task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its name within the run.
    #[serde(with = "Text")]
    pub label: String,
    /// The generator and scorer.
    #[serde(with = "Text")]
    pub task: String,
    /// Without the original's exploitable quirks.
    pub hardened: bool,
    /// How often it is drawn, relative to the others.
    pub weight: u32,
    /// The full configuration as canonical JSON.
    #[serde(with = "Text")]
    pub config: String,
    /// The hash of task, mode, configuration and generator version. This crate knows no tasks: whoever does
    /// checks that it belongs to `config`.
    pub config_hash: [u8; 32],
}

/// Bounds on what peers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Completions in one group.
    pub max_completions: u32,
    /// Bytes in one completion.
    pub max_completion_bytes: u32,
    /// Versions between an author's newest policy and a group's.
    pub max_staleness_versions: u64,
    /// Seconds since a group arrived.
    pub max_age_s: u64,
    /// Groups an author may announce in a minute.
    pub groups_per_minute: u32,
}

impl RunLimits {
    /// Longest encoding of a group within these limits: 512 bytes for what all groups have, and 17 bytes
    /// around each completion.
    pub fn max_group_bytes(&self) -> usize {
        (self.max_completions as usize).saturating_mul(self.max_completion_bytes as usize + 17).saturating_add(512)
    }
}

/// Why a run or an invitation is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The bytes are no run.
    #[error("not a run: {0}")]
    Codec(#[from] CodecError),
    /// A value is out of its range.
    #[error("run: {field}: {message}")]
    Value {
        /// Which.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The text is no invitation.
    #[error("not an invitation ({0}); one looks like swarmloom:<64 hexadecimal digits>@<address>,<address>")]
    Invite(&'static str),
}

impl RunSpec {
    /// The run's name among all runs.
    pub fn id(&self) -> RunId {
        RunId(hash("run", &[&self.encode()]))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes and checks what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// Where the bytes are no run, or [`check`](Self::check) finds a value out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, RunError> {
        let spec: Self = codec::decode(bytes, MAX_SPEC_BYTES)?;
        spec.check()?;
        Ok(spec)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first that is out of it.
    pub fn check(&self) -> Result<(), RunError> {
        check_name("name", &self.name)?;
        in_range("tasks", self.tasks.len() as u64, 1, MAX_TASKS as u64)?;
        in_range("held_out", self.held_out.into(), 0, MAX_HELD_OUT.into())?;
        let mut labels = BTreeSet::new();
        for (at, task) in self.tasks.iter().enumerate() {
            check_name(&format!("tasks[{at}].label"), &task.label)?;
            check_name(&format!("tasks[{at}].task"), &task.task)?;
            in_range(&format!("tasks[{at}].weight"), task.weight.into(), 0, 1_000_000)?;
            in_range(&format!("tasks[{at}].config, in bytes"), task.config.len() as u64, 0, MAX_CONFIG_BYTES as u64)?;
            if !labels.insert(&task.label) {
                return Err(value(&format!("tasks[{at}].label"), format!("{:?} is taken already", task.label)));
            }
        }
        if self.tasks.iter().all(|task| task.weight == 0) {
            return Err(value("tasks", "all weights are 0, one must not be".into()));
        }
        let limits = &self.limits;
        in_range("limits.max_completions", limits.max_completions.into(), 1, MAX_COMPLETIONS as u64)?;
        in_range("limits.max_completion_bytes", limits.max_completion_bytes.into(), 1, 64 << 10)?;
        in_range("limits.max_staleness_versions", limits.max_staleness_versions, 0, u32::MAX.into())?;
        in_range("limits.max_age_s", limits.max_age_s, 1, 7 * 24 * 3600)?;
        in_range("limits.groups_per_minute", limits.groups_per_minute.into(), 1, 6000)?;
        in_range("limits: a largest group, in bytes", limits.max_group_bytes() as u64, 1, MAX_GROUP_BYTES as u64)?;
        in_range("encoding, in bytes", self.encode().len() as u64, 1, MAX_SPEC_BYTES as u64)
    }
}

fn value(field: &str, message: String) -> RunError {
    RunError::Value { field: field.to_owned(), message }
}

fn in_range(field: &str, found: u64, least: u64, most: u64) -> Result<(), RunError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(value(field, format!("{found} is not within {least} to {most}")))
}

fn check_name(field: &str, name: &str) -> Result<(), RunError> {
    in_range(&format!("{field}, in bytes"), name.len() as u64, 1, MAX_NAME_BYTES as u64)?;
    if name.chars().any(char::is_control) {
        return Err(value(field, "has control characters".into()));
    }
    Ok(())
}

/// The seed of an author's question number `counter`. Nobody chooses their questions: picking out the easy
/// ones leaves gaps in the counters, and no two authors are asked the same by seed.
pub fn question_seed(run: &RunId, author: &PeerKey, counter: u64) -> u64 {
    leading_u64(&hash("question", &[&run.0, &author.0, &counter.to_le_bytes()]))
}

/// The seed of a task's held-out questions, which are numbered from 0.
pub fn held_out_seed(run: &RunId, label: &str) -> u64 {
    leading_u64(&hash("held out", &[&run.0, label.as_bytes()]))
}

/// What a person passes on to bring another into a run: `swarmloom:<run>@<address>,<address>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The run.
    pub run: RunId,
    /// Where some of its peers are. Not interpreted here; none is an invitation to look around.
    pub addresses: Vec<String>,
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swarmloom:{}", self.run)?;
        for (at, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if at == 0 { '@' } else { ',' })?;
        }
        Ok(())
    }
}

impl FromStr for Invite {
    type Err = RunError;

    fn from_str(text: &str) -> Result<Self, RunError> {
        if text.len() > MAX_INVITE_BYTES {
            return Err(RunError::Invite("too long"));
        }
        let text =
            text.trim().strip_prefix("swarmloom:").ok_or(RunError::Invite("it does not begin with swarmloom:"))?;
        let (run, addresses) = match text.split_once('@') {
            None => (text, Vec::new()),
            Some((run, list)) => (run, list.split(',').map(str::to_owned).collect()),
        };
        let run = run.parse().map_err(|_| RunError::Invite("its run is not 64 hexadecimal digits"))?;
        if addresses.len() > MAX_INVITE_ADDRESSES {
            return Err(RunError::Invite("too many addresses"));
        }
        if addresses.iter().any(|address| address.is_empty() || address.chars().any(|c| c.is_control() || c == ' ')) {
            return Err(RunError::Invite("an address is empty or has blanks"));
        }
        Ok(Self { run, addresses })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::id::Signer;

    /// A small run for tests of this crate.
    pub(crate) fn spec() -> RunSpec {
        let task = |label: &str, byte| TaskSpec {
            label: label.into(),
            task: "count_bits".into(),
            hardened: true,
            weight: 1,
            config: "{}".into(),
            config_hash: [byte; 32],
        };
        RunSpec {
            name: "test".into(),
            nonce: [7; 16],
            tasks: vec![task("bits", 1), task("more bits", 2)],
            held_out: 16,
            limits: RunLimits {
                max_completions: 8,
                max_completion_bytes: 100,
                max_staleness_versions: 10,
                max_age_s: 900,
                groups_per_minute: 60,
            },
        }
    }

    #[test]
    fn a_run_is_named_by_all_of_its_content() {
        let spec = spec();
        assert_eq!(RunSpec::decode(&spec.encode()).expect("decodes"), spec);
        let changes: [fn(&mut RunSpec); 6] = [
            |spec| spec.name.push('x'),
            |spec| spec.nonce[0] = 0,
            |spec| spec.tasks.swap(0, 1),
            |spec| spec.tasks[1].config_hash[31] ^= 1,
            |spec| spec.held_out += 1,
            |spec| spec.limits.max_age_s += 1,
        ];
        let mut ids = BTreeSet::from([spec.id()]);
        for change in changes {
            let mut other = spec.clone();
            change(&mut other);
            assert!(ids.insert(other.id()));
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        type Change = fn(&mut RunSpec);
        let changes: [(Change, &str); 11] = [
            (|spec| spec.name.clear(), "name, in bytes: 0 is not within 1 to 64"),
            (|spec| spec.name = "a\nb".into(), "name: has control characters"),
            (|spec| spec.tasks.clear(), "tasks: 0 is not within 1 to 64"),
            (|spec| spec.tasks[1].label = "bits".into(), "tasks[1].label: \"bits\" is taken already"),
            (|spec| spec.tasks.iter_mut().for_each(|task| task.weight = 0), "tasks: all weights are 0"),
            (|spec| spec.tasks[0].config = "x".repeat(16_385), "tasks[0].config, in bytes: 16385"),
            (|spec| spec.held_out = 4097, "held_out: 4097"),
            (|spec| spec.limits.max_completions = 257, "limits.max_completions: 257"),
            (|spec| spec.limits.max_age_s = 0, "limits.max_age_s: 0"),
            (|spec| spec.limits.groups_per_minute = 0, "limits.groups_per_minute: 0"),
            (
                |spec| (spec.limits.max_completions, spec.limits.max_completion_bytes) = (256, 65_536),
                "limits: a largest group, in bytes: 16782080",
            ),
        ];
        for (change, message) in changes {
            let mut other = spec();
            change(&mut other);
            let error = RunSpec::decode(&other.encode()).expect_err(message).to_string();
            assert!(error.starts_with(&format!("run: {message}")), "{error}");
        }
        let mut other = spec();
        other.tasks = (0..65).map(|at| TaskSpec { label: at.to_string(), ..other.tasks[0].clone() }).collect();
        assert!(matches!(RunSpec::decode(&other.encode()), Err(RunError::Codec(CodecError::Malformed(_)))));
    }

    #[test]
    fn seeds_depend_on_run_author_and_counter() {
        let (run, author) = (spec().id(), Signer::from_seed(&[1; 32]).key());
        let mut seeds: BTreeSet<u64> = (0..1000).map(|counter| question_seed(&run, &author, counter)).collect();
        seeds.insert(question_seed(&RunId([0; 32]), &author, 0));
        seeds.insert(question_seed(&run, &PeerKey([0; 32]), 0));
        seeds.insert(held_out_seed(&run, "bits"));
        seeds.insert(held_out_seed(&run, "more bits"));
        assert_eq!(seeds.len(), 1004);
        // Peers of different builds must agree.
        assert_eq!(question_seed(&RunId([1; 32]), &PeerKey([2; 32]), 3), EXPECTED_QUESTION_SEED);
        assert_eq!(held_out_seed(&RunId([1; 32]), "bits"), EXPECTED_HELD_OUT_SEED);
    }

    // From Python: int.from_bytes(sha256(b"swarmloom 1 " + bytes([len(d)]) + d + parts).digest()[:8], "little").
    const EXPECTED_QUESTION_SEED: u64 = 0x309ec1cd681458e5;
    const EXPECTED_HELD_OUT_SEED: u64 = 0xc8bf3386a85b6365;

    #[test]
    fn an_invitation_reads_back() {
        let run = spec().id();
        for addresses in [vec![], vec!["/ip4/1.2.3.4/tcp/1"], vec!["/dns4/a.example/udp/2/quic-v1", "/ip6/::1/tcp/3"]] {
            let invite = Invite { run, addresses: addresses.iter().map(|&a| a.to_owned()).collect() };
            assert_eq!(
                invite.to_string(),
                format!("swarmloom:{run}{}{}", if addresses.is_empty() { "" } else { "@" }, addresses.join(","))
            );
            assert_eq!(invite.to_string().parse::<Invite>().expect("reads back"), invite);
        }
        let many = format!("swarmloom:{run}@{}", ["/a"; 17].join(","));
        let wrong = ["", "swarmloom:", "swarmloom:12@/a", &format!("{run}@/a"), &format!("swarmloom:{run}@"), &many];
        for text in wrong {
            assert!(text.parse::<Invite>().is_err(), "{text}");
        }
        assert!(format!("swarmloom:{run}@{}", "a".repeat(5000)).parse::<Invite>().is_err());
    }
}
