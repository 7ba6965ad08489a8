//! The frames of [`TcpFabric`](super::TcpFabric): a header of fixed size, then what it announces.
//!
//! All numbers are little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | epoch of the group |
//! | 8..16 | sequence of the operation |
//! | 16..20 | tag of the operation |
//! | 20 | [`Kind`] |
//! | 21 | target of data: 0 scratch, 1 output |
//! | 22..24 | zero |
//! | 24..32 | of data: offset in the target, in bytes; else: lanes, a bit each, that there are marks for |
//! | 32..40 | bytes that follow |
//!
//! A signal counts once all data that its sender wrote before it has landed, on whatever connection (a *lane*) it came.
//! Lane 0 carries signals and packets, after its own data; for every other lane that carried data since the last signal
//! or packet, it says how many data frames that lane had carried in all: its *mark*, eight bytes, by ascending lane.
//! In a packet the marks come before its bytes.

use crate::fabric::Target;

/// Bytes of a header.
pub(super) const HEADER: usize = 40;
/// Connections to one peer, at most.
pub(super) const MAX_LANES: usize = 64;
/// Bytes of a packet, at most.
pub(super) const MAX_PACKET: usize = 256;
/// Bytes that follow a header other than data's, at most.
pub(super) const MAX_INLINE: usize = MARK * MAX_LANES + MAX_PACKET;
/// Bytes of a mark.
pub(super) const MARK: usize = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes for scratch or output.
    Data,
    /// The same, and a signal after them. It has no marks.
    DataSignal,
    /// A signal.
    Signal,
    /// A packet.
    Packet,
    /// The last frame of a lane: the sender has ended that operation and leaves the group in order.
    Leave,
    /// The sender is in that operation with that tag, and has seen another one: it gives up.
    Refuse,
}

/// What stands before every frame's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) tag: u32,
    pub(super) kind: Kind,
    pub(super) target: Target,
    /// Bit `l`: there is a mark for lane `l`. Never bit 0.
    pub(super) lanes: u64,
    /// Bytes that follow.
    pub(super) bytes: u64,
}

impl Header {
    /// As it goes over the wire.
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let (target, offset) = match self.target {
            Target::Scratch(offset) => (0, offset as u64),
            Target::Output(offset) => (1, offset as u64),
        };
        // Only one of them can be other than zero.
        let place = offset | self.lanes;
        let kind = match self.kind {
            Kind::Data => 1,
            Kind::DataSignal => 2,
            Kind::Signal => 3,
            Kind::Packet => 4,
            Kind::Leave => 5,
            Kind::Refuse => 6,
        };
        let mixed = u64::from(self.tag) | kind << 32 | target << 40;
        let mut wire = [0; HEADER];
        let words = [self.epoch, self.sequence, mixed, place, self.bytes];
        for (place, word) in wire.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        wire
    }

    /// Reads a header and checks all of it that can be checked without knowing what the receiver is doing.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub(super) fn decode(wire: &[u8; HEADER]) -> Result<Self, &'static str> {
        let ([epoch, sequence, mixed, place, bytes], []) = wire.as_chunks() else {
            return Err("a header of another size");
        };
        let mixed = u64::from_le_bytes(*mixed);
        let kind = match mixed >> 32 & 0xFF {
            1 => Kind::Data,
            2 => Kind::DataSignal,
            3 => Kind::Signal,
            4 => Kind::Packet,
            5 => Kind::Leave,
            6 => Kind::Refuse,
            _ => return Err("a frame of unknown kind"),
        };
        let place = u64::from_le_bytes(*place);
        let (offset, lanes) = match kind {
            Kind::Data | Kind::DataSignal => (place, 0),
            _ => (0, place),
        };
        let offset = usize::try_from(offset).map_err(|_| "an offset beyond all memory")?;
        let target = match mixed >> 40 {
            0 => Target::Scratch(offset),
            1 => Target::Output(offset),
            _ => return Err("a frame for an unknown buffer"),
        };
        let header = Self {
            epoch: u64::from_le_bytes(*epoch),
            sequence: u64::from_le_bytes(*sequence),
            tag: mixed as u32,
            kind,
            target,
            lanes,
            bytes: u64::from_le_bytes(*bytes),
        };
        header.check().map(|()| header)
    }

    #[inline]
    fn check(&self) -> Result<(), &'static str> {
        let marks = u64::from(self.lanes.count_ones()) * MARK as u64;
        if matches!(self.kind, Kind::Data | Kind::DataSignal) {
            return Ok(());
        }
        if self.target != Target::Scratch(0) {
            return Err("a target in a frame without data");
        }
        if self.lanes & 1 != 0 {
            return Err("a mark for the lane it came on");
        }
        match self.kind {
            Kind::Packet if self.bytes < marks || self.bytes > marks + MAX_PACKET as u64 => {
                Err("a packet of impossible length")
            }
            Kind::Signal if self.bytes != marks => Err("a signal of impossible length"),
            Kind::Leave | Kind::Refuse if self.bytes != 0 || self.lanes != 0 => {
                Err("bytes after a frame that has none")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: Header = Header {
        epoch: 0x0102_0304_0506_0708,
        sequence: 9,
        tag: 0xDEAD_BEEF,
        kind: Kind::DataSignal,
        target: Target::Output(0x1122),
        lanes: 0,
        bytes: 77,
    };

    #[test]
    fn a_header_is_read_as_it_was_written_and_stands_where_the_table_says() {
        let wire = DATA.encode();
        assert_eq!(Header::decode(&wire), Ok(DATA));
        assert_eq!(wire[0..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(wire[16..24], [0xEF, 0xBE, 0xAD, 0xDE, 2, 1, 0, 0]);
        assert_eq!(wire[24..26], [0x22, 0x11]);
        assert_eq!(wire[32], 77);
        let packet = Header { kind: Kind::Packet, target: Target::Scratch(0), lanes: 0b110, bytes: 16 + 256, ..DATA };
        assert_eq!(Header::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn impossible_headers_are_refused() {
        let no = Header { target: Target::Scratch(0), bytes: 0, ..DATA };
        for (wrong, why) in [
            (Header { kind: Kind::Signal, target: Target::Output(0), ..no }, "a target in a frame without data"),
            (Header { kind: Kind::Signal, lanes: 1, bytes: 8, ..no }, "a mark for the lane it came on"),
            (Header { kind: Kind::Signal, lanes: 2, bytes: 16, ..no }, "a signal of impossible length"),
            (Header { kind: Kind::Packet, lanes: 2, bytes: 7, ..no }, "a packet of impossible length"),
            (Header { kind: Kind::Packet, bytes: 257, ..no }, "a packet of impossible length"),
            (Header { kind: Kind::Leave, bytes: 1, ..no }, "bytes after a frame that has none"),
        ] {
            assert_eq!(Header::decode(&wrong.encode()), Err(why), "{wrong:?}");
        }
        let mut wire = DATA.encode();
        wire[20] = 0;
        assert_eq!(Header::decode(&wire), Err("a frame of unknown kind"));
        for at in [21, 22, 23] {
            wire = DATA.encode();
            wire[at] = 2;
            assert_eq!(Header::decode(&wire), Err("a frame for an unknown buffer"), "byte {at}");
        }
    }
}
