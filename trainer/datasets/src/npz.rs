//! npz: arrays of numpy in one archive, as `numpy.savez` and `numpy.savez_compressed` write them.

use std::io::{BufReader, Read, Seek};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Split};
use crate::error::{DatasetError, Place};
use crate::input::{self, Limits, too_large};
use crate::npy::{Header, Kind};
use crate::zip::{Archive, Member};

/// An archive of arrays to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrays {
    /// The file.
    pub file: PathBuf,
    /// The array of training samples, `[n, values]`, `[n, height, width]` or four dimensions. When this and the next
    /// are absent, the first of [`NAMES`] that is there.
    pub features: Option<String>,
    /// The array of their labels, `[n]` or `[n, 1]`, whole numbers from 0 to 255.
    pub labels: Option<String>,
    /// The array of test samples. When absent, `test_share` of the training samples are the test set.
    pub test_features: Option<String>,
    /// The array of their labels.
    pub test_labels: Option<String>,
    /// The array, `[n]`, that says whose each sample is; `test_groups` is its twin.
    pub groups: Option<String>,
    /// As `groups`, for the test samples.
    pub test_groups: Option<String>,
    /// Where four dimensions have their channels. When absent, where there are 1, 3 or 4 of them.
    pub channels: Option<Channels>,
    /// What each value is divided by, so that it is from 0 to 1. When absent, 255 for bytes and 1 otherwise.
    pub divide_by: Option<f64>,
    /// How many classes there are; one more than the highest label when absent.
    pub classes: Option<u16>,
    /// The share of each class (of each group, where there are groups) that is the test set, where no arrays are.
    #[serde(default = "crate::source::fifth")]
    pub test_share: f64,
}

/// Which dimension is that of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// `[n, channels, height, width]`.
    First,
    /// `[n, height, width, channels]`.
    Last,
}

/// What arrays are called where a configuration does not say: features, labels and, if there are any, test features and
/// test labels. Keras's `mnist.npz` is the first, MedMNIST the third.
pub const NAMES: [[&str; 4]; 7] = [
    ["x_train", "y_train", "x_test", "y_test"],
    ["X_train", "y_train", "X_test", "y_test"],
    ["train_images", "train_labels", "test_images", "test_labels"],
    ["x", "y", "", ""],
    ["X", "y", "", ""],
    ["features", "labels", "", ""],
    ["images", "labels", "", ""],
];

/// Reads the archive; `classes` and `test_share` have been checked.
pub(crate) fn load(name: &str, arrays: &Arrays, limits: &Limits) -> Result<Split, DatasetError> {
    let (file, bytes) = input::open(&arrays.file, limits, "name an .npz file that exists")?;
    read(name, arrays, Archive::open(&arrays.file, BufReader::new(file), bytes, limits)?, limits)
}

/// The names of one part's arrays.
struct Names {
    features: String,
    labels: String,
    groups: Option<String>,
}

fn read(
    name: &str,
    arrays: &Arrays,
    mut archive: Archive<impl Read + Seek>,
    limits: &Limits,
) -> Result<Split, DatasetError> {
    let (train, test) = names(arrays, &archive)?;
    let mut reader = Reader { name, arrays, archive: &mut archive, limits };
    let mut train = reader.part(&train, None)?;
    let Some(test) = test else {
        let highest = train.classes;
        train.classes = reader.classes(highest)?;
        return Ok(train.divide(arrays.test_share));
    };
    let mut test = reader.part(&test, Some(train.shape))?;
    let classes = reader.classes(train.classes.max(test.classes))?;
    (train.classes, test.classes) = (classes, classes);
    Ok(Split { train, test })
}

