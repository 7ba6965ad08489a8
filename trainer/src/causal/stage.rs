//! A rank's part of a model, with its gradients: what carries out one pass over one micro-batch.

use std::collections::HashMap;

pub use tch::Kind;
use tch::{TchError, Tensor};

use super::CausalError;
use super::block::{self, Kept, Later, Parts, Rows, Shape, Sum};
use super::layout::{Layout, Slice};
use super::ops;
use crate::device::Device;
use crate::layout::{EMBEDDING, FINAL_NORM, HEAD, in_layer};
use crate::model::ModelConfig;
use crate::policy::Rotary;

/// A part of a model that computes.
pub struct Stage {
    config: ModelConfig,
    slice: Slice,
    layout: Layout,
    shape: Shape,
    device: tch::Device,
    /// `[layout.len()]` in the kind that is computed in.
    parameters: Tensor,
    /// `[layout.len()] f32`.
    gradients: Tensor,
    rotary: Rotary,
    layers: Vec<(Parts, Parts)>,
    /// Keeps a layer's input alone, and computes the rest again in the backward pass.
    recompute: bool,
    /// By micro-batch and chunk.
    kept: HashMap<(usize, usize), Held>,
    later: HashMap<(usize, usize), Vec<Later>>,
}

/// What a chunk keeps of a micro-batch until its backward pass.
struct Held {
    rows: Rows,
    /// Of the first chunk: what was embedded.
    tokens: Option<Tensor>,
    layers: Vec<Memory>,
}

/// What a layer keeps.
enum Memory {
    All(Box<Kept>),
    Input(Tensor),
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("model", &self.config.tag()).field("slice", &self.slice).finish_non_exhaustive()
    }
}

/// What goes into a chunk.
#[derive(Debug)]
pub enum Input {
    /// `[sequences, length] i64`, into the model's first chunk.
    Tokens(Tensor),
    /// `[sequences, length, hidden]`, from the virtual stage before.
    Activations(Tensor),
}

/// How a stage computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computation {
    /// The kind of parameters and activations: f32 or bf16.
    pub kind: Kind,
    /// Where.
    pub device: Device,
    /// Whether only the layers' inputs are kept for the backward pass.
    pub recompute: bool,
}

impl Stage {
    /// A stage whose parameters are `values`, `[layout.len()]` in the layout's order.
    ///
    /// # Errors
    /// [`CausalError`] where the slice is none of the model's, lengths differ, or libtorch has no memory.
    pub fn new(
        config: &ModelConfig,
        slice: &Slice,
        values: &[f32],
        computation: Computation,
    ) -> Result<Self, CausalError> {
        slice.check(config)?;
        let layout = Layout::new(config, slice);
        if values.len() != layout.len() {
            return Err(TchError::Shape(format!("{} parameters, not {}", values.len(), layout.len())).into());
        }
        let device = computation.device.torch();
        let parameters = Tensor::f_from_slice(values)?.f_to_device(device)?.f_to_kind(computation.kind)?;
        let gradients = Tensor::f_zeros([layout.len() as i64], (Kind::Float, device))?;
        let layers = slice
            .layers()
            .map(|layer| Ok((views(&layout, layer, &parameters)?, views(&layout, layer, &gradients)?)))
            .collect::<Result<_, TchError>>()?;
        Ok(Self {
            shape: Shape::new(config, slice.tensor_ranks),
            rotary: Rotary::new(config, device)?,
            config: config.clone(),
            slice: slice.clone(),
            layout,
            device,
            parameters,
            gradients,
            layers,
            recompute: computation.recompute,
            kept: HashMap::new(),
            later: HashMap::new(),
        })
    }

    /// Where pieces and buckets lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which part of the model it is.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// `[layout.len()]`, the memory that is computed with.
    pub fn parameters(&self) -> Tensor {
        self.parameters.shallow_clone()
    }

    /// `[layout.len()] f32`, the memory that backward passes add to.
    pub fn gradients(&self) -> Tensor {
        self.gradients.shallow_clone()
    }

    /// The kind that it computes in.
    pub fn kind(&self) -> Kind {
        self.parameters.kind()
    }

    /// Width of what goes between stages.
    pub fn hidden(&self) -> i64 {
        self.config.hidden_size as i64
    }

    /// Whether the output layer is the embedding itself.
    pub fn is_tied(&self) -> bool {
        self.config.tie_word_embeddings
    }

    /// Where it computes.
    pub fn device(&self) -> tch::Device {
        self.device
    }

