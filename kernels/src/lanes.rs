//! Eight lanes from and to the float types: `f32` as it is, the halves widened and narrowed.

use crate::dtype::{Bf16, Dtype, Element, F16, Float};
use crate::simd::{LANES, Simd};

/// Eight elements, widened to `f32`.
#[inline(always)]
pub(crate) fn load<S: Simd, T: Float>(simd: S, from: &[T; LANES]) -> S::V {
    if let Some(from) = cast::<T, f32>(from) {
        simd.load(from)
    } else if let Some(from) = cast::<T, F16>(from) {
        simd.widen_f16(from)
    } else if let Some(from) = cast::<T, Bf16>(from) {
        simd.floats(simd.shl::<16>(simd.widen_u16(&from.map(|half| half.0))))
    } else {
        unreachable!("a float is one of the three")
    }
}

/// Eight elements, narrowed as [`Bf16::from_f32`] and [`F16::from_f32`] do it.
#[inline(always)]
pub(crate) fn store<S: Simd, T: Float>(simd: S, value: S::V, to: &mut [T; LANES]) {
    if let Some(to) = cast_mut::<T, f32>(to) {
        simd.store(value, to);
    } else if let Some(to) = cast_mut::<T, F16>(to) {
        simd.narrow_f16(value, to);
    } else if let Some(to) = cast_mut::<T, Bf16>(to) {
        let mut narrow = [0; LANES];
        simd.narrow_u16(bf16_bits(simd, value), &mut narrow);
        *to = narrow.map(Bf16);
    } else {
        unreachable!("a float is one of the three")
    }
}

/// The first elements (at most [`LANES`]), the rest zero.
#[inline(always)]
pub(crate) fn load_partial<S: Simd, T: Float>(simd: S, from: &[T]) -> S::V {
    let mut elements = [T::ZERO; LANES];
    elements[..from.len()].copy_from_slice(from);
    load(simd, &elements)
}

/// The first `to.len()` elements (at most [`LANES`]).
#[inline(always)]
pub(crate) fn store_partial<S: Simd, T: Float>(simd: S, value: S::V, to: &mut [T]) {
    let mut elements = [T::ZERO; LANES];
    store(simd, value, &mut elements);
    to.copy_from_slice(&elements[..to.len()]);
}

/// [`Bf16::from_f32`] in the lower half of each lane.
#[inline(always)]
fn bf16_bits<S: Simd>(simd: S, value: S::V) -> S::B {
    let bits = simd.bits(value);
    let upper = simd.shr::<16>(bits);
    let odd = simd.and(upper, simd.splat_bits(1));
    let rounded = simd.shr::<16>(simd.add_bits(bits, simd.add_bits(odd, simd.splat_bits(0x7fff))));
    let magnitude = simd.and(bits, simd.splat_bits(0x7fff_ffff));
    let nan = simd.above(magnitude, simd.splat_bits(0x7f80_0000));
    simd.select(nan, simd.or(upper, simd.splat_bits(0x40)), rounded)
}

/// The same array, where `T` is `U`. The comparison is between constants and vanishes.
#[inline(always)]
fn cast<T: Element, U: Element>(from: &[T; LANES]) -> Option<&[U; LANES]> {
    // SAFETY: one Rust type stands for each `Dtype`, so that `T` is `U`.
    same::<T, U>().then(|| unsafe { &*std::ptr::from_ref(from).cast() })
}

/// [`cast`] for an array to write to.
#[inline(always)]
fn cast_mut<T: Element, U: Element>(to: &mut [T; LANES]) -> Option<&mut [U; LANES]> {
    // SAFETY: as in `cast`; the result borrows what `to` borrowed.
    same::<T, U>().then(|| unsafe { &mut *std::ptr::from_mut(to).cast() })
}

#[inline(always)]
const fn same<T: Element, U: Element>() -> bool {
    const fn index(dtype: Dtype) -> u8 {
        dtype as u8
    }
    index(T::DTYPE) == index(U::DTYPE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Kernel;
    use crate::testing::ISAS;

    struct There<'a, T, U>(&'a [T; LANES], &'a mut [U; LANES]);

    impl<T: Float, U: Float> Kernel for There<'_, T, U> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            store(simd, load(simd, self.0), self.1);
        }
    }

    #[test]
    fn every_pattern_of_a_half_widens_and_narrows_as_one_element_does() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for isa in ISAS {
            for patterns in all.as_chunks::<LANES>().0 {
                let (bf16, f16) = (patterns.map(Bf16), patterns.map(F16));
                let mut wide = [0.0f32; LANES];
                isa.run(There(&bf16, &mut wide));
                assert_eq!(wide.map(f32::to_bits), bf16.map(|x| x.to_f32().to_bits()), "{isa:?}");
                isa.run(There(&f16, &mut wide));
                assert_eq!(wide.map(f32::to_bits), f16.map(|x| x.to_f32().to_bits()), "{isa:?}");
            }
        }
    }

    /// Above, on and below each middle between two halves, for either half, and NaNs.
    #[test]
    fn narrowing_equals_that_of_one_element() {
        for isa in ISAS {
            for upper in 0..=u16::MAX {
                let base = u32::from(upper) << 16;
                let low = [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001];
                let wide = low.map(|low| f32::from_bits(base | low));
                let (mut bf16, mut f16) = ([Bf16(0); LANES], [F16(0); LANES]);
                isa.run(There(&wide, &mut bf16));
                isa.run(There(&wide, &mut f16));
                assert_eq!(bf16, wide.map(Bf16::from_f32), "{isa:?} {upper:x}");
                assert_eq!(f16, wide.map(F16::from_f32), "{isa:?} {upper:x}");
            }
        }
    }
}
