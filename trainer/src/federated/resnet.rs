//! Residual networks for small images.

use swarmloom_kernels::random;
use tch::{Kind, TchError, Tensor};

use super::{Instance, Net, views};

/// Groups of every normalisation, as Reddi et al. have it ("Adaptive Federated Optimization", 2021).
const GROUPS: i64 = 2;
/// Added to a variance before the root: PyTorch's.
const EPSILON: f64 = 1e-5;

/// A residual network in the form for CIFAR (He et al., "Deep Residual Learning for Image Recognition", 2016): a stem of 3 by
/// 3 without pooling, stages of two convolutions a block, each stage but the first at half the side, the mean over the image,
/// one linear layer. Where a block changes the shape, its shortcut is a convolution of 1 by 1.
///
/// Normalisation is by groups of channels (Wu and He, "Group Normalization", 2018), not by batch: clients that hold few
/// classes have batch statistics of their own, and what is trained with those does not work with the averages of all (Hsieh
/// et al., "The Non-IID Data Quagmire of Decentralized Machine Learning", 2020). Nothing is dropped out.
#[derive(Debug, Clone, PartialEq)]
pub struct ResNet {
    name: &'static str,
    /// Channels, height and width.
    input: [usize; 3],
    classes: usize,
    /// Channels of each stage.
    widths: &'static [usize],
    /// Blocks of a stage.
    blocks: usize,
}

/// A convolution with its normalisation: channels in and out, side of the kernel.
type Convolution = [usize; 3];

/// Two convolutions, and the one of the shortcut where it is none of the identity.
struct Block {
    first: Convolution,
    second: Convolution,
    shortcut: Option<Convolution>,
}

impl ResNet {
    /// Three stages of one block, 16 to 64 channels: 78,042 parameters for three channels and ten classes. Images have at least
    /// 4 by 4 pixels.
    pub fn resnet8([channels, height, width]: [usize; 3], classes: usize) -> Self {
        Self { name: "resnet8", input: [channels, height, width], classes, widths: &[16, 32, 64], blocks: 1 }
    }

    /// Four stages of two blocks, 64 to 512 channels: 11,173,962 parameters for three channels and ten classes. Images have
    /// at least 8 by 8 pixels.
    pub fn resnet18([channels, height, width]: [usize; 3], classes: usize) -> Self {
        Self { name: "resnet18", input: [channels, height, width], classes, widths: &[64, 128, 256, 512], blocks: 2 }
    }

    /// Side below which stages would halve what is one pixel.
    pub fn least_side(&self) -> usize {
        1 << (self.widths.len() - 1)
    }

    fn stem(&self) -> Convolution {
        [self.input[0], self.widths[0], 3]
    }

    fn all_blocks(&self) -> impl Iterator<Item = Block> {
        let mut from = self.widths[0];
        let blocks = self.blocks;
        self.widths.iter().flat_map(move |to| (0..blocks).map(move |_| *to)).map(move |to| {
            let shortcut = (from != to).then_some([from, to, 1]);
            let block = Block { first: [from, to, 3], second: [to, to, 3], shortcut };
            from = to;
            block
        })
    }

    /// The stem, each block's two convolutions and shortcut, each a kernel `[to, from, side, side]` followed by its
    /// normalisation's weight and bias; then the linear layer.
    pub(super) fn shapes(&self) -> Vec<Vec<usize>> {
        let of = |[from, to, side]: Convolution| [vec![to, from, side, side], vec![to], vec![to]];
        let mut shapes = of(self.stem()).to_vec();
        for block in self.all_blocks() {
            let convolutions = [Some(block.first), Some(block.second), block.shortcut];
            shapes.extend(convolutions.into_iter().flatten().flat_map(of));
        }
        let last = self.widths[self.widths.len() - 1];
        shapes.extend([vec![self.classes, last], vec![self.classes]]);
        shapes
    }
}

impl Net for ResNet {
    fn name(&self) -> &str {
        self.name
    }

    fn input(&self) -> Vec<i64> {
        self.input.map(|size| size as i64).to_vec()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn parameters(&self) -> usize {
        self.shapes().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Kernels are uniform with the variance of He et al. ("Delving Deep into Rectifiers", 2015), the linear layer uniform in
    /// plus or minus one over the root of its inputs; normalisations begin as the identity.
    fn init(&self, seed: u64) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.parameters());
        let shapes = self.shapes();
        let linear = shapes.len() - 2;
        for (number, shape) in shapes.iter().enumerate() {
            let count: usize = shape.iter().product();
            let inputs = |shape: &[usize]| shape[1..].iter().product::<usize>() as f64;
            let bound = match shape.len() {
                4 => (6.0 / inputs(shape)).sqrt(),
                _ if number >= linear => 1.0 / inputs(&shapes[linear]).sqrt(),
                _ => {
                    // After a kernel the weight, after that the bias.
                    let weight = shapes[number - 1].len() == 4;
                    all.extend(std::iter::repeat_n(if weight { 1.0 } else { 0.0 }, count));
                    continue;
                }
            };
            all.extend(
                (all.len()..all.len() + count).map(|at| ((2.0 * random::unit(seed, at as u64) - 1.0) * bound) as f32),
            );
        }
        all
    }

    fn instance(&self) -> Result<Box<dyn Instance + '_>, TchError> {
        Ok(Box::new(self))
    }
}

impl Instance for &ResNet {
    fn leaves(&mut self, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
        views(flat, &self.shapes())
    }

    fn logits(&self, leaves: &[Tensor], x: &Tensor, _training: Option<u64>) -> Result<Tensor, TchError> {
        let mut next = leaves.iter();
        // There are as many as `shapes` says, by `views`.
        let mut take = || next.next().map(Tensor::shallow_clone).unwrap_or_default();
        let mut convolve = |x: &Tensor, [_, _, side]: Convolution, stride: i64| {
            let (kernel, weight, bias, padding) = (take(), take(), take(), (side / 2) as i64);
            x.f_conv2d(&kernel, None::<Tensor>, [stride, stride], [padding, padding], [1, 1], 1)?.f_group_norm(
                GROUPS,
                Some(weight),
                Some(bias),
                EPSILON,
                false,
            )
        };
        let mut x = convolve(x, self.stem(), 1)?.f_relu()?;
        for block in self.all_blocks() {
            let stride = if block.shortcut.is_some() { 2 } else { 1 };
            let inner = convolve(&x, block.first, stride)?.f_relu()?;
            let inner = convolve(&inner, block.second, 1)?;
            let past = match block.shortcut {
                Some(shortcut) => convolve(&x, shortcut, stride)?,
                None => x,
            };
            x = inner.f_add(&past)?.f_relu()?;
        }
        let mean = x.f_mean_dim(&[2_i64, 3][..], false, Kind::Float)?;
        let (weight, bias) = (take(), take());
        mean.f_linear(&weight, Some(bias))
    }
}
