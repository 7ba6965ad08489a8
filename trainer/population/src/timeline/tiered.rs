//! Tiers of clients that are alike in speed, each with rounds of its own.

use super::{Arrival, Bounds, FRUITLESS_TASKS_MOST, Pool, Round, Timeline, TimelineError};
use crate::device::Work;
use crate::population::Population;
use crate::time::Time;

/// A tier, and its round.
#[derive(Debug, Clone)]
pub(super) struct Tier {
    members: Vec<u32>,
    cursor: usize,
    /// Tasks of its round that have not ended.
    waiting: usize,
    arrivals: Vec<Arrival>,
    /// Nobody of it can be reached until then.
    wake: Time,
}

/// Clients in tiers by how long a task takes them as a rule; sizes differ by one at most.
pub(super) fn tiers(population: &Population, work: &Work, tiers: u32) -> Vec<Tier> {
    let mut order: Vec<(f64, u32)> =
        (0..population.clients()).map(|client| (population.task_seconds(client, work), client)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (all, tiers) = (order.len(), tiers as usize);
    (0..tiers)
        .map(|tier| {
            let range = tier * all / tiers..(tier + 1) * all / tiers;
            let mut members: Vec<u32> =
                order.get(range).unwrap_or_default().iter().map(|&(_, client)| client).collect();
            members.sort_unstable();
            Tier { members, cursor: 0, waiting: 0, arrivals: Vec::new(), wake: Time::START }
        })
        .collect()
}

impl Timeline {
    pub(super) fn tiered(&mut self, per_tier: u32) -> Result<Round, TimelineError> {
        let most = FRUITLESS_TASKS_MOST + 10 * u64::from(per_tier) * self.tiers.len() as u64;
        loop {
            for tier in 0..self.tiers.len() {
                self.begin_round(tier, per_tier as usize);
            }
            let wake = self.tiers.iter().filter(|tier| tier.waiting == 0).map(|tier| tier.wake).min();
            match (self.flights.next(), wake) {
                (next, Some(wake)) if wake < Time::NEVER && next.is_none_or(|next| wake < next) => {
                    self.now = wake;
                    continue;
                }
                _ => {}
            }
            let Some(task) = self.land()? else { return Err(self.stalled()) };
            let arrival = self.arrival(&task, Bounds::default());
            self.progress(arrival.is_some(), most, "tasks")?;
            let Some(tier) = self.tiers.get_mut(task.tier as usize) else { continue };
            tier.arrivals.extend(arrival);
            tier.waiting = tier.waiting.saturating_sub(1);
            // A tier whose clients have all been lost begins again.
            if tier.waiting == 0 && !tier.arrivals.is_empty() {
                let arrivals = std::mem::take(&mut tier.arrivals);
                return Ok(self.round(arrivals));
            }
        }
    }

    /// Begins a round of a tier that has none, if anybody of it can be reached.
    fn begin_round(&mut self, number: usize, per_tier: usize) {
        let Self { tiers, chooser, flights, population, now, .. } = self;
        let now = *now;
        let Some(tier) = tiers.get_mut(number).filter(|tier| tier.waiting == 0 && tier.wake <= now) else { return };
        let pool = Pool::Some(&tier.members);
        let eligible = |client| !flights.busy(client) && population.available(client, now);
        let chosen = chooser.choose(pool, &mut tier.cursor, per_tier, eligible);
        tier.waiting = chosen.len();
        if chosen.is_empty() {
            let next = pool.iter().filter_map(|client| population.next_available(client, now)).min();
            tier.wake = next.unwrap_or(Time::NEVER);
        }
        for client in chosen {
            let task = self.task(client, number as u32);
            self.flights.begin(task);
        }
    }
}
