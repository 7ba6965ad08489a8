//! Signals and packets are counted, and order what they are said to order.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Make, Op, SCRATCH, SplitMix, bytes_of, run};
use crate::fabric::Target;
use crate::fault::Fault;
use crate::plan::Rank;

/// As many waits succeed as there were signals, from each peer.
pub(super) fn signals_are_counted(make: Make<'_>) {
    run(make(3), |mut side| {
        let (rank, others) = (side.rank, side.others().collect::<Vec<_>>());
        side.operation(|op| {
            for count in 0..100 {
                others.iter().filter(|other| count < 50 + **other * 20).try_for_each(|other| op.signal(*other))?;
            }
            for other in others.iter().rev() {
                (0..50 + rank * 20).try_for_each(|_| op.wait(*other))?;
            }
            // All that were raised have been waited for.
            (0..100)
                .try_for_each(|_| others.iter().try_for_each(|other| op.fabric.poll(*other).map(|more| assert!(!more))))
        })
        .unwrap();
    });
}

/// `poll` says true until the signal is waited for, and false while there is none.
pub(super) fn looking(make: Make<'_>) {
    run(make(2), |mut side| {
        let peer = 1 - side.rank;
        for _ in 0..200 {
            side.operation(|op| {
                if peer == 1 {
                    // The peer signals only when it has been signalled.
                    (0..10).try_for_each(|_| op.fabric.poll(1).map(|there| assert!(!there)))?;
                    op.signal(1)?;
                    op.signal(1)?;
                }
                poll_until_there(op, peer)?;
                op.wait(peer)?;
                if peer == 1 {
                    return op.fabric.poll(1).map(|there| assert!(!there));
                }
                poll_until_there(op, 0)?;
                op.wait(0)?;
                op.fabric.poll(0).map(|there| assert!(!there))?;
                op.signal(0)
            })
            .unwrap();
        }
    });
}

fn poll_until_there(op: &mut Op<'_>, peer: Rank) -> Result<(), Fault> {
    while !op.fabric.poll(peer)? {
        op.patience.check()?;
        std::thread::yield_now();
    }
    (0..3).try_for_each(|_| op.fabric.poll(peer).map(|there| assert!(there, "looking consumed the signal")))
}

/// Packets of every length to everybody, in every operation, beside signals.
pub(super) fn packets(make: Make<'_>) {
    let looked = AtomicU64::new(0);
    run(make(3), |mut side| {
        let (rank, others) = (side.rank, side.others().collect::<Vec<_>>());
        let most = others.iter().map(|other| side.fabric.reach(*other).packet_bytes).min().unwrap_or(0);
        if most == 0 {
            return;
        }
        for bytes in 0..=most {
            let sequence = side.sequence + 1;
            side.operation(|op| {
                for other in &others {
                    op.packet(*other, bytes_of(rank, *other, sequence, 0, bytes))?;
                    op.signal(*other)?;
                }
                for other in &others {
                    let wanted = bytes_of(*other, rank, sequence, 0, bytes);
                    assert_eq!(op.wait_packet(*other, bytes)?, wanted, "{bytes} bytes");
                    op.wait(*other)?;
                    assert_eq!(op.wait_packet(*other, bytes)?, wanted, "it stays until the operation ends");
                    assert!(!op.fabric.poll(*other)?, "a packet is no signal");
                }
                // Whoever goes on may signal in the next operation, and be seen.
                looked.fetch_add(1, Ordering::Relaxed);
                while looked.load(Ordering::Relaxed) < 3 * sequence {
                    op.patience.check()?;
                    std::thread::yield_now();
                }
                Ok(())
            })
            .unwrap();
        }
    });
}

