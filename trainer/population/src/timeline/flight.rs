//! Tasks that have begun and not ended.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::device::Parts;
use crate::time::Time;

/// A task: a client trains from a version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) number: u64,
    pub(super) client: u32,
    pub(super) base: u64,
    pub(super) start: Time,
    pub(super) end: Time,
    /// Whether it ends with a result.
    pub(super) arrives: bool,
    pub(super) tier: u32,
    pub(super) parts: Parts,
    /// The share of its local steps that it has taken by its end.
    pub(super) share: f64,
}

/// Tasks by when they end; of those that end at one moment the one that began first.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    heap: BinaryHeap<Next>,
    busy: BTreeSet<u32>,
    count: usize,
    /// How many started from each version.
    bases: BTreeMap<u64, u32>,
}

/// A task whose order is that of a queue: the greatest is the next.
#[derive(Debug, Clone, Copy)]
struct Next(Task);

impl Next {
    fn key(&self) -> (Time, u64) {
        (self.0.end, self.0.number)
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Next {}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Tasks that [`land`](Self::land) will yield.
    pub(super) fn queued(&self) -> usize {
        self.heap.len()
    }

    /// Whether a client has work and cannot be given other.
    pub(super) fn busy(&self, client: u32) -> bool {
        self.busy.contains(&client)
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.bases.keys().next().copied()
    }

    /// When the next task ends.
    pub(super) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|next| next.0.end)
    }

    /// A task begins, and its client has work until it ends.
    pub(super) fn begin(&mut self, task: Task) {
        self.hold(&task, true);
        self.heap.push(Next(task));
    }

    /// A task begins that somebody else keeps, until [`release`](Self::release).
    pub(super) fn hold(&mut self, task: &Task, busy: bool) {
        if busy {
            self.busy.insert(task.client);
        }
        self.count += 1;
        *self.bases.entry(task.base).or_default() += 1;
    }

    /// A task that somebody else kept has ended.
    pub(super) fn release(&mut self, task: &Task) {
        self.busy.remove(&task.client);
        self.count = self.count.saturating_sub(1);
        if let Some(count) = self.bases.get_mut(&task.base) {
            *count -= 1;
            if *count == 0 {
                self.bases.remove(&task.base);
            }
        }
    }

    /// Takes the task that ends next.
    pub(super) fn land(&mut self) -> Option<Task> {
        let Next(task) = self.heap.pop()?;
        self.release(&task);
        Some(task)
    }

    /// Gives all tasks up; how many there were.
    pub(super) fn give_up(&mut self) -> u32 {
        let mut count = 0;
        while self.land().is_some() {
            count += 1;
        }
        count
    }

    /// Takes the tasks that started from `base` or before and have something to report, in the order in which they
    /// began. They end `now`, with the share that `report` says.
    pub(super) fn report(&mut self, base: u64, now: Time, report: impl Fn(&Task) -> Option<f64>) -> Vec<Task> {
        if self.oldest().is_none_or(|oldest| oldest > base) {
            return Vec::new();
        }
        let mut reports = Vec::new();
        let mut rest = Vec::with_capacity(self.heap.len());
        for Next(task) in std::mem::take(&mut self.heap) {
            match report(&task).filter(|_| task.base <= base) {
                Some(share) => reports.push(Task { end: now, arrives: true, share, ..task }),
                None => rest.push(Next(task)),
            }
        }
        self.heap = rest.into();
        reports.sort_unstable_by_key(|task| task.number);
        reports.iter().for_each(|task| self.release(task));
        reports
    }
}
