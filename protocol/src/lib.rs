//! What peers of a swarm say to each other, and how a peer decides.
//!
//! Peers of a run share *rollout groups*: one question's completions, signed by their author. The question,
//! its answer and the rewards never travel: each follows from the run, the author and a counter
//! ([`run::question_seed`]), so a receiver makes the question again and scores it itself.
//!
//! - [`id`], [`run`], [`group`], [`wire`]: what is named, signed and sent, each with a bounded decoder.
//! - [`account`], [`copies`]: what is held against a peer, and why an honest one has nothing to fear.
//! - [`buffer`], [`selection`]: which groups of others are kept, and which are trained on.
//! - [`swarm`]: the state machine that puts these together.
//!
//! Everything here is sans-IO: no sockets, no threads, no clock, no source of randomness. `now_ms` is Unix
//! time in milliseconds and, like seeds, an argument; the same calls give the same results.

pub mod account;
pub mod buffer;
pub mod codec;
pub mod copies;
pub mod group;
pub mod id;
mod quota;
pub mod run;
pub mod selection;
pub mod swarm;
pub mod wire;

#[cfg(test)]
mod mutations;
