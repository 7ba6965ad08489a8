//! `bench collectives`: ours, MPI libraries, oneCCL, gloo and a bare program take turns over one grid; limits of the
//! machine are measured between them.

mod compare;
mod entrants;
mod show;
mod turn;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use serde_json::json;
use swarmloom_collectives::bench::{self, Limit, Op, Point, Program, RankArgs, Record, Said};

use self::compare::Sample;
use self::entrants::{Entrant, Role, Wire};
use self::show::Findings;
use self::turn::{Desk, Turn};
use crate::cli::{CollectiveRankArgs, CollectivesArgs, WireArg};
use crate::say;

/// nccl-tests would double; these are four times as far apart, for every one costs everybody's time.
const SIZES: [usize; 11] =
    [8, 64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
const QUICK_SIZES: [usize; 5] = [8, 64, 4 << 10, 64 << 10, 1 << 20];
/// A short measurement begins no round that would end later, as far as the rounds before tell.
const QUICK_SECONDS: f64 = 48.0;
/// Sizes up to here are measured in one go: the shorter a turn, the less the machine changes between turns.
const BLOCKS: [usize; 3] = [64 << 10, 4 << 20, usize::MAX];

/// Everything that is measured.
#[derive(Debug)]
struct Grid {
    entrants: Vec<Entrant>,
    ranks: Vec<usize>,
    /// Points that are measured in one go.
    blocks: Vec<Vec<Point>>,
    budget: Duration,
    rounds: usize,
    /// No round begins that would end later.
    until: Option<Duration>,
    limits: bool,
}

/// What was said, so far.
#[derive(Debug, Default)]
struct Heard {
    samples: Vec<Sample>,
    limits: Vec<Limit>,
    failed: Vec<(String, String)>,
    rounds: usize,
}

/// Measures, compares and shows.
///
/// # Errors
/// Where nothing of ours could be measured, or a result of ours was wrong.
pub(super) fn run(args: &CollectivesArgs, as_json: bool) -> anyhow::Result<()> {
    let (entrants, missing) = entrants::all(args.bench.peers.as_deref())?;
    let grid = plan(args, entrants)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let heard = runtime.block_on(measure(&grid))?;
    if let Some(path) = &args.records {
        write_records(path, &grid.entrants, &heard).with_context(|| path.display().to_string())?;
    }
    let (lines, disturbed) = compare::lines(&grid.entrants, &heard.samples);
    let findings = Findings {
        lines,
        limits: show::limits(&heard.limits),
        missing,
        disturbed,
        measured: heard.samples.len(),
        rounds: heard.rounds,
        failed: heard.failed,
    };
    if let Some(path) = &args.plot {
        std::fs::write(path, show::plot(&findings.lines, &grid.entrants))
            .with_context(|| path.display().to_string())?;
    }
    say(as_json, &show::document(&findings), || show::tables(&findings))?;
    let ours = |index: usize| matches!(grid.entrants[index].role, Role::Ours { .. });
    let wrong: u64 = heard.samples.iter().filter(|one| ours(one.entrant)).map(|one| one.record.wrong).sum();
    ensure!(wrong == 0, "{wrong} elements of our results were wrong");
    let failed = |name: &str| (0..grid.entrants.len()).any(|index| ours(index) && grid.entrants[index].name == name);
    if let Some((name, words)) = findings.failed.iter().find(|(name, _)| failed(name)) {
        bail!("ours ({name}) failed: {words}");
    }
    Ok(())
}

/// One rank of a program: what [`turn`] starts.
///
/// # Errors
/// As [`bench::rank`].
pub(super) fn rank(args: &CollectiveRankArgs) -> anyhow::Result<()> {
    let program = Program::named(&args.program).with_context(|| format!("{:?} is no program", args.program))?;
    let args = RankArgs {
        name: args.program.clone(),
        program,
        rank: args.rank,
        ranks: args.ranks,
        clock: args.clock.clone(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)),
        cpus: args.cpus.clone(),
        points: args.points.clone(),
        budget: Duration::from_millis(args.budget_ms),
        patience: Duration::from_secs(args.patience_s),
    };
    let mut unwritten = None;
    bench::rank(&args, &mut |said| {
        if let Err(error) = writeln!(std::io::stdout(), "{}", json!(said)) {
            unwritten = Some(error);
        }
    })?;
    unwritten.map_or(Ok(()), |error| Err(error).context("telling what was measured"))
}

