//! What clients hold: parts of one data set, which may drift.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swarmloom_classifiers::Samples;

use crate::fnv;

/// A training set that is shared out, and a test set.
#[derive(Debug, Clone)]
pub struct Data {
    /// `[samples, channels * height * width]`. A vector, which moves here without a copy.
    pub features: Arc<Vec<f32>>,
    /// `[samples]`.
    pub labels: Arc<Vec<u8>>,
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// How many classes there are.
    pub classes: usize,
    /// As `features`.
    pub test_features: Arc<Vec<f32>>,
    /// As `labels`.
    pub test_labels: Arc<Vec<u8>>,
}

/// A change of what a sample looks like that keeps what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// 1 minus every value.
    Invert,
    /// Left becomes right.
    Mirror,
    /// A quarter turn; only for square images, others stay as they are.
    Turn,
}

/// Clients' data that change while they train: from version `from` on, more and more of each client's samples, until all of
/// them have changed `over` versions later. The test set is the changed one: what matters is the world as it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// How samples change.
    pub transform: Transform,
    /// The version at which it begins.
    #[serde(default)]
    pub from: u64,
    /// Versions that it takes.
    pub over: u64,
}

impl Drift {
    /// Whether samples of this shape, channels, height and width, can change so.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, [_, height, width]: [usize; 3]) -> Result<(), String> {
        match self.transform {
            Transform::Turn if height != width => {
                Err(format!("only square images can be turned, these are {width} by {height}"))
            }
            _ => Ok(()),
        }
    }

    /// The part of the samples that have changed at a version.
    pub fn part(&self, version: u64) -> f64 {
        (version.saturating_sub(self.from) as f64 / self.over.max(1) as f64).clamp(0.0, 1.0)
    }
}

impl Transform {
    /// Changes one sample, `[channels, height, width]`.
    pub fn apply(self, sample: &mut [f32], [_, height, width]: [usize; 3]) {
        match self {
            Self::Invert => sample.iter_mut().for_each(|value| *value = 1.0 - *value),
            Self::Mirror => sample.chunks_exact_mut(width.max(1)).for_each(<[f32]>::reverse),
            Self::Turn if height != width => {}
            Self::Turn => {
                for image in sample.chunks_exact_mut((height * width).max(1)) {
                    let before = image.to_vec();
                    for row in 0..height {
                        for column in 0..width {
                            image[column * width + (height - 1 - row)] = before[row * width + column];
                        }
                    }
                }
            }
        }
    }
}

impl Data {
    /// A number that differs, all but surely, where any value, label or the shape does: for telling a file that has changed
    /// from one that has not.
    pub fn fingerprint(&self) -> u64 {
        // Four lanes, because each step waits for the one before.
        let mut lanes = [fnv::BASIS; 4];
        let mut mix = |four: [u64; 4]| {
            lanes.iter_mut().zip(four).for_each(|(lane, number)| *lane = fnv::mixed(*lane, number));
        };
        let [channels, height, width] = self.shape.map(|extent| extent as u64);
        mix([channels, height, width, self.classes as u64]);
        for features in [&self.features, &self.test_features] {
            let (fours, rest) = features.as_chunks::<4>();
            fours.iter().for_each(|four| mix(four.map(|value| u64::from(value.to_bits()))));
            rest.iter().for_each(|value| mix([u64::from(value.to_bits()); 4]));
        }
        for labels in [&self.labels, &self.test_labels] {
            mix([labels.len() as u64; 4]);
            labels.iter().for_each(|label| mix([u64::from(*label); 4]));
        }
        lanes.into_iter().fold(fnv::BASIS, fnv::mixed)
    }

