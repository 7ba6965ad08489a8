//! What this machine can do at best, whoever programs it: the figures that collectives stand beside.

use std::io::{Read, Write};

use swarmloom_kernels::Dtype;
use swarmloom_kernels::copy::{self, Stores};
use swarmloom_kernels::reduce::{ReduceOp, Reducer};

use super::buffer::Buffer;
use super::clock::{Clock, now};
use super::grid::{Op, Point};
use super::record::{Limit, Said, rounded};
use super::sockets::{advance, connect};
use super::{BenchError, RankArgs};
use crate::memory::{self, Shared};

const BIG: usize = 64 << 20;

/// Measures all of them with two ranks.
pub(super) fn run(args: &RankArgs, clock: &mut Clock, say: &mut dyn FnMut(&Said)) -> Result<(), BenchError> {
    if clock.ranks() != 2 {
        let point = Point { op: Op::AllReduce, bytes: BIG };
        return Err(BenchError::Unfit { what: "the program of limits", ranks: clock.ranks(), point });
    }
    let quick = args.budget.as_millis() < 30;
    let mut bench = Limits { clock, say };
    bench.clock_call()?;
    bench.cache_line()?;
    bench.bandwidth(if quick { 4 } else { 11 })?;
    for bytes in [16 << 10, 256 << 10, 1 << 20, 16 << 20] {
        bench.transfer(bytes)?;
    }
    bench.sockets(quick)
}

struct Limits<'a> {
    clock: &'a mut Clock,
    say: &'a mut dyn FnMut(&Said),
}

