//! Reductions and norms.

use swarmloom_kernels::copy::Stores;
use swarmloom_kernels::norms::{self, BLOCK};
use swarmloom_kernels::reduce::{ReduceOp, Reducer, divide_on};
use swarmloom_kernels::{Bf16, Element, F16, Float, Isa};

use super::*;
use crate::calls;

/// The scalar twin's result.
fn expected<T: Element>(op: ReduceOp, sources: &[Vec<T>], divisor: Option<u32>) -> Vec<T> {
    let mut out = sources[0].clone();
    let addresses: Vec<*const u8> = sources.iter().map(|source| source.as_ptr().cast()).collect();
    let to: *mut u8 = out.as_mut_ptr().cast();
    // SAFETY: all have `out.len()` elements and are apart.
    unsafe { Reducer::on(Isa::Scalar, T::DTYPE, op).run(&addresses, &[to], out.len(), Stores::Cached) };
    if let Some(divisor) = divisor {
        // SAFETY: as above.
        unsafe { divide_on(Isa::Scalar, T::DTYPE, to, out.len(), divisor) };
    }
    out
}

fn reductions_of<T: Element>(machine: &mut Machine) {
    let mut numbers = Numbers(T::DTYPE as u64);
    for op in ReduceOp::ALL {
        for (n, count) in [(1, 33), (2, 1), (2, 15), (2, 1000), (3, 257), (5, 100), (64, 70)] {
            for (astray, in_place) in [(0, false), (1, false), (0, true)] {
                let divisors =
                    if op == ReduceOp::Sum { vec![None, Some(1), Some(2), Some(n), Some(7)] } else { vec![None] };
                for divisor in divisors {
                    let sources: Vec<Vec<T>> = (0..n).map(|_| numbers.elements(count)).collect();
                    let at: Vec<u64> = sources.iter().map(|source| machine.put(source, 0)).collect();
                    // What lies after the end must stay.
                    let out = if in_place {
                        at[n as usize / 2]
                    } else {
                        machine.put(&vec![sources[0][0]; count + 1], astray)
                    };
                    machine.run(calls::reduce((T::DTYPE, op), &at, out, count, divisor));
                    let expected = expected(op, &sources, divisor);
                    let what = format!("{:?} {op:?} {n} x {count}, {astray}, {in_place}, {divisor:?}", T::DTYPE);
                    assert_eq!(bytes_of(&machine.get::<T>(out, count)), bytes_of(&expected), "{what}");
                    if !in_place {
                        let after = machine.get::<T>(out, count + 1);
                        assert_eq!(bytes_of(&after[count..]), bytes_of(&sources[0][..1]), "{what}: after the end");
                    }
                    machine.clear();
                }
            }
        }
    }
}

#[test]
fn reductions_have_the_scalar_twins_bits() {
    everywhere(|machine| {
        reductions_of::<f32>(machine);
        reductions_of::<f64>(machine);
        reductions_of::<Bf16>(machine);
        reductions_of::<F16>(machine);
        reductions_of::<i8>(machine);
        reductions_of::<i32>(machine);
        reductions_of::<i64>(machine);
        reductions_of::<u8>(machine);
    });
}

/// Every pattern of a half, and for each what lies next to the middle between two halves.
#[test]
fn every_half_is_widened_and_narrowed_alike() {
    everywhere(|machine| {
        let halves: Vec<F16> = (0..=u16::MAX).map(F16).collect();
        let others: Vec<F16> = (0..=u16::MAX).map(|bits| F16(bits.wrapping_mul(40_503) & 0xbfff)).collect();
        for op in [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Min] {
            let at = [machine.put(&halves, 0), machine.put(&others, 0)];
            let out = machine.put(&halves, 0);
            machine.run(calls::reduce((F16::DTYPE, op), &at, out, halves.len(), None));
            let expected = expected(op, &[halves.clone(), others.clone()], None);
            assert_eq!(machine.get::<F16>(out, halves.len()), expected, "{op:?}");
            let (a, b): (Vec<Bf16>, Vec<Bf16>) =
                halves.iter().zip(&others).map(|(a, b)| (Bf16(a.0), Bf16(b.0))).unzip();
            let at = [machine.put(&a, 0), machine.put(&b, 0)];
            machine.run(calls::reduce((Bf16::DTYPE, op), &at, out, a.len(), None));
            assert_eq!(machine.get::<Bf16>(out, a.len()), super::reductions::expected(op, &[a, b], None), "{op:?}");
            machine.clear();
        }
    });
}

fn norms_of<T: Float>(machine: &mut Machine) {
    let mut numbers = Numbers(41 + T::DTYPE as u64);
    for count in [1, 15, 16, 17, 1000, BLOCK - 1, BLOCK, BLOCK + 3, 3 * BLOCK + 77] {
        let special = numbers.elements::<T>(count);
        // Without NaNs and infinities, so that sums mean something.
        let ordinary: Vec<T> = special.iter().map(|x| if finite(x) { *x } else { T::ZERO }).collect();
        for x in [special, ordinary] {
            let at = machine.put(&x, 0);
            let blocks = count.div_ceil(BLOCK);
            let sums = machine.put(&vec![-1.0_f64; blocks], 0);
            machine.run(calls::sum_of_squares(T::DTYPE, at, count, sums));
            let total = machine.get::<f64>(sums, blocks).into_iter().fold(0.0, |total, sum| total + sum);
            let expected = norms::sum_of_squares_on(Isa::Scalar, &x);
            let equal = total.to_bits() == expected.to_bits() || (total.is_nan() && expected.is_nan());
            assert!(equal, "{:?} {count}: {total} and not {expected}", T::DTYPE);
            let bits = machine.put(&[0_i32], 0);
            machine.run(calls::max_abs(T::DTYPE, at, count, bits));
            let largest = f32::from_bits(machine.get::<i32>(bits, 1)[0].cast_unsigned());
            assert!(same(&[largest], &[norms::max_abs_on(Isa::Scalar, &x)]), "{:?} {count}", T::DTYPE);
            machine.clear();
        }
    }
}

fn finite<T: Float>(x: &T) -> bool {
    norms::max_abs(std::slice::from_ref(x)).is_finite()
}

#[test]
fn norms_have_the_scalar_twins_bits() {
    everywhere(|machine| {
        norms_of::<f32>(machine);
        norms_of::<Bf16>(machine);
        norms_of::<F16>(machine);
    });
}
