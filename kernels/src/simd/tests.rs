//! Every operation against the scalar twin.

use super::*;
use crate::isa::{Isa, Kernel};
use crate::testing::Numbers;

/// Every operation on the same lanes, as bits.
struct Everything {
    a: [u32; LANES],
    b: [u32; LANES],
    c: [u32; LANES],
    bytes: [u8; 4 * LANES],
}

impl Kernel for Everything {
    type Output = Vec<(&'static str, Vec<u64>)>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let [a, b, c] = [self.a, self.b, self.c].map(|lanes| lanes.map(f32::from_bits));
        let (a, b, c) = (simd.load(&a), simd.load(&b), simd.load(&c));
        let (x, y) = (simd.bits(a), simd.bits(b));
        let mut all = Vec::new();

        let mut to = [0.0; LANES];
        macro_rules! floats {
            ($($name:literal: $value:expr,)*) => {$(
                simd.store($value, &mut to);
                // Which NaN comes out is not defined.
                let bits = |x: &f32| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits().into() };
                all.push(($name, to.iter().map(bits).collect::<Vec<u64>>()));
            )*};
        }
        macro_rules! bits {
            ($($name:literal: $value:expr,)*) => {$(
                simd.store(simd.floats($value), &mut to);
                all.push(($name, to.iter().map(|x| x.to_bits().into()).collect()));
            )*};
        }
        floats! {
            "add": simd.add(a, b),
            "sub": simd.sub(a, b),
            "mul": simd.mul(a, b),
            "div": simd.div(a, b),
            "mul_add": simd.mul_add(a, b, c),
            "neg_mul_add": simd.neg_mul_add(a, b, c),
            "max": simd.max(a, b),
            "min": simd.min(a, b),
            "sqrt": simd.sqrt(a),
            "splat": simd.splat(2.5),
            "int_to_float": simd.int_to_float(x),
            "low_bits_to_exponent": simd.low_bits_to_exponent(a),
            "divide by 1": divide(simd, a, 1),
            "divide by 3": divide(simd, a, 3),
            "divide by 8": divide(simd, a, 8),
            "divide by 2^31": divide(simd, a, 1 << 31),
        }
        // What fits an integer, from any bits.
        let small = simd.int_to_float(simd.shr::<8>(x));
        let [first, ..] = *self.bytes.as_chunks::<LANES>().0 else { return all };
        let wide = self.bytes.as_chunks::<2>().0;
        let halves: [u16; LANES] = std::array::from_fn(|i| u16::from_le_bytes(wide[i]));
        bits! {
            "bits": x,
            "splat_bits": simd.splat_bits(0x8123_4567),
            "and": simd.and(x, y),
            "or": simd.or(x, y),
            "xor": simd.xor(x, y),
            "add_bits": simd.add_bits(x, y),
            "sub_bits": simd.sub_bits(x, y),
            "shl": simd.shl::<13>(x),
            "shr": simd.shr::<13>(x),
            "max_bits": simd.max_bits(x, y),
            "min_bits": simd.min_bits(x, y),
            "above": simd.above(x, y),
            "select": simd.select(simd.above(x, y), x, simd.bits(c)),
            "spread": simd.spread(first[0]),
            "round_to_int": simd.round_to_int(simd.mul(small, simd.splat(0.0625))),
            "widen_i8": simd.widen_i8(&first),
            "widen_i4": simd.widen_i4(u32::from_le_bytes([first[0], first[1], first[2], first[3]])),
            "widen_u16": simd.widen_u16(&halves),
        }
        floats! { "widen_f16": simd.widen_f16(&halves.map(F16)), }
        all.push(("top_bits", vec![simd.top_bits(x).into()]));
        all.push(("largest_bits", vec![u64::from(simd.largest_bits(x).cast_unsigned())]));

        let (mut eight, mut four, mut sixteen, mut f16) = ([0; LANES], [0; 4 * LANES], [0; LANES], [F16(0); LANES]);
        simd.narrow_u8(x, &mut eight);
        all.push(("narrow_u8", eight.map(u64::from).to_vec()));
        simd.narrow_u16(x, &mut sixteen);
        all.push(("narrow_u16", sixteen.map(u64::from).to_vec()));
        simd.narrow_f16(a, &mut f16);
        all.push(("narrow_f16", f16.map(|x| x.0.into()).to_vec()));
        let signed = |from: S::B| simd.sub_bits(simd.and(from, simd.splat_bits(0xff)), simd.splat_bits(0x80));
        simd.narrow_four_i8([signed(x), signed(y), signed(simd.bits(c)), signed(x)], &mut four);
        all.push(("narrow_four_i8", four.map(u64::from).to_vec()));
        let unsigned = |from: S::B| simd.and(from, simd.splat_bits(0xff));
        simd.narrow_four_u8([unsigned(x), unsigned(y), unsigned(simd.bits(c)), unsigned(y)], &mut four);
        all.push(("narrow_four_u8", four.map(u64::from).to_vec()));

        let mut wide = [0.0; LANES];
        let product = simd.mul_add_f64(a, b, simd.mul_add_f64(c, b, simd.zero_f64()));
        for (name, value) in [("mul_add_f64", product), ("add_f64", simd.add_f64(product, product))] {
            simd.store_f64(value, &mut wide);
            let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
            all.push((name, wide.map(bits).to_vec()));
        }
        all
    }
}

#[test]
fn every_operation_agrees_with_the_scalar_twin() {
    let special = [0.0, -0.0, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, f32::MAX, -1e-40, 0.5, 65520.0];
    let mut numbers = Numbers(51);
    for round in 0..if cfg!(miri) { 20 } else { 5_000 } {
        let mut lanes = || {
            std::array::from_fn(|i| {
                let bits = (numbers.unit() * 4_294_967_296.0) as u32;
                match (round + i) % 4 {
                    0 => special[bits as usize % special.len()].to_bits(),
                    // Near one, where rounding shows.
                    1 => 0x3f80_0000 + bits % 0x80_0000,
                    _ => bits,
                }
            })
        };
        let (a, b, c) = (lanes(), lanes(), lanes());
        let bytes = std::array::from_fn(|_| (numbers.unit() * 256.0) as u8);
        let scalar = Isa::Scalar.run(Everything { a, b, c, bytes });
        let vector = Isa::Avx2Fma.run(Everything { a, b, c, bytes });
        for ((name, scalar), (_, vector)) in scalar.iter().zip(&vector) {
            assert_eq!(scalar, vector, "{name} of {a:x?}, {b:x?}, {c:x?}");
        }
    }
}

struct Divided([f32; LANES], u32);

impl Kernel for Divided {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        simd.store(divide(simd, simd.load(&self.0), self.1), &mut out);
        out
    }
}

#[test]
fn divisions_round_as_the_quotient_even_by_powers_of_two() {
    let x = [1.0, -3.0, 1e-45, 3e-45, 1e-38, f32::MAX, f32::INFINITY, 0.1];
    for divisor in [1, 2, 3, 4, 7, 64, 1 << 20, 1 << 31] {
        assert_eq!(Isa::Avx2Fma.run(Divided(x, divisor)), x.map(|x| x / divisor as f32), "{divisor}");
    }
}
