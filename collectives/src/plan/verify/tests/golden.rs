//! Plans by hand, one for each refusal, and those that show what is still allowed.

use std::collections::BTreeSet;

use crate::plan::verify::{Refusal, verify};
use crate::plan::{Algorithm, Buffer, Collective, Guarantee, Layout, Place, Plan, Rank, Reach, Slice, Step};

const ALL: Reach = Reach { load_scratch: true, copy_user: true, reduce_user: true, put_output: true, packet_bytes: 64 };

fn input(range: std::ops::Range<usize>) -> Slice {
    Slice::new(Buffer::Input, range)
}

fn output(range: std::ops::Range<usize>) -> Slice {
    Slice::new(Buffer::Output, range)
}

fn scratch(range: std::ops::Range<usize>) -> Slice {
    Slice::new(Buffer::Scratch, range)
}

fn put(from: Slice, to: Place) -> Step {
    Step::Put { from, to, signal: true }
}

fn signal(to: Rank) -> Step {
    Step::Signal { to }
}

fn wait(from: Rank) -> Step {
    Step::Wait { from }
}

fn copy(from: Place, to: Slice) -> Step {
    Step::Copy { from, to }
}

fn reduce(from: &[Place], to: Place) -> Step {
    Step::Reduce { from: from.to_vec(), to: vec![to] }
}

fn plan(collective: Collective, programs: Vec<Vec<Step>>) -> Plan {
    Plan { collective, algorithm: Algorithm::OneShot, element_bytes: 4, scratch: 8, programs }
}

/// Rank 0 sends four elements to rank 1.
fn send(programs: [Vec<Step>; 2]) -> Plan {
    plan(Collective::Send { from: 0, to: 1, count: 4 }, programs.to_vec())
}

/// Two or more ranks reduce four elements.
fn all_reduce(programs: Vec<Vec<Step>>) -> Plan {
    plan(Collective::AllReduce { count: 4 }, programs)
}

fn check(plan: &Plan) -> Result<Option<Guarantee>, Refusal> {
    verify(plan, &Layout::single(plan.ranks(), ALL, 64)).map(|proof| proof.guarantee)
}

/// Why rank 0 may not do `step`, as the first one.
fn first(step: Step) -> Refusal {
    check(&send([vec![step], vec![]])).unwrap_err()
}

fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed { .. } => "malformed",
        Refusal::Scratch { .. } => "scratch",
        Refusal::Empty { .. } => "empty",
        Refusal::Lengths { .. } => "lengths",
        Refusal::Outside { .. } => "outside",
        Refusal::NoRank { .. } => "no rank",
        Refusal::Itself { .. } => "itself",
        Refusal::ReadOnly { .. } => "read only",
        Refusal::Unreachable { .. } => "unreachable",
        Refusal::Channel { .. } => "channel",
        Refusal::Unmet { .. } => "unmet",
        Refusal::Twice { .. } => "twice",
        Refusal::Arity { .. } => "arity",
        Refusal::Overlap { .. } => "overlap",
        Refusal::Unsignalled { .. } => "unsignalled",
        Refusal::Blocked { .. } => "blocked",
        Refusal::LeftOver { .. } => "left over",
        Refusal::Undefined { .. } => "undefined",
        Refusal::Race { .. } => "race",
        Refusal::Open { .. } => "open",
        Refusal::Unwritten { .. } => "unwritten",
        Refusal::Value { .. } => "value",
        Refusal::Differs { .. } => "differs",
        Refusal::Barrier { .. } => "barrier",
    }
}

