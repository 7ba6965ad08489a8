//! The peer's key: one file, readable by its owner alone, held by one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{FlockOperation, flock};

/// The first line of a key file; the seed follows as 64 hexadecimal digits.
const HEADER: &str = "swarmloom identity 1";

/// A loaded identity. The file stays locked while this lives.
#[derive(Debug)]
pub(crate) struct Identity {
    seed: [u8; 32],
    path: PathBuf,
    _lock: File,
}

/// Why an identity could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IdentityError {
    /// The file could not be read, written or locked.
    #[error("identity file {path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a key file.
    #[error("{path} is not an identity file: {why}. Move it away, or name another with --identity")]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Others may read the key.
    #[error("identity file {path} is readable by others (mode {mode:o}); `chmod 600 {path}` mends it")]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds it.
    #[error(
        "another swarmloom process already uses the identity {path}. Two processes with one identity would \
         be taken for a cheat: stop the other, or give this one its own with --identity or --data-dir"
    )]
    InUse {
        /// The key file.
        path: PathBuf,
    },
    /// A new identity would overwrite an old one.
    #[error("{path} exists already; a new identity would destroy it. Move it away first")]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// The system gave no randomness.
    #[error("the system gave no randomness for a new key")]
    NoRandomness,
}

impl Identity {
    /// Loads the key at `path` and locks it, making a new one where there is none.
    ///
    /// # Errors
    /// See [`IdentityError`]; nothing is overwritten.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if !path.exists() {
            match create(path) {
                // Another process may have been first: its key is as good.
                Ok(()) | Err(IdentityError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let identity = Self::read(path)?;
        flock(&identity._lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => IdentityError::InUse { path: path.to_owned() },
            other => IdentityError::Io { path: path.to_owned(), source: other.into() },
        })?;
        Ok(identity)
    }

    /// Reads the key at `path` without taking it: for `identity show`.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub(crate) fn read(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        let malformed = |why| IdentityError::Malformed { path: path.to_owned(), why };
        (&mut file).take(4096).read_to_string(&mut text).map_err(|_| malformed("it is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(malformed("its first line is not \"swarmloom identity 1\""));
        }
        let seed =
            lines.next().and_then(crate::hex::decode::<32>).ok_or_else(|| malformed("its second line is not a key"))?;
        Ok(Self { seed, path: path.to_owned(), _lock: file })
    }

    /// Writes a new key to `path`.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] where a file stands there already.
    pub(crate) fn create(path: &Path) -> Result<Self, IdentityError> {
        create(path)?;
        Self::read(path)
    }

    /// The ed25519 seed.
    pub(crate) fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// Where the key lives.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes a key file in full before it gets its name, so that a crash leaves none or a whole one.
fn create(path: &Path) -> Result<(), IdentityError> {
    let io = |source| IdentityError::Io { path: path.to_owned(), source };
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| IdentityError::NoRandomness)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    let temporary = folder.join(format!(".identity.{}.tmp", std::process::id()));
    let digits = crate::hex::encode(&seed);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(format!("{HEADER}\n{digits}\n").as_bytes())?;
        file.sync_all()?;
        // A hard link fails where the name is taken; a rename would replace the old key.
        std::fs::hard_link(&temporary, path)
    })();
    // Best effort: the temporary name is of no further use either way.
    let _ = std::fs::remove_file(&temporary);
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(IdentityError::Exists { path: path.to_owned() })
        }
        other => other.map_err(io),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_private_and_reads_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/identity.key");
        let first = Identity::load_or_create(&path).expect("a new key");
        assert_eq!(std::fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::read(&path).expect("the same key").seed(), first.seed());
    }

    #[test]
    fn a_second_holder_is_told_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identity.key");
        let first = Identity::load_or_create(&path).expect("a new key");
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::InUse { .. })));
        drop(first);
        assert!(Identity::load_or_create(&path).is_ok());
    }

    #[test]
    fn an_exposed_or_broken_key_is_refused_and_none_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identity.key");
        Identity::create(&path).expect("a new key");
        assert!(matches!(Identity::create(&path), Err(IdentityError::Exists { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(Identity::read(&path), Err(IdentityError::Exposed { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, "hello").expect("write");
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Malformed { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "hello");
    }
}
