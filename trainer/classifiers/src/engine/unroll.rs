//! Gradients through whole local trainings: what an inversion descends along.
//!
//! A training of `T` steps is `w[t+1] = w[t] - rate * g(w[t], data)`. With `v = dJ/dw[T]`, going backwards over the steps,
//! `v` becomes `v - rate * d(g v)/dw`, and the data's gradient loses `rate * d(g v)/d(data)`. Both derivatives of `g v` are
//! those of the loss's gradient along `v`: a second, tangent pass beside the usual one (Pearlmutter, "Fast Exact
//! Multiplication by the Hessian", 1994), which rectification and pooling take as they take values, at what they have
//! chosen.

use swarmloom_kernels::Line;
use swarmloom_kernels::convolution::{Begin, Packed, convolve, pad, weight_gradient};
use swarmloom_kernels::pooling::{Targets, cross_entropy, max_pool_back, pick, rectify_back};

use super::{Back, Engine, Pass, TILE, crop, pack};
use crate::invert::{Recovered, Repeated, Unroll};
use crate::{ClassifierError, check};

/// The last training that was unrolled, and memory for its tangents.
#[derive(Debug, Clone, Default)]
pub(super) struct Unrolled {
    /// Parameters before each step.
    course: Vec<Vec<f32>>,
    rate: f32,
    data: Recovered,
    /// Probabilities of each sample's classes, `[samples, classes]`.
    labels: Vec<f32>,
    /// As the engine's `slots` and `back`.
    slots: Vec<Vec<Line>>,
    back: Vec<Vec<Line>>,
    packed: Vec<[Packed; 2]>,
}

impl Unroll for Engine {
    fn unroll(
        &mut self,
        from: &[f32],
        data: &Recovered,
        training: Repeated,
        most: u32,
    ) -> Result<Vec<f32>, ClassifierError> {
        check("the parameters", from.len(), self.parameters)?;
        let samples = data.labels.len() / self.classes.max(1);
        check("the labels", data.labels.len(), samples * self.classes)?;
        check("the features", data.features.len(), samples * self.features)?;
        let (steps, rate) = training.at_most(most);
        self.unrolled.data = data.clone();
        self.unrolled.labels = softmax(&data.labels, self.classes);
        self.unrolled.rate = rate as f32;
        self.unrolled.course.clear();
        let mut parameters = from.to_vec();
        for _ in 0..steps {
            self.pack(&parameters, Back::Parameters);
            self.gradient.fill(0.0);
            for first in (0..samples).step_by(TILE) {
                self.lay(first, samples, &parameters);
                self.backward(Back::Parameters);
            }
            self.unrolled.course.push(parameters.clone());
            for (parameter, gradient) in parameters.iter_mut().zip(&self.gradient) {
                *parameter -= rate as f32 * gradient;
            }
        }
        parameters.iter_mut().zip(from).for_each(|(now, before)| *now -= before);
        Ok(parameters)
    }

    fn pull_back(&mut self, adjoint: &[f32]) -> Result<Recovered, ClassifierError> {
        check("the adjoint", adjoint.len(), self.parameters)?;
        if self.unrolled.slots.is_empty() {
            (self.unrolled.slots, self.unrolled.back) = (self.slots.clone(), self.slots.clone());
            self.unrolled.packed = vec![Default::default(); self.packed.len()];
        }
        let samples = self.unrolled.data.labels.len() / self.classes.max(1);
        let mut features = vec![0.0; self.unrolled.data.features.len()];
        let mut labels = vec![0.0; self.unrolled.labels.len()];
        let mut direction = adjoint.to_vec();
        let rate = self.unrolled.rate;
        for step in (0..self.unrolled.course.len()).rev() {
            let parameters = std::mem::take(&mut self.unrolled.course[step]);
            self.pack(&parameters, Back::Samples);
            pack(&self.passes, &mut self.unrolled.packed, &direction, Back::Samples);
            // Where the gradient of the usual pass would go, which nobody needs here, goes the product with the Hessian.
            self.gradient.fill(0.0);
            for first in (0..samples).step_by(TILE) {
                self.lay(first, samples, &parameters);
                let product = std::mem::take(&mut self.gradient);
                self.gradient = vec![0.0; product.len()];
                self.backward(Back::Samples);
                self.gradient = product;
                self.tangent(&direction);
                self.tangent_of_loss(first, samples, &mut labels);
                self.tangent_back();
                let rows = features[first * self.features..].chunks_exact_mut(self.features).take(TILE);
                for (sample, row) in rows.enumerate() {
                    for (value, line) in row.iter_mut().zip(&self.unrolled.back[0]) {
                        *value -= rate * line.get(sample);
                    }
                }
            }
            for (value, product) in direction.iter_mut().zip(&self.gradient) {
                *value -= rate * product;
            }
            self.unrolled.course[step] = parameters;
        }
        // Through the labels' softmax.
        let rows = labels.chunks_exact_mut(self.classes).zip(self.unrolled.labels.chunks_exact(self.classes));
        for (gradient, probabilities) in rows {
            let mean: f32 = gradient.iter().zip(probabilities).map(|(gradient, p)| gradient * p).sum();
            gradient.iter_mut().zip(probabilities).for_each(|(gradient, p)| *gradient = p * (*gradient - mean));
        }
        Ok(Recovered { features, labels })
    }
}

