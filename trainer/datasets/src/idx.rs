//! IDX: the format of MNIST, Fashion-MNIST, KMNIST and EMNIST, packed by gzip or not.
//!
//! As MNIST's authors describe it: two zero bytes, a type (8: unsigned bytes), the number of dimensions; each dimension
//! as four bytes, the highest first; then the values, the last dimension running fastest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Split};
use crate::error::{DatasetError, Place};
use crate::input::{CHUNK, Input, Limits, too_large};
use crate::source::name_of;

/// IDX files to read, packed by gzip or not: a folder that holds them by MNIST's names, or all four.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idx {
    /// The folder.
    pub dir: Option<PathBuf>,
    /// Pictures: `[n, height, width]` or `[n, channels, height, width]`.
    pub train_images: Option<PathBuf>,
    /// Their labels: `[n]`.
    pub train_labels: Option<PathBuf>,
    /// As `train_images`.
    pub test_images: Option<PathBuf>,
    /// As `train_labels`.
    pub test_labels: Option<PathBuf>,
    /// How many classes there are; one more than the highest label when absent.
    pub classes: Option<u16>,
}

/// The four files of one data set.
struct Files {
    train_images: PathBuf,
    train_labels: PathBuf,
    test_images: PathBuf,
    test_labels: PathBuf,
}

/// What the four files are called, without `-ubyte`'s variants and `.gz`.
const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

impl Files {
    /// Those of MNIST's names in a folder, with or without `.gz`, with `.idx3` or `-idx3`.
    fn within(dir: &Path) -> Result<Self, DatasetError> {
        let [train_images, train_labels, test_images, test_labels] = NAMES.map(|name| find(dir, name));
        Ok(Self {
            train_images: train_images?,
            train_labels: train_labels?,
            test_images: test_images?,
            test_labels: test_labels?,
        })
    }
}

fn find(dir: &Path, name: &str) -> Result<PathBuf, DatasetError> {
    let dotted = name.replace("-idx", ".idx");
    let spellings = [name.to_owned(), format!("{name}.gz"), dotted.clone(), format!("{dotted}.gz")];
    match spellings.iter().map(|spelling| dir.join(spelling)).find(|path| path.is_file()) {
        Some(found) => Ok(found),
        None => Err(DatasetError::Missing {
            file: dir.join(name),
            fix: format!(
                "{name} is expected there, with .gz or without; `swarmloom data list` says where to get it, or name the \
                 four files one by one"
            ),
        }),
    }
}

/// Reads all four files; `classes` has been checked.
pub(crate) fn load(idx: &Idx, limits: &Limits) -> Result<Split, DatasetError> {
    let named = [&idx.train_images, &idx.train_labels, &idx.test_images, &idx.test_labels].map(Clone::clone);
    let (name, files) = match (&idx.dir, named) {
        (Some(dir), [None, None, None, None]) => (name_of(dir), Files::within(dir)?),
        (None, [Some(train_images), Some(train_labels), Some(test_images), Some(test_labels)]) => {
            (name_of(&train_images), Files { train_images, train_labels, test_images, test_labels })
        }
        _ => {
            let message =
                "right is a folder as `dir`, or all of train_images, train_labels, test_images and test_labels";
            return Err(DatasetError::Field { field: "dir", message: message.into() });
        }
    };
    read(&name, &files, idx.classes.map(usize::from), limits)
}

/// Classes are `classes`, or one more than the highest label.
fn read(name: &str, files: &Files, classes: Option<usize>, limits: &Limits) -> Result<Split, DatasetError> {
    let train = part(&files.train_images, &files.train_labels, limits)?;
    let test = part(&files.test_images, &files.test_labels, limits)?;
    if train.shape != test.shape {
        return Err(DatasetError::Format {
            file: files.test_images.clone(),
            place: Place::Byte(4),
            found: format!("pictures of {:?}", test.shape),
            right: format!("{:?}, as in {}", train.shape, files.train_images.display()),
        });
    }
    let highest = |part: &Part| part.labels.iter().copied().max().map_or(0, usize::from);
    let found = highest(&train).max(highest(&test)) + 1;
    for (part, file) in [(&train, &files.train_labels), (&test, &files.test_labels)] {
        let most = classes.unwrap_or(found);
        if let Some(index) = part.labels.iter().position(|&label| usize::from(label) >= most) {
            return Err(DatasetError::Format {
                file: file.clone(),
                place: Place::Byte(8 + index as u64),
                found: format!("label {}", part.labels.get(index).copied().unwrap_or_default()),
                right: format!("a label below {most}, the number of classes"),
            });
        }
    }
    let classes = classes.unwrap_or(found);
    Ok(Split { train: train.into_dataset(name, classes), test: test.into_dataset(name, classes) })
}

struct Part {
    features: Vec<f32>,
    labels: Vec<u8>,
    shape: [usize; 3],
}

