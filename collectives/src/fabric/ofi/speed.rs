//! How fast the fabric is, for a comparison with a program that uses libfabric and does nothing else.
//!
//! `SWARMLOOM_OFI_SPEED=1 cargo test --release -p swarmloom-collectives ofi::speed -- --nocapture` takes its time and
//! prints the best and the median of many short runs: on a busy machine the best says what the code can do, the rest
//! what the scheduler did. Without the variable it only checks that the bytes are right.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::OfiFabric;
use super::open::Ways;
use super::tests::{group, is_here_for_threads};
use crate::fabric::{Entry, Fabric, Raw, Target, conformance};
use crate::patience::{Abort, Ladder, Patience};

const HALF: usize = 8 << 20;

/// What two ranks do in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// A packet there, a packet back.
    Packets,
    /// A put that signals there, another back.
    PingPong,
    /// Puts in one direction, so many in an operation, then one signal back.
    Stream(usize),
}

struct Side {
    rank: usize,
    fabric: OfiFabric,
    abort: Abort,
    sequence: u64,
}

impl Side {
    fn round(&mut self, from: &[u8], bytes: usize, pattern: Pattern) {
        self.sequence += 1;
        let (fabric, peer) = (&mut self.fabric, 1 - self.rank);
        let mut patience = Patience::new(&self.abort, Duration::from_secs(60), Ladder { spins: 4000, crowded: false });
        let entry = Entry { sequence: self.sequence, tag: 1, input: Raw::EMPTY, output: Raw::EMPTY };
        // SAFETY: there is no input or output, and the source outlives the operation.
        unsafe {
            fabric.begin(&entry, &mut patience).unwrap();
            let target = Target::Scratch(0);
            match (pattern, self.rank) {
                (Pattern::Packets, 0) => {
                    fabric.packet(peer, from.as_ptr(), bytes, &mut patience).unwrap();
                    fabric.wait_packet(peer, &mut patience).unwrap();
                }
                (Pattern::Packets, _) => {
                    fabric.wait_packet(peer, &mut patience).unwrap();
                    fabric.packet(peer, from.as_ptr(), bytes, &mut patience).unwrap();
                }
                (Pattern::PingPong, 0) => {
                    fabric.put(peer, from.as_ptr(), bytes, target, true, &mut patience).unwrap();
                    fabric.wait(peer, &mut patience).unwrap();
                }
                (Pattern::PingPong, _) => {
                    fabric.wait(peer, &mut patience).unwrap();
                    fabric.put(peer, from.as_ptr(), bytes, target, true, &mut patience).unwrap();
                }
                (Pattern::Stream(puts), 0) => {
                    for put in 0..puts {
                        let place = Target::Scratch(put % (HALF / bytes) * bytes);
                        fabric.put(peer, from.as_ptr(), bytes, place, put + 1 == puts, &mut patience).unwrap();
                    }
                    fabric.wait(peer, &mut patience).unwrap();
                }
                (Pattern::Stream(_), _) => {
                    fabric.wait(peer, &mut patience).unwrap();
                    fabric.signal(peer, &mut patience).unwrap();
                }
            }
        }
        let received = pattern == Pattern::PingPong || self.rank == 1 && pattern != Pattern::Packets;
        if self.sequence == 1 && received {
            let got = conformance::copy(self.fabric.scratch(), 0, bytes);
            assert!(got == conformance::bytes_of(peer, 0, 0, 0, HALF)[..bytes], "{bytes} bytes of rank {peer}");
        }
        self.fabric.end(&mut patience).unwrap();
    }
}

/// Seconds of a round, in each of so many runs.
fn measure(provider: &str, bytes: usize, pattern: Pattern, runs: usize, rounds: usize) -> Vec<f64> {
    let together = &Barrier::new(2);
    let fabrics = group(provider, 1, 2, HALF, Ways::default());
    thread::scope(|scope| {
        let threads = fabrics.into_iter().enumerate().map(|(rank, fabric)| {
            scope.spawn(move || {
                let mut core = CpuSet::new();
                core.set(rank % thread::available_parallelism().map_or(1, usize::from));
                // Without it the numbers say less; a machine may forbid it.
                let _ = sched_setaffinity(None, &core);
                let from = conformance::bytes_of(rank, 0, 0, 0, HALF);
                let mut side = Side { rank, fabric, abort: Abort::default(), sequence: 0 };
                let mut times = Vec::new();
                for _ in 0..runs {
                    together.wait();
                    let begun = Instant::now();
                    (0..rounds).for_each(|_| side.round(&from, bytes, pattern));
                    times.push(begun.elapsed().as_secs_f64() / rounds as f64);
                }
                times
            })
        });
        let threads: Vec<_> = threads.collect();
        let mut times = threads.into_iter().map(|thread| thread.join().unwrap()).next().unwrap();
        times.sort_by(f64::total_cmp);
        times
    })
}

#[test]
fn bytes_arrive_at_a_speed() {
    let long = std::env::var_os("SWARMLOOM_OFI_SPEED").is_some();
    for provider in ["shm", "tcp;ofi_rxm"] {
        if !is_here_for_threads(provider) {
            continue;
        }
        for (pattern, bytes) in [
            (Pattern::Packets, 8),
            (Pattern::PingPong, 8),
            (Pattern::PingPong, 4096),
            (Pattern::PingPong, 65536),
            (Pattern::Stream(32), 65536),
            (Pattern::Stream(16), 1 << 20),
            (Pattern::Stream(8), 4 << 20),
        ] {
            let (runs, rounds) = match pattern {
                _ if !long => (1, 2),
                Pattern::Stream(_) => (40, 2),
                _ if bytes > 4096 => (100, 20),
                _ => (200, 100),
            };
            let times = measure(provider, bytes, pattern, runs, rounds);
            let (best, median) = (times[0], times[times.len() / 2]);
            match pattern {
                _ if !long => {}
                Pattern::Stream(puts) => {
                    let rate = |time: f64| (puts * bytes) as f64 / time / 1e9;
                    println!(
                        "{provider} {bytes} B in one direction: {:.2} GB/s (median {:.2})",
                        rate(best),
                        rate(median)
                    );
                }
                _ => {
                    let half = |time: f64| time / 2.0 * 1e6;
                    println!(
                        "{provider} {bytes} B {pattern:?}: half a round trip in {:.2} us (median {:.2})",
                        half(best),
                        half(median)
                    );
                }
            }
        }
    }
}
