//! Root-mean-square normalisation (Zhang and Sennrich, "Root Mean Square Layer Normalization",
//! 2019, section 4).

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{Simd, load_partial, store_partial, sum_lanes};

/// `y = weight * (x / sqrt(mean(x^2) + eps))` for each row.
///
/// `x` and `y` are `[rows, dim]`, `weight` is `[dim]`. The squares are summed in eight chains,
/// element `i` in chain `i mod 8`, and the chains in a fixed tree.
///
/// # Panics
///
/// If `weight` is empty, `x` is not a whole number of rows, or `y` has another length than `x`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    rms_norm_on(detected(), x, weight, eps, y);
}

/// [`rms_norm`] on a given instruction set.
///
/// # Panics
///
/// As [`rms_norm`].
pub fn rms_norm_on(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    isa.run(RmsNorm { x, weight, eps, y });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let dim = self.weight.len();
        assert!(dim > 0, "rms_norm: weight is empty");
        assert_eq!(self.x.len() % dim, 0, "rms_norm: x is not [rows, dim]");
        assert_eq!(self.x.len(), self.y.len(), "rms_norm: x and y differ in length");
        let (weights, weights_end) = self.weight.as_chunks();
        for (x, y) in self.x.chunks_exact(dim).zip(self.y.chunks_exact_mut(dim)) {
            let (x, x_end) = x.as_chunks();
            let mut sum = simd.splat(0.0);
            for x in x {
                let x = simd.load(x);
                sum = simd.mul_add(x, x, sum);
            }
            let end = load_partial(simd, x_end, 0.0);
            sum = simd.mul_add(end, end, sum);
            let mean = sum_lanes(simd, sum) / dim as f32;
            let scale = simd.splat(1.0 / (mean + self.eps).sqrt());

            let (y, y_end) = y.as_chunks_mut();
            for ((x, weight), y) in x.iter().zip(weights).zip(y) {
                let scaled = simd.mul(simd.load(x), scale);
                simd.store(simd.mul(simd.load(weight), scaled), y);
            }
            let scaled = simd.mul(end, scale);
            let weight = load_partial(simd, weights_end, 0.0);
            store_partial(simd, simd.mul(weight, scaled), y_end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Numbers, same_bits, worst_difference};

    #[test]
    fn every_width_agrees_bit_for_bit_and_with_f64() {
        let mut numbers = Numbers(4);
        for dim in [1, 5, 8, 13, 16, 32, 63, 64, 259, 512] {
            let rows = 5;
            let x = numbers.values(rows * dim, 3.0);
            let weight = numbers.values(dim, 1.5);
            let (mut scalar, mut vector) = (vec![0.0; rows * dim], vec![0.0; rows * dim]);
            rms_norm_on(Isa::Scalar, &x, &weight, 1e-5, &mut scalar);
            rms_norm_on(Isa::Avx2Fma, &x, &weight, 1e-5, &mut vector);
            assert!(same_bits(&scalar, &vector), "dim {dim}");

            let mut truth = Vec::new();
            for x in x.chunks_exact(dim) {
                let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                let root = (squares / dim as f64 + f64::from(1e-5f32)).sqrt();
                truth.extend(x.iter().zip(&weight).map(|(&x, &w)| f64::from(w) * f64::from(x) / root));
            }
            let worst = worst_difference(&vector, &truth);
            assert!(worst < 2e-6, "dim {dim}: {worst}");

            let mut alone = vec![0.0; dim];
            rms_norm(&x[3 * dim..4 * dim], &weight, 1e-5, &mut alone);
            assert!(same_bits(&alone, &vector[3 * dim..4 * dim]));
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let mut y = [1.0; 9];
        rms_norm(&[0.0; 9], &[2.0; 9], 1e-5, &mut y);
        assert_eq!(y, [0.0; 9]);
    }
}
