//! Formulas, their text and their truth tables.

use std::fmt;

use crate::random::PyRandom;

/// A node of a formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// 0 is P.
    Variable(u8),
    Not,
    And,
    Or,
    Implies,
    Iff,
}

/// A formula, its nodes in prefix order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Formula {
    ops: Vec<Op>,
}

impl Formula {
    /// Of nodes in prefix order, which the caller has complete.
    pub(super) fn new(ops: Vec<Op>) -> Self {
        Self { ops }
    }

    pub(super) fn variable(variable: u8) -> Self {
        Self { ops: vec![Op::Variable(variable)] }
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// A random formula of `depth` levels, the last of which are variables.
    pub(super) fn draw(rng: &mut PyRandom, variables: u8, depth: i64) -> Self {
        fn grow(rng: &mut PyRandom, variables: u8, depth: i64, ops: &mut Vec<Op>) {
            if depth <= 1 {
                return ops.push(Op::Variable(rng.below(variables.into()) as u8));
            }
            let op = *rng.choice(&[Op::And, Op::Or, Op::Not, Op::Implies, Op::Iff]);
            ops.push(op);
            grow(rng, variables, depth - 1, ops);
            if op != Op::Not {
                grow(rng, variables, depth - 1, ops);
            }
        }
        let mut ops = Vec::with_capacity(8);
        grow(rng, variables, depth, &mut ops);
        Self { ops }
    }

    /// The same with some variables negated wherever they occur.
    pub(super) fn with_negated(&self, negated: &[bool]) -> Self {
        let mut ops = Vec::with_capacity(2 * self.ops.len());
        for &op in &self.ops {
            if let Op::Variable(variable) = op
                && negated.get(usize::from(variable)) == Some(&true)
            {
                // Not twice.
                if ops.pop_if(|last| *last == Op::Not).is_none() {
                    ops.push(Op::Not);
                }
            }
            ops.push(op);
        }
        Self { ops }
    }

    /// What reasoning-gym's `simplify` does to a formula of one connective: `P → Q` becomes `¬P ∨ Q`.
    pub(super) fn without_implication(mut self) -> Self {
        if self.ops[0] == Op::Implies {
            self.ops.splice(..1, [Op::Or, Op::Not]);
        }
        self
    }

    /// Appends the text: brackets around every connective of two, none elsewhere.
    pub(super) fn push(&self, text: &mut String) {
        let mut waiting: Vec<Option<Op>> = Vec::with_capacity(8);
        for &op in &self.ops {
            match op {
                Op::Variable(variable) => {
                    text.push(char::from(b'P' + variable));
                    // This ends the right sides of some connectives, and then the left side of one.
                    while let Some(last) = waiting.pop() {
                        match last {
                            None => text.push(')'),
                            Some(connective) => {
                                text.push_str(match connective {
                                    Op::And => " ∧ ",
                                    Op::Or => " ∨ ",
                                    Op::Implies => " → ",
                                    _ => " ↔ ",
                                });
                                waiting.push(None);
                                break;
                            }
                        }
                    }
                }
                Op::Not => text.push('¬'),
                connective => {
                    text.push('(');
                    waiting.push(Some(connective));
                }
            }
        }
    }

    /// The values under 64 assignments: bit `i` for the one whose number is `64 * word + i`, where variable `v` has the
    /// value of the number's bit `v`.
    fn values(&self, word: usize, stack: &mut Vec<u64>) -> u64 {
        const LOW: [u64; 6] = [
            0xaaaa_aaaa_aaaa_aaaa,
            0xcccc_cccc_cccc_cccc,
            0xf0f0_f0f0_f0f0_f0f0,
            0xff00_ff00_ff00_ff00,
            0xffff_0000_ffff_0000,
            0xffff_ffff_0000_0000,
        ];
        stack.clear();
        for &op in self.ops.iter().rev() {
            let mut side = || stack.pop().unwrap_or_default();
            let value = match op {
                Op::Variable(variable) => match LOW.get(usize::from(variable)) {
                    Some(&values) => values,
                    None if word >> (variable - 6) & 1 == 1 => u64::MAX,
                    None => 0,
                },
                Op::Not => !side(),
                Op::And => side() & side(),
                Op::Or => side() | side(),
                // The left side is on top.
                Op::Implies => !side() | side(),
                Op::Iff => !(side() ^ side()),
            };
            stack.push(value);
        }
        stack.pop().unwrap_or_default()
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push(&mut text);
        f.write_str(&text)
    }
}

/// The truth table of a formula over some variables, in words of 64 assignments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    first: u64,
    /// Empty up to 6 variables.
    others: Vec<u64>,
    /// The assignments there are in each word.
    mask: u64,
}

impl Table {
    pub(super) fn of(formula: &Formula, variables: u8) -> Self {
        let mut stack = Vec::with_capacity(formula.ops.len());
        let mask = mask(variables);
        let mut word = |word| formula.values(word, &mut stack) & mask;
        Self { first: word(0), others: (1..words(variables)).map(&mut word).collect(), mask }
    }

    /// Where all of `tables` are true.
    pub(super) fn conjunction(tables: &[Self], variables: u8) -> Self {
        let mask = mask(variables);
        let mut all = Self { first: mask, others: vec![mask; words(variables) - 1], mask };
        for table in tables {
            all.first &= table.first;
            all.others.iter_mut().zip(&table.others).for_each(|(all, one)| *all &= one);
        }
        all
    }

    pub(super) fn implies(&self, other: &Self) -> bool {
        self.words().zip(other.words()).all(|(one, other)| one & !other == 0)
    }

    pub(super) fn is_always_true(&self) -> bool {
        self.words().all(|word| word == self.mask)
    }

    pub(super) fn is_never_true(&self) -> bool {
        self.words().all(|word| word == 0)
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}

/// How a conclusion stands to its premises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Follows {
    pub(super) from_all: bool,
    /// It is true whatever the variables are.
    pub(super) always: bool,
}

/// Node evaluations that one answer may cost; each is for 64 assignments at once.
const MOST_WORK: usize = 1 << 26;

/// `None` if that is more work than an answer may make.
pub(super) fn follows(premises: &[Formula], conclusion: &Formula, variables: u8) -> Option<Follows> {
    let nodes: usize = premises.iter().chain([conclusion]).map(|formula| formula.ops.len()).sum();
    if nodes.saturating_mul(words(variables)) > MOST_WORK {
        return None;
    }
    let mut stack = Vec::with_capacity(16);
    let mut follows = Follows { from_all: true, always: true };
    for word in 0..words(variables) {
        let wrong = !conclusion.values(word, &mut stack) & mask(variables);
        let premises = premises.iter().fold(wrong, |left, premise| match left {
            0 => 0,
            left => left & premise.values(word, &mut stack),
        });
        follows.always &= wrong == 0;
        follows.from_all &= premises == 0;
    }
    Some(follows)
}

fn words(variables: u8) -> usize {
    1 << variables.saturating_sub(6)
}

fn mask(variables: u8) -> u64 {
    if variables < 6 { (1 << (1 << variables)) - 1 } else { u64::MAX }
}
