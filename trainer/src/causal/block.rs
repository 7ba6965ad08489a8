//! One layer of the Llama family, forwards and backwards, without autograd.
//!
//! By hand the backward pass parts in two: the gradients of a layer's inputs, which the stage before waits for, and those of
//! its weights, which nobody does until the optimizer. Weight gradients are products that add to the buffer of gradients
//! in place, so that accumulation over micro-batches costs nothing, and a schedule may put them off ([`Later`]).
//!
//! Shapes, with `T` tokens of all sequences of a micro-batch: activations `[T, hidden]`, heads `[T, heads, head_dim]`.

use tch::{Kind, TchError, Tensor};

use super::ops;
use crate::model::ModelConfig;

/// Sums over the ranks that share each layer; does nothing where one rank has all of it.
pub(crate) type Sum<'a> = &'a mut dyn FnMut(&mut Tensor) -> Result<(), super::CausalError>;

/// What all layers of a rank have in common.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) eps: f64,
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
    pub(super) head_dim: i64,
}

impl Shape {
    /// Of a layer that `ranks` share.
    pub(super) fn new(config: &ModelConfig, ranks: usize) -> Self {
        Self {
            eps: f64::from(config.rms_norm_eps),
            heads: (config.num_attention_heads / ranks) as i64,
            kv_heads: (config.num_key_value_heads / ranks) as i64,
            head_dim: config.head_dim() as i64,
        }
    }
}

/// Views of a layer's parameters, or of their gradients.
#[derive(Debug)]
pub(super) struct Parts {
    /// `[(heads + 2 kv_heads) head_dim, hidden]`
    pub(super) qkv: Tensor,
    /// `[hidden, heads head_dim]`
    pub(super) output: Tensor,
    /// `[2 inner, hidden]`
    pub(super) gate_up: Tensor,
    /// `[hidden, inner]`
    pub(super) down: Tensor,
    /// `[hidden]`
    pub(super) before_attention: Tensor,
    pub(super) before_feed_forward: Tensor,
}

/// The micro-batch that a layer sees.
#[derive(Debug)]
pub(super) struct Rows {
    /// Sequences, and tokens of each.
    pub(super) count: i64,
    pub(super) length: i64,
    /// `[tokens, 1, head_dim]` in the activations' kind.
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug)]
pub(super) struct Kept {
    x: Tensor,
    first_scale: Tensor,
    first_normed: Tensor,
    attention: Attention,
    attended: Tensor,
    middle: Tensor,
    second_scale: Tensor,
    second_normed: Tensor,
    gate_up: Tensor,
}

/// The weight gradients that are left to be computed: products of a gradient and an input.
#[derive(Debug)]
pub(super) struct Later {
    down: (Tensor, Tensor),
    gate_up: (Tensor, Tensor),
    output: (Tensor, Tensor),
    qkv: (Tensor, Tensor),
    /// Sums already, and small.
    before_attention: Tensor,
    before_feed_forward: Tensor,
}

/// The layer's output, `[tokens, hidden]`.
pub(super) fn forward(
    shape: &Shape,
    parts: &Parts,
    rows: &Rows,
    x: &Tensor,
    sum: Sum<'_>,
) -> Result<(Tensor, Kept), super::CausalError> {
    let (first_normed, first_scale) = ops::rms_norm(x, &parts.before_attention, shape.eps)?;
    let qkv = first_normed.f_mm(&parts.qkv.f_tr()?)?;
    let (attended, attention) = Attention::forward(shape, rows, &qkv)?;
    let middle = add(x, &attended, &parts.output, sum)?;
    let (second_normed, second_scale) = ops::rms_norm(&middle, &parts.before_feed_forward, shape.eps)?;
    let gate_up = second_normed.f_mm(&parts.gate_up.f_tr()?)?;
    let gated = ops::swiglu(&gate_up)?;
    let y = add(&middle, &gated, &parts.down, sum)?;
    let x = x.shallow_clone();
    let kept = Kept { x, first_scale, first_normed, attention, attended, middle, second_scale, second_normed, gate_up };
    Ok((y, kept))
}

