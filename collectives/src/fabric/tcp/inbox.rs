//! What one rank receives from one peer: frames checked, bytes put in their place, signals counted.

use std::net::TcpStream;
use std::ptr;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::Here;
use super::frame::{HEADER, Header, Kind, MARK, MAX_INLINE, MAX_LANES, MAX_PACKET};
use super::socket::{self, Piece};
use crate::fabric::Target;
use crate::fault::Fault;
use crate::plan::Rank;

/// Bytes that a connection reads ahead: what comes whole in one call is cheaper to copy than to ask for twice.
const AHEAD: usize = 20 << 10;
/// Bytes read ahead behind or before a large body: headers and little else, as all else would have to be copied.
const TAIL: usize = 512;
/// Bytes that all connections but the first read ahead: they carry large bodies only.
const LITTLE: usize = 2 * (HEADER + MAX_INLINE);

/// The receiving side of all connections from one peer.
#[derive(Debug)]
pub(super) struct Inbox {
    from: Rank,
    lanes: Vec<Lane>,
    /// Signals that came and were not waited for.
    pub(super) signals: u64,
    /// A packet, and the operation it is of; 0 where none came yet.
    packet: Box<[u8; MAX_PACKET]>,
    packet_of: u64,
    /// Whether [`Inbox::begin`] has something to do.
    pub(super) is_early: bool,
    /// The last operation that it took part in, once it has left in order.
    pub(super) left_after: Option<u64>,
}

/// One connection.
#[derive(Debug)]
struct Lane {
    /// Received and not looked at: `from..to`.
    ahead: Box<[u8]>,
    from: usize,
    to: usize,
    /// Data that is coming in.
    body: Option<Body>,
    state: State,
    /// Frames of data landed, ever.
    landed: u64,
    /// Whether there was something at the last look.
    warm: bool,
    /// Whether the last body was larger than what is read ahead: others may follow it.
    large: bool,
}

impl Lane {
    /// Whether there is anything to look at.
    fn has_news(&self) -> bool {
        self.from != self.to || self.body.is_some()
    }

    /// Receives what one call of the system gives.
    ///
    /// # Safety
    /// The body's place can be written.
    unsafe fn receive(&mut self, stream: &TcpStream) -> Result<usize, Errno> {
        let Some(body) = &mut self.body else {
            if self.from == self.to {
                (self.from, self.to) = (0, 0);
            } else if self.ahead.len() - self.to < HEADER + MAX_INLINE {
                self.ahead.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            }
            let until = if self.large && self.to < TAIL { TAIL } else { self.ahead.len() };
            let room = &mut self.ahead[self.to..until];
            let (got, _) = recv(stream, room, RecvFlags::DONTWAIT)?;
            self.to += got;
            return Ok(got);
        };
        // What was read ahead is in the body by now.
        debug_assert_eq!(self.from, self.to);
        let room = &mut self.ahead[..TAIL];
        let mut pieces = [Piece::new(body.at, body.left), Piece::new(room.as_mut_ptr(), TAIL)];
        // SAFETY: the body, says the caller; the rest is our own.
        let got = unsafe { socket::receive(stream, &mut pieces) }?;
        let of_body = got.min(body.left);
        body.at = body.at.wrapping_add(of_body);
        body.left -= of_body;
        (self.from, self.to) = (0, got - of_body);
        Ok(got)
    }
}

/// Where the rest of a frame's data goes.
#[derive(Debug)]
struct Body {
    at: *mut u8,
    left: usize,
    signal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Frames are taken in as they come.
    Open,
    /// The next frame is of an operation that has not begun here.
    Later,
    /// The next frame is a signal or packet for which data is missing on other lanes.
    Unmarked,
    /// The peer has said that nothing more comes.
    Left,
    /// Nothing more can come.
    Closed,
}

impl Inbox {
    pub(super) fn new(from: Rank, lanes: usize) -> Self {
        let lane = |lane| Lane {
            ahead: vec![0; if lane == 0 { AHEAD } else { LITTLE }].into(),
            from: 0,
            to: 0,
            body: None,
            state: State::Open,
            landed: 0,
            warm: false,
            large: false,
        };
        Self {
            from,
            lanes: (0..lanes).map(lane).collect(),
            signals: 0,
            packet: Box::new([0; MAX_PACKET]),
            packet_of: 0,
            is_early: false,
            left_after: None,
        }
    }

    /// Where the bytes of the packet of operation `sequence` are, once it has come.
    pub(super) fn packet(&self, sequence: u64) -> Option<*const u8> {
        (self.packet_of == sequence).then_some(self.packet.as_ptr())
    }

