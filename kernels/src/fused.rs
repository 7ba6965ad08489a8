//! Reductions of quantised buffers in one pass: each code is read once, and nothing is written but the result.
//!
//! Block by block, the sources' values are summed in a buffer that stays in the nearest cache. The result is bit for
//! bit that of the steps one after the other: [`dequantise`](crate::quantise::dequantise) every source to `f32`,
//! [`reduce`](crate::reduce) them by sum in the order of the sources, [`divide`](crate::reduce::divide), and
//! [`quantise`](crate::quantise::quantise). What holds for those holds here: a block of which one source is NaN
//! becomes NaN.

use std::marker::PhantomData;

use crate::isa::{Isa, Kernel, detected};
use crate::quantise::code::{self, Code, WithFormat};
use crate::quantise::{OnIsa, Scheme, products_are_exact, quantise_block};
use crate::simd::{LANES, Simd, divide, store_partial};

/// A quantised buffer, as [`quantise`](crate::quantise::quantise) writes it.
#[derive(Clone, Copy, Debug)]
pub struct Quantised<'a> {
    /// The codes of all elements.
    pub codes: &'a [u8],
    /// One scale for each block.
    pub scales: &'a [f32],
}

/// The mean of quantised buffers of `count` elements, quantised again.
///
/// The sum is divided by `divisor`: one for a sum, the number of sources for their mean.
///
/// # Panics
///
/// If there is no source, `divisor` is zero, or codes or scales do not fit `count`.
pub fn reduce_quantised(
    scheme: Scheme,
    count: usize,
    sources: &[Quantised<'_>],
    divisor: u32,
    codes: &mut [u8],
    scales: &mut [f32],
) {
    reduce_quantised_on(detected(), scheme, count, sources, divisor, codes, scales);
}

/// [`reduce_quantised`] on a given instruction set.
///
/// # Panics
///
/// As [`reduce_quantised`].
pub fn reduce_quantised_on(
    isa: Isa,
    scheme: Scheme,
    count: usize,
    sources: &[Quantised<'_>],
    divisor: u32,
    codes: &mut [u8],
    scales: &mut [f32],
) {
    check(scheme, count, sources, divisor);
    assert_eq!(codes.len(), scheme.code_bytes(count), "reduce_quantised: codes do not fit the count");
    assert_eq!(scales.len(), scheme.blocks(count), "reduce_quantised: scales do not fit the count");
    let block = scheme.block();
    code::dispatch(scheme.format(), OnIsa(isa, Requantise { block, count, sources, divisor, codes, scales }));
}

/// The mean of quantised buffers, as [`reduce_quantised`] without the last step: as `f32`.
///
/// # Panics
///
/// If there is no source, `divisor` is zero, or codes or scales do not fit `out`.
pub fn reduce_dequantised(scheme: Scheme, sources: &[Quantised<'_>], divisor: u32, out: &mut [f32]) {
    reduce_dequantised_on(detected(), scheme, sources, divisor, out);
}

/// [`reduce_dequantised`] on a given instruction set.
///
/// # Panics
///
/// As [`reduce_dequantised`].
pub fn reduce_dequantised_on(isa: Isa, scheme: Scheme, sources: &[Quantised<'_>], divisor: u32, out: &mut [f32]) {
    check(scheme, out.len(), sources, divisor);
    code::dispatch(scheme.format(), OnIsa(isa, Dequantised { block: scheme.block(), sources, divisor, out }));
}

fn check(scheme: Scheme, count: usize, sources: &[Quantised<'_>], divisor: u32) {
    assert!(!sources.is_empty(), "reduce_quantised: there is no source");
    assert!(divisor > 0, "reduce_quantised: the divisor is zero");
    for source in sources {
        assert_eq!(source.codes.len(), scheme.code_bytes(count), "reduce_quantised: a source's codes do not fit");
        assert_eq!(source.scales.len(), scheme.blocks(count), "reduce_quantised: a source's scales do not fit");
    }
}

struct Requantise<'a> {
    block: usize,
    count: usize,
    sources: &'a [Quantised<'a>],
    divisor: u32,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl WithFormat for OnIsa<Requantise<'_>> {
    fn run<C: Code<BYTES>, const BYTES: usize>(self) {
        struct K<'a, C, const BYTES: usize>(Requantise<'a>, PhantomData<C>);

        impl<C: Code<BYTES>, const BYTES: usize> Kernel for K<'_, C, BYTES> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                let Requantise { block, count, sources, divisor, codes, scales } = self.0;
                let mut buffer = Buffer([0.0; Scheme::LARGEST_BLOCK]);
                let blocks = codes.chunks_mut(block / LANES * BYTES).zip(scales).enumerate();
                for (i, (codes, scale)) in blocks {
                    let sum = &mut buffer.0[..block.min(count - i * block)];
                    reduce_block::<S, C, BYTES>(simd, sources, block, i, divisor, sum);
                    *scale = quantise_block::<S, f32, C, BYTES>(simd, sum, codes);
                }
            }
        }

        self.0.run(K::<C, BYTES>(self.1, PhantomData));
    }
}

