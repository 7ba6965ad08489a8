//! The data folder of one peer in one run: its layout, and that one process holds it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Names inside a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder(PathBuf);

/// The hold on a folder; released when dropped or when the process dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

/// Why a folder could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FolderError {
    /// It could not be made or locked.
    #[error("data folder {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process holds it.
    #[error(
        "another swarmloom process already uses the data folder {path}. Stop it, or give this one its own with \
         --data-dir"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl Folder {
    /// The folder at `path`; nothing is made yet.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder of a run under the user's data folder.
    pub(crate) fn of_run(run_hex: &str) -> Self {
        Self(user_data().join("runs").join(run_hex.get(..16).unwrap_or(run_hex)))
    }

    /// Every run's folder under the user's data folder.
    pub(crate) fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(user_data().join("runs")) else { return Vec::new() };
        let mut all: Vec<Self> = entries.flatten().map(|entry| Self(entry.path())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Makes the folder and takes it for this process.
    ///
    /// # Errors
    /// [`FolderError::InUse`] where another process has it.
    pub(crate) fn take(&self) -> Result<FolderLock, FolderError> {
        let io = |source| FolderError::Io { path: self.0.clone(), source };
        std::fs::create_dir_all(&self.0).map_err(io)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.0.join("lock")).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FolderError::InUse { path: self.0.clone() }),
            Err(errno) => Err(io(errno.into())),
        }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The key, where the run file names no other.
    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("identity.key")
    }

    /// The store of peers, scores, replay buffer and run state.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Checkpoints, one folder each, named by step.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// Events as JSON lines.
    pub(crate) fn events(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    /// The socket at which the daemon answers.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The run as agreed on, kept so that a later `join INVITE` needs nobody to tell it.
    pub(crate) fn run_spec(&self) -> PathBuf {
        self.0.join("run.spec")
    }

    /// Bytes of all files in the folder.
    pub(crate) fn bytes(&self) -> u64 {
        fn below(path: &Path) -> u64 {
            let Ok(entries) = std::fs::read_dir(path) else { return 0 };
            entries
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(meta) if meta.is_dir() => below(&entry.path()),
                    Ok(meta) => meta.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        below(&self.0)
    }
}

/// `$XDG_DATA_HOME/swarmloom`, `~/.local/share/swarmloom`, or a folder beside the caller.
pub(crate) fn user_data() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from(".swarmloom"), |base| base.join("swarmloom"))
}

/// Writes a file in full or not at all: temporary name, sync, rename, sync of the folder.
///
/// # Errors
/// What the system says; the old file stands then.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_a_folder() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = Folder::at(parent.path().join("peer"));
        let lock = folder.take().expect("free");
        assert!(matches!(folder.take(), Err(FolderError::InUse { .. })));
        drop(lock);
        assert!(folder.take().is_ok());
    }

    #[test]
    fn a_written_file_replaces_the_old_one_and_is_counted() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("file");
        write_atomically(&path, b"first").expect("write");
        write_atomically(&path, b"second").expect("write");
        assert_eq!(std::fs::read(&path).expect("read"), b"second");
        assert_eq!(Folder::at(parent.path()).bytes(), 6);
    }
}
