//! The simulated transport keeps the contract, and nothing beyond it.

use std::time::Duration;

use super::{Options, SimulatedFabric, Tear, group};
use crate::fabric::conformance::{self, Op, SplitMix, bytes_of, run};
use crate::fabric::{Entry, Fabric, Raw, Target};
use crate::fault::Fault;
use crate::patience::{Abort, Ladder, Patience};
use crate::plan::Reach;

fn boxed(ranks: usize, seed: u64, options: Options) -> Vec<Box<dyn Fabric>> {
    let fabrics = group(ranks, seed, Options { scratch_bytes: conformance::SCRATCH, ..options });
    fabrics.into_iter().map(|fabric| Box::new(fabric) as Box<dyn Fabric>).collect()
}

#[test]
fn it_conforms_with_all_that_goes_wrong() {
    conformance::all(&|ranks| boxed(ranks, 1, Options::default()));
}

#[test]
fn it_conforms_in_order_and_with_less_reach() {
    let copies = Reach { copy_user: true, ..Reach::default() };
    let options = Options { reach: copies, reorder: false, delay: false, ..Options::default() };
    conformance::all(&|ranks| boxed(ranks, 2, options));
}

/// How often, of a thousand seeds, a program of rank 1 finds what rank 0 put, without the wait that it needs.
fn found(program: impl Fn(&mut Op<'_>, u64) -> Result<bool, Fault> + Sync) -> usize {
    let found = (0..1000).map(|seed| {
        let options = Options { scratch_bytes: 256, ..Options::default() };
        let fabrics = group(2, seed, options).into_iter().map(|fabric| Box::new(fabric) as Box<dyn Fabric>);
        let found = run(fabrics.collect::<Vec<_>>(), |mut side| {
            let rank = side.rank;
            side.operation(|op| {
                if rank == 1 {
                    let found = program(op, seed)?;
                    op.wait(0)?;
                    assert_eq!(op.scratch(0, 200), bytes_of(0, 1, seed, 0, 200));
                    return Ok(found);
                }
                op.put(1, bytes_of(0, 1, seed, 0, 200), Target::Scratch(0), false)?;
                op.put(1, vec![1], Target::Scratch(200), true)?;
                Ok(false)
            })
            .unwrap()
        });
        usize::from(found[1])
    });
    found.sum()
}

#[test]
fn looking_at_the_signal_is_not_waiting_for_it() {
    let found = found(|op, seed| {
        while !op.fabric.poll(0)? {
            op.patience.check()?;
        }
        Ok(op.scratch(0, 200) == bytes_of(0, 1, seed, 0, 200))
    });
    assert!((10..900).contains(&found), "{found} of 1000");
}

#[test]
fn a_flag_in_memory_says_nothing_of_what_was_put_before_it() {
    let found = found(|op, seed| {
        for _ in 0..20 {
            op.fabric.poll(0)?;
            if op.scratch(200, 1) == [1] {
                return Ok(op.scratch(0, 200) == bytes_of(0, 1, seed, 0, 200));
            }
        }
        // It does not come by itself every time.
        Ok(false)
    });
    assert!((10..900).contains(&found), "{found} of 1000");
}

/// A fabric of two ranks, both driven by this thread.
fn pair(seed: u64, options: Options) -> [SimulatedFabric; 2] {
    group(2, seed, options).try_into().unwrap()
}

fn with<T>(limit: Duration, call: impl FnOnce(&mut Patience<'_>) -> T) -> T {
    let abort = Abort::default();
    call(&mut Patience::new(&abort, limit, Ladder { spins: 1, crowded: true }))
}

fn begin(fabric: &mut SimulatedFabric, sequence: u64) -> Result<(), Fault> {
    let entry = Entry { sequence, tag: 1, input: Raw::EMPTY, output: Raw::EMPTY };
    // SAFETY: there is no input or output.
    with(Duration::from_millis(20), |patience| unsafe { fabric.begin(&entry, patience) })
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn what_a_program_must_not_do_is_a_fault() {
    let source = [1_u8; 8];
    let put = |fabric: &mut SimulatedFabric, from: &[u8]| {
        // SAFETY: the sources outlive the fabrics.
        with(SOON, |patience| unsafe { fabric.put(1, from.as_ptr(), from.len(), Target::Scratch(0), true, patience) })
    };
    let mut changing = [1_u8; 8];

    let [mut zero, mut one] = pair(1, Options::default());
    begin(&mut zero, 1).unwrap();
    begin(&mut one, 1).unwrap();
    put(&mut zero, &changing).unwrap();
    changing[3] = 2;
    std::hint::black_box(&changing);
    let changed = with(SOON, |patience| zero.flush(1, patience));
    assert!(matches!(&changed, Err(Fault::System { what: "a put", why }) if why.contains("changed")), "{changed:?}");

    // A put that is not waited for, before the end and after.
    let lazy = Options { ghosts: false, ..Options::default() };
    let ends = (0..20).map(|seed| {
        let [mut zero, mut one] = pair(seed, lazy);
        begin(&mut zero, 1).unwrap();
        begin(&mut one, 1).unwrap();
        put(&mut zero, &source).unwrap();
        with(SOON, |patience| one.end(patience))
    });
    let unseen = ends.filter(|end| matches!(end, Err(Fault::Protocol { rank: 0, .. }))).count();
    assert!(unseen > 5, "{unseen} of 20");
    let [mut zero, mut one] = pair(1, lazy);
    begin(&mut zero, 1).unwrap();
    begin(&mut one, 1).unwrap();
    with(SOON, |patience| one.end(patience)).unwrap();
    let late = put(&mut zero, &source);
    assert!(matches!(&late, Err(Fault::System { why, .. }) if why.contains("has ended")), "{late:?}");

    // Two operations ahead, and calls outside of any.
    let [mut zero, mut one] = pair(1, lazy);
    begin(&mut one, 1).unwrap();
    for sequence in 1..=2 {
        begin(&mut zero, sequence).unwrap();
        with(SOON, |patience| zero.end(patience)).unwrap();
    }
    assert_eq!(begin(&mut zero, 3), Err(Fault::Timeout { after: Duration::from_millis(20) }));
    with(SOON, |patience| one.end(patience)).unwrap();
    assert!(matches!(one.poll(0), Err(Fault::System { .. })));
}

#[test]
fn scratch_is_rubbish_when_an_operation_begins_and_ghosts_never_show() {
    let [mut zero, mut one] = pair(1, Options { scratch_bytes: 64, ..Options::default() });
    for sequence in 1..=6 {
        begin(&mut zero, sequence).unwrap();
        begin(&mut one, sequence).unwrap();
        assert!(!conformance::copy(one.scratch(), 0, 64).contains(&(sequence as u8)));
        let source = [sequence as u8; 64];
        // SAFETY: the source outlives the operation.
        with(SOON, |patience| unsafe { zero.put(1, source.as_ptr(), 64, Target::Scratch(0), true, patience) }).unwrap();
        with(SOON, |patience| one.wait(0, patience)).unwrap();
        assert_eq!(conformance::copy(one.scratch(), 0, 64), source);
        with(SOON, |patience| zero.end(patience)).unwrap();
        with(SOON, |patience| one.end(patience)).unwrap();
    }
    assert_eq!(one.ghosts(), 6);
}

/// What one thread sees of a few puts, look by look.
fn story(seed: u64) -> Vec<Vec<u8>> {
    let [mut zero, mut one] = pair(seed, Options { scratch_bytes: 64, ..Options::default() });
    begin(&mut zero, 1).unwrap();
    begin(&mut one, 1).unwrap();
    let sources: Vec<_> = (0..4).map(|which| bytes_of(0, 1, 0, which, 16)).collect();
    for (which, source) in sources.iter().enumerate() {
        let to = Target::Scratch(which * 16);
        // SAFETY: the sources outlive the fabric.
        with(SOON, |patience| unsafe { zero.put(1, source.as_ptr(), 16, to, which == 3, patience) }).unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..10 {
        one.poll(0).unwrap();
        seen.push(conformance::copy(one.scratch(), 0, 64));
    }
    with(SOON, |patience| one.wait(0, patience)).unwrap();
    assert_eq!(conformance::copy(one.scratch(), 0, 64), sources.concat());
    seen
}

#[test]
fn the_same_seed_tells_the_same_story() {
    assert!((0..20).all(|seed| story(seed) == story(seed)));
    assert!((1..20).any(|seed| story(seed) != story(0)));
}

/// An exchange in a ring, three times, by ranks of which one dies at every one of its calls in turn.
#[test]
fn a_death_at_any_moment_is_a_loss_or_comes_too_late() {
    let mut lost = 0;
    for calls in 1..=30 {
        let tear_after = Some(Tear { rank: 1, calls });
        let ended = run(boxed(3, calls, Options { tear_after, ..Options::default() }), |mut side| {
            let (next, last) = ((side.rank + 1) % 3, (side.rank + 2) % 3);
            let (rank, mut random) = (side.rank, SplitMix(calls));
            (0..3).try_for_each(|round| {
                side.operation(|op| {
                    op.put(next, bytes_of(rank, next, round, 0, 5000), Target::Scratch(8), false)?;
                    random.dawdle();
                    op.signal(next)?;
                    op.wait(last)?;
                    assert!(op.scratch(8, 5000) == bytes_of(last, rank, round, 0, 5000));
                    Ok(())
                })
            })
        });
        if calls > 15 {
            // Five calls an operation: it has done all of them.
            assert!(ended.iter().all(Result::is_ok), "{calls}: {ended:?}");
            continue;
        }
        assert!(matches!(ended[1], Err(Fault::System { what: "staying alive", .. })), "{calls}: {ended:?}");
        for end in [&ended[0], &ended[2]] {
            assert!(matches!(end, Ok(()) | Err(Fault::Lost { .. })), "{calls}: {ended:?}");
            lost += usize::from(end.is_err());
        }
    }
    assert!(lost >= 20, "{lost}");
}
