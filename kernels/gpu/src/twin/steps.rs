//! Optimizer steps.

use swarmloom_kernels::Isa;
use swarmloom_kernels::outer::{Rule, State, mean_step_on};

use super::*;
use crate::calls;

fn rules() -> Vec<Rule> {
    let adam = |weight_decay, bias_correction| Rule::Adam {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay,
        bias_correction,
    };
    vec![
        Rule::Sgd { momentum: 0.0, nesterov: false },
        Rule::Sgd { momentum: 0.9, nesterov: false },
        Rule::Sgd { momentum: 0.9, nesterov: true },
        adam(0.0, false),
        adam(0.01, true),
        Rule::Adagrad { beta1: 0.0, eps: 1e-8 },
        Rule::Adagrad { beta1: 0.9, eps: 1e-3 },
        Rule::Yogi { beta1: 0.9, beta2: 0.99, eps: 1e-3 },
    ]
}

#[test]
fn steps_have_the_scalar_twins_bits() {
    everywhere(|machine| {
        let mut numbers = Numbers(5);
        for rule in rules() {
            for (n, divisor, count) in [(1, 1, 1), (2, 2, 300), (3, 3, 1001), (8, 8, 64), (64, 7, 65)] {
                let start = |numbers: &mut Numbers| match count {
                    // A gradient whose square is the second state: there, Yogi's sign is zero.
                    1 => vec![0.5],
                    300 => numbers.elements(count),
                    _ => numbers.values(count, 1.0),
                };
                let mut parameters: Vec<f32> = start(&mut numbers);
                let mut first = vec![0.0; count];
                let kept = if count == 1 { 0.25 } else { 0.0 };
                let mut second = vec![kept; if rule.has_second() { count } else { 0 }];
                let p = machine.put(&parameters, 0);
                let m = machine.put(&first, 0);
                let v = machine.put(&second, 0);
                for t in 1..=4 {
                    let sources: Vec<Vec<f32>> = (0..n).map(|_| start(&mut numbers)).collect();
                    let slices: Vec<&[f32]> = sources.iter().map(Vec::as_slice).collect();
                    let state = State { first: &mut first, second: &mut second };
                    mean_step_on(Isa::Scalar, rule, 0.7, t, &slices, divisor, &mut parameters, state);
                    let at: Vec<u64> = sources.iter().map(|source| machine.put(source, 0)).collect();
                    machine.run(calls::step((rule, 0.7, t), &at, divisor, count, [p, m, v]));
                    let what = format!("{rule:?} {n} x {count} / {divisor}, step {t}");
                    assert!(same(&machine.get::<f32>(m, count), &first), "{what}: m");
                    assert!(same(&machine.get::<f32>(v, second.len()), &second), "{what}: v");
                    assert!(same(&machine.get::<f32>(p, count), &parameters), "{what}: p");
                }
                machine.clear();
            }
        }
    });
}
