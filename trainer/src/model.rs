//! The shape of a model: the Llama family, from a hundred thousand parameters upwards.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tokenizer;

/// The shape of a decoder of the Llama family (Touvron et al., "LLaMA", 2023): RMS normalisation before
/// each part, rotary positions, grouped-query attention, SwiGLU, no biases.
///
/// The names are those of a Hugging Face `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Number of token ids; at least [`tokenizer::TOKENS`].
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads; `hidden_size` is a multiple of it.
    pub num_attention_heads: usize,
    /// Number of key and value heads; `num_attention_heads` is a multiple of it.
    pub num_key_value_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Base of the rotary frequencies.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f32,
    /// Added to the mean square before the root.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f32,
    /// Longest sequence, in tokens, prompt and completion together.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding itself.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

fn default_rms_norm_eps() -> f32 {
    1e-5
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Not JSON, or a field is missing or of another type.
    #[error("model configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value that no model can have.
    #[error("model configuration: {field} is {value}: {need}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        need: &'static str,
    },
}

/// Most layers of a usable configuration.
const MAX_LAYERS: usize = 512;
/// Largest width of a usable configuration.
const MAX_WIDTH: usize = 1 << 17;
/// Largest vocabulary of a usable configuration.
const MAX_VOCABULARY: usize = 1 << 20;
/// Longest sequence of a usable configuration.
const MAX_POSITIONS: usize = 1 << 20;
/// Most parameters of a usable configuration: what f32 tensors and their optimizer state fit in memory for.
const MAX_PARAMETERS: u128 = 1 << 33;

/// Names and shapes of the presets, smallest first: hidden width, layers, query heads, key heads, feed-forward width.
const PRESETS: [(&str, [usize; 5]); 6] = [
    ("pico", [48, 2, 3, 3, 192]),
    ("nano", [64, 2, 4, 2, 192]),
    ("micro", [128, 3, 4, 2, 352]),
    ("tiny", [192, 4, 6, 2, 512]),
    ("small", [256, 6, 8, 4, 688]),
    ("base", [384, 6, 6, 2, 1024]),
];

/// Vocabulary of the presets: [`tokenizer::TOKENS`], padded to a multiple of 8.
const PRESET_VOCABULARY: usize = 264;

/// Names and shapes of the presets, smallest first: from 0.1 to 10 million parameters, all with the byte
/// tokenizer.
pub fn presets() -> Vec<(&'static str, ModelConfig)> {
    PRESETS.iter().map(|&(name, shape)| (name, shaped(shape))).collect()
}

/// The preset called `name`, if there is one.
pub fn preset(name: &str) -> Option<ModelConfig> {
    PRESETS.iter().find(|(preset, _)| *preset == name).map(|&(_, shape)| shaped(shape))
}

