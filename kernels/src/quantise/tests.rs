//! Codes computed by hand, the stated bounds, and the scalar twin.

use super::*;
use crate::dtype::{Bf16, F16};
use crate::testing::{ISAS, Numbers};

fn scheme(format: Format, block: usize) -> Scheme {
    Scheme::new(format, block).unwrap()
}

fn quantised<T: Float>(isa: Isa, scheme: Scheme, x: &[T]) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0xaa; scheme.code_bytes(x.len())];
    let mut scales = vec![-1.0; scheme.blocks(x.len())];
    quantise_on(isa, scheme, x, &mut codes, &mut scales);
    (codes, scales)
}

fn round_trip(scheme: Scheme, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (codes, scales) = quantised(detected(), scheme, x);
    let mut y = vec![f32::NAN; x.len()];
    dequantise(scheme, &codes, &scales, &mut y);
    (y, scales)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn int8_codes_by_hand() {
    let x = [127.0, -127.0, 0.5, 1.5, -2.5, 126.5, -0.4, 0.0, 64.25];
    for isa in ISAS {
        let (codes, scales) = quantised(isa, scheme(Format::Int8, 64), &x);
        assert_eq!(scales, [1.0]);
        assert_eq!(codes.iter().map(|&code| code as i8).collect::<Vec<_>>(), [127, -127, 0, 2, -2, 126, 0, 0, 64]);
    }
}

#[test]
fn int4_codes_by_hand() {
    let x = [14.0, -14.0, 2.0, 1.0, 3.0, -2.0, -5.0, 0.0, 13.0, -1.0, 6.0];
    for isa in ISAS {
        let (codes, scales) = quantised(isa, scheme(Format::Int4, 64), &x);
        assert_eq!(scales, [2.0]);
        // 7 and -7; 1 and 0 (a tie); 2 (a tie) and -1; -2 (a tie) and 0; 6 (a tie) and 0 (a tie); 3, then nothing.
        assert_eq!(codes, [0x97, 0x01, 0xf2, 0x0e, 0x06, 0x03]);
        let mut y = [0.0; 11];
        dequantise_on(isa, scheme(Format::Int4, 64), &codes, &scales, &mut y);
        assert_eq!(y, [14.0, -14.0, 2.0, 0.0, 4.0, -2.0, -4.0, 0.0, 12.0, 0.0, 6.0]);
    }
}

#[test]
fn sign_codes_by_hand() {
    let x = [1.0, -2.0, 3.0, -4.0, 0.0, -0.0, 5.0, -5.0, -7.0, 3.0];
    for isa in ISAS {
        let (codes, scales) = quantised(isa, scheme(Format::Sign, 64), &x);
        assert_eq!((codes.as_slice(), scales.as_slice()), (&[0b1010_1010, 0b01][..], &[3.0][..]));
        let mut y = [0.0; 10];
        dequantise_on(isa, scheme(Format::Sign, 64), &codes, &scales, &mut y);
        assert_eq!(y, [3.0, -3.0, 3.0, -3.0, 3.0, -3.0, 3.0, -3.0, -3.0, 3.0]);
    }
}

#[test]
fn eight_bit_floats_by_hand() {
    let x = [448.0, -1.0, 1.0625, 17.0, 0.001];
    for isa in ISAS {
        // In E4M3 1.0625 is a tie between 1 and 1.125, 17 one between 16 and 18, and 0.001 is nearest to 2^-9.
        let (codes, scales) = quantised(isa, scheme(Format::E4m3, 64), &x);
        assert_eq!((codes.as_slice(), scales.as_slice()), (&[0x7e, 0xb8, 0x38, 0x58, 0x01][..], &[1.0][..]));
        let (codes, scales) = quantised(isa, scheme(Format::E5m2, 64), &[57344.0, -1.0, 1.25, 7.0]);
        assert_eq!((codes.as_slice(), scales.as_slice()), (&[0x7b, 0xbc, 0x3d, 0x47][..], &[1.0][..]));
    }
}

#[test]
fn int8_reads_codes_that_it_does_not_write() {
    for isa in ISAS {
        let mut y = [0.0f32; 3];
        dequantise_on(isa, scheme(Format::Int8, 64), &[0x80, 0xff, 0x7f], &[2.0], &mut y);
        assert_eq!(y, [-256.0, -2.0, 254.0]);
        let mut y = [0.0f32; 2];
        dequantise_on(isa, scheme(Format::Int4, 64), &[0x78], &[2.0], &mut y);
        assert_eq!(y, [-16.0, 14.0]);
    }
}

/// Blocks of very different magnitude, the largest and the smallest numbers among them.
fn magnitudes(numbers: &mut Numbers, block: usize) -> Vec<f32> {
    let mut x = Vec::new();
    for scale in [1.0, 1e-3, 3e4, 1e-20, 1e30, f32::MAX, 1e-33, 7.7] {
        x.extend(numbers.values(block, scale));
    }
    *x.last_mut().unwrap() = f32::MAX;
    x.extend([f32::MAX, f32::MIN, 1.0]);
    x
}

#[test]
fn errors_are_within_the_stated_bounds() {
    let mut numbers = Numbers(3);
    for block in [64, 192, 1024, 4096] {
        let x = magnitudes(&mut numbers, block);
        for format in [Format::Int8, Format::Int4, Format::E4m3, Format::E5m2] {
            let (y, scales) = round_trip(scheme(format, block), &x);
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                let (x, y, s) = (f64::from(x), f64::from(y), f64::from(scales[i / block]));
                let slack = 1.0 + 2f64.powi(-20);
                let bound = match format {
                    Format::E4m3 => (x.abs() / 16.0).max(s / 1024.0) * slack,
                    Format::E5m2 => (x.abs() / 8.0).max(s / 131_072.0) * slack,
                    _ => s * (0.5 + 2f64.powi(-15)),
                };
                assert!((x - y).abs() <= bound, "{format:?} {block}: {x} became {y}, scale {s}");
            }
            let largest = x[..block].iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let code = match format {
                Format::Int8 => 127.0,
                Format::Int4 => 7.0,
                Format::E4m3 => 448.0,
                _ => 57344.0,
            };
            // Rounded up to 17 bits: at most one part in 2^16 more.
            let ratio = f64::from(scales[0]) / (f64::from(largest) / code);
            assert!((1.0 - 1e-7..1.0 + 2f64.powi(-16)).contains(&ratio), "{format:?} {ratio}");
            assert!(scales.iter().all(|scale| scale.to_bits() & 0x7f == 0), "{format:?}");
            exact_products(&y, &scales, block);
        }
    }
}

