//! From a step's batch to token trees with a weight for every token, and from outcomes to a report. Pure.

use std::borrow::Borrow;
use std::collections::HashMap;

use super::update::Outcome;
use super::{Example, Finish, LearnerConfig, StepBatch, StepError, StepReport, TrainGroup};
use crate::batch::Tree;
use crate::model::ModelConfig;
use crate::tokenizer;

/// A batch, ready for the model.
pub(super) struct Prepared {
    /// What is known before anything is computed.
    pub(super) report: StepReport,
    /// Each is one update of a pass; none is without anything to learn.
    pub(super) parts: Vec<Part>,
}

/// Trees that one update learns from.
#[derive(Default)]
pub(super) struct Part {
    pub(super) trees: Vec<Tree>,
    /// `[tree][branch]`
    pub(super) marks: Vec<Vec<Mark>>,
    /// The group in the batch that each tree is; `None` for examples.
    groups: Vec<Option<usize>>,
    /// Factor from the sum of imitation weights to the cross-entropy in nats a token; 0 without examples.
    imitation_weight: f64,
}

/// What a completion counts for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Mark {
    pub(super) advantage: f32,
    /// Weight of each of its tokens in the policy loss, for all completions that are equal to it.
    pub(super) policy: f32,
    /// The same in the imitation loss.
    pub(super) imitation: f32,
    /// How many completions are equal to it.
    pub(super) count: f32,
}

impl Part {
    pub(super) fn has_policy_loss(&self) -> bool {
        self.groups.iter().any(Option::is_some)
    }
}

impl Prepared {
    pub(super) fn new(batch: &StepBatch, model: &ModelConfig, config: &LearnerConfig) -> Result<Self, StepError> {
        let mut report = StepReport { group_logprobs: vec![None; batch.groups.len()], ..StepReport::default() };
        let mut parts: Vec<Builder<'_>> = (0..config.minibatches).map(|_| Builder::default()).collect();
        let mut next = 0..;
        let mut part_of_next = || next.next().unwrap_or(0) % config.minibatches;
        for (index, group) in batch.groups.iter().enumerate() {
            let rewards = rewards(index, group)?;
            let advantages = config.loss.advantages(&rewards);
            if group.completions.iter().any(|c| !fits(model, &group.prompt, &c.bytes)) {
                report.too_long += 1;
                continue;
            }
            let without = advantages.iter().all(|&a| a == 0.0);
            report.groups_without_advantage += usize::from(without);
            report.groups_used += usize::from(!without);
            if !(without && config.filter_zero_advantage) {
                parts[part_of_next()].groups.push((index, group, advantages));
            }
        }
        if config.imitation_weight > 0.0 {
            for example in &batch.imitation {
                match fits(model, &example.prompt, &example.completion) {
                    true => parts[part_of_next()].examples.push(example),
                    false => report.too_long += 1,
                }
            }
        }
        let parts = parts.into_iter().map(|part| part.build(config, config.imitation_weight, &mut report));
        let parts: Vec<Part> = parts.filter(|part| !part.trees.is_empty()).collect();
        Ok(Self { parts, report })
    }

    pub(super) fn supervised<E: Borrow<Example>>(examples: &[E], model: &ModelConfig) -> Self {
        let mut report = StepReport::default();
        let all = examples.iter().map(Borrow::borrow);
        let (examples, others): (Vec<_>, Vec<_>) = all.partition(|e| fits(model, &e.prompt, &e.completion));
        report.too_long = others.len();
        let part = Builder { groups: Vec::new(), examples }.build(&LearnerConfig::default(), 1.0, &mut report);
        Self { parts: Some(part).filter(|part| !part.trees.is_empty()).into_iter().collect(), report }
    }
}

/// What goes into a part, before the number of its tokens is known.
#[derive(Default)]
struct Builder<'a> {
    groups: Vec<(usize, &'a TrainGroup, Vec<f32>)>,
    examples: Vec<&'a Example>,
}

impl Builder<'_> {
    fn build(self, config: &LearnerConfig, imitation_weight: f64, report: &mut StepReport) -> Part {
        let mut part = Part::default();
        let all = self.groups.iter().flat_map(|(_, group, _)| &group.completions);
        let (mut sequences, mut tokens) = (0, 0);
        for completion in all {
            let length = completion.bytes.len() + usize::from(completion.finish == Finish::Stop);
            sequences += usize::from(length > 0);
            tokens += length;
        }
        report.tokens += tokens;
        for (index, group, advantages) in &self.groups {
            part.add_group(*index, group, advantages, config, |length| {
                config.loss.token_weight(length, sequences, tokens, config.length_divisor)
            });
        }
        let tokens: usize = self.examples.iter().map(|example| example.completion.len() + 1).sum();
        report.imitation_tokens += tokens;
        if tokens > 0 {
            part.imitation_weight = imitation_weight;
            part.add_examples(&self.examples, imitation_weight / tokens as f64);
        }
        part
    }
}

