//! Every element type and operation against values computed another way, and the scalar twin.

use std::fmt::Debug;

use super::*;
use crate::dtype::{Bf16, F16};
use crate::testing::{ISAS, Numbers};

/// Bytes kept around each buffer; they must not change.
const MARGIN: usize = 64;

/// An element type with the reduction as its documentation states it, in plain Rust.
trait Checked: Element + PartialEq {
    /// Values that reveal mistakes: extremes, both zeros, NaNs, subnormals.
    fn special() -> Vec<Self>;
    fn random(numbers: &mut Numbers) -> Self;
    fn expected(op: ReduceOp, column: &[Self]) -> Self;
    /// The bits.
    fn bits(self) -> u64;
}

macro_rules! checked_integer {
    ($($int:ty),*) => {$(
        impl Checked for $int {
            fn special() -> Vec<Self> {
                vec![0, 1, <$int>::MAX, <$int>::MIN, 2, 3, <$int>::MAX / 2, <$int>::MAX - 1]
            }

            fn random(numbers: &mut Numbers) -> Self {
                (numbers.unit() * 2f64.powi(53)) as u64 as $int
            }

            fn expected(op: ReduceOp, column: &[Self]) -> Self {
                // In 128 bits nothing overflows if each step is cut to the low bits, which is what wrapping means.
                let step = |a: i128, b: i128| match op {
                    ReduceOp::Sum => (a + b) as $int as i128,
                    ReduceOp::Product => (a * b) as $int as i128,
                    ReduceOp::Min => a.min(b),
                    ReduceOp::Max => a.max(b),
                };
                column.iter().map(|&x| x as i128).reduce(step).unwrap() as $int
            }

            fn bits(self) -> u64 {
                self as u64
            }
        }
    )*};
}

checked_integer!(i8, i32, i64, u8);

/// IEEE 754-2019's order with `-0.0` before `+0.0`, on `f64`, which holds every float here.
fn extreme(op: ReduceOp, a: f64, b: f64) -> f64 {
    let below = a.total_cmp(&b).is_lt();
    match (a.is_nan() || b.is_nan(), op == ReduceOp::Min) {
        (true, _) => f64::NAN,
        (false, minimum) => [b, a][usize::from(below == minimum)],
    }
}

macro_rules! checked_float {
    ($($float:ty, $wide:ty, $widen:expr, $narrow:expr, $nan:expr, $bits:expr;)*) => {$(
        impl Checked for $float {
            fn special() -> Vec<Self> {
                let values = [
                    0.0, -0.0, 1.0, -1.0, <$wide>::INFINITY, <$wide>::NEG_INFINITY, <$wide>::NAN, -<$wide>::NAN,
                    <$wide>::MIN_POSITIVE, -<$wide>::MIN_POSITIVE / 4.0, <$wide>::MAX, <$wide>::MIN,
                    3.5, 6.0e-8, 65504.0,
                ];
                values.into_iter().map($narrow).collect()
            }

            fn random(numbers: &mut Numbers) -> Self {
                $narrow((numbers.unit() * 8.0 - 4.0) as $wide)
            }

            fn expected(op: ReduceOp, column: &[Self]) -> Self {
                let widen: fn($float) -> $wide = $widen;
                let step = |a: $wide, b: $wide| match op {
                    ReduceOp::Sum => a + b,
                    ReduceOp::Product => a * b,
                    _ => extreme(op, a as f64, b as f64) as $wide,
                };
                let result = column.iter().map(|&x| widen(x)).reduce(step).unwrap();
                if column.len() == 1 {
                    column[0]
                } else if result.is_nan() {
                    $nan
                } else {
                    $narrow(result)
                }
            }

            fn bits(self) -> u64 {
                let bits: fn($float) -> u64 = $bits;
                bits(self)
            }
        }
    )*};
}

checked_float! {
    f32, f32, |x| x, |x| x, f32::from_bits(0x7fc0_0000), |x| x.to_bits().into();
    f64, f64, |x| x, |x| x, f64::from_bits(0x7ff8_0000_0000_0000), |x| x.to_bits();
    Bf16, f32, Bf16::to_f32, Bf16::from_f32, Bf16(0x7fc0), |x| x.0.into();
    F16, f32, F16::to_f32, F16::from_f32, F16(0x7e00), |x| x.0.into();
}

