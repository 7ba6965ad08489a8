//! Attention against its definition, its scalar twin, and itself with other borders.

use super::*;
use crate::testing::{Numbers, same_bits, worst_difference};

/// Queries, keys and values of a sequence, and the caches made of them.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Sequence {
    fn new(seed: u64, heads: usize, kv_heads: usize, head_dim: usize, positions: usize) -> Self {
        let mut numbers = Numbers(seed);
        Self {
            q: numbers.values(positions * heads * head_dim, 2.0),
            k: numbers.values(positions * kv_heads * head_dim, 2.0),
            v: numbers.values(positions * kv_heads * head_dim, 2.0),
            heads,
            kv_heads,
            head_dim,
        }
    }

    fn cache(&self, positions: std::ops::Range<usize>, spare: usize) -> Cache {
        let row = self.kv_heads * self.head_dim;
        let mut cache = Cache::new(self.kv_heads, self.head_dim, positions.len() + spare);
        for p in positions {
            cache.push(&self.k[p * row..][..row], &self.v[p * row..][..row]);
        }
        cache
    }

    fn query(&self, position: usize) -> &[f32] {
        let width = self.heads * self.head_dim;
        &self.q[position * width..][..width]
    }

    /// The definition in `f64`, for the query of `position` over all positions up to it.
    fn truth(&self, position: usize) -> Vec<f64> {
        let (hd, group) = (self.head_dim, self.heads / self.kv_heads);
        let mut out = Vec::new();
        for (head, q) in self.query(position).chunks_exact(hd).enumerate() {
            let at = |p: usize, d: usize| (p * self.kv_heads + head / group) * hd + d;
            let weights: Vec<f64> = (0..=position)
                .map(|p| {
                    let products = (0..hd).map(|d| f64::from(q[d]) * f64::from(self.k[at(p, d)]));
                    (products.sum::<f64>() / (hd as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..hd).map(|d| {
                let values = weights.iter().enumerate();
                values.map(|(p, w)| w * f64::from(self.v[at(p, d)])).sum::<f64>() / total
            }));
        }
        out
    }
}

const SHAPES: [(usize, usize, usize); 6] = [(1, 1, 1), (4, 2, 16), (3, 1, 20), (6, 3, 8), (2, 2, 64), (8, 2, 32)];

#[test]
fn every_shape_agrees_bit_for_bit_and_with_f64() {
    let lengths: &[usize] = if cfg!(miri) { &[1, 18] } else { &[1, 2, 3, 5, 15, 16, 17, 63, 64, 65, 100, 333] };
    for (heads, kv_heads, head_dim) in SHAPES {
        for &positions in lengths {
            let sequence = Sequence::new(9, heads, kv_heads, head_dim, positions);
            let own = sequence.cache(0..positions, 3);
            let mut scratch = Scratch::new(positions);
            let q = sequence.query(positions - 1);
            let (mut scalar, mut vector) = (vec![9.0; q.len()], vec![9.0; q.len()]);
            decode_on(Isa::Scalar, q, None, &own, &mut scratch, &mut scalar);
            decode_on(Isa::Avx2Fma, q, None, &own, &mut scratch, &mut vector);
            assert!(same_bits(&scalar, &vector), "{heads} {kv_heads} {head_dim} {positions}");
            // Scores are at most 32 in size and off by about 1e-5; values are at most 2.
            let worst = worst_difference(&vector, &sequence.truth(positions - 1));
            assert!(worst < 2e-5, "{heads} {kv_heads} {head_dim} {positions}: {worst}");
        }
    }
}

#[test]
fn the_border_between_prefix_and_own_changes_nothing() {
    for (heads, kv_heads, head_dim) in SHAPES {
        for positions in [6, 37, 81] {
            let sequence = Sequence::new(10, heads, kv_heads, head_dim, positions);
            let mut scratch = Scratch::new(positions + 40);
            let q = sequence.query(positions - 1);
            let mut whole = vec![0.0; q.len()];
            decode(q, None, &sequence.cache(0..positions, 0), &mut scratch, &mut whole);
            for border in 0..=positions {
                let prefix = sequence.cache(0..border, border % 3);
                let own = sequence.cache(border..positions, border % 5);
                let mut out = vec![0.0; q.len()];
                decode(q, Some(&prefix), &own, &mut scratch, &mut out);
                assert!(same_bits(&out, &whole), "{head_dim} {positions} border {border}");
            }
        }
    }
}

#[test]
fn a_used_cache_and_scratch_leave_no_trace() {
    let (old, new) = (Sequence::new(11, 4, 2, 16, 50), Sequence::new(12, 4, 2, 16, 21));
    let mut cache = old.cache(0..50, 0);
    // Even a NaN left behind must not show.
    cache.clear();
    while cache.len() < cache.capacity() {
        cache.push(&[f32::NAN; 32], &[f32::NAN; 32]);
    }
    cache.clear();
    assert!(cache.is_empty());
    let mut scratch = Scratch::new(50);
    scratch.scores.fill(f32::NAN);
    let mut out = vec![0.0; new.q.len()];
    prefill(&new.q, &new.k, &new.v, None, &mut cache, &mut scratch, &mut out);

    for position in 0..21 {
        let mut fresh = vec![0.0; 64];
        let own = new.cache(0..position + 1, 0);
        decode(new.query(position), None, &own, &mut Scratch::new(50), &mut fresh);
        assert!(same_bits(&out[position * 64..][..64], &fresh), "position {position}");
        assert!(worst_difference(&fresh, &new.truth(position)) < 2e-5);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut cache = Cache::new(1, 2, 2);
    cache.push(&[1e4, 0.0], &[1.0, 2.0]);
    cache.push(&[-1e4, 0.0], &[5.0, 6.0]);
    let mut out = [0.0; 2];
    decode(&[1e4, 0.0], None, &cache, &mut Scratch::new(2), &mut out);
    assert_eq!(out, [1.0, 2.0]);
}

#[test]
#[should_panic(expected = "the cache is full")]
fn a_full_cache_says_so() {
    Cache::new(1, 1, 0).push(&[1.0], &[1.0]);
}

#[test]
#[should_panic(expected = "scratch is too small")]
fn a_scratch_that_is_too_small_says_so() {
    let sequence = Sequence::new(13, 1, 1, 4, 5);
    decode(&[0.0; 4], None, &sequence.cache(0..5, 0), &mut Scratch::new(4), &mut [0.0; 4]);
}
