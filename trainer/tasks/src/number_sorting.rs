//! `number_sorting`: numbers in ascending or descending order.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::config::{Fields, wrong};
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::python::json::{floats_of_list, is_sorted};
use crate::python::number::repr;
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "number_sorting",
    description: "sort numbers in ascending or descending order",
    read: |fields, mode| Ok(Box::new(NumberSorting::read(fields, mode)?)),
};

#[derive(Debug)]
struct NumberSorting {
    numbers: [i64; 2],
    decimals: [i64; 2],
    value: [f64; 2],
    mode: Mode,
}

/// The numbers in the order of the question and in the order asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Numbers {
    original: Vec<f64>,
    sorted: Vec<f64>,
    ascending: bool,
}

impl Numbers {
    fn direction(&self) -> &'static str {
        if self.ascending { "ascending" } else { "descending" }
    }

    pub(crate) fn to_json(&self) -> Value {
        let texts = |numbers: &[f64]| numbers.iter().map(|&number| repr(number)).collect::<Vec<_>>();
        json!({
            "original_numbers": texts(&self.original),
            "direction": self.direction(),
            "sorted_numbers": texts(&self.sorted),
            "numbers": self.original.len(),
        })
    }
}

impl NumberSorting {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let numbers = fields.span(["min_numbers", "max_numbers"], [3, 10], 1..=200)?;
        let decimals = fields.span(["min_decimals", "max_decimals"], [0, 2], 0..=8)?;
        let low = fields.float("min_value", -100.0, -1e9..=1e9)?;
        let high = fields.float("max_value", 100.0, -1e9..=1e9)?;
        if high <= low {
            return Err(wrong("max_value", "it must be more than `min_value`"));
        }
        Ok(Self { numbers, decimals, value: [low, high], mode })
    }
}

/// `numpy.round(number, decimals)` for up to 22 decimals.
fn rounded(number: f64, decimals: i64) -> f64 {
    if decimals == 0 {
        return number.round_ties_even();
    }
    let unit = 10_f64.powi(decimals as i32);
    (number * unit).round_ties_even() / unit
}

/// `texts`, separated by `between`, each between two quotes.
fn push_all<'a>(text: &mut String, texts: impl Iterator<Item = &'a String>, quote: &str) {
    for (i, one) in texts.enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(quote);
        text.push_str(one);
        text.push_str(quote);
    }
}

impl Puzzle for NumberSorting {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let count = rng.randint(self.numbers[0], self.numbers[1]);
        let original: Vec<f64> = (0..count)
            .map(|_| {
                let number = self.value[0] + (self.value[1] - self.value[0]) * rng.random();
                rounded(number, rng.randint(self.decimals[0], self.decimals[1]))
            })
            .collect();
        let ascending = rng.coin();
        // Both sorts leave equal numbers in their order, -0.0 and 0.0 among them.
        let mut order: Vec<usize> = (0..original.len()).collect();
        order.sort_by(|&a, &b| {
            let order = original[a].partial_cmp(&original[b]).unwrap_or(std::cmp::Ordering::Equal);
            if ascending { order } else { order.reverse() }
        });
        let texts: Vec<String> = original.iter().map(|&number| repr(number)).collect();
        let sorted = order.iter().map(|&place| original[place]).collect();
        let numbers = Numbers { original, sorted, ascending };
        let mut question = String::with_capacity(384 + 12 * texts.len());
        question.push_str("Sort these numbers in ");
        question.push_str(numbers.direction());
        question.push_str(" order: ");
        push_all(&mut question, texts.iter(), "");
        question.push_str(INSTRUCTION);
        let mut answer = String::with_capacity(16 * texts.len());
        answer.push('[');
        push_all(&mut answer, order.iter().map(|&place| &texts[place]), "'");
        answer.push(']');
        Some(Drawn { question, answer: Some(answer), facts: Facts::NumberSorting(numbers) })
    }

    /// reasoning-gym takes a sorted list whose numbers are at most 1 off. NaN passes both of its checks. In hardened
    /// mode the numbers must be those of the question.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let Facts::NumberSorting(numbers) = &item.metadata.facts else { return 0.0 };
        let quoted = if answer.contains('\'') { Cow::Owned(answer.replace('\'', "\"")) } else { Cow::Borrowed(answer) };
        let Some(floats) = floats_of_list(&quoted).filter(|floats| floats.len() == numbers.sorted.len()) else {
            return 0.0;
        };
        let is_right = match self.mode {
            Mode::Hardened => floats == numbers.sorted,
            Mode::Exact => {
                let is_far = |(a, b): (&f64, &f64)| (a - b).abs() > 1.0;
                is_sorted(&floats, numbers.ascending) && !floats.iter().zip(&numbers.sorted).any(is_far)
            }
        };
        f64::from(is_right)
    }

    fn difficulty(&self) -> Value {
        json!({ "numbers": self.numbers, "decimals": self.decimals, "value": self.value })
    }

    fn bounds(&self) -> Bounds {
        let count = self.numbers[1] as usize;
        let width = self.width() + 1 + (self.decimals[1] as usize).max(1);
        Bounds { prompt: 40 + INSTRUCTION.len() + count * (width + 2), answer: 2 + count * (width + 4) }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        let count = self.numbers[1] as usize;
        let fraction = if self.decimals[1] > 0 { 1 + self.decimals[1] as usize } else { 0 };
        let width = self.width() + fraction;
        Ok(Bounds { prompt: 3 + count * (width + 1) - 1, answer: count * (width + 1) - 1 })
    }

    /// `s:31,7,25=`, smallest first, or `z:31,7,25=`, largest first.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::NumberSorting(numbers) = &item.metadata.facts else { return None };
        let mark = if numbers.ascending { "s:" } else { "z:" };
        Some([mark, &short(&numbers.original), "="].concat())
    }

    /// `7,25,31`.
    fn compact_answer(&self, item: &Item, oracle: String) -> String {
        match &item.metadata.facts {
            Facts::NumberSorting(numbers) => short(&numbers.sorted),
            _ => oracle,
        }
    }

    /// `7,25,31` becomes `[7,25,31]`.
    fn expand<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        if answer.starts_with('[') { Cow::Borrowed(answer) } else { Cow::Owned(["[", answer, "]"].concat()) }
    }
}

impl NumberSorting {
    /// The most characters of a number before its point. Where a number is printed in scientific notation it is shorter.
    fn width(&self) -> usize {
        let largest = self.value[0].abs().max(self.value[1].abs()).ceil();
        let sign = usize::from(self.value[0] < 0.0);
        sign + (largest as u64).max(1).ilog10() as usize + 1
    }
}

/// Numbers with commas between, whole ones without a point.
fn short(numbers: &[f64]) -> String {
    let texts: Vec<String> = numbers.iter().map(|&number| repr(number).trim_end_matches(".0").to_owned()).collect();
    texts.join(",")
}

const INSTRUCTION: &str = "
Please follow the instruction below:
## 1. Let all your answers be a list of numbers. Instead of reporting your answer as -69, -13, 1, 7, 11, 43, 59, 61, use \
['-69', '-13', '1', '7', '11', '43', '59', '61'] instead
## 2. Convert all numbers in the square brackets as strings. For example, ['-69', '-13', '1', '7', '11', '43', '59', '61']
";
