//! `plan`: what `launch` would do, and why, before it does it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmloom_placement::cost::{self, Mix, Offer, Target};
use swarmloom_placement::draw;
use swarmloom_placement::plan::{Plan, plan};
use swarmloom_placement::schedule;
use swarmloom_placement::timeline;
use swarmloom_placement::topology::{Link, TopologyFile};

use super::file::TrainFile;
use super::place::{Place, environment};
use super::rank::{self, Planned, Task};
use super::{LAUNCHED, read, slug, supervise};
use crate::cli::PlanCommand;
use crate::config::{ConfigErrors, located, place};
use crate::runs::Usage;
use crate::say;

/// What rank 0 leaves for the launcher.
const PLANNED: &str = "planned.json";

/// Carries out `plan`.
///
/// # Errors
/// [`Usage`] where a file is wrong; where ranks cannot be measured, or no placement is possible.
pub(crate) fn run(args: &PlanCommand, as_json: bool) -> anyhow::Result<()> {
    let path = &args.file;
    let (name, text) = read(path)?;
    let file = TrainFile::parse(&name, &text)?;
    let folder = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("launch-{}", slug(&file.name))));
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let task = Task { name: &name, text: &text, file: &file, folder: &folder, out: &out, restart: false };
    let place = Place::find(&environment)?;
    let own = environment(LAUNCHED).is_some();
    let planned = match (&place, args.nproc) {
        (None, Some(ranks)) if ranks > 1 => {
            let left = out.join(PLANNED);
            let _ = std::fs::remove_file(&left);
            let program = std::env::current_exe().context("this program's own path")?;
            let arguments = ["plan".to_owned(), path.display().to_string(), "--out".into(), out.display().to_string()];
            let launch = supervise::Options { restarts: 0, quiet: as_json, elastic: false };
            super::start(&launch, &file.name, &out, ranks, (program, arguments.to_vec()))?;
            let text = std::fs::read(&left).with_context(|| left.display().to_string())?;
            serde_json::from_slice(&text).with_context(|| left.display().to_string())?
        }
        _ => {
            let place = place.unwrap_or_else(Place::alone);
            let planned = rank::plan(&task, &place)?;
            if place.rank > 0 {
                return Ok(());
            }
            if own {
                let left = out.join(PLANNED);
                let text = serde_json::to_vec(&planned)?;
                return std::fs::write(&left, text).with_context(|| left.display().to_string());
            }
            planned
        }
    };
    let planned = match &args.topology {
        Some(path) => elsewhere(planned, path)?,
        None => planned,
    };
    if let Some(path) = &args.cost {
        return costs(&planned, path, &file, as_json);
    }
    let drawings = drawn(&planned, &out)?;
    say(as_json, &document(&planned, &drawings), || {
        let named = drawings.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        format!("{}\ndrawn in {named}", draw::table(&planned.ranking, &planned.topology))
    })
}

/// The same model and job on machines that a file describes.
fn elsewhere(planned: Planned, path: &Path) -> anyhow::Result<Planned> {
    let topology =
        table::<TopologyFile>(path)?.topology().map_err(|error| Usage(format!("{}: {error}", path.display())))?;
    let mut job = planned.job;
    let ranks = topology.ranks.len();
    job.tensor.retain(|tensor| ranks.is_multiple_of(*tensor));
    // A mesh that a file fixes is of the ranks that are here.
    job.mesh = job.mesh.filter(|mesh| mesh.size() == ranks);
    let ranking =
        plan(&topology, &planned.model, &job).map_err(|error| Usage(format!("{}: {error}", path.display())))?;
    Ok(Planned { ranking, topology, model: planned.model, job })
}

/// What a price list says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prices {
    /// Hours in which the training has to be done.
    hours: f64,
    /// Between hosts of different offers.
    between: Link,
    /// What can be had.
    offer: Vec<Offer>,
}

fn costs(planned: &Planned, path: &Path, file: &TrainFile, as_json: bool) -> anyhow::Result<()> {
    let prices: Prices = table(path)?;
    let target = Target { steps: file.training.steps, seconds: prices.hours * 3600.0 };
    let mixes = cost::cheapest(&prices.offer, prices.between, &planned.model, &planned.job, target);
    let mixes = mixes.map_err(|error| Usage(format!("{}: {error}", path.display())))?;
    say(as_json, &json!({ "mixes": mixes }), || {
        let line = |mix: &Mix| {
            let hosts = mix.hosts.iter().zip(&prices.offer).filter(|(hosts, _)| **hosts > 0);
            let hosts = hosts.map(|(hosts, offer)| format!("{hosts} x {}", offer.device)).collect::<Vec<_>>();
            let (best, worst) = mix.step_range_s;
            format!(
                "{:>10.2}  {:>8.2} h  {:.3} s a step ({best:.3} to {worst:.3})  {}",
                mix.price,
                mix.seconds / 3600.0,
                mix.step_s,
                hosts.join(" + ")
            )
        };
        let lines: Vec<String> = mixes.iter().map(line).collect();
        format!("     price      time  step                       hosts\n{}", lines.join("\n"))
    })
}

fn table<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let (name, text) = read(path)?;
    toml::from_str(&text).map_err(|error| {
        let (line, column) = error.span().map_or((0, 0), |span| place(&text, span.start));
        ConfigErrors(vec![located(&name, (line, column), error.message().trim())]).into()
    })
}

/// Draws the placement and the schedule.
fn drawn(planned: &Planned, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let best = &planned.ranking.best;
    let schedule = schedule::build(best.schedule, best.mesh.pipeline, best.micro_batches, best.chunks, &best.costs)?;
    let timeline = timeline::simulate(&schedule, &best.costs)?;
    let drawings = [
        ("placement.svg", draw::svg_placement(best, &planned.topology)),
        ("schedule.svg", draw::svg_schedule(&schedule, &timeline)),
    ];
    drawings
        .into_iter()
        .map(|(name, svg)| {
            let path = out.join(name);
            std::fs::write(&path, svg).with_context(|| path.display().to_string())?;
            Ok(path)
        })
        .collect()
}

fn document(planned: &Planned, drawings: &[PathBuf]) -> Value {
    let plan = |plan: &Plan| {
        let transports = |groups: &[swarmloom_placement::mesh::Group]| {
            groups.iter().map(|group| group.transport.name()).collect::<Vec<_>>()
        };
        json!({
            "mesh": plan.mesh,
            "order": plan.order,
            "groups": plan.groups,
            "transports": {
                "tensor": transports(&plan.groups.tensor),
                "data": transports(&plan.groups.data),
                "pipeline": transports(&plan.groups.pipeline),
            },
            "stages": plan.stages,
            "schedule": plan.schedule,
            "chunks": plan.chunks,
            "micro_batch": plan.micro_batch,
            "micro_batches": plan.micro_batches,
            "recompute": plan.recompute,
            "predicted_step_s": plan.predicted.step_s,
            "predicted": plan.predicted,
            "why": plan.why,
        })
    };
    let mut document = plan(&planned.ranking.best);
    document["runners_up"] = planned.ranking.runners_up.iter().map(plan).collect();
    document["refused"] = json!(planned.ranking.refused);
    document["topology"] = json!(planned.topology);
    document["drawings"] = json!(drawings);
    document
}
