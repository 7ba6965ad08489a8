//! Reads a formula from an answer, as reasoning-gym's `parse_expr` does but without its recursion.
//!
//! That parser takes the text apart from the outside: it strips white space, takes off brackets that enclose
//! everything, and splits at the last connective of the lowest precedence outside of brackets; what has no connective
//! and does not begin with `¬` is a variable, whatever it says. Brackets that do not match are part of a name.
//! Here the depth of every position is known before, so that a split is a binary search, and the whole takes
//! `O(n log n)` steps for `n` bytes.

use super::formula::{Formula, Op};
use crate::python::text::is_space;

/// More variables than this are not read: the truth table has `2^variables` rows.
pub(super) const MOST_NAMES: u8 = 16;
/// Deeper text is not read; CPython gives up at about this depth too.
const MAX_DEPTH: u32 = 900;

/// Connectives from the one that binds least.
const CONNECTIVES: [(char, Op); 4] = [('↔', Op::Iff), ('→', Op::Implies), ('∨', Op::Or), ('∧', Op::And)];

/// The formula and how many variables there are with those that it adds to the first `known`, which are P, Q and so on.
/// `None` if some part is empty, and beyond the limits above.
pub(super) fn parse(text: &str, known: u8) -> Option<(Formula, u8)> {
    let map = Map::of(text)?;
    let mut names: Vec<&str> = Vec::new();
    let mut ops = Vec::new();
    let mut waiting = vec![(0, text.len(), 0)];
    while let Some((start, end, depth)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return None;
        }
        let piece = &text[start..end];
        let start = start + piece.len() - piece.trim_start_matches(is_space).len();
        let piece = piece.trim_matches(is_space);
        let end = start + piece.len();
        if piece.is_empty() {
            return None;
        }
        if map.encloses(start, end) {
            waiting.push((start + 1, end - 1, depth + 1));
        } else if let Some((at, connective, op)) = map.split(start, end) {
            ops.push(op);
            waiting.push((at + connective.len_utf8(), end, depth + 1));
            waiting.push((start, at, depth + 1));
        } else if let Some(rest) = piece.strip_prefix('¬') {
            ops.push(Op::Not);
            waiting.push((end - rest.len(), end, depth + 1));
        } else {
            ops.push(Op::Variable(variable(piece, known, &mut names)?));
        }
    }
    Some((Formula::new(ops), known + names.len() as u8))
}

fn variable<'a>(name: &'a str, known: u8, names: &mut Vec<&'a str>) -> Option<u8> {
    if let &[letter @ b'P'..=b'Z'] = name.as_bytes()
        && letter - b'P' < known
    {
        return Some(letter - b'P');
    }
    let place = names.iter().position(|other| *other == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    let variable = known.checked_add(u8::try_from(place).ok()?)?;
    (variable < MOST_NAMES).then_some(variable)
}

/// Where brackets and connectives are.
struct Map {
    /// How many brackets are open before each byte, less those closed; one entry more than there are bytes.
    depths: Vec<i32>,
    /// The closing bracket of each opening one; beyond the text where there is none.
    closing: Vec<u32>,
    /// Per connective, the depth and place of each.
    connectives: [Vec<(i32, usize)>; 4],
}

impl Map {
    fn of(text: &str) -> Option<Self> {
        let beyond = u32::try_from(text.len()).ok()?;
        let mut depths = Vec::with_capacity(text.len() + 1);
        let mut closing = vec![beyond; text.len()];
        let mut connectives: [Vec<(i32, usize)>; 4] = Default::default();
        let (mut depth, mut open) = (0, Vec::new());
        for (at, c) in text.char_indices() {
            depths.resize(at + c.len_utf8(), depth);
            match c {
                '(' => {
                    depth += 1;
                    open.push(at);
                }
                ')' => {
                    depth -= 1;
                    if let Some(opening) = open.pop() {
                        closing[opening] = at as u32;
                    }
                }
                _ => {
                    if let Some(class) = CONNECTIVES.iter().position(|(connective, _)| *connective == c) {
                        connectives[class].push((depth, at));
                    }
                }
            }
        }
        depths.push(depth);
        connectives.iter_mut().for_each(|places| places.sort_unstable());
        Some(Self { depths, closing, connectives })
    }

    /// Whether one pair of brackets is around everything from `start` to `end`.
    fn encloses(&self, start: usize, end: usize) -> bool {
        self.closing[start] as usize == end - 1
    }

    /// The connective to split at: as many brackets are open before it as at the end.
    fn split(&self, start: usize, end: usize) -> Option<(usize, char, Op)> {
        let depth = self.depths[end];
        self.connectives.iter().zip(CONNECTIVES).find_map(|(places, (connective, op))| {
            let after = places.partition_point(|&place| place < (depth, end));
            let &(found, at) = places.get(after.checked_sub(1)?)?;
            (found == depth && at >= start).then_some((at, connective, op))
        })
    }
}
