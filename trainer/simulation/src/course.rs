//! One run: a strategy with a seed, round after round.

mod aggregation;
mod together;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swarmloom_classifiers::{Inversion, LocalSpec, Model, Recovered, Trained};
use swarmloom_federated::attack::Attack;
use swarmloom_federated::compress::Compression;
use swarmloom_federated::privacy::{Exposure, Protection};
use swarmloom_federated::secagg;
use swarmloom_federated::{AggregateError, Combine, Memory, Rule, Server, Start, Strategy, Update, strategy};
use swarmloom_population::{
    Arrival, Holdings, Mode, Partition, Population, Round, Selection, Spec, Timeline, Work, partition,
};

use crate::SimulationError;
use crate::data::{Data, Drift};
use crate::executor::{Executor, Job, Outcome};
use crate::record::{Evaluation, Record, Tally};

/// What all strategies of a simulation share.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What clients train.
    pub model: &'a dyn Model,
    /// What they train on.
    pub data: &'a Data,
    /// Who naturally holds which sample, for [`Partition::Natural`].
    pub groups: Option<&'a [u32]>,
    /// How clients' data change.
    pub drift: Option<&'a Drift>,
    /// How data are shared out.
    pub partition: Partition,
    /// Samples of a client, where that is fixed.
    pub samples_per_client: Option<u32>,
    /// Who clients are.
    pub population: Spec,
    /// How they train.
    pub local: LocalSpec,
    /// How many versions are made.
    pub rounds: u64,
    /// Rounds between evaluations.
    pub every: u64,
}

/// A strategy as a simulation compares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name for people.
    pub name: String,
    /// How the server makes versions.
    pub rule: Rule,
    /// How it takes means.
    pub combine: Combine,
    /// When it aggregates.
    pub mode: Mode,
    /// Whom it selects.
    pub selection: Selection,
    /// How inversions go about it, where the rule has any.
    pub inversion: Inversion,
    /// The staleness of slow clients is taken away: what the others are measured against.
    pub fresh: bool,
    /// Clients that do harm.
    pub attackers: Option<Attackers>,
    /// Differential privacy.
    pub protection: Option<Protection>,
    /// How updates travel.
    pub compression: Option<Compression>,
    /// Sums that the server learns nothing else of.
    pub secure: Option<secagg::Settings>,
}

/// Clients that do harm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attackers {
    /// Which part of all clients, chosen at random.
    pub part: f64,
    /// What they do.
    pub what: Attack,
}

impl Attackers {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.part) {
            return Err("a part is from 0 to 1".into());
        }
        self.what.check().map_err(|error| error.to_string())
    }
}

/// What a run goes on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    version: u64,
    parameters: Arc<[f32]>,
    history: BTreeMap<u64, Arc<[f32]>>,
    memory: Memory,
    /// Where tasks under way begin, where that is not the version itself.
    starts: BTreeMap<u64, Begun>,
    recovered: BTreeMap<u32, Arc<Recovered>>,
    /// What compression has left out of each client's updates so far.
    residuals: BTreeMap<u32, Vec<f32>>,
    /// How many updates of each client were aggregated, where privacy counts them.
    sent: BTreeMap<u32, u64>,
    record: Record,
    bytes: [u64; 2],
    /// Sum and number of losses since the last evaluation.
    losses: (f64, u32),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Begun {
    base: u64,
    parameters: Option<Arc<[f32]>>,
    correction: Option<Arc<[f32]>>,
}

/// A run under way.
pub struct Course<'a> {
    setup: &'a Setup<'a>,
    entry: Entry,
    strategy: Box<dyn Strategy>,
    seed: u64,
    indices: Vec<Arc<[u32]>>,
    attackers: BTreeSet<u32>,
    timeline: Timeline,
    state: State,
    /// Rounds that are known and to come, to train ahead for where a round has few updates.
    upcoming: VecDeque<Round>,
    /// Trainings that are done and not aggregated.
    ready: HashMap<u64, Trained>,
}

