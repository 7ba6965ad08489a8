//! What a server sees: updates that arrived, and itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Who.
    pub client: u32,
    /// The version that it started from.
    pub base: u64,
    /// Its tier, from 0 for the fastest; 0 where there are none.
    pub tier: u32,
    /// Samples that it trained on.
    pub samples: u32,
    /// Local steps that it took.
    pub steps: u32,
    /// `[parameters]`: after local training minus before.
    pub delta: Vec<f32>,
    /// `[parameters]`, for SCAFFOLD: the client's new control variate minus its old one ([`Strategy::control`]).
    ///
    /// [`Strategy::control`]: crate::Strategy::control
    pub control: Option<Vec<f32>>,
}

/// The server at the moment of an aggregation.
#[derive(Clone, Copy)]
pub struct Server<'a> {
    /// Its version now; the aggregation makes the next one.
    pub version: u64,
    /// `[parameters]` of that version.
    pub parameters: &'a [f32],
    /// Parameters of an old version, as long as they are kept. Asked only where [`Strategy::history`] is true.
    ///
    /// [`Strategy::history`]: crate::Strategy::history
    pub history: &'a dyn Fn(u64) -> Option<&'a [f32]>,
    /// Clients in the population.
    pub clients: u32,
    /// What randomness follows from.
    pub seed: u64,
}

impl Server<'_> {
    /// How many versions the server has made since the update's client started.
    pub fn staleness(&self, update: &Update) -> u64 {
        self.version.saturating_sub(update.base)
    }
}

impl fmt::Debug for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("version", &self.version)
            .field("parameters", &self.parameters.len())
            .field("clients", &self.clients)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// What a client's local training has that plain training has not.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Local {
    /// Weight of half the squared distance to where it started (FedProx, Li et al. 2020, equation 2); 0 for none.
    pub proximal: f64,
    /// Whether it keeps a control variate (SCAFFOLD).
    pub control: bool,
}

/// Where a client starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Start {
    /// `[parameters]`; the server's where there are none. The client's delta counts from here.
    pub parameters: Option<Vec<f32>>,
    /// `[parameters]`, added to every gradient of the client; SCAFFOLD's `c - c_i`.
    pub correction: Option<Vec<f32>>,
}
