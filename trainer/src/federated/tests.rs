//! The engine of `swarmloom-classifiers` and libtorch against each other, and derivatives against differences.

use std::path::{Path, PathBuf};

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

/// `scale * sin(step * index)`.
fn wave(count: usize, step: f64, scale: f64) -> Vec<f32> {
    (0..count).map(|at| (scale * (step * at as f64).sin()) as f32).collect()
}

fn dot(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Parameters by formula: waves, around 1 for the weights of normalisations.
fn waves(net: &ResNet) -> Vec<f32> {
    let mut values = wave(net.parameters(), 0.7, 0.1);
    let (mut at, fresh) = (0, net.init(1));
    for shape in net.shapes() {
        let part = at..at + shape.iter().product::<usize>();
        at = part.end;
        if fresh[part.clone()].iter().all(|value| *value == 1.0) {
            values[part].iter_mut().for_each(|value| *value += 1.0);
        }
    }
    values
}

/// Two images by formula.
fn images() -> Vec<f32> {
    (0..2 * 192).map(|at| (0.3 * f64::from(at)).cos() as f32).collect()
}

/// Values of the same networks in PyTorch 2.11, with parameters and images by formula: logits, the loss of labels 3 and 7, and
/// the length of its gradient.
#[test]
fn residual_networks_are_those_that_others_know() {
    let of_eight = [
        -0.04498, -0.09486, -0.08843, -0.03906, 0.01884, 0.05308, 0.05193, 0.02692, 0.00043, -0.01152, -0.05438,
        -0.09821, -0.08362, -0.02913, 0.02762, 0.05515, 0.04598, 0.01671, -0.00758, -0.01228,
    ];
    let of_eighteen = [
        3.91407, 3.116, 2.13518, 1.01023, -0.20955, -1.45554, -2.6385, -3.65756, -4.41737, -4.84752, 3.91886, 3.18163,
        2.2573, 1.18073, -0.002, -1.22472, -2.39975, -3.42672, -4.20979, -4.67698,
    ];
    for (net, parameters, expected, loss, length) in [
        (ResNet::resnet8([3, 8, 8], 10), 78_042, of_eight, 2.30164, 4.06967),
        (ResNet::resnet18([3, 8, 8], 10), 11_173_962, of_eighteen, 5.67225, 67.0991),
    ] {
        assert_eq!(net.parameters(), parameters);
        let (from, features) = (waves(&net), images());
        let mut worker = TorchWorker::new(&net).expect("a worker");
        let logits = logits(&mut worker, &from, &features, 2);
        assert!(logits.iter().zip(expected).all(|(one, other)| (one - other).abs() < 3e-5), "{logits:?}");
        let samples = Samples { features: &features, labels: &[3, 7] };
        let spec = LocalSpec { epochs: 1, learning_rate: 1.0, ..LocalSpec::default() };
        let trained = worker.train(&from, samples, &spec, None, 0).expect("trained");
        let found = dot(&trained.delta, &trained.delta).sqrt();
        assert!((trained.loss - loss).abs() < 3e-5 && (found / length - 1.0).abs() < 1e-4, "{} {found}", trained.loss);
    }
}

fn logits(worker: &mut TorchWorker<'_>, from: &[f32], features: &[f32], samples: usize) -> Vec<f32> {
    worker.write(&Tensor::from_slice(from)).expect("written");
    let x = worker.batch(features, samples).expect("a batch");
    let logits = worker.instance.logits(&worker.leaves, &x, None).expect("logits");
    Vec::<f32>::try_from(logits.reshape([-1])).expect("values")
}

/// Values of PyTorch 2.11 in f64, by one graph through all three steps.
#[test]
fn gradients_through_a_residual_networks_training_are_those_of_pytorch() {
    let net = ResNet::resnet8([3, 8, 8], 10);
    let data = Recovered { features: images(), labels: wave(20, 1.1, 2.0) };
    let (from, adjoint) = (waves(&net), wave(net.parameters(), 0.9, 1.0));
    let mut worker = TorchWorker::new(&net).expect("a worker");
    let delta = worker.unroll(&from, &data, Repeated { steps: 3, learning_rate: 0.05 }, 3).expect("trained");
    let (length, product) = (dot(&delta, &delta).sqrt(), dot(&delta, &adjoint));
    assert!((length - 0.176114).abs() < 1e-5 && (product + 0.048242).abs() < 1e-5, "{length} {product}");
    let found = worker.pull_back(&adjoint).expect("pulled back");
    let by_x = [-0.0046551, -0.0033219, 0.0035463, -0.0036693, -0.0040026, -0.00035744, -0.00023851, 0.00085652];
    let by_y =
        [0.003606, 0.011822, 0.0046437, 0.00103, 0.0004833, 0.00079071, 0.0011038, -0.017572, -0.0064116, 0.00050411];
    let near =
        |found: &[f32], expected: &[f32]| found.iter().zip(expected).all(|(one, other)| (one - other).abs() < 2e-6);
    assert!(near(&found.features, &by_x) && near(&found.labels, &by_y), "{found:?}");
    let lengths = [dot(&found.features, &found.features).sqrt(), dot(&found.labels, &found.labels).sqrt()];
    assert!((lengths[0] - 0.0504692).abs() < 1e-5 && (lengths[1] - 0.0322083).abs() < 1e-5, "{lengths:?}");
    let nothing = worker.pull_back(&adjoint).expect_err("nothing is left").to_string();
    assert!(nothing.contains("nothing was unrolled"), "{nothing}");
}

#[test]
fn fresh_residual_networks_have_the_stated_spread() {
    let net = ResNet::resnet8([3, 32, 32], 10);
    let (one, same, other) = (net.init(1), net.init(1), net.init(2));
    assert!(one == same && one != other);
    // The stem has 27 inputs; the last layer 64, and ten biases.
    let stem = one[..432].iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let last = one[78_042 - 650..].iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!((0.46..0.4715).contains(&stem) && (0.12..=0.125).contains(&last), "{stem} {last}");
    assert_eq!((&one[432..448], &one[448..464]), (&[1.0; 16][..], &[0.0; 16][..]));
}

/// The module is smooth, so differences are near derivatives; those of rectified networks jump.
#[test]
fn gradients_through_local_training_are_differences() {
    let script = Script::load(&data("mixed.pt"), [1, 1, 6], 3).expect("a model");
    let data = Recovered { features: draw(1, 5 * 6, 1.0), labels: draw(2, 5 * 3, 3.0) };
    let from = script.init(3);
    let around = |seed, count| draw(seed, count, 2.0).iter().map(|value| value - 1.0).collect::<Vec<f32>>();
    let (adjoint, by_x, by_y) = (around(4, from.len()), around(5, 30), around(6, 15));
    let mut worker = TorchWorker::new(&script).expect("a worker");
    let training = Repeated { steps: 3, learning_rate: 0.3 };
    worker.unroll(&from, &data, training, 3).expect("trained");
    let gradient = worker.pull_back(&adjoint).expect("pulled back");
    let mut along = |x: f32, y: f32| {
        let moved = |values: &[f32], by: &[f32], step: f32| values.iter().zip(by).map(|(a, b)| a + step * b).collect();
        let data = Recovered { features: moved(&data.features, &by_x, x), labels: moved(&data.labels, &by_y, y) };
        dot(&worker.unroll(&from, &data, training, 3).expect("trained"), &adjoint)
    };
    let step = 0.01;
    let of_x = (along(step, 0.0) - along(-step, 0.0)) / f64::from(2.0 * step);
    let of_y = (along(0.0, step) - along(0.0, -step)) / f64::from(2.0 * step);
    for (found, wanted) in [(dot(&gradient.features, &by_x), of_x), (dot(&gradient.labels, &by_y), of_y)] {
        assert!((found - wanted).abs() < 0.002 * wanted.abs(), "{found} {wanted}");
    }
}

/// A text that repeats: after each character comes the same.
fn text() -> (Vec<f32>, Vec<u8>) {
    let at = |position: usize| (position * 3 % 7) as u8;
    let windows = (0..40).flat_map(|start| (start..start + 8).map(move |position| f32::from(at(position))));
    (windows.collect(), (0..40).map(|start| at(start + 8)).collect())
}

#[test]
fn a_transformer_learns_what_comes_next_and_is_not_inverted() {
    let documented = Transformer::new(90, 80, [64, 2, 4]).expect("a shape");
    assert_eq!((documented.parameters(), documented.init(1).len()), (112_192, 112_192));
    let net = Torch(Transformer::new(7, 8, [16, 1, 2]).expect("a shape"));
    let (features, labels) = text();
    let samples = Samples { features: &features, labels: &labels };
    let mut worker = net.worker().expect("a worker");
    let mut from = Model::init(&net, 1).expect("parameters");
    let spec = LocalSpec { epochs: 30, batch_size: 8, learning_rate: 0.3, ..LocalSpec::default() };
    let trained = worker.train(&from, samples, &spec, None, 1).expect("trained");
    from.iter_mut().zip(&trained.delta).for_each(|(value, by)| *value += by);
    let right: u32 = worker.score(&from, samples).expect("scored").iter().map(|[right, _]| right).sum();
    assert_eq!(right, 40, "{trained:?}");
    // Which character is which matters, and a number that is none is an error.
    let other: Vec<f32> = features.iter().map(|value| (value + 1.0) % 7.0).collect();
    let scored = worker.score(&from, Samples { features: &other, labels: &labels }).expect("scored");
    assert!(scored.iter().map(|[right, _]| right).sum::<u32>() < 10, "{scored:?}");
    let wrong = Samples { features: &[7.0; 8], labels: &[0] };
    assert!(worker.score(&from, wrong).expect_err("no such character").to_string().contains("index out of range"));
    let (delta, training) = (vec![0.1; from.len()], Repeated { steps: 1, learning_rate: 0.1 });
    let refused = worker.invert(&from, &delta, training, &Inversion::default(), None, 0).expect_err("refused");
    assert!(refused.to_string().contains("takes characters"), "{refused}");
    assert!(Transformer::new(7, 8, [18, 1, 2]).expect_err("odd heads").to_string().contains("even width"));
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// A scripted module whose dropout is off in eval mode, and the engine: training, score, and derivatives.
#[test]
fn a_script_trains_as_the_engine_does() {
    let script = Torch(Script::load(&data("mlp.pt"), [1, 8, 8], 10).expect("a model"));
    let network = Network::mlp(64, &[8], 10);
    assert_eq!((Model::parameters(&script), Model::features(&script)), (network.parameters(), 64));
    let (features, labels) = (draw(9, 40 * 64, 1.0), (0..40).map(|at| (at * 7 % 10) as u8).collect::<Vec<_>>());
    let samples = Samples { features: &features, labels: &labels };
    let spec = LocalSpec { epochs: 3, batch_size: 23, learning_rate: 0.2, momentum: 0.5, ..LocalSpec::default() };
    let recovered = Recovered { features: draw(1, 5 * 64, 1.0), labels: draw(2, 50, 3.0) };
    let training = Repeated { steps: 5, learning_rate: 0.3 };
    let (mut engine, mut worker) = (Engine::new(&network), TorchWorker::new(&script.0).expect("a worker"));
    for from in [Model::init(&script, 1).expect("parameters"), network.init(3)] {
        let ours = engine.train(&from, samples, &spec, None, 5).expect("trained");
        let theirs = worker.train(&from, samples, &spec, None, 5).expect("trained");
        assert!(ours.steps == theirs.steps && apart(&theirs.delta, &ours.delta) < 1e-4);
        assert_eq!(engine.score(&from, samples).expect("scored"), worker.score(&from, samples).expect("scored"));
        engine.unroll(&from, &recovered, training, 5).expect("trained");
        worker.unroll(&from, &recovered, training, 5).expect("trained");
        let (ours, theirs) = (engine.pull_back(&from).expect("ours"), worker.pull_back(&from).expect("theirs"));
        assert!(apart(&theirs.features, &ours.features) < 1e-3 && apart(&theirs.labels, &ours.labels) < 1e-3);
    }
}

/// Parameters of the file, one that two layers share once and a frozen one not; logits are those of PyTorch.
#[test]
fn a_script_begins_as_its_file_is() {
    let script = Script::load(&data("mixed.pt"), [1, 1, 6], 3).expect("a model");
    assert_eq!((script.parameters(), script.input()), (36 + 6 + 6 + 18, vec![6]));
    assert_eq!(script.init(1), script.init(2));
    let mut worker = TorchWorker::new(&script).expect("a worker");
    let x: Vec<f32> = (0..12).map(|at| at as f32 / 12.0).collect();
    let samples = Samples { features: &x, labels: &[0, 1] };
    let spec = LocalSpec { epochs: 4, learning_rate: 0.5, ..LocalSpec::default() };
    let first = worker.train(&script.init(0), samples, &spec, None, 0).expect("trained");
    assert!(first.delta[..36].iter().any(|value| *value != 0.0));
    // Statistics did not move, nor did anything else that is not a parameter.
    assert_eq!(worker.train(&script.init(0), samples, &spec, None, 0).expect("trained"), first);
    let logits = logits(&mut worker, &script.init(0), &x, 2);
    let expected = [-0.057228, -0.205058, 0.289224, -0.024709, -0.096444, 0.402722];
    assert!(logits.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-5), "{logits:?}");
}

#[test]
fn files_that_are_no_model_for_the_data_are_refused() {
    let refused = |name: &str, shape, classes| Script::load(&data(name), shape, classes).expect_err(name).to_string();
    for (name, shape, classes, says) in [
        ("none.pt", [1, 8, 8], 10, "none.pt: No such file"),
        ("torchscript.py", [1, 8, 8], 10, "no TorchScript module"),
        ("double.pt", [1, 8, 8], 10, "the parameter 1.weight is Double; f32 is needed"),
        ("frozen.pt", [1, 1, 6], 3, "nothing to train"),
        ("draws.pt", [1, 8, 8], 10, "answers differently when asked twice"),
        (
            "mlp.pt",
            [1, 8, 9],
            10,
            "given two samples as f32 [2, 1, 8, 9], it says: mat1 and mat2 shapes cannot be multiplied",
        ),
        ("mlp.pt", [1, 8, 8], 3, "returns Float [2, 10], not f32 [2, 3]: the data have 3 classes"),
    ] {
        let text = refused(name, shape, classes);
        assert!(text.contains(says) && text.lines().count() == 1, "{text}");
    }
}

/// The same bits, whatever a worker has done before and how many there are.
#[test]
fn results_do_not_depend_on_threads() {
    let image = draw(7, 12 * 3 * 64, 1.0);
    let classes: Vec<u8> = (0..12).map(|at| at % 3).collect();
    let (windows, next) = text();
    let resnet = Torch(ResNet::resnet8([3, 8, 8], 3));
    let transformer = Torch(Transformer::new(7, 8, [16, 2, 2]).expect("a shape"));
    let script = Torch(Script::load(&data("mlp.pt"), [1, 8, 8], 10).expect("a model"));
    let models: [(&dyn Model, Samples<'_>); 3] = [
        (&resnet, Samples { features: &image, labels: &classes }),
        (&transformer, Samples { features: &windows, labels: &next }),
        (&script, Samples { features: &image[..12 * 64], labels: &classes }),
    ];
    let spec = LocalSpec { epochs: 2, batch_size: 5, learning_rate: 0.1, momentum: 0.9, ..LocalSpec::default() };
    for (model, samples) in models {
        let from = model.init(1).expect("parameters");
        let learn = |seeds: &[u64]| -> Vec<Trained> {
            let mut worker = model.worker().expect("a worker");
            let train = |seed: &u64| worker.train(&from, samples, &spec, None, *seed).expect("trained");
            seeds.iter().map(train).collect()
        };
        let alone = learn(&[1, 2, 3, 4]);
        let (one, other) = std::thread::scope(|scope| {
            let (one, other) = (scope.spawn(|| learn(&[4, 1])), scope.spawn(|| learn(&[3, 2])));
            (one.join().expect("ended"), other.join().expect("ended"))
        });
        assert_eq!([&one[1], &other[1], &other[0], &one[0]], [&alone[0], &alone[1], &alone[2], &alone[3]]);
        assert_ne!(alone[0].delta, alone[1].delta, "{}", model.name());
    }
}

/// Inversion of an update of a residual network finds what trains like the client's data.
#[test]
fn a_residual_networks_update_is_inverted() {
    let net = Torch(ResNet::resnet8([1, 8, 8], 3));
    let from = Model::init(&net, 1).expect("parameters");
    let (features, labels) = (draw(5, 6 * 64, 1.0), [1; 6]);
    let mut worker = net.worker().expect("a worker");
    let spec = LocalSpec { epochs: 2, learning_rate: 0.05, ..LocalSpec::default() };
    let samples = Samples { features: &features, labels: &labels };
    let delta = worker.train(&from, samples, &spec, None, 0).expect("trained").delta;
    let training = Repeated { steps: 2, learning_rate: 0.05 };
    let wanted = Inversion { samples: 3, iterations: 40, ..Inversion::default() };
    let found = worker.invert(&from, &delta, training, &wanted, None, 1).expect("inverted");
    let begun = worker.invert(&from, &delta, training, &Inversion { iterations: 0, ..wanted }, None, 1).expect("begun");
    assert!(found.difference < 0.5 * begun.difference && found.cosine > 0.9, "{found:?} {begun:?}");
    let again = worker.retrain(&from, &found.data, training, 2).expect("trained");
    assert!(
        (dot(&again, &delta) / (dot(&again, &again) * dot(&delta, &delta)).sqrt() - f64::from(found.cosine)).abs()
            < 1e-3
    );
}
