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

/// Elements of each ring: much more than a core's own caches hold. A line that is written again soon is still in the
/// other core's cache and has to be called back from there; one that has fallen out of it costs half as much.
const RING: usize = (4 << 20) / 4;
/// Elements of a chunk at most: of what goes over whole, and of what goes over by halves.
const WHOLE_CHUNK: usize = 4096;
const LARGE_CHUNK: usize = 16_384;
/// From here on large chunks.
const LARGE_FROM: usize = (512 << 10) / 4;
/// Elements that ride beside their counter.
const MAIL: usize = 28;
/// Elements that go in one piece to one of two places: so few are best where both cores have them.
const LETTER: usize = (4 << 10) / 4;
/// With direct access, from here on two ranks that work on a half each are faster than two that do everything.
const HALVES_FROM: usize = (1 << 10) / 4;
/// From here on results pass the cache by; from a quarter of it where the program is told to.
const RESULT_STREAMS_FROM: usize = (16 << 20) / 4;
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
    /// Position up to which the ring is written.
    Sent,
    /// Position up to which the ring of results is written.
    Reduced,
    /// Position up to which the other rank's rings have been read.
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
    letters: [[[f32; LETTER]; 2]; 2],
    ring: [[f32; RING]; 2],
    results: [[f32; RING]; 2],
}

/// Where the next chunk of a ring goes: both ranks count alike.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor(u64);

impl Cursor {
    /// Room for `count` elements in one piece: where it begins in the ring, and the position after it.
    #[inline]
    fn next(&mut self, count: usize) -> (usize, u64) {
        // Whole cache lines.
        let room = count.next_multiple_of(16);
        let mut at = self.0 as usize % RING;
        if at + room > RING {
            self.0 += (RING - at) as u64;
            at = 0;
        }
        self.0 += room as u64;
        (at, self.0)
    }
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
    /// Of the rings that this rank writes, and of those that it reads.
    given: Cursor,
    taken: Cursor,
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
            given: Cursor::default(),
            taken: Cursor::default(),
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

    /// A rank's ring from `at` on.
    #[inline]
    fn ring(&self, rank: usize, at: usize) -> *mut f32 {
        // SAFETY: a field of the mapped area, and a place within it.
        unsafe { (&raw mut (*self.area).ring[rank]).cast::<f32>().add(at) }
    }

    /// A rank's ring of results from `at` on.
    #[inline]
    fn results(&self, rank: usize, at: usize) -> *mut f32 {
        // SAFETY: a field of the mapped area, and a place within it.
        unsafe { (&raw mut (*self.area).results[rank]).cast::<f32>().add(at) }
    }

