//! Reducing several buffers into one, element by element and in the order of the sources.
//!
//! # What is guaranteed
//!
//! Every element is `((s0 op s1) op s2) op ...`, whatever the length, the alignment, the way a buffer is cut
//! into calls, and the instruction set: all callers with the same sources get the same bits.
//!
//! - **`f32`, `f64`** round after every step, as IEEE 754 says. Subnormal numbers are kept.
//! - **`bf16`, `f16`** are widened to `f32`, reduced there, and rounded once at the end, to nearest with ties
//!   to even.
//! - **Integers** wrap around on overflow.
//! - **NaN**: if any source has a NaN, the result is a NaN, for minimum and maximum too (unlike x86's `MINPS`
//!   and [`f32::min`]). A NaN result is always the same one: positive, quiet, no payload (`0x7fc0_0000` as
//!   an `f32`). It also stands for `inf - inf` and `0 * inf`.
//! - **Zeros**: minimum and maximum order `-0.0` before `+0.0` (IEEE 754-2019 `minimum`, `maximum`, section 9.6).
//! - **One source** is copied as it is.
//!
//! A mean is a sum and then [`divide`].

use crate::copy::Stores;
use crate::dtype::{Dtype, Element};
use crate::isa::{Isa, detected};

mod driver;
mod register;

#[cfg(target_arch = "x86_64")]
mod floats;
#[cfg(target_arch = "x86_64")]
mod integers;
#[cfg(test)]
mod tests;

/// How two elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// `a + b`.
    Sum,
    /// `a * b`.
    Product,
    /// The smaller one; NaN where either is NaN.
    Min,
    /// The larger one; NaN where either is NaN.
    Max,
}

impl ReduceOp {
    /// Every operation.
    pub const ALL: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Min, ReduceOp::Max];
}

/// A reduction of one element type by one operation, chosen for this processor once.
///
/// Keep one and call [`Reducer::run`]: on a few elements that takes a few nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Reducer {
    dtype: Dtype,
    op: ReduceOp,
    run: driver::Run,
}

impl Reducer {
    /// The fastest one on this processor.
    pub fn new(dtype: Dtype, op: ReduceOp) -> Self {
        Self::on(detected(), dtype, op)
    }

