//! `launch ps`, `launch stop` and `launch logs`: the launchers that run on this machine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::LaunchVerb;
use crate::folder::user_data;
use crate::runs::Usage;
use crate::say;

/// A launcher that runs, as it has written down; gone when it ends.
#[derive(Debug)]
pub(crate) struct Job {
    note: PathBuf,
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// How a person calls it.
    id: String,
    pid: i32,
    /// When that process began, as the system counts: another process may have its number later.
    began: String,
    name: String,
    out: PathBuf,
    ranks: usize,
    /// Seconds since 1970.
    since: u64,
}

impl Job {
    /// Writes this launcher down.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub(crate) fn begin(name: &str, out: &Path, ranks: usize) -> anyhow::Result<Self> {
        let folder = folder();
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let pid = std::process::id().cast_signed();
        let id = pid.to_string();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let out = out.canonicalize().unwrap_or_else(|_| out.to_owned());
        let note = Note { id: id.clone(), pid, began: began(pid), name: name.to_owned(), out, ranks, since };
        let path = folder.join(format!("{id}.json"));
        fs::write(&path, serde_json::to_vec(&note)?).with_context(|| path.display().to_string())?;
        Ok(Self { note: path })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // What stays is recognised as that of a process that is gone.
        let _ = fs::remove_file(&self.note);
    }
}

/// Carries a verb out.
///
/// # Errors
/// [`Usage`] where there is no such launcher.
pub(crate) fn run(verb: &LaunchVerb, as_json: bool) -> anyhow::Result<()> {
    let all = living();
    match verb {
        LaunchVerb::Ps => say(as_json, &json!({ "launches": all }), || {
            if all.is_empty() {
                return "nothing is launched on this machine".to_owned();
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let line = |note: &Note| {
                let since = indicatif::HumanDuration(Duration::from_secs(now.saturating_sub(note.since)));
                format!("{:>8}  {} ranks  for {since}  {}  {}", note.id, note.ranks, note.name, note.out.display())
            };
            all.iter().map(line).collect::<Vec<_>>().join("\n")
        }),
        LaunchVerb::Stop { id, within } => stop(chosen(&all, id.as_deref())?, Duration::from_secs(*within), as_json),
        LaunchVerb::Logs { id, rank } => {
            let note = chosen(&all, id.as_deref())?;
            let path = note.out.join(super::LOGS).join(format!("rank-{rank}.log"));
            let text = fs::read(&path).map_err(|error| Usage(format!("{}: {error}", path.display())))?;
            Ok(std::io::stdout().write_all(&text)?)
        }
    }
}

fn stop(note: &Note, within: Duration, as_json: bool) -> anyhow::Result<()> {
    let pid = Pid::from_raw(note.pid).context("no process")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("launch {}", note.id))?;
    let deadline = Instant::now() + within;
    while is_alive(note) {
        if Instant::now() > deadline {
            bail!(
                "launch {} saves a checkpoint or hangs: it has not ended within {} s. Ask again to end it at once",
                note.id,
                within.as_secs()
            );
        }
        pause();
    }
    say(as_json, &json!({ "stopped": note.id, "out": note.out }), || {
        format!("stopped {}; checkpoint and logs are in {}", note.name, note.out.display())
    })
}

#[allow(clippy::disallowed_methods, reason = "a process that is no child gives no event to wait for")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// The launcher that is meant: by its id, or the only one.
fn chosen<'a>(all: &'a [Note], id: Option<&str>) -> Result<&'a Note, Usage> {
    let ids = || all.iter().map(|note| note.id.as_str()).collect::<Vec<_>>().join(", ");
    match (id, all) {
        (_, []) => Err(Usage("nothing is launched on this machine".into())),
        (None, [only]) => Ok(only),
        (None, _) => Err(Usage(format!("several are launched: say which of {}", ids()))),
        (Some(id), _) => all
            .iter()
            .find(|note| note.id == id)
            .ok_or_else(|| Usage(format!("no launch {id} runs on this machine: there are {}", ids()))),
    }
}

/// All that run, oldest first. What a killed launcher has left is removed.
fn living() -> Vec<Note> {
    let entries = fs::read_dir(folder()).into_iter().flatten().flatten();
    let mut all: Vec<Note> = entries
        .filter_map(|entry| {
            let note: Note = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            if is_alive(&note) {
                return Some(note);
            }
            let _ = fs::remove_file(entry.path());
            None
        })
        .collect();
    all.sort_by_key(|note| note.since);
    all
}

fn is_alive(note: &Note) -> bool {
    let there = Pid::from_raw(note.pid).is_some_and(|pid| test_kill_process(pid).is_ok());
    there && began(note.pid) == note.began
}

/// When a process began, in the system's own count; empty where it cannot be known.
fn began(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may contain anything.
    let rest = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // A process that has ended and was not waited for is gone, too.
    if fields.first() == Some(&"Z") {
        return "ended".into();
    }
    fields.get(19).copied().unwrap_or_default().to_owned()
}

fn folder() -> PathBuf {
    user_data().join("launches")
}
