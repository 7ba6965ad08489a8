//! What one training step learns from: own groups and groups of others, put together by the sharing rule.
//!
//! Pure: groups and a seed go in, a [`StepBatch`] and its numbers come out.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use swarmloom_protocol::group::Finish as SharedFinish;
use swarmloom_protocol::selection::CORRECT;
use swarmloom_trainer::generate::{Completion, Finish};
use swarmloom_trainer::learner::{Example, StepBatch, TrainCompletion, TrainGroup};

use super::curriculum::below;
use super::link::External;
use crate::book::Question;
use crate::config::RuleName;

/// A question, this peer's completions, and what each earned.
#[derive(Debug, Clone)]
pub(crate) struct OwnGroup {
    /// The counter that the question follows from.
    pub(crate) counter: u64,
    /// The question.
    pub(crate) question: Question,
    /// The completions.
    pub(crate) completions: Vec<Completion>,
    /// One reward per completion.
    pub(crate) rewards: Vec<f32>,
}

/// The numbers of a batch that no loss depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BatchNumbers {
    /// Mean reward of own completions; `None` without any.
    pub(crate) own_reward: Option<f64>,
    /// Mean reward of others' completions, as scored here.
    pub(crate) external_reward: Option<f64>,
    /// Uses of others' groups by their staleness in versions.
    pub(crate) staleness: BTreeMap<u64, u64>,
}

/// Puts a batch together. Under [`RuleName::Paper`] groups of others train as if they were own; under
/// [`RuleName::Imitation`] one right completion of each, chosen by `seed`, is an example to imitate.
pub(crate) fn assemble(
    own: &[OwnGroup],
    external: &[External],
    rule: RuleName,
    seed: u64,
) -> (StepBatch, BatchNumbers) {
    let mut groups: Vec<TrainGroup> = own
        .iter()
        .map(|group| TrainGroup {
            prompt: group.question.prompt.clone().into_bytes(),
            completions: group
                .completions
                .iter()
                .zip(&group.rewards)
                .map(|(completion, reward)| TrainCompletion {
                    bytes: completion.bytes.clone(),
                    finish: completion.finish,
                    reward: *reward,
                })
                .collect(),
        })
        .collect();
    let mut imitation = Vec::new();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for other in external {
        let completions = &other.stored.group.completions;
        match rule {
            RuleName::Paper => groups.push(TrainGroup {
                prompt: other.prompt.clone(),
                completions: completions
                    .iter()
                    .zip(&other.stored.rewards)
                    .map(|(completion, reward)| TrainCompletion {
                        bytes: completion.text.clone(),
                        finish: finish(completion.finish),
                        reward: *reward,
                    })
                    .collect(),
            }),
            RuleName::Imitation => {
                let right: Vec<usize> = (0..completions.len())
                    .filter(|at| {
                        completions[*at].finish == SharedFinish::Stop
                            && other.stored.rewards.get(*at).is_some_and(|reward| *reward >= CORRECT)
                    })
                    .collect();
                if !right.is_empty() {
                    let chosen = right[below(&mut random, right.len() as u64) as usize];
                    imitation
                        .push(Example { prompt: other.prompt.clone(), completion: completions[chosen].text.clone() });
                }
            }
        }
    }
    let mut staleness = BTreeMap::new();
    for other in external {
        *staleness.entry(other.staleness).or_default() += 1;
    }
    let numbers = BatchNumbers {
        own_reward: mean(own.iter().flat_map(|group| &group.rewards)),
        external_reward: mean(external.iter().flat_map(|other| &other.stored.rewards)),
        staleness,
    };
    (StepBatch { groups, imitation }, numbers)
}

/// The mean; `None` of nothing.
pub(crate) fn mean<'a>(values: impl Iterator<Item = &'a f32>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + f64::from(*value), count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn finish(finish: SharedFinish) -> Finish {
    match finish {
        SharedFinish::Stop => Finish::Stop,
        SharedFinish::Length => Finish::Length,
    }
}
