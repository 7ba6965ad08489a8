//! Memory that processes share: sealed files without a name, mapped.
//!
//! A file made here is gone with the last process that has it, however those processes end: nothing is left behind. Peers
//! open it through `/proc`, which the system allows to processes of the same user.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::fabric::Raw;
use crate::fault::Fault;

/// A mapped file.
#[derive(Debug)]
pub struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory, valid from any thread until it is dropped; no reference to it is given out.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// All of it.
    pub fn raw(&self) -> Raw {
        Raw { at: self.at.as_ptr(), bytes: self.bytes }
    }

    /// Has the system put pages behind it now, so that no operation waits for them later.
    pub(crate) fn populate(&self) {
        // SAFETY: populating changes no content. Where the system cannot, pages come when they are touched.
        let _ = unsafe { madvise(self.at.as_ptr().cast(), self.bytes, Advice::LinuxPopulateWrite) };
    }

    fn new(file: impl AsFd, bytes: usize) -> Result<Self, Fault> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at an address that the system chooses, overlaps no memory of this program.
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) };
        let at = at.map_err(|error| system("mapping shared memory", error))?;
        NonNull::new(at.cast())
            .map(|at| Self { at, bytes })
            .ok_or_else(|| system("mapping shared memory", rustix::io::Errno::NOMEM))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `new`, and whoever had its address has the mapping too, or has given it up.
        if let Err(error) = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) } {
            tracing::error!(%error, "shared memory cannot be unmapped");
        }
    }
}

/// A file of shared memory of this process, mapped here.
#[derive(Debug)]
pub struct Shared {
    file: OwnedFd,
    mapping: Mapping,
}

impl Shared {
    /// Makes `bytes` (not 0) of zeroed memory. Its size can never change again, so that no peer can pull it away.
    ///
    /// # Errors
    /// [`Fault::System`].
    pub fn create(name: &str, bytes: usize) -> Result<Self, Fault> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|error| system("making shared memory", error))?;
        ftruncate(&file, bytes as u64).map_err(|error| system("making shared memory", error))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|error| system("sealing shared memory", error))?;
        let mapping = Mapping::new(&file, bytes)?;
        Ok(Self { file, mapping })
    }

    /// The memory.
    pub fn raw(&self) -> Raw {
        self.mapping.raw()
    }

    /// See [`Mapping::populate`].
    pub(crate) fn populate(&self) {
        self.mapping.populate();
    }

    /// The file's number in this process, by which peers open it.
    pub fn number(&self) -> u32 {
        // An open file's number is never negative.
        self.file.as_raw_fd().unsigned_abs()
    }
}

/// Maps the memory of another process of this host.
///
/// # Errors
/// [`Fault::System`] where it is out of reach (another user, another process namespace), is not of that size, or could
/// still change its size.
pub fn open(process: u32, number: u32, bytes: usize) -> Result<Mapping, Fault> {
    let path = format!("/proc/{process}/fd/{number}");
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| Fault::System { what: "opening a peer's shared memory", why: error.to_string() })?;
    let seals = fcntl_get_seals(&file).map_err(|error| system("looking at a peer's shared memory", error))?;
    let length = file.metadata().map_or(0, |meta| meta.len());
    if length != bytes as u64 || !seals.contains(SealFlags::SHRINK) {
        return Err(Fault::System {
            what: "opening a peer's shared memory",
            why: format!("it has {length} bytes and not {bytes}, or is not sealed"),
        });
    }
    Mapping::new(&file, bytes)
}

pub(crate) fn system(what: &'static str, error: rustix::io::Errno) -> Fault {
    Fault::System { what, why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_sees_what_is_written_and_a_wrong_size_is_refused() {
        let shared = Shared::create("test", 8192).expect("memory");
        let process = std::process::id();
        let peer = open(process, shared.number(), 8192).expect("the same memory");
        // SAFETY: both mappings are 8192 bytes, and only this thread touches them.
        unsafe {
            shared.raw().at.add(5000).write(7);
            assert_eq!(peer.raw().at.add(5000).read_volatile(), 7);
        }
        assert!(matches!(open(process, shared.number(), 4096), Err(Fault::System { .. })));
        assert!(matches!(open(process, 100_000, 4096), Err(Fault::System { .. })));
    }
}
