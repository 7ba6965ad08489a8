//! What is TCP's own: several connections, epochs and operations of frames, what is kept for later, how it ends.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::frame::{Header, Kind};
use super::{TcpFabric, Tuning};
use crate::fabric::{Entry, Fabric, Raw, Target, conformance};
use crate::fault::Fault;
use crate::patience::{Abort, Ladder, Patience};

/// No time to be lost by spinning.
pub(super) const NEVER: Ladder = Ladder { spins: 1, crowded: true };

/// Two ends of a connection over loopback.
pub(super) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// A group over loopback, with so many connections between any two.
pub(super) fn group(ranks: usize, lanes: usize, scratch_bytes: usize, tuning: Tuning) -> Vec<TcpFabric> {
    let mut streams: Vec<Vec<Vec<TcpStream>>> = (0..ranks).map(|_| (0..ranks).map(|_| Vec::new()).collect()).collect();
    let pairs = (0..ranks).flat_map(|one| (0..one).map(move |other| (one, other)));
    for (one, other) in pairs.flat_map(|pair| std::iter::repeat_n(pair, lanes)) {
        let (here, there) = pair();
        streams[one][other].push(here);
        streams[other][one].push(there);
    }
    let fabrics = streams.into_iter().enumerate();
    fabrics.map(|(rank, streams)| TcpFabric::new(rank, 7, streams, scratch_bytes, tuning).unwrap()).collect()
}

fn conforms(lanes: usize, tuning: Tuning) {
    conformance::all(&|ranks| {
        let fabrics = group(ranks, lanes, conformance::SCRATCH, tuning).into_iter();
        fabrics.map(|fabric| Box::new(fabric) as Box<dyn Fabric>).collect()
    });
}

#[test]
fn one_connection_conforms() {
    conforms(1, Tuning::default());
}

#[test]
fn three_connections_conform_with_small_chunks_and_buffers() {
    conforms(3, Tuning { chunk_bytes: 1000, socket_bytes: Some(128 << 10) });
}

/// Rank 0 of two, whose peer is this test: what it sends is written by hand.
struct Alone {
    fabric: TcpFabric,
    peer: Vec<TcpStream>,
    abort: Abort,
    output: Vec<u8>,
}

impl Alone {
    fn new(lanes: usize) -> Self {
        let (ours, peer) = (0..lanes).map(|_| pair()).unzip();
        let fabric = TcpFabric::new(0, 7, vec![vec![], ours], 1000, Tuning::default()).unwrap();
        Self { fabric, peer, abort: Abort::default(), output: vec![0xA5; 100] }
    }

    /// Begins that operation, with its number as its tag.
    fn begin(&mut self, sequence: u64) -> Result<(), Fault> {
        let output = Raw { at: self.output.as_mut_ptr(), bytes: self.output.len() };
        let entry = Entry { sequence, tag: sequence as u32, input: Raw::EMPTY, output };
        // SAFETY: the output lives as long as the fabric.
        unsafe { self.fabric.begin(&entry, &mut Patience::new(&self.abort, Duration::from_secs(10), NEVER)) }
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.fabric.end(&mut Patience::new(&self.abort, Duration::from_secs(10), NEVER))
    }

    fn wait(&mut self, limit: Duration) -> Result<(), Fault> {
        self.fabric.wait(1, &mut Patience::new(&self.abort, limit, NEVER))
    }

    /// Waits until what was sent so far has been looked at: loopback is quick, and a wait for more takes its time.
    fn nothing_yet(&mut self) {
        let looked = (0..50).any(|_| {
            std::thread::yield_now();
            self.fabric.poll(1).unwrap()
        });
        assert!(!looked, "a signal");
    }

    fn send(&mut self, lane: usize, header: Header, bytes: &[u8]) {
        self.peer[lane].write_all(&[&header.encode(), bytes].concat()).unwrap();
    }

    fn scratch(&self, bytes: usize) -> Vec<u8> {
        conformance::copy(self.fabric.scratch(), 0, bytes)
    }
}

