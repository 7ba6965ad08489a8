//! Random numbers as a pure function of a seed, what they are for, and two keys.
//!
//! What one client or one task draws does not depend on what others drew before it, nor on the order in which anybody
//! asks. The distributions use the platform's logarithm, sine and cosine, which may differ between platforms in the
//! last bit; on one platform a seed gives the same numbers always.

/// What a stream of numbers is for. Streams of different purposes are unrelated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// Which samples a client holds.
    Partition = 1,
    /// Which classes a client holds.
    Classes,
    /// Shares of a Dirichlet distribution.
    Shares,
    /// Seconds that a sample takes.
    Compute,
    /// Seconds before and after.
    Overhead,
    /// Bytes per second from the server.
    Down,
    /// Bytes per second to the server.
    Up,
    /// Seconds that a message takes at least.
    Latency,
    /// When a client's day begins, or which row of a trace is its own.
    Availability,
    /// Who is slow where nothing else says it.
    Slow,
    /// Who is selected.
    Selection,
    /// How long a task takes beside what is usual.
    Variation,
    /// Whether and when a task is lost.
    Dropout,
    /// Which row of a trace of devices is a client's.
    Device,
}

/// Numbers of one purpose and two keys, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    state: u64,
    index: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Stream {
    /// The stream of `purpose` with the keys `a` and `b`.
    pub(crate) fn new(seed: u64, purpose: Purpose, a: u64, b: u64) -> Self {
        // Mixing before each key keeps the streams of neighbouring seeds and keys from overlapping.
        let state = [purpose as u64, a, b]
            .into_iter()
            .fold(mix(seed ^ 0x5bf0_3635_dcc5_92ad), |state, key| mix(state ^ mix(key.wrapping_mul(GOLDEN))));
        Self { state, index: 0 }
    }

    /// 64 random bits (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014: SplitMix64).
    pub(crate) fn bits(&mut self) -> u64 {
        self.index = self.index.wrapping_add(1);
        mix(self.state.wrapping_add(self.index.wrapping_mul(GOLDEN)))
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `(0, 1]`, of which a logarithm can be taken.
    fn positive(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// Uniform in `0..bound`, without bias; 0 where `bound` is 0 (Lemire, "Fast Random Integer Generation in an
    /// Interval", 2019).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.positive().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Exponential with mean 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.positive().ln()
    }

    /// Pareto with least value 1: `u^(-1/shape)`.
    pub(crate) fn pareto(&mut self, shape: f64) -> f64 {
        (self.exponential() / shape).exp()
    }

    /// Shares of a symmetric Dirichlet distribution: `count` numbers that add up to 1.
    pub(crate) fn dirichlet(&mut self, alpha: f64, count: usize) -> Vec<f64> {
        // In logarithms: with a small alpha most gamma draws are less than the least number above 0.
        let logs: Vec<f64> = (0..count).map(|_| self.ln_gamma(alpha)).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut shares: Vec<f64> = logs.into_iter().map(|log| (log - most).exp()).collect();
        let sum: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        shares
    }

    /// Logarithm of a gamma draw with shape `alpha` and scale 1 (Marsaglia and Tsang, "A Simple Method for Generating
    /// Gamma Variables", 2000, who give `gamma(alpha + 1) * u^(1/alpha)` for a shape below 1).
    fn ln_gamma(&mut self, alpha: f64) -> f64 {
        if alpha < 1.0 {
            return self.ln_gamma(alpha + 1.0) + self.positive().ln() / alpha;
        }
        let d = alpha - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.positive().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// The place of `index` in a random order of `0..count`, found without making the order: a Feistel network over the
/// next power of four, walked until it comes back into the range (Black and Rogaway, "Ciphers with Arbitrary Finite
/// Domains", 2002: cycle walking).
pub(crate) fn place(seed: u64, purpose: Purpose, index: u32, count: u32) -> u32 {
    let key = Stream::new(seed, purpose, u64::MAX, 0).state;
    let half = (32 - count.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut value = u64::from(index);
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..6u64 {
            (left, right) = (right, left ^ (mix(key ^ mix((round << 32 | right).wrapping_mul(GOLDEN))) & mask));
        }
        value = left << half | right;
        if value < u64::from(count) {
            return value as u32;
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 20_000;

    fn moments(mut draw: impl FnMut(&mut Stream) -> f64) -> (f64, f64) {
        let mut stream = Stream::new(3, Purpose::Compute, 1, 2);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..COUNT {
            let x = draw(&mut stream);
            sum += x;
            squares += x * x;
        }
        let mean = sum / COUNT as f64;
        (mean, squares / COUNT as f64 - mean * mean)
    }

    #[test]
    fn every_distribution_has_its_mean_and_variance() {
        // Means within five standard errors, variances within 8 %.
        type Draw = fn(&mut Stream) -> f64;
        let cases: [(&str, Draw, f64, f64); 6] = [
            ("unit", Stream::unit, 0.5, 1.0 / 12.0),
            ("normal", Stream::normal, 0.0, 1.0),
            ("exponential", Stream::exponential, 1.0, 1.0),
            // Pareto with shape a: a / (a - 1) and a / ((a - 1)^2 (a - 2)).
            ("pareto", |s| s.pareto(6.0), 1.2, 6.0 / (25.0 * 4.0)),
            ("gamma 0.5", |s| s.ln_gamma(0.5).exp(), 0.5, 0.5),
            ("gamma 3", |s| s.ln_gamma(3.0).exp(), 3.0, 3.0),
        ];
        for (name, draw, mean, variance) in cases {
            let found = moments(draw);
            assert!((found.0 - mean).abs() < 5.0 * (variance / COUNT as f64).sqrt(), "{name}: mean {}", found.0);
            assert!((found.1 / variance - 1.0).abs() < 0.08, "{name}: variance {}", found.1);
        }
    }

    #[test]
    fn streams_are_unrelated_and_repeat() {
        let all: Vec<Stream> = (0..3)
            .flat_map(|seed| (0..3).flat_map(move |a| (0..3).map(move |b| Stream::new(seed, Purpose::Up, a, b))))
            .chain([Stream::new(0, Purpose::Down, 0, 0)])
            .collect();
        for (i, one) in all.iter().enumerate() {
            for other in &all[..i] {
                let (mut one, mut other) = (one.clone(), other.clone());
                let product: f64 = (0..4_000).map(|_| (one.unit() - 0.5) * (other.unit() - 0.5)).sum::<f64>() / 4_000.0;
                assert!(product.abs() < 5.0 / 12.0 / 63.0);
            }
        }
        let (mut one, mut other) = (Stream::new(7, Purpose::Up, 1, 2), Stream::new(7, Purpose::Up, 1, 2));
        assert!((0..100).all(|_| one.bits() == other.bits()));
    }

    #[test]
    fn below_is_even_and_stays_below() {
        let mut stream = Stream::new(1, Purpose::Selection, 0, 0);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Five standard deviations: sqrt(70,000 * 6/49) = 92.6.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 463), "{counts:?}");
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
    }

    #[test]
    fn dirichlet_shares_add_up_and_have_their_variance() {
        for alpha in [0.01, 0.1, 1.0, 100.0] {
            let (mut first, mut squares) = (0.0, 0.0);
            for i in 0..4_000 {
                let shares = Stream::new(5, Purpose::Shares, i, 0).dirichlet(alpha, 10);
                assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                first += shares[0];
                squares += shares[0] * shares[0];
            }
            let mean = first / 4_000.0;
            // Variance of a share: (1/k)(1 - 1/k) / (k alpha + 1).
            let variance = 0.1 * 0.9 / (10.0 * alpha + 1.0);
            assert!((mean - 0.1).abs() < 5.0 * (variance / 4_000.0).sqrt(), "{alpha}: {mean}");
            assert!(((squares / 4_000.0 - mean * mean) / variance - 1.0).abs() < 0.15, "{alpha}");
        }
    }

    #[test]
    fn places_are_a_permutation() {
        for count in [1, 2, 3, 10, 64, 65, 1_000] {
            let mut places: Vec<u32> = (0..count).map(|i| place(9, Purpose::Availability, i, count)).collect();
            let moved = places.iter().enumerate().filter(|&(i, &p)| i as u32 != p).count();
            assert!(count < 10 || moved > count as usize / 2);
            places.sort_unstable();
            assert!(places.iter().copied().eq(0..count));
        }
    }
}
