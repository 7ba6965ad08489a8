//! Rules with a memory or with asynchronous clients. Numbers are from an independent program in numpy (double precision).

use super::*;

const START: [f32; 3] = [0.5, -1.0, 2.0];
const OLD: [f32; 3] = [0.4, -1.1, 2.5];

/// Two updates a round, of 3 samples and of 1.
fn round(number: usize, clients: [u32; 2], bases: [u64; 2]) -> Vec<Update> {
    let deltas = [[[0.1, -0.2, 0.3], [-0.4, 0.5, 0.05]], [[0.2, 0.1, -0.3], [0.0, -0.5, 0.25]]];
    (0..2)
        .map(|at| Update {
            client: clients[at],
            base: bases[at],
            samples: [3, 1][at],
            steps: [5, 2][at],
            ..update(&deltas[number][at])
        })
        .collect()
}

#[test]
fn adaptive_rules_take_the_steps_of_the_paper() {
    let expected: [(&str, [[f64; 3]; 2]); 3] = [
        ("fedadam", [[0.49322626, -1.00677374, 2.00958789], [0.50107868, -1.01764062, 2.01131371]]),
        ("fedyogi", [[0.49322967, -1.00677033, 2.00958781], [0.50108078, -1.0176254, 2.01130792]]),
        ("fedadagrad", [[0.40392003, -1.09607997, 2.09957983], [0.50191291, -1.183937, 2.04330733]]),
    ];
    for (rule, steps) in expected {
        let mut kept = Kept(vec![START.to_vec()]);
        let mut memory = Memory::default();
        for (number, wanted) in steps.iter().enumerate() {
            near(&kept.step(&*of(&format!("rule = {rule:?}")), &mut memory, &round(number, [0, 1], [0, 0])), wanted);
        }
    }
}

#[test]
fn fadas_is_slower_where_updates_are_late() {
    let mut kept = Kept(vec![START.to_vec()]);
    let mut memory = Memory::default();
    let rule = of("rule = \"fadas\"");
    let first = kept.step(&*rule, &mut memory, &round(0, [0, 1], [0, 0]));
    near(&first, &[0.499, -0.999, 2.001]);
    // Of what falls, the largest counts: m is 0.09 of the delta and w 0.01 of its square.
    let mut later = (Kept(vec![first.clone()]), memory.clone());
    let rest = later.0.step(&*rule, &mut later.1, &[update(&[0.0; 3])]);
    near(&rest, &[0.499 - 0.0009, -0.999 + 0.0009, 2.001 + 0.0009]);
    // Versions 0 to 3: what started from 0 is three versions late.
    let mut kept = Kept(vec![first; 4]);
    near(&kept.step(&*rule, &mut memory, &round(1, [0, 1], [2, 0])), &[0.49893506, -0.99908682, 2.00125108]);
}

#[test]
fn port_weighs_by_direction_and_freshness() {
    let mut kept = Kept(vec![OLD.to_vec(), OLD.to_vec(), START.to_vec()]);
    let found = kept.step(&*of("rule = \"port\""), &mut Memory::default(), &round(0, [0, 1], [2, 0]));
    near(&found, &[0.50060019, -1.06084026, 2.25030009]);
}

#[test]
fn fednova_takes_steps_out() {
    let step = |text| Kept(vec![START.to_vec()]).step(&*of(text), &mut Memory::default(), &round(0, [0, 1], [0, 0]));
    near(&step("rule = \"fednova\""), &[0.35125, -0.861875, 2.2178125]);
    // What each gradient counts for, summed one by one there.
    near(&step("rule = \"fednova\"\nmomentum = 0.9"), &[0.19545322, -0.66460665, 2.22677721]);
    let idle = Update { steps: 0, ..update(&[0.0, 0.0, 0.0]) };
    let found = Kept(vec![START.to_vec()]).step(&*of("rule = \"fednova\""), &mut Memory::default(), &[idle]);
    assert_eq!(found, START);
}

