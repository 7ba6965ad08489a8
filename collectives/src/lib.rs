//! Collectives over primitive channels.
//!
//! Four layers, each usable alone, none knowing the ones above:
//!
//! 1. memory and channels ([`fabric`]): put, signal, wait, flush and packets, over shared memory, TCP and others;
//! 2. plans ([`plan`]): a collective as data, verified before it runs;
//! 3. execution and groups: one rank's program, carried out over channels, with deadlines, abort and survivors;
//! 4. collectives with an algorithm chosen by size, ranks and what was measured.

pub mod adapt;
pub mod bench;
pub mod bootstrap;
#[cfg(test)]
mod chaos;
mod control;
pub mod error;
pub mod execute;
pub mod fabric;
pub mod fault;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod group;
pub mod machine;
pub mod memory;
pub mod patience;
pub mod plan;
pub mod quantised;
pub mod queue;
mod reference;
pub mod select;
mod setup;
pub mod tuner;

pub use error::CollectiveError;
pub use group::channels::Channels;
pub use group::{Group, GroupConfig, Transport};
pub use swarmloom_kernels::reduce::ReduceOp;
pub use swarmloom_kernels::{Bf16, Dtype, F16};
