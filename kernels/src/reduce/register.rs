//! What a reduction needs of one register, and the registers of one element: the scalar twin.

use crate::dtype::{Bf16, F16};

/// The only NaN that a reduction writes, as `f32`: positive, quiet, no payload.
pub(super) const NAN: f32 = f32::from_bits(0x7fc0_0000);
/// The same as `f64`.
pub(super) const NAN_F64: f64 = f64::from_bits(0x7ff8_0000_0000_0000);

/// Some elements, widened to the type in which they are reduced.
///
/// A value of an implementing type proves that the processor has the instructions for it: values come
/// from [`Register::load`], whose caller promises them.
pub(super) trait Register: Copy {
    /// A smaller register of the same type, for buffers that do not fill this one.
    type Less: Register;
    /// The register of one element of the same type.
    type One: Register;

    /// Elements in a register.
    const COUNT: usize;
    /// Bytes of these elements in memory, and the alignment that [`Register::stream`] needs.
    const BYTES: usize;

    /// # Safety
    ///
    /// `from` must be readable for [`Register::BYTES`] bytes, and the processor must have the instructions.
    unsafe fn load(from: *const u8) -> Self;

    /// Writes the elements; halves must be free of NaNs other than the canonical one.
    ///
    /// # Safety
    ///
    /// `to` must be writable for [`Register::BYTES`] bytes.
    unsafe fn store(self, to: *mut u8);

    /// [`Register::store`] past the cache, where the instruction set can.
    ///
    /// # Safety
    ///
    /// As [`Register::store`], and `to` must be aligned to [`Register::BYTES`] bytes.
    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.store(to) }
    }

    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// Replaces every NaN by the canonical one.
    fn canonical(self) -> Self;
}

/// A register whose elements can be divided. No vector instruction divides integers.
pub(super) trait Divide: Register {
    /// Divides by a divisor that fits the element type.
    fn over(self, divisor: u32) -> Self;
}

/// A [`super::ReduceOp`] as a type.
pub(super) trait Op {
    fn combine<R: Register>(a: R, b: R) -> R;
}

pub(super) struct Sum;
pub(super) struct Product;
pub(super) struct Min;
pub(super) struct Max;

macro_rules! op {
    ($($op:ident: $method:ident),*) => {$(
        impl Op for $op {
            #[inline(always)]
            fn combine<R: Register>(a: R, b: R) -> R {
                a.$method(b)
            }
        }
    )*};
}

op!(Sum: sum, Product: product, Min: min, Max: max);

macro_rules! integer {
    ($($int:ty),*) => {$(
        impl Register for $int {
            type Less = Self;
            type One = Self;
            const COUNT: usize = 1;
            const BYTES: usize = size_of::<$int>();

            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller's promise; every bit pattern is a value.
                unsafe { from.cast::<$int>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<$int>().write_unaligned(self) }
            }

            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Ord::min(self, other)
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Ord::max(self, other)
            }

            #[inline(always)]
            fn canonical(self) -> Self {
                self
            }
        }

        impl Divide for $int {
            #[inline(always)]
            fn over(self, divisor: u32) -> Self {
                self / divisor as $int
            }
        }
    )*};
}

integer!(i8, i32, i64, u8);

/// The arithmetic of one float: `$of` takes the float out, `$make` puts one in.
macro_rules! float_arithmetic {
    ($float:ty, $nan:expr, $of:expr, $make:expr) => {
        #[inline(always)]
        fn sum(self, other: Self) -> Self {
            $make($of(self) + $of(other))
        }

        #[inline(always)]
        fn product(self, other: Self) -> Self {
            $make($of(self) * $of(other))
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            let (a, b): ($float, $float) = ($of(self), $of(other));
            $make(if a.is_nan() || b.is_nan() {
                $nan
            } else if a < b || (a == b && a.is_sign_negative()) {
                a
            } else {
                b
            })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            let (a, b): ($float, $float) = ($of(self), $of(other));
            $make(if a.is_nan() || b.is_nan() {
                $nan
            } else if a > b || (a == b && a.is_sign_positive()) {
                a
            } else {
                b
            })
        }

        #[inline(always)]
        fn canonical(self) -> Self {
            $make(if $of(self).is_nan() { $nan } else { $of(self) })
        }
    };
}

macro_rules! float {
    ($float:ty, $nan:expr) => {
        impl Register for $float {
            type Less = Self;
            type One = Self;
            const COUNT: usize = 1;
            const BYTES: usize = size_of::<$float>();

            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller's promise; every bit pattern is a value.
                unsafe { from.cast::<$float>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<$float>().write_unaligned(self) }
            }

            float_arithmetic!($float, $nan, std::convert::identity::<$float>, std::convert::identity::<$float>);
        }

        impl Divide for $float {
            #[inline(always)]
            fn over(self, divisor: u32) -> Self {
                self / divisor as $float
            }
        }
    };
}

float!(f32, NAN);
float!(f64, NAN_F64);

/// One half, widened.
macro_rules! half {
    ($name:ident, $half:ident) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name(f32);

        impl Register for $name {
            type Less = Self;
            type One = Self;
            const COUNT: usize = 1;
            const BYTES: usize = size_of::<$half>();

            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller's promise; every bit pattern is a value.
                Self(unsafe { from.cast::<$half>().read_unaligned() }.to_f32())
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<$half>().write_unaligned($half::from_f32(self.0)) }
            }

            float_arithmetic!(f32, NAN, $name::get, Self);
        }

        impl $name {
            #[inline(always)]
            fn get(self) -> f32 {
                self.0
            }
        }

        impl Divide for $name {
            #[inline(always)]
            fn over(self, divisor: u32) -> Self {
                Self(self.0 / divisor as f32)
            }
        }
    };
}

half!(OneBf16, Bf16);
half!(OneF16, F16);
