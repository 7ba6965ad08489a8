//! `simulate`: federated learning in virtual time, many strategies side by side.

pub(crate) mod file;
mod model;
mod outcome;
mod prepare;
mod ranks;
mod report;
mod trace;

use std::collections::VecDeque;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use ring::digest;
use swarmloom_classifiers::Model;
use swarmloom_collectives::Group;
use swarmloom_simulation::{Course, Data, Entry, Executor, Lane, Ranks, Record, Setup, SimulationError, Threads};
use toml::Value;

use self::file::File;
use self::outcome::{Outcome, Variant};
use self::prepare::{Loader, Prepared};
use self::trace::Traces;
use crate::cli::SimulateArgs;
use crate::config::{ConfigErrors, locate};
use crate::hex;
use crate::runs::Usage;
use crate::say;

/// What `--example` prints.
const EXAMPLE: &str = include_str!("simulate/example.toml");
/// What `--settings` prints.
const SETTINGS: &str = include_str!("simulate/settings.toml");
/// Time between two saved states of a run.
const SAVE_EVERY: Duration = Duration::from_secs(20);
/// Raised when what a saved state means changes: older ones are as none.
const STATE_FORMAT: u32 = 4;
/// Variants that a sweep may have.
const MAX_VARIANTS: usize = 256;
/// Runs that go on side by side on several ranks.
const MAX_LANES: usize = 64;

/// Carries out `simulate`.
///
/// # Errors
/// Where the file is wrong, data are missing, or a run fails.
pub(crate) fn run(args: &SimulateArgs, as_json: bool) -> anyhow::Result<()> {
    if args.example || args.settings {
        let text = if args.settings { SETTINGS } else { EXAMPLE };
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let name = path.display().to_string();
    let mut text = String::new();
    if name == "-" && ranks::several()? {
        let message = "WORLD_SIZE is more than 1: give a path, for all ranks read the simulation file";
        return Err(Usage(message.into()).into());
    }
    if name == "-" {
        std::io::stdin().take(1 << 20).read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| name.clone())?;
    }
    let file = File::parse(&name, &text)?;
    let variants = variants(&file, &name, &text)?;
    let threads = match args.threads {
        Some(0) => return Err(Usage("--threads 0: at least one is needed".into()).into()),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("simulation-{}", slug(&file.name))));
    let group = ranks::join(Duration::from_secs(args.wait))?.map(Mutex::new);
    let leads = group.as_ref().is_none_or(|group| lock(group).rank() == 0);

    let begun = Instant::now();
    let (mut loader, several) = (Loader::default(), variants.len() > 1);
    if several {
        // What does not go together is said before anything is computed or written.
        for (_, file) in &variants {
            loader.prepare(file, (&name, &text), several)?;
        }
    }
    let (mut done, mut width) = (Vec::new(), threads);
    for (number, (values, file)) in variants.iter().enumerate() {
        let label = values.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
        let states = out.join("state").join(number.to_string());
        let stamp = hex::encode(
            digest::digest(&digest::SHA256, format!("{STATE_FORMAT}\n{text}\n{label}{}", file.traced).as_bytes())
                .as_ref(),
        );
        let means = Means { threads, group: group.as_ref(), leads };
        let saved = Saved { states: &states, stamp: &stamp, restart: args.restart };
        let prepared = loader.prepare(file, (&name, &text), several)?;
        let (simulated, all) = simulate(file, &prepared, &label, means, saved)?;
        done.push(simulated);
        width = all;
    }
    if !leads {
        return Ok(());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let comparable = file.sweep.keys().all(|key| key.starts_with("inversion."));
    let outcome = Outcome { name: file.name.clone(), variants: done, comparable, seconds, threads: width };
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    outcome.write(&out, &command)?;
    let _ = std::fs::remove_dir_all(out.join("state"));
    let page = out.join("report.html");
    say(as_json, &outcome.json(&page), || outcome.text(&page))
}

/// Whether a file says what a simulation file alone says.
pub(crate) fn is_simulation(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("strategy") || table.contains_key("population"))
}

/// Checks a simulation file without running it. Data are not read.
///
/// # Errors
/// All that is wrong.
pub(crate) fn check(name: &str, text: &str) -> anyhow::Result<()> {
    variants(&File::parse(name, text)?, name, text).map(|_| ())
}

/// The file itself, or one for each combination of the values that its sweep has.
type Variants = Vec<(Vec<(String, Value)>, File)>;

