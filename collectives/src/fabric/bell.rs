//! A counter in shared memory that one process raises and another waits for, spinning first and sleeping then.
//!
//! The raiser stores the new value (release) and wakes the waiter if it says that it sleeps. Between its store and its
//! look at that flag it needs no fence: the waiter, who sleeps seldom, pays for both sides with `membarrier`, which makes
//! every running thread of every registered process pass a full fence. So either the raiser sees the flag, or the waiter
//! sees the value.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustix::thread::{MembarrierCommand, futex, membarrier, sched_yield};

use super::bell_core::{Asleep, Bell, Sleeper};
use crate::fault::Fault;
use crate::patience::{Patience, Rest, Wait};
use crate::plan::Rank;

/// Whether this system has the fence on all sides; made known to the kernel on the first call, which every process of a
/// group makes when it joins.
pub(crate) fn register() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok())
}

/// Without the fence a wake can be missed: the sleep is short then.
const SHORT_SLEEP: Duration = Duration::from_micros(100);

#[derive(Debug)]
struct Futex;

impl Sleeper<AtomicU64> for Futex {
    fn fence(&self) -> bool {
        register() && membarrier(MembarrierCommand::GlobalExpedited).is_ok()
    }

    fn sleep(&self, bell: &Bell, seen: u64, at_most: Duration) {
        let time = futex::Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
        // Woken, changed meanwhile, interrupted or timed out: the caller looks again in any case.
        let _ = futex::wait(bell.low_half(), futex::Flags::empty(), seen as u32, Some(&time));
    }

    fn wake(&self, bell: &Bell) {
        // Whoever sleeps wakes by itself soon if this fails.
        let _ = futex::wake(bell.low_half(), futex::Flags::empty(), 1);
    }
}

/// Raises `bell` to `value`, which is above all values before.
#[inline]
pub(crate) fn raise(bell: &Bell, value: u64, asleep: &Asleep) {
    bell.raise(value, asleep, &Futex);
}

/// Waits until `bell` is at `value` or above; `look` is asked for other reasons to end between looks. `beside` is called
/// with each look: it may touch what will be read next, so that it comes over at the same time.
#[inline]
pub(crate) fn wait(
    (bell, asleep): (&Bell, &Asleep),
    value: u64,
    peer: Rank,
    patience: &mut Patience<'_>,
    mut look: impl FnMut() -> Result<(), Fault>,
    beside: impl Fn(),
) -> Result<u64, Fault> {
    for _ in 0..patience.spins() {
        beside();
        let seen = bell.value();
        if seen >= value {
            return Ok(seen);
        }
        std::hint::spin_loop();
    }
    wait_longer((bell, asleep), value, peer, patience, &mut look)
}

#[cold]
fn wait_longer(
    (bell, asleep): (&Bell, &Asleep),
    value: u64,
    peer: Rank,
    patience: &mut Patience<'_>,
    look: &mut dyn FnMut() -> Result<(), Fault>,
) -> Result<u64, Fault> {
    let mut wait = Wait::on(peer);
    loop {
        let rest = patience.rest(&mut wait);
        // What is there already counts, whatever else has happened.
        let seen = bell.value();
        if seen >= value {
            return Ok(seen);
        }
        look()?;
        match rest? {
            Rest::Spin => {}
            Rest::Yield => sched_yield(),
            Rest::Sleep(at_most) => bell.sleep(value, (at_most, SHORT_SLEEP), asleep, &Futex),
        }
        for _ in 0..patience.spins() {
            let seen = bell.value();
            if seen >= value {
                return Ok(seen);
            }
            std::hint::spin_loop();
        }
    }
}
