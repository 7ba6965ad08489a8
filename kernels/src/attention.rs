//! Grouped-query attention of one token over cached keys and values (Ainslie et al., "GQA", 2023,
//! section 2.2; Vaswani et al., "Attention Is All You Need", 2017, section 3.2.1).
//!
//! The positions may lie in two caches, a shared prefix and the sequence's own: the rows of a
//! group keep their prompt once. Where the border lies does not change a bit of the result.

mod cache;

pub use cache::Cache;

use crate::exp::exp;
use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Line, Simd, max_lanes, store_partial, sum_lanes};

/// Blocks of keys scored at once: eight chains hide the latency of one.
const BLOCKS: usize = 4;
/// Positions whose values are added at once, each to a chain of its own.
const CHAINS: usize = 4;

/// Room for the scores of one query head, allocated once and used by every call.
#[derive(Clone, Debug)]
pub struct Scratch {
    scores: Vec<f32>,
    max_positions: usize,
}

impl Scratch {
    /// For calls over at most `max_positions` positions, prefix and own together.
    pub fn new(max_positions: usize) -> Self {
        // Scores are written a block at a time, from any position.
        Self { scores: vec![0.0; max_positions + Line::WIDTH], max_positions }
    }
}

/// Attention of one token: `out = softmax(q k^T / sqrt(head_dim)) v` for each query head, over all
/// positions of `prefix` followed by all of `own` (which holds the token itself already).
///
/// `q` and `out` are `[heads, head_dim]`. Query heads `g n` to `g n + n - 1` use key head `g`,
/// where `n` is `heads / kv_heads`. The order of the operations depends on the position within
/// prefix and own together, not on the border between the two.
///
/// # Panics
///
/// If `q` is not a whole number of heads, `heads` is not a multiple of `kv_heads`, `out` has
/// another length than `q`, the caches differ in shape, there is no position at all, or more than
/// `scratch` has room for.
pub fn decode(q: &[f32], prefix: Option<&Cache>, own: &Cache, scratch: &mut Scratch, out: &mut [f32]) {
    decode_on(detected(), q, prefix, own, scratch, out);
}

/// [`decode`] on a given instruction set.
///
/// # Panics
///
/// As [`decode`].
pub fn decode_on(isa: Isa, q: &[f32], prefix: Option<&Cache>, own: &Cache, scratch: &mut Scratch, out: &mut [f32]) {
    let before = prefix.map_or(0, Cache::len);
    let positions = before + own.len();
    assert_eq!(q.len() % own.head_dim(), 0, "attention: q is not [heads, head_dim]");
    let heads = q.len() / own.head_dim();
    assert_eq!(heads % own.kv_heads(), 0, "attention: heads is not a multiple of kv_heads");
    assert_eq!(q.len(), out.len(), "attention: q and out differ in length");
    assert!(
        prefix.is_none_or(|p| (p.kv_heads(), p.head_dim()) == (own.kv_heads(), own.head_dim())),
        "attention: prefix and own differ in shape"
    );
    assert!(positions > 0, "attention: no position to attend to");
    assert!(positions <= scratch.max_positions, "attention: scratch is too small");
    // An absent prefix is read as the own cache, of which no position comes before.
    let segments = Segments { prefix: prefix.unwrap_or(own), before, own, positions };
    isa.run(Decode { q, segments, scores: &mut scratch.scores, out });
}

