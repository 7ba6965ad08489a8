//! `bench simulate`: client updates per second beside Flower and a bare PyTorch loop, on the same work.
//!
//! Whole programs take turns: `swarmloom simulate FILE` as a person runs it, and the peers in `xtask/peers`. All begin with
//! the same parameters and give the same clients the same samples; the accuracies at the end have to agree.

mod idle;
mod watch;
mod work;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use self::watch::{Watched, watched};
use self::work::{CLIENTS, PER_ROUND, Work};
use super::{Row, median, spread};
use crate::cli::BenchArgs;

/// Accuracies may differ by this much: everybody shuffles by itself.
const AGREE: f64 = 0.03;
/// A program that takes longer hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);

/// Somebody to compare with.
struct Peer {
    /// Its starter.
    program: &'static str,
    name: &'static str,
}

const FLOWER: Peer = Peer { program: "flower", name: "Flower 1.41.0" };
const TORCH: Peer = Peer { program: "torch-loop", name: "PyTorch 2.11.0, 2 processes" };

/// What a program says of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Turn {
    /// Updates a second once all is running.
    rate: f64,
    /// Updates a second of the whole program.
    whole: f64,
    /// Seconds of the program outside the measured rounds.
    outside: f64,
    accuracy: f64,
    /// Bytes of all its processes together at their most; a page that several share counts once.
    memory: f64,
}

/// Measures all; the rows that compare first.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let (turns, rounds) = if args.quick { (1, 12) } else { (5, 21) };
    let folder = tempfile::tempdir()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = Work::new(rounds)?;
    work.write(folder.path())?;
    let mut notes = vec![format!(
        "LeNet-5, {} samples of 28 by 28 for each of {CLIENTS} clients, {PER_ROUND} a round, {rounds} rounds, one epoch in \
         batches of 32; {turns} turns in which everybody runs once, medians; {threads} threads",
        work::SAMPLES
    )];
    let (mut ours, mut flower, mut torch) = (Vec::new(), Vec::new(), Vec::new());
    let (mut idle, mut flower_idle) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        tracing::info!(turn, "measuring");
        ours.push(own(folder.path(), "work.toml", rounds * PER_ROUND)?.0);
        idle.push(idle::rate(&work, if args.quick { 100 } else { 1000 })?);
        for (peer, option, turns) in
            [(&TORCH, None, &mut torch), (&FLOWER, None, &mut flower), (&FLOWER, Some("--idle"), &mut flower_idle)]
        {
            if let Some(found) = other(args.peers.as_deref(), peer, option, folder.path(), rounds * PER_ROUND)? {
                turns.push(found);
            } else if turn == 0 && option.is_none() {
                notes.push(format!("{} is not here; `cargo xtask bench simulate` installs it", peer.name));
            }
        }
    }
    let accuracy = |turns: &[Turn]| median(turns.iter().map(|turn| turn.accuracy).collect());
    for (peer, turns) in [(&TORCH, &torch), (&FLOWER, &flower)].into_iter().filter(|(_, turns)| !turns.is_empty()) {
        let (mine, theirs) = (accuracy(&ours), accuracy(turns));
        ensure!((mine - theirs).abs() < AGREE, "{}: accuracy {theirs} against our {mine}: other work", peer.name);
        notes.push(format!("accuracy on {} test samples: {mine:.3}, {theirs:.3} of {}", work::TEST, peer.name));
    }
    let of = |turns: &[Turn], value: fn(&Turn) -> f64| turns.iter().map(value).collect::<Vec<_>>();
    let mut rows = Vec::new();
    for (peer, turns) in [(&FLOWER, &flower), (&TORCH, &torch)] {
        let row = |what: &str, unit, sense, value: fn(&Turn) -> f64| {
            row(what, unit, sense, peer.name, &of(&ours, value), &of(turns, value))
        };
        rows.push(row("client updates", "updates/s once all runs", Sense::More, |turn| turn.rate));
        rows.push(row("the whole program", "updates/s with start and end", Sense::More, |turn| turn.whole));
        rows.push(row("start and end", "s outside the measured rounds", Sense::Less, |turn| turn.outside));
        rows.push(row("memory", "MiB of all processes at their most", Sense::Less, |turn| {
            turn.memory / f64::from(1 << 20)
        }));
    }
    let theirs = of(&flower_idle, |turn| turn.rate);
    rows.push(row("orchestration alone", "updates/s by idle clients", Sense::More, FLOWER.name, &idle, &theirs));
    for (what, unit, found) in alone(folder.path(), args.quick)? {
        rows.push(row(&what, unit, Sense::Less, "", &[found], &[]));
    }
    Ok((rows, notes))
}

