//! Why a plan was refused.

use crate::plan::{MAX_RANKS, Place, Rank};

/// What is wrong with a plan. Ranks and steps count from 0, positions and lengths are in elements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The collective, the group and the layout do not fit together, or a number is too large.
    #[error("the plan makes no sense: {why}")]
    Malformed {
        /// What does not fit.
        why: String,
    },
    /// The plan needs more scratch than there is.
    #[error("{elements} elements of scratch are {needed} bytes each rank, and there are {available}")]
    Scratch {
        /// What the plan asks for.
        elements: usize,
        /// The same in bytes; `usize::MAX` where it is even more.
        needed: usize,
        /// Bytes that the layout has.
        available: usize,
    },
    /// A step of no elements.
    #[error("rank {rank}, step {step}: nothing to do, the slice is empty")]
    Empty {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
    },
    /// Source and destination differ in length.
    #[error("rank {rank}, step {step}: {from} elements cannot go to {to}")]
    Lengths {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// Elements of the source.
        from: usize,
        /// Elements of the other source or of the destination.
        to: usize,
    },
    /// A slice reaches beyond its buffer.
    #[error("rank {rank}, step {step}: {place} is outside the buffer, which has {len} elements")]
    Outside {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What was meant.
        place: Place,
        /// Elements that there are.
        len: usize,
    },
    /// A rank that is not in the group.
    #[error("rank {rank}, step {step}: there is no rank {other}")]
    NoRank {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// Who is not there.
        other: Rank,
    },
    /// A rank puts to itself, signals itself or waits for itself.
    #[error("rank {rank}, step {step}: a rank cannot put to, signal or wait for itself")]
    Itself {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
    },
    /// A write to an input or to a packet.
    #[error("rank {rank}, step {step}: writes {place}, which may only be read")]
    ReadOnly {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What it writes.
        place: Place,
    },
    /// The layout does not allow the step.
    #[error("rank {rank}, step {step}: {place} cannot be reached, {why}")]
    Unreachable {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What it reads or writes.
        place: Place,
        /// What would be needed.
        why: &'static str,
    },
    /// The two ranks have no packets or cannot expose, or the packet is too large.
    #[error("rank {rank}, step {step}: {why}")]
    Channel {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What is not possible.
        why: String,
    },
    /// Another rank's input or output before `Meet`, or a packet before `WaitPacket`.
    #[error("rank {rank}, step {step}: {place} is not known yet, {missing} has to come first")]
    Unmet {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What it reads or writes.
        place: Place,
        /// What has to come first.
        missing: &'static str,
    },
    /// A second packet, or a second expose, of the same pair.
    #[error("rank {rank}, step {step}: one {what} to rank {other} is all there may be")]
    Twice {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What there is one too many of.
        what: &'static str,
        /// To whom.
        other: Rank,
    },
    /// A reduction with other than one to [`MAX_RANKS`] sources, or one or two destinations.
    #[error(
        "rank {rank}, step {step}: {sources} sources and {destinations} destinations (1 to {MAX_RANKS}, and 1 or 2)"
    )]
    Arity {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// Sources that it has.
        sources: usize,
        /// Destinations that it has.
        destinations: usize,
    },
    /// A step overlaps itself: two destinations, or a destination and another part of a source.
    #[error("rank {rank}, step {step}: {one} overlaps {other} in one step")]
    Overlap {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// One place.
        one: Place,
        /// The other.
        other: Place,
    },
    /// A put that nothing tells the receiver of.
    #[error("rank {rank}, step {step}: rank {to} is never signalled after this put")]
    Unsignalled {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// Who would have to be signalled.
        to: Rank,
    },
    /// A rank waits for ever.
    #[error("rank {rank} stays at step {step}: {chain}")]
    Blocked {
        /// Who.
        rank: Rank,
        /// At which step.
        step: usize,
        /// Who waits for whom.
        chain: String,
    },
    /// Something was sent and never waited for.
    #[error("{count} {what} from rank {from} to rank {to} is or are never waited for")]
    LeftOver {
        /// Who sent.
        from: Rank,
        /// To whom.
        to: Rank,
        /// What.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A read of elements that hold nothing yet.
    #[error("rank {rank}, step {step}: reads {place}, where nothing was written")]
    Undefined {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// What it reads.
        place: Place,
    },
    /// Two accesses to the same elements, one of them a write, in no order.
    #[error(
        "rank {rank}, step {step}: {what} {place}, and nothing puts {before} of rank {other}, step {other_step}, before it"
    )]
    Race {
        /// Whose program.
        rank: Rank,
        /// Which step.
        step: usize,
        /// `reads` or `writes`.
        what: &'static str,
        /// What both touch.
        place: Place,
        /// What the other does.
        before: &'static str,
        /// The other.
        other: Rank,
        /// Its step.
        other_step: usize,
    },
    /// A rank may end, and its caller use its input and output, while another one still reads or writes there.
    #[error("rank {rank} may have ended when rank {other}, step {step}, {what} {place}")]
    Open {
        /// Who ends.
        rank: Rank,
        /// Who is still there.
        other: Rank,
        /// Doing which step.
        step: usize,
        /// `reads` or `writes`.
        what: &'static str,
        /// Where.
        place: Place,
    },
    /// Elements of an output that nobody writes.
    #[error("{place} is never written")]
    Unwritten {
        /// Which.
        place: Place,
    },
    /// Elements of an output that hold something else than what was asked for.
    #[error("{place} holds {found} and not {wanted}")]
    Value {
        /// Which.
        place: Place,
        /// What is there.
        found: String,
        /// What should be there.
        wanted: String,
    },
    /// Elements that two ranks have reduced differently, so that rounding may differ.
    #[error("{place} holds {found}, and {other_found} at rank {other}: the order differs, and so may the bits")]
    Differs {
        /// Which.
        place: Place,
        /// What is there.
        found: String,
        /// The other rank.
        other: Rank,
        /// What is there at the other rank.
        other_found: String,
    },
    /// A barrier that does not hold back.
    #[error("rank {rank} may end before rank {other} begins")]
    Barrier {
        /// Who ends.
        rank: Rank,
        /// Who may not have begun.
        other: Rank,
    },
}
