//! Network namespaces: their names, threads and processes in them, and their end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{LabError, command};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// What all names of this crate begin with.
const MARK: &str = "netlab";
/// How long a killed process may take to end.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the names of one lab begin with: `netlab-PREFIX-PID-START-NUMBER`. No other process, before or after, has the
/// same pid and start; no other lab of this process has the same number.
pub(crate) fn lab_name(prefix: &str) -> Result<String, LabError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let plain = prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !plain || prefix.is_empty() || prefix.len() > 32 {
        let need = "1 to 32 lower-case letters and digits";
        return Err(LabError::Shape(format!("the prefix is {prefix:?}; it must be {need}")));
    }
    let pid = std::process::id();
    let start =
        started(pid).ok_or_else(|| LabError::Shape(format!("/proc/{pid}/stat does not say when it started")))?;
    Ok(format!("{MARK}-{prefix}-{pid}-{start}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// When a process started, in clock ticks after the machine did; nothing if there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program in brackets, may hold anything; the 22nd is the start.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Runs `work` on a thread of its own that is in the namespace. What the thread opens stays bound to it.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let path = path(namespace);
    let file = File::open(&path).map_err(LabError::system(format!("opening {}", path.display())))?;
    let entered = std::thread::scope(|scope| {
        let enter = || move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map(|()| work());
        match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    entered.map_err(LabError::system(format!("entering the namespace {namespace}")))
}

/// Makes namespaces without IPv6 on interfaces to come: nothing but what is asked for passes the links.
pub(crate) fn make(namespaces: &[String]) -> Result<(), LabError> {
    command::ip_batch(None, &namespaces.iter().map(|name| format!("netns add {name}")).collect::<Vec<_>>())?;
    for namespace in namespaces {
        // Absent where the kernel has no IPv6, and then there is nothing to switch off.
        inside(namespace, || drop(fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")))?;
        command::ip_batch(Some(namespace), &["link set lo up".into()])?;
    }
    Ok(())
}

/// Has a namespace pass on what is not for itself.
pub(crate) fn forward(namespace: &str) -> Result<(), LabError> {
    let setting = "/proc/sys/net/ipv4/ip_forward";
    inside(namespace, || fs::write(setting, "1"))?
        .map_err(LabError::system(format!("writing {setting} in {namespace}")))
}

/// Kills what runs in the namespaces, then removes them. Goes on past errors and says the first.
pub(crate) fn remove(namespaces: &[String]) -> Result<(), LabError> {
    let there: Vec<&String> = namespaces.iter().filter(|name| path(name).exists()).collect();
    let ended = end_processes(&there);
    let lines: Vec<String> = there.iter().map(|name| format!("netns del {name}")).collect();
    // Another process that removes the same leftovers may be ahead of this one: what counts is what is left.
    let asked = command::ip_batch_force(&lines);
    let left = there.iter().any(|name| path(name).exists());
    ended.and(if left { asked } else { Ok(()) })
}

/// Removes what processes that are no more have left behind.
pub(crate) fn remove_leftovers() -> Result<(), LabError> {
    let Ok(names) = fs::read_dir(NAMES) else {
        return Ok(()); // nobody has made a namespace yet
    };
    let names = names.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    remove(&names.filter(|name| is_leftover(name)).collect::<Vec<_>>())
}

/// Whether a name is one of [`lab_name`]'s, of a process that is no more.
fn is_leftover(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [MARK, _, pid, start, _, _] = parts[..] else {
        return false;
    };
    match (pid.parse::<u32>(), start.parse::<u64>()) {
        (Ok(pid), Ok(start)) => started(pid) != Some(start),
        _ => false,
    }
}

fn path(namespace: &str) -> PathBuf {
    Path::new(NAMES).join(namespace)
}

/// Kills all processes in the namespaces but this one, and waits until they are gone.
fn end_processes(namespaces: &[&String]) -> Result<(), LabError> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
    let spaces: BTreeSet<(u64, u64)> = namespaces.iter().filter_map(|name| identity(&path(name))).collect();
    let is_in = |pid: i32| identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|it| spaces.contains(&it));
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let end = Instant::now() + DEADLINE;
    // A process may start another while it is looked for.
    loop {
        let processes = fs::read_dir("/proc").map_err(LabError::system("listing /proc"))?;
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut found = Vec::new();
        for pid in pids.filter(|&pid| pid != own && is_in(pid)) {
            let handle = Pid::from_raw(pid).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
            // Asked again: with a handle, the number cannot have gone to another process meanwhile.
            if let Some(Ok(handle)) = handle
                && is_in(pid)
            {
                let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL); // fails only if it has ended
                found.push(handle);
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        for handle in found {
            let left = end.saturating_duration_since(Instant::now());
            if !command::readable_within(&handle, left)? {
                let names = namespaces.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
                return Err(LabError::Late {
                    command: format!("a killed program in {names}"),
                    seconds: DEADLINE.as_secs(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_only_those_of_dead_processes_are_leftovers() {
        let (one, two) = (lab_name("x").expect("a name"), lab_name("x").expect("a name"));
        assert_ne!(one, two);
        assert!(!is_leftover(&format!("{one}-a0")), "this process lives");
        let pid = std::process::id();
        assert!(is_leftover(&format!("netlab-x-{pid}-1-0-a0")), "another one had this pid");
        assert!(is_leftover(&format!("netlab-x-{}-1-0-a0", u32::MAX)));
        for foreign in ["a0", "netlab-x", "netlab-x-1-y-0-a0", "other-x-4194304-1-0-a0"] {
            assert!(!is_leftover(foreign), "{foreign}");
        }
        for prefix in ["", "a-b", "A", &"a".repeat(33)] {
            assert!(matches!(lab_name(prefix), Err(LabError::Shape(_))), "{prefix}");
        }
    }
}
