//! Training a policy: from groups of completions with rewards, and from examples.
//!
//! A step takes groups of any size, own and others' alike. As in swarm sampling (arXiv 2509.08721,
//! section 3), the ratio is taken against the receiver's own policy before the update, whoever generated:
//! nobody's log-probabilities are needed. With one update a step the ratio is 1 and clipping does nothing.

mod prepare;
#[cfg(test)]
mod tests;
mod update;

use std::borrow::Borrow;

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::adamw::AdamW;
use crate::device::{Device, DeviceError};
use crate::generate::Finish;
use crate::losses::Loss;
use crate::model::ModelConfig;
use crate::policy::{Policy, PolicyError, to_vec};
use crate::weights::{Weights, WeightsError};

use self::prepare::Prepared;
use self::update::Outcome;

/// How a learner learns. The default is the update of DAPO and of swarm sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerConfig {
    /// Which policy loss.
    pub loss: Loss,
    /// How far the ratio may fall below 1; as published with the loss unless given.
    pub clip_low: Option<f64>,
    /// How far the ratio may rise above 1 (for [`Loss::Cispo`]: up to); as published with the loss unless given.
    pub clip_high: Option<f64>,
    /// Largest ratio with which completions of negative advantage are pushed down; no bound unless given.
    pub ratio_cap: Option<f64>,
    /// Weight of the divergence from the policy that [`Learner::begin_policy_training`] marked; 0 for none.
    pub kl_weight: f64,
    /// The constant length, in tokens, that [`Loss::DrGrpo`] divides by.
    pub length_divisor: usize,
    /// How often a step goes through its batch.
    pub updates_per_step: usize,
    /// Parts that the batch is split into, with an update for each.
    pub minibatches: usize,
    /// The gradient is scaled down to this norm.
    pub max_grad_norm: f64,
    /// Most tokens computed at once: bounds memory, which is about 15 KB a token for the smallest presets
    /// and 200 KB for the largest. Halved when memory runs out.
    pub micro_batch_tokens: usize,
    /// Weight of the cross-entropy on a step's examples.
    pub imitation_weight: f64,
    /// Whether groups whose rewards are all equal leave the batch, and with it the average over tokens.
    pub filter_zero_advantage: bool,
    /// AdamW's betas.
    pub betas: (f64, f64),
    /// AdamW's weight decay, on matrices.
    pub weight_decay: f64,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            loss: Loss::Grpo,
            clip_low: None,
            clip_high: None,
            ratio_cap: None,
            kl_weight: 0.0,
            length_divisor: 256,
            updates_per_step: 1,
            minibatches: 1,
            max_grad_norm: 1.0,
            micro_batch_tokens: 4096,
            imitation_weight: 1.0,
            filter_zero_advantage: true,
            betas: (0.9, 0.95),
            weight_decay: 0.0,
        }
    }
}

/// What a step learns from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepBatch {
    /// For the policy loss.
    pub groups: Vec<TrainGroup>,
    /// For the imitation loss.
    pub imitation: Vec<Example>,
}

/// A question's completions, of any number.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainGroup {
    /// The prompt's bytes.
    pub prompt: Vec<u8>,
    /// They share one average reward.
    pub completions: Vec<TrainCompletion>,
}

/// A completion and what it earned.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainCompletion {
    /// Its bytes, without the end mark.
    pub bytes: Vec<u8>,
    /// Whether its end is part of it: ending is learnt from [`Finish::Stop`] alone.
    pub finish: Finish,
    /// Finite.
    pub reward: f32,
}

/// A completion to imitate, its end included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The prompt's bytes.
    pub prompt: Vec<u8>,
    /// The completion's bytes, without the end mark.
    pub completion: Vec<u8>,
}

