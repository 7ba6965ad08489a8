//! A peer's part in a swarm, as a state machine without I/O.
//!
//! Whoever drives it passes on what arrives (announcements, bodies of groups, requests, receipts, connections)
//! and does what it asks for: gossip announcements, fetch groups, judge them (make the question again and
//! score the completions), store what is admitted, disconnect who is banned.
//!
//! ```text
//! announcement -> wanted -> fetched -> undecided -> judged -> stored -> selected, up to max_uses times
//! ```
//!
//! Every collection is bounded ([`SwarmConfig`]), and what one peer can take up of each is bounded too. Who is
//! to blame is decided by signatures: what a group or an announcement says is its author's fault alone, bytes
//! that are neither are the sender's. Nothing that others can repeat is held against its author twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::account::{Account, Accounts, Offence, Standing};
use crate::buffer::{BufferLimits, DropReason, Dropped, ReplayBuffer, StoredGroup};
use crate::copies::CopyWatch;
use crate::group::{Group, SignedGroup};
use crate::id::{GroupId, PeerKey, RunId, Signer};
use crate::quota::{Allowance, Quota};
use crate::run::{RunError, RunSpec};
use crate::selection::{Bounds, Candidate, Selection};
use crate::wire::Reason;

mod fetching;
mod intake;
mod links;
mod own;
mod sharing;
#[cfg(test)]
mod tests;

pub use fetching::Fetch;
use fetching::Fetching;
pub use intake::{Admission, Checked, Gossip, Judgement};
use links::Links;
use own::OwnGroups;

/// Bounds of a [`Swarm`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmConfig {
    /// Whether others' groups are wanted. Otherwise this peer only gives.
    pub takes: bool,
    /// Groups of others kept.
    pub buffer: BufferLimits,
    /// Own groups kept for others to fetch.
    pub own_groups: usize,
    /// Bytes of own groups kept.
    pub own_bytes: usize,
    /// Accounts of other peers, apart from bans.
    pub accounts: usize,
    /// Groups remembered to recognise copies.
    pub copies: usize,
    /// Announced groups waiting to be fetched.
    pub wanted: usize,
    /// Of these, from one author.
    pub wanted_per_author: usize,
    /// Fetches under way.
    pub flights: usize,
    /// Of these, from one peer.
    pub flights_per_peer: usize,
    /// Bytes of groups being fetched or judged.
    pub undecided_bytes: usize,
    /// Groups being fetched or judged.
    pub undecided_groups: usize,
    /// How long a fetch may take, in milliseconds.
    pub fetch_timeout_ms: u64,
    /// How often a group is asked for before it is given up.
    pub fetch_attempts: u32,
    /// How long judging may take, in milliseconds.
    pub judge_timeout_ms: u64,
    /// Bytes of groups served to one peer in a minute.
    pub serve_bytes_per_minute: u64,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            takes: true,
            buffer: BufferLimits { max_groups: 512, max_bytes: 24 << 20, max_uses: 8 },
            own_groups: 256,
            own_bytes: 4 << 20,
            accounts: 1024,
            copies: 4096,
            wanted: 1024,
            wanted_per_author: 128,
            flights: 8,
            flights_per_peer: 2,
            undecided_bytes: 4 << 20,
            undecided_groups: 256,
            fetch_timeout_ms: 10_000,
            fetch_attempts: 3,
            judge_timeout_ms: 120_000,
            serve_bytes_per_minute: 32 << 20,
        }
    }
}

/// What has happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Own groups announced.
    pub shared: u64,
    /// Own groups not announced, being more than the run allows.
    pub held_back: u64,
    /// Acknowledgements of own groups, each from one peer for one group.
    pub acknowledged: u64,
    /// Groups of others announced to us for the first time.
    pub heard: u64,
    /// Groups of others stored.
    pub stored: u64,
    /// Uses of others' groups in training.
    pub used: u64,
    /// Groups of others refused, by reason.
    pub refused: BTreeMap<Reason, u64>,
    /// Groups of others stored and later dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Announced groups that nobody delivered, or that were given up for newer ones.
    pub undelivered: u64,
    /// Bytes of groups received.
    pub received_bytes: u64,
    /// Bytes of groups served.
    pub served_bytes: u64,
}

