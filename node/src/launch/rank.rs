//! One rank of a training: meets the others, agrees with them on what is done, and trains.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use swarmloom_collectives::{CollectiveError, Group, GroupConfig, Transport};
use swarmloom_placement::model::Model;
use swarmloom_placement::plan::{Job, Ranking};
use swarmloom_placement::schedule::{Kind as Schedule, Op, Pass};
use swarmloom_placement::topology::Topology;
use swarmloom_trainer::causal::CausalError;
use swarmloom_trainer::causal::layout::{Layout, Slice};
use swarmloom_trainer::causal::links::{LinkConfig, Links, Seat};
use swarmloom_trainer::causal::measure;
use swarmloom_trainer::causal::optimizer::{AdamW, Sharded, Shards};
use swarmloom_trainer::causal::samples::{Sampling, Share, TokenFile, share};
use swarmloom_trainer::causal::saved::{self, Saved, State, Writing};
use swarmloom_trainer::causal::stage::{Computation, Kind, Stage};
use swarmloom_trainer::causal::worker::{StepPlan, StepReport, Worker};
use swarmloom_trainer::device::{self, Device};
use swarmloom_trainer::model::ModelConfig;
use swarmloom_trainer::weights::Weights;

use super::decision::{Decision, job};
use super::file::{Dtype, TrainFile};
use super::measure::{self as links, Card};
use super::place::Place;
use super::text::{Text, Texts, width};
use crate::runs::Usage;

/// What a rank is given.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// What errors call the file.
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    pub(crate) file: &'a TrainFile,
    /// What paths in the file are relative to.
    pub(crate) folder: &'a Path,
    /// Where results go.
    pub(crate) out: &'a Path,
    /// Forget earlier checkpoints.
    pub(crate) restart: bool,
}

/// How a training ended, as rank 0 says it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// Mean cross-entropy of the last global batch, nats a token.
    pub(crate) final_loss: f64,
    /// The same on held-out text after the last step.
    pub(crate) validation_loss: Option<f64>,
    /// Tokens a second, the median over steps after the first few.
    pub(crate) tokens_per_s: f64,
    /// Stages, replicas, sharers.
    pub(crate) mesh: serde_json::Value,
    /// The newest checkpoint.
    pub(crate) checkpoint: Option<PathBuf>,
    /// Updates made, in this run and those that it went on from.
    pub(crate) steps: u64,
    /// Whether all steps are made; not, where it was asked to stop.
    pub(crate) finished: bool,
    /// Of this run, from when all ranks had met.
    pub(crate) seconds: f64,
    /// Ranks.
    pub(crate) ranks: usize,
    /// Losses of the steps that this run made.
    pub(crate) losses: Vec<f64>,
}

/// A rank that has met the others and agreed with them on program and file.
struct Met {
    world: Group,
    group: GroupConfig,
    config: ModelConfig,
    computation: Computation,
}

fn meet(task: &Task<'_>, place: &Place) -> anyhow::Result<Met> {
    let file = task.file;
    device::set_threads(place.bind(file.cluster.threads));
    let timeout = Duration::from_secs(file.cluster.timeout_s);
    let config = file.model_config(task.folder)?;
    let fits = file.training.sequence_length <= config.max_position_embeddings;
    ensure_usage(fits, || {
        let (length, most) = (file.training.sequence_length, config.max_position_embeddings);
        format!("training.sequence_length is {length}, but the model has positions for {most}")
    })?;
    let device = match file.cluster.device.as_str() {
        "cpu" => Device::Cpu,
        _ if device::cuda_devices() > 0 => Device::Cuda(place.local_rank % device::cuda_devices()),
        "cuda" => Device::Cuda(place.local_rank).resolve()?,
        _ => Device::Cpu,
    };
    let computation = Computation { kind: kind(file.training.dtype), device, recompute: false };
    let group = GroupConfig { timeout, transport: transport(file), host: place.host.clone(), ..GroupConfig::default() };
    let mut world = Group::join(place.rendezvous(timeout), group.clone())
        .with_context(|| format!("rank {} of {}, meeting the others", place.rank, place.ranks))?;
    agree(&mut world, task)?;
    Ok(Met { world, group, config, computation })
}

