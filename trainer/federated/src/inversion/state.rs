//! What was measured so far: estimates that wait for their truth, errors, drift, and where the switch back stands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use swarmloom_kernels::norms;

use super::sketch::{Sketch, error};
use super::{Blend, Decisions};
use crate::update::Update;

/// Fresh updates that are remembered at most, one for a client.
const MOST_SEEN: usize = 256;
/// Estimates that wait for their truth at most.
const MOST_PENDING: usize = 512;
/// Versions between an estimate and the base of the update that counts as its truth, at most: a client may start anew from
/// the version that its own arrival made.
const NEAR: u64 = 1;

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// Smoothed error of inverted updates, relative to the truth.
    pub inverted: Option<f64>,
    /// Smoothed error of stale updates, relative to the truth.
    pub stale: Option<f64>,
    /// Truths that have arrived.
    pub truths: u64,
    /// Smoothed relative change of a fresh client's update per version.
    pub drift: Option<f64>,
    /// Truths in a row after which stale updates were the better ones.
    pub better: u32,
    /// Where the switch back stood when last a truth arrived.
    pub phase: Phase,
    /// Sums for the best blend: of `(inverted - stale) (truth - stale)` and of `(inverted - stale)^2`, smoothed.
    pub blend: Option<[f64; 2]>,
    /// By client, in the order of versions.
    pub pending: BTreeMap<u32, Vec<Estimate>>,
    /// The last fresh update of each client and the version that it started from.
    pub seen: BTreeMap<u32, (u64, Sketch)>,
}

/// Where the switch back stands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Inverted updates count.
    #[default]
    Inverting,
    /// Inverted updates count for less and less.
    Decaying {
        /// The version at which that began.
        since: u64,
    },
    /// Nothing is inverted.
    Off {
        /// The inversion's error when the switch began.
        inverted: f64,
    },
}

/// What a client was estimated to send if it started from a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The version.
    pub version: u64,
    /// The stale update that it had sent.
    pub stale: Sketch,
    /// What an inversion made of that.
    pub inverted: Option<Sketch>,
}

impl State {
    /// The error that staleness is expected to make: measured on truths, else by drift. `None` if nothing was measured yet.
    pub(super) fn expected(&self, staleness: u64) -> Option<f64> {
        self.stale.or_else(|| self.drift.map(|drift| drift * staleness as f64))
    }

    /// Fresh updates that started within the last `window` versions.
    pub(super) fn recent(&self, version: u64, window: u32) -> impl Iterator<Item = &Sketch> {
        let oldest = version.saturating_sub(u64::from(window));
        // A window of 0 is none at all.
        let window = if window == 0 { None } else { Some(self.seen.values()) };
        window.into_iter().flatten().filter(move |(base, _)| *base >= oldest).map(|(_, sketch)| sketch)
    }

    /// The part of inverted updates that would have been best so far.
    pub(super) fn best(&self) -> f64 {
        match self.blend {
            Some([both, inverted]) if inverted > 0.0 => (both / inverted).clamp(0.0, 1.0),
            _ => 1.0,
        }
    }

    /// The phase at a version.
    pub(super) fn phase(&self, spec: &Decisions, version: u64) -> Phase {
        match (spec.blend, self.phase) {
            (Blend::Inverted | Blend::Measured, _) => Phase::Inverting,
            (Blend::Switch, Phase::Decaying { since }) if version >= since + u64::from(spec.decay) => {
                Phase::Off { inverted: self.inverted.unwrap_or(0.0) }
            }
            (Blend::Switch, phase) => phase,
        }
    }

    /// Remembers what a client was estimated to send.
    pub(super) fn expect(&mut self, client: u32, estimate: Estimate) {
        self.pending.entry(client).or_default().push(estimate);
        while self.pending.values().map(Vec::len).sum::<usize>() > MOST_PENDING {
            let oldest = self.pending.iter().min_by_key(|(_, all)| all.first().map(|one| one.version));
            let Some(client) = oldest.map(|(client, _)| *client) else { return };
            self.pending.entry(client).and_modify(|all| drop(all.remove(0)));
            self.pending.retain(|_, all| !all.is_empty());
        }
    }

