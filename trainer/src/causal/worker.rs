//! One rank's part of a training step: carries out its stage's schedule over its links.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;
use swarmloom_collectives::Group;
use swarmloom_kernels::reduce::ReduceOp;
use swarmloom_placement::schedule::{Op, Pass};
use tch::{Kind, Tensor};

use super::CausalError;
use super::layout::Part;
use super::links::{Cargo, Coming, Links};
use super::optimizer::Sharded;
use super::saved::{Saved, Snapshot};
use super::stage::{Input, Stage};
use crate::collective::{self, TensorCollectiveError};

/// A rank that trains.
#[derive(Debug)]
pub struct Worker {
    stage: Stage,
    optimizer: Sharded,
    links: Links,
    /// The kind that activations and their gradients travel in.
    wire: Kind,
    began: Instant,
    /// Spans of the step at hand.
    spans: Vec<Span>,
}

/// The sequences of a step that a replica has, in micro-batches.
pub trait Batches {
    /// Inputs and targets of one micro-batch, `[sequences, length] i64` each.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn micro_batch(&mut self, micro_batch: usize) -> Result<(Tensor, Tensor), CausalError>;
    /// The shape of one micro-batch: sequences, and tokens of each.
    fn shape(&self, micro_batch: usize) -> (i64, i64);
}

/// What a step is to do.
#[derive(Debug, Clone, Copy)]
pub struct StepPlan<'a> {
    /// What each stage does, in its order.
    pub programs: &'a [Vec<Op>],
    /// Micro-batches of this replica.
    pub micro_batches: usize,
    /// Tokens of all replicas together.
    pub tokens: u64,
    /// Of this update.
    pub learning_rate: f64,
    /// The gradient is scaled down to this norm; infinity leaves it.
    pub max_grad_norm: f64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Mean cross-entropy of the global batch before the update, nats a token.
    pub loss: f64,
    /// Norm of the gradient before it was scaled down.
    pub grad_norm: f64,
    /// Whether the gradient was not finite, and the update was left out.
    pub skipped: bool,
    /// The sum of all ranks' flags.
    pub flags: [f64; 2],
    /// Of the whole step.
    pub seconds: f64,
    /// Of the passes: what this rank computed.
    pub computing_s: f64,
    /// From the end of the schedule to that of the step: reductions that were not hidden, the update, the parameters' exchange.
    pub ending_s: f64,
    /// What was done when, for a trace.
    pub spans: Vec<Span>,
}

/// Something that was done, in seconds since the worker was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Span {
    /// What.
    pub what: What,
    /// From when.
    pub start_s: f64,
    /// Until when.
    pub end_s: f64,
}

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A pass of the schedule.
    Pass(Op),
    /// Waiting for another stage's tensor.
    Wait(Op),
    /// Waiting for gradients of other replicas.
    Reduce,
    /// The norm and loss of all ranks.
    Agree,
    /// The optimizer.
    Update,
    /// Waiting for other replicas' parameters.
    Gather,
}

impl Worker {
    /// A rank with its stage, its part of the optimizer and its links.
    pub fn new(stage: Stage, optimizer: Sharded, links: Links, wire: Kind) -> Self {
        Self { stage, optimizer, links, wire, began: Instant::now(), spans: Vec::new() }
    }

    /// Its stage.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Its part of the optimizer.
    pub fn optimizer(&self) -> &Sharded {
        &self.optimizer
    }

