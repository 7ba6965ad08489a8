//! Block-wise quantisation: codes of 8, 4 or 1 bits, and one `f32` scale for each block of elements.
//!
//! A buffer is cut into blocks of a fixed number of elements; the last one may be shorter. A value is
//! `code * scale` of its block. Everything is deterministic and the same on every instruction set.
//!
//! | format | codes | scale | error of a value `x` (`s` is the scale) |
//! |---|---|---|---|
//! | [`Format::Int8`] | -127 to 127 | `max abs x / 127` | `s * (1/2 + 2^-15)` |
//! | [`Format::Int4`] | -7 to 7 | `max abs x / 7` | `s * (1/2 + 2^-15)` |
//! | [`Format::E4m3`] | ±448 | `max abs x / 448` | `max(abs x / 16, s / 1024) * (1 + 2^-20)` |
//! | [`Format::E5m2`] | ±57344 | `max abs x / 57344` | `max(abs x / 8, s / 131072) * (1 + 2^-20)` |
//! | [`Format::Sign`] | ±1 | `mean abs x` | see below |
//!
//! A code is `x * (1 / s)`, rounded to nearest, ties to even; the small terms stand for the rounding of the reciprocal
//! and of the product. Scales other than a mean are rounded up to 17 significant bits, so that `code * scale` is exact
//! for codes of at most 7: a value that was read is not rounded again.
//!
//! - **Not finite**: if a block holds a NaN or an infinity, its scale is NaN and its codes are zero, so that all of it
//!   reads as NaN. A poisoned block stays visible, and does not turn into plausible numbers.
//! - **Tiny**: where the scale would be subnormal (below 2^-126), it is zero, and the block reads as zeros.
//! - **Zeros**: a block of zeros has the scale zero. Signed zero is kept by the eight-bit floats alone.
//! - **Sign** keeps the sign bit of each value (zero is positive, `-0.0` negative): the compressor of "EF-SGD"
//!   (Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression
//!   Schemes", 2019, section 4). Over a block of `d` values its squared error is `|x|_2^2 - |x|_1^2 / d`.
//!
//! # Layout
//!
//! Eight-bit codes are one byte each. `Int4` packs two codes of two's complement into a byte, the first one low.
//! `Sign` packs eight bits into a byte, the first one lowest; a set bit is negative. Bits after the last
//! element are those of a zero.

use crate::dtype::Float;
use crate::isa::{Isa, Kernel, detected};
use crate::lanes;
use crate::norms::largest_magnitude;
use crate::simd::{LANES, Simd};

pub(crate) mod code;

#[cfg(test)]
mod tests;

use code::{Code, Rule};

/// How a value becomes a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Signed integers of eight bits.
    Int8,
    /// Signed integers of four bits.
    Int4,
    /// The sign alone.
    Sign,
    /// [`crate::fp8::Fp8::E4m3`].
    E4m3,
    /// [`crate::fp8::Fp8::E5m2`].
    E5m2,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 5] = [Format::Int8, Format::Int4, Format::Sign, Format::E4m3, Format::E5m2];

    /// Bits of one code.
    pub const fn bits(self) -> usize {
        match self {
            Format::Int8 | Format::E4m3 | Format::E5m2 => 8,
            Format::Int4 => 4,
            Format::Sign => 1,
        }
    }
}

/// A format and the number of elements in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    format: Format,
    block: usize,
}

impl Scheme {
    /// The smallest block, of which every block is a multiple.
    pub const SMALLEST_BLOCK: usize = 64;
    /// The largest block.
    pub const LARGEST_BLOCK: usize = 4096;

    /// `None` if `block` is not a multiple of 64 from 64 to 4096.
    pub const fn new(format: Format, block: usize) -> Option<Self> {
        if block == 0 || block > Self::LARGEST_BLOCK || !block.is_multiple_of(Self::SMALLEST_BLOCK) {
            return None;
        }
        Some(Self { format, block })
    }

    /// The format.
    pub const fn format(self) -> Format {
        self.format
    }

    /// Elements of a block.
    pub const fn block(self) -> usize {
        self.block
    }

    /// Bytes of the codes of `count` elements.
    pub const fn code_bytes(self, count: usize) -> usize {
        count.div_ceil(8 / self.format.bits())
    }

    /// Blocks of `count` elements, each of which has a scale.
    pub const fn blocks(self, count: usize) -> usize {
        count.div_ceil(self.block)
    }
}

