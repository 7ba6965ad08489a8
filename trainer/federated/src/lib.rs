//! The decisions of federated learning: how a server makes its next version of the updates that arrived, what is held
//! against liars, what is added for privacy, what travels.
//!
//! Everything is a pure function of flat `f32` vectors and of plain data. Training, time and networks are elsewhere: who
//! calls this crate says which updates arrived, from which version they started, and with which seed randomness is drawn.
//! So a rule can be printed, replayed, and checked against numbers that were computed by hand.
//!
//! # What holds everywhere
//!
//! - An update `delta` is parameters after local training minus parameters before: the server *adds* it. Papers that write
//!   gradients have the other sign.
//! - Staleness is counted in versions: [`Server::version`] minus [`Update::base`].
//! - Sums are taken in the order of the updates; the same inputs give the same bits.
//! - Each formula names its source where it is computed, or says that it is our definition.

pub mod attack;
pub mod combine;
pub mod compatible;
pub mod compress;
pub mod inversion;
mod memory;
mod normal;
pub mod privacy;
mod rule;
pub mod secagg;
pub mod strategy;
mod update;

pub use combine::{By, Combine, CombineError, Faulty, NearestNeighbours, Weights};
pub use memory::{Memory, Tier};
pub use rule::{Rule, RuleError};
#[doc(inline)]
pub use strategy::{AggregateError, Strategy, strategy};
pub use update::{Local, Server, Start, Update};
