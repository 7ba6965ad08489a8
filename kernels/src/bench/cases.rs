//! The kernels that are measured, each with its buffers.

use std::hint::black_box;
use std::ops::Range;

use super::Case;
use crate::copy::Stores;
use crate::dtype::{Bf16, Element, F16};
use crate::fused::{Quantised, reduce_quantised};
use crate::norms::sum_of_squares;
use crate::outer::{self, Rule, State, mean_step};
use crate::quantise::{Format, Scheme, dequantise, quantise};
use crate::reduce::{ReduceOp, Reducer, divide_slice};
use crate::robust::{median, trimmed_mean};
use crate::sparsify::top_k;

/// Every case, made when its turn comes: their buffers do not fit memory together.
pub(super) const ALL: [fn(usize) -> Box<dyn Case>; 19] = [
    |count| Box::new(Reduce::new("reduce 2 x f32", 2, 1.0f32, Stores::Streaming, count)),
    |count| Box::new(Reduce::new("reduce 2 x f32, cached stores", 2, 1.0f32, Stores::Cached, count)),
    |count| Box::new(Reduce::new("reduce 4 x f32", 4, 1.0f32, Stores::Streaming, count)),
    |count| Box::new(Reduce::new("reduce 2 x bf16", 2, Bf16(0x3f80), Stores::Streaming, count)),
    |count| Box::new(Reduce::new("reduce 2 x f16", 2, F16(0x3c00), Stores::Streaming, count)),
    |count| Box::new(Quantise::new("quantise f32 to int8", Format::Int8, count)),
    |count| Box::new(Quantise::new("quantise f32 to int4", Format::Int4, count)),
    |count| Box::new(Quantise::new("quantise f32 to sign", Format::Sign, count)),
    |count| Box::new(Quantise::new("quantise f32 to e4m3", Format::E4m3, count)),
    |count| Box::new(Requantise::new("dequantise 2 x int8, reduce, quantise", Format::Int8, 2, count)),
    |count| Box::new(Requantise::new("dequantise 4 x int8, reduce, quantise", Format::Int8, 4, count)),
    |count| Box::new(Requantise::new("dequantise 8 x int8, reduce, quantise", Format::Int8, 8, count)),
    |count| Box::new(Requantise::new("dequantise 4 x e4m3, reduce, quantise", Format::E4m3, 4, count)),
    |count| Box::new(MeanStep::new("mean of 4 x f32, Nesterov step", NESTEROV, count)),
    |count| Box::new(MeanStep::new("mean of 4 x f32, AdamW step", ADAMW, count)),
    |count| Box::new(One::new("sum of squares f32", 1, count, |x, _| _ = black_box(sum_of_squares(x[0])))),
    |count| Box::new(One::new("median of 5 x f32", 5, count, median)),
    |count| Box::new(One::new("trimmed mean of 16 x f32", 16, count, |x, out| trimmed_mean(x, 4, out))),
    |count| Box::new(TopK::new("largest hundredth of f32, with residual", count)),
];

const NESTEROV: Rule = Rule::Sgd { momentum: 0.9, nesterov: true };
const ADAMW: Rule = Rule::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, bias_correction: true };

/// Elements of a block.
pub(super) const BLOCK: usize = 1024;

const F32: usize = size_of::<f32>();

/// Values from -0.5 to 0.5 in no order that a kernel could profit from.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mixed = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9) >> 8;
    (0..count).map(|i| mixed(i as u32) as f32 / (1 << 24) as f32 - 0.5).collect()
}

/// The same window of every vector.
fn windows<'a, T>(owned: &'a [Vec<T>], window: &Range<usize>) -> Vec<&'a [T]> {
    owned.iter().map(|x| &x[window.clone()]).collect()
}

/// The sum of the sources, with the stores that suit large buffers.
fn sum<T: Element>(sources: &[&[T]], out: &mut [T], stores: Stores) {
    let addresses: Vec<*const u8> = sources.iter().map(|source| source.as_ptr().cast()).collect();
    assert!(sources.iter().all(|source| source.len() == out.len()));
    let reducer = Reducer::new(T::DTYPE, ReduceOp::Sum);
    // SAFETY: the lengths are equal; `out` is borrowed exclusively, the sources are borrowed.
    unsafe { reducer.run(&addresses, &[out.as_mut_ptr().cast()], out.len(), stores) };
}

struct Reduce<T> {
    what: &'static str,
    sources: Vec<Vec<T>>,
    out: Vec<T>,
    stores: Stores,
}

