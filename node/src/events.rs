//! Events as JSON lines: what tests, the demo and people's own tools read instead of log text.
//!
//! Every line is `{"at_ms": …, "event": "…", …}`. The file is bounded: at half of its share it is
//! moved to `events.jsonl.1`, which replaces the one before.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};

/// Writes events; cheap to share between threads.
#[derive(Debug)]
pub(crate) struct EventLog {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `None` after a write failed, until one succeeds again.
    file: Option<File>,
    written_bytes: u64,
    max_bytes: u64,
}

impl EventLog {
    /// Appends to `path`, keeping at most `max_bytes` in it and its predecessor together.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub(crate) fn open(path: &Path, max_bytes: u64) -> std::io::Result<Self> {
        let mut file = append(path)?;
        let written_bytes = file.metadata()?.len();
        if !ends_with_newline(path, written_bytes)? {
            // A kill in mid-write left half a line; it must not swallow the next one.
            file.write_all(b"\n")?;
        }
        Ok(Self { inner: Mutex::new(Inner { path: path.to_owned(), file: Some(file), written_bytes, max_bytes }) })
    }

    /// Writes one event. `fields` must serialize to a JSON object. A full disk loses events, never the run.
    pub(crate) fn emit(&self, at_ms: u64, event: &str, fields: &impl Serialize) {
        let mut line = Map::new();
        line.insert("at_ms".into(), at_ms.into());
        line.insert("event".into(), event.into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(fields) {
            line.extend(fields);
        }
        let mut text = Value::Object(line).to_string();
        tracing::debug!(target: "swarmloom::events", "{text}");
        text.push('\n');
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = inner.write(text.as_bytes())
            && inner.file.take().is_some()
        {
            tracing::warn!(path = %inner.path.display(), %error, "events are lost until this file can be written again");
        }
    }
}

impl Inner {
    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.written_bytes + line.len() as u64 > self.max_bytes / 2 {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            self.file = None;
            self.written_bytes = 0;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append(&self.path)?),
        };
        // One write per line: a line is whole or absent after a kill, but for a full disk.
        file.write_all(line)?;
        self.written_bytes += line.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn ends_with_newline(path: &Path, length: u64) -> std::io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    if length == 0 {
        return Ok(true);
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_whole_after_a_torn_one_and_the_file_stays_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, "{\"at_ms\":1,\"ev").expect("a torn line");
        let log = EventLog::open(&path, 4000).expect("open");
        for step in 0..200 {
            log.emit(step, "step", &json!({ "step": step, "reward": 0.5 }));
        }
        let text = std::fs::read_to_string(&path).expect("read");
        let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!((last["event"].as_str(), last["step"].as_u64()), (Some("step"), Some(199)));
        let both = text.len() + std::fs::read(folder.path().join("events.jsonl.1")).expect("the old file").len();
        assert!(both <= 4000, "{both}");
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }
}
