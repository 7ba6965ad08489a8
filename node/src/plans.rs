//! `collective plan`: one verified plan, printed or drawn.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use swarmloom_collectives::fabric::{shm, tcp};
use swarmloom_collectives::plan::build::{self, Tuning};
use swarmloom_collectives::plan::verify::verify;
use swarmloom_collectives::plan::{Algorithm, Collective, Guarantee, Layout, MAX_RANKS, Reach, draw};
use swarmloom_collectives::select::{Kind, Selector, choose};

use crate::cli::{CollectiveVerb, Over, PlanArgs};
use crate::runs::Usage;
use crate::say;

/// Steps of each rank that are printed at most; `--json` has all of them.
const SHOWN: usize = 40;

/// Carries out a verb of `collective`.
///
/// # Errors
/// Where there is no such plan.
pub(crate) fn run(verb: &CollectiveVerb, as_json: bool) -> anyhow::Result<()> {
    match verb {
        CollectiveVerb::Plan(args) => plan(args, as_json),
    }
}

fn plan(args: &PlanArgs, as_json: bool) -> anyhow::Result<()> {
    let collective = collective(args)?;
    let layout = layout(args)?;
    let tuning =
        args.chunk_bytes.map_or_else(Tuning::default, |chunk_bytes| Tuning { chunk_bytes, ..Tuning::default() });
    let possible = build::algorithms(&collective, &layout, args.element_bytes);
    let algorithm = match &args.algorithm {
        None => choose(&collective, &layout, args.element_bytes),
        Some(name) => *Algorithm::ALL.iter().find(|one| one.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Algorithm::ALL.iter().map(|one| one.name()).collect();
            Usage(format!("there is no algorithm {name:?}: there are {}", names.join(", ")))
        })?,
    };
    if !possible.contains(&algorithm) {
        let names: Vec<&str> = possible.iter().map(|one| one.name()).collect();
        bail!("{} by {} is not possible here: possible are {}", collective.name(), algorithm.name(), names.join(", "));
    }
    let selector = Selector { forced: Some(algorithm), tuning, ..Selector::default() };
    let plan = selector.plan(&collective, &layout, args.element_bytes)?;
    let proof = verify(&plan, &layout).context("the plan is wrong")?;
    if let Some(path) = &args.draw {
        std::fs::write(path, draw::svg(&plan)).with_context(|| path.display().to_string())?;
    }
    let steps: Vec<Value> = plan
        .programs
        .iter()
        .enumerate()
        .flat_map(|(rank, program)| program.iter().map(move |step| json!({ "rank": rank, "step": step })))
        .collect();
    let answer = json!({
        "collective": plan.collective, "algorithm": algorithm, "ranks": plan.ranks(),
        "possible": possible, "element_bytes": plan.element_bytes, "scratch_bytes": plan.scratch * plan.element_bytes,
        "guarantee": proof.guarantee, "depth": proof.depth, "bytes_moved": proof.bytes_moved,
        "drawing": args.draw, "steps": steps,
    });
    say(as_json, &answer, || {
        let bits = match proof.guarantee {
            Some(Guarantee::RankOrder) => {
                "the same bits on all ranks, whatever the size and the algorithm of this promise"
            }
            Some(Guarantee::Identical) => "the same bits on all ranks",
            _ => "nothing is reduced",
        };
        let moved = proof.bytes_moved.iter().max().copied().unwrap_or(0);
        let drawn =
            args.draw.as_ref().map_or_else(String::new, |path: &PathBuf| format!("\ndrawn in {}", path.display()));
        format!(
            "{} by {}: {} steps, {} signals one after the other, at most {moved} bytes to and from others on a rank\n\
             proved: every element is right, no rank can wait for ever, no two ranks touch the same bytes at once; {bits}\n\
             {}{drawn}",
            plan.collective.name(),
            algorithm.name(),
            proof.steps,
            proof.depth,
            draw::table(&plan, SHOWN),
        )
    })
}

fn collective(args: &PlanArgs) -> anyhow::Result<Collective> {
    let kinds = [
        ("all-reduce", Kind::AllReduce),
        ("reduce-scatter", Kind::ReduceScatter),
        ("all-gather", Kind::AllGather),
        ("broadcast", Kind::Broadcast),
        ("reduce", Kind::Reduce),
        ("all-to-all", Kind::AllToAll),
        ("barrier", Kind::Barrier),
        ("send", Kind::Send),
    ];
    let name = args.name.replace('_', "-");
    let Some((_, kind)) = kinds.iter().find(|(known, _)| *known == name) else {
        let names = kinds.map(|(known, _)| known).join(", ");
        return Err(Usage(format!("there is no collective {:?}: there are {names}", args.name)).into());
    };
    if args.ranks == 0 || args.ranks > MAX_RANKS {
        return Err(Usage(format!("--ranks {}: 1 to {MAX_RANKS}", args.ranks)).into());
    }
    if !args.bytes.is_multiple_of(args.element_bytes.max(1)) || !matches!(args.element_bytes, 1 | 2 | 4 | 8) {
        let why = "elements have 1, 2, 4 or 8 bytes, and --bytes is a multiple of that";
        return Err(Usage(format!("--bytes {} --element-bytes {}: {why}", args.bytes, args.element_bytes)).into());
    }
    Ok(kind.sample(args.bytes / args.element_bytes, args.ranks))
}

fn layout(args: &PlanArgs) -> anyhow::Result<Layout> {
    let shm = Reach { load_scratch: true, packet_bytes: shm::PACKET_BYTES, ..Reach::default() };
    let tcp = Reach { put_output: true, packet_bytes: tcp::PACKET_BYTES, ..Reach::default() };
    let near = match args.over {
        Over::Shm => shm,
        Over::Registered => Reach { reduce_user: true, ..shm },
        Over::SingleCopy => Reach { copy_user: true, ..shm },
        Over::Tcp => tcp,
        Over::OneSided => Reach::default(),
    };
    let hosts = match &args.hosts {
        None => vec![0; args.ranks],
        Some(sizes) => {
            let sum: usize = sizes.iter().sum();
            if sum != args.ranks || sizes.contains(&0) {
                return Err(Usage(format!("--hosts has {sum} ranks, --ranks says {}", args.ranks)).into());
            }
            // A host is named by its first rank, as a group does it.
            let mut hosts = Vec::with_capacity(sum);
            for size in sizes {
                hosts.extend(std::iter::repeat_n(hosts.len(), *size));
            }
            hosts
        }
    };
    Ok(Layout { hosts, near, far: tcp, scratch_bytes: args.scratch_bytes })
}