impl<T: Element> Reduce<T> {
    fn new(what: &'static str, n: usize, value: T, stores: Stores, count: usize) -> Self {
        Self { what, sources: vec![vec![value; count]; n], out: vec![value; count], stores }
    }
}

impl<T: Element> Case for Reduce<T> {
    fn what(&self) -> String {
        self.what.into()
    }

    fn bytes(&self, elements: usize) -> usize {
        (self.sources.len() + 1) * elements * size_of::<T>()
    }

    fn run(&mut self, window: Range<usize>) {
        let sources = windows(&self.sources, &window);
        sum(black_box(&sources), black_box(&mut self.out[window]), self.stores);
    }
}

struct Quantise {
    what: &'static str,
    scheme: Scheme,
    x: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

fn scheme(format: Format) -> Scheme {
    Scheme::new(format, BLOCK).unwrap_or_else(|| unreachable!("the block is a multiple of 64"))
}

fn quantised_bytes(scheme: Scheme, elements: usize) -> usize {
    scheme.code_bytes(elements) + F32 * scheme.blocks(elements)
}

/// Where the codes and scales of a window are.
fn places(scheme: Scheme, window: &Range<usize>) -> (Range<usize>, Range<usize>) {
    let Range { start, end } = *window;
    (scheme.code_bytes(start)..scheme.code_bytes(end), scheme.blocks(start)..scheme.blocks(end))
}

impl Quantise {
    fn new(what: &'static str, format: Format, count: usize) -> Self {
        let scheme = scheme(format);
        let (codes, scales) = (vec![1; scheme.code_bytes(count)], vec![1.0; scheme.blocks(count)]);
        Self { what, scheme, x: values(count, 0), codes, scales }
    }
}

impl Case for Quantise {
    fn what(&self) -> String {
        self.what.into()
    }

    fn bytes(&self, elements: usize) -> usize {
        F32 * elements + quantised_bytes(self.scheme, elements)
    }

    fn run(&mut self, window: Range<usize>) {
        let (codes, scales) = places(self.scheme, &window);
        let (codes, scales) = (&mut self.codes[codes], &mut self.scales[scales]);
        quantise(self.scheme, black_box(&self.x[window]), codes, scales);
    }
}

struct Requantise {
    what: &'static str,
    scheme: Scheme,
    sources: Vec<(Vec<u8>, Vec<f32>)>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// Of the unfused steps.
    wide: Vec<Vec<f32>>,
    sum: Vec<f32>,
}

impl Requantise {
    fn new(what: &'static str, format: Format, n: usize, count: usize) -> Self {
        let scheme = scheme(format);
        let sources = (0..n).map(|seed| {
            let (mut codes, mut scales) = (vec![0; scheme.code_bytes(count)], vec![0.0; scheme.blocks(count)]);
            quantise(scheme, &values(count, seed as u32), &mut codes, &mut scales);
            (codes, scales)
        });
        let sources: Vec<_> = sources.collect();
        let (codes, scales) = sources[0].clone();
        let wide = vec![vec![1.0; count]; n];
        Self { what, scheme, sources, codes, scales, wide, sum: vec![1.0; count] }
    }
}

impl Case for Requantise {
    fn what(&self) -> String {
        self.what.into()
    }

    fn bytes(&self, elements: usize) -> usize {
        (self.sources.len() + 1) * quantised_bytes(self.scheme, elements)
    }

    fn run(&mut self, window: Range<usize>) {
        let (codes, scales) = places(self.scheme, &window);
        let sources: Vec<Quantised<'_>> = black_box(&self.sources)
            .iter()
            .map(|(c, s)| Quantised { codes: &c[codes.clone()], scales: &s[scales.clone()] })
            .collect();
        let (codes, scales) = (&mut self.codes[codes], &mut self.scales[scales]);
        reduce_quantised(self.scheme, window.len(), &sources, 1, codes, scales);
    }

    fn steps(&self) -> usize {
        self.sources.len() + 2
    }

    fn unfused_bytes(&self, elements: usize) -> usize {
        // Every source is written as `f32` and read again, and so is the sum.
        self.bytes(elements) + 2 * (self.sources.len() + 1) * F32 * elements
    }

