//! Channels over TCP connections, for ranks on different hosts.
//!
//! One thread does it all: whatever is called sends what the sockets take and, where it has to wait, takes in what has
//! come from anybody. Data goes from the socket straight to its place, after its frame was checked; frames of an operation
//! that has not begun here stay unread, so that nobody can write where data is still in use, and [`Fabric::begin`] need
//! not wait for anybody.
//!
//! Large puts are dealt out in chunks to all connections to a peer; see `tcp/frame.rs` for how signals stay after them.
//!
//! The connections are given, and whoever gives them has made sure who is at the other end. Nothing is encrypted here.

mod frame;
#[cfg(test)]
mod hostile;
mod inbox;
mod outbox;
mod progress;
#[cfg(test)]
mod ratios;
mod socket;
#[cfg(test)]
mod tests;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use self::frame::{Header, Kind, MAX_LANES, MAX_PACKET};
use self::inbox::Inbox;
use self::outbox::{Item, Outbox};
use self::socket::Scratch;
use crate::fabric::{Entry, Fabric, Raw, Target, Window};
use crate::fault::Fault;
use crate::patience::Patience;
use crate::plan::{MAX_RANKS, Rank, Reach};

/// Bytes of a packet, at most.
pub const PACKET_BYTES: usize = MAX_PACKET;
/// How long a fabric that is dropped tries to say that it leaves.
const FAREWELL: Duration = Duration::from_millis(20);

/// How the connections are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A put of more bytes is cut into chunks of so many, if the peer has several connections.
    pub chunk_bytes: usize,
    /// Bytes that the kernel keeps for each connection to be sent and to be read; `None`: it finds out by itself, which
    /// suits long distances.
    pub socket_bytes: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { chunk_bytes: 256 << 10, socket_bytes: None }
    }
}

/// One rank's channels over TCP.
#[derive(Debug)]
pub struct TcpFabric {
    rank: Rank,
    /// By rank; none for oneself.
    peers: Vec<Option<Peer>>,
    scratch: Scratch,
    here: Here,
    /// Between `begin` and `end`, and without a fault.
    usable: bool,
    /// The first fault: there is no way on from it.
    broken: Option<Fault>,
    /// Peers, a bit each, for which something is queued.
    sending: u64,
    /// Peers, a bit each, from which something came at the last look.
    warm: u64,
    /// Counts looks, so that what is rarely needed is rarely done.
    looks: u32,
}

// SAFETY: the addresses in it are of its own mapping, or of memory that the callers of `begin` and `put` vouch for,
// whatever the thread.
unsafe impl Send for TcpFabric {}

/// Another rank.
#[derive(Debug)]
struct Peer {
    streams: Vec<TcpStream>,
    inbox: Inbox,
    outbox: Outbox,
}

/// The operation that this rank is in.
#[derive(Debug, Clone, Copy)]
struct Here {
    epoch: u64,
    sequence: u64,
    tag: u32,
    /// The tag of the operation before.
    last_tag: u32,
    half: Raw,
    output: Raw,
}

impl Here {
    fn header(&self, kind: Kind, target: Target, lanes: u64, bytes: usize) -> Header {
        let Self { epoch, sequence, tag, .. } = *self;
        Header { epoch, sequence, tag, kind, target, lanes, bytes: bytes as u64 }
    }
}

impl TcpFabric {
    /// Rank `rank` of the group in `epoch`, over `peers[peer][connection]`: up to 64 to each peer, in the same order at both
    /// ends; none to oneself, nor to peers that are never named to this fabric. `scratch_bytes` is one half.
    ///
    /// # Errors
    /// [`Fault::System`] where these cannot be connections of a group, or the system refuses memory or an option.
    pub fn new(
        rank: Rank,
        epoch: u64,
        peers: Vec<Vec<TcpStream>>,
        scratch_bytes: usize,
        tuning: Tuning,
    ) -> Result<Self, Fault> {
        let fault = |why: String| Fault::System { what: "connections to peers", why };
        if peers.len() > MAX_RANKS || rank >= peers.len() {
            return Err(fault(format!("rank {rank} of {} ranks; {MAX_RANKS} are the most", peers.len())));
        }
        let scratch = Scratch::new(scratch_bytes)?;
        let here = Here { epoch, sequence: 0, tag: 0, last_tag: 0, half: scratch.half(0), output: Raw::EMPTY };
        let ours = rank;
        let peers = peers.into_iter().enumerate().map(|(rank, streams)| match streams.len() {
            0 => Ok(None),
            1..=MAX_LANES if rank != ours => {
                for stream in &streams {
                    prepare(stream, &tuning).map_err(|error| fault(format!("one to rank {rank}: {error}")))?;
                }
                let inbox = Inbox::new(rank, streams.len());
                let outbox = Outbox::new(rank, streams.len(), tuning.chunk_bytes);
                Ok(Some(Peer { streams, inbox, outbox }))
            }
            lanes => Err(fault(format!("{lanes} to rank {rank}, seen from rank {ours}; {MAX_LANES} are the most"))),
        });
        let peers = peers.collect::<Result<_, Fault>>()?;
        Ok(Self { rank, peers, scratch, here, usable: false, broken: None, sending: 0, warm: 0, looks: 0 })
    }