impl Part {
    fn into_dataset(self, name: &str, classes: usize) -> Dataset {
        let Self { features, labels, shape } = self;
        Dataset { name: name.to_owned(), features, labels, classes, shape, groups: None }
    }
}

const FIX: &str = "`swarmloom data list` says where to get data sets";

fn part(images: &Path, labels: &Path, limits: &Limits) -> Result<Part, DatasetError> {
    let (samples, shape, features) = read_images(&mut Input::open(images, limits, FIX)?, limits)?;
    let (count, labels_read) = read_labels(&mut Input::open(labels, limits, FIX)?)?;
    if samples != count {
        return Err(DatasetError::Format {
            file: labels.into(),
            place: Place::Byte(4),
            found: format!("{count} labels"),
            right: format!("{samples}, as many as there are pictures in {}", images.display()),
        });
    }
    Ok(Part { features, labels: labels_read, shape })
}

/// Pictures: `[n, height, width]` or `[n, channels, height, width]` bytes, as values from 0 to 1.
pub(crate) fn read_images(input: &mut Input<'_>, limits: &Limits) -> Result<(u32, [usize; 3], Vec<f32>), DatasetError> {
    let (samples, shape) = match *header(input, "pictures: 3 or 4 dimensions", 3..=4)?.as_slice() {
        [samples, height, width] => (samples, [1, height, width]),
        [samples, channels, height, width] => (samples, [channels, height, width]),
        _ => return Err(input.wrong("no dimensions", "3 or 4 dimensions")),
    };
    let count = shape.iter().try_fold(u64::from(samples), |product, &size| product.checked_mul(u64::from(size)));
    let count = count.unwrap_or(u64::MAX);
    if count > limits.values {
        return Err(too_large(input.file(), "values", count, limits.values));
    }
    let mut features = Vec::with_capacity(input.likely(count));
    values(input, count, "pixels", |bytes| features.extend(bytes.iter().map(|&byte| f32::from(byte) / 255.0)))?;
    Ok((samples, shape.map(|size| size as usize), features))
}

/// Labels: `[n]` bytes.
pub(crate) fn read_labels(input: &mut Input<'_>) -> Result<(u32, Vec<u8>), DatasetError> {
    let sizes = header(input, "labels: 1 dimension", 1..=1)?;
    let count = sizes.first().copied().unwrap_or_default();
    let mut labels = Vec::with_capacity(input.likely(u64::from(count)));
    values(input, u64::from(count), "labels", |bytes| labels.extend_from_slice(bytes))?;
    Ok((count, labels))
}

/// Magic number and dimensions. None of them is 0.
fn header(
    input: &mut Input<'_>,
    what: &str,
    dimensions: std::ops::RangeInclusive<u8>,
) -> Result<Vec<u32>, DatasetError> {
    let place = input.place();
    let mut magic = [0; 4];
    input.fill(&mut magic, "an IDX header")?;
    let [zero, zero_too, kind, count] = magic;
    if [zero, zero_too] != [0, 0] || kind != 8 || !dimensions.contains(&count) {
        let found = match (zero, zero_too, kind) {
            (0, 0, 8) => format!("an IDX file of {count} dimensions"),
            (0, 0, 9 | 11..=14) => format!("an IDX file of type 0x{kind:02x} (no unsigned bytes)"),
            _ => format!("bytes {zero:02x} {zero_too:02x} {kind:02x} {count:02x}"),
        };
        let right = format!("00 00 08 {:02x}, an IDX file of unsigned bytes with {what}", dimensions.start());
        return Err(input.wrong_at(place, found, right));
    }
    let mut sizes = Vec::new();
    for _ in 0..count {
        let place = input.place();
        let mut bytes = [0; 4];
        input.fill(&mut bytes, "a dimension")?;
        let size = u32::from_be_bytes(bytes);
        if size == 0 {
            return Err(input.wrong_at(place, "a dimension of 0", "1 or more"));
        }
        sizes.push(size);
    }
    Ok(sizes)
}

