//! `simulate`: federated learning in virtual time, many strategies side by side.

pub(crate) mod file;
mod model;
mod outcome;
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
use swarmloom_datasets::{Limits, Split};
use swarmloom_simulation::{Course, Data, Entry, Record, Setup, SimulationError, Threads};
use toml::Value;

use self::file::File;
use self::model::{Built, Wrong};
use self::outcome::{Outcome, Variant};
use self::trace::Traces;
use crate::cli::SimulateArgs;
use crate::config::{ConfigErrors, locate};
use crate::hex;
use crate::runs::Usage;
use crate::say;

/// What `--example` prints.
const EXAMPLE: &str = include_str!("simulate/example.toml");
/// Time between two saved states of a run.
const SAVE_EVERY: Duration = Duration::from_secs(20);
/// Raised when what a saved state means changes: older ones are as none.
const STATE_FORMAT: u32 = 1;
/// Variants that a sweep may have.
const MAX_VARIANTS: usize = 256;

/// Carries out `simulate`.
///
/// # Errors
/// Where the file is wrong, data are missing, or a run fails.
pub(crate) fn run(args: &SimulateArgs, as_json: bool) -> anyhow::Result<()> {
    if args.example {
        return Ok(std::io::stdout().write_all(EXAMPLE.as_bytes())?);
    }
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let name = path.display().to_string();
    let mut text = String::new();
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
    std::fs::create_dir_all(&out).with_context(|| format!("the folder {}", out.display()))?;

    let begun = Instant::now();
    let mut done = Vec::new();
    for (number, (values, file)) in variants.iter().enumerate() {
        let label = values.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
        let states = out.join("state").join(number.to_string());
        let stamp = hex::encode(
            digest::digest(&digest::SHA256, format!("{STATE_FORMAT}\n{text}\n{label}{}", file.traced).as_bytes())
                .as_ref(),
        );
        let simulated = simulate(file, (&name, &text), &label, threads, &states, &stamp, args.restart)?;
        done.push(simulated);
    }
    let outcome = Outcome { name: file.name.clone(), variants: done, seconds: begun.elapsed().as_secs_f64(), threads };
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

fn data(file: &File, split: &Split) -> Data {
    let test = file.data.test_samples.unwrap_or(usize::MAX).min(split.test.labels.len());
    let width = split.test.shape.iter().product::<usize>();
    let data = Data {
        features: split.train.features.as_slice().into(),
        labels: split.train.labels.as_slice().into(),
        shape: split.train.shape,
        classes: split.train.classes,
        test_features: split.test.features[..test * width].into(),
        test_labels: split.test.labels[..test].into(),
    };
    match &file.data.drift {
        Some(drift) => data.drifted(drift),
        None => data,
    }
}

/// Runs every strategy with every seed, on all threads; goes on from saved states of the same file.
fn simulate(
    file: &File,
    (name, text): (&str, &str),
    label: &str,
    threads: usize,
    states: &Path,
    stamp: &str,
    restart: bool,
) -> anyhow::Result<Variant> {
    let split = swarmloom_datasets::load(&file.data.source, &Limits::default())?;
    let data = data(file, &split);
    let built = file.model.build(data.shape, data.classes);
    let refuse = |(key, why): Wrong| {
        let place = if key.is_empty() { "model".to_owned() } else { format!("model.{key}") };
        ConfigErrors(vec![locate(name, text, &place, &why)])
    };
    let Built { model, stamp: of_model } = built.map_err(refuse)?;
    let stamp = &format!("{stamp}{of_model}");
    let setup = Setup {
        model: model.as_ref(),
        data: &data,
        groups: split.train.groups.as_deref(),
        drift: file.data.drift.as_ref(),
        partition: file.data.partition.clone(),
        samples_per_client: file.data.samples_per_client,
        population: file.population.clone(),
        local: file.local,
        rounds: file.rounds,
        every: file.evaluation.every,
    };
    // What does not go together is said before anything is computed.
    for entry in &file.strategies {
        Course::new(&setup, entry.clone(), file.seeds[0])
            .map_err(|error| ConfigErrors(vec![locate(name, text, &place_of(&error), &error.to_string())]))?;
    }
    if restart {
        let _ = std::fs::remove_dir_all(states);
    }
    std::fs::create_dir_all(states).with_context(|| states.display().to_string())?;

    let runs: VecDeque<(usize, Entry, u64)> = file
        .seeds
        .iter()
        .flat_map(|seed| file.strategies.iter().map(move |entry| (entry.clone(), *seed)))
        .enumerate()
        .map(|(number, (entry, seed))| (number, entry, seed))
        .collect();
    let count = runs.len();
    let bar = bar(count as u64 * file.rounds, label);
    let (queue, failed) = (Mutex::new(runs), AtomicBool::new(false));
    let (records, updates) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let executor = Threads::start(scope, threads, model.as_ref(), &data, file.data.drift.as_ref());
        let coordinate = || -> anyhow::Result<()> {
            while let Some((number, entry, seed)) = lock(&queue).pop_front() {
                let state = states.join(format!("{number}"));
                let mut course = Course::new(&setup, entry, seed)?;
                if let Some(saved) = read_state(&state, stamp)? {
                    let advice = || format!("{}: --restart starts over", state.display());
                    course.restore(&saved).with_context(advice)?;
                    bar.inc(course.version());
                }
                let before = course.record().tally.updates;
                let mut saved = Instant::now();
                while !failed.load(Ordering::Relaxed) && course.step(&executor)? {
                    bar.inc(1);
                    if saved.elapsed() > SAVE_EVERY {
                        write_state(&state, stamp, &course.save()?)?;
                        saved = Instant::now();
                    }
                }
                write_state(&state, stamp, &course.save()?)?;
                updates.fetch_add(course.record().tally.updates - before, Ordering::Relaxed);
                lock(&records).push((number, course.record().clone()));
            }
            Ok(())
        };
        // What they borrow lives in the scope around, which ends the workers once the executor is gone.
        let all = std::thread::scope(|scope| {
            let guarded = || coordinate().inspect_err(|_| failed.store(true, Ordering::Relaxed));
            let coordinators: Vec<_> = (0..threads.min(count)).map(|_| scope.spawn(guarded)).collect();
            let panicked = |_| Err(anyhow::anyhow!("a run panicked"));
            let results = coordinators.into_iter().map(|one| one.join().unwrap_or_else(panicked));
            results.collect::<Result<Vec<()>, anyhow::Error>>()
        });
        drop(executor);
        all
    })?;
    bar.finish_and_clear();
    let mut records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
    records.sort_by_key(|(number, _)| *number);
    Ok(Variant {
        label: label.to_owned(),
        model: format!("{}, {} parameters", model.name(), model.parameters()),
        affected: file.affected(),
        target: file.evaluation.target,
        strategies: file.strategies.iter().map(|entry| entry.name.clone()).collect(),
        records: records.into_iter().map(|(_, record)| record).collect::<Vec<Record>>(),
        updates: updates.into_inner(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table of the file that an error is about.
fn place_of(error: &SimulationError) -> String {
    match error {
        SimulationError::Partition(_) => "data.partition",
        SimulationError::Population(_) => "population",
        SimulationError::Timeline(_) => "server",
        _ => "strategy",
    }
    .to_owned()
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
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| path.display().to_string())
}
