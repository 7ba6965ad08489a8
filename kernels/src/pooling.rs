//! Rectification, pooling and the loss of a classifier, on [`Line`]s: sixteen samples side by side, as in
//! [`convolution`](crate::convolution).

use crate::exp::exp;
use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Line, Simd};

/// `x = max(x, 0)`; NaN stays.
pub fn rectify(x: &mut [Line]) {
    detected().run(Rectify(x));
}

struct Rectify<'a>(&'a mut [Line]);

impl Kernel for Rectify<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let zero = simd.splat(0.0);
        for half in self.0.iter_mut().flat_map(|line| &mut line.0) {
            simd.store(simd.max(zero, simd.load(half)), half);
        }
    }
}

/// What [`rectify`] does to a gradient: zero where its output `y` is not above zero.
///
/// # Panics
///
/// If the lengths differ.
pub fn rectify_back(y: &[Line], gradient: &mut [Line]) {
    assert_eq!(y.len(), gradient.len(), "rectify: y and gradient differ in length");
    detected().run(RectifyBack { y, gradient });
}

struct RectifyBack<'a> {
    y: &'a [Line],
    gradient: &'a mut [Line],
}

impl Kernel for RectifyBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let zero = simd.splat(0.0);
        for (y, gradient) in self.y.iter().zip(self.gradient) {
            for (y, gradient) in y.0.iter().zip(&mut gradient.0) {
                let above = simd.greater(simd.load(y), zero);
                simd.store(simd.floats(simd.and(above, simd.bits(simd.load(gradient)))), gradient);
            }
        }
    }
}

/// The largest of each 2 by 2: `x` is `[channels, height, width]`, `y` `[channels, height / 2, width / 2]` (an odd last row
/// or column is left out), and `which`, of `y`'s shape, says which of the four it was, the first of equals, counted along
/// rows.
///
/// # Panics
///
/// If a length does not fit.
pub fn max_pool(x: &[Line], image: [usize; 2], y: &mut [Line], which: &mut [[u8; 16]]) {
    let [tall, wide] = sizes(x.len(), image, y.len(), which.len());
    let [height, width] = image;
    detected().run(MaxPool { x, height, width, tall, wide, y, which });
}

fn sizes(x: usize, [height, width]: [usize; 2], y: usize, which: usize) -> [usize; 2] {
    assert!(height >= 2 && width >= 2, "pool: the image is smaller than 2 by 2");
    let channels = x / (height * width);
    let [tall, wide] = [height / 2, width / 2];
    assert_eq!(x, channels * height * width, "pool: x is not [channels, height, width]");
    assert_eq!(y, channels * tall * wide, "pool: y is not [channels, height / 2, width / 2]");
    assert_eq!(which, y, "pool: which and y differ in length");
    [tall, wide]
}

struct MaxPool<'a> {
    x: &'a [Line],
    height: usize,
    width: usize,
    tall: usize,
    wide: usize,
    y: &'a mut [Line],
    which: &'a mut [[u8; 16]],
}

impl Kernel for MaxPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.y.chunks_exact_mut(self.wide).zip(self.which.chunks_exact_mut(self.wide));
        for (number, (y, which)) in rows.enumerate() {
            let first = (number / self.tall * self.height + number % self.tall * 2) * self.width;
            let upper = &self.x[first..][..2 * self.wide];
            let lower = &self.x[first + self.width..][..2 * self.wide];
            let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2));
            for ((upper, lower), (y, which)) in pairs.zip(y.iter_mut().zip(which)) {
                let (low, high) = which.split_at_mut(LANES);
                for (half, which) in [low, high].into_iter().enumerate() {
                    let four = [&upper[0], &upper[1], &lower[0], &lower[1]];
                    let mut best = simd.load(&four[0].0[half]);
                    let mut place = simd.splat_bits(0);
                    for (at, line) in four.into_iter().enumerate().skip(1) {
                        let x = simd.load(&line.0[half]);
                        let larger = simd.greater(x, best);
                        place = simd.select(larger, simd.splat_bits(at as u32), place);
                        best = simd.floats(simd.select(larger, simd.bits(x), simd.bits(best)));
                    }
                    simd.store(best, &mut y.0[half]);
                    if let Some(which) = which.first_chunk_mut() {
                        simd.narrow_u8(place, which);
                    }
                }
            }
        }
    }
}

