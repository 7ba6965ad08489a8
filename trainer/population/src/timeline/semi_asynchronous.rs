//! Rounds that come by a clock, and take what is there.

use super::{BTreeMap, Bounds, EMPTY_ROUNDS_MOST, Round, Task, Timeline, TimelineError};
use crate::time::{Time, nanoseconds};

/// What is known from the rounds before.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Slow clients' tasks by the version of the round in which they arrive.
    due: BTreeMap<u64, Vec<Task>>,
    /// How long the last round took, nanoseconds.
    last: u64,
}

impl Timeline {
    pub(super) fn semi_asynchronous(
        &mut self,
        per_round: u32,
        period_s: Option<f64>,
        bounds: Bounds,
    ) -> Result<Round, TimelineError> {
        let period = period_s.map(nanoseconds);
        let staleness = self.population.staleness();
        let mut chosen = self.select(per_round as usize);
        // Nobody there, nobody at work: a round would be for nothing.
        if chosen.is_empty() && self.flights.queued() == 0 {
            match self.next_available() {
                Some(next) => {
                    self.now = tick(self.now, next, period);
                    chosen = self.select(per_round as usize);
                }
                // All that there are may have work that arrives by rounds.
                None if !self.semi.due.is_empty() => {}
                None => return Err(self.stalled()),
            }
        }
        let start = self.now;
        let mut slowest = 0;
        for client in chosen {
            let slow = self.population.is_slow(client);
            let task = self.task(client, u32::from(slow));
            match staleness.filter(|_| slow) {
                Some(staleness) => {
                    slowest = slowest.max(task.parts.total());
                    self.keep(task, staleness, bounds);
                }
                None => self.flights.begin(task),
            }
        }
        match (staleness, period) {
            (None, Some(period)) => self.by_clock(start.after(period), bounds),
            _ => self.by_rounds(start, period, slowest, bounds),
        }
    }

    /// Virtual time decides who is in this round.
    fn by_clock(&mut self, end: Time, bounds: Bounds) -> Result<Round, TimelineError> {
        let mut arrivals = Vec::new();
        // At the end is in time.
        while self.flights.next().is_some_and(|next| next <= end) {
            if let Some(task) = self.land()? {
                arrivals.extend(self.arrival(&task, bounds));
            }
        }
        self.now = end;
        for task in self.force(bounds) {
            arrivals.extend(self.arrival(&task, bounds));
        }
        self.progress(!arrivals.is_empty(), EMPTY_ROUNDS_MOST, "rounds")?;
        Ok(self.round(arrivals))
    }

    /// Slow clients' updates arrive when it is their round, all others now.
    fn by_rounds(
        &mut self,
        start: Time,
        period: Option<u64>,
        slowest: u64,
        bounds: Bounds,
    ) -> Result<Round, TimelineError> {
        let mut landed = Vec::with_capacity(self.flights.queued());
        while let Some(task) = self.land()? {
            landed.push(task);
        }
        let longest = landed.last().map(|task| task.end.since(start));
        // A round of slow clients only takes as long as their devices would, and one of nobody as long as the last one.
        let estimate = if slowest > 0 { slowest } else { self.semi.last };
        self.semi.last = period.or(longest).unwrap_or(estimate);
        self.now = start.after(self.semi.last);
        let mut due = self.semi.due.remove(&self.version).unwrap_or_default();
        for task in &mut due {
            self.flights.release(task);
            task.end = self.now;
        }
        let mut arrivals = Vec::with_capacity(landed.len() + due.len());
        for task in landed.iter().chain(&due) {
            arrivals.extend(self.arrival(task, bounds));
        }
        let staleness = self.population.staleness().unwrap_or(0);
        self.progress(!arrivals.is_empty(), EMPTY_ROUNDS_MOST.saturating_add(staleness), "rounds")?;
        Ok(self.round(arrivals))
    }

    /// Keeps a slow client's task until its round.
    fn keep(&mut self, mut task: Task, staleness: u64, bounds: Bounds) {
        let lost = self.population.lost(task.number, self.seed);
        let forced = bounds.force_after.filter(|&force| force < staleness);
        let after = forced.unwrap_or(staleness);
        task.share = if staleness == 0 { 1.0 } else { after as f64 / staleness as f64 };
        // Who reports before it would have been lost is not.
        task.arrives = lost.is_none_or(|lost| lost >= task.share);
        self.flights.hold(&task, !self.population.overlap());
        self.semi.due.entry(task.base.saturating_add(after)).or_default().push(task);
    }
}

/// The first of the times at which the clock ticks from `now` on that is not before `next`.
fn tick(now: Time, next: Time, period: Option<u64>) -> Time {
    match period {
        Some(period) if period > 0 => now.after(next.since(now).div_ceil(period).saturating_mul(period)),
        _ => now.max(next),
    }
}
