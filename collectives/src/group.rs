//! A group of ranks: collectives with a deadline, and what happens when one of them dies.
//!
//! A [`Group`] is one rank's side. Its calls are collective: every rank makes the same calls in the same order. A call that
//! fails says who is missing and what was waited for; the input is as it was, and the group does nothing more until
//! [`Group::shrink`] has made a working one of those who live.

pub mod channels;
mod split;

use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmloom_kernels::reduce::{ReduceOp, Reducer};
use swarmloom_kernels::{Dtype, Element};

use crate::adapt::Trials;
use crate::bootstrap::Rendezvous;
use crate::control::Control;
use crate::error::CollectiveError;
use crate::execute::{Program, Streaming};
use crate::fabric::region::{Region, Regions};
use crate::fabric::{Carrier, Entry, Raw};
use crate::fault::Fault;
use crate::patience::{Abort, GUARDED, Ladder, Patience};
use crate::plan::{Collective, Layout, Plan, Rank};
use crate::select::Selector;
use crate::setup;

/// How a group is made, beyond where its ranks meet.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// How long an operation may take, from when it first has to wait.
    pub timeout: Duration,
    /// Which transport.
    pub transport: Transport,
    /// Bytes of scratch of each rank, twice.
    pub scratch_bytes: usize,
    /// The libfabric provider (`verbs;ofi_rxm`, `efa`, `tcp;ofi_rxm`, ...), the same on every rank; `None` takes the best.
    pub provider: Option<String>,
    /// TCP connections between every two ranks.
    pub connections: usize,
    /// How algorithms are chosen.
    pub selector: Selector,
    /// When stores pass the cache by; `None` finds out by trying.
    pub streaming: Option<Streaming>,
    /// What ranks that can share memory have in common and others do not; `None` finds out. Ranks of one host that are
    /// given different names use TCP between them.
    pub host: Option<String>,
    /// Cores that this host's ranks may use; where there are more ranks, waits give the core away early.
    pub cores: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            transport: Transport::Auto,
            scratch_bytes: 4 << 20,
            provider: None,
            connections: 1,
            selector: Selector::default(),
            streaming: None,
            host: None,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Transport {
    /// Shared memory within a host, TCP between hosts.
    #[default]
    Auto,
    /// Shared memory, or an error.
    Shm,
    /// TCP, also within a host.
    Tcp,
    /// libfabric, loaded at run time: InfiniBand, RoCE, EFA and Slingshot where they are, its TCP otherwise.
    Ofi,
}

/// One rank's side of a group.
#[derive(Debug)]
pub struct Group {
    control: Arc<Control>,
    config: GroupConfig,
    /// Ranks of the bootstrap, by rank of this group.
    members: Vec<Rank>,
    rank: Rank,
    epoch: u64,
    /// Gone after a failure: it may still hold on to the caller's memory, and is good for nothing else.
    carrier: Option<Carrier>,
    transport: &'static str,
    layout: Layout,
    regions: Regions,
    abort: Arc<Abort>,
    ladder: Ladder,
    sequence: u64,
    programs: Programs,
    failed: Option<String>,
    backup: Vec<u8>,
    /// Buffers that were found in regions last: changes of the regions, address, bytes.
    registered: [(u64, usize, usize); 4],
}

/// The programs made last, the newest first.
#[derive(Debug, Default)]
struct Programs(Vec<(Key, Prepared)>);

/// A collective in all the ways that are worth a try: plans, and ways of storing.
#[derive(Debug)]
struct Prepared {
    ways: Vec<Program>,
    trials: Trials,
    /// Bytes of input and output.
    input_bytes: usize,
    output_bytes: usize,
    /// What reduces, and what the operation's tag is salted with, for the dtype and operation of the last call.
    last: (Dtype, ReduceOp, Reducer, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    collective: Collective,
    element_bytes: usize,
    registered: bool,
}

/// Bytes of operations that fill the caches by themselves.
const LARGE: usize = 4 << 20;
/// Programs that are kept ready.
const MAX_PROGRAMS: usize = 128;

impl Group {
    /// Meets the other ranks and sets the transport up.
    ///
    /// # Errors
    /// [`CollectiveError::Bootstrap`], [`CollectiveError::Setup`].
    pub fn join(at: Rendezvous, config: GroupConfig) -> Result<Self, CollectiveError> {
        let timeout = at.timeout;
        let control = Arc::new(Control::start(at, config.host.as_deref(), None)?);
        let members = (0..control.ranks()).collect();
        Self::enter(control, config, members, 1, Regions::default(), Instant::now() + timeout)
    }

