//! Activation functions.

use crate::exp::exp;
use crate::isa::{Isa, Kernel, detected};
use crate::simd::{Simd, load_partial, store_partial};

/// `out = silu(gate) * up`, element by element, with `silu(g) = g / (1 + e^-g)` (Shazeer, "GLU
/// Variants Improve Transformer", 2020, equation 6, without the linear maps).
///
/// The exponential is within 1.1 units in the last place. A gate of minus infinity gives NaN, as
/// the formula does.
///
/// # Panics
///
/// If the three lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    swiglu_on(detected(), gate, up, out);
}

/// [`swiglu`] on a given instruction set.
///
/// # Panics
///
/// As [`swiglu`].
pub fn swiglu_on(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "swiglu: gate and up differ in length");
    assert_eq!(gate.len(), out.len(), "swiglu: gate and out differ in length");
    isa.run(SwiGlu { gate, up, out });
}

struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gates, gates_end) = self.gate.as_chunks();
        let (ups, ups_end) = self.up.as_chunks();
        let (outs, outs_end) = self.out.as_chunks_mut();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            simd.store(gated(simd, simd.load(gate), simd.load(up)), out);
        }
        let (gate, up) = (load_partial(simd, gates_end, 0.0), load_partial(simd, ups_end, 0.0));
        store_partial(simd, gated(simd, gate, up), outs_end);
    }
}

#[inline(always)]
fn gated<S: Simd>(simd: S, gate: S::V, up: S::V) -> S::V {
    let decay = exp(simd, simd.sub(simd.splat(0.0), gate));
    simd.mul(simd.div(gate, simd.add(simd.splat(1.0), decay)), up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ISAS, Numbers, same_bits};

    #[test]
    fn every_length_agrees_bit_for_bit_and_with_f64() {
        let mut numbers = Numbers(7);
        for count in [0, 1, 7, 8, 9, 100, 1023] {
            let (gate, up) = (numbers.values(count, 30.0), numbers.values(count, 2.0));
            let (mut scalar, mut vector) = (vec![9.0; count], vec![9.0; count]);
            swiglu_on(Isa::Scalar, &gate, &up, &mut scalar);
            swiglu_on(Isa::Avx2Fma, &gate, &up, &mut vector);
            assert!(same_bits(&scalar, &vector), "{count}");
            for ((&g, &u), &out) in gate.iter().zip(&up).zip(&vector) {
                let (g, u) = (f64::from(g), f64::from(u));
                let truth = g / (1.0 + (-g).exp()) * u;
                let error = (f64::from(out) - truth).abs();
                assert!(error <= 3e-7 * truth.abs(), "gate {g}, up {u}: {out}");
            }
        }
    }

    #[test]
    fn saturates_at_both_ends() {
        for isa in ISAS {
            let mut out = [9.0; 4];
            swiglu_on(isa, &[-1e4, 1e4, 0.0, f32::NAN], &[1.0, 1.0, 5.0, 1.0], &mut out);
            assert_eq!(out[..3], [0.0, 1e4, 0.0]);
            assert!(out[3].is_nan());
        }
    }
}