/// Which arrays to read: those that are named, or the first of [`NAMES`].
fn names<R: Read + Seek>(arrays: &Arrays, archive: &Archive<R>) -> Result<(Names, Option<Names>), DatasetError> {
    let bad = |field, message: &str| Err(DatasetError::Field { field, message: message.to_owned() });
    if arrays.divide_by.is_some_and(|value| !value.is_finite() || value <= 0.0) {
        return bad("divide_by", "a number above 0");
    }
    let Arrays { features, labels, test_features, test_labels, groups, test_groups, .. } = arrays.clone();
    let (train, test) = match (features, labels, test_features, test_labels) {
        (Some(features), Some(labels), None, None) => ((features, labels), None),
        (Some(features), Some(labels), Some(test), Some(test_labels)) => {
            ((features, labels), Some((test, test_labels)))
        }
        (None, None, None, None) => known(archive)?,
        _ => return bad("features", "both features and labels, and both test_features and test_labels or neither"),
    };
    let wanted = groups.is_some() && test.is_some();
    if test_groups.is_some() != wanted {
        return bad(
            "test_groups",
            "both groups and test_groups where there are test samples, and groups alone elsewhere",
        );
    }
    let part = |(features, labels), groups| Names { features, labels, groups };
    Ok((part(train, groups), test.map(|test| part(test, test_groups))))
}

/// Names of features and of labels.
type Pair = (String, String);

/// The first of [`NAMES`] that is there.
fn known<R: Read + Seek>(archive: &Archive<R>) -> Result<(Pair, Option<Pair>), DatasetError> {
    let has = |name: &&&str| name.is_empty() || archive.names().any(|member| member == member_name(name));
    let Some([features, labels, test_features, test_labels]) =
        NAMES.iter().find(|names| names.iter().filter(has).count() == names.len())
    else {
        let held: Vec<&str> = archive.names().take(12).map(|name| name.trim_end_matches(".npy")).collect();
        return Err(DatasetError::Format {
            file: archive.file().to_owned(),
            place: Place::Whole,
            found: format!("arrays {}", held.join(", ")),
            right: "x_train, y_train, x_test and y_test or another known set; name them as features and labels".into(),
        });
    };
    let pair = |features: &str, labels: &str| (features.to_owned(), labels.to_owned());
    let test = (!test_features.is_empty()).then(|| pair(test_features, test_labels));
    Ok((pair(features, labels), test))
}

/// numpy adds `.npy` to each array's name.
fn member_name(array: &str) -> String {
    format!("{array}.npy")
}

struct Reader<'a, R> {
    name: &'a str,
    arrays: &'a Arrays,
    archive: &'a mut Archive<R>,
    limits: &'a Limits,
}

