//! The swarm's network: real sockets, and nothing of what travels over them.
//!
//! [`start`] brings up one peer and gives back a handle, [`Net`], and a bounded stream of [`NetEvent`]s. Peers
//! of one run find each other (bootstrap addresses, Kademlia, mDNS), keep connections through NATs (AutoNAT,
//! UPnP, relays, hole punching), tell everybody small things ([`Net::publish`]) and ask one peer for large ones
//! ([`Net::exchange`]). What the bytes mean, whom to trust and what to ask for is decided elsewhere.
//!
//! # Who is a member
//!
//! The run's id is part of every protocol name. A connected peer is a member, and reported as
//! [`NetEvent::Connected`], once it has said with libp2p's identify that it speaks this run's protocols; a peer of another
//! run is reported once as [`NetEvent::OtherRun`] and disconnected. That is recognition, not authentication: the
//! transport proves who a peer is, the allow list says who may connect, and a peer may lie about its run.
//!
//! # Bounds
//!
//! Queues, connections, streams, message sizes and waits have limits, all in [`NetConfig`] and [`Pace`]. The
//! task that drives libp2p never waits for anybody: what does not fit is refused or dropped, gossip first.

mod address;
mod backoff;
mod behaviour;
mod config;
mod driver;
mod ending;
mod event;
mod exchange;
mod frame;
mod identity;
mod meter;
mod names;
mod net;
mod rate;
mod roster;
mod serve;
mod slots;
mod targets;
mod transport;

#[cfg(test)]
mod tests;

pub use crate::address::{AddressError, check_address};
pub use crate::config::{ConfigError, NetConfig, Pace};
pub use crate::event::{GossipTicket, Link, Nat, NetEvent, Verdict};
pub use crate::exchange::{Exchange, ExchangeError};
pub use crate::identity::{Key, key_of_seed, key_of_text, peer_text};
pub use crate::meter::Counters;
pub use crate::net::{Net, NetError, PublishError, start};
pub use crate::serve::Responder;
