//! The layers by hand against autograd, whole and cut; meshes against a single rank.

mod meshes;

use std::sync::{Barrier, Mutex};

use tch::{Kind, Tensor};

use super::layout::{Layout, Slice};
use super::stage::{Computation, Input, Stage};
use crate::device::Device;
use crate::layout::slots;
use crate::model::{ModelConfig, preset};
use crate::policy::{Policy, to_vec};
use crate::weights::initial;

const F32: Computation = Computation { kind: Kind::Float, device: Device::Cpu, recompute: false };

fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        tie_word_embeddings: tied,
        num_hidden_layers: 4,
        max_position_embeddings: 32,
        ..preset("nano").expect("nano")
    }
}

/// The values of a slice, out of those of the whole model.
pub(super) fn cut(config: &ModelConfig, slice: &Slice, whole: &[f32]) -> Vec<f32> {
    let layout = Layout::new(config, slice);
    let mut flat = vec![f32::NAN; layout.len()];
    for piece in &layout.pieces {
        let slot = slots(config).into_iter().find(|slot| slot.name == piece.name).expect("a tensor of the model");
        Layout::take(piece, &whole[slot.offset..slot.offset + slot.len()], &mut flat);
    }
    flat
}

fn tokens(rows: i64, length: i64) -> (Tensor, Tensor) {
    let all = Tensor::from_slice(&(0..rows * (length + 1)).map(|i| (i * i * 7 + 3 * i) % 258).collect::<Vec<_>>());
    let all = all.view([rows, length + 1]);
    (all.narrow(1, 0, length).contiguous(), all.narrow(1, 1, length).contiguous())
}

/// Sum of the cross-entropy, and its gradient for the whole model in the order of the model's own layout, by autograd.
fn reference(config: &ModelConfig, values: &[f32], tokens: &Tensor, targets: &Tensor, scale: f64) -> (f64, Vec<f32>) {
    let flat = Tensor::from_slice(values).set_requires_grad(true);
    let policy = Policy::over(config, flat.shallow_clone()).expect("a model");
    let logits = policy.every(tokens).expect("logits");
    let loss = logits.cross_entropy_loss::<Tensor>(&targets.reshape([-1]), None, tch::Reduction::Sum, -100, 0.0);
    (&loss * scale).backward();
    (loss.double_value(&[]), to_vec(&flat.grad()).expect("gradients"))
}

/// Stages one after the other, as a pipeline of one rank: the loss, and each stage's gradients.
fn pipeline(stages: &mut [Stage], tokens: &Tensor, targets: &Tensor, scale: f64, weights: bool) -> f64 {
    let none: &mut dyn FnMut(&mut Tensor) -> Result<(), super::CausalError> = &mut |_| Ok(());
    let mut input = Input::Tokens(tokens.shallow_clone());
    let mut output = Tensor::new();
    for stage in stages.iter_mut() {
        output = stage.forward((0, 0), input, true, none).expect("forward");
        input = Input::Activations(output.shallow_clone());
    }
    let (loss, mut gradient) = stages.last_mut().expect("one").loss(&output, targets, scale, true).expect("loss");
    for stage in stages.iter_mut().rev() {
        let mut done = Vec::new();
        let found = stage.backward((0, 0), gradient, weights, none, &mut |layer| done.push(layer)).expect("backward");
        if !weights {
            assert!(done.is_empty());
            stage.weight_gradients((0, 0), &mut |layer| done.push(layer)).expect("weights");
        }
        assert_eq!(done, stage.own_layers(0).rev().collect::<Vec<_>>());
        gradient = found.unwrap_or_default();
    }
    loss
}

fn close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let size = wanted.iter().fold(0f32, |most, value| most.max(value.abs()));
    let error = found.iter().zip(wanted).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(size > 0.0 && error < 2e-5 * size, "{what}: {error} of {size}");
}

