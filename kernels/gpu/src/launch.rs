//! A kernel with its arguments, ready to run anywhere.

use std::ffi::c_void;

/// What is launched. Arguments lie in words of their own, as the device's calling convention reads them by address.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Launch {
    /// The kernel.
    pub(crate) name: String,
    /// Blocks of threads.
    pub(crate) grid: u32,
    /// Threads of a block.
    pub(crate) block: u32,
    words: Vec<u64>,
    /// Where each argument begins.
    begins: Vec<usize>,
}

/// Threads of every block; those that work together count on it (`THREADS` in the source).
pub(crate) const THREADS: u32 = 256;
/// More blocks than any device runs at once: the kernels loop over the rest.
const MAX_GRID: u64 = 1 << 16;

impl Launch {
    /// With one thread for each of `items`, as far as that makes sense.
    pub(crate) fn elements(name: String, items: u64) -> Self {
        Self::blocks(name, items.div_ceil(u64::from(THREADS)))
    }

    /// With so many blocks, as far as that makes sense.
    pub(crate) fn blocks(name: String, blocks: u64) -> Self {
        let grid = blocks.clamp(1, MAX_GRID) as u32;
        Self { name, grid, block: THREADS, words: Vec::new(), begins: Vec::new() }
    }

    /// An address or a count.
    pub(crate) fn word(self, value: u64) -> Self {
        self.words(&[value])
    }

    /// A number of 32 bits.
    pub(crate) fn half(self, value: u32) -> Self {
        self.halves(&[value])
    }

    /// A structure of words.
    pub(crate) fn words(mut self, values: &[u64]) -> Self {
        self.begins.push(self.words.len());
        self.words.extend_from_slice(values);
        self
    }

    /// A structure of numbers of 32 bits.
    pub(crate) fn halves(mut self, values: &[u32]) -> Self {
        self.begins.push(self.words.len());
        let pair = |pair: &[u32]| {
            let [a, b] = [pair[0], pair.get(1).copied().unwrap_or(0)].map(u32::to_ne_bytes);
            u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
        };
        self.words.extend(values.chunks(2).map(pair));
        self
    }

    /// The addresses of the arguments, valid until this is moved or changed.
    pub(crate) fn arguments(&mut self) -> Vec<*mut c_void> {
        let words = self.words.as_mut_ptr();
        // SAFETY: every argument begins within the words.
        self.begins.iter().map(|begin| unsafe { words.add(*begin) }.cast()).collect()
    }
}
