//! What an element holds, as an expression of input elements. Equal expressions have equal numbers.

use std::collections::HashMap;

use crate::plan::Rank;

/// An expression: a leaf (an input) or the reduction of several expressions in order.
pub(super) type Tree = u32;

/// The content of a run of elements: the element at position `p` is `tree` at index `p + base`, where the index is that
/// of the leftmost input element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) tree: Tree,
    pub(super) base: i64,
}

impl Value {
    /// The same content, for positions counted from `start` later.
    pub(super) fn from(self, start: usize) -> Self {
        Self { base: self.base + start as i64, ..self }
    }

    /// The same content, for positions counted from `start` earlier.
    pub(super) fn at(self, start: usize) -> Self {
        Self { base: self.base - start as i64, ..self }
    }
}

/// A term of a reduction: the expression, and how far its index is from that of the first term.
type Term = (Tree, i64);

/// What the checks want to know of an expression.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    /// Whose inputs occur, a bit for each rank.
    pub(super) ranks: u64,
    /// Every input occurs once, and all at the same index.
    pub(super) clean: bool,
    /// One reduction of all inputs in rank order.
    pub(super) flat: bool,
}

#[derive(Debug)]
pub(super) struct Forest {
    ranks: usize,
    /// By number; leaves have no terms.
    terms: Vec<Box<[Term]>>,
    summaries: Vec<Summary>,
    numbers: HashMap<Box<[Term]>, Tree>,
    /// The terms that are being looked up, kept to save an allocation.
    draft: Vec<Term>,
}

impl Forest {
    /// With a leaf for each rank: tree `r` is the input of rank `r`.
    pub(super) fn new(ranks: usize) -> Self {
        Self {
            ranks,
            terms: vec![Box::from([]); ranks],
            summaries: (0..ranks).map(|rank| Summary { ranks: 1 << rank, clean: true, flat: ranks == 1 }).collect(),
            numbers: HashMap::new(),
            draft: Vec::new(),
        }
    }

    /// The input of `rank`, whose index is the position.
    pub(super) fn input(&self, rank: Rank) -> Value {
        Value { tree: rank as Tree, base: 0 }
    }

    /// The reduction of `values` in order. One value is itself.
    pub(super) fn reduce(&mut self, values: &[Value]) -> Value {
        let first = values[0];
        if values.len() == 1 {
            return first;
        }
        self.draft.clear();
        self.draft.extend(values.iter().map(|value| (value.tree, value.base - first.base)));
        let tree = match self.numbers.get(self.draft.as_slice()) {
            Some(&tree) => tree,
            None => self.grow(),
        };
        Value { tree, ..first }
    }

    pub(super) fn summary(&self, tree: Tree) -> Summary {
        self.summaries[tree as usize]
    }

    /// The expression in words, cut where it becomes long.
    pub(super) fn words(&self, value: Value, position: usize) -> String {
        let mut text = String::new();
        self.write(&mut text, value.tree, value.base + position as i64);
        text
    }

    fn grow(&mut self) -> Tree {
        let mut summary = Summary { ranks: 0, clean: true, flat: self.draft.len() == self.ranks };
        for (i, &(tree, offset)) in self.draft.iter().enumerate() {
            let part = self.summaries[tree as usize];
            summary.clean &= part.clean && offset == 0 && summary.ranks & part.ranks == 0;
            summary.flat &= tree as usize == i && offset == 0;
            summary.ranks |= part.ranks;
        }
        let tree = self.terms.len() as Tree;
        let terms: Box<[Term]> = self.draft.as_slice().into();
        self.numbers.insert(terms.clone(), tree);
        self.terms.push(terms);
        self.summaries.push(summary);
        tree
    }

    fn write(&self, text: &mut String, tree: Tree, index: i64) {
        const LONG: usize = 160;
        let terms = &self.terms[tree as usize];
        if terms.is_empty() {
            text.push_str(&format!("input {tree}[{index}]"));
            return;
        }
        text.push('(');
        for (i, &(term, offset)) in terms.iter().enumerate() {
            if i > 0 {
                text.push_str(" + ");
            }
            if text.len() > LONG {
                text.push_str("...");
                break;
            }
            self.write(text, term, index + offset);
        }
        text.push(')');
    }
}