    /// Remembers a fresh update, and measures what it changed by since its client's last one.
    pub(super) fn see(&mut self, spec: &Decisions, update: &Update, sketch: Sketch) {
        if let Some((base, before)) = self.seen.get(&update.client)
            && update.base > *base
            && let Some(change) = error(before, &sketch)
        {
            smooth(&mut self.drift, change / (update.base - base) as f64, spec.smoothing);
        }
        self.seen.insert(update.client, (update.base, sketch));
        if self.seen.len() > MOST_SEEN {
            let oldest = self.seen.iter().min_by_key(|(_, (base, _))| *base).map(|(client, _)| *client);
            oldest.and_then(|client| self.seen.remove(&client));
        }
    }

    /// Compares what a client was estimated to send with what it sent.
    pub(super) fn compare(&mut self, spec: &Decisions, update: &Update, truth: &Sketch, version: u64) {
        let Some(estimates) = self.pending.get_mut(&update.client) else { return };
        let near = |estimate: &&Estimate| estimate.version.abs_diff(update.base) <= NEAR;
        let nearest = estimates.iter().filter(near).min_by_key(|estimate| estimate.version.abs_diff(update.base));
        let found = nearest.cloned();
        // A client's later updates start from later versions.
        estimates.retain(|estimate| estimate.version > update.base);
        if estimates.is_empty() {
            self.pending.remove(&update.client);
        }
        let Some(estimate) = found else { return };
        let Some(stale) = error(&estimate.stale, truth) else { return };
        // Before the new truth: a decay that has ended keeps the error of its end.
        self.phase = self.phase(spec, version);
        self.truths += 1;
        smooth(&mut self.stale, stale, spec.smoothing);
        if let Some(inverted) = estimate.inverted.as_ref()
            && let Some(error) = error(inverted, truth)
        {
            smooth(&mut self.inverted, error, spec.smoothing);
            self.weigh(&estimate.stale, inverted, truth, spec.smoothing);
        }
        self.turn(spec, version);
    }

    /// Sums for the best blend.
    fn weigh(&mut self, stale: &Sketch, inverted: &Sketch, truth: &Sketch, smoothing: f64) {
        let less = |one: &Sketch| -> Vec<f32> { one.0.iter().zip(&stale.0).map(|(one, stale)| one - stale).collect() };
        let (inverted, wanted) = (less(inverted), less(truth));
        let size = norms::sum_of_squares(&truth.0);
        let new = [norms::dot(&inverted, &wanted) / size, norms::sum_of_squares(&inverted) / size];
        if new.iter().all(|sum| sum.is_finite()) {
            let [both, alone] = self.blend.unwrap_or(new);
            let keep = |old, new| smoothing * old + (1.0 - smoothing) * new;
            self.blend = Some([keep(both, new[0]), keep(alone, new[1])]);
        }
    }

    /// Begins or ends the switch back, as the errors of now say.
    fn turn(&mut self, spec: &Decisions, version: u64) {
        let Some(stale) = self.stale else { return };
        let inverting = match self.phase {
            Phase::Off { inverted } => inverted,
            _ => match self.inverted {
                Some(inverted) => inverted,
                None => return,
            },
        };
        self.better = if stale < spec.margin * inverting { self.better + 1 } else { 0 };
        if stale > (1.0 + spec.again) * inverting {
            if matches!(self.phase, Phase::Off { .. }) {
                // What the inversion is worth now has to be measured anew.
                (self.inverted, self.blend) = (None, None);
            }
            self.phase = Phase::Inverting;
        } else if self.phase == Phase::Inverting && self.better >= spec.patience {
            self.phase = Phase::Decaying { since: version };
        }
    }
}

/// Exponential smoothing that begins with its first value.
fn smooth(value: &mut Option<f64>, new: f64, keep: f64) {
    *value = Some(value.map_or(new, |old| keep * old + (1.0 - keep) * new));
}
