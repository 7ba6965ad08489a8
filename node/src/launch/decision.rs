//! What all ranks of a training agree on: the mesh, who sits where, and what each stage does.

use serde::Serialize;
use swarmloom_placement::mesh::Mesh;
use swarmloom_placement::plan::{Collective, Job, Plan};
use swarmloom_placement::schedule::{self, Kind, Op};
use swarmloom_placement::timeline::Costs;
use swarmloom_trainer::causal::layout::Slice;
use swarmloom_trainer::causal::links::Seat;
use swarmloom_trainer::causal::measure::Measured;
use swarmloom_trainer::causal::samples::share;
use swarmloom_trainer::model::ModelConfig;

use super::file::{Dtype, TrainFile};
use crate::runs::Usage;

/// How the work is shared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Decision {
    /// Stages, replicas, sharers of each layer.
    pub(crate) mesh: (usize, usize, usize),
    /// The rank at each position of the mesh.
    pub(crate) order: Vec<usize>,
    /// Layers of each virtual stage.
    pub(crate) layers: Vec<usize>,
    /// Virtual stages of each stage.
    pub(crate) chunks: usize,
    /// In which order stages work.
    pub(crate) schedule: Kind,
    /// Sequences of a micro-batch.
    pub(crate) micro_batch: usize,
    /// Whether activations are computed again in the backward pass.
    pub(crate) recompute: bool,
    /// What passes and transfers are expected to cost, where a plan was made: one schedule follows from it.
    #[serde(skip)]
    pub(crate) costs: Option<Costs>,
    /// Seconds of a step as planned.
    pub(crate) predicted_step_s: Option<f64>,
    /// Share of the stages' time in which they are planned to be idle.
    pub(crate) predicted_bubble: Option<f64>,
}

/// What there is to be planned for.
pub(crate) fn job(file: &TrainFile, config: &ModelConfig, ranks: usize, measured: &Measured) -> Result<Job, Usage> {
    let table = &file.mesh;
    let given = table.pipeline.is_some() || table.data.is_some() || table.tensor.is_some();
    let mesh = match given {
        true => {
            let (pipeline, data, tensor) = mesh(file, ranks)?;
            Some(Mesh { pipeline, data, tensor })
        }
        false => None,
    };
    let shares = |tensor: &usize| {
        [config.num_attention_heads, config.num_key_value_heads, config.intermediate_size]
            .iter()
            .all(|width| width.is_multiple_of(*tensor))
    };
    let tensor: Vec<usize> = (1..=ranks).filter(|tensor| ranks.is_multiple_of(*tensor)).filter(shares).collect();
    let element = if file.training.dtype == Dtype::F32 { 4 } else { 2 };
    Ok(Job {
        global_batch: file.training.global_batch,
        // Between those that were measured: beyond, nothing is known.
        micro_batches: table.micro_batch.map_or_else(|| (1..=measured.sizes[1]).collect(), |size| vec![size]),
        schedules: table.schedule.map_or_else(Vec::new, |kind| vec![kind]),
        mesh,
        tensor,
        parameter_bytes: element,
        gradient_bytes: 4,
        // Both moments, and an f32 master beside parameters of bf16.
        optimizer_bytes_per_parameter: if element == 4 { 8 } else { 12 },
        sharded_optimizer: true,
        wire_bytes_per_element: 4.0,
        recompute: table.recompute,
        overlap: true,
        optimizer_s_per_parameter: measured.optimizer_s,
        // Our groups know hosts, and no clusters of hosts.
        collective: Some(Collective::Ring),
    })
}

/// Stages, replicas and sharers that a file asks for; replicas fill what it leaves open.
fn mesh(file: &TrainFile, ranks: usize) -> Result<(usize, usize, usize), Usage> {
    let mesh = &file.mesh;
    let (pipeline, tensor) = (mesh.pipeline.unwrap_or(1), mesh.tensor.unwrap_or(1));
    let shared = pipeline.saturating_mul(tensor);
    let data = mesh.data.unwrap_or(ranks / shared.max(1)).max(1);
    if shared.saturating_mul(data) != ranks {
        return Err(Usage(format!(
            "[mesh]: {pipeline} stages x {data} replicas x {tensor} sharers of each layer are not the {ranks} ranks \
             that there are"
        )));
    }
    Ok((pipeline, data, tensor))
}

