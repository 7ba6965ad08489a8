//! Child processes of this program: started on plain data, watched, and never left behind.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct ChildSpec {
    /// How messages call it.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Variables beyond this process' own.
    pub(crate) environment: Vec<(String, String)>,
    /// What it gets on standard input, which then stays open; none gets nothing.
    pub(crate) input: Option<String>,
    /// Whether a terminal's signals reach this process alone, which passes on what the child should know.
    pub(crate) apart: bool,
    /// The file that takes its standard output and error.
    pub(crate) log: PathBuf,
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// What it was started from.
    pub(crate) spec: ChildSpec,
    child: Child,
    /// Held open.
    _input: Option<tokio::process::ChildStdin>,
}

/// Why a child could not be started or ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ChildError {
    /// It could not be started.
    #[error("{name} could not be started: {source}")]
    Start {
        /// The child.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{name} ended with {status}; its last words:\n{last_words}")]
    Failed {
        /// The child.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        last_words: String,
    },
    /// It did not end in time and was killed.
    #[error("{name} did not end within {} s and was killed; its last words:\n{last_words}", .within.as_secs())]
    Late {
        /// The child.
        name: String,
        /// The time it had.
        within: Duration,
        /// The end of its log.
        last_words: String,
    },
}

impl Supervised {
    /// Starts a child with its output in a file.
    ///
    /// # Errors
    /// [`ChildError::Start`].
    pub(crate) fn start(spec: ChildSpec) -> Result<Self, ChildError> {
        let failed = |source| ChildError::Start { name: spec.name.clone(), source };
        let log = std::fs::File::create(&spec.log).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let mut command = Command::new(&spec.program);
        if spec.apart {
            command.process_group(0);
        }
        let mut child = command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(if spec.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut input = child.stdin.take();
        if let (Some(input), Some(text)) = (&mut input, &spec.input) {
            // A line: a pipe has room for it whether it is read or not.
            let fd = rustix::fd::AsFd::as_fd(input);
            // A child that has ended already does not read; its end tells why.
            let _ = rustix::io::write(fd, text.as_bytes());
        }
        Ok(Self { spec, child, _input: input })
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends it a signal, where it still runs.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = self.pid().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            // It may have ended between the two calls; its end is seen elsewhere.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Asks it to end (SIGINT), waits, and kills it when the time is up.
    ///
    /// # Errors
    /// [`ChildError::Late`] where it had to be killed, [`ChildError::Failed`] where it ended badly.
    pub(crate) async fn stop(mut self, within: Duration) -> Result<(), ChildError> {
        self.signal(rustix::process::Signal::INT);
        self.wait(within).await
    }

    /// Waits for its end, and kills it when the time is up.
    ///
    /// # Errors
    /// As [`Supervised::stop`].
    pub(crate) async fn wait(&mut self, within: Duration) -> Result<(), ChildError> {
        match timeout_at(Instant::now() + within, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(ChildError::Failed { name: self.spec.name.clone(), status, last_words: self.last_words() })
            }
            Ok(Err(source)) => Err(ChildError::Start { name: self.spec.name.clone(), source }),
            Err(_) => {
                // A failure to kill means that it is gone already.
                let _ = self.child.kill().await;
                Err(ChildError::Late { name: self.spec.name.clone(), within, last_words: self.last_words() })
            }
        }
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.spec.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}
