//! What recovered data reveal of the data that they were recovered from.

use serde::{Deserialize, Serialize};
use swarmloom_classifiers::{ClassifierError, Recovered, Samples, Worker};

use crate::data::Data;

/// Three views of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Revealed {
    /// How much of the client's classes the recovered labels tell: 1 less half the sum of absolute differences between the
    /// two distributions, 0 to 1.
    pub labels: f64,
    /// The part of recovered samples that the server's model of now takes for what their label says. A model that does not
    /// know the class yet takes nothing for it, whatever they look like.
    pub classified: f64,
    /// The distance of recovered samples to the nearest of the client's, over that to the nearest of as many test samples of
    /// the same classes, if there are so many: root mean squares. Near 1 where they are no nearer to the client's than to
    /// anybody's.
    pub nearness: f64,
}

/// Compares what was recovered with what the client holds, `(features, labels)`.
///
/// # Errors
/// [`ClassifierError`] where the model cannot be asked.
pub fn reveal(
    worker: &mut dyn Worker,
    parameters: &[f32],
    found: &Recovered,
    held: (&[f32], &[u8]),
    data: &Data,
) -> Result<Revealed, ClassifierError> {
    let (classes, width) = (data.classes.max(1), data.width().max(1));
    let labels: Vec<u8> = found.labels.chunks_exact(classes).map(|row| largest(row) as u8).collect();
    let mut shares = vec![[0.0_f64; 2]; classes];
    labels.iter().for_each(|label| shares[usize::from(*label)][0] += 1.0 / labels.len() as f64);
    held.1.iter().for_each(|label| shares[usize::from(*label)][1] += 1.0 / held.1.len() as f64);
    let apart: f64 = shares.iter().map(|[found, held]| (found - held).abs()).sum();
    let counts = worker.score(parameters, Samples { features: &found.features, labels: &labels })?;
    let right: u32 = counts.iter().map(|[right, _]| right).sum();
    let alike = data.test_features.chunks_exact(width).zip(data.test_labels.iter());
    let alike = alike.filter(|(_, label)| held.1.contains(label)).map(|(row, _)| row);
    let others: Vec<f32> = alike.take(held.1.len()).flatten().copied().collect();
    let nearest = |rows: &[f32]| -> f64 {
        let of = |sample: &[f32]| {
            let distances = rows.chunks_exact(width).map(|row| swarmloom_kernels::norms::squared_distance(sample, row));
            distances.fold(f64::INFINITY, f64::min)
        };
        let all: f64 = found.features.chunks_exact(width).map(of).sum();
        (all / labels.len().max(1) as f64).sqrt()
    };
    Ok(Revealed {
        labels: 1.0 - 0.5 * apart,
        classified: f64::from(right) / labels.len().max(1) as f64,
        nearness: nearest(held.0) / nearest(&others).max(1e-12),
    })
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|one, other| row[*one].total_cmp(&row[*other])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use swarmloom_classifiers::{Engine, Network};

    use super::*;

    #[test]
    fn what_is_revealed_by_hand() {
        let network = Network::mlp(2, &[], 2);
        // Class 0 where the first value is larger.
        let parameters = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let data = Data {
            features: vec![0.0; 2].into(),
            labels: vec![0].into(),
            shape: [1, 1, 2],
            classes: 2,
            test_features: vec![0.0, 0.0, 1.0, 1.0].into(),
            test_labels: vec![0, 1].into(),
        };
        // Two recovered samples of class 0, of which one looks like it; the client holds one sample of each class.
        let found = Recovered { features: vec![1.0, 0.5, 0.0, 0.5], labels: vec![2.0, 1.0, 3.0, 0.0] };
        let held = ([1.0_f32, 0.5, 0.0, 0.25], [0_u8, 1]);
        let mut engine = Engine::new(&network);
        let revealed = reveal(&mut engine, &parameters, &found, (&held.0, &held.1), &data).expect("revealed");
        assert_eq!((revealed.labels, revealed.classified), (0.5, 0.5));
        // Nearest of the client's: 0 and 1/4; nearest of the test set: 1/2 and 1/2.
        let wanted = (0.0625_f64 / 2.0).sqrt() / 0.5;
        assert!((revealed.nearness - wanted).abs() < 1e-9, "{revealed:?}");
    }
}