    /// Room for `count` elements that the other rank has done with.
    #[inline]
    fn room(&mut self, count: usize) -> (usize, u64) {
        let (at, end) = self.given.next(count);
        self.until(Kind::Done, end.saturating_sub(RING as u64));
        (at, end)
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

    /// In one piece, a few elements beside their counter.
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
            let payload = |rank: usize, count: usize| -> *mut f32 {
                if count <= MAIL {
                    (&raw mut (*mail(rank)).payload).cast()
                } else {
                    (&raw mut (*self.area).letters[rank][slot]).cast()
                }
            };
            if given > 0 {
                if self.ended + 2 < epoch {
                    self.until(Kind::Ended, epoch - 2);
                }
                let own = mail(me);
                let from = self.buffers[0][0].add(self.parts.give.0).cast_const();
                copy::copy(payload(me, given).cast(), from.cast(), given * 4, Stores::Cached);
                (*own).flag.store(epoch, Ordering::Release);
            }
            self.keep();
            if taken > 0 {
                let theirs = mail(you);
                until(&(*theirs).flag, epoch);
                self.accept(0, payload(you, taken), taken);
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
        let step = if given.max(taken) >= LARGE_FROM { LARGE_CHUNK } else { WHOLE_CHUNK };
        let (gives, takes) = (given.div_ceil(step), taken.div_ceil(step));
        let (mut give, mut take) = (0, 0);
        let input = self.buffers[0][0];
        let mut kept = false;
        while give < gives || take < takes {
            while give < gives && (takes == 0 || give <= take + 1) {
                let count = step.min(given - give * step);
                let (at, end) = self.room(count);
                // SAFETY: a part of the input, and a part of the ring that the other rank has done with.
                unsafe {
                    let from = input.add(first + give * step).cast_const();
                    copy::copy(self.ring(me, at).cast(), from.cast(), count * 4, self.scratch_stores());
                }
                self.raise(Kind::Sent, end);
                give += 1;
            }
            if !std::mem::replace(&mut kept, true) {
                self.keep();
            }
            if take < takes {
                let count = step.min(taken - take * step);
                let (at, end) = self.taken.next(count);
                self.until(Kind::Sent, end);
                // SAFETY: the other rank has written this part of its ring and waits until it is done with.
                unsafe { self.accept(take * step, self.ring(you, at), count) };
                self.raise(Kind::Done, end);
                take += 1;
            }
        }
    }

    /// Each rank reduces its half and gives the result back; large vectors in stages. With stores that pass the cache by,
    /// the three steps of a stage are a turn apart, so that none waits for the other rank's fence. Otherwise they follow
    /// each other while everything is in the cache: the ranks do the same at the same time and hardly wait.
    fn two_shot(&mut self) {
        let (me, you) = (self.me, 1 - self.me);
        let [input, output] = self.buffers[0];
        let (count, stages) = (self.count, self.count.div_ceil(2 * LARGE_CHUNK));
        let apart = usize::from(self.scratch_stores() == Stores::Streaming);
        let halves = |stage: usize| [me, you].map(|rank| half(count, LARGE_CHUNK, stage, rank));
        // Of the stages under way: where this rank's chunk is and ends, and the other's.
        let mut places = [((0, 0), (0, 0)); 4];
        for turn in 0..stages + 2 * apart {
            // SAFETY: halves are within the buffers; a part of a ring is written once the other rank is done with what it
            // held, and read once its counter says that it is there.
            unsafe {
                if turn < stages {
                    let [(_, mine), (at, theirs)] = halves(turn);
                    // As much room for either half.
                    let room = mine.max(theirs);
                    places[turn % 4] = (self.room(room), self.taken.next(room));
                    let ((here, end), _) = places[turn % 4];
                    let from = input.add(at).cast_const().cast();
                    copy::copy(self.ring(me, here).cast(), from, theirs * 4, self.scratch_stores());
                    self.raise(Kind::Sent, end);
                }
                if let Some(stage) = turn.checked_sub(apart).filter(|stage| *stage < stages) {
                    let [(at, mine), _] = halves(stage);
                    let ((here, end), (there, end_there)) = places[stage % 4];
                    self.until(Kind::Sent, end_there);
                    let from = self.ring(you, there).cast_const().cast();
                    let sources = in_rank_order(me, input.add(at).cast_const().cast(), from);
                    let to = [output.add(at).cast(), self.results(me, here).cast()];
                    self.reducer.run(&sources, &to, mine, self.scratch_stores());
                    self.raise(Kind::Reduced, end);
                }
                if let Some(stage) = turn.checked_sub(2 * apart) {
                    let [_, (at, theirs)] = halves(stage);
                    let (_, (there, end_there)) = places[stage % 4];
                    self.until(Kind::Reduced, end_there);
                    let from = self.results(you, there).cast_const().cast();
                    copy::copy(output.add(at).cast(), from, theirs * 4, self.result_stores());
                    self.raise(Kind::Done, end_there);
                }
            }
        }
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
        self.buffers[0][usize::from(self.op != Op::Broadcast || self.me != 0)]
    }

    #[inline]
    fn run(&mut self) -> Result<(), BenchError> {
        let largest = self.parts.give.1.max(self.parts.take.1);
        match self.way {
            _ if largest <= MAIL => self.mail(),
            FloorWay::OneShot if largest <= LETTER && !self.streaming => self.mail(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_gives_pieces_that_do_not_wrap() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.next(17), (0, 32));
        assert_eq!(cursor.next(RING - 48), (32, RING as u64 - 16));
        // Sixteen are left: not enough, so the next one begins anew.
        assert_eq!(cursor.next(17), (0, RING as u64 + 32));
    }

    #[test]
    fn halves_cover_a_vector_once_and_the_first_is_not_the_shorter() {
        for count in [1_usize, 2, 33, 64, 65, 129, 1000] {
            let mut next = 0;
            for stage in 0..count.div_ceil(64) {
                let [zero, one] = [0, 1].map(|rank| half(count, 32, stage, rank));
                assert_eq!((zero.0, one.0), (next, next + zero.1));
                assert!(zero.1 >= one.1 && zero.1 <= 32);
                next = one.0 + one.1;
            }
            assert_eq!(next, count);
        }
    }
}
