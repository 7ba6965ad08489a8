//! Means and what is done about stale updates.

use super::*;

#[test]
fn fedavg_weighs_by_samples_or_uniformly() {
    let updates = [Update { samples: 30, ..update(&[1.0, 0.0]) }, Update { samples: 10, ..update(&[-1.0, 2.0]) }];
    let step = |rule, combine| Kept(vec![vec![1.0, 1.0]]).step(&*with(rule, combine), &mut Memory::default(), &updates);
    assert_eq!(step("rule = \"fedavg\"", ""), [1.5, 1.5]);
    assert_eq!(step("rule = \"fedavg\"", "weights = \"uniform\""), [1.0, 2.0]);
    assert_eq!(step("rule = \"fedavg\"\nrate = 2.0", ""), [2.0, 2.0]);
    assert_eq!(step("rule = \"fedprox\"", ""), [1.5, 1.5]);
    assert_eq!(step("rule = \"direct\"", ""), [1.5, 1.5]);
    assert_eq!(step("rule = \"inversion\"", ""), [1.5, 1.5]);
    assert_eq!(of("rule = \"fedprox\"\nmu = 0.3").local(), Local { proximal: 0.3, control: false });
    let nobody = [Update { samples: 0, ..update(&[2.0]) }, Update { samples: 0, ..update(&[4.0]) }];
    assert_eq!(Kept(vec![vec![0.0]]).step(&*of("rule = \"fedavg\""), &mut Memory::default(), &nobody), [3.0]);
}

#[test]
fn weighted_halves_with_every_half_life() {
    // 41 versions: one update is fresh, one 20 versions old, one 40.
    let mut kept = Kept(vec![vec![0.0]; 41]);
    let updates = [40, 20, 0].map(|base| Update { base, ..update(&[12.0]) });
    let found = kept.step(&*of("rule = \"weighted\""), &mut Memory::default(), &updates);
    near(&found, &[4.0 + 2.0 + 1.0]);
    kept.0.pop();
    let normalised = of("rule = \"weighted\"\nnormalise = true");
    near(&kept.step(&*normalised, &mut Memory::default(), &updates), &[12.0]);
}

#[test]
fn first_order_corrects_what_is_stale() {
    let rule = of("rule = \"first-order\"");
    assert!(rule.history());
    let mut kept = Kept(vec![vec![1.0, -1.0], vec![1.5, 0.0]]);
    // delta - 4 delta^2 (now - base): 0.5 - 4 * 0.25 * 0.5 and -1 - 4 * 1 * 1.
    let found = kept.step(&*rule, &mut Memory::default(), &[update(&[0.5, -1.0])]);
    assert_eq!(found, [1.5, -5.0]);
    let fresh = Update { base: 2, ..update(&[0.5, -1.0]) };
    assert_eq!(kept.step(&*rule, &mut Memory::default(), &[fresh]), [2.0, -6.0]);
    let gone = Update { base: 77, client: 5, ..update(&[0.5, -1.0]) };
    let error = kept.with(|server| rule.aggregate(&mut Memory::default(), &Server { version: 99, ..*server }, &[gone]));
    assert_eq!(error, Err(AggregateError::Version { client: 5, base: 77 }));
}

