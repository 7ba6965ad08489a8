//! From the updates of a round to the next version: what clients send, which of it is turned fresh, what the server makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use swarmloom_federated::inversion::{Decisions, Treatment};
use swarmloom_federated::privacy::Protection;
use swarmloom_federated::{AggregateError, CombineError, Rule, Server, Update};
use swarmloom_population::Round;

use super::{Course, Purpose, derived};
use crate::SimulationError;
use crate::executor::{Executor, Job, Outcome};

impl Course<'_> {
    /// Makes the next version of a round's updates. Where they are too few for a robust rule or a secure sum, it is the one
    /// before again, and is counted.
    ///
    /// # Errors
    /// [`SimulationError`]; the run cannot go on then.
    pub(super) fn aggregate(
        &mut self,
        round: &Round,
        updates: Vec<Update>,
        executor: &dyn Executor,
    ) -> Result<(), SimulationError> {
        let history = self.state.history.clone();
        let past = |version: u64| history.get(&version).map(|parameters| &parameters[..]);
        let parameters = self.state.parameters.clone();
        let server = Server {
            version: round.version,
            parameters: &parameters,
            history: &past,
            clients: self.setup.population.clients,
            seed: derived(self.seed, Purpose::Strategy, 0),
        };
        let updates = self.sent(&server, updates)?;
        let mut updates = match &self.entry.rule {
            Rule::Inversion(decisions) => self.freshen(*decisions, &server, updates, executor)?,
            _ => updates,
        };
        if !self.enough(&updates) {
            self.state.record.tally.skipped += 1;
            return Ok(());
        }
        // What a secure sum that fails leaves is half changed. Rules that keep something of every client have none.
        let before = self.entry.secure.is_some().then(|| self.state.memory.clone());
        if let Some(protection @ Protection::Central { .. }) = &self.entry.protection {
            protection.protect(&mut self.state.memory, &server, &mut updates);
        }
        if let Some(secure) = &self.entry.secure {
            secure.prepare(&mut self.state.memory, &server, round.dropped);
        }
        match (self.strategy.aggregate(&mut self.state.memory, &server, &updates), before) {
            (Ok(next), _) => self.state.parameters = next.into(),
            (Err(AggregateError::Combine(CombineError::Secure(error))), Some(before))
                if error.is_for_want_of_clients() =>
            {
                self.state.memory = before;
                self.state.record.tally.skipped += 1;
            }
            (Err(error), _) => {
                let (strategy, seed) = (self.entry.name.clone(), self.seed);
                return Err(SimulationError::Aggregate { strategy, seed, error });
            }
        }
        Ok(())
    }

    /// What the server gets of the clients' updates: after local privacy, lies and compression.
    fn sent(&mut self, server: &Server<'_>, mut updates: Vec<Update>) -> Result<Vec<Update>, SimulationError> {
        if let Some(protection @ Protection::Local { .. }) = &self.entry.protection {
            protection.protect(&mut self.state.memory, server, &mut updates);
        }
        if let Some(attackers) = &self.entry.attackers {
            attackers.what.carry_out(server, &mut updates, |update| self.attackers.contains(&update.client));
        }
        if let Some(compression) = &self.entry.compression {
            for update in &mut updates {
                let residual = self.state.residuals.entry(update.client).or_default();
                let seed = derived(
                    derived(self.seed, Purpose::Compression, server.version),
                    Purpose::Compression,
                    update.client.into(),
                );
                let bytes = compression.encode(&update.delta, residual, seed);
                let decoded = compression.decode(&bytes, update.delta.len());
                update.delta = decoded.map_err(|error| SimulationError::State(error.to_string()))?;
            }
            if !compression.keeps() {
                self.state.residuals.clear();
            }
        }
        Ok(updates)
    }

    /// Turns those stale updates fresh that are worth it.
    fn freshen(
        &mut self,
        decisions: Decisions,
        server: &Server<'_>,
        updates: Vec<Update>,
        executor: &dyn Executor,
    ) -> Result<Vec<Update>, SimulationError> {
        let plan = decisions.plan(&self.state.memory, server, &updates);
        let chosen = || updates.iter().zip(&plan).filter(|(_, treatment)| **treatment == Treatment::Invert);
        let now = self.state.parameters.clone();
        let mut jobs = Vec::new();
        for (update, _) in chosen() {
            let training = self.setup.local.repeated(update.steps);
            jobs.push(Job::Invert {
                from: self.base(update.base)?,
                delta: update.delta.clone().into(),
                now: now.clone(),
                training,
                spec: self.entry.inversion,
                before: self.state.recovered.get(&update.client).cloned(),
                seed: derived(
                    derived(self.seed, Purpose::Inversion, update.base),
                    Purpose::Inversion,
                    update.client.into(),
                ),
                indices: self.indices.get(update.client as usize).cloned().unwrap_or_default(),
                version: update.base,
            });
        }
        let mut outcomes = executor.run(jobs)?.into_iter();
        let mut inverted = Vec::with_capacity(updates.len());
        for (update, treatment) in updates.iter().zip(&plan) {
            let outcome = if *treatment == Treatment::Invert { outcomes.next() } else { None };
            let Some(Outcome::Inverted { found, delta, revealed, seconds }) = outcome else {
                inverted.push(None);
                continue;
            };
            let record = &mut self.state.record;
            record.inversion_seconds += seconds;
            // What has exploded is no data: the update stays as it is, and the client's next inversion does not begin there.
            if ![found.cosine, found.norm, found.difference].iter().all(|value| value.is_finite()) {
                inverted.push(None);
                continue;
            }
            record.tally.inverted += 1;
            record.tally.cosine += f64::from(found.cosine);
            record.tally.norm += f64::from(found.norm);
            record.tally.iterations += u64::from(found.iterations);
            let sums = &mut record.tally.revealed;
            sums.labels += revealed.labels;
            sums.classified += revealed.classified;
            sums.nearness += revealed.nearness;
            self.state.recovered.insert(update.client, Arc::new(found.data));
            inverted.push(Some(delta));
        }
        Ok(decisions.settle(&mut self.state.memory, server, &updates, &inverted))
    }

    /// Whether these are enough for what stands for a mean: all of them, or in each tier where tiers have means of their own.
    /// Without any, there is nothing to take a mean of.
    fn enough(&self, updates: &[Update]) -> bool {
        let tier = |update: &Update| if matches!(self.entry.rule, Rule::FedAt(_)) { update.tier } else { 0 };
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        updates.iter().for_each(|update| *counts.entry(tier(update)).or_default() += 1);
        counts.into_values().all(|count| self.entry.combine.enough(count).is_ok())
    }
}
