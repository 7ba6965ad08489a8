//! The digits that scikit-learn carries: 1,797 pictures of 8 by 8, inside this crate. See `data/README.md` for where
//! they are from.

use std::path::Path;

use crate::dataset::{Dataset, Split};
use crate::error::{DatasetError, Place};
use crate::input::{Input, Limits};

/// As scikit-learn has it.
const PACKED: &[u8] = include_bytes!("../data/digits.csv.gz");
/// Pixels of a picture.
const PIXELS: usize = 64;
/// The highest value of a pixel: black points in a block of 4 by 4.
const BLACK: f32 = 16.0;
/// Longer than any line of such a file.
const LINE_BYTES: usize = 1024;

/// Handwritten digits, 8 by 8, pixels divided by 16: 1,442 to learn from and 355 to measure with.
///
/// Of each digit, in the file's order, the 5th, 10th, 15th and so on is in the test set. All 13 writers are in both.
pub fn digits() -> Split {
    match Input::of(Path::new("digits.csv.gz (inside swarmloom)"), PACKED, &Limits::default()).and_then(read) {
        Ok(set) => set.divide(0.2),
        Err(error) => unreachable!("the file is part of the program and was read by its tests: {error}"),
    }
}

fn read(mut input: Input<'_>) -> Result<Dataset, DatasetError> {
    let (mut features, mut labels) = (Vec::new(), Vec::new());
    let mut number = 0;
    while let Some((line, _)) = input.line(LINE_BYTES)? {
        number += 1;
        let wrong = |field, found: &str, right: &str| input.wrong_at(Place::Line { line: number, field }, found, right);
        let text = str::from_utf8(&line).map_err(|_| wrong(0, "no text", "numbers"))?;
        let mut fields = 0;
        for field in text.split(',') {
            fields += 1;
            let most = if fields <= PIXELS { 16 } else { 9 };
            let value = field.parse::<u8>().ok().filter(|&value| value <= most);
            let value = value.ok_or_else(|| wrong(fields, field, "64 whole numbers to 16 and one to 9"))?;
            if fields <= PIXELS {
                features.push(f32::from(value) / BLACK);
            } else {
                labels.push(value);
            }
        }
        if fields != PIXELS + 1 {
            return Err(wrong(0, &format!("{fields} fields"), "65"));
        }
    }
    Ok(Dataset { name: "digits".into(), features, labels, classes: 10, shape: [1, 8, 8], groups: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts as `sklearn.datasets.load_digits` gives them, from `np.bincount(target)`.
    const COUNTS: [u32; 10] = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];

    #[test]
    fn all_1797_digits_are_there_and_each_is_in_one_set() {
        let Split { train, test } = digits();
        assert_eq!((train.len(), test.len(), train.len() + test.len()), (1442, 355, 1797));
        assert_eq!((train.shape, test.shape, train.classes, train.width()), ([1, 8, 8], [1, 8, 8], 10, 64));
        assert_eq!((train.features.len(), test.features.len()), (1442 * 64, 355 * 64));
        let both: Vec<u32> = train.class_counts().iter().zip(test.class_counts()).map(|(a, b)| a + b).collect();
        assert_eq!(both, COUNTS);
        assert_eq!(test.class_counts(), COUNTS.map(|count| count / 5));
        // The sum of all pixels, from numpy: 561,718.
        let sum: f64 = train.features.iter().chain(&test.features).map(|&value| f64::from(value) * 16.0).sum();
        assert_eq!(sum, 561_718.0);
        assert!(train.features.iter().chain(&test.features).all(|value| (0.0..=1.0).contains(value)));
    }

    #[test]
    fn the_first_digit_is_the_files_first_line() {
        let first = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0].map(|value: u8| f32::from(value) / 16.0);
        let train = digits().train;
        assert_eq!((train.sample(0).get(..16), train.labels[0]), (Some(&first[..]), 0));
    }

    #[test]
    fn a_file_that_is_cut_or_changed_is_an_error_and_never_a_panic() {
        let limits = Limits::default();
        let file = Path::new("cut");
        for length in (0..PACKED.len()).step_by(2111) {
            let Err(error) = Input::of(file, &PACKED[..length], &limits).and_then(read) else {
                // No bytes at all are a file without lines.
                assert_eq!(length, 0);
                continue;
            };
            assert!(error.to_string().starts_with("cut: "), "{error}");
        }
        // Past the header, whose time and name say nothing about the content.
        for at in (32..PACKED.len()).step_by(1973) {
            let mut bytes = PACKED.to_vec();
            bytes[at] ^= 0x10;
            assert!(Input::of(file, &bytes, &limits).and_then(read).is_err(), "byte {at}");
        }
    }
}
