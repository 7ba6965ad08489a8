//! Announcements.

use std::time::Duration;

use tokio::time::timeout;

use super::{Peer, SOON, alone};
use crate::event::{GossipTicket, NetEvent, Verdict};
use crate::identity::Key;
use crate::{Net, NetConfig, PublishError};

/// Publishes once the mesh has somebody: members are connected a moment before they have subscribed.
async fn publish(net: &Net, data: &[u8]) {
    let published = async {
        while let Err(error) = net.publish(data.to_vec()).await {
            assert!(matches!(error, PublishError::NoPeers), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, published).await.expect("somebody subscribes");
}

async fn heard(peer: &mut Peer) -> (Key, Key, Vec<u8>, GossipTicket) {
    peer.until("gossip", |event| match event {
        NetEvent::Gossip { from, author, data, validator } => Some((from, author, data, validator)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn errors_are_values() {
    let peer = Peer::start(alone(1)).await;
    assert!(matches!(peer.net.publish(vec![0; 100]).await, Err(PublishError::NoPeers)));
    let error = peer.net.publish(vec![0; 4097]).await.expect_err("too long");
    assert!(matches!(error, PublishError::TooLarge { bytes: 4097, limit: 4096 }), "{error}");
    // And the peer lives on.
    assert!(matches!(peer.net.publish(vec![0; 4096]).await, Err(PublishError::NoPeers)));
}

#[tokio::test]
async fn only_what_was_accepted_goes_further() {
    // A line: one - middle - other.
    let mut middle = Peer::start(alone(1)).await;
    let one = Peer::joined(alone(2), &middle).await;
    let mut other = Peer::joined(alone(3), &middle).await;
    // The longest message there may be, and one that is the middle's own.
    publish(&middle.net, &[7; 4096]).await;
    let (from, author, data, ticket) = heard(&mut other).await;
    assert_eq!((from, author, data), (middle.key(), middle.key(), vec![7; 4096]));
    other.net.validate(ticket, Verdict::Accept).await;

    for (text, verdict) in [("ignored", Verdict::Ignore), ("accepted", Verdict::Accept), ("rejected", Verdict::Reject)]
    {
        publish(&one.net, text.as_bytes()).await;
        let (from, author, data, ticket) = heard(&mut middle).await;
        assert_eq!((from, author, data), (one.key(), one.key(), text.as_bytes().to_vec()));
        middle.net.validate(ticket, verdict).await;
    }
    publish(&one.net, b"last").await;
    let (.., ticket) = heard(&mut middle).await;
    middle.net.validate(ticket, Verdict::Accept).await;
    for expected in ["accepted", "last"] {
        let (from, author, data, ticket) = heard(&mut other).await;
        assert_eq!((from, author, String::from_utf8_lossy(&data)), (middle.key(), one.key(), expected.into()));
        other.net.validate(ticket, Verdict::Accept).await;
    }
}

#[tokio::test]
async fn who_keeps_sending_rejected_messages_is_silenced() {
    let mut judge = Peer::start(alone(1)).await;
    let liar = Peer::joined(alone(2), &judge).await;
    let honest = Peer::joined(alone(3), &judge).await;
    for number in 0..3 {
        publish(&liar.net, &[number]).await;
        let (from, .., ticket) = heard(&mut judge).await;
        assert_eq!(from, liar.key());
        judge.net.validate(ticket, Verdict::Reject).await;
    }
    publish(&liar.net, b"lie").await;
    publish(&honest.net, b"truth").await;
    let (from, _, data, _) = heard(&mut judge).await;
    assert_eq!((from, data), (honest.key(), b"truth".to_vec()));
}

#[tokio::test]
async fn a_peer_whose_events_nobody_reads_still_works() {
    let deaf = Peer::start(alone(1)).await;
    let talker = Peer::joined(alone(2), &deaf).await;
    for number in 0..2000_u32 {
        // Full queues are an answer like any other; only being stuck would be wrong.
        match timeout(SOON, talker.net.publish(number.to_le_bytes().to_vec()))
            .await
            .expect("publishing never waits long")
        {
            Ok(()) | Err(PublishError::NoPeers | PublishError::QueueFull) => {}
            Err(error) => panic!("{error}"),
        }
    }
    timeout(SOON, deaf.net.ban(talker.key())).await.expect("commands are carried out");
    assert_eq!(deaf.net.connected(), []);
}

#[tokio::test]
async fn a_small_swarm_hears_everything() {
    let mut peers = vec![Peer::start(NetConfig::local([1; 32], super::RUN)).await];
    for seed in 2..=4 {
        let peer = Peer::joined(NetConfig::local([seed; 32], super::RUN), &peers[0]).await;
        peers.push(peer);
    }
    let nets: Vec<_> = peers.iter().map(|peer| peer.net.clone()).collect();
    // Who subscribes late misses what was said before: at first everybody repeats itself.
    let (stop, stopped) = tokio::sync::watch::channel(());
    for net in nets.clone() {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.is_closed() {
                publish(&net, b"first").await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let mut peers = hear_all(peers, b"first").await;
    drop(stopped);
    // Now once is enough, every time.
    for round in 0..5 {
        for net in &nets {
            publish(net, &[round]).await;
        }
        peers = hear_all(peers, &[round]).await;
    }
}

/// Every peer hears `text` from all others, and passes it on.
async fn hear_all(peers: Vec<Peer>, text: &[u8]) -> Vec<Peer> {
    let others = peers.len() - 1;
    let hearing = peers.into_iter().map(|mut peer| async move {
        let mut authors = std::collections::BTreeSet::new();
        while authors.len() < others {
            let (_, author, data, ticket) = heard(&mut peer).await;
            peer.net.validate(ticket, Verdict::Accept).await;
            if data == text {
                authors.insert(author);
            }
        }
        peer
    });
    futures::future::join_all(hearing).await
}
