//! Shared memory: ranks of one host.
//!
//! Every rank makes one segment: a page that says what it is doing, a block of lines for each sender, and its scratch.
//! Peers map it and write to it: a put is a copy, a signal raises a counter in the receiver's segment. A line has one
//! writer and one reader. All memory is the kernel's to free: nothing is left when processes die.
//!
//! User memory can be reached in two ways: a [`Region`] is shared memory that peers map as well, and any other memory is
//! read by `process_vm_readv` where the system allows it.

mod user;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use swarmloom_kernels::copy::{self, Stores};

use self::user::{Located, Locator, Reached, read_process};
use super::bell_core::{Asleep, Bell};
use super::region::{MAX_REGIONS, RegionSlot, Regions};
use super::{Entry, Fabric, Raw, Target, Window, bell};
use crate::fault::Fault;
use crate::memory::{self, Mapping, Shared};
use crate::patience::{GUARDED, Patience};
use crate::plan::{Rank, Reach};

/// Bytes of a packet: what fits a line beside its counter, in two cache lines that processors fetch as a pair.
pub const PACKET_BYTES: usize = 104;
const MAGIC: u64 = 0x736c_2d73_686d_2d31;
const PAGE: usize = 4096;

/// A counter with what rides along. Two cache lines: neighbours are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
struct Line {
    bell: Bell,
    /// What the sender's operation is called, by the parity of its sequence: it stands until the reader has ended it.
    tags: [AtomicU32; 2],
    payload: [u8; PACKET_BYTES],
}

/// What one sender writes into a receiver's segment, but for the first line: that one is the receiver's.
#[derive(Debug)]
#[repr(C, align(128))]
struct Lines {
    asleep: Asleep,
    signals: Line,
    packets: [Line; 2],
    exposed: [Line; 2],
}

/// What a rank says of itself, written by it alone.
#[derive(Debug)]
#[repr(C, align(128))]
struct Head {
    magic: u64,
    epoch: u64,
    /// The operation it is in or was in last: sequence (low half) and tag.
    begun: AtomicU64,
    /// The last operation that it has ended.
    ended: AtomicU64,
    regions: RegionSlots,
}

/// Apart from what changes with every operation.
#[derive(Debug)]
#[repr(C, align(128))]
struct RegionSlots([RegionSlot; MAX_REGIONS]);

/// What a rank tells the others of its host so that they can map its segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    process: u32,
    file: u32,
    bytes: u64,
    address: u64,
}

/// A segment that is not connected yet.
#[derive(Debug)]
pub struct Offer {
    segment: Shared,
    regions: Regions,
    epoch: u64,
    ranks: usize,
    half: usize,
}

#[derive(Debug)]
struct Peer {
    process: u32,
    /// Where its head is in its own address space.
    address: u64,
    mapping: Mapping,
    /// Signals sent to it, and consumed from it.
    sent: u64,
    consumed: u64,
    /// It has ended at least this operation.
    ended: u64,
    input: Reached,
    output: Reached,
    /// Its regions as mapped here, each with its serial number.
    regions: Vec<Option<(u32, Mapping)>>,
}

/// One rank's side of a group in shared memory.
#[derive(Debug)]
pub struct ShmFabric {
    rank: Rank,
    segment: Shared,
    regions: Regions,
    peers: Vec<Option<Peer>>,
    half: usize,
    entry: Entry,
    single_copy: bool,
    located: Option<Located>,
    /// Bytes of its half that the next operation uses.
    used: usize,
    /// Where in its half the current operation begins.
    shift: usize,
}

fn segment_bytes(ranks: usize, half: usize) -> Option<usize> {
    let lines = ranks.checked_mul(size_of::<Lines>())?.checked_next_multiple_of(PAGE)?;
    half.checked_mul(2)?.checked_add(lines)?.checked_add(size_of::<Head>().next_multiple_of(PAGE))
}

/// Where in its half an operation begins that uses so many bytes: each one after the one before, around and around. One
/// that uses it all begins at the start.
#[inline]
fn shift(half: usize, used: usize, sequence: u64) -> usize {
    // Neighbouring lines are fetched in pairs: none is shared between two operations.
    let step = used.min(half).next_multiple_of(PAIR).max(PAIR);
    let slots = half / step;
    if slots < 2 { 0 } else { (sequence / 2) as usize % slots * step }
}

