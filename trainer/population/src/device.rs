//! How long a client takes: for a sample, and for the bytes that go to and fro.

use serde::{Deserialize, Serialize};

use crate::check::{FieldError, within};
use crate::distribution::Distribution;
use crate::random::{Purpose, Stream};
use crate::time::nanoseconds;

/// How fast clients compute. What one client draws stays with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Devices {
    /// Seconds of training (forwards and backwards) per sample and epoch.
    pub seconds_per_sample: Distribution,
    /// Seconds that a task takes beside that.
    pub overhead_s: Distribution,
    /// Standard deviation of the natural logarithm of a factor with median 1, drawn anew for every task, on its
    /// computing time: a device that is hot, or busy with something else.
    pub variation: f64,
}

impl Default for Devices {
    /// `FedScale`'s devices: 5 ms a sample times a log-normal with `mu = 1` and `sigma = 0.6`.
    fn default() -> Self {
        Self {
            seconds_per_sample: Distribution::Lognormal { median: 0.0136, sigma: 0.6 },
            overhead_s: Distribution::Constant { value: 0.0 },
            variation: 0.0,
        }
    }
}

/// How fast clients' networks are. What one client draws stays with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Bytes per second from the server.
    pub down_bytes_per_s: Distribution,
    /// Bytes per second to the server.
    pub up_bytes_per_s: Distribution,
    /// Seconds that a transfer takes beside that, either way.
    pub latency_s: Distribution,
}

impl Default for Network {
    /// 20 and 8 Mbit/s at the median, and 50 ms: our choice.
    fn default() -> Self {
        Self {
            down_bytes_per_s: Distribution::Lognormal { median: 2.5e6, sigma: 0.6 },
            up_bytes_per_s: Distribution::Lognormal { median: 1e6, sigma: 0.6 },
            latency_s: Distribution::Constant { value: 0.05 },
        }
    }
}

/// What a task consists of, the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Passes over a client's samples.
    pub epochs: u32,
    /// Bytes from the server: the model.
    pub bytes_down: u64,
    /// Bytes to the server: the update.
    pub bytes_up: u64,
}

/// One client's device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Device {
    /// Seconds of training per sample and epoch.
    pub seconds_per_sample: f64,
    /// Seconds that a task takes beside that.
    pub overhead_s: f64,
    /// Bytes per second from the server.
    pub down_bytes_per_s: f64,
    /// Bytes per second to the server.
    pub up_bytes_per_s: f64,
    /// Seconds that a transfer takes beside that.
    pub latency_s: f64,
}

/// The parts of a task, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) down: u64,
    pub(crate) compute: u64,
    pub(crate) up: u64,
}

impl Parts {
    pub(crate) fn total(self) -> u64 {
        self.down.saturating_add(self.compute).saturating_add(self.up)
    }
}

impl Device {
    /// What a task of `work` on `samples` takes; `factor` is on the computing time.
    pub(crate) fn parts(&self, work: &Work, samples: u32, factor: f64) -> Parts {
        let training = self.seconds_per_sample * f64::from(samples) * f64::from(work.epochs);
        Parts {
            down: nanoseconds(self.latency_s + work.bytes_down as f64 / self.down_bytes_per_s),
            compute: nanoseconds((self.overhead_s + training) * factor),
            up: nanoseconds(self.latency_s + work.bytes_up as f64 / self.up_bytes_per_s),
        }
    }
}

/// Longest time and highest rate that a field may give. A billion seconds are 32 years.
pub(crate) const MOST_S: f64 = 1e9;
pub(crate) const MOST_BYTES_PER_S: f64 = 1e15;
/// A device slower than this takes longer than any simulation.
pub(crate) const LEAST_BYTES_PER_S: f64 = 1e-3;

impl Devices {
    /// Checks every field.
    pub(crate) fn check(&self, field: &str) -> Result<(), FieldError> {
        self.seconds_per_sample.check(&format!("{field}.seconds_per_sample"), 0.0, MOST_S)?;
        self.overhead_s.check(&format!("{field}.overhead_s"), 0.0, MOST_S)?;
        within(&format!("{field}.variation"), self.variation, 0.0..=10.0)
    }

