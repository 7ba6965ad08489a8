//! Groups of GPUs: collectives on device memory, through NCCL, through peers' memory, or through the processors' own group.
//!
//! A [`GpuGroup`] stands on a [`Group`] of the same ranks, which brings them together, notices deaths and carries what is
//! small. Its calls are collective and return when the result is there; each has a deadline, and the death of a rank ends
//! it on all others. What one rank has of libraries is told to all, and all take the same [`Way`].
//!
//! # The order of a reduction
//!
//! - [`Way::Staged`]: that of the host group's plan, which is fixed: the same bits whatever the machine.
//! - [`GpuGroup::all_reduce_exposed`]: the order of the ranks, as the one-shot plan has it.
//! - [`Way::Nccl`]: NCCL's own, which follows from its version, the machines, the number of ranks and the size. All ranks of
//!   an all-reduce get the same bits, and a repetition on the same machines gives them again; another size or another
//!   number of ranks need not. Ranks that call different things are not told: NCCL says nothing of that. Halves may be rounded at every step, and a minimum or maximum need not be NaN where a
//!   source is.

use std::time::Duration;

use swarmloom_gpu::{Buffer, Gpu, GpuError, Pinned};
use swarmloom_kernels::Element;
use swarmloom_kernels::reduce::ReduceOp;

use crate::error::CollectiveError;
use crate::fault::Fault;
use crate::group::Group;
use crate::plan::{Collective, Rank};

mod exposed;
mod nccl;

pub use exposed::Exposed;
use nccl::{Communicator, Library, Limit, UniqueId, Work};

/// How a group of GPUs is made.
#[derive(Debug, Clone)]
pub struct GpuConfig {
    /// How long an operation may take, of the host group too.
    pub timeout: Duration,
    /// How long NCCL may take to bring the ranks together.
    pub setup: Duration,
    /// Which way, the same on every rank; `None` takes the best that all have.
    pub way: Option<Way>,
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), setup: Duration::from_secs(120), way: None }
    }
}

/// Which way device memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// NCCL, loaded at run time.
    Nccl,
    /// Through pinned memory of the processor and the host group: wherever that works.
    Staged,
}

/// The version of NCCL that is here.
///
/// # Errors
/// [`Fault::System`] where it is missing or too old.
pub fn nccl_version() -> Result<String, Fault> {
    Library::get().map(Library::version)
}

/// One rank's side of a group of GPUs.
#[derive(Debug)]
pub struct GpuGroup {
    // First, so that NCCL says goodbye while the host group still stands.
    nccl: Option<Communicator>,
    gpu: Gpu,
    group: Group,
    config: GpuConfig,
    way: Way,
    why: String,
    sequence: u64,
    /// Pinned input and output, made when first needed.
    stage: [Option<Pinned>; 2],
}

/// What a rank tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Card {
    nccl: bool,
    wanted: Option<Way>,
    device: [u8; 16],
}

impl Card {
    const BYTES: usize = 18;

    fn encode(&self) -> [u8; Self::BYTES] {
        let wanted = match self.wanted {
            None => 0,
            Some(Way::Nccl) => 1,
            Some(Way::Staged) => 2,
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0] = u8::from(self.nccl);
        bytes[1] = wanted;
        bytes[2..].copy_from_slice(&self.device);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [nccl, wanted, device @ ..] = bytes else { return None };
        let wanted = match wanted {
            0 => None,
            1 => Some(Way::Nccl),
            2 => Some(Way::Staged),
            _ => return None,
        };
        Some(Self { nccl: *nccl == 1, wanted, device: device.try_into().ok()? })
    }
}

