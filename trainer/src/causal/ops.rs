//! What lies between the matrix products of a layer, forwards and backwards.
//!
//! Everything here takes and gives `[tokens, width]`; statistics are f32 whatever the element type.

use tch::{Kind, TchError, Tensor};

/// Root-mean-square normalisation (Zhang and Sennrich 2019): `y = x / rms(x) * weight`. Gives `y` and `1 / rms`, `[tokens, 1]`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor), TchError> {
    let wide = x.f_to_kind(Kind::Float)?;
    let mean = wide.f_square()?.f_mean_dim(-1, true, Kind::Float)?;
    let scale = mean.f_add_scalar(eps)?.f_rsqrt()?;
    let y = wide.f_mul(&scale)?.f_to_kind(x.kind())?.f_mul(weight)?;
    Ok((y, scale))
}

/// The gradient of [`rms_norm`]: that of `x`, and that of the weight, `[width] f32`.
pub(super) fn rms_norm_backward(
    gradient: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    scale: &Tensor,
) -> Result<(Tensor, Tensor), TchError> {
    let wide = gradient.f_to_kind(Kind::Float)?;
    let normed = x.f_to_kind(Kind::Float)?.f_mul(scale)?;
    let of_weight = wide.f_mul(&normed)?.f_sum_dim_intlist(0, false, Kind::Float)?;
    let weighted = wide.f_mul(weight)?;
    let along = weighted.f_mul(&normed)?.f_mean_dim(-1, true, Kind::Float)?;
    let of_x = weighted.f_sub(&normed.f_mul(&along)?)?.f_mul(scale)?;
    Ok((of_x.f_to_kind(gradient.kind())?, of_weight))
}

/// `silu(gate) * up` of `[tokens, 2 inner]`, the gate first (Shazeer 2020): `[tokens, inner]`.
pub(super) fn swiglu(gate_up: &Tensor) -> Result<Tensor, TchError> {
    let (gate, up) = halves(gate_up)?;
    gate.f_silu()?.f_mul(&up)
}

/// The gradient of [`swiglu`]: `[tokens, 2 inner]`.
pub(super) fn swiglu_backward(gradient: &Tensor, gate_up: &Tensor) -> Result<Tensor, TchError> {
    let (gate, up) = halves(gate_up)?;
    let of_up = gate.f_silu()?.f_mul(gradient)?;
    let of_gate = gate.f_silu_backward(&gradient.f_mul(&up)?)?;
    Tensor::f_cat(&[of_gate, of_up], -1)
}

fn halves(gate_up: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let inner = gate_up.size2()?.1 / 2;
    Ok((gate_up.f_narrow(1, 0, inner)?, gate_up.f_narrow(1, inner, inner)?))
}

/// Turns heads by their positions (Su et al. 2021, in the form of two halves). `x` is `[tokens, heads, head_dim]`; `cos` and
/// `sin` are `[tokens, 1, head_dim]`, the sines of the first half negative.
pub(super) fn rotate(x: &Tensor, (cos, sin): (&Tensor, &Tensor)) -> Result<Tensor, TchError> {
    let half = x.size3()?.2 / 2;
    x.f_mul(cos)?.f_addcmul(&x.f_roll(half, -1)?, sin)
}

/// Turns heads back: the gradient of [`rotate`].
pub(super) fn rotate_backward(gradient: &Tensor, (cos, sin): (&Tensor, &Tensor)) -> Result<Tensor, TchError> {
    let half = gradient.size3()?.2 / 2;
    gradient.f_mul(cos)?.f_add(&gradient.f_mul(sin)?.f_roll(half, -1)?)
}

/// The cross-entropy of `logits`, `[tokens, vocabulary]`, with `targets`, `[tokens] i64`: its sum, and its gradient times
/// `scale`, in the logits' kind.
pub(super) fn cross_entropy(logits: &Tensor, targets: &Tensor, scale: f64) -> Result<(Tensor, Tensor), TchError> {
    let places = targets.f_unsqueeze(1)?;
    let log_probabilities = logits.f_log_softmax(-1, Kind::Float)?;
    let loss = log_probabilities.f_gather(1, &places, false)?.f_sum(Kind::Double)?.f_neg()?;
    let mut gradient = log_probabilities.f_exp()?;
    let _ =
        gradient.f_scatter_add_(1, &places, &Tensor::f_full(places.size(), -1.0, (Kind::Float, logits.device()))?)?;
    let _ = gradient.f_mul_scalar_(scale)?;
    Ok((loss, gradient.f_to_kind(logits.kind())?))
}
