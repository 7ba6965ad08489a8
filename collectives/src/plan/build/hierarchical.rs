//! Inside each host first, then between hosts, then inside again.
//!
//! What moves is cut into parts. On every host a part has a handler, which reduces it for that host; between hosts only
//! handlers talk, so that all ranks of a host share the network. The handlers of one host, or of several, make the final
//! result of a part and hand it out: to their neighbours, and to the handlers of hosts that have none, which do likewise.
//! Rounds follow each other closely: while one is between hosts, the next is inside.

mod shape;

use std::collections::HashMap;

use self::shape::{Cells, Part, Shape, hosts, receivers};
use super::draft::{Draft, Grid, Spot, Token};
use super::exchange::others;
use super::{BuildError, Cut, Ready, Task};
use crate::plan::{Buffer, Collective, Plan, Rank};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    let hosts = hosts(task.layout);
    if hosts.len() == 1 {
        return Err(task.undefined("there is one host only"));
    }
    if *task.collective == Collective::Barrier {
        return Ok(Box::new(move || barrier(task, &hosts)));
    }
    let Some(shape) = Shape::new(task, hosts) else {
        return Err(task.undefined("it is for collectives of which all ranks have all, and for reductions"));
    };
    let cut = task.cut(shape.total, |chunk| Cells::size(task, &shape, chunk), 1, &[6, 4, 3, 1])?;
    Ok(Box::new(move || build(task, &shape, cut)))
}

fn build(task: &Task<'_>, shape: &Shape, cut: Cut) -> Plan {
    let mut draft = Draft::new(task.layout, Grid::default());
    let mut used = vec![0; task.ranks()];
    let mut place = |rank: Rank, len: usize| {
        used[rank] += len;
        draft.reserve(rank, used[rank] - len, len)
    };
    let slots = 0..cut.slots.min(cut.rounds);
    let slot = |_| shape.parts.iter().map(|part| Cells::new(task, shape, part, cut.stride, &mut place)).collect();
    let cells: Vec<Vec<Cells>> = slots.map(slot).collect();
    let mut all = Hierarchical { shape, cells: &cells, cut, draft, tokens: HashMap::new() };
    let phases: [fn(&mut _, usize); 5] =
        [Hierarchical::gather, Hierarchical::between, Hierarchical::finish, Hierarchical::relay, Hierarchical::collect];
    // A round is in its next phase when the one behind it has been in this one: so messages have some time to arrive.
    // A result is read two phases after it was made, so with fewer slots the next one would be written over it.
    let lag = usize::from(cut.slots > 2 && cut.rounds > 1);
    for time in 0..cut.rounds + lag * (phases.len() - 1) {
        for (i, phase) in phases.iter().enumerate() {
            if time >= lag * i && time - lag * i < cut.rounds {
                phase(&mut all, time - lag * i);
            }
        }
    }
    task.finish(all.draft)
}

/// What a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Offer,
    Partial,
    Result,
}

/// What a rank gives another one: a put, or what that one reads by itself.
struct Gift {
    to: Rank,
    put: Option<(Spot, Spot)>,
}

struct Hierarchical<'a> {
    shape: &'a Shape,
    /// By slot and part.
    cells: &'a [Vec<Cells>],
    cut: Cut,
    draft: Draft<'a>,
    tokens: HashMap<(Purpose, usize, Rank, Rank), Option<Token>>,
}

impl<'a> Hierarchical<'a> {
    /// Everybody gives the handlers on its host their parts.
    fn gather(&mut self, round: usize) {
        for rank in 0..self.draft.ranks() {
            let mut gifts = Vec::new();
            for (part, cells) in self.parts(round) {
                let to = part.handlers[self.shape.host[rank]];
                let input = self.user(part, rank, Buffer::Input, round);
                if let Some(cell) = cells.offers[rank]
                    && input.len() > 0
                {
                    gifts.push(self.offer(rank, to, input, cell.part(0, input.len())));
                }
            }
            self.give(Purpose::Offer, round, rank, gifts);
        }
    }

