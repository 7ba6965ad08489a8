//! The weights of a model: named f32 tensors, and how they are written and read.

use std::collections::HashMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::layout;
use crate::model::{ModelConfig, ModelError};
use swarmloom_kernels::random;

/// All tensors of a model as f32, under their Hugging Face names.
///
/// Also holds what has one number for each weight: the optimizer's moments.
#[derive(Clone, PartialEq)]
pub struct Weights {
    config: ModelConfig,
    /// The tensors one after the other, in the order of [`layout::slots`].
    values: Vec<f32>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("model", &self.config.tag()).finish_non_exhaustive()
    }
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The shape itself is wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Not a safetensors file, or a damaged one.
    #[error("weights: not a sound safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// More bytes than the model can need.
    #[error("weights: {bytes} bytes, but this model's file has at most {most}")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What there may be.
        most: usize,
    },
    /// A tensor of the model is not there.
    #[error("weights: no tensor {name}, which the model needs as f32 {shape:?}")]
    Missing {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has another type or shape than the model's.
    #[error("weights: tensor {name} is {found}, but the model needs f32 {shape:?}")]
    Misshapen {
        /// Its name.
        name: String,
        /// What was found.
        found: String,
        /// Its shape in the model.
        shape: Vec<usize>,
    },
    /// A tensor that the model has no place for: the weights are those of another model.
    #[error("weights: the model has no tensor {name}")]
    Unexpected {
        /// Its name.
        name: String,
    },
    /// The weights are those of another model.
    #[error("weights: of a model {found}, but {need} is needed")]
    OtherModel {
        /// Tag of the model that they are of.
        found: String,
        /// Tag of the model at hand.
        need: String,
    },
}

/// Room for the header of a safetensors file beside the numbers, for each tensor.
const HEADER_BYTES_PER_TENSOR: usize = 512;

impl Weights {
    /// All zero: the state of an optimizer at the start.
    ///
    /// # Panics
    /// If no model can have this shape: see [`ModelConfig::validate`].
    pub fn zeros(config: &ModelConfig) -> Self {
        if let Err(error) = config.validate() {
            panic!("{error}");
        }
        Self { config: config.clone(), values: vec![0.0; count(config)] }
    }

    /// Weights to start training from. The same seed gives the same bits on every machine.
    ///
    /// Matrices are uniform with a standard deviation of `1 / sqrt(3 in)`, as torch's `nn.Linear` has it;
    /// those that write to the residual stream are smaller by `sqrt(2 layers)` (Radford et al., "Language
    /// Models are Unsupervised Multitask Learners", 2019, section 2.3). Queries, keys and output layer have
    /// `1 / sqrt(in)` and embeddings 0.1, with which small models were seen to learn in fewest steps: with
    /// embeddings of 1, as torch has them, they took several times as many. Normalisation weights are 1.
    ///
    /// # Panics
    /// If no model can have this shape: see [`ModelConfig::validate`].
    pub fn init(config: &ModelConfig, seed: u64) -> Self {
        Self { values: initial(config, seed), ..Self::zeros(config) }
    }

    /// Reads a safetensors file's bytes. Every tensor of the model must be there as f32 of its shape, and
    /// no other; an output layer is passed over where it is tied to the embedding.
    ///
    /// # Errors
    /// Names the tensor that is missing, misshapen or unexpected, and what was needed.
    pub fn from_safetensors(config: &ModelConfig, bytes: &[u8]) -> Result<Self, WeightsError> {
        let [weights] = read(config, [""], bytes)?;
        Ok(weights)
    }

    /// A safetensors file's bytes; [`from_safetensors`](Self::from_safetensors) gives the same bits back.
    ///
    /// # Errors
    /// Where the format has no room for them.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        write(&[("", self)])
    }

    /// The shape of the model that these are the weights of.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A tensor by its name: its shape, and its elements, row-major.
    pub fn get(&self, name: &str) -> Option<(Vec<usize>, &[f32])> {
        let slot = layout::slots(&self.config).into_iter().find(|slot| slot.name == name)?;
        let values = &self.values[slot.offset..slot.offset + slot.len()];
        Some((slot.shape, values))
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    /// All tensors, one after the other.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// From all tensors, one after the other; `None` if there are more or fewer numbers than weights.
    pub(crate) fn from_values(config: &ModelConfig, values: Vec<f32>) -> Option<Self> {
        (values.len() == count(config)).then(|| Self { config: config.clone(), values })
    }

    /// Checks that these are weights of a model of that shape.
    pub(crate) fn check_model(&self, config: &ModelConfig) -> Result<(), WeightsError> {
        if self.config == *config {
            return Ok(());
        }
        Err(WeightsError::OtherModel { found: self.config.tag(), need: config.tag() })
    }
}

