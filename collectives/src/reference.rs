//! What a collective computes, on one thread and in the order of the ranks: results are compared with it.

use std::ops::Range;

use swarmloom_kernels::reduce::{ReduceOp, reduce_slices_on};
use swarmloom_kernels::{Element, Isa};

use crate::plan::{Collective, Rank};

/// The output of `rank`, given the inputs of all ranks.
///
/// Every reduced element is `((input 0 op input 1) op input 2) ...`, by the scalar kernels, whose bits the vector ones are
/// to have. So a plan that promises [`RankOrder`](crate::plan::Guarantee::RankOrder) gives these very bits.
///
/// # Panics
/// Where the inputs have not the lengths that the collective says.
pub(crate) fn output<T: Element>(collective: &Collective, rank: Rank, inputs: &[Vec<T>], op: ReduceOp) -> Vec<T> {
    let part_of = |parts: &[usize]| {
        let start = parts[..rank].iter().sum();
        start..start + parts[rank]
    };
    match collective {
        Collective::AllReduce { count } => reduced(inputs, 0..*count, op),
        Collective::Reduce { root, count } if *root == rank => reduced(inputs, 0..*count, op),
        Collective::ReduceScatter { parts } => reduced(inputs, part_of(parts), op),
        Collective::AllGather { .. } => inputs.concat(),
        Collective::Broadcast { root, .. } => inputs[*root].clone(),
        Collective::AllToAll { counts } => {
            counts.iter().zip(inputs).flat_map(|(row, input)| &input[part_of(row)]).copied().collect()
        }
        Collective::Send { from, to, .. } if *to == rank => inputs[*from].clone(),
        Collective::Reduce { .. } | Collective::Send { .. } | Collective::Barrier => Vec::new(),
    }
}

fn reduced<T: Element>(inputs: &[Vec<T>], range: Range<usize>, op: ReduceOp) -> Vec<T> {
    let sources: Vec<&[T]> = inputs.iter().map(|input| &input[range.clone()]).collect();
    let mut all = sources[0].to_vec();
    reduce_slices_on(Isa::Scalar, op, &sources, &mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_collective_by_hand() {
        let inputs: Vec<Vec<i32>> = vec![vec![1, 2, 3, 4], vec![10, 20, 30, 40]];
        let of = |collective: &Collective, inputs: &[Vec<i32>]| {
            [0, 1].map(|rank| output(collective, rank, inputs, ReduceOp::Sum))
        };
        let none = Vec::new;
        let sum = vec![11, 22, 33, 44];
        assert_eq!(of(&Collective::AllReduce { count: 4 }, &inputs), [sum.clone(), sum.clone()]);
        assert_eq!(of(&Collective::Reduce { root: 1, count: 4 }, &inputs), [none(), sum]);
        assert_eq!(of(&Collective::ReduceScatter { parts: vec![1, 3] }, &inputs), [vec![11], vec![22, 33, 44]]);
        let all = vec![1, 2, 3, 4, 10, 20, 30, 40];
        assert_eq!(of(&Collective::AllGather { parts: vec![4, 4] }, &inputs), [all.clone(), all]);
        let counts = vec![vec![3, 1], vec![0, 4]];
        assert_eq!(of(&Collective::AllToAll { counts }, &inputs), [vec![1, 2, 3], vec![4, 10, 20, 30, 40]]);
        let one = [vec![7, 8], none()];
        assert_eq!(of(&Collective::Broadcast { root: 0, count: 2 }, &one), [vec![7, 8], vec![7, 8]]);
        assert_eq!(of(&Collective::Send { from: 0, to: 1, count: 2 }, &one), [none(), vec![7, 8]]);
        assert_eq!(of(&Collective::Barrier, &[none(), none()]), [none(), none()]);
    }
}
