//! Reads the others' inputs and writes the others' outputs in place, where user memory can be reached.

use super::draft::{Draft, Spot, Token};
use super::exchange::{Exchange, others};
use super::{BuildError, Cut, Ready, Task, part};
use crate::plan::{Buffer, Collective, Rank, Reach, Step};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    let ranks = task.ranks();
    let exchange = Exchange::new(task.collective, ranks);
    let reachable = |reach: Reach| reach.copy_user || reach.reduce_user;
    if *task.collective == Collective::Barrier {
        return Err(task.undefined("there is nothing to reach"));
    }
    if !(0..ranks).all(|from| exchange.receivers(from).all(|to| reachable(task.layout.reach(from, to)))) {
        return Err(task.undefined("not everybody's memory can be reached"));
    }
    let longest = exchange.longest();
    let wanted = task.elements(task.tuning.cache_bytes);
    let large = longest > 0 && longest.saturating_mul(task.element_bytes) >= task.tuning.direct_two_shot_bytes;
    let split = large && matches!(task.collective, Collective::AllReduce { .. });
    let most = if split { longest.div_ceil(ranks).next_multiple_of(task.align()) } else { longest };
    // What cannot be reduced where it is goes through scratch.
    let copied = |rank: Rank| exchange.senders(rank).filter(|&from| !task.layout.reach(rank, from).reduce_user).count();
    let areas = if exchange.reduces { (0..ranks).map(copied).max().unwrap_or(0) } else { 0 };
    let cut = task.cut_to(wanted, most, |chunk| chunk * areas, 1, &[1])?;
    Ok(Box::new(move || {
        let mut direct = Direct { exchange, cut, draft: Draft::new(task.layout, cut.grid(areas)) };
        if split {
            direct.two_shot(longest, task.align());
        } else {
            direct.pull();
        }
        task.finish(direct.draft)
    }))
}

struct Direct<'a> {
    exchange: Exchange,
    cut: Cut,
    draft: Draft<'a>,
}

impl Direct<'_> {
    /// Everybody takes from the others what it is to have.
    fn pull(&mut self) {
        let ranks = self.draft.ranks();
        self.expose();
        let mut tokens: Vec<Option<Token>> = Vec::new();
        for rank in 0..ranks {
            let own = self.exchange.piece(rank, rank);
            let output = Spot::user(rank, Buffer::Output, own.place, own.len);
            let senders: Vec<Rank> = self.exchange.senders(rank).collect();
            if self.exchange.reduces {
                senders.iter().for_each(|&from| self.draft.push(rank, Step::Meet { from }));
                self.reduce(rank, own.start, &[output]);
                tokens.extend(senders.into_iter().map(|from| self.draft.signal(rank, from)));
                continue;
            }
            self.draft.copy(rank, Spot::user(rank, Buffer::Input, own.start, own.len), output);
            for from in senders {
                let piece = self.exchange.piece(from, rank);
                self.draft.push(rank, Step::Meet { from });
                let there = Spot::user(from, Buffer::Input, piece.start, piece.len);
                self.fetch(rank, there, Spot::user(rank, Buffer::Output, piece.place, piece.len));
                tokens.push(self.draft.signal(rank, from));
            }
        }
        // Nobody ends while its input is read.
        tokens.into_iter().for_each(|token| self.draft.wait(token));
    }

    /// Everybody reduces its part into its own output and, where that is possible, the next rank's; the others fetch it.
    fn two_shot(&mut self, count: usize, align: usize) {
        let ranks = self.draft.ranks();
        let parts = |rank: Rank| part(0..count, rank, ranks, align);
        let output = |rank: Rank, owner: Rank| Spot::user(rank, Buffer::Output, parts(owner).start, parts(owner).len());
        self.expose();
        let mut reduced = vec![None; ranks * ranks];
        let mut served = vec![false; ranks * ranks];
        for owner in 0..ranks {
            others(owner, ranks).for_each(|from| self.draft.push(owner, Step::Meet { from }));
            if parts(owner).is_empty() {
                continue;
            }
            let next = (owner + 1) % ranks;
            let mut places = vec![output(owner, owner)];
            if self.draft.reach(owner, next).reduce_user {
                places.push(output(next, owner));
                served[owner * ranks + next] = true;
            }
            self.reduce(owner, parts(owner).start, &places);
            for to in others(owner, ranks) {
                reduced[owner * ranks + to] = self.draft.signal(owner, to);
            }
        }
        let mut fetched = Vec::new();
        for rank in 0..ranks {
            for i in 1..ranks {
                let owner = (rank + ranks - i) % ranks;
                self.draft.wait(reduced[owner * ranks + rank]);
                if !served[owner * ranks + rank] && !parts(owner).is_empty() {
                    self.fetch(rank, output(owner, owner), output(rank, owner));
                    fetched.push(self.draft.signal(rank, owner));
                }
            }
        }
        // Nobody ends while its output is read.
        fetched.into_iter().for_each(|token| self.draft.wait(token));
    }

    /// Everybody lets those reach its memory who are to read it.
    fn expose(&mut self) {
        for rank in 0..self.draft.ranks() {
            let receivers: Vec<Rank> = self.exchange.receivers(rank).collect();
            receivers.into_iter().for_each(|to| self.draft.push(rank, Step::Expose { to }));
        }
    }

    /// `rank` reduces everybody's input from `start` on, in rank order.
    fn reduce(&mut self, rank: Rank, start: usize, to: &[Spot]) {
        let ranks = self.draft.ranks();
        let in_place = |from: Rank| from == rank || self.draft.reach(rank, from).reduce_user;
        let place: Vec<bool> = (0..ranks).map(in_place).collect();
        let len = to[0].len();
        let rounds = if place.iter().all(|it| *it) { 1 } else { self.cut.rounds };
        for round in 0..rounds {
            let part = if rounds == 1 { 0..len } else { self.cut.round(round, len) };
            if part.is_empty() {
                continue;
            }
            let mut area = 0;
            let mut sources = Vec::with_capacity(ranks);
            for (from, in_place) in place.iter().enumerate() {
                let input = Spot::user(from, Buffer::Input, start + part.start, part.len());
                if *in_place {
                    sources.push(input);
                    continue;
                }
                let cell = self.draft.cell(rank, 0, area, part.len());
                self.draft.copy(rank, input, cell);
                sources.push(cell);
                area += 1;
            }
            let to: Vec<Spot> = to.iter().map(|to| to.part(part.start, part.len())).collect();
            self.draft.reduce(rank, &sources, &to);
        }
    }

    /// `rank` copies from another rank, by a reduction of one source where it cannot be a copy.
    fn fetch(&mut self, rank: Rank, from: Spot, to: Spot) {
        if self.draft.reach(rank, from.place.rank).copy_user {
            self.draft.copy(rank, from, to);
        } else if from.len() > 0 {
            self.draft.push(rank, Step::Reduce { from: vec![from.place], to: vec![to.place] });
        }
    }
}
