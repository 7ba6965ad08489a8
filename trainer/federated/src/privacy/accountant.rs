//! What a training run has told about any one client, in epsilon and delta.
//!
//! Rényi divergence of the sampled Gaussian mechanism: Mironov, Talwar and Zhang, "Rényi Differential Privacy of the Sampled
//! Gaussian Mechanism" (arXiv 1908.10530), section 3.3. With sampling rate `q` and noise multiplier `z`, and for an order
//! `a`, a step costs `ln(A) / (a - 1)`, where `A` is the expectation of `(1 - q + q exp((2x - 1) / (2 z^2)))^a` over `x` from
//! `N(0, z^2)`. Steps add up. Epsilon follows from the best order, by Canonne, Kamath and Steinke, "The Discrete Gaussian for
//! Differential Privacy" (arXiv 2004.00010), proposition 12, as Opacus and TensorFlow Privacy have it.
//!
//! The unit is a client, added or removed. The analysis is for clients that take part each with probability `q`, which is
//! the usual stand-in for rounds of a fixed number of clients; it is no proof for those.

use std::f64::consts::SQRT_2;

use crate::normal::log_erfc;

/// Orders that are tried: 1.1 to 10.9 by tenths, 11 to 64, and powers of two to 1024.
fn orders() -> impl Iterator<Item = f64> {
    let tenths = (11..110).map(|tenths| f64::from(tenths) / 10.0);
    tenths.chain((11..=64).map(f64::from)).chain([128.0, 256.0, 512.0, 1024.0])
}

/// What one aggregation tells, by order. Made once for a run: epsilon after any number of them follows at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Step(Vec<(f64, f64)>);

impl Step {
    /// Of a part `sampling_rate` of all clients, with that noise multiplier.
    pub fn new(noise_multiplier: f64, sampling_rate: f64) -> Self {
        Self(orders().map(|order| (order, divergence(noise_multiplier, sampling_rate, order))).collect())
    }

    /// Epsilon after as many of them. Infinite without noise, or where delta is 0.
    pub fn epsilon(&self, steps: u64, delta: f64) -> f64 {
        if steps == 0 || self.0.iter().all(|(_, divergence)| *divergence == 0.0) {
            return 0.0;
        }
        let of_order = |(order, divergence): &(f64, f64)| {
            let divergence = steps as f64 * divergence;
            divergence - (delta.ln() + order.ln()) / (order - 1.0) + ((order - 1.0) / order).ln()
        };
        let all = self.0.iter().map(of_order);
        all.filter(|epsilon| !epsilon.is_nan()).fold(f64::INFINITY, f64::min).max(0.0)
    }
}

/// [`Step::epsilon`] of a [`Step::new`].
pub fn epsilon(noise_multiplier: f64, sampling_rate: f64, steps: u64, delta: f64) -> f64 {
    Step::new(noise_multiplier, sampling_rate).epsilon(steps, delta)
}

/// The Rényi divergence of one step, of an order above 1.
pub fn divergence(noise_multiplier: f64, sampling_rate: f64, order: f64) -> f64 {
    let (z, q) = (noise_multiplier, sampling_rate);
    if q <= 0.0 {
        return 0.0;
    }
    if z.is_nan() || z <= 0.0 || q > 1.0 {
        return f64::INFINITY;
    }
    if q == 1.0 {
        return order / (2.0 * z * z);
    }
    let log = if order.fract() == 0.0 { of_whole(z, q, order as u32) } else { of_any(z, q, order) };
    log / (order - 1.0)
}

/// `ln(A)` for a whole order: the sum over `k` of `binomial(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 z^2))`.
fn of_whole(z: f64, q: f64, order: u32) -> f64 {
    let mut binomial = 0.0;
    let mut sum = f64::NEG_INFINITY;
    for k in 0..=order {
        let (times, rest) = (f64::from(k), f64::from(order - k));
        sum = plus(sum, binomial + times * q.ln() + rest * (1.0 - q).ln() + (times * times - times) / (2.0 * z * z));
        binomial += (rest / (times + 1.0)).ln();
    }
    sum
}

/// `ln(A)` for any order: both halves of the integral, cut where the two densities are equal, as binomial series.
fn of_any(z: f64, q: f64, order: f64) -> f64 {
    let cut = z * z * (1.0 / q - 1.0).ln() + 0.5;
    let mut below = Signed::default();
    let mut above = Signed::default();
    let (mut log, mut negative) = (0.0_f64, false);
    for i in 0..4000 {
        let i = f64::from(i);
        let rest = order - i;
        let half = |distance: f64| 0.5_f64.ln() + log_erfc(distance / (SQRT_2 * z));
        let gauss = |power: f64| (power * power - power) / (2.0 * z * z);
        let first = log + i * q.ln() + rest * (1.0 - q).ln() + gauss(i) + half(i - cut);
        let second = log + rest * q.ln() + i * (1.0 - q).ln() + gauss(rest) + half(cut - rest);
        below.add(first, negative);
        above.add(second, negative);
        if first.max(second) < -34.0 && i > order {
            return plus(below.log(), above.log());
        }
        let factor = rest / (i + 1.0);
        log += factor.abs().ln();
        negative ^= factor < 0.0;
    }
    // The series has not ended: this order is not used.
    f64::INFINITY
}

/// A sum of logarithms of positive and of negative terms.
struct Signed {
    positive: f64,
    negative: f64,
}

impl Default for Signed {
    fn default() -> Self {
        Self { positive: f64::NEG_INFINITY, negative: f64::NEG_INFINITY }
    }
}