/// Trains as one of the ranks; rank 0 gets the outcome.
///
/// # Errors
/// Where the file, the ranks or the data do not fit, another rank is lost, or something cannot be read or written.
pub(crate) fn run(task: &Task<'_>, place: &Place) -> anyhow::Result<Option<Outcome>> {
    let texts = Texts::find(&task.file.data, task.folder, &task.out.join("tokens"))?;
    let mut met = meet(task, place)?;
    let (mut place, mut restart) = (place.clone(), task.restart);
    // One rank of each host; the others find it made.
    if place.local_rank == 0 {
        texts.make()?;
    }
    met.world.barrier()?;
    // Before anything is measured: with too little text, nothing else matters.
    let corpus = Arc::new(Corpus::open(task.file, &texts, &met.config)?);
    let mut decision = decide(task, &place, &mut met)?;
    let stop = stop_flag()?;
    loop {
        let task = Task { restart, ..*task };
        let seat = decision.seat(place.rank);
        let trained = Training::prepare(&task, &place, &mut met, (&corpus, decision.clone(), seat))
            .and_then(|mut training| training.run(&task, &place, &mut met.world, &stop));
        let error = match trained {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        // Who lives goes on without who is lost, as long as a whole replica is left.
        if decision.mesh.1 == 1 || !is_of_others(&error) {
            return Err(error);
        }
        tracing::warn!(%error, "a rank is lost");
        let Some((survivors, shrunk)) = shrink(met, &decision, error)? else {
            eprintln!("rank {}: no whole replica is left for this rank: it ends", place.rank);
            return Ok(None);
        };
        (met, decision) = (survivors, shrunk);
        let hosts = &met.world.layout().hosts;
        (place.rank, place.ranks) = (met.world.rank(), met.world.ranks());
        place.local_rank = (0..place.rank).filter(|other| hosts[*other] == hosts[place.rank]).count();
        restart = false;
        if place.rank == 0 {
            let (stages, replicas, sharers) = decision.mesh;
            eprintln!("going on with {} ranks: {stages} stages x {replicas} replicas x {sharers} sharers", place.ranks);
        }
    }
}

/// Raised by a signal that asks for an end. The second one ends the process, as the first one does before there is anything to
/// be saved.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGUSR1] {
        let armed = stop.clone();
        let register = signal_hook::flag::register_conditional_shutdown(signal, 1, armed);
        register.and_then(|_| signal_hook::flag::register(signal, stop.clone())).context("listening to signals")?;
    }
    Ok(stop)
}

/// Whether an error is about other ranks, and not about this one's files or memory.
fn is_of_others(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<CollectiveError>()
            || matches!(cause.downcast_ref::<CausalError>(), Some(CausalError::Collective(_) | CausalError::Link(_)))
    })
}

/// The world of those who live, and what it goes on as; `None` for a rank that is spare.
fn shrink(met: Met, decision: &Decision, error: anyhow::Error) -> anyhow::Result<Option<(Met, Decision)>> {
    let Met { world, group, config, computation } = met;
    let timeout = SHRINK.min(group.timeout);
    let mut world = world.shrink(timeout).context(error)?;
    let Some(shrunk) = decision.shrunk(world.members()) else { anyhow::bail!("no whole replica is left") };
    let place = shrunk.order.iter().position(|rank| *rank == world.rank());
    let whole = shrunk.order.len() == world.ranks();
    if !whole {
        // Who is in the mesh meets without who is not.
        let Some(inside) = world.split(place.map(|_| 0), group.clone(), timeout)? else { return Ok(None) };
        let before = world.ranks();
        let within: Vec<usize> = (0..before).filter(|rank| shrunk.order.contains(rank)).collect();
        let order = shrunk.order.iter().filter_map(|rank| within.iter().position(|other| other == rank)).collect();
        return Ok(Some((Met { world: inside, group, config, computation }, Decision { order, ..shrunk })));
    }
    Ok(Some((Met { world, group, config, computation }, shrunk)))
}

/// How long survivors look for each other.
const SHRINK: Duration = Duration::from_secs(30);

/// Measures, and plans from that; every rank has the same.
///
/// # Errors
/// As [`run`].
pub(crate) fn plan(task: &Task<'_>, place: &Place) -> anyhow::Result<Planned> {
    let mut met = meet(task, place)?;
    planned(task, place, &mut met)
}

/// A plan and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Planned {
    pub(crate) ranking: Ranking,
    pub(crate) topology: Topology,
    pub(crate) model: Model,
    pub(crate) job: Job,
}

