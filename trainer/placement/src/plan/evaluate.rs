//! What a given placement costs.

use std::collections::BTreeMap;

use super::facts::{Facts, Place, Reduction};
use super::{Choice, Collective, Job, Layers, Plan, PlanError, Prediction, Stage, reasons};
use crate::mesh::groups;
use crate::model::{Layer, Model};
use crate::partition::{LayerCost, PartitionError, Problem, StageCost};
use crate::schedule::{Kind, Pass, build};
use crate::timeline::{Costs, Timeline, Transfer, simulate};
use crate::topology::Topology;

/// Pieces of work up to which a whole step is simulated. Of more, a part with as many micro-batches as make four rounds of the
/// pipeline is, and what one more costs is taken from its last round.
const WHOLE: usize = 20_000;

/// The plan of a given choice, with what it should cost, whether it is good or not.
///
/// # Errors
/// If the machines, mesh, batch, layers or schedule cannot be, or the memory is too small.
pub fn evaluate(topology: &Topology, model: &Model, job: &Job, choice: &Choice) -> Result<Plan, PlanError> {
    topology.validate()?;
    let facts = Facts::new(topology, &choice.mesh, choice.layout)?;
    let case = Case::new(topology, model, job, &facts, choice)?;
    let layers = match &choice.layers {
        None => case.problem().best()?.layers,
        Some(layers) => {
            let stages = choice.mesh.pipeline * choice.chunks;
            let wrong = |what| PlanError::Layers { layers: layers.clone(), stages, count: model.layers.len(), what };
            if layers.len() != stages || layers.iter().sum::<usize>() != model.layers.len() || layers.contains(&0) {
                return Err(wrong("there must be a number of at least 1 for each, and together all layers"));
            }
            if case.problem().seconds(layers).is_infinite() {
                return Err(wrong("they do not fit the memory"));
            }
            layers.clone()
        }
    };
    case.plan(&layers)
}