impl Signed {
    fn add(&mut self, log: f64, negative: bool) {
        let side = if negative { &mut self.negative } else { &mut self.positive };
        *side = plus(*side, log);
    }

    fn log(&self) -> f64 {
        self.positive + (-(self.negative - self.positive).exp()).ln_1p()
    }
}

/// The logarithm of a sum.
fn plus(one: f64, other: f64) -> f64 {
    let (more, less) = if one > other { (one, other) } else { (other, one) };
    if less == f64::NEG_INFINITY { more } else { more + (less - more).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As older programs and papers convert: epsilon is the divergence plus `ln(1 / delta) / (order - 1)`.
    fn classic(z: f64, q: f64, steps: u32, delta: f64) -> f64 {
        let of_order = |order: f64| f64::from(steps) * divergence(z, q, order) - delta.ln() / (order - 1.0);
        orders().map(of_order).fold(f64::INFINITY, f64::min)
    }

    /// For whole orders, Google's `dp_accounting` 0.6.0 (`rdp_privacy_accountant`). For others it adds up absolute values, which
    /// is a little too much (0.1 with 2.0 and order 3.3: 0.0048546); there, the integral by mpmath with 30 digits.
    #[test]
    fn divergences_are_those_of_dp_accounting_and_of_the_integral() {
        for (q, z, order, wanted) in [
            (0.01, 1.0, 1.5, 0.00012725374332745),
            (0.01, 1.0, 2.0, 0.00017181342207455162),
            (0.1, 2.0, 3.3, 0.00485236839756684),
            (0.1, 2.0, 10.0, 0.01862425425819887),
            (0.5, 0.8, 40.0, 30.539079814810304),
            (1.0, 2.0, 5.5, 0.6875),
            (0.001, 4.0, 64.0, 2.072290466294457e-6),
            (0.2, 1.0, 2.5, 0.0963279878790176),
            (0.02, 0.5, 2.2, 0.0325628704255234),
            // The series does not end soon, and the order is left out.
            (0.5, 0.8, 1.1, f64::INFINITY),
        ] {
            let found = divergence(z, q, order);
            assert!(found == wanted || (found / wanted - 1.0).abs() < 1e-8, "{q} {z} {order}: {found} {wanted}");
        }
    }

    /// The same program's `RdpAccountant` with the same orders where the best one is whole; else by mpmath, of which that
    /// program's are up to 4 in 10,000 above.
    #[test]
    fn epsilons_are_those_of_dp_accounting_and_of_the_integral() {
        for (z, q, steps, delta, wanted) in [
            (1.1, 256.0 / 60_000.0, 14_062, 1e-5, 2.5965558689532977),
            (4.0, 0.01, 10_000, 1e-5, 1.0354900660362436),
            (1.0, 1.0, 1, 1e-5, 4.728507067217623),
            (2.0, 0.1, 300, 1e-5, 4.56428414024866),
            (0.5, 0.02, 100, 1e-6, 13.506028903648696),
            (1.0, 0.01, 1000, 1e-5, 2.1013652716483953),
            (10.0, 0.1, 10, 1e-5, 0.11758912636535385),
            (1.0, 0.001, 10, 1e-5, 0.6112527965868698),
        ] {
            let found = epsilon(z, q, steps, delta);
            assert!((found / wanted - 1.0).abs() < 1e-6, "{z} {q} {steps}: {found} {wanted}");
        }
    }

    /// What was printed elsewhere, with the older conversion.
    #[test]
    fn epsilons_are_those_that_were_published() {
        let q = 256.0 / 60_000.0;
        let after = |epochs: u32| epochs * 60_000 / 256;
        // TensorFlow Privacy, tutorials/README.md: noise multiplier, epochs, epsilon at delta 1e-5.
        for (z, epochs, printed) in [(1.12, 60, 2.92), (0.6, 30, 9.74), (1.2, 10, 1.20)] {
            assert!(
                (classic(z, q, after(epochs), 1e-5) - printed).abs() < 0.025,
                "{z}: {}",
                classic(z, q, after(epochs), 1e-5)
            );
        }
        // Bu, Dong, Long and Su, "Deep Learning with Gaussian Differential Privacy", figure 4: the moments accountant.
        for (z, epochs, printed) in [(1.3, 20, 1.34), (0.7, 70, 8.68)] {
            assert!((classic(z, q, after(epochs), 1e-5) - printed).abs() < 0.015);
        }
        // Abadi et al. 2016 (arXiv 1607.00133), on the moments accountant: q 0.01, z 4, 10,000 steps.
        assert!((classic(4.0, 0.01, 10_000, 1e-5) - 1.26).abs() < 0.005);
    }

    #[test]
    fn less_noise_more_steps_and_more_clients_tell_more() {
        let base = epsilon(1.0, 0.1, 100, 1e-5);
        assert!(epsilon(0.9, 0.1, 100, 1e-5) > base && epsilon(1.0, 0.2, 100, 1e-5) > base);
        assert!(epsilon(1.0, 0.1, 200, 1e-5) > base && epsilon(1.0, 0.1, 100, 1e-6) > base);
        assert_eq!(epsilon(0.0, 0.1, 1, 1e-5), f64::INFINITY);
        assert_eq!((epsilon(1.0, 0.1, 0, 1e-5), epsilon(1.0, 0.0, 5, 1e-5)), (0.0, 0.0));
        assert_eq!(epsilon(1.0, 0.1, 1, 0.0), f64::INFINITY);
    }
}
