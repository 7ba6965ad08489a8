//! What a peer's network is told: identity, addresses, limits, paces.

use std::fmt;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use crate::address::{self, AddressError};
use crate::identity::{key_of_text, peer_of_key};
use crate::names::{MAX_RUN, Names};

/// Everything [`start`](crate::start) needs. Begin with [`local`](Self::local) or [`wan`](Self::wan).
#[derive(Clone)]
pub struct NetConfig {
    /// Secret seed of the peer's ed25519 identity.
    pub key_seed: [u8; 32],
    /// The run's id, 1 to 64 hex digits. Peers with another one are not members.
    pub run: String,
    /// Addresses to listen on. Port 0 takes any; an address that ends in `/p2p/RELAY/p2p-circuit` is listened
    /// on through that relay. None at all is a peer that only dials.
    pub listen: Vec<String>,
    /// Addresses of peers to stay connected to. They may be dead: they are tried again for ever.
    pub bootstrap: Vec<String>,
    /// Addresses at which others are known to reach this peer.
    pub external: Vec<String>,
    /// libp2p's texts of the peers that may connect; empty lets everybody.
    pub allow: Vec<String>,
    /// Addresses of peers seen earlier, with `/p2p/` at their end; each is tried a few times.
    pub known: Vec<String>,
    /// Whether every listen address is one that other peers can reach, loopback included: one machine, one
    /// LAN, one cluster. Then nothing is probed, and listen addresses are told to others as they are.
    pub trust_listen: bool,
    /// Whether to find peers on the local network with multicast DNS.
    pub mdns: bool,
    /// Whether to ask the local router for a port, with UPnP.
    pub upnp: bool,
    /// Whether to carry traffic between peers of the run that cannot reach each other. Needs an address that
    /// others reach: from `external`, from `trust_listen`, or found by probing.
    pub relay_server: bool,
    /// Most connections at once.
    pub max_connections: u32,
    /// Peers that discovery stops looking for more at. At most `max_connections`.
    pub wanted_peers: u32,
    /// Limit on what is sent, in bytes a second, over all connections and protocols; at least 16,384.
    pub upload_bytes_per_s: Option<u64>,
    /// Limit on what is received, likewise.
    pub download_bytes_per_s: Option<u64>,
    /// Largest gossip message, in bytes.
    pub max_gossip_bytes: usize,
    /// Largest request, in bytes.
    pub max_request_bytes: usize,
    /// Largest response, in bytes.
    pub max_response_bytes: usize,
    /// Largest receipt, in bytes.
    pub max_receipt_bytes: usize,
    /// Exchanges that this peer serves at once, over all others. One peer may hold at most a quarter.
    pub max_served: usize,
    /// Exchanges that this peer asks for at once, over all others; further ones wait. To one peer at most 8.
    pub max_asked: usize,
    /// How fast things are tried and given up.
    pub pace: Pace,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Wait after the first failed dial; it doubles with each further one, plus or minus a quarter.
    pub retry_first: Duration,
    /// Longest such wait.
    pub retry_max: Duration,
    /// How long a new connection may leave open whether it is a member's.
    pub identify: Duration,
    /// Between two searches for more peers.
    pub discover: Duration,
    /// How long a connection that nothing uses stays open.
    pub idle: Duration,
    /// An exchange in which less than 4 KiB moves in this time has stalled.
    pub stall: Duration,
    /// How long serving one exchange may take, whatever the asking peer allows.
    pub serve: Duration,
    /// How long to wait for the receipt after a response has been sent, and for the confirmation after the
    /// receipt has been. Verifying and storing a response happens in it.
    pub receipt: Duration,
    /// Gossipsub's heartbeat: how fast a mesh forms.
    pub heartbeat: Duration,
}

impl Pace {
    /// Peers on one machine or in one cluster.
    pub const LOCAL: Self = Self {
        retry_first: Duration::from_millis(200),
        retry_max: Duration::from_secs(5),
        identify: Duration::from_secs(10),
        discover: Duration::from_secs(2),
        idle: Duration::from_secs(3600),
        stall: Duration::from_secs(15),
        serve: Duration::from_secs(300),
        receipt: Duration::from_secs(60),
        heartbeat: Duration::from_millis(200),
    };
    /// Peers across the internet.
    pub const WAN: Self = Self {
        retry_first: Duration::from_secs(1),
        retry_max: Duration::from_secs(60),
        identify: Duration::from_secs(30),
        discover: Duration::from_secs(30),
        idle: Duration::from_secs(3600),
        stall: Duration::from_secs(30),
        serve: Duration::from_secs(900),
        receipt: Duration::from_secs(120),
        heartbeat: Duration::from_secs(1),
    };
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The run's id is no hex text.
    #[error("run `{0}`: a run's id is 1 to {MAX_RUN} hex digits")]
    Run(String),
    /// An address is none.
    #[error("{field}: {source}")]
    Address {
        /// Which list holds it.
        field: &'static str,
        /// What is wrong with it.
        source: AddressError,
    },
    /// A peer's text is none.
    #[error("allow: `{0}` is not the id of a peer with an ed25519 key, such as 12D3KooW...")]
    Peer(String),
    /// A number is out of its range.
    #[error("{field} is {found}, and must be {range}")]
    Range {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What is allowed.
        range: &'static str,
    },
}

