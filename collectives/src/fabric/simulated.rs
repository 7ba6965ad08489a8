//! A transport that does no more than the contract says, for tests: what leans on more breaks here.
//!
//! The ranks are threads of one process. Puts land late, in pieces and in any order, some by themselves and some only when
//! a signal that came after them is waited for; signals are seen late. When all have ended an operation, its half of
//! scratch is filled with rubbish. A put that nobody waits for, and a source that changes before it is flushed or its receiver
//! has waited for it, are faults. A rank can be made to die, and data of an older epoch to come in all the time.
//!
//! Decisions come from a seed, one sequence for each pair of ranks; only when a look happens is up to the threads.

#[cfg(test)]
mod tests;
mod wire;
mod world;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use self::wire::{Kind, Numbers};
use self::world::{State, World};
use crate::fabric::{Entry, Fabric, Raw, Target, Window};
use crate::fault::Fault;
use crate::patience::{Patience, Rest, Wait};
use crate::plan::{Rank, Reach};

/// What the ranks can do to each other, and what goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The same between any two. Nothing is too much.
    pub reach: Reach,
    /// Bytes of a half of scratch.
    pub scratch_bytes: usize,
    /// Puts land in pieces and in any order; otherwise whole and one after the other, but still late.
    pub reorder: bool,
    /// Signals, packets and exposes are seen some looks after they could be.
    pub delay: bool,
    /// Before each put comes one of the epoch before, of rubbish, for the same place.
    pub ghosts: bool,
    /// A rank that dies.
    pub tear_after: Option<Tear>,
}

/// When a rank dies: what it has put and not signalled lands in part or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tear {
    /// Which.
    pub rank: Rank,
    /// After so many calls of its fabric.
    pub calls: u64,
}

impl Default for Options {
    /// All that goes wrong but death, and everything can be reached.
    fn default() -> Self {
        let reach =
            Reach { load_scratch: true, copy_user: true, reduce_user: true, put_output: true, packet_bytes: 64 };
        Self { reach, scratch_bytes: 1 << 20, reorder: true, delay: true, ghosts: true, tear_after: None }
    }
}

/// One rank's end of a simulated transport.
#[derive(Debug)]
pub struct SimulatedFabric {
    rank: Rank,
    world: Arc<World>,
    options: Options,
    sequence: u64,
    tag: u32,
    /// Between `begin` and `end`.
    open: bool,
    broken: Option<Fault>,
    calls: u64,
}

/// A look at least so often.
const NAP: Duration = Duration::from_micros(200);

/// The fabrics of a group, by rank.
pub fn group(ranks: usize, seed: u64, options: Options) -> Vec<SimulatedFabric> {
    let world = Arc::new(World::new(ranks, seed, options));
    let fabric = |rank| SimulatedFabric {
        rank,
        world: Arc::clone(&world),
        options,
        sequence: 0,
        tag: 0,
        open: false,
        broken: None,
        calls: 0,
    };
    (0..ranks).map(fabric).collect()
}

