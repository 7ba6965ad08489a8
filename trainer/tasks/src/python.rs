//! What Python's built-ins make of text, where a score depends on it. Models write odd things, and so may strangers.

pub(crate) mod json;
pub(crate) mod literal;
pub(crate) mod number;
pub(crate) mod text;
