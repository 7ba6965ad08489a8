//! What has to hold when all ranks have ended: the outputs are right, and nobody is still at work on them.

use std::ops::Range;

use super::Guarantee;
use super::forest::{Tree, Value};
use super::refusal::Refusal;
use super::run::Run;
use crate::plan::{Buffer, Collective, Place, Rank, Slice};

/// What a part of an output has to hold.
#[derive(Debug, Clone, Copy)]
enum Demand {
    /// The input of that rank, from that element on.
    Copy(Rank, usize),
    /// The reduction of all inputs, from that element on.
    Reduction(usize),
}

/// Checks the outputs; says what a reducing collective promises.
pub(super) fn check(run: &Run<'_>) -> Result<Option<Guarantee>, Refusal> {
    let collective = &run.plan.collective;
    let ranks = run.plan.ranks();
    let mut guarantee = Guarantee::RankOrder;
    let mut first: Option<Vec<(Range<usize>, Tree)>> = None;
    for rank in 0..ranks {
        quiet(run, rank)?;
        let mut trees = Vec::new();
        for (part, demand) in demands(collective, ranks, rank) {
            holds(run, rank, part, demand, &mut trees)?;
        }
        if trees.iter().any(|(_, tree)| !run.forest.summary(*tree).flat) {
            guarantee = Guarantee::Identical;
        }
        if let Collective::AllReduce { .. } = collective {
            match &first {
                None => first = Some(trees),
                Some(first) => same(run, first, &trees, rank)?,
            }
        }
    }
    if *collective == Collective::Barrier {
        held_back(run)?;
    }
    Ok(collective.reduces().then_some(guarantee))
}

/// Nobody else reads the input or touches the output of `rank` once that has ended.
fn quiet(run: &Run<'_>, rank: Rank) -> Result<(), Refusal> {
    let open = |other: u32, step: u32, what, slice: Slice| {
        let (other, step) = (other as usize, step as usize);
        Err(Refusal::Open { rank, other, step, what, place: slice.of(rank) })
    };
    for reader in 0..run.plan.ranks() {
        if let Some(step) = run.input_read(rank, reader)
            && !run.order.knows(rank, reader, step)
        {
            let input = Slice::new(Buffer::Input, 0..run.plan.collective.input_len(rank));
            return open(reader as u32, step, "reads", input);
        }
    }
    for (range, content, reads) in run.outputs[rank].runs() {
        let slice = Slice::new(Buffer::Output, range);
        if let Some((_, write)) = content
            && !run.order.over(rank, write)
        {
            return open(write.rank, write.step, "writes", slice);
        }
        // What the rank itself puts from there has left its memory when its operation ends.
        let read = reads.iter().find(|read| read.rank as usize != rank && !run.order.over(rank, **read));
        if let Some(read) = read {
            return open(read.rank, read.step, "reads", slice);
        }
    }
    Ok(())
}

/// The parts of the output of `rank`.
fn demands(collective: &Collective, ranks: usize, rank: Rank) -> Vec<(Range<usize>, Demand)> {
    let before = |lens: &mut dyn Iterator<Item = usize>| lens.sum::<usize>();
    let whole = 0..collective.output_len(rank);
    match collective {
        Collective::AllReduce { .. } | Collective::Reduce { .. } => vec![(whole, Demand::Reduction(0))],
        Collective::ReduceScatter { parts } => {
            vec![(whole, Demand::Reduction(before(&mut parts[..rank].iter().copied())))]
        }
        Collective::Broadcast { root: from, .. } | Collective::Send { from, .. } => {
            vec![(whole, Demand::Copy(*from, 0))]
        }
        Collective::AllGather { parts } => consecutive(parts.iter().map(|len| (*len, 0))),
        Collective::AllToAll { counts } => {
            consecutive((0..ranks).map(|from| (counts[from][rank], before(&mut counts[from][..rank].iter().copied()))))
        }
        Collective::Barrier => Vec::new(),
    }
}

/// A part from each rank, one after the other: its length, and where it begins in that rank's input.
fn consecutive(parts: impl Iterator<Item = (usize, usize)>) -> Vec<(Range<usize>, Demand)> {
    let mut end = 0;
    parts
        .enumerate()
        .map(|(from, (len, start))| {
            let range = end..end + len;
            end = range.end;
            (range, Demand::Copy(from, start))
        })
        .collect()
}

/// The elements `part` of the output of `rank` hold what is demanded. Notes the expressions of a reduction.
fn holds(
    run: &Run<'_>,
    rank: Rank,
    part: Range<usize>,
    demand: Demand,
    trees: &mut Vec<(Range<usize>, Tree)>,
) -> Result<(), Refusal> {
    let everybody = u64::MAX >> (64 - run.plan.ranks());
    for (range, content, _) in run.outputs[rank].runs() {
        let here = range.start.max(part.start)..range.end.min(part.end);
        if here.is_empty() {
            continue;
        }
        let place = Slice::new(Buffer::Output, here.clone()).of(rank);
        let Some((value, _)) = content else { return Err(Refusal::Unwritten { place }) };
        let (Demand::Copy(_, start) | Demand::Reduction(start)) = demand;
        let index = (here.start - part.start + start) as i64;
        let aligned = value.base + here.start as i64 == index;
        let summary = run.forest.summary(value.tree);
        let right = match demand {
            Demand::Copy(from, _) => value.tree as usize == from,
            Demand::Reduction(_) => summary.clean && summary.ranks == everybody,
        };
        if !(right && aligned) {
            let wanted = match demand {
                Demand::Copy(from, _) => format!("input {from}[{index}]"),
                Demand::Reduction(_) => format!("every rank's input [{index}] once"),
            };
            return Err(Refusal::Value { place, found: run.forest.words(value, here.start), wanted });
        }
        if let Demand::Reduction(_) = demand {
            match trees.last_mut() {
                Some((last, tree)) if *tree == value.tree => last.end = here.end,
                _ => trees.push((here, value.tree)),
            }
        }
    }
    Ok(())
}

/// Rank 0 and `rank` have reduced every element by the same expression.
fn same(
    run: &Run<'_>,
    first: &[(Range<usize>, Tree)],
    trees: &[(Range<usize>, Tree)],
    rank: Rank,
) -> Result<(), Refusal> {
    let Some(at) = first.iter().zip(trees).position(|(one, other)| one != other) else { return Ok(()) };
    let ((one, tree), (other, other_tree)) = (&first[at], &trees[at]);
    // Where only the ends differ, the difference lies behind the shorter one.
    let (start, end) = (one.start, one.end.min(other.end));
    let (start, tree, other_tree) = if tree == other_tree {
        let after = |list: &[(Range<usize>, Tree)]| list.iter().find(|(range, _)| range.contains(&end)).map(|it| it.1);
        (end, after(first).unwrap_or(*tree), after(trees).unwrap_or(*other_tree))
    } else {
        (start, *tree, *other_tree)
    };
    let words = |tree| run.forest.words(Value { tree, base: 0 }, start);
    let place: Place = Slice::new(Buffer::Output, start..end.max(start + 1)).of(0);
    Err(Refusal::Differs { place, found: words(tree), other: rank, other_found: words(other_tree) })
}

/// Every rank ends after every rank has begun.
fn held_back(run: &Run<'_>) -> Result<(), Refusal> {
    let ranks = run.plan.ranks();
    for (rank, other) in (0..ranks).flat_map(|rank| (0..ranks).map(move |other| (rank, other))) {
        // Whoever has done a step has begun.
        if !run.order.knows(rank, other, 0) {
            return Err(Refusal::Barrier { rank, other });
        }
    }
    Ok(())
}