/// Calls the statement with `T` as each element type.
macro_rules! each_type {
    ($call:ident($($argument:expr),*)) => {
        $call::<f32>($($argument),*);
        $call::<f64>($($argument),*);
        $call::<Bf16>($($argument),*);
        $call::<F16>($($argument),*);
        $call::<i8>($($argument),*);
        $call::<i32>($($argument),*);
        $call::<i64>($($argument),*);
        $call::<u8>($($argument),*);
    };
}

fn lengths() -> Vec<usize> {
    if cfg!(miri) { vec![0, 1, 9, 67] } else { (0..=130).chain([1_001, 4_099]).collect() }
}

/// `count` elements: random ones, with special ones among them (another choice for each `salt`).
fn column<T: Checked>(numbers: &mut Numbers, count: usize, salt: usize) -> Vec<T> {
    let special = T::special();
    let pick = |i: usize| special[(i / 3 * (salt + 1) + salt) % special.len()];
    (0..count).map(|i| if i % 3 == salt % 3 { pick(i) } else { T::random(numbers) }).collect()
}

/// A buffer whose elements start `shift` bytes after a multiple of 64, with margins.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new<T: Checked>(elements: &[T], shift: usize) -> Self {
        let len = size_of_val(elements);
        let mut bytes = vec![0x5a; len + 3 * MARGIN + shift];
        let start = MARGIN + bytes.as_ptr().align_offset(64) + shift;
        for (i, element) in elements.iter().enumerate() {
            let size = size_of::<T>();
            bytes[start + i * size..start + (i + 1) * size].copy_from_slice(&element.bits().to_le_bytes()[..size]);
        }
        Self { bytes, start, len }
    }

    fn pointer(&mut self) -> *mut u8 {
        // SAFETY: `start` is within the vector.
        unsafe { self.bytes.as_mut_ptr().add(self.start) }
    }

    /// The elements' bits; the margins must be as they were.
    fn bits(&self, size: usize) -> Vec<u64> {
        let margins = self.bytes[..self.start].iter().chain(&self.bytes[self.start + self.len..]);
        assert!(margins.into_iter().all(|&byte| byte == 0x5a), "wrote outside of the buffer");
        let elements = self.bytes[self.start..self.start + self.len].chunks_exact(size);
        elements.map(|bytes| bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte))).collect()
    }
}

/// Element bits, without what sign extension adds.
fn expected_bits<T: Checked>(op: ReduceOp, sources: &[Vec<T>]) -> Vec<u64> {
    let mask = u64::MAX >> (64 - 8 * size_of::<T>());
    let columns = (0..sources[0].len()).map(|i| sources.iter().map(|source| source[i]).collect::<Vec<_>>());
    columns.map(|column| T::expected(op, &column).bits() & mask).collect()
}

#[derive(Debug, Clone, Copy)]
enum Target {
    One,
    Two { apart: usize },
    InPlace { source: usize },
    BothInPlace,
}

fn check<T: Checked>(isa: Isa, op: ReduceOp, sources: &[Vec<T>], target: Target, shift: usize, stores: Stores) {
    let (count, size) = (sources[0].len(), size_of::<T>());
    let expected = expected_bits(op, sources);
    let mut buffers: Vec<Buffer> =
        sources.iter().enumerate().map(|(i, s)| Buffer::new(s, (shift * (i + 1)) % 61)).collect();
    let mut fresh = [Buffer::new(&sources[0], shift), Buffer::new(&sources[0], shift)];
    if let Target::Two { apart } = target {
        fresh[1] = Buffer::new(&sources[0], shift + apart);
    }
    let inputs: Vec<*const u8> = buffers.iter_mut().map(|buffer| buffer.pointer().cast_const()).collect();
    let outputs: Vec<*mut u8> = match target {
        Target::One => vec![fresh[0].pointer()],
        Target::Two { .. } => fresh.iter_mut().map(Buffer::pointer).collect(),
        Target::InPlace { source } => vec![inputs[source].cast_mut()],
        Target::BothInPlace => vec![inputs[0].cast_mut(), inputs[1].cast_mut()],
    };
    // SAFETY: the buffers have `count` elements and are distinct, except where a destination is a source.
    unsafe { Reducer::on(isa, T::DTYPE, op).run(&inputs, &outputs, count, stores) };
    let written: Vec<&Buffer> = match target {
        Target::One => vec![&fresh[0]],
        Target::Two { .. } => fresh.iter().collect(),
        Target::InPlace { source } => vec![&buffers[source]],
        Target::BothInPlace => vec![&buffers[0], &buffers[1]],
    };
    for buffer in written {
        let got = buffer.bits(size);
        let wrong = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        let report = || {
            let i = wrong.unwrap();
            let column: Vec<T> = sources.iter().map(|s| s[i]).collect();
            format!(
                "{isa:?} {:?} {op:?} {target:?} {stores:?} shift {shift}: element {i} of {count}, {column:?}: \
                 {:#x} for {:#x}",
                T::DTYPE,
                got[i],
                expected[i]
            )
        };
        assert!(wrong.is_none(), "{}", report());
    }
    let untouched = buffers.iter().enumerate().filter(|(i, _)| match target {
        Target::InPlace { source } => *i != source,
        Target::BothInPlace => *i > 1,
        _ => true,
    });
    for (i, buffer) in untouched {
        let mask = u64::MAX >> (64 - 8 * size);
        assert!(buffer.bits(size).into_iter().eq(sources[i].iter().map(|x| x.bits() & mask)), "a source changed");
    }
}

