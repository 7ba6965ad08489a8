//! What this peer gives: announcements, answers, and what others say became of its groups.

use super::{Standing, Swarm};
use crate::codec;
use crate::group::{Group, MAX_GROUP_BYTES, SignedGroup};
use crate::id::{GroupId, PeerKey, SIGNATURE_BYTES};
use crate::quota::Allowance;
use crate::wire::{
    Announced, Announcement, MAX_ANNOUNCED, MAX_IDS, MAX_RESPONSE_BYTES, Receipt, Request, Response, Verdict,
};

impl Swarm {
    /// Keeps own groups for others to fetch; the announcements to gossip. `newest_version` is that of this
    /// peer's policy. Without groups, the announcement is a sign of life that tells the version.
    ///
    /// Groups beyond what the run allows an author are held back: others would take them for a flood.
    pub fn publish(&mut self, groups: Vec<SignedGroup>, newest_version: u64, now_ms: u64) -> Vec<Vec<u8>> {
        let allowance = self.announcing_own();
        let mut announced = Vec::new();
        for signed in groups {
            if signed.author() != self.signer.key() || self.own.get(&signed.id()).is_some() {
                continue;
            }
            if !self.own_quota.take(1, allowance, now_ms) {
                self.tally.held_back += 1;
                continue;
            }
            announced.push(announce(&signed));
            self.own.keep(signed, now_ms);
            self.tally.shared += 1;
        }
        if announced.is_empty() && !self.own_quota.take(1, allowance, now_ms) {
            return Vec::new();
        }
        // A policy that wrote groups exists, whatever the caller says.
        let written = announced.iter().map(|group| group.policy_version).max();
        self.newest_version = newest_version.max(written.unwrap_or(0));
        let chunks: Vec<&[Announced]> =
            if announced.is_empty() { vec![&[]] } else { announced.chunks(MAX_ANNOUNCED).collect() };
        chunks.into_iter().map(|groups| self.announcement(groups.to_vec(), now_ms)).collect()
    }

    /// Announces the latest own groups again, for peers that have come since; `None` where there are none that
    /// others may still use, or others would take it for a flood.
    pub fn reannounce(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        let bounds = self.bounds();
        let allowance = self.announcing_own();
        let usable = |(signed, kept_ms): &(&SignedGroup, u64)| {
            // After resuming from an older checkpoint there may be groups of versions yet to come.
            let staleness = self.newest_version.checked_sub(signed.policy_version());
            staleness.is_some_and(|staleness| staleness <= bounds.max_staleness_versions)
                && now_ms.saturating_sub(*kept_ms) <= bounds.max_age_ms
        };
        let most = MAX_ANNOUNCED.min(allowance.burst as usize);
        let groups: Vec<Announced> = self.own.latest().filter(usable).take(most).map(|(s, _)| announce(s)).collect();
        if groups.is_empty() || !self.own_quota.take(1, allowance, now_ms) {
            return None;
        }
        Some(self.announcement(groups, now_ms))
    }

    /// Names an own group's question by its text, as a judgement does for others', so that whoever copies the
    /// group is recognised here too.
    pub fn remember_own(&mut self, id: &GroupId, prompt_hash: [u8; 32], now_ms: u64) {
        let Some(signed) = self.own.get(id) else { return };
        let bytes = signed.bytes();
        let content = &bytes[..bytes.len() - SIGNATURE_BYTES];
        if let Ok(group) = codec::decode::<Group>(content, MAX_GROUP_BYTES) {
            self.heard += 1;
            let comparison = self.copies.compare(prompt_hash, &group, self.heard);
            self.weigh(&comparison, now_ms);
        }
    }

    /// The lowest counter among the own groups kept: a store need not keep those before it.
    pub fn lowest_own_counter(&self) -> Option<u64> {
        self.own.lowest_counter()
    }

    /// Answers a request. Groups of others are served as well as own ones: their authors signed them.
    pub fn serve(&mut self, request: &Request, from: PeerKey, now_ms: u64) -> Response {
        let run = match request {
            Request::Spec(run) | Request::Groups { run, .. } => *run,
        };
        if run != self.run {
            return Response::refused("this peer is in another run");
        }
        match self.accounts.standing(&from, now_ms) {
            Standing::Good => {}
            Standing::Muted => return Response::refused("muted for a while: too much of what you sent was wrong"),
            Standing::Banned => return Response::refused("banned: too much of what you sent was wrong"),
        }
        let per_minute = self.config.serve_bytes_per_minute as f64;
        let allowance = Allowance { per_minute, burst: per_minute };
        let refusal = "that is more than a peer is served in a minute; ask again later";
        match request {
            Request::Spec(_) => {
                let spec = self.spec.encode();
                if self.links.take_serving(from, spec.len() as u64, allowance, now_ms) {
                    Response::Spec(spec)
                } else {
                    Response::refused(refusal)
                }
            }
            Request::Groups { ids, .. } => {
                // Longest framing of the response, and of each body in it.
                let mut left = MAX_RESPONSE_BYTES - 16;
                let mut bodies: Vec<Vec<u8>> = Vec::new();
                for id in ids.iter().take(MAX_IDS) {
                    let Some(body) = self.body(id).cloned() else { continue };
                    if body.len() + 9 > left {
                        break;
                    }
                    if !self.links.take_serving(from, body.len() as u64, allowance, now_ms) {
                        if bodies.is_empty() {
                            return Response::refused(refusal);
                        }
                        break;
                    }
                    left -= body.len() + 9;
                    self.tally.served_bytes += body.len() as u64;
                    bodies.push(body.to_vec());
                }
                Response::Groups(bodies)
            }
        }
    }

    /// Notes what a peer says became of own groups; those it acknowledges for the first time.
    pub fn on_receipt(&mut self, from: PeerKey, receipt: &Receipt) -> Vec<GroupId> {
        let stored = receipt.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Stored);
        let news: Vec<GroupId> = stored.map(|(id, _)| *id).filter(|id| self.own.acknowledge(id, from)).collect();
        self.tally.acknowledged += news.len() as u64;
        news
    }

    /// Half of what others let pass at once: announcements may bunch up on their way.
    fn announcing_own(&self) -> Allowance {
        let allowance = self.announcing();
        Allowance { burst: allowance.burst / 2.0, ..allowance }
    }

    fn announcement(&mut self, groups: Vec<Announced>, now_ms: u64) -> Vec<u8> {
        // Never twice the same: others take what is not later for a repetition.
        self.last_sent_ms = now_ms.max(self.last_sent_ms.saturating_add(1));
        Announcement {
            run: self.run,
            author: self.signer.key(),
            sent_ms: self.last_sent_ms,
            newest_version: self.newest_version,
            groups,
        }
        .sign(&self.signer)
    }
}

fn announce(signed: &SignedGroup) -> Announced {
    Announced {
        id: signed.id(),
        counter: signed.counter(),
        task: signed.task(),
        policy_version: signed.policy_version(),
        // At most MAX_GROUP_BYTES, half a MiB.
        bytes: signed.bytes().len() as u32,
    }
}
