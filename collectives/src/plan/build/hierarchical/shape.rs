//! Who handles what: the parts of a collective over several hosts, and the scratch that they take.

use std::ops::Range;

use crate::plan::build::draft::Spot;
use crate::plan::build::{Cut, Task, part};
use crate::plan::{Buffer, Collective, Layout, Rank};

/// The ranks of each host, in rank order; hosts in the order of their lowest rank.
pub(super) fn hosts(layout: &Layout) -> Vec<Vec<Rank>> {
    let mut hosts: Vec<Vec<Rank>> = Vec::new();
    for rank in 0..layout.ranks() {
        match hosts.iter_mut().find(|host| layout.hosts[host[0]] == layout.hosts[rank]) {
            Some(host) => host.push(rank),
            None => hosts.push(vec![rank]),
        }
    }
    hosts
}

/// Which elements a part is.
#[derive(Debug, Clone, Copy)]
enum Span {
    /// That part of every block.
    Block(usize),
    /// So many elements, cut into rounds by themselves.
    Own(usize),
}

/// Elements that go the same way.
#[derive(Debug)]
pub(super) struct Part {
    span: Span,
    /// Where its elements begin in inputs and in outputs.
    input: usize,
    output: usize,
    /// By host: who reduces it there, and talks to other hosts.
    pub(super) handlers: Vec<Rank>,
    /// Hosts whose handlers make the result.
    pub(super) finals: Vec<usize>,
    /// Whose output gets it; none where everybody's does.
    only: Option<Rank>,
}

impl Part {
    /// Whether it belongs to the output of `rank`.
    pub(super) fn lands(&self, rank: Rank) -> bool {
        self.only.is_none_or(|only| only == rank)
    }
}

/// How a collective goes over several hosts.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) hosts: Vec<Vec<Rank>>,
    /// By rank.
    pub(super) host: Vec<usize>,
    pub(super) parts: Vec<Part>,
    pub(super) reduces: bool,
    /// Elements that are cut into rounds: those of the longest part.
    pub(super) total: usize,
    /// Parts of a block.
    blocks: usize,
    /// Elements of everything, where that is cut into blocks.
    count: usize,
    align: usize,
}

impl Shape {
    /// None where the collective has no such way.
    pub(super) fn new(task: &Task<'_>, hosts: Vec<Vec<Rank>>) -> Option<Self> {
        let mut host = vec![0; task.ranks()];
        for (i, ranks) in hosts.iter().enumerate() {
            ranks.iter().for_each(|&rank| host[rank] = i);
        }
        let (reduces, align) = (task.collective.reduces(), task.align());
        let empty = Self { hosts, host, parts: Vec::new(), reduces, total: 0, blocks: 1, count: 0, align };
        match task.collective {
            Collective::AllReduce { count } => {
                // Two hosts exchange all they have; more of them share the work where it is not small.
                let large = count.saturating_mul(task.element_bytes) > task.tuning.chunk_bytes;
                let makers = if empty.hosts.len() > 2 && large { empty.hosts.len() } else { 1 };
                Some(empty.of_blocks(*count, makers, None))
            }
            Collective::Reduce { root, count } => Some(empty.of_blocks(*count, 1, Some(*root))),
            Collective::Broadcast { root, count } => {
                let part = Part { only: None, ..empty.part_of(*root, *count, 0) };
                Some(Self { parts: vec![part], total: *count, ..empty })
            }
            Collective::ReduceScatter { parts } | Collective::AllGather { parts } => {
                let mut start = 0;
                let part = |(rank, len): (Rank, &usize)| {
                    start += len;
                    let part = empty.part_of(rank, *len, start - len);
                    // An input of all parts and outputs of one each, or the other way round.
                    if reduces { part } else { Part { input: 0, output: part.input, only: None, ..part } }
                };
                let all: Vec<Part> = parts.iter().enumerate().map(part).collect();
                Some(Self { parts: all, total: parts.iter().copied().max().unwrap_or(0), ..empty })
            }
            _ => None,
        }
    }

    /// Blocks of as many parts as the largest host has ranks, shared evenly by the ranks of each host. The results are made
    /// for `root`, or by all hosts, or in turn by one of `makers` hosts.
    fn of_blocks(self, count: usize, makers: usize, root: Option<Rank>) -> Self {
        let most = self.hosts.iter().map(Vec::len).max().unwrap_or(1);
        let blocks = most * makers;
        let part = |index: usize| {
            let handler = |ranks: &Vec<Rank>| ranks[index / makers * ranks.len() / most];
            let finals = match root {
                Some(root) => vec![self.host[root]],
                None if makers == 1 => (0..self.hosts.len()).collect(),
                None => vec![index % makers],
            };
            let handlers = self.hosts.iter().map(handler).collect();
            Part { span: Span::Block(index), input: 0, output: 0, handlers, finals, only: root }
        };
        let parts = (0..blocks).map(part).collect();
        Self { parts, total: count.div_ceil(blocks), blocks, count, ..self }
    }

    /// A part of `len` elements that belongs to `rank`: that rank handles it, and on other hosts those in its place.
    fn part_of(&self, rank: Rank, len: usize, input: usize) -> Part {
        let host = self.host[rank];
        let place = self.hosts[host].iter().position(|&one| one == rank).unwrap_or(0);
        let mut handlers: Vec<Rank> = self.hosts.iter().map(|ranks| ranks[place % ranks.len()]).collect();
        handlers[host] = rank;
        Part { span: Span::Own(len), input, output: 0, handlers, finals: vec![host], only: Some(rank) }
    }

