//! Who starts from which version when, and whose update arrives in which aggregation.
//!
//! Time does not depend on what training yields, so all of it follows from the population, the server's mode and a
//! seed. It is worked out round by round. Events at one moment are taken in the order in which their tasks began, and
//! what a task draws belongs to its number, so there is one timeline for one set of arguments. The seed is for
//! selection, drop-out and variation; a population's own seed is for what clients are. Two runs with equal arguments
//! but unlike strategies see the same clients at the same times.
//!
//! A timeline keeps what is in flight: one record for each task that has begun and not ended, and nothing for other
//! clients. It has no saved form: a resumed run makes it anew and skips the rounds that it has had ([`Iterator::nth`]),
//! at some microseconds a task.

mod buffered;
mod flight;
mod mode;
mod select;
mod semi_asynchronous;
mod synchronous;
mod tiered;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use mode::{Mode, Selection};
use serde::{Deserialize, Serialize};

use crate::check::{FieldError, within};
use crate::device::Work;
use crate::population::Population;
use crate::time::Time;
use flight::{Flights, Task};
use select::{Chooser, Pool};
use tiered::Tier;

/// An aggregation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The version before it; the step makes the next one. The first is 0, and each round makes one, even where nothing
    /// arrives: parameters then stay as they are.
    pub version: u64,
    /// When it happens, seconds of virtual time. Never before the round before.
    pub seconds: f64,
    /// Tasks that have begun since the last round, in the order in which they did: all of them start from this version.
    pub begun: Vec<Begun>,
    /// What it aggregates, in the order of arrival.
    pub arrivals: Vec<Arrival>,
    /// Tasks since the last round that ended without a result: lost, or their client went away.
    pub dropped: u32,
    /// Tasks since the last round whose result is not used: given up when the round was full or its deadline passed, or
    /// arrived too stale.
    pub late: u32,
    /// Bytes sent to clients since the last round: the model, for each task that began.
    pub bytes_down: u64,
    /// Bytes received from clients since the last round: an update for each task that arrived, used or not.
    pub bytes_up: u64,
}

/// A task that has begun. Whether it ever arrives shows later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its number.
    pub task: u64,
    /// Who trains.
    pub client: u32,
}

/// An update that a round uses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// Number of the task, in the order in which tasks began. No two arrivals have the same.
    pub task: u64,
    /// Who trained.
    pub client: u32,
    /// The version that it started from. Its staleness is the round's version minus this.
    pub base: u64,
    /// When it began, seconds.
    pub started_s: f64,
    /// When it arrived, seconds. Not after the round.
    pub arrived_s: f64,
    /// In [`Mode::Tiered`] the client's tier, 0 for the fastest. In [`Mode::SemiAsynchronous`] 1 for a slow client and
    /// 0 for others. 0 otherwise.
    pub tier: u32,
    /// The share of its local steps that it has taken: 1, but less and above 0 where the server made it report early.
    pub share: f64,
}

/// Why there is no timeline, or no more of it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TimelineError {
    /// A field is out of its range.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Nobody works and nobody will.
    #[error(
        "version {version}, second {seconds}: nobody is at work, and no client can be reached now or later; look at \
         `availability`"
    )]
    Stalled {
        /// The version that there is.
        version: u64,
        /// When, seconds.
        seconds: f64,
    },
    /// Too much happened without an update that could be used.
    #[error(
        "version {version}, second {seconds}: {count} {what} in a row without an update that could be used ({dropped} tasks \
         dropped, {late} late since the last version); look at `dropout`, `availability` and the mode's times and bounds"
    )]
    Fruitless {
        /// The version that there is.
        version: u64,
        /// When, seconds.
        seconds: f64,
        /// How many.
        count: u64,
        /// Of what: rounds or tasks.
        what: &'static str,
        /// Tasks dropped since the last version.
        dropped: u32,
        /// Tasks late since the last version.
        late: u32,
    },
    /// What is waited for lies past the end of virtual time, 584 years.
    #[error(
        "version {version}, second {seconds}: the server waits for client {client}, whose task would not end within 584 \
         years; look at `devices` and `network`"
    )]
    Endless {
        /// The version that there is.
        version: u64,
        /// When, seconds.
        seconds: f64,
        /// Who is waited for.
        client: u32,
    },
}

