//! Reaching peers' user memory: regions are mapped, anything else is read by `process_vm_readv`.

use super::super::Raw;
use super::super::region::MAX_REGIONS;
use super::{MAGIC, Peer, ShmFabric};
use crate::fault::Fault;
use crate::memory;
use crate::plan::Rank;

/// Where a buffer is, for a peer: what rides in the line of `expose`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Locator {
    /// Index of a region, or [`PRIVATE`].
    region: u32,
    /// Its serial number, cut short: regions that follow each other in a slot differ.
    serial: u32,
    /// Offset in the region, or address.
    at: u64,
    bytes: u64,
}

const PRIVATE: u32 = u32::MAX;

/// What [`ShmFabric::locators`] found last.
#[derive(Debug)]
pub(super) struct Located {
    changes: u64,
    buffers: [(*mut u8, usize); 2],
    locators: [Locator; 2],
}

// SAFETY: the addresses are compared, never followed.
unsafe impl Send for Located {}

/// A peer's user buffer, once met.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reached {
    Unknown,
    Here(Raw),
    There { address: u64, bytes: usize },
}

impl ShmFabric {
    pub(super) fn can_copy_from_all(&self) -> bool {
        self.peers.iter().flatten().all(|other| {
            let mut magic = [0; 8];
            // SAFETY: eight writable bytes of this stack.
            let copied = unsafe { read_process(other, other.address, magic.as_mut_ptr(), 8) };
            copied.is_ok() && u64::from_ne_bytes(magic) == MAGIC
        })
    }

    /// How peers find the buffers of this operation.
    pub(super) fn locators(&mut self) -> [Locator; 2] {
        let buffers = [self.entry.input, self.entry.output].map(|buffer| (buffer.at, buffer.bytes));
        let changes = self.regions.changes();
        match &self.located {
            Some(known) if known.changes == changes && known.buffers == buffers => known.locators,
            _ => {
                let locators = [self.locator(self.entry.input), self.locator(self.entry.output)];
                self.located = Some(Located { changes, buffers, locators });
                locators
            }
        }
    }

    fn locator(&self, buffer: Raw) -> Locator {
        let (at, bytes) = (buffer.at as u64, buffer.bytes as u64);
        match self.regions.find(buffer) {
            Some((region, serial, offset)) => {
                Locator { region: region as u32, serial: serial as u32, at: offset as u64, bytes }
            }
            None => Locator { region: PRIVATE, serial: 0, at, bytes },
        }
    }

    pub(super) fn reach_buffer(&mut self, peer: Rank, locator: Locator) -> Result<Reached, Fault> {
        let Ok(bytes) = usize::try_from(locator.bytes) else { return Err(broken(peer)) };
        if locator.region == PRIVATE {
            return Ok(Reached::There { address: locator.at, bytes });
        }
        let region = usize::try_from(locator.region).ok().filter(|region| *region < MAX_REGIONS);
        let region = region.ok_or_else(|| broken(peer))?;
        let whole = match self.peer(peer).regions.get(region) {
            Some(Some((serial, mapped))) if *serial == locator.serial => mapped.raw(),
            _ => self.map_region(peer, region, locator.serial)?,
        };
        let at = usize::try_from(locator.at).map_err(|_| broken(peer))?;
        if at.checked_add(bytes).is_none_or(|end| end > whole.bytes) {
            return Err(broken(peer));
        }
        // SAFETY: within the mapping, as was just checked; it stays mapped in `regions`.
        Ok(Reached::Here(Raw { at: unsafe { whole.at.add(at) }, bytes }))
    }

    #[cold]
    fn map_region(&mut self, peer: Rank, region: usize, serial: u32) -> Result<Raw, Fault> {
        let slot = self.peer_head(peer).regions.0[region].read();
        if slot.serial as u32 != serial {
            return Err(broken(peer));
        }
        let from = self.peer_mut(peer);
        let mapped = memory::open(from.process, slot.file, slot.bytes)?;
        let whole = mapped.raw();
        if from.regions.len() <= region {
            from.regions.resize_with(region + 1, || None);
        }
        from.regions[region] = Some((serial, mapped));
        Ok(whole)
    }
}

fn broken(rank: Rank) -> Fault {
    Fault::Protocol { rank, what: "it exposed memory outside its regions".into() }
}

/// # Safety
/// `bytes` at `to` are writable.
pub(super) unsafe fn read_process(peer: &Peer, address: u64, to: *mut u8, bytes: usize) -> Result<(), Fault> {
    let mut done = 0;
    while done < bytes {
        let local = libc::iovec { iov_base: to.wrapping_add(done).cast(), iov_len: bytes - done };
        let remote = libc::iovec { iov_base: (address as usize + done) as *mut libc::c_void, iov_len: bytes - done };
        // SAFETY: the local part is writable, says the caller; the kernel checks the remote one.
        let read =
            unsafe { libc::process_vm_readv(peer.process.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(read) {
            Ok(0) | Err(_) => {
                let why = std::io::Error::last_os_error().to_string();
                return Err(Fault::System { what: "reading a peer's memory", why });
            }
            Ok(read) => done += read,
        }
    }
    Ok(())
}
