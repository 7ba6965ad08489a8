//! The partitions, one by one. What they promise is said where they are named.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::check::{FieldError, within, wrong};
use crate::random::{Purpose, Stream};

/// What is dealt, and to how many.
pub(super) struct Dealer<'a> {
    pub(super) labels: &'a [u8],
    pub(super) clients: u32,
    pub(super) samples_per_client: Option<u32>,
    pub(super) seed: u64,
}

/// Cards in random order, dealt again in a new one when all are dealt.
struct Deck {
    cards: Vec<u32>,
    at: usize,
    stream: Stream,
}

impl Deck {
    fn new(mut cards: Vec<u32>, mut stream: Stream) -> Self {
        stream.shuffle(&mut cards);
        Self { cards, at: 0, stream }
    }

    /// The next `count` cards; none of them twice if there are as many. None at all from an empty deck.
    fn take(&mut self, count: usize) -> Vec<u32> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count && !self.cards.is_empty() {
            let rest = (self.cards.len() - self.at).min(count - taken.len());
            taken.extend(self.cards.iter().skip(self.at).take(rest));
            self.at += rest;
            if self.at == self.cards.len() {
                // What this taker has of the old order comes last in the new one.
                let held = rest.min(self.cards.len());
                let others = self.cards.len() - held;
                let (first, last) = self.cards.split_at_mut(others);
                self.stream.shuffle(first);
                self.stream.shuffle(last);
                self.at = 0;
            }
        }
        taken
    }
}

