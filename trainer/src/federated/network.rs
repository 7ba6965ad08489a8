//! Classifiers as lists of layers, with their parameters in one flat vector.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use super::{FederatedError, Samples, check};
use crate::random;

/// One layer. Images are `[samples, channels, height, width]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Square kernels with stride 1.
    Convolution {
        /// Channels in.
        from: usize,
        /// Channels out.
        to: usize,
        /// Width of a kernel.
        kernel: usize,
        /// Zeros around the image.
        padding: usize,
    },
    /// The largest of each 2 by 2.
    MaxPool,
    /// `max(0, x)`.
    Relu,
    /// In training, this part of the values is zero, and the others are larger by as much; per channel for images.
    Dropout(f64),
    /// From images to vectors.
    Flatten,
    /// With a bias.
    Linear {
        /// Width in.
        from: usize,
        /// Width out.
        to: usize,
    },
}

/// A classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name for people.
    pub name: String,
    /// Channels, height and width of a sample; a vector is one row of one channel.
    pub input: [usize; 3],
    /// From the sample to the logits.
    pub layers: Vec<Layer>,
}

impl Network {
    /// One hidden layer per width, rectified.
    pub fn mlp(inputs: usize, hidden: &[usize], classes: usize) -> Self {
        let mut layers = vec![Layer::Flatten];
        let mut from = inputs;
        for to in hidden {
            layers.extend([Layer::Linear { from, to: *to }, Layer::Relu]);
            from = *to;
        }
        layers.push(Layer::Linear { from, to: classes });
        Self { name: "mlp".into(), input: [1, 1, inputs], layers }
    }

    /// LeNet-5 as it is trained today (rectified, largest of four): 61,706 parameters for 28 by 28 and ten classes. LeCun et
    /// al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    pub fn lenet5(channels: usize, side: usize, classes: usize) -> Self {
        // The first convolution keeps the size of 28 by 28, and makes 28 by 28 of 32 by 32.
        let padding = if side == 28 { 2 } else { 0 };
        let after = ((side + 2 * padding - 4) / 2 - 4) / 2;
        let layers = vec![
            Layer::Convolution { from: channels, to: 6, kernel: 5, padding },
            Layer::Relu,
            Layer::MaxPool,
            Layer::Convolution { from: 6, to: 16, kernel: 5, padding: 0 },
            Layer::Relu,
            Layer::MaxPool,
            Layer::Flatten,
            Layer::Linear { from: 16 * after * after, to: 120 },
            Layer::Relu,
            Layer::Linear { from: 120, to: 84 },
            Layer::Relu,
            Layer::Linear { from: 84, to: classes },
        ];
        Self { name: "lenet5".into(), input: [channels, side, side], layers }
    }

    /// The network of the reference program for intertwined heterogeneity (`CNNMnist` in
    /// pittisl/FL-with-intertwined-heterogeneity): 21,840 parameters for 28 by 28 and ten classes.
    pub fn reference_cnn(channels: usize, side: usize, classes: usize) -> Self {
        let after = ((side - 4) / 2 - 4) / 2;
        let layers = vec![
            Layer::Convolution { from: channels, to: 10, kernel: 5, padding: 0 },
            Layer::MaxPool,
            Layer::Relu,
            Layer::Convolution { from: 10, to: 20, kernel: 5, padding: 0 },
            Layer::Dropout(0.5),
            Layer::MaxPool,
            Layer::Relu,
            Layer::Flatten,
            Layer::Linear { from: 20 * after * after, to: 50 },
            Layer::Relu,
            Layer::Dropout(0.5),
            Layer::Linear { from: 50, to: classes },
        ];
        Self { name: "reference-cnn".into(), input: [channels, side, side], layers }
    }

    /// Values of a sample.
    pub fn features(&self) -> usize {
        self.input.iter().product()
    }

    /// Width of the logits.
    pub fn classes(&self) -> usize {
        let linear = self.layers.iter().rev().find_map(|layer| match layer {
            Layer::Linear { to, .. } => Some(*to),
            _ => None,
        });
        linear.unwrap_or(0)
    }

    /// Shapes of the parameters, in their order in the flat vector.
    pub fn shapes(&self) -> Vec<Vec<i64>> {
        let of = |layer: &Layer| match *layer {
            Layer::Convolution { from, to, kernel, .. } => {
                vec![vec![to as i64, from as i64, kernel as i64, kernel as i64], vec![to as i64]]
            }
            Layer::Linear { from, to } => vec![vec![to as i64, from as i64], vec![to as i64]],
            _ => Vec::new(),
        };
        self.layers.iter().flat_map(of).collect()
    }

    /// How many parameters there are.
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|shape| shape.iter().product::<i64>() as usize).sum()
    }

    /// Fresh parameters: uniform in plus or minus one over the root of a layer's inputs, as PyTorch's layers have it.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.parameters());
        for pair in self.shapes().chunks(2) {
            let inputs: i64 = pair[0][1..].iter().product();
            let bound = 1.0 / (inputs as f64).sqrt();
            for shape in pair {
                for _ in 0..shape.iter().product::<i64>() {
                    all.push(((random::unit(seed, all.len() as u64) * 2.0 - 1.0) * bound) as f32);
                }
            }
        }
        all
    }

    /// Views of a flat vector, one for each parameter.
    pub(super) fn views(&self, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let mut at = 0;
        self.shapes()
            .iter()
            .map(|shape| {
                let length: i64 = shape.iter().product();
                at += length;
                flat.f_narrow(0, at - length, length)?.f_view(shape.as_slice())
            })
            .collect()
    }

    /// `[samples, channels, height, width]` of what is given flat.
    pub(super) fn batch(&self, features: &[f32]) -> Result<Tensor, FederatedError> {
        let [channels, height, width] = self.input.map(|size| size as i64);
        let samples = (features.len() / self.features().max(1)) as i64;
        check("the batch", features.len(), samples as usize * self.features())?;
        Ok(Tensor::f_from_slice(features)?.f_view([samples, channels, height, width])?)
    }

    /// Logits, `[samples, classes]`. With `training`, dropout follows from that seed.
    pub(super) fn forward(&self, parameters: &[Tensor], x: &Tensor, training: Option<u64>) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        let mut next = parameters.iter();
        // There are as many as `shapes` says, by `views`.
        let mut take = || next.next().map(Tensor::shallow_clone).unwrap_or_default();
        for (number, layer) in self.layers.iter().enumerate() {
            x = match layer {
                Layer::Convolution { padding, .. } => {
                    let (weight, bias, padding) = (take(), take(), *padding as i64);
                    x.f_conv2d(&weight, Some(bias), [1, 1], [padding, padding], [1, 1], 1)?
                }
                Layer::MaxPool => x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?,
                Layer::Relu => x.f_relu()?,
                Layer::Dropout(part) => match training {
                    Some(seed) => x.f_mul(&kept(&x, *part, random::bits(seed, number as u64))?)?,
                    None => x,
                },
                Layer::Flatten => x.f_flatten(1, -1)?,
                Layer::Linear { .. } => {
                    let (weight, bias) = (take(), take());
                    x.f_linear(&weight, Some(bias))?
                }
            };
        }
        Ok(x)
    }

    /// The class that the network gives each sample.
    ///
    /// # Errors
    /// [`FederatedError`] where lengths do not fit.
    pub fn predict(&self, parameters: &[f32], features: &[f32]) -> Result<Vec<u8>, FederatedError> {
        check("the parameters", parameters.len(), self.parameters())?;
        let _no_grad = tch::no_grad_guard();
        let views = self.views(&Tensor::f_from_slice(parameters)?)?;
        let mut classes = Vec::new();
        // As much as stays in the cache.
        for part in features.chunks(512 * self.features().max(1)) {
            let best = self.forward(&views, &self.batch(part)?, None)?.f_argmax(1, false)?;
            classes.extend(Vec::<i64>::try_from(best)?.into_iter().map(|class| class as u8));
        }
        Ok(classes)
    }

    /// Right answers and samples, by class.
    ///
    /// # Errors
    /// As [`Network::predict`].
    pub fn score(&self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, FederatedError> {
        let mut counts = vec![[0; 2]; self.classes()];
        for (found, wanted) in self.predict(parameters, samples.features)?.iter().zip(samples.labels) {
            if let Some(count) = counts.get_mut(usize::from(*wanted)) {
                count[0] += u32::from(found == wanted);
                count[1] += 1;
            }
        }
        Ok(counts)
    }
}

