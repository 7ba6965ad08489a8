//! Aggregation of several vectors, coordinate by coordinate: weighted mean, median and trimmed mean.
//!
//! The median and the trimmed mean bound what a minority of liars can do to a mean (Yin, Chen, Kannan and
//! Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018, definitions 1 and 2).
//!
//! # NaN
//!
//! The order is that of the numbers, `-0.0` before `+0.0`, and every NaN (of either sign) after `+inf`. A vector with
//! NaNs is therefore one with extreme values: a trimmed mean that trims `k` at each end ignores up to `k` NaNs in a
//! coordinate, and a median of `n` ignores fewer than `n / 2`. Where more of them reach the result, it is NaN. An
//! infinity is ignored in the same way.

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Simd, divide, load_partial, store_partial};

/// The largest number of vectors.
pub const MOST_VECTORS: usize = 64;

/// `out[i]` is the median of `vectors[..][i]`: the middle value, or half the sum of both middle ones.
///
/// # Panics
///
/// If there is no vector, there are more than [`MOST_VECTORS`], or lengths differ.
pub fn median(vectors: &[&[f32]], out: &mut [f32]) {
    median_on(detected(), vectors, out);
}

/// [`median`] on a given instruction set.
///
/// # Panics
///
/// As [`median`].
pub fn median_on(isa: Isa, vectors: &[&[f32]], out: &mut [f32]) {
    check(vectors, out);
    // Trimming all but the middle.
    isa.run(Trimmed { vectors, trim: (vectors.len() - 1) / 2, out });
}

/// `out[i]` is the mean of `vectors[..][i]` without the `trim` smallest and the `trim` largest values.
///
/// What is left is added in ascending order and divided by its number.
///
/// # Panics
///
/// If nothing is left, there are more than [`MOST_VECTORS`], or lengths differ.
pub fn trimmed_mean(vectors: &[&[f32]], trim: usize, out: &mut [f32]) {
    trimmed_mean_on(detected(), vectors, trim, out);
}

/// [`trimmed_mean`] on a given instruction set.
///
/// # Panics
///
/// As [`trimmed_mean`].
pub fn trimmed_mean_on(isa: Isa, vectors: &[&[f32]], trim: usize, out: &mut [f32]) {
    check(vectors, out);
    assert!(trim < vectors.len().div_ceil(2), "trimmed_mean: nothing is left of {} vectors", vectors.len());
    isa.run(Trimmed { vectors, trim, out });
}

/// `out[i]` is the sum of `weights[j] * vectors[j][i]`, in the order of the vectors, products not rounded.
///
/// With weights that add up to one, this is the average of FedAvg (McMahan et al. 2017, algorithm 1). A NaN in any
/// vector is one in the result.
///
/// # Panics
///
/// If there is no vector, there is not one weight for each, or lengths differ.
pub fn weighted_mean(vectors: &[&[f32]], weights: &[f32], out: &mut [f32]) {
    weighted_mean_on(detected(), vectors, weights, out);
}

/// [`weighted_mean`] on a given instruction set.
///
/// # Panics
///
/// As [`weighted_mean`].
pub fn weighted_mean_on(isa: Isa, vectors: &[&[f32]], weights: &[f32], out: &mut [f32]) {
    assert_eq!(vectors.len(), weights.len(), "weighted_mean: there is not one weight for each vector");
    check_lengths(vectors, out);
    isa.run(Weighted { vectors, weights, out });
}

fn check(vectors: &[&[f32]], out: &[f32]) {
    assert!(vectors.len() <= MOST_VECTORS, "robust: {} vectors are more than {MOST_VECTORS}", vectors.len());
    check_lengths(vectors, out);
}

fn check_lengths(vectors: &[&[f32]], out: &[f32]) {
    assert!(!vectors.is_empty(), "robust: there is no vector");
    for vector in vectors {
        assert_eq!(vector.len(), out.len(), "robust: a vector and the result differ in length");
    }
}

/// Batcher's odd-even merge sort for up to 64 values, as pairs of places (Knuth, "The Art of Computer Programming",
/// volume 3, section 5.3.4, exercise 10). What is compared does not depend on values, so that lanes sort side by side.
struct Network {
    pairs: [(u8, u8); Network::MOST],
    len: usize,
}

impl Network {
    /// The comparisons for 64 values.
    const MOST: usize = 543;

    fn new(values: usize) -> Self {
        let mut network = Self { pairs: [(0, 0); Self::MOST], len: 0 };
        let size = values.next_power_of_two();
        let mut merged = 1;
        while merged < size {
            let mut apart = merged;
            while apart > 0 {
                for start in (apart % merged..size - apart).step_by(2 * apart) {
                    for low in start..start + apart.min(size - apart - start) {
                        let high = low + apart;
                        let same_run = low / (2 * merged) == high / (2 * merged);
                        // What is beyond `values` would be larger than all others and stay where it is.
                        if same_run && high < values {
                            network.pairs[network.len] = (low as u8, high as u8);
                            network.len += 1;
                        }
                    }
                }
                apart /= 2;
            }
            merged *= 2;
        }
        network
    }
}

