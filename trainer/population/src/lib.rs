//! Virtual clients for federated learning: what they hold, how fast they are, and the timeline that follows from it.
//!
//! Time in a simulation does not depend on what training yields. So who starts from which version, and whose update
//! arrives in which aggregation, is worked out here as plain data, from a population, a server's mode and a seed; an
//! executor then trains the updates that are used, in any order and on any number of workers.
//!
//! ```
//! use std::sync::Arc;
//! use swarmloom_population::*;
//!
//! let labels: Vec<u8> = (0..600).map(|i| (i % 10) as u8).collect();
//! let parts = partition(&Partition::Sorted { shards: 1, shuffle: true }, &labels, None, 20, None, 1)?;
//! let spec = Spec {
//!     clients: 20,
//!     slow: Some(Slow { classes: vec![5], count: 2, staleness: Some(4), factor: None, overlap: true }),
//!     ..Spec::default()
//! };
//! let population = Arc::new(Population::new(&spec, &Holdings::new(&parts, &labels)?, 1)?);
//! let mode = Mode::SemiAsynchronous { per_round: 20, period_s: None, max_staleness: None, force_after: None };
//! let work = Work { epochs: 5, bytes_down: 87_360, bytes_up: 87_360 };
//! let timeline = Timeline::new(population.clone(), &mode, Selection::Uniform, &work, 10, 1)?;
//! for round in timeline {
//!     for arrival in &round.arrivals {
//!         let staleness = round.version - arrival.base;
//!         assert_eq!(staleness, if population.is_slow(arrival.client) { 4 } else { 0 });
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod availability;
mod check;
mod device;
mod distribution;
mod holdings;
mod partition;
mod population;
mod random;
mod time;
mod timeline;
mod trace;

pub use availability::{Availability, Leaving};
pub use check::FieldError;
pub use device::{Device, Devices, Network, Work};
pub use distribution::Distribution;
pub use holdings::Holdings;
pub use partition::{Over, Partition, PartitionError, partition};
pub use population::{Population, PopulationError, Slow, Spec};
pub use timeline::{Arrival, Begun, Mode, Round, Selection, Timeline, TimelineError};
pub use trace::{Deal, DeviceTrace, Recorded, Times, TraceError, times};
