//! Telling another process with this peer's identity from this process meeting itself.
//!
//! A peer that dials one of its own addresses, a name or a NAT's outside say, sees itself at both ends within a
//! moment. With another process it sees one end only.

use std::time::{Duration, Instant};

/// How far apart the two ends of a connection with itself are seen at most.
const MOMENT: Duration = Duration::from_secs(1);
/// Meetings kept at once.
const MOST: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Twins {
    meetings: Vec<Meeting>,
}

#[derive(Debug)]
struct Meeting {
    at: Instant,
    outbound: bool,
    address: String,
}

impl Twins {
    /// The own identity was at the other end of a connection.
    pub(super) fn met(&mut self, address: String, outbound: bool, now: Instant) {
        // The other end of the same connection: this process met itself.
        if let Some(index) = self.meetings.iter().position(|meeting| meeting.outbound != outbound) {
            self.meetings.swap_remove(index);
        } else if self.meetings.len() < MOST {
            self.meetings.push(Meeting { at: now, outbound, address });
        }
    }

    /// Where another process was met.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let old = self.meetings.extract_if(.., |meeting| now.saturating_duration_since(meeting.at) > MOMENT);
        old.map(|meeting| meeting.address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_is_another_process_and_both_are_oneself() {
        let (mut twins, now) = (Twins::default(), Instant::now());
        twins.met("other".into(), true, now);
        assert!(twins.due(now).is_empty());
        assert_eq!(twins.due(now + MOMENT * 2), ["other"]);
        twins.met("self".into(), true, now);
        twins.met("self".into(), false, now);
        assert!(twins.due(now + MOMENT * 2).is_empty());
    }
}
