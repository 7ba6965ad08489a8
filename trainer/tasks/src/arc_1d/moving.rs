//! Rules that move what is there: blocks by a number of cells, single cells by gravity.
//!
//! All move to the right or pull to the left; the tasks of the other direction are mirror images.

use super::row::{Block, Pair, blank, colour, colours, painted, scattered, uniform, written};
use crate::random::PyRandom;

/// A block of one colour moves right by `by` cells, which it has room for; `by` is at most `size - 2`.
pub(super) fn solid(rng: &mut PyRandom, size: usize, by: usize) -> Pair {
    moved(rng, size, by, solid_pattern)
}

/// The same with a colour for each cell of the block.
pub(super) fn colourful(rng: &mut PyRandom, size: usize, by: usize) -> Pair {
    moved(rng, size, by, colours)
}

/// A block of one colour moves right by `by` cells; what leaves the row comes in again on the left.
pub(super) fn solid_wrapped(rng: &mut PyRandom, size: usize, by: usize) -> Pair {
    moved_wrapped(rng, size, by, solid_pattern)
}

/// The same with a colour for each cell of the block.
pub(super) fn colourful_wrapped(rng: &mut PyRandom, size: usize, by: usize) -> Pair {
    moved_wrapped(rng, size, by, colours)
}

/// A block moves right by as many cells as it has.
pub(super) fn by_own_size(rng: &mut PyRandom, size: usize) -> Pair {
    let len = uniform(rng, 1, size / 2);
    let start = uniform(rng, 0, size - 2 * len);
    let colour = colour(rng);
    (painted(size, Block { start, len }, colour), painted(size, Block { start: start + len, len }, colour))
}

/// All coloured cells fall to the left and keep their order.
pub(super) fn gravity(rng: &mut PyRandom, size: usize) -> Pair {
    let input = scattered(rng, size, 9);
    let mut output: Vec<u8> = input.iter().copied().filter(|&cell| cell != 0).collect();
    output.resize(size, 0);
    (input, output)
}

/// All coloured cells fall to the left and become 1.
pub(super) fn gravity_counting(rng: &mut PyRandom, size: usize) -> Pair {
    let input = scattered(rng, size, 9);
    let mut output = vec![1; size - count(&input, 0)];
    output.resize(size, 0);
    (input, output)
}

/// 2 falls to the left end, 1 to the right end.
pub(super) fn gravity_antigravity(rng: &mut PyRandom, size: usize) -> Pair {
    let input = scattered(rng, size, 2);
    let mut output = blank(size);
    output[..count(&input, 2)].fill(2);
    output[size - count(&input, 1)..].fill(1);
    (input, output)
}

/// All cells fall to the left, 2 below 1.
pub(super) fn gravity_weighted(rng: &mut PyRandom, size: usize) -> Pair {
    let input = scattered(rng, size, 2);
    let mut output = input.clone();
    output.sort_unstable_by(|a, b| b.cmp(a));
    (input, output)
}

/// From left to right, each coloured cell takes one step left where that is free by then.
pub(super) fn gravity_one_step(rng: &mut PyRandom, size: usize) -> Pair {
    let input = scattered(rng, size, 9);
    let mut output = input.clone();
    for i in 1..size {
        if output[i - 1] == 0 {
            output.swap(i - 1, i);
        }
    }
    (input, output)
}

type Pattern = fn(&mut PyRandom, usize) -> Vec<u8>;

fn solid_pattern(rng: &mut PyRandom, len: usize) -> Vec<u8> {
    vec![colour(rng); len]
}

fn moved(rng: &mut PyRandom, size: usize, by: usize, pattern: Pattern) -> Pair {
    let len = uniform(rng, 1, size - by - 1);
    let start = uniform(rng, 0, size - len - by);
    let pattern = pattern(rng, len);
    (written(size, start, &pattern), written(size, start + by, &pattern))
}

fn moved_wrapped(rng: &mut PyRandom, size: usize, by: usize, pattern: Pattern) -> Pair {
    let len = uniform(rng, 1, size);
    let start = uniform(rng, 0, size - 1);
    let mut input = pattern(rng, len);
    input.resize(size, 0);
    input.rotate_right(start);
    let mut output = input.clone();
    output.rotate_right(by);
    (input, output)
}

fn count(row: &[u8], colour: u8) -> usize {
    row.iter().filter(|&&cell| cell == colour).count()
}