impl Dealer<'_> {
    fn stream(&self, purpose: Purpose, key: u64) -> Stream {
        Stream::new(self.seed, purpose, key, 0)
    }

    fn samples(&self) -> usize {
        self.labels.len()
    }

    /// Samples that all clients hold together.
    fn total(&self) -> u64 {
        match self.samples_per_client {
            Some(samples) => u64::from(samples) * u64::from(self.clients),
            None => self.samples() as u64,
        }
    }

    /// Samples of a client where all have equally many, give or take one.
    fn size(&self, client: u32) -> usize {
        let (all, clients) = (self.samples(), self.clients as usize);
        match self.samples_per_client {
            Some(samples) => samples as usize,
            None => all / clients + usize::from((client as usize) < all % clients),
        }
    }

    /// Samples of each class that is there, in order.
    fn by_class(&self) -> Vec<Vec<u32>> {
        let mut classes: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for (index, &label) in (0u32..).zip(self.labels) {
            classes.entry(label).or_default().push(index);
        }
        classes.into_values().collect()
    }

    fn decks(&self) -> Vec<Deck> {
        let classes = (0u64..).zip(self.by_class());
        classes.map(|(class, cards)| Deck::new(cards, self.stream(Purpose::Partition, class))).collect()
    }

    /// That all clients can have `least` samples.
    pub(super) fn checked_least(&self, least: u32) -> Result<u32, FieldError> {
        let most = (self.total() / u64::from(self.clients)).min(u64::from(u32::MAX)) as u32;
        if most == 0 {
            let message = format!("{} clients share {} samples; set it", self.clients, self.samples());
            return Err(wrong("samples_per_client", message));
        }
        within("partition.least", least, 1..=most)?;
        Ok(least)
    }

    pub(super) fn iid(&self) -> Vec<Vec<u32>> {
        let mut deck = Deck::new((0..self.samples() as u32).collect(), self.stream(Purpose::Partition, 0));
        (0..self.clients).map(|client| deck.take(self.size(client))).collect()
    }

    pub(super) fn classes(&self, per_client: u32) -> Result<Vec<Vec<u32>>, FieldError> {
        let mut decks = self.decks();
        within("partition.per_client", per_client, 1..=decks.len() as u32)?;
        if u64::from(self.clients) * u64::from(per_client) < decks.len() as u64 {
            let (clients, classes) = (self.clients, decks.len());
            let message = format!("{clients} clients with {per_client} classes each cannot hold all {classes} classes");
            return Err(wrong("partition.per_client", message));
        }
        let mut names = Deck::new((0..decks.len() as u32).collect(), self.stream(Purpose::Classes, 0));
        let held: Vec<Vec<u32>> = (0..self.clients).map(|_| names.take(per_client as usize)).collect();
        let mut holders = vec![0usize; decks.len()];
        held.iter().flatten().for_each(|&class| bump(&mut holders, class as usize));
        let mut served = vec![0usize; decks.len()];
        let mut parts = Vec::with_capacity(held.len());
        for classes in held {
            let mut part = Vec::new();
            for (turn, class) in classes.into_iter().map(|class| class as usize).enumerate() {
                let (Some(deck), Some(&holders), Some(&before)) =
                    (decks.get_mut(class), holders.get(class), served.get(class))
                else {
                    continue;
                };
                let (all, shared) = match self.samples_per_client {
                    Some(samples) => (samples as usize, (turn, per_client as usize)),
                    None => (deck.cards.len(), (before, holders)),
                };
                part.extend(deck.take(all / shared.1 + usize::from(shared.0 < all % shared.1)));
                bump(&mut served, class);
            }
            parts.push(part);
        }
        Ok(parts)
    }

    pub(super) fn dirichlet_over_classes(&self, alpha: f64) -> Vec<Vec<u32>> {
        let mut decks = self.decks();
        // With a number of samples per client a deck never ends.
        let endless = self.samples_per_client.is_some();
        let mut left: Vec<usize> =
            decks.iter().map(|deck| if endless { usize::MAX } else { deck.cards.len() }).collect();
        let mut parts = Vec::with_capacity(self.clients as usize);
        for client in 0..self.clients {
            let mut stream = self.stream(Purpose::Shares, u64::from(client));
            let shares = stream.dirichlet(alpha, decks.len());
            let mut counts = vec![0usize; decks.len()];
            for _ in 0..self.size(client) {
                let class = draw(&shares, &left, &mut stream);
                bump(&mut counts, class);
                if let Some(left) = left.get_mut(class).filter(|_| !endless) {
                    *left = left.saturating_sub(1);
                }
            }
            parts.push(decks.iter_mut().zip(counts).flat_map(|(deck, count)| deck.take(count)).collect());
        }
        parts
    }

    pub(super) fn dirichlet_over_clients(&self, alpha: f64, least: u32) -> Vec<Vec<u32>> {
        let mut decks = self.decks();
        let sizes: Vec<f64> = decks.iter().map(|deck| deck.cards.len() as f64).collect();
        let totals = proportional(&sizes, self.total());
        let mut parts: Vec<Vec<u32>> = vec![Vec::new(); self.clients as usize];
        for ((class, deck), total) in (0u64..).zip(&mut decks).zip(totals) {
            let shares = self.stream(Purpose::Shares, class).dirichlet(alpha, self.clients as usize);
            // Cut where the sum of the shares so far says, as Li et al.'s program does.
            let (mut sum, mut before) = (0.0, 0u64);
            let last = parts.len().saturating_sub(1);
            for (client, (part, share)) in parts.iter_mut().zip(shares).enumerate() {
                sum += share;
                let end = if client == last { total } else { ((sum * total as f64) as u64).clamp(before, total) };
                part.extend(deck.take((end - before) as usize));
                before = end;
            }
        }
        let mut stream = self.stream(Purpose::Partition, u64::MAX);
        let mut rich: BinaryHeap<(usize, usize)> = parts.iter().map(Vec::len).zip(0..).collect();
        for client in 0..parts.len() {
            while parts.get(client).is_some_and(|part| part.len() < least as usize) {
                // Who has most has more than `least`, or all would have too little.
                let Some((_, giver)) = rich.pop() else { break };
                let Some(sample) = parts.get_mut(giver).and_then(|part| {
                    let index = stream.below(part.len() as u64) as usize;
                    (!part.is_empty()).then(|| part.swap_remove(index))
                }) else {
                    break;
                };
                rich.push((parts.get(giver).map_or(0, Vec::len), giver));
                if let Some(part) = parts.get_mut(client) {
                    part.push(sample);
                }
            }
        }
        parts
    }

    pub(super) fn quantity(&self, alpha: f64, least: u32) -> Vec<Vec<u32>> {
        let shares = self.stream(Purpose::Shares, 0).dirichlet(alpha, self.clients as usize);
        let spare = self.total() - u64::from(least) * u64::from(self.clients);
        let mut deck = Deck::new((0..self.samples() as u32).collect(), self.stream(Purpose::Partition, 0));
        proportional(&shares, spare).into_iter().map(|more| deck.take(least as usize + more as usize)).collect()
    }

    pub(super) fn sorted(&self, shards: u32, shuffle: bool) -> Vec<Vec<u32>> {
        let order: Vec<u32> = self.by_class().into_iter().flatten().collect();
        let (all, count) = (order.len() as u64, u64::from(self.clients) * u64::from(shards));
        let mut dealt: Vec<u64> = (0..count).collect();
        if shuffle {
            self.stream(Purpose::Partition, 0).shuffle(&mut dealt);
        }
        dealt
            .chunks(shards as usize)
            .map(|client| {
                let (mut part, mut held) = (Vec::new(), BTreeSet::new());
                for (turn, &shard) in (0u64..).zip(client) {
                    let start = shard * all / count;
                    let length = match self.samples_per_client.map(u64::from) {
                        Some(samples) => samples / u64::from(shards) + u64::from(turn < samples % u64::from(shards)),
                        None => (shard + 1) * all / count - start,
                    };
                    let enough = part.len() + length as usize;
                    let mut at = start;
                    // Shards that overlap may be one client's; what it has already is passed over.
                    while part.len() < enough {
                        if held.len() as u64 == all {
                            held.clear();
                        }
                        if held.insert(at % all) {
                            part.extend(order.get((at % all) as usize));
                        }
                        at += 1;
                    }
                }
                part
            })
            .collect()
    }

    pub(super) fn natural(&self, groups: &[u32], least: u32) -> Result<Vec<Vec<u32>>, FieldError> {
        let mut by_group: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (index, &group) in (0u32..).zip(groups) {
            by_group.entry(group).or_default().push(index);
        }
        by_group.retain(|_, samples| samples.len() >= least as usize);
        let found = by_group.len() as u32;
        if found < self.clients {
            let message = format!("{}, but {found} groups have {least} or more samples", self.clients);
            return Err(wrong("clients", message));
        }
        let mut names: Vec<u32> = by_group.keys().copied().collect();
        self.stream(Purpose::Classes, 0).shuffle(&mut names);
        names.truncate(self.clients as usize);
        names.sort_unstable();
        let most = self.samples_per_client.map_or(usize::MAX, |samples| samples as usize);
        Ok(names
            .into_iter()
            .map(|name| {
                let mut samples = by_group.remove(&name).unwrap_or_default();
                if samples.len() > most {
                    self.stream(Purpose::Partition, u64::from(name)).shuffle(&mut samples);
                    samples.truncate(most);
                    samples.sort_unstable();
                }
                samples
            })
            .collect())
    }
}