fn shaped([hidden_size, layers, heads, kv_heads, intermediate_size]: [usize; 5]) -> ModelConfig {
    ModelConfig {
        vocab_size: PRESET_VOCABULARY,
        hidden_size,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        intermediate_size,
        rope_theta: default_rope_theta(),
        rms_norm_eps: default_rms_norm_eps(),
        max_position_embeddings: 2048,
        tie_word_embeddings: false,
    }
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`. Fields that say nothing about the shape are passed over.
    ///
    /// # Errors
    /// If it is no such file, or asks for what is not done here: another activation, biases, scaled
    /// rotary positions, a free head width.
    pub fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let value: serde_json::Value = serde_json::from_slice(json)?;
        let refuse = |field, need| {
            let value = value.get(field).map(ToString::to_string).unwrap_or_default();
            Err(ModelError::Field { field, value, need })
        };
        if value.get("hidden_act").is_some_and(|act| act != "silu") {
            return refuse("hidden_act", "only \"silu\" is done here");
        }
        for field in ["attention_bias", "mlp_bias"] {
            if value.get(field).is_some_and(|bias| bias == true) {
                return refuse(field, "layers have no biases here");
            }
        }
        if value.get("rope_scaling").is_some_and(|scaling| !scaling.is_null()) {
            return refuse("rope_scaling", "scaled rotary positions are not done here");
        }
        let config = Self::deserialize(&value)?;
        config.validate()?;
        if value.get("head_dim").is_some_and(|dim| !dim.is_null() && *dim != config.head_dim()) {
            return refuse("head_dim", "it must be hidden_size / num_attention_heads");
        }
        Ok(config)
    }

    /// A `config.json` that Hugging Face's `LlamaForCausalLM` reads.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "torch_dtype": "float32",
            "bos_token_id": tokenizer::BOS,
            "eos_token_id": tokenizer::EOS,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "intermediate_size": self.intermediate_size,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
        })
    }

    /// Checks that a model can have this shape, and that it is of a size that can be held at all.
    ///
    /// # Errors
    /// Names the field that is wrong, its value and what it should be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let vocabulary = self.vocab_size >= tokenizer::TOKENS && self.vocab_size <= MAX_VOCABULARY;
        let need = "it must be 258 (256 bytes and two marks) to 1048576";
        if !vocabulary {
            return Err(ModelError::Field { field: "vocab_size", value: self.vocab_size.to_string(), need });
        }
        self.validate_shape()
    }

    /// As [`ModelConfig::validate`], for any vocabulary: one that has another use than the byte tokenizer's.
    pub(crate) fn validate_shape(&self) -> Result<(), ModelError> {
        let check = |fine: bool, field, value: &dyn fmt::Display, need| {
            if fine { Ok(()) } else { Err(ModelError::Field { field, value: value.to_string(), need }) }
        };
        let within = |value: usize, most: usize| (1..=most).contains(&value);
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        check(within(self.vocab_size, MAX_VOCABULARY), "vocab_size", &self.vocab_size, "it must be 1 to 1048576")?;
        check(within(self.hidden_size, MAX_WIDTH), "hidden_size", &self.hidden_size, "it must be 1 to 131072")?;
        let layers = within(self.num_hidden_layers, MAX_LAYERS);
        check(layers, "num_hidden_layers", &self.num_hidden_layers, "it must be 1 to 512")?;
        let whole = heads > 0 && self.hidden_size.is_multiple_of(heads) && (self.hidden_size / heads).is_multiple_of(2);
        check(whole, "num_attention_heads", &heads, "hidden_size must split into heads of even width")?;
        let grouped = kv_heads > 0 && heads.is_multiple_of(kv_heads);
        check(grouped, "num_key_value_heads", &kv_heads, "num_attention_heads must be a multiple of it")?;
        let inner = within(self.intermediate_size, MAX_WIDTH);
        check(inner, "intermediate_size", &self.intermediate_size, "it must be 1 to 131072")?;
        let theta = self.rope_theta.is_finite() && self.rope_theta >= 1.0;
        check(theta, "rope_theta", &self.rope_theta, "it must be a number from 1 upwards")?;
        let eps = self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0;
        check(eps, "rms_norm_eps", &self.rms_norm_eps, "it must be above zero")?;
        let positions = within(self.max_position_embeddings, MAX_POSITIONS);
        check(positions, "max_position_embeddings", &self.max_position_embeddings, "it must be 1 to 1048576")?;
        let parameters = self.count_parameters();
        check(parameters <= MAX_PARAMETERS, "parameters in all", &parameters, "at most 2^33 are done here")
    }

    /// Number of parameters. A tied output layer counts once.
    pub fn parameters(&self) -> u64 {
        u64::try_from(self.count_parameters()).unwrap_or(u64::MAX)
    }

    fn count_parameters(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (hidden, layers) = (wide(self.hidden_size), wide(self.num_hidden_layers));
        let attention = 2 * hidden * hidden + 2 * hidden * wide(self.kv_width());
        let feed_forward = 3 * hidden * wide(self.intermediate_size);
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        embeddings * wide(self.vocab_size) * hidden + layers * (attention + feed_forward + 2 * hidden) + hidden
    }

    /// A short text that names the shape: the preset's name, or the sizes.
    pub fn tag(&self) -> String {
        if let Some((name, _)) = PRESETS.iter().find(|&&(_, shape)| shaped(shape) == *self) {
            return (*name).to_owned();
        }
        let tied = if self.tie_word_embeddings { "-tied" } else { "" };
        format!(
            "llama-d{}-l{}-h{}.{}-f{}-v{}{tied}",
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.intermediate_size,
            self.vocab_size
        )
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of the keys of all heads together, and of the values.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_span_a_tenth_of_a_million_to_ten_million_parameters() {
        let sizes: Vec<(&str, u64)> = presets().iter().map(|(name, config)| (*name, config.parameters())).collect();
        assert_eq!(
            sizes,
            [
                ("pico", 99_312),
                ("nano", 132_416),
                ("micro", 621_440),
                ("tiny", 1_675_968),
                ("small", 4_488_448),
                ("base", 9_644_928),
            ]
        );
        for (name, config) in presets() {
            config.validate().expect("a usable shape");
            assert_eq!(preset(name).expect("by name"), config);
            assert_eq!(config.tag(), name);
        }
        assert_eq!(preset("giant"), None);
    }

    #[test]
    fn json_round_trips_and_unsupported_models_are_refused() {
        let config = ModelConfig { tie_word_embeddings: true, ..preset("micro").expect("micro") };
        assert_eq!(config.tag(), "llama-d128-l3-h4.2-f352-v264-tied");
        let json = config.to_json();
        assert_eq!(ModelConfig::from_json(json.to_string().as_bytes()).expect("read"), config);
        let refused = |field: &str, value: serde_json::Value| {
            let mut json = json.clone();
            json[field] = value;
            ModelConfig::from_json(json.to_string().as_bytes()).expect_err(field).to_string()
        };
        assert!(refused("hidden_act", "gelu".into()).contains("hidden_act is \"gelu\""));
        assert!(refused("attention_bias", true.into()).contains("no biases"));
        assert!(refused("rope_scaling", serde_json::json!({"factor": 2})).contains("rope_scaling"));
        assert!(refused("head_dim", 31.into()).contains("head_dim is 31"));
        assert!(refused("hidden_size", 126.into()).contains("num_attention_heads is 4"));
        assert!(refused("num_key_value_heads", 3.into()).contains("num_key_value_heads is 3"));
        assert!(refused("vocab_size", 257.into()).contains("vocab_size is 257"));
        assert!(refused("rms_norm_eps", 0.into()).contains("above zero"));
        assert!(refused("num_hidden_layers", 100_000.into()).contains("1 to 512"));
        assert!(matches!(ModelConfig::from_json(b"{}"), Err(ModelError::Json(_))));
    }
}
