//! What the swarm says, and what follows from it.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::{DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, autonat, gossipsub, identify, mdns, ping, relay};

use super::{Driver, explain, jitter};
use crate::address::{is_relayed, is_worth_telling, peer_in, with_peer, without_peer};
use crate::behaviour::{ADDRESSES, BehaviourEvent};
use crate::event::{GossipTicket, Nat, NetEvent, Verdict};
use crate::identity::key_of_peer;
use crate::roster::Left;

/// Probes that must fail, with none that succeeds, before a peer takes itself for unreachable.
const FAILED_PROBES: u32 = 3;
/// Longest text of a stranger's that is passed on.
const SPEAKS: usize = 128;

impl Driver {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>, now: Instant) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let address = remote_address(peer_id, &endpoint);
                self.targets.reached(connection_id, peer_id);
                if self.roster.add(peer_id, connection_id, address, endpoint.is_dialer(), now)
                    && let Some(link) = self.roster.link(&peer_id)
                {
                    self.outbox.push(NetEvent::Direct { peer: link.peer, address: link.address });
                }
                self.links_changed();
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, num_established, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "a connection ended");
                // A process that was killed and came back at once has a new connection beside the one that nobody closed.
                // Gossip tells its subscriptions on a peer's first connection only: both sides begin anew.
                if num_established > 0 && cause.is_some_and(|cause| explain::chain(&cause).contains("timed out")) {
                    let _ = self.swarm.disconnect_peer_id(peer_id);
                }
                if let Left::Gone { member } = self.roster.remove(peer_id, connection_id) {
                    self.on_gone(peer_id, member, now);
                }
                self.links_changed();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                let why = explain::explain(&error);
                if let DialError::LocalPeerId { address } = &error {
                    self.twins.dialled(address.to_string(), now);
                }
                let failure = self.targets.failed(connection_id, now, jitter());
                self.tell_failure(failure, why.clone());
                if let Some(peer) = peer_id.filter(|peer| !self.roster.is_connected(peer)) {
                    self.answer_waiters(&peer, &Err(why));
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                let own = match &error {
                    ListenError::LocalPeerId { address } => Some(address.to_string()),
                    _ => None,
                };
                self.twins.inbound_failed(own, now);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listening.works(listener_id);
                if self.settings.raw.trust_listen && !is_relayed(&address) && is_worth_telling(&address, true) {
                    self.swarm.add_external_address(address.clone());
                }
                self.outbox.push(NetEvent::Listening(with_peer(&address, self.me).to_string()));
                self.addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.address_gone(&address);
                self.addresses_changed();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                addresses.iter().for_each(|address| self.address_gone(address));
                if let Some((address, again)) = self.listening.ended(listener_id, now, jitter()) {
                    let why = match reason {
                        Ok(()) => format!("it was closed; tried again in {again:.1?}"),
                        Err(error) => format!("{}; tried again in {again:.1?}", explain::chain(&error)),
                    };
                    self.outbox.push(NetEvent::ListenFailed { addr: address.to_string(), why });
                }
                self.addresses_changed();
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.outbox.push(NetEvent::External { addr: with_peer(&address, self.me).to_string() });
                if !is_relayed(&address) {
                    self.nat_is(Nat::Public);
                }
                self.addresses_changed();
            }
            SwarmEvent::ExternalAddrExpired { .. } => {
                if self.nat == Nat::Public && !self.swarm.external_addresses().any(|address| !is_relayed(address)) {
                    self.nat_is(Nat::Unknown);
                }
                self.addresses_changed();
            }
            _ => {}
        }
    }

    fn address_gone(&mut self, address: &Multiaddr) {
        if self.settings.raw.trust_listen {
            self.swarm.remove_external_address(address);
        }
    }

    fn on_gone(&mut self, peer: PeerId, member: bool, now: Instant) {
        let failures = self.targets.lost(peer, now, jitter);
        let why = if self.finding.is_stranger(&peer, now) {
            "the peer there is not in this run"
        } else {
            "the peer closed the connection before it said what it speaks: it may not allow this peer, or be full"
        };
        self.tell_failure(failures, why);
        self.answer_waiters(&peer, &Err("the connection ended".into()));
        if let Some(peer) = key_of_peer(&peer).filter(|_| member) {
            self.outbox.push(NetEvent::Disconnected { peer });
        }
        // Fewer peers than before.
        self.finding.soon(now);
    }

    fn on_behaviour(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info, now);
            }
            BehaviourEvent::Ping(event) => self.on_ping(&event),
            BehaviourEvent::Kad(event) => self.on_kad(event, now),
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_gossip(GossipTicket { message: message_id, from: propagation_source }, message);
            }
            BehaviourEvent::Probe(autonat::v2::client::Event { tested_addr, server, result, .. }) => match result {
                Ok(()) => self.unreachable = 0,
                Err(error) => {
                    tracing::debug!(address = %tested_addr, %server, %error, "others cannot reach this peer there");
                    self.unreachable = self.unreachable.saturating_add(1);
                    if self.unreachable >= FAILED_PROBES && self.nat != Nat::Public {
                        self.nat_is(Nat::Private);
                        self.finding.soon(now);
                    }
                }
            },
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.consider(peer, vec![address], now);
                }
            }
            BehaviourEvent::HolePunch(event) => {
                tracing::debug!(peer = %event.remote_peer_id, punched = event.result.is_ok(), "tried for a direct connection");
            }
            _ => {}
        }
    }

    /// Ping alone closes nothing.
    fn on_ping(&mut self, event: &ping::Event) {
        if self.roster.ping(&event.peer, event.connection, event.result.is_ok()) {
            tracing::debug!(peer = %event.peer, "a connection is given up: pings are not answered");
            let _ = self.swarm.disconnect_peer_id(event.peer);
        }
    }

    /// A peer said what it speaks. Peers of this run become members.
    fn on_identified(&mut self, peer: PeerId, info: identify::Info, now: Instant) {
        let Some(key) = key_of_peer(&peer).filter(|_| info.protocol_version == self.settings.names.member) else {
            self.finding.stranger(peer, now);
            let speaks = info.protocol_version.chars().filter(|letter| !letter.is_control()).take(SPEAKS).collect();
            self.outbox.push(NetEvent::OtherRun { peer: peer.to_base58(), speaks });
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        let local = self.settings.raw.trust_listen;
        let tellable = info
            .listen_addrs
            .into_iter()
            .filter(|address| is_worth_telling(address, local) && peer_in(address).is_none_or(|named| named == peer));
        let addresses: Vec<_> = tellable.take(ADDRESSES.get()).collect();
        if info.protocols.contains(&self.settings.names.table) {
            for address in &addresses {
                self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
            }
        }
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            // Where it was reached is known to work; what it says is not.
            let told = addresses.iter().find(|address| !is_relayed(address));
            if let Some(address) = self.roster.dialled(&peer).or(told) {
                self.finding.relay(peer, address.clone());
            }
        }
        if self.roster.admit(peer) {
            self.targets.admitted(peer);
            if let Some(link) = self.roster.link(&peer) {
                let (address, relayed, outbound) = (link.address, link.relayed, link.outbound);
                self.outbox.push(NetEvent::Connected { peer: key, address, relayed, outbound });
            }
            self.links_changed();
            self.answer_waiters(&peer, &Ok(()));
            self.finding.soon(now);
        }
        let addresses = addresses.iter().map(|address| with_peer(address, peer).to_string()).collect();
        self.outbox.push(NetEvent::Addresses { peer: key, addresses });
    }

    fn on_gossip(&mut self, ticket: GossipTicket, message: gossipsub::Message) {
        let author = message.source.as_ref().and_then(key_of_peer);
        match (key_of_peer(&ticket.from), author) {
            (Some(_), Some(_)) if message.data.len() > self.settings.raw.max_gossip_bytes => {
                self.validate(&ticket, Verdict::Reject);
            }
            (Some(from), Some(author)) if self.outbox.has_room_for_gossip() => {
                self.outbox.push(NetEvent::Gossip { from, author, data: message.data, validator: ticket });
            }
            // Nobody has looked at it, so it goes no further, and that is nobody's fault.
            _ => self.validate(&ticket, Verdict::Ignore),
        }
    }
}

/// Where the other end is. Through a relay, an inbound connection only says which relay that was.
fn remote_address(peer: PeerId, endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => {
            with_peer(&without_peer(local_addr), peer)
        }
        _ => with_peer(endpoint.get_remote_address(), peer),
    }
}
