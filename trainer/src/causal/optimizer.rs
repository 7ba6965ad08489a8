//! AdamW with its state sharded over the data-parallel ranks (Rajbhandari et al., "ZeRO", 2020, stage 1).
//!
//! Of every bucket each rank has a part: it gets the sum of that part's gradients, updates it, and gives it to the others.
//! With parameters of f32 they are the master copy themselves; with bf16 each rank keeps an f32 master of its parts.

use std::ops::Range;

use swarmloom_kernels::outer::{self, Rule, State};
use tch::{Device, Kind, TchError, Tensor};

use super::layout::{Layout, Piece};
use crate::memory::{floats, floats_mut};

/// How parameters are updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Of the running means of the gradient and of its square.
    pub betas: (f32, f32),
    /// Keeps the quotient finite.
    pub eps: f32,
    /// Of matrices.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 }
    }
}

/// Who updates what: how each bucket is shared out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    rank: usize,
    ranks: usize,
    /// By bucket: elements of each rank's part.
    parts: Vec<Vec<usize>>,
    /// By bucket: this rank's part of the flat buffer.
    own: Vec<Range<usize>>,
}

impl Shards {
    /// Parts as even as can be.
    pub fn new(layout: &Layout, rank: usize, ranks: usize) -> Self {
        let even = |len: usize| (0..ranks).map(|rank| len / ranks + usize::from(rank < len % ranks)).collect();
        let parts: Vec<Vec<usize>> = layout.buckets.iter().map(|bucket| even(bucket.range.len())).collect();
        let own = layout.buckets.iter().zip(&parts).map(|(bucket, parts)| {
            let start = bucket.range.start + parts[..rank].iter().sum::<usize>();
            start..start + parts[rank]
        });
        Self { rank, ranks, own: own.collect(), parts }
    }

    /// Elements of each rank's part of a bucket.
    pub fn parts(&self, bucket: usize) -> &[usize] {
        &self.parts[bucket]
    }

    /// This rank's part of a bucket, in the flat buffer.
    pub fn own(&self, bucket: usize) -> Range<usize> {
        self.own[bucket].clone()
    }

    /// Elements that this rank updates.
    pub fn len(&self) -> usize {
        self.own.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether it updates none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is somebody to share with.
    pub fn is_shared(&self) -> bool {
        self.ranks > 1
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }
}

/// One rank's part of the optimizer.
#[derive(Debug)]
pub struct Sharded {
    rule: AdamW,
    shards: Shards,
    /// By bucket: runs of this rank's part that decay or do not, relative to the part.
    runs: Vec<Vec<(Range<usize>, bool)>>,
    /// By bucket: where its state begins.
    starts: Vec<usize>,
    /// `[shards.len()]` each; the master is empty where the parameters are f32 on the processor.
    master: Vec<f32>,
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
    updates: u64,
}

impl Sharded {
    /// At the start, from the parameters of this rank's parts.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn new(
        layout: &Layout,
        shards: Shards,
        rule: AdamW,
        values: &[f32],
        parameters: &Tensor,
    ) -> Result<Self, TchError> {
        let runs = shards.own.iter().map(|own| runs(&layout.pieces, own)).collect();
        let mut starts = vec![0];
        starts.extend(shards.own.iter().scan(0, |at, own| {
            *at += own.len();
            Some(*at)
        }));
        let len = shards.len();
        let in_place = parameters.kind() == Kind::Float && parameters.device() == Device::Cpu;
        let master =
            if in_place { Vec::new() } else { shards.own.iter().cloned().flatten().map(|at| values[at]).collect() };
        Ok(Self { rule, shards, runs, starts, master, first: vec![0.0; len], second: vec![0.0; len], updates: 0 })
    }

    /// How buckets are shared out.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Updates made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Counts one more update, which [`Sharded::update`] then makes bucket by bucket.
    pub fn begin(&mut self) {
        self.updates += 1;
    }

