//! Elements of every type: made, and compared with what they have to be.

use swarmloom_kernels::reduce::ReduceOp;
use swarmloom_kernels::{Bf16, Element, F16};

use crate::plan::Rank;

/// An element type that the storm draws.
pub(super) trait Value: Element {
    /// Half the distance of 1 to the next value; `None` for integers, which wrap around instead.
    const ROUNDOFF: Option<f64>;
    /// Not a number, as every reduction writes it and as none does.
    const NANS: [u64; 2];

    fn from_bits(bits: u64) -> Self;
    fn bits(self) -> u64;
    fn from_wide(value: f64) -> Self;
    fn wide(self) -> f64;
}

macro_rules! values {
    ($($type:ident: $roundoff:expr, $nans:expr, $from_bits:expr, $bits:expr, $from_wide:expr, $wide:expr;)*) => {$(
        impl Value for $type {
            const ROUNDOFF: Option<f64> = $roundoff;
            const NANS: [u64; 2] = $nans;

            fn from_bits(bits: u64) -> Self {
                $from_bits(bits)
            }

            fn bits(self) -> u64 {
                $bits(self)
            }

            fn from_wide(value: f64) -> Self {
                $from_wide(value)
            }

            fn wide(self) -> f64 {
                $wide(self)
            }
        }
    )*};
}

const fn power(exponent: u64) -> f64 {
    f64::from_bits((1023 - exponent) << 52)
}

values! {
    f32: Some(power(24)), [0x7fc0_0000, 0xffc1_2345], |bits| f32::from_bits(bits as u32), |value: f32| u64::from(value.to_bits()),
        |value| value as f32, f64::from;
    f64: Some(power(53)), [0x7ff8 << 48, 0xfff8_0000_dead_beef], f64::from_bits, f64::to_bits,
        |value| value, |value| value;
    Bf16: Some(power(8)), [0x7fc0, 0xffc1], |bits| Bf16(bits as u16), |value: Bf16| u64::from(value.0),
        |value| Bf16::from_f32(value as f32), |value: Bf16| f64::from(value.to_f32());
    F16: Some(power(11)), [0x7e00, 0xfe01], |bits| F16(bits as u16), |value: F16| u64::from(value.0),
        |value| F16::from_f32(value as f32), |value: F16| f64::from(value.to_f32());
    i8: None, [0; 2], |bits| bits as i8, |value: i8| u64::from(value as u8), |value| value as i8, f64::from;
    u8: None, [0; 2], |bits| bits as u8, u64::from, |value| value as u8, f64::from;
    i32: None, [0; 2], |bits| bits as i32, |value: i32| u64::from(value as u32), |value| value as i32, f64::from;
    i64: None, [0; 2], |bits| bits as i64, |value: i64| value as u64, |value| value as i64, |value| value as f64;
}

/// Steele, Lea and Flood's SplitMix64.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// What inputs are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    pub(super) seed: u64,
    pub(super) op: ReduceOp,
    pub(super) ranks: usize,
    /// One element in some is no ordinary number.
    pub(super) special: bool,
}

impl Inputs {
    /// Integers have any bits. Floats are such that no partial result leaves the range in which the half types have their
    /// full precision, so that a bound of the error follows from their number and size: sums are of values up to 1.5, and
    /// the exponents of factors add up to at most 8.
    pub(super) fn value<T: Value>(&self, rank: Rank, index: usize) -> T {
        let random = mix(self.seed ^ mix((rank as u64) << 40 ^ index as u64));
        if T::ROUNDOFF.is_none() {
            return T::from_bits(random);
        }
        let of = mix(random);
        if self.special && of.is_multiple_of(16) {
            return self.special_value(of >> 4);
        }
        let unit = (random >> 11) as f64 * power(53);
        T::from_wide(match self.op {
            ReduceOp::Product => {
                let size = ((unit - 0.5) * 16.0 / self.ranks as f64).exp2();
                if of.is_multiple_of(2) { size } else { -size }
            }
            _ => (unit - 0.5) * 3.0,
        })
    }

    fn special_value<T: Value>(&self, random: u64) -> T {
        // Zero times infinity is not a number, but whether a product has vanished before depends on the order: either or.
        let product = self.op == ReduceOp::Product;
        let (zeros, infinities) = (!product || self.seed.is_multiple_of(2), !product || !self.seed.is_multiple_of(2));
        let negative = random & 1 == 0;
        match (random >> 8) % 8 {
            0 => T::from_bits(T::NANS[usize::from(negative)]),
            1 | 2 if zeros => T::from_wide(if negative { -0.0 } else { 0.0 }),
            3 | 4 if infinities => T::from_wide(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
            // The least there is.
            5 if !product => T::from_bits(1),
            _ => T::from_wide(if negative { -1.0 } else { 1.0 }),
        }
    }
}

/// Whether an element of a reduction in another order than that of the ranks is near enough. `all` are the ranks' values.
///
/// Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.1 and 4.2: with n - 1 operations in
/// any order, a sum is wrong by at most `g` times the sum of the absolute values, and a product by `g` times its own
/// absolute value, where `g = n u / (1 - n u)`. Each operation on halves rounds twice, first to `f32`. In `f64` the
/// comparison itself is as inexact as the result.
pub(super) fn near<T: Value>(got: T, op: ReduceOp, all: &[T]) -> Result<(), String> {
    let Some(roundoff) = T::ROUNDOFF else { return Err("whole numbers are the same in any order".into()) };
    let wide = all.iter().map(|value| value.wide());
    let (truth, size) = match op {
        ReduceOp::Sum => (wide.clone().sum::<f64>(), wide.map(f64::abs).sum::<f64>()),
        ReduceOp::Product => {
            let truth = wide.product::<f64>();
            (truth, truth.abs())
        }
        ReduceOp::Min | ReduceOp::Max => return Err("the least and the largest are the same in any order".into()),
    };
    if truth.is_nan() {
        let wanted = T::NANS[0];
        return if got.bits() == wanted { Ok(()) } else { Err(format!("{:x}, not {wanted:x}", got.bits())) };
    }
    if truth.is_infinite() {
        return if got.wide() == truth { Ok(()) } else { Err(format!("{got:?}, not {truth}")) };
    }
    let unit = if roundoff > power(24) { roundoff + power(24) } else { roundoff };
    let all = all.len() as f64 * unit * if roundoff < power(24) { 2.0 } else { 1.0 };
    let bound = all / (1.0 - all) * size;
    let off = (got.wide() - truth).abs();
    // Also where it is not a number.
    if off <= bound { Ok(()) } else { Err(format!("{got:?} is {off:e} from {truth}, beyond {bound:e}")) }
}
