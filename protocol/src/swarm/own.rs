//! This peer's own groups, kept for a while so that others can fetch them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::group::SignedGroup;
use crate::id::{GroupId, PeerKey};

/// Peers whose acknowledgement of one group is remembered.
const MAX_ACKNOWLEDGED: usize = 128;

/// Own groups, the latest so many of them.
#[derive(Debug)]
pub(super) struct OwnGroups {
    groups: BTreeMap<GroupId, Own>,
    oldest: VecDeque<GroupId>,
    bytes: usize,
    max_groups: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Own {
    signed: SignedGroup,
    kept_ms: u64,
    acknowledged: BTreeSet<PeerKey>,
}

impl OwnGroups {
    pub(super) fn new(max_groups: usize, max_bytes: usize) -> Self {
        Self { groups: BTreeMap::new(), oldest: VecDeque::new(), bytes: 0, max_groups, max_bytes }
    }

    /// Keeps a group; the oldest make room.
    pub(super) fn keep(&mut self, signed: SignedGroup, kept_ms: u64) {
        let id = signed.id();
        if self.groups.contains_key(&id) {
            return;
        }
        self.bytes += signed.bytes().len();
        self.groups.insert(id, Own { signed, kept_ms, acknowledged: BTreeSet::new() });
        self.oldest.push_back(id);
        while self.oldest.len() > self.max_groups || self.bytes > self.max_bytes {
            let Some(gone) = self.oldest.pop_front().and_then(|id| self.groups.remove(&id)) else { break };
            self.bytes -= gone.signed.bytes().len();
        }
    }

    pub(super) fn get(&self, id: &GroupId) -> Option<&SignedGroup> {
        self.groups.get(id).map(|own| &own.signed)
    }

    /// The latest first, with the time since which each is kept.
    pub(super) fn latest(&self) -> impl Iterator<Item = (&SignedGroup, u64)> {
        self.oldest.iter().rev().filter_map(|id| self.groups.get(id)).map(|own| (&own.signed, own.kept_ms))
    }

    /// The lowest counter kept.
    pub(super) fn lowest_counter(&self) -> Option<u64> {
        self.groups.values().map(|own| own.signed.counter()).min()
    }

    /// Notes an acknowledgement; whether it is news.
    pub(super) fn acknowledge(&mut self, id: &GroupId, peer: PeerKey) -> bool {
        let own = self.groups.get_mut(id).filter(|own| own.acknowledged.len() < MAX_ACKNOWLEDGED);
        own.is_some_and(|own| own.acknowledged.insert(peer))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let acknowledged = self.groups.values().map(|own| own.acknowledged.len() * size_of::<PeerKey>()).sum::<usize>();
        self.bytes + acknowledged + self.groups.len() * (size_of::<Own>() + 2 * size_of::<GroupId>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::group;
    use crate::id::Signer;

    #[test]
    fn the_latest_are_kept_and_acknowledged_once_by_each() {
        let signer = Signer::from_seed(&[1; 32]);
        let signed: Vec<SignedGroup> =
            (0..10).map(|counter| SignedGroup::sign(&group(&signer, counter, &["1", "2"]), &signer)).collect();
        let mut own = OwnGroups::new(4, 1 << 20);
        for (at, signed) in (0..).zip(&signed) {
            own.keep(signed.clone(), at);
            own.keep(signed.clone(), at);
        }
        assert_eq!(
            own.latest().map(|(signed, at)| (signed.counter(), at)).collect::<Vec<_>>(),
            [(9, 9), (8, 8), (7, 7), (6, 6)]
        );
        assert_eq!((own.lowest_counter(), own.get(&signed[5].id())), (Some(6), None));
        let peers = [1, 2].map(|byte| PeerKey([byte; 32]));
        assert!(own.acknowledge(&signed[7].id(), peers[0]));
        assert!(!own.acknowledge(&signed[7].id(), peers[0]));
        assert!(own.acknowledge(&signed[7].id(), peers[1]));
        assert!(!own.acknowledge(&signed[5].id(), peers[1]));
        let mut small = OwnGroups::new(100, 2 * signed[0].bytes().len());
        signed.iter().for_each(|signed| small.keep(signed.clone(), 0));
        assert_eq!((small.groups.len(), small.bytes), (2, 2 * signed[0].bytes().len()));
    }
}
