//! Several hosts: shared memory to the ranks of one's own, TCP to all others.
//!
//! Both fabrics know all ranks of the group; each peer is reached by one of them. While this rank waits for a peer of its
//! host, data to and from other hosts moves on.

use super::shm::ShmFabric;
use super::tcp::TcpFabric;
use super::{Entry, Fabric, Raw, Target, Window};
use crate::fault::Fault;
use crate::patience::{Patience, Rest, Wait};
use crate::plan::{Rank, Reach};

/// Shared memory near, TCP far.
#[derive(Debug)]
pub struct MixedFabric {
    near: ShmFabric,
    far: TcpFabric,
    /// Ranks of this host.
    local: Vec<bool>,
}

impl MixedFabric {
    /// Of two fabrics for the same ranks, in the same half sizes. `local[rank]` says who is on this host: only those are
    /// connected in `near`, and only the others are reached through `far`.
    ///
    /// Scratch is that of `near`: the far fabric writes there too.
    pub fn new(near: ShmFabric, far: TcpFabric, local: Vec<bool>) -> Self {
        Self { near, far, local }
    }

    fn of(&mut self, peer: Rank) -> &mut dyn Fabric {
        if self.local[peer] { &mut self.near } else { &mut self.far }
    }

    /// Waits for `there`, while the other hosts' traffic moves on.
    fn until(
        &mut self,
        peer: Rank,
        patience: &mut Patience<'_>,
        mut there: impl FnMut(&mut ShmFabric) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut wait = Wait::on(peer);
        loop {
            for _ in 0..patience.spins().min(LOOKS) {
                if there(&mut self.near)? {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            self.far.progress()?;
            match patience.rest(&mut wait) {
                Ok(Rest::Spin) => {}
                Ok(Rest::Yield | Rest::Sleep(_)) => rustix::thread::sched_yield(),
                Err(fault) => return if there(&mut self.near)? { Ok(()) } else { Err(fault) },
            }
        }
    }
}

/// Looks at memory between looks at the network, which cost a call of the system each.
const LOOKS: u32 = 200;

impl Fabric for MixedFabric {
    fn name(&self) -> &'static str {
        "shm+tcp"
    }

    fn reach(&self, peer: Rank) -> Reach {
        if self.local[peer] { self.near.reach(peer) } else { self.far.reach(peer) }
    }

    fn publish_regions(&self) {
        self.near.publish_regions();
    }

    fn scratch_bytes(&self) -> usize {
        self.near.scratch_bytes().min(self.far.scratch_bytes())
    }

    fn use_scratch(&mut self, bytes: usize, wander: bool) {
        self.near.use_scratch(bytes, wander);
    }

    fn scratch(&self) -> Raw {
        self.near.scratch()
    }

    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe {
            self.near.begin(entry, patience)?;
            self.far.begin_at(entry, self.near.scratch(), patience)
        }
    }

    fn end(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.far.end(patience)?;
        self.near.end(patience)
    }

    unsafe fn put(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        to: Target,
        signal: bool,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { self.of(peer).put(peer, from, bytes, to, signal, patience) }
    }

    fn signal(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.of(peer).signal(peer, patience)
    }

    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if self.local[peer] {
            self.until(peer, patience, |near| near.poll(peer))?;
        }
        self.of(peer).wait(peer, patience)
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        self.of(peer).poll(peer)
    }

    unsafe fn packet(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { self.of(peer).packet(peer, from, bytes, patience) }
    }

    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault> {
        if self.local[peer] {
            self.until(peer, patience, |near| Ok(near.has_packet(peer)))?;
        }
        self.of(peer).wait_packet(peer, patience)
    }

    fn expose(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.of(peer).expose(peer, patience)
    }

    fn meet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if self.local[peer] {
            self.until(peer, patience, |near| Ok(near.is_exposed(peer)))?;
        }
        self.of(peer).meet(peer, patience)
    }

    fn direct(&self, peer: Rank, window: Window) -> Option<Raw> {
        if self.local[peer] { self.near.direct(peer, window) } else { self.far.direct(peer, window) }
    }

    unsafe fn copy_from(
        &mut self,
        peer: Rank,
        window: Window,
        offset: usize,
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { self.of(peer).copy_from(peer, window, offset, to, bytes) }
    }

    fn flush(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.of(peer).flush(peer, patience)
    }
}
