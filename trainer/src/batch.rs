//! Token trees, and a micro-batch of them as the arrays that the model takes.

use crate::packing::{MicroBatch, TreeLengths};

/// A prompt and completions of it, as tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    /// At least one token.
    pub(crate) prompt: Vec<u32>,
    /// At least one token each.
    pub(crate) branches: Vec<Vec<u32>>,
}

impl Tree {
    pub(crate) fn lengths(&self) -> TreeLengths {
        TreeLengths { prompt: self.prompt.len(), branches: self.branches.iter().map(Vec::len).collect() }
    }
}

/// A micro-batch: `[rows, length]` tokens, row-major, and what is to be predicted where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arrays {
    pub(crate) rows: usize,
    pub(crate) length: usize,
    /// `[rows * length]`
    pub(crate) tokens: Vec<i64>,
    /// `[rows * length]`
    pub(crate) positions: Vec<i64>,
    /// `[rows, length, length]`: 0 where a token (second index) sees another (third), else minus infinity.
    pub(crate) mask: Vec<f32>,
    /// `[predicting]`: the tokens that something is predicted from, as indices into `[rows * length]`.
    pub(crate) predicting: Vec<i64>,
    /// `[targets]`: for each token to predict, the index into `predicting` of what it is predicted from.
    pub(crate) source: Vec<i64>,
    /// `[targets]`: the tokens to predict.
    pub(crate) target: Vec<i64>,
    /// `[targets]`: which number each target has when all targets of all trees are counted tree by tree,
    /// branch by branch, token by token.
    pub(crate) number: Vec<usize>,
}

/// Where the targets of each branch begin when all are counted; `[tree][branch]`, and how many there are.
pub(crate) fn numbering(trees: &[Tree]) -> (Vec<Vec<usize>>, usize) {
    let mut next = 0;
    let mut first = |branch: &Vec<u32>| {
        next += branch.len();
        next - branch.len()
    };
    let starts = trees.iter().map(|tree| tree.branches.iter().map(&mut first).collect()).collect();
    (starts, next)
}

impl Arrays {
    /// Lays out a micro-batch of a plan for `trees`, whose targets are numbered by `starts`.
    pub(crate) fn new(trees: &[Tree], starts: &[Vec<usize>], batch: &MicroBatch) -> Self {
        let (rows, length) = (batch.rows.len(), batch.row_length);
        let mut arrays = Self {
            rows,
            length,
            tokens: vec![0; rows * length],
            positions: vec![0; rows * length],
            mask: vec![f32::NEG_INFINITY; rows * length * length],
            predicting: Vec::with_capacity(rows * length),
            source: Vec::new(),
            target: Vec::new(),
            number: Vec::new(),
        };
        for (index, row) in batch.rows.iter().enumerate() {
            let mut at = 0;
            for segment in &row.segments {
                let tree = &trees[segment.tree];
                let start = at;
                for (position, &token) in tree.prompt.iter().enumerate() {
                    arrays.put(index, at, token, position);
                    arrays.sees(index, at, start..=at);
                    at += 1;
                }
                let end = at;
                let from_prompt = arrays.predict_from(index, end - 1);
                for &branch in &segment.branches {
                    let tokens = &tree.branches[branch];
                    let mut from = from_prompt;
                    for (offset, &token) in tokens.iter().enumerate() {
                        arrays.source.push(from);
                        arrays.target.push(i64::from(token));
                        arrays.number.push(starts[segment.tree][branch] + offset);
                        if offset + 1 < tokens.len() {
                            arrays.put(index, at, token, tree.prompt.len() + offset);
                            arrays.sees(index, at, start..=end - 1);
                            arrays.sees(index, at, at - offset..=at);
                            from = arrays.predict_from(index, at);
                            at += 1;
                        }
                    }
                }
            }
            // A softmax over nothing is no number: padding sees itself.
            for padding in at..length {
                arrays.sees(index, padding, padding..=padding);
            }
        }
        arrays
    }

    fn put(&mut self, row: usize, at: usize, token: u32, position: usize) {
        self.tokens[row * self.length + at] = i64::from(token);
        self.positions[row * self.length + at] = position as i64;
    }

    fn sees(&mut self, row: usize, at: usize, others: std::ops::RangeInclusive<usize>) {
        self.mask[(row * self.length + at) * self.length..][others].fill(0.0);
    }

    fn predict_from(&mut self, row: usize, at: usize) -> i64 {
        self.predicting.push((row * self.length + at) as i64);
        self.predicting.len() as i64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::{Row, Segment};

    #[test]
    fn a_tree_lies_in_a_row_as_drawn() {
        let trees = [
            Tree { prompt: vec![10, 11], branches: vec![vec![20, 21, 22], vec![30], vec![40, 41]] },
            Tree { prompt: vec![50], branches: vec![vec![60, 61]] },
        ];
        let (starts, count) = numbering(&trees);
        assert_eq!((&starts, count), (&vec![vec![0, 3, 4], vec![6]], 8));
        let segments = vec![
            Segment { tree: 0, branches: vec![0, 1, 2], length: 5 },
            Segment { tree: 1, branches: vec![0], length: 2 },
        ];
        let batch = MicroBatch { row_length: 8, rows: vec![Row { segments, used: 7 }] };
        let arrays = Arrays::new(&trees, &starts, &batch);
        assert_eq!(arrays.tokens, [10, 11, 20, 21, 40, 50, 60, 0]);
        assert_eq!(arrays.positions, [0, 1, 2, 3, 2, 0, 1, 0]);
        assert_eq!(arrays.predicting, [1, 2, 3, 4, 5, 6]);
        assert_eq!(arrays.source, [0, 1, 2, 0, 0, 3, 4, 5]);
        assert_eq!(arrays.target, [20, 21, 22, 30, 40, 41, 60, 61]);
        assert_eq!(arrays.number, [0, 1, 2, 3, 4, 5, 6, 7]);
        let seen: Vec<Vec<usize>> =
            arrays.mask.chunks(8).map(|row| (0..8).filter(|&other| row[other] == 0.0).collect()).collect();
        assert_eq!(
            seen,
            [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3], vec![0, 1, 4], vec![5], vec![5, 6], vec![7]]
        );
    }
}
