//! The loop of every reduction, and the choice of its registers.

use super::ReduceOp;
use super::register::{Divide, Max, Min, OneBf16, OneF16, Op, Product, Register, Sum};
use crate::copy::Stores;
use crate::dtype::Dtype;
use crate::isa::Isa;

/// A reduction: sources (at least one), destinations (one or two), elements, stores.
pub(super) type Run = unsafe fn(&[*const u8], &[*mut u8], usize, Stores);

/// A division: data, elements, divisor.
pub(super) type Division = unsafe fn(*mut u8, usize, u32);

/// The function for an instruction set. This processor can run it.
pub(super) fn choose(isa: Isa, dtype: Dtype, op: ReduceOp) -> Run {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2Fma && crate::avx2::Avx2Fma::new().is_some() {
        return avx2::choose(dtype, op);
    }
    let _ = isa;
    match dtype {
        Dtype::F32 => scalar::<f32>(op),
        Dtype::F64 => scalar::<f64>(op),
        Dtype::Bf16 => scalar::<OneBf16>(op),
        Dtype::F16 => scalar::<OneF16>(op),
        Dtype::I8 => scalar::<i8>(op),
        Dtype::I32 => scalar::<i32>(op),
        Dtype::I64 => scalar::<i64>(op),
        Dtype::U8 => scalar::<u8>(op),
    }
}

/// The division for an instruction set. This processor can run it.
pub(super) fn choose_divide(isa: Isa, dtype: Dtype) -> Division {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2Fma && crate::avx2::Avx2Fma::new().is_some() {
        return avx2::choose_divide(dtype);
    }
    let _ = isa;
    match dtype {
        Dtype::F32 => divide::<f32>,
        Dtype::F64 => divide::<f64>,
        Dtype::Bf16 => divide::<OneBf16>,
        Dtype::F16 => divide::<OneF16>,
        Dtype::I8 => divide::<i8>,
        Dtype::I32 => divide::<i32>,
        Dtype::I64 => divide::<i64>,
        Dtype::U8 => divide::<u8>,
    }
}

fn scalar<R: Register>(op: ReduceOp) -> Run {
    match op {
        ReduceOp::Sum => run_scalar::<R, Sum>,
        ReduceOp::Product => run_scalar::<R, Product>,
        ReduceOp::Min => run_scalar::<R, Min>,
        ReduceOp::Max => run_scalar::<R, Max>,
    }
}

/// # Safety
///
/// As [`pass`], of which this is the form without vector instructions.
unsafe fn run_scalar<R: Register, O: Op>(sources: &[*const u8], out: &[*mut u8], count: usize, stores: Stores) {
    // SAFETY: the caller's promise is this function's.
    unsafe { pass::<R, O, _, _>(sources, out, count, stores) };
}

/// Registers that are reduced side by side, so that their latencies overlap.
const UNROLL: usize = 4;

/// Reduces; says whether anything was streamed, which then needs a fence.
///
/// The sources and destinations are arrays where their number is known, so that their loops vanish.
///
/// # Safety
///
/// As [`super::Reducer::run`], and the processor must have the instructions of `R`.
#[inline(always)]
unsafe fn pass<R: Register, O: Op, S: AsRef<[*const u8]>, D: AsRef<[*mut u8]>>(
    sources: S,
    out: D,
    count: usize,
    stores: Stores,
) -> bool {
    let (sources, out) = (sources.as_ref(), out.as_ref());
    let size = R::BYTES / R::COUNT;
    // SAFETY (for all of the function): offsets are whole elements, and each access ends within `count` elements,
    // which the caller promised to be readable or writable. A destination that is also a source is read
    // at an offset before it is written there: registers are written after all sources were read, and the
    // one that overlaps others, `last`, is read before anything is written.
    let &[first, ref rest @ ..] = sources else { return false };
    if rest.is_empty() {
        for &out in out {
            // SAFETY: see above; `copy_to` allows that both are the same.
            unsafe { first.copy_to(out, count * size) };
        }
        return false;
    }

    let mut at = 0;
    let mut streams = [false; 2];
    if stores == Stores::Streaming && R::COUNT > 1 {
        // Element by element to the first destination's next boundary, where it has one.
        let head = out[0].align_offset(R::BYTES);
        if head.is_multiple_of(size) && head <= count * size {
            while at < head / size {
                // SAFETY: see above.
                unsafe { put(one::<R::One, O>(first, rest, at * size), out, [false; 2], at * size) };
                at += 1;
            }
            for (out, streams) in out.iter().zip(&mut streams) {
                *streams = (out.addr() + head).is_multiple_of(R::BYTES);
            }
        }
    }

    if count - at < R::COUNT {
        // SAFETY: see above.
        unsafe { few::<R::Less, O>(first, rest, out, at * size, count * size) };
        return false;
    }

    let end = count * size;
    let mut offset = at * size;
    // What is left over after whole registers is the end of this one.
    // SAFETY: see above; there are at least `R::COUNT` elements.
    let last = unsafe { one::<R, O>(first, rest, end - R::BYTES) };
    while end - offset >= UNROLL * R::BYTES {
        // SAFETY: see above.
        unsafe {
            let mut sums = [
                R::load(first.add(offset)),
                R::load(first.add(offset + R::BYTES)),
                R::load(first.add(offset + 2 * R::BYTES)),
                R::load(first.add(offset + 3 * R::BYTES)),
            ];
            for source in rest {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = O::combine(*sum, R::load(source.add(offset + i * R::BYTES)));
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                put(sum.canonical(), out, streams, offset + i * R::BYTES);
            }
        }
        offset += UNROLL * R::BYTES;
    }
    while end - offset >= R::BYTES {
        // SAFETY: see above.
        unsafe { put(one::<R, O>(first, rest, offset), out, streams, offset) };
        offset += R::BYTES;
    }
    if offset < end {
        // SAFETY: see above.
        unsafe { put(last, out, [false; 2], end - R::BYTES) };
    }
    streams.contains(&true)
}

