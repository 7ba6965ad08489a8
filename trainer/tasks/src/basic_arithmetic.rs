//! `basic_arithmetic`: an expression of integers, with or without brackets.

use serde_json::{Value, json};

use crate::config::{Fields, wrong};
use crate::divisors::divisors;
use crate::expression::{Exact, Floor, evaluate, gcd};
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle, default_score};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "basic_arithmetic",
    description: "evaluate an expression of integers",
    read: |fields, mode| Ok(Box::new(BasicArithmetic::read(fields, mode)?)),
};

const OPERATORS: [&str; 4] = ["+", "-", "*", "/"];
/// Terms times digits: values then fit 128 bits, and their divisors can be found.
const LARGEST: i64 = 24;

#[derive(Debug)]
struct BasicArithmetic {
    terms: [i64; 2],
    digits: [i64; 2],
    /// As given, repetitions included: an operator is drawn as often as it is there.
    operators: Vec<&'static str>,
    allow_parentheses: bool,
    allow_negation: bool,
    is_natural: bool,
    whitespace: Whitespace,
    mode: Mode,
}

#[derive(Debug, Clone, Copy)]
enum Whitespace {
    Single,
    None,
    Random,
}

impl BasicArithmetic {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let terms = fields.span(["min_terms", "max_terms"], [2, 6], 1..=12)?;
        let digits = fields.span(["min_digits", "max_digits"], [1, 4], 1..=9)?;
        if terms[1] * digits[1] > LARGEST {
            return Err(wrong("max_digits", format!("`max_terms` times `max_digits` must be at most {LARGEST}")));
        }
        let operators = fields.choices("operators", &OPERATORS, &OPERATORS, 16)?;
        let operators: Vec<&str> = operators.into_iter().map(|place| OPERATORS[place]).collect();
        let allow_parentheses = fields.flag("allow_parentheses", true)?;
        // A flat run of terms draws from the operators but division.
        if allow_parentheses && terms[1] > 1 && operators.iter().all(|&operator| operator == "/") {
            return Err(wrong("operators", "with parentheses there must be one other than /"));
        }
        Ok(Self {
            terms,
            digits,
            operators,
            allow_parentheses,
            allow_negation: fields.flag("allow_negation", true)?,
            is_natural: fields.choice("format_style", &["natural", "simple"])? == 0,
            whitespace: match fields.choice("whitespace", &["single", "no_space", "random"])? {
                0 => Whitespace::Single,
                1 => Whitespace::None,
                _ => Whitespace::Random,
            },
            mode,
        })
    }

    /// An expression with brackets and its value by floor division.
    fn complex(&self, rng: &mut PyRandom, terms: i64, digits: u32) -> Option<(String, i128)> {
        let parts = self.parts(rng, terms, digits)?;
        let mut expression = String::with_capacity(64);
        for (i, part) in parts.iter().enumerate() {
            let is_spaced = match self.whitespace {
                Whitespace::Single => i > 0,
                Whitespace::None => false,
                // A space before the first part is stripped again.
                Whitespace::Random => rng.random() < 0.15 && i > 0,
            };
            if is_spaced {
                expression.push(' ');
            }
            part.push(&mut expression);
        }
        if expression.contains("/ 0") {
            expression = expression.replace("/ 0", "/ 1");
        }
        // A division by zero that is left ends reasoning-gym; here the next draw follows.
        let value = evaluate(&Floor, &expression)?;
        Some((expression, value))
    }

    /// `remaining` terms: a bracket or a flat run on the left, then an operator and the others.
    fn parts(&self, rng: &mut PyRandom, remaining: i64, digits: u32) -> Option<Vec<Part>> {
        let left = rng.randint(1, remaining);
        let right = remaining - left;
        let largest = 10_i64.pow(digits) - 1;
        let mut parts = Vec::with_capacity(16);
        if left > 1 && rng.random() > 0.5 && self.allow_parentheses {
            let negated = rng.random() > 0.5 && self.allow_negation;
            parts.push(Part::Text(if negated { "-(" } else { "(" }));
            parts.append(&mut self.parts(rng, left, digits)?);
            parts.push(Part::Text(")"));
        } else {
            for term in 1..=left {
                parts.push(Part::Number(rng.randint(-largest, largest).into()));
                if term < left {
                    parts.push(Part::Text(self.operator_but_division(rng)));
                }
            }
        }
        if right == 0 {
            return Some(parts);
        }
        let operator = *rng.choice(&self.operators);
        if operator != "/" {
            parts.push(Part::Text(operator));
            parts.append(&mut self.parts(rng, right, digits)?);
            return Some(parts);
        }
        let dividend = match parts.last()? {
            Part::Number(number) => *number,
            Part::Text(_) => value(&parts)?,
        };
        parts.push(Part::Text("/"));
        if right == 1 {
            parts.push(Part::Number(divisor(rng, dividend, largest)?));
            return Some(parts);
        }
        let mut others = self.parts(rng, right - 1, digits)?;
        if matches!(others.last()?, Part::Text(_)) {
            // The last bracket gets one more term, after which the others are meant to divide the dividend.
            let others_value = value(&others)?;
            let correction = match others_value {
                0 => 1,
                _ => common_divisor(rng, dividend, others_value)?.checked_sub(others_value)?,
            };
            others.pop();
            others.extend([Part::Text("+"), Part::Number(correction), Part::Text(")")]);
        } else {
            parts.push(Part::Number(divisor(rng, dividend, largest)?));
            parts.push(Part::Text("+"));
        }
        parts.append(&mut others);
        Some(parts)
    }

    fn operator_but_division(&self, rng: &mut PyRandom) -> &'static str {
        let mut others = self.operators.iter().filter(|&&operator| operator != "/");
        let count = others.clone().count();
        let place = rng.below(count as u64) as usize;
        others.nth(place).copied().unwrap_or("+")
    }

    /// A chain of terms, worked out from left to right without regard to precedence. reasoning-gym shows the divisor
    /// that was drawn first, not the one that it then divides by.
    fn simple(&self, rng: &mut PyRandom, terms: i64, digits: u32) -> Option<(String, i128)> {
        let bound = 10_i64.pow(digits);
        let constants: Vec<i64> = (0..terms).map(|_| rng.randint(0, bound)).collect();
        let operators: Vec<&str> = (1..terms).map(|_| *rng.choice(&self.operators)).collect();
        let mut expression = constants[0].to_string();
        let mut result = i128::from(constants[0]);
        for (&constant, operator) in constants[1..].iter().zip(operators) {
            for part in [" ", operator, " ", &constant.to_string()] {
                expression.push_str(part);
            }
            let constant = i128::from(constant);
            result = match operator {
                "+" => result.checked_add(constant)?,
                "-" => result.checked_sub(constant)?,
                "*" => result.checked_mul(constant)?,
                _ => {
                    let below = result.unsigned_abs().min(bound.unsigned_abs().into());
                    let mut found = if result == 0 { Vec::new() } else { divisors(result.unsigned_abs())? };
                    found.retain(|&divisor| (2..below).contains(&divisor));
                    if found.is_empty() {
                        result.checked_mul(rng.randint(1, bound - 1).into())?
                    } else {
                        result / *rng.choice(&found) as i128
                    }
                }
            };
        }
        Some((expression, result))
    }
}

