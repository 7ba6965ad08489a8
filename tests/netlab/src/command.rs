//! Programs of iproute2, each with a deadline and with errors that repeat what was asked.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};

use crate::LabError;

/// The longest that `ip` or `tc` may take: they need milliseconds, on a machine at work perhaps a second.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of a program's complaint that an error repeats.
const MAX_COMPLAINT_BYTES: u64 = 2000;

/// Runs `program` with `words`.
pub(crate) fn run(program: &str, words: &[&str]) -> Result<(), LabError> {
    let mut command = Command::new(program);
    command.args(words);
    finish(command, None, DEADLINE)
}

/// Has `ip` do each of `lines`, in the namespace where one is named; stops at the first that fails.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<(), LabError> {
    batch("ip", namespace, &[], lines)
}

/// Has `tc` do each of `lines` in the namespace.
pub(crate) fn tc_batch(namespace: &str, lines: &[String]) -> Result<(), LabError> {
    batch("tc", Some(namespace), &[], lines)
}

/// Has `ip` try each of `lines` whether or not the ones before it failed.
pub(crate) fn ip_batch_force(lines: &[String]) -> Result<(), LabError> {
    batch("ip", None, &["-force"], lines)
}

fn batch(program: &str, namespace: Option<&str>, options: &[&str], lines: &[String]) -> Result<(), LabError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(program);
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(options).args(["-batch", "-"]);
    finish(command, Some(lines.join("\n") + "\n"), DEADLINE)
}

/// Runs `command` to its end, with `input` to read.
fn finish(mut command: Command, input: Option<String>, deadline: Duration) -> Result<(), LabError> {
    let words = |input: Option<&str>| {
        let program = command.get_program().to_string_lossy().into_owned();
        let arguments = command.get_args().map(|word| word.to_string_lossy().into_owned());
        let line = std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ");
        input.map_or(line.clone(), |input| format!("{line}` given `{}", input.trim_end().replace('\n', "; ")))
    };
    let said = words(input.as_deref());
    let fault = |what: &str| LabError::system(format!("{what} for `{said}`"));
    command.stdin(match &input {
        // A file in memory: no pipe that could fill up.
        Some(text) => {
            let memory = rustix::fs::memfd_create("netlab", MemfdFlags::CLOEXEC);
            let mut file = File::from(memory.map_err(LabError::system("making a file in memory"))?);
            file.write_all(text.as_bytes()).and_then(|()| file.rewind()).map_err(fault("writing the input"))?;
            Stdio::from(file)
        }
        None => Stdio::null(),
    });
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(LabError::system(format!("starting `{said}`")))?;
    let ended = await_end(&child, deadline);
    if !matches!(ended, Ok(true)) {
        // It may have ended this moment, and then there is nothing to kill.
        drop(child.kill());
    }
    let status = child.wait().map_err(fault("waiting"))?;
    if !ended? {
        return Err(LabError::Late { command: said, seconds: deadline.as_secs() });
    }
    if status.success() {
        return Ok(());
    }
    let mut complaint = Vec::new();
    if let Some(pipe) = child.stderr.take() {
        pipe.take(MAX_COMPLAINT_BYTES).read_to_end(&mut complaint).map_err(fault("reading the errors"))?;
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().replace('\n', "; ");
    let found = if complaint.is_empty() { status.to_string() } else { complaint };
    Err(LabError::Command { command: said, found })
}

/// Whether the child ends before the deadline.
fn await_end(child: &Child, deadline: Duration) -> Result<bool, LabError> {
    let handle = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .map_err(LabError::system("opening a handle of a process"))?;
    readable_within(&handle, deadline)
}

/// Whether the handle of a process, or another descriptor, becomes readable before the deadline.
pub(crate) fn readable_within(handle: &impl std::os::fd::AsFd, deadline: Duration) -> Result<bool, LabError> {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut polled = [PollFd::new(handle, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(LabError::system("waiting for a process to end")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_or_hangs_is_an_error_that_repeats_what_was_asked() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "cat >&2; exit 3"]);
        let error = finish(failing, Some("one\ntwo\n".into()), DEADLINE).expect_err("it fails").to_string();
        assert_eq!(error, "`sh -c cat >&2; exit 3` given `one; two` failed: one; two");

        let mut hanging = Command::new("sleep");
        hanging.arg("100");
        let start = Instant::now();
        let error = finish(hanging, None, Duration::from_millis(50)).expect_err("it hangs");
        assert!(matches!(error, LabError::Late { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));

        let error = run("netlab-no-such-program", &["x"]).expect_err("absent").to_string();
        assert!(error.starts_with("starting `netlab-no-such-program x`: No such file"), "{error}");
    }
}
