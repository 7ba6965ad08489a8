//! Rules in which single pixels say what becomes of the row: dots that blocks go to, seeds, ends of what is filled.

use super::row::{Block, Pair, blank, chance, colour, colour_between, colour_but, paint, painted, uniform};
use crate::random::PyRandom;

/// A block slides toward the dot until it touches it, by at most `most` cells.
pub(super) fn slide_to_dot(rng: &mut PyRandom, size: usize, dot_colour: u8, most: usize) -> Option<Pair> {
    let scene = BlockAndDot::draw(rng, size, dot_colour)?;
    let Block { start, len } = scene.block;
    let start = if scene.is_left() {
        start + most.min(scene.dot - scene.block.end())
    } else {
        start - most.min(start - scene.dot - 1)
    };
    Some((scene.show(size, scene.block), scene.show(size, Block { start, len })))
}

/// A block grows until it covers the dot.
pub(super) fn grow_to_dot(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let scene = BlockAndDot::draw(rng, size, 2)?;
    let start = scene.dot.min(scene.block.start);
    let end = scene.block.end().max(scene.dot + 1);
    Some((scene.show(size, scene.block), scene.show(size, Block { start, len: end - start })))
}

/// A block goes to its mirror image on the other side of the dot.
pub(super) fn reflect_around_dot(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let dot = uniform(rng, 0, size - 1);
    let len = uniform(rng, 1, size - 1);
    let block = Block { start: uniform(rng, 0, size - len), len };
    if (block.start..block.end()).contains(&dot) {
        return None;
    }
    // reasoning-gym draws the colour before it looks whether the image is inside the row.
    let scene = BlockAndDot { dot, dot_colour: 2, block, colour: colour_between(rng, 3, 9) };
    let start = (2 * dot + 1).checked_sub(block.end())?;
    let image = Block { start, len };
    (image.end() <= size).then(|| (scene.show(size, block), scene.show(size, image)))
}

/// The cells between two points take the colour of the points.
pub(super) fn fill_between(rng: &mut PyRandom, size: usize) -> Option<Pair> {
    let colour = colour(rng);
    let (one, other) = (uniform(rng, 0, size - 1), uniform(rng, 0, size - 1));
    let (left, right) = (one.min(other), one.max(other));
    if left == right {
        return None;
    }
    let mut input = blank(size);
    input[left] = colour;
    input[right] = colour;
    Some((input, painted(size, Block { start: left, len: right - left + 1 }, colour)))
}

/// Which colour dots have, and with them the copies in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DotColour {
    /// The colour of the block that is copied.
    Block,
    /// Each its own.
    Own,
}

/// The block at the start of the row is copied onto each dot, which becomes the copy's middle.
pub(super) fn copy_to_dots(rng: &mut PyRandom, size: usize, dots: DotColour) -> Option<Pair> {
    let len = if chance(rng, 0.5) { 3 } else { 5 };
    let block_colour = colour(rng);
    let mut input = painted(size, Block { start: 0, len }, block_colour);
    let mut output = input.clone();
    let mut any = false;
    // The first copy leaves one cell free after the block; the later ones leave one between each other.
    let mut dot = len + len / 2 + 1;
    while dot <= size - len {
        if chance(rng, 0.5) {
            let colour = if dots == DotColour::Own { colour(rng) } else { block_colour };
            input[dot] = colour;
            paint(&mut output, Block { start: dot - len / 2, len }, colour);
            any = true;
            dot += len;
        }
        dot += 1;
    }
    any.then_some((input, output))
}

