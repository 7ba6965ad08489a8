//! One update: gradient over micro-batches, finite or not, and the optimizer's step.

use tch::{TchError, Tensor};

use super::prepare::{Mark, Part};
use super::{LEAST_MICRO_BATCH, Learner, StepError, StepReport, weights_of};
use crate::adamw::{AdamW, Next, Settings};
use crate::batch::{Arrays, numbering};
use crate::layout;
use crate::losses::{self, Clip, Loss, Sequences, Tokens};
use crate::packing::{self, Plan};
use crate::policy::{Policy, to_vec};
use crate::weights::Weights;

/// What an update showed.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) loss: f64,
    pub(super) policy_loss: f64,
    /// Weighted.
    pub(super) imitation_loss: f64,
    pub(super) kl: Option<f64>,
    pub(super) grad_norm: f64,
    pub(super) clip_fraction: f64,
    pub(super) used_tokens: usize,
    pub(super) computed_tokens: usize,
    /// Of every target at the policy of the update, tree by tree.
    pub(super) log_probs: Vec<f32>,
}

/// The per-token numbers of a part, `[targets]` each, tree by tree.
struct Numbers {
    starts: Vec<Vec<usize>>,
    count: usize,
    /// The mark of each token's completion.
    marks: Vec<Mark>,
    /// Which completion each token is of.
    branch: Vec<usize>,
    /// Tokens of that completion.
    length: Vec<usize>,
}

impl Numbers {
    fn new(part: &Part) -> Self {
        let (starts, count) = numbering(&part.trees);
        let mut numbers =
            Self { starts, count, marks: Vec::with_capacity(count), branch: Vec::new(), length: Vec::new() };
        let branches = part.trees.iter().flat_map(|tree| &tree.branches).zip(part.marks.iter().flatten());
        for (index, (branch, mark)) in branches.enumerate() {
            numbers.marks.extend(std::iter::repeat_n(*mark, branch.len()));
            numbers.branch.extend(std::iter::repeat_n(index, branch.len()));
            numbers.length.extend(std::iter::repeat_n(branch.len(), branch.len()));
        }
        numbers
    }
}

/// The sums of a micro-batch that a report needs, `[4]`, in this order.
const SUMS: usize = 4;
const POLICY: usize = 0;
const KL: usize = 1;
const IMITATION: usize = 2;
const CLIPPED: usize = 3;

impl Learner {
    /// Tries an update. Inside is the outcome with the new weights, which the policy and the optimizer have
    /// taken over, or the reason why they did not.
    pub(super) fn try_update(
        &mut self,
        part: &Part,
        old: Option<&[f32]>,
        reference: Option<&[f32]>,
        learning_rate: f64,
        report: &mut StepReport,
    ) -> Result<Result<(Outcome, Weights), String>, StepError> {
        if self.optimizer.is_none() {
            self.optimizer = Some(AdamW::new(self.policy.flat())?);
        }
        let (outcome, next) = self.within_memory(report, |learner| {
            let (mut outcome, gradient) = learner.gradient(part, old, reference)?;
            outcome.grad_norm = gradient.f_norm()?.f_double_value(&[])?;
            let finite = outcome.loss.is_finite() && outcome.grad_norm.is_finite();
            let next = if finite { Some(learner.next(&gradient, outcome.grad_norm, learning_rate)?) } else { None };
            Ok((outcome, next))
        })?;
        let Some(next) = next else {
            return Ok(Err(format!("not finite: loss {} with gradient norm {}", outcome.loss, outcome.grad_norm)));
        };
        let weights = weights_of(self.policy.config(), &next.parameters)?;
        if !weights.is_finite() {
            return Ok(Err(format!("the weights would not be finite at learning rate {learning_rate}")));
        }
        self.policy.overwrite(&next.parameters)?;
        if let Some(optimizer) = &mut self.optimizer {
            optimizer.commit(next);
        }
        Ok(Ok((outcome, weights)))
    }

    /// Log-probabilities of a part's targets, under the policy or the reference.
    pub(super) fn log_probs_of(
        &mut self,
        part: &Part,
        of_reference: bool,
        report: &mut StepReport,
    ) -> Result<Vec<f32>, StepError> {
        if of_reference && self.reference_policy.is_none() {
            let new = |weights| Policy::new(self.policy.config(), weights, self.policy.device());
            self.reference_policy = self.reference.as_ref().map(new).transpose()?;
        }
        self.within_memory(report, |learner| {
            let reference = learner.reference_policy.as_ref().filter(|_| of_reference);
            let policy = reference.unwrap_or(&learner.policy);
            let numbers = Numbers::new(part);
            let mut log_probs = vec![0.0; numbers.count];
            let _no_grad = tch::no_grad_guard();
            for batch in &learner.plan(part).micro_batches {
                let arrays = Arrays::new(&part.trees, &numbers.starts, batch);
                learner.check_memory(&arrays)?;
                let values = to_vec(&policy.forward(&policy.inputs(&arrays)?)?)?;
                for (&number, value) in arrays.number.iter().zip(values) {
                    log_probs[number] = value;
                }
            }
            Ok(log_probs)
        })
    }