/// Reads a safetensors file with one number for each weight and prefix; names begin with the prefix.
pub(crate) fn read<const N: usize>(
    config: &ModelConfig,
    prefixes: [&str; N],
    bytes: &[u8],
) -> Result<[Weights; N], WeightsError> {
    config.validate()?;
    let most = N * most_bytes(config);
    if bytes.len() > most {
        return Err(WeightsError::TooLarge { bytes: bytes.len(), most });
    }
    let slots = layout::slots(config);
    let file = SafeTensors::deserialize(bytes)?;
    for (name, _) in file.iter() {
        let known = |own: &str| {
            slots.iter().any(|slot| slot.name == own) || (config.tie_word_embeddings && own == layout::HEAD)
        };
        if !prefixes.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(known)) {
            return Err(WeightsError::Unexpected { name: name.to_owned() });
        }
    }
    let mut all = prefixes.map(|_| Weights::zeros(config));
    for (prefix, weights) in prefixes.iter().zip(&mut all) {
        for slot in &slots {
            let (name, shape) = (format!("{prefix}{}", slot.name), slot.shape.clone());
            let Ok(tensor) = file.tensor(&name) else { return Err(WeightsError::Missing { name, shape }) };
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(WeightsError::Misshapen { name, found, shape });
            }
            let values = &mut weights.values[slot.offset..slot.offset + slot.len()];
            let (numbers, _) = tensor.data().as_chunks();
            for (value, number) in values.iter_mut().zip(numbers) {
                *value = f32::from_le_bytes(*number);
            }
        }
    }
    Ok(all)
}

/// A safetensors file's bytes, with names that begin with the prefix.
pub(crate) fn write(all: &[(&str, &Weights)]) -> Result<Vec<u8>, WeightsError> {
    let bytes =
        |weights: &Weights| -> Vec<u8> { weights.values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let all: Vec<_> = all.iter().map(|(prefix, weights)| (prefix, &weights.config, bytes(weights))).collect();
    let mut views = Vec::new();
    for (prefix, config, bytes) in &all {
        for slot in layout::slots(config) {
            let data = &bytes[4 * slot.offset..4 * (slot.offset + slot.len())];
            views.push((format!("{prefix}{}", slot.name), TensorView::new(Dtype::F32, slot.shape, data)?));
        }
    }
    let note = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(views, Some(note))?)
}

/// The largest file that the weights of a model may take: an output layer counts even where it is tied.
pub(crate) fn most_bytes(config: &ModelConfig) -> usize {
    let tied_head = config.vocab_size * config.hidden_size;
    let tensors = layout::slots(config).len() + 1;
    4 * (count(config) + tied_head) + HEADER_BYTES_PER_TENSOR * tensors + 4096
}

/// [`Weights::init`]'s values, for any vocabulary.
pub(crate) fn initial(config: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut all = vec![0.0; count(config)];
    let residual = (2.0 * config.num_hidden_layers as f64).sqrt();
    for (number, slot) in layout::slots(config).into_iter().enumerate() {
        let values = &mut all[slot.offset..slot.offset + slot.len()];
        let [_, inputs] = slot.shape[..] else {
            values.fill(1.0);
            continue;
        };
        let is = |parts: &[&str]| parts.iter().any(|part| slot.name.contains(part));
        let deviation = if slot.name == layout::EMBEDDING {
            0.1
        } else if is(&["q_proj", "k_proj", layout::HEAD]) {
            1.0 / (inputs as f64).sqrt()
        } else if is(&["o_proj", "down_proj"]) {
            1.0 / (3.0 * inputs as f64).sqrt() / residual
        } else {
            1.0 / (3.0 * inputs as f64).sqrt()
        };
        let bound = 3f64.sqrt() * deviation;
        let stream = random::bits(seed, number as u64);
        for (index, value) in values.iter_mut().enumerate() {
            *value = ((random::unit(stream, index as u64) * 2.0 - 1.0) * bound) as f32;
        }
    }
    all
}

