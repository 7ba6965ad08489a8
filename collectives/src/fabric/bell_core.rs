//! The counter itself, apart from the system calls, so that a model checker can try all its orders.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The value's word.
pub(crate) trait Value: Debug {
    fn acquire(&self) -> u64;
    fn release(&self, value: u64);
}

/// The flag's word.
pub(crate) trait Flag: Debug {
    fn get(&self) -> u32;
    fn set(&self, value: u32);
}

impl Value for AtomicU64 {
    #[inline(always)]
    fn acquire(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn release(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
}

impl Flag for AtomicU32 {
    #[inline(always)]
    fn get(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set(&self, value: u32) {
        self.store(value, Ordering::Relaxed);
    }
}

/// A monotone counter with one raiser and one waiter.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Bell<V = AtomicU64>(V);

/// Whether the waiter sleeps, at one of the bells of one raiser. In a line of its own, which changes seldom: the raiser
/// has it at hand, while a counter's line has just been with the waiter and takes its time to come back.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Asleep<F = AtomicU32>(F);

/// The system calls that a sleep takes.
pub(crate) trait Sleeper<V>: Debug {
    /// A full fence on this thread and on every raiser, wherever it is. False where only this thread passed one.
    fn fence(&self) -> bool;
    /// What that fence is to a raiser, between its store and its look: nothing that it has to do itself.
    #[inline(always)]
    fn fenced(&self) {}
    /// Sleeps unless the low half of the value differs from that of `seen`.
    fn sleep(&self, bell: &Bell<V>, seen: u64, at_most: Duration);
    /// Wakes who sleeps at this bell.
    fn wake(&self, bell: &Bell<V>);
}

impl<V: Value> Bell<V> {
    /// What it is at, with everything that was written before it was raised to that.
    #[inline(always)]
    pub(crate) fn value(&self) -> u64 {
        self.0.acquire()
    }

    /// Raises it.
    #[inline(always)]
    pub(crate) fn raise<F: Flag>(&self, value: u64, asleep: &Asleep<F>, sleeper: &impl Sleeper<V>) {
        self.0.release(value);
        sleeper.fenced();
        if asleep.0.get() != 0 {
            sleeper.wake(self);
        }
    }

    /// Sleeps at most so long unless it has reached `value`; at most `unfenced` where the raiser passes no fence.
    pub(crate) fn sleep<F: Flag>(
        &self,
        value: u64,
        (at_most, unfenced): (Duration, Duration),
        asleep: &Asleep<F>,
        sleeper: &impl Sleeper<V>,
    ) {
        asleep.0.set(1);
        let fenced = sleeper.fence();
        let seen = self.value();
        if seen < value {
            sleeper.sleep(self, seen, if fenced { at_most } else { at_most.min(unfenced) });
        }
        asleep.0.set(0);
    }
}

impl Bell {
    /// The four bytes that the kernel compares: the low half of the value.
    pub(crate) fn low_half(&self) -> &AtomicU32 {
        const { assert!(cfg!(target_endian = "little"), "the low half comes first") };
        // SAFETY: the first four bytes of an aligned `AtomicU64` are an aligned `AtomicU32`; only the kernel reads them
        // through it.
        unsafe { &*(&raw const self.0).cast::<AtomicU32>() }
    }
}

#[cfg(test)]
mod tests {
    //! Every order of a raiser and a waiter, by loom. A wake that is missed shows as a deadlock, a value that is seen
    //! without what was written before it as a race.

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{self, fence};
    use loom::sync::{Arc, Condvar, Mutex};

    use super::*;

    type Modelled = Bell<atomic::AtomicU64>;

    impl Value for atomic::AtomicU64 {
        fn acquire(&self) -> u64 {
            self.load(Ordering::Acquire)
        }

        fn release(&self, value: u64) {
            self.store(value, Ordering::Release);
        }
    }

    impl Flag for atomic::AtomicU32 {
        fn get(&self) -> u32 {
            self.load(Ordering::Relaxed)
        }

        fn set(&self, value: u32) {
            self.store(value, Ordering::Relaxed);
        }
    }

    /// The kernel's side: comparing and going to sleep is one step under the lock of the futex's queue.
    #[derive(Debug)]
    struct Kernel {
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Sleeper<atomic::AtomicU64> for Kernel {
        fn fence(&self) -> bool {
            fence(Ordering::SeqCst);
            true
        }

        fn fenced(&self) {
            fence(Ordering::SeqCst);
        }

        fn sleep(&self, bell: &Modelled, seen: u64, _at_most: Duration) {
            let queue = self.queue.lock().expect("no poison");
            if bell.0.acquire() == seen {
                drop(self.woken.wait(queue).expect("no poison"));
            }
        }

        fn wake(&self, _bell: &Modelled) {
            let _queue = self.queue.lock().expect("no poison");
            self.woken.notify_all();
        }
    }

    fn model(raises: u64) {
        loom::model(move || {
            let bell = Arc::new(Bell(atomic::AtomicU64::new(0)));
            let asleep = Arc::new(Asleep(atomic::AtomicU32::new(0)));
            let kernel = Arc::new(Kernel { queue: Mutex::new(()), woken: Condvar::new() });
            let data = Arc::new(UnsafeCell::new(0));
            let raiser = loom::thread::spawn({
                let (bell, asleep, kernel, data) = (bell.clone(), asleep.clone(), kernel.clone(), data.clone());
                move || {
                    // SAFETY: the waiter reads only after the bell has risen to its last value.
                    data.with_mut(|data| unsafe { *data = 7 });
                    for value in 1..=raises {
                        bell.raise(value, &asleep, &*kernel);
                    }
                }
            });
            while bell.value() < raises {
                bell.sleep(raises, (Duration::MAX, Duration::MAX), &asleep, &*kernel);
            }
            // SAFETY: the raiser wrote before it raised, and writes no more.
            assert_eq!(data.with(|data| unsafe { *data }), 7);
            raiser.join().expect("no panic");
        });
    }

    #[test]
    fn no_order_of_raising_and_sleeping_loses_a_wake_or_the_data() {
        model(1);
        model(2);
    }
}