    /// Forgets all gradients and whatever is kept of a step that did not end.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn reset(&mut self) -> Result<(), TchError> {
        self.kept.clear();
        self.later.clear();
        self.gradients.f_zero_().map(drop)
    }

    /// One chunk's output, `[sequences, length, hidden]`. Kept until its backward pass, unless it is an evaluation.
    ///
    /// # Errors
    /// [`CausalError`].
    pub fn forward(
        &mut self,
        (micro_batch, chunk): (usize, usize),
        input: Input,
        keep: bool,
        sum: Sum<'_>,
    ) -> Result<Tensor, CausalError> {
        let _no_grad = tch::no_grad_guard();
        let hidden = self.config.hidden_size as i64;
        let (count, length, mut x, tokens) = match input {
            Input::Tokens(tokens) => {
                let (count, length) = tokens.size2()?;
                let tokens = tokens.f_reshape([-1])?;
                let x = self.piece(EMBEDDING, hidden)?.f_index_select(0, &tokens)?;
                (count, length, x, Some(tokens))
            }
            Input::Activations(x) => {
                let (count, length, _) = x.size3()?;
                (count, length, x.f_view([-1, hidden])?, None)
            }
        };
        let (cos, sin) = self.rotary.rows(count, length, x.kind())?;
        let rows = Rows { count, length, cos, sin };
        let mut layers = Vec::new();
        for layer in self.own_layers(chunk) {
            let (y, kept) = block::forward(&self.shape, &self.layers[layer].0, &rows, &x, sum)?;
            match self.recompute {
                _ if !keep => {}
                true => layers.push(Memory::Input(x)),
                false => layers.push(Memory::All(Box::new(kept))),
            }
            x = y;
        }
        if keep {
            self.kept.insert((micro_batch, chunk), Held { rows, tokens, layers });
        }
        Ok(x.f_view([count, length, hidden])?)
    }

    /// The loss of the last chunk's output: the sum over all tokens, and the gradient of the output for that sum times
    /// `scale`. The weights' gradients are added where `learn` is set.
    ///
    /// # Errors
    /// [`CausalError`].
    pub fn loss(
        &mut self,
        output: &Tensor,
        targets: &Tensor,
        scale: f64,
        learn: bool,
    ) -> Result<(f64, Tensor), CausalError> {
        let _no_grad = tch::no_grad_guard();
        let hidden = self.config.hidden_size as i64;
        let head_name = if self.config.tie_word_embeddings { EMBEDDING } else { HEAD };
        let (norm, head) = (self.piece(FINAL_NORM, 1)?.f_view([-1])?, self.piece(head_name, hidden)?);
        let (x, targets) = (output.f_view([-1, hidden])?, targets.f_reshape([-1])?);
        let gradient = x.f_empty_like()?;
        let mut loss = 0.0;
        // Logits of some rows at a time: a large vocabulary would need more memory than all layers.
        let (tokens, vocabulary) = (x.size2()?.0, self.config.vocab_size as i64);
        let most = (LOGITS / vocabulary).max(1);
        let mut from = 0;
        while from < tokens {
            let rows = most.min(tokens - from);
            let (x, targets) = (x.f_narrow(0, from, rows)?, targets.f_narrow(0, from, rows)?);
            let nothing = x.f_zeros_like()?;
            let (normed, scales) = ops::rms_norm(&x, &norm, self.shape.eps)?;
            let (sum, of_logits) = ops::cross_entropy(&normed.f_mm(&head.f_tr()?)?, &targets, scale)?;
            loss += sum.f_double_value(&[])?;
            if learn {
                block::accumulate(&mut self.gradient(head_name, hidden)?, &of_logits, &normed)?;
                let (of_x, of_norm) = ops::rms_norm_backward(&of_logits.f_mm(&head)?, &x, &norm, &scales, &nothing)?;
                let _ = self.gradient(FINAL_NORM, 1)?.f_view([-1])?.f_add_(&of_norm)?;
                gradient.f_narrow(0, from, rows)?.f_copy_(&of_x)?;
            }
            from += rows;
        }
        Ok((loss, gradient.f_view_as(output)?))
    }

    /// The gradient of a chunk's input from that of its output, both `[sequences, length, hidden]`; `None` for the model's
    /// first chunk, whose input are tokens. With `weights`, the weights' gradients are added now and `done` hears of each
    /// layer (of this rank's) that is finished; else [`Stage::weight_gradients`] adds them.
    ///
    /// # Errors
    /// [`CausalError`]; [`CausalError::Schedule`] where that micro-batch had no forward pass.
    pub fn backward(
        &mut self,
        (micro_batch, chunk): (usize, usize),
        gradient: Tensor,
        weights: bool,
        sum: Sum<'_>,
        done: &mut dyn FnMut(usize),
    ) -> Result<Option<Tensor>, CausalError> {
        let _no_grad = tch::no_grad_guard();
        let missing =
            || CausalError::Schedule(format!("micro-batch {micro_batch} of chunk {chunk} has no forward pass"));
        let Held { rows, tokens, mut layers } = self.kept.remove(&(micro_batch, chunk)).ok_or_else(missing)?;
        let hidden = self.config.hidden_size as i64;
        let mut gradient = gradient.f_view([-1, hidden])?;
        let mut later = Vec::new();
        for layer in self.own_layers(chunk).rev() {
            let (parts, gradients) = &mut self.layers[layer];
            let kept = match layers.pop().ok_or_else(missing)? {
                Memory::All(kept) => *kept,
                Memory::Input(x) => block::forward(&self.shape, parts, &rows, &x, sum)?.1,
            };
            let (of_x, rest) = block::backward(&self.shape, parts, &rows, kept, gradient, sum)?;
            if weights {
                rest.finish(gradients)?;
                done(layer);
            } else {
                later.push(rest);
            }
            gradient = of_x;
        }
        if !weights {
            self.later.insert((micro_batch, chunk), later);
        }
        match tokens {
            Some(tokens) => {
                let of_rows = gradient.f_to_kind(Kind::Float)?;
                let _ = self.gradient(EMBEDDING, hidden)?.f_index_add_(0, &tokens, &of_rows)?;
                Ok(None)
            }
            None => Ok(Some(gradient.f_view([rows.count, rows.length, hidden])?)),
        }
    }

    /// Adds the weights' gradients that [`Stage::backward`] has left over; `done` hears of each layer that is finished.
    ///
    /// # Errors
    /// As [`Stage::backward`].
    pub fn weight_gradients(
        &mut self,
        (micro_batch, chunk): (usize, usize),
        done: &mut dyn FnMut(usize),
    ) -> Result<(), CausalError> {
        let _no_grad = tch::no_grad_guard();
        let missing =
            || CausalError::Schedule(format!("micro-batch {micro_batch} of chunk {chunk} has nothing left over"));
        let later = self.later.remove(&(micro_batch, chunk)).ok_or_else(missing)?;
        for (layer, rest) in self.own_layers(chunk).rev().zip(later) {
            rest.finish(&mut self.layers[layer].1)?;
            done(layer);
        }
        Ok(())
    }

    /// This rank's own layers that a chunk has.
    pub fn own_layers(&self, chunk: usize) -> std::ops::Range<usize> {
        let before: usize = self.slice.chunks[..chunk].iter().map(ExactSizeIterator::len).sum();
        before..before + self.slice.chunks[chunk].len()
    }

    fn piece(&self, name: &str, width: i64) -> Result<Tensor, TchError> {
        view(&self.layout, name, &self.parameters, width)
    }

    fn gradient(&self, name: &str, width: i64) -> Result<Tensor, TchError> {
        view(&self.layout, name, &self.gradients, width)
    }
}