/// The way for ranks with these cards, and why: the same on every rank.
fn choose(cards: &[Card]) -> Result<(Way, String), String> {
    let wanted = cards.first().and_then(|card| card.wanted);
    if let Some(rank) = cards.iter().position(|card| card.wanted != wanted) {
        return Err(format!("rank 0 wants {wanted:?} and rank {rank} {:?}", cards[rank].wanted));
    }
    let without = cards.iter().position(|card| !card.nccl);
    let twice = (1..cards.len()).find(|rank| cards[..*rank].iter().any(|card| card.device == cards[*rank].device));
    let hindrance = match (without, twice) {
        (Some(rank), _) => Some(format!("rank {rank} has no NCCL")),
        (_, Some(rank)) => Some(format!("rank {rank} shares its GPU with another, which NCCL does not allow")),
        _ => None,
    };
    match (wanted, hindrance) {
        (Some(Way::Staged), _) => Ok((Way::Staged, "it was asked for".into())),
        (Some(Way::Nccl), Some(why)) => Err(why),
        (None, Some(why)) => Ok((Way::Staged, why)),
        (_, None) => Ok((Way::Nccl, "all ranks have it".into())),
    }
}

impl GpuGroup {
    /// Makes a group of the ranks' GPUs; every rank of `group` calls it.
    ///
    /// # Errors
    /// [`CollectiveError::Usage`] where ranks want different ways, or one that is not to be had;
    /// [`CollectiveError::Setup`] where NCCL was asked for and does not come together. Where none was asked for, that
    /// leads to [`Way::Staged`].
    pub fn new(mut group: Group, gpu: Gpu, config: GpuConfig) -> Result<Self, CollectiveError> {
        group.set_timeout(config.timeout);
        let library = Library::get();
        let device = gpu.uuid()?;
        let own = Card { nccl: library.is_ok(), wanted: config.way, device };
        let mut all = vec![0; Card::BYTES * group.ranks()];
        let parts = vec![Card::BYTES; group.ranks()];
        group.all_gather(&own.encode(), &mut all, &parts)?;
        let usage = |why| CollectiveError::Usage { collective: "gpu group", why };
        let cards: Option<Vec<Card>> = all.chunks(Card::BYTES).map(Card::decode).collect();
        let cards = cards.ok_or_else(|| usage("a rank's card cannot be read".into()))?;
        let (mut way, mut why) = choose(&cards).map_err(usage)?;
        let mut nccl = None;
        if let (Way::Nccl, Ok(library)) = (way, library) {
            match Self::meet(&mut group, &gpu, library, &config)? {
                Ok(made) => nccl = Some(made),
                Err(fault) if config.way.is_some() => {
                    return Err(CollectiveError::Setup { what: "setting up NCCL", fault });
                }
                Err(fault) => {
                    tracing::warn!(%fault, "NCCL does not come together: GPUs go through the processors' memory");
                    (way, why) = (Way::Staged, fault.to_string());
                }
            }
        }
        Ok(Self { nccl, gpu, group, config, way, why, sequence: 0, stage: [None, None] })
    }

    /// A communicator, or on every rank why there is none.
    fn meet(
        group: &mut Group,
        gpu: &Gpu,
        library: &'static Library,
        config: &GpuConfig,
    ) -> Result<Result<Communicator, Fault>, CollectiveError> {
        let id = if group.rank() == 0 { Some(library.unique_id()) } else { None };
        // A leading 1, or zeros where rank 0 has none.
        let mut told = [0; 1 + UniqueId::BYTES];
        if let Some(Ok(id)) = &id {
            told[0] = 1;
            told[1..].copy_from_slice(&id.0);
        }
        let mut heard = told;
        let root: &[u8] = if group.rank() == 0 { &told } else { &[] };
        group.broadcast(root, &mut heard, 0)?;
        if heard[0] != 1 {
            let why = || Fault::System { what: "making an identity of NCCL", why: "rank 0 has none".into() };
            return Ok(Err(id.and_then(Result::err).unwrap_or_else(why)));
        }
        let mut id = UniqueId([0; UniqueId::BYTES]);
        id.0.copy_from_slice(&heard[1..]);
        let abort = group.aborter();
        let limit = Limit::new(&abort, config.setup).with_peers(group.ranks());
        let made = Communicator::new(library, gpu, id, (group.rank(), group.ranks()), &limit);
        // Whoever was quicker waits for the others as long as these may take.
        let mut joined = [0_u8];
        group.set_timeout(config.setup + config.timeout);
        let agreed = group.all_reduce(&[u8::from(made.is_ok())], &mut joined, ReduceOp::Min);
        group.set_timeout(config.timeout);
        agreed?;
        Ok(match made {
            Ok(_) if joined == [0] => Err(Fault::System { what: "joining NCCL", why: "another rank cannot".into() }),
            made => made,
        })
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.group.rank()
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.group.ranks()
    }