impl<R: Read + Seek> Reader<'_, R> {
    /// The stated number of classes, if no label is beyond it.
    fn classes(&self, found: usize) -> Result<usize, DatasetError> {
        let stated = self.arrays.classes.map_or(found, usize::from);
        if stated < found {
            let message = format!("{stated}, but there is a label {}", found - 1);
            return Err(DatasetError::Field { field: "classes", message });
        }
        Ok(stated)
    }

    fn member(&mut self, array: &str) -> Result<Member<'_>, DatasetError> {
        let file = self.archive.file().to_owned();
        let held: Vec<String> = self.archive.names().take(12).map(str::to_owned).collect();
        self.archive.member(&member_name(array))?.ok_or_else(|| DatasetError::Format {
            file,
            place: Place::Whole,
            found: format!("no array {array:?}"),
            right: format!("one of {}", held.join(", ").replace(".npy", "")),
        })
    }

    /// Samples with labels and groups; `classes` is one more than the highest label.
    fn part(&mut self, names: &Names, shape: Option<[usize; 3]>) -> Result<Dataset, DatasetError> {
        let (samples, shape, features) = self.features(&names.features, shape)?;
        let labels = self.numbers(&names.labels, samples, &names.features, |value| u8::try_from(value).ok(), "255")?;
        let whole = |value| u32::try_from(value).ok();
        let groups =
            names.groups.as_ref().map(|groups| self.numbers(groups, samples, &names.features, whole, "2^32 - 1"));
        let classes = labels.iter().copied().max().map_or(0, usize::from) + 1;
        let name = self.name.to_owned();
        Ok(Dataset { name, features, labels, classes, shape, groups: groups.transpose()? })
    }

    /// How many samples, the shape of one, and all values.
    fn features(
        &mut self,
        array: &str,
        wanted: Option<[usize; 3]>,
    ) -> Result<(usize, [usize; 3], Vec<f32>), DatasetError> {
        let (arrays, limits) = (self.arrays, self.limits);
        let mut member = self.member(array)?;
        let header = Header::read(&mut member)?;
        let (samples, shape, last) = layout(&header.shape, arrays.channels)
            .map_err(|right| member.wrong(format!("an array of {:?}", header.shape), right))?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != shape) {
            let right = format!("{wanted:?} (channels, height, width), as the training samples");
            return Err(member.wrong(format!("samples of {shape:?}"), right));
        }
        // No overflow: the header's product is the member's size in bytes.
        let width: usize = shape.iter().product();
        let count = (samples as u64).saturating_mul(width as u64);
        if count > limits.values {
            return Err(too_large(member.file(), "values", count, limits.values));
        }
        let bytes = header.kind == Kind::Unsigned && header.bytes == 1;
        let divisor = arrays.divide_by.unwrap_or(if bytes { 255.0 } else { 1.0 });
        let mut raw = vec![0; width * header.bytes];
        let mut sample = vec![0.0; width];
        let mut features = Vec::with_capacity(count as usize);
        let [channels, height, columns] = shape;
        for _ in 0..samples {
            let start = member.at();
            member.fill(&mut raw, "values")?;
            for (index, (slot, value)) in sample.iter_mut().zip(header.values(&raw)).enumerate() {
                let scaled = value / divisor;
                if !(0.0..=1.0).contains(&scaled) {
                    let divided = if divisor == 1.0 { String::new() } else { format!(" divided by {divisor}") };
                    let found = format!("value {value}{divided}");
                    let at = start + (index * header.bytes) as u64;
                    return Err(member.wrong_at(at, found, "a value from 0 to 1; set divide_by (255 for bytes)"));
                }
                *slot = scaled as f32;
            }
            if last {
                let at = |channel: usize| (0..height * columns).map(move |pixel| pixel * channels + channel);
                features.extend((0..channels).flat_map(at).map(|at| sample.get(at).copied().unwrap_or_default()));
            } else {
                features.extend_from_slice(&sample);
            }
        }
        member.end()?;
        Ok((samples, shape, features))
    }

    /// Whole numbers, `[samples]` or `[samples, 1]`.
    fn numbers<T>(
        &mut self,
        array: &str,
        samples: usize,
        features: &str,
        convert: impl Fn(u64) -> Option<T>,
        most: &str,
    ) -> Result<Vec<T>, DatasetError> {
        let mut member = self.member(array)?;
        let header = Header::read(&mut member)?;
        if !matches!(header.shape.as_slice(), [count] | [count, 1] if *count == samples) {
            let right = format!("[{samples}], as many as there are in {features:?}");
            return Err(member.wrong(format!("an array of {:?}", header.shape), right));
        }
        let mut raw = vec![0; header.bytes];
        let mut numbers = Vec::with_capacity(samples);
        for _ in 0..samples {
            let at = member.at();
            member.fill(&mut raw, "values")?;
            let value = header.values(&raw).next().unwrap_or_default();
            let whole = (value >= 0.0 && value.fract() == 0.0).then_some(value as u64);
            let Some(number) = whole.and_then(&convert) else {
                return Err(member.wrong_at(at, format!("{value}"), format!("a whole number from 0 to {most}")));
            };
            numbers.push(number);
        }
        member.end()?;
        Ok(numbers)
    }
}

/// Samples, channels, height and width of an array, and whether its channels come last. The error says what is right.
fn layout(shape: &[usize], channels: Option<Channels>) -> Result<(usize, [usize; 3], bool), String> {
    if shape.contains(&0) {
        return Err("an array that is not empty".into());
    }
    match *shape {
        [samples, width] => Ok((samples, [1, 1, width], false)),
        [samples, height, width] => Ok((samples, [1, height, width], false)),
        [samples, second, third, fourth] => {
            let few = |size: usize| [1, 3, 4].contains(&size);
            let last = match channels {
                Some(channels) => channels == Channels::Last,
                None if few(second) != few(fourth) => few(fourth),
                None => return Err("`channels` set to first or last: the sizes do not tell".into()),
            };
            Ok((samples, if last { [fourth, second, third] } else { [second, third, fourth] }, last))
        }
        _ => Err("2 dimensions (samples, values), 3 (samples, height, width) or 4".into()),
    }
}

#[cfg(test)]
mod tests;
