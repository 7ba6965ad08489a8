//! What libp2p does by its own clocks, seconds apart. It waits most of the time, so it waits together.

use std::time::Duration;

use super::{Peer, SOON, alone, tcp};
use crate::NetConfig;
use crate::event::{Nat, NetEvent};

#[tokio::test]
async fn probes_relays_and_silence() {
    tokio::join!(
        a_peer_that_others_reach_learns_it(),
        a_peer_that_nobody_reaches_finds_itself_a_relay(),
        connections_outlive_silence()
    );
}

async fn a_peer_that_others_reach_learns_it() {
    // As across the internet, but for where it happens: nothing is trusted, everything is probed.
    let probing = |seed| NetConfig { trust_listen: false, ..alone(seed) };
    let first = Peer::start(probing(1)).await;
    let mut second = Peer::joined(probing(2), &first).await;
    assert_eq!(second.net.nat(), Nat::Unknown);
    let nat = second.until("result of probing", |event| match event {
        NetEvent::Nat(nat) => Some(nat),
        _ => None,
    });
    assert_eq!(nat.await, Nat::Public);
    assert_eq!(second.net.nat(), Nat::Public);
}

async fn a_peer_that_nobody_reaches_finds_itself_a_relay() {
    // Nothing is trusted, as across the internet. The relay knows where it is; the others just answer probes.
    let probing = |seed| NetConfig { trust_listen: false, listen: tcp(), ..alone(seed) };
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let at = vec![format!("/ip4/127.0.0.1/tcp/{port}")];
    let relay = NetConfig { relay_server: true, listen: at.clone(), external: at, ..probing(1) };
    let peers = [Peer::start(relay).await, Peer::start(probing(2)).await, Peer::start(probing(3)).await];
    // It listens nowhere, so all that others can try is where its connections came from.
    let bootstrap = peers.iter().map(Peer::address).collect();
    let mut hidden = Peer::start(NetConfig { listen: Vec::new(), bootstrap, ..probing(4) }).await;
    let nat = hidden.until("result of probing", |event| match event {
        NetEvent::Nat(nat) => Some(nat),
        _ => None,
    });
    assert_eq!(nat.await, Nat::Private);
    let circuit = hidden.until("circuit", |event| match event {
        NetEvent::Listening(address) => Some(address),
        _ => None,
    });
    assert!(circuit.await.starts_with(&format!("/ip4/127.0.0.1/tcp/{port}/p2p/")));
}

async fn connections_outlive_silence() {
    let first = Peer::start(alone(1)).await;
    let mut second = Peer::joined(alone(2), &first).await;
    // libp2p's own limit is 10 s.
    let silence = Duration::from_secs(11);
    let ended = async {
        while let Some(event) = second.events.recv().await {
            if matches!(event, NetEvent::Disconnected { .. }) {
                return;
            }
        }
    };
    assert!(silence < SOON);
    tokio::time::timeout(silence, ended).await.expect_err("the connection ended");
    assert_eq!(second.net.connected().len(), 1);
}
