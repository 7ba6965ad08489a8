//! Tests of the learner.

use super::*;
use crate::model::preset;

fn model() -> ModelConfig {
    ModelConfig { max_position_embeddings: 256, ..preset("nano").expect("nano") }
}

fn learner(config: LearnerConfig) -> Learner {
    let model = model();
    Learner::new(&model, &Weights::init(&model, 5), config, Device::Cpu, 1).expect("a learner")
}

fn group(prompt: &str, completions: &[(&str, Finish, f32)]) -> TrainGroup {
    let completion =
        |&(bytes, finish, reward): &(&str, Finish, f32)| TrainCompletion { bytes: bytes.into(), finish, reward };
    TrainGroup { prompt: prompt.into(), completions: completions.iter().map(completion).collect() }
}

fn batch() -> StepBatch {
    use Finish::{Length, Stop};
    StepBatch {
        groups: vec![
            group("2+2=", &[("4", Stop, 1.0), ("5", Stop, 0.0), ("44", Length, 0.0), ("4", Stop, 1.0)]),
            group(
                "a question of another length: ",
                &[("yes", Stop, 0.0), ("no, it is not", Stop, 1.0), ("", Stop, 0.25)],
            ),
            group("easy", &[("a", Stop, 1.0), ("a", Stop, 1.0)]),
        ],
        imitation: vec![],
    }
}

fn examples() -> Vec<Example> {
    let pairs = [("cat:", "tac"), ("dog:", "god"), ("cat:", "tac"), ("cat:", "cat"), ("house:", "esuoh")];
    pairs.map(|(prompt, completion)| Example { prompt: prompt.into(), completion: completion.into() }).to_vec()
}

fn logprob(learner: &Learner, prompt: &str, completion: &str, stopped: bool) -> f32 {
    learner.log_probs(prompt.as_bytes(), completion.as_bytes(), stopped).expect("log-probabilities").iter().sum()
}

