//! Contiguous layers for each stage of a pipeline: the best under a cost model, and in proportion to speeds.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::timeline::Transfer;

/// What one layer costs a rank of speed 1 on its stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCost {
    /// Seconds of arithmetic for one micro-batch, forward and back; divided by the stage's speed.
    pub seconds: f64,
    /// Handed on to the next stage, if it ends one, and the same back.
    pub output_bytes: f64,
    /// Weights, gradients and the state of the optimizer.
    pub static_bytes: f64,
    /// Kept for each micro-batch that is on its way.
    pub live_bytes: f64,
}

/// What one stage has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageCost {
    /// Of its slowest rank.
    pub speed: f64,
    /// Seconds for one layer and micro-batch that do not depend on the speed: exchange along the tensor axis.
    pub per_layer_s: f64,
    /// Of the rank with the least.
    pub memory_bytes: f64,
    /// Micro-batches that are on their way at most.
    pub live: usize,
    /// What the stage needs besides.
    pub fixed_bytes: f64,
}

/// A chain of layers that has to be cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// In order.
    pub layers: Vec<LayerCost>,
    /// In order; a stage of a pipeline with several chunks is there once for each.
    pub stages: Vec<StageCost>,
    /// By boundary of stages: latency and bandwidth; `bytes` are not read, they are the output of the layer before.
    pub links: Vec<Transfer>,
    /// How many pass the pipeline.
    pub micro_batches: usize,
}

/// Where the chain is cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// By stage, how many layers.
    pub layers: Vec<usize>,
    /// See [`Problem::seconds`].
    pub seconds: f64,
}

/// Why a chain cannot be cut.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// There would be stages without a layer.
    #[error("{layers} layers cannot be cut into {stages} stages: use fewer stages")]
    Few {
        /// Of the model.
        layers: usize,
        /// Of the pipeline.
        stages: usize,
    },
    /// Whatever the cut, a stage needs more than it has.
    #[error(
        "no cut fits the memory: in {stages} stages {needed_gib:.2} GiB are needed in all, {gib:.2} GiB are there; use smaller micro-batches, recomputation, a sharded optimizer or more ranks"
    )]
    Memory {
        /// Of the pipeline.
        stages: usize,
        /// For all layers, on stages that keep as much as the first.
        needed_gib: f64,
        /// Of one rank of each stage.
        gib: f64,
    },
    /// Tables that do not belong together.
    #[error("{stages} stages need {} links, {links} found", stages.saturating_sub(1))]
    Links {
        /// Of the pipeline.
        stages: usize,
        /// There are.
        links: usize,
    },
}

impl Problem {
    /// The time of a step (AMP, Li et al. 2022; Alpa, Zheng et al. 2022): `(m - 1) max + sum of stages + sum of boundaries`, where
    /// the maximum is over the stages' times for a micro-batch and the times for which one keeps a boundary's link busy, and a
    /// boundary costs one transfer there and one back. Infinite if a stage does not fit its memory.
    pub fn seconds(&self, layers: &[usize]) -> f64 {
        let (mut start, mut max, mut sum) = (0, 0.0_f64, 0.0);
        let sums = Sums::new(self);
        for (stage, count) in layers.iter().enumerate() {
            let end = start + count;
            let Some((seconds, busy)) = self.stage(&sums, stage, start, end) else { return f64::INFINITY };
            max = max.max(busy);
            sum += seconds;
            start = end;
        }
        self.total(max, sum)
    }

