//! Which announced groups are wanted, whom to ask for them, and what is under way.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::SwarmConfig;
use super::links::Links;
use crate::id::{GroupId, PeerKey};
use crate::wire::{Announced, MAX_RESPONSE_BYTES};

/// Groups in one fetch.
const MAX_PER_FETCH: usize = 16;
/// Peers remembered who forwarded an announcement.
const MAX_FORWARDERS: usize = 4;
/// Wait before a group is asked for again; doubles each time.
const FIRST_RETRY_MS: u64 = 1000;
/// Bytes around a group in a response.
const FRAMING: usize = 16;
/// How long after its deadline a fetch is taken for failed without being reported.
const GRACE_MS: u64 = 5000;

/// Groups to ask one peer for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Names it in [`Swarm::on_fetched`](super::Swarm::on_fetched) and
    /// [`Swarm::on_fetch_failed`](super::Swarm::on_fetch_failed).
    pub number: u64,
    /// Whom to ask: the first. The others may be asked in its stead, should it be gone by now.
    pub from: Vec<PeerKey>,
    /// What to ask for; all by one author.
    pub ids: Vec<GroupId>,
    /// Longest response worth reading.
    pub max_bytes: usize,
    /// When to stop waiting.
    pub deadline_ms: u64,
}

/// Wanted groups and fetches.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    wanted: BTreeMap<(PeerKey, GroupId), Wanted>,
    /// Wanted groups by author.
    authors: BTreeMap<PeerKey, usize>,
    flights: BTreeMap<u64, Flight>,
    next_number: u64,
}

/// An announced group.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) announced: Announced,
    /// Place of its announcement among all.
    pub(super) heard: u64,
    heard_ms: u64,
    forwarders: Vec<PeerKey>,
    /// Asked in vain.
    tried: Vec<PeerKey>,
    not_before_ms: u64,
    flight: Option<u64>,
}

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) author: PeerKey,
    pub(super) ids: Vec<GroupId>,
    from: PeerKey,
    bytes: usize,
    deadline_ms: u64,
}

impl Flight {
    /// Who was asked.
    pub(super) fn asked(&self) -> PeerKey {
        self.from
    }
}

impl Wanted {
    /// Whom to ask: the author, then whoever forwarded its announcement; those asked in vain last.
    fn candidates(&self, author: PeerKey, usable: &dyn Fn(&PeerKey) -> bool) -> Vec<PeerKey> {
        let all = std::iter::once(author).chain(self.forwarders.iter().copied().filter(|&peer| peer != author));
        let mut candidates: Vec<PeerKey> = all.filter(usable).collect();
        candidates.sort_by_key(|peer| self.tried.iter().filter(|tried| *tried == peer).count());
        candidates
    }
}

impl Fetching {
    /// Wants a group; how many others were given up to make room.
    pub(super) fn want(
        &mut self,
        author: PeerKey,
        announced: Announced,
        forwarder: PeerKey,
        (heard, heard_ms): (u64, u64),
        config: &SwarmConfig,
    ) -> usize {
        if self.hint(author, announced.id, forwarder) {
            return 0;
        }
        let wanted = Wanted {
            announced,
            heard,
            heard_ms,
            forwarders: vec![forwarder],
            tried: Vec::new(),
            not_before_ms: 0,
            flight: None,
        };
        self.wanted.insert((author, announced.id), wanted);
        *self.authors.entry(author).or_default() += 1;
        let mut given_up = 0;
        while self.authors.get(&author).is_some_and(|&count| count > config.wanted_per_author.max(1)) {
            given_up += self.give_up_oldest(author);
        }
        while self.wanted.len() > config.wanted.max(1) {
            let Some(most) = self.authors.iter().max_by_key(|(_, count)| **count).map(|(key, _)| *key) else { break };
            given_up += self.give_up_oldest(most);
        }
        given_up
    }

    /// Notes that `forwarder` may have a wanted group; whether it is wanted.
    pub(super) fn hint(&mut self, author: PeerKey, id: GroupId, forwarder: PeerKey) -> bool {
        let Some(wanted) = self.wanted.get_mut(&(author, id)) else { return false };
        if wanted.forwarders.len() < MAX_FORWARDERS && !wanted.forwarders.contains(&forwarder) {
            wanted.forwarders.push(forwarder);
        }
        true
    }

