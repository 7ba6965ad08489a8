//! Outcomes as bytes, from rank to rank: bincode with numbers of fixed length, so that every bit arrives and a job says how
//! long its outcome can be.

use bincode::config::{Configuration, Fixint, LittleEndian};
use swarmloom_classifiers::Model;

use crate::SimulationError;
use crate::executor::{Job, Outcome};
use crate::fnv;

/// Longest text of an error, bytes.
const WHY_MOST: usize = 4096;
/// Everything of an outcome but its vectors, bytes at most.
const FIXED_MOST: usize = 128;

const CONFIG: Configuration<LittleEndian, Fixint> = bincode::config::standard().with_fixed_int_encoding();

/// Bytes that the outcome of a job has at most.
pub(super) fn most(job: &Job, model: &dyn Model) -> usize {
    let values = match job {
        Job::Train { from, .. } => from.len(),
        Job::Score { .. } => 2 * model.classes(),
        Job::Invert { now, spec, .. } => now.len() + spec.samples * (model.features() + model.classes()),
    };
    FIXED_MOST + (4 * values).max(WHY_MOST)
}

/// Appends what came of a job.
///
/// # Errors
/// [`SimulationError::State`] where it has no bytes, which is so of no outcome.
pub(super) fn encode(result: &Result<Outcome, SimulationError>, into: &mut Vec<u8>) -> Result<(), SimulationError> {
    let said = result.as_ref().map_err(|error| {
        let mut why = error.to_string();
        let end = (0..=why.len().min(WHY_MOST)).rev().find(|end| why.is_char_boundary(*end));
        why.truncate(end.unwrap_or(0));
        why
    });
    let bytes =
        bincode::serde::encode_to_vec(said, CONFIG).map_err(|error| SimulationError::State(error.to_string()))?;
    into.extend(bytes);
    Ok(())
}

/// What one rank has sent, as far as it has not been read.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next so many bytes; `None` where there are fewer.
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of elements.
    pub(super) fn count(&mut self) -> Option<usize> {
        u64::from_le_bytes(self.take(8)?.try_into().ok()?).try_into().ok()
    }

    /// What came of `job`, or why nothing did; `None` where the bytes say neither.
    pub(super) fn outcome(&mut self, job: &Job) -> Option<Result<Outcome, String>> {
        // What is set aside for a vector before it is read is bounded by serde, the rest by the bytes that there are.
        let (said, read) = bincode::serde::decode_from_slice::<Result<Outcome, String>, _>(self.0, CONFIG).ok()?;
        self.take(read)?;
        let fits = match (&said, job) {
            (Ok(Outcome::Trained(trained)), Job::Train { from, .. }) => trained.delta.len() == from.len(),
            (Ok(Outcome::Scored(_)), Job::Score { .. }) => true,
            (Ok(Outcome::Inverted { delta, .. }), Job::Invert { now, .. }) => delta.len() == now.len(),
            (Ok(_), _) => false,
            (Err(why), _) => why.len() <= WHY_MOST,
        };
        fits.then_some(said)
    }
}

