//! Bytes arrive whole, where they belong and nowhere else.

use super::side::copy;
use super::{Make, SCRATCH, SplitMix, bytes_of, run};
use crate::fabric::{Fabric, Target, Window};

const SIZES: [usize; 22] =
    [1, 2, 3, 7, 8, 40, 63, 64, 65, 255, 256, 257, 1000, 4056, 4096, 4097, 8152, 8193, 65535, 65539, 1 << 18, 700_001];

/// Both of two ranks put into each other's scratch.
pub(super) fn sizes_and_offsets(make: Make<'_>) {
    run(make(2), |mut side| {
        assert_eq!(side.fabric.scratch_bytes(), SCRATCH);
        let (rank, peer) = (side.rank, 1 - side.rank);
        for bytes in SIZES.into_iter().chain([SCRATCH]) {
            for offset in [0, 1, 3, 64, 4093, SCRATCH - bytes] {
                if offset + bytes > SCRATCH {
                    continue;
                }
                let sequence = side.sequence + 1;
                let got = side.operation(|op| {
                    op.put(peer, bytes_of(rank, peer, sequence, 0, bytes), Target::Scratch(offset), true)?;
                    op.wait(peer)?;
                    Ok(op.scratch(offset, bytes))
                });
                assert!(got.unwrap() == bytes_of(peer, rank, sequence, 0, bytes), "{bytes} bytes at {offset}");
            }
        }
    });
}

/// A put changes what it is for and not a byte beside it.
pub(super) fn neighbours(make: Make<'_>) {
    const AROUND: usize = 300;
    run(make(2), |mut side| {
        let (rank, peer) = (side.rank, 1 - side.rank);
        for bytes in [0, 1, 5, 64, 4097, 70_000] {
            for offset in [AROUND, AROUND + 1, AROUND + 63, SCRATCH - AROUND - bytes] {
                let got = side.operation(|op| {
                    let ground = vec![0xA5; bytes + 2 * AROUND];
                    op.put(peer, ground, Target::Scratch(offset - AROUND), true)?;
                    op.wait(peer)?;
                    // The peer has its ground too, and no put is on its way any more.
                    op.signal(peer)?;
                    op.wait(peer)?;
                    op.put(peer, bytes_of(rank, peer, 0, 0, bytes), Target::Scratch(offset), true)?;
                    op.wait(peer)?;
                    Ok(op.scratch(offset - AROUND, bytes + 2 * AROUND))
                });
                let mut wanted = vec![0xA5; bytes + 2 * AROUND];
                wanted[AROUND..AROUND + bytes].copy_from_slice(&bytes_of(peer, rank, 0, 0, bytes));
                assert!(got.unwrap() == wanted, "{bytes} bytes at {offset}");
            }
        }
    });
}

/// One signal covers all puts before it.
pub(super) fn many_puts_one_signal(make: Make<'_>) {
    run(make(2), |mut side| {
        let (rank, peer) = (side.rank, 1 - side.rank);
        for round in 0..20 {
            // The same cuts on both sides: pieces of 1 to 9000 bytes with gaps, put in another order than they lie.
            let mut random = SplitMix(round);
            let mut cuts = Vec::new();
            let mut at = random.below(100);
            while cuts.len() < 200 && at + 10_000 < SCRATCH {
                let bytes = if random.below(3) == 0 { random.below(9000) } else { random.below(100) } + 1;
                cuts.push((at, bytes));
                at += bytes + random.below(100);
            }
            for index in (1..cuts.len()).rev() {
                cuts.swap(index, random.below(index + 1));
            }
            side.operation(|op| {
                for (which, (offset, bytes)) in cuts.iter().enumerate() {
                    let piece = bytes_of(rank, peer, round, which, *bytes);
                    op.put(peer, piece, Target::Scratch(*offset), false)?;
                }
                op.signal(peer)?;
                op.wait(peer)?;
                for (which, (offset, bytes)) in cuts.iter().enumerate() {
                    let wanted = bytes_of(peer, rank, round, which, *bytes);
                    assert!(op.scratch(*offset, *bytes) == wanted, "piece {which}: {bytes} bytes at {offset}");
                }
                Ok(())
            })
            .unwrap();
        }
    });
}

/// Puts of no bytes are puts: their signals count, wherever they point inside.
pub(super) fn nothing(make: Make<'_>) {
    run(make(2), |mut side| {
        let peer = 1 - side.rank;
        side.operation(|op| {
            for offset in [0, 1, SCRATCH] {
                op.put(peer, Vec::new(), Target::Scratch(offset), false)?;
                op.put(peer, Vec::new(), Target::Scratch(offset), true)?;
            }
            (0..3).try_for_each(|_| op.wait(peer))?;
            assert!(!op.fabric.poll(peer)?);
            Ok(())
        })
        .unwrap();
    });
}