impl std::fmt::Debug for Course<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Course")
            .field("strategy", &self.entry.name)
            .field("seed", &self.seed)
            .field("version", &self.state.version)
            .finish_non_exhaustive()
    }
}

/// What a seed is used for; none of them meet.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Partition = 1,
    Population,
    Timeline,
    Parameters,
    Training,
    Inversion,
    Strategy,
    Attackers,
    Compression,
}

fn derived(seed: u64, purpose: Purpose, number: u64) -> u64 {
    swarmloom_kernels::random::bits(seed ^ (purpose as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), number)
}

/// Tasks that are trained together where rounds have few updates, for each worker.
const AHEAD: usize = 4;
/// Rounds that are looked ahead at most.
const ROUNDS_AHEAD: usize = 64;
/// Test samples of a job.
const SCORED: usize = 512;

impl<'a> Course<'a> {
    /// A run from its start.
    ///
    /// # Errors
    /// [`SimulationError`] where settings are out of range or do not go together.
    pub fn new(setup: &'a Setup<'a>, mut entry: Entry, seed: u64) -> Result<Self, SimulationError> {
        let clients = setup.population.clients;
        together::settle(setup, &mut entry)?;
        let parts = partition(
            &setup.partition,
            &setup.data.labels,
            setup.groups,
            clients,
            setup.samples_per_client,
            derived(seed, Purpose::Partition, 0),
        )?;
        let holdings = Holdings::new(&parts, &setup.data.labels)?;
        let mut spec = setup.population.clone();
        if let Some(slow) = spec.slow.as_mut().filter(|_| entry.fresh) {
            (slow.staleness, slow.factor) = match slow.staleness {
                Some(_) => (Some(0), None),
                None => (None, Some(1.0)),
            };
        }
        let population = Population::new(&spec, &holdings, derived(seed, Purpose::Population, 0))?;
        let [bytes_down, bytes_up] = together::bytes(setup, &entry)?;
        let work = Work { epochs: setup.local.epochs, bytes_down, bytes_up };
        let timeline = Timeline::new(
            Arc::new(population),
            &entry.mode,
            entry.selection,
            &work,
            setup.rounds,
            derived(seed, Purpose::Timeline, 0),
        )?;
        let parameters: Arc<[f32]> = setup.model.init(derived(seed, Purpose::Parameters, 0))?.into();
        let record = Record {
            strategy: entry.name.clone(),
            seed,
            evaluations: Vec::new(),
            tally: Tally::default(),
            inversion_seconds: 0.0,
            diverged: None,
            epsilon: None,
        };
        let state = State {
            version: 0,
            history: BTreeMap::from([(0, parameters.clone())]),
            parameters,
            memory: Memory::default(),
            starts: BTreeMap::new(),
            recovered: BTreeMap::new(),
            residuals: BTreeMap::new(),
            sent: BTreeMap::new(),
            record,
            bytes: [0; 2],
            losses: (0.0, 0),
        };
        let strategy = strategy(&entry.rule, &entry.combine)?;
        let indices = parts.into_iter().map(Arc::from).collect();
        let attackers = attackers(entry.attackers.as_ref(), clients, derived(seed, Purpose::Attackers, 0));
        let (upcoming, ready) = (VecDeque::new(), HashMap::new());
        Ok(Self { setup, entry, strategy, seed, indices, attackers, timeline, state, upcoming, ready })
    }

    /// What was measured so far.
    pub fn record(&self) -> &Record {
        &self.state.record
    }

    /// The version that there is, which is the number of rounds that were.
    pub fn version(&self) -> u64 {
        self.state.version
    }

    /// Parameters of that version.
    pub fn parameters(&self) -> &[f32] {
        &self.state.parameters
    }