fn every_length<T: Checked>(isa: Isa) {
    let mut numbers = Numbers(7);
    for op in ReduceOp::ALL {
        for count in lengths() {
            for n in [1, 2, 3, 5] {
                let sources: Vec<Vec<T>> = (0..n).map(|salt| column(&mut numbers, count, salt)).collect();
                let element = size_of::<T>();
                for (target, shift, stores) in [
                    (Target::One, 0, Stores::Cached),
                    (Target::One, 1, Stores::Cached),
                    (Target::One, 3 * element, Stores::Streaming),
                    (Target::One, 5, Stores::Streaming),
                    (Target::Two { apart: 0 }, element, Stores::Streaming),
                    (Target::Two { apart: 3 }, 2 * element, Stores::Streaming),
                    (Target::Two { apart: 1 }, 0, Stores::Cached),
                    (Target::InPlace { source: 0 }, element, Stores::Streaming),
                    (Target::InPlace { source: n - 1 }, 7, Stores::Cached),
                ] {
                    check(isa, op, &sources, target, shift, stores);
                }
                if n > 1 {
                    check(isa, op, &sources, Target::BothInPlace, element, Stores::Streaming);
                }
            }
        }
    }
}

#[test]
fn every_length_alignment_and_destination_gives_the_stated_bits() {
    for isa in ISAS {
        each_type!(every_length(isa));
    }
}

fn special_pairs<T: Checked>(isa: Isa) {
    let special = T::special();
    let pairs = special.iter().flat_map(|&a| special.iter().map(move |&b| (a, b)));
    let (a, b): (Vec<T>, Vec<T>) = pairs.unzip();
    for op in ReduceOp::ALL {
        check(isa, op, &[a.clone(), b.clone()], Target::One, 0, Stores::Cached);
        check(isa, op, &[a.clone(), b.clone(), b.clone(), a.clone()], Target::One, 0, Stores::Cached);
    }
}

#[test]
fn every_pair_of_special_values_gives_the_stated_bits() {
    for isa in ISAS {
        each_type!(special_pairs(isa));
    }
}

#[test]
fn a_nan_in_any_source_is_the_result_of_every_operation() {
    for op in ReduceOp::ALL {
        for place in 0..3 {
            let mut sources = [vec![1.0f32; 19], vec![-2.0; 19], vec![3.0; 19]];
            sources[place][2] = f32::from_bits(0xffc1_2345);
            sources[place][17] = f32::from_bits(0x7f80_0001);
            let sources = sources.each_ref().map(Vec::as_slice);
            let mut out = [0.0; 19];
            reduce_slices(op, &sources, &mut out);
            for (i, x) in out.into_iter().enumerate() {
                let expected = match op {
                    ReduceOp::Sum => 2.0,
                    ReduceOp::Product => -6.0,
                    ReduceOp::Min => -2.0,
                    ReduceOp::Max => 3.0,
                };
                let expected = if i == 2 || i == 17 { f32::from_bits(0x7fc0_0000) } else { expected };
                assert_eq!(x.to_bits(), expected.to_bits(), "{op:?}, NaN in source {place}, element {i}");
            }
        }
    }
}

