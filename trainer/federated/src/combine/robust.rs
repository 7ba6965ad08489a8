//! What stands for a mean: formulas and sources are with [`By`](super::By).

use swarmloom_kernels::{norms, robust};

use super::distances::Distances;
use super::sum;

/// Neighbours that a score of Krum's counts: at least one.
fn scored(count: usize, faulty: usize) -> usize {
    count.saturating_sub(faulty + 2).max(1)
}

pub(super) fn krum(vectors: &[&[f32]], faulty: usize) -> Vec<f32> {
    let among: Vec<usize> = (0..vectors.len()).collect();
    let scores = Distances::between(vectors).scores(&among, scored(vectors.len(), faulty));
    vectors[least(&scores)].to_vec()
}

pub(super) fn multi_krum(vectors: &[&[f32]], faulty: usize, keep: Option<u32>) -> Vec<f32> {
    let count = vectors.len();
    let among: Vec<usize> = (0..count).collect();
    let scores = Distances::between(vectors).scores(&among, scored(count, faulty));
    let mut order = among;
    order.sort_by(|one, other| scores[*one].total_cmp(&scores[*other]));
    order.truncate(keep.map_or(count - faulty, |keep| keep as usize).clamp(1, count));
    // Sums are taken in the order of the vectors.
    order.sort_unstable();
    mean(&order.iter().map(|at| vectors[*at]).collect::<Vec<_>>())
}

pub(super) fn bulyan(vectors: &[&[f32]], faulty: usize) -> Vec<f32> {
    let count = vectors.len();
    let distances = Distances::between(vectors);
    let mut left: Vec<usize> = (0..count).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count - 2 * faulty {
        let scores = distances.scores(&left, scored(left.len(), faulty));
        chosen.push(left.remove(least(&scores)));
    }
    let kept = chosen.len() - 2 * faulty;
    let mut column = vec![0.0_f32; chosen.len()];
    let mut value = |at: usize| {
        for (value, vector) in column.iter_mut().zip(&chosen) {
            *value = ordinary(vectors[*vector][at]);
        }
        column.sort_by(f32::total_cmp);
        let middle = middle(&column, (column.len() - 1) / 2);
        // What is nearest to the median stands together; of equals, the lesser values are taken.
        let distance = |value: f32| if value.is_nan() { f32::INFINITY } else { (value - middle).abs() };
        let far = |values: &[f32]| distance(values[0]).max(distance(values[kept - 1]));
        let nearest = column.windows(kept).min_by(|one, other| far(one).total_cmp(&far(other)));
        nearest.map_or(0.0, middle_of)
    };
    (0..vectors[0].len()).map(&mut value).collect()
}

pub(super) fn median(vectors: &[&[f32]]) -> Vec<f32> {
    trimmed(vectors, (vectors.len() - 1) / 2)
}

pub(super) fn geometric_median(vectors: &[&[f32]], iterations: u32, smoothing: f64) -> Vec<f32> {
    let numbers: Vec<&[f32]> = vectors.iter().copied().filter(|vector| norms::l2(vector).is_finite()).collect();
    if numbers.is_empty() {
        return median(vectors);
    }
    let mut point = median(&numbers);
    for _ in 0..iterations {
        let near = |vector: &&[f32]| 1.0 / norms::distance(vector, &point).max(smoothing);
        let near: Vec<f64> = numbers.iter().map(near).collect();
        let total: f64 = near.iter().sum();
        let next = sum(&numbers, &near.iter().map(|near| near / total).collect::<Vec<_>>());
        let moved = norms::distance(&next, &point);
        point = next;
        if moved <= 1e-6 * norms::l2(&point) {
            break;
        }
    }
    point
}

pub(super) fn centred_clipping(
    centre: &mut Vec<f32>,
    vectors: &[&[f32]],
    radius: Option<f64>,
    iterations: u32,
) -> Vec<f32> {
    centre.resize(vectors[0].len(), 0.0);
    for _ in 0..iterations {
        let distances: Vec<f64> = vectors.iter().map(|vector| norms::distance(vector, centre)).collect();
        let radius = radius.unwrap_or_else(|| middle_distance(&distances));
        // Who has no numbers, or is infinitely far away, has no direction to go to.
        let part = |distance: &f64| match *distance {
            distance if !distance.is_finite() => 0.0,
            distance if distance <= radius => 1.0,
            distance => radius / distance,
        };
        let count = vectors.len() as f64;
        let parts: Vec<f64> = distances.iter().map(part).collect();
        let stays = 1.0 - parts.iter().sum::<f64>() / count;
        let kept = parts.iter().zip(vectors).filter(|(part, _)| **part > 0.0);
        let (mut weights, mut moving): (Vec<f64>, Vec<&[f32]>) =
            kept.map(|(part, vector)| (part / count, *vector)).unzip();
        let before = centre.clone();
        weights.push(stays);
        moving.push(&before);
        *centre = sum(&moving, &weights);
    }
    centre.clone()
}

pub(super) fn mixed(vectors: &[&[f32]], faulty: usize) -> Vec<Vec<f32>> {
    let distances = Distances::between(vectors);
    let mix = |of: usize| {
        let mut near = distances.neighbours(of, vectors.len() - faulty);
        near.sort_unstable();
        mean(&near.iter().map(|at| vectors[*at]).collect::<Vec<_>>())
    };
    (0..vectors.len()).map(mix).collect()
}

/// The mean of each coordinate without its `trim` least and largest values.
pub(super) fn trimmed(vectors: &[&[f32]], trim: usize) -> Vec<f32> {
    let mut out = vec![0.0; vectors[0].len()];
    if vectors.len() <= robust::MOST_VECTORS {
        robust::trimmed_mean(vectors, trim, &mut out);
        return out;
    }
    let mut column = vec![0.0_f32; vectors.len()];
    for (at, out) in out.iter_mut().enumerate() {
        for (value, vector) in column.iter_mut().zip(vectors) {
            *value = ordinary(vector[at]);
        }
        column.sort_unstable_by(f32::total_cmp);
        *out = middle(&column, trim);
    }
    out
}

/// The mean of ascending values without `trim` at each end.
fn middle(values: &[f32], trim: usize) -> f32 {
    middle_of(&values[trim..values.len() - trim])
}

fn middle_of(values: &[f32]) -> f32 {
    values.iter().copied().reduce(|sum, value| sum + value).unwrap_or(0.0) / values.len() as f32
}

fn middle_distance(distances: &[f64]) -> f64 {
    let mut sorted = distances.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// One NaN for all, so that it is the largest value.
fn ordinary(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value }
}

fn mean(vectors: &[&[f32]]) -> Vec<f32> {
    sum(vectors, &vec![1.0 / vectors.len() as f64; vectors.len()])
}

/// The first place of the least value.
fn least(values: &[f64]) -> usize {
    (0..values.len()).min_by(|one, other| values[*one].total_cmp(&values[*other])).unwrap_or(0)
}
