//! What ranks tell each other beside the data itself: words that come with a put, and small messages.

use crate::plan::Rank;

/// Things that may be under way to one peer: it says so often what has come that a sender rarely waits for it.
pub(super) const WINDOW: u64 = 512;
/// Bytes of a message before a packet's.
pub(super) const HEAD: usize = 32;
/// Bytes of a packet.
pub(super) const PACKET_BYTES: usize = 256;

const INDEX_BITS: u32 = 12;
const SEQUENCE_BITS: u32 = 8;
const EPOCH_BITS: u32 = 5;
const RANK_BITS: u32 = 6;
const _: () = assert!(INDEX_BITS + SEQUENCE_BITS + EPOCH_BITS + RANK_BITS + 1 == 32);
const _: () = assert!(2 * WINDOW <= 1 << INDEX_BITS);
const _: () = assert!(crate::plan::MAX_RANKS <= 1 << RANK_BITS);

/// What comes with a put as completion data: 32 bits, for verbs and EFA carry no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    /// The lowest bits of the epoch: what is left of an older one is known by them.
    pub(super) epoch: u64,
    pub(super) from: Rank,
    /// Which of the things that this sender has sent; its lowest bits.
    pub(super) index: u64,
    /// Which operation; its lowest bits.
    pub(super) sequence: u64,
    /// Whether a signal follows.
    pub(super) signal: bool,
}

impl Note {
    pub(super) fn pack(self) -> u32 {
        let mut word = u64::from(self.signal);
        for (value, bits) in [
            (self.from as u64, RANK_BITS),
            (self.epoch, EPOCH_BITS),
            (self.sequence, SEQUENCE_BITS),
            (self.index, INDEX_BITS),
        ] {
            word = word << bits | value & ((1 << bits) - 1);
        }
        word as u32
    }

    pub(super) fn unpack(mut word: u32) -> Self {
        let mut take = |bits: u32| {
            let value = word & ((1 << bits) - 1);
            word >>= bits;
            u64::from(value)
        };
        let (index, sequence, epoch, from) = (take(INDEX_BITS), take(SEQUENCE_BITS), take(EPOCH_BITS), take(RANK_BITS));
        Self { epoch, from: from as Rank, index, sequence, signal: take(1) == 1 }
    }

    /// Whether it may be of that epoch.
    pub(super) fn is_of(&self, epoch: u64) -> bool {
        self.epoch == epoch & ((1 << EPOCH_BITS) - 1)
    }

    /// The full index, which is not below `next` and less than a window above it.
    pub(super) fn full_index(&self, next: u64) -> u64 {
        complete(self.index, INDEX_BITS, next)
    }

    /// The full sequence: nobody sends data to a rank that is more than two operations behind, and what the operation
    /// `here` has not waited for is not older than it by hundreds.
    pub(super) fn full_sequence(&self, here: u64) -> u64 {
        complete(self.sequence, SEQUENCE_BITS, (here + 4).saturating_sub(1 << SEQUENCE_BITS))
    }
}

/// The number from `least` on whose lowest bits are those.
fn complete(low: u64, bits: u32, least: u64) -> u64 {
    least + (low.wrapping_sub(least) & ((1 << bits) - 1))
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The connection works.
    Hello,
    /// A signal.
    Signal,
    /// A packet: its bytes follow.
    Packet,
    /// The sender has ended the operation `sequence`.
    Ended,
    /// The sender wants to know when the receiver has ended the operation `sequence`.
    Ask,
    /// Nothing but how much has come.
    Credit,
    /// The receiver is in the operation `sequence`, as the sender is, with another tag.
    Refuse,
    /// The sender goes after the operation `sequence`, its last.
    Leave,
    /// The sender goes in the middle of the operation `sequence`, because of the rank `tag` (or by itself, if that is
    /// its own).
    Gone,
}