fn planned(task: &Task<'_>, place: &Place, met: &mut Met) -> anyhow::Result<Planned> {
    let (file, config) = (task.file, &met.config);
    let length = file.training.sequence_length;
    let largest = file.mesh.micro_batch.unwrap_or_else(|| file.training.global_batch.div_ceil(place.ranks).clamp(1, 8));
    let measured = measure::measure(config, met.computation, length, [1, largest])?;
    let card = Card {
        host: met.world.layout().hosts[place.rank].to_string(),
        measured: Some(measured),
        memory_bytes: links::memory_bytes(place.local_ranks),
        device: met.computation.device.to_string(),
        card: links::network_card(),
    };
    let measurements = links::measure(&mut met.world, card)?;
    let topology = measurements.topology()?;
    // The first rank's layers, by which the speeds of all are counted.
    let reference = measurements.cards[0].measured.unwrap_or(measured);
    let model = reference.model(config, length, met.computation.kind);
    let job = job(file, config, place.ranks, &reference)?;
    let ranking = swarmloom_placement::plan::plan(&topology, &model, &job)?;
    Ok(Planned { ranking, topology, model, job })
}

/// What the file fixes; where it leaves the mesh open, what is planned from measurements.
fn decide(task: &Task<'_>, place: &Place, met: &mut Met) -> anyhow::Result<Decision> {
    let (file, layers) = (task.file, met.config.num_hidden_layers);
    let mesh = &file.mesh;
    let fixed = mesh.pipeline.is_some() || mesh.data.is_some() || mesh.tensor.is_some();
    let fixed =
        (fixed || place.ranks == 1) && mesh.micro_batch.is_some() && mesh.schedule != Some(Schedule::DelayAware);
    if fixed {
        return Ok(Decision::fixed(file, place.ranks, layers)?);
    }
    let planned = planned(task, place, met)?;
    if place.rank == 0 {
        fs::create_dir_all(task.out).with_context(|| task.out.display().to_string())?;
        let path = task.out.join("plan.json");
        fs::write(&path, serde_json::to_vec(&planned)?).with_context(|| path.display().to_string())?;
        let best = &planned.ranking.best;
        eprintln!(
            "plan: {} stages x {} replicas x {} sharers, {}, micro-batches of {}: {:.3} s a step, {:.0} tokens/s predicted",
            best.mesh.pipeline,
            best.mesh.data,
            best.mesh.tensor,
            best.schedule.name(),
            best.micro_batch,
            best.predicted.step_s,
            best.predicted.tokens_per_s
        );
    }
    Ok(Decision::planned(&planned.ranking.best, file, place.ranks)?)
}

/// Tokens to learn from, and those that are held out.
struct Corpus {
    tokens: TokenFile,
    validation: Option<TokenFile>,
}

impl Corpus {
    fn open(file: &TrainFile, texts: &Texts, config: &ModelConfig) -> anyhow::Result<Self> {
        let open = |text: &Text| TokenFile::open(&text.tokens, width(config.vocab_size));
        let tokens = open(&texts.training)?;
        let validation = texts.validation.as_ref().map(open).transpose()?;
        let length = file.training.sequence_length;
        for (what, file) in [("data", Some(&tokens)), ("data.validation", validation.as_ref())] {
            let Some(file) = file else { continue };
            ensure_usage(file.tokens() > length as u64, || {
                format!("{what}: {} tokens are less than one sequence of {length} and its last target", file.tokens())
            })?;
        }
        Ok(Self { tokens, validation })
    }
}

/// All that a rank trains with.
struct Training {
    config: ModelConfig,
    decision: Decision,
    seat: Seat,
    worker: Worker,
    corpus: Arc<Corpus>,
    /// Updates made.
    step: u64,
    checkpoints: PathBuf,
    writing: Option<Saving>,
    newest: Option<PathBuf>,
}

/// A checkpoint on its way to the disk.
struct Saving {
    step: u64,
    /// Of the optimizer, when its state was copied.
    updates: u64,
    writing: Writing,
}

