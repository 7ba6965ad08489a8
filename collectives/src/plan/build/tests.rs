//! Every plan that is built is proved; small ones are what they should be, step by step.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{BuildError, Tuning, algorithms, build};
use crate::plan::verify::verify;
use crate::plan::{Algorithm, Buffer, Collective, Guarantee, Layout, Plan, Reach, Slice, Step};

/// What the transports of this crate can do, and some that it does not have.
pub(in crate::plan) const REACHES: [(&str, Reach); 7] = [
    ("bare", Reach { load_scratch: false, copy_user: false, reduce_user: false, put_output: false, packet_bytes: 0 }),
    ("shm", Reach { load_scratch: true, copy_user: false, reduce_user: false, put_output: false, packet_bytes: 56 }),
    (
        "single-copy",
        Reach { load_scratch: true, copy_user: true, reduce_user: false, put_output: false, packet_bytes: 56 },
    ),
    (
        "registered",
        Reach { load_scratch: true, copy_user: true, reduce_user: true, put_output: false, packet_bytes: 56 },
    ),
    ("tcp", Reach { load_scratch: false, copy_user: false, reduce_user: false, put_output: true, packet_bytes: 256 }),
    ("all", Reach { load_scratch: true, copy_user: true, reduce_user: true, put_output: true, packet_bytes: 1024 }),
    ("reduce", Reach { load_scratch: false, copy_user: false, reduce_user: true, put_output: false, packet_bytes: 0 }),
];

pub(in crate::plan) fn random_layout(rng: &mut ChaCha8Rng, ranks: usize) -> Layout {
    let (_, near) = *REACHES.choose(rng).unwrap();
    let (_, far) = *REACHES.choose(rng).unwrap();
    let hosts = rng.random_range(1..=4);
    let scratch_bytes = match rng.random_range(0..6) {
        0 => rng.random_range(0..4096),
        1 => rng.random_range(4096..65536),
        _ => 1 << 22,
    };
    Layout { hosts: (0..ranks).map(|_| rng.random_range(0..hosts)).collect(), near, far, scratch_bytes }
}

fn random_count(rng: &mut ChaCha8Rng) -> usize {
    match rng.random_range(0..8) {
        0 => 0,
        1 => 1,
        2..5 => rng.random_range(1..40),
        5..7 => rng.random_range(1..3000),
        _ => rng.random_range(1..40_000),
    }
}

pub(in crate::plan) fn random_collective(rng: &mut ChaCha8Rng, ranks: usize) -> Collective {
    let count = random_count(rng);
    let most = count / ranks + 1;
    let part = |rng: &mut ChaCha8Rng| if rng.random_range(0..4) == 0 { 0 } else { rng.random_range(0..=most) };
    let parts = |rng: &mut ChaCha8Rng| (0..ranks).map(|_| part(rng)).collect::<Vec<_>>();
    match rng.random_range(0..8) {
        0 => Collective::AllReduce { count },
        1 => Collective::ReduceScatter { parts: parts(rng) },
        2 => Collective::AllGather { parts: parts(rng) },
        3 => Collective::Broadcast { root: rng.random_range(0..ranks), count },
        4 => Collective::Reduce { root: rng.random_range(0..ranks), count },
        5 => Collective::AllToAll { counts: (0..ranks).map(|_| parts(rng)).collect() },
        6 => Collective::Barrier,
        _ => Collective::Send { from: rng.random_range(0..ranks), to: rng.random_range(0..ranks), count },
    }
}

pub(in crate::plan) fn random_tuning(rng: &mut ChaCha8Rng) -> Tuning {
    Tuning {
        chunk_bytes: *[64, 256, 1024, 65536].choose(rng).unwrap(),
        ahead: rng.random_range(0..4),
        rounds: *[4, 16, 64].choose(rng).unwrap(),
        direct_two_shot_bytes: *[0, 1000, 1 << 20].choose(rng).unwrap(),
        cache_bytes: *[64, 1000, 1 << 20].choose(rng).unwrap(),
    }
}

/// What each algorithm promises where it reduces among several ranks.
fn promised(algorithm: Algorithm) -> Guarantee {
    match algorithm {
        Algorithm::Ring | Algorithm::HalvingDoubling | Algorithm::Hierarchical => Guarantee::Identical,
        _ => Guarantee::RankOrder,
    }
}

