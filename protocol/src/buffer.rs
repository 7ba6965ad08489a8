//! The groups of others that a peer keeps to train on: bounded in number, bytes, age and uses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bytes, CodecError, List};
use crate::group::{Group, GroupError, MAX_GROUP_BYTES, SignedGroup};
use crate::id::{GroupId, PeerKey};
use crate::run::{MAX_COMPLETIONS, RunSpec};

/// A group of another peer, scored here.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGroup {
    /// Its name.
    pub id: GroupId,
    /// What its author signed.
    pub group: Group,
    /// The signed group as it travels: any peer may ask for it.
    pub body: Arc<[u8]>,
    /// Reward of each completion, as scored here.
    pub rewards: Vec<f32>,
    /// Hash of the question's text.
    pub prompt_hash: [u8; 32],
    /// When it arrived.
    pub received_ms: u64,
    /// Training steps it has served in.
    pub uses: u32,
}

/// How a [`StoredGroup`] lies in a store: the signed group, and what was added here.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(with = "Bytes")]
    body: Vec<u8>,
    #[serde(with = "List::<MAX_COMPLETIONS>")]
    rewards: Vec<f32>,
    prompt_hash: [u8; 32],
    received_ms: u64,
    uses: u32,
}

/// Why stored bytes are not a group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredGroupError {
    /// The record is damaged.
    #[error("not a stored group: {0}")]
    Codec(#[from] CodecError),
    /// The group in it is not one of this run.
    #[error("stored {0}")]
    Group(#[from] GroupError),
}

impl StoredGroup {
    /// The encoding for a store.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&Record {
            body: self.body.to_vec(),
            rewards: self.rewards.clone(),
            prompt_hash: self.prompt_hash,
            received_ms: self.received_ms,
            uses: self.uses,
        })
    }

    /// Decodes what [`encode`](Self::encode) wrote, and opens the group in it as if it had just arrived.
    ///
    /// # Errors
    /// Where the record is damaged, or holds no group of this run.
    pub fn decode(bytes: &[u8], spec: &RunSpec) -> Result<Self, StoredGroupError> {
        let record: Record = codec::decode(bytes, MAX_GROUP_BYTES + 4096)?;
        let (signed, group) = SignedGroup::open(&record.body, spec)?;
        if record.rewards.len() != group.completions.len() || !record.rewards.iter().all(|reward| reward.is_finite()) {
            return Err(CodecError::OutOfBounds("a stored group whose rewards are not its completions'").into());
        }
        let Record { rewards, prompt_hash, received_ms, uses, .. } = record;
        Ok(Self { id: signed.id(), group, body: signed.bytes().clone(), rewards, prompt_hash, received_ms, uses })
    }

    /// Bytes of memory, about: the signed group and its decoded twin.
    pub(crate) fn memory_bytes(&self) -> usize {
        2 * self.body.len() + self.rewards.len() * (4 + size_of::<crate::group::Completion>()) + size_of::<Self>()
    }
}

/// Bounds of a [`ReplayBuffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferLimits {
    /// Groups.
    pub max_groups: usize,
    /// Bytes of memory, about.
    pub max_bytes: usize,
    /// Training steps one group may serve in.
    pub max_uses: u32,
}

/// A group that is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Which.
    pub id: GroupId,
    /// Why.
    pub reason: DropReason,
}

/// Why a group is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// To make room.
    Evicted,
    /// It arrived too long ago.
    Aged,
    /// Its author's policy has moved on too far.
    Stale,
    /// It has served in as many steps as it may.
    UsedUp,
    /// Its author is banned.
    Banned,
}

impl DropReason {
    /// In one word, for counters and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Aged => "aged",
            Self::Stale => "stale",
            Self::UsedUp => "used-up",
            Self::Banned => "banned",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Groups of others.
///
/// Who makes room is whoever takes most of it: the author with most groups loses its oldest one, so nobody
/// can push the others out by sending more.
#[derive(Debug)]
pub struct ReplayBuffer {
    groups: BTreeMap<GroupId, StoredGroup>,
    shares: BTreeMap<PeerKey, Share>,
    bytes: usize,
    limits: BufferLimits,
}

/// What one author takes up.
#[derive(Debug, Default)]
struct Share {
    groups: usize,
    bytes: usize,
}

impl ReplayBuffer {
    /// An empty buffer.
    pub fn new(limits: BufferLimits) -> Self {
        Self { groups: BTreeMap::new(), shares: BTreeMap::new(), bytes: 0, limits }
    }

