//! The normal distribution: its tail, its quantiles, and numbers drawn from it.

use std::f64::consts::{PI, SQRT_2};

use swarmloom_kernels::random;

/// The logarithm of `2 / sqrt(pi)` times the integral of `exp(-t^2)` from `x` on: of `erfc(x)`. Finite for all finite `x`.
pub(crate) fn log_erfc(x: f64) -> f64 {
    if x < 2.0 {
        return erfc(x).ln();
    }
    // The further out, the sooner it is exact.
    let terms = if x < 4.0 { 120 } else { 40 };
    // Laplace's continued fraction, from the far end: erfc(x) exp(x^2) sqrt(pi) = 1 / (x + (1/2) / (x + 1 / (x + (3/2) / ...
    let fraction = (1..=terms).rev().fold(x, |tail, term| x + f64::from(term) / 2.0 / tail);
    -x * x - (fraction * PI.sqrt()).ln()
}

/// The complementary error function.
pub(crate) fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x >= 2.0 {
        return log_erfc(x).exp();
    }
    // All terms of this series are positive: 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (2n+1)!!
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term < 1e-18 * sum {
            break;
        }
    }
    1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// The part of a standard normal distribution below `x`.
pub(crate) fn below(x: f64) -> f64 {
    0.5 * erfc(-x / SQRT_2)
}

/// Below which a part of a standard normal distribution is, for a part above 0 and below 1: by halving.
pub(crate) fn quantile(part: f64) -> f64 {
    let (mut low, mut high) = (-40.0_f64, 40.0_f64);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if below(middle) < part { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Number `index` of the stream `seed` from a standard normal distribution (Box and Muller 1958).
pub(crate) fn draw(seed: u64, index: u64) -> f64 {
    let (one, other) = (random::unit(seed, 2 * index), random::unit(seed, 2 * index + 1));
    // One minus it is never zero.
    (-2.0 * (1.0 - one).ln()).sqrt() * (2.0 * PI * other).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of scipy: `special.erfc` and `special.log_ndtr`, `stats.norm.ppf`.
    #[test]
    fn tails_and_quantiles_are_those_of_scipy() {
        for (x, wanted) in [
            (-3.0, 1.9999779095030015),
            (-0.5, 1.5204998778130465),
            (0.0, 1.0),
            (0.3, 0.6713732405408726),
            (1.999, 0.0046984433486294865),
            (2.0, 0.004677734981047266),
            (5.0, 1.5374597944280347e-12),
        ] {
            assert!((erfc(x) / wanted - 1.0).abs() < 1e-12, "{x}: {} {wanted}", erfc(x));
        }
        assert!((log_erfc(40.0) - -1_604.261_556_653_274_8).abs() < 1e-9, "{}", log_erfc(40.0));
        for (part, wanted) in [(0.5, 0.0), (0.975, 1.959963984540054), (1e-9, -5.9978070150076865)] {
            assert!((quantile(part) - wanted).abs() < 1e-9);
        }
    }

    #[test]
    fn draws_have_mean_zero_and_variance_one() {
        let count = 40_000;
        let all: Vec<f64> = (0..count).map(|index| draw(5, index)).collect();
        let moment = |power| all.iter().map(|x| x.powi(power)).sum::<f64>() / count as f64;
        // Standard errors are 1, root 2, root 15 and root 96 over 200.
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03);
        assert!(moment(3).abs() < 0.08 && (moment(4) - 3.0).abs() < 0.2);
        let inside = all.iter().filter(|x| x.abs() < 1.96).count() as f64 / count as f64;
        assert!((inside - 0.95).abs() < 0.005);
    }
}
