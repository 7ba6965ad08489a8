//! Sums over whole vectors: squares, products, distances, and the largest magnitude.
//!
//! Inputs are `f32` or halves; everything is accumulated in `f64`, where the product of two `f32` is exact, so that
//! nothing overflows, and the relative error of a sum of `n` squares is below `n * 2^-53`.
//!
//! # The order
//!
//! A vector is cut into blocks of [`BLOCK`] elements. In a block, element `i` belongs to chain `i mod 16`; chains are
//! summed in their order of elements, and added to each other in a fixed tree. Blocks are added one after the other.
//! So the result depends on the values alone, not on the instruction set, and a caller with threads gets the same
//! bits if it gives each thread whole blocks, one call for each, and adds their results in order.

use crate::dtype::Float;
use crate::isa::{Isa, Kernel, detected};
use crate::lanes;
use crate::simd::{LANES, Simd, sum_lanes_f64};

/// Elements of a block.
pub const BLOCK: usize = 1 << 16;

/// The sum of `x^2`. NaN or infinity where `x` has one.
pub fn sum_of_squares<T: Float>(x: &[T]) -> f64 {
    sum_of_squares_on(detected(), x)
}

/// [`sum_of_squares`] on a given instruction set.
pub fn sum_of_squares_on<T: Float>(isa: Isa, x: &[T]) -> f64 {
    isa.run(Blocks { x, y: x, term: Product })
}

/// The Euclidean length: the square root of [`sum_of_squares`].
pub fn l2<T: Float>(x: &[T]) -> f64 {
    sum_of_squares(x).sqrt()
}

/// The sum of `x * y`.
///
/// # Panics
///
/// If `x` and `y` differ in length.
pub fn dot<T: Float>(x: &[T], y: &[T]) -> f64 {
    dot_on(detected(), x, y)
}

/// [`dot`] on a given instruction set.
///
/// # Panics
///
/// As [`dot`].
pub fn dot_on<T: Float>(isa: Isa, x: &[T], y: &[T]) -> f64 {
    assert_eq!(x.len(), y.len(), "dot: x and y differ in length");
    isa.run(Blocks { x, y, term: Product })
}

/// The sum of `(x - y)^2`. The differences are rounded to `f32`.
///
/// # Panics
///
/// If `x` and `y` differ in length.
pub fn squared_distance<T: Float>(x: &[T], y: &[T]) -> f64 {
    squared_distance_on(detected(), x, y)
}

/// [`squared_distance`] on a given instruction set.
///
/// # Panics
///
/// As [`squared_distance`].
pub fn squared_distance_on<T: Float>(isa: Isa, x: &[T], y: &[T]) -> f64 {
    assert_eq!(x.len(), y.len(), "squared_distance: x and y differ in length");
    isa.run(Blocks { x, y, term: Difference })
}

/// The Euclidean distance: the square root of [`squared_distance`].
///
/// # Panics
///
/// As [`squared_distance`].
pub fn distance<T: Float>(x: &[T], y: &[T]) -> f64 {
    squared_distance(x, y).sqrt()
}

/// The largest absolute value, zero for no values. NaN if `x` has a NaN.
pub fn max_abs<T: Float>(x: &[T]) -> f32 {
    max_abs_on(detected(), x)
}

/// [`max_abs`] on a given instruction set.
pub fn max_abs_on<T: Float>(isa: Isa, x: &[T]) -> f32 {
    let largest = isa.run(MaxAbs(x));
    if largest.is_nan() { f32::NAN } else { largest }
}

/// What is summed.
trait Term: Copy {
    /// The factors of the term.
    fn factors<S: Simd>(self, simd: S, x: S::V, y: S::V) -> [S::V; 2];
}

#[derive(Clone, Copy)]
struct Product;

impl Term for Product {
    #[inline(always)]
    fn factors<S: Simd>(self, _: S, x: S::V, y: S::V) -> [S::V; 2] {
        [x, y]
    }
}

#[derive(Clone, Copy)]
struct Difference;

impl Term for Difference {
    #[inline(always)]
    fn factors<S: Simd>(self, simd: S, x: S::V, y: S::V) -> [S::V; 2] {
        [simd.sub(x, y); 2]
    }
}

struct Blocks<'a, T, F> {
    x: &'a [T],
    y: &'a [T],
    term: F,
}

impl<T: Float, F: Term> Kernel for Blocks<'_, T, F> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut total = 0.0;
        for (x, y) in self.x.chunks(BLOCK).zip(self.y.chunks(BLOCK)) {
            let mut sums = [simd.zero_f64(); 2];
            let ((x, x_end), (y, y_end)) = (x.as_chunks::<{ 2 * LANES }>(), y.as_chunks::<{ 2 * LANES }>());
            for (x, y) in x.iter().zip(y) {
                for ((x, y), sum) in x.as_chunks().0.iter().zip(y.as_chunks().0).zip(&mut sums) {
                    let [a, b] = self.term.factors(simd, lanes::load(simd, x), lanes::load(simd, y));
                    *sum = simd.mul_add_f64(a, b, *sum);
                }
            }
            for ((x, y), sum) in x_end.chunks(LANES).zip(y_end.chunks(LANES)).zip(&mut sums) {
                let (x, y) = (lanes::load_partial(simd, x), lanes::load_partial(simd, y));
                let [a, b] = self.term.factors(simd, x, y);
                *sum = simd.mul_add_f64(a, b, *sum);
            }
            total += sum_lanes_f64(simd, simd.add_f64(sums[0], sums[1]));
        }
        total
    }
}

struct MaxAbs<'a, T>(&'a [T]);

impl<T: Float> Kernel for MaxAbs<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        largest_magnitude(simd, self.0)
    }
}

