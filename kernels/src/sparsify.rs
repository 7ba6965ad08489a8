//! Sparse gradients: the largest values of a vector, with error feedback, and their addition to a dense one.
//!
//! Error feedback (Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", 2018, algorithm 1; Aji and
//! Heafield, "Sparse Communication for Distributed Gradient Descent", 2017): what is not sent now stays in a residual
//! that the caller keeps, and is added to what comes next. Nothing is lost: after each call, what was sent and what
//! stays add up to the residual before plus the gradient, element by element and exactly.

use std::fmt;

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Simd, load_partial, store_partial};

/// Adds `gradient` to `residual`, and takes the largest magnitudes out of it.
///
/// As many values are taken as `indices` has room for, never fewer. Their indices come in ascending order, and they
/// are zero in the residual afterwards. Of equal magnitudes, those with the lowest indices are taken. A NaN counts as
/// larger than infinity, so that it is sent and does not stay in the residual.
///
/// # Panics
///
/// If `gradient` and `residual`, or `indices` and `values`, differ in length; if there are fewer elements
/// than `indices` has room for; or if there are more than 2^32 - 1 elements.
pub fn top_k(gradient: &[f32], residual: &mut [f32], indices: &mut [u32], values: &mut [f32]) {
    top_k_on(detected(), gradient, residual, indices, values);
}

/// [`top_k`] on a given instruction set.
///
/// # Panics
///
/// As [`top_k`].
pub fn top_k_on(isa: Isa, gradient: &[f32], residual: &mut [f32], indices: &mut [u32], values: &mut [f32]) {
    assert_eq!(gradient.len(), residual.len(), "top_k: gradient and residual differ in length");
    assert_eq!(indices.len(), values.len(), "top_k: indices and values differ in length");
    assert!(indices.len() <= residual.len(), "top_k: more values are wanted than there are");
    assert!(u32::try_from(residual.len()).is_ok(), "top_k: too many elements for indices of 32 bits");
    isa.run(TopK { gradient, residual, indices, values });
}

/// Adds `values[i]` to `out[indices[i]]`, in the order of `i`. An index may occur several times.
///
/// # Errors
///
/// If an index is outside of `out`, which then stays as it was.
///
/// # Panics
///
/// If `indices` and `values` differ in length.
pub fn scatter_add(indices: &[u32], values: &[f32], out: &mut [f32]) -> Result<(), OutOfRange> {
    assert_eq!(indices.len(), values.len(), "scatter_add: indices and values differ in length");
    if let Some(position) = indices.iter().position(|&index| index as usize >= out.len()) {
        return Err(OutOfRange { position, index: indices[position], len: out.len() });
    }
    for (&index, value) in indices.iter().zip(values) {
        out[index as usize] += value;
    }
    Ok(())
}

/// An index that is outside of the vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// Where it stands among the indices.
    pub position: usize,
    /// The index.
    pub index: u32,
    /// The elements of the vector.
    pub len: usize,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, index, len } = self;
        write!(f, "index {index} (at position {position}) is outside of a vector of {len} elements")
    }
}

impl std::error::Error for OutOfRange {}

/// Bits of a magnitude that one pass counts, from the top.
const DIGIT: u32 = 11;
const BINS: usize = 1 << DIGIT;

/// A selection by radix: three passes count digits of the magnitudes' bits, which are in the order of the magnitudes,
/// and narrow down to the smallest magnitude that is taken. The fourth one takes.
struct TopK<'a> {
    gradient: &'a [f32],
    residual: &'a mut [f32],
    indices: &'a mut [u32],
    values: &'a mut [f32],
}

impl Kernel for TopK<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { gradient, residual, indices, values } = self;
        let mut counts = Counts([0; BINS]);
        add_and_count(simd, gradient, residual, &mut counts);
        if indices.is_empty() {
            return;
        }
        let mut wanted = indices.len() as u32;
        let mut range = 0..=u32::MAX >> 1;
        let mut shift = 31 - DIGIT;
        loop {
            let digit = counts.pick(&mut wanted);
            let low = range.start() + (digit << shift);
            range = low..=low + ((1 << shift) - 1);
            if shift == 0 {
                break;
            }
            shift = shift.saturating_sub(DIGIT);
            counts.0.fill(0);
            count(simd, residual, range.clone(), shift, &mut counts);
        }
        take(simd, residual, *range.start(), wanted, indices, values);
    }
}

/// How often each digit occurs.
struct Counts([u32; BINS]);

impl Counts {
    /// The digit of the `wanted`-th largest, and which one of those with that digit it is.
    fn pick(&self, wanted: &mut u32) -> u32 {
        for (digit, &count) in self.0.iter().enumerate().rev() {
            if *wanted <= count {
                return digit as u32;
            }
            *wanted -= count;
        }
        0
    }
}