struct Dequantised<'a> {
    block: usize,
    sources: &'a [Quantised<'a>],
    divisor: u32,
    out: &'a mut [f32],
}

impl WithFormat for OnIsa<Dequantised<'_>> {
    fn run<C: Code<BYTES>, const BYTES: usize>(self) {
        struct K<'a, C, const BYTES: usize>(Dequantised<'a>, PhantomData<C>);

        impl<C: Code<BYTES>, const BYTES: usize> Kernel for K<'_, C, BYTES> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                let Dequantised { block, sources, divisor, out } = self.0;
                for (i, out) in out.chunks_mut(block).enumerate() {
                    reduce_block::<S, C, BYTES>(simd, sources, block, i, divisor, out);
                }
            }
        }

        self.0.run(K::<C, BYTES>(self.1, PhantomData));
    }
}

/// Sums of a block, aligned so that no vector crosses a cache line.
#[repr(align(64))]
struct Buffer([f32; Scheme::LARGEST_BLOCK]);

/// Vectors that are summed side by side, so that a sum stays in a register over all sources.
const TILE: usize = 8;

/// So many sources the processor follows by itself; with more, it is faster to ask for their codes.
const FOLLOWED: usize = 4;
/// How far ahead codes are asked for, in bytes.
const AHEAD: usize = 512;

/// The mean of block `i` of all sources.
#[inline(always)]
fn reduce_block<S: Simd, C: Code<BYTES>, const BYTES: usize>(
    simd: S,
    sources: &[Quantised<'_>],
    block: usize,
    i: usize,
    divisor: u32,
    out: &mut [f32],
) {
    if sources.iter().all(|source| products_are_exact(source.scales[i])) {
        sum_block::<S, C, BYTES, true>(simd, sources, block, i, divisor, out);
    } else {
        sum_block::<S, C, BYTES, false>(simd, sources, block, i, divisor, out);
    }
}

/// [`reduce_block`] where products are exact, so that they can be added in one instruction, or where they are not.
#[inline(always)]
fn sum_block<S: Simd, C: Code<BYTES>, const BYTES: usize, const EXACT: bool>(
    simd: S,
    sources: &[Quantised<'_>],
    block: usize,
    i: usize,
    divisor: u32,
    out: &mut [f32],
) {
    let Some((first, rest)) = sources.split_first() else { return };
    let mut at = i * (block / LANES * BYTES);
    let (tiles, out_end) = out.as_chunks_mut::<{ TILE * LANES }>();
    for out in tiles {
        if sources.len() > FOLLOWED {
            for source in sources {
                simd.prefetch(source.codes.as_ptr().wrapping_add(at + AHEAD));
            }
        }
        let scale = simd.splat(first.scales[i]);
        let mut sums = [scale; TILE];
        for (sum, codes) in sums.iter_mut().zip(tile::<BYTES>(first, at)) {
            *sum = simd.mul(C::decode(simd, codes), scale);
        }
        for source in rest {
            let scale = simd.splat(source.scales[i]);
            for (sum, codes) in sums.iter_mut().zip(tile::<BYTES>(source, at)) {
                *sum = add_product::<S, EXACT>(simd, C::decode(simd, codes), scale, *sum);
            }
        }
        for (sum, out) in sums.into_iter().zip(out.as_chunks_mut().0) {
            simd.store(divide(simd, sum, divisor), out);
        }
        at += TILE * BYTES;
    }
    for out in out_end.chunks_mut(LANES) {
        let bytes = out.len().div_ceil(LANES / BYTES);
        let codes = |source: &Quantised<'_>| code::padded::<BYTES>(&source.codes[at..at + bytes]);
        let mut sum = simd.mul(C::decode(simd, &codes(first)), simd.splat(first.scales[i]));
        for source in rest {
            let scale = simd.splat(source.scales[i]);
            sum = add_product::<S, EXACT>(simd, C::decode(simd, &codes(source)), scale, sum);
        }
        store_partial(simd, divide(simd, sum, divisor), out);
        at += bytes;
    }
}

/// The codes of a tile.
#[inline(always)]
fn tile<'a, const BYTES: usize>(source: &Quantised<'a>, at: usize) -> &'a [[u8; BYTES]] {
    source.codes[at..at + TILE * BYTES].as_chunks().0
}

