//! The losses: what a policy's log-probabilities, advantages and examples are turned into.
//!
//! Notation: `o_i` is completion `i` of a group, `r_it = exp(logp - old)` the probability ratio of its
//! token `t` between the policy and the policy before the update, `A_i` its advantage. Losses are sums
//! over tokens, each with a weight that carries the averaging (see [`Loss::token_weight`]): a batch may
//! then be computed in any pieces.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

/// Which policy loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Group-relative policy optimisation as in DAPO (Yu et al., "DAPO", 2025, equation 8), which swarm
    /// sampling uses as well (arXiv 2509.08721, section 4): `-min(r A, clip(r, 1 - low, 1 + high) A)`,
    /// averaged over all tokens of the batch. `A = (reward - mean) / (sd + 1e-4)`.
    #[default]
    Grpo,
    /// Liu et al., "Understanding R1-Zero-Like Training" (Dr. GRPO), 2025, section 3.2: as
    /// [`Loss::Grpo`], but `A = reward - mean`, and each completion's sum is divided by a constant length.
    DrGrpo,
    /// MiniMax, "MiniMax-M1" (CISPO), 2025, equation 4: `-sg(min(r, high)) A logp`, where `sg` stops the
    /// gradient: no token loses its gradient. Averaged over all tokens. `high` is a bound on the ratio
    /// itself, 5 as in Khatri et al., "The Art of Scaling RL Compute" (ScaleRL), 2025.
    Cispo,
    /// Zheng et al., "Group Sequence Policy Optimization", 2025, equations 5 to 7: the ratio is that of
    /// the sequence, `s_i = exp(mean over t of log r_it)`, clipped as in [`Loss::Grpo`]; averaged over
    /// completions.
    Gspo,
}

impl Loss {
    /// The bounds that the loss was published with: `(low, high)`.
    pub fn default_clip(self) -> (f64, f64) {
        match self {
            Self::Grpo | Self::DrGrpo => (0.2, 0.28),
            Self::Cispo => (1.0, 5.0),
            Self::Gspo => (3e-4, 4e-4),
        }
    }

    /// The weight of a token in the average over a batch of `sequences` completions with `tokens` tokens
    /// in all, if its completion has `length` tokens. `divisor` is the constant length of
    /// [`Loss::DrGrpo`].
    pub fn token_weight(self, length: usize, sequences: usize, tokens: usize, divisor: usize) -> f64 {
        match self {
            Self::Grpo | Self::Cispo => 1.0 / tokens as f64,
            Self::DrGrpo => 1.0 / (sequences * divisor) as f64,
            Self::Gspo => 1.0 / (sequences * length) as f64,
        }
    }

    /// The advantages of a group's completions. All zero where all rewards are equal, as in a group of one.
    ///
    /// The deviation is that of a sample, over `n - 1`, as torch's `std` has it.
    pub fn advantages(self, rewards: &[f32]) -> Vec<f32> {
        let Some((first, others)) = rewards.split_first() else { return Vec::new() };
        if others.iter().all(|reward| reward == first) {
            return vec![0.0; rewards.len()];
        }
        let count = rewards.len() as f64;
        let mean = rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / count;
        let centred: Vec<f64> = rewards.iter().map(|&r| f64::from(r) - mean).collect();
        let scale = match self {
            Self::DrGrpo => 1.0,
            _ => (centred.iter().map(|c| c * c).sum::<f64>() / (count - 1.0)).sqrt() + 1e-4,
        };
        centred.into_iter().map(|c| (c / scale) as f32).collect()
    }
}

/// How far the ratio may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clip {
    pub(crate) loss: Loss,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Largest ratio with which a completion of negative advantage is pushed down (Prime Intellect,
    /// "INTELLECT-2", 2025, section 3.4, where it is 4): without it the loss has no bound there.
    pub(crate) ratio_cap: Option<f64>,
}

/// Per-token tensors of a micro-batch, `[tokens]` each.
pub(crate) struct Tokens<'a> {
    /// The policy's log-probabilities, with their graph.
    pub(crate) logp: &'a Tensor,
    /// Those before the update, without one.
    pub(crate) old: &'a Tensor,
    pub(crate) advantage: &'a Tensor,
    /// See [`Loss::token_weight`]; 0 for tokens that are no part of the policy loss.
    pub(crate) weight: &'a Tensor,
    /// For [`Loss::Gspo`] alone.
    pub(crate) sequences: Option<&'a Sequences>,
}

/// Which completion each token of a micro-batch is of.
pub(crate) struct Sequences {
    /// `[tokens] i64`, below `count`.
    pub(crate) of: Tensor,
    /// `[tokens]`: one over the length of the completion.
    pub(crate) inverse_length: Tensor,
    pub(crate) count: i64,
}

/// The policy loss of a micro-batch: a scalar with its graph, and `[tokens]` of ones where the ratio was clipped.
pub(crate) fn policy_loss(clip: &Clip, tokens: &Tokens<'_>) -> Result<(Tensor, Tensor), TchError> {
    let advantage = tokens.advantage;
    let mut log_ratio = tokens.logp.f_sub(tokens.old)?;
    if let Some(sequences) = tokens.sequences {
        let zeros = Tensor::f_zeros([sequences.count], (log_ratio.f_kind()?, log_ratio.device()))?;
        let means = zeros.f_index_add(0, &sequences.of, &log_ratio.f_mul(&sequences.inverse_length)?)?;
        log_ratio = means.f_index_select(0, &sequences.of)?;
    }
    let ratio = log_ratio.f_exp()?;
    if clip.loss == Loss::Cispo {
        let ratio = ratio.f_detach()?;
        let bounded = ratio.f_clamp_max(clip.ratio_cap.map_or(clip.high, |cap| cap.min(clip.high)))?;
        let gain = bounded.f_mul(advantage)?.f_mul(tokens.logp)?;
        let clipped = ratio.f_gt(clip.high)?;
        return Ok((weighted_sum(&gain.f_neg()?, tokens.weight)?, clipped.f_to_kind(Kind::Float)?));
    }
    let clipped = ratio.f_clamp(1.0 - clip.low, 1.0 + clip.high)?.f_mul(advantage)?;
    // The cap is above the upper bound, so it can act on negative advantages alone.
    let free = match clip.ratio_cap {
        Some(cap) => ratio.f_clamp_max(cap)?.f_mul(advantage)?,
        None => ratio.f_mul(advantage)?,
    };
    let gain = free.f_minimum(&clipped)?;
    let was_clipped = clipped.f_detach()?.f_lt_tensor(&free.f_detach()?)?.f_to_kind(Kind::Float)?;
    Ok((weighted_sum(&gain.f_neg()?, tokens.weight)?, was_clipped))
}

/// The estimator `exp(d) - d - 1` with `d = reference - logp` of the divergence from a reference policy
/// (Schulman, "Approximating KL Divergence", 2020, k3; Shao et al., "DeepSeekMath", 2024, equation 4),
/// summed with weights: a scalar with its graph.
pub(crate) fn kl_loss(logp: &Tensor, reference: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
    let difference = reference.f_sub(logp)?;
    weighted_sum(&difference.f_expm1()?.f_sub(&difference)?, weight)
}

/// Cross-entropy of given completions, `-sum weight logp`: a scalar with its graph.
pub(crate) fn imitation_loss(logp: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
    weighted_sum(logp, weight)?.f_neg()
}

fn weighted_sum(values: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
    values.f_dot(weight)
}

#[cfg(test)]
mod tests;
