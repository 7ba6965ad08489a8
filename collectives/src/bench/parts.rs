//! What two ranks owe each other in each operation: shared by the bare programs.

use super::grid::Op;

/// Elements of the input or output: the first, and how many.
pub(super) type Part = (usize, usize);

/// One rank's side of an operation between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    /// Of the input: goes to the other rank.
    pub(super) give: Part,
    /// Of the output: made of what comes from the other rank.
    pub(super) take: Part,
    /// Where the input's summand for `take` begins, where something is summed.
    pub(super) own: Option<usize>,
    /// From where in the input to where in the output this rank copies by itself, and how much.
    pub(super) keep: Option<(usize, usize, usize)>,
}

impl Parts {
    /// Those of rank `me`, for a vector of `count`.
    pub(super) fn new(op: Op, me: usize, count: usize) -> Self {
        let (part, mine, yours) = (count / 2, me * (count / 2), (1 - me) * (count / 2));
        let at_root = me == 0;
        let only = |yes: bool| (0, if yes { count } else { 0 });
        match op {
            Op::AllReduce => Self { give: (0, count), take: (0, count), own: Some(0), keep: None },
            Op::AllGather => Self { give: (0, part), take: (yours, part), own: None, keep: Some((0, mine, part)) },
            Op::ReduceScatter => Self { give: (yours, part), take: (0, part), own: Some(mine), keep: None },
            Op::AllToAll => {
                Self { give: (yours, part), take: (yours, part), own: None, keep: Some((mine, mine, part)) }
            }
            // The root's input is its result.
            Op::Broadcast => Self { give: only(at_root), take: only(!at_root), own: None, keep: None },
            Op::Reduce => Self { give: only(!at_root), take: only(at_root), own: Some(0), keep: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_gives_the_other_takes_and_every_output_is_covered() {
        for op in Op::ALL {
            let [zero, one] = [0, 1].map(|me| Parts::new(op, me, 8));
            for (me, mine, other) in [(0, zero, one), (1, one, zero)] {
                assert_eq!(mine.give.1, other.take.1, "{op:?}");
                let in_place = op == Op::Broadcast && me == 0;
                let kept = if in_place { mine.give.1 } else { mine.keep.map_or(0, |(_, _, count)| count) };
                assert_eq!(mine.take.1 + kept, op.output_len(8, 2, me), "{op:?}");
            }
        }
    }
}
