//! The daemon's status while it runs: one value that the training thread and the sharing task write, and that `status`,
//! `/metrics` and the demo read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::batch::BatchNumbers;
use super::evaluation::TaskReward;
use super::training::StepSeconds;
use crate::status::{Problem, Status, Waiting};

/// Where the status is kept; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    status: watch::Sender<Status>,
    recent: Arc<Mutex<Recent>>,
}

/// The last steps, for means and rates.
#[derive(Debug, Default)]
struct Recent {
    steps: VecDeque<RecentStep>,
    uses: u64,
    staleness_sum: u64,
}

#[derive(Debug)]
struct RecentStep {
    own: Option<f64>,
    external: Option<f64>,
    completions: usize,
    seconds: f64,
}

/// Steps that means and rates go over.
const RECENT_STEPS: usize = 50;
/// Problems listed; the oldest goes first.
const MAX_PROBLEMS: usize = 16;
/// Classes of the staleness histogram: 0, 1, 2-3, 4-7, …
const STALENESS_CLASSES: usize = 24;

impl Board {
    /// A board that starts with this status.
    pub(crate) fn new(status: Status) -> Self {
        Self { status: watch::Sender::new(status), recent: Arc::default() }
    }

    /// The status now.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// A view that follows the status, and sees the board's end.
    pub(crate) fn follow(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Changes the status.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Says what is waited for, from now on; `None` when it has come.
    pub(crate) fn wait_for(&self, what: Option<&str>) {
        self.update(|status| match (what, &status.waiting) {
            (None, _) => status.waiting = None,
            (Some(what), Some(waiting)) if waiting.what == what => {}
            (Some(what), _) => status.waiting = Some(Waiting { what: what.to_owned(), since_ms: super::now_ms() }),
        });
    }

    /// Lists a problem, unless it is listed already.
    pub(crate) fn problem(&self, what: String, fix: String) {
        self.update(|status| {
            let problem = Problem { what, fix };
            if !status.problems.contains(&problem) {
                if status.problems.len() == MAX_PROBLEMS {
                    status.problems.remove(0);
                }
                status.problems.push(problem);
            }
        });
    }

    /// Takes problems off the list that no longer hold.
    pub(crate) fn solved(&self, is_solved: impl Fn(&Problem) -> bool) {
        self.update(|status| status.problems.retain(|problem| !is_solved(problem)));
    }

    /// Notes a training step.
    pub(crate) fn step(&self, numbers: &BatchNumbers, seconds: &StepSeconds, completions: usize) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.steps.len() == RECENT_STEPS {
            recent.steps.pop_front();
        }
        let StepSeconds { select, generate, score, publish, train, pack } = *seconds;
        recent.steps.push_back(RecentStep {
            own: numbers.own_reward,
            external: numbers.external_reward,
            completions,
            seconds: select + generate + score + publish + train + pack,
        });
        recent.uses += numbers.staleness.values().sum::<u64>();
        recent.staleness_sum += numbers.staleness.iter().map(|(versions, uses)| versions * uses).sum::<u64>();
        let mean = |pick: fn(&RecentStep) -> Option<f64>| {
            let values: Vec<f64> = recent.steps.iter().filter_map(pick).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let (own, others) = (mean(|step| step.own), mean(|step| step.external));
        let took: f64 = recent.steps.iter().map(|step| step.seconds).sum();
        let made: usize = recent.steps.iter().map(|step| step.completions).sum();
        self.update(|status| {
            status.rewards.own = own;
            status.rewards.external = others;
            status.completions_per_s = if took > 0.0 { made as f64 / took } else { 0.0 };
            status.staleness.mean = recent.staleness_sum as f64 / recent.uses.max(1) as f64;
            for (versions, uses) in &numbers.staleness {
                let class = (u64::BITS - versions.leading_zeros()).min(STALENESS_CLASSES as u32 - 1) as usize;
                let histogram = &mut status.staleness.histogram;
                histogram.resize(histogram.len().max(class + 1), 0);
                histogram[class] += uses;
                status.staleness.max = status.staleness.max.max(*versions);
            }
        });
    }

    /// Notes an evaluation.
    pub(crate) fn evaluated(&self, rewards: &BTreeMap<String, TaskReward>) {
        self.update(|status| {
            status.rewards.held_out = rewards.iter().map(|(label, task)| (label.clone(), task.reward)).collect();
            let sum: f64 = rewards.values().map(|task| task.reward).sum();
            status.rewards.held_out_mean = (!rewards.is_empty()).then(|| sum / rewards.len() as f64);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_become_means_rates_and_a_histogram() {
        let board = Board::new(Status::default());
        let seconds = StepSeconds { generate: 0.5, train: 0.5, ..StepSeconds::default() };
        for (own, staleness) in [(0.25, 0), (0.75, 5)] {
            let numbers = BatchNumbers {
                own_reward: Some(own),
                external_reward: None,
                staleness: BTreeMap::from([(staleness, 2)]),
            };
            board.step(&numbers, &seconds, 32);
        }
        let status = board.status();
        assert_eq!((status.rewards.own, status.rewards.external), (Some(0.5), None));
        assert_eq!(status.completions_per_s, 32.0);
        assert_eq!((status.staleness.mean, status.staleness.max), (2.5, 5));
        assert_eq!(status.staleness.histogram, [2, 0, 0, 2]);
    }

    #[test]
    fn problems_are_listed_once_each_and_at_most_so_many() {
        let board = Board::new(Status::default());
        for number in 0..20 {
            board.problem(format!("{number}"), "nothing".into());
            board.problem(format!("{number}"), "nothing".into());
        }
        let whats: Vec<String> = board.status().problems.into_iter().map(|problem| problem.what).collect();
        assert_eq!((whats.len(), whats[0].as_str(), whats[15].as_str()), (MAX_PROBLEMS, "4", "19"));
        board.solved(|problem| problem.what != "7");
        assert_eq!(board.status().problems.len(), 1);
    }

    #[test]
    fn a_wait_keeps_its_beginning() {
        let board = Board::new(Status::default());
        board.wait_for(Some("a"));
        let since = board.status().waiting.expect("waiting").since_ms;
        board.wait_for(Some("a"));
        assert_eq!(board.status().waiting.expect("waiting").since_ms, since);
        board.wait_for(None);
        assert_eq!(board.status().waiting, None);
    }
}