    fn run_step(&mut self, step: usize, window: Range<usize>) {
        let (codes, scales) = places(self.scheme, &window);
        let total = &mut self.sum[window.clone()];
        if let Some((c, s)) = self.sources.get(step) {
            dequantise(self.scheme, black_box(&c[codes]), &s[scales], &mut self.wide[step][window]);
        } else if step == self.sources.len() {
            sum(black_box(&windows(&self.wide, &window)), total, Stores::Streaming);
        } else {
            quantise(self.scheme, black_box(total), &mut self.codes[codes], &mut self.scales[scales]);
        }
    }
}

struct MeanStep {
    what: &'static str,
    rule: Rule,
    sources: Vec<Vec<f32>>,
    parameters: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Of the unfused steps.
    mean: Vec<f32>,
}

impl MeanStep {
    fn new(what: &'static str, rule: Rule, count: usize) -> Self {
        let sources = (0..4).map(|seed| values(count, seed)).collect();
        let second = vec![1.0; if rule.has_second() { count } else { 0 }];
        let (parameters, first, mean) = (vec![1.0; count], vec![1.0; count], vec![1.0; count]);
        Self { what, rule, sources, parameters, first, second, mean }
    }
}

impl Case for MeanStep {
    fn what(&self) -> String {
        self.what.into()
    }

    fn bytes(&self, elements: usize) -> usize {
        // The parameters and the state are read and written.
        let states = if self.rule.has_second() { 2 } else { 1 };
        F32 * elements * (self.sources.len() + 2 * (1 + states))
    }

    fn run(&mut self, window: Range<usize>) {
        let sources = windows(&self.sources, &window);
        let second = if self.rule.has_second() { &mut self.second[window.clone()] } else { &mut [] };
        let state = State { first: &mut self.first[window.clone()], second };
        mean_step(self.rule, 0.1, 10, black_box(&sources), 4, &mut self.parameters[window], state);
    }

    fn steps(&self) -> usize {
        3
    }

    fn unfused_bytes(&self, elements: usize) -> usize {
        // The sum is written, read and written by the division, and read by the step.
        self.bytes(elements) + 4 * F32 * elements
    }

    fn run_step(&mut self, step: usize, window: Range<usize>) {
        let mean = black_box(&mut self.mean[window.clone()]);
        if step == 0 {
            sum(&windows(&self.sources, &window), mean, Stores::Streaming);
        } else if step == 1 {
            divide_slice(mean, 4);
        } else {
            let second = if self.rule.has_second() { &mut self.second[window.clone()] } else { &mut [] };
            let state = State { first: &mut self.first[window.clone()], second };
            outer::step(self.rule, 0.1, 10, mean, &mut self.parameters[window], state);
        }
    }
}

/// Some vectors, and what is made of them.
struct One {
    what: &'static str,
    x: Vec<Vec<f32>>,
    out: Vec<f32>,
    run: fn(&[&[f32]], &mut [f32]),
}

impl One {
    /// A single vector is only read.
    fn new(what: &'static str, n: usize, count: usize, run: fn(&[&[f32]], &mut [f32])) -> Self {
        let x = (0..n).map(|seed| values(count, seed as u32)).collect();
        Self { what, x, out: vec![1.0; if n > 1 { count } else { 0 }], run }
    }
}

impl Case for One {
    fn what(&self) -> String {
        self.what.into()
    }

    fn bytes(&self, elements: usize) -> usize {
        F32 * elements * (self.x.len() + usize::from(!self.out.is_empty()))
    }

    fn run(&mut self, window: Range<usize>) {
        let x = windows(&self.x, &window);
        let out = if self.out.is_empty() { &mut [] } else { &mut self.out[window] };
        (self.run)(black_box(&x), black_box(out));
    }
}

struct TopK {
    what: &'static str,
    gradient: Vec<f32>,
    residual: Vec<f32>,
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl TopK {
    fn new(what: &'static str, count: usize) -> Self {
        let k = count / 100;
        let (indices, taken) = (vec![0; k], vec![0.0; k]);
        Self { what, gradient: values(count, 1), residual: values(count, 2), indices, values: taken }
    }
}

impl Case for TopK {
    fn what(&self) -> String {
        self.what.into()
    }

    fn bytes(&self, elements: usize) -> usize {
        // The gradient is read once; the residual is read and written, and read three times more.
        F32 * (6 * elements + 2 * (elements / 100))
    }

    fn run(&mut self, window: Range<usize>) {
        let k = window.len() / 100;
        let (indices, values) = (&mut self.indices[..k], &mut self.values[..k]);
        top_k(black_box(&self.gradient[window.clone()]), &mut self.residual[window], indices, values);
    }
}