/// `x + part weight^T`, the products of all ranks that share the layer summed.
fn add(x: &Tensor, part: &Tensor, weight: &Tensor, sum: Sum<'_>) -> Result<Tensor, super::CausalError> {
    let mut product = part.f_mm(&weight.f_tr()?)?;
    sum(&mut product)?;
    let _ = product.f_add_(x)?;
    Ok(product)
}

/// The gradient of the layer's input from that of its output, and what is left to do for its weights.
pub(super) fn backward(
    shape: &Shape,
    parts: &Parts,
    rows: &Rows,
    kept: Kept,
    gradient: Tensor,
    sum: Sum<'_>,
) -> Result<(Tensor, Later), super::CausalError> {
    let of_gated = gradient.f_mm(&parts.down)?;
    let (of_gate_up, gated) = ops::swiglu_backward(&of_gated, &kept.gate_up)?;
    let mut of_normed = of_gate_up.f_mm(&parts.gate_up)?;
    sum(&mut of_normed)?;
    let (of_middle, before_feed_forward) =
        ops::rms_norm_backward(&of_normed, &kept.middle, &parts.before_feed_forward, &kept.second_scale, &gradient)?;
    let of_attended = of_middle.f_mm(&parts.output)?;
    let of_qkv = kept.attention.backward(shape, rows, &of_attended)?;
    let mut of_normed = of_qkv.f_mm(&parts.qkv)?;
    sum(&mut of_normed)?;
    let (of_x, before_attention) =
        ops::rms_norm_backward(&of_normed, &kept.x, &parts.before_attention, &kept.first_scale, &of_middle)?;
    let later = Later {
        down: (gradient, gated),
        gate_up: (of_gate_up, kept.second_normed),
        output: (of_middle, kept.attended),
        qkv: (of_qkv, kept.first_normed),
        before_attention,
        before_feed_forward,
    };
    Ok((of_x, later))
}

impl Later {
    /// Adds the weights' gradients to those that are there.
    pub(super) fn finish(self, gradients: &mut Parts) -> Result<(), TchError> {
        accumulate(&mut gradients.down, &self.down.0, &self.down.1)?;
        accumulate(&mut gradients.gate_up, &self.gate_up.0, &self.gate_up.1)?;
        accumulate(&mut gradients.output, &self.output.0, &self.output.1)?;
        accumulate(&mut gradients.qkv, &self.qkv.0, &self.qkv.1)?;
        let _ = gradients.before_attention.f_add_(&self.before_attention)?;
        let _ = gradients.before_feed_forward.f_add_(&self.before_feed_forward)?;
        Ok(())
    }
}

/// Adds `gradient^T input` to `into`, `[out, in] f32`.
pub(super) fn accumulate(into: &mut Tensor, gradient: &Tensor, input: &Tensor) -> Result<(), TchError> {
    let _ = match input.kind() {
        Kind::Float => into.f_addmm_(&gradient.f_tr()?, input)?,
        // Sums of halves would lose what is small.
        _ => into.f_add_(&gradient.f_tr()?.f_mm(input)?.f_to_kind(Kind::Float)?)?,
    };
    Ok(())
}

/// Causal attention over each sequence.
#[derive(Debug)]
struct Attention {
    /// `[sequences, heads, length, head_dim]`
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    /// What the processor's kernel keeps; other devices leave the gradient to autograd.
    log_sum: Option<Tensor>,
}

