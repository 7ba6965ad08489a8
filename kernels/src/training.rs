//! What lies between the matrix products of a decoder's layer when it is trained: normalisation and gating, forwards and
//! backwards, each in one pass over its rows.
//!
//! Rows are multiples of eight floats wide.

use crate::exp::exp;
use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Simd, sum_lanes};

/// `y = x * scale * weight` with `scale = 1 / sqrt(mean(x^2) + eps)` of each row (Zhang and Sennrich, "Root Mean Square Layer
/// Normalization", 2019, section 4).
///
/// `x` and `y` are `[rows, width]`, `weight` is `[width]`, `scales` `[rows]`.
///
/// # Panics
///
/// If lengths do not fit together, or `width` is no multiple of eight or zero.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], scales: &mut [f32]) {
    rms_norm_on(detected(), x, weight, eps, y, scales);
}

/// [`rms_norm`] on a given instruction set.
///
/// # Panics
///
/// As [`rms_norm`].
pub fn rms_norm_on(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], scales: &mut [f32]) {
    check("rms_norm", weight.len(), &[("x", x.len()), ("y", y.len())], scales.len());
    isa.run(Forward { x, weight, eps, y, scales });
}

/// The gradient of [`rms_norm`], added to what passes it by.
///
/// With `h = x * scale` and `g = gradient * weight`, of each row: `of_x = scale * (g - h * mean(g * h)) + passing`, and
/// `of_weight += gradient * h`, summed over the rows. `of_weight` is `[width]`, all others `[rows, width]`.
///
/// # Panics
///
/// As [`rms_norm`].
pub fn rms_norm_backward(
    gradient: &[f32],
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    passing: &[f32],
    of_x: &mut [f32],
    of_weight: &mut [f32],
) {
    rms_norm_backward_on(detected(), gradient, x, weight, scales, passing, of_x, of_weight);
}

/// [`rms_norm_backward`] on a given instruction set.
///
/// # Panics
///
/// As [`rms_norm`].
#[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
pub fn rms_norm_backward_on(
    isa: Isa,
    gradient: &[f32],
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    passing: &[f32],
    of_x: &mut [f32],
    of_weight: &mut [f32],
) {
    let rows = [("gradient", gradient.len()), ("x", x.len()), ("passing", passing.len()), ("of_x", of_x.len())];
    check("rms_norm_backward", weight.len(), &rows, scales.len());
    assert_eq!(weight.len(), of_weight.len(), "rms_norm_backward: weight and of_weight differ in length");
    isa.run(Backward { gradient, x, weight, scales, passing, of_x, of_weight });
}

/// `out = silu(gate) * up`, with rows of `inner` gates and as many ups (Shazeer, "GLU Variants Improve Transformer", 2020,
/// equation 6, without the linear maps). `gate_up` is `[rows, 2 inner]`, `out` `[rows, inner]`.
///
/// # Panics
///
/// If lengths do not fit together, or `inner` is no multiple of eight or zero.
pub fn swiglu(gate_up: &[f32], inner: usize, out: &mut [f32]) {
    swiglu_on(detected(), gate_up, inner, out);
}

/// [`swiglu`] on a given instruction set.
///
/// # Panics
///
/// As [`swiglu`].
pub fn swiglu_on(isa: Isa, gate_up: &[f32], inner: usize, out: &mut [f32]) {
    check("swiglu", inner, &[("out", out.len())], out.len() / inner.max(1));
    assert_eq!(gate_up.len(), 2 * out.len(), "swiglu: gate_up is not twice as long as out");
    isa.run(Gate { gate_up, inner, out });
}

/// The gradient of [`swiglu`], and its value once more, so that nobody has to keep it. `gradient` and `gated` are
/// `[rows, inner]`, `gate_up` and `of_gate_up` `[rows, 2 inner]`.
///
/// # Panics
///
/// As [`swiglu`].
pub fn swiglu_backward(gradient: &[f32], gate_up: &[f32], inner: usize, of_gate_up: &mut [f32], gated: &mut [f32]) {
    swiglu_backward_on(detected(), gradient, gate_up, inner, of_gate_up, gated);
}

/// [`swiglu_backward`] on a given instruction set.
///
/// # Panics
///
/// As [`swiglu`].
pub fn swiglu_backward_on(
    isa: Isa,
    gradient: &[f32],
    gate_up: &[f32],
    inner: usize,
    of_gate_up: &mut [f32],
    gated: &mut [f32],
) {
    let rows = gradient.len() / inner.max(1);
    check("swiglu_backward", inner, &[("gradient", gradient.len()), ("gated", gated.len())], rows);
    assert_eq!(gate_up.len(), 2 * gradient.len(), "swiglu_backward: gate_up is not twice as long as gradient");
    assert_eq!(gate_up.len(), of_gate_up.len(), "swiglu_backward: gate_up and of_gate_up differ in length");
    isa.run(GateBackward { gradient, gate_up, inner, of_gate_up, gated });
}