    /// Loss and gradient over all micro-batches of a part.
    fn gradient(
        &self,
        part: &Part,
        old: Option<&[f32]>,
        reference: Option<&[f32]>,
    ) -> Result<(Outcome, Tensor), TchError> {
        let numbers = Numbers::new(part);
        let plan = self.plan(part);
        let mut outcome = Outcome { used_tokens: plan.used(), computed_tokens: plan.computed(), ..Outcome::default() };
        let mut gradient: Option<Tensor> = None;
        let mut shown = Vec::new();
        let mut order = Vec::new();
        for batch in &plan.micro_batches {
            let arrays = Arrays::new(&part.trees, &numbers.starts, batch);
            self.check_memory(&arrays)?;
            let logp = self.policy.forward(&self.policy.inputs(&arrays)?)?;
            let (loss, sums) = self.losses(&logp, &arrays, &numbers, old, reference)?;
            let more = Tensor::f_run_backward(&[loss], &[self.policy.flat()], false, false)?;
            for more in more {
                gradient = Some(match gradient.take() {
                    None => more,
                    Some(mut sum) => {
                        let _ = sum.f_add_(&more)?;
                        sum
                    }
                });
            }
            shown.push(sums);
            shown.push(logp.f_detach()?);
            order.push(arrays.number);
        }
        // One copy from the device for all.
        let shown = to_vec(&Tensor::f_cat(&shown, 0)?)?;
        let mut shown = &shown[..];
        let mut sums = [0.0f64; SUMS];
        outcome.log_probs = vec![0.0; numbers.count];
        for order in order {
            let (of_batch, rest) = shown.split_at(SUMS);
            let (values, rest) = rest.split_at(order.len());
            for (sum, &value) in sums.iter_mut().zip(of_batch) {
                *sum += f64::from(value);
            }
            for (number, &value) in order.into_iter().zip(values) {
                outcome.log_probs[number] = value;
            }
            shown = rest;
        }
        let policy_tokens: f64 =
            numbers.marks.iter().filter(|mark| mark.policy > 0.0).map(|mark| f64::from(mark.count)).sum();
        outcome.policy_loss = sums[POLICY];
        outcome.imitation_loss = sums[IMITATION];
        outcome.kl = reference.map(|_| sums[KL]);
        outcome.clip_fraction = sums[CLIPPED] / policy_tokens.max(1.0);
        outcome.loss = sums[POLICY] + self.config.kl_weight * sums[KL] + sums[IMITATION];
        let gradient = gradient.ok_or_else(|| TchError::Shape("a part without a micro-batch".into()))?;
        Ok((outcome, gradient))
    }

