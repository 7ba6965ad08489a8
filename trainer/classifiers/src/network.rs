//! Classifiers as lists of layers, with their parameters in one flat vector.

use serde::{Deserialize, Serialize};
use swarmloom_kernels::random;

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
    pub fn shapes(&self) -> Vec<Vec<usize>> {
        let of = |layer: &Layer| match *layer {
            Layer::Convolution { from, to, kernel, .. } => {
                vec![vec![to, from, kernel, kernel], vec![to]]
            }
            Layer::Linear { from, to } => vec![vec![to, from], vec![to]],
            _ => Vec::new(),
        };
        self.layers.iter().flat_map(of).collect()
    }

    /// How many parameters there are.
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Fresh parameters: uniform in plus or minus one over the root of a layer's inputs, as PyTorch's layers have it.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.parameters());
        for pair in self.shapes().chunks(2) {
            let inputs: usize = pair[0][1..].iter().product();
            let bound = 1.0 / (inputs as f64).sqrt();
            for shape in pair {
                for _ in 0..shape.iter().product::<usize>() {
                    all.push(((random::unit(seed, all.len() as u64) * 2.0 - 1.0) * bound) as f32);
                }
            }
        }
        all
    }
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
    fn fresh_parameters_follow_from_the_seed_and_stay_within_their_bound() {
        let network = Network::lenet5(1, 28, 10);
        let (one, same, other) = (network.init(1), network.init(1), network.init(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        // The first convolution has 25 inputs.
        assert!(one[..156].iter().all(|value| value.abs() <= 0.2) && one[..156].iter().any(|value| value.abs() > 0.19));
    }
}