#[test]
fn every_plan_is_proved() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut built: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut steps = 0;
    for case in 0..2500 {
        let ranks = if case % 100 == 0 { rng.random_range(18..=64) } else { rng.random_range(1..=17) };
        let layout = random_layout(&mut rng, ranks);
        let collective = random_collective(&mut rng, ranks);
        let tuning = random_tuning(&mut rng);
        let element_bytes = *[1, 2, 4, 8, 12].choose(&mut rng).unwrap();
        for algorithm in Algorithm::ALL {
            let plan = match build(&collective, algorithm, &layout, element_bytes, &tuning) {
                Ok(plan) => plan,
                Err(BuildError::Malformed { why, .. }) => panic!("{why}"),
                Err(_) => continue,
            };
            let proof = verify(&plan, &layout)
                .unwrap_or_else(|why| panic!("{algorithm:?} {collective:?} {layout:?} {tuning:?}: {why}"));
            for slice in plan.programs.iter().flatten().flat_map(scratch) {
                assert_eq!(slice.start * element_bytes % 64, 0, "{algorithm:?} {collective:?} {slice}");
            }
            let least = collective.reduces().then_some(promised(algorithm));
            assert!(proof.guarantee >= least, "{algorithm:?} {collective:?}: {proof:?}");
            *built.entry((algorithm.name(), collective.name())).or_default() += 1;
            steps += proof.steps;
        }
    }
    assert!(steps > 1_000_000, "{steps}");
    println!("{steps} steps, {built:?}");
}

/// The slices of scratch that a step names.
fn scratch(step: &Step) -> Vec<Slice> {
    let all = match step {
        Step::Put { from, to, .. } => vec![*from, to.slice],
        Step::Copy { from, to } => vec![from.slice, *to],
        Step::Reduce { from, to } => from.iter().chain(to).map(|place| place.slice).collect(),
        _ => Vec::new(),
    };
    all.into_iter().filter(|slice| slice.buffer == Buffer::Scratch).collect()
}

/// The defaults may change with what is measured; what these tests say does not.
const TUNING: Tuning =
    Tuning { chunk_bytes: 64 << 10, ahead: 2, rounds: 256, direct_two_shot_bytes: 32 << 10, cache_bytes: 128 << 10 };

fn two(collective: &Collective, algorithm: Algorithm, reach: &str) -> Plan {
    let reach = REACHES.iter().find(|(name, _)| *name == reach).unwrap().1;
    let layout = Layout::single(2, reach, 1 << 20);
    let plan = build(collective, algorithm, &layout, 4, &TUNING).unwrap();
    verify(&plan, &layout).unwrap();
    plan
}

fn slice(buffer: Buffer, len: usize) -> Slice {
    Slice::new(buffer, 0..len)
}

#[test]
fn two_ranks_do_nothing_superfluous() {
    let small = Collective::AllReduce { count: 10 };
    let input = slice(Buffer::Input, 10);
    let output = slice(Buffer::Output, 10);
    let scratch = slice(Buffer::Scratch, 10);
    for rank in 0..2 {
        let other = 1 - rank;
        let ordered = |mine: Slice, theirs: Slice, at: usize| {
            let mut from = vec![mine.of(rank), theirs.of(at)];
            if rank == 1 {
                from.reverse();
            }
            Step::Reduce { from, to: vec![output.of(rank)] }
        };
        let packet = two(&small, Algorithm::Packet, "shm");
        assert_eq!(
            packet.programs[rank],
            [
                Step::Packet { from: input, to: other },
                Step::WaitPacket { from: other },
                ordered(input, slice(Buffer::Packet(other), 10), rank),
            ]
        );
        let one_shot = two(&small, Algorithm::OneShot, "shm");
        assert_eq!(
            one_shot.programs[rank],
            [
                Step::Copy { from: input.of(rank), to: scratch },
                Step::Signal { to: other },
                Step::Wait { from: other },
                ordered(input, scratch, other),
            ]
        );
        let one_shot = two(&small, Algorithm::OneShot, "tcp");
        assert_eq!(
            one_shot.programs[rank],
            [
                Step::Put { from: input, to: scratch.of(other), signal: true },
                Step::Wait { from: other },
                ordered(input, scratch, rank),
            ]
        );
        let direct = two(&small, Algorithm::Direct, "registered");
        assert_eq!(
            direct.programs[rank],
            [
                Step::Expose { to: other },
                Step::Meet { from: other },
                ordered(input, input, other),
                Step::Signal { to: other },
                Step::Wait { from: other },
            ]
        );
    }
    let kinds = |plan: &Plan| {
        let kind = |step: &Step| step.to_string().split(' ').next().unwrap_or_default().to_owned();
        plan.programs[0].iter().map(kind).collect::<Vec<_>>().join(" ")
    };
    let large = Collective::AllReduce { count: 16_000 };
    assert_eq!(kinds(&two(&large, Algorithm::TwoShot, "shm")), "copy signal wait reduce signal wait copy");
    assert_eq!(kinds(&two(&large, Algorithm::TwoShot, "tcp")), "put wait reduce put wait");
    assert_eq!(kinds(&two(&large, Algorithm::Ring, "tcp")), "put wait reduce put wait");
    assert_eq!(kinds(&two(&large, Algorithm::Direct, "registered")), "expose meet reduce signal wait");
    assert_eq!(
        kinds(&two(&large, Algorithm::Direct, "single-copy")),
        "expose meet copy reduce signal wait copy signal wait"
    );
}

