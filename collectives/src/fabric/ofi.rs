//! One-sided writes through libfabric: InfiniBand and RoCE (`verbs;ofi_rxm`), AWS (`efa`), Slingshot (`cxi`), and TCP
//! or shared memory where none of them is at hand.
//!
//! The library is opened when it is first asked for; without it, or without a provider, there is an error and nothing
//! else. Nothing is needed to build this.
//!
//! # How it works
//!
//! A put is a write into the peer's registered scratch. Its completion at the writer says nothing about the target, so
//! each put brings a word of completion data, which the target's queue gives it once the data is there. Signals,
//! packets and what else there is to say are small messages. Puts and messages to one peer share one numbering, and the
//! receiver takes them in by number (see `peer.rs`): a signal counts only when all that was put before it has landed,
//! on providers that keep an order (verbs) as on those that do not (EFA). Where completion data has 64 bits it also
//! names the operation, and a put that signals is one transfer. Where writes have none (Slingshot), puts complete on
//! delivery, and a signal waits for that of all puts before it.
//!
//! Nothing moves by itself: every wait, and every post that is refused for now, polls the completion queue.
//!
//! A rank may write to a peer that has ended the operation before the last one. Peers hear of that with whatever they
//! are sent anyway; those that are sent nothing but have lately written are told, and whoever does not know asks. So
//! [`Fabric::begin`] waits for nobody; the first put to a peer does, if it must.
//!
//! Each epoch has an endpoint, a key and a mark of its own: writes of an older one have nowhere to go.
//!
//! # What was run
//!
//! libfabric 1.17 and 2.6: `tcp;ofi_rxm`, the TCP without that layer (`net`, later `tcp`) and `shm` (of 2.6 only
//! between processes), with the conformance suite. It also ran with what other providers have forced on these: 32 bits
//! of completion data as verbs and EFA, none as Slingshot, sources that have to be registered, and puts and completions
//! in any order (`disorder.rs`). The code for verbs, EFA and Slingshot is the same, but it has never run on such
//! hardware.
//!
//! # What to know
//!
//! - Few providers tell when the process at the other end dies: a wait goes on until something else (the group's
//!   control connections) aborts it or its time is over. A rank that gives up alive says so.
//! - Where a host has several interfaces, libfabric chooses: `FI_TCP_IFACE`, `FI_VERBS_IFACE` and the like say which.
//! - `shm` is for tests: within a host there is [`super::shm`]. libfabric's installs handlers for SIGINT, SIGTERM,
//!   SIGSEGV and SIGBUS, which call those that were there before; a process that dies while it holds one of its locks
//!   stops its peers; and a put that the peer has not taken a quarter of a second after its writer gave up reads what
//!   is there later. Since libfabric 2.5 ranks that share a process cannot use it.
//! - Nothing is encrypted, and peers are trusted not to pretend to be others.

#[cfg(test)]
mod disorder;
mod endpoint;
#[cfg(test)]
mod layout;
mod library;
mod object;
mod offer;
mod open;
mod peer;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod speed;
mod sys;
#[cfg(test)]
mod tests;
mod together;
mod traffic;
mod wait;
mod wire;

use std::time::{Duration, Instant};

pub use self::library::{ProviderInfo, probe};
pub use self::offer::{Card, Offer};

use self::endpoint::Event;
use self::object::Block;
use self::offer::packet_place;
use self::peer::Peer;
use self::together::Together;
use self::wire::{Kind, PACKET_BYTES};
use crate::fabric::{Entry, Fabric, Raw, Target, Window};
use crate::fault::Fault;
use crate::patience::Patience;
use crate::plan::{Rank, Reach};

