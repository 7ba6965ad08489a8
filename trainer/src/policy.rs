//! The model on libtorch, with gradients: log-probabilities of completions over packed rows.
//!
//! All parameters are one flat tensor: the only leaf of the graph, so that gradient, clipping and
//! optimizer are a few operations whatever the number of layers. Small models on a shared core spend much
//! of a step on the overhead of operations, hence also: queries, keys and values in one product, gate and
//! up in one, residuals added inside the product, and no more than is predicted from after the last
//! attention.

use tch::{Kind, TchError, Tensor};

use crate::batch::{Arrays, Tree, numbering};
use crate::device::Device;
use crate::layout;
use crate::model::ModelConfig;
use crate::packing;
use crate::tokenizer;
use crate::weights::{Weights, WeightsError};

/// Why a policy could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// libtorch says so.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// A sequence that the model has no positions for.
    #[error("a sequence of {tokens} tokens is longer than the model's {positions} positions")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The model's positions.
        positions: usize,
    },
}

/// A model that can be trained.
pub struct Policy {
    config: ModelConfig,
    device: Device,
    /// `[parameters] f32`, in the order of [`layout::slots`].
    flat: Tensor,
    /// Lengths of the parts that `flat` is split into: see [`parts`].
    parts: Vec<i64>,
    rotary: Rotary,
    /// `[vocabulary]`: minus infinity for tokens that cannot follow.
    forbidden: Tensor,
}

/// `[positions, head_dim]` each; the sines of the first half are negative.
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("model", &self.config.tag())
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// A micro-batch on the device: see [`Arrays`] for the shapes.
pub(crate) struct Inputs {
    rows: i64,
    length: i64,
    tokens: Tensor,
    mask: Tensor,
    predicting: Tensor,
    /// `source * vocabulary + target`
    picked: Tensor,
    /// `[rows * length, 1, head_dim]`
    cos: Tensor,
    sin: Tensor,
}

/// The parameters as the model uses them: views of the flat tensor.
struct Parts {
    embedding: Tensor,
    head: Tensor,
    layers: Vec<LayerParts>,
    /// `[2 layers + 1]` of `[hidden]`
    norms: Vec<Tensor>,
}

struct LayerParts {
    qkv: Tensor,
    output: Tensor,
    gate_up: Tensor,
    down: Tensor,
}

impl Policy {
    /// A policy with these weights on `device`.
    ///
    /// # Errors
    /// If the weights are those of another model, or libtorch fails, as where memory is short.
    pub fn new(config: &ModelConfig, weights: &Weights, device: Device) -> Result<Self, PolicyError> {
        config.validate().map_err(WeightsError::from)?;
        weights.check_model(config)?;
        let torch = device.torch();
        let flat = Tensor::f_from_slice(weights.values())?.f_to_device(torch)?.f_set_requires_grad(true)?;
        let mut forbidden = vec![0f32; config.vocab_size];
        for (token, value) in forbidden.iter_mut().enumerate() {
            if !tokenizer::can_follow(token) {
                *value = f32::NEG_INFINITY;
            }
        }
        Ok(Self {
            parts: parts(config),
            rotary: Rotary::new(config, torch)?,
            forbidden: Tensor::f_from_slice(&forbidden)?.f_to_device(torch)?,
            config: config.clone(),
            device,
            flat,
        })
    }

    /// A model over parameters that are another's, `[parameters] f32` with gradients, on the processor; nothing is
    /// forbidden. For a vocabulary that is not the byte tokenizer's.
    pub(crate) fn over(config: &ModelConfig, flat: Tensor) -> Result<Self, TchError> {
        let device = Device::Cpu;
        Ok(Self {
            parts: parts(config),
            rotary: Rotary::new(config, device.torch())?,
            forbidden: Tensor::f_zeros([config.vocab_size as i64], (Kind::Float, device.torch()))?,
            config: config.clone(),
            device,
            flat,
        })
    }

