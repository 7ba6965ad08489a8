//! Runs a plan without data: who blocks, what is in which order, and what every element holds.
//!
//! Counters only grow and only waits block, so one greedy run blocks exactly where every run does. The order in which it
//! takes the steps agrees with the order that signals give; so when an access meets an earlier one on the same elements,
//! either it knows that the earlier one is over, or nothing orders the two.

use super::forest::{Forest, Value};
use super::form::Lengths;
use super::memory::{Conflict, Memory, Piece};
use super::order::{Access, Kind, Order};
use super::refusal::Refusal;
use crate::plan::{Buffer, Place, Plan, Rank, Slice, Step};

/// What there is when all have ended.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) forest: Forest,
    pub(super) order: Order,
    pub(super) outputs: Vec<Memory>,
    scratch: Vec<Memory>,
    packets: Vec<Memory>,
    /// By owner and reader: the last step of the reader that reads the owner's input.
    input_reads: Vec<Option<u32>>,
    moved: Vec<u64>,
    pieces: Vec<Piece>,
    /// The pieces of each source of a reduction.
    sources: Vec<Vec<Piece>>,
}

impl<'a> Run<'a> {
    /// Runs `plan`, whose form was checked, to the end.
    pub(super) fn new(plan: &'a Plan, lengths: &Lengths) -> Result<Self, Refusal> {
        let ranks = plan.ranks();
        let mut run = Self {
            plan,
            forest: Forest::new(ranks),
            order: Order::new(ranks),
            outputs: lengths.outputs.iter().map(|&len| Memory::new(len)).collect(),
            scratch: (0..ranks).map(|_| Memory::new(lengths.scratch)).collect(),
            packets: lengths.packets.iter().map(|&len| Memory::new(len)).collect(),
            input_reads: vec![None; ranks * ranks],
            moved: vec![0; ranks],
            pieces: Vec::new(),
            sources: Vec::new(),
        };
        run.all()?;
        run.left_over()?;
        Ok(run)
    }

    /// The last step of `reader` that reads the input of `owner`.
    pub(super) fn input_read(&self, owner: Rank, reader: Rank) -> Option<u32> {
        self.input_reads[owner * self.plan.ranks() + reader]
    }

    /// Bytes that each rank moves between itself and others.
    pub(super) fn bytes_moved(&self) -> Vec<u64> {
        self.moved.iter().map(|elements| elements.saturating_mul(self.plan.element_bytes as u64)).collect()
    }

    fn all(&mut self) -> Result<(), Refusal> {
        let ranks = self.plan.ranks();
        let mut ready: Vec<Rank> = (0..ranks).rev().collect();
        while let Some(rank) = ready.pop() {
            while let Some(step) = self.plan.programs[rank].get(self.order.step(rank)) {
                if let Some((kind, from)) = awaited(step)
                    && !self.order.take(kind, from, rank)
                {
                    break;
                }
                if let Some(told) = self.carry_out(rank, step)?
                    && told != rank
                    && self.awaits(told).is_some_and(|(_, from)| from == rank)
                    && !ready.contains(&told)
                {
                    ready.push(told);
                }
                self.order.advance(rank);
            }
        }
        match (0..ranks).find(|&rank| self.order.step(rank) < self.plan.programs[rank].len()) {
            Some(rank) => Err(self.blocked(rank)),
            None => Ok(()),
        }
    }

    /// Carries out a step that does not block; says who was told something.
    fn carry_out(&mut self, rank: Rank, step: &'a Step) -> Result<Option<Rank>, Refusal> {
        match step {
            Step::Wait { .. } | Step::WaitPacket { .. } | Step::Meet { .. } => return Ok(None),
            Step::Put { from, to, signal } => {
                let access = self.order.put(rank, to.rank);
                self.copy(rank, from.of(rank), *to, access)?;
                if *signal {
                    self.order.send(Kind::Signal, rank, to.rank);
                    return Ok(Some(to.rank));
                }
            }
            Step::Signal { to } => {
                self.order.send(Kind::Signal, rank, *to);
                return Ok(Some(*to));
            }
            Step::Expose { to } => {
                self.order.send(Kind::Expose, rank, *to);
                return Ok(Some(*to));
            }
            Step::Packet { from, to } => {
                let landed = Slice::new(Buffer::Packet(rank), 0..from.len).of(*to);
                self.copy(rank, from.of(rank), landed, self.order.access(rank))?;
                self.order.send(Kind::Packet, rank, *to);
                return Ok(Some(*to));
            }
            Step::Copy { from, to } => self.copy(rank, *from, to.of(rank), self.order.access(rank))?,
            Step::Reduce { from, to } => self.reduce(rank, from, to)?,
        }
        Ok(None)
    }

    fn copy(&mut self, rank: Rank, from: Place, to: Place, access: Access) -> Result<(), Refusal> {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        self.read(rank, from, access, &mut pieces)?;
        self.write(rank, to, access, &pieces)?;
        self.pieces = pieces;
        Ok(())
    }

