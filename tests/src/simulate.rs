//! `simulate` from outside: the example, what it leaves, and that a stopped run goes on.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{json, output, swarmloom, text, wait_for};

/// A short simulation on the digits.
const FILE: &str = r#"
name = "short"
rounds = 60
seeds = 2
[data]
source = { kind = "digits" }
partition = { kind = "sorted", shards = 1 }
samples_per_client = 20
[model]
kind = "mlp"
hidden = [32]
[local]
epochs = 5
learning_rate = 0.3
[population]
clients = 30
slow = { classes = [5], count = 3, staleness = 10 }
[server]
kind = "semi_asynchronous"
per_round = 10
[inversion]
samples = 8
iterations = 20
[[strategy]]
name = "fresh"
rule = "fedavg"
fresh = true
[[strategy]]
rule = "inversion"
[[strategy]]
rule = "weighted"
half_life = 3.0
"#;

#[test]
fn strategies_are_compared_and_the_results_do_not_depend_on_threads() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("short.toml");
    fs::write(&file, FILE).expect("written");
    let run = |threads: &str, out: &str| -> Value {
        let out = home.path().join(out).display().to_string();
        json(home.path(), &["--json", "simulate", &file.display().to_string(), "--threads", threads, "--out", &out])
    };
    let (one, three) = (run("1", "one"), run("3", "three"));
    let results = |document: &Value| -> Vec<(String, Vec<[f64; 4]>)> {
        let strategies = document["strategies"].as_array().expect("strategies");
        strategies
            .iter()
            .map(|strategy| {
                let number = |value: &Value| value.as_f64().expect("a number");
                let seeds = strategy["seeds"].as_array().expect("seeds").iter().map(|seed| {
                    let affected = &seed["affected_class"];
                    [
                        number(&seed["final_accuracy"]),
                        number(&seed["run_averaged_accuracy"]),
                        number(&affected["final"]),
                        number(&affected["run_averaged"]),
                    ]
                });
                (strategy["name"].as_str().expect("a name").to_owned(), seeds.collect())
            })
            .collect()
    };
    assert_eq!(results(&one), results(&three));
    let affected = |name: &str| -> f64 {
        let all = results(&one);
        let seeds = &all.iter().find(|one| one.0 == name).expect("the strategy").1;
        seeds.iter().map(|seed| seed[3]).sum::<f64>() / seeds.len() as f64
    };
    // What the simulation is there to show.
    assert!(affected("fresh") > affected("inversion") && affected("inversion") > affected("weighted") + 0.05);
    assert!(one["updates_per_s"].as_f64().expect("a rate") > 0.0);
    let page = fs::read_to_string(home.path().join("one/report.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("Staleness") && page.contains("What inversions cost"));
    let csv = fs::read_to_string(home.path().join("one/results.csv")).expect("a table");
    // Untrained, and every fifth version of sixty, for three strategies with two seeds.
    assert_eq!(csv.lines().count(), 1 + 13 * 6);
    assert_eq!(csv, fs::read_to_string(home.path().join("three/results.csv")).expect("a table"));
    assert!(!home.path().join("one/state").exists(), "states of a finished simulation stay");
}

/// Eight rounds of a model on libtorch.
fn small(model: &str, data: &str) -> String {
    format!(
        r#"
rounds = 8
data = {data}
model = {model}
evaluation.every = 4
[local]
epochs = 2
batch_size = 16
learning_rate = 0.05
[population]
clients = 6
[server]
kind = "synchronous"
per_round = 3
[[strategy]]
rule = "fedavg"
[[strategy]]
rule = "scaffold"
"#
    )
}

#[test]
fn models_on_libtorch_do_not_depend_on_threads_either() {
    let home = tempfile::tempdir().expect("a folder");
    let role = |name: &str, line: &str| format!("{name}.\n{line}\n\n").repeat(12);
    let play = format!(
        "{}{}",
        role("HAMLET", "to be or not to be to be or not"),
        role("GHOST", "mark me mark me list oh list")
    );
    let text = home.path().join("play.txt");
    fs::write(&text, format!("\n{play}")).expect("written");
    let text = format!("{{ source = {{ kind = \"text\", path = {text:?}, window = 8, stride = 2 }} }}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../trainer/testdata/mlp.pt");
    let script = format!("{{ kind = \"torchscript\", path = {script:?} }}");
    let digits = "{ source = { kind = \"digits\" }, samples_per_client = 32, test_samples = 100 }";
    for (model, data, says) in [
        ("{ kind = \"resnet8\" }", digits, "resnet8, 77754 parameters"),
        ("{ kind = \"transformer\", dim = 16, layers = 1, heads = 2 }", text.as_str(), "transformer, "),
        (script.as_str(), digits, "torchscript mlp, 610 parameters"),
    ] {
        let file = home.path().join("small.toml").display().to_string();
        fs::write(&file, small(model, data)).expect("written");
        let run = |threads: &str| {
            let out = home.path().join(threads);
            let document = json(
                home.path(),
                &["--json", "simulate", &file, "--threads", threads, "--out", &out.display().to_string()],
            );
            let found = document["model"].as_str().expect("a model").to_owned();
            assert!(found.starts_with(says), "{found}");
            fs::read_to_string(out.join("results.csv")).expect("a table")
        };
        let one = run("1");
        assert_eq!(one, run("2"), "{model}");
        // Untrained, and the fourth and the eighth version, for two strategies; what is learned differs.
        let rows: Vec<&str> = one.lines().collect();
        assert!(rows.len() == 7 && rows[3] != rows[6] && !one.contains("NaN"), "{one}");
    }
}

#[test]
fn a_killed_simulation_goes_on_and_ends_with_the_same_table() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("long.toml");
    fs::write(&file, FILE.replace("rounds = 60", "rounds = 900")).expect("written");
    let (file, out) = (file.display().to_string(), home.path().join("out"));
    let whole = home.path().join("whole").display().to_string();
    json(home.path(), &["--json", "simulate", &file, "--out", &whole]);
    let mut child = swarmloom(home.path());
    child.args(["simulate", &file, "--out", &out.display().to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().expect("started");
    // A state is there once one of the runs has ended.
    let state = out.join("state/0");
    let ended = |child: &mut Child| child.try_wait().expect("the process").is_some();
    wait_for("a saved state", Duration::from_secs(120), || {
        (ended(&mut child) || fs::read_dir(&state).is_ok_and(|states| states.count() > 0)).then_some(())
    });
    child.kill().expect("killed");
    child.wait().expect("ended");
    json(home.path(), &["--json", "simulate", &file, "--out", &out.display().to_string()]);
    let table = |folder: &std::path::Path| fs::read_to_string(folder.join("results.csv")).expect("a table");
    assert_eq!(table(&out), table(&home.path().join("whole")));
}

#[test]
fn a_wrong_file_is_refused_where_it_is_wrong_and_leaves_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("wrong.toml");
    let path = file.display().to_string();
    let cases = [
        ("per_round = 10", "per_round = 99", "server"),
        ("hidden = [32]", "hidden = [99999]", "model.hidden"),
        ("clients = 30", "clients = 0", "clients"),
        ("kind = \"digits\"", "kind = \"idx\", dir = \"/nowhere\"", "/nowhere"),
        ("kind = \"mlp\"\nhidden = [32]", "kind = \"lenet5\"", "9:1: model: images are 8 by 8"),
        (
            "kind = \"mlp\"\nhidden = [32]",
            "kind = \"torchscript\"\npath = \"/nowhere.pt\"",
            "11:8: model.path: /nowhere.pt: No such file",
        ),
        ("kind = \"mlp\"\nhidden = [32]", "kind = \"transformer\"", "10:8: model.kind: it takes text"),
        (
            "source = { kind = \"digits\" }",
            "source = { kind = \"text\", path = \"x\" }",
            "\"inversion\": data of kind \"text\" are not inverted",
        ),
    ];
    for (from, to, says) in cases {
        fs::write(&file, FILE.replace(from, to)).expect("written");
        let output = output(home.path(), &["simulate", &path, "--out", &home.path().join("out").display().to_string()]);
        assert_eq!(output.status.code(), Some(2), "{to}");
        assert!(text(&output.stderr).contains(says), "{to}: {}", text(&output.stderr));
        assert!(!home.path().join("out/results.json").exists() && !home.path().join("out/report.html").exists());
    }
    fs::write(&file, FILE).expect("written");
    assert!(output(home.path(), &["config", "check", &path]).status.success());
}

/// Both ranks of a simulation; killed when dropped.
struct Pair {
    ranks: [Child; 2],
    /// What each says goes to files here: a pipe that nobody reads would be full before they end.
    said: tempfile::TempDir,
}

impl Pair {
    /// Starts them as torchrun would, each with a folder of its own: `NAME-0` and `NAME-1`.
    fn start(home: &Path, file: &str, name: &str) -> Self {
        let said = tempfile::tempdir().expect("a folder");
        // Another process may take the port in between: then rank 0 says so, and the test fails loudly.
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port");
        let ranks = [0, 1].map(|rank| {
            let out = home.join(format!("{name}-{rank}")).display().to_string();
            let threads = (rank + 1).to_string();
            let to = |what: &str| fs::File::create(said.path().join(format!("{rank}.{what}"))).expect("a file");
            swarmloom(home)
                .args(["--json", "simulate", file, "--out", &out, "--threads", &threads, "--wait", "60"])
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", "2")
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", port.port().to_string())
                .stdout(to("out"))
                .stderr(to("err"))
                .spawn()
                .expect("a rank starts")
        });
        Self { ranks, said }
    }

    fn end(&mut self, rank: usize, within: Duration) -> (ExitStatus, String, String) {
        let child = &mut self.ranks[rank];
        let status = wait_for("the end of a rank", within, || child.try_wait().expect("a state"));
        let said = |what: &str| read(self.said.path(), &format!("{rank}.{what}"));
        (status, said("out"), said("err"))
    }

    /// Both have to end well, and the second has to leave and say nothing; what the first says.
    fn ended_well(mut self, home: &Path, name: &str) -> Value {
        let [first, second] = [0, 1].map(|rank| self.end(rank, Duration::from_secs(300)));
        assert!(first.0.success() && second.0.success(), "{first:?} {second:?}");
        assert_eq!(second.1, "");
        assert!(!home.join(format!("{name}-1")).exists(), "rank 1 has left files");
        serde_json::from_str(&first.1).expect("one document")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in &mut self.ranks {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A document without what is measured, and without where it is.
fn computed(document: &Value) -> Value {
    const MEASURED: [&str; 5] = ["seconds", "seconds_each", "updates_per_s", "threads", "report"];
    match document {
        Value::Object(of) if of.contains_key("version") => document.clone(),
        Value::Object(of) => of
            .iter()
            .filter(|(key, _)| !MEASURED.contains(&key.as_str()))
            .map(|(key, of)| (key.clone(), computed(of)))
            .collect(),
        Value::Array(of) => of.iter().map(computed).collect(),
        other => other.clone(),
    }
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).expect("a file of the simulation")
}

#[test]
fn two_ranks_leave_what_one_process_leaves() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let file = home.join("short.toml");
    fs::write(&file, format!("{FILE}[sweep]\n\"local.learning_rate\" = [0.2, 0.3]\n")).expect("written");
    let (file, out) = (file.display().to_string(), home.join("one"));
    let one = json(home, &["--json", "simulate", &file, "--threads", "1", "--out", &out.display().to_string()]);
    let two = Pair::start(home, &file, "two").ended_well(home, "two");
    assert_eq!(two["threads"], 3);
    assert_eq!(computed(&one), computed(&two));
    let (one, two) = (out, home.join("two-0"));
    assert_eq!(read(&one, "results.csv"), read(&two, "results.csv"));
    let written = |folder: &Path| computed(&serde_json::from_str(&read(folder, "results.json")).expect("JSON"));
    assert_eq!(written(&one), written(&two));
    let plots = |folder: &Path| -> Vec<String> {
        let page = read(folder, "report.html");
        page.split("<svg").skip(1).map(|plot| plot.split("</svg>").next().unwrap_or_default().to_owned()).collect()
    };
    assert!(plots(&one).len() > 4 && plots(&one) == plots(&two));
}

#[test]
fn when_a_rank_is_killed_the_other_says_so_and_both_go_on_from_rank_0s_state() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let file = home.join("long.toml");
    fs::write(&file, FILE.replace("rounds = 60", "rounds = 600")).expect("written");
    let file = file.display().to_string();
    let out = home.join("whole");
    json(home, &["--json", "simulate", &file, "--out", &out.display().to_string()]);
    for killed in [1, 0] {
        let mut pair = Pair::start(home, &file, "pair");
        let state = home.join("pair-0/state/0");
        let states = || fs::read_dir(&state).map_or(0, Iterator::count);
        let before = states();
        wait_for("another saved state", Duration::from_secs(120), || {
            let ended = pair.ranks.iter_mut().any(|child| child.try_wait().expect("a state").is_some());
            assert!(!ended, "a rank ended: {:?}", pair.end(0, Duration::from_secs(9)));
            (states() > before).then_some(())
        });
        pair.ranks[killed].kill().expect("killed");
        let began = Instant::now();
        let (status, _, error) = pair.end(1 - killed, Duration::from_secs(30));
        assert_eq!(status.code(), Some(1), "{error}");
        assert!(error.contains("ranks cannot go on") && error.contains(&format!("rank {killed} is gone")), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    assert!(fs::read_dir(home.join("pair-0/state/0")).expect("states").count() >= 2);
    Pair::start(home, &file, "pair").ended_well(home, "pair");
    assert_eq!(read(&out, "results.csv"), read(&home.join("pair-0"), "results.csv"));
}

#[test]
fn a_rank_that_finds_nobody_or_differs_says_so_in_time() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let file = home.join("short.toml");
    fs::write(&file, FILE).expect("written");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port");
    let start = |rank: &str, file: &str, wait: &str, address: &str| {
        let out = home.join("out").display().to_string();
        let mut command = swarmloom(home);
        command.args(["simulate", file, "--out", &out, "--wait", wait]);
        command.env("RANK", rank).env("WORLD_SIZE", "2").env("MASTER_ADDR", address);
        command.env("MASTER_PORT", port.port().to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let file = file.display().to_string();
    for (rank, says) in
        [("0", "[1] of 2 ranks have not come within 1 s"), ("1", "rank 0 cannot be reached at 127.0.0.1")]
    {
        let began = Instant::now();
        let ended = start(rank, &file, "1", "127.0.0.1").wait_with_output().expect("an end");
        assert_eq!(ended.status.code(), Some(1));
        assert!(text(&ended.stderr).contains(says), "{}", text(&ended.stderr));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    for (file, address, says) in
        [("-", "127.0.0.1", "give a path"), (file.as_str(), "192.0.2.1", "set SWARMLOOM_TOKEN")]
    {
        let ended = start("0", file, "1", address).wait_with_output().expect("an end");
        assert_eq!(ended.status.code(), Some(2));
        assert!(text(&ended.stderr).contains(says), "{}", text(&ended.stderr));
    }
    assert!(!home.join("out").exists(), "who does not begin leaves nothing");
    let other = home.join("other.toml");
    fs::write(&other, FILE.replace("learning_rate = 0.3", "learning_rate = 0.2")).expect("written");
    let both = [start("0", &file, "60", "127.0.0.1"), start("1", &other.display().to_string(), "60", "127.0.0.1")];
    for rank in both {
        let ended = rank.wait_with_output().expect("an end");
        assert_eq!(ended.status.code(), Some(1));
        assert!(
            text(&ended.stderr).contains("rank 1 and rank 0 differ in what is simulated"),
            "{}",
            text(&ended.stderr)
        );
    }
}

#[test]
fn clients_are_what_traces_say() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (devices, times, file) = (home.join("devices.csv"), home.join("times.csv"), home.join("traced.toml"));
    // All alike: a round takes 20 samples, 5 epochs, 10 ms each, and 50 ms of latency each way, beside the bytes.
    fs::write(&devices, "seconds_per_sample,down_bytes_per_s,up_bits_per_s,latency_s\n0.01,1e6,8e6,0.05\n")
        .expect("written");
    fs::write(&times, "device,from_seconds,to_seconds\nx,0,50\n").expect("written");
    let trace = format!(
        "trace = {{ devices = '{}', availability = '{}', period_s = 100 }}",
        devices.display(),
        times.display()
    );
    let server = FILE
        .replace("slow = { classes = [5], count = 3, staleness = 10 }", &trace)
        .replace("semi_asynchronous", "synchronous");
    fs::write(&file, server.replace("rounds = 60", "rounds = 20").replace("seeds = 2", "seeds = 1")).expect("written");
    let (path, out) = (file.display().to_string(), home.join("out"));
    let arguments = ["simulate", &path, "--out", &out.display().to_string()];
    assert!(output(home, &arguments).status.success(), "{}", text(&output(home, &arguments).stderr));
    let table = read(&out, "results.csv");
    let seconds: Vec<f64> = table
        .lines()
        .filter(|line| line.contains(",fresh,"))
        .map(|line| line.split(',').nth(4).and_then(|field| field.parse().ok()).expect("seconds"))
        .collect();
    // 64 inputs, 32 hidden units, 10 classes: 2410 parameters of 4 bytes, at a million bytes a second both ways.
    let round = 0.1 + 1.0 + 2.0 * 4.0 * 2410.0 / 1e6;
    for (seconds, round) in seconds.iter().zip([0.0, 5.0, 10.0, 15.0, 20.0].map(|rounds| rounds * round)) {
        assert!((seconds - round).abs() < 1e-6, "{seconds} {round}");
    }
    assert_eq!(seconds.len(), 5);
    // A broken line is found, also without running.
    fs::write(&times, "device,from_seconds,to_seconds\nx,0,50\nx,60,101\n").expect("written");
    for arguments in [&["config", "check", path.as_str()][..], &arguments] {
        let refused = output(home, arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        let says = format!("{}:3:1: `to_seconds`: \"101\" is not a number from 60 to 100", times.display());
        assert!(text(&refused.stderr).contains(&says), "{}", text(&refused.stderr));
    }
}
