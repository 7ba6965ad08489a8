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
mod inbox;
mod outbox;
#[cfg(test)]
mod ratios;
mod socket;
#[cfg(test)]
mod tests;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send, sockopt};

use self::frame::{Header, Kind, MAX_LANES, MAX_PACKET};
use self::inbox::Inbox;
use self::outbox::{Item, Outbox};
use self::socket::Scratch;
use crate::fabric::{Entry, Fabric, Raw, Target, Window};
use crate::fault::Fault;
use crate::patience::{Patience, Rest, Wait};
use crate::plan::{MAX_RANKS, Rank, Reach};

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
    /// Between `begin` and `end`.
    open: bool,
    half: Raw,
    output: Raw,
}

impl Here {
    fn header(&self, kind: Kind, target: Target, lanes: u16, bytes: usize) -> Header {
        let Self { epoch, sequence, tag, .. } = *self;
        Header { epoch, sequence, tag, kind, target, lanes, bytes: bytes as u64 }
    }
}

/// How long a fabric that is dropped tries to say that it leaves.
const FAREWELL: Duration = Duration::from_millis(20);
/// A look is a call of the system: so many of memory's take as long.
const LOOK: u32 = 32;
/// Connections on which nothing comes are looked at once in so many looks.
const SELDOM: u32 = 16;