    /// Which way it goes, and why.
    pub fn way(&self) -> (Way, &str) {
        (self.way, &self.why)
    }

    /// This rank's device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The host group, for what is small. Its calls are collective as this one's are, and share their order.
    pub fn host(&mut self) -> &mut Group {
        &mut self.group
    }

    /// Reduces the inputs of all ranks into everybody's output.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn all_reduce<T: Element>(
        &mut self,
        input: &Buffer<T>,
        output: &mut Buffer<T>,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::AllReduce { count: input.len() }, Some(input), Some(output), op)
    }

    /// Reduces the inputs of all ranks and leaves each rank its part: `parts[r]` elements, one after the other.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn reduce_scatter<T: Element>(
        &mut self,
        input: &Buffer<T>,
        output: &mut Buffer<T>,
        parts: &[usize],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::ReduceScatter { parts: parts.to_vec() }, Some(input), Some(output), op)
    }

    /// Puts the inputs of all ranks (`parts[r]` elements) one after the other into everybody's output.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn all_gather<T: Element>(
        &mut self,
        input: &Buffer<T>,
        output: &mut Buffer<T>,
        parts: &[usize],
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::AllGather { parts: parts.to_vec() }, Some(input), Some(output), ReduceOp::Sum)
    }

    /// Copies the root's input into everybody's output. Others give no input.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn broadcast<T: Element>(
        &mut self,
        input: Option<&Buffer<T>>,
        output: &mut Buffer<T>,
        root: Rank,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::Broadcast { root, count: output.len() }, input, Some(output), ReduceOp::Sum)
    }

    /// Reduces the inputs of all ranks into the root's output. Others give no output.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn reduce<T: Element>(
        &mut self,
        input: &Buffer<T>,
        output: Option<&mut Buffer<T>>,
        root: Rank,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::Reduce { root, count: input.len() }, Some(input), output, op)
    }

    /// Copies the input of `from`, of `count` elements, into the output of `to`. Every rank calls it; only these two take
    /// part.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn send<T: Element>(
        &mut self,
        input: Option<&Buffer<T>>,
        output: Option<&mut Buffer<T>>,
        count: usize,
        (from, to): (Rank, Rank),
    ) -> Result<(), CollectiveError> {
        self.run(&Collective::Send { from, to, count }, input, output, ReduceOp::Sum)
    }

    /// Any collective. A rank without input or output gives `None` or an empty buffer. Returns when the output is there.
    ///
    /// # Errors
    /// [`CollectiveError::Usage`] where lengths or devices do not fit: nothing was sent. [`CollectiveError::Failed`]: the
    /// output is undefined, and the group does nothing more until [`GpuGroup::shrink`].
    pub fn run<T: Element>(
        &mut self,
        collective: &Collective,
        input: Option<&Buffer<T>>,
        output: Option<&mut Buffer<T>>,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.group.check(collective)?;
        let usage = |why| CollectiveError::Usage { collective: collective.name(), why };
        let have = (input.map_or(0, Buffer::len), output.as_ref().map_or(0, |output| output.len()));
        let want = (collective.input_len(self.rank()), collective.output_len(self.rank()));
        if have != want {
            let why =
                format!("input and output have {} and {} elements, not {} and {}", have.0, have.1, want.0, want.1);
            return Err(usage(why));
        }
        let theirs = input.into_iter().map(Buffer::gpu).chain(output.as_ref().map(|output| output.gpu()));
        if theirs.into_iter().any(|gpu| gpu.stream() != self.gpu.stream()) {
            return Err(usage("a buffer belongs to another device or stream than the group".into()));
        }
        match self.way {
            Way::Nccl if *collective != Collective::Barrier => self.through_nccl(collective, input, output, op),
            _ => self.staged(collective, input, output, op),
        }
    }

    fn through_nccl<T: Element>(
        &mut self,
        collective: &Collective,
        input: Option<&Buffer<T>>,
        output: Option<&mut Buffer<T>>,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let Some(nccl) = &mut self.nccl else {
            return Err(CollectiveError::Poisoned { why: "NCCL was aborted".into() });
        };
        self.sequence += 1;
        let abort = self.group.aborter();
        if let Some(reason) = abort.reason() {
            return Err(CollectiveError::Poisoned { why: reason.to_string() });
        }
        let limit = Limit::new(&abort, self.config.timeout).with_peers(self.group.ranks());
        let (input, output) = (input.map_or(0, Buffer::address), output.as_ref().map_or(0, |output| output.address()));
        // SAFETY: lengths and device were checked by `run`. The buffers are borrowed until the work is done; where it is
        // not done in time it is aborted below, and what uses them afterwards comes later in the same stream.
        let done = unsafe { nccl.run(collective, Work { dtype: T::DTYPE, op, input, output }, &limit) };
        done.map_err(|fault| {
            self.nccl = None;
            self.failed(collective.name(), "NCCL", fault)
        })
    }

    /// From the device to pinned memory, through the host group, and back.
    fn staged<T: Element>(
        &mut self,
        collective: &Collective,
        input: Option<&Buffer<T>>,
        output: Option<&mut Buffer<T>>,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.sequence += 1;
        let lens = [input.map_or(0, Buffer::len), output.as_ref().map_or(0, |output| output.len())];
        // What the caller has given the GPU to do comes first, and may take for ever; the copies themselves do not.
        let abort = self.group.aborter();
        let done = self.end_of_work(&Limit::new(&abort, self.config.timeout));
        done.map_err(|fault| self.failed(collective.name(), "this rank's GPU", fault))?;
        if let Err(error) = self.read_in(input, lens) {
            return Err(self.failed(collective.name(), "this rank's GPU", nccl::device(error)));
        }
        let [Some(from), Some(to)] = &mut self.stage else {
            return Err(CollectiveError::Poisoned { why: "there is no pinned memory".into() });
        };
        self.group.run(collective, from.slice::<T>(lens[0]), to.slice_mut::<T>(lens[1]), op)?;
        let written = output.map_or(Ok(()), |output| output.write(to.slice(lens[1])));
        written.map_err(|error| self.failed(collective.name(), "this rank's GPU", nccl::device(error)))
    }

    /// Makes room in pinned memory, and copies the input there.
    fn read_in<T: Element>(&mut self, input: Option<&Buffer<T>>, lens: [usize; 2]) -> Result<(), GpuError> {
        for (stage, len) in self.stage.iter_mut().zip(lens) {
            let bytes = len * size_of::<T>();
            if stage.as_ref().is_none_or(|stage| stage.bytes() < bytes) {
                // The old one first: pinned memory is dear.
                *stage = None;
                *stage = Some(self.gpu.pinned(bytes.next_power_of_two())?);
            }
        }
        match (input, &mut self.stage[0]) {
            (Some(input), Some(stage)) => input.read(stage.slice_mut(lens[0])),
            _ => Ok(()),
        }
    }

    /// Ends the group, here and on the other ranks.
    #[cold]
    fn failed(&mut self, collective: &'static str, awaited: &str, fault: Fault) -> CollectiveError {
        let on = match &fault {
            Fault::Lost { rank, .. } => Some(*rank),
            _ => None,
        };
        let awaited = awaited.to_owned();
        let error = CollectiveError::Failed { collective, sequence: self.sequence, awaited, on, fault };
        self.group.abort(&error.to_string());
        error
    }

    /// Ends whatever the ranks of this group do or will do, with this reason.
    pub fn abort(&mut self, why: &str) {
        self.group.abort(why);
        self.nccl = None;
    }

    /// Makes a working group of the ranks that live, once this one has failed on all of them: [`Group::shrink`], and a new
    /// communicator between those.
    ///
    /// # Errors
    /// As [`Group::shrink`] and [`GpuGroup::new`].
    pub fn shrink(self, timeout: Duration) -> Result<Self, CollectiveError> {
        let Self { nccl, gpu, mut group, config, .. } = self;
        // Ends NCCL's work here, which would otherwise wait for the dead.
        group.abort("a rank shrinks the group");
        drop(nccl);
        Self::new(group.shrink(timeout)?, gpu, config)
    }
}

#[cfg(test)]
mod tests;
