//! `simulate` from outside: the example, what it leaves, and that a stopped run goes on.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

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