#[test]
fn scaffold_keeps_variates_of_the_server_and_of_every_client() {
    let rule = of("rule = \"scaffold\"");
    assert!(rule.local().control);
    let mut kept = Kept(vec![START.to_vec()]);
    let mut memory = Memory::default();
    // Four clients, five steps of 0.1 each.
    let expected = [[[0.0; 3]; 2], [[-0.65, 0.85, -0.075], [0.15, -0.15, -0.175]]];
    for (number, clients) in [[0, 1], [1, 2]].into_iter().enumerate() {
        let mut updates = round(number, clients, [number as u64; 2]);
        for (update, wanted) in updates.iter_mut().zip(expected[number]) {
            let start = kept.with(|server| rule.start(&memory, update.client, server));
            near(start.correction.as_deref().unwrap_or(&[0.0; 3]), &wanted);
            update.control = rule.control(&memory, update.client, &start, &update.delta, 5, 0.1);
        }
        kept.step(&*rule, &mut memory, &updates);
    }
    near(&kept.0[2], &[0.45, -1.05, 2.15]);
    near(&memory.common, &[-0.025, 0.125, -0.0625]);
    let own = [[-0.2, 0.4, -0.6], [0.25, -1.05, 0.675], [-0.15, 1.15, -0.325]];
    for (client, wanted) in own.iter().enumerate() {
        near(&memory.of_client[&(client as u32)], wanted);
    }
    let error = kept.with(|server| rule.aggregate(&mut memory, server, &[update(&[0.0; 3])]));
    assert_eq!(error, Err(AggregateError::Control { client: 0 }));
}

#[test]
fn ca2fl_corrects_by_what_is_cached() {
    let rule = of("rule = \"ca2fl\"");
    let mut kept = Kept(vec![START.to_vec()]);
    let mut memory = Memory::default();
    near(&kept.step(&*rule, &mut memory, &round(0, [0, 1], [0, 0])), &[0.35, -0.85, 2.175]);
    near(&kept.step(&*rule, &mut memory, &round(1, [1, 2], [0, 1])), &[0.575, -1.225, 2.2125]);
    // The mean over all four clients of what is cached: 0.1, 0.2 and 0 in the first value.
    near(&memory.common[..1], &[0.075]);
}

#[test]
fn fedasync_mixes_one_after_the_other() {
    let mut kept = Kept(vec![OLD.to_vec(), OLD.to_vec(), START.to_vec()]);
    let found = kept.step(&*of("rule = \"fedasync\""), &mut Memory::default(), &round(0, [0, 1], [2, 0]));
    near(&found, &[0.36601031, -0.93986672, 2.30817176]);
    let constant = of("rule = \"fedasync\"\nalpha = 1.0\ndiscount = \"constant\"");
    near(&kept.step(&*constant, &mut Memory::default(), &round(0, [0, 1], [2, 0])[1..]), &[0.0, -0.6, 2.55]);
    assert_eq!(constant.local().proximal, 0.005);
}

#[test]
fn staleness_discounts_are_those_of_the_paper() {
    let hinge: Discount = toml::from_str::<FedAsync>("discount = { hinge = {} }").expect("read").discount;
    assert_eq!(hinge, Discount::Hinge { a: 10.0, b: 4.0 });
    assert_eq!([0, 4, 5, 6].map(|staleness| hinge.of(staleness)), [1.0, 1.0, 1.0 / 11.0, 1.0 / 21.0]);
    assert_eq!([0, 3].map(|staleness| Discount::Polynomial { a: 0.5 }.of(staleness)), [1.0, 0.5]);
    assert!(toml::from_str::<FedAsync>("discount = { hinge = { c = 1.0 } }").is_err());
}

#[test]
fn fedbuff_discounts_by_the_root() {
    let mut kept = Kept(vec![OLD.to_vec(), OLD.to_vec(), START.to_vec()]);
    let found = kept.step(&*of("rule = \"fedbuff\"\nrate = 2.0"), &mut Memory::default(), &round(0, [0, 1], [2, 0]));
    near(&found, &[0.36905989, -0.91132487, 2.32886751]);
}

#[test]
fn settings_of_these_rules_are_checked_too() {
    for text in [
        "rule = \"fedadam\"\nbeta2 = 1.0",
        "rule = \"fedyogi\"\ntau = 0.0",
        "rule = \"fedadagrad\"\nrate = -1.0",
        "rule = \"fadas\"\neps = nan",
        "rule = \"fedasync\"\nalpha = 1.5",
        "rule = \"fedasync\"\ndiscount = { polynomial = { a = -1.0 } }",
        "rule = \"fedbuff\"\nrate = 0.0",
        "rule = \"port\"\nbound = 0.0",
        "rule = \"fednova\"\nmomentum = 1.0",
        "rule = \"scaffold\"\nrate = inf",
        "rule = \"ca2fl\"\nrate = 0.0",
    ] {
        let rule: Rule = toml::from_str(text).expect("a rule");
        let error = strategy(&rule, &Combine::default()).expect_err(text).to_string();
        assert!(error.contains(rule.name()), "{error}");
    }
}
