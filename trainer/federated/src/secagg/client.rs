//! A client's part: keys, shares, the masked vector, and what it reveals.

use std::collections::BTreeMap;

use ring::agreement::EphemeralPrivateKey;
use ring::rand::SecureRandom;

use super::crypto::{self, Agreed, PublicKey, TAG, agree, mask, pair, seal, secret};
use super::shamir::{Secret, share};
use super::{SecAggError, Setup};

/// Bytes of one message to a neighbour: a share of each of two secrets, sealed.
pub(super) const SHARES_BYTES: usize = 2 * 32 + TAG;

/// A client's public keys, one for each neighbour.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Whose.
    pub from: u32,
    /// For whom.
    pub keys: BTreeMap<u32, PublicKey>,
}

/// A client's shared secrets.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Whose.
    pub from: u32,
    /// For each neighbour, a share of the client's own mask and one of the key to `seeds`, sealed.
    pub sealed: BTreeMap<u32, Vec<u8>>,
    /// The seeds of all masks that it shares, in the order of `sealed`, sealed with one key.
    pub seeds: Vec<u8>,
}

/// What a client reveals of its neighbours' secrets.
#[derive(Debug, Clone)]
pub struct Revealed {
    /// Who reveals.
    pub from: u32,
    /// Of those that finished, its share of their own mask.
    pub masks: BTreeMap<u32, Secret>,
    /// Of those that were lost, its share of the key to their seeds.
    pub keys: BTreeMap<u32, Secret>,
}

/// One client in one aggregation. Its steps go in their order.
#[derive(Debug)]
pub struct Client<'a> {
    setup: &'a Setup,
    name: u32,
    pairs: BTreeMap<u32, (EphemeralPrivateKey, PublicKey)>,
    agreed: BTreeMap<u32, Agreed>,
    own: Secret,
    /// Shares of the secrets of those neighbours that have shared them.
    held: BTreeMap<u32, [Secret; 2]>,
    masked: bool,
    revealed: bool,
}

impl<'a> Client<'a> {
    /// Draws its keys.
    ///
    /// # Errors
    /// [`SecAggError`] where it is no client of this aggregation or there are no random numbers.
    pub fn new(setup: &'a Setup, name: u32, random: &dyn SecureRandom) -> Result<(Self, Keys), SecAggError> {
        if setup.clients().binary_search(&name).is_err() {
            return Err(SecAggError::Message { client: name, what: "is no client of this aggregation" });
        }
        let mut pairs = BTreeMap::new();
        for neighbour in setup.neighbours(name) {
            pairs.insert(*neighbour, pair(random)?);
        }
        let keys =
            Keys { from: name, keys: pairs.iter().map(|(neighbour, (_, public))| (*neighbour, *public)).collect() };
        let own = secret(random)?;
        let client = Self {
            setup,
            name,
            pairs,
            agreed: BTreeMap::new(),
            own,
            held: BTreeMap::new(),
            masked: false,
            revealed: false,
        };
        Ok((client, keys))
    }

    /// Its name.
    pub fn name(&self) -> u32 {
        self.name
    }

    /// Shares its secrets with those neighbours whose keys have come.
    ///
    /// # Errors
    /// [`SecAggError`] where too few have.
    pub fn share(
        &mut self,
        theirs: BTreeMap<u32, PublicKey>,
        random: &dyn SecureRandom,
    ) -> Result<Shares, SecAggError> {
        for (neighbour, key) in theirs {
            let Some((private, public)) = self.pairs.remove(&neighbour) else {
                return Err(SecAggError::Message { client: neighbour, what: "is no neighbour, or sent two keys" });
            };
            let first = self.name < neighbour;
            let (names, keys) = match first {
                true => ([self.name, neighbour], [&public, &key]),
                false => ([neighbour, self.name], [&key, &public]),
            };
            let agreed = agree(private, &key, self.setup.round, names, keys);
            let agreed = agreed.ok_or(SecAggError::Message { client: neighbour, what: "sent a key that is none" })?;
            self.agreed.insert(neighbour, agreed);
        }
        self.enough(self.agreed.len())?;
        let seeds_key = secret(random)?;
        let mut shared = Vec::new();
        for secret_of in [self.own, seeds_key] {
            let coefficients = (1..self.setup.threshold).map(|_| secret(random)).collect::<Result<Vec<_>, _>>()?;
            // Places are those of all neighbours, whoever has sent a key.
            shared.push(share(&secret_of, self.setup.neighbours(self.name).len() as u8, &coefficients));
        }
        let mut sealed = BTreeMap::new();
        for (neighbour, agreed) in &self.agreed {
            let at = usize::from(place(self.setup, self.name, *neighbour)) - 1;
            let message = [shared[0][at], shared[1][at]].concat();
            let about = about(self.setup.round, self.name, *neighbour);
            let key = if self.name < *neighbour { &agreed.up } else { &agreed.down };
            sealed.insert(*neighbour, seal(key, &about, message).ok_or(SecAggError::Random)?);
        }
        let seeds: Vec<u8> = self.agreed.values().flat_map(|agreed| agreed.mask).collect();
        let about = about(self.setup.round, self.name, self.name);
        let seeds = seal(&seeds_key, &about, seeds).ok_or(SecAggError::Random)?;
        Ok(Shares { from: self.name, sealed, seeds })
    }

