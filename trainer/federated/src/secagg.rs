//! Secure aggregation: the server learns the sum of the clients' vectors and nothing else about any of them.
//!
//! Bell, Bonawitz, Gascón, Lepoint and Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (2020,
//! eprint 2020/704), the semi-honest protocol, after Bonawitz et al. (eprint 2017/281). Clients are the corners of a graph in
//! which each has `k` neighbours. Every client adds to its vector a mask of its own, and for each neighbour one that the
//! two of them share, with opposite signs. The shared masks cancel in the sum. Secrets are shared among a client's
//! neighbours, so that of a client that finished its own mask can be taken off, and of one that did not, the shared ones.
//!
//! # Security model
//!
//! - The server and the clients are curious but follow the protocol. A server that lies about who dropped out is not caught:
//!   the messages for that (signatures, a round of consistency checks) are not there.
//! - The server may know the secrets of some clients, as long as no client has `threshold` or more of them among its
//!   neighbours, and the honest clients that finished are connected. [`Settings`] chooses `k` and the threshold for a part of
//!   corrupt and of lost clients so that this fails with a probability below 2^-40; a client refuses to reveal anything
//!   where those that finished are not connected, or are less than `least`.
//! - The graph follows from a seed that everybody knows, the keys do not: they are drawn from the random numbers that the
//!   caller passes ([`ring::rand::SystemRandom`]). This is the one place here where a seed would be wrong. The sum does not
//!   depend on them.
//!
//! # Where it differs from the paper
//!
//! `ring` neither exports nor reuses a private key of X25519. So a client has a fresh pair of keys for each edge. From what
//! two clients agree on, HKDF-SHA256 makes the seed of their shared mask and a key for each direction of their messages. Where
//! the paper shares the private key, here the seeds of all shared masks of a client are sealed with one key, the sealed seeds
//! go to the server, and that key is shared. Knowing it is knowing what the private key would have told.
//!
//! Masks are ChaCha20's stream; messages are sealed with ChaCha20-Poly1305; secrets are shared by Shamir's scheme over
//! GF(2^8), so a client has at most 254 neighbours. Vectors are integers modulo 2^32 ([`FixedPoint`]).

mod client;
mod crypto;
mod graph;
mod number;
mod server;
mod shamir;
#[cfg(test)]
mod tests;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

pub use client::{Client, Keys, Revealed, Shares};
pub use graph::{Degree, degree};
pub use number::FixedPoint;
pub use server::Server;

use crate::memory::Memory;
use graph::Graph;

/// How sums are made secure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The largest magnitude of a value, times the client's weight over the mean weight. Beyond is an error.
    pub limit: f64,
    /// The part of clients whose secrets the server may know.
    pub corrupt: f64,
    /// The part of clients that may be lost after they have shared their secrets.
    pub lost: f64,
    /// Clients that have to finish at least; fewer are no crowd to hide in.
    pub least: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: 8.0, corrupt: 0.1, lost: 0.2, least: 3 }
    }
}

impl Settings {
    /// Whether the settings make sense for so many clients.
    ///
    /// # Errors
    /// [`SecAggError`] with the setting.
    pub fn check(&self, clients: usize) -> Result<(), SecAggError> {
        self.fitted(clients).map(|_| ())
    }

    /// Clients that have to finish at least, neighbours of each, and how values are integers, for so many clients.
    fn fitted(&self, clients: usize) -> Result<(usize, Degree, FixedPoint), SecAggError> {
        let least = self.least.max(2) as usize;
        if clients < least {
            return Err(SecAggError::TooFew { found: clients, wanted: least });
        }
        Ok((least, degree(clients, self.corrupt, self.lost)?, FixedPoint::new(self.limit, clients)?))
    }

    /// Lets the next mean of an aggregation be a secure sum, for which `lost` further clients shared their secrets. Call it
    /// right before [`Strategy::aggregate`](crate::Strategy::aggregate).
    pub fn prepare(&self, memory: &mut Memory, server: &crate::Server<'_>, lost: u32) {
        memory.combine.secure = Some(Secure { settings: *self, round: server.version, seed: server.seed, lost });
    }
}

impl SecAggError {
    /// Whether it is for the clients that are missing, so that another round may have a sum.
    pub fn is_for_want_of_clients(&self) -> bool {
        matches!(self, Self::TooFew { .. } | Self::Lost { .. } | Self::Disconnected)
    }
}

/// A secure sum that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Secure {
    /// How.
    pub settings: Settings,
    /// Which aggregation it is.
    pub round: u64,
    /// What the graph follows from.
    pub seed: u64,
    /// Clients that share their secrets and are lost.
    pub lost: u32,
}

impl Secure {
    /// The weighted sum of vectors by the whole protocol, with fresh keys of the system's random numbers. Clients are named by
    /// their places.
    ///
    /// # Errors
    /// [`SecAggError`].
    pub fn sum(&self, vectors: &[&[f32]], weights: &[f64]) -> Result<Vec<f32>, SecAggError> {
        let count = vectors.len();
        let length = vectors.first().map_or(0, |vector| vector.len());
        // In parts of the mean weight, so that the limit is one for values.
        let scaled: Vec<Vec<f32>> = vectors
            .iter()
            .zip(weights)
            .map(|(vector, weight)| vector.iter().map(|value| (weight * count as f64) as f32 * value).collect())
            .collect();
        let nothing = vec![0.0; length];
        let all = scaled.iter().chain(std::iter::repeat_n(&nothing, self.lost as usize));
        let inputs: Vec<(u32, &[f32])> = (0..).zip(all.map(Vec::as_slice)).collect();
        let names: Vec<u32> = inputs.iter().map(|(name, _)| *name).collect();
        let setup = Setup::new(&self.settings, self.round, &names, length, self.seed)?;
        let summed = run(&setup, &inputs, &names[count..], &SystemRandom::new())?;
        Ok(summed.values.iter().map(|value| (value / count as f64) as f32).collect())
    }
}

