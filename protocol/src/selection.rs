//! Which of the groups at hand a peer trains on: pure policies behind one trait.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::id::PeerKey;

/// Reward from which a completion counts as correct.
pub const CORRECT: f32 = 1.0;
/// Rewards that differ by no more give no advantage.
pub const NO_SPREAD: f32 = 1e-6;

/// What a policy knows of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Reward of each completion, as scored here.
    pub rewards: &'a [f32],
    /// Whose it is.
    pub author: PeerKey,
    /// Versions between the policy that wrote it and its author's newest, queue time included.
    pub staleness: u64,
    /// Milliseconds since it arrived.
    pub age_ms: u64,
}

/// What no selection goes beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Largest [`Candidate::staleness`].
    pub max_staleness_versions: u64,
    /// Largest [`Candidate::age_ms`].
    pub max_age_ms: u64,
}

impl Bounds {
    /// Whether a policy may choose this candidate.
    pub fn allow(&self, candidate: &Candidate<'_>) -> bool {
        candidate.staleness <= self.max_staleness_versions && candidate.age_ms <= self.max_age_ms
    }
}

/// A way to choose.
pub trait Selection: std::fmt::Debug {
    /// Its name in configurations and reports.
    fn name(&self) -> &'static str;

    /// At most `count` distinct places in `candidates`, all of which are within bounds. The same arguments
    /// give the same places.
    fn choose(&self, candidates: &[Candidate<'_>], count: usize, seed: u64) -> Vec<usize>;
}

/// Drops groups without advantage, then takes uniformly (SAPO, arXiv 2509.08721, section 4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PaperUniform;

/// Groups with at least one correct completion, uniformly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnyCorrect;

/// Highest total reward first; equals in random order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopK;

/// Groups with at least one correct completion, in rounds of one group from each author, so that authors
/// have equal shares as far as their groups last. Authors and their groups are in random order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerQuota;

/// With a probability proportional to the standard deviation of a group's rewards, without replacement
/// (Efraimidis and Spirakis 2006). Groups without advantage are never chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdvantageWeighted;

impl Selection for PaperUniform {
    fn name(&self) -> &'static str {
        "paper-uniform"
    }

    fn choose(&self, candidates: &[Candidate<'_>], count: usize, seed: u64) -> Vec<usize> {
        shuffled(candidates, has_advantage, seed, count)
    }
}

impl Selection for AnyCorrect {
    fn name(&self) -> &'static str {
        "any-correct"
    }

    fn choose(&self, candidates: &[Candidate<'_>], count: usize, seed: u64) -> Vec<usize> {
        shuffled(candidates, any_correct, seed, count)
    }
}

impl Selection for TopK {
    fn name(&self) -> &'static str {
        "top-k"
    }

    fn choose(&self, candidates: &[Candidate<'_>], count: usize, seed: u64) -> Vec<usize> {
        let total = |at: &usize| candidates[*at].rewards.iter().map(|&reward| f64::from(reward)).sum::<f64>();
        let mut places = shuffled(candidates, |_| true, seed, usize::MAX);
        places.sort_by(|a, b| total(b).total_cmp(&total(a)));
        places.truncate(count);
        places
    }
}

impl Selection for PeerQuota {
    fn name(&self) -> &'static str {
        "peer-quota"
    }

    fn choose(&self, candidates: &[Candidate<'_>], count: usize, seed: u64) -> Vec<usize> {
        // Authors come in the order of their first group, which is random.
        let mut order: Vec<PeerKey> = Vec::new();
        let mut taken: BTreeMap<PeerKey, usize> = BTreeMap::new();
        let mut rounds: Vec<(usize, usize, usize)> = Vec::new();
        for at in shuffled(candidates, any_correct, seed, usize::MAX) {
            let author = candidates[at].author;
            let round = taken.entry(author).or_default();
            if *round == 0 {
                order.push(author);
            }
            rounds.push((*round, 0, at));
            *round += 1;
        }
        // A large author's first group tends to come early; who is first in a round must not depend on that.
        order.sort_unstable();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed.wrapping_add(1)));
        let places: BTreeMap<PeerKey, usize> = order.into_iter().zip(0..).collect();
        for (_, place, at) in &mut rounds {
            *place = places.get(&candidates[*at].author).copied().unwrap_or(usize::MAX);
        }
        rounds.sort_unstable();
        rounds.into_iter().map(|(_, _, at)| at).take(count).collect()
    }
}