    /// The loss of a micro-batch, with its graph, and [`SUMS`] without.
    fn losses(
        &self,
        logp: &Tensor,
        arrays: &Arrays,
        numbers: &Numbers,
        old: Option<&[f32]>,
        reference: Option<&[f32]>,
    ) -> Result<(Tensor, Tensor), TchError> {
        let device = self.policy.device().torch();
        let order = &arrays.number;
        let values = |value: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = order.iter().map(|&number| value(number)).collect();
            Tensor::f_from_slice(&values)?.f_to_device(device)
        };
        let has = |part: fn(&Mark) -> f32| order.iter().any(|&number| part(&numbers.marks[number]) > 0.0);
        let zero = Tensor::f_zeros([], (tch::Kind::Float, device))?;
        let mut sums = [zero.shallow_clone(), zero.shallow_clone(), zero.shallow_clone(), zero];
        let mut losses = Vec::new();
        if has(|mark| mark.policy) {
            let weight = values(&|number| numbers.marks[number].policy)?;
            let tokens = Tokens {
                logp,
                old: &old.map_or_else(|| logp.f_detach(), |old| values(&|number| old[number]))?,
                advantage: &values(&|number| numbers.marks[number].advantage)?,
                weight: &weight,
                sequences: match self.config.loss {
                    Loss::Gspo => Some(&sequences(order, numbers, device)?),
                    _ => None,
                },
            };
            let (low, high) = self.config.clip();
            let clip = Clip { loss: self.config.loss, low, high, ratio_cap: self.config.ratio_cap };
            let (loss, clipped) = losses::policy_loss(&clip, &tokens)?;
            let counts = values(&|number| {
                let mark = &numbers.marks[number];
                if mark.policy > 0.0 { mark.count } else { 0.0 }
            })?;
            sums[CLIPPED] = clipped.f_dot(&counts)?;
            sums[POLICY] = loss.f_detach()?;
            losses.push(loss);
            if let Some(reference) = reference {
                let kl = losses::kl_loss(logp, &values(&|number| reference[number])?, &weight)?;
                sums[KL] = kl.f_detach()?;
                losses.push(kl.f_mul_scalar(self.config.kl_weight)?);
            }
        }
        if has(|mark| mark.imitation) {
            let loss = losses::imitation_loss(logp, &values(&|number| numbers.marks[number].imitation)?)?;
            sums[IMITATION] = loss.f_detach()?;
            losses.push(loss);
        }
        let mut losses = losses.into_iter();
        let mut loss = losses.next().ok_or_else(|| TchError::Shape("a micro-batch without a loss".into()))?;
        for more in losses {
            loss = loss.f_add(&more)?;
        }
        Ok((loss, Tensor::f_stack(&sums, 0)?))
    }

    fn next(&self, gradient: &Tensor, norm: f64, learning_rate: f64) -> Result<Next, TchError> {
        let settings = Settings {
            learning_rate,
            betas: self.config.betas,
            weight_decay: self.config.weight_decay,
            decaying: layout::matrices(self.policy.config()) as i64,
        };
        let scale = if norm > self.config.max_grad_norm { self.config.max_grad_norm / norm } else { 1.0 };
        let optimizer = self.optimizer.as_ref().ok_or_else(|| TchError::Shape("no optimizer".into()))?;
        optimizer.next(self.policy.flat(), gradient, scale, &settings)
    }

    fn plan(&self, part: &Part) -> Plan {
        let lengths: Vec<_> = part.trees.iter().map(|tree| tree.lengths()).collect();
        packing::plan(&lengths, self.micro_batch_tokens, self.policy.even_length())
    }

    /// Does `work` again with half as many tokens at once as often as memory runs out.
    fn within_memory<T>(
        &mut self,
        report: &mut StepReport,
        work: impl Fn(&Self) -> Result<T, TchError>,
    ) -> Result<T, StepError> {
        loop {
            let source = match work(self) {
                Err(error) if is_out_of_memory(&error) => error,
                other => return Ok(other?),
            };
            report.out_of_memory += 1;
            let tokens = self.micro_batch_tokens;
            if tokens / 2 < LEAST_MICRO_BATCH {
                return Err(StepError::OutOfMemory { tokens, source });
            }
            self.micro_batch_tokens = tokens / 2;
            tracing::warn!(tokens = tokens / 2, "memory ran out: fewer tokens at once from here on");
        }
    }

    #[cfg(not(test))]
    fn check_memory(&self, _: &Arrays) -> Result<(), TchError> {
        Ok(())
    }

    #[cfg(test)]
    fn check_memory(&self, arrays: &Arrays) -> Result<(), TchError> {
        if arrays.tokens.len() <= self.memory_tokens {
            return Ok(());
        }
        Err(TchError::Torch(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory".into(),
        ))
    }
}

/// Numbers the completions of a micro-batch from 0.
fn sequences(order: &[usize], numbers: &Numbers, device: tch::Device) -> Result<Sequences, TchError> {
    let mut of: Vec<i64> = Vec::with_capacity(order.len());
    let mut inverse_length = Vec::with_capacity(order.len());
    let (mut count, mut last) = (0, None);
    for &number in order {
        // The tokens of a completion lie together.
        if last != Some(numbers.branch[number]) {
            last = Some(numbers.branch[number]);
            count += 1;
        }
        of.push(count - 1);
        inverse_length.push(1.0 / numbers.length[number] as f32);
    }
    Ok(Sequences {
        of: Tensor::f_from_slice(&of)?.f_to_device(device)?,
        inverse_length: Tensor::f_from_slice(&inverse_length)?.f_to_device(device)?,
        count,
    })
}

/// What the allocators of libtorch say: the CPU's ("can't allocate memory", "not enough memory") and CUDA's.
fn is_out_of_memory(error: &TchError) -> bool {
    let text = error.to_string().to_lowercase();
    ["can't allocate memory", "not enough memory", "out of memory"].iter().any(|phrase| text.contains(phrase))
}