    /// The elements of a part in a round: counted from its beginning in a buffer.
    fn range(&self, of: &Part, cut: &Cut, round: usize) -> Range<usize> {
        match of.span {
            Span::Own(len) => cut.round(round, len),
            Span::Block(index) => {
                let at = |round: usize| (round * cut.chunk * self.blocks).min(self.count);
                part(at(round)..at(round + 1), index, self.blocks, self.align)
            }
        }
    }

    /// The elements of a part in a round, in the input or output of `rank`.
    pub(super) fn user(&self, of: &Part, rank: Rank, buffer: Buffer, cut: &Cut, round: usize) -> Spot {
        let range = self.range(of, cut, round);
        let start = if buffer == Buffer::Input { of.input } else { of.output };
        Spot::user(rank, buffer, start + range.start, range.len())
    }

    /// The most elements that a part has in a round of `chunk` elements, rounded up.
    fn most(&self, of: &Part, chunk: usize) -> usize {
        let len = match of.span {
            Span::Own(len) => len.min(chunk),
            Span::Block(_) => chunk,
        };
        len.next_multiple_of(self.align)
    }
}

/// Where a part is in scratch, in one slot.
#[derive(Debug)]
pub(super) struct Cells {
    /// By rank: its input for its handler, in its own scratch or the handler's.
    pub(super) offers: Vec<Option<Spot>>,
    /// By host: what the handler has reduced.
    pub(super) partials: Vec<Option<Spot>>,
    /// By host, and host that makes the result: the partial result that came from there.
    pub(super) far: Vec<Option<Spot>>,
    /// By rank: the result, for others to read.
    pub(super) staged: Vec<Option<Spot>>,
    /// By rank: the result that was put there.
    pub(super) inboxes: Vec<Option<Spot>>,
}

impl Cells {
    /// Finds places for `part` in rounds of `chunk` elements; `place` makes one of that length in the scratch of a rank.
    pub(super) fn new(
        task: &Task<'_>,
        shape: &Shape,
        part: &Part,
        chunk: usize,
        place: &mut dyn FnMut(Rank, usize) -> Spot,
    ) -> Self {
        let (ranks, hosts) = (task.ranks(), shape.hosts.len());
        let len = shape.most(part, chunk);
        let reach = |one: Rank, other: Rank| task.layout.reach(one, other);
        let mut cells = Self {
            offers: vec![None; ranks],
            partials: vec![None; hosts],
            far: vec![None; hosts * hosts],
            staged: vec![None; ranks],
            inboxes: vec![None; ranks],
        };
        for host in (0..hosts).filter(|_| shape.reduces) {
            let handler = part.handlers[host];
            for &rank in shape.hosts[host].iter().filter(|&&rank| rank != handler) {
                let owner = if reach(handler, rank).load_scratch { rank } else { handler };
                cells.offers[rank] = Some(place(owner, len));
            }
            let others = || part.finals.iter().filter(move |&&it| it != host);
            let read = |it: &usize| reach(handler, part.handlers[*it]).load_scratch;
            if shape.hosts[host].len() > 1 || others().any(read) {
                cells.partials[host] = Some(place(handler, len));
            }
            for &it in others() {
                cells.far[host * hosts + it] =
                    if read(&it) { cells.partials[host] } else { Some(place(part.handlers[it], len)) };
            }
        }
        for (host, &giver) in part.handlers.iter().enumerate() {
            let mut read = false;
            let mut given = false;
            for to in receivers(shape, part, host) {
                let reach = reach(giver, to);
                given = true;
                read |= reach.load_scratch;
                let in_place = reach.put_output && part.lands(to);
                if !(reach.load_scratch || in_place) {
                    cells.inboxes[to] = Some(place(to, len));
                }
            }
            // A relay that got it in scratch has it there for others too; those are seen to before, or after.
            if read || given && !part.lands(giver) {
                cells.staged[giver] = Some(place(giver, len));
            }
        }
        cells
    }

    /// Elements that a slot takes at the rank that needs the most.
    pub(super) fn size(task: &Task<'_>, shape: &Shape, chunk: usize) -> usize {
        let mut used = vec![0; task.ranks()];
        for part in &shape.parts {
            Self::new(task, shape, part, chunk, &mut |rank, len| {
                used[rank] += len;
                Spot::user(rank, Buffer::Scratch, 0, len)
            });
        }
        used.into_iter().max().unwrap_or(0)
    }
}

/// Whom the handler of `host` gives the result of `part` to: its neighbours, and handlers that do not make it.
pub(super) fn receivers(shape: &Shape, part: &Part, host: usize) -> Vec<Rank> {
    let giver = part.handlers[host];
    let makes = part.finals.contains(&host);
    if !makes && part.only.is_some() {
        return Vec::new();
    }
    let far = (0..shape.hosts.len()).filter(|it| makes && part.only.is_none() && !part.finals.contains(it));
    let far = far.map(|it| part.handlers[it]);
    let near = shape.hosts[host].iter().copied().filter(|&rank| rank != giver && part.lands(rank));
    far.chain(near).collect()
}
