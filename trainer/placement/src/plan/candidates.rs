//! All placements that a job allows, compared.

use super::evaluate::Case;
use super::facts::Facts;
use super::{Choice, Job, Layout, Plan, PlanError, Ranking};
use crate::mesh::{Mesh, MeshError};
use crate::model::Model;
use crate::schedule::Kind;
use crate::topology::Topology;

/// Sizes of micro-batches that are considered unless the job names some.
const LARGEST_MICRO_BATCH: usize = 64;

/// How many are simulated, and how many of them for one mesh and layout.
const FINALISTS: usize = 24;
const FINALISTS_OF_A_MESH: usize = 4;

const RUNNERS_UP: usize = 5;
const REFUSED: usize = 64;

/// Chunks of layers on a stage that are considered for interleaved schedules.
const CHUNKS: [usize; 2] = [2, 4];

/// One that may be simulated.
#[derive(Debug)]
struct Candidate {
    seconds: f64,
    choice: Choice,
    layers: Vec<usize>,
    facts: usize,
}

/// See [`plan`](super::plan()).
pub(super) fn ranking(topology: &Topology, model: &Model, job: &Job) -> Result<Ranking, PlanError> {
    let mut search = Search { topology, model, job, refused: Vec::new(), considered: 0, first: None };
    let mut all_facts: Vec<Facts> = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    for mesh in search.meshes()? {
        for layout in layouts(topology, &mesh) {
            let facts = Facts::new(topology, &mesh, layout)?;
            let mut found = search.of_mesh(&facts, layout, all_facts.len());
            found.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            // The best size of micro-batches of each schedule.
            let mut kept: Vec<Candidate> = Vec::new();
            for candidate in found {
                let same = |other: &Candidate| other.choice.kind == candidate.choice.kind;
                if kept.len() < FINALISTS_OF_A_MESH && !kept.iter().any(same) {
                    kept.push(candidate);
                }
            }
            candidates.extend(kept);
            all_facts.push(facts);
        }
    }
    candidates.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    candidates.truncate(FINALISTS);
    let mut plans: Vec<Plan> = Vec::new();
    for candidate in &candidates {
        let facts = &all_facts[candidate.facts];
        let plan =
            Case::new(topology, model, job, facts, &candidate.choice).and_then(|case| case.plan(&candidate.layers));
        match plan {
            Ok(plan) => plans.push(plan),
            Err(error) => search.refuse(&candidate.choice, &error),
        }
    }
    // Of equals, the one that the formula put first.
    plans.sort_by(|a, b| a.predicted.step_s.total_cmp(&b.predicted.step_s));
    let mut plans = plans.into_iter();
    let Some(mut best) = plans.next() else {
        let first = search.first.unwrap_or_else(|| "no mesh has as many ranks and no more stages than layers".into());
        return Err(PlanError::Nothing { considered: search.considered, first });
    };
    let runners_up: Vec<Plan> = plans.take(RUNNERS_UP).collect();
    if let Some(other) = runners_up.iter().find(|plan| (plan.mesh, plan.layout) != (best.mesh, best.layout)) {
        best.why.push(format!(
            "the next other placement, {} {}, would take {:.2} times as long",
            other.mesh,
            other.layout.name(),
            other.predicted.step_s / best.predicted.step_s
        ));
    }
    Ok(Ranking { best, runners_up, refused: search.refused, considered: search.considered })
}

/// Both orders where they differ.
fn layouts(topology: &Topology, mesh: &Mesh) -> Vec<Layout> {
    if mesh.pipeline > 1 && mesh.data > 1 && topology.hosts.len() > 1 {
        vec![Layout::PipelineAcross, Layout::PipelineInside]
    } else {
        vec![Layout::PipelineAcross]
    }
}

#[derive(Debug)]
struct Search<'a> {
    topology: &'a Topology,
    model: &'a Model,
    job: &'a Job,
    refused: Vec<(String, String)>,
    considered: usize,
    first: Option<String>,
}

