//! Memory of a device.

use std::marker::PhantomData;

use cudarc::driver::result;
use swarmloom_kernels::Element;

use crate::calls::Address;
use crate::device::Gpu;
use crate::error::GpuError;

/// Elements in a device's memory. It belongs to one [`Gpu`]: that one's calls use it, in their order.
///
/// It is made by `cuMemAlloc`, so that other processes can be given access to it, and meant to be kept: making and dropping
/// one waits for the device.
#[derive(Debug)]
pub struct Buffer<T> {
    gpu: Gpu,
    at: Address,
    len: usize,
    element: PhantomData<T>,
}

impl Gpu {
    /// Zeroed memory.
    ///
    /// # Errors
    /// [`GpuError::Driver`], for want of memory too.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, GpuError> {
        let buffer = self.buffer(len)?;
        if len > 0 {
            self.enter()?;
            // SAFETY: the buffer has that many bytes; work that uses it comes later in the same stream.
            let set = unsafe { result::memset_d8_async(buffer.at, 0, buffer.bytes(), self.cu_stream()) };
            set.map_err(GpuError::driver("clearing a device's memory"))?;
        }
        Ok(buffer)
    }

    /// A copy of the elements.
    ///
    /// # Errors
    /// [`GpuError::Driver`], for want of memory too.
    pub fn upload<T: Element>(&self, from: &[T]) -> Result<Buffer<T>, GpuError> {
        let mut buffer = self.buffer(from.len())?;
        buffer.write(from)?;
        Ok(buffer)
    }

    fn buffer<T: Element>(&self, len: usize) -> Result<Buffer<T>, GpuError> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or_else(|| GpuError::Usage { call: "buffer", why: format!("{len} elements") })?;
        self.enter()?;
        // The driver makes no empty memory.
        let at = match bytes {
            0 => 0,
            // SAFETY: the memory is owned by the buffer that is made here.
            _ => unsafe { result::malloc_sync(bytes) }.map_err(GpuError::driver("taking a device's memory"))?,
        };
        Ok(Buffer { gpu: self.clone(), at, len, element: PhantomData })
    }
}

impl<T: Element> Buffer<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first element on the device; 0 where there is none.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// Whose it is.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Overwrites all elements. Returns once `from` may change.
    ///
    /// # Errors
    /// [`GpuError::Usage`] where `from` has another length, [`GpuError::Driver`].
    pub fn write(&mut self, from: &[T]) -> Result<(), GpuError> {
        self.fits("write", from.len())?;
        if self.len > 0 {
            self.gpu.enter()?;
            // SAFETY: both have that many elements. `from` is borrowed until the copy is done.
            let copied = unsafe { result::memcpy_htod_async(self.at, from, self.gpu.cu_stream()) };
            copied.map_err(GpuError::driver("copying to a device"))?;
            self.gpu.wait()?;
        }
        Ok(())
    }

    /// Copies all elements to `to`, after what was called before.
    ///
    /// # Errors
    /// [`GpuError::Usage`] where `to` has another length, [`GpuError::Driver`].
    pub fn read(&self, to: &mut [T]) -> Result<(), GpuError> {
        self.fits("read", to.len())?;
        if self.len > 0 {
            self.gpu.enter()?;
            // SAFETY: both have that many elements, of a type of which every pattern is a value. `to` is borrowed until
            // the copy is done.
            let copied = unsafe { result::memcpy_dtoh_async(to, self.at, self.gpu.cu_stream()) };
            copied.map_err(GpuError::driver("copying from a device"))?;
            self.gpu.wait()?;
        }
        Ok(())
    }

    /// Overwrites all elements by those of another buffer of the same [`Gpu`].
    ///
    /// # Errors
    /// [`GpuError::Usage`] where it has another length or is another device's, [`GpuError::Driver`].
    pub fn copy_from(&mut self, from: &Buffer<T>) -> Result<(), GpuError> {
        self.fits("copy_from", from.len)?;
        from.on(&self.gpu, "copy_from")?;
        if self.len > 0 {
            self.gpu.enter()?;
            // SAFETY: both have that many bytes and differ, because this one is borrowed exclusively.
            let copied = unsafe { result::memcpy_dtod_async(self.at, from.at, self.bytes(), self.gpu.cu_stream()) };
            copied.map_err(GpuError::driver("copying within a device"))?;
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn fits(&self, call: &'static str, len: usize) -> Result<(), GpuError> {
        if len == self.len {
            return Ok(());
        }
        Err(GpuError::Usage { call, why: format!("{len} elements on the other side, {} here", self.len) })
    }

    /// Refuses the buffer of another [`Gpu`].
    pub(crate) fn on(&self, gpu: &Gpu, call: &'static str) -> Result<(), GpuError> {
        if self.gpu.same_as(gpu) {
            return Ok(());
        }
        Err(GpuError::Usage { call, why: "a buffer belongs to another device or stream".into() })
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.at == 0 || self.gpu.enter().is_err() {
            return;
        }
        // Work that uses it may still run. Where the device has failed, nothing runs any more.
        let _ = self.gpu.wait();
        // SAFETY: the memory was taken when this was made, and no work uses it. If this fails, the device has failed, and
        // its memory goes with the process.
        let _ = unsafe { result::free_sync(self.at) };
    }
}
