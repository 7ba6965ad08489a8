//! What one rank sends to one peer: a bounded queue, dealt out to the connections.
//!
//! Bodies go from the caller's memory to the kernel by `sendmsg`, which copies them. `MSG_ZEROCOPY` would not over a real
//! network, but has to report when the memory is free again, and over loopback the kernel copies all the same.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::ptr;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::Here;
use super::frame::{HEADER, Kind, MARK, MAX_INLINE, MAX_PACKET};
use super::socket::{self, Piece};
use crate::fabric::Target;
use crate::fault::Fault;
use crate::plan::Rank;

/// Things that wait to be sent to one peer, at most.
const QUEUE: usize = 256;
/// Up to so many bytes are copied behind their header: cheaper than to tell the kernel of two places.
const JOINED: usize = 4096;
/// Bytes of a header and what may stand behind it.
const HEAD: usize = HEADER + if JOINED > MAX_INLINE { JOINED } else { MAX_INLINE };

/// The sending side of all connections to one peer.
#[derive(Debug)]
pub(super) struct Outbox {
    to: Rank,
    lanes: Vec<Lane>,
    queue: VecDeque<Item>,
    /// The bytes of the one packet that may be in the queue.
    packet: Box<[u8; MAX_PACKET]>,
    /// More than so many bytes are dealt out to all connections.
    chunk_bytes: usize,
}

/// Something to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    /// Bytes that stay readable until they are sent.
    Put { from: *const u8, bytes: usize, to: Target, signal: bool },
    /// A signal.
    Signal,
    /// A packet of so many bytes.
    Packet(usize),
}

/// One connection: the frame that is being sent.
#[derive(Debug)]
struct Lane {
    /// The header and, unless it is a large body, what follows it.
    head: Box<[u8]>,
    head_from: usize,
    head_to: usize,
    body: *const u8,
    left: usize,
    /// Frames of data begun, ever.
    frames: u64,
    /// Whether any of them came after the last signal or packet.
    unmarked: bool,
}

impl Outbox {
    pub(super) fn new(to: Rank, lanes: usize, chunk_bytes: usize) -> Self {
        let chunk_bytes = chunk_bytes.max(1);
        // All but the first carry chunks only.
        let chunk = if chunk_bytes > JOINED { 0 } else { chunk_bytes };
        let lane = |lane| Lane {
            head: vec![0; if lane == 0 { HEAD } else { HEADER + chunk }].into(),
            head_from: 0,
            head_to: 0,
            body: ptr::null(),
            left: 0,
            frames: 0,
            unmarked: false,
        };
        Self {
            to,
            lanes: (0..lanes).map(lane).collect(),
            queue: VecDeque::with_capacity(QUEUE),
            packet: Box::new([0; MAX_PACKET]),
            chunk_bytes,
        }
    }