#[test]
fn halves_are_rounded_once() {
    // Rounded after every step, 256 + 1 would stay 256 in bf16, and 2048 + 1 would stay 2048 in f16.
    let [big, one] = [256.0, 1.0].map(|x| vec![Bf16::from_f32(x); 37]);
    let mut out = vec![Bf16(0); 37];
    reduce_slices(ReduceOp::Sum, &[&big, &one, &one], &mut out);
    assert_eq!(out, vec![Bf16::from_f32(258.0); 37]);
    let [big, one] = [2048.0, 1.0].map(|x| vec![F16::from_f32(x); 37]);
    let mut out = vec![F16(0); 37];
    reduce_slices(ReduceOp::Sum, &[&big, &one, &one], &mut out);
    assert_eq!(out, vec![F16::from_f32(2050.0); 37]);
}

#[test]
fn the_order_is_that_of_the_sources() {
    // (2^24 + 1) + 1 loses both ones; (1 + 1) + 2^24 keeps them.
    let (big, one) = ([16_777_216.0f32; 9], [1.0; 9]);
    let mut out = [0.0; 9];
    reduce_slices(ReduceOp::Sum, &[&big, &one, &one], &mut out);
    assert_eq!(out, [16_777_216.0; 9]);
    reduce_slices(ReduceOp::Sum, &[&one, &one, &big], &mut out);
    assert_eq!(out, [16_777_218.0; 9]);
}

#[test]
fn cutting_a_buffer_into_calls_changes_no_bit() {
    let mut numbers = Numbers(11);
    let sources: Vec<Vec<Bf16>> = (0..4).map(|salt| column(&mut numbers, 500, salt)).collect();
    let slices: Vec<&[Bf16]> = sources.iter().map(Vec::as_slice).collect();
    let mut whole = vec![Bf16(0); 500];
    reduce_slices(ReduceOp::Sum, &slices, &mut whole);
    let mut pieces = vec![Bf16(0); 500];
    let mut at = 0;
    for len in [1, 3, 17, 100, 33, 346] {
        let cut: Vec<&[Bf16]> = slices.iter().map(|s| &s[at..at + len]).collect();
        reduce_slices(ReduceOp::Sum, &cut, &mut pieces[at..at + len]);
        at += len;
    }
    assert_eq!(whole, pieces);
}

#[test]
fn all_pairs_of_halves_with_zero_keep_their_value() {
    // x + 0 passes every pattern through widening, arithmetic and narrowing.
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for isa in ISAS {
        let bf16: Vec<Bf16> = all.iter().copied().map(Bf16).collect();
        let mut out = vec![Bf16(1); all.len()];
        reduce_slices_on(isa, ReduceOp::Sum, &[&bf16, &vec![Bf16(0x8000); all.len()]], &mut out);
        let expected = |x: u16, nan_above: u16, nan: u16| if x & 0x7fff > nan_above { nan } else { x };
        assert!(all.iter().zip(&out).all(|(&x, out)| out.0 == expected(x, 0x7f80, 0x7fc0)), "{isa:?}");
        let f16: Vec<F16> = all.iter().copied().map(F16).collect();
        let mut out = vec![F16(1); all.len()];
        reduce_slices_on(isa, ReduceOp::Sum, &[&f16, &vec![F16(0x8000); all.len()]], &mut out);
        assert!(all.iter().zip(&out).all(|(&x, out)| out.0 == expected(x, 0x7c00, 0x7e00)), "{isa:?}");
    }
}

#[test]
fn vector_narrowing_equals_the_scalar_one_on_many_sums() {
    let mut numbers = Numbers(13);
    let count = if cfg!(miri) { 100 } else { 200_000 };
    // Any bit pattern, so that sums land everywhere between two halves, subnormals and overflow included.
    let mut patterns = || (0..count).map(|_| (numbers.unit() * 65536.0) as u16).collect::<Vec<_>>();
    let (a, b) = (patterns(), patterns());
    let halves = |x: &[u16]| (x.iter().copied().map(Bf16).collect(), x.iter().copied().map(F16).collect());
    let ((a_bf16, a_f16), (b_bf16, b_f16)): ((Vec<_>, Vec<_>), (Vec<_>, Vec<_>)) = (halves(&a), halves(&b));
    check(Isa::Avx2Fma, ReduceOp::Sum, &[a_bf16, b_bf16], Target::One, 0, Stores::Cached);
    check(Isa::Avx2Fma, ReduceOp::Sum, &[a_f16, b_f16], Target::One, 0, Stores::Cached);
}

