//! What this peer takes: an announcement's, a body's and a judgement's way to the buffer.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Fetch, Standing, Swarm, Undecided};
use crate::account::{Offence, Sighting};
use crate::buffer::{Dropped, StoredGroup};
use crate::copies::Comparison;
use crate::group::{Group, SignedGroup};
use crate::id::{GroupId, PeerKey, SIGNATURE_BYTES};
use crate::wire::{Announced, Announcement, Reason};

/// What gossip does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gossip {
    /// Passes it on.
    Accept,
    /// Drops it; whoever forwarded it may be honest.
    Ignore,
    /// Drops it; no honest peer forwards such a thing.
    Reject,
}

/// A fetched group after all checks that need no task machinery.
#[derive(Debug, Clone, PartialEq)]
pub enum Checked {
    /// Make its question again and score it, then call [`Swarm::on_judged`].
    Judge {
        /// Its name.
        id: GroupId,
        /// What its author signed.
        group: Group,
        /// The signed group as it travelled.
        body: Arc<[u8]>,
    },
    /// Not taken.
    Refused {
        /// Its name.
        id: GroupId,
        /// Who announced it.
        author: PeerKey,
        /// Why.
        reason: Reason,
    },
}

/// What making the question again and scoring the completions showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// The question is genuine.
    Scored {
        /// Reward of each completion.
        rewards: Vec<f32>,
        /// Hash of the question's text, the same for equal texts from any seed.
        prompt_hash: [u8; 32],
    },
    /// There is no such question; why, for people.
    Unverifiable(String),
    /// The question's text is among those held out.
    HeldOut,
}

/// What becomes of a judged group.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is in the buffer; store it, then acknowledge it.
    Store {
        /// The group.
        group: Box<StoredGroup>,
        /// Groups that made room for it.
        evicted: Vec<Dropped>,
    },
    /// Not taken.
    Refuse {
        /// Why.
        reason: Reason,
    },
}

impl Swarm {
    /// Takes an announcement from gossip, as `forwarder` delivered it, and tells gossip what to do with it.
    ///
    /// A muted forwarder is heard all the same: gossip delivers each message once, so that ignoring it would
    /// lose what honest authors said.
    pub fn on_announcement(&mut self, bytes: &[u8], forwarder: PeerKey, now_ms: u64) -> Gossip {
        if self.accounts.standing(&forwarder, now_ms) == Standing::Banned {
            return Gossip::Ignore;
        }
        let Ok(said) = Announcement::open(bytes) else {
            self.charge(forwarder, Offence::Malformed, now_ms);
            return Gossip::Reject;
        };
        let author = said.author;
        if said.run != self.run
            || author == self.signer.key()
            || self.accounts.standing(&author, now_ms) != Standing::Good
        {
            return Gossip::Ignore;
        }
        let account = self.accounts.open(author, now_ms);
        // Whoever repeats an old announcement must not harm its author, so only a later one is held against it.
        let is_later = account.is_later(said.sent_ms);
        account.hear(said.newest_version, said.sent_ms, now_ms);
        self.heard += 1;
        if let Some(offence) = self.false_statement(&said) {
            if is_later {
                self.charge(author, offence, now_ms);
            }
            return Gossip::Ignore;
        }
        self.plan(&said, forwarder, is_later, now_ms)
    }

    /// What an announcement says that cannot be true, or breaks the run's rules.
    fn false_statement(&self, said: &Announcement) -> Option<Offence> {
        let wrong = |group: &Announced| {
            usize::from(group.task) >= self.spec.tasks.len()
                || group.policy_version > said.newest_version
                || !(SIGNATURE_BYTES..=self.spec.limits.max_group_bytes()).contains(&(group.bytes as usize))
                || self.holder(&group.id).is_some_and(|holder| holder != said.author)
        };
        let mut counters = BTreeSet::new();
        if said.groups.iter().any(wrong) {
            Some(Offence::Misannounced)
        } else if !said.groups.iter().all(|group| counters.insert((group.counter, group.id))) {
            Some(Offence::Duplicate)
        } else {
            None
        }
    }

