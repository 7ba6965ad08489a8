//! The counter itself, apart from the system calls, so that its orders can be checked by a model.

use std::fmt::Debug;
use std::time::Duration;

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A monotone counter with one raiser and one waiter, and whether the waiter sleeps.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Bell {
    value: AtomicU64,
    sleeps: AtomicU32,
}

/// The system calls that a sleep takes.
pub(crate) trait Sleeper: Debug {
    /// A full fence on this thread and on whoever may raise. False where only this thread passed one.
    fn fence(&self) -> bool;
    /// Sleeps unless the low half of the value differs from that of `seen`.
    fn sleep(&self, bell: &Bell, seen: u64, at_most: Duration);
    /// Wakes who sleeps.
    fn wake(&self, bell: &Bell);
}

impl Bell {
    /// What it is at, with everything that was written before it was raised to that.
    #[inline(always)]
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Raises it.
    #[inline(always)]
    pub(crate) fn raise(&self, value: u64, sleeper: &impl Sleeper) {
        self.value.store(value, Ordering::Release);
        // The waiter's fence stands between these two where it is needed.
        if self.sleeps.load(Ordering::Relaxed) != 0 {
            sleeper.wake(self);
        }
    }

    /// Sleeps at most so long unless it has reached `value`; at most `unfenced` where the raiser passes no fence.
    pub(crate) fn sleep(&self, value: u64, at_most: Duration, unfenced: Duration, sleeper: &impl Sleeper) {
        self.sleeps.store(1, Ordering::Relaxed);
        let fenced = sleeper.fence();
        let seen = self.value();
        if seen < value {
            sleeper.sleep(self, seen, if fenced { at_most } else { at_most.min(unfenced) });
        }
        self.sleeps.store(0, Ordering::Relaxed);
    }

    /// The four bytes that the kernel compares: the low half of the value.
    #[cfg(not(loom))]
    pub(crate) fn low_half(&self) -> &AtomicU32 {
        const { assert!(cfg!(target_endian = "little"), "the low half comes first") };
        // SAFETY: the first four bytes of an aligned `AtomicU64` are an aligned `AtomicU32`; only the kernel reads them
        // through it.
        unsafe { &*(&raw const self.value).cast::<AtomicU32>() }
    }
}