/// A value that was read is a code, of at most 7 bits, times the scale without rounding.
fn exact_products(y: &[f32], scales: &[f32], block: usize) {
    for (i, &y) in y.iter().enumerate().filter(|(i, _)| scales[i / block] > 0.0) {
        let code = f64::from(y) / f64::from(scales[i / block]);
        let bits = code.abs().to_bits();
        assert_eq!(bits & ((1 << 46) - 1), 0, "{y} is {code} times its scale");
    }
}

#[test]
fn products_are_called_exact_only_where_they_are() {
    for (scale, exact) in [
        (1.0, true),
        (0.0, true),
        (f32::NAN, true),
        (f32::INFINITY, true),
        (f32::from_bits(0x3f80_0080), true),
        (f32::from_bits(0x3f80_0040), false),
        (1e-31, false),
        (2f32.powi(101), false),
    ] {
        assert_eq!(products_are_exact(scale), exact, "{scale}");
    }
}

#[test]
fn the_squared_error_of_signs_is_the_stated_one() {
    let mut numbers = Numbers(5);
    for block in [64, 1024] {
        let x = numbers.values(3 * block + 17, 2.0);
        let (y, _) = round_trip(scheme(Format::Sign, block), &x);
        for (x, y) in x.chunks(block).zip(y.chunks(block)) {
            let (mut squares, mut sum, mut error) = (0.0, 0.0, 0.0);
            for (&x, &y) in x.iter().zip(y) {
                squares += f64::from(x).powi(2);
                sum += f64::from(x).abs();
                error += (f64::from(x) - f64::from(y)).powi(2);
            }
            let stated = squares - sum.powi(2) / x.len() as f64;
            assert!((error - stated).abs() < 1e-5 * squares, "{error} for {stated}");
        }
    }
}

#[test]
fn what_is_not_finite_poisons_its_block_alone() {
    for format in Format::ALL {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [64, 100, 127] {
                let mut x = vec![1.0; 200];
                x[place] = poison;
                for isa in ISAS {
                    let (codes, scales) = quantised(isa, scheme(format, 64), &x);
                    assert_eq!(bits(&scales[1..2]), [0x7fc0_0000]);
                    let width = 64 * format.bits() / 8;
                    assert!(codes[width..2 * width].iter().all(|&code| code == 0));
                    let mut y = vec![0.0f32; 200];
                    dequantise_on(isa, scheme(format, 64), &codes, &scales, &mut y);
                    assert!(y.iter().enumerate().all(|(i, y)| y.is_nan() == (64..128).contains(&i)), "{format:?}");
                }
            }
        }
    }
}