struct Trimmed<'a> {
    vectors: &'a [&'a [f32]],
    trim: usize,
    out: &'a mut [f32],
}

impl Kernel for Trimmed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { vectors, trim, out } = self;
        let network = Network::new(vectors.len());
        let mut keys = [[simd.splat_bits(0); WIDE]; MOST_VECTORS];
        let mut at = 0;
        for out in out.chunks_mut(WIDE * LANES) {
            for (keys, vector) in keys.iter_mut().zip(vectors) {
                let values = &vector[at..at + out.len()];
                if let Some(values) = values.first_chunk::<{ WIDE * LANES }>() {
                    for (key, values) in keys.iter_mut().zip(values.as_chunks().0) {
                        *key = sortable(simd, simd.load(values));
                    }
                } else {
                    for (key, values) in keys.iter_mut().zip(values.chunks(LANES)) {
                        *key = sortable(simd, load_partial(simd, values, 0.0));
                    }
                }
            }
            for &(low, high) in &network.pairs[..network.len] {
                let (low, high) = (usize::from(low) % MOST_VECTORS, usize::from(high) % MOST_VECTORS);
                let (a, b) = (keys[low], keys[high]);
                for i in 0..WIDE {
                    keys[low][i] = simd.min_bits(a[i], b[i]);
                    keys[high][i] = simd.max_bits(a[i], b[i]);
                }
            }
            let kept = &keys[trim..vectors.len() - trim];
            for (i, out) in out.chunks_mut(LANES).enumerate() {
                let mut sum = value(simd, kept[0][i]);
                for key in &kept[1..] {
                    sum = simd.add(sum, value(simd, key[i]));
                }
                store_partial(simd, divide(simd, sum, kept.len() as u32), out);
            }
            at += out.len();
        }
    }
}

/// Vectors of lanes that are sorted side by side: two cache lines of every source.
const WIDE: usize = 4;

/// Bits that are in the order of the values as `i32`: those of a negative number are inverted but for the sign. Every
/// NaN becomes the same positive one.
#[inline(always)]
fn sortable<S: Simd>(simd: S, x: S::V) -> S::B {
    let bits = simd.bits(x);
    let magnitude = simd.splat_bits(0x7fff_ffff);
    let nan = simd.above(simd.and(bits, magnitude), simd.splat_bits(0x7f80_0000));
    let inverted = simd.xor(bits, magnitude);
    let negative = simd.above(simd.splat_bits(0), bits);
    simd.select(nan, simd.splat_bits(0x7fc0_0000), simd.select(negative, inverted, bits))
}

/// The inverse of [`sortable`].
#[inline(always)]
fn value<S: Simd>(simd: S, key: S::B) -> S::V {
    let negative = simd.above(simd.splat_bits(0), key);
    simd.floats(simd.xor(key, simd.and(negative, simd.splat_bits(0x7fff_ffff))))
}

