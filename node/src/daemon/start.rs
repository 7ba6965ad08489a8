//! How the daemon's parts are made from settings and from what an earlier start left in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use swarmloom_net::{Net, NetConfig, NetEvent, peer_text};
use swarmloom_protocol::buffer::{BufferLimits, StoredGroup};
use swarmloom_protocol::id::{PeerKey, RunId, Signer};
use swarmloom_protocol::run::RunSpec;
use swarmloom_protocol::selection::{AdvantageWeighted, AnyCorrect, PaperUniform, PeerQuota, Selection, TopK};
use swarmloom_protocol::swarm::{Swarm, SwarmConfig};
use swarmloom_protocol::wire::{self, Request, Response};
use tokio::sync::{Semaphore, mpsc};

use super::board::Board;
use super::course::Course;
use super::gate::Gate;
use super::limits::disk_shares;
use super::now_ms;
use super::sharing::{NEXT_COUNTER, Sharing};
use crate::book::TaskBook;
use crate::config::{RuleName, RunFile, SelectionName, SharingTable};
use crate::events::EventLog;
use crate::store::{Store, Table, Write};

/// How the problem begins that says that an address could not be reached.
pub(crate) const NO_PEERS: &str = "no connection to a peer";
/// Addresses kept from earlier starts.
pub(crate) const MAX_KNOWN: usize = 64;
/// What the problem says where a peer gave no description.
const NO_DESCRIPTION: &str = "did not say what the run is";
/// Between two tries with peers that stay connected.
const DESCRIPTION_AGAIN: Duration = Duration::from_secs(5);
/// One try to learn what a run is.
const DESCRIPTION_DEADLINE: Duration = Duration::from_secs(10);

/// The sharing task, ready to run, and where own counters go on.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The task.
    pub(crate) sharing: Sharing,
    /// The lowest counter that was never announced.
    pub(crate) next_counter: u64,
}

/// An address of a peer met earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// When, in Unix milliseconds.
    pub(crate) met_ms: u64,
    /// Where.
    pub(crate) address: String,
}

impl Known {
    /// For the store: eight bytes of time, then the address.
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.met_ms.to_be_bytes(), self.address.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (time, address) = bytes.split_first_chunk()?;
        Some(Self { met_ms: u64::from_be_bytes(*time), address: String::from_utf8(address.to_vec()).ok()? })
    }
}

/// Addresses of peers met in earlier starts.
pub(crate) fn known_addresses(store: &Store) -> BTreeMap<PeerKey, Known> {
    // A store that cannot be read gives none; the same error shows again where it matters.
    let entries = store.entries(Table::Addresses).unwrap_or_default();
    let known = entries
        .iter()
        .filter_map(|(key, value)| Some((PeerKey(key.as_slice().try_into().ok()?), Known::decode(value)?)));
    known.take(MAX_KNOWN).collect()
}

/// The network's settings.
pub(crate) fn net_config(file: &RunFile, seed: [u8; 32], run: &RunId, known: Vec<String>) -> NetConfig {
    let network = &file.network;
    // Peers of one machine need not probe for what the internet sees of them.
    let is_local =
        network.listen.iter().all(|address| ["/ip4/127.", "/ip6/::1/"].iter().any(|start| address.starts_with(start)));
    let base = match is_local {
        true => NetConfig::local(seed, run.to_string()),
        false => NetConfig::wan(seed, run.to_string()),
    };
    NetConfig {
        listen: network.listen.clone(),
        bootstrap: network.bootstrap.clone(),
        external: network.external.clone(),
        allow: network.allow.clone(),
        mdns: network.mdns,
        upnp: network.upnp,
        relay_server: network.relay,
        max_connections: network.max_connections,
        upload_bytes_per_s: file.limits.upload_kib_s.map(|rate| rate * 1024),
        download_bytes_per_s: file.limits.download_kib_s.map(|rate| rate * 1024),
        known,
        max_gossip_bytes: wire::MAX_ANNOUNCEMENT_BYTES,
        max_request_bytes: wire::MAX_REQUEST_BYTES,
        max_response_bytes: wire::MAX_RESPONSE_BYTES,
        max_receipt_bytes: wire::MAX_RECEIPT_BYTES,
        ..base
    }
}