impl NetConfig {
    /// Peers on one machine: loopback, quick retries, every listen address reachable, no NAT work.
    pub fn local(key_seed: [u8; 32], run: impl Into<String>) -> Self {
        Self {
            key_seed,
            run: run.into(),
            listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".into(), "/ip4/127.0.0.1/tcp/0".into()],
            bootstrap: Vec::new(),
            external: Vec::new(),
            allow: Vec::new(),
            known: Vec::new(),
            trust_listen: true,
            mdns: false,
            upnp: false,
            relay_server: false,
            max_connections: 256,
            wanted_peers: 64,
            upload_bytes_per_s: None,
            download_bytes_per_s: None,
            max_gossip_bytes: 4096,
            max_request_bytes: 1 << 20,
            max_response_bytes: 64 << 20,
            max_receipt_bytes: 64 << 10,
            max_served: 64,
            max_asked: 64,
            pace: Pace::LOCAL,
        }
    }

    /// Peers across the internet: all interfaces, NATs probed and traversed, the local network searched.
    pub fn wan(key_seed: [u8; 32], run: impl Into<String>) -> Self {
        Self {
            listen: ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0"]
                .map(String::from)
                .to_vec(),
            trust_listen: false,
            mdns: true,
            upnp: true,
            wanted_peers: 32,
            pace: Pace::WAN,
            ..Self::local(key_seed, run)
        }
    }

    /// The same, checked and parsed.
    pub(crate) fn check(self) -> Result<Settings, ConfigError> {
        let addresses = |field: &'static str, texts: &[String]| {
            texts
                .iter()
                .map(|text| address::parse(text).map_err(|source| ConfigError::Address { field, source }))
                .collect::<Result<Vec<_>, _>>()
        };
        let range = |field, found: u64, fits: bool, range| {
            if fits { Ok(()) } else { Err(ConfigError::Range { field, found, range }) }
        };
        let rate = |field, rate: Option<u64>| match rate {
            Some(found) => range(field, found, found >= MIN_RATE, "at least 16384 bytes a second"),
            None => Ok(()),
        };
        rate("upload_bytes_per_s", self.upload_bytes_per_s)?;
        rate("download_bytes_per_s", self.download_bytes_per_s)?;
        range("max_connections", self.max_connections.into(), self.max_connections >= 4, "at least 4")?;
        let gossip = self.max_gossip_bytes;
        range("max_gossip_bytes", gossip as u64, (1..=65_000).contains(&gossip), "1 to 65000")?;
        range("max_served", self.max_served as u64, (1..=4096).contains(&self.max_served), "1 to 4096")?;
        range("max_asked", self.max_asked as u64, (1..=4096).contains(&self.max_asked), "1 to 4096")?;
        let allow = self.allow.iter().map(|text| match key_of_text(text) {
            Some(key) => Ok(peer_of_key(&key)),
            None => Err(ConfigError::Peer(text.clone())),
        });
        Ok(Settings {
            names: Names::of(&self.run).ok_or_else(|| ConfigError::Run(self.run.clone()))?,
            listen: addresses("listen", &self.listen)?,
            bootstrap: addresses("bootstrap", &self.bootstrap)?,
            external: addresses("external", &self.external)?,
            // The address book is a hint, written by an earlier version perhaps: what is wrong in it is left out.
            known: self.known.iter().filter_map(|text| address::parse(text).ok()).collect(),
            allow: allow.collect::<Result<_, _>>()?,
            raw: self,
        })
    }
}

impl fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetConfig")
            .field("run", &self.run)
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("external", &self.external)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

/// The least rate that leaves room for the protocols that keep a connection alive.
const MIN_RATE: u64 = 16 << 10;

/// A configuration whose texts have been read.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) names: Names,
    pub(crate) listen: Vec<Multiaddr>,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) external: Vec<Multiaddr>,
    pub(crate) known: Vec<Multiaddr>,
    pub(crate) allow: Vec<PeerId>,
    /// The numbers and switches; its texts are not read again.
    pub(crate) raw: NetConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_usable() {
        NetConfig::local([1; 32], "ab").check().expect("local");
        let wan = NetConfig::wan([1; 32], "ab").check().expect("wan");
        assert_eq!(wan.listen.len(), 4);
        assert!(wan.raw.upnp && wan.raw.mdns && !wan.raw.trust_listen);
    }

    #[test]
    fn the_seed_is_not_shown() {
        let shown = format!("{:?}", NetConfig::local([171; 32], "ab"));
        assert!(!shown.contains("171"), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let base = || NetConfig::local([1; 32], "ab");
        let error = |config: NetConfig| config.check().expect_err("must be refused").to_string();
        assert!(error(NetConfig { run: "no hex".into(), ..base() }).contains("no hex"));
        assert!(
            error(NetConfig { bootstrap: vec!["1.2.3.4:5".into()], ..base() }).starts_with("bootstrap: `1.2.3.4:5`")
        );
        assert!(error(NetConfig { allow: vec!["me".into()], ..base() }).contains("`me`"));
        assert!(error(NetConfig { upload_bytes_per_s: Some(100), ..base() }).contains("upload_bytes_per_s is 100"));
        // The address book is only a hint.
        let known = NetConfig { known: vec!["nonsense".into(), "/ip4/1.2.3.4/tcp/1".into()], ..base() };
        assert_eq!(known.check().expect("usable").known.len(), 1);
    }
}
