//! Packing prompts and completions into rows without padding between them: a pure plan.
//!
//! A tree is a prompt with its completions as branches. It lies in a row as `[prompt][c1][c2]..`, so that
//! the prompt is computed once: each completion sees the prompt and itself, and its positions go on from
//! the prompt. Several trees share a row without seeing each other. The last token of a completion is
//! only ever predicted, never seen, and takes no room.
//!
//! Rows are filled first-fit decreasing (Johnson, "Near-optimal bin packing algorithms", 1973). Their
//! length is that of the longest piece. Attention is computed between all tokens of a row, so long rows
//! cost more for each token; short ones cut trees into pieces, each with the prompt computed again. The plan
//! weighs one against the other.

/// The lengths of a prompt and of its completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeLengths {
    /// Tokens of the prompt, at least one.
    pub prompt: usize,
    /// Tokens of each completion, at least one each.
    pub branches: Vec<usize>,
}

/// What is computed together, and in which order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// One after the other; their gradients are added up.
    pub micro_batches: Vec<MicroBatch>,
}

/// Rows of equal length, computed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Tokens of each row, padding at the end included.
    pub row_length: usize,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Pieces of trees, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// In the order in which they lie.
    pub segments: Vec<Segment>,
    /// Tokens before the padding.
    pub used: usize,
}

/// A prompt and some or all of its completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Index of the tree.
    pub tree: usize,
    /// Indices of the completions, in the order in which they lie.
    pub branches: Vec<usize>,
    /// Tokens: the prompt's, and of each completion all but the last.
    pub length: usize,
}

/// Row lengths that are weighed against each other.
const CANDIDATES: usize = 16;

/// Plans the rows for `trees`, so that no micro-batch has more than `micro_batch_tokens` tokens, padding
/// included. A prompt with a single completion is never cut: where it alone is longer, its micro-batch is
/// larger than asked.
///
/// `even_length` is the length of a row at which attention costs as much as all the rest.
///
/// Every branch of every tree is in the plan exactly once.
pub fn plan(trees: &[TreeLengths], micro_batch_tokens: usize, even_length: usize) -> Plan {
    let most = row_length(trees, even_length).min(micro_batch_tokens);
    let mut segments: Vec<Segment> =
        trees.iter().enumerate().flat_map(|(index, tree)| cut(index, tree, most)).collect();
    // A stable sort: the plan depends on its input alone.
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.length));
    let capacity = segments.first().map_or(0, |longest| longest.length);

    let mut rows: Vec<Row> = Vec::new();
    for segment in segments {
        let row = match rows.iter_mut().find(|row| row.used + segment.length <= capacity) {
            Some(row) => row,
            None => {
                rows.push(Row::default());
                let last = rows.len() - 1;
                &mut rows[last]
            }
        };
        row.used += segment.length;
        row.segments.push(segment);
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.used));

    let mut plan = Plan::default();
    for row in rows {
        match plan.micro_batches.last_mut() {
            Some(batch) if batch.row_length * (batch.rows.len() + 1) <= micro_batch_tokens => batch.rows.push(row),
            _ => plan.micro_batches.push(MicroBatch { row_length: row.used, rows: vec![row] }),
        }
    }
    plan
}

/// The row length at which the trees cost least, by the number of tokens and what each costs.
fn row_length(trees: &[TreeLengths], even_length: usize) -> usize {
    let whole = |tree: &TreeLengths| tree.prompt + tree.branches.iter().map(|b| b.saturating_sub(1)).sum::<usize>();
    let single =
        |tree: &TreeLengths| tree.prompt + tree.branches.iter().map(|b| b.saturating_sub(1)).max().unwrap_or(0);
    let longest = trees.iter().map(whole).max().unwrap_or(0);
    let shortest = trees.iter().map(single).max().unwrap_or(0);
    let cost = |most: usize| {
        let tokens: usize = trees.iter().flat_map(|tree| cut(0, tree, most)).map(|piece| piece.length).sum();
        tokens as f64 * (1.0 + most as f64 / even_length.max(1) as f64)
    };
    let step = (longest - shortest).div_ceil(CANDIDATES).max(1);
    let candidates = (shortest..longest).step_by(step).chain([longest]);
    // Of equally good ones the longest: fewer rows.
    candidates
        .map(|most| (cost(most), most))
        .min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
        .map_or(0, |best| best.1)
}

/// The pieces of a tree, none longer than `most` unless it is a single completion.
fn cut(index: usize, tree: &TreeLengths, most: usize) -> Vec<Segment> {
    let mut pieces: Vec<Segment> = Vec::new();
    for (branch, &tokens) in tree.branches.iter().enumerate() {
        let more = tokens.saturating_sub(1);
        match pieces.last_mut() {
            Some(piece) if piece.length + more <= most => {
                piece.branches.push(branch);
                piece.length += more;
            }
            _ => pieces.push(Segment { tree: index, branches: vec![branch], length: tree.prompt + more }),
        }
    }
    pieces
}