/// Lists a failed dial among the problems, in the place of what was said of the address before.
pub(crate) fn note_dial_failure(board: &Board, address: &str, why: &str, attempts: u32, next_try_in: Option<Duration>) {
    let what = format!("{NO_PEERS} at {address}");
    board.solved(|problem| problem.what.starts_with(&format!("{what}:")));
    let next = next_try_in.map_or_else(
        || "it is not tried again".to_owned(),
        |wait| format!("it is tried again in {} s", wait.as_secs().max(1)),
    );
    board.problem(
        format!("{what}: {why} (tried {attempts} times)"),
        format!("{next}; is that machine on, and its address still the same? A new invite has today's addresses"),
    );
}

/// Asks every peer that is reached what the run is, until one answers with a description that has the run's hash. Never
/// gives up: the caller stops it.
pub(crate) async fn fetch_description(
    net: &Net,
    events: &mut mpsc::Receiver<NetEvent>,
    run: RunId,
    board: &Board,
    log: &EventLog,
) -> RunSpec {
    let mut again = tokio::time::interval(DESCRIPTION_AGAIN);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            // Whoever could not answer may be able to by now.
            _ = again.tick() => match net.connected().into_iter().next() {
                Some(link) => Some(NetEvent::Connected { peer: link.peer, address: link.address, relayed: link.relayed, outbound: link.outbound }),
                None => continue,
            },
        };
        match event {
            Some(NetEvent::Connected { peer, .. }) => {
                let request = Request::Spec(run).encode();
                let answer = net.exchange(peer, request, DESCRIPTION_DEADLINE).await;
                let why = match answer {
                    Ok(mut exchange) => match Response::decode(&std::mem::take(&mut exchange.response)) {
                        Ok(Response::Spec(bytes)) => match RunSpec::decode(&bytes) {
                            Ok(spec) if spec.id() == run => {
                                // The other side needs no more of us; its wait ends by itself as well.
                                let _ = exchange.acknowledge(Vec::new()).await;
                                board.solved(|problem| problem.what.contains(NO_DESCRIPTION));
                                return spec;
                            }
                            Ok(spec) => format!("it described another run, {}", spec.id()),
                            Err(error) => error.to_string(),
                        },
                        Ok(Response::Refused(why)) => why,
                        Ok(_) => "another answer than asked for".into(),
                        Err(error) => error.to_string(),
                    },
                    Err(error) => error.to_string(),
                };
                log.emit(now_ms(), "description_failed", &json!({ "from": peer_text(&peer), "why": why }));
                board.problem(
                    format!("{} {NO_DESCRIPTION}: {why}", peer_text(&peer)),
                    "others are asked as they are reached; if it stays so, ask for a new invite".into(),
                );
            }
            Some(NetEvent::DialFailed { address, why, attempts, next_try_in }) => {
                log.emit(now_ms(), "dial_failed", &json!({ "address": address, "why": why, "attempts": attempts }));
                note_dial_failure(board, &address, &why, attempts, next_try_in);
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// What the sharing task is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// The peer's settings.
    pub(crate) file: &'a RunFile,
    /// The run.
    pub(crate) spec: &'a RunSpec,
    /// Seed of the peer's key.
    pub(crate) seed: [u8; 32],
    /// What an earlier start left.
    pub(crate) store: &'a Arc<Store>,
    /// Where events go.
    pub(crate) events: &'a Arc<EventLog>,
    /// Where the status is kept.
    pub(crate) board: &'a Board,
    /// Whether there is room on disk.
    pub(crate) gate: &'a Arc<Gate>,
    /// Nothing says that this key was used in this run before.
    pub(crate) is_first: bool,
}

/// Makes the sharing task from what the store holds.
///
/// # Errors
/// Where the store cannot be read.
pub(crate) fn sharing(parts: Parts<'_>, book: TaskBook, course: &Course, net: Net) -> anyhow::Result<Restored> {
    let Parts { file, spec, seed, store, events, board, gate, is_first } = parts;
    let defaults = SwarmConfig::default();
    let config = SwarmConfig {
        takes: file.sharing.external > 0,
        buffer: BufferLimits {
            max_groups: file.sharing.buffer_groups as usize,
            max_bytes: defaults.buffer.max_bytes.min(disk_shares(file.limits.disk_mib).groups_bytes as usize),
            max_uses: file.sharing.max_uses,
        },
        ..defaults
    };
    let mut swarm = Swarm::new(config, spec.clone(), Signer::from_seed(&seed), file.peer.seed)?;
    let values = |table, what: &'static str| -> anyhow::Result<Vec<Vec<u8>>> {
        Ok(store.entries(table).context(what)?.into_iter().map(|(_, value)| value).collect())
    };
    let own = store.entries(Table::Own).context("own groups")?;
    let counters: Vec<u64> =
        own.iter().filter_map(|(key, _)| Some(u64::from_be_bytes(key.as_slice().try_into().ok()?))).collect();
    let groups = store.entries(Table::Groups).context("the replay buffer")?;
    let damaged: Vec<Vec<u8>> = groups
        .iter()
        .filter(|(_, value)| StoredGroup::decode(value, spec).is_err())
        .map(|(key, _)| key.clone())
        .collect();
    let restored = swarm.restore(
        values(Table::Accounts, "accounts")?,
        groups.into_iter().map(|(_, value)| value).collect::<Vec<_>>(),
        own.into_iter().map(|(_, value)| value).collect::<Vec<_>>(),
        now_ms(),
    );
    let gone: Vec<Write> = damaged
        .into_iter()
        .chain(restored.dropped.iter().map(|dropped| dropped.id.0.to_vec()))
        .map(|key| Write { table: Table::Groups, key, value: None })
        .collect();
    drop(store.write(gone));
    for dropped in &restored.dropped {
        let fields = json!({ "id": dropped.id.to_string(), "reason": dropped.reason.name() });
        events.emit(now_ms(), "group_dropped", &fields);
    }
    if restored.damaged > 0 {
        board.problem(
            format!("{} entries of the store did not read back", restored.damaged),
            "they are left out; check the disk if it happens again".into(),
        );
    }
    let ids: Vec<String> = swarm.buffer().iter().map(|group| group.id.to_string()).collect();
    let stated = store.get(Table::State, NEXT_COUNTER).context("the next counter")?;
    let stated = stated.and_then(|value| Some(u64::from_be_bytes(value.as_slice().try_into().ok()?)));
    // A key that was used before, and a store that does not know how far: the time in milliseconds is above any counter
    // that was reached by counting, and a counter used twice would be taken for a cheat.
    let stated = stated.unwrap_or(if is_first { 0 } else { now_ms() });
    let next_counter = counters.iter().map(|counter| counter + 1).fold(stated, u64::max);
    events.emit(
        now_ms(),
        "restored",
        &json!({ "groups": ids, "dropped": restored.dropped.len(), "own": counters.len(), "next_counter": next_counter }),
    );
    let sharing = Sharing {
        spec: spec.clone(),
        book,
        signer: Signer::from_seed(&seed),
        model: course.model.tag(),
        swarm,
        selection: selection(&file.sharing),
        net,
        store: store.clone(),
        events: events.clone(),
        board: board.clone(),
        gate: gate.clone(),
        judging: Arc::new(Semaphore::new(course.threads)),
        addresses: known_addresses(store),
        used: BTreeSet::new(),
        given: BTreeMap::new(),
        shut_out: BTreeSet::new(),
        lowest_kept: counters.iter().copied().min().unwrap_or(next_counter),
        newcomers: true,
    };
    Ok(Restored { sharing, next_counter })
}

/// The selection that a file names, or the one that suits its rule.
fn selection(sharing: &SharingTable) -> Box<dyn Selection + Send + Sync> {
    let suits = match sharing.rule {
        RuleName::Imitation => SelectionName::AnyCorrect,
        RuleName::Paper => SelectionName::PaperUniform,
    };
    match sharing.selection.unwrap_or(suits) {
        SelectionName::PaperUniform => Box::new(PaperUniform),
        SelectionName::AnyCorrect => Box::new(AnyCorrect),
        SelectionName::TopK => Box::new(TopK),
        SelectionName::PeerQuota => Box::new(PeerQuota),
        SelectionName::AdvantageWeighted => Box::new(AdvantageWeighted),
    }
}