/// A piece of an expression's text.
#[derive(Debug, Clone, Copy)]
enum Part {
    Text(&'static str),
    Number(i128),
}

impl Part {
    fn push(self, text: &mut String) {
        match self {
            Self::Text(part) => text.push_str(part),
            Self::Number(number) => match i64::try_from(number) {
                Ok(number) => text.push_str(&number.to_string()),
                Err(_) => text.push_str(&number.to_string()),
            },
        }
    }
}

fn value(parts: &[Part]) -> Option<i128> {
    let mut text = String::with_capacity(64);
    parts.iter().for_each(|part| part.push(&mut text));
    evaluate(&Floor, &text)
}

/// A divisor of the dividend; if that is 0, a number up to `largest`.
fn divisor(rng: &mut PyRandom, dividend: i128, largest: i64) -> Option<i128> {
    if dividend == 0 { Some(rng.randint(1, largest).into()) } else { common_divisor(rng, dividend, 0) }
}

/// `choice(find_common_divisors(a, b))`, whose list has the divisors in pairs: 1 and the number, 2 and its half.
fn common_divisor(rng: &mut PyRandom, a: i128, b: i128) -> Option<i128> {
    let found = divisors(gcd(a.unsigned_abs(), b.unsigned_abs()))?;
    let place = rng.below(found.len() as u64) as usize;
    let pair = place / 2;
    let divisor = if place.is_multiple_of(2) { found[pair] } else { found[found.len() - 1 - pair] };
    i128::try_from(divisor).ok()
}

impl Puzzle for BasicArithmetic {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let num_terms = rng.randint(self.terms[0], self.terms[1]);
        let num_digits = rng.randint(self.digits[0], self.digits[1]);
        let draw = if self.allow_parentheses { Self::complex } else { Self::simple };
        let (expression, value) = draw(self, rng, num_terms, num_digits as u32)?;
        if self.mode == Mode::Hardened && evaluate(&Exact, &expression) != Some((value, 1)) {
            return None;
        }
        let [before, after] = match self.is_natural {
            false => ["Calculate ", "."],
            true => *rng.choice(&[["What is ", "?"], ["Solve ", "."], ["Compute ", "."], ["Evaluate: ", "."]]),
        };
        Some(Drawn {
            question: [before, &expression, after].concat(),
            answer: Some(value.to_string()),
            facts: Facts::BasicArithmetic { expression, num_terms, num_digits },
        })
    }

