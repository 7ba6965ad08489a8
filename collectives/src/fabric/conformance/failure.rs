//! Waits end, with the fault that says why.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::{Make, SCRATCH, bytes_of, run};
use crate::fabric::Target;
use crate::fault::Fault;

/// Ranks in the same operation with different tags find out, both.
pub(super) fn mismatch(make: Make<'_>) {
    for waits_first in [false, true] {
        let faults = run(make(2), |mut side| {
            let (rank, peer) = (side.rank, 1 - side.rank);
            side.operation(|op| {
                op.put(peer, bytes_of(rank, peer, 1, 0, 50), Target::Scratch(0), true)?;
                op.wait(peer)
            })
            .unwrap();
            side.tag += rank as u32;
            let begun = Instant::now();
            let fault = side.operation(|op| {
                if rank == 1 && waits_first {
                    op.wait(peer)?;
                }
                op.put(peer, bytes_of(rank, peer, 2, 0, 50), Target::Scratch(0), true)?;
                op.wait(peer)
            });
            assert!(begun.elapsed() < Duration::from_secs(5), "found late: {fault:?}");
            fault
        });
        for (rank, fault) in faults.into_iter().enumerate() {
            let (ours, theirs) = (0x5EED + rank as u32, 0x5EED + 1 - rank as u32);
            assert_eq!(fault, Err(Fault::Mismatch { rank: 1 - rank, ours, theirs }));
        }
    }
}

/// What points outside is refused by either side, and nothing is written.
pub(super) fn out_of_range(make: Make<'_>) {
    let far = usize::MAX;
    for (target, bytes) in [
        (Target::Scratch(SCRATCH), 1),
        (Target::Scratch(SCRATCH - 7), 8),
        (Target::Scratch(0), SCRATCH + 1),
        (Target::Scratch(far), 64),
        (Target::Scratch(far - 63), 64),
        (Target::Scratch(far / 2), 64),
        (Target::Output(100), 1),
        (Target::Output(60), 41),
        (Target::Output(far), 2),
    ] {
        let together = Barrier::new(2);
        let faults = run(make(2), |mut side| {
            if matches!(target, Target::Output(_)) && !side.fabric.reach(1 - side.rank).put_output {
                return Err(Fault::System { what: "no such put", why: String::new() });
            }
            let (rank, peer) = (side.rank, 1 - side.rank);
            side.output = vec![0xA5; 100];
            side.operation(|op| {
                op.put(peer, bytes_of(rank, peer, 1, 0, 30), Target::Scratch(5), true)?;
                op.wait(peer)
            })
            .unwrap();
            together.wait();
            let done = side.operation(|op| {
                if rank == 0 {
                    op.put(1, vec![0xBB; bytes], target, true)?;
                    // The fault is the receiver's at the latest; here its end is seen.
                    return op.wait(1);
                }
                op.wait(0)
            });
            let odd = side.fabric.scratch();
            let beside = super::side::copy(odd, SCRATCH - 64, 64);
            assert!(!beside.contains(&0xBB), "something was written");
            assert!(side.output.iter().all(|byte| *byte == 0xA5), "something was written");
            done
        });
        for fault in faults {
            assert!(
                matches!(fault, Err(Fault::Protocol { .. } | Fault::Lost { .. } | Fault::System { .. })),
                "{fault:?}"
            );
        }
    }
}

/// Runs a check of time up to three times: others use this machine too.
fn in_time(check: impl Fn() -> Result<(), Duration>) {
    let late: Vec<_> = std::iter::from_fn(|| check().err()).take(3).collect();
    assert!(late.len() < 3, "late by {late:?}");
}

/// A wait for a peer that says nothing ends in time.
pub(super) fn silence(make: Make<'_>) {
    let limit = Duration::from_millis(200);
    in_time(|| {
        let waited = run(make(2), |mut side| {
            let rank = side.rank;
            if rank == 1 {
                // It takes part, and does nothing until the other has given up.
                let gone = side.operation(|op| op.wait(0));
                assert!(matches!(gone, Err(Fault::Lost { rank: 0, .. })), "{gone:?}");
                return Duration::ZERO;
            }
            side.timeout = limit;
            let begun = Instant::now();
            assert_eq!(side.operation(|op| op.wait(1)), Err(Fault::Timeout { after: limit }));
            begun.elapsed()
        });
        assert!(waited[0] >= limit);
        let late = waited[0] - limit;
        if late <= Duration::from_millis(100) { Ok(()) } else { Err(late) }
    });
}

