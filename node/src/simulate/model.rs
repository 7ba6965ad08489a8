//! `[model]`: what clients train.

use std::path::PathBuf;

use ring::digest;
use serde::{Deserialize, Serialize};
use swarmloom_classifiers::{Model, Network};
use swarmloom_trainer::federated::{ResNet, Script, Torch, Transformer};

use crate::hex;

/// `[model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ModelTable {
    /// Rectified layers of these widths.
    Mlp {
        /// Widths.
        hidden: Vec<usize>,
    },
    /// LeNet-5.
    Lenet5,
    /// The network of the reference program of arXiv 2309.13536.
    ReferenceCnn,
    /// A residual network of eight layers, normalised by groups.
    Resnet8,
    /// One of eighteen.
    Resnet18,
    /// The next character, by a small decoder of the Llama family.
    Transformer {
        /// Width of the residual stream.
        #[serde(default = "sixty_four")]
        dim: usize,
        /// Layers.
        #[serde(default = "two")]
        layers: usize,
        /// Heads of attention.
        #[serde(default = "four")]
        heads: usize,
    },
    /// One's own.
    Torchscript {
        /// What PyTorch's `save` has written.
        path: PathBuf,
    },
}

fn sixty_four() -> usize {
    64
}

fn two() -> usize {
    2
}

fn four() -> usize {
    4
}

/// What is wrong: the key below `model`, empty for the table itself, and why.
pub(crate) type Wrong = (&'static str, String);

/// A model for certain data.
pub(crate) struct Built {
    /// It.
    pub(crate) model: Box<dyn Model>,
    /// What the simulation file does not say of it: the digest of a file that it names.
    pub(crate) stamp: String,
}

impl ModelTable {
    /// What no data make right.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        match self {
            Self::Mlp { hidden } if hidden.len() > 16 || hidden.iter().any(|width| !(1..=8192).contains(width)) => {
                Err(("hidden", "at most 16 layers of 1 to 8192".into()))
            }
            Self::Transformer { layers, .. } if !(1..=64).contains(layers) => {
                Err(("layers", "1 to 64 are possible".into()))
            }
            Self::Transformer { heads, .. } if !(1..=64).contains(heads) => {
                Err(("heads", "1 to 64 are possible".into()))
            }
            Self::Transformer { dim, heads, .. } if !(2..=4096).contains(dim) || !dim.is_multiple_of(2 * heads) => {
                Err(("dim", format!("a multiple of twice the heads, here {}, at most 4096", 2 * heads)))
            }
            _ => Ok(()),
        }
    }

    /// Whether it takes text and nothing else.
    pub(crate) fn reads(&self) -> bool {
        matches!(self, Self::Transformer { .. })
    }

    /// For data of this shape.
    pub(crate) fn build(&self, shape: [usize; 3], classes: usize) -> Result<Built, Wrong> {
        let [channels, height, width] = shape;
        let square = |least: usize| match (height == width, height >= least) {
            (true, true) => Ok(height),
            _ => Err(("", format!("images are {height} by {width}; it takes square ones from {least} by {least} on"))),
        };
        let residual = |net: ResNet| match height.min(width) >= net.least_side() {
            true => Ok(Box::new(Torch(net))),
            false => {
                let least = net.least_side();
                Err(("", format!("images are {height} by {width}; it takes such from {least} by {least} on")))
            }
        };
        let mut stamp = String::new();
        let model: Box<dyn Model> = match self {
            Self::Mlp { hidden } => Box::new(Network::mlp(channels * height * width, hidden, classes)),
            Self::Lenet5 => Box::new(Network::lenet5(channels, square(16)?, classes)),
            Self::ReferenceCnn => Box::new(Network::reference_cnn(channels, square(16)?, classes)),
            Self::Resnet8 => residual(ResNet::resnet8(shape, classes))?,
            Self::Resnet18 => residual(ResNet::resnet18(shape, classes))?,
            Self::Transformer { dim, layers, heads } => {
                let net = Transformer::new(classes, width, [*dim, *layers, *heads]);
                Box::new(Torch(net.map_err(|error| ("", error.to_string()))?))
            }
            Self::Torchscript { path } => {
                let script = Script::load(path, shape, classes).map_err(|error| ("path", error.to_string()))?;
                stamp = hex::encode(digest::digest(&digest::SHA256, script.bytes()).as_ref());
                Box::new(Torch(script))
            }
        };
        Ok(Built { model, stamp })
    }
}
