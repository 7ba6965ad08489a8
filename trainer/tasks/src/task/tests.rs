//! Against recorded items and scores of reasoning-gym, and of what holds for every task.

mod hostile;
mod modes;

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::json;

use super::*;

/// Every task with every way to configure it that the crate names: defaults, presets, and all styles of prompt.
fn all_tasks(mode: Mode) -> Vec<Task> {
    let mut tasks: Vec<Task> = PRESETS.iter().map(|preset| Task::new(preset.name, None, mode).unwrap()).collect();
    for kind in &KINDS {
        for style in Style::NAMES {
            match Task::new(kind.name, Some(&json!({ "prompt": style })), mode) {
                Ok(task) => tasks.push(task),
                Err(error) => assert!(style == "compact" && error.to_string().contains("`prompt`"), "{error}"),
            }
        }
    }
    assert!(tasks.len() > 9 + 2 * 12);
    tasks
}

/// A recorded item.
#[derive(Deserialize)]
struct Recorded {
    task: String,
    seed: u64,
    idx: u64,
    config: Value,
    question: String,
    answer: Option<String>,
    metadata: Value,
    #[serde(default)]
    score_of_oracle: f64,
    #[serde(default, rename = "score_of_'foo'")]
    score_of_foo: f64,
    #[serde(default, rename = "score_of_None")]
    score_of_none: f64,
}

/// A recorded score; items are those of seed 42.
#[derive(Deserialize)]
struct Scored {
    task: String,
    idx: u64,
    answer: Option<String>,
    score: f64,
}

fn lines<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn items_equal_recorded_ones() {
    let recorded: Vec<Recorded> = lines(include_str!("../../testdata/reasoning_gym_samples.jsonl"));
    assert_eq!(recorded.len(), 90);
    for Recorded { task, seed, idx, config, question, answer, metadata, .. } in &recorded {
        let item = Task::new(task, Some(config), Mode::Exact).unwrap().sample(*seed, *idx).unwrap();
        assert_eq!(&item.question, question, "{task} {idx}");
        assert_eq!(&item.answer, answer, "{task} {idx}");
        assert_eq!(serde_json::to_value(&item.metadata).unwrap(), *metadata, "{task} {idx}");
    }
    for Recorded { task, seed, idx, score_of_oracle, score_of_foo, score_of_none, metadata, answer, .. } in &recorded {
        let task = Task::new(task, None, Mode::Exact).unwrap();
        let item = task.sample(*seed, *idx).unwrap();
        let oracle = answer.as_deref().or(metadata["example_answer"].as_str());
        let scores = [oracle, Some("foo"), None].map(|answer| task.score(&item, answer));
        assert_eq!(scores, [*score_of_oracle, *score_of_foo, *score_of_none], "{} {idx}", task.name());
    }
}

#[test]
fn scores_equal_recorded_ones() {
    let recorded: Vec<Scored> = lines(include_str!("../../testdata/reasoning_gym_scoring.jsonl"));
    assert_eq!(recorded.len(), 1442);
    for Scored { task, idx, answer, score } in recorded {
        let task = Task::new(&task, None, Mode::Exact).unwrap();
        let item = task.sample(42, idx).unwrap();
        assert_eq!(task.score(&item, answer.as_deref()), score, "{} {idx} {answer:?}", task.name());
    }
}

/// Other tasks, other configurations.
#[test]
fn more_items_equal_recorded_ones() {
    let recorded: Vec<Recorded> = lines(include_str!("../../testdata/more_samples.jsonl"));
    let mut names = HashSet::new();
    for Recorded { task, seed, idx, config, question, answer, metadata, .. } in recorded {
        let item = Task::new(&task, Some(&config), Mode::Exact).unwrap().sample(seed, idx).unwrap();
        assert_eq!(item.question, question, "{task} {idx} {config}");
        assert_eq!(item.answer, answer, "{task} {idx} {config}");
        assert_eq!(item.metadata.to_json(), metadata, "{task} {idx} {config}");
        names.insert(task);
    }
    assert_eq!(names.len(), 11);
}

#[test]
fn defaults_are_those_of_rl_swarm() {
    let recorded: Vec<Recorded> = lines(include_str!("../../testdata/reasoning_gym_samples.jsonl"));
    let list = list();
    assert_eq!(list.len(), 12);
    for Recorded { task, mut config, .. } in recorded {
        let fields = config.as_object_mut().unwrap();
        fields.remove("seed");
        fields.remove("size");
        fields.insert("prompt".into(), "question".into());
        let info = list.iter().find(|info| info.name == task).unwrap();
        assert_eq!(info.default_config, config, "{task}");
    }
}

