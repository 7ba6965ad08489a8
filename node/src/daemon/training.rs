//! The training thread: warm start, then steps until told to end. It knows nothing of the network but [`Rollouts`].
//!
//! A step asks for groups of others, generates own ones, hands them over, updates the policy. No step waits for another
//! peer. What a step draws follows from counters that its checkpoint holds, so that a run without sharing resumes bit by
//! bit.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;
use swarmloom_trainer::checkpoint::{self, CheckpointError};
use swarmloom_trainer::generate::{GenerateError, Generator, Request, Sample};
use swarmloom_trainer::learner::{Learner, StepError};
use swarmloom_trainer::schedule;
use swarmloom_trainer::weights::Weights;

use super::batch::{OwnGroup, assemble};
use super::board::Board;
use super::course::Course;
use super::gate::{Closed, Gate};
use super::link::{NewGroup, Rollouts};
use super::{curriculum, evaluation, warmup};
use crate::book::prompt_hash;
use crate::events::EventLog;
use crate::folder::Folder;

/// How far a peer has come; part of every checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The run, as hexadecimal.
    pub(crate) run: String,
    /// The model preset.
    pub(crate) model: String,
    /// Steps done.
    pub(crate) step: u64,
    /// Updates applied.
    pub(crate) version: u64,
    /// The next question's counter.
    pub(crate) counter: u64,
    /// Completions generated for training.
    pub(crate) completions: u64,
}

/// Why training ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TrainingError {
    /// A checkpoint could not be written or read.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoints are of another run or model.
    #[error(
        "the data folder {folder} holds a policy of {found}, but {asked} is asked for. Use another --data-dir, or \
         remove its checkpoints to start anew"
    )]
    OtherPolicy {
        /// The folder.
        folder: String,
        /// What is there.
        found: String,
        /// What the settings name.
        asked: String,
    },
    /// There are checkpoints, and none is sound.
    #[error(
        "every checkpoint in {folder} is damaged; they were moved aside, to names that begin with damaged-. Put a sound copy \
         in their place, or start again to begin anew"
    )]
    AllDamaged {
        /// The folder of checkpoints.
        folder: String,
    },
    /// A checkpoint is larger than what it may take of the disk.
    #[error(
        "a checkpoint of this model takes {needed_mib} MiB, and checkpoints may take {allowed_mib} MiB, half of limits.disk_mib: raise it"
    )]
    TooLarge {
        /// What one takes.
        needed_mib: u64,
        /// What all may take.
        allowed_mib: u64,
    },
    /// Generation failed.
    #[error("generation: {0}")]
    Generate(#[from] GenerateError),
    /// An update failed.
    #[error("training: {0}")]
    Step(#[from] StepError),
}

/// What the thread works with.
#[derive(Debug)]
pub(crate) struct Thread {
    /// What to do.
    pub(crate) course: Course,
    /// Where checkpoints go.
    pub(crate) folder: Folder,
    /// Where events go.
    pub(crate) events: Arc<EventLog>,
    /// Where the daemon's status is kept.
    pub(crate) board: Board,
    /// Whether to wait or end.
    pub(crate) gate: Arc<Gate>,
    /// Sharing; `None` alone.
    pub(crate) rollouts: Option<Box<dyn Rollouts>>,
    /// The lowest counter that no other peer has seen used.
    pub(crate) first_counter: u64,
    /// What checkpoints may take on disk, all together.
    pub(crate) checkpoints_bytes: u64,
    /// What the process may have in memory, where that is limited.
    pub(crate) memory_bytes: Option<u64>,
}

/// Seconds that the parts of a step took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct StepSeconds {
    /// Choosing groups of others.
    pub(crate) select: f64,
    /// Own completions.
    pub(crate) generate: f64,
    /// Rewards of own completions.
    pub(crate) score: f64,
    /// Handing groups over.
    pub(crate) publish: f64,
    /// The update.
    pub(crate) train: f64,
    /// Packing the new weights for generation.
    pub(crate) pack: f64,
}

