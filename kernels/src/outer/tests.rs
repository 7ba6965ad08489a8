//! Steps computed by hand and in `f64`, the fused form, and the scalar twin.

use super::*;
use crate::reduce::{ReduceOp, divide_slice, reduce_slices};
use crate::testing::{ISAS, Numbers, same_bits, worst_difference};

const RULES: [Rule; 8] = [
    Rule::Sgd { momentum: 0.0, nesterov: false },
    Rule::Sgd { momentum: 0.9, nesterov: false },
    Rule::Sgd { momentum: 0.9, nesterov: true },
    Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, bias_correction: true },
    Rule::Adam { beta1: 0.9, beta2: 0.95, eps: 1e-6, weight_decay: 0.1, bias_correction: true },
    Rule::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-3, weight_decay: 0.0, bias_correction: false },
    Rule::Adagrad { beta1: 0.5, eps: 1e-3 },
    Rule::Yogi { beta1: 0.9, beta2: 0.99, eps: 1e-3 },
];

/// Parameters and both states.
type Buffers = [Vec<f32>; 3];

fn second(rule: Rule, v: &mut [f32]) -> &mut [f32] {
    if rule.has_second() { v } else { &mut [] }
}

/// `steps` steps from `start`, each with the mean of the same sources.
fn run(isa: Isa, rule: Rule, sources: &[&[f32]], divisor: u32, start: &Buffers, steps: u64) -> Buffers {
    let [mut p, mut m, mut v] = start.clone();
    for t in 1..=steps {
        let state = State { first: &mut m, second: second(rule, &mut v) };
        mean_step_on(isa, rule, 0.5, t, sources, divisor, &mut p, state);
    }
    [p, m, v]
}

fn one(rule: Rule, g: f32, [p, m, v]: [f32; 3], t: u64) -> [f32; 3] {
    let [mut p, mut m, mut v] = [vec![p], vec![m], vec![v]];
    step(rule, 0.5, t, &[g], &mut p, State { first: &mut m, second: second(rule, &mut v) });
    [p[0], m[0], v[0]]
}

#[test]
fn steps_by_hand() {
    let sgd = Rule::Sgd { momentum: 0.5, nesterov: false };
    assert_eq!(one(sgd, 2.0, [1.0, 4.0, 0.0], 1), [1.0 - 0.5 * 4.0, 4.0, 0.0]);
    let nesterov = Rule::Sgd { momentum: 0.5, nesterov: true };
    assert_eq!(one(nesterov, 2.0, [1.0, 4.0, 0.0], 1), [1.0 - 0.5 * (2.0 + 0.5 * 4.0), 4.0, 0.0]);

    // The first step of Adam goes by the learning rate, whatever the gradient: m' = g and v' = g^2.
    let adam = Rule::Adam { beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 0.0, bias_correction: true };
    assert_eq!(one(adam, 8.0, [1.0, 0.0, 0.0], 1), [0.5, 4.0, 16.0]);
    assert_eq!(one(adam, -0.25, [1.0, 0.0, 0.0], 1), [1.5, -0.125, 0.015625]);
    // The second one: m = 5, m' = 5 / (3/4), v = 13, v' = 13 / (7/16).
    let [p, m, v] = one(adam, 6.0, [1.0, 4.0, 16.0 / 3.0], 2);
    let expected = 1.0 - 0.5 * (5.0 / 0.75) / (13.0f64 / (7.0 / 16.0)).sqrt();
    assert!((f64::from(p) - expected).abs() < 1e-6, "{p} for {expected}");
    assert_eq!((m, v), (5.0, 13.0));
    // Decoupled decay: 0.5 * 0.25 of the parameter goes beforehand.
    let adamw = Rule::Adam { beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 0.25, bias_correction: true };
    assert_eq!(one(adamw, 8.0, [4.0, 0.0, 0.0], 1), [4.0 * 0.875 - 0.5, 4.0, 16.0]);
    let plain = Rule::Adam { beta1: 0.5, beta2: 0.75, eps: 1.0, weight_decay: 0.0, bias_correction: false };
    assert_eq!(one(plain, 8.0, [1.0, 0.0, 0.0], 1), [1.0 - 0.5 * 4.0 / (4.0 + 1.0), 4.0, 16.0]);

    let adagrad = Rule::Adagrad { beta1: 0.0, eps: 1.0 };
    assert_eq!(one(adagrad, 3.0, [1.0, 0.0, 16.0], 1), [1.0 - 0.5 * 3.0 / 6.0, 3.0, 25.0]);

    // Yogi goes down where v is above g^2, up where it is below, and stays where they are equal.
    let yogi = Rule::Yogi { beta1: 0.0, beta2: 0.75, eps: 0.0 };
    assert_eq!(one(yogi, 2.0, [1.0, 0.0, 10.0], 1)[2], 9.0);
    assert_eq!(one(yogi, 2.0, [1.0, 0.0, 0.0], 1), [1.0 - 0.5 * 2.0, 2.0, 1.0]);
    assert_eq!(one(yogi, 2.0, [1.0, 0.0, 4.0], 1), [1.0 - 0.5, 2.0, 4.0]);
}

