//! Carrying out one rank's program of a plan over a fabric.
//!
//! [`Program::compile`] turns a rank's steps into addresses to be: indices of buffers and byte offsets. [`Program::run`]
//! fills the addresses in and does what the steps say. Nothing is decided here.

use std::mem::MaybeUninit;
use std::sync::Arc;

use swarmloom_kernels::copy::{self, Stores};
use swarmloom_kernels::reduce::Reducer;

use crate::fabric::{Entry, Fabric, Target, Window};
use crate::fault::Fault;
use crate::patience::Patience;
use crate::plan::{Algorithm, Buffer, Layout, MAX_RANKS, Place, Plan, Rank, Slice, Step};

/// An address to be: a buffer's index in [`Program::bases`], and bytes from its start.
#[derive(Debug, Clone, Copy)]
struct At {
    base: usize,
    offset: usize,
}

/// A step with everything looked up that does not depend on the call.
#[derive(Debug, Clone)]
enum Act {
    Put {
        peer: Rank,
        from: At,
        bytes: usize,
        to: Target,
        signal: bool,
    },
    Signal {
        peer: Rank,
    },
    Wait {
        peer: Rank,
    },
    Packet {
        peer: Rank,
        from: At,
        bytes: usize,
    },
    WaitPacket {
        peer: Rank,
    },
    Expose {
        peer: Rank,
    },
    /// `reached`: whether input and output of the peer are followed as addresses later.
    Meet {
        peer: Rank,
        reached: [bool; 2],
    },
    Copy {
        from: At,
        to: At,
        bytes: usize,
        stores: Stores,
    },
    CopyFrom {
        peer: Rank,
        window: Window,
        from: At,
        to: At,
        bytes: usize,
        stores: Stores,
    },
    Reduce {
        from: Box<[At]>,
        to: [At; 2],
        targets: usize,
        count: usize,
        stores: Stores,
    },
}

const INPUT: usize = 0;
const OUTPUT: usize = 1;
const SCRATCH: usize = 2;
const OWN: usize = 3;
/// Buffers of each peer: scratch, input, output, packet.
const EACH: usize = 4;

/// From which size on stores pass the cache by. [`usize::MAX`] where they never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// Outputs of at least so many bytes.
    pub output_from: usize,
    /// Scratch, in collectives of at least so many bytes.
    pub scratch_from: usize,
    /// Whether each operation uses another part of the scratch than the one before: see [`Fabric::use_scratch`].
    pub wander: bool,
}

/// Smaller operations stay in the cache in any case.
const WORTH_TRYING: usize = 1 << 10;
/// The same where nothing is staged.
const DIRECT_WORTH_TRYING: usize = 32 << 10;
/// Larger ones do not: there is less to try, and every try costs more.
const BEYOND_CACHE: usize = 16 << 20;

impl Streaming {
    /// Never.
    pub const NEVER: Self = Self { output_from: usize::MAX, scratch_from: usize::MAX, wander: false };

    /// The ways that may be the fastest for an operation of so many bytes: a function of what all ranks know.
    pub fn worth_trying(bytes: usize, algorithm: Algorithm, layout: &Layout) -> Vec<Self> {
        let direct = algorithm == Algorithm::Direct;
        let output = Self { output_from: 0, ..Self::NEVER };
        let both = Self { scratch_from: 0, ..output };
        let wander = Self { wander: true, ..Self::NEVER };
        match layout.near.load_scratch {
            _ if bytes < WORTH_TRYING => vec![Self::NEVER],
            true if direct && bytes < DIRECT_WORTH_TRYING => vec![Self::NEVER],
            true if direct => vec![output, Self::NEVER],
            true if bytes >= BEYOND_CACHE => vec![both, Self { wander: true, ..output }],
            true => vec![both, Self::NEVER, wander, Self { wander: true, ..both }],
            false => vec![Self::NEVER],
        }
    }
}