/// Writes the codes and scales of `x`.
///
/// # Panics
///
/// If `codes` has not [`Scheme::code_bytes`] bytes, or `scales` not [`Scheme::blocks`] values.
pub fn quantise<T: Float>(scheme: Scheme, x: &[T], codes: &mut [u8], scales: &mut [f32]) {
    quantise_on(detected(), scheme, x, codes, scales);
}

/// [`quantise`] on a given instruction set.
///
/// # Panics
///
/// As [`quantise`].
pub fn quantise_on<T: Float>(isa: Isa, scheme: Scheme, x: &[T], codes: &mut [u8], scales: &mut [f32]) {
    assert_eq!(codes.len(), scheme.code_bytes(x.len()), "quantise: codes do not fit x");
    assert_eq!(scales.len(), scheme.blocks(x.len()), "quantise: scales do not fit x");
    code::dispatch(scheme.format, OnIsa(isa, Quantise { block: scheme.block, x, codes, scales }));
}

/// Writes the values of the codes and scales. Halves are rounded from the `f32` product.
///
/// Any bytes are accepted as codes, and any numbers as scales. The codes that [`quantise`] does not write are read as
/// what they are: -8 in `Int4`, -128 in `Int8`, NaNs and infinities in the floats.
///
/// # Panics
///
/// If `codes` has not [`Scheme::code_bytes`] bytes, or `scales` not [`Scheme::blocks`] values.
pub fn dequantise<T: Float>(scheme: Scheme, codes: &[u8], scales: &[f32], out: &mut [T]) {
    dequantise_on(detected(), scheme, codes, scales, out);
}

/// [`dequantise`] on a given instruction set.
///
/// # Panics
///
/// As [`dequantise`].
pub fn dequantise_on<T: Float>(isa: Isa, scheme: Scheme, codes: &[u8], scales: &[f32], out: &mut [T]) {
    assert_eq!(codes.len(), scheme.code_bytes(out.len()), "dequantise: codes do not fit out");
    assert_eq!(scales.len(), scheme.blocks(out.len()), "dequantise: scales do not fit out");
    code::dispatch(scheme.format, OnIsa(isa, Dequantise { block: scheme.block, codes, scales, out }));
}

/// A kernel for any format, on an instruction set.
pub(crate) struct OnIsa<K>(pub(crate) Isa, pub(crate) K);

struct Quantise<'a, T> {
    block: usize,
    x: &'a [T],
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl<T: Float> code::WithFormat for OnIsa<Quantise<'_, T>> {
    fn run<C: Code<BYTES>, const BYTES: usize>(self) {
        struct K<'a, T, C, const BYTES: usize>(Quantise<'a, T>, std::marker::PhantomData<C>);

        impl<T: Float, C: Code<BYTES>, const BYTES: usize> Kernel for K<'_, T, C, BYTES> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                let Quantise { block, x, codes, scales } = self.0;
                let bytes = block / LANES * BYTES;
                for ((x, codes), scale) in x.chunks(block).zip(codes.chunks_mut(bytes)).zip(scales) {
                    *scale = quantise_block::<S, T, C, BYTES>(simd, x, codes);
                }
            }
        }

        self.0.run(K::<T, C, BYTES>(self.1, std::marker::PhantomData));
    }
}

/// Writes the codes of a block and returns its scale.
#[inline(always)]
pub(crate) fn quantise_block<S: Simd, T: Float, C: Code<BYTES>, const BYTES: usize>(
    simd: S,
    x: &[T],
    codes: &mut [u8],
) -> f32 {
    let scale = match C::RULE {
        Rule::Largest(code) => scale_of(largest_magnitude(simd, x), code),
        Rule::Mean => {
            let mean = (sum_of_magnitudes(simd, x) / x.len() as f64) as f32;
            if mean.is_finite() { normal_or_zero(mean) } else { f32::NAN }
        }
    };
    if scale.is_nan() || scale == 0.0 {
        codes.fill(0);
        return scale;
    }
    let reciprocal = simd.splat(1.0 / scale);
    let (x, x_end) = x.as_chunks();
    let (codes, codes_end) = codes.split_at_mut(x.len() * BYTES);
    let ((x, x_rest), (codes, codes_rest)) = (x.as_chunks(), codes.as_chunks_mut().0.as_chunks_mut());
    for ([a, b, c, d], codes) in x.iter().zip(codes) {
        let [a, b] = [simd.mul(lanes::load(simd, a), reciprocal), simd.mul(lanes::load(simd, b), reciprocal)];
        let [c, d] = [simd.mul(lanes::load(simd, c), reciprocal), simd.mul(lanes::load(simd, d), reciprocal)];
        C::encode_four(simd, [a, b, c, d], codes);
    }
    for (x, codes) in x_rest.iter().zip(codes_rest) {
        C::encode(simd, simd.mul(lanes::load(simd, x), reciprocal), codes);
    }
    if !x_end.is_empty() {
        let mut last = [0; BYTES];
        C::encode(simd, simd.mul(lanes::load_partial(simd, x_end), reciprocal), &mut last);
        codes_end.copy_from_slice(&last[..codes_end.len()]);
    }
    scale
}