impl Part {
    /// Adds a group's completions, equal ones as one. Those whose gradient is zero anyway are left out.
    fn add_group(
        &mut self,
        index: usize,
        group: &TrainGroup,
        advantages: &[f32],
        config: &LearnerConfig,
        token_weight: impl Fn(usize) -> f64,
    ) {
        let mut branches: Vec<Vec<u32>> = Vec::new();
        let mut marks: Vec<Mark> = Vec::new();
        for (completion, &advantage) in group.completions.iter().zip(advantages) {
            let tokens = tokenizer::encode_completion(&completion.bytes, completion.finish == Finish::Stop);
            if tokens.is_empty() || (advantage == 0.0 && config.kl_weight == 0.0) {
                continue;
            }
            let weight = token_weight(tokens.len()) as f32;
            let equal = |(branch, mark): (&Vec<u32>, &Mark)| *branch == tokens && mark.advantage == advantage;
            match branches.iter().zip(&marks).position(equal) {
                Some(known) => {
                    marks[known].policy += weight;
                    marks[known].count += 1.0;
                }
                None => {
                    branches.push(tokens);
                    marks.push(Mark { advantage, policy: weight, imitation: 0.0, count: 1.0 });
                }
            }
        }
        self.add_tree(Some(index), tokenizer::encode_prompt(&group.prompt), branches, marks);
    }

    /// Adds examples, those of one prompt as one tree and equal ones as one.
    fn add_examples(&mut self, examples: &[&Example], token_weight: f64) {
        type Branches<'a> = (&'a [u8], Vec<(&'a [u8], Mark)>);
        let mut prompts: Vec<Branches<'_>> = Vec::new();
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        for example in examples {
            let place = *places.entry(&example.prompt).or_insert_with(|| {
                prompts.push((&example.prompt, Vec::new()));
                prompts.len() - 1
            });
            let known = &mut prompts[place].1;
            let at = known.iter().position(|(bytes, _)| *bytes == example.completion).unwrap_or_else(|| {
                known.push((&example.completion, Mark::default()));
                known.len() - 1
            });
            known[at].1.imitation += token_weight as f32;
            known[at].1.count += 1.0;
        }
        for (prompt, completions) in prompts {
            let (branches, marks) =
                completions.into_iter().map(|(bytes, mark)| (tokenizer::encode_completion(bytes, true), mark)).unzip();
            self.add_tree(None, tokenizer::encode_prompt(prompt), branches, marks);
        }
    }

    fn add_tree(&mut self, group: Option<usize>, prompt: Vec<u32>, branches: Vec<Vec<u32>>, marks: Vec<Mark>) {
        if !branches.is_empty() {
            self.trees.push(Tree { prompt, branches });
            self.marks.push(marks);
            self.groups.push(group);
        }
    }
}

/// Fills in what the updates showed. `before` holds each part's log-probabilities before the step.
pub(super) fn describe(report: &mut StepReport, parts: &[Part], outcomes: &[Outcome], before: &[Vec<f32>]) {
    report.updates = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
    if !outcomes.is_empty() {
        let mean = |value: fn(&Outcome) -> f64| outcomes.iter().map(value).sum::<f64>() / outcomes.len() as f64;
        report.policy_loss = mean(|outcome| outcome.policy_loss);
        report.loss = mean(|outcome| outcome.loss);
        report.grad_norm = mean(|outcome| outcome.grad_norm);
        report.clip_fraction = mean(|outcome| outcome.clip_fraction);
        report.kl =
            outcomes.iter().any(|outcome| outcome.kl.is_some()).then(|| mean(|outcome| outcome.kl.unwrap_or(0.0)));
        // Parts without examples have no cross-entropy to take the mean of.
        let of_parts = outcomes.iter().zip(parts.iter().cycle()).filter(|(_, part)| part.imitation_weight > 0.0);
        let losses: Vec<f64> = of_parts.map(|(outcome, part)| outcome.imitation_loss / part.imitation_weight).collect();
        report.imitation_loss = (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64);
        report.computed_tokens = outcomes.iter().take(parts.len()).map(|outcome| outcome.used_tokens).sum();
        let computed: usize = outcomes.iter().take(parts.len()).map(|outcome| outcome.computed_tokens).sum();
        report.waste = 1.0 - report.computed_tokens as f64 / computed.max(1) as f64;
    }
    let (mut sum, mut count) = (0.0, 0.0);
    for (part, log_probs) in parts.iter().zip(before) {
        let mut log_probs = log_probs.iter();
        for ((tree, marks), group) in part.trees.iter().zip(&part.marks).zip(&part.groups) {
            let (mut group_sum, mut group_count) = (0.0, 0.0);
            for (branch, mark) in tree.branches.iter().zip(marks) {
                let branch_sum: f64 = log_probs.by_ref().take(branch.len()).map(|&logp| f64::from(logp)).sum();
                group_sum += f64::from(mark.count) * branch_sum;
                group_count += f64::from(mark.count) * branch.len() as f64;
            }
            if let Some(group) = group {
                report.group_logprobs[*group] = Some((group_sum / group_count) as f32);
                sum += group_sum;
                count += group_count;
            }
        }
    }
    report.mean_logprob = (count > 0.0).then(|| sum / count);
}

fn rewards(index: usize, group: &TrainGroup) -> Result<Vec<f32>, StepError> {
    let check = |(completion, reward): (usize, f32)| match reward.is_finite() {
        true => Ok(reward),
        false => Err(StepError::Reward { group: index, completion, reward }),
    };
    group.completions.iter().map(|completion| completion.reward).enumerate().map(check).collect()
}

/// Whether the model has a position for every token, both marks counted.
fn fits(model: &ModelConfig, prompt: &[u8], completion: &[u8]) -> bool {
    prompt.len() + completion.len() + 2 <= model.max_position_embeddings
}
