//! Floats of eight bits as the OCP 8-bit Floating Point Specification (OFP8, revision 1.0, 2023) defines them.
//!
//! - **E4M3**: 4 bits of exponent, 3 of mantissa, no infinity (the variant that libraries call `e4m3fn`).
//!   Largest value 448, smallest normal one 2^-6, smallest 2^-9. NaN is `0x7f` and `0xff`.
//! - **E5M2**: 5 bits of exponent, 2 of mantissa, infinities as in IEEE 754. Largest value 57344, smallest normal one
//!   2^-14, smallest 2^-16. NaN is `0x7d` to `0x7f`, and these with the sign.
//!
//! Narrowing rounds to nearest, ties to even, and **saturates**: what is too large becomes the largest value,
//! and so does an infinity (the specification's saturating mode, section 5.2). NaN becomes `0x7f` with its sign. So
//! for a finite `x` within the range, the result `y` satisfies
//!
//! - E4M3: `|x - y| <= max(|x| / 16, 2^-10)`,
//! - E5M2: `|x - y| <= max(|x| / 8, 2^-17)`.
//!
//! Widening is exact; every NaN becomes the positive, quiet one without payload.

use crate::dtype::Float;
use crate::isa::{Isa, Kernel, detected};
use crate::lanes;
use crate::simd::{LANES, Simd};

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// More precision: usual for weights, activations and averages.
    E4m3,
    /// More range: usual for gradients.
    E5m2,
}

/// Narrows every element to eight bits.
///
/// # Panics
///
/// If `x` and `out` differ in length.
pub fn narrow<T: Float>(format: Fp8, x: &[T], out: &mut [u8]) {
    narrow_on(detected(), format, x, out);
}

/// [`narrow`] on a given instruction set.
///
/// # Panics
///
/// As [`narrow`].
pub fn narrow_on<T: Float>(isa: Isa, format: Fp8, x: &[T], out: &mut [u8]) {
    assert_eq!(x.len(), out.len(), "fp8: x and out differ in length");
    match format {
        Fp8::E4m3 => isa.run(Narrow::<T, E4M3_SHIFT> { x, out }),
        Fp8::E5m2 => isa.run(Narrow::<T, E5M2_SHIFT> { x, out }),
    }
}

/// Widens every element; to `f32` exactly, to a half with rounding (E5M2 fits `f16` exactly, both fit `bf16` exactly).
///
/// # Panics
///
/// If `x` and `out` differ in length.
pub fn widen<T: Float>(format: Fp8, x: &[u8], out: &mut [T]) {
    widen_on(detected(), format, x, out);
}

/// [`widen`] on a given instruction set.
///
/// # Panics
///
/// As [`widen`].
pub fn widen_on<T: Float>(isa: Isa, format: Fp8, x: &[u8], out: &mut [T]) {
    assert_eq!(x.len(), out.len(), "fp8: x and out differ in length");
    match format {
        Fp8::E4m3 => isa.run(Widen::<T, E4M3_SHIFT> { x, out }),
        Fp8::E5m2 => isa.run(Widen::<T, E5M2_SHIFT> { x, out }),
    }
}

/// From a mantissa of 3 bits to one of 23.
pub(crate) const E4M3_SHIFT: i32 = 20;
/// From a mantissa of 2 bits to one of 23.
pub(crate) const E5M2_SHIFT: i32 = 21;

/// The largest finite value.
pub(crate) const fn largest(shift: i32) -> f32 {
    if shift == E4M3_SHIFT { 448.0 } else { 57344.0 }
}

/// How much smaller the exponent's bias is than that of an `f32`. The exponent has `shift - 16` bits.
const fn bias_difference(shift: i32) -> u32 {
    127 - ((1 << (shift - 17)) - 1)
}

/// Eight codes, one in each lane.
#[inline(always)]
pub(crate) fn encode<S: Simd, const SHIFT: i32>(simd: S, x: S::V) -> S::B {
    let bits = simd.bits(x);
    let abs = simd.and(bits, simd.splat_bits(0x7fff_ffff));
    let nan = simd.above(abs, simd.splat_bits(0x7f80_0000));
    let code = magnitude::<S, SHIFT>(simd, simd.min_bits(abs, simd.splat_bits(largest(SHIFT).to_bits())));
    simd.or(sign(simd, bits), simd.select(nan, simd.splat_bits(0x7f), code))
}

/// [`encode`] for numbers that are less than half a step above the largest value.
#[inline(always)]
pub(crate) fn encode_in_range<S: Simd, const SHIFT: i32>(simd: S, x: S::V) -> S::B {
    let bits = simd.bits(x);
    simd.or(sign(simd, bits), magnitude::<S, SHIFT>(simd, simd.and(bits, simd.splat_bits(0x7fff_ffff))))
}

#[inline(always)]
fn sign<S: Simd>(simd: S, bits: S::B) -> S::B {
    simd.and(simd.shr::<24>(bits), simd.splat_bits(0x80))
}

