//! Who is connected, over what, and which of them are members. Pure bookkeeping: time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::address::is_relayed;
use crate::event::Link;
use crate::identity::key_of_peer;

/// Pings in a row that a connection may miss.
const MISSED_PINGS: u32 = 2;
/// How long a relayed connection lives on beside a direct one: exchanges on it may come to their end.
const RELAY_GRACE: Duration = Duration::from_secs(30);

/// Connections by peer.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    peers: HashMap<PeerId, Peer>,
}

#[derive(Debug)]
struct Peer {
    connections: HashMap<ConnectionId, Connection>,
    since: Instant,
    member: bool,
    /// Since when there is a direct connection.
    direct: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    address: Multiaddr,
    outbound: bool,
    relayed: bool,
    missed_pings: u32,
}

/// What a connection that ended leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The peer is still connected.
    Connected,
    /// It was the last one, with a member or not.
    Gone { member: bool },
}

impl Roster {
    /// A connection stands. Answers whether it is the first direct one with a member that was relayed so far.
    pub(crate) fn add(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        address: Multiaddr,
        outbound: bool,
        now: Instant,
    ) -> bool {
        let entry = self.peers.entry(peer).or_insert_with(|| Peer {
            connections: HashMap::new(),
            since: now,
            member: false,
            direct: None,
        });
        let relayed = is_relayed(&address);
        entry.connections.insert(connection, Connection { address, outbound, relayed, missed_pings: 0 });
        if !relayed && entry.direct.is_none() {
            entry.direct = Some(now);
            return entry.member;
        }
        false
    }

    pub(crate) fn remove(&mut self, peer: PeerId, connection: ConnectionId) -> Left {
        let Some(entry) = self.peers.get_mut(&peer) else { return Left::Gone { member: false } };
        entry.connections.remove(&connection);
        if !entry.connections.values().any(|connection| !connection.relayed) {
            entry.direct = None;
        }
        if entry.connections.is_empty() {
            let member = entry.member;
            self.peers.remove(&peer);
            Left::Gone { member }
        } else {
            Left::Connected
        }
    }

