//! Flat-buffer compute: the arithmetic of a Llama-family decoder, of collectives, and of federated aggregation.
//!
//! For generating rollouts in batches on a CPU: [`linear`], [`norm`], [`rotary`], [`attention`], [`activation`] and
//! [`sampling`].
//!
//! For training small classifiers, as many as a federated simulation has: [`convolution`] and [`pooling`].
//!
//! For training decoders: [`training`], beside a library's matrix products.
//!
//! [`random`] draws numbers by seed and index.
//!
//! For buffers that several parties hold: [`reduce`] and [`copy`] (also on memory that is shared with other processes),
//! [`quantise`], [`fp8`] and [`sparsify`], the aggregations of [`robust`], the optimizer steps of [`outer`], and
//! [`norms`]. [`fused`] and [`outer::mean_step`] do several of these in one pass, with the same bits as one after
//! the other. [`mod@bench`] measures them.
//!
//! # Batch invariance
//!
//! A row's result never depends on how many other rows are in the call, or on where the row
//! stands. Each output has one fixed order of operations, set by the width of the model alone.
//! A general matrix multiplication, libtorch's included, chooses its blocking by the size of the
//! batch, so the same row can get different last bits in different batches. Generation that must
//! be repeatable row by row cannot use it; that is why this crate has its own.
//!
//! # One source, several instruction sets
//!
//! Each kernel is written once over eight lanes and compiled once per [`Isa`].
//! Only exactly rounded operations are used (`+`, `-`, `*`, `/`, square root, fused
//! multiply-add, conversions), in the same order, so that [`Isa::Scalar`] and the vector versions
//! agree bit for bit, apart from the payload of a NaN (of which [`reduce`] has one alone). The
//! vector version is chosen at run time. Each kernel has a `_on` form which takes the instruction
//! set, for tests and benchmarks.
//! The scalar version is a reference: on a processor without fused multiply-add it is slow.
//!
//! # Conventions
//!
//! Buffers are dense, those of the decoder row-major `f32`. Lengths that do not fit together are mistakes of the
//! caller: the kernels panic with a message that names the buffer, and the caller validates
//! what it got from outside beforehand. Values never cause a panic: a NaN or an infinity goes
//! through the arithmetic. Kernels start no threads (callers split the rows) and allocate
//! nothing; constructors such as [`linear::PackedLinear::pack`] do.

pub mod activation;
pub mod attention;
pub mod bench;
pub mod convolution;
pub mod copy;
pub mod fp8;
pub mod fused;
pub mod linear;
pub mod norm;
pub mod norms;
pub mod outer;
pub mod pooling;
pub mod quantise;
pub mod random;
pub mod reduce;
pub mod robust;
pub mod rotary;
pub mod sampling;
pub mod sparsify;
pub mod training;

#[cfg(target_arch = "x86_64")]
mod avx2;
mod dtype;
mod exp;
mod isa;
mod lanes;
mod simd;
#[cfg(test)]
mod testing;

pub use dtype::{Bf16, Dtype, Element, F16, Float};
pub use isa::{Isa, detected};
pub use simd::Line;