fn bump(counts: &mut [usize], index: usize) {
    if let Some(count) = counts.get_mut(index) {
        *count += 1;
    }
}

/// A class by its share, of those of which something is left; by what is left where the shares of all of those are 0.
fn draw(shares: &[f64], left: &[usize], stream: &mut Stream) -> usize {
    let there = |(&share, &left): (&f64, &usize)| if left > 0 { share } else { 0.0 };
    let sum: f64 = shares.iter().zip(left).map(there).sum();
    if sum > 0.0 {
        at(stream.unit() * sum, shares.iter().zip(left).map(there))
    } else {
        let sum: f64 = left.iter().map(|&left| left as f64).sum();
        at(stream.unit() * sum, left.iter().map(|&left| left as f64))
    }
}

/// The index of the weight that `point` lies in, if they are laid end to end.
fn at(mut point: f64, weights: impl Iterator<Item = f64>) -> usize {
    let mut last = 0;
    for (index, weight) in weights.enumerate().filter(|&(_, weight)| weight > 0.0) {
        if weight > point {
            return index;
        }
        point -= weight;
        last = index;
    }
    // Rounding may lead past the end.
    last
}

/// Whole numbers in proportion to `weights` that add up to `total`: largest remainders first.
fn proportional(weights: &[f64], total: u64) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / sum * total as f64).collect();
    let mut whole: Vec<u64> = exact.iter().map(|exact| *exact as u64).collect();
    let missing = total.saturating_sub(whole.iter().sum());
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let rest = |index: &usize| exact.get(*index).map_or(0.0, |exact| exact.fract());
    order.sort_by(|a, b| rest(b).total_cmp(&rest(a)));
    for index in order.into_iter().cycle().take(missing as usize) {
        if let Some(whole) = whole.get_mut(index) {
            *whole += 1;
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_a_card_twice_at_the_end_of_a_deck() {
        let mut deck = Deck::new((0..10).collect(), Stream::new(1, Purpose::Partition, 0, 0));
        let mut counts = [0; 10];
        for _ in 0..100 {
            let mut hand = deck.take(7);
            hand.iter().for_each(|&card| counts[card as usize] += 1);
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 7);
        }
        // 70 rounds of the deck.
        assert_eq!(counts, [70; 10]);
        assert_eq!(deck.take(25).len(), 25);
        assert_eq!(Deck::new(vec![], Stream::new(1, Purpose::Partition, 0, 0)).take(3), []);
    }

    #[test]
    fn proportions_add_up() {
        assert_eq!(proportional(&[1.0, 1.0, 1.0], 10), [4, 3, 3]);
        assert_eq!(proportional(&[0.5, 0.3, 0.2], 9), [4, 3, 2]);
        assert_eq!(proportional(&[0.0, 1.0], 3), [0, 3]);
    }

    #[test]
    fn a_class_of_which_nothing_is_left_is_not_drawn() {
        let mut stream = Stream::new(1, Purpose::Shares, 0, 0);
        let mut drawn = |shares: &[f64], left: &[usize]| {
            let mut counts = [0u32; 3];
            (0..3_000).for_each(|_| counts[draw(shares, left, &mut stream)] += 1);
            counts
        };
        assert_eq!(drawn(&[0.9, 0.1, 0.0], &[0, 5, 5]), [0, 3_000, 0]);
        // Five deviations of the binomial: sqrt(3,000 * 0.1875) = 23.7.
        assert!(drawn(&[0.75, 0.25, 0.0], &[1, 1, 1])[0].abs_diff(2_250) < 119);
        let rest = drawn(&[1.0, 0.0, 0.0], &[0, 1, 3]);
        assert!(rest[0] == 0 && rest[2].abs_diff(2_250) < 119, "{rest:?}");
        assert_eq!(at(1.0, [0.5, 0.5, 0.0].into_iter()), 1);
    }
}