    /// Whether another [`Outbox::push`] is allowed.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < QUEUE
    }

    /// Whether all has been handed to the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.lanes.iter().all(Lane::is_idle)
    }

    /// Whether nothing is half sent on that connection.
    pub(super) fn lane_is_idle(&self, lane: usize) -> bool {
        self.lanes[lane].is_idle()
    }

    /// Sends something after everything before, or queues it. There must be room.
    ///
    /// # Errors
    /// [`Fault::Lost`].
    ///
    /// # Safety
    /// The memory of every put, this one's and those in the queue, is readable.
    pub(super) unsafe fn send(&mut self, item: Item, streams: &[TcpStream], here: &Here) -> Result<(), Fault> {
        debug_assert!(self.has_room());
        if self.queue.is_empty() && self.lanes[0].is_idle() && !self.is_striped(&item) {
            // SAFETY: as the caller says.
            let rest = unsafe { self.load(0, here, item) };
            // SAFETY: as the caller says.
            unsafe { self.write(0, &streams[0]) }?;
            match rest {
                Some(rest) => self.queue.push_back(rest),
                None => return Ok(()),
            }
        } else {
            self.queue.push_back(item);
        }
        // SAFETY: as the caller says.
        unsafe { self.pump(streams, here) }
    }

    /// Keeps the bytes of the packet that is sent next.
    ///
    /// # Safety
    /// `bytes` from `from` are readable, and at most [`MAX_PACKET`].
    pub(super) unsafe fn keep_packet(&mut self, from: *const u8, bytes: usize) {
        debug_assert!(bytes <= MAX_PACKET);
        // SAFETY: readable, says the caller, and the packet's own memory has room for it.
        unsafe { ptr::copy_nonoverlapping(from, self.packet.as_mut_ptr(), bytes) };
    }

    /// Sends what the connections take at once.
    ///
    /// # Errors
    /// [`Fault::Lost`].
    ///
    /// # Safety
    /// The memory of every put in the queue is still readable.
    pub(super) unsafe fn pump(&mut self, streams: &[TcpStream], here: &Here) -> Result<(), Fault> {
        loop {
            let mut taken = false;
            for (lane, stream) in streams.iter().enumerate() {
                if !self.lanes[lane].is_idle() {
                    // SAFETY: the frame is of a put that is not over.
                    unsafe { self.write(lane, stream) }?;
                }
                // SAFETY: as above.
                if self.lanes[lane].is_idle() && unsafe { self.take(lane, here) } {
                    taken = true;
                    // SAFETY: as above.
                    unsafe { self.write(lane, stream) }?;
                }
            }
            if !taken {
                return Ok(());
            }
        }
    }

    /// Gives the idle `lane` its next frame. False where the queue has none for it.
    ///
    /// # Safety
    /// The memory of every put in the queue is readable.
    unsafe fn take(&mut self, lane: usize, here: &Here) -> bool {
        match self.queue.front().copied() {
            Some(item) if lane == 0 || self.is_striped(&item) => {
                // SAFETY: as the caller says.
                match unsafe { self.load(lane, here, item) } {
                    Some(rest) => self.queue[0] = rest,
                    None => drop(self.queue.pop_front()),
                }
                true
            }
            _ => false,
        }
    }

    /// Whether all connections take part.
    fn is_striped(&self, item: &Item) -> bool {
        matches!(item, Item::Put { bytes, .. } if *bytes > self.chunk_bytes) && self.lanes.len() > 1
    }

    /// Makes the next frame of the idle `lane`, which is the first unless the item is striped. What is left of the item.
    ///
    /// # Safety
    /// The memory of a put is readable.
    unsafe fn load(&mut self, lane: usize, here: &Here, item: Item) -> Option<Item> {
        match item {
            Item::Put { from, bytes, to, signal } if self.is_striped(&item) => {
                let chunk = self.chunk_bytes;
                // SAFETY: part of the put.
                unsafe { self.frame(lane, here, Kind::Data, to, (from, chunk)) };
                let to = match to {
                    Target::Scratch(offset) => Target::Scratch(offset.saturating_add(chunk)),
                    Target::Output(offset) => Target::Output(offset.saturating_add(chunk)),
                };
                Some(Item::Put { from: from.wrapping_add(chunk), bytes: bytes - chunk, to, signal })
            }
            Item::Put { from, bytes, to, signal } => {
                // Marks have a frame of their own.
                let rides = signal && !self.lanes[1..].iter().any(|lane| lane.unmarked);
                let kind = if rides { Kind::DataSignal } else { Kind::Data };
                // SAFETY: the put.
                unsafe { self.frame(lane, here, kind, to, (from, bytes)) };
                (signal && !rides).then_some(Item::Signal)
            }
            Item::Signal => self.marked(here, Kind::Signal, 0),
            Item::Packet(bytes) => self.marked(here, Kind::Packet, bytes),
        }
    }

    /// # Safety
    /// The body is readable.
    unsafe fn frame(&mut self, lane: usize, here: &Here, kind: Kind, target: Target, body: (*const u8, usize)) {
        let lane = &mut self.lanes[lane];
        let (from, bytes) = body;
        lane.head[..HEADER].copy_from_slice(&here.header(kind, target, 0, bytes).encode());
        (lane.head_from, lane.head_to) = (0, HEADER);
        if bytes <= JOINED {
            // SAFETY: readable, says the caller, and the head has room for that much behind the header.
            unsafe { ptr::copy_nonoverlapping(from, lane.head[HEADER..].as_mut_ptr(), bytes) };
            lane.head_to += bytes;
        } else {
            (lane.body, lane.left) = body;
        }
        lane.frames += 1;
        lane.unmarked = true;
    }

    /// A signal or a packet: on lane 0, with the marks of the others.
    fn marked(&mut self, here: &Here, kind: Kind, packet_bytes: usize) -> Option<Item> {
        let (first, others) = self.lanes.split_at_mut(1);
        let first = &mut first[0];
        let mut lanes = 0_u64;
        let mut at = HEADER;
        for (index, lane) in others.iter_mut().enumerate() {
            if std::mem::take(&mut lane.unmarked) {
                lanes |= 1 << (index + 1);
                first.head[at..at + MARK].copy_from_slice(&lane.frames.to_le_bytes());
                at += MARK;
            }
        }
        first.head[at..at + packet_bytes].copy_from_slice(&self.packet[..packet_bytes]);
        at += packet_bytes;
        let header = here.header(kind, Target::Scratch(0), lanes, at - HEADER);
        first.head[..HEADER].copy_from_slice(&header.encode());
        (first.head_from, first.head_to) = (0, at);
        None
    }

    /// Sends what the connection takes of its frame.
    ///
    /// # Safety
    /// The body is readable.
    unsafe fn write(&mut self, lane: usize, stream: &TcpStream) -> Result<(), Fault> {
        let lane = &mut self.lanes[lane];
        let head = &lane.head[lane.head_from..lane.head_to];
        let sent = if lane.left == 0 {
            send(stream, head, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        } else {
            let pieces = [Piece::of(head), Piece::new(lane.body.cast_mut(), lane.left)];
            // SAFETY: our own head, and memory that the caller says is readable.
            unsafe { socket::send(stream, if head.is_empty() { &pieces[1..] } else { &pieces }) }
        };
        match sent {
            Ok(sent) => {
                let of_head = sent.min(head.len());
                let of_body = (sent - of_head).min(lane.left);
                lane.head_from += of_head;
                lane.body = lane.body.wrapping_add(of_body);
                lane.left -= of_body;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(self.lost(errno)),
        }
    }

    #[cold]
    fn lost(&self, errno: Errno) -> Fault {
        Fault::Lost { rank: self.to, how: format!("sending to it failed: {errno}") }
    }
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.head_from == self.head_to && self.left == 0
    }
}