fn count(config: &ModelConfig) -> usize {
    layout::slots(config).last().map_or(0, |last| last.offset + last.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset;

    fn small(tied: bool) -> ModelConfig {
        ModelConfig { tie_word_embeddings: tied, num_hidden_layers: 1, ..preset("pico").expect("pico") }
    }

    #[test]
    fn a_file_round_trips_bit_for_bit() {
        for tied in [false, true] {
            let config = small(tied);
            let mut weights = Weights::init(&config, 7);
            weights.values[3] = -0.0;
            weights.values[4] = f32::MIN_POSITIVE / 2.0;
            let bytes = weights.to_safetensors().expect("bytes");
            let back = Weights::from_safetensors(&config, &bytes).expect("read");
            assert!(back.values.iter().zip(&weights.values).all(|(a, b)| a.to_bits() == b.to_bits()));
            let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
            let k = file.tensor("model.layers.0.self_attn.k_proj.weight").expect("k");
            assert_eq!((k.dtype(), k.shape()), (Dtype::F32, &[48, 48][..]));
            assert_eq!(file.tensor("lm_head.weight").is_err(), tied);
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let config = small(false);
        let bytes = Weights::init(&config, 7).to_safetensors().expect("bytes");
        let error = |config: &ModelConfig, bytes: &[u8]| {
            Weights::from_safetensors(config, bytes).expect_err("refused").to_string()
        };
        let deeper = ModelConfig { num_hidden_layers: 2, ..config.clone() };
        assert!(error(&deeper, &bytes).contains("no tensor model.layers.1.self_attn.q_proj.weight"));
        let wider = ModelConfig { intermediate_size: 200, ..config.clone() };
        let text = error(&wider, &bytes);
        assert!(text.contains("mlp.gate_proj.weight is F32 [192, 48], but the model needs f32 [200, 48]"), "{text}");
        let tied = small(true);
        Weights::from_safetensors(&tied, &bytes).expect("a tied model passes over the output layer");
        let tied = Weights::init(&tied, 7).to_safetensors().expect("bytes");
        assert!(error(&config, &tied).contains("no tensor lm_head.weight"));
        assert!(error(&config, &bytes[..bytes.len() - 4]).contains("not a sound safetensors file"));
        assert!(error(&config, &vec![0; bytes.len() * 2]).contains("at most"));
        let deep = Weights::init(&deeper, 7).to_safetensors().expect("bytes");
        assert!(matches!(
            Weights::from_safetensors(&config, &deep),
            Err(WeightsError::TooLarge { .. } | WeightsError::Unexpected { .. })
        ));
    }

    #[test]
    fn initial_weights_depend_on_the_seed_and_have_the_stated_spread() {
        let config = preset("nano").expect("nano");
        let weights = Weights::init(&config, 1);
        assert_eq!(weights, Weights::init(&config, 1));
        assert_ne!(weights, Weights::init(&config, 2));
        let spread = |name: &str| {
            let (_, values) = weights.get(name).expect(name);
            let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            (squares / values.len() as f64).sqrt()
        };
        assert!((spread("model.embed_tokens.weight") * 10.0 - 1.0).abs() < 0.02);
        assert!((spread("lm_head.weight") * 8.0 - 1.0).abs() < 0.02);
        assert!((spread("model.layers.0.self_attn.q_proj.weight") * 8.0 - 1.0).abs() < 0.05);
        assert!((spread("model.layers.0.self_attn.v_proj.weight") * (3.0 * 64f64).sqrt() - 1.0).abs() < 0.05);
        assert!((spread("model.layers.1.mlp.down_proj.weight") * (3.0 * 192.0 * 4f64).sqrt() - 1.0).abs() < 0.05);
        assert_eq!(spread("model.norm.weight"), 1.0);
    }
}
