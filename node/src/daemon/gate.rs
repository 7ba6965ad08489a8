//! How the daemon tells the training thread to wait or to end: flags that the thread looks at between steps.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Shared between the daemon and its training thread.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    paused: bool,
    stopped: bool,
}

impl Gate {
    /// Lets the thread wait at its next look, or go on.
    pub(crate) fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.changed.notify_all();
    }

    /// Lets the thread end at its next look.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether the thread is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Whether the thread is to wait.
    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Called by the thread between steps: waits while paused, calling `waiting` once before; false where it is to end.
    pub(crate) fn pass(&self, waiting: impl FnOnce()) -> bool {
        let mut state = self.lock();
        if state.paused && !state.stopped {
            drop(state);
            waiting();
            state = self.lock();
            // Only a person's word ends this wait, and `stop` always comes through.
            while state.paused && !state.stopped {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        !state.stopped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_paused_thread_waits_until_it_may_go_on_or_must_end() {
        let gate = Arc::new(Gate::default());
        assert!(gate.pass(|| panic!("it is open")));
        gate.pause(true);
        let (said, told) = sync_channel(4);
        let thread = std::thread::spawn({
            let gate = gate.clone();
            move || {
                let first = gate.pass(|| said.send("waiting").expect("a listener"));
                gate.pause(true);
                let second = gate.pass(|| said.send("again").expect("a listener"));
                (first, second)
            }
        });
        assert_eq!(told.recv(), Ok("waiting"));
        gate.pause(false);
        assert_eq!(told.recv(), Ok("again"));
        gate.stop();
        assert_eq!(thread.join().expect("no panic"), (true, false));
    }
}
