//! Start line, clock and result pool of the ranks of one measured program, in a file that all of them map.
//!
//! The twin of `xtask/peers/collectives/shmclock.h`.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::ftruncate;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::time::{ClockId, clock_gettime};

use super::BenchError;

/// Ranks of a measured program.
pub(super) const MAX_RANKS: usize = 16;
/// Timed iterations of a point.
pub(super) const MAX_ITERATIONS: usize = 20_000;

/// Two cache lines with one counter: neighbours are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
struct Slot(AtomicU64);

#[derive(Debug)]
#[repr(C)]
struct Page {
    arrived: [Slot; MAX_RANKS],
    word: Slot,
    wrong: [AtomicU64; MAX_RANKS],
    start: [[AtomicI64; MAX_ITERATIONS]; MAX_RANKS],
    end: [[AtomicI64; MAX_ITERATIONS]; MAX_RANKS],
}

/// Nanoseconds of a clock that all processes of a host share.
#[inline]
pub(super) fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// One rank's side.
#[derive(Debug)]
pub(super) struct Clock {
    page: NonNull<Page>,
    rank: usize,
    ranks: usize,
    sequence: u64,
    spins: u32,
    patience: Duration,
}

// SAFETY: the mapping is used through atomics only, and is valid from any thread until it is dropped.
unsafe impl Send for Clock {}

