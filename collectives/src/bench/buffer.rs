//! Page-aligned memory whose pages are there: what the C peers use as well.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use super::BenchError;

/// Zeroed memory, by address.
#[derive(Debug)]
pub(super) struct Buffer {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory, valid from any thread until it is dropped.
unsafe impl Send for Buffer {}

impl Buffer {
    /// `bytes`, not 0.
    pub(super) fn new(bytes: usize) -> Result<Self, BenchError> {
        let refuse = || BenchError::System { what: "memory for a buffer", why: format!("{bytes} bytes are too many") };
        let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| refuse())?;
        // SAFETY: the size is not 0.
        let at = NonNull::new(unsafe { alloc(layout) }).ok_or_else(refuse)?;
        // Written, not allocated as zeroes: so every page is there before the first measurement.
        // SAFETY: `layout.size()` bytes were allocated.
        unsafe { at.as_ptr().write_bytes(0, layout.size()) };
        Ok(Self { at, layout })
    }

    /// Its first byte.
    pub(super) fn at(&self) -> *mut u8 {
        self.at.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.at.as_ptr(), self.layout) };
    }
}
