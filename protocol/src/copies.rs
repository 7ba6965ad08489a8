//! Telling copied completions from coincidence.
//!
//! Rewards are recomputed and questions regenerate, so all that a free-rider can do is to pass off another
//! group's completions as its own. Where few questions exist, honest peers are asked the same ones and often
//! answer the same: equal answers prove nothing, however many. What honest peers never agree on is *order*.
//! The completions of a group are drawn independently from one policy, so, whatever the policy and the task,
//! every order of them was equally likely. Given that two groups hold the same completions, each so many
//! times, the order agrees by chance with probability 1/A, where A = G!/(m₁!·m₂!·…) is the number of distinct
//! orders: 1 where all completions are equal (no evidence at all), 8 where one of eight differs, 40 320 where
//! all eight differ.
//!
//! Evidence is kept per author as the wealth of a gambler who starts with 1 and bets half of it, at fair odds,
//! that the next such pair agrees in order. A group is compared with the k distinct orders seen before, so
//! agreement pays A/k: wealth becomes wealth·(½ + ½·A/k) or wealth·½, and never falls below 1 for good. In
//! bits, [`ACCUSED_AT_BITS`] = 30 means that an honest author is accused falsely once in at least 2³⁰
//! comparisons on average (the bound of CUSUM tests; Lorden 1971, for likelihood ratios with mean 1 under the
//! null). A copier reaches it with three groups of eight different completions, or fourteen groups in which
//! one of eight differs.
//!
//! This needs each author's sampling noise to be its own, as it is where it follows from the question's seed:
//! two peers with the same weights and the same noise would write the same group.
//!
//! Of two equal groups the one whose announcement was heard later is the copy: an announcement crosses the
//! swarm while its groups have yet to be asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::group::{Completion, Finish, Group};
use crate::id::{PeerKey, hash, leading_u64};

/// Evidence at which an author is accused.
pub const ACCUSED_AT_BITS: f64 = 30.0;
/// Agreement so unlikely (2⁻¹⁰) that the group is refused, though that alone accuses nobody.
const REFUSED_AT_BITS: f64 = 10.0;
/// Evidence one comparison can give.
const MOST_BITS: f64 = 200.0;
/// Groups remembered for the same question and the same completions.
const PER_SET: usize = 32;

/// Remembers in which order completions were seen.
#[derive(Debug)]
pub struct CopyWatch {
    /// By question and set of completions.
    seen: BTreeMap<[u8; 32], Vec<Seen>>,
    /// Keys of `seen`, one for each entry, oldest first.
    oldest: VecDeque<[u8; 32]>,
    max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    author: PeerKey,
    order: u64,
    heard: u64,
}

/// What a comparison showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The group agrees in order with an earlier one, and hardly by chance.
    pub is_copy: bool,
    /// Bits of evidence for or against authors.
    pub evidence: Vec<(PeerKey, f64)>,
}

impl CopyWatch {
    /// Remembers at most `max` groups.
    pub fn new(max: usize) -> Self {
        Self { seen: BTreeMap::new(), oldest: VecDeque::new(), max: max.max(1) }
    }

    /// Compares a group with those before it, and remembers it. `prompt_hash` names the question by its text,
    /// `heard` is the place of its announcement among all announcements.
    pub fn compare(&mut self, prompt_hash: [u8; 32], group: &Group, heard: u64) -> Comparison {
        let mut comparison = Comparison { is_copy: false, evidence: Vec::new() };
        let (set, order, orders_bits) = fingerprint(prompt_hash, &group.completions);
        if orders_bits == 0.0 {
            return comparison;
        }
        let seen = self.seen.entry(set).or_default();
        let (earlier, later): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|other| other.heard <= heard);
        let distinct: BTreeSet<u64> = earlier.iter().map(|other| other.order).collect();
        if !distinct.is_empty() {
            let surprise = orders_bits - (distinct.len() as f64).log2();
            let agrees = distinct.contains(&order);
            comparison.is_copy = agrees && surprise >= REFUSED_AT_BITS;
            comparison.evidence.push((group.author, wager(agrees, surprise)));
        }
        // Groups that arrived before this one but were announced after it.
        comparison.evidence.extend(later.iter().map(|other| (other.author, wager(other.order == order, orders_bits))));
        if seen.len() == PER_SET {
            seen.remove(0);
            if let Some(at) = self.oldest.iter().position(|key| *key == set) {
                self.oldest.remove(at);
            }
        }
        seen.push(Seen { author: group.author, order, heard });
        self.oldest.push_back(set);
        if self.oldest.len() > self.max {
            self.forget_oldest();
        }
        comparison
    }

    fn forget_oldest(&mut self) {
        let Some(set) = self.oldest.pop_front() else { return };
        if let Some(seen) = self.seen.get_mut(&set) {
            seen.remove(0);
            if seen.is_empty() {
                self.seen.remove(&set);
            }
        }
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.seen.values().map(|seen| 96 + seen.capacity() * size_of::<Seen>()).sum::<usize>()
            + self.oldest.capacity() * 32
    }
}