fn check(what: &str, width: usize, buffers: &[(&str, usize)], rows: usize) {
    assert!(width > 0 && width.is_multiple_of(LANES), "{what}: rows are {width} wide, no multiple of {LANES}");
    for (name, len) in buffers {
        assert_eq!(*len, rows * width, "{what}: {name} is not [{rows}, {width}]");
    }
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
    scales: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        let (weights, _) = self.weight.as_chunks();
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)).zip(self.scales);
        for ((x, y), kept) in rows {
            let ((x, _), (y, _)) = (x.as_chunks(), y.as_chunks_mut());
            let mut sums = [simd.splat(0.0); 2];
            for (at, x) in x.iter().enumerate() {
                let x = simd.load(x);
                sums[at % 2] = simd.mul_add(x, x, sums[at % 2]);
            }
            let mean = sum_lanes(simd, simd.add(sums[0], sums[1])) / width as f32;
            *kept = 1.0 / (mean + self.eps).sqrt();
            let scale = simd.splat(*kept);
            for ((x, weight), y) in x.iter().zip(weights).zip(y) {
                simd.store(simd.mul(simd.mul(simd.load(x), scale), simd.load(weight)), y);
            }
        }
    }
}

struct Backward<'a> {
    gradient: &'a [f32],
    x: &'a [f32],
    weight: &'a [f32],
    scales: &'a [f32],
    passing: &'a [f32],
    of_x: &'a mut [f32],
    of_weight: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        let (weights, _) = self.weight.as_chunks();
        let (of_weights, _) = self.of_weight.as_chunks_mut();
        let inputs = self.gradient.chunks_exact(width).zip(self.x.chunks_exact(width)).zip(self.scales);
        let rows = inputs.zip(self.passing.chunks_exact(width)).zip(self.of_x.chunks_exact_mut(width));
        for ((((gradient, x), scale), passing), of_x) in rows {
            let ((gradient, _), (x, _), (passing, _)) = (gradient.as_chunks(), x.as_chunks(), passing.as_chunks());
            let (of_x, _) = of_x.as_chunks_mut();
            let scales = simd.splat(*scale);
            let mut sums = [simd.splat(0.0); 2];
            for (at, ((gradient, x), weight)) in gradient.iter().zip(x).zip(weights).enumerate() {
                let weighted = simd.mul(simd.load(gradient), simd.load(weight));
                sums[at % 2] = simd.mul_add(weighted, simd.load(x), sums[at % 2]);
            }
            let along = sum_lanes(simd, simd.add(sums[0], sums[1])) / width as f32 * *scale * *scale;
            let along = simd.splat(along);
            let ends = passing.iter().zip(of_x).zip(of_weights.iter_mut());
            for (((gradient, x), weight), ((passing, of_x), of_weight)) in gradient.iter().zip(x).zip(weights).zip(ends)
            {
                let (gradient, x) = (simd.load(gradient), simd.load(x));
                let weighted = simd.mul(gradient, simd.load(weight));
                let across = simd.neg_mul_add(x, along, weighted);
                simd.store(simd.mul_add(across, scales, simd.load(passing)), of_x);
                let sum = simd.mul_add(gradient, simd.mul(x, scales), simd.load(of_weight));
                simd.store(sum, of_weight);
            }
        }
    }
}

struct Gate<'a> {
    gate_up: &'a [f32],
    inner: usize,
    out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (gate_up, out) in self.gate_up.chunks_exact(2 * self.inner).zip(self.out.chunks_exact_mut(self.inner)) {
            let (gate, up) = gate_up.split_at(self.inner);
            let ((gate, _), (up, _), (out, _)) = (gate.as_chunks(), up.as_chunks(), out.as_chunks_mut());
            for ((gate, up), out) in gate.iter().zip(up).zip(out) {
                let gate = simd.load(gate);
                simd.store(simd.mul(simd.mul(gate, sigmoid(simd, gate)), simd.load(up)), out);
            }
        }
    }
}

struct GateBackward<'a> {
    gradient: &'a [f32],
    gate_up: &'a [f32],
    inner: usize,
    of_gate_up: &'a mut [f32],
    gated: &'a mut [f32],
}