    /// The peer has said that it is of this run. Answers whether that is news.
    pub(crate) fn admit(&mut self, peer: PeerId) -> bool {
        self.peers.get_mut(&peer).is_some_and(|entry| !std::mem::replace(&mut entry.member, true))
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.member)
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Every peer that is connected, member or not.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.keys().copied()
    }

    /// The best connection with a member: direct before relayed.
    pub(crate) fn link(&self, peer: &PeerId) -> Option<Link> {
        let entry = self.peers.get(peer).filter(|entry| entry.member)?;
        let best = entry.connections.values().min_by_key(|connection| (connection.relayed, !connection.outbound))?;
        Some(Link {
            peer: key_of_peer(peer)?,
            address: best.address.to_string(),
            relayed: best.relayed,
            outbound: best.outbound,
        })
    }

    /// Where this peer has reached another directly.
    pub(crate) fn dialled(&self, peer: &PeerId) -> Option<&Multiaddr> {
        let mut connections = self.peers.get(peer)?.connections.values();
        connections.find(|connection| connection.outbound && !connection.relayed).map(|connection| &connection.address)
    }

    /// The links of all members, in the order of their keys.
    pub(crate) fn links(&self) -> Vec<Link> {
        let mut links: Vec<_> = self.peers.keys().filter_map(|peer| self.link(peer)).collect();
        links.sort_unstable_by_key(|link| link.peer);
        links
    }

    /// Peers that have left open whether they are members for `limit`.
    pub(crate) fn silent(&self, now: Instant, limit: Duration) -> Vec<PeerId> {
        let silent = |entry: &Peer| !entry.member && now.saturating_duration_since(entry.since) > limit;
        self.peers.iter().filter(|(_, entry)| silent(entry)).map(|(peer, _)| *peer).collect()
    }

    /// Relayed connections with peers that have been connected directly long enough.
    pub(crate) fn superseded(&self, now: Instant) -> Vec<ConnectionId> {
        let direct =
            |entry: &&Peer| entry.direct.is_some_and(|since| now.saturating_duration_since(since) > RELAY_GRACE);
        let connections = self.peers.values().filter(direct).flat_map(|entry| &entry.connections);
        connections.filter(|(_, connection)| connection.relayed).map(|(id, _)| *id).collect()
    }

    /// A ping came back or not. Answers whether the connection is to be given up.
    pub(crate) fn ping(&mut self, peer: &PeerId, connection: ConnectionId, answered: bool) -> bool {
        let entry = self.peers.get_mut(peer).and_then(|entry| entry.connections.get_mut(&connection));
        let Some(entry) = entry else { return false };
        entry.missed_pings = if answered { 0 } else { entry.missed_pings + 1 };
        entry.missed_pings >= MISSED_PINGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn peer(seed: u8) -> PeerId {
        crate::identity::keypair(&[seed; 32]).public().to_peer_id()
    }

    const DIRECT: &str = "/ip4/10.0.0.1/tcp/1";
    const RELAYED: &str = "/ip4/10.0.0.2/tcp/1/p2p/12D3KooWGQmdpzHXCqLno4mMxWXKNFQHASBeF99gTm2JR8Vu5Bdc/p2p-circuit";

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_peer_is_a_member_once_and_gone_with_its_last_connection() {
        let (mut roster, now, who) = (Roster::default(), Instant::now(), peer(1));
        assert!(!roster.admit(who), "not connected");
        assert!(!roster.add(who, id(1), address(DIRECT), true, now));
        assert_eq!(roster.link(&who), None, "not a member yet");
        assert!(roster.admit(who));
        assert!(!roster.admit(who));
        assert!(!roster.add(who, id(2), address(DIRECT), false, now), "it was direct before");
        assert_eq!(roster.links().len(), 1);
        assert_eq!(roster.dialled(&who), Some(&address(DIRECT)));
        assert_eq!(roster.remove(who, id(1)), Left::Connected);
        assert_eq!(roster.remove(who, id(2)), Left::Gone { member: true });
        assert!(!roster.is_connected(&who) && roster.len() == 0);
    }

    #[test]
    fn a_direct_connection_takes_over() {
        let (mut roster, now, who) = (Roster::default(), Instant::now(), peer(1));
        roster.add(who, id(1), address(RELAYED), true, now);
        roster.admit(who);
        assert!(roster.link(&who).expect("a member").relayed);
        assert!(roster.add(who, id(2), address(DIRECT), false, now), "news");
        assert_eq!(roster.link(&who).map(|link| (link.relayed, link.outbound)), Some((false, false)));
        assert_eq!(roster.dialled(&who), None, "one is relayed, one came from there");
        assert!(roster.superseded(now).is_empty());
        assert_eq!(roster.superseded(now + RELAY_GRACE * 2), [id(1)]);
        roster.remove(who, id(2));
        assert!(roster.superseded(now + RELAY_GRACE * 4).is_empty(), "the relayed one is all there is");
    }

    #[test]
    fn silence_and_missed_pings_are_noticed() {
        let (mut roster, now, who) = (Roster::default(), Instant::now(), peer(1));
        roster.add(who, id(1), address(DIRECT), true, now);
        let limit = Duration::from_secs(10);
        assert!(roster.silent(now + limit, limit).is_empty());
        assert_eq!(roster.silent(now + limit * 2, limit), [who]);
        assert!(!roster.ping(&who, id(1), false));
        assert!(!roster.ping(&who, id(1), true));
        assert!(!roster.ping(&who, id(1), false));
        assert!(roster.ping(&who, id(1), false));
        roster.admit(who);
        assert!(roster.silent(now + limit * 2, limit).is_empty());
    }
}