/// A message's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) from: Rank,
    /// Of the packet that follows.
    pub(super) bytes: usize,
    /// Its lower half.
    pub(super) epoch: u32,
    pub(super) sequence: u64,
    /// What the sender's operation is called.
    pub(super) tag: u32,
    /// Which of the things that this sender has sent; its lower half.
    pub(super) index: u32,
    /// How many things the sender has got from the receiver; its lower half.
    pub(super) got: u32,
}

impl Message {
    pub(super) fn encode(&self) -> [u8; HEAD] {
        let mut wire = [0; HEAD];
        wire[0] = self.kind as u8;
        wire[1] = self.from as u8;
        wire[2..4].copy_from_slice(&(self.bytes as u16).to_le_bytes());
        wire[4..8].copy_from_slice(&self.epoch.to_le_bytes());
        wire[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        wire[16..20].copy_from_slice(&self.tag.to_le_bytes());
        wire[20..24].copy_from_slice(&self.index.to_le_bytes());
        wire[24..28].copy_from_slice(&self.got.to_le_bytes());
        wire
    }

    /// `None` where it is no message of this protocol.
    pub(super) fn decode(wire: &[u8; HEAD]) -> Option<Self> {
        const KINDS: [Kind; 9] = [
            Kind::Hello,
            Kind::Signal,
            Kind::Packet,
            Kind::Ended,
            Kind::Ask,
            Kind::Credit,
            Kind::Refuse,
            Kind::Leave,
            Kind::Gone,
        ];
        let word = |at: usize| u32::from_le_bytes([wire[at], wire[at + 1], wire[at + 2], wire[at + 3]]);
        Some(Self {
            kind: *KINDS.get(usize::from(wire[0]))?,
            from: usize::from(wire[1]),
            bytes: usize::from(u16::from_le_bytes([wire[2], wire[3]])),
            epoch: word(4),
            sequence: u64::from(word(8)) | u64::from(word(12)) << 32,
            tag: word(16),
            index: word(20),
            got: word(24),
        })
        .filter(|message| message.bytes <= PACKET_BYTES)
    }

    /// The full index, which is not below `next` and less than a window above it.
    pub(super) fn full_index(&self, next: u64) -> u64 {
        complete(u64::from(self.index), 32, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_and_messages_come_back_as_they_were() {
        let note = Note { epoch: 0x1F, from: 63, index: 0xABC, sequence: 0x5A, signal: true };
        assert_eq!(Note::unpack(note.pack()), note);
        let note = Note { epoch: 1, from: 2, index: 3, sequence: 4, signal: false };
        assert_eq!(Note::unpack(note.pack()), note);
        // Only the lowest bits travel.
        let long = Note { epoch: 0x101, index: 0x7003, sequence: 0x1_0004, ..note };
        assert_eq!(Note::unpack(long.pack()), note);
        let message = Message {
            kind: Kind::Gone,
            from: 63,
            bytes: PACKET_BYTES,
            epoch: 0x0102_0304,
            sequence: 0x0506_0708_090A_0B0C,
            tag: 0x0D0E_0F10,
            index: u32::MAX,
            got: 0x1112_1314,
        };
        assert_eq!(Message::decode(&message.encode()), Some(message));
        let mut wire = message.encode();
        wire[0] = Kind::Gone as u8 + 1;
        assert_eq!(Message::decode(&wire), None);
        let long = Message { bytes: PACKET_BYTES + 1, ..message };
        assert_eq!(Message::decode(&long.encode()), None);
    }

    #[test]
    fn numbers_are_completed_around_where_we_are() {
        let note = |index: u64, sequence: u64| Note { epoch: 0, from: 0, index, sequence, signal: false }.pack();
        for next in [0, 1, 4000, 4095, 4096, 1 << 40] {
            for ahead in [0, 1, WINDOW - 1] {
                assert_eq!(Note::unpack(note(next + ahead, 0)).full_index(next), next + ahead);
            }
        }
        for here in [0_u64, 1, 2, 100, 255, 256, 1 << 33] {
            for sequence in here.saturating_sub(100)..=here + 2 {
                assert_eq!(Note::unpack(note(0, sequence)).full_sequence(here), sequence, "seen from {here}");
            }
        }
    }
}
