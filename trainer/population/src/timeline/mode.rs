//! How a server works: when it aggregates, and whom it waits for.

use serde::{Deserialize, Serialize};

use crate::check::{FieldError, within, wrong};
use crate::population::Population;

/// How a server works.
///
/// Where a mode has `max_staleness`, an update that has missed more versions than that is thrown away and counted as
/// late. Where it has `force_after`, a client whose update would otherwise miss more versions than that reports what it
/// has got to by then, in time for that aggregation, if it can be reached and has begun to train (PORT: Su and Li, "How
/// Asynchronous can Federated Learning Be?", 2022); [`crate::Arrival::share`] says how far it got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mode {
    /// A round selects clients, waits for `per_round` of them, and gives up the others (Bonawitz et al., "Towards
    /// Federated Learning at Scale: System Design", 2019).
    Synchronous {
        /// Updates that end a round.
        per_round: u32,
        /// How many more clients are selected, as a share of `per_round`; Bonawitz et al. take 0.3.
        #[serde(default)]
        over_selection: f64,
        /// A round ends after so many seconds, with what has arrived.
        #[serde(default)]
        deadline_s: Option<f64>,
    },
    /// A round selects clients and aggregates what has arrived since the last one, from whichever round it is.
    ///
    /// Where the population's slow clients have a fixed staleness, their updates arrive in the aggregation of so many
    /// rounds later, and all others in their own round, which lasts `period_s` or, without it, until the last of those
    /// is there. Otherwise a round lasts `period_s`, and virtual time decides.
    SemiAsynchronous {
        /// Clients that a round selects.
        per_round: u32,
        /// How long a round lasts, seconds.
        #[serde(default)]
        period_s: Option<f64>,
        /// Versions that an update may have missed.
        #[serde(default)]
        max_staleness: Option<u64>,
        /// Versions after which a client has to report.
        #[serde(default)]
        force_after: Option<u64>,
    },
    /// Every update makes a version (`FedAsync`: Xie, Koyejo and Gupta, arXiv 1903.03934). As soon as a client is done,
    /// another begins. A round has one update, and more only where clients are made to report.
    Asynchronous {
        /// Clients that work at a time.
        concurrency: u32,
        /// Versions that an update may have missed.
        #[serde(default)]
        max_staleness: Option<u64>,
        /// Versions after which a client has to report.
        #[serde(default)]
        force_after: Option<u64>,
    },
    /// As soon as a client is done, another begins; `buffer` updates make a version (`FedBuff`: Nguyen et al., arXiv
    /// 2106.06639). A quick client may be in a buffer twice.
    Buffered {
        /// Clients that work at a time.
        concurrency: u32,
        /// Updates that make a version.
        buffer: u32,
        /// Versions that an update may have missed.
        #[serde(default)]
        max_staleness: Option<u64>,
        /// Versions after which a client has to report.
        #[serde(default)]
        force_after: Option<u64>,
    },
    /// Clients are put into tiers of equal size by how long a task takes them. Each tier has synchronous rounds of its
    /// own, and each of those makes a version (`FedAT`: Chai et al., arXiv 2010.05958).
    Tiered {
        /// Number of tiers; tier 0 is the fastest.
        tiers: u32,
        /// Clients that a round of a tier selects.
        per_tier: u32,
    },
}

/// Whom a round takes of those that can be reached and have no work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Any, with equal chances.
    #[default]
    Uniform,
    /// The next ones in order, and the first again after the last. The paper's reference does it so.
    RoundRobin,
}

/// Longest deadline and period: as other times.
const MOST_S: f64 = 1e9;
/// Shortest deadline and period.
const LEAST_S: f64 = 1e-6;
/// Largest buffer: more updates are not kept at a time.
const BUFFER_MOST: u32 = 1_000_000;

impl Mode {
    /// Checks every field against the clients that there are.
    pub(crate) fn check(&self, population: &Population) -> Result<(), FieldError> {
        let clients = population.clients();
        let time = |name: &str, value: Option<f64>| {
            value.map_or(Ok(()), |value| within(&format!("mode.{name}"), value, LEAST_S..=MOST_S))
        };
        let bounds = |most: Option<u64>, force: Option<u64>| match (most, force) {
            (_, None) => Ok(()),
            (most, Some(force)) => within("mode.force_after", force, 1..=most.unwrap_or(u64::MAX).max(1)),
        };
        match self {
            Self::Synchronous { per_round, over_selection, deadline_s } => {
                within("mode.per_round", *per_round, 1..=clients)?;
                within("mode.over_selection", *over_selection, 0.0..=100.0)?;
                time("deadline_s", *deadline_s)?;
            }
            Self::SemiAsynchronous { per_round, period_s, max_staleness, force_after } => {
                within("mode.per_round", *per_round, 1..=clients)?;
                time("period_s", *period_s)?;
                bounds(*max_staleness, *force_after)?;
                if period_s.is_none() && population.staleness().is_none() {
                    let message =
                        "the time between aggregations, in seconds, is needed where `slow.staleness` is not set";
                    return Err(wrong("mode.period_s", message));
                }
            }
            Self::Asynchronous { concurrency, max_staleness, force_after } => {
                within("mode.concurrency", *concurrency, 1..=clients)?;
                bounds(*max_staleness, *force_after)?;
            }
            Self::Buffered { concurrency, buffer, max_staleness, force_after } => {
                within("mode.concurrency", *concurrency, 1..=clients)?;
                within("mode.buffer", *buffer, 1..=BUFFER_MOST)?;
                bounds(*max_staleness, *force_after)?;
            }
            Self::Tiered { tiers, per_tier } => {
                within("mode.tiers", *tiers, 1..=clients)?;
                within("mode.per_tier", *per_tier, 1..=clients / tiers)?;
            }
        }
        if population.staleness().is_some() && !matches!(self, Self::SemiAsynchronous { .. }) {
            let message = "a staleness fixed in rounds needs the mode semi_asynchronous; in others `slow.factor` makes \
                           clients slow, and their staleness follows";
            return Err(wrong("slow.staleness", message));
        }
        Ok(())
    }
}
