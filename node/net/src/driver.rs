//! The one task that owns libp2p's swarm. It takes commands, tells events, and waits for nobody.

mod discovery;
mod explain;
mod listening;
mod outbox;
mod swarm_events;
mod twins;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic};
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Swarm, kad};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::discovery::Finding;
use self::explain::explain;
use self::listening::Listening;
use self::outbox::Outbox;
use self::twins::Twins;
use crate::address::{is_relayed, peer_in, with_peer, without_peer};
use crate::backoff::Backoff;
use crate::behaviour::Behaviour;
use crate::config::Settings;
use crate::event::{GossipTicket, Link, Nat, NetEvent, Verdict};
use crate::net::PublishError;
use crate::roster::Roster;
use crate::slots::Slots;
use crate::targets::{Failure, Patience, Targets};

/// Commands that may wait.
pub(crate) const COMMANDS: usize = 256;
/// Tries for an address that somebody asked for, and for one from the address book.
const ASKED_TRIES: u32 = 8;
const KNOWN_TRIES: u32 = 2;
/// Exchanges that may wait for a connection.
const WAITERS: usize = 1024;
/// How long to wait for listeners to say where they listen. One that says nothing by then may still do so.
pub(crate) const LISTEN_IN: Duration = Duration::from_millis(500);
/// How long exchanges may take to end when the network is shut down, and connections after that.
const LAST_EXCHANGES: Duration = Duration::from_millis(1000);
const LAST_CONNECTIONS: Duration = Duration::from_millis(500);

/// What a handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Publish {
        data: Vec<u8>,
        done: oneshot::Sender<Result<(), PublishError>>,
    },
    Validate {
        ticket: GossipTicket,
        verdict: Verdict,
    },
    /// Be connected with a member.
    Reach {
        peer: PeerId,
        done: oneshot::Sender<Result<(), String>>,
    },
    Dial {
        address: Multiaddr,
    },
    Ban {
        peer: PeerId,
        done: oneshot::Sender<()>,
    },
    Unban {
        peer: PeerId,
        done: oneshot::Sender<()>,
    },
    Disconnect {
        peer: PeerId,
        done: oneshot::Sender<()>,
    },
    Shutdown,
}

/// What handles may look at without asking.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) addresses: Vec<String>,
    pub(crate) links: Vec<Link>,
    pub(crate) nat: Nat,
}

/// Everything the task holds.
pub(crate) struct Driver {
    me: PeerId,
    settings: Settings,
    topic: IdentTopic,
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    outbox: Outbox,
    view: Arc<Mutex<View>>,
    roster: Roster,
    targets: Targets,
    listening: Listening,
    finding: Finding,
    twins: Twins,
    waiters: HashMap<PeerId, Vec<oneshot::Sender<Result<(), String>>>>,
    nat: Nat,
    unreachable: u32,
    started: Instant,
    /// Slots of exchanges that this peer asks for, and of those that it serves.
    slots: [Slots; 2],
    acceptor: JoinHandle<()>,
    ready: Option<oneshot::Sender<()>>,
    done: watch::Sender<bool>,
}