/// Up to so many ranks, everybody maps all pages of everybody at once; beyond, page tables would be large.
const POPULATED: usize = 8;
/// Two cache lines.
const PAIR: usize = 128;

fn lines_at(segment: Raw, sender: Rank) -> *mut Lines {
    // SAFETY: every segment is made with a block of lines for each rank after its head.
    unsafe { segment.at.add(size_of::<Head>().next_multiple_of(PAGE)).cast::<Lines>().add(sender) }
}

impl Offer {
    /// A segment for a group of `ranks`, with `half_bytes` of scratch twice.
    ///
    /// # Errors
    /// [`Fault::System`] where there is no memory.
    pub fn new(epoch: u64, ranks: usize, half_bytes: usize, regions: Regions) -> Result<(Self, Card), Fault> {
        bell::register();
        let half = half_bytes.next_multiple_of(PAGE);
        let bytes = segment_bytes(ranks, half).ok_or_else(|| Fault::System {
            what: "making shared memory",
            why: format!("{half_bytes} bytes of scratch are too many"),
        })?;
        let segment = Shared::create("swarmloom", bytes)?;
        segment.populate();
        // SAFETY: the segment is larger than a head, aligned to a page, zeroed, and nobody else has it yet.
        unsafe {
            let head = segment.raw().at.cast::<Head>();
            (&raw mut (*head).magic).write(MAGIC);
            (&raw mut (*head).epoch).write(epoch);
        }
        let card = Card {
            process: std::process::id(),
            file: segment.number(),
            bytes: bytes as u64,
            address: segment.raw().at as u64,
        };
        Ok((Self { segment, regions, epoch, ranks, half }, card))
    }

    /// Maps the segments of all others of this host. `cards` are by rank: this rank's own is passed over, and ranks of
    /// other hosts have none.
    ///
    /// # Errors
    /// [`Fault::System`] where one cannot be mapped, [`Fault::Protocol`] where it is not what it should be.
    pub fn connect(self, rank: Rank, cards: &[Option<Card>]) -> Result<ShmFabric, Fault> {
        let bytes = self.segment.raw().bytes;
        let mut peers = Vec::with_capacity(self.ranks);
        for (other, card) in cards.iter().enumerate().take(self.ranks) {
            let Some(card) = card.as_ref().filter(|_| other != rank) else {
                peers.push(None);
                continue;
            };
            let mapping = memory::open(card.process, card.file, bytes)?;
            if self.ranks <= POPULATED {
                mapping.populate();
            }
            let head = mapping.raw().at.cast::<Head>();
            // SAFETY: the mapping is at least a head; these two were written before the card was sent.
            let (magic, epoch) = unsafe { ((&raw const (*head).magic).read(), (&raw const (*head).epoch).read()) };
            if (magic, epoch) != (MAGIC, self.epoch) {
                let what = format!("its segment is of epoch {epoch}, not {}", self.epoch);
                return Err(Fault::Protocol { rank: other, what });
            }
            peers.push(Some(Peer {
                process: card.process,
                address: card.address,
                mapping,
                sent: 0,
                consumed: 0,
                ended: 0,
                input: Reached::Unknown,
                output: Reached::Unknown,
                regions: Vec::new(),
            }));
        }
        if peers.len() != self.ranks {
            return Err(Fault::System { what: "mapping segments", why: format!("{} cards", cards.len()) });
        }
        let entry = Entry { sequence: 0, tag: 0, input: Raw::EMPTY, output: Raw::EMPTY };
        let (segment, regions, half) = (self.segment, self.regions, self.half);
        let mut fabric = ShmFabric {
            rank,
            segment,
            regions,
            peers,
            half,
            entry,
            single_copy: false,
            located: None,
            used: usize::MAX,
            shift: 0,
        };
        fabric.single_copy = fabric.can_copy_from_all();
        fabric.regions.publish(fabric.head_regions());
        Ok(fabric)
    }
}

impl ShmFabric {
    fn head(&self) -> &Head {
        // SAFETY: the segment begins with a head. Of its fields only atomics are touched by reference from here on.
        unsafe { &*self.segment.raw().at.cast::<Head>() }
    }

