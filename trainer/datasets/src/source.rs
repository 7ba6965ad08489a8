//! Where data come from, as a configuration says it, and reading them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cifar::{self, Labels};
use crate::csv::{self, Table};
use crate::dataset::Split;
use crate::digits::digits;
use crate::error::DatasetError;
use crate::idx::{self, Idx};
use crate::input::Limits;
use crate::npz::{self, Arrays};
use crate::text::{Plays, Text, Windows};

/// A data set to read; `kind` says which fields follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// The digits inside this program: 8 by 8, ten classes.
    Digits(Nothing),
    /// IDX files of unsigned bytes: MNIST, Fashion-MNIST, KMNIST, EMNIST.
    Idx(Idx),
    /// CIFAR-10 in its binary form: the folder of its six files, or the one that its archive was unpacked in.
    Cifar10(Cifar10),
    /// CIFAR-100 in its binary form.
    Cifar100(Cifar100),
    /// A table as text.
    Csv(Table),
    /// Arrays of numpy.
    Npz(Arrays),
    /// Plays: the next character, clients are roles.
    Text(Roles),
}

/// No fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Where CIFAR-10 is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cifar10 {
    /// The folder.
    pub dir: PathBuf,
}

/// Where CIFAR-100 is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cifar100 {
    /// The folder.
    pub dir: PathBuf,
    /// 100 classes or 20.
    #[serde(default)]
    pub labels: Labels,
}

/// Plays as samples: the fields of [`Plays`] and of [`Windows`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// As in [`Plays`].
    pub path: PathBuf,
    /// As in [`Plays`].
    #[serde(default = "crate::text::two_windows")]
    pub least: usize,
    /// As in [`Windows`].
    #[serde(default = "crate::text::eighty")]
    pub window: usize,
    /// As in [`Windows`].
    #[serde(default = "crate::text::ten")]
    pub stride: usize,
    /// As in [`Windows`].
    #[serde(default = "fifth")]
    pub test_share: f64,
}

impl Roles {
    /// A folder or file, and for all else what holds unless stated.
    pub fn of(path: PathBuf) -> Self {
        let Windows { window, stride, test_share } = Windows::default();
        Self { path, least: crate::text::two_windows(), window, stride, test_share }
    }
}

/// Reads a data set.
///
/// # Errors
/// [`DatasetError`], which names the file, the place in it, what was found and what is right.
pub fn load(source: &Source, limits: &Limits) -> Result<Split, DatasetError> {
    match source {
        Source::Digits(Nothing {}) => Ok(digits()),
        Source::Idx(idx) => {
            check_classes(idx.classes)?;
            idx::load(idx, limits)
        }
        Source::Cifar10(Cifar10 { dir }) => cifar::ten(dir, limits),
        Source::Cifar100(Cifar100 { dir, labels }) => cifar::hundred(dir, *labels, limits),
        Source::Csv(table) => {
            check_classes(table.classes)?;
            check_share(table.test_share)?;
            csv::load(&name_of(&table.file), table, limits)
        }
        Source::Npz(arrays) => {
            check_classes(arrays.classes)?;
            check_share(arrays.test_share)?;
            npz::load(&name_of(&arrays.file), arrays, limits)
        }
        Source::Text(Roles { path, least, window, stride, test_share }) => {
            let text = Text::read(&Plays { path: path.clone(), least: *least }, limits)?;
            let cut = Windows { window: *window, stride: *stride, test_share: *test_share };
            text.windows(&name_of(path), &cut, limits)
        }
    }
}

/// What a data set is called: the last part of its path, without endings.
pub(crate) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    name.split('.').find(|part| !part.is_empty()).unwrap_or(&name).to_owned()
}

/// The share of a test set unless stated.
pub(crate) fn fifth() -> f64 {
    0.2
}

pub(crate) fn check_share(share: f64) -> Result<(), DatasetError> {
    if share > 0.0 && share < 1.0 {
        return Ok(());
    }
    Err(DatasetError::Field { field: "test_share", message: format!("{share}; right is a number between 0 and 1") })
}

