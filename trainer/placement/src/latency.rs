//! How long a layer takes on a device of which little is known: a few samples, and what other devices are like.
//!
//! The model is linear, `seconds = fixed + operations * a + bytes * b`: a roofline whose two slopes add up instead of the larger
//! one counting, so that it can be fitted by least squares. Residuals are relative to what was measured, because the times of
//! layers differ by orders of magnitude.

use serde::{Deserialize, Serialize};

/// How strongly what other devices are like counts against all that the samples say: a change of a number costs this part, divided
/// by the number of samples, of what the change it makes to their times would. Assumed, not fitted.
const PRIOR: f64 = 0.01;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes that are read and written.
    pub bytes: f64,
    /// How long it took.
    pub seconds: f64,
}

/// What a device is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Whatever is done.
    pub fixed_s: f64,
    /// For each operation.
    pub s_per_flop: f64,
    /// For each byte.
    pub s_per_byte: f64,
}

/// A device that was fitted to samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// What it is like.
    pub rates: Rates,
    /// By how much a sample is missed on average when it is not among those that are fitted, as a part of it; none of a single
    /// sample.
    pub error: Option<f64>,
}

/// Why a device cannot be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LatencyError {
    /// Too few samples.
    #[error("{needed} samples are needed, {found} found")]
    Few {
        /// As many as there are numbers to find.
        needed: usize,
        /// There are.
        found: usize,
    },
    /// A measurement that cannot be.
    #[error(
        "sample {index} of {flops} operations, {bytes} bytes and {seconds} s: all must be finite, the time positive"
    )]
    Sample {
        /// Which one.
        index: usize,
        /// Its operations.
        flops: f64,
        /// Its bytes.
        bytes: f64,
        /// Its time.
        seconds: f64,
    },
}

impl Rates {
    /// How long something takes.
    pub fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        self.fixed_s + self.s_per_flop * flops + self.s_per_byte * bytes
    }
}

/// A device of which much is known, from its samples alone. No number of the result is negative.
///
/// # Errors
/// With fewer than three samples, or one that cannot be.
pub fn fit(samples: &[Sample]) -> Result<Rates, LatencyError> {
    check(samples, 3)?;
    Ok(least_squares(samples, None))
}

/// A device of which little is known, from a few samples and the known devices: the mean of these, made faster or slower as a whole to fit
/// the samples, is what each number is drawn towards. Without known devices, the samples alone.
///
/// # Errors
/// Without a sample, with fewer than three where no device is known, or with one that cannot be.
pub fn adapt(known: &[Rates], samples: &[Sample]) -> Result<Fitted, LatencyError> {
    check(samples, if known.is_empty() { 3 } else { 1 })?;
    let rates = adapted(known, samples);
    let needed = if known.is_empty() { 4 } else { 2 };
    if samples.len() < needed {
        return Ok(Fitted { rates, error: None });
    }
    let missed = (0..samples.len()).map(|left_out| {
        let others: Vec<Sample> =
            samples.iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, it)| *it).collect();
        let it = &samples[left_out];
        (adapted(known, &others).seconds(it.flops, it.bytes) / it.seconds - 1.0).abs()
    });
    let error = Some(missed.sum::<f64>() / samples.len() as f64);
    Ok(Fitted { rates, error })
}

fn check(samples: &[Sample], needed: usize) -> Result<(), LatencyError> {
    if samples.len() < needed {
        return Err(LatencyError::Few { needed, found: samples.len() });
    }
    for (index, &Sample { flops, bytes, seconds }) in samples.iter().enumerate() {
        let good = [flops, bytes].iter().all(|it| it.is_finite() && *it >= 0.0);
        if !good || !seconds.is_finite() || seconds <= 0.0 {
            return Err(LatencyError::Sample { index, flops, bytes, seconds });
        }
    }
    Ok(())
}

fn adapted(known: &[Rates], samples: &[Sample]) -> Rates {
    if known.is_empty() {
        return least_squares(samples, None);
    }
    // Each known device as a multiple of its own time for the samples, so that fast ones count as much as slow ones.
    let mut mean = [0.0; 3];
    for rates in known {
        let scale: f64 = samples.iter().map(|it| rates.seconds(it.flops, it.bytes) / it.seconds).sum();
        if scale > 0.0 {
            let numbers = numbers(rates);
            (0..3).for_each(|at| mean[at] += numbers[at] / scale);
        }
    }
    // The multiple whose relative residuals are least.
    let ratios: Vec<f64> = samples.iter().map(|it| of(mean).seconds(it.flops, it.bytes) / it.seconds).collect();
    let (sum, squares) = ratios.iter().fold((0.0, 0.0), |(sum, squares), it| (sum + it, squares + it * it));
    let scale = if squares > 0.0 { sum / squares } else { 0.0 };
    least_squares(samples, Some(mean.map(|it| it * scale)))
}

/// The numbers, none negative, with the least relative residuals, and drawn towards those before.
fn least_squares(samples: &[Sample], before: Option<[f64; 3]>) -> Rates {
    let mut used = [true; 3];
    loop {
        let found = solve(samples, before, used);
        let Some(at) = (0..3).filter(|&at| found[at] < 0.0).min_by(|&a, &b| found[a].total_cmp(&found[b])) else {
            return of(found);
        };
        used[at] = false;
    }
}

