//! `join`: the daemon. It settles what it was given, starts the network, the sharing task and the training thread, answers
//! the control socket, and ends cleanly.
//!
//! ```text
//! control socket, signals ──> daemon ──gate──> training thread ──link──> sharing task ──> network, store
//!                               └──────────────── board (status) ────────────┘
//! ```

pub(crate) mod batch;
pub(crate) mod board;
pub(crate) mod course;
pub(crate) mod curriculum;
pub(crate) mod entry;
pub(crate) mod evaluation;
pub(crate) mod gate;
pub(crate) mod judge;
#[cfg(test)]
mod liars;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod peers;
pub(crate) mod sharing;
pub(crate) mod start;
pub(crate) mod training;
pub(crate) mod warmup;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use swarmloom_net::{Net, NetEvent};
use swarmloom_protocol::id::{PeerKey, RunId, Signer};
use swarmloom_protocol::run::RunSpec;
use tokio::sync::{mpsc, oneshot, watch};

use crate::book::TaskBook;
use crate::cli::JoinArgs;
use crate::config::{ConfigErrors, RunFile, located};
use crate::control::{self, Ask, Asked};
use crate::events::EventLog;
use crate::folder::{Folder, write_atomically};
use crate::identity::Identity;
use crate::status::{Status, Waiting, resident_bytes};
use crate::store::Store;
use crate::web;
use board::Board;
use course::Course;
use entry::{Entry, Place};
use gate::Gate;
use link::Rollouts;
use training::{Progress, Thread, TrainingError};

/// Unix milliseconds. The daemon's one clock for whatever peers or people see.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// A clean end takes at most this long; what has not ended then is left behind.
const STOP_DEADLINE: Duration = Duration::from_secs(4);
/// How often memory and disk are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// A step that takes longer is worth a word.
const STALLED_MS: u64 = 30_000;
/// How the problem begins that says that the disk limit is reached.
const TOO_LARGE: &str = "the data folder is larger than";
/// Whole folder sizes are costly to add up: every so many looks.
const DISK_EVERY: u64 = 10;

/// Training was still at work when the daemon ended: its thread is left, and the process has to end without waiting.
#[derive(Debug, thiserror::Error)]
#[error("the step in progress did not end within {} s and was left; the checkpoint before it stands", STOP_DEADLINE.as_secs())]
pub(crate) struct StepLeft;

/// Ends the process without the work of an orderly end: libtorch's would pull its memory away from under a thread that
/// still computes.
pub(crate) fn end_at_once(code: i32) -> ! {
    // Nobody reads it any more where this fails.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    signal_hook::low_level::exit(code)
}

