//! CIFAR-10 and CIFAR-100 in their binary form.
//!
//! As their author describes it: records without a header, each one byte of label (CIFAR-100: coarse, then fine) and
//! 3,072 bytes of picture, red, green and blue one after the other, 32 rows of 32 each.
//! <https://www.cs.toronto.edu/~kriz/cifar.html>

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Split};
use crate::error::{DatasetError, Place};
use crate::input::{Input, Limits, too_large};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// Which of CIFAR-100's two labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// 100 classes.
    #[default]
    Fine,
    /// 20 classes of five each.
    Coarse,
}

/// What the files of one of the two sets look like.
struct Layout {
    name: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// The folder that the archive makes.
    folder: &'static str,
    /// Bytes before the picture.
    labels: usize,
    /// Which of them counts.
    label: usize,
    classes: usize,
}

/// Reads the six files of CIFAR-10 in `dir`, or in the folder that its archive makes there.
pub(crate) fn ten(dir: &Path, limits: &Limits) -> Result<Split, DatasetError> {
    load(
        dir,
        &Layout {
            name: "cifar10",
            train: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test: &["test_batch.bin"],
            folder: "cifar-10-batches-bin",
            labels: 1,
            label: 0,
            classes: 10,
        },
        limits,
    )
}

/// Reads the two files of CIFAR-100.
pub(crate) fn hundred(dir: &Path, labels: Labels, limits: &Limits) -> Result<Split, DatasetError> {
    let (label, classes) = match labels {
        Labels::Fine => (1, 100),
        Labels::Coarse => (0, 20),
    };
    let layout = Layout {
        name: "cifar100",
        train: &["train.bin"],
        test: &["test.bin"],
        folder: "cifar-100-binary",
        labels: 2,
        label,
        classes,
    };
    load(dir, &layout, limits)
}

fn load(dir: &Path, layout: &Layout, limits: &Limits) -> Result<Split, DatasetError> {
    let unpacked = dir.join(layout.folder);
    let dir = if unpacked.is_dir() { unpacked } else { dir.to_owned() };
    let part = |names: &[&str]| {
        let mut set = Dataset {
            name: layout.name.into(),
            features: Vec::new(),
            labels: Vec::new(),
            classes: layout.classes,
            shape: SHAPE,
            groups: None,
        };
        names.iter().try_for_each(|name| append(&dir.join(name), layout, limits, &mut set))?;
        Ok(set)
    };
    Ok(Split { train: part(layout.train)?, test: part(layout.test)? })
}

fn append(file: &Path, layout: &Layout, limits: &Limits, set: &mut Dataset) -> Result<(), DatasetError> {
    let fix = format!(
        "all of {} are expected there; `swarmloom data list` says where to get {} in its binary form",
        layout.train.iter().chain(layout.test).copied().collect::<Vec<_>>().join(", "),
        layout.name,
    );
    read(&mut Input::open(file, limits, &fix)?, layout, limits, set)
}

