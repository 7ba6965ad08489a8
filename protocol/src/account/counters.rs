//! The counters an author has used: each stands for one group, for good.

use serde::{Deserialize, Serialize};

use crate::codec::List;
use crate::id::{GroupId, leading_u64};

/// Counters remembered; with the run's age bound these are all that matter.
pub(super) const WINDOW: usize = 512;

/// What a counter's use turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// Not used before.
    New,
    /// This group again; `settled` once it has arrived.
    Known {
        /// Whether it has arrived.
        settled: bool,
    },
    /// Another group had this counter: the author signed two.
    Conflict,
    /// The same as a conflict that was noted before.
    Contested,
    /// Too long ago to tell.
    Forgotten,
}

/// The latest counters of one author.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counters {
    /// In ascending order of counters.
    #[serde(with = "List::<WINDOW>")]
    recent: Vec<Use>,
    /// Counters below are forgotten.
    floor: u64,
    /// Distinct counters ever seen.
    seen: u64,
    /// The lowest and the highest of them.
    span: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Use {
    counter: u64,
    /// The first bytes of the group's id: 2^64 groups to find another with the same.
    group: u64,
    settled: bool,
    /// Another group was signed under this counter.
    contested: bool,
}

impl Counters {
    /// What this use of a counter would be.
    pub(super) fn sighting(&self, counter: u64, id: GroupId) -> Sighting {
        self.find(counter, id).0
    }

    /// Notes a use of a counter.
    pub(super) fn see(&mut self, counter: u64, id: GroupId) -> Sighting {
        let (sighting, at) = self.find(counter, id);
        match sighting {
            Sighting::Conflict => self.recent[at].contested = true,
            Sighting::New => {
                self.recent.insert(at, Use { counter, group: leading_u64(&id.0), settled: false, contested: false });
                if self.recent.len() > WINDOW {
                    self.floor = self.recent.remove(0).counter.saturating_add(1);
                }
                self.seen = self.seen.saturating_add(1);
                let (first, last) = self.span.unwrap_or((counter, counter));
                self.span = Some((first.min(counter), last.max(counter)));
            }
            _ => {}
        }
        sighting
    }

    /// What a use of a counter would be, and its place in `recent`.
    fn find(&self, counter: u64, id: GroupId) -> (Sighting, usize) {
        match self.recent.binary_search_by_key(&counter, |used| used.counter) {
            Ok(at) if self.recent[at].group == leading_u64(&id.0) => {
                (Sighting::Known { settled: self.recent[at].settled }, at)
            }
            Ok(at) if self.recent[at].contested => (Sighting::Contested, at),
            Ok(at) => (Sighting::Conflict, at),
            // In a full window the lowest would be the next to be forgotten: it is so at once.
            Err(at) if counter < self.floor || (at == 0 && self.recent.len() == WINDOW) => (Sighting::Forgotten, at),
            Err(at) => (Sighting::New, at),
        }
    }

    pub(super) fn settle(&mut self, counter: u64, id: GroupId) {
        if let Ok(at) = self.recent.binary_search_by_key(&counter, |used| used.counter) {
            let used = &mut self.recent[at];
            used.settled |= used.group == leading_u64(&id.0);
        }
    }

    /// Counters between the first and the last that were never seen.
    pub(super) fn withheld(&self) -> u64 {
        self.span.map_or(0, |(first, last)| (last - first).saturating_add(1).saturating_sub(self.seen))
    }

    /// Whether decoded values can have come from here.
    pub(super) fn is_sound(&self) -> bool {
        self.recent.is_sorted_by(|a, b| a.counter < b.counter)
            && self.recent.first().is_none_or(|used| used.counter >= self.floor)
            && self.span.is_none_or(|(first, last)| first <= last)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.recent.capacity() * size_of::<Use>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> GroupId {
        GroupId([byte; 32])
    }

    #[test]
    fn a_counter_stands_for_one_group() {
        let mut counters = Counters::default();
        assert_eq!(counters.see(7, id(1)), Sighting::New);
        assert_eq!(counters.see(7, id(1)), Sighting::Known { settled: false });
        assert_eq!(counters.sighting(7, id(2)), Sighting::Conflict);
        assert_eq!(counters.see(7, id(2)), Sighting::Conflict);
        assert_eq!(counters.see(7, id(3)), Sighting::Contested);
        assert_eq!(counters.see(7, id(1)), Sighting::Known { settled: false });
        counters.settle(7, id(2));
        assert_eq!(counters.see(7, id(1)), Sighting::Known { settled: false });
        counters.settle(7, id(1));
        assert_eq!(counters.see(7, id(1)), Sighting::Known { settled: true });
        assert_eq!(counters.see(5, id(3)), Sighting::New);
        assert_eq!(counters.withheld(), 1);
        assert_eq!(counters.see(6, id(4)), Sighting::New);
        assert_eq!(counters.withheld(), 0);
        assert_eq!(counters.see(u64::MAX, id(5)), Sighting::New);
        assert_eq!(counters.withheld(), u64::MAX - 8);
    }

    #[test]
    fn the_window_keeps_the_latest_and_says_what_it_forgot() {
        let mut counters = Counters::default();
        for counter in 0..2 * WINDOW as u64 {
            assert_eq!(counters.see(2 * counter, id(counter as u8)), Sighting::New);
        }
        let lowest = 2 * WINDOW as u64;
        assert_eq!(counters.see(lowest, id(0)), Sighting::Known { settled: false });
        assert_eq!(counters.see(lowest - 2, id(9)), Sighting::Forgotten);
        assert_eq!(counters.see(lowest - 1, id(9)), Sighting::Forgotten);
        assert_eq!(counters.see(lowest + 1, id(9)), Sighting::New);
        assert_eq!((counters.recent.len(), counters.floor), (WINDOW, lowest + 1));
        assert!(counters.is_sound());
        assert_eq!(counters.withheld(), 2 * WINDOW as u64 - 1 - 1);
    }
}