/// What a step did. Losses, norm and fractions are means over its updates.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StepReport {
    /// The whole loss: policy, divergence and imitation, weighted.
    pub loss: f64,
    /// The policy loss alone.
    pub policy_loss: f64,
    /// Cross-entropy of the examples, nats a token; `None` without examples.
    pub imitation_loss: Option<f64>,
    /// Divergence from the reference policy; `None` without one.
    pub kl: Option<f64>,
    /// Norm of the gradient before it was scaled down.
    pub grad_norm: f64,
    /// Share of the policy loss' tokens whose ratio was clipped.
    pub clip_fraction: f64,
    /// Mean log-probability of the policy loss' tokens before the step, nats a token; `None` without any.
    pub mean_logprob: Option<f64>,
    /// The same for each group of the batch; `None` where nothing of it was computed.
    pub group_logprobs: Vec<Option<f32>>,
    /// Tokens of the policy loss, the ends included.
    pub tokens: usize,
    /// Tokens of the imitation loss, the ends included.
    pub imitation_tokens: usize,
    /// Tokens that the model computed in one pass, prompts included. Equal completions are computed once.
    pub computed_tokens: usize,
    /// Share of what was computed that was padding.
    pub waste: f64,
    /// Groups with an advantage.
    pub groups_used: usize,
    /// Groups whose rewards were all equal.
    pub groups_without_advantage: usize,
    /// Groups and examples left out because the model has no positions for them.
    pub too_long: usize,
    /// Updates applied; none where nothing in the batch has an advantage and there are no examples.
    pub updates: u32,
    /// What was not finite, where that ended the step before all its updates. What was not updated is untouched.
    pub skipped: Option<String>,
    /// Most tokens computed at once from here on.
    pub micro_batch_tokens: usize,
    /// How often memory ran out.
    pub out_of_memory: u32,
}

/// Why a learner could not be made, or a step not be done. The policy is as it was before the update that
/// failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A setting that makes no sense.
    #[error("learner: {field} is {value}: {need}")]
    Config {
        /// Its name.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it should be.
        need: &'static str,
    },
    /// The device is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A reward that is no number.
    #[error("group {group}, completion {completion}: the reward is {reward}, but it must be a finite number")]
    Reward {
        /// Index of the group.
        group: usize,
        /// Index of the completion.
        completion: usize,
        /// What it is.
        reward: f32,
    },
    /// A learning rate that is none.
    #[error("the learning rate is {0}, but it must be a finite number that is not negative")]
    LearningRate(f64),
    /// Memory ran out even with little computed at once.
    #[error("out of memory with {tokens} tokens at once: use a smaller model, or free memory ({source})")]
    OutOfMemory {
        /// Most tokens computed at once.
        tokens: usize,
        /// What libtorch said.
        source: TchError,
    },
    /// libtorch says so.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

impl From<PolicyError> for StepError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Weights(error) => Self::Weights(error),
            PolicyError::Torch(error) => Self::Torch(error),
            other => Self::Torch(TchError::Shape(other.to_string())),
        }
    }
}

/// All that a learner needs to go on bit for bit (on the CPU, with as many threads).
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerState {
    /// The policy.
    pub weights: Weights,
    /// AdamW's running mean of the gradient.
    pub first_moment: Weights,
    /// AdamW's running mean of its square.
    pub second_moment: Weights,
    /// AdamW's count of updates.
    pub updates: u64,
    /// The policy that the divergence is taken from, if there is a weight on it.
    pub reference: Option<Weights>,
    /// Most tokens computed at once, if memory has run out before.
    pub micro_batch_tokens: Option<usize>,
}

/// When memory runs out, no less than this is computed at once.
const LEAST_MICRO_BATCH: usize = 256;

/// A policy and its optimizer.
#[derive(Debug)]
pub struct Learner {
    config: LearnerConfig,
    policy: Policy,
    /// The policy's weights, as of the last update.
    weights: Weights,
    /// `None` before the first update.
    optimizer: Option<AdamW>,
    reference: Option<Weights>,
    /// Made from `reference` when first needed.
    reference_policy: Option<Policy>,
    micro_batch_tokens: usize,
    threads: usize,
    /// Tests let memory run out above this.
    #[cfg(test)]
    memory_tokens: usize,
}

impl Learner {
    /// A learner that starts from `weights`, on `device`, with `threads` threads of the CPU (at least one).
    ///
    /// # Errors
    /// If a setting makes no sense, the weights are those of another model, the device is not there, or
    /// libtorch fails.
    pub fn new(
        model: &ModelConfig,
        weights: &Weights,
        config: LearnerConfig,
        device: Device,
        threads: usize,
    ) -> Result<Self, StepError> {
        config.validate()?;
        let policy = Policy::new(model, weights, device.resolve()?)?;
        Ok(Self {
            policy,
            weights: weights.clone(),
            optimizer: None,
            reference: (config.kl_weight > 0.0).then(|| weights.clone()),
            reference_policy: None,
            micro_batch_tokens: config.micro_batch_tokens,
            threads: threads.max(1),
            config,
            #[cfg(test)]
            memory_tokens: usize::MAX,
        })
    }