#[test]
fn tiny_blocks_read_as_zeros_and_large_ones_stay_finite() {
    for (format, code) in [
        (Format::Int8, 127.0f32),
        (Format::Int4, 7.0),
        (Format::E4m3, 448.0),
        (Format::E5m2, 57344.0),
        (Format::Sign, 1.0),
    ] {
        for isa in ISAS {
            let limit = code * f32::MIN_POSITIVE;
            let x: Vec<f32> = [limit, limit.next_down(), 1e-45, 0.0, f32::MAX].map(|x| vec![x; 64]).concat();
            let (codes, scales) = quantised(isa, scheme(format, 64), &x);
            assert_eq!(scales[..4], [f32::MIN_POSITIVE, 0.0, 0.0, 0.0], "{format:?}");
            let mut y = vec![1.0f32; x.len()];
            dequantise_on(isa, scheme(format, 64), &codes, &scales, &mut y);
            assert_eq!(y[..64], x[..64]);
            assert_eq!(y[64..256], [0.0; 192]);
            assert!(y[256..].iter().all(|&y| y.is_finite() && y > 0.9999 * f32::MAX), "{format:?}");
        }
    }
}

#[test]
fn every_length_format_and_type_agrees_on_every_instruction_set() {
    let mut numbers = Numbers(9);
    let lengths: Vec<usize> = if cfg!(miri) { vec![0, 7, 129] } else { (0..=131).chain([1_003, 8_195]).collect() };
    for len in lengths {
        let mut x = numbers.values(len, 3.0);
        let special = [-0.0, f32::MIN_POSITIVE / 2.0, f32::NAN, f32::INFINITY, 1e38, 2.5];
        x.iter_mut().skip(5).step_by(41).zip(special).for_each(|(x, special)| *x = special);
        let (bf16, f16): (Vec<_>, Vec<_>) = x.iter().map(|&x| (Bf16::from_f32(x), F16::from_f32(x))).unzip();
        for (format, block) in Format::ALL.into_iter().flat_map(|format| [(format, 64), (format, 4096)]) {
            let scheme = scheme(format, block);
            let scalar = quantised(Isa::Scalar, scheme, &x);
            let vector = quantised(Isa::Avx2Fma, scheme, &x);
            assert_eq!(scalar.0, vector.0, "{format:?} {block} {len}");
            assert_eq!(bits(&scalar.1), bits(&vector.1), "{format:?} {block} {len}");

            let mut expected = vec![0.0f32; len];
            dequantise_on(Isa::Scalar, scheme, &scalar.0, &scalar.1, &mut expected);
            let mut y = vec![0.0f32; len];
            dequantise_on(Isa::Avx2Fma, scheme, &scalar.0, &scalar.1, &mut y);
            assert!(crate::testing::same_bits(&expected, &y), "{format:?} {block} {len}");
            halves(scheme, &bf16, Bf16::to_f32, Bf16::from_f32);
            halves(scheme, &f16, F16::to_f32, F16::from_f32);
        }
    }
}

/// Halves are quantised as the `f32` that they are, and read as the rounded `f32`.
fn halves<T: Float + PartialEq>(scheme: Scheme, x: &[T], widen: fn(T) -> f32, narrow: fn(f32) -> T) {
    let wide: Vec<f32> = x.iter().map(|&x| widen(x)).collect();
    let expected = quantised(Isa::Scalar, scheme, &wide);
    for isa in ISAS {
        let got = quantised(isa, scheme, x);
        assert_eq!((&got.0, bits(&got.1)), (&expected.0, bits(&expected.1)), "{isa:?} {scheme:?} {}", x.len());
        let mut y = vec![T::ZERO; x.len()];
        dequantise_on(isa, scheme, &got.0, &got.1, &mut y);
        let mut wide = vec![0.0f32; x.len()];
        dequantise_on(Isa::Scalar, scheme, &got.0, &got.1, &mut wide);
        let same = |(&y, &wide): (&T, &f32)| y == narrow(wide) || (wide.is_nan() && widen(y).is_nan());
        assert!(y.iter().zip(&wide).all(same), "{isa:?} {scheme:?} {}", x.len());
    }
}

#[test]
fn sizes_and_blocks() {
    let int4 = scheme(Format::Int4, 128);
    assert_eq!((int4.code_bytes(129), int4.blocks(129), int4.blocks(0)), (65, 2, 0));
    assert_eq!(scheme(Format::Sign, 64).code_bytes(65), 9);
    assert_eq!(scheme(Format::E5m2, 64).code_bytes(65), 65);
    for block in [0, 32, 96, 4160] {
        assert_eq!(Scheme::new(Format::Int8, block), None, "{block}");
    }
}

#[test]
#[should_panic(expected = "scales do not fit x")]
fn lengths_must_fit() {
    quantise(scheme(Format::Int8, 64), &[1.0f32; 65], &mut [0; 65], &mut [0.0; 1]);
}
