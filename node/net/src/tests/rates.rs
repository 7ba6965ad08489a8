//! Limits on bytes a second, measured. The wait is what is tested.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Peer, alone, ask, tcp};
use crate::NetConfig;

const RATE: u64 = 1 << 20;

/// How long it takes to fetch `count` times `bytes` at once.
async fn time_to_fetch(server: NetConfig, client: NetConfig, count: usize, bytes: usize) -> Duration {
    let server = Peer::start(NetConfig { listen: tcp(), ..server }).await;
    let client = Peer::joined(client, &server).await;
    let peer = server.key();
    let (_net, mut receipts) = server.serve(move |_| vec![7; bytes]);
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..count {
        let net = client.net.clone();
        asking.spawn(async move {
            let exchange = ask(&net, peer, "x").await.expect("a response");
            assert_eq!(exchange.response.len(), bytes);
            exchange.acknowledge(Vec::new()).await.expect("confirmed");
        });
    }
    asking.join_all().await;
    let elapsed = start.elapsed();
    for _ in 0..count {
        receipts.recv().await.expect("served").expect("a receipt");
    }
    elapsed
}

fn assert_takes(elapsed: Duration, seconds: f64) {
    let found = elapsed.as_secs_f64();
    assert!((0.8 * seconds..=1.2 * seconds).contains(&found), "{found} s, not {seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_one_exchange_and_for_many() {
    let up = || NetConfig { upload_bytes_per_s: Some(RATE), ..alone(1) };
    let down = || NetConfig { download_bytes_per_s: Some(RATE), ..alone(2) };
    let (up_one, up_many, down_one, down_many) = tokio::join!(
        time_to_fetch(up(), alone(2), 1, 3 << 20),
        time_to_fetch(up(), alone(2), 6, 1 << 19),
        time_to_fetch(alone(1), down(), 1, 3 << 20),
        time_to_fetch(alone(1), down(), 6, 1 << 19),
    );
    for elapsed in [up_one, up_many, down_one, down_many] {
        assert_takes(elapsed, 3.0);
    }
}
