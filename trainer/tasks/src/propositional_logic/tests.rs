//! Tests of the logic task.

use super::*;

/// `P → Q`, `Q → R` and `P`, of three variables.
fn argument() -> Argument {
    let premises = ["P → Q", "Q → R", "P"].map(|text| parse(text, 3).unwrap().0);
    Argument { premises: premises.into(), conclusion: Formula::variable(2), variables: 3 }
}

#[test]
fn text_and_formula_are_inverse() {
    for seed in 0..2000 {
        let mut rng = PyRandom::new(seed);
        let formula = Formula::draw(&mut rng, 4, 1 + seed as i64 % 6);
        let text = formula.to_string();
        assert_eq!(parse(&text, 4), Some((formula, 4)), "{text}");
    }
}

#[test]
fn precedence_and_brackets_are_reasoning_gyms() {
    let same = [
        ("P ∨ Q ∧ R", "(P ∨ (Q ∧ R))"),
        ("P → Q → R", "((P → Q) → R)"),
        ("P ↔ Q → R", "(P ↔ (Q → R))"),
        ("¬P∧Q", "(¬P ∧ Q)"),
        ("¬(P∧Q)", "¬(P ∧ Q)"),
        ("( ( P ) )", "P"),
        ("(P) ∧ (Q)", "(P ∧ Q)"),
    ];
    for (text, full) in same {
        assert_eq!(parse(text, 3).map(|(formula, _)| formula.to_string()).as_deref(), Some(full), "{text}");
    }
    // Variables of any name, brackets that do not match among them.
    assert_eq!(parse("(P ∨ Q", 3).map(|(formula, count)| (formula.ops().len(), count)), Some((3, 4)));
    assert_eq!(parse("foo bar ∧ foo bar", 3).map(|(_, count)| count), Some(4));
    assert_eq!(parse("P ¬Q", 3).map(|(formula, _)| formula.ops().len()), Some(1));
    for text in ["", " ", "()", "P ∧", "∧ P", "¬", "P ∧ ()", "((P) ∧ )"] {
        assert_eq!(parse(text, 3), None, "{text}");
    }
}

#[test]
fn hostile_text_is_bounded() {
    let deep = "(".repeat(500_000) + "P" + &")".repeat(500_000);
    let chain = "P ∧ ".repeat(200_000) + "P";
    let nots = "¬".repeat(500_000);
    let names: String = (0..5000).map(|i| format!("v{i} ∧ ")).collect();
    for text in [deep, chain, nots, names + "P"] {
        assert_eq!(Logic::exact_score(&argument(), &text), 0.0);
        assert_eq!(Logic::hardened_score(&argument(), &text), 0.0);
    }
    // Shallow and wide, over as many variables as are read.
    let mut wide: Vec<String> = (0..1 << 14).map(|i| format!("v{}", i % 12)).collect();
    while wide.len() > 1 {
        wide = wide.chunks(2).map(|pair| format!("({})", pair.join(" ↔ "))).collect();
    }
    assert_eq!(Logic::exact_score(&argument(), &wide[0]), 0.05);
}

#[test]
fn many_variables_have_whole_tables() {
    let all = (0..11).map(|i| char::from(b'P' + i).to_string()).collect::<Vec<_>>().join(" ∨ ");
    let (formula, variables) = parse(&all, 11).unwrap();
    let table = Table::of(&formula, variables);
    assert!(!table.is_always_true() && !table.is_never_true());
    let (tautology, _) = parse(&format!("({all}) ∨ ¬Z"), 11).unwrap();
    assert!(Table::of(&tautology, variables).is_always_true() && table.implies(&Table::of(&tautology, variables)));
    let last = parse("Z", 11).unwrap().0;
    assert!(Table::of(&last, 11).implies(&table) && !table.implies(&Table::of(&last, 11)));
}

#[test]
fn hardened_wants_two_premises() {
    let score = |text| Logic::hardened_score(&argument(), text);
    for right in ["Q", "R", "(P ∧ Q)", "P → R", "¬P ∨ R", " (R ∧ P) "] {
        assert_eq!(score(strip(right)), 1.0, "{right}");
    }
    let wrong = [
        "P",             // one premise says it
        "P → Q",         // the same
        "P ∨ R",         // follows from P alone
        "P ∨ ¬P",        // always true
        "¬R",            // does not follow
        "P ∧ Q ∧ R",     // three variables
        "(P→Q) ∧ (Q→R)", // all premises again
        "foo",
        "foo ∨ R",
        "R ∨ S",
        "",
    ];
    for text in wrong {
        assert_eq!(score(text), 0.0, "{text}");
    }
}

#[test]
fn exact_pays_for_anything() {
    let score = |text| Logic::exact_score(&argument(), text);
    assert_eq!(
        [score("(P ∧ R)"), score("R"), score("(P → P)"), score("¬P"), score("foo")],
        [1.0, 0.25, 0.25, 0.05, 0.05]
    );
    assert_eq!([score("S"), score(""), score("∧")], [0.0; 3]);
}