fn check_classes(classes: Option<u16>) -> Result<(), DatasetError> {
    match classes {
        Some(count @ (0 | 257..)) => Err(DatasetError::Field {
            field: "classes",
            message: format!("{count}; right is 1 to 256, since labels are bytes"),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn every_kind_is_read_from_a_configuration() {
        assert_eq!(parse("kind = \"digits\""), Ok(Source::Digits(Nothing {})));
        let Ok(Source::Idx(idx)) = parse("kind = \"idx\"\ndir = \"a\"") else { panic!("no idx") };
        assert_eq!((idx.dir, idx.classes), (Some("a".into()), None));
        let ten = Source::Cifar10(Cifar10 { dir: "a".into() });
        assert_eq!(parse("kind = \"cifar10\"\ndir = \"a\""), Ok(ten));
        let hundred = Source::Cifar100(Cifar100 { dir: "a".into(), labels: Labels::Coarse });
        assert_eq!(parse("kind = \"cifar100\"\ndir = \"a\"\nlabels = \"coarse\""), Ok(hundred));
        let csv =
            parse("kind = \"csv\"\nfile = \"a\"\nlabel = -1\ngroup = \"user\"\ndivide_by = 16\ndelimiter = \";\"");
        let Ok(Source::Csv(table)) = csv else { panic!("no csv: {csv:?}") };
        assert_eq!((table.label, table.group), (csv::Column::Number(-1), Some(csv::Column::Name("user".into()))));
        assert_eq!((table.divide_by, table.delimiter, table.test_share, table.minmax), (Some(16.0), ';', 0.2, false));
        let npz = parse("kind = \"npz\"\nfile = \"a\"\nchannels = \"last\"");
        let Ok(Source::Npz(arrays)) = npz else { panic!("no npz: {npz:?}") };
        assert_eq!(arrays.channels, Some(npz::Channels::Last));
        let Ok(Source::Text(roles)) = parse("kind = \"text\"\npath = \"a\"\nstride = 80") else { panic!("no text") };
        assert_eq!((roles.least, roles.window, roles.stride, roles.test_share), (162, 80, 80, 0.2));
    }

    #[test]
    fn unknown_kinds_and_fields_are_refused() {
        assert!(
            parse("kind = \"tar\"").unwrap_err().contains("unknown variant `tar`, expected one of `digits`, `idx`")
        );
        for text in [
            "kind = \"digits\"\ndir = \"a\"",
            "kind = \"idx\"\ndirs = \"a\"",
            "kind = \"cifar10\"\ndir = \"a\"\nlabels = \"fine\"",
            "kind = \"csv\"\nfile = \"a\"\nlabel = 0\nlabels = 1",
            "kind = \"npz\"\nfile = \"a\"\nkey = \"x\"",
            "kind = \"text\"\npath = \"a\"\nfile = \"b\"",
        ] {
            assert!(parse(text).unwrap_err().contains("unknown field"), "{text}");
        }
    }

    #[test]
    fn values_that_cannot_be_name_their_field() {
        let told = |text: &str| load(&parse(text).unwrap(), &Limits::default()).unwrap_err().to_string();
        let csv = "kind = \"csv\"\nfile = \"a\"\nlabel = 0\n";
        assert_eq!(told(&format!("{csv}classes = 257")), "`classes`: 257; right is 1 to 256, since labels are bytes");
        assert_eq!(told(&format!("{csv}test_share = 1.0")), "`test_share`: 1; right is a number between 0 and 1");
        assert_eq!(told(&format!("{csv}test_share = nan")), "`test_share`: NaN; right is a number between 0 and 1");
        assert!(told(&format!("{csv}delimiter = \"e\"")).starts_with("`delimiter`: "));
        assert!(told(&format!("{csv}divide_by = 0")).starts_with("`divide_by`: "));
        assert!(told(&format!("{csv}divide_by = 2\nminmax = true")).starts_with("`divide_by`: "));
        assert!(told("kind = \"idx\"").starts_with("`dir`: "));
        assert!(told("kind = \"idx\"\ndir = \"a\"\ntest_labels = \"b\"").starts_with("`dir`: "));
        assert_eq!(told(csv), "a: not found; name a table that exists");
    }

    #[test]
    fn sets_are_named_after_their_path() {
        let names = ["data/fashion-mnist", "digits.csv.gz", ".hidden.npz", "/"].map(|path| name_of(Path::new(path)));
        assert_eq!(names, ["fashion-mnist", "digits", "hidden", "/"]);
    }
}