/// Every refusal once, in words.
fn refusals() -> Vec<(Refusal, &'static str)> {
    let meet = |steps: Vec<Step>| {
        let mut program = vec![Step::Meet { from: 0 }];
        program.extend(steps);
        program
    };
    let malformed = plan(Collective::AllGather { parts: vec![1, usize::MAX] }, vec![vec![]; 2]);
    let mut large = send([vec![], vec![]]);
    large.scratch = 17;
    let twice = Step::Packet { from: input(0..1), to: 1 };
    let rounds = |first: &[Rank], then: Rank, at: Rank| {
        let mut sum: Vec<Place> = first.iter().map(|&from| scratch(4 * from..4 * from + 4).of(at)).collect();
        let mut steps: Vec<Step> = Vec::new();
        for peer in (0..3).filter(|&peer| peer != at) {
            steps.push(put(input(0..4), scratch(4 * at..4 * at + 4).of(peer)));
        }
        steps.push(copy(input(0..4).of(at), scratch(4 * at..4 * at + 4)));
        steps.extend((0..3).filter(|&peer| peer != at).map(wait));
        steps.push(reduce(&sum, scratch(12..16).of(at)));
        sum = vec![scratch(12..16).of(at), scratch(4 * then..4 * then + 4).of(at)];
        steps.push(reduce(&sum, output(0..4).of(at)));
        steps
    };
    let mut differs = all_reduce(vec![rounds(&[0, 1], 2, 0), rounds(&[0, 1], 2, 1), rounds(&[1, 2], 0, 2)]);
    differs.scratch = 16;
    vec![
        (check(&malformed).unwrap_err(), "the plan makes no sense: it is too large"),
        (check(&large).unwrap_err(), "17 elements of scratch are 68 bytes each rank, and there are 64"),
        (first(copy(input(1..1).of(0), scratch(0..0))), "rank 0, step 0: nothing to do, the slice is empty"),
        (first(copy(input(0..2).of(0), scratch(0..3))), "rank 0, step 0: 2 elements cannot go to 3"),
        (
            first(copy(input(2..5).of(0), scratch(0..3))),
            "rank 0, step 0: 0:input[2..5] is outside the buffer, which has 4 elements",
        ),
        (first(signal(2)), "rank 0, step 0: there is no rank 2"),
        (first(signal(0)), "rank 0, step 0: a rank cannot put to, signal or wait for itself"),
        (first(copy(input(0..2).of(0), input(2..4))), "rank 0, step 0: writes 0:input[2..4], which may only be read"),
        (
            first(reduce(&[input(0..2).of(0)], scratch(0..2).of(1))),
            "rank 0, step 0: 1:scratch[0..2] cannot be reached, only a put writes others' scratch",
        ),
        (
            check(&plan(
                Collective::Send { from: 0, to: 1, count: 17 },
                vec![vec![Step::Packet { from: input(0..17), to: 1 }], vec![]],
            ))
            .unwrap_err(),
            "rank 0, step 0: a packet to rank 1 has at most 64 bytes, this one 68",
        ),
        (
            check(&send([vec![], vec![copy(input(0..4).of(0), output(0..4))]])).unwrap_err(),
            "rank 1, step 0: 0:input[0..4] is not known yet, a meet has to come first",
        ),
        (
            check(&send([vec![twice.clone(), twice], vec![]])).unwrap_err(),
            "rank 0, step 1: one packet to rank 1 is all there may be",
        ),
        (
            first(Step::Reduce { from: vec![], to: vec![scratch(0..1).of(0)] }),
            "rank 0, step 0: 0 sources and 1 destinations (1 to 64, and 1 or 2)",
        ),
        (
            first(reduce(&[input(0..4).of(0), scratch(1..5).of(0)], scratch(2..6).of(0))),
            "rank 0, step 0: 0:scratch[1..5] overlaps 0:scratch[2..6] in one step",
        ),
        (
            first(Step::Put { from: input(0..4), to: output(0..4).of(1), signal: false }),
            "rank 0, step 0: rank 1 is never signalled after this put",
        ),
        (
            check(&send([vec![wait(1), put(input(0..4), output(0..4).of(1))], vec![wait(0), signal(0)]])).unwrap_err(),
            "rank 0 stays at step 0: waits for a signal of rank 1, which at step 0 waits for a signal of rank 0",
        ),
        (
            check(&send([vec![put(input(0..4), output(0..4).of(1)), signal(1)], vec![wait(0)]])).unwrap_err(),
            "1 signal from rank 0 to rank 1 is or are never waited for",
        ),
        (
            check(&send([vec![], vec![copy(scratch(0..4).of(1), output(0..4))]])).unwrap_err(),
            "rank 1, step 0: reads 1:scratch[0..4], where nothing was written",
        ),
        (
            check(&send([
                vec![put(input(0..4), scratch(0..4).of(1))],
                vec![copy(scratch(0..4).of(1), output(0..4)), wait(0)],
            ]))
            .unwrap_err(),
            "rank 1, step 0: reads 1:scratch[0..4], and nothing puts the write of rank 0, step 0, before it",
        ),
        (
            check(&send([vec![Step::Expose { to: 1 }], meet(vec![copy(input(0..4).of(0), output(0..4))])]))
                .unwrap_err(),
            "rank 0 may have ended when rank 1, step 1, reads 0:input[0..4]",
        ),
        (
            check(&send([vec![put(input(0..3), output(0..3).of(1))], vec![wait(0)]])).unwrap_err(),
            "1:output[3..4] is never written",
        ),
        (
            check(&send([
                vec![put(input(1..4), output(0..3).of(1)), put(input(3..4), output(3..4).of(1))],
                vec![wait(0), wait(0)],
            ]))
            .unwrap_err(),
            "1:output[0..3] holds input 0[1] and not input 0[0]",
        ),
        (
            check(&differs).unwrap_err(),
            "0:output[0..4] holds ((input 0[0] + input 1[0]) + input 2[0]), and ((input 1[0] + input 2[0]) + input 0[0]) \
             at rank 2: the order differs, and so may the bits",
        ),
        (
            check(&plan(Collective::Barrier, vec![vec![signal(1)], vec![wait(0)]])).unwrap_err(),
            "rank 0 may end before rank 1 begins",
        ),
    ]
}

