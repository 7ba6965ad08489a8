//! What one rank knows of another: what came from it, in order, and what it may be sent.
//!
//! Everything that a rank sends to a peer, puts and messages alike, has an index. A provider may deliver in any order;
//! the receiver takes things in by index, so that a signal counts once all that was sent before it has landed. At most
//! a [`WINDOW`] is under way: messages in the other direction say how much has come.

use super::sys::FiAddr;
use super::wire::{Kind, WINDOW};

/// Where a peer is, and where in it one may write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remote {
    pub(super) address: FiAddr,
    pub(super) key: u64,
    /// What the first byte of its scratch is called there.
    pub(super) base: u64,
}

/// Something that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) what: What,
    pub(super) sequence: u64,
    /// Where it was said.
    pub(super) tag: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Put { signal: bool },
    Message(Kind),
}

/// Messages that are to be sent as soon as that is possible. None is needed more than once at a time.
pub(super) mod owed {
    pub(in super::super) const ENDED: u8 = 1;
    pub(in super::super) const ASK: u8 = 2;
    pub(in super::super) const CREDIT: u8 = 4;
}

/// Another rank.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) remote: Remote,
    /// Things taken in, in order; the next index.
    got: u64,
    /// How many of them the peer has been told of.
    told: u64,
    /// What came before its turn.
    early: Box<[Option<Item>]>,
    /// Signals that came and were not waited for.
    pub(super) signals: u64,
    /// Those of operations that have not begun here, by the parity of their sequence, and that sequence.
    later: [(u64, u64); 2],
    /// The operation of the last packet, by the parity of its sequence.
    pub(super) packets: [u64; 2],
    /// What the peer calls its operations, by the parity of their sequence, and that sequence.
    tags: [(u64, u32); 2],
    pub(super) greeted: bool,
    /// The operation after which it has left.
    pub(super) left: Option<u64>,
    /// Nothing can be sent to it any more.
    pub(super) gone: bool,
    /// The last operation in which it wrote to this rank.
    heard: u64,
    /// It has ended at least this operation.
    pub(super) ended: u64,
    /// It wants to know when this rank has ended that operation.
    asked: u64,
    /// Things sent, and how many of them have come.
    sent: u64,
    acked: u64,
    /// The last operation in which it was told this rank's tag.
    pub(super) said: u64,
    /// The last operation in which anything was sent that belongs to one.
    wrote: u64,
    /// Puts that have not left this rank's memory.
    pub(super) puts: u64,
    /// Bits of [`owed`].
    pub(super) owes: u8,
}

/// Places that only messages about other messages may take, so that those always go.
const RESERVE: u64 = 8;

impl Peer {
    pub(super) fn new(remote: Remote) -> Self {
        Self {
            remote,
            got: 0,
            told: 0,
            early: vec![None; WINDOW as usize].into(),
            signals: 0,
            later: [(0, 0); 2],
            packets: [0; 2],
            tags: [(0, 0); 2],
            greeted: false,
            left: None,
            gone: false,
            heard: 0,
            ended: 0,
            asked: 0,
            sent: 0,
            acked: 0,
            said: 0,
            wrote: 0,
            puts: 0,
            owes: 0,
        }
    }

    /// The index that everything from the peer is at or above.
    pub(super) fn got(&self) -> u64 {
        self.got
    }

    /// Something has come. False where it cannot have that index.
    #[must_use]
    pub(super) fn arrive(&mut self, index: u64, item: Item) -> bool {
        let place = &mut self.early[(index % WINDOW) as usize];
        if index.wrapping_sub(self.got) >= WINDOW || place.is_some() {
            return false;
        }
        *place = Some(item);
        true
    }

    /// The next thing in order, if it has come.
    pub(super) fn take(&mut self) -> Option<Item> {
        let item = self.early[(self.got % WINDOW) as usize].take()?;
        self.got += 1;
        if self.got - self.told >= WINDOW / 2 {
            self.owes |= owed::CREDIT;
        }
        Some(item)
    }

