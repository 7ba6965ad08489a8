//! `task sample` and `task score` against vectors recorded from reasoning-gym 0.1.25.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::process::{output, piped, text};

/// Recorded vectors, one JSON object per line.
fn recorded(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tasks/testdata").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn samples_equal_the_recorded_ones() {
    let home = tempfile::tempdir().expect("a folder");
    let mut tasks: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for item in recorded("reasoning_gym_samples.jsonl") {
        tasks.entry(item["task"].as_str().expect("a task").to_owned()).or_default().push(item);
    }
    assert_eq!(tasks.len(), 9);
    for (task, items) in tasks {
        let sampled = output(home.path(), &["task", "sample", &task, "--seed", "42", "--index", "0", "--count", "10"]);
        let sampled = lines(&sampled.stdout);
        assert_eq!(sampled.len(), 10);
        for (item, ours) in items.iter().zip(&sampled) {
            for key in ["task", "seed", "idx", "question", "answer", "metadata"] {
                assert_eq!(ours[key], item[key], "{task} {key}");
            }
        }
    }
}

#[test]
fn scores_equal_the_recorded_ones() {
    let home = tempfile::tempdir().expect("a folder");
    let cases = recorded("reasoning_gym_scoring.jsonl");
    let input: String = cases
        .iter()
        .map(|case| {
            json!({ "task": case["task"], "seed": 42, "idx": case["idx"], "answer": case["answer"] }).to_string() + "\n"
        })
        .collect();
    let scored = piped(home.path(), &["task", "score"], &input);
    assert!(scored.status.success(), "{}", text(&scored.stderr));
    let scored = lines(&scored.stdout);
    assert_eq!(scored.len(), cases.len());
    for (case, ours) in cases.iter().zip(&scored) {
        assert_eq!((&ours["task"], &ours["idx"]), (&case["task"], &case["idx"]));
        let (ours, theirs) = (ours["score"].as_f64().expect("a score"), case["score"].as_f64().expect("a score"));
        assert!((ours - theirs).abs() < 1e-12, "{case}: {ours}");
    }
}