    /// Values of a sample.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The samples of these indices, as they are at a version. Which ones have changed follows from their number: those
    /// that come early in a client's list change first.
    pub fn gather(&self, indices: &[u32], drift: Option<&Drift>, version: u64) -> (Vec<f32>, Vec<u8>) {
        let width = self.width();
        let changed = drift.map_or(0, |drift| (drift.part(version) * indices.len() as f64).round() as usize);
        let mut features = Vec::with_capacity(indices.len() * width);
        let mut labels = Vec::with_capacity(indices.len());
        for (number, index) in indices.iter().enumerate() {
            let at = *index as usize;
            features.extend_from_slice(&self.features[at * width..(at + 1) * width]);
            labels.push(self.labels[at]);
            if let Some(drift) = drift.filter(|_| number < changed) {
                let first = features.len() - width;
                drift.transform.apply(&mut features[first..], self.shape);
            }
        }
        (features, labels)
    }

    /// The test set as the world becomes.
    pub fn drifted(mut self, drift: &Drift) -> Self {
        let width = self.width();
        let mut features = self.test_features.to_vec();
        features.chunks_exact_mut(width.max(1)).for_each(|sample| drift.transform.apply(sample, self.shape));
        self.test_features = features.into();
        self
    }

    /// The test set.
    pub fn test(&self) -> Samples<'_> {
        Samples { features: &self.test_features, labels: &self.test_labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_by_hand() {
        let apply = |transform: Transform, shape| {
            let mut sample = [0.0, 0.25, 0.5, 1.0];
            transform.apply(&mut sample, shape);
            sample
        };
        assert_eq!(apply(Transform::Invert, [1, 2, 2]), [1.0, 0.75, 0.5, 0.0]);
        assert_eq!(apply(Transform::Mirror, [1, 2, 2]), [0.25, 0.0, 1.0, 0.5]);
        assert_eq!(apply(Transform::Turn, [1, 1, 4]), apply(Transform::Turn, [1, 4, 1]));
        let drift = |transform| Drift { transform, from: 0, over: 1 };
        assert!(drift(Transform::Turn).check([1, 8, 4]).is_err() && drift(Transform::Mirror).check([1, 8, 4]).is_ok());
        // Clockwise: the left column becomes the upper row.
        assert_eq!(apply(Transform::Turn, [1, 2, 2]), [0.5, 0.0, 1.0, 0.25]);
    }

    #[test]
    fn fingerprints_tell_any_change() {
        let split = swarmloom_datasets::digits();
        let data = Data {
            features: split.train.features.into(),
            labels: split.train.labels.into(),
            shape: split.train.shape,
            classes: split.train.classes,
            test_features: split.test.features.into(),
            test_labels: split.test.labels.into(),
        };
        let after = |change: &dyn Fn(&mut Data)| {
            let mut data = data.clone();
            change(&mut data);
            data.fingerprint()
        };
        assert_eq!(after(&|_| {}), data.fingerprint());
        let changes: [&dyn Fn(&mut Data); 6] = [
            &|data| Arc::make_mut(&mut data.features)[70_001] += 0.01,
            &|data| Arc::make_mut(&mut data.labels).swap(0, 1),
            &|data| Arc::make_mut(&mut data.test_features).swap(0, 20),
            &|data| Arc::make_mut(&mut data.test_labels)[300] ^= 1,
            &|data| data.shape = [1, 4, 16],
            &|data| data.classes += 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_ne!(after(change), data.fingerprint(), "{number}");
        }
    }

    #[test]
    fn samples_change_one_after_the_other() {
        let data = Data {
            features: vec![0.0, 0.1, 0.2, 0.3].into(),
            labels: vec![0, 1, 2, 3].into(),
            shape: [1, 1, 1],
            classes: 4,
            test_features: vec![0.25].into(),
            test_labels: vec![1].into(),
        };
        let drift = Drift { transform: Transform::Invert, from: 10, over: 20 };
        let at = |version| data.gather(&[3, 1], Some(&drift), version);
        assert_eq!(at(10), (vec![0.3, 0.1], vec![3, 1]));
        assert_eq!(at(20), (vec![1.0 - 0.3, 0.1], vec![3, 1]));
        assert_eq!(at(99).0, vec![1.0 - 0.3, 1.0 - 0.1]);
        assert_eq!(data.drifted(&drift).test().features, [0.75]);
    }
}
