//! All ranks' memory and all that is on its way, behind one lock.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::wire::{Kind, Piece, Release, Source, Wire};
use super::{Options, numbers};
use crate::fabric::{Entry, Raw, Target, Window};
use crate::fault::Fault;
use crate::plan::Rank;

/// The epoch of the group; ghosts are of the one before.
const EPOCH: u64 = 2;
/// Operations of which a rank's tag is remembered: a peer is at most two behind.
const TAGS: usize = 4;

/// What the ranks of a group share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) state: Mutex<State>,
    /// Something may have changed.
    pub(super) moved: Condvar,
}

/// The state of everything.
#[derive(Debug)]
pub(super) struct State {
    pub(super) seats: Vec<Seat>,
    /// By sender, then by receiver.
    wires: Vec<Wire>,
    options: Options,
    /// Pieces of another epoch that came.
    pub(super) ghosts: u64,
}

// SAFETY: the addresses in it are of memory that whoever gave them vouches for until its operation has ended, whatever the
// thread; they are used under the lock that it takes to end it.
unsafe impl Send for State {}

/// One rank.
#[derive(Debug)]
pub(super) struct Seat {
    halves: [Box<[AtomicU8]>; 2],
    begun: u64,
    ended: u64,
    tags: [(u64, u32); TAGS],
    input: Raw,
    output: Raw,
    /// How it died.
    dead: Option<&'static str>,
    /// It was dropped between operations.
    pub(super) left: bool,
}

impl Seat {
    /// The half that operation `sequence` uses.
    pub(super) fn half(&self, sequence: u64) -> Raw {
        let half = &self.halves[(sequence % 2) as usize];
        Raw { at: half.as_ptr().cast::<u8>().cast_mut(), bytes: half.len() }
    }
}

impl World {
    pub(super) fn new(ranks: usize, seed: u64, options: Options) -> Self {
        let half = || (0..options.scratch_bytes).map(|_| AtomicU8::new(0xDB)).collect();
        let seat = |_| Seat {
            halves: [half(), half()],
            begun: 0,
            ended: 0,
            tags: [(0, 0); TAGS],
            input: Raw::EMPTY,
            output: Raw::EMPTY,
            dead: None,
            left: false,
        };
        let wire = |pair| {
            let (sending, landing) = (numbers(seed, 2 * pair), numbers(seed, 2 * pair + 1));
            Wire::new(sending, landing, options.reach.packet_bytes)
        };
        let state = State {
            seats: (0..ranks).map(seat).collect(),
            wires: (0..(ranks * ranks) as u64).map(wire).collect(),
            options,
            ghosts: 0,
        };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }
}

impl State {
    fn wire(&mut self, from: Rank, to: Rank) -> &mut Wire {
        let ranks = self.seats.len();
        &mut self.wires[from * ranks + to]
    }

    /// A rank begins an operation.
    pub(super) fn begin(&mut self, rank: Rank, entry: &Entry) -> Result<(), Fault> {
        let seat = &mut self.seats[rank];
        if entry.sequence <= seat.begun {
            let why = format!("operation {} cannot follow {}", entry.sequence, seat.begun);
            return Err(Fault::System { what: "beginning an operation", why });
        }
        seat.begun = entry.sequence;
        seat.tags[entry.sequence as usize % TAGS] = (entry.sequence, entry.tag);
        (seat.input, seat.output) = (entry.input, entry.output);
        Ok(())
    }

    /// A peer that has not ended operation `sequence - 2`, whose half is still in use.
    pub(super) fn late(&self, rank: Rank, sequence: u64) -> Option<Rank> {
        let late = |(other, seat): &(Rank, &Seat)| *other != rank && seat.ended + 2 < sequence;
        self.seats.iter().enumerate().find(late).map(|(other, _)| other)
    }

