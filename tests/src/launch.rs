//! `launch` and `plan` from outside: ranks that train alike whatever the mesh, that are killed, stopped, started by others,
//! and given what cannot be.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{binary, json, output, swarmloom, text, wait_for};

/// A folder with a text and a training file.
struct Work {
    folder: tempfile::TempDir,
}

const STEPS: u64 = 40;

impl Work {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let line = |index: usize| format!("{index} sheep, then {} sheep; ", index + 1);
        fs::write(folder.path().join("sheep.txt"), (0..400).map(line).collect::<String>()).expect("written");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A training file with these lines of `[mesh]` and others at the end.
    fn file(&self, name: &str, steps: u64, rest: &str) -> PathBuf {
        let path = self.path().join(name);
        let text = format!(
            "name = \"sheep\"\n[model]\npreset = \"pico\"\n[data]\ntext = [\"sheep.txt\"]\n[training]\nsteps = {steps}\n\
             global_batch = 6\nsequence_length = 48\nlearning_rate = 2e-3\nwarmup_steps = 5\n[cluster]\nthreads = 1\n\
             timeout_s = 20\n{rest}"
        );
        fs::write(&path, text).expect("written");
        path
    }

    fn out(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Trains to the end: the JSON document.
    fn launch(&self, file: &Path, out: &str, more: &[&str]) -> Value {
        let (file, out) = (file.display().to_string(), self.out(out));
        let arguments = [&["launch", &file, "--out", &out, "--json", "--quiet"], more].concat();
        json(self.path(), &arguments)
    }

    fn start(&self, file: &Path, out: &str, more: &[&str]) -> Child {
        let mut command = swarmloom(self.path());
        command.args(["launch", &file.display().to_string(), "--out", &self.out(out), "--json"]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
    }

    /// Steps that are written down, once there are some.
    fn steps(&self, out: &str) -> u64 {
        let metrics = fs::read_to_string(self.path().join(out).join("metrics.jsonl")).unwrap_or_default();
        let last = metrics.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        last.and_then(|line| line["step"].as_u64()).unwrap_or(0)
    }
}

fn losses(document: &Value) -> Vec<f64> {
    let losses = document["losses"].as_array().unwrap_or_else(|| panic!("no losses in {document}"));
    losses.iter().map(|loss| loss.as_f64().expect("a number")).collect()
}

fn close(a: &[f64], b: &[f64], share: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= share * b.abs())
}

/// The processes that a process has started and that run.
fn children(parent: u32) -> Vec<u32> {
    let stat = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest = text.rsplit(')').next()?.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        (fields.first() != Some(&"Z")).then(|| fields[1].parse::<u32>().ok()).flatten()
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid) == Some(parent)).collect()
}

fn signal(pid: u32, name: &str) {
    // It may have ended on its own: what is tested shows elsewhere.
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

fn ended(child: Child, within: Duration) -> Output {
    let pid = child.id();
    let (said, output) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || said.send(child.wait_with_output()));
    output
        .recv_timeout(within)
        .unwrap_or_else(|_| {
            signal(pid, "KILL");
            panic!("not ended within {within:?}");
        })
        .expect("an end")
}

const SOON: Duration = Duration::from_secs(90);

#[test]
fn every_mesh_learns_the_same_and_goes_on_from_the_others() {
    let work = Work::new();
    let alone = work.launch(&work.file("alone.toml", STEPS, ""), "alone", &[]);
    let whole = losses(&alone);
    assert_eq!((whole.len() as u64, alone["finished"].as_bool()), (STEPS, Some(true)));
    assert!(whole[39] < 0.6 * whole[0], "{whole:?}");
    for (name, ranks, mesh) in [
        ("data", "2", "[mesh]\ndata = 2\nmicro_batch = 2\n"),
        ("pipeline", "2", "[mesh]\npipeline = 2\nmicro_batch = 2\nschedule = \"zb-h1\"\n"),
        ("tensor", "3", "[mesh]\ntensor = 3\nmicro_batch = 6\n"),
        ("both", "4", "[mesh]\npipeline = 2\ndata = 2\nmicro_batch = 1\nschedule = \"gpipe\"\n"),
    ] {
        let file = work.file(&format!("{name}.toml"), STEPS, mesh);
        let found = work.launch(&file, name, &["--nproc", ranks]);
        assert!(close(&losses(&found), &whole, 2e-4), "{name}: {:?} {whole:?}", losses(&found));
    }
    // Half the way on three ranks, planned; the rest on one.
    let half = work.file("half.toml", STEPS / 2, "");
    let schedule = "schedule = \"constant\"\n[cluster]";
    let constant = |path: &Path| {
        let text = fs::read_to_string(path).expect("text").replace("[cluster]", schedule);
        fs::write(path, text).expect("written");
    };
    constant(&half);
    let first = work.launch(&half, "moved", &["--nproc", "2"]);
    let rest = work.file("rest.toml", STEPS, "");
    constant(&rest);
    let second = work.launch(&rest, "moved", &[]);
    assert_eq!(losses(&second).len() as u64, STEPS / 2);
    let whole = losses(&work.launch(&rest, "constant", &[]));
    assert!(close(&[losses(&first), losses(&second)].concat(), &whole, 2e-4));
    assert!(work.path().join("moved/checkpoints/step-000000000040/state.json").exists());
}

