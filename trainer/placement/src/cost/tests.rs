//! The cheapest mix on offers whose answers follow by hand.

use super::*;
use crate::model::{Affine, Layer};
use crate::topology::LinkClass;

const FAST: Link = Link { class: LinkClass::Infiniband, bandwidth: 25e9, latency_s: 5e-6, shared: false };
const SLOW: Link = Link { class: LinkClass::Ethernet, bandwidth: 1e9, latency_s: 1e-4, shared: true };

fn offer(device: &str, price_per_hour: f64, speed: f64, available: usize) -> Offer {
    Offer {
        device: device.into(),
        price_per_hour,
        speed,
        speed_error: 0.1,
        memory_bytes: 1 << 30,
        ranks_per_host: 1,
        available,
        inside_host: FAST,
        between_hosts: FAST,
    }
}

/// One second of arithmetic for each sequence at speed 1.
fn model() -> Model {
    let time = Affine { fixed_s: 0.0, per_sequence_s: 1.0 / 24.0 };
    let layer = Layer {
        forward_s: time,
        input_gradient_s: time,
        weight_gradient_s: time,
        parameters: 1000,
        activation_bytes: 1000,
        output_bytes: 1000,
        recompute_bytes: 1000,
        tensor_parallel: true,
    };
    Model { layers: vec![layer; 8], sequence_length: 10, tied_parameters: 0 }
}

fn job() -> Job {
    Job {
        global_batch: 48,
        micro_batches: Vec::new(),
        schedules: Vec::new(),
        mesh: None,
        tensor: Vec::new(),
        parameter_bytes: 4,
        gradient_bytes: 4,
        optimizer_bytes_per_parameter: 8,
        sharded_optimizer: false,
        wire_bytes_per_element: 4.0,
        recompute: Some(false),
        overlap: true,
        optimizer_s_per_parameter: 0.0,
        collective: None,
    }
}

/// Derived by hand: 48 s of arithmetic, so that four ranks of speed 1 take 12 s, and two of speed 2.
#[test]
fn the_cheapest_that_is_fast_enough_comes_first() {
    let offers = [offer("plain", 1.0, 1.0, 4), offer("double", 3.0, 2.0, 2)];
    let target = Target { steps: 100, seconds: 1201.0 };
    let mixes = cheapest(&offers, SLOW, &model(), &job(), target).unwrap();
    assert_eq!(mixes[0].hosts, [4, 0]);
    assert!((mixes[0].step_s - 12.0).abs() < 0.01, "{}", mixes[0].step_s);
    assert!((mixes[0].price - 4.0 * 1200.0 / 3600.0).abs() < 0.01);
    let (low, high) = mixes[0].step_range_s;
    assert!((low - 12.0 / 1.1).abs() < 0.01 && (high - 12.0 / 0.9).abs() < 0.01, "{low} {high}");
    assert!(mixes.iter().any(|mix| mix.hosts == [0, 2]));
    assert!(mixes.windows(2).all(|pair| pair[0].price <= pair[1].price));
    assert!(mixes.iter().all(|mix| mix.seconds <= 1201.0));
    // Where only both together are fast enough, they are mixed.
    let both = cheapest(&offers, SLOW, &model(), &job(), Target { steps: 1, seconds: 8.1 }).unwrap();
    assert!(both.iter().all(|mix| mix.hosts[0] > 0 && mix.hosts[1] > 0));
}

#[test]
fn what_cannot_be_reached_is_said() {
    let offers = [offer("plain", 1.0, 1.0, 4)];
    let error = cheapest(&offers, SLOW, &model(), &job(), Target { steps: 1, seconds: 1.0 }).unwrap_err();
    assert_eq!(error.to_string(), "none of 4 mixes does a step in 1.000 s; the fastest takes 12.000 s");
    let wrong = [Offer { speed_error: 1.5, ..offer("plain", 1.0, 1.0, 4) }];
    let error = cheapest(&wrong, SLOW, &model(), &job(), Target { steps: 1, seconds: 1.0 }).unwrap_err();
    assert!(error.to_string().starts_with("offer plain: speed_error is 1.5"));
}

#[test]
fn many_offers_are_sampled() {
    let offers: Vec<Offer> = (0..5).map(|index| offer(&format!("o{index}"), 1.0, 1.0, 100)).collect();
    let mixes = mixes(&offers);
    assert!(mixes.len() <= 64 * MOST_MIXES && mixes.contains(&vec![0, 0, 0, 0, 100]));
}
