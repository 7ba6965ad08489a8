//! Element types of flat buffers, and the two halves with their exact conversions.

/// The type of a buffer's elements, where it is known at run time only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// The upper half of a binary32: 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE 754 binary16: 5 bits of exponent, 10 of mantissa.
    F16,
    /// Two's complement, 8 bits.
    I8,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
}

impl Dtype {
    /// Every element type.
    pub const ALL: [Dtype; 8] =
        [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16, Dtype::I8, Dtype::I32, Dtype::I64, Dtype::U8];

    /// Bytes of one element.
    #[inline]
    pub const fn size(self) -> usize {
        match self {
            Dtype::I8 | Dtype::U8 => 1,
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F64 | Dtype::I64 => 8,
        }
    }
}

/// A Rust type that is laid out as one [`Dtype`], and of which every bit pattern is a value.
pub trait Element: Copy + Send + Sync + std::fmt::Debug + sealed::Sealed + 'static {
    /// The element type.
    const DTYPE: Dtype;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}

element!(f32 => F32, f64 => F64, Bf16 => Bf16, F16 => F16, i8 => I8, i32 => I32, i64 => I64, u8 => U8);

/// An [`Element`] that is widened to `f32` for arithmetic, or is one.
pub trait Float: Element {
    /// Positive zero.
    const ZERO: Self;
}

impl Float for f32 {
    const ZERO: Self = 0.0;
}

impl Float for Bf16 {
    const ZERO: Self = Bf16(0);
}

impl Float for F16 {
    const ZERO: Self = F16(0);
}