    /// Starts as many fetches as there is room for, authors in random order and their newest groups first.
    /// `room` is in groups and bytes.
    pub(super) fn start(
        &mut self,
        links: &mut Links,
        usable: &dyn Fn(&Links, &PeerKey) -> bool,
        room: (usize, usize),
        rng: &mut ChaCha8Rng,
        config: &SwarmConfig,
        now_ms: u64,
    ) -> Vec<Fetch> {
        let mut authors: Vec<PeerKey> = self.authors.keys().copied().collect();
        authors.shuffle(rng);
        let (mut groups, mut bytes) =
            (room.0.saturating_sub(self.in_flight()), room.1.saturating_sub(self.in_flight_bytes()));
        let mut fetches = Vec::new();
        // Rounds of one fetch from each author, until a round starts none.
        loop {
            let before = fetches.len();
            for author in &authors {
                if self.flights.len() >= config.flights {
                    return fetches;
                }
                if let Some(fetch) = self.start_one(*author, links, usable, (groups, bytes), config, now_ms) {
                    groups = groups.saturating_sub(fetch.ids.len());
                    bytes = bytes.saturating_sub(fetch.max_bytes);
                    fetches.push(fetch);
                }
            }
            if fetches.len() == before {
                return fetches;
            }
        }
    }