/// The table of the module's documentation, on `f64`.
fn truth(rule: Rule, g: f64, [p, m, v]: [f64; 3], t: u64) -> [f64; 3] {
    let wide = |x: f32| f64::from(x);
    let average = |beta: f32, old: f64, new: f64| wide(beta) * old + (1.0 - wide(beta)) * new;
    let lr = 0.5;
    match rule {
        Rule::Sgd { momentum, nesterov } => {
            let m = wide(momentum) * m + g;
            [p - lr * if nesterov { g + wide(momentum) * m } else { m }, m, v]
        }
        Rule::Adam { beta1, beta2, eps, weight_decay, bias_correction } => {
            let (m, v) = (average(beta1, m, g), average(beta2, v, g * g));
            let correction = |beta: f32| if bias_correction { 1.0 - wide(beta).powi(t as i32) } else { 1.0 };
            let direction = m / correction(beta1) / ((v / correction(beta2)).sqrt() + wide(eps));
            [p - lr * wide(weight_decay) * p - lr * direction, m, v]
        }
        Rule::Adagrad { beta1, eps } => {
            let (m, v) = (average(beta1, m, g), v + g * g);
            [p - lr * m / (v.sqrt() + wide(eps)), m, v]
        }
        Rule::Yogi { beta1, beta2, eps } => {
            let sign = if v == g * g { 0.0 } else { (v - g * g).signum() };
            let (m, v) = (average(beta1, m, g), v - (1.0 - wide(beta2)) * g * g * sign);
            [p - lr * m / (v.sqrt() + wide(eps)), m, v]
        }
    }
}

#[test]
fn several_steps_follow_the_formulas() {
    let mut numbers = Numbers(21);
    let len = 100;
    let g = numbers.values(len, 1.0);
    let start = [numbers.values(len, 1.0), vec![0.0; len], vec![1e-3; len]];
    for rule in RULES {
        let mut start = start.clone();
        if !matches!(rule, Rule::Yogi { .. }) {
            start[2] = vec![0.0; len];
        }
        let got = run(detected(), rule, &[&g], 1, &start, 5);
        let mut expected: [Vec<f64>; 3] = Default::default();
        for i in 0..len {
            let mut values = [0, 1, 2].map(|b| f64::from(start[b][i]));
            for t in 1..=5 {
                values = truth(rule, f64::from(g[i]), values, t);
            }
            (0..3).for_each(|b| expected[b].push(values[b]));
        }
        for (b, name) in ["p", "m", "v"].into_iter().enumerate() {
            let worst = worst_difference(&got[b], &expected[b]);
            assert!(worst < 3e-6, "{rule:?}: {name} is off by {worst}");
        }
    }
}

#[test]
fn the_fused_step_equals_its_parts_and_the_scalar_twin_bit_for_bit() {
    let mut numbers = Numbers(22);
    let lengths: Vec<usize> = if cfg!(miri) { vec![0, 9] } else { (0..=70).chain([1_003]).collect() };
    for (len, n) in lengths.into_iter().flat_map(|len| [1, 2, 5].map(|n| (len, n))) {
        let mut owned: Vec<Vec<f32>> = (0..n).map(|_| numbers.values(len, 2.0)).collect();
        if let Some(x) = owned[n - 1].get_mut(6) {
            *x = f32::INFINITY;
        }
        let sources: Vec<&[f32]> = owned.iter().map(Vec::as_slice).collect();
        let start = [numbers.values(len, 1.0), numbers.values(len, 0.1), vec![0.25; len]];
        let mut mean = vec![0.0; len];
        reduce_slices(ReduceOp::Sum, &sources, &mut mean);
        divide_slice(&mut mean, n as u32);
        for rule in RULES {
            let expected = run(Isa::Scalar, rule, &[&mean], 1, &start, 2);
            for isa in ISAS {
                let got = run(isa, rule, &sources, n as u32, &start, 2);
                let same = got.iter().zip(&expected).all(|(got, expected)| same_bits(got, expected));
                assert!(same, "{isa:?} {rule:?} {len} parameters, {n} sources");
            }
        }
    }
}

#[test]
fn powers_are_right() {
    assert_eq!((power(0.5, 0), power(0.5, 1), power(0.5, 10)), (1.0, 0.5, 2f64.powi(-10)));
    assert_eq!(power(3.0, 13), 1_594_323.0);
}

#[test]
#[should_panic(expected = "the second state does not fit")]
fn a_missing_state_is_named() {
    step(RULES[7], 0.1, 1, &[1.0], &mut [1.0], State { first: &mut [0.0], second: &mut [] });
}