/// Seven bits from the bits of a non-negative number.
#[inline(always)]
fn magnitude<S: Simd, const SHIFT: i32>(simd: S, abs: S::B) -> S::B {
    // The exponent, which for subnormal results is that of the smallest normal value.
    let smallest_normal = (bias_difference(SHIFT) + 1) << 23;
    let exponent = simd.and(abs, simd.splat_bits(0x7f80_0000));
    let exponent = simd.max_bits(exponent, simd.splat_bits(smallest_normal));
    // A power of two whose last place is that of the result: adding it rounds there. What is above it, is
    // the mantissa with its leading bit, which adds one to the exponent.
    let unit = simd.add_bits(exponent, simd.splat_bits(SHIFT.cast_unsigned() << 23));
    let sum = simd.add(simd.floats(abs), simd.floats(unit));
    let mantissa = simd.sub_bits(simd.bits(sum), unit);
    let exponent = simd.sub_bits(simd.shr::<SHIFT>(exponent), simd.splat_bits(smallest_normal >> SHIFT));
    simd.add_bits(exponent, mantissa)
}

/// Eight values.
#[inline(always)]
pub(crate) fn decode<S: Simd, const SHIFT: i32>(simd: S, codes: &[u8; LANES]) -> S::V {
    // Extending the sign puts it above the exponent wherever that is moved to.
    let bits = simd.shl::<SHIFT>(simd.widen_i8(codes));
    let abs = simd.and(bits, simd.splat_bits(0x7f << SHIFT));
    let bits = simd.and(bits, simd.splat_bits(0x8000_0000 | 0x7f << SHIFT));
    // With the bias of an `f32` the value is too small by a power of two; the product is exact, from subnormals too.
    let factor = f32::from_bits((127 + bias_difference(SHIFT)) << 23);
    let value = simd.mul(simd.floats(bits), simd.splat(factor));
    let nan = simd.splat_bits(0x7fc0_0000);
    if SHIFT == E4M3_SHIFT {
        let is_nan = simd.above(abs, simd.splat_bits(0x7e << SHIFT));
        return simd.floats(simd.select(is_nan, nan, simd.bits(value)));
    }
    let infinite = simd.and(simd.above(abs, simd.splat_bits(0x7b << SHIFT)), simd.splat_bits(0x7f80_0000));
    let is_nan = simd.above(abs, simd.splat_bits(0x7c << SHIFT));
    simd.floats(simd.select(is_nan, nan, simd.or(infinite, simd.bits(value))))
}

struct Narrow<'a, T, const SHIFT: i32> {
    x: &'a [T],
    out: &'a mut [u8],
}

impl<T: Float, const SHIFT: i32> Kernel for Narrow<'_, T, SHIFT> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ((x, x_end), (out, out_end)) = (self.x.as_chunks(), self.out.as_chunks_mut());
        for (x, out) in x.iter().zip(out) {
            simd.narrow_u8(encode::<S, SHIFT>(simd, lanes::load(simd, x)), out);
        }
        let mut last = [0; LANES];
        simd.narrow_u8(encode::<S, SHIFT>(simd, lanes::load_partial(simd, x_end)), &mut last);
        out_end.copy_from_slice(&last[..out_end.len()]);
    }
}

struct Widen<'a, T, const SHIFT: i32> {
    x: &'a [u8],
    out: &'a mut [T],
}