impl Training {
    fn prepare(
        task: &Task<'_>,
        place: &Place,
        met: &mut Met,
        (corpus, decision, seat): (&Arc<Corpus>, Decision, Seat),
    ) -> anyhow::Result<Self> {
        let file = task.file;
        let Met { world, group, config, computation } = met;
        let messages = 2 * decision.chunks * decision.micro_batches(file.training.global_batch, 0) + 64;
        let links = LinkConfig {
            group: group.clone(),
            timeout: group.timeout,
            ring: decision.chunks > 1,
            tied: config.tie_word_embeddings,
            messages,
        };
        let links = Links::make(world, seat, &links)?;
        let slice = decision.slice(seat);
        let values = initial(task, config, &slice)?;
        let computation = Computation { recompute: decision.recompute, ..*computation };
        let stage = Stage::new(config, &slice, &values, computation)?;
        let shards = Shards::new(stage.layout(), seat.replica, seat.replicas);
        let betas = (file.training.betas[0], file.training.betas[1]);
        let rule = AdamW { betas, eps: file.training.eps, weight_decay: file.training.weight_decay };
        let optimizer = Sharded::new(stage.layout(), shards, rule, &values, &stage.parameters())?;
        let wire = file.cluster.wire.map_or(computation.kind, kind);
        let mut worker = Worker::new(stage, optimizer, links, wire);
        let checkpoints = task.out.join("checkpoints");
        if task.restart && place.local_rank == 0 {
            match fs::remove_dir_all(&checkpoints) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| checkpoints.display().to_string());
                }
                _ => {}
            }
        }
        world.barrier()?;
        let found = saved::newest(&checkpoints)?;
        let step = found.as_ref().map_or(0, |(_, state)| state.step);
        same(world, step, "checkpoints end at", |step| format!("step {step}"))?;
        if let Some((path, state)) = &found {
            worker.restore(&Saved::open(path, state, config)?, state.updates)?;
        }
        let newest = found.map(|(path, _)| path);
        let config = config.clone();
        let corpus = corpus.clone();
        Ok(Self { config, decision, seat, worker, corpus, step, checkpoints, writing: None, newest })
    }

    fn run(
        &mut self,
        task: &Task<'_>,
        place: &Place,
        world: &mut Group,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<Outcome>> {
        let file = task.file;
        let leads = place.rank == 0;
        let mut metrics = leads.then(|| Metrics::open(task.out)).transpose()?;
        let began = Instant::now();
        let (mut losses, mut rates) = (Vec::new(), Vec::new());
        let mut validation_loss = None;
        let mut stopped = false;
        let programs = self.decision.programs(file.training.global_batch, self.seat.replica)?;
        while self.step < file.training.steps && !stopped {
            let flags = [f64::from(stop.load(Ordering::Relaxed)), f64::from(self.has_written())];
            let report = self.update(task, world, &programs, flags)?;
            self.step += 1;
            stopped = report.flags[0] > 0.0;
            if report.flags[1] == world.ranks() as f64 {
                self.commit(task, place, world)?;
            }
            let tokens = (file.training.global_batch * file.training.sequence_length) as f64;
            losses.push(report.loss);
            rates.push(tokens / report.seconds);
            let last = self.step == file.training.steps || stopped;
            let step = self.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            if due(file.evaluation.every) || last {
                validation_loss = self.evaluate(task, world)?;
            }
            if let Some(metrics) = &mut metrics {
                metrics.step(self.step, file, &report, validation_loss)?;
            }
            if due(file.checkpoint.every) || last {
                self.save(task, place, world)?;
            }
        }
        self.finish(task, place, world)?;
        if !leads {
            return Ok(None);
        }
        let (pipeline, data, tensor) = self.decision.mesh;
        let later = &rates[rates.len().min(2)..];
        Ok(Some(Outcome {
            final_loss: losses.last().copied().unwrap_or(f64::NAN),
            validation_loss,
            tokens_per_s: crate::bench::median(if later.is_empty() { rates.clone() } else { later.to_vec() }),
            mesh: json!({ "pipeline": pipeline, "data": data, "tensor": tensor, "decision": self.decision }),
            checkpoint: self.newest.clone(),
            steps: self.step,
            finished: self.step == file.training.steps,
            seconds: began.elapsed().as_secs_f64(),
            ranks: world.ranks(),
            losses,
        }))
    }

    /// One step on the samples that it has.
    fn update(
        &mut self,
        task: &Task<'_>,
        world: &mut Group,
        programs: &[Vec<Op>],
        flags: [f64; 2],
    ) -> anyhow::Result<StepReport> {
        let training = &task.file.training;
        let sampling = self.sampling(task, &self.corpus.tokens);
        let first = self.step * training.global_batch as u64;
        let own = share(training.global_batch, self.seat.replica, self.seat.replicas);
        let mut batches = Share {
            file: &self.corpus.tokens,
            sampling,
            samples: first + own.start as u64..first + own.end as u64,
            micro_batch: self.decision.micro_batch,
            length: training.sequence_length,
            vocabulary: self.config.vocab_size,
        };
        let plan = StepPlan {
            programs,
            micro_batches: batches.micro_batches(),
            tokens: (training.global_batch * training.sequence_length) as u64,
            learning_rate: task.file.learning_rate(self.step),
            max_grad_norm: if training.max_grad_norm > 0.0 { training.max_grad_norm } else { f64::INFINITY },
        };
        Ok(self.worker.step(world, &plan, &mut batches, flags)?)
    }

    fn sampling(&self, task: &Task<'_>, tokens: &TokenFile) -> Sampling {
        let training = &task.file.training;
        Sampling::over(tokens.tokens(), training.sequence_length, task.file.data.order, training.seed)
    }

    /// The loss on held-out text, the same windows every time; `None` where there is none.
    fn evaluate(&mut self, task: &Task<'_>, world: &mut Group) -> anyhow::Result<Option<f64>> {
        let Some(validation) = &self.corpus.validation else { return Ok(None) };
        let sampling = self.sampling(task, validation);
        let count = (task.file.evaluation.sequences as u64).min(sampling.windows) as usize;
        let own = share(count, self.seat.replica, self.seat.replicas);
        let micro_batch = self.decision.micro_batch;
        let mut batches = Share {
            file: validation,
            sampling,
            samples: own.start as u64..own.end as u64,
            micro_batch,
            length: task.file.training.sequence_length,
            vocabulary: self.config.vocab_size,
        };
        let micro_batches = batches.micro_batches();
        let programs = forward_programs(&self.decision, micro_batches);
        Ok(Some(self.worker.evaluate(world, (&programs, micro_batches), &mut batches)?))
    }

    /// Begins to write a checkpoint; the one before is ended first.
    fn save(&mut self, task: &Task<'_>, place: &Place, world: &mut Group) -> anyhow::Result<()> {
        self.finish(task, place, world)?;
        let folder = saved::unfinished(&self.checkpoints, self.step);
        let writing = self.worker.snapshot()?.write(folder, place.rank).context("a thread for a checkpoint")?;
        self.writing = Some(Saving { step: self.step, updates: self.worker.optimizer().updates(), writing });
        Ok(())
    }

    fn has_written(&self) -> bool {
        self.writing.as_ref().is_some_and(|saving| saving.writing.is_over())
    }

    /// Waits until all ranks have written, and names the checkpoint. All ranks call it together.
    fn finish(&mut self, task: &Task<'_>, place: &Place, world: &mut Group) -> anyhow::Result<()> {
        if self.writing.is_some() { self.commit(task, place, world) } else { Ok(()) }
    }

    fn commit(&mut self, task: &Task<'_>, place: &Place, world: &mut Group) -> anyhow::Result<()> {
        let Some(Saving { step, updates, writing }) = self.writing.take() else { return Ok(()) };
        writing.end()?;
        world.barrier()?;
        let state = State {
            format: 0,
            step,
            updates,
            ranks: world.ranks(),
            model: self.config.clone(),
            run: json!({ "name": task.file.name, "mesh": self.decision.mesh }),
        };
        if place.local_rank == 0 {
            saved::commit(&self.checkpoints, &state, task.file.checkpoint.keep)?;
        }
        world.barrier()?;
        self.newest = saved::newest(&self.checkpoints)?.map(|(path, _)| path);
        Ok(())
    }
}

