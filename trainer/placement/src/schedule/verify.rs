//! Whether a schedule does all that has to be done, in an order that can be carried out.

use super::{Channel, Message, Op, Pass, Payload, Schedule, ScheduleError};

/// Checks that every micro-batch passes every chunk forward once and back once, at once or in two parts, in this order, and
/// that with messages of which any number may wait no stage waits for ever.
///
/// # Errors
/// The first piece of work that is missing, repeated or too early, or before which a stage waits for ever.
pub fn verify(schedule: &Schedule) -> Result<(), ScheduleError> {
    let Schedule { kind, stages, micro_batches, chunks, ref programs } = *schedule;
    if programs.len() != stages || stages == 0 || micro_batches == 0 || chunks == 0 {
        let what = "there must be a program for every stage, and no number zero";
        return Err(ScheduleError::Shape { kind, stages, micro_batches, chunks, what });
    }
    for (stage, program) in programs.iter().enumerate() {
        check_program(schedule, stage, program)?;
    }
    check_progress(schedule)
}

/// By stage, how many pairs of micro-batch and chunk are at most between their forward pass and the end of their backward
/// pass, whose activations are kept.
pub fn peak_live_activations(schedule: &Schedule) -> Vec<usize> {
    let peak = |program: &Vec<Op>| {
        let (mut live, mut peak) = (0_usize, 0);
        for op in program {
            match op.pass {
                Pass::Forward => live += 1,
                Pass::Backward | Pass::WeightGradient => live = live.saturating_sub(1),
                Pass::InputGradient => {}
            }
            peak = peak.max(live);
        }
        peak
    };
    schedule.programs.iter().map(peak).collect()
}

/// What every stage sends to every other, in the order in which it sends. A receiver that takes the messages of one sender in
/// another order has to set some aside. Pairs that exchange nothing are left out.
pub fn messages(schedule: &Schedule) -> Vec<Channel> {
    let mut channels: Vec<Channel> = Vec::new();
    for (from, program) in schedule.programs.iter().enumerate() {
        for op in program {
            let Some(message) = sent(schedule, from, op) else { continue };
            let to = message.virtual_stage % schedule.stages;
            if to == from {
                continue;
            }
            match channels.iter_mut().find(|channel| channel.from == from && channel.to == to) {
                Some(channel) => channel.messages.push(message),
                None => channels.push(Channel { from, to, messages: vec![message] }),
            }
        }
    }
    channels.sort_by_key(|channel| (channel.from, channel.to));
    channels
}

/// What a piece of work has to wait for from another virtual stage.
pub(crate) fn awaited(schedule: &Schedule, stage: usize, op: &Op) -> Option<Message> {
    let virtual_stage = schedule.virtual_stage(stage, op.chunk);
    let last = schedule.stages * schedule.chunks - 1;
    let payload = match op.pass {
        Pass::Forward if virtual_stage > 0 => Payload::Activation,
        Pass::Backward | Pass::InputGradient if virtual_stage < last => Payload::Gradient,
        _ => return None,
    };
    Some(Message { payload, micro_batch: op.micro_batch, virtual_stage })
}

/// What a piece of work makes for another virtual stage.
pub(crate) fn sent(schedule: &Schedule, stage: usize, op: &Op) -> Option<Message> {
    let virtual_stage = schedule.virtual_stage(stage, op.chunk);
    let last = schedule.stages * schedule.chunks - 1;
    let micro_batch = op.micro_batch;
    match op.pass {
        Pass::Forward if virtual_stage < last => {
            Some(Message { payload: Payload::Activation, micro_batch, virtual_stage: virtual_stage + 1 })
        }
        Pass::Backward | Pass::InputGradient if virtual_stage > 0 => {
            Some(Message { payload: Payload::Gradient, micro_batch, virtual_stage: virtual_stage - 1 })
        }
        _ => None,
    }
}

/// How far a micro-batch has come on a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Nothing,
    Forward,
    InputGradient,
    All,
}

fn check_program(schedule: &Schedule, stage: usize, program: &[Op]) -> Result<(), ScheduleError> {
    let mut progress = vec![Progress::Nothing; schedule.micro_batches * schedule.chunks];
    for &op in program {
        let wrong = |what| Err(ScheduleError::Program { stage, op, what });
        if op.micro_batch >= schedule.micro_batches || op.chunk >= schedule.chunks {
            return wrong("there is no such micro-batch or chunk");
        }
        let at = &mut progress[op.micro_batch * schedule.chunks + op.chunk];
        *at = match (op.pass, *at) {
            (Pass::Forward, Progress::Nothing) => Progress::Forward,
            (Pass::Backward, Progress::Forward) | (Pass::WeightGradient, Progress::InputGradient) => Progress::All,
            (Pass::InputGradient, Progress::Forward) => Progress::InputGradient,
            (Pass::Forward, _) | (_, Progress::All) => return wrong("it is there twice"),
            (Pass::InputGradient | Pass::Backward, Progress::InputGradient) => return wrong("it is there twice"),
            (_, Progress::Nothing) => return wrong("it comes before its forward pass"),
            (Pass::WeightGradient, Progress::Forward) => return wrong("it comes before the gradient of its input"),
        };
    }
    for (index, at) in progress.iter().enumerate() {
        let pass = match at {
            Progress::All => continue,
            Progress::Nothing => Pass::Forward,
            Progress::Forward => Pass::Backward,
            Progress::InputGradient => Pass::WeightGradient,
        };
        let op = Op { pass, micro_batch: index / schedule.chunks, chunk: index % schedule.chunks };
        return Err(ScheduleError::Program { stage, op, what: "it is missing" });
    }
    Ok(())
}

fn check_progress(schedule: &Schedule) -> Result<(), ScheduleError> {
    let mut arrived = Arrivals::new(schedule, false);
    let mut next = vec![0; schedule.stages];
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for (stage, program) in schedule.programs.iter().enumerate() {
            while let Some(op) = program.get(next[stage]) {
                if awaited(schedule, stage, op).is_some_and(|message| !arrived.get(message)) {
                    break;
                }
                if let Some(message) = sent(schedule, stage, op) {
                    arrived.set(message, true);
                }
                next[stage] += 1;
                moved = true;
            }
        }
    }
    for (stage, program) in schedule.programs.iter().enumerate() {
        if let Some(&op) = program.get(next[stage]) {
            return Err(ScheduleError::Deadlock { stage, op });
        }
    }
    Ok(())
}

/// Something known of every message.
#[derive(Debug)]
pub(crate) struct Arrivals<T> {
    micro_batches: usize,
    activations: Vec<T>,
    gradients: Vec<T>,
}

impl<T: Copy> Arrivals<T> {
    pub(crate) fn new(schedule: &Schedule, before: T) -> Self {
        let count = schedule.stages * schedule.chunks * schedule.micro_batches;
        let all = vec![before; count];
        Self { micro_batches: schedule.micro_batches, activations: all.clone(), gradients: all }
    }

    pub(crate) fn get(&self, message: Message) -> T {
        let index = message.virtual_stage * self.micro_batches + message.micro_batch;
        match message.payload {
            Payload::Activation => self.activations[index],
            Payload::Gradient => self.gradients[index],
        }
    }

    pub(crate) fn set(&mut self, message: Message, value: T) {
        let index = message.virtual_stage * self.micro_batches + message.micro_batch;
        match message.payload {
            Payload::Activation => self.activations[index] = value,
            Payload::Gradient => self.gradients[index] = value,
        }
    }
}
