//! `base_conversion`: a number from one base to another.

use serde_json::{Value, json};

use crate::config::{Fields, wrong};
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle, default_score};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "base_conversion",
    description: "convert a number between two bases",
    read: |fields, mode| Ok(Box::new(BaseConversion::read(fields, mode)?)),
};

#[derive(Debug)]
struct BaseConversion {
    base: [i64; 2],
    value: [i64; 2],
    mode: Mode,
}

/// What is converted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversion {
    value: u64,
    source: u64,
    target: u64,
    mode: Mode,
}

impl Conversion {
    /// The value in a base. reasoning-gym's own loop, which serves all bases but 2 and 16, makes nothing of zero.
    fn text(&self, base: u64) -> String {
        if self.value == 0 {
            let is_empty = self.mode == Mode::Exact && !matches!(base, 2 | 16);
            return if is_empty { String::new() } else { "0".into() };
        }
        let mut digits = [0; 64];
        let (mut at, mut rest) = (digits.len(), self.value);
        while rest > 0 {
            at -= 1;
            digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % base) as usize];
            rest /= base;
        }
        digits[at..].iter().map(|&digit| char::from(digit)).collect()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "decimal_value": self.value,
            "source_base": self.source,
            "target_base": self.target,
            "source_repr": self.text(self.source),
            "target_repr": self.text(self.target),
        })
    }
}

impl BaseConversion {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let base = fields.span(["min_base", "max_base"], [2, 16], 2..=36)?;
        let value = fields.span(["min_value", "max_value"], [0, 1000], 0..=1_000_000_000_000_000)?;
        if base[0] == base[1] {
            return Err(wrong("max_base", "it must be more than `min_base`: a number is converted between two bases"));
        }
        if value[0] == value[1] {
            return Err(wrong("max_value", "it must be more than `min_value`"));
        }
        if mode == Mode::Hardened && value[1] < base[0] {
            return Err(wrong("max_value", "below `min_base` a number has the same text in all bases"));
        }
        Ok(Self { base, value, mode })
    }
}

impl Puzzle for BaseConversion {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let value = rng.randint(self.value[0], self.value[1]).unsigned_abs();
        let mut base = || rng.randint(self.base[0], self.base[1]).unsigned_abs();
        let source = base();
        let target = std::iter::repeat_with(base).find(|&target| target != source)?;
        let conversion = Conversion { value, source, target, mode: self.mode };
        let (from, to) = (conversion.text(source), conversion.text(target));
        if self.mode == Mode::Hardened && from == to {
            return None;
        }
        let mut question = String::with_capacity(256);
        question
            .push_str("Your task is to convert a number between two different bases.\n\nIf the target base is > 10, ");
        question.push_str("use lowercase letters a-z for digits above 9.\n\nNow, convert the ");
        push_name(&mut question, source);
        question.push_str(" number ");
        question.push_str(&from);
        question.push_str(" to ");
        push_name(&mut question, target);
        question.push('\n');
        Some(Drawn { question, answer: Some(to), facts: Facts::BaseConversion(conversion) })
    }

    fn score(&self, item: &Item, answer: &str) -> f64 {
        default_score(item, answer, self.mode)
    }

    fn difficulty(&self) -> Value {
        json!({ "base": self.base, "value": self.value })
    }

    fn bounds(&self) -> Bounds {
        let digits = self.value[1].unsigned_abs().ilog(self.base[0].unsigned_abs()) as usize + 1;
        // 165 bytes are the same in all questions; a base's name has at most 11.
        Bounds { prompt: 165 + 2 * 11 + digits, answer: digits }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        let Bounds { answer, .. } = self.bounds();
        Ok(Bounds { prompt: 9 + answer, answer })
    }

    /// `b:10>2:11=`: from base 10 to base 2.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::BaseConversion(conversion) = &item.metadata.facts else { return None };
        let Conversion { source, target, .. } = conversion;
        Some(format!("b:{source}>{target}:{}=", conversion.text(*source)))
    }
}

fn push_name(text: &mut String, base: u64) {
    match base {
        2 => text.push_str("binary"),
        16 => text.push_str("hexadecimal"),
        _ => {
            text.push_str("base-");
            text.push_str(&base.to_string());
        }
    }
}