#[test]
fn each_refusal_says_what_is_wrong() {
    let mut names = BTreeSet::new();
    for (refusal, words) in refusals() {
        assert_eq!(refusal.to_string(), words);
        names.insert(name(&refusal));
    }
    assert_eq!(names.len(), 24, "{names:?}");
}

#[test]
fn huge_numbers_are_refused_and_not_wrapped_around() {
    let huge = Slice { buffer: Buffer::Input, start: usize::MAX, len: 2 };
    let outside = Refusal::Outside { rank: 0, step: 0, place: huge.of(0), len: 4 };
    assert_eq!(first(copy(huge.of(0), scratch(0..2))), outside);
    let mut plan = send([vec![], vec![]]);
    plan.scratch = usize::MAX;
    let scratch = Refusal::Scratch { elements: usize::MAX, needed: usize::MAX, available: 64 };
    assert_eq!(check(&plan), Err(scratch));
    plan.collective = Collective::AllToAll { counts: vec![vec![usize::MAX; 2]; 2] };
    assert!(matches!(check(&plan), Err(Refusal::Malformed { .. })));
    plan.collective = Collective::AllReduce { count: usize::MAX / 4 };
    assert!(matches!(check(&plan), Err(Refusal::Malformed { .. })));
    plan.collective = Collective::Reduce { root: 2, count: 1 };
    assert!(matches!(check(&plan), Err(Refusal::Malformed { .. })));
    plan.programs = vec![vec![]; 65];
    assert!(matches!(check(&plan), Err(Refusal::Malformed { .. })));
    plan.programs.clear();
    assert!(matches!(check(&plan), Err(Refusal::Malformed { .. })));
}

