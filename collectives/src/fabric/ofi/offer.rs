//! From ranks that have met to a transport over libfabric between them.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::OfiFabric;
use super::endpoint::{Endpoint, MAX_ADDRESS};
use super::open::Ways;
use super::peer::{Peer, Remote};
use super::together::Together;
use crate::fabric::Raw;
use crate::fault::Fault;
use crate::patience::{Abort, Ladder, Patience};
use crate::plan::{MAX_RANKS, Rank};

/// What a rank tells the others so that they can write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Ranks of different providers cannot reach each other.
    pub(super) provider: String,
    pub(super) epoch: u64,
    pub(super) process: u32,
    /// As the provider has it.
    pub(super) address: Vec<u8>,
    /// Of its scratch: key, and what the first byte is called.
    pub(super) key: u64,
    pub(super) base: u64,
    /// Bytes of a half of it.
    pub(super) half: u64,
    /// Bytes of completion data that come with its puts.
    pub(super) data_bytes: u8,
}

/// An endpoint that is not connected yet.
#[derive(Debug)]
pub struct Offer {
    endpoint: Endpoint,
    epoch: u64,
    ranks: usize,
    half: usize,
}

impl Offer {
    /// An endpoint for a group of `ranks`, with `half_bytes` of scratch twice. Without the name of a provider the best
    /// one that leaves this host is taken: Slingshot, EFA, verbs, and TCP last.
    ///
    /// # Errors
    /// [`Fault::System`] where the library, the provider or memory is missing.
    pub fn new(epoch: u64, ranks: usize, half_bytes: usize, provider: Option<&str>) -> Result<(Self, Card), Fault> {
        Self::with(epoch, ranks, half_bytes, provider, Ways::default())
    }

    pub(super) fn with(
        epoch: u64,
        ranks: usize,
        half_bytes: usize,
        provider: Option<&str>,
        ways: Ways,
    ) -> Result<(Self, Card), Fault> {
        let refused = |why: String| Fault::System { what: "opening an endpoint", why };
        if ranks > MAX_RANKS {
            return Err(refused(format!("{ranks} ranks; {MAX_RANKS} are the most")));
        }
        let both = half_bytes.max(1).checked_next_multiple_of(4096).and_then(|half| half.checked_mul(2));
        let both = both.ok_or_else(|| refused(format!("{half_bytes} bytes of scratch are too many")))?;
        let endpoint = Endpoint::open(provider, epoch, ranks, both, ways)?;
        let (key, base) = endpoint.key();
        let card = Card {
            provider: endpoint.limits().provider.clone(),
            epoch,
            process: std::process::id(),
            address: endpoint.address()?,
            key,
            base,
            half: (both / 2) as u64,
            data_bytes: endpoint.limits().data_bytes.min(8) as u8,
        };
        Ok((Self { endpoint, epoch, ranks, half: both / 2 }, card))
    }

    /// The provider that was chosen.
    pub fn provider(&self) -> &str {
        &self.endpoint.limits().provider
    }

    /// Connects to all others and hears from each of them. `cards` are by rank; this rank's own is passed over.
    /// All ranks do this at the same time.
    ///
    /// # Errors
    /// [`Fault::System`] where these cannot be the cards of a group, [`Fault::Timeout`] where a rank does not answer by
    /// `deadline`, [`Fault::Lost`] where it cannot be reached.
    pub fn connect(self, rank: Rank, cards: &[Card], deadline: Instant) -> Result<OfiFabric, Fault> {
        let refused = |why: String| Fault::System { what: "connecting endpoints", why };
        if cards.len() != self.ranks || rank >= self.ranks {
            return Err(refused(format!("{} cards for rank {rank} of {}", cards.len(), self.ranks)));
        }
        let endpoint = Together::new(self.endpoint, cards)?;
        let mut peers = Vec::with_capacity(self.ranks);
        for (other, card) in cards.iter().enumerate() {
            if other == rank {
                peers.push(None);
                continue;
            }
            let (ours, theirs) = (&endpoint.limits().provider, &card.provider);
            if ours != theirs {
                return Err(refused(format!("rank {other} has {theirs}, and this one {ours}: ask all for the same")));
            }
            if (card.epoch, card.half, card.address.len() > MAX_ADDRESS) != (self.epoch, self.half as u64, false) {
                let what = format!("its card is of epoch {}, with {} bytes of scratch", card.epoch, card.half);
                return Err(Fault::Protocol { rank: other, what });
            }
            let address = endpoint.insert(&card.address)?;
            peers.push(Some(Peer::new(Remote { address, key: card.key, base: card.base })));
        }
        // What all can do.
        let data_bytes = cards.iter().map(|card| card.data_bytes).min().unwrap_or(0);
        let mut fabric = OfiFabric::new(rank, self.epoch, endpoint, peers, self.half, data_bytes)?;
        let abort = Abort::default();
        let left = deadline.saturating_duration_since(Instant::now());
        let mut patience = Patience::new(&abort, left, Ladder { spins: 100, crowded: true });
        fabric.greet(&mut patience)?;
        Ok(fabric)
    }
}

/// Places for packets: two for each rank.
pub(super) fn packet_place(packets: Raw, from: Rank, sequence: u64) -> *mut u8 {
    let place = from * 2 + (sequence % 2) as usize;
    debug_assert!((place + 1) * super::wire::PACKET_BYTES <= packets.bytes);
    packets.at.wrapping_add(place * super::wire::PACKET_BYTES)
}