impl Clock {
    /// Maps the file. With more ranks than processors (`crowded`), waits give the processor away early.
    pub(super) fn open(
        path: &Path,
        (rank, ranks): (usize, usize),
        crowded: bool,
        patience: Duration,
    ) -> Result<Self, BenchError> {
        let system = |what: &'static str| move |why: String| BenchError::System { what, why };
        if ranks == 0 || ranks > MAX_RANKS || rank >= ranks {
            return Err(system("the shared clock")(format!("rank {rank} of {ranks}: it has room for {MAX_RANKS}")));
        }
        let opening = system("opening the shared clock");
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|error| opening(format!("{}: {error}", path.display())))?;
        let bytes = size_of::<Page>();
        ftruncate(&file, bytes as u64).map_err(|error| system("sizing the shared clock")(error.to_string()))?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at an address that the system chooses, overlaps no memory of this program.
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, &file, 0) };
        let at = at.map_err(|error| system("mapping the shared clock")(error.to_string()))?;
        let page = NonNull::new(at.cast()).ok_or_else(|| system("mapping the shared clock")("at 0".into()))?;
        let clock = Self { page, rank, ranks, sequence: 0, spins: if crowded { 50 } else { 20_000 }, patience };
        // Own pages are there before the first measurement.
        for own in [&clock.page().start[rank], &clock.page().end[rank]] {
            own.iter().step_by(512).for_each(|time| time.store(0, Ordering::Relaxed));
        }
        Ok(clock)
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn ranks(&self) -> usize {
        self.ranks
    }

    #[inline]
    fn page(&self) -> &Page {
        // SAFETY: mapped until `self` is dropped, zeroed when the file was made, and all of it is atomics.
        unsafe { self.page.as_ref() }
    }

    /// Returns when all ranks have come.
    #[inline]
    pub(super) fn barrier(&mut self) -> Result<(), BenchError> {
        self.sequence += 1;
        let page = self.page();
        page.arrived[self.rank].0.store(self.sequence, Ordering::Release);
        for (rank, slot) in page.arrived[..self.ranks].iter().enumerate() {
            let mut spins = 0;
            let mut since = 0;
            while slot.0.load(Ordering::Acquire) < self.sequence {
                std::hint::spin_loop();
                spins += 1;
                if spins > self.spins {
                    spins = 0;
                    self.lose_patience(rank, &mut since)?;
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn lose_patience(&self, rank: usize, since: &mut i64) -> Result<(), BenchError> {
        std::thread::yield_now();
        let time = now();
        if *since == 0 {
            *since = time;
        }
        if time - *since > i64::try_from(self.patience.as_nanos()).unwrap_or(i64::MAX) {
            return Err(BenchError::Missing { rank, after: self.patience });
        }
        Ok(())
    }

    /// Rank 0's value, for everybody.
    pub(super) fn share(&mut self, value: u64) -> Result<u64, BenchError> {
        if self.rank == 0 {
            self.page().word.0.store(value, Ordering::Relaxed);
        }
        self.barrier()?;
        let value = self.page().word.0.load(Ordering::Relaxed);
        self.barrier()?;
        Ok(value)
    }

    /// Keeps this rank's times of a timed iteration.
    #[inline]
    pub(super) fn record(&self, iteration: usize, start: i64, end: i64) {
        self.page().start[self.rank][iteration].store(start, Ordering::Relaxed);
        self.page().end[self.rank][iteration].store(end, Ordering::Relaxed);
    }

    /// Keeps this rank's count of wrong elements; after the next barrier all can be summed up.
    pub(super) fn report_wrong(&self, wrong: u64) {
        self.page().wrong[self.rank].store(wrong, Ordering::Relaxed);
    }

    /// The sum of all ranks' counts.
    pub(super) fn wrong(&self) -> u64 {
        self.page().wrong[..self.ranks].iter().map(|wrong| wrong.load(Ordering::Relaxed)).sum()
    }

    /// Nanoseconds of each of the first `iterations`: the largest of the ranks'. In order.
    pub(super) fn times(&self, iterations: usize) -> Vec<i64> {
        let page = self.page();
        let of_rank = |rank: usize, iteration: usize| {
            page.end[rank][iteration].load(Ordering::Relaxed) - page.start[rank][iteration].load(Ordering::Relaxed)
        };
        let longest = |iteration| (0..self.ranks).map(|rank| of_rank(rank, iteration)).max().unwrap_or(0);
        let mut times: Vec<i64> = (0..iterations.min(MAX_ITERATIONS)).map(longest).collect();
        times.sort_unstable();
        times
    }

    /// One-way time of a cache line between ranks 0 and 1, in nanoseconds; -1 where there are not just these. In a barrier
    /// of two, both store at once and each waits for the other's line to come over.
    pub(super) fn one_way(&mut self) -> Result<f64, BenchError> {
        const BARRIERS: u32 = 200;
        if self.ranks != 2 {
            return Ok(-1.0);
        }
        let mut best = i64::MAX;
        for _ in 0..5 {
            let start = now();
            for _ in 0..BARRIERS {
                self.barrier()?;
            }
            best = best.min(now() - start);
        }
        Ok(best as f64 / f64::from(BARRIERS))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // A failure would leave a mapping until the process ends, which is soon.
        // SAFETY: mapped by `open`, and no reference to it outlives `self`.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair<T: Send>(work: impl Fn(Clock) -> T + Sync) -> [T; 2] {
        let name = format!("swarmloom-clock-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        File::create(&path).expect("a file");
        let open = |rank| Clock::open(&path, (rank, 2), true, Duration::from_secs(20)).expect("a clock");
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| work(open(1)));
            [work(open(0)), other.join().expect("no panic")]
        });
        std::fs::remove_file(&path).expect("the file is there");
        both
    }

    #[test]
    fn an_operation_takes_the_longest_time_of_its_ranks() {
        let times = pair(|mut clock| {
            clock.record(0, 100, 100 + [7, 3][clock.rank()]);
            clock.record(1, 200, 200 + [2, 5][clock.rank()]);
            clock.report_wrong([1, 4][clock.rank()]);
            clock.barrier().expect("both come");
            let seen = (clock.times(2), clock.wrong());
            clock.barrier().expect("both come");
            seen
        });
        assert_eq!(times, [(vec![5, 7], 5), (vec![5, 7], 5)]);
    }

    #[test]
    fn rank_0_is_heard_by_all() {
        assert_eq!(pair(|mut clock| clock.share([8, 9][clock.rank()]).expect("both come")), [8, 8]);
    }

    #[test]
    fn who_does_not_come_is_named() {
        let path = std::env::temp_dir().join(format!("swarmloom-clock-alone-{}", std::process::id()));
        File::create(&path).expect("a file");
        let mut clock = Clock::open(&path, (0, 2), true, Duration::from_millis(5)).expect("a clock");
        let missing = clock.barrier().expect_err("nobody comes");
        std::fs::remove_file(&path).expect("the file is there");
        assert!(matches!(missing, BenchError::Missing { rank: 1, .. }), "{missing}");
        assert!(Clock::open(&path, (2, 2), false, Duration::ZERO).is_err());
    }
}