/// After `flush`, and before the signal, the source is the caller's again.
pub(super) fn flushed_sources(make: Make<'_>) {
    run(make(2), |mut side| {
        let (rank, peer) = (side.rank, 1 - side.rank);
        for round in 0..30 {
            for bytes in [1, 300, 5000, SCRATCH / 4] {
                side.operation(|op| {
                    for part in 0..3 {
                        let source = bytes_of(rank, peer, round, part, bytes);
                        op.put(peer, source, Target::Scratch(part * bytes), false)?;
                        op.flush(peer)?;
                        op.source().fill(0xEE);
                    }
                    op.signal(peer)?;
                    op.wait(peer)?;
                    for part in 0..3 {
                        let wanted = bytes_of(peer, rank, round, part, bytes);
                        assert!(op.scratch(part * bytes, bytes) == wanted, "part {part} of {bytes} bytes");
                    }
                    Ok(())
                })
                .unwrap();
            }
        }
    });
}

/// After `end` the source is the caller's again, whatever the receiver is doing.
pub(super) fn ended_sources(make: Make<'_>) {
    run(make(2), |mut side| {
        let mut random = SplitMix(3);
        let mut source = Vec::new();
        for round in 0..200 {
            let bytes = [8, 3000, SCRATCH][round % 3];
            if side.rank == 1 {
                random.dawdle();
                let got = side.operation(|op| {
                    random.dawdle();
                    op.wait(0)?;
                    Ok(op.scratch(0, bytes))
                });
                assert!(got.unwrap() == bytes_of(0, 1, 0, round, bytes), "round {round}");
                continue;
            }
            source.clone_from(&bytes_of(0, 1, 0, round, bytes));
            side.operation(|op| {
                // SAFETY: the source outlives the operation.
                unsafe { op.fabric.put(1, source.as_ptr(), bytes, Target::Scratch(0), true, &mut op.patience) }
            })
            .unwrap();
            source.fill(0xEE);
            std::hint::black_box(&source);
        }
    });
}

/// Puts into each other's outputs, where the transport does that.
pub(super) fn outputs(make: Make<'_>) {
    const AROUND: usize = 100;
    run(make(3), |mut side| {
        let (rank, others) = (side.rank, side.others());
        let others: Vec<_> = others.filter(|other| side.fabric.reach(*other).put_output).collect();
        for bytes in SIZES {
            side.output = vec![0xA5; 3 * bytes + 2 * AROUND];
            let sequence = side.sequence + 1;
            side.operation(|op| {
                for other in &others {
                    let piece = bytes_of(rank, *other, sequence, 0, bytes);
                    op.put(*other, piece, Target::Output(AROUND + rank * bytes), true)?;
                }
                others.iter().try_for_each(|other| op.wait(*other))
            })
            .unwrap();
            let mut wanted = vec![0xA5; side.output.len()];
            for other in &others {
                let piece = bytes_of(*other, rank, sequence, 0, bytes);
                wanted[AROUND + other * bytes..][..bytes].copy_from_slice(&piece);
            }
            assert!(side.output == wanted, "{bytes} bytes");
        }
    });
}

/// Reads what peers expose, by address or by copy, and writes their outputs, where the transport does that.
pub(super) fn exposed(make: Make<'_>) {
    run(make(3), |mut side| {
        let rank = side.rank;
        let reach = |fabric: &dyn Fabric, other| {
            let reach = fabric.reach(other);
            (reach.copy_user || reach.reduce_user, reach)
        };
        let others: Vec<_> = side.others().filter(|other| reach(&*side.fabric, *other).0).collect();
        for bytes in [8, 4096, 100_000] {
            let sequence = side.sequence + 1;
            side.input = bytes_of(rank, rank, sequence, 0, bytes);
            side.output = vec![0; 3 * bytes];
            side.operation(|op| {
                others.iter().try_for_each(|other| op.fabric.expose(*other, &mut op.patience))?;
                for other in &others {
                    op.fabric.meet(*other, &mut op.patience)?;
                    let (_, reach) = reach(op.fabric, *other);
                    let wanted = bytes_of(*other, *other, sequence, 0, bytes);
                    if let Some(input) = op.fabric.direct(*other, Window::Input) {
                        assert_eq!(input.bytes, bytes);
                        assert!(copy(input, 0, bytes) == wanted, "the input of {other} by address");
                    } else {
                        assert!(!reach.reduce_user, "what can be reduced has an address");
                        let mut got = vec![0; bytes - 3];
                        // SAFETY: as long as is copied, and inputs do not change.
                        unsafe { op.fabric.copy_from(*other, Window::Input, 3, got.as_mut_ptr(), bytes - 3) }?;
                        assert!(got == wanted[3..], "the input of {other} by copy");
                    }
                    if reach.reduce_user {
                        let output = op.fabric.direct(*other, Window::Output).expect("an address");
                        assert_eq!(output.bytes, 3 * bytes);
                        let piece = bytes_of(rank, *other, sequence, 1, bytes);
                        // SAFETY: inside, and nobody else writes this third of it.
                        unsafe { output.at.add(rank * bytes).copy_from_nonoverlapping(piece.as_ptr(), bytes) };
                    }
                }
                // Nobody ends while others read from it.
                others.iter().try_for_each(|other| op.signal(*other))?;
                others.iter().try_for_each(|other| op.wait(*other))
            })
            .unwrap();
            for other in &others {
                if side.fabric.reach(*other).reduce_user {
                    let wanted = bytes_of(*other, rank, sequence, 1, bytes);
                    assert!(side.output[other * bytes..][..bytes] == wanted, "what {other} wrote");
                }
            }
        }
    });
}