impl Thread {
    /// Trains until the gate is stopped or the last step is done. The newest state is on disk then.
    ///
    /// # Errors
    /// [`TrainingError`]; checkpoints written before stay.
    pub(crate) fn run(mut self) -> Result<Progress, TrainingError> {
        let (mut learner, mut progress) = self.begin()?;
        progress.counter = progress.counter.max(self.first_counter);
        let mut generator = self.generator(&learner);
        let mut saved = progress.step;
        while self.open() && self.course.training.stop_after_steps.is_none_or(|last| progress.step < last) {
            self.step(&mut learner, &mut generator, &mut progress)?;
            if is_due(progress.step, self.course.training.evaluate_every) {
                self.evaluate(&mut generator, &progress)?;
            }
            if is_due(progress.step, self.course.training.checkpoint_every) {
                match self.save(&learner, &progress) {
                    Ok(()) => {
                        saved = progress.step;
                        self.board.solved(|problem| problem.what.starts_with(NOT_SAVED));
                    }
                    // The disk may have room again by the next one.
                    Err(error) => self.board.problem(
                        format!("{NOT_SAVED}: {error}"),
                        "free space on the disk of the data folder; it is tried again at the next one".into(),
                    ),
                }
            }
        }
        if saved != progress.step {
            self.save(&learner, &progress)?;
        }
        Ok(progress)
    }

    fn open(&self) -> bool {
        let board = &self.board;
        let passed = self.gate.pass(|closed| {
            board.update(|status| status.state = "paused".into());
            board.wait_for(Some(match closed {
                Closed::Paused => "a person's `swarmloom resume`",
                Closed::Full => "room in the data folder, which is over limits.disk_mib",
            }));
        });
        board.wait_for(None);
        if passed {
            board.update(|status| status.state = "training".into());
        }
        passed
    }

    /// The newest checkpoint, or a policy fresh from its warm start.
    pub(super) fn begin(&mut self) -> Result<(Learner, Progress), TrainingError> {
        let course = &self.course;
        let found = checkpoint::latest(&self.folder.checkpoints())?;
        for damaged in &found.damaged {
            self.events.emit(
                super::now_ms(),
                "checkpoint_damaged",
                &json!({ "path": damaged.path, "why": damaged.why }),
            );
            self.board.problem(
                format!("a damaged checkpoint was moved to {}: {}", damaged.path.display(), damaged.why),
                "an older one is used; remove it, and check the disk if it happens again".into(),
            );
        }
        if found.checkpoint.is_none() && !found.damaged.is_empty() {
            return Err(TrainingError::AllDamaged { folder: self.folder.checkpoints().display().to_string() });
        }
        if let Some(checkpoint) = found.checkpoint {
            let progress: Progress = serde_json::from_value(checkpoint.state.clone()).unwrap_or_default();
            let asked =
                Progress { run: course.run.to_string(), model: course.peer.model.clone(), ..Progress::default() };
            if (&progress.run, &progress.model) != (&asked.run, &asked.model) {
                let name = |progress: &Progress| {
                    format!("run {} and model {}", progress.run.get(..16).unwrap_or("(none)"), progress.model)
                };
                return Err(TrainingError::OtherPolicy {
                    folder: self.folder.path().display().to_string(),
                    found: name(&progress),
                    asked: name(&asked),
                });
            }
            let learner = checkpoint.learner(&course.model, course.learner.clone(), course.device, course.threads)?;
            self.show(&progress);
            self.events.emit(
                super::now_ms(),
                "resumed",
                &json!({ "step": progress.step, "version": progress.version }),
            );
            return Ok((learner, progress));
        }
        let weights = Weights::init(&course.model, course.peer.seed);
        let mut learner = Learner::new(&course.model, &weights, course.learner.clone(), course.device, course.threads)?;
        let progress =
            Progress { run: course.run.to_string(), model: course.peer.model.clone(), ..Progress::default() };
        if !self.warm_start(&mut learner)? {
            // Told to end in the middle: the next start begins anew, which costs seconds.
            return Ok((learner, progress));
        }
        learner.begin_policy_training();
        let mut generator = self.generator(&learner);
        self.evaluate(&mut generator, &progress)?;
        self.save(&learner, &progress)?;
        Ok((learner, progress))
    }

