//! Training and scoring of small classifiers by `swarmloom-kernels`, sixteen samples at a time.
//!
//! For networks of some ten thousand parameters a tensor library spends most of its time outside the arithmetic. Here a
//! step is a fixed list of passes over memory that one worker keeps. `trainer` compares it with libtorch.

use swarmloom_kernels::Line;
use swarmloom_kernels::convolution::{Begin, Packed, Shape, convolve, pad, weight_gradient};
use swarmloom_kernels::pooling::{Targets, cross_entropy, max_pool, max_pool_back, rectify, rectify_back};

use crate::local::{LocalSpec, Trained, shuffled};
use crate::network::{Layer, Network};
use swarmloom_kernels::random;

use crate::{ClassifierError, Samples, check};

mod unroll;

/// Samples that are computed together.
const TILE: usize = Line::WIDTH;

/// One pass. Slots hold `[channels, height, width]` lines; a pass reads one and writes the next, or changes one in place.
#[derive(Debug, Clone)]
enum Pass {
    /// Copies a slot with zeros around into the next one.
    Pad {
        image: [usize; 2],
        padding: [usize; 2],
    },
    /// `weights` is where they begin in the flat vector; the bias follows them.
    Convolve {
        shape: Shape,
        weights: usize,
        packed: usize,
    },
    MaxPool {
        image: [usize; 2],
        which: usize,
    },
    Rectify,
    /// `part` of what is in `[groups, size]` lines is dropped, whole groups together.
    Dropout {
        part: f64,
        layer: u64,
        groups: usize,
        mask: usize,
    },
}

impl Pass {
    fn in_place(&self) -> bool {
        matches!(self, Self::Rectify | Self::Dropout { .. })
    }
}

/// How far gradients go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    No,
    Parameters,
    Samples,
}

/// A network with one worker's memory.
#[derive(Debug, Clone)]
pub struct Engine {
    passes: Vec<Pass>,
    parameters: usize,
    features: usize,
    classes: usize,
    slots: Vec<Vec<Line>>,
    /// Gradients of the slots.
    back: Vec<Vec<Line>>,
    which: Vec<Vec<[u8; TILE]>>,
    masks: Vec<Vec<Line>>,
    /// Weights for the way there and for the way back.
    packed: Vec<[Packed; 2]>,
    gradient: Vec<f32>,
    unrolled: unroll::Unrolled,
}

impl Engine {
    /// For a network.
    pub fn new(network: &Network) -> Self {
        let mut engine = Self {
            passes: Vec::new(),
            parameters: network.parameters(),
            features: network.features(),
            classes: network.classes(),
            slots: vec![vec![Line::ZERO; network.features()]],
            back: Vec::new(),
            which: Vec::new(),
            masks: Vec::new(),
            packed: Vec::new(),
            gradient: vec![0.0; network.parameters()],
            unrolled: Default::default(),
        };
        let [mut channels, height, width] = network.input;
        let (mut image, mut weights) = ([height, width], 0);
        for (number, layer) in network.layers.iter().enumerate() {
            match *layer {
                Layer::Convolution { from, to, kernel, padding } => {
                    let shape = Shape { from, to, image, kernel: [kernel; 2], padding: [padding; 2] };
                    let padded = image.map(|size| size + 2 * padding);
                    if padding > 0 {
                        engine.push(Pass::Pad { image, padding: shape.padding }, from * padded[0] * padded[1]);
                    }
                    engine.convolve(Shape { image: padded, padding: [0, 0], ..shape }, &mut weights);
                    (channels, image) = (to, shape.output());
                }
                Layer::Linear { from, to } => {
                    engine.convolve(Shape::linear(from, to), &mut weights);
                    (channels, image) = (to, [1, 1]);
                }
                Layer::MaxPool => {
                    let after = image.map(|size| size / 2);
                    let size = channels * after[0] * after[1];
                    engine.push(Pass::MaxPool { image, which: engine.which.len() }, size);
                    engine.which.push(vec![[0; TILE]; size]);
                    image = after;
                }
                Layer::Relu => engine.passes.push(Pass::Rectify),
                Layer::Dropout(part) => {
                    let (layer, mask) = (number as u64, engine.masks.len());
                    engine.passes.push(Pass::Dropout { part, layer, groups: channels, mask });
                    engine.masks.push(vec![Line::ZERO; channels]);
                }
                Layer::Flatten => (channels, image) = (channels * image[0] * image[1], [1, 1]),
            }
        }
        engine.back = engine.slots.clone();
        engine
    }

