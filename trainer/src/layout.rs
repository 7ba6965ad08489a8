//! Where each tensor of a model lies in one flat buffer.
//!
//! Weights, gradients and optimizer state share this order, so that the whole model is one tensor to the
//! optimizer. Matrices come first and normalisation weights last: weight decay applies to a prefix.
//! What is multiplied together lies together: queries, keys and values; gate and up.

use crate::model::ModelConfig;

/// A tensor's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its name in a Hugging Face checkpoint.
    pub(crate) name: String,
    /// Its shape: `[out, in]`, `[vocabulary, hidden]` or `[hidden]`.
    pub(crate) shape: Vec<usize>,
    /// Its first element in the flat buffer.
    pub(crate) offset: usize,
}

impl Slot {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The name of the embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the output layer.
pub(crate) const HEAD: &str = "lm_head.weight";
/// The name of the last normalisation.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";

/// The name of a tensor of a layer.
pub(crate) fn in_layer(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

/// All tensors, in order and without gaps.
pub(crate) fn slots(config: &ModelConfig) -> Vec<Slot> {
    let (hidden, inner, kv) = (config.hidden_size, config.intermediate_size, config.kv_width());
    let mut slots: Vec<Slot> = Vec::new();
    let mut put = |name: String, shape: Vec<usize>| {
        let offset = slots.last().map_or(0, |last| last.offset + last.len());
        slots.push(Slot { name, shape, offset });
    };
    put(EMBEDDING.into(), vec![config.vocab_size, hidden]);
    if !config.tie_word_embeddings {
        put(HEAD.into(), vec![config.vocab_size, hidden]);
    }
    for layer in 0..config.num_hidden_layers {
        put(in_layer(layer, "self_attn.q_proj"), vec![hidden, hidden]);
        put(in_layer(layer, "self_attn.k_proj"), vec![kv, hidden]);
        put(in_layer(layer, "self_attn.v_proj"), vec![kv, hidden]);
        put(in_layer(layer, "self_attn.o_proj"), vec![hidden, hidden]);
        put(in_layer(layer, "mlp.gate_proj"), vec![inner, hidden]);
        put(in_layer(layer, "mlp.up_proj"), vec![inner, hidden]);
        put(in_layer(layer, "mlp.down_proj"), vec![hidden, inner]);
    }
    for layer in 0..config.num_hidden_layers {
        put(in_layer(layer, "input_layernorm"), vec![hidden]);
        put(in_layer(layer, "post_attention_layernorm"), vec![hidden]);
    }
    put(FINAL_NORM.into(), vec![hidden]);
    slots
}

/// Elements of the matrices: the prefix of the flat buffer that weight decay applies to.
pub(crate) fn matrices(config: &ModelConfig) -> usize {
    slots(config).iter().filter(|slot| slot.shape.len() == 2).map(Slot::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets;

    #[test]
    fn slots_cover_the_buffer_without_gaps_and_norms_come_last() {
        for (_, config) in presets() {
            for tied in [false, true] {
                let config = ModelConfig { tie_word_embeddings: tied, ..config.clone() };
                let slots = slots(&config);
                let mut end = 0;
                for slot in &slots {
                    assert_eq!(slot.offset, end, "{}", slot.name);
                    end += slot.len();
                    assert_eq!(slot.shape.len() == 2, end <= matrices(&config), "{}", slot.name);
                }
                assert_eq!(end as u64, config.parameters());
            }
        }
    }
}
