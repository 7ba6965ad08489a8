//! `bench launch`: training a model beside PyTorch, on one machine and on two clusters with a slow link between them.
//!
//! Whole programs take turns on the same model, the same first parameters and the same samples: `swarmloom launch`, which
//! plans by itself, and PyTorch with data parallelism, with a pipeline, and with both in either order. Losses have to agree.
//! Clusters are network namespaces; bytes are those that the slow link carried between two marks of each program.

mod turn;
mod work;

use std::path::Path;

use anyhow::ensure;
use netlab::{Between, Lab};

use self::turn::{Machine, Turn, ours, theirs};
use self::work::Work;
use super::{Row, median, spread};
use crate::cli::BenchArgs;

/// Losses of the last step may differ by this share.
const AGREE: f64 = 0.01;
/// The paper's samples a second with both kinds of card, over those with InfiniBand alone; recalled, not verified.
const HYBRID: f64 = 0.76;

/// A way to use PyTorch.
struct Way {
    mode: &'static str,
    name: &'static str,
}

const SINGLE: Way = Way { mode: "single", name: "PyTorch 2.11.0, one process" };
const DDP: Way = Way { mode: "ddp", name: "PyTorch 2.11.0, DDP" };
const PIPELINE: Way = Way { mode: "pp", name: "PyTorch 2.11.0, pipelining" };
const HOLMES: Way = Way { mode: "ddp_in_pp_across", name: "PyTorch 2.11.0, DDP inside, pipeline across" };
const INSIDE: Way = Way { mode: "pp_in_ddp_across", name: "PyTorch 2.11.0, pipeline inside, DDP across" };

/// A slow link.
struct Slow {
    what: &'static str,
    between: Between,
}

/// Measures all; ratios are of one round each.
///
/// # Errors
/// Where a program fails or does other work.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let (rounds, local_steps, slow_steps) = if args.quick { (1, 4, 2) } else { (3, 6, 4) };
    let folder = tempfile::tempdir()?;
    let work = Work::write(folder.path(), local_steps.max(slow_steps))?;
    let mut notes = vec![work.describe(), format!("{rounds} rounds in which every program runs once, medians")];
    let peers = args.peers.as_deref().map(|peers| peers.join("torch-launch")).filter(|program| program.exists());
    if peers.is_none() {
        notes.push("PyTorch is not here; `cargo xtask bench launch` installs it".into());
    }
    let mut rows = Vec::new();
    local(&work, peers.as_deref(), (rounds, local_steps), (&mut rows, &mut notes))?;
    if let Err(reason) = netlab::available() {
        notes.push(format!("two clusters are left out: {reason}"));
        return Ok((rows, notes));
    }
    let limited = |rate: f64, delay_ms: f64| Between { rate_mbit: Some(rate), delay_ms, ..Between::default() };
    let mut links = vec![Slow { what: "100 Mbit/s, 5 ms", between: limited(100.0, 5.0) }];
    if !args.quick {
        links.push(Slow { what: "1 Gbit/s", between: limited(1000.0, 0.0) });
    }
    for link in &links {
        clusters(&work, peers.as_deref(), link, (rounds, slow_steps), (&mut rows, &mut notes))?;
    }
    Ok((rows, notes))
}

/// Rows and notes so far.
type Said<'a> = (&'a mut Vec<Row>, &'a mut Vec<String>);

/// One process, and two ranks, on this machine.
fn local(
    work: &Work,
    peers: Option<&Path>,
    (rounds, steps): (usize, usize),
    (rows, notes): Said<'_>,
) -> anyhow::Result<()> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let ways = [SINGLE, DDP, PIPELINE];
    let mut others: Vec<(&Way, Vec<Turn>)> = ways.iter().map(|way| (way, Vec::new())).collect();
    for _ in 0..rounds {
        one.push(ours(work, &Machine::Local(1), steps)?);
        two.push(ours(work, &Machine::Local(2), steps)?);
        for (way, turns) in &mut others {
            let Some(program) = peers else { continue };
            let ranks = if way.mode == SINGLE.mode { 1 } else { 2 };
            turns.push(theirs(work, program, way.mode, &Machine::Local(ranks), steps)?);
        }
    }
    for (way, turns) in &others {
        let (what, mine) =
            if way.mode == SINGLE.mode { ("one process", &one) } else { ("two ranks on this machine", &two) };
        agree(way, mine, turns)?;
        rows.push(row(what, way.name, mine, turns));
    }
    foretold("two ranks on this machine", &two, notes);
    Ok(())
}

