//! The bare program: two ranks and shared memory, without errors, deadlines, groups or plans. It shows what the hardware
//! allows; how near ours comes is a row of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use swarmloom_kernels::Dtype;
use swarmloom_kernels::copy::{self, Stores};
use swarmloom_kernels::reduce::{ReduceOp, Reducer};

use super::buffer::Buffer;
use super::clock::Clock;
use super::grid::{Op, Operator, Point};
use super::parts::{Part, Parts};
use super::{BenchError, FloorWay};
use crate::memory::{self, Mapping, Shared};

/// Elements of a chunk of the ring, and chunks. Small vectors go in smaller ones, so that both ranks work at once.
const CHUNK: usize = 8192;
const SMALL_CHUNK: usize = 2048;
const RING: usize = 8;
/// Elements that ride beside their counter.
const MAIL: usize = 28;
/// From here on two ranks that work on a half each are faster than two that do everything.
const HALVES_FROM: usize = (128 << 10) / 4;
/// From here on results pass the cache by; a quarter of it where the program is told to.
const RESULT_STREAMS_FROM: usize = (4 << 20) / 4;
/// From here on what the other rank reads passes the cache by, where the program is told to.
const SCRATCH_STREAMS_FROM: usize = (4 << 10) / 4;

/// A counter with one writer, in two cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
struct Flag(AtomicU64);

#[derive(Debug)]
#[repr(C, align(128))]
struct Mail {
    flag: AtomicU64,
    payload: [f32; MAIL],
}

/// What a rank's flags count.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Chunks written.
    Sent,
    /// Chunks of results written.
    Reduced,
    /// Chunks read.
    Done,
    /// Operations begun.
    Ready,
    /// Operations ended.
    Ended,
}

/// What both ranks map. Index: the rank that writes.
#[derive(Debug)]
#[repr(C, align(4096))]
struct Area {
    flags: [[Flag; 2]; 5],
    /// Two, used in turns.
    mail: [[Mail; 2]; 2],
    ring: [[[f32; CHUNK]; RING]; 2],
    results: [[[f32; CHUNK]; RING]; 2],
}

/// Keeps the mapping alive; only the address is used.
#[derive(Debug)]
enum Held {
    Own { _memory: Shared },
    Theirs { _memory: Mapping },
}

/// One of the two ranks.
#[derive(Debug)]
pub(super) struct Floor {
    _held: Held,
    area: *mut Area,
    me: usize,
    way: FloorWay,
    streaming: bool,
    /// Input and output of each rank: this one's in the first place, the other's in the second; null but for `Direct`.
    buffers: [[*mut f32; 2]; 2],
    _private: Option<[Buffer; 2]>,
    op: Op,
    count: usize,
    parts: Parts,
    reducer: Reducer,
    /// Operations that have counters of their own, and which of them the other rank has ended, as far as is known.
    epoch: u64,
    ended: u64,
    /// Chunks.
    given: u64,
    taken: u64,
}

// SAFETY: plain addresses of memory that the value keeps alive; one thread uses them.
unsafe impl Send for Floor {}