    /// The squared norm of a bucket's gradient, of this rank's part: `[part] f32`. Of what every tensor-parallel rank holds
    /// too, only where `replicas` is set.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn squared_norm(
        &self,
        layout: &Layout,
        bucket: usize,
        gradient: &Tensor,
        replicas: bool,
    ) -> Result<f64, TchError> {
        let own = self.shards.own(bucket);
        let mut sum = 0.0;
        for piece in layout.pieces.iter().filter(|piece| replicas || !piece.replicated) {
            let (from, to) = (piece.range().start.max(own.start), piece.range().end.min(own.end));
            if from < to {
                let part = gradient.f_narrow(0, (from - own.start) as i64, (to - from) as i64)?;
                sum += part.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
            }
        }
        Ok(sum)
    }

    /// Updates this rank's part of a bucket with `gradient * scale`, `[part] f32`.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn update(
        &mut self,
        bucket: usize,
        gradient: &Tensor,
        (learning_rate, scale): (f64, f64),
        parameters: &Tensor,
    ) -> Result<(), TchError> {
        let own = self.shards.own(bucket);
        let mut target = parameters.f_narrow(0, own.start as i64, own.len() as i64)?;
        if own.is_empty() {
            return Ok(());
        }
        let gradient = gradient.f_to_device(Device::Cpu)?.f_contiguous()?;
        let gradient = if scale == 1.0 { gradient } else { gradient.f_mul_scalar(scale)? };
        let state = self.starts[bucket]..self.starts[bucket] + own.len();
        let (first, second) = (&mut self.first[state.clone()], &mut self.second[state.clone()]);
        let master = if self.master.is_empty() { floats_mut(&mut target)? } else { &mut self.master[state.clone()] };
        let (betas, eps) = (self.rule.betas, self.rule.eps);
        for (run, decays) in &self.runs[bucket] {
            let weight_decay = if *decays { self.rule.weight_decay } else { 0.0 };
            let rule = Rule::Adam { beta1: betas.0, beta2: betas.1, eps, weight_decay, bias_correction: true };
            let state = State { first: &mut first[run.clone()], second: &mut second[run.clone()] };
            let gradient = &floats(&gradient)?[run.clone()];
            outer::step(rule, learning_rate as f32, self.updates, gradient, &mut master[run.clone()], state);
        }
        if !self.master.is_empty() {
            target.f_copy_(&Tensor::f_from_slice(&self.master[state])?)?;
        }
        Ok(())
    }

    /// This rank's parts of the parameters in f32, bucket after bucket.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn own(&self, parameters: &Tensor) -> Result<Vec<f32>, TchError> {
        if !self.master.is_empty() {
            return Ok(self.master.clone());
        }
        let mut found = Vec::with_capacity(self.shards.len());
        for own in self.shards.own.iter().filter(|own| !own.is_empty()) {
            found.extend_from_slice(floats(&parameters.f_narrow(0, own.start as i64, own.len() as i64)?)?);
        }
        Ok(found)
    }

    /// Goes on from what was saved: this rank's parts of the parameters and of both moments, bucket after bucket. The other
    /// ranks' parts of the parameters are theirs to give.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn restore(
        &mut self,
        [own, first, second]: [Vec<f32>; 3],
        updates: u64,
        parameters: &Tensor,
    ) -> Result<(), TchError> {
        let len = self.shards.len();
        if [own.len(), first.len(), second.len()] != [len; 3] {
            return Err(TchError::Shape(format!("{} saved elements, not {len}", own.len())));
        }
        for (range, start) in self.shards.own.iter().zip(&self.starts).filter(|(range, _)| !range.is_empty()) {
            let mut target = parameters.f_narrow(0, range.start as i64, range.len() as i64)?;
            target.f_copy_(&Tensor::f_from_slice(&own[*start..*start + range.len()])?)?;
        }
        if !self.master.is_empty() {
            self.master = own;
        }
        (self.first, self.second, self.updates) = (first, second, updates);
        Ok(())
    }
}

/// Where decay begins and ends within a part, relative to it.
fn runs(pieces: &[Piece], own: &Range<usize>) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for piece in pieces {
        let (from, to) = (piece.range().start.max(own.start), piece.range().end.min(own.end));
        if from >= to {
            continue;
        }
        match runs.last_mut() {
            Some((last, decays)) if *decays == piece.decays => last.end = to - own.start,
            _ => runs.push((from - own.start..to - own.start, piece.decays)),
        }
    }
    runs
}
