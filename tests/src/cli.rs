//! The command line as scripts rely on it: exit codes, JSON, located errors, examples.

use std::fs;

use serde_json::Value;

use crate::process::{RunFile, json, output, piped, text};

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn every_verb_has_help_with_an_example() {
    let home = home();
    let verbs: [&[&str]; 20] = [
        &["run", "new"],
        &["invite"],
        &["join"],
        &["status"],
        &["pause"],
        &["resume"],
        &["export"],
        &["identity", "show"],
        &["identity", "new"],
        &["demo"],
        &["task", "list"],
        &["task", "sample"],
        &["task", "score"],
        &["simulate"],
        &["data", "list"],
        &["data", "check"],
        &["bench", "tasks"],
        &["bench", "rollouts"],
        &["doctor"],
        &["config", "check"],
    ];
    for verb in verbs {
        let output = output(home.path(), &[verb, &["--help"]].concat());
        assert!(output.status.success(), "{verb:?}");
        assert!(text(&output.stdout).contains("Example"), "{verb:?} has no example");
    }
}

#[test]
fn wrong_usage_and_wrong_configuration_leave_with_two_and_name_what_is_wrong() {
    let home = home();
    let run = home.path().join("run.toml");
    RunFile { training: "group_size = 1".into(), ..RunFile::small(1) }.write(&run, &[]);
    let run = run.display().to_string();
    let cases: [(&[&str], &str); 9] = [
        (&["weave"], "weave"),
        (&["join", "/nowhere/run.toml"], "/nowhere/run.toml"),
        (&["join", &run], "training.group_size"),
        (&["config", "check", &run], "training.group_size"),
        (&["task", "sample", "chess"], "chess"),
        (&["task", "sample", "bf", "--config", "{\"difficulty\": 9}"], "difficulty"),
        (&["task", "sample", "bf", "--config", "difficulty"], "not JSON"),
        (&["join", "swarmloom:abc"], "invite"),
        (&["data", "check", "imagenet"], "there is no data set \"imagenet\": there are digits, fashion-mnist"),
    ];
    for (arguments, named) in cases {
        let output = output(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(named), "{arguments:?}: {}", text(&output.stderr));
    }
    let alone = output(home.path(), &["status"]);
    assert_eq!(alone.status.code(), Some(1));
    assert!(text(&alone.stderr).contains("swarmloom join"), "{}", text(&alone.stderr));
}

#[test]
fn errors_of_a_run_file_say_line_and_column() {
    let home = home();
    let run = home.path().join("run.toml");
    RunFile { training: "lerning_rate = 1.0".into(), ..RunFile::small(1) }.write(&run, &[]);
    let written = fs::read_to_string(&run).expect("the file");
    let line = written.lines().position(|line| line.starts_with("lerning_rate")).expect("the line") + 1;
    let checked = output(home.path(), &["config", "check", "--json", &run.display().to_string()]);
    let document: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!((document["ok"].as_bool(), document["errors"][0]["line"].as_u64()), (Some(false), Some(line as u64)));
    assert_eq!(document["errors"][0]["column"], 1);
    assert!(document["errors"][0]["message"].as_str().expect("text").contains("lerning_rate"));
}

#[test]
fn a_new_run_is_sound_named_and_never_overwritten() {
    let home = home();
    let path = home.path().join("evening.toml").display().to_string();
    let made = json(home.path(), &["run", "new", "--name", "evening", "--out", &path, "--json"]);
    let checked = json(home.path(), &["config", "check", &path, "--json"]);
    assert_eq!(checked["run"], made["run"]);
    assert_eq!(made["run"].as_str().map(str::len), Some(64));
    let again = output(home.path(), &["run", "new", "--out", &path]);
    assert_eq!(again.status.code(), Some(2));
    let example = output(home.path(), &["join", "--example"]);
    let checked = piped(home.path(), &["config", "check", "-"], &text(&example.stdout));
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}

#[test]
fn an_identity_is_made_once_and_shown() {
    let home = home();
    let path = home.path().join("mine.key").display().to_string();
    let made = json(home.path(), &["identity", "new", "--file", &path, "--json"]);
    assert!(made["peer"].as_str().expect("an id").starts_with("12D3Koo"));
    assert_eq!(json(home.path(), &["identity", "show", "--file", &path, "--json"]), made);
    let again = output(home.path(), &["identity", "new", "--file", &path]);
    assert!(!again.status.success() && text(&again.stderr).contains("exists already"));
}

#[test]
fn an_invite_needs_an_address_and_carries_the_run() {
    let home = home();
    let path = home.path().join("run.toml");
    RunFile::small(3).write(&path, &[]);
    let run = path.display().to_string();
    let silent = output(home.path(), &["invite", &run]);
    assert!(!silent.status.success() && text(&silent.stderr).contains("--address"));
    let address = "/ip4/203.0.113.7/tcp/4001";
    let invite = json(home.path(), &["invite", &run, "--address", address, "--json"]);
    let checked = json(home.path(), &["config", "check", &run, "--json"]);
    let expected = format!("swarmloom:{}@{address}", checked["run"].as_str().expect("an id"));
    assert_eq!(invite["invite"].as_str(), Some(expected.as_str()));
}

#[test]
fn the_doctor_names_this_machine_and_says_what_to_type() {
    let home = home();
    let found = json(home.path(), &["doctor", "--json"]);
    assert!(found["facts"]["libtorch"].as_str().expect("libtorch").contains("2.11.0"));
    for problem in found["problems"].as_array().expect("a list") {
        assert!(
            !problem["what"].as_str().expect("text").is_empty() && !problem["fix"].as_str().expect("text").is_empty()
        );
    }
}

#[test]
fn data_sets_are_listed_with_what_to_type_and_checked_file_by_file() {
    let home = home();
    let under = home.path().join("data").display().to_string();
    let listed = json(home.path(), &["data", "list", "--under", &under, "--json"]);
    let sets = listed["sets"].as_array().expect("a list");
    let mnist = sets.iter().find(|set| set["name"] == "mnist").expect("mnist");
    assert_eq!((mnist["found"].as_bool(), mnist["sound"].is_null()), (Some(false), true));
    assert!(mnist["fix"].as_str().expect("what to type").starts_with(&format!("mkdir -p {under} && cd {under} && ")));
    let sound = json(home.path(), &["data", "check", "digits", "--under", &under, "--json"]);
    assert_eq!((sound["sets"][0]["found"].as_bool(), sound["sets"][0]["sound"].as_bool()), (Some(true), Some(true)));
    // A file that is cut short, beside three that are not there.
    fs::create_dir_all(home.path().join("data/mnist")).expect("a folder");
    let file = home.path().join("data/mnist/t10k-labels-idx1-ubyte");
    fs::write(&file, [0, 0, 8, 1, 0, 0, 39, 16, 7]).expect("a file");
    let checked = output(home.path(), &["data", "check", "mnist", "--under", &under, "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let set = &document["sets"][0];
    assert_eq!((set["found"].as_bool(), set["sound"].as_bool()), (Some(true), Some(false)));
    let problems = set["problems"].as_array().expect("a list");
    assert!(problems.iter().any(|one| one.as_str().expect("text").starts_with(&format!("{}: ", file.display()))));
    assert_eq!(problems.len(), 4);
}
