//! Starting a peer's network, and the handle to it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::gossipsub;
use libp2p::swarm::Config;
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::address::{self, AddressError};
use crate::behaviour;
use crate::config::{ConfigError, NetConfig};
use crate::driver::{COMMANDS, Command, Driver, LISTEN_IN, Parts, View};
use crate::event::{GossipTicket, Link, Nat, NetEvent, Verdict};
use crate::exchange::{Asking, Exchange, ExchangeError, Limits};
use crate::identity::{Key, key_of_peer, keypair, peer_of_key};
use crate::meter::{Counters, Meter};
use crate::serve::Serving;
use crate::slots::Slots;
use crate::transport;

/// Events that wait for whoever runs the network.
const EVENTS: usize = 256;
/// Exchanges with one peer at once, as the asking side.
const ASKED_PER_PEER: usize = 8;
/// Shutting down never takes longer.
const SHUTDOWN_IN: Duration = Duration::from_secs(2);

/// Why a network could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// None of the addresses can be listened on.
    #[error("cannot listen on any address: {}", list(.0))]
    Listen(Vec<(String, String)>),
    /// The protocols could not be set up.
    #[error("setting up {what}: {why}")]
    Setup {
        /// Which part.
        what: &'static str,
        /// What it says.
        why: String,
    },
}

fn list(failures: &[(String, String)]) -> String {
    let texts: Vec<_> = failures.iter().map(|(address, why)| format!("{address} ({why})")).collect();
    texts.join(", ")
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It is longer than [`max_gossip_bytes`](NetConfig::max_gossip_bytes).
    #[error("a message of {bytes} bytes: gossip takes {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No connected peer takes part in this run's gossip. Nothing is kept: publish again later.
    #[error("no connected peer listens")]
    NoPeers,
    /// This peer's queue, or those of all others, are full. Publish again later.
    #[error("too many messages wait")]
    QueueFull,
    /// The same message was published before.
    #[error("it was published before")]
    Duplicate,
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
    /// It could not be signed.
    #[error("gossip: {0}")]
    Gossip(#[source] gossipsub::PublishError),
}

impl PublishError {
    pub(crate) fn from_gossip(error: gossipsub::PublishError) -> Self {
        match error {
            gossipsub::PublishError::NoPeersSubscribedToTopic => Self::NoPeers,
            gossipsub::PublishError::AllQueuesFull(_) => Self::QueueFull,
            gossipsub::PublishError::Duplicate => Self::Duplicate,
            other => Self::Gossip(other),
        }
    }
}

/// Brings a peer's network up, on the current tokio runtime. Comes back as soon as it listens; bootstrap peers
/// and the rest are reached later, and need not exist. Events must be read: while nobody does, gossip is lost
/// and requests wait.
///
/// # Errors
/// Where the configuration cannot be used, or none of the listen addresses can. One that cannot beside others
/// that can is a [`NetEvent::ListenFailed`].
pub async fn start(config: NetConfig) -> Result<(Net, mpsc::Receiver<NetEvent>), NetError> {
    let settings = config.check()?;
    let raw = settings.raw.clone();
    let key = keypair(&raw.key_seed);
    let me = key.public().to_peer_id();
    let meter = Meter::new(raw.upload_bytes_per_s, raw.download_bytes_per_s);
    let setup = |what, error: &dyn fmt::Display| NetError::Setup { what, why: error.to_string() };
    let (transport, relay) = transport::build(&key, &meter).map_err(|error| setup("transports", &error))?;
    let (behaviour, no_mdns) = behaviour::build(&key, relay, &settings).map_err(|error| setup("protocols", &error))?;
    let mut control = behaviour.streams.new_control();
    let streams = control.accept(settings.names.exchange.clone()).map_err(|error| setup("exchanges", &error))?;
    let swarm_config = Config::with_tokio_executor().with_idle_connection_timeout(raw.pace.idle);
    let swarm = Swarm::new(transport, behaviour, me, swarm_config);

    let limits = Limits::of(&raw);
    let asked = Slots::new(raw.max_asked, ASKED_PER_PEER);
    let served = Slots::new(raw.max_served, (raw.max_served / 4).max(1));
    let (events_in, events) = mpsc::channel(EVENTS);
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (ready_in, ready) = oneshot::channel();
    let (done_in, done) = watch::channel(false);
    let view = Arc::new(Mutex::new(View { addresses: Vec::new(), links: Vec::new(), nat: Nat::Unknown }));
    let serving = Serving { limits, slots: served.clone(), events: events_in.clone() };
    let acceptor = tokio::spawn(serving.accept(streams));
    let asking = Asking { control, protocol: settings.names.exchange.clone(), limits, slots: asked.clone() };
    let mut driver = Driver::new(Parts {
        settings,
        swarm,
        commands,
        events: events_in,
        view: Arc::clone(&view),
        slots: [asked, served],
        acceptor,
        ready: ready_in,
        done: done_in,
    });
    driver.listen().map_err(|failures| {
        NetError::Listen(failures.into_iter().map(|(address, why)| (address.to_string(), why)).collect())
    })?;
    if let Some(error) = no_mdns {
        driver.tell(NetEvent::ListenFailed { addr: "mdns".into(), why: error.to_string() });
    }
    tokio::spawn(driver.run());
    let _ = timeout(LISTEN_IN, ready).await;
    let key = key_of_peer(&me).unwrap_or_default();
    let net = Net { key, commands: commands_in, view, asking, meter, max_gossip: raw.max_gossip_bytes, done };
    Ok((net, events))
}

/// A handle to a running network. Clones are handles to the same one, which ends with the last of them.
#[derive(Clone)]
pub struct Net {
    key: Key,
    commands: mpsc::Sender<Command>,
    view: Arc<Mutex<View>>,
    asking: Asking,
    meter: Arc<Meter>,
    max_gossip: usize,
    done: watch::Receiver<bool>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("key", &crate::identity::peer_text(&self.key)).finish_non_exhaustive()
    }
}

