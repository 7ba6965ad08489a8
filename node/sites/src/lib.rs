//! What the schedulers of clusters say to a process, and what they are told: pure functions of text.
//!
//! - [`place`]: which rank of how many this process is, as torchrun, Slurm, Open MPI, PMI, Kubernetes or our own launcher
//!   says it in variables.
//! - [`nodelist`]: how Slurm writes many names in one.
//! - [`hosts`], [`assign`], [`command`]: machines that are reached over SSH, which ranks they get, and how one starts there.
//! - [`emit`]: scripts and manifests that schedulers take.
//!
//! Nothing here reads the environment, a file or a clock, and nothing starts a process.

pub mod assign;
pub mod command;
pub mod emit;
pub mod hosts;
pub mod nodelist;
pub mod place;
mod quote;
#[cfg(test)]
mod shell;

/// No job has more ranks, nodes or slots than this: what is larger is a slip of the pen.
pub const MOST: usize = 65_536;
