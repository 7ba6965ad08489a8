//! One direction of a link: which packets it drops, and when each of the others comes out. Time is an argument.

use std::collections::VecDeque;

/// What a direction does to packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Time on the line, in nanoseconds a byte; zero where the rate has no limit.
    pub(crate) line_ns_per_byte: f64,
    /// From the end of a packet's time on the line until it comes out.
    pub(crate) delay_ns: u64,
    /// The probability that a packet is lost.
    pub(crate) loss: f64,
    /// Most bytes that wait for the line. A packet that would make it more is dropped.
    pub(crate) queue_bytes: u64,
}

/// Most bytes between the two ends, whatever the terms: where rate has no limit, memory still has.
const MAX_HELD_BYTES: usize = 256 << 20;

/// Packets on their way.
#[derive(Debug)]
pub(crate) struct Queue {
    terms: Terms,
    random: u64,
    /// When the line has sent all that it was given. What is left of that time is what waits.
    line_free_ns: u64,
    held: VecDeque<(u64, Vec<u8>)>,
    held_bytes: usize,
}

impl Queue {
    /// An empty one. The same seed loses the same packets.
    pub(crate) fn new(terms: Terms, seed: u64) -> Self {
        Self { terms, random: seed, line_free_ns: 0, held: VecDeque::new(), held_bytes: 0 }
    }

    /// Takes a packet that is `wire_bytes` long on the line, or drops it; says whether it was taken.
    pub(crate) fn offer(&mut self, now_ns: u64, packet: &[u8], wire_bytes: u64) -> bool {
        if self.terms.loss > 0.0 && self.uniform() < self.terms.loss {
            return false;
        }
        let wait_ns = self.line_free_ns.saturating_sub(now_ns);
        let line_ns = self.terms.line_ns_per_byte * wire_bytes as f64;
        let longest_ns = self.terms.line_ns_per_byte * self.terms.queue_bytes as f64;
        // An idle line takes any packet; else a queue shorter than a packet would let none through.
        let full = wait_ns > 0 && wait_ns as f64 + line_ns > longest_ns;
        if full || self.held_bytes + packet.len() > MAX_HELD_BYTES {
            return false;
        }
        self.line_free_ns = now_ns + wait_ns + line_ns as u64;
        self.held.push_back((self.line_free_ns + self.terms.delay_ns, packet.to_vec()));
        self.held_bytes += packet.len();
        true
    }

    /// The next packet whose time has come.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.next_ns()? > now_ns {
            return None;
        }
        let (_, packet) = self.held.pop_front()?;
        self.held_bytes -= packet.len();
        Some(packet)
    }

    /// When the next packet comes out.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.held.front().map(|&(release_ns, _)| release_ns)
    }

    /// From zero to below one: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / 2f64.powi(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 Mbit/s, so a byte takes a microsecond; 5 ms of delay; room for 3000 bytes.
    const TERMS: Terms = Terms { line_ns_per_byte: 1000.0, delay_ns: 5_000_000, loss: 0.0, queue_bytes: 3000 };

    #[test]
    fn packets_leave_one_after_another_at_the_rate_and_come_out_after_the_delay() {
        let mut queue = Queue::new(TERMS, 1);
        assert!(queue.offer(1_000, &[1; 1000], 1000));
        assert!(queue.offer(2_000, &[2; 500], 500));
        assert_eq!(queue.next_ns(), Some(6_001_000));
        assert_eq!(queue.take(6_000_999), None);
        assert_eq!(queue.take(6_001_000), Some(vec![1; 1000]));
        assert_eq!(queue.take(6_500_999), None, "the second waits until the first has left the line");
        assert_eq!(queue.take(6_501_000), Some(vec![2; 500]));
        assert!(queue.offer(10_000_000, &[3; 100], 100), "an idle line starts at once");
        assert_eq!(queue.next_ns(), Some(15_100_000));
    }

    #[test]
    fn what_does_not_fit_the_queue_is_dropped_and_room_comes_back_with_time() {
        let mut queue = Queue::new(TERMS, 1);
        assert!((0..3).all(|_| queue.offer(0, &[0; 1000], 1000)));
        assert!(!queue.offer(0, &[0; 1000], 1000));
        assert!(!queue.offer(999_000, &[0; 1000], 1000));
        assert!(queue.offer(1_000_000, &[0; 1000], 1000), "a thousand bytes have left by now");
        let mut short = Queue::new(Terms { queue_bytes: 10, ..TERMS }, 1);
        assert!(short.offer(0, &[0; 1000], 1000), "an idle line takes any packet");
        assert!(!short.offer(500, &[0; 1000], 1000));
    }

    #[test]
    fn losses_have_the_rate_asked_for_and_repeat_with_the_seed() {
        let lost = |seed| {
            let mut queue = Queue::new(Terms { loss: 0.02, line_ns_per_byte: 0.0, ..TERMS }, seed);
            (0..20_000).filter(|_| !queue.offer(0, &[], 1)).collect::<Vec<i32>>()
        };
        assert!((340..=460).contains(&lost(7).len()), "{}", lost(7).len());
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
    }

    #[test]
    fn memory_has_a_bound_where_the_rate_has_none() {
        let mut queue = Queue::new(Terms { line_ns_per_byte: 0.0, ..TERMS }, 1);
        let packet = vec![0; 1 << 20];
        assert_eq!((0..300).filter(|_| queue.offer(0, &packet, 1)).count(), 256);
        while queue.take(u64::MAX).is_some() {}
        assert!(queue.offer(0, &packet, 1), "and comes free again");
    }
}
