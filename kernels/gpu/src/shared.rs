//! Memory that a device shares: with other processes of the host (CUDA IPC), and with the processor (pinned).

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use cudarc::driver::{result, sys};
use swarmloom_kernels::Element;
use swarmloom_kernels::reduce::ReduceOp;

use crate::buffer::Buffer;
use crate::calls;
use crate::device::Gpu;
use crate::error::GpuError;

/// What another process needs to open a [`Buffer`]: plain bytes, good while the buffer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(pub [u8; Self::BYTES]);

impl Handle {
    /// Its size.
    pub const BYTES: usize = 64;
}

impl<T: Element> Buffer<T> {
    /// Lets other processes of this host open it, by [`Gpu::open_shared`].
    ///
    /// # Errors
    /// [`GpuError::Usage`] where it is empty, [`GpuError::Driver`] where the system does not allow it.
    pub fn share(&self) -> Result<Handle, GpuError> {
        if self.is_empty() {
            return Err(GpuError::Usage { call: "share", why: "an empty buffer".into() });
        }
        self.gpu().enter()?;
        let mut handle = sys::CUipcMemHandle { reserved: [0; Handle::BYTES] };
        // SAFETY: the memory was made by `cuMemAlloc` and lives; a handle to write to.
        let made = unsafe { sys::cuIpcGetMemHandle(&mut handle, self.address()) };
        made.result().map_err(GpuError::driver("sharing a device's memory"))?;
        Ok(Handle(handle.reserved.map(|byte| byte as u8)))
    }
}

/// Another process's buffer, opened here. It can be read by [`Gpu::reduce_shared`].
#[derive(Debug)]
pub struct Shared {
    gpu: Gpu,
    at: u64,
    bytes: usize,
}

/// A source of [`Gpu::reduce_shared`].
#[derive(Debug, Clone, Copy)]
pub enum Source<'a, T> {
    /// One's own.
    Own(&'a Buffer<T>),
    /// Another process's.
    Of(&'a Shared),
}

impl Gpu {
    /// Opens another process's buffer of so many bytes. Both processes' devices must reach each other.
    ///
    /// # Errors
    /// [`GpuError::Driver`], for a handle of this same process too.
    ///
    /// # Safety
    /// The handle must come from [`Buffer::share`] of a buffer of at least `bytes` bytes, and that buffer must live for as
    /// long as the result is used.
    pub unsafe fn open_shared(&self, handle: &Handle, bytes: usize) -> Result<Shared, GpuError> {
        self.enter()?;
        let handle = sys::CUipcMemHandle { reserved: handle.0.map(|byte| byte as c_char) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut at = 0;
        // SAFETY: an address to write to; the handle is one, by the caller's promise.
        let opened = unsafe { sys::cuIpcOpenMemHandle_v2(&mut at, handle, flags) };
        opened.result().map_err(GpuError::driver("opening another process's device memory"))?;
        Ok(Shared { gpu: self.clone(), at, bytes })
    }

    /// [`Gpu::reduce`] of buffers of several processes: the first `out.len()` elements of each.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    ///
    /// # Safety
    /// Nobody writes to another process's source until the work is done; [`Gpu::mark`] says when that is.
    pub unsafe fn reduce_shared<T: Element>(
        &self,
        op: ReduceOp,
        sources: &[Source<'_, T>],
        out: &mut Buffer<T>,
    ) -> Result<(), GpuError> {
        const CALL: &str = "reduce_shared";
        let wrong = |why: String| GpuError::Usage { call: CALL, why };
        out.on(self, CALL)?;
        if sources.is_empty() || sources.len() > calls::MAX_SOURCES {
            return Err(wrong(format!("{} sources; 1 to {} can be reduced", sources.len(), calls::MAX_SOURCES)));
        }
        let mut addresses = Vec::with_capacity(sources.len());
        for source in sources {
            let (gpu, at, bytes) = match source {
                Source::Own(buffer) => (buffer.gpu(), buffer.address(), buffer.bytes()),
                Source::Of(shared) => (&shared.gpu, shared.at, shared.bytes),
            };
            if !gpu.same_as(self) {
                return Err(wrong("a source was opened on another device or stream".into()));
            }
            if bytes < out.bytes() {
                return Err(wrong(format!("a source has {bytes} bytes and not {}", out.bytes())));
            }
            addresses.push(at);
        }
        if out.is_empty() {
            return Ok(());
        }
        let launch = calls::reduce((T::DTYPE, op), &addresses, out.address(), out.len(), None);
        // SAFETY: all of it is memory of at least that many elements; `out` is borrowed exclusively, and nobody writes to
        // the sources, by the caller's promise and by the order of the stream.
        unsafe { self.launch(launch) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // As for a buffer: work first, then the memory; a failed device has no more work.
        if self.gpu.enter().is_ok() {
            let _ = self.gpu.wait();
            // SAFETY: it was opened when this was made, and no work uses it.
            let _ = unsafe { sys::cuIpcCloseMemHandle(self.at) };
        }
    }
}

/// Memory of the processor that devices copy from and to directly.
#[derive(Debug)]
pub struct Pinned {
    gpu: Gpu,
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is plain memory of the processor, reached through borrows of this alone.
unsafe impl Send for Pinned {}

impl Gpu {
    /// Zeroed memory of the processor, pinned. Slow to make: meant to be kept.
    ///
    /// # Errors
    /// [`GpuError::Driver`], for want of memory too.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        self.enter()?;
        // The driver makes no empty memory.
        // SAFETY: the memory is owned by what is made here.
        let at: *mut c_void =
            unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(GpuError::driver("pinning memory"))?;
        let at = NonNull::new(at.cast::<u8>());
        let at = at.ok_or_else(|| GpuError::Usage { call: "pinned", why: "the driver gave no memory".into() })?;
        // SAFETY: it has that many bytes.
        unsafe { at.write_bytes(0, bytes.max(1)) };
        Ok(Pinned { gpu: self.clone(), at, bytes })
    }
}

impl Pinned {
    /// The first elements, of a type of which every pattern is a value.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn slice<T: Element>(&self, len: usize) -> &[T] {
        assert!(len <= self.bytes / size_of::<T>(), "pinned: {len} elements do not fit");
        // SAFETY: so much is there, initialised, and aligned to pages; no copy is under way while it can be borrowed.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), len) }
    }

    /// [`Pinned::slice`] to write to.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn slice_mut<T: Element>(&mut self, len: usize) -> &mut [T] {
        assert!(len <= self.bytes / size_of::<T>(), "pinned: {len} elements do not fit");
        // SAFETY: as in `slice`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), len) }
    }

    /// How much there is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: it was taken when this was made; copies from and to it have ended, because they borrow it.
            let _ = unsafe { result::free_host(self.at.as_ptr().cast()) };
        }
    }
}
