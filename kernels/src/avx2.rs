//! AVX2, FMA and F16C: eight lanes in one register.

use std::arch::x86_64::{
    __m256, __m256d, __m256i, _CMP_GT_OQ, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_cvtsi128_si32, _mm_loadl_epi64,
    _mm_loadu_si128, _mm_max_epi32, _mm_packus_epi32, _mm_prefetch, _mm_shuffle_epi32, _mm_storel_epi64,
    _mm_storeu_si128, _mm_unpacklo_epi32, _mm256_add_epi32, _mm256_add_pd, _mm256_add_ps, _mm256_and_si256,
    _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cmp_ps, _mm256_cmpgt_epi32, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_cvtps_pd, _mm256_cvtps_ph, _mm256_div_ps, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_max_epi32,
    _mm256_max_ps, _mm256_min_epi32, _mm256_min_ps, _mm256_movemask_ps, _mm256_mul_ps, _mm256_or_si256,
    _mm256_packs_epi16, _mm256_packs_epi32, _mm256_packus_epi16, _mm256_packus_epi32, _mm256_permutevar8x32_epi32,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_pd, _mm256_shuffle_epi8,
    _mm256_slli_epi32, _mm256_sllv_epi32, _mm256_sqrt_ps, _mm256_srai_epi32, _mm256_srli_epi32, _mm256_storeu_pd,
    _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32, _mm256_sub_ps, _mm256_xor_si256,
};

use crate::dtype::F16;
use crate::isa::Kernel;
use crate::simd::{LANES, Simd};

/// Proof that this processor has AVX2, FMA and F16C: [`Avx2Fma::new`] is the only source of values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2Fma(());

impl Avx2Fma {
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        let all =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves that the processor has AVX2, FMA and F16C.
        unsafe { run_with_avx2_fma(self, kernel) }
    }
}

/// Where the kernel is compiled with the vector instructions: it is inlined here.
#[target_feature(enable = "avx2,fma,f16c")]
fn run_with_avx2_fma<K: Kernel>(simd: Avx2Fma, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// Packing works in each half by itself: each holds its four bytes of every vector. Puts them next to those
/// of the other half.
///
/// # Safety
///
/// The processor must have AVX2.
#[inline(always)]
unsafe fn in_order(packed: __m256i) -> __m256i {
    // SAFETY: the caller promised AVX2.
    unsafe { _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)) }
}

