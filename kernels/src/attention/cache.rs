//! Cached keys and values of one layer of one sequence, laid out for `decode`.

use std::fmt;

use crate::simd::Line;

/// The keys and values of one layer of one sequence, up to a capacity fixed at creation.
///
/// Keys are stored by blocks of 16 positions, transposed, so that a vector holds one element of
/// several keys; values by tiles of 16 elements, so that a vector holds several elements of one
/// value.
#[derive(Clone)]
pub struct Cache {
    /// `[kv_heads, ceil(capacity / 16), head_dim]` lines of 16 positions.
    keys: Vec<Line>,
    /// `[kv_heads, ceil(head_dim / 16), capacity]` lines of 16 elements.
    values: Vec<Line>,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("kv_heads", &self.kv_heads)
            .field("head_dim", &self.head_dim)
            .field("capacity", &self.capacity)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache with room for `capacity` positions. Both parts are allocated here:
    /// together 8 bytes for each key head, position and element, rounded up to 16 positions
    /// and elements.
    ///
    /// # Panics
    ///
    /// If `kv_heads` or `head_dim` is zero.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "attention: a size is zero");
        let (blocks, tiles) = (capacity.div_ceil(Line::WIDTH), head_dim.div_ceil(Line::WIDTH));
        Self {
            keys: vec![Line::ZERO; kv_heads * blocks * head_dim],
            values: vec![Line::ZERO; kv_heads * tiles * capacity],
            kv_heads,
            head_dim,
            capacity,
            len: 0,
        }
    }

    /// Number of key heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements in a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Number of positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all positions and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends a position: `k` and `v` are `[kv_heads, head_dim]`, the keys turned by their rotary
    /// embedding already.
    ///
    /// # Panics
    ///
    /// If the cache is full, or a length differs from its shape.
    pub fn push(&mut self, k: &[f32], v: &[f32]) {
        assert!(self.len < self.capacity, "attention: the cache is full");
        let row = self.kv_heads * self.head_dim;
        assert_eq!(k.len(), row, "attention: k is not [kv_heads, head_dim]");
        assert_eq!(v.len(), row, "attention: v is not [kv_heads, head_dim]");
        let (block, lane) = (self.len / Line::WIDTH, self.len % Line::WIDTH);
        for (head, (k, v)) in k.chunks_exact(self.head_dim).zip(v.chunks_exact(self.head_dim)).enumerate() {
            let first = (head * self.blocks() + block) * self.head_dim;
            for (line, &k) in self.keys[first..][..self.head_dim].iter_mut().zip(k) {
                line.set(lane, k);
            }
            for (tile, v) in v.chunks(Line::WIDTH).enumerate() {
                let line = (head * self.tiles() + tile) * self.capacity + self.len;
                for (element, &v) in v.iter().enumerate() {
                    self.values[line].set(element, v);
                }
            }
        }
        self.len += 1;
    }

    /// The blocks that hold the first `positions` keys of a head: `[blocks, head_dim]`.
    pub(super) fn keys(&self, head: usize, positions: usize) -> &[Line] {
        let lines = positions.div_ceil(Line::WIDTH) * self.head_dim;
        &self.keys[head * self.blocks() * self.head_dim..][..lines]
    }

    /// A tile of the first `positions` values of a head: `[positions]`.
    pub(super) fn values(&self, head: usize, tile: usize, positions: usize) -> &[Line] {
        &self.values[(head * self.tiles() + tile) * self.capacity..][..positions]
    }

    fn blocks(&self) -> usize {
        self.capacity.div_ceil(Line::WIDTH)
    }

    fn tiles(&self) -> usize {
        self.head_dim.div_ceil(Line::WIDTH)
    }
}
