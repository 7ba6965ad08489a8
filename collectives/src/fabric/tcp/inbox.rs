//! What one rank receives from one peer: frames checked, bytes put in their place, signals counted.

use std::net::TcpStream;
use std::ptr;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::Here;
use super::frame::{HEADER, Header, Kind, MARK, MAX_INLINE, MAX_PACKET};
use super::socket::{self, Piece};
use crate::fabric::Target;
use crate::fault::Fault;
use crate::plan::Rank;

/// Bytes that a connection reads ahead: small frames come whole in one call.
const AHEAD: usize = 8192;
/// Bytes read ahead behind a body that has its place: the next header and little of what follows it, which would have to
/// be copied.
const TAIL: usize = 512;

/// The receiving side of all connections from one peer.
#[derive(Debug)]
pub(super) struct Inbox {
    from: Rank,
    lanes: Vec<Lane>,
    /// Signals that came and were not waited for.
    pub(super) signals: u64,
    /// The packet of the operation.
    packet: Box<[u8; MAX_PACKET]>,
    pub(super) has_packet: bool,
    /// The last operation that it took part in, once it has left in order.
    pub(super) left_after: Option<u64>,
}

/// One connection.
#[derive(Debug)]
struct Lane {
    /// Received and not looked at: `from..to`.
    ahead: Box<[u8; AHEAD]>,
    from: usize,
    to: usize,
    /// Data that is coming in.
    body: Option<Body>,
    state: State,
    /// Frames of data landed, ever.
    landed: u64,
    /// Whether there was something at the last look.
    warm: bool,
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
        let lane = || Lane {
            ahead: Box::new([0; AHEAD]),
            from: 0,
            to: 0,
            body: None,
            state: State::Open,
            landed: 0,
            warm: false,
        };
        Self {
            from,
            lanes: (0..lanes).map(|_| lane()).collect(),
            signals: 0,
            packet: Box::new([0; MAX_PACKET]),
            has_packet: false,
            left_after: None,
        }
    }

    /// Where the packet's bytes are.
    pub(super) fn packet(&self) -> *const u8 {
        self.packet.as_ptr()
    }

    /// Whether a connection is worth another look at once.
    pub(super) fn is_warm(&self) -> bool {
        self.lanes.iter().any(|lane| lane.warm)
    }

    /// Whether there may be something to take in from that connection.
    pub(super) fn listens(&self, lane: usize) -> bool {
        matches!(self.lanes[lane].state, State::Open | State::Left)
    }

    /// An operation has begun: what came early is looked at.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub(super) fn begin(&mut self, here: &Here) -> Result<(), Fault> {
        self.has_packet = false;
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].state == State::Later {
                self.lanes[lane].state = State::Open;
                self.take_in(lane, here)?;
            }
        }
        match self.left_after {
            Some(after) if after < here.sequence => Err(self.lost(format!("it left after operation {after}"))),
            _ => Ok(()),
        }
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
        let got = match &mut one.body {
            Some(body) => {
                // Whatever was read ahead is in the body by now.
                debug_assert_eq!(one.from, one.to);
                let room = &mut one.ahead[..TAIL];
                let mut pieces = [Piece::new(body.at, body.left), Piece::new(room.as_mut_ptr(), TAIL)];
                // SAFETY: the body's place was checked to be inside scratch or output of the operation, which is still
                // open, says the caller; the rest is our own.
                let got = unsafe { socket::receive(stream, &mut pieces) };
                got.map(|got| {
                    let of_body = got.min(body.left);
                    body.at = body.at.wrapping_add(of_body);
                    body.left -= of_body;
                    (one.from, one.to) = (0, got - of_body);
                    got
                })
            }
            None => {
                if one.from == one.to {
                    (one.from, one.to) = (0, 0);
                } else if AHEAD - one.to < HEADER + MAX_INLINE {
                    one.ahead.copy_within(one.from..one.to, 0);
                    (one.from, one.to) = (0, one.to - one.from);
                }
                let got = recv(stream, &mut one.ahead[one.to..], RecvFlags::DONTWAIT).map(|(got, _)| got);
                one.to += *got.as_ref().unwrap_or(&0);
                got
            }
        };
        one.warm = matches!(got, Ok(1..));
        match got {
            Ok(1..) => self.take_in(lane, here).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            _ if one.state == State::Left => {
                one.state = State::Closed;
                Ok(false)
            }
            Ok(_) => Err(self.lost("its connection was closed".to_owned())),
            Err(errno) => Err(self.lost(format!("receiving from it failed: {errno}"))),
        }
    }

    /// Looks at what was read ahead of `lane`.
    fn take_in(&mut self, lane: usize, here: &Here) -> Result<(), Fault> {
        while self.step(lane, here)? {}
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
        if one.state == State::Left {
            return Err(self.broken("something after its last frame"));
        }
        let header = Header::decode(wire).map_err(|what| self.broken(what))?;
        if header.epoch != here.epoch {
            return Err(self.broken(format!("a frame of epoch {} in epoch {}", header.epoch, here.epoch)));
        }
        if header.sequence > here.sequence {
            self.lanes[lane].state = State::Later;
            return Ok(false);
        }
        if matches!(header.kind, Kind::Leave | Kind::Refuse) {
            return self.farewell(lane, &header, here).map(|()| true);
        }
        if header.sequence < here.sequence {
            return Err(self.broken(format!("a frame of operation {} in operation {}", header.sequence, here.sequence)));
        }
        if header.tag != here.tag {
            return Err(Fault::Mismatch { rank: self.from, ours: here.tag, theirs: header.tag });
        }
        if matches!(header.kind, Kind::Data | Kind::DataSignal) {
            let (at, left) = self.place(&header, here)?;
            let one = &mut self.lanes[lane];
            one.from += HEADER;
            one.body = Some(Body { at, left, signal: header.kind == Kind::DataSignal });
            return Ok(true);
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
        } else if self.has_packet {
            return Err(self.broken("a second packet in one operation"));
        } else {
            self.packet[..packet.len()].copy_from_slice(packet);
            self.has_packet = true;
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
    fn landed(&self, lanes: u16, marks: &[u8]) -> Result<bool, Fault> {
        let marked = (0..u16::BITS as usize).filter(|lane| lanes & (1 << lane) != 0);
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

    /// Where a frame's data goes.
    fn place(&self, header: &Header, here: &Here) -> Result<(*mut u8, usize), Fault> {
        let (memory, offset, name) = match header.target {
            Target::Scratch(offset) => (here.half, offset, "scratch"),
            Target::Output(offset) => (here.output, offset, "the output"),
        };
        let end = usize::try_from(header.bytes).ok().and_then(|bytes| offset.checked_add(bytes));
        match end {
            Some(end) if end <= memory.bytes => Ok((memory.at.wrapping_add(offset), end - offset)),
            _ => Err(self
                .broken(format!("a put of {} bytes at {offset} of {name}, which has {}", header.bytes, memory.bytes))),
        }
    }

    /// The last frame of a peer, in order or because it saw another tag.
    fn farewell(&mut self, lane: usize, header: &Header, here: &Here) -> Result<(), Fault> {
        if header.kind == Kind::Refuse {
            let ours = match here.sequence - header.sequence {
                0 => here.tag,
                1 => here.last_tag,
                _ => return Err(self.broken("a refusal of an operation long over")),
            };
            return Err(Fault::Mismatch { rank: self.from, ours, theirs: header.tag });
        }
        self.lanes[lane].from += HEADER;
        self.lanes[lane].state = State::Left;
        if lane == 0 {
            self.left_after = Some(header.sequence);
            if header.sequence < here.sequence {
                return Err(self.lost(format!("it left after operation {}", header.sequence)));
            }
        }
        Ok(())
    }

    /// Loses the peer.
    pub(super) fn lost(&self, how: String) -> Fault {
        Fault::Lost { rank: self.from, how }
    }

    fn broken(&self, what: impl Into<String>) -> Fault {
        Fault::Protocol { rank: self.from, what: what.into() }
    }
}
