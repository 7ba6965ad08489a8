//! Rows of colours, and the draws that every rule makes.

use crate::random::PyRandom;

/// A row before the rule and the row after it, equally long.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// A run of cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Block {
    /// The cell after the last.
    pub(super) fn end(self) -> usize {
        self.start + self.len
    }
}

/// A row of background.
pub(super) fn blank(size: usize) -> Vec<u8> {
    vec![0; size]
}

/// Gives all cells of a block one colour.
pub(super) fn paint(row: &mut [u8], block: Block, colour: u8) {
    row[block.start..block.end()].fill(colour);
}

/// A row that shows one block in one colour.
pub(super) fn painted(size: usize, block: Block, colour: u8) -> Vec<u8> {
    let mut row = blank(size);
    paint(&mut row, block, colour);
    row
}

/// A row that shows `pattern` from `start` on.
pub(super) fn written(size: usize, start: usize, pattern: &[u8]) -> Vec<u8> {
    let mut row = blank(size);
    row[start..start + pattern.len()].copy_from_slice(pattern);
    row
}

/// A row that shows blocks of these lengths from its start on, with one cell between them.
pub(super) fn lined_up(size: usize, lengths: impl IntoIterator<Item = usize>, colour: u8) -> Vec<u8> {
    let mut row = blank(size);
    let mut start = 0;
    for len in lengths {
        paint(&mut row, Block { start, len }, colour);
        start += len + 1;
    }
    row
}

/// `randint(low, high)` of a place or a length: both ends included, `low <= high`.
pub(super) fn uniform(rng: &mut PyRandom, low: usize, high: usize) -> usize {
    low + rng.below((high - low) as u64 + 1) as usize
}

/// `random() < probability`.
pub(super) fn chance(rng: &mut PyRandom, probability: f64) -> bool {
    rng.random() < probability
}

/// One of the colours `low..=high`.
pub(super) fn colour_between(rng: &mut PyRandom, low: u8, high: u8) -> u8 {
    uniform(rng, usize::from(low), usize::from(high)) as u8
}

/// One of the nine colours.
pub(super) fn colour(rng: &mut PyRandom) -> u8 {
    colour_between(rng, 1, 9)
}

/// One of the colours `1..=high` that is not `avoided`, in one draw.
///
/// reasoning-gym writes it in two ways that draw alike: a choice from the list of what is left, and a draw from one
/// colour fewer that skips over the avoided one.
pub(super) fn colour_but(rng: &mut PyRandom, high: u8, avoided: u8) -> u8 {
    let drawn = colour_between(rng, 1, if avoided <= high { high - 1 } else { high });
    if drawn >= avoided { drawn + 1 } else { drawn }
}

/// Colours drawn one by one, each of the nine as likely.
pub(super) fn colours(rng: &mut PyRandom, count: usize) -> Vec<u8> {
    (0..count).map(|_| colour(rng)).collect()
}

/// A row where each cell is background or, as likely, one of the colours `1..=high`.
pub(super) fn scattered(rng: &mut PyRandom, size: usize, high: u8) -> Vec<u8> {
    (0..size).map(|_| if chance(rng, 0.5) { colour_between(rng, 1, high) } else { 0 }).collect()
}
