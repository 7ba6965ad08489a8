//! What can go wrong inside a wait or a transfer.

use std::time::Duration;

use crate::plan::Rank;

/// Why a wait or a transfer ended without what it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The process of that rank has ended, or its connection has.
    #[error("rank {rank} is gone: {how}")]
    Lost {
        /// Who.
        rank: Rank,
        /// How it was noticed.
        how: String,
    },
    /// The time was over.
    #[error("not within {} s", .after.as_secs_f64())]
    Timeout {
        /// How long it was waited.
        after: Duration,
    },
    /// Somebody gave up, and told everybody.
    #[error("aborted by rank {by}: {why}")]
    Aborted {
        /// Who.
        by: Rank,
        /// Why, in words.
        why: String,
    },
    /// The peer is in the same operation and does something else.
    #[error(
        "this rank and rank {rank} called something else in the same place: another collective, or one with another count, \
         type, operation or setting ({ours:08x} here, {theirs:08x} there)"
    )]
    Mismatch {
        /// Who.
        rank: Rank,
        /// Our tag.
        ours: u32,
        /// Its tag.
        theirs: u32,
    },
    /// The peer sent what no well-behaved peer sends.
    #[error("rank {rank} broke the protocol: {what}")]
    Protocol {
        /// Who.
        rank: Rank,
        /// What it did.
        what: String,
    },
    /// The system refused something.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        why: String,
    },
}