    /// Wants what is new in an announcement.
    fn plan(&mut self, said: &Announcement, forwarder: PeerKey, is_later: bool, now_ms: u64) -> Gossip {
        let author = said.author;
        let max_staleness = self.spec.limits.max_staleness_versions;
        let allowance = self.announcing();
        // Old announcements leave half of the allowance alone, or repeating them could use it all up.
        let reserve = if is_later { 0 } else { (allowance.burst / 2.0) as u64 };
        let (mut news, mut offence) = (0, None);
        for group in &said.groups {
            let account = self.accounts.open(author, now_ms);
            if said.newest_version - group.policy_version > max_staleness {
                offence = offence.or(Some(Offence::Stale));
                continue;
            }
            let mut sighting = account.sighting(group.counter, group.id);
            if sighting == Sighting::New {
                if account.quota.left(allowance, now_ms) <= reserve || !account.quota.take(1, allowance, now_ms) {
                    self.note_refused(Reason::OverQuota);
                    offence = offence.or(Some(Offence::OverQuota));
                    continue;
                }
                sighting = account.see(group.counter, group.id);
                news += 1;
                self.tally.heard += 1;
            }
            let stale = account.staleness(group.policy_version) > max_staleness;
            match sighting {
                Sighting::New | Sighting::Known { settled: false } => {
                    if self.config.takes && !stale && self.holder(&group.id).is_none() {
                        let when = (self.heard, now_ms);
                        let given_up = self.fetching.want(author, *group, forwarder, when, &self.config);
                        self.tally.undelivered += given_up as u64;
                    }
                }
                Sighting::Conflict => {
                    // Proof by itself, and told once for each counter: it may be held against the author at
                    // any time.
                    account.see(group.counter, group.id);
                    self.charge(author, Offence::Equivocation, now_ms);
                    self.note_refused(Reason::Duplicate);
                }
                Sighting::Known { settled: true } | Sighting::Contested | Sighting::Forgotten => {}
            }
        }
        if is_later && news == 0 {
            // A sign of life costs as much as a group.
            let account = self.accounts.open(author, now_ms);
            if !account.quota.take(1, allowance, now_ms) {
                offence = offence.or(Some(Offence::OverQuota));
            }
        }
        match offence {
            Some(offence) => {
                if is_later {
                    self.charge(author, offence, now_ms);
                }
                Gossip::Ignore
            }
            None if is_later || news > 0 => Gossip::Accept,
            None => Gossip::Ignore,
        }
    }

    /// Groups to fetch now. Call it after announcements, connections, and whenever a fetch or a judgement ends;
    /// and every second or so, for repeated attempts.
    pub fn next_fetches(&mut self, now_ms: u64) -> Vec<Fetch> {
        for number in self.fetching.overdue(now_ms) {
            self.on_fetch_failed(number, now_ms);
        }
        let judging_bytes: usize = self.undecided.values().map(|undecided| undecided.signed.bytes().len()).sum();
        let room = (
            self.config.undecided_groups.saturating_sub(self.undecided.len()),
            self.config.undecided_bytes.saturating_sub(judging_bytes),
        );
        let accounts = &self.accounts;
        let usable = |links: &super::Links, peer: &PeerKey| {
            links.is_connected(peer) && accounts.standing(peer, now_ms) == Standing::Good
        };
        self.fetching.start(&mut self.links, &usable, room, &mut self.rng, &self.config, now_ms)
    }

    /// Takes the answer of `from` to a fetch. What did not come is asked for again later, elsewhere if possible.
    pub fn on_fetched(&mut self, number: u64, bodies: Vec<Vec<u8>>, from: PeerKey, now_ms: u64) -> Vec<Checked> {
        // An answer that comes after its fetch was given up is nobody's fault.
        let Some(flight) = self.fetching.end(number, &mut self.links) else { return Vec::new() };
        let mut missing: BTreeSet<GroupId> = flight.ids.iter().copied().collect();
        let mut checked = Vec::new();
        for body in bodies {
            self.tally.received_bytes += body.len() as u64;
            let Some(id) = SignedGroup::id_of(&body, &self.spec) else {
                self.blame_sender(from, Offence::Malformed, Reason::Malformed, now_ms);
                continue;
            };
            if !missing.contains(&id) {
                let again = flight.ids.contains(&id);
                let offence = if again { Offence::Duplicate } else { Offence::Unrequested };
                self.blame_sender(from, offence, if again { Reason::Duplicate } else { Reason::Unrequested }, now_ms);
                continue;
            }
            if let Some(outcome) = self.check(id, &body, flight.author, from, now_ms) {
                missing.remove(&id);
                checked.push(outcome);
            }
        }
        self.tally.undelivered += self.fetching.retry(&flight, from, &self.config, now_ms) as u64;
        checked
    }

    /// Notes that a fetch came to nothing. It is tried again later, elsewhere if possible; nobody is to blame.
    pub fn on_fetch_failed(&mut self, number: u64, now_ms: u64) {
        let Some(flight) = self.fetching.end(number, &mut self.links) else { return };
        let asked = flight.asked();
        self.tally.undelivered += self.fetching.retry(&flight, asked, &self.config, now_ms) as u64;
    }