#[inline(always)]
fn add_product<S: Simd, const EXACT: bool>(simd: S, value: S::V, scale: S::V, sum: S::V) -> S::V {
    if EXACT { simd.mul_add(value, scale, sum) } else { simd.add(sum, simd.mul(value, scale)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantise::{Format, dequantise, quantise};
    use crate::reduce::{ReduceOp, divide_slice, reduce_slices};
    use crate::testing::{ISAS, Numbers};

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    /// Quantised sources with a poisoned block, large numbers and tiny ones.
    fn sources(scheme: Scheme, n: usize, count: usize) -> Vec<(Vec<u8>, Vec<f32>)> {
        let mut numbers = Numbers(n as u64);
        let source = |i: usize| {
            let mut x = numbers.values(count, [1.0, 1e-3, 1e37][i % 3]);
            if let Some(x) = x.get_mut(90).filter(|_| i == 1) {
                *x = f32::NAN;
            }
            let mut codes = vec![0; scheme.code_bytes(count)];
            let mut scales = vec![0.0; scheme.blocks(count)];
            quantise(scheme, &x, &mut codes, &mut scales);
            if i == 2 {
                // Any scale is accepted, and any code: products that are rounded, overflow or underflow.
                let foreign = [0.1, 3e38, -1e-40, f32::NEG_INFINITY, 1e-37];
                scales.iter_mut().zip(foreign).skip(1).for_each(|(scale, foreign)| *scale = foreign);
                codes.iter_mut().step_by(7).for_each(|code| *code = code.wrapping_mul(77));
            }
            (codes, scales)
        };
        (0..n).map(source).collect()
    }

    #[test]
    fn the_fused_reduction_equals_its_steps_bit_for_bit() {
        let counts: Vec<usize> = if cfg!(miri) { vec![0, 70] } else { (0..=131).chain([1_001, 4_097]).collect() };
        for (format, block) in Format::ALL.into_iter().flat_map(|format| [(format, 64), (format, 1024)]) {
            let scheme = Scheme::new(format, block).unwrap();
            for (&count, n) in counts.iter().flat_map(|count| [1, 2, 5].map(|n| (count, n))) {
                let owned = sources(scheme, n, count);
                let sources: Vec<Quantised<'_>> =
                    owned.iter().map(|(codes, scales)| Quantised { codes, scales }).collect();
                for divisor in [1, n as u32, 7] {
                    let wide: Vec<Vec<f32>> = sources
                        .iter()
                        .map(|source| {
                            let mut wide = vec![0.0; count];
                            dequantise(scheme, source.codes, source.scales, &mut wide);
                            wide
                        })
                        .collect();
                    let wide: Vec<&[f32]> = wide.iter().map(Vec::as_slice).collect();
                    let mut mean = vec![0.0; count];
                    reduce_slices(ReduceOp::Sum, &wide, &mut mean);
                    divide_slice(&mut mean, divisor);
                    let mut expected = (vec![0; scheme.code_bytes(count)], vec![0.0; scheme.blocks(count)]);
                    quantise(scheme, &mean, &mut expected.0, &mut expected.1);

                    for isa in ISAS {
                        let mut codes = vec![0xaa; expected.0.len()];
                        let mut scales = vec![-1.0; expected.1.len()];
                        reduce_quantised_on(isa, scheme, count, &sources, divisor, &mut codes, &mut scales);
                        assert_eq!(codes, expected.0, "{isa:?} {scheme:?} {count} elements, {n} sources / {divisor}");
                        assert_eq!(bits(&scales), bits(&expected.1), "{isa:?} {scheme:?} {count}");
                        let mut out = vec![-1.0; count];
                        reduce_dequantised_on(isa, scheme, &sources, divisor, &mut out);
                        assert!(crate::testing::same_bits(&out, &mean), "{isa:?} {scheme:?} {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_mean_by_hand() {
        let scheme = Scheme::new(Format::Int8, 64).unwrap();
        let a = Quantised { codes: &[127, 2, 0x80 | 0x7f], scales: &[1.0] };
        let b = Quantised { codes: &[127, 3, 1], scales: &[3.0] };
        let (mut codes, mut scales) = ([0; 3], [0.0]);
        reduce_quantised(scheme, 3, &[a, b], 2, &mut codes, &mut scales);
        // (127 + 381) / 2 = 254, (2 + 9) / 2 = 5.5 and (-1 + 3) / 2 = 1, in steps of 2.
        assert_eq!((codes, scales), ([127, 3, 0], [2.0]));
        let mut out = [0.0; 3];
        reduce_dequantised(scheme, &[a, b], 2, &mut out);
        assert_eq!(out, [254.0, 5.5, 1.0]);
    }

    #[test]
    #[should_panic(expected = "a source's codes do not fit")]
    fn sources_must_fit() {
        let scheme = Scheme::new(Format::Int8, 64).unwrap();
        reduce_dequantised(scheme, &[Quantised { codes: &[1], scales: &[1.0] }], 1, &mut [0.0; 2]);
    }
}
