//! `demo`: four peers in a swarm and the same four alone, as separate processes on this machine, from start
//! to report.

mod plan;
mod report;
mod story;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::DemoArgs;
use crate::control::{self, Ask};
use crate::folder::{Folder, write_atomically};
use crate::identity::Identity;
use crate::status::Status;
use crate::supervisor::{ChildSpec, Supervised};
use plan::Plan;
use report::Measured;

/// How long a peer may take to listen, libtorch's loading included.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long the whole may take before it is given up.
const RUN_DEADLINE: Duration = Duration::from_secs(600);
/// A peer ends within five seconds; the rest is room for a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(500);

/// One process of the demo.
#[derive(Debug)]
struct Member {
    name: &'static str,
    alone: bool,
    folder: Folder,
    process: Supervised,
    status: Status,
    bar: ProgressBar,
}

/// Carries out the demo.
///
/// # Errors
/// Where a process cannot start, dies, or does not finish in time, with its last words.
pub(crate) async fn run(args: &DemoArgs, as_json: bool) -> anyhow::Result<()> {
    let plan = match (args.short, args.steps) {
        (true, steps) => plan::plan(args.seed, 20, steps.unwrap_or(60), 20, 16),
        (false, steps) => plan::plan(args.seed, 160, steps.unwrap_or(450), 25, 48),
    };
    let out = fresh_folder(&args.out)?;
    let began = Instant::now();
    let bars = MultiProgress::new();
    let mut members = tokio::select! {
        members = start(&plan, &out, &bars) => members?,
        () = told_to_end() => bail!("stopped while the peers were starting"),
    };
    let watched = tokio::select! {
        watched = watch(&mut members, &bars, began) => watched,
        () = told_to_end() => Err(anyhow::anyhow!("stopped; what the peers wrote is in {}", out.display())),
    };
    let mut folders = Vec::new();
    let mut ends = tokio::task::JoinSet::new();
    for member in members {
        folders.push((member.alone, member.folder));
        member.bar.finish_and_clear();
        ends.spawn(member.process.stop(STOP_DEADLINE));
    }
    // All at once; a second word from the person ends them where they are, for dropping a process kills it.
    let all = async {
        let mut all = Ok(());
        while let Some(end) = ends.join_next().await {
            all = all.and(end.map_err(anyhow::Error::from).and_then(|end| end.map_err(Into::into)));
        }
        all
    };
    let stopped = tokio::select! {
        stopped = all => stopped,
        () = told_to_end() => Err(anyhow::anyhow!("stopped before every peer had ended")),
    };
    watched?;
    stopped?;
    let stories = |side: bool| -> anyhow::Result<Vec<story::Story>> {
        let chosen = folders.iter().filter(|(alone, _)| *alone == side);
        chosen
            .map(|(_, folder)| story::read(&folder.events()).with_context(|| folder.events().display().to_string()))
            .collect()
    };
    let measured =
        Measured { plan, swarm: stories(false)?, alone: stories(true)?, seconds: began.elapsed().as_secs_f64() };
    let page = out.join("report.html");
    let short = if args.short { " --short" } else { "" };
    let command = format!("swarmloom demo --seed {} --steps {}{short}", args.seed, measured.plan.steps);
    write_atomically(&page, measured.page(&command).as_bytes())?;
    write_atomically(&out.join("held-out.svg"), measured.headline().as_bytes())?;
    let document = measured.json(&page.display().to_string());
    write_atomically(&out.join("demo.json"), document.to_string().as_bytes())?;
    if as_json {
        println!("{document}");
    } else {
        summary(&document, &page);
    }
    if args.open_report {
        open(&page);
    }
    Ok(())
}

/// Ctrl-C, or what a supervisor sends. The peers end with this process in any case.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut hang_up)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}

/// The output folder, empty of an earlier demo. A folder that holds anything else is left alone.
fn fresh_folder(out: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let out = out.canonicalize().with_context(|| out.display().to_string())?;
    for side in ["swarm", "alone"] {
        let old = out.join(side);
        if old.exists() {
            if !out.join("demo.mark").exists() {
                bail!("{} holds a folder that no demo made; choose another with --out", out.display());
            }
            std::fs::remove_dir_all(&old).with_context(|| old.display().to_string())?;
        }
    }
    write_atomically(&out.join("demo.mark"), b"made by swarmloom demo\n")?;
    Ok(out)
}

