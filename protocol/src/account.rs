//! What is held against a peer, and for it.
//!
//! An [`Offence`] adds its weight to a score that halves every ten minutes. A score of 12 mutes the peer: its
//! announcements are ignored and it is served nothing, for half a minute, then for two. The third time it is
//! banned from the run for good. No weight is above 6, and what one kind of offence adds within ten seconds is
//! one weight, however often: an accident (a burst of bad groups from one bug, one lost counter) mutes
//! nobody, while a peer that goes on is muted within half a minute to a few minutes. A score that has decayed
//! below 1 forgives earlier mutes.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::copies::ACCUSED_AT_BITS;
use crate::id::{GroupId, PeerKey};
use crate::quota::Quota;

mod counters;
mod table;

use counters::Counters;
pub use counters::Sighting;
pub use table::Accounts;

/// Time in which a score halves.
pub const HALF_LIFE_MS: u64 = 600_000;
/// Score from which a peer is muted.
pub const MUTED_AT: f64 = 12.0;
/// How long the first mutes last; one more is a ban.
pub const MUTES_MS: [u64; 2] = [30_000, 120_000];
/// Time within which offences of one kind count as one.
pub const BURST_MS: u64 = 10_000;
/// Score below which earlier mutes are forgiven.
const FORGIVEN_BELOW: f64 = 1.0;
/// Longest encoding of an [`Account`].
const MAX_ACCOUNT_BYTES: usize = 32 << 10;

/// What a peer can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Offence {
    /// Sent bytes that are no message, or not signed by whom they name.
    Malformed,
    /// Sent a group that nobody asked it for.
    Unrequested,
    /// Announced a group as something else than it is, or against the run's rules.
    Misannounced,
    /// Signed a group whose question does not follow from what it says.
    Unverifiable,
    /// Shared a question that is held out from training.
    HeldOut,
    /// Sent or announced the same group again in one message.
    Duplicate,
    /// Signed two groups under one counter.
    Equivocation,
    /// Shared completions of another group as new ones.
    Copied,
    /// Announced a group of a policy too far behind its newest.
    Stale,
    /// Announced more than the run allows.
    OverQuota,
}

impl Offence {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Unrequested,
        Self::Misannounced,
        Self::Unverifiable,
        Self::HeldOut,
        Self::Duplicate,
        Self::Equivocation,
        Self::Copied,
        Self::Stale,
        Self::OverQuota,
    ];

    /// What it adds to the score.
    pub fn weight(self) -> f64 {
        match self {
            Self::Equivocation | Self::Copied => 6.0,
            Self::Malformed | Self::Misannounced | Self::Unverifiable => 4.0,
            Self::HeldOut => 3.0,
            Self::Unrequested => 2.0,
            Self::Duplicate | Self::Stale | Self::OverQuota => 1.0,
        }
    }

    /// In one word, for counters and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unrequested => "unrequested",
            Self::Misannounced => "misannounced",
            Self::Unverifiable => "unverifiable",
            Self::HeldOut => "held-out",
            Self::Duplicate => "duplicate",
            Self::Equivocation => "equivocation",
            Self::Copied => "copied",
            Self::Stale => "stale",
            Self::OverQuota => "over-quota",
        }
    }
}

/// How a peer is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Heard and served.
    Good,
    /// Neither heard nor served for a while.
    Muted,
    /// To be disconnected and kept out.
    Banned,
}

impl Standing {
    /// `good`, `muted` or `banned`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Muted => "muted",
            Self::Banned => "banned",
        }
    }
}

/// One peer's account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    key: PeerKey,
    score: f64,
    score_ms: u64,
    offences: [u64; Offence::ALL.len()],
    mutes: u32,
    muted_until_ms: u64,
    banned: bool,
    groups_in: u64,
    used: u64,
    newest_version: u64,
    newest_sent_ms: u64,
    last_seen_ms: u64,
    evidence_bits: f64,
    counters: Counters,
    /// When each kind last added to the score.
    #[serde(skip)]
    charged_ms: [Option<u64>; Offence::ALL.len()],
    #[serde(skip)]
    pub(crate) quota: Quota,
}

impl Account {
    /// A spotless account.
    pub fn new(key: PeerKey, now_ms: u64) -> Self {
        Self {
            key,
            score: 0.0,
            score_ms: now_ms,
            offences: Default::default(),
            mutes: 0,
            muted_until_ms: 0,
            banned: false,
            groups_in: 0,
            used: 0,
            newest_version: 0,
            newest_sent_ms: 0,
            last_seen_ms: now_ms,
            evidence_bits: 0.0,
            counters: Counters::default(),
            charged_ms: Default::default(),
            quota: Quota::default(),
        }
    }

