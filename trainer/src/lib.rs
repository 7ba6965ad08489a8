//! Small language models: generating with them, and training them by reinforcement and imitation.
//!
//! # Two engines
//!
//! *Generation* ([`generate`]) always runs on the CPU, on the kernels of `swarmloom-kernels`: their
//! results do not depend on the batch, so the same seed gives the same text whatever is generated
//! beside it. *Training* ([`learner`]) runs on libtorch, on the device that [`device::prepare`]
//! returned. [`weights::Weights`] is what passes between the two, as well as to and from files.
//!
//! Beside them, [`federated`] has libtorch train what the clients of a federated simulation do: classifiers of any kind.
//!
//! # What is absent
//!
//! Nothing here knows tasks, the network or the swarm: prompts and completions are bytes, rewards are
//! numbers. No clock is read except to measure how long generation took, and the only randomness is the
//! seeds that the caller gives. `unsafe` stands in [`device`] alone, where a library is loaded.

#![deny(unsafe_code)]

pub mod causal;
pub mod checkpoint;
pub mod collective;
pub mod device;
pub mod federated;
pub mod generate;
pub mod learner;
pub mod losses;
pub mod model;
pub mod packing;
pub mod policy;
pub mod schedule;
pub mod tokenizer;
pub mod weights;

mod adamw;
mod batch;
mod layout;
mod memory;