/// Two clusters of two ranks.
fn clusters(
    work: &Work,
    peers: Option<&Path>,
    link: &Slow,
    (rounds, steps): (usize, usize),
    (rows, notes): Said<'_>,
) -> anyhow::Result<()> {
    let slow = Machine::Clusters(Lab::clusters("slow", &[2, 2], link.between)?);
    let fast = Machine::Clusters(Lab::clusters("fast", &[2, 2], Between::default())?);
    let ways = [DDP, INSIDE, HOLMES];
    let mut others: Vec<Vec<Turn>> = ways.iter().map(|_| Vec::new()).collect();
    let (mut mine, mut without) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        mine.push(ours(work, &slow, steps)?);
        without.push(ours(work, &fast, steps)?);
        for (way, turns) in ways.iter().zip(&mut others) {
            let Some(program) = peers else { continue };
            turns.push(theirs(work, program, way.mode, &slow, steps)?);
        }
    }
    let what = format!("two clusters, {}", link.what);
    let bytes = |turns: &[Turn]| median(turns.iter().map(|turn| turn.link_bytes).collect()) / 1e6;
    for (way, turns) in ways.iter().zip(&others) {
        agree(way, &mine, turns)?;
        rows.push(row(&what, way.name, &mine, turns));
        if !turns.is_empty() {
            let expected = work.link_bytes(way.mode) / 1e6;
            notes.push(format!(
                "{what}: {} put {:.1} MB a step on the link, both ways together; by arithmetic {expected:.1}",
                way.name,
                bytes(turns)
            ));
        }
    }
    notes.push(format!(
        "{what}: ours put {:.1} MB a step on the link with {}",
        bytes(&mine),
        mine.first().map(|turn| turn.mesh.clone()).unwrap_or_default()
    ));
    let hybrid: Vec<f64> = mine.iter().zip(&without).map(|(slow, fast)| slow.rate / fast.rate).collect();
    notes.push(format!(
        "{what}: {:.0} % of what ours does without a limit; the paper's hybrid keeps {:.0} % of InfiniBand alone (recalled, \
         not verified)",
        100.0 * median(hybrid),
        100.0 * HYBRID
    ));
    foretold(&what, &mine, notes);
    Ok(())
}

/// How far the planned step was from the measured one.
fn foretold(what: &str, mine: &[Turn], notes: &mut Vec<String>) {
    let apart: Vec<f64> =
        mine.iter().filter_map(|turn| turn.predicted_s.map(|planned| planned / turn.step_s)).collect();
    if !apart.is_empty() {
        let [low, high] = spread(&apart);
        notes.push(format!(
            "{what}: a step was planned to take {:.2} of what it took ({low:.2} to {high:.2})",
            median(apart)
        ));
    }
}

/// Whether all did the same work.
fn agree(way: &Way, mine: &[Turn], theirs: &[Turn]) -> anyhow::Result<()> {
    for (ours, theirs) in mine.iter().zip(theirs) {
        let (a, b) = (ours.loss, theirs.loss);
        ensure!((a - b).abs() <= AGREE * b.abs(), "{}: a last loss of {b} against our {a}: other work", way.name);
    }
    Ok(())
}

fn row(what: &str, peer: &str, ours: &[Turn], theirs: &[Turn]) -> Row {
    let rates = |turns: &[Turn]| turns.iter().map(|turn| turn.rate).collect::<Vec<f64>>();
    let (ours, theirs) = (rates(ours), rates(theirs));
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    Row {
        what: what.to_owned(),
        ours: median(ours.clone()),
        theirs: (!theirs.is_empty()).then(|| median(theirs)),
        peer: peer.to_owned(),
        ratio: (!ratios.is_empty()).then(|| median(ratios.clone())),
        unit: "tokens/s",
        spread: spread(if ratios.is_empty() { &ours } else { &ratios }),
    }
}
