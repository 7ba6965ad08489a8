//! A few coordinates that stand for a whole update.

use serde::{Deserialize, Serialize};
use swarmloom_kernels::norms;

use swarmloom_kernels::random;

/// An update's values at the chosen coordinates.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sketch(pub Vec<f32>);

/// Which coordinates are chosen: one at random of each of equal parts, so that every layer has its share.
#[derive(Debug)]
pub(super) struct Coordinates(Vec<usize>);

impl Coordinates {
    /// At most `count` of `length`, ascending; all of them where there are not more.
    pub(super) fn new(length: usize, count: usize, seed: u64) -> Self {
        if length <= count {
            return Self((0..length).collect());
        }
        let at = |part: usize| {
            let first = part * length / count;
            let end = (part + 1) * length / count;
            first + (random::unit(seed, part as u64) * (end - first) as f64) as usize
        };
        Self((0..count).map(at).collect())
    }

    /// What is missing is zero.
    pub(super) fn of(&self, update: &[f32]) -> Sketch {
        Sketch(self.0.iter().map(|at| update.get(*at).copied().unwrap_or(0.0)).collect())
    }
}

/// One minus the cosine; 1 where one of them is zero, and has no direction.
pub(super) fn cosine_distance(one: &Sketch, other: &Sketch) -> f64 {
    if one.0.len() != other.0.len() {
        return 1.0;
    }
    let lengths = norms::l2(&one.0) * norms::l2(&other.0);
    if lengths > 0.0 { 1.0 - norms::dot(&one.0, &other.0) / lengths } else { 1.0 }
}

/// The sum of absolute differences over that of the truth's values; `None` where there is nothing to compare.
pub(super) fn error(estimate: &Sketch, truth: &Sketch) -> Option<f64> {
    let sum = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>();
    let size = sum(&mut truth.0.iter().map(|value| f64::from(value.abs())));
    let pairs = estimate.0.iter().zip(&truth.0);
    let difference = sum(&mut pairs.map(|(one, other)| (f64::from(*one) - f64::from(*other)).abs()));
    let relative = difference / size;
    (estimate.0.len() == truth.0.len() && relative.is_finite()).then_some(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_spread_ascending_and_the_seed_decides() {
        let one = Coordinates::new(1000, 10, 1);
        for (part, at) in one.0.iter().enumerate() {
            assert_eq!(at / 100, part);
        }
        assert_eq!(one.0, Coordinates::new(1000, 10, 1).0);
        assert_ne!(one.0, Coordinates::new(1000, 10, 2).0);
        assert_eq!(Coordinates::new(3, 10, 1).of(&[1.0, 2.0, 3.0]), Sketch(vec![1.0, 2.0, 3.0]));
    }

    #[test]
    fn distances_by_hand() {
        let sketch = |values: &[f32]| Sketch(values.to_vec());
        // cos = 3 / (1 * 5).
        assert!((cosine_distance(&sketch(&[1.0, 0.0]), &sketch(&[3.0, 4.0])) - 0.4).abs() < 1e-12);
        assert_eq!(cosine_distance(&sketch(&[0.0, 0.0]), &sketch(&[3.0, 4.0])), 1.0);
        // (2 + 4) / 7.
        assert_eq!(error(&sketch(&[1.0, 0.0]), &sketch(&[3.0, -4.0])), Some(6.0 / 7.0));
        assert_eq!(error(&sketch(&[1.0]), &sketch(&[0.0])), None);
    }
}
