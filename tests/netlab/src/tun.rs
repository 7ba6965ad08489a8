//! A TUN device: the two calls to the kernel that have no safe form. The only file here with `unsafe`.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{IntegerSetter, Updater, ioctl, opcode};

use crate::LabError;

/// Where TUN devices are made.
pub(crate) const DEVICE: &str = "/dev/net/tun";
/// Length of the header before each packet: `struct virtio_net_hdr`.
pub(crate) const HEADER_BYTES: usize = 10;

/// `struct ifreq` as TUNSETIFF takes it: a name, flags, and the rest of the union.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_uint>(b'T', 208);
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Checksums may be left to the reader, and segments of a TCP stream may come as one packet.
const CHECKSUMS: usize = 0x01;
const SEGMENTS: usize = 0x02 | 0x04;

/// Makes a TUN device in the network namespace of the calling thread. Reads give, and writes take, one packet after a
/// `virtio_net_hdr`; neither blocks. With `segments`, one packet may hold many segments of a TCP stream.
///
/// # Errors
/// If the device cannot be opened or the name is taken.
pub(crate) fn open(name: &str, segments: bool) -> Result<File, LabError> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(DEVICE);
    let file = opened.map_err(LabError::system(format!("opening {DEVICE}")))?;
    let mut request = Request { name: [0; 16], flags: IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    if name.len() >= request.name.len() {
        return Err(LabError::Shape(format!("an interface cannot be called {name:?}: at most 15 bytes")));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, 40 bytes of plain data; `Request` has that size and layout
    // (asserted below), is borrowed mutably for the call, and any bytes that come back are valid for it.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, Request>::new(&mut request)) }
        .map_err(LabError::system(format!("making the TUN device {name}")))?;
    let offload = CHECKSUMS | if segments { SEGMENTS } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes an integer in the place of a pointer and touches no memory of this process.
    unsafe { ioctl(&file, IntegerSetter::<TUNSETOFFLOAD>::new_usize(offload)) }
        .map_err(LabError::system(format!("setting the offloads of the TUN device {name}")))?;
    Ok(file)
}

const _: () = assert!(size_of::<Request>() == 40 && std::mem::offset_of!(Request, flags) == 16);
