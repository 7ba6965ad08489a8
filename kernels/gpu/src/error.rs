//! What a caller sees when a GPU does not do what it was asked.

use cudarc::driver::DriverError;

/// Why something on a GPU failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// A library is not there, or is too old.
    #[error("{library} cannot be used: {why}")]
    Missing {
        /// Its name.
        library: &'static str,
        /// What was found.
        why: String,
    },
    /// The driver refused something, or an earlier piece of work failed.
    #[error("{what}: {source}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// What the driver said.
        source: DriverError,
    },
    /// The kernels could not be compiled.
    #[error("the kernels cannot be compiled for {arch}: {log}")]
    Compile {
        /// For what.
        arch: String,
        /// What the compiler said.
        log: String,
    },
    /// Lengths or devices that do not fit together. Nothing was done.
    #[error("{call}: {why}")]
    Usage {
        /// Which call.
        call: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl GpuError {
    pub(crate) fn driver(what: &'static str) -> impl Fn(DriverError) -> Self {
        move |source| Self::Driver { what, source }
    }
}
