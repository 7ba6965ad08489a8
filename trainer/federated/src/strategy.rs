//! What every rule does, and what all of them have in common.

pub mod adaptive;
pub mod asynchronous;
pub mod average;
pub mod nova;
pub mod prediction;
#[cfg(test)]
mod tests;
pub mod tiers;
pub mod variates;

use std::borrow::Cow;

use swarmloom_kernels::norms;

use crate::combine::{self, Combine, CombineError, Weights};
use crate::memory::Memory;
use crate::rule::{Rule, RuleError};
use crate::secagg::SecAggError;
use crate::update::{Local, Server, Start, Update};

/// A rule together with the mean that it takes.
pub trait Strategy: Send + Sync + std::fmt::Debug {
    /// What a client does that plain training does not.
    fn local(&self) -> Local {
        Local::default()
    }

    /// Whether old versions are asked for: those that updates started from.
    fn history(&self) -> bool {
        false
    }

    /// Where a client starts that starts now: called with the memory and the server of that moment.
    fn start(&self, memory: &Memory, client: u32, server: &Server<'_>) -> Start {
        let _ = (memory, client, server);
        Start::default()
    }

    /// What a client's control variate changed by, where it keeps one: [`Update::control`]. `start` is what
    /// [`Strategy::start`] gave it, `delta` what `steps` of that learning rate made of it.
    fn control(
        &self,
        memory: &Memory,
        client: u32,
        start: &Start,
        delta: &[f32],
        steps: u32,
        learning_rate: f64,
    ) -> Option<Vec<f32>> {
        let _ = (memory, client, start, delta, steps, learning_rate);
        None
    }

    /// Parameters of the next version, `[parameters]`. Without updates, those of this one.
    ///
    /// # Errors
    /// [`AggregateError`]; the memory may be half changed then.
    fn aggregate(
        &self,
        memory: &mut Memory,
        server: &Server<'_>,
        updates: &[Update],
    ) -> Result<Vec<f32>, AggregateError>;
}

/// Why there is no next version.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// An update of the wrong length.
    #[error("the update of client {client} has {found} values, the model {wanted}")]
    Length {
        /// Whose.
        client: u32,
        /// Its values.
        found: usize,
        /// Those of the model.
        wanted: usize,
    },
    /// The next version is not made of numbers.
    #[error("version {version} has values that are no numbers{}", of(*client))]
    NotFinite {
        /// The version that was to be made.
        version: u64,
        /// The first client whose update has such values, where one has.
        client: Option<u32>,
    },
    /// An old version is needed and was not kept.
    #[error("client {client} started from version {base}, which is kept no longer")]
    Version {
        /// Whose update needs it.
        client: u32,
        /// The version.
        base: u64,
    },
    /// The client should have sent its control variate's change.
    #[error("client {client} sent no control variate")]
    Control {
        /// Which.
        client: u32,
    },
    /// The mean, or what stands for it.
    #[error(transparent)]
    Combine(#[from] CombineError),
}

fn of(client: Option<u32>) -> String {
    client.map(|client| format!(": client {client} sent some")).unwrap_or_default()
}

