//! A provider that keeps no order, as EFA does not: puts leave late and in any order, messages overtake them, and
//! completions are taken in any order too.

use super::endpoint::{Endpoint, Event, Flight};
use super::peer::Remote;
use crate::fabric::conformance::SplitMix;
use crate::plan::Rank;

/// A put that was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Put {
    pub(super) peer: Rank,
    pub(super) to: Remote,
    pub(super) from: *const u8,
    pub(super) bytes: usize,
    pub(super) offset: usize,
    pub(super) data: Option<u64>,
}

// SAFETY: an address is plain data; whoever put from there says that it can be read from any thread.
unsafe impl Send for Put {}

/// What is held back.
pub(super) struct Disorder {
    random: SplitMix,
    puts: Vec<Put>,
    events: Vec<Event>,
}

impl std::fmt::Debug for Disorder {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} puts and {} events held back", self.puts.len(), self.events.len())
    }
}

impl Disorder {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: SplitMix(seed), puts: Vec::new(), events: Vec::new() }
    }

    /// Whether it keeps the put for later: most of them, but not for ever.
    pub(super) fn keeps(&mut self, put: Put) -> bool {
        let keeps = self.puts.len() < 50 && self.random.below(4) > 0;
        if keeps {
            self.puts.push(put);
        }
        keeps
    }
}

impl Endpoint {
    /// Lets some of the held puts go, and mixes what has come.
    pub(super) fn stir(&mut self, events: &mut Vec<Event>) {
        let Some(mut disorder) = self.disorder.take() else { return };
        for _ in 0..disorder.random.below(disorder.puts.len() + 1) {
            let place = disorder.random.below(disorder.puts.len());
            let Put { peer, to, from, bytes, offset, data } = disorder.puts.swap_remove(place);
            // SAFETY: it was put, and it has not left: it stays.
            match unsafe { self.write(peer, to, from, bytes, offset, data) } {
                Ok(true) => {}
                Ok(false) => disorder.puts.push(Put { peer, to, from, bytes, offset, data }),
                Err(refused) => {
                    events.push(Event::Failed { flight: Some(Flight { peer, put: true }), why: refused.why });
                }
            }
        }
        disorder.events.append(events);
        for index in (1..disorder.events.len()).rev() {
            let other = disorder.random.below(index + 1);
            disorder.events.swap(index, other);
        }
        let kept = disorder.random.below(disorder.events.len() + 1);
        events.extend(disorder.events.drain(kept..));
        self.disorder = Some(disorder);
    }
}
