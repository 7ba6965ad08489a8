//! Collectives that do not block: a thread of their own carries them out, one after the other.
//!
//! Every rank submits the same operations in the same order, as it would call them on the [`Group`]. What a job needs moves
//! into it and comes back with its result, so no buffer is ever shared with the thread.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::group::Group;
use crate::patience::Abort;

type Job = Box<dyn FnOnce(&mut Group) + Send>;

/// A group whose operations run on a thread of their own.
pub struct Queue {
    jobs: SyncSender<Job>,
    thread: JoinHandle<Group>,
    abort: Arc<Abort>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("ended", &self.thread.is_finished()).finish_non_exhaustive()
    }
}

/// A result that is to come.
#[derive(Debug)]
pub struct Pending<R>(Receiver<R>);

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PendingError {
    /// Not yet. Ask again.
    #[error("the operation is not done yet")]
    NotYet,
    /// The thread has ended before, in a panic whose message was printed.
    #[error("the queue has ended before this operation")]
    Gone,
}

impl Queue {
    /// Takes the group over. At most `capacity` operations wait; [`Queue::submit`] waits for room beyond that.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn new(mut group: Group, capacity: usize) -> std::io::Result<Self> {
        let (jobs, queued) = sync_channel::<Job>(capacity);
        let abort = group.aborter();
        let thread = std::thread::Builder::new().name("collectives-queue".into()).spawn(move || {
            for job in queued {
                job(&mut group);
            }
            group
        })?;
        Ok(Self { jobs, thread, abort })
    }

    /// Puts an operation behind those before it: `let sum = queue.submit(move |group| { ...; (input, output, done) })`.
    pub fn submit<R: Send + 'static>(&self, job: impl FnOnce(&mut Group) -> R + Send + 'static) -> Pending<R> {
        let (done, result) = sync_channel(1);
        let job = Box::new(move |group: &mut Group| {
            // Whoever asked may have lost interest.
            let _ = done.send(job(group));
        });
        // A thread that is gone drops the job, and with it the sender of its result.
        let _ = self.jobs.send(job);
        Pending(result)
    }

    /// Ends the operation that runs and all that wait, on all ranks.
    pub fn aborter(&self) -> Arc<Abort> {
        self.abort.clone()
    }

    /// Waits for all that was submitted, and gives the group back; `None` where the thread has panicked.
    pub fn finish(self) -> Option<Group> {
        drop(self.jobs);
        self.thread.join().ok()
    }
}

impl<R> Pending<R> {
    /// The result, if it is there within the time.
    ///
    /// # Errors
    /// [`PendingError`].
    pub fn wait(&self, within: Duration) -> Result<R, PendingError> {
        self.0.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => PendingError::NotYet,
            RecvTimeoutError::Disconnected => PendingError::Gone,
        })
    }
}

#[cfg(test)]
mod tests {
    use swarmloom_kernels::reduce::ReduceOp;

    use super::*;
    use crate::GroupConfig;
    use crate::group::tests::with_group;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn operations_run_in_order_while_the_caller_goes_on() {
        with_group(2, &GroupConfig::default(), |group| {
            let rank = group.rank();
            let queue = Queue::new(group, 8).expect("a thread");
            let pending: Vec<_> = (0..50_usize)
                .map(|round| {
                    queue.submit(move |group| {
                        let (input, mut output) = (vec![(rank + round) as f32; 100 + round], vec![0.0; 100 + round]);
                        group.all_reduce(&input, &mut output, ReduceOp::Sum).map(|()| output)
                    })
                })
                .collect();
            for (round, pending) in pending.iter().enumerate() {
                let output = pending.wait(SOON).expect("in time").expect("reduced");
                assert_eq!(output, vec![(2 * round + 1) as f32; 100 + round]);
            }
            let mut group = queue.finish().expect("no panic");
            group.barrier().expect("it still works");
        });
    }

    #[test]
    fn a_panic_in_a_job_ends_the_queue_and_nobody_waits_for_ever() {
        with_group(1, &GroupConfig::default(), |group| {
            let queue = Queue::new(group, 4).expect("a thread");
            let first = queue.submit(|_| panic!("a mistake in the job"));
            let second = queue.submit(|group| group.ranks());
            assert_eq!(first.wait(SOON), Err::<(), _>(PendingError::Gone));
            assert_eq!(second.wait(SOON), Err(PendingError::Gone));
            assert!(queue.finish().is_none());
        });
    }

    #[test]
    fn what_is_not_done_is_not_yet_there_and_an_abort_ends_it() {
        with_group(2, &GroupConfig::default(), |group| {
            if group.rank() == 1 {
                let abort = group.aborter();
                while abort.reason().is_none() {
                    std::thread::yield_now();
                }
                return;
            }
            let queue = Queue::new(group, 1).expect("a thread");
            let pending = queue.submit(|group| group.barrier());
            assert_eq!(pending.wait(Duration::from_millis(30)).map(|_| ()), Err(PendingError::NotYet));
            let why = crate::fault::Fault::Aborted { by: 0, why: "no longer wanted".into() };
            assert!(queue.aborter().raise(why));
            let error = pending.wait(SOON).expect("in time").expect_err("aborted");
            assert!(error.to_string().contains("no longer wanted"), "{error}");
        });
    }
}