/// Carries a gradient through [`max_pool`]: `gradient` has `y`'s shape, `to` has `x`'s and is overwritten.
///
/// # Panics
///
/// If a length does not fit.
pub fn max_pool_back(gradient: &[Line], which: &[[u8; 16]], image: [usize; 2], to: &mut [Line]) {
    let [tall, wide] = sizes(to.len(), image, gradient.len(), which.len());
    let [height, width] = image;
    to.fill(Line::ZERO);
    detected().run(MaxPoolBack { gradient, which, height, width, tall, wide, to });
}

struct MaxPoolBack<'a> {
    gradient: &'a [Line],
    which: &'a [[u8; 16]],
    height: usize,
    width: usize,
    tall: usize,
    wide: usize,
    to: &'a mut [Line],
}

impl Kernel for MaxPoolBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.gradient.chunks_exact(self.wide).zip(self.which.chunks_exact(self.wide));
        for (number, (gradient, which)) in rows.enumerate() {
            let first = (number / self.tall * self.height + number % self.tall * 2) * self.width;
            let (upper, lower) = self.to[first..].split_at_mut(self.width);
            let pairs = upper.chunks_exact_mut(2).zip(lower.chunks_exact_mut(2));
            for ((upper, lower), (gradient, which)) in pairs.zip(gradient.iter().zip(which)) {
                let (places, _) = which.as_chunks::<LANES>();
                for (half, places) in places.iter().enumerate() {
                    let (gradient, places) = (simd.bits(simd.load(&gradient.0[half])), simd.widen_i8(places));
                    let four = upper.iter_mut().chain(lower.iter_mut());
                    for (at, line) in four.enumerate() {
                        // Below 4, words are equal where their exclusive or is below 1.
                        let other = simd.xor(places, simd.splat_bits(at as u32));
                        let here = simd.above(simd.splat_bits(1), other);
                        simd.store(simd.floats(simd.and(here, gradient)), &mut line.0[half]);
                    }
                }
            }
        }
    }
}

/// What [`max_pool`] has chosen, taken from another `x` of the same shape.
///
/// # Panics
///
/// If a length does not fit, or a place is not below 4.
pub fn pick(x: &[Line], image: [usize; 2], which: &[[u8; 16]], y: &mut [Line]) {
    let [tall, wide] = sizes(x.len(), image, y.len(), which.len());
    let [height, width] = image;
    for (number, (y, which)) in y.iter_mut().zip(which).enumerate() {
        let (row, column) = (number / wide, number % wide);
        let first = (row / tall * height + row % tall * 2) * width + column * 2;
        let four = [&x[first], &x[first + 1], &x[first + width], &x[first + width + 1]];
        for (sample, place) in which.iter().enumerate() {
            y.set(sample, four[usize::from(*place)].get(sample));
        }
    }
}

/// A classifier's targets.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// A class of each sample, below the number of classes; at most sixteen. The other samples do not count.
    Classes(&'a [u8]),
    /// `[classes]` lines of probabilities, of which the first so many samples count.
    Soft(&'a [Line], usize),
}

impl Targets<'_> {
    /// Samples that count.
    pub fn samples(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Soft(_, samples) => *samples,
        }
    }
}

/// The cross-entropy of softmax(logits), summed over the samples that count, natural logarithm; `logits`, `[classes]`
/// lines, become its gradient times `scale`. Those of samples that do not count become zero.
///
/// # Panics
///
/// If more than sixteen samples count, a class is too large, or a length does not fit.
pub fn cross_entropy(logits: &mut [Line], targets: Targets<'_>, scale: f32) -> f64 {
    cross_entropy_on(detected(), logits, targets, scale)
}