/// Joins a run and trains until stopped.
///
/// # Errors
/// Whatever keeps the daemon from starting, or made training end before it was told to.
pub(crate) fn join(args: &JoinArgs) -> anyhow::Result<()> {
    let entry = Entry::read(args.run.as_deref().unwrap_or_default())?;
    let Place { run, described, folder } = entry.place(args.data_dir.as_deref())?;
    let file = entry::settings(&entry, args)?;
    let _lock = folder.take()?;
    let key_file = file.peer.identity.clone().unwrap_or_else(|| folder.identity());
    let identity = Identity::load_or_create(&key_file)?;
    if let Some(mib) = file.limits.memory_mib {
        limits::hold_memory(mib).context("limits.memory_mib cannot be held on this system")?;
    }
    #[cfg(target_os = "linux")]
    if args.with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("this system does not tell of the end of the process that started this one")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("the async runtime cannot start")?;
    let daemon = Daemon::prepare(run, file, folder, identity.seed())?;
    let ended = runtime.block_on(daemon.run(described, args.stay));
    // Threads that did not end in time are left behind: everything they own is safe to lose.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// The parts that exist before anything runs.
#[derive(Debug)]
struct Daemon {
    run: RunId,
    file: RunFile,
    folder: Folder,
    seed: [u8; 32],
    key: PeerKey,
    events: Arc<EventLog>,
    board: Board,
    gate: Arc<Gate>,
}

/// The network, and the store that it began from.
#[derive(Debug)]
struct Network {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    store: Arc<Store>,
}

/// How far training was at a look, and since when.
#[derive(Debug, Clone, Default)]
struct Seen {
    step: u64,
    state: String,
    since_ms: u64,
}

impl Daemon {
    fn prepare(run: RunId, file: RunFile, folder: Folder, seed: [u8; 32]) -> anyhow::Result<Self> {
        let key = Signer::from_seed(&seed).key();
        let shares = limits::disk_shares(file.limits.disk_mib);
        let events = Arc::new(EventLog::open(&folder.events(), shares.events_bytes).context("the event file")?);
        let board = Board::new(Status {
            peer: swarmloom_net::peer_text(&key.0),
            run: run.to_string(),
            state: "starting".into(),
            model: file.peer.model.clone(),
            nat: "unknown".into(),
            stop_after: file.training.stop_after_steps,
            ..Status::default()
        });
        Ok(Self { run, file, folder, seed, key, events, board, gate: Arc::default() })
    }

    async fn run(self, described: Option<(RunSpec, TaskBook)>, stay: bool) -> anyhow::Result<()> {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(end_on_signals(stop.clone(), self.gate.clone()));
        let listener = control::bind(&self.folder.socket())
            .with_context(|| format!("the control socket {}", self.folder.socket().display()))?;
        let (to_daemon, mut asked) = mpsc::channel(16);
        tokio::spawn(control::serve(listener, to_daemon));
        if let Some(address) = &self.file.network.web {
            let address = address.parse().context("network.web")?;
            let listener = web::bind(address).await?;
            tokio::spawn(web::serve(listener, self.board.follow()));
        }
        let mut network = match self.file.sharing.enabled {
            true => Some(self.start_network().await?),
            false => None,
        };
        let net = network.as_ref().map(|network| network.net.clone());
        let described = match described {
            Some(described) => Some(described),
            None => self.described(network.as_mut(), &mut asked, stopped.clone()).await?,
        };
        let outcome = match described {
            // Stopped before the run's description came.
            None => {
                if let Some(net) = net {
                    net.shutdown().await;
                }
                Ok(())
            }
            Some((spec, book)) => self.train(spec, book, network, &mut asked, (stop, stopped), stay).await,
        };
        // The socket's owner is gone; a stale name would only be replaced at the next start.
        let _ = std::fs::remove_file(self.folder.socket());
        self.events.emit(now_ms(), "stopped", &json!({ "well": outcome.is_ok() }));
        outcome
    }

    async fn start_network(&self) -> anyhow::Result<Network> {
        let store = limits::disk_shares(self.file.limits.disk_mib).store_bytes;
        let (store, moved) = Store::open(&self.folder.store(), store)?;
        if let Some(moved) = moved {
            self.board.problem(
                format!("the store was damaged and moved to {}", moved.display()),
                "peers, scores and the buffer begin anew; check the disk if it happens again".into(),
            );
        }
        let known = start::known_addresses(&store).into_values().map(|known| known.address).collect();
        let config = start::net_config(&self.file, self.seed, &self.run, known);
        let (net, events) = swarmloom_net::start(config).await.context("the network cannot start")?;
        Ok(Network { net, events, store: Arc::new(store) })
    }

    /// The run's description for a peer that has an invite only: kept from an earlier start, or asked of whoever is
    /// reached. `None` where it was stopped meanwhile.
    async fn described(
        &self,
        network: Option<&mut Network>,
        asked: &mut mpsc::Receiver<Asked>,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<Option<(RunSpec, TaskBook)>> {
        let path = self.folder.run_spec();
        if let Ok(bytes) = std::fs::read(&path) {
            let spec = RunSpec::decode(&bytes).with_context(|| format!("{} is damaged: remove it", path.display()))?;
            if spec.id() == self.run {
                return Ok(Some((spec.clone(), TaskBook::from_spec(&spec)?)));
            }
        }
        let Some(Network { net, events, .. }) = network else {
            bail!("an invite names a run by its hash; learning what it is takes a network, which is switched off here");
        };
        self.board.wait_for(Some("the run's description from a peer of the invite"));
        let fetched = start::fetch_description(net, events, self.run, &self.board, &self.events);
        tokio::pin!(fetched);
        let mut stopped = stopped;
        let spec = loop {
            tokio::select! {
                spec = &mut fetched => break spec,
                () = self::stopped(&mut stopped) => return Ok(None),
                Some(asked) = asked.recv() => self.answer(asked, Some(&net.clone())),
            }
        };
        self.board.wait_for(None);
        let book = TaskBook::from_spec(&spec).context("this run cannot be joined with this version of swarmloom")?;
        write_atomically(&path, &spec.encode()).with_context(|| path.display().to_string())?;
        Ok(Some((spec, book)))
    }

    async fn train(
        &self,
        spec: RunSpec,
        book: TaskBook,
        network: Option<Network>,
        asked: &mut mpsc::Receiver<Asked>,
        (stop, mut stopped): (watch::Sender<bool>, watch::Receiver<bool>),
        stay: bool,
    ) -> anyhow::Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let course = Course::settle(&self.file, &spec, self.key, book.clone(), cores).map_err(|wrong| {
            let at = |(field, why): (String, String)| located("the settings", (0, 0), &format!("{field}: {why}"));
            ConfigErrors(wrong.into_iter().map(at).collect())
        })?;
        self.board.update(|status| {
            status.run_name.clone_from(&spec.name);
            status.parameters = course.model.parameters();
            status.device = course.device.to_string();
        });
        self.events.emit(
            now_ms(),
            "started",
            &json!({
                "peer": swarmloom_net::peer_text(&self.key.0), "run": self.run.to_string(), "model": self.file.peer.model,
                "parameters": course.model.parameters(), "device": course.device.to_string(), "threads": course.threads,
                "sharing": network.is_some(), "version": env!("CARGO_PKG_VERSION"),
            }),
        );
        eprintln!(
            "{} in run {} ({:.16}…), data in {}\n`swarmloom status` asks it, Ctrl-C ends it, `swarmloom join` goes on from there",
            swarmloom_net::peer_text(&self.key.0),
            spec.name,
            self.run.to_string(),
            self.folder.path().display()
        );
        let net = network.as_ref().map(|network| network.net.clone());
        let (mut sharing, mut link, mut first_counter) = (None, None, 0);
        if let Some(Network { net, events, store }) = network {
            let (training_end, sharing_end) = link::link().context("sharing cannot start")?;
            let parts = start::Parts {
                file: &self.file,
                spec: &spec,
                seed: self.seed,
                store: &store,
                events: &self.events,
                board: &self.board,
                gate: &self.gate,
                is_first: !self.was_used(),
            };
            let restored = start::sharing(parts, book, &course, net)?;
            first_counter = restored.next_counter;
            link = Some(Box::new(training_end) as Box<dyn Rollouts>);
            sharing = Some(tokio::spawn(restored.sharing.run(events, sharing_end, stopped.clone())));
        }
        let disk = limits::disk_shares(self.file.limits.disk_mib);
        let thread = Thread {
            course,
            folder: self.folder.clone(),
            events: self.events.clone(),
            board: self.board.clone(),
            gate: self.gate.clone(),
            rollouts: link,
            first_counter,
            checkpoints_bytes: disk.checkpoints_bytes,
            memory_bytes: self.file.limits.memory_mib.map(|mib| mib << 20),
        };
        let mut trained = spawn_training(thread)?;
        let mut watched = tokio::time::interval(WATCH_EVERY);
        let (mut looks, mut seen) = (0_u64, Seen::default());
        let mut outcome = Ok(());
        let mut training = true;
        loop {
            tokio::select! {
                () = self::stopped(&mut stopped) => break,
                Some(question) = asked.recv() => self.answer(question, net.as_ref()),
                _ = watched.tick() => {
                    self.watch(looks);
                    seen = self.stall(seen);
                    looks += 1;
                }
                ended = &mut trained, if training => {
                    training = false;
                    outcome = self.ended(ended);
                    // A failed daemon that was asked to stay would look alive: it ends.
                    if !stay || outcome.is_err() {
                        break;
                    }
                }
                () = ended_early(&mut sharing), if sharing.is_some() => {
                    sharing = None;
                    self.board.problem(
                        "sharing has ended: this peer trains alone".into(),
                        "see the log, and start again: nothing acknowledged is lost".into(),
                    );
                }
            }
        }
        self.gate.stop();
        // Nobody else listens to this any more if it fails.
        let _ = stop.send(true);
        let end_training = async {
            match training {
                true => tokio::time::timeout(STOP_DEADLINE, trained).await.ok(),
                false => None,
            }
        };
        let end_network = async {
            if let Some(sharing) = sharing {
                // It gives its own jobs a deadline.
                let _ = tokio::time::timeout(STOP_DEADLINE / 2, sharing).await;
            }
            if let Some(net) = &net {
                net.shutdown().await;
            }
        };
        // Side by side: neither may use up the other's time.
        let (ended, ()) = tokio::join!(end_training, end_network);
        match ended {
            Some(ended) => self.ended(ended),
            None if training => Err(StepLeft.into()),
            None => outcome,
        }
    }

    /// Whether this key may have signed groups of this run before, by what lies in the folder, or because it came from
    /// elsewhere.
    fn was_used(&self) -> bool {
        self.folder.checkpoints().exists() || self.file.peer.identity.is_some()
    }

    fn ended(&self, ended: Result<Result<Progress, TrainingError>, oneshot::error::RecvError>) -> anyhow::Result<()> {
        match ended {
            Ok(Ok(progress)) => {
                self.events.emit(now_ms(), "finished", &json!({ "step": progress.step, "version": progress.version }));
                self.board.update(|status| status.state = "finished".into());
                Ok(())
            }
            failed => {
                let error = match failed {
                    Ok(Err(error)) => anyhow::Error::from(error),
                    _ => anyhow::anyhow!("the training thread ended in a panic; its message stands in the log"),
                };
                self.events.emit(now_ms(), "failed", &json!({ "why": format!("{error:#}") }));
                self.board.update(|status| status.state = "failed".into());
                self.board
                    .problem(format!("training ended: {error:#}"), "start again: the last checkpoint stands".into());
                Err(error)
            }
        }
    }

    fn answer(&self, asked: Asked, net: Option<&Net>) {
        let answer = match asked.ask {
            Ask::Status => serde_json::to_value(self.board.status()).unwrap_or(Value::Null),
            Ask::Pause | Ask::Resume => {
                self.gate.pause(asked.ask == Ask::Pause);
                json!({ "paused": self.gate.is_paused() })
            }
            Ask::Invite => {
                let addresses = net.map(Net::addresses).unwrap_or_default();
                json!({ "invite": crate::runs::invitation(self.run, addresses).to_string() })
            }
        };
        // The asker may have gone away.
        let _ = asked.answer.send(answer);
    }

    /// Says so where a step does not end; what is to be remembered for the next look.
    fn stall(&self, seen: Seen) -> Seen {
        let status = self.board.status();
        let now = Seen { step: status.step, state: status.state.clone(), since_ms: now_ms() };
        let works = ["training", "warming-up"].contains(&status.state.as_str());
        if !works || (now.step, &now.state) != (seen.step, &seen.state) {
            return now;
        }
        if status.waiting.is_none() && now.since_ms.saturating_sub(seen.since_ms) > STALLED_MS {
            let what = match status.state.as_str() {
                "training" => format!("the end of step {}", seen.step + 1),
                _ => "the warm start's end".into(),
            };
            self.board.update(|status| status.waiting = Some(Waiting { what, since_ms: seen.since_ms }));
        }
        seen
    }

    fn watch(&self, looks: u64) {
        let (resident, peak) = resident_bytes();
        let disk = looks.is_multiple_of(DISK_EVERY).then(|| self.folder.bytes());
        self.board.update(|status| {
            status.uptime_s = looks;
            status.bytes.resident = resident;
            status.bytes.resident_peak = peak;
            if let Some(disk) = disk {
                status.bytes.disk = disk;
            }
        });
        let Some(disk) = disk else { return };
        let full = disk > self.file.limits.disk_mib.saturating_mul(1 << 20);
        if full == self.gate.is_full() {
            return;
        }
        self.gate.fill(full);
        self.events.emit(now_ms(), if full { "disk_full" } else { "disk_has_room" }, &json!({ "bytes": disk }));
        match full {
            true => self.board.problem(
                format!("{TOO_LARGE} limits.disk_mib = {}: training waits, and nothing is taken in", self.file.limits.disk_mib),
                format!(
                    "raise the limit, or make room in {}; it goes on by itself then (a restart makes the store smaller)",
                    self.folder.path().display()
                ),
            ),
            false => self.board.solved(|problem| problem.what.starts_with(TOO_LARGE)),
        }
    }
}

/// Ends when the daemon is to end.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends when the task does, with its panic in the log.
async fn ended_early(sharing: &mut Option<tokio::task::JoinHandle<()>>) {
    let Some(sharing) = sharing else { return std::future::pending().await };
    if let Err(error) = sharing.await {
        tracing::error!(%error, "the sharing task ended badly");
    }
}

/// Starts the thread; its end comes through the channel, a panic as the channel's closing.
fn spawn_training(thread: Thread) -> anyhow::Result<oneshot::Receiver<Result<Progress, TrainingError>>> {
    let (said, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("training".into())
        .spawn(move || {
            // The daemon may have given up waiting.
            let _ = said.send(thread.run());
        })
        .context("the training thread cannot start")?;
    Ok(ended)
}

/// The first Ctrl-C (or SIGTERM) ends cleanly, the second at once.
async fn end_on_signals(stop: watch::Sender<bool>, gate: Arc<Gate>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be caught: this daemon ends without a last checkpoint");
        return;
    };
    for again in [false, true] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if again {
            end_at_once(130);
        }
        eprintln!("ending after this step; Ctrl-C again ends at once");
        gate.stop();
        // Nothing listens any more where the daemon is ending already.
        let _ = stop.send(true);
    }
}

/// Writes the trained model of a data folder as a folder of its own.
///
/// # Errors
/// Without a checkpoint, or where `to` exists.
pub(crate) fn export(folder: &Folder, to: &Path) -> anyhow::Result<Value> {
    let found = swarmloom_trainer::checkpoint::latest(&folder.checkpoints())?;
    let Some(checkpoint) = found.checkpoint else {
        bail!("{} holds no policy yet: the first one is written after the warm start", folder.path().display());
    };
    let progress: Progress = serde_json::from_value(checkpoint.state.clone()).unwrap_or_default();
    checkpoint.export(to)?;
    Ok(
        json!({ "path": to.display().to_string(), "version": progress.version, "step": progress.step, "model": progress.model }),
    )
}