/// Hands over `count` bytes in pieces, then checks that the file ends.
fn values(input: &mut Input<'_>, count: u64, what: &str, mut take: impl FnMut(&[u8])) -> Result<(), DatasetError> {
    // Before anything is read, where the file's length tells; a packed one is as long as it turns out to be.
    if input.remaining() < count || (input.is_plain() && input.remaining() > count) {
        let found = match input.is_plain() {
            true => format!("{} bytes", input.remaining()),
            false => format!("at most {} bytes", input.remaining()),
        };
        return Err(input.wrong(found, format!("{count} bytes of {what}, as the header says")));
    }
    let mut buffer = vec![0; count.min(CHUNK as u64) as usize];
    let mut left = count;
    while left > 0 {
        let wanted = left.min(CHUNK as u64) as usize;
        let read = buffer.get_mut(..wanted).map_or(Ok(0), |piece| input.read(piece))?;
        take(buffer.get(..read).unwrap_or_default());
        left -= read as u64;
        if read < wanted {
            let right = format!("{count} bytes of {what}, as the header says; {left} are missing");
            return Err(input.wrong("the end of the file", right));
        }
    }
    input.end(&format!("{count} bytes of {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IDX file of unsigned bytes.
    fn file(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn images(bytes: &[u8]) -> Result<(u32, [usize; 3], Vec<f32>), DatasetError> {
        let limits = Limits { values: 1000, ..Limits::default() };
        read_images(&mut Input::of(Path::new("pictures"), bytes, &limits)?, &limits)
    }

    #[test]
    fn pictures_of_one_and_of_three_channels_are_read() {
        let (samples, shape, features) = images(&file(&[2, 1, 3], &[0, 51, 255, 102, 0, 0])).unwrap();
        assert_eq!((samples, shape, features), (2, [1, 1, 3], vec![0.0, 0.2, 1.0, 0.4, 0.0, 0.0]));
        let (samples, shape, _) = images(&file(&[1, 3, 1, 2], &[0; 6])).unwrap();
        assert_eq!((samples, shape), (1, [3, 1, 2]));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_byte() {
        let told = |bytes: &[u8]| images(bytes).unwrap_err().to_string();
        assert_eq!(
            told(&[0, 0, 13, 3]),
            "pictures: byte 0: found an IDX file of type 0x0d (no unsigned bytes); right is 00 00 08 03, an IDX file of \
             unsigned bytes with pictures: 3 or 4 dimensions"
        );
        assert_eq!(
            told(&file(&[2, 1, 3], &[1; 5])),
            "pictures: byte 16: found 5 bytes; right is 6 bytes of pixels, as the header says"
        );
        assert!(told(&file(&[2, 1, 3], &[1; 7])).contains("byte 16: found 7 bytes"));
        assert!(told(&file(&[2, 0, 3], &[])).contains("byte 8: found a dimension of 0"));
        assert!(
            told(&file(&[u32::MAX; 4], &[])).contains("values: 18446744073709551615 is more than the limit of 1000")
        );
        assert!(told(b"PK\x03\x04").contains("found bytes 50 4b 03 04"));
        assert!(
            told(&[]).contains("byte 0: found the end of the file after 0 bytes; right is 4 bytes of an IDX header")
        );
    }

    #[test]
    fn files_that_do_not_fit_each_other_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let told = |sets: [(&[u32], &[u8]); 4], classes| {
            for (name, (sizes, values)) in NAMES.into_iter().zip(sets) {
                std::fs::write(path(name), file(sizes, values)).unwrap();
            }
            let idx = Idx { dir: Some(folder.path().to_owned()), classes, ..Idx::default() };
            let read = load(&idx, &Limits::default());
            read.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
        };
        let two: (&[u32], &[u8]) = (&[2, 1, 1], &[0, 255]);
        let one: (&[u32], &[u8]) = (&[1, 1, 1], &[51]);
        let split = told([two, (&[2], &[0, 4]), one, (&[1], &[6])], None).unwrap();
        assert_eq!((split.train.classes, split.test.classes, split.test.features), (7, 7, vec![0.2]));
        assert_eq!(told([two, (&[2], &[0, 4]), one, (&[1], &[6])], Some(9)).unwrap().train.classes, 9);
        assert_eq!(
            told([two, (&[1], &[0]), one, (&[1], &[6])], None).unwrap_err(),
            "train-labels-idx1-ubyte: byte 4: found 1 labels; right is 2, as many as there are pictures in \
             train-images-idx3-ubyte"
        );
        assert_eq!(
            told([two, (&[2], &[0, 4]), one, (&[1], &[6])], Some(5)).unwrap_err(),
            "t10k-labels-idx1-ubyte: byte 8: found label 6; right is a label below 5, the number of classes"
        );
        assert_eq!(
            told([two, (&[2], &[0, 4]), (&[1, 1, 2], &[0, 0]), (&[1], &[6])], None).unwrap_err(),
            "t10k-images-idx3-ubyte: byte 4: found pictures of [1, 1, 2]; right is [1, 1, 1], as in \
             train-images-idx3-ubyte"
        );
        std::fs::rename(path(NAMES[1]), path("train-labels.idx1-ubyte")).unwrap();
        let idx = Idx { dir: Some(folder.path().to_owned()), ..Idx::default() };
        assert!(load(&idx, &Limits::default()).unwrap_err().to_string().contains("t10k-images"), "the other spelling");
        std::fs::remove_file(path("train-labels.idx1-ubyte")).unwrap();
        let told = load(&idx, &Limits::default()).unwrap_err().to_string();
        assert!(
            told.contains("train-labels-idx1-ubyte: not found; train-labels-idx1-ubyte is expected there"),
            "{told}"
        );
    }
}
