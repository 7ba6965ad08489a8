//! Peers that are reached through others.

use super::{Peer, alone, ask, key, noise, tcp};
use crate::NetConfig;
use crate::event::NetEvent;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_travel_through_a_relay() {
    let relay = Peer::start(NetConfig { relay_server: true, listen: tcp(), ..alone(1) }).await;
    let circuit = format!("{}/p2p-circuit", relay.address());
    // It has no socket of its own to connect to.
    let mut hidden = Peer::start(NetConfig { listen: vec![circuit.clone()], ..alone(2) }).await;
    let mut confirmed = None;
    let listening = hidden.until("circuit", |event| match event {
        NetEvent::External { addr } => {
            confirmed = Some(addr);
            None
        }
        NetEvent::Listening(address) => Some(address),
        NetEvent::ListenFailed { why, .. } => panic!("{why}"),
        _ => None,
    });
    let address = listening.await;
    assert!(address.starts_with(&circuit), "{address}");
    assert_eq!(confirmed.as_ref(), Some(&address), "others can reach it there");
    assert!(hidden.net.addresses().contains(&address));

    let mut client = Peer::start(NetConfig { listen: Vec::new(), bootstrap: vec![address], ..alone(3) }).await;
    let relayed = client.until("connection", |event| match event {
        NetEvent::Connected { peer, relayed, .. } if peer == key(2) => Some(relayed),
        NetEvent::DialFailed { why, .. } => panic!("{why}"),
        _ => None,
    });
    assert!(relayed.await);
    assert!(client.net.connected().iter().any(|link| link.peer == key(2) && link.relayed));
    // Far more than a relay carries by default.
    let body = noise(4 << 20, 3);
    let expected = body.clone();
    let (_net, mut receipts) = hidden.serve(move |_| expected.clone());
    let mut exchange = ask(&client.net, key(2), "body").await.expect("a response");
    assert!(std::mem::take(&mut exchange.response) == body);
    exchange.acknowledge(b"kept".to_vec()).await.expect("confirmed");
    assert_eq!(receipts.recv().await.expect("served").expect("a receipt"), b"kept");
    assert!(relay.net.counters().sent_bytes > 4 << 20, "the relay carried it");
}

#[tokio::test]
async fn a_relay_that_goes_away_is_asked_again() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let config = || NetConfig { relay_server: true, listen: vec![address.clone()], ..alone(1) };
    let relay = Peer::start(config()).await;
    let circuit = format!("{}/p2p-circuit", relay.address());
    let mut hidden = Peer::start(NetConfig { listen: vec![circuit], ..alone(2) }).await;
    let listens = |event| matches!(event, NetEvent::Listening(_)).then_some(());
    hidden.until("circuit", listens).await;
    relay.net.shutdown().await;
    hidden.until("end", |event| matches!(event, NetEvent::ListenFailed { .. }).then_some(())).await;
    let _relay = Peer::start(config()).await;
    hidden.until("circuit", listens).await;
}
