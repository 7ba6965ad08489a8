//! The measured grid and the timing loop.
//!
//! The twin of `xtask/peers/collectives/grid.h`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::clock::{Clock, now};
use super::record::{Record, Said, rounded};
use super::{BenchError, RankArgs};

/// A measured operation, on `f32`, with a sum where it reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The vector of all ranks, summed, to all.
    AllReduce,
    /// `bytes` is the gathered result.
    AllGather,
    /// `bytes` is the input.
    ReduceScatter,
    /// From rank 0.
    Broadcast,
    /// `bytes` is the input.
    AllToAll,
    /// To rank 0.
    Reduce,
}

impl Op {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::AllReduce, Self::AllGather, Self::ReduceScatter, Self::Broadcast, Self::AllToAll, Self::Reduce];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::Broadcast => "broadcast",
            Self::AllToAll => "all_to_all",
            Self::Reduce => "reduce",
        }
    }

    /// Bus bandwidth over algorithm bandwidth, as nccl-tests defines it: what an ideal algorithm moves through the
    /// busiest link, over the size.
    pub fn bus_factor(self, ranks: usize) -> f64 {
        let n = ranks as f64;
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::AllGather | Self::ReduceScatter | Self::AllToAll => (n - 1.0) / n,
            Self::Broadcast | Self::Reduce => 1.0,
        }
    }

    /// Whether the vector is cut into one part a rank.
    pub fn is_parted(self) -> bool {
        matches!(self, Self::AllGather | Self::ReduceScatter | Self::AllToAll)
    }

    /// Elements that each rank writes before an iteration, of a vector of `count`. A rank without an input writes its
    /// buffer all the same.
    pub(super) fn input_len(self, count: usize, ranks: usize) -> usize {
        if self == Self::AllGather { count / ranks } else { count }
    }

    /// Elements of the result.
    pub(super) fn output_len(self, count: usize, ranks: usize, rank: usize) -> usize {
        match self {
            Self::ReduceScatter => count / ranks,
            Self::Reduce if rank != 0 => 0,
            _ => count,
        }
    }

    /// Element `i` of the result.
    fn expected(self, i: usize, count: usize, (rank, ranks): (usize, usize), iteration: usize) -> f32 {
        let part = count / ranks;
        let sum = |i: usize| (0..ranks).map(|rank| value(rank, i, iteration)).sum();
        match self {
            Self::AllReduce | Self::Reduce => sum(i),
            Self::ReduceScatter => sum(rank * part + i),
            Self::AllGather => value(i / part, i % part, iteration),
            Self::AllToAll => value(i / part, rank * part + i % part, iteration),
            Self::Broadcast => value(0, i, iteration),
        }
    }
}

/// An operation and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// What.
    pub op: Op,
    /// The larger side on one rank: the vector, or all its parts together.
    pub bytes: usize,
}

impl Point {
    /// Elements of the vector: whole ones, and as many in every part.
    pub fn count(self, ranks: usize) -> usize {
        let count = self.bytes / size_of::<f32>();
        if self.op.is_parted() { count / ranks * ranks } else { count }
    }

    /// Whether there is an element for every part.
    pub fn fits(self, ranks: usize) -> bool {
        self.count(ranks) > 0
    }
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.op.name(), self.bytes)
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|op| op.name() == text).ok_or_else(|| format!("{text:?} is none of {}", known()))
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (op, bytes) = text.split_once(':').ok_or_else(|| format!("{text:?} is not OPERATION:BYTES"))?;
        let bytes = bytes.parse().map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { op: op.parse()?, bytes })
    }
}

/// A program under test.
pub(super) trait Operator {
    /// Gets ready for a point: everything that a user would do once. False where the program has no such operation.
    fn begin(&mut self, op: Op, count: usize) -> Result<bool, BenchError>;

    /// Where fresh values are written before each iteration.
    fn input(&self) -> *mut f32;

    /// Where the result is.
    fn output(&self) -> *const f32;

    /// Once.
    fn run(&mut self) -> Result<(), BenchError>;
}

/// Untimed passes that tell how many can be timed.
const PROBES: usize = 6;

/// Measures every point that the program and its ranks can do.
pub(super) fn run<O: Operator>(
    args: &RankArgs,
    clock: &mut Clock,
    operator: &mut O,
    say: &mut dyn FnMut(&Said),
) -> Result<(), BenchError> {
    let ranks = clock.ranks();
    for point in args.points.iter().filter(|point| point.fits(ranks)) {
        if operator.begin(point.op, point.count(ranks))? {
            let record = measure(args, clock, operator, *point)?;
            if clock.rank() == 0 {
                say(&Said::Point(record));
            }
        }
    }
    clock.barrier()
}

