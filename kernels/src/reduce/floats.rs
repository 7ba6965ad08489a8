//! Registers of floats on AVX2, FMA and F16C.

use std::arch::x86_64::{
    __m128i, __m256, __m256d, __m256i, _CMP_UNORD_Q, _MM_FROUND_TO_NEAREST_INT, _mm_loadl_epi64, _mm_loadu_si128,
    _mm_packus_epi32, _mm_storel_epi64, _mm256_add_epi32, _mm256_add_pd, _mm256_add_ps, _mm256_and_pd, _mm256_and_ps,
    _mm256_and_si256, _mm256_blend_epi16, _mm256_blendv_pd, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmp_pd, _mm256_cmp_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph,
    _mm256_div_pd, _mm256_div_ps, _mm256_loadu_pd, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_pd, _mm256_max_ps,
    _mm256_min_pd, _mm256_min_ps, _mm256_mul_pd, _mm256_mul_ps, _mm256_or_pd, _mm256_or_ps, _mm256_set_m128i,
    _mm256_set1_epi32, _mm256_set1_pd, _mm256_set1_ps, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_pd,
    _mm256_storeu_ps, _mm256_storeu_si256, _mm256_stream_pd, _mm256_stream_ps, _mm256_stream_si256,
};

use super::register::{Divide, NAN, NAN_F64, OneBf16, OneF16, Register};

/// Eight `f32`.
#[derive(Clone, Copy)]
pub(super) struct F32x8(__m256);

impl Register for F32x8 {
    type Less = f32;
    type One = f32;
    const COUNT: usize = 8;
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller promised the instructions and 32 readable bytes.
        Self(unsafe { _mm256_loadu_ps(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable bytes.
        unsafe { _mm256_storeu_ps(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable, aligned bytes.
        unsafe { _mm256_stream_ps(to.cast(), self.0) }
    }

    #[inline(always)]
    fn sum(self, other: Self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn product(self, other: Self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // `MINPS` gives its second operand where one is NaN and where both are zeros. In either order of
        // operands, the two results differ only there, and then `or` keeps a NaN, and the sign of `-0.0`.
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_or_ps(_mm256_min_ps(self.0, other.0), _mm256_min_ps(other.0, self.0)) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // As in `min`, but `and` would lose a NaN; it is put back.
        // SAFETY: `self` proves AVX2.
        Self(unsafe {
            let max = _mm256_and_ps(_mm256_max_ps(self.0, other.0), _mm256_max_ps(other.0, self.0));
            _mm256_or_ps(max, _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, other.0))
        })
    }

    #[inline(always)]
    fn canonical(self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_blendv_ps(self.0, _mm256_set1_ps(NAN), _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0)) })
    }
}

impl Divide for F32x8 {
    #[inline(always)]
    fn over(self, divisor: u32) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_div_ps(self.0, _mm256_set1_ps(divisor as f32)) })
    }
}

/// Four `f64`.
#[derive(Clone, Copy)]
pub(super) struct F64x4(__m256d);

impl Register for F64x4 {
    type Less = f64;
    type One = f64;
    const COUNT: usize = 4;
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller promised the instructions and 32 readable bytes.
        Self(unsafe { _mm256_loadu_pd(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable bytes.
        unsafe { _mm256_storeu_pd(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable, aligned bytes.
        unsafe { _mm256_stream_pd(to.cast(), self.0) }
    }

    #[inline(always)]
    fn sum(self, other: Self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_add_pd(self.0, other.0) })
    }

    #[inline(always)]
    fn product(self, other: Self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_mul_pd(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // As `F32x8::min`.
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_or_pd(_mm256_min_pd(self.0, other.0), _mm256_min_pd(other.0, self.0)) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // As `F32x8::max`.
        // SAFETY: `self` proves AVX2.
        Self(unsafe {
            let max = _mm256_and_pd(_mm256_max_pd(self.0, other.0), _mm256_max_pd(other.0, self.0));
            _mm256_or_pd(max, _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, other.0))
        })
    }

    #[inline(always)]
    fn canonical(self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe {
            _mm256_blendv_pd(self.0, _mm256_set1_pd(NAN_F64), _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, self.0))
        })
    }
}

impl Divide for F64x4 {
    #[inline(always)]
    fn over(self, divisor: u32) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_div_pd(self.0, _mm256_set1_pd(f64::from(divisor))) })
    }
}