/// What others' groups are waiting for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Groups announced and not yet asked for.
    pub wanted: usize,
    /// Of these, groups that no connected peer is known to have.
    pub out_of_reach: usize,
    /// Groups asked for.
    pub fetching: usize,
    /// Groups being judged.
    pub judging: usize,
    /// Milliseconds since the oldest of all these was announced.
    pub oldest_ms: u64,
}

/// What [`Swarm::restore`] could not take up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries that did not read back.
    pub damaged: usize,
    /// Groups that found no room.
    pub dropped: Vec<Dropped>,
}

/// A group that has arrived and is being judged.
#[derive(Debug)]
struct Undecided {
    group: Group,
    signed: SignedGroup,
    /// Place of its announcement among all.
    heard: u64,
    received_ms: u64,
}

/// A peer's part in a swarm.
#[derive(Debug)]
pub struct Swarm {
    config: SwarmConfig,
    spec: RunSpec,
    run: RunId,
    signer: Signer,
    rng: ChaCha8Rng,
    accounts: Accounts,
    links: Links,
    fetching: Fetching,
    undecided: BTreeMap<GroupId, Undecided>,
    copies: CopyWatch,
    buffer: ReplayBuffer,
    own: OwnGroups,
    own_quota: Quota,
    newest_version: u64,
    last_sent_ms: u64,
    /// Announcements heard; the next one's place among them.
    heard: u64,
    tally: Tally,
}

