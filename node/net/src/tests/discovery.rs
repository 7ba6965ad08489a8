//! Finding each other, and going on trying.

use std::time::Duration;

use super::{Peer, RUN, alone, key};
use crate::event::NetEvent;
use crate::identity::peer_text;
use crate::{NetConfig, Pace};

#[tokio::test]
async fn peers_that_know_one_peer_find_each_other() {
    let mut first = Peer::start(NetConfig::local([1; 32], RUN)).await;
    let mut second = Peer::joined(NetConfig::local([2; 32], RUN), &first).await;
    let mut third = Peer::joined(NetConfig::local([3; 32], RUN), &first).await;
    second.connected_to(key(3)).await;
    third.connected_to(key(2)).await;
    first.connected_to(key(3)).await;
    let peers = |peer: &Peer| peer.net.connected().iter().map(|link| link.peer).collect::<Vec<_>>();
    for (peer, others) in [(&first, [2, 3]), (&second, [1, 3]), (&third, [1, 2])] {
        let mut others = others.map(key);
        others.sort_unstable();
        assert_eq!(peers(peer), others);
    }
}

#[tokio::test]
async fn what_a_member_says_of_its_addresses_is_told() {
    let first = Peer::start(alone(1)).await;
    let mut second = Peer::joined(alone(2), &first).await;
    let told = second.until("addresses", |event| match event {
        NetEvent::Addresses { peer, mut addresses } if peer == key(1) => {
            addresses.sort_unstable();
            Some(addresses)
        }
        _ => None,
    });
    assert_eq!(told.await, first.net.addresses());
    assert_eq!(first.net.addresses().len(), 2, "QUIC and TCP");
    assert!(first.net.addresses().iter().all(|address| address.ends_with(&peer_text(&key(1)))));
}

#[tokio::test]
async fn an_address_book_leads_back() {
    let first = Peer::start(alone(1)).await;
    let config = NetConfig { known: first.net.addresses(), ..alone(2) };
    Peer::start(config).await.connected_to(key(1)).await;
}

#[tokio::test]
async fn a_dead_bootstrap_peer_is_tried_until_it_lives() {
    // A port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let pace = Pace { retry_first: Duration::from_millis(100), ..Pace::LOCAL };
    let config = NetConfig { bootstrap: vec![address.clone()], pace, ..alone(1) };
    let mut early = Peer::start(config).await;
    let mut waits = Vec::new();
    for attempt in 1..=3 {
        let wait = early.until("failure", |event| match event {
            NetEvent::DialFailed { address: failed, why, attempts, next_try_in } => {
                assert_eq!((failed.as_str(), attempts), (address.as_str(), attempt));
                assert!(why.contains("refused"), "{why}");
                Some(next_try_in.expect("a bootstrap peer is never given up"))
            }
            _ => None,
        });
        waits.push(wait.await);
    }
    for (wait, doubled) in waits.iter().zip([100, 200, 400]) {
        assert!((doubled * 3 / 4..=doubled * 5 / 4).contains(&wait.as_millis()), "{waits:?}");
    }
    let mut late = Peer::start(NetConfig { listen: vec![address], ..alone(2) }).await;
    early.connected_to(key(2)).await;
    late.connected_to(key(1)).await;
    // And again when it comes back.
    late.net.shutdown().await;
    early.until("end", |event| matches!(event, NetEvent::Disconnected { peer } if peer == key(2)).then_some(())).await;
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let _late = Peer::start(NetConfig { listen: vec![address], ..alone(2) }).await;
    early.connected_to(key(2)).await;
}

#[tokio::test]
async fn an_address_somebody_asked_for_is_given_up() {
    let pace = Pace { retry_first: Duration::from_millis(10), retry_max: Duration::from_millis(10), ..Pace::LOCAL };
    let mut peer = Peer::start(NetConfig { pace, ..alone(1) }).await;
    peer.net.dial("/ip4/127.0.0.1/tcp/1").await.expect("an address");
    assert!(peer.net.dial("localhost:1").await.is_err());
    let attempts = peer.until("end of tries", |event| match event {
        NetEvent::DialFailed { attempts, next_try_in: None, .. } => Some(attempts),
        _ => None,
    });
    assert_eq!(attempts.await, 8);
}

#[tokio::test]
async fn another_process_with_the_same_identity_is_noticed() {
    let one = Peer::start(alone(1)).await;
    for address in one.net.addresses() {
        let bare = address.replace(&format!("/p2p/{}", peer_text(&key(1))), "");
        let mut other = Peer::start(NetConfig { bootstrap: vec![bare.clone()], ..alone(1) }).await;
        let met = other.until("twin", |event| match event {
            NetEvent::SameIdentity { address } => Some(address),
            _ => None,
        });
        assert_eq!(met.await, bare);
    }
}