impl Kernel for GateBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let inner = self.inner;
        let inputs = self.gradient.chunks_exact(inner).zip(self.gate_up.chunks_exact(2 * inner));
        let outputs = self.of_gate_up.chunks_exact_mut(2 * inner).zip(self.gated.chunks_exact_mut(inner));
        for ((gradient, gate_up), (of_gate_up, gated)) in inputs.zip(outputs) {
            let ((gate, up), (of_gate, of_up)) = (gate_up.split_at(inner), of_gate_up.split_at_mut(inner));
            let ((gradient, _), (gate, _), (up, _)) = (gradient.as_chunks(), gate.as_chunks(), up.as_chunks());
            let ((of_gate, _), (of_up, _)) = (of_gate.as_chunks_mut(), of_up.as_chunks_mut());
            let (gated, _) = gated.as_chunks_mut();
            let ends = of_gate.iter_mut().zip(of_up).zip(gated);
            for (((gradient, gate), up), ((of_gate, of_up), gated)) in gradient.iter().zip(gate).zip(up).zip(ends) {
                let (gradient, gate, up) = (simd.load(gradient), simd.load(gate), simd.load(up));
                let share = sigmoid(simd, gate);
                let silu = simd.mul(gate, share);
                simd.store(simd.mul(gradient, silu), of_up);
                simd.store(simd.mul(silu, up), gated);
                // The derivative of g s(g) is s(g) + g s(g) (1 - s(g)).
                let slope = simd.add(share, simd.mul(silu, simd.sub(simd.splat(1.0), share)));
                simd.store(simd.mul(simd.mul(gradient, up), slope), of_gate);
            }
        }
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    let decay = exp(simd, simd.sub(simd.splat(0.0), x));
    simd.div(simd.splat(1.0), simd.add(simd.splat(1.0), decay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Numbers, same_bits};

    const ROWS: usize = 5;
    const WIDTH: usize = 24;

    fn near(found: &[f32], wanted: &[f64]) -> bool {
        let size = wanted.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        found.iter().zip(wanted).all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-6 * size)
    }

    #[test]
    fn normalisation_and_its_gradient_follow_their_formulae() {
        let mut numbers = Numbers(3);
        let [x, gradient, passing] = [0; 3].map(|_| numbers.values(ROWS * WIDTH, 2.0));
        let weight = numbers.values(WIDTH, 1.0);
        let before = numbers.values(WIDTH, 1.0);
        let mut found = Vec::new();
        for isa in [Isa::Scalar, Isa::Avx2Fma] {
            let (mut y, mut scales) = (vec![9.0; x.len()], vec![9.0; ROWS]);
            rms_norm_on(isa, &x, &weight, 1e-5, &mut y, &mut scales);
            let (mut of_x, mut of_weight) = (vec![9.0; x.len()], before.clone());
            rms_norm_backward_on(isa, &gradient, &x, &weight, &scales, &passing, &mut of_x, &mut of_weight);
            found.push([y, scales, of_x, of_weight]);
        }
        assert!(found[0].iter().zip(&found[1]).all(|(a, b)| same_bits(a, b)));
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
        let (weight, mut of_weight) = (wide(&weight), wide(&before));
        let (mut y, mut of_x) = (Vec::new(), Vec::new());
        for row in 0..ROWS {
            let part = |values: &[f32]| wide(&values[row * WIDTH..(row + 1) * WIDTH]);
            let (x, gradient, passing) = (part(&x), part(&gradient), part(&passing));
            let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / WIDTH as f64 + 1e-5).sqrt();
            let along: f64 = (0..WIDTH).map(|i| gradient[i] * weight[i] * x[i] * scale).sum::<f64>() / WIDTH as f64;
            for i in 0..WIDTH {
                let h = x[i] * scale;
                y.push(h * weight[i]);
                of_x.push(scale * (gradient[i] * weight[i] - h * along) + passing[i]);
                of_weight[i] += gradient[i] * h;
            }
        }
        assert!(near(&found[1][0], &y) && near(&found[1][2], &of_x) && near(&found[1][3], &of_weight));
    }

    #[test]
    fn gates_and_their_gradient_follow_their_formulae() {
        let mut numbers = Numbers(4);
        let gate_up = numbers.values(2 * ROWS * WIDTH, 6.0);
        let gradient = numbers.values(ROWS * WIDTH, 1.0);
        let mut found = Vec::new();
        for isa in [Isa::Scalar, Isa::Avx2Fma] {
            let (mut out, mut gated) = (vec![9.0; gradient.len()], vec![9.0; gradient.len()]);
            let mut of_gate_up = vec![9.0; gate_up.len()];
            swiglu_on(isa, &gate_up, WIDTH, &mut out);
            swiglu_backward_on(isa, &gradient, &gate_up, WIDTH, &mut of_gate_up, &mut gated);
            assert!(same_bits(&out, &gated));
            found.push([out, of_gate_up]);
        }
        assert!(found[0].iter().zip(&found[1]).all(|(a, b)| same_bits(a, b)));
        let (mut out, mut of_gate_up) = (Vec::new(), vec![0.0; gate_up.len()]);
        for row in 0..ROWS {
            for i in 0..WIDTH {
                let at = 2 * row * WIDTH + i;
                let (gate, up) = (f64::from(gate_up[at]), f64::from(gate_up[at + WIDTH]));
                let (share, gradient) = (1.0 / (1.0 + (-gate).exp()), f64::from(gradient[row * WIDTH + i]));
                out.push(gate * share * up);
                of_gate_up[at] = gradient * up * (share + gate * share * (1.0 - share));
                of_gate_up[at + WIDTH] = gradient * gate * share;
            }
        }
        assert!(near(&found[1][0], &out) && near(&found[1][1], &of_gate_up));
    }

    #[test]
    #[should_panic(expected = "swiglu: rows are 12 wide, no multiple of 8")]
    fn other_widths_are_refused() {
        swiglu(&[0.0; 24], 12, &mut [0.0; 12]);
    }
}