/// Evidence from betting half on agreement that `surprise` bits speak against.
fn wager(agrees: bool, surprise: f64) -> f64 {
    if agrees { (0.5 + 0.5 * surprise.exp2()).log2() } else { -1.0 }
}

/// Names of the set of completions and of their order, and the bits in the choice of an order.
fn fingerprint(prompt_hash: [u8; 32], completions: &[Completion]) -> ([u8; 32], u64, f64) {
    let name = |completion: &Completion| {
        let finish = match completion.finish {
            Finish::Stop => 0,
            Finish::Length => 1,
        };
        hash("completion", &[&[finish], &completion.text])
    };
    let mut names: Vec<[u8; 32]> = completions.iter().map(name).collect();
    let order = leading_u64(&hash("completions in order", &[names.as_flattened()]));
    names.sort_unstable();
    let set = hash("completions", &[&prompt_hash, names.as_flattened()]);
    let log2_factorial = |n: usize| (2..=n).map(|factor| (factor as f64).log2()).sum::<f64>();
    let equals = names.chunk_by(|a, b| a == b).map(|equal| log2_factorial(equal.len())).sum::<f64>();
    let distinct = names.chunk_by(|a, b| a == b).count();
    // One kind of completion has one order; say so without rounding.
    let bits = if distinct < 2 { 0.0 } else { (log2_factorial(names.len()) - equals).min(MOST_BITS) };
    (set, order, bits)
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::group::tests::group;
    use crate::id::Signer;

    const PROMPT: [u8; 32] = [9; 32];

    fn peers() -> [Signer; 3] {
        [1, 2, 3].map(|seed| Signer::from_seed(&[seed; 32]))
    }

    fn close(evidence: &[(PeerKey, f64)], expected: &[(PeerKey, f64)]) -> bool {
        evidence.len() == expected.len()
            && evidence.iter().zip(expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9)
    }

    #[test]
    fn orders_are_counted_as_the_formula_says() {
        let [a, ..] = peers();
        let bits = |texts: &[&str]| fingerprint(PROMPT, &group(&a, 0, texts).completions).2;
        assert_eq!(bits(&["1"; 8]), 0.0);
        assert_eq!(bits(&[]), 0.0);
        assert!((bits(&["1", "1", "1", "2", "1", "1", "1", "1"]) - 3.0).abs() < 1e-9);
        assert!((bits(&["1", "2", "3", "4", "5", "6", "7", "8"]) - 40_320f64.log2()).abs() < 1e-9);
        assert!((bits(&["1", "2", "1", "2"]) - 6f64.log2()).abs() < 1e-9);
        let mut cut = group(&a, 0, &["1", "1"]).completions;
        cut[1].finish = Finish::Length;
        assert_eq!(fingerprint(PROMPT, &cut).2, 1.0, "how a completion ended tells it from another");
        let many: Vec<String> = (0..256).map(|at| at.to_string()).collect();
        assert_eq!(bits(&many.iter().map(String::as_str).collect::<Vec<_>>()), MOST_BITS);
    }

    #[test]
    fn agreement_and_disagreement_are_weighed() {
        let [a, b, c] = peers();
        let mut watch = CopyWatch::new(100);
        let texts = ["1", "2", "3", "4", "5", "6", "7", "8"];
        let mut shuffled = texts;
        shuffled.swap(0, 1);
        let fresh = Comparison { is_copy: false, evidence: vec![] };
        assert_eq!(watch.compare(PROMPT, &group(&a, 0, &texts), 1), fresh);
        assert_eq!(watch.compare([8; 32], &group(&b, 0, &texts), 2), fresh, "another question");
        let copy = watch.compare(PROMPT, &group(&b, 1, &texts), 3);
        let bits = (0.5 + 0.5 * 40_320f64).log2();
        assert!(copy.is_copy && close(&copy.evidence, &[(b.key(), bits)]), "{copy:?}");
        let other = watch.compare(PROMPT, &group(&c, 1, &shuffled), 4);
        assert!(!other.is_copy && close(&other.evidence, &[(c.key(), -1.0)]), "{other:?}");
        // Two orders are known by now: agreement with either is twice as likely.
        let copy = watch.compare(PROMPT, &group(&b, 2, &shuffled), 5);
        assert!(close(&copy.evidence, &[(b.key(), (0.5 + 0.5 * 20_160f64).log2())]), "{copy:?}");
    }

    #[test]
    fn the_later_announcement_is_the_copy_even_if_its_group_came_first() {
        let [a, b, _] = peers();
        let mut watch = CopyWatch::new(100);
        let texts = ["1", "2", "3", "4"];
        watch.compare(PROMPT, &group(&b, 0, &texts), 2);
        let original = watch.compare(PROMPT, &group(&a, 0, &texts), 1);
        assert!(!original.is_copy);
        assert!(close(&original.evidence, &[(b.key(), 12.5f64.log2())]), "{original:?}");
    }

    #[test]
    fn equal_answers_accuse_nobody() {
        let [a, b, _] = peers();
        let mut watch = CopyWatch::new(100);
        for counter in 0..1000 {
            let author = if counter % 2 == 0 { &a } else { &b };
            assert!(watch.compare(PROMPT, &group(author, counter, &["4"; 8]), counter).evidence.is_empty());
        }
    }

    /// Honest peers of one skill share a domain of four questions: about the worst case. In 100 000 groups the
    /// evidence against anybody stays far from an accusation; a copier among them is accused soon.
    #[test]
    fn honest_peers_are_not_accused_and_a_copier_is() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let signers: Vec<Signer> = (0..4).map(|seed| Signer::from_seed(&[seed; 32])).collect();
        let mut watch = CopyWatch::new(4096);
        let mut evidence: BTreeMap<PeerKey, f64> = BTreeMap::new();
        let (mut highest, mut compared) = (0f64, 0u32);
        let template = group(&signers[0], 0, &["0"; 8]);
        let mut copied = None;
        for turn in 0..100_000 {
            let (question, author) = (rng.random_range(0..4u8), &signers[rng.random_range(0..3)]);
            let mut sample = template.clone();
            sample.author = author.key();
            for completion in &mut sample.completions {
                let draw = rng.random_range(0..20u8);
                completion.text = vec![question, draw.saturating_sub(16)];
            }
            for (author, bits) in watch.compare([question; 32], &sample, turn).evidence {
                let wealth = evidence.entry(author).or_default();
                *wealth = (*wealth + bits).max(0.0);
                highest = highest.max(*wealth);
                compared += 1;
            }
            copied = Some((question, sample));
        }
        assert!(compared > 50_000, "{compared} comparisons");
        assert!(highest < ACCUSED_AT_BITS - 5.0, "{highest}");

        let (question, mut sample) = copied.expect("a last group");
        sample.author = signers[3].key();
        let mut wealth = 0.0;
        let mut copies = 0;
        while wealth < ACCUSED_AT_BITS {
            let mut texts: Vec<u8> = (0..8).collect();
            texts.shuffle(&mut rng);
            for (completion, text) in sample.completions.iter_mut().zip(texts) {
                completion.text = vec![question, text, 7, copies];
            }
            sample.author = signers[0].key();
            watch.compare([question; 32], &sample, 200_000 + 2 * u64::from(copies));
            sample.author = signers[3].key();
            wealth += watch.compare([question; 32], &sample, 200_001 + 2 * u64::from(copies)).evidence[0].1;
            copies += 1;
        }
        assert_eq!(copies, 3);
    }

    #[test]
    fn memory_is_bounded() {
        let [a, ..] = peers();
        let mut watch = CopyWatch::new(50);
        for counter in 0..500u64 {
            let prompt = [(counter % 7) as u8; 32];
            watch.compare(prompt, &group(&a, counter, &["1", "2", &(counter % 90).to_string()]), counter);
            assert!(watch.oldest.len() <= 50);
            assert_eq!(watch.seen.values().map(Vec::len).sum::<usize>(), watch.oldest.len());
        }
        let mut watch = CopyWatch::new(1000);
        for counter in 0..500 {
            watch.compare(PROMPT, &group(&a, counter, &["1", "2"]), counter);
        }
        assert_eq!((watch.oldest.len(), watch.seen.len()), (PER_SET, 1));
    }
}
