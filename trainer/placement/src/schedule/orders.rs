//! Orders that do not depend on costs.

use super::{Op, Pass};

/// One stage: each micro-batch forward through all chunks, and back.
pub(super) fn alone(micro_batches: usize, chunks: usize) -> Vec<Op> {
    let both = |micro_batch| {
        let forward = (0..chunks).map(move |chunk| Op { pass: Pass::Forward, micro_batch, chunk });
        forward.chain((0..chunks).rev().map(move |chunk| Op { pass: Pass::Backward, micro_batch, chunk }))
    };
    (0..micro_batches).flat_map(both).collect()
}

/// All forward, then all backward.
pub(super) fn gpipe(stages: usize, micro_batches: usize) -> Vec<Vec<Op>> {
    let all = |pass| (0..micro_batches).map(move |micro_batch| op(pass, micro_batch));
    vec![all(Pass::Forward).chain(all(Pass::Backward)).collect(); stages]
}

/// Stage `s` of `p` is `p - 1 - s` forward passes ahead.
pub(super) fn one_forward_one_backward(stages: usize, micro_batches: usize) -> Vec<Vec<Op>> {
    let program = |stage: usize| {
        let ahead = (stages - 1 - stage).min(micro_batches);
        let mut ops: Vec<Op> = (0..ahead).map(|micro_batch| op(Pass::Forward, micro_batch)).collect();
        for micro_batch in 0..micro_batches {
            if ahead + micro_batch < micro_batches {
                ops.push(op(Pass::Forward, ahead + micro_batch));
            }
            ops.push(op(Pass::Backward, micro_batch));
        }
        ops
    };
    (0..stages).map(program).collect()
}

/// Megatron's order: micro-batches by groups of as many as there are stages, each group through all chunks; stage `s` of `p`
/// with `v` chunks is `2 (p - 1 - s) + (v - 1) p` forward passes ahead.
pub(super) fn interleaved(stages: usize, micro_batches: usize, chunks: usize) -> Vec<Vec<Op>> {
    let total = micro_batches * chunks;
    let place = |index: usize| {
        let (group, within) = (index / (stages * chunks), index % (stages * chunks));
        (group * stages + within % stages, within / stages)
    };
    let forward = |index| {
        let (micro_batch, chunk) = place(index);
        Op { pass: Pass::Forward, micro_batch, chunk }
    };
    let backward = |index| {
        let (micro_batch, chunk) = place(index);
        Op { pass: Pass::Backward, micro_batch, chunk: chunks - 1 - chunk }
    };
    let program = |stage: usize| {
        let ahead = if chunks == 1 { stages - 1 - stage } else { 2 * (stages - 1 - stage) + (chunks - 1) * stages };
        let ahead = ahead.min(total);
        let mut ops: Vec<Op> = (0..ahead).map(forward).collect();
        for index in 0..total {
            if ahead + index < total {
                ops.push(forward(ahead + index));
            }
            ops.push(backward(index));
        }
        ops
    };
    (0..stages).map(program).collect()
}

/// As 1F1B, with the gradients of weights `s` micro-batches late on stage `s`, so that every stage keeps as many activations as the
/// first; where 1F1B would wait for the last gradients, those of weights come between.
pub(super) fn zero_bubble(stages: usize, micro_batches: usize) -> Vec<Vec<Op>> {
    let program = |stage: usize| {
        let ahead = (stages - 1 - stage).min(micro_batches);
        let mut ops: Vec<Op> = (0..ahead).map(|micro_batch| op(Pass::Forward, micro_batch)).collect();
        let mut weights = 0;
        for micro_batch in 0..micro_batches {
            let forward = ahead + micro_batch < micro_batches;
            if forward {
                ops.push(op(Pass::Forward, ahead + micro_batch));
            }
            ops.push(op(Pass::InputGradient, micro_batch));
            if micro_batch >= stage {
                ops.push(op(Pass::WeightGradient, weights));
                weights += 1;
            }
        }
        ops.extend((weights..micro_batches).map(|micro_batch| op(Pass::WeightGradient, micro_batch)));
        ops
    };
    (0..stages).map(program).collect()
}

fn op(pass: Pass, micro_batch: usize) -> Op {
    Op { pass, micro_batch, chunk: 0 }
}