impl TcpFabric {
    /// Rank `rank` of the group in `epoch`, over `peers[peer][connection]`: from one to 16 to each peer, in the same order
    /// at both ends, and none to oneself. `scratch_bytes` is one half.
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
        let here =
            Here { epoch, sequence: 0, tag: 0, last_tag: 0, open: false, half: scratch.half(0), output: Raw::EMPTY };
        let ours = rank;
        let peers = peers.into_iter().enumerate().map(|(rank, streams)| match streams.len() {
            0 if rank == ours => Ok(None),
            1..=MAX_LANES if rank != ours => {
                for stream in &streams {
                    prepare(stream, &tuning).map_err(|error| fault(format!("one to rank {rank}: {error}")))?;
                }
                let inbox = Inbox::new(rank, streams.len());
                let outbox = Outbox::new(rank, streams.len(), tuning.chunk_bytes);
                Ok(Some(Peer { streams, inbox, outbox }))
            }
            lanes => Err(fault(format!("{lanes} to rank {rank}, seen from rank {ours}"))),
        });
        let peers = peers.collect::<Result<_, Fault>>()?;
        Ok(Self { rank, peers, scratch, here, broken: None, sending: 0, warm: 0, looks: 0 })
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
            None if !self.here.open => {
                Err(Fault::System { what: "a call of a fabric", why: "no operation has begun".to_owned() })
            }
            None => Ok(()),
        }
    }

    /// From now on nothing is received, and every call fails with that fault.
    fn give_up(&mut self, fault: Fault) -> Fault {
        if let Fault::Mismatch { rank, .. } = fault {
            self.tell(rank, Kind::Refuse, Instant::now());
        }
        self.broken.get_or_insert(fault).clone()
    }

    /// Sends a frame of nothing but a header on every connection that is between frames and takes it in time. Where one
    /// does not, the peer notices by its end.
    fn tell(&self, rank: Rank, kind: Kind, until: Instant) {
        let Some(peer) = self.peers.get(rank).and_then(Option::as_ref) else {
            return;
        };
        let wire = self.here.header(kind, Target::Scratch(0), 0, 0).encode();
        for (lane, stream) in peer.streams.iter().enumerate() {
            while peer.outbox.lane_is_idle(lane) {
                let sent = send(stream, &wire, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                let left = until.saturating_duration_since(Instant::now());
                if sent != Err(Errno::AGAIN) || left.is_zero() {
                    break;
                }
                let _ = wait_for(&mut [PollFd::new(stream, PollFlags::OUT)], left);
            }
        }
    }

    fn peer(&mut self, rank: Rank) -> &mut Peer {
        match self.peers.get_mut(rank) {
            Some(Some(peer)) => peer,
            _ => panic!("rank {rank} is no peer of rank {}", self.rank),
        }
    }

    /// Sends something to that peer, or queues it.
    ///
    /// # Safety
    /// A put's memory stays readable until it is flushed or the operation ends.
    unsafe fn send(&mut self, rank: Rank, item: Item) -> Result<(), Fault> {
        let here = self.here;
        let peer = self.peer(rank);
        // SAFETY: this put, as the caller says; what is queued was put in this operation, which has not ended, and not
        // flushed.
        unsafe { peer.outbox.send(item, &peer.streams, &here) }?;
        let idle = peer.outbox.is_idle();
        self.sending = self.sending & !(1 << rank) | u64::from(!idle) << rank;
        Ok(())
    }

    /// Sends what is queued for that peer as far as its connections take it.
    fn pump(&mut self, rank: Rank) -> Result<(), Fault> {
        let here = self.here;
        let peer = self.peer(rank);
        // SAFETY: what is queued was put in this operation, which has not ended, and not flushed.
        unsafe { peer.outbox.pump(&peer.streams, &here) }?;
        let idle = peer.outbox.is_idle();
        self.sending = self.sending & !(1 << rank) | u64::from(!idle) << rank;
        Ok(())
    }

    fn pump_all(&mut self) -> Result<(), Fault> {
        let mut sending = self.sending;
        while sending != 0 {
            self.pump(sending.trailing_zeros() as Rank)?;
            sending &= sending - 1;
        }
        Ok(())
    }

    /// Looks at the connections of one peer: the first, and others where something may be, or all.
    fn look_at(&mut self, rank: Rank, all: bool) -> Result<(), Fault> {
        let here = self.here;
        let Some(Some(Peer { streams, inbox, .. })) = self.peers.get_mut(rank) else {
            return Ok(());
        };
        let mut warm = false;
        for (lane, stream) in streams.iter().enumerate() {
            if lane == 0 || all || inbox.is_warm(lane) {
                // SAFETY: calls that get here have an operation open, which `here` is.
                warm |= unsafe { inbox.receive(lane, stream, &here) }?;
            }
        }
        self.warm = self.warm & !(1 << rank) | u64::from(warm) << rank;
        Ok(())
    }

    /// Looks at all connections, and sends what is queued.
    fn look_around(&mut self) -> Result<(), Fault> {
        self.pump_all()?;
        (0..self.peers.len()).try_for_each(|rank| self.look_at(rank, true))
    }

    /// Looks where something is most likely to happen.
    fn look(&mut self, awaited: Option<Rank>) -> Result<(), Fault> {
        self.looks = self.looks.wrapping_add(1);
        if self.looks % SELDOM == 0 {
            return self.look_around();
        }
        self.pump_all()?;
        let mut where_to = self.warm | awaited.map_or(0, |rank| 1 << rank);
        while where_to != 0 {
            self.look_at(where_to.trailing_zeros() as Rank, false)?;
            where_to &= where_to - 1;
        }
        Ok(())
    }

    /// Waits until `done`, above all for something from `awaited`.
    fn until(
        &mut self,
        awaited: Option<Rank>,
        patience: &mut Patience<'_>,
        mut done: impl FnMut(&mut Self) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut wait = awaited.map_or_else(Wait::default, Wait::on);
        let looks = (patience.spins() / LOOK).max(1);
        loop {
            for _ in 0..looks {
                if done(self)? {
                    return Ok(());
                }
                self.look(awaited)?;
            }
            self.look_around()?;
            if done(self)? {
                return Ok(());
            }
            match patience.rest(&mut wait)? {
                Rest::Spin => {}
                Rest::Yield => std::thread::yield_now(),
                Rest::Sleep(at_most) => self.sleep(at_most)?,
            }
        }
    }

    /// Sleeps until a socket has something or takes something.
    fn sleep(&mut self, at_most: Duration) -> Result<(), Fault> {
        let mut sockets = Vec::new();
        for peer in self.peers.iter().flatten() {
            let queued = !peer.outbox.is_idle();
            for (lane, stream) in peer.streams.iter().enumerate() {
                let mut events = PollFlags::empty();
                events.set(PollFlags::IN, peer.inbox.listens(lane));
                events.set(PollFlags::OUT, queued && !peer.outbox.lane_is_idle(lane));
                if !events.is_empty() {
                    sockets.push(PollFd::new(stream, events));
                }
            }
        }
        wait_for(&mut sockets, at_most)
    }

    /// Waits for what `there` finds in the peer's inbox.
    fn await_inbox(
        &mut self,
        rank: Rank,
        patience: &mut Patience<'_>,
        there: impl Fn(&Inbox) -> bool,
    ) -> Result<(), Fault> {
        self.until(Some(rank), patience, |fabric| {
            let inbox = &fabric.peer(rank).inbox;
            match inbox.left_after {
                _ if there(inbox) => Ok(true),
                Some(after) => Err(inbox.lost(format!("it left after operation {after}"))),
                None => Ok(false),
            }
        })
    }

    /// Waits until another thing can be queued for that peer.
    fn room(&mut self, rank: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if self.peer(rank).outbox.has_room() {
            return Ok(());
        }
        self.until(None, patience, |fabric| Ok(fabric.peer(rank).outbox.has_room()))
    }

    fn cannot<T>(&self, what: &'static str) -> Result<T, Fault> {
        Err(Fault::System { what, why: "TCP does not reach the memory of a peer".to_owned() })
    }
}

