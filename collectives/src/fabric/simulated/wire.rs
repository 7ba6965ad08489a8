//! What is on its way from one rank to another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use crate::fabric::{Raw, Target};

/// From one rank to another.
#[derive(Debug)]
pub(super) struct Wire {
    /// Decisions of the sender, and of the receiver: each takes them in its own order.
    pub(super) numbers: Numbers,
    landing: Numbers,
    /// Not landed yet, in the order in which they were put.
    pub(super) pieces: Vec<Piece>,
    /// Signals, packets and exposes so far.
    pub(super) releases: u64,
    /// Of each [`Kind`], those that were not waited for.
    pub(super) waiting: [VecDeque<Release>; 3],
    /// Sources that must not change yet, and what they were.
    pub(super) sources: Vec<Source>,
    /// The bytes of the packet that was waited for last, and its operation.
    pub(super) received: Box<[AtomicU8]>,
    pub(super) received_in: u64,
    /// Input, output, and the operation in which they were met.
    pub(super) met: (Raw, Raw, u64),
}

/// What orders puts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Signal,
    Packet,
    Expose,
}

/// Part of a put.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// Lands before any release after so many is over.
    pub(super) after: u64,
    /// Lands by itself after so many looks.
    pub(super) due: u32,
    pub(super) target: Target,
    pub(super) bytes: Arc<[u8]>,
    /// Which of them.
    pub(super) from: usize,
    pub(super) to: usize,
}

/// A signal, packet or expose.
#[derive(Debug)]
pub(super) struct Release {
    /// Which of the wire, from 1.
    pub(super) number: u64,
    pub(super) sequence: u64,
    /// Looks until it is seen.
    pub(super) looks: u32,
    /// Of a packet.
    pub(super) bytes: Vec<u8>,
}

/// Where a put was made from.
#[derive(Debug)]
pub(super) struct Source {
    /// Free once a release after so many is over.
    pub(super) after: u64,
    pub(super) from: *const u8,
    pub(super) bytes: Arc<[u8]>,
}

/// Never by itself.
pub(super) const NEVER: u32 = u32::MAX;

impl Wire {
    pub(super) fn new(numbers: Numbers, landing: Numbers, packet_bytes: usize) -> Self {
        Self {
            numbers,
            landing,
            pieces: Vec::new(),
            releases: 0,
            waiting: Default::default(),
            sources: Vec::new(),
            received: (0..packet_bytes).map(|_| AtomicU8::new(0)).collect(),
            received_in: 0,
            met: (Raw::EMPTY, Raw::EMPTY, 0),
        }
    }

    /// Cuts a put into pieces and puts them on the way.
    pub(super) fn send(&mut self, epoch: u64, sequence: u64, bytes: &Arc<[u8]>, target: Target, torn: bool) {
        let mut from = 0;
        // A put of nothing is a piece too.
        loop {
            let left = bytes.len() - from;
            let last = !torn || left < 2 || self.pieces.len() > 4096 || self.numbers.below(4) == 0;
            let to = if last { bytes.len() } else { from + 1 + self.numbers.below(left) };
            let due = match self.numbers.below(3) {
                0 => NEVER,
                _ => self.numbers.below(8) as u32,
            };
            let bytes = Arc::clone(bytes);
            self.pieces.push(Piece { epoch, sequence, after: self.releases, due, target, bytes, from, to });
            if to == self.pieces[self.pieces.len() - 1].bytes.len() {
                return;
            }
            from = to;
        }
    }

    /// One look passes: the pieces that land by themselves now.
    pub(super) fn ripe(&mut self, torn: bool) -> Vec<Piece> {
        if !torn {
            // In order: the first keeps the others back.
            let ripe = self.pieces.iter().take_while(|piece| piece.due == 0).count();
            if let Some(piece) = self.pieces.get_mut(ripe).filter(|piece| piece.due != NEVER) {
                piece.due -= 1;
            }
            return self.pieces.drain(..ripe).collect();
        }
        for piece in &mut self.pieces {
            if piece.due != NEVER {
                piece.due = piece.due.saturating_sub(1);
            }
        }
        self.pieces.extract_if(.., |piece| piece.due == 0).collect()
    }

    /// The pieces that have to land before release `number` is over, in the order in which they land.
    pub(super) fn before(&mut self, number: u64, torn: bool) -> Vec<Piece> {
        let mut due: Vec<_> = self.pieces.extract_if(.., |piece| piece.after < number).collect();
        for index in (1..due.len()).rev().filter(|_| torn) {
            due.swap(index, self.landing.below(index + 1));
        }
        due
    }
}

/// Numbers from a seed: SplitMix64, of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug)]
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
