//! Federated learning in virtual time: a timeline says who starts when and whose update arrives when, workers train what is
//! used, a strategy makes the next version.
//!
//! A [`Course`] is one strategy with one seed. What it computes follows from its arguments alone; how many workers there
//! are, and in which order they finish, changes nothing. It hands out [`Job`]s, each a pure function of what it carries, to
//! an [`Executor`].

pub mod course;
pub mod data;
pub mod executor;
mod fnv;
pub mod ranks;
pub mod record;
pub mod reveal;

pub use course::{Attackers, Course, Entry, Setup};
pub use data::{Data, Drift, Transform};
pub use executor::{Executor, Job, Outcome, Threads};
pub use ranks::{Lane, Ranks};
pub use record::{Evaluation, Record, Tally};
pub use reveal::Revealed;

use swarmloom_classifiers::ClassifierError;
use swarmloom_collectives::CollectiveError;
use swarmloom_federated::{AggregateError, RuleError};
use swarmloom_population::{PartitionError, PopulationError, TimelineError};

/// Why a simulation ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// A client's training, a score, an inversion.
    #[error(transparent)]
    Classifier(#[from] ClassifierError),
    /// The timeline cannot go on.
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    /// There are no such clients.
    #[error(transparent)]
    Population(#[from] PopulationError),
    /// The data cannot be shared out like this.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The strategy's settings.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A strategy's settings do not go with those of the simulation.
    #[error("{strategy}: {why}")]
    Setting {
        /// Which.
        strategy: String,
        /// What does not go together.
        why: String,
    },
    /// The strategy found no next version.
    #[error("{strategy}, seed {seed}: {error}")]
    Aggregate {
        /// Which.
        strategy: String,
        /// Of the run.
        seed: u64,
        /// What it says.
        error: AggregateError,
    },
    /// A saved state that is not one, or of another run.
    #[error("a saved state cannot be taken up: {0}")]
    State(String),
    /// A rank could not compute something: the same on all ranks.
    #[error("rank {rank}: {why}")]
    Rank {
        /// Which.
        rank: usize,
        /// What it says.
        why: String,
    },
    /// Ranks that should be alike are not.
    #[error(
        "rank {rank} and rank 0 differ in {what}: they need the same program, the same files, and processors that compute the \
         same bits"
    )]
    Diverged {
        /// Which, the first of those.
        rank: usize,
        /// In what.
        what: &'static str,
    },
    /// Ranks lost each other.
    #[error("ranks cannot go on: {0}")]
    Ranks(Box<CollectiveError>),
    /// Another run of the same simulation ended with an error.
    #[error("stopped because of another run: {0}")]
    Stopped(String),
    /// The workers are gone.
    #[error("a worker stopped: {0}")]
    Worker(String),
}