fn variants(file: &File, name: &str, text: &str) -> anyhow::Result<Variants> {
    let mut all: Vec<Vec<(String, Value)>> = vec![Vec::new()];
    for (key, values) in &file.sweep {
        let many = all.len().saturating_mul(values.len());
        if values.is_empty() || many > MAX_VARIANTS {
            let message = format!("it has {many} combinations: 1 to {MAX_VARIANTS} are possible");
            return Err(ConfigErrors(vec![locate(name, text, "sweep", &message)]).into());
        }
        all = all
            .into_iter()
            .flat_map(|before| {
                values.iter().map(move |value| {
                    let mut with = before.clone();
                    with.push((key.clone(), value.clone()));
                    with
                })
            })
            .collect();
    }
    let mut traces = Traces::default();
    let read = |values: Vec<(String, Value)>| {
        let mut file = if values.is_empty() { file.clone() } else { file.with(name, text, &values)? };
        file.read_traces(&mut traces)?;
        Ok((values, file))
    };
    all.into_iter().map(read).collect()
}

fn slug(name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    name.chars().take(64).map(plain).collect()
}

/// What all strategies of a file share; `groups` says who naturally holds which sample.
pub(crate) fn setup<'a>(file: &'a File, model: &'a dyn Model, data: &'a Data, groups: Option<&'a [u32]>) -> Setup<'a> {
    Setup {
        model,
        data,
        groups,
        drift: file.data.drift.as_ref(),
        partition: file.data.partition.clone(),
        samples_per_client: file.data.samples_per_client,
        population: file.population.clone(),
        local: file.local,
        rounds: file.rounds,
        every: file.evaluation.every,
    }
}

/// What computes.
#[derive(Clone, Copy)]
struct Means<'a> {
    /// Of this process.
    threads: usize,
    /// The others, where this process is one of several ranks.
    group: Option<&'a Mutex<Group>>,
    /// Whether it is the one that reads states and writes files.
    leads: bool,
}

/// Where runs go on.
#[derive(Clone, Copy)]
struct Saved<'a> {
    /// The folder of saved states.
    states: &'a Path,
    /// What they begin with if they are of this file.
    stamp: &'a str,
    /// Whether to forget them.
    restart: bool,
}