    /// The best cut, exactly: for every number of layers and stages, all pairs of maximum and sum of which none is better in
    /// both. The time of a step grows with both, so the best is among them.
    ///
    /// # Errors
    /// If there are fewer layers than stages, links are missing, or nothing fits the memory.
    pub fn best(&self) -> Result<Partition, PartitionError> {
        let (count, stages) = (self.layers.len(), self.stages.len());
        if count < stages || stages == 0 {
            return Err(PartitionError::Few { layers: count, stages });
        }
        if self.links.len() + 1 != stages {
            return Err(PartitionError::Links { stages, links: self.links.len() });
        }
        let sums = Sums::new(self);
        // Nothing that is already worse than a cut that is known can become the best.
        let bound = self.seconds(&spread(&self.stages, count)) * (1.0 + 1e-9);
        let rest = Rest::new(self);
        let mut fronts: Vec<Vec<Vec<State>>> = Vec::with_capacity(stages);
        for stage in 0..stages {
            let mut row: Vec<Vec<State>> = vec![Vec::new(); count + 1];
            let left = stages - 1 - stage;
            let ends = if left == 0 { count..=count } else { stage + 1..=count - left };
            for end in ends {
                let mut found: Vec<State> = Vec::new();
                // Longer stages take longer: the first that does not fit ends the search.
                for start in (stage..end).rev() {
                    let Some((seconds, busy)) = self.stage(&sums, stage, start, end) else { break };
                    let (rest_max, rest_sum) = rest.after(&sums, stage, end);
                    if self.total(busy.max(rest_max), seconds + rest_sum) > bound {
                        break;
                    }
                    let mut add = |max: f64, sum: f64, before: usize| {
                        let state = State { max: max.max(busy), sum: sum + seconds, start, before };
                        if self.total(state.max.max(rest_max), state.sum + rest_sum) <= bound {
                            found.push(state);
                        }
                    };
                    match stage.checked_sub(1) {
                        None if start == 0 => add(0.0, 0.0, 0),
                        None => {}
                        Some(before) => {
                            let known: &Vec<State> = &fronts[before][start];
                            known.iter().enumerate().for_each(|(index, state)| add(state.max, state.sum, index));
                        }
                    }
                }
                row[end] = front(found);
            }
            fronts.push(row);
        }
        let last = fronts.last().and_then(|row| row.last()).map(Vec::as_slice).unwrap_or_default();
        let best = (0..last.len())
            .min_by(|&a, &b| self.total(last[a].max, last[a].sum).total_cmp(&self.total(last[b].max, last[b].sum)));
        let Some(mut index) = best else { return Err(self.too_large()) };
        let seconds = self.total(last[index].max, last[index].sum);
        let (mut layers, mut end) = (vec![0; stages], count);
        for stage in (0..stages).rev() {
            let state = &fronts[stage][end][index];
            layers[stage] = end - state.start;
            (end, index) = (state.start, state.before);
        }
        Ok(Partition { layers, seconds })
    }

    fn total(&self, max: f64, sum: f64) -> f64 {
        (self.micro_batches.max(1) - 1) as f64 * max + sum
    }

    /// What a stage with layers `start..end` adds to the sum, its boundary behind it included, and to the maximum; none if it does
    /// not fit or is empty.
    fn stage(&self, sums: &Sums, stage: usize, start: usize, end: usize) -> Option<(f64, f64)> {
        let it = &self.stages[stage];
        let live = (sums.live[end] - sums.live[start]) * it.live as f64;
        let needed = sums.fixed[end] - sums.fixed[start] + live + it.fixed_bytes;
        if end <= start || needed > it.memory_bytes {
            return None;
        }
        let seconds = (sums.seconds[end] - sums.seconds[start]) / it.speed + it.per_layer_s * (end - start) as f64;
        let Some(link) = self.links.get(stage) else { return Some((seconds, seconds)) };
        let transfer = Transfer { bytes: self.layers[end - 1].output_bytes, ..*link };
        Some((seconds + 2.0 * (transfer.occupied_s() + link.latency_s), seconds.max(transfer.occupied_s())))
    }

    fn too_large(&self) -> PartitionError {
        const GIB: f64 = (1_u64 << 30) as f64;
        let live = self.stages.iter().map(|stage| stage.live).max().unwrap_or(0) as f64;
        let needed: f64 = self.layers.iter().map(|layer| layer.static_bytes + live * layer.live_bytes).sum();
        let fixed: f64 = self.stages.iter().map(|stage| stage.fixed_bytes).sum();
        let there: f64 = self.stages.iter().map(|stage| stage.memory_bytes).sum();
        PartitionError::Memory { stages: self.stages.len(), needed_gib: (needed + fixed) / GIB, gib: there / GIB }
    }
}

