//! What the network tells whoever runs it.

use std::time::Duration;

use libp2p::PeerId;
use libp2p::gossipsub::{MessageAcceptance, MessageId};
use serde::Serialize;

use crate::identity::Key;
use crate::serve::Responder;

/// Something happened. Addresses are libp2p's texts.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetEvent {
    /// The peer listens on this address, `/p2p/` with its own id at the end.
    Listening(String),
    /// It cannot listen there, or no longer. Through a relay it is tried again.
    ListenFailed {
        /// Where; `mdns` for the search of the local network.
        addr: String,
        /// Why not.
        why: String,
    },
    /// Others can reach the peer at this address.
    External {
        /// With `/p2p/` and the own id at its end.
        addr: String,
    },
    /// What is known about reaching the peer from outside has changed.
    Nat(Nat),
    /// A member of the run is connected: the first connection with it has been identified.
    Connected {
        /// Who.
        peer: Key,
        /// Where it was dialled, or came from.
        address: String,
        /// Whether a relay is in between.
        relayed: bool,
        /// Whether this peer dialled.
        outbound: bool,
    },
    /// A member that was reached through a relay is now reached directly.
    Direct {
        /// Who.
        peer: Key,
        /// Where it was dialled, or came from.
        address: String,
    },
    /// The last connection with a member has ended.
    Disconnected {
        /// Who.
        peer: Key,
    },
    /// Where a member says it can be reached, with `/p2p/` at the end: for the address book.
    Addresses {
        /// Who.
        peer: Key,
        /// At most 16.
        addresses: Vec<String>,
    },
    /// A connected peer turned out not to be in this run, and was disconnected.
    OtherRun {
        /// libp2p's text for it.
        peer: String,
        /// What it said it speaks.
        speaks: String,
    },
    /// An address could not be reached.
    DialFailed {
        /// Which.
        address: String,
        /// Why, as far as is known.
        why: String,
        /// Failures since it was last reached.
        attempts: u32,
        /// When it is tried again; `None` means not.
        next_try_in: Option<Duration>,
    },
    /// Another process has this peer's identity: it answered where this peer dialled. The process that was dialled
    /// does not always notice, since the connection ends before it has learnt who was there.
    SameIdentity {
        /// Where it was met.
        address: String,
    },
    /// Somebody published a message; its author's signature has been checked. It goes no further before
    /// [`Net::validate`](crate::Net::validate) has been called with the validator.
    Gossip {
        /// Whose connection it came over.
        from: Key,
        /// Who signed it.
        author: Key,
        /// At most [`max_gossip_bytes`](crate::NetConfig::max_gossip_bytes).
        data: Vec<u8>,
        /// What to hand back.
        validator: GossipTicket,
    },
    /// A peer asks. It may come before the peer's [`Connected`](Self::Connected).
    Request {
        /// Who.
        peer: Key,
        /// At most [`max_request_bytes`](crate::NetConfig::max_request_bytes).
        request: Vec<u8>,
        /// How to answer.
        reply: Responder,
    },
}

/// A connection with a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Who is at the other end.
    #[serde(serialize_with = "peer_as_text")]
    pub peer: Key,
    /// Where it was dialled, or came from.
    pub address: String,
    /// Whether a relay is in between.
    pub relayed: bool,
    /// Whether this peer dialled.
    pub outbound: bool,
}

/// Whether others can reach a peer that they are not connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Nat {
    /// At one address at least.
    Public,
    /// At none that was tried.
    Private,
    /// Nobody has tried yet.
    Unknown,
}

/// What to do with a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Do not pass it on, and hold nothing against whoever sent it.
    Ignore,
    /// Do not pass it on; who keeps sending such things is not listened to.
    Reject,
}

/// Names a gossip message that waits for its [`Verdict`].
#[derive(Debug)]
#[must_use = "a message without a verdict is passed on to nobody"]
pub struct GossipTicket {
    pub(crate) message: MessageId,
    pub(crate) from: PeerId,
}

impl From<Verdict> for MessageAcceptance {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accept => Self::Accept,
            Verdict::Ignore => Self::Ignore,
            Verdict::Reject => Self::Reject,
        }
    }
}

fn peer_as_text<S: serde::Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::identity::peer_text(key))
}
