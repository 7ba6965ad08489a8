//! Which algorithm a collective takes: a pure function of what it is, of who can reach whom, and of what was measured.

use serde::{Deserialize, Serialize};

use crate::error::CollectiveError;
use crate::plan::build::{self, Tuning};
use crate::plan::verify;
use crate::plan::{Algorithm, Collective, Layout, Plan};

/// How algorithms are chosen. The same on every rank of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Selector {
    /// Always this one, where it exists for the collective.
    pub forced: Option<Algorithm>,
    /// Chunks and thresholds of the builders.
    pub tuning: Tuning,
}

impl Selector {
    /// The plan of a collective, verified.
    ///
    /// # Errors
    /// Where no algorithm fits, or the one that was forced does not.
    pub fn plan(
        &self,
        collective: &Collective,
        layout: &Layout,
        element_bytes: usize,
    ) -> Result<Plan, CollectiveError> {
        let algorithm = match self.forced {
            Some(forced) => forced,
            None => choose(collective, layout, element_bytes),
        };
        let plan = build::build(collective, algorithm, layout, element_bytes, &self.tuning)?;
        verify::verify(&plan, layout)?;
        Ok(plan)
    }
}

/// From here on two halves of the work are less than twice the whole.
const ONE_SHOT_BYTES: usize = 64 << 10;

/// The algorithm for a collective, where nothing was measured.
pub fn choose(collective: &Collective, layout: &Layout, element_bytes: usize) -> Algorithm {
    let possible = build::algorithms(collective, layout, element_bytes);
    let bytes = (0..layout.ranks()).map(|rank| collective.input_len(rank).max(collective.output_len(rank))).max();
    let bytes = bytes.unwrap_or(0) * element_bytes;
    let hosts = layout.hosts.iter().any(|host| *host != layout.hosts[0]);
    let order: &[Algorithm] = match bytes {
        _ if hosts => &[Algorithm::Packet, Algorithm::Hierarchical],
        _ if layout.near.reduce_user => &[Algorithm::Packet, Algorithm::Direct],
        0..ONE_SHOT_BYTES => &[Algorithm::Packet, Algorithm::OneShot],
        _ if collective.reduces() => &[Algorithm::TwoShot, Algorithm::OneShot],
        _ => &[Algorithm::OneShot],
    };
    let preferred = order.iter().find(|one| possible.contains(one));
    preferred.or(possible.first()).copied().unwrap_or(Algorithm::OneShot)
}