#[test]
fn reducing_into_a_source_keeps_its_rank_first() {
    let mut target = [16_777_216.0f32; 5];
    reduce_into(ReduceOp::Sum, &mut target, &[&[1.0; 5], &[1.0; 5]]);
    assert_eq!(target, [16_777_216.0; 5]);
    let many = [1.0f32; 3];
    let mut target = [0.5; 3];
    reduce_into(ReduceOp::Sum, &mut target, &[&many[..]; 40]);
    assert_eq!(target, [40.5; 3], "more sources than fit on the stack");
}

#[test]
fn a_free_call_reduces_too() {
    let (a, b, mut out) = ([1i64, i64::MAX, -5], [2i64, 1, 9], [0i64; 3]);
    // SAFETY: three elements each, distinct.
    unsafe {
        let (a, b, out) = (a.as_ptr().cast(), b.as_ptr().cast(), out.as_mut_ptr().cast());
        reduce(Dtype::I64, ReduceOp::Sum, &[a, b], &[out], 3, Stores::Cached);
    }
    assert_eq!(out, [3, i64::MIN, 4]);
}

#[test]
fn division_rounds_as_stated_on_every_instruction_set() {
    fn divided<T: Element>(isa: Isa, mut data: Vec<T>, divisor: u32) -> Vec<T> {
        // SAFETY: the vector is ours.
        unsafe { divide_on(isa, T::DTYPE, data.as_mut_ptr().cast(), data.len(), divisor) };
        data
    }
    for isa in ISAS {
        assert_eq!(divided(isa, vec![-7i8, 7, -128, 1], 2), [-3, 3, -64, 0]);
        assert_eq!(divided(isa, vec![255u8, 9], 10), [25, 0]);
        assert_eq!(divided(isa, vec![i32::MIN, 10], 3), [i32::MIN / 3, 3]);
        assert_eq!(divided(isa, vec![i64::MAX, -10], u32::MAX), [i64::MAX / i64::from(u32::MAX), 0]);
        assert_eq!(divided(isa, vec![1.0f64; 7], 3), [1.0 / 3.0; 7]);
        let thirds = divided(isa, vec![1.0f32, -2.0, f32::INFINITY, 1e-45, 5.0, 6.0, 7.0, 8.0, 9.0], 3);
        assert_eq!(thirds[..4], [1.0 / 3.0, -2.0 / 3.0, f32::INFINITY, 0.0]);
        assert_eq!(thirds[4..], [5.0 / 3.0, 2.0, 7.0 / 3.0, 8.0 / 3.0, 3.0]);
        assert_eq!(divided(isa, vec![-f32::NAN; 9], 3).map_bits(), [0x7fc0_0000; 9]);
        assert_eq!(divided(isa, vec![Bf16::from_f32(1.0); 19], 3), [Bf16::from_f32(1.0 / 3.0); 19]);
        assert_eq!(divided(isa, vec![F16::from_f32(1.0); 19], 3), [F16::from_f32(1.0 / 3.0); 19]);
    }
    let mut mean = [1.0f32, 3.0, 5.0];
    reduce_into(ReduceOp::Sum, &mut mean, &[&[2.0, 5.0, 9.0]]);
    divide_slice(&mut mean, 2);
    assert_eq!(mean, [1.5, 4.0, 7.0]);
}

trait MapBits {
    fn map_bits(&self) -> Vec<u32>;
}

impl MapBits for Vec<f32> {
    fn map_bits(&self) -> Vec<u32> {
        self.iter().map(|x| x.to_bits()).collect()
    }
}

#[test]
#[should_panic(expected = "200 is not a divisor for I8")]
fn a_divisor_that_does_not_fit_is_refused() {
    divide_slice(&mut [1i8], 200);
}

#[test]
#[should_panic(expected = "differ in length")]
fn lengths_must_agree() {
    reduce_slices(ReduceOp::Sum, &[&[1.0f32, 2.0], &[1.0]], &mut [0.0; 2]);
}
