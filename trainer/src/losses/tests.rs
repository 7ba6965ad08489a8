//! Tests of the losses.

use super::*;

const EACH: [Loss; 4] = [Loss::Grpo, Loss::DrGrpo, Loss::Cispo, Loss::Gspo];

/// Two completions, of two tokens and of one, with ratios on both sides of the bounds.
const LOGP: [f64; 3] = [-0.5, -2.0, -1.0];
const ADVANTAGE: [f64; 3] = [1.5, 1.5, -0.7];
const WEIGHT: [f64; 3] = [0.2, 0.3, 0.5];

fn clip(loss: Loss) -> Clip {
    let (low, high) = loss.default_clip();
    Clip { loss, low, high, ratio_cap: None }
}

/// The loss, its gradient by each log-probability, and where it was clipped.
fn compute(clip: &Clip, logp: [f64; 3], log_ratio: [f64; 3], advantage: [f64; 3]) -> (f64, Vec<f64>, Vec<f32>) {
    let old: Vec<f64> = LOGP.iter().zip(log_ratio).map(|(l, r)| l - r).collect();
    let logp = Tensor::from_slice(&logp).set_requires_grad(true);
    let sequences = Sequences {
        of: Tensor::from_slice(&[0i64, 0, 1]),
        inverse_length: Tensor::from_slice(&[0.5f64, 0.5, 1.0]),
        count: 2,
    };
    let tokens = Tokens {
        logp: &logp,
        old: &Tensor::from_slice(&old),
        advantage: &Tensor::from_slice(&advantage),
        weight: &Tensor::from_slice(&WEIGHT),
        sequences: (clip.loss == Loss::Gspo).then_some(&sequences),
    };
    let (loss, clipped) = policy_loss(clip, &tokens).expect("a loss");
    let gradient = Tensor::run_backward(&[&loss], &[&logp], false, false);
    (
        loss.double_value(&[]),
        Vec::try_from(&gradient[0]).expect("a gradient"),
        Vec::try_from(&clipped).expect("where it was clipped"),
    )
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12 * (1.0 + b.abs())
}

fn all_near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| near(a, b))
}

#[test]
fn at_the_old_policy_the_gradient_is_the_weighted_advantage() {
    for loss in EACH {
        let (value, gradient, clipped) = compute(&clip(loss), LOGP, [0.0; 3], ADVANTAGE);
        if loss == Loss::Gspo {
            // Both tokens of the first completion move its ratio: each gets the mean of both.
            assert!(all_near(&gradient, &[-0.375, -0.375, 0.35]), "{gradient:?}");
        } else {
            assert!(all_near(&gradient, &[-0.3, -0.45, 0.35]), "{loss:?} {gradient:?}");
        }
        let expected = match loss {
            Loss::Cispo => -(0.3 * -0.5 + 0.45 * -2.0 - 0.35 * LOGP[2]),
            _ => -(0.3 + 0.45 - 0.35),
        };
        assert!(near(value, expected), "{loss:?}");
        assert_eq!(clipped, [0.0; 3]);
    }
}

#[test]
fn token_ratios_are_clipped_on_the_side_that_goes_too_far() {
    // 1.5 is above 1.28, 0.5 with a positive advantage may come back, 0.5 with a negative one has gone too far.
    let log_ratio = [1.5f64.ln(), 0.5f64.ln(), 0.5f64.ln()];
    let (value, gradient, clipped) = compute(&clip(Loss::Grpo), LOGP, log_ratio, ADVANTAGE);
    assert!(near(value, -(0.2 * 1.28 * 1.5 + 0.3 * 0.5 * 1.5 + 0.5 * 0.8 * -0.7)));
    assert!(all_near(&gradient, &[0.0, -0.3 * 0.5 * 1.5, 0.0]), "{gradient:?}");
    assert_eq!(clipped, [1.0, 0.0, 1.0]);
    assert_eq!(compute(&clip(Loss::DrGrpo), LOGP, log_ratio, ADVANTAGE), (value, gradient, clipped));
}

#[test]
fn the_cap_bounds_what_a_negative_advantage_can_do() {
    let log_ratio = [1.2f64.ln(), 0.0, 10f64.ln()];
    let (value, gradient, _) = compute(&clip(Loss::Grpo), LOGP, log_ratio, ADVANTAGE);
    assert!(near(value, -(0.2 * 1.2 * 1.5 + 0.3 * 1.5 - 0.5 * 10.0 * 0.7)));
    assert!(near(gradient[2], 0.5 * 10.0 * 0.7));
    let capped = Clip { ratio_cap: Some(4.0), ..clip(Loss::Grpo) };
    let (value, gradient, _) = compute(&capped, LOGP, log_ratio, ADVANTAGE);
    assert!(near(value, -(0.2 * 1.2 * 1.5 + 0.3 * 1.5 - 0.5 * 4.0 * 0.7)));
    assert!(all_near(&gradient, &[-0.2 * 1.2 * 1.5, -0.3 * 1.5, 0.0]), "{gradient:?}");
}

