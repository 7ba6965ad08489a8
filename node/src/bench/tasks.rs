//! `bench tasks`: generating and scoring items per second, beside reasoning-gym on the same items.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use swarmloom_tasks::{Item, Mode, Task};

use super::{Row, median, spread};
use crate::cli::BenchArgs;

/// The nine tasks of rl-swarm: the aggregate is over these.
const NINE: [&str; 9] = [
    "arc_1d",
    "base_conversion",
    "basic_arithmetic",
    "bf",
    "binary_matrix",
    "calendar_arithmetic",
    "decimal_arithmetic",
    "fraction_simplification",
    "propositional_logic",
];
/// An answer that is wrong nearly everywhere; the peer program scores the same.
const WRONG: &str = "foo";
const SEED: u64 = 4242;

/// Seconds for the items of one round, and what each item's right and wrong answer scored.
struct Round {
    seconds: f64,
    scores: Vec<[f64; 2]>,
}

/// The same of the peer: sums of scores, and the indices of items that it could not make.
struct PeerRound {
    seconds: f64,
    sums: [f64; 2],
    failed: Vec<u64>,
}

/// Measures every task; the aggregate last.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let (rounds, count) = if args.quick { (3, 400) } else { (7, 2000) };
    let mut notes = vec![format!("{count} items a round, {rounds} rounds in turns, medians; one thread each")];
    let mut peer = match &args.peers {
        Some(dir) => Peer::start(&dir.join("reasoning-gym"))?,
        None => None,
    };
    let name = peer.as_ref().map_or_else(|| "reasoning-gym (not installed)".to_owned(), |peer| peer.name.clone());
    if peer.is_none() {
        notes.push("reasoning-gym is not here; `cargo xtask bench tasks` installs it and measures both".into());
    }
    let mut rows = Vec::new();
    let mut totals = (vec![0.0; rounds], vec![0.0; rounds]);
    for info in swarmloom_tasks::list() {
        let task = Task::new(info.name, None, Mode::Exact)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let first = (round * count) as u64;
            let mine = measure(&task, first, count)?;
            ours.push(mine.seconds);
            if let Some(peer) = &mut peer {
                let other = peer.measure(&task, first, count)?;
                let made = (first..).zip(&mine.scores).filter(|(index, _)| !other.failed.contains(index));
                let sums = made.fold([0.0; 2], |sums, (_, scores)| [sums[0] + scores[0], sums[1] + scores[1]]);
                if sums.iter().zip(other.sums).any(|(ours, theirs)| (ours - theirs).abs() > 1e-6) {
                    bail!(
                        "{}: our scores sum to {sums:?}, the peer's to {:?}: these are not the same items",
                        info.name,
                        other.sums
                    );
                }
                theirs.push(other.seconds);
            }
        }
        if NINE.contains(&info.name) {
            for (total, seconds) in totals.0.iter_mut().zip(&ours).chain(totals.1.iter_mut().zip(&theirs)) {
                *total += seconds;
            }
        }
        rows.push(row(info.name.to_owned(), &name, count, &ours, &theirs));
    }
    let theirs = if peer.is_some() { totals.1.as_slice() } else { &[] };
    rows.push(row("the nine of rl-swarm together".into(), &name, count * NINE.len(), &totals.0, theirs));
    Ok((rows, notes))
}

fn row(what: String, peer: &str, count: usize, ours: &[f64], theirs: &[f64]) -> Row {
    let rate = |seconds: &[f64]| count as f64 / median(seconds.to_vec());
    let ratios: Vec<f64> = theirs.iter().zip(ours).map(|(theirs, ours)| theirs / ours).collect();
    let rates: Vec<f64> = ours.iter().map(|seconds| count as f64 / seconds).collect();
    Row {
        what,
        ours: rate(ours),
        theirs: (!theirs.is_empty()).then(|| rate(theirs)),
        peer: peer.to_owned(),
        ratio: (!ratios.is_empty()).then(|| median(ratios.clone())),
        unit: "items/s (generate, score a right and a wrong answer)",
        spread: spread(if ratios.is_empty() { &rates } else { &ratios }),
    }
}

/// Generates `count` items, then scores each item's own answer and a wrong one: what the peer program does.
fn measure(task: &Task, first: u64, count: usize) -> anyhow::Result<Round> {
    let began = Instant::now();
    let items = task.samples(SEED, first..first + count as u64).collect::<Result<Vec<_>, _>>()?;
    let score = |item: &Item| [task.score(item, item.answer.as_deref()), task.score(item, Some(WRONG))];
    let scores = items.iter().map(score).collect();
    Ok(Round { seconds: began.elapsed().as_secs_f64(), scores })
}

/// The peer's program, running.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Peer {
    /// `None` where it is not installed.
    fn start(program: &Path) -> anyhow::Result<Option<Self>> {
        if !program.exists() {
            return Ok(None);
        }
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        let mut peer = Self { child, input, output: BufReader::new(output), name: String::new() };
        let hello = peer.read()?;
        peer.name = format!(
            "{} {}",
            hello["peer"].as_str().unwrap_or("reasoning-gym"),
            hello["version"].as_str().unwrap_or("(no version)")
        );
        Ok(Some(peer))
    }

    fn measure(&mut self, task: &Task, first: u64, count: usize) -> anyhow::Result<PeerRound> {
        let mut config = task.config().clone();
        if let Some(fields) = config.as_object_mut() {
            // Ours alone: how a policy is asked.
            fields.remove("prompt");
        }
        let request = json!({ "task": task.name(), "config": config, "seed": SEED, "first": first, "count": count });
        writeln!(self.input, "{request}")?;
        self.input.flush()?;
        let answer = self.read()?;
        if let Some(error) = answer["error"].as_str() {
            bail!("the peer program says of {}: {error}", task.name());
        }
        let number =
            |key: &str| answer[key].as_f64().with_context(|| format!("the peer's answer has no {key}: {answer}"));
        let failed = answer["failed"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        Ok(PeerRound {
            seconds: number("generate_s")? + number("score_s")?,
            sums: [number("right")?, number("wrong")?],
            failed: failed.collect(),
        })
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the peer program said {line:?}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