    /// Checks a body that was asked for; `None` where it is the sender's fault and may be had elsewhere.
    fn check(&mut self, id: GroupId, body: &[u8], author: PeerKey, from: PeerKey, now_ms: u64) -> Option<Checked> {
        let refuse = |reason| Some(Checked::Refused { id, author, reason });
        let opened = SignedGroup::open_in(body, &self.spec, &self.run);
        if let Err(crate::group::GroupError::Signature) = opened {
            // The name covers what is signed, not the signature: only the sender can have spoilt it.
            self.blame_sender(from, Offence::Malformed, Reason::Malformed, now_ms);
            return None;
        }
        // The author signed an announcement of exactly these bytes, so from here on all is its own doing.
        let wanted = self.fetching.arrived(author, id)?;
        if let Some(account) = self.accounts.get_mut(&author) {
            account.settle(wanted.announced.counter, id);
        }
        let (offence, reason) = match opened {
            Err(error) if error.blames_author() => (Offence::Unverifiable, Reason::Unverifiable),
            Err(_) => (Offence::Misannounced, Reason::Malformed),
            Ok((signed, group)) => {
                let announced = Announced {
                    id,
                    counter: signed.counter(),
                    task: signed.task(),
                    policy_version: signed.policy_version(),
                    bytes: body.len() as u32,
                };
                if announced == wanted.announced && signed.author() == author {
                    if self.staleness(&author, signed.policy_version()) > self.spec.limits.max_staleness_versions {
                        // It took too long to get here.
                        self.note_refused(Reason::Stale);
                        return refuse(Reason::Stale);
                    }
                    if self.holder(&id).is_some() {
                        self.note_refused(Reason::Duplicate);
                        return refuse(Reason::Duplicate);
                    }
                    let shared = signed.bytes().clone();
                    let undecided =
                        Undecided { group: group.clone(), signed, heard: wanted.heard, received_ms: now_ms };
                    self.undecided.insert(id, undecided);
                    return Some(Checked::Judge { id, group, body: shared });
                }
                (Offence::Misannounced, Reason::Misannounced)
            }
        };
        self.charge(author, offence, now_ms);
        self.note_refused(reason);
        refuse(reason)
    }

    fn blame_sender(&mut self, from: PeerKey, offence: Offence, reason: Reason, now_ms: u64) {
        self.charge(from, offence, now_ms);
        self.note_refused(reason);
    }

    /// Takes the judgement of a group that [`on_fetched`](Self::on_fetched) gave out, and decides on it.
    pub fn on_judged(&mut self, id: GroupId, judgement: Judgement, now_ms: u64) -> Admission {
        match self.decide(id, judgement, now_ms) {
            Ok((group, evicted)) => {
                self.tally.stored += 1;
                self.note_dropped(&evicted);
                Admission::Store { group: Box::new(group), evicted }
            }
            Err(reason) => {
                self.note_refused(reason);
                Admission::Refuse { reason }
            }
        }
    }

    fn decide(
        &mut self,
        id: GroupId,
        judgement: Judgement,
        now_ms: u64,
    ) -> Result<(StoredGroup, Vec<Dropped>), Reason> {
        // Judged too late, twice, or never given out.
        let Undecided { group, signed, heard, received_ms } = self.undecided.remove(&id).ok_or(Reason::Unscored)?;
        let author = group.author;
        let (rewards, prompt_hash) = match judgement {
            Judgement::Unverifiable(_) => {
                self.charge(author, Offence::Unverifiable, now_ms);
                return Err(Reason::Unverifiable);
            }
            Judgement::HeldOut => {
                self.charge(author, Offence::HeldOut, now_ms);
                return Err(Reason::HeldOut);
            }
            Judgement::Scored { rewards, prompt_hash } => (rewards, prompt_hash),
        };
        if rewards.len() != group.completions.len() || !rewards.iter().all(|reward| reward.is_finite()) {
            return Err(Reason::Unscored);
        }
        if self.accounts.standing(&author, now_ms) != Standing::Good {
            return Err(Reason::Muted);
        }
        let comparison = self.copies.compare(prompt_hash, &group, heard);
        if self.weigh(&comparison, now_ms).contains(&author) || comparison.is_copy {
            return Err(Reason::Copied);
        }
        if self.staleness(&author, group.policy_version) > self.spec.limits.max_staleness_versions {
            return Err(Reason::Stale);
        }
        self.accounts.open(author, now_ms).count_stored();
        let body = signed.bytes().clone();
        let stored = StoredGroup { id, group, body, rewards, prompt_hash, received_ms, uses: 0 };
        let evicted = self.buffer.insert(stored.clone());
        Ok((stored, evicted))
    }

    /// Adds evidence of copying to accounts; who is accused now.
    pub(super) fn weigh(&mut self, comparison: &Comparison, now_ms: u64) -> Vec<PeerKey> {
        let mut accused = Vec::new();
        for (author, bits) in &comparison.evidence {
            if self.accounts.get_mut(author).is_some_and(|account| account.weigh(*bits)) {
                self.charge(*author, Offence::Copied, now_ms);
                accused.push(*author);
            }
        }
        accused
    }
}
