//! The embedded store: peers, scores, replay buffer and run state, behind one type and one thread.
//!
//! Writes go through a bounded queue to a thread of their own, because making them durable blocks. Writes that
//! wait together are made durable together. A write has happened once its receipt says so: whoever
//! acknowledges a group waits for that first.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::folder::Folder;

/// The store's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Own groups kept for serving, by counter.
    Own,
    /// Groups of others, by id.
    Groups,
    /// Standing of other peers, by key.
    Accounts,
    /// Addresses of other peers, by text.
    Addresses,
    /// Single values: the next counter.
    State,
}

impl Table {
    const ALL: [Self; 5] = [Self::Own, Self::Groups, Self::Accounts, Self::Addresses, Self::State];

    fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Groups => "groups",
            Self::Accounts => "accounts",
            Self::Addresses => "addresses",
            Self::State => "state",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Where.
    pub(crate) table: Table,
    /// Which entry.
    pub(crate) key: Vec<u8>,
    /// Its new value; `None` removes it.
    pub(crate) value: Option<Vec<u8>>,
}

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StoreError {
    /// The database says so.
    #[error("store: {0}")]
    Database(#[from] sled::Error),
    /// The writing thread has ended, or its queue is full.
    #[error("store: {0}")]
    Unavailable(&'static str),
}

/// An entry's key and value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Whether a write became durable.
pub(crate) type Receipt = oneshot::Receiver<Result<(), StoreError>>;

/// An open store.
#[derive(Debug)]
pub(crate) struct Store {
    trees: Vec<sled::Tree>,
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Batches of writes that may wait. One batch is at most one exchange of groups.
const QUEUE: usize = 256;
/// The database's page cache: the replay buffer is in memory anyway.
const CACHE_BYTES: u64 = 8 << 20;

impl Store {
    /// Opens the store, making it where there is none, and written anew where its files have outgrown `max_bytes`. A
    /// store too damaged to open is moved aside, never deleted: the second value is where it went.
    ///
    /// # Errors
    /// Where even a new one cannot be made.
    pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<(Self, Option<PathBuf>), StoreError> {
        match make_smaller(path, max_bytes).and_then(|()| Self::open_database(path)) {
            Ok(store) => Ok((store, None)),
            Err(sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) | sled::Error::Unsupported(_)) => {
                let aside = (1..)
                    .map(|number| path.with_extension(format!("damaged-{number}")))
                    .find(|aside| !aside.exists())
                    .unwrap_or_else(|| path.with_extension("damaged"));
                std::fs::rename(path, &aside).map_err(sled::Error::from)?;
                Ok((Self::open_database(path)?, Some(aside)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn open_database(path: &Path) -> Result<Self, sled::Error> {
        let database = database(path)?;
        let trees = Table::ALL.iter().map(|table| database.open_tree(table.name())).collect::<Result<Vec<_>, _>>()?;
        let (queue, jobs) = sync_channel(QUEUE);
        let owned = trees.clone();
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write_until_closed(&database, &owned, &jobs))
            .map_err(sled::Error::from)?;
        Ok(Self { trees, queue: Some(queue), writer: Some(writer) })
    }

    /// Every entry of a table, in the order of its keys.
    ///
    /// # Errors
    /// Where an entry cannot be read.
    pub(crate) fn entries(&self, table: Table) -> Result<Vec<Pair>, StoreError> {
        let entry = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(StoreError::from)
        };
        self.trees[table as usize].iter().map(entry).collect()
    }

    /// One entry.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.trees[table as usize].get(key)?.map(|value| value.to_vec()))
    }

    /// Queues changes that become durable together. Never blocks: a full queue is an error in the receipt.
    pub(crate) fn write(&self, writes: Vec<Write>) -> Receipt {
        let (done, receipt) = oneshot::channel();
        let refused = match &self.queue {
            None => Some((Job { writes, done }, "it is closed")),
            Some(queue) => match queue.try_send(Job { writes, done }) {
                Ok(()) => None,
                Err(TrySendError::Full(job)) => Some((job, "too many writes wait: the disk is too slow")),
                Err(TrySendError::Disconnected(job)) => Some((job, "its thread has ended")),
            },
        };
        if let Some((job, why)) = refused {
            // Nobody may be waiting for the receipt.
            let _ = job.done.send(Err(StoreError::Unavailable(why)));
        }
        receipt
    }
}

fn database(path: &Path) -> sled::Result<sled::Db> {
    // Flushing is ours: an acknowledgement waits for it, and nothing else needs it.
    sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()
}

/// Writes a store whose files are larger than `max_bytes` anew: a log-structured store keeps room of what was removed.
/// At every moment of it one whole store is on disk, and the next start finds it.
fn make_smaller(path: &Path, max_bytes: u64) -> sled::Result<()> {
    let (new, old) = (path.with_extension("new"), path.with_extension("old"));
    if !path.exists() && old.exists() {
        std::fs::rename(&old, path)?;
    }
    for left in [&new, &old] {
        if left.exists() {
            std::fs::remove_dir_all(left)?;
        }
    }
    if Folder::at(path).bytes() <= max_bytes {
        return Ok(());
    }
    {
        let (from, to) = (database(path)?, database(&new)?);
        for table in Table::ALL {
            let tree = to.open_tree(table.name())?;
            for entry in &from.open_tree(table.name())? {
                let (key, value) = entry?;
                tree.insert(key, value)?;
            }
        }
        to.flush()?;
    }
    std::fs::rename(path, &old)?;
    std::fs::rename(&new, path)?;
    Ok(std::fs::remove_dir_all(&old)?)
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // A panic in the writer has been reported to those who waited for receipts.
            let _ = writer.join();
        }
    }
}

fn write_until_closed(database: &sled::Db, trees: &[sled::Tree], jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        // What has queued up meanwhile shares one flush.
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(QUEUE)).collect();
        let applied: Vec<Result<(), sled::Error>> = batch.iter().map(|job| apply(trees, &job.writes)).collect();
        let flushed = database.flush();
        for (job, applied) in batch.into_iter().zip(applied) {
            let result = match (&applied, &flushed) {
                (Ok(()), Ok(_)) => Ok(()),
                (Err(error), _) | (_, Err(error)) => Err(error.clone().into()),
            };
            // Nobody may be waiting for the receipt.
            let _ = job.done.send(result);
        }
    }
}

