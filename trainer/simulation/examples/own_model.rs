//! A model of one's own, without any library: softmax regression on the digits, among clients of few classes each.
//!
//! ```text
//! cargo run --release -p swarmloom-simulation --example own_model
//! ```
//!
//! [`Model`] says what a model is, [`Worker`] computes with it on one thread. All that a simulation does beside - timeline,
//! strategies, robust means, privacy - works with any.

use std::error::Error;

use swarmloom_classifiers::local::shuffled;
use swarmloom_classifiers::{
    ClassifierError, Inversion, Inverted, LocalSpec, Model, Recovered, Repeated, Samples, Trained, Worker, check,
};
use swarmloom_federated::{Combine, Rule};
use swarmloom_kernels::random;
use swarmloom_population::{Mode, Over, Partition, Selection, Spec};
use swarmloom_simulation::{Course, Data, Entry, Setup, Threads};

/// Logits are `weights x + bias`: the flat vector has `weights`, `[classes, features]`, then `bias`, `[classes]`.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    features: usize,
    classes: usize,
}

impl Softmax {
    /// Probabilities of the classes, `[classes]`.
    fn probabilities(&self, parameters: &[f32], sample: &[f32]) -> Vec<f32> {
        let (weights, bias) = parameters.split_at(self.classes * self.features);
        let logit = |(row, bias): (&[f32], &f32)| row.iter().zip(sample).map(|(w, x)| w * x).sum::<f32>() + bias;
        let logits: Vec<f32> = weights.chunks_exact(self.features).zip(bias).map(logit).collect();
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
        let sum: f32 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }
}

impl Model for Softmax {
    fn name(&self) -> &str {
        "softmax regression"
    }

    fn parameters(&self) -> usize {
        self.classes * (self.features + 1)
    }

    fn features(&self) -> usize {
        self.features
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn init(&self, _seed: u64) -> Result<Vec<f32>, ClassifierError> {
        // Convex: where it begins does not matter.
        Ok(vec![0.0; Model::parameters(self)])
    }

    fn worker(&self) -> Result<Box<dyn Worker + '_>, ClassifierError> {
        Ok(Box::new(*self))
    }
}

