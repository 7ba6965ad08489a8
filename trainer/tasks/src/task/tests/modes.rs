//! One test for each difference between the modes.

use super::*;

fn both(name: &str, config: Value) -> [Task; 2] {
    [Mode::Exact, Mode::Hardened].map(|mode| Task::new(name, Some(&config), mode).unwrap())
}

/// Scores of an answer in both modes, the item being one that both draw.
fn scores(name: &str, index: u64, answer: impl Fn(&Item) -> String) -> [f64; 2] {
    let [exact, hardened] = both(name, json!({}));
    let items = [&exact, &hardened].map(|task| task.sample(42, index).unwrap());
    assert_eq!(items[0].question, items[1].question, "another item");
    let answer = answer(&items[0]);
    [exact.score(&items[0], Some(&answer)), hardened.score(&items[1], Some(&answer))]
}

fn items(task: &Task, count: u64) -> Vec<Item> {
    task.samples(42, 0..count).map(Result::unwrap).collect()
}

fn oracle(item: &Item) -> String {
    item.answer.clone().unwrap()
}

/// The mean score of one answer to many items.
fn mean(task: &Task, items: &[Item], answer: &str) -> f64 {
    items.iter().map(|item| task.score(item, Some(answer))).sum::<f64>() / items.len() as f64
}

#[test]
fn text_around_an_answer_pays_in_exact_mode_only() {
    for name in ["arc_1d", "base_conversion", "basic_arithmetic", "bf", "count_bits"] {
        let [exact, hardened] = scores(name, 0, |item| format!("{}, I think", oracle(item)));
        assert!(exact > 0.0 && hardened == 0.0, "{name}");
        assert_eq!(scores(name, 0, |item| format!(" {}\n", oracle(item)))[1], 1.0, "{name}");
    }
}

#[test]
fn a_long_answer_scores_nothing_in_hardened_mode() {
    let [exact, hardened] = scores("decimal_arithmetic", 0, |item| oracle(item) + &"0".repeat(64 << 10));
    assert_eq!([exact, hardened], [1.0, 0.0]);
}

#[test]
fn base_conversion_always_converts() {
    let [exact, hardened] = both("base_conversion", json!({"max_value": 20}));
    let same = |item: &Item| {
        let metadata = item.metadata.to_json();
        metadata["source_repr"] == metadata["target_repr"]
    };
    let exact = items(&exact, 600);
    assert!(exact.iter().any(|item| oracle(item).is_empty()) && exact.iter().any(same));
    assert!(!items(&hardened, 600).iter().any(|item| oracle(item).is_empty() || same(item)));
}

#[test]
fn basic_arithmetic_labels_are_exact_values() {
    for config in [json!({}), json!({"allow_parentheses": false})] {
        let value = |item: &Item| {
            let metadata = item.metadata.to_json();
            let expression = metadata["expression"].as_str().unwrap();
            let value = crate::expression::evaluate(&crate::expression::Exact, expression);
            value.is_some_and(|value| value == (oracle(item).parse().unwrap(), 1))
        };
        let [exact, hardened] = both("basic_arithmetic", config);
        let wrong = items(&exact, 3000).iter().filter(|item| !value(item)).count();
        assert!(wrong > 5, "{wrong}");
        assert!(items(&hardened, 3000).iter().all(value));
    }
}

#[test]
fn a_matrix_as_a_list_earns_a_tenth_in_both_modes() {
    let list = |item: &Item| item.metadata.to_json()["solution"].to_string();
    assert_eq!(scores("binary_matrix", 0, list), [0.1, 0.1]);
}

#[test]
fn guesses_about_the_calendar_pay_in_exact_mode_only() {
    let [exact, hardened] = both("calendar_arithmetic", json!({"tasks": ["weekday_of_date"]}));
    let [a, b] = [&exact, &hardened].map(|task| items(task, 300));
    assert!(mean(&exact, &a, "Monday") > 0.2 && mean(&hardened, &b, "Monday") < 0.2);
    assert!(mean(&exact, &a, "moNday") > 0.04 && (0.1..0.2).contains(&mean(&hardened, &b, "moNday")));
    let [exact, hardened] = both("calendar_arithmetic", json!({"tasks": ["count_days", "recurring_event_day"]}));
    let item = exact.sample(42, 0).unwrap();
    let near = (oracle(&item).parse::<i64>().unwrap() + 1).to_string();
    assert!(exact.score(&item, Some(&near)) > 0.2 && hardened.score(&item, Some(&near)) == 0.0);
}

#[test]
fn half_of_the_years_are_leap_years_in_hardened_mode() {
    let [exact, hardened] = both("calendar_arithmetic", json!({"tasks": ["is_leap_year"]}));
    let share = |task: &Task| items(task, 2000).iter().filter(|item| oracle(item) == "Yes").count();
    assert!((400..560).contains(&share(&exact)) && (930..1070).contains(&share(&hardened)));
    // Where there is none, items are drawn all the same.
    let none = json!({"tasks": ["is_leap_year"], "year": 1900, "leap_year_range": 2});
    assert!(items(&both("calendar_arithmetic", none)[1], 50).iter().all(|item| oracle(item) == "No"));
}

#[test]
fn zero_is_no_answer_to_a_hardened_decimal() {
    let config = json!({"min_num_decimal_places": 1, "max_num_decimal_places": 1, "precision": 4});
    let [exact, hardened] = both("decimal_arithmetic", config);
    assert!(mean(&exact, &items(&exact, 2000), "0") > 0.01);
    assert_eq!(mean(&hardened, &items(&hardened, 2000), "0"), 0.0);
}

