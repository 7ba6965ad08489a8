//! Federated learning on libtorch: small classifiers as functions of a flat parameter vector, local training, and the
//! inversion that turns a stale update into a fresh one.
//!
//! Everything is a pure function of its arguments, randomness included, and runs on the processor with the threads that
//! the caller has given libtorch. A worker of a simulation gives it one.

pub mod invert;
pub mod local;
pub mod network;

pub use invert::{Inversion, Inverted, Recovered};
pub use local::{LocalSpec, Trained};
pub use network::Network;

/// Why something could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederatedError {
    /// libtorch says so.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
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
}

fn check(what: &'static str, found: usize, wanted: usize) -> Result<(), FederatedError> {
    if found == wanted { Ok(()) } else { Err(FederatedError::Length { what, found, wanted }) }
}
