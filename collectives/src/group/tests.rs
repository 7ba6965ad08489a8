//! Groups of threads of this process: results, and what a group does when its ranks do not do what they should.

mod storm;

use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::reference;

/// Runs `body` on every rank of a group over the loopback; what each returned.
pub(crate) fn with_group<R: Send>(ranks: usize, config: &GroupConfig, body: impl Fn(Group) -> R + Sync) -> Vec<R> {
    join(&vec![config.clone(); ranks], |group| body(group.expect("a group")))
}

/// Runs `body` on what joining a group gave each rank.
fn join<R: Send>(configs: &[GroupConfig], body: impl Fn(Result<Group, CollectiveError>) -> R + Sync) -> Vec<R> {
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
                body(Group::join(at, config))
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
                assert_eq!(output, reference::output(&collective, group.rank(), &inputs, ReduceOp::Sum));
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

/// Nobody has died: one rank only calls too late, and is told so instead of believing that all others are gone.
#[test]
fn who_shrinks_too_late_is_told_and_does_not_go_on_alone() {
    for transport in [Transport::Shm, Transport::Tcp] {
        for (late, all) in [(Duration::from_millis(300), true), (Duration::from_millis(1700), false)] {
            let config = GroupConfig { timeout: Duration::from_secs(5), ..config(transport) };
            with_group(3, &config, |mut group| {
                let mut sum = [0.0_f32];
                group.all_reduce(&[1.0], &mut sum, ReduceOp::Sum).expect("all three");
                let rank = group.rank();
                if rank == 2 {
                    group.abort("enough");
                }
                if rank == 1 {
                    #[allow(clippy::disallowed_methods, reason = "being late is what is tested")]
                    std::thread::sleep(late);
                }
                let shrunk = group.shrink(Duration::from_secs(2));
                match (rank, all) {
                    (1, false) => {
                        let error = shrunk.expect_err("too late").to_string();
                        assert!(error.contains("go on without this rank"), "{error}");
                    }
                    _ => {
                        let mut group = shrunk.expect("they go on");
                        let members: &[usize] = if all { &[0, 1, 2] } else { &[0, 2] };
                        assert_eq!(group.members(), members);
                        group.all_reduce(&[rank as f32], &mut sum, ReduceOp::Sum).expect("the new group");
                        assert_eq!(sum, [if all { 3.0 } else { 2.0 }]);
                    }
                }
            });
        }
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

/// Ways of storing are tried and agreed on by all ranks or by none, also where some have nothing to store.
#[test]
fn ranks_without_data_take_part_in_trials() {
    with_group(3, &config(Transport::Shm), |mut group| {
        let input = vec![7_u8; if group.rank() == 0 { 4096 } else { 0 }];
        let mut output = vec![0_u8; if group.rank() == 2 { 4096 } else { 0 }];
        for _ in 0..100 {
            group
                .run(&Collective::Send { from: 0, to: 2, count: 4096 }, &input, &mut output, ReduceOp::Sum)
                .expect("sent");
        }
        assert!(output.iter().all(|byte| *byte == 7));
        let mut sum = [0.0_f32];
        group.all_reduce(&[1.0], &mut sum, ReduceOp::Sum).expect("nobody is elsewhere");
        assert_eq!(sum, [3.0]);
    });
}

#[test]
fn a_send_between_two_of_three_and_a_broadcast_in_place() {
    for transport in [Transport::Shm, Transport::Tcp] {
        with_group(3, &config(transport), |mut group| {
            let rank = group.rank();
            for round in 0..60 {
                let sent: Vec<f32> = (0..2000).map(|index| (index * 3 + round) as f32).collect();
                let input: &[f32] = if rank == 2 { &sent } else { &[] };
                let mut output = vec![0.0; if rank == 1 { 2000 } else { 0 }];
                group.send(input, &mut output, (2, 1), 2000).expect("sent");
                assert!(rank != 1 || output == sent);
                let mut data = if rank == 0 { sent.clone() } else { vec![0.0; 2000] };
                group.broadcast_in_place(&mut data, 0).expect("broadcast");
                assert_eq!(data, sent);
            }
        });
    }
}

#[test]
fn memory_that_is_not_registered_is_refused_where_it_has_to_be() {
    with_group(2, &config(Transport::Shm), |mut group| {
        let region = group.region(400).expect("memory");
        let (mut data, collective) = (vec![1.0_f32; 100], Collective::AllReduce { count: 100 });
        let any = Raw { at: data.as_mut_ptr().cast(), bytes: 400 };
        // SAFETY: both have so many bytes, and nobody else uses them.
        let done = unsafe { group.run_raw(&collective, Dtype::F32, ReduceOp::Sum, any, region.raw(), true) };
        assert!(matches!(done, Err(CollectiveError::Usage { .. })), "{done:?}");
        group.barrier().expect("nothing was sent");
    });
}

#[test]
fn regions_are_of_their_group_and_not_of_its_survivors() {
    with_group(3, &config(Transport::Shm), |mut group| {
        let old = group.region(64).expect("memory");
        let collective = Collective::AllReduce { count: 16 };
        let reduce = |group: &mut Group, region: &Region, to: &Region| {
            // SAFETY: sixty-four bytes each, of this rank alone between operations.
            unsafe { group.run_raw(&collective, Dtype::F32, ReduceOp::Sum, region.raw(), to.raw(), true) }
        };
        let to = group.region(64).expect("memory");
        reduce(&mut group, &old, &to).expect("all three");
        if group.rank() == 2 {
            return;
        }
        reduce(&mut group, &old, &to).expect_err("rank 2 is gone");
        let mut group = group.shrink(Duration::from_secs(10)).expect("two go on");
        let refused = reduce(&mut group, &old, &to);
        assert!(matches!(refused, Err(CollectiveError::Usage { .. })), "{refused:?}");
        let (from, to) = (group.region(64).expect("memory"), group.region(64).expect("memory"));
        reduce(&mut group, &from, &to).expect("with new memory");
    });
}