    fn head_regions(&self) -> &[RegionSlot; MAX_REGIONS] {
        &self.head().regions.0
    }

    /// Lines that `peer` writes and this rank reads.
    fn inbound(&self, peer: Rank) -> *mut Lines {
        lines_at(self.segment.raw(), peer)
    }

    fn peer(&self, peer: Rank) -> &Peer {
        self.peers[peer].as_ref().unwrap_or_else(|| unreachable!("rank {peer} is this rank itself"))
    }

    fn peer_mut(&mut self, peer: Rank) -> &mut Peer {
        self.peers[peer].as_mut().unwrap_or_else(|| unreachable!("rank {peer} is this rank itself"))
    }

    /// Lines that this rank writes and `peer` reads.
    fn outbound(&self, peer: Rank) -> *mut Lines {
        lines_at(self.peer(peer).mapping.raw(), self.rank)
    }

    fn peer_head(&self, peer: Rank) -> &Head {
        // SAFETY: as in `head`, of a mapping of the same size.
        unsafe { &*self.peer(peer).mapping.raw().at.cast::<Head>() }
    }

    fn parity(&self) -> usize {
        (self.entry.sequence % 2) as usize
    }

    fn half_of(&self, segment: Raw) -> Raw {
        let at = segment.bytes - (2 - self.parity()) * self.half + self.shift;
        // SAFETY: a segment ends with two halves, and the shift is less than one.
        Raw { at: unsafe { segment.at.add(at) }, bytes: self.half - self.shift }
    }

    /// Whether the peer is in the same operation and calls it something else.
    fn same_operation(&self, peer: Rank) -> Result<(), Fault> {
        let begun = self.peer_head(peer).begun.load(Ordering::Relaxed);
        let (sequence, tag) = (begun as u32, (begun >> 32) as u32);
        if sequence == self.entry.sequence as u32 && tag != self.entry.tag {
            return Err(self.mismatch(peer, tag));
        }
        Ok(())
    }

    #[inline]
    fn wait_for(
        &self,
        line: *const Line,
        value: u64,
        peer: Rank,
        patience: &mut Patience<'_>,
        beside: impl Fn(),
    ) -> Result<(), Fault> {
        // SAFETY: the line is one of `peer`'s in this rank's own segment; bell, flag and tags are made of atomics.
        let (bell, asleep, tag) =
            unsafe { (&(*line).bell, &(*self.inbound(peer)).asleep, &(*line).tags[self.parity()]) };
        bell::wait((bell, asleep), value, peer, patience, || self.same_operation(peer), beside)?;
        let theirs = if GUARDED { tag.load(Ordering::Relaxed) } else { self.entry.tag };
        if theirs == self.entry.tag { Ok(()) } else { Err(self.mismatch(peer, theirs)) }
    }

    /// Raises a bell, with the name of the operation.
    ///
    /// # Safety
    /// `line` is one of this rank's `lines` at a peer.
    #[inline]
    unsafe fn ring(&self, lines: *const Lines, line: *const Line, value: u64) {
        // SAFETY: the caller's promise; the mapping lives as long as `self`; bell and tags are made of atomics.
        unsafe {
            if GUARDED {
                (*line).tags[self.parity()].store(self.entry.tag, Ordering::Relaxed);
            }
            bell::raise(&(*line).bell, value, &(*lines).asleep);
        }
    }

    #[cold]
    fn mismatch(&self, peer: Rank, theirs: u32) -> Fault {
        Fault::Mismatch { rank: peer, ours: self.entry.tag, theirs }
    }

    /// Whoever sent something in this operation has ended the one before.
    fn heard(&mut self, peer: Rank) {
        let before = self.entry.sequence.saturating_sub(1);
        let peer = self.peer_mut(peer);
        peer.ended = peer.ended.max(before);
    }
}

impl Fabric for ShmFabric {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn reach(&self, _peer: Rank) -> Reach {
        Reach {
            load_scratch: true,
            copy_user: self.single_copy,
            reduce_user: true,
            put_output: false,
            packet_bytes: PACKET_BYTES,
        }
    }

    fn publish_regions(&self) {
        self.regions.publish(self.head_regions());
    }

