//! How near to the processor's limit the linear layer and attention run, on one core.
//!
//! `cargo run --release -p swarmloom-kernels --example matmul_throughput`
//!
//! The limit is measured in the same run, in turns with the kernels: fused multiply-adds on
//! registers alone. Every number is the median of several rounds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use swarmloom_kernels::attention::{self, Cache, Scratch};
use swarmloom_kernels::linear::PackedLinear;
use swarmloom_kernels::{Isa, detected};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(25);

/// A name, the operations of one call, and the call.
type Case = (String, f64, Box<dyn FnMut()>);

fn main() {
    println!("instruction set: {:?}", detected());
    let mut cases: Vec<Case> = vec![("limit: multiply-adds on registers".into(), limit_flops(), Box::new(limit))];
    for (rows, inputs, outputs) in [
        (64, 64, 64),
        (64, 64, 192),
        (64, 256, 1024),
        (64, 1024, 256),
        (512, 512, 2048),
        (1, 64, 192),
        (1, 256, 1024),
        (5, 256, 1024),
    ] {
        let weight = ramp(outputs * inputs);
        let layer = PackedLinear::pack(&weight, outputs, inputs, None);
        let (x, mut y) = (ramp(rows * inputs), vec![0.0; rows * outputs]);
        cases.push((
            format!("linear [{rows} x {inputs}] x [{inputs} x {outputs}]"),
            2.0 * (rows * inputs * outputs) as f64,
            Box::new(move || layer.forward(black_box(&x), black_box(&mut y))),
        ));
    }
    for (heads, kv_heads, head_dim, prompt, own) in [(4, 2, 16, 100, 60), (8, 4, 32, 100, 60), (8, 8, 64, 400, 600)] {
        let cache = |positions| {
            let row = ramp(kv_heads * head_dim);
            let mut cache = Cache::new(kv_heads, head_dim, positions);
            (0..positions).for_each(|_| cache.push(&row, &row));
            cache
        };
        let (prefix, own_cache) = (cache(prompt), cache(own));
        let (q, mut out) = (ramp(heads * head_dim), vec![0.0; heads * head_dim]);
        let mut scratch = Scratch::new(prompt + own);
        cases.push((
            format!("attention {heads}/{kv_heads} heads of {head_dim}, {prompt} + {own} positions"),
            4.0 * (heads * head_dim * (prompt + own)) as f64,
            Box::new(move || {
                let q = black_box(&q);
                attention::decode(q, Some(&prefix), &own_cache, &mut scratch, &mut out);
            }),
        ));
    }

    let mut rates = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, flops, work), rates) in cases.iter_mut().zip(&mut rates) {
            let (start, mut calls) = (Instant::now(), 0u32);
            while start.elapsed() < ROUND {
                work();
                calls += 1;
            }
            rates.push(*flops * f64::from(calls) / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    let medians: Vec<f64> = rates
        .into_iter()
        .map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[ROUNDS / 2]
        })
        .collect();
    for ((name, ..), rate) in cases.iter().zip(&medians) {
        println!("{name:52} {rate:7.1} GFLOP/s  {:3.0} % of the limit", 100.0 * rate / medians[0]);
    }
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect()
}

const STEPS: usize = 4096;
const CHAINS: usize = 12;

fn limit_flops() -> f64 {
    (2 * STEPS * CHAINS * 8) as f64
}

fn limit() {
    #[cfg(target_arch = "x86_64")]
    if detected() == Isa::Avx2Fma {
        // SAFETY: `detected` found AVX2 and FMA.
        unsafe { chains_avx2_fma() };
        return;
    }
    chains();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2_fma() {
    chains();
}

#[inline(always)]
fn chains() {
    let (factor, term) = (black_box([0.5f32; 8]), black_box([1.0f32; 8]));
    let mut sums = [[0.0f32; 8]; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for lane in 0..8 {
                sum[lane] = sum[lane].mul_add(factor[lane], term[lane]);
            }
        }
    }
    black_box(sums);
}
