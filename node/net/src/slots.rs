//! Bounded numbers of exchanges: over all peers, and with each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hands out slots. A clone hands out the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    all: Arc<Semaphore>,
    total: usize,
    per_peer: usize,
    peers: Arc<Mutex<HashMap<PeerId, Arc<Semaphore>>>>,
}

/// One exchange's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    peer: PeerId,
    peers: Arc<Mutex<HashMap<PeerId, Arc<Semaphore>>>>,
    // Dropped by hand, before the map is looked at.
    own: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(total: usize, per_peer: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(total)), total, per_peer, peers: Arc::default() }
    }

    /// Waits for a slot: first for the peer's, so that a slow peer's queue holds up no other. `None` once
    /// [closed](Self::close). May be cancelled at any time.
    pub(crate) async fn wait(&self, peer: PeerId) -> Option<Slot> {
        // A guard from the start: a wait that is cancelled leaves no entry behind.
        let mut guard = Guard { peer, slots: self, own: None };
        guard.own = Some(self.of(peer).acquire_owned().await.ok()?);
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Slot { peer, peers: Arc::clone(&self.peers), own: guard.own.take(), _all: all })
    }

    /// A slot, if one is free.
    pub(crate) fn try_take(&self, peer: PeerId) -> Option<Slot> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let own = self.of(peer).try_acquire_owned().ok()?;
        Some(Slot { peer, peers: Arc::clone(&self.peers), own: Some(own), _all: all })
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> usize {
        self.total.saturating_sub(self.all.available_permits())
    }

    /// Hands out no more.
    pub(crate) fn close(&self) {
        self.all.close();
        for semaphore in self.peers.lock().unwrap_or_else(PoisonError::into_inner).values() {
            semaphore.close();
        }
    }

    fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(peers.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.per_peer))))
    }
}

struct Guard<'a> {
    peer: PeerId,
    slots: &'a Slots,
    own: Option<OwnedSemaphorePermit>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        drop(self.own.take());
        forget_unused(&self.slots.peers, &self.peer);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.own.take());
        forget_unused(&self.peers, &self.peer);
    }
}

/// Removes a peer's semaphore that nobody holds or waits for: the map is as large as the exchanges going on.
fn forget_unused(peers: &Mutex<HashMap<PeerId, Arc<Semaphore>>>, peer: &PeerId) {
    let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
    // Permits and waits hold clones; under the lock nobody can make another.
    if peers.get(peer).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
        peers.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_bounds_hold_and_slots_come_back() {
        let slots = Slots::new(3, 2);
        let (one, other) = (PeerId::random(), PeerId::random());
        let first = slots.try_take(one).expect("free");
        let second = slots.try_take(one).expect("free");
        assert!(slots.try_take(one).is_none(), "two a peer");
        let third = slots.try_take(other).expect("free");
        assert!(slots.try_take(other).is_none(), "three in all");
        assert_eq!(slots.used(), 3);
        drop(first);
        let fourth = slots.wait(one).await.expect("free");
        drop((second, third, fourth));
        assert_eq!(slots.used(), 0);
        assert!(slots.peers.lock().expect("no panic").is_empty(), "peers without exchanges are forgotten");
    }

    #[tokio::test]
    async fn a_cancelled_wait_leaves_nothing() {
        let slots = Slots::new(1, 1);
        let peer = PeerId::random();
        let held = slots.try_take(peer).expect("free");
        let waiting = slots.clone();
        let task = tokio::spawn(async move { waiting.wait(peer).await });
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.is_err());
        drop(held);
        assert!(slots.wait(peer).await.is_some());
        assert!(slots.peers.lock().expect("no panic").is_empty());
    }

    #[tokio::test]
    async fn closing_ends_waits() {
        let slots = Slots::new(1, 1);
        let peer = PeerId::random();
        let _held = slots.try_take(peer).expect("free");
        let waiting = slots.clone();
        let task = tokio::spawn(async move { waiting.wait(peer).await.is_none() });
        tokio::task::yield_now().await;
        slots.close();
        assert!(task.await.expect("no panic"));
    }
}