impl Floor {
    /// With room for points of `bytes`.
    pub(super) fn new(clock: &mut Clock, way: FloorWay, streaming: bool, bytes: usize) -> Result<Self, BenchError> {
        if clock.ranks() != 2 {
            let point = Point { op: Op::AllReduce, bytes };
            return Err(BenchError::Unfit { what: "the bare program", ranks: clock.ranks(), point });
        }
        let (me, area_bytes) = (clock.rank(), size_of::<Area>());
        let direct = way == FloorWay::Direct;
        let each = bytes.next_multiple_of(4096);
        let whole = area_bytes + if direct { 4 * each } else { 0 };
        // Rank 0 makes it and says where.
        let (at, held) = if me == 0 {
            let memory = Shared::create("swarmloom-floor", whole)?;
            let at = memory.raw().at;
            // SAFETY: `whole` bytes, that nobody else has yet. Written, so that every page is there.
            unsafe { at.write_bytes(0, whole) };
            clock.share(u64::from(std::process::id()) << 32 | u64::from(memory.number()))?;
            (at, Held::Own { _memory: memory })
        } else {
            let card = clock.share(0)?;
            let memory = memory::open((card >> 32) as u32, card as u32, whole)?;
            (memory.raw().at, Held::Theirs { _memory: memory })
        };
        let private = if direct { None } else { Some([Buffer::new(bytes)?, Buffer::new(bytes)?]) };
        let shared = |rank: usize, which: usize| at.wrapping_add(area_bytes + (2 * rank + which) * each).cast::<f32>();
        let buffers = match &private {
            Some([input, output]) => [[input.at().cast(), output.at().cast()], [std::ptr::null_mut(); 2]],
            None => [[shared(me, 0), shared(me, 1)], [shared(1 - me, 0), shared(1 - me, 1)]],
        };
        clock.barrier()?;
        Ok(Self {
            _held: held,
            area: at.cast(),
            me,
            way,
            streaming,
            buffers,
            _private: private,
            op: Op::AllReduce,
            count: 0,
            parts: Parts::new(Op::AllReduce, me, 0),
            reducer: Reducer::new(Dtype::F32, ReduceOp::Sum),
            epoch: 0,
            ended: 0,
            given: 0,
            taken: 0,
        })
    }

    /// The flags of one kind that `rank` writes.
    #[inline]
    fn flag(&self, kind: Kind, rank: usize) -> &AtomicU64 {
        // SAFETY: inside the mapped area, which lives as long as `self`; zeroed when it was made, and touched through
        // atomics only.
        unsafe { &(*self.area).flags[kind as usize][rank].0 }
    }

    #[inline]
    fn raise(&self, kind: Kind, value: u64) {
        self.flag(kind, self.me).store(value, Ordering::Release);
    }

    /// Waits until the other rank's flag is at least `value`.
    #[inline]
    fn until(&self, kind: Kind, value: u64) {
        until(self.flag(kind, 1 - self.me), value);
    }

    /// Chunk `number` of a rank's ring.
    #[inline]
    fn chunk(&self, rank: usize, number: u64, results: bool) -> *mut f32 {
        let at = number as usize % RING;
        // SAFETY: fields of the mapped area, indexed within it.
        unsafe {
            if results {
                (&raw mut (*self.area).results[rank][at]).cast()
            } else {
                (&raw mut (*self.area).ring[rank][at]).cast()
            }
        }
    }

    /// How what the other rank reads is written.
    #[inline]
    fn scratch_stores(&self) -> Stores {
        if self.streaming && self.count >= SCRATCH_STREAMS_FROM { Stores::Streaming } else { Stores::Cached }
    }

    /// How results are written.
    #[inline]
    fn result_stores(&self) -> Stores {
        let from = if self.streaming { RESULT_STREAMS_FROM / 4 } else { RESULT_STREAMS_FROM };
        if self.count >= from { Stores::Streaming } else { Stores::Cached }
    }

    /// Takes `count` elements that came from the other rank, `offset` into what is taken.
    ///
    /// # Safety
    /// `from` is readable for `count`.
    #[inline]
    unsafe fn accept(&self, offset: usize, from: *const f32, count: usize) {
        let [input, output] = self.buffers[0];
        // SAFETY: parts of this rank's buffers, within the point's lengths; the caller's promise for the rest.
        unsafe {
            let to = output.add(self.parts.take.0 + offset).cast::<u8>();
            match self.parts.own {
                Some(own) => {
                    let mine = input.add(own + offset).cast_const().cast();
                    let sources = in_rank_order(self.me, mine, from.cast());
                    self.reducer.run(&sources, &[to], count, self.result_stores());
                }
                None => copy::copy(to, from.cast(), count * 4, self.result_stores()),
            }
        }
    }

    fn keep(&self) {
        let [input, output] = self.buffers[0];
        if let Some((from, to, count)) = self.parts.keep {
            // SAFETY: parts of this rank's buffers, within the point's lengths.
            unsafe {
                let from = input.add(from).cast_const().cast();
                copy::copy(output.add(to).cast(), from, count * 4, self.result_stores());
            }
        }
    }