impl Decision {
    /// What a plan says, but for what a file fixes beyond it.
    ///
    /// # Errors
    /// [`Usage`] where the two do not fit together.
    pub(crate) fn planned(plan: &Plan, file: &TrainFile, ranks: usize) -> Result<Self, Usage> {
        let mesh = (plan.mesh.pipeline, plan.mesh.data, plan.mesh.tensor);
        let layers = (0..plan.chunks)
            .flat_map(|chunk| plan.stages.iter().map(move |stage| stage.layers.get(chunk)))
            .map(|layers| layers.map_or(0, |layers| layers.end - layers.start))
            .collect();
        let decision = Self {
            mesh,
            order: file.mesh.order.clone().unwrap_or_else(|| plan.order.clone()),
            layers: file.mesh.layers.clone().unwrap_or(layers),
            chunks: plan.chunks,
            schedule: plan.schedule,
            micro_batch: plan.micro_batch,
            recompute: plan.recompute,
            costs: Some(plan.costs.clone()),
            predicted_step_s: Some(plan.predicted.step_s),
            predicted_bubble: Some(plan.predicted.bubble),
        };
        decision.check(file, ranks)?;
        Ok(decision)
    }

    /// What the survivors of a world can go on as: as many whole replicas as there are, of the same stages and shares. Seats
    /// keep their stage where they can. `survivors` are ranks of the old world, by rank of the new one; the order of the
    /// result is of the new one, and ranks that are not in it are spare. `None` where no replica is left whole.
    pub(crate) fn shrunk(&self, survivors: &[usize]) -> Option<Self> {
        let (stages, old, sharers) = self.mesh;
        let replicas = survivors.len() / (stages * sharers);
        if replicas == 0 {
            return None;
        }
        let each = old * sharers;
        let stage_of = |rank: usize| self.order.iter().position(|other| *other == rank).map(|at| at / each);
        let mut free: Vec<usize> = (0..survivors.len()).collect();
        let mut seats: Vec<Vec<usize>> = Vec::new();
        for stage in 0..stages {
            let own = free.iter().copied().filter(|new| stage_of(survivors[*new]) == Some(stage));
            let own: Vec<usize> = own.take(replicas * sharers).collect();
            free.retain(|new| !own.contains(new));
            seats.push(own);
        }
        // A stage that lost more than others takes who is left over of those.
        for seats in &mut seats {
            let missing = (replicas * sharers).saturating_sub(seats.len()).min(free.len());
            seats.extend(free.drain(..missing));
        }
        let order: Vec<usize> = seats.concat();
        Some(Self {
            mesh: (stages, replicas, sharers),
            order,
            costs: self.costs.clone(),
            predicted_step_s: None,
            predicted_bubble: None,
            layers: self.layers.clone(),
            ..*self
        })
    }

    /// What a file fixes, and for the rest replicas alone.
    ///
    /// # Errors
    /// [`Usage`] where the mesh is not one for so many ranks and layers.
    pub(crate) fn fixed(file: &TrainFile, ranks: usize, layers: usize) -> Result<Self, Usage> {
        let (pipeline, data, tensor) = mesh(file, ranks)?;
        let mesh = &file.mesh;
        let schedule = mesh.schedule.unwrap_or(Kind::OneForwardOneBackward);
        let chunks = mesh.chunks.unwrap_or(if schedule == Kind::Interleaved { 2 } else { 1 });
        let parts = pipeline * chunks;
        let even = || (0..parts).map(|part| layers / parts + usize::from(part < layers % parts)).collect();
        let layers_of: Vec<usize> = mesh.layers.clone().unwrap_or_else(even);
        if layers_of.len() != parts || layers_of.iter().sum::<usize>() != layers || layers_of.contains(&0) {
            return Err(Usage(format!(
                "[mesh]: the model's {layers} layers do not split into {layers_of:?}: {parts} parts of at least one are needed"
            )));
        }
        let each = file.training.global_batch.div_ceil(data);
        let micro_batch = mesh.micro_batch.unwrap_or_else(|| each.div_ceil(4 * pipeline).max(1));
        let decision = Self {
            mesh: (pipeline, data, tensor),
            order: mesh.order.clone().unwrap_or_else(|| (0..ranks).collect()),
            layers: layers_of,
            chunks,
            schedule,
            micro_batch,
            recompute: mesh.recompute.unwrap_or(false),
            costs: None,
            predicted_step_s: None,
            predicted_bubble: None,
        };
        decision.check(file, ranks)?;
        Ok(decision)
    }

    fn check(&self, file: &TrainFile, ranks: usize) -> Result<(), Usage> {
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        if sorted != (0..ranks).collect::<Vec<_>>() {
            return Err(Usage(format!("mesh.order {:?}: each rank from 0 to {} has one place", self.order, ranks - 1)));
        }
        let batch = file.training.global_batch;
        if batch < self.mesh.1 {
            return Err(Usage(format!(
                "training.global_batch is {batch}: {} replicas need at least one sequence each",
                self.mesh.1
            )));
        }
        self.programs(batch, 0).map(drop)
    }

