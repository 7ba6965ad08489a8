//! The peers at the other ends of connections: how busy they are, and what they have been served.

use std::collections::BTreeMap;

use crate::id::PeerKey;
use crate::quota::{Allowance, Quota};

/// Peers remembered. The gone are forgotten first, so that nobody refills an allowance by reconnecting.
const MAX_LINKS: usize = 1024;

/// Connected peers, and some that were.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<PeerKey, Link>,
    /// Counts events; a link's last one says how long it has been quiet.
    events: u64,
}

#[derive(Debug, Default)]
struct Link {
    connected: bool,
    fetches: usize,
    served: Quota,
    last_event: u64,
}

impl Links {
    pub(super) fn connect(&mut self, peer: PeerKey) {
        self.link(peer).connected = true;
    }

    pub(super) fn disconnect(&mut self, peer: &PeerKey) {
        if let Some(link) = self.links.get_mut(peer) {
            link.connected = false;
        }
    }

    pub(super) fn is_connected(&self, peer: &PeerKey) -> bool {
        self.links.get(peer).is_some_and(|link| link.connected)
    }

    /// Fetches under way from a peer.
    pub(super) fn fetches(&self, peer: &PeerKey) -> usize {
        self.links.get(peer).map_or(0, |link| link.fetches)
    }

    pub(super) fn fetch_begins(&mut self, peer: PeerKey) {
        self.link(peer).fetches += 1;
    }

    pub(super) fn fetch_ends(&mut self, peer: &PeerKey) {
        if let Some(link) = self.links.get_mut(peer) {
            link.fetches = link.fetches.saturating_sub(1);
        }
    }

    /// Takes `bytes` of what a peer may be served, if there are so many left.
    pub(super) fn take_serving(&mut self, peer: PeerKey, bytes: u64, allowance: Allowance, now_ms: u64) -> bool {
        self.link(peer).served.take(bytes, allowance, now_ms)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.links.len() * (size_of::<PeerKey>() + size_of::<Link>())
    }

    fn link(&mut self, peer: PeerKey) -> &mut Link {
        self.events += 1;
        if !self.links.contains_key(&peer) && self.links.len() >= MAX_LINKS {
            let quietest = self.links.iter().min_by_key(|(_, link)| (link.connected, link.last_event));
            if let Some(key) = quietest.map(|(key, _)| *key) {
                self.links.remove(&key);
            }
        }
        let link = self.links.entry(peer).or_default();
        link.last_event = self.events;
        link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16) -> PeerKey {
        let mut key = PeerKey([0; 32]);
        key.0[..2].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn reconnecting_refills_nothing_and_the_gone_are_forgotten_first() {
        let allowance = Allowance { per_minute: 60.0, burst: 100.0 };
        let mut links = Links::default();
        links.connect(key(0));
        links.connect(key(1));
        assert!(links.take_serving(key(1), 100, allowance, 5));
        links.disconnect(&key(1));
        assert!(!links.is_connected(&key(1)));
        links.connect(key(1));
        assert!(!links.take_serving(key(1), 1, allowance, 5));
        assert!(links.take_serving(key(1), 1, allowance, 1005));
        for number in 2..3000 {
            links.connect(key(number));
            links.disconnect(&key(number));
        }
        assert!(links.links.len() <= MAX_LINKS);
        assert!(links.is_connected(&key(0)) && links.is_connected(&key(1)));
    }

    #[test]
    fn fetches_are_counted_by_peer() {
        let mut links = Links::default();
        links.fetch_begins(key(1));
        links.fetch_begins(key(1));
        links.fetch_ends(&key(1));
        links.fetch_ends(&key(2));
        assert_eq!((links.fetches(&key(1)), links.fetches(&key(2))), (1, 0));
    }
}