impl SimulatedFabric {
    /// Pieces of older epochs that were turned away, by all ranks.
    pub fn ghosts(&self) -> u64 {
        self.state().ghosts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A rank that panicked leaves it whole: it is changed in steps that do not.
        self.world.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call of the fabric; `open` says whether it belongs inside an operation.
    fn call<T>(&mut self, open: bool, inside: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.calls += 1;
        if self.options.tear_after == Some(Tear { rank: self.rank, calls: self.calls }) {
            self.state().die(self.rank, "it died, as it was told to");
            self.broken = Some(Fault::System { what: "staying alive", why: "this rank was told to die".to_owned() });
        }
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if open != self.open {
            let why = if open { "no operation has begun" } else { "an operation has begun and not ended" };
            return Err(Fault::System { what: "a call of a fabric", why: why.to_owned() });
        }
        let done = inside(self);
        if let Err(fault) = &done {
            self.broken = Some(fault.clone());
        }
        self.world.moved.notify_all();
        done
    }

    /// Waits until `look` finds something. It looks once at a time, under the lock.
    fn until<T>(
        &self,
        mut wait: Wait,
        patience: &mut Patience<'_>,
        mut look: impl FnMut(&mut State) -> Result<Option<T>, Fault>,
    ) -> Result<T, Fault> {
        loop {
            let mut state = self.state();
            match look(&mut state) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(Fault::Lost { rank, how }) => return Err(patience.lost(rank, how)),
                Err(fault) => return Err(fault),
            }
            match patience.rest(&mut wait)? {
                Rest::Spin => {}
                Rest::Yield => {
                    drop(state);
                    std::thread::yield_now();
                }
                // Looks are what time is made of here.
                Rest::Sleep(at_most) => drop(self.world.moved.wait_timeout(state, at_most.min(NAP))),
            }
        }
    }

    /// Waits for a signal, packet or expose of `peer`, after which everything before it has landed.
    fn take(&mut self, kind: Kind, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        let (rank, sequence, tag) = (self.rank, self.sequence, self.tag);
        assert_ne!(rank, peer, "a rank is no peer of itself");
        self.call(true, |fabric| {
            fabric.until(Wait::on(peer), patience, |state| {
                state.check_tag(peer, sequence, tag)?;
                if state.look(peer, rank, kind, sequence)? {
                    state.consume(peer, rank, kind)?;
                    return Ok(Some(()));
                }
                state.check_coming(peer, rank, kind, sequence).map(|()| None)
            })
        })
    }

    fn release(&mut self, kind: Kind, peer: Rank) -> Result<(), Fault> {
        let (rank, sequence) = (self.rank, self.sequence);
        assert_ne!(rank, peer, "a rank is no peer of itself");
        self.call(true, |fabric| fabric.state().release(rank, peer, kind, sequence, &[]))
    }
}

impl Fabric for SimulatedFabric {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn reach(&self, _peer: Rank) -> Reach {
        self.options.reach
    }

    fn scratch_bytes(&self) -> usize {
        self.options.scratch_bytes
    }

