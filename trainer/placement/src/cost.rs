//! Which machines to rent: mixes of offers that reach a target, cheapest first.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::plan::{Choice, Job, Plan, evaluate, plan};
use crate::topology::{ClusterNet, Link, Machine, Topology, TopologyError};

/// Mixes that are planned at most. Each costs as much as one call of [`plan`](crate::plan::plan()).
const MOST_MIXES: usize = 256;

/// Machines of one kind that can be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// What its ranks compute on.
    pub device: String,
    /// Of one host, in whatever currency.
    pub price_per_hour: f64,
    /// Of one rank, relative to the machine on which the times of layers were measured.
    pub speed: f64,
    /// How far off the speed may be, as a part of it.
    pub speed_error: f64,
    /// Of one rank.
    pub memory_bytes: u64,
    /// Ranks on a host.
    pub ranks_per_host: usize,
    /// Hosts that can be had.
    pub available: usize,
    /// Between the ranks of a host.
    pub inside_host: Link,
    /// Between hosts of this offer.
    pub between_hosts: Link,
}

/// What has to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Steps of the whole training.
    pub steps: u64,
    /// Seconds in which they have to be done.
    pub seconds: f64,
}

/// Hosts of several offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// By offer.
    pub hosts: Vec<usize>,
    /// Of all hosts.
    pub price_per_hour: f64,
    /// Of the whole training at the predicted speed.
    pub price: f64,
    /// Predicted seconds of a step.
    pub step_s: f64,
    /// The same, if all machines are as much faster or slower as their offers say they may be.
    pub step_range_s: (f64, f64),
    /// Predicted seconds of all steps.
    pub seconds: f64,
    /// What the machines would do.
    pub plan: Plan,
}