    /// Handlers reduce what is on their host, and give it to those who make the result.
    fn between(&mut self, round: usize) {
        let hosts = self.shape.hosts.len();
        for rank in 0..self.draft.ranks() {
            let host = self.shape.host[rank];
            let mut gifts = Vec::new();
            for (part, cells) in self.parts(round).filter(|(part, _)| part.handlers[host] == rank) {
                let input = self.user(part, rank, Buffer::Input, round);
                if !self.shape.reduces || input.len() == 0 {
                    continue;
                }
                let mut partial = input;
                if let Some(cell) = cells.partials[host] {
                    let mut sources = Vec::new();
                    for &from in &self.shape.hosts[host] {
                        self.await_from(Purpose::Offer, round, from, rank);
                        sources.push(cells.offers[from].map_or(input, |spot| spot.part(0, input.len())));
                    }
                    partial = cell.part(0, input.len());
                    self.draft.reduce(rank, &sources, &[partial]);
                }
                for &it in part.finals.iter().filter(|&&it| it != host) {
                    if let Some(far) = cells.far[host * hosts + it].map(|spot| spot.part(0, input.len())) {
                        let to = part.handlers[it];
                        let read = far.place.rank == rank;
                        gifts.push(Gift { to, put: (!read).then_some((partial, far)) });
                    }
                }
            }
            self.give(Purpose::Partial, round, rank, gifts);
        }
    }

    /// The result of each part is made, and handed out.
    fn finish(&mut self, round: usize) {
        let hosts = self.shape.hosts.len();
        for rank in 0..self.draft.ranks() {
            let host = self.shape.host[rank];
            let mut gifts = Vec::new();
            let mine = |part: &Part| part.handlers[host] == rank && part.finals.contains(&host);
            for (part, cells) in self.parts(round).filter(|(part, _)| mine(part)) {
                let input = self.user(part, rank, Buffer::Input, round);
                if input.len() == 0 {
                    continue;
                }
                let mut sources = vec![input];
                if self.shape.reduces {
                    sources.clear();
                    for from in 0..hosts {
                        self.await_from(Purpose::Partial, round, part.handlers[from], rank);
                        let spot = if from == host { cells.partials[host] } else { cells.far[from * hosts + host] };
                        sources.push(spot.map_or(input, |spot| spot.part(0, input.len())));
                    }
                }
                let mut places = Vec::new();
                if part.lands(rank) {
                    places.push(self.user(part, rank, Buffer::Output, round));
                }
                places.extend(cells.staged[rank].map(|spot| spot.part(0, input.len())));
                if self.shape.reduces {
                    self.draft.reduce(rank, &sources, &places);
                } else {
                    places.into_iter().for_each(|place| self.draft.copy(rank, input, place));
                }
                self.hand_out(part, cells, host, round, &mut gifts);
            }
            self.give(Purpose::Result, round, rank, gifts);
        }
    }

    /// Handlers on other hosts take the result and hand it out there.
    fn relay(&mut self, round: usize) {
        for rank in 0..self.draft.ranks() {
            let host = self.shape.host[rank];
            let mut gifts = Vec::new();
            let mine = |part: &Part| part.handlers[host] == rank && !part.finals.contains(&host) && part.lands(rank);
            for (part, cells) in self.parts(round).filter(|(part, _)| mine(part)) {
                let output = self.user(part, rank, Buffer::Output, round);
                if output.len() == 0 {
                    continue;
                }
                self.take(part, cells, part.handlers[part.finals[0]], rank, round);
                if let Some(staged) = cells.staged[rank] {
                    self.draft.copy(rank, output, staged.part(0, output.len()));
                }
                self.hand_out(part, cells, host, round, &mut gifts);
            }
            self.give(Purpose::Result, round, rank, gifts);
        }
    }

    /// Everybody else takes the result from the handler on its host.
    fn collect(&mut self, round: usize) {
        for rank in 0..self.draft.ranks() {
            for (part, cells) in self.parts(round) {
                let from = part.handlers[self.shape.host[rank]];
                let some = self.user(part, rank, Buffer::Output, round).len() > 0;
                if some && from != rank && part.lands(rank) {
                    self.take(part, cells, from, rank, round);
                }
            }
        }
    }