    fn start_one(
        &mut self,
        author: PeerKey,
        links: &mut Links,
        usable: &dyn Fn(&Links, &PeerKey) -> bool,
        (groups, bytes): (usize, usize),
        config: &SwarmConfig,
        now_ms: u64,
    ) -> Option<Fetch> {
        let usable = |peer: &PeerKey| usable(links, peer);
        let max_bytes = bytes.min(MAX_RESPONSE_BYTES);
        let mut ready: Vec<&Wanted> = self
            .of(author)
            .filter(|wanted| wanted.flight.is_none() && wanted.not_before_ms <= now_ms)
            .filter(|wanted| wanted.announced.bytes as usize + 2 * FRAMING <= max_bytes)
            .collect();
        ready.sort_by_key(|wanted| std::cmp::Reverse(wanted.announced.counter));
        let idle = |peer: &PeerKey| links.fetches(peer) < config.flights_per_peer;
        let from = ready.iter().find_map(|wanted| {
            let candidates = wanted.candidates(author, &usable);
            let first = candidates.iter().position(&idle)?;
            Some([&candidates[first..], &candidates[..first]].concat())
        })?;
        let mut ids = Vec::new();
        let mut total = FRAMING;
        for wanted in ready {
            let size = wanted.announced.bytes as usize + FRAMING;
            let asked = ids.len() < groups.min(MAX_PER_FETCH) && total + size <= max_bytes;
            // Who was asked in vain for a group is asked again only where nobody else is left.
            let others = || wanted.candidates(author, &usable);
            if asked && (!wanted.tried.contains(&from[0]) || others().first() == Some(&from[0])) {
                ids.push(wanted.announced.id);
                total += size;
            }
        }
        if ids.is_empty() {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        for id in &ids {
            if let Some(wanted) = self.wanted.get_mut(&(author, *id)) {
                wanted.flight = Some(number);
            }
        }
        let deadline_ms = now_ms.saturating_add(config.fetch_timeout_ms);
        links.fetch_begins(from[0]);
        self.flights.insert(number, Flight { author, ids: ids.clone(), from: from[0], bytes: total, deadline_ms });
        Some(Fetch { number, from, ids, max_bytes: total, deadline_ms })
    }

    /// Ends a fetch.
    pub(super) fn end(&mut self, number: u64, links: &mut Links) -> Option<Flight> {
        let flight = self.flights.remove(&number)?;
        links.fetch_ends(&flight.from);
        Some(flight)
    }

    /// Takes a group that has arrived off the list.
    pub(super) fn arrived(&mut self, author: PeerKey, id: GroupId) -> Option<Wanted> {
        let wanted = self.wanted.remove(&(author, id))?;
        self.count_down(author);
        Some(wanted)
    }

    /// Asks again later, elsewhere if possible, for the groups of an ended fetch that did not arrive; how many
    /// were given up.
    pub(super) fn retry(&mut self, flight: &Flight, asked: PeerKey, config: &SwarmConfig, now_ms: u64) -> usize {
        let mut given_up = 0;
        for id in &flight.ids {
            let key = (flight.author, *id);
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            wanted.flight = None;
            wanted.tried.push(asked);
            let attempts = wanted.tried.len();
            wanted.not_before_ms = now_ms.saturating_add(FIRST_RETRY_MS << (attempts - 1).min(10));
            if attempts >= config.fetch_attempts.max(1) as usize {
                self.wanted.remove(&key);
                self.count_down(flight.author);
                given_up += 1;
            }
        }
        given_up
    }

    pub(super) fn flights_from(&self, peer: &PeerKey) -> Vec<u64> {
        self.flights.iter().filter(|(_, flight)| flight.from == *peer).map(|(number, _)| *number).collect()
    }

    /// Fetches that should have been reported as failed.
    pub(super) fn overdue(&self, now_ms: u64) -> Vec<u64> {
        let late = |flight: &Flight| now_ms > flight.deadline_ms.saturating_add(GRACE_MS);
        self.flights.iter().filter(|(_, flight)| late(flight)).map(|(number, _)| *number).collect()
    }

    /// Gives up groups that are not being fetched, by author, policy version and time of announcement; how many.
    pub(super) fn give_up_where(&mut self, outdated: impl Fn(&PeerKey, u64, u64) -> bool) -> usize {
        let gone = |(author, _): &(PeerKey, GroupId), wanted: &Wanted| {
            wanted.flight.is_none() && outdated(author, wanted.announced.policy_version, wanted.heard_ms)
        };
        let keys: Vec<_> = self.wanted.iter().filter(|(key, wanted)| gone(key, wanted)).map(|(key, _)| *key).collect();
        for key in &keys {
            self.wanted.remove(key);
            self.count_down(key.0);
        }
        keys.len()
    }

    /// Groups not asked for, of these those out of reach, groups asked for, and since when the oldest waits.
    pub(super) fn waiting(&self, usable: impl Fn(&PeerKey) -> bool) -> (usize, usize, usize, Option<u64>) {
        let idle = || self.wanted.iter().filter(|(_, wanted)| wanted.flight.is_none());
        let out_of_reach = idle().filter(|((author, _), wanted)| wanted.candidates(*author, &usable).is_empty());
        let oldest = self.wanted.values().map(|wanted| wanted.heard_ms).min();
        (idle().count(), out_of_reach.count(), self.in_flight(), oldest)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let one = size_of::<(PeerKey, GroupId)>() + size_of::<Wanted>() + 2 * MAX_FORWARDERS * size_of::<PeerKey>();
        let flights = self.flights.len() * (size_of::<Flight>() + MAX_PER_FETCH * size_of::<GroupId>());
        self.wanted.len() * one + self.authors.len() * size_of::<PeerKey>() + flights
    }

    fn of(&self, author: PeerKey) -> impl Iterator<Item = &Wanted> {
        let all = (author, GroupId([0; 32]))..=(author, GroupId([255; 32]));
        self.wanted.range(all).map(|(_, wanted)| wanted)
    }

    fn in_flight(&self) -> usize {
        self.flights.values().map(|flight| flight.ids.len()).sum()
    }

    fn in_flight_bytes(&self) -> usize {
        self.flights.values().map(|flight| flight.bytes).sum()
    }

    fn give_up_oldest(&mut self, author: PeerKey) -> usize {
        let oldest = self.of(author).min_by_key(|wanted| (wanted.heard, wanted.announced.counter));
        let Some(id) = oldest.map(|wanted| wanted.announced.id) else { return 0 };
        self.wanted.remove(&(author, id));
        self.count_down(author);
        1
    }

    fn count_down(&mut self, author: PeerKey) {
        if let Some(count) = self.authors.get_mut(&author) {
            *count -= 1;
            if *count == 0 {
                self.authors.remove(&author);
            }
        }
    }
}
