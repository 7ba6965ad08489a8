//! Reads a configuration: every field has a default and a range, and the result is the whole of it.
//!
//! A configuration may come from a stranger's run file. What a field may be is therefore bounded here, before anything
//! is generated.

use std::fmt::Write;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::TaskError;

/// The fields that were given, and those resolved so far.
#[derive(Debug)]
pub(crate) struct Fields {
    given: Map<String, Value>,
    resolved: Map<String, Value>,
}

impl Fields {
    /// Fields of `given` over those of `preset`.
    ///
    /// # Errors
    /// If `given` is not an object.
    pub(crate) fn new(preset: Option<&Value>, given: Option<&Value>) -> Result<Self, TaskError> {
        let mut fields = Map::new();
        for layer in [preset, given].into_iter().flatten() {
            let Value::Object(layer) = layer else {
                return Err(TaskError::Config { field: String::new(), message: "it must be a JSON object".into() });
            };
            fields.extend(layer.clone());
        }
        // Arguments of sampling here, not properties of a task; a configuration of reasoning-gym has them.
        for field in ["seed", "size"] {
            if fields.get(field).is_some_and(|value| value.is_u64() || value.is_null()) {
                fields.remove(field);
            }
        }
        Ok(Self { given: fields, resolved: Map::new() })
    }

    /// An integer.
    pub(crate) fn int(&mut self, name: &str, default: i64, range: RangeInclusive<i64>) -> Result<i64, TaskError> {
        let value = match self.given.remove(name) {
            None => default,
            Some(value) => value.as_i64().filter(|value| range.contains(value)).ok_or_else(|| {
                wrong(name, format!("{value} is not an integer from {} to {}", range.start(), range.end()))
            })?,
        };
        self.resolved.insert(name.to_owned(), value.into());
        Ok(value)
    }

    /// Two integers, the second not less than the first.
    pub(crate) fn span(
        &mut self,
        names: [&str; 2],
        defaults: [i64; 2],
        range: RangeInclusive<i64>,
    ) -> Result<[i64; 2], TaskError> {
        let low = self.int(names[0], defaults[0], range.clone())?;
        let high = self.int(names[1], defaults[1], range)?;
        if high < low {
            return Err(wrong(names[1], format!("{high} is less than `{}`, which is {low}", names[0])));
        }
        Ok([low, high])
    }

    /// A number.
    pub(crate) fn float(&mut self, name: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64, TaskError> {
        let value = match self.given.remove(name) {
            None => default,
            Some(value) => value.as_f64().filter(|value| range.contains(value)).ok_or_else(|| {
                wrong(name, format!("{value} is not a number from {} to {}", range.start(), range.end()))
            })?,
        };
        self.resolved.insert(name.to_owned(), value.into());
        Ok(value)
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self, name: &str, default: bool) -> Result<bool, TaskError> {
        let value = match self.given.remove(name) {
            None => default,
            Some(Value::Bool(value)) => value,
            Some(value) => return Err(wrong(name, format!("{value} is neither true nor false"))),
        };
        self.resolved.insert(name.to_owned(), value.into());
        Ok(value)
    }

    /// One of `choices`; the first is the default. Returns its place.
    pub(crate) fn choice(&mut self, name: &str, choices: &[&str]) -> Result<usize, TaskError> {
        let place = match self.given.remove(name) {
            None => 0,
            Some(value) => place(&value, choices).ok_or_else(|| wrong(name, not_one_of(&value, choices)))?,
        };
        self.resolved.insert(name.to_owned(), choices[place].into());
        Ok(place)
    }

    /// A list of 1 to `most` of `choices`, repetitions allowed. Returns their places.
    pub(crate) fn choices(
        &mut self,
        name: &str,
        default: &[&str],
        choices: &[&str],
        most: usize,
    ) -> Result<Vec<usize>, TaskError> {
        let given = self.given.remove(name).unwrap_or_else(|| default.iter().copied().collect());
        let Some(list) = given.as_array().filter(|list| (1..=most).contains(&list.len())) else {
            return Err(wrong(name, format!("{given} is not a list of 1 to {most} names")));
        };
        let places: Vec<usize> = list
            .iter()
            .map(|value| place(value, choices).ok_or_else(|| wrong(name, not_one_of(value, choices))))
            .collect::<Result<_, _>>()?;
        self.resolved.insert(name.to_owned(), places.iter().map(|&place| choices[place]).collect());
        Ok(places)
    }

    /// The whole configuration.
    ///
    /// # Errors
    /// If a field was given that nothing read.
    pub(crate) fn finish(self) -> Result<Value, TaskError> {
        if let Some(name) = self.given.keys().next() {
            let known: Vec<&str> = self.resolved.keys().map(String::as_str).collect();
            return Err(wrong(name, format!("it is unknown; there are {}", known.join(", "))));
        }
        Ok(Value::Object(self.resolved))
    }
}

/// An error about a field.
pub(crate) fn wrong(field: &str, message: impl Into<String>) -> TaskError {
    // Text of a stranger, which may be long.
    let short = |text: String| match text.char_indices().nth(400) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    };
    TaskError::Config { field: short(field.to_owned()), message: short(message.into()) }
}