/// Causal attention of several tokens of one sequence: for each in turn, appends its key and value
/// to `own` and does [`decode`].
///
/// `q` and `out` are `[tokens, heads, head_dim]`, `k` and `v` `[tokens, kv_heads, head_dim]`.
///
/// # Panics
///
/// As [`decode`]; also if `k` or `v` is not a whole number of tokens, the numbers of tokens differ,
/// or `own` has no room for them.
pub fn prefill(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    prefix: Option<&Cache>,
    own: &mut Cache,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let row = own.kv_heads() * own.head_dim();
    assert_eq!(k.len() % row, 0, "attention: k is not [tokens, kv_heads, head_dim]");
    assert_eq!(k.len(), v.len(), "attention: k and v differ in length");
    assert_eq!(q.len(), out.len(), "attention: q and out differ in length");
    let tokens = k.len() / row;
    if tokens == 0 {
        assert!(q.is_empty(), "attention: q and k differ in tokens");
        return;
    }
    assert_eq!(q.len() % tokens, 0, "attention: q is not [tokens, heads, head_dim]");
    let width = q.len() / tokens;
    assert!(width > 0, "attention: q and k differ in tokens");
    let queries = q.chunks_exact(width).zip(out.chunks_exact_mut(width));
    for ((q, out), (k, v)) in queries.zip(k.chunks_exact(row).zip(v.chunks_exact(row))) {
        own.push(k, v);
        decode(q, prefix, own, scratch, out);
    }
}

/// The positions of two caches, one after the other.
struct Segments<'a> {
    prefix: &'a Cache,
    /// Positions of the prefix.
    before: usize,
    own: &'a Cache,
    /// Positions of both together.
    positions: usize,
}

struct Decode<'a> {
    q: &'a [f32],
    segments: Segments<'a>,
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Segments { prefix, before, own, positions } = self.segments;
        let head_dim = own.head_dim();
        let group = self.q.len() / head_dim / own.kv_heads();
        let scale = simd.splat(1.0 / (head_dim as f32).sqrt());
        let heads = self.q.chunks_exact(head_dim).zip(self.out.chunks_exact_mut(head_dim));
        for (head, (q, out)) in heads.enumerate() {
            let kv_head = head / group;
            score(simd, q, prefix.keys(kv_head, before), scale, self.scores);
            score(simd, q, own.keys(kv_head, own.len()), scale, &mut self.scores[before..]);
            // Past the last position there is no weight.
            let padded = positions.next_multiple_of(LANES);
            self.scores[positions..padded].fill(f32::NEG_INFINITY);
            let sum = soften(simd, &mut self.scores[..padded]);

            for (tile, out) in out.chunks_mut(Line::WIDTH).enumerate() {
                let values =
                    Values { prefix: prefix.values(kv_head, tile, before), own: own.values(kv_head, tile, own.len()) };
                let total = values.weighted_sum(simd, &self.scores[..padded]);
                let (low, high) = out.split_at_mut(out.len().min(LANES));
                store_partial(simd, simd.div(total[0], simd.splat(sum)), low);
                store_partial(simd, simd.div(total[1], simd.splat(sum)), high);
            }
        }
    }
}

/// Scores of one query head against blocks of 16 keys, `[blocks, head_dim]` lines. Each score is one
/// chain over the elements of the head. Writes whole blocks.
#[inline(always)]
fn score<S: Simd>(simd: S, q: &[f32], keys: &[Line], scale: S::V, scores: &mut [f32]) {
    let whole = keys.chunks_exact(q.len() * BLOCKS);
    let rest = whole.remainder();
    let done = (keys.len() - rest.len()) / q.len() * Line::WIDTH;
    for (keys, scores) in whole.zip(scores.chunks_mut(BLOCKS * Line::WIDTH)) {
        score_blocks::<S, BLOCKS>(simd, q, keys, scale, scores);
    }
    let scores = scores[done..].chunks_mut(Line::WIDTH);
    for (keys, scores) in rest.chunks_exact(q.len()).zip(scores) {
        score_blocks::<S, 1>(simd, q, keys, scale, scores);
    }
}

#[inline(always)]
fn score_blocks<S: Simd, const B: usize>(simd: S, q: &[f32], keys: &[Line], scale: S::V, scores: &mut [f32]) {
    let mut blocks: [&[Line]; B] = [&[]; B];
    for (block, keys) in blocks.iter_mut().zip(keys.chunks_exact(q.len())) {
        *block = keys;
    }
    let mut sums = [[simd.splat(0.0); 2]; B];
    for (d, &q) in q.iter().enumerate() {
        let q = simd.splat(q);
        for (sum, block) in sums.iter_mut().zip(&blocks) {
            let keys = &block[d].0;
            sum[0] = simd.mul_add(q, simd.load(&keys[0]), sum[0]);
            sum[1] = simd.mul_add(q, simd.load(&keys[1]), sum[1]);
        }
    }
    let (scores, _) = scores.as_chunks_mut::<LANES>();
    let (pairs, _) = scores.as_chunks_mut::<2>();
    for (pair, sum) in pairs.iter_mut().zip(sums) {
        simd.store(simd.mul(sum[0], scale), &mut pair[0]);
        simd.store(simd.mul(sum[1], scale), &mut pair[1]);
    }
}