/// Why no mix was found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// A number that cannot be.
    #[error("{what} is {found}: {expected}")]
    Number {
        /// What it belongs to.
        what: String,
        /// Its value.
        found: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// An offer's links or numbers cannot be.
    #[error(transparent)]
    Offer(#[from] TopologyError),
    /// Nothing that can be had is fast enough.
    #[error("none of {tried} mixes does a step in {target_s:.3} s; the fastest takes {fastest_s:.3} s")]
    Slow {
        /// How many were tried.
        tried: usize,
        /// What was asked for.
        target_s: f64,
        /// What can be had; infinite if the model fits none.
        fastest_s: f64,
    },
}

/// The mixes that reach the target, cheapest first. Each offer is a cluster; `between` joins any two. All numbers of hosts are tried
/// if these are few, otherwise none, powers of two, and all. A mix that could not reach the target even if its ranks did nothing but
/// arithmetic is left out, and so is one of more than 256 that cost more by the hour than those.
///
/// # Errors
/// If a number cannot be, or no mix reaches the target.
pub fn cheapest(
    offers: &[Offer],
    between: Link,
    model: &Model,
    job: &Job,
    target: Target,
) -> Result<Vec<Mix>, CostError> {
    check(offers, target)?;
    let target_s = target.seconds / target.steps as f64;
    let work_s: f64 = model
        .layers
        .iter()
        .map(|layer| {
            let passes = [layer.forward_s, layer.input_gradient_s, layer.weight_gradient_s];
            passes.iter().map(|it| it.per_sequence_s).sum::<f64>()
        })
        .sum::<f64>()
        * job.global_batch as f64;
    let price =
        |hosts: &[usize]| hosts.iter().zip(offers).map(|(n, offer)| *n as f64 * offer.price_per_hour).sum::<f64>();
    let speed = |hosts: &[usize]| {
        hosts.iter().zip(offers).map(|(n, it)| (*n * it.ranks_per_host) as f64 * it.speed).sum::<f64>()
    };
    let all = mixes(offers);
    let tried = all.len();
    let mut fastest_s = all.iter().map(|hosts| work_s / speed(hosts)).fold(f64::INFINITY, f64::min);
    let mut fast: Vec<Vec<usize>> = all.into_iter().filter(|hosts| work_s / speed(hosts) <= target_s).collect();
    fast.sort_by(|a, b| price(a).total_cmp(&price(b)));
    fast.truncate(MOST_MIXES);
    if !fast.is_empty() {
        fastest_s = f64::INFINITY;
    }
    let mut found = Vec::new();
    for hosts in fast {
        let topology = topology(offers, &hosts, between, 0.0)?;
        let Ok(ranking) = plan(&topology, model, job) else { continue };
        let plan = ranking.best;
        let step_s = plan.predicted.step_s;
        fastest_s = fastest_s.min(step_s);
        if step_s > target_s {
            continue;
        }
        let again = |factor: f64| -> Result<f64, CostError> {
            let topology = self::topology(offers, &hosts, between, factor)?;
            let seconds = evaluate(&topology, model, job, &choice(&plan)).map(|plan| plan.predicted.step_s);
            Ok(seconds.unwrap_or(step_s))
        };
        let step_range_s = (again(1.0)?, again(-1.0)?);
        let seconds = step_s * target.steps as f64;
        let price_per_hour = price(&hosts);
        found.push(Mix {
            price: price_per_hour * seconds / 3600.0,
            hosts,
            price_per_hour,
            step_s,
            step_range_s,
            seconds,
            plan,
        });
    }
    if found.is_empty() {
        return Err(CostError::Slow { tried, target_s, fastest_s });
    }
    found.sort_by(|a, b| a.price.total_cmp(&b.price));
    Ok(found)
}

fn check(offers: &[Offer], target: Target) -> Result<(), CostError> {
    let number = |what: String, found: f64, good: bool, expected| {
        if good { Ok(()) } else { Err(CostError::Number { what, found, expected }) }
    };
    number("the number of offers".into(), 0.0, !offers.is_empty(), "at least one is needed")?;
    number("target: steps".into(), target.steps as f64, target.steps > 0, "at least one is needed")?;
    number("target: seconds".into(), target.seconds, target.seconds > 0.0, "a positive number is needed")?;
    for offer in offers {
        let (error, price) = (offer.speed_error, offer.price_per_hour);
        let of = |what: &str| format!("offer {}: {what}", offer.device);
        number(of("speed_error"), error, (0.0..1.0).contains(&error), "a part from 0 to less than 1 is needed")?;
        number(of("price_per_hour"), price, price >= 0.0 && price.is_finite(), "a price is zero or more")?;
    }
    Ok(())
}

/// The choice that a plan has made.
fn choice(plan: &Plan) -> Choice {
    let count = plan.stages.len() * plan.chunks;
    let layers = (0..count).map(|it| {
        let held = &plan.stages[it % plan.stages.len()].layers[it / plan.stages.len()];
        held.end - held.start
    });
    Choice {
        mesh: plan.mesh,
        layout: plan.layout,
        collective: Some(plan.collective),
        kind: plan.schedule,
        chunks: plan.chunks,
        micro_batch: plan.micro_batch,
        recompute: plan.recompute,
        layers: Some(layers.collect()),
    }
}

/// Numbers of hosts by offer, not all zero.
fn mixes(offers: &[Offer]) -> Vec<Vec<usize>> {
    let all = offers.iter().fold(1_usize, |all, offer| all.saturating_mul(offer.available + 1));
    let counts = |offer: &Offer| -> Vec<usize> {
        if all <= 4 * MOST_MIXES {
            return (0..=offer.available).collect();
        }
        let powers =
            std::iter::successors(Some(1_usize), |it| it.checked_mul(2)).take_while(|it| *it < offer.available);
        let last = (offer.available > 0).then_some(offer.available);
        std::iter::once(0).chain(powers).chain(last).collect()
    };
    let mut mixes: Vec<Vec<usize>> = vec![Vec::new()];
    for offer in offers {
        let counts = counts(offer);
        let longer = mixes.iter().flat_map(|mix| {
            counts.iter().map(move |count| mix.iter().copied().chain(std::iter::once(*count)).collect())
        });
        // Some thousands are enough to choose from.
        mixes = longer.take(64 * MOST_MIXES).collect();
    }
    mixes.retain(|mix| mix.iter().any(|hosts| *hosts > 0));
    mixes
}

/// The machines of a mix, with speeds off by `factor` times their error.
fn topology(offers: &[Offer], hosts: &[usize], between: Link, factor: f64) -> Result<Topology, TopologyError> {
    let mut topology = Topology { ranks: Vec::new(), hosts: Vec::new(), clusters: Vec::new(), between: Vec::new() };
    for (offer, hosts) in offers.iter().zip(hosts).filter(|(_, hosts)| **hosts > 0) {
        let cluster = topology.clusters.len();
        topology.clusters.push(ClusterNet { name: offer.device.clone(), link: offer.between_hosts });
        for _ in 0..*hosts {
            let machine = Machine {
                host: topology.hosts.len(),
                cluster,
                speed: offer.speed * (1.0 + factor * offer.speed_error),
                memory_bytes: offer.memory_bytes,
                device: offer.device.clone(),
            };
            topology.hosts.push(offer.inside_host);
            topology.ranks.extend(std::iter::repeat_n(machine, offer.ranks_per_host));
        }
    }
    topology.between = vec![vec![between; topology.clusters.len()]; topology.clusters.len()];
    topology.validate()?;
    Ok(topology)
}
