//! Rounds that wait.

use super::{Bounds, EMPTY_ROUNDS_MOST, Round, Timeline, TimelineError};
use crate::time::{Time, nanoseconds};

impl Timeline {
    /// Selects, waits until enough have arrived, nobody is at work any more or the deadline has passed, and gives up
    /// the rest.
    pub(super) fn synchronous(
        &mut self,
        per_round: u32,
        over_selection: f64,
        deadline_s: Option<f64>,
    ) -> Result<Round, TimelineError> {
        let enough = per_round as usize;
        // Not 56 instead of 55 because 50 * 1.1 is a little more than 55.
        let want = (f64::from(per_round) * (1.0 + over_selection) - 1e-9).ceil() as usize;
        let mut chosen = self.select(want);
        if chosen.is_empty() {
            self.now = self.next_available().ok_or_else(|| self.stalled())?;
            chosen = self.select(want);
        }
        let deadline = deadline_s.map_or(Time::NEVER, |deadline_s| self.now.after(nanoseconds(deadline_s)));
        for client in chosen {
            let task = self.task(client, 0);
            self.flights.begin(task);
        }
        let mut arrivals = Vec::new();
        while arrivals.len() < enough {
            let Some(next) = self.flights.next() else { break };
            // At the deadline is in time.
            if next > deadline {
                self.now = deadline;
                break;
            }
            if let Some(task) = self.land()? {
                arrivals.extend(self.arrival(&task, Bounds::default()));
            }
        }
        let late = self.flights.give_up();
        self.tally.late = self.tally.late.saturating_add(late);
        self.progress(!arrivals.is_empty(), EMPTY_ROUNDS_MOST, "rounds")?;
        Ok(self.round(arrivals))
    }
}
