//! Runs a program and sees how much memory it and all that it starts take.

use std::collections::HashMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(20);
/// Looks at the clock for each look at memory, which costs the watched program time.
const SELDOM: u32 = 15;

/// What was seen of a program.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its standard output.
    pub(super) output: String,
    /// From its start to its end.
    pub(super) seconds: f64,
    /// Bytes of all its processes together at their most. A page that several share counts once.
    pub(super) memory: f64,
}

/// Runs a program to its end.
///
/// # Errors
/// Where it does not start, fails, or takes longer than `patience`.
#[allow(clippy::disallowed_methods, reason = "nothing tells when a child ends and how much memory it has meanwhile")]
pub(super) fn watched(mut command: Command, patience: Duration) -> anyhow::Result<Watched> {
    let errors = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut pipe = child.stdout.take().context("no pipe")?;
    let reader = std::thread::spawn(move || {
        let mut output = String::new();
        pipe.read_to_string(&mut output).map(|_| output)
    });
    let (mut memory, mut looks) = (0.0_f64, 0);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > patience {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{command:?} was not done after {patience:?}");
        }
        if looks % SELDOM == 0 {
            memory = memory.max(family(child.id()).into_iter().map(proportional).sum());
        }
        looks += 1;
        std::thread::sleep(EVERY);
    };
    let seconds = begun.elapsed().as_secs_f64();
    let output = reader.join().map_err(|_| anyhow::anyhow!("reading {command:?} panicked"))??;
    if !status.success() {
        use std::io::{Seek, SeekFrom};
        let (mut errors, mut words) = (errors, String::new());
        errors.seek(SeekFrom::Start(0))?;
        errors.take(1 << 20).read_to_string(&mut words)?;
        let last: Vec<&str> = words.lines().rev().take(8).collect();
        bail!("{command:?}: {status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | "));
    }
    Ok(Watched { output, seconds, memory })
}

/// A process with all below it.
fn family(of: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = vec![of];
    let mut at = 0;
    while let Some(id) = found.get(at) {
        found.extend(children.remove(id).unwrap_or_default());
        at += 1;
    }
    found
}

/// The second field after the name, which may hold anything but ends with the last parenthesis (proc(5)).
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes of a process, shared pages divided by who shares them; 0 once it is gone.
fn proportional(id: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) * 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_seen_with_its_children() {
        let mut command = Command::new("sh");
        // tail keeps its 64 MiB until somebody reads; the shell itself has a few.
        command.args(["-c", "echo said; head -c 64M /dev/zero | tail -c 64M | (sleep 2; cat >/dev/null)"]);
        let seen = watched(command, Duration::from_secs(60)).expect("it ends");
        assert_eq!(seen.output, "said\n");
        assert!((2.0..60.0).contains(&seen.seconds), "{}", seen.seconds);
        assert!(seen.memory > 60e6, "{}", seen.memory);
    }

    #[test]
    fn failures_and_hangs_are_told() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo why >&2; exit 3"]);
        let said = format!("{:#}", watched(failing, Duration::from_secs(20)).expect_err("it fails"));
        assert!(said.contains("why") && said.contains('3'), "{said}");
        let mut hanging = Command::new("sleep");
        hanging.arg("60");
        let said = watched(hanging, Duration::from_millis(50)).expect_err("it hangs").to_string();
        assert!(said.contains("not done"), "{said}");
    }

    #[test]
    fn names_with_parentheses_do_not_mislead() {
        assert_eq!(parent("12 (a) 99 b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("nothing"), None);
    }
}