/// What the command line asks for.
fn plan(args: &CollectivesArgs, mut entrants: Vec<Entrant>) -> anyhow::Result<Grid> {
    let quick = args.bench.quick;
    for name in &args.only {
        let names = || entrants.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
        ensure!(
            name == "limits" || entrants.iter().any(|one| one.name == *name),
            "no {name:?} here; there are {}",
            names()
        );
    }
    entrants.retain(|one| match args.transport {
        WireArg::All => true,
        WireArg::Shm => one.wire == Wire::Shm,
        WireArg::Tcp => one.wire == Wire::Tcp,
    });
    entrants.retain(|one| if args.only.is_empty() { one.quick || !quick } else { args.only.contains(&one.name) });
    let ops = match args.collectives.as_slice() {
        [] if quick => vec![Op::AllReduce],
        [] => Op::ALL.to_vec(),
        some => some.to_vec(),
    };
    let mut sizes = match args.sizes.as_slice() {
        [] if quick => QUICK_SIZES.to_vec(),
        [] => SIZES.to_vec(),
        some => some.to_vec(),
    };
    sizes.retain(|bytes| args.max_bytes.is_none_or(|most| *bytes <= most));
    sizes.sort_unstable();
    sizes.dedup();
    ensure!(!sizes.is_empty(), "--max-bytes leaves no size to measure");
    let ranks = if args.ranks.is_empty() { vec![2] } else { args.ranks.clone() };
    let most = 16;
    ensure!(ranks.iter().all(|ranks| (2..=most).contains(ranks)), "--ranks: from 2 to {most}");
    Ok(Grid {
        limits: args.only.is_empty() || args.only.iter().any(|name| name == "limits"),
        entrants,
        ranks,
        blocks: blocks(&ops, &sizes),
        budget: Duration::from_millis(args.budget_ms.unwrap_or(if quick { 15 } else { 60 })),
        rounds: args.rounds.unwrap_or(3).max(1),
        until: quick.then(|| Duration::from_secs_f64(QUICK_SECONDS)),
    })
}

/// Points that are measured in one go: of one collective, and of similar size.
fn blocks(ops: &[Op], sizes: &[usize]) -> Vec<Vec<Point>> {
    let mut blocks = Vec::new();
    for op in ops {
        let mut least = 0;
        for most in BLOCKS {
            let inside = sizes.iter().filter(|bytes| **bytes > least && **bytes <= most);
            let block: Vec<Point> = inside.map(|bytes| Point { op: *op, bytes: *bytes }).collect();
            least = most;
            if !block.is_empty() {
                blocks.push(block);
            }
        }
    }
    blocks
}

/// Everybody in turns, block by block and round by round.
async fn measure(grid: &Grid) -> anyhow::Result<Heard> {
    let cpus = bench::processors().context("asking for processors")?;
    let desk = Desk::new()?;
    let mut heard = Heard::default();
    let began = Instant::now();
    let turns = grid.rounds * grid.ranks.len() * grid.blocks.len() * grid.entrants.len();
    // Not shown where nobody watches.
    let bar = ProgressBar::new(turns as u64);
    for round in 0..grid.rounds {
        let expected = began.elapsed() * (round as u32 + 1) / (round as u32).max(1);
        if round > 0 && grid.until.is_some_and(|until| expected > until) {
            break;
        }
        heard.rounds += 1;
        for ranks in &grid.ranks {
            let crowded = *ranks > cpus.len();
            let turn =
                |points| Turn { ranks: *ranks, cpus: if crowded { &[] } else { &cpus }, points, budget: grid.budget };
            if grid.limits && *ranks == 2 && !crowded {
                hear(&desk, grid, &mut heard, (round, None), &turn(&[])).await?;
            }
            for block in &grid.blocks {
                for index in entrants::order(grid.entrants.len(), round) {
                    bar.inc(1);
                    if grid.entrants[index].role.takes(*ranks, crowded) {
                        hear(&desk, grid, &mut heard, (round, Some(index)), &turn(block)).await?;
                    }
                }
                tracing::info!(round, ranks, point = %block[0], "measured");
            }
        }
    }
    bar.finish_and_clear();
    Ok(heard)
}

