//! The order that knows the links' delays: list scheduling, in the manner of CrossPipe (Chen et al. 2025).

use super::{Kind, Op, Pass, Schedule, ScheduleError, orders, peak_live_activations};
use crate::timeline::{Costs, Wire, simulate};

/// The fastest in the simulation of 1F1B, ZB-H1 and several greedy orders that keep to the memory limit.
pub(super) fn delay_aware(stages: usize, micro_batches: usize, costs: &Costs) -> Result<Vec<Vec<Op>>, ScheduleError> {
    let limits: Vec<usize> = (0..stages).map(|stage| costs.limit(stage, stages, micro_batches)).collect();
    let mut best: Option<(f64, Schedule)> = None;
    let mut consider = |programs: Vec<Vec<Op>>| {
        let schedule = Schedule { kind: Kind::DelayAware, stages, micro_batches, chunks: 1, programs };
        if peak_live_activations(&schedule).iter().zip(&limits).any(|(peak, limit)| peak > limit) {
            return Ok(());
        }
        let seconds = simulate(&schedule, costs)?.makespan_s;
        // Of equals the first, which is the simplest: sums in another order may differ in their last bits.
        if best.as_ref().is_none_or(|best| seconds < best.0 * (1.0 - 1e-12)) {
            best = Some((seconds, schedule));
        }
        Ok::<(), ScheduleError>(())
    };
    consider(orders::one_forward_one_backward(stages, micro_batches))?;
    consider(orders::zero_bubble(stages, micro_batches))?;
    for prefer in [Prefer::Gradients, Prefer::Turns, Prefer::Forward] {
        consider(list(stages, micro_batches, costs, &limits, &Policy { prefer, split: None }))?;
        for patience in [0.0, 0.5, 1.0] {
            consider(list(stages, micro_batches, costs, &limits, &Policy { prefer, split: Some(patience) }))?;
        }
    }
    // A limit of at least one is kept by every list.
    Ok(best.map(|best| best.1.programs).unwrap_or_default())
}

/// Which of two comes first where both could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefer {
    Gradients,
    Forward,
    /// Whatever was not done last.
    Turns,
}

#[derive(Debug)]
struct Policy {
    prefer: Prefer,
    /// Gradients of weights apart, begun only where nothing else is known to become ready within this part of their time.
    split: Option<f64>,
}

/// What is known of a stage while its program grows.
#[derive(Debug)]
struct Stage {
    free_s: f64,
    forward: usize,
    gradient: usize,
    weight: usize,
    last: Pass,
    /// By micro-batch; infinite while unknown.
    activations: Vec<f64>,
    gradients: Vec<f64>,
    forward_wire: Wire,
    backward_wire: Wire,
    program: Vec<Op>,
}

impl Stage {
    /// When it could begin what next.
    fn choose(&self, micro_batches: usize, limit: usize, weight_s: f64, policy: &Policy) -> Option<(f64, Pass)> {
        let begin = |arrival: Option<&f64>| arrival.map_or(f64::INFINITY, |arrival| arrival.max(self.free_s));
        let done = if policy.split.is_some() { self.weight } else { self.gradient };
        let room = self.forward < micro_batches && self.forward - done < limit;
        let forward = if room { begin(self.activations.get(self.forward)) } else { f64::INFINITY };
        let passed = self.gradient < self.forward;
        let gradient = if passed { begin(self.gradients.get(self.gradient)) } else { f64::INFINITY };
        let pass = if policy.split.is_some() { Pass::InputGradient } else { Pass::Backward };
        let gradient_first = match policy.prefer {
            Prefer::Gradients => true,
            Prefer::Forward => false,
            Prefer::Turns => self.last == Pass::Forward,
        };
        let (begin, pass) = if gradient < forward || (gradient == forward && gradient_first) {
            (gradient, pass)
        } else {
            (forward, Pass::Forward)
        };
        if let Some(patience) = policy.split
            && self.weight < self.gradient
            && begin > self.free_s + patience * weight_s
        {
            return Some((self.free_s, Pass::WeightGradient));
        }
        begin.is_finite().then_some((begin, pass))
    }
}

fn list(stages: usize, micro_batches: usize, costs: &Costs, limits: &[usize], policy: &Policy) -> Vec<Vec<Op>> {
    let unknown = vec![f64::INFINITY; micro_batches];
    let mut all: Vec<Stage> = (0..stages)
        .map(|stage| Stage {
            free_s: 0.0,
            forward: 0,
            gradient: 0,
            weight: 0,
            last: Pass::Backward,
            activations: if stage == 0 { vec![0.0; micro_batches] } else { unknown.clone() },
            gradients: if stage + 1 == stages { vec![0.0; micro_batches] } else { unknown.clone() },
            forward_wire: Wire::default(),
            backward_wire: Wire::default(),
            program: Vec::with_capacity(3 * micro_batches),
        })
        .collect();
    let choose =
        |at: usize, stage: &Stage| stage.choose(micro_batches, limits[at], costs.weight_gradient_s[at], policy);
    let mut choices: Vec<Option<(f64, Pass)>> = all.iter().enumerate().map(|(at, stage)| choose(at, stage)).collect();
    // Whoever can begin first does, so that nothing that arrives later could have changed the choice.
    while let Some((begin, pass, at)) = choices
        .iter()
        .enumerate()
        .filter_map(|(at, choice)| choice.map(|(begin, pass)| (begin, pass, at)))
        .min_by(|a, b| a.0.total_cmp(&b.0))
    {
        let stage = &mut all[at];
        let (input_s, weight_s) = (costs.input_gradient_s[at], costs.weight_gradient_s[at]);
        let (counter, seconds) = match pass {
            Pass::Forward => (&mut stage.forward, costs.forward_s[at]),
            Pass::Backward => (&mut stage.gradient, input_s + weight_s),
            Pass::InputGradient => (&mut stage.gradient, input_s),
            Pass::WeightGradient => (&mut stage.weight, weight_s),
        };
        let micro_batch = *counter;
        *counter += 1;
        let end = begin + seconds;
        stage.free_s = end;
        if pass != Pass::WeightGradient {
            stage.last = pass;
        }
        stage.program.push(Op { pass, micro_batch, chunk: 0 });
        match pass {
            Pass::Forward if at + 1 < stages => {
                let arrival = stage.forward_wire.send(end, &costs.transfers[at]).1;
                all[at + 1].activations[micro_batch] = arrival;
            }
            Pass::Backward | Pass::InputGradient if at > 0 => {
                let arrival = stage.backward_wire.send(end, &costs.transfers[at - 1]).1;
                all[at - 1].gradients[micro_batch] = arrival;
            }
            _ => {}
        }
        // What a stage could do next has only changed for this one and its neighbours.
        for at in at.saturating_sub(1)..(at + 2).min(stages) {
            choices[at] = choose(at, &all[at]);
        }
    }
    all.into_iter().map(|stage| stage.program).collect()
}