#[test]
fn a_put_shows_only_after_a_signal_that_follows_it() {
    let early = |signals_first: bool| {
        let mut sender = vec![signal(1), Step::Put { from: input(0..4), to: output(0..4).of(1), signal: false }];
        if !signals_first {
            sender.swap(0, 1);
        }
        sender.push(signal(1));
        // The receiver hands the output on to itself after its first wait.
        send([sender, vec![wait(0), copy(output(0..4).of(1), scratch(0..4)), wait(0)]])
    };
    assert!(matches!(check(&early(true)), Err(Refusal::Race { rank: 1, step: 1, other: 0, other_step: 1, .. })));
    assert_eq!(check(&early(false)), Ok(None));
}

#[test]
fn the_source_of_a_put_rests_until_the_receiver_is_known_to_have_it() {
    let reuse = |answered: bool| {
        let mut sender = vec![
            copy(input(0..2).of(0), scratch(0..2)),
            put(scratch(0..2), output(0..2).of(1)),
            copy(input(2..4).of(0), scratch(0..2)),
            put(scratch(0..2), output(2..4).of(1)),
        ];
        let mut receiver = vec![wait(0), wait(0)];
        if answered {
            sender.insert(2, wait(1));
            receiver.insert(1, signal(0));
        }
        send([sender, receiver])
    };
    let race = check(&reuse(false)).unwrap_err();
    assert_eq!(
        race.to_string(),
        "rank 0, step 2: writes 0:scratch[0..2], and nothing puts the read of rank 0, step 1, before it"
    );
    assert_eq!(check(&reuse(true)), Ok(None));
}

#[test]
fn what_is_known_of_a_read_stays_known() {
    let mut plan =
        send([vec![copy(input(0..4).of(0), scratch(0..4)), put(scratch(0..4), output(0..4).of(1))], vec![wait(0)]]);
    assert_eq!(check(&plan), Ok(None));
    // Neither a later read nor a write to a part of it makes the put forgotten.
    plan.programs[0].push(copy(scratch(0..4).of(0), scratch(4..8)));
    assert_eq!(check(&plan), Ok(None));
    for part in [0..1, 1..3, 2..4, 0..4] {
        let mut overwritten = plan.clone();
        overwritten.programs[0].push(copy(input(part.clone()).of(0), scratch(part.clone())));
        let place = scratch(part).of(0);
        let race =
            Refusal::Race { rank: 0, step: 3, what: "writes", place, before: "the read", other: 0, other_step: 1 };
        assert_eq!(check(&overwritten), Err(race));
    }
}

#[test]
fn later_puts_do_not_push_earlier_ones_aside() {
    let twice = |step: Step| {
        send([
            vec![put(input(0..4), output(0..4).of(1)), step, put(input(0..4), output(0..4).of(1))],
            vec![wait(0), signal(0), wait(0)],
        ])
    };
    assert_eq!(check(&twice(wait(1))), Ok(None));
    let mut unordered = twice(wait(1));
    unordered.programs[0].swap(1, 2);
    assert!(matches!(check(&unordered), Err(Refusal::Race { rank: 0, step: 1, what: "writes", .. })));
}

#[test]
fn only_one_flat_reduction_is_in_rank_order() {
    let three = |flat: bool, at: Rank| {
        let source =
            |from: Rank| if from == at { input(0..4).of(at) } else { Slice::new(Buffer::Packet(from), 0..4).of(at) };
        let others = (0..3).filter(|&peer| peer != at);
        let mut steps: Vec<Step> = others.clone().map(|to| Step::Packet { from: input(0..4), to }).collect();
        steps.extend(others.map(|from| Step::WaitPacket { from }));
        if flat {
            steps.push(reduce(&[source(0), source(1), source(2)], output(0..4).of(at)));
        } else {
            steps.push(reduce(&[source(0), source(1)], output(0..4).of(at)));
            steps.push(reduce(&[output(0..4).of(at), source(2)], output(0..4).of(at)));
        }
        steps
    };
    let plan = |flat| all_reduce((0..3).map(|at| three(flat, at)).collect());
    assert_eq!(check(&plan(true)), Ok(Some(Guarantee::RankOrder)));
    assert_eq!(check(&plan(false)), Ok(Some(Guarantee::Identical)));
    // A source that is there twice; and twice instead of another.
    let mut double = plan(true);
    for program in &mut double.programs {
        if let Some(Step::Reduce { from: sources, .. }) = program.last_mut() {
            sources.push(sources[1]);
        }
    }
    assert!(matches!(check(&double), Err(Refusal::Value { .. })));
    for (from, to) in [(1, 2), (2, 1)] {
        let mut wrong = plan(true);
        for program in &mut wrong.programs {
            if let Some(Step::Reduce { from: sources, .. }) = program.last_mut() {
                sources[to] = sources[from];
            }
        }
        assert!(matches!(check(&wrong), Err(Refusal::Value { .. })));
    }
}

