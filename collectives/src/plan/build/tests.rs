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
        rounds: *[4, 16, 256].choose(rng).unwrap(),
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
    for case in 0..6000 {
        let ranks = if case % 50 == 0 { rng.random_range(18..=64) } else { rng.random_range(1..=17) };
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
            let least = collective.reduces().then_some(promised(algorithm));
            assert!(proof.guarantee >= least, "{algorithm:?} {collective:?}: {proof:?}");
            *built.entry((algorithm.name(), collective.name())).or_default() += 1;
            steps += proof.steps;
        }
    }
    assert!(steps > 1_000_000, "{steps}");
    println!("{steps} steps, {built:?}");
}

fn two(collective: &Collective, algorithm: Algorithm, reach: &str) -> Plan {
    let reach = REACHES.iter().find(|(name, _)| *name == reach).unwrap().1;
    let layout = Layout::single(2, reach, 1 << 20);
    let plan = build(collective, algorithm, &layout, 4, &Tuning::default()).unwrap();
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