    fn push(&mut self, pass: Pass, size: usize) {
        self.passes.push(pass);
        self.slots.push(vec![Line::ZERO; size]);
    }

    fn convolve(&mut self, shape: Shape, weights: &mut usize) {
        self.push(Pass::Convolve { shape, weights: *weights, packed: self.packed.len() }, shape.outputs());
        self.packed.push(Default::default());
        *weights += shape.weights() + shape.to;
    }

    /// Takes over parameters, for the way there and for the way back as far as it goes.
    fn pack(&mut self, parameters: &[f32], back: Back) {
        pack(&self.passes, &mut self.packed, parameters, back);
    }

    /// Lays up to sixteen samples side by side.
    fn load<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        for (sample, row) in rows.enumerate() {
            for (line, value) in self.slots[0].iter_mut().zip(row) {
                line.set(sample, *value);
            }
        }
    }

    /// From the loaded samples to the logits in the last slot. With `training`, dropout follows from that seed, for
    /// samples that are the batch's from `first` on.
    fn forward(&mut self, parameters: &[f32], training: Option<(u64, usize)>) {
        let mut slot = 0;
        for pass in &self.passes {
            let (before, after) = self.slots.split_at_mut(slot + 1);
            let x = &mut before[slot];
            match pass {
                Pass::Rectify => rectify(x),
                Pass::Dropout { part, layer, groups, mask } => {
                    let Some((seed, first)) = training else {
                        self.masks[*mask].fill(Line([[1.0; 8]; 2]));
                        continue;
                    };
                    drop_out(*part, random::bits(seed, *layer), first, &mut self.masks[*mask]);
                    scale(x, *groups, &self.masks[*mask]);
                }
                Pass::Pad { image, padding } => pad(x, *image, *padding, &mut after[0]),
                Pass::Convolve { shape, weights, packed, .. } => {
                    let bias = &parameters[weights + shape.weights()..][..shape.to];
                    convolve(shape, x, &self.packed[*packed][0], Begin::Bias(bias), &mut after[0]);
                }
                Pass::MaxPool { image, which } => max_pool(x, *image, &mut after[0], &mut self.which[*which]),
            }
            slot += usize::from(!pass.in_place());
        }
    }

    /// From the gradient of the logits, in the last slot of `back`, to that of the parameters, which is added up, and as far
    /// towards the samples as is said.
    fn backward(&mut self, back: Back) {
        let mut slot = self.slots.len() - 1;
        for pass in self.passes.iter().rev() {
            if pass.in_place() {
                match pass {
                    Pass::Dropout { groups, mask, .. } => scale(&mut self.back[slot], *groups, &self.masks[*mask]),
                    _ => rectify_back(&self.slots[slot], &mut self.back[slot]),
                }
                continue;
            }
            slot -= 1;
            let (before, after) = self.back.split_at_mut(slot + 1);
            let (to, from) = (&mut before[slot], &after[0]);
            match pass {
                Pass::Convolve { shape, weights, packed } => {
                    let (of_weights, rest) = self.gradient[*weights..].split_at_mut(shape.weights());
                    weight_gradient(shape, &self.slots[slot], from, of_weights);
                    for (bias, lines) in rest.iter_mut().zip(from.chunks_exact(from.len() / shape.to)) {
                        *bias += lines.iter().flat_map(|line| line.0.as_flattened()).sum::<f32>();
                    }
                    if back == Back::Parameters && *packed == 0 {
                        return;
                    }
                    convolve(&shape.reversed(), from, &self.packed[*packed][1], Begin::Zero, to);
                }
                Pass::MaxPool { image, which } => max_pool_back(from, &self.which[*which], *image, to),
                Pass::Pad { image, padding } => crop(from, *image, *padding, to),
                Pass::Rectify | Pass::Dropout { .. } => {}
            }
        }
    }

    /// Some epochs of gradient descent from `from`: [`Worker::train`](crate::Worker::train).
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit or a label is no class.
    pub fn train(
        &mut self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError> {
        check("the parameters", from.len(), self.parameters)?;
        samples.check(self.features, self.classes)?;
        if let Some(correction) = correction {
            check("the correction", correction.len(), self.parameters)?;
        }
        let mut parameters = from.to_vec();
        let mut velocity = if spec.momentum > 0.0 { vec![0.0; from.len()] } else { Vec::new() };
        let (mut steps, mut losses) = (0, 0.0);
        let size = if spec.batch_size == 0 { samples.len() } else { spec.batch_size.min(samples.len()) };
        'epochs: for epoch in 0..spec.epochs {
            let order = match samples.len() {
                0 => break,
                all if size < all => shuffled(all, random::bits(seed, u64::from(epoch))),
                all => (0..all).collect(),
            };
            for batch in order.chunks(size) {
                if spec.stop_after == Some(steps) {
                    break 'epochs;
                }
                self.pack(&parameters, Back::Parameters);
                self.gradient.fill(0.0);
                let dropout = random::bits(seed, (1 << 32) + u64::from(steps));
                let mut loss = 0.0;
                for (number, tile) in batch.chunks(TILE).enumerate() {
                    let width = self.features;
                    self.load(tile.iter().map(|index| &samples.features[index * width..][..width]));
                    let mut labels = [0; TILE];
                    tile.iter().zip(&mut labels).for_each(|(at, label)| *label = samples.labels[*at]);
                    self.forward(&parameters, Some((dropout, number * TILE)));
                    if let (Some(logits), Some(back)) = (self.slots.last(), self.back.last_mut()) {
                        back.copy_from_slice(logits);
                        let targets = Targets::Classes(&labels[..tile.len()]);
                        loss += cross_entropy(back, targets, 1.0 / batch.len() as f32);
                    }
                    self.backward(Back::Parameters);
                }
                losses += loss / batch.len() as f64;
                steps += 1;
                step(&mut parameters, from, &self.gradient, correction, &mut velocity, spec);
            }
        }
        parameters.iter_mut().zip(from).for_each(|(now, before)| *now -= before);
        Ok(Trained { delta: parameters, steps, loss: (losses / f64::from(steps.max(1))) as f32 })
    }

    /// Values of a sample.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Width of the logits.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Right answers and samples, by class.
    ///
    /// # Errors
    /// As [`Engine::train`].
    pub fn score(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        check("the parameters", parameters.len(), self.parameters)?;
        samples.check(self.features, self.classes)?;
        self.pack(parameters, Back::No);
        let mut counts = vec![[0; 2]; self.classes];
        let tiles = samples.features.chunks(TILE * self.features).zip(samples.labels.chunks(TILE));
        for (rows, labels) in tiles {
            self.load(rows.chunks_exact(self.features.max(1)));
            self.forward(parameters, None);
            let logits = self.slots.last().map(Vec::as_slice).unwrap_or_default();
            for (sample, label) in labels.iter().enumerate() {
                let of = |class: &usize| logits[*class].get(sample);
                let best = (0..self.classes).rev().max_by(|one, other| of(one).total_cmp(&of(other)));
                counts[usize::from(*label)][0] += u32::from(best == Some(usize::from(*label)));
                counts[usize::from(*label)][1] += 1;
            }
        }
        Ok(counts)
    }
}

