//! Waits: for what peers send, and until what is refused for now is taken.

use std::time::Duration;

use super::peer::{Peer, owed};
use super::wire::Kind;
use super::{Data, OfiFabric};
use crate::fault::Fault;
use crate::patience::{Patience, Rest, Wait};
use crate::plan::Rank;

/// Looks at the completion queue that take as long as so many of a spinning wait.
const LOOK: u32 = 16;
/// Looks in vain before a rank asks whether a peer has ended an operation: most often the answer is on its way.
const ASK_AFTER: u32 = 20;
/// Sleeps get longer up to this.
const LONGEST_NAP: Duration = Duration::from_millis(1);

impl OfiFabric {
    /// Tries until it is done.
    pub(super) fn post(
        &mut self,
        peer: Rank,
        patience: &mut Patience<'_>,
        mut attempt: impl FnMut(&mut Self) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        if let Some(after) = self.peer(peer).left {
            return Err(gone(peer, after));
        }
        if attempt(self)? {
            return Ok(());
        }
        self.until(Some(peer), patience, |fabric| match fabric.peer(peer).left {
            Some(after) => Err(gone(peer, after)),
            None => attempt(fabric),
        })
    }

    /// Waits until the peer has ended the operation before the last one: its half may be written to.
    pub(super) fn gate(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if self.peer(peer).ended + 2 >= self.sequence {
            return Ok(());
        }
        let mut looks = 0;
        self.until(Some(peer), patience, |fabric| {
            looks += 1;
            if looks == ASK_AFTER {
                fabric.peer_mut(peer).owes |= owed::ASK;
                fabric.owing |= 1 << peer;
            }
            let to = fabric.peer(peer);
            match to.left {
                Some(after) => Err(gone(peer, after)),
                None => Ok(to.ended + 2 >= fabric.sequence),
            }
        })
    }

    /// Before a signal: what must have been delivered has been.
    pub(super) fn delivered(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if self.data == Data::None && self.peer(peer).puts > 0 {
            return self.until(Some(peer), patience, |fabric| Ok(fabric.peer(peer).puts == 0));
        }
        Ok(())
    }

    pub(super) fn send_signal(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.delivered(peer, patience)?;
        self.post(peer, patience, |fabric| fabric.send(peer, Kind::Signal, fabric.sequence))
    }

    /// Waits until `done`.
    pub(super) fn until(
        &mut self,
        awaited: Option<Rank>,
        patience: &mut Patience<'_>,
        mut done: impl FnMut(&mut Self) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut wait = awaited.map_or_else(Wait::default, Wait::on);
        let looks = (patience.spins() / LOOK).max(1);
        let mut nap = Duration::from_micros(20);
        loop {
            for _ in 0..looks {
                if done(self)? {
                    return Ok(());
                }
                if let Some(fault) = &self.lost {
                    return Err(fault.clone());
                }
                self.look()?;
            }
            let rest = patience.rest(&mut wait);
            // What is there already counts, whatever else has happened.
            self.look()?;
            if done(self)? {
                return Ok(());
            }
            match rest? {
                Rest::Spin => {}
                Rest::Yield => rustix::thread::sched_yield(),
                Rest::Sleep(at_most) => {
                    // No provider can be relied on to wake anybody.
                    sleep(nap.min(at_most));
                    nap = (nap * 2).min(LONGEST_NAP);
                }
            }
        }
    }

    /// Waits for something that only that peer can send.
    pub(super) fn until_from(
        &mut self,
        peer: Rank,
        patience: &mut Patience<'_>,
        there: impl Fn(&Peer) -> bool,
    ) -> Result<(), Fault> {
        if there(self.peer(peer)) {
            return Ok(());
        }
        self.until(Some(peer), patience, |fabric| {
            let from = fabric.peer(peer);
            match from.left {
                _ if there(from) => Ok(true),
                Some(after) => Err(gone(peer, after)),
                None => Ok(false),
            }
        })
    }
}

fn gone(rank: Rank, after: u64) -> Fault {
    Fault::Lost { rank, how: format!("it left after operation {after}") }
}

fn sleep(time: Duration) {
    let time = rustix::thread::Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    // Waking early is as good.
    let _ = rustix::thread::nanosleep(&time);
}