impl Limits<'_> {
    fn report(&mut self, limit: &str, unit: &str, mut values: Vec<f64>) -> Result<(), BenchError> {
        self.clock.barrier()?;
        let one_way_ns = self.clock.one_way()?;
        if self.clock.rank() == 0 {
            values.sort_by(f64::total_cmp);
            let at = |index: usize| rounded(values.get(index).copied().unwrap_or(f64::NAN));
            let (limit, unit) = (limit.to_owned(), unit.to_owned());
            let (min, p50, max) = (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)));
            (self.say)(&Said::Limit(Limit { limit, unit, min, p50, max, one_way_ns }));
        }
        Ok(())
    }

    fn clock_call(&mut self) -> Result<(), BenchError> {
        const CALLS: usize = 100;
        let each = |_| {
            let start = now();
            let mut last = start;
            for _ in 0..CALLS {
                last = std::hint::black_box(now());
            }
            (last - start) as f64 / CALLS as f64
        };
        let values = (0..101).map(each).collect();
        self.report("clock call", "ns", values)
    }

    fn cache_line(&mut self) -> Result<(), BenchError> {
        let values = (0..25).map(|_| self.clock.one_way()).collect::<Result<_, _>>()?;
        self.report("cache line, one way", "ns", values)
    }

    /// GB/s of result bytes: a copy moves twice, a sum three times that over the memory bus.
    fn bandwidth(&mut self, repeats: usize) -> Result<(), BenchError> {
        let [to, one, other] = [Buffer::new(BIG)?, Buffer::new(BIG)?, Buffer::new(BIG)?];
        let reducer = Reducer::new(Dtype::F32, ReduceOp::Sum);
        for (sums, stores, name) in [
            (false, Stores::Cached, "copy 64 MiB"),
            (false, Stores::Streaming, "copy 64 MiB, past the cache"),
            (true, Stores::Cached, "sum 64 MiB"),
            (true, Stores::Streaming, "sum 64 MiB, past the cache"),
        ] {
            for cores in [1, 2] {
                for repeat in 0..repeats {
                    self.clock.barrier()?;
                    let start = now();
                    if self.clock.rank() < cores {
                        // SAFETY: three buffers of that size.
                        unsafe {
                            if sums {
                                reducer.run(&[one.at(), other.at()], &[to.at()], BIG / 4, stores);
                            } else {
                                copy::copy(to.at(), one.at(), BIG, stores);
                            }
                        }
                    }
                    self.clock.record(repeat, start, now());
                    std::hint::black_box(to.at());
                }
                self.clock.barrier()?;
                let rate = |time: i64| (cores * BIG) as f64 / time as f64;
                let values = self.clock.times(repeats).into_iter().map(rate).collect();
                let plural = if cores == 1 { "core" } else { "cores" };
                self.report(&format!("{name}, {cores} {plural}"), "GB/s", values)?;
            }
        }
        Ok(())
    }

    /// Both ranks write their own buffer, then both copy the other's at once.
    fn transfer(&mut self, bytes: usize) -> Result<(), BenchError> {
        const REPEATS: usize = 51;
        let (me, whole) = (self.clock.rank(), 2 * bytes);
        let own = if me == 0 { Some(Shared::create("swarmloom-limits", whole)?) } else { None };
        let number = own.as_ref().map_or(0, Shared::number);
        let card = self.clock.share(u64::from(std::process::id()) << 32 | u64::from(number))?;
        let theirs = if me == 0 { None } else { Some(memory::open((card >> 32) as u32, card as u32, whole)?) };
        let at = own.as_ref().map(Shared::raw).or(theirs.as_ref().map(memory::Mapping::raw));
        let Some(at) = at.map(|raw| raw.at) else { return Ok(()) };
        let local = Buffer::new(bytes)?;
        for repeat in 0..REPEATS {
            // SAFETY: this rank's half of the shared memory; the other rank reads it after the barrier.
            unsafe { at.add(me * bytes).write_bytes(repeat as u8, bytes) };
            self.clock.barrier()?;
            let start = now();
            // SAFETY: the other rank's half, which it writes again after the next barrier.
            unsafe { copy::copy(local.at(), at.add((1 - me) * bytes), bytes, Stores::Cached) };
            self.clock.record(repeat, start, now());
            std::hint::black_box(local.at());
            self.clock.barrier()?;
        }
        let values = self.clock.times(REPEATS).into_iter().map(|time| bytes as f64 / time as f64).collect();
        let size = if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
        self.report(&format!("reading {size} that the other core wrote, both at once"), "GB/s each way", values)
    }

    /// Short pieces: on a machine that does other things as well, a median of long ones would hold their time, too.
    fn sockets(&mut self, quick: bool) -> Result<(), BenchError> {
        let mut links = connect(self.clock)?;
        let me = self.clock.rank();
        let (rounds, repeats) = if quick { (1000, 9) } else { (8000, 31) };
        let mut message = [0; 64];
        let mut values = Vec::with_capacity(rounds);
        self.clock.barrier()?;
        for _ in 0..rounds {
            let start = now();
            for turn in 0..2 {
                let mut moved = 0;
                while moved < message.len() {
                    moved += advance(if turn == me {
                        links[0].write(&message[moved..])
                    } else {
                        links[0].read(&mut message[moved..])
                    })?;
                }
            }
            values.push((now() - start) as f64 / 1e3);
        }
        self.report("TCP on this host, 64 B there and back, spinning", "us", values)?;
        let bytes = 4 << 20;
        let (piece, mut sink) = (vec![1; 256 << 10], vec![0; 256 << 10]);
        for (both, name) in [(false, "TCP on this host, one way"), (true, "TCP on this host, both ways at once")] {
            for repeat in 0..repeats {
                self.clock.barrier()?;
                let start = now();
                let (mut leaving, mut coming) = (bytes, bytes);
                if !both {
                    (leaving, coming) = if me == 0 { (bytes, 0) } else { (0, bytes) };
                }
                while leaving > 0 || coming > 0 {
                    if leaving > 0 {
                        leaving -= advance(links[me].write(&piece[..leaving.min(piece.len())]))?;
                    }
                    if coming > 0 {
                        let room = coming.min(sink.len());
                        coming -= advance(links[1 - me].read(&mut sink[..room]))?;
                    }
                }
                self.clock.record(repeat, start, now());
            }
            self.clock.barrier()?;
            let values = self.clock.times(repeats).into_iter().map(|time| bytes as f64 / time as f64).collect();
            self.report(name, if both { "GB/s each way" } else { "GB/s" }, values)?;
        }
        Ok(())
    }
}
