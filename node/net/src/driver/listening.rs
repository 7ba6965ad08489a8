//! Where the peer listens, and listening again where that ended: a relay that went away comes back.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;

use super::{Driver, explain, jitter};
use crate::address::is_relayed;
use crate::backoff::Backoff;
use crate::event::NetEvent;

/// The addresses to listen on.
#[derive(Debug)]
pub(super) struct Listening {
    listeners: Vec<Listener>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Listener {
    address: Multiaddr,
    /// `None` while it waits to be tried again.
    id: Option<ListenerId>,
    failures: u32,
    retry: Option<Instant>,
    /// Whether it has said where it listens.
    settled: bool,
}

impl Listening {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { listeners: Vec::new(), backoff }
    }

    pub(super) fn add(&mut self, address: Multiaddr, id: ListenerId) {
        // A relay may take long to answer, and nobody should wait for it.
        let settled = is_relayed(&address);
        self.listeners.push(Listener { address, id: Some(id), failures: 0, retry: None, settled });
    }

    pub(super) fn has(&self, address: &Multiaddr) -> bool {
        self.listeners.iter().any(|listener| listener.address == *address)
    }

    /// Relays that are listened through, or tried.
    pub(super) fn circuits(&self) -> usize {
        self.listeners.iter().filter(|listener| is_relayed(&listener.address)).count()
    }

    /// Whether every listener has said where it listens, or failed.
    pub(super) fn is_settled(&self) -> bool {
        self.listeners.iter().all(|listener| listener.settled)
    }

    pub(super) fn works(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.id == Some(id)) {
            listener.settled = true;
            listener.failures = 0;
        }
    }

    /// A listener ended. Answers what it listened on, and when that is tried again.
    pub(super) fn ended(&mut self, id: ListenerId, now: Instant, jitter: f64) -> Option<(Multiaddr, Duration)> {
        let listener = self.listeners.iter_mut().find(|listener| listener.id == Some(id))?;
        listener.failures = listener.failures.saturating_add(1);
        let wait = self.backoff.wait(listener.failures, jitter);
        listener.settled = true;
        listener.id = None;
        listener.retry = Some(now + wait);
        Some((listener.address.clone(), wait))
    }

    fn due(&mut self, now: Instant) -> impl Iterator<Item = &mut Listener> {
        self.listeners.iter_mut().filter(move |listener| listener.retry.is_some_and(|at| at <= now))
    }
}

impl Driver {
    /// Listens again where it is time to.
    pub(super) fn listen_due(&mut self, now: Instant) {
        let backoff = self.listening.backoff;
        for listener in self.listening.due(now) {
            match self.swarm.listen_on(listener.address.clone()) {
                Ok(id) => {
                    listener.id = Some(id);
                    listener.retry = None;
                }
                Err(error) => {
                    listener.failures = listener.failures.saturating_add(1);
                    listener.retry = Some(now + backoff.wait(listener.failures, jitter()));
                    let (addr, why) = (listener.address.to_string(), explain::chain(&error));
                    self.outbox.push(NetEvent::ListenFailed { addr, why });
                }
            }
        }
    }

    /// Listens through a relay, unless that is done already.
    pub(super) fn listen_through(&mut self, circuit: Multiaddr) {
        if self.listening.has(&circuit) {
            return;
        }
        match self.swarm.listen_on(circuit.clone()) {
            Ok(id) => self.listening.add(circuit, id),
            Err(error) => {
                let (addr, why) = (circuit.to_string(), explain::chain(&error));
                self.outbox.push(NetEvent::ListenFailed { addr, why });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_is_tried_again() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(8) };
        let (mut listening, now) = (Listening::new(backoff), Instant::now());
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
        let id = ListenerId::next();
        listening.add(address.clone(), id);
        assert!(!listening.is_settled());
        listening.works(id);
        assert!(listening.is_settled() && listening.circuits() == 0);
        assert_eq!(listening.ended(id, now, 0.5), Some((address.clone(), Duration::from_secs(1))));
        assert_eq!(listening.ended(id, now, 0.5), None, "it ended already");
        assert_eq!(listening.due(now).count(), 0);
        assert_eq!(listening.due(now + Duration::from_secs(1)).count(), 1);
        assert!(listening.has(&address));
    }
}