/// A number that differs where ranks have come to different jobs: of their kinds, seeds and versions, and of some of the
/// parameters that they begin with (FNV-1a).
pub(super) fn fingerprint<'a>(jobs: impl Iterator<Item = &'a Job>) -> u64 {
    let mut hash = fnv::BASIS;
    let mut add = |number: u64| hash = fnv::mixed(hash, number);
    for job in jobs {
        let (numbers, values) = match job {
            Job::Train { from, indices, version, seed, .. } => ([0, *seed, *version, indices.len() as u64], from),
            Job::Score { parameters, range: [first, last] } => ([1, *first as u64, *last as u64, 0], parameters),
            Job::Invert { delta, seed, version, indices, .. } => ([2, *seed, *version, indices.len() as u64], delta),
        };
        numbers.into_iter().for_each(&mut add);
        let stride = (values.len() / 16).max(1);
        values.iter().step_by(stride).for_each(|value| add(u64::from(value.to_bits())));
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use swarmloom_classifiers::{
        ClassifierError, Inversion, Inverted, LocalSpec, Network, Recovered, Repeated, Trained,
    };

    use super::*;
    use crate::reveal::Revealed;

    fn jobs() -> [Job; 3] {
        let parameters: Arc<[f32]> = vec![0.5; 3].into();
        let indices: Arc<[u32]> = vec![1, 2].into();
        [
            Job::Train {
                from: parameters.clone(),
                indices: indices.clone(),
                version: 4,
                spec: LocalSpec::default(),
                correction: None,
                seed: 7,
                attack: None,
            },
            Job::Score { parameters: parameters.clone(), range: [0, 9] },
            Job::Invert {
                from: parameters.clone(),
                delta: parameters.clone(),
                now: parameters,
                training: Repeated { steps: 2, learning_rate: 0.1 },
                spec: Inversion { samples: 2, ..Inversion::default() },
                before: None,
                seed: 8,
                indices,
                version: 3,
            },
        ]
    }

    fn outcomes() -> [Outcome; 3] {
        let delta = vec![f32::MIN_POSITIVE / 2.0, -0.0, f32::from_bits(0x7fc0_1234)];
        let data = Recovered { features: vec![0.25; 8], labels: vec![-1.5; 4] };
        [
            Outcome::Trained(Trained { delta: delta.clone(), steps: 9, loss: 0.125 }),
            Outcome::Scored(vec![[3, 4], [0, u32::MAX]]),
            Outcome::Inverted {
                found: Inverted { data, iterations: 5, difference: 0.5, cosine: 0.75, norm: 1.5 },
                delta,
                revealed: Revealed { labels: 0.1, classified: 0.2, nearness: 0.3 },
                seconds: 4.5,
            },
        ]
    }

    fn encoded(result: &Result<Outcome, SimulationError>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(result, &mut bytes).expect("bytes");
        bytes
    }

    #[test]
    fn every_bit_arrives() {
        let network = Network::mlp(4, &[], 2);
        for (job, outcome) in jobs().iter().zip(outcomes()) {
            let bytes = encoded(&Ok(outcome.clone()));
            assert!(bytes.len() <= most(job, &network));
            let mut reader = Reader(&bytes);
            let found = reader.outcome(job).expect("an outcome").expect("no error");
            // NaN is not itself: the bits are compared.
            assert_eq!((encoded(&Ok(found)), reader.0.len()), (bytes, 0));
        }
        let why = "é".repeat(WHY_MOST);
        let error = ClassifierError::Library { library: "the model", why: why.clone() };
        let bytes = encoded(&Err(error.into()));
        assert!(bytes.len() <= most(&jobs()[1], &network));
        let found = Reader(&bytes).outcome(&jobs()[0]).expect("an answer").expect_err("an error");
        assert!(found.starts_with("the model: éé") && found.len() > WHY_MOST - 2, "{}", found.len());
    }

    #[test]
    fn what_is_no_outcome_of_the_job_is_refused() {
        let (jobs, outcomes) = (jobs(), outcomes());
        for (at, outcome) in outcomes.iter().enumerate() {
            let bytes = encoded(&Ok(outcome.clone()));
            for end in 0..bytes.len() {
                assert!(Reader(&bytes[..end]).outcome(&jobs[at]).is_none(), "{at} {end}");
            }
            for (other, job) in jobs.iter().enumerate().filter(|(other, _)| *other != at) {
                assert!(Reader(&bytes).outcome(job).is_none(), "{at} {other}");
            }
        }
        let short = Outcome::Trained(Trained { delta: vec![0.0; 2], steps: 1, loss: 0.0 });
        assert!(Reader(&encoded(&Ok(short))).outcome(&jobs[0]).is_none());
        // A vector longer than there are bytes, an outcome that there is none of, a text that is none.
        let long = [0_u32, 1].map(u32::to_le_bytes).concat();
        let none = [0_u32, 9].map(u32::to_le_bytes).concat();
        let text = [1_u32, 1, 0, 0xff].map(u32::to_le_bytes).concat();
        for bytes in [[&long[..], &[0xff; 8]].concat(), none, text, vec![9]] {
            assert!(jobs.iter().all(|job| Reader(&bytes).outcome(job).is_none()), "{bytes:?}");
        }
    }

    #[test]
    fn fingerprints_tell_jobs_apart() {
        let jobs = jobs();
        let of = |jobs: &[Job]| fingerprint(jobs.iter());
        assert_eq!(of(&jobs), of(&jobs.clone()));
        let mut other = jobs.clone();
        if let Job::Train { from, .. } = &mut other[0] {
            *from = vec![0.5, 0.5, 0.500_000_06].into();
        }
        assert!(of(&jobs) != of(&other) && of(&jobs) != of(&jobs[..2]) && of(&jobs[..1]) != of(&jobs[1..2]));
    }
}