    /// Logits of what follows each row of `tokens`, `[rows, length] i64`: `[rows, vocabulary] f32`.
    pub(crate) fn next(&self, tokens: &Tensor) -> Result<Tensor, TchError> {
        let (rows, length) = tokens.size2()?;
        let options = (Kind::Int64, self.device.torch());
        let positions = Tensor::f_arange(length, options)?.f_repeat([rows])?;
        let unseen = Tensor::f_full([length, length], f64::NEG_INFINITY, (Kind::Float, self.device.torch()))?;
        self.logits(&Inputs {
            rows,
            length,
            tokens: tokens.f_reshape([-1])?,
            mask: unseen.f_triu(1)?.f_expand([rows, 1, length, length], false)?,
            predicting: Tensor::f_arange_start_step(length - 1, rows * length, length, options)?,
            picked: Tensor::f_zeros([0], options)?,
            cos: self.rotary.cos.f_index_select(0, &positions)?.f_unsqueeze(1)?,
            sin: self.rotary.sin.f_index_select(0, &positions)?.f_unsqueeze(1)?,
        })
    }

    /// Logits of what follows every token of `[rows, length] i64`, each row for itself: `[rows * length, vocabulary] f32`.
    #[cfg(test)]
    pub(crate) fn every(&self, tokens: &Tensor) -> Result<Tensor, TchError> {
        let (rows, length) = tokens.size2()?;
        let options = (Kind::Int64, self.device.torch());
        let positions = Tensor::f_arange(length, options)?.f_repeat([rows])?;
        let unseen = Tensor::f_full([length, length], f64::NEG_INFINITY, (Kind::Float, self.device.torch()))?;
        self.logits(&Inputs {
            rows,
            length,
            tokens: tokens.f_reshape([-1])?,
            mask: unseen.f_triu(1)?.f_expand([rows, 1, length, length], false)?,
            predicting: Tensor::f_arange(rows * length, options)?,
            picked: Tensor::f_zeros([0], options)?,
            cos: self.rotary.cos.f_index_select(0, &positions)?.f_unsqueeze(1)?,
            sin: self.rotary.sin.f_index_select(0, &positions)?.f_unsqueeze(1)?,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The weights as they are now.
    ///
    /// # Errors
    /// If libtorch cannot copy them.
    pub fn weights(&self) -> Result<Weights, PolicyError> {
        let values = to_vec(&self.flat)?;
        Weights::from_values(&self.config, values).ok_or_else(|| TchError::Shape("not all parameters".into()).into())
    }

    /// Log-probabilities of the tokens of `completion` after `prompt`: one f32 for each. The start mark is
    /// put before the prompt, and the end mark behind the completion if it was `stopped` by its author.
    ///
    /// # Errors
    /// If the sequence is longer than the model's positions, or libtorch fails.
    pub fn log_probs(&self, prompt: &[u8], completion: &[u8], stopped: bool) -> Result<Vec<f32>, PolicyError> {
        let branch = tokenizer::encode_completion(completion, stopped);
        let tree = Tree { prompt: tokenizer::encode_prompt(prompt), branches: vec![branch] };
        let tokens = tree.prompt.len() + tree.branches[0].len();
        if tokens > self.config.max_position_embeddings {
            return Err(PolicyError::TooLong { tokens, positions: self.config.max_position_embeddings });
        }
        if tree.branches[0].is_empty() {
            return Ok(Vec::new());
        }
        let trees = [tree];
        let (starts, _) = numbering(&trees);
        let plan = packing::plan(&[trees[0].lengths()], tokens, self.even_length());
        let mut log_probs = Vec::new();
        for batch in &plan.micro_batches {
            let inputs = self.inputs(&Arrays::new(&trees, &starts, batch))?;
            let _no_grad = tch::no_grad_guard();
            log_probs.extend(to_vec(&self.forward(&inputs)?)?);
        }
        Ok(log_probs)
    }

    /// The length of a row at which attention costs as much as all the rest: see [`packing::plan`].
    ///
    /// By the number of operations it would be `6 parameters / (14 hidden)` of a layer; measured on a CPU
    /// with heads of 16, attention takes half as long again for each.
    pub(crate) fn even_length(&self) -> usize {
        let config = &self.config;
        let attention = 2 * config.hidden_size + 2 * config.kv_width();
        (attention + 3 * config.intermediate_size).div_ceil(4)
    }

    /// Puts a micro-batch on the device.
    pub(crate) fn inputs(&self, arrays: &Arrays) -> Result<Inputs, TchError> {
        let device = self.device.torch();
        let indices = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        let (rows, length) = (arrays.rows as i64, arrays.length as i64);
        let vocabulary = self.config.vocab_size as i64;
        let picked: Vec<i64> = arrays.source.iter().zip(&arrays.target).map(|(s, t)| s * vocabulary + t).collect();
        let positions = indices(&arrays.positions)?;
        Ok(Inputs {
            rows,
            length,
            tokens: indices(&arrays.tokens)?,
            mask: Tensor::f_from_slice(&arrays.mask)?.f_to_device(device)?.f_view([rows, 1, length, length])?,
            predicting: indices(&arrays.predicting)?,
            picked: indices(&picked)?,
            cos: self.rotary.cos.f_index_select(0, &positions)?.f_unsqueeze(1)?,
            sin: self.rotary.sin.f_index_select(0, &positions)?.f_unsqueeze(1)?,
        })
    }

    /// Log-probabilities of a micro-batch's targets: `[targets] f32`, with a graph if gradients are on.
    pub(crate) fn forward(&self, inputs: &Inputs) -> Result<Tensor, TchError> {
        self.logits(inputs)?.f_log_softmax(-1, None::<Kind>)?.f_view([-1])?.f_index_select(0, &inputs.picked)
    }

    /// Logits of what follows the predicting tokens: `[predicting, vocabulary] f32`.
    fn logits(&self, inputs: &Inputs) -> Result<Tensor, TchError> {
        let parts = self.split()?;
        let mut x = Tensor::f_embedding(&parts.embedding, &inputs.tokens, -1, false, false)?;
        let last = parts.layers.len() - 1;
        for (index, layer) in parts.layers.iter().enumerate() {
            let qkv = self.norm(&x, &parts.norms[2 * index])?.f_linear(&layer.qkv, None::<&Tensor>)?;
            let mut attended = self.attention(&qkv, inputs)?;
            if index == last {
                attended = attended.f_index_select(0, &inputs.predicting)?;
                x = x.f_index_select(0, &inputs.predicting)?;
            }
            x = x.f_addmm(&attended, &layer.output.f_transpose(0, 1)?)?;
            let gate_up = self.norm(&x, &parts.norms[2 * index + 1])?.f_linear(&layer.gate_up, None::<&Tensor>)?;
            let inner = self.config.intermediate_size as i64;
            let gate = gate_up.f_narrow(1, 0, inner)?.f_silu()?;
            let gated = gate.f_mul(&gate_up.f_narrow(1, inner, inner)?)?;
            x = x.f_addmm(&gated, &layer.down.f_transpose(0, 1)?)?;
        }
        let normed = self.norm(&x, &parts.norms[2 * parts.layers.len()])?;
        self.forbidden.f_addmm(&normed, &parts.head.f_transpose(0, 1)?)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
        let hidden = self.config.hidden_size as i64;
        x.f_rms_norm([hidden], Some(weight), f64::from(self.config.rms_norm_eps))
    }

    /// `qkv` is `[rows * length, (heads + 2 kv_heads) * head_dim]`; the result `[rows * length, hidden]`.
    fn attention(&self, qkv: &Tensor, inputs: &Inputs) -> Result<Tensor, TchError> {
        let (rows, length) = (inputs.rows, inputs.length);
        let heads = self.config.num_attention_heads as i64;
        let kv_heads = self.config.num_key_value_heads as i64;
        let head_dim = self.config.head_dim() as i64;
        let all = qkv.f_view([rows * length, heads + 2 * kv_heads, head_dim])?;
        let straight = all.f_narrow(1, 0, heads + kv_heads)?;
        // Rolled by half a head, each element meets its partner.
        let rolled = straight.f_roll(head_dim / 2, -1)?;
        let turned = straight.f_mul(&inputs.cos)?.f_addcmul(&rolled, &inputs.sin)?;
        let q = turned.f_narrow(1, 0, heads)?.f_view([rows, length, heads, head_dim])?.f_transpose(1, 2)?;
        // Each key head serves several query heads.
        let spread = |t: Tensor| {
            let (groups, shape) = (heads / kv_heads, [rows, length, heads, head_dim]);
            let t = match groups {
                1 => t.f_view(shape)?,
                _ => {
                    let wide = [rows * length, kv_heads, groups, head_dim];
                    t.f_unsqueeze(2)?.f_expand(wide, false)?.f_reshape(shape)?
                }
            };
            t.f_transpose(1, 2)
        };
        let k = spread(turned.f_narrow(1, heads, kv_heads)?)?;
        let v = spread(all.f_narrow(1, heads + kv_heads, kv_heads)?)?;
        let out = Tensor::f_scaled_dot_product_attention(&q, &k, &v, Some(&inputs.mask), 0.0, false, None, false)?;
        out.f_transpose(1, 2)?.f_reshape([rows * length, heads * head_dim])
    }

    fn split(&self) -> Result<Parts, TchError> {
        let config = &self.config;
        let (hidden, inner) = (config.hidden_size as i64, config.intermediate_size as i64);
        let mut parts = self.flat.f_split_with_sizes(&self.parts[..], 0)?.into_iter();
        let mut next = |width: i64| match parts.next() {
            Some(part) => part.f_view([-1, width]),
            None => Err(TchError::Shape("too few parts".into())),
        };
        let embedding = next(hidden)?;
        let head = if config.tie_word_embeddings { embedding.shallow_clone() } else { next(hidden)? };
        let mut layer = |_| {
            Ok(LayerParts { qkv: next(hidden)?, output: next(hidden)?, gate_up: next(hidden)?, down: next(inner)? })
        };
        let layers = (0..config.num_hidden_layers).map(&mut layer).collect::<Result<_, TchError>>()?;
        let norms = next(hidden)?.f_unbind(0)?;
        Ok(Parts { embedding, head, layers, norms })
    }

    /// The flat parameters: the leaf that gradients are taken for.
    pub(crate) fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Overwrites the parameters. Allocates nothing.
    pub(crate) fn overwrite(&mut self, values: &Tensor) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.flat.f_copy_(values)
    }
}

impl Rotary {
    pub(crate) fn new(config: &ModelConfig, device: tch::Device) -> Result<Self, TchError> {
        let half = config.head_dim() / 2;
        let positions = config.max_position_embeddings;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        // Rounded as in the kernels: see `swarmloom_kernels::rotary`.
        let frequency = |i: usize| {
            let exponent = (2 * i) as f32 / config.head_dim() as f32;
            1.0 / f64::from(config.rope_theta).powf(f64::from(exponent)) as f32
        };
        for position in 0..positions {
            let angle = |i: usize| f64::from(position as f32 * frequency(i));
            cos.extend((0..2 * half).map(|i| angle(i % half).cos() as f32));
            sin.extend((0..2 * half).map(|i| if i < half { -angle(i).sin() } else { angle(i - half).sin() } as f32));
        }
        let table = |values: &[f32]| {
            Tensor::f_from_slice(values)?.f_to_device(device)?.f_view([positions as i64, 2 * half as i64])
        };
        Ok(Self { cos: table(&cos)?, sin: table(&sin)? })
    }

    /// Cosines and sines for `count` sequences of `length` tokens: `[count * length, 1, head_dim]` in `kind`.
    pub(crate) fn rows(&self, count: i64, length: i64, kind: Kind) -> Result<(Tensor, Tensor), TchError> {
        let of = |table: &Tensor| table.f_narrow(0, 0, length)?.f_to_kind(kind)?.f_repeat([count, 1])?.f_unsqueeze(1);
        Ok((of(&self.cos)?, of(&self.sin)?))
    }
}

/// Lengths of what is used as one: embedding, output layer unless tied, then for each layer queries to
/// values, output, gate and up, down; all normalisation weights at the end.
fn parts(config: &ModelConfig) -> Vec<i64> {
    let hidden = config.hidden_size;
    let vocabulary = config.vocab_size * hidden;
    let inner = config.intermediate_size * hidden;
    let mut parts = vec![vocabulary];
    if !config.tie_word_embeddings {
        parts.push(vocabulary);
    }
    for _ in 0..config.num_hidden_layers {
        parts.extend([(hidden + 2 * config.kv_width()) * hidden, hidden * hidden, 2 * inner, inner]);
    }
    parts.push((2 * config.num_hidden_layers + 1) * hidden);
    debug_assert_eq!(parts.iter().sum::<usize>(), layout::slots(config).iter().map(layout::Slot::len).sum::<usize>());
    parts.into_iter().map(|part| part as i64).collect()
}

/// The elements of an f32 tensor.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0f32; tensor.numel()];
    let count = values.len();
    tensor.f_copy_data(&mut values, count)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Finish, Generator, Request, Sample};
    use crate::model::{preset, presets};