/// The largest absolute value; a NaN where there is one. The bits of magnitudes are in the order of their values, and
/// those of NaNs above all, so that integers are compared.
#[inline(always)]
pub(crate) fn largest_magnitude<S: Simd, T: Float>(simd: S, x: &[T]) -> f32 {
    let mask = simd.splat_bits(0x7fff_ffff);
    let mut largest = [simd.splat_bits(0); 4];
    let (quads, rest) = x.as_chunks::<{ 4 * LANES }>();
    for quad in quads {
        for (x, largest) in quad.as_chunks().0.iter().zip(&mut largest) {
            *largest = simd.max_bits(*largest, simd.and(simd.bits(lanes::load(simd, x)), mask));
        }
    }
    let (rest, end) = rest.as_chunks();
    for x in rest {
        largest[0] = simd.max_bits(largest[0], simd.and(simd.bits(lanes::load(simd, x)), mask));
    }
    let end = simd.and(simd.bits(lanes::load_partial(simd, end)), mask);
    let [a, b, c, d] = largest;
    let all = simd.max_bits(simd.max_bits(a, b), simd.max_bits(simd.max_bits(c, d), end));
    f32::from_bits(simd.largest_bits(all).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{Bf16, F16};
    use crate::testing::{ISAS, Numbers};

    /// The stated order, on `f64` alone.
    fn in_order(terms: &[(f64, f64)]) -> f64 {
        terms.chunks(BLOCK).fold(0.0, |total, block| {
            let mut chains = [0.0f64; 16];
            for (i, (a, b)) in block.iter().enumerate() {
                chains[i % 16] = a.mul_add(*b, chains[i % 16]);
            }
            let l: Vec<f64> = (0..8).map(|i| chains[i] + chains[i + 8]).collect();
            total + (((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])))
        })
    }

    #[test]
    fn sums_are_in_the_stated_order_on_every_instruction_set() {
        let mut numbers = Numbers(2);
        let lengths: Vec<usize> =
            if cfg!(miri) { vec![0, 9, 35] } else { (0..=131).chain([BLOCK - 1, BLOCK, BLOCK + 1, 200_003]).collect() };
        for len in lengths {
            let (x, y) = (numbers.values(len, 3e20), numbers.values(len, 3e20));
            let wide = |x: f32, y: f32| (f64::from(x), f64::from(y));
            let products: Vec<_> = x.iter().zip(&y).map(|(&x, &y)| wide(x, y)).collect();
            let squares: Vec<_> = x.iter().map(|&x| wide(x, x)).collect();
            let differences: Vec<_> = x.iter().zip(&y).map(|(&x, &y)| wide(x - y, x - y)).collect();
            for isa in ISAS {
                assert_eq!(dot_on(isa, &x, &y).to_bits(), in_order(&products).to_bits(), "{isa:?} {len}");
                assert_eq!(sum_of_squares_on(isa, &x).to_bits(), in_order(&squares).to_bits(), "{isa:?} {len}");
                let distance = squared_distance_on(isa, &x, &y);
                assert_eq!(distance.to_bits(), in_order(&differences).to_bits(), "{isa:?} {len}");
                let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                assert_eq!(max_abs_on(isa, &x), largest, "{isa:?} {len}");
            }
        }
    }

    #[test]
    fn blocks_added_in_order_give_the_same_bits() {
        let mut numbers = Numbers(3);
        let len = if cfg!(miri) { 100 } else { 3 * BLOCK + 17 };
        let (x, y) = (numbers.values(len, 1.0), numbers.values(len, 1.0));
        let apart = x.chunks(BLOCK).zip(y.chunks(BLOCK)).fold(0.0, |total, (x, y)| total + dot(x, y));
        assert_eq!(apart.to_bits(), dot(&x, &y).to_bits());
    }

    #[test]
    fn values_by_hand() {
        assert_eq!((l2(&[3.0f32, 4.0]), distance(&[1.0f32, 1.0], &[4.0, 5.0])), (5.0, 5.0));
        assert_eq!((sum_of_squares::<f32>(&[]), max_abs::<f32>(&[])), (0.0, 0.0));
        assert_eq!(dot(&[1.0f32, 2.0, 3.0], &[4.0, -5.0, 6.0]), 12.0);
        assert_eq!(l2(&[3e38f32, 0.0]), f64::from(3e38f32), "the square fits f64");
        assert_eq!(max_abs(&[-0.0f32, 1e-45]), 1e-45);
        assert_eq!(max_abs(&[1.0f32, f32::NEG_INFINITY]), f32::INFINITY);
        let half = [Bf16::from_f32(3.0), Bf16::from_f32(-4.0)];
        assert_eq!((l2(&half), max_abs(&half)), (5.0, 4.0));
        let half = [F16::from_f32(3.0), F16::from_f32(-4.0)];
        assert_eq!((l2(&half), dot(&half, &half), distance(&half, &half)), (5.0, 25.0, 0.0));
    }

    #[test]
    fn a_nan_anywhere_is_the_result() {
        for len in [1, 7, 8, 15, 33, 70] {
            for place in 0..len {
                let mut x = vec![f32::INFINITY; len];
                x[place] = -f32::NAN;
                for isa in ISAS {
                    assert_eq!(max_abs_on(isa, &x).to_bits(), 0x7fc0_0000);
                    assert!(sum_of_squares_on(isa, &x).is_nan());
                    assert!(dot_on(isa, &vec![1.0; len], &x).is_nan());
                    assert!(squared_distance_on(isa, &x, &vec![1.0; len]).is_nan());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn lengths_must_agree() {
        dot(&[1.0f32], &[1.0, 2.0]);
    }
}