    fn scratch_bytes(&self) -> usize {
        self.half
    }

    #[inline]
    fn use_scratch(&mut self, bytes: usize, wander: bool) {
        self.used = if wander { bytes } else { usize::MAX };
    }

    #[inline]
    fn scratch(&self) -> Raw {
        self.half_of(self.segment.raw())
    }

    #[inline]
    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.entry = *entry;
        self.shift = shift(self.half, self.used, entry.sequence);
        let word = (entry.sequence & u64::from(u32::MAX)) | u64::from(entry.tag) << 32;
        if GUARDED {
            self.head().begun.store(word, Ordering::Relaxed);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].as_ref().is_some_and(|peer| peer.ended + 2 < entry.sequence) {
                self.wait_until_ended(peer, entry.sequence - 2, patience)?;
            }
        }
        self.regions.reap(entry.sequence);
        Ok(())
    }

    #[inline]
    fn end(&mut self, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        // A release: everything that was read of others' scratch was read before.
        self.head().ended.store(self.entry.sequence, Ordering::Release);
        Ok(())
    }

    unsafe fn put(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        to: Target,
        signal: bool,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        let Target::Scratch(offset) = to else {
            return Err(Fault::System {
                what: "a put over shared memory",
                why: "only scratch can be written to".into(),
            });
        };
        let half = self.half_of(self.peer(peer).mapping.raw());
        if offset.checked_add(bytes).is_none_or(|end| end > half.bytes) {
            let why = format!("{bytes} bytes at {offset} are outside its {} bytes of scratch", half.bytes);
            return Err(Fault::System { what: "a put over shared memory", why });
        }
        // SAFETY: `from` is readable, says the caller; the target was just checked; they are different memory.
        unsafe { copy::copy(half.at.add(offset), from, bytes, Stores::Cached) };
        if signal { self.signal(peer, patience) } else { Ok(()) }
    }

    #[inline]
    fn signal(&mut self, peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        let lines = self.outbound(peer);
        let to = self.peer_mut(peer);
        to.sent += 1;
        let count = to.sent;
        // SAFETY: a field's address within the peer's mapping: this rank's line for signals.
        unsafe { self.ring(lines, &raw const (*lines).signals, count) };
        Ok(())
    }

    #[inline]
    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        let next = self.peer(peer).consumed + 1;
        // SAFETY: a field's address within this rank's own segment.
        let line = unsafe { &raw const (*self.inbound(peer)).signals };
        self.wait_for(line, next, peer, patience, || ())?;
        self.peer_mut(peer).consumed = next;
        self.heard(peer);
        Ok(())
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        // SAFETY: a bell within this rank's own segment, made of atomics.
        let there = unsafe { (*self.inbound(peer)).signals.bell.value() };
        Ok(there > self.peer(peer).consumed)
    }

    #[inline]
    unsafe fn packet(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        _patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        debug_assert!(bytes <= PACKET_BYTES);
        // SAFETY: a line of the peer's mapping; it reads the payload only after the bell has risen, and has ended with
        // what the line held two operations ago. `from` is readable, says the caller.
        unsafe {
            let lines = self.outbound(peer);
            let line = &raw mut (*lines).packets[self.parity()];
            std::ptr::copy_nonoverlapping(from, (&raw mut (*line).payload).cast(), bytes.min(PACKET_BYTES));
            self.ring(lines, line, self.entry.sequence);
        }
        Ok(())
    }

    #[inline]
    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault> {
        // SAFETY: fields' addresses within this rank's own segment.
        let (line, payload): (_, *const u8) = unsafe {
            let line = &raw const (*self.inbound(peer)).packets[self.parity()];
            (line, (&raw const (*line).payload).cast())
        };
        // SAFETY: a byte of the line's second half; whatever is there meanwhile is not looked at.
        let second = || _ = unsafe { payload.add(PACKET_BYTES - 1).read_volatile() };
        self.wait_for(line, self.entry.sequence, peer, patience, second)?;
        self.heard(peer);
        Ok(payload)
    }

    fn expose(&mut self, peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        let both = self.locators();
        // SAFETY: as for packets; two locators fit the payload.
        unsafe {
            const { assert!(size_of::<[Locator; 2]>() <= PACKET_BYTES) };
            let lines = self.outbound(peer);
            let line = &raw mut (*lines).exposed[self.parity()];
            (&raw mut (*line).payload).cast::<[Locator; 2]>().write_unaligned(both);
            self.ring(lines, line, self.entry.sequence);
        }
        Ok(())
    }

    fn meet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        // SAFETY: a field's address within this rank's own segment.
        let line = unsafe { &raw const (*self.inbound(peer)).exposed[self.parity()] };
        self.wait_for(line, self.entry.sequence, peer, patience, || ())?;
        // SAFETY: the bell has risen: the peer wrote the locators before, and writes no others before this ends.
        let [input, output] = unsafe { (&raw const (*line).payload).cast::<[Locator; 2]>().read_unaligned() };
        let (input, output) = (self.reach_buffer(peer, input)?, self.reach_buffer(peer, output)?);
        let from = self.peer_mut(peer);
        (from.input, from.output) = (input, output);
        self.heard(peer);
        Ok(())
    }

    fn direct(&self, peer: Rank, window: Window) -> Option<Raw> {
        let of = self.peer(peer);
        match window {
            Window::Scratch => Some(self.half_of(of.mapping.raw())),
            Window::Input | Window::Output => match if window == Window::Input { of.input } else { of.output } {
                Reached::Here(raw) => Some(raw),
                Reached::Unknown | Reached::There { .. } => None,
            },
        }
    }

    unsafe fn copy_from(
        &mut self,
        peer: Rank,
        window: Window,
        offset: usize,
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault> {
        let of = self.peer(peer);
        let reached = match window {
            Window::Scratch => Reached::Here(self.half_of(of.mapping.raw())),
            Window::Input => of.input,
            Window::Output => of.output,
        };
        let outside =
            || Fault::Protocol { rank: peer, what: format!("its {window:?} has no {bytes} bytes at {offset}") };
        let fits = |all: usize| offset.checked_add(bytes).is_some_and(|end| end <= all);
        match reached {
            Reached::Here(raw) if fits(raw.bytes) => {
                // SAFETY: within the peer's memory, as was just checked; `to` is writable, says the caller.
                unsafe { copy::copy(to, raw.at.add(offset), bytes, Stores::Cached) };
                Ok(())
            }
            // SAFETY: `to` is writable, says the caller.
            Reached::There { address, bytes: all } if fits(all) => unsafe {
                read_process(of, address + offset as u64, to, bytes)
            },
            _ => Err(outside()),
        }
    }

    fn flush(&mut self, _peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        // A put is a copy: its source is free when it returns.
        Ok(())
    }
}

