//! One daemon: it starts in any weather, says how it is, keeps what is its own, and ends when told.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Daemon, RunFile, json, output, swarmloom, text, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_peer_trains_alone_with_a_dead_bootstrap_and_says_which_address_failed() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    // A port that was just free and on which nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let dead = format!("/ip4/127.0.0.1/tcp/{free}");
    RunFile::small(11).write(&run, std::slice::from_ref(&dead));
    let mut daemon = Daemon::start(home.path(), "peer", &run, &[]);
    let status = daemon.wait_status("training and a named failure", SOON, |status| {
        status["step"].as_u64() >= Some(3)
            && status["problems"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["what"].as_str().is_some_and(|what| what.contains(&dead))))
    });
    assert_eq!(status["state"], "training");
    assert!(!daemon.events("dial_failed").is_empty());
    let began = Instant::now();
    daemon.signal("INT");
    assert!(daemon.wait(Duration::from_secs(10)).success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(daemon.events("stopped").len(), 1);
}

#[test]
fn the_second_interrupt_ends_at_once() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    // A step that takes long: large groups.
    RunFile { training: "group_size = 16".into(), sharing: "local = 200".into(), ..RunFile::small(12) }
        .write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--alone", "--model", "micro"]);
    daemon.wait_status("training", SOON, |status| status["state"] == "training");
    daemon.signal("INT");
    let log = || daemon.log().contains("again ends at once").then_some(());
    wait_for("the first word", Duration::from_secs(5), log);
    let began = Instant::now();
    daemon.signal("INT");
    let ended = daemon.wait(Duration::from_secs(5));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // 130 is what a shell calls an end by Ctrl-C; it may also have ended cleanly just before.
    assert!(ended.code() == Some(130) || ended.success(), "{ended}");
}

#[test]
fn two_processes_on_one_folder_or_one_identity_are_told_so() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(13).write(&run, &[]);
    let mut first = Daemon::start(home.path(), "first", &run, &[]);
    first.wait_status("an answer", SOON, |_| true);
    let run = run.display().to_string();
    let join = |arguments: &[&str]| {
        let output = output(home.path(), &[&["join", &run], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let folder = first.folder.display().to_string();
    let error = join(&["--data-dir", &folder]);
    assert!(error.contains("already uses the data folder") && error.contains("--data-dir"), "{error}");
    let key = first.folder.join("identity.key").display().to_string();
    let second = home.path().join("second").display().to_string();
    let error = join(&["--data-dir", &second, "--identity", &key]);
    assert!(error.contains("already uses the identity"), "{error}");
}

#[test]
fn pause_status_and_resume_reach_the_daemon() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(14).write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--alone"]);
    daemon.wait_status("steps", SOON, |status| status["step"].as_u64() >= Some(1));
    let folder = daemon.folder.display().to_string();
    assert_eq!(json(home.path(), &["pause", "--json", "--data-dir", &folder])["paused"], true);
    let paused = daemon.wait_status("a pause", SOON, |status| status["state"] == "paused");
    assert!(paused["waiting"]["what"].as_str().expect("what it waits for").contains("resume"));
    assert!(paused["waiting"]["since_ms"].as_u64() > Some(1_600_000_000_000));
    assert_eq!(json(home.path(), &["resume", "--json", "--data-dir", &folder])["paused"], false);
    let step = paused["step"].as_u64().expect("a step");
    daemon.wait_status("further steps", SOON, |status| status["step"].as_u64() > Some(step));
}

#[test]
fn metrics_health_and_status_are_served() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(15).write(&run, &[]);
    let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--web", &address]);
    daemon.wait_status("steps", SOON, |status| status["step"].as_u64() >= Some(2));
    let metrics = get(&address, "/metrics");
    let steps = metrics.lines().find_map(|line| line.strip_prefix("swarmloom_steps_total ")).expect("a counter");
    assert!(steps.parse::<u64>().expect("a number") >= 2);
    assert!(metrics.contains("swarmloom_reward_held_out{task=\"spell\"}"), "{metrics}");
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/status").contains("\"policy_version\""));
}

#[test]
fn a_trained_model_is_exported_as_a_folder_of_its_own() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(16).write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--alone", "--stop-after", "5"]);
    assert!(daemon.wait(SOON).success(), "{}", daemon.log());
    let (folder, to) = (daemon.folder.display().to_string(), home.path().join("model"));
    let to_text = to.display().to_string();
    let written = json(home.path(), &["export", &to_text, "--data-dir", &folder, "--json"]);
    assert_eq!((written["path"].as_str(), written["version"].as_u64()), (Some(to_text.as_str()), Some(5)));
    assert!(to.join("config.json").exists() && to.join("model.safetensors").exists());
    let again = output(home.path(), &["export", &to_text, "--data-dir", &folder]);
    assert!(!again.status.success() && text(&again.stderr).contains("exists"));
}