    /// Adds a group; those that make room for it. A group that is there already stays as it is. A group larger
    /// than the whole buffer is itself among the evicted.
    pub fn insert(&mut self, group: StoredGroup) -> Vec<Dropped> {
        if self.groups.contains_key(&group.id) {
            return Vec::new();
        }
        let share = self.shares.entry(group.group.author).or_default();
        share.groups += 1;
        share.bytes += group.memory_bytes();
        self.bytes += group.memory_bytes();
        self.groups.insert(group.id, group);
        let mut evicted = Vec::new();
        while self.groups.len() > self.limits.max_groups || self.bytes > self.limits.max_bytes {
            let Some(id) = self.next_evicted() else { break };
            self.remove(&id);
            evicted.push(Dropped { id, reason: DropReason::Evicted });
        }
        evicted
    }

    fn next_evicted(&self) -> Option<GroupId> {
        let by_number = self.groups.len() > self.limits.max_groups;
        let size = |share: &Share| if by_number { share.groups } else { share.bytes };
        let most = self.shares.values().map(size).max()?;
        let largest = |group: &&StoredGroup| self.shares.get(&group.group.author).is_some_and(|s| size(s) == most);
        self.groups.values().filter(largest).min_by_key(|group| (group.received_ms, group.group.counter)).map(|g| g.id)
    }

    /// Removes a group.
    pub fn remove(&mut self, id: &GroupId) -> Option<StoredGroup> {
        let group = self.groups.remove(id)?;
        self.bytes -= group.memory_bytes();
        if let Some(share) = self.shares.get_mut(&group.group.author) {
            share.groups -= 1;
            share.bytes -= group.memory_bytes();
            if share.groups == 0 {
                self.shares.remove(&group.group.author);
            }
        }
        Some(group)
    }

    /// Drops the groups for which `reason` has one.
    pub fn drop_where(&mut self, reason: impl Fn(&StoredGroup) -> Option<DropReason>) -> Vec<Dropped> {
        let found = |group: &StoredGroup| reason(group).map(|reason| Dropped { id: group.id, reason });
        let dropped: Vec<Dropped> = self.groups.values().filter_map(found).collect();
        for gone in &dropped {
            self.remove(&gone.id);
        }
        dropped
    }

    /// Counts a use of a group: the group as used, and whether that was the last time it may be.
    pub fn use_once(&mut self, id: &GroupId) -> Option<(StoredGroup, Option<Dropped>)> {
        let group = self.groups.get_mut(id)?;
        group.uses = group.uses.saturating_add(1);
        if group.uses < self.limits.max_uses {
            return Some((group.clone(), None));
        }
        let dropped = Dropped { id: *id, reason: DropReason::UsedUp };
        self.remove(id).map(|group| (group, Some(dropped)))
    }

    /// A group by name.
    pub fn get(&self, id: &GroupId) -> Option<&StoredGroup> {
        self.groups.get(id)
    }

    /// All groups, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &StoredGroup> {
        self.groups.values()
    }

    /// How many groups are kept.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Bytes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::group::tests::group;
    use crate::id::Signer;
    use crate::run::tests::spec;

    /// A stored group of `author` with a completion for each reward.
    pub(crate) fn stored(author: &Signer, counter: u64, received_ms: u64, rewards: &[f32]) -> StoredGroup {
        let group = group(author, counter, &vec!["12"; rewards.len()]);
        let signed = SignedGroup::sign(&group, author);
        StoredGroup {
            id: signed.id(),
            group,
            body: signed.bytes().clone(),
            rewards: rewards.to_vec(),
            prompt_hash: [4; 32],
            received_ms,
            uses: 0,
        }
    }

    fn limits(max_groups: usize) -> BufferLimits {
        BufferLimits { max_groups, max_bytes: 1 << 20, max_uses: 3 }
    }

    #[test]
    fn whoever_sends_most_makes_room() {
        let [a, b, c] = [1, 2, 3].map(|seed| Signer::from_seed(&[seed; 32]));
        let mut buffer = ReplayBuffer::new(limits(6));
        for at in 0..2 {
            assert!(buffer.insert(stored(&b, at, at, &[1.0])).is_empty());
        }
        assert!(buffer.insert(stored(&c, 0, 5, &[1.0])).is_empty());
        let flood: Vec<StoredGroup> = (0..100).map(|at| stored(&a, at, 100 + at, &[1.0])).collect();
        for (at, group) in flood.iter().enumerate() {
            let expected: Vec<Dropped> = at
                .checked_sub(3)
                .map(|oldest| Dropped { id: flood[oldest].id, reason: DropReason::Evicted })
                .into_iter()
                .collect();
            assert_eq!(buffer.insert(group.clone()), expected);
        }
        let held = |author: &Signer| buffer.iter().filter(|group| group.group.author == author.key()).count();
        assert_eq!((held(&a), held(&b), held(&c), buffer.len()), (3, 2, 1, 6));
    }

