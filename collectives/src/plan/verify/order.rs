//! Who knows what: vector clocks over program order, signals, packets and exposes.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::plan::Rank;

/// What carries an order from one rank to another; each kind is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plan) enum Kind {
    Signal,
    Packet,
    Expose,
}

impl Kind {
    pub(in crate::plan) const ALL: [Self; 3] = [Self::Signal, Self::Packet, Self::Expose];

    pub(in crate::plan) fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Packet => "packet",
            Self::Expose => "expose",
        }
    }
}

/// A read or a write by a step. Those of a put last until the receiver knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plan) struct Access {
    pub(in crate::plan) rank: u32,
    pub(in crate::plan) step: u32,
    /// For puts: who receives, and which of its waits for signals of `rank` says that the data is there.
    pub(in crate::plan) arrival: Option<(u32, u32)>,
}

#[derive(Debug)]
struct Message {
    /// The clock of the sender, but for its own entry, which is `over`.
    clock: Rc<[u32]>,
    over: u32,
    depth: usize,
}

/// The clocks of a group. Where `knows` says yes, the step is over and its effects can be seen.
#[derive(Debug)]
pub(in crate::plan) struct Order {
    ranks: usize,
    /// `clocks[r][q]`: how many steps of `q` are over for all that `r` knows; `clocks[r][r]` is the next step of `r`.
    clocks: Vec<Vec<u32>>,
    /// The clocks as they were sent last: until a rank waits, only its own entry changes.
    sent_clocks: Vec<Option<Rc<[u32]>>>,
    queues: [Vec<VecDeque<Message>>; 3],
    /// By pair: the steps at which the signals were waited for.
    arrivals: Vec<Vec<u32>>,
    /// By pair: signals sent.
    sent: Vec<u32>,
    /// The longest chain of signals that ends at each rank.
    depths: Vec<usize>,
}

impl Order {
    pub(in crate::plan) fn new(ranks: usize) -> Self {
        let queues = || (0..ranks * ranks).map(|_| VecDeque::new()).collect();
        Self {
            ranks,
            clocks: vec![vec![0; ranks]; ranks],
            sent_clocks: vec![None; ranks],
            queues: [queues(), queues(), queues()],
            arrivals: vec![Vec::new(); ranks * ranks],
            sent: vec![0; ranks * ranks],
            depths: vec![0; ranks],
        }
    }

    /// The next step of `rank`.
    pub(in crate::plan) fn step(&self, rank: Rank) -> usize {
        self.clocks[rank][rank] as usize
    }

    /// Ends a step of `rank`.
    pub(in crate::plan) fn advance(&mut self, rank: Rank) {
        self.clocks[rank][rank] += 1;
    }

    /// An access that the current step of `rank` makes at once.
    pub(in crate::plan) fn access(&self, rank: Rank) -> Access {
        Access { rank: rank as u32, step: self.clocks[rank][rank], arrival: None }
    }

    /// An access by a put to `to`.
    pub(in crate::plan) fn put(&self, rank: Rank, to: Rank) -> Access {
        Access { arrival: Some((to as u32, self.sent[self.pair(rank, to)])), ..self.access(rank) }
    }

    /// The current step of `from` tells `to` something.
    pub(in crate::plan) fn send(&mut self, kind: Kind, from: Rank, to: Rank) {
        let pair = self.pair(from, to);
        let now = &self.clocks[from];
        let clock = Rc::clone(self.sent_clocks[from].get_or_insert_with(|| Rc::from(now.as_slice())));
        let message = Message { clock, over: now[from] + 1, depth: self.depths[from] + 1 };
        self.queues[kind as usize][pair].push_back(message);
        if kind == Kind::Signal {
            self.sent[pair] += 1;
        }
    }

    /// The current step of `to` takes what `from` told it, if that is there.
    pub(in crate::plan) fn take(&mut self, kind: Kind, from: Rank, to: Rank) -> bool {
        let pair = self.pair(from, to);
        let Some(message) = self.queues[kind as usize][pair].pop_front() else { return false };
        for (mine, theirs) in self.clocks[to].iter_mut().zip(message.clock.iter()) {
            *mine = (*mine).max(*theirs);
        }
        self.clocks[to][from] = self.clocks[to][from].max(message.over);
        self.sent_clocks[to] = None;
        if kind == Kind::Signal {
            self.arrivals[pair].push(self.clocks[to][to]);
        }
        self.depths[to] = self.depths[to].max(message.depth);
        true
    }

    /// What was sent and not taken.
    pub(in crate::plan) fn left(&self, kind: Kind, from: Rank, to: Rank) -> usize {
        self.queues[kind as usize][self.pair(from, to)].len()
    }

    /// Whether `rank` knows, at its current step, that a step of `other` is over.
    pub(in crate::plan) fn knows(&self, rank: Rank, other: Rank, step: u32) -> bool {
        rank == other || self.clocks[rank][other] > step
    }

    /// Whether `rank` knows, at its current step, that `access` is over.
    pub(in crate::plan) fn over(&self, rank: Rank, access: Access) -> bool {
        match access.arrival {
            None => self.knows(rank, access.rank as usize, access.step),
            Some((to, nth)) => {
                let pair = self.pair(access.rank as usize, to as usize);
                self.arrivals[pair].get(nth as usize).is_some_and(|&step| self.knows(rank, to as usize, step))
            }
        }
    }

    /// The longest chain of signals.
    pub(in crate::plan) fn depth(&self) -> usize {
        self.depths.iter().copied().max().unwrap_or(0)
    }

    fn pair(&self, from: Rank, to: Rank) -> usize {
        from * self.ranks + to
    }
}