#[test]
fn a_batch_has_the_same_items() {
    for task in all_tasks(Mode::Exact) {
        for (seed, indices) in [(42, 3..45), (u64::from(u32::MAX) - 9, 0..33), (u64::MAX, u64::MAX - 20..u64::MAX)] {
            let alone: Vec<Item> = indices.clone().map(|index| task.sample(seed, index).unwrap()).collect();
            let batch: Vec<Item> = task.samples(seed, indices).map(Result::unwrap).collect();
            assert!(alone == batch, "{}", task.name());
        }
    }
}

/// Texts of numbers that an inexact reader changes on every reading.
#[test]
fn numbers_of_a_configuration_are_read_exactly() {
    let text = r#"{"min_value":-51.24817837550540,"max_value":9.869232667160129}"#;
    let task = Task::new("number_sorting", Some(&serde_json::from_str(text).unwrap()), Mode::Exact).unwrap();
    assert_eq!(task.config()["min_value"].as_f64(), Some(-51.248_178_375_505_4));
    assert_eq!(task.config()["max_value"].as_f64(), Some(9.869_232_667_160_129));
}

#[test]
fn a_configuration_makes_the_same_task_again() {
    let mut hashes = HashSet::new();
    for mode in [Mode::Exact, Mode::Hardened] {
        for task in all_tasks(mode) {
            let text = task.config().to_string();
            let again = Task::new(task.name(), Some(&serde_json::from_str(&text).unwrap()), mode).unwrap();
            assert_eq!((again.config(), again.config_hash()), (task.config(), task.config_hash()));
            assert_eq!(again.sample(1, 2), task.sample(1, 2));
            hashes.insert(task.config_hash());
        }
    }
    // None of them is the same as another.
    assert_eq!(hashes.len(), all_tasks(Mode::Exact).len() * 2);
}

/// Peers of different builds must agree: a new hash needs a new `VERSION`, and then a new record here.
#[test]
fn the_hash_is_recorded() {
    let hash = Task::new("count_bits", None, Mode::Exact).unwrap().config_hash();
    let text = "swarmloom-tasks/1\ncount_bits\nexact\n{\"max_n\":2147483647,\"min_n\":1,\"prompt\":\"question\"}";
    assert_eq!(hash, digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    let hex: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "53dbdfe4");
}

#[test]
fn wrong_configurations_are_refused() {
    let error = |name: &str, config: Value| Task::new(name, Some(&config), Mode::Exact).unwrap_err().to_string();
    assert!(error("chess", json!({})).starts_with("there is no task \"chess\"; there are arc_1d, base_conversion,"));
    assert!(error("binary_matrix/9x9", json!({})).contains("binary_matrix/3x3"));
    let cases = [
        ("binary_matrix", json!({"max_n": 31}), "max_n"),
        ("binary_matrix", json!({"p_zero": 0}), "p_zero"),
        ("binary_matrix", json!({"n": 3}), "n"),
        ("binary_matrix", json!({"prompt": "compact"}), "prompt"),
        ("bf", json!({"prompt": "compact"}), "prompt"),
        ("bf", json!({"difficulty": 4}), "difficulty"),
        ("arc_1d", json!({"min_size": 7}), "min_size"),
        ("base_conversion", json!({"min_base": 16}), "max_base"),
        ("basic_arithmetic", json!({"operators": ["^"]}), "operators"),
        ("basic_arithmetic", json!({"operators": ["/"]}), "operators"),
        ("basic_arithmetic", json!({"max_terms": 12}), "max_digits"),
        ("calendar_arithmetic", json!({"tasks": ["tides"]}), "tasks"),
        ("calendar_arithmetic", json!({"tasks": []}), "tasks"),
        ("calendar_arithmetic", json!({"prompt": "compact"}), "prompt"),
        ("decimal_arithmetic", json!({"precision": 4}), "precision"),
        ("fraction_simplification", json!({"max_value": 1}), "max_value"),
        ("propositional_logic", json!({"max_vars": 12}), "max_vars"),
        ("number_sorting", json!({"max_value": -200.0}), "max_value"),
        ("spell_backward", json!({"min_word_len": 1, "max_word_len": 2}), "max_word_len"),
        ("count_bits", json!({"min_n": 0}), "min_n"),
        ("count_bits", json!({"seed": "42"}), "seed"),
    ];
    for (name, config, field) in cases {
        let text = error(name, config);
        assert!(text.contains(&format!("`{field}`")), "{name}: {text}");
    }
    assert!(Task::new("base_conversion", Some(&json!({"max_value": 1})), Mode::Hardened).is_err());
}

