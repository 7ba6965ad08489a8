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