/// The largest difference between two learners' weights.
fn apart(one: &Learner, other: &Learner) -> f32 {
    let differences = one.weights().values().iter().zip(other.weights().values()).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn examples_are_learnt() {
    let mut learner = learner(LearnerConfig::default());
    let examples = examples();
    let first = learner.supervised_step(&examples, 3e-3).expect("a step");
    // The start knows nothing: about ln 257, and something for the spread of the logits.
    assert!((5.0..6.8).contains(&first.loss), "{first:?}");
    assert_eq!(first.imitation_loss, Some(first.loss));
    assert_eq!((first.imitation_tokens, first.tokens, first.updates), (4 * 4 + 6, 0, 1));
    // Three prompts of 5, 5 and 7 tokens; the examples of one share it, and equal ones are computed once.
    assert_eq!(first.computed_tokens, (5 + 3 + 3) + (5 + 3) + (7 + 5));
    let mut last = 0.0;
    for _ in 0..60 {
        last = learner.supervised_step(&examples, 3e-3).expect("a step").loss;
    }
    // One of three completions after "cat:" is another: its entropy, shared by 22 tokens, stays.
    assert!(last < 0.25, "{last}");
    assert!(logprob(&learner, "house:", "esuoh", true) > -0.5);
}

#[test]
fn rewarded_completions_become_likelier_and_others_less() {
    let mut learner = learner(LearnerConfig::default());
    let before = (logprob(&learner, "2+2=", "4", true), logprob(&learner, "2+2=", "5", true));
    let report = learner.step(&batch(), 1e-3).expect("a step");
    assert!(logprob(&learner, "2+2=", "4", true) > before.0 + 0.01);
    assert!(logprob(&learner, "2+2=", "5", true) < before.1 - 0.01);
    assert_eq!((report.groups_used, report.groups_without_advantage, report.updates), (2, 1, 1));
    // 2 + 2 + 2 + 2 and 4 + 14 + 1; a completion cut off has no end.
    assert_eq!(report.tokens, 8 + 19);
    assert_eq!((report.clip_fraction, report.skipped.as_deref()), (0.0, None));
    assert!(report.grad_norm > 0.0);
    assert_eq!(report.group_logprobs[2], None, "nothing of it is computed");
    let logp = report.group_logprobs[0].expect("computed");
    let all = 2.0 * before.0 + before.1 + logprob_before("2+2=", "44");
    assert!((logp - all / 8.0).abs() < 1e-4, "{logp} {}", all / 8.0);
}

fn logprob_before(prompt: &str, completion: &str) -> f32 {
    logprob(&learner(LearnerConfig::default()), prompt, completion, false)
}

/// The loss at the old policy is a sum of advantages that can be computed by hand.
#[test]
fn averages_over_groups_of_any_size_are_those_of_the_loss() {
    for loss in [Loss::Grpo, Loss::DrGrpo, Loss::Gspo] {
        for filter_zero_advantage in [true, false] {
            let config = LearnerConfig { loss, filter_zero_advantage, length_divisor: 20, ..LearnerConfig::default() };
            let report = learner(config).step(&batch(), 0.0).expect("a step");
            let lengths = [vec![2, 2, 2, 2], vec![4, 14, 1], vec![2, 2]];
            let groups = if filter_zero_advantage { 2 } else { 3 };
            let sequences = lengths[..groups].iter().map(Vec::len).sum::<usize>() as f64;
            let tokens = lengths[..groups].iter().flatten().sum::<usize>() as f64;
            let mut expected = 0.0;
            for (group, lengths) in batch().groups.iter().zip(&lengths) {
                let rewards: Vec<f32> = group.completions.iter().map(|c| c.reward).collect();
                for (advantage, &length) in loss.advantages(&rewards).into_iter().zip(lengths) {
                    expected -= f64::from(advantage)
                        * match loss {
                            Loss::DrGrpo => length as f64 / (sequences * 20.0),
                            Loss::Gspo => 1.0 / sequences,
                            _ => length as f64 / tokens,
                        };
                }
            }
            assert!((report.policy_loss - expected).abs() < 1e-6, "{loss:?}: {} {expected}", report.policy_loss);
            assert_eq!(report.tokens as f64, tokens);
        }
    }
}

#[test]
fn how_a_batch_is_cut_up_changes_rounding_alone() {
    let mut batch = batch();
    batch.imitation = examples();
    let mut whole = learner(LearnerConfig::default());
    let mut pieces = learner(LearnerConfig { micro_batch_tokens: 24, ..LearnerConfig::default() });
    let (one, other) = (whole.step(&batch, 1e-3).expect("a step"), pieces.step(&batch, 1e-3).expect("a step"));
    assert!((one.loss - other.loss).abs() < 1e-5 && (one.grad_norm / other.grad_norm - 1.0).abs() < 1e-4);
    // Adam divides by the gradient's size, so that an element near zero may round to another sign.
    let differing =
        whole.weights().values().iter().zip(pieces.weights().values()).filter(|(a, b)| (*a - *b).abs() > 1e-5);
    assert!(differing.count() < whole.weights().values().len() / 200);
    assert!(other.waste >= 0.0 && other.waste < 0.5 && one.waste < 0.5);
}

#[test]
fn equal_completions_count_as_often_as_they_are_there() {
    let repeated = |reward: f32, other: f32| {
        let completions = [
            ("4", Finish::Stop, 1.0),
            ("5", Finish::Stop, reward),
            ("4", Finish::Stop, 1.0),
            ("7", Finish::Stop, other),
        ];
        StepBatch { groups: vec![group("2+2=", &completions)], imitation: vec![] }
    };
    // Rewards so close that the advantages are the same but for rounding, yet the completions are told apart.
    let mut distinct = repeated(0.0, 0.0);
    distinct.groups[0].completions[2].reward = 1.0 - f32::EPSILON;
    let (mut one, mut other) = (learner(LearnerConfig::default()), learner(LearnerConfig::default()));
    let merged = one.step(&repeated(0.0, 0.0), 1e-3).expect("a step");
    let apart = other.step(&distinct, 1e-3).expect("a step");
    assert_eq!((merged.computed_tokens, apart.computed_tokens), (5 + 3, 5 + 4));
    assert_eq!(merged.tokens, apart.tokens);
    assert!((merged.loss - apart.loss).abs() < 1e-6 && (merged.grad_norm / apart.grad_norm - 1.0).abs() < 1e-4);
}

#[test]
fn ratios_move_and_are_clipped_over_several_updates() {
    let config = LearnerConfig { updates_per_step: 6, minibatches: 2, ..LearnerConfig::default() };
    let mut several = learner(config);
    let report = several.step(&batch(), 1e-2).expect("a step");
    assert_eq!(report.updates, 12);
    assert!(report.clip_fraction > 0.1, "{report:?}");
    let cases = [
        (Loss::Gspo, None, true),
        (Loss::DrGrpo, None, true),
        (Loss::Cispo, None, true),
        (Loss::Cispo, Some(1e9), false),
    ];
    for (loss, clip_high, clipped) in cases {
        let config =
            LearnerConfig { loss, clip_high, updates_per_step: 6, ratio_cap: Some(20.0), ..LearnerConfig::default() };
        let report = learner(config).step(&batch(), 1e-2).expect("a step");
        assert_eq!(report.updates, 6);
        assert_eq!(report.clip_fraction > 0.0, clipped, "{loss:?}: {report:?}");
    }
}

#[test]
fn the_divergence_starts_at_zero_and_holds_the_policy_back() {
    let run = |kl_weight: f64| {
        let mut learner = learner(LearnerConfig { kl_weight, ..LearnerConfig::default() });
        let first = learner.step(&batch(), 1e-3).expect("a step");
        for _ in 0..10 {
            learner.step(&batch(), 1e-3).expect("a step");
        }
        (first.kl, learner.step(&batch(), 1e-3).expect("a step").kl, logprob(&learner, "2+2=", "4", true))
    };
    let (first, last, held) = run(5.0);
    assert!(first.expect("kl").abs() < 1e-9 && last.expect("kl") > 1e-4);
    let (none, _, free) = run(0.0);
    assert_eq!(none, None);
    assert!(free > held + 0.05, "{free} {held}");
}

#[test]
fn a_batch_without_anything_to_learn_changes_nothing() {
    let mut learner = learner(LearnerConfig { imitation_weight: 0.0, ..LearnerConfig::default() });
    let before = learner.checkpoint().expect("state");
    let batch = StepBatch { groups: vec![batch().groups[2].clone()], imitation: examples() };
    let report = learner.step(&batch, 1e-3).expect("a step");
    assert_eq!((report.updates, report.groups_without_advantage, report.tokens), (0, 1, 0));
    assert_eq!(report.skipped, None);
    let report = learner.supervised_step::<Example>(&[], 1e-3).expect("a step");
    assert_eq!((report.updates, report.mean_logprob), (0, None));
    assert_eq!(learner.checkpoint().expect("state"), before);
}

#[test]
fn what_is_not_finite_is_skipped_and_leaves_everything_untouched() {
    let mut one = learner(LearnerConfig::default());
    one.step(&batch(), 1e-3).expect("a step");
    let before = one.checkpoint().expect("state");
    let report = one.step(&batch(), 1e300).expect("a step");
    assert!(report.skipped.expect("why").contains("weights would not be finite"));
    assert_eq!(report.updates, 0);
    assert_eq!(one.checkpoint().expect("state"), before);
    one.step(&batch(), 1e-3).expect("a step");
    assert_ne!(one.checkpoint().expect("state"), before);

    let mut values = before.weights.values().to_vec();
    values[100 * 64] = f32::NAN; // in the embedding of "d"
    let broken = Weights::from_values(&model(), values).expect("as many");
    let mut other = Learner::new(&model(), &broken, LearnerConfig::default(), Device::Cpu, 1).expect("a learner");
    let example = Example { prompt: b"d".to_vec(), completion: b"e".to_vec() };
    let report = other.supervised_step(&[example], 1e-3).expect("a step");
    assert!(report.skipped.expect("why").starts_with("not finite: loss NaN"));
    assert_eq!((report.updates, other.checkpoint().expect("state").updates), (0, 0));
}

#[test]
fn memory_that_runs_out_halves_the_micro_batch() {
    let config = LearnerConfig { micro_batch_tokens: 4096, ..LearnerConfig::default() };
    let groups: Vec<TrainGroup> = (0..60).flat_map(|_| batch().groups).collect();
    let large = StepBatch { groups, imitation: examples() };
    let mut short = learner(config.clone());
    short.memory_tokens = 1500;
    let report = short.step(&large, 1e-3).expect("a step");
    assert_eq!((report.out_of_memory, report.micro_batch_tokens, report.updates), (2, 1024, 1));
    let again = short.step(&large, 1e-3).expect("a step");
    assert_eq!((again.out_of_memory, again.micro_batch_tokens), (0, 1024));
    let mut enough = learner(config);
    assert!((enough.step(&large, 1e-3).expect("a step").loss - report.loss).abs() < 1e-5);

    let state = short.checkpoint().expect("state");
    assert_eq!(state.micro_batch_tokens, Some(1024));
    enough.restore(&state).expect("restored");
    assert_eq!(enough.micro_batch_tokens, 1024);

    short.memory_tokens = 10;
    let error = short.step(&large, 1e-3).expect_err("no memory");
    assert!(matches!(error, StepError::OutOfMemory { tokens: 256, .. }), "{error}");
    assert_eq!(short.checkpoint().expect("state").weights, state.weights);
}

#[test]
fn a_restored_learner_goes_on_bit_for_bit() {
    let config = LearnerConfig { kl_weight: 0.01, updates_per_step: 2, weight_decay: 0.1, ..LearnerConfig::default() };
    let mixed = StepBatch { imitation: examples(), ..batch() };
    let steps = |learner: &mut Learner| {
        for step in 0..4 {
            learner.step(&mixed, 1e-3 * f64::from(step + 1)).expect("a step");
        }
    };
    let mut straight = learner(config.clone());
    steps(&mut straight);
    let state = straight.checkpoint().expect("state");
    steps(&mut straight);

    let mut resumed = learner(config);
    resumed.supervised_step(&examples(), 1e-2).expect("a step that is to be forgotten");
    resumed.restore(&state).expect("restored");
    assert_eq!(resumed.checkpoint().expect("state"), state);
    steps(&mut resumed);
    assert_eq!(apart(&straight, &resumed), 0.0);
    assert_eq!(straight.checkpoint().expect("state"), resumed.checkpoint().expect("state"));
}

#[test]
fn a_policy_begins_with_a_fresh_optimizer() {
    let mut learner = learner(LearnerConfig { kl_weight: 0.1, ..LearnerConfig::default() });
    learner.supervised_step(&examples(), 1e-2).expect("a step");
    learner.begin_policy_training();
    let state = learner.checkpoint().expect("state");
    assert_eq!(state.updates, 0);
    assert_eq!(state.first_moment, Weights::zeros(&model()));
    assert_eq!(state.reference.as_ref(), Some(learner.weights()));
    assert!(learner.step(&batch(), 1e-3).expect("a step").kl.expect("kl").abs() < 1e-9);
}

#[test]
fn what_the_model_has_no_room_for_is_left_out_and_counted() {
    let long = "x".repeat(300);
    let mut batch = batch();
    batch.groups.push(group(&long, &[("a", Finish::Stop, 1.0), ("b", Finish::Stop, 0.0)]));
    batch.imitation.push(Example { prompt: b"p".to_vec(), completion: long.into_bytes() });
    let mut one = learner(LearnerConfig::default());
    let report = one.step(&batch, 1e-3).expect("a step");
    assert_eq!((report.too_long, report.groups_used, report.updates), (2, 2, 1));
}

#[test]
fn nonsense_is_refused_by_name() {
    let mut batch = batch();
    batch.groups[1].completions[2].reward = f32::INFINITY;
    let mut one = learner(LearnerConfig::default());
    let error = one.step(&batch, 1e-3).expect_err("refused").to_string();
    assert_eq!(error, "group 1, completion 2: the reward is inf, but it must be a finite number");
    assert!(matches!(one.step(&self::batch(), f64::NAN), Err(StepError::LearningRate(_))));

    let model = model();
    let refused = |config: LearnerConfig| {
        let weights = Weights::init(&model, 5);
        Learner::new(&model, &weights, config, Device::Cpu, 1).expect_err("refused").to_string()
    };
    let default = LearnerConfig::default;
    assert!(refused(LearnerConfig { ratio_cap: Some(1.1), ..default() }).contains("ratio_cap is 1.1"));
    assert!(refused(LearnerConfig { clip_low: Some(-0.1), ..default() }).contains("clip_low is -0.1"));
    assert!(refused(LearnerConfig { betas: (0.9, 1.0), ..default() }).contains("betas is 1"));
    assert!(refused(LearnerConfig { minibatches: 0, ..default() }).contains("minibatches is 0"));
    let other = preset("pico").expect("pico");
    let error = Learner::new(&model, &Weights::init(&other, 5), default(), Device::Cpu, 1).expect_err("refused");
    assert!(
        error.to_string().contains("of a model llama-") || error.to_string().contains("of a model pico"),
        "{error}"
    );
    let json = serde_json::json!({"loss": "cispo", "kl_weight": 0.5});
    let config: LearnerConfig = serde_json::from_value(json).expect("read");
    assert_eq!(config, LearnerConfig { loss: Loss::Cispo, kl_weight: 0.5, ..default() });
}