/// Why there is no sum.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SecAggError {
    /// A value that the fixed point cannot hold.
    #[error(
        "value {index} of client {client} is {value}, and values are at most {limit} in magnitude: raise `limit` or clip"
    )]
    Saturated {
        /// Whose.
        client: u32,
        /// Which.
        index: usize,
        /// The value.
        value: f64,
        /// What may be.
        limit: f64,
    },
    /// A setting, or a number of clients, that makes no sense.
    #[error("{what} is {found}, but {allowed}")]
    Value {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: f64,
        /// What it may be.
        allowed: &'static str,
    },
    /// Too few clients finished.
    #[error("{found} clients finished, and {wanted} have to")]
    TooFew {
        /// Those that did.
        found: usize,
        /// Those that have to.
        wanted: usize,
    },
    /// Too many of a client's neighbours are gone.
    #[error("{found} neighbours of client {client} are left, and {wanted} are needed for its secret")]
    Lost {
        /// Whose.
        client: u32,
        /// Neighbours that are left.
        found: usize,
        /// Those that are needed.
        wanted: usize,
    },
    /// The clients that finished fall into parts, whose sums would be known.
    #[error("the clients that finished are not connected: the sums of the parts would be known")]
    Disconnected,
    /// A message that does not fit the protocol.
    #[error("client {client}: {what}")]
    Message {
        /// Who sent it, or whom it is about.
        client: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The system's random numbers failed.
    #[error("there are no random numbers")]
    Random,
}

/// What everybody knows about one aggregation.
#[derive(Debug, Clone)]
pub struct Setup {
    round: u64,
    graph: Graph,
    threshold: usize,
    least: usize,
    length: usize,
    number: FixedPoint,
}

impl Setup {
    /// An aggregation of vectors of `length` values of these clients. `round` is in every key, so that no message serves twice;
    /// the graph follows from the seed.
    ///
    /// # Errors
    /// [`SecAggError::Value`] where settings make no sense or the clients are too few, too many or not different.
    pub fn new(
        settings: &Settings,
        round: u64,
        clients: &[u32],
        length: usize,
        seed: u64,
    ) -> Result<Self, SecAggError> {
        let (least, Degree { neighbours, threshold }, number) = settings.fitted(clients.len())?;
        let graph = Graph::new(clients, neighbours, seed)?;
        Ok(Self { round, graph, threshold, least, length, number })
    }

    /// The clients, ascending.
    pub fn clients(&self) -> &[u32] {
        self.graph.clients()
    }

    /// A client's neighbours, ascending; empty for who is no client.
    pub fn neighbours(&self, client: u32) -> &[u32] {
        self.graph.neighbours(client)
    }

    /// How values are integers.
    pub fn number(&self) -> FixedPoint {
        self.number
    }

    /// Neighbours whose shares make a secret.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Bytes that a client sends and receives, where nobody is lost: keys, sealed shares and seeds, the masked vector, and
    /// the shares that it reveals. Names of clients count four bytes.
    pub fn bytes(&self, client: u32) -> [u64; 2] {
        let neighbours = self.neighbours(client).len() as u64;
        let message = 4 + client::SHARES_BYTES as u64;
        let keys = neighbours * (4 + 32);
        let sealed = 32 * neighbours + crypto::TAG as u64;
        let finished = 4 * self.clients().len() as u64;
        [
            keys + neighbours * message + sealed + 4 * self.length as u64 + neighbours * (4 + 1 + 32),
            keys + neighbours * message + finished,
        ]
    }
}

/// A sum, and who is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Summed {
    /// `[length]`.
    pub values: Vec<f64>,
    /// The clients that finished, ascending.
    pub clients: Vec<u32>,
}

/// The whole protocol in one place: every client's part, the server's part, and messages handed from one to the other. Clients
/// in `lost` share their secrets and are not heard of again.
///
/// # Errors
/// [`SecAggError`], as a client or the server finds.
pub fn run(
    setup: &Setup,
    inputs: &[(u32, &[f32])],
    lost: &[u32],
    random: &dyn SecureRandom,
) -> Result<Summed, SecAggError> {
    let mut server = Server::new(setup);
    let mut clients = Vec::with_capacity(inputs.len());
    for (name, values) in inputs {
        let (client, keys) = Client::new(setup, *name, random)?;
        server.keys(keys)?;
        clients.push((client, *values));
    }
    for (client, _) in &mut clients {
        let shares = client.share(server.keys_for(client.name()), random)?;
        server.shares(shares)?;
    }
    for (client, values) in &mut clients {
        client.receive(server.shares_for(client.name()))?;
        if !lost.contains(&client.name()) {
            server.masked(client.name(), &client.mask(values)?)?;
        }
    }
    let finished = server.finished()?;
    for (client, _) in &mut clients {
        if finished.binary_search(&client.name()).is_ok() {
            server.revealed(client.reveal(&finished)?)?;
        }
    }
    Ok(Summed { values: server.sum()?, clients: finished })
}
