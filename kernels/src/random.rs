//! Random numbers as a pure function of a seed and an index: what is drawn where many draw at once, in any order.

/// Number `index` of the stream `seed`: 64 random bits (Steele, Lea and Flood, "Fast Splittable
/// Pseudorandom Number Generators", 2014: SplitMix64, of which any output can be computed directly).
pub fn bits(seed: u64, index: u64) -> u64 {
    // Mixing the seed first keeps the streams of neighbouring seeds from overlapping.
    mix(mix(seed ^ 0x5bf0_3635_dcc5_92ad).wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Number `index` of the stream `seed`, uniform in `[0, 1)`.
pub fn unit(seed: u64, index: u64) -> f64 {
    (bits(seed, index) >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_uniform_and_its_streams_are_unrelated() {
        for (seed, other) in [(0, 1), (7, 0x9e37_79b9_7f4a_7c15 + 7)] {
            let count = 20_000;
            let (mut sum, mut product) = (0.0, 0.0);
            for i in 0..count {
                let (a, b) = (unit(seed, i), unit(other, i));
                assert!((0.0..1.0).contains(&a));
                sum += a;
                product += (a - 0.5) * (b - 0.5);
            }
            // Four standard errors: 0.289 and 1/12, over the root of the count.
            assert!((sum / count as f64 - 0.5).abs() < 4.0 * 0.289 / 141.0);
            assert!((product / count as f64).abs() < 4.0 / 12.0 / 141.0);
        }
    }
}
