//! What a caller of a collective sees when it fails.

use crate::bootstrap::BootstrapError;
use crate::fault::Fault;
use crate::plan::Rank;
use crate::plan::build::BuildError;
use crate::plan::verify::Refusal;

/// Why a collective, or the making of a group, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// The operation ended without its result. The input is as it was, the output is undefined, and the group does
    /// nothing more until it is shrunk.
    #[error("{collective} (operation {sequence}) failed waiting for {awaited}: {fault}")]
    Failed {
        /// Which collective.
        collective: &'static str,
        /// Which operation of the group, from 1.
        sequence: u64,
        /// What was waited for.
        awaited: String,
        /// The rank that it was waited for, where it was one.
        on: Option<Rank>,
        /// Why.
        fault: Fault,
    },
    /// An earlier operation failed.
    #[error("the group has failed ({why}): call `shrink`, or make a new one")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// Lengths or ranks that do not fit together. Nothing was sent.
    #[error("{collective}: {why}")]
    Usage {
        /// Which collective.
        collective: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The group did not come together.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A transport could not be set up, or the survivors did not agree.
    #[error("{what}: {fault}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        fault: Fault,
    },
    /// A GPU did not do what it was asked, before anything was sent.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] swarmloom_gpu::GpuError),
    /// There is no such plan.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A plan was refused before it ran.
    #[error("the plan is wrong: {0}")]
    Refused(#[from] Refusal),
}

impl CollectiveError {
    /// The rank that is gone, or that did not do what was waited for, as the group of the operation counts ranks. `None`
    /// where another rank gave up first, because somebody hangs: then the text says who waited for whom.
    pub fn missing(&self) -> Option<Rank> {
        match self {
            Self::Failed { fault: Fault::Lost { rank, .. }, .. } => Some(*rank),
            Self::Failed { fault: Fault::Timeout { .. }, on, .. } => *on,
            _ => None,
        }
    }
}
