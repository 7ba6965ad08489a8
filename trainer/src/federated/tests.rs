//! The engine of `swarmloom-classifiers` and libtorch against each other, and derivatives against differences.

use swarmloom_classifiers::{Engine, Layer, Network};

use super::*;

fn draw(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|at| scale * random::unit(seed, at as u64) as f32).collect()
}

/// The largest difference relative to the largest entry.
fn apart(one: &[f32], other: &[f32]) -> f32 {
    let largest = other.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn padded() -> Network {
    Network {
        name: "padded".into(),
        input: [2, 8, 8],
        layers: vec![
            Layer::Relu,
            Layer::Convolution { from: 2, to: 5, kernel: 3, padding: 1 },
            Layer::MaxPool,
            Layer::Convolution { from: 5, to: 4, kernel: 3, padding: 1 },
            Layer::Relu,
            Layer::Flatten,
            Layer::Dropout(0.25),
            Layer::Linear { from: 64, to: 3 },
        ],
    }
}

/// Every network, batches that fill tiles of the engine and such that do not, with everything that changes a step.
#[test]
fn the_engine_trains_as_libtorch_does() {
    let networks = [
        Network::mlp(20, &[16, 9], 10),
        Network::lenet5(1, 28, 10),
        Network::lenet5(3, 32, 10),
        Network::reference_cnn(1, 28, 10),
        padded(),
    ];
    for network in networks {
        let features = draw(9, 40 * network.features(), 1.0);
        let labels: Vec<u8> = (0..40).map(|at| (at * 7 % network.classes()) as u8).collect();
        let samples = Samples { features: &features, labels: &labels };
        let from = network.init(3);
        let correction = draw(4, from.len(), 0.01);
        let plain = LocalSpec { epochs: 2, batch_size: 23, learning_rate: 0.05, ..LocalSpec::default() };
        let all = LocalSpec { batch_size: 0, momentum: 0.9, proximal: 0.1, stop_after: Some(2), ..plain };
        let torch = Torch(&network);
        let (mut engine, mut torch) = (Engine::new(&network), torch.worker().expect("a worker"));
        for (spec, correction) in [(plain, None), (all, Some(&correction[..])), (plain, None)] {
            let ours = engine.train(&from, samples, &spec, correction, 5).expect("trained");
            let theirs = torch.train(&from, samples, &spec, correction, 5).expect("trained");
            assert_eq!(ours.steps, theirs.steps);
            assert!((ours.loss - theirs.loss).abs() < 1e-5, "{} {} {}", network.name, ours.loss, theirs.loss);
            let apart = apart(&ours.delta, &theirs.delta);
            assert!(apart < 2e-4, "{} {spec:?}: {apart}", network.name);
        }
        let scored = engine.score(&from, samples).expect("scored");
        assert_eq!(scored, torch.score(&from, samples).expect("scored"));
    }
}

/// Derivatives through five steps by the engine's tangents and by automatic differentiation.
#[test]
fn gradients_through_local_training_are_those_of_libtorch() {
    let networks = [
        (Network::mlp(20, &[16], 10), 21),
        (Network::reference_cnn(1, 28, 10), 5),
        (Network::lenet5(1, 28, 10), 3),
        (padded(), 17),
    ];
    let training = Repeated { steps: 5, learning_rate: 0.3 };
    for (network, samples) in networks {
        let data = Recovered {
            features: draw(1, samples * network.features(), 1.0),
            labels: draw(2, samples * network.classes(), 3.0),
        };
        let from = network.init(3);
        let adjoint: Vec<f32> = draw(4, from.len(), 2.0).iter().map(|value| value - 1.0).collect();
        let mut engine = Engine::new(&network);
        let network = &network;
        let mut autograd = TorchWorker::new(&network).expect("a worker");
        let ours = engine.unroll(&from, &data, training, 5).expect("trained");
        let theirs = autograd.unroll(&from, &data, training, 5).expect("trained");
        assert!(apart(&ours, &theirs) < 1e-4, "{}: {}", network.name, apart(&ours, &theirs));
        let ours = engine.pull_back(&adjoint).expect("ours");
        let theirs = autograd.pull_back(&adjoint).expect("theirs");
        let [features, labels] = [apart(&ours.features, &theirs.features), apart(&ours.labels, &theirs.labels)];
        assert!(features < 1e-3 && labels < 1e-3, "{}: {features} {labels}", network.name);
    }
}