fn reach(name: &str) -> Reach {
    REACHES.iter().find(|(it, _)| *it == name).unwrap().1
}

#[test]
fn the_possible_algorithms_are_those_that_can_be_built() {
    let names = |layout: &Layout, collective: &Collective| {
        let all = algorithms(collective, layout, 4);
        for algorithm in Algorithm::ALL {
            let built = build(collective, algorithm, layout, 4, &Tuning::default());
            assert_eq!(built.is_ok(), all.contains(&algorithm), "{algorithm:?} {collective:?}");
        }
        all.into_iter().map(Algorithm::name).collect::<Vec<_>>().join(" ")
    };
    let small = Collective::AllReduce { count: 14 };
    let large = Collective::AllReduce { count: 15 };
    let shm = Layout::single(4, reach("shm"), 1 << 16);
    assert_eq!(names(&shm, &small), "packet one-shot two-shot ring halving-doubling");
    assert_eq!(names(&shm, &large), "one-shot two-shot ring halving-doubling");
    assert_eq!(names(&shm, &Collective::AllToAll { counts: vec![vec![5; 4]; 4] }), "packet one-shot");
    assert_eq!(names(&shm, &Collective::Barrier), "packet one-shot halving-doubling");
    assert_eq!(names(&shm, &Collective::Broadcast { root: 2, count: 99 }), "one-shot halving-doubling");
    let registered = Layout::single(4, reach("registered"), 1 << 16);
    assert_eq!(names(&registered, &Collective::AllGather { parts: vec![99; 4] }), "one-shot ring direct");
    let two = Layout { hosts: vec![0, 0, 1, 1], near: reach("shm"), far: reach("tcp"), scratch_bytes: 1 << 16 };
    assert_eq!(names(&two, &Collective::ReduceScatter { parts: vec![99; 4] }), "one-shot ring hierarchical");
    assert_eq!(
        names(&two, &Collective::Reduce { root: 3, count: 99 }),
        "one-shot two-shot halving-doubling hierarchical"
    );
    // A put that needs no scratch is possible without.
    let none = Layout::single(4, reach("tcp"), 0);
    assert_eq!(names(&none, &Collective::AllGather { parts: vec![99; 4] }), "one-shot");
}

#[test]
fn what_cannot_be_built_says_why() {
    let layout = Layout::single(2, reach("shm"), 100);
    let why = |collective: &Collective, algorithm, tuning: &Tuning| {
        build(collective, algorithm, &layout, 4, tuning).unwrap_err().to_string()
    };
    let tuning = TUNING;
    let large = Collective::AllReduce { count: 1 << 20 };
    for (collective, algorithm, words) in [
        (
            &large,
            Algorithm::Packet,
            "all_reduce by packet is not possible: what one rank has for another is too large for a packet",
        ),
        (&large, Algorithm::Direct, "all_reduce by direct is not possible: not everybody's memory can be reached"),
        (&large, Algorithm::Hierarchical, "all_reduce by hierarchical is not possible: there is one host only"),
        (&large, Algorithm::TwoShot, "all_reduce by two-shot needs 128 bytes of scratch at least, and there are 100"),
        (
            &Collective::Barrier,
            Algorithm::Ring,
            "barrier by ring is not possible: it is for all-reduce, reduce-scatter and all-gather",
        ),
        (
            &Collective::Broadcast { root: 2, count: 1 },
            Algorithm::OneShot,
            "broadcast of 2 ranks makes no sense: there is no rank 2",
        ),
    ] {
        assert_eq!(why(collective, algorithm, &tuning), words);
    }
    let huge = Collective::AllReduce { count: 1 << 28 };
    assert_eq!(
        why(&huge, Algorithm::OneShot, &tuning),
        "all_reduce by one-shot takes 16777216 rounds with so little scratch"
    );
}

