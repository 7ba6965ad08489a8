//! What has to go from whom to whom, for collectives that one exchange carries out.

use crate::plan::{Collective, Rank};

/// Elements that one rank has for another (or for itself).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where they begin in the sender's input.
    pub(super) start: usize,
    /// How many.
    pub(super) len: usize,
    /// Where they begin in the receiver's output.
    pub(super) place: usize,
}

/// The pieces of a collective. Where it reduces, a receiver's pieces are as long as its output, and reduced.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) ranks: usize,
    /// By sender and receiver.
    pieces: Vec<Piece>,
    /// Whether all receivers want the same elements of a sender.
    pub(super) shared: bool,
    pub(super) reduces: bool,
}

impl Exchange {
    pub(super) fn new(collective: &Collective, ranks: usize) -> Self {
        let mut pieces = Vec::with_capacity(ranks * ranks);
        let mut places = vec![0; ranks];
        for from in 0..ranks {
            let mut start = 0;
            for (to, place) in places.iter_mut().enumerate() {
                let only = |rank: Rank, it: Rank, len: usize| if rank == it { len } else { 0 };
                let len = match collective {
                    Collective::AllReduce { count } => *count,
                    Collective::ReduceScatter { parts } => parts[to],
                    Collective::AllGather { parts } => parts[from],
                    Collective::Broadcast { root, count } => only(*root, from, *count),
                    Collective::Reduce { root, count } => only(*root, to, *count),
                    Collective::AllToAll { counts } => counts[from][to],
                    Collective::Barrier => 0,
                    Collective::Send { from: one, to: other, count } => only(*one, from, only(*other, to, *count)),
                };
                pieces.push(Piece { start, len, place: *place });
                if !Self::same(collective) {
                    start += len;
                }
                if !collective.reduces() {
                    *place += len;
                }
            }
        }
        Self { ranks, pieces, shared: Self::same(collective), reduces: collective.reduces() }
    }

    pub(super) fn piece(&self, from: Rank, to: Rank) -> Piece {
        self.pieces[from * self.ranks + to]
    }

    /// Elements of the longest piece, one's own included.
    pub(super) fn longest(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len).max().unwrap_or(0)
    }

    /// The other ranks that `rank` has something for; the next one first, so that not all begin with the same.
    pub(super) fn receivers(&self, rank: Rank) -> impl Iterator<Item = Rank> {
        others(rank, self.ranks).filter(move |&to| self.piece(rank, to).len > 0)
    }

    /// The other ranks that have something for `rank`; in the order in which that is to be expected.
    pub(super) fn senders(&self, rank: Rank) -> impl Iterator<Item = Rank> {
        let ranks = self.ranks;
        (1..ranks).map(move |i| (rank + ranks - i) % ranks).filter(move |&from| self.piece(from, rank).len > 0)
    }

    fn same(collective: &Collective) -> bool {
        matches!(
            collective,
            Collective::AllReduce { .. }
                | Collective::AllGather { .. }
                | Collective::Broadcast { .. }
                | Collective::Reduce { .. }
                | Collective::Send { .. }
        )
    }
}

/// All ranks but `rank`, the next one first.
pub(super) fn others(rank: Rank, ranks: usize) -> impl Iterator<Item = Rank> {
    (1..ranks).map(move |i| (rank + i) % ranks)
}