    /// Opens what its neighbours have shared with it. Those whose shares do not come are no neighbours any more.
    ///
    /// # Errors
    /// [`SecAggError`] where too few have come, or one cannot be opened.
    pub fn receive(&mut self, sealed: BTreeMap<u32, Vec<u8>>) -> Result<(), SecAggError> {
        for (from, sealed) in sealed {
            let wrong = SecAggError::Message { client: from, what: "sent shares that cannot be opened" };
            let agreed = self.agreed.get(&from).ok_or(wrong.clone())?;
            let key = if from < self.name { &agreed.up } else { &agreed.down };
            let message = crypto::open(key, &about(self.setup.round, from, self.name), sealed).ok_or(wrong.clone())?;
            let [own, seeds] = message.as_chunks().0 else { return Err(wrong) };
            self.held.insert(from, [*own, *seeds]);
        }
        self.enough(self.held.len())
    }

    /// Its vector, masked: once, since two vectors with one mask would tell their difference.
    ///
    /// # Errors
    /// [`SecAggError::Saturated`] where a value is beyond the limit.
    pub fn mask(&mut self, values: &[f32]) -> Result<Vec<u32>, SecAggError> {
        if self.masked {
            return Err(SecAggError::Message { client: self.name, what: "has sent its vector" });
        }
        if values.len() != self.setup.length {
            return Err(SecAggError::Message { client: self.name, what: "has a vector of another length" });
        }
        let mut masked = self.setup.number.encode(self.name, values)?;
        self.masked = true;
        mask(&self.own, &mut masked, true).ok_or(SecAggError::Random)?;
        for neighbour in self.held.keys() {
            let agreed = &self.agreed[neighbour];
            mask(&agreed.mask, &mut masked, self.name < *neighbour).ok_or(SecAggError::Random)?;
        }
        Ok(masked)
    }

    /// Reveals, once, what takes the masks off the sum of those that finished (ascending). Of no neighbour does it reveal both
    /// secrets.
    ///
    /// # Errors
    /// [`SecAggError`] where the sum would tell more than a sum should.
    pub fn reveal(&mut self, finished: &[u32]) -> Result<Revealed, SecAggError> {
        let wrong = |what| SecAggError::Message { client: self.name, what };
        if self.revealed {
            return Err(wrong("was asked for its shares again"));
        }
        if !finished.is_sorted_by(|one, other| one < other) || finished.binary_search(&self.name).is_err() {
            return Err(wrong("was told of others that finished without it"));
        }
        if finished.len() < self.setup.least {
            return Err(SecAggError::TooFew { found: finished.len(), wanted: self.setup.least });
        }
        if !self.setup.graph.connected(finished) {
            return Err(SecAggError::Disconnected);
        }
        self.enough(self.held.keys().filter(|neighbour| finished.binary_search(neighbour).is_ok()).count())?;
        self.revealed = true;
        let (mut masks, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for (neighbour, [own, seeds]) in &self.held {
            match finished.binary_search(neighbour) {
                Ok(_) => masks.insert(*neighbour, *own),
                Err(_) => keys.insert(*neighbour, *seeds),
            };
        }
        Ok(Revealed { from: self.name, masks, keys })
    }

    /// Refuses to go on with fewer neighbours than make a secret.
    fn enough(&self, found: usize) -> Result<(), SecAggError> {
        let wanted = self.setup.threshold;
        if found < wanted { Err(SecAggError::Lost { client: self.name, found, wanted }) } else { Ok(()) }
    }
}

/// A neighbour's place in the sharing of a client's secrets: from 1 on.
pub(super) fn place(setup: &Setup, client: u32, neighbour: u32) -> u8 {
    setup.neighbours(client).binary_search(&neighbour).map_or(0, |at| at as u8 + 1)
}

/// What a seal is about.
pub(super) fn about(round: u64, from: u32, to: u32) -> [u8; 16] {
    let mut about = [0; 16];
    about[..8].copy_from_slice(&round.to_le_bytes());
    about[8..12].copy_from_slice(&from.to_le_bytes());
    about[12..].copy_from_slice(&to.to_le_bytes());
    about
}
