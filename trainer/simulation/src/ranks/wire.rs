//! Outcomes as bytes, from rank to rank: numbers little-endian, vectors of `f32` raw, so that every bit arrives.

use swarmloom_classifiers::{Inverted, Model, Recovered, Trained};

use crate::SimulationError;
use crate::executor::{Job, Outcome};
use crate::reveal::Revealed;

/// Longest text of an error, bytes.
const WHY_MOST: usize = 4096;
/// Numbers of fixed length that an outcome has at most, bytes.
const FIXED_MOST: usize = 80;

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
pub(super) fn encode(result: &Result<Outcome, SimulationError>, into: &mut Vec<u8>) {
    match result {
        Ok(Outcome::Trained(Trained { delta, steps, loss })) => {
            into.push(0);
            into.extend(steps.to_le_bytes());
            into.extend(loss.to_le_bytes());
            vector(delta, into);
        }
        Ok(Outcome::Scored(counts)) => {
            into.push(1);
            into.extend((counts.len() as u64).to_le_bytes());
            into.extend(counts.iter().flatten().flat_map(|count| count.to_le_bytes()));
        }
        Ok(Outcome::Inverted { found, delta, revealed, seconds }) => {
            into.push(2);
            into.extend(found.iterations.to_le_bytes());
            into.extend([found.difference, found.cosine, found.norm].into_iter().flat_map(f32::to_le_bytes));
            let Revealed { labels, classified, nearness } = revealed;
            into.extend([*labels, *classified, *nearness, *seconds].into_iter().flat_map(f64::to_le_bytes));
            vector(&found.data.features, into);
            vector(&found.data.labels, into);
            vector(delta, into);
        }
        Err(error) => {
            let why = error.to_string();
            let end = (0..=why.len().min(WHY_MOST)).rev().find(|end| why.is_char_boundary(*end)).unwrap_or(0);
            into.push(3);
            into.extend((end as u64).to_le_bytes());
            into.extend(&why.as_bytes()[..end]);
        }
    }
}

fn vector(values: &[f32], into: &mut Vec<u8>) {
    into.extend((values.len() as u64).to_le_bytes());
    into.extend(values.iter().flat_map(|value| value.to_le_bytes()));
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

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A number of elements.
    pub(super) fn count(&mut self) -> Option<usize> {
        u64::from_le_bytes(self.array()?).try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    fn f32(&mut self) -> Option<f32> {
        Some(f32::from_le_bytes(self.array()?))
    }

    fn f64(&mut self) -> Option<f64> {
        Some(f64::from_le_bytes(self.array()?))
    }

    fn vector(&mut self) -> Option<Vec<f32>> {
        let bytes = self.count()?.checked_mul(4)?;
        let values = self.take(bytes)?.as_chunks::<4>().0;
        Some(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    /// What came of `job`, or why nothing did; `None` where the bytes say neither.
    pub(super) fn outcome(&mut self, job: &Job) -> Option<Result<Outcome, String>> {
        let [kind] = self.array()?;
        let outcome = match (kind, job) {
            (0, Job::Train { from, .. }) => {
                let (steps, loss, delta) = (self.u32()?, self.f32()?, self.vector()?);
                (delta.len() == from.len()).then_some(Outcome::Trained(Trained { delta, steps, loss }))?
            }
            (1, Job::Score { .. }) => {
                let bytes = self.count()?.checked_mul(8)?;
                let counts = self.take(bytes)?.as_chunks::<4>().0.as_chunks::<2>().0;
                Outcome::Scored(counts.iter().map(|pair| pair.map(u32::from_le_bytes)).collect())
            }
            (2, Job::Invert { now, .. }) => {
                let (iterations, difference, cosine, norm) = (self.u32()?, self.f32()?, self.f32()?, self.f32()?);
                let revealed = Revealed { labels: self.f64()?, classified: self.f64()?, nearness: self.f64()? };
                let seconds = self.f64()?;
                let data = Recovered { features: self.vector()?, labels: self.vector()? };
                let found = Inverted { data, iterations, difference, cosine, norm };
                let delta = self.vector()?;
                (delta.len() == now.len()).then_some(Outcome::Inverted { found, delta, revealed, seconds })?
            }
            (3, _) => {
                let bytes = self.count().filter(|bytes| *bytes <= WHY_MOST)?;
                return Some(Err(std::str::from_utf8(self.take(bytes)?).ok()?.to_owned()));
            }
            _ => return None,
        };
        Some(Ok(outcome))
    }
}

/// A number that differs where ranks have come to different jobs: of their kinds, seeds and versions, and of some of the
/// parameters that they begin with (FNV-1a).
pub(super) fn fingerprint<'a>(jobs: impl Iterator<Item = &'a Job>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |number: u64| hash = (hash ^ number).wrapping_mul(0x0100_0000_01b3);
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

    use swarmloom_classifiers::{ClassifierError, Inversion, LocalSpec, Network, Repeated};

    use super::*;

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
        encode(result, &mut bytes);
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
        for bytes in [&[9][..], &[1, 255, 255, 255, 255, 255, 255, 255, 255], &[3, 1, 0, 0, 0, 0, 0, 0, 0, 0xff]] {
            assert!(jobs.iter().all(|job| Reader(bytes).outcome(job).is_none()), "{bytes:?}");
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
