//! What peers say: announcements by gossip; requests, responses and receipts on streams.
//!
//! Gossip carries only names of groups, at most [`MAX_ANNOUNCEMENT_BYTES`] at a time; who wants a group asks
//! for it. An announcement is signed by its author, so whoever forwards it is not to blame for what it says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bytes, BytesList, CodecError, List, Text};
use crate::id::{GroupId, PeerKey, RunId, SIGNATURE_BYTES, Signer};
use crate::run::MAX_SPEC_BYTES;

/// Longest announcement.
pub const MAX_ANNOUNCEMENT_BYTES: usize = 4096;
/// Groups in one announcement. With numbers at their longest, 64 take 3.7 KB.
pub const MAX_ANNOUNCED: usize = 64;
/// Longest request.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// Longest response.
pub const MAX_RESPONSE_BYTES: usize = 2 << 20;
/// Longest receipt.
pub const MAX_RECEIPT_BYTES: usize = 4096;
/// Groups in one request, response or receipt.
pub const MAX_IDS: usize = 64;
/// Bytes in a refusal's text.
pub const MAX_REFUSAL_BYTES: usize = 256;

/// What announcements are signed as.
pub(crate) const DOMAIN: &str = "announcement";

/// What an author has to share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The run.
    pub run: RunId,
    /// Who speaks.
    pub author: PeerKey,
    /// When, by the author's clock: of two announcements the later one tells the newest version.
    pub sent_ms: u64,
    /// Updates behind the author's newest policy.
    pub newest_version: u64,
    /// Groups that it serves. None at all is a sign of life.
    #[serde(with = "List::<MAX_ANNOUNCED>")]
    pub groups: Vec<Announced>,
}

/// One announced group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Its name.
    pub id: GroupId,
    /// The author's counter.
    pub counter: u64,
    /// Place of the task in the run.
    pub task: u16,
    /// Policy that wrote it.
    pub policy_version: u64,
    /// Length of the signed group.
    pub bytes: u32,
}

impl Announcement {
    /// Signs and encodes. `self.author` must be the signer's own key.
    pub fn sign(&self, signer: &Signer) -> Vec<u8> {
        let mut bytes = codec::encode(self);
        let signature = signer.sign(DOMAIN, &bytes);
        bytes.extend(signature);
        bytes
    }

    /// Decodes an announcement and checks its signature, not its run nor what it says.
    ///
    /// # Errors
    /// Where the bytes are no announcement, or another than its author signed it.
    pub fn open(bytes: &[u8]) -> Result<Self, AnnouncementError> {
        if bytes.len() > MAX_ANNOUNCEMENT_BYTES {
            return Err(CodecError::TooLarge { bytes: bytes.len(), limit: MAX_ANNOUNCEMENT_BYTES }.into());
        }
        let at = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(CodecError::Short)?;
        let (content, signature) = bytes.split_at(at);
        let announcement: Self = codec::decode(content, MAX_ANNOUNCEMENT_BYTES)?;
        if !announcement.author.verify(DOMAIN, content, signature) {
            return Err(AnnouncementError::Signature);
        }
        Ok(announcement)
    }
}

/// Why bytes are not an announcement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnouncementError {
    /// The bytes hold none.
    #[error("not an announcement: {0}")]
    Codec(#[from] CodecError),
    /// Its author did not sign it.
    #[error("the signature is not its author's")]
    Signature,
}

/// What a peer asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The run behind an invitation.
    Spec(RunId),
    /// Groups by name.
    Groups {
        /// Of this run.
        run: RunId,
        /// Which.
        #[serde(with = "List::<MAX_IDS>")]
        ids: Vec<GroupId>,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// An encoded [`RunSpec`](crate::run::RunSpec).
    Spec(#[serde(with = "Bytes")] Vec<u8>),
    /// Encoded [`SignedGroup`](crate::group::SignedGroup)s: those asked for that the peer has, in the order
    /// asked for, as many as fit.
    Groups(#[serde(with = "BytesList::<MAX_IDS>")] Vec<Vec<u8>>),
    /// Nothing, and why; for people.
    Refused(#[serde(with = "Text")] String),
}

/// What became of groups, told to whom they came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Each group and its fate.
    #[serde(with = "List::<MAX_IDS>")]
    pub verdicts: Vec<(GroupId, Verdict)>,
}

/// What became of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Durably stored.
    Stored,
    /// Not taken.
    Refused(Reason),
}

/// Why a group was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// Not a group, or not signed by its author.
    Malformed,
    /// Not what its author announced, or against the run's rules.
    Misannounced,
    /// The question does not follow from what the group says.
    Unverifiable,
    /// Its question is held out from training.
    HeldOut,
    /// Here already, or its counter belongs to another group.
    Duplicate,
    /// The completions are another group's.
    Copied,
    /// Its policy is too far behind its author's newest.
    Stale,
    /// More than an author may announce.
    OverQuota,
    /// Its author is muted or banned.
    Muted,
    /// Not asked for.
    Unrequested,
    /// The receiver's scoring failed; no fault of the group.
    Unscored,
}