    /// A rank ends an operation.
    pub(super) fn end(&mut self, rank: Rank, sequence: u64) -> Result<(), Fault> {
        for from in 0..self.seats.len() {
            let pieces = &mut self.wire(from, rank).pieces;
            let ghosts = pieces.extract_if(.., |piece| piece.epoch != EPOCH).count();
            if let Some(piece) = pieces.iter().find(|piece| piece.sequence <= sequence) {
                let what = format!("a put to {:?} that nobody waited for", piece.target);
                return Err(Fault::Protocol { rank: from, what });
            }
            self.ghosts += ghosts as u64;
        }
        let rubbish = (sequence as u8).wrapping_mul(37) | 0x80;
        let seat = &mut self.seats[rank];
        (seat.input, seat.output, seat.ended) = (Raw::EMPTY, Raw::EMPTY, sequence);
        for from in 0..self.seats.len() {
            self.wire(from, rank).received.iter().for_each(|byte| byte.store(rubbish, Ordering::Relaxed));
        }
        // Others may read it until they end, and write it again when all have.
        if self.seats.iter().all(|seat| seat.ended >= sequence) {
            for byte in self.seats.iter().flat_map(|seat| &seat.halves[(sequence % 2) as usize]) {
                byte.store(rubbish, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// A rank dies: what it has on its way is torn.
    pub(super) fn die(&mut self, rank: Rank, how: &'static str) {
        self.seats[rank].dead.get_or_insert(how);
        for to in 0..self.seats.len() {
            let torn = self.options.reorder;
            let wire = self.wire(rank, to);
            wire.sources.clear();
            // What can be seen already stays, with all that came before it.
            let mut seen = 0;
            for waiting in &mut wire.waiting {
                let kept = waiting.iter().take_while(|release| release.looks == 0).count();
                waiting.truncate(kept);
                seen = waiting.back().map_or(seen, |release| seen.max(release.number));
            }
            let mut pieces = wire.before(seen, torn);
            let rest = std::mem::take(&mut wire.pieces).into_iter();
            pieces.extend(rest.filter(|_| wire.numbers.below(2) == 0));
            for piece in pieces {
                // What has no place any more is lost as well.
                let _ = self.land(rank, to, piece);
            }
        }
    }

    /// A put begins.
    ///
    /// # Safety
    /// The source is readable until [`State::check_sources`].
    pub(super) unsafe fn put(
        &mut self,
        rank: Rank,
        peer: Rank,
        sequence: u64,
        (from, bytes): (*const u8, usize),
        to: Target,
    ) -> Result<(), Fault> {
        let options = self.options;
        let refused = |why: String| Err(Fault::System { what: "a put", why });
        let seat = &self.seats[peer];
        if seat.ended >= sequence {
            return refused(format!("rank {peer} has ended operation {sequence}: it does not wait for this"));
        }
        match to {
            Target::Output(_) if !options.reach.put_output => return refused("outputs cannot be reached".to_owned()),
            Target::Scratch(offset) if offset.checked_add(bytes).is_none_or(|end| end > options.scratch_bytes) => {
                return refused(format!("{bytes} bytes at {offset} of a scratch of {}", options.scratch_bytes));
            }
            _ => {}
        }
        let mut copy = vec![0; bytes];
        // SAFETY: readable, says the caller; `copy` is as long.
        unsafe { std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), bytes) };
        let copy: Arc<[u8]> = copy.into();
        let wire = self.wire(rank, peer);
        if options.ghosts {
            let rubbish = vec![0x6D; bytes.min(64)].into();
            wire.send(EPOCH - 1, sequence, &rubbish, to, false);
        }
        wire.send(EPOCH, sequence, &copy, to, options.reorder);
        let after = wire.releases;
        wire.sources.push(Source { after, from, bytes: copy });
        self.stir(rank, peer)
    }

    /// The sources of all puts to `peer` may change from now on; so far they must not have.
    pub(super) fn check_sources(&mut self, rank: Rank, peer: Rank) -> Result<(), Fault> {
        self.check_sources_before(u64::MAX, rank, peer)
    }

    /// The same for those that were put before release `number`.
    fn check_sources_before(&mut self, number: u64, rank: Rank, peer: Rank) -> Result<(), Fault> {
        let sources = &mut self.wire(rank, peer).sources;
        for Source { from, bytes, .. } in sources.extract_if(.., |source| source.after < number) {
            let mut now = vec![0; bytes.len()];
            // SAFETY: still readable, as whoever put it promised.
            unsafe { std::ptr::copy_nonoverlapping(from, now.as_mut_ptr(), now.len()) };
            if now[..] != bytes[..] {
                let why =
                    format!("{} bytes for rank {peer} have changed before they were flushed or waited for", now.len());
                return Err(Fault::System { what: "a put", why });
            }
        }
        Ok(())
    }

    /// A signal, packet or expose after all puts so far; `bytes` are the packet's.
    pub(super) fn release(
        &mut self,
        rank: Rank,
        peer: Rank,
        kind: Kind,
        sequence: u64,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        let delay = self.options.delay;
        let wire = self.wire(rank, peer);
        let waiting = &mut wire.waiting[kind as usize];
        if kind != Kind::Signal && waiting.iter().any(|release| release.sequence == sequence) {
            return Err(Fault::System { what: "a release", why: format!("a second {kind:?} to rank {peer}") });
        }
        wire.releases += 1;
        let looks = if delay { wire.numbers.below(6) as u32 } else { 0 };
        waiting.push_back(Release { number: wire.releases, sequence, looks, bytes: bytes.to_vec() });
        self.stir(rank, peer)
    }

    /// Whether the next of that kind is there: one look at it.
    pub(super) fn look(&mut self, from: Rank, to: Rank, kind: Kind, sequence: u64) -> Result<bool, Fault> {
        self.stir(from, to)?;
        Ok(match self.wire(from, to).waiting[kind as usize].front_mut() {
            // What belongs to an operation that has not begun is not seen.
            Some(release) if release.sequence <= sequence => {
                let seen = release.looks == 0;
                release.looks = release.looks.saturating_sub(1);
                seen
            }
            _ => false,
        })
    }

    /// Waits for the next of that kind are over: everything before it lands.
    pub(super) fn consume(&mut self, from: Rank, to: Rank, kind: Kind) -> Result<(), Fault> {
        let torn = self.options.reorder;
        let (input, output, sequence) = (self.seats[from].input, self.seats[from].output, self.seats[to].begun);
        let wire = self.wire(from, to);
        let Some(release) = wire.waiting[kind as usize].pop_front() else {
            return Ok(());
        };
        // Whoever hears that this wait is over may change what was put before.
        self.check_sources_before(release.number, from, to)?;
        let wire = self.wire(from, to);
        match kind {
            Kind::Signal => {}
            Kind::Packet => {
                wire.received_in = sequence;
                wire.received.iter().zip(&release.bytes).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
            }
            Kind::Expose => wire.met = (input, output, sequence),
        }
        let pieces = wire.before(release.number, torn);
        pieces.into_iter().try_for_each(|piece| self.land(from, to, piece))
    }

    /// The bytes of the packet that was waited for in that operation.
    pub(super) fn packet(&mut self, from: Rank, to: Rank, sequence: u64) -> Option<*const u8> {
        let wire = self.wire(from, to);
        (wire.received_in == sequence).then_some(wire.received.as_ptr().cast())
    }

    /// The input or output of a peer that was met, while it is in the operation.
    pub(super) fn met(&self, from: Rank, to: Rank, sequence: u64, window: Window) -> Option<Raw> {
        let (input, output, met_in) = self.wires[from * self.seats.len() + to].met;
        let seat = &self.seats[from];
        let there = met_in == sequence && seat.begun == sequence && seat.ended < sequence && seat.dead.is_none();
        there.then_some(if window == Window::Input { input } else { output })
    }

    /// A look passes on that wire: some pieces land.
    fn stir(&mut self, from: Rank, to: Rank) -> Result<(), Fault> {
        let torn = self.options.reorder;
        let ripe = self.wire(from, to).ripe(torn);
        ripe.into_iter().try_for_each(|piece| self.land(from, to, piece))
    }

    /// A piece arrives.
    fn land(&mut self, from: Rank, to: Rank, piece: Piece) -> Result<(), Fault> {
        if piece.epoch != EPOCH {
            self.ghosts += 1;
            return Ok(());
        }
        let seat = &self.seats[to];
        if seat.dead.is_some() {
            return Ok(());
        }
        let (memory, offset) = match piece.target {
            // Its half is free: the sender has waited for that before it began.
            Target::Scratch(offset) => (seat.half(piece.sequence), offset),
            Target::Output(_) if seat.begun < piece.sequence => {
                // It has not said where it is. The piece waits for that.
                let wire = self.wire(from, to);
                wire.pieces.push(Piece { due: 1, ..piece });
                return Ok(());
            }
            Target::Output(offset) => (seat.output, offset),
        };
        if seat.ended >= piece.sequence {
            let what = format!("a put to {:?} of an operation that has ended", piece.target);
            return Err(Fault::Protocol { rank: from, what });
        }
        if offset.checked_add(piece.bytes.len()).is_none_or(|end| end > memory.bytes) {
            let what = format!("{} bytes at {offset} of {} bytes", piece.bytes.len(), memory.bytes);
            return Err(Fault::Protocol { rank: from, what });
        }
        let bytes = &piece.bytes[piece.from..piece.to];
        // SAFETY: inside the half, which lives as long as this, or inside the output of an operation that has begun and not
        // ended, which its rank vouches for and needs the lock held here to end.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.at.wrapping_add(offset + piece.from), bytes.len())
        };
        Ok(())
    }

    /// # Errors
    /// [`Fault::Mismatch`] where the peer is or was in that operation with another tag.
    pub(super) fn check_tag(&self, peer: Rank, sequence: u64, ours: u32) -> Result<(), Fault> {
        match self.seats[peer].tags[sequence as usize % TAGS] {
            (of, theirs) if of == sequence && theirs != ours => Err(Fault::Mismatch { rank: peer, ours, theirs }),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`Fault::Lost`] where somebody is dead, or `peer` has left and does not take part in that operation.
    pub(super) fn check_lost(&self, peer: Rank, sequence: u64) -> Result<(), Fault> {
        let dead = |rank: Rank| Some((rank, self.seats[rank].dead?));
        // The awaited one first.
        if let Some((rank, how)) = std::iter::once(peer).chain(0..self.seats.len()).find_map(dead) {
            return Err(Fault::Lost { rank, how: how.to_owned() });
        }
        let seat = &self.seats[peer];
        if seat.left && seat.ended < sequence { Err(left(peer, seat)) } else { Ok(()) }
    }

    /// # Errors
    /// As [`State::check_lost`]; also where `peer` has left, and nothing of that kind is on its way.
    pub(super) fn check_coming(&self, peer: Rank, to: Rank, kind: Kind, sequence: u64) -> Result<(), Fault> {
        self.check_lost(peer, sequence)?;
        let seat = &self.seats[peer];
        let nothing = self.wires[peer * self.seats.len() + to].waiting[kind as usize].is_empty();
        if seat.left && nothing { Err(left(peer, seat)) } else { Ok(()) }
    }
}

fn left(rank: Rank, seat: &Seat) -> Fault {
    Fault::Lost { rank, how: format!("it left after operation {}", seat.ended) }
}
