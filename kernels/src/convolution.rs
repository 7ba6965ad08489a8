//! Convolutions and their gradients, for networks that are so small that a general library spends its time elsewhere.
//!
//! Sixteen samples lie side by side: a buffer is `[channels, height, width]` [`Line`]s, each of them one value of sixteen
//! samples. So every vector is full whatever the size of an image, and a kernel of any width is a run of multiplications
//! of whole lines by single weights. A linear layer is a convolution whose kernel covers its input.
//!
//! What is computed is the correlation that torch calls a convolution: kernels are not mirrored. Strides are 1.
//!
//! # The order
//!
//! Every output is one chain of fused multiply-adds which starts with the bias, or with what the output held, and takes
//! channels, rows and columns of the kernel in this order. A weight's gradient has a chain for each of eight samples,
//! over positions, two samples to a lane; these are added in a fixed tree.

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{Line, Simd, sum_lanes};

/// A convolution's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels in.
    pub from: usize,
    /// Channels out.
    pub to: usize,
    /// Height and width of the input.
    pub image: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Rows and columns of zeros on each side of the input, fewer than the kernel has.
    pub padding: [usize; 2],
}

impl Shape {
    /// A linear layer.
    pub fn linear(from: usize, to: usize) -> Self {
        Self { from: 1, to, image: [1, from], kernel: [1, from], padding: [0, 0] }
    }

    /// Height and width of the output.
    ///
    /// # Panics
    ///
    /// If the kernel is larger than the padded input.
    pub fn output(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = self.image[axis] + 2 * self.padding[axis];
            assert!(padded >= self.kernel[axis], "convolution: the kernel is larger than the image");
            padded + 1 - self.kernel[axis]
        })
    }

    /// The convolution that carries gradients from this one's output to its input.
    pub fn reversed(&self) -> Self {
        let padding = [0, 1].map(|axis| self.kernel[axis] - 1 - self.padding[axis]);
        Self { from: self.to, to: self.from, image: self.output(), kernel: self.kernel, padding }
    }

    /// Lines of the input.
    pub fn inputs(&self) -> usize {
        self.from * self.image[0] * self.image[1]
    }

    /// Lines of the output.
    pub fn outputs(&self) -> usize {
        let [height, width] = self.output();
        self.to * height * width
    }

    /// Weights, without the bias.
    pub fn weights(&self) -> usize {
        self.to * self.from * self.kernel[0] * self.kernel[1]
    }

    /// Outputs that are computed together: whichever leaves fewer places empty.
    fn block(&self) -> usize {
        if self.to.div_ceil(6) * 6 <= self.to.div_ceil(4) * 4 { 6 } else { 4 }
    }
}

/// Weights in the order in which a convolution takes them.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// `[ceil(to / block), from, kernel height, kernel width, block]`; places past the last output are zero.
    weights: Vec<f32>,
}

impl Packed {
    /// Takes over `weight`, `[to, from, kernel height, kernel width]`. Memory is used again.
    ///
    /// # Panics
    ///
    /// If the length differs from the shape's.
    pub fn pack(&mut self, shape: &Shape, weight: &[f32]) {
        assert_eq!(weight.len(), shape.weights(), "convolution: weight is not [to, from, height, width]");
        let (taps, block) = (weight.len() / shape.to, shape.block());
        self.clear(shape.to.div_ceil(block) * taps * block);
        for (output, row) in weight.chunks_exact(taps).enumerate() {
            let place = &mut self.weights[output / block * taps * block + output % block..];
            for (to, value) in place.iter_mut().step_by(block).zip(row) {
                *to = *value;
            }
        }
    }