    /// The samples that a client holds, as indices into the training set; none where there is no such client.
    pub fn samples_of(&self, client: u32) -> &[u32] {
        self.indices.get(client as usize).map_or(&[], |indices| indices)
    }

    /// All that the rest of the run follows from.
    ///
    /// # Errors
    /// [`SimulationError::State`] where it cannot be written.
    pub fn save(&self) -> Result<Vec<u8>, SimulationError> {
        let config = bincode::config::standard().with_fixed_int_encoding();
        bincode::serde::encode_to_vec(&self.state, config).map_err(|error| SimulationError::State(error.to_string()))
    }

    /// Goes on from what [`Course::save`] has written of a run with the same setup, entry and seed.
    ///
    /// # Errors
    /// [`SimulationError::State`] where it is not that.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), SimulationError> {
        let config = bincode::config::standard().with_fixed_int_encoding();
        let refuse = |why: &str| Err(SimulationError::State(why.into()));
        let (state, read): (State, usize) = bincode::serde::decode_from_slice(saved, config)
            .map_err(|error| SimulationError::State(error.to_string()))?;
        if read != saved.len() {
            return refuse("it is longer than it should be");
        }
        let known = (&self.entry.name, self.seed, self.setup.model.parameters());
        if (&state.record.strategy, state.record.seed, state.parameters.len()) != known {
            return refuse("it is of another run");
        }
        while self.state.version < state.version {
            if self.timeline.advance()?.is_none() {
                return refuse("it is of a longer run");
            }
            self.state.version += 1;
        }
        self.state = state;
        Ok(())
    }

    /// One round; false once all have been, or once values are no numbers any more, which is a result like another.
    ///
    /// # Errors
    /// [`SimulationError`]; the run cannot go on then.
    pub fn step(&mut self, executor: &dyn Executor) -> Result<bool, SimulationError> {
        if self.state.version == 0 && self.state.record.evaluations.is_empty() {
            self.evaluate(0.0, executor)?;
        }
        if self.state.record.diverged.is_some() {
            return Ok(false);
        }
        let Some(round) = self.next_round()? else { return Ok(false) };
        self.begin(&round);
        self.train(&round.arrivals, executor)?;
        let updates = self.collect(&round.arrivals);
        match self.aggregate(&round, updates, executor) {
            Err(SimulationError::Aggregate { error: AggregateError::NotFinite { .. }, .. }) => {
                self.diverge(round.seconds);
                return Ok(false);
            }
            aggregated => aggregated?,
        }
        let State { version, parameters, record, bytes, history, starts, .. } = &mut self.state;
        *version += 1;
        let tally = &mut record.tally;
        tally.dropped += u64::from(round.dropped);
        tally.late += u64::from(round.late);
        bytes[0] += round.bytes_down;
        bytes[1] += round.bytes_up;
        history.insert(*version, parameters.clone());
        let oldest = self.upcoming.iter().flat_map(|round| &round.arrivals).map(|arrival| arrival.base).min();
        let oldest = oldest.unwrap_or(u64::MAX).min(self.timeline.oldest()).min(*version);
        // A free rider looks at the server's last step.
        let looks_back = self.entry.attackers.is_some_and(|attackers| attackers.what.history());
        *history = history.split_off(&oldest.min(version.saturating_sub(u64::from(looks_back))));
        starts.retain(|_, begun| begun.base >= oldest);
        if *version % self.setup.every == 0 || *version == self.setup.rounds {
            self.evaluate(round.seconds, executor)?;
        }
        Ok(true)
    }

    fn next_round(&mut self) -> Result<Option<Round>, SimulationError> {
        match self.upcoming.pop_front() {
            Some(round) => Ok(Some(round)),
            None => Ok(self.timeline.advance()?),
        }
    }

    /// Says where the tasks start that begin at this version.
    fn begin(&mut self, round: &Round) {
        let State { version, parameters, history, memory, starts, .. } = &mut self.state;
        let past = |version: u64| history.get(&version).map(|parameters| &parameters[..]);
        let server = Server {
            version: *version,
            parameters,
            history: &past,
            clients: self.setup.population.clients,
            seed: derived(self.seed, Purpose::Strategy, 0),
        };
        for begun in &round.begun {
            let start = self.strategy.start(memory, begun.client, &server);
            if start != Start::default() {
                let Start { parameters, correction } = start;
                let (parameters, correction) = (parameters.map(Arc::from), correction.map(Arc::from));
                starts.insert(begun.task, Begun { base: round.version, parameters, correction });
            }
        }
    }

    /// Trains what the round aggregates and, where that is little, what later rounds will.
    fn train(&mut self, arrivals: &[Arrival], executor: &dyn Executor) -> Result<(), SimulationError> {
        let mut wanted: Vec<Arrival> =
            arrivals.iter().filter(|arrival| !self.ready.contains_key(&arrival.task)).copied().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let most = AHEAD * executor.width();
        while wanted.len() < most && self.upcoming.len() < ROUNDS_AHEAD {
            // What ends the timeline early is an error once it comes to it.
            let Ok(Some(round)) = self.timeline.advance() else { break };
            self.upcoming.push_back(round);
            let known = |arrival: &&Arrival| arrival.base <= self.state.version;
            let later = self.upcoming.iter().flat_map(|round| &round.arrivals).filter(known);
            if later.count() >= most {
                break;
            }
        }
        let mut seen: BTreeSet<u64> = wanted.iter().map(|arrival| arrival.task).collect();
        for arrival in self.upcoming.iter().flat_map(|round| &round.arrivals) {
            let begun = arrival.base <= self.state.version;
            if wanted.len() < most && begun && !self.ready.contains_key(&arrival.task) && seen.insert(arrival.task) {
                wanted.push(*arrival);
            }
        }
        let jobs = wanted.iter().map(|arrival| self.training(arrival)).collect::<Result<_, _>>()?;
        for (arrival, outcome) in wanted.iter().zip(executor.run(jobs)?) {
            if let Outcome::Trained(trained) = outcome {
                self.ready.insert(arrival.task, trained);
            }
        }
        Ok(())
    }

    fn training(&self, arrival: &Arrival) -> Result<Job, SimulationError> {
        let begun = self.state.starts.get(&arrival.task);
        let from = match begun.and_then(|begun| begun.parameters.clone()) {
            Some(from) => from,
            None => self.base(arrival.base)?,
        };
        let mut spec = self.setup.local;
        spec.proximal += self.strategy.local().proximal;
        let indices = self.indices.get(arrival.client as usize).cloned().unwrap_or_default();
        if arrival.share < 1.0 {
            spec.stop_after = Some((arrival.share * f64::from(spec.steps(indices.len()))).round().max(1.0) as u32);
        }
        let lies = self.attackers.contains(&arrival.client);
        Ok(Job::Train {
            from,
            indices,
            version: arrival.base,
            spec,
            correction: begun.and_then(|begun| begun.correction.clone()),
            seed: derived(self.seed, Purpose::Training, arrival.task),
            attack: self.entry.attackers.as_ref().filter(|_| lies).map(|attackers| attackers.what),
        })
    }

    fn base(&self, version: u64) -> Result<Arc<[f32]>, SimulationError> {
        let gone = || SimulationError::State(format!("version {version} is kept no longer"));
        self.state.history.get(&version).cloned().ok_or_else(gone)
    }

    /// The round's updates, in the order of their arrival.
    fn collect(&mut self, arrivals: &[Arrival]) -> Vec<Update> {
        let mut updates = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let Some(trained) = self.ready.remove(&arrival.task) else { continue };
            let State { version, memory, starts, record, losses, sent, .. } = &mut self.state;
            let begun = starts.remove(&arrival.task);
            let start = Start {
                parameters: begun.as_ref().and_then(|begun| begun.parameters.as_deref().map(<[f32]>::to_vec)),
                correction: begun.as_ref().and_then(|begun| begun.correction.as_deref().map(<[f32]>::to_vec)),
            };
            let rate = self.setup.local.learning_rate;
            let control = self.strategy.control(memory, arrival.client, &start, &trained.delta, trained.steps, rate);
            record.tally.update(version.saturating_sub(arrival.base));
            if self.entry.protection.is_some() {
                *sent.entry(arrival.client).or_default() += 1;
            }
            losses.0 += f64::from(trained.loss);
            losses.1 += 1;
            updates.push(Update {
                client: arrival.client,
                base: arrival.base,
                tier: arrival.tier,
                samples: self.indices.get(arrival.client as usize).map_or(0, |held| held.len()) as u32,
                steps: trained.steps,
                delta: trained.delta,
                control,
            });
        }
        updates
    }

    /// Ends the run: no model answers right from here on.
    fn diverge(&mut self, seconds: f64) {
        let State { version, record, bytes: [bytes_down, bytes_up], .. } = &mut self.state;
        let of_class = |counts: &[u32; 2]| [0, counts[1]];
        let last = record.evaluations.last();
        let classes: Vec<[u32; 2]> = last.map(|last| last.classes.iter().map(of_class).collect()).unwrap_or_default();
        let (rounds, every) = (self.setup.rounds, self.setup.every.max(1));
        for version in (*version + 1..=rounds).filter(|version| version % every == 0 || *version == rounds) {
            let (classes, loss) = (classes.clone(), f32::INFINITY);
            let (bytes_down, bytes_up) = (*bytes_down, *bytes_up);
            record.evaluations.push(Evaluation { version, seconds, bytes_down, bytes_up, classes, loss });
        }
        record.diverged = Some(*version + 1);
    }

    fn evaluate(&mut self, seconds: f64, executor: &dyn Executor) -> Result<(), SimulationError> {
        let samples = self.setup.data.test_labels.len();
        let job = |first| Job::Score {
            parameters: self.state.parameters.clone(),
            range: [first, samples.min(first + SCORED)],
        };
        let outcomes = executor.run((0..samples).step_by(SCORED).map(job).collect())?;
        let mut classes = vec![[0; 2]; self.setup.model.classes()];
        for outcome in outcomes {
            let Outcome::Scored(counts) = outcome else { continue };
            for (sum, count) in classes.iter_mut().zip(counts) {
                sum[0] += count[0];
                sum[1] += count[1];
            }
        }
        let State { version, record, bytes: [bytes_down, bytes_up], losses, sent, .. } = &mut self.state;
        let loss = (losses.0 / f64::from(losses.1.max(1))) as f32;
        *losses = (0.0, 0);
        let (version, bytes_down, bytes_up) = (*version, *bytes_down, *bytes_up);
        let exposure = Exposure {
            aggregations: version,
            drawn: together::drawn(&self.entry, self.setup.population.clients),
            most: sent.values().copied().max().unwrap_or(0),
        };
        record.epsilon = self.entry.protection.map(|protection| protection.spent(&exposure));
        record.evaluations.push(Evaluation { version, seconds, bytes_down, bytes_up, classes, loss });
        Ok(())
    }
}

/// Clients that do harm: as many of all as the part says, those whose draws are lowest.
fn attackers(attackers: Option<&Attackers>, clients: u32, seed: u64) -> BTreeSet<u32> {
    let count = attackers.map_or(0, |attackers| (attackers.part * f64::from(clients)).round() as usize);
    let mut all: Vec<u32> = (0..clients).collect();
    all.sort_by_key(|client| (swarmloom_kernels::random::bits(seed, u64::from(*client)), *client));
    all.into_iter().take(count).collect()
}

#[cfg(test)]
pub(crate) mod tests;