/// The rounds of a run, one after the other. It ends after the number of rounds that it was made for, or early with an
/// [error](Self::error).
#[derive(Debug, Clone)]
pub struct Timeline {
    population: Arc<Population>,
    mode: Mode,
    work: Work,
    seed: u64,
    /// Rounds that are still to come.
    left: u64,
    error: Option<TimelineError>,
    now: Time,
    version: u64,
    next_task: u64,
    chooser: Chooser,
    cursor: usize,
    flights: Flights,
    tally: Tally,
    /// Rounds or tasks in a row that were for nothing.
    fruitless: u64,
    semi: semi_asynchronous::State,
    buffer: buffered::State,
    tiers: Vec<Tier>,
}

/// What happened since the last version.
#[derive(Debug, Clone, Default)]
struct Tally {
    begun: Vec<Begun>,
    dropped: u32,
    late: u32,
    bytes_down: u64,
    bytes_up: u64,
}

/// Most rounds in a row without any arrival.
const EMPTY_ROUNDS_MOST: u64 = 1_000;
/// Most tasks in a row without an arrival, beside ten for each client that works at a time.
const FRUITLESS_TASKS_MOST: u64 = 10_000;
/// Most rounds of a run.
const ROUNDS_MOST: u64 = 1 << 40;

impl Timeline {
    /// The timeline of `rounds` rounds.
    ///
    /// # Errors
    /// [`TimelineError::Field`] where a field is out of range, or the mode does not go with the population.
    pub fn new(
        population: Arc<Population>,
        mode: &Mode,
        selection: Selection,
        work: &Work,
        rounds: u64,
        seed: u64,
    ) -> Result<Self, TimelineError> {
        mode.check(&population)?;
        within("rounds", rounds, 1..=ROUNDS_MOST)?;
        within("work.epochs", work.epochs, 1..=1_000_000)?;
        let bytes_most = 1u64 << 50;
        within("work.bytes_down", work.bytes_down, 0..=bytes_most)?;
        within("work.bytes_up", work.bytes_up, 0..=bytes_most)?;
        let tiers = match mode {
            Mode::Tiered { tiers, .. } => tiered::tiers(&population, work, *tiers),
            _ => Vec::new(),
        };
        Ok(Self {
            mode: mode.clone(),
            work: *work,
            seed,
            left: rounds,
            error: None,
            now: Time::START,
            version: 0,
            next_task: 0,
            chooser: Chooser::new(selection, seed),
            cursor: 0,
            flights: Flights::default(),
            tally: Tally::default(),
            fruitless: 0,
            semi: semi_asynchronous::State::default(),
            buffer: buffered::State::default(),
            tiers,
            population,
        })
    }

    /// Why the timeline ended early, if it did.
    pub fn error(&self) -> Option<&TimelineError> {
        self.error.as_ref()
    }

    /// The oldest version that a task which is yet to arrive may have started from: rounds to come need none before it.
    /// Who reads ahead of training also needs those of the rounds in between.
    pub fn oldest(&self) -> u64 {
        self.flights.oldest().unwrap_or(self.version).min(self.version)
    }

