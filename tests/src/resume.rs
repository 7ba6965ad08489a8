//! `kill -9` at any moment, then `join` again: without sharing, the resumed run is bit-equal to one never killed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::process::{Daemon, RunFile, newest_checkpoint, wait_for};

const SOON: Duration = Duration::from_secs(120);

/// The end of a run as bytes: weights, and optimizer state.
fn end(folder: &Path) -> Vec<Vec<u8>> {
    let checkpoint = newest_checkpoint(folder);
    ["model.safetensors", "optimizer.safetensors"]
        .map(|name| fs::read(checkpoint.join(name)).expect("a file of the checkpoint"))
        .into()
}

#[test]
fn a_killed_run_ends_with_the_same_bits_as_one_never_killed() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(21).write(&run, &[]);
    let last = ["--alone", "--stop-after", "900"];
    let mut whole = Daemon::start(home.path(), "whole", &run, &last);
    whole.wait_status("an identity", SOON, |_| true);
    // The same identity, for questions follow from it.
    fs::create_dir_all(home.path().join("killed")).expect("a folder");
    fs::copy(whole.folder.join("identity.key"), home.path().join("killed/identity.key")).expect("the key");
    assert!(whole.wait(SOON).success(), "{}", whole.log());

    let mut killed = Daemon::start(home.path(), "killed", &run, &last);
    // Once in the warm start, then at steps between checkpoints.
    killed.wait_status("life", SOON, |_| true);
    killed.kill();
    for step in [4, 153, 408] {
        killed.restart();
        // Not by asking the daemon: a step takes less time than a question.
        let reached = || (killed.events("step").last()?["step"].as_u64()? >= step).then_some(());
        wait_for("steps", SOON, reached);
        killed.kill();
    }
    killed.restart();
    assert!(killed.wait(SOON).success(), "{}", killed.log());
    assert!(killed.events("resumed").len() >= 3);
    assert_eq!(end(&killed.folder), end(&whole.folder));
    assert_eq!(
        killed.events("evaluated").last().expect("one")["tasks"],
        whole.events("evaluated").last().expect("one")["tasks"]
    );
}
