//! Sets up the programs that swarmloom is compared with, each in an environment of its own, then measures.
//!
//! A peer is a file in `xtask/peers`; those of `bench collectives` are in [`collectives`]. `target/peers/NAME` starts it
//! with the right interpreter; what it reads and writes is told at the top of the file.

mod collectives;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{cache, process};

/// A program to compare with: `xtask/peers/PROGRAM` in an environment with `package`.
struct Peer {
    name: &'static str,
    /// The benchmark that it is for.
    verb: &'static str,
    program: &'static str,
    /// The folder of its environment.
    environment: &'static str,
    /// What pip installs. Pinned: a comparison names a version.
    packages: &'static [&'static str],
}

const FLOWER: &[&str] = &["flwr[simulation]==1.41.0", "torch==2.11.0"];

const PEERS: [Peer; 4] = [
    Peer {
        name: "reasoning-gym",
        verb: "tasks",
        program: "reasoning_gym_peer.py",
        environment: "reasoning-gym-0.1.25",
        packages: &["reasoning-gym==0.1.25"],
    },
    Peer { name: "flower", verb: "simulate", program: "flower_peer.py", environment: "flwr-1.41.0", packages: FLOWER },
    // In the same environment: the same PyTorch.
    Peer {
        name: "torch-loop",
        verb: "simulate",
        program: "torch_loop_peer.py",
        environment: "flwr-1.41.0",
        packages: FLOWER,
    },
    Peer {
        name: "torch-launch",
        verb: "launch",
        program: "launch_peer.py",
        environment: "flwr-1.41.0",
        packages: FLOWER,
    },
];

/// Builds, sets up what can be set up, and hands over to `swarmloom bench`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let mut swarmloom = process::command(workspace.build()?);
    swarmloom.arg("bench").args(arguments);
    if let Some(verb) = wants_peers(arguments) {
        let programs = workspace.target_dir()?.join("peers");
        fs::create_dir_all(&programs)?;
        for peer in PEERS.iter().filter(|peer| peer.verb == verb) {
            let what = format!("setting up {}", peer.packages.join(" and "));
            if let Err(error) = process::timed(&what, || set_up(workspace, &programs, peer)) {
                // The benchmark itself names a peer that is absent.
                eprintln!("xtask: goes on without {}: {error:#}", peer.name);
            }
        }
        if verb == "collectives" {
            collectives::set_up(workspace, &programs.join("collectives"))?;
        }
        swarmloom.arg("--peers").arg(programs);
    }
    process::run(swarmloom)
}

/// For which benchmark. Not where only help is asked for, nor where a person names peers of their own.
fn wants_peers(arguments: &[String]) -> Option<&str> {
    let others = ["-h", "--help", "help", "--peers"];
    let is_other = |argument: &String| others.contains(&argument.as_str()) || argument.starts_with("--peers=");
    if arguments.iter().any(is_other) {
        return None;
    }
    arguments.iter().map(String::as_str).find(|argument| !argument.starts_with('-'))
}

/// Makes the environment once per machine and the starter once per clone.
fn set_up(workspace: &Workspace, programs: &Path, peer: &Peer) -> Result<()> {
    let starter = programs.join(peer.name);
    drop(fs::remove_file(&starter)); // one that cannot work any more would be worse than none
    let python = environment(peer.environment, peer.packages)?.join("bin/python");
    let program = workspace.root.join("xtask/peers").join(peer.program);
    let words = [python.as_path(), program.as_path()].map(quoted);
    write_starter(&starter, &format!("exec {} {} \"$@\"", words[0], words[1]))
}

/// A program for a shell.
fn write_starter(path: &Path, script: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A Python environment with these packages; made where it is absent or half made.
fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let cache = cache::dir()?;
    let dir = cache.join("peers").join(name);
    let whole = dir.join("swarmloom-whole");
    let _lock = cache::lock(&cache, name)?;
    if whole.exists() {
        return Ok(dir);
    }
    let mut python = process::command("python3");
    python.args(["-m", "venv", "--clear"]).arg(&dir);
    process::run_keeping_errors(python)
        .map_err(|(error, _)| error)
        .context("no Python environment could be made (on Debian: `apt-get install python3-venv`)")?;
    let mut pip = process::command(dir.join("bin/python"));
    // A dependency may have no wheel (reasoning-gym's cellpylib), so that pip may build what it needs.
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]).args(packages);
    process::run_keeping_errors(pip).map_err(|(error, _)| error).context("the package index may be out of reach")?;
    fs::write(whole, "")?;
    Ok(dir)
}

/// One word for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_set_up_for_a_measurement_only() {
        let wants =
            |text: &str| wants_peers(&text.split_whitespace().map(String::from).collect::<Vec<_>>()).map(String::from);
        assert_eq!(wants("tasks --quick").as_deref(), Some("tasks"));
        assert_eq!(wants("--json collectives").as_deref(), Some("collectives"));
        for other in ["", "--help", "tasks -h", "tasks --peers elsewhere", "tasks --peers=elsewhere"] {
            assert_eq!(wants(other), None, "{other}");
        }
    }

    #[test]
    fn paths_reach_the_shell_whole() {
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }

    #[test]
    fn every_peer_has_its_program_and_names_a_version() {
        for peer in &PEERS {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(peer.program);
            assert!(program.exists(), "{}", program.display());
            assert!(peer.packages.iter().all(|package| package.contains("==")));
        }
    }
}
