//! When each piece of a schedule happens, given what everything costs.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::schedule::{Arrivals, Message, Op, Pass, Payload, Schedule, ScheduleError, awaited, sent};

/// What it costs to hand something over between two virtual stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Seconds on the way, during which other messages may follow.
    pub latency_s: f64,
    /// Of one micro-batch, the same for activations and gradients.
    pub bytes: f64,
    /// Bytes a second, each way; may be infinite.
    pub bandwidth: f64,
}

impl Transfer {
    /// Seconds for which it keeps the link busy.
    pub fn occupied_s(&self) -> f64 {
        if self.bytes > 0.0 { self.bytes / self.bandwidth } else { 0.0 }
    }
}

/// What everything costs, by virtual stage: chunk `c` of stage `s` is `c * stages + s`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Seconds of one micro-batch's forward pass.
    pub forward_s: Vec<f64>,
    /// Seconds for the gradients of inputs, recomputation included.
    pub input_gradient_s: Vec<f64>,
    /// Seconds for the gradients of weights.
    pub weight_gradient_s: Vec<f64>,
    /// By boundary: entry `i` lies between virtual stages `i` and `i + 1`.
    pub transfers: Vec<Transfer>,
    /// Kept from the forward to the end of the backward pass of one micro-batch.
    pub activation_bytes: Vec<u64>,
    /// By stage, how many micro-batches' activations [`Kind::DelayAware`](crate::schedule::Kind::DelayAware) may keep; if empty, as
    /// many as the first stage of 1F1B keeps, which is one for each stage.
    #[serde(default)]
    pub live_limit: Vec<usize>,
}

impl Costs {
    /// The same for all virtual stages, with transfers that take no time.
    pub fn even(virtual_stages: usize, forward_s: f64, input_gradient_s: f64, weight_gradient_s: f64) -> Self {
        Self {
            forward_s: vec![forward_s; virtual_stages],
            input_gradient_s: vec![input_gradient_s; virtual_stages],
            weight_gradient_s: vec![weight_gradient_s; virtual_stages],
            transfers: vec![Transfer::default(); virtual_stages.saturating_sub(1)],
            activation_bytes: vec![0; virtual_stages],
            live_limit: Vec::new(),
        }
    }

    /// Seconds of a piece of work on a virtual stage.
    pub fn seconds(&self, pass: Pass, virtual_stage: usize) -> f64 {
        match pass {
            Pass::Forward => self.forward_s[virtual_stage],
            Pass::Backward => self.input_gradient_s[virtual_stage] + self.weight_gradient_s[virtual_stage],
            Pass::InputGradient => self.input_gradient_s[virtual_stage],
            Pass::WeightGradient => self.weight_gradient_s[virtual_stage],
        }
    }

    pub(crate) fn check(&self, stages: usize, chunks: usize) -> Result<(), ScheduleError> {
        let count = stages * chunks;
        let limits = if self.live_limit.is_empty() { 0 } else { stages };
        for (what, expected, found) in [
            ("times of forward passes", count, self.forward_s.len()),
            ("times of gradients of inputs", count, self.input_gradient_s.len()),
            ("times of gradients of weights", count, self.weight_gradient_s.len()),
            ("transfers", count.saturating_sub(1), self.transfers.len()),
            ("sizes of activations", count, self.activation_bytes.len()),
            ("limits of activations", limits, self.live_limit.len()),
        ] {
            if expected != found {
                return Err(ScheduleError::Costs { what, expected, found });
            }
        }
        Ok(())
    }

    /// At least one, without which nothing could be done.
    pub(crate) fn limit(&self, stage: usize, stages: usize, micro_batches: usize) -> usize {
        self.live_limit.get(stage).copied().unwrap_or(stages).clamp(1, micro_batches.max(1))
    }
}

/// When a piece of work is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// What.
    pub op: Op,
    /// When it begins.
    pub start_s: f64,
    /// When it ends.
    pub end_s: f64,
}

/// When a message is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TransferSpan {
    /// The stage that sends.
    pub from: usize,
    /// The stage that receives.
    pub to: usize,
    /// What.
    pub message: Message,
    /// When the link begins with it, which is later than the end of the work that made it if the link was busy.
    pub start_s: f64,
    /// When it has arrived.
    pub arrival_s: f64,
}