/// Each virtual stage's forward passes, micro-batch after micro-batch.
fn forward_programs(decision: &Decision, micro_batches: usize) -> Vec<Vec<Op>> {
    let all = (0..decision.chunks)
        .flat_map(|chunk| (0..micro_batches).map(move |micro_batch| Op { pass: Pass::Forward, micro_batch, chunk }));
    vec![all.collect(); decision.mesh.0]
}

/// The parameters that a rank starts with.
fn initial(task: &Task<'_>, config: &ModelConfig, slice: &Slice) -> anyhow::Result<Vec<f32>> {
    let path = task.file.model.path.as_ref().map(|path| task.folder.join(path).join("model.safetensors"));
    let whole = match path.filter(|path| path.exists()) {
        Some(path) => {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            Weights::from_safetensors(config, &bytes).with_context(|| path.display().to_string())?
        }
        None => Weights::init(config, task.file.training.seed),
    };
    let layout = Layout::new(config, slice);
    let mut flat = vec![0.0; layout.len()];
    for piece in &layout.pieces {
        let (_, values) = whole.get(&piece.name).with_context(|| format!("the model has no {}", piece.name))?;
        Layout::take(piece, values, &mut flat);
    }
    Ok(flat)
}

/// Whether all ranks have the same program and file.
fn agree(world: &mut Group, task: &Task<'_>) -> anyhow::Result<()> {
    let digest = |text: &str| {
        let found = digest::digest(&digest::SHA256, text.as_bytes());
        u64::from_le_bytes(found.as_ref()[..8].try_into().unwrap_or_default())
    };
    let program = format!("{} {}", env!("CARGO_PKG_VERSION"), build());
    same(world, digest(&program), "run other builds of swarmloom:", |_| program.clone())?;
    same(world, digest(task.text), "read other training files:", |_| task.name.to_owned())
}

