//! Virtual clients: what each holds, how fast it is, when it can be reached.

use serde::{Deserialize, Serialize};

use crate::availability::{Availability, Calendar, Leaving};
use crate::check::{FieldError, within, wrong};
use crate::device::{Device, Devices, Network, Parts, Work, device};
use crate::holdings::Holdings;
use crate::partition::CLIENTS_MOST;
use crate::random::{Purpose, Stream};
use crate::time::{Time, nanoseconds, seconds};
use crate::trace::Recorded;

/// What a population is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// Number of clients.
    pub clients: u32,
    /// How fast they compute.
    pub devices: Devices,
    /// How fast their networks are.
    pub network: Network,
    /// When they can be reached.
    pub availability: Availability,
    /// What becomes of work whose client goes away.
    pub leaving: Leaving,
    /// Chance that a task ends without a result, at a moment drawn evenly from its duration.
    pub dropout: f64,
    /// Clients that are slow because of what they hold, or for no reason.
    pub slow: Option<Slow>,
    /// Devices from a trace, in place of what `devices` and `network` say of the same. It has no written form.
    #[serde(skip)]
    pub recorded: Option<Recorded>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            clients: 100,
            devices: Devices::default(),
            network: Network::default(),
            availability: Availability::default(),
            leaving: Leaving::default(),
            dropout: 0.0,
            slow: None,
            recorded: None,
        }
    }
}

/// Who is slow, and how: data and devices unlike in the same clients ("intertwined heterogeneity", Wang, Yang and Gao,
/// arXiv 2309.13536). It takes `staleness` or `factor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// The clients that hold most samples of these classes are slow; of equals the first. Without classes they are
    /// drawn at random.
    #[serde(default)]
    pub classes: Vec<u8>,
    /// How many clients are slow.
    pub count: u32,
    /// Their updates arrive this many rounds late, whatever their devices say, and before that nothing of theirs does.
    /// (In the paper's reference program they are on time during so many rounds first.)
    #[serde(default)]
    pub staleness: Option<u64>,
    /// Their computing time is multiplied by this, and their bytes per second divided.
    #[serde(default)]
    pub factor: Option<f64>,
    /// With `staleness`: whether a slow client can be selected again while an update of it is on its way, so that it
    /// takes part as often as the others and lateness is all that sets it apart. So it is in the paper. If not, a slow
    /// client takes part once in `staleness` rounds at most.
    #[serde(default = "yes")]
    pub overlap: bool,
}

fn yes() -> bool {
    true
}

/// Why there is no population.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PopulationError {
    /// A field is out of its range.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// The clients. What a client is like follows from specification and seed and is worked out when it is asked for;
/// beside the specification's own lists this keeps the number of each client's samples, 4 bytes, and nothing else per
/// client.
#[derive(Debug, Clone)]
pub struct Population {
    spec: Spec,
    seed: u64,
    samples: Vec<u32>,
    /// In order.
    slow: Vec<u32>,
    calendar: Calendar,
}

impl Population {
    /// The clients of `spec`, who hold `holdings`.
    ///
    /// # Errors
    /// [`PopulationError`] where a field is out of range, holdings are of another number of clients, a client holds
    /// nothing, or fewer clients hold the slow ones' classes than shall be slow.
    pub fn new(spec: &Spec, holdings: &Holdings, seed: u64) -> Result<Self, PopulationError> {
        within("clients", spec.clients, 1..=CLIENTS_MOST)?;
        spec.devices.check("devices")?;
        spec.network.check("network")?;
        spec.availability.check("availability")?;
        if let Availability::Trace { rows, deal, with_devices: true, .. } = &spec.availability {
            let devices = spec.recorded.as_ref().map(|recorded| (recorded.trace.devices(), recorded.deal));
            if devices != Some((rows.len(), *deal)) {
                let message = "rows are of recorded devices; it takes as many of those, dealt out alike";
                return Err(wrong("availability.with_devices", message).into());
            }
        }
        // At 1 no update would ever arrive.
        within("dropout", spec.dropout, 0.0..=0.999)?;
        if holdings.clients() != spec.clients {
            let message = format!("{}, but the data are shared out among {}", spec.clients, holdings.clients());
            return Err(wrong("clients", message).into());
        }
        let samples: Vec<u32> = (0..spec.clients).map(|client| holdings.samples(client)).collect();
        if let Some(client) = samples.iter().position(|&samples| samples == 0) {
            return Err(wrong("clients", format!("client {client} holds no sample and cannot train")).into());
        }
        let slow = spec.slow.as_ref().map_or(Ok(Vec::new()), |slow| slow.check_and_find(holdings, seed))?;
        let calendar = Calendar::new(&spec.availability, spec.clients, seed);
        Ok(Self { spec: spec.clone(), seed, samples, slow, calendar })
    }

    /// Number of clients.
    pub fn clients(&self) -> u32 {
        self.spec.clients
    }

    /// The clients that are slow, in order.
    pub fn slow(&self) -> &[u32] {
        &self.slow
    }

    /// Whether a client is slow.
    pub fn is_slow(&self, client: u32) -> bool {
        self.slow.binary_search(&client).is_ok()
    }

    /// The rounds by which slow clients' updates are late, where that is fixed.
    pub fn staleness(&self) -> Option<u64> {
        self.spec.slow.as_ref().and_then(|slow| slow.staleness)
    }

    /// Samples that a client holds; 0 if there is no such client.
    pub fn samples(&self, client: u32) -> u32 {
        self.samples.get(client as usize).copied().unwrap_or(0)
    }