    /// The peer has got so many things; the lower half of the number. False where that cannot be.
    #[must_use]
    pub(super) fn acknowledge(&mut self, got: u32) -> bool {
        let more = got.wrapping_sub(self.acked as u32);
        if u64::from(more) <= self.sent - self.acked {
            self.acked += u64::from(more);
            return true;
        }
        // Messages overtake each other: an older number is no news.
        more > u32::MAX / 2
    }

    /// The peer's operation `sequence` is called so, and it has written to this rank in it.
    pub(super) fn hear(&mut self, sequence: u64, tag: Option<u32>) {
        self.heard = self.heard.max(sequence);
        // Whoever is in an operation has ended those before.
        self.ended = self.ended.max(sequence.saturating_sub(1));
        if let Some(tag) = tag {
            self.tags[(sequence % 2) as usize] = (sequence, tag);
        }
    }

    /// A signal of the operation `sequence` has come, while this rank is in `here` or has ended that.
    pub(super) fn signal(&mut self, sequence: u64, here: u64) {
        if sequence <= here {
            self.signals += 1;
            return;
        }
        // The peer is at most two operations ahead.
        let (of, count) = &mut self.later[(sequence % 2) as usize];
        (*of, *count) = (sequence, *count + 1);
    }

    /// This rank begins an operation: signals that came early count from now on.
    pub(super) fn begin(&mut self, sequence: u64) {
        for (of, count) in &mut self.later {
            if *of <= sequence {
                self.signals += std::mem::take(count);
            }
        }
    }

    /// What the peer calls the operation, where it is not `tag`.
    pub(super) fn other_tag(&self, sequence: u64, tag: u32) -> Option<u32> {
        let (of, theirs) = self.tags[(sequence % 2) as usize];
        (of == sequence && theirs != tag).then_some(theirs)
    }

    /// The peer asks for the end of an operation; `ended` is the last that this rank has ended.
    pub(super) fn ask(&mut self, sequence: u64, ended: u64) {
        if sequence <= ended {
            self.owes |= owed::ENDED;
        } else {
            self.asked = sequence;
        }
    }

    /// This rank has ended an operation: whether the peer is to be told.
    ///
    /// It must know before it writes to this rank two operations on. What was sent to it in this operation says that
    /// the one before has ended, which is soon enough; so it is told only where nothing was sent, and where it is
    /// likely to write, for it has done so lately. In all other cases it asks.
    pub(super) fn end(&mut self, sequence: u64) {
        let lately = self.heard + 1 >= sequence && self.wrote != sequence;
        // A peer that is far ahead has asked for a later end: that answer is still owed.
        let answers = (1..=sequence).contains(&self.asked);
        if answers {
            self.asked = 0;
        }
        if lately || answers {
            self.owes |= owed::ENDED;
        }
    }

    /// Whether one more thing may be on its way; some places are kept for what messages are about.
    pub(super) fn has_room(&self, of_operation: bool) -> bool {
        let most = if of_operation { WINDOW - RESERVE } else { WINDOW };
        self.sent - self.acked < most
    }

    /// Whether all that was sent has come.
    pub(super) fn has_all(&self) -> bool {
        self.sent == self.acked
    }

    /// The index of what is sent next.
    pub(super) fn index(&self) -> u64 {
        self.sent
    }

    /// Something of the operation `sequence` was sent.
    pub(super) fn sent(&mut self, sequence: u64) {
        self.sent += 1;
        self.wrote = sequence;
    }

    /// A message was sent: it says how much has come.
    pub(super) fn sent_message(&mut self) {
        self.sent += 1;
        self.told = self.got;
        self.owes &= !owed::CREDIT;
    }

