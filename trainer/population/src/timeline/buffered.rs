//! Rounds that come whenever enough updates are there. With a buffer of one this is the asynchronous server.

use super::{Arrival, Bounds, FRUITLESS_TASKS_MOST, Round, Timeline, TimelineError};
use crate::time::Time;

/// What is known from the rounds before.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    arrivals: Vec<Arrival>,
    /// Until then no client without work can be reached, other than those in `freed`.
    none_until: Option<Time>,
    /// Clients that lost their work since somebody was last looked for.
    freed: Vec<u32>,
}

impl Timeline {
    pub(super) fn buffered(&mut self, concurrency: u32, buffer: u32, bounds: Bounds) -> Result<Round, TimelineError> {
        let most = FRUITLESS_TASKS_MOST + 10 * u64::from(concurrency);
        loop {
            self.fill(concurrency as usize);
            let wake = self.buffer.none_until.filter(|_| self.flights.len() < concurrency as usize);
            match (self.flights.next(), wake) {
                // Somebody may be woken before the next task ends.
                (next, Some(wake)) if next.is_none_or(|next| wake < next) => {
                    if wake == Time::NEVER {
                        return Err(self.stalled());
                    }
                    self.now = wake;
                    continue;
                }
                _ => {}
            }
            let Some(task) = self.land()? else { return Err(self.stalled()) };
            self.buffer.freed.push(task.client);
            let arrival = self.arrival(&task, bounds);
            self.progress(arrival.is_some(), most, "tasks")?;
            self.buffer.arrivals.extend(arrival);
            if self.buffer.arrivals.len() < buffer as usize {
                continue;
            }
            let mut arrivals = std::mem::take(&mut self.buffer.arrivals);
            for task in self.force(bounds) {
                self.buffer.freed.push(task.client);
                arrivals.extend(self.arrival(&task, bounds));
            }
            // Who takes the place of those that have just arrived begins with the version that this round makes.
            return Ok(self.round(arrivals));
        }
    }

    /// Gives work to clients until enough have it, or no other can be reached.
    fn fill(&mut self, concurrency: usize) {
        let freed = std::mem::take(&mut self.buffer.freed);
        let mut chosen = Vec::new();
        match self.buffer.none_until.filter(|&until| until > self.now) {
            Some(mut until) => {
                for client in freed {
                    match self.population.next_available(client, self.now) {
                        Some(next) if next > self.now => until = until.min(next),
                        Some(_) => chosen.push(client),
                        None => {}
                    }
                }
                self.buffer.none_until = Some(until);
            }
            None => {
                let want = concurrency.saturating_sub(self.flights.len());
                chosen = self.select(want);
                let short = chosen.len() < want;
                self.begin(chosen);
                self.buffer.none_until = short.then(|| self.next_available().unwrap_or(Time::NEVER));
                return;
            }
        }
        self.begin(chosen);
    }

    fn begin(&mut self, clients: Vec<u32>) {
        for client in clients {
            let task = self.task(client, 0);
            self.flights.begin(task);
        }
    }
}