fn pack(passes: &[Pass], to: &mut [[Packed; 2]], parameters: &[f32], back: Back) {
    for pass in passes {
        if let Pass::Convolve { shape, weights, packed } = pass {
            let weights = &parameters[*weights..][..shape.weights()];
            let [there, reversed] = &mut to[*packed];
            there.pack(shape, weights);
            if back == Back::Samples || (back == Back::Parameters && *packed > 0) {
                reversed.pack_reversed(shape, weights);
            }
        }
    }
}

/// One step of gradient descent, as PyTorch's SGD has it.
fn step(
    parameters: &mut [f32],
    start: &[f32],
    gradient: &[f32],
    correction: Option<&[f32]>,
    velocity: &mut [f32],
    spec: &LocalSpec,
) {
    let (rate, proximal, momentum) = (spec.learning_rate as f32, spec.proximal as f32, spec.momentum as f32);
    if correction.is_none() && proximal == 0.0 && velocity.is_empty() {
        for (parameter, gradient) in parameters.iter_mut().zip(gradient) {
            *parameter -= rate * gradient;
        }
        return;
    }
    for (at, parameter) in parameters.iter_mut().enumerate() {
        let correction = correction.map_or(0.0, |correction| correction[at]);
        let mut direction = gradient[at] + correction + proximal * (*parameter - start[at]);
        if let Some(velocity) = velocity.get_mut(at) {
            *velocity = momentum * *velocity + direction;
            direction = *velocity;
        }
        *parameter -= rate * direction;
    }
}