/// The stated bounds hold, and a target earns full reward, for items of all tasks.
#[test]
fn prompts_and_targets_are_bounded_and_right() {
    let wide = [
        ("basic_arithmetic", json!({"min_terms": 12, "max_terms": 12, "min_digits": 2, "max_digits": 2})),
        ("basic_arithmetic", json!({"min_terms": 6, "allow_parentheses": false, "prompt": "compact"})),
        ("bf", json!({"difficulty": 2})),
        ("bf", json!({"difficulty": 3})),
        ("binary_matrix", json!({"min_n": 20, "max_n": 20, "p_zero": 0.001})),
        ("decimal_arithmetic", json!({"max_num_decimal_places": 6, "max_terms": 16, "precision": 18})),
        ("propositional_logic", json!({"min_complexity": 5, "max_complexity": 6, "max_vars": 11})),
        (
            "number_sorting",
            json!({"min_numbers": 9, "max_decimals": 8, "min_value": -1e9, "max_value": 1e9, "prompt": "compact"}),
        ),
        ("number_sorting", json!({"min_decimals": 5, "max_decimals": 8, "min_value": 0.0, "max_value": 0.001})),
        ("calendar_arithmetic", json!({"tasks": ["weekday_of_date_from_first_date", "weekday_offset"]})),
        ("calendar_arithmetic", json!({"tasks": ["count_business_days", "count_days"], "offset_upper_bound": 9999})),
    ];
    for mode in [Mode::Exact, Mode::Hardened] {
        let wide = wide.iter().map(|(name, config)| Task::new(name, Some(config), mode).unwrap());
        for task in all_tasks(mode).into_iter().chain(wide) {
            let (mut without, mut longest) = (0, 0);
            for item in task.samples(7, 0..400) {
                let item = item.unwrap();
                let prompt = task.prompt(&item);
                longest = longest.max(prompt.len());
                assert!(prompt.len() <= task.max_prompt_bytes(), "{} {}", task.name(), prompt.len());
                match task.target(&item) {
                    None => without += 1,
                    Some(target) => {
                        assert_eq!(task.reward(&item, &target), 1.0, "{} {target}", task.name());
                        assert!(target.len() <= task.max_target_bytes(), "{} {target}", task.name());
                        assert_eq!(task.reward(&item, &format!("{target}\n")), 1.0);
                        let other = task.reward(&item, "<answer>7</answer> Monday");
                        assert!((0.0..=1.0).contains(&other));
                    }
                }
            }
            let has_none = mode == Mode::Exact && matches!(task.name(), "propositional_logic" | "base_conversion");
            assert!(if has_none { without < 130 } else { without == 0 }, "{}: {without} without target", task.name());
            // Not wildly more than there is.
            assert!(task.max_prompt_bytes() < 3 * longest + 400, "{} {longest}", task.name());
        }
    }
}

#[test]
fn prompts_are_of_the_style_asked_for() {
    let prompt = |name, style| {
        let task = Task::new(name, Some(&json!({ "prompt": style })), Mode::Exact).unwrap();
        let item = task.sample(42, 0).unwrap();
        (task.prompt(&item), task.target(&item).unwrap())
    };
    assert_eq!(prompt("basic_arithmetic", "question"), ("What is -5 * -6?\n".into(), "30".into()));
    assert_eq!(prompt("basic_arithmetic", "compact"), ("c:-5*-6=".into(), "30".into()));
    let (tagged, target) = prompt("basic_arithmetic", "tagged");
    assert!(tagged.starts_with("Given a problem, your task is to answer the question by thinking step-by-step in a"));
    assert!(tagged.ends_with("of the output/answer in that example.\nWhat is -5 * -6?\n"));
    assert_eq!(target, "<answer>30</answer>");
    assert_eq!(prompt("fraction_simplification", "compact"), ("f:75/410=".into(), "15/82".into()));
    assert_eq!(prompt("base_conversion", "compact"), ("b:3>2:220020=".into(), "1010001110".into()));
    assert_eq!(prompt("decimal_arithmetic", "compact"), ("d:(9.5*2.9)=".into(), "27.55".into()));
}

/// There are enough questions to learn from and to hold some back.
#[test]
fn presets_have_many_short_questions() {
    let least = [500, 10_000, 11_000, 255, 19_000, 200, 200, 350, 200];
    for (preset, least) in PRESETS.iter().zip(least) {
        let task = Task::new(preset.name, None, Mode::Hardened).unwrap();
        let prompts: HashSet<String> = task.samples(0, 0..20_000).map(|item| task.prompt(&item.unwrap())).collect();
        assert!(prompts.len() >= least, "{}: {}", preset.name, prompts.len());
        assert!(task.max_prompt_bytes() <= 24 && task.max_target_bytes() <= 20, "{}", preset.name);
        assert_eq!((preset.task(), task.config()["prompt"].as_str()), (task.name(), Some("compact")));
    }
}

#[test]
fn an_item_of_another_task_scores_nothing() {
    let item = Task::new("bf", None, Mode::Exact).unwrap().sample(1, 1).unwrap();
    let task = Task::new("spell_backward", None, Mode::Exact).unwrap();
    assert_eq!(task.score(&item, item.answer.as_deref()), 0.0);
}