/// One turn; who failed once is heard again, but named once.
async fn hear(
    desk: &Desk,
    grid: &Grid,
    heard: &mut Heard,
    (round, index): (usize, Option<usize>),
    turn: &Turn<'_>,
) -> anyhow::Result<()> {
    let limits = Entrant {
        name: "limits".into(),
        family: "limits".into(),
        role: Role::Floor { registered: false },
        wire: Wire::Shm,
        starter: None,
        quick: true,
    };
    let entrant = index.map_or(&limits, |index| &grid.entrants[index]);
    let taken = desk.take(entrant, turn).await?;
    let mut fail = |words: String| {
        if !heard.failed.iter().any(|(name, _)| *name == entrant.name) {
            heard.failed.push((entrant.name.clone(), words));
        }
    };
    if let Some(words) = taken.failure {
        fail(words);
    }
    for said in taken.said {
        match (said, index) {
            (Said::Point(record), Some(_)) if entrant.role == Role::Peer && record.wrong > 0 => {
                // What is wrong is not fast.
                let at = Point { op: record.op, bytes: record.bytes };
                fail(format!("{} elements of its result of {at} were wrong", record.wrong));
            }
            (Said::Point(record), Some(entrant)) => heard.samples.push(Sample { round, entrant, record }),
            (Said::Limit(limit), _) => heard.limits.push(limit),
            (Said::Point(_), None) => {}
        }
    }
    Ok(())
}

/// Every measurement as it was said, with its round and transport.
fn write_records(path: &Path, entrants: &[Entrant], heard: &Heard) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for Sample { round, entrant, record } in &heard.samples {
        let Record { peer: _, .. } = record;
        let mut line = json!(record);
        line["peer"] = json!(entrants[*entrant].name);
        line["transport"] = json!(entrants[*entrant].wire);
        line["round"] = json!(round);
        writeln!(file, "{line}")?;
    }
    for limit in &heard.limits {
        writeln!(file, "{}", json!(limit))?;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BenchArgs;

    fn args() -> CollectivesArgs {
        CollectivesArgs {
            bench: BenchArgs { quick: false, peers: None },
            ranks: vec![2],
            transport: WireArg::All,
            collectives: Vec::new(),
            sizes: Vec::new(),
            max_bytes: None,
            rounds: None,
            budget_ms: None,
            only: Vec::new(),
            plot: None,
            records: None,
        }
    }

    fn names(grid: &Grid) -> Vec<&str> {
        grid.entrants.iter().map(|one| one.name.as_str()).collect()
    }

    fn planned(args: &CollectivesArgs) -> anyhow::Result<Grid> {
        plan(args, entrants::all(None)?.0)
    }

    #[test]
    fn the_whole_grid_has_every_collective_and_size_once() {
        let grid = planned(&args()).expect("a plan");
        let points: Vec<Point> = grid.blocks.concat();
        assert_eq!((points.len(), grid.blocks.len()), (66, 18));
        assert_eq!(points[0], Point { op: Op::AllReduce, bytes: 8 });
        assert_eq!(grid.blocks[1].iter().map(|point| point.bytes).collect::<Vec<_>>(), [256 << 10, 1 << 20, 4 << 20]);
        assert!(grid.limits && grid.until.is_none());
    }

    #[test]
    fn a_short_one_leaves_out_what_costs_time() {
        let mut args = args();
        args.bench.quick = true;
        args.max_bytes = Some(4096);
        args.transport = WireArg::Shm;
        let grid = planned(&args).expect("a plan");
        assert!(names(&grid).contains(&"floor-direct") && !names(&grid).contains(&"floor-direct-nt"));
        assert!(grid.entrants.iter().all(|one| one.wire == Wire::Shm));
        assert_eq!(grid.blocks.concat().iter().map(|point| point.bytes).collect::<Vec<_>>(), [8, 64, 4096]);
        assert!(grid.until.is_some());
    }

    #[test]
    fn names_pick_and_unknown_ones_are_refused() {
        let mut args = args();
        args.only = vec!["tcp".into(), "floor-direct-nt".into()];
        let grid = planned(&args).expect("a plan");
        assert_eq!(names(&grid), ["floor-direct-nt", "tcp"]);
        assert!(!grid.limits);
        args.only = vec!["mpi".into()];
        assert!(planned(&args).expect_err("there is no such program").to_string().contains("floor-one-shot"));
        args.only.clear();
        args.ranks = vec![1];
        assert!(planned(&args).is_err());
        args.ranks = vec![2];
        args.max_bytes = Some(4);
        assert!(planned(&args).is_err());
    }
}