/// Places of a half of the scratch that a way which wanders visits before it counts as warm. Where there are more, they are
/// small, and it is never found in the cache what was left there.
const WANDERED: usize = 64;

/// One rank's program, ready to run.
#[derive(Debug)]
pub struct Program {
    plan: Arc<Plan>,
    rank: Rank,
    acts: Vec<Act>,
    tag: u32,
    wander: bool,
    /// Whose scratch is read directly.
    loads: Vec<Rank>,
    bases: Vec<*mut u8>,
}

// SAFETY: the addresses are filled in by each `run` and mean nothing between runs.
unsafe impl Send for Program {}

impl Program {
    /// For `rank`, of a plan that was verified for the fabric that it will run on.
    pub fn compile(plan: Arc<Plan>, rank: Rank, streaming: Streaming) -> Self {
        let size = plan.element_bytes;
        let bytes = plan.collective.input_len(rank).max(plan.collective.output_len(rank)).saturating_mul(size);
        let stores = |to: At| {
            let from = if to.base == SCRATCH || (to.base >= OWN && (to.base - OWN).is_multiple_of(EACH)) {
                streaming.scratch_from
            } else {
                streaming.output_from
            };
            if bytes >= from { Stores::Streaming } else { Stores::Cached }
        };
        let here = |slice: &Slice| place(rank, &slice.of(rank), size);
        let mut loads = Vec::new();
        let mut at = |one: &Place| {
            if one.rank != rank && one.slice.buffer == Buffer::Scratch && !loads.contains(&one.rank) {
                loads.push(one.rank);
            }
            place(rank, one, size)
        };
        let mut followed = [[false; 2]; MAX_RANKS];
        for step in &plan.programs[rank] {
            let Step::Reduce { from, to } = step else { continue };
            for one in from.iter().chain(to).filter(|one| one.rank != rank) {
                match one.slice.buffer {
                    Buffer::Input => followed[one.rank][0] = true,
                    Buffer::Output => followed[one.rank][1] = true,
                    Buffer::Scratch | Buffer::Packet(_) => {}
                }
            }
        }
        let acts = plan.programs[rank].iter().map(|step| match step {
            Step::Put { from, to, signal } => Act::Put {
                peer: to.rank,
                from: here(from),
                bytes: from.len * size,
                to: match to.slice.buffer {
                    Buffer::Output => Target::Output(to.slice.start * size),
                    _ => Target::Scratch(to.slice.start * size),
                },
                signal: *signal,
            },
            Step::Signal { to } => Act::Signal { peer: *to },
            Step::Wait { from } => Act::Wait { peer: *from },
            Step::Packet { from, to } => Act::Packet { peer: *to, from: here(from), bytes: from.len * size },
            Step::WaitPacket { from } => Act::WaitPacket { peer: *from },
            Step::Expose { to } => Act::Expose { peer: *to },
            Step::Meet { from } => Act::Meet { peer: *from, reached: followed[*from] },
            Step::Copy { from, to } => {
                let (bytes, target) = (from.slice.len * size, here(to));
                let window = match from.slice.buffer {
                    Buffer::Input => Some(Window::Input),
                    Buffer::Output => Some(Window::Output),
                    Buffer::Scratch | Buffer::Packet(_) => None,
                };
                match window.filter(|_| from.rank != rank) {
                    Some(window) => Act::CopyFrom {
                        peer: from.rank,
                        window,
                        from: at(from),
                        to: target,
                        bytes,
                        stores: stores(target),
                    },
                    None => Act::Copy { from: at(from), to: target, bytes, stores: stores(target) },
                }
            }
            Step::Reduce { from, to } => {
                let targets: Vec<At> = to.iter().map(&mut at).collect();
                let first = targets[0];
                Act::Reduce {
                    from: from.iter().map(&mut at).collect(),
                    to: [first, *targets.last().unwrap_or(&first)],
                    targets: targets.len(),
                    count: to[0].slice.len,
                    stores: stores(first),
                }
            }
        });
        let acts = acts.collect();
        let bases = vec![std::ptr::null_mut(); OWN + EACH * plan.ranks()];
        let tag = tag(&plan, streaming.wander);
        Self { plan, rank, acts, tag, wander: streaming.wander, loads, bases }
    }