/// A block of 1 has a seed two cells away, left, right or on both sides: copies of the block in the seed's colour go
/// from the seed outward to the end of the row, with one cell between them.
pub(super) fn duplicate_from_seeds(rng: &mut PyRandom, size: usize) -> Pair {
    let len = uniform(rng, 2, 4);
    let block = Block { start: uniform(rng, 2, size - len - 2), len };
    let (left, right) = loop {
        let (left, right) = (chance(rng, 0.5), chance(rng, 0.5));
        if left || right {
            break (left, right);
        }
    };
    let mut input = painted(size, block, 1);
    let mut output = input.clone();
    let copied = |steps: usize| steps % (len + 1) != len;
    if left {
        let (seed, colour) = (block.start - 2, colour(rng));
        input[seed] = colour;
        (0..=seed).filter(|&steps| copied(steps)).for_each(|steps| output[seed - steps] = colour);
    }
    if right {
        let (seed, colour) = (block.end() + 1, colour(rng));
        input[seed] = colour;
        (0..size - seed).filter(|&steps| copied(steps)).for_each(|steps| output[seed + steps] = colour);
    }
    (input, output)
}

/// The pixel beside a block fills the row from there to the end on its side.
pub(super) fn fill_from_pixel(rng: &mut PyRandom, size: usize) -> Pair {
    let len = uniform(rng, 3, size - 5);
    let block = Block { start: uniform(rng, 2, size - len - 2), len };
    let block_colour = colour(rng);
    let colour = colour_but(rng, 9, block_colour);
    let mut input = painted(size, block, block_colour);
    let mut output = input.clone();
    if chance(rng, 0.5) {
        input[block.start - 1] = colour;
        output[..block.start].fill(colour);
    } else {
        input[block.end()] = colour;
        output[block.end()..].fill(colour);
    }
    (input, output)
}

/// A marker of colour 5 stands at one end of the row: each pixel fills the cells on its marker's side up to the next
/// pixel or the marker.
pub(super) fn fill_until_collision(rng: &mut PyRandom, size: usize) -> Pair {
    const MARKER: u8 = 5;
    let marked_left = chance(rng, 0.5);
    let mut input = blank(size);
    input[if marked_left { 0 } else { size - 1 }] = MARKER;
    let first = usize::from(marked_left);
    let count = uniform(rng, 2, 4);
    let mut places = Vec::with_capacity(count);
    while places.len() < count {
        let place = uniform(rng, first, first + size - 2);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    for place in places {
        input[place] = colour_but(rng, 9, MARKER);
    }
    let mut output = input.clone();
    if marked_left {
        carry(output[1..].iter_mut().rev());
    } else {
        carry(output[..size - 1].iter_mut());
    }
    (input, output)
}

/// Gives each background cell the last colour that came before it.
fn carry<'a>(cells: impl Iterator<Item = &'a mut u8>) {
    let mut last = 0;
    for cell in cells {
        if *cell == 0 {
            *cell = last;
        } else {
            last = *cell;
        }
    }
}

/// A dot, and a block of another colour that does not cover it.
struct BlockAndDot {
    dot: usize,
    dot_colour: u8,
    block: Block,
    colour: u8,
}

impl BlockAndDot {
    /// The block's colour is above the dot's. `None` where the block fits on neither side of the dot.
    fn draw(rng: &mut PyRandom, size: usize, dot_colour: u8) -> Option<Self> {
        let colour = colour_between(rng, dot_colour + 1, 9);
        let len = uniform(rng, 1, size - 1);
        let dot = uniform(rng, 0, size - 1);
        let left = match (dot >= len, dot + len < size) {
            (true, true) => *rng.choice(&[true, false]),
            (true, false) => true,
            (false, true) => false,
            (false, false) => return None,
        };
        let start = if left { uniform(rng, 0, dot - len) } else { uniform(rng, dot + 1, size - len) };
        Some(Self { dot, dot_colour, block: Block { start, len }, colour })
    }

    fn is_left(&self) -> bool {
        self.block.start < self.dot
    }

    /// A row with the dot, and with the block at `block`, over the dot where they meet.
    fn show(&self, size: usize, block: Block) -> Vec<u8> {
        let mut row = blank(size);
        row[self.dot] = self.dot_colour;
        paint(&mut row, block, self.colour);
        row
    }
}
