//! Addresses to be connected to, and when to try which. Pure: time and chance are arguments.

use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::address::peer_in;
use crate::backoff::Backoff;

/// Most addresses kept; further ones that may be given up are refused.
const MOST: usize = 512;
/// Most dials going on at once.
const DIALLING: usize = 32;

/// How long an address is held on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For ever: a bootstrap peer.
    Endless,
    /// Until this many tries in a row have failed.
    Tries(u32),
}

/// The addresses.
#[derive(Debug)]
pub(crate) struct Targets {
    targets: Vec<Target>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Target {
    address: Multiaddr,
    patience: Patience,
    /// Since it was last reached.
    failures: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Dialling(ConnectionId),
    /// With whom; `member` once that peer has proved to be of this run.
    Connected {
        peer: PeerId,
        member: bool,
    },
}

/// An address that was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) address: Multiaddr,
    pub(crate) attempts: u32,
    pub(crate) next_try_in: Option<Duration>,
}

impl Targets {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { targets: Vec::new(), backoff }
    }

    /// Holds on to an address, to be tried at once. One that is there already is tried at once again.
    pub(crate) fn add(&mut self, address: Multiaddr, patience: Patience, now: Instant) {
        if let Some(known) = self.targets.iter_mut().find(|target| target.address == address) {
            if let State::Waiting(at) = &mut known.state {
                *at = now;
            }
            if patience == Patience::Endless {
                known.patience = patience;
            }
        } else if self.targets.len() < MOST || patience == Patience::Endless {
            self.targets.push(Target { address, patience, failures: 0, state: State::Waiting(now) });
        }
    }

    /// Lets go of an address.
    pub(crate) fn forget(&mut self, address: &Multiaddr) {
        self.targets.retain(|target| target.address != *address);
    }

    /// Addresses to try now. Those of peers that are connected anyway are left out, and watched.
    pub(crate) fn due(&mut self, now: Instant, is_member: impl Fn(&PeerId) -> bool) -> Vec<Multiaddr> {
        let dialling = self.targets.iter().filter(|target| matches!(target.state, State::Dialling(_))).count();
        let mut due = Vec::new();
        for target in &mut self.targets {
            if !matches!(target.state, State::Waiting(at) if at <= now) {
                continue;
            }
            match peer_in(&target.address) {
                Some(peer) if is_member(&peer) => {
                    target.failures = 0;
                    target.state = State::Connected { peer, member: true };
                }
                _ if dialling + due.len() < DIALLING => due.push(target.address.clone()),
                _ => {}
            }
        }
        due
    }

    /// An address is being dialled.
    pub(crate) fn dialling(&mut self, address: &Multiaddr, connection: ConnectionId) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.address == *address) {
            target.state = State::Dialling(connection);
        }
    }

    /// It cannot be dialled just now, through no fault of its own.
    pub(crate) fn postpone(&mut self, address: &Multiaddr, now: Instant) {
        let wait = self.backoff.first;
        if let Some(target) = self.targets.iter_mut().find(|target| target.address == *address) {
            target.state = State::Waiting(now + wait);
        }
    }

    /// Its dial failed before there was a connection id.
    pub(crate) fn refused(&mut self, address: &Multiaddr, now: Instant, jitter: f64) -> Option<Failure> {
        let index = self.targets.iter().position(|target| target.address == *address)?;
        Some(self.fail(index, now, jitter))
    }

    /// A dial failed; `None` where it was not one of these addresses.
    pub(crate) fn failed(&mut self, connection: ConnectionId, now: Instant, jitter: f64) -> Option<Failure> {
        let index = self.targets.iter().position(|target| target.state == State::Dialling(connection))?;
        Some(self.fail(index, now, jitter))
    }

    /// A dial led to a peer.
    pub(crate) fn reached(&mut self, connection: ConnectionId, peer: PeerId) {
        for target in &mut self.targets {
            if target.state == State::Dialling(connection) {
                target.state = State::Connected { peer, member: false };
            }
        }
    }

    /// A peer proved to be a member.
    pub(crate) fn admitted(&mut self, peer: PeerId) {
        for target in &mut self.targets {
            match &mut target.state {
                State::Connected { peer: at, member } if *at == peer => {
                    *member = true;
                    target.failures = 0;
                }
                _ => {}
            }
        }
    }

    /// A peer is gone. Its addresses are tried again; where it never proved to be a member, they count as not reached.
    pub(crate) fn lost(&mut self, peer: PeerId, now: Instant, mut jitter: impl FnMut() -> f64) -> Vec<Failure> {
        let mut failures = Vec::new();
        for index in (0..self.targets.len()).rev() {
            match self.targets[index].state {
                State::Connected { peer: at, member: true } if at == peer => {
                    let wait = self.backoff.wait(1, jitter());
                    self.targets[index].state = State::Waiting(now + wait);
                }
                State::Connected { peer: at, member: false } if at == peer => {
                    failures.push(self.fail(index, now, jitter()));
                }
                _ => {}
            }
        }
        failures
    }

    fn fail(&mut self, index: usize, now: Instant, jitter: f64) -> Failure {
        let target = &mut self.targets[index];
        target.failures = target.failures.saturating_add(1);
        let attempts = target.failures;
        let next_try_in = match target.patience {
            Patience::Tries(most) if attempts >= most => None,
            _ => Some(self.backoff.wait(attempts, jitter)),
        };
        let address = target.address.clone();
        match next_try_in {
            Some(wait) => target.state = State::Waiting(now + wait),
            None => {
                self.targets.swap_remove(index);
            }
        }
        Failure { address, attempts, next_try_in }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    /// When the next address is due.
    fn next(targets: &Targets) -> Option<Instant> {
        let waiting = targets.targets.iter().filter_map(|target| match target.state {
            State::Waiting(at) => Some(at),
            _ => None,
        });
        waiting.min()
    }

    fn targets() -> Targets {
        Targets::new(Backoff { first: SECOND, max: SECOND * 60 })
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address")
    }

    #[test]
    fn a_dead_address_is_tried_for_ever_ever_more_rarely() {
        let (mut targets, mut now) = (targets(), Instant::now());
        targets.add(address(1), Patience::Endless, now);
        let mut waits = Vec::new();
        for attempt in 1..=10 {
            assert_eq!(targets.due(now, |_| false), [address(1)]);
            targets.dialling(&address(1), id(attempt));
            assert!(targets.due(now, |_| false).is_empty(), "it is being dialled");
            let failure = targets.failed(id(attempt), now, 0.5).expect("ours");
            assert_eq!(failure.attempts as usize, attempt);
            let wait = failure.next_try_in.expect("endless");
            assert!(targets.due(now + wait - SECOND / 1000, |_| false).is_empty());
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(next(&targets), Some(now));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn others_are_given_up() {
        let (mut targets, now) = (targets(), Instant::now());
        targets.add(address(1), Patience::Tries(2), now);
        targets.dialling(&address(1), id(1));
        assert!(targets.failed(id(1), now, 0.5).expect("ours").next_try_in.is_some());
        assert_eq!(targets.refused(&address(1), now, 0.5).expect("ours").next_try_in, None);
        assert_eq!(next(&targets), None);
        assert_eq!(targets.failed(id(7), now, 0.5), None, "not ours");
    }

    #[test]
    fn a_lost_peer_is_tried_again_soon_and_a_stranger_counts_as_a_failure() {
        let (mut targets, now, peer) = (targets(), Instant::now(), PeerId::random());
        targets.add(address(1), Patience::Endless, now);
        targets.dialling(&address(1), id(1));
        targets.failed(id(1), now, 0.5);
        targets.dialling(&address(1), id(2));
        targets.reached(id(2), peer);
        let failures = targets.lost(peer, now, || 0.5);
        assert_eq!(failures.len(), 1);
        assert_eq!((failures[0].attempts, failures[0].next_try_in), (2, Some(SECOND * 2)));
        targets.dialling(&address(1), id(3));
        targets.reached(id(3), peer);
        targets.admitted(peer);
        assert!(targets.lost(peer, now, || 0.5).is_empty());
        assert_eq!(next(&targets), Some(now + SECOND));
    }

    #[test]
    fn the_address_of_a_connected_peer_is_not_dialled() {
        let (mut targets, now, peer) = (targets(), Instant::now(), PeerId::random());
        let full = address(1).with_p2p(peer).expect("no peer yet");
        targets.add(full.clone(), Patience::Endless, now);
        assert!(targets.due(now, |at| *at == peer).is_empty());
        assert!(targets.lost(peer, now, || 0.5).is_empty());
        assert_eq!(targets.due(now + SECOND, |_| false), std::slice::from_ref(&full));
        targets.forget(&full);
        assert_eq!(next(&targets), None);
    }

    #[test]
    fn the_list_is_bounded_but_for_bootstrap_peers() {
        let (mut targets, now) = (targets(), Instant::now());
        for port in 0..2000 {
            targets.add(address(port), Patience::Tries(1), now);
        }
        assert_eq!(targets.targets.len(), MOST);
        targets.add(address(3000), Patience::Endless, now);
        assert_eq!(targets.targets.len(), MOST + 1);
        assert_eq!(targets.due(now, |_| false).len(), DIALLING);
    }
}
