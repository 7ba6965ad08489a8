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

/// The regions of one rank. They outlive epochs: a group of survivors goes on with them.
#[derive(Debug, Clone, Default)]
pub struct Regions {
    table: Arc<Mutex<Table>>,
    /// Counts changes of the table.
    changes: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<(u64, Arc<Shared>)>>,
    serial: u64,
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
            let why = format!("there are {MAX_REGIONS} already: drop one, or put several buffers into one");
            return Err(Fault::System { what: "registering memory", why });
        }
        table.serial += 1;
        let entry = Some((table.serial, shared.clone()));
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
        let table = self.lock();
        table.slots.iter().enumerate().find_map(|(index, slot)| {
            let (serial, shared) = slot.as_ref()?;
            let whole = shared.raw();
            let offset = (buffer.at as usize).checked_sub(whole.at as usize)?;
            (offset.checked_add(buffer.bytes)? <= whole.bytes).then_some((index, *serial, offset))
        })
    }

    /// Writes what peers need into a segment's head.
    pub(crate) fn publish(&self, slots: &[RegionSlot; MAX_REGIONS]) {
        let table = self.lock();
        for (slot, entry) in slots.iter().zip(&table.slots) {
            let Some((serial, shared)) = entry else { continue };
            slot.file.store(u64::from(shared.number()), Ordering::Release);
            slot.bytes.store(shared.raw().bytes as u64, Ordering::Release);
            slot.serial.store(*serial, Ordering::Release);
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
    fn drop(&mut self) {
        let mut table = self.regions.lock();
        if let Some(slot) = table.slots.get_mut(self.index) {
            *slot = None;
        }
        self.regions.changes.fetch_add(1, Ordering::AcqRel);
    }
}