impl ShmFabric {
    /// Whether the packet of `peer` has come.
    pub(super) fn has_packet(&self, peer: Rank) -> bool {
        // SAFETY: a bell within this rank's own segment, made of atomics.
        unsafe { (*self.inbound(peer)).packets[self.parity()].bell.value() >= self.entry.sequence }
    }

    /// Whether `peer` has exposed its buffers.
    pub(super) fn is_exposed(&self, peer: Rank) -> bool {
        // SAFETY: as above.
        unsafe { (*self.inbound(peer)).exposed[self.parity()].bell.value() >= self.entry.sequence }
    }

    #[cold]
    fn wait_until_ended(&mut self, peer: Rank, sequence: u64, patience: &mut Patience<'_>) -> Result<(), Fault> {
        let mut wait = crate::patience::Wait::on(peer);
        loop {
            let ended = self.peer_head(peer).ended.load(Ordering::Acquire);
            if ended >= sequence {
                self.peer_mut(peer).ended = ended;
                return Ok(());
            }
            let rest = patience.rest(&mut wait);
            if self.peer_head(peer).ended.load(Ordering::Acquire) >= sequence {
                continue;
            }
            match rest? {
                crate::patience::Rest::Spin => std::hint::spin_loop(),
                crate::patience::Rest::Yield => rustix::thread::sched_yield(),
                // Nobody rings when an operation ends: it is looked at again soon.
                crate::patience::Rest::Sleep(_) => nap(),
            }
        }
    }
}

/// A short sleep.
fn nap() {
    let time = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 50_000 };
    // Waking early is as good.
    let _ = rustix::thread::nanosleep(&time);
}
