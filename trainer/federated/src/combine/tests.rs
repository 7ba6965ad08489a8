//! Against an independent program in numpy: its numbers are for the vectors of [`vectors`].

use super::*;

/// Some spread of values, and `far` of them far away: `10 + i` everywhere, the last one nearest.
fn vectors(count: usize, length: usize, far: usize) -> Vec<Vec<f32>> {
    let value = |i: usize, j: usize| ((i * 7 + j * 5 + i * j * 3) % 11) as f32 / 4.0 - 1.25;
    let vector = |i: usize| match count - 1 - i {
        from_last if from_last < far => vec![10.0 + from_last as f32; length],
        _ => (0..length).map(|j| value(i, j)).collect(),
    };
    (0..count).map(vector).collect()
}

fn run(text: &str, vectors: &[Vec<f32>]) -> Result<Vec<f32>, CombineError> {
    twice(text, vectors, &mut State::default())
}

fn twice(text: &str, vectors: &[Vec<f32>], state: &mut State) -> Result<Vec<f32>, CombineError> {
    let combine: Combine = toml::from_str(text).expect(text);
    let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
    combine.run(state, &vectors, &vec![1.0 / vectors.len() as f64; vectors.len()], &vec![1.0; vectors.len()])
}

fn near(found: &[f32], wanted: &[f64]) {
    let same = found.iter().zip(wanted).all(|(one, other)| (f64::from(*one) - other).abs() < 2e-6);
    assert!(same && found.len() == wanted.len(), "{found:?} is not {wanted:?}");
}

#[test]
fn two_liars_of_eleven_as_numpy_has_it() {
    let all = vectors(11, 4, 2);
    let expected: [(&str, [f64; 4]); 9] = [
        ("by = { krum = { f = 2 } }", [-0.5, -0.5, -0.5, -0.5]),
        ("by = { multi-krum = { f = 2 } }", [-0.05555556, -0.08333333, -0.11111111, -0.13888889]),
        ("by = { multi-krum = { f = 2, keep = 3 } }", [-0.08333333, -0.16666667, -0.25, -0.33333333]),
        ("by = { bulyan = { f = 2 } }", [-0.08333333, -0.58333333, -0.5, 0.08333333]),
        ("by = \"median\"", [0.25, 0.0, 0.0, 0.25]),
        ("by = { trimmed-mean = { f = 0.2 } }", [0.25, 0.21428571, 0.17857143, 0.14285714]),
        // By Nelder and Mead's method on the sum of distances.
        ("by = { geometric-median = { iterations = 100 } }", [0.13035131, 0.05350271, 0.02214209, 0.07534485]),
        ("by = { trimmed-mean = { f = 2 } }\nmixing = { f = 2 }", [-0.05555556, -0.08333333, -0.11111111, -0.13888889]),
        ("mixing = { f = 2 }", [0.3989899, 0.33585859, 0.32828283, 0.32070707]),
    ];
    for (text, wanted) in expected {
        near(&run(text, &all).expect(text), &wanted);
    }
}

#[test]
fn centred_clipping_goes_on_where_it_was() {
    let all = vectors(11, 4, 2);
    let mut state = State::default();
    let text = "by = { centred-clipping = { radius = 1.0, iterations = 2 } }";
    near(&twice(text, &all, &mut state).expect("clipped"), &[0.07978618, 0.03260275, 0.02238737, 0.03962667]);
    near(&twice(text, &all, &mut state).expect("clipped"), &[0.10983535, 0.04475112, 0.02551497, 0.05909044]);
    let own = run("by = { centred-clipping = {} }", &all).expect("clipped");
    near(&own, &[0.099557, 0.07330673, 0.09285308, 0.06660281]);
}

#[test]
fn more_vectors_than_the_kernel_sorts() {
    near(&run("by = \"median\"", &vectors(71, 3, 20)).expect("median"), &[0.5; 3]);
    near(&run("by = \"median\"", &vectors(70, 3, 20)).expect("median"), &[0.5; 3]);
    let trimmed = run("by = { trimmed-mean = { f = 20 } }", &vectors(71, 3, 20)).expect("trimmed");
    near(&trimmed, &[0.55645161, 0.48387097, 0.5483871]);
}