/// One rank's channels over libfabric.
#[derive(Debug)]
pub struct OfiFabric {
    rank: Rank,
    epoch: u64,
    endpoint: Together,
    /// By rank; none for oneself.
    peers: Vec<Option<Peer>>,
    packets: Block,
    half: usize,
    data: Data,
    /// The operation that this rank is in, or was in last.
    sequence: u64,
    tag: u32,
    /// Between `begin` and `end`.
    open: bool,
    /// The last operation that it has ended.
    ended: u64,
    /// Puts that have not left.
    puts: u64,
    /// Peers, a bit each, that are owed a message.
    owing: u64,
    /// The first peer that went in the middle of an operation, as what a wait fails with.
    lost: Option<Fault>,
    /// The first fault: there is no way on from it.
    broken: Option<Fault>,
    /// Whom the reason is still to be told to: it called the operation something else.
    refused: Option<Rank>,
    events: Vec<Event>,
}

/// What comes with a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// A note and the operation's tag.
    Tagged,
    /// A note: the tag has to be said before a put may signal.
    Plain,
    /// Nothing: puts complete on delivery.
    None,
}

/// Looks that the end of an operation spends on telling so.
const TELL_LOOKS: u32 = 50;
/// How long a fabric that is dropped waits for others.
const FAREWELL: Duration = Duration::from_millis(250);

impl OfiFabric {
    fn new(
        rank: Rank,
        epoch: u64,
        endpoint: Together,
        peers: Vec<Option<Peer>>,
        half: usize,
        data_bytes: u8,
    ) -> Result<Self, Fault> {
        let packets = Block::new(peers.len() * 2 * PACKET_BYTES)?;
        let data = match data_bytes {
            8.. => Data::Tagged,
            4.. => Data::Plain,
            _ => Data::None,
        };
        Ok(Self {
            rank,
            epoch,
            endpoint,
            peers,
            packets,
            half,
            data,
            sequence: 0,
            tag: 0,
            open: false,
            ended: 0,
            puts: 0,
            owing: 0,
            lost: None,
            broken: None,
            refused: None,
            events: Vec::new(),
        })
    }

    /// The provider it goes through.
    pub fn provider(&self) -> &str {
        &self.endpoint.limits().provider
    }

    fn others(&self) -> impl Iterator<Item = Rank> + Clone + use<> {
        let rank = self.rank;
        (0..self.peers.len()).filter(move |other| *other != rank)
    }

    fn peer(&self, rank: Rank) -> &Peer {
        match self.peers.get(rank) {
            Some(Some(peer)) => peer,
            _ => panic!("rank {rank} is no peer of rank {}", self.rank),
        }
    }

    fn peer_mut(&mut self, rank: Rank) -> &mut Peer {
        match self.peers.get_mut(rank) {
            Some(Some(peer)) => peer,
            _ => panic!("rank {rank} is no peer of rank {}", self.rank),
        }
    }

    /// Says hello to everybody, and waits until everybody has.
    fn greet(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.greet_all(patience).inspect_err(|fault| self.broken = Some(fault.clone()))
    }

    fn greet_all(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        let others = self.others();
        for peer in others.clone() {
            self.post(peer, patience, |fabric| fabric.send(peer, Kind::Hello, 0))?;
        }
        for peer in others {
            self.until(Some(peer), patience, |fabric| Ok(fabric.peer(peer).greeted))?;
        }
        Ok(())
    }

    /// Runs a call: nothing after a fault, and what a fault means for others.
    fn call<T>(
        &mut self,
        patience: &mut Patience<'_>,
        inside: impl FnOnce(&mut Self, &mut Patience<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.usable()?;
        inside(self, patience).map_err(|fault| {
            let fault = match fault {
                Fault::Lost { rank, how } => patience.lost(rank, how),
                fault => fault,
            };
            self.give_up(fault)
        })
    }

    fn usable(&self) -> Result<(), Fault> {
        match &self.broken {
            Some(fault) => Err(fault.clone()),
            None if !self.open => {
                Err(Fault::System { what: "a call of a fabric", why: "no operation has begun".to_owned() })
            }
            None => Ok(()),
        }
    }

    /// From now on every call fails with that fault.
    fn give_up(&mut self, fault: Fault) -> Fault {
        if self.broken.is_none() {
            if let Fault::Mismatch { rank, .. } = fault {
                // The peer may not have heard of this operation yet. What is not taken now is said at the end.
                let taken = self.send(rank, Kind::Refuse, self.sequence);
                self.refused = matches!(taken, Ok(false)).then_some(rank);
            }
            self.broken = Some(fault.clone());
        }
        self.broken.clone().unwrap_or(fault)
    }

    /// Where the operation's half of scratch begins.
    fn half_at(&self) -> usize {
        (self.sequence % 2) as usize * self.half
    }

    fn cannot<T>(&self, what: &'static str) -> Result<T, Fault> {
        Err(Fault::System { what, why: "libfabric's providers do not map a peer's memory".to_owned() })
    }
}

impl Fabric for OfiFabric {
    fn name(&self) -> &'static str {
        "ofi"
    }

