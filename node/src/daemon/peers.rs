//! The list of peers in a status: who is connected, what each gave and took, and how it stands.

use std::collections::BTreeMap;

use swarmloom_net::{Link, peer_text};
use swarmloom_protocol::id::PeerKey;
use swarmloom_protocol::swarm::Swarm;

use crate::status::PeerStatus;

/// Peers that a status lists: those connected first, then those that gave most.
const MAX_PEERS: usize = 64;

/// Everyone known, connected ones first. `given`: own groups that each acknowledged.
pub(crate) fn peers(swarm: &Swarm, links: &[Link], given: &BTreeMap<PeerKey, u64>, now_ms: u64) -> Vec<PeerStatus> {
    let mut known: BTreeMap<PeerKey, PeerStatus> = BTreeMap::new();
    for account in swarm.accounts().iter() {
        known.insert(
            account.key(),
            PeerStatus {
                standing: account.standing(now_ms).name().into(),
                score: account.score(now_ms),
                groups_in: account.groups_in(),
                used: account.used(),
                withheld: account.withheld(),
                ..PeerStatus::default()
            },
        );
    }
    let unknown = || PeerStatus { standing: "good".into(), ..PeerStatus::default() };
    for link in links {
        let entry = known.entry(PeerKey(link.peer)).or_insert_with(unknown);
        entry.connected = true;
        entry.relayed = link.relayed;
    }
    for (key, groups) in given {
        known.entry(*key).or_insert_with(unknown).groups_out = *groups;
    }
    let mut peers: Vec<(PeerKey, PeerStatus)> = known.into_iter().collect();
    peers.sort_by_key(|(key, status)| (!status.connected, std::cmp::Reverse(status.groups_in), *key));
    peers.truncate(MAX_PEERS);
    // Texts last, and only of those shown.
    peers.into_iter().map(|(key, status)| PeerStatus { peer: peer_text(&key.0), ..status }).collect()
}
