//! Where data come from, as a configuration says it, and reading them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::Split;
use crate::digits::digits;
use crate::error::DatasetError;
use crate::idx;
use crate::input::Limits;

/// A data set to read; `kind` says which field names follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum Source {
    /// The digits inside this program: 8 by 8, ten classes.
    Digits {},
    /// IDX files of unsigned bytes (MNIST, Fashion-MNIST, KMNIST, EMNIST), packed by gzip or not: a folder that holds
    /// them by MNIST's names, or all four files.
    Idx {
        /// The folder.
        dir: Option<PathBuf>,
        /// `[n, height, width]` or `[n, channels, height, width]`.
        train_images: Option<PathBuf>,
        /// `[n]`.
        train_labels: Option<PathBuf>,
        /// As `train_images`.
        test_images: Option<PathBuf>,
        /// As `train_labels`.
        test_labels: Option<PathBuf>,
        /// How many classes there are; one more than the highest label when absent.
        classes: Option<u16>,
    },
}

/// Reads a data set.
///
/// # Errors
/// [`DatasetError`], which names the file, the place in it, what was found and what is right.
pub fn load(source: &Source, limits: &Limits) -> Result<Split, DatasetError> {
    match source {
        Source::Digits {} => Ok(digits()),
        Source::Idx { dir, train_images, train_labels, test_images, test_labels, classes } => {
            let named = [train_images, train_labels, test_images, test_labels].map(Option::as_ref);
            let (files, name) = match (dir, named) {
                (Some(dir), [None, None, None, None]) => (idx::Files::within(dir)?, name_of(dir)),
                (None, [Some(train_images), Some(train_labels), Some(test_images), Some(test_labels)]) => {
                    let [train_images, train_labels, test_images, test_labels] =
                        [train_images, train_labels, test_images, test_labels].map(Clone::clone);
                    let name = name_of(&train_images);
                    (idx::Files { train_images, train_labels, test_images, test_labels }, name)
                }
                _ => {
                    return Err(field(
                        "dir",
                        "name a folder as `dir`, or all of train_images, train_labels, test_images and test_labels",
                    ));
                }
            };
            idx::load(&name, &files, class_count(*classes)?, limits)
        }
    }
}

/// What a data set is called: the last part of its path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn class_count(classes: Option<u16>) -> Result<Option<usize>, DatasetError> {
    match classes {
        Some(0) | Some(257..) => Err(field("classes", "1 to 256: labels are bytes")),
        other => Ok(other.map(usize::from)),
    }
}

fn field(field: &'static str, message: &str) -> DatasetError {
    DatasetError::Field { field, message: message.to_owned() }
}
