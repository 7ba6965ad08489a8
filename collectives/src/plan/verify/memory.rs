//! What the elements of one buffer hold, who wrote them and who has read them since.

use std::collections::BTreeMap;
use std::ops::Range;

use super::forest::Value;
use super::order::{Access, Order};
use crate::plan::Rank;

/// A run of elements with one content and one history.
#[derive(Debug, Clone)]
struct Run {
    end: usize,
    content: Option<(Value, Access)>,
    /// Since the content was written.
    reads: Vec<Access>,
}

/// A piece of what was read: the elements up to `end`, counted from the start of the slice, hold `value`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) end: usize,
    pub(super) value: Value,
}

/// Why an access was not possible.
#[derive(Debug)]
pub(super) enum Conflict {
    /// These elements hold nothing.
    Undefined(Range<usize>),
    /// Nothing orders the earlier access to these elements, a write or a read.
    Unordered { range: Range<usize>, with: Access, wrote: bool },
}

/// The elements of one buffer.
#[derive(Debug)]
pub(super) struct Memory {
    /// By first element, without gaps.
    runs: BTreeMap<usize, Run>,
}

impl Memory {
    pub(super) fn new(len: usize) -> Self {
        let mut runs = BTreeMap::new();
        if len > 0 {
            runs.insert(0, Run { end: len, content: None, reads: Vec::new() });
        }
        Self { runs }
    }

    /// `rank` reads `range` now; adds what it finds to `pieces`, which is empty before.
    pub(super) fn read(
        &mut self,
        range: Range<usize>,
        rank: Rank,
        access: Access,
        order: &Order,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Conflict> {
        self.cut(&range);
        for (&start, run) in self.runs.range_mut(range.clone()) {
            let here = start..run.end;
            let Some((value, write)) = run.content else { return Err(Conflict::Undefined(here)) };
            if !order.over(rank, write) {
                return Err(Conflict::Unordered { range: here, with: write, wrote: true });
            }
            // A later read of the same kind by the same rank is over after the earlier one.
            let same = |old: &&mut Access| {
                old.rank == access.rank && old.arrival.map(|(to, _)| to) == access.arrival.map(|(to, _)| to)
            };
            match run.reads.iter_mut().find(same) {
                Some(old) => *old = access,
                None => run.reads.push(access),
            }
            let piece = Piece { end: run.end - range.start, value: value.from(range.start) };
            match pieces.last_mut() {
                Some(last) if last.value == piece.value => last.end = piece.end,
                _ => pieces.push(piece),
            }
        }
        Ok(())
    }

    /// `rank` writes `pieces` to `range` now.
    pub(super) fn write(
        &mut self,
        range: Range<usize>,
        rank: Rank,
        access: Access,
        order: &Order,
        pieces: &[Piece],
    ) -> Result<(), Conflict> {
        self.cut(&range);
        for (&start, run) in self.runs.range(range.clone()) {
            let conflict = |with, wrote| Conflict::Unordered { range: start..run.end, with, wrote };
            if let Some((_, write)) = run.content
                && !order.over(rank, write)
            {
                return Err(conflict(write, true));
            }
            if let Some(read) = run.reads.iter().find(|read| !order.over(rank, **read)) {
                return Err(conflict(*read, false));
            }
        }
        let inside: Vec<usize> = self.runs.range(range.start + 1..range.end).map(|(&start, _)| start).collect();
        for start in inside {
            self.runs.remove(&start);
        }
        let mut start = range.start;
        for piece in pieces {
            let end = range.start + piece.end;
            let content = Some((piece.value.at(range.start), access));
            match self.runs.get_mut(&start) {
                Some(run) => {
                    run.end = end;
                    run.content = content;
                    run.reads.clear();
                }
                None => drop(self.runs.insert(start, Run { end, content, reads: Vec::new() })),
            }
            start = end;
        }
        Ok(())
    }

    /// Every run: its elements, what they hold and who wrote that, who has read it.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, Option<(Value, Access)>, &[Access])> {
        self.runs.iter().map(|(&start, run)| (start..run.end, run.content, run.reads.as_slice()))
    }

    /// Makes runs end where `range` does.
    fn cut(&mut self, range: &Range<usize>) {
        for at in [range.start, range.end] {
            if let Some((&start, run)) = self.runs.range_mut(..at).next_back()
                && start < at
                && at < run.end
            {
                let rest = run.clone();
                run.end = at;
                self.runs.insert(at, rest);
            }
        }
    }
}
