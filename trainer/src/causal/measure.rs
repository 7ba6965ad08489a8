//! What a model's own layers cost on this rank, by a short run: what a plan is made from.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use swarmloom_kernels::outer::{self, Rule, State};
use swarmloom_placement::model::{Affine, Layer, Model};
use tch::{Kind, Tensor};

use super::CausalError;
use super::layout::Slice;
use super::stage::{Computation, Input, Stage};
use crate::model::ModelConfig;
use crate::weights::initial;

/// Seconds of passes over micro-batches of two sizes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Sequences of the two micro-batches.
    pub sizes: [usize; 2],
    /// Of a layer's forward pass.
    pub forward_s: [f64; 2],
    /// Of the gradients of its inputs.
    pub input_gradient_s: [f64; 2],
    /// Of the gradients of its weights.
    pub weight_gradient_s: [f64; 2],
    /// Of the embedding.
    pub embedding_s: [f64; 2],
    /// Of the output layer with the loss, forwards and backwards: both are done at once.
    pub head_s: [f64; 2],
    /// Of the optimizer, for one parameter.
    pub optimizer_s: f64,
}

/// The time that one size of one pass may take beyond its first repetition.
const BUDGET: Duration = Duration::from_millis(600);
/// Repetitions at most.
const REPETITIONS: usize = 7;
/// Parameters that the optimizer is tried on.
const PARAMETERS: usize = 1 << 20;

/// Runs one layer, embedding and output layer over micro-batches of `sizes` sequences of `length` tokens. Medians of a few
/// repetitions, the first left out.
///
/// # Errors
/// [`CausalError`] where libtorch has no memory.
pub fn measure(
    config: &ModelConfig,
    computation: Computation,
    length: usize,
    sizes: [usize; 2],
) -> Result<Measured, CausalError> {
    let one = ModelConfig { num_hidden_layers: 1, ..config.clone() };
    let slice = Slice::whole(&one);
    let computation = Computation { recompute: false, ..computation };
    let mut stage = Stage::new(&one, &slice, &initial(&one, 0), computation)?;
    let mut found = Measured {
        sizes,
        forward_s: [0.0; 2],
        input_gradient_s: [0.0; 2],
        weight_gradient_s: [0.0; 2],
        embedding_s: [0.0; 2],
        head_s: [0.0; 2],
        optimizer_s: optimizer(),
    };
    for (at, size) in sizes.into_iter().enumerate() {
        let mut times: Vec<[f64; 5]> = Vec::new();
        let began = Instant::now();
        while times.len() < 2 || (times.len() <= REPETITIONS && began.elapsed() < BUDGET) {
            times.push(once(&mut stage, &one, (size, length))?);
        }
        times.remove(0);
        let median = |of: usize| {
            let mut all: Vec<f64> = times.iter().map(|times| times[of]).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        found.forward_s[at] = median(0);
        found.head_s[at] = median(1);
        found.input_gradient_s[at] = median(2);
        found.weight_gradient_s[at] = median(3);
        found.embedding_s[at] = (median(4) - median(0)).max(0.0);
    }
    Ok(found)
}

/// Seconds of the layer's forward pass, the output layer, both backward passes, and the forward pass from tokens.
fn once(stage: &mut Stage, config: &ModelConfig, (size, length): (usize, usize)) -> Result<[f64; 5], CausalError> {
    let device = stage.device();
    let shape = [size as i64, length as i64];
    let tokens = Tensor::f_zeros(shape, (Kind::Int64, device))?;
    let x = Tensor::f_randn([shape[0], shape[1], config.hidden_size as i64], (stage.kind(), device))?;
    let none: &mut dyn FnMut(&mut Tensor) -> Result<(), CausalError> = &mut |_| Ok(());
    let mut clock = Clock::new(device);
    let output = stage.forward((0, 0), Input::Activations(x), true, none)?;
    let forward = clock.lap();
    let (_, gradient) = stage.loss(&output, &tokens, 1e-6, true)?;
    let head = clock.lap();
    stage.backward((0, 0), gradient, false, none, &mut |_| {})?;
    let input_gradient = clock.lap();
    stage.weight_gradients((0, 0), &mut |_| {})?;
    let weight_gradient = clock.lap();
    let _ = stage.forward((0, 0), Input::Tokens(tokens), false, none)?;
    let from_tokens = clock.lap();
    Ok([forward, head, input_gradient, weight_gradient, from_tokens])
}

/// Laps of work that may be going on on a GPU.
struct Clock(tch::Device, Instant);

impl Clock {
    fn new(device: tch::Device) -> Self {
        Self(device, Instant::now())
    }

    fn lap(&mut self) -> f64 {
        if let tch::Device::Cuda(number) = self.0 {
            tch::Cuda::synchronize(number as i64);
        }
        let lap = self.1.elapsed().as_secs_f64();
        self.1 = Instant::now();
        lap
    }
}

fn optimizer() -> f64 {
    let (gradient, mut parameters) = (vec![1e-3; PARAMETERS], vec![0.1; PARAMETERS]);
    let (mut first, mut second) = (vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]);
    let rule = Rule::Adam { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, bias_correction: true };
    let mut step = |t| {
        let state = State { first: &mut first, second: &mut second };
        outer::step(rule, 1e-3, t, &gradient, &mut parameters, state);
    };
    step(1);
    let began = Instant::now();
    (2..5).for_each(&mut step);
    began.elapsed().as_secs_f64() / (3 * PARAMETERS) as f64
}

