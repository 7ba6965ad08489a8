//! One question with its answer.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::base_conversion::Conversion;
use crate::binary_matrix::Matrix;
use crate::calendar_arithmetic::Event;
use crate::decimal::Decimal;
use crate::fraction_simplification::Fraction;
use crate::number_sorting::Numbers;
use crate::propositional_logic::Argument;
use crate::{arc_1d, bf};

/// One question, as [`Task::sample`](crate::Task::sample) draws it from `(task, configuration, mode, seed, index)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The task's name.
    pub task: String,
    /// The seed it was drawn with.
    pub seed: u64,
    /// Its place in that seed's sequence.
    pub index: u64,
    /// The question, in reasoning-gym's words.
    pub question: String,
    /// The answer; `None` where reasoning-gym has none (`propositional_logic` in [`Mode::Exact`](crate::Mode::Exact)).
    pub answer: Option<String>,
    /// What reasoning-gym says of the item.
    pub metadata: Metadata,
}

/// reasoning-gym's `metadata` of an item. It serializes as the same JSON object, and scorers read it without parsing.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub(crate) source_dataset: &'static str,
    pub(crate) source_index: u64,
    pub(crate) facts: Facts,
    pub(crate) difficulty: Arc<Value>,
}

impl Metadata {
    /// The JSON object that reasoning-gym makes: integers as integers, tuples as lists.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("source_dataset".into(), self.source_dataset.into());
        object.insert("source_index".into(), self.source_index.into());
        object.insert("difficulty".into(), Value::clone(&self.difficulty));
        if let Value::Object(facts) = self.facts.to_json() {
            object.extend(facts);
        }
        Value::Object(object)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// What a task knows of its item beyond question and answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Facts {
    Arc1d(Box<arc_1d::Drawn>),
    BaseConversion(Conversion),
    BasicArithmetic { expression: String, num_terms: i64, num_digits: i64 },
    Bf(bf::Program),
    BinaryMatrix(Matrix),
    Calendar(Event),
    CountBits { number: u64 },
    Decimal { decimal_places: usize, num_terms: usize, value: Decimal, expression: String },
    Fraction(Fraction),
    Logic(Box<Argument>),
    NumberSorting(Numbers),
    SpellBackward { word: &'static str },
}

impl Facts {
    fn to_json(&self) -> Value {
        match self {
            Self::Arc1d(drawn) => arc_1d::metadata(drawn),
            Self::BaseConversion(conversion) => conversion.to_json(),
            Self::BasicArithmetic { expression, num_terms, num_digits } => {
                serde_json::json!({ "expression": expression, "num_terms": num_terms, "num_digits": num_digits })
            }
            Self::Bf(program) => program.to_json(),
            Self::BinaryMatrix(matrix) => matrix.to_json(),
            Self::Calendar(event) => event.to_json(),
            Self::CountBits { number } => serde_json::json!({
                "number": number, "solution": number.count_ones(), "binary": format!("{number:b}"), "n": number,
            }),
            Self::Decimal { decimal_places, num_terms, .. } => {
                serde_json::json!({ "decimal_places": decimal_places, "num_terms": num_terms })
            }
            Self::Fraction(fraction) => fraction.to_json(),
            Self::Logic(argument) => argument.to_json(),
            Self::NumberSorting(numbers) => numbers.to_json(),
            Self::SpellBackward { word } => serde_json::json!({ "word": word, "word_len": word.len() }),
        }
    }
}
