//! What lies between the matrix products of a layer, forwards and backwards.
//!
//! Everything here takes and gives `[tokens, width]`; statistics are f32 whatever the element type.

use swarmloom_kernels::training;
use tch::{Device, Kind, TchError, Tensor};

use crate::memory::{floats, floats_mut};

/// Whether kernels of our own can take these, `[tokens, width]` each: f32 on the processor, where libtorch has one thread too.
fn own(tensors: &[&Tensor], width: i64) -> bool {
    let fits = |tensor: &&Tensor| {
        tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous() && tensor.numel() > 0
    };
    width % 8 == 0 && tch::get_num_threads() == 1 && tensors.iter().all(fits)
}

/// Root-mean-square normalisation (Zhang and Sennrich 2019): `y = x / rms(x) * weight`. Gives `y` and `1 / rms`, `[tokens, 1]`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor), TchError> {
    let (tokens, width) = x.size2()?;
    if own(&[x, weight], width) {
        let (mut y, mut scale) = (x.f_empty_like()?, Tensor::f_empty([tokens, 1], (Kind::Float, Device::Cpu))?);
        training::rms_norm(floats(x)?, floats(weight)?, eps as f32, floats_mut(&mut y)?, floats_mut(&mut scale)?);
        return Ok((y, scale));
    }
    let wide = x.f_to_kind(Kind::Float)?;
    let mean = wide.f_square()?.f_mean_dim(-1, true, Kind::Float)?;
    let scale = mean.f_add_scalar(eps)?.f_rsqrt()?;
    let y = wide.f_mul(&scale)?.f_to_kind(x.kind())?.f_mul(weight)?;
    Ok((y, scale))
}

/// The gradient of [`rms_norm`] for `x`, with `passing` added, which goes by it; and that of the weight, `[width] f32`.
pub(super) fn rms_norm_backward(
    gradient: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    scale: &Tensor,
    passing: &Tensor,
) -> Result<(Tensor, Tensor), TchError> {
    let width = x.size2()?.1;
    if own(&[gradient, x, weight, scale, passing], width) {
        let mut of_x = x.f_empty_like()?;
        let mut of_weight = Tensor::f_zeros([width], (Kind::Float, Device::Cpu))?;
        let (gradient, x, weight) = (floats(gradient)?, floats(x)?, floats(weight)?);
        let (scale, passing) = (floats(scale)?, floats(passing)?);
        let into = (floats_mut(&mut of_x)?, floats_mut(&mut of_weight)?);
        training::rms_norm_backward(gradient, x, weight, scale, passing, into.0, into.1);
        return Ok((of_x, of_weight));
    }
    let wide = gradient.f_to_kind(Kind::Float)?;
    let normed = x.f_to_kind(Kind::Float)?.f_mul(scale)?;
    let of_weight = wide.f_mul(&normed)?.f_sum_dim_intlist(0, false, Kind::Float)?;
    let weighted = wide.f_mul(weight)?;
    let along = weighted.f_mul(&normed)?.f_mean_dim(-1, true, Kind::Float)?;
    let of_x = weighted.f_sub(&normed.f_mul(&along)?)?.f_mul(scale)?;
    Ok((of_x.f_to_kind(gradient.kind())?.f_add(passing)?, of_weight))
}

/// `silu(gate) * up` of `[tokens, 2 inner]`, the gate first (Shazeer 2020): `[tokens, inner]`.
pub(super) fn swiglu(gate_up: &Tensor) -> Result<Tensor, TchError> {
    let (tokens, width) = gate_up.size2()?;
    if own(&[gate_up], width / 2) {
        let mut out = Tensor::f_empty([tokens, width / 2], (Kind::Float, Device::Cpu))?;
        training::swiglu(floats(gate_up)?, (width / 2) as usize, floats_mut(&mut out)?);
        return Ok(out);
    }
    let (gate, up) = halves(gate_up)?;
    gate.f_silu()?.f_mul(&up)
}

/// The gradient of [`swiglu`], `[tokens, 2 inner]`, and its value once more.
pub(super) fn swiglu_backward(gradient: &Tensor, gate_up: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let width = gate_up.size2()?.1;
    if own(&[gradient, gate_up], width / 2) {
        let (mut of_gate_up, mut gated) = (gate_up.f_empty_like()?, gradient.f_empty_like()?);
        let into = (floats_mut(&mut of_gate_up)?, floats_mut(&mut gated)?);
        training::swiglu_backward(floats(gradient)?, floats(gate_up)?, (width / 2) as usize, into.0, into.1);
        return Ok((of_gate_up, gated));
    }
    let (gate, up) = halves(gate_up)?;
    let silu = gate.f_silu()?;
    let of_gate = gate.f_silu_backward(&gradient.f_mul(&up)?)?;
    Ok((Tensor::f_cat(&[of_gate, silu.f_mul(gradient)?], -1)?, silu.f_mul(&up)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_libtorch_agree() {
        let draw = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (x, gradient, passing, weight) = (draw([6, 16]), draw([6, 16]), draw([6, 16]), draw([1, 16]).view([16]));
        let (gates, of_gates) = (draw([6, 32]), draw([6, 16]));
        let all = || {
            let (y, scale) = rms_norm(&x, &weight, 1e-5).expect("normed");
            let (of_x, of_weight) = rms_norm_backward(&gradient, &x, &weight, &scale, &passing).expect("gradients");
            let out = swiglu(&gates).expect("gated");
            let (of_gate_up, gated) = swiglu_backward(&of_gates, &gates).expect("gradients");
            [y, scale, of_x, of_weight, out, of_gate_up, gated]
        };
        let before = tch::get_num_threads();
        tch::set_num_threads(1);
        let own = all();
        tch::set_num_threads(2);
        let theirs = all();
        tch::set_num_threads(before);
        for (at, (own, theirs)) in own.iter().zip(&theirs).enumerate() {
            let apart = (own - theirs).abs().max().double_value(&[]);
            assert!(apart < 2e-6 * theirs.abs().max().double_value(&[]), "{at}: {apart}");
        }
    }
}