/// Starts the first peer, learns where it listens, and starts the others from there.
async fn start(plan: &Plan, out: &Path, bars: &MultiProgress) -> anyhow::Result<Vec<Member>> {
    let mut members = Vec::new();
    let mut bootstrap = Vec::new();
    for alone in [false, true] {
        for peer in &plan.peers {
            let home = out.join(if alone { "alone" } else { "swarm" }).join(peer.name);
            let folder = Folder::at(home.join("data"));
            std::fs::create_dir_all(folder.path()).with_context(|| home.display().to_string())?;
            // A control has its peer's key: questions and sampling follow from it. It never speaks to anybody.
            if alone {
                let key = Folder::at(out.join("swarm").join(peer.name).join("data")).identity();
                std::fs::copy(&key, folder.identity()).with_context(|| key.display().to_string())?;
            } else {
                Identity::create(&folder.identity())?;
            }
            let file = plan.run_file(peer, folder.path(), &bootstrap, alone);
            let run = home.join("run.toml");
            write_atomically(&run, toml::to_string(&file)?.as_bytes())?;
            let mut arguments =
                vec!["join".to_owned(), run.display().to_string(), "--stay".to_owned(), "--with-parent".to_owned()];
            if alone {
                arguments.push("--alone".into());
            }
            let spec = ChildSpec {
                name: if alone { format!("{} alone", peer.name) } else { peer.name.to_owned() },
                program: std::env::current_exe().context("this program's own path")?,
                arguments,
                environment: Vec::new(),
                input: None,
                apart: false,
                log: home.join("log.txt"),
            };
            let style = ProgressStyle::with_template("{prefix:12} {bar:24} {pos:>4}/{len} {msg}")?;
            let bar = bars.add(ProgressBar::new(plan.steps).with_style(style).with_prefix(spec.name.clone()));
            let process = Supervised::start(spec)?;
            let mut member = Member { name: peer.name, alone, folder, process, status: Status::default(), bar };
            if !alone && bootstrap.is_empty() {
                bootstrap = listening(&mut member).await?;
            }
            members.push(member);
        }
    }
    Ok(members)
}

/// Waits until a peer listens; its addresses with its id.
async fn listening(member: &mut Member) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(status) = status_of(&member.folder).await
            && !status.listen.is_empty()
        {
            return Ok(status.listen);
        }
        if let Some(status) = member.process.ended() {
            bail!("{} ended with {status}:\n{}", member.name, member.process.last_words());
        }
        if Instant::now() > deadline {
            bail!(
                "{} did not listen within {} s:\n{}",
                member.name,
                START_DEADLINE.as_secs(),
                member.process.last_words()
            );
        }
        tokio::time::sleep(POLL / 5).await;
    }
}

/// Follows the peers until each has done its steps.
async fn watch(members: &mut [Member], bars: &MultiProgress, began: Instant) -> anyhow::Result<()> {
    let terminal = !bars.is_hidden();
    let mut said = Instant::now();
    loop {
        for member in members.iter_mut() {
            if let Some(status) = member.process.ended() {
                bail!(
                    "{} ended with {status} before its work was done:\n{}",
                    member.process.spec.name,
                    member.process.last_words()
                );
            }
            if let Some(status) = status_of(&member.folder).await {
                member.status = status;
            }
            member.bar.set_position(member.status.step);
            member.bar.set_message(line(&member.status));
        }
        if !terminal && said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            let steps: Vec<String> =
                members.iter().map(|member| format!("{} {}", member.process.spec.name, member.status.step)).collect();
            eprintln!("{:>4.0} s  steps: {}", began.elapsed().as_secs_f64(), steps.join(", "));
        }
        if let Some(failed) = members.iter().find(|member| member.status.state == "failed") {
            bail!("{} could not train: {:?}", failed.process.spec.name, failed.status.problems);
        }
        if members.iter().all(|member| member.status.state == "finished") {
            return Ok(());
        }
        if began.elapsed() > RUN_DEADLINE {
            bail!("the demo did not end within {} s", RUN_DEADLINE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn line(status: &Status) -> String {
    let reward = status.rewards.held_out_mean.map_or_else(|| "–".into(), |reward| format!("{reward:.2}"));
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    match &status.waiting {
        Some(waiting) if status.state != "training" => format!("{}: {}", status.state, waiting.what),
        _ => format!(
            "held-out {reward}  peers {connected}  groups out {} in {}",
            status.groups.acknowledged, status.groups.stored
        ),
    }
}

/// The status of a daemon, or `None` while it cannot answer.
async fn status_of(folder: &Folder) -> Option<Status> {
    let socket = folder.socket();
    let answer = tokio::task::spawn_blocking(move || control::ask(&socket, Ask::Status)).await.ok()?.ok()?;
    serde_json::from_value(answer).ok()
}

fn summary(document: &serde_json::Value, page: &Path) {
    let number =
        |value: &serde_json::Value| value.as_f64().map_or_else(|| "   –".into(), |value| format!("{value:.2}"));
    println!("Held-out reward, own generations     in the swarm     the same peer alone");
    for peer in document["peers"].as_array().into_iter().flatten() {
        println!(
            "  {:6} {:6} shown {:8}         {} -> {}     {} -> {}     groups given {}, taken {}",
            peer["name"].as_str().unwrap_or_default(),
            peer["model"].as_str().unwrap_or_default(),
            peer["specialty"].as_str().unwrap_or_default(),
            number(&peer["held_out"]["start"]),
            number(&peer["held_out"]["end"]),
            number(&peer["alone"]["start"]),
            number(&peer["alone"]["end"]),
            peer["groups_out"],
            peer["groups_in"],
        );
    }
    println!("{} s. Report: {}", document["seconds"], page.display());
}

/// Opens the page with what the desktop has for it; a machine without a desktop loses nothing.
fn open(page: &Path) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    if let Err(error) = std::process::Command::new(program).arg(page).spawn() {
        eprintln!("the report could not be opened ({program}: {error}); open {} by hand", page.display());
    }
}
