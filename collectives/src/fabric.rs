//! What a transport provides: one rank's channels to all others.
//!
//! A [`Fabric`] belongs to one rank of one group in one epoch. It moves bytes and counts signals; what they are for is
//! the plan's business. All transports have the semantics written here, and the conformance suite holds them to it.
//!
//! # Memory
//!
//! Every rank has one scratch area that others can write. It has two halves; operation `s` (counted from 1) uses half
//! `s % 2`, and offsets count from the start of what it uses there. A rank in operation `s` may write to a peer that is still in
//! `s - 1`; it never writes to one that is in `s - 2`, because [`Fabric::begin`] of `s` waits, where it must, until every
//! peer has ended `s - 2`. So a slow reader never sees its data overwritten, and no barrier is needed between operations.
//!
//! # Order
//!
//! - Puts to one peer may land in any order, also after later puts.
//! - [`Fabric::signal`] is a release: whoever has waited for it (acquire) sees every put to it that came before the signal,
//!   and everything that the signaller wrote into memory that both map.
//! - Signals of one peer are counted, never merged or lost; [`Fabric::wait`] consumes exactly one.
//! - A packet is a small put and its signal in one, counted apart from signals.
//! - Nothing is promised about the order between different peers beyond what chains of signals give.
//!
//! # Failure
//!
//! Every call that may wait takes a [`Patience`]: it ends with a [`Fault`] when the time is over, when the group was
//! aborted, or when a peer is lost. After a fault the fabric is good for nothing but being dropped. Bytes of an older
//! epoch are never taken in.

mod bell;
mod bell_core;
#[cfg(test)]
mod conformance;
pub mod mixed;
pub mod ofi;
pub mod region;
pub mod shm;
pub mod simulated;
pub mod tcp;

use std::fmt::Debug;

use crate::fault::Fault;
use crate::patience::Patience;
use crate::plan::{Rank, Reach};

/// Memory by address: it may be shared with another process, so no reference to it is ever made.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    /// First byte.
    pub at: *mut u8,
    /// How many.
    pub bytes: usize,
}

// SAFETY: an address is plain data; whoever reads or writes there states why it may.
unsafe impl Send for Raw {}

impl Raw {
    /// No memory.
    pub const EMPTY: Self = Self { at: std::ptr::NonNull::<u8>::dangling().as_ptr(), bytes: 0 };
}

/// An operation that begins.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which of the group, from 1, the same on every rank.
    pub sequence: u64,
    /// What it is, hashed: ranks that do different things notice it. Never 0.
    pub tag: u32,
    /// The caller's input. Not written to.
    pub input: Raw,
    /// The caller's output.
    pub output: Raw,
}

/// Where a put goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The peer's scratch: bytes from the start of the operation's half.
    Scratch(usize),
    /// The peer's output of the same operation, where [`Reach::put_output`] says so.
    Output(usize),
}

/// Which of a peer's buffers is meant by [`Fabric::direct`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The operation's half of its scratch.
    Scratch,
    /// Its input, once met.
    Input,
    /// Its output, once met.
    Output,
}

/// One rank's channels to all others of its group.
///
/// Peers are named by rank; naming oneself is a mistake of the caller and may panic. Calls come from one thread at a time.
pub trait Fabric: Send + Debug {
    /// The transport's name: `shm`, `tcp`, ...
    fn name(&self) -> &'static str;

    /// What this rank can do to `peer`'s memory.
    fn reach(&self, peer: Rank) -> Reach;

    /// This rank's scratch: one half.
    fn scratch_bytes(&self) -> usize;

    /// Tells peers of the regions that exist now, where the transport has such.
    fn publish_regions(&self) {}

    /// The half that the current operation uses.
    fn scratch(&self) -> Raw;

    /// Says how many bytes of its half the next operation uses, and whether it is to use others than the operation before:
    /// the same on every rank. A line that was used a while ago has fallen out of the other core's cache, and on some
    /// machines to write it again costs half as much; on others it is the other way round.
    fn use_scratch(&mut self, bytes: usize, wander: bool) {
        let _ = (bytes, wander);
    }