    fn scratch(&self) -> Raw {
        self.state().seats[self.rank].half(self.sequence)
    }

    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(false, |fabric| {
            let rank = fabric.rank;
            (fabric.sequence, fabric.tag, fabric.open) = (entry.sequence, entry.tag, true);
            fabric.state().begin(rank, entry)?;
            fabric.world.moved.notify_all();
            fabric.until(Wait::default(), patience, |state| {
                let late = state.late(rank, entry.sequence);
                late.map_or(Ok(Some(())), |peer| state.check_lost(peer, entry.sequence - 2).map(|()| None))
            })
        })
    }

    fn end(&mut self, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(true, |fabric| {
            let (rank, sequence) = (fabric.rank, fabric.sequence);
            let mut state = fabric.state();
            for peer in 0..state.seats.len() {
                state.check_sources(rank, peer)?;
            }
            state.end(rank, sequence)
        })?;
        self.open = false;
        Ok(())
    }

    unsafe fn put(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        to: Target,
        signal: bool,
        _patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        let (rank, sequence) = (self.rank, self.sequence);
        assert_ne!(rank, peer, "a rank is no peer of itself");
        self.call(true, |fabric| {
            let mut state = fabric.state();
            // SAFETY: as the caller says.
            unsafe { state.put(rank, peer, sequence, (from, bytes), to) }?;
            if signal { state.release(rank, peer, Kind::Signal, sequence, &[]) } else { Ok(()) }
        })
    }

    fn signal(&mut self, peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.release(Kind::Signal, peer)
    }

    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.take(Kind::Signal, peer, patience)
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        let (rank, sequence, tag) = (self.rank, self.sequence, self.tag);
        self.call(true, |fabric| {
            let mut state = fabric.state();
            state.check_tag(peer, sequence, tag)?;
            state.look(peer, rank, Kind::Signal, sequence)
        })
    }

    unsafe fn packet(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        _patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        let (rank, sequence) = (self.rank, self.sequence);
        assert_ne!(rank, peer, "a rank is no peer of itself");
        self.call(true, |fabric| {
            let most = fabric.options.reach.packet_bytes;
            if bytes > most {
                return Err(Fault::System {
                    what: "sending a packet",
                    why: format!("{bytes} bytes of at most {most}"),
                });
            }
            let mut packet = vec![0; bytes];
            // SAFETY: readable, says the caller; `packet` is as long.
            unsafe { std::ptr::copy_nonoverlapping(from, packet.as_mut_ptr(), bytes) };
            fabric.state().release(rank, peer, Kind::Packet, sequence, &packet)
        })
    }

    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault> {
        let (rank, sequence) = (self.rank, self.sequence);
        match self.call(true, |fabric| Ok(fabric.state().packet(peer, rank, sequence)))? {
            // It was waited for before.
            Some(at) => Ok(at),
            None => {
                self.take(Kind::Packet, peer, patience)?;
                let at = self.state().packet(peer, rank, sequence);
                at.ok_or_else(|| Fault::System { what: "a packet", why: "it is not there".to_owned() })
            }
        }
    }

    fn expose(&mut self, peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        if !(self.options.reach.copy_user || self.options.reach.reduce_user) {
            return Err(Fault::System { what: "exposing memory", why: "nobody can reach it".to_owned() });
        }
        self.release(Kind::Expose, peer)
    }

    fn meet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.take(Kind::Expose, peer, patience)
    }

    fn direct(&self, peer: Rank, window: Window) -> Option<Raw> {
        let reach = self.options.reach;
        match window {
            Window::Scratch => reach.load_scratch.then(|| self.state().seats[peer].half(self.sequence)),
            _ if reach.reduce_user => self.state().met(peer, self.rank, self.sequence, window),
            _ => None,
        }
    }

    unsafe fn copy_from(
        &mut self,
        peer: Rank,
        window: Window,
        offset: usize,
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault> {
        let (rank, sequence, reach) = (self.rank, self.sequence, self.options.reach);
        self.call(true, |fabric| {
            let state = fabric.state();
            let memory = match window {
                Window::Scratch => reach.load_scratch.then(|| state.seats[peer].half(sequence)),
                _ if reach.copy_user => state.met(peer, rank, sequence, window),
                _ => None,
            };
            let inside = memory.filter(|all| offset.checked_add(bytes).is_some_and(|end| end <= all.bytes));
            let Some(memory) = inside else {
                let why = format!("{bytes} bytes at {offset} of the {window:?} of rank {peer} are not to be had");
                return Err(Fault::System { what: "copying from a peer", why });
            };
            // SAFETY: inside the peer's memory, which stays while it is in the operation, as was looked up under the lock
            // that it needs to end it; `to` is writable, says the caller.
            unsafe { std::ptr::copy_nonoverlapping(memory.at.wrapping_add(offset), to, bytes) };
            Ok(())
        })
    }

    fn flush(&mut self, peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        let rank = self.rank;
        self.call(true, |fabric| fabric.state().check_sources(rank, peer))
    }
}

impl Drop for SimulatedFabric {
    fn drop(&mut self) {
        let mut state = self.state();
        if self.open || self.broken.is_some() {
            state.die(self.rank, "it was dropped in an operation");
        } else {
            state.seats[self.rank].left = true;
        }
        drop(state);
        self.world.moved.notify_all();
    }
}

/// Numbers of a seed, different for each use of it.
fn numbers(seed: u64, use_of_it: u64) -> Numbers {
    let mut numbers = Numbers(seed ^ use_of_it.wrapping_mul(0xD1B5_4A32_D192_ED03));
    numbers.next();
    numbers
}