impl Worker for Softmax {
    /// Momentum is left out; everything else that `spec` says is done.
    fn train(
        &mut self,
        from: &[f32],
        samples: Samples<'_>,
        spec: &LocalSpec,
        correction: Option<&[f32]>,
        seed: u64,
    ) -> Result<Trained, ClassifierError> {
        check("the parameters", from.len(), Model::parameters(self))?;
        check("the features", samples.features.len(), samples.len() * self.features)?;
        let (mut now, mut steps, mut losses) = (from.to_vec(), 0, 0.0);
        let size = if spec.batch_size == 0 { samples.len().max(1) } else { spec.batch_size };
        'epochs: for epoch in 0..spec.epochs {
            for batch in shuffled(samples.len(), random::bits(seed, epoch.into())).chunks(size) {
                if spec.stop_after == Some(steps) {
                    break 'epochs;
                }
                let mut gradient = correction.map_or_else(|| vec![0.0; now.len()], <[f32]>::to_vec);
                for (slope, (now, from)) in gradient.iter_mut().zip(now.iter().zip(from)) {
                    *slope += spec.proximal as f32 * (now - from);
                }
                let (of_weights, of_bias) = gradient.split_at_mut(self.classes * self.features);
                for at in batch {
                    let sample = &samples.features[at * self.features..][..self.features];
                    let label = usize::from(samples.labels[*at]);
                    let probabilities = self.probabilities(&now, sample);
                    losses -= f64::from(probabilities[label].ln()) / batch.len() as f64;
                    let rows = of_weights.chunks_exact_mut(self.features).zip(of_bias.iter_mut());
                    for (class, ((row, bias), probability)) in rows.zip(probabilities).enumerate() {
                        // The gradient of the cross-entropy by a logit.
                        let slope = (probability - f32::from(u8::from(class == label))) / batch.len() as f32;
                        row.iter_mut().zip(sample).for_each(|(weight, x)| *weight += slope * x);
                        *bias += slope;
                    }
                }
                now.iter_mut().zip(&gradient).for_each(|(value, slope)| *value -= spec.learning_rate as f32 * slope);
                steps += 1;
            }
        }
        let delta = now.iter().zip(from).map(|(now, from)| now - from).collect();
        Ok(Trained { delta, steps, loss: (losses / f64::from(steps.max(1))) as f32 })
    }

    fn score(&mut self, parameters: &[f32], samples: Samples<'_>) -> Result<Vec<[u32; 2]>, ClassifierError> {
        let mut counts = vec![[0; 2]; self.classes];
        for (sample, label) in samples.features.chunks_exact(self.features).zip(samples.labels) {
            let probabilities = self.probabilities(parameters, sample);
            let best = (0..self.classes).max_by(|one, other| probabilities[*one].total_cmp(&probabilities[*other]));
            let [right, all] = &mut counts[usize::from(*label)];
            *right += u32::from(best == Some(usize::from(*label)));
            *all += 1;
        }
        Ok(counts)
    }

    /// Only strategies with `Rule::Inversion` call this and `retrain`: see `swarmloom_classifiers::Unroll` for what they take.
    fn invert(
        &mut self,
        _from: &[f32],
        _delta: &[f32],
        _training: Repeated,
        _spec: &Inversion,
        _before: Option<&Recovered>,
        _seed: u64,
    ) -> Result<Inverted, ClassifierError> {
        Err(ClassifierError::Value { what: "inversion", why: "this model has none".into() })
    }

    fn retrain(
        &mut self,
        _from: &[f32],
        _data: &Recovered,
        _training: Repeated,
        _steps: u32,
    ) -> Result<Vec<f32>, ClassifierError> {
        Err(ClassifierError::Value { what: "inversion", why: "this model has none".into() })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let split = swarmloom_datasets::digits();
    let data = Data {
        features: split.train.features.into(),
        labels: split.train.labels.into(),
        shape: split.train.shape,
        classes: split.train.classes,
        test_features: split.test.features.into(),
        test_labels: split.test.labels.into(),
    };
    let model = Softmax { features: data.width(), classes: data.classes };
    let setup = Setup {
        model: &model,
        data: &data,
        groups: None,
        drift: None,
        partition: Partition::Dirichlet { alpha: 0.1, over: Over::default(), least: 1 },
        samples_per_client: Some(40),
        population: Spec { clients: 30, ..Spec::default() },
        local: LocalSpec { epochs: 5, batch_size: 10, learning_rate: 0.3, ..LocalSpec::default() },
        rounds: 40,
        every: 10,
    };
    for rule in Rule::all().into_iter().filter(|rule| ["fedavg", "scaffold", "fedadam"].contains(&rule.name())) {
        let entry = Entry {
            name: rule.name().into(),
            rule,
            combine: Combine::default(),
            mode: Mode::Synchronous { per_round: 5, over_selection: 0.0, deadline_s: None },
            selection: Selection::default(),
            inversion: Inversion::default(),
            fresh: false,
            attackers: None,
            protection: None,
            compression: None,
            secure: None,
        };
        let record = std::thread::scope(|scope| {
            let executor = Threads::start(scope, 2, &model, &data, None);
            let mut course = Course::new(&setup, entry, 1)?;
            while course.step(&executor)? {}
            Ok::<_, swarmloom_simulation::SimulationError>(course.record().clone())
        })?;
        let accuracies: Vec<String> = record
            .evaluations
            .iter()
            .map(|at| format!("{:.1} % at version {}", 100.0 * at.accuracy(&[]), at.version))
            .collect();
        println!("{:9} {}", record.strategy, accuracies.join(", "));
    }
    Ok(())
}
