//! Four peers under `kill -9`: the run goes on, resumes, loses no acknowledged group, and nobody's memory grows away.
//!
//! The time it takes is set by `SWARMLOOM_SOAK_SECONDS` (default 40) and the time between kills by
//! `SWARMLOOM_SOAK_KILL_SECONDS` (default 10); the long form is 600 and 60.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Daemon, RunFile, wait_for};
use crate::swarm::stored;

/// What no process may reach.
const MAX_RESIDENT_BYTES: u64 = 1 << 30;

fn seconds(name: &str, default: u64) -> Duration {
    Duration::from_secs(std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default))
}

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn four_peers_survive_kills_and_lose_no_acknowledged_group() {
    let (whole, between) = (seconds("SWARMLOOM_SOAK_SECONDS", 40), seconds("SWARMLOOM_SOAK_KILL_SECONDS", 10));
    let home = tempfile::tempdir().expect("a folder");
    let mut peers = Vec::new();
    let mut bootstrap = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let run = home.path().join(format!("{name}.toml"));
        RunFile::small(41).write(&run, &bootstrap);
        let mut peer = Daemon::start(home.path(), name, &run, &[]);
        bootstrap.extend(peer.addresses());
        peers.push(peer);
    }
    let (began, mut killed, mut largest) = (Instant::now(), 0, 0);
    let mut ends = BTreeMap::new();
    while began.elapsed() < whole {
        wait_for("the next kill", between * 2, || {
            largest = peers.iter().map(|peer| resident(peer.pid())).fold(largest, u64::max);
            (began.elapsed() >= between * (killed + 1) || began.elapsed() >= whole).then_some(())
        });
        if began.elapsed() < whole {
            let at = killed as usize % peers.len();
            let peer = &mut peers[at];
            let steps = peer.events("step").len();
            assert!(
                ends.insert(at, steps).is_none_or(|before| before < steps),
                "peer {at} made no step between two kills"
            );
            peer.kill();
            peer.restart();
            killed += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    for peer in &mut peers {
        peer.wait_status("training at the end", Duration::from_secs(60), |status| status["state"] == "training");
    }
    // Whoever is killed last has acknowledged everything that the others know of.
    for peer in &mut peers {
        peer.kill();
    }
    // Read before any store is opened again: what happens then is not part of the question.
    let given: Vec<Value> = peers.iter().flat_map(|giver| giver.events("group_acknowledged")).collect();
    for taker in &mut peers {
        let id = taker.events("started")[0]["peer"].as_str().expect("an id").to_owned();
        let kept = stored(taker);
        let gone: BTreeSet<String> = ["group_used_up", "group_dropped"]
            .iter()
            .flat_map(|kind| taker.events(kind))
            .map(|event| event["id"].as_str().expect("an id").to_owned())
            .collect();
        for event in given.iter().filter(|event| event["by"] == *id) {
            let group = event["id"].as_str().expect("an id");
            assert!(kept.contains(group) || gone.contains(group), "{id} acknowledged {group} and lost it");
        }
    }
    let rate = given.len() as f64 / seconds;
    println!(
        "{killed} kills in {seconds:.0} s, {} groups acknowledged ({rate:.1} a second), largest process {} MiB",
        given.len(),
        largest >> 20
    );
    assert!(rate >= 1.0, "{rate} groups acknowledged a second");
    assert!(largest < MAX_RESIDENT_BYTES, "{largest}");
}