/// When everything happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// By stage, in order.
    pub ops: Vec<Vec<Span>>,
    /// In the order in which they were sent by each stage; transfers within a stage are left out.
    pub transfers: Vec<TransferSpan>,
    /// When the last stage ends.
    pub makespan_s: f64,
    /// By stage, the time for which it works.
    pub busy_s: Vec<f64>,
    /// Idle time as a part of all time, over all stages: (p - 1) / (m + p - 1) for 1F1B with p equal stages and m micro-batches.
    /// (The other convention, idle over ideal time, would be (p - 1) / m.)
    pub bubble: f64,
    /// By stage, see [`peak_live_activations`](crate::schedule::peak_live_activations).
    pub peak_live_activations: Vec<usize>,
    /// By stage, the most bytes of activations kept at once.
    pub peak_activation_bytes: Vec<u64>,
}

/// When everything of a schedule happens. A stage does one thing at a time, in its program's order. Transfers go on beside the
/// work; those from one stage to another share a link and follow each other on it, but not its latency.
///
/// # Errors
/// If the costs have another size than the schedule, or a stage waits for ever.
pub fn simulate(schedule: &Schedule, costs: &Costs) -> Result<Timeline, ScheduleError> {
    costs.check(schedule.stages, schedule.chunks)?;
    let stages = schedule.stages;
    let mut arrived = Arrivals::new(schedule, f64::INFINITY);
    let mut wires: HashMap<(usize, usize), Wire> = HashMap::new();
    let mut ops: Vec<Vec<Span>> = schedule.programs.iter().map(|program| Vec::with_capacity(program.len())).collect();
    let mut transfers = Vec::new();
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for (stage, program) in schedule.programs.iter().enumerate() {
            while let Some(&op) = program.get(ops[stage].len()) {
                let ready = awaited(schedule, stage, &op).map_or(0.0, |message| arrived.get(message));
                if ready == f64::INFINITY {
                    break;
                }
                let start_s = ops[stage].last().map_or(0.0, |last| last.end_s).max(ready);
                let virtual_stage = schedule.virtual_stage(stage, op.chunk);
                let end_s = start_s + costs.seconds(op.pass, virtual_stage);
                ops[stage].push(Span { op, start_s, end_s });
                moved = true;
                let Some(message) = sent(schedule, stage, &op) else { continue };
                let to = message.virtual_stage % stages;
                if to == stage {
                    arrived.set(message, end_s);
                    continue;
                }
                let boundary = match message.payload {
                    Payload::Activation => virtual_stage,
                    Payload::Gradient => message.virtual_stage,
                };
                let wire = wires.entry((stage, to)).or_default();
                let (start_s, arrival_s) = wire.send(end_s, &costs.transfers[boundary]);
                arrived.set(message, arrival_s);
                transfers.push(TransferSpan { from: stage, to, message, start_s, arrival_s });
            }
        }
    }
    for (stage, program) in schedule.programs.iter().enumerate() {
        if let Some(&op) = program.get(ops[stage].len()) {
            return Err(ScheduleError::Deadlock { stage, op });
        }
    }
    let makespan_s = ops.iter().filter_map(|ops| ops.last()).map(|last| last.end_s).fold(0.0, f64::max);
    let busy_s: Vec<f64> = ops.iter().map(|ops| ops.iter().map(|span| span.end_s - span.start_s).sum()).collect();
    let total = makespan_s * stages as f64;
    let bubble = if total > 0.0 { (total - busy_s.iter().sum::<f64>()) / total } else { 0.0 };
    Ok(Timeline {
        bubble,
        makespan_s,
        busy_s,
        transfers,
        ops,
        peak_live_activations: crate::schedule::peak_live_activations(schedule),
        peak_activation_bytes: (0..stages).map(|stage| peak_bytes(schedule, costs, stage)).collect(),
    })
}

/// A link in one direction: what was sent last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wire {
    free_s: f64,
}

impl Wire {
    /// When the link begins with something that is ready at a time, and when it has arrived.
    pub(crate) fn send(&mut self, ready_s: f64, transfer: &Transfer) -> (f64, f64) {
        let start = self.free_s.max(ready_s);
        self.free_s = start + transfer.occupied_s();
        (start, self.free_s + transfer.latency_s)
    }
}

fn peak_bytes(schedule: &Schedule, costs: &Costs, stage: usize) -> u64 {
    let (mut live, mut peak) = (0_u64, 0);
    for op in &schedule.programs[stage] {
        let bytes = costs.activation_bytes[schedule.virtual_stage(stage, op.chunk)];
        match op.pass {
            Pass::Forward => live = live.saturating_add(bytes),
            Pass::Backward | Pass::WeightGradient => live = live.saturating_sub(bytes),
            Pass::InputGradient => {}
        }
        peak = peak.max(live);
    }
    peak
}