    /// Takes over `weight` of `shape` for [`Shape::reversed`]: outputs and inputs change places, kernels are mirrored.
    ///
    /// # Panics
    ///
    /// As [`Packed::pack`].
    pub fn pack_reversed(&mut self, shape: &Shape, weight: &[f32]) {
        assert_eq!(weight.len(), shape.weights(), "convolution: weight is not [to, from, height, width]");
        let reversed = shape.reversed();
        let (size, block) = (shape.kernel[0] * shape.kernel[1], reversed.block());
        self.clear(shape.from.div_ceil(block) * shape.to * size * block);
        for (output, row) in weight.chunks_exact(shape.from * size).enumerate() {
            for (input, kernel) in row.chunks_exact(size).enumerate() {
                let first = ((input / block * shape.to + output) * size) * block + input % block;
                for (to, value) in self.weights[first..].iter_mut().step_by(block).zip(kernel.iter().rev()) {
                    *to = *value;
                }
            }
        }
    }

    fn clear(&mut self, length: usize) {
        self.weights.clear();
        self.weights.resize(length, 0.0);
    }
}

/// What an output begins with.
#[derive(Clone, Copy, Debug)]
pub enum Begin<'a> {
    /// Zero.
    Zero,
    /// Its channel's value, `[to]`.
    Bias(&'a [f32]),
    /// What it holds.
    Held,
}

/// `y = begin + x * weights`. `x` is `[from, height, width]` lines, `y` `[to, output height, output width]`.
///
/// # Panics
///
/// If a length differs from the shape's.
pub fn convolve(shape: &Shape, x: &[Line], weights: &Packed, begin: Begin<'_>, y: &mut [Line]) {
    convolve_on(detected(), shape, x, weights, begin, y);
}

/// [`convolve`] on a given instruction set.
///
/// # Panics
///
/// As [`convolve`].
pub fn convolve_on(isa: Isa, shape: &Shape, x: &[Line], weights: &Packed, begin: Begin<'_>, y: &mut [Line]) {
    let taps = shape.weights() / shape.to;
    assert_eq!(x.len(), shape.inputs(), "convolution: x is not [from, height, width]");
    assert_eq!(y.len(), shape.outputs(), "convolution: y is not [to, height, width]");
    let packed = shape.to.div_ceil(shape.block()) * shape.block() * taps;
    assert_eq!(weights.weights.len(), packed, "convolution: the weights are of another shape");
    if let Begin::Bias(bias) = begin {
        assert_eq!(bias.len(), shape.to, "convolution: bias is not [to]");
    }
    isa.run(Convolve { shape: *shape, x, weights: &weights.weights, begin, y });
}

struct Convolve<'a> {
    shape: Shape,
    x: &'a [Line],
    weights: &'a [f32],
    begin: Begin<'a>,
    y: &'a mut [Line],
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.shape.block() {
            6 => self.blocks::<S, 6>(simd),
            _ => self.blocks::<S, 4>(simd),
        }
    }
}

impl Convolve<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const B: usize>(&mut self, simd: S) {
        let shape = self.shape;
        let [height, width] = shape.output();
        let ([rows, columns], [tall, wide]) = (shape.image, shape.kernel);
        let (weights, _) = self.weights.as_chunks::<B>();
        for (block, weights) in weights.chunks_exact(shape.from * tall * wide).enumerate() {
            let outputs = B.min(shape.to - block * B);
            for row in 0..height {
                // The kernel's rows that meet the image, then its columns.
                let first_row = shape.padding[0].saturating_sub(row);
                let last_row = tall.min(rows + shape.padding[0] - row);
                for column in 0..width {
                    let first = shape.padding[1].saturating_sub(column);
                    let run = wide.min(columns + shape.padding[1] - column) - first;
                    let place = |output: usize| ((block * B + output) * height + row) * width + column;
                    let mut sums = [[simd.splat(0.0); 2]; B];
                    for (output, sum) in sums.iter_mut().enumerate().take(outputs) {
                        match self.begin {
                            Begin::Zero => {}
                            Begin::Bias(bias) => *sum = [simd.splat(bias[block * B + output]); 2],
                            Begin::Held => {
                                let held = &self.y[place(output)].0;
                                *sum = [simd.load(&held[0]), simd.load(&held[1])];
                            }
                        }
                    }
                    for channel in 0..shape.from {
                        for tap_row in first_row..last_row {
                            let image_row = channel * rows + row + tap_row - shape.padding[0];
                            let x = &self.x[image_row * columns + column + first - shape.padding[1]..][..run];
                            let weights = &weights[(channel * tall + tap_row) * wide + first..][..run];
                            for (x, weights) in x.iter().zip(weights) {
                                let x = [simd.load(&x.0[0]), simd.load(&x.0[1])];
                                for (sum, weight) in sums.iter_mut().zip(weights) {
                                    let weight = simd.splat(*weight);
                                    sum[0] = simd.mul_add(x[0], weight, sum[0]);
                                    sum[1] = simd.mul_add(x[1], weight, sum[1]);
                                }
                            }
                        }
                    }
                    for (output, sum) in sums.iter().enumerate().take(outputs) {
                        let to = &mut self.y[place(output)].0;
                        simd.store(sum[0], &mut to[0]);
                        simd.store(sum[1], &mut to[1]);
                    }
                }
            }
        }
    }
}