#[test]
fn only_the_right_fraction_scores_in_hardened_mode() {
    let question = |item: &Item| {
        let metadata = item.metadata.to_json();
        format!("{}/{}", metadata["numerator"], metadata["denominator"])
    };
    assert_eq!(scores("fraction_simplification", 0, question), [0.1, 0.0]);
    assert_eq!(scores("fraction_simplification", 0, |_| "1/3".into()), [0.05, 0.0]);
    assert_eq!(scores("fraction_simplification", 0, |_| "so".into()), [0.01, 0.0]);
    assert_eq!(scores("fraction_simplification", 0, |_| "15/82".into()), [1.0, 1.0]);
    let [exact, hardened] = both("fraction_simplification", json!({}));
    let items = [&exact, &hardened].map(|task| task.sample(42, 0).unwrap());
    assert_eq!([exact.score(&items[0], None), hardened.score(&items[1], None)], [0.01, 0.0]);
    // No number from 6 to 9 is left by a common divisor, so that ten draws may all fail.
    let [exact, hardened] = both("fraction_simplification", json!({"min_value": 6, "max_value": 9}));
    let is_reduced = |item: &Item| {
        let metadata = item.metadata.to_json();
        let part = |name: &str| metadata[name].as_u64().unwrap().into();
        crate::expression::gcd(part("simplified_numerator"), part("simplified_denominator")) == 1
    };
    let count = |task: &Task| super::modes::items(task, 5000).iter().filter(|item| !is_reduced(item)).count();
    assert!(count(&exact) > 0 && count(&hardened) == 0);
}

#[test]
fn only_the_numbers_of_the_question_are_sorted_in_hardened_mode() {
    let sorted = |item: &Item| -> Vec<f64> {
        let metadata = item.metadata.to_json();
        let texts = metadata["sorted_numbers"].as_array().unwrap().clone();
        texts.iter().map(|text| text.as_str().unwrap().parse().unwrap()).collect()
    };
    let off = |item: &Item| json!(sorted(item).iter().map(|number| number + 0.5).collect::<Vec<_>>()).to_string();
    assert_eq!(scores("number_sorting", 0, off), [1.0, 0.0]);
    let nan = |item: &Item| format!("[{}]", vec!["NaN"; sorted(item).len()].join(","));
    assert_eq!(scores("number_sorting", 0, nan), [1.0, 0.0]);
    assert_eq!(scores("number_sorting", 0, |item| json!(sorted(item)).to_string()), [1.0, 1.0]);
}

#[test]
fn no_constant_conclusion_is_often_right_in_hardened_mode() {
    let [exact, hardened] = both("propositional_logic", json!({}));
    let [a, b] = [&exact, &hardened].map(|task| items(task, 1000));
    assert!(mean(&exact, &a, "(P ∨ Q)") > 0.8 && mean(&exact, &a, "foo") > 0.05);
    assert_eq!(mean(&hardened, &b, "foo"), 0.0);
    let literals: Vec<String> = ["P", "Q", "R", "S"].iter().flat_map(|v| [v.to_string(), format!("¬{v}")]).collect();
    let pairs = literals.iter().flat_map(|a| literals.iter().map(move |b| (a, b)));
    let connected = pairs.flat_map(|(a, b)| ["∧", "∨", "→", "↔"].map(|connective| format!("{a} {connective} {b}")));
    for constant in connected.chain(literals.clone()) {
        let mean = mean(&hardened, &b, &constant);
        assert!(mean < 0.32, "{constant}: {mean}");
    }
}

#[test]
fn hardened_premises_can_be_true_and_have_an_answer() {
    let [exact, hardened] = both("propositional_logic", json!({}));
    assert!(items(&exact, 50).iter().all(|item| item.answer.is_none()));
    // From a contradiction both of these would follow.
    let contradicts =
        |task: &Task, item: &Item| ["(P ∧ ¬P)"].iter().all(|answer| task.score(item, Some(answer)) == 1.0);
    let exact_items = items(&exact, 1000);
    let share = exact_items.iter().filter(|item| contradicts(&exact, item)).count();
    assert!((180..300).contains(&share), "{share}");
    for item in items(&hardened, 1000) {
        assert!(!contradicts(&exact, &item) && !contradicts(&hardened, &item));
        assert_eq!(hardened.score(&item, item.answer.as_deref()), 1.0);
        assert!(item.question.ends_with("at most twice in all."));
    }
}

#[test]
fn letters_count_against_the_longer_word() {
    let prefix = |item: &Item| oracle(item) + "aaaaaaaaaaaaaaaaaaaa";
    let [exact, hardened] = scores("spell_backward", 3, prefix);
    assert!(exact >= 0.8 && hardened < 0.4, "{exact} {hardened}");
    let [exact, hardened] = scores("spell_backward", 3, |item| oracle(item)[1..].to_owned() + "?");
    assert!(exact <= 0.5 && hardened <= 0.5);
    let [exact, hardened] = scores("spell_backward", 3, |item| oracle(item)[..2].to_owned());
    assert!((exact - hardened).abs() < 1e-9 && exact > 0.1, "{exact} {hardened}");
    assert_eq!(scores("spell_backward", 3, |item| oracle(item).to_uppercase()), [1.0, 1.0]);
}
