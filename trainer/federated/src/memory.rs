//! What a strategy keeps from version to version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{combine, inversion, privacy};

/// All that strategies keep, as plain data. What a rule does not use stays empty. Equal inputs give equal bytes: maps are
/// ordered.
///
/// After an aggregation has failed, the memory may be half changed: go on from a copy of before.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Aggregations so far.
    pub steps: u64,
    /// `[parameters]`: `m` of the adaptive rules; the server's mean step of weight prediction.
    pub first: Vec<f32>,
    /// `[parameters]`: `v` of the adaptive rules.
    pub second: Vec<f32>,
    /// `[parameters]`: the largest `v` so far (FADAS).
    pub largest: Vec<f32>,
    /// `[parameters]`: SCAFFOLD's `c`; the mean of the cached updates of CA2FL.
    pub common: Vec<f32>,
    /// `[parameters]` of each client that has taken part: SCAFFOLD's `c_i`, or the cached update of CA2FL.
    pub of_client: BTreeMap<u32, Vec<f32>>,
    /// Staleness of each client's last update (weight prediction).
    pub staleness: BTreeMap<u32, u64>,
    /// The models of the tiers (FedAT).
    pub tiers: BTreeMap<u32, Tier>,
    /// What means begin with and what is added to them.
    pub combine: combine::State,
    /// The adaptive bound of central privacy.
    pub privacy: privacy::State,
    /// What the inversion of stale updates has measured.
    pub inversion: inversion::State,
}

/// A tier's own model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tier {
    /// How often it was updated.
    pub updates: u64,
    /// Samples of all clients' updates that it was updated with.
    pub samples: u64,
    /// `[parameters]`.
    pub parameters: Vec<f32>,
}
