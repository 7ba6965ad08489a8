//! A peer that sends what no peer sends: found out, and not a byte written where it should not.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::frame::{HEADER, Header, Kind, MARK, MAX_PACKET};
use super::inbox::Inbox;
use super::tests::{NEVER, pair};
use super::{Here, TcpFabric, Tuning};
use crate::fabric::conformance::SplitMix;
use crate::fabric::{Entry, Fabric, Raw, Target};
use crate::fault::Fault;
use crate::patience::{Abort, Patience};

const EPOCH: u64 = 7;
const SEQUENCE: u64 = 5;
const TAG: u32 = 0xC0FFEE;
const GUARD: usize = 4096;
const HALF: usize = 8192;
const OUTPUT: usize = 1000;

/// Memory that may be written, between memory that may not.
struct Guarded {
    memory: Vec<u8>,
}

impl Guarded {
    fn new() -> Self {
        Self { memory: vec![0xA5; 3 * GUARD + HALF + OUTPUT] }
    }

    fn here(&mut self) -> Here {
        let at = self.memory.as_mut_ptr();
        Here {
            epoch: EPOCH,
            sequence: SEQUENCE,
            tag: TAG,
            last_tag: 1,
            half: Raw { at: at.wrapping_add(GUARD), bytes: HALF },
            output: Raw { at: at.wrapping_add(2 * GUARD + HALF), bytes: OUTPUT },
        }
    }

    fn is_whole(&self) -> bool {
        let guards = [0, GUARD + HALF, 2 * GUARD + HALF + OUTPUT];
        guards.into_iter().all(|at| self.memory[at..at + GUARD].iter().all(|byte| *byte == 0xA5))
    }
}

/// A number that is likely to be wrong in an interesting way.
fn odd(random: &mut SplitMix) -> u64 {
    match random.below(7) {
        0 => random.next(),
        1 => random.next() >> random.below(64),
        2 => u64::MAX - random.below(HALF) as u64,
        3 => (HALF + random.below(100)).saturating_sub(50) as u64,
        4 => (OUTPUT + random.below(100)).saturating_sub(50) as u64,
        5 => 1 << random.below(64),
        _ => random.below(300) as u64,
    }
}

/// A frame that may be right, and its bytes.
fn frame(random: &mut SplitMix, lanes: usize) -> Vec<u8> {
    use Kind::{Data, DataSignal, Leave, Packet, Refuse, Signal};
    let kind = [Data, Data, DataSignal, Signal, Packet, Data, DataSignal, Leave, Refuse][random.below(9)];
    let mut bytes = random.below(600);
    let mut marks = 0;
    let target = match kind {
        Data | DataSignal if random.below(2) == 0 => Target::Output(random.below(OUTPUT - 600)),
        Data | DataSignal => Target::Scratch(random.below(HALF - 600)),
        _ => Target::Scratch(0),
    };
    if matches!(kind, Signal | Packet) {
        marks = (random.next() & ((1 << lanes) - 1) & !1) * u64::from(random.below(2) == 0);
        let packet = if kind == Packet { random.below(MAX_PACKET + 1) } else { 0 };
        bytes = marks.count_ones() as usize * MARK + packet;
    } else if matches!(kind, Leave | Refuse) {
        bytes = 0;
    }
    let header = Header { epoch: EPOCH, sequence: SEQUENCE, tag: TAG, kind, target, lanes: marks, bytes: bytes as u64 };
    let mut wire = header.encode().to_vec();
    wire.resize(HEADER + bytes, 0);
    for mark in wire[HEADER..].chunks_exact_mut(MARK).take(marks.count_ones() as usize) {
        mark.copy_from_slice(&(random.below(3) as u64).to_le_bytes());
    }
    wire
}