impl Attention {
    /// From `[tokens, (heads + 2 kv_heads) head_dim]` to `[tokens, heads head_dim]`.
    fn forward(shape: &Shape, rows: &Rows, qkv: &Tensor) -> Result<(Tensor, Self), TchError> {
        let Shape { heads, kv_heads, head_dim, .. } = *shape;
        let (tokens, (count, length)) = (qkv.size2()?.0, (rows.count, rows.length));
        let all = qkv.f_view([tokens, heads + 2 * kv_heads, head_dim])?;
        let turned = ops::rotate(&all.f_narrow(1, 0, heads + kv_heads)?, (&rows.cos, &rows.sin))?;
        let by_head = |x: Tensor, heads: i64| x.f_view([count, length, heads, head_dim])?.f_transpose(1, 2);
        let q = by_head(turned.f_narrow(1, 0, heads)?, heads)?;
        let k = by_head(turned.f_narrow(1, heads, kv_heads)?, kv_heads)?;
        let v = by_head(all.f_narrow(1, heads + kv_heads, kv_heads)?, kv_heads)?;
        // Each key head serves several query heads.
        let spread = |x: Tensor| match heads / kv_heads {
            1 => Ok(x),
            groups => x
                .f_unsqueeze(2)?
                .f_expand([count, kv_heads, groups, length, head_dim], false)?
                .f_reshape([count, heads, length, head_dim]),
        };
        let (k, v) = (spread(k)?, spread(v)?);
        let none = None::<&Tensor>;
        let this = if qkv.device().is_cuda() {
            let leaf = |x: Tensor| x.f_detach()?.f_set_requires_grad(true);
            let (q, k, v) = (leaf(q)?, leaf(k)?, leaf(v)?);
            let out =
                tch::with_grad(|| Tensor::f_scaled_dot_product_attention(&q, &k, &v, none, 0.0, true, None, false))?;
            Self { q, k, v, out, log_sum: None }
        } else {
            let (out, log_sum) =
                Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(&q, &k, &v, 0.0, true, none, None)?;
            Self { q, k, v, out, log_sum: Some(log_sum) }
        };
        let attended = this.out.f_detach()?.f_transpose(1, 2)?.f_reshape([tokens, heads * head_dim])?;
        Ok((attended, this))
    }

    /// The gradient of `qkv` from that of the output.
    fn backward(self, shape: &Shape, rows: &Rows, gradient: &Tensor) -> Result<Tensor, TchError> {
        let Shape { heads, kv_heads, head_dim, .. } = *shape;
        let (tokens, (count, length)) = (gradient.size2()?.0, (rows.count, rows.length));
        let gradient = gradient.f_view([count, length, heads, head_dim])?.f_transpose(1, 2)?;
        let Self { q, k, v, out, log_sum } = self;
        let (q, k, v) = match log_sum {
            Some(log_sum) => Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
                &gradient,
                &q,
                &k,
                &v,
                &out,
                &log_sum,
                0.0,
                true,
                None::<&Tensor>,
                None,
            )?,
            None => {
                let product = tch::with_grad(|| out.f_mul(&gradient)?.f_sum(Kind::Float))?;
                let mut found = Tensor::f_run_backward(&[product], &[q, k, v], false, false)?.into_iter();
                let mut next = || found.next().ok_or_else(|| TchError::Shape("three gradients".into()));
                (next()?, next()?, next()?)
            }
        };
        let gathered = |x: Tensor| match heads / kv_heads {
            1 => Ok(x),
            groups => x.f_view([count, kv_heads, groups, length, head_dim])?.f_sum_dim_intlist(2, false, x.kind()),
        };
        let flat = |x: Tensor, heads: i64| x.f_transpose(1, 2)?.f_reshape([tokens, heads, head_dim]);
        let (q, k, v) = (flat(q, heads)?, flat(gathered(k)?, kv_heads)?, flat(gathered(v)?, kv_heads)?);
        let turned = ops::rotate_backward(&Tensor::f_cat(&[q, k], 1)?, (&rows.cos, &rows.sin))?;
        Tensor::f_cat(&[turned, v], 1)?.f_view([tokens, (heads + 2 * kv_heads) * head_dim])
    }
}
