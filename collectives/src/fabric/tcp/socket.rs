//! Bytes between a socket and memory by address, and the memory that peers' frames land in.

use std::io::{IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::ptr;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::fabric::Raw;
use crate::fault::Fault;

/// Memory by address, laid out as the system's `iovec`; so are [`IoSlice`] and [`IoSliceMut`], as they promise. It stands
/// in for them because they can only be made from references, and others may write to the memory meant here.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Piece {
    at: *mut u8,
    bytes: usize,
}

impl Piece {
    pub(super) fn new(at: *mut u8, bytes: usize) -> Self {
        Self { at, bytes }
    }

    /// To be read.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { at: bytes.as_ptr().cast_mut(), bytes: bytes.len() }
    }
}

/// Sends what the socket takes at once.
///
/// # Errors
/// `AGAIN` where it takes nothing now.
///
/// # Safety
/// Every piece can be read.
pub(super) unsafe fn send(socket: &TcpStream, pieces: &[Piece]) -> Result<usize, Errno> {
    // SAFETY: same layout, both documented to be that of `iovec`; the memory they mean can be read, says the caller, and
    // is read by the kernel only.
    let slices = unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast::<IoSlice<'_>>(), pieces.len()) };
    sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// Receives what is there into the pieces, in order. The socket must not block.
///
/// # Errors
/// `AGAIN` where nothing is there.
///
/// # Safety
/// Every piece can be written, and nobody relies on what is there.
pub(super) unsafe fn receive(socket: &TcpStream, pieces: &mut [Piece]) -> Result<usize, Errno> {
    // SAFETY: same layout, both documented to be that of `iovec`; the memory they mean can be written, says the caller,
    // and is written by the kernel only.
    let slices = unsafe { std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast::<IoSliceMut<'_>>(), pieces.len()) };
    rustix::io::readv(socket, slices)
}

/// One rank's scratch: two halves, each from the start of a page.
#[derive(Debug)]
pub(super) struct Scratch {
    at: *mut u8,
    /// Bytes of a half that are used.
    bytes: usize,
    /// Bytes from one half to the next.
    stride: usize,
}

impl Scratch {
    /// # Errors
    /// [`Fault::System`] where there is not that much memory.
    pub(super) fn new(bytes: usize) -> Result<Self, Fault> {
        const PAGE: usize = 4096;
        let refused = |why: String| Fault::System { what: "memory for two halves of scratch", why };
        let stride = bytes.max(1).checked_next_multiple_of(PAGE);
        let Some((stride, total)) = stride.and_then(|one| Some((one, one.checked_mul(2)?))) else {
            return Err(refused(format!("{bytes} bytes twice are more than an address can count")));
        };
        // SAFETY: a new mapping wherever the kernel likes; nothing else is touched.
        let at =
            unsafe { mmap_anonymous(ptr::null_mut(), total, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let at = at.map_err(|errno| refused(format!("{total} bytes: {errno}")))?;
        Ok(Self { at: at.cast(), bytes, stride })
    }

    /// Bytes of one half.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The half that operation `sequence` uses.
    pub(super) fn half(&self, sequence: u64) -> Raw {
        let skip = if sequence.is_multiple_of(2) { 0 } else { self.stride };
        // `wrapping_add` needs no promise; the mapping is two strides long.
        Raw { at: self.at.wrapping_add(skip), bytes: self.bytes }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the whole mapping made in `new`; whoever got its address from the fabric had it no longer than that.
        // There is nothing to be done about a failure, and none is possible for a mapping of one's own.
        let _ = unsafe { munmap(self.at.cast(), self.stride * 2) };
    }
}