    pub(super) fn generator(&self, learner: &Learner) -> Generator {
        let mut generator = Generator::new(&self.course.model, learner.weights(), self.course.threads);
        if let Some(bytes) = self.memory_bytes {
            generator.set_cache_bytes((bytes / CACHE_SHARE) as usize);
        }
        generator
    }

    /// False where the gate was stopped before the end.
    fn warm_start(&mut self, learner: &mut Learner) -> Result<bool, TrainingError> {
        let warm = self.course.peer.warm_start.clone();
        if warm.steps == 0 {
            return Ok(true);
        }
        self.board.update(|status| status.state = "warming-up".into());
        eprintln!("showing right examples first ({} steps)", warm.steps);
        let began = Instant::now();
        let seed = self.course.peer.seed;
        let examples = warmup::examples(&self.course.book, &self.course.warm_examples(), seed);
        let mut random = curriculum::warm_start(seed, u64::from(u16::MAX));
        let mut loss = 0.0;
        for step in 0..warm.steps {
            if self.gate.is_stopped() {
                return Ok(false);
            }
            let batch = warmup::draw(&examples, warm.batch as usize, &mut random);
            if batch.is_empty() {
                break;
            }
            let rate = schedule::warm_up(warm.learning_rate, u64::from(step), WARM_START_RISE);
            loss = learner.supervised_step(&batch, rate)?.loss;
        }
        let seconds = began.elapsed().as_secs_f64();
        self.events.emit(
            super::now_ms(),
            "warm_started",
            &json!({ "steps": warm.steps, "examples": examples.len(), "loss": loss, "seconds": seconds }),
        );
        Ok(true)
    }

    /// One step: select, generate, score, publish, update.
    pub(super) fn step(
        &mut self,
        learner: &mut Learner,
        generator: &mut Generator,
        progress: &mut Progress,
    ) -> Result<(), TrainingError> {
        let mut seconds = StepSeconds::default();
        let course = &self.course;
        let seed = curriculum::selection_seed(course.peer.seed, progress.step);
        let clock = Instant::now();
        let external =
            self.rollouts.as_mut().map(|rollouts| rollouts.select(course.wanted(), seed)).unwrap_or_default();
        seconds.select = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let mut own = self.questions(course.local_groups(external.len()), progress);
        let requests: Vec<Request> = own
            .iter()
            .map(|group| Request {
                prompt: group.question.prompt.clone().into_bytes(),
                samples: curriculum::sampling_seeds(group.question.seed, course.training.group_size as usize)
                    .into_iter()
                    .map(|seed| Sample { seed, temperature: course.training.temperature as f32 })
                    .collect(),
                max_new_tokens: evaluation::new_tokens(
                    course.book.entries()[usize::from(group.question.task)].max_target_bytes(),
                    course.training.max_new_tokens,
                ),
            })
            .collect();
        let (completions, generated) = generator.generate(&requests)?;
        seconds.generate = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        for (group, completions) in own.iter_mut().zip(completions) {
            group.rewards =
                course.book.rewards(&group.question, completions.iter().map(|completion| completion.bytes.as_slice()));
            group.completions = completions;
        }
        seconds.score = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        if let Some(rollouts) = &mut self.rollouts {
            rollouts.publish(own.iter().map(new_group).collect(), progress.version);
        }
        seconds.publish = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let (batch, numbers) = assemble(&own, &external, course.sharing.rule, seed);
        let rate = schedule::warm_up(
            course.training.learning_rate,
            progress.step,
            u64::from(course.training.learning_rate_warmup),
        );
        let report = learner.step(&batch, rate)?;
        seconds.train = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        generator.load(learner.weights());
        seconds.pack = clock.elapsed().as_secs_f64();
        progress.step += 1;
        progress.version += u64::from(report.updates);
        progress.completions += own.iter().map(|group| group.completions.len() as u64).sum::<u64>();
        if let Some(why) = &report.skipped {
            self.board.problem(
                format!("an update was skipped: {why}"),
                "lower training.learning_rate if it happens often".into(),
            );
        }
        self.events.emit(
            super::now_ms(),
            "step",
            &json!({
                "step": progress.step, "version": progress.version, "completions": progress.completions,
                "own_reward": numbers.own_reward, "external_reward": numbers.external_reward,
                "own_groups": own.len(), "external_groups": external.len(), "staleness": numbers.staleness,
                "tokens_generated": generated.tokens, "report": report, "seconds": seconds,
            }),
        );
        self.show(progress);
        self.board.step(&numbers, &seconds, own.iter().map(|group| group.completions.len()).sum());
        Ok(())
    }

