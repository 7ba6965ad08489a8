//! Samples in memory: what every reader makes.

use std::fmt;

/// Labelled samples.
#[derive(Clone, PartialEq)]
pub struct Dataset {
    /// What it is called in reports.
    pub name: String,
    /// `[samples, channels, height, width]` f32, row by row, from 0 to 1 (text: numbers of characters, see
    /// [`crate::Text::windows`]).
    pub features: Vec<f32>,
    /// `[samples]`, each below `classes`.
    pub labels: Vec<u8>,
    /// How many classes there are.
    pub classes: usize,
    /// Channels, height and width of one sample. What is no picture has 1, 1 and its width.
    pub shape: [usize; 3],
    /// `[samples]`: whose each sample is, where the data say so (a role of a play, a column of a table).
    pub groups: Option<Vec<u32>>,
}

/// A training and a test set of the same shape and classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// To learn from.
    pub train: Dataset,
    /// To measure with.
    pub test: Dataset,
}

impl Dataset {
    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of one sample.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The values of sample `index`, `[channels, height, width]`; empty past the last one.
    pub fn sample(&self, index: usize) -> &[f32] {
        let width = self.width();
        index.checked_mul(width).and_then(|at| self.features.get(at..at.checked_add(width)?)).unwrap_or_default()
    }

    /// How many samples of each class there are, `[classes]`.
    pub fn class_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.classes];
        for &label in &self.labels {
            if let Some(count) = counts.get_mut(usize::from(label)) {
                *count += 1;
            }
        }
        counts
    }

    /// Divides into training and test set: of the samples of each class (where there are groups, of each group), in the
    /// order they stand in, number `n` (from 1) goes to the test set where `floor(n share) > floor((n - 1) share)`. For
    /// a fifth these are the 5th, the 10th and so on. Nothing is random, and no class is left out of one of the two
    /// unless it is smaller than `1 / share`. Our definition.
    pub(crate) fn divide(self, share: f64) -> Split {
        let keys: Vec<u32> = match &self.groups {
            Some(groups) => groups.clone(),
            None => self.labels.iter().map(|&label| u32::from(label)).collect(),
        };
        let mut seen = std::collections::HashMap::new();
        let mut of = |key: u32| {
            let count: &mut u32 = seen.entry(key).or_default();
            *count += 1;
            let n = f64::from(*count);
            (n * share).floor() > ((n - 1.0) * share).floor()
        };
        let in_test: Vec<bool> = keys.into_iter().map(&mut of).collect();
        Split { train: self.those(&in_test, false), test: self.those(&in_test, true) }
    }

    /// The samples whose flag is `wanted`.
    fn those(&self, flags: &[bool], wanted: bool) -> Self {
        let chosen = || flags.iter().enumerate().filter(|&(_, &flag)| flag == wanted).map(|(index, _)| index);
        let count = chosen().count();
        let mut features = Vec::with_capacity(count * self.width());
        chosen().for_each(|index| features.extend_from_slice(self.sample(index)));
        Self {
            name: self.name.clone(),
            features,
            labels: chosen().filter_map(|index| self.labels.get(index).copied()).collect(),
            classes: self.classes,
            shape: self.shape,
            groups: self
                .groups
                .as_ref()
                .map(|groups| chosen().filter_map(|index| groups.get(index).copied()).collect()),
        }
    }
}

// Millions of numbers are of no use in a message.
impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("samples", &self.len())
            .field("classes", &self.classes)
            .field("shape", &self.shape)
            .field("groups", &self.groups.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Dataset {
        Dataset {
            name: "small".into(),
            features: (0..20).map(|value| value as f32).collect(),
            labels: vec![0, 1, 0, 1, 0, 0, 1, 0, 0, 1],
            classes: 3,
            shape: [1, 1, 2],
            groups: None,
        }
    }

    #[test]
    fn samples_and_classes_are_counted() {
        let set = small();
        assert_eq!((set.len(), set.width(), set.is_empty()), (10, 2, false));
        assert_eq!(set.sample(3), [6.0, 7.0]);
        assert_eq!(set.sample(10), [0.0; 0]);
        assert_eq!(set.sample(usize::MAX), [0.0; 0]);
        assert_eq!(set.class_counts(), [6, 4, 0]);
    }

    #[test]
    fn every_second_of_each_class_is_for_the_test() {
        let Split { train, test } = small().divide(0.5);
        // Class 0 stands at 0, 2, 4, 5, 7, 8 and class 1 at 1, 3, 6, 9.
        assert_eq!(test.labels, [0, 1, 0, 0, 1]);
        assert_eq!(test.features, [4.0, 5.0, 6.0, 7.0, 10.0, 11.0, 16.0, 17.0, 18.0, 19.0]);
        assert_eq!(train.labels, [0, 1, 0, 1, 0]);
        assert_eq!(train.sample(4), [14.0, 15.0]);
    }

    #[test]
    fn groups_are_divided_where_there_are_groups() {
        let groups = Some(vec![7, 7, 7, 7, 7, 9, 9, 9, 9, 9]);
        let Split { train, test } = Dataset { groups, ..small() }.divide(0.2);
        assert_eq!((test.groups, test.labels), (Some(vec![7, 9]), vec![0, 1]));
        assert_eq!(train.groups, Some(vec![7, 7, 7, 7, 9, 9, 9, 9]));
    }
}
