//! One rank of a group under test.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use crate::fabric::{Entry, Fabric, Raw, Target};
use crate::fault::Fault;
use crate::patience::{Abort, Ladder, Patience};
use crate::plan::Rank;

/// A wait that is to succeed lasts so long at most.
const LONG: Duration = Duration::from_secs(30);

/// One rank: its fabric and the memory that the fabric may touch.
pub(crate) struct Side {
    // Before the memory, so that it is dropped first.
    pub(crate) fabric: Box<dyn Fabric>,
    kept: Vec<Vec<u8>>,
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    pub(crate) abort: Arc<Abort>,
    pub(crate) rank: Rank,
    pub(crate) ranks: usize,
    pub(crate) sequence: u64,
    pub(crate) tag: u32,
    pub(crate) timeout: Duration,
    /// What all ranks listen to, where those that go have to be told of.
    aborts: Vec<Arc<Abort>>,
    failed: bool,
}

/// The fabrics of a group, by rank.
pub(crate) struct Ends {
    pub(crate) fabrics: Vec<Box<dyn Fabric>>,
    /// Ranks are told of those that go.
    pub(crate) told: bool,
}

impl From<Vec<Box<dyn Fabric>>> for Ends {
    fn from(fabrics: Vec<Box<dyn Fabric>>) -> Self {
        Self { fabrics, told: false }
    }
}

/// One rank in an operation.
pub(crate) struct Op<'a> {
    pub(crate) fabric: &'a mut dyn Fabric,
    pub(crate) patience: Patience<'a>,
    kept: &'a mut Vec<Vec<u8>>,
}

impl Side {
    fn new(fabric: Box<dyn Fabric>, rank: Rank, ranks: usize, abort: Arc<Abort>, aborts: Vec<Arc<Abort>>) -> Self {
        Self {
            fabric,
            kept: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
            abort,
            rank,
            ranks,
            sequence: 0,
            tag: 0x5EED,
            timeout: LONG,
            aborts,
            failed: false,
        }
    }

    /// Every other rank.
    pub(crate) fn others(&self) -> impl Iterator<Item = Rank> + use<> {
        let rank = self.rank;
        (0..self.ranks).filter(move |other| *other != rank)
    }

    /// Begins the next operation, does what is inside, and ends it.
    pub(crate) fn operation<T>(&mut self, inside: impl FnOnce(&mut Op<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        // Unless it ends well.
        self.failed = true;
        self.sequence += 1;
        let raw = |memory: &mut Vec<u8>| Raw { at: memory.as_mut_ptr(), bytes: memory.len() };
        let entry = Entry {
            sequence: self.sequence,
            tag: self.tag,
            input: raw(&mut self.input),
            output: raw(&mut self.output),
        };
        // More ranks than cores, as far as the other tests leave any.
        let ladder = Ladder { spins: 100, crowded: true };
        let patience = Patience::new(&self.abort, self.timeout, ladder);
        let mut op = Op { fabric: &mut *self.fabric, patience, kept: &mut self.kept };
        // SAFETY: input and output live in `self` as the fabric does, and are touched again when the operation is over.
        unsafe { op.fabric.begin(&entry, &mut op.patience) }?;
        let done = inside(&mut op)?;
        op.fabric.end(&mut op.patience)?;
        self.kept.clear();
        self.failed = false;
        Ok(done)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let others = self.aborts.iter().filter(|abort| !Arc::ptr_eq(abort, &self.abort));
        for abort in others {
            if self.failed {
                abort.raise(Fault::Lost { rank: self.rank, how: "it is gone, says its control connection".to_owned() });
            } else {
                abort.leave(self.rank);
            }
        }
    }
}

impl Op<'_> {
    /// Puts bytes that stay as they are until the operation ends.
    pub(crate) fn put(&mut self, peer: Rank, bytes: Vec<u8>, to: Target, signal: bool) -> Result<(), Fault> {
        self.kept.push(bytes);
        let bytes = self.kept.last().expect("just pushed");
        // SAFETY: kept until the operation has ended or the fabric is dropped.
        unsafe { self.fabric.put(peer, bytes.as_ptr(), bytes.len(), to, signal, &mut self.patience) }
    }

