//! Around a ring: every block passes all ranks and is reduced on the way, then the results pass all ranks.
//!
//! The traffic is one sequence of items, a few chunks ("lanes") of every hop in turn. A rank takes item `q` and then
//! sends item `q + lanes`, which is the same chunk on its next hop, or the first hop of a later chunk: so the ring never
//! runs empty between chunks. Block `b` sets out at rank `b + 1` and is complete at rank `b`.

use std::ops::Range;

use super::draft::{Draft, Spot, Token};
use super::{BuildError, Cut, Ready, Task, part};
use crate::plan::{Buffer, Collective, Plan, Rank};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    let ranks = task.ranks();
    let hops = ranks - 1;
    let route = match task.collective {
        Collective::AllReduce { count } => {
            let blocks = (0..ranks).map(|rank| part(0..*count, rank, ranks, task.align())).collect();
            Route { blocks, reducing: hops, passing: hops }
        }
        Collective::ReduceScatter { parts } => Route { blocks: consecutive(parts), reducing: hops, passing: 0 },
        Collective::AllGather { parts } => Route { blocks: consecutive(parts), reducing: 0, passing: hops },
        _ => return Err(task.undefined("it is for all-reduce, reduce-scatter and all-gather")),
    };
    let longest = route.blocks.iter().map(Range::len).max().unwrap_or(0);
    let lanes = task.tuning.ahead.max(1) + 1;
    let cut = task.cut(longest, |chunk| chunk * AREAS, 4, &[2 * lanes + 2, 4, 2])?;
    Ok(Box::new(move || build(task, route, cut)))
}

fn build(task: &Task<'_>, route: Route, cut: Cut) -> Plan {
    // Twice as many slots as lanes: a cell is free again well before it is needed.
    let lanes = ((cut.slots - 1) / 2).clamp(1, cut.rounds.max(1));
    let items = cut.rounds.div_ceil(lanes) * lanes * (route.reducing + route.passing);
    let draft = Draft::new(task.layout, cut.grid(AREAS));
    let mut ring = Ring { route, chunk: cut.chunk, lanes, draft };
    ring.own();
    let mut tokens: Vec<Vec<Option<Token>>> = (0..items.min(lanes)).map(|item| ring.send(item)).collect();
    for item in 0..items {
        ring.take(item, &tokens[item]);
        if item + lanes < items {
            tokens.push(ring.send(item + lanes));
        }
    }
    task.finish(ring.draft)
}

/// What goes around.
#[derive(Debug)]
struct Route {
    /// Where the blocks are in the longer of input and output.
    blocks: Vec<Range<usize>>,
    /// Hops on which a block is reduced, and those after them on which it is passed on.
    reducing: usize,
    passing: usize,
}

fn consecutive(parts: &[usize]) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |len: &usize| {
        end += len;
        end - len..end
    };
    parts.iter().map(next).collect()
}

struct Ring<'a> {
    route: Route,
    chunk: usize,
    lanes: usize,
    draft: Draft<'a>,
}

/// Where an item is: which chunk of its block, and which hop it makes.
#[derive(Debug, Clone, Copy)]
struct Item {
    number: usize,
    chunk: usize,
    hop: usize,
}

/// The areas of a slot.
const RECEIVED: usize = 0;
const PARTIAL: usize = 1;
const AREAS: usize = 2;

impl Ring<'_> {
    fn item(&self, number: usize) -> Item {
        let hops = self.route.reducing + self.route.passing;
        let (step, lane) = (number / self.lanes, number % self.lanes);
        Item { number, chunk: step / hops * self.lanes + lane, hop: step % hops }
    }

    /// The elements that `item` carries from `rank` on, in the longer buffer.
    fn range(&self, rank: Rank, item: Item) -> Range<usize> {
        let ranks = self.route.blocks.len();
        // Hop 0 starts block b at rank b + 1; the first passing hop starts it at rank b.
        let behind = if self.route.reducing > 0 { item.hop + 1 } else { item.hop };
        let block = &self.route.blocks[(rank + 2 * ranks - behind) % ranks];
        let at = |chunk: usize| (block.start + chunk * self.chunk).min(block.end);
        at(item.chunk)..at(item.chunk + 1)
    }

    /// All ranks send an item to the next rank.
    fn send(&mut self, number: usize) -> Vec<Option<Token>> {
        let ranks = self.route.blocks.len();
        let item = self.item(number);
        (0..ranks)
            .map(|rank| {
                let next = (rank + 1) % ranks;
                let range = self.range(rank, item);
                let from = if item.hop >= self.route.reducing {
                    self.output(rank, &range)
                } else if item.hop == 0 {
                    Spot::user(rank, Buffer::Input, range.start, range.len())
                } else {
                    self.draft.cell(rank, item.number, PARTIAL, range.len())
                };
                let to = if item.hop >= self.route.reducing && self.draft.reach(rank, next).put_output {
                    self.output(next, &range)
                } else {
                    self.draft.cell(next, item.number, RECEIVED, range.len())
                };
                self.draft.put(from, to)
            })
            .collect()
    }

    /// All ranks take an item from the rank before.
    fn take(&mut self, number: usize, tokens: &[Option<Token>]) {
        let ranks = self.route.blocks.len();
        let item = self.item(number);
        for rank in 0..ranks {
            let before = (rank + ranks - 1) % ranks;
            let range = self.range(before, item);
            self.draft.wait(tokens[before]);
            let received = self.draft.cell(rank, item.number, RECEIVED, range.len());
            if item.hop >= self.route.reducing {
                if !self.draft.reach(before, rank).put_output {
                    let output = self.output(rank, &range);
                    self.draft.copy(rank, received, output);
                }
                continue;
            }
            let own = Spot::user(rank, Buffer::Input, range.start, range.len());
            let to = if item.hop + 1 == self.route.reducing {
                self.output(rank, &range)
            } else {
                self.draft.cell(rank, item.number + self.lanes, PARTIAL, range.len())
            };
            self.draft.reduce(rank, &[received, own], &[to]);
        }
    }

    /// Where nothing is reduced on the way, everybody has its own block already.
    fn own(&mut self) {
        if self.route.reducing > 0 {
            return;
        }
        for rank in 0..self.route.blocks.len() {
            let block = self.route.blocks[rank].clone();
            let input = Spot::user(rank, Buffer::Input, 0, block.len());
            self.draft.copy(rank, input, self.output(rank, &block));
        }
    }

    /// Elements of the longer buffer in the output, which has only the own block after a reduce-scatter.
    fn output(&self, rank: Rank, range: &Range<usize>) -> Spot {
        let start = if self.route.reducing > 0 && self.route.passing == 0 {
            range.start - self.route.blocks[rank].start
        } else {
            range.start
        };
        Spot::user(rank, Buffer::Output, start, range.len())
    }
}