/// A line for each group: 0 where a sample's is dropped, else one over the part that is kept.
fn drop_out(part: f64, seed: u64, first: usize, mask: &mut [Line]) {
    let (groups, kept) = (mask.len(), (1.0 / (1.0 - part)) as f32);
    for (group, line) in mask.iter_mut().enumerate() {
        for sample in 0..TILE {
            let draw = random::unit(seed, ((first + sample) * groups + group) as u64);
            line.set(sample, if draw < part { 0.0 } else { kept });
        }
    }
}

/// Multiplies `[groups, size]` lines by one line for each group.
fn scale(x: &mut [Line], groups: usize, mask: &[Line]) {
    let size = x.len() / groups.max(1);
    for (group, mask) in x.chunks_exact_mut(size.max(1)).zip(mask) {
        for line in group {
            for (value, factor) in line.0.as_flattened_mut().iter_mut().zip(mask.0.as_flattened()) {
                *value *= factor;
            }
        }
    }
}

/// The middle of what [`pad`] has padded.
fn crop(from: &[Line], [height, width]: [usize; 2], padding: [usize; 2], to: &mut [Line]) {
    let wide = width + 2 * padding[1];
    let tall = height + 2 * padding[0];
    for (number, row) in to.chunks_exact_mut(width).enumerate() {
        let first = (number / height * tall + number % height + padding[0]) * wide + padding[1];
        row.copy_from_slice(&from[first..first + width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logistic regression on two samples, where the gradient is known.
    #[test]
    fn one_step_is_the_gradient_by_hand() {
        let network = Network::mlp(2, &[], 2);
        let samples = Samples { features: &[1.0, 0.0, 0.0, 2.0], labels: &[0, 1] };
        let spec = LocalSpec { epochs: 1, learning_rate: 1.0, ..LocalSpec::default() };
        let trained = Engine::new(&network).train(&[0.0; 6], samples, &spec, None, 1).expect("trained");
        // At zero every probability is a half: the mean over both of (p - y) x, and of p - y for the bias.
        assert_eq!(trained.delta, [0.25, -0.5, -0.25, 0.5, 0.0, 0.0]);
        assert_eq!(trained.steps, 1);
        assert!((trained.loss - std::f32::consts::LN_2).abs() < 1e-6);
        // SCAFFOLD's correction is taken off as a gradient would be.
        let corrected = Engine::new(&network).train(&[0.0; 6], samples, &spec, Some(&[0.5; 6]), 1).expect("trained");
        assert_eq!(corrected.delta, [-0.25, -1.0, -0.75, 0.0, -0.5, -0.5]);
    }

    #[test]
    fn momentum_and_the_proximal_term_act_from_the_second_step_on() {
        let network = Network::mlp(2, &[], 2);
        let samples = Samples { features: &[1.0, 0.0], labels: &[0] };
        let one = LocalSpec { epochs: 1, learning_rate: 0.5, ..LocalSpec::default() };
        let first = Engine::new(&network).train(&[0.0; 6], samples, &one, None, 1).expect("trained").delta;
        let plain =
            |spec: &LocalSpec| Engine::new(&network).train(&[0.0; 6], samples, spec, None, 1).expect("trained").delta;
        let two = LocalSpec { epochs: 2, ..one };
        let second: Vec<f32> = plain(&two).iter().zip(&first).map(|(all, first)| all - first).collect();
        let pulled = plain(&LocalSpec { proximal: 0.2, ..two });
        let carried = plain(&LocalSpec { momentum: 0.9, ..two });
        for at in 0..6 {
            // The second gradient has 0.2 times what the first step moved; the second step has 0.9 of the first.
            assert!((pulled[at] - (first[at] + second[at] - 0.5 * 0.2 * first[at])).abs() < 1e-6);
            assert!((carried[at] - (first[at] + second[at] + 0.9 * first[at])).abs() < 1e-6);
        }
    }

    #[test]
    fn a_seed_is_an_order_of_samples_and_the_same_seed_the_same_bits() {
        let network = Network::reference_cnn(1, 28, 10);
        let features: Vec<f32> = (0..40 * 784).map(|index| random::unit(9, index) as f32).collect();
        let labels: Vec<u8> = (0..40).map(|index| index % 10).collect();
        let samples = Samples { features: &features, labels: &labels };
        let spec = LocalSpec { epochs: 2, batch_size: 16, learning_rate: 0.05, ..LocalSpec::default() };
        let run = |seed| Engine::new(&network).train(&network.init(3), samples, &spec, None, seed).expect("trained");
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).delta, run(2).delta);
        assert_eq!(run(1).steps, spec.steps(40));
        assert_eq!(shuffled(5, 4).iter().sum::<usize>(), 10);
    }

    #[test]
    fn who_has_to_report_early_has_taken_the_first_steps() {
        let network = Network::mlp(3, &[4], 2);
        let features: Vec<f32> = (0..30).map(|index| random::unit(9, index) as f32).collect();
        let samples = Samples { features: &features, labels: &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1] };
        let train = |epochs, stop_after| {
            let spec = LocalSpec { epochs, batch_size: 5, learning_rate: 0.1, stop_after, ..LocalSpec::default() };
            Engine::new(&network).train(&network.init(1), samples, &spec, None, 7).expect("trained")
        };
        assert_eq!(train(3, Some(2)), train(1, None));
        assert_eq!(train(3, Some(99)), train(3, None));
    }

    #[test]
    fn answers_are_counted_by_class() {
        let network = Network::mlp(2, &[2], 2);
        // Hidden: (x0 - x1, x1 - 3), rectified; logits: (h0, 2 h1 + 0.5).
        let parameters = [1.0, -1.0, 0.0, 1.0, 0.0, -3.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.5];
        let samples = Samples { features: &[5.0, 1.0, 1.0, 4.0, 0.0, 0.0], labels: &[0, 0, 1] };
        assert_eq!(Engine::new(&network).score(&parameters, samples).expect("counts"), [[1, 2], [1, 1]]);
    }

    #[test]
    fn bad_lengths_and_labels_are_refused() {
        let network = Network::mlp(2, &[], 2);
        let mut engine = Engine::new(&network);
        let spec = LocalSpec::default();
        let wrong = Samples { features: &[0.0; 2], labels: &[2] };
        let error = engine.train(&[0.0; 6], wrong, &spec, None, 0).expect_err("no such class");
        assert_eq!(error.to_string(), "a label: it is 2, and the network has 2 classes");
        let short = Samples { features: &[0.0; 3], labels: &[0, 1] };
        assert!(engine.score(&[0.0; 6], short).is_err() && engine.score(&[0.0; 5], wrong).is_err());
        let none = engine.train(&[0.0; 6], Samples { features: &[], labels: &[] }, &spec, None, 0).expect("nothing");
        assert_eq!((none.delta, none.steps), (vec![0.0; 6], 0));
    }
}
