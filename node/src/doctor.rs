//! `doctor`: what this machine has, what is wrong with it, and what to type.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::entry::is_running;
use crate::folder::{Folder, user_data};
use crate::say;
use crate::status::Problem;

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Name and value of what the machine has.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// What is wrong.
    pub(crate) problems: Vec<Problem>,
}

/// Looks and reports.
///
/// # Errors
/// Where the report cannot be printed; problems are no error.
pub(crate) fn run(as_json: bool) -> anyhow::Result<()> {
    let findings = look();
    let facts: serde_json::Map<String, Value> =
        findings.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
    say(as_json, &json!({ "facts": facts, "problems": findings.problems }), || text(&findings))
}

fn look() -> Findings {
    let mut findings = Findings::default();
    findings.fact("version", format!("swarmloom {}", env!("CARGO_PKG_VERSION")));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    findings
        .fact("processor", format!("{cores} cores, kernels on {:?}", swarmloom_trainer::generate::instruction_set()));
    findings.memory();
    findings.fact(
        "libtorch",
        format!("{}: {}", swarmloom_trainer::device::LIBTORCH, swarmloom_trainer::device::describe().join("; ")),
    );
    findings.gpu();
    findings.collectives();
    findings.disk(&user_data());
    findings.sockets();
    let daemons = Folder::all().into_iter().filter(is_running).count();
    findings.fact("daemons", format!("{daemons} running with data in {}", user_data().join("runs").display()));
    findings
}

impl Findings {
    fn fact(&mut self, name: &'static str, value: String) {
        self.facts.push((name, value));
    }

    fn problem(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem { what: what.into(), fix: fix.into() });
    }

    fn memory(&mut self) {
        let Some(available) = meminfo_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()) else {
            return self.fact("memory", "unknown".into());
        };
        self.fact("memory", format!("{available} MiB available"));
        if available < 700 {
            self.problem(
                format!("{available} MiB of memory are free; a small policy's process takes about 500"),
                "close other programs, or set limits.memory_mib and a smaller model",
            );
        }
    }

    /// A GPU that libtorch does not see.
    fn gpu(&mut self) {
        let there = Path::new("/dev/nvidia0").exists();
        let seen = swarmloom_trainer::device::cuda_devices();
        self.fact(
            "gpu",
            match (there, seen) {
                (_, 1..) => format!("{seen} CUDA device(s) usable"),
                (true, 0) => "an NVIDIA device that libtorch does not see".into(),
                (false, _) => "none found".into(),
            },
        );
        if there && seen == 0 {
            self.problem(
                "there is an NVIDIA GPU, but this libtorch has no CUDA or the driver does not fit",
                "python3 -m pip install torch==2.11.0, then `cargo xtask build` again: the same sources use it",
            );
        }
    }

    /// What ranks of one cluster can use between them. A missing library is nothing wrong.
    fn collectives(&mut self) {
        let found = swarmloom_collectives::machine::look();
        let lines = found.iter().map(|one| format!("{}: {}", one.name, one.what));
        self.fact("links", lines.collect::<Vec<_>>().join("; "));
    }

    fn disk(&mut self, folder: &Path) {
        let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
        match rustix::fs::statvfs(existing) {
            Ok(space) => {
                let free = space.f_bavail.saturating_mul(space.f_frsize) >> 20;
                self.fact("disk", format!("{free} MiB free for {}", folder.display()));
                if free < 2048 {
                    self.problem(
                        format!("{free} MiB are free for {}; limits.disk_mib is 2048 unless set", folder.display()),
                        "free some, set limits.disk_mib lower, or put the data elsewhere with --data-dir",
                    );
                }
            }
            Err(error) => {
                self.problem(format!("{}: {error}", existing.display()), "name another folder with --data-dir")
            }
        }
    }

    fn sockets(&mut self) {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
        self.fact(
            "network",
            format!(
                "UDP {}, TCP {}",
                if udp.is_ok() { "ok" } else { "refused" },
                if tcp.is_ok() { "ok" } else { "refused" }
            ),
        );
        for (what, error) in [("UDP (QUIC)", udp.err()), ("TCP", tcp.err())] {
            if let Some(error) = error {
                self.problem(
                    format!("no {what} socket can be opened: {error}"),
                    "allow it, or join with the other transport only (network.listen)",
                );
            }
        }
        // Connecting a UDP socket sends nothing: it only asks for a route (192.0.2.0/24 is for documentation).
        let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(("192.0.2.1", 9)));
        if routed.is_err() {
            self.problem(
                "this machine has no route to the internet",
                "peers on the local network are still found by mDNS; training alone needs no network",
            );
        }
    }
}

fn text(findings: &Findings) -> String {
    let mut lines: Vec<String> = findings.facts.iter().map(|(name, value)| format!("{name:10} {value}")).collect();
    if findings.problems.is_empty() {
        lines.push("nothing wrong was found".into());
    }
    for problem in &findings.problems {
        lines.push(format!("problem    {}\n           -> {}", problem.what, problem.fix));
    }
    lines.join("\n")
}

/// MiB that programs can still take, from `/proc/meminfo`.
fn meminfo_mib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_problems_name_what_to_do() {
        assert_eq!(meminfo_mib("MemTotal: 9 kB\nMemAvailable:   2097152 kB\n"), Some(2048));
        assert_eq!(meminfo_mib("nothing"), None);
        let findings = look();
        assert!(findings.facts.iter().any(|(name, value)| *name == "libtorch" && value.contains("2.11.0")));
        let shown = text(&findings);
        assert!(findings.problems.iter().all(|problem| shown.contains(&format!("-> {}", problem.fix))));
    }
}
