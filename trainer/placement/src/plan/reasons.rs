//! Why a plan is as it is, for people.

use super::Plan;
use super::facts::Facts;
use crate::mesh::Group;
use crate::topology::{LinkClass, Topology};

/// What decided, in short sentences.
pub(super) fn of(topology: &Topology, facts: &Facts, plan: &Plan) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(worst) = plan.predicted.bytes.first() {
        let apart = |group: &Group| {
            let cluster = |rank: usize| topology.ranks[rank].cluster;
            group.ranks.iter().any(|&rank| cluster(rank) != cluster(group.ranks[0]))
        };
        let what = match (worst.clusters.0 == worst.clusters.1, plan.groups.data.iter().any(apart)) {
            (true, _) => "carry",
            (false, true) => "replicas lie on both sides, and their gradients are",
            (false, false) => "only activations cross, which are",
        };
        why.push(format!(
            "the slowest links used are {} ({}): {what} {:.1} MB a step both ways",
            worst.over,
            worst.class.name(),
            worst.bytes / 1e6
        ));
    }
    let data = plan.groups.data.iter().map(|group| group.class).max().unwrap_or(LinkClass::Shm);
    if plan.mesh.data > 1 {
        why.push(format!("replicas sum their gradients over {}", data.name()));
    }
    if plan.mesh.pipeline > 1 {
        let counts: Vec<String> = plan
            .stages
            .iter()
            .map(|stage| stage.layers.iter().map(|it| it.end - it.start).sum::<usize>().to_string())
            .collect();
        let unlike = facts.speeds.iter().any(|speed| *speed != facts.speeds[0]);
        let reason = if unlike { "for stages of unlike speed" } else { "for stages of one speed" };
        why.push(format!("layers {} {reason}", counts.join("/")));
        why.push(format!(
            "{} with {} micro-batches leaves {:.1}% idle",
            plan.schedule.name(),
            plan.micro_batches,
            100.0 * plan.predicted.bubble
        ));
    }
    if plan.recompute {
        why.push("the forward pass is done again to fit the memory".into());
    }
    let exposed = plan.predicted.data_parallel_s / plan.predicted.step_s;
    if exposed > 0.01 {
        why.push(format!("summing gradients takes {:.1}% of the step that nothing hides", 100.0 * exposed));
    }
    why
}