struct Weighted<'a> {
    vectors: &'a [&'a [f32]],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Weighted<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { vectors, weights, out } = self;
        for (i, out) in out.chunks_mut(LANES).enumerate() {
            let at = i * LANES;
            let mut sum = simd.splat(0.0);
            for (n, (vector, &weight)) in vectors.iter().zip(weights).enumerate() {
                let values = &vector[at..at + out.len()];
                let values = match values.first_chunk() {
                    Some(values) => simd.load(values),
                    None => load_partial(simd, values, 0.0),
                };
                let weight = simd.splat(weight);
                sum = if n == 0 { simd.mul(weight, values) } else { simd.mul_add(weight, values, sum) };
            }
            store_partial(simd, sum, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ISAS, Numbers, same_bits};

    /// The documented order, by sorting.
    fn sorted(vectors: &[&[f32]], i: usize) -> Vec<f32> {
        let mut column: Vec<f32> =
            vectors.iter().map(|vector| if vector[i].is_nan() { f32::NAN.abs() } else { vector[i] }).collect();
        column.sort_by(f32::total_cmp);
        column
    }

    fn by_sorting(vectors: &[&[f32]], trim: usize) -> Vec<f32> {
        let mean = |column: Vec<f32>| {
            let kept = &column[trim..column.len() - trim];
            kept.iter().copied().reduce(|sum, x| sum + x).unwrap() / kept.len() as f32
        };
        (0..vectors[0].len()).map(|i| mean(sorted(vectors, i))).collect()
    }

    fn vectors(n: usize, len: usize) -> Vec<Vec<f32>> {
        let mut numbers = Numbers((n * 1000 + len) as u64);
        let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45, f32::MAX];
        let mut vectors: Vec<Vec<f32>> = (0..n).map(|_| numbers.values(len, 2.0)).collect();
        for (i, x) in vectors.iter_mut().flatten().enumerate().skip(1).step_by(5) {
            *x = special[i / 5 % special.len()];
        }
        vectors
    }

    #[test]
    fn medians_and_trimmed_means_equal_sorting() {
        let counts: Vec<usize> = if cfg!(miri) { vec![1, 4, 5] } else { (1..=64).collect() };
        for n in counts {
            for len in [0, 1, 7, 8, 9, 31, 32, 33, 70] {
                let owned = vectors(n, len);
                let vectors: Vec<&[f32]> = owned.iter().map(Vec::as_slice).collect();
                for isa in ISAS {
                    let mut out = vec![-1.0; len];
                    median_on(isa, &vectors, &mut out);
                    assert!(same_bits(&out, &by_sorting(&vectors, (n - 1) / 2)), "{isa:?} median of {n}, {len}");
                    for trim in [0, 1, n / 4, (n - 1) / 2].into_iter().filter(|&trim| 2 * trim < n) {
                        let mut out = vec![-1.0; len];
                        trimmed_mean_on(isa, &vectors, trim, &mut out);
                        let expected = by_sorting(&vectors, trim);
                        assert!(same_bits(&out, &expected), "{isa:?} {n} without {trim}, {len}: {out:?} {expected:?}");
                    }
                }
            }
        }
    }

    /// A network sorts everything if it sorts all sequences of zeros and ones (Knuth, section 5.3.4, theorem Z).
    #[test]
    fn the_networks_sort_all_zeros_and_ones() {
        for n in 1..=if cfg!(miri) { 6 } else { 16 } {
            let network = Network::new(n);
            for bits in 0..1u32 << n {
                let mut values: Vec<u32> = (0..n).map(|i| bits >> i & 1).collect();
                for &(low, high) in &network.pairs[..network.len] {
                    if values[usize::from(low)] > values[usize::from(high)] {
                        values.swap(low.into(), high.into());
                    }
                }
                assert!(values.is_sorted(), "{n} values, {bits:b}");
            }
        }
        assert_eq!(Network::new(64).len, Network::MOST);
    }

    #[test]
    fn values_by_hand() {
        let vectors: [&[f32]; 4] = [&[1.0, f32::NAN], &[9.0, 2.0], &[2.0, 4.0], &[4.0, -f32::NAN]];
        let mut out = [0.0; 2];
        median(&vectors[..3], &mut out);
        assert_eq!(out, [2.0, 4.0], "one NaN of three is ignored");
        median(&vectors, &mut out);
        assert_eq!(out[0], 3.0);
        assert!(out[1].is_nan(), "two NaNs of four reach the middle");
        trimmed_mean(&vectors, 1, &mut out);
        assert_eq!(out[0], 3.0);
        trimmed_mean(&vectors[..3], 1, &mut out);
        assert_eq!(out, [2.0, 4.0]);
    }

    #[test]
    fn a_liar_cannot_move_the_median_beyond_the_honest() {
        for lie in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38, -1e38] {
            let (a, b, c, d, liar) = ([1.0; 33], [1.25; 33], [0.75; 33], [1.5; 33], [lie; 33]);
            let mut out = [0.0; 33];
            median(&[&a, &liar, &b, &c, &d], &mut out);
            assert!(out.iter().all(|x| (0.75..=1.5).contains(x)), "{lie}: {out:?}");
            trimmed_mean(&[&a, &liar, &b, &c, &d], 1, &mut out);
            assert!(out.iter().all(|x| (0.75..=1.5).contains(x)), "{lie}: {out:?}");
        }
    }

    #[test]
    fn weighted_means_agree_on_every_instruction_set_and_with_a_value_by_hand() {
        let mut out = [0.0; 2];
        weighted_mean(&[&[1.0, 2.0], &[5.0, -2.0]], &[0.75, 0.25], &mut out);
        assert_eq!(out, [2.0, 1.0]);
        let mut numbers = Numbers(41);
        for len in (0..70).chain([1_003]) {
            let owned: Vec<Vec<f32>> = (0..3).map(|_| numbers.values(len, 2.0)).collect();
            let vectors: Vec<&[f32]> = owned.iter().map(Vec::as_slice).collect();
            let weights: [f32; 3] = [0.2, 0.3, 0.5];
            let expected: Vec<f32> = (0..len)
                .map(|i| weights[2].mul_add(owned[2][i], weights[1].mul_add(owned[1][i], weights[0] * owned[0][i])))
                .collect();
            for isa in ISAS {
                let mut out = vec![-1.0; len];
                weighted_mean_on(isa, &vectors, &weights, &mut out);
                assert!(same_bits(&out, &expected), "{isa:?} {len}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "nothing is left of 4 vectors")]
    fn something_must_be_left() {
        trimmed_mean(&[&[1.0], &[1.0], &[1.0], &[1.0]], 2, &mut [0.0]);
    }
}
