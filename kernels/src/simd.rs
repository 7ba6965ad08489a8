//! Eight lanes: the operations that every instruction set provides, and the scalar twin.

use crate::dtype::F16;

/// Number of lanes in a vector, on every instruction set.
pub(crate) const LANES: usize = 8;

/// One cache line of 16 values, as two vectors: the unit of packed weights and caches, and of sixteen samples that are
/// computed together.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Line(pub [[f32; LANES]; 2]);

impl Line {
    /// Values of a line.
    pub const WIDTH: usize = 2 * LANES;
    /// All zero.
    pub const ZERO: Line = Line([[0.0; LANES]; 2]);

    /// Value `index` of 16.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline(always)]
    pub fn get(&self, index: usize) -> f32 {
        self.0[index / LANES][index % LANES]
    }

    /// Changes value `index` of 16.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline(always)]
    pub fn set(&mut self, index: usize, value: f32) {
        self.0[index / LANES][index % LANES] = value;
    }
}

/// An instruction set. A value of an implementing type proves that the processor has it.
///
/// Every operation is defined lane by lane and exactly, so that all implementations agree.
pub(crate) trait Simd: Copy {
    /// Eight `f32`.
    type V: Copy;
    /// Eight words of 32 bits. Comparisons give words of all ones or all zeros.
    type B: Copy;
    /// Eight `f64`.
    type D: Copy;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, value: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, rounded once.
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`, therefore `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`, therefore `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Whether `a > b`, all ones or all zeros; not where either is NaN.
    fn greater(self, a: Self::V, b: Self::V) -> Self::B;
    /// The bits of each lane, shifted left by 23: what was the low byte becomes the exponent.
    fn low_bits_to_exponent(self, a: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;

    fn bits(self, a: Self::V) -> Self::B;
    fn floats(self, a: Self::B) -> Self::V;
    fn splat_bits(self, value: u32) -> Self::B;
    fn and(self, a: Self::B, b: Self::B) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    fn xor(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a + b`, wrapping.
    fn add_bits(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a - b`, wrapping.
    fn sub_bits(self, a: Self::B, b: Self::B) -> Self::B;
    fn shl<const N: i32>(self, a: Self::B) -> Self::B;
    /// Zeros come in from above.
    fn shr<const N: i32>(self, a: Self::B) -> Self::B;
    /// The larger one, as `i32`.
    fn max_bits(self, a: Self::B, b: Self::B) -> Self::B;
    /// The smaller one, as `i32`.
    fn min_bits(self, a: Self::B, b: Self::B) -> Self::B;
    /// The largest lane, as `i32`.
    fn largest_bits(self, a: Self::B) -> i32;
    /// Whether `a > b`, as `i32`.
    fn above(self, a: Self::B, b: Self::B) -> Self::B;
    /// `mask ? a : b` for a mask of all ones or all zeros in each lane.
    fn select(self, mask: Self::B, a: Self::B, b: Self::B) -> Self::B;
    /// The top bit of each lane, the first lane lowest.
    fn top_bits(self, a: Self::B) -> u8;
    /// The lanes' top bits from a byte, the first lane lowest; the other bits are zero.
    fn spread(self, byte: u8) -> Self::B;
    /// The nearest `i32`, ties to even. Only for values that fit.
    fn round_to_int(self, a: Self::V) -> Self::B;
    fn int_to_float(self, a: Self::B) -> Self::V;
    fn widen_i8(self, from: &[u8; LANES]) -> Self::B;
    /// Four bits of two's complement each, the first lane lowest.
    fn widen_i4(self, from: u32) -> Self::B;
    fn widen_u16(self, from: &[u16; LANES]) -> Self::B;
    /// The lowest byte of each lane.
    fn narrow_u8(self, a: Self::B, to: &mut [u8; LANES]);
    /// The lowest byte of each lane of four vectors, whose lanes are from -128 to 127.
    fn narrow_four_i8(self, a: [Self::B; 4], to: &mut [u8; 4 * LANES]);
    /// The lowest byte of each lane of four vectors, whose lanes are from 0 to 255.
    fn narrow_four_u8(self, a: [Self::B; 4], to: &mut [u8; 4 * LANES]);
    /// The lower half of each lane.
    fn narrow_u16(self, a: Self::B, to: &mut [u16; LANES]);
    /// As [`F16::to_f32`].
    fn widen_f16(self, from: &[F16; LANES]) -> Self::V;
    /// As [`F16::from_f32`].
    fn narrow_f16(self, a: Self::V, to: &mut [F16; LANES]);

    fn zero_f64(self) -> Self::D;
    /// `a * b + c` as `f64`, rounded once.
    fn mul_add_f64(self, a: Self::V, b: Self::V, c: Self::D) -> Self::D;
    fn add_f64(self, a: Self::D, b: Self::D) -> Self::D;
    fn store_f64(self, value: Self::D, to: &mut [f64; LANES]);

    /// Asks for the cache line at an address, which may be anywhere: no memory need be there.
    fn prefetch(self, address: *const u8);
}

/// The first lanes from `from` (at most [`LANES`] values), the rest `fill`.
#[inline(always)]
pub(crate) fn load_partial<S: Simd>(simd: S, from: &[f32], fill: f32) -> S::V {
    let mut lanes = [fill; LANES];
    lanes[..from.len()].copy_from_slice(from);
    simd.load(&lanes)
}

/// The first `to.len()` lanes (at most [`LANES`]).
#[inline(always)]
pub(crate) fn store_partial<S: Simd>(simd: S, value: S::V, to: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    simd.store(value, &mut lanes);
    to.copy_from_slice(&lanes[..to.len()]);
}

/// The sum of the lanes, as a fixed tree: lanes 4 apart, then 2 apart, then neighbours.
#[inline(always)]
pub(crate) fn sum_lanes<S: Simd>(simd: S, value: S::V) -> f32 {
    let mut l = [0.0; LANES];
    simd.store(value, &mut l);
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// The largest lane. A NaN is passed over.
#[inline(always)]
pub(crate) fn max_lanes<S: Simd>(simd: S, value: S::V) -> f32 {
    let mut lanes = [0.0; LANES];
    simd.store(value, &mut lanes);
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of the lanes, as the tree of [`sum_lanes`].
#[inline(always)]
pub(crate) fn sum_lanes_f64<S: Simd>(simd: S, value: S::D) -> f64 {
    let mut l = [0.0; LANES];
    simd.store_f64(value, &mut l);
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// `value / divisor` for a divisor above zero, exactly as the division rounds.
#[inline(always)]
pub(crate) fn divide<S: Simd>(simd: S, value: S::V, divisor: u32) -> S::V {
    if divisor == 1 {
        value
    } else if divisor.is_power_of_two() {
        // The reciprocal is exact, so that the product is the quotient; and it is far faster.
        simd.mul(value, simd.splat(1.0 / divisor as f32))
    } else {
        simd.div(value, simd.splat(divisor as f32))
    }
}

/// The scalar twin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type V = [f32; LANES];
    type B = [u32; LANES];
    type D = [f64; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::V, to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> Self::B {
        std::array::from_fn(|i| if a[i] > b[i] { u32::MAX } else { 0 })
    }

    #[inline(always)]
    fn low_bits_to_exponent(self, a: Self::V) -> Self::V {
        a.map(|lane| f32::from_bits(lane.to_bits() << 23))
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn bits(self, a: Self::V) -> Self::B {
        a.map(f32::to_bits)
    }

    #[inline(always)]
    fn floats(self, a: Self::B) -> Self::V {
        a.map(f32::from_bits)
    }

    #[inline(always)]
    fn splat_bits(self, value: u32) -> Self::B {
        [value; LANES]
    }

    #[inline(always)]
    fn and(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] & b[i])
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn xor(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn add_bits(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn sub_bits(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn shl<const N: i32>(self, a: Self::B) -> Self::B {
        a.map(|lane| lane << N)
    }

    #[inline(always)]
    fn shr<const N: i32>(self, a: Self::B) -> Self::B {
        a.map(|lane| lane >> N)
    }

    #[inline(always)]
    fn max_bits(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i].cast_signed().max(b[i].cast_signed()).cast_unsigned())
    }

    #[inline(always)]
    fn min_bits(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i].cast_signed().min(b[i].cast_signed()).cast_unsigned())
    }

    #[inline(always)]
    fn largest_bits(self, a: Self::B) -> i32 {
        a.into_iter().fold(i32::MIN, |largest, lane| largest.max(lane.cast_signed()))
    }

    #[inline(always)]
    fn above(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| if a[i].cast_signed() > b[i].cast_signed() { u32::MAX } else { 0 })
    }

    #[inline(always)]
    fn select(self, mask: Self::B, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| if mask[i] == 0 { b[i] } else { a[i] })
    }

    #[inline(always)]
    fn top_bits(self, a: Self::B) -> u8 {
        a.into_iter().rev().fold(0, |byte, lane| byte << 1 | (lane >> 31) as u8)
    }

    #[inline(always)]
    fn spread(self, byte: u8) -> Self::B {
        std::array::from_fn(|i| u32::from(byte >> i & 1) << 31)
    }

    #[inline(always)]
    fn round_to_int(self, a: Self::V) -> Self::B {
        a.map(|lane| (lane.round_ties_even() as i32).cast_unsigned())
    }

    #[inline(always)]
    fn int_to_float(self, a: Self::B) -> Self::V {
        a.map(|lane| lane.cast_signed() as f32)
    }

    #[inline(always)]
    fn widen_i8(self, from: &[u8; LANES]) -> Self::B {
        from.map(|byte| i32::from(byte.cast_signed()).cast_unsigned())
    }

    #[inline(always)]
    fn widen_i4(self, from: u32) -> Self::B {
        std::array::from_fn(|i| ((from << (28 - 4 * i)).cast_signed() >> 28).cast_unsigned())
    }

    #[inline(always)]
    fn widen_u16(self, from: &[u16; LANES]) -> Self::B {
        from.map(u32::from)
    }

    #[inline(always)]
    fn narrow_u8(self, a: Self::B, to: &mut [u8; LANES]) {
        *to = a.map(|lane| lane as u8);
    }

    #[inline(always)]
    fn narrow_four_i8(self, a: [Self::B; 4], to: &mut [u8; 4 * LANES]) {
        for (a, to) in a.into_iter().zip(to.as_chunks_mut().0) {
            self.narrow_u8(a, to);
        }
    }

    #[inline(always)]
    fn narrow_four_u8(self, a: [Self::B; 4], to: &mut [u8; 4 * LANES]) {
        for (a, to) in a.into_iter().zip(to.as_chunks_mut().0) {
            self.narrow_u8(a, to);
        }
    }

    #[inline(always)]
    fn narrow_u16(self, a: Self::B, to: &mut [u16; LANES]) {
        *to = a.map(|lane| lane as u16);
    }

    #[inline(always)]
    fn widen_f16(self, from: &[F16; LANES]) -> Self::V {
        from.map(F16::to_f32)
    }

    #[inline(always)]
    fn narrow_f16(self, a: Self::V, to: &mut [F16; LANES]) {
        *to = a.map(F16::from_f32);
    }

    #[inline(always)]
    fn zero_f64(self) -> Self::D {
        [0.0; LANES]
    }

    #[inline(always)]
    fn mul_add_f64(self, a: Self::V, b: Self::V, c: Self::D) -> Self::D {
        std::array::from_fn(|i| f64::from(a[i]).mul_add(f64::from(b[i]), c[i]))
    }

    #[inline(always)]
    fn add_f64(self, a: Self::D, b: Self::D) -> Self::D {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn store_f64(self, value: Self::D, to: &mut [f64; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}

#[cfg(test)]
mod tests;