    fn shapes() -> Vec<ModelConfig> {
        let mut shapes: Vec<ModelConfig> = presets()
            .into_iter()
            .take(4)
            .map(|(_, config)| ModelConfig { max_position_embeddings: 512, ..config })
            .collect();
        shapes.push(ModelConfig { tie_word_embeddings: true, vocab_size: 300, ..shapes[1].clone() });
        shapes
    }

    /// What generation drew and what training computes must be the same distribution, or a ratio of 1 is none.
    #[test]
    fn log_probabilities_agree_with_those_of_generation() {
        for config in shapes() {
            let weights = Weights::init(&config, 11);
            let policy = Policy::new(&config, &weights, Device::Cpu).expect("a policy");
            let samples = (0..6).map(|seed| Sample { seed, temperature: 1.0 }).collect();
            let request = Request { prompt: b"How many ones are in 1011?".to_vec(), samples, max_new_tokens: 150 };
            let (completions, _) = Generator::new(&config, &weights, 1).generate(&[request]).expect("completions");
            for completion in &completions[0] {
                let stopped = completion.finish == Finish::Stop;
                let log_probs = policy
                    .log_probs(b"How many ones are in 1011?", &completion.bytes, stopped)
                    .expect("log-probabilities");
                assert_eq!(log_probs.len(), completion.tokens as usize);
                let sum: f64 = log_probs.iter().map(|&l| f64::from(l)).sum();
                let error = (sum - f64::from(completion.logprob)).abs() / f64::from(completion.tokens);
                assert!(error < 2e-5, "{}: {error} a token", config.tag());
            }
        }
    }

