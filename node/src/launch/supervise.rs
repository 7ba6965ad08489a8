//! Starts ranks, watches them, and ends all when one fails.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::supervisor::{ChildError, ChildSpec, Supervised};

/// How ranks are looked after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How often all are started again after one was lost.
    pub(crate) restarts: u32,
    /// Whether what they write is left in the files.
    pub(crate) quiet: bool,
    /// Whether ranks go on by themselves where one is lost, and end by themselves where they cannot.
    pub(crate) elastic: bool,
}

/// How the ranks ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// All well.
    Well,
    /// One badly, the first of them; the others were ended.
    Badly(Failure),
}

/// The rank that failed first.
#[derive(Debug, thiserror::Error)]
#[error("{name} ended with {status}; its last words:\n{last_words}")]
pub(crate) struct Failure {
    /// Which.
    pub(crate) name: String,
    /// How.
    pub(crate) status: ExitStatus,
    /// The end of its log.
    pub(crate) last_words: String,
}

impl Failure {
    /// Whether starting again may help: not where the command or the file is wrong.
    pub(crate) fn may_pass(&self) -> bool {
        self.status.code() != Some(2)
    }
}

/// Others see that one is gone, say so and end; then they are asked, then killed.
const GRACE: Duration = Duration::from_secs(3);
const ASKED: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// Starts all, shows what they write on standard error, and returns when they have ended. Signals that `signals` counts are
/// passed on to them: the first asks for a checkpoint and an end, the second kills.
///
/// # Errors
/// Where one cannot be started; those that were are ended.
pub(crate) async fn run(
    specs: Vec<ChildSpec>,
    signals: &Arc<AtomicUsize>,
    options: &Options,
) -> Result<Ended, ChildError> {
    let several = specs.len() > 1;
    let mut tails: Vec<Tail> =
        specs.iter().enumerate().map(|(rank, spec)| Tail::new(&spec.log, rank, several)).collect();
    let mut running = Vec::with_capacity(specs.len());
    for spec in specs {
        running.push(Some(Supervised::start(spec)?));
    }
    let mut failure: Option<(Failure, Instant)> = None;
    let (mut passed_on, mut asked, mut well) = (0, false, 0);
    while running.iter().any(Option::is_some) {
        sleep(LOOK_EVERY).await;
        if !options.quiet {
            tails.iter_mut().for_each(Tail::show);
        }
        for slot in &mut running {
            let Some(status) = slot.as_mut().and_then(Supervised::ended) else { continue };
            well += usize::from(status.success());
            if let Some(child) = slot.take()
                && !status.success()
                && failure.is_none()
            {
                let last_words = child.last_words();
                failure = Some((Failure { name: child.spec.name.clone(), status, last_words }, Instant::now()));
            }
        }
        let count = signals.load(Ordering::Relaxed);
        if count > passed_on {
            passed_on = count;
            let signal = if count == 1 { Signal::TERM } else { Signal::KILL };
            running.iter().flatten().for_each(|child| child.signal(signal));
        }
        if let Some((_, since)) = failure.as_ref().filter(|(failure, _)| !(options.elastic && failure.may_pass())) {
            let waited = since.elapsed();
            if waited > GRACE + ASKED {
                running.iter().flatten().for_each(|child| child.signal(Signal::KILL));
            } else if waited > GRACE && !asked {
                asked = true;
                running.iter().flatten().for_each(|child| child.signal(Signal::TERM));
            }
        }
    }
    if !options.quiet {
        tails.iter_mut().for_each(Tail::show);
    }
    // Where others have gone on to a good end, so has the whole.
    let carried = options.elastic && well > 0;
    Ok(failure.filter(|_| !carried).map_or(Ended::Well, |(failure, _)| Ended::Badly(failure)))
}

/// What a rank writes, shown line by line.
struct Tail {
    path: PathBuf,
    prefix: String,
    at: u64,
    rest: Vec<u8>,
}

/// Most of a line that is shown.
const MAX_LINE: usize = 4096;

impl Tail {
    fn new(path: &Path, rank: usize, several: bool) -> Self {
        let prefix = if several { format!("[{rank}] ") } else { String::new() };
        Self { path: path.to_owned(), prefix, at: 0, rest: Vec::new() }
    }

    fn show(&mut self) {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return };
        let mut new = Vec::new();
        let read = file.seek(SeekFrom::Start(self.at)).and_then(|_| file.take(1 << 20).read_to_end(&mut new));
        self.at += read.unwrap_or(0) as u64;
        self.rest.extend_from_slice(&new);
        let mut out = std::io::stderr().lock();
        while let Some(end) =
            self.rest.iter().position(|byte| *byte == b'\n').or((self.rest.len() > MAX_LINE).then_some(MAX_LINE))
        {
            let line: Vec<u8> = self.rest.drain(..=end.min(self.rest.len() - 1)).collect();
            // A terminal that is gone takes no lines; the files have them.
            let _ = writeln!(out, "{}{}", self.prefix, String::from_utf8_lossy(&line).trim_end());
        }
    }
}