fn read(input: &mut Input<'_>, layout: &Layout, limits: &Limits, set: &mut Dataset) -> Result<(), DatasetError> {
    let mut record = vec![0; layout.labels + PIXELS];
    let bytes = record.len() as u64;
    if input.is_plain() && (input.remaining() == 0 || !input.remaining().is_multiple_of(bytes)) {
        let found = format!("{} bytes", input.remaining());
        let right = format!("a multiple of {bytes}, the size of one record of {}", layout.name);
        return Err(input.wrong_at(Place::Whole, found, right));
    }
    set.features.reserve(input.likely(input.remaining()));
    loop {
        let place = input.place();
        let read = input.read(&mut record)?;
        if read == 0 {
            break;
        }
        if read < record.len() {
            return Err(input.wrong_at(place, format!("{read} bytes"), format!("a record of {bytes}")));
        }
        let (labels, pixels) = record.split_at(layout.labels);
        let label = labels.get(layout.label).copied().unwrap_or_default();
        if usize::from(label) >= layout.classes {
            let right = format!("a label below {}; is this a file of {}?", layout.classes, layout.name);
            return Err(input.wrong_at(place, format!("label {label}"), right));
        }
        set.labels.push(label);
        set.features.extend(pixels.iter().map(|&byte| f32::from(byte) / 255.0));
        if set.features.len() as u64 > limits.values {
            return Err(too_large(input.file(), "values", set.features.len() as u64, limits.values));
        }
    }
    if set.is_empty() {
        return Err(input.wrong_at(Place::Whole, "no record", "at least one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn record(labels: &[u8], first: u8, last: u8) -> Vec<u8> {
        let mut bytes = labels.to_vec();
        bytes.extend([first].into_iter().chain([0; PIXELS - 2]).chain([last]));
        bytes
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        files.iter().for_each(|(name, bytes)| std::fs::write(path.join(name), bytes).unwrap());
        (folder, path)
    }

    fn ten_files() -> Vec<(&'static str, Vec<u8>)> {
        let mut files: Vec<_> =
            ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
                .into_iter()
                .zip(0..)
                .map(|(name, index)| (name, record(&[index], 51 * index, 255)))
                .collect();
        files.push(("test_batch.bin", [record(&[9], 255, 0), record(&[0], 0, 51)].concat()));
        files
    }

    #[test]
    fn ten_classes_are_read_from_six_files_in_order() {
        let (_kept, path) = folder(&ten_files());
        let Split { train, test } = ten(&path, &Limits::default()).unwrap();
        assert_eq!((train.labels.as_slice(), test.labels.as_slice()), (&[0, 1, 2, 3, 4][..], &[9, 0][..]));
        assert_eq!((train.sample(2)[0], train.sample(2)[PIXELS - 1], test.sample(1)[PIXELS - 1]), (0.4, 1.0, 0.2));
        assert_eq!((train.shape, train.classes), ([3, 32, 32], 10));
    }

    #[test]
    fn the_archives_folder_is_looked_into_and_both_labels_of_a_hundred_are_there() {
        let (_kept, path) = folder(&[]);
        let inner = path.join("cifar-100-binary");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("train.bin"), record(&[19, 99], 0, 0)).unwrap();
        std::fs::write(inner.join("test.bin"), record(&[3, 7], 0, 0)).unwrap();
        let fine = hundred(&path, Labels::Fine, &Limits::default()).unwrap();
        assert_eq!((fine.train.labels, fine.test.labels, fine.train.classes), (vec![99], vec![7], 100));
        let coarse = hundred(&path, Labels::Coarse, &Limits::default()).unwrap();
        assert_eq!((coarse.train.labels, coarse.test.labels, coarse.train.classes), (vec![19], vec![3], 20));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_file() {
        let told = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut files = ten_files();
            change(&mut files[1].1);
            let (_kept, path) = folder(&files);
            let told = ten(&path, &Limits { values: 10_000, ..Limits::default() }).unwrap_err().to_string();
            told.strip_prefix(&path.join("data_batch_2.bin").display().to_string()).unwrap().to_owned()
        };
        assert_eq!(
            told(&|bytes| bytes.truncate(3000)),
            ": the file as a whole: found 3000 bytes; right is a multiple of 3073, the size of one record of cifar10"
        );
        assert_eq!(
            told(&|bytes| bytes[0] = 10),
            ": byte 0: found label 10; right is a label below 10; is this a file of cifar10?"
        );
        assert!(told(&|bytes| bytes.clear()).contains("found 0 bytes"));
        assert!(told(&|bytes| *bytes = bytes.repeat(3)).contains("values: 12288 is more than the limit of 10000"));
        let (_kept, path) = folder(&ten_files()[1..]);
        let told = ten(&path, &Limits::default()).unwrap_err().to_string();
        assert!(told.contains("data_batch_1.bin: not found; all of data_batch_1.bin, data_batch_2.bin"), "{told}");
    }
}
