//! The sharing task: carries out what the swarm's state machine decides, over the network and the store.
//!
//! One task owns the state machine. What takes time (an exchange, scoring, a durable write) runs beside it and comes back
//! as a [`Done`]; the number of these is bounded by the state machine and by the network's own limits. A group is
//! acknowledged after it is on disk, and announced after its counter is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use swarmloom_net::{Exchange, Net, NetEvent, Responder, Verdict as GossipVerdict, peer_text};
use swarmloom_protocol::buffer::{DropReason, Dropped};
use swarmloom_protocol::group::{Completion, Finish, Group, SignedGroup};
use swarmloom_protocol::id::{GroupId, PeerKey, Signer};
use swarmloom_protocol::run::RunSpec;
use swarmloom_protocol::selection::Selection;
use swarmloom_protocol::swarm::{Admission, Checked, Fetch, Gossip, Judgement, Swarm};
use swarmloom_protocol::wire::{Receipt, Request, Response, Verdict};
use swarmloom_trainer::generate;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use super::board::Board;
use super::gate::Gate;
use super::link::{External, FromTraining, NewGroup};
use super::peers::peers;
use super::start::{Known, MAX_KNOWN, NO_PEERS};
use super::{judge, now_ms};
use crate::book::TaskBook;
use crate::events::EventLog;
use crate::status::Waiting;
use crate::store::{Store, Table, Write};

/// What the task works with.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// The run.
    pub(crate) spec: RunSpec,
    /// Its tasks.
    pub(crate) book: TaskBook,
    /// This peer's key.
    pub(crate) signer: Signer,
    /// The model's tag on the wire.
    pub(crate) model: String,
    /// The decisions.
    pub(crate) swarm: Swarm,
    /// How groups of others are chosen.
    pub(crate) selection: Box<dyn Selection + Send + Sync>,
    /// The network.
    pub(crate) net: Net,
    /// What has to survive a crash.
    pub(crate) store: Arc<Store>,
    /// Where events go.
    pub(crate) events: Arc<EventLog>,
    /// Where the status is kept.
    pub(crate) board: Board,
    /// Whether there is room on disk.
    pub(crate) gate: Arc<Gate>,
    /// As many places as this peer may use threads: scoring takes one.
    pub(crate) judging: Arc<Semaphore>,
    /// Addresses of the members met last, with when.
    pub(crate) addresses: BTreeMap<PeerKey, Known>,
    /// Groups used since they were last written: their uses are counted over restarts.
    pub(crate) used: BTreeSet<GroupId>,
    /// Acknowledgements of own groups, by who gave them.
    pub(crate) given: BTreeMap<PeerKey, u64>,
    /// Banned peers that the network was told of.
    pub(crate) shut_out: BTreeSet<PeerKey>,
    /// The lowest counter among own groups in the store.
    pub(crate) lowest_kept: u64,
    /// Whether somebody has come since the last announcement of what there is.
    pub(crate) newcomers: bool,
}

/// What ran beside the task and has ended.
#[derive(Debug)]
enum Done {
    /// An exchange brought bodies, or did not.
    Fetched { number: u64, from: PeerKey, outcome: Result<(Vec<Vec<u8>>, Exchange), String> },
    /// Groups were scored.
    Judged { verdicts: Vec<(GroupId, PeerKey, Judgement)>, refused: Vec<(GroupId, Verdict)>, exchange: Exchange },
    /// Groups of others are on disk, or are not.
    Stored { groups: Vec<Kept>, durable: Durable, receipt: Receipt, exchange: Exchange },
    /// Own groups are on disk, or are not.
    Published { groups: Vec<SignedGroup>, prompts: Vec<[u8; 32]>, version: u64, durable: Durable },
    /// A peer was answered; it said what became of the groups, or went away.
    Served { to: PeerKey, receipt: Option<Vec<u8>> },
    /// Nothing to be done.
    Nothing,
}

/// Whether a write is on disk, or why not.
type Durable = Result<(), String>;

/// A group on its way to the disk.
#[derive(Debug)]
struct Kept {
    id: GroupId,
    author: PeerKey,
    bytes: usize,
}