impl Plan {
    /// Tokens computed, padding left out.
    pub fn used(&self) -> usize {
        self.micro_batches.iter().flat_map(|batch| &batch.rows).map(|row| row.used).sum()
    }

    /// Tokens computed, padding included.
    pub fn computed(&self) -> usize {
        self.micro_batches.iter().map(|batch| batch.row_length * batch.rows.len()).sum()
    }

    /// Share of the computed tokens that is padding; 0 for an empty plan.
    pub fn waste(&self) -> f64 {
        1.0 - self.used() as f64 / self.computed().max(1) as f64 - f64::from(self.computed() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmloom_kernels::random;

    fn tree(prompt: usize, branches: &[usize]) -> TreeLengths {
        TreeLengths { prompt, branches: branches.to_vec() }
    }

    #[test]
    fn short_trees_fill_the_rows_that_long_ones_set() {
        // Lengths 3+4+4 = 11, then 5, 6 and 4: 5 and 6 share a row, 4 is alone.
        let trees = [tree(2, &[4]), tree(3, &[5, 5]), tree(4, &[1, 3]), tree(4, &[1])];
        let plan = plan(&trees, 100, 1000);
        assert_eq!(plan.micro_batches.len(), 1);
        let batch = &plan.micro_batches[0];
        assert_eq!(batch.row_length, 11);
        let rows: Vec<Vec<usize>> = batch.rows.iter().map(|r| r.segments.iter().map(|s| s.tree).collect()).collect();
        assert_eq!(rows, [vec![1], vec![2, 0], vec![3]]);
        assert_eq!((plan.used(), plan.computed()), (26, 33));
        assert!((plan.waste() - 7.0 / 33.0).abs() < 1e-12);
        assert_eq!(super::plan(&[], 100, 1000).waste(), 0.0);
    }

    #[test]
    fn a_tree_that_is_too_long_is_cut_and_a_single_completion_never() {
        let plan = plan(&[tree(10, &[6, 6, 6]), tree(10, &[60])], 21, 1000);
        let pieces: Vec<(usize, Vec<usize>, usize)> = plan
            .micro_batches
            .iter()
            .flat_map(|batch| &batch.rows)
            .flat_map(|row| &row.segments)
            .map(|s| (s.tree, s.branches.clone(), s.length))
            .collect();
        assert_eq!(pieces, [(1, vec![0], 69), (0, vec![0, 1], 20), (0, vec![2], 15)]);
        assert_eq!(plan.micro_batches.len(), 2);
    }

    #[test]
    fn rows_are_as_long_as_it_pays() {
        let row_lengths = |prompt: usize, even_length: usize| -> Vec<usize> {
            let plan = plan(&[tree(prompt, &[22; 8])], 10_000, even_length);
            plan.micro_batches.iter().flat_map(|batch| &batch.rows).map(|row| row.used).collect()
        };
        // Where attention costs nothing or the prompt much, the tree stays whole.
        assert_eq!(row_lengths(15, 100_000), [183]);
        assert_eq!(row_lengths(400, 200), [568]);
        // Two halves: 198 tokens at 1 + 99 / 200 cost 296; the whole costs 350, four quarters 297.
        assert_eq!(row_lengths(15, 200), [99, 99]);
        // Attention is nearly all there is: each completion has a row.
        assert_eq!(row_lengths(2, 1), [23; 8]);
    }

    #[test]
    fn every_branch_is_planned_once_within_the_bounds() {
        for seed in 0..50 {
            let draw = |index: u64, below: u64| (random::bits(seed, index) % below) as usize;
            let trees: Vec<TreeLengths> = (0..20)
                .map(|t| {
                    tree(
                        1 + draw(t, 40),
                        &(0..draw(100 + t, 9)).map(|b| 1 + draw(1000 + 10 * t + b as u64, 30)).collect::<Vec<_>>(),
                    )
                })
                .collect();
            let most = 64 + draw(7, 1000);
            let plan = plan(&trees, most, 1 + draw(8, 500));
            let mut seen = vec![];
            for batch in &plan.micro_batches {
                let longest = batch.rows.iter().map(|row| row.used).max().expect("no empty batch");
                assert_eq!(longest, batch.row_length);
                let single = batch.rows.len() == 1 && batch.rows[0].segments.iter().all(|s| s.branches.len() == 1);
                assert!(batch.row_length * batch.rows.len() <= most || single);
                for row in &batch.rows {
                    assert_eq!(row.used, row.segments.iter().map(|s| s.length).sum::<usize>());
                    for s in &row.segments {
                        let lengths = s.branches.iter().map(|&b| trees[s.tree].branches[b] - 1);
                        assert_eq!(s.length, trees[s.tree].prompt + lengths.sum::<usize>());
                        seen.extend(s.branches.iter().map(|&b| (s.tree, b)));
                    }
                }
            }
            seen.sort_unstable();
            let all: Vec<_> =
                trees.iter().enumerate().flat_map(|(t, tree)| (0..tree.branches.len()).map(move |b| (t, b))).collect();
            assert_eq!(seen, all);
        }
    }
}