#[test]
fn values_that_are_no_numbers_do_not_get_through() {
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut all = vectors(12, 3, 2);
        all[4][1] = wrong;
        for text in [
            "by = { krum = { f = 3 } }",
            "by = { multi-krum = { f = 3 } }",
            "by = { bulyan = { f = 2 } }",
            "by = \"median\"",
            "by = { trimmed-mean = { f = 3 } }",
            "by = { geometric-median = {} }",
            "by = { centred-clipping = { radius = 1.0 } }",
            "by = { centred-clipping = {} }",
            "by = { trimmed-mean = { f = 3 } }\nmixing = { f = 3 }",
        ] {
            let found = run(text, &all).expect(text);
            assert!(found.iter().all(|value| value.is_finite() && value.abs() < 2.0), "{text}: {found:?}");
        }
    }
}

#[test]
fn equal_vectors_are_their_own_combination() {
    let all = vec![vec![0.5, -1.0]; 7];
    for text in [
        "by = { krum = { f = 1 } }",
        "by = { multi-krum = { f = 1 } }",
        "by = { bulyan = { f = 1 } }",
        "by = \"median\"",
        "by = { trimmed-mean = { f = 3 } }",
        "by = { geometric-median = {} }",
        "mixing = { f = 2 }",
    ] {
        near(&run(text, &all).expect(text), &[0.5, -1.0]);
        // One alone is what there is, if nobody lies.
        let honest = text.replace("= 1", "= 0").replace("= 2", "= 0").replace("= 3", "= 0");
        near(&run(&honest, &all[..1]).expect(text), &[0.5, -1.0]);
    }
}

#[test]
fn too_few_are_refused() {
    let all = vectors(6, 2, 0);
    for (text, wanted) in [
        ("by = { krum = { f = 2 } }", 7),
        ("by = { multi-krum = { f = 2 } }", 7),
        ("by = { bulyan = { f = 1 } }", 7),
        ("by = { trimmed-mean = { f = 3 } }", 7),
        ("mixing = { f = 3 }", 7),
    ] {
        let Err(CombineError::TooFew { found: 6, wanted: least, .. }) = run(text, &all) else { panic!("{text}") };
        assert_eq!(least, wanted, "{text}");
    }
}

#[test]
fn a_part_of_the_vectors_is_rounded_down() {
    assert_eq!([3, 4, 5, 10, 11].map(|count| Faulty::Part(0.2).of(count)), [0, 0, 1, 2, 2]);
    // 0.29 * 100 is a little less than 29.
    assert_eq!((Faulty::Part(0.29).of(100), Faulty::Count(3).of(100)), (29, 3));
}

#[test]
fn settings_are_checked() {
    for text in [
        "by = { krum = { f = 0.5 } }",
        "by = { multi-krum = { f = 1, keep = 0 } }",
        "by = { geometric-median = { iterations = 0 } }",
        "by = { geometric-median = { smoothing = 0.0 } }",
        "by = { centred-clipping = { radius = -1.0 } }",
        "by = { centred-clipping = { iterations = 0 } }",
        "mixing = { f = -0.1 }",
    ] {
        let combine: Combine = toml::from_str(text).expect(text);
        assert!(combine.fault().is_some(), "{text}");
        assert!(crate::strategy(&crate::Rule::all()[0], &combine).is_err(), "{text}");
    }
    for text in
        ["by = \"krum\"", "by = { krum = { f = 1, g = 2 } }", "mixing = { g = 1 }", "by = \"average\"", "bye = 1"]
    {
        assert!(toml::from_str::<Combine>(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_number_of_updates_is_said() {
    for text in ["by = { krum = { f = -1 } }", "by = { krum = { f = \"two\" } }", "mixing = { f = 5000000000 }"] {
        let error = toml::from_str::<Combine>(text).expect_err(text).to_string();
        assert!(error.contains("a number of updates such as 2, or a part of them such as 0.2"), "{error}");
        assert!(error.contains("line 1, column"), "{error}");
    }
    let combine: Combine = toml::from_str("by = { krum = { f = 2 } }\nmixing = { f = 0.2 }").expect("read");
    assert_eq!(
        (combine.by.clone(), combine.mixing),
        (By::Krum { f: Faulty::Count(2) }, Some(NearestNeighbours { f: Faulty::Part(0.2) }))
    );
    let text = serde_json::to_string(&combine).expect("text");
    assert_eq!(serde_json::from_str::<Combine>(&text).expect("read"), combine);
}

#[test]
fn rules_that_take_updates_one_by_one_refuse_to_choose() {
    let combine = Combine::by(By::Median);
    let refused: Vec<&str> = crate::Rule::all()
        .iter()
        .filter(|rule| crate::strategy(rule, &combine).is_err())
        .map(crate::Rule::name)
        .collect();
    assert_eq!(refused, ["fedasync", "port"]);
}