/// The strategy of a rule.
///
/// # Errors
/// [`RuleError`] where a setting is out of range or the rule cannot take such a mean.
pub fn strategy(rule: &Rule, combine: &Combine) -> Result<Box<dyn Strategy>, RuleError> {
    let combine = combine.clone();
    Ok(match rule.clone() {
        Rule::FedAvg(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedProx(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Scaffold(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedNova(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedAdam(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedYogi(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedAdagrad(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedAsync(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedBuff(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Fadas(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Ca2Fl(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FedAt(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Port(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Direct(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Weighted(rule) => Box::new(Of::new(rule, combine)?),
        Rule::FirstOrder(rule) => Box::new(Of::new(rule, combine)?),
        Rule::WeightPrediction(rule) => Box::new(Of::new(rule, combine)?),
        Rule::Inversion(rule) => Box::new(Of::new(rule, combine)?),
    })
}

/// A rule's settings and its mean.
#[derive(Debug)]
pub(crate) struct Of<R> {
    pub(crate) rule: R,
    pub(crate) combine: Combine,
}

/// Settings that can be wrong.
pub(crate) trait Checked: Sized {
    /// Whether values are in range, and whether the mean is one that the rule can take.
    fn check(&self, combine: &Combine) -> Result<(), RuleError>;
}

impl<R: Checked> Of<R> {
    pub(crate) fn new(rule: R, combine: Combine) -> Result<Self, RuleError> {
        rule.check(&combine)?;
        if let Some((what, found, allowed)) = combine.fault() {
            return Err(RuleError::Value { rule: combine.name(), what, found, allowed });
        }
        Ok(Self { rule, combine })
    }
}

/// Updates of the right length, with what each weighs.
pub(crate) struct Arrived<'a> {
    pub(crate) updates: &'a [Update],
    pub(crate) weights: Vec<f64>,
}

/// Lengths checked; `None` without updates.
pub(crate) fn arrived<'a>(
    server: &Server<'_>,
    updates: &'a [Update],
    combine: &Combine,
    own: Weights,
) -> Result<Option<Arrived<'a>>, AggregateError> {
    let wanted = server.parameters.len();
    if let Some(update) = updates.iter().find(|update| update.delta.len() != wanted) {
        return Err(AggregateError::Length { client: update.client, found: update.delta.len(), wanted });
    }
    let samples: Vec<u32> = updates.iter().map(|update| update.samples).collect();
    Ok((!updates.is_empty()).then(|| Arrived { updates, weights: combine.weights(&samples, own) }))
}

impl Arrived<'_> {
    /// The deltas' combination.
    pub(crate) fn mean(&self, combine: &Combine, state: &mut combine::State) -> Result<Vec<f32>, AggregateError> {
        self.combined(combine, state, &vec![1.0; self.updates.len()])
    }

    /// The deltas' combination, each times its scale.
    pub(crate) fn combined(
        &self,
        combine: &Combine,
        state: &mut combine::State,
        scales: &[f64],
    ) -> Result<Vec<f32>, AggregateError> {
        let vectors: Vec<&[f32]> = self.updates.iter().map(|update| update.delta.as_slice()).collect();
        self.run(combine, state, &vectors, scales)
    }

    /// The combination of what `change` makes of the deltas; `None` leaves one as it is.
    pub(crate) fn changed(
        &self,
        combine: &Combine,
        state: &mut combine::State,
        mut change: impl FnMut(&Update) -> Result<Option<Vec<f32>>, AggregateError>,
    ) -> Result<Vec<f32>, AggregateError> {
        let changed: Vec<Cow<'_, [f32]>> = self
            .updates
            .iter()
            .map(|update| Ok(change(update)?.map_or(Cow::Borrowed(update.delta.as_slice()), Cow::Owned)))
            .collect::<Result<_, AggregateError>>()?;
        let vectors: Vec<&[f32]> = changed.iter().map(AsRef::as_ref).collect();
        self.run(combine, state, &vectors, &vec![1.0; vectors.len()])
    }

    fn run(
        &self,
        combine: &Combine,
        state: &mut combine::State,
        vectors: &[&[f32]],
        scales: &[f64],
    ) -> Result<Vec<f32>, AggregateError> {
        combine.run(state, vectors, &self.weights, scales).map_err(|mut error| {
            // A secure sum knows clients by their places.
            if let CombineError::Secure(SecAggError::Saturated { client, .. }) = &mut error {
                *client = self.updates.get(*client as usize).map_or(*client, |update| update.client);
            }
            error.into()
        })
    }
}

/// `parameters + rate * step`, if those are numbers.
pub(crate) fn moved(
    server: &Server<'_>,
    updates: &[Update],
    rate: f64,
    step: &[f32],
) -> Result<Vec<f32>, AggregateError> {
    let rate = rate as f32;
    finite(server, updates, server.parameters.iter().zip(step).map(|(value, step)| value + rate * step).collect())
}

/// What was given, if its values are numbers.
pub(crate) fn finite(server: &Server<'_>, updates: &[Update], next: Vec<f32>) -> Result<Vec<f32>, AggregateError> {
    if norms::max_abs(&next).is_finite() {
        return Ok(next);
    }
    let client = updates.iter().find(|update| !norms::max_abs(&update.delta).is_finite()).map(|update| update.client);
    Err(AggregateError::NotFinite { version: server.version + 1, client })
}

/// Parameters that an update started from.
pub(crate) fn base<'a>(server: &Server<'a>, update: &Update) -> Result<&'a [f32], AggregateError> {
    let missing = AggregateError::Version { client: update.client, base: update.base };
    let old = if update.base == server.version { Some(server.parameters) } else { (server.history)(update.base) };
    old.filter(|old| old.len() == server.parameters.len()).ok_or(missing)
}

/// For rules that take updates one by one.
pub(crate) fn only_mean(rule: &'static str, combine: &Combine) -> Result<(), RuleError> {
    if combine.individual() { Err(RuleError::Combine { rule, by: combine.name() }) } else { Ok(()) }
}
