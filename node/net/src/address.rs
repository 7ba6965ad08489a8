//! Addresses as libp2p writes them: checking, comparing, and which of them are worth telling others.

use std::net::IpAddr;

use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::{PeerId, multiaddr};

/// Why a text is no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not the syntax of a multiaddr.
    #[error(
        "`{text}` is not an address such as /ip4/192.0.2.1/udp/4001/quic-v1 or /dns4/example.org/tcp/4001: {source}"
    )]
    Syntax {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: multiaddr::Error,
    },
    /// A multiaddr, but not of a kind that is listened on or dialled here.
    #[error("`{0}` says neither `/tcp/PORT` nor `/udp/PORT/quic-v1`, nor a relay before `/p2p-circuit`")]
    Transport(String),
}

/// Whether a text is an address that can be listened on or dialled: TCP, QUIC, or through a relay.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_address(text: &str) -> Result<(), AddressError> {
    parse(text).map(drop)
}

pub(crate) fn parse(text: &str) -> Result<Multiaddr, AddressError> {
    let address: Multiaddr =
        text.trim().parse().map_err(|source| AddressError::Syntax { text: text.to_owned(), source })?;
    let mut parts = address.iter();
    let host = matches!(
        parts.next(),
        Some(
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
                | Protocol::Dnsaddr(_)
        )
    );
    let by_name = matches!(address.iter().next(), Some(Protocol::Dnsaddr(_)));
    let port = match parts.next() {
        Some(Protocol::Tcp(_)) => true,
        Some(Protocol::Udp(_)) => matches!(parts.next(), Some(Protocol::QuicV1)),
        _ => by_name,
    };
    if host && port { Ok(address) } else { Err(AddressError::Transport(text.to_owned())) }
}

/// The peer that an address ends at, where it says.
pub(crate) fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The address with the peer at its end, once.
pub(crate) fn with_peer(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    address.clone().with_p2p(peer).unwrap_or_else(|other| other)
}

/// The address without the peer at its end.
pub(crate) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// Whether an address leads through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether an address can mean something to a peer elsewhere: not unspecified, and unless `local`, neither
/// loopback nor link-local. Private networks stay: peers in one house need them, and others only lose a dial.
pub(crate) fn is_worth_telling(address: &Multiaddr, local: bool) -> bool {
    let ip = match address.iter().next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        Some(_) => return true,
        None => return false,
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_unspecified() && !ip.is_multicast() && (local || !(ip.is_loopback() || link_local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_can_be_dialled_is_an_address() {
        let peer = PeerId::random();
        for good in [
            "/ip4/0.0.0.0/tcp/0",
            "/ip6/::/udp/4001/quic-v1",
            "/dns4/example.org/tcp/4001",
            "/dnsaddr/example.org",
            &format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}"),
            &format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}/p2p-circuit"),
        ] {
            check_address(good).expect(good);
        }
        for bad in ["1.2.3.4:80", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "/tcp/1", "", "/ip4/1.2.3.400/tcp/1"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_peer_stands_at_the_end_once() {
        let peer = PeerId::random();
        let bare = address("/ip4/1.2.3.4/tcp/1");
        let full = with_peer(&bare, peer);
        assert_eq!(with_peer(&full, peer), full);
        assert_eq!(peer_in(&full), Some(peer));
        assert_eq!(peer_in(&bare), None);
        assert_eq!(without_peer(&full), bare);
    }

    #[test]
    fn loopback_is_told_on_one_machine_only() {
        assert!(!is_worth_telling(&address("/ip4/127.0.0.1/tcp/1"), false));
        assert!(is_worth_telling(&address("/ip4/127.0.0.1/tcp/1"), true));
        assert!(!is_worth_telling(&address("/ip4/0.0.0.0/tcp/1"), true));
        assert!(is_worth_telling(&address("/ip4/192.168.1.2/tcp/1"), false));
        assert!(is_worth_telling(&address("/dns4/example.org/tcp/1"), false));
    }
}
