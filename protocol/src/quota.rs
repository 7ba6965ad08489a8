//! A bucket of tokens that refills with time.

/// What is left of an allowance. The allowance itself is an argument, so that a bucket stays small.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Quota {
    spent: f64,
    at_ms: u64,
}

/// Tokens per minute, and how many may be taken at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Allowance {
    pub(crate) per_minute: f64,
    pub(crate) burst: f64,
}

impl Quota {
    /// Whole tokens there now. A clock that goes backwards refills nothing.
    pub(crate) fn left(&mut self, allowance: Allowance, now_ms: u64) -> u64 {
        let minutes = now_ms.saturating_sub(self.at_ms) as f64 / 60_000.0;
        self.spent = (self.spent - minutes * allowance.per_minute).max(0.0);
        self.at_ms = self.at_ms.max(now_ms);
        (allowance.burst - self.spent).max(0.0) as u64
    }

    /// Takes `amount` tokens if they are all there.
    pub(crate) fn take(&mut self, amount: u64, allowance: Allowance, now_ms: u64) -> bool {
        let enough = self.left(allowance, now_ms) >= amount;
        if enough {
            self.spent += amount as f64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_no_further_than_the_burst() {
        let allowance = Allowance { per_minute: 60.0, burst: 10.0 };
        let mut quota = Quota::default();
        assert_eq!(quota.left(allowance, 5), 10);
        assert!(!quota.take(11, allowance, 5));
        assert!(quota.take(10, allowance, 5));
        assert!(!quota.take(1, allowance, 1004));
        assert!(quota.take(1, allowance, 1005));
        assert!(!quota.take(1, allowance, 0), "time went backwards");
        assert_eq!(quota.left(allowance, 4005), 3);
        assert_eq!(quota.left(allowance, 1_000_000), 10);
    }
}
