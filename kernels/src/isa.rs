//! Which instruction set a kernel runs on, and the one place where that is decided.

use crate::simd::{Scalar, Simd};

/// An instruction set that the kernels are compiled for.
///
/// All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust without vector instructions: the reference for the others.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C. Where the processor lacks one, [`Isa::Scalar`] runs instead.
    Avx2Fma,
}

/// The fastest instruction set of this processor. The answer is cached by the standard library.
#[inline]
pub fn detected() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if crate::avx2::Avx2Fma::new().is_some() {
        return Isa::Avx2Fma;
    }
    Isa::Scalar
}

/// A kernel with its arguments, ready to run on any instruction set.
///
/// `run` and all it calls with vectors in hand must be `#[inline(always)]` and free of closures
/// that capture vectors: only what is inlined is compiled with the vector instructions.
pub(crate) trait Kernel {
    type Output;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Isa {
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Scalar => kernel.run(Scalar),
            Isa::Avx2Fma => {
                #[cfg(target_arch = "x86_64")]
                if let Some(simd) = crate::avx2::Avx2Fma::new() {
                    return simd.run(kernel);
                }
                kernel.run(Scalar)
            }
        }
    }
}
