//! Finding more peers of the run, and relays for a peer that nobody can reach.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::kad::store::RecordStore;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, kad};

use super::{Driver, jitter};
use crate::address::with_peer;
use crate::behaviour::ADDRESSES;
use crate::event::Nat;

/// Peers remembered as tried, or as strangers.
const MOST: usize = 4096;
/// How long one that could not be reached is left alone, and one that is not of this run.
const AGAIN: Duration = Duration::from_secs(30);
const STRANGER: Duration = Duration::from_secs(600);
/// Relays remembered, and relays listened through.
const RELAYS: usize = 16;
const CIRCUITS: usize = 2;
/// After news, how soon to search: several peers are often news together.
const SOON: Duration = Duration::from_millis(200);

/// What discovery knows.
#[derive(Debug, Default)]
pub(super) struct Finding {
    /// When to search; `None` before there is anybody to ask.
    next: Option<Instant>,
    /// Until when to leave peers alone.
    alone: HashMap<PeerId, Instant>,
    /// Peers of another run, and until when that is believed.
    strangers: HashMap<PeerId, Instant>,
    /// Relays, by peer.
    relays: HashMap<PeerId, Multiaddr>,
    providing: bool,
}

impl Finding {
    /// There is somebody new to ask.
    pub(super) fn soon(&mut self, now: Instant) {
        let soon = now + SOON;
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
    }

    /// A peer is not of this run.
    pub(super) fn stranger(&mut self, peer: PeerId, now: Instant) {
        if self.strangers.len() < MOST {
            self.strangers.insert(peer, now + STRANGER);
        }
    }

    pub(super) fn is_stranger(&self, peer: &PeerId, now: Instant) -> bool {
        self.strangers.get(peer).is_some_and(|until| *until > now)
    }

    /// A peer carries traffic for others.
    pub(super) fn relay(&mut self, peer: PeerId, address: Multiaddr) {
        if self.relays.len() < RELAYS || self.relays.contains_key(&peer) {
            self.relays.insert(peer, address);
        }
    }

    /// Whether to try a peer now; answers yes once in a while.
    fn may_try(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.is_stranger(&peer, now) || self.alone.get(&peer).is_some_and(|until| *until > now) {
            return false;
        }
        if self.alone.len() >= MOST {
            self.alone.retain(|_, until| *until > now);
        }
        self.alone.len() < MOST && self.alone.insert(peer, now + AGAIN).is_none_or(|until| until <= now)
    }

    /// Forgets what is no longer so.
    fn expire(&mut self, now: Instant) {
        self.alone.retain(|_, until| *until > now);
        self.strangers.retain(|_, until| *until > now);
    }
}

impl Driver {
    /// Searches, when it is time to.
    pub(super) fn find(&mut self, now: Instant) {
        if self.finding.next.is_none_or(|next| next > now) {
            return;
        }
        let every = self.settings.raw.pace.discover;
        self.finding.next = Some(now + every.mul_f64(0.75 + 0.5 * jitter()));
        self.finding.expire(now);
        let key = kad::RecordKey::new(&self.settings.names.providers);
        let kad = &mut self.swarm.behaviour_mut().kad;
        if !self.finding.providing {
            // The own record is renewed by Kademlia from then on.
            self.finding.providing = kad.start_providing(key.clone()).is_ok();
        }
        if self.roster.len() < self.settings.raw.wanted_peers as usize {
            kad.get_providers(key);
            kad.get_closest_peers(self.me);
            // Somewhere else each time, for peers far from this one.
            kad.get_closest_peers(PeerId::random());
        }
        self.find_relays();
    }

    /// Connects with a peer that was found, if more are wanted.
    pub(super) fn consider(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if peer == self.me
            || self.roster.is_connected(&peer)
            || self.roster.len() >= self.settings.raw.wanted_peers as usize
            || !self.finding.may_try(peer, now)
        {
            return;
        }
        let addresses = addresses.into_iter().take(ADDRESSES.get()).collect();
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "a peer that was found is not dialled");
        }
    }

    /// A peer that nobody can reach listens through peers that everybody can.
    fn find_relays(&mut self) {
        if self.nat != Nat::Private {
            return;
        }
        let relays: Vec<_> = self.finding.relays.iter().map(|(peer, address)| with_peer(address, *peer)).collect();
        for relay in relays {
            if self.listening.circuits() >= CIRCUITS {
                return;
            }
            self.listen_through(relay.with(Protocol::P2pCircuit));
        }
    }

    /// A peer wants it known that it provides something. Only who takes part in this run is kept, so the table cannot be
    /// filled with anything else.
    fn keep(&mut self, record: kad::ProviderRecord) {
        if record.key != kad::RecordKey::new(&self.settings.names.providers) {
            return;
        }
        if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add_provider(record) {
            tracing::debug!(?error, "a provider is not kept");
        }
    }

    /// What Kademlia found.
    pub(super) fn on_kad(&mut self, event: kad::Event, now: Instant) {
        match event {
            kad::Event::OutboundQueryProgressed { result: kad::QueryResult::GetClosestPeers(result), .. } => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                for found in peers {
                    self.consider(found.peer_id, found.addrs, now);
                }
            }
            kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
                ..
            } => {
                // Their addresses are in the query that is still going on, where dialling looks for them.
                for peer in providers {
                    self.consider(peer, Vec::new(), now);
                }
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                self.keep(record);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_tried_once_in_a_while_and_a_stranger_later_still() {
        let (mut finding, now, peer) = (Finding::default(), Instant::now(), PeerId::random());
        assert!(finding.may_try(peer, now));
        assert!(!finding.may_try(peer, now));
        assert!(finding.may_try(peer, now + AGAIN));
        finding.stranger(peer, now);
        assert!(!finding.may_try(peer, now + AGAIN * 3));
        assert!(finding.is_stranger(&peer, now) && !finding.is_stranger(&peer, now + STRANGER));
        finding.expire(now + STRANGER);
        assert!(finding.strangers.is_empty() && finding.alone.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut finding, now) = (Finding::default(), Instant::now());
        for _ in 0..MOST {
            assert!(finding.may_try(PeerId::random(), now));
        }
        assert!(!finding.may_try(PeerId::random(), now), "full");
        assert!(finding.may_try(PeerId::random(), now + AGAIN), "old ones make room");
    }
}