/// `gradient += x * dy`: the gradient of the weights, `[to, from, kernel height, kernel width]`, of a convolution without
/// padding (pad `x` with [`pad`] first), summed over the sixteen samples.
///
/// # Panics
///
/// If a length differs from the shape's, or the shape has padding.
pub fn weight_gradient(shape: &Shape, x: &[Line], dy: &[Line], gradient: &mut [f32]) {
    weight_gradient_on(detected(), shape, x, dy, gradient);
}

/// [`weight_gradient`] on a given instruction set.
///
/// # Panics
///
/// As [`weight_gradient`].
pub fn weight_gradient_on(isa: Isa, shape: &Shape, x: &[Line], dy: &[Line], gradient: &mut [f32]) {
    assert_eq!(shape.padding, [0, 0], "convolution: the gradient is of an input that holds its padding");
    assert_eq!(x.len(), shape.inputs(), "convolution: x is not [from, height, width]");
    assert_eq!(dy.len(), shape.outputs(), "convolution: dy is not [to, height, width]");
    assert_eq!(gradient.len(), shape.weights(), "convolution: gradient is not [to, from, height, width]");
    isa.run(Gradient { shape: *shape, x, dy, gradient });
}

struct Gradient<'a> {
    shape: Shape,
    x: &'a [Line],
    dy: &'a [Line],
    gradient: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        if self.shape.output() == [1, 1] {
            return self.products(simd);
        }
        let whole = self.shape.to / 4 * 4;
        for output in (0..whole).step_by(4) {
            self.outputs::<S, 4>(simd, output);
        }
        let mut output = whole;
        if self.shape.to - output >= 2 {
            self.outputs::<S, 2>(simd, output);
            output += 2;
        }
        if output < self.shape.to {
            self.outputs::<S, 1>(simd, output);
        }
    }
}

