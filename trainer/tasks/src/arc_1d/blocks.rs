//! Rules about blocks as such: their noise, their sizes, their order, their colours and their mirror images.

use super::row::{
    Block, Pair, blank, chance, colour, colour_between, colour_but, colours, lined_up, paint, painted, scattered,
    uniform, written,
};
use crate::random::PyRandom;

/// One to three pixels of the block's colour, touching neither it nor each other, disappear.
pub(super) fn noise_outside(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let len = uniform(rng, 2, size);
    let block = Block { start: uniform(rng, 0, size - len), len };
    let colour = colour(rng);
    let output = painted(size, block, colour);
    let mut input = output.clone();
    for _ in 0..uniform(rng, 1, 3) {
        let neighbours = |i: usize| i.saturating_sub(1)..(i + 2).min(size);
        let free = |i: &usize| input[neighbours(*i)].iter().all(|&cell| cell == 0);
        let count = (0..size).filter(free).count();
        if count == 0 {
            return None;
        }
        let chosen = rng.below(count as u64) as usize;
        let place = (0..size).filter(free).nth(chosen)?;
        input[place] = colour;
    }
    Some((input, output))
}

/// Pixels of other colours inside a block take the block's colour.
pub(super) fn noise_inside(rng: &mut PyRandom, size: usize) -> Pair {
    let len = uniform(rng, 6, size);
    let block = Block { start: uniform(rng, 0, size - len), len };
    let colour = colour(rng);
    let output = painted(size, block, colour);
    let mut input = output.clone();
    let count = uniform(rng, 1, len / 2 - 1);
    let mut places: Vec<usize> = (block.start..block.end()).collect();
    rng.shuffle(&mut places);
    for &place in &places[..count] {
        input[place] = colour_redrawn(rng, colour);
    }
    (input, output)
}

/// A pattern that is shown twice fills the row.
pub(super) fn repeat_pattern(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let len = uniform(rng, 2, 5);
    let pattern = colours(rng, len);
    if 2 * len >= size {
        return None;
    }
    let output: Vec<u8> = pattern.iter().copied().cycle().take(size).collect();
    Some((written(size, 0, &output[..2 * len]), output))
}

/// A block with a pixel of another colour at one end is turned around.
pub(super) fn reflect_border(rng: &mut PyRandom, size: usize) -> Pair {
    let len = uniform(rng, 2, size);
    let inner = colour(rng);
    let border = colour_but(rng, 8, inner);
    let (left, start) = (chance(rng, 0.5), uniform(rng, 0, size - len));
    turned(size, start, vec![inner; len], left, border)
}

/// The same, but each cell of the block has its own colour, none the border pixel's.
pub(super) fn reflect_colourful(rng: &mut PyRandom, size: usize) -> Pair {
    let len = uniform(rng, 2, size);
    let (left, start) = (chance(rng, 0.5), uniform(rng, 0, size - len));
    let border = colour(rng);
    let inner = (0..len).map(|_| colour_but(rng, 8, border)).collect();
    turned(size, start, inner, left, border)
}

/// The one biggest block becomes 1.
pub(super) fn paint_biggest(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let colour = colour_between(rng, 2, 9);
    let blocks = loose_blocks(rng, size, 2, |_| 1);
    if blocks.len() < 2 {
        return None;
    }
    let input = painted_all(size, &blocks, colour);
    let biggest = blocks.iter().copied().max_by_key(|block| block.len)?;
    if blocks.iter().filter(|block| block.len == biggest.len).count() > 1 {
        return None;
    }
    let mut output = input.clone();
    paint(&mut output, biggest, 1);
    Some((input, output))
}

/// Of two blocks the bigger becomes 1, the smaller 2.
pub(super) fn recolour_by_size(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let first_len = uniform(rng, 2, 8);
    let second_len = loop {
        let len = uniform(rng, 2, 8);
        if len != first_len {
            break len;
        }
    };
    let spare = size.checked_sub(first_len + second_len + 1)?;
    let first = Block { start: uniform(rng, 0, spare), len: first_len };
    let second = Block { start: uniform(rng, first.end() + 1, size - second_len), len: second_len };
    let (bigger, smaller) = if first.len > second.len { (first, second) } else { (second, first) };
    let mut output = painted(size, bigger, 1);
    paint(&mut output, smaller, 2);
    Some((painted_all(size, &[first, second], 3), output))
}

/// All coloured cells become 5.
pub(super) fn change_to_five(rng: &mut PyRandom, size: usize) -> Pair {
    let input = scattered(rng, size, 9);
    let output = input.iter().map(|&cell| if cell == 0 { 0 } else { 5 }).collect();
    (input, output)
}

