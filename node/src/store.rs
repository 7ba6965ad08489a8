//! The embedded store: peers, scores, replay buffer and run state, behind one type and one thread.
//!
//! Writes go through a bounded queue to a thread of their own, because making them durable blocks. Writes that
//! wait together are made durable together. A write has happened once its receipt says so: whoever
//! acknowledges a group waits for that first.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

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
    /// Opens the store, making it where there is none. A store too damaged to open is moved aside, never
    /// deleted: the second value is where it went.
    ///
    /// # Errors
    /// Where even a new one cannot be made.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<PathBuf>), StoreError> {
        match Self::open_database(path) {
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
        // Flushing is ours: an acknowledgement waits for it, and nothing else needs it.
        let database = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
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
        let (store, moved) = Store::open(&path).expect("open");
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
        let (store, _) = Store::open(&path).expect("open again");
        assert_eq!(store.entries(Table::Groups).expect("entries"), [(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(store.get(Table::State, b"a").expect("a value"), Some(b"x".to_vec()));
        assert_eq!(store.get(Table::Own, b"a").expect("no value"), None);
    }

    #[test]
    fn a_damaged_store_is_moved_aside_and_the_peer_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        drop(Store::open(&path).expect("open"));
        std::fs::write(path.join("conf"), b"no configuration at all").expect("damage");
        let (store, moved) = Store::open(&path).expect("a new store");
        let moved = moved.expect("the old one");
        assert!(moved.join("conf").exists());
        assert!(store.entries(Table::Groups).expect("entries").is_empty());
    }
}