    /// The one for a given instruction set.
    pub fn on(isa: Isa, dtype: Dtype, op: ReduceOp) -> Self {
        Self { dtype, op, run: driver::choose(isa, dtype, op) }
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The operation.
    pub fn op(&self) -> ReduceOp {
        self.op
    }

    /// Reduces `count` elements of every source into each of `out`.
    ///
    /// No buffer needs any alignment. Streaming stores go to destinations that are aligned to their elements
    /// and, for the second, as far from a multiple of 32 bytes as the first; the others are written through the
    /// cache. The fence of [`Stores::Streaming`] is included.
    ///
    /// # Panics
    ///
    /// If there is no source, or not one or two destinations.
    ///
    /// # Safety
    ///
    /// Each source must be readable and each destination writable for `count` elements of [`Reducer::dtype`].
    /// A destination may be one of the sources; apart from that no destination may overlap another
    /// buffer. No other thread or process may write to a source, or touch a destination, during the call.
    #[inline]
    pub unsafe fn run(&self, sources: &[*const u8], out: &[*mut u8], count: usize, stores: Stores) {
        assert!(!sources.is_empty(), "reduce: there is no source");
        assert!(matches!(out.len(), 1 | 2), "reduce: there must be one destination or two");
        // SAFETY: `choose` gave a function that this processor can run; the rest is the caller's promise.
        unsafe { (self.run)(sources, out, count, stores) }
    }
}

/// [`Reducer::run`] for a single call.
///
/// # Panics
///
/// As [`Reducer::run`].
///
/// # Safety
///
/// As [`Reducer::run`].
pub unsafe fn reduce(dtype: Dtype, op: ReduceOp, sources: &[*const u8], out: &[*mut u8], count: usize, stores: Stores) {
    // SAFETY: the caller's promise is this function's.
    unsafe { Reducer::new(dtype, op).run(sources, out, count, stores) }
}

/// Reduces the sources into `out`, all of the same length.
///
/// # Panics
///
/// If there is no source, or a source has another length than `out`.
pub fn reduce_slices<T: Element>(op: ReduceOp, sources: &[&[T]], out: &mut [T]) {
    reduce_slices_on(detected(), op, sources, out);
}

/// [`reduce_slices`] on a given instruction set.
///
/// # Panics
///
/// As [`reduce_slices`].
pub fn reduce_slices_on<T: Element>(isa: Isa, op: ReduceOp, sources: &[&[T]], out: &mut [T]) {
    let target = out.as_mut_ptr().cast();
    with_pointers(None, sources, out.len(), |sources| {
        // SAFETY: all slices have `out.len()` elements, checked by `with_pointers`. `out` is borrowed exclusively,
        // so it overlaps no source and nobody else touches it; the sources are borrowed, so nobody writes.
        unsafe { Reducer::on(isa, T::DTYPE, op).run(sources, &[target], out.len(), Stores::Cached) }
    });
}

/// Reduces `target` and then the sources into `target`, all of the same length: `target` is the first source.
///
/// # Panics
///
/// If a source has another length than `target`.
pub fn reduce_into<T: Element>(op: ReduceOp, target: &mut [T], sources: &[&[T]]) {
    let pointer: *mut u8 = target.as_mut_ptr().cast();
    with_pointers(Some(pointer), sources, target.len(), |sources| {
        // SAFETY: as in `reduce_slices_on`; the first source is the destination itself, which is allowed.
        unsafe { Reducer::new(T::DTYPE, op).run(sources, &[pointer], target.len(), Stores::Cached) }
    });
}

/// Divides every element by `divisor`: the last step of a mean.
///
/// Floats are rounded once, to nearest with ties to even (`bf16` and `f16` are divided as `f32`, so that a mean of
/// halves is rounded twice, after the sum and here). Integers are rounded towards zero. A NaN result
/// is the one of [`ReduceOp::Sum`].
///
/// # Panics
///
/// If `divisor` is zero, or does not fit the element type: above 127 for `i8`, 255 for `u8`, 2^31 - 1 for `i32`.
///
/// # Safety
///
/// `data` must be readable and writable for `count` elements of `dtype`, and no other thread or process may
/// touch it during the call. No alignment is needed.
pub unsafe fn divide(dtype: Dtype, data: *mut u8, count: usize, divisor: u32) {
    // SAFETY: the caller's promise is this function's.
    unsafe { divide_on(detected(), dtype, data, count, divisor) }
}

/// [`divide`] on a given instruction set.
///
/// # Panics
///
/// As [`divide`].
///
/// # Safety
///
/// As [`divide`].
pub unsafe fn divide_on(isa: Isa, dtype: Dtype, data: *mut u8, count: usize, divisor: u32) {
    let largest = match dtype {
        Dtype::I8 => i8::MAX as u32,
        Dtype::U8 => u32::from(u8::MAX),
        Dtype::I32 => i32::MAX as u32,
        _ => u32::MAX,
    };
    assert!((1..=largest).contains(&divisor), "divide: {divisor} is not a divisor for {dtype:?}");
    // SAFETY: `choose_divide` gave a function that this processor can run; the rest is the caller's promise.
    unsafe { driver::choose_divide(isa, dtype)(data, count, divisor) }
}

/// Divides every element of a slice by `divisor`, as [`divide`] does.
///
/// # Panics
///
/// As [`divide`].
pub fn divide_slice<T: Element>(data: &mut [T], divisor: u32) {
    // SAFETY: the slice is borrowed exclusively.
    unsafe { divide(T::DTYPE, data.as_mut_ptr().cast(), data.len(), divisor) }
}

/// So many pointers fit on the stack; more sources cost an allocation.
const FEW: usize = 16;

/// Calls `run` with the addresses of `first`, if there is one, and of the sources.
fn with_pointers<T: Element>(first: Option<*mut u8>, sources: &[&[T]], len: usize, run: impl FnOnce(&[*const u8])) {
    for source in sources {
        assert_eq!(source.len(), len, "reduce: a source and the destination differ in length");
    }
    let addresses = first.map(|first| first.cast_const()).into_iter();
    let addresses = addresses.chain(sources.iter().map(|source| source.as_ptr().cast::<u8>()));
    let count = usize::from(first.is_some()) + sources.len();
    if count > FEW {
        return run(&addresses.collect::<Vec<_>>());
    }
    let mut few = [std::ptr::null(); FEW];
    for (slot, address) in few.iter_mut().zip(addresses) {
        *slot = address;
    }
    run(&few[..count]);
}