impl Gradient<'_> {
    #[inline(always)]
    fn outputs<S: Simd, const O: usize>(&mut self, simd: S, output: usize) {
        for channel in 0..self.shape.from {
            for row in 0..self.shape.kernel[0] {
                let mut column = 0;
                while column + 3 <= self.shape.kernel[1] {
                    self.block::<S, O, 3>(simd, [output, channel, row, column]);
                    column += 3;
                }
                match self.shape.kernel[1] - column {
                    1 => self.block::<S, O, 1>(simd, [output, channel, row, column]),
                    2 => self.block::<S, O, 2>(simd, [output, channel, row, column]),
                    _ => {}
                }
            }
        }
    }

    /// `O` outputs by `T` columns of a kernel's row, held in registers while the positions go by.
    #[inline(always)]
    fn block<S: Simd, const O: usize, const T: usize>(&mut self, simd: S, at: [usize; 4]) {
        let [output, channel, tap_row, tap_column] = at;
        let ([rows, columns], [tall, wide]) = (self.shape.image, self.shape.kernel);
        let [height, width] = self.shape.output();
        let mut sums = [[simd.splat(0.0); T]; O];
        for row in 0..height {
            let x = &self.x[(channel * rows + row + tap_row) * columns + tap_column..][..width + T - 1];
            let mut dy: [&[Line]; O] = [&[]; O];
            for (o, slot) in dy.iter_mut().enumerate() {
                *slot = &self.dy[((output + o) * height + row) * width..][..width];
            }
            for (column, x) in x.windows(T).enumerate() {
                for half in 0..2 {
                    for (sums, dy) in sums.iter_mut().zip(&dy) {
                        let dy = simd.load(&dy[column].0[half]);
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = simd.mul_add(simd.load(&x.0[half]), dy, *sum);
                        }
                    }
                }
            }
        }
        for (o, sums) in sums.iter().enumerate() {
            for (t, sum) in sums.iter().enumerate() {
                let place = (((output + o) * self.shape.from + channel) * tall + tap_row) * wide + tap_column + t;
                self.gradient[place] += sum_lanes(simd, *sum);
            }
        }
    }

    /// Where the output is a single position, as that of a linear layer: one product for each pair of an output and an
    /// input, so samples become the inner dimension and inputs lie side by side.
    #[inline(always)]
    fn products<S: Simd>(&mut self, simd: S) {
        let inputs = self.x.len();
        for (group, x) in self.x.chunks(Line::WIDTH).enumerate() {
            // `[samples, inputs]`
            let mut turned = [Line::ZERO; Line::WIDTH];
            for (input, line) in x.iter().enumerate() {
                for (sample, to) in turned.iter_mut().enumerate() {
                    to.set(input, line.0[sample / 8][sample % 8]);
                }
            }
            let (first, width) = (group * Line::WIDTH, x.len());
            for (four, dy) in self.dy.chunks(4).enumerate() {
                let mut sums = [[simd.splat(0.0); 2]; 4];
                for (sample, x) in turned.iter().enumerate() {
                    let x = [simd.load(&x.0[0]), simd.load(&x.0[1])];
                    for (sum, dy) in sums.iter_mut().zip(dy) {
                        let dy = simd.splat(dy.0[sample / 8][sample % 8]);
                        sum[0] = simd.mul_add(x[0], dy, sum[0]);
                        sum[1] = simd.mul_add(x[1], dy, sum[1]);
                    }
                }
                for (o, sum) in sums.iter().enumerate().take(dy.len()) {
                    let to = &mut self.gradient[(four * 4 + o) * inputs + first..][..width];
                    if let Some((to, [])) = to.split_first_chunk_mut::<16>() {
                        let (low, high) = to.split_at_mut(8);
                        for (half, sum) in [low, high].into_iter().zip(sum) {
                            if let Some(half) = half.first_chunk_mut() {
                                simd.store(simd.add(simd.load(half), *sum), half);
                            }
                        }
                    } else {
                        let mut line = Line::ZERO;
                        simd.store(sum[0], &mut line.0[0]);
                        simd.store(sum[1], &mut line.0[1]);
                        for (to, value) in to.iter_mut().zip(line.0.as_flattened()) {
                            *to += value;
                        }
                    }
                }
            }
        }
    }
}

/// Copies `[channels, height, width]` into the middle of `[channels, height + 2 rows, width + 2 columns]`, whose edges
/// become zero.
///
/// # Panics
///
/// If a length does not fit.
pub fn pad(x: &[Line], image: [usize; 2], padding: [usize; 2], to: &mut [Line]) {
    let [height, width] = image;
    let [tall, wide] = [height + 2 * padding[0], width + 2 * padding[1]];
    assert!(height * width > 0, "convolution: an image has no pixels");
    let channels = x.len() / (height * width);
    assert_eq!(x.len(), channels * height * width, "convolution: x is not [channels, height, width]");
    assert_eq!(to.len(), channels * tall * wide, "convolution: the padded copy has another size");
    to.fill(Line::ZERO);
    for (number, row) in x.chunks_exact(width).enumerate() {
        let (channel, row_of) = (number / height, number % height);
        let first = (channel * tall + row_of + padding[0]) * wide + padding[1];
        to[first..first + width].copy_from_slice(row);
    }
}

#[cfg(test)]
#[path = "convolution/tests.rs"]
mod tests;
