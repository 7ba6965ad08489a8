//! Registers of integers on AVX2.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi8, _mm256_add_epi32, _mm256_add_epi64, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_cmpgt_epi64, _mm256_loadu_si256, _mm256_max_epi8, _mm256_max_epi32, _mm256_max_epu8, _mm256_min_epi8,
    _mm256_min_epi32, _mm256_min_epu8, _mm256_mul_epu32, _mm256_mullo_epi16, _mm256_mullo_epi32, _mm256_or_si256,
    _mm256_set1_epi16, _mm256_shuffle_epi32, _mm256_slli_epi16, _mm256_slli_epi64, _mm256_srli_epi16,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_stream_si256,
};

use super::register::Register;

macro_rules! register {
    ($(#[$doc:meta] $name:ident, $one:ty, $count:literal, $sum:ident, $product:ident, $min:ident, $max:ident;)*) => {$(
        #[$doc]
        #[derive(Clone, Copy)]
        pub(super) struct $name(__m256i);

        impl Register for $name {
            type Less = $one;
            type One = $one;
            const COUNT: usize = $count;
            const BYTES: usize = 32;

            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller promised the instructions and 32 readable bytes.
                Self(unsafe { _mm256_loadu_si256(from.cast()) })
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: `self` proves AVX2; the caller promised 32 writable bytes.
                unsafe { _mm256_storeu_si256(to.cast(), self.0) }
            }

            #[inline(always)]
            unsafe fn stream(self, to: *mut u8) {
                // SAFETY: `self` proves AVX2; the caller promised 32 writable, aligned bytes.
                unsafe { _mm256_stream_si256(to.cast(), self.0) }
            }

            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                // SAFETY: `self` proves AVX2.
                Self(unsafe { $sum(self.0, other.0) })
            }

            #[inline(always)]
            fn product(self, other: Self) -> Self {
                // SAFETY: `self` proves AVX2.
                Self(unsafe { $product(self.0, other.0) })
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                // SAFETY: `self` proves AVX2.
                Self(unsafe { $min(self.0, other.0) })
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: `self` proves AVX2.
                Self(unsafe { $max(self.0, other.0) })
            }

            #[inline(always)]
            fn canonical(self) -> Self {
                self
            }
        }
    )*};
}

register! {
    /// Thirty-two `i8`.
    I8x32, i8, 32, _mm256_add_epi8, product_8, _mm256_min_epi8, _mm256_max_epi8;
    /// Thirty-two `u8`.
    U8x32, u8, 32, _mm256_add_epi8, product_8, _mm256_min_epu8, _mm256_max_epu8;
    /// Eight `i32`.
    I32x8, i32, 8, _mm256_add_epi32, _mm256_mullo_epi32, _mm256_min_epi32, _mm256_max_epi32;
    /// Four `i64`.
    I64x4, i64, 4, _mm256_add_epi64, product_64, min_i64, max_i64;
}

/// Products of bytes. The low byte of a product depends on the low bytes of the factors alone, and so two
/// products of 16 bits do: one for the even bytes, one for the odd ones.
///
/// # Safety
///
/// The processor must have AVX2.
#[inline(always)]
unsafe fn product_8(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller promised AVX2.
    unsafe {
        let even = _mm256_and_si256(_mm256_mullo_epi16(a, b), _mm256_set1_epi16(0xff));
        let odd = _mm256_mullo_epi16(_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b));
        _mm256_or_si256(even, _mm256_slli_epi16::<8>(odd))
    }
}

/// Products of 64 bits: the product of the lower halves, and both crosswise products in the upper half.
///
/// # Safety
///
/// The processor must have AVX2.
#[inline(always)]
unsafe fn product_64(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller promised AVX2.
    unsafe {
        let crosswise = _mm256_mullo_epi32(a, _mm256_shuffle_epi32::<0b10_11_00_01>(b));
        let crosswise = _mm256_add_epi32(crosswise, _mm256_srli_epi64::<32>(crosswise));
        _mm256_add_epi64(_mm256_mul_epu32(a, b), _mm256_slli_epi64::<32>(crosswise))
    }
}

/// # Safety
///
/// The processor must have AVX2.
#[inline(always)]
unsafe fn min_i64(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller promised AVX2.
    unsafe { _mm256_blendv_epi8(a, b, _mm256_cmpgt_epi64(a, b)) }
}

/// # Safety
///
/// The processor must have AVX2.
#[inline(always)]
unsafe fn max_i64(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller promised AVX2.
    unsafe { _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi64(a, b)) }
}
