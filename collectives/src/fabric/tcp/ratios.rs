//! How fast the fabric is, beside a program that does nothing but send and receive on the same kind of connection.
//!
//! `SWARMLOOM_TCP_RATIOS=1 cargo test --release -p swarmloom-collectives tcp::ratios -- --nocapture` takes its time and
//! prints ratios; without the variable it only checks that both move the right bytes.
//!
//! The bare program looks at a stop flag before every message, as any must that can be ended. Without, its calls may fall
//! into step with those of the other side, so that their locks in the kernel never meet: up to a fifth faster, and gone as
//! soon as anything is done between two calls.

use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::tests::{group, pair};
use super::{TcpFabric, Tuning};
use crate::fabric::conformance::bytes_of;
use crate::fabric::{Entry, Fabric, Raw, Target};
use crate::patience::{Abort, Ladder, Patience};

const LARGEST: usize = 16 << 20;

/// What both sides do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// Both send, then have what the other sent.
    Exchange,
    /// Rank 0 sends.
    OneWay,
    /// Rank 0 sends, then rank 1 does.
    PingPong,
    /// As exchange, in packets.
    Packets,
}

/// A connection, and what is done with it.
struct Bare {
    stream: TcpStream,
    into: Vec<u8>,
    stop: AtomicBool,
}

impl Bare {
    /// Sends and receives so many bytes, on a connection that does not block.
    fn go(&mut self, from: &[u8], sends: usize, receives: usize) {
        let (mut sent, mut received) = (0, 0);
        assert!(!std::hint::black_box(&self.stop).load(Ordering::Acquire));
        while sent < sends || received < receives {
            if sent < sends {
                match send(&self.stream, &from[sent..sends], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                    Ok(some) => sent += some,
                    Err(errno) => assert_eq!(errno, Errno::AGAIN),
                }
            }
            if received < receives {
                match recv(&self.stream, &mut self.into[received..receives], RecvFlags::DONTWAIT) {
                    Ok((some, _)) => received += some,
                    Err(errno) => assert_eq!(errno, Errno::AGAIN),
                }
            }
        }
    }
}

struct Driven {
    fabric: TcpFabric,
    abort: Abort,
    sequence: u64,
}

impl Driven {
    fn go(&mut self, from: &[u8], rank: usize, bytes: usize, pattern: Pattern) {
        self.sequence += 1;
        let entry = Entry { sequence: self.sequence, tag: 1, input: Raw::EMPTY, output: Raw::EMPTY };
        let ladder = Ladder { spins: 2000, crowded: false };
        let mut patience = Patience::new(&self.abort, Duration::from_secs(20), ladder);
        let (fabric, peer) = (&mut self.fabric, 1 - rank);
        // SAFETY: the source outlives the operation, and there is no input or output.
        unsafe {
            fabric.begin(&entry, &mut patience).unwrap();
            match pattern {
                Pattern::Packets => {
                    fabric.packet(peer, from.as_ptr(), bytes, &mut patience).unwrap();
                    fabric.wait_packet(peer, &mut patience).unwrap();
                }
                _ => {
                    if rank == 1 && pattern != Pattern::Exchange {
                        fabric.wait(peer, &mut patience).unwrap();
                    }
                    if rank == 0 || pattern != Pattern::OneWay {
                        fabric.put(peer, from.as_ptr(), bytes, Target::Scratch(0), true, &mut patience).unwrap();
                    }
                    if pattern == Pattern::Exchange || rank == 0 && pattern == Pattern::PingPong {
                        fabric.wait(peer, &mut patience).unwrap();
                    }
                }
            }
        }
        fabric.end(&mut patience).unwrap();
    }
}