#[test]
fn cispo_bounds_the_ratio_and_keeps_every_gradient() {
    let log_ratio = [7f64.ln(), 0.1f64.ln(), 2f64.ln()];
    let (value, gradient, clipped) = compute(&clip(Loss::Cispo), LOGP, log_ratio, ADVANTAGE);
    assert!(near(value, -(0.2 * 5.0 * 1.5 * -0.5 + 0.3 * 0.1 * 1.5 * -2.0 + 0.5 * 2.0 * -0.7 * LOGP[2])));
    assert!(all_near(&gradient, &[-0.2 * 5.0 * 1.5, -0.3 * 0.1 * 1.5, 0.5 * 2.0 * 0.7]), "{gradient:?}");
    assert_eq!(clipped, [1.0, 0.0, 0.0]);
}

#[test]
fn gspo_takes_the_ratio_of_the_sequence() {
    // Mean of the logarithms: (0.0004 - 0.0002) / 2 = 0.0001, within 4e-4; each token alone would not say so.
    let (value, gradient, clipped) = compute(&clip(Loss::Gspo), LOGP, [4e-4, -2e-4, -1e-3], ADVANTAGE);
    let ratio = 1e-4f64.exp();
    assert!(near(value, -(0.5 * ratio * 1.5 + 0.5 * (1.0 - 3e-4) * -0.7)));
    assert!(all_near(&gradient, &[-0.25 * ratio * 1.5, -0.25 * ratio * 1.5, 0.0]), "{gradient:?}");
    assert_eq!(clipped, [0.0, 0.0, 1.0]);
}

#[test]
fn gradients_equal_finite_differences() {
    let step = 1e-6;
    let log_ratio = [0.1, -0.15, 0.12];
    for loss in EACH {
        let wide = Clip { low: 0.3, high: 0.4, ratio_cap: Some(3.0), ..clip(loss) };
        let (_, gradient, _) = compute(&wide, LOGP, log_ratio, ADVANTAGE);
        for token in 0..3 {
            // Cispo's ratio is a constant to its gradient, so only logp moves there: see the test above.
            if loss == Loss::Cispo {
                continue;
            }
            let at = |by: f64| {
                let mut logp = LOGP;
                logp[token] += by;
                compute(&wide, logp, log_ratio, ADVANTAGE).0
            };
            let slope = (at(step) - at(-step)) / (2.0 * step);
            assert!((slope - gradient[token]).abs() < 1e-8, "{loss:?} token {token}: {slope} {}", gradient[token]);
        }
    }
}

#[test]
fn divergence_is_the_third_estimator() {
    let logp = Tensor::from_slice(&LOGP).set_requires_grad(true);
    let reference = Tensor::from_slice(&[-0.5f64, -1.0, -1.3]);
    let weight = Tensor::from_slice(&WEIGHT);
    let loss = kl_loss(&logp, &reference, &weight).expect("a loss");
    let expected = 0.3 * (1f64.exp() - 2.0) + 0.5 * ((-0.3f64).exp() + 0.3 - 1.0);
    assert!(near(loss.double_value(&[]), expected));
    let gradient = Tensor::run_backward(&[&loss], &[&logp], false, false);
    let gradient: Vec<f64> = Vec::try_from(&gradient[0]).expect("a gradient");
    assert!(all_near(&gradient, &[0.0, 0.3 * (1.0 - 1f64.exp()), 0.5 * (1.0 - (-0.3f64).exp())]), "{gradient:?}");
    let imitation = imitation_loss(&logp, &weight).expect("a loss");
    assert!(near(imitation.double_value(&[]), 0.2 * 0.5 + 0.3 * 2.0 + 0.5));
}

#[test]
fn advantages_are_centred_and_scaled_by_the_loss() {
    let rewards = [1.0, 0.0, 0.0, 1.0, 0.5];
    // The mean is 0.5 and the squares sum to 1: the deviation is sqrt(1 / 4).
    let scaled = Loss::Grpo.advantages(&rewards);
    let expected = 0.5 / (0.5 + 1e-4);
    for (got, sign) in scaled.iter().zip([1.0, -1.0, -1.0, 1.0, 0.0]) {
        assert!((f64::from(*got) - sign * expected).abs() < 1e-6, "{scaled:?}");
    }
    assert_eq!(Loss::Gspo.advantages(&rewards), scaled);
    assert_eq!(Loss::DrGrpo.advantages(&rewards), [0.5, -0.5, -0.5, 0.5, 0.0]);
    for loss in EACH {
        assert_eq!(loss.advantages(&[]), [0.0; 0]);
        assert_eq!(loss.advantages(&[0.7]), [0.0]);
        // The mean of equal numbers need not be equal to them in f32.
        assert_eq!(loss.advantages(&[0.1; 7]), [0.0; 7]);
    }
}

#[test]
fn weights_average_as_each_loss_says() {
    // Two completions, of 3 tokens and of 7.
    let sum = |loss: Loss| 3.0 * loss.token_weight(3, 2, 10, 256) + 7.0 * loss.token_weight(7, 2, 10, 256);
    for loss in [Loss::Grpo, Loss::Cispo, Loss::Gspo] {
        assert!(near(sum(loss), 1.0), "{loss:?}");
    }
    assert!(near(sum(Loss::DrGrpo), 10.0 / 512.0));
    assert_eq!(Loss::Grpo.token_weight(3, 2, 10, 256), Loss::Grpo.token_weight(7, 2, 10, 256));
    assert!(near(3.0 * Loss::Gspo.token_weight(3, 2, 10, 256), 0.5));
    assert_eq!(serde_json::to_string(&Loss::DrGrpo).expect("json"), "\"dr-grpo\"");
}
