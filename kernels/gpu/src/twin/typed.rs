//! What callers use: buffers and checked calls. Most of it needs a device; what is missing is said without one.

use swarmloom_kernels::outer::Rule;
use swarmloom_kernels::quantise::{Format, Scheme, dequantise, quantise};
use swarmloom_kernels::reduce::ReduceOp;

use super::*;
use crate::error::GpuError;
use crate::ops::{Quantised, State};

#[test]
fn what_is_missing_is_an_error_and_no_panic() {
    for found in [crate::driver(), crate::nvrtc(), crate::count().map(|_| ()), Gpu::open(0).map(|_| ())] {
        match found {
            Ok(()) => {}
            Err(error @ (GpuError::Missing { .. } | GpuError::Driver { .. } | GpuError::Usage { .. })) => {
                assert!(error.to_string().len() > 20, "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(Gpu::open(10_000).is_err());
    assert!(Gpu::open_with(10_000, b"no image").is_err());
}

#[test]
fn buffers_and_calls_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    println!("on {} (sm_{})", gpu.name(), gpu.capability());
    let mut numbers = Numbers(1);
    let (a, b) = (numbers.values(10_001, 1.0), numbers.values(10_001, 1.0));
    let (on_a, on_b) = (gpu.upload(&a).expect("memory"), gpu.upload(&b).expect("memory"));
    let mut out = gpu.zeros::<f32>(a.len()).expect("memory");
    let mut back = vec![0.0; a.len()];

    gpu.reduce(ReduceOp::Sum, &[&on_a, &on_b], &mut out).expect("a sum");
    gpu.divide(&mut out, 2).expect("a division");
    out.read(&mut back).expect("a copy");
    assert!(back.iter().zip(a.iter().zip(&b)).all(|(out, (a, b))| *out == (a + b) / 2.0));
    gpu.mean(&[&on_a, &on_b], 2, &mut out).expect("a mean");
    let mut mean = vec![0.0; a.len()];
    out.read(&mut mean).expect("a copy");
    assert_eq!(mean, back);

    let norm = gpu.l2(&on_a).expect("a norm");
    assert_eq!(norm.to_bits(), swarmloom_kernels::norms::l2(&a).to_bits());
    assert_eq!(gpu.max_abs(&on_a).expect("a norm"), swarmloom_kernels::norms::max_abs(&a));

    let scheme = Scheme::new(Format::Int8, 256).expect("a scheme");
    let mut codes = gpu.zeros::<u8>(scheme.code_bytes(a.len())).expect("memory");
    let mut scales = gpu.zeros::<f32>(scheme.blocks(a.len())).expect("memory");
    gpu.quantise(scheme, &on_a, &mut codes, &mut scales).expect("codes");
    gpu.dequantise(scheme, Quantised { codes: &codes, scales: &scales }, &mut out).expect("values");
    out.read(&mut back).expect("a copy");
    let (mut host_codes, mut host_scales) = (vec![0; codes.len()], vec![0.0; scales.len()]);
    quantise(scheme, &a, &mut host_codes, &mut host_scales);
    dequantise(scheme, &host_codes, &host_scales, &mut mean);
    assert_eq!(back, mean);

    // What does not fit is refused.
    let short = gpu.zeros::<f32>(3).expect("memory");
    let refused = gpu.reduce(ReduceOp::Sum, &[&on_a, &short], &mut out);
    assert!(matches!(refused, Err(GpuError::Usage { call: "reduce", .. })), "{refused:?}");
    assert!(matches!(gpu.mean(&[&on_a], 0, &mut out), Err(GpuError::Usage { .. })));
    let mut m = gpu.zeros(a.len()).expect("memory");
    let adam = Rule::Adagrad { beta1: 0.0, eps: 1.0 };
    let state = State { first: &mut m, second: None };
    assert!(gpu.mean_step((adam, 0.1, 1), &[&on_a], 1, &mut out, state).is_err());
    let other = gpu.beside().expect("a stream");
    let elsewhere = other.upload(&a).expect("memory");
    assert!(matches!(gpu.reduce(ReduceOp::Sum, &[&on_a, &elsewhere], &mut out), Err(GpuError::Usage { .. })));
    assert!(gpu.mark().expect("a mark").wait_for(std::time::Duration::from_secs(10)).expect("no failure"));
}

/// Everything above the driver, on one that is none.
#[test]
fn buffers_and_calls_on_a_pretended_device() {
    let folder = tempfile::tempdir().expect("a folder");
    compile_shim("driver.cpp", &folder.path().join("libcuda.so"));
    std::fs::copy(folder.path().join("libcuda.so"), folder.path().join("libnvrtc.so")).expect("a copy");
    let tests = std::env::current_exe().expect("this program");
    let done = Command::new(tests)
        .args(["twin::typed::buffers_and_calls_on_a_gpu", "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .expect("this program again");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("on pretended (sm_90)"), "{said}");
}