impl Swarm {
    /// A peer that has just joined. `seed` decides in which order authors are asked.
    ///
    /// # Errors
    /// Where the run's values are out of range.
    pub fn new(config: SwarmConfig, spec: RunSpec, signer: Signer, seed: u64) -> Result<Self, RunError> {
        spec.check()?;
        Ok(Self {
            run: spec.id(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            accounts: Accounts::new(config.accounts),
            links: Links::default(),
            fetching: Fetching::default(),
            undecided: BTreeMap::new(),
            copies: CopyWatch::new(config.copies),
            buffer: ReplayBuffer::new(config.buffer),
            own: OwnGroups::new(config.own_groups, config.own_bytes),
            own_quota: Quota::default(),
            newest_version: 0,
            last_sent_ms: 0,
            heard: 0,
            tally: Tally::default(),
            config,
            spec,
            signer,
        })
    }

    /// Takes up what a store kept: encoded [`Account`]s, [`StoredGroup`]s and own [`SignedGroup`]s. The counters
    /// of stored groups are used even where the account was written before them.
    pub fn restore<B: AsRef<[u8]>>(
        &mut self,
        accounts: impl IntoIterator<Item = B>,
        groups: impl IntoIterator<Item = B>,
        own: impl IntoIterator<Item = B>,
        now_ms: u64,
    ) -> Restored {
        let mut restored = Restored::default();
        for bytes in accounts {
            match Account::decode(bytes.as_ref()) {
                Ok(account) => self.accounts.restore(account, now_ms),
                Err(_) => restored.damaged += 1,
            }
        }
        let decoded = groups.into_iter().map(|bytes| StoredGroup::decode(bytes.as_ref(), &self.spec));
        let (groups, damaged): (Vec<_>, Vec<_>) = decoded.partition(Result::is_ok);
        restored.damaged += damaged.len();
        let mut groups: Vec<StoredGroup> = groups.into_iter().flatten().collect();
        groups.sort_by_key(|group| (group.received_ms, group.id));
        for group in groups {
            let account = self.accounts.open(group.group.author, group.received_ms);
            account.see(group.group.counter, group.id);
            account.settle(group.group.counter, group.id);
            // Evidence was weighed when the group arrived; here it is only remembered.
            self.copies.compare(group.prompt_hash, &group.group, self.heard);
            self.heard += 1;
            restored.dropped.extend(self.buffer.insert(group));
        }
        for bytes in own {
            match SignedGroup::open_in(bytes.as_ref(), &self.spec, &self.run) {
                Ok((signed, _)) if signed.author() == self.signer.key() => {
                    self.newest_version = self.newest_version.max(signed.policy_version());
                    self.own.keep(signed, now_ms);
                }
                _ => restored.damaged += 1,
            }
        }
        restored
    }

    /// This peer.
    pub fn key(&self) -> PeerKey {
        self.signer.key()
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The run's content.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Notes a connection.
    pub fn on_connected(&mut self, peer: PeerKey) {
        self.links.connect(peer);
    }

    /// Notes the end of a peer's last connection. Fetches from it have failed.
    pub fn on_disconnected(&mut self, peer: PeerKey, now_ms: u64) {
        self.links.disconnect(&peer);
        for number in self.fetching.flights_from(&peer) {
            self.on_fetch_failed(number, now_ms);
        }
    }

    /// What is held against the peers, and for them.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Accounts changed since the last call, encoded, or `None` where one was given up: what a store writes.
    pub fn take_changed_accounts(&mut self) -> Vec<(PeerKey, Option<Vec<u8>>)> {
        self.accounts.take_changed()
    }

    /// Peers to disconnect and keep out.
    pub fn banned(&self) -> Vec<PeerKey> {
        self.accounts.banned().collect()
    }

    /// The groups of others at hand.
    pub fn buffer(&self) -> &ReplayBuffer {
        &self.buffer
    }

    /// What has happened since the start.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What others' groups are waiting for.
    pub fn waiting(&self, now_ms: u64) -> Waiting {
        let usable = |peer: &PeerKey| self.usable(peer, now_ms);
        let (wanted, out_of_reach, fetching, oldest) = self.fetching.waiting(usable);
        let received = self.undecided.values().map(|undecided| undecided.received_ms).min();
        Waiting {
            wanted,
            out_of_reach,
            fetching,
            judging: self.undecided.len(),
            oldest_ms: oldest.into_iter().chain(received).min().map_or(0, |since_ms| now_ms.saturating_sub(since_ms)),
        }
    }

    /// Chooses at most `count` groups of others for a training step and counts their use. Also the groups that
    /// are gone now: outdated ones before the choice, used-up ones after it.
    pub fn select(
        &mut self,
        policy: &dyn Selection,
        count: usize,
        now_ms: u64,
        seed: u64,
    ) -> (Vec<StoredGroup>, Vec<Dropped>) {
        let mut dropped = self.expire(now_ms);
        let bounds = self.bounds();
        let mut ids = Vec::new();
        let mut candidates = Vec::new();
        for group in self.buffer.iter() {
            let candidate = Candidate {
                rewards: &group.rewards,
                author: group.group.author,
                staleness: self.staleness(&group.group.author, group.group.policy_version),
                age_ms: now_ms.saturating_sub(group.received_ms),
            };
            if bounds.allow(&candidate) {
                ids.push(group.id);
                candidates.push(candidate);
            }
        }
        let chosen = policy.choose(&candidates, count, seed);
        let mut groups = Vec::new();
        for id in chosen.into_iter().take(count).filter_map(|at| ids.get(at)) {
            let Some((group, gone)) = self.buffer.use_once(id) else { continue };
            if let Some(account) = self.accounts.get_mut(&group.group.author) {
                account.count_use();
            }
            self.tally.used += 1;
            self.note_dropped(gone.as_slice());
            dropped.extend(gone);
            groups.push(group);
        }
        (groups, dropped)
    }

    /// Versions between a policy of a peer and its newest.
    pub fn staleness(&self, author: &PeerKey, policy_version: u64) -> u64 {
        self.accounts.get(author).map_or(0, |account| account.staleness(policy_version))
    }

    /// Drops what is outdated: stored groups too old, too stale or of banned authors, which are returned;
    /// announced groups that nobody delivered; fetches and judgements that never ended.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Dropped> {
        let bounds = self.bounds();
        let accounts = &self.accounts;
        let dropped = self.buffer.drop_where(|group| {
            let account = accounts.get(&group.group.author);
            if account.is_some_and(|account| account.standing(now_ms) == Standing::Banned) {
                Some(DropReason::Banned)
            } else if now_ms.saturating_sub(group.received_ms) > bounds.max_age_ms {
                Some(DropReason::Aged)
            } else if account.map_or(0, |a| a.staleness(group.group.policy_version)) > bounds.max_staleness_versions {
                Some(DropReason::Stale)
            } else {
                None
            }
        });
        self.note_dropped(&dropped);
        for number in self.fetching.overdue(now_ms) {
            self.on_fetch_failed(number, now_ms);
        }
        let accounts = &self.accounts;
        let given_up = self.fetching.give_up_where(|author, policy_version, heard_ms| {
            let staleness = accounts.get(author).map_or(0, |account| account.staleness(policy_version));
            now_ms.saturating_sub(heard_ms) > bounds.max_age_ms
                || staleness > bounds.max_staleness_versions
                || accounts.standing(author, now_ms) != Standing::Good
        });
        self.tally.undelivered += given_up as u64;
        let judge_timeout_ms = self.config.judge_timeout_ms;
        let before = self.undecided.len();
        self.undecided.retain(|_, undecided| now_ms.saturating_sub(undecided.received_ms) <= judge_timeout_ms);
        for _ in self.undecided.len()..before {
            self.note_refused(Reason::Unscored);
        }
        dropped
    }

    /// Bytes of memory that this state takes, about. Bounded whatever others do.
    pub fn memory_bytes(&self) -> usize {
        let undecided = self.undecided.values().map(|undecided| {
            let completions = undecided.group.completions.len() * size_of::<crate::group::Completion>();
            2 * undecided.signed.bytes().len() + completions + size_of::<Undecided>()
        });
        self.accounts.memory_bytes()
            + self.links.memory_bytes()
            + self.fetching.memory_bytes()
            + undecided.sum::<usize>()
            + self.copies.memory_bytes()
            + self.buffer.memory_bytes()
            + self.own.memory_bytes()
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            max_staleness_versions: self.spec.limits.max_staleness_versions,
            max_age_ms: self.spec.limits.max_age_s.saturating_mul(1000),
        }
    }

