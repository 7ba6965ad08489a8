//! Request, response, receipt, confirmation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Peer, SOON, alone, ask, noise, quic, tcp};
use crate::event::NetEvent;
use crate::{ExchangeError, NetConfig, Pace};

async fn big_exchange(listen: Vec<String>) {
    let (request, response) = (noise(8 << 20, 1), noise(32 << 20, 2));
    let big = |seed| NetConfig { max_request_bytes: 8 << 20, max_response_bytes: 32 << 20, ..alone(seed) };
    let server = Peer::start(NetConfig { listen: listen.clone(), ..big(1) }).await;
    let client = Peer::joined(NetConfig { listen, ..big(2) }, &server).await;
    let peer = server.key();
    let (expected, answer) = (request.clone(), response.clone());
    let (_net, mut receipts) = server.serve(move |asked| {
        assert!(asked == expected, "the request arrives as it was sent");
        answer.clone()
    });
    let mut exchange = ask(&client.net, peer, request).await.expect("a response");
    assert!(std::mem::take(&mut exchange.response) == response, "the response arrives as it was sent");
    exchange.acknowledge(b"kept".to_vec()).await.expect("confirmed");
    assert_eq!(receipts.recv().await.expect("served").expect("a receipt"), b"kept");
    let moved = client.net.counters();
    assert!(moved.sent_bytes > 8 << 20 && moved.received_bytes > 32 << 20, "{moved:?}");
    assert!(moved.sent_bytes < 9 << 20 && moved.received_bytes < 33 << 20, "{moved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_exchange_completes_on_tcp() {
    big_exchange(tcp()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_exchange_completes_on_quic() {
    big_exchange(quic()).await;
}

/// Many streams at once, on which a naive opener loses most.
async fn many_exchanges(listen: Vec<String>) {
    const MANY: usize = 64;
    let server = Peer::start(NetConfig { listen: listen.clone(), ..alone(1) }).await;
    let client = Peer::joined(NetConfig { listen, ..alone(2) }, &server).await;
    let peer = server.key();
    let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counted = at_once.clone();
    let (_net, mut receipts) = server.serve(move |mut request| {
        let now = counted.0.fetch_add(1, Ordering::SeqCst) + 1;
        counted.1.fetch_max(now, Ordering::SeqCst);
        request.reverse();
        counted.0.fetch_sub(1, Ordering::SeqCst);
        request
    });
    let mut asking = JoinSet::new();
    for number in 0..MANY {
        let net = client.net.clone();
        asking.spawn(async move {
            let mut exchange = ask(&net, peer, [number as u8, 1, 2]).await.expect("a response");
            assert_eq!(std::mem::take(&mut exchange.response), [2, 1, number as u8]);
            exchange.acknowledge(vec![number as u8]).await.expect("confirmed");
        });
    }
    asking.join_all().await;
    let mut seen = Vec::new();
    for _ in 0..MANY {
        seen.extend(receipts.recv().await.expect("served").expect("a receipt"));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..MANY as u8).collect::<Vec<_>>(), "each exactly once");
    assert!(at_once.1.load(Ordering::SeqCst) <= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_exchanges_at_once_all_complete_on_tcp() {
    many_exchanges(tcp()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_exchanges_at_once_all_complete_on_quic() {
    many_exchanges(quic()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_askers_of_one_peer_are_all_served() {
    let server = Peer::start(NetConfig { max_served: 8, ..alone(1) }).await;
    let peer = server.key();
    let mut clients = Vec::new();
    for seed in 10..18 {
        clients.push(Peer::joined(alone(seed), &server).await);
    }
    let (_net, mut receipts) = server.serve(|request| request);
    let mut asking = JoinSet::new();
    for client in &clients {
        for number in 0..4 {
            let net = client.net.clone();
            asking.spawn(async move {
                let exchange = ask(&net, peer, vec![number; 1000]).await.expect("a response");
                exchange.acknowledge(Vec::new()).await.expect("confirmed");
            });
        }
    }
    asking.join_all().await;
    for _ in 0..32 {
        receipts.recv().await.expect("served").expect("a receipt");
    }
}

#[tokio::test]
async fn only_an_acknowledgement_is_one() {
    let mut server = Peer::start(alone(1)).await;
    let client = Peer::joined(alone(2), &server).await;
    let (net, peer) = (client.net.clone(), server.key());
    // The asking side has the response, and lets go of it.
    let asking = tokio::spawn(async move { drop(ask(&net, peer, "a").await.expect("a response")) });
    let reply = request(&mut server).await;
    let error = reply.respond(b"b".to_vec()).await.expect_err("nobody acknowledged");
    assert!(matches!(error, ExchangeError::Io { doing: "waiting for the receipt", .. }), "{error}");
    asking.await.expect("no panic");
    // The serving side sends a response, and is gone before it has read a receipt.
    let net = client.net.clone();
    let asking = tokio::spawn(async move { ask(&net, peer, "a").await });
    let reply = request(&mut server).await;
    let responding = tokio::spawn(reply.respond(b"b".to_vec()));
    let exchange = asking.await.expect("no panic").expect("a response");
    responding.abort();
    assert!(responding.await.is_err());
    exchange.acknowledge(b"c".to_vec()).await.expect_err("nobody read it");
}

#[tokio::test]
async fn refusing_and_vanishing_are_heard() {
    let mut server = Peer::start(alone(1)).await;
    let client = Peer::joined(alone(2), &server).await;
    let (net, peer) = (client.net.clone(), server.key());
    let asking = tokio::spawn(async move { ask(&net, peer, "a").await });
    request(&mut server).await.refuse().await;
    assert!(matches!(asking.await.expect("no panic"), Err(ExchangeError::Refused)));
    let net = client.net.clone();
    let asking = tokio::spawn(async move { ask(&net, peer, "a").await });
    drop(request(&mut server).await);
    assert!(matches!(asking.await.expect("no panic"), Err(ExchangeError::Io { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_over_the_limits_are_refused_by_either_side() {
    let small = |seed| NetConfig { max_request_bytes: 1000, max_response_bytes: 2000, ..alone(seed) };
    let server = Peer::start(small(1)).await;
    let peer = server.key();
    let careful = Peer::joined(small(2), &server).await;
    let wide = NetConfig { max_request_bytes: 4 << 20, ..alone(3) };
    let bold = Peer::joined(wide, &server).await;
    let (_net, mut receipts) = server.serve(|request| vec![0; 2 * request.len()]);
    let error = ask(&careful.net, peer, vec![0; 1001]).await.expect_err("this side refuses");
    assert!(matches!(error, ExchangeError::TooLarge { what: "request", bytes: 1001, limit: 1000 }), "{error}");
    // More than the stream's window: the refusal must be heard while sending.
    for bytes in [1001, 4 << 20] {
        let error = ask(&bold.net, peer, vec![0; bytes]).await.expect_err("the other side refuses");
        assert!(matches!(error, ExchangeError::TooLargeForPeer { bytes: found } if found == bytes), "{error}");
    }
    let exchange = ask(&bold.net, peer, vec![0; 1000]).await.expect("just right");
    assert_eq!(exchange.response.len(), 2000);
    let error = exchange.acknowledge(vec![0; 70_000]).await.expect_err("too long a receipt");
    assert!(matches!(error, ExchangeError::TooLarge { what: "receipt", .. }), "{error}");
    receipts.recv().await.expect("served").expect_err("no receipt came");
}

#[tokio::test]
async fn deadlines_hold() {
    let mut server = Peer::start(alone(1)).await;
    let client = Peer::joined(alone(2), &server).await;
    let deadline = Duration::from_millis(300);
    let asking = client.net.exchange(server.key(), b"a".to_vec(), deadline);
    let asked = timeout(SOON, asking).await.expect("the deadline holds");
    assert!(matches!(asked, Err(ExchangeError::Deadline { doing: "waiting for the response" })));
    let reply = request(&mut server).await;
    assert_eq!(reply.time_left(), Duration::ZERO, "the deadline travels with the request");
    reply.respond(b"b".to_vec()).await.expect_err("nobody waits any more");
    // A receipt that never comes.
    let pace = Pace { receipt: Duration::from_millis(300), ..Pace::LOCAL };
    let mut server = Peer::start(NetConfig { pace, ..alone(3) }).await;
    let client = Peer::joined(alone(4), &server).await;
    let (net, peer) = (client.net.clone(), server.key());
    let asking = tokio::spawn(async move { ask(&net, peer, "a").await });
    let error = request(&mut server).await.respond(Vec::new()).await.expect_err("no receipt");
    assert!(matches!(error, ExchangeError::Stalled { doing: "waiting for the receipt", .. }), "{error}");
    drop(asking.await);
}

#[tokio::test]
async fn a_peer_nobody_knows_is_not_connected() {
    let peer = Peer::start(alone(1)).await;
    for unknown in [[9; 32], peer.key()] {
        let error = ask(&peer.net, unknown, "a").await.expect_err("nobody there");
        assert!(matches!(error, ExchangeError::NotConnected(_)), "{error}");
    }
}

/// An exchange that waits for its answer when the connection ends, by `end`.
async fn ends_with_its_connection(listen: Vec<String>, end: impl AsyncFnOnce(&Peer, &Peer)) {
    let mut server = Peer::start(NetConfig { listen: listen.clone(), ..alone(1) }).await;
    let client = Peer::joined(NetConfig { listen, ..alone(2) }, &server).await;
    let (net, peer) = (client.net.clone(), server.key());
    let asking = tokio::spawn(async move { net.exchange(peer, b"a".to_vec(), SOON * 10).await });
    let reply = request(&mut server).await;
    end(&client, &server).await;
    let asked = timeout(SOON, asking).await.expect("it ends at once").expect("no panic");
    assert!(matches!(asked, Err(ExchangeError::Io { .. } | ExchangeError::Closed)), "{asked:?}");
    timeout(SOON, reply.respond(b"b".to_vec())).await.expect("it ends at once").expect_err("nobody is there");
}

#[tokio::test]
async fn an_exchange_ends_with_its_connection() {
    for listen in [tcp(), quic()] {
        ends_with_its_connection(listen.clone(), async |client: &Peer, server: &Peer| {
            client.net.disconnect(server.key()).await;
        })
        .await;
        ends_with_its_connection(listen.clone(), async |client: &Peer, server: &Peer| {
            server.net.ban(client.key()).await;
        })
        .await;
        ends_with_its_connection(listen.clone(), async |client: &Peer, _: &Peer| client.net.shutdown().await).await;
        ends_with_its_connection(listen, async |_: &Peer, server: &Peer| server.net.shutdown().await).await;
    }
}

async fn request(server: &mut Peer) -> crate::Responder {
    server
        .until("request", |event| match event {
            NetEvent::Request { reply, .. } => Some(reply),
            _ => None,
        })
        .await
}