/// What the task is made of.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) slots: [Slots; 2],
    pub(crate) acceptor: JoinHandle<()>,
    /// Told once every address that can be listened on is.
    pub(crate) ready: oneshot::Sender<()>,
    /// Told when the task ends.
    pub(crate) done: watch::Sender<bool>,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { settings, swarm, commands, events, view, slots, acceptor, ready, done } = parts;
        let backoff = Backoff { first: settings.raw.pace.retry_first, max: settings.raw.pace.retry_max };
        Self {
            me: *swarm.local_peer_id(),
            topic: IdentTopic::new(settings.names.topic.clone()),
            outbox: Outbox::new(events),
            roster: Roster::default(),
            targets: Targets::new(backoff),
            listening: Listening::new(backoff),
            finding: Finding::default(),
            twins: Twins::default(),
            waiters: HashMap::new(),
            nat: Nat::Unknown,
            unreachable: 0,
            started: Instant::now(),
            ready: Some(ready),
            settings,
            swarm,
            commands,
            view,
            slots,
            acceptor,
            done,
        }
    }

    /// Listens where it can. Answers with the failures where it can nowhere, though it should somewhere.
    pub(crate) fn listen(&mut self) -> Result<(), Vec<(Multiaddr, String)>> {
        let mut failures = Vec::new();
        let addresses = self.settings.listen.clone();
        for address in &addresses {
            match self.swarm.listen_on(address.clone()) {
                Ok(listener) => self.listening.add(address.clone(), listener),
                Err(error) => failures.push((address.clone(), explain::chain(&error))),
            }
        }
        if !addresses.is_empty() && failures.len() == addresses.len() {
            return Err(failures);
        }
        for (address, why) in failures {
            self.outbox.push(NetEvent::ListenFailed { addr: address.to_string(), why });
        }
        Ok(())
    }

    /// Tells something before the task runs.
    pub(crate) fn tell(&mut self, event: NetEvent) {
        self.outbox.push(event);
    }

    /// Runs until it is told to stop, or nobody can tell it anything any more.
    pub(crate) async fn run(mut self) {
        let now = Instant::now();
        for address in std::mem::take(&mut self.settings.external) {
            self.swarm.add_external_address(address.clone());
            self.outbox.push(NetEvent::External { addr: with_peer(&address, self.me).to_string() });
        }
        for address in std::mem::take(&mut self.settings.bootstrap) {
            self.targets.add(address, Patience::Endless, now);
        }
        for address in std::mem::take(&mut self.settings.known) {
            self.targets.add(address, Patience::Tries(KNOWN_TRIES), now);
        }
        self.addresses_changed();
        let every =
            (self.settings.raw.pace.retry_first / 2).clamp(Duration::from_millis(50), Duration::from_millis(500));
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event, Instant::now()),
                command = self.commands.recv() => match command {
                    None | Some(Command::Shutdown) => break,
                    Some(command) => self.on_command(command, Instant::now()),
                },
                () = self.outbox.send_one(), if !self.outbox.is_empty() => {}
                _ = ticks.tick() => self.tick(Instant::now()),
            }
        }
        self.close().await;
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        // Whoever no longer waits for an answer needs none.
        match command {
            Command::Publish { data, done } => {
                let published = self.swarm.behaviour_mut().gossip.publish(self.topic.hash(), data);
                let _ = done.send(published.map(drop).map_err(PublishError::from_gossip));
            }
            Command::Validate { ticket, verdict } => self.validate(&ticket, verdict),
            Command::Reach { peer, done } => self.reach(peer, done),
            Command::Dial { address } => self.targets.add(address, Patience::Tries(ASKED_TRIES), now),
            Command::Ban { peer, done } => {
                self.swarm.behaviour_mut().blocked.block_peer(peer);
                self.swarm.behaviour_mut().gossip.blacklist_peer(&peer);
                let _ = done.send(());
            }
            Command::Unban { peer, done } => {
                self.swarm.behaviour_mut().blocked.unblock_peer(peer);
                self.swarm.behaviour_mut().gossip.remove_blacklisted_peer(&peer);
                let _ = done.send(());
            }
            Command::Disconnect { peer, done } => {
                let _ = self.swarm.disconnect_peer_id(peer);
                let _ = done.send(());
            }
            Command::Shutdown => {}
        }
    }

    fn validate(&mut self, ticket: &GossipTicket, verdict: Verdict) {
        let gossip: &mut gossipsub::Behaviour<_, _> = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&ticket.message, &ticket.from, verdict.into());
    }

    /// Answers once the peer is connected and a member, or cannot be.
    fn reach(&mut self, peer: PeerId, done: oneshot::Sender<Result<(), String>>) {
        let refused = |why: &str| Err(why.to_owned());
        if self.roster.is_member(&peer) {
            let _ = done.send(Ok(()));
        } else if peer == self.me {
            let _ = done.send(refused("it is this peer itself"));
        } else if self.waiters.values().map(Vec::len).sum::<usize>() >= WAITERS {
            let _ = done.send(refused("too many exchanges wait for connections"));
        } else {
            if !self.roster.is_connected(&peer) {
                let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
                match self.swarm.dial(options) {
                    Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
                    Err(error) => {
                        let _ = done.send(Err(explain(&error)));
                        return;
                    }
                }
            }
            self.waiters.entry(peer).or_default().push(done);
        }
    }

    fn answer_waiters(&mut self, peer: &PeerId, answer: &Result<(), String>) {
        for waiter in self.waiters.remove(peer).unwrap_or_default() {
            let _ = waiter.send(answer.clone());
        }
    }

    /// All that happens with time.
    fn tick(&mut self, now: Instant) {
        self.dial_due(now);
        self.listen_due(now);
        for peer in self.roster.silent(now, self.settings.raw.pace.identify) {
            tracing::debug!(%peer, "disconnected: it does not say what it speaks");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        for connection in self.roster.superseded(now) {
            self.swarm.close_connection(connection);
        }
        for address in self.twins.due(now) {
            self.outbox.push(NetEvent::SameIdentity { address });
        }
        self.waiters.retain(|_, waiting| {
            waiting.retain(|waiter| !waiter.is_closed());
            !waiting.is_empty()
        });
        self.find(now);
    }

    /// Dials what is due, once the own addresses are known: dialling one of them from itself would connect a port
    /// with itself.
    fn dial_due(&mut self, now: Instant) {
        if !self.listening.is_settled() && now.saturating_duration_since(self.started) < LISTEN_IN {
            return;
        }
        let roster = &self.roster;
        for address in self.targets.due(now, |peer| roster.is_member(peer)) {
            if self.is_own(&address) {
                // One list of bootstrap peers serves all of them.
                self.targets.forget(&address);
                continue;
            }
            let options = DialOpts::from(address.clone());
            let connection = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => self.targets.dialling(&address, connection),
                Err(DialError::DialPeerConditionFalse(_)) => self.targets.postpone(&address, now),
                Err(error) => {
                    let why = explain(&error);
                    let failure = self.targets.refused(&address, now, jitter());
                    self.tell_failure(failure, why);
                }
            }
        }
    }

    fn is_own(&self, address: &Multiaddr) -> bool {
        let bare = without_peer(address);
        peer_in(address) == Some(self.me)
            || self.swarm.listeners().chain(self.swarm.external_addresses()).any(|own| without_peer(own) == bare)
    }

    fn tell_failure(&mut self, failure: impl IntoIterator<Item = Failure>, why: impl Into<String>) {
        let why = why.into();
        for Failure { address, attempts, next_try_in } in failure {
            let address = address.to_string();
            self.outbox.push(NetEvent::DialFailed { address, why: why.clone(), attempts, next_try_in });
        }
    }

    /// Own addresses have changed: what others see, and whether they may rely on this peer.
    fn addresses_changed(&mut self) {
        let reachable = self.swarm.external_addresses().any(|address| !is_relayed(address));
        let mode = if reachable { kad::Mode::Server } else { kad::Mode::Client };
        if self.swarm.behaviour().kad.mode() != mode {
            self.swarm.behaviour_mut().kad.set_mode(Some(mode));
        }
        let own = self.swarm.listeners().chain(self.swarm.external_addresses());
        let mut addresses: Vec<_> = own.map(|address| with_peer(address, self.me).to_string()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        self.look(|view| view.addresses = addresses);
        if self.listening.is_settled()
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(());
        }
    }

    fn links_changed(&mut self) {
        let links = self.roster.links();
        self.look(|view| view.links = links);
    }

    fn nat_is(&mut self, nat: Nat) {
        if self.nat != nat {
            self.nat = nat;
            self.look(|view| view.nat = nat);
            self.outbox.push(NetEvent::Nat(nat));
        }
    }

    fn look(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets exchanges come to their end for a moment, then says goodbye to everybody.
    async fn close(mut self) {
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        self.waiters.clear();
        self.acceptor.abort();
        self.slots.iter().for_each(Slots::close);
        let mut poll = interval(Duration::from_millis(10));
        let exchanges = async {
            while self.slots.iter().any(|slots| slots.used() > 0) {
                tokio::select! { _ = self.swarm.select_next_some() => {}, _ = poll.tick() => {} }
            }
        };
        let _ = timeout(LAST_EXCHANGES, exchanges).await;
        for peer in self.roster.peers().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let connections = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(LAST_CONNECTIONS, connections).await;
        self.look(|view| {
            view.links.clear();
            view.addresses.clear();
        });
        let done = self.done.clone();
        drop(self);
        let _ = done.send(true);
    }
}

/// A number in 0..1. It spreads retries and protects nothing.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now()) as f64 / u64::MAX as f64
}
