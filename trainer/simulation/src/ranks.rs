//! Ranks: processes that all make the same run, compute a part of each batch of jobs, and tell each other what came of it.
//!
//! Every rank takes the same decisions from the same numbers, so nobody hands jobs out: job `i` of a batch is of a rank that
//! follows from `i`. Runs that go on side by side have a [`Lane`] each. A batch is what all lanes ask for together, once each
//! of them has asked or ended; so the ranks' exchanges have one order whatever their threads do.

mod wire;

use std::sync::{Arc, Condvar, Mutex};
use std::thread::Scope;

use swarmloom_classifiers::Model;
use swarmloom_collectives::fault::Fault;
use swarmloom_collectives::patience::Abort;
use swarmloom_collectives::{CollectiveError, Group};

use crate::SimulationError;
use crate::data::{Data, Drift};
use crate::executor::{Executor, Job, Outcome, Threads, lock};
use wire::Reader;

/// Bytes of each rank that are exchanged at a time.
const PIECE: usize = 4 << 20;
/// Most bytes that rank 0 gives to all at a time.
const SHARE_MOST: usize = 2 << 30;
/// Most threads of a rank.
const THREADS_MOST: i64 = 4096;

/// This rank's side.
#[derive(Debug)]
pub struct Ranks<'a> {
    threads: Threads,
    model: &'a dyn Model,
    group: &'a Mutex<Group>,
    abort: Arc<Abort>,
    rank: usize,
    /// Job `i` is of rank `slots[i % slots.len()]`: one for each thread there is.
    slots: Vec<usize>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What each lane waits for.
    asked: Vec<Option<Ask>>,
    /// What it has got.
    answers: Vec<Option<Result<Answer, SimulationError>>>,
    /// Lanes that have not ended.
    open: usize,
    /// The lane that carries a batch out.
    leader: Option<usize>,
    /// Why nothing goes on.
    failed: Option<String>,
}

#[derive(Debug)]
enum Ask {
    Compute(Vec<Job>),
    /// Bytes, of which rank 0's count.
    Share(Vec<u8>),
}

#[derive(Debug)]
enum Answer {
    Computed(Vec<Outcome>),
    Shared(Vec<u8>),
}