    /// The factor on the computing time of a task.
    pub(crate) fn factor(&self, seed: u64, task: u64) -> f64 {
        if self.variation == 0.0 {
            return 1.0;
        }
        (self.variation * Stream::new(seed, Purpose::Variation, task, 0).normal()).exp()
    }
}

impl Network {
    /// Checks every field.
    pub(crate) fn check(&self, field: &str) -> Result<(), FieldError> {
        self.down_bytes_per_s.check(&format!("{field}.down_bytes_per_s"), LEAST_BYTES_PER_S, MOST_BYTES_PER_S)?;
        self.up_bytes_per_s.check(&format!("{field}.up_bytes_per_s"), LEAST_BYTES_PER_S, MOST_BYTES_PER_S)?;
        self.latency_s.check(&format!("{field}.latency_s"), 0.0, MOST_S)
    }
}

/// The device of `client`, one of `clients`, before anything makes it slow.
pub(crate) fn device(devices: &Devices, network: &Network, seed: u64, client: u32, clients: u32) -> Device {
    let time = |of: &Distribution, purpose| of.draw(seed, purpose, client, clients, 0.0, MOST_S);
    let rate =
        |of: &Distribution, purpose| of.draw(seed, purpose, client, clients, LEAST_BYTES_PER_S, MOST_BYTES_PER_S);
    Device {
        seconds_per_sample: time(&devices.seconds_per_sample, Purpose::Compute),
        overhead_s: time(&devices.overhead_s, Purpose::Overhead),
        down_bytes_per_s: rate(&network.down_bytes_per_s, Purpose::Down),
        up_bytes_per_s: rate(&network.up_bytes_per_s, Purpose::Up),
        latency_s: time(&network.latency_s, Purpose::Latency),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_takes_what_its_parts_take() {
        let device = Device {
            seconds_per_sample: 0.01,
            overhead_s: 0.5,
            down_bytes_per_s: 1_000.0,
            up_bytes_per_s: 250.0,
            latency_s: 0.1,
        };
        let parts = device.parts(&Work { epochs: 5, bytes_down: 2_000, bytes_up: 1_000 }, 60, 2.0);
        // 0.1 + 2; 2 * (0.5 + 0.01 * 60 * 5); 0.1 + 4.
        assert_eq!(parts, Parts { down: 2_100_000_000, compute: 7_000_000_000, up: 4_100_000_000 });
        assert_eq!(parts.total(), 13_200_000_000);
    }

    #[test]
    fn one_quantity_of_a_client_does_not_follow_from_another() {
        let same = Distribution::Uniform { low: 1.0, high: 2.0 };
        let network = Network { down_bytes_per_s: same.clone(), up_bytes_per_s: same.clone(), ..Network::default() };
        let devices = Devices { seconds_per_sample: same, ..Devices::default() };
        let product: f64 = (0..4_000)
            .map(|client| device(&devices, &network, 1, client, 4_000))
            .map(|device| (device.down_bytes_per_s - 1.5) * (device.up_bytes_per_s - 1.5))
            .sum::<f64>();
        assert!((product / 4_000.0).abs() < 5.0 / 12.0 / 63.0);
        assert_eq!(device(&devices, &network, 1, 7, 10), device(&devices, &network, 1, 7, 10));
        assert_ne!(device(&devices, &network, 1, 7, 10), device(&devices, &network, 2, 7, 10));
    }

    #[test]
    fn variation_is_drawn_for_every_task() {
        let devices = Devices { variation: 0.5, ..Devices::default() };
        let mut factors: Vec<f64> = (0..10_001).map(|task| devices.factor(1, task)).collect();
        factors.sort_unstable_by(f64::total_cmp);
        assert!((factors[5_000] - 1.0).abs() < 0.03);
        // The upper quartile is e^(0.5 * 0.67449).
        assert!((factors[7_500] - 1.401).abs() < 0.04);
        assert_eq!(Devices::default().factor(1, 3), 1.0);
    }
}