/// The normal equations in units in which each column has a sum of squares of 1.
fn solve(samples: &[Sample], before: Option<[f64; 3]>, used: [bool; 3]) -> [f64; 3] {
    let rows: Vec<[f64; 3]> =
        samples.iter().map(|it| [1.0 / it.seconds, it.flops / it.seconds, it.bytes / it.seconds]).collect();
    let mut unit = [0.0; 3];
    for (at, unit) in unit.iter_mut().enumerate() {
        let norm = rows.iter().map(|row| row[at] * row[at]).sum::<f64>().sqrt();
        *unit = if norm > 0.0 { norm } else { 1.0 };
    }
    let mut matrix = [[0.0; 4]; 3];
    for row in &rows {
        for a in 0..3 {
            for b in 0..3 {
                matrix[a][b] += row[a] / unit[a] * row[b] / unit[b];
            }
            matrix[a][3] += row[a] / unit[a];
        }
    }
    for at in 0..3 {
        // A trace of the unit matrix lets samples that are all alike be fitted too.
        matrix[at][at] += 1e-12;
        if let Some(before) = before {
            let weight = PRIOR / samples.len() as f64;
            matrix[at][at] += weight;
            matrix[at][3] += weight * before[at] * unit[at];
        }
        if !used[at] {
            matrix[at] = [0.0; 4];
            matrix[at][at] = 1.0;
        }
    }
    let solved = eliminate(matrix);
    [solved[0] / unit[0], solved[1] / unit[1], solved[2] / unit[2]]
}

/// Gauss with pivots.
fn eliminate(mut matrix: [[f64; 4]; 3]) -> [f64; 3] {
    for at in 0..3 {
        let pivot = (at..3).max_by(|&a, &b| matrix[a][at].abs().total_cmp(&matrix[b][at].abs())).unwrap_or(at);
        matrix.swap(at, pivot);
        let top = matrix[at];
        if top[at] == 0.0 {
            continue;
        }
        for (index, row) in matrix.iter_mut().enumerate() {
            if index != at {
                let factor = row[at] / top[at];
                (0..4).for_each(|column| row[column] -= factor * top[column]);
            }
        }
    }
    let value = |at: usize| if matrix[at][at] == 0.0 { 0.0 } else { matrix[at][3] / matrix[at][at] };
    [value(0), value(1), value(2)]
}

fn numbers(rates: &Rates) -> [f64; 3] {
    [rates.fixed_s, rates.s_per_flop, rates.s_per_byte]
}

fn of(numbers: [f64; 3]) -> Rates {
    Rates { fixed_s: numbers[0], s_per_flop: numbers[1], s_per_byte: numbers[2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Rates = Rates { fixed_s: 1e-5, s_per_flop: 1e-14, s_per_byte: 1e-12 };
    const B: Rates = Rates { fixed_s: 2e-5, s_per_flop: 3e-14, s_per_byte: 2e-12 };

    /// Layers whose operations and bytes grow unlike each other, measured up to a few hundredths off.
    fn samples(rates: &Rates, widths: &[f64], noise: f64) -> Vec<Sample> {
        let sample = |(index, width): (usize, &f64)| {
            let (flops, bytes) = (1e3 * width * width, 1e5 * width);
            let off = 1.0 + noise * [1.0, -0.7, 0.3, -1.0, 0.6][index % 5];
            Sample { flops, bytes, seconds: rates.seconds(flops, bytes) * off }
        };
        widths.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn what_made_the_samples_is_found() {
        let found = fit(&samples(&B, &[16.0, 64.0, 256.0, 1024.0, 4096.0], 0.0)).unwrap();
        for (found, expected) in numbers(&found).iter().zip(numbers(&B)) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn nothing_is_negative() {
        // Larger layers are disproportionately fast, which no such device is.
        let odd = [(1.0, 1.0, 1.0), (2.0, 8.0, 1.1), (3.0, 27.0, 1.15), (4.0, 64.0, 1.16)];
        let odd = odd.map(|(flops, bytes, seconds)| Sample { flops, bytes, seconds });
        assert!(numbers(&fit(&odd).unwrap()).iter().all(|number| *number >= 0.0));
    }

    /// A device half as fast as one that is known, from two samples of small layers: the larger one is predicted well with the known
    /// devices, though the two do not tell operations from bytes.
    #[test]
    fn known_devices_stand_in_for_missing_samples() {
        let unseen = Rates { fixed_s: 3e-5, s_per_flop: 4e-14, s_per_byte: 3.4e-12 };
        let few = samples(&unseen, &[512.0, 700.0], 0.02);
        let fitted = adapt(&[A, B], &few).unwrap();
        let (flops, bytes) = (1e3 * 4096.0 * 4096.0, 1e5 * 4096.0);
        let ratio = fitted.rates.seconds(flops, bytes) / unseen.seconds(flops, bytes);
        assert!((ratio - 1.0).abs() < 0.25, "{ratio}");
        assert!(fitted.error.unwrap() < 0.1, "{fitted:?}");
        // Without them there is no answer at all.
        assert!(matches!(adapt(&[], &few), Err(LatencyError::Few { needed: 3, found: 2 })));
        assert_eq!(adapt(&[A], &few[..1]).unwrap().error, None);
    }

    #[test]
    fn many_samples_outweigh_known_devices() {
        let unlike = Rates { fixed_s: 1e-5, s_per_flop: 1e-15, s_per_byte: 3e-11 };
        let many = samples(&unlike, &[16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0], 0.0);
        let fitted = adapt(&[A, B], &many).unwrap();
        for sample in &many {
            let ratio = fitted.rates.seconds(sample.flops, sample.bytes) / sample.seconds;
            assert!((ratio - 1.0).abs() < 0.12, "{ratio} for {sample:?}");
        }
        let wrong = [Sample { flops: 1.0, bytes: f64::NAN, seconds: 1.0 }];
        assert!(matches!(adapt(&[A], &wrong), Err(LatencyError::Sample { index: 0, .. })));
    }
}