/// What tells this build from others.
fn build() -> String {
    let about = std::env::current_exe().and_then(fs::metadata).map(|about| about.len());
    format!("{}, {} bytes", device::LIBTORCH, about.unwrap_or(0))
}

/// Whether all ranks say the same number; the error, on all of them, says who does not.
fn same(world: &mut Group, own: u64, what: &str, show: impl Fn(u64) -> String) -> anyhow::Result<()> {
    let ranks = world.ranks();
    let mut all = vec![0_i64; ranks];
    world.all_gather(&[own.cast_signed()], &mut all, &vec![1; ranks])?;
    let others: Vec<usize> = (0..ranks).filter(|rank| all[*rank] != all[0]).collect();
    ensure!(
        others.is_empty(),
        "ranks {others:?} and rank 0 {what} this rank has {}. Give all hosts the same, then start again",
        show(own)
    );
    Ok(())
}

fn ensure_usage(fine: bool, message: impl FnOnce() -> String) -> Result<(), Usage> {
    if fine { Ok(()) } else { Err(Usage(message())) }
}

fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    }
}

fn transport(file: &TrainFile) -> Transport {
    match file.cluster.transport.as_str() {
        "shm" => Transport::Shm,
        "tcp" => Transport::Tcp,
        "ofi" => Transport::Ofi,
        _ => Transport::Auto,
    }
}

/// What rank 0 writes down of every step, and says now and then.
struct Metrics {
    file: File,
    path: PathBuf,
    said: Option<Instant>,
}

/// Time between two lines for people.
const SAY_EVERY: Duration = Duration::from_secs(2);

impl Metrics {
    fn open(out: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let path = out.join("metrics.jsonl");
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self { file: file.with_context(|| path.display().to_string())?, path, said: None })
    }

    fn step(
        &mut self,
        step: u64,
        file: &TrainFile,
        report: &StepReport,
        validation_loss: Option<f64>,
    ) -> anyhow::Result<()> {
        let tokens = (file.training.global_batch * file.training.sequence_length) as f64;
        let rate = tokens / report.seconds;
        let line = json!({
            "step": step, "loss": report.loss, "grad_norm": report.grad_norm, "skipped": report.skipped,
            "learning_rate": file.learning_rate(step - 1), "seconds": report.seconds, "tokens_per_s": rate,
            "computing_s": report.computing_s, "ending_s": report.ending_s, "validation_loss": validation_loss,
        });
        writeln!(self.file, "{line}").with_context(|| self.path.display().to_string())?;
        let steps = file.training.steps;
        if step == steps || self.said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
            self.said = Some(Instant::now());
            let left = Duration::from_secs_f64((steps - step) as f64 * report.seconds);
            let held_out = validation_loss.map(|loss| format!("  held-out {loss:.4}")).unwrap_or_default();
            eprintln!(
                "step {step}/{steps}  loss {:.4}{held_out}  {rate:.0} tokens/s  {} left",
                report.loss,
                indicatif::HumanDuration(left)
            );
        }
        Ok(())
    }
}
