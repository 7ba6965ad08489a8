//! The repository and its one target folder: building, testing and asking git what belongs to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{libtorch, process};

/// Variables that would make the bindings use another libtorch than the one that xtask names.
const OTHER_LIBTORCH: [&str; 5] =
    ["LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_STATIC", "LIBTORCH_BYPASS_VERSION_CHECK"];

/// This clone.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Where the root `Cargo.toml` is.
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// The clone that this xtask was compiled from.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in no workspace")?;
        Ok(Self { root: root.to_owned() })
    }

    /// `cargo` in this clone.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = process::cargo();
        cargo.args(arguments).current_dir(&self.root);
        cargo
    }

    /// `cargo` in this clone, compiling against the right libtorch.
    pub(crate) fn compiling_cargo(&self, arguments: &[&str]) -> Result<Command> {
        let mut cargo = self.cargo(arguments);
        for name in OTHER_LIBTORCH {
            cargo.env_remove(name);
        }
        cargo.env("LIBTORCH", libtorch::ensure(&self.root)?);
        Ok(cargo)
    }

    /// Builds everything in the one profile; returns the binary.
    ///
    /// The whole workspace, as in `test` and `ci`: dependencies then have the same features in all three and compile
    /// once.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        let cargo = self.compiling_cargo(&["build", "--release", "--workspace"])?;
        let binary = self.target_dir()?.join("release/swarmloom");
        process::timed(&format!("building {}", binary.display()), || process::run(cargo))?;
        Ok(binary)
    }

    /// Builds, then runs every test of every crate. The binary is built first for the tests that speak from outside.
    pub(crate) fn test(&self, arguments: &[String]) -> Result<()> {
        self.build()?;
        let mut cargo = self.compiling_cargo(&["test", "--release", "--workspace"])?;
        cargo.args(arguments);
        process::timed("testing every crate", || process::run(cargo))
    }

    /// `CARGO_TARGET_DIR` and cargo's configuration taken into account.
    pub(crate) fn target_dir(&self) -> Result<PathBuf> {
        let text = process::output(self.cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: serde_json::Value = serde_json::from_str(&text)?;
        metadata["target_directory"].as_str().map(PathBuf::from).context("`cargo metadata` names no target folder")
    }

    /// Every file that is in git or would be with `git add .`, relative to the root.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut git = process::command("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&self.root);
        let names = process::output(git).context("only a git clone can be checked")?;
        let mut files: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
        files.retain(|file| self.root.join(file).is_file()); // one may be deleted but not yet committed
        files.sort();
        files.dedup();
        Ok(files)
    }
}
