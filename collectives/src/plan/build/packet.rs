//! Inputs of a few bytes ride in the signal itself.

use super::draft::{Draft, Grid, Spot};
use super::exchange::{Exchange, others};
use super::{BuildError, Ready, Task};
use crate::plan::{Buffer, Collective, Plan, Step};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    if *task.collective == Collective::Barrier {
        return Ok(Box::new(|| barrier(task)));
    }
    let ranks = task.ranks();
    let exchange = Exchange::new(task.collective, ranks);
    for from in 0..ranks {
        for to in exchange.receivers(from) {
            let limit = task.layout.reach(from, to).packet_bytes;
            if exchange.piece(from, to).len * task.element_bytes > limit {
                return Err(task.undefined("what one rank has for another is too large for a packet"));
            }
        }
    }
    Ok(Box::new(move || build(task, &exchange)))
}

fn build(task: &Task<'_>, exchange: &Exchange) -> Plan {
    let ranks = task.ranks();
    let mut draft = Draft::new(task.layout, Grid::default());
    for rank in 0..ranks {
        for to in exchange.receivers(rank) {
            let piece = exchange.piece(rank, to);
            let from = Spot::user(rank, Buffer::Input, piece.start, piece.len).place.slice;
            draft.push(rank, Step::Packet { from, to });
        }
    }
    for rank in 0..ranks {
        let own = exchange.piece(rank, rank);
        let output = Spot::user(rank, Buffer::Output, own.place, own.len);
        let input = Spot::user(rank, Buffer::Input, own.start, own.len);
        if exchange.reduces {
            exchange.senders(rank).for_each(|from| draft.push(rank, Step::WaitPacket { from }));
            let packet = |from| Spot::user(rank, Buffer::Packet(from), 0, own.len);
            let sources: Vec<Spot> = (0..ranks).map(|from| if from == rank { input } else { packet(from) }).collect();
            draft.reduce(rank, &sources, &[output]);
            continue;
        }
        draft.copy(rank, input, output);
        for from in exchange.senders(rank) {
            let piece = exchange.piece(from, rank);
            draft.push(rank, Step::WaitPacket { from });
            let packet = Spot::user(rank, Buffer::Packet(from), 0, piece.len);
            draft.copy(rank, packet, Spot::user(rank, Buffer::Output, piece.place, piece.len));
        }
    }
    task.finish(draft)
}

/// A barrier: everybody signals everybody.
pub(super) fn barrier(task: &Task<'_>) -> Plan {
    let ranks = task.ranks();
    let mut draft = Draft::new(task.layout, Grid::default());
    let tokens: Vec<_> = (0..ranks)
        .flat_map(|rank| others(rank, ranks).map(move |to| (rank, to)))
        .map(|(rank, to)| draft.signal(rank, to))
        .collect();
    tokens.into_iter().for_each(|token| draft.wait(token));
    task.finish(draft)
}
