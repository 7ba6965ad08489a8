//! Several peers: they find each other, share, and lose nothing that was acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Daemon, RunFile, json, output, text, wait_for};

const SOON: Duration = Duration::from_secs(90);

fn ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn three_peers_find_each_other_by_invite_and_share() {
    let home = tempfile::tempdir().expect("a folder");
    let (run, settings) = (home.path().join("run.toml"), home.path().join("settings.toml"));
    RunFile::small(31).write(&run, &[]);
    let mut first = Daemon::start(home.path(), "first", &run, &[]);
    first.addresses();
    let folder = first.folder.display().to_string();
    let invite = json(home.path(), &["invite", &run.display().to_string(), "--data-dir", &folder, "--json"]);
    let invite = invite["invite"].as_str().expect("an invite").to_owned();
    std::fs::write(
        &settings,
        "[peer]\nmodel = \"pico\"\ndevice = \"cpu\"\n[peer.warm_start]\nsteps = 20\n[training]\nevaluate_questions = 24\n\
         [network]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\nupnp = false\n[limits]\nthreads = 1\n",
    )
    .expect("a file");
    // The others know the run by the invite alone, and each other not at all.
    let settings = settings.display().to_string();
    let joined = |name: &str| Daemon::start(home.path(), name, invite.as_ref(), &["--settings", &settings]);
    let (mut second, mut third) = (joined("second"), joined("third"));
    for peer in [&mut first, &mut second, &mut third] {
        peer.wait_status("two peers, groups both ways", SOON, |status| {
            let connected =
                status["peers"].as_array().map_or(0, |all| all.iter().filter(|one| one["connected"] == true).count());
            connected == 2
                && status["groups"]["acknowledged"].as_u64() > Some(20)
                && status["groups"]["used"].as_u64() > Some(20)
        });
    }
    for (peer, others) in [(&second, [&first, &third]), (&third, [&first, &second])] {
        let authors: BTreeSet<String> =
            peer.events("group_stored").iter().map(|event| event["from"].as_str().expect("an id").to_owned()).collect();
        let ids = others.map(|other| other.events("started")[0]["peer"].as_str().expect("an id").to_owned());
        assert_eq!(authors, ids.into(), "groups come from both others");
    }
}

#[test]
fn an_invite_to_nobody_waits_says_why_and_ends_when_told() {
    let home = tempfile::tempdir().expect("a folder");
    let invite = format!("swarmloom:{}@/ip4/127.0.0.1/tcp/9", "ab".repeat(32));
    let settings = home.path().join("settings.toml");
    std::fs::write(&settings, "[network]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\nupnp = false\n")
        .expect("a file");
    let mut daemon =
        Daemon::start(home.path(), "peer", invite.as_ref(), &["--settings", &settings.display().to_string()]);
    let status = daemon.wait_status("a named failure", SOON, |status| {
        status["problems"].as_array().is_some_and(|all| !all.is_empty())
    });
    assert!(status["waiting"]["what"].as_str().expect("a wait").contains("description"));
    assert!(status["problems"][0]["what"].as_str().expect("text").contains("/ip4/127.0.0.1/tcp/9"));
    daemon.signal("INT");
    assert!(daemon.wait(Duration::from_secs(5)).success());
}

#[test]
fn what_was_acknowledged_is_still_there_after_a_kill() {
    let home = tempfile::tempdir().expect("a folder");
    let (giver_run, taker_run) = (home.path().join("giver.toml"), home.path().join("taker.toml"));
    RunFile::small(32).write(&giver_run, &[]);
    let mut giver = Daemon::start(home.path(), "giver", &giver_run, &[]);
    let addresses = giver.addresses();
    RunFile::small(32).write(&taker_run, &addresses);
    let mut taker = Daemon::start(home.path(), "taker", &taker_run, &[]);
    for _ in 0..2 {
        let before = giver.events("group_acknowledged").len();
        giver.wait_status("acknowledged groups", SOON, |status| {
            status["groups"]["acknowledged"].as_u64() >= Some(before as u64 + 30)
        });
        taker.kill();
        taker.restart();
    }
    taker.wait_status("life", SOON, |status| status["state"] == "training");
    let acknowledged = ids(&giver.events("group_acknowledged"));
    taker.kill();
    // Everything acknowledged is in the store, or has left the buffer for a reason that an event states.
    let kept = stored(&mut taker);
    let gone: BTreeSet<String> =
        ["group_used_up", "group_dropped"].iter().flat_map(|kind| ids(&taker.events(kind))).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !kept.contains(*id) && !gone.contains(*id)).collect();
    assert!(acknowledged.len() >= 60, "{}", acknowledged.len());
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
}

