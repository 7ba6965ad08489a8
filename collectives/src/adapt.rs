//! Which of several ways of doing the same operation is the fastest here and now.
//!
//! Whether stores should pass the cache by, whether scratch should be used again at once or much later, and which of two
//! plans is better, depends on how far apart the cores are that the ranks run on, by factors of four and more, and on
//! virtual machines that changes while a program runs. So it is tried: every way a few times, the fastest one for a while, then all again. The schedule follows
//! from the number of operations and from times that the ranks have agreed on, so all ranks go the same way.

use std::time::Duration;

/// The trials of one operation.
#[derive(Debug, Clone)]
pub struct Trials {
    /// The fastest time of each way in this round of trials.
    fastest: Vec<Duration>,
    best: usize,
    /// Operations since this round of trials began.
    done: usize,
    /// Operations that take the best way once the trials are over.
    rest: usize,
    /// Times of each way at the start of its turn that do not count.
    warm: Vec<usize>,
    /// Times after that, which do.
    tries: usize,
}

/// Trials may take this part of the time at most: one in so many.
const SHARE: f64 = 32.0;
/// After a round of trials, at least and at most so many operations go the best way.
const REST: (usize, usize) = (64, 100_000);

impl Trials {
    /// For as many ways of doing it as `warm` has entries, at least one. Each is tried so many times without counting,
    /// because of what the way before has left in the caches, and `tries` times more. The fastest of these counts, so that a
    /// peer that came late does not.
    pub fn new(warm: Vec<usize>, tries: usize) -> Self {
        Self { fastest: vec![Duration::MAX; warm.len().max(1)], best: 0, done: 0, rest: 0, tries: tries.max(1), warm }
    }

    /// Operations of a round of trials.
    fn trials(&self) -> usize {
        self.warm.iter().map(|warm| warm + self.tries).sum()
    }

    /// The way that is tried now, and whether this time of it counts; none once all have been tried.
    fn tried(&self) -> Option<(usize, bool)> {
        let mut left = self.done;
        for (way, warm) in self.warm.iter().enumerate() {
            if left < warm + self.tries {
                return Some((way, left >= *warm));
            }
            left -= warm + self.tries;
        }
        None
    }

    /// The way of the next operation, and whether its time is wanted.
    pub fn next(&self) -> (usize, bool) {
        // The usual case first.
        if self.is_decided() || self.fastest.len() == 1 {
            return (self.best, false);
        }
        self.tried().map_or((self.best, false), |(way, _)| (way, true))
    }

    /// Takes note of an operation that went the way that [`Trials::next`] said, with its time where that was wanted.
    pub fn record(&mut self, took: Option<Duration>) {
        if let (Some(took), Some((way, true))) = (took, self.tried()) {
            self.fastest[way] = self.fastest[way].min(took);
        }
        self.done += 1;
        if self.is_decided() && self.fastest.len() > 1 && self.done >= self.trials() + self.rest {
            self.fastest.fill(Duration::MAX);
            self.done = 0;
            self.rest = 0;
        }
    }

    /// This rank's times in seconds, by way, once all have been tried and before [`Trials::decide`].
    pub fn undecided(&self) -> Option<Vec<f64>> {
        let over = self.fastest.len() > 1 && self.done == self.trials() && !self.is_decided();
        over.then(|| self.fastest.iter().map(Duration::as_secs_f64).collect())
    }

    /// Decides by the times of the slowest rank, in seconds, by way: the same on every rank.
    pub fn decide(&mut self, slowest: &[f64]) {
        let least = |(_, one): &(usize, &f64), (_, other): &(usize, &f64)| one.total_cmp(other);
        let Some((best, time)) = slowest.iter().enumerate().min_by(least) else { return };
        self.best = best.min(self.fastest.len() - 1);
        let spent = slowest.iter().zip(&self.warm).map(|(time, warm)| time * (warm + self.tries) as f64);
        // Saturates; what is no number becomes the least.
        self.rest = ((spent.sum::<f64>() * SHARE / time.max(1e-9)) as usize).clamp(REST.0, REST.1);
    }

    fn is_decided(&self) -> bool {
        self.rest > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `count` operations whose times `time` gives; how often each way was taken.
    fn run(trials: &mut Trials, count: usize, time: impl Fn(usize) -> u64) -> Vec<usize> {
        let mut taken = vec![0; trials.fastest.len()];
        for _ in 0..count {
            let (way, wanted) = trials.next();
            taken[way] += 1;
            trials.record(wanted.then(|| Duration::from_nanos(time(way))));
            if let Some(times) = trials.undecided() {
                trials.decide(&times);
            }
        }
        taken
    }

    #[test]
    fn the_fastest_way_is_found_and_found_again_when_it_changes() {
        let mut trials = Trials::new(vec![0; 3], 3);
        assert_eq!(run(&mut trials, 9, |way| [900, 300, 400][way]), [3, 3, 3]);
        // Three rounds of 1600 ns, times 32, by the best one's 300 ns.
        let rest = 3 * 1600 * 32 / 300;
        assert_eq!(run(&mut trials, rest, |_| unreachable!("no time is wanted")), [0, rest, 0]);
        assert_eq!(run(&mut trials, 9, |way| [100, 300, 400][way]), [3, 3, 3]);
        assert_eq!(run(&mut trials, 10, |_| 0), [10, 0, 0]);
    }

    #[test]
    fn a_late_peer_does_not_decide() {
        let mut trials = Trials::new(vec![0; 2], 3);
        let late = std::cell::Cell::new(0);
        run(&mut trials, 6, |way| {
            late.set(late.get() + 1);
            // Every second one waits for somebody.
            [200, 100][way] + if late.get() % 2 == 0 { 50_000 } else { 0 }
        });
        assert_eq!(trials.next(), (1, false));
    }

    /// The first way is only fast as long as it finds what the other one has left.
    #[test]
    fn what_the_way_before_has_left_does_not_decide() {
        let mut trials = Trials::new(vec![2; 2], 2);
        let tried = std::cell::Cell::new(0);
        run(&mut trials, 8, |way| {
            let fresh = tried.replace(tried.get() + 1) % 4 < 2;
            if way == 0 && fresh { 10 } else { [300, 200][way] }
        });
        assert_eq!(trials.next(), (1, false));
    }

    /// A way that is fast once it has been everywhere gets the time for that.
    #[test]
    fn a_way_that_warms_up_slowly_is_warmed_up() {
        let mut trials = Trials::new(vec![1, 5], 2);
        let tried = std::cell::Cell::new([0; 2]);
        let taken = run(&mut trials, 10, |way| {
            let mut counts = tried.get();
            counts[way] += 1;
            tried.set(counts);
            if way == 1 && counts[1] <= 5 { 900 } else { [300, 200][way] }
        });
        assert_eq!((taken, trials.next()), (vec![3, 7], (1, false)));
    }

    #[test]
    fn the_slowest_rank_decides() {
        let mut trials = Trials::new(vec![0; 2], 1);
        for way in 0..2 {
            assert_eq!((trials.next(), trials.undecided()), ((way, true), None));
            trials.record(Some(Duration::from_micros(10 - way as u64)));
        }
        assert_eq!(trials.undecided(), Some(vec![1e-5, 9e-6]));
        trials.decide(&[1e-5, 1.5e-5]);
        assert_eq!((trials.next(), trials.undecided()), ((0, false), None));
    }

    #[test]
    fn one_way_needs_no_trials() {
        let mut trials = Trials::new(vec![0], 3);
        assert_eq!(run(&mut trials, 1000, |_| unreachable!("no time is wanted")), [1000]);
    }
}