    fn enter(
        control: Arc<Control>,
        config: GroupConfig,
        members: Vec<Rank>,
        epoch: u64,
        regions: Regions,
        deadline: Instant,
    ) -> Result<Self, CollectiveError> {
        let abort = Arc::new(Abort::default());
        control.enter(epoch, &members, &abort);
        let rank = members.iter().position(|member| *member == control.rank());
        let rank = rank.ok_or_else(|| CollectiveError::Setup {
            what: "joining the group",
            fault: Fault::Lost { rank: control.rank(), how: "the others go on without this rank".into() },
        })?;
        let at = setup::Epoch { control: &control, config: &config, members: &members, number: epoch, deadline };
        let (carrier, layout) = setup::connect(&at, &regions)?;
        if !GUARDED {
            tracing::warn!("built without deadlines and abort words over shared memory: for measurements alone");
        }
        let local = layout.hosts.iter().filter(|host| **host == layout.hosts[rank]).count();
        let ladder = Ladder::for_host(local, config.cores);
        Ok(Self {
            control,
            config,
            members,
            rank,
            epoch,
            transport: carrier.get().name(),
            carrier: Some(carrier),
            layout,
            regions,
            abort,
            ladder,
            sequence: 0,
            programs: Programs::default(),
            failed: None,
            backup: Vec::new(),
            registered: [(0, 0, 0); 4],
        })
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.members.len()
    }

    /// Ranks at the start, by rank of this group: they change only for a group of survivors.
    pub fn members(&self) -> &[Rank] {
        &self.members
    }

    /// 1 for a new group, more for one of survivors.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The transport's name.
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// What its ranks can do to each other.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What this rank's host is called, where it was given a name.
    pub fn host_name(&self) -> Option<String> {
        self.config.host.clone()
    }

    /// How long an operation may take, from when it first has to wait.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.config.timeout = timeout;
    }

    /// How algorithms are chosen.
    pub fn selector(&self) -> &Selector {
        &self.config.selector
    }

    /// Another way to choose algorithms: the same on every rank.
    pub fn set_selector(&mut self, selector: Selector) {
        self.config.selector = selector;
        self.programs.0.clear();
    }

    /// When stores pass the cache by; `None` finds out by trying. The same on every rank.
    pub fn set_streaming(&mut self, streaming: Option<Streaming>) {
        self.config.streaming = streaming;
        self.programs.0.clear();
    }

    /// Makes zeroed memory that the ranks of this host reach directly: what is registered needs no staging on it. Other
    /// transports use it like any memory. It is of this group: one that has shrunk needs others, because a rank that was
    /// left out and lives could still write to it. A peer that has worked on it keeps it mapped, also after it was dropped
    /// here, until another region takes its place.
    ///
    /// # Errors
    /// [`CollectiveError::Setup`].
    pub fn region(&self, bytes: usize) -> Result<Region, CollectiveError> {
        let region = self.regions.create(bytes).map_err(|fault| CollectiveError::Setup { what: "a region", fault })?;
        if let Some(carrier) = &self.carrier {
            carrier.get().publish_regions();
        }
        Ok(region)
    }

