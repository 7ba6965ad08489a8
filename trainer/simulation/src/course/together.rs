//! What a strategy's settings have to do with those of the simulation: what follows from both, and what excludes each other.

use swarmloom_federated::attack::Attack;
use swarmloom_federated::privacy::Protection;
use swarmloom_federated::{Rule, secagg};
use swarmloom_population::{Mode, Selection};

use super::{Entry, Setup};
use crate::SimulationError;

/// Updates of an aggregation in which nobody is missing.
fn expected(mode: &Mode) -> u32 {
    match *mode {
        Mode::Synchronous { per_round, .. } | Mode::SemiAsynchronous { per_round, .. } => per_round,
        Mode::Asynchronous { .. } => 1,
        Mode::Buffered { buffer, .. } => buffer,
        Mode::Tiered { per_tier, .. } => per_tier,
    }
}

/// Gives the rule what it has to know of the server and the clients.
///
/// # Errors
/// [`SimulationError::Setting`] with what does not go together.
pub(super) fn settle(setup: &Setup<'_>, entry: &mut Entry) -> Result<(), SimulationError> {
    let name = entry.name.clone();
    let refuse = |why: String| Err(SimulationError::Setting { strategy: name.clone(), why });
    let (local, expected) = (&setup.local, expected(&entry.mode));
    match &mut entry.rule {
        Rule::FedAt(rule) => {
            let tiers = match entry.mode {
                Mode::Tiered { tiers, .. } => tiers,
                Mode::SemiAsynchronous { .. } => 2,
                Mode::Synchronous { .. } | Mode::Asynchronous { .. } | Mode::Buffered { .. } => 1,
            };
            let own = *rule.tiers.get_or_insert(tiers);
            if own != tiers {
                return refuse(format!("`tiers` is {own}, but the server has {tiers}; leave it out"));
            }
        }
        Rule::FedNova(rule) => {
            let own = *rule.momentum.get_or_insert(local.momentum);
            if own != local.momentum {
                return refuse(format!("`momentum` is {own}, but clients have {}; leave it out", local.momentum));
            }
        }
        Rule::Scaffold(_) if local.momentum > 0.0 => {
            return refuse("control variates are of steps without momentum: set local.momentum to 0".into());
        }
        Rule::Inversion(_) if local.proximal > 0.0 => {
            return refuse("an inversion repeats steps without a proximal term: set local.proximal to 0".into());
        }
        _ => {}
    }
    if let Err(error) = entry.combine.enough(expected as usize) {
        return refuse(error.to_string());
    }
    if let Some(Err(error)) = entry.secure.as_ref().map(|secure| secure.check(expected as usize)) {
        return refuse(format!("secure aggregation of {expected} updates at a time: {error}"));
    }
    let draws = matches!(entry.mode, Mode::Synchronous { .. } | Mode::SemiAsynchronous { .. });
    if matches!(entry.protection, Some(Protection::Central { .. })) && !draws {
        let why = "central privacy covers one update of a client in an aggregation, and here quick ones may have several: \
                   take a synchronous or semi_asynchronous server";
        return refuse(why.into());
    }
    let classes = setup.data.classes;
    let named = match entry.attackers.map(|attackers| attackers.what) {
        Some(Attack::LabelFlip { from, to }) => [from, to],
        _ => [None, None],
    };
    if let Some(label) = named.into_iter().flatten().find(|label| usize::from(*label) >= classes) {
        return refuse(format!("label-flip: there are {classes} classes, counted from 0, and none is {label}"));
    }
    Ok(())
}

/// Bytes to and from a client for a task.
///
/// # Errors
/// [`SimulationError::Setting`] where there can be no secure sum.
pub(super) fn bytes(setup: &Setup<'_>, entry: &Entry) -> Result<[u64; 2], SimulationError> {
    let parameters = setup.model.parameters();
    // SCAFFOLD's control variates travel with the models.
    let vectors = if matches!(entry.rule, Rule::Scaffold(_)) { 2 } else { 1 };
    let plain = vectors * 4 * parameters as u64;
    let up = entry
        .compression
        .map_or(plain, |compression| compression.bytes(parameters) as u64 + plain - 4 * parameters as u64);
    let Some(secure) = &entry.secure else { return Ok([plain, up]) };
    let clients: Vec<u32> = (0..expected(&entry.mode)).collect();
    let refuse =
        |error: secagg::SecAggError| SimulationError::Setting { strategy: entry.name.clone(), why: error.to_string() };
    let [sent, received] = secagg::Setup::new(secure, 0, &clients, parameters, 0).map_err(refuse)?.bytes(0);
    Ok([plain + received, sent])
}

/// The part of all clients that an aggregation draws, where each has the same chance.
pub(super) fn drawn(entry: &Entry, clients: u32) -> Option<f64> {
    let selected = match entry.mode {
        // Whoever is quick enough counts, of all who were selected.
        Mode::Synchronous { per_round, over_selection, .. } => (f64::from(per_round) * (1.0 + over_selection)).ceil(),
        Mode::SemiAsynchronous { per_round, .. } => f64::from(per_round),
        Mode::Asynchronous { .. } | Mode::Buffered { .. } | Mode::Tiered { .. } => return None,
    };
    (entry.selection == Selection::Uniform).then(|| (selected / f64::from(clients.max(1))).min(1.0))
}