    fn reduce(&mut self, rank: Rank, from: &[Place], to: &[Place]) -> Result<(), Refusal> {
        let access = self.order.access(rank);
        let mut sources = std::mem::take(&mut self.sources);
        sources.resize_with(sources.len().max(from.len()), Vec::new);
        for (place, pieces) in from.iter().zip(&mut sources) {
            pieces.clear();
            self.read(rank, *place, access, pieces)?;
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        combine(&mut self.forest, &sources[..from.len()], &mut pieces);
        for place in to {
            self.write(rank, *place, access, &pieces)?;
        }
        self.pieces = pieces;
        self.sources = sources;
        Ok(())
    }

    fn read(&mut self, rank: Rank, from: Place, access: Access, pieces: &mut Vec<Piece>) -> Result<(), Refusal> {
        if from.rank != rank {
            self.moved[rank] += from.slice.len as u64;
        }
        if from.slice.buffer == Buffer::Input {
            if from.rank != rank {
                let ranks = self.plan.ranks();
                self.input_reads[from.rank * ranks + rank] = Some(access.step);
            }
            let value = self.forest.input(from.rank).from(from.slice.start);
            pieces.push(Piece { end: from.slice.len, value });
            return Ok(());
        }
        let memory = memory(&mut self.outputs, &mut self.scratch, &mut self.packets, from);
        let Some(memory) = memory else { return Ok(()) };
        memory
            .read(from.slice.range(), rank, access, &self.order, pieces)
            .map_err(|conflict| self.refusal(rank, "reads", from, conflict))
    }

    fn write(&mut self, rank: Rank, to: Place, access: Access, pieces: &[Piece]) -> Result<(), Refusal> {
        if to.rank != rank {
            self.moved[rank] += to.slice.len as u64;
        }
        let memory = memory(&mut self.outputs, &mut self.scratch, &mut self.packets, to);
        let Some(memory) = memory else { return Ok(()) };
        memory
            .write(to.slice.range(), rank, access, &self.order, pieces)
            .map_err(|conflict| self.refusal(rank, "writes", to, conflict))
    }

    fn refusal(&self, rank: Rank, what: &'static str, place: Place, conflict: Conflict) -> Refusal {
        let step = self.order.step(rank);
        let part = |range| Slice::new(place.slice.buffer, range).of(place.rank);
        match conflict {
            Conflict::Undefined(range) => Refusal::Undefined { rank, step, place: part(range) },
            Conflict::Unordered { range, with, wrote } => Refusal::Race {
                rank,
                step,
                what,
                place: part(range),
                before: if wrote { "the write" } else { "the read" },
                other: with.rank as usize,
                other_step: with.step as usize,
            },
        }
    }

    /// What `rank` waits for at its current step.
    fn awaits(&self, rank: Rank) -> Option<(Kind, Rank)> {
        self.plan.programs[rank].get(self.order.step(rank)).and_then(awaited)
    }

    /// Who waits for whom, from `rank` on, until somebody has ended or the circle closes.
    fn blocked(&self, rank: Rank) -> Refusal {
        let mut chain = String::new();
        let mut seen = vec![false; self.plan.ranks()];
        let mut here = rank;
        while let Some((kind, from)) = self.awaits(here) {
            if std::mem::replace(&mut seen[here], true) {
                break;
            }
            let lead =
                if chain.is_empty() { String::new() } else { format!(", which at step {} ", self.order.step(here)) };
            let name = kind.name();
            let article = if kind == Kind::Expose { "an" } else { "a" };
            chain.push_str(&format!("{lead}waits for {article} {name} of rank {from}"));
            here = from;
        }
        if self.awaits(here).is_none() {
            chain.push_str(", which has ended");
        }
        Refusal::Blocked { rank, step: self.order.step(rank), chain }
    }

    fn left_over(&self) -> Result<(), Refusal> {
        let ranks = self.plan.ranks();
        for (from, to) in (0..ranks).flat_map(|from| (0..ranks).map(move |to| (from, to))) {
            for kind in Kind::ALL {
                let count = self.order.left(kind, from, to);
                if count > 0 {
                    return Err(Refusal::LeftOver { from, to, what: kind.name(), count });
                }
            }
        }
        Ok(())
    }
}

/// What a step waits for.
fn awaited(step: &Step) -> Option<(Kind, Rank)> {
    match step {
        Step::Wait { from } => Some((Kind::Signal, *from)),
        Step::WaitPacket { from } => Some((Kind::Packet, *from)),
        Step::Meet { from } => Some((Kind::Expose, *from)),
        _ => None,
    }
}

/// The memory of a place; inputs have none, since they do not change.
fn memory<'m>(
    outputs: &'m mut [Memory],
    scratch: &'m mut [Memory],
    packets: &'m mut [Memory],
    place: Place,
) -> Option<&'m mut Memory> {
    let ranks = outputs.len();
    match place.slice.buffer {
        Buffer::Input => None,
        Buffer::Output => outputs.get_mut(place.rank),
        Buffer::Scratch => scratch.get_mut(place.rank),
        Buffer::Packet(from) => packets.get_mut(from * ranks + place.rank),
    }
}

/// Reduces sources that are in pieces, piece by piece.
fn combine(forest: &mut Forest, sources: &[Vec<Piece>], into: &mut Vec<Piece>) {
    let mut next = vec![0; sources.len()];
    let mut values: Vec<Value> = Vec::with_capacity(sources.len());
    loop {
        values.clear();
        let mut end = usize::MAX;
        for (pieces, next) in sources.iter().zip(&next) {
            let Some(piece) = pieces.get(*next) else { return };
            values.push(piece.value);
            end = end.min(piece.end);
        }
        into.push(Piece { end, value: forest.reduce(&values) });
        for (pieces, next) in sources.iter().zip(&mut next) {
            if pieces[*next].end == end {
                *next += 1;
            }
        }
    }
}