#[test]
fn weight_prediction_starts_where_the_server_will_be() {
    let rule = of("rule = \"weight-prediction\"\nbeta = 0.5");
    let mut kept = Kept(vec![vec![0.0, 1.0]]);
    let mut memory = Memory::default();
    let start =
        |memory: &Memory, kept: &Kept, client| kept.with(|server| rule.start(memory, client, server)).parameters;
    assert_eq!(start(&memory, &kept, 3), None);
    kept.step(&*rule, &mut memory, &[Update { client: 1, ..update(&[1.0, 0.0]) }]);
    // Client 1 was fresh, client 3 is not known.
    assert_eq!((start(&memory, &kept, 1), start(&memory, &kept, 3)), (None, None));
    kept.step(&*rule, &mut memory, &[Update { client: 3, base: 0, ..update(&[4.0, 2.0]) }]);
    assert_eq!(kept.0[2], [5.0, 3.0]);
    // u = 0.5 (0.5 * 1) + 0.5 * 4 = 2.25 and 0.5 * 2 = 1, over 1 - 0.25; client 3 was one version late.
    near(&start(&memory, &kept, 3).expect("predicted"), &[5.0 + 3.0, 3.0 + 4.0 / 3.0]);
    let always = of("rule = \"weight-prediction\"\nbeta = 0.5\nstaleness = 40\nmost = 2");
    let predicted = kept.with(|server| always.start(&memory, 9, server)).parameters.expect("predicted");
    near(&predicted, &[5.0 + 6.0, 3.0 + 8.0 / 3.0]);
}

#[test]
fn fedat_weighs_slow_tiers_by_the_fast_ones_updates() {
    let rule = of("rule = \"fedat\"\ntiers = 2");
    let mut kept = Kept(vec![vec![0.0, 10.0]]);
    let mut memory = Memory::default();
    // Only the fast tier was ever updated: its model is the server's.
    let fast = [Update { samples: 3, ..update(&[4.0, 0.0]) }, Update { samples: 1, ..update(&[0.0, 4.0]) }];
    assert_eq!(kept.step(&*rule, &mut memory, &fast), [3.0, 11.0]);
    kept.step(&*rule, &mut memory, &[Update { base: 1, ..update(&[1.0, 0.0]) }]);
    assert_eq!(kept.0[2], [4.0, 11.0]);
    // The slow tier started at version 0. Updates so far: 2 fast and 1 slow, of 3. Slow weighs 2/3, fast 1/3.
    let slow = Update { tier: 1, base: 0, ..update(&[6.0, -4.0]) };
    near(&kept.step(&*rule, &mut memory, &[slow]), &[(2.0 * 6.0 + 4.0) / 3.0, (2.0 * 6.0 + 11.0) / 3.0]);
    assert_eq!(memory.tiers[&0].updates, 2);
}

#[test]
fn fedat_weighs_tiers_by_samples_where_it_is_told_to() {
    let rule = of("rule = \"fedat\"\ntiers = 2\nweigh = \"samples\"");
    let mut kept = Kept(vec![vec![0.0, 10.0]]);
    let mut memory = Memory::default();
    let fast = [Update { samples: 3, ..update(&[4.0, 0.0]) }, Update { samples: 1, ..update(&[0.0, 4.0]) }];
    assert_eq!(kept.step(&*rule, &mut memory, &fast), [3.0, 11.0]);
    // The slow tier's model is [6, 6]; it has trained on 1 of 5 samples.
    let slow = Update { tier: 1, base: 0, ..update(&[6.0, -4.0]) };
    near(&kept.step(&*rule, &mut memory, &[slow]), &[(4.0 * 3.0 + 6.0) / 5.0, (4.0 * 11.0 + 6.0) / 5.0]);
    assert_eq!((memory.tiers[&0].samples, memory.tiers[&1].samples), (4, 1));
}

#[test]
fn settings_out_of_range_are_refused() {
    for text in [
        "rule = \"fedavg\"\nrate = 0.0",
        "rule = \"fedavg\"\nrate = nan",
        "rule = \"fedprox\"\nmu = -1.0",
        "rule = \"weighted\"\nhalf_life = -2.0",
        "rule = \"first-order\"\nlambda = inf",
        "rule = \"weight-prediction\"\nbeta = 1.0",
        "rule = \"fedat\"\ntiers = 0",
        "rule = \"inversion\"\ncoordinates = 1",
        "rule = \"inversion\"\nsmoothing = 1.0",
    ] {
        let rule: Rule = toml::from_str(text).expect("a rule");
        let error = strategy(&rule, &Combine::default()).expect_err(text).to_string();
        assert!(error.contains(rule.name()), "{error}");
    }
}