    /// One step: `updates_per_step` passes over the batch, each in `minibatches` updates with
    /// `learning_rate`.
    ///
    /// A loss, gradient or weight that is not finite ends the step: the report says so in `skipped`, and
    /// that update leaves policy and optimizer untouched.
    ///
    /// # Errors
    /// If a reward or the learning rate is no number, memory runs out whatever is done, or libtorch fails.
    pub fn step(&mut self, batch: &StepBatch, learning_rate: f64) -> Result<StepReport, StepError> {
        let prepared = Prepared::new(batch, self.policy.config(), &self.config)?;
        self.run(prepared, self.config.updates_per_step, learning_rate)
    }

    /// One update on the cross-entropy of examples, averaged over their tokens.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn supervised_step<E: Borrow<Example>>(
        &mut self,
        examples: &[E],
        learning_rate: f64,
    ) -> Result<StepReport, StepError> {
        let prepared = Prepared::supervised(examples, self.policy.config());
        self.run(prepared, 1, learning_rate)
    }

    /// Marks the end of a supervised start: forgets the optimizer's state, which belongs to another loss,
    /// and takes the policy as it is for the reference of the divergence.
    pub fn begin_policy_training(&mut self) {
        self.optimizer = None;
        self.reference_policy = None;
        self.reference = (self.config.kl_weight > 0.0).then(|| self.weights.clone());
    }

    /// The policy's weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Log-probabilities of the tokens of `completion` after `prompt` under the policy: see
    /// [`Policy::log_probs`].
    ///
    /// # Errors
    /// If the sequence is too long for the model, or libtorch fails.
    pub fn log_probs(&self, prompt: &[u8], completion: &[u8], stopped: bool) -> Result<Vec<f32>, PolicyError> {
        self.use_threads();
        self.policy.log_probs(prompt, completion, stopped)
    }

    /// The shape of the model.
    pub fn model(&self) -> &ModelConfig {
        self.policy.config()
    }

    /// Where it trains.
    pub fn device(&self) -> Device {
        self.policy.device()
    }

    /// All that is needed to go on from here.
    ///
    /// # Errors
    /// If libtorch cannot copy the optimizer's state.
    pub fn checkpoint(&self) -> Result<LearnerState, StepError> {
        let moment = |tensor: fn(&AdamW) -> &Tensor| match &self.optimizer {
            None => Ok(Weights::zeros(self.model())),
            Some(optimizer) => weights_of(self.model(), tensor(optimizer)),
        };
        Ok(LearnerState {
            weights: self.weights.clone(),
            first_moment: moment(|optimizer| &optimizer.first)?,
            second_moment: moment(|optimizer| &optimizer.second)?,
            updates: self.optimizer.as_ref().map_or(0, |optimizer| optimizer.updates),
            reference: self.reference.clone(),
            micro_batch_tokens: Some(self.micro_batch_tokens).filter(|&now| now < self.config.micro_batch_tokens),
        })
    }

    /// Goes on from a state.
    ///
    /// # Errors
    /// If it is one of another model, or libtorch fails.
    pub fn restore(&mut self, state: &LearnerState) -> Result<(), StepError> {
        let model = self.model().clone();
        let parts = [&state.weights, &state.first_moment, &state.second_moment];
        for weights in parts.into_iter().chain(&state.reference) {
            weights.check_model(&model)?;
        }
        let tensor = |weights: &Weights| Tensor::f_from_slice(weights.values())?.f_to_device(self.device().torch());
        let (first, second) = (tensor(&state.first_moment)?, tensor(&state.second_moment)?);
        let parameters = tensor(&state.weights)?;
        self.policy.overwrite(&parameters)?;
        self.optimizer = (state.updates > 0).then_some(AdamW { first, second, updates: state.updates });
        self.weights = state.weights.clone();
        if self.config.kl_weight > 0.0 {
            self.reference = Some(state.reference.clone().unwrap_or_else(|| state.weights.clone()));
        }
        self.reference_policy = None;
        let shrunk = state.micro_batch_tokens.unwrap_or(usize::MAX);
        self.micro_batch_tokens = self.config.micro_batch_tokens.min(shrunk);
        Ok(())
    }

    fn run(&mut self, prepared: Prepared, passes: usize, learning_rate: f64) -> Result<StepReport, StepError> {
        if !learning_rate.is_finite() || learning_rate < 0.0 {
            return Err(StepError::LearningRate(learning_rate));
        }
        self.use_threads();
        let Prepared { mut report, parts } = prepared;
        // A first and only update is made at the old policy: its log-probabilities come with it.
        let one_update = passes * parts.len() <= 1;
        let (mut old, mut reference) = (Vec::new(), Vec::new());
        for part in &parts {
            old.push(if one_update { None } else { Some(self.log_probs_of(part, false, &mut report)?) });
            let wanted = self.reference.is_some() && part.has_policy_loss();
            reference.push(if wanted { Some(self.log_probs_of(part, true, &mut report)?) } else { None });
        }
        let mut outcomes: Vec<Outcome> = Vec::new();
        for index in (0..passes).flat_map(|_| 0..parts.len()) {
            let (old, reference) = (old[index].as_deref(), reference[index].as_deref());
            match self.try_update(&parts[index], old, reference, learning_rate, &mut report)? {
                Ok((outcome, weights)) => {
                    self.weights = weights;
                    outcomes.push(outcome);
                }
                Err(reason) => {
                    tracing::warn!(reason, "the update was skipped");
                    report.skipped = Some(reason);
                    break;
                }
            }
        }
        if let (true, Some(first)) = (one_update, outcomes.first_mut()) {
            old[0] = Some(std::mem::take(&mut first.log_probs));
        }
        let old: Vec<Vec<f32>> = old.into_iter().flatten().collect();
        prepare::describe(&mut report, &parts, &outcomes, &old);
        report.micro_batch_tokens = self.micro_batch_tokens;
        Ok(report)
    }

    /// OpenMP keeps its number of threads for each thread that calls it.
    fn use_threads(&self) {
        // Asking first lets libtorch set up this thread; later that would undo the next call.
        let _ = tch::get_num_threads();
        tch::set_num_threads(i32::try_from(self.threads).unwrap_or(i32::MAX));
    }
}