impl<T: Float, const SHIFT: i32> Kernel for Widen<'_, T, SHIFT> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ((x, x_end), (out, out_end)) = (self.x.as_chunks(), self.out.as_chunks_mut());
        for (x, out) in x.iter().zip(out) {
            lanes::store(simd, decode::<S, SHIFT>(simd, x), out);
        }
        let mut last = [0; LANES];
        last[..x_end.len()].copy_from_slice(x_end);
        lanes::store_partial(simd, decode::<S, SHIFT>(simd, &last), out_end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{Bf16, F16};
    use crate::testing::ISAS;

    /// The value of a code by the definition, `None` for NaN.
    fn value(format: Fp8, code: u8) -> Option<f64> {
        let (mantissa_bits, bias) = if format == Fp8::E4m3 { (3, 7) } else { (2, 15) };
        let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
        let exponent = i32::from((code & 0x7f) >> mantissa_bits);
        let magnitude = match (format, code & 0x7f) {
            (Fp8::E4m3, 0x7f) | (Fp8::E5m2, 0x7d..) => return None,
            (Fp8::E5m2, 0x7c) => f64::INFINITY,
            _ if exponent == 0 => mantissa * 2f64.powi(1 - bias),
            _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
        };
        Some(if code < 0x80 { magnitude } else { -magnitude })
    }

    const FORMATS: [Fp8; 2] = [Fp8::E4m3, Fp8::E5m2];

    fn narrowed(isa: Isa, format: Fp8, x: &[f32]) -> Vec<u8> {
        let mut out = vec![0xaa; x.len()];
        narrow_on(isa, format, x, &mut out);
        out
    }

    #[test]
    fn all_codes_widen_to_their_value() {
        let codes: Vec<u8> = (0..=255).collect();
        for (isa, format) in ISAS.into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
            let mut wide = vec![0.0f32; 256];
            widen_on(isa, format, &codes, &mut wide);
            for (&code, wide) in codes.iter().zip(&wide) {
                match value(format, code) {
                    Some(value) => assert_eq!(f64::from(*wide).to_bits(), value.to_bits(), "{format:?} {code:02x}"),
                    None => assert_eq!(wide.to_bits(), 0x7fc0_0000),
                }
            }
            let back = narrowed(isa, format, &wide);
            for (&code, back) in codes.iter().zip(back) {
                let expected = match (format, code & 0x7f) {
                    (Fp8::E5m2, 0x7c) => code - 1,
                    (Fp8::E5m2, 0x7d..) | (Fp8::E4m3, 0x7f) => 0x7f,
                    _ => code,
                };
                assert_eq!(back, expected, "{format:?} {code:02x}");
            }
            let mut half = vec![Bf16(0); 256];
            widen_on(isa, format, &codes, &mut half);
            assert!(half.iter().zip(&wide).all(|(h, w)| h.to_f32().to_bits() == w.to_bits()), "{isa:?} {format:?}");
            let mut half = vec![F16(0); 256];
            widen_on(isa, format, &codes, &mut half);
            assert!(half.iter().zip(&wide).all(|(h, w)| h.to_f32().to_bits() == w.to_bits()), "{isa:?} {format:?}");
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even_at_every_step_and_saturates() {
        for (isa, format) in ISAS.into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
            let largest = if format == Fp8::E4m3 { 0x7e } else { 0x7b };
            for code in 0..largest {
                let [low, high] = [code, code + 1].map(|code| value(format, code).unwrap());
                let middle = ((low + high) / 2.0) as f32;
                let even = code + (code & 1);
                let x = [middle.next_down(), middle, middle.next_up()];
                assert_eq!(narrowed(isa, format, &x), [code, even, code + 1], "{format:?} {code:02x}");
                let negative = [even, code, code + 1].map(|code| code | 0x80);
                assert_eq!(narrowed(isa, format, &[-middle, -middle.next_down(), -middle.next_up()]), negative);
            }
            let top = value(format, largest).unwrap() as f32;
            let x = [top.next_up(), top * 1.5, f32::MAX, f32::INFINITY, f32::NEG_INFINITY];
            assert_eq!(narrowed(isa, format, &x), [largest, largest, largest, largest, largest | 0x80]);
            assert_eq!(narrowed(isa, format, &[f32::NAN, -f32::NAN, 0.0, -0.0, 1e-40]), [0x7f, 0xff, 0, 0x80, 0]);
        }
    }

    #[test]
    fn the_error_is_within_the_stated_bound_and_twins_agree() {
        let stride = if cfg!(miri) { 40_000_003 } else { 20_011 };
        let x: Vec<f32> = (0..=u32::MAX).step_by(stride).map(f32::from_bits).collect();
        for (format, relative, absolute, largest) in
            [(Fp8::E4m3, 1.0 / 16.0, 2f32.powi(-10), 448.0), (Fp8::E5m2, 1.0 / 8.0, 2f32.powi(-17), 57344.0)]
        {
            let codes = narrowed(Isa::Avx2Fma, format, &x);
            assert_eq!(codes, narrowed(Isa::Scalar, format, &x), "{format:?}");
            let mut y = vec![0.0f32; x.len()];
            widen(format, &codes, &mut y);
            for (&x, y) in x.iter().zip(y) {
                let bounded = (x - y).abs() <= (x.abs() * relative).max(absolute);
                assert!(bounded || x.abs() > largest || x.is_nan(), "{format:?} {x} became {y}");
            }
        }
    }

    #[test]
    fn every_length_and_type_agrees_on_every_instruction_set() {
        for len in 0..40 {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 - 20.0) * 1.7).collect();
            let (bf16, f16): (Vec<_>, Vec<_>) = x.iter().map(|&x| (Bf16::from_f32(x), F16::from_f32(x))).unzip();
            for (isa, format) in ISAS.into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
                assert_eq!(narrowed(isa, format, &x), narrowed(Isa::Scalar, format, &x));
                let mut out = vec![0xaa; len];
                narrow_on(isa, format, &bf16, &mut out);
                let wide: Vec<f32> = bf16.iter().map(|x| x.to_f32()).collect();
                assert_eq!(out, narrowed(Isa::Scalar, format, &wide));
                narrow_on(isa, format, &f16, &mut out);
                let wide: Vec<f32> = f16.iter().map(|x| x.to_f32()).collect();
                assert_eq!(out, narrowed(Isa::Scalar, format, &wide));
            }
        }
        let mut out = [0; 3];
        narrow(Fp8::E4m3, &[1.0f32, 1.06, 300.0], &mut out);
        assert_eq!(out, [0x38, 0x38, 0x79], "one; 1.06 is nearer to 1 than to 1.125; 300 is nearer to 288 than to 320");
    }
}