/// Reduces the bytes from `offset` to `end`.
///
/// # Safety
///
/// As [`pass`], with `end` bytes in every buffer.
#[inline(always)]
unsafe fn few<R: Register, O: Op>(
    first: *const u8,
    rest: &[*const u8],
    out: &[*mut u8],
    mut offset: usize,
    end: usize,
) {
    if end - offset < R::BYTES {
        while offset < end {
            // SAFETY: the caller's promise.
            unsafe { put(one::<R::One, O>(first, rest, offset), out, [false; 2], offset) };
            offset += R::One::BYTES;
        }
        return;
    }
    // SAFETY: the caller's promise; as in `pass`, `last` is read before anything is written.
    unsafe {
        let last = one::<R, O>(first, rest, end - R::BYTES);
        while end - offset > R::BYTES {
            put(one::<R, O>(first, rest, offset), out, [false; 2], offset);
            offset += R::BYTES;
        }
        put(last, out, [false; 2], end - R::BYTES);
    }
}

/// One reduced register.
///
/// # Safety
///
/// `offset + R::BYTES` bytes of every source must be readable, and the processor must have the instructions.
#[inline(always)]
unsafe fn one<R: Register, O: Op>(first: *const u8, rest: &[*const u8], offset: usize) -> R {
    // SAFETY: the caller's promise.
    let mut sum = unsafe { R::load(first.add(offset)) };
    for source in rest {
        // SAFETY: the caller's promise.
        sum = O::combine(sum, unsafe { R::load(source.add(offset)) });
    }
    sum.canonical()
}

/// Writes a register to every destination.
///
/// # Safety
///
/// `offset + R::BYTES` bytes of every destination must be writable; those that stream must be aligned there.
#[inline(always)]
unsafe fn put<R: Register>(register: R, out: &[*mut u8], streams: [bool; 2], offset: usize) {
    for (out, streams) in out.iter().zip(streams) {
        // SAFETY: the caller's promise.
        unsafe {
            if streams {
                register.stream(out.add(offset));
            } else {
                register.store(out.add(offset));
            }
        }
    }
}

/// # Safety
///
/// As [`super::divide`], for the element type of `R`, and the processor must have the instructions of `R`.
#[inline(always)]
unsafe fn divide<R: Divide<One: Divide>>(data: *mut u8, count: usize, divisor: u32) {
    let size = R::BYTES / R::COUNT;
    let mut at = 0;
    while count - at >= R::COUNT {
        // SAFETY: the register ends within `count` elements, which the caller promised.
        unsafe {
            let data = data.add(at * size);
            R::load(data).over(divisor).canonical().store(data);
        }
        at += R::COUNT;
    }
    while at < count {
        // SAFETY: likewise.
        unsafe {
            let data = data.add(at * size);
            R::One::load(data).over(divisor).canonical().store(data);
        }
        at += 1;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::_mm_sfence;

    use super::super::floats::{Bf16x16, F16x16, F32x8, F64x4};
    use super::super::integers::{I8x32, I32x8, I64x4, U8x32};
    use super::*;

    pub(super) fn choose(dtype: Dtype, op: ReduceOp) -> Run {
        match dtype {
            Dtype::F32 => of::<F32x8>(op),
            Dtype::F64 => of::<F64x4>(op),
            Dtype::Bf16 => of::<Bf16x16>(op),
            Dtype::F16 => of::<F16x16>(op),
            Dtype::I8 => of::<I8x32>(op),
            Dtype::I32 => of::<I32x8>(op),
            Dtype::I64 => of::<I64x4>(op),
            Dtype::U8 => of::<U8x32>(op),
        }
    }

    pub(super) fn choose_divide(dtype: Dtype) -> Division {
        match dtype {
            Dtype::F32 => divide_avx2::<F32x8>,
            Dtype::F64 => divide_avx2::<F64x4>,
            Dtype::Bf16 => divide_avx2::<Bf16x16>,
            Dtype::F16 => divide_avx2::<F16x16>,
            // There is no vector instruction that divides integers.
            Dtype::I8 => divide::<i8>,
            Dtype::I32 => divide::<i32>,
            Dtype::I64 => divide::<i64>,
            Dtype::U8 => divide::<u8>,
        }
    }

    fn of<R: Register>(op: ReduceOp) -> Run {
        match op {
            ReduceOp::Sum => run::<R, Sum>,
            ReduceOp::Product => run::<R, Product>,
            ReduceOp::Min => run::<R, Min>,
            ReduceOp::Max => run::<R, Max>,
        }
    }

    /// # Safety
    ///
    /// As [`pass`]. The processor must have AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<R: Register, O: Op>(sources: &[*const u8], out: &[*mut u8], count: usize, stores: Stores) {
        // SAFETY: the caller's promise is this function's.
        let streamed = unsafe {
            match (sources, out) {
                (&[a, b], &[out]) => pass::<R, O, _, _>([a, b], [out], count, stores),
                _ => pass::<R, O, _, _>(sources, out, count, stores),
            }
        };
        if streamed {
            _mm_sfence();
        }
    }

    /// # Safety
    ///
    /// As [`divide`]. The processor must have AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn divide_avx2<R: Divide<One: Divide>>(data: *mut u8, count: usize, divisor: u32) {
        // SAFETY: the caller's promise is this function's.
        unsafe { divide::<R>(data, count, divisor) }
    }
}