    /// A copy of what this rank updates, to be written while it goes on.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn snapshot(&self) -> Result<Snapshot, CausalError> {
        let own = self.optimizer.own(&self.stage.parameters())?;
        Ok(Snapshot::new(self.stage.layout(), &self.optimizer, own))
    }

    /// Goes on from a checkpoint of any mesh. A collective call of the replicas.
    ///
    /// # Errors
    /// [`CausalError`].
    pub fn restore(&mut self, saved: &Saved, updates: u64) -> Result<(), CausalError> {
        let values = saved.read(self.stage.layout(), self.optimizer.shards())?;
        self.optimizer.restore(values, updates, &self.stage.parameters())?;
        let coming = (0..self.stage.layout().buckets.len()).map(|bucket| self.gather(bucket)).collect::<Vec<_>>();
        for gathered in coming {
            if let Some(gathered) = gathered? {
                self.links.wait(&gathered)?;
            }
        }
        Ok(())
    }

    /// One update. A collective call: all ranks of `world` make it. `flags` are summed over all ranks on the way: what a
    /// rank wants all to know.
    ///
    /// # Errors
    /// [`CausalError`]: then this rank's parameters are of no use any more.
    pub fn step(
        &mut self,
        world: &mut Group,
        plan: &StepPlan<'_>,
        batches: &mut dyn Batches,
        flags: [f64; 2],
    ) -> Result<StepReport, CausalError> {
        let start = self.now();
        self.spans.clear();
        self.stage.reset()?;
        let scale = 1.0 / plan.tokens as f64;
        let mut reduced: Vec<Option<Coming<Tensor>>> = self.stage.layout().buckets.iter().map(|_| None).collect();
        let loss = self.passes(plan, batches, Some((scale, &mut reduced)))?;
        let passed = self.now();
        let computing_s = self.spans.iter().filter(|span| matches!(span.what, What::Pass(_)));
        let computing_s = computing_s.map(|span| span.end_s - span.start_s).sum();
        let gradients = self.reduced(reduced)?;
        let (loss, grad_norm, flags) = self.agree(world, (loss, flags), &gradients)?;
        let skipped = !(grad_norm.is_finite() && loss.is_finite());
        if !skipped {
            let clip = if grad_norm > plan.max_grad_norm { plan.max_grad_norm / grad_norm } else { 1.0 };
            self.update(&gradients, (plan.learning_rate, clip))?;
        }
        let end = self.now();
        Ok(StepReport {
            loss: loss * scale,
            grad_norm,
            skipped,
            flags,
            seconds: end - start,
            computing_s,
            ending_s: end - passed,
            spans: std::mem::take(&mut self.spans),
        })
    }

    /// The mean cross-entropy over `micro_batches` of each replica, without learning. A collective call.
    ///
    /// # Errors
    /// As [`Worker::step`].
    pub fn evaluate(
        &mut self,
        world: &mut Group,
        (programs, micro_batches): (&[Vec<Op>], usize),
        batches: &mut dyn Batches,
    ) -> Result<f64, CausalError> {
        let forward = |program: &Vec<Op>| program.iter().copied().filter(|op| op.pass == Pass::Forward).collect();
        let programs: Vec<Vec<Op>> = programs.iter().map(forward).collect();
        let plan = StepPlan {
            programs: &programs,
            micro_batches,
            tokens: 1,
            learning_rate: 0.0,
            max_grad_norm: f64::INFINITY,
        };
        let loss = self.passes(&plan, batches, None)?;
        let tokens =
            (0..micro_batches).map(|micro_batch| batches.shape(micro_batch)).map(|(rows, length)| rows * length);
        // Each pipeline's last stage tells; tensor-parallel ranks would tell the same.
        let tells = self.stage.slice().last && self.stage.slice().tensor_rank == 0;
        let own = if tells { [loss, tokens.sum::<i64>() as f64] } else { [0.0; 2] };
        let mut all = [0.0; 2];
        world.all_reduce(&own, &mut all, ReduceOp::Sum).map_err(TensorCollectiveError::from)?;
        Ok(all[0] / all[1].max(1.0))
    }

    /// Carries the schedule out. The sum of the losses of this rank's last chunk; with gradients where `learn` is given,
    /// and each bucket's reduction begun as soon as it is complete.
    fn passes(
        &mut self,
        plan: &StepPlan<'_>,
        batches: &mut dyn Batches,
        mut learn: Option<(f64, &mut Vec<Option<Coming<Tensor>>>)>,
    ) -> Result<f64, CausalError> {
        let (seat, chunks) = (self.links.seat, self.stage.slice().chunks.len());
        let (stages, last) = (seat.stages, seat.stages * chunks - 1);
        let program = plan.programs.get(seat.stage).map_or(&[][..], Vec::as_slice);
        let mut coming = self.expect(plan, batches, last)?;
        let mut going: Vec<Coming<()>> = Vec::new();
        let mut gradients: HashMap<usize, Tensor> = HashMap::new();
        let mut finished = Finished::new(&self.stage, plan.micro_batches);
        let mut ends = Vec::new();
        let mut loss = 0.0;
        for op in program {
            let virtual_stage = op.chunk * stages + seat.stage;
            let key = (op.micro_batch, op.chunk);
            let input = match op.pass {
                Pass::Forward if virtual_stage == 0 => None,
                Pass::Forward => Some(self.take(&mut coming, (Cargo::Activation, *op))?),
                Pass::Backward | Pass::InputGradient if virtual_stage != last => {
                    Some(self.take(&mut coming, (Cargo::Gradient, *op))?)
                }
                _ => None,
            };
            let start = self.now();
            match op.pass {
                Pass::Forward => {
                    let input = match input {
                        Some(activations) => Input::Activations(activations),
                        None => Input::Tokens(batches.micro_batch(op.micro_batch)?.0.f_to_device(self.stage.device())?),
                    };
                    let output = self.with_sum(|stage, sum| stage.forward(key, input, learn.is_some(), sum))?;
                    if virtual_stage == last {
                        let targets = batches.micro_batch(op.micro_batch)?.1.f_to_device(self.stage.device())?;
                        let scale = learn.as_ref().map_or(1.0, |(scale, _)| *scale);
                        let (sum, gradient) = self.stage.loss(&output, &targets, scale, learn.is_some())?;
                        loss += sum;
                        if learn.is_some() {
                            gradients.insert(op.micro_batch, gradient);
                        }
                        finished.head();
                    } else {
                        going.push(self.send(Cargo::Activation, output)?);
                    }
                }
                Pass::Backward | Pass::InputGradient => {
                    let none = || CausalError::Schedule(format!("micro-batch {} has no loss yet", op.micro_batch));
                    let gradient = match input {
                        Some(gradient) => gradient,
                        None => gradients.remove(&op.micro_batch).ok_or_else(none)?,
                    };
                    let weights = op.pass == Pass::Backward;
                    let found = self.with_sum(|stage, sum| {
                        stage.backward(key, gradient, weights, sum, &mut |layer| finished.layer(layer))
                    })?;
                    match found {
                        Some(gradient) => going.push(self.send(Cargo::Gradient, gradient)?),
                        None => finished.embedding(),
                    }
                }
                Pass::WeightGradient => self.stage.weight_gradients(key, &mut |layer| finished.layer(layer))?,
            }
            let end = self.now();
            self.spans.push(Span { what: What::Pass(*op), start_s: start, end_s: end });
            if let Some((_, reduced)) = &mut learn {
                for bucket in finished.complete() {
                    if self.is_at_ends(bucket) { ends.push(bucket) } else { self.reduce(bucket, reduced)? }
                }
            }
        }
        // Whoever waits here keeps no other stage waiting any more.
        if let Some((_, reduced)) = &mut learn {
            for bucket in ends {
                self.reduce(bucket, reduced)?;
            }
        }
        for sent in &going {
            self.links.wait(sent)?;
        }
        Ok(loss)
    }

    /// Asks for all that this step's schedule brings, in the order in which the senders make it.
    fn expect(&self, plan: &StepPlan<'_>, batches: &dyn Batches, last: usize) -> Result<Expected, CausalError> {
        let seat = self.links.seat;
        let (stages, hidden) = (seat.stages, self.stage.hidden());
        let mut coming = Expected::new();
        if stages == 1 {
            return Ok(coming);
        }
        let sender = |offset: usize| (seat.stage + offset) % stages;
        for (cargo, from) in [(Cargo::Activation, sender(stages - 1)), (Cargo::Gradient, sender(1))] {
            for op in plan.programs.get(from).into_iter().flatten() {
                let theirs = op.chunk * stages + from;
                let own = match (cargo, op.pass) {
                    (Cargo::Activation, Pass::Forward) if theirs < last => theirs + 1,
                    (Cargo::Gradient, Pass::Backward | Pass::InputGradient) if theirs > 0 => theirs - 1,
                    _ => continue,
                };
                let (rows, length) = batches.shape(op.micro_batch);
                let shape = vec![rows, length, hidden];
                coming.insert((cargo, own, op.micro_batch), self.links.receive(cargo, (shape, self.wire))?);
            }
        }
        Ok(coming)
    }

    /// Waits for what an op needs of another stage.
    fn take(&mut self, coming: &mut Expected, (cargo, op): (Cargo, Op)) -> Result<Tensor, CausalError> {
        let own = op.chunk * self.links.seat.stages + self.links.seat.stage;
        let none = || CausalError::Schedule(format!("nobody sends the {cargo:?} of micro-batch {}", op.micro_batch));
        let pending = coming.remove(&(cargo, own, op.micro_batch)).ok_or_else(none)?;
        let start = self.now();
        let tensor = self.links.wait(&pending)?;
        self.note(What::Wait(op), start);
        Ok(tensor.f_to_device(self.stage.device())?.f_to_kind(self.stage.kind())?)
    }

    fn send(&self, cargo: Cargo, tensor: Tensor) -> Result<Coming<()>, CausalError> {
        self.links.send(cargo, tensor.f_to_kind(self.wire)?)
    }

    /// A pass that sums over the ranks that share each layer.
    fn with_sum<T>(
        &mut self,
        pass: impl FnOnce(&mut Stage, super::block::Sum<'_>) -> Result<T, CausalError>,
    ) -> Result<T, CausalError> {
        match &mut self.links.tensor {
            None => pass(&mut self.stage, &mut |_| Ok(())),
            Some(group) => pass(&mut self.stage, &mut |part| Ok(collective::all_reduce(group, part, ReduceOp::Sum)?)),
        }
    }

    /// Whether a bucket is the embedding that the first and the last stage both hold.
    fn is_at_ends(&self, bucket: usize) -> bool {
        self.links.ends.is_some() && self.stage.layout().buckets[bucket].part == Part::Embedding
    }

    /// Begins the reduction of a bucket that is complete on this rank.
    fn reduce(&mut self, bucket: usize, reduced: &mut [Option<Coming<Tensor>>]) -> Result<(), CausalError> {
        let layout = self.stage.layout();
        let range = layout.buckets[bucket].range.clone();
        let mut whole = self.stage.gradients().f_narrow(0, range.start as i64, range.len() as i64)?;
        if self.is_at_ends(bucket)
            && let Some(ends) = &mut self.links.ends
        {
            collective::all_reduce(ends, &mut whole, ReduceOp::Sum)?;
        }
        let parts = self.optimizer.shards().parts(bucket).to_vec();
        reduced[bucket] =
            self.links.replicas(move |group| collective::reduce_scatter(group, &whole, &parts, ReduceOp::Sum));
        Ok(())
    }

    /// This rank's parts of all gradients, summed over the replicas, by bucket.
    fn reduced(&mut self, reduced: Vec<Option<Coming<Tensor>>>) -> Result<Vec<Tensor>, CausalError> {
        let start = self.now();
        let all = self.stage.gradients();
        let mut found = Vec::with_capacity(reduced.len());
        for (bucket, coming) in reduced.into_iter().enumerate() {
            let own = self.optimizer.shards().own(bucket);
            found.push(match coming {
                Some(coming) => self.links.wait(&coming)?,
                None => all.f_narrow(0, own.start as i64, own.len() as i64)?,
            });
        }
        if self.optimizer.shards().is_shared() {
            self.note(What::Reduce, start);
        }
        Ok(found)
    }

    /// The sum of all losses and the norm of the whole gradient, the same on every rank.
    fn agree(
        &mut self,
        world: &mut Group,
        (loss, flags): (f64, [f64; 2]),
        gradients: &[Tensor],
    ) -> Result<(f64, f64, [f64; 2]), CausalError> {
        let start = self.now();
        let slice = self.stage.slice();
        let replicas = slice.tensor_rank == 0;
        let mut squares = 0.0;
        for (bucket, gradient) in gradients.iter().enumerate() {
            // Both ends of a pipeline hold a tied embedding's whole gradient.
            if !self.is_at_ends(bucket) || slice.first {
                squares += self.optimizer.squared_norm(self.stage.layout(), bucket, gradient, replicas)?;
            }
        }
        let own = [if slice.last && replicas { loss } else { 0.0 }, squares, flags[0], flags[1]];
        let mut all = own;
        if world.ranks() > 1 {
            world.all_reduce(&own, &mut all, ReduceOp::Sum).map_err(TensorCollectiveError::from)?;
            self.note(What::Agree, start);
        }
        Ok((all[0], all[1].sqrt(), [all[2], all[3]]))
    }

    /// Updates this rank's parts, and exchanges them with the other replicas'.
    fn update(&mut self, gradients: &[Tensor], factors: (f64, f64)) -> Result<(), CausalError> {
        let start = self.now();
        let parameters = self.stage.parameters();
        self.optimizer.begin();
        let mut coming = Vec::new();
        for (bucket, gradient) in gradients.iter().enumerate() {
            self.optimizer.update(bucket, gradient, factors, &parameters)?;
            coming.extend(self.gather(bucket)?);
        }
        self.note(What::Update, start);
        let start = self.now();
        for gathered in &coming {
            self.links.wait(gathered)?;
        }
        if !coming.is_empty() {
            self.note(What::Gather, start);
        }
        Ok(())
    }

    /// Begins to exchange the replicas' parts of a bucket's parameters; `None` where there are no others.
    fn gather(&self, bucket: usize) -> Result<Option<Coming<()>>, CausalError> {
        if !self.optimizer.shards().is_shared() {
            return Ok(None);
        }
        let flat = |range: &std::ops::Range<usize>| {
            self.stage.parameters().f_narrow(0, range.start as i64, range.len() as i64)
        };
        let own = flat(&self.optimizer.shards().own(bucket))?;
        // Apart from where it goes to.
        let mut apart = own.f_empty_like()?;
        apart.f_copy_(&own)?;
        let mut whole = flat(&self.stage.layout().buckets[bucket].range)?;
        let parts = self.optimizer.shards().parts(bucket).to_vec();
        Ok(self.links.replicas(move |group| collective::all_gather_into(group, &apart, &mut whole, &parts)))
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn note(&mut self, what: What, start: f64) {
        let end = self.now();
        self.spans.push(Span { what, start_s: start, end_s: end });
    }

    /// How long it has been there.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What other stages send, by cargo, own virtual stage and micro-batch.
type Expected = BTreeMap<(Cargo, usize, usize), Coming<Tensor>>;

/// Which buckets have all of a step's gradients.
struct Finished {
    micro_batches: usize,
    layers: Vec<usize>,
    heads: usize,
    embeddings: usize,
    /// Whether the embedding gets gradients of the output layer, and of tokens.
    tied_head: bool,
    first: bool,
    /// By bucket: what it is of, and whether it has been told.
    buckets: Vec<(Part, bool)>,
}

impl Finished {
    fn new(stage: &Stage, micro_batches: usize) -> Self {
        let slice = stage.slice();
        Self {
            micro_batches,
            layers: vec![0; slice.layers().count()],
            heads: 0,
            embeddings: 0,
            tied_head: stage.is_tied() && slice.last,
            first: slice.first,
            buckets: stage.layout().buckets.iter().map(|bucket| (bucket.part, false)).collect(),
        }
    }

    fn layer(&mut self, layer: usize) {
        self.layers[layer] += 1;
    }

    fn head(&mut self) {
        self.heads += 1;
    }

    fn embedding(&mut self) {
        self.embeddings += 1;
    }

    /// Buckets that have become complete since the last call, in the same order on every replica.
    fn complete(&mut self) -> Vec<usize> {
        let all = self.micro_batches;
        let (layers, heads, embeddings) = (&self.layers, self.heads, self.embeddings);
        let (tied_head, first) = (self.tied_head, self.first);
        let is = |part: Part| match part {
            Part::Layer(layer) => layers[layer] == all,
            Part::Head => heads == all,
            Part::Embedding => (!tied_head || heads == all) && (!first || embeddings == all),
        };
        let mut found = Vec::new();
        for (bucket, (part, told)) in self.buckets.iter_mut().enumerate().rev() {
            if !*told && is(*part) {
                *told = true;
                found.push(bucket);
            }
        }
        found
    }
}
