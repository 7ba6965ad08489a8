//! The model's forward pass on the kernels: one code for prompts and for rows that decode.

use swarmloom_kernels::activation::swiglu;
use swarmloom_kernels::attention::{self, Cache, Scratch};
use swarmloom_kernels::linear::PackedLinear;
use swarmloom_kernels::norm::rms_norm;
use swarmloom_kernels::rotary::Rotary;

use crate::layout::{self, in_layer};
use crate::model::ModelConfig;
use crate::tokenizer::{self, TOKENS};
use crate::weights::Weights;

/// The weights, packed for the kernels.
pub(super) struct Decoder {
    config: ModelConfig,
    /// `[vocabulary, hidden]`
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    /// To [`TOKENS`] logits: padding of the vocabulary is never drawn.
    head: PackedLinear,
    rotary: Rotary,
}

struct Layer {
    input_norm: Vec<f32>,
    /// Queries, keys and values of a token, one after the other.
    qkv: PackedLinear,
    output: PackedLinear,
    feed_forward_norm: Vec<f32>,
    gate: PackedLinear,
    up: PackedLinear,
    down: PackedLinear,
}

/// Room for the activations of a batch, kept from call to call.
pub(super) struct Buffers {
    /// Residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    scratch: Scratch,
}

impl Buffers {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self {
            x: Vec::new(),
            normed: Vec::new(),
            qkv: Vec::new(),
            attended: Vec::new(),
            gate: Vec::new(),
            up: Vec::new(),
            scratch: Scratch::new(config.max_position_embeddings),
        }
    }
}

/// Where a token's keys and values go, and what comes before them.
pub(super) struct Place<'a> {
    /// The keys and values of each layer that are shared, if any.
    pub(super) prefix: Option<&'a [Cache]>,
    /// Those of the row itself.
    pub(super) own: &'a mut [Cache],
}

