//! Who may be here.

use super::{Peer, alone, key};
use crate::event::NetEvent;
use crate::identity::peer_text;
use crate::{NetConfig, PublishError};

#[tokio::test]
async fn a_peer_of_another_run_is_recognised_and_no_member() {
    let mut one = Peer::start(alone(1)).await;
    let other = NetConfig { run: "00ac".into(), bootstrap: vec![one.address()], ..alone(2) };
    let mut other = Peer::start(other).await;
    for (peer, stranger, run) in [(&mut one, 2, "00ac"), (&mut other, 1, "00ab")] {
        let (who, speaks) = peer
            .until("stranger", |event| match event {
                NetEvent::OtherRun { peer, speaks } => Some((peer, speaks)),
                NetEvent::Connected { .. } => panic!("a stranger is no member"),
                _ => None,
            })
            .await;
        assert_eq!((who, speaks), (peer_text(&key(stranger)), format!("/swarmloom/{run}/1")));
    }
    let why = other.until("failure", |event| match event {
        NetEvent::DialFailed { why, next_try_in, .. } => Some((why, next_try_in.is_some())),
        _ => None,
    });
    assert_eq!(why.await, ("the peer there is not in this run".into(), true));
    assert_eq!((one.net.connected(), other.net.connected()), (vec![], vec![]));
    assert!(matches!(one.net.publish(vec![1]).await, Err(PublishError::NoPeers)));
}

#[tokio::test]
async fn only_peers_on_the_list_connect() {
    let mut guarded = Peer::start(NetConfig { allow: vec![peer_text(&key(2))], ..alone(1) }).await;
    let mut outsider = Peer::start(NetConfig { bootstrap: vec![guarded.address()], ..alone(3) }).await;
    let why = outsider.until("failure", |event| match event {
        NetEvent::DialFailed { why, .. } => Some(why),
        NetEvent::Connected { .. } => panic!("it is not on the list"),
        _ => None,
    });
    let why = why.await;
    assert!(why.contains("may not allow this peer") || why.contains("negotiate") || why.contains("closed"), "{why}");
    let _friend = Peer::joined(alone(2), &guarded).await;
    let first = guarded.until("member", |event| match event {
        NetEvent::Connected { peer, .. } => Some(peer),
        _ => None,
    });
    assert_eq!(first.await, key(2));
    assert_eq!(guarded.net.connected().len(), 1);
    // Nor is anybody dialled who is not on it.
    guarded.net.dial(&outsider.address()).await.expect("an address");
    let why = guarded.until("failure", |event| match event {
        NetEvent::DialFailed { why, .. } => Some(why),
        _ => None,
    });
    assert_eq!(why.await, "it is not on this peer's allow list");
}

#[tokio::test]
async fn a_banned_peer_is_gone_until_it_is_allowed_again() {
    let mut judge = Peer::start(alone(1)).await;
    let mut banned = Peer::joined(alone(2), &judge).await;
    judge.connected_to(key(2)).await;
    judge.net.ban(key(2)).await;
    for (peer, other) in [(&mut judge, 2), (&mut banned, 1)] {
        peer.until("end", |event| matches!(event, NetEvent::Disconnected { peer } if peer == key(other)).then_some(()))
            .await;
    }
    // It tries to come back, and is not let in.
    banned.until("failure", |event| matches!(event, NetEvent::DialFailed { .. }).then_some(())).await;
    assert_eq!(judge.net.connected(), []);
    judge.net.unban(key(2)).await;
    banned.connected_to(key(1)).await;
    judge.connected_to(key(2)).await;
}

#[tokio::test]
async fn a_disconnected_bootstrap_peer_is_connected_to_again() {
    let mut first = Peer::start(alone(1)).await;
    let mut second = Peer::joined(alone(2), &first).await;
    first.connected_to(key(2)).await;
    second.net.disconnect(key(1)).await;
    second.until("end", |event| matches!(event, NetEvent::Disconnected { .. }).then_some(())).await;
    second.connected_to(key(1)).await;
}
