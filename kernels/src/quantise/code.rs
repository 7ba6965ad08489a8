//! The codes of eight values at a time, for each format.

use super::Format;
use crate::fp8;
use crate::simd::{LANES, Simd};

/// How the scale of a block follows from its values.
pub(crate) enum Rule {
    /// The largest magnitude gets this code.
    Largest(f32),
    /// The mean magnitude.
    Mean,
}

/// A format whose eight codes are `BYTES` bytes.
pub(crate) trait Code<const BYTES: usize> {
    const RULE: Rule;

    /// Rounds values that were divided by the scale: finite, and at most the largest code and a little.
    fn encode<S: Simd>(simd: S, x: S::V, to: &mut [u8; BYTES]);
    /// [`Code::encode`] for four vectors.
    #[inline(always)]
    fn encode_four<S: Simd>(simd: S, x: [S::V; 4], to: &mut [[u8; BYTES]; 4]) {
        for (x, to) in x.into_iter().zip(to) {
            Self::encode(simd, x, to);
        }
    }
    /// The values before they are multiplied by the scale.
    fn decode<S: Simd>(simd: S, from: &[u8; BYTES]) -> S::V;
}

/// Something to do with a [`Format`] as a type.
pub(crate) trait WithFormat {
    fn run<C: Code<BYTES>, const BYTES: usize>(self);
}

pub(crate) fn dispatch(format: Format, work: impl WithFormat) {
    match format {
        Format::Int8 => work.run::<Int8, 8>(),
        Format::Int4 => work.run::<Int4, 4>(),
        Format::Sign => work.run::<Sign, 1>(),
        Format::E4m3 => work.run::<Fp8<{ fp8::E4M3_SHIFT }>, 8>(),
        Format::E5m2 => work.run::<Fp8<{ fp8::E5M2_SHIFT }>, 8>(),
    }
}

/// The codes of the last, incomplete eight values, then zeros.
#[inline(always)]
pub(crate) fn padded<const BYTES: usize>(end: &[u8]) -> [u8; BYTES] {
    let mut padded = [0; BYTES];
    padded[..end.len()].copy_from_slice(end);
    padded
}

pub(crate) struct Int8;
pub(crate) struct Int4;
pub(crate) struct Sign;
/// Either float of eight bits, by the shift that tells them apart.
pub(crate) struct Fp8<const SHIFT: i32>;

impl Code<8> for Int8 {
    const RULE: Rule = Rule::Largest(127.0);

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: S::V, to: &mut [u8; LANES]) {
        simd.narrow_u8(simd.round_to_int(x), to);
    }

    #[inline(always)]
    fn encode_four<S: Simd>(simd: S, [a, b, c, d]: [S::V; 4], to: &mut [[u8; LANES]; 4]) {
        let codes = [simd.round_to_int(a), simd.round_to_int(b), simd.round_to_int(c), simd.round_to_int(d)];
        if let Some(to) = to.as_flattened_mut().first_chunk_mut() {
            simd.narrow_four_i8(codes, to);
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(simd: S, from: &[u8; LANES]) -> S::V {
        simd.int_to_float(simd.widen_i8(from))
    }
}

impl Code<4> for Int4 {
    const RULE: Rule = Rule::Largest(7.0);

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: S::V, to: &mut [u8; 4]) {
        let mut bytes = [0; LANES];
        simd.narrow_u8(simd.and(simd.round_to_int(x), simd.splat_bits(0xf)), &mut bytes);
        // Eight nibbles, each in a byte of its own, move together: pairs, then pairs of pairs.
        let apart = u64::from_le_bytes(bytes);
        let pairs = (apart | apart >> 4) & 0x00ff_00ff_00ff_00ff;
        let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
        *to = ((quads | quads >> 16) as u32).to_le_bytes();
    }

    #[inline(always)]
    fn decode<S: Simd>(simd: S, from: &[u8; 4]) -> S::V {
        simd.int_to_float(simd.widen_i4(u32::from_le_bytes(*from)))
    }
}

impl Code<1> for Sign {
    const RULE: Rule = Rule::Mean;

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: S::V, to: &mut [u8; 1]) {
        *to = [simd.top_bits(simd.bits(x))];
    }

    #[inline(always)]
    fn decode<S: Simd>(simd: S, from: &[u8; 1]) -> S::V {
        simd.floats(simd.or(simd.spread(from[0]), simd.bits(simd.splat(1.0))))
    }
}

impl<const SHIFT: i32> Code<8> for Fp8<SHIFT> {
    const RULE: Rule = Rule::Largest(fp8::largest(SHIFT));

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: S::V, to: &mut [u8; LANES]) {
        simd.narrow_u8(fp8::encode_in_range::<S, SHIFT>(simd, x), to);
    }

    #[inline(always)]
    fn encode_four<S: Simd>(simd: S, [a, b, c, d]: [S::V; 4], to: &mut [[u8; LANES]; 4]) {
        let [a, b] = [fp8::encode_in_range::<S, SHIFT>(simd, a), fp8::encode_in_range::<S, SHIFT>(simd, b)];
        let [c, d] = [fp8::encode_in_range::<S, SHIFT>(simd, c), fp8::encode_in_range::<S, SHIFT>(simd, d)];
        if let Some(to) = to.as_flattened_mut().first_chunk_mut() {
            simd.narrow_four_u8([a, b, c, d], to);
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(simd: S, from: &[u8; LANES]) -> S::V {
        fp8::decode::<S, SHIFT>(simd, from)
    }
}
