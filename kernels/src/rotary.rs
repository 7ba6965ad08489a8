//! Rotary position embedding (Su et al., "RoFormer", 2021, section 3.2), in the half-split
//! arrangement of Llama: element `i` turns with element `i + head_dim / 2`.

use std::fmt;

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Simd, load_partial, store_partial};

/// The cosines and sines of every position, computed once.
#[derive(Clone)]
pub struct Rotary {
    /// `[max_positions, head_dim / 2]`
    cos: Vec<f32>,
    /// `[max_positions, head_dim / 2]`
    sin: Vec<f32>,
    head_dim: usize,
}

impl fmt::Debug for Rotary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotary")
            .field("head_dim", &self.head_dim)
            .field("max_positions", &self.max_positions())
            .finish_non_exhaustive()
    }
}

impl Rotary {
    /// Tables for positions `0..max_positions`; pair `i` turns by
    /// `position / theta^(2 i / head_dim)` radians.
    ///
    /// Frequency and angle are rounded to `f32`, as models computed in torch have them: a
    /// more exact angle would not be the one that the model learnt with.
    ///
    /// # Panics
    ///
    /// If `head_dim` is zero or odd.
    pub fn new(head_dim: usize, theta: f32, max_positions: usize) -> Self {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary: head_dim is zero or odd");
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / f64::from(theta).powf(f64::from(exponent)) as f32
            })
            .collect();
        let mut cos = Vec::with_capacity(max_positions * half);
        let mut sin = Vec::with_capacity(max_positions * half);
        for position in 0..max_positions {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Self { cos, sin, head_dim }
    }

    /// Number of positions that the tables hold.
    pub fn max_positions(&self) -> usize {
        self.cos.len() / (self.head_dim / 2)
    }

    /// Turns `x`, `[heads, head_dim]`, the queries or keys of one token, in place.
    ///
    /// # Panics
    ///
    /// If `x` is not a whole number of heads, or `position` is not below
    /// [`max_positions`](Self::max_positions).
    pub fn apply(&self, x: &mut [f32], position: usize) {
        self.apply_on(detected(), x, position);
    }

    /// [`apply`](Self::apply) on a given instruction set.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn apply_on(&self, isa: Isa, x: &mut [f32], position: usize) {
        assert_eq!(x.len() % self.head_dim, 0, "rotary: x is not [heads, head_dim]");
        assert!(position < self.max_positions(), "rotary: position is past max_positions");
        let half = self.head_dim / 2;
        let cos = &self.cos[position * half..][..half];
        let sin = &self.sin[position * half..][..half];
        isa.run(Turn { x, cos, sin });
    }
}

struct Turn<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.cos.len();
        for head in self.x.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            let pairs = low.chunks_mut(LANES).zip(high.chunks_mut(LANES));
            let angles = self.cos.chunks(LANES).zip(self.sin.chunks(LANES));
            for ((low, high), (cos, sin)) in pairs.zip(angles) {
                let (a, b) = (load_partial(simd, low, 0.0), load_partial(simd, high, 0.0));
                let (cos, sin) = (load_partial(simd, cos, 0.0), load_partial(simd, sin, 0.0));
                // The first product is rounded, the second is fused.
                store_partial(simd, simd.neg_mul_add(b, sin, simd.mul(a, cos)), low);
                store_partial(simd, simd.mul_add(a, sin, simd.mul(b, cos)), high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Numbers, same_bits, worst_difference};

    #[test]
    fn every_width_agrees_bit_for_bit_and_with_f64() {
        let mut numbers = Numbers(5);
        for head_dim in [2, 6, 8, 16, 20, 32, 48, 64] {
            let rotary = Rotary::new(head_dim, 10_000.0, 100);
            assert_eq!(rotary.max_positions(), 100);
            for position in [0, 1, 57, 99] {
                let x = numbers.values(3 * head_dim, 2.0);
                let (mut scalar, mut vector) = (x.clone(), x.clone());
                rotary.apply_on(Isa::Scalar, &mut scalar, position);
                rotary.apply_on(Isa::Avx2Fma, &mut vector, position);
                assert!(same_bits(&scalar, &vector), "head_dim {head_dim}");

                let mut truth = vec![0.0; x.len()];
                let half = head_dim / 2;
                for (head, x) in x.chunks_exact(head_dim).enumerate() {
                    for i in 0..half {
                        let angle = position as f64 / 10_000f64.powf(2.0 * i as f64 / head_dim as f64);
                        let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
                        truth[head * head_dim + i] = a * angle.cos() - b * angle.sin();
                        truth[head * head_dim + i + half] = b * angle.cos() + a * angle.sin();
                    }
                }
                // An angle near 100 is rounded to 2^-18 at most; values are below 2 sqrt 2.
                let worst = worst_difference(&vector, &truth);
                assert!(worst < 2.5e-5, "head_dim {head_dim}: {worst}");
            }
        }
    }

    #[test]
    fn position_zero_changes_nothing() {
        let mut x = Numbers(6).values(32, 1.0);
        let before = x.clone();
        Rotary::new(16, 10_000.0, 1).apply(&mut x, 0);
        assert_eq!(x, before);
    }

    #[test]
    #[should_panic(expected = "past max_positions")]
    fn a_position_past_the_table_is_named() {
        Rotary::new(4, 10_000.0, 8).apply(&mut [0.0; 4], 8);
    }
}