/// Frames, some of them spoiled.
fn stream(random: &mut SplitMix, lanes: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for _ in 0..1 + random.below(6) {
        let mut next = frame(random, lanes);
        match random.below(8) {
            // A word of the header: epoch, sequence, tag and kind, offset, or length.
            0 => {
                let at = random.below(5) * 8;
                let word = if at == 16 { random.next() } else { odd(random) };
                next[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            // Where, or how long.
            1 | 2 => {
                let at = 24 + random.below(2) * 8;
                next[at..at + 8].copy_from_slice(&odd(random).to_le_bytes());
            }
            3 => {
                let at = random.below(next.len());
                next[at] ^= 1 << random.below(8);
            }
            4 => next.truncate(random.below(next.len() + 1)),
            5 => next = (0..random.below(300)).map(|_| random.next() as u8).collect(),
            _ => {}
        }
        wire.extend(next);
    }
    wire
}

/// A hundred thousand streams of good, spoiled and random frames, in one or several connections.
#[test]
fn spoiled_frames_write_nothing_outside_and_end_in_faults() {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (one, other) = UnixStream::pair().unwrap();
            one.set_nonblocking(true).unwrap();
            // Only what all sockets do is done with it, and there are not ports enough for so many connections.
            (TcpStream::from(OwnedFd::from(one)), other)
        })
        .unzip();
    let (mut theirs, mut memory) = (theirs, Guarded::new());
    let (mut faults, mut landed) = ([0; 3], 0);
    for seed in 0..100_000 {
        let mut random = SplitMix(seed);
        let lanes = 1 + random.below(3);
        let mut inbox = Inbox::new(1, lanes);
        let here = memory.here();
        let mut ended = None;
        'stream: for _ in 0..3 {
            for (lane, theirs) in theirs.iter_mut().enumerate().take(lanes) {
                theirs.write_all(&stream(&mut random, lanes)).unwrap();
                while ended.is_none() && inbox.listens(lane) {
                    // SAFETY: what `here` says can be written can be.
                    match unsafe { inbox.receive(lane, &ours[lane], &here) } {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(fault) => ended = Some(fault),
                    }
                }
                if ended.is_some() {
                    break 'stream;
                }
            }
        }
        assert!(memory.is_whole(), "seed {seed} wrote outside: {ended:?}");
        match ended {
            Some(Fault::Protocol { rank: 1, .. }) => faults[0] += 1,
            Some(Fault::Mismatch { rank: 1, ours: TAG | 1, .. }) => faults[1] += 1,
            Some(Fault::Lost { rank: 1, .. }) => faults[2] += 1,
            None => {}
            other => panic!("seed {seed}: {other:?}"),
        }
        landed += usize::from(inbox.signals > 0);
        for ours in &ours {
            let mut rest = [0; 4096];
            while (&mut &*ours).read(&mut rest).is_ok_and(|got| got > 0) {}
        }
    }
    // Each kind of end was met, often, and so was a good signal before it.
    assert!(faults[0] > 10_000 && faults[1] > 1000 && faults[2] > 10, "{faults:?}");
    assert!(landed > 10_000, "{landed}");
}

/// The same on real connections, through the fabric: a fault or the end of the time, whatever comes.
#[test]
fn a_hostile_peer_is_a_fault() {
    for seed in 0..300 {
        let mut random = SplitMix(seed);
        let (ours, mut theirs) = pair();
        let mut fabric = TcpFabric::new(0, EPOCH, vec![vec![], vec![ours]], HALF, Tuning::default()).unwrap();
        let mut memory = Guarded::new();
        let output = memory.here().output;
        let abort = Abort::default();
        let mut patience = Patience::new(&abort, Duration::from_millis(20), NEVER);
        let entry = Entry { sequence: SEQUENCE, tag: TAG, input: Raw::EMPTY, output };
        let begun = Instant::now();
        // SAFETY: `memory` outlives the fabric's use of it.
        let fault = unsafe {
            fabric.begin(&entry, &mut patience).unwrap();
            theirs.write_all(&stream(&mut random, 1)).unwrap();
            loop {
                if let Err(fault) = fabric.wait(1, &mut patience) {
                    break fault;
                }
            }
        };
        assert!(!matches!(fault, Fault::System { .. }), "seed {seed}: {fault:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "seed {seed}");
        assert_eq!(fabric.poll(1), Err(fault.clone()), "it stays broken");
        assert_eq!(fabric.end(&mut patience), Err(fault));
        drop(fabric);
        assert!(memory.is_whole(), "seed {seed} wrote outside");
        // The connection is closed, with no more than a refusal said.
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut said = Vec::new();
        let closed = theirs.read_to_end(&mut said);
        assert!(closed.is_ok() || closed.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        assert!(said.len() <= HEADER, "seed {seed}");
    }
}