    /// The plan, hashed: ranks of one operation have to agree on it.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// How often it has to run, of the `scratch_bytes` that there are, until it finds in its scratch what it has left
    /// there itself: twice, as there are two halves, or until it has wandered through as much of both as can matter.
    pub fn uses_until_warm(&self, scratch_bytes: usize) -> usize {
        let used = (self.plan.scratch * self.plan.element_bytes).max(1);
        if self.wander { 2 * (scratch_bytes / used).clamp(1, WANDERED) } else { 2 }
    }

    /// What it is a part of.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Carries it out. On a fault: at which step.
    ///
    /// # Errors
    /// The step's index (the number of steps for the end of the operation) and its fault.
    ///
    /// # Safety
    /// `entry`'s input and output have the lengths that the collective says, in elements of the plan's size, and are not
    /// touched by anybody else meanwhile. The plan was verified for what the fabric can reach, and its scratch fits.
    pub unsafe fn run<F: Fabric + ?Sized>(
        &mut self,
        fabric: &mut F,
        entry: &Entry,
        reducer: &Reducer,
        patience: &mut Patience<'_>,
    ) -> Result<(), (usize, Fault)> {
        fabric.use_scratch(self.plan.scratch * self.plan.element_bytes, self.wander);
        // SAFETY: the caller's promise.
        unsafe { fabric.begin(entry, patience) }.map_err(|fault| (0, fault))?;
        self.bases[INPUT] = entry.input.at;
        self.bases[OUTPUT] = entry.output.at;
        self.bases[SCRATCH] = fabric.scratch().at;
        for peer in &self.loads {
            let raw = fabric.direct(*peer, Window::Scratch);
            self.bases[base_of(*peer)] = raw.map_or(std::ptr::null_mut(), |raw| raw.at);
        }
        for step in 0..self.acts.len() {
            // SAFETY: the verified plan keeps every step within the buffers whose addresses are in `bases`, and orders
            // whatever touches the same bytes.
            unsafe { self.act(step, fabric, reducer, patience) }.map_err(|fault| (step, fault))?;
        }
        fabric.end(patience).map_err(|fault| (self.acts.len(), fault))
    }