#[test]
fn a_peer_that_is_told_to_end_still_acknowledges_what_it_stored() {
    let home = tempfile::tempdir().expect("a folder");
    let (giver_run, taker_run) = (home.path().join("giver.toml"), home.path().join("taker.toml"));
    RunFile::small(35).write(&giver_run, &[]);
    let mut giver = Daemon::start(home.path(), "giver", &giver_run, &[]);
    let addresses = giver.addresses();
    RunFile::small(35).write(&taker_run, &addresses);
    let mut taker = Daemon::start(home.path(), "taker", &taker_run, &[]);
    taker.wait_status("stored groups", SOON, |status| status["groups"]["stored"].as_u64() > Some(30));
    taker.signal("INT");
    assert!(taker.wait(Duration::from_secs(5)).success(), "{}", taker.log());
    let stored = ids(&taker.events("group_stored"));
    let missing = || {
        let acknowledged = ids(&giver.events("group_acknowledged"));
        stored.difference(&acknowledged).next().is_none().then_some(())
    };
    wait_for("an acknowledgement of every stored group", Duration::from_secs(10), missing);
}

#[test]
fn a_peer_that_lost_its_store_says_so_and_uses_no_counter_twice() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(36).write(&run, &[]);
    let mut peer = Daemon::start(home.path(), "peer", &run, &[]);
    peer.wait_status("steps", SOON, |status| status["step"].as_u64() >= Some(12));
    peer.kill();
    std::fs::write(peer.folder.join("store/conf"), "no configuration at all").expect("damage");
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis() as u64;
    peer.restart();
    let status = peer.wait_status("steps again", SOON, |status| status["state"] == "training");
    assert!(status["problems"].to_string().contains("the store was damaged and moved"), "{status}");
    let restored = peer.events("restored");
    assert_eq!(restored[0]["next_counter"], 0);
    assert!(restored[1]["next_counter"].as_u64() >= Some(began), "{}", restored[1]);
}

#[test]
fn settings_that_a_run_does_not_allow_are_refused_before_anything_is_shared() {
    let home = tempfile::tempdir().expect("a folder");
    let (run, settings) = (home.path().join("run.toml"), home.path().join("settings.toml"));
    let limits = "max_completions = 4".to_owned();
    RunFile { run_limits: limits, training: "group_size = 4".into(), ..RunFile::small(37) }.write(&run, &[]);
    let mut first = Daemon::start(home.path(), "first", &run, &[]);
    first.addresses();
    let folder = first.folder.display().to_string();
    let invite = json(home.path(), &["invite", &run.display().to_string(), "--data-dir", &folder, "--json"]);
    let text_of = "[peer]\ndevice = \"cpu\"\n[training]\nevaluate_questions = 24\n[network]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\nupnp = false\n";
    std::fs::write(&settings, text_of).expect("a file");
    let second = home.path().join("second").display().to_string();
    let arguments = ["join", invite["invite"].as_str().expect("an invite"), "--data-dir", &second, "--settings"];
    let refused = output(home.path(), &[&arguments[..], &[&settings.display().to_string()]].concat());
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("training.group_size: the run allows groups of 4"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn sharing_recovers_both_ways_when_a_killed_peer_is_back_at_once() {
    let home = tempfile::tempdir().expect("a folder");
    let (stays_run, dies_run) = (home.path().join("stays.toml"), home.path().join("dies.toml"));
    RunFile::small(38).write(&stays_run, &[]);
    // Over QUIC nobody tells that a process is gone.
    let quic = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let mut stays = Daemon::start(home.path(), "stays", &stays_run, &quic);
    let listens = |status: &Value| status["listen"].as_array().is_some_and(|all| !all.is_empty());
    let status = stays.wait_status("an address", SOON, listens);
    let address = status["listen"][0].as_str().expect("an address").to_owned();
    RunFile::small(38).write(&dies_run, &[address]);
    let mut dies = Daemon::start(home.path(), "dies", &dies_run, &quic);
    let both = |status: &Value| {
        status["groups"]["acknowledged"].as_u64() > Some(20) && status["groups"]["stored"].as_u64() > Some(20)
    };
    dies.wait_status("sharing both ways", SOON, both);
    dies.kill();
    dies.restart();
    dies.wait_status("sharing both ways again", SOON, both);
}

/// Ids of the groups in a stopped daemon's store, as the daemon itself reads them at its next start.
pub(crate) fn stored(daemon: &mut Daemon) -> BTreeSet<String> {
    let before = daemon.events("restored").len();
    daemon.restart();
    let restored = wait_for("the store", SOON, || daemon.events("restored").into_iter().nth(before));
    daemon.kill();
    restored["groups"].as_array().expect("a list").iter().map(|id| id.as_str().expect("an id").to_owned()).collect()
}

#[test]
fn peers_of_another_run_are_not_taken_for_members() {
    let home = tempfile::tempdir().expect("a folder");
    let (run, other) = (home.path().join("run.toml"), home.path().join("other.toml"));
    RunFile::small(33).write(&run, &[]);
    let mut first = Daemon::start(home.path(), "first", &run, &[]);
    let addresses = first.addresses();
    RunFile::small(34).write(&other, &addresses);
    let mut second = Daemon::start(home.path(), "second", &other, &[]);
    second.wait_status("steps", SOON, |status| status["step"].as_u64() >= Some(10));
    let status = first.status().expect("an answer");
    assert_eq!(status["groups"]["stored"], 0);
    assert!(status["peers"].as_array().expect("a list").iter().all(|peer| peer["connected"] == false), "{status}");
    let checked = output(home.path(), &["status", "--data-dir", &first.folder.display().to_string()]);
    assert!(text(&checked.stdout).contains("0 connected"));
}
