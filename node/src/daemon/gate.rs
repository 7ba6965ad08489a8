//! How the daemon tells the training thread to wait or to end: flags that the thread looks at between steps.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What keeps the thread from its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// A person paused it.
    Paused,
    /// The data folder is over its limit.
    Full,
}

/// Shared between the daemon and its training thread.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    paused: bool,
    full: bool,
    stopped: bool,
}

impl State {
    /// Why the thread is to wait, a person's word first; `None` where it may go on or must end.
    fn closed(self) -> Option<Closed> {
        match self {
            Self { stopped: true, .. } => None,
            Self { paused: true, .. } => Some(Closed::Paused),
            Self { full: true, .. } => Some(Closed::Full),
            _ => None,
        }
    }
}

impl Gate {
    /// Lets the thread wait at its next look, or go on.
    pub(crate) fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.changed.notify_all();
    }

    /// Says whether there is no room left on disk: the thread waits at its next look, and sharing takes nothing in.
    pub(crate) fn fill(&self, full: bool) {
        self.lock().full = full;
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

    /// Whether there is no room left on disk.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Called by the thread between steps: waits while closed, telling `waiting` of each reason once; false where it is
    /// to end.
    pub(crate) fn pass(&self, mut waiting: impl FnMut(Closed)) -> bool {
        let mut told = None;
        let mut state = self.lock();
        // A person's word or room on the disk ends this wait, and `stop` always comes through.
        while let Some(closed) = state.closed() {
            if told == Some(closed) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                drop(state);
                waiting(closed);
                told = Some(closed);
                state = self.lock();
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
        assert!(gate.pass(|_| panic!("it is open")));
        gate.pause(true);
        let (said, told) = sync_channel(4);
        let thread = std::thread::spawn({
            let gate = gate.clone();
            move || {
                let first = gate.pass(|closed| said.send(closed).expect("a listener"));
                gate.pause(true);
                let second = gate.pass(|closed| said.send(closed).expect("a listener"));
                (first, second)
            }
        });
        assert_eq!(told.recv(), Ok(Closed::Paused));
        gate.fill(true);
        gate.pause(false);
        assert_eq!(told.recv(), Ok(Closed::Full));
        gate.fill(false);
        assert_eq!(told.recv(), Ok(Closed::Paused));
        gate.stop();
        assert_eq!(thread.join().expect("no panic"), (true, false));
    }
}