/// Logits that are in memory at a time.
const LOGITS: i64 = 1 << 25;

/// A piece of a flat tensor as `[rows, width]`.
fn view(layout: &Layout, name: &str, flat: &Tensor, width: i64) -> Result<Tensor, TchError> {
    let piece = layout.piece(name).ok_or_else(|| TchError::Shape(format!("{name} is not here")))?;
    flat.f_narrow(0, piece.offset as i64, piece.len() as i64)?.f_view([-1, width])
}

/// A layer's pieces: what is multiplied together is one matrix.
fn views(layout: &Layout, layer: usize, flat: &Tensor) -> Result<Parts, TchError> {
    let missing = |part: &str| TchError::Shape(format!("layer {layer} has no {part}"));
    let join = |parts: &[&str]| {
        let of = |part: &str| layout.piece(&in_layer(layer, part)).ok_or_else(|| missing(part));
        let pieces = parts.iter().map(|part| of(part)).collect::<Result<Vec<_>, _>>()?;
        let rows: usize = pieces.iter().map(|piece| piece.rows.len()).sum();
        let (start, columns) = (pieces[0].offset as i64, pieces[0].columns.len() as i64);
        flat.f_narrow(0, start, rows as i64 * columns)?.f_view([rows as i64, columns])
    };
    Ok(Parts {
        qkv: join(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
        output: join(&["self_attn.o_proj"])?,
        gate_up: join(&["mlp.gate_proj", "mlp.up_proj"])?,
        down: join(&["mlp.down_proj"])?,
        before_attention: join(&["input_layernorm"])?.f_view([-1])?,
        before_feed_forward: join(&["post_attention_layernorm"])?.f_view([-1])?,
    })
}