/// The arithmetic of widened halves, in the registers of `f32` with these names.
macro_rules! widened {
    ($($field:tt),*) => {
        #[inline(always)]
        fn sum(self, other: Self) -> Self {
            Self($(self.$field.sum(other.$field)),*)
        }

        #[inline(always)]
        fn product(self, other: Self) -> Self {
            Self($(self.$field.product(other.$field)),*)
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self($(self.$field.min(other.$field)),*)
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Self($(self.$field.max(other.$field)),*)
        }

        #[inline(always)]
        fn canonical(self) -> Self {
            Self($(self.$field.canonical()),*)
        }
    };
}

/// Sixteen `bf16`, widened: those with an even index, those with an odd one. Widening and narrowing then
/// stay within 32 bits, so that nothing has to be moved between lanes.
#[derive(Clone, Copy)]
pub(super) struct Bf16x16(F32x8, F32x8);

impl Bf16x16 {
    #[inline(always)]
    fn narrow(self) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let even = _mm256_srli_epi32::<16>(rounded(self.0));
            _mm256_blend_epi16::<0b1010_1010>(even, rounded(self.1))
        }
    }
}

/// The bits, rounded so that the upper half is the nearest `bf16`, ties to even.
#[inline(always)]
fn rounded(x: F32x8) -> __m256i {
    // SAFETY: `x` proves AVX2.
    unsafe {
        let bits = _mm256_castps_si256(x.0);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)))
    }
}

impl Register for Bf16x16 {
    type Less = Bf16x4;
    type One = OneBf16;
    const COUNT: usize = 16;
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller promised the instructions and 32 readable bytes.
        unsafe {
            let both = _mm256_loadu_si256(from.cast());
            let even = _mm256_slli_epi32::<16>(both);
            let odd = _mm256_and_si256(both, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            Self(F32x8(_mm256_castsi256_ps(even)), F32x8(_mm256_castsi256_ps(odd)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable bytes.
        unsafe { _mm256_storeu_si256(to.cast(), self.narrow()) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable, aligned bytes.
        unsafe { _mm256_stream_si256(to.cast(), self.narrow()) }
    }

    widened!(0, 1);
}

impl Divide for Bf16x16 {
    #[inline(always)]
    fn over(self, divisor: u32) -> Self {
        Self(self.0.over(divisor), self.1.over(divisor))
    }
}

/// Four `bf16`, widened, in the lower half; the upper half is without meaning.
#[derive(Clone, Copy)]
pub(super) struct Bf16x4(F32x8);

impl Register for Bf16x4 {
    type Less = OneBf16;
    type One = OneBf16;
    const COUNT: usize = 4;
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller promised the instructions and 8 readable bytes.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadl_epi64(from.cast()));
            Self(F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 8 writable bytes.
        unsafe {
            let wide = _mm256_castsi256_si128(_mm256_srli_epi32::<16>(rounded(self.0)));
            _mm_storel_epi64(to.cast(), _mm_packus_epi32(wide, wide));
        }
    }

    widened!(0);
}

/// Sixteen `f16`, widened: the first eight, the last eight.
#[derive(Clone, Copy)]
pub(super) struct F16x16(F32x8, F32x8);

impl F16x16 {
    #[inline(always)]
    fn narrow(self) -> __m256i {
        // SAFETY: a value is made by `load`, whose caller promised F16C, and so proves it.
        unsafe {
            let first = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0.0);
            _mm256_set_m128i(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1.0), first)
        }
    }
}

impl Register for F16x16 {
    type Less = F16x4;
    type One = OneF16;
    const COUNT: usize = 16;
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        let from = from.cast::<__m128i>();
        // SAFETY: the caller promised the instructions and 32 readable bytes.
        unsafe {
            let first = _mm256_cvtph_ps(_mm_loadu_si128(from));
            Self(F32x8(first), F32x8(_mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable bytes.
        unsafe { _mm256_storeu_si256(to.cast(), self.narrow()) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2; the caller promised 32 writable, aligned bytes.
        unsafe { _mm256_stream_si256(to.cast(), self.narrow()) }
    }

    widened!(0, 1);
}

impl Divide for F16x16 {
    #[inline(always)]
    fn over(self, divisor: u32) -> Self {
        Self(self.0.over(divisor), self.1.over(divisor))
    }
}

/// Four `f16`, widened, in the lower half; the upper half is without meaning.
#[derive(Clone, Copy)]
pub(super) struct F16x4(F32x8);

impl Register for F16x4 {
    type Less = OneF16;
    type One = OneF16;
    const COUNT: usize = 4;
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller promised the instructions and 8 readable bytes.
        Self(F32x8(unsafe { _mm256_cvtph_ps(_mm_loadl_epi64(from.cast())) }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: `self` proves AVX2 and F16C; the caller promised 8 writable bytes.
        unsafe { _mm_storel_epi64(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0.0)) }
    }

    widened!(0);
}