/// What dropout multiplies with. Whole channels of images are dropped together (Tompson et al. 2015).
fn kept(x: &Tensor, part: f64, seed: u64) -> Result<Tensor, TchError> {
    let size = x.size();
    let shape: Vec<i64> = size.iter().enumerate().map(|(at, size)| if at < 2 { *size } else { 1 }).collect();
    let count: i64 = shape.iter().product();
    let scale = (1.0 / (1.0 - part)) as f32;
    let mask: Vec<f32> =
        (0..count as u64).map(|index| if random::unit(seed, index) < part { 0.0 } else { scale }).collect();
    Tensor::f_from_slice(&mask)?.f_view(shape.as_slice())?.f_to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_parameters_that_are_published() {
        assert_eq!(Network::lenet5(1, 28, 10).parameters(), 61_706);
        assert_eq!(Network::reference_cnn(1, 28, 10).parameters(), 21_840);
        assert_eq!(Network::mlp(64, &[64], 10).parameters(), 4_810);
        assert_eq!(Network::lenet5(3, 32, 10).parameters(), 62_006);
    }

    #[test]
    fn a_linear_network_computes_by_hand_what_it_should() {
        let network = Network::mlp(2, &[2], 2);
        // Hidden: (x0 - x1, x1 - 3), rectified; logits: (h0, 2 h1 + 0.5).
        let parameters = [1.0, -1.0, 0.0, 1.0, 0.0, -3.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.5];
        let classes = network.predict(&parameters, &[5.0, 1.0, 1.0, 4.0, 0.0, 0.0]).expect("classes");
        assert_eq!(classes, [0, 1, 1]);
        let samples = Samples { features: &[5.0, 1.0, 1.0, 4.0], labels: &[0, 0] };
        assert_eq!(network.score(&parameters, samples).expect("counts"), [[1, 2], [0, 0]]);
    }

    #[test]
    fn fresh_parameters_follow_from_the_seed_and_stay_within_their_bound() {
        let network = Network::lenet5(1, 28, 10);
        let (one, same, other) = (network.init(1), network.init(1), network.init(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        // The first convolution has 25 inputs.
        assert!(one[..156].iter().all(|value| value.abs() <= 0.2) && one[..156].iter().any(|value| value.abs() > 0.19));
    }
}
