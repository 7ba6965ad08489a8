//! The whole decision: mesh, order, layers, schedule and micro-batches, with what they are predicted to cost.

mod candidates;
mod evaluate;
mod facts;
#[cfg(test)]
mod paper;
mod reasons;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::mesh::{Groups, Mesh, MeshError};
use crate::model::Model;
use crate::partition::PartitionError;
use crate::schedule::{Kind, ScheduleError};
use crate::timeline::Costs;
use crate::topology::{LinkClass, Topology, TopologyError};

pub use evaluate::evaluate;

/// What has to be trained, apart from model and machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Sequences in a step.
    pub global_batch: usize,
    /// Sizes of micro-batches to consider, in sequences; if empty, all up to 64 that divide a replica's part.
    #[serde(default)]
    pub micro_batches: Vec<usize>,
    /// To consider; if empty, all kinds.
    #[serde(default)]
    pub schedules: Vec<Kind>,
    /// The only one to consider.
    #[serde(default)]
    pub mesh: Option<Mesh>,
    /// Sizes of the tensor axis to consider, each a divisor of the number of heads; if empty, 1.
    #[serde(default)]
    pub tensor: Vec<usize>,
    /// Of a number that is learned.
    pub parameter_bytes: u64,
    /// Of its gradient.
    pub gradient_bytes: u64,
    /// Of what the optimizer keeps for it.
    pub optimizer_bytes_per_parameter: u64,
    /// Each replica keeps a part of the optimizer's state and updates a part of the numbers.
    pub sharded_optimizer: bool,
    /// Of a gradient on its way between replicas.
    pub wire_bytes_per_element: f64,
    /// Whether the forward pass is done again in the backward pass; if left out, where memory needs it.
    #[serde(default)]
    pub recompute: Option<bool>,
    /// Gradients are summed over the replicas while the last backward pass goes on.
    pub overlap: bool,
    /// Seconds of the optimizer for each number, on a rank of speed 1.
    pub optimizer_s_per_parameter: f64,
    /// How gradients are summed, where the ranks know one way alone; if left out, the faster one.
    #[serde(default)]
    pub collective: Option<Collective>,
}

/// Which axis crosses the slow links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Stages are near each other's replicas: the pipeline crosses (Holmes). Order: [`order_across`](crate::mesh::order_across).
    PipelineAcross,
    /// Stages are near each other: the replicas are far apart. Order: [`order_inside`](crate::mesh::order_inside).
    PipelineInside,
}

impl Layout {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PipelineAcross => "pipeline across",
            Self::PipelineInside => "pipeline inside",
        }
    }
}

/// How gradients are summed over replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collective {
    /// One ring over all.
    Ring,
    /// Inside each host, the parts between hosts, their parts between clusters, and back.
    Hierarchical,
}

/// A placement to be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The axes.
    pub mesh: Mesh,
    /// Which of them crosses.
    pub layout: Layout,
    /// If left out, the faster one.
    #[serde(default)]
    pub collective: Option<Collective>,
    /// The schedule.
    pub kind: Kind,
    /// Chunks of layers on each stage; 1 except for interleaved schedules.
    pub chunks: usize,
    /// Sequences in a micro-batch.
    pub micro_batch: usize,
    /// The forward pass is done again.
    pub recompute: bool,
    /// By virtual stage, how many layers; if left out, the best.
    #[serde(default)]
    pub layers: Option<Vec<usize>>,
}

/// Layers `start` to `end`, without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layers {
    /// The first.
    pub start: usize,
    /// Behind the last.
    pub end: usize,
}

/// What a stage has of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// By chunk.
    pub layers: Vec<Layers>,
    /// How many numbers each of its ranks holds.
    pub parameters: u64,
}

/// Bytes over links of one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// "cluster a – cluster b", "between hosts of a" or "inside hosts of a".
    pub over: String,
    /// Of the links.
    pub class: LinkClass,
    /// The clusters, once if both ends lie in one.
    pub clusters: (usize, usize),
    /// In a step, both directions.
    pub bytes: f64,
}

/// What a plan should cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Seconds of a step.
    pub step_s: f64,
    /// Seconds until the last stage has ended its last backward pass.
    pub pipeline_s: f64,
    /// Seconds of summing gradients that nothing hides.
    pub data_parallel_s: f64,
    /// Seconds of the optimizer.
    pub optimizer_s: f64,
    /// Idle time as a part of all time until then, see [`Timeline::bubble`](crate::timeline::Timeline::bubble).
    pub bubble: f64,
    /// By stage, the most that one of its ranks needs.
    pub memory_bytes: Vec<u64>,
    /// Over which links how much goes, most first.
    pub bytes: Vec<Traffic>,
    /// Tokens that are trained on in a second.
    pub tokens_per_s: f64,
}

/// Who does what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The axes.
    pub mesh: Mesh,
    /// Which of them crosses.
    pub layout: Layout,
    /// By logical rank, the physical one.
    pub order: Vec<usize>,
    /// Who exchanges with whom.
    pub groups: Groups,
    /// By stage.
    pub stages: Vec<Stage>,
    /// The schedule.
    pub schedule: Kind,
    /// Chunks of layers on each stage.
    pub chunks: usize,
    /// Sequences in a micro-batch.
    pub micro_batch: usize,
    /// How many of them a pipeline has in a step.
    pub micro_batches: usize,
    /// The forward pass is done again in the backward pass.
    pub recompute: bool,
    /// How gradients are summed.
    pub collective: Collective,
    /// What the work costs, from which [`build`](crate::schedule::build) makes the schedule.
    pub costs: Costs,
    /// What it should cost.
    pub predicted: Prediction,
    /// What decided, in short sentences.
    pub why: Vec<String>,
}

/// Plans, best first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranking {
    /// The fastest.
    pub best: Plan,
    /// Those that follow, at most five, of other meshes, layouts or schedules.
    pub runners_up: Vec<Plan>,
    /// What was considered and cannot be, and why; at most 64.
    pub refused: Vec<(String, String)>,
    /// How many choices were compared.
    pub considered: usize,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The machines cannot be.
    #[error("machines: {0}")]
    Topology(#[from] TopologyError),
    /// The mesh cannot be.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The layers cannot be cut.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The schedule cannot be.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The batch is not a multiple of what the replicas do at once.
    #[error("{global_batch} sequences are no multiple of {data} replicas times micro-batches of {micro_batch}")]
    Batch {
        /// Sequences in a step.
        global_batch: usize,
        /// Replicas.
        data: usize,
        /// Sequences in a micro-batch.
        micro_batch: usize,
    },
    /// The given numbers of layers are not those of the model and its stages, or do not fit the memory.
    #[error("layers {layers:?} for {stages} stages of a model of {count}: {what}")]
    Layers {
        /// As given.
        layers: Vec<usize>,
        /// Virtual stages.
        stages: usize,
        /// Layers of the model.
        count: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Nothing that was considered can be.
    #[error("none of {considered} placements is possible; the first: {first}")]
    Nothing {
        /// How many there were.
        considered: usize,
        /// What was wrong with the first.
        first: String,
    },
}

/// The fastest placement by prediction. All meshes, layouts, schedules and sizes of micro-batches that the job allows are
/// compared by a formula, and the best of them by simulation.
///
/// # Errors
/// If the machines cannot be, or no placement is possible: most often for lack of memory, or because the batch cannot be divided.
pub fn plan(topology: &Topology, model: &Model, job: &Job) -> Result<Ranking, PlanError> {
    topology.validate()?;
    candidates::ranking(topology, model, job)
}
