//! Starting and ending.

use std::time::{Duration, Instant};

use super::{Peer, alone, ask, key};
use crate::event::NetEvent;
use crate::{ExchangeError, NetConfig, NetError, PublishError, start};

/// An address for documentation (RFC 5737), which no machine here has.
const NOWHERE: &str = "/ip4/192.0.2.1/tcp/0";

#[tokio::test]
async fn one_address_that_works_is_enough() {
    let listen = vec![NOWHERE.into(), "/ip4/127.0.0.1/tcp/0".into()];
    let mut peer = Peer::start(NetConfig { listen, ..alone(1) }).await;
    assert_eq!(peer.net.addresses().len(), 1);
    let (addr, why) = peer
        .until("failure", |event| match event {
            NetEvent::ListenFailed { addr, why } => Some((addr, why)),
            _ => None,
        })
        .await;
    assert_eq!(addr, NOWHERE);
    assert!(!why.is_empty());
}

#[tokio::test]
async fn none_that_works_is_an_error_that_names_them() {
    let error = start(NetConfig { listen: vec![NOWHERE.into()], ..alone(1) }).await.expect_err("nowhere to listen");
    assert!(matches!(&error, NetError::Listen(failures) if failures.len() == 1), "{error}");
    assert!(error.to_string().contains(NOWHERE), "{error}");
}

#[tokio::test]
async fn nothing_outside_is_needed() {
    // Bootstrap peers that nobody is, no listen address, every search switched on.
    let config = NetConfig {
        listen: Vec::new(),
        bootstrap: vec!["/ip4/127.0.0.1/tcp/1".into(), "/dns4/nobody.invalid/tcp/1".into()],
        ..NetConfig::wan([1; 32], super::RUN)
    };
    let start = Instant::now();
    let peer = Peer::start(config).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!((peer.net.addresses(), peer.net.connected()), (vec![], vec![]));
}

#[tokio::test]
async fn its_own_address_among_the_bootstrap_peers_does_no_harm() {
    let first = Peer::start(alone(1)).await;
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let own = format!("/ip4/127.0.0.1/tcp/{port}");
    let config = NetConfig { listen: vec![own.clone()], bootstrap: vec![own, first.address()], ..alone(2) };
    let mut second = Peer::start(config).await;
    let connected = second.until("connection", |event| match event {
        NetEvent::Connected { peer, .. } => Some(peer),
        NetEvent::DialFailed { address, why, .. } => panic!("{address}: {why}"),
        _ => None,
    });
    assert_eq!(connected.await, key(1));
}

#[tokio::test]
async fn shutting_down_ends_everything_in_time() {
    let server = Peer::start(alone(1)).await;
    let mut client = Peer::joined(alone(2), &server).await;
    // An exchange that nobody answers.
    let (net, peer) = (client.net.clone(), server.key());
    let asking = tokio::spawn(async move { ask(&net, peer, "a").await });
    let mut server = server;
    let _held = server
        .until("request", |event| match event {
            NetEvent::Request { reply, .. } => Some(reply),
            _ => None,
        })
        .await;
    let start = Instant::now();
    client.net.shutdown().await;
    assert!(start.elapsed() < Duration::from_millis(2100), "{:?}", start.elapsed());
    assert!(asking.await.expect("no panic").is_err());
    assert!(matches!(client.net.publish(vec![1]).await, Err(PublishError::Closed)));
    assert!(matches!(ask(&client.net, peer, "a").await, Err(ExchangeError::Closed)));
    assert_eq!((client.net.addresses(), client.net.connected()), (vec![], vec![]));
    while client.events.recv().await.is_some() {}
    server.until("end", |event| matches!(event, NetEvent::Disconnected { .. }).then_some(())).await;
    // Again is harmless, and at once.
    let start = Instant::now();
    client.net.shutdown().await;
    assert!(start.elapsed() < Duration::from_millis(100));
}

#[tokio::test]
async fn a_network_ends_with_its_last_handle() {
    let mut first = Peer::start(alone(1)).await;
    let second = Peer::joined(alone(2), &first).await;
    first.connected_to(key(2)).await;
    drop(second);
    first.until("end", |event| matches!(event, NetEvent::Disconnected { .. }).then_some(())).await;
}
