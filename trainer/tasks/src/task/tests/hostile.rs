//! Answers and configurations that nobody means well with.

use super::*;

/// A million changed answers through every scorer: nothing panics, every score is in range.
#[test]
fn changed_answers_score_in_range() {
    const PIECES: [&str; 52] = [
        "",
        " ",
        "\n",
        "\t",
        "\x1c",
        "\u{2003}",
        "_",
        "+",
        "-",
        ".",
        ",",
        "/",
        "$",
        "\\",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "\"",
        "'",
        "¬",
        "∧",
        "∨",
        "→",
        "↔",
        "P",
        "Q",
        "Z",
        "0",
        "1",
        "9",
        "e",
        "E",
        "٣",
        "𝟗",
        "ſ",
        "\u{130}",
        "nan",
        "inf",
        "\\frac{",
        "\\u0031",
        "null",
        "true",
        "Monday",
        "Yes",
        "<answer>",
        "</answer>",
        "#",
        "\0",
        "🦀",
    ];
    let mut rng = PyRandom::new(2025);
    let mut count = 0;
    for mode in [Mode::Exact, Mode::Hardened] {
        let tasks = all_tasks(mode);
        let per_item = 1_000_000 / 2 / tasks.len() / 100 + 1;
        for task in tasks {
            for item in task.samples(rng.word().into(), 0..100) {
                let item = item.unwrap();
                let well_formed = task.target(&item).unwrap_or_default();
                for _ in 0..per_item {
                    let mut answer: Vec<char> = well_formed.chars().collect();
                    for _ in 0..=rng.below(4) {
                        let at = rng.below(answer.len() as u64 + 1) as usize;
                        let end = (at + rng.below(3) as usize).min(answer.len());
                        answer.splice(at..end, rng.choice(&PIECES).chars());
                    }
                    let answer: String = answer.into_iter().collect();
                    let (score, reward) = (task.score(&item, Some(&answer)), task.reward(&item, &answer));
                    assert!((0.0..=1.0).contains(&score) && (0.0..=1.0).contains(&reward), "{} {answer}", task.name());
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 1_000_000);
}

/// Half a megabyte of what each scorer takes apart: all of it is read once or so, and no stack overflows.
#[test]
fn long_answers_take_linear_time() {
    let size = 1 << 19;
    let repeated = [
        "(",
        "[",
        "{",
        "\"",
        "'",
        "¬",
        "((P)",
        "P ∧ ",
        "(P ∨ ",
        "[[1],",
        "1",
        "9.",
        "1_",
        "-",
        " ",
        "$",
        "/",
        "\\frac{",
        "1,",
        "\"1\",",
        "a",
        "<answer>",
        "<answer></answer>",
        "#\n",
        "\n",
        "é",
        "-(",
        "v ↔ (",
    ];
    for mode in [Mode::Exact, Mode::Hardened] {
        for task in all_tasks(mode) {
            let item = task.sample(5, 5).unwrap();
            for piece in repeated {
                let answer = piece.repeat(size / piece.len());
                assert!((0.0..=1.0).contains(&task.score(&item, Some(&answer))));
                assert!((0.0..=1.0).contains(&task.reward(&item, &answer)));
            }
        }
    }
}

/// The most that the ranges allow.
#[test]
fn the_widest_configurations_have_items() {
    let widest = [
        ("arc_1d", json!({"min_size": 100, "max_size": 100, "num_train": 16})),
        ("base_conversion", json!({"max_base": 36, "max_value": 1_000_000_000_000_000_u64})),
        ("basic_arithmetic", json!({"min_terms": 12, "max_terms": 12, "max_digits": 2, "operators": ["*", "/"]})),
        ("basic_arithmetic", json!({"min_terms": 6, "min_digits": 4, "operators": ["*", "/", "/", "/", "/"]})),
        (
            "basic_arithmetic",
            json!({"min_terms": 4, "min_digits": 6, "max_digits": 6, "max_terms": 4, "operators": ["*", "/", "/", "+"]}),
        ),
        (
            "basic_arithmetic",
            json!({"min_terms": 2, "max_terms": 2, "max_digits": 9, "operators": ["/"], "allow_parentheses": false}),
        ),
        ("binary_matrix", json!({"min_n": 30, "max_n": 30, "p_zero": 0.001})),
        ("calendar_arithmetic", json!({"year": 9900, "offset_upper_bound": 10_000, "leap_year_range": 2000})),
        ("count_bits", json!({"min_n": 1_u64 << 62, "max_n": 1_u64 << 62})),
        ("decimal_arithmetic", json!({"min_terms": 16, "max_terms": 16, "max_num_decimal_places": 6, "precision": 18})),
        ("fraction_simplification", json!({"max_value": 1_000_000_000, "max_factor": 1_000_000_000})),
        ("number_sorting", json!({"min_numbers": 200, "max_numbers": 200, "max_decimals": 8})),
        (
            "propositional_logic",
            json!({"max_vars": 11, "min_statements": 16, "max_statements": 16, "min_complexity": 8, "max_complexity": 8}),
        ),
    ];
    for (name, config) in widest {
        let task = Task::new(name, Some(&config), Mode::Exact).unwrap();
        for item in task.samples(1, 0..40) {
            let item = item.unwrap();
            assert!(task.prompt(&item).len() <= task.max_prompt_bytes(), "{name}");
        }
    }
}

#[test]
fn a_configuration_without_items_is_an_error() {
    // One statement has no conclusion that needs two.
    let config = json!({"min_statements": 1, "max_statements": 1});
    let task = Task::new("propositional_logic", Some(&config), Mode::Hardened).unwrap();
    let error = task.sample(3, 4).unwrap_err();
    assert_eq!(
        error.to_string(),
        "propositional_logic: no item for seed 3 and index 4 in 1000 draws; widen the configuration"
    );
}
