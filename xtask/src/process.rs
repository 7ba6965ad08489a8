//! Starts other programs: each in a process group of its own, so that Ctrl-C, or a signal sent to xtask alone,
//! ends everything they started as well.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long children have to end on their own after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// How many lines of a child's standard error are kept to explain a failure.
const TAIL_LINES: usize = 60;

/// Process groups that run now.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
/// Whether a signal is ending xtask: then the exit code is the signal's, whatever the children say.
static ENDING: AtomicBool = AtomicBool::new(false);

/// A program ended with something else than success.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The command line, for a reader.
    pub(crate) what: String,
    /// What to leave xtask with.
    pub(crate) code: u8,
    status: ExitStatus,
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}` failed ({})", self.what, self.status)
    }
}

impl std::error::Error for Failed {}

/// From now on SIGINT, SIGTERM and SIGHUP end all children, then xtask.
pub(crate) fn end_children_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            ENDING.store(true, Ordering::SeqCst);
            end_children();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Returns at once, or never where a signal is ending xtask: the thread that ends the children leaves.
pub(crate) fn leave_to_signal() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// A command that does not inherit what `cargo run` set for xtask itself. Some build scripts watch these
/// variables: with them, crates would be compiled anew whenever xtask and plain cargo take turns.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_set_by_cargo_run) {
            command.env_remove(&name);
        }
    }
    if io::stdin().is_terminal() {
        // A process group in the background that reads the terminal would be stopped by it.
        command.stdin(Stdio::null());
    }
    command
}

/// The cargo that runs xtask.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end, output shown.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = Running::start(&mut command)?.wait()?;
    check(&command, status)
}

/// Runs to the end; returns standard output. Standard error is shown.
pub(crate) fn output(mut command: Command) -> Result<String> {
    command.stdout(Stdio::piped());
    let mut running = Running::start(&mut command)?;
    let mut text = String::new();
    if let Some(mut stdout) = running.child.stdout.take() {
        stdout.read_to_string(&mut text).with_context(|| format!("reading what `{}` says", line(&command)))?;
    }
    let status = running.wait()?;
    check(&command, status)?;
    Ok(text)
}

/// Runs to the end in silence; returns whatever came of it.
pub(crate) fn probe(mut command: Command) -> Result<Output> {
    let what = line(&command);
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{what}`"))
}

/// Runs to the end, output shown (standard output goes to standard error too); on failure also returns the last
/// lines of standard error.
pub(crate) fn run_keeping_errors(mut command: Command) -> Result<(), (anyhow::Error, String)> {
    command.stdout(Stdio::from(io::stderr())).stderr(Stdio::piped());
    let mut running = Running::start(&mut command).map_err(|error| (error, String::new()))?;
    let mut tail = Vec::new();
    if let Some(stderr) = running.child.stderr.take() {
        for text in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{text}");
            if tail.len() == TAIL_LINES {
                tail.remove(0);
            }
            tail.push(text);
        }
    }
    let ended = running.wait().and_then(|status| check(&command, status));
    ended.map_err(|error| (error, tail.join("\n")))
}

/// Says what is done, does it, says how long it took.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {what}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("xtask: {what}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// A command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn is_set_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || name.starts_with("CARGO_BIN_")
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Failed { what: line(command), code, status }.into())
}

/// A child in its own process group, listed in `RUNNING` while it lives.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        // Held while starting: a signal that arrives now waits until the child is listed.
        let mut running = running_groups();
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start `{}`", line(command)))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        running.extend(group);
        Ok(Self { child, group })
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("waiting for a child process")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running_groups().retain(|group| Some(*group) != self.group);
    }
}

fn running_groups() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks all groups to end, and after `GRACE` makes them.
fn end_children() {
    let groups = running_groups().clone();
    let signal_all = |signal| groups.iter().filter(|group| kill_process_group(**group, signal).is_ok()).count();
    if signal_all(Signal::TERM) == 0 {
        return;
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        let alive = groups.iter().any(|group| rustix::process::test_kill_process_group(*group).is_ok());
        if !alive {
            return;
        }
        pause(Duration::from_millis(50));
    }
    signal_all(Signal::KILL);
}

/// Between two looks at another process.
#[allow(clippy::disallowed_methods, reason = "another process group gives no event to wait for")]
fn pause(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_the_exit_code_and_the_last_words() {
        let mut command = command("sh");
        command.args(["-c", "echo first >&2; echo last >&2; exit 7"]);
        let (error, tail) = run_keeping_errors(command).expect_err("the program fails");
        let failed = error.downcast_ref::<Failed>().expect("a failed program");
        assert_eq!(failed.code, 7);
        assert_eq!(tail, "first\nlast");
    }

    #[test]
    fn output_is_returned_and_a_missing_program_named() {
        let mut echo = command("echo");
        echo.arg("loom");
        assert_eq!(output(echo).expect("echo runs"), "loom\n");
        let error = run(command("/nonexistent/program")).expect_err("there is no such program");
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    }

    #[test]
    fn only_what_cargo_run_sets_is_dropped() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_BIN_NAME", "OUT_DIR"] {
            assert!(is_set_by_cargo_run(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO", "PATH", "CARGO_NET_OFFLINE"] {
            assert!(!is_set_by_cargo_run(name), "{name}");
        }
    }
}