    fn score(&self, item: &Item, answer: &str) -> f64 {
        default_score(item, answer, self.mode)
    }

    fn difficulty(&self) -> Value {
        json!({ "num_terms": self.terms, "num_digits": self.digits })
    }

    fn bounds(&self) -> Bounds {
        let expression = self.longest_expression();
        Bounds { prompt: 11 + expression, answer: self.longest_answer() }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        Ok(Bounds { prompt: 3 + self.longest_expression(), answer: self.longest_answer() })
    }

    /// `c:12*(3-4)=`.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::BasicArithmetic { expression, .. } = &item.metadata.facts else { return None };
        Some(["c:", &expression.replace(' ', ""), "="].concat())
    }
}

/// Any that fits 128 bits, and its sign.
const LONGEST_NUMBER: usize = 40;

impl BasicArithmetic {
    /// Only where a bracket divides is a term not of the configured digits but a correction, as long as values get.
    fn has_corrections(&self) -> bool {
        self.allow_parentheses && self.operators.contains(&"/") && self.terms[1] > 2
    }

    /// A number with sign and, around it, an operator, both sides of a bracket and their spaces; a chain has no brackets.
    fn longest_expression(&self) -> usize {
        let terms = self.terms[1] as usize;
        let number = if self.has_corrections() { LONGEST_NUMBER } else { self.digits[1] as usize + 1 };
        let around = if self.allow_parentheses { 8 } else { 3 };
        terms * (number + around)
    }

    /// Products are the longest results: of numbers up to `10^digits`, that number included in a chain.
    fn longest_answer(&self) -> usize {
        let (terms, digits) = (self.terms[1] as usize, self.digits[1] as usize);
        if self.has_corrections() {
            LONGEST_NUMBER
        } else if self.operators.iter().any(|operator| matches!(*operator, "*" | "/")) {
            terms * digits + 2
        } else {
            // A sum of at most twelve.
            digits + 3
        }
    }
}