/// `largest / code`, rounded up to 17 significant bits: NaN where `largest` is not finite, zero where the scale would
/// be subnormal.
#[inline(always)]
fn scale_of(largest: f32, code: f32) -> f32 {
    if !largest.is_finite() {
        return f32::NAN;
    }
    let quotient = normal_or_zero(largest / code).to_bits();
    let up = f32::from_bits((quotient + LOW_BITS) & !LOW_BITS);
    // From the largest numbers there are, down: the value of the largest code must be finite.
    if (up * code).is_finite() { up } else { f32::from_bits(quotient & !LOW_BITS) }
}

/// Bits of an `f32` below the upper 17 of its mantissa.
const LOW_BITS: u32 = 0x7f;

fn normal_or_zero(scale: f32) -> f32 {
    if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
}

/// Whether a code times this scale is never rounded, so that `code * scale + x` is the same with one rounding or two.
///
/// A code has at most 7 significant bits, the scales that [`quantise`] writes have 17, and an `f32` has 24; the bounds
/// exclude overflow and underflow. What is not a number, or is zero, stays so either way.
#[inline(always)]
pub(crate) fn products_are_exact(scale: f32) -> bool {
    let ordinary = (1e-30..=1e30).contains(&scale.abs());
    scale.to_bits() & LOW_BITS == 0 && (ordinary || scale == 0.0 || !scale.is_finite())
}

/// The sum of absolute values in eight chains, element `i` in chain `i mod 8`.
#[inline(always)]
fn sum_of_magnitudes<S: Simd, T: Float>(simd: S, x: &[T]) -> f64 {
    let (mask, one) = (simd.splat_bits(0x7fff_ffff), simd.splat(1.0));
    let mut sum = simd.zero_f64();
    let (chunks, end) = x.as_chunks();
    for x in chunks {
        let magnitude = simd.floats(simd.and(simd.bits(lanes::load(simd, x)), mask));
        sum = simd.mul_add_f64(magnitude, one, sum);
    }
    let magnitude = simd.floats(simd.and(simd.bits(lanes::load_partial(simd, end)), mask));
    crate::simd::sum_lanes_f64(simd, simd.mul_add_f64(magnitude, one, sum))
}

struct Dequantise<'a, T> {
    block: usize,
    codes: &'a [u8],
    scales: &'a [f32],
    out: &'a mut [T],
}

impl<T: Float> code::WithFormat for OnIsa<Dequantise<'_, T>> {
    fn run<C: Code<BYTES>, const BYTES: usize>(self) {
        struct K<'a, T, C, const BYTES: usize>(Dequantise<'a, T>, std::marker::PhantomData<C>);

        impl<T: Float, C: Code<BYTES>, const BYTES: usize> Kernel for K<'_, T, C, BYTES> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                let Dequantise { block, codes, scales, out } = self.0;
                let bytes = block / LANES * BYTES;
                for ((out, codes), &scale) in out.chunks_mut(block).zip(codes.chunks(bytes)).zip(scales) {
                    let scale = simd.splat(scale);
                    let (out, out_end) = out.as_chunks_mut();
                    let (codes, codes_end) = codes.split_at(out.len() * BYTES);
                    for (out, codes) in out.iter_mut().zip(codes.as_chunks().0) {
                        lanes::store(simd, simd.mul(C::decode(simd, codes), scale), out);
                    }
                    if !out_end.is_empty() {
                        let last = code::padded(codes_end);
                        lanes::store_partial(simd, simd.mul(C::decode(simd, &last), scale), out_end);
                    }
                }
            }
        }

        self.0.run(K::<T, C, BYTES>(self.1, std::marker::PhantomData));
    }
}