    fn reach(&self, _peer: Rank) -> Reach {
        Reach { packet_bytes: PACKET_BYTES, ..Reach::default() }
    }

    fn scratch_bytes(&self) -> usize {
        self.half
    }

    fn scratch(&self) -> Raw {
        Raw { at: self.endpoint.scratch().at.wrapping_add(self.half_at()), bytes: self.half }
    }

    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if self.open || entry.sequence <= self.sequence {
            let why = format!("operation {} cannot follow {}", entry.sequence, self.sequence);
            return Err(Fault::System { what: "beginning an operation", why });
        }
        (self.sequence, self.tag, self.open) = (entry.sequence, entry.tag, true);
        // SAFETY: both can be read until the operation has ended, says the caller, and `end` makes the endpoint forget
        // them.
        unsafe { self.endpoint.expect([entry.input, entry.output]) };
        self.call(patience, |fabric, _| {
            for other in fabric.others() {
                let sequence = fabric.sequence;
                fabric.peer_mut(other).begin(sequence);
                fabric.same_operation(other)?;
            }
            if fabric.owing != 0 { fabric.pay() } else { Ok(()) }
        })
    }

    fn end(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            if fabric.puts > 0 {
                fabric.until(None, patience, |fabric| Ok(fabric.puts == 0))?;
            }
            fabric.endpoint.forget(None);
            (fabric.ended, fabric.open) = (fabric.sequence, false);
            for other in fabric.others() {
                let sequence = fabric.sequence;
                let peer = fabric.peer_mut(other);
                peer.end(sequence);
                let owes = peer.owes != 0 && !peer.gone;
                fabric.owing |= u64::from(owes) << other;
            }
            if fabric.owing != 0 {
                fabric.pay()?;
            }
            // What does not go now goes with the next call.
            for _ in 0..TELL_LOOKS {
                if fabric.owing == 0 {
                    break;
                }
                fabric.look()?;
            }
            Ok(())
        })
    }

    unsafe fn put(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        to: Target,
        signal: bool,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            let refused = |why: String| Fault::System { what: "a put over libfabric", why };
            let Target::Scratch(offset) = to else {
                return Err(refused("only scratch can be written to".into()));
            };
            if offset.checked_add(bytes).is_none_or(|end| end > fabric.half) {
                let why = format!("{bytes} bytes at {offset} are outside its {} bytes of scratch", fabric.half);
                return Err(refused(why));
            }
            fabric.gate(peer, patience)?;
            let start = fabric.half_at() + offset;
            // Whether the last write may bring the signal: not before the peer can know the operation's tag.
            let rides = signal
                && match fabric.data {
                    Data::Tagged => true,
                    Data::Plain => fabric.peer(peer).said == fabric.sequence,
                    Data::None => false,
                };
            let most = fabric.endpoint.limits().put_bytes;
            let mut done = 0;
            while done < bytes {
                let piece = most.min(bytes - done);
                let last = rides && done + piece == bytes;
                // SAFETY: inside what stays until flushed or ended, says the caller, and both wait until it has left.
                fabric.post(peer, patience, |fabric| unsafe {
                    fabric.write(peer, from.add(done), piece, start + done, last)
                })?;
                done += piece;
            }
            if signal && !(rides && bytes > 0) { fabric.send_signal(peer, patience) } else { Ok(()) }
        })
    }

    fn signal(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            fabric.gate(peer, patience)?;
            fabric.send_signal(peer, patience)
        })
    }

    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            fabric.until_from(peer, patience, |peer| peer.signals > 0)?;
            fabric.peer_mut(peer).signals -= 1;
            Ok(())
        })
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        self.usable()?;
        if self.peer(peer).signals == 0 {
            let looked = self.look();
            looked.map_err(|fault| self.give_up(fault))?;
        }
        match (self.peer(peer).signals > 0, &self.lost) {
            (false, Some(fault)) => Err(fault.clone()),
            (there, _) => Ok(there),
        }
    }

    unsafe fn packet(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            if bytes > PACKET_BYTES {
                let why = format!("{bytes} bytes; {PACKET_BYTES} are the most");
                return Err(Fault::System { what: "sending a packet", why });
            }
            fabric.gate(peer, patience)?;
            fabric.delivered(peer, patience)?;
            // SAFETY: readable, says the caller.
            fabric.post(peer, patience, |fabric| unsafe {
                fabric.send_with(peer, Kind::Packet, fabric.sequence, fabric.tag, from, bytes)
            })
        })
    }

    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault> {
        self.call(patience, |fabric, patience| {
            let sequence = fabric.sequence;
            fabric.until_from(peer, patience, |peer| peer.packets[(sequence % 2) as usize] == sequence)?;
            Ok(packet_place(fabric.packets.raw(), peer, sequence).cast_const())
        })
    }

    fn expose(&mut self, _peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.cannot("exposing memory")
    }

    fn meet(&mut self, _peer: Rank, _patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.cannot("meeting exposed memory")
    }

    fn direct(&self, _peer: Rank, _window: Window) -> Option<Raw> {
        None
    }

    unsafe fn copy_from(
        &mut self,
        _peer: Rank,
        _window: Window,
        _offset: usize,
        _to: *mut u8,
        _bytes: usize,
    ) -> Result<(), Fault> {
        self.cannot("copying from a peer's memory")
    }

    fn flush(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            if fabric.peer(peer).puts > 0 {
                fabric.until(Some(peer), patience, |fabric| Ok(fabric.peer(peer).puts == 0))?;
            }
            fabric.endpoint.forget(Some(peer));
            Ok(())
        })
    }
}