/// Blocks of 5 take, from left to right, the colours of the palette at the start of the row.
///
/// Refuses more than nine blocks, which rows of 41 cells and more have room for: the colours of a palette differ, and
/// reasoning-gym looks for a tenth colour forever.
pub(super) fn recolour_from_palette(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let len = uniform(rng, 2, 4);
    let mut blocks = Vec::new();
    let mut start = 0;
    while start + len <= size {
        if chance(rng, 0.4) {
            blocks.push(Block { start, len });
            start += len;
        }
        start += 1;
    }
    // The blocks move right by what the palette takes and one cell more, so some at the end may have to go.
    while blocks.last().is_some_and(|last| last.end() + blocks.len() + 1 >= size) {
        blocks.pop();
    }
    if !(1..=9).contains(&blocks.len()) {
        return None;
    }
    let shift = blocks.len() + 1;
    blocks.iter_mut().for_each(|block| block.start += shift);
    let mut palette = Vec::with_capacity(blocks.len());
    while palette.len() < blocks.len() {
        let colour = colour(rng);
        if !palette.contains(&colour) {
            palette.push(colour);
        }
    }
    let mut input = painted_all(size, &blocks, 5);
    input[..palette.len()].copy_from_slice(&palette);
    let mut output = input.clone();
    for (&block, &colour) in blocks.iter().zip(&palette) {
        paint(&mut output, block, colour);
    }
    Some((input, output))
}

/// The left half of each block of 2, without the middle cell, becomes 8.
pub(super) fn colour_left_halves(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < size {
        if chance(rng, 0.4) {
            let block = Block { start, len: uniform(rng, 2, size / 2) };
            if block.end() > size {
                break;
            }
            blocks.push(block);
            start = block.end();
        }
        start += 1;
    }
    if blocks.len() < 2 {
        return None;
    }
    let input = painted_all(size, &blocks, 2);
    let mut output = input.clone();
    for Block { start, len } in blocks {
        paint(&mut output, Block { start, len: len / 2 }, 8);
    }
    Some((input, output))
}

/// The blocks line up by size from the start of the row.
pub(super) fn sort_by_size(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let colour = colour(rng);
    let blocks = loose_blocks(rng, size, 1, |rng| uniform(rng, 1, 4));
    let mut lengths: Vec<usize> = blocks.iter().map(|block| block.len).collect();
    if lengths.len() < 2 || lengths.iter().sum::<usize>() + lengths.len() - 1 > size {
        return None;
    }
    lengths.sort_unstable();
    Some((painted_all(size, &blocks, colour), lined_up(size, lengths, colour)))
}

/// The same where the blocks have all the sizes from 1 up to the most that the row has room for.
pub(super) fn sort_sequence(rng: &mut PyRandom, size: usize) -> Pair {
    let mut biggest = 0;
    let mut taken = 0;
    // reasoning-gym counts a free cell after each block, the last one too.
    while taken + biggest + 2 <= size {
        biggest += 1;
        taken += biggest + 1;
    }
    let colour = colour(rng);
    let mut lengths: Vec<usize> = (1..=biggest).collect();
    rng.shuffle(&mut lengths);
    (lined_up(size, lengths, colour), lined_up(size, 1..=biggest, colour))
}

/// The cells beside each block of two cells become 3.
pub(super) fn mark_twos(rng: &mut PyRandom, size: usize) -> Pair {
    const MARKER: u8 = 3;
    // Lengths of blocks that have two free cells after them; 0 is one more free cell. The last block may lack the two.
    let mut lengths = vec![2];
    let mut taken = 4;
    while taken < size {
        if chance(rng, 0.4) {
            let len = uniform(rng, 1, 3);
            if taken + len <= size {
                lengths.push(len);
            }
            taken += len + 2;
        } else {
            lengths.push(0);
            taken += 1;
        }
    }
    rng.shuffle(&mut lengths);
    let mut input = blank(size);
    let mut twos = Vec::new();
    let mut start = 0;
    for len in lengths {
        if len == 0 {
            start += 1;
            continue;
        }
        let block = Block { start, len };
        paint(&mut input, block, colour_but(rng, 9, MARKER));
        if len == 2 {
            twos.push(block);
        }
        start += len + 2;
    }
    let mut output = input.clone();
    for block in twos {
        if block.start > 0 {
            output[block.start - 1] = MARKER;
        }
        if block.end() < size {
            output[block.end()] = MARKER;
        }
    }
    (input, output)
}

/// A colour that is not `avoided`, drawn again for as long as it is that.
fn colour_redrawn(rng: &mut PyRandom, avoided: u8) -> u8 {
    loop {
        let drawn = colour(rng);
        if drawn != avoided {
            return drawn;
        }
    }
}

/// A pattern whose left or right end is set to `border`, and the pattern the other way round in the same place.
fn turned(size: usize, start: usize, mut pattern: Vec<u8>, left: bool, border: u8) -> Pair {
    let end = if left { pattern.first_mut() } else { pattern.last_mut() };
    if let Some(cell) = end {
        *cell = border;
    }
    let input = written(size, start, &pattern);
    pattern.reverse();
    (input, written(size, start, &pattern))
}

/// Blocks of `shortest` to six cells: at each cell, 4 in 10 times, one begins, if two cells are left.
fn loose_blocks(
    rng: &mut PyRandom,
    size: usize,
    shortest: usize,
    mut gap: impl FnMut(&mut PyRandom) -> usize,
) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < size {
        let left = size - start;
        if chance(rng, 0.4) && left >= 2 {
            let block = Block { start, len: uniform(rng, shortest, left.min(6)) };
            blocks.push(block);
            start = block.end() + gap(rng);
        } else {
            start += 1;
        }
    }
    blocks
}

fn painted_all(size: usize, blocks: &[Block], colour: u8) -> Vec<u8> {
    let mut row = blank(size);
    for &block in blocks {
        paint(&mut row, block, colour);
    }
    row
}
