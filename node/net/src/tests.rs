//! Whole peers on real sockets, on loopback.

mod clocks;
mod discovery;
mod exchanges;
mod gossip;
mod hostile;
mod membership;
mod rates;
mod raw;
mod relays;
mod starting;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::event::{NetEvent, Verdict};
use crate::identity::{Key, key_of_seed, peer_text};
use crate::{Exchange, ExchangeError, Net, NetConfig, start};

const RUN: &str = "00ab";
/// Nothing here takes this long unless it is broken, however busy the machine.
const SOON: Duration = Duration::from_secs(15);

/// A peer that a test drives.
struct Peer {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
}

fn key(seed: u8) -> Key {
    key_of_seed(&[seed; 32])
}

/// A peer that looks for nobody by itself.
fn alone(seed: u8) -> NetConfig {
    NetConfig { wanted_peers: 0, ..NetConfig::local([seed; 32], RUN) }
}

fn tcp() -> Vec<String> {
    vec!["/ip4/127.0.0.1/tcp/0".into()]
}

fn quic() -> Vec<String> {
    vec!["/ip4/127.0.0.1/udp/0/quic-v1".into()]
}

impl Peer {
    async fn start(config: NetConfig) -> Self {
        let (net, events) = start(config).await.expect("loopback can be listened on");
        Self { net, events }
    }

    /// A peer that is connected to another.
    async fn joined(config: NetConfig, other: &Peer) -> Self {
        let mut peer = Self::start(NetConfig { bootstrap: vec![other.address()], ..config }).await;
        peer.connected_to(other.key()).await;
        peer
    }

    fn key(&self) -> Key {
        *self.net.key()
    }

    fn address(&self) -> String {
        self.net.addresses().first().expect("it listens").clone()
    }

    /// Reads events until one is what is looked for.
    async fn until<T>(&mut self, what: &str, mut look: impl FnMut(NetEvent) -> Option<T>) -> T {
        let seen = async {
            loop {
                let event = self.events.recv().await.expect("the network runs");
                if let Some(found) = look(event) {
                    return found;
                }
            }
        };
        timeout(SOON, seen).await.unwrap_or_else(|_| panic!("no {what} in {SOON:?}"))
    }

    async fn connected_to(&mut self, other: Key) {
        if self.net.connected().iter().any(|link| link.peer == other) {
            return;
        }
        let what = format!("connection with {}", peer_text(&other));
        self.until(&what, |event| matches!(event, NetEvent::Connected { peer, .. } if peer == other).then_some(()))
            .await;
    }

    /// Answers every request by `answer`, in tasks of their own, and sends on the receipts that come back.
    fn serve(mut self, answer: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> (Net, mpsc::Receiver<Received>) {
        let answer = std::sync::Arc::new(answer);
        let (sender, receipts) = mpsc::channel(1024);
        let net = self.net.clone();
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                match event {
                    NetEvent::Request { request, reply, .. } => {
                        let (answer, sender) = (answer.clone(), sender.clone());
                        tokio::spawn(async move {
                            let receipt = reply.respond(answer(request)).await;
                            sender.send(receipt).await.expect("the test reads receipts");
                        });
                    }
                    NetEvent::Gossip { validator, .. } => self.net.validate(validator, Verdict::Accept).await,
                    _ => {}
                }
            }
        });
        (net, receipts)
    }
}

/// A receipt, or why there was none.
type Received = Result<Vec<u8>, ExchangeError>;

async fn ask(net: &Net, peer: Key, request: impl Into<Vec<u8>>) -> Result<Exchange, ExchangeError> {
    net.exchange(peer, request.into(), SOON).await
}

/// Bytes that do not repeat soon.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