/// The bits of a bfloat16. Equality compares bits, not values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// Rounds to nearest, ties to even; too large becomes infinity. A NaN stays one: it becomes quiet and
    /// keeps its sign and its upper payload.
    #[inline(always)]
    pub const fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        if bits & 0x7fff_ffff > 0x7f80_0000 {
            return Self((bits >> 16) as u16 | 0x40);
        }
        Self((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    /// The same value. A signalling NaN stays as it is.
    #[inline(always)]
    pub const fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
}

/// The bits of an IEEE 754 binary16. Equality compares bits, not values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

impl F16 {
    /// Rounds to nearest, ties to even, subnormals included; 65520 and more becomes infinity. A NaN stays
    /// one: it becomes quiet and keeps its sign and its upper payload, as F16C's `VCVTPS2PH` does it.
    #[inline(always)]
    pub const fn from_f32(value: f32) -> Self {
        let sign = (value.to_bits() >> 16) as u16 & 0x8000;
        let abs = value.to_bits() & 0x7fff_ffff;
        let magnitude = if abs > 0x7f80_0000 {
            0x7e00 | ((abs >> 13) as u16 & 0x3ff)
        } else if abs >= 0x477f_f000 {
            0x7c00
        } else if abs < 0x3880_0000 {
            // Below 2^-14 the result is subnormal, a multiple of 2^-24: the last place of 0.5 as an f32.
            // Adding 0.5 therefore rounds exactly there.
            ((f32::from_bits(abs) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
        } else {
            // The exponent's bias goes from 127 to 15; a carry out of the mantissa raises the exponent.
            ((abs - (112 << 23) + 0xfff + ((abs >> 13) & 1)) >> 13) as u16
        };
        Self(sign | magnitude)
    }

    /// The same value. A signalling NaN becomes quiet, as F16C's `VCVTPH2PS` does it.
    #[inline(always)]
    pub const fn to_f32(self) -> f32 {
        let sign = (self.0 as u32 & 0x8000) << 16;
        let abs = self.0 as u32 & 0x7fff;
        let magnitude = if abs > 0x7c00 {
            0x7fc0_0000 | (abs << 13)
        } else if abs == 0x7c00 {
            0x7f80_0000
        } else {
            // As an f32 the exponent is 112 too small; the product is exact, from subnormals too.
            (f32::from_bits(abs << 13) * f32::from_bits((127 + 112) << 23)).to_bits()
        };
        f32::from_bits(sign | magnitude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a float with `mantissa` bits of mantissa, by the definition of IEEE 754.
    fn value(bits: u16, exponent_bits: i32, mantissa_bits: i32) -> f64 {
        let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1));
        let exponent = i32::from((bits >> mantissa_bits) & ((1 << exponent_bits) - 1));
        let (bias, ulp) = ((1 << (exponent_bits - 1)) - 1, 2f64.powi(-mantissa_bits));
        let magnitude = match exponent {
            0 => mantissa * ulp * 2f64.powi(1 - bias),
            e if e == (1 << exponent_bits) - 1 => [f64::INFINITY, f64::NAN][usize::from(mantissa != 0.0)],
            e => (1.0 + mantissa * ulp) * 2f64.powi(e - bias),
        };
        if bits >> 15 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn all_65536_patterns_widen_to_their_value_and_back() {
        for bits in 0..=u16::MAX {
            for (wide, back, truth) in [
                (Bf16(bits).to_f32(), Bf16::from_f32(Bf16(bits).to_f32()).0, value(bits, 8, 7)),
                (F16(bits).to_f32(), F16::from_f32(F16(bits).to_f32()).0, value(bits, 5, 10)),
            ] {
                if truth.is_nan() {
                    assert!(wide.is_nan() && wide.is_sign_negative() == (bits >> 15 == 1), "{bits:04x}");
                    assert!(back == bits | 0x40 || back == bits | 0x200, "{bits:04x} came back as {back:04x}");
                } else {
                    assert_eq!(f64::from(wide).to_bits(), truth.to_bits(), "{bits:04x}");
                    assert_eq!(back, bits);
                }
            }
        }
    }

    /// Between each value and the next one: below, on and above the middle.
    #[test]
    fn narrowing_rounds_to_nearest_even_at_every_step_of_both_halves() {
        let narrow_bf16: fn(f32) -> u16 = |x| Bf16::from_f32(x).0;
        let narrow_f16: fn(f32) -> u16 = |x| F16::from_f32(x).0;
        for (narrow, exponent_bits, mantissa_bits, infinity) in
            [(narrow_bf16, 8, 7, 0x7f80u16), (narrow_f16, 5, 10, 0x7c00)]
        {
            for bits in 0..infinity {
                let low = value(bits, exponent_bits, mantissa_bits);
                // Beyond the largest number, the next step is where infinity would be as a number.
                let high = if bits + 1 == infinity {
                    2.0 * value(infinity - (1 << mantissa_bits), exponent_bits, mantissa_bits)
                } else {
                    value(bits + 1, exponent_bits, mantissa_bits)
                };
                let middle = ((low + high) / 2.0) as f32;
                let even = bits + (bits & 1);
                for sign in [0u16, 0x8000] {
                    let signed = |x: f32| if sign == 0 { x } else { -x };
                    assert_eq!(narrow(signed(middle)), even | sign, "{bits:04x}");
                    assert_eq!(narrow(signed(middle.next_down())), bits | sign, "{bits:04x}");
                    assert_eq!(narrow(signed(middle.next_up())), (bits + 1) | sign, "{bits:04x}");
                }
            }
            assert_eq!(narrow(f32::MAX), infinity);
            assert_eq!(narrow(f32::INFINITY), infinity);
        }
    }

    #[test]
    fn known_patterns() {
        assert_eq!(Bf16::from_f32(1.0), Bf16(0x3f80));
        assert_eq!(Bf16::from_f32(-0.0), Bf16(0x8000));
        assert_eq!(Bf16::from_f32(std::f32::consts::PI), Bf16(0x4049));
        assert_eq!(F16::from_f32(1.0), F16(0x3c00));
        assert_eq!(F16::from_f32(65519.0), F16(0x7bff));
        assert_eq!(F16::from_f32(65520.0), F16(0x7c00));
        assert_eq!(F16::from_f32(5.960_464_5e-8), F16(1));
        assert_eq!(F16::from_f32(2.980_232_2e-8), F16(0), "a tie, to even");
        assert_eq!(F16(0x3555).to_f32(), 0.333_251_95);
    }
}