    /// The last source that was put, to be changed.
    pub(crate) fn source(&mut self) -> &mut Vec<u8> {
        self.kept.last_mut().expect("something was put")
    }

    pub(crate) fn signal(&mut self, peer: Rank) -> Result<(), Fault> {
        self.fabric.signal(peer, &mut self.patience)
    }

    pub(crate) fn wait(&mut self, peer: Rank) -> Result<(), Fault> {
        self.fabric.wait(peer, &mut self.patience)
    }

    pub(crate) fn flush(&mut self, peer: Rank) -> Result<(), Fault> {
        self.fabric.flush(peer, &mut self.patience)
    }

    pub(crate) fn packet(&mut self, peer: Rank, mut bytes: Vec<u8>) -> Result<(), Fault> {
        // SAFETY: readable.
        unsafe { self.fabric.packet(peer, bytes.as_ptr(), bytes.len(), &mut self.patience) }?;
        // It may change at once.
        bytes.fill(0xEE);
        std::hint::black_box(&bytes);
        Ok(())
    }

    pub(crate) fn wait_packet(&mut self, peer: Rank, bytes: usize) -> Result<Vec<u8>, Fault> {
        let at = self.fabric.wait_packet(peer, &mut self.patience)?;
        Ok(copy(Raw { at: at.cast_mut(), bytes }, 0, bytes))
    }

    /// What is in this rank's scratch.
    pub(crate) fn scratch(&self, offset: usize, bytes: usize) -> Vec<u8> {
        copy(self.fabric.scratch(), offset, bytes)
    }
}

/// Bytes of memory that others may write to.
pub(crate) fn copy(memory: Raw, offset: usize, bytes: usize) -> Vec<u8> {
    assert!(offset + bytes <= memory.bytes);
    let mut copied = vec![0; bytes];
    // SAFETY: inside the memory, as just checked, and `copied` is as long.
    unsafe { std::ptr::copy_nonoverlapping(memory.at.wrapping_add(offset), copied.as_mut_ptr(), bytes) };
    copied
}

/// Runs every rank in a thread of its own; what each returned, by rank.
pub(crate) fn run<T: Send>(ends: impl Into<Ends>, body: impl Fn(Side) -> T + Sync) -> Vec<T> {
    let Ends { fabrics, told } = ends.into();
    let ranks = fabrics.len();
    let aborts: Vec<Arc<Abort>> = (0..ranks).map(|_| Arc::default()).collect();
    let side = |(rank, fabric): (Rank, _)| {
        let listening = if told { aborts.clone() } else { Vec::new() };
        Side::new(fabric, rank, ranks, aborts[rank].clone(), listening)
    };
    let body = &body;
    std::thread::scope(|scope| {
        let threads = fabrics.into_iter().enumerate().map(side);
        let threads: Vec<_> = threads.map(|side| scope.spawn(move || body(side))).collect();
        // Other ranks fail because one did: its panic is printed first.
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// Numbers from a seed, as Steele, Lea and Flood's SplitMix64 has them.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Now and then gives the core away, or takes its time.
    pub(crate) fn dawdle(&mut self) {
        match self.below(4) {
            0 => std::thread::yield_now(),
            1 => (0..self.below(3000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}

/// Bytes that nobody else sends: by sender, receiver, operation and whatever else tells them apart.
pub(crate) fn bytes_of(from: Rank, to: Rank, sequence: u64, which: usize, bytes: usize) -> Vec<u8> {
    let seed = sequence << 32 ^ (which as u64) << 12 ^ (from as u64) << 6 ^ to as u64;
    let mut random = SplitMix(seed);
    let mut made = Vec::with_capacity(bytes + 8);
    while made.len() < bytes {
        made.extend_from_slice(&random.next().to_le_bytes());
    }
    made.truncate(bytes);
    made
}
