//! Groups of threads of this process: every collective, on every transport, against a sequential reference.

use std::net::{Ipv4Addr, TcpListener};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use swarmloom_kernels::reduce::reduce_slices;

use super::*;
use crate::plan::{Algorithm, build};

/// Runs `body` on every rank of a group over the loopback; what each returned.
pub(crate) fn with_group<R: Send>(ranks: usize, config: &GroupConfig, body: impl Fn(Group) -> R + Sync) -> Vec<R> {
    with_groups(&vec![config.clone(); ranks], body)
}

fn with_groups<R: Send>(configs: &[GroupConfig], body: impl Fn(Group) -> R + Sync) -> Vec<R> {
    let ranks = configs.len();
    // Another process may take the port in between: then the rendezvous says so, and the test fails loudly.
    let address =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port");
    std::thread::scope(|scope| {
        let body = &body;
        let begin = |(rank, config): (Rank, &GroupConfig)| {
            let config = config.clone();
            scope.spawn(move || {
                let (token, timeout) = (b"token".to_vec(), Duration::from_secs(20));
                let at = Rendezvous { address, token, rank, ranks, timeout };
                body(Group::join(at, config).expect("a group"))
            })
        };
        let threads: Vec<_> = configs.iter().enumerate().map(begin).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

pub(crate) fn config(transport: Transport) -> GroupConfig {
    GroupConfig {
        transport,
        timeout: Duration::from_secs(20),
        cores: 2,
        scratch_bytes: 1 << 18,
        ..GroupConfig::default()
    }
}

/// A value that no other rank, index or round has, small enough for sums to be exact nowhere.
fn value(rank: Rank, index: usize, round: u64) -> f32 {
    let mut bits = (rank as u64) << 40 ^ (index as u64) << 8 ^ round;
    bits = (bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 32;
    (bits as u32 as f32 / u32::MAX as f32 - 0.5) * 3.0
}

fn input(collective: &Collective, rank: Rank, round: u64) -> Vec<f32> {
    (0..collective.input_len(rank)).map(|index| value(rank, index, round)).collect()
}

/// What the output of `rank` must be, computed one after the other.
pub(crate) fn reference(collective: &Collective, rank: Rank, inputs: &[Vec<f32>], op: ReduceOp) -> Vec<f32> {
    let reduced = || {
        let mut all = vec![0.0; inputs[0].len()];
        reduce_slices(op, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut all);
        all
    };
    match collective {
        Collective::AllReduce { .. } => reduced(),
        Collective::Reduce { root, .. } => {
            if *root == rank {
                reduced()
            } else {
                Vec::new()
            }
        }
        Collective::ReduceScatter { parts } => {
            let start: usize = parts[..rank].iter().sum();
            reduced()[start..start + parts[rank]].to_vec()
        }
        Collective::AllGather { .. } => inputs.concat(),
        Collective::Broadcast { root, .. } => inputs[*root].clone(),
        Collective::AllToAll { counts } => (0..counts.len())
            .flat_map(|from| {
                let start: usize = counts[from][..rank].iter().sum();
                inputs[from][start..start + counts[from][rank]].to_vec()
            })
            .collect(),
        Collective::Barrier => Vec::new(),
        Collective::Send { from, to, .. } => {
            if *to == rank {
                inputs[*from].clone()
            } else {
                Vec::new()
            }
        }
    }
}

fn random_collective(random: &mut ChaCha8Rng, ranks: usize) -> Collective {
    let mut count = || match random.random_range(0..10) {
        0 => 0,
        1..=4 => random.random_range(1..40),
        5..=7 => random.random_range(1..3000),
        8 => random.random_range(1..60_000),
        _ => random.random_range(1..300_000),
    };
    let some = count();
    let parts: Vec<usize> = (0..ranks).map(|_| count() / ranks).collect();
    let counts: Vec<Vec<usize>> = (0..ranks).map(|_| (0..ranks).map(|_| count() / ranks).collect()).collect();
    let (one, other) = (random.random_range(0..ranks), random.random_range(1..ranks));
    match random.random_range(0..11) {
        0..=3 => Collective::AllReduce { count: some },
        4 => Collective::ReduceScatter { parts },
        5 => Collective::AllGather { parts },
        6 => Collective::Broadcast { root: one, count: some },
        7 => Collective::Reduce { root: one, count: some },
        8 => Collective::AllToAll { counts },
        9 => Collective::Send { from: one, to: (one + other) % ranks, count: some },
        _ => Collective::Barrier,
    }
}

/// Random collectives by random algorithms; where an algorithm promises rank order, bit by bit.
fn storm(transport: Transport, ranks: usize, rounds: u64, seed: u64) {
    let name = if transport == Transport::Shm { "shm" } else { "tcp" };
    storm_on(&vec![config(transport); ranks], rounds, seed, name);
}

fn storm_on(configs: &[GroupConfig], rounds: u64, seed: u64, transport: &str) {
    let ranks = configs.len();
    with_groups(configs, |mut group| {
        assert_eq!(group.transport(), transport);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for round in 0..rounds {
            let collective = random_collective(&mut random, ranks);
            let op = *ReduceOp::ALL.choose(&mut random).expect("some");
            let possible = build::algorithms(&collective, &setup::layout_for(group.layout(), false), 4);
            let forced = possible.choose(&mut random).copied();
            let mut selector = group.config.selector.clone();
            selector.forced = forced;
            group.set_selector(selector);
            let inputs: Vec<Vec<f32>> = (0..ranks).map(|rank| input(&collective, rank, round)).collect();
            let mut output = vec![f32::NAN; collective.output_len(group.rank())];
            group
                .run(&collective, &inputs[group.rank()], &mut output, op)
                .unwrap_or_else(|error| panic!("{collective:?} {forced:?}: {error}"));
            let wanted = reference(&collective, group.rank(), &inputs, op);
            let exact = !matches!(forced, Some(Algorithm::Ring | Algorithm::HalvingDoubling | Algorithm::Hierarchical));
            for (index, (got, wanted)) in output.iter().zip(&wanted).enumerate() {
                let same = got.to_bits() == wanted.to_bits()
                    || !exact && (got - wanted).abs() <= 1e-5 * wanted.abs().max(ranks as f32);
                assert!(
                    same,
                    "round {round} rank {} {collective:?} {forced:?} at {index}: {got} {wanted}",
                    group.rank()
                );
            }
        }
    });
}

#[test]
fn every_collective_over_shared_memory() {
    for (ranks, rounds) in [(2, 300), (3, 200), (4, 100), (7, 40)] {
        storm(Transport::Shm, ranks, rounds, ranks as u64);
    }
}

#[test]
fn every_collective_over_tcp() {
    for (ranks, rounds) in [(2, 200), (3, 100), (5, 40)] {
        storm(Transport::Tcp, ranks, rounds, 100 + ranks as u64);
    }
}

#[test]
fn every_collective_over_libfabric() {
    if let Err(fault) = crate::fabric::ofi::probe() {
        println!("skipped: {fault}");
        return;
    }
    let provider = Some("tcp;ofi_rxm".to_owned());
    storm_on(&vec![GroupConfig { provider, ..config(Transport::Ofi) }; 3], 40, 300, "ofi");
}

/// Groups whose ranks believe to be on several hosts: shared memory inside, TCP between.
#[test]
fn every_collective_over_several_hosts() {
    for (hosts, rounds) in [(vec![0, 0, 1, 1], 60), (vec![0, 1, 0], 60), (vec![0, 0, 1, 2, 2], 30)] {
        let ranks = hosts.len();
        let configs: Vec<GroupConfig> = hosts
            .iter()
            .map(|host| GroupConfig { host: Some(format!("host {host}")), ..config(Transport::Auto) })
            .collect();
        storm_on(&configs, rounds, 200 + ranks as u64, "shm+tcp");
    }
}

#[test]
fn registered_memory_gives_the_same_bits() {
    for count in [1, 15, 1000, 70_000, 300_000] {
        with_group(3, &config(Transport::Shm), |mut group| {
            let collective = Collective::AllReduce { count };
            let (from, to) = (group.region(count * 4).expect("memory"), group.region(count * 4).expect("memory"));
            for round in 0..3 {
                let inputs: Vec<Vec<f32>> = (0..3).map(|rank| input(&collective, rank, round)).collect();
                // SAFETY: `count` elements each, used by this rank alone between operations.
                let output = unsafe {
                    from.raw().at.cast::<f32>().copy_from_nonoverlapping(inputs[group.rank()].as_ptr(), count);
                    let done = group.run_raw(&collective, Dtype::F32, ReduceOp::Sum, from.raw(), to.raw(), true);
                    done.expect("reduced");
                    std::slice::from_raw_parts(to.raw().at.cast::<f32>(), count).to_vec()
                };
                assert_eq!(output, reference(&collective, group.rank(), &inputs, ReduceOp::Sum));
            }
        });
    }
}

#[test]
fn a_silent_rank_is_named_within_the_deadline_and_inputs_stay() {
    for transport in [Transport::Shm, Transport::Tcp] {
        let config = GroupConfig { timeout: Duration::from_millis(300), ..config(transport) };
        with_group(3, &config, |mut group| {
            if group.rank() == 2 {
                // It has joined and calls nothing until the others have given up.
                let aborted = group.aborter();
                let began = Instant::now();
                while aborted.reason().is_none() && began.elapsed() < Duration::from_secs(10) {
                    std::thread::yield_now();
                }
                assert!(matches!(aborted.reason(), Some(Fault::Aborted { .. })));
                return;
            }
            let mut data = vec![group.rank() as f32; 1000];
            let began = Instant::now();
            let error = group.all_reduce_in_place(&mut data, ReduceOp::Sum).expect_err("rank 2 is silent");
            assert!(began.elapsed() < Duration::from_millis(1300), "{:?}", began.elapsed());
            assert!(error.to_string().contains("rank 2"), "{error}");
            assert_eq!(data, vec![group.rank() as f32; 1000]);
            assert!(matches!(group.barrier(), Err(CollectiveError::Poisoned { .. })));
        });
    }
}

#[test]
fn ranks_that_call_different_things_are_told() {
    for transport in [Transport::Shm, Transport::Tcp] {
        let config = GroupConfig { timeout: Duration::from_secs(5), ..config(transport) };
        let errors = with_group(2, &config, |mut group| {
            let count = 10 + group.rank();
            let began = Instant::now();
            let error =
                group.all_reduce(&vec![1.0_f32; count], &mut vec![0.0; count], ReduceOp::Sum).expect_err("they differ");
            assert!(began.elapsed() < Duration::from_secs(4));
            error.to_string()
        });
        assert!(errors.iter().any(|error| error.contains("called something else")), "{errors:?}");
    }
}

#[test]
fn survivors_go_on_and_who_comes_late_is_out() {
    for transport in [Transport::Shm, Transport::Tcp] {
        let config = GroupConfig { timeout: Duration::from_secs(5), ..config(transport) };
        with_group(4, &config, |mut group| {
            let mut sum = [0.0_f32];
            group.all_reduce(&[1.0], &mut sum, ReduceOp::Sum).expect("all four");
            assert_eq!(sum, [4.0]);
            if group.rank() == 1 {
                return;
            }
            let error = group.all_reduce(&[1.0], &mut sum, ReduceOp::Sum).expect_err("rank 1 is gone");
            assert_eq!(error.missing(), Some(1), "{error}");
            let before = group.rank();
            let mut group = group.shrink(Duration::from_secs(10)).expect("three go on");
            assert_eq!((group.members(), group.epoch()), ([0, 2, 3].as_slice(), 2));
            assert_eq!(group.members()[group.rank()], before);
            group.all_reduce(&[before as f32], &mut sum, ReduceOp::Sum).expect("three");
            assert_eq!(sum, [5.0]);
        });
    }
}

#[test]
fn wrong_lengths_are_refused_before_anything_is_sent() {
    with_group(2, &config(Transport::Shm), |mut group| {
        let short = group.all_reduce(&[1.0_f32; 4], &mut [0.0; 3], ReduceOp::Sum);
        assert!(matches!(short, Err(CollectiveError::Usage { .. })), "{short:?}");
        let root = group.broadcast(&[1.0_f32], &mut [0.0], 2);
        assert!(matches!(root, Err(CollectiveError::Usage { .. })), "{root:?}");
        let mut sum = [0.0_f32];
        group.all_reduce(&[1.0], &mut sum, ReduceOp::Sum).expect("nothing was lost");
        assert_eq!(sum, [2.0]);
    });
}