impl Net {
    /// The own public key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Tells a message to everybody in the run, signed. That it was published means that at least one peer was sent it.
    ///
    /// # Errors
    /// Values, all of which the caller can expect in normal operation: too long, nobody there, too many at once.
    pub async fn publish(&self, data: Vec<u8>) -> Result<(), PublishError> {
        if data.len() > self.max_gossip {
            return Err(PublishError::TooLarge { bytes: data.len(), limit: self.max_gossip });
        }
        let (done, published) = oneshot::channel();
        match self.commands.try_send(Command::Publish { data, done }) {
            Ok(()) => published.await.unwrap_or(Err(PublishError::Closed)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(PublishError::QueueFull),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(PublishError::Closed),
        }
    }

    /// Says what is to become of a message. Once for each, within 30 s: it is forgotten then.
    pub async fn validate(&self, ticket: GossipTicket, verdict: Verdict) {
        // Without a network it goes nowhere anyway.
        let _ = self.commands.send(Command::Validate { ticket, verdict }).await;
    }

    /// Sends a peer a request and waits for its response, `deadline` from now at most. Connects first, if an address of
    /// the peer is known. The exchange ends with [`Exchange::acknowledge`]. Cancel by dropping the future: the
    /// peer then sees the stream end.
    ///
    /// At most 8 exchanges with one peer and [`max_asked`](NetConfig::max_asked) in all go on at once; an
    /// [`Exchange`] counts until it is acknowledged or dropped.
    ///
    /// # Errors
    /// See [`ExchangeError`]. A request that failed after it was sent may have been acted on.
    pub async fn exchange(&self, peer: Key, request: Vec<u8>, deadline: Duration) -> Result<Exchange, ExchangeError> {
        let limit = self.asking.limits.request;
        if request.len() > limit {
            return Err(ExchangeError::TooLarge { what: "request", bytes: request.len() as u64, limit });
        }
        let deadline = Instant::now() + deadline;
        let peer = peer_of_key(&peer);
        let slot = timeout_at(deadline, self.asking.slots.wait(peer))
            .await
            .map_err(|_| ExchangeError::Deadline { doing: "waiting for earlier exchanges" })?
            .ok_or(ExchangeError::Closed)?;
        let (done, reached) = oneshot::channel();
        let reach = async {
            self.commands.send(Command::Reach { peer, done }).await.map_err(|_| ExchangeError::Closed)?;
            reached.await.map_err(|_| ExchangeError::Closed)?.map_err(ExchangeError::NotConnected)
        };
        timeout_at(deadline, reach).await.unwrap_or(Err(ExchangeError::Deadline { doing: "connecting" }))?;
        self.asking.clone().ask(peer, slot, request, deadline).await
    }

    /// Ends all connections with a peer and allows no more.
    pub async fn ban(&self, peer: Key) {
        self.tell(|done| Command::Ban { peer: peer_of_key(&peer), done }).await;
    }

    /// Allows a peer again.
    pub async fn unban(&self, peer: Key) {
        self.tell(|done| Command::Unban { peer: peer_of_key(&peer), done }).await;
    }

    /// Ends all connections with a peer. It may connect again, and is connected to again if it is a bootstrap peer.
    pub async fn disconnect(&self, peer: Key) {
        self.tell(|done| Command::Disconnect { peer: peer_of_key(&peer), done }).await;
    }

    /// Connects to an address, soon. It is tried several times; failures are
    /// [`DialFailed`](NetEvent::DialFailed) events.
    ///
    /// # Errors
    /// Where it is no address.
    pub async fn dial(&self, address: &str) -> Result<(), AddressError> {
        let address: Multiaddr = address::parse(address)?;
        let _ = self.commands.send(Command::Dial { address }).await;
        Ok(())
    }

    /// Where this peer can be found, as far as it knows: listen and external addresses, `/p2p/` at the end.
    pub fn addresses(&self) -> Vec<String> {
        self.look().addresses.clone()
    }

    /// Connected members, in the order of their keys.
    pub fn connected(&self) -> Vec<Link> {
        self.look().links.clone()
    }

    /// Whether others can reach this peer.
    pub fn nat(&self) -> Nat {
        self.look().nat
    }

    /// Bytes moved so far.
    pub fn counters(&self) -> Counters {
        self.meter.counters()
    }

    /// Ends the network: exchanges get a second to end, then connections are closed. Takes 2 s at most, and
    /// comes back at once where it has ended already.
    pub async fn shutdown(&self) {
        let all = async {
            let _ = self.commands.send(Command::Shutdown).await;
            let _ = self.done.clone().wait_for(|done| *done).await;
        };
        let _ = timeout(SHUTDOWN_IN, all).await;
    }

    /// Sends a command, and waits until it has been carried out.
    async fn tell(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, told) = oneshot::channel();
        // A network that is shut down has no connections to end.
        if self.commands.send(command(done)).await.is_ok() {
            let _ = told.await;
        }
    }

    fn look(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