    /// A client's device.
    pub fn device(&self, client: u32) -> Device {
        let drawn = device(&self.spec.devices, &self.spec.network, self.seed, client, self.clients());
        let device = match &self.spec.recorded {
            Some(recorded) => recorded.device(drawn, self.seed, client, self.clients()),
            None => drawn,
        };
        match self.spec.slow.as_ref().and_then(|slow| slow.factor).filter(|_| self.is_slow(client)) {
            Some(factor) => Device {
                seconds_per_sample: device.seconds_per_sample * factor,
                overhead_s: device.overhead_s * factor,
                down_bytes_per_s: device.down_bytes_per_s / factor,
                up_bytes_per_s: device.up_bytes_per_s / factor,
                latency_s: device.latency_s,
            },
            None => device,
        }
    }

    /// Seconds that a task takes on a client's device as a rule: without variation from task to task, and without
    /// breaks.
    pub fn task_seconds(&self, client: u32, work: &Work) -> f64 {
        seconds(self.device(client).parts(work, self.samples(client), 1.0).total())
    }

    /// Whether a client can be reached at a time, in seconds.
    pub fn reachable(&self, client: u32, at_s: f64) -> bool {
        self.available(client, Time(nanoseconds(at_s)))
    }

    pub(crate) fn overlap(&self) -> bool {
        self.spec.slow.as_ref().is_some_and(|slow| slow.staleness.is_some() && slow.overlap)
    }

    pub(crate) fn available(&self, client: u32, now: Time) -> bool {
        self.calendar.until(client, now).is_some()
    }

    /// When a client can next be reached, `now` included; none if never.
    pub(crate) fn next_available(&self, client: u32, now: Time) -> Option<Time> {
        self.calendar.next(client, now)
    }

    /// The parts of `task` if `client` carries it out. `seed` is of the timeline, not of the population.
    pub(crate) fn parts(&self, client: u32, task: u64, work: &Work, seed: u64) -> Parts {
        self.device(client).parts(work, self.samples(client), self.spec.devices.factor(seed, task))
    }

    /// When `task`, which `client` begins at `start`, ends, and whether with a result.
    pub(crate) fn end(&self, client: u32, task: u64, start: Time, parts: Parts, seed: u64) -> (Time, bool) {
        let done = match self.spec.leaving {
            Leaving::Lost => start.after(parts.total()),
            Leaving::Resumed => self.calendar.done(client, start, parts.total()),
        };
        let left = match self.spec.leaving {
            Leaving::Lost => self.calendar.until(client, start).unwrap_or(start),
            Leaving::Resumed => Time::NEVER,
        };
        let lost = self.lost(task, seed).map(|share| start.after((share * done.since(start) as f64) as u64));
        match lost {
            Some(lost) if lost <= left => (lost, false),
            _ if left < done => (left, false),
            _ => (done, true),
        }
    }

    /// The share of its duration after which `task` is lost, if it is.
    pub(crate) fn lost(&self, task: u64, seed: u64) -> Option<f64> {
        if self.spec.dropout == 0.0 {
            return None;
        }
        let mut stream = Stream::new(seed, Purpose::Dropout, task, 0);
        (stream.unit() < self.spec.dropout).then(|| stream.unit())
    }

    /// The share of the computing that is done at `now` of a task that began at `start`.
    pub(crate) fn share(&self, client: u32, start: Time, now: Time, parts: Parts) -> f64 {
        let computed = self.calendar.worked(client, start, now).saturating_sub(parts.down);
        if computed >= parts.compute {
            return 1.0;
        }
        computed as f64 / parts.compute as f64
    }
}

/// Slowest and least slow.
const FACTOR: std::ops::RangeInclusive<f64> = 1.0..=1e6;
/// Most rounds by which an update may be late: past every simulation's end.
const STALENESS_MOST: u64 = 1_000_000;

impl Slow {
    /// Checks every field and names the slow clients, in order.
    fn check_and_find(&self, holdings: &Holdings, seed: u64) -> Result<Vec<u32>, FieldError> {
        match (self.staleness, self.factor) {
            (Some(staleness), None) => within("slow.staleness", staleness, 0..=STALENESS_MOST)?,
            (None, Some(factor)) => within("slow.factor", factor, FACTOR)?,
            (None, None) => return Err(wrong("slow", "it takes `staleness` (in rounds) or `factor`")),
            (Some(_), Some(_)) => {
                return Err(wrong("slow", "it has `staleness` and `factor`; it takes one of them"));
            }
        }
        within("slow.count", self.count, 1..=holdings.clients())?;
        if self.classes.is_empty() {
            let mut all: Vec<u32> = (0..holdings.clients()).collect();
            Stream::new(seed, Purpose::Slow, 0, 0).shuffle(&mut all);
            all.truncate(self.count as usize);
            all.sort_unstable();
            return Ok(all);
        }
        let held = |client| holdings.of(client, &self.classes);
        let mut holders: Vec<(u32, u32)> =
            (0..holdings.clients()).map(|client| (held(client), client)).filter(|&(held, _)| held > 0).collect();
        if holders.len() < self.count as usize {
            let message =
                format!("{}, but {} clients hold samples of classes {:?}", self.count, holders.len(), self.classes);
            return Err(wrong("slow.count", message));
        }
        holders.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut slow: Vec<u32> = holders.into_iter().take(self.count as usize).map(|(_, client)| client).collect();
        slow.sort_unstable();
        Ok(slow)
    }
}

#[cfg(test)]
mod tests;