/// Adds the gradient and counts the first digits.
#[inline(always)]
fn add_and_count<S: Simd>(simd: S, gradient: &[f32], residual: &mut [f32], counts: &mut Counts) {
    let ((x, x_end), (r, r_end)) = (gradient.as_chunks(), residual.as_chunks_mut());
    for (x, r) in x.iter().zip(r) {
        simd.store(simd.add(simd.load(r), simd.load(x)), r);
        for value in r {
            counts.0[(magnitude(*value) >> (31 - DIGIT)) as usize] += 1;
        }
    }
    let sum = simd.add(load_partial(simd, r_end, 0.0), load_partial(simd, x_end, 0.0));
    store_partial(simd, sum, r_end);
    for value in r_end {
        counts.0[(magnitude(*value) >> (31 - DIGIT)) as usize] += 1;
    }
}

/// Counts a digit of the values whose magnitude is in the range: its bits from `shift` on.
#[inline(always)]
fn count<S: Simd>(simd: S, x: &[f32], range: std::ops::RangeInclusive<u32>, shift: u32, counts: &mut Counts) {
    let (chunks, end) = x.as_chunks();
    for chunk in chunks {
        let (above, within) = compare(simd, simd.load(chunk), *range.start(), *range.end());
        tally(chunk, within & !above, &range, shift, counts);
    }
    let (above, within) = compare(simd, load_partial(simd, end, 0.0), *range.start(), *range.end());
    tally(end, within & !above, &range, shift, counts);
}

#[inline(always)]
fn tally(x: &[f32], mut which: u8, range: &std::ops::RangeInclusive<u32>, shift: u32, counts: &mut Counts) {
    while which != 0 {
        // Beyond a last, shorter chunk the lanes are padding.
        let Some(&value) = x.get(which.trailing_zeros() as usize) else { return };
        counts.0[((magnitude(value) - range.start()) >> shift) as usize] += 1;
        which &= which - 1;
    }
}

/// Which lanes' magnitudes are above `high`, and which are at least `low`.
#[inline(always)]
fn compare<S: Simd>(simd: S, x: S::V, low: u32, high: u32) -> (u8, u8) {
    let magnitudes = simd.and(simd.bits(x), simd.splat_bits(0x7fff_ffff));
    let above = simd.above(magnitudes, simd.splat_bits(high));
    // For `low` zero, this compares with -1.
    let within = simd.above(magnitudes, simd.splat_bits(low.wrapping_sub(1)));
    (simd.top_bits(above), simd.top_bits(within))
}

fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Takes all values above the threshold and the first `ties` of those that have it.
#[inline(always)]
fn take<S: Simd>(simd: S, x: &mut [f32], threshold: u32, mut ties: u32, indices: &mut [u32], values: &mut [f32]) {
    let mut taken = 0;
    for (i, chunk) in x.chunks_mut(LANES).enumerate() {
        let lanes = match chunk.first_chunk() {
            Some(chunk) => simd.load(chunk),
            None => load_partial(simd, chunk, 0.0),
        };
        let (above, mut which) = compare(simd, lanes, threshold, threshold);
        while which != 0 {
            let lane = which.trailing_zeros() as usize;
            let tie = above >> lane & 1 == 0;
            which &= which - 1;
            if lane >= chunk.len() || (tie && ties == 0) {
                continue;
            }
            ties -= u32::from(tie);
            indices[taken] = (i * LANES + lane) as u32;
            values[taken] = std::mem::take(&mut chunk[lane]);
            taken += 1;
        }
        if taken == indices.len() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ISAS, Numbers, same_bits};

    /// Sent values by sorting, and what stays.
    fn by_sorting(gradient: &[f32], residual: &[f32], k: usize) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
        let mut rest: Vec<f32> = gradient.iter().zip(residual).map(|(g, r)| r + g).collect();
        let mut order: Vec<usize> = (0..rest.len()).collect();
        // Stable: ties stay in the order of their indices.
        order.sort_by_key(|&i| std::cmp::Reverse(magnitude(rest[i])));
        let mut indices: Vec<u32> = order[..k].iter().map(|&i| i as u32).collect();
        indices.sort_unstable();
        let values = indices.iter().map(|&i| std::mem::take(&mut rest[i as usize])).collect();
        (indices, values, rest)
    }

    fn check(gradient: &[f32], residual: &[f32], k: usize) {
        let (indices, values, rest) = by_sorting(gradient, residual, k);
        for isa in ISAS {
            let mut got_rest = residual.to_vec();
            let (mut got_indices, mut got_values) = (vec![u32::MAX; k], vec![-1.0; k]);
            top_k_on(isa, gradient, &mut got_rest, &mut got_indices, &mut got_values);
            assert_eq!(got_indices, indices, "{isa:?} {k} of {}", gradient.len());
            assert!(same_bits(&got_values, &values), "{isa:?} {k} of {}", gradient.len());
            assert!(same_bits(&got_rest, &rest), "{isa:?} {k} of {}", gradient.len());
        }
    }

    #[test]
    fn the_selection_equals_sorting() {
        let mut numbers = Numbers(31);
        let lengths: Vec<usize> = if cfg!(miri) { vec![0, 9, 40] } else { (0..=70).chain([1_003, 30_011]).collect() };
        for len in lengths {
            let (mut x, residual) = (numbers.values(len, 1.0), numbers.values(len, 1e-2));
            for k in [0, 1, 2, len / 100, len / 7, len / 2, len.saturating_sub(1), len] {
                check(&x, &residual, k.min(len));
            }
            // Few distinct magnitudes of both signs, so that most comparisons are ties.
            x.iter_mut().for_each(|x| *x = (*x * 3.0).round());
            for k in [1, len / 7, len / 2, len] {
                check(&x, &vec![0.0; len], k.min(len));
            }
        }
    }

    #[test]
    fn neighbours_in_every_digit_are_told_apart() {
        // Magnitudes that differ in their first, second or last digit alone.
        let bits = [0x3f80_0000, 0x3f80_0001, 0x3f80_0200, 0x3f80_01ff, 0x3f90_0000, 0x3f8f_ffff, 0x0000_0001, 0];
        let x: Vec<f32> = bits.iter().cycle().take(24).map(|&bits: &u32| f32::from_bits(bits)).collect();
        for k in 0..=24 {
            check(&x, &[0.0; 24], k);
        }
    }

    #[test]
    fn ties_go_to_the_lowest_indices() {
        let mut residual = [0.0; 20];
        let (mut indices, mut values) = ([0; 3], [0.0; 3]);
        let mut x = [-2.0; 20];
        x[11] = 3.0;
        top_k(&x, &mut residual, &mut indices, &mut values);
        assert_eq!((indices, values), ([0, 1, 11], [-2.0, -2.0, 3.0]));
        assert_eq!(residual[..3], [0.0, 0.0, -2.0]);
    }

    #[test]
    fn a_nan_goes_first_and_does_not_stay() {
        let mut residual = [1.0, f32::INFINITY, -f32::NAN, 5.0];
        let (mut indices, mut values) = ([0; 1], [0.0; 1]);
        top_k(&[0.0; 4], &mut residual, &mut indices, &mut values);
        assert!(indices == [2] && values[0].is_nan());
        assert_eq!(residual, [1.0, f32::INFINITY, 0.0, 5.0]);
    }

    #[test]
    fn what_is_sent_and_what_stays_add_up_over_several_steps() {
        let mut numbers = Numbers(32);
        let len = 257;
        let (mut residual, mut received, mut total) = (vec![0.0; len], vec![0.0f64; len], vec![0.0f64; len]);
        for _ in 0..20 {
            // Multiples of 2^-10 below one: all sums are exact.
            let gradient: Vec<f32> = numbers.values(len, 1.0).iter().map(|x| (x * 1024.0).round() / 1024.0).collect();
            let (mut indices, mut values) = ([0; 13], [0.0; 13]);
            top_k(&gradient, &mut residual, &mut indices, &mut values);
            let mut dense = vec![0.0; len];
            scatter_add(&indices, &values, &mut dense).unwrap();
            received.iter_mut().zip(&dense).for_each(|(sum, &x)| *sum += f64::from(x));
            total.iter_mut().zip(&gradient).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        for i in 0..len {
            assert_eq!(received[i] + f64::from(residual[i]), total[i], "element {i}");
        }
    }

    #[test]
    fn scattering_adds_in_order_and_refuses_what_is_outside() {
        let mut out = [1.0, 2.0, 3.0];
        scatter_add(&[2, 0, 2], &[10.0, 20.0, 30.0], &mut out).unwrap();
        assert_eq!(out, [21.0, 2.0, 43.0]);
        let refused = scatter_add(&[0, 3], &[1.0, 1.0], &mut out).unwrap_err();
        assert_eq!(refused, OutOfRange { position: 1, index: 3, len: 3 });
        assert_eq!(refused.to_string(), "index 3 (at position 1) is outside of a vector of 3 elements");
        assert_eq!(out, [21.0, 2.0, 43.0], "nothing was added");
    }

    #[test]
    #[should_panic(expected = "more values are wanted than there are")]
    fn no_more_than_there_is() {
        top_k(&[1.0], &mut [0.0], &mut [0; 2], &mut [0.0; 2]);
    }
}
