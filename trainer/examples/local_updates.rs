//! What a client's update and a step of an inversion take by libtorch, for each model.
//!
//! ```text
//! cargo run --release -p swarmloom-trainer --example local_updates
//! ```

use std::error::Error;
use std::time::Instant;

use swarmloom_classifiers::{LocalSpec, Network, Recovered, Repeated, Samples, Unroll, Worker};
use swarmloom_kernels::random;
use swarmloom_trainer::federated::{Net, ResNet, TorchWorker, Transformer};

fn main() -> Result<(), Box<dyn Error>> {
    let lenet = Network::lenet5(3, 32, 10);
    let measured: [(&dyn Net, usize); 4] = [
        (&&lenet, 100),
        (&ResNet::resnet8([3, 32, 32], 10), 100),
        (&ResNet::resnet18([3, 32, 32], 10), 20),
        (&Transformer::new(90, 80, [64, 2, 4])?, 100),
    ];
    for (net, count) in measured {
        let features: usize = net.input().iter().product::<i64>() as usize;
        let value =
            |at: u64| if net.discrete() { (random::bits(1, at) % 90) as f32 } else { random::unit(1, at) as f32 };
        let x: Vec<f32> = (0..(count * features) as u64).map(value).collect();
        let labels: Vec<u8> = (0..count).map(|at| (at % 10) as u8).collect();
        let samples = Samples { features: &x, labels: &labels };
        let from = net.init(1);
        let mut worker = TorchWorker::new(net)?;
        let spec = LocalSpec { epochs: 1, batch_size: 20, learning_rate: 0.01, ..LocalSpec::default() };
        let least = |times: u32, what: &mut dyn FnMut() -> Result<(), Box<dyn Error>>| -> Result<f64, Box<dyn Error>> {
            let mut least = f64::INFINITY;
            for _ in 0..times {
                let begun = Instant::now();
                what()?;
                least = least.min(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(least)
        };
        let update = least(3, &mut || {
            worker.train(&from, samples, &spec, None, 1)?;
            Ok(())
        })?;
        print!("{}, {} parameters: an epoch of {count} samples {update:.1} ms", net.name(), from.len());
        // Of the largest it would take a minute.
        if !net.discrete() && from.len() < 1_000_000 {
            let data = Recovered { features: x[..16 * features].to_vec(), labels: vec![0.1; 16 * net.classes()] };
            let training = Repeated { steps: 5, learning_rate: 0.01 };
            let step = least(2, &mut || {
                worker.unroll(&from, &data, training, 5)?;
                worker.pull_back(&from)?;
                Ok(())
            })?;
            print!("; a step of an inversion, 16 samples through 5 local steps, {step:.1} ms");
        }
        println!();
    }
    Ok(())
}