/// A placement of a model whose layers may not be cut yet.
#[derive(Debug)]
pub(super) struct Case<'a> {
    topology: &'a Topology,
    model: &'a Model,
    job: &'a Job,
    facts: &'a Facts,
    choice: &'a Choice,
    pub(super) micro_batches: usize,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        topology: &'a Topology,
        model: &'a Model,
        job: &'a Job,
        facts: &'a Facts,
        choice: &'a Choice,
    ) -> Result<Self, PlanError> {
        let (global_batch, data, micro_batch) = (job.global_batch, choice.mesh.data, choice.micro_batch);
        let at_once = data * micro_batch;
        if at_once == 0 || global_batch == 0 || !global_batch.is_multiple_of(at_once) {
            return Err(PlanError::Batch { global_batch, data, micro_batch });
        }
        Ok(Self { topology, model, job, facts, choice, micro_batches: global_batch / at_once })
    }

    /// How the layers are to be cut. With several chunks, each has its part of the stage's memory.
    pub(super) fn problem(&self) -> Problem {
        let (pipeline, chunks) = (self.choice.mesh.pipeline, self.choice.chunks);
        let layers = self.model.layers.iter().map(|layer| {
            let (forward, input, weight) = self.times(layer);
            LayerCost {
                seconds: forward + input + weight,
                output_bytes: self.message_bytes(layer),
                static_bytes: self.parameters_held(layer) as f64 * self.bytes_per_parameter(),
                live_bytes: self.kept_bytes(layer),
            }
        });
        let part = chunks as f64;
        let stages = (0..pipeline * chunks).map(|it| it % pipeline).map(|stage| StageCost {
            speed: self.facts.speeds[stage],
            per_layer_s: (2.0 + self.again()) * self.exchange_s(stage),
            memory_bytes: self.facts.memory[stage] / part,
            live: self.live(stage),
            fixed_bytes: self.transient_bytes() / part,
        });
        let links = (0..pipeline * chunks - 1).map(|it| self.transfer(it, 0.0)).collect();
        Problem { layers: layers.collect(), stages: stages.collect(), links, micro_batches: self.micro_batches }
    }

    /// Seconds of a step by a formula: `(m - 1)` periods and once through all stages. A period is the slowest stage's or, where fewer
    /// micro-batches are on their way than the round trip takes periods, what the round trip allows.
    pub(super) fn estimate(&self, layers: &[usize]) -> f64 {
        let costs = self.costs(layers);
        let (pipeline, chunks) = (self.choice.mesh.pipeline, self.choice.chunks);
        let m = self.micro_batches as f64;
        let virtual_stage = |it: usize| costs.seconds(Pass::Forward, it) + costs.seconds(Pass::Backward, it);
        let stage = |s: usize| (0..chunks).map(|c| virtual_stage(c * pipeline + s)).sum::<f64>();
        let edge = |it: &Transfer| 2.0 * (it.latency_s + it.occupied_s());
        let (stages, edges): (Vec<f64>, Vec<f64>) =
            ((0..pipeline).map(stage).collect(), costs.transfers.iter().map(edge).collect());
        let busy = costs.transfers.iter().map(Transfer::occupied_s).fold(0.0, f64::max) * chunks as f64;
        let slowest = stages.iter().copied().fold(busy, f64::max);
        let through = stages.iter().sum::<f64>() / chunks as f64 + edges.iter().sum::<f64>();
        let round_trip = |s: usize| {
            let way = stages[s..].iter().sum::<f64>() + edges[s.min(edges.len())..].iter().sum::<f64>();
            let live = if self.choice.kind == Kind::DelayAware { costs.live_limit[s] } else { self.live(s) };
            way / live.max(1) as f64
        };
        let seconds = match self.choice.kind {
            Kind::Gpipe => (m - 1.0) * slowest + through,
            Kind::Interleaved => m * slowest + through - slowest / chunks as f64,
            Kind::OneForwardOneBackward => (m - 1.0) * (0..pipeline).map(round_trip).fold(slowest, f64::max) + through,
            Kind::ZeroBubble | Kind::DelayAware => {
                let period = (0..pipeline).map(round_trip).fold(slowest, f64::max);
                let weight = costs.weight_gradient_s.iter().copied().fold(f64::INFINITY, f64::min);
                ((m - 1.0) * period + through - 2.0 * (pipeline - 1) as f64 * weight).max(m * slowest)
            }
        };
        let mut drained = 0.0;
        let mut finish = Vec::with_capacity(pipeline);
        for s in 0..pipeline {
            finish.push(seconds - drained);
            drained += costs.seconds(Pass::Backward, s) + edges.get(s).map_or(0.0, |edge| edge / 2.0);
        }
        let backward: Vec<f64> = (0..pipeline).map(|s| costs.seconds(Pass::Backward, s)).collect();
        self.faster(layers, &finish, &backward).1.step_s
    }

    pub(super) fn plan(&self, layers: &[usize]) -> Result<Plan, PlanError> {
        let Choice { mesh, layout, kind, chunks, micro_batch, recompute, .. } = *self.choice;
        let costs = self.costs(layers);
        let (finish, backward, timeline) = self.finish(&costs)?;
        let (collective, end) = self.faster(layers, &finish, &backward);
        let stages = self.stages(layers);
        let memory_bytes: Vec<u64> = (0..mesh.pipeline)
            .map(|stage| {
                let fixed: f64 = self.static_bytes(layers, stage) + self.transient_bytes();
                fixed as u64 + timeline.peak_activation_bytes[stage]
            })
            .collect();
        for (stage, bytes) in memory_bytes.iter().enumerate() {
            // Only several chunks can get here: all else was cut to fit.
            if *bytes as f64 > self.facts.memory[stage] * (1.0 + 1e-9) + 1.0 {
                const GIB: f64 = (1_u64 << 30) as f64;
                return Err(PlanError::Partition(PartitionError::Memory {
                    stages: mesh.pipeline,
                    needed_gib: *bytes as f64 / GIB,
                    gib: self.facts.memory[stage] / GIB,
                }));
            }
        }
        let busy: f64 = (0..costs.forward_s.len())
            .map(|it| costs.seconds(Pass::Forward, it) + costs.seconds(Pass::Backward, it))
            .sum::<f64>()
            * self.micro_batches as f64;
        let pipeline_s = finish.iter().copied().fold(0.0, f64::max);
        let predicted = Prediction {
            step_s: end.step_s,
            pipeline_s,
            data_parallel_s: end.exposed_s,
            optimizer_s: end.optimizer_s,
            bubble: 1.0 - busy / (pipeline_s * mesh.pipeline as f64),
            memory_bytes,
            bytes: self.traffic(layers, collective),
            tokens_per_s: (self.job.global_batch * self.model.sequence_length) as f64 / end.step_s,
        };
        let mut plan = Plan {
            mesh,
            layout,
            order: self.facts.order.clone(),
            groups: groups(self.topology, &mesh, &self.facts.order)?,
            stages,
            schedule: kind,
            chunks,
            micro_batch,
            micro_batches: self.micro_batches,
            recompute,
            collective,
            costs,
            predicted,
            why: Vec::new(),
        };
        plan.why = reasons::of(self.topology, self.facts, &plan);
        Ok(plan)
    }

    /// When each stage ends its last backward pass, how long that takes, and a simulation, of a part of the step if it is long.
    fn finish(&self, costs: &Costs) -> Result<(Vec<f64>, Vec<f64>, Timeline), PlanError> {
        let Choice { mesh, kind, chunks, .. } = *self.choice;
        let (p, m) = (mesh.pipeline, self.micro_batches);
        let run = |micro_batches| simulate(&build(kind, p, micro_batches, chunks, costs)?, costs);
        let ends = |timeline: &Timeline| -> Vec<f64> {
            timeline.ops.iter().map(|ops| ops.last().map_or(0.0, |last| last.end_s)).collect()
        };
        let whole = p * m * chunks * 2 <= WHOLE || m <= 4 * p;
        let timeline = run(if whole { m } else { 4 * p })?;
        let mut finish = ends(&timeline);
        let mut timeline = timeline;
        if !whole {
            let before = ends(&run(3 * p)?);
            let rest = (m - 4 * p) as f64 / p as f64;
            finish.iter_mut().zip(before).for_each(|(end, before)| *end += rest * (*end - before));
            if kind == Kind::Gpipe {
                let part = m as f64 / (4 * p) as f64;
                timeline.peak_activation_bytes.iter_mut().for_each(|bytes| *bytes = (*bytes as f64 * part) as u64);
            }
        }
        let backward = (0..p).map(|stage| costs.seconds(Pass::Backward, stage)).collect();
        Ok((finish, backward, timeline))
    }

    /// The end of a step with the faster collective, or the one that was asked for where it can be.
    fn faster(&self, layers: &[usize], finish: &[f64], backward: &[f64]) -> (Collective, End) {
        let ring = (Collective::Ring, self.end(layers, finish, backward, &self.facts.ring));
        let levels = self.facts.reductions(Collective::Hierarchical);
        let levels = levels.map(|levels| (Collective::Hierarchical, self.end(layers, finish, backward, levels)));
        match (self.choice.collective, levels) {
            (Some(Collective::Ring), _) | (_, None) => ring,
            (Some(Collective::Hierarchical), Some(levels)) => levels,
            (None, Some(levels)) => {
                if levels.1.step_s < ring.1.step_s {
                    levels
                } else {
                    ring
                }
            }
        }
    }

    /// What follows the backward passes. Where it overlaps, summing begins when the stage's first layer has its gradients of the
    /// last micro-batch, and that of the last layer's follows them.
    fn end(&self, layers: &[usize], finish: &[f64], backward: &[f64], reductions: &[Reduction]) -> End {
        let pipeline = self.choice.mesh.pipeline;
        let pipeline_s = finish.iter().copied().fold(0.0, f64::max);
        let mut end = End { step_s: 0.0, exposed_s: 0.0, optimizer_s: 0.0 };
        for stage in 0..pipeline {
            let parameters = self.parameters(layers, stage) as f64;
            let reduce_s = reductions[stage].seconds(parameters * self.wire_bytes());
            let count = layers[stage].max(1) as f64;
            let mut reduced = finish[stage] + reduce_s;
            if self.job.overlap {
                let early = finish[stage] - backward[stage] * (1.0 - 1.0 / count);
                reduced = (early + reduce_s).max(finish[stage] + reduce_s / count);
            }
            if stage == 0 || stage == pipeline - 1 {
                reduced = reduced.max(pipeline_s + self.tied_s());
            }
            let share = if self.job.sharded_optimizer { self.choice.mesh.data as f64 } else { 1.0 };
            let optimizer_s = parameters * self.job.optimizer_s_per_parameter / share / self.facts.speeds[stage];
            if reduced + optimizer_s >= end.step_s {
                let exposed_s = (reduced - pipeline_s).max(0.0);
                end = End { step_s: reduced + optimizer_s, exposed_s, optimizer_s };
            }
        }
        end
    }

    /// Seconds of one micro-batch on a rank of speed 1: forward, gradients of inputs and of weights.
    fn times(&self, layer: &Layer) -> (f64, f64, f64) {
        let part = self.part(layer);
        let at =
            |time: &crate::model::Affine| time.fixed_s + time.per_sequence_s * self.choice.micro_batch as f64 * part;
        let forward = at(&layer.forward_s);
        (forward, at(&layer.input_gradient_s) + self.again() * forward, at(&layer.weight_gradient_s))
    }

    /// How many more times the forward pass is done.
    fn again(&self) -> f64 {
        f64::from(u8::from(self.choice.recompute))
    }

    /// Which part of a layer a rank has.
    fn part(&self, layer: &Layer) -> f64 {
        if layer.tensor_parallel { 1.0 / self.choice.mesh.tensor as f64 } else { 1.0 }
    }

    fn parameters_held(&self, layer: &Layer) -> u64 {
        (layer.parameters as f64 * self.part(layer)).ceil() as u64
    }

    /// The same for a stage, tied ones once where it has both ends of the model.
    fn parameters(&self, layers: &[usize], stage: usize) -> u64 {
        let held = self.ranges(layers, stage).flat_map(|range| range.start..range.end);
        let sum: u64 = held.map(|layer| self.parameters_held(&self.model.layers[layer])).sum();
        let tied = if self.choice.mesh.pipeline == 1 { self.tied_parameters() } else { 0.0 };
        sum.saturating_sub(tied as u64)
    }

    fn tied_parameters(&self) -> f64 {
        self.model.tied_parameters as f64 * self.model.layers.first().map_or(1.0, |layer| self.part(layer))
    }

    /// Seconds for the gradients of tied numbers, between the first and the last stage.
    fn tied_s(&self) -> f64 {
        let pipeline = self.choice.mesh.pipeline;
        if pipeline == 1 || self.model.tied_parameters == 0 {
            return 0.0;
        }
        let link = &self.facts.boundaries[pipeline - 1];
        2.0 * link.latency_s + self.tied_parameters() * self.job.wire_bytes_per_element / link.bandwidth
    }

    fn bytes_per_parameter(&self) -> f64 {
        let share = if self.job.sharded_optimizer { self.choice.mesh.data as f64 } else { 1.0 };
        (self.job.parameter_bytes + self.job.gradient_bytes) as f64
            + self.job.optimizer_bytes_per_parameter as f64 / share
    }

    /// Of an element, on average over the two halves of an all-reduce: gradients are scattered, and either gathered again or,
    /// where each replica updates a part, the new numbers are.
    fn wire_bytes(&self) -> f64 {
        let scattered = self.job.wire_bytes_per_element;
        let gathered = if self.job.sharded_optimizer { self.job.parameter_bytes as f64 } else { scattered };
        (scattered + gathered) / 2.0
    }

    fn message_bytes(&self, layer: &Layer) -> f64 {
        (layer.output_bytes * self.choice.micro_batch as u64) as f64
    }

    fn kept_bytes(&self, layer: &Layer) -> f64 {
        let bytes = if self.choice.recompute { layer.recompute_bytes } else { layer.activation_bytes };
        bytes as f64 * self.choice.micro_batch as f64 * self.part(layer)
    }

    /// While one layer's forward pass is done again, all that it keeps.
    fn transient_bytes(&self) -> f64 {
        let all = |layer: &Layer| layer.activation_bytes as f64 * self.choice.micro_batch as f64 * self.part(layer);
        if self.choice.recompute { self.model.layers.iter().map(all).fold(0.0, f64::max) } else { 0.0 }
    }

    fn static_bytes(&self, layers: &[usize], stage: usize) -> f64 {
        let held = self.ranges(layers, stage).flat_map(|range| range.start..range.end);
        held.map(|layer| self.parameters_held(&self.model.layers[layer]) as f64 * self.bytes_per_parameter()).sum()
    }

    /// Seconds that a layer's forward pass spends on two sums over the tensor axis (Shoeybi et al. 2019); the backward pass does the
    /// same.
    fn exchange_s(&self, stage: usize) -> f64 {
        let bytes = self.model.layers.iter().map(|layer| self.message_bytes(layer)).fold(0.0, f64::max);
        2.0 * self.facts.tensor[stage].seconds(bytes)
    }

    /// Micro-batches that a chunk of a stage keeps at most.
    fn live(&self, stage: usize) -> usize {
        let (p, m, v) = (self.choice.mesh.pipeline, self.micro_batches, self.choice.chunks);
        match self.choice.kind {
            Kind::Gpipe if p > 1 => m,
            Kind::ZeroBubble => m.min(p),
            Kind::Interleaved if v > 1 && p > 1 => (2 * (p - 1 - stage) + (v - 1) * p + 1).min(m * v).div_ceil(v),
            _ => m.min(p - stage),
        }
    }

    /// The boundary behind a virtual stage.
    fn transfer(&self, virtual_stage: usize, bytes: f64) -> Transfer {
        let pipeline = self.choice.mesh.pipeline;
        if pipeline == 1 {
            return Transfer { latency_s: 0.0, bytes: 0.0, bandwidth: 1.0 };
        }
        let link = &self.facts.boundaries[virtual_stage % pipeline];
        Transfer { latency_s: link.latency_s, bytes, bandwidth: link.bandwidth }
    }

    fn costs(&self, layers: &[usize]) -> Costs {
        let pipeline = self.choice.mesh.pipeline;
        let mut costs = Costs::default();
        let mut start = 0;
        for (it, count) in layers.iter().enumerate() {
            let (stage, held) = (it % pipeline, &self.model.layers[start..start + count]);
            start += count;
            let exchange_s = self.exchange_s(stage) * *count as f64;
            let sum = |of: fn((f64, f64, f64)) -> f64| {
                held.iter().map(|layer| of(self.times(layer))).sum::<f64>() / self.facts.speeds[stage]
            };
            costs.forward_s.push(sum(|it| it.0) + exchange_s);
            costs.input_gradient_s.push(sum(|it| it.1) + exchange_s * (1.0 + self.again()));
            costs.weight_gradient_s.push(sum(|it| it.2));
            costs.activation_bytes.push(held.iter().map(|layer| self.kept_bytes(layer)).sum::<f64>() as u64);
            if it + 1 < layers.len() {
                let bytes = held.last().map_or(0.0, |layer| self.message_bytes(layer));
                costs.transfers.push(self.transfer(it, bytes));
            }
        }
        if self.choice.kind == Kind::DelayAware {
            costs.live_limit = (0..pipeline)
                .map(|stage| {
                    let left = self.facts.memory[stage] - self.static_bytes(layers, stage) - self.transient_bytes();
                    let each = costs.activation_bytes[stage].max(1) as f64;
                    let least = self.live(stage);
                    ((left / each) as usize).clamp(least, least.max(self.micro_batches.min(3 * pipeline)))
                })
                .collect();
        }
        costs
    }

    fn ranges(&self, layers: &[usize], stage: usize) -> impl Iterator<Item = Layers> {
        let mut start = 0;
        let mut ranges = Vec::new();
        for (it, count) in layers.iter().enumerate() {
            if it % self.choice.mesh.pipeline == stage {
                ranges.push(Layers { start, end: start + count });
            }
            start += count;
        }
        ranges.into_iter()
    }

    fn stages(&self, layers: &[usize]) -> Vec<Stage> {
        let stage =
            |stage| Stage { layers: self.ranges(layers, stage).collect(), parameters: self.parameters(layers, stage) };
        (0..self.choice.mesh.pipeline).map(stage).collect()
    }

    fn traffic(&self, layers: &[usize], collective: Collective) -> Vec<super::Traffic> {
        let Self { facts, topology, .. } = self;
        let pipeline = self.choice.mesh.pipeline;
        let mut bytes: BTreeMap<Place, f64> = BTreeMap::new();
        let mut add = |crossing: &BTreeMap<Place, f64>, each: f64| {
            crossing.iter().for_each(|(place, count)| *bytes.entry(*place).or_default() += count * each);
        };
        let there_and_back = 2.0 * self.micro_batches as f64;
        let mut end = 0;
        for (it, count) in layers.iter().enumerate() {
            end += count;
            if pipeline > 1 && it + 1 < layers.len() {
                let message = self.message_bytes(&self.model.layers[end - 1]);
                add(&facts.boundaries[it % pipeline].crossing, there_and_back * message);
            }
            let message = self.model.layers.iter().map(|layer| self.message_bytes(layer)).fold(0.0, f64::max);
            let sums = (2.0 + self.again()) * 2.0 * *count as f64 * self.micro_batches as f64;
            add(&facts.tensor[it % pipeline].crossing, sums * message);
        }
        for (stage, reduction) in facts.reductions(collective).unwrap_or(&facts.ring).iter().enumerate() {
            add(&reduction.crossing, self.parameters(layers, stage) as f64 * self.wire_bytes());
        }
        if pipeline > 1 {
            let tied = 2.0 * self.tied_parameters() * self.job.wire_bytes_per_element;
            add(&facts.boundaries[pipeline - 1].crossing, tied);
        }
        let mut traffic: Vec<super::Traffic> = bytes
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0.0)
            .map(|(place, bytes)| place.traffic(topology, bytes))
            .collect();
        traffic.sort_by(|a, b| b.class.cmp(&a.class).then(b.bytes.total_cmp(&a.bytes)));
        traffic
    }
}

/// What follows the pipeline.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    step_s: f64,
    exposed_s: f64,
    optimizer_s: f64,
}
