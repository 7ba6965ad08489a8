//! Peers that stall, lie and talk nonsense: each costs a slot, for a time.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use tokio::time::timeout;

use super::raw::Raw;
use super::{Peer, SOON, alone, ask, key};
use crate::exchange::{BUSY, OK, READY, TOO_LONG, VERSION};
use crate::{ExchangeError, NetConfig, Pace};

const STALL: Duration = Duration::from_millis(500);

/// A peer that has little patience, and one place for each other peer.
fn impatient(seed: u8) -> NetConfig {
    NetConfig { pace: Pace { stall: STALL, ..Pace::LOCAL }, max_served: 4, ..alone(seed) }
}

/// Says hello, with a minute's deadline.
async fn greeted(raw: &mut Raw, peer: crate::Key) -> Stream {
    let mut stream = raw.open(peer).await;
    let mut hello = [VERSION; 5];
    hello[1..].copy_from_slice(&60_000_u32.to_le_bytes());
    stream.write_all(&hello).await.expect("open");
    stream.flush().await.expect("open");
    let mut answer = [0];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, [READY]);
    stream
}

/// Whether the other side ends a stream, and what it said before.
async fn end_of(stream: &mut Stream) -> Vec<u8> {
    let mut said = Vec::new();
    // A stream that is reset ends too.
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("the stream ends");
    said
}

/// An honest exchange works.
async fn assert_serves(asking: &Peer, server: crate::Key) {
    let exchange = ask(&asking.net, server, "x").await.expect("a response");
    assert_eq!(exchange.response, b"x");
    exchange.acknowledge(Vec::new()).await.expect("confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn askers_that_stall_or_lie_lose_their_place() {
    let server = Peer::start(impatient(1)).await;
    let (address, peer) = (server.address(), server.key());
    let honest = Peer::joined(alone(2), &server).await;
    let (_net, _receipts) = server.serve(|request| request);
    let mut raw = Raw::connected(9, &address).await;

    // A length that nobody has.
    let mut stream = greeted(&mut raw, peer).await;
    stream.write_all(&(1_u64 << 60).to_le_bytes()).await.expect("open");
    stream.flush().await.expect("open");
    stream.close().await.expect("open");
    assert_eq!(end_of(&mut stream).await, [TOO_LONG]);

    // Nothing after the greeting.
    let start = Instant::now();
    let mut stream = greeted(&mut raw, peer).await;
    assert_eq!(end_of(&mut stream).await, []);
    assert!(start.elapsed() >= STALL && start.elapsed() < STALL * 8, "{:?}", start.elapsed());

    // A byte now and then, for as long as anybody listens.
    let start = Instant::now();
    let mut stream = greeted(&mut raw, peer).await;
    stream.write_all(&100_000_u64.to_le_bytes()).await.expect("open");
    let trickling = async {
        while stream.write_all(&[1]).await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(STALL / 10).await;
        }
    };
    timeout(SOON, trickling).await.expect("it is cut off");
    assert!(start.elapsed() >= STALL && start.elapsed() < STALL * 8, "{:?}", start.elapsed());

    // No greeting but noise, and a digest that is wrong.
    let mut stream = raw.open(peer).await;
    stream.write_all(&[0xff; 64]).await.expect("open");
    stream.flush().await.expect("open");
    assert_eq!(end_of(&mut stream).await, []);
    let mut stream = greeted(&mut raw, peer).await;
    stream.write_all(&2_u64.to_le_bytes()).await.expect("open");
    stream.write_all(&[0; 34]).await.expect("open");
    stream.flush().await.expect("open");
    assert_eq!(end_of(&mut stream).await, []);

    assert_serves(&honest, peer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_cannot_take_all_places() {
    let server = Peer::start(NetConfig { max_served: 4, ..alone(1) }).await;
    let (address, peer) = (server.address(), server.key());
    let honest = Peer::joined(alone(2), &server).await;
    let (_net, _receipts) = server.serve(|request| request);
    let mut raw = Raw::connected(9, &address).await;
    let _held = greeted(&mut raw, peer).await;
    for _ in 0..4 {
        let mut refused = raw.open(peer).await;
        refused.write_all(&[VERSION; 5]).await.expect("open");
        refused.flush().await.expect("open");
        refused.close().await.expect("open");
        // Told so, or dropped: libp2p-stream loses streams that come at once.
        let said = end_of(&mut refused).await;
        assert!(said == [BUSY] || said.is_empty(), "{said:?}");
    }
    assert_serves(&honest, peer).await;
}

/// What an asking peer sees when the serving one does `what` with its stream.
async fn seen_by_asker(what: impl AsyncFnOnce(Stream)) -> ExchangeError {
    let mut asker = Peer::start(impatient(1)).await;
    let mut raw = Raw::connected(9, &asker.address()).await;
    asker.connected_to(key(9)).await;
    let serving = async {
        let (_, mut stream) = raw.streams.next().await.expect("a stream");
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.expect("a greeting");
        stream.write_all(&[READY]).await.expect("open");
        stream.flush().await.expect("open");
        // The request's frame: its length, one byte, the digest.
        let mut request = [0; 41];
        stream.read_exact(&mut request).await.expect("a request");
        what(stream).await;
    };
    let asking = async { ask(&asker.net, key(9), "x").await.expect_err("no honest response") };
    tokio::join!(asking, serving).0
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_stall_or_lie_are_given_up() {
    let too_long = seen_by_asker(async |mut stream: Stream| {
        stream.write_all(&[OK]).await.expect("open");
        stream.write_all(&(1_u64 << 60).to_le_bytes()).await.expect("open");
        stream.flush().await.expect("open");
        end_of(&mut stream).await;
    })
    .await;
    assert!(
        matches!(too_long, ExchangeError::TooLarge { what: "response", bytes, .. } if bytes == 1 << 60),
        "{too_long}"
    );

    let trickle = seen_by_asker(async |mut stream: Stream| {
        stream.write_all(&[OK]).await.expect("open");
        stream.write_all(&100_000_u64.to_le_bytes()).await.expect("open");
        while stream.write_all(&[1]).await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(STALL / 10).await;
        }
    })
    .await;
    assert!(matches!(trickle, ExchangeError::Stalled { doing: "receiving the response", .. }), "{trickle}");

    let nonsense = seen_by_asker(async |mut stream: Stream| {
        stream.write_all(&[0x77; 100]).await.expect("open");
        stream.flush().await.expect("open");
        end_of(&mut stream).await;
    })
    .await;
    assert!(matches!(nonsense, ExchangeError::Protocol { found: 0x77, .. }), "{nonsense}");

    let gone = seen_by_asker(async |stream: Stream| drop(stream)).await;
    assert!(matches!(gone, ExchangeError::Io { .. }), "{gone}");
}
