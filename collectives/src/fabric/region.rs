//! User memory that peers of a host can map.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Raw;
use crate::fault::Fault;
use crate::memory::Shared;

/// Regions that one rank can have at a time.
pub(crate) const MAX_REGIONS: usize = 128;

/// How peers find a region: written by its owner, read by peers after they were told of it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RegionSlot {
    serial: AtomicU64,
    file: AtomicU64,
    bytes: AtomicU64,
}

/// What a slot says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotValue {
    pub(crate) serial: u64,
    pub(crate) file: u32,
    pub(crate) bytes: usize,
}

impl RegionSlot {
    pub(crate) fn read(&self) -> SlotValue {
        let read = |value: &AtomicU64| value.load(Ordering::Acquire);
        // What does not fit fails when it is opened.
        SlotValue { serial: read(&self.serial), file: read(&self.file) as u32, bytes: read(&self.bytes) as usize }
    }
}

/// The regions of one rank in one epoch.
#[derive(Debug, Clone, Default)]
pub struct Regions {
    table: Arc<Mutex<Table>>,
    /// Counts changes of the table.
    changes: Arc<AtomicU64>,
    /// Counts entries that are retired.
    retired: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<Held>>,
    serial: u64,
}

#[derive(Debug)]
struct Held {
    serial: u64,
    shared: Arc<Shared>,
    /// Peers may have been told of it.
    told: bool,
    /// Its owner has dropped it; `Some` operation: which began first after that.
    retired: Option<Option<u64>>,
}

impl Regions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What [`Regions::find`] has said stands as long as this does.
    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Makes one.
    ///
    /// # Errors
    /// [`Fault::System`] where there is no memory, or there are too many.
    pub(crate) fn create(&self, bytes: usize) -> Result<Region, Fault> {
        let shared = Arc::new(Shared::create("swarmloom-region", bytes.max(1))?);
        let mut table = self.lock();
        let free = table.slots.iter().position(Option::is_none).unwrap_or(table.slots.len());
        if free == MAX_REGIONS {
            let why = format!(
                "there are {MAX_REGIONS} already, with those dropped since the last operation: drop one, or put several buffers into one"
            );
            return Err(Fault::System { what: "registering memory", why });
        }
        table.serial += 1;
        let entry = Some(Held { serial: table.serial, shared: shared.clone(), told: false, retired: None });
        match table.slots.get_mut(free) {
            Some(slot) => *slot = entry,
            None => table.slots.push(entry),
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        drop(table);
        Ok(Region { shared, bytes, index: free, regions: self.clone() })
    }

    /// Which region has all of `buffer` (index and serial), and where in it.
    pub(crate) fn find(&self, buffer: Raw) -> Option<(usize, u64, usize)> {
        let mut table = self.lock();
        table.slots.iter_mut().enumerate().find_map(|(index, slot)| {
            let held = slot.as_mut().filter(|held| held.retired.is_none())?;
            let whole = held.shared.raw();
            let offset = (buffer.at as usize).checked_sub(whole.at as usize)?;
            let found = offset.checked_add(buffer.bytes)? <= whole.bytes;
            held.told |= found;
            found.then_some((index, held.serial, offset))
        })
    }

    /// Operation `sequence` has begun, so every peer has ended the one before the last: what was dropped before the last
    /// one began is reached by nobody.
    #[inline]
    pub(crate) fn reap(&self, sequence: u64) {
        if self.retired.load(Ordering::Relaxed) > 0 {
            self.free(|since| *since.get_or_insert(sequence) < sequence);
        }
    }

    #[cold]
    fn free(&self, over: impl Fn(&mut Option<u64>) -> bool) {
        let mut table = self.lock();
        for slot in &mut table.slots {
            let retired = slot.as_mut().and_then(|held| held.retired.as_mut());
            if retired.is_some_and(&over) {
                *slot = None;
                self.retired.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes what peers need into a segment's head.
    pub(crate) fn publish(&self, slots: &[RegionSlot; MAX_REGIONS]) {
        let table = self.lock();
        for (slot, entry) in slots.iter().zip(&table.slots) {
            let Some(held) = entry else { continue };
            slot.file.store(u64::from(held.shared.number()), Ordering::Release);
            slot.bytes.store(held.shared.raw().bytes as u64, Ordering::Release);
            slot.serial.store(held.serial, Ordering::Release);
        }
    }
}

/// Memory that collectives on one host work on in place. Zeroed when it is made; its size is fixed.
#[derive(Debug)]
pub struct Region {
    shared: Arc<Shared>,
    bytes: usize,
    index: usize,
    regions: Regions,
}

impl Region {
    /// Its memory.
    pub fn raw(&self) -> Raw {
        Raw { at: self.shared.raw().at, bytes: self.bytes }
    }
}

impl Drop for Region {
    /// A peer that is late may still be about to look at what it was told of: that stays until no peer can be.
    fn drop(&mut self) {
        let mut table = self.regions.lock();
        if let Some(slot) = table.slots.get_mut(self.index) {
            match slot {
                Some(held) if held.told => {
                    held.retired = Some(None);
                    self.regions.retired.fetch_add(1, Ordering::Relaxed);
                }
                _ => *slot = None,
            }
        }
        self.regions.changes.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_were_told_of_stays_until_no_peer_can_be_there() {
        let regions = Regions::default();
        let held = |regions: &Regions| regions.lock().slots.iter().flatten().count();
        let (told, untold) = (regions.create(100).expect("memory"), regions.create(100).expect("memory"));
        assert_eq!(regions.find(told.raw()), Some((0, 1, 0)));
        let at = told.raw();
        drop((told, untold));
        assert_eq!(held(&regions), 1, "nobody knew of the other one");
        assert_eq!(regions.find(at), None, "it is its owner's no more");
        // Used in operation 7 at the latest: the begin of 9 shows that all have ended it.
        regions.reap(8);
        assert_eq!(held(&regions), 1);
        regions.reap(9);
        assert_eq!((held(&regions), regions.retired.load(Ordering::Relaxed)), (0, 0));
        for _ in 0..3 * MAX_REGIONS {
            regions.create(1).expect("those before were freed");
        }
    }
}