impl Selection for AdvantageWeighted {
    fn name(&self) -> &'static str {
        "advantage-weighted"
    }

    fn choose(&self, candidates: &[Candidate<'_>], count: usize, seed: u64) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut keys: Vec<(f64, usize)> = Vec::new();
        for (at, candidate) in candidates.iter().enumerate() {
            // Every candidate takes its draw, so that leaving one out does not change the others'.
            let draw: f64 = 1.0 - rng.random::<f64>();
            if has_advantage(candidate) {
                // The largest draw^(1/weight) first, by its logarithm.
                keys.push((draw.ln() / deviation(candidate.rewards), at));
            }
        }
        keys.sort_by(|a, b| b.0.total_cmp(&a.0));
        keys.into_iter().map(|(_, at)| at).take(count).collect()
    }
}

/// Own groups to generate beyond the `local` ones where others' are short: as many as are missing, at most
/// `max`. A peer that generates none on purpose stays at none.
pub fn top_up(local: u32, external_wanted: u32, external_found: u32, max: u32) -> u32 {
    if local == 0 { 0 } else { external_wanted.saturating_sub(external_found).min(max) }
}

fn shuffled(
    candidates: &[Candidate<'_>],
    wanted: impl Fn(&Candidate<'_>) -> bool,
    seed: u64,
    count: usize,
) -> Vec<usize> {
    let mut places: Vec<usize> = (0..candidates.len()).filter(|&at| wanted(&candidates[at])).collect();
    places.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    places.truncate(count);
    places
}

fn any_correct(candidate: &Candidate<'_>) -> bool {
    candidate.rewards.iter().any(|&reward| reward >= CORRECT)
}

fn has_advantage(candidate: &Candidate<'_>) -> bool {
    let extreme = |pick: fn(f32, f32) -> f32| candidate.rewards.iter().copied().reduce(pick).unwrap_or(0.0);
    extreme(f32::max) - extreme(f32::min) > NO_SPREAD
}

/// Standard deviation.
fn deviation(rewards: &[f32]) -> f64 {
    let mean = rewards.iter().map(|&reward| f64::from(reward)).sum::<f64>() / rewards.len() as f64;
    let square = |&reward: &f32| (f64::from(reward) - mean).powi(2);
    (rewards.iter().map(square).sum::<f64>() / rewards.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(author: u8, rewards: &[f32]) -> Candidate<'_> {
        Candidate { rewards, author: PeerKey([author; 32]), staleness: 0, age_ms: 0 }
    }

    /// Place, chosen first or at all in so many of 6000 selections of two.
    fn frequencies(policy: &dyn Selection, candidates: &[Candidate<'_>], count: usize) -> Vec<u32> {
        let mut times = vec![0; candidates.len()];
        for seed in 0..6000 {
            let chosen = policy.choose(candidates, count, seed);
            assert_eq!(chosen, policy.choose(candidates, count, seed));
            for at in chosen {
                times[at] += 1;
            }
        }
        times
    }

    fn about(found: &[u32], expected: &[u32]) -> bool {
        // Four standard deviations of 6000 draws are at most 155.
        found.iter().zip(expected).all(|(&found, &expected)| found.abs_diff(expected) <= 155)
    }

    #[test]
    fn the_papers_choice_is_uniform_over_groups_with_advantage() {
        let pool = [
            candidate(1, &[0.0, 1.0]),
            candidate(1, &[1.0, 1.0]),
            candidate(2, &[0.0, 0.0]),
            candidate(2, &[0.1, 0.2]),
            candidate(3, &[0.5, 0.0]),
            candidate(3, &[]),
        ];
        let times = frequencies(&PaperUniform, &pool, 2);
        assert!(about(&times, &[4000, 0, 0, 4000, 4000, 0]), "{times:?}");
        let mut all = PaperUniform.choose(&pool, 99, 5);
        all.sort_unstable();
        assert_eq!(all, [0, 3, 4]);
        assert!(PaperUniform.choose(&[], 5, 1).is_empty());
        assert!(PaperUniform.choose(&pool, 0, 1).is_empty());
    }

    #[test]
    fn any_correct_is_uniform_over_groups_with_a_correct_completion() {
        let pool = [candidate(1, &[0.0, 0.99]), candidate(1, &[1.0, 1.0]), candidate(2, &[0.0, 1.0])];
        let times = frequencies(&AnyCorrect, &pool, 1);
        assert!(about(&times, &[0, 3000, 3000]), "{times:?}");
    }

    #[test]
    fn the_best_come_first_and_equals_by_chance() {
        let pool = [
            candidate(1, &[0.0, 0.0]),
            candidate(1, &[1.0, 0.0]),
            candidate(2, &[1.0, 1.0]),
            candidate(2, &[0.0, 1.0]),
        ];
        let times = frequencies(&TopK, &pool, 2);
        assert!(about(&times, &[0, 3000, 6000, 3000]), "{times:?}");
        assert_eq!(TopK.choose(&pool, 1, 7), [2]);
        assert_eq!(TopK.choose(&pool, 9, 7)[3], 0);
    }

    #[test]
    fn authors_share_equally_and_leave_the_rest_to_others() {
        let correct = &[1.0, 0.0][..];
        let mut pool = vec![candidate(1, correct); 20];
        pool.extend([candidate(2, correct), candidate(2, correct), candidate(2, correct), candidate(3, correct)]);
        pool.push(candidate(4, &[0.5]));
        let by_author = |count, seed| {
            let mut times = [0; 5];
            for at in PeerQuota.choose(&pool, count, seed) {
                times[usize::from(pool[at].author.0[0])] += 1;
            }
            times
        };
        for seed in 0..50 {
            assert_eq!(by_author(3, seed), [0, 1, 1, 1, 0]);
            assert_eq!(by_author(7, seed), [0, 3, 3, 1, 0]);
            assert_eq!(by_author(15, seed), [0, 11, 3, 1, 0]);
            assert_eq!(by_author(99, seed), [0, 20, 3, 1, 0]);
        }
        // With less than one for each, authors are drawn alike, however much they send.
        let times = (0..6000)
            .map(|seed| by_author(1, seed))
            .fold([0; 5], |sum, times| std::array::from_fn(|author| sum[author] + times[author]));
        assert!(about(&times, &[0, 2000, 2000, 2000, 0]), "{times:?}");
    }

    #[test]
    fn the_weighted_choice_follows_the_spread() {
        // Deviations 0.5, 0.25 and 0.
        let pool = [candidate(1, &[0.0, 1.0]), candidate(1, &[0.0, 0.5]), candidate(2, &[1.0, 1.0])];
        let times = frequencies(&AdvantageWeighted, &pool, 1);
        assert!(about(&times, &[4000, 2000, 0]), "{times:?}");
        let mut all = AdvantageWeighted.choose(&pool, 3, 1);
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    }

    #[test]
    fn bounds_are_inclusive() {
        let bounds = Bounds { max_staleness_versions: 4, max_age_ms: 900 };
        let at = |staleness, age_ms| Candidate { staleness, age_ms, ..candidate(1, &[]) };
        assert!(bounds.allow(&at(4, 900)));
        assert!(!bounds.allow(&at(5, 900)));
        assert!(!bounds.allow(&at(4, 901)));
    }

    #[test]
    fn a_short_pool_is_topped_up_within_the_limit() {
        assert_eq!(top_up(4, 32, 32, 4), 0);
        assert_eq!(top_up(4, 32, 30, 4), 2);
        assert_eq!(top_up(4, 32, 0, 4), 4);
        assert_eq!(top_up(4, 4, 9, 4), 0);
        assert_eq!(top_up(0, 32, 0, 4), 0);
    }
}