/// What went around a ring of signals has happened: each rank adds to what it got, and passes it on.
pub(super) fn chains(make: Make<'_>) {
    const BYTES: usize = 2000;
    run(make(4), |mut side| {
        let (rank, ranks) = (side.rank, side.ranks);
        for round in 0..100_u64 {
            side.operation(|op| {
                if rank == 0 {
                    op.put(1, bytes_of(0, 0, round, 0, BYTES), Target::Scratch(0), true)?;
                }
                op.wait((rank + ranks - 1) % ranks)?;
                let got = op.scratch(0, BYTES);
                let wanted: Vec<u8> = bytes_of(0, 0, round, 0, BYTES)
                    .iter()
                    .map(|byte| byte.wrapping_add((rank + 3) as u8 % 4))
                    .collect();
                assert!(got == wanted, "round {round}");
                if rank == 0 {
                    return Ok(());
                }
                let next = got.iter().map(|byte| byte.wrapping_add(1)).collect();
                op.put((rank + 1) % ranks, next, Target::Scratch(0), true)
            })
            .unwrap();
        }
    });
}

/// Rank 0 writes operation after operation and waits for nothing; rank 1 reads late, and finds what belongs there.
pub(super) fn slow_reader(make: Make<'_>) {
    run(make(2), |mut side| {
        let mut random = SplitMix(side.rank as u64);
        for round in 0..3000_u64 {
            let bytes = match round % 64 {
                0 => SCRATCH / 2,
                _ => 8 + (round as usize * 37) % 3000,
            };
            if side.rank == 0 {
                let piece = bytes_of(0, 1, round, 0, bytes);
                side.operation(|op| op.put(1, piece, Target::Scratch(0), true)).unwrap();
                continue;
            }
            let [early, late] = side
                .operation(|op| {
                    random.dawdle();
                    op.wait(0)?;
                    let early = op.scratch(0, bytes);
                    random.dawdle();
                    Ok([early, op.scratch(0, bytes)])
                })
                .unwrap();
            let wanted = bytes_of(0, 1, round, 0, bytes);
            assert!(early == wanted, "round {round}: {bytes} bytes");
            assert!(late == wanted, "round {round}: overwritten while in use");
        }
    });
}

/// Rank 0 may run ahead, but what it puts two operations on does not touch what rank 1 still reads: where it could, it does
/// not begin that operation.
pub(super) fn run_ahead(make: Make<'_>) {
    const ROUNDS: u64 = 6;
    let begun = AtomicU64::new(0);
    run(make(2), |mut side| {
        for round in 1..=ROUNDS {
            if side.rank == 0 {
                let piece = bytes_of(0, 1, round, 0, 5000);
                side.operation(|op| {
                    begun.fetch_max(round, Ordering::SeqCst);
                    op.put(1, piece, Target::Scratch(0), true)
                })
                .unwrap();
                continue;
            }
            let got = side.operation(|op| {
                op.wait(0)?;
                // As far ahead as it gets in a hundred looks.
                for _ in 0..100 {
                    op.fabric.poll(0)?;
                    std::thread::yield_now();
                    if begun.load(Ordering::SeqCst) >= round + 2 {
                        break;
                    }
                }
                Ok(op.scratch(0, 5000))
            });
            assert!(got.unwrap() == bytes_of(0, 1, round, 0, 5000), "round {round}");
        }
    });
}

/// Everybody puts to everybody, of all sizes, and checks all that it gets; groups of 2 to 8.
pub(super) fn storm(make: Make<'_>) {
    for ranks in 2..=8 {
        run(make(ranks), |mut side| {
            let rank = side.rank;
            let share = SCRATCH / ranks;
            let bytes_in = |round: u64, from: Rank, to: Rank| {
                let mut random = SplitMix(round << 16 ^ (from as u64) << 8 ^ to as u64);
                match random.below(5) {
                    0 => 0,
                    1 => random.below(64),
                    2 => random.below(share),
                    _ => random.below(5000),
                }
            };
            for round in 0..60_u64 {
                let others: Vec<_> = side.others().collect();
                side.operation(|op| {
                    let mut random = SplitMix(round ^ (rank as u64) << 32);
                    for other in &others {
                        random.dawdle();
                        let piece = bytes_of(rank, *other, round, 0, bytes_in(round, rank, *other));
                        op.put(*other, piece, Target::Scratch(rank * share), true)?;
                    }
                    for other in &others {
                        op.wait(*other)?;
                        let bytes = bytes_in(round, *other, rank);
                        let got = op.scratch(other * share, bytes);
                        assert!(got == bytes_of(*other, rank, round, 0, bytes), "{bytes} bytes of {other}");
                    }
                    Ok(())
                })
                .unwrap();
            }
        });
    }
}
