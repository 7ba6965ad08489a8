//! Eight-bit floats and block-wise quantisation.

use swarmloom_kernels::fp8::{self, Fp8};
use swarmloom_kernels::fused;
use swarmloom_kernels::quantise::{self, Format, Scheme};
use swarmloom_kernels::{Bf16, F16, Float, Isa};

use super::*;
use crate::calls;

/// Blocks of every kind: ordinary ones, one of zeros, tiny, huge, with a NaN, with an infinity, with subnormal numbers.
fn blocks<T: Float>(numbers: &mut Numbers, scheme: Scheme, count: usize) -> Vec<T> {
    let mut wide = Vec::with_capacity(count);
    for block in 0..count.div_ceil(scheme.block()) {
        let len = scheme.block().min(count - wide.len());
        let scale = [1.0, 3e-3, 0.0, 1e-38, 3e38, 1e5, 1.0, 1.0, 1e-41][block % 9];
        let begin = wide.len();
        wide.extend(numbers.values(len, scale));
        match block % 9 {
            // Its scale cannot be rounded up.
            4 => wide[begin] = f32::MAX,
            6 => wide[begin + len / 2] = f32::NAN,
            7 => wide[begin + len - 1] = f32::NEG_INFINITY,
            _ => {}
        }
    }
    wide.into_iter().map(narrowed::<T>).collect()
}