    fn hand_out(&self, part: &Part, cells: &Cells, host: usize, round: usize, gifts: &mut Vec<Gift>) {
        let giver = part.handlers[host];
        let output = self.user(part, giver, Buffer::Output, round);
        for to in receivers(self.shape, part, host) {
            let reach = self.draft.reach(giver, to);
            if reach.load_scratch {
                gifts.push(Gift { to, put: None });
                continue;
            }
            let from = match cells.staged[giver] {
                Some(staged) if !part.lands(giver) => staged.part(0, output.len()),
                _ => output,
            };
            let there = match cells.inboxes[to] {
                Some(inbox) => inbox.part(0, output.len()),
                None => self.user(part, to, Buffer::Output, round),
            };
            gifts.push(Gift { to, put: Some((from, there)) });
        }
    }

    /// `rank` waits for the result of a part, and copies it where it is not in its place.
    fn take(&mut self, part: &Part, cells: &Cells, from: Rank, rank: Rank, round: usize) {
        self.await_from(Purpose::Result, round, from, rank);
        let output = self.user(part, rank, Buffer::Output, round);
        let read = if self.draft.reach(rank, from).load_scratch { cells.staged[from] } else { cells.inboxes[rank] };
        if let Some(spot) = read {
            self.draft.copy(rank, spot.part(0, output.len()), output);
        }
    }

    /// What `rank` has in its input goes to `to`, through a cell of the one or the other.
    fn offer(&mut self, rank: Rank, to: Rank, input: Spot, cell: Spot) -> Gift {
        if cell.place.rank == rank {
            self.draft.copy(rank, input, cell);
            Gift { to, put: None }
        } else {
            Gift { to, put: Some((input, cell)) }
        }
    }

    /// Sends the gifts of a rank, with one signal to each who gets any.
    fn give(&mut self, purpose: Purpose, round: usize, rank: Rank, gifts: Vec<Gift>) {
        let ranks = self.draft.ranks();
        for to in others(rank, ranks) {
            let mut puts: Vec<(Spot, Spot)> = Vec::new();
            let mut any = false;
            for gift in gifts.iter().filter(|gift| gift.to == to) {
                puts.extend(gift.put);
                any = true;
            }
            let last = puts.pop();
            puts.into_iter().for_each(|(from, there)| self.draft.put_quietly(from, there));
            let token = match last {
                Some((from, there)) => self.draft.put(from, there),
                None if any => self.draft.signal(rank, to),
                None => continue,
            };
            self.tokens.insert((purpose, round, rank, to), token);
        }
    }

    fn await_from(&mut self, purpose: Purpose, round: usize, from: Rank, to: Rank) {
        let token = self.tokens.get(&(purpose, round, from, to)).copied().flatten();
        self.draft.wait(token);
    }

    fn parts(&self, round: usize) -> impl Iterator<Item = (&'a Part, &'a Cells)> + use<'a> {
        self.shape.parts.iter().zip(&self.cells[round % self.cells.len()])
    }

    fn user(&self, part: &Part, rank: Rank, buffer: Buffer, round: usize) -> Spot {
        self.shape.user(part, rank, buffer, &self.cut, round)
    }
}

/// Everybody signals the first rank of its host, those signal each other, and then everybody on their host.
fn barrier(task: &Task<'_>, hosts: &[Vec<Rank>]) -> Plan {
    let mut draft = Draft::new(task.layout, Grid::default());
    let within: Vec<(Rank, Rank)> =
        hosts.iter().flat_map(|host| host[1..].iter().map(|&rank| (rank, host[0]))).collect();
    let between: Vec<(Rank, Rank)> = (0..hosts.len())
        .flat_map(|host| others(host, hosts.len()).map(move |other| (hosts[host][0], hosts[other][0])))
        .collect();
    let back = within.iter().map(|&(rank, leader)| (leader, rank)).collect();
    for pairs in [within, between, back] {
        let tokens: Vec<_> = pairs.into_iter().map(|(from, to)| draft.signal(from, to)).collect();
        tokens.into_iter().for_each(|token| draft.wait(token));
    }
    task.finish(draft)
}
