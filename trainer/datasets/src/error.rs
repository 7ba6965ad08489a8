//! What can be wrong with data: which file, where in it, what was found and what is right.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder is not there.
    #[error("{}: not found; {fix}", file.display())]
    Missing {
        /// What was looked for.
        file: PathBuf,
        /// What to do.
        fix: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// What was opened or read.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The bytes are not what the format asks for: cut short, corrupt, or of another kind.
    #[error("{}: {place}: found {found}; right is {right}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Where in it.
        place: Place,
        /// What stands there.
        found: String,
        /// What should.
        right: String,
    },
    /// More than [`crate::Limits`] allow.
    #[error("{}: {what}: {found} is more than the limit of {limit}", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// What was counted.
        what: &'static str,
        /// How many there are, or would be.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// A field of [`crate::Source`] cannot be as it is.
    #[error("`{field}`: {message}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// Where in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A byte, counted from 0.
    Byte(u64),
    /// A byte of what the file holds unpacked, counted from 0.
    Unpacked(u64),
    /// A line of text, counted from 1, and a field in it, counted from 1; 0 where the line as a whole is meant.
    Line {
        /// The line.
        line: u64,
        /// The field.
        field: usize,
    },
    /// A byte, counted from 0, of a named part of the file: a member of an archive.
    Member {
        /// The part.
        name: String,
        /// The byte.
        byte: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "the file as a whole"),
            Self::Byte(at) => write!(f, "byte {at}"),
            Self::Unpacked(at) => write!(f, "byte {at}, unpacked"),
            Self::Line { line, field: 0 } => write!(f, "line {line}"),
            Self::Line { line, field } => write!(f, "line {line}, field {field}"),
            Self::Member { name, byte } => write!(f, "{name:?}, byte {byte}"),
        }
    }
}