/// One rank: its times of a batch over bare connections and over the fabric, in turn, in seconds for each round.
fn side(
    rank: usize,
    mut bare: Bare,
    mut driven: Driven,
    together: &Barrier,
    cases: &[(usize, Pattern)],
    work: usize,
) -> Vec<Vec<[f64; 2]>> {
    let mut core = CpuSet::new();
    core.set(rank % std::thread::available_parallelism().map_or(1, usize::from));
    // Without it the numbers say less; a machine may forbid it.
    let _ = sched_setaffinity(None, &core);
    let from = bytes_of(rank, 1 - rank, 0, 0, LARGEST);
    let there = bytes_of(1 - rank, rank, 0, 0, LARGEST);
    let case = |(bytes, pattern): &(usize, Pattern)| {
        let (bytes, pattern) = (*bytes, *pattern);
        let (sends, receives) = match pattern {
            Pattern::OneWay => (bytes * (1 - rank), bytes * rank),
            _ => (bytes, bytes),
        };
        let rounds = (work / (bytes + 20_000)).clamp(2, 400);
        let mut times = Vec::new();
        for _ in 0..if work > 1 << 20 { 61 } else { 1 } {
            together.wait();
            let begun = Instant::now();
            for _ in 0..rounds {
                if pattern == Pattern::PingPong {
                    bare.go(&from, bytes * (1 - rank), bytes * rank);
                    bare.go(&from, bytes * rank, bytes * (1 - rank));
                } else {
                    bare.go(&from, sends, receives);
                }
            }
            let plain = begun.elapsed().as_secs_f64() / rounds as f64;
            together.wait();
            let begun = Instant::now();
            (0..rounds).for_each(|_| driven.go(&from, rank, bytes, pattern));
            times.push([plain, begun.elapsed().as_secs_f64() / rounds as f64]);
            assert!(bare.into[..receives] == there[..receives]);
            if pattern != Pattern::Packets {
                let got = crate::fabric::conformance::copy(driven.fabric.scratch(), 0, receives);
                assert!(got == there[..receives]);
            }
        }
        times
    };
    cases.iter().map(case).collect()
}

/// The time of a calm batch: a quarter of them took less. Others use the machine too.
fn calm(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 4]
}

#[test]
fn beside_bare_connections() {
    let long = std::env::var_os("SWARMLOOM_TCP_RATIOS").is_some();
    let work = if long { 16 << 20 } else { 1 << 20 };
    let small = [8, 256, 1024, 4096, 16 << 10, 64 << 10].map(|bytes| (bytes, Pattern::PingPong));
    let mut cases = small.to_vec();
    cases.extend([8, 256].map(|bytes| (bytes, Pattern::Packets)));
    for bytes in [8, 1024, 4096, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, LARGEST] {
        cases.push((bytes, Pattern::Exchange));
    }
    cases.extend([64 << 10, 1 << 20, LARGEST].map(|bytes| (bytes, Pattern::OneWay)));
    for lanes in [1, 2] {
        let (here, there) = pair();
        let fabrics = group(2, lanes, LARGEST, Tuning::default());
        let together = &Barrier::new(2);
        let cases = &cases;
        let times: Vec<_> = std::thread::scope(|scope| {
            let sides = [here, there].into_iter().zip(fabrics).enumerate();
            let sides = sides.map(|(rank, (stream, fabric))| {
                scope.spawn(move || {
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let bare = Bare { stream, into: vec![0; LARGEST], stop: AtomicBool::new(false) };
                    let driven = Driven { fabric, abort: Abort::default(), sequence: 0 };
                    side(rank, bare, driven, together, cases, work)
                })
            });
            let sides: Vec<_> = sides.collect();
            sides.into_iter().map(|side| side.join().unwrap()).collect()
        });
        for (index, (bytes, pattern)) in cases.iter().enumerate().filter(|_| long) {
            // A batch is over when both sides are done.
            let both: Vec<[f64; 2]> = times[0][index]
                .iter()
                .zip(&times[1][index])
                .map(|(one, other)| [one[0].max(other[0]), one[1].max(other[1])])
                .collect();
            let [bare, fabric] = [0, 1].map(|which| calm(both.iter().map(|pair| pair[which]).collect()) * 1e6);
            let ratio = bare / fabric;
            println!(
                "{lanes} connections, {pattern:?} of {bytes} bytes: bare {bare:.2} us, fabric {fabric:.2} us, speed {ratio:.3}"
            );
        }
    }
}
