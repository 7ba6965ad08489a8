//! Small classifiers as functions of a flat parameter vector, trained by the thousand: what the clients of a federated
//! simulation do, and the inversion that turns a stale update into a fresh one.
//!
//! Everything is a pure function of its arguments, randomness included. The arithmetic is `swarmloom-kernels`'; other
//! models, those of libtorch among them, come in through [`Model`] and [`Worker`].

pub mod engine;
pub mod invert;
pub mod local;
pub mod model;
pub mod network;

pub use engine::Engine;
pub use invert::{Inversion, Inverted, Labels, Recovered, Repeated, Unroll};
pub use local::{LocalSpec, Trained};
pub use model::{Model, Worker};
pub use network::{Layer, Network};

/// Why something could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifierError {
    /// A library that a model uses says so.
    #[error("{library}: {why}")]
    Library {
        /// Which.
        library: &'static str,
        /// What it says.
        why: String,
    },
    /// Lengths that do not fit.
    #[error("{what} has {found} elements, not {wanted}")]
    Length {
        /// What.
        what: &'static str,
        /// Its elements.
        found: usize,
        /// Those that it should have.
        wanted: usize,
    },
    /// A value that makes no sense.
    #[error("{what}: {why}")]
    Value {
        /// Which setting.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// Samples with their labels.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// `[samples, features]`, as the network takes them.
    pub features: &'a [f32],
    /// `[samples]`, below the network's classes.
    pub labels: &'a [u8],
}

impl Samples<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Whether they are ones for a model with so many features and classes.
    ///
    /// # Errors
    /// [`ClassifierError`] where lengths do not fit or a label is no class.
    pub fn check(&self, features: usize, classes: usize) -> Result<(), ClassifierError> {
        check("the features", self.features.len(), self.len() * features)?;
        match self.labels.iter().max() {
            Some(label) if usize::from(*label) >= classes => Err(ClassifierError::Value {
                what: "a label",
                why: format!("it is {label}, and the network has {classes} classes"),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether something has the length that it should have.
///
/// # Errors
/// [`ClassifierError::Length`] where it has not.
pub fn check(what: &'static str, found: usize, wanted: usize) -> Result<(), ClassifierError> {
    if found == wanted { Ok(()) } else { Err(ClassifierError::Length { what, found, wanted }) }
}
