//! The layered networks of `swarmloom-classifiers` on libtorch: what that crate's engine is compared with.

use swarmloom_classifiers::{Layer, Network};
use swarmloom_kernels::random;
use tch::{TchError, Tensor};

use super::{Instance, Net, views};

impl Net for &Network {
    fn name(&self) -> &str {
        &self.name
    }

    fn input(&self) -> Vec<i64> {
        self.input.iter().map(|size| *size as i64).collect()
    }

    fn classes(&self) -> usize {
        Network::classes(self)
    }

    fn parameters(&self) -> usize {
        Network::parameters(self)
    }

    fn init(&self, seed: u64) -> Vec<f32> {
        Network::init(self, seed)
    }

    fn instance(&self) -> Result<Box<dyn Instance + '_>, TchError> {
        Ok(Box::new(*self))
    }
}

impl Instance for &Network {
    fn leaves(&mut self, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
        views(flat, &self.shapes())
    }

    fn logits(&self, leaves: &[Tensor], x: &Tensor, training: Option<u64>) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        let mut next = leaves.iter();
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
}

/// What dropout multiplies with. Whole channels of images are dropped together (Tompson et al. 2015).
fn kept(x: &Tensor, part: f64, seed: u64) -> Result<Tensor, TchError> {
    let size = x.size();
    let shape: Vec<i64> = size.iter().enumerate().map(|(at, size)| if at < 2 { *size } else { 1 }).collect();
    let count: i64 = shape.iter().product();
    let scale = (1.0 / (1.0 - part)) as f32;
    let mask: Vec<f32> =
        (0..count as u64).map(|index| if random::unit(seed, index) < part { 0.0 } else { scale }).collect();
    Tensor::f_from_slice(&mask)?.f_view(shape.as_slice())
}