    /// What one author may announce: a minute's worth at once, at least 16 groups.
    fn announcing(&self) -> Allowance {
        let per_minute = f64::from(self.spec.limits.groups_per_minute);
        Allowance { per_minute, burst: per_minute.max(16.0) }
    }

    /// Whether a peer can be asked for groups.
    fn usable(&self, peer: &PeerKey, now_ms: u64) -> bool {
        self.links.is_connected(peer) && self.accounts.standing(peer, now_ms) == Standing::Good
    }

    fn charge(&mut self, peer: PeerKey, offence: Offence, now_ms: u64) {
        if peer != self.signer.key() {
            self.accounts.charge(peer, offence, now_ms);
        }
    }

    fn note_refused(&mut self, reason: Reason) {
        *self.tally.refused.entry(reason).or_default() += 1;
    }

    fn note_dropped(&mut self, dropped: &[Dropped]) {
        for gone in dropped {
            *self.tally.dropped.entry(gone.reason).or_default() += 1;
        }
    }

    /// Whose group this is, where it is at hand.
    fn holder(&self, id: &GroupId) -> Option<PeerKey> {
        let undecided = || self.undecided.get(id).map(|undecided| undecided.group.author);
        let stored = || self.buffer.get(id).map(|group| group.group.author);
        self.own.get(id).map(SignedGroup::author).or_else(stored).or_else(undecided)
    }

    /// The signed bytes of a group that others may have.
    fn body(&self, id: &GroupId) -> Option<&Arc<[u8]>> {
        self.own.get(id).map(SignedGroup::bytes).or_else(|| self.buffer.get(id).map(|group| &group.body))
    }
}