impl LearnerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the setting that makes no sense, its value and what it should be.
    pub fn validate(&self) -> Result<(), StepError> {
        let (low, high) = self.clip();
        let check = |fine: bool, field, value: f64, need| {
            if fine { Ok(()) } else { Err(StepError::Config { field, value, need }) }
        };
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        check(low > 0.0 && low <= 1.0, "clip_low", low, "it must be above 0, and at most 1")?;
        check(positive(high), "clip_high", high, "it must be above 0")?;
        let cap = self.ratio_cap.unwrap_or(f64::INFINITY);
        let bound = if self.loss == Loss::Cispo { 1.0 } else { 1.0 + high };
        check(cap > bound, "ratio_cap", cap, "it must be above the ratio that clip_high allows")?;
        check(not_negative(self.kl_weight), "kl_weight", self.kl_weight, "it must be 0 or above")?;
        check(self.length_divisor > 0, "length_divisor", 0.0, "it must be at least 1")?;
        check(self.updates_per_step > 0, "updates_per_step", 0.0, "it must be at least 1")?;
        check(self.minibatches > 0, "minibatches", 0.0, "it must be at least 1")?;
        check(positive(self.max_grad_norm), "max_grad_norm", self.max_grad_norm, "it must be above 0")?;
        check(self.micro_batch_tokens > 0, "micro_batch_tokens", 0.0, "it must be at least 1")?;
        check(not_negative(self.imitation_weight), "imitation_weight", self.imitation_weight, "it must be 0 or above")?;
        for beta in [self.betas.0, self.betas.1] {
            check((0.0..1.0).contains(&beta), "betas", beta, "they must be 0 or above, and below 1")?;
        }
        check(not_negative(self.weight_decay), "weight_decay", self.weight_decay, "it must be 0 or above")
    }

    /// The bounds in force.
    fn clip(&self) -> (f64, f64) {
        let (low, high) = self.loss.default_clip();
        (self.clip_low.unwrap_or(low), self.clip_high.unwrap_or(high))
    }
}

fn weights_of(model: &ModelConfig, flat: &Tensor) -> Result<Weights, StepError> {
    let values = to_vec(flat)?;
    Weights::from_values(model, values).ok_or_else(|| TchError::Shape("not one number a parameter".into()).into())
}
