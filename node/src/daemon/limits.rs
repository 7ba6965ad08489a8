//! What this peer may use of its machine, and how that is held.
//!
//! Threads and bandwidth are held where they are used (the trainer, the network). Memory is a limit of the process, so
//! that an allocation beyond it fails and the batch is halved. Disk is divided among those that write; where the folder
//! grows past its limit all the same, training waits and nothing is taken in until there is room (`daemon::watch`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes that each part of the data folder may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskShares {
    /// Events, both files together.
    pub(crate) events_bytes: u64,
    /// Groups of others in the buffer. The store's own overhead makes more of it on disk.
    pub(crate) groups_bytes: u64,
    /// The store's files: beyond it they are written anew at the next start.
    pub(crate) store_bytes: u64,
    /// Checkpoints, all together.
    pub(crate) checkpoints_bytes: u64,
}

/// Divides the disk: an eighth for events, an eighth for groups (of which the store makes up to a quarter), half for
/// checkpoints; the rest is room for what is being written.
pub(crate) fn disk_shares(disk_mib: u64) -> DiskShares {
    let bytes = disk_mib.saturating_mul(1 << 20);
    DiskShares {
        events_bytes: bytes / 8,
        groups_bytes: (bytes / 8).min(256 << 20),
        store_bytes: bytes / 4,
        checkpoints_bytes: bytes / 2,
    }
}

/// Makes allocations beyond `mib` MiB of the process's private memory fail.
///
/// # Errors
/// Where the system refuses; a limit above the one in force is not raised.
pub(crate) fn hold_memory(mib: u64) -> std::io::Result<()> {
    let bytes = mib.saturating_mul(1 << 20);
    let held = getrlimit(Resource::Data);
    let current = held.maximum.map_or(bytes, |maximum| bytes.min(maximum));
    setrlimit(Resource::Data, Rlimit { current: Some(current), maximum: held.maximum }).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::disk_shares;

    #[test]
    fn the_shares_leave_room() {
        for mib in [16, 2048, 1 << 20] {
            let shares = disk_shares(mib);
            let stored = shares.events_bytes + shares.store_bytes + shares.checkpoints_bytes;
            assert!(2 * shares.groups_bytes <= shares.store_bytes);
            assert!(stored <= mib << 20, "{mib}");
            assert!(shares.events_bytes >= 1 << 20);
        }
    }
}
