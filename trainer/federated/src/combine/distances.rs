//! Distances between all vectors, and who is near whom.

use swarmloom_kernels::norms;

/// Squared distances, `[n, n]`; what is no number is infinite.
#[derive(Debug)]
pub(super) struct Distances {
    squared: Vec<f64>,
    count: usize,
}

impl Distances {
    /// Between all vectors.
    pub(super) fn between(vectors: &[&[f32]]) -> Self {
        let count = vectors.len();
        let mut squared = vec![0.0; count * count];
        for one in 0..count {
            for other in 0..one {
                let distance = norms::squared_distance(vectors[one], vectors[other]);
                let distance = if distance.is_nan() { f64::INFINITY } else { distance };
                squared[one * count + other] = distance;
                squared[other * count + one] = distance;
            }
        }
        Self { squared, count }
    }

    /// The `nearest` vectors to one, itself among them, nearest first; of equals, those that come first.
    pub(super) fn neighbours(&self, of: usize, nearest: usize) -> Vec<usize> {
        let row = &self.squared[of * self.count..(of + 1) * self.count];
        let mut order: Vec<usize> = (0..self.count).collect();
        // Nobody is nearer to a vector than itself, even where others are equal to it.
        order.sort_by(|one, other| (*one != of).cmp(&(*other != of)).then(row[*one].total_cmp(&row[*other])));
        order.truncate(nearest);
        order
    }

    /// Krum's score of each of `among`: the sum of its squared distances to the `nearest` nearest others of them.
    pub(super) fn scores(&self, among: &[usize], nearest: usize) -> Vec<f64> {
        let score = |one: &usize| {
            let others = among.iter().filter(|other| *other != one);
            let mut distances: Vec<f64> = others.map(|other| self.squared[one * self.count + other]).collect();
            distances.sort_by(f64::total_cmp);
            distances.iter().take(nearest).sum()
        };
        among.iter().map(score).collect()
    }
}
