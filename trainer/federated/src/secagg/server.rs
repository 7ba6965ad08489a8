//! The server's part: it hands messages on, adds masked vectors up, and takes off what is left of the masks.

use std::collections::BTreeMap;

use super::client::{Keys, Revealed, Shares, about, place};
use super::crypto::{PublicKey, mask, open};
use super::shamir::{Secret, recover};
use super::{SecAggError, Setup};

/// The server in one aggregation.
#[derive(Debug)]
pub struct Server<'a> {
    setup: &'a Setup,
    keys: BTreeMap<u32, BTreeMap<u32, PublicKey>>,
    shares: BTreeMap<u32, Shares>,
    sum: Vec<u32>,
    finished: Vec<u32>,
    /// Revealed shares with their places, of each client's own mask or of the key to its seeds.
    masks: BTreeMap<u32, Vec<(u8, Secret)>>,
    seeds: BTreeMap<u32, Vec<(u8, Secret)>>,
}

impl<'a> Server<'a> {
    /// Before any message.
    pub fn new(setup: &'a Setup) -> Self {
        let sum = vec![0; setup.length];
        Self {
            setup,
            keys: BTreeMap::new(),
            shares: BTreeMap::new(),
            sum,
            finished: Vec::new(),
            masks: BTreeMap::new(),
            seeds: BTreeMap::new(),
        }
    }

    /// Takes a client's keys.
    ///
    /// # Errors
    /// [`SecAggError::Message`] where they are not for its neighbours.
    pub fn keys(&mut self, keys: Keys) -> Result<(), SecAggError> {
        if !keys.keys.keys().eq(self.setup.neighbours(keys.from)) {
            return Err(SecAggError::Message { client: keys.from, what: "sent keys that are not for its neighbours" });
        }
        self.keys.insert(keys.from, keys.keys);
        Ok(())
    }

    /// The keys that a client's neighbours have sent for it.
    pub fn keys_for(&self, client: u32) -> BTreeMap<u32, PublicKey> {
        let neighbours = self.setup.neighbours(client).iter();
        neighbours.filter_map(|other| Some((*other, *self.keys.get(other)?.get(&client)?))).collect()
    }

    /// Takes a client's shares. All are there before any is handed on: whose are not is no neighbour any more.
    ///
    /// # Errors
    /// [`SecAggError::Message`] where it sent no keys.
    pub fn shares(&mut self, shares: Shares) -> Result<(), SecAggError> {
        if !self.keys.contains_key(&shares.from) {
            return Err(SecAggError::Message { client: shares.from, what: "shares secrets but sent no keys" });
        }
        self.shares.insert(shares.from, shares);
        Ok(())
    }

    /// The shares that a client's neighbours have sent for it.
    pub fn shares_for(&self, client: u32) -> BTreeMap<u32, Vec<u8>> {
        let neighbours = self.setup.neighbours(client).iter();
        neighbours.filter_map(|other| Some((*other, self.shares.get(other)?.sealed.get(&client)?.clone()))).collect()
    }

    /// Adds a client's masked vector.
    ///
    /// # Errors
    /// [`SecAggError::Message`] where it may not, or the length is wrong.
    pub fn masked(&mut self, client: u32, values: &[u32]) -> Result<(), SecAggError> {
        let wrong = |what| Err(SecAggError::Message { client, what });
        if !self.shares.contains_key(&client) {
            return wrong("sent a vector but shared no secrets");
        }
        if values.len() != self.sum.len() {
            return wrong("sent a vector of another length");
        }
        let Err(at) = self.finished.binary_search(&client) else { return wrong("sent two vectors") };
        self.finished.insert(at, client);
        for (sum, value) in self.sum.iter_mut().zip(values) {
            *sum = sum.wrapping_add(*value);
        }
        Ok(())
    }

    /// Ends the collection: those that finished, ascending. All of them are to be told.
    ///
    /// # Errors
    /// [`SecAggError`] where they are too few, or not connected.
    pub fn finished(&self) -> Result<Vec<u32>, SecAggError> {
        if self.finished.len() < self.setup.least {
            return Err(SecAggError::TooFew { found: self.finished.len(), wanted: self.setup.least });
        }
        if !self.setup.graph.connected(&self.finished) {
            return Err(SecAggError::Disconnected);
        }
        Ok(self.finished.clone())
    }

    /// Takes what a client revealed.
    ///
    /// # Errors
    /// [`SecAggError::Message`] where it is about others than its neighbours.
    pub fn revealed(&mut self, revealed: Revealed) -> Result<(), SecAggError> {
        let from = revealed.from;
        for (all, into) in [(revealed.masks, &mut self.masks), (revealed.keys, &mut self.seeds)] {
            for (of, share) in all {
                let place = place(self.setup, of, from);
                let shares: &mut Vec<(u8, Secret)> = into.entry(of).or_default();
                if place == 0 || shares.iter().any(|(other, _)| *other == place) {
                    return Err(SecAggError::Message { client: from, what: "reveals what it cannot hold" });
                }
                shares.push((place, share));
            }
        }
        Ok(())
    }

    /// The sum of those that finished, with all masks taken off.
    ///
    /// # Errors
    /// [`SecAggError::Lost`] where too few shares of a secret were revealed.
    pub fn sum(mut self) -> Result<Vec<f64>, SecAggError> {
        let mut sum = std::mem::take(&mut self.sum);
        for client in self.shares.keys() {
            if self.finished.binary_search(client).is_ok() {
                let own = self.secret(&self.masks, *client)?;
                mask(&own, &mut sum, false).ok_or(SecAggError::Random)?;
                continue;
            }
            // What its neighbours share with it has no counterpart in the sum.
            for (neighbour, seed) in self.seeds_of(*client)? {
                if self.finished.binary_search(&neighbour).is_ok() {
                    mask(&seed, &mut sum, neighbour > *client).ok_or(SecAggError::Random)?;
                }
            }
        }
        Ok(self.setup.number.decode(&sum))
    }

    /// The seeds of the masks that a lost client shares.
    fn seeds_of(&self, client: u32) -> Result<Vec<(u32, Secret)>, SecAggError> {
        let shares = &self.shares[&client];
        // Nobody's mask has its seeds if none of its neighbours finished.
        if !shares.sealed.keys().any(|neighbour| self.finished.binary_search(neighbour).is_ok()) {
            return Ok(Vec::new());
        }
        let key = self.secret(&self.seeds, client)?;
        let wrong = SecAggError::Message { client, what: "sealed its seeds with another key" };
        let seeds = open(&key, &about(self.setup.round, client, client), shares.seeds.clone()).ok_or(wrong)?;
        Ok(shares.sealed.keys().copied().zip(seeds.as_chunks().0.iter().copied()).collect())
    }

    fn secret(&self, of: &BTreeMap<u32, Vec<(u8, Secret)>>, client: u32) -> Result<Secret, SecAggError> {
        let shares = of.get(&client).map_or(&[][..], Vec::as_slice);
        let wanted = self.setup.threshold;
        let enough = shares.get(..wanted).ok_or(SecAggError::Lost { client, found: shares.len(), wanted })?;
        Ok(recover(enough))
    }
}
