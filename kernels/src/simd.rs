//! Eight `f32` lanes: the operations that every instruction set provides, and the scalar twin.

/// Number of lanes in a vector, on every instruction set.
pub(crate) const LANES: usize = 8;

/// One cache line of 16 values, as two vectors: the unit of packed weights and caches.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [[f32; LANES]; 2]);

impl Line {
    pub(crate) const WIDTH: usize = 2 * LANES;
    pub(crate) const ZERO: Line = Line([[0.0; LANES]; 2]);

    pub(crate) fn set(&mut self, index: usize, value: f32) {
        self.0[index / LANES][index % LANES] = value;
    }
}

/// An instruction set. A value of an implementing type proves that the processor has it.
///
/// Every operation is defined lane by lane and exactly, so that all implementations agree.
pub(crate) trait Simd: Copy {
    type V: Copy;

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
    /// The bits of each lane, shifted left by 23: what was the low byte becomes the exponent.
    fn low_bits_to_exponent(self, a: Self::V) -> Self::V;
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

/// The scalar twin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type V = [f32; LANES];

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
    fn low_bits_to_exponent(self, a: Self::V) -> Self::V {
        a.map(|lane| f32::from_bits(lane.to_bits() << 23))
    }
}
