//! The flat-buffer kernels of `swarmloom-kernels` for NVIDIA GPUs, from one source that is compiled when a device is opened.
//!
//! # The same bits
//!
//! The source (`kernels.cu`) does the arithmetic of the processor's kernels in the same order: without fused
//! multiply-adds but where they are written, with exactly rounded division and roots, with subnormal numbers. So each
//! result is bit for bit the processor's, apart from the payload of a NaN (of which a reduction has one alone). The tests
//! run the same source on the processor and compare; where there is a GPU, they run there too.
//!
//! # Without a GPU
//!
//! Nothing of CUDA is needed to build or to start. The driver (`libcuda`) and the compiler (`libnvrtc`) are loaded when
//! they are first needed, and a missing one is [`GpuError::Missing`].
//!
//! # Order
//!
//! A [`Gpu`] has one stream: what is called on it happens one after the other, and calls return before their work is done.
//! A [`Buffer`] belongs to the [`Gpu`] that made it. Two of them run side by side, also on one device.

mod buffer;
mod calls;
mod compile;
mod device;
mod error;
mod launch;
mod library;
mod ops;
mod shared;
#[cfg(test)]
mod twin;

pub use buffer::Buffer;
pub use calls::MAX_SOURCES;
pub use compile::{Arch, compile, compiler_version, supported};
pub use device::{Gpu, Mark};
pub use error::GpuError;
pub use library::{count, driver, nvrtc};
pub use ops::{Quantised, State};
pub use shared::{Handle, Pinned, Shared, Source};