#[test]
fn what_reach_does_not_allow_is_refused() {
    let bare = |plan: &Plan| verify(plan, &Layout::single(2, Reach::default(), 64)).map(|_| ());
    let unreachable = |plan: &Plan| assert!(matches!(bare(plan), Err(Refusal::Unreachable { .. })), "{:?}", bare(plan));
    unreachable(&send([vec![put(input(0..4), output(0..4).of(1))], vec![wait(0)]]));
    unreachable(&send([
        vec![copy(input(0..4).of(0), scratch(0..4)), signal(1)],
        vec![wait(0), copy(scratch(0..4).of(0), output(0..4))],
    ]));
    for step in [Step::Expose { to: 1 }, Step::Packet { from: input(0..1), to: 1 }, Step::Meet { from: 1 }] {
        assert!(matches!(bare(&send([vec![step], vec![]])), Err(Refusal::Channel { .. })));
    }
    let pull =
        |step: Step| send([vec![Step::Expose { to: 1 }, wait(1)], vec![Step::Meet { from: 0 }, step, signal(0)]]);
    let copied = pull(copy(input(0..4).of(0), output(0..4)));
    let reduced = pull(reduce(&[input(0..4).of(0)], output(0..4).of(1)));
    for (reach, plan, other) in [
        (Reach { copy_user: true, ..Reach::default() }, &copied, &reduced),
        (Reach { reduce_user: true, ..Reach::default() }, &reduced, &copied),
    ] {
        let layout = Layout::single(2, reach, 64);
        assert_eq!(verify(plan, &layout).map(|proof| proof.guarantee), Ok(None));
        assert!(matches!(verify(other, &layout), Err(Refusal::Unreachable { .. })));
    }
    let put =
        send([vec![put(input(0..4), scratch(0..4).of(1))], vec![wait(0), copy(scratch(0..4).of(1), output(0..4))]]);
    assert_eq!(bare(&put), Ok(()));
    // Reach between hosts is another one.
    let layout = Layout { hosts: vec![3, 5], near: ALL, far: Reach::default(), scratch_bytes: 64 };
    assert!(matches!(verify(&copied, &layout), Err(Refusal::Channel { .. })));
}

#[test]
fn a_proof_counts_steps_bytes_and_the_longest_chain() {
    let plan = send([
        vec![put(input(0..4), scratch(0..4).of(1)), wait(1)],
        vec![wait(0), copy(scratch(0..4).of(1), output(0..4)), signal(0)],
    ]);
    let proof = verify(&plan, &Layout::single(2, ALL, 64)).unwrap();
    assert_eq!((proof.steps, proof.bytes_moved, proof.depth), (5, vec![16, 0], 2));
    assert_eq!(proof.guarantee, None);
}

#[test]
fn one_rank_is_a_copy() {
    let one = plan(Collective::AllReduce { count: 4 }, vec![vec![copy(input(0..4).of(0), output(0..4))]]);
    assert_eq!(check(&one), Ok(Some(Guarantee::RankOrder)));
}