    /// Where a rank sits.
    pub(crate) fn seat(&self, rank: usize) -> Seat {
        let position = self.order.iter().position(|other| *other == rank).unwrap_or(0);
        Seat::at(position, self.mesh)
    }

    /// The part of the model that a seat holds.
    pub(crate) fn slice(&self, seat: Seat) -> Slice {
        let start = |part: usize| self.layers[..part].iter().sum::<usize>();
        let chunks = (0..self.chunks).map(|chunk| {
            let part = chunk * seat.stages + seat.stage;
            start(part)..start(part + 1)
        });
        Slice {
            chunks: chunks.collect(),
            first: seat.stage == 0,
            last: seat.stage + 1 == seat.stages,
            tensor_rank: seat.tensor_rank,
            tensor_ranks: seat.tensor_ranks,
        }
    }

    /// Micro-batches of a replica.
    pub(crate) fn micro_batches(&self, global_batch: usize, replica: usize) -> usize {
        share(global_batch, replica, self.mesh.1).len().div_ceil(self.micro_batch)
    }

    /// What each stage of a replica does, in its order.
    ///
    /// # Errors
    /// [`Usage`] where there is no such schedule.
    pub(crate) fn programs(&self, global_batch: usize, replica: usize) -> Result<Vec<Vec<Op>>, Usage> {
        let micro_batches = self.micro_batches(global_batch, replica);
        let even = || Costs::even(self.layers.len(), 1.0, 1.0, 1.0);
        let costs = self.costs.clone().unwrap_or_else(even);
        let built = schedule::build(self.schedule, self.mesh.0, micro_batches, self.chunks, &costs);
        built.map(|schedule| schedule.programs).map_err(|error| Usage(format!("[mesh]: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mesh: (usize, usize, usize), order: &[usize]) -> Decision {
        Decision {
            mesh,
            order: order.to_vec(),
            layers: vec![3; mesh.0],
            chunks: 1,
            schedule: Kind::OneForwardOneBackward,
            micro_batch: 2,
            recompute: false,
            costs: None,
            predicted_step_s: Some(1.0),
            predicted_bubble: Some(0.1),
        }
    }

    #[test]
    fn survivors_keep_their_stages_and_fill_gaps() {
        let found = |decision: &Decision, survivors: &[usize]| {
            decision.shrunk(survivors).map(|shrunk| (shrunk.mesh, shrunk.order))
        };
        let replicas = of((1, 3, 1), &[0, 1, 2]);
        assert_eq!(found(&replicas, &[0, 2]), Some(((1, 2, 1), vec![0, 1])));
        // Stages {0, 3} and {1, 2}; rank 3 is gone, so that one of stage 1 is spare.
        let pipeline = of((2, 2, 1), &[0, 3, 1, 2]);
        assert_eq!(found(&pipeline, &[0, 1, 2]), Some(((2, 1, 1), vec![0, 1])));
        // Both of stage 0 are gone: one of stage 1 takes its place.
        assert_eq!(found(&pipeline, &[1, 2]), Some(((2, 1, 1), vec![1, 0])));
        assert_eq!(found(&pipeline, &[2]), None);
    }

    #[test]
    fn a_mesh_that_is_none_of_the_ranks_is_refused() {
        let file = |mesh: &str| {
            let text = format!(
                "[model]\npreset = \"nano\"\n[data]\ntokens = \"t\"\n[training]\nsteps = 1\nglobal_batch = 8\n\
                 sequence_length = 8\nlearning_rate = 1e-3\n[mesh]\n{mesh}"
            );
            TrainFile::parse("train.toml", &text).expect("sound")
        };
        let error = |mesh: &str, ranks| Decision::fixed(&file(mesh), ranks, 2).expect_err("refused").to_string();
        assert!(
            error("pipeline = 3", 4).contains("3 stages x 1 replicas x 1 sharers of each layer are not the 4 ranks")
        );
        assert!(error("pipeline = 4", 4).contains("the model's 2 layers do not split into [1, 1, 0, 0]"));
        assert!(error("order = [0, 0]", 2).contains("each rank from 0 to 1 has one place"));
        assert!(error("schedule = \"interleaved\"\npipeline = 2", 2).contains("do not split into [1, 1, 0, 0]"));
        let fixed = Decision::fixed(&file("pipeline = 2\nmicro_batch = 2"), 4, 2).expect("sound");
        assert_eq!((fixed.mesh, fixed.layers.clone(), fixed.micro_batches(8, 1)), ((2, 2, 1), vec![1, 1], 2));
        let slice = fixed.slice(fixed.seat(3));
        assert_eq!((slice.layers().collect::<Vec<_>>(), slice.first, slice.last), (vec![1], false, true));
    }
}