    /// A few elements beside their counter.
    #[inline]
    fn mail(&mut self) {
        let (me, you) = (self.me, 1 - self.me);
        self.epoch += 1;
        let epoch = self.epoch;
        let slot = (epoch & 1) as usize;
        let (given, taken) = (self.parts.give.1, self.parts.take.1);
        let one_sided = given == 0 || taken == 0;
        // SAFETY: fields of the mapped area; a payload is written before its flag and read after it, and not written again
        // before the other rank has ended the operation that it was for.
        unsafe {
            let mail = |rank: usize| &raw mut (*self.area).mail[rank][slot];
            if given > 0 {
                if self.ended + 2 < epoch {
                    self.until(Kind::Ended, epoch - 2);
                }
                let own = mail(me);
                let from = self.buffers[0][0].add(self.parts.give.0).cast_const();
                from.copy_to_nonoverlapping((&raw mut (*own).payload).cast(), given);
                (*own).flag.store(epoch, Ordering::Release);
            }
            self.keep();
            if taken > 0 {
                let theirs = mail(you);
                until(&(*theirs).flag, epoch);
                self.accept(0, (&raw const (*theirs).payload).cast(), taken);
            }
        }
        if one_sided {
            self.raise(Kind::Ended, epoch);
        } else {
            // Whoever sends has ended what came before.
            self.ended = epoch - 1;
        }
    }

    /// Through the ring, two chunks ahead.
    fn one_shot(&mut self) {
        let (me, you) = (self.me, 1 - self.me);
        let Parts { give: (first, given), take: (_, taken), .. } = self.parts;
        let step = if given.max(taken) <= 2 * CHUNK { SMALL_CHUNK } else { CHUNK };
        let (gives, takes) = (given.div_ceil(step), taken.div_ceil(step));
        let (mut give, mut take) = (0, 0);
        let input = self.buffers[0][0];
        let mut kept = false;
        while give < gives || take < takes {
            while give < gives && (takes == 0 || give <= take + 1) {
                if self.given >= RING as u64 {
                    self.until(Kind::Done, self.given - RING as u64 + 1);
                }
                let count = step.min(given - give * step);
                // SAFETY: a part of the input, and a chunk that the other rank has done with.
                unsafe {
                    let from = input.add(first + give * step).cast_const();
                    copy::copy(self.chunk(me, self.given, false).cast(), from.cast(), count * 4, self.scratch_stores());
                }
                self.given += 1;
                self.raise(Kind::Sent, self.given);
                give += 1;
            }
            if !std::mem::replace(&mut kept, true) {
                self.keep();
            }
            if take < takes {
                self.until(Kind::Sent, self.taken + 1);
                let count = step.min(taken - take * step);
                // SAFETY: the other rank has written this chunk and waits until it is done with.
                unsafe { self.accept(take * step, self.chunk(you, self.taken, false), count) };
                self.taken += 1;
                self.raise(Kind::Done, self.taken);
                take += 1;
            }
        }
    }

    /// Each rank reduces its half of every two chunks and gives the result back.
    fn two_shot(&mut self) {
        let (me, you) = (self.me, 1 - self.me);
        let [input, output] = self.buffers[0];
        let step = if self.count <= 8 * SMALL_CHUNK { SMALL_CHUNK } else { CHUNK };
        let stages = self.count.div_ceil(2 * step);
        let first = self.given;
        for turn in 0..stages + 2 {
            // SAFETY: halves are within the buffers; a chunk is written once the other rank is done with what it held, and
            // read once its counter says that it is there.
            unsafe {
                if turn < stages {
                    let number = first + turn as u64;
                    if number >= RING as u64 {
                        self.until(Kind::Done, number - RING as u64 + 1);
                    }
                    let (at, count) = half(self.count, step, turn, you);
                    let from = input.add(at).cast_const().cast();
                    copy::copy(self.chunk(me, number, false).cast(), from, count * 4, self.scratch_stores());
                    self.raise(Kind::Sent, number + 1);
                }
                if (1..=stages).contains(&turn) {
                    let number = first + turn as u64 - 1;
                    self.until(Kind::Sent, number + 1);
                    let (at, count) = half(self.count, step, turn - 1, me);
                    let theirs = self.chunk(you, number, false).cast_const().cast();
                    let sources = in_rank_order(me, input.add(at).cast_const().cast(), theirs);
                    let to = [output.add(at).cast(), self.chunk(me, number, true).cast()];
                    self.reducer.run(&sources, &to, count, self.scratch_stores());
                    self.raise(Kind::Reduced, number + 1);
                }
                if turn >= 2 {
                    let number = first + turn as u64 - 2;
                    self.until(Kind::Reduced, number + 1);
                    let (at, count) = half(self.count, step, turn - 2, you);
                    let from = self.chunk(you, number, true).cast_const().cast();
                    copy::copy(output.add(at).cast(), from, count * 4, self.result_stores());
                    self.raise(Kind::Done, number + 1);
                }
            }
        }
        self.given += stages as u64;
        self.taken = self.given;
    }