#[test]
fn chunks_are_sent_before_the_first_is_waited_for() {
    let count = 64 * 20;
    let tuning = Tuning { chunk_bytes: 256, ahead: 2, ..TUNING };
    let layout = Layout::single(2, reach("shm"), 6 * 256);
    let plan = build(&Collective::AllReduce { count }, Algorithm::OneShot, &layout, 4, &tuning).unwrap();
    let program = &plan.programs[0];
    let is_signal = |step: &&Step| matches!(step, Step::Signal { .. });
    let first_wait = program.iter().position(|step| matches!(step, Step::Wait { .. })).unwrap();
    assert_eq!(program[..first_wait].iter().filter(is_signal).count(), 3);
    // Twenty chunks through six cells: what comes back shows that a cell is free, so that there are no other signals.
    assert_eq!(plan.scratch, 6 * 64);
    assert_eq!(program.iter().filter(is_signal).count(), 20);
    assert_eq!(program.len(), 4 * 20);
    // Where a signal would only say what the next one says too, it is left out: two a chunk would be forty.
    let layout = Layout::single(2, reach("shm"), 1 << 20);
    let plan_two = build(&Collective::AllReduce { count: 2 * count }, Algorithm::TwoShot, &layout, 4, &tuning).unwrap();
    let signals = plan_two.programs[0].iter().filter(is_signal).count();
    assert_eq!((signals, plan_two.programs[0].len()), (22, 3 * 20 + 2 * 22));
    let twice = |pair: &[Step]| matches!(pair[0], Step::Wait { .. }) && pair[0] == pair[1];
    assert!(!plan_two.programs[0].windows(2).any(twice));
    // Where nothing comes back, it takes some more; but not one for each chunk.
    let plan = build(&Collective::Broadcast { root: 0, count }, Algorithm::OneShot, &layout, 4, &tuning).unwrap();
    let back = plan.programs[1].iter().filter(is_signal).count();
    assert!((2..=10).contains(&back), "{back}");
}

#[test]
fn nothing_moves_more_often_than_the_algorithm_has_to() {
    let (ranks, count) = (4, 4096);
    let bytes = 4 * count as u64;
    let moved = |algorithm, name: &str| {
        let layout = Layout::single(ranks, reach(name), 1 << 20);
        let plan = build(&Collective::AllReduce { count }, algorithm, &layout, 4, &TUNING).unwrap();
        let proof = verify(&plan, &layout).unwrap();
        assert!(proof.bytes_moved.iter().all(|moved| *moved == proof.bytes_moved[0]), "{algorithm:?}: {proof:?}");
        (proof.bytes_moved[0], proof.depth)
    };
    // Twice (n - 1) / n of the input is the least there can be; one shot takes one step and n - 1 inputs instead.
    let least = bytes * 3 / 2;
    for name in ["shm", "tcp", "bare"] {
        assert_eq!(moved(Algorithm::OneShot, name), (3 * bytes, 1), "{name}");
        assert_eq!(moved(Algorithm::TwoShot, name), (least, 2), "{name}");
        assert_eq!(moved(Algorithm::Ring, name), (least, 6), "{name}");
        assert_eq!(moved(Algorithm::HalvingDoubling, name), (least, 4), "{name}");
    }
    assert_eq!(moved(Algorithm::Direct, "single-copy").0, 3 * bytes);
    // Of two ranks each reduces a half, the lower rank's input first.
    let pair = two(&Collective::AllReduce { count }, Algorithm::HalvingDoubling, "tcp");
    let proof = verify(&pair, &Layout::single(2, reach("tcp"), 1 << 20)).unwrap();
    assert_eq!((proof.bytes_moved[0], proof.guarantee), (bytes, Some(Guarantee::RankOrder)));
    let tuning = Tuning { direct_two_shot_bytes: 0, ..TUNING };
    let layout = Layout::single(ranks, reach("registered"), 0);
    let plan = build(&Collective::AllReduce { count }, Algorithm::Direct, &layout, 4, &tuning).unwrap();
    assert_eq!((verify(&plan, &layout).unwrap().bytes_moved[0], plan.scratch), (least, 0));
}

#[test]
fn between_hosts_each_element_goes_once() {
    for (hosts, times) in [(vec![0, 0, 0, 0, 1, 1, 1, 1], 1), (vec![0, 1, 0, 2, 1, 2, 2], 2)] {
        let far = hosts.iter().collect::<std::collections::BTreeSet<_>>().len();
        let layout = Layout { hosts, near: reach("shm"), far: reach("tcp"), scratch_bytes: 1 << 20 };
        let count = 16 << 10;
        let tuning = Tuning { chunk_bytes: 4096, ..TUNING };
        let plan = build(&Collective::AllReduce { count }, Algorithm::Hierarchical, &layout, 4, &tuning).unwrap();
        let sent = |(rank, step): (usize, &Step)| match step {
            Step::Put { from, to, .. } if layout.hosts[rank] != layout.hosts[to.rank] => from.len,
            _ => 0,
        };
        let steps =
            plan.programs.iter().enumerate().flat_map(|(rank, program)| program.iter().map(move |it| (rank, it)));
        // Reduce-scatter and all-gather between `far` hosts; two of them exchange everything at once.
        assert_eq!(steps.map(sent).sum::<usize>(), 2 * times * count, "{far} hosts");
        let proof = verify(&plan, &layout).unwrap();
        assert_eq!(proof.guarantee, Some(Guarantee::Identical));
    }
}
