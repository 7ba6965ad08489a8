//! The folder where xtask keeps what it downloads or builds once for all clones.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// `$XDG_CACHE_HOME/swarmloom` or `~/.cache/swarmloom`; made when absent.
pub(crate) fn dir() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("XDG_CACHE_HOME")
        .filter(|dir| dir.is_absolute()) // the XDG specification asks to ignore others
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|dir| dir.join("swarmloom"))
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place to keep libtorch and tools")?;
    fs::create_dir_all(&dir).with_context(|| {
        format!("cannot create {}; set XDG_CACHE_HOME to a folder that you may write", dir.display())
    })?;
    Ok(dir)
}

/// Waits until no other xtask makes `what` in this cache; held as long as the file is.
pub(crate) fn lock(cache: &Path, what: &str) -> Result<File> {
    let path = cache.join(format!("{what}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!("xtask: another xtask prepares {what}, waiting for it");
        flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}