    #[test]
    fn bytes_are_bounded_and_shared_fairly_too() {
        let [a, b] = [1, 2].map(|seed| Signer::from_seed(&[seed; 32]));
        let (small, large) = (stored(&a, 0, 0, &[1.0]), stored(&b, 0, 1, &[1.0; 8]));
        let max_bytes = 2 * small.memory_bytes() + large.memory_bytes();
        let mut buffer = ReplayBuffer::new(BufferLimits { max_bytes, ..limits(100) });
        assert!(buffer.insert(small.clone()).is_empty());
        assert!(buffer.insert(large.clone()).is_empty());
        assert_eq!(buffer.memory_bytes(), small.memory_bytes() + large.memory_bytes());
        let evicted = buffer.insert(stored(&b, 1, 2, &[1.0; 8]));
        assert_eq!(evicted, [Dropped { id: large.id, reason: DropReason::Evicted }]);
        let mut tiny = ReplayBuffer::new(BufferLimits { max_bytes: 10, ..limits(100) });
        assert_eq!(tiny.insert(small.clone()), [Dropped { id: small.id, reason: DropReason::Evicted }]);
        assert_eq!(tiny.memory_bytes(), 0);
    }

    #[test]
    fn a_group_serves_as_often_as_it_may() {
        let a = Signer::from_seed(&[1; 32]);
        let mut buffer = ReplayBuffer::new(limits(5));
        let group = stored(&a, 0, 0, &[1.0, 0.0]);
        buffer.insert(group.clone());
        buffer.insert(group.clone());
        assert_eq!(buffer.len(), 1);
        for uses in 1..=3 {
            let (used, dropped) = buffer.use_once(&group.id).expect("there");
            assert_eq!(used.uses, uses);
            assert_eq!(dropped.map(|gone| gone.reason), (uses == 3).then_some(DropReason::UsedUp));
        }
        assert_eq!((buffer.use_once(&group.id), buffer.len(), buffer.memory_bytes()), (None, 0, 0));
    }

    #[test]
    fn a_stored_group_reads_back_and_damage_shows() {
        let group = stored(&Signer::from_seed(&[1; 32]), 3, 77, &[1.0, 0.25]);
        let bytes = group.encode();
        assert_eq!(StoredGroup::decode(&bytes, &spec()).expect("decodes"), group);
        let mut wrong = group.clone();
        wrong.rewards.pop();
        assert!(matches!(StoredGroup::decode(&wrong.encode(), &spec()), Err(StoredGroupError::Codec(_))));
        wrong.rewards.push(f32::INFINITY);
        assert!(matches!(StoredGroup::decode(&wrong.encode(), &spec()), Err(StoredGroupError::Codec(_))));
        let mut changed = bytes.clone();
        changed[20] ^= 1;
        assert!(matches!(StoredGroup::decode(&changed, &spec()), Err(StoredGroupError::Group(_))));
    }

    #[test]
    fn sums_agree_with_contents_whatever_happens() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let authors: Vec<Signer> = (0..5).map(|seed| Signer::from_seed(&[seed; 32])).collect();
        let mut buffer = ReplayBuffer::new(BufferLimits { max_groups: 20, max_bytes: 20_000, max_uses: 2 });
        for counter in 0..2000 {
            let author = &authors[rng.random_range(0..5)];
            buffer.insert(stored(author, counter, rng.random_range(0..50), &vec![0.0; rng.random_range(1..8)]));
            let pick = buffer.iter().nth(rng.random_range(0..buffer.len())).map(|group| group.id).expect("some");
            match rng.random_range(0..4) {
                0 => drop(buffer.use_once(&pick)),
                1 => drop(buffer.remove(&pick)),
                2 => drop(buffer.drop_where(|group| (group.received_ms == 7).then_some(DropReason::Aged))),
                _ => {}
            }
            assert!(buffer.len() <= 20 && buffer.memory_bytes() <= 20_000);
            assert_eq!(buffer.memory_bytes(), buffer.iter().map(StoredGroup::memory_bytes).sum::<usize>());
            assert_eq!(buffer.shares.values().map(|share| share.groups).sum::<usize>(), buffer.len());
            assert_eq!(buffer.shares.values().map(|share| share.bytes).sum::<usize>(), buffer.memory_bytes());
            if buffer.is_empty() {
                buffer.insert(stored(&authors[0], 1_000_000 + counter, 0, &[1.0]));
            }
        }
    }
}