    /// Reduces the inputs of all ranks into everybody's output.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let collective = Collective::AllReduce { count: input.len() };
        self.run(&collective, input, output, op)
    }

    /// [`Group::all_reduce`] into the input itself. On an error it is as it was: the result is made apart and copied.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_in_place<T: Element>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), CollectiveError> {
        let data = Raw { at: data.as_mut_ptr().cast(), bytes: size_of_val(data) };
        // SAFETY: an exclusive slice, held until the call returns; every pattern is a `T`.
        unsafe { self.all_reduce_in_place_raw(T::DTYPE, op, data) }
    }

    /// [`Group::all_reduce_in_place`] on memory by address, as many elements as it has room for.
    ///
    /// # Errors
    /// [`CollectiveError`].
    ///
    /// # Safety
    /// `data` is readable and writable, and nobody else touches it until the call has returned.
    pub unsafe fn all_reduce_in_place_raw(
        &mut self,
        dtype: Dtype,
        op: ReduceOp,
        data: Raw,
    ) -> Result<(), CollectiveError> {
        let mut backup = std::mem::take(&mut self.backup);
        backup.resize(backup.len().max(data.bytes), 0);
        let collective = Collective::AllReduce { count: data.bytes / dtype.size() };
        let output = Raw { at: backup.as_mut_ptr(), bytes: data.bytes };
        // SAFETY: the caller's promise; both buffers have that many bytes, and are apart from each other.
        let done = unsafe { self.run_raw(&collective, dtype, op, data, output, false) };
        if done.is_ok() {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(backup.as_ptr(), data.at, data.bytes) };
        }
        self.backup = backup;
        done
    }

    /// Reduces the inputs of all ranks and leaves each rank its part: `parts[r]` elements, one after the other.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce_scatter<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        parts: &[usize],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::ReduceScatter { parts: parts.to_vec() }, input, output, op)
    }

    /// Puts the inputs of all ranks (`parts[r]` elements) one after the other into everybody's output.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_gather<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        parts: &[usize],
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::AllGather { parts: parts.to_vec() }, input, output, ReduceOp::Sum)
    }

    /// Copies the root's input into everybody's output. Others give an empty input.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn broadcast<T: Element>(&mut self, input: &[T], output: &mut [T], root: Rank) -> Result<(), CollectiveError> {
        self.run(&Collective::Broadcast { root, count: output.len() }, input, output, ReduceOp::Sum)
    }

    /// [`Group::broadcast`] of one buffer, the root's input and the others' output.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn broadcast_in_place<T: Element>(&mut self, data: &mut [T], root: Rank) -> Result<(), CollectiveError> {
        let collective = Collective::Broadcast { root, count: data.len() };
        let output = Raw { at: data.as_mut_ptr().cast(), bytes: size_of_val(data) };
        let input = if self.rank == root { output } else { Raw::EMPTY };
        // SAFETY: an exclusive slice, held until the call returns; a broadcast's root may have one buffer for both.
        unsafe { self.run_raw(&collective, T::DTYPE, ReduceOp::Sum, input, output, false) }
    }

    /// Reduces the inputs of all ranks into the root's output. Others give an empty output.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        root: Rank,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::Reduce { root, count: input.len() }, input, output, op)
    }

    /// Gives rank `j` the `counts[i][j]` elements that rank `i` has for it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_to_all<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        counts: &[Vec<usize>],
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::AllToAll { counts: counts.to_vec() }, input, output, ReduceOp::Sum)
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.run::<u8>(&Collective::Barrier, &[], &mut [], ReduceOp::Sum)
    }

    /// Copies `count` elements, the input of `from`, into the output of `to`. Every rank calls it with the same count; only
    /// these two take part, and the others' buffers are empty.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn send<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        (from, to): (Rank, Rank),
        count: usize,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::Send { from, to, count }, input, output, ReduceOp::Sum)
    }

    /// Whether a collective makes sense for this group: ranks, counts and sizes fit.
    ///
    /// # Errors
    /// [`CollectiveError::Usage`].
    pub fn check(&self, collective: &Collective) -> Result<(), CollectiveError> {
        setup::check(collective, self.ranks())
    }

    /// Any collective on slices.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn run<T: Element>(
        &mut self,
        collective: &Collective,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let (input, output) = (raw(input), Raw { at: output.as_mut_ptr().cast(), bytes: size_of_val(output) });
        // SAFETY: a shared and an exclusive slice, held until the call returns.
        unsafe { self.run_raw(collective, T::DTYPE, op, input, output, false) }
    }

    /// Any collective on memory by address. With `registered`, input and output are parts of a [`Region`] on every rank.
    ///
    /// # Errors
    /// [`CollectiveError`].
    ///
    /// # Safety
    /// `input` is readable and `output` writable, they do not overlap (a broadcast's root may give one buffer as both), and
    /// nobody else touches them until the call has
    /// returned.
    pub unsafe fn run_raw(
        &mut self,
        collective: &Collective,
        dtype: Dtype,
        op: ReduceOp,
        input: Raw,
        output: Raw,
        registered: bool,
    ) -> Result<(), CollectiveError> {
        self.usable()?;
        if registered && !(self.is_registered(input) && self.is_registered(output)) {
            let why = "input and output have to be parts of regions of this group, made after it last shrank".into();
            return Err(CollectiveError::Usage { collective: collective.name(), why });
        }
        let at = match self.programs.0.iter().position(|(key, _)| {
            key.element_bytes == dtype.size() && key.registered == registered && key.collective == *collective
        }) {
            Some(at) => at,
            None => self.prepare(collective, (dtype, op), registered, (input, output))?,
        };
        let (_, prepared) = &mut self.programs.0[at];
        check_lengths(collective, (input, output), (prepared.input_bytes, prepared.output_bytes))?;
        let (last_dtype, last_op, ..) = prepared.last;
        if (last_dtype, last_op) != (dtype, op) {
            prepared.last = (dtype, op, Reducer::new(dtype, op), salt(dtype, op, collective));
        }
        let (_, _, reducer, salt) = prepared.last;
        self.sequence += 1;
        let (way, timed) = prepared.trials.next();
        let program = &mut prepared.ways[way];
        let began = timed.then(Instant::now);
        // Ranks must agree on the way, too; never 0.
        let tag = (program.tag() ^ salt) | 1;
        let entry = Entry { sequence: self.sequence, tag, input, output };
        let mut patience = Patience::new(&self.abort, self.config.timeout, self.ladder);
        // SAFETY: the caller's promise; lengths were checked, and the plan was verified for this layout.
        let done = unsafe {
            match self.carrier.as_mut().ok_or_else(gone)? {
                Carrier::Shm(fabric) => program.run(fabric.as_mut(), &entry, &reducer, &mut patience),
                Carrier::Any(fabric) => program.run(fabric.as_mut(), &entry, &reducer, &mut patience),
            }
        };
        match done {
            Ok(()) => {
                prepared.trials.record(began.map(|began| began.elapsed()));
                if let Some(times) = prepared.trials.undecided() {
                    self.decide(at, &times);
                }
                Ok(())
            }
            Err((step, fault)) => {
                let (awaited, on) = (program.describe(step), program.peer(step));
                Err(self.fail(collective.name(), awaited, on, fault))
            }
        }
    }

    fn usable(&self) -> Result<(), CollectiveError> {
        match &self.failed {
            Some(why) => Err(CollectiveError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Whether peers can reach the buffer where it is, or need not: not all transports do.
    fn is_registered(&mut self, buffer: Raw) -> bool {
        if buffer.bytes == 0 || !self.layout.near.reduce_user {
            return true;
        }
        let known = (self.regions.changes(), buffer.at as usize, buffer.bytes);
        if self.registered.contains(&known) {
            return true;
        }
        let found = self.regions.find(buffer).is_some();
        if found {
            self.registered.rotate_right(1);
            self.registered[0] = known;
        }
        found
    }

    /// Builds, verifies and compiles a program; where it is now.
    fn prepare(
        &mut self,
        collective: &Collective,
        (dtype, op): (Dtype, ReduceOp),
        registered: bool,
        buffers: (Raw, Raw),
    ) -> Result<usize, CollectiveError> {
        let element_bytes = dtype.size();
        setup::check(collective, self.ranks())?;
        let layout = setup::layout_for(&self.layout, registered);
        let plans = self.config.selector.plans(collective, &layout, element_bytes)?;
        let bytes = |elements: usize| {
            let why = || format!("{elements} elements are more than there can be");
            elements
                .checked_mul(element_bytes)
                .ok_or_else(|| CollectiveError::Usage { collective: collective.name(), why: why() })
        };
        let (input_bytes, output_bytes) =
            (bytes(collective.input_len(self.rank))?, bytes(collective.output_len(self.rank))?);
        // What is refused on this rank alone leaves no trace: the ranks keep and forget the same programs.
        check_lengths(collective, buffers, (input_bytes, output_bytes))?;
        // The ranks agree on what they try: it follows from the one that has most, not from this one.
        let sides = |rank| collective.input_len(rank).max(collective.output_len(rank));
        let most = (0..self.ranks()).map(sides).max().unwrap_or(0).saturating_mul(element_bytes);
        let streaming = |plan: &Plan| match self.config.streaming {
            Some(fixed) => vec![fixed],
            None => Streaming::worth_trying(most, plan.algorithm, &layout),
        };
        let rank = self.rank;
        let ways: Vec<Program> = plans
            .into_iter()
            .flat_map(|plan| {
                let (ways, plan) = (streaming(&plan), Arc::new(plan));
                ways.into_iter().map(move |way| Program::compile(plan.clone(), rank, way))
            })
            .collect();
        let last = (dtype, op, Reducer::new(dtype, op), salt(dtype, op, collective));
        // A try of a large one is dear, and leaves nothing of others in the caches.
        let (warm, tries) = match most < LARGE {
            true => (ways.iter().map(|way| way.uses_until_warm(layout.scratch_bytes)).collect(), 4),
            false => (vec![1; ways.len()], 1),
        };
        let prepared = Prepared { trials: Trials::new(warm, tries), ways, input_bytes, output_bytes, last };
        let key = Key { collective: collective.clone(), element_bytes, registered };
        if self.programs.0.len() == MAX_PROGRAMS {
            self.programs.0.pop();
        }
        self.programs.0.insert(0, (key, prepared));
        Ok(0)
    }

    /// Agrees with the others on the fastest way. The caller's operation is done: a failure shows in the next one.
    #[cold]
    fn decide(&mut self, at: usize, times: &[f64]) {
        let key = self.programs.0[at].0.clone();
        let mut slowest = vec![0.0; times.len()];
        if let Err(error) = self.all_reduce(times, &mut slowest, ReduceOp::Max) {
            tracing::warn!(%error, "ranks could not agree on the fastest way");
            return;
        }
        // The agreement may have moved it.
        if let Some((_, prepared)) = self.programs.0.iter_mut().find(|(other, _)| *other == key) {
            prepared.trials.decide(&slowest);
        }
    }

    #[cold]
    fn fail(&mut self, collective: &'static str, awaited: String, on: Option<Rank>, fault: Fault) -> CollectiveError {
        let sequence = self.sequence;
        let fault = self.abort.verdict(fault);
        let error = CollectiveError::Failed { collective, sequence, awaited, on, fault };
        self.failed = Some(error.to_string());
        if let CollectiveError::Failed { fault, .. } = &error {
            // Whoever made us fail knows it; everybody else waits for us in vain.
            let lost = match fault {
                Fault::Lost { rank, .. } => Some(self.members[*rank]),
                _ => None,
            };
            self.abort.raise(fault.clone());
            self.control.abort(self.epoch, lost, &error.to_string());
        }
        // It may still read what it was to send, and the caller's memory is the caller's again.
        self.carrier = None;
        error
    }

    /// Ends whatever the ranks of this group do or will do, with this reason.
    pub fn abort(&mut self, why: &str) {
        self.failed.get_or_insert_with(|| why.to_owned());
        self.abort.raise(Fault::Aborted { by: self.rank, why: why.to_owned() });
        self.control.abort(self.epoch, None, why);
    }

    /// What ends this group's waits from another thread.
    pub fn aborter(&self) -> Arc<Abort> {
        self.abort.clone()
    }

    /// Makes a working group of the ranks that live, once this one has failed on all of them. Who has not called it within
    /// half the time is left out, and gets an error when it does. Ranks are numbered anew, in the old order;
    /// [`Group::members`] says who is who.
    ///
    /// The operation in which a rank died may have ended on some survivors and failed on others: agree on where to go on,
    /// by an all-reduce of the step's number with [`ReduceOp::Min`] for example. Where a network parts in two, and nobody on
    /// one side hears anybody of the other, both sides go on: a caller for whom that matters looks at [`Group::ranks`], and
    /// stops where it is no more than half of what there was.
    ///
    /// # Errors
    /// [`CollectiveError::Setup`] where the others went on without this rank, or the time was over. On a group that works,
    /// it ends that group on all ranks.
    pub fn shrink(self, timeout: Duration) -> Result<Self, CollectiveError> {
        let Self { control, config, members, epoch, carrier, .. } = self;
        // Peers notice that this rank has given up, if they have not yet.
        control.abort(epoch, None, "a rank shrinks the group");
        drop(carrier);
        let deadline = Instant::now() + timeout;
        let agreed = control.agree(epoch, &members, timeout * 3 / 4);
        let agreed = agreed.map_err(|fault| CollectiveError::Setup { what: "agreeing on who lives", fault })?;
        // A rank that was left out may live, and write where it could: survivors begin with other memory.
        Self::enter(control, config, agreed, epoch + 1, Regions::default(), deadline)
    }
}

fn check_lengths(
    collective: &Collective,
    (input, output): (Raw, Raw),
    wanted: (usize, usize),
) -> Result<(), CollectiveError> {
    if (input.bytes, output.bytes) == wanted {
        return Ok(());
    }
    let why =
        format!("input and output have {} and {} bytes, not {} and {}", input.bytes, output.bytes, wanted.0, wanted.1);
    Err(CollectiveError::Usage { collective: collective.name(), why })
}

/// A call of the group was left by a panic.
#[cold]
fn gone() -> CollectiveError {
    CollectiveError::Poisoned { why: "a call before this one did not come to its end".into() }
}

/// What ranks must agree on beside the plan, hashed (FNV-1a).
fn salt(dtype: Dtype, op: ReduceOp, collective: &Collective) -> u32 {
    let op = if collective.reduces() { op as u32 } else { 0 };
    [dtype as u32, op].iter().fold(0x811c_9dc5, |hash, part| (hash ^ part).wrapping_mul(0x0100_0193))
}

fn raw<T: Element>(slice: &[T]) -> Raw {
    Raw { at: slice.as_ptr().cast_mut().cast(), bytes: size_of_val(slice) }
}

#[cfg(test)]
pub(crate) mod tests;
