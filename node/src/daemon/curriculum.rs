//! What a peer asks itself, and with which randomness: everything follows from the run, the peer and a counter, so that
//! a resumed peer goes on exactly where it stopped, and nobody chooses questions.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use swarmloom_protocol::id::{PeerKey, RunId};
use swarmloom_protocol::run::question_seed;

/// One question to ask: the task's place in the run, and the seed of its generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draw {
    /// The counter it follows from.
    pub(crate) counter: u64,
    /// The task's place in the run.
    pub(crate) task: u16,
    /// Seed of the task's generator.
    pub(crate) seed: u64,
}

/// Streams of randomness that must not meet: each use of a seed has its own.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Stream {
    Task = 1,
    Sampling = 2,
    Evaluation = 3,
    WarmStart = 4,
    Selection = 5,
}

/// The question with this counter. `weights` has one entry per task of the run; at least one is above 0.
pub(crate) fn draw(run: &RunId, peer: &PeerKey, counter: u64, weights: &[u32]) -> Draw {
    let seed = question_seed(run, peer, counter);
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut at = below(&mut stream(seed, Stream::Task), total.max(1));
    let task = weights.iter().position(|weight| {
        let here = at < u64::from(*weight);
        at = at.wrapping_sub(u64::from(*weight));
        here
    });
    Draw { counter, task: task.unwrap_or(0) as u16, seed }
}

/// The seed of a peer's weights and warm start: peers with the same settings still differ.
pub(crate) fn own_seed(peer: &PeerKey, seed: u64) -> u64 {
    let mut random = ChaCha8Rng::from_seed(peer.0);
    random.set_stream(seed);
    random.next_u64()
}

/// One seed per completion of the question with this seed.
pub(crate) fn sampling_seeds(seed: u64, completions: usize) -> Vec<u64> {
    let mut random = stream(seed, Stream::Sampling);
    (0..completions).map(|_| random.next_u64()).collect()
}

/// Seeds of the sampled completions of a held-out question: the same at every evaluation, so that two evaluations
/// differ by the policy alone.
pub(crate) fn evaluation_seeds(seed: u64, index: u64, completions: usize) -> Vec<u64> {
    let mut random = stream(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15), Stream::Evaluation);
    (0..completions).map(|_| random.next_u64()).collect()
}

/// Randomness of the supervised warm start of a peer with this seed, for the task at this place.
pub(crate) fn warm_start(seed: u64, task: u64) -> ChaCha8Rng {
    let mut random = stream(seed, Stream::WarmStart);
    random.set_stream(task + 1);
    random
}

/// The seed with which others' groups are selected in a step.
pub(crate) fn selection_seed(seed: u64, step: u64) -> u64 {
    stream(seed ^ step.rotate_left(32), Stream::Selection).next_u64()
}

/// Uniform in `0..bound`; `bound` is at least 1. The bias is below `bound / 2^64`.
pub(crate) fn below(random: &mut impl RngCore, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound)) >> 64) as u64
}

fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream((stream as u64) << 56);
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId([1; 32]);
    const PEER: PeerKey = PeerKey([2; 32]);

    #[test]
    fn tasks_come_as_often_as_their_weights_say() {
        let mut counts = [0_u32; 4];
        for counter in 0..4000 {
            let drawn = draw(&RUN, &PEER, counter, &[3, 0, 1, 4]);
            assert_eq!(drawn, draw(&RUN, &PEER, counter, &[3, 0, 1, 4]));
            counts[usize::from(drawn.task)] += 1;
        }
        assert_eq!(counts[1], 0);
        // Expected 1500, 500, 2000; five standard deviations of the widest are 158.
        for (count, expected) in [(counts[0], 1500), (counts[2], 500), (counts[3], 2000)] {
            assert!(count.abs_diff(expected) < 160, "{counts:?}");
        }
    }

    #[test]
    fn seeds_differ_between_counters_peers_and_uses() {
        let first = draw(&RUN, &PEER, 0, &[1]).seed;
        assert_ne!(first, draw(&RUN, &PEER, 1, &[1]).seed);
        assert_ne!(first, draw(&RUN, &PeerKey([3; 32]), 0, &[1]).seed);
        assert_ne!(own_seed(&PEER, 0), own_seed(&PeerKey([3; 32]), 0));
        assert_ne!(own_seed(&PEER, 0), own_seed(&PEER, 1));
        let mut all = sampling_seeds(first, 8);
        all.extend(evaluation_seeds(first, 0, 4));
        all.extend(evaluation_seeds(first, 1, 4));
        all.push(selection_seed(first, 0));
        all.push(selection_seed(first, 1));
        all.push(warm_start(first, 0).next_u64());
        all.push(warm_start(first, 1).next_u64());
        let distinct: std::collections::BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(sampling_seeds(first, 8)[..4], sampling_seeds(first, 4));
    }
}
