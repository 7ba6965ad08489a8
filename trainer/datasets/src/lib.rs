//! Data sets for federated learning: readers for the files that people have.
//!
//! A reader makes a [`Split`] of a [`Source`]: labelled samples as f32 from 0 to 1 and labels as bytes. Files are
//! strangers: what they say about their own size is believed only as far as they reach, memory is bounded by
//! [`Limits`], and whatever is wrong with one is a [`DatasetError`] that names the file, the place, what was found and
//! what is right. Nothing here opens a connection or writes a file.
//!
//! ```
//! use swarmloom_datasets::{Limits, Nothing, Source, load};
//! let split = load(&Source::Digits(Nothing {}), &Limits::default())?;
//! assert_eq!((split.train.len(), split.test.len(), split.train.shape), (1442, 355, [1, 8, 8]));
//! # Ok::<(), swarmloom_datasets::DatasetError>(())
//! ```

mod cifar;
mod csv;
mod dataset;
mod digits;
mod error;
#[cfg(test)]
mod hostile;
mod idx;
mod input;
mod known;
mod npy;
mod npz;
mod source;
mod text;
mod zip;

pub use cifar::Labels;
pub use csv::{Column, Table};
pub use dataset::{Dataset, Split};
pub use digits::digits;
pub use error::{DatasetError, Place};
pub use idx::Idx;
pub use input::Limits;
pub use known::{Check, File, Files, Known, known};
pub use npz::{Arrays, Channels, NAMES};
pub use source::{Cifar10, Cifar100, Nothing, Roles, Source, load};
pub use text::{Plays, Text, Windows};
