//! Clipping and noise, by hand and by scipy.

use super::*;
use crate::{Rule, strategy};

fn update(client: u32, delta: &[f32]) -> Update {
    Update { client, base: 0, tier: 0, samples: 1 + client, steps: 1, delta: delta.to_vec(), control: None }
}

fn server<T>(parameters: &[f32], check: impl FnOnce(&Server<'_>) -> T) -> T {
    check(&Server { version: 3, parameters, history: &|_| None, clients: 100, seed: 7 })
}

#[test]
fn long_updates_are_shortened() {
    let mut long = [3.0, 4.0];
    assert!(!clip(&mut long, 1.0));
    assert_eq!(long, [0.6, 0.8]);
    let mut short = [0.3, 0.4];
    assert!(clip(&mut short, 1.0));
    assert_eq!(short, [0.3, 0.4]);
}

#[test]
fn the_mean_gets_noise_of_the_bound_over_the_clients() {
    let protection = Protection::Central { clip: 2.0, noise: 1.5, delta: 1e-5, adaptive: None };
    let rule = strategy(&Rule::FedAvg(Default::default()), &toml::from_str("weights = \"uniform\"").expect("a mean"));
    let rule = rule.expect("a rule");
    let length = 20_000;
    let mut memory = Memory::default();
    let found = server(&vec![1.0; length], |server| {
        let mut updates: Vec<Update> = (0..4).map(|client| update(client, &vec![0.0; length])).collect();
        protection.protect(&mut memory, server, &mut updates);
        assert_eq!(memory.combine.noise.expect("noise").deviation, 0.75);
        rule.aggregate(&mut memory, server, &updates).expect("aggregated")
    });
    // Used once.
    assert_eq!(memory.combine.noise, None);
    let squares: f64 = found.iter().map(|value| f64::from(value - 1.0).powi(2)).sum::<f64>() / length as f64;
    // The standard error is 0.75 over the root of twice as many.
    assert!((squares.sqrt() - 0.75).abs() < 4.0 * 0.75 / 200.0, "{}", squares.sqrt());
}

#[test]
fn an_adaptive_bound_finds_the_median_of_the_lengths() {
    let adaptive = Some(Adaptive::default());
    let still = Protection::Central { clip: 0.1, noise: 0.0, delta: 1e-5, adaptive };
    let mut memory = Memory::default();
    let lengths = [1.0, 2.0, 3.0, 4.0, 5.0];
    let step = |protection: &Protection, memory: &mut Memory, version| {
        let mut updates: Vec<Update> = (0..5).map(|client| update(client, &[lengths[client as usize]])).collect();
        let history = |_| None;
        let server = Server { version, parameters: &[0.0], history: &history, clients: 100, seed: 7 };
        protection.protect(memory, &server, &mut updates);
        updates
    };
    let clipped = step(&still, &mut memory, 0);
    assert!(clipped.iter().all(|update| (update.delta[0] - 0.1).abs() < 1e-7));
    // None of five is within: exp(0.2 * 0.5).
    assert!((memory.privacy.bound.expect("a bound") - 0.1 * 0.1_f64.exp()).abs() < 1e-12);
    for version in 1..200 {
        step(&still, &mut memory, version);
    }
    let bound = memory.privacy.bound.expect("a bound");
    assert!((2.8..3.2).contains(&bound), "{bound}");
    // A count noise of a twentieth of five: 1 - 4 is below zero.
    assert_eq!(shared(1.0, 0.25), f64::INFINITY);
    // 2^-2 - 10^-2.
    assert!((shared(2.0, 5.0) - (0.25_f64 - 0.01).powf(-0.5)).abs() < 1e-12);
}

const LOCAL: [(f64, f64, f64); 4] = [
    (0.5, 1e-5, 7.0318266755824625),
    (1.0, 1e-5, 3.730631634815946),
    (4.0, 1e-6, 1.1935185871579843),
    (10.0, 1e-3, 0.4060595580241386),
];

/// Roots of the theorem's equation by scipy's `brentq` and `norm.cdf`.
#[test]
fn local_noise_is_the_least_that_suffices() {
    for (epsilon, delta, wanted) in LOCAL {
        let found = deviation(epsilon, delta, 1.0);
        assert!((found / wanted - 1.0).abs() < 1e-6, "{epsilon} {delta}: {found} {wanted}");
        let classical = (2.0 * (1.25_f64 / delta).ln()).sqrt() / epsilon;
        assert!(epsilon > 1.0 || found < classical);
    }
    let protection = Protection::Local { clip: 0.5, epsilon: 1.0, delta: 1e-5 };
    let length = 20_000;
    let mut updates = [update(0, &vec![0.0; length]), update(1, &vec![0.0; length])];
    server(&vec![0.0; length], |server| protection.protect(&mut Memory::default(), server, &mut updates));
    assert_ne!(updates[0].delta, updates[1].delta);
    for update in &updates {
        // Within twice the bound, which is 1.
        let found = (norms::sum_of_squares(&update.delta) / length as f64).sqrt();
        assert!((found / deviation(1.0, 1e-5, 1.0) - 1.0).abs() < 0.02);
    }
}

#[test]
fn settings_are_read_and_checked() {
    let read = |text: &str| toml::from_str::<Protection>(text);
    let central = read("trust = \"central\"\nclip = 1.0\nnoise = 1.1\nadaptive = {}").expect("read");
    let adaptive = Some(Adaptive::default());
    assert_eq!(central, Protection::Central { clip: 1.0, noise: 1.1, delta: 1e-5, adaptive });
    assert_eq!(central.check(), Ok(()));
    let exposure = Exposure { aggregations: 1000, drawn: Some(0.01), most: 17 };
    assert!((central.spent(&exposure) - epsilon(1.1, 0.01, 1000, 1e-5)).abs() < 1e-12);
    // Not drawn by chance, each of a client's updates tells all that it can.
    let in_turn = Exposure { drawn: None, ..exposure };
    assert!((central.spent(&in_turn) - epsilon(1.1, 1.0, 17, 1e-5)).abs() < 1e-12);
    let local = Protection::Local { clip: 1.0, epsilon: 0.5, delta: 1e-5 };
    assert_eq!(local.spent(&exposure), 8.5);
    for text in [
        "trust = \"central\"\nclip = 0.0\nnoise = 1.0",
        "trust = \"central\"\nclip = 1.0\nnoise = -1.0",
        "trust = \"central\"\nclip = 1.0\nnoise = 1.0\nadaptive = { count_noise = 0.4 }",
        "trust = \"local\"\nclip = 1.0\nepsilon = 0.0",
        "trust = \"local\"\nclip = 1.0\nepsilon = 1.0\ndelta = 1.0",
    ] {
        assert!(read(text).expect(text).check().is_err(), "{text}");
    }
    assert!(read("trust = \"central\"\nclip = 1.0\nnoise = 1.0\nnoize = 1.0").is_err());
    assert!(read("trust = \"nobody\"\nclip = 1.0").is_err());
}