impl Simd for Avx2Fma {
    type V = __m256;
    type B = __m256i;
    type D = [__m256d; 2];

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m256 {
        // SAFETY: `self` proves AVX2; `from` is 32 readable bytes, and no alignment is asked for.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX2; `to` is 32 writable bytes, and no alignment is asked for.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn greater(self, a: __m256, b: __m256) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }

    #[inline(always)]
    fn low_bits_to_exponent(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(a))) }
    }

    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_sqrt_ps(a) }
    }

    #[inline(always)]
    fn bits(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_castps_si256(a) }
    }

    #[inline(always)]
    fn floats(self, a: __m256i) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_castsi256_ps(a) }
    }

    #[inline(always)]
    fn splat_bits(self, value: u32) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_set1_epi32(value.cast_signed()) }
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    fn add_bits(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub_bits(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn shl<const N: i32>(self, a: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_slli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn shr<const N: i32>(self, a: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_srli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn max_bits(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_max_epi32(a, b) }
    }

    #[inline(always)]
    fn min_bits(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_min_epi32(a, b) }
    }

    #[inline(always)]
    fn largest_bits(self, a: __m256i) -> i32 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe {
            let four = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
        }
    }

    #[inline(always)]
    fn above(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_cmpgt_epi32(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_blendv_epi8(b, a, mask) }
    }

    #[inline(always)]
    fn top_bits(self, a: __m256i) -> u8 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_movemask_ps(_mm256_castsi256_ps(a)) as u8 }
    }

    #[inline(always)]
    fn spread(self, byte: u8) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe {
            let bytes = _mm256_set1_epi32(byte.into());
            let top = _mm256_sllv_epi32(bytes, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
            _mm256_and_si256(top, _mm256_set1_epi32(i32::MIN))
        }
    }

    #[inline(always)]
    fn round_to_int(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves AVX2. The rounding mode is the default, to nearest even: Rust code may not change it.
        unsafe { _mm256_cvtps_epi32(a) }
    }

    #[inline(always)]
    fn int_to_float(self, a: __m256i) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn widen_i8(self, from: &[u8; LANES]) -> __m256i {
        // SAFETY: `self` proves AVX2; `from` is 8 readable bytes, and no alignment is asked for.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_i4(self, from: u32) -> __m256i {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe {
            let up = _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0);
            _mm256_srai_epi32::<28>(_mm256_sllv_epi32(_mm256_set1_epi32(from.cast_signed()), up))
        }
    }

    #[inline(always)]
    fn widen_u16(self, from: &[u16; LANES]) -> __m256i {
        // SAFETY: `self` proves AVX2; `from` is 16 readable bytes, and no alignment is asked for.
        unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn narrow_u8(self, a: __m256i, to: &mut [u8; LANES]) {
        // SAFETY: `self` proves AVX2; `to` is 8 writable bytes, and no alignment is asked for.
        unsafe {
            // The low bytes of each half into its first word, then both words together.
            let low = _mm256_set1_epi64x(0x0c08_0400);
            let words = _mm256_shuffle_epi8(a, low);
            let both = _mm_unpacklo_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storel_epi64(to.as_mut_ptr().cast(), both);
        }
    }

    #[inline(always)]
    fn narrow_four_i8(self, a: [__m256i; 4], to: &mut [u8; 4 * LANES]) {
        // SAFETY: `self` proves AVX2; `to` is 32 writable bytes, and no alignment is asked for.
        unsafe {
            let packed = _mm256_packs_epi16(_mm256_packs_epi32(a[0], a[1]), _mm256_packs_epi32(a[2], a[3]));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), in_order(packed));
        }
    }

    #[inline(always)]
    fn narrow_four_u8(self, a: [__m256i; 4], to: &mut [u8; 4 * LANES]) {
        // SAFETY: `self` proves AVX2; `to` is 32 writable bytes, and no alignment is asked for.
        unsafe {
            let packed = _mm256_packus_epi16(_mm256_packus_epi32(a[0], a[1]), _mm256_packus_epi32(a[2], a[3]));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), in_order(packed));
        }
    }

    #[inline(always)]
    fn narrow_u16(self, a: __m256i, to: &mut [u16; LANES]) {
        // SAFETY: `self` proves AVX2; `to` is 16 writable bytes, and no alignment is asked for.
        unsafe {
            let lower = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(lower), _mm256_extracti128_si256::<1>(lower));
            _mm_storeu_si128(to.as_mut_ptr().cast(), packed);
        }
    }

    #[inline(always)]
    fn widen_f16(self, from: &[F16; LANES]) -> __m256 {
        // SAFETY: `self` proves F16C; `from` is 16 readable bytes, and no alignment is asked for.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn narrow_f16(self, a: __m256, to: &mut [F16; LANES]) {
        // SAFETY: `self` proves F16C; `to` is 16 writable bytes, and no alignment is asked for.
        unsafe {
            let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
            _mm_storeu_si128(to.as_mut_ptr().cast(), narrow);
        }
    }

    #[inline(always)]
    fn zero_f64(self) -> Self::D {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { [_mm256_setzero_pd(); 2] }
    }

    #[inline(always)]
    fn mul_add_f64(self, a: __m256, b: __m256, c: Self::D) -> Self::D {
        // SAFETY: `self` proves that the processor has AVX2 and FMA.
        unsafe {
            [
                _mm256_fmadd_pd(
                    _mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                    _mm256_cvtps_pd(_mm256_castps256_ps128(b)),
                    c[0],
                ),
                _mm256_fmadd_pd(
                    _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a)),
                    _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(b)),
                    c[1],
                ),
            ]
        }
    }

    #[inline(always)]
    fn add_f64(self, a: Self::D, b: Self::D) -> Self::D {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { [_mm256_add_pd(a[0], b[0]), _mm256_add_pd(a[1], b[1])] }
    }

    #[inline(always)]
    fn store_f64(self, value: Self::D, to: &mut [f64; LANES]) {
        // SAFETY: `self` proves AVX2; `to` is 64 writable bytes, and no alignment is asked for.
        unsafe {
            _mm256_storeu_pd(to.as_mut_ptr(), value[0]);
            _mm256_storeu_pd(to.as_mut_ptr().add(4), value[1]);
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: the instruction is a hint; it reads nothing and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