/// Layers in proportion to speeds, as Holmes cuts: `floor(alpha S_i / sum S * layers)` for all stages but the last, which has
/// the rest. The printed formula was not at hand; with `alpha` 1 it gives both splits that Holmes ships. A stage has at least one
/// layer, and leaves one for each that follows.
///
/// # Errors
/// If there are fewer layers than stages.
pub fn proportional(layers: usize, speeds: &[f64], alpha: f64) -> Result<Vec<usize>, PartitionError> {
    if layers < speeds.len() || speeds.is_empty() {
        return Err(PartitionError::Few { layers, stages: speeds.len() });
    }
    let total: f64 = speeds.iter().sum();
    let mut left = layers;
    let mut counts = Vec::with_capacity(speeds.len());
    for (stage, speed) in speeds.iter().enumerate() {
        let after = speeds.len() - 1 - stage;
        let share = (alpha * speed / total * layers as f64).floor() as usize;
        let count = if after == 0 { left } else { share.clamp(1, left - after) };
        counts.push(count);
        left -= count;
    }
    Ok(counts)
}

/// Layers in proportion to speeds, rounded so that no stage is far from its share: a good cut to begin with.
fn spread(stages: &[StageCost], layers: usize) -> Vec<usize> {
    let total: f64 = stages.iter().map(|stage| stage.speed).sum();
    let (mut share, mut start) = (0.0, 0);
    let mut counts = Vec::with_capacity(stages.len());
    for (index, stage) in stages.iter().enumerate() {
        share += stage.speed / total * layers as f64;
        let end = (share.round() as usize).clamp(start + 1, layers - (stages.len() - 1 - index));
        counts.push(end - start);
        start = end;
    }
    counts
}

/// What the stages behind one add at least.
#[derive(Debug)]
struct Rest {
    /// By stage, of those behind it: the highest speed, the sum of speeds, twice the sum of latencies.
    behind: Vec<(f64, f64, f64)>,
}

impl Rest {
    fn new(problem: &Problem) -> Self {
        let mut behind = vec![(0.0_f64, 0.0, 0.0); problem.stages.len()];
        for stage in (0..problem.stages.len().saturating_sub(1)).rev() {
            let (highest, all, latency_s) = behind[stage + 1];
            let speed = problem.stages[stage + 1].speed;
            let after = problem.links.get(stage + 1).map_or(0.0, |link| 2.0 * link.latency_s);
            behind[stage] = (highest.max(speed), all + speed, latency_s + after);
        }
        Self { behind }
    }

    /// The maximum and the sum of the stages behind one, if its layers end at `end`: no less than if all were as fast as the
    /// fastest, and the work as even as can be.
    fn after(&self, sums: &Sums, stage: usize, end: usize) -> (f64, f64) {
        let (highest, all, latency_s) = self.behind[stage];
        let left = sums.seconds.last().map_or(0.0, |total| total - sums.seconds[end]);
        if all > 0.0 { (left / all, left / highest + latency_s) } else { (0.0, 0.0) }
    }
}

/// Sums over the first so many layers.
#[derive(Debug)]
struct Sums {
    seconds: Vec<f64>,
    fixed: Vec<f64>,
    live: Vec<f64>,
}

impl Sums {
    fn new(problem: &Problem) -> Self {
        let sums = |of: fn(&LayerCost) -> f64| {
            let mut sum = 0.0;
            let after = problem.layers.iter().map(|layer| {
                sum += of(layer);
                sum
            });
            std::iter::once(0.0).chain(after).collect()
        };
        Self {
            seconds: sums(|layer| layer.seconds),
            fixed: sums(|layer| layer.static_bytes),
            live: sums(|layer| layer.live_bytes),
        }
    }
}

/// A way to cut the first layers into the first stages.
#[derive(Debug, Clone, Copy)]
struct State {
    max: f64,
    sum: f64,
    /// First layer of the last of these stages.
    start: usize,
    /// Which of the states up to there.
    before: usize,
}

/// Those of which no other is as good in both maximum and sum.
fn front(mut states: Vec<State>) -> Vec<State> {
    states.sort_by(|a, b| a.max.total_cmp(&b.max).then(a.sum.total_cmp(&b.sum)));
    let mut least = f64::INFINITY;
    states.retain(|state| {
        let better = state.sum < least;
        least = least.min(state.sum);
        better
    });
    states
}