    /// Begins an operation. Waits until its half of everybody's scratch is free.
    ///
    /// # Errors
    /// A fault of a wait.
    ///
    /// # Safety
    /// `entry.input` stays readable and `entry.output` writable, and nobody else touches them, until [`Fabric::end`] has
    /// returned or the fabric is dropped.
    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault>;

    /// Ends the operation: all puts have left this rank's memory, and peers may learn that its half is free again.
    ///
    /// # Errors
    /// A fault of a wait.
    fn end(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault>;

    /// Writes `bytes` from `from` to `to` at `peer`; with `signal`, one signal follows. The memory at `from` must not
    /// change until [`Fabric::flush`] or [`Fabric::end`] has returned, or this rank has heard, by a chain of signals, that the
    /// peer's wait for a later signal is over: that is how plans use a source again. A target outside the peer's memory is a fault,
    /// found by the receiver at the latest; it never writes outside.
    ///
    /// # Errors
    /// [`Fault`] where the peer cannot be reached.
    ///
    /// # Safety
    /// `bytes` from `from` are readable until then.
    unsafe fn put(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        to: Target,
        signal: bool,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault>;

    /// Raises the peer's count of this rank's signals by one, after all earlier puts to it.
    ///
    /// # Errors
    /// [`Fault`] where the peer cannot be reached.
    fn signal(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault>;

    /// Waits for the next signal of `peer` and consumes it.
    ///
    /// # Errors
    /// A fault of a wait; [`Fault::Mismatch`] where the peer is in the same operation with another tag.
    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault>;

    /// Whether [`Fabric::wait`] would return at once. Consumes nothing. Where all signals of this operation have been waited
    /// for, some transports already see those of the next.
    ///
    /// # Errors
    /// [`Fault`] where the peer cannot be reached.
    fn poll(&mut self, peer: Rank) -> Result<bool, Fault>;

    /// Sends a packet: at most one to each peer in an operation, of at most [`Reach::packet_bytes`]. The memory at `from`
    /// may change at once.
    ///
    /// # Errors
    /// [`Fault`] where the peer cannot be reached.
    ///
    /// # Safety
    /// `bytes` from `from` are readable.
    unsafe fn packet(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault>;

    /// Waits for the packet of `peer` in this operation; where its bytes are, readable until the operation ends.
    ///
    /// # Errors
    /// As [`Fabric::wait`].
    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault>;

    /// Tells `peer` where the input and output of this operation are. Orders like a signal; at most once a peer and
    /// operation, and only where [`Reach::copy_user`] or [`Reach::reduce_user`] holds.
    ///
    /// # Errors
    /// [`Fault`] where the peer cannot be reached.
    fn expose(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault>;

    /// Waits for the `expose` of `peer`.
    ///
    /// # Errors
    /// As [`Fabric::wait`].
    fn meet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault>;

    /// The peer's memory as an address of this process, where [`Reach`] says that it can be read (or written) so.
    fn direct(&self, peer: Rank, window: Window) -> Option<Raw>;

    /// Copies from a peer's memory that [`Fabric::direct`] has no address for but [`Reach::copy_user`] holds.
    ///
    /// # Errors
    /// [`Fault`] where the peer cannot be reached, or the range is not all there.
    ///
    /// # Safety
    /// `bytes` at `to` are writable, and the peer does not write what is read meanwhile.
    unsafe fn copy_from(
        &mut self,
        peer: Rank,
        window: Window,
        offset: usize,
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault>;

    /// Returns once all puts to `peer` have been taken out of this rank's memory: their sources may change.
    ///
    /// # Errors
    /// A fault of a wait.
    fn flush(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault>;
}

/// The transport of a group. An operation over shared memory may take a tenth of a microsecond, of which calls through a
/// table would be a part: the executor is compiled for it apart.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// Shared memory with every rank.
    Shm(Box<shm::ShmFabric>),
    /// Anything else.
    Any(Box<dyn Fabric>),
}

impl Carrier {
    /// Whatever it is.
    pub(crate) fn get(&self) -> &dyn Fabric {
        match self {
            Self::Shm(fabric) => fabric.as_ref(),
            Self::Any(fabric) => fabric.as_ref(),
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut dyn Fabric {
        match self {
            Self::Shm(fabric) => fabric.as_mut(),
            Self::Any(fabric) => fabric.as_mut(),
        }
    }
}
