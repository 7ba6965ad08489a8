//! Binomial trees for what has a root, and a barrier in as many steps.

use super::draft::{Draft, Grid, Spot};
use super::{BuildError, Cut, Ready, Task};
use crate::plan::{Buffer, Plan, Rank};

/// The root gives to more and more others, which give on. Chunks follow one another.
pub(super) fn broadcast<'a>(task: &'a Task<'a>, root: Rank, count: usize) -> Result<Ready<'a>, BuildError> {
    let cut = task.cut(count, |chunk| chunk, 1, &[4, 2, 1])?;
    Ok(Box::new(move || build_broadcast(task, root, count, cut)))
}

fn build_broadcast(task: &Task<'_>, root: Rank, count: usize, cut: Cut) -> Plan {
    let ranks = task.ranks();
    let mut draft = Draft::new(task.layout, cut.grid(1));
    for round in 0..cut.rounds {
        let part = cut.round(round, count);
        let user = |rank: Rank, buffer| Spot::user(rank, buffer, part.start, part.len());
        let source = |rank: Rank| user(rank, if rank == root { Buffer::Input } else { Buffer::Output });
        for (parent, child) in edges(ranks, root) {
            let output = user(child, Buffer::Output);
            if draft.reach(parent, child).put_output {
                let token = draft.put(source(parent), output);
                draft.wait(token);
                continue;
            }
            let inbox = draft.cell(child, round, 0, part.len());
            let token = draft.put(source(parent), inbox);
            draft.wait(token);
            draft.copy(child, inbox, output);
        }
        draft.copy(root, user(root, Buffer::Input), user(root, Buffer::Output));
    }
    task.finish(draft)
}

/// Everybody reduces its own input and what its children give it, and gives the result on towards the root.
pub(super) fn reduce<'a>(task: &'a Task<'a>, root: Rank, count: usize) -> Result<Ready<'a>, BuildError> {
    // A child has its own area at its parent; the last area is for what is given on.
    let depth = task.ranks().next_power_of_two().ilog2() as usize;
    let cut = task.cut(count, |chunk| chunk * (depth + 1), 1, &[4, 2, 1])?;
    Ok(Box::new(move || build_reduce(task, root, count, cut, depth)))
}

fn build_reduce(task: &Task<'_>, root: Rank, count: usize, cut: Cut, depth: usize) -> Plan {
    let ranks = task.ranks();
    let mut draft = Draft::new(task.layout, cut.grid(depth + 1));
    // From the leaves on; a parent comes after its children.
    let mut parents = vec![None; ranks];
    let mut children = vec![Vec::new(); ranks];
    for (parent, child) in edges(ranks, root) {
        parents[child] = Some(parent);
        children[parent].push(child);
    }
    let order: Vec<Rank> = (0..ranks).rev().map(|number| (root + number) % ranks).collect();
    for round in 0..cut.rounds {
        let part = cut.round(round, count);
        let user = |rank: Rank, buffer| Spot::user(rank, buffer, part.start, part.len());
        let mut given = vec![None; ranks];
        for &rank in &order {
            let mut sources = vec![user(rank, Buffer::Input)];
            for &child in &children[rank] {
                if let Some((spot, token)) = given[child] {
                    draft.wait(token);
                    sources.push(spot);
                }
            }
            let Some(parent) = parents[rank] else {
                draft.reduce(rank, &sources, &[user(rank, Buffer::Output)]);
                continue;
            };
            let mut result = sources[0];
            if sources.len() > 1 {
                result = draft.cell(rank, round, depth, part.len());
                draft.reduce(rank, &sources, &[result]);
            }
            let area = children[parent].iter().position(|&child| child == rank).unwrap_or(0);
            let inbox = draft.cell(parent, round, area, part.len());
            given[rank] = Some((inbox, draft.put(result, inbox)));
        }
    }
    task.finish(draft)
}

/// A dissemination barrier: in step `k` everybody signals the one `2^k` further on (Hensgen, Finkel and Manber, 1988).
pub(super) fn barrier(task: &Task<'_>) -> Plan {
    let ranks = task.ranks();
    let mut draft = Draft::new(task.layout, Grid::default());
    for distance in distances(ranks) {
        let tokens: Vec<_> = (0..ranks).map(|rank| draft.signal(rank, (rank + distance) % ranks)).collect();
        tokens.into_iter().for_each(|token| draft.wait(token));
    }
    task.finish(draft)
}

/// Parent and child, the root's children first and every parent before its children.
fn edges(ranks: usize, root: Rank) -> impl Iterator<Item = (Rank, Rank)> {
    let rank = move |number: usize| (root + number) % ranks;
    distances(ranks).flat_map(move |distance| {
        (0..distance).filter(move |it| it + distance < ranks).map(move |it| (rank(it), rank(it + distance)))
    })
}

/// 1, 2, 4 and so on, below `ranks`.
fn distances(ranks: usize) -> impl Iterator<Item = usize> {
    (0..usize::BITS).map(|step| 1 << step).take_while(move |distance| *distance < ranks)
}