/// Kills ranks at random moments until the training is through, and compares its end with that of an undisturbed one.
fn killed(ranks: &str, mesh: &str, kills: usize, seed: u64) {
    let work = Work::new();
    let steps = 60 + 60 * kills as u64;
    let file = work.file("train.toml", steps, &format!("[checkpoint]\nevery = 20\n{mesh}"));
    let whole = work.launch(&file, "whole", &["--nproc", ranks]);
    let child = work.start(&file, "killed", &["--nproc", ranks, "--restarts", "1000"]);
    let mut random = seed;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut done = 0;
    let began = Instant::now();
    let launcher = child.id();
    while done < kills && work.steps("killed") < steps && began.elapsed() < SOON * (kills as u32 + 1) {
        let before = work.steps("killed");
        let after = before + 1 + draw(50);
        wait_for("steps or an end", SOON, || {
            let at = work.steps("killed");
            (at >= after || at < before || at >= steps || children(launcher).is_empty()).then_some(())
        });
        let running = children(launcher);
        if !running.is_empty() && work.steps("killed") < steps {
            signal(running[draw(running.len() as u64) as usize], "KILL");
            done += 1;
        }
    }
    let output = ended(child, SOON * 2);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let (a, b) = (found["final_loss"].as_f64().expect("a loss"), whole["final_loss"].as_f64().expect("a loss"));
    assert!((a - b).abs() < 5e-3 * b, "{a} {b} after {done} kills: {}", text(&output.stderr));
    assert_eq!(found["steps"], steps);
    // Every step's samples are those of the step, so its loss is, too: none was left out, none came twice.
    let metrics = fs::read_to_string(work.path().join("killed/metrics.jsonl")).expect("metrics");
    let undisturbed = losses(&whole);
    let mut seen = vec![false; steps as usize];
    for line in metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (step, loss) = (line["step"].as_u64().expect("a step") as usize, line["loss"].as_f64().expect("a loss"));
        assert!((loss - undisturbed[step - 1]).abs() < 5e-3 * loss, "step {step}: {loss} {}", undisturbed[step - 1]);
        seen[step - 1] = true;
    }
    assert!(seen.iter().all(|seen| *seen));
    eprintln!("{done} kills of {ranks} ranks: {a} against {b}");
}

/// `SWARMLOOM_KILLS` sets how many; a few otherwise.
fn kills() -> usize {
    std::env::var("SWARMLOOM_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(2)
}

#[test]
fn replicas_go_on_without_ranks_that_are_killed() {
    killed("3", "[mesh]\ndata = 3\nmicro_batch = 1\n", kills(), 1);
}

#[test]
fn a_pipeline_that_loses_a_stage_starts_again() {
    killed("2", "[mesh]\npipeline = 2\nmicro_batch = 2\n", kills(), 2);
}

#[test]
fn a_launch_that_is_stopped_saves_and_goes_on() {
    let work = Work::new();
    let file = work.file("train.toml", 100_000, "[mesh]\ndata = 2\nmicro_batch = 3\n");
    let child = work.start(&file, "out", &["--nproc", "2"]);
    wait_for("steps", SOON, || (work.steps("out") > 3).then_some(()));
    let listed = json(work.path(), &["launch", "ps", "--json"]);
    assert_eq!((&listed["launches"][0]["name"], &listed["launches"][0]["ranks"]), (&"sheep".into(), &2.into()));
    let logs = output(work.path(), &["launch", "logs"]);
    assert!(text(&logs.stdout).contains("step 1/100000"), "{}", text(&logs.stdout));
    let stopped = json(work.path(), &["launch", "stop", "--json"]);
    assert!(stopped["stopped"].is_string(), "{stopped}");
    let output = ended(child, SOON);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let steps = document["steps"].as_u64().expect("steps");
    assert!(document["finished"] == false && steps > 3, "{document}");
    assert!(document["checkpoint"].as_str().expect("a checkpoint").ends_with(&format!("step-{steps:012}")));
    assert!(json(work.path(), &["launch", "ps", "--json"])["launches"].as_array().expect("a list").is_empty());
    let error = self::output(work.path(), &["launch", "stop"]);
    assert!(error.status.code() == Some(2) && text(&error.stderr).contains("nothing is launched"), "{error:?}");
}

#[test]
fn any_program_runs_on_ranks_and_the_first_that_fails_has_the_last_word() {
    let work = Work::new();
    let out = work.out("out");
    let run = |script: &str| {
        output(work.path(), &["launch", "--nproc", "3", "--out", &out, "--restarts", "0", "--", "sh", "-c", script])
    };
    let fine = run("echo $RANK of $WORLD_SIZE at $MASTER_ADDR, $LOCAL_RANK of $LOCAL_WORLD_SIZE");
    assert!(fine.status.success(), "{}", text(&fine.stderr));
    let log = fs::read_to_string(work.path().join("out/ranks/rank-2.log")).expect("a log");
    assert_eq!(log.trim(), "2 of 3 at 127.0.0.1, 2 of 3");
    assert!(text(&fine.stderr).contains("[1] 1 of 3"), "{}", text(&fine.stderr));
    let began = Instant::now();
    let failed = run("if [ $RANK = 1 ]; then echo no such file as x >&2; exit 3; fi; exec sleep 600");
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1));
    assert!(said.contains("rank 1 ended with exit status: 3; its last words:\nno such file as x"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30), "the others were left running");
    let absent = output(work.path(), &["launch", "--nproc", "2", "--", "no-such-program-at-all"]);
    assert!(text(&absent.stderr).contains("rank 0 could not be started"), "{absent:?}");
}