    /// A message that belongs to the operation `sequence` was sent.
    pub(super) fn wrote(&mut self, sequence: u64) {
        (self.wrote, self.said) = (sequence, sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new(Remote { address: 0, key: 0, base: 0 })
    }

    fn put(sequence: u64) -> Item {
        Item { what: What::Put { signal: false }, sequence, tag: None }
    }

    #[test]
    fn things_are_taken_in_the_order_in_which_they_were_sent() {
        let mut peer = peer();
        // Backwards, three windows of them.
        for window in 0..3 {
            let first = window * WINDOW;
            for index in (first..first + WINDOW).rev() {
                assert_eq!(peer.take(), None);
                assert!(peer.arrive(index, put(index)));
            }
            for index in first..first + WINDOW {
                assert_eq!(peer.take(), Some(put(index)));
            }
        }
        assert_eq!(peer.got(), 3 * WINDOW);
        let next = peer.got();
        assert!(!peer.arrive(next + WINDOW, put(0)), "more than a window ahead");
        assert!(!peer.arrive(next - 1, put(0)), "twice");
        assert!(peer.arrive(next + 1, put(0)));
        assert!(!peer.arrive(next + 1, put(0)), "twice");
    }

    #[test]
    fn half_a_window_is_acknowledged_and_a_full_one_stops() {
        let (mut one, mut other) = (peer(), peer());
        let mut index = 0;
        while one.has_room(true) {
            assert!(other.arrive(index, put(1)));
            assert_eq!(other.take(), Some(put(1)));
            one.sent(1);
            index += 1;
            assert_eq!(other.owes & owed::CREDIT != 0, index >= WINDOW / 2);
        }
        assert_eq!(index, WINDOW - RESERVE);
        assert!(one.has_room(false));
        assert!(one.acknowledge(other.got() as u32));
        assert!(one.has_all() && one.has_room(true));
        assert!(one.acknowledge(5), "an older one is no news");
        assert!(one.has_all());
        assert!(!one.acknowledge(index as u32 + 1), "more than was sent");
        other.sent_message();
        assert_eq!(other.owes, 0);
    }

    #[test]
    fn a_peer_that_writes_is_told_of_an_end_and_others_ask() {
        let mut peer = peer();
        peer.end(1);
        assert_eq!(peer.owes, owed::ENDED, "whoever has not written yet may begin to");
        peer.owes = 0;
        peer.end(2);
        assert_eq!(peer.owes, 0, "it does not write");
        peer.ask(3, 2);
        assert_eq!(peer.owes, 0, "not yet");
        peer.end(3);
        assert_eq!(peer.owes, owed::ENDED);
        peer.owes = 0;
        peer.hear(4, None);
        peer.wrote(4);
        peer.end(4);
        assert_eq!(peer.owes, 0, "what was sent in 4 says that 3 has ended");
        peer.end(5);
        assert_eq!(peer.owes, owed::ENDED, "it wrote in 4, and nothing of 5 was sent");
        peer.owes = 0;
        peer.end(6);
        peer.ask(6, 6);
        assert_eq!(peer.owes, owed::ENDED);
    }

    #[test]
    fn who_asks_for_a_later_end_is_told_of_that_one_too() {
        let mut peer = peer();
        peer.hear(4, None);
        peer.ask(9, 3);
        peer.end(4);
        assert_eq!(peer.owes, owed::ENDED, "it wrote in this operation");
        peer.owes = 0;
        (5..9).for_each(|sequence| peer.end(sequence));
        peer.owes = 0;
        peer.end(9);
        assert_eq!(peer.owes, owed::ENDED, "it has asked for this one");
    }

    #[test]
    fn signals_count_from_when_their_operation_begins() {
        let mut peer = peer();
        peer.begin(3);
        peer.signal(3, 3);
        peer.signal(4, 3);
        peer.signal(4, 3);
        assert_eq!(peer.signals, 1);
        // This rank has ended 3; the peer is in 5.
        peer.signal(5, 3);
        peer.begin(4);
        assert_eq!(peer.signals, 3, "none is lost");
        peer.begin(5);
        assert_eq!(peer.signals, 4);
    }

    #[test]
    fn tags_are_known_for_two_operations() {
        let mut peer = peer();
        peer.hear(7, Some(70));
        peer.hear(8, Some(80));
        assert_eq!((peer.other_tag(7, 70), peer.other_tag(8, 80), peer.other_tag(9, 1)), (None, None, None));
        assert_eq!((peer.other_tag(7, 1), peer.other_tag(8, 1)), (Some(70), Some(80)));
        assert_eq!(peer.ended, 7);
    }
}
