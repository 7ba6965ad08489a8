//! Recursive halving, then recursive doubling: twice the logarithm of the ranks in steps, for any number of ranks.
//!
//! After Rabenseifner (*Optimization of collective reduction operations*, 2004): what is more than a power of two folds
//! its input into a neighbour's first and gets the result last. The others halve what they hold: of two partners, which
//! differ in one bit of their number, each gives the other one half and reduces the one it keeps, the lower rank's block
//! first. Then they hand back the results in the opposite order.

use std::ops::Range;

use super::draft::{Draft, Spot, Token};
use super::{BuildError, Cut, Ready, Task, tree};
use crate::plan::{Buffer, Collective, Plan, Rank};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    let count = match *task.collective {
        Collective::AllReduce { count } => count,
        Collective::Broadcast { root, count } => return tree::broadcast(task, root, count),
        Collective::Reduce { root, count } => return tree::reduce(task, root, count),
        Collective::Barrier => return Ok(Box::new(|| tree::barrier(task))),
        _ => return Err(task.undefined("it is for all-reduce, broadcast, reduce and barrier")),
    };
    let cut = task.cut(count, |chunk| chunk * areas(task, chunk), 1, &[4, 2, 1])?;
    Ok(Box::new(move || build(task, count, cut)))
}

/// The areas of a slot. The last one is as long as it has to be.
const HELD: usize = 0;
const FOLDED: usize = 1;
const RESULT: usize = 2;
const RECEIVED: usize = 3;

/// Areas of `chunk` elements in a slot: what is received while halving is all there is, and each half is rounded up.
fn areas(task: &Task<'_>, chunk: usize) -> usize {
    RECEIVED + 1 + (task.ranks().ilog2() as usize).div_ceil((chunk / task.align()).max(1))
}

fn build(task: &Task<'_>, count: usize, cut: Cut) -> Plan {
    let active = 1 << task.ranks().ilog2();
    let draft = Draft::new(task.layout, cut.grid(areas(task, cut.stride)));
    let mut all = HalvingDoubling { task, count, active, cut, draft };
    // Two rounds side by side: one moves while the other is reduced.
    let lanes = cut.slots.min(2);
    for first in (0..cut.rounds).step_by(lanes) {
        let lanes: Vec<usize> = (first..cut.rounds.min(first + lanes)).collect();
        all.fold(&lanes);
        let steps = active.ilog2();
        (0..steps).for_each(|step| all.halve(&lanes, step));
        (0..steps).rev().for_each(|step| all.double(&lanes, step));
        all.unfold(&lanes);
    }
    task.finish(all.draft)
}

struct HalvingDoubling<'a> {
    task: &'a Task<'a>,
    count: usize,
    /// The largest power of two that is at most the number of ranks.
    active: usize,
    cut: Cut,
    draft: Draft<'a>,
}

