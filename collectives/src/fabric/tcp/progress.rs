//! How calls of the fabric move data, wait, and give up.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::frame::Kind;
use super::inbox::Inbox;
use super::outbox::Item;
use super::{Peer, TcpFabric};
use crate::fabric::Target;
use crate::fault::Fault;
use crate::patience::{Patience, Rest, Wait};
use crate::plan::Rank;

/// A look is a call of the system: so many of memory's take as long.
const LOOK: u32 = 32;
/// Connections on which nothing comes are looked at once in so many looks.
const SELDOM: u32 = 16;
/// What a lost peer has sent last is found in so many looks, or not at all.
const LAST_LOOKS: u32 = 1000;

impl TcpFabric {
    /// Runs a call: nothing after a fault, and what a fault means for others.
    #[inline]
    pub(super) fn call<T>(
        &mut self,
        patience: &mut Patience<'_>,
        inside: impl FnOnce(&mut Self, &mut Patience<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if !self.usable {
            return Err(self.unusable());
        }
        match inside(self, patience) {
            Ok(done) => Ok(done),
            Err(fault) => Err(self.give_up(fault, Some(patience))),
        }
    }

    #[cold]
    pub(super) fn unusable(&self) -> Fault {
        let idle = || Fault::System { what: "a call of a fabric", why: "no operation has begun".to_owned() };
        self.broken.clone().unwrap_or_else(idle)
    }

    /// From now on nothing is received, and every call fails with that fault.
    #[cold]
    pub(super) fn give_up(&mut self, fault: Fault, patience: Option<&mut Patience<'_>>) -> Fault {
        let fault = self.last_words(fault);
        let fault = match (fault, patience) {
            (Fault::Lost { rank, how }, Some(patience)) => patience.lost(rank, how),
            (fault, _) => fault,
        };
        if let Fault::Mismatch { rank, .. } = fault {
            self.tell(rank, Kind::Refuse, Instant::now());
        }
        self.usable = false;
        self.broken.get_or_insert(fault).clone()
    }

    /// Why a peer is lost, if it has said so: that may be still to be read.
    fn last_words(&mut self, fault: Fault) -> Fault {
        let Fault::Lost { rank, .. } = fault else {
            return fault;
        };
        for _ in 0..LAST_LOOKS {
            match self.usable.then(|| self.look_at(rank, true)) {
                Some(Ok(())) if self.warm & (1 << rank) != 0 => {}
                Some(Err(reason @ Fault::Mismatch { .. })) => return reason,
                _ => break,
            }
        }
        fault
    }

    /// Sends a frame of nothing but a header on every connection that is between frames and takes it in time. Where one
    /// does not, the peer notices by its end.
    pub(super) fn tell(&self, rank: Rank, kind: Kind, until: Instant) {
        let Some(peer) = self.peers.get(rank).and_then(Option::as_ref) else {
            return;
        };
        let wire = self.here.header(kind, Target::Scratch(0), 0, 0).encode();
        for (lane, stream) in peer.streams.iter().enumerate() {
            while peer.outbox.lane_is_idle(lane) {
                let sent = send(stream, &wire, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                let left = until.saturating_duration_since(Instant::now());
                if sent != Err(Errno::AGAIN) || left.is_zero() {
                    break;
                }
                let _ = wait_for(&mut [PollFd::new(stream, PollFlags::OUT)], left);
            }
        }
    }

    pub(super) fn peer(&mut self, rank: Rank) -> &mut Peer {
        match self.peers.get_mut(rank) {
            Some(Some(peer)) => peer,
            _ => panic!("rank {rank} is no peer of rank {}", self.rank),
        }
    }

    /// Sends something to that peer, or queues it.
    ///
    /// # Safety
    /// A put's memory stays readable until it is flushed or the operation ends.
    pub(super) unsafe fn send(&mut self, rank: Rank, item: Item) -> Result<(), Fault> {
        let here = self.here;
        let peer = self.peer(rank);
        // SAFETY: this put, as the caller says; what is queued was put in this operation, which has not ended, and not
        // flushed.
        unsafe { peer.outbox.send(item, &peer.streams, &here) }?;
        let idle = peer.outbox.is_idle();
        self.sending = self.sending & !(1 << rank) | u64::from(!idle) << rank;
        Ok(())
    }

    /// Sends what is queued for that peer as far as its connections take it.
    fn pump(&mut self, rank: Rank) -> Result<(), Fault> {
        let here = self.here;
        let peer = self.peer(rank);
        // SAFETY: what is queued was put in this operation, which has not ended, and not flushed.
        unsafe { peer.outbox.pump(&peer.streams, &here) }?;
        let idle = peer.outbox.is_idle();
        self.sending = self.sending & !(1 << rank) | u64::from(!idle) << rank;
        Ok(())
    }

    fn pump_all(&mut self) -> Result<(), Fault> {
        let mut sending = self.sending;
        while sending != 0 {
            self.pump(sending.trailing_zeros() as Rank)?;
            sending &= sending - 1;
        }
        Ok(())
    }

    /// Looks at the connections of one peer: the first, and others where something may be, or all. Whether something came
    /// is then in `warm`.
    fn look_at(&mut self, rank: Rank, all: bool) -> Result<(), Fault> {
        let here = self.here;
        let Some(Some(Peer { streams, inbox, .. })) = self.peers.get_mut(rank) else {
            return Ok(());
        };
        let mut warm = false;
        for (lane, stream) in streams.iter().enumerate() {
            if lane == 0 || all || inbox.is_warm(lane) {
                // SAFETY: calls that get here have an operation open, which `here` is.
                warm |= unsafe { inbox.receive(lane, stream, &here) }?;
            }
        }
        self.warm = self.warm & !(1 << rank) | u64::from(warm) << rank;
        Ok(())
    }

    /// Looks at all connections, and sends what is queued.
    pub(super) fn look_around(&mut self) -> Result<(), Fault> {
        self.pump_all()?;
        (0..self.peers.len()).try_for_each(|rank| self.look_at(rank, true))
    }

    /// Looks where something is most likely to happen.
    pub(super) fn look(&mut self, awaited: Option<Rank>) -> Result<(), Fault> {
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(SELDOM) {
            return self.look_around();
        }
        self.pump_all()?;
        let mut where_to = self.warm | awaited.map_or(0, |rank| 1 << rank);
        while where_to != 0 {
            self.look_at(where_to.trailing_zeros() as Rank, false)?;
            where_to &= where_to - 1;
        }
        Ok(())
    }

    /// Waits until `done`, above all for something from `awaited`.
    pub(super) fn until(
        &mut self,
        awaited: Option<Rank>,
        patience: &mut Patience<'_>,
        mut done: impl FnMut(&mut Self) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut wait = awaited.map_or_else(Wait::default, Wait::on);
        let looks = (patience.spins() / LOOK).max(1);
        loop {
            for _ in 0..looks {
                if done(self)? {
                    return Ok(());
                }
                self.look(awaited)?;
            }
            self.look_around()?;
            if done(self)? {
                return Ok(());
            }
            match patience.rest(&mut wait)? {
                Rest::Spin => {}
                Rest::Yield => std::thread::yield_now(),
                Rest::Sleep(at_most) => self.sleep(at_most)?,
            }
        }
    }

    /// Sleeps until a socket has something or takes something.
    fn sleep(&mut self, at_most: Duration) -> Result<(), Fault> {
        let mut sockets = Vec::new();
        for peer in self.peers.iter().flatten() {
            let queued = !peer.outbox.is_idle();
            for (lane, stream) in peer.streams.iter().enumerate() {
                let mut events = PollFlags::empty();
                events.set(PollFlags::IN, peer.inbox.listens(lane));
                events.set(PollFlags::OUT, queued && !peer.outbox.lane_is_idle(lane));
                if !events.is_empty() {
                    sockets.push(PollFd::new(stream, events));
                }
            }
        }
        wait_for(&mut sockets, at_most)
    }

    /// Waits for what `there` takes from the peer's inbox.
    pub(super) fn await_inbox<T>(
        &mut self,
        rank: Rank,
        patience: &mut Patience<'_>,
        there: impl Fn(&mut Inbox) -> Option<T>,
    ) -> Result<T, Fault> {
        // What most waits are: nothing to be sent, nobody else to be heard, and a small frame that comes soon.
        if self.sending == 0 && self.warm & !(1 << rank) == 0 {
            let Self { peers, here, .. } = self;
            let Some(Some(Peer { streams, inbox, .. })) = peers.get_mut(rank) else {
                panic!("rank {rank} is no peer of rank {}", self.rank);
            };
            for _ in 0..SELDOM {
                if let Some(found) = there(inbox) {
                    return Ok(found);
                }
                if !inbox.listens(0) {
                    break;
                }
                // SAFETY: calls that get here have an operation open, which `here` is.
                unsafe { inbox.receive(0, &streams[0], here) }?;
            }
        }
        let mut found = None;
        self.until(Some(rank), patience, |fabric| {
            let inbox = &mut fabric.peer(rank).inbox;
            found = there(inbox);
            match inbox.left_after {
                _ if found.is_some() => Ok(true),
                Some(after) => Err(inbox.lost(format!("it left after operation {after}"))),
                None => Ok(false),
            }
        })?;
        found.ok_or_else(|| Fault::System { what: "a wait", why: "it ended without what it was for".to_owned() })
    }

    /// Waits until another thing can be queued for that peer.
    pub(super) fn room(&mut self, rank: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if self.peer(rank).outbox.has_room() {
            return Ok(());
        }
        self.until(None, patience, |fabric| Ok(fabric.peer(rank).outbox.has_room()))
    }

    pub(super) fn cannot<T>(&self, what: &'static str) -> Result<T, Fault> {
        Err(Fault::System { what, why: "TCP does not reach the memory of a peer".to_owned() })
    }
}

/// Sleeps until one of the sockets is ready.
fn wait_for(sockets: &mut [PollFd<'_>], at_most: Duration) -> Result<(), Fault> {
    let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    match poll(sockets, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(Fault::System { what: "waiting for connections", why: errno.to_string() }),
    }
}
