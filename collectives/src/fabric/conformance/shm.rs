//! Shared memory keeps the contract, with buffers of any memory and with buffers in regions.

use super::SCRATCH;
use crate::fabric::region::{Region, Regions};
use crate::fabric::shm::{Card, Offer, ShmFabric};
use crate::fabric::{Entry, Fabric, Raw, Target, Window};
use crate::fault::Fault;
use crate::patience::Patience;
use crate::plan::{Rank, Reach};

/// Shared memory as a group uses it: what [`Reach::reduce_user`] says holds for registered memory alone. With regions, the
/// caller's input and output are copied there when an operation begins, and the output back when it ends.
#[derive(Debug)]
struct Staged {
    fabric: ShmFabric,
    regions: Regions,
    /// Input and output.
    staging: Option<[Region; 2]>,
    output: Raw,
}

fn group(ranks: usize, registered: bool) -> Vec<Box<dyn Fabric>> {
    let offer = |regions: &Regions| Offer::new(7, ranks, SCRATCH, regions.clone()).unwrap();
    let regions: Vec<Regions> = (0..ranks).map(|_| Regions::default()).collect();
    let (offers, cards): (Vec<Offer>, Vec<Card>) = regions.iter().map(offer).unzip();
    let cards: Vec<_> = cards.into_iter().map(Some).collect();
    let connect = |(rank, (offer, regions)): (Rank, (Offer, Regions))| {
        let fabric = offer.connect(rank, &cards).unwrap();
        let staging = registered.then(|| [1, 1].map(|bytes| regions.create(bytes).unwrap()));
        Box::new(Staged { fabric, regions, staging, output: Raw::EMPTY }) as Box<dyn Fabric>
    };
    offers.into_iter().zip(regions).enumerate().map(connect).collect()
}

#[test]
fn any_memory_conforms() {
    super::all_told(&|ranks| group(ranks, false));
}

#[test]
fn regions_conform() {
    super::all_told(&|ranks| group(ranks, true));
}

impl Fabric for Staged {
    fn name(&self) -> &'static str {
        self.fabric.name()
    }

    fn reach(&self, peer: Rank) -> Reach {
        let reach = self.fabric.reach(peer);
        Reach { reduce_user: reach.reduce_user && self.staging.is_some(), ..reach }
    }

    fn scratch_bytes(&self) -> usize {
        self.fabric.scratch_bytes()
    }

    fn scratch(&self) -> Raw {
        self.fabric.scratch()
    }

    unsafe fn begin(&mut self, entry: &Entry, patience: &mut Patience<'_>) -> Result<(), Fault> {
        let mut entry = *entry;
        self.output = entry.output;
        if let Some(staging) = &mut self.staging {
            for (region, memory) in staging.iter_mut().zip([&mut entry.input, &mut entry.output]) {
                if region.raw().bytes < memory.bytes {
                    *region = self.regions.create(memory.bytes)?;
                    self.fabric.publish_regions();
                }
                let inside = Raw { at: region.raw().at, bytes: memory.bytes };
                // SAFETY: the region is as large, apart from the caller's memory, and no peer is in this operation yet.
                unsafe { std::ptr::copy_nonoverlapping(memory.at, inside.at, memory.bytes) };
                *memory = inside;
            }
        }
        // SAFETY: the caller's promise, or a region that lives longer than the operation.
        unsafe { self.fabric.begin(&entry, patience) }
    }

    fn end(&mut self, patience: &mut Patience<'_>) -> Result<(), Fault> {
        if let Some([_, output]) = &self.staging {
            // SAFETY: the caller's output is writable until this returns, and as large as what was staged.
            unsafe { std::ptr::copy_nonoverlapping(output.raw().at, self.output.at, self.output.bytes) };
        }
        self.fabric.end(patience)
    }

    unsafe fn put(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        to: Target,
        signal: bool,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { self.fabric.put(peer, from, bytes, to, signal, patience) }
    }

    fn signal(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.fabric.signal(peer, patience)
    }

    fn wait(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.fabric.wait(peer, patience)
    }

    fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        self.fabric.poll(peer)
    }

    unsafe fn packet(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        patience: &mut Patience<'_>,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { self.fabric.packet(peer, from, bytes, patience) }
    }

    fn wait_packet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<*const u8, Fault> {
        self.fabric.wait_packet(peer, patience)
    }

    fn expose(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.fabric.expose(peer, patience)
    }

    fn meet(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.fabric.meet(peer, patience)
    }

    fn direct(&self, peer: Rank, window: Window) -> Option<Raw> {
        self.fabric.direct(peer, window)
    }

    unsafe fn copy_from(
        &mut self,
        peer: Rank,
        window: Window,
        offset: usize,
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { self.fabric.copy_from(peer, window, offset, to, bytes) }
    }

    fn flush(&mut self, peer: Rank, patience: &mut Patience<'_>) -> Result<(), Fault> {
        self.fabric.flush(peer, patience)
    }
}
