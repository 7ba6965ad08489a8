//! Tests of checkpoints.

use serde_json::json;

use super::*;
use crate::learner::Example;
use crate::model::preset;

fn model() -> ModelConfig {
    ModelConfig { num_hidden_layers: 1, ..preset("pico").expect("pico") }
}

fn learner() -> Learner {
    let config = LearnerConfig { kl_weight: 0.1, ..LearnerConfig::default() };
    Learner::new(&model(), &Weights::init(&model(), 5), config, Device::Cpu, 1).expect("a learner")
}

fn train(learner: &mut Learner) {
    let example = Example { prompt: b"a".to_vec(), completion: b"bc".to_vec() };
    learner.supervised_step(&[example], 1e-2).expect("a step");
}

#[test]
fn a_learner_goes_on_from_disk_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().join("checkpoints");
    assert_eq!(latest(&dir).expect("none"), Found::default());
    let mut learner = learner();
    train(&mut learner);
    save(&dir, 7, &learner, &json!({"counter": 1})).expect("saved");
    train(&mut learner);
    let path = save(&dir, 12, &learner, &json!({"counter": 2})).expect("saved");
    assert_eq!(path.file_name().expect("a name"), "step-000000000012");

    let found = latest(&dir).expect("found");
    assert!(found.damaged.is_empty());
    let checkpoint = found.checkpoint.expect("one");
    assert_eq!((checkpoint.step, &checkpoint.state, &checkpoint.path), (12, &json!({"counter": 2}), &path));
    assert_eq!(checkpoint.learner_state, learner.checkpoint().expect("state"));
    let config = LearnerConfig { kl_weight: 0.1, ..LearnerConfig::default() };
    let mut resumed = checkpoint.learner(&model(), config.clone(), Device::Cpu, 1).expect("a learner");
    train(&mut learner);
    train(&mut resumed);
    assert_eq!(resumed.checkpoint().expect("state"), learner.checkpoint().expect("state"));

    let other = preset("pico").expect("pico");
    let error = checkpoint.learner(&other, config, Device::Cpu, 1).expect_err("another model");
    assert!(error.to_string().contains("but pico is needed"), "{error}");
}

#[test]
fn damaged_checkpoints_are_named_and_an_older_one_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let learner = learner();
    for step in 1..=7 {
        save(dir, step, &learner, &Value::Null).expect("saved");
    }
    let file = |step: u64, file: &str| dir.join(name(step)).join(file);
    let mut bytes = fs::read(file(7, MODEL)).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file(7, MODEL), &bytes).expect("damaged");
    fs::write(file(6, STATE), "{").expect("torn");
    fs::remove_file(file(5, OPTIMIZER)).expect("removed");
    fs::write(file(4, SUMS), "").expect("emptied");
    fs::remove_file(file(3, REFERENCE)).expect("removed");
    fs::rename(dir.join(name(2)), dir.join(name(30))).expect("renamed");

    let found = latest(dir).expect("found");
    let damaged: Vec<(&str, &str)> = found
        .damaged
        .iter()
        .map(|damaged| (damaged.path.file_name().and_then(OsStr::to_str).expect("a name"), damaged.why.as_str()))
        .collect();
    assert_eq!(damaged.len(), 6, "{damaged:?}");
    for ((name, why), (step, part)) in damaged.iter().zip([
        (30, "checkpoint of step 2"),
        (7, "model.safetensors is damaged: its SHA-256 is"),
        (6, "state.json is damaged: its SHA-256 is"),
        (5, "optimizer.safetensors: "),
        (4, "state.json is not in it"),
        (3, "reference.safetensors: "),
    ]) {
        assert_eq!(*name, format!("damaged-{}", self::name(step)));
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(found.checkpoint.expect("one is sound").step, 1);
    // What is damaged no longer counts among those that are kept.
    save(dir, 2, &learner, &Value::Null).expect("saved");
    assert_eq!(prune(dir, 1).expect("pruned"), [dir.join(name(1))]);
    let found = latest(dir).expect("found");
    assert_eq!((found.damaged.len(), found.checkpoint.expect("the new one").step), (0, 2));
}

#[test]
fn old_and_unfinished_checkpoints_are_removed_and_a_step_is_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let learner = learner();
    for step in [3, 20, 100, 5] {
        save(dir, step, &learner, &json!(step)).expect("saved");
    }
    save(dir, 100, &learner, &json!("again")).expect("saved over the old one");
    assert_eq!(latest(dir).expect("found").checkpoint.expect("one").state, json!("again"));
    for kept in ["unfinished-notes", "step-x"] {
        fs::create_dir(dir.join(kept)).expect("a folder of somebody else");
    }
    fs::create_dir(dir.join("unfinished-step-000000000200")).expect("left by a crash");
    let mut removed = prune(dir, 2).expect("pruned");
    removed.sort();
    assert_eq!(removed, [dir.join(name(3)), dir.join(name(5)), dir.join("unfinished-step-000000000200")]);
    assert_eq!(list(dir).expect("listed").into_iter().map(|(step, _)| step).collect::<Vec<_>>(), [20, 100]);
    assert!(dir.join("unfinished-notes").exists() && dir.join("step-x").exists());
    assert_eq!(prune(dir, 0).expect("pruned").len(), 1, "the newest is kept");
}

#[test]
fn an_export_is_a_folder_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("for others");
    let weights = Weights::init(&model(), 9);
    export(&to, &weights).expect("exported");
    let config = ModelConfig::from_json(&fs::read(to.join("config.json")).expect("a file")).expect("a model");
    let bytes = fs::read(to.join("model.safetensors")).expect("a file");
    assert_eq!(Weights::from_safetensors(&config, &bytes).expect("weights"), weights);
    assert!(fs::read_to_string(to.join("TOKENIZER.md")).expect("a note").contains("256 begins every"));
    let error = export(&to, &weights).expect_err("taken").to_string();
    assert!(error.contains("exists already"), "{error}");
}