impl Decoder {
    pub(super) fn new(weights: &Weights) -> Self {
        let config = weights.config().clone();
        let slots = layout::slots(&config);
        // Parts that are used together lie one after the other.
        let run = |first: &str, last: &str| {
            let place =
                |name: &str| slots.iter().find(|slot| slot.name == name).map(|s| (s.offset, s.offset + s.len()));
            match (place(first), place(last)) {
                (Some((start, _)), Some((_, end))) => &weights.values()[start..end],
                _ => unreachable!("{first} to {last} are names of the layout"),
            }
        };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let layer = |layer: usize| {
            let part = |first: &str, last: &str| run(&in_layer(layer, first), &in_layer(layer, last));
            let qkv = part("self_attn.q_proj", "self_attn.v_proj");
            let linear = |name: &str, out, inputs| PackedLinear::pack(part(name, name), out, inputs, None);
            Layer {
                input_norm: part("input_layernorm", "input_layernorm").to_vec(),
                qkv: PackedLinear::pack(qkv, hidden + 2 * config.kv_width(), hidden, None),
                output: linear("self_attn.o_proj", hidden, hidden),
                feed_forward_norm: part("post_attention_layernorm", "post_attention_layernorm").to_vec(),
                gate: linear("mlp.gate_proj", inner, hidden),
                up: linear("mlp.up_proj", inner, hidden),
                down: linear("mlp.down_proj", hidden, inner),
            }
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect();
        let embedding = run(layout::EMBEDDING, layout::EMBEDDING);
        let head = if config.tie_word_embeddings { embedding } else { run(layout::HEAD, layout::HEAD) };
        let allowed = |token| if tokenizer::can_follow(token) { 0.0 } else { f32::NEG_INFINITY };
        let bias: Vec<f32> = (0..TOKENS).map(allowed).collect();
        Self {
            embedding: embedding.to_vec(),
            layers,
            final_norm: run(layout::FINAL_NORM, layout::FINAL_NORM).to_vec(),
            head: PackedLinear::pack(&head[..TOKENS * hidden], TOKENS, hidden, Some(&bias)),
            rotary: Rotary::new(config.head_dim(), config.rope_theta, config.max_position_embeddings),
            config,
        }
    }

    pub(super) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Empty keys and values of all layers, with room for `positions`.
    pub(super) fn caches(&self, positions: usize) -> Vec<Cache> {
        let new = |_| Cache::new(self.config.num_key_value_heads, self.config.head_dim(), positions);
        (0..self.layers.len()).map(new).collect()
    }

    /// Bytes that [`caches`](Self::caches) takes.
    pub(super) fn cache_bytes(&self, positions: usize) -> usize {
        let (kv_heads, head_dim) = (self.config.num_key_value_heads, self.config.head_dim());
        8 * self.layers.len() * kv_heads * positions.next_multiple_of(16) * head_dim.next_multiple_of(16)
    }

    /// Computes a prompt: its keys and values, and the logits, `[TOKENS]`, of what follows it.
    pub(super) fn prompt(&self, tokens: &[u32], buffers: &mut Buffers) -> (Vec<Cache>, Vec<f32>) {
        let mut caches = self.caches(tokens.len());
        let last_layer = self.layers.len() - 1;
        self.embed(tokens, buffers);
        for (index, (layer, cache)) in self.layers.iter().zip(&mut caches).enumerate() {
            self.project(layer, buffers);
            let width = self.config.hidden_size;
            buffers.attended.resize(buffers.x.len(), 0.0);
            let rows =
                buffers.qkv.chunks_exact_mut(layer.qkv.out_features()).zip(buffers.attended.chunks_exact_mut(width));
            for (position, (qkv, out)) in rows.enumerate() {
                let (q, k, v) = self.turned(qkv, position);
                cache.push(k, v);
                // Of the last layer only the last token's output is needed.
                if index < last_layer || position + 1 == tokens.len() {
                    attention::decode(q, None, cache, &mut buffers.scratch, out);
                }
            }
            if index == last_layer {
                let before = buffers.x.len() - width;
                buffers.x.drain(..before);
                buffers.attended.drain(..before);
            }
            feed_forward(layer, self.config.rms_norm_eps, buffers);
        }
        let mut logits = Vec::new();
        self.logits(buffers, &mut logits);
        (caches, logits)
    }

    /// Computes one more token of each row: `tokens` and `places` are of the same length. Writes the
    /// logits of what follows, `[rows, TOKENS]`.
    pub(super) fn step(&self, tokens: &[u32], places: &mut [Place<'_>], buffers: &mut Buffers, logits: &mut Vec<f32>) {
        self.embed(tokens, buffers);
        for (index, layer) in self.layers.iter().enumerate() {
            self.project(layer, buffers);
            let width = self.config.hidden_size;
            buffers.attended.resize(buffers.x.len(), 0.0);
            let rows =
                buffers.qkv.chunks_exact_mut(layer.qkv.out_features()).zip(buffers.attended.chunks_exact_mut(width));
            for (place, (qkv, out)) in places.iter_mut().zip(rows) {
                let prefix = place.prefix.map(|prefix| &prefix[index]);
                let own = &mut place.own[index];
                let position = prefix.map_or(0, Cache::len) + own.len();
                let (q, k, v) = self.turned(qkv, position);
                own.push(k, v);
                attention::decode(q, prefix, own, &mut buffers.scratch, out);
            }
            feed_forward(layer, self.config.rms_norm_eps, buffers);
        }
        self.logits(buffers, logits);
    }

    fn embed(&self, tokens: &[u32], buffers: &mut Buffers) {
        let width = self.config.hidden_size;
        buffers.x.clear();
        for &token in tokens {
            buffers.x.extend_from_slice(&self.embedding[token as usize * width..][..width]);
        }
    }

    /// Queries, keys and values of all rows.
    fn project(&self, layer: &Layer, buffers: &mut Buffers) {
        let rows = buffers.x.len() / self.config.hidden_size;
        buffers.normed.resize(buffers.x.len(), 0.0);
        rms_norm(&buffers.x, &layer.input_norm, self.config.rms_norm_eps, &mut buffers.normed);
        buffers.qkv.resize(rows * layer.qkv.out_features(), 0.0);
        layer.qkv.forward(&buffers.normed, &mut buffers.qkv);
    }

    /// Splits a token's queries, keys and values, the first two turned to its position.
    fn turned<'a>(&self, qkv: &'a mut [f32], position: usize) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let (q, kv) = (self.config.hidden_size, self.config.kv_width());
        self.rotary.apply(&mut qkv[..q + kv], position);
        let (q, rest) = qkv.split_at(q);
        let (k, v) = rest.split_at(kv);
        (q, k, v)
    }

    fn logits(&self, buffers: &mut Buffers, logits: &mut Vec<f32>) {
        let rows = buffers.x.len() / self.config.hidden_size;
        buffers.normed.resize(buffers.x.len(), 0.0);
        rms_norm(&buffers.x, &self.final_norm, self.config.rms_norm_eps, &mut buffers.normed);
        logits.resize(rows * TOKENS, 0.0);
        self.head.forward(&buffers.normed, logits);
    }
}

/// The rest of a layer after attention.
fn feed_forward(layer: &Layer, eps: f32, buffers: &mut Buffers) {
    layer.output.forward_add(&buffers.attended, &mut buffers.x);
    buffers.normed.resize(buffers.x.len(), 0.0);
    rms_norm(&buffers.x, &layer.feed_forward_norm, eps, &mut buffers.normed);
    let inner = buffers.x.len() / layer.down.out_features() * layer.gate.out_features();
    buffers.gate.resize(inner, 0.0);
    buffers.up.resize(inner, 0.0);
    layer.gate.forward(&buffers.normed, &mut buffers.gate);
    layer.up.forward(&buffers.normed, &mut buffers.up);
    // `qkv` is free by now.
    buffers.qkv.resize(inner, 0.0);
    swiglu(&buffers.gate, &buffers.up, &mut buffers.qkv);
    layer.down.forward_add(&buffers.qkv, &mut buffers.x);
}
