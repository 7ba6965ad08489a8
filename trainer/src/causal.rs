//! Training a causal language model on many ranks: pipeline stages, tensor-parallel layers and data-parallel replicas.
//!
//! | part | what it is |
//! |---|---|
//! | [`layout`] | which part of the model a rank holds, and where it lies in one flat buffer |
//! | [`stage`] | one pass of a chunk of layers over one micro-batch, forwards and backwards, without autograd |

pub mod layout;
pub mod stage;

mod block;
mod ops;
#[cfg(test)]
mod tests;

/// Why training on many ranks went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CausalError {
    /// libtorch says so.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The model cannot be cut so.
    #[error(transparent)]
    Slice(#[from] layout::SliceError),
    /// A collective on tensors failed.
    #[error(transparent)]
    Collective(#[from] crate::collective::TensorCollectiveError),
    /// The schedule asks for what cannot be.
    #[error("the schedule is wrong: {0}")]
    Schedule(String),
}