fn narrowed<T: Float>(x: f32) -> T {
    let bits: u64 = match T::DTYPE {
        Dtype::Bf16 => Bf16::from_f32(x).0.into(),
        Dtype::F16 => F16::from_f32(x).0.into(),
        _ => x.to_bits().into(),
    };
    // SAFETY: a float has at most eight bytes, and every pattern is a value.
    unsafe { std::ptr::from_ref(&bits).cast::<T>().read_unaligned() }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn schemes() -> impl Iterator<Item = Scheme> {
    let blocks = [64, 192, 1024, 4096];
    Format::ALL.into_iter().flat_map(move |format| blocks.map(|block| Scheme::new(format, block).expect("a scheme")))
}

fn quantised_of<T: Float>(machine: &mut Machine) {
    let mut numbers = Numbers(7 + T::DTYPE as u64);
    for scheme in schemes() {
        let block = scheme.block();
        for count in [1, 7, 63, block, block + 1, 3 * block - 5, 10 * block + 9] {
            let x: Vec<T> = blocks(&mut numbers, scheme, count);
            let (code_bytes, scale_count) = (scheme.code_bytes(count), scheme.blocks(count));
            let (mut codes, mut scales) = (vec![0; code_bytes], vec![0.0; scale_count]);
            quantise::quantise_on(Isa::Scalar, scheme, &x, &mut codes, &mut scales);
            let at = machine.put(&x, 0);
            let out = (machine.put(&vec![0xaa_u8; code_bytes], 0), machine.put(&vec![-1.0_f32; scale_count], 0));
            machine.run(calls::quantise((scheme, T::DTYPE), at, count, out.0, out.1));
            let what = format!("{:?} {scheme:?} {count}", T::DTYPE);
            assert_eq!(bits(&machine.get::<f32>(out.1, scale_count)), bits(&scales), "{what}: scales");
            assert_eq!(machine.get::<u8>(out.0, code_bytes), codes, "{what}: codes");

            // Codes and scales that nobody writes are read too.
            codes.iter_mut().step_by(3).for_each(|code| *code = code.wrapping_mul(77));
            let mut back = x.clone();
            quantise::dequantise_on(Isa::Scalar, scheme, &codes, &scales, &mut back);
            let (codes, scales) = (machine.put(&codes, 0), machine.put(&scales, 0));
            machine.run(calls::dequantise((scheme, T::DTYPE), codes, scales, count, at));
            assert!(same(&machine.get::<T>(at, count), &back), "{what}: back");
            machine.clear();
        }
    }
}

#[test]
fn codes_and_scales_are_the_scalar_twins() {
    everywhere(|machine| {
        quantised_of::<f32>(machine);
        quantised_of::<Bf16>(machine);
        quantised_of::<F16>(machine);
    });
}

/// The mean of these is halfway between two numbers but for what only one order of the chains does not lose.
#[test]
fn the_chains_of_a_mean_are_added_in_one_order() {
    everywhere(|machine| {
        let scheme = Scheme::new(Format::Sign, 64).expect("a scheme");
        let mut x = [0.0_f32; 64];
        for (i, power) in [(0, 60), (1, 36), (2, 7), (6, 7)] {
            x[i] = 2_f32.powi(power);
        }
        let out = (machine.put(&[0_u8; 8], 0), machine.put(&[0.0_f32], 0));
        let at = machine.put(&x, 0);
        machine.run(calls::quantise((scheme, Dtype::F32), at, 64, out.0, out.1));
        assert_eq!(machine.get::<f32>(out.1, 1), [2_f32.powi(54).next_up()]);
        let (mut codes, mut scales) = ([0; 8], [0.0]);
        quantise::quantise_on(Isa::Scalar, scheme, &x, &mut codes, &mut scales);
        assert_eq!(scales, [2_f32.powi(54).next_up()]);
    });
}

#[test]
fn fused_reductions_are_the_scalar_twins() {
    everywhere(|machine| {
        let mut numbers = Numbers(99);
        for scheme in schemes() {
            let block = scheme.block();
            for (n, count) in [(1, 70), (2, 2 * block + 1), (5, 9 * block + 13), (64, 100)] {
                let mut owned: Vec<(Vec<u8>, Vec<f32>)> = Vec::new();
                for i in 0..n {
                    let x: Vec<f32> = blocks(&mut numbers, scheme, count);
                    let (mut codes, mut scales) = (vec![0; scheme.code_bytes(count)], vec![0.0; scheme.blocks(count)]);
                    quantise::quantise(scheme, &x, &mut codes, &mut scales);
                    if i == 1 {
                        // Products that are rounded, overflow or underflow.
                        let foreign = [0.1, 3e38, -1e-40, f32::NEG_INFINITY, 1e-37];
                        scales.iter_mut().zip(foreign).for_each(|(scale, foreign)| *scale = foreign);
                    }
                    owned.push((codes, scales));
                }
                let sources: Vec<fused::Quantised<'_>> =
                    owned.iter().map(|(codes, scales)| fused::Quantised { codes, scales }).collect();
                for divisor in [1, n, 7] {
                    let (mut codes, mut scales) = (vec![0; scheme.code_bytes(count)], vec![0.0; scheme.blocks(count)]);
                    fused::reduce_quantised_on(Isa::Scalar, scheme, count, &sources, divisor, &mut codes, &mut scales);
                    let mut mean = vec![0.0; count];
                    fused::reduce_dequantised_on(Isa::Scalar, scheme, &sources, divisor, &mut mean);

                    let at: Vec<(u64, u64)> =
                        owned.iter().map(|(codes, scales)| (machine.put(codes, 0), machine.put(scales, 0))).collect();
                    let out =
                        (machine.put(&vec![0xaa_u8; codes.len()], 0), machine.put(&vec![-1.0_f32; scales.len()], 0));
                    machine.run(calls::reduce_quantised(scheme, count, &at, divisor, out));
                    let what = format!("{scheme:?} {n} x {count} / {divisor}");
                    assert_eq!(bits(&machine.get::<f32>(out.1, scales.len())), bits(&scales), "{what}: scales");
                    assert_eq!(machine.get::<u8>(out.0, codes.len()), codes, "{what}: codes");
                    let wide = machine.put(&vec![-1.0_f32; count], 0);
                    machine.run(calls::reduce_dequantised(scheme, count, &at, divisor, wide));
                    assert!(same(&machine.get::<f32>(wide, count), &mean), "{what}: mean");
                    machine.clear();
                }
            }
        }
    });
}

fn eight_bits_of<T: Float>(machine: &mut Machine) {
    let mut numbers = Numbers(3 + T::DTYPE as u64);
    for format in [Fp8::E4m3, Fp8::E5m2] {
        // All upper halves of an f32, so all halves too, and what lies around the middles.
        let mut x: Vec<T> = numbers.elements(777);
        x.extend(
            (0..=u16::MAX).map(|upper| narrowed::<T>(f32::from_bits(u32::from(upper) << 16 | u32::from(upper & 3)))),
        );
        let mut narrow = vec![0; x.len()];
        fp8::narrow_on(Isa::Scalar, format, &x, &mut narrow);
        let (from, to) = (machine.put(&x, 0), machine.put(&vec![0xaa_u8; x.len()], 0));
        machine.run(calls::narrow((format, T::DTYPE), from, to, x.len()));
        assert_eq!(machine.get::<u8>(to, x.len()), narrow, "{format:?} {:?}", T::DTYPE);

        let codes: Vec<u8> = (0..=255).collect();
        let mut wide = vec![T::ZERO; codes.len()];
        fp8::widen_on(Isa::Scalar, format, &codes, &mut wide);
        let from = machine.put(&codes, 0);
        let to = machine.put(&vec![T::ZERO; codes.len()], 0);
        machine.run(calls::widen((format, T::DTYPE), from, to, codes.len()));
        assert_eq!(bytes_of(&machine.get::<T>(to, codes.len())), bytes_of(&wide), "{format:?} {:?}", T::DTYPE);
        machine.clear();
    }
}

#[test]
fn eight_bit_floats_are_the_scalar_twins() {
    everywhere(|machine| {
        eight_bits_of::<f32>(machine);
        eight_bits_of::<Bf16>(machine);
        eight_bits_of::<F16>(machine);
    });
}