impl Drop for OfiFabric {
    /// Says that it goes, and waits a little until that and what was put has left; in order, until it has come, for
    /// what is under way may be lost with the endpoint.
    fn drop(&mut self) {
        let orderly = !self.open && self.broken.is_none();
        let because_of = match &self.broken {
            Some(Fault::Lost { rank, .. }) => *rank,
            _ => self.rank,
        };
        let until = Instant::now() + FAREWELL;
        let mut untold: Vec<Rank> = self.others().filter(|peer| !self.peer(*peer).gone).collect();
        loop {
            untold.retain(|peer| {
                if self.refused == Some(*peer) {
                    // First why, and then that.
                    if let Ok(false) = self.send(*peer, Kind::Refuse, self.sequence) {
                        return true;
                    }
                    self.refused = None;
                }
                let told = match orderly {
                    true => self.send(*peer, Kind::Leave, self.ended),
                    false => self.send_gone(*peer, because_of),
                };
                // Whoever cannot be told finds out otherwise.
                matches!(told, Ok(false))
            });
            let _ = self.look();
            let over = |peer: &Peer| match orderly {
                true => peer.has_all() || peer.left.is_some() || peer.gone,
                false => peer.puts == 0 || peer.left.is_some() || peer.gone,
            };
            let left = orderly || self.endpoint.under_way() as u64 <= self.puts;
            if untold.is_empty() && left && self.peers.iter().flatten().all(over) || Instant::now() > until {
                return;
            }
            rustix::thread::sched_yield();
        }
    }
}
