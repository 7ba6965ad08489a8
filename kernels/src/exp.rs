//! The exponential function on eight lanes, the same polynomial on every instruction set.

use crate::simd::Simd;

/// Adding and subtracting this rounds a small `f32` to the nearest integer (ties to even).
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
/// Adding this puts `n + 127` into the low bits, for an integer `n`.
const EXPONENT_BIAS: f32 = 8_388_735.0; // 2^23 + 127

/// ln 2 in two parts. The upper one has nine significant bits: `n` times it is exact.
const LN2_UPPER: f32 = 355.0 / 512.0;
const LN2_LOWER: f32 = -2.121_944_4e-4;

/// `(e^r - 1 - r) / r^2` on `|r| <= ln 2 / 2`, lowest power first: a minimax fit of the relative
/// error of `e^r` (Remez exchange), 3.1e-9 before the coefficients are rounded.
const QUOTIENT: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// `e^x` in each lane.
///
/// Within 1.1 units in the last place of the true value over the whole range, subnormal results
/// included. `exp(0)` is exactly 1; overflow gives infinity, underflow zero, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    // Beyond these the result is zero or infinity anyway. The operand order lets a NaN through.
    let x = simd.max(simd.splat(-104.0), x);
    let x = simd.min(simd.splat(89.0), x);

    // x = n ln 2 + r
    let round = simd.splat(ROUND);
    let n = simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), round);
    let n = simd.sub(n, round);
    let r = simd.neg_mul_add(n, simd.splat(LN2_UPPER), x);
    let r = simd.neg_mul_add(n, simd.splat(LN2_LOWER), r);

    let q = simd.splat(QUOTIENT[4]);
    let q = simd.mul_add(q, r, simd.splat(QUOTIENT[3]));
    let q = simd.mul_add(q, r, simd.splat(QUOTIENT[2]));
    let q = simd.mul_add(q, r, simd.splat(QUOTIENT[1]));
    let q = simd.mul_add(q, r, simd.splat(QUOTIENT[0]));
    let p = simd.mul_add(simd.mul(r, r), q, r);
    let p = simd.add(p, simd.splat(1.0));

    // 2^n in two factors: n runs from -150 to 128, further than one exponent reaches.
    let half = simd.mul_add(n, simd.splat(0.5), round);
    let half = simd.sub(half, round);
    let rest = simd.sub(n, half);
    let bias = simd.splat(EXPONENT_BIAS);
    let p = simd.mul(p, simd.low_bits_to_exponent(simd.add(half, bias)));
    simd.mul(p, simd.low_bits_to_exponent(simd.add(rest, bias)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel};
    use crate::simd::LANES;
    use crate::testing::{ISAS, same_bits};

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            simd.store(exp(simd, simd.load(&self.0)), &mut out);
            out
        }
    }

    /// Distance from the true value, in units of the last place of its `f32` neighbourhood.
    fn ulps(got: f32, truth: f64) -> f64 {
        let exponent = truth.log2().floor().max(-126.0) as i32;
        (f64::from(got) - truth).abs() / 2f64.powi(exponent - 23)
    }

    /// Every `stride`-th `f32` bit pattern: the worst error in ulps, and whether all twins agree.
    fn worst(stride: usize) -> f64 {
        let mut worst = 0.0f64;
        let mut bits = (0..=u32::MAX).step_by(stride);
        loop {
            let mut x = [0.0; LANES];
            let mut taken = 0;
            for (lane, pattern) in x.iter_mut().zip(&mut bits) {
                *lane = f32::from_bits(pattern);
                taken += 1;
            }
            if taken == 0 {
                return worst;
            }
            let vector = Isa::Avx2Fma.run(Exp(x));
            assert!(same_bits(&vector, &Isa::Scalar.run(Exp(x))), "{x:?}");
            for (x, got) in x.into_iter().zip(vector) {
                let truth = f64::from(x).exp();
                if x.is_nan() {
                    assert!(got.is_nan());
                } else if truth >= f64::from(f32::MAX) + 1e31 {
                    assert_eq!(got, f32::INFINITY, "exp({x})");
                } else if truth < 2f64.powi(-151) {
                    assert_eq!(got, 0.0, "exp({x})");
                } else {
                    worst = worst.max(ulps(got, truth));
                }
            }
        }
    }

    #[test]
    fn error_is_within_the_stated_bound_over_the_full_range() {
        let stride = if cfg!(miri) { 40_000_003 } else { 1_021 };
        let worst = worst(stride);
        assert!(worst <= 1.1, "worst error {worst} ulps");
    }

    #[test]
    fn special_values_are_exact() {
        let x = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -104.0, 88.72, 88.73];
        for isa in ISAS {
            let y = isa.run(Exp(x));
            assert_eq!(y[..4], [1.0, 1.0, f32::INFINITY, 0.0]);
            assert!(y[4].is_nan());
            assert_eq!(y[5], 0.0);
            assert!(y[6].is_finite() && y[7] == f32::INFINITY);
        }
    }
}
