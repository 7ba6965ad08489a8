//! How training and sharing meet: a trait for the training side, and the bounded channel that carries it between a thread
//! without async and the sharing task.

use std::time::Duration;

use swarmloom_protocol::buffer::StoredGroup;
use swarmloom_trainer::generate::Completion;
use tokio::sync::{mpsc, oneshot};

/// Where a training step gives its groups and takes others'.
pub(crate) trait Rollouts: std::fmt::Debug + Send {
    /// Groups of others for a step, at most `count`; none where there are none, or sharing has ended.
    fn select(&mut self, count: usize, seed: u64) -> Vec<External>;
    /// Hands own groups over, with the version of the policy that generated them.
    fn publish(&mut self, groups: Vec<NewGroup>, version: u64);
}

/// What the training thread asks of the sharing task.
#[derive(Debug)]
pub(crate) enum FromTraining {
    /// Sign, keep and announce these groups.
    Publish {
        /// The groups.
        groups: Vec<NewGroup>,
        /// The policy's version that generated them.
        version: u64,
    },
    /// Choose groups of others for a step.
    Select {
        /// At most so many.
        count: usize,
        /// Randomness of the choice.
        seed: u64,
        /// Where they go.
        answer: oneshot::Sender<Vec<External>>,
    },
}

/// A group as the training thread hands it over.
#[derive(Debug, Clone)]
pub(crate) struct NewGroup {
    /// The counter that its question follows from.
    pub(crate) counter: u64,
    /// The task's place in the run.
    pub(crate) task: u16,
    /// Seed of the question.
    pub(crate) seed: u64,
    /// Index within the seed.
    pub(crate) index: u64,
    /// Hash of the prompt.
    pub(crate) prompt_hash: [u8; 32],
    /// The completions.
    pub(crate) completions: Vec<Completion>,
}

/// A group of another peer that was chosen for a step.
#[derive(Debug, Clone)]
pub(crate) struct External {
    /// The group with its rewards as scored here.
    pub(crate) stored: StoredGroup,
    /// The prompt, regenerated here.
    pub(crate) prompt: Vec<u8>,
    /// Versions between its policy and its author's newest.
    pub(crate) staleness: u64,
}

/// The training thread's end.
#[derive(Debug)]
pub(crate) struct Link {
    sharing: mpsc::Sender<FromTraining>,
    /// Gives the wait for an answer its deadline.
    clock: tokio::runtime::Runtime,
}

/// Steps whose groups may wait for the disk; training waits when there are more.
const QUEUE: usize = 4;
/// The sharing task answers between two events; this long only if it hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Makes both ends. The training end belongs on a thread outside of any async runtime.
///
/// # Errors
/// Where the system gives no timer.
pub(crate) fn link() -> std::io::Result<(Link, mpsc::Receiver<FromTraining>)> {
    let (sharing, training) = mpsc::channel(QUEUE);
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok((Link { sharing, clock }, training))
}

impl Rollouts for Link {
    fn select(&mut self, count: usize, seed: u64) -> Vec<External> {
        let (answer, answered) = oneshot::channel();
        if count == 0 || self.sharing.blocking_send(FromTraining::Select { count, seed, answer }).is_err() {
            return Vec::new();
        }
        let within = async { tokio::time::timeout(ANSWER_DEADLINE, answered).await };
        self.clock.block_on(within).ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Waits while the queue is full: a slow disk slows its own peer.
    fn publish(&mut self, groups: Vec<NewGroup>, version: u64) {
        // Sharing has ended where nobody takes it: training then ends at its next look at the gate.
        let _ = self.sharing.blocking_send(FromTraining::Publish { groups, version });
    }
}
