//! What the tests of several kernels share: reproducible numbers and bit comparison.

use crate::Isa;

/// Every instruction set, the reference first.
pub(crate) const ISAS: [Isa; 2] = [Isa::Scalar, Isa::Avx2Fma];

/// A small generator (Steele, Lea and Flood's SplitMix64) so that tests need no dependency.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` values, uniform in `[-scale, scale)`.
    pub(crate) fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| (self.unit() * 2.0 - 1.0) as f32 * scale).collect()
    }
}

/// Whether two buffers are equal bit for bit. Any NaN equals any NaN.
pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// The largest absolute difference from an `f64` reference.
pub(crate) fn worst_difference(got: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(got.len(), truth.len());
    let differences = got.iter().zip(truth).map(|(&g, &t)| (f64::from(g) - t).abs());
    differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}