/// Replaces scores, a multiple of 8 of them, by `e^(score - max)`, and gives their sum: eight
/// chains, then a fixed tree.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let (scores, _) = scores.as_chunks_mut();
    let mut max = simd.splat(f32::NEG_INFINITY);
    for lanes in scores.iter() {
        max = simd.max(simd.load(lanes), max);
    }
    let max = simd.splat(max_lanes(simd, max));
    let mut sum = simd.splat(0.0);
    for lanes in scores {
        let weight = exp(simd, simd.sub(simd.load(lanes), max));
        sum = simd.add(sum, weight);
        simd.store(weight, lanes);
    }
    sum_lanes(simd, sum)
}

/// One tile, 16 elements of a head, of the values of every position.
struct Values<'a> {
    prefix: &'a [Line],
    own: &'a [Line],
}

impl Values<'_> {
    /// Position `p` goes to chain `p mod 4`; the chains are added in a fixed tree.
    #[inline(always)]
    fn weighted_sum<S: Simd>(&self, simd: S, weights: &[f32]) -> [S::V; 2] {
        let mut sums = [[simd.splat(0.0); 2]; CHAINS];
        let (weights, _) = weights.as_chunks::<CHAINS>();
        let positions = self.prefix.len() + self.own.len();
        let weights = &weights[..positions.div_ceil(CHAINS)];

        let (lines, prefix_end) = self.prefix.as_chunks::<CHAINS>();
        let (whole, weights) = weights.split_at(lines.len());
        for (weights, lines) in whole.iter().zip(lines) {
            add_weighted(simd, weights, lines, &mut sums);
        }
        // The four positions across the border.
        let across = if prefix_end.is_empty() { 0 } else { CHAINS - prefix_end.len() };
        let (own_start, own) = self.own.split_at(across.min(self.own.len()));
        let (border, weights) = weights.split_at(usize::from(!prefix_end.is_empty()));
        for weights in border {
            add_weighted(simd, weights, &four(prefix_end, own_start), &mut sums);
        }
        let (lines, own_end) = own.as_chunks::<CHAINS>();
        let (whole, weights) = weights.split_at(lines.len());
        for (weights, lines) in whole.iter().zip(lines) {
            add_weighted(simd, weights, lines, &mut sums);
        }
        for weights in weights {
            add_weighted(simd, weights, &four(own_end, &[]), &mut sums);
        }

        let [a, b, c, d] = sums;
        let mut total = [simd.splat(0.0); 2];
        for (i, total) in total.iter_mut().enumerate() {
            *total = simd.add(simd.add(a[i], c[i]), simd.add(b[i], d[i]));
        }
        total
    }
}

/// At most four lines from two slices, then zeros, whose weight is zero as well.
#[inline(always)]
fn four(first: &[Line], second: &[Line]) -> [Line; CHAINS] {
    let mut lines = [Line::ZERO; CHAINS];
    for (line, from) in lines.iter_mut().zip(first.iter().chain(second)) {
        *line = *from;
    }
    lines
}

#[inline(always)]
fn add_weighted<S: Simd>(simd: S, weights: &[f32; CHAINS], lines: &[Line; CHAINS], sums: &mut [[S::V; 2]; CHAINS]) {
    for ((weight, Line(line)), sum) in weights.iter().zip(lines).zip(sums) {
        let weight = simd.splat(*weight);
        sum[0] = simd.mul_add(weight, simd.load(&line[0]), sum[0]);
        sum[1] = simd.mul_add(weight, simd.load(&line[1]), sum[1]);
    }
}

#[cfg(test)]
mod tests;