impl Measured {
    /// Seconds of one layer, all passes, for a sequence of the larger micro-batch: what ranks are compared by.
    pub fn per_sequence_s(&self) -> f64 {
        (self.forward_s[1] + self.input_gradient_s[1] + self.weight_gradient_s[1]) / self.sizes[1] as f64
    }

    /// The model, layer by layer, as this rank would compute it.
    pub fn model(&self, config: &ModelConfig, length: usize, kind: Kind) -> Model {
        let affine = |seconds: [f64; 2]| affine(self.sizes, seconds);
        let element = if kind == Kind::Float { 4 } else { 2 };
        let token = |elements: usize| (elements * element * length) as u64;
        let (hidden, kv, inner) = (config.hidden_size, config.kv_width(), config.intermediate_size);
        let vocabulary = (config.vocab_size * hidden) as u64;
        let layer = Layer {
            forward_s: affine(self.forward_s),
            input_gradient_s: affine(self.input_gradient_s),
            weight_gradient_s: affine(self.weight_gradient_s),
            parameters: (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner + 2 * hidden) as u64,
            // What `block::Kept` holds: input, middle, two normalised, attended and its other layout, queries, keys, values,
            // gate and up.
            activation_bytes: token(8 * hidden + 3 * kv + 2 * inner),
            output_bytes: token(hidden),
            recompute_bytes: token(hidden),
            tensor_parallel: true,
        };
        let mut layers = vec![layer; config.num_hidden_layers];
        let plus = |to: &mut Affine, more: Affine| {
            to.fixed_s += more.fixed_s;
            to.per_sequence_s += more.per_sequence_s;
        };
        if let Some(first) = layers.first_mut() {
            plus(&mut first.forward_s, affine(self.embedding_s));
            first.parameters += vocabulary;
        }
        if let Some(last) = layers.last_mut() {
            plus(&mut last.forward_s, affine(self.head_s));
            last.parameters += hidden as u64 + if config.tie_word_embeddings { 0 } else { vocabulary };
        }
        let tied_parameters = if config.tie_word_embeddings { vocabulary } else { 0 };
        Model { layers, sequence_length: length, tied_parameters }
    }
}

/// The line through two points, never falling. Below zero it may begin: caches make small micro-batches cheaper than their
/// share of large ones. It is for sizes between the two.
fn affine([small, large]: [usize; 2], [at_small, at_large]: [f64; 2]) -> Affine {
    if small == large {
        return Affine { fixed_s: 0.0, per_sequence_s: at_large / large as f64 };
    }
    let slope = ((at_large - at_small) / (large as f64 - small as f64)).max(0.0);
    Affine { fixed_s: at_large - slope * large as f64, per_sequence_s: slope }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::model::preset;

    #[test]
    fn lines_go_through_what_was_measured() {
        let line = affine([1, 5], [3.0, 11.0]);
        assert_eq!((line.fixed_s, line.per_sequence_s), (1.0, 2.0));
        // Nothing is faster with more to do, and nothing is saved by doing nothing.
        assert_eq!(affine([1, 4], [8.0, 4.0]), Affine { fixed_s: 4.0, per_sequence_s: 0.0 });
        let steep = affine([1, 4], [0.7, 4.0]);
        assert!((steep.at(4) - 4.0).abs() < 1e-12 && (steep.at(1) - 0.7).abs() < 1e-12 && steep.fixed_s < 0.0);
        assert_eq!(affine([2, 2], [1.0, 1.0]).at(6), 3.0);
    }

    #[test]
    fn a_model_has_all_its_parameters_and_takes_time() {
        for tied in [false, true] {
            let config = ModelConfig { tie_word_embeddings: tied, ..preset("pico").expect("pico") };
            let computation = Computation { kind: Kind::Float, device: Device::Cpu, recompute: false };
            let found = measure(&config, computation, 16, [1, 2]).expect("measured");
            assert!(found.forward_s[1] > 0.0 && found.weight_gradient_s[0] > 0.0 && found.head_s[0] > 0.0);
            assert!(found.optimizer_s > 1e-11 && found.optimizer_s < 1e-6, "{}", found.optimizer_s);
            let model = found.model(&config, 16, Kind::Float);
            assert_eq!(model.layers.iter().map(|layer| layer.parameters).sum::<u64>(), config.parameters());
            assert_eq!(model.layers[0].output_bytes, 48 * 4 * 16);
        }
    }
}