    /// Whose it is.
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// The decayed weight of its offences; 0 is spotless.
    pub fn score(&self, now_ms: u64) -> f64 {
        let half_lives = now_ms.saturating_sub(self.score_ms) as f64 / HALF_LIFE_MS as f64;
        self.score * (-half_lives).exp2()
    }

    /// How it is treated now.
    pub fn standing(&self, now_ms: u64) -> Standing {
        if self.banned {
            Standing::Banned
        } else if now_ms < self.muted_until_ms {
            Standing::Muted
        } else {
            Standing::Good
        }
    }

    /// When the latest mute ends or ended; 0 for none.
    pub fn muted_until_ms(&self) -> u64 {
        self.muted_until_ms
    }

    /// How often it committed each offence, those that a burst swallowed included.
    pub fn offences(&self) -> impl Iterator<Item = (Offence, u64)> + '_ {
        Offence::ALL.into_iter().zip(self.offences).filter(|&(_, count)| count > 0)
    }

    /// Its groups that were stored.
    pub fn groups_in(&self) -> u64 {
        self.groups_in
    }

    /// Uses of its groups in training.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The version of its policy, as it said last by its own clock.
    pub fn newest_version(&self) -> u64 {
        self.newest_version
    }

    /// Versions between a policy of this peer and its newest.
    pub fn staleness(&self, policy_version: u64) -> u64 {
        self.newest_version.saturating_sub(policy_version)
    }

    /// Questions between the first and the last it announced that it never announced. Many of them may
    /// mean that it shows only what suits it; some are skipped by everybody, being held out.
    pub fn withheld(&self) -> u64 {
        self.counters.withheld()
    }

    /// When it was last heard of.
    pub fn last_seen_ms(&self) -> u64 {
        self.last_seen_ms
    }

    /// Evidence that it copies, in bits ([`crate::copies`]).
    pub fn evidence_bits(&self) -> f64 {
        self.evidence_bits
    }

    /// Adds an offence; the standing that follows.
    pub fn charge(&mut self, offence: Offence, now_ms: u64) -> Standing {
        let kind = offence as usize;
        self.offences[kind] = self.offences[kind].saturating_add(1);
        let standing = self.standing(now_ms);
        let in_burst = self.charged_ms[kind].is_some_and(|at_ms| now_ms < at_ms.saturating_add(BURST_MS));
        if in_burst || standing == Standing::Banned {
            return standing;
        }
        self.charged_ms[kind] = Some(now_ms);
        let before = self.score(now_ms);
        if before < FORGIVEN_BELOW && standing == Standing::Good {
            self.mutes = 0;
        }
        self.score = before + offence.weight();
        self.score_ms = self.score_ms.max(now_ms);
        // What comes to light during a mute was done before it: it adds to the score, not to the mutes.
        if self.score >= MUTED_AT && standing == Standing::Good {
            match MUTES_MS.get(self.mutes as usize) {
                Some(duration_ms) => self.muted_until_ms = now_ms.saturating_add(*duration_ms),
                None => {
                    self.banned = true;
                    self.counters = Counters::default();
                }
            }
            self.mutes += 1;
        }
        self.standing(now_ms)
    }

    /// Notes a sign of life that says how new the peer's policy is.
    pub(crate) fn hear(&mut self, newest_version: u64, sent_ms: u64, now_ms: u64) {
        self.last_seen_ms = self.last_seen_ms.max(now_ms);
        // An older announcement, passed on late or again, says nothing new. A version may go back: a peer
        // that resumes from a checkpoint tells the truth.
        if sent_ms >= self.newest_sent_ms {
            (self.newest_sent_ms, self.newest_version) = (sent_ms, newest_version);
        }
    }

    /// Whether an announcement was made after all that were heard.
    pub(crate) fn is_later(&self, sent_ms: u64) -> bool {
        sent_ms > self.newest_sent_ms
    }

    /// What this group under this counter would be.
    pub fn sighting(&self, counter: u64, id: GroupId) -> Sighting {
        self.counters.sighting(counter, id)
    }

    /// Notes that the peer signed this group under this counter.
    pub fn see(&mut self, counter: u64, id: GroupId) -> Sighting {
        self.counters.see(counter, id)
    }

    /// Notes that the group of a counter has arrived and need not be fetched again.
    pub(crate) fn settle(&mut self, counter: u64, id: GroupId) {
        self.counters.settle(counter, id);
    }

    pub(crate) fn count_stored(&mut self) {
        self.groups_in = self.groups_in.saturating_add(1);
    }

    pub(crate) fn count_use(&mut self) {
        self.used = self.used.saturating_add(1);
    }

    /// Weighs evidence for (positive) or against copying; true when it has become an accusation.
    pub(crate) fn weigh(&mut self, bits: f64) -> bool {
        self.evidence_bits = (self.evidence_bits + bits).max(0.0);
        let accused = self.evidence_bits >= ACCUSED_AT_BITS;
        if accused {
            self.evidence_bits = 0.0;
        }
        accused
    }

    /// The encoding for a store.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// Where the bytes are no account.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let account: Self = codec::decode(bytes, MAX_ACCOUNT_BYTES)?;
        let sound = |value: f64| value.is_finite() && value >= 0.0;
        if !sound(account.score) || !sound(account.evidence_bits) || !account.counters.is_sound() {
            return Err(CodecError::OutOfBounds("an account with impossible values"));
        }
        Ok(account)
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.counters.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::new(PeerKey([1; 32]), 0)
    }

    #[test]
    fn a_score_halves_in_its_half_life() {
        let mut account = account();
        account.charge(Offence::Equivocation, 1000);
        assert_eq!(account.score(1000), 6.0);
        assert_eq!(account.score(1000 + HALF_LIFE_MS), 3.0);
        account.charge(Offence::HeldOut, 1000 + HALF_LIFE_MS);
        assert_eq!(account.score(1000 + 2 * HALF_LIFE_MS), 3.0);
        assert_eq!(account.score(0), 6.0, "a clock that goes backwards decays nothing");
        assert_eq!(account.offences().collect::<Vec<_>>(), [(Offence::HeldOut, 1), (Offence::Equivocation, 1)]);
    }

    #[test]
    fn one_accident_of_any_kind_mutes_nobody() {
        for offence in Offence::ALL {
            let mut account = account();
            for at_ms in 0..BURST_MS {
                assert_eq!(account.charge(offence, at_ms), Standing::Good);
            }
            assert_eq!(account.score(BURST_MS).ceil(), offence.weight());
            assert_eq!(account.offences().next(), Some((offence, BURST_MS)));
        }
    }

    #[test]
    fn whoever_goes_on_is_muted_twice_and_then_banned() {
        let mut account = account();
        let mut changes = Vec::new();
        let mut standing = Standing::Good;
        for at_ms in (0..600_000).step_by(1000) {
            let now = match account.standing(at_ms) {
                Standing::Good => account.charge(Offence::Unverifiable, at_ms),
                other => other,
            };
            if now != standing {
                changes.push((at_ms / 1000, now));
                standing = now;
            }
        }
        use Standing::{Banned, Muted};
        // 4 each ten seconds, a little decayed: the fourth mutes. From then on the next one is too many.
        assert_eq!(changes, [(30, Muted), (180, Banned)]);
        assert_eq!(account.standing(u64::MAX), Banned);
    }

    #[test]
    fn rare_accidents_are_never_added_up() {
        let mut account = account();
        for at in 0..10_000 {
            assert_eq!(account.charge(Offence::Unverifiable, at * HALF_LIFE_MS), Standing::Good);
        }
        assert!(account.score(10_000 * HALF_LIFE_MS) < 8.0);
    }

    #[test]
    fn mutes_are_forgiven_once_the_score_has_gone() {
        let mut account = account();
        let mute = |account: &mut Account, from_ms: u64| {
            (0..).find(|at| account.charge(Offence::Copied, from_ms + at * BURST_MS) != Standing::Good)
        };
        for round in 0..10 {
            let from_ms = round * 10 * HALF_LIFE_MS;
            assert_eq!(mute(&mut account, from_ms), Some(2));
            assert_eq!(account.standing(from_ms + 2 * BURST_MS), Standing::Muted);
            assert_eq!(account.muted_until_ms(), from_ms + 2 * BURST_MS + MUTES_MS[0]);
            assert_eq!(account.standing(account.muted_until_ms()), Standing::Good);
        }
    }

    #[test]
    fn the_newest_version_is_what_was_said_last() {
        let mut account = account();
        account.hear(50, 1000, 1);
        account.hear(40, 900, 2);
        assert_eq!((account.newest_version(), account.last_seen_ms()), (50, 2));
        account.hear(30, 1001, 3);
        assert_eq!((account.newest_version(), account.staleness(12), account.staleness(31)), (30, 18, 0));
    }

    #[test]
    fn an_account_reads_back() {
        let mut account = account();
        account.charge(Offence::Stale, 5);
        account.see(3, GroupId([1; 32]));
        account.see(9, GroupId([2; 32]));
        account.weigh(4.5);
        let mut back = Account::decode(&account.encode()).expect("decodes");
        assert_eq!((back.score(5), back.withheld(), back.evidence_bits()), (1.0, 5, 4.5));
        assert_eq!(back.see(3, GroupId([2; 32])), Sighting::Conflict);
        account.score = f64::NAN;
        assert!(Account::decode(&account.encode()).is_err());
    }
}