    /// Tasks that have begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The next round; none when all rounds have been.
    ///
    /// # Errors
    /// [`TimelineError`] where no round can come about; the same one again when asked again.
    pub fn advance(&mut self) -> Result<Option<Round>, TimelineError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if self.left == 0 {
            return Ok(None);
        }
        let round = match self.mode.clone() {
            Mode::Synchronous { per_round, over_selection, deadline_s } => {
                self.synchronous(per_round, over_selection, deadline_s)
            }
            Mode::SemiAsynchronous { per_round, period_s, max_staleness, force_after } => {
                self.semi_asynchronous(per_round, period_s, Bounds { max_staleness, force_after })
            }
            Mode::Asynchronous { concurrency, max_staleness, force_after } => {
                self.buffered(concurrency, 1, Bounds { max_staleness, force_after })
            }
            Mode::Buffered { concurrency, buffer, max_staleness, force_after } => {
                self.buffered(concurrency, buffer, Bounds { max_staleness, force_after })
            }
            Mode::Tiered { per_tier, .. } => self.tiered(per_tier),
        };
        match round {
            Ok(_) => self.left -= 1,
            Err(ref error) => self.error = Some(error.clone()),
        }
        round.map(Some)
    }

    /// A task that `client` begins now.
    fn task(&mut self, client: u32, tier: u32) -> Task {
        let number = self.next_task;
        self.next_task += 1;
        self.tally.begun.push(Begun { task: number, client });
        self.tally.bytes_down = self.tally.bytes_down.saturating_add(self.work.bytes_down);
        let parts = self.population.parts(client, number, &self.work, self.seed);
        let (end, arrives) = self.population.end(client, number, self.now, parts, self.seed);
        Task { number, client, base: self.version, start: self.now, end, arrives, tier, parts, share: 1.0 }
    }

    /// The arrival of a task that has ended, unless it has no result or one that is too stale.
    fn arrival(&mut self, task: &Task, bounds: Bounds) -> Option<Arrival> {
        if !task.arrives {
            self.tally.dropped = self.tally.dropped.saturating_add(1);
            return None;
        }
        self.tally.bytes_up = self.tally.bytes_up.saturating_add(self.work.bytes_up);
        if bounds.max_staleness.is_some_and(|most| self.version - task.base > most) {
            self.tally.late = self.tally.late.saturating_add(1);
            return None;
        }
        Some(Arrival {
            task: task.number,
            client: task.client,
            base: task.base,
            started_s: task.start.seconds(),
            arrived_s: task.end.min(self.now).seconds(),
            tier: task.tier,
            share: task.share,
        })
    }

    /// Takes the tasks out of flight whose clients have to report now.
    fn force(&mut self, bounds: Bounds) -> Vec<Task> {
        let Some(force) = bounds.force_after else { return Vec::new() };
        let Some(base) = self.version.checked_sub(force) else { return Vec::new() };
        let (population, now) = (&self.population, self.now);
        self.flights.report(base, now, |task| {
            let share = population.share(task.client, task.start, now, task.parts);
            (share > 0.0 && population.available(task.client, now)).then_some(share)
        })
    }

    /// Whether a client can be selected now.
    fn eligible(&self, client: u32) -> bool {
        !self.flights.busy(client) && self.population.available(client, self.now)
    }

    /// Up to `want` clients of all.
    fn select(&mut self, want: usize) -> Vec<u32> {
        let mut chooser = self.chooser.clone();
        let mut cursor = self.cursor;
        let pool = Pool::All(self.population.clients());
        let chosen = chooser.choose(pool, &mut cursor, want, |client| self.eligible(client));
        (self.chooser, self.cursor) = (chooser, cursor);
        chosen
    }

    /// When a client that has no work can next be reached; none if never.
    fn next_available(&self) -> Option<Time> {
        (0..self.population.clients())
            .filter(|&client| !self.flights.busy(client))
            .filter_map(|client| self.population.next_available(client, self.now))
            .min()
    }

    /// The round that happens now.
    fn round(&mut self, arrivals: Vec<Arrival>) -> Round {
        let Tally { begun, dropped, late, bytes_down, bytes_up } = std::mem::take(&mut self.tally);
        let (version, seconds) = (self.version, self.now.seconds());
        let round = Round { version, seconds, begun, arrivals, dropped, late, bytes_down, bytes_up };
        self.version += 1;
        round
    }

    /// Counts a round or a task that was of use or for nothing. `most` may be for nothing in a row.
    fn progress(&mut self, useful: bool, most: u64, what: &'static str) -> Result<(), TimelineError> {
        self.fruitless = if useful { 0 } else { self.fruitless + 1 };
        if self.fruitless <= most {
            return Ok(());
        }
        let Tally { dropped, late, .. } = self.tally;
        let (version, seconds) = (self.version, self.now.seconds());
        Err(TimelineError::Fruitless { version, seconds, count: self.fruitless, what, dropped, late })
    }

    fn stalled(&self) -> TimelineError {
        TimelineError::Stalled { version: self.version, seconds: self.now.seconds() }
    }

    /// The task that ends next, at which time moves on to its end.
    fn land(&mut self) -> Result<Option<Task>, TimelineError> {
        let Some(task) = self.flights.land() else { return Ok(None) };
        if task.end == Time::NEVER {
            let (version, seconds) = (self.version, self.now.seconds());
            return Err(TimelineError::Endless { version, seconds, client: task.client });
        }
        self.now = self.now.max(task.end);
        Ok(Some(task))
    }
}

impl Iterator for Timeline {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        self.advance().ok().flatten()
    }
}

/// How stale an update may be.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    max_staleness: Option<u64>,
    force_after: Option<u64>,
}

#[cfg(test)]
mod tests;