    /// # Safety
    /// As for `run`, with `bases` filled in by the steps before.
    #[inline]
    unsafe fn act<F: Fabric + ?Sized>(
        &mut self,
        step: usize,
        fabric: &mut F,
        reducer: &Reducer,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        let bases = &mut self.bases;
        let address = |at: &At, bases: &[*mut u8]| bases[at.base].wrapping_add(at.offset);
        // SAFETY: for all that follows, the caller's promise.
        unsafe {
            match &self.acts[step] {
                Act::Put { peer, from, bytes, to, signal } => {
                    fabric.put(*peer, address(from, bases), *bytes, *to, *signal, patience)
                }
                Act::Signal { peer } => fabric.signal(*peer, patience),
                Act::Wait { peer } => fabric.wait(*peer, patience),
                Act::Packet { peer, from, bytes } => fabric.packet(*peer, address(from, bases), *bytes, patience),
                Act::WaitPacket { peer } => {
                    bases[base_of(*peer) + 3] = fabric.wait_packet(*peer, patience)?.cast_mut();
                    Ok(())
                }
                Act::Expose { peer } => fabric.expose(*peer, patience),
                Act::Meet { peer, reached } => {
                    fabric.meet(*peer, patience)?;
                    for (index, window) in [(1, Window::Input), (2, Window::Output)] {
                        let raw = fabric.direct(*peer, window);
                        if reached[index - 1] && raw.is_none() {
                            let what = format!("its {window:?} is in none of its regions");
                            return Err(Fault::Protocol { rank: *peer, what });
                        }
                        bases[base_of(*peer) + index] = raw.map_or(std::ptr::null_mut(), |raw| raw.at);
                    }
                    Ok(())
                }
                Act::Copy { from, to, bytes, stores } => {
                    let (from, to) = (address(from, bases), address(to, bases));
                    // A broadcast's root may have one buffer for input and output.
                    if from != to {
                        copy::copy(to, from, *bytes, *stores);
                    }
                    Ok(())
                }
                Act::CopyFrom { peer, window, from, to, bytes, stores } => {
                    if bases[from.base].is_null() {
                        return fabric.copy_from(*peer, *window, from.offset, address(to, bases), *bytes);
                    }
                    copy::copy(address(to, bases), address(from, bases), *bytes, *stores);
                    Ok(())
                }
                Act::Reduce { from, to, targets, count, stores } => {
                    // Not filled in beforehand: for small operations that would be most of the work.
                    let mut sources = [const { MaybeUninit::<*const u8>::uninit() }; MAX_RANKS];
                    for (source, at) in sources.iter_mut().zip(from) {
                        source.write(address(at, bases).cast_const());
                    }
                    let sources = std::slice::from_raw_parts(sources.as_ptr().cast(), from.len().min(MAX_RANKS));
                    let to = [address(&to[0], bases), address(&to[1], bases)];
                    reducer.run(sources, &to[..*targets], *count, *stores);
                    Ok(())
                }
            }
        }
    }

    /// What a step does, in words: for errors.
    pub fn describe(&self, step: usize) -> String {
        match self.plan.programs[self.rank].get(step) {
            None => "the end of the operation".into(),
            Some(Step::Wait { from }) => format!("a signal of rank {from}"),
            Some(Step::WaitPacket { from }) => format!("the packet of rank {from}"),
            Some(Step::Meet { from }) => format!("the address of rank {from}'s buffers"),
            Some(Step::Put { to, .. }) => format!("room for data to rank {}", to.rank),
            Some(Step::Signal { to } | Step::Packet { to, .. } | Step::Expose { to }) => {
                format!("room for a signal to rank {to}")
            }
            Some(Step::Copy { from, .. }) => format!("a copy from rank {}", from.rank),
            Some(Step::Reduce { .. }) => "a reduction".into(),
        }
    }

    /// Whom a step needs.
    pub fn peer(&self, step: usize) -> Option<Rank> {
        match self.plan.programs[self.rank].get(step)? {
            Step::Wait { from } | Step::WaitPacket { from } | Step::Meet { from } => Some(*from),
            Step::Put { to, .. } => Some(to.rank),
            Step::Signal { to } | Step::Packet { to, .. } | Step::Expose { to } => Some(*to),
            Step::Copy { from, .. } => Some(from.rank),
            Step::Reduce { .. } => None,
        }
    }
}

/// FNV-1a over the whole plan, and where in the scratch it works.
fn tag(plan: &Plan, wander: bool) -> u32 {
    let config = bincode::config::standard();
    // What cannot be encoded cannot be compared either; there is nothing of the kind in these types.
    let bytes = bincode::serde::encode_to_vec((plan, wander), config).unwrap_or_default();
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn base_of(peer: Rank) -> usize {
    OWN + EACH * peer
}

fn place(rank: Rank, place: &Place, size: usize) -> At {
    let own = place.rank == rank;
    let base = match place.slice.buffer {
        Buffer::Input if own => INPUT,
        Buffer::Output if own => OUTPUT,
        Buffer::Scratch if own => SCRATCH,
        Buffer::Scratch => base_of(place.rank),
        Buffer::Input => base_of(place.rank) + 1,
        Buffer::Output => base_of(place.rank) + 2,
        Buffer::Packet(from) => base_of(from) + 3,
    };
    At { base, offset: place.slice.start * size }
}
