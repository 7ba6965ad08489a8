//! What a storm does: groups and cases from a seed.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use swarmloom_kernels::Dtype;
use swarmloom_kernels::reduce::ReduceOp;

use crate::execute::Streaming;
use crate::fabric::simulated;
use crate::plan::build::Tuning;
use crate::plan::{Collective, Reach};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Shm,
    Tcp,
    /// Ranks that believe to be on several hosts: shared memory inside, TCP between.
    Hosts,
    Ofi,
    Simulated,
}

/// A group, and how many cases it lives for.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) over: Over,
    /// By rank.
    pub(super) hosts: Vec<usize>,
    pub(super) scratch_bytes: usize,
    pub(super) connections: usize,
    pub(super) options: simulated::Options,
    pub(super) cases: usize,
}

impl World {
    pub(super) fn draw(over: Over, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let random = &mut random;
        let ranks = match (over, random.random_range(0..100)) {
            (Over::Shm | Over::Simulated, 0..4) => random.random_range(17..=64),
            (Over::Ofi, _) => random.random_range(2..=4),
            (_, 0..6) => 1,
            (_, 6..74) => random.random_range(2..=5),
            _ => random.random_range(6..=16),
        };
        let most = random.random_range(1..=ranks);
        let hosts = match over {
            Over::Hosts | Over::Simulated => (0..ranks).map(|_| random.random_range(0..most)).collect(),
            _ => vec![0; ranks],
        };
        let scratch_bytes = 1 << [12, 12, 14, 14, 16, 16, 18, 20].choose(random).expect("some");
        let reach = Reach {
            load_scratch: random.random_bool(0.5),
            copy_user: random.random_bool(0.5),
            reduce_user: random.random_bool(0.5),
            put_output: random.random_bool(0.5),
            packet_bytes: *[0, 8, 64, 104, 1000].choose(random).expect("some"),
        };
        let (reorder, delay, ghosts) = (random.random(), random.random(), random.random());
        let options = simulated::Options { reach, scratch_bytes, reorder, delay, ghosts, tear_after: None };
        let cases = match ranks {
            0..=5 => 100,
            6..=16 => 40,
            _ => 8,
        };
        Self { seed, over, hosts, scratch_bytes, connections: random.random_range(1..=3), options, cases }
    }

    pub(super) fn ranks(&self) -> usize {
        self.hosts.len()
    }

    /// The cases, one after the other, the same for every rank.
    pub(super) fn cases(&self) -> impl Iterator<Item = Case> + use<'_> {
        let mut random = ChaCha8Rng::seed_from_u64(!self.seed);
        (0..self.cases).map(move |_| Case::draw(&mut random, self))
    }
}

/// Where input and output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    Slices,
    /// The same slice.
    InPlace,
    /// Parts of regions.
    Registered,
}

/// A collective that is run.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) collective: Collective,
    pub(super) dtype: Dtype,
    pub(super) op: ReduceOp,
    /// Which of the algorithms that are possible, modulo their number; without it, the group chooses.
    pub(super) algorithm: Option<usize>,
    pub(super) tuning: Tuning,
    pub(super) streaming: Option<Streaming>,
    pub(super) memory: Memory,
    /// Elements before the input and before the output: neither begins where vectors like to.
    pub(super) lead: [usize; 2],
    pub(super) repeats: usize,
    pub(super) special: bool,
    pub(super) seed: u64,
}