/// Ranks started by hand, each with its own file and variables.
fn by_hand(work: &Work, ranks: &[(&Path, &str)], port: u16) -> Vec<Output> {
    let start = |(rank, (file, token)): (usize, &(&Path, &str))| {
        let mut command = swarmloom(work.path());
        command.args(["launch", &file.display().to_string(), "--out", &work.out(&format!("hand-{rank}"))]);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", ranks.len().to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).env("SWARMLOOM_TOKEN", token);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
    };
    let children: Vec<Child> = ranks.iter().enumerate().map(start).collect();
    children.into_iter().map(|child| ended(child, SOON)).collect()
}

fn port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|one| one.local_addr()).expect("a port").port()
}

#[test]
fn what_cannot_be_is_said_on_every_rank_within_seconds() {
    let work = Work::new();
    let began = Instant::now();
    let refuse = |output: &Output, code: i32, message: &str| {
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(message), "{code} {message:?}: {output:?}");
    };
    // A mesh of three on two ranks.
    let file = work.file("mesh.toml", 10, "[mesh]\npipeline = 3\n");
    let found = output(work.path(), &["launch", &file.display().to_string(), "--nproc", "2", "--out", &work.out("a")]);
    refuse(&found, 2, "3 stages x 1 replicas x 1 sharers of each layer are not the 2 ranks");
    // Other files on two ranks.
    let (one, other) = (work.file("one.toml", 10, ""), work.file("other.toml", 11, ""));
    for found in by_hand(&work, &[(&one, "t"), (&other, "t")], port()) {
        refuse(&found, 1, "read other training files");
    }
    // Another token, a rank that does not come, and an address that nobody has.
    let late = work.file("late.toml", 10, "");
    let text_of = fs::read_to_string(&late).expect("text").replace("timeout_s = 20", "timeout_s = 3");
    fs::write(&late, text_of).expect("written");
    let found = by_hand(&work, &[(&late, "a"), (&late, "b")], port());
    refuse(&found[0], 1, "[1] of 2 ranks have not come within 3 s");
    assert!(!found[1].status.success(), "{:?}", found[1]);
    let mut command = swarmloom(work.path());
    command.args(["launch", &late.display().to_string()]).env("RANK", "1").env("WORLD_SIZE", "2");
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port().to_string());
    refuse(&command.output().expect("the binary starts"), 1, "rank 0 cannot be reached at 127.0.0.1");
    // Data that are not there, or too few; a full disk.
    let file = work.file("data.toml", 10, "");
    let text_of = fs::read_to_string(&file).expect("text");
    fs::write(&file, text_of.replace("sheep.txt", "wolves.txt")).expect("written");
    let found = output(work.path(), &["launch", &file.display().to_string(), "--nproc", "2", "--out", &work.out("b")]);
    refuse(&found, 2, "wolves.txt: No such file or directory");
    fs::write(&file, text_of.replace("sequence_length = 48", "sequence_length = 100000")).expect("written");
    let found = output(work.path(), &["launch", &file.display().to_string(), "--out", &work.out("c")]);
    refuse(&found, 2, "tokens are less than one sequence of 100000");
    let found = output(work.path(), &["launch", &one.display().to_string(), "--out", "/dev/full/x"]);
    assert!(!found.status.success() && text(&found.stderr).contains("/dev/full"), "{found:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn a_plan_is_shown_drawn_and_followed() {
    let work = Work::new();
    let file = work.file("train.toml", 5, "");
    let out = work.out("plan");
    let file_name = file.display().to_string();
    let plan = json(work.path(), &["plan", &file_name, "--nproc", "2", "--out", &out, "--json"]);
    let size = |axis: &str| plan["mesh"][axis].as_u64().expect("a size");
    assert_eq!(size("pipeline") * size("data") * size("tensor"), 2);
    assert!(plan["predicted_step_s"].as_f64().expect("seconds") > 0.0, "{plan}");
    assert!(!plan["runners_up"].as_array().expect("others").is_empty());
    for drawing in plan["drawings"].as_array().expect("drawings") {
        let svg = fs::read_to_string(drawing.as_str().expect("a path")).expect("a drawing");
        assert!(svg.starts_with("<svg"));
    }
    // Two clusters that a file describes: the pipeline leads across, and replicas stay inside.
    let topology = work.path().join("clusters.toml");
    let cluster = |name: &str, class: &str| {
        format!(
            "[[cluster]]\nname = \"{name}\"\nhosts = 2\nranks_per_host = 1\nmemory_gib = 8\n\
             inside_host = {{ class = \"shm\", gbit_s = 100, latency_us = 1 }}\n\
             between_hosts = {{ class = \"{class}\", gbit_s = 100, latency_us = 5 }}\n"
        )
    };
    let between = "[between_all]\nclass = \"ethernet\"\ngbit_s = 0.01\nlatency_us = 5000\nshared = true\n";
    let text_of = [cluster("a", "infiniband"), cluster("b", "roce"), between.to_owned()].concat();
    fs::write(&topology, &text_of).expect("written");
    let topology_name = topology.display().to_string();
    let plan = json(work.path(), &["plan", &file_name, "--topology", &topology_name, "--out", &out, "--json"]);
    for group in plan["groups"]["data"].as_array().expect("groups") {
        let ranks: Vec<u64> = group["ranks"].as_array().expect("ranks").iter().filter_map(Value::as_u64).collect();
        assert!(ranks.iter().all(|rank| rank / 2 == ranks[0] / 2), "{group}");
    }
    fs::write(&topology, text_of.replace("gbit_s = 0.01", "gbits = 0.01")).expect("written");
    let wrong = output(work.path(), &["plan", &file_name, "--topology", &topology_name, "--out", &out]);
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("gbits"), "{wrong:?}");
}

