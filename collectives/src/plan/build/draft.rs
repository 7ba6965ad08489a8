//! A plan that grows: steps are added in an order in which they could run one after the other.
//!
//! Because a step is added after everything that it waits for, no such plan can block. The draft keeps account of who
//! reads which cell of scratch, and before somebody writes there again it has the readers' next signals waited for, or
//! adds a signal where there is none. So a builder states what moves, and when the data is there; where symmetric traffic
//! already proves that a cell is free, nothing is added.

use crate::plan::verify::order::{Access, Kind, Order};
use crate::plan::{Algorithm, Buffer, Collective, Layout, Place, Plan, Rank, Reach, Slice, Step};

/// A piece of memory that a step reads or writes, and the cell it is in, where it is in scratch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) place: Place,
    cell: Option<usize>,
}

impl Spot {
    /// In an input, an output or a packet of `rank`. A builder writes every element of an output once.
    pub(super) fn user(rank: Rank, buffer: Buffer, start: usize, len: usize) -> Self {
        Self { place: Slice { buffer, start, len }.of(rank), cell: None }
    }

    /// `len` elements of it, from its `start` on.
    pub(super) fn part(self, start: usize, len: usize) -> Self {
        let slice = Slice { start: self.place.slice.start + start, len, ..self.place.slice };
        Self { place: slice.of(self.place.rank), ..self }
    }

    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.place.slice.len
    }
}

/// A signal that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    from: Rank,
    to: Rank,
    nth: usize,
}

/// Scratch of each rank as `slots` times `areas` cells of `stride` elements, the same on every rank.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Grid {
    pub(super) slots: usize,
    pub(super) areas: usize,
    pub(super) stride: usize,
}

/// A use of some elements of a cell.
#[derive(Debug)]
struct Use {
    start: usize,
    end: usize,
    access: Access,
}

/// The programs so far.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    layout: &'a Layout,
    grid: Grid,
    programs: Vec<Vec<Step>>,
    order: Order,
    /// By cell: reads since the elements were last written, puts from them included.
    uses: Vec<Vec<Use>>,
    /// By pair: the steps that signalled.
    signals: Vec<Vec<usize>>,
    /// By pair: signals waited for, as the steps that waited.
    waits: Vec<Vec<usize>>,
    /// Elements of scratch that are used.
    scratch: usize,
}

impl<'a> Draft<'a> {
    pub(super) fn new(layout: &'a Layout, grid: Grid) -> Self {
        let ranks = layout.ranks();
        Self {
            layout,
            grid,
            programs: vec![Vec::new(); ranks],
            order: Order::new(ranks),
            uses: (0..ranks * grid.slots * grid.areas).map(|_| Vec::new()).collect(),
            signals: vec![Vec::new(); ranks * ranks],
            waits: vec![Vec::new(); ranks * ranks],
            scratch: 0,
        }
    }

    pub(super) fn ranks(&self) -> usize {
        self.programs.len()
    }

    pub(super) fn reach(&self, one: Rank, other: Rank) -> Reach {
        self.layout.reach(one, other)
    }

    /// The first `len` elements from a cell of `rank` on. Where that is more than a cell, the others are not used.
    pub(super) fn cell(&self, rank: Rank, round: usize, area: usize, len: usize) -> Spot {
        let Grid { slots, areas, stride } = self.grid;
        let index = round % slots * areas + area;
        let slice = Slice { buffer: Buffer::Scratch, start: index * stride, len };
        Spot { place: slice.of(rank), cell: Some(rank * slots * areas + index) }
    }

    /// Makes a cell of these elements of the scratch of `rank`; no other cell has any of them.
    pub(super) fn reserve(&mut self, rank: Rank, start: usize, len: usize) -> Spot {
        self.uses.push(Vec::new());
        let slice = Slice { buffer: Buffer::Scratch, start, len };
        Spot { place: slice.of(rank), cell: Some(self.uses.len() - 1) }
    }

    /// Adds a copy by `rank` into its own memory.
    pub(super) fn copy(&mut self, rank: Rank, from: Spot, to: Spot) {
        if from.len() > 0 {
            self.settle(rank, to);
            self.uses(from, self.order.access(rank));
            self.push(rank, Step::Copy { from: from.place, to: to.place.slice });
        }
    }

    /// Adds a reduction by `rank`; one of a single source is a copy, where it can be one.
    pub(super) fn reduce(&mut self, rank: Rank, from: &[Spot], to: &[Spot]) {
        if let ([from], [to]) = (from, to)
            && to.place.rank == rank
        {
            return self.copy(rank, *from, *to);
        }
        if to[0].len() > 0 {
            to.iter().for_each(|to| self.settle(rank, *to));
            from.iter().for_each(|from| self.uses(*from, self.order.access(rank)));
            let places = |spots: &[Spot]| spots.iter().map(|spot| spot.place).collect();
            self.push(rank, Step::Reduce { from: places(from), to: places(to) });
        }
    }

    /// Adds a put of its own memory by a rank, with a signal. Nothing where there is nothing to put.
    pub(super) fn put(&mut self, from: Spot, to: Spot) -> Option<Token> {
        if from.len() == 0 {
            return None;
        }
        let step = self.before_put(from, to, true);
        self.send(from.place.rank, to.place.rank, step)
    }

    /// Adds a put whose signal is a later one of the same pair.
    pub(super) fn put_quietly(&mut self, from: Spot, to: Spot) {
        if from.len() > 0 {
            let step = self.before_put(from, to, false);
            self.push(from.place.rank, step);
        }
    }

