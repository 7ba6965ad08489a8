//! Which of libp2p's protocols a peer speaks, and how they are set.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::autonat::v2 as autonat;
use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MessageAuthenticity, PeerScoreParams, PeerScoreThresholds, TopicScoreParams,
    ValidationMode, WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{self, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{dcutr, identify, mdns, ping, relay, upnp};
use libp2p_allow_block_list::{self as access, AllowedPeers, BlockedPeers};
use libp2p_connection_limits::{self as limits, ConnectionLimits};

use crate::config::Settings;

/// What gossipsub's envelope adds to a message: author, number, signature, topic, lengths.
const ENVELOPE: usize = 512;
/// How long a message waits for its verdict.
const VERDICT_IN: Duration = Duration::from_secs(30);
/// Connections with one peer: one each way, a relayed one, and one to spare while they change.
const PER_PEER: u32 = 4;
/// Connections that are still being set up, each way.
const PENDING: u32 = 64;
/// A circuit through this peer's relay: libp2p's own 128 KiB and 2 minutes carry control messages only, and
/// this must carry bodies until the peers have found a direct way.
const CIRCUIT_BYTES: u64 = 1 << 30;
const CIRCUIT_TIME: Duration = Duration::from_secs(3600);
const CIRCUITS: usize = 64;
/// Peers whose addresses identify remembers.
const REMEMBERED: usize = 1024;
/// Peers that say they take part in the run, as kept for others.
const PROVIDERS: usize = 256;
const AGENT: &str = concat!("swarmloom/", env!("CARGO_PKG_VERSION"));

/// Gossipsub with one topic.
pub(crate) type Gossip = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// Order matters: a connection is offered to these one after the other, and whoever may refuse it comes first,
/// so that nobody keeps books on refused ones.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: limits::Behaviour,
    pub(crate) blocked: access::Behaviour<BlockedPeers>,
    pub(crate) allowed: Toggle<access::Behaviour<AllowedPeers>>,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: kad::Behaviour<MemoryStore>,
    pub(crate) gossip: Gossip,
    pub(crate) relay_client: relay::client::Behaviour,
    pub(crate) relay_server: Toggle<relay::Behaviour>,
    pub(crate) hole_punch: dcutr::Behaviour,
    pub(crate) probe: Toggle<autonat::client::Behaviour>,
    pub(crate) probed: Toggle<autonat::server::Behaviour>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) streams: libp2p_stream::Behaviour,
}

/// Why the protocols cannot be set up: a mistake in this program, not in what it was given.
#[derive(Debug, thiserror::Error)]
#[error("gossip: {0}")]
pub(crate) struct Unset(String);

/// All protocols of a peer, and why the local network cannot be searched, where it cannot.
pub(crate) fn build(
    key: &Keypair,
    relay_client: relay::client::Behaviour,
    settings: &Settings,
) -> Result<(Behaviour, Option<std::io::Error>), Unset> {
    let me = key.public().to_peer_id();
    let Settings { names, allow, raw, .. } = settings;
    let mut allowed = access::Behaviour::<AllowedPeers>::default();
    for peer in allow {
        allowed.allow_peer(*peer);
    }
    let identify = identify::Config::new(names.member.clone(), key.public())
        .with_agent_version(AGENT.into())
        .with_push_listen_addr_updates(true)
        .with_cache_size(REMEMBERED);
    let relay_server = relay::Config {
        max_circuits: CIRCUITS,
        max_circuits_per_peer: CIRCUITS / 4,
        max_circuit_bytes: CIRCUIT_BYTES,
        max_circuit_duration: CIRCUIT_TIME,
        ..relay::Config::default()
    };
    let (mdns, no_mdns) = match raw.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me)) {
        Some(Ok(mdns)) => (Some(mdns), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let behaviour = Behaviour {
        limits: limits::Behaviour::new(connection_limits(raw.max_connections)),
        blocked: access::Behaviour::default(),
        allowed: (!allow.is_empty()).then_some(allowed).into(),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new()),
        kad: kademlia(me, settings),
        gossip: gossip(key, settings)?,
        relay_client,
        relay_server: raw.relay_server.then(|| relay::Behaviour::new(me, relay_server)).into(),
        hole_punch: dcutr::Behaviour::new(me),
        probe: (!raw.trust_listen).then(autonat::client::Behaviour::default).into(),
        probed: (!raw.trust_listen).then(autonat::server::Behaviour::default).into(),
        upnp: raw.upnp.then(upnp::tokio::Behaviour::default).into(),
        mdns: mdns.into(),
        streams: libp2p_stream::Behaviour::new(),
    };
    Ok((behaviour, no_mdns))
}

