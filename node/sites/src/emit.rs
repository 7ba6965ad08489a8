//! What schedulers are told: a script for `sbatch`, manifests for `kubectl apply`.
//!
//! Nothing that is written holds a secret. The script draws a token for its ranks when it runs; the manifests name a Secret,
//! and [`secret_command`] makes it.

mod kubernetes;
mod slurm;
mod yaml;

use serde::Serialize;

pub use self::kubernetes::{PORT, jobset, kubernetes, secret_command};
pub use self::slurm::slurm;
pub use self::yaml::yaml;
use crate::MOST;

/// How long before its time limit a rank is told to save, and how long a pod that is told to end has for it.
pub const LEAD_S: u64 = 120;

/// What is to run where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What it is called: a name in DNS, as Kubernetes wants it.
    pub name: String,
    /// How many nodes, or pods.
    pub nodes: usize,
    /// How many ranks each has.
    pub ranks_per_node: usize,
    /// Processor cores of each rank.
    pub cpus_per_rank: usize,
    /// GPUs of each rank, 0 for none.
    pub gpus_per_rank: usize,
    /// Memory of each node in GiB; none leaves that to the scheduler.
    pub memory_gib: Option<usize>,
    /// When all has to end, in seconds; none leaves that to the scheduler.
    pub time_limit_s: Option<u64>,
    /// How often all may start again after a failure that is not theirs. Slurm starts again without counting.
    pub restarts: usize,
    /// The container's image; Kubernetes needs one.
    pub image: Option<String>,
    /// Slurm's partition.
    pub partition: Option<String>,
    /// Whose account Slurm charges.
    pub account: Option<String>,
    /// What runs: with Slurm once for each rank; with Kubernetes once in each pod, where it starts the pod's ranks.
    pub program: String,
    /// What it is given.
    pub arguments: Vec<String>,
    /// Where it runs; none is where the scheduler starts it.
    pub working_dir: Option<String>,
}

/// Why a request cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}: expected {expected}")]
#[non_exhaustive]
pub struct RequestError {
    /// The field of [`Request`].
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it can be.
    pub expected: String,
}

impl Request {
    /// How many ranks there are in all.
    pub fn ranks(&self) -> usize {
        self.nodes.saturating_mul(self.ranks_per_node)
    }

    /// Checks what schedulers have in common; a name may have `longest` characters.
    fn check(&self, longest: usize) -> Result<(), RequestError> {
        let numbers = [
            ("nodes", self.nodes, 1, MOST),
            ("ranks_per_node", self.ranks_per_node, 1, MOST),
            ("nodes times ranks_per_node", self.ranks(), 1, MOST),
            ("cpus_per_rank", self.cpus_per_rank, 1, 65_536),
            ("gpus_per_rank", self.gpus_per_rank, 0, 1_024),
            ("memory_gib", self.memory_gib.unwrap_or(1), 1, 1 << 20),
            ("restarts", self.restarts, 0, 1_000),
        ];
        for (field, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                return Err(wrong(field, value, format!("a number from {least} to {most}")));
            }
        }
        // A year, and no less than the minute that Slurm counts in.
        if let Some(limit) = self.time_limit_s
            && !(60..=31_536_000).contains(&limit)
        {
            return Err(wrong("time_limit_s", limit, "seconds from 60 to 31536000, which is a year".into()));
        }
        if !label(&self.name, longest) {
            let expected = "lowercase letters, digits and `-`, beginning with a letter and not ending with `-`";
            return Err(wrong("name", &self.name, format!("1 to {longest} {expected}")));
        }
        if self.program.is_empty() || self.program.starts_with('-') {
            return Err(wrong("program", &self.program, "a path that does not begin with `-`".into()));
        }
        let words = self.arguments.iter().map(|argument| ("arguments", argument));
        let words =
            words.chain([("program", &self.program)]).chain(self.working_dir.iter().map(|dir| ("working_dir", dir)));
        match words.into_iter().find(|(_, word)| word.contains('\0')) {
            Some((field, word)) => Err(wrong(field, word, "no zero byte in it".into())),
            None => Ok(()),
        }
    }
}

fn wrong(field: &'static str, value: impl ToString, expected: String) -> RequestError {
    RequestError { field, value: value.to_string(), expected }
}

/// A label of DNS (RFC 1123) that begins with a letter, as the names of Services have to (RFC 1035).
fn label(name: &str, longest: usize) -> bool {
    let ends = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
    ends && name.len() <= longest && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of four ranks with a GPU each.
    pub(super) fn request() -> Request {
        Request {
            name: "train".into(),
            nodes: 2,
            ranks_per_node: 4,
            cpus_per_rank: 8,
            gpus_per_rank: 1,
            memory_gib: Some(64),
            time_limit_s: Some(90_061),
            restarts: 3,
            image: Some("registry.example/swarmloom:0.1.0".into()),
            partition: Some("gpu".into()),
            account: Some("lab_7".into()),
            program: "swarmloom".into(),
            arguments: vec!["launch".into(), "TRAIN.toml".into()],
            working_dir: Some("/data/my run".into()),
        }
    }

    #[test]
    fn a_request_is_checked() {
        let error = |change: &dyn Fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            request.check(63).expect_err("wrong").to_string()
        };
        assert_eq!(request().check(63), Ok(()));
        assert_eq!(error(&|request| request.nodes = 0), "nodes is \"0\": expected a number from 1 to 65536");
        assert!(error(&|request| request.nodes = 20_000).starts_with("nodes times ranks_per_node is \"80000\""));
        assert!(error(&|request| request.cpus_per_rank = 0).starts_with("cpus_per_rank is \"0\""));
        assert!(error(&|request| request.memory_gib = Some(0)).starts_with("memory_gib is \"0\""));
        assert!(
            error(&|request| request.time_limit_s = Some(59)).starts_with("time_limit_s is \"59\": expected seconds")
        );
        assert!(error(&|request| request.program = "-x".into()).starts_with("program is \"-x\": expected a path"));
        assert!(error(&|request| request.arguments.push("\0".into())).starts_with("arguments is \"\\0\""));
        for name in ["", "Train", "7b", "-a", "a-", "a_b", "a.b", "a b", "a\n", "é", &"a".repeat(64)] {
            let told = error(&|request| request.name = name.into());
            assert!(told.starts_with(&format!("name is {name:?}: expected 1 to 63 lowercase letters")), "{told}");
        }
        assert!(label("a", 63) && label("llama-7b", 63) && label(&"a".repeat(63), 63));
    }
}