impl Fabric for TcpFabric {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn reach(&self, _peer: Rank) -> Reach {
        Reach { put_output: true, packet_bytes: MAX_PACKET, ..Reach::default() }
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    fn scratch(&self) -> Raw {
        self.here.half
    }

    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if self.here.open || entry.sequence <= self.here.sequence {
            let why = format!("operation {} cannot follow {}", entry.sequence, self.here.sequence);
            return Err(Fault::System { what: "beginning an operation", why });
        }
        self.here = Here {
            sequence: entry.sequence,
            tag: entry.tag,
            last_tag: self.here.tag,
            open: true,
            half: self.scratch.half(entry.sequence),
            output: entry.output,
            ..self.here
        };
        self.call(patience, |fabric, _| {
            let here = fabric.here;
            fabric.peers.iter_mut().flatten().try_for_each(|peer| peer.inbox.begin(&here))
        })
    }

    fn end(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.call(patience, |fabric, patience| {
            fabric.until(None, patience, |fabric| Ok(fabric.sending == 0))?;
            fabric.peers.iter().flatten().try_for_each(|peer| peer.inbox.end())
        })?;
        self.here.open = false;
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
            fabric.await_inbox(peer, patience, |inbox| inbox.signals > 0)?;
            fabric.peer(peer).inbox.signals -= 1;
            Ok(())
        })
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        self.usable()?;
        if self.peer(peer).inbox.signals == 0 {
            self.look(Some(peer)).map_err(|fault| self.give_up(fault))?;
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
            if bytes > MAX_PACKET {
                let why = format!("{bytes} bytes; {MAX_PACKET} are the most");
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
            fabric.await_inbox(peer, patience, |inbox| inbox.has_packet)?;
            Ok(fabric.peer(peer).inbox.packet())
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
            fabric.until(Some(peer), patience, |fabric| Ok(fabric.sending & (1 << peer) == 0))
        })
    }
}

impl Drop for TcpFabric {
    /// Says that it leaves, unless it does so in the middle of an operation or after a fault: peers notice that as a loss.
    fn drop(&mut self) {
        if self.here.open || self.broken.is_some() {
            return;
        }
        let until = Instant::now() + FAREWELL;
        for rank in 0..self.peers.len() {
            self.tell(rank, Kind::Leave, until);
        }
    }
}

/// Sleeps until one of the sockets is ready.
fn wait_for(sockets: &mut [PollFd<'_>], at_most: Duration) -> Result<(), Fault> {
    let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    match poll(sockets, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(Fault::System { what: "waiting for connections", why: errno.to_string() }),
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