impl<'a> Ranks<'a> {
    /// Starts this rank's threads, as [`Threads::start`] does, and learns how many the others have. `what` stands for all
    /// that ranks have to agree on: the files that they have read. Calls of the group are collective, so it is lent.
    ///
    /// # Errors
    /// [`SimulationError::Diverged`] where ranks differ in `what`, [`SimulationError::Ranks`] where the group fails.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        threads: usize,
        model: &'a dyn Model,
        data: &'a Data,
        drift: Option<&'a Drift>,
        group: &'a Mutex<Group>,
        what: &[u8; 32],
    ) -> Result<Self, SimulationError> {
        let mut held = lock(group);
        let (rank, ranks) = (held.rank(), held.ranks());
        let mut all = vec![0; 32 * ranks];
        held.all_gather(what, &mut all, &vec![32; ranks])?;
        agree(all.chunks(32), "what is simulated")?;
        let own = i64::try_from(threads).unwrap_or(THREADS_MOST).clamp(1, THREADS_MOST);
        let mut counts = vec![0; ranks];
        held.all_gather(&[own], &mut counts, &vec![1; ranks])?;
        let counts: Vec<i64> = counts.into_iter().map(|count: i64| count.clamp(1, THREADS_MOST)).collect();
        let most = counts.iter().copied().max().unwrap_or(1);
        // By turns, so that a small batch is of all ranks.
        let turn = |turn: i64| counts.iter().enumerate().filter(move |(_, count)| **count > turn).map(|(rank, _)| rank);
        let slots = (0..most).flat_map(turn).collect();
        let abort = held.aborter();
        drop(held);
        let threads = Threads::start(scope, own as usize, model, data, drift);
        let (state, changed) = (Mutex::default(), Condvar::new());
        Ok(Self { threads, model, group, abort, rank, slots, state, changed })
    }

    /// Threads of all ranks together.
    pub fn width(&self) -> usize {
        self.slots.len()
    }

    /// So many lanes: all that there are. Every rank makes as many, and gives lane `i` the same runs.
    pub fn lanes(&self, count: usize) -> Vec<Lane<'_>> {
        let mut state = lock(&self.state);
        state.asked = std::iter::repeat_with(|| None).take(count).collect();
        state.answers = std::iter::repeat_with(|| None).take(count).collect();
        state.open = count;
        (0..count).map(|number| Lane { ranks: self, number }).collect()
    }

    fn ask(&self, lane: usize, ask: Ask) -> Result<Answer, SimulationError> {
        let mut state = lock(&self.state);
        state.asked[lane] = Some(ask);
        loop {
            if let Some(answer) = state.answers[lane].take() {
                return answer;
            }
            if state.leader.is_none() {
                if let Some(why) = &state.failed {
                    let why = why.clone();
                    state.asked[lane] = None;
                    return Err(SimulationError::Stopped(why));
                }
                if state.asked.iter().flatten().count() == state.open {
                    state.leader = Some(lane);
                    let asked: Vec<Option<Ask>> = state.asked.iter_mut().map(Option::take).collect();
                    drop(state);
                    let answers = self.carry_out(asked);
                    state = lock(&self.state);
                    state.leader = None;
                    match answers {
                        Ok(answers) => state.answers = answers,
                        Err(error) => {
                            state.failed.get_or_insert_with(|| error.to_string());
                            state.answers[lane] = Some(Err(error));
                        }
                    }
                    self.changed.notify_all();
                    continue;
                }
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// A batch: computes this rank's part, exchanges, and sorts the answers by lane.
    fn carry_out(
        &self,
        asked: Vec<Option<Ask>>,
    ) -> Result<Vec<Option<Result<Answer, SimulationError>>>, SimulationError> {
        let mut group = lock(self.group);
        let jobs: Vec<&Job> = asked.iter().flatten().flat_map(Ask::jobs).collect();
        let owner = |at: usize| self.slots[at % self.slots.len()];
        let own = jobs.iter().enumerate().filter(|(at, _)| owner(*at) == self.rank).map(|(_, job)| (*job).clone());
        let results = self.threads.results(own.collect());
        let mut bytes = Vec::new();
        let mut most: Vec<usize> = vec![0; group.ranks()];
        for ask in asked.iter().flatten() {
            if let Ask::Share(shared) = ask {
                most[0] = most[0].saturating_add(8 + SHARE_MOST);
                if self.rank == 0 && shared.len() <= SHARE_MOST {
                    bytes.extend((shared.len() as u64).to_le_bytes());
                    bytes.extend(shared);
                }
            }
        }
        jobs.iter().enumerate().for_each(|(at, job)| most[owner(at)] += wire::most(job, self.model));
        results.iter().try_for_each(|result| wire::encode(result, &mut bytes))?;
        let all = exchange(&mut group, &bytes, wire::fingerprint(jobs.iter().copied()), &most)?;
        drop(group);

        let mut readers: Vec<Reader<'_>> = all.iter().map(|bytes| Reader(bytes)).collect();
        let senseless = |rank: usize| SimulationError::Rank { rank, why: "it sent what makes no sense".into() };
        let mut shared = Vec::new();
        for _ in asked.iter().flatten().filter(|ask| matches!(ask, Ask::Share(_))) {
            let read = readers[0].count().and_then(|count| readers[0].take(count));
            shared.push(read.ok_or_else(|| senseless(0))?.to_vec());
        }
        let (mut at, mut shared) = (0, shared.into_iter());
        let mut answers = Vec::with_capacity(asked.len());
        for ask in &asked {
            let answer = match ask {
                None => None,
                Some(Ask::Share(_)) => shared.next().map(|bytes| Ok(Answer::Shared(bytes))),
                Some(Ask::Compute(jobs)) => {
                    let mut outcomes = Vec::with_capacity(jobs.len());
                    for job in jobs {
                        let rank = owner(at);
                        let outcome = readers[rank].outcome(job).ok_or_else(|| senseless(rank))?;
                        outcomes.push(outcome.map_err(|why| SimulationError::Rank { rank, why }));
                        at += 1;
                    }
                    Some(outcomes.into_iter().collect::<Result<_, _>>().map(Answer::Computed))
                }
            };
            answers.push(answer);
        }
        match readers.iter().position(|reader| !reader.0.is_empty()) {
            Some(rank) => Err(senseless(rank)),
            None => Ok(answers),
        }
    }

    /// Ends what all ranks do.
    fn end(&self, why: &str) {
        lock(&self.state).failed.get_or_insert_with(|| why.to_owned());
        self.changed.notify_all();
        // First what a lane of this rank waits for, which holds the group.
        self.abort.raise(Fault::Aborted { by: self.rank, why: why.to_owned() });
        lock(self.group).abort(why);
    }
}

impl Ask {
    fn jobs(&self) -> &[Job] {
        match self {
            Self::Compute(jobs) => jobs,
            Self::Share(_) => &[],
        }
    }
}

/// One of the runs that go on side by side, on this rank.
#[derive(Debug)]
pub struct Lane<'a> {
    ranks: &'a Ranks<'a>,
    number: usize,
}

impl Lane<'_> {
    /// Rank 0's bytes, at most 2 GiB, on every rank; what the others give counts for nothing.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub fn share(&self, bytes: Vec<u8>) -> Result<Vec<u8>, SimulationError> {
        match self.ranks.ask(self.number, Ask::Share(bytes))? {
            Answer::Shared(bytes) => Ok(bytes),
            Answer::Computed(_) => Err(SimulationError::Worker("it gave another result".into())),
        }
    }

    /// Says that the run of this lane cannot go on, for a reason that all ranks come to by themselves: the other lanes end
    /// when they next ask for something.
    pub fn fail(&self, why: &str) {
        lock(&self.ranks.state).failed.get_or_insert_with(|| why.to_owned());
        self.ranks.changed.notify_all();
    }

    /// Says that this rank cannot go on, for a reason of its own: all ranks end.
    pub fn abort(&self, why: &str) {
        self.ranks.end(why);
    }
}

