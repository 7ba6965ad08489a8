//! `launch`: trains one model on many ranks, or runs any program on them.
//!
//! The same command is the launcher and the rank: where a launcher's or scheduler's variables say that this process is a rank
//! (torchrun, Slurm, Open MPI, Kubernetes, our own), it trains as that rank; else it starts ranks and looks after them.

mod decision;
mod emit;
mod file;
mod jobs;
mod measure;
mod place;
pub(crate) mod plan;
mod rank;
mod supervise;
mod text;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use self::file::TrainFile;
use self::jobs::Job;
use self::place::{Place, environment};
use self::rank::{Outcome, Task};
use self::supervise::{Ended, Options};
use crate::cli::LaunchArgs;
use crate::hex;
use crate::runs::Usage;
use crate::say;
use crate::supervisor::ChildSpec;

/// What `--example` prints.
const EXAMPLE: &str = include_str!("launch/example.toml");
/// What our own launcher sets, so that ranks end with it.
const LAUNCHED: &str = "SWARMLOOM_LAUNCHED";

/// Carries out `launch`.
///
/// # Errors
/// [`Usage`] where the command or the file is wrong; the first rank that failed, with its last words.
pub(crate) fn run(args: &LaunchArgs, as_json: bool) -> anyhow::Result<()> {
    if let Some(verb) = &args.verb {
        return jobs::run(verb, as_json);
    }
    if args.example {
        return Ok(std::io::stdout().write_all(EXAMPLE.as_bytes())?);
    }
    match (&args.file, args.command.is_empty()) {
        (Some(path), true) => train(args, path, as_json),
        (None, false) => program(args, as_json),
        _ => Err(Usage("give a training file, or a program after --".into()).into()),
    }
}

impl From<&LaunchArgs> for Options {
    fn from(args: &LaunchArgs) -> Self {
        Self { restarts: args.restarts, quiet: args.quiet, elastic: args.file.is_some() }
    }
}

/// Whether a file says what a training file alone says.
pub(crate) fn is_training(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("model") && table.contains_key("training"))
}

/// Checks a training file without running it.
///
/// # Errors
/// All that is wrong.
pub(crate) fn check(name: &str, text: &str) -> anyhow::Result<()> {
    TrainFile::parse(name, text).map(|_| ()).map_err(Into::into)
}

fn train(args: &LaunchArgs, path: &Path, as_json: bool) -> anyhow::Result<()> {
    let (name, text) = read(path)?;
    let file = TrainFile::parse(&name, &text)?;
    if let Some(kind) = args.emit {
        return emit::run(args, kind, path, &slug(&file.name));
    }
    let folder = path.parent().filter(|_| name != "-").map_or_else(|| PathBuf::from("."), Path::to_owned);
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("launch-{}", slug(&file.name))));
    let place = Place::find(&environment)?;
    let own = environment(LAUNCHED).is_some();
    let alone = args.nproc == Some(1) || (args.nproc.is_none() && swarmloom_trainer::device::cuda_devices() <= 1);
    let place = match place {
        None if alone => Some(Place::alone()),
        found => found,
    };
    let Some(place) = place else { return launch_training(args, (path, &file, &out), as_json) };
    if own {
        // A rank without its launcher would train on unseen.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
    let task = Task { name: &name, text: &text, file: &file, folder: &folder, out: &out, restart: args.restart };
    let Some(outcome) = rank::run(&task, &place)? else { return Ok(()) };
    let document = serde_json::to_value(&outcome)?;
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let result = out.join(RESULT);
    std::fs::write(&result, document.to_string()).with_context(|| result.display().to_string())?;
    // The launcher says it.
    if own { Ok(()) } else { say(as_json, &document, || summary(&outcome, &out)) }
}

/// What rank 0 leaves for the launcher.
const RESULT: &str = "result.json";

fn launch_training(
    args: &LaunchArgs,
    (path, file, out): (&Path, &TrainFile, &Path),
    as_json: bool,
) -> anyhow::Result<()> {
    if path == Path::new("-") {
        return Err(Usage("give a path: every rank reads the training file".into()).into());
    }
    let ranks = args.nproc.unwrap_or_else(swarmloom_trainer::device::cuda_devices);
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let result = out.join(RESULT);
    let _ = std::fs::remove_file(&result);
    let program = std::env::current_exe().context("this program's own path")?;
    let mut arguments =
        vec!["launch".to_owned(), path.display().to_string(), "--out".into(), out.display().to_string()];
    if args.restart {
        arguments.push("--restart".into());
    }
    start(&args.into(), &file.name, out, ranks, (program, arguments))?;
    let text = std::fs::read_to_string(&result).with_context(|| result.display().to_string())?;
    let document: Value = serde_json::from_str(&text).with_context(|| result.display().to_string())?;
    let number = |key: &str| document[key].as_f64().unwrap_or(f64::NAN);
    say(as_json, &document, || {
        format!(
            "{} after {} steps on {ranks} ranks: loss {:.4}, {:.0} tokens/s\nresults, checkpoints and logs are in {}",
            if document["finished"] == true { "finished" } else { "stopped" },
            document["steps"],
            number("final_loss"),
            number("tokens_per_s"),
            out.display()
        )
    })
}