    /// Values of Hugging Face's `LlamaForCausalLM` (transformers 5.24, torch 2.11) on exports of the same weights, with
    /// the logits of all but bytes and the end masked.
    #[test]
    fn the_model_is_the_llama_that_others_know() {
        let nano = preset("nano").expect("nano");
        let tied = ModelConfig { tie_word_embeddings: true, ..preset("tiny").expect("tiny") };
        let of_nano = [
            -7.9497, -6.43997, -4.97474, -5.77557, -5.95093, -6.02737, -4.81904, -7.06723, -4.88981, -7.01421, -5.3435,
            -5.9201, -5.71989, -5.29659, -6.59986,
        ];
        let of_tied = [
            -8.22729, -10.15918, -10.95949, -10.70396, -6.58406, -12.24273, -0.10039, -7.76343, -12.55453, -12.36787,
            -10.24889, -13.46593, -11.12233, -11.31757, -9.60961,
        ];
        for (config, expected) in [(nano, of_nano), (tied, of_tied)] {
            let policy = Policy::new(&config, &Weights::init(&config, 4), Device::Cpu).expect("a policy");
            let got = policy.log_probs(b"hello there, 2+2=", b"fourteen or so", true).expect("log-probabilities");
            assert_eq!(got.len(), expected.len());
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 3e-5), "{got:?}");
        }
    }

    #[test]
    fn rows_of_one_length_are_what_packed_ones_are() {
        let config = ModelConfig { max_position_embeddings: 32, ..preset("nano").expect("nano") };
        let policy = Policy::new(&config, &Weights::init(&config, 11), Device::Cpu).expect("a policy");
        let over = Policy::over(&config, policy.flat().shallow_clone()).expect("another");
        let prompts = [b"abcdefg", b"xyz 123"];
        let tokens: Vec<i64> =
            prompts.iter().flat_map(|one| tokenizer::encode_prompt(&one[..])).map(i64::from).collect();
        let logits = over.next(&Tensor::from_slice(&tokens).view([2, 8])).expect("logits");
        let rows = (logits + &policy.forbidden).log_softmax(-1, None::<Kind>);
        for (row, prompt) in prompts.iter().enumerate() {
            for byte in [b'a', 0, 200] {
                let found = rows.double_value(&[row as i64, i64::from(byte)]) as f32;
                let expected = policy.log_probs(&prompt[..], &[byte], false).expect("one")[0];
                assert!((found - expected).abs() < 2e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn completions_in_a_shared_row_do_not_see_each_other() {
        let config = ModelConfig { max_position_embeddings: 128, ..preset("nano").expect("nano") };
        let policy = Policy::new(&config, &Weights::init(&config, 11), Device::Cpu).expect("a policy");
        let texts = [("prompt one", vec!["abc", "d", "efgh"]), ("2", vec!["ij", ""]), ("three three", vec!["klmnop"])];
        let trees: Vec<Tree> = texts
            .iter()
            .map(|(prompt, completions)| Tree {
                prompt: tokenizer::encode_prompt(prompt.as_bytes()),
                branches: completions.iter().map(|c| tokenizer::encode_completion(c.as_bytes(), true)).collect(),
            })
            .collect();
        let (starts, count) = numbering(&trees);
        let lengths: Vec<_> = trees.iter().map(Tree::lengths).collect();
        for micro_batch_tokens in [1000, 40] {
            let mut packed = vec![0.0; count];
            for batch in &packing::plan(&lengths, micro_batch_tokens, 100).micro_batches {
                let arrays = Arrays::new(&trees, &starts, batch);
                let values = to_vec(&policy.forward(&policy.inputs(&arrays).expect("inputs")).expect("forward"));
                for (&number, value) in arrays.number.iter().zip(values.expect("values")) {
                    packed[number] = value;
                }
            }
            let alone: Vec<f32> = texts
                .iter()
                .flat_map(|(prompt, completions)| completions.iter().map(move |c| (prompt, c)))
                .flat_map(|(p, c)| policy.log_probs(p.as_bytes(), c.as_bytes(), true).expect("log-probabilities"))
                .collect();
            assert!(packed.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 2e-5), "{packed:?} {alone:?}");
        }
    }

    #[test]
    fn probabilities_are_over_bytes_and_the_end_alone() {
        let config = ModelConfig { max_position_embeddings: 64, ..preset("pico").expect("pico") };
        let policy = Policy::new(&config, &Weights::init(&config, 11), Device::Cpu).expect("a policy");
        let first =
            |completion: &[u8], stopped| f64::from(policy.log_probs(b"x", completion, stopped).expect("one")[0]);
        let sum: f64 = (0..=255).map(|byte| first(&[byte], false).exp()).sum::<f64>() + first(b"", true).exp();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
        assert!(policy.log_probs(b"x", b"", false).expect("none").is_empty());
        assert!(matches!(
            policy.log_probs(b"x", &[1; 63], false),
            Err(PolicyError::TooLong { tokens: 65, positions: 64 })
        ));
        assert_eq!(policy.weights().expect("weights"), Weights::init(&config, 11));
    }
}