/// How often deadlines and ages are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often the status is brought up to date.
const SHOWN_EVERY: Duration = Duration::from_millis(500);
/// How often accounts are written.
const ACCOUNTS_EVERY: Duration = Duration::from_secs(20);
/// Requests of others that are answered at one time; further ones are dropped and retried by the asker.
const MAX_SERVED: usize = 64;
/// The key of the next counter in [`Table::State`].
pub(crate) const NEXT_COUNTER: &[u8] = b"next-counter";

impl Sharing {
    /// Shares until `stop` turns true; open exchanges get a moment to end.
    pub(crate) async fn run(
        mut self,
        mut network: mpsc::Receiver<NetEvent>,
        mut training: mpsc::Receiver<FromTraining>,
        mut stop: watch::Receiver<bool>,
    ) {
        // Whoever came while the run's description was asked for.
        for link in self.net.connected() {
            self.swarm.on_connected(PeerKey(link.peer));
        }
        let mut running: JoinSet<Done> = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shown = tokio::time::interval(SHOWN_EVERY);
        let mut accounts = tokio::time::interval(ACCOUNTS_EVERY);
        let mut serving = 0_usize;
        let mut trains = true;
        loop {
            tokio::select! {
                () = super::stopped(&mut stop) => break,
                event = network.recv() => match event {
                    Some(event) => self.on_network(event, &mut running, &mut serving).await,
                    None => break,
                },
                asked = training.recv(), if trains => match asked {
                    Some(asked) => self.on_training(asked, &mut running),
                    None => trains = false,
                },
                Some(done) = running.join_next() => {
                    serving -= usize::from(matches!(done, Ok(Done::Served { .. })));
                    self.on_done(done, &mut running).await;
                }
                _ = tick.tick() => self.on_tick().await,
                _ = shown.tick() => self.report(now_ms()),
                _ = accounts.tick() => drop(self.save_accounts()),
            }
            self.fetch(&mut running);
        }
        // Groups already on disk are still acknowledged, so that their authors count them.
        let last = async {
            while let Some(done) = running.join_next().await {
                self.on_done(done, &mut running).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
        // The receipt's error has nobody left to read it; the next start reads older accounts then.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.save_accounts()).await;
    }

    async fn on_network(&mut self, event: NetEvent, running: &mut JoinSet<Done>, serving: &mut usize) {
        let now = now_ms();
        match event {
            NetEvent::Gossip { from, data, validator, .. } => {
                let verdict = match self.swarm.on_announcement(&data, PeerKey(from), now) {
                    Gossip::Accept => GossipVerdict::Accept,
                    Gossip::Ignore => GossipVerdict::Ignore,
                    Gossip::Reject => GossipVerdict::Reject,
                };
                self.net.validate(validator, verdict).await;
            }
            NetEvent::Request { peer, request, reply } => {
                if *serving >= MAX_SERVED {
                    return;
                }
                let response = match Request::decode(&request) {
                    Ok(asked) => self.swarm.serve(&asked, PeerKey(peer), now),
                    Err(error) => Response::refused(&error.to_string()),
                };
                *serving += 1;
                running.spawn(serve(PeerKey(peer), response, reply));
            }
            NetEvent::Connected { peer, address, relayed, .. } => {
                self.swarm.on_connected(PeerKey(peer));
                self.events.emit(
                    now,
                    "peer_connected",
                    &json!({ "peer": peer_text(&peer), "address": address, "relayed": relayed }),
                );
                // What it was dialled at may or may not end in its id.
                let reached = address.split("/p2p/").next().unwrap_or(&address).to_owned();
                self.board.solved(|problem| {
                    problem.what.starts_with(NO_PEERS) && problem.what.contains(&peer_text(&peer))
                        || problem.what.starts_with(&format!("{NO_PEERS} at {reached}:"))
                });
                self.newcomers = true;
            }
            NetEvent::Direct { peer, address } => {
                self.events.emit(now, "peer_direct", &json!({ "peer": peer_text(&peer), "address": address }));
            }
            NetEvent::Addresses { peer, addresses } => self.remember_addresses(PeerKey(peer), &addresses, now),
            NetEvent::OtherRun { peer, speaks } => {
                self.events.emit(now, "other_run", &json!({ "peer": peer, "speaks": speaks }));
            }
            NetEvent::SameIdentity { address } => {
                self.events.emit(now, "same_identity", &json!({ "address": address }));
                self.board.problem(
                    format!("another process has this peer's identity, at {address}"),
                    "others will take the two for one cheat: give one its own key with --identity or --data-dir".into(),
                );
            }
            NetEvent::Disconnected { peer } => {
                self.swarm.on_disconnected(PeerKey(peer), now);
                self.events.emit(now, "peer_disconnected", &json!({ "peer": peer_text(&peer) }));
            }
            NetEvent::Listening(address) => {
                self.events.emit(now, "listening", &json!({ "address": address }));
            }
            NetEvent::ListenFailed { addr, why } => {
                self.events.emit(now, "listen_failed", &json!({ "address": addr, "why": why }));
                self.board.problem(
                    format!("cannot listen on {addr}: {why}"),
                    "choose another address in network.listen".into(),
                );
            }
            NetEvent::DialFailed { address, why, attempts, next_try_in } => {
                self.events.emit(
                    now,
                    "dial_failed",
                    &json!({ "address": address, "why": why, "attempts": attempts, "next_try_s": next_try_in.map(|wait| wait.as_secs_f64()) }),
                );
                super::start::note_dial_failure(&self.board, &address, &why, attempts, next_try_in);
            }
            NetEvent::External { addr } => {
                self.events.emit(now, "external_address", &json!({ "address": addr }));
                self.board.update(|status| {
                    if !status.external.contains(&addr) && status.external.len() < MAX_ADDRESSES {
                        status.external.push(addr);
                    }
                });
            }
            NetEvent::Nat(nat) => {
                self.board.update(|status| status.nat = format!("{nat:?}").to_lowercase());
            }
            _ => {}
        }
    }

    fn on_training(&mut self, asked: FromTraining, running: &mut JoinSet<Done>) {
        match asked {
            FromTraining::Publish { groups, .. } if groups.is_empty() => {}
            FromTraining::Publish { groups, version } => {
                let signed: Vec<SignedGroup> =
                    groups.iter().map(|group| SignedGroup::sign(&self.group(group, version), &self.signer)).collect();
                let next = groups.iter().map(|group| group.counter + 1).max().unwrap_or(0);
                let mut writes: Vec<Write> = groups
                    .iter()
                    .zip(&signed)
                    .map(|(group, signed)| put(Table::Own, group.counter.to_be_bytes().to_vec(), signed.encode()))
                    .collect();
                writes.push(put(Table::State, NEXT_COUNTER.to_vec(), next.to_be_bytes().to_vec()));
                let receipt = self.store.write(writes);
                let prompts = groups.iter().map(|group| group.prompt_hash).collect();
                running.spawn(async move {
                    let durable = durable(receipt).await;
                    Done::Published { groups: signed, prompts, version, durable }
                });
            }
            FromTraining::Select { count, seed, answer } => {
                let (chosen, dropped) = self.swarm.select(self.selection.as_ref(), count, now_ms(), seed);
                self.on_dropped(&dropped);
                self.used.extend(chosen.iter().map(|stored| stored.id));
                let external = chosen
                    .into_iter()
                    .filter_map(|stored| {
                        let prompt = self.book.question_of(&stored.group).ok()?.prompt.into_bytes();
                        let staleness = self.swarm.staleness(&stored.group.author, stored.group.policy_version);
                        Some(External { stored, prompt, staleness })
                    })
                    .collect();
                // The thread may have ended meanwhile.
                let _ = answer.send(external);
            }
        }
    }

    async fn on_done(&mut self, done: Result<Done, JoinError>, running: &mut JoinSet<Done>) {
        let now = now_ms();
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "a sharing job ended badly");
                return;
            }
        };
        match done {
            Done::Fetched { number, from, outcome: Ok((bodies, exchange)) } => {
                let mut refused = Vec::new();
                let mut groups = Vec::new();
                for checked in self.swarm.on_fetched(number, bodies, from, now) {
                    match checked {
                        Checked::Judge { id, group, .. } => groups.push((id, group)),
                        Checked::Refused { id, author, reason } => {
                            self.refused(author, reason.name());
                            refused.push((id, Verdict::Refused(reason)));
                        }
                    }
                }
                let (book, judging) = (self.book.clone(), self.judging.clone());
                running.spawn(async move {
                    // Scoring keeps to the threads that this peer may use. The semaphore is never closed.
                    let _place = judging.acquire_owned().await;
                    let judged = spawn_blocking(move || {
                        let judged = groups.iter().map(|(id, group)| (*id, group.author, judge::judge(&book, group)));
                        judged.collect::<Vec<_>>()
                    });
                    match judged.await {
                        Ok(verdicts) => Done::Judged { verdicts, refused, exchange },
                        Err(_) => Done::Nothing,
                    }
                });
            }
            Done::Fetched { number, from, outcome: Err(why) } => {
                self.swarm.on_fetch_failed(number, now);
                self.events.emit(now, "fetch_failed", &json!({ "from": peer_text(&from.0), "why": why }));
            }
            Done::Judged { verdicts, mut refused, exchange } => {
                let mut kept = Vec::new();
                let mut writes = Vec::new();
                for (id, author, judgement) in verdicts {
                    match self.swarm.on_judged(id, judgement, now) {
                        Admission::Store { group, evicted } => {
                            kept.push(Kept { id, author, bytes: group.body.len() });
                            writes.push(put(Table::Groups, id.0.to_vec(), group.encode()));
                            self.on_dropped(&evicted);
                        }
                        Admission::Refuse { reason } => {
                            self.refused(author, reason.name());
                            refused.push((id, Verdict::Refused(reason)));
                        }
                    }
                }
                let stored = kept.iter().map(|kept| (kept.id, Verdict::Stored));
                let receipt = Receipt { verdicts: stored.chain(refused).collect() };
                let written = self.store.write(writes);
                running.spawn(async move {
                    let durable = durable(written).await;
                    Done::Stored { groups: kept, durable, receipt, exchange }
                });
            }
            Done::Stored { groups, durable, receipt, exchange } => {
                if !self.is_durable(&durable) {
                    return;
                }
                for kept in &groups {
                    self.events.emit(
                        now,
                        "group_stored",
                        &json!({ "from": peer_text(&kept.author.0), "id": kept.id.to_string(), "bytes": kept.bytes }),
                    );
                }
                running.spawn(async move {
                    // The author learns nothing of it then, and offers the groups to nobody twice anyway.
                    let _ = exchange.acknowledge(receipt.encode()).await;
                    Done::Nothing
                });
            }
            Done::Published { groups, prompts, version, durable } => {
                if !self.is_durable(&durable) {
                    return;
                }
                let ids: Vec<GroupId> = groups.iter().map(SignedGroup::id).collect();
                for announcement in self.swarm.publish(groups, version, now) {
                    self.announce(announcement).await;
                }
                for (id, prompt_hash) in ids.iter().zip(prompts) {
                    self.swarm.remember_own(id, prompt_hash, now);
                }
                self.forget_own();
            }
            Done::Served { to, receipt } => {
                if let Some(Ok(receipt)) = receipt.map(|receipt| Receipt::decode(&receipt)) {
                    let acknowledged = self.swarm.on_receipt(to, &receipt);
                    if self.given.contains_key(&to) || self.given.len() < MAX_GIVEN {
                        *self.given.entry(to).or_default() += acknowledged.len() as u64;
                    }
                    for id in acknowledged {
                        let fields = json!({ "by": peer_text(&to.0), "id": id.to_string() });
                        self.events.emit(now, "group_acknowledged", &fields);
                    }
                }
            }
            Done::Nothing => {}
        }
    }

    async fn on_tick(&mut self) {
        let now = now_ms();
        let dropped = self.swarm.expire(now);
        self.on_dropped(&dropped);
        for peer in self.swarm.banned() {
            if self.shut_out.len() < MAX_GIVEN && self.shut_out.insert(peer) {
                self.net.ban(peer.0).await;
                self.events.emit(now, "peer_banned", &json!({ "peer": peer_text(&peer.0) }));
            }
        }
        if std::mem::take(&mut self.newcomers)
            && let Some(announcement) = self.swarm.reannounce(now)
        {
            self.announce(announcement).await;
        }
    }

    async fn announce(&self, announcement: Vec<u8>) {
        if let Err(error) = self.net.publish(announcement).await {
            // Nobody listens, or the queue is full: those groups stay unknown to others, no more.
            tracing::debug!(%error, "an announcement was not sent");
        }
    }

    /// Takes own groups out of the store that nobody can ask for any more.
    fn forget_own(&mut self) {
        let Some(lowest) = self.swarm.lowest_own_counter() else { return };
        let gone = std::mem::replace(&mut self.lowest_kept, lowest)..lowest;
        if !gone.is_empty() {
            drop(self.store.write(gone.map(|counter| remove(Table::Own, counter.to_be_bytes().to_vec())).collect()));
        }
    }

    /// Starts what the state machine wants fetched. Without room on disk nothing is: what was announced grows old and is
    /// forgotten.
    fn fetch(&mut self, running: &mut JoinSet<Done>) {
        if self.gate.is_full() {
            return;
        }
        for fetch in self.swarm.next_fetches(now_ms()) {
            running.spawn(carry_out(self.net.clone(), self.spec.id(), fetch));
        }
    }

    fn group(&self, new: &NewGroup, version: u64) -> Group {
        Group {
            run: self.spec.id(),
            author: self.signer.key(),
            counter: new.counter,
            task: new.task,
            config_hash: self.spec.tasks.get(usize::from(new.task)).map(|task| task.config_hash).unwrap_or_default(),
            seed: new.seed,
            index: new.index,
            policy_version: version,
            model: self.model.clone(),
            created_ms: now_ms(),
            completions: new
                .completions
                .iter()
                .map(|completion| Completion {
                    text: completion.bytes.clone(),
                    finish: match completion.finish {
                        generate::Finish::Stop => Finish::Stop,
                        generate::Finish::Length => Finish::Length,
                    },
                    logprob: Some(completion.logprob),
                    tokens: Some(completion.tokens),
                })
                .collect(),
        }
    }

    fn on_dropped(&self, dropped: &[Dropped]) {
        if dropped.is_empty() {
            return;
        }
        drop(self.store.write(dropped.iter().map(|dropped| remove(Table::Groups, dropped.id.0.to_vec())).collect()));
        let now = now_ms();
        for dropped in dropped {
            let event = if dropped.reason == DropReason::UsedUp { "group_used_up" } else { "group_dropped" };
            self.events.emit(now, event, &json!({ "id": dropped.id.to_string(), "reason": dropped.reason.name() }));
        }
    }

    fn refused(&self, author: PeerKey, reason: &str) {
        self.events.emit(now_ms(), "group_refused", &json!({ "from": peer_text(&author.0), "reason": reason }));
    }

    /// Lists a failed write among the problems, and takes it off once one succeeds.
    fn is_durable(&self, durable: &Durable) -> bool {
        match durable {
            Ok(()) => self.board.solved(|problem| problem.what.starts_with(NOT_WRITTEN)),
            Err(why) => self.board.problem(
                format!("{NOT_WRITTEN}: {why}"),
                "they are neither shared nor acknowledged; look after the disk of the data folder".into(),
            ),
        }
        durable.is_ok()
    }

    /// Keeps one address of a peer that a later start can dial; the peer met longest ago makes room.
    fn remember_addresses(&mut self, peer: PeerKey, addresses: &[String], now: u64) {
        let Some(address) = addresses.first() else { return };
        let known = Known { met_ms: now, address: address.clone() };
        let before = self.addresses.insert(peer, known.clone());
        if before.is_some_and(|before| before.address == known.address && now - before.met_ms.min(now) < ADDRESS_AGE_MS)
        {
            return;
        }
        let mut writes = vec![put(Table::Addresses, peer.0.to_vec(), known.encode())];
        if self.addresses.len() > MAX_KNOWN
            && let Some(oldest) = self.addresses.iter().min_by_key(|(_, known)| known.met_ms).map(|(key, _)| *key)
        {
            self.addresses.remove(&oldest);
            writes.push(remove(Table::Addresses, oldest.0.to_vec()));
        }
        drop(self.store.write(writes));
    }

    /// Writes accounts that have changed and uses of groups; done when they are on disk.
    fn save_accounts(&mut self) -> impl Future<Output = ()> + use<> {
        let changed = self.swarm.take_changed_accounts();
        let writes =
            changed.into_iter().map(|(key, value)| Write { table: Table::Accounts, key: key.0.to_vec(), value });
        let receipt = self.store.write(writes.collect());
        async move {
            // A failure shows at the next group, whose acknowledgement depends on the same disk.
            let _ = receipt.await;
        }
    }

    fn report(&self, now: u64) {
        let (counters, links, listen) = (self.net.counters(), self.net.connected(), self.net.addresses());
        let tally = self.swarm.tally();
        let peers = peers(&self.swarm, &links, &self.given, now);
        let waits = self.swarm.waiting(now);
        let waiting = (waits.oldest_ms > SLOW_MS).then(|| Waiting {
            what: format!(
                "{} announced groups ({} at no connected peer), {} being fetched, {} being scored",
                waits.wanted, waits.out_of_reach, waits.fetching, waits.judging
            ),
            since_ms: now.saturating_sub(waits.oldest_ms),
        });
        let mut dropped: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, count) in &tally.refused {
            *dropped.entry(reason.name().to_owned()).or_default() += count;
        }
        for (reason, count) in &tally.dropped {
            *dropped.entry(reason.name().to_owned()).or_default() += count;
        }
        self.board.update(|status| {
            status.bytes.received = counters.received_bytes;
            status.bytes.sent = counters.sent_bytes;
            status.bytes.groups_received = tally.received_bytes;
            status.bytes.groups_sent = tally.served_bytes;
            status.groups.shared = tally.shared;
            status.groups.held_back = tally.held_back;
            status.groups.acknowledged = tally.acknowledged;
            status.groups.stored = tally.stored;
            status.groups.used = tally.used;
            status.groups.buffered = self.swarm.buffer().len() as u64;
            status.groups.dropped = dropped;
            status.listen = listen;
            status.sharing_waiting = waiting;
            status.peers = peers;
        });
    }
}