/// Others may take three quarters: the rest is left for those that this peer chooses.
fn connection_limits(most: u32) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_established(Some(most))
        .with_max_established_incoming(Some(most - most / 4))
        .with_max_established_per_peer(Some(PER_PEER))
        .with_max_pending_incoming(Some(PENDING))
        .with_max_pending_outgoing(Some(PENDING))
}

fn kademlia(me: libp2p::PeerId, settings: &Settings) -> kad::Behaviour<MemoryStore> {
    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: PROVIDERS,
        max_provided_keys: 1,
    };
    let mut config = kad::Config::new(settings.names.table.clone());
    config
        .set_query_timeout(settings.raw.pace.identify)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(settings.raw.pace.discover * 10))
        // What others want kept is looked at first: this table is for one key.
        .set_record_filtering(StoreInserts::FilterBoth);
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), config);
    // Until others can reach this peer; the driver changes it then.
    kad.set_mode(Some(kad::Mode::Client));
    kad
}

/// Meshes of a few peers work like large ones: below `mesh_n_low` every peer is in it, and a publisher tells
/// all peers it knows of.
fn gossip(key: &Keypair, settings: &Settings) -> Result<Gossip, Unset> {
    let unset = |error: &dyn std::fmt::Display| Unset(error.to_string());
    let topic = IdentTopic::new(settings.names.topic.clone());
    // Heartbeats: a message is kept for so long, for those who ask again and until it has its verdict.
    let history = (VERDICT_IN.as_millis() / settings.raw.pace.heartbeat.as_millis().max(1)).clamp(5, 1000) as usize;
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id(settings.names.mesh.clone(), gossipsub::Version::V1_1)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(settings.raw.max_gossip_bytes + ENVELOPE)
        .history_length(history)
        .heartbeat_initial_delay(settings.raw.pace.heartbeat)
        .heartbeat_interval(settings.raw.pace.heartbeat)
        .flood_publish(true)
        .mesh_outbound_min(1)
        .mesh_n_low(3)
        .mesh_n(6)
        .mesh_n_high(12)
        // A member is seldom gone for good, and a small mesh misses it.
        .prune_backoff(Duration::from_secs(10))
        .unsubscribe_backoff(Duration::from_secs(1))
        // Entries live this long, and a peer can only add them as fast as their signatures are checked.
        .duplicate_cache_time(Duration::from_secs(120))
        .build()
        .map_err(|error| unset(&error))?;
    let filter = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let mut gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Signed(key.clone()), config, filter)
        .map_err(|error| unset(&error))?;
    let (scores, thresholds) = scores(&topic);
    gossip.with_peer_score(scores, thresholds).map_err(|error| unset(&error))?;
    gossip.subscribe(&topic).map_err(|error| unset(&error))?;
    Ok(gossip)
}

/// Only what a peer does wrong counts: three rejected messages silence it, for about ten minutes. Being quiet,
/// or one of many behind one address, is no fault in a training run.
fn scores(topic: &IdentTopic) -> (PeerScoreParams, PeerScoreThresholds) {
    let decay = gossipsub::score_parameter_decay(Duration::from_secs(600));
    let on_topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: decay,
        ..TopicScoreParams::default()
    };
    let scores = PeerScoreParams {
        topics: [(topic.hash(), on_topic)].into(),
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: -1.0,
        behaviour_penalty_threshold: 10.0,
        behaviour_penalty_decay: decay,
        ..PeerScoreParams::default()
    };
    (scores, PeerScoreThresholds::default())
}

/// What one peer's addresses are cut off at.
pub(crate) const ADDRESSES: NonZeroUsize = NonZeroUsize::new(16).unwrap();