#[test]
fn scripts_and_manifests_are_printed_for_schedulers() {
    let work = Work::new();
    let file = work.file("train.toml", 5, "").display().to_string();
    let emit = |more: &[&str]| output(work.path(), &[&["launch", &file, "--emit"], more].concat());
    let script =
        emit(&["slurm", "--nodes", "2", "--nproc", "4", "--cpus", "3", "--minutes", "90", "--partition", "fast"]);
    let script = text(&script.stdout);
    for line in ["#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --cpus-per-task=3", "--partition=fast"] {
        assert!(script.contains(line), "{line}: {script}");
    }
    assert!(script.starts_with("#!/bin/bash\n") && script.contains(&format!("launch {file}")), "{script}");
    let manifest = emit(&["k8s", "--nodes", "3", "--image", "example.org/swarmloom:1", "--gpus", "1"]);
    let manifest = text(&manifest.stdout);
    for line in
        ["completionMode: Indexed", "completions: 3", "image: \"example.org/swarmloom:1\"", "kubectl create secret"]
    {
        assert!(manifest.contains(line) || manifest.contains(&line.replace('"', "")), "{line}: {manifest}");
    }
    let wrong = emit(&["k8s", "--nodes", "3"]);
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("image"), "{wrong:?}");
}

#[test]
fn ranks_of_torchrun_train() {
    let Some(torchrun) = python().map(|python| python.with_file_name("torchrun")).filter(|path| path.exists()) else {
        return eprintln!("skipped: no torchrun, which `cargo xtask bench launch` installs");
    };
    let work = Work::new();
    let file = work.file("train.toml", 10, "[mesh]\ndata = 2\nmicro_batch = 3\n");
    let mut command = Command::new(torchrun);
    command.args(["--nproc-per-node", "2", "--no-python"]).arg(binary());
    command.args(["launch", &file.display().to_string(), "--out", &work.out("out"), "--json"]);
    let output = command.env("HOME", work.path()).stdin(Stdio::null()).output().expect("torchrun starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document, of rank 0");
    assert_eq!((&document["ranks"], &document["steps"]), (&2.into(), &10.into()));
}

/// The Python of the programs to compare with.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(cache.join("swarmloom/peers/flwr-1.41.0/bin/python")).filter(|path| path.exists())
}