#[test]
fn a_pipeline_of_layers_by_hand_has_the_gradients_of_autograd() {
    for tied in [false, true] {
        let config = config(tied);
        let values = initial(&config, 5);
        let (tokens, targets) = tokens(3, 16);
        let scale = 1.0 / 48.0;
        let (loss, gradient) = reference(&config, &values, &tokens, &targets, scale);
        let slice = |layers: std::ops::Range<usize>| Slice {
            chunks: vec![layers.clone()],
            first: layers.start == 0,
            last: layers.end == 4,
            tensor_rank: 0,
            tensor_ranks: 1,
        };
        for (cuts, recompute, weights) in
            [(vec![0, 4], false, true), (vec![0, 1, 4], true, true), (vec![0, 3, 4], false, false)]
        {
            let mut stages: Vec<Stage> = cuts
                .windows(2)
                .map(|ends| {
                    let slice = slice(ends[0]..ends[1]);
                    let computation = Computation { recompute, ..F32 };
                    Stage::new(&config, &slice, &cut(&config, &slice, &values), computation).expect("a stage")
                })
                .collect();
            // Twice, with half the weight each: gradients add up.
            let found = pipeline(&mut stages, &tokens, &targets, scale / 2.0, weights);
            pipeline(&mut stages, &tokens, &targets, scale / 2.0, weights);
            assert!((found - loss).abs() < 1e-5 * loss, "{found} {loss}");
            for stage in &stages {
                let slice = stage.slice();
                let mut wanted = cut(&config, slice, &gradient);
                let found = to_vec(&stage.gradients()).expect("gradients");
                if tied && stages.len() > 1 {
                    // Both ends have a part of the embedding's gradient: checked where they are summed.
                    let embedding = stage.layout().piece("model.embed_tokens.weight").map(|piece| piece.range());
                    for at in embedding.into_iter().flatten() {
                        wanted[at] = found[at];
                    }
                }
                close(&found, &wanted, &format!("{slice:?}"));
            }
            if tied && stages.len() > 1 {
                let of = |stage: &Stage| {
                    let range = stage.layout().piece("model.embed_tokens.weight").expect("tied").range();
                    to_vec(&stage.gradients()).expect("gradients")[range].to_vec()
                };
                let sum: Vec<f32> = of(&stages[0]).iter().zip(of(&stages[1])).map(|(a, b)| a + b).collect();
                close(&sum, &gradient[..sum.len()], "the tied embedding");
            }
        }
    }
}

#[test]
fn ranks_that_share_layers_have_the_gradients_of_the_whole() {
    let config = config(false);
    let values = initial(&config, 6);
    let (tokens, targets) = tokens(2, 16);
    let (loss, gradient) = reference(&config, &values, &tokens, &targets, 1.0);
    let (shared, barrier) = (Mutex::new((0, None::<Tensor>)), Barrier::new(2));
    std::thread::scope(|scope| {
        for tensor_rank in 0..2 {
            let (config, values, gradient) = (&config, &values, &gradient);
            let (tokens, targets) = (tokens.copy(), targets.copy());
            let (shared, barrier) = (&shared, &barrier);
            scope.spawn(move || {
                let slice = Slice { tensor_rank, tensor_ranks: 2, ..Slice::whole(config) };
                let mut stage = Stage::new(config, &slice, &cut(config, &slice, values), F32).expect("a stage");
                let sum: &mut dyn FnMut(&mut Tensor) -> Result<(), super::CausalError> = &mut |part| {
                    {
                        let mut at = shared.lock().expect("lock");
                        at.1 = Some(at.1.take().map_or_else(|| part.copy(), |sum| sum + &*part));
                        at.0 += 1;
                    }
                    barrier.wait();
                    *part = shared.lock().expect("lock").1.as_ref().expect("a sum").copy();
                    if barrier.wait().is_leader() {
                        shared.lock().expect("lock").1 = None;
                    }
                    barrier.wait();
                    Ok(())
                };
                let output = stage.forward((0, 0), Input::Tokens(tokens), true, sum).expect("forward");
                let (found, of_output) = stage.loss(&output, &targets, 1.0, true).expect("loss");
                assert!((found - loss).abs() < 1e-5 * loss, "{found} {loss}");
                stage.backward((0, 0), of_output, true, sum, &mut |_| {}).expect("backward");
                close(&to_vec(&stage.gradients()).expect("gradients"), &cut(config, &slice, gradient), "a share");
            });
        }
    });
    // Two sums forwards and two backwards for each layer and rank.
    assert_eq!(shared.lock().expect("lock").0, 2 * 4 * 4);
}

#[test]
fn halves_follow_the_whole_numbers() {
    let config = config(false);
    let values = initial(&config, 7);
    let (tokens, targets) = tokens(2, 16);
    let slice = Slice::whole(&config);
    let run = |kind| {
        let values = cut(&config, &slice, &values);
        let mut stages = [Stage::new(&config, &slice, &values, Computation { kind, ..F32 }).expect("a stage")];
        let loss = pipeline(&mut stages, &tokens, &targets, 1.0 / 32.0, true);
        (loss, to_vec(&stages[0].gradients()).expect("gradients"))
    };
    let ((loss, gradient), (halves, of_halves)) = (run(Kind::Float), run(Kind::BFloat16));
    // bf16 has eight bits: a relative error of 1/256 for each rounding.
    assert!((loss - halves).abs() < 5e-3 * loss, "{loss} {halves}");
    let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let apart: Vec<f32> = gradient.iter().zip(&of_halves).map(|(a, b)| a - b).collect();
    assert!(norm(&apart) < 0.03 * norm(&gradient), "{} of {}", norm(&apart), norm(&gradient));
}