impl Engine {
    /// Loads up to sixteen samples of the data and goes forward; then `back` has the gradient of the logits.
    fn lay(&mut self, first: usize, samples: usize, parameters: &[f32]) {
        let data = std::mem::take(&mut self.unrolled.data);
        self.load(data.features[first * self.features..].chunks_exact(self.features.max(1)).take(TILE));
        self.unrolled.data = data;
        self.forward(parameters, None);
        let (count, soft) = (TILE.min(samples - first), self.soft(first));
        if let (Some(logits), Some(back)) = (self.slots.last(), self.back.last_mut()) {
            back.copy_from_slice(logits);
            cross_entropy(back, Targets::Soft(&soft, count), 1.0 / samples as f32);
        }
    }

    /// The labels of the samples from `first` on, as lines.
    fn soft(&self, first: usize) -> Vec<Line> {
        let mut lines = vec![Line::ZERO; self.classes];
        let rows = self.unrolled.labels[first * self.classes..].chunks_exact(self.classes).take(TILE);
        for (sample, row) in rows.enumerate() {
            lines.iter_mut().zip(row).for_each(|(line, value)| line.set(sample, *value));
        }
        lines
    }

    /// How everything on the way there changes along a direction of the parameters.
    fn tangent(&mut self, direction: &[f32]) {
        let mut slot = 0;
        let Unrolled { slots, packed: along, .. } = &mut self.unrolled;
        slots[0].fill(Line::ZERO);
        for pass in &self.passes {
            let (before, after) = slots.split_at_mut(slot + 1);
            let x = &mut before[slot];
            match pass {
                Pass::Rectify => rectify_back(&self.slots[slot], x),
                // Nothing is dropped out: this is how a client's model works once it is trained.
                Pass::Dropout { .. } => {}
                Pass::Pad { image, padding } => pad(x, *image, *padding, &mut after[0]),
                Pass::Convolve { shape, weights, packed } => {
                    let bias = &direction[weights + shape.weights()..][..shape.to];
                    convolve(shape, &self.slots[slot], &along[*packed][0], Begin::Bias(bias), &mut after[0]);
                    // The samples themselves do not change.
                    if *packed > 0 {
                        convolve(shape, x, &self.packed[*packed][0], Begin::Held, &mut after[0]);
                    }
                }
                Pass::MaxPool { image, which } => pick(x, *image, &self.which[*which], &mut after[0]),
            }
            slot += usize::from(!pass.in_place());
        }
    }

    /// The tangent of the logits' gradient, and the gradient of the labels, which is added.
    fn tangent_of_loss(&mut self, first: usize, samples: usize, labels: &mut [f32]) {
        let (Some(along), Some(back)) = (self.unrolled.slots.last(), self.back.last()) else { return };
        let scale = 1.0 / samples as f32;
        let mut to = vec![Line::ZERO; self.classes];
        for sample in 0..TILE.min(samples - first) {
            let of_sample = (first + sample) * self.classes..(first + sample + 1) * self.classes;
            let wanted = &self.unrolled.labels[of_sample.clone()];
            // Scaled probabilities: the gradient of the logits is those less the scaled labels.
            let p = |class: usize| back[class].get(sample) + scale * wanted[class];
            let mean: f32 = (0..self.classes).map(|class| p(class) * along[class].get(sample)).sum::<f32>() / scale;
            for (class, label) in labels[of_sample].iter_mut().enumerate() {
                let moves = along[class].get(sample) - mean;
                to[class].set(sample, p(class) * moves);
                *label += self.unrolled.rate * scale * moves;
            }
        }
        if let Some(back) = self.unrolled.back.last_mut() {
            back.copy_from_slice(&to);
        }
    }

    /// How everything on the way back changes: the product of Hessian and direction is added to `gradient`.
    fn tangent_back(&mut self) {
        let mut slot = self.slots.len() - 1;
        let Unrolled { slots, back, packed: along, .. } = &mut self.unrolled;
        for pass in self.passes.iter().rev() {
            if pass.in_place() {
                if matches!(pass, Pass::Rectify) {
                    rectify_back(&self.slots[slot], &mut back[slot]);
                }
                continue;
            }
            slot -= 1;
            let (before, after) = back.split_at_mut(slot + 1);
            let (to, from) = (&mut before[slot], &after[0]);
            match pass {
                Pass::Convolve { shape, weights, packed } => {
                    let (of_weights, rest) = self.gradient[*weights..].split_at_mut(shape.weights());
                    weight_gradient(shape, &self.slots[slot], from, of_weights);
                    if *packed > 0 {
                        weight_gradient(shape, &slots[slot], &self.back[slot + 1], of_weights);
                    }
                    for (bias, lines) in rest.iter_mut().zip(from.chunks_exact(from.len() / shape.to)) {
                        *bias += lines.iter().flat_map(|line| line.0.as_flattened()).sum::<f32>();
                    }
                    let reversed = shape.reversed();
                    convolve(&reversed, from, &self.packed[*packed][1], Begin::Zero, to);
                    convolve(&reversed, &self.back[slot + 1], &along[*packed][1], Begin::Held, to);
                }
                Pass::MaxPool { image, which } => max_pool_back(from, &self.which[*which], *image, to),
                Pass::Pad { image, padding } => crop(from, *image, *padding, to),
                Pass::Rectify | Pass::Dropout { .. } => {}
            }
        }
    }
}

/// Of each row of `classes` values.
fn softmax(logits: &[f32], classes: usize) -> Vec<f32> {
    let mut all = logits.to_vec();
    for row in all.chunks_exact_mut(classes.max(1)) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|value| *value = (*value - largest).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|value| *value /= sum);
    }
    all
}