impl Case {
    fn draw(random: &mut ChaCha8Rng, world: &World) -> Self {
        let dtype = *Dtype::ALL.choose(random).expect("some");
        let tuning = Tuning {
            chunk_bytes: *[64, 256, 1024, 65536].choose(random).expect("some"),
            ahead: random.random_range(0..4),
            rounds: *[4, 16, 64].choose(random).expect("some"),
            direct_two_shot_bytes: *[0, 1000, 1 << 20].choose(random).expect("some"),
            cache_bytes: *[64, 1000, 1 << 20].choose(random).expect("some"),
        };
        let collective = collective(random, world, dtype.size(), &tuning);
        let from = |random: &mut ChaCha8Rng| if random.random() { 0 } else { usize::MAX };
        let (output_from, scratch_from) = (from(random), from(random));
        let streaming = Streaming { output_from, scratch_from, wander: random.random() };
        let in_place = matches!(collective, Collective::AllReduce { .. }) && world.over != Over::Simulated;
        let memory = match random.random_range(0..10) {
            0..2 if in_place => Memory::InPlace,
            0..6 => Memory::Slices,
            _ => Memory::Registered,
        };
        Self {
            collective,
            dtype,
            op: *ReduceOp::ALL.choose(random).expect("some"),
            algorithm: random.random_bool(0.85).then(|| random.random_range(0..64)),
            tuning,
            streaming: random.random_bool(0.7).then_some(streaming),
            memory,
            lead: [random.random_range(0..4), random.random_range(0..4)],
            repeats: if random.random_range(0..20) == 0 { 30 } else { random.random_range(1..3) },
            special: random.random_range(0..4) == 0,
            seed: random.random(),
        }
    }
}

/// Mostly small; often at an edge: of vectors, packets, chunks and scratch.
fn count(random: &mut ChaCha8Rng, world: &World, size: usize, tuning: &Tuning) -> usize {
    let (ranks, scratch) = (world.ranks(), world.scratch_bytes);
    let most = match ranks {
        17.. => 300,
        // A plan has a step for each chunk that fits, between any two.
        _ => 300_000.min(1_200_000 / ranks).min(scratch * 64 / size / ranks),
    };
    let drawn = match random.random_range(0..40) {
        0..10 => {
            let edges = [0, 8, 16, 32, 64, 128, ranks, 64 / size, 104 / size, 4096 / size, tuning.chunk_bytes / size];
            let halves = [scratch / size, scratch / size / ranks, 2 * scratch / size];
            let edge = edges.iter().chain(&halves).copied().collect::<Vec<_>>();
            (edge.choose(random).expect("some") + random.random_range(0..3)).saturating_sub(1)
        }
        10..24 => random.random_range(0..40),
        24..35 => random.random_range(0..3000),
        35..39 => random.random_range(0..30_000),
        _ => random.random_range(0..300_000),
    };
    drawn.min(most)
}

/// So many elements in parts: even, uneven, all in one.
fn parts(random: &mut ChaCha8Rng, total: usize, ranks: usize) -> Vec<usize> {
    match random.random_range(0..4) {
        0 => vec![total / ranks; ranks],
        1 => {
            let one = random.random_range(0..ranks);
            (0..ranks).map(|rank| if rank == one { total } else { 0 }).collect()
        }
        _ => {
            let mut cuts: Vec<usize> = (1..ranks).map(|_| random.random_range(0..=total)).collect();
            cuts.extend([0, total]);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
        }
    }
}

fn collective(random: &mut ChaCha8Rng, world: &World, size: usize, tuning: &Tuning) -> Collective {
    let ranks = world.ranks();
    let count = count(random, world, size, tuning);
    let (one, other) = (random.random_range(0..ranks), random.random_range(1..ranks.max(2)));
    match random.random_range(0..12) {
        4 | 5 => Collective::ReduceScatter { parts: parts(random, count, ranks) },
        6 => Collective::AllGather { parts: parts(random, count, ranks) },
        7 => Collective::Broadcast { root: one, count },
        8 => Collective::Reduce { root: one, count },
        9 => Collective::AllToAll { counts: (0..ranks).map(|_| parts(random, count / ranks, ranks)).collect() },
        10 if ranks > 1 => Collective::Send { from: one, to: (one + other) % ranks, count },
        11 => Collective::Barrier,
        _ => Collective::AllReduce { count },
    }
}
