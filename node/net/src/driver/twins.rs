//! Telling another process with this peer's identity from this process meeting itself.
//!
//! A peer that dials one of its own addresses, a name or a NAT's outside say, is at both ends: an inbound connection
//! fails about when the outbound one does, often before it is known who was there. With another process, only
//! one end fails here.

use std::time::{Duration, Instant};

/// How far apart the two ends of a connection with itself fail at most.
const MOMENT: Duration = Duration::from_secs(1);
/// Meetings kept at once.
const MOST: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Twins {
    /// Outbound and inbound connections whose other end has the own identity.
    outbound: Vec<(Instant, String)>,
    inbound: Vec<(Instant, String)>,
    /// When an inbound connection last failed, for whatever reason.
    failed: Option<Instant>,
}

impl Twins {
    /// The own identity answered where this peer dialled.
    pub(super) fn dialled(&mut self, address: String, now: Instant) {
        self.inbound.clear();
        if !is_within(self.failed, now) && self.outbound.len() < MOST {
            self.outbound.push((now, address));
        }
    }

    /// An inbound connection failed; `own` is where it came from, if it had the own identity.
    pub(super) fn inbound_failed(&mut self, own: Option<String>, now: Instant) {
        self.failed = Some(now);
        let itself = !self.outbound.is_empty();
        self.outbound.clear();
        if let Some(address) = own.filter(|_| !itself && self.inbound.len() < MOST) {
            self.inbound.push((now, address));
        }
    }

    /// Where another process was met.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        for meetings in [&mut self.outbound, &mut self.inbound] {
            due.extend(meetings.extract_if(.., |(at, _)| !is_within(Some(*at), now)).map(|(_, address)| address));
        }
        due
    }
}

fn is_within(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) <= MOMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_is_another_process() {
        let (mut twins, now) = (Twins::default(), Instant::now());
        twins.dialled("there".into(), now);
        assert!(twins.due(now).is_empty(), "the other end may be here");
        assert_eq!(twins.due(now + MOMENT * 2), ["there"]);
        twins.inbound_failed(Some("from".into()), now + MOMENT * 2);
        assert_eq!(twins.due(now + MOMENT * 4), ["from"]);
    }

    #[test]
    fn both_ends_are_oneself_in_either_order() {
        for own in [None, Some("self".to_owned())] {
            let (mut twins, now) = (Twins::default(), Instant::now());
            twins.dialled("self".into(), now);
            twins.inbound_failed(own.clone(), now);
            assert!(twins.due(now + MOMENT * 2).is_empty());
            twins.inbound_failed(own, now + MOMENT * 3);
            twins.dialled("self".into(), now + MOMENT * 3);
            assert!(twins.due(now + MOMENT * 5).is_empty());
        }
    }
}