impl Reason {
    /// In one word, for counters and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Misannounced => "misannounced",
            Self::Unverifiable => "unverifiable",
            Self::HeldOut => "held-out",
            Self::Duplicate => "duplicate",
            Self::Copied => "copied",
            Self::Stale => "stale",
            Self::OverQuota => "over-quota",
            Self::Muted => "muted",
            Self::Unrequested => "unrequested",
            Self::Unscored => "unscored",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Request {
    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes a request.
    ///
    /// # Errors
    /// Where the bytes are none, or more than [`MAX_REQUEST_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, MAX_REQUEST_BYTES)
    }
}

impl Response {
    /// A refusal, its text cut to [`MAX_REFUSAL_BYTES`].
    pub fn refused(why: &str) -> Self {
        let end = (0..=why.len().min(MAX_REFUSAL_BYTES)).rev().find(|&end| why.is_char_boundary(end)).unwrap_or(0);
        Self::Refused(why[..end].to_owned())
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes a response.
    ///
    /// # Errors
    /// Where the bytes are none, or more than [`MAX_RESPONSE_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let response = codec::decode(bytes, MAX_RESPONSE_BYTES)?;
        match &response {
            Self::Spec(spec) if spec.len() > MAX_SPEC_BYTES => Err(CodecError::OutOfBounds("a run longer than any")),
            Self::Refused(why) if why.len() > MAX_REFUSAL_BYTES => Err(CodecError::OutOfBounds("a refusal too long")),
            _ => Ok(response),
        }
    }
}

impl Receipt {
    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes a receipt.
    ///
    /// # Errors
    /// Where the bytes are none, or more than [`MAX_RECEIPT_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, MAX_RECEIPT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(author: &Signer, groups: usize) -> Announcement {
        let group = Announced {
            id: GroupId([3; 32]),
            counter: u64::MAX,
            task: u16::MAX,
            policy_version: u64::MAX,
            bytes: u32::MAX,
        };
        Announcement {
            run: RunId([1; 32]),
            author: author.key(),
            sent_ms: u64::MAX,
            newest_version: u64::MAX,
            groups: vec![group; groups],
        }
    }

    #[test]
    fn a_full_announcement_fits_and_reads_back() {
        let signer = Signer::from_seed(&[1; 32]);
        for groups in [0, 1, MAX_ANNOUNCED] {
            let said = announcement(&signer, groups);
            let bytes = said.sign(&signer);
            assert!(bytes.len() <= MAX_ANNOUNCEMENT_BYTES, "{}", bytes.len());
            assert_eq!(Announcement::open(&bytes).expect("opens"), said);
        }
        let many = announcement(&signer, MAX_ANNOUNCED + 1).sign(&signer);
        assert!(matches!(Announcement::open(&many), Err(AnnouncementError::Codec(CodecError::Malformed(_)))));
    }

    #[test]
    fn an_announcement_is_whole_and_its_authors() {
        let (signer, other) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        let bytes = announcement(&signer, 2).sign(&signer);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Announcement::open(&changed).is_err(), "{at}");
            assert!(Announcement::open(&bytes[..at]).is_err(), "{at}");
        }
        let stolen = announcement(&signer, 2).sign(&other);
        assert!(matches!(Announcement::open(&stolen), Err(AnnouncementError::Signature)));
        assert!(Announcement::open(&vec![1; MAX_ANNOUNCEMENT_BYTES + 1]).is_err());
    }

    #[test]
    fn the_largest_messages_fit_and_read_back() {
        let request = Request::Groups { run: RunId([1; 32]), ids: vec![GroupId([2; 32]); MAX_IDS] };
        assert_eq!(Request::decode(&request.encode()).expect("decodes"), request);
        let request = Request::Spec(RunId([1; 32]));
        assert_eq!(Request::decode(&request.encode()).expect("decodes"), request);
        for response in [
            Response::Spec(vec![1; MAX_SPEC_BYTES]),
            Response::Groups(vec![vec![7; 30_000]; MAX_IDS]),
            Response::refused(&"é".repeat(200)),
        ] {
            assert_eq!(Response::decode(&response.encode()).expect("decodes"), response);
        }
        let receipt = Receipt { verdicts: vec![(GroupId([2; 32]), Verdict::Refused(Reason::Unscored)); MAX_IDS] };
        assert_eq!(Receipt::decode(&receipt.encode()).expect("decodes"), receipt);
    }

    #[test]
    fn larger_messages_are_refused() {
        let ids = vec![GroupId([2; 32]); MAX_IDS + 1];
        assert!(Request::decode(&Request::Groups { run: RunId([1; 32]), ids: ids.clone() }.encode()).is_err());
        assert!(Response::decode(&Response::Spec(vec![1; MAX_SPEC_BYTES + 1]).encode()).is_err());
        assert!(Response::decode(&Response::Groups(vec![vec![]; MAX_IDS + 1]).encode()).is_err());
        assert!(Response::decode(&Response::Groups(vec![vec![0; MAX_RESPONSE_BYTES]]).encode()).is_err());
        assert!(Response::decode(&Response::Refused("x".repeat(257)).encode()).is_err());
        let verdicts = ids.iter().map(|&id| (id, Verdict::Stored)).collect();
        assert!(Receipt::decode(&Receipt { verdicts }.encode()).is_err());
    }
}
