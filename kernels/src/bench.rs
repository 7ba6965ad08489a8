//! How fast the kernels for collectives are, next to a copy of the same memory, and what fusing them saves.
//!
//! A flat-buffer kernel that is well made is limited by memory, so that its measure is a copy. Every kernel is measured
//! in turns with copies, and with the unfused steps where it has some; each number is the median.
//!
//! Buffers are far larger than the last-level cache, and a call works on one window of them, so that it takes far less
//! than a millisecond: on a busy machine most calls then are not interrupted. Before a window's turn comes again, all
//! others had theirs, so that its memory is not in the cache. Unfused steps are measured one by one, each on another
//! part of the buffers, for the same reason: with whole buffers, a step does not find in the cache what the one before
//! it wrote. What a call leaves unwritten in the cache is written at the expense of what follows: that favours
//! kernels that write much, and so the unfused steps.
//!
//! Bytes are those that a kernel reads and writes according to its signature: a copy of `n` bytes moves `2 n`.
//!
//! This is the only module that reads a clock.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use crate::copy::{Stores, copy};
use crate::dtype::Dtype;
use crate::reduce::{ReduceOp, Reducer};

mod cases;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Elements of every buffer: far more than the bytes of the last-level cache, since codes have a byte each.
    pub elements: usize,
    /// Elements that one call works on.
    pub window: usize,
    /// How often every window is worked on.
    pub rounds: usize,
}

impl Default for Options {
    /// Buffers of 64 MiB of codes, 256 MiB of `f32`; at most 4 GiB at a time.
    fn default() -> Self {
        Self { elements: 1 << 26, window: 1 << 18, rounds: 2 }
    }
}

/// One kernel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Row {
    /// The kernel and its sources.
    pub what: String,
    /// Bytes that a call on one window moves.
    pub bytes: usize,
    /// The rate of the kernel.
    pub bytes_per_s: f64,
    /// The rate of the faster one of both kinds of copy, measured in turns with the kernel.
    pub copy_bytes_per_s: f64,
    /// The steps that the kernel replaces, if it is a fused one.
    pub unfused: Option<Unfused>,
    /// Half the distance between the kernel's quartiles of time, as a share of the median.
    pub spread: f64,
}

/// What a fused kernel is compared with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Unfused {
    /// Bytes that all steps move.
    pub bytes: usize,
    /// Their rate.
    pub bytes_per_s: f64,
    /// Their time, the sum of each one's median, by that of the fused kernel.
    pub speed_up: f64,
    /// Their bytes by those of the fused kernel: the speed-up where memory alone counts.
    pub allowed: f64,
    /// As [`Row::spread`], the largest of the steps.
    pub spread: f64,
}

impl Unfused {
    /// The speed-up as a share of what the bytes allow.
    pub fn share(&self) -> f64 {
        self.speed_up / self.allowed
    }
}

/// A reduction of a few elements.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Latency {
    /// The element type.
    pub dtype: Dtype,
    /// Sources.
    pub sources: usize,
    /// Elements of each.
    pub elements: usize,
    /// Time of a call, in nanoseconds.
    pub nanoseconds: f64,
}

/// One kernel, with the memory it needs.
trait Case {
    fn what(&self) -> String;
    /// Bytes that [`Case::run`] moves for so many elements.
    fn bytes(&self, elements: usize) -> usize;
    /// Works on a window, which starts at a multiple of [`cases::BLOCK`].
    fn run(&mut self, window: Range<usize>);
    /// How many steps the kernel replaces.
    fn steps(&self) -> usize {
        0
    }
    /// Bytes that all steps move for so many elements.
    fn unfused_bytes(&self, _elements: usize) -> usize {
        0
    }
    /// One of the steps.
    fn run_step(&mut self, _step: usize, _window: Range<usize>) {}
}

/// Measures every kernel; calls `each` as soon as one is done.
///
/// # Panics
///
/// If there are no rounds, or less than one window, or the window is not a multiple of 1024.
pub fn measure(options: Options, mut each: impl FnMut(&Row)) -> Vec<Row> {
    let Options { elements, window, rounds } = options;
    assert!(rounds > 0 && elements >= window, "measure: there is nothing to do");
    assert!(window > 0 && window.is_multiple_of(cases::BLOCK), "measure: the window is not a multiple of 1024");
    let mut copies = Copies { source: vec![1.0; elements], target: vec![2.0; elements] };
    let mut rows = Vec::new();
    for make in cases::ALL {
        let row = measure_case(make(elements).as_mut(), options, &mut copies);
        each(&row);
        rows.push(row);
    }
    rows
}

/// What is copied for comparison.
struct Copies {
    source: Vec<f32>,
    target: Vec<f32>,
}

impl Copies {
    fn run(&mut self, window: Range<usize>, stores: Stores) {
        let (source, target) = (black_box(&self.source[window.clone()]), black_box(&mut self.target[window]));
        let bytes = size_of_val(source);
        // SAFETY: both slices have as many bytes; they are borrowed, one of them exclusively, so they are distinct.
        unsafe { copy(target.as_mut_ptr().cast(), source.as_ptr().cast(), bytes, stores) };
    }
}