/// Whether more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    More,
    Less,
}

fn row(what: &str, unit: &'static str, sense: Sense, peer: &str, ours: &[f64], theirs: &[f64]) -> Row {
    let ratio = |(ours, theirs): (&f64, &f64)| match sense {
        Sense::More => ours / theirs,
        Sense::Less => theirs / ours,
    };
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(ratio).collect();
    Row {
        what: what.to_owned(),
        ours: median(ours.to_vec()),
        theirs: (!theirs.is_empty()).then(|| median(theirs.to_vec())),
        peer: peer.to_owned(),
        ratio: (!ratios.is_empty()).then(|| median(ratios.clone())),
        unit,
        spread: spread(if ratios.is_empty() { ours } else { &ratios }),
    }
}

/// `swarmloom simulate` on a file of the folder: what it did, and its document.
fn own(folder: &Path, file: &str, updates: usize) -> anyhow::Result<(Turn, Value)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(folder).args(["simulate", file, "--json", "--restart", "--out", "out"]);
    let watched = watched(command, PATIENCE)?;
    let document: Value = serde_json::from_str(&watched.output).context("what simulate said")?;
    let number = |value: &Value| value.as_f64().with_context(|| format!("simulate said {document}"));
    let seed = &document["strategies"][0]["seeds"][0];
    let seconds = number(&document["updates_per_s"]).map(|rate| updates as f64 / rate)?;
    let turn = turn(&watched, updates, updates, seconds, number(&seed["final_accuracy"])?);
    Ok((turn, document))
}

/// One run of a peer; `None` where it is not installed.
fn other(
    peers: Option<&Path>,
    peer: &Peer,
    option: Option<&str>,
    folder: &Path,
    updates: usize,
) -> anyhow::Result<Option<Turn>> {
    let Some(program) = peers.map(|peers| peers.join(peer.program)).filter(|program| program.exists()) else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    command.arg(folder).args(option).current_dir(folder);
    let watched = watched(command, PATIENCE).with_context(|| peer.name)?;
    let said: Value = serde_json::from_str(watched.output.trim()).with_context(|| format!("{} said", peer.name))?;
    let number = |key: &str| said[key].as_f64().with_context(|| format!("{} said {said}", peer.name));
    let measured = number("updates")? as usize;
    Ok(Some(turn(&watched, measured, updates, number("seconds")?, number("accuracy")?)))
}

fn turn(watched: &Watched, measured: usize, all: usize, seconds: f64, accuracy: f64) -> Turn {
    let (rate, whole) = (measured as f64 / seconds, all as f64 / watched.seconds);
    Turn { rate, whole, outside: watched.seconds - seconds, accuracy, memory: watched.memory }
}

/// What nobody else has: many clients, and inversions.
fn alone(folder: &Path, quick: bool) -> anyhow::Result<Vec<(String, &'static str, f64)>> {
    let (many, _) = own(folder, "many.toml", work::MANY_ROUNDS)?;
    let mut rows = vec![
        (
            "10,000 clients".into(),
            "s of the whole program, ten rounds of one client",
            work::MANY_ROUNDS as f64 / many.whole,
        ),
        ("10,000 clients".into(), "MiB at the most", many.memory / f64::from(1 << 20)),
    ];
    if !quick {
        let (_, document) = own(folder, "inversion.toml", 1)?;
        let inversions = &document["strategies"][0]["seeds"][0]["inversions"];
        let seconds = inversions["seconds_each"].as_f64().context("simulate said nothing of inversions")?;
        rows.push(("an inversion, 21,840 parameters".into(), "s of one core", seconds));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_above_one_where_ours_is_better() {
        let more = row("rate", "1/s", Sense::More, "peer", &[4.0, 6.0, 5.0], &[2.0, 2.0, 2.0]);
        assert_eq!((more.ours, more.theirs, more.ratio, more.spread), (5.0, Some(2.0), Some(2.5), [2.0, 3.0]));
        let less = row("start", "s", Sense::Less, "peer", &[0.5], &[2.0]);
        assert_eq!((less.ratio, less.spread), (Some(4.0), [4.0, 4.0]));
        let nobody = row("rate", "1/s", Sense::More, "peer", &[1.0, 3.0], &[]);
        assert_eq!((nobody.theirs, nobody.ratio, nobody.spread), (None, None, [1.0, 3.0]));
    }
}