/// [`cross_entropy`] on a given instruction set.
///
/// # Panics
///
/// As [`cross_entropy`].
pub fn cross_entropy_on(isa: Isa, logits: &mut [Line], targets: Targets<'_>, scale: f32) -> f64 {
    assert!(targets.samples() <= Line::WIDTH, "cross-entropy: more than sixteen samples");
    match targets {
        Targets::Classes(classes) => assert!(
            classes.iter().all(|class| usize::from(*class) < logits.len()),
            "cross-entropy: a class is too large"
        ),
        Targets::Soft(soft, _) => assert_eq!(soft.len(), logits.len(), "cross-entropy: targets are not [classes]"),
    }
    isa.run(CrossEntropy { logits, targets, scale })
}

struct CrossEntropy<'a> {
    logits: &'a mut [Line],
    targets: Targets<'a>,
    scale: f32,
}

impl Kernel for CrossEntropy<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let Self { logits, targets, scale } = self;
        let (mut largest, mut sums) = (Line([[f32::NEG_INFINITY; LANES]; 2]), Line::ZERO);
        let mut at_target = Line::ZERO;
        for (class, line) in logits.iter_mut().enumerate() {
            for half in 0..2 {
                let most = simd.max(simd.load(&line.0[half]), simd.load(&largest.0[half]));
                simd.store(most, &mut largest.0[half]);
            }
            let Targets::Soft(soft, _) = targets else { continue };
            for (sample, to) in at_target.0.as_flattened_mut().iter_mut().enumerate() {
                *to = soft[class].get(sample).mul_add(line.get(sample), *to);
            }
        }
        if let Targets::Classes(classes) = targets {
            for (sample, class) in classes.iter().enumerate() {
                at_target.set(sample, logits[usize::from(*class)].get(sample));
            }
        }
        for line in logits.iter_mut() {
            for half in 0..2 {
                let weight = exp(simd, simd.sub(simd.load(&line.0[half]), simd.load(&largest.0[half])));
                simd.store(weight, &mut line.0[half]);
                simd.store(simd.add(simd.load(&sums.0[half]), weight), &mut sums.0[half]);
            }
        }
        let samples = targets.samples();
        let loss = (0..samples).map(|sample| {
            f64::from(sums.get(sample)).ln() + f64::from(largest.get(sample)) - f64::from(at_target.get(sample))
        });
        let loss = loss.sum();
        let mut factors = Line::ZERO;
        (0..samples).for_each(|sample| factors.set(sample, scale / sums.get(sample)));
        for (class, line) in logits.iter_mut().enumerate() {
            for half in 0..2 {
                let probability = simd.mul(simd.load(&line.0[half]), simd.load(&factors.0[half]));
                simd.store(probability, &mut line.0[half]);
            }
            if let Targets::Soft(soft, samples) = targets {
                (0..samples).for_each(|sample| line.set(sample, line.get(sample) - scale * soft[class].get(sample)));
            }
        }
        if let Targets::Classes(classes) = targets {
            for (sample, class) in classes.iter().enumerate() {
                let line = &mut logits[usize::from(*class)];
                line.set(sample, line.get(sample) - scale);
            }
        }
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ISAS, Numbers};

    fn lines(values: &[[f32; 16]]) -> Vec<Line> {
        let line = |values: &[f32; 16]| {
            let mut line = Line::ZERO;
            values.iter().enumerate().for_each(|(at, value)| line.set(at, *value));
            line
        };
        values.iter().map(line).collect()
    }

    #[test]
    fn rectification_and_its_gradient() {
        let mut x =
            lines(&[[-1.0, 0.0, 2.0, f32::NAN, -0.0, 1e-40, 3.0, -4.0, 1.0, -1.0, 1.0, -1.0, 0.5, -0.5, 7.0, -7.0]]);
        rectify(&mut x);
        assert!(x[0].get(3).is_nan());
        x[0].set(3, 9.0);
        assert_eq!(x[0].0[0], [0.0, 0.0, 2.0, 9.0, 0.0, 1e-40, 3.0, 0.0]);
        assert_eq!(x[0].0[1], [1.0, 0.0, 1.0, 0.0, 0.5, 0.0, 7.0, 0.0]);
        let mut gradient = lines(&[[5.0; 16]]);
        rectify_back(&x, &mut gradient);
        assert_eq!(gradient[0].0[0], [0.0, 0.0, 5.0, 5.0, 0.0, 5.0, 5.0, 0.0]);
        assert_eq!(gradient[0].0[1], [5.0, 0.0, 5.0, 0.0, 5.0, 0.0, 5.0, 0.0]);
    }

    /// Sample `s` of a 3 by 5 image, whose last row and column are left out.
    #[test]
    fn the_largest_of_four_and_where_it_was() {
        let mut numbers = Numbers(4);
        let mut x: Vec<[f32; 16]> = Vec::new();
        for _ in 0..2 * 15 {
            let values = numbers.values(16, 1.0);
            x.push(std::array::from_fn(|sample| values[sample]));
        }
        // Equal ones: the first counts.
        (x[0][0], x[1][0], x[5][0], x[6][0]) = (-2.0, 3.0, 3.0, 3.0);
        let (mut y, mut which) = (vec![Line::ZERO; 4], vec![[9; 16]; 4]);
        max_pool(&lines(&x), [3, 5], &mut y, &mut which);
        assert_eq!((y[0].get(0), which[0][0]), (3.0, 1));
        let mut picked = vec![Line::ZERO; 4];
        pick(&lines(&x), [3, 5], &which, &mut picked);
        assert_eq!(picked, y);
        let gradient = lines(&[[1.0; 16], [2.0; 16], [3.0; 16], [4.0; 16]]);
        let mut back = lines(&[[9.0; 16]; 30]);
        max_pool_back(&gradient, &which, [3, 5], &mut back);
        for channel in 0..2 {
            for column in 0..2 {
                let four = [0, 1, 5, 6].map(|offset| channel * 15 + column * 2 + offset);
                let output = channel * 2 + column;
                for sample in 0..16 {
                    let values = four.map(|at| x[at][sample]);
                    let place = (0..4).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).expect("four");
                    assert_eq!(y[output].get(sample), values[place]);
                    assert_eq!(usize::from(which[output][sample]), place);
                    for (number, at) in four.into_iter().enumerate() {
                        let wanted = if number == place { (output + 1) as f32 } else { 0.0 };
                        assert_eq!(back[at].get(sample), wanted);
                    }
                }
            }
        }
        assert_eq!(back[4], Line::ZERO);
        assert_eq!(back[10], Line::ZERO);
    }

    #[test]
    fn cross_entropy_by_hand() {
        for isa in ISAS {
            // Two classes, two samples that count: log(1 + e^-2) and log 2.
            let mut values = [[7.0; 16]; 2];
            (values[0][0], values[1][0], values[0][1], values[1][1]) = (2.0, 0.0, 1.0, 1.0);
            let mut logits = lines(&values);
            let loss = cross_entropy_on(isa, &mut logits, Targets::Classes(&[0, 1]), 0.5);
            assert!((loss - (0.126_928_011 + std::f64::consts::LN_2)).abs() < 1e-6, "{loss}");
            let p = 0.880_797_1;
            assert!(
                (logits[0].get(0) - 0.5 * (p - 1.0)).abs() < 1e-6 && (logits[1].get(0) - 0.5 * (1.0 - p)).abs() < 1e-6
            );
            assert_eq!([logits[0].get(1), logits[1].get(1)], [0.25, -0.25]);
            assert!(logits.iter().all(|line| line.0.as_flattened()[2..].iter().all(|value| *value == 0.0)));
            // The same with labels as probabilities; a label of one half each has the mean of both losses.
            let mut soft = lines(&[[0.5; 16], [0.5; 16]]);
            soft[0].set(1, 0.0);
            soft[1].set(1, 1.0);
            let mut logits = lines(&values);
            let loss = cross_entropy_on(isa, &mut logits, Targets::Soft(&soft, 2), 1.0);
            assert!((loss - (1.126_928_011 + std::f64::consts::LN_2)).abs() < 1e-6, "{loss}");
            assert!((logits[0].get(0) - (p - 0.5)).abs() < 1e-6);
            assert_eq!(logits[1].get(1), -0.5);
            assert_eq!(logits[1].get(2), 0.0);
        }
    }

    #[test]
    #[should_panic(expected = "a class is too large")]
    fn a_class_that_does_not_exist_is_refused() {
        cross_entropy(&mut [Line::ZERO; 3], Targets::Classes(&[3]), 1.0);
    }
}
