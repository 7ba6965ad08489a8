//! Copying bytes between buffers that other processes may share, with stores that keep the
//! destination in the cache or pass the cache by.

use crate::isa::{Isa, detected};

/// How a buffer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stores {
    /// Through the cache: right for what this core or a near one reads soon.
    #[default]
    Cached,
    /// Past the cache (non-temporal), with a store fence before the function returns: a flag stored afterwards
    /// with release ordering publishes the bytes. Right for buffers larger than the cache, and for what another
    /// core reads; which is faster must be measured on the machine. On an instruction set without such
    /// stores this is [`Stores::Cached`].
    Streaming,
}

/// Copies `bytes` bytes from `src` to `dst`. Any alignment.
///
/// # Safety
///
/// `src` must be readable and `dst` writable for `bytes` bytes; they must not overlap; and no other thread or
/// process may write to `src`, or touch `dst`, during the call.
#[inline]
pub unsafe fn copy(dst: *mut u8, src: *const u8, bytes: usize, stores: Stores) {
    match stores {
        // SAFETY: the caller's promise is this function's.
        Stores::Cached => unsafe { src.copy_to_nonoverlapping(dst, bytes) },
        // SAFETY: likewise.
        Stores::Streaming => unsafe { copy_on(detected(), dst, src, bytes, stores) },
    }
}

/// [`copy`] on a given instruction set.
///
/// # Safety
///
/// As [`copy`].
pub unsafe fn copy_on(isa: Isa, dst: *mut u8, src: *const u8, bytes: usize, stores: Stores) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2Fma && stores == Stores::Streaming && crate::avx2::Avx2Fma::new().is_some() {
        // SAFETY: the processor has AVX2; the rest is the caller's promise.
        unsafe { avx2::copy([dst], src, bytes, true) };
        return;
    }
    let _ = (isa, stores);
    // SAFETY: the caller's promise is this function's.
    unsafe { src.copy_to_nonoverlapping(dst, bytes) };
}

/// Copies `bytes` bytes from `src` to both destinations, reading each byte once. Any alignment.
///
/// Streaming stores need destinations that are equally far from a multiple of 32; where they are not, the
/// second one is written through the cache.
///
/// # Safety
///
/// `src` must be readable and both destinations writable for `bytes` bytes; none of the three may overlap
/// another; and no other thread or process may write to `src`, or touch a destination, during the call.
pub unsafe fn copy_to_two(dst: [*mut u8; 2], src: *const u8, bytes: usize, stores: Stores) {
    // SAFETY: the caller's promise is this function's.
    unsafe { copy_to_two_on(detected(), dst, src, bytes, stores) };
}