    /// Ranks read each other's input; large sums are made by halves and written to both outputs.
    fn direct(&mut self) {
        let me = self.me;
        self.epoch += 1;
        self.raise(Kind::Ready, self.epoch);
        self.until(Kind::Ready, self.epoch);
        let [theirs_in, theirs_out] = self.buffers[1];
        if self.op == Op::AllReduce && self.count >= HALVES_FROM {
            let ([mine_in, mine_out], lower) = (self.buffers[0], self.count / 2);
            let (at, count) = if me == 0 { (0, lower) } else { (lower, self.count - lower) };
            // SAFETY: this rank's half of all four buffers; the other rank touches the other half.
            unsafe {
                let sources = in_rank_order(me, mine_in.add(at).cast(), theirs_in.add(at).cast_const().cast());
                let to = [mine_out, theirs_out].map(|output| output.add(at).cast());
                self.reducer.run(&sources, &to, count, self.result_stores());
            }
        } else if self.parts.take.1 > 0 {
            let given = Parts::new(self.op, 1 - me, self.count).give;
            // SAFETY: a part of the other rank's input, which is ready.
            unsafe { self.accept(0, theirs_in.add(given.0), given.1) };
        }
        self.keep();
        self.ended = self.epoch;
        self.raise(Kind::Ended, self.epoch);
        self.until(Kind::Ended, self.epoch);
    }
}

impl Operator for Floor {
    fn begin(&mut self, op: Op, count: usize) -> Result<bool, BenchError> {
        (self.op, self.count, self.parts) = (op, count, Parts::new(op, self.me, count));
        Ok(op == Op::AllReduce || self.way != FloorWay::TwoShot)
    }

    fn input(&self) -> *mut f32 {
        self.buffers[0][0]
    }

    fn output(&self) -> *const f32 {
        self.buffers[0][1]
    }

    #[inline]
    fn run(&mut self) -> Result<(), BenchError> {
        match self.way {
            _ if self.parts.give.1.max(self.parts.take.1) <= MAIL => self.mail(),
            FloorWay::OneShot => self.one_shot(),
            FloorWay::TwoShot => self.two_shot(),
            FloorWay::Direct => self.direct(),
        }
        Ok(())
    }
}

#[inline]
fn until(flag: &AtomicU64, value: u64) {
    let mut spins = 0;
    while flag.load(Ordering::Acquire) < value {
        std::hint::spin_loop();
        spins += 1;
        if spins == 20_000 {
            std::thread::yield_now();
            spins = 0;
        }
    }
}

/// A sum is made in the order of ranks.
#[inline]
fn in_rank_order(me: usize, mine: *const u8, theirs: *const u8) -> [*const u8; 2] {
    if me == 0 { [mine, theirs] } else { [theirs, mine] }
}

/// The elements of a stage that `rank` reduces: a stage has two chunks of `step`, the last one may have less.
fn half(count: usize, step: usize, stage: usize, rank: usize) -> Part {
    let first = stage * 2 * step;
    let both = (count - first).min(2 * step);
    let lower = both.div_ceil(2);
    if rank == 0 { (first, lower) } else { (first + lower, both - lower) }
}
