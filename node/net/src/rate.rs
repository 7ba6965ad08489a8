//! Limits on bytes a second, as a queue of payments.
//!
//! Whoever has moved bytes pays for them: its payment stands behind all earlier ones and is through when the
//! link, at its limit, would have carried them all. Until then it moves no more. So many streams share a
//! limit in turn, and one that moves little waits once for a short turn. This is a token bucket whose debt is
//! written as a time (the generic cell rate algorithm, ITU-T I.371, annex A).

use std::time::{Duration, Instant};

/// Unused time that may be caught up with: enough to keep a link busy between two wake-ups.
const CREDIT: Duration = Duration::from_millis(50);
/// A stream moves about this part of a second's bytes at once.
const TURNS_PER_S: u64 = 20;

/// The queue of payments of one direction.
#[derive(Debug)]
pub(crate) struct Payments {
    bytes_per_s: f64,
    /// When the last payment is through.
    through: Option<Instant>,
}

impl Payments {
    /// # Panics
    /// If the rate is zero.
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        assert!(bytes_per_s > 0, "rate: zero");
        Self { bytes_per_s: bytes_per_s as f64, through: None }
    }

    /// Pays for `bytes` moved at `now`; answers when the payment is through.
    pub(crate) fn pay(&mut self, now: Instant, bytes: u64) -> Instant {
        let credit = now.checked_sub(CREDIT).unwrap_or(now);
        let start = self.through.map_or(credit, |through| through.max(credit));
        let through = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        self.through = Some(through);
        through
    }
}

/// Most bytes to move before paying, at a rate.
pub(crate) fn turn_bytes(bytes_per_s: u64) -> usize {
    usize::try_from(bytes_per_s / TURNS_PER_S).unwrap_or(usize::MAX).clamp(1 << 10, 64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that `streams` which always have something to move are allowed in `time`.
    fn moved(bytes_per_s: u64, streams: usize, time: Duration) -> Vec<u64> {
        let (start, turn) = (Instant::now(), turn_bytes(bytes_per_s) as u64);
        let mut payments = Payments::new(bytes_per_s);
        let mut next = vec![start; streams];
        let mut moved = vec![0; streams];
        loop {
            let (stream, &now) = next.iter().enumerate().min_by_key(|(_, at)| **at).expect("a stream");
            if now > start + time {
                return moved;
            }
            moved[stream] += turn;
            next[stream] = payments.pay(now, turn).max(now);
        }
    }

    #[test]
    fn the_rate_holds_whatever_the_number_of_streams() {
        for rate in [16 << 10, 1 << 20, 1 << 30] {
            for streams in [1, 3, 16] {
                let moved = moved(rate, streams, Duration::from_secs(10));
                let total: u64 = moved.iter().sum();
                let most = rate * 10 + rate / 20 + (streams as u64 + 1) * turn_bytes(rate) as u64;
                assert!(total >= rate * 10 && total <= most, "{streams} at {rate}: {total}");
                let (least, most) = (moved.iter().min().expect("one"), moved.iter().max().expect("one"));
                // Whoever comes first has the credit to itself.
                assert!(most - least <= rate / 20 + 2 * turn_bytes(rate) as u64, "unfair: {moved:?}");
            }
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut payments = Payments::new(1000);
        payments.pay(start, 10);
        let later = start + Duration::from_secs(100);
        // 50 ms of credit are 50 bytes; the other 950 of the 1000 take 950 ms.
        let through = payments.pay(later, 1000);
        assert!((through - later).abs_diff(Duration::from_millis(950)) < Duration::from_micros(10));
    }
}