fn data(sequence: u64, target: Target, bytes: usize) -> Header {
    let tag = sequence as u32;
    Header { epoch: 7, sequence, tag, kind: Kind::DataSignal, target, lanes: 0, bytes: bytes as u64 }
}

fn protocol(fault: Result<(), Fault>) -> String {
    match fault {
        Err(Fault::Protocol { rank: 1, what }) => what,
        other => panic!("{other:?}"),
    }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn another_epoch_is_refused_and_nothing_of_it_taken_in() {
    for epoch in [6, 8] {
        let mut alone = Alone::new(1);
        alone.begin(1).unwrap();
        alone.send(0, Header { epoch, ..data(1, Target::Output(0), 4) }, &[1; 4]);
        assert_eq!(protocol(alone.wait(SOON)), format!("a frame of epoch {epoch} in epoch 7"));
        assert_eq!(alone.output, [0xA5; 100]);
        assert!(alone.begin(2).is_err(), "a broken fabric stays so");
    }
}

#[test]
fn frames_of_later_operations_wait_and_of_earlier_ones_are_refused() {
    let mut alone = Alone::new(1);
    alone.begin(1).unwrap();
    alone.send(0, data(2, Target::Output(0), 4), &[2; 4]);
    alone.send(0, data(2, Target::Scratch(0), 4), &[3; 4]);
    alone.send(0, data(3, Target::Scratch(0), 4), &[4; 4]);
    alone.nothing_yet();
    assert_eq!((alone.scratch(4), alone.output[0]), (vec![0; 4], 0xA5));
    alone.end().unwrap();
    alone.begin(2).unwrap();
    alone.wait(SOON).unwrap();
    alone.wait(SOON).unwrap();
    assert_eq!((alone.scratch(4), &alone.output[..5]), (vec![3; 4], &[2, 2, 2, 2, 0xA5][..]));
    alone.nothing_yet();
    alone.end().unwrap();
    alone.begin(3).unwrap();
    alone.wait(SOON).unwrap();
    assert_eq!(alone.scratch(4), [4; 4]);
    alone.send(0, data(2, Target::Scratch(0), 4), &[9; 4]);
    assert_eq!(protocol(alone.wait(SOON)), "a frame of operation 2 in operation 3");
    assert_eq!(alone.scratch(4), [4; 4]);
}

#[test]
fn a_signal_waits_for_what_other_connections_carry() {
    let mut alone = Alone::new(3);
    alone.begin(1).unwrap();
    let plain = |at, bytes| Header { kind: Kind::Data, ..data(1, Target::Scratch(at), bytes) };
    let marked = |lanes: u64, marks: &[u64]| {
        let bytes: Vec<u8> = marks.iter().flat_map(|mark| mark.to_le_bytes()).collect();
        (Header { kind: Kind::Signal, lanes, ..data(1, Target::Scratch(0), bytes.len()) }, bytes)
    };
    // Two frames on the second connection and one on the third come before it.
    let (signal, marks) = marked(0b110, &[2, 1]);
    alone.send(0, signal, &marks);
    alone.nothing_yet();
    alone.send(1, plain(0, 4), &[1; 4]);
    alone.send(2, plain(8, 400), &[3; 399]);
    alone.nothing_yet();
    alone.send(1, plain(4, 4), &[2; 4]);
    alone.nothing_yet();
    alone.peer[2].write_all(&[3]).unwrap();
    alone.wait(SOON).unwrap();
    assert_eq!(alone.scratch(408), [vec![1; 4], vec![2; 4], vec![3; 400]].concat());
    // The next one needs no more of the second, and says nothing of the third.
    let (signal, marks) = marked(0b10, &[2]);
    alone.send(0, signal, &marks);
    alone.wait(SOON).unwrap();
    let (signal, marks) = marked(0b1000, &[0]);
    alone.send(0, signal, &marks);
    assert_eq!(protocol(alone.wait(SOON)), "a mark for a connection that there is not");
}

#[test]
fn nothing_comes_into_memory_after_the_end() {
    let mut alone = Alone::new(1);
    alone.begin(1).unwrap();
    alone.send(0, data(1, Target::Output(0), 50), &[1; 20]);
    alone.nothing_yet();
    assert_eq!(protocol(alone.end()), "a put of which 30 bytes are missing at the end");
    alone.peer[0].write_all(&[1; 30]).unwrap();
    assert!(alone.wait(SOON).is_err());
    assert!(alone.begin(2).is_err());
    assert_eq!(alone.output[20..], [0xA5; 80]);
}

#[test]
fn two_packets_of_one_operation_are_one_too_many() {
    let mut alone = Alone::new(1);
    alone.begin(1).unwrap();
    let packet = Header { kind: Kind::Packet, ..data(1, Target::Scratch(0), 3) };
    alone.send(0, packet, b"abc");
    alone.send(0, packet, b"def");
    assert_eq!(protocol(alone.wait(SOON)), "a second packet in one operation");
}

#[test]
fn a_peer_that_has_left_is_missed_only_when_it_is_needed() {
    let mut alone = Alone::new(2);
    alone.begin(1).unwrap();
    alone.send(0, data(1, Target::Scratch(0), 2), &[5; 2]);
    let leave = Header { kind: Kind::Leave, ..data(1, Target::Scratch(0), 0) };
    alone.send(0, leave, &[]);
    alone.send(1, leave, &[]);
    alone.peer.clear();
    alone.wait(SOON).unwrap();
    assert_eq!(alone.scratch(2), [5; 2]);
    assert_eq!(alone.fabric.poll(1), Ok(false));
    let lost = Err(Fault::Lost { rank: 1, how: "it left after operation 1".to_owned() });
    assert_eq!(alone.wait(SOON), lost);
    assert_eq!(alone.abort.reason().map_or(Ok(()), Err), lost);

    // And in any operation that it does not take part in.
    let mut alone = Alone::new(1);
    alone.begin(1).unwrap();
    alone.send(0, leave, &[]);
    alone.nothing_yet();
    alone.end().unwrap();
    assert_eq!(alone.begin(2), lost);

    // Without a word it is lost at once.
    let mut alone = Alone::new(2);
    alone.begin(1).unwrap();
    alone.peer.pop();
    assert!(matches!(alone.wait(SOON), Err(Fault::Lost { rank: 1, .. })));
}

#[test]
fn what_a_peer_does_not_read_is_queued_up_to_a_bound() {
    let mut alone = Alone::new(1);
    alone.begin(1).unwrap();
    let source = vec![7; 1 << 20];
    let mut patience = Patience::new(&alone.abort, Duration::from_millis(100), NEVER);
    let mut puts = 0;
    let fault = loop {
        // SAFETY: the source outlives the fabric's use of it: nothing is sent after the fault.
        let put =
            unsafe { alone.fabric.put(1, source.as_ptr(), source.len(), Target::Scratch(0), false, &mut patience) };
        match put {
            Ok(()) => puts += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault, Fault::Timeout { after: Duration::from_millis(100) });
    // What the sockets hold, and the queue.
    assert!((256..400).contains(&puts), "{puts} puts");
}

#[test]
fn connections_that_make_no_group_are_refused() {
    let refused = |rank, peers: Vec<Vec<TcpStream>>| match TcpFabric::new(rank, 1, peers, 8, Tuning::default()) {
        Err(Fault::System { what: "connections to peers", why }) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(1, vec![vec![]]), "rank 1 of 1 ranks; 64 are the most");
    assert_eq!(refused(0, vec![vec![pair().0], vec![]]), "1 to rank 0, seen from rank 0; 64 are the most");
    let one = pair().0;
    let many = (0..65).map(|_| one.try_clone().unwrap()).collect();
    assert_eq!(refused(0, vec![vec![], many]), "65 to rank 1, seen from rank 0; 64 are the most");
    let huge = TcpFabric::new(0, 1, vec![vec![]], usize::MAX / 2, Tuning::default());
    assert!(matches!(huge, Err(Fault::System { what: "memory for two halves of scratch", .. })));
}
