//! Events on their way out: a bounded queue that never makes the swarm's task wait.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::event::NetEvent;

/// Events that wait because the reader is behind, before gossip is no longer taken in.
const GOSSIP: usize = 256;
/// And before anything is.
const ALL: usize = 4096;

pub(super) struct Outbox {
    sender: mpsc::Sender<NetEvent>,
    waiting: VecDeque<NetEvent>,
    dropped: u64,
}

impl Outbox {
    pub(super) fn new(sender: mpsc::Sender<NetEvent>) -> Self {
        Self { sender, waiting: VecDeque::new(), dropped: 0 }
    }

    /// Queues an event. Past the bound it is dropped, which is logged.
    pub(super) fn push(&mut self, event: NetEvent) {
        if self.sender.is_closed() {
            return;
        }
        if self.waiting.len() < ALL {
            self.waiting.push_back(event);
        } else {
            self.dropped += 1;
            tracing::warn!(?event, dropped = self.dropped, "an event was dropped: nobody reads them");
        }
    }

    /// Whether the reader keeps up well enough for gossip, which can be had again.
    pub(super) fn has_room_for_gossip(&self) -> bool {
        self.waiting.len() < GOSSIP && !self.sender.is_closed()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands the oldest event over once there is room. Loses nothing when cancelled.
    pub(super) async fn send_one(&mut self) {
        match self.sender.reserve().await {
            Ok(room) => {
                if let Some(event) = self.waiting.pop_front() {
                    room.send(event);
                }
            }
            Err(_) => self.waiting.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Nat;

    #[tokio::test]
    async fn the_queue_is_bounded_and_keeps_its_order() {
        let (sender, mut events) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        for number in 0..ALL + 10 {
            assert_eq!(outbox.has_room_for_gossip(), number < GOSSIP);
            outbox.push(NetEvent::Listening(number.to_string()));
        }
        assert_eq!(outbox.dropped, 10);
        for number in 0..ALL {
            outbox.send_one().await;
            let event = events.recv().await.expect("open");
            assert!(matches!(event, NetEvent::Listening(text) if text == number.to_string()));
        }
        assert!(outbox.is_empty());
        drop(events);
        outbox.push(NetEvent::Nat(Nat::Public));
        assert!(outbox.is_empty(), "nobody reads it");
    }
}