    /// Whether that connection is worth another look at once: something came at the last, or a signal waits for it.
    pub(super) fn is_warm(&self, lane: usize) -> bool {
        self.lanes[lane].warm || self.lanes[0].state == State::Unmarked
    }

    /// Whether there may be something to take in from that connection.
    pub(super) fn listens(&self, lane: usize) -> bool {
        matches!(self.lanes[lane].state, State::Open | State::Left)
    }

    /// An operation has begun: what came early is looked at.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    #[cold]
    pub(super) fn begin(&mut self, here: &Here) -> Result<(), Fault> {
        self.is_early = false;
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].state == State::Later {
                self.lanes[lane].state = State::Open;
                self.take_in(lane, here)?;
            }
        }
        self.still_here(here)
    }

    /// An operation ends: nothing may come into the caller's memory any more.
    ///
    /// # Errors
    /// [`Fault::Protocol`] where something still does.
    pub(super) fn end(&self) -> Result<(), Fault> {
        match self.lanes.iter().find_map(|lane| lane.body.as_ref()) {
            Some(body) => Err(self.broken(format!("a put of which {} bytes are missing at the end", body.left))),
            None => Ok(()),
        }
    }

    /// Takes in what one call of the system gives of `lane`, or nothing where it is held back. Whether something came.
    ///
    /// # Errors
    /// [`Fault::Lost`], [`Fault::Mismatch`], [`Fault::Protocol`]: nothing may be received any more after one.
    ///
    /// # Safety
    /// An operation is open, and `here` says which; it is the same as at the last call unless [`Inbox::begin`] was called.
    pub(super) unsafe fn receive(&mut self, lane: usize, stream: &TcpStream, here: &Here) -> Result<bool, Fault> {
        if !self.listens(lane) {
            return Ok(false);
        }
        let one = &mut self.lanes[lane];
        // SAFETY: as the caller says.
        let got = unsafe { one.receive(stream) };
        one.warm = matches!(got, Ok(1..));
        match got {
            Ok(1..) => self.take_in(lane, here).map(|()| true),
            Err(Errno::AGAIN) => Ok(false),
            end => self.ended(lane, end).map(|()| false),
        }
    }

    /// A connection has nothing more to give.
    #[cold]
    fn ended(&mut self, lane: usize, end: Result<usize, Errno>) -> Result<(), Fault> {
        match end {
            Err(Errno::INTR) => Ok(()),
            _ if self.lanes[lane].state == State::Left => {
                self.lanes[lane].state = State::Closed;
                Ok(())
            }
            Ok(_) => Err(self.lost("its connection was closed".to_owned())),
            Err(errno) => Err(self.lost(format!("receiving from it failed: {errno}"))),
        }
    }

    /// Looks at what has come on `lane`.
    fn take_in(&mut self, lane: usize, here: &Here) -> Result<(), Fault> {
        while self.lanes[lane].has_news() && self.step(lane, here)? {}
        if lane != 0 && self.lanes[0].state == State::Unmarked {
            self.lanes[0].state = State::Open;
            while self.step(0, here)? {}
        }
        Ok(())
    }

    /// One frame, or part of one. False where more has to come first.
    fn step(&mut self, lane: usize, here: &Here) -> Result<bool, Fault> {
        if self.lanes[lane].body.is_some() {
            return Ok(self.fill(lane));
        }
        let one = &self.lanes[lane];
        let Some((wire, rest)) = one.ahead[one.from..one.to].split_first_chunk::<HEADER>() else {
            return Ok(false);
        };
        let header = match Header::decode(wire) {
            Ok(header) => header,
            Err(what) => return Err(self.broken(what)),
        };
        let usual = header.epoch == here.epoch
            && header.sequence == here.sequence
            && header.tag == here.tag
            && one.state == State::Open
            && !matches!(header.kind, Kind::Leave | Kind::Refuse);
        if !usual {
            return self.unusual(lane, &header, here);
        }
        if matches!(header.kind, Kind::Data | Kind::DataSignal) {
            let Some((at, left)) = place(&header, here) else {
                return Err(self.outside(&header, here));
            };
            let signal = header.kind == Kind::DataSignal;
            let one = &mut self.lanes[lane];
            one.from += HEADER;
            one.large = left > one.ahead.len();
            one.body = Some(Body { at, left, signal });
            // Whatever is there of it, and all where it is nothing.
            return Ok(self.fill(lane));
        }
        if lane != 0 {
            return Err(self.broken("a signal or packet on another connection than the first"));
        }
        // The length was checked with the header: it is small.
        let Some(inline) = rest.get(..header.bytes as usize) else {
            return Ok(false);
        };
        let (marks, packet) = inline.split_at(header.lanes.count_ones() as usize * MARK);
        if !self.landed(header.lanes, marks)? {
            self.lanes[0].state = State::Unmarked;
            return Ok(false);
        }
        if header.kind == Kind::Signal {
            self.signals += 1;
        } else if self.packet_of == here.sequence {
            return Err(self.broken("a second packet in one operation"));
        } else {
            self.packet[..packet.len()].copy_from_slice(packet);
            self.packet_of = here.sequence;
        }
        self.lanes[0].from += HEADER + header.bytes as usize;
        Ok(true)
    }

    /// Moves what was read ahead into the body. False where more has to come.
    fn fill(&mut self, lane: usize) -> bool {
        let one = &mut self.lanes[lane];
        let Some(body) = &mut one.body else {
            return true;
        };
        let bytes = body.left.min(one.to - one.from);
        // SAFETY: the body's place was checked when its frame came, and the operation is the same; what was read ahead is
        // our own.
        unsafe { ptr::copy_nonoverlapping(one.ahead[one.from..].as_ptr(), body.at, bytes) };
        body.at = body.at.wrapping_add(bytes);
        body.left -= bytes;
        one.from += bytes;
        if body.left > 0 {
            return false;
        }
        self.signals += u64::from(body.signal);
        one.landed += 1;
        one.body = None;
        true
    }

    /// Whether all data has landed that the marks speak of.
    fn landed(&self, lanes: u64, marks: &[u8]) -> Result<bool, Fault> {
        let marked = (0..MAX_LANES).filter(|lane| lanes & (1 << lane) != 0);
        for (lane, mark) in marked.zip(marks.chunks_exact(MARK)) {
            let mark = mark.iter().rev().fold(0, |mark, byte| mark << 8 | u64::from(*byte));
            match self.lanes.get(lane) {
                Some(one) if one.landed < mark => return Ok(false),
                Some(_) => {}
                None => return Err(self.broken("a mark for a connection that there is not")),
            }
        }
        Ok(true)
    }

    #[cold]
    fn outside(&self, header: &Header, here: &Here) -> Fault {
        let (offset, memory, name) = match header.target {
            Target::Scratch(offset) => (offset, here.half, "scratch"),
            Target::Output(offset) => (offset, here.output, "the output"),
        };
        self.broken(format!("a put of {} bytes at {offset} of {name}, which has {}", header.bytes, memory.bytes))
    }

    /// A frame that is not simply one of this operation: it has to wait, is the last one, or should not be. Whether to go on.
    #[cold]
    fn unusual(&mut self, lane: usize, header: &Header, here: &Here) -> Result<bool, Fault> {
        let Header { epoch, sequence, tag, kind, .. } = *header;
        if self.lanes[lane].state == State::Left {
            return Err(self.broken("something after its last frame"));
        }
        if epoch != here.epoch {
            return Err(self.broken(format!("a frame of epoch {epoch} in epoch {}", here.epoch)));
        }
        if sequence > here.sequence {
            self.lanes[lane].state = State::Later;
            self.is_early = true;
            return Ok(false);
        }
        let ours = match here.sequence - sequence {
            _ if kind == Kind::Leave => {
                self.lanes[lane].from += HEADER;
                self.lanes[lane].state = State::Left;
                if lane == 0 {
                    self.left_after = Some(sequence);
                    self.is_early = true;
                }
                return self.still_here(here).map(|()| true);
            }
            0 => here.tag,
            1 if kind == Kind::Refuse => here.last_tag,
            _ => return Err(self.broken(format!("a frame of operation {sequence} in operation {}", here.sequence))),
        };
        Err(Fault::Mismatch { rank: self.from, ours, theirs: tag })
    }

    /// Whether the peer takes part in this operation.
    fn still_here(&self, here: &Here) -> Result<(), Fault> {
        match self.left_after {
            Some(after) if after < here.sequence => Err(self.lost(format!("it left after operation {after}"))),
            _ => Ok(()),
        }
    }

    /// Loses the peer.
    #[cold]
    pub(super) fn lost(&self, how: String) -> Fault {
        Fault::Lost { rank: self.from, how }
    }

    #[cold]
    fn broken(&self, what: impl Into<String>) -> Fault {
        Fault::Protocol { rank: self.from, what: what.into() }
    }
}

/// Where a frame's data goes, if that is inside what it may write to.
fn place(header: &Header, here: &Here) -> Option<(*mut u8, usize)> {
    let (memory, offset) = match header.target {
        Target::Scratch(offset) => (here.half, offset),
        Target::Output(offset) => (here.output, offset),
    };
    let bytes = usize::try_from(header.bytes).ok()?;
    let end = offset.checked_add(bytes)?;
    (end <= memory.bytes).then(|| (memory.at.wrapping_add(offset), bytes))
}
