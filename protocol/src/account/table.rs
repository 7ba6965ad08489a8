//! The accounts of all peers, a bounded number of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Account, Offence, Standing};
use crate::id::PeerKey;

/// Banned peers kept for each account that may be kept otherwise.
const BANS_PER_ACCOUNT: usize = 8;

/// Accounts by peer.
///
/// Beyond the bound the least telling goes first: who is not muted before who is; of these who never gave a
/// group before who did, so that strangers with throw-away keys cannot push out contributors; then spotless
/// before charged, and the longest silent first. Bans are apart from that bound, with one eight times as large.
#[derive(Debug)]
pub struct Accounts {
    accounts: BTreeMap<PeerKey, Account>,
    banned: BTreeSet<PeerKey>,
    max: usize,
    changed: BTreeSet<PeerKey>,
}

impl Accounts {
    /// No accounts, and room for `max`.
    pub fn new(max: usize) -> Self {
        Self { accounts: BTreeMap::new(), banned: BTreeSet::new(), max: max.max(1), changed: BTreeSet::new() }
    }

    /// A peer's account, if it has one.
    pub fn get(&self, key: &PeerKey) -> Option<&Account> {
        self.accounts.get(key)
    }

    /// All accounts, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// How a peer is treated; one without an account is treated well.
    pub fn standing(&self, key: &PeerKey, now_ms: u64) -> Standing {
        self.accounts.get(key).map_or(Standing::Good, |account| account.standing(now_ms))
    }

    /// Peers to disconnect and keep out.
    pub fn banned(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.banned.iter().copied()
    }

    /// Charges a peer, opening an account where there is none.
    pub fn charge(&mut self, key: PeerKey, offence: Offence, now_ms: u64) -> Standing {
        let standing = self.open(key, now_ms).charge(offence, now_ms);
        if standing == Standing::Banned && self.banned.insert(key) && self.banned.len() > self.max * BANS_PER_ACCOUNT {
            let oldest = self.banned.iter().filter_map(|key| self.accounts.get(key)).min_by_key(|a| a.last_seen_ms);
            if let Some(key) = oldest.map(Account::key) {
                self.remove(&key);
            }
        }
        standing
    }

    /// A peer's account for changing it, opened where there is none.
    pub(crate) fn open(&mut self, key: PeerKey, now_ms: u64) -> &mut Account {
        if !self.accounts.contains_key(&key) && self.accounts.len() - self.banned.len() >= self.max {
            self.evict(now_ms);
        }
        self.note_change(key);
        self.accounts.entry(key).or_insert_with(|| Account::new(key, now_ms))
    }

    /// A peer's account for changing it, if it has one.
    pub(crate) fn get_mut(&mut self, key: &PeerKey) -> Option<&mut Account> {
        if self.accounts.contains_key(key) {
            self.note_change(*key);
        }
        self.accounts.get_mut(key)
    }

    /// Takes up an account from the store.
    pub(crate) fn restore(&mut self, account: Account, now_ms: u64) {
        let key = account.key();
        if account.banned {
            self.banned.insert(key);
        } else if self.accounts.len() - self.banned.len() >= self.max {
            self.evict(now_ms);
        }
        self.accounts.insert(key, account);
    }

    /// Accounts changed since the last call, encoded, or `None` where one was given up: what a store writes.
    pub fn take_changed(&mut self) -> Vec<(PeerKey, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key, self.accounts.get(&key).map(Account::encode))).collect()
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let keys = (self.banned.len() + self.changed.len() + self.accounts.len()) * size_of::<PeerKey>();
        keys + self.accounts.values().map(Account::memory_bytes).sum::<usize>()
    }

    fn evict(&mut self, now_ms: u64) {
        let value = |account: &Account| {
            // Scores compare by hundredths: what is below has decayed away.
            let score = (account.score(now_ms) * 100.0) as u64;
            let muted = account.standing(now_ms) == Standing::Muted;
            (muted, account.groups_in > 0, score, account.last_seen_ms)
        };
        let least = self.accounts.values().filter(|account| !account.banned).min_by_key(|account| value(account));
        if let Some(key) = least.map(Account::key) {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &PeerKey) {
        self.accounts.remove(key);
        self.banned.remove(key);
        self.note_change(*key);
    }

    fn note_change(&mut self, key: PeerKey) {
        self.changed.insert(key);
        if self.changed.len() > 2 * self.max * (1 + BANS_PER_ACCOUNT) {
            // Nobody reads the changes. Those of living accounts suffice.
            let accounts = &self.accounts;
            self.changed.retain(|key| accounts.contains_key(key));
        }
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

    fn ban(accounts: &mut Accounts, key: PeerKey) {
        for at in 0.. {
            if accounts.charge(key, Offence::Copied, at * 10_000) == Standing::Banned {
                break;
            }
        }
    }

    #[test]
    fn the_spotless_and_silent_go_first_and_bans_stay() {
        let mut accounts = Accounts::new(3);
        ban(&mut accounts, key(0));
        accounts.charge(key(1), Offence::Stale, 300_000);
        accounts.open(key(2), 300_001).count_stored();
        accounts.open(key(3), 300_002);
        accounts.open(key(4), 300_003);
        let kept = |accounts: &Accounts| accounts.iter().map(Account::key).collect::<Vec<_>>();
        assert_eq!(kept(&accounts), [0, 1, 2, 4].map(key));
        for number in 5..100 {
            accounts.open(key(number), 300_000 + u64::from(number));
        }
        assert_eq!(kept(&accounts), [0, 1, 2, 99].map(key));
        // After an hour and a half the charge of 1 has decayed to less than a hundredth.
        accounts.open(key(100), 6_000_000);
        assert_eq!(kept(&accounts), [0, 2, 99, 100].map(key));
        assert_eq!(accounts.banned().collect::<Vec<_>>(), [key(0)]);
        assert_eq!(accounts.standing(&key(0), u64::MAX), Standing::Banned);
        assert_eq!(accounts.standing(&key(7), 0), Standing::Good);
    }

    #[test]
    fn bans_are_bounded_too() {
        let mut accounts = Accounts::new(2);
        for number in 0..100 {
            ban(&mut accounts, key(number));
        }
        assert_eq!(accounts.banned().count(), 16);
        assert!(accounts.accounts.len() <= 18);
    }

    #[test]
    fn changes_tell_what_to_write_and_what_to_delete() {
        let mut accounts = Accounts::new(1);
        accounts.open(key(1), 0);
        accounts.open(key(2), 1);
        let changes = accounts.take_changed();
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0], (key(1), None));
        let back = Account::decode(changes[1].1.as_deref().expect("an account")).expect("decodes");
        assert_eq!(back.key(), key(2));
        assert!(accounts.take_changed().is_empty());
        accounts.get_mut(&key(2)).expect("there").count_use();
        assert_eq!(accounts.take_changed().len(), 1);
        for number in 0..1000 {
            accounts.open(key(number), 2);
        }
        assert!(accounts.take_changed().len() <= 18);
    }
}