fn measure<O: Operator>(
    args: &RankArgs,
    clock: &mut Clock,
    operator: &mut O,
    point: Point,
) -> Result<Record, BenchError> {
    let (rank, ranks) = (clock.rank(), clock.ranks());
    let (op, count) = (point.op, point.count(ranks));
    let (inputs, outputs) = (op.input_len(count, ranks), op.output_len(count, ranks, rank));
    let one_way_before_ns = clock.one_way()?;
    let (mut warm, mut total, mut iters) = (PROBES, PROBES, 0);
    let (mut fastest, mut wrong) = (i64::MAX, 0);
    let mut iteration = 0;
    while iteration < total {
        let began = now();
        // SAFETY: the operator's input has room for `inputs` of this point, and nobody reads it between operations.
        unsafe { fill(operator.input(), inputs, rank, iteration) };
        clock.barrier()?;
        let start = now();
        operator.run()?;
        let end = now();
        // SAFETY: `outputs` is the length of the result, complete once the operation has returned.
        let is_wrong =
            |i: usize| unsafe { operator.output().add(i).read() } != op.expected(i, count, (rank, ranks), iteration);
        if iteration >= warm {
            clock.record(iteration - warm, start, end);
            // Another element each time.
            let sampled = iteration.wrapping_mul(2_654_435_761) % outputs.max(1);
            wrong += u64::from(outputs > 0 && is_wrong(sampled));
        } else {
            fastest = fastest.min(end - began);
            if iteration == 0 {
                wrong += (0..outputs).filter(|i| is_wrong(*i)).count() as u64;
            }
            if iteration == PROBES - 1 {
                let budget = u64::try_from(args.budget.as_nanos()).unwrap_or(u64::MAX);
                let fit = budget / (fastest.unsigned_abs() + 1);
                iters = clock.share(fit.clamp(15, 12_000))? as usize;
                warm = PROBES + iters / 8;
                total = warm + iters;
            }
        }
        iteration += 1;
    }
    clock.barrier()?;
    let one_way_ns = clock.one_way()?;
    clock.report_wrong(wrong);
    clock.barrier()?;
    let times = clock.times(iters);
    let at = |part: usize| rounded(times.get(iters * part / 10).copied().unwrap_or(0) as f64 / 1e3);
    let wrong = clock.wrong();
    // Nobody goes on before rank 0 has read.
    clock.barrier()?;
    Ok(Record {
        peer: args.name.clone(),
        op,
        bytes: point.bytes,
        ranks,
        iters,
        one_way_before_ns,
        one_way_ns,
        min_us: at(0),
        p10_us: at(1),
        p50_us: at(5),
        p90_us: at(9),
        wrong,
    })
}

/// Small whole numbers, so that a sum is exact in any order.
#[inline]
fn value(rank: usize, i: usize, iteration: usize) -> f32 {
    (((i + 37 * rank) & 1023) + (iteration & 511)) as f32
}

/// # Safety
/// `to` is writable for `count` elements, and nobody else touches them.
unsafe fn fill(to: *mut f32, count: usize, rank: usize, iteration: usize) {
    let (first, more) = (37 * rank as u32, (iteration & 511) as u32);
    // Points are at most some hundred megabytes: their elements are counted in 32 bits, which vector units have.
    for i in 0..count as u32 {
        // SAFETY: `i < count`.
        unsafe { to.add(i as usize).write((((i + first) & 1023) + more) as i32 as f32) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_as_they_are_written() {
        let point = Point { op: Op::ReduceScatter, bytes: 4096 };
        assert_eq!(point.to_string(), "reduce_scatter:4096");
        assert_eq!("reduce_scatter:4096".parse(), Ok(point));
        for wrong in ["reduce_scatter", "scatter:8", "all_reduce:x"] {
            assert!(wrong.parse::<Point>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_point_has_as_many_elements_in_every_part() {
        assert_eq!(Point { op: Op::AllToAll, bytes: 64 }.count(3), 15);
        assert_eq!(Point { op: Op::Broadcast, bytes: 64 }.count(3), 16);
        let fits = |op, bytes, ranks| Point { op, bytes }.fits(ranks);
        assert!(fits(Op::AllReduce, 8, 16) && fits(Op::AllGather, 8, 2));
        assert!(!fits(Op::AllGather, 8, 3) && !fits(Op::AllReduce, 3, 2));
    }

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factors = Op::ALL.map(|op| op.bus_factor(4));
        assert_eq!(factors, [1.5, 0.75, 0.75, 1.0, 0.75, 1.0]);
    }

    #[test]
    fn results_are_what_the_operations_mean() {
        let expected = |op: Op, i, rank| op.expected(i, 8, (rank, 2), 5);
        // Element 6 of rank 1 is 6 + 37 + 5, of rank 0 it is 6 + 5.
        assert_eq!(expected(Op::AllReduce, 6, 0), 59.0);
        assert_eq!(expected(Op::ReduceScatter, 2, 1), 59.0);
        assert_eq!(expected(Op::Broadcast, 6, 1), 11.0);
        // The third element of rank 1's part, and of what rank 1 has for rank 0.
        assert_eq!(expected(Op::AllGather, 6, 0), 2.0 + 37.0 + 5.0);
        assert_eq!(expected(Op::AllToAll, 6, 0), 2.0 + 37.0 + 5.0);
        let mut filled = [0.0; 8];
        // SAFETY: eight elements of this thread.
        unsafe { fill(filled.as_mut_ptr(), 8, 1, 517) };
        assert_eq!(filled[6], 6.0 + 37.0 + 5.0);
    }
}
