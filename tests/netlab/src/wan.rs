//! A link in user space: a thread carries packets between two TUN devices, each in a namespace of its own.
//!
//! For kernels without `netem`. Where the link loses nothing, TCP segments of one stream pass as one packet, as they do
//! between virtual interfaces: fewer system calls, while the time on the line counts each segment with its headers.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::thread as threads;

use crate::LabError;
use crate::queue::{Queue, Terms};
use crate::tun::HEADER_BYTES;

/// The longest packet, with the header that TUN puts before it.
const MAX_PACKET_BYTES: usize = HEADER_BYTES + (1 << 16);
/// Packets read from one side before the other side and the clock are looked at.
const BATCH: usize = 32;
/// How late the kernel may wake the thread.
const TIMER_SLACK_NS: u64 = 1000;
/// The thread stands for hardware: programs under test should not slow it down.
const NICENESS: i32 = -10;

/// The thread; dropping it ends it and closes both devices.
#[derive(Debug)]
pub(crate) struct Wan {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Wan {
    /// Starts to carry packets between two devices made by [`crate::tun::open`], in both directions on the same terms.
    pub(crate) fn start(ends: [File; 2], terms: Terms, seed: u64) -> Result<Self, LabError> {
        let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = made.map_err(LabError::system("making an event for the link's thread"))?;
        let heard = stop.try_clone().map_err(LabError::system("sharing the event of the link's thread"))?;
        let queues = [Queue::new(terms, seed), Queue::new(terms, !seed)];
        let work = move || carry(ends, queues, &heard);
        let thread = std::thread::Builder::new().name("netlab-wan".into()).spawn(work);
        let thread = thread.map_err(LabError::system("starting the link's thread"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        // Cannot fail: nobody else writes to this event.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Carries packets until told to stop, or until a device is gone. `queues[0]` leads from `ends[0]` to `ends[1]`.
fn carry(mut ends: [File; 2], mut queues: [Queue; 2], stop: &OwnedFd) {
    // Both only make the link more exact.
    let _ = threads::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS));
    let _ = rustix::process::setpriority_process(Some(threads::gettid()), NICENESS);
    let start = Instant::now();
    let now_ns = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    loop {
        let timeout = queues.iter().filter_map(Queue::next_ns).min().map(|next_ns| {
            let left_ns = next_ns.saturating_sub(now_ns());
            // Both are below the limits of their types: seconds of a u64 of nanoseconds, and a remainder.
            Timespec { tv_sec: (left_ns / 1_000_000_000) as i64, tv_nsec: (left_ns % 1_000_000_000) as _ }
        });
        let ready = {
            let mut polled = [
                PollFd::new(&ends[0], PollFlags::IN),
                PollFd::new(&ends[1], PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(_) => polled.each_ref().map(PollFd::revents),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
        };
        if !ready[2].is_empty() {
            return;
        }
        for side in 0..2 {
            if !ready[side].is_empty() && read_batch(&mut ends[side], &mut queues[side], &mut buffer, now_ns()).is_err()
            {
                return;
            }
        }
        let now = now_ns();
        for (queue, end) in queues.iter_mut().zip(ends.iter_mut().rev()) {
            while let Some(packet) = queue.take(now) {
                // A packet that the other end refuses is lost, as on a wire.
                drop(end.write(&packet));
            }
        }
    }
}

/// Reads what waits at one end.
fn read_batch(end: &mut File, queue: &mut Queue, buffer: &mut [u8], now_ns: u64) -> std::io::Result<()> {
    for _ in 0..BATCH {
        match end.read(buffer) {
            Ok(length) => {
                let packet = &buffer[..length];
                queue.offer(now_ns, packet, wire_bytes(packet));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many bytes a packet is on the line: one of several TCP segments has its headers before each.
/// `packet` starts with a `virtio_net_hdr` (virtio 1.2, section 5.1.6): flags, kind, and four u16, of which the second is
/// the length of a segment's data and the third where the TCP header starts.
fn wire_bytes(packet: &[u8]) -> u64 {
    let field = |at: usize| packet.get(at..at + 2).map(|two| usize::from(u16::from_ne_bytes([two[0], two[1]])));
    let whole = packet.len().saturating_sub(HEADER_BYTES);
    let segmented = || {
        let kind = *packet.get(1)?;
        let (data, tcp) = (field(4)?, field(6)?);
        // The upper half of byte 12 of a TCP header is its length in words.
        let headers = tcp + usize::from(packet.get(HEADER_BYTES + tcp + 12)? >> 4) * 4;
        (kind != 0 && data > 0 && headers < whole).then(|| {
            let segments = (whole - headers).div_ceil(data);
            whole + (segments - 1) * headers
        })
    };
    segmented().unwrap_or(whole) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_of_many_segments_counts_the_headers_of_each() {
        let packet = |kind: u8, data: u16, payload: usize| {
            let mut packet = vec![0; HEADER_BYTES + 20 + 32 + payload];
            packet[1] = kind;
            packet[4..6].copy_from_slice(&data.to_ne_bytes());
            packet[6..8].copy_from_slice(&20u16.to_ne_bytes());
            packet[HEADER_BYTES + 20 + 12] = 8 << 4;
            packet
        };
        assert_eq!(wire_bytes(&packet(0, 0, 1448)), 1500);
        assert_eq!(wire_bytes(&packet(1, 1448, 4 * 1448)), 4 * 1500);
        assert_eq!(wire_bytes(&packet(1, 1448, 4 * 1448 + 1)), 4 * 1500 + 53);
        assert_eq!(wire_bytes(&packet(1, 1448, 0)), 52, "no data: nothing to divide");
        assert_eq!(wire_bytes(&[1; 3]), 0);
    }
}