fn measure_case(case: &mut dyn Case, options: Options, copies: &mut Copies) -> Row {
    let Options { elements, window, rounds } = options;
    let windows = elements / window;
    let place = |i: usize| (i % windows) * window..(i % windows + 1) * window;
    let [mut cached, mut streamed, mut fused] = [const { Vec::new() }; 3];
    let mut unfused = vec![Vec::new(); case.steps()];
    for i in 0..rounds * windows {
        cached.push(seconds(|| copies.run(place(i), Stores::Cached)));
        streamed.push(seconds(|| copies.run(place(i + windows / 2), Stores::Streaming)));
        fused.push(seconds(|| case.run(place(i))));
        for (step, times) in unfused.iter_mut().enumerate() {
            let apart = (step + 1) * windows / (case.steps() + 1);
            times.push(seconds(|| case.run_step(step, place(i + apart))));
        }
    }
    let (time, spread) = median_and_spread(fused);
    let copied = median_and_spread(cached).0.min(median_and_spread(streamed).0);
    let bytes = case.bytes(window);
    let unfused = (case.steps() > 0).then(|| {
        let steps = unfused.into_iter().map(median_and_spread);
        let (unfused_time, spread) =
            steps.fold((0.0, 0.0f64), |(sum, largest), (time, spread)| (sum + time, largest.max(spread)));
        let unfused_bytes = case.unfused_bytes(window);
        Unfused {
            bytes: unfused_bytes,
            bytes_per_s: unfused_bytes as f64 / unfused_time,
            speed_up: unfused_time / time,
            allowed: unfused_bytes as f64 / bytes as f64,
            spread,
        }
    });
    Row {
        what: case.what(),
        bytes,
        bytes_per_s: bytes as f64 / time,
        copy_bytes_per_s: (2 * window * size_of::<f32>()) as f64 / copied,
        unfused,
        spread,
    }
}

/// Measures reductions by sum of a few elements, in the nearest cache.
pub fn latencies() -> Vec<Latency> {
    const CALLS: u32 = 20_000;
    let mut latencies = Vec::new();
    for (dtype, sources) in [(Dtype::F32, 2), (Dtype::Bf16, 2), (Dtype::F16, 2), (Dtype::F32, 4)] {
        let reducer = Reducer::new(dtype, ReduceOp::Sum);
        for elements in [1, 2, 4, 8, 15, 16, 64, 256] {
            let buffers = vec![vec![0u8; elements * dtype.size()]; sources];
            let mut out = buffers[0].clone();
            let addresses: Vec<*const u8> = buffers.iter().map(|buffer| buffer.as_ptr()).collect();
            let out = [out.as_mut_ptr()];
            let times = (0..31).map(|_| {
                seconds(|| {
                    for _ in 0..CALLS {
                        let (addresses, out) = (black_box(&addresses[..]), black_box(&out[..]));
                        // SAFETY: every buffer has that many elements, and they are distinct.
                        unsafe { reducer.run(addresses, out, black_box(elements), Stores::Cached) };
                    }
                })
            });
            let nanoseconds = median_and_spread(times.collect()).0 / f64::from(CALLS) * 1e9;
            latencies.push(Latency { dtype, sources, elements, nanoseconds });
        }
    }
    latencies
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The median, and half the distance between the quartiles as a share of it.
fn median_and_spread(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |quarter: usize| times[(times.len() - 1) * quarter / 4];
    (at(2), (at(3) - at(1)) / 2.0 / at(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_by_hand() {
        assert_eq!(median_and_spread(vec![5.0, 1.0, 2.0, 4.0, 3.0]), (3.0, 1.0 / 3.0));
        assert_eq!(median_and_spread((1..=9).rev().map(f64::from).collect()), (5.0, 2.0 / 5.0));
        assert_eq!(median_and_spread(vec![7.0]), (7.0, 0.0));
    }

    #[test]
    fn every_case_runs_and_says_what_it_moves() {
        let mut told = 0;
        let rows = measure(Options { elements: 5_000, window: 2_048, rounds: 2 }, |_| told += 1);
        assert_eq!(rows.len(), told);
        let row = |what: &str| rows.iter().find(|row| row.what == what).unwrap();
        assert_eq!(row("reduce 2 x f32").bytes, 3 * 2_048 * 4);
        assert_eq!(row("reduce 2 x bf16").bytes, 3 * 2_048 * 2);
        let fused = row("dequantise 4 x int8, reduce, quantise");
        // Five buffers of codes with a scale for every 1024, and without fusing nine times as much.
        assert_eq!(fused.bytes, 5 * (2_048 + 2 * 4));
        let unfused = fused.unfused.unwrap();
        assert_eq!(unfused.bytes, 5 * (2_048 + 2 * 4) + (4 + 4 + 1 + 1) * 2_048 * 4);
        assert!((unfused.share() - unfused.speed_up / unfused.allowed).abs() < 1e-12);
        for row in &rows {
            assert!(row.bytes_per_s > 0.0 && row.copy_bytes_per_s > 0.0, "{row:?}");
        }
        assert!(latencies().iter().all(|latency| latency.nanoseconds > 0.0));
    }
}
