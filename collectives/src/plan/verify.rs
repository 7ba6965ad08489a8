//! Proves of a plan, before it runs, that it computes what it says and cannot block.
//!
//! What is proved, for every speed of every rank and every delay of a put or a signal:
//!
//! - all slices are inside their buffers, and every step is one that the [`Layout`] allows;
//! - no rank waits for ever, and everything that is sent is waited for;
//! - there is no data race: of two accesses to one element of which one is a write, signals order one before the other.
//!   A put lasts, at its source as at its destination, until the receiver's wait for the next signal of that pair;
//! - every output element is what [`Collective`](super::Collective) says, a reduction with every rank's input once;
//! - nobody reads a rank's input, or touches its output, after that rank has ended.
//!
//! An access by a rank to its own memory is ordered by its program, puts excepted. Memory that is not written yet has no
//! content, so that a plan cannot depend on what an earlier one left.

mod ending;
mod forest;
mod form;
mod memory;
pub(super) mod order;
mod refusal;
mod run;

pub use refusal::Refusal;

pub(super) use form::well_formed;

use super::{Guarantee, Layout, Plan};

/// What was proved of a plan, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// What is promised of the bits, where the collective reduces.
    pub guarantee: Option<Guarantee>,
    /// Steps of all ranks together.
    pub steps: usize,
    /// For each rank, bytes that it moves between its own memory and that of others: what it puts and sends in packets,
    /// reads from others and writes to them.
    pub bytes_moved: Vec<u64>,
    /// The longest chain of signals, packets and exposes of which each waits for the one before.
    pub depth: usize,
}

/// Proves that `plan` is right for `layout`.
///
/// It takes each step once, so time grows with the steps; and a little with the ranks, as clocks and readers do.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(plan: &Plan, layout: &Layout) -> Result<Proof, Refusal> {
    let lengths = form::check(plan, layout)?;
    let run = run::Run::new(plan, &lengths)?;
    let guarantee = ending::check(&run)?;
    Ok(Proof {
        guarantee,
        steps: plan.programs.iter().map(Vec::len).sum(),
        bytes_moved: run.bytes_moved(),
        depth: run.order.depth(),
    })
}

#[cfg(test)]
mod tests;
