//! How long a wait lasts, what ends it early, and what the processor does meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::plan::Rank;

/// Why a group is aborted, once and for all: the first reason stays. Shared by everything that waits in this process.
#[derive(Debug, Default)]
pub struct Abort {
    /// 0 while all is well: what a wait looks at.
    word: AtomicU64,
    /// Ranks that have left well, as bits: only who waits for one of them is lost.
    left: AtomicU64,
    reason: Mutex<Option<Fault>>,
}

impl Abort {
    /// Ends all waits of the group. False where it was aborted before: that reason stays.
    pub fn raise(&self, reason: Fault) -> bool {
        let mut kept = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some() {
            return false;
        }
        *kept = Some(reason);
        self.word.store(1, Ordering::Release);
        true
    }

    /// What is really wrong when a transport has lost a connection. A survivor that gives up closes its connections too, and
    /// says so over the control connections first: whoever sees the closing waits a moment for that word.
    pub(crate) fn verdict(&self, seen: Fault) -> Fault {
        if !matches!(seen, Fault::Lost { .. }) {
            return seen;
        }
        let deadline = Instant::now() + VERDICT;
        while Instant::now() < deadline {
            if let Some(reason) = self.reason() {
                return reason;
            }
            std::thread::yield_now();
        }
        seen
    }

    /// Notes that `rank` has ended after its last operation. What it sent before still counts.
    pub fn leave(&self, rank: Rank) {
        self.left.fetch_or(1 << (rank % 64), Ordering::AcqRel);
    }

    pub(crate) fn has_left(&self, rank: Rank) -> bool {
        self.left.load(Ordering::Acquire) >> (rank % 64) & 1 == 1
    }

    /// The reason, once there is one.
    pub fn reason(&self) -> Option<Fault> {
        if self.word.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The control connections say what is wrong within this time, or say nothing.
const VERDICT: Duration = Duration::from_millis(200);

/// False in a build that measures what deadlines, abort words and the names of operations cost.
pub(crate) const GUARDED: bool = cfg!(not(feature = "unguarded"));

/// How a wait spends its time before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    /// Looks before the clock and the abort word are looked at for the first time.
    pub spins: u32,
    /// Whether the awaited rank may need this very core: gives it away early.
    pub crowded: bool,
}

impl Ladder {
    /// For `ranks` of this host on `cores`.
    pub fn for_host(ranks: usize, cores: usize) -> Self {
        let crowded = ranks > cores;
        Self { spins: if crowded { 40 } else { 2000 }, crowded }
    }
}

/// The time and patience of one operation: made once for it, used by each of its waits.
#[derive(Debug)]
pub struct Patience<'a> {
    abort: &'a Abort,
    /// How long it may wait in all, from the first wait that is not over after its spins.
    timeout: Duration,
    ladder: Ladder,
    since: Option<Instant>,
}

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Look again at once.
    Spin,
    /// Give the core away, then look.
    Yield,
    /// Sleep until woken, at most so long.
    Sleep(Duration),
}

/// One wait within an operation.
#[derive(Debug, Default)]
pub struct Wait {
    peer: Option<Rank>,
    rounds: u32,
    /// The peer has left, and what it sent before has had one more look.
    left: bool,
}

impl Wait {
    /// For something that only `peer` can bring.
    pub fn on(peer: Rank) -> Self {
        Self { peer: Some(peer), ..Self::default() }
    }
}

/// A wait never sleeps longer before it looks around.
const MAX_SLEEP: Duration = Duration::from_millis(5);
/// A core that nobody else needs is kept for so long.
const BUSY: Duration = Duration::from_micros(200);

impl<'a> Patience<'a> {
    /// For one operation.
    pub fn new(abort: &'a Abort, timeout: Duration, ladder: Ladder) -> Self {
        Self { abort, timeout, ladder, since: None }
    }

    /// Looks that a wait makes before it asks [`Patience::rest`].
    pub fn spins(&self) -> u32 {
        if GUARDED { self.ladder.spins } else { u32::MAX }
    }

    /// What to do after another [`Patience::spins`] looks in vain.
    ///
    /// # Errors
    /// [`Fault::Timeout`], or why the group was aborted.
    pub fn rest(&mut self, wait: &mut Wait) -> Result<Rest, Fault> {
        if let Some(reason) = self.abort.reason() {
            return Err(reason);
        }
        if let Some(peer) = wait.peer
            && self.abort.has_left(peer)
        {
            if std::mem::replace(&mut wait.left, true) {
                return Err(Fault::Lost { rank: peer, how: "it has left the group".into() });
            }
            return Ok(Rest::Spin);
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let waited = now.duration_since(since);
        if waited > self.timeout {
            return Err(Fault::Timeout { after: self.timeout });
        }
        wait.rounds += 1;
        Ok(match self.ladder.crowded {
            false if waited < BUSY => Rest::Spin,
            false if wait.rounds < 64 => Rest::Yield,
            true if wait.rounds < 8 => Rest::Yield,
            _ => Rest::Sleep(MAX_SLEEP.min(self.timeout.saturating_sub(waited) + Duration::from_micros(1))),
        })
    }

    /// Time that is left, for a call of the system that waits by itself; at most what a wait may sleep.
    ///
    /// # Errors
    /// As [`Patience::rest`].
    pub fn check(&mut self) -> Result<Duration, Fault> {
        match self.rest(&mut Wait { rounds: u32::MAX / 2, ..Wait::default() })? {
            Rest::Sleep(left) => Ok(left),
            _ => Ok(MAX_SLEEP),
        }
    }

    /// The group was lost because of `rank`: for transports that notice it first.
    pub fn lost(&self, rank: Rank, how: impl Into<String>) -> Fault {
        let fault = self.abort.verdict(Fault::Lost { rank, how: how.into() });
        // Whoever noticed first has said why.
        self.abort.raise(fault.clone());
        self.abort.reason().unwrap_or(fault)
    }
}