impl HalvingDoubling<'_> {
    /// Pairs of a rank that folds and the one it folds into.
    fn folds(&self) -> impl Iterator<Item = (Rank, Rank)> + use<> {
        (0..self.draft.ranks() - self.active).map(|pair| (2 * pair + 1, 2 * pair))
    }

    /// The rank with that number among the active ones.
    fn rank(&self, number: usize) -> Rank {
        let folded = self.draft.ranks() - self.active;
        if number < folded { 2 * number } else { number + folded }
    }

    /// What the active rank of that number holds before halving for the `step`th time: positions in the round.
    fn held(&self, round: usize, number: usize, step: u32) -> Range<usize> {
        let mut range = 0..self.cut.round(round, self.count).len();
        for step in 0..step {
            let half = self.half(range.len());
            range = if number & self.distance(step) == 0 {
                range.start..range.start + half
            } else {
                range.start + half..range.end
            };
        }
        range
    }

    /// Half of so many elements, rounded up to the alignment.
    fn half(&self, len: usize) -> usize {
        len.div_ceil(2).next_multiple_of(self.task.align()).min(len)
    }

    fn distance(&self, step: u32) -> usize {
        self.active >> (step + 1)
    }

    fn cell(&self, rank: Rank, round: usize, area: usize, range: &Range<usize>) -> Spot {
        self.draft.cell(rank, round, area, range.end).part(range.start, range.len())
    }

    fn user(&self, rank: Rank, buffer: Buffer, round: usize, range: &Range<usize>) -> Spot {
        let start = self.cut.round(round, self.count).start + range.start;
        Spot::user(rank, buffer, start, range.len())
    }

    /// Where the active rank of that number has what it holds before halving for the `step`th time.
    fn source(&self, round: usize, number: usize, step: u32, range: &Range<usize>) -> Spot {
        let rank = self.rank(number);
        let folds = number < self.draft.ranks() - self.active;
        if step == 0 && !folds {
            self.user(rank, Buffer::Input, round, range)
        } else {
            self.cell(rank, round, HELD, range)
        }
    }

    fn fold(&mut self, lanes: &[usize]) {
        let mut tokens = Vec::new();
        for &round in lanes {
            let all = self.held(round, 0, 0);
            for (from, to) in self.folds() {
                let there = self.cell(to, round, FOLDED, &all);
                tokens.push(self.draft.put(self.user(from, Buffer::Input, round, &all), there));
            }
        }
        let mut tokens = tokens.into_iter();
        for &round in lanes {
            let all = self.held(round, 0, 0);
            for ((_, to), token) in self.folds().zip(&mut tokens) {
                self.draft.wait(token);
                let sources = [self.user(to, Buffer::Input, round, &all), self.cell(to, round, FOLDED, &all)];
                let held = self.cell(to, round, HELD, &all);
                self.draft.reduce(to, &sources, &[held]);
            }
        }
    }

    fn halve(&mut self, lanes: &[usize], step: u32) {
        let mut moves: Vec<(Spot, Option<Token>)> = Vec::new();
        for &round in lanes {
            for number in 0..self.active {
                let partner = number ^ self.distance(step);
                let given = self.held(round, partner, step + 1);
                let there = self.received(round, partner, step);
                let token = self.draft.put(self.source(round, number, step, &given), there);
                moves.push((there, token));
            }
        }
        for (lane, &round) in lanes.iter().enumerate() {
            for number in 0..self.active {
                let partner = number ^ self.distance(step);
                let (received, token) = moves[lane * self.active + partner];
                self.draft.wait(token);
                let kept = self.held(round, number, step + 1);
                let rank = self.rank(number);
                let mut sources = [self.source(round, number, step, &kept), received];
                if partner < number {
                    sources.reverse();
                }
                let last = self.distance(step) == 1;
                let to = if last {
                    self.user(rank, Buffer::Output, round, &kept)
                } else {
                    self.cell(rank, round, HELD, &kept)
                };
                self.draft.reduce(rank, &sources, &[to]);
            }
        }
    }

    /// Where the active rank of that number receives what it keeps of the `step`th halving: behind what came before.
    fn received(&self, round: usize, number: usize, step: u32) -> Spot {
        let align = self.task.align();
        let before: usize = (1..=step).map(|step| self.held(round, number, step).len().next_multiple_of(align)).sum();
        let kept = self.held(round, number, step + 1).len();
        self.cell(self.rank(number), round, RECEIVED, &(before..before + kept))
    }

    fn double(&mut self, lanes: &[usize], step: u32) {
        let moves: Vec<(Rank, Rank, Range<usize>, usize)> = lanes
            .iter()
            .flat_map(|&round| (0..self.active).map(move |number| (round, number)))
            .map(|(round, number)| {
                let partner = number ^ self.distance(step);
                (self.rank(number), self.rank(partner), self.held(round, number, step + 1), round)
            })
            .collect();
        self.hand(&moves);
    }

    fn unfold(&mut self, lanes: &[usize]) {
        let moves: Vec<(Rank, Rank, Range<usize>, usize)> = lanes
            .iter()
            .flat_map(|&round| self.folds().map(move |pair| (round, pair)))
            .map(|(round, (to, from))| (from, to, self.held(round, 0, 0), round))
            .collect();
        self.hand(&moves);
    }

    /// Results go from one rank to another.
    fn hand(&mut self, moves: &[(Rank, Rank, Range<usize>, usize)]) {
        let mut tokens = Vec::with_capacity(moves.len());
        for (from, to, range, round) in moves {
            let output = self.user(*to, Buffer::Output, *round, range);
            let straight = self.draft.reach(*from, *to).put_output;
            let there = if straight { output } else { self.cell(*to, *round, RESULT, range) };
            let token = self.draft.put(self.user(*from, Buffer::Output, *round, range), there);
            tokens.push((token, there, output));
        }
        for ((_, to, ..), (token, there, output)) in moves.iter().zip(tokens) {
            self.draft.wait(token);
            if there.place != output.place {
                self.draft.copy(*to, there, output);
            }
        }
    }
}
