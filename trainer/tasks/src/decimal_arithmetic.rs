//! `decimal_arithmetic`: an expression of decimal numbers, to some significant digits.

use serde_json::{Value, json};

use crate::config::{Fields, wrong};
use crate::decimal::{Context, MAX_PRECISION, is_close};
use crate::expression::evaluate;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "decimal_arithmetic",
    description: "evaluate an expression of decimal numbers to a few significant digits",
    read: |fields, mode| Ok(Box::new(DecimalArithmetic::read(fields, mode)?)),
};

#[derive(Debug)]
struct DecimalArithmetic {
    places: [i64; 2],
    terms: [i64; 2],
    context: Context,
    mode: Mode,
}

impl DecimalArithmetic {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let places = fields.span(["min_num_decimal_places", "max_num_decimal_places"], [1, 3], 0..=6)?;
        let terms = fields.span(["min_terms", "max_terms"], [2, 6], 1..=16)?;
        let precision = fields.int("precision", 5, 2..=MAX_PRECISION)?;
        if precision <= places[1] + 1 {
            return Err(wrong("precision", "it must be at least 2 more than `max_num_decimal_places`"));
        }
        Ok(Self { places, terms, context: Context { precision: precision as u32 }, mode })
    }
}

impl Puzzle for DecimalArithmetic {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let terms = rng.randint(self.terms[0], self.terms[1]) as usize;
        let (mut operands, mut operators) = (Vec::with_capacity(terms), Vec::with_capacity(terms));
        let mut most_places = 1;
        for term in 0..terms {
            let places = rng.randint(self.places[0], self.places[1]) as u32;
            most_places = most_places.max(places as usize);
            let unit = 10_i64.pow(places);
            let raw = rng.randint(1, 10 * unit);
            operands.push(match places {
                0 => raw.to_string(),
                _ => format!("{}.{:0>width$}", raw / unit, raw % unit, width = places as usize),
            });
            if term + 1 < terms {
                operators.push(*rng.choice(&['+', '-', '*', '/']));
            }
        }
        let expression = grouped(&operands, &operators, rng);
        // A division by zero ends reasoning-gym; here the next draw follows.
        let value = evaluate(&self.context, &expression)?;
        let answer = value.to_string();
        let facts = Facts::Decimal { decimal_places: most_places, num_terms: terms, value, expression };
        if self.mode == Mode::Hardened && is_close(self.context, "0", value, self.places[1] as u32) {
            return None;
        }
        let Facts::Decimal { expression, .. } = &facts else { return None };
        let precision = self.context.precision.to_string();
        let question = [
            "Please solve this problem to a maximum of ",
            &precision,
            " significant digits, rounding up from the half. Only reply with the final value.\n",
            expression,
            " = ?",
        ];
        Some(Drawn { question: question.concat(), answer: Some(answer), facts })
    }

    /// Within one unit of the last of `max_num_decimal_places`, whatever the size of the answer.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let Facts::Decimal { value, .. } = &item.metadata.facts else { return 0.0 };
        f64::from(is_close(self.context, answer, *value, self.places[1] as u32))
    }

    fn difficulty(&self) -> Value {
        json!({ "decimal_places": self.places, "num_terms": self.terms })
    }

    fn bounds(&self) -> Bounds {
        let Bounds { prompt, answer } = self.expression_bounds();
        Bounds { prompt: prompt + 131, answer }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        let Bounds { prompt, answer } = self.expression_bounds();
        Ok(Bounds { prompt: prompt + 3, answer })
    }

    /// `d:9.5*2.9=`.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::Decimal { expression, .. } = &item.metadata.facts else { return None };
        Some(["d:", expression, "="].concat())
    }
}

impl DecimalArithmetic {
    fn expression_bounds(&self) -> Bounds {
        let (terms, places) = (self.terms[1] as usize, self.places[1] as usize);
        // A term has at most two digits before the point; each operator may bring a pair of brackets.
        let expression = terms * (3 + places) + (terms - 1) * 3;
        // Sign, point, digits; "0.00000" before them or "E-123" after.
        Bounds { prompt: expression, answer: self.context.precision as usize + 2 + 7 }
    }
}

/// Joins operands by operators and puts brackets around half of the groups that it makes on the way. The brackets are
/// text only: where there are none, Python's precedence decides.
fn grouped(operands: &[String], operators: &[char], rng: &mut PyRandom) -> String {
    if let [only] = operands {
        return only.clone();
    }
    let split = rng.randint(1, operands.len() as i64 - 1) as usize;
    let mut text = grouped(&operands[..split], &operators[..split - 1], rng);
    let right = grouped(&operands[split..], &operators[split..], rng);
    text.push(operators[split - 1]);
    text.push_str(&right);
    if rng.coin() {
        text.insert(0, '(');
        text.push(')');
    }
    text
}