/// Runs every strategy with every seed, on all threads of all ranks; goes on from saved states of the same file. Also says
/// how many threads those are.
fn simulate(
    file: &File,
    prepared: &Prepared,
    label: &str,
    means: Means<'_>,
    saved: Saved<'_>,
) -> anyhow::Result<(Variant, usize)> {
    let Prepared { data, groups, model, stamp: of_files } = prepared;
    let stamp = format!("{}{of_files}", saved.stamp);
    let saved = Saved { stamp: &stamp, ..saved };
    let setup = setup(file, model.as_ref(), data, groups.as_deref());
    if means.leads {
        if saved.restart {
            let _ = std::fs::remove_dir_all(saved.states);
        }
        std::fs::create_dir_all(saved.states).with_context(|| saved.states.display().to_string())?;
    }
    let what = means.group.map(|_| what(saved.stamp));

    let runs: VecDeque<(usize, Entry, u64)> = file
        .seeds
        .iter()
        .flat_map(|seed| file.strategies.iter().map(move |entry| (entry.clone(), *seed)))
        .enumerate()
        .map(|(number, (entry, seed))| (number, entry, seed))
        .collect();
    let count = runs.len();
    let bar = if means.leads { bar(count as u64 * file.rounds, label) } else { ProgressBar::hidden() };
    let (all, queue, failed) = (runs.clone(), Mutex::new(runs), AtomicBool::new(false));
    let (records, updates) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let begun = Instant::now();
    let width = std::thread::scope(|scope| {
        let drift = file.data.drift.as_ref();
        let (threads, ranks) = match means.group.zip(what.as_ref()) {
            Some((group, what)) => {
                (None, Some(Ranks::start(scope, means.threads, model.as_ref(), data, drift, group, what)?))
            }
            None => (Some(Threads::start(scope, means.threads, model.as_ref(), data, drift)), None),
        };
        let width = ranks.as_ref().map_or(means.threads, Ranks::width);
        let lanes = width.min(count).min(if ranks.is_some() { MAX_LANES } else { usize::MAX });
        let coordinate = |number: usize, lane: Option<&Lane<'_>>| -> anyhow::Result<()> {
            let executor: &dyn Executor = match (lane, &threads) {
                (Some(lane), _) => lane,
                (None, Some(threads)) => threads,
                (None, None) => anyhow::bail!("a run has nothing to compute with"),
            };
            // Who of several ranks takes which run is fixed: they have to do the same.
            let mut own = all.iter().skip(number).step_by(lanes);
            let mut next = || if lane.is_some() { own.next().cloned() } else { lock(&queue).pop_front() };
            // What happens to this rank alone the others do not come to by themselves.
            let alone = |error: anyhow::Error| {
                lane.iter().for_each(|lane| lane.abort(&format!("{error:#}")));
                error
            };
            while let Some((number, entry, seed)) = next() {
                let state = saved.states.join(format!("{number}"));
                let mut course = Course::new(&setup, entry, seed)?;
                let mut found = if means.leads { read_state(&state, saved.stamp).map_err(alone)? } else { None };
                if let Some(lane) = lane {
                    found = Some(lane.share(found.unwrap_or_default())?).filter(|shared| !shared.is_empty());
                }
                if let Some(found) = found {
                    let advice = || format!("{}: --restart starts over", state.display());
                    course.restore(&found).with_context(advice)?;
                    bar.inc(course.version());
                }
                let write = |course: &Course<'_>| match means.leads {
                    true => write_state(&state, saved.stamp, &course.save()?).map_err(alone),
                    false => Ok(()),
                };
                let before = course.record().tally.updates;
                let mut last = Instant::now();
                while !failed.load(Ordering::Relaxed) && course.step(executor)? {
                    bar.inc(1);
                    if last.elapsed() > SAVE_EVERY {
                        write(&course)?;
                        last = Instant::now();
                    }
                }
                write(&course)?;
                updates.fetch_add(course.record().tally.updates - before, Ordering::Relaxed);
                lock(&records).push((number, course.record().clone()));
            }
            Ok(())
        };
        let guarded = |number: usize, lane: Option<Lane<'_>>| {
            coordinate(number, lane.as_ref()).inspect_err(|error| match &lane {
                Some(lane) => lane.fail(&format!("{error:#}")),
                None => failed.store(true, Ordering::Relaxed),
            })
        };
        // What they borrow lives in the scope around, which ends the workers once the executor is gone.
        let ends = std::thread::scope(|scope| {
            let guarded = &guarded;
            let of_ranks = ranks.iter().flat_map(|ranks| ranks.lanes(lanes).into_iter().map(Some));
            let of_threads = threads.iter().flat_map(|_| std::iter::repeat_with(|| None).take(lanes));
            let coordinators: Vec<_> = of_ranks
                .chain(of_threads)
                .enumerate()
                .map(|(number, lane)| scope.spawn(move || guarded(number, lane)))
                .collect();
            let panicked = |_| Err(anyhow::anyhow!("a run panicked"));
            coordinators.into_iter().map(|one| one.join().unwrap_or_else(panicked)).collect::<Vec<anyhow::Result<()>>>()
        });
        drop((threads, ranks));
        first_cause(ends).map(|()| width)
    })?;
    bar.finish_and_clear();
    let mut records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
    records.sort_by_key(|(number, _)| *number);
    let variant = Variant {
        label: label.to_owned(),
        model: format!("{}, {} parameters", model.name(), model.parameters()),
        affected: file.affected(),
        reference: file.reference(),
        target: file.evaluation.target,
        late: file.population.slow.as_ref().and_then(|slow| slow.staleness),
        strategies: file.strategies.iter().map(|entry| entry.name.clone()).collect(),
        fresh: file.strategies.iter().filter(|entry| entry.fresh).map(|entry| entry.name.clone()).collect(),
        records: records.into_iter().map(|(_, record)| record).collect::<Vec<Record>>(),
        updates: updates.into_inner(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    Ok((variant, width))
}

/// The first error, but one that only says that there is another after that one.
fn first_cause(ends: Vec<anyhow::Result<()>>) -> anyhow::Result<()> {
    let follows =
        |error: &anyhow::Error| matches!(error.downcast_ref::<SimulationError>(), Some(SimulationError::Stopped(_)));
    let (after, causes): (Vec<_>, Vec<_>) = ends.into_iter().filter_map(Result::err).partition(follows);
    causes.into_iter().chain(after).next().map_or(Ok(()), Err)
}

/// All that ranks have to have in common: the program, the file with what it names, the data.
fn what(stamp: &str) -> [u8; 32] {
    let mut what = [0; 32];
    let found = digest::digest(&digest::SHA256, format!("{} {stamp}", env!("CARGO_PKG_VERSION")).as_bytes());
    what.copy_from_slice(found.as_ref());
    what
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bar(length: u64, label: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} rounds, {eta} left {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_prefix(label.to_owned())
}

/// A saved state: the stamp of the file that it is of, a line break, and the state. Another file's is as none.
fn read_state(path: &Path, stamp: &str) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let state = bytes.strip_prefix(stamp.as_bytes()).and_then(|rest| rest.strip_prefix(b"\n"));
            Ok(state.map(<[u8]>::to_vec))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn write_state(path: &Path, stamp: &str, state: &[u8]) -> anyhow::Result<()> {
    let mut bytes = stamp.as_bytes().to_vec();
    bytes.push(b'\n');
    bytes.extend_from_slice(state);
    write_whole(path, &bytes)
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("part");
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.inspect_err(|_| drop(std::fs::remove_file(&temporary))).with_context(|| path.display().to_string())
}
