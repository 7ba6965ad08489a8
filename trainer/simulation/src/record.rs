//! What a run has measured.

use serde::{Deserialize, Serialize};

use crate::reveal::Revealed;

/// The test set's answers at one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Which version.
    pub version: u64,
    /// When it was made, seconds of virtual time.
    pub seconds: f64,
    /// Bytes from the server to clients until then.
    pub bytes_down: u64,
    /// Bytes from clients to the server until then.
    pub bytes_up: u64,
    /// Right answers and samples by class.
    pub classes: Vec<[u32; 2]>,
    /// Mean training loss of the updates since the last evaluation, natural logarithm; 0 where there were none.
    pub loss: f32,
}

impl Evaluation {
    /// The part of right answers among the samples of these classes, or of all where there are none.
    pub fn accuracy(&self, of: &[u8]) -> f64 {
        let counted = self.classes.iter().enumerate();
        let counted = counted.filter(|(class, _)| of.is_empty() || of.iter().any(|one| usize::from(*one) == *class));
        let (right, all) =
            counted.fold((0_u64, 0_u64), |(right, all), (_, [r, a])| (right + u64::from(*r), all + u64::from(*a)));
        right as f64 / all.max(1) as f64
    }
}

/// What happened to updates, added up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Updates that were aggregated.
    pub updates: u64,
    /// Tasks without a result.
    pub dropped: u64,
    /// Updates that came too late.
    pub late: u64,
    /// Versions that stayed what the ones before them were, for want of updates for a robust rule or a secure sum.
    pub skipped: u64,
    /// How many updates had each staleness, in versions.
    pub staleness: Vec<u64>,
    /// Stale updates that were inverted.
    pub inverted: u64,
    /// Sum over those of the cosine between the update and what the recovered data train to.
    pub cosine: f64,
    /// Sum over those of the length of what the recovered data train to over the update's.
    pub norm: f64,
    /// Sum over those of the steps that were taken.
    pub iterations: u64,
    /// Sums over those of what the recovered data reveal.
    pub revealed: Revealed,
}

/// The longest staleness that is counted apart; what is staler counts here.
const STALEST: usize = 1024;

impl Tally {
    /// Counts an update of this staleness.
    pub fn update(&mut self, staleness: u64) {
        self.updates += 1;
        let at = (staleness as usize).min(STALEST);
        if self.staleness.len() <= at {
            self.staleness.resize(at + 1, 0);
        }
        self.staleness[at] += 1;
    }
}

/// A run: one strategy with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The strategy's name.
    pub strategy: String,
    /// Of the run.
    pub seed: u64,
    /// In the order of versions; the first is of the parameters that nobody has trained.
    pub evaluations: Vec<Evaluation>,
    /// What happened to updates.
    pub tally: Tally,
    /// Seconds of processor time that inversions took, all together: measured, so different from run to run.
    pub inversion_seconds: f64,
    /// The version that was to be made when values were no numbers any more. The run ended there; evaluations from then on
    /// have no right answer.
    pub diverged: Option<u64>,
    /// What was told about any one client, where clients are protected: differential privacy's epsilon.
    pub epsilon: Option<f64>,
}

impl Record {
    /// Accuracy on these classes, or all, after the last round.
    pub fn last(&self, of: &[u8]) -> f64 {
        self.evaluations.last().map_or(0.0, |evaluation| evaluation.accuracy(of))
    }

    /// Accuracy on these classes, or all, averaged over the run's evaluations.
    pub fn averaged(&self, of: &[u8]) -> f64 {
        let sum: f64 = self.evaluations.iter().map(|evaluation| evaluation.accuracy(of)).sum();
        sum / self.evaluations.len().max(1) as f64
    }

    /// What [`Record::averaged`] would be if all of the run came `by` versions later, and nothing were right before: of a run
    /// without staleness, what one with a staleness of `by` can reach at best if the classes are learned from stale
    /// updates alone.
    pub fn averaged_late(&self, of: &[u8], by: u64) -> f64 {
        let late = |evaluation: &Evaluation| {
            let then = evaluation.version.checked_sub(by)?;
            let shown = self.evaluations.iter().rev().find(|shown| shown.version <= then)?;
            Some(shown.accuracy(of))
        };
        // An empty sum of floats is -0.
        self.evaluations.iter().filter_map(late).fold(0.0, |sum, accuracy| sum + accuracy)
            / self.evaluations.len().max(1) as f64
    }

    /// The first evaluation whose accuracy on these classes, or all, reaches `accuracy`.
    pub fn reached(&self, of: &[u8], accuracy: f64) -> Option<&Evaluation> {
        self.evaluations.iter().find(|evaluation| evaluation.accuracy(of) >= accuracy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_by_hand() {
        let evaluation = |version, right: [u32; 2]| Evaluation {
            version,
            seconds: version as f64,
            bytes_down: 0,
            bytes_up: 0,
            classes: right.map(|right| [right, 10]).to_vec(),
            loss: 0.0,
        };
        let record = Record {
            strategy: "x".into(),
            seed: 0,
            evaluations: vec![evaluation(0, [0, 2]), evaluation(5, [8, 4])],
            tally: Tally::default(),
            inversion_seconds: 0.0,
            diverged: None,
            epsilon: None,
        };
        assert_eq!((record.last(&[]), record.last(&[0]), record.last(&[1])), (0.6, 0.8, 0.4));
        assert_eq!((record.averaged(&[]), record.averaged(&[0])), (0.35, 0.4));
        // By 2 versions: nothing at version 0, and at version 5 what version 3 had, which is still that of version 0.
        assert_eq!([2, 6].map(|by| record.averaged_late(&[1], by)), [0.1, 0.0]);
        assert_eq!(record.averaged_late(&[1], 0), record.averaged(&[1]));
        assert_eq!(record.reached(&[0], 0.8).map(|at| at.version), Some(5));
        assert_eq!(record.reached(&[1], 0.5), None);
    }

    #[test]
    fn staleness_is_counted_and_bounded() {
        let mut tally = Tally::default();
        [0, 3, 3, 1 << 40].into_iter().for_each(|staleness| tally.update(staleness));
        assert_eq!((tally.updates, tally.staleness[0], tally.staleness[3], tally.staleness[1024]), (4, 1, 2, 1));
        assert_eq!(tally.staleness.len(), 1025);
    }
}