/// An unchanged address is written again after so long.
const ADDRESS_AGE_MS: u64 = 600_000;
/// How the problem begins that says that a write failed.
const NOT_WRITTEN: &str = "groups could not be written to the store";
/// Groups that are under way for longer are worth a word.
const SLOW_MS: u64 = 5000;
/// Peers whose acknowledgements are counted apart, and bans that are passed on.
const MAX_GIVEN: usize = 4096;
/// External addresses listed.
const MAX_ADDRESSES: usize = 16;

fn put(table: Table, key: Vec<u8>, value: Vec<u8>) -> Write {
    Write { table, key, value: Some(value) }
}

fn remove(table: Table, key: Vec<u8>) -> Write {
    Write { table, key, value: None }
}

async fn durable(receipt: crate::store::Receipt) -> Durable {
    match receipt.await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("its thread has ended".into()),
    }
}

/// Asks the candidates in turn until one has answered.
async fn carry_out(net: Net, run: swarmloom_protocol::id::RunId, fetch: Fetch) -> Done {
    let request = Request::Groups { run, ids: fetch.ids.clone() }.encode();
    let mut why = "no peer to ask".to_owned();
    let mut last = fetch.from.first().copied().unwrap_or(PeerKey([0; 32]));
    for from in &fetch.from {
        last = *from;
        let left = Duration::from_millis(fetch.deadline_ms.saturating_sub(now_ms()));
        match net.exchange(from.0, request.clone(), left).await {
            Ok(mut exchange) => match Response::decode(&std::mem::take(&mut exchange.response)) {
                Ok(Response::Groups(bodies)) => {
                    return Done::Fetched { number: fetch.number, from: *from, outcome: Ok((bodies, exchange)) };
                }
                Ok(Response::Refused(said)) => why = said,
                Ok(_) => why = "another answer than asked for".into(),
                Err(error) => why = error.to_string(),
            },
            Err(error) => why = error.to_string(),
        }
    }
    Done::Fetched { number: fetch.number, from: last, outcome: Err(why) }
}

async fn serve(to: PeerKey, response: Response, reply: Responder) -> Done {
    // A peer that goes away without a receipt has taken nothing that counts.
    Done::Served { to, receipt: reply.respond(response.encode()).await.ok() }
}