/// Whoever waits learns at once that the group was aborted, and why.
pub(super) fn abort(make: Make<'_>) {
    in_time(|| {
        let late = run(make(2), |mut side| {
            if side.rank == 1 {
                assert!(side.operation(|op| op.wait(0)).is_err());
                return Duration::ZERO;
            }
            let reason = Fault::Aborted { by: 9, why: "enough".to_owned() };
            let abort = side.abort.clone();
            let go = Barrier::new(2);
            let (raised, ended) = std::thread::scope(|scope| {
                let raiser = scope.spawn(|| {
                    go.wait();
                    // Long enough for a wait to be asleep.
                    std::thread::park_timeout(Duration::from_millis(50));
                    let now = Instant::now();
                    abort.raise(reason.clone());
                    now
                });
                let ended = side.operation(|op| {
                    go.wait();
                    op.wait(1)
                });
                let now = Instant::now();
                assert_eq!(ended, Err(reason.clone()));
                (raiser.join().unwrap(), now)
            });
            ended - raised
        });
        if late[0] <= Duration::from_millis(50) { Ok(()) } else { Err(late[0]) }
    });
}

/// A rank that goes in the middle of an operation is named by those that wait for it; nobody waits for ever.
pub(super) fn lost(make: Make<'_>) {
    for ranks in [2, 4] {
        let together = Barrier::new(ranks);
        let faults = run(make(ranks), |mut side| {
            let (rank, last) = (side.rank, ranks - 1);
            side.operation(|op| {
                op.signal((rank + 1) % ranks)?;
                op.wait((rank + last) % ranks)
            })
            .unwrap();
            together.wait();
            side.timeout = Duration::from_secs(10);
            let begun = Instant::now();
            let fault = side.operation(|op| {
                if rank == last {
                    // As if its process had died in the middle.
                    return Err(Fault::Aborted { by: last, why: "the test".to_owned() });
                }
                // The first waits for the lost one, the others each for the one before.
                op.wait(if rank == 0 { last } else { rank - 1 })
            });
            drop(side);
            assert!(begun.elapsed() < Duration::from_secs(5), "{fault:?} after {:?}", begun.elapsed());
            fault
        });
        assert!(matches!(faults[0], Err(Fault::Lost { rank, .. }) if rank == ranks - 1), "{faults:?}");
        for fault in &faults[1..ranks - 1] {
            assert!(matches!(fault, Err(Fault::Lost { .. })), "{faults:?}");
        }
    }
}

/// A rank that has ended its last operation may go: who is still in it ends well, and who wants more is told.
pub(super) fn leaving(make: Make<'_>) {
    let together = Barrier::new(2);
    run(make(3), |mut side| {
        let rank = side.rank;
        // From 0 through 1 to 2, large enough to be on its way when 0 has gone.
        side.operation(|op| match rank {
            0 => {
                op.put(1, bytes_of(0, 1, 1, 0, SCRATCH), Target::Scratch(0), true)?;
                op.put(2, bytes_of(0, 2, 1, 0, SCRATCH / 2), Target::Scratch(0), true)
            }
            1 => {
                op.wait(0)?;
                assert!(op.scratch(0, SCRATCH) == bytes_of(0, 1, 1, 0, SCRATCH));
                op.signal(2)
            }
            _ => {
                op.wait(1)?;
                op.wait(0)?;
                assert!(op.scratch(0, SCRATCH / 2) == bytes_of(0, 2, 1, 0, SCRATCH / 2));
                Ok(())
            }
        })
        .unwrap();
        if rank > 0 {
            together.wait();
        }
        if rank == 1 {
            let more = side.operation(|op| op.wait(0));
            assert!(matches!(more, Err(Fault::Lost { rank: 0 | 2, .. })), "{more:?}");
        }
    });
}