/// [`copy_to_two`] on a given instruction set.
///
/// # Safety
///
/// As [`copy_to_two`].
pub unsafe fn copy_to_two_on(isa: Isa, dst: [*mut u8; 2], src: *const u8, bytes: usize, stores: Stores) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2Fma && crate::avx2::Avx2Fma::new().is_some() {
        // SAFETY: the processor has AVX2; the rest is the caller's promise.
        unsafe { avx2::copy(dst, src, bytes, stores == Stores::Streaming) };
        return;
    }
    let _ = (isa, stores);
    // Piece by piece, so that the second reading is from the nearest cache.
    const PIECE: usize = 4096;
    let mut at = 0;
    while at < bytes {
        let piece = PIECE.min(bytes - at);
        for dst in dst {
            // SAFETY: `at + piece <= bytes`; the rest is the caller's promise.
            unsafe { src.add(at).copy_to_nonoverlapping(dst.add(at), piece) };
        }
        at += piece;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_stream_si256};

    const REGISTER: usize = size_of::<__m256i>();
    const UNROLL: usize = 4;

    /// # Safety
    ///
    /// The processor must have AVX2. As [`super::copy_to_two`], for one or two destinations.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn copy<const N: usize>(dst: [*mut u8; N], src: *const u8, bytes: usize, streaming: bool) {
        let mut at = 0;
        let mut streams = [false; N];
        if streaming {
            // Whole registers from the first destination's next boundary on.
            at = dst[0].align_offset(REGISTER).min(bytes);
            for (dst, streams) in dst.into_iter().zip(&mut streams) {
                // SAFETY: `at <= bytes`; the rest is the caller's promise.
                unsafe { src.copy_to_nonoverlapping(dst, at) };
                *streams = (dst.addr() + at).is_multiple_of(REGISTER);
            }
        }
        while bytes - at >= UNROLL * REGISTER {
            // SAFETY: all four registers end within `bytes`; where a destination streams, `at` was aligned
            // for it and has moved by whole registers.
            unsafe {
                let from = src.add(at).cast::<__m256i>();
                let registers = [
                    _mm256_loadu_si256(from),
                    _mm256_loadu_si256(from.add(1)),
                    _mm256_loadu_si256(from.add(2)),
                    _mm256_loadu_si256(from.add(3)),
                ];
                for n in 0..N {
                    let to = dst[n].add(at).cast::<__m256i>();
                    for (i, register) in registers.into_iter().enumerate() {
                        if streams[n] {
                            _mm256_stream_si256(to.add(i), register);
                        } else {
                            _mm256_storeu_si256(to.add(i), register);
                        }
                    }
                }
            }
            at += UNROLL * REGISTER;
        }
        for dst in dst {
            // SAFETY: what is left ends at `bytes`.
            unsafe { src.add(at).copy_to_nonoverlapping(dst.add(at), bytes - at) };
        }
        if streams.contains(&true) {
            _mm_sfence();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ISAS;

    const MARGIN: usize = 64;

    /// Lengths from nothing to a few unrolled steps, and one that is long and odd.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..300).step_by(if cfg!(miri) { 37 } else { 1 }).chain([4096, 10_007])
    }

    #[test]
    fn every_length_and_alignment_arrives_and_nothing_around_it_changes() {
        let source: Vec<u8> = (0..10_200u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for isa in ISAS {
            for stores in [Stores::Cached, Stores::Streaming] {
                for bytes in lengths() {
                    for (from, to, second) in [(0, 0, 0), (1, 3, 3), (5, 31, 2), (33, 1, 64)] {
                        let expected = |to: usize| {
                            let mut expected = vec![0xa5u8; bytes + 2 * MARGIN + 64];
                            expected[MARGIN + to..MARGIN + to + bytes].copy_from_slice(&source[from..from + bytes]);
                            expected
                        };
                        let fresh = || vec![0xa5u8; bytes + 2 * MARGIN + 64];
                        let (mut one, mut first, mut other) = (fresh(), fresh(), fresh());
                        let src = source[from..from + bytes].as_ptr();
                        // SAFETY: each destination has `bytes` bytes from `MARGIN + to` on, and the vectors
                        // are distinct.
                        unsafe {
                            copy_on(isa, one.as_mut_ptr().add(MARGIN + to), src, bytes, stores);
                            let dst = [first.as_mut_ptr().add(MARGIN + to), other.as_mut_ptr().add(MARGIN + second)];
                            copy_to_two_on(isa, dst, src, bytes, stores);
                        }
                        assert!(one == expected(to), "{isa:?} {stores:?} {bytes} bytes to {to}");
                        assert!(first == expected(to), "{isa:?} {stores:?} {bytes} bytes to {to}, first of two");
                        assert!(other == expected(second), "{isa:?} {stores:?} {bytes} bytes to {second}, second");
                    }
                }
            }
        }
    }

    #[test]
    fn the_plain_form_copies_too() {
        let source = [1u8, 2, 3, 4, 5];
        for stores in [Stores::Cached, Stores::Streaming] {
            let mut out = [0u8; 5];
            let (mut a, mut b) = ([0u8; 5], [9u8; 5]);
            // SAFETY: five bytes each, distinct.
            unsafe {
                copy(out.as_mut_ptr(), source.as_ptr(), 5, stores);
                copy_to_two([a.as_mut_ptr(), b.as_mut_ptr()], source.as_ptr(), 4, stores);
            }
            assert_eq!((out, a, b), (source, [1, 2, 3, 4, 0], [1, 2, 3, 4, 9]));
        }
    }
}
