//! Training a causal language model on many ranks: pipeline stages, tensor-parallel layers and data-parallel replicas.
//!
//! | part | what it is |
//! |---|---|
//! | [`layout`] | which part of the model a rank holds, and where it lies in one flat buffer |
//! | [`stage`] | one pass of a chunk of layers over one micro-batch, forwards and backwards, without autograd |
//! | [`links`] | the groups that a rank is in, each with connections and a thread of its own |
//! | [`optimizer`] | AdamW with its state sharded over the replicas |
//! | [`measure`] | what the model's layers cost on this rank |
//! | [`samples`] | which tokens each step learns from |
//! | [`saved`] | checkpoints that any mesh can go on from |
//! | [`worker`] | one rank's part of a step: the schedule of its stage, carried out |

pub mod layout;
pub mod links;
pub mod measure;
pub mod optimizer;
pub mod samples;
pub mod saved;
pub mod stage;
pub mod worker;

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
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Saved(#[from] saved::SavedError),
    /// A thread could not be started.
    #[error("a thread for a link: {0}")]
    Thread(std::io::Error),
    /// Nothing came over a link.
    #[error("a link to another rank: {0}")]
    Link(String),
    /// Samples could not be read.
    #[error("samples: {0}")]
    Samples(String),
    /// The schedule asks for what cannot be.
    #[error("the schedule is wrong: {0}")]
    Schedule(String),
}
