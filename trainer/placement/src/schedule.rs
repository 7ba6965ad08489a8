//! Pipeline schedules: the order in which every stage works on its micro-batches.

mod greedy;
mod orders;
#[cfg(test)]
mod tests;
mod verify;

use serde::{Deserialize, Serialize};

use crate::timeline::Costs;

pub(crate) use verify::{Arrivals, awaited, sent};
pub use verify::{messages, peak_live_activations, verify};

/// What a stage does with a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Activations from those of the stage before.
    Forward,
    /// Gradients of inputs and weights at once.
    Backward,
    /// Gradients of inputs alone; those of the weights come later.
    InputGradient,
    /// What [`Pass::InputGradient`] has left over.
    WeightGradient,
}

/// One piece of a stage's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Op {
    /// What is done.
    pub pass: Pass,
    /// Which micro-batch, from 0.
    pub micro_batch: usize,
    /// Which of the stage's chunks of layers, from 0. Chunk `c` of stage `s` is virtual stage `c * stages + s`.
    pub chunk: usize,
}

/// A rule that orders the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// All forward passes, then all backward passes (Huang et al. 2019). Keeps the activations of all micro-batches.
    #[serde(rename = "gpipe")]
    Gpipe,
    /// As few forward passes ahead as keep all stages busy, then one forward, one backward (Narayanan et al. 2019, 2021).
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// The same with several chunks of layers on each stage, in Megatron's order (Narayanan et al. 2021, section 2.2).
    #[serde(rename = "interleaved")]
    Interleaved,
    /// Gradients of weights fill the bubble, with no more activations than the first stage of 1F1B keeps (Qi et al. 2023, ZB-H1).
    #[serde(rename = "zb-h1")]
    ZeroBubble,
    /// What is ready when links have delays: as many forward passes ahead as memory allows, gradients of inputs before those of
    /// weights, which fill gaps. Never slower in the simulation than 1F1B and ZB-H1 where those fit the same memory.
    #[serde(rename = "delay-aware")]
    DelayAware,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Gpipe, Self::OneForwardOneBackward, Self::Interleaved, Self::ZeroBubble, Self::DelayAware];

    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpipe => "gpipe",
            Self::OneForwardOneBackward => "1f1b",
            Self::Interleaved => "interleaved",
            Self::ZeroBubble => "zb-h1",
            Self::DelayAware => "delay-aware",
        }
    }
}

/// Who does what in which order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The rule that made it.
    pub kind: Kind,
    /// How many stages.
    pub stages: usize,
    /// How many micro-batches.
    pub micro_batches: usize,
    /// How many chunks of layers each stage has.
    pub chunks: usize,
    /// By stage.
    pub programs: Vec<Vec<Op>>,
}

impl Schedule {
    /// Which part of the model the chunk of a stage is: `chunk * stages + stage`.
    pub fn virtual_stage(&self, stage: usize, chunk: usize) -> usize {
        chunk * self.stages + stage
    }
}

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// The output of a forward pass, to the next virtual stage.
    Activation,
    /// The gradient of an input, to the virtual stage before.
    Gradient,
}

/// What one stage sends to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// What it carries.
    pub payload: Payload,
    /// Of which micro-batch.
    pub micro_batch: usize,
    /// The virtual stage that takes it.
    pub virtual_stage: usize,
}

/// All that one stage sends to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// The stage that sends.
    pub from: usize,
    /// The stage that receives.
    pub to: usize,
    /// In the order in which they are sent.
    pub messages: Vec<Message>,
}

/// Why there is no such schedule, or what is wrong with one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Numbers that do not go together.
    #[error("{kind} with {stages} stages, {micro_batches} micro-batches and {chunks} chunks: {what}", kind = kind.name())]
    Shape {
        /// The rule.
        kind: Kind,
        /// Stages asked for.
        stages: usize,
        /// Micro-batches asked for.
        micro_batches: usize,
        /// Chunks asked for.
        chunks: usize,
        /// What is missing.
        what: &'static str,
    },
    /// A table of costs has the wrong size.
    #[error("costs: {expected} {what} expected, {found} found")]
    Costs {
        /// Which table.
        what: &'static str,
        /// Entries that it should have.
        expected: usize,
        /// Entries that it has.
        found: usize,
    },
    /// A piece of work that is missing, repeated or too early in its stage's program.
    #[error("stage {stage}, {op:?}: {what}")]
    Program {
        /// Where.
        stage: usize,
        /// Which piece.
        op: Op,
        /// What is wrong.
        what: &'static str,
    },
    /// No stage can go on.
    #[error("stage {stage} waits for ever before {op:?}")]
    Deadlock {
        /// The first stage that has not ended.
        stage: usize,
        /// What it cannot begin.
        op: Op,
    },
}

/// The schedule of a kind. `costs` decide the order for [`Kind::DelayAware`], whose memory limit is
/// [`Costs::live_limit`]; other kinds only have their size checked. One stage does forward and backward of each micro-batch in turn,
/// whatever the kind.
///
/// # Errors
/// If a number is zero, only [`Kind::Interleaved`] can have the chunks and has micro-batches that are no multiple of the stages, or
/// the costs have another size.
pub fn build(
    kind: Kind,
    stages: usize,
    micro_batches: usize,
    chunks: usize,
    costs: &Costs,
) -> Result<Schedule, ScheduleError> {
    let wrong = |what| Err(ScheduleError::Shape { kind, stages, micro_batches, chunks, what });
    if stages == 0 || micro_batches == 0 || chunks == 0 {
        return wrong("each must be at least 1");
    }
    if chunks > 1 && kind != Kind::Interleaved {
        return wrong("only interleaved has several chunks");
    }
    if kind == Kind::Interleaved && !micro_batches.is_multiple_of(stages) {
        return wrong("micro-batches must be a multiple of the stages");
    }
    costs.check(stages, chunks)?;
    let from = |programs| Schedule { kind, stages, micro_batches, chunks, programs };
    if stages == 1 {
        return Ok(from(vec![orders::alone(micro_batches, chunks)]));
    }
    Ok(from(match kind {
        Kind::Gpipe => orders::gpipe(stages, micro_batches),
        Kind::OneForwardOneBackward => orders::one_forward_one_backward(stages, micro_batches),
        Kind::Interleaved => orders::interleaved(stages, micro_batches, chunks),
        Kind::ZeroBubble => orders::zero_bubble(stages, micro_batches),
        Kind::DelayAware => greedy::delay_aware(stages, micro_batches, costs)?,
    }))
}