fn summary(outcome: &Outcome, out: &Path) -> String {
    let word = if outcome.finished { "finished" } else { "stopped" };
    format!(
        "{word} after {} steps on {} ranks: loss {:.4}, {:.0} tokens/s\nresults and checkpoints are in {}",
        outcome.steps,
        outcome.ranks,
        outcome.final_loss,
        outcome.tokens_per_s,
        out.display()
    )
}

/// Runs any program on ranks, with the variables that torchrun sets.
fn program(args: &LaunchArgs, as_json: bool) -> anyhow::Result<()> {
    let (program, arguments) = args.command.split_first().context("a program after --")?;
    let name =
        Path::new(program).file_name().map_or_else(|| program.clone(), |name| name.to_string_lossy().into_owned());
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("launch-{}", slug(&name))));
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let ranks = args.nproc.unwrap_or_else(|| swarmloom_trainer::device::cuda_devices().max(1));
    start(&args.into(), &name, &out, ranks, (PathBuf::from(program), arguments.to_vec()))?;
    say(as_json, &json!({ "ranks": ranks, "logs": out.join(LOGS) }), || {
        format!("all {ranks} ranks ended well; their logs are in {}", out.join(LOGS).display())
    })
}

/// Where ranks' output goes.
const LOGS: &str = "ranks";

/// Starts ranks of a program on this machine and looks after them; starts all again where one was lost, as often as asked.
fn start(
    options: &Options,
    name: &str,
    out: &Path,
    ranks: usize,
    (program, arguments): (PathBuf, Vec<String>),
) -> anyhow::Result<()> {
    if ranks == 0 || ranks > swarmloom_collectives::plan::MAX_RANKS {
        let most = swarmloom_collectives::plan::MAX_RANKS;
        return Err(Usage(format!("--nproc {ranks}: 1 to {most} ranks are possible")).into());
    }
    let logs = out.join(LOGS);
    std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let signals = Arc::new(AtomicUsize::new(0));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGUSR1] {
        let count = signals.clone();
        count_signal(signal, count)?;
    }
    let _job = Job::begin(name, out, ranks)?;
    let token = environment(place::TOKEN).map_or_else(secret, Ok)?;
    for attempt in 0.. {
        let port = free_port()?;
        let specs = (0..ranks).map(|rank| ChildSpec {
            name: format!("rank {rank}"),
            program: program.clone(),
            arguments: arguments.clone(),
            environment: variables((rank, ranks), port, &token, attempt),
            input: None,
            apart: true,
            log: logs.join(format!("rank-{rank}.log")),
        });
        let specs: Vec<ChildSpec> = specs.collect();
        let ended = crate::block_on(async { Ok(supervise::run(specs, &signals, options).await?) })?;
        let asked = signals.load(std::sync::atomic::Ordering::Relaxed) > 0;
        match ended {
            Ended::Well => return Ok(()),
            Ended::Badly(failure) if attempt < options.restarts && failure.may_pass() && !asked => {
                eprintln!(
                    "{failure}\nstarting all {ranks} ranks again ({} of {} times)",
                    attempt + 1,
                    options.restarts
                );
            }
            Ended::Badly(failure) if failure.status.code() == Some(2) => {
                return Err(Usage(failure.to_string()).into());
            }
            Ended::Badly(failure) => bail!(failure),
        }
    }
    Ok(())
}

/// What torchrun sets, and what our own ranks want beside it.
fn variables((rank, ranks): (usize, usize), port: u16, token: &str, attempt: u32) -> Vec<(String, String)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = vec![
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", ranks.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("LOCAL_WORLD_SIZE", ranks.to_string()),
        ("GROUP_RANK", "0".into()),
        ("GROUP_WORLD_SIZE", "1".into()),
        ("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string()),
        ("MASTER_PORT", port.to_string()),
        ("TORCHELASTIC_RESTART_COUNT", attempt.to_string()),
        (place::TOKEN, token.to_owned()),
        (LAUNCHED, "1".into()),
    ];
    if environment("OMP_NUM_THREADS").is_none() {
        all.push(("OMP_NUM_THREADS", (cores / ranks).max(1).to_string()));
    }
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Counts how often a signal came.
fn count_signal(signal: i32, count: Arc<AtomicUsize>) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal]).context("listening to signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .context("a thread for signals")?;
    Ok(())
}

/// A port that nobody has now; who takes it in between makes rank 0 fail, and the ranks are started again.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the ranks to meet at")?.local_addr()?.port())
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).map_err(|_| anyhow::anyhow!("the system has no randomness"))?;
    Ok(hex::encode(&bytes))
}

fn read(path: &Path) -> anyhow::Result<(String, String)> {
    let name = path.display().to_string();
    let mut text = String::new();
    match name.as_str() {
        "-" => drop(std::io::stdin().take(1 << 20).read_to_string(&mut text).context("standard input")?),
        _ => text = std::fs::read_to_string(path).map_err(|error| Usage(format!("{name}: {error}")))?,
    }
    Ok((name, text))
}

fn slug(name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    name.chars().take(64).map(plain).collect()
}