impl Executor for Lane<'_> {
    fn run(&self, jobs: Vec<Job>) -> Result<Vec<Outcome>, SimulationError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        match self.ranks.ask(self.number, Ask::Compute(jobs))? {
            Answer::Computed(outcomes) => Ok(outcomes),
            Answer::Shared(_) => Err(SimulationError::Worker("it gave another result".into())),
        }
    }

    fn width(&self) -> usize {
        self.ranks.width()
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.ranks.state);
        state.open = state.open.saturating_sub(1);
        state.asked[self.number] = None;
        if state.leader == Some(self.number) {
            state.leader = None;
        }
        drop(state);
        self.ranks.changed.notify_all();
        if std::thread::panicking() {
            self.ranks.end("a run panicked");
        }
    }
}

/// Gives every rank the bytes of all, by rank.
fn exchange(
    group: &mut Group,
    bytes: &[u8],
    fingerprint: u64,
    most: &[usize],
) -> Result<Vec<Vec<u8>>, SimulationError> {
    let ranks = group.ranks();
    let mut heads = vec![0_i64; 2 * ranks];
    let own = [fingerprint.cast_signed(), i64::try_from(bytes.len()).unwrap_or(i64::MAX)];
    group.all_gather(&own, &mut heads, &vec![2; ranks])?;
    let heads = heads.as_chunks::<2>().0;
    agree(heads.iter().map(|[fingerprint, _]| fingerprint), "what is to be computed")?;
    let mut lengths = Vec::with_capacity(ranks);
    for (rank, ([_, length], most)) in heads.iter().zip(most).enumerate() {
        let why = || format!("it has {length} bytes to send, and {most} at most are possible");
        let fits = usize::try_from(*length).ok().filter(|length| length <= most);
        lengths.push(fits.ok_or_else(|| SimulationError::Rank { rank, why: why() })?);
    }
    let mut all: Vec<Vec<u8>> = lengths.iter().map(|length| Vec::with_capacity(*length)).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut piece = Vec::new();
    for begin in (0..longest).step_by(PIECE) {
        let parts: Vec<usize> = lengths.iter().map(|length| length.saturating_sub(begin).min(PIECE)).collect();
        piece.resize(parts.iter().sum(), 0);
        let own = &bytes[begin.min(bytes.len())..bytes.len().min(begin + PIECE)];
        group.all_gather(own, &mut piece, &parts)?;
        let mut rest = piece.as_slice();
        for (all, part) in all.iter_mut().zip(parts) {
            let (own, others) = rest.split_at(part);
            all.extend(own);
            rest = others;
        }
    }
    Ok(all)
}

/// Whether all ranks say what rank 0 says.
fn agree<T: PartialEq>(mut said: impl Iterator<Item = T>, what: &'static str) -> Result<(), SimulationError> {
    let first = said.next();
    match said.position(|other| Some(&other) != first.as_ref()) {
        Some(at) => Err(SimulationError::Diverged { rank: at + 1, what }),
        None => Ok(()),
    }
}

impl From<CollectiveError> for SimulationError {
    fn from(error: CollectiveError) -> Self {
        Self::Ranks(Box::new(error))
    }
}

#[cfg(test)]
mod tests;