    /// [`Fabric::begin`] with memory of the caller's as the half of scratch that peers write to.
    ///
    /// # Errors
    /// As [`Fabric::begin`].
    ///
    /// # Safety
    /// As [`Fabric::begin`]; `half` stays writable as `entry.output` does.
    pub unsafe fn begin_at(&mut self, entry: &Entry, half: Raw, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if self.usable || entry.sequence <= self.here.sequence {
            let why = format!("operation {} cannot follow {}", entry.sequence, self.here.sequence);
            return Err(Fault::System { what: "beginning an operation", why });
        }
        let Entry { sequence, tag, output, .. } = *entry;
        self.here = Here { sequence, tag, last_tag: self.here.tag, half, output, ..self.here };
        self.usable = true;
        if self.peers.iter().flatten().all(|peer| !peer.inbox.is_early) {
            return Ok(());
        }
        self.call(patience, |fabric, _| {
            let Self { peers, here, .. } = fabric;
            let mut early = peers.iter_mut().flatten().filter(|peer| peer.inbox.is_early);
            early.try_for_each(|peer| peer.inbox.begin(here))
        })
    }

    /// Moves what can be moved at once, from and to everybody.
    ///
    /// # Errors
    /// [`Fault`] where a peer cannot be reached, or sent what it should not.
    pub fn progress(&mut self) -> Result<(), Fault> {
        if !self.usable {
            return Err(self.unusable());
        }
        self.look_around().map_err(|fault| self.give_up(fault, None))
    }
}

impl Fabric for TcpFabric {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn reach(&self, _peer: Rank) -> Reach {
        Reach { put_output: true, packet_bytes: PACKET_BYTES, ..Reach::default() }
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    fn scratch(&self) -> Raw {
        self.here.half
    }

    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        // SAFETY: as the caller says; the half is our own.
        unsafe { self.begin_at(entry, self.scratch.half(entry.sequence), patience) }
    }

    fn end(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            if fabric.sending != 0 {
                fabric.until(None, patience, |fabric| Ok(fabric.sending == 0))?;
            }
            fabric.peers.iter().flatten().try_for_each(|peer| peer.inbox.end())
        })?;
        self.usable = false;
        Ok(())
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
            fabric.room(peer, patience)?;
            // SAFETY: as the caller says.
            unsafe { fabric.send(peer, Item::Put { from, bytes, to, signal }) }
        })
    }

    fn signal(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            fabric.room(peer, patience)?;
            // SAFETY: no put.
            unsafe { fabric.send(peer, Item::Signal) }
        })
    }

    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            fabric.await_inbox(peer, patience, |inbox| {
                inbox.signals = inbox.signals.checked_sub(1)?;
                Some(())
            })
        })
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        if !self.usable {
            return Err(self.unusable());
        }
        if self.peer(peer).inbox.signals == 0 {
            self.look(Some(peer)).map_err(|fault| self.give_up(fault, None))?;
        }
        Ok(self.peer(peer).inbox.signals > 0)
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
            fabric.room(peer, patience)?;
            // SAFETY: readable, says the caller.
            unsafe { fabric.peer(peer).outbox.keep_packet(from, bytes) };
            // SAFETY: no put.
            unsafe { fabric.send(peer, Item::Packet(bytes)) }
        })
    }

    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault> {
        self.call(patience, |fabric, patience| {
            let sequence = fabric.here.sequence;
            fabric.await_inbox(peer, patience, |inbox| inbox.packet(sequence))
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
            if fabric.sending & (1 << peer) == 0 {
                return Ok(());
            }
            fabric.until(Some(peer), patience, |fabric| Ok(fabric.sending & (1 << peer) == 0))
        })
    }
}

impl Drop for TcpFabric {
    /// Says that it leaves, unless it does so in the middle of an operation or after a fault: peers notice that as a loss.
    fn drop(&mut self) {
        if self.usable || self.broken.is_some() {
            return;
        }
        let until = Instant::now() + FAREWELL;
        for rank in 0..self.peers.len() {
            self.tell(rank, Kind::Leave, until);
        }
    }
}

fn prepare(stream: &TcpStream, tuning: &Tuning) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    if let Some(bytes) = tuning.socket_bytes {
        sockopt::set_socket_send_buffer_size(stream, bytes)?;
        sockopt::set_socket_recv_buffer_size(stream, bytes)?;
    }
    Ok(())
}