    /// Questions for so many groups, from the next counters on.
    fn questions(&self, count: usize, progress: &mut Progress) -> Vec<OwnGroup> {
        let course = &self.course;
        let mut groups = Vec::with_capacity(count);
        // A counter without a question is skipped; a book is checked to have questions to spare.
        for _ in 0..count * 4 {
            if groups.len() == count {
                break;
            }
            let drawn = curriculum::draw(&course.run, &course.key, progress.counter, &course.weights);
            progress.counter += 1;
            if let Ok(question) = course.book.question(drawn.task, drawn.seed) {
                groups.push(OwnGroup {
                    counter: drawn.counter,
                    question,
                    completions: Vec::new(),
                    rewards: Vec::new(),
                });
            }
        }
        groups
    }

    fn evaluate(&self, generator: &mut Generator, progress: &Progress) -> Result<(), TrainingError> {
        let training = &self.course.training;
        let clock = Instant::now();
        let rewards = evaluation::evaluate(
            generator,
            &self.course.book,
            training.evaluate_questions as usize,
            training.temperature as f32,
            training.max_new_tokens,
            &|| self.gate.is_stopped(),
        )?;
        // Told to end in the middle: half an evaluation is none.
        let Some(rewards) = rewards else { return Ok(()) };
        let seconds = clock.elapsed().as_secs_f64();
        self.events.emit(
            super::now_ms(),
            "evaluated",
            &json!({
                "step": progress.step, "version": progress.version, "completions": progress.completions,
                "tasks": rewards, "seconds": seconds,
            }),
        );
        let sum: f64 = rewards.values().map(|task| task.reward).sum();
        eprintln!("step {:>6}  held-out reward {:.3}", progress.step, sum / rewards.len().max(1) as f64);
        self.board.evaluated(&rewards);
        Ok(())
    }

    fn save(&self, learner: &Learner, progress: &Progress) -> Result<(), TrainingError> {
        let (checkpoints, state) = (self.folder.checkpoints(), serde_json::to_value(progress).unwrap_or_default());
        let keep = self.course.training.keep_checkpoints as usize;
        // Weights, two moments and perhaps a reference, of four bytes a parameter each: room is made before it is taken.
        let needed = 16 * self.course.model.parameters() + (1 << 20);
        if Folder::at(&checkpoints).bytes() + needed > self.checkpoints_bytes {
            checkpoint::prune(&checkpoints, 1)?;
            self.board.problem(
                format!("{keep} checkpoints do not fit in their half of limits.disk_mib: fewer are kept"),
                "raise limits.disk_mib, or lower training.keep_checkpoints".into(),
            );
        }
        if needed > self.checkpoints_bytes {
            return Err(TrainingError::TooLarge {
                needed_mib: needed >> 20,
                allowed_mib: self.checkpoints_bytes >> 20,
            });
        }
        checkpoint::save(&checkpoints, progress.step, learner, &state)?;
        checkpoint::prune(&checkpoints, keep)?;
        self.events.emit(super::now_ms(), "checkpoint", &json!({ "step": progress.step }));
        Ok(())
    }

    fn show(&self, progress: &Progress) {
        self.board.update(|status| {
            status.step = progress.step;
            status.policy_version = progress.version;
            status.completions = progress.completions;
        });
    }
}

/// How the problem begins that says that a checkpoint was not written.
const NOT_SAVED: &str = "a checkpoint could not be written";
/// Steps over which the warm start's learning rate rises.
const WARM_START_RISE: u64 = 20;

/// The part of the process's memory that keys and values of running completions may take: an eighth.
const CACHE_SHARE: u64 = 8;

fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn new_group(group: &OwnGroup) -> NewGroup {
    NewGroup {
        counter: group.counter,
        task: group.question.task,
        seed: group.question.seed,
        index: group.question.index,
        prompt_hash: prompt_hash(&group.question.prompt),
        completions: group.completions.clone(),
    }
}