#[test]
fn a_policy_of_another_model_is_not_overwritten() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(17).write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--alone", "--stop-after", "1"]);
    assert!(daemon.wait(SOON).success(), "{}", daemon.log());
    let mut other = swarmloom(home.path());
    other.arg("join").arg(&run).arg("--data-dir").arg(&daemon.folder).args(["--alone", "--model", "nano"]);
    let refused = other.output().expect("it starts");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("model pico"), "{}", text(&refused.stderr));
}

#[test]
fn a_torn_checkpoint_is_passed_over_and_named() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    RunFile::small(18).write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--alone", "--stop-after", "20"]);
    assert!(daemon.wait(SOON).success(), "{}", daemon.log());
    let newest = crate::process::newest_checkpoint(&daemon.folder);
    let model = newest.join("model.safetensors");
    let bytes = fs::read(&model).expect("the weights");
    fs::write(&model, &bytes[..bytes.len() / 2]).expect("damage");
    daemon.restart();
    assert!(daemon.wait(SOON).success(), "{}", daemon.log());
    assert_eq!(daemon.events("checkpoint_damaged").len(), 1);
    assert_eq!(daemon.events("resumed")[0]["step"], 10);
    assert_eq!(daemon.events("finished")[1]["step"], 20);
}

#[test]
fn memory_beyond_the_limit_halves_the_batch_and_training_goes_on() {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("run.toml");
    let training = "group_size = 16\nmicro_batch_tokens = 4000000\nfilter_zero_advantage = false";
    RunFile {
        training: training.into(),
        sharing: "local = 400".into(),
        limits: "memory_mib = 400".into(),
        ..RunFile::small(19)
    }
    .write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &["--alone", "--model", "micro", "--stop-after", "2"]);
    assert!(daemon.wait(Duration::from_secs(180)).success(), "{}", daemon.log());
    let steps = daemon.events("step");
    let used = steps[1]["report"]["micro_batch_tokens"].as_u64().expect("a number");
    assert!(used < 4_000_000, "{used}");
    let ran_out: u64 = steps.iter().map(|step| step["report"]["out_of_memory"].as_u64().expect("a number")).sum();
    assert!(ran_out >= 1, "the batch was made smaller, but memory never ran out");
    assert_eq!(steps[1]["version"], 2);
}

#[test]
fn a_full_data_folder_stops_training_and_taking_in_until_there_is_room() {
    let home = tempfile::tempdir().expect("a folder");
    let (run, others) = (home.path().join("run.toml"), home.path().join("other.toml"));
    RunFile { limits: "disk_mib = 64".into(), ..RunFile::small(23) }.write(&run, &[]);
    let mut daemon = Daemon::start(home.path(), "peer", &run, &[]);
    RunFile::small(23).write(&others, &daemon.addresses());
    let mut other = Daemon::start(home.path(), "other", &others, &[]);
    let stored = |daemon: &Daemon| daemon.events("group_stored").len();
    wait_for("groups of the other", SOON, || (stored(&daemon) > 0).then_some(()));
    let ballast = home.path().join("peer/ballast");
    fs::write(&ballast, vec![0; 65 << 20]).expect("a file");
    let names = |of: &Value| of.as_str().is_some_and(|text| text.contains("limits.disk_mib"));
    let full = daemon.wait_status("waiting for room", SOON, |status| {
        let problems = status["problems"].as_array();
        status["state"] == "paused"
            && names(&status["waiting"]["what"])
            && problems.is_some_and(|problems| problems.iter().any(|one| names(&one["what"])))
    });
    let step = |status: &Value| status["step"].as_u64().expect("a number");
    // What was under way still ends, and the other goes on meanwhile.
    let theirs = other.events("step").len();
    wait_for("steps of the other", SOON, || (other.events("step").len() > theirs + 20).then_some(()));
    let (taken, theirs) = (stored(&daemon), other.events("step").len());
    wait_for("steps of the other", SOON, || (other.events("step").len() > theirs + 20).then_some(()));
    assert_eq!(stored(&daemon), taken, "it took groups in without room");
    assert_eq!(daemon.status().map(|status| step(&status)), Some(step(&full)), "it made steps without room");
    fs::remove_file(&ballast).expect("remove");
    let after = daemon
        .wait_status("training again", SOON, |status| status["state"] == "training" && step(status) > step(&full));
    assert_eq!(after["problems"].as_array().map(Vec::len), Some(0), "{after}");
    wait_for("groups of the other again", SOON, || (stored(&daemon) > taken).then_some(()));
    other.kill();
}
