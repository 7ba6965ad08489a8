//! How long to wait after a failure, as a function of the failures so far.

use std::time::Duration;

/// Waits that double from `first` up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The wait after the `failures`th failure in a row. `jitter` in 0..1 spreads it by a quarter either way, so that
    /// peers which lost the same peer do not all come back at once.
    pub(crate) fn wait(self, failures: u32, jitter: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.max);
        doubled.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };
        let waits: Vec<_> = [1, 2, 3, 7, 1000].map(|failures| backoff.wait(failures, 0.5).as_secs()).to_vec();
        assert_eq!(waits, [1, 2, 4, 60, 60]);
        assert_eq!(backoff.wait(1, 0.0), Duration::from_millis(750));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_millis(1250));
    }
}