impl Search<'_> {
    fn meshes(&self) -> Result<Vec<Mesh>, PlanError> {
        let ranks = self.topology.ranks.len();
        if let Some(mesh) = self.job.mesh {
            if mesh.size() != ranks {
                return Err(MeshError::Size { mesh, ranks }.into());
            }
            return Ok(vec![mesh]);
        }
        let mut tensors = self.job.tensor.clone();
        if tensors.is_empty() {
            tensors.push(1);
        }
        tensors.sort_unstable();
        tensors.dedup();
        let mut meshes = Vec::new();
        for pipeline in (1..=self.model.layers.len()).filter(|it| ranks.is_multiple_of(*it)) {
            let stage = ranks / pipeline;
            for &tensor in tensors.iter().filter(|it| **it > 0 && stage.is_multiple_of(**it)) {
                meshes.push(Mesh { pipeline, data: stage / tensor, tensor });
            }
        }
        Ok(meshes)
    }

    fn micro_batches(&mut self, mesh: &Mesh) -> Vec<usize> {
        let (global_batch, data) = (self.job.global_batch, mesh.data);
        let fits = |size: &usize| global_batch.is_multiple_of(size * data) && *size > 0 && global_batch > 0;
        if self.job.micro_batches.is_empty() {
            return (1..=LARGEST_MICRO_BATCH).filter(fits).collect();
        }
        self.job.micro_batches.iter().copied().filter(fits).collect()
    }

    fn kinds(&self, mesh: &Mesh) -> Vec<(Kind, usize)> {
        let allowed: &[Kind] = if self.job.schedules.is_empty() { &Kind::ALL } else { &self.job.schedules };
        if mesh.pipeline == 1 {
            // All do the same.
            let kind = allowed.iter().find(|kind| **kind == Kind::OneForwardOneBackward).or(allowed.first());
            return kind.map(|kind| (*kind, 1)).into_iter().collect();
        }
        let virtual_stages = |chunks: &usize| chunks * mesh.pipeline <= self.model.layers.len();
        let of = |kind: &Kind| match kind {
            Kind::Interleaved => {
                CHUNKS.iter().copied().filter(virtual_stages).map(|it| (Kind::Interleaved, it)).collect()
            }
            other => vec![(*other, 1)],
        };
        allowed.iter().flat_map(of).collect()
    }

    /// All that fit, of one mesh in one layout.
    fn of_mesh(&mut self, facts: &Facts, layout: Layout, index: usize) -> Vec<Candidate> {
        let mesh = facts.mesh;
        let mut found = Vec::new();
        let sizes = self.micro_batches(&mesh);
        if sizes.is_empty() {
            let (global_batch, data) = (self.job.global_batch, mesh.data);
            let micro_batch = self.job.micro_batches.first().copied().unwrap_or(1);
            let error = PlanError::Batch { global_batch, data, micro_batch };
            self.note(format!("{mesh} {}", layout.name()), &error);
        }
        for micro_batch in sizes {
            // A cut that is the best with the least memory is so for other schedules that fit it as well.
            let mut known: Option<(bool, Vec<usize>)> = None;
            for (kind, chunks) in self.kinds(&mesh) {
                let variants: &[bool] = match self.job.recompute {
                    Some(true) => &[true],
                    Some(false) => &[false],
                    None => &[false, true],
                };
                for &recompute in variants {
                    let collective = self.job.collective;
                    let choice =
                        Choice { mesh, layout, collective, kind, chunks, micro_batch, recompute, layers: None };
                    self.considered += 1;
                    let case = match Case::new(self.topology, self.model, self.job, facts, &choice) {
                        Ok(case) => case,
                        Err(error) => {
                            self.refuse(&choice, &error);
                            break;
                        }
                    };
                    if kind == Kind::Interleaved && !case.micro_batches.is_multiple_of(mesh.pipeline) {
                        break;
                    }
                    let problem = case.problem();
                    let reused = known.as_ref().filter(|known| chunks == 1 && known.0 == recompute);
                    let reused = reused.map(|known| &known.1).filter(|layers| problem.seconds(layers).is_finite());
                    let layers = match reused {
                        Some(layers) => Ok(layers.clone()),
                        None => problem.best().map(|best| best.layers),
                    };
                    match layers {
                        Ok(layers) => {
                            let seconds = case.estimate(&layers);
                            if chunks == 1 && matches!(kind, Kind::OneForwardOneBackward | Kind::DelayAware) {
                                known = Some((recompute, layers.clone()));
                            }
                            found.push(Candidate { seconds, choice, layers, facts: index });
                            // What fits gains nothing from doing work again.
                            break;
                        }
                        Err(error) => self.refuse(&choice, &PlanError::Partition(error)),
                    }
                }
            }
        }
        found
    }

    fn refuse(&mut self, choice: &Choice, error: &PlanError) {
        let again = if choice.recompute { ", forward again" } else { "" };
        let what = format!(
            "{} {}, {}, micro-batches of {}{again}",
            choice.mesh,
            choice.layout.name(),
            choice.kind.name(),
            choice.micro_batch
        );
        self.note(what, error);
    }

    fn note(&mut self, what: String, error: &PlanError) {
        let why = error.to_string();
        if self.first.is_none() {
            self.first = Some(format!("{what}: {why}"));
        }
        if self.refused.len() < REFUSED {
            self.refused.push((what, why));
        }
    }
}
