//! Checks of a field's range, all with the same words.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// A field that is wrong, and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {message}")]
pub struct FieldError {
    /// Where it is: `devices.seconds_per_sample.median`. A population's fields are named from its own table; those of a
    /// mode begin with `mode.`, those of a partition with `partition.`, those of the work with `work.`.
    pub field: String,
    /// What it is and what it may be.
    pub message: String,
}

/// An error about `field`.
pub(crate) fn wrong(field: &str, message: impl Into<String>) -> FieldError {
    FieldError { field: field.to_owned(), message: message.into() }
}

/// That `value` is within `range`. NaN is within none.
pub(crate) fn within<T: PartialOrd + Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), FieldError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(wrong(field, format!("{value} is not a number from {} to {}", range.start(), range.end())))
}
