//! Virtual time, in whole nanoseconds: sums do not depend on their order, and no time is not a number.

/// Nanoseconds since the simulation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    /// When it all begins.
    pub(crate) const START: Self = Self(0);
    /// Past every event. 584 years.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// That much later; `NEVER` where that is past all reckoning.
    pub(crate) fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds since `earlier`; 0 where that is later.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// In seconds.
    pub(crate) fn seconds(self) -> f64 {
        seconds(self.0)
    }
}

/// Nanoseconds of `seconds`: 0 where that is less than 0 or not a number, the most there is where it is too much.
pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

/// Seconds of `nanoseconds`.
pub(crate) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saturates_and_rounds() {
        assert_eq!(nanoseconds(1.5), 1_500_000_000);
        assert_eq!(nanoseconds(0.1 + 0.2), 300_000_000);
        assert_eq!(nanoseconds(-1.0), 0);
        assert_eq!(nanoseconds(f64::NAN), 0);
        assert_eq!(nanoseconds(f64::INFINITY), u64::MAX);
        assert_eq!(Time(5).after(u64::MAX), Time::NEVER);
        assert_eq!(Time(5).since(Time(7)), 0);
        assert_eq!(Time(1_500_000_000).seconds(), 1.5);
    }
}