/// JSON text of a value with the keys of every object in order and nothing between: equal values have equal texts.
pub(crate) fn canonical(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Array(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(value, out);
                }
                out.push(']');
            }
            Value::Object(fields) => {
                // Sorted here too: another crate may turn on serde_json's `preserve_order`.
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                out.push('{');
                for (i, (name, value)) in fields.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(&Value::from(name.as_str()), out);
                    out.push(':');
                    write(value, out);
                }
                out.push('}');
            }
            plain => {
                // Writing to a string does not fail.
                let _ = write!(out, "{plain}");
            }
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn place(value: &Value, choices: &[&str]) -> Option<usize> {
    let text = value.as_str()?;
    choices.iter().position(|&choice| choice == text)
}

fn not_one_of(value: &Value, choices: &[&str]) -> String {
    format!("{value} is not one of {}", choices.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(given: Value) -> Fields {
        Fields::new(None, Some(&given)).unwrap()
    }

    #[test]
    fn a_wrong_field_is_named_with_its_range() {
        let error = fields(json!({"n": 31})).int("n", 3, 1..=30).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `n`: 31 is not an integer from 1 to 30");
        let error = fields(json!({"n": 3.5})).int("n", 3, 1..=30).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `n`: 3.5 is not an integer from 1 to 30");
        let error = fields(json!({"a": 9})).span(["a", "b"], [1, 5], 1..=30).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `b`: 5 is less than `a`, which is 9");
        let error = fields(json!({"p": null})).float("p", 0.5, 0.0..=1.0).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `p`: null is not a number from 0 to 1");
        let error = fields(json!({"f": 1})).flag("f", true).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `f`: 1 is neither true nor false");
        let error = fields(json!({"s": ["x", "z"]})).choices("s", &["x"], &["x", "y"], 4).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `s`: \"z\" is not one of x, y");
        let error = fields(json!({"s": []})).choices("s", &["x"], &["x", "y"], 4).unwrap_err();
        assert_eq!(error.to_string(), "configuration field `s`: [] is not a list of 1 to 4 names");
        let mut unknown = fields(json!({"m": 1}));
        unknown.int("n", 3, 1..=30).unwrap();
        let error = unknown.finish().unwrap_err();
        assert_eq!(error.to_string(), "configuration field `m`: it is unknown; there are n");
        assert!(Fields::new(None, Some(&json!([1]))).is_err());
    }

    #[test]
    fn the_result_is_the_whole_configuration() {
        let preset = json!({"a": 2, "b": 3});
        let mut fields = Fields::new(Some(&preset), Some(&json!({"b": 4, "seed": 42, "size": 500}))).unwrap();
        assert_eq!(fields.span(["a", "b"], [1, 1], 0..=9).unwrap(), [2, 4]);
        assert_eq!(fields.choice("style", &["plain", "loud"]).unwrap(), 0);
        assert_eq!(canonical(&fields.finish().unwrap()), r#"{"a":2,"b":4,"style":"plain"}"#);
    }
}