fn apply(trees: &[sled::Tree], writes: &[Write]) -> Result<(), sled::Error> {
    for write in writes {
        let tree = &trees[write.table as usize];
        match &write.value {
            Some(value) => tree.insert(&write.key, value.as_slice())?,
            None => tree.remove(&write.key)?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(table: Table, key: &[u8], value: &[u8]) -> Write {
        Write { table, key: key.to_vec(), value: Some(value.to_vec()) }
    }

    #[test]
    fn what_a_receipt_confirms_is_there_after_reopening() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        let (store, moved) = Store::open(&path, u64::MAX).expect("open");
        assert_eq!(moved, None);
        let receipt = store.write(vec![
            put(Table::Groups, b"b", b"2"),
            put(Table::Groups, b"a", b"1"),
            put(Table::State, b"a", b"x"),
        ]);
        receipt.blocking_recv().expect("an answer").expect("written");
        let gone = store.write(vec![Write { table: Table::Groups, key: b"b".to_vec(), value: None }]);
        gone.blocking_recv().expect("an answer").expect("written");
        drop(store);
        let (store, _) = Store::open(&path, u64::MAX).expect("open again");
        assert_eq!(store.entries(Table::Groups).expect("entries"), [(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(store.get(Table::State, b"a").expect("a value"), Some(b"x".to_vec()));
        assert_eq!(store.get(Table::Own, b"a").expect("no value"), None);
    }

    #[test]
    fn a_store_that_outgrew_its_limit_is_written_anew_with_all_that_is_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        let (store, _) = Store::open(&path, u64::MAX).expect("open");
        for round in 0..400_u32 {
            let mut writes: Vec<Write> = (0..8_u32)
                .map(|at| put(Table::Groups, &(round * 8 + at).to_be_bytes(), &[round as u8; 2000]))
                .collect();
            writes.extend((0..8_u32).filter(|_| round > 0).map(|at| Write {
                table: Table::Groups,
                key: ((round - 1) * 8 + at).to_be_bytes().to_vec(),
                value: None,
            }));
            store.write(writes).blocking_recv().expect("an answer").expect("written");
        }
        let before = store.entries(Table::Groups).expect("entries");
        assert_eq!(before.len(), 8);
        drop(store);
        let size = || Folder::at(&path).bytes();
        let grown = size();
        assert!(grown > 1 << 20, "{grown}");
        // A start that was cut off between its two renames is mended first.
        std::fs::rename(&path, path.with_extension("old")).expect("rename");
        let (store, moved) = Store::open(&path, 1 << 19).expect("open");
        assert_eq!(moved, None);
        assert_eq!(store.entries(Table::Groups).expect("entries"), before);
        drop(store);
        assert!(size() < grown / 2, "{} of {grown}", size());
        assert!(!path.with_extension("new").exists() && !path.with_extension("old").exists());
    }

    #[test]
    fn a_damaged_store_is_moved_aside_and_the_peer_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        drop(Store::open(&path, u64::MAX).expect("open"));
        std::fs::write(path.join("conf"), b"no configuration at all").expect("damage");
        let (store, moved) = Store::open(&path, u64::MAX).expect("a new store");
        let moved = moved.expect("the old one");
        assert!(moved.join("conf").exists());
        assert!(store.entries(Table::Groups).expect("entries").is_empty());
    }
}