    /// Adds a signal.
    pub(super) fn signal(&mut self, from: Rank, to: Rank) -> Option<Token> {
        self.send(from, to, Step::Signal { to })
    }

    /// Adds the waits, if any, that it takes to know of the signal.
    pub(super) fn wait(&mut self, token: Option<Token>) {
        let Some(Token { from, to, nth }) = token else { return };
        let pair = self.pair(from, to);
        while self.waits[pair].len() <= nth {
            self.order.take(Kind::Signal, from, to);
            self.waits[pair].push(self.programs[to].len());
            self.push(to, Step::Wait { from });
        }
    }

    /// Adds a step that is none of the above. It may use no cell.
    pub(super) fn push(&mut self, rank: Rank, step: Step) {
        match &step {
            Step::Expose { to } => self.order.send(Kind::Expose, rank, *to),
            Step::Packet { to, .. } => self.order.send(Kind::Packet, rank, *to),
            Step::Meet { from } => drop(self.order.take(Kind::Expose, *from, rank)),
            Step::WaitPacket { from } => drop(self.order.take(Kind::Packet, *from, rank)),
            _ => {}
        }
        self.order.advance(rank);
        self.programs[rank].push(step);
    }

    /// The plan. All tokens have been waited for.
    pub(super) fn finish(mut self, collective: &Collective, algorithm: Algorithm, element_bytes: usize) -> Plan {
        self.merge();
        let collective = collective.clone();
        Plan { collective, algorithm, element_bytes, scratch: self.scratch, programs: self.programs }
    }

    /// Where a rank waits for two signals of another one with nothing but waits in between, the first is superfluous: the
    /// second says the same and more.
    fn merge(&mut self) {
        let ranks = self.ranks();
        let mut kept: Vec<Vec<bool>> = self.programs.iter().map(|program| vec![true; program.len()]).collect();
        // Up to where there are only waits, from each step on.
        let only_waits: Vec<Vec<usize>> = self.programs.iter().map(|program| only_waits(program)).collect();
        for (from, to) in (0..ranks).flat_map(|from| (0..ranks).map(move |to| (from, to))) {
            let pair = self.pair(from, to);
            for (waits, &signal) in self.waits[pair].windows(2).zip(&self.signals[pair]) {
                if only_waits[to][waits[0]] < waits[1] {
                    continue;
                }
                kept[to][waits[0]] = false;
                match &mut self.programs[from][signal] {
                    Step::Put { signal, .. } => *signal = false,
                    _ => kept[from][signal] = false,
                }
            }
        }
        for (program, kept) in self.programs.iter_mut().zip(kept) {
            let mut kept = kept.into_iter();
            program.retain(|_| kept.next().unwrap_or(true));
        }
    }

    fn send(&mut self, from: Rank, to: Rank, step: Step) -> Option<Token> {
        let pair = self.pair(from, to);
        let nth = self.signals[pair].len();
        self.signals[pair].push(self.programs[from].len());
        self.order.send(Kind::Signal, from, to);
        self.push(from, step);
        Some(Token { from, to, nth })
    }

    fn before_put(&mut self, from: Spot, to: Spot, signal: bool) -> Step {
        let (rank, peer) = (from.place.rank, to.place.rank);
        self.settle(rank, to);
        self.uses(from, self.order.put(rank, peer));
        Step::Put { from: from.place.slice, to: to.place, signal }
    }

    /// `spot` is read, or put from.
    fn uses(&mut self, spot: Spot, access: Access) {
        if let Some(cell) = spot.cell {
            let range = spot.place.slice.range();
            self.uses[cell].push(Use { start: range.start, end: range.end, access });
        }
    }

    /// Sees to it that `rank`, before it writes to `spot`, knows of all uses of it.
    fn settle(&mut self, rank: Rank, spot: Spot) {
        let Some(cell) = spot.cell else { return };
        let range = spot.place.slice.range();
        self.scratch = self.scratch.max(range.end);
        let overlaps = |it: &mut Use| it.start < range.end && range.start < it.end;
        for Use { start, end, access } in self.uses[cell].extract_if(.., overlaps).collect::<Vec<_>>() {
            // What is not overwritten stays in use.
            for (start, end) in [(start, range.start), (range.end, end)] {
                if start < end {
                    self.uses[cell].push(Use { start, end, access });
                }
            }
            if self.order.over(rank, access) {
                continue;
            }
            let user = access.rank as usize;
            let (user, step) = match access.arrival {
                None => (user, access.step as usize),
                Some((to, nth)) => {
                    let (to, nth) = (to as usize, nth as usize);
                    self.wait(Some(Token { from: user, to, nth }));
                    (to, self.waits[self.pair(user, to)][nth])
                }
            };
            if user == rank {
                continue;
            }
            let pair = self.pair(user, rank);
            let nth = self.signals[pair].partition_point(|&at| at <= step);
            let token = if nth < self.signals[pair].len() {
                Some(Token { from: user, to: rank, nth })
            } else {
                self.signal(user, rank)
            };
            self.wait(token);
        }
    }

    fn pair(&self, from: Rank, to: Rank) -> usize {
        from * self.programs.len() + to
    }
}

/// For each step, the first step from there on that is not a wait.
fn only_waits(program: &[Step]) -> Vec<usize> {
    let mut end = program.len();
    let mut ends: Vec<usize> = (0..program.len())
        .rev()
        .map(|at| {
            if !matches!(program[at], Step::Wait { .. }) {
                end = at;
            }
            end
        })
        .collect();
    ends.reverse();
    ends
}
