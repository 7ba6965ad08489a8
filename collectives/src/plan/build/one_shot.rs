//! Everybody gives everybody what it is to have, at once: staged where the others can read it, or put where they are.

use std::collections::VecDeque;

use super::draft::{Draft, Spot, Token};
use super::exchange::{Exchange, Piece};
use super::{BuildError, Cut, Ready, Task, packet};
use crate::plan::{Buffer, Collective, Plan, Rank, Reach};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    if *task.collective == Collective::Barrier {
        return Ok(Box::new(|| packet::barrier(task)));
    }
    let ways = Ways::new(task, Exchange::new(task.collective, task.ranks()));
    let deep = 2 * task.tuning.ahead + 2;
    let cut = task.cut(ways.exchange.longest(), |chunk| chunk * ways.areas, 1, &[deep, 4, 2, 1])?;
    Ok(Box::new(move || build(task, ways, cut)))
}

fn build(task: &Task<'_>, ways: Ways, cut: Cut) -> Plan {
    let ranks = task.ranks();
    let draft = Draft::new(task.layout, cut.grid(ways.areas));
    let mut one_shot = OneShot { ways, cut, draft, offers: vec![VecDeque::new(); ranks * ranks] };
    for time in 0..cut.rounds + cut.ahead {
        if time < cut.rounds {
            (0..ranks).for_each(|rank| one_shot.offer(rank, time));
        }
        if time >= cut.ahead {
            (0..ranks).for_each(|rank| one_shot.take(rank, time - cut.ahead));
        }
    }
    task.finish(one_shot.draft)
}

/// How a piece gets to another rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The sender copies it to this area of its own scratch, the receiver reads it there.
    Stage(usize),
    /// The sender puts it into this area of the receiver's scratch.
    Inbox(usize),
    /// The sender puts it where it has to be.
    Output,
}

/// The way of each piece.
#[derive(Debug)]
struct Ways {
    exchange: Exchange,
    /// By pair; of no meaning where there is nothing to send.
    ways: Vec<Way>,
    /// Areas of scratch that the rank with the most of them has.
    areas: usize,
}

impl Ways {
    fn new(task: &Task<'_>, exchange: Exchange) -> Self {
        let ranks = task.ranks();
        let mut ways = vec![Way::Output; ranks * ranks];
        let mut areas = vec![0; ranks];
        let staged = |reach: Reach| reach.load_scratch;
        for from in 0..ranks {
            for (i, to) in exchange.receivers(from).filter(|&to| staged(task.layout.reach(from, to))).enumerate() {
                let area = if exchange.shared { 0 } else { i };
                ways[from * ranks + to] = Way::Stage(area);
                areas[from] = area + 1;
            }
        }
        for (to, areas) in areas.iter_mut().enumerate() {
            for from in exchange.senders(to) {
                let reach = task.layout.reach(from, to);
                if !staged(reach) && (exchange.reduces || !reach.put_output) {
                    ways[from * ranks + to] = Way::Inbox(*areas);
                    *areas += 1;
                }
            }
        }
        Self { exchange, ways, areas: areas.into_iter().max().unwrap_or(0) }
    }

    fn of(&self, from: Rank, to: Rank) -> (Way, Piece) {
        let piece = self.exchange.piece(from, to);
        (self.ways[from * self.exchange.ranks + to], piece)
    }
}

struct OneShot<'a> {
    ways: Ways,
    cut: Cut,
    draft: Draft<'a>,
    /// By pair: what is on its way.
    offers: Vec<VecDeque<(Spot, Option<Token>)>>,
}

impl OneShot<'_> {
    /// `rank` gives away its part of a round.
    fn offer(&mut self, rank: Rank, round: usize) {
        let ranks = self.draft.ranks();
        let receivers: Vec<Rank> = self.ways.exchange.receivers(rank).collect();
        let mut staged = None;
        for to in receivers {
            let (way, piece) = self.ways.of(rank, to);
            let part = self.cut.round(round, piece.len);
            let input = Spot::user(rank, Buffer::Input, piece.start, piece.len);
            let from = input.part(part.start, part.len());
            let offer = match way {
                _ if part.is_empty() => continue,
                Way::Stage(area) => {
                    let spot = self.draft.cell(rank, round, area, from.len());
                    if staged.replace(area) != Some(area) {
                        self.draft.copy(rank, from, spot);
                    }
                    (spot, self.draft.signal(rank, to))
                }
                Way::Inbox(area) => {
                    let spot = self.draft.cell(to, round, area, from.len());
                    (spot, self.draft.put(from, spot))
                }
                Way::Output if round == 0 => {
                    let output = Spot::user(to, Buffer::Output, piece.place, piece.len);
                    (output, self.draft.put(input, output))
                }
                Way::Output => continue,
            };
            self.offers[rank * ranks + to].push_back(offer);
        }
    }

    /// `rank` takes its part of a round.
    fn take(&mut self, rank: Rank, round: usize) {
        let own = self.ways.exchange.piece(rank, rank);
        let part = self.cut.round(round, own.len);
        let input = Spot::user(rank, Buffer::Input, own.start + part.start, part.len());
        let output = Spot::user(rank, Buffer::Output, own.place + part.start, part.len());
        let senders: Vec<Rank> = self.ways.exchange.senders(rank).collect();
        if self.ways.exchange.reduces {
            let mut sources = vec![input; self.draft.ranks()];
            for from in senders {
                if let Some(spot) = self.arrive(from, rank, round) {
                    sources[from] = spot;
                }
            }
            return self.draft.reduce(rank, &sources, &[output]);
        }
        self.draft.copy(rank, input, output);
        for from in senders {
            if let Some(spot) = self.arrive(from, rank, round)
                && spot.place.slice.buffer == Buffer::Scratch
            {
                let at = self.ways.exchange.piece(from, rank).place + round * self.cut.chunk;
                self.draft.copy(rank, spot, Spot::user(rank, Buffer::Output, at, spot.len()));
            }
        }
    }

    /// Waits for what `from` gives `to` in a round, if it gives anything. What goes to its place in one is waited for last.
    fn arrive(&mut self, from: Rank, to: Rank, round: usize) -> Option<Spot> {
        let (way, piece) = self.ways.of(from, to);
        let due = match way {
            Way::Output => round + 1 == self.cut.rounds,
            _ => !self.cut.round(round, piece.len).is_empty(),
        };
        if !due {
            return None;
        }
        let (spot, token) = self.offers[from * self.draft.ranks() + to].pop_front()?;
        self.draft.wait(token);
        Some(spot)
    }
}
