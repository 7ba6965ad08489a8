//! What the ranks and the links between them are like: measured by the ranks, the same numbers on all of them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use swarmloom_collectives::{CollectiveError, Group};
use swarmloom_placement::topology::{Link, LinkClass, Machine, Topology, TopologyError};
use swarmloom_trainer::causal::measure::Measured;

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// Equal for ranks of one host.
    pub(crate) host: String,
    /// What its layers cost; nothing where only links are looked at.
    pub(crate) measured: Option<Measured>,
    /// What it may use of its memory.
    pub(crate) memory_bytes: u64,
    /// What it computes on.
    pub(crate) device: String,
    /// The best network card of its host.
    pub(crate) card: LinkClass,
}

/// All ranks and links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurements {
    /// By rank.
    pub(crate) cards: Vec<Card>,
    /// From each rank to each other one.
    pub(crate) pairs: Vec<Vec<Link>>,
    /// Whether the ranks of a cluster share what leads out of it.
    pub(crate) shared: bool,
}

/// A wire slower than this leads far.
const FAR: f64 = 2e-3;
/// A transfer that measures bandwidth takes about so long.
const TARGET_S: f64 = 0.12;
const SMALLEST: usize = 64 << 10;
const LARGEST: usize = 32 << 20;
const ROUND_TRIPS: usize = 8;
/// More ranks than this measure all links from rank to rank at once, in rounds.
const ONE_BY_ONE: usize = 8;

/// Measures all links and gathers what the ranks say of themselves. A collective call.
///
/// # Errors
/// [`CollectiveError`].
pub(crate) fn measure(world: &mut Group, card: Card) -> Result<Measurements, CollectiveError> {
    let cards: Vec<Card> = gather(world, &card)?;
    let ranks = world.ranks();
    let mut own = vec![None; ranks];
    let rounds = if ranks <= ONE_BY_ONE { one_by_one(ranks) } else { tournament(ranks) };
    for round in &rounds {
        for (pair, (seconds, bandwidth)) in timed(world, round)? {
            let near = cards[pair.0].host == cards[pair.1].host;
            let both = cards[pair.0].card.max(cards[pair.1].card);
            let class = match () {
                () if near => LinkClass::Shm,
                () if seconds > FAR => LinkClass::Wan,
                () => both,
            };
            let link = Link { class, bandwidth, latency_s: seconds, shared: false };
            let other = if pair.0 == world.rank() { pair.1 } else { pair.0 };
            if pair.0 == world.rank() || pair.1 == world.rank() {
                own[other] = Some(link);
            }
        }
    }
    // A rank's link to itself is never used.
    let itself = Link { class: LinkClass::Shm, bandwidth: 1e10, latency_s: 1e-6, shared: false };
    let own: Vec<Link> = own.into_iter().map(|link| link.unwrap_or(itself)).collect();
    let pairs: Vec<Vec<Link>> = gather(world, &own)?;
    let shared = shares(world, &cards, &pairs)?;
    Ok(Measurements { cards, pairs, shared })
}

impl Measurements {
    /// Ranks, hosts and clusters.
    ///
    /// # Errors
    /// [`TopologyError`] where a number makes no sense.
    pub(crate) fn topology(&self) -> Result<Topology, TopologyError> {
        let reference = self.cards.first().and_then(|card| card.measured).map(|measured| measured.per_sequence_s());
        let machine = |card: &Card| Machine {
            host: 0,
            cluster: 0,
            speed: match (reference, card.measured) {
                (Some(reference), Some(own)) => reference / own.per_sequence_s(),
                _ => 1.0,
            },
            memory_bytes: card.memory_bytes,
            device: card.device.clone(),
        };
        let mut topology = Topology::from_pairs(self.cards.iter().map(machine).collect(), &self.pairs)?;
        topology.between.iter_mut().flatten().for_each(|link| link.shared = self.shared);
        Ok(topology)
    }
}

/// Pairs of ranks that are measured at one time, one time after the other.
type Rounds = Vec<Vec<(usize, usize)>>;

fn one_by_one(ranks: usize) -> Rounds {
    (0..ranks).flat_map(|a| (a + 1..ranks).map(move |b| vec![(a, b)])).collect()
}

/// Every rank meets every other one once (the circle method, Kirkman 1847).
fn tournament(ranks: usize) -> Rounds {
    let seats = ranks + ranks % 2;
    let turn = |round: usize, at: usize| if at == 0 { 0 } else { 1 + (at + round - 1) % (seats - 1) };
    (0..seats - 1)
        .map(|round| {
            let pair = |at: usize| {
                let (a, b) = (turn(round, at), turn(round, seats - 1 - at));
                (a.min(b), a.max(b))
            };
            (0..seats / 2).map(pair).filter(|(_, b)| *b < ranks).collect()
        })
        .collect()
}

/// Seconds one way, and bytes a second, of the pairs of a round, all at once. Every rank gets all of them.
type Timed = Vec<((usize, usize), (f64, f64))>;

fn timed(world: &mut Group, round: &[(usize, usize)]) -> Result<Timed, CollectiveError> {
    let rank = world.rank();
    let mine = round.iter().copied().find(|(a, b)| *a == rank || *b == rank);
    // A group for each pair, so that pairs do not wait for each other.
    let colour = mine.map(|(a, _)| a);
    let config = swarmloom_collectives::GroupConfig { timeout: PATIENCE, cores: 1, ..Default::default() };
    let config = swarmloom_collectives::GroupConfig { host: world.host_name(), ..config };
    let mut found = [0.0, 0.0];
    if let Some(mut pair) = world.split(colour, config, PATIENCE)? {
        let leads = pair.rank() == 0;
        pair.barrier()?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            there_and_back(&mut pair, 1)?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        let mut bytes = SMALLEST;
        let rate = loop {
            let began = Instant::now();
            there_and_back(&mut pair, bytes)?;
            let seconds = began.elapsed().as_secs_f64();
            let rate = bytes as f64 / (seconds - best).max(1e-7);
            // The leader's clock decides for both.
            let mut next = [if seconds < TARGET_S && bytes < LARGEST { grown(bytes, seconds) as i64 } else { 0 }];
            pair.broadcast_in_place(&mut next, 0)?;
            if next[0] == 0 {
                break rate;
            }
            bytes = next[0] as usize;
        };
        if leads {
            found = [best / 2.0, rate];
        }
    }
    let mut all = vec![0.0; 2 * world.ranks()];
    world.all_gather(&found, &mut all, &vec![2; world.ranks()])?;
    Ok(round.iter().map(|pair| (*pair, (all[2 * pair.0].max(1e-7), all[2 * pair.0 + 1].max(1.0)))).collect())
}

/// How long a pair may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next amount to try: enough for the target, and at most eight times as much.
fn grown(bytes: usize, seconds: f64) -> usize {
    let wanted = bytes as f64 * TARGET_S / seconds.max(1e-6) * 1.2;
    (wanted as usize).clamp(2 * bytes, 8 * bytes).min(LARGEST)
}

/// Rank 0 of a pair sends, rank 1 answers with one byte.
fn there_and_back(pair: &mut Group, bytes: usize) -> Result<(), CollectiveError> {
    let mut all = vec![0_u8; bytes];
    let mut answer = [0_u8];
    if pair.rank() == 0 {
        pair.send(&all, &mut [], (0, 1), bytes)?;
        pair.send(&[], &mut answer, (1, 0), 1)
    } else {
        pair.send(&[], &mut all, (0, 1), bytes)?;
        pair.send(&answer, &mut [], (1, 0), 1)
    }
}

/// Whether two pairs across the slowest boundary get less each than one alone.
fn shares(world: &mut Group, cards: &[Card], pairs: &[Vec<Link>]) -> Result<bool, CollectiveError> {
    let alone = Measurements { cards: cards.to_vec(), pairs: pairs.to_vec(), shared: false };
    let Ok(topology) = alone.topology() else { return Ok(false) };
    let of = |cluster: usize| -> Vec<usize> {
        (0..cards.len()).filter(|rank| topology.ranks[*rank].cluster == cluster).collect()
    };
    let (a, b) = (of(0), of(1));
    let ([a0, a1, ..], [b0, b1, ..]) = (&a[..], &b[..]) else { return Ok(false) };
    let ordered = |a: usize, b: usize| (a.min(b), a.max(b));
    let both = timed(world, &[ordered(*a0, *b0), ordered(*a1, *b1)])?;
    let before = [pairs[*a0][*b0].bandwidth, pairs[*a1][*b1].bandwidth];
    let share = both.iter().zip(before).map(|((_, (_, now)), before)| now / before).fold(0.0, f64::max);
    Ok(share < 0.75)
}

/// Everybody's value, by rank.
///
/// # Errors
/// [`CollectiveError`].
pub(crate) fn gather<T: Serialize + DeserializeOwned>(world: &mut Group, own: &T) -> Result<Vec<T>, CollectiveError> {
    let wrong = |why: String| CollectiveError::Usage { collective: "all_gather", why };
    let bytes = serde_json::to_vec(own).map_err(|error| wrong(error.to_string()))?;
    let mut lengths = vec![0_i64; world.ranks()];
    world.all_gather(&[bytes.len() as i64], &mut lengths, &vec![1; world.ranks()])?;
    let parts: Vec<usize> = lengths.iter().map(|length| usize::try_from(*length).unwrap_or(0)).collect();
    if let Some(rank) = parts.iter().position(|length| *length > MAX_SAID) {
        return Err(wrong(format!("rank {rank} has more to say than {MAX_SAID} bytes")));
    }
    let mut all = vec![0_u8; parts.iter().sum()];
    world.all_gather(&bytes, &mut all, &parts)?;
    let mut at = 0;
    parts
        .iter()
        .map(|length| {
            at += length;
            serde_json::from_slice(&all[at - length..at]).map_err(|error| wrong(error.to_string()))
        })
        .collect()
}

/// Most bytes that a rank says of itself and its links.
const MAX_SAID: usize = 1 << 20;

/// The best network card that the system names (`/sys/class/infiniband`): InfiniBand, RoCE, or Ethernet where it names none.
pub(crate) fn network_card() -> LinkClass {
    let devices = std::fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    let layers = devices.map(|device| {
        let layer = std::fs::read_to_string(device.path().join("ports/1/link_layer")).unwrap_or_default();
        if layer.trim() == "InfiniBand" { LinkClass::Infiniband } else { LinkClass::Roce }
    });
    layers.min().unwrap_or(LinkClass::Ethernet)
}

/// Memory that this process may use, shared evenly with the other ranks of its host.
pub(crate) fn memory_bytes(local_ranks: usize) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(1 << 20) * 1024 / local_ranks.max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_meets_everybody_once() {
        for ranks in [2, 3, 8, 9, 13] {
            let rounds = tournament(ranks);
            let mut met = vec![vec![0; ranks]; ranks];
            for round in &rounds {
                let mut busy = vec![false; ranks];
                for (a, b) in round {
                    assert!(a < b && !busy[*a] && !busy[*b]);
                    (busy[*a], busy[*b]) = (true, true);
                    met[*a][*b] += 1;
                }
            }
            assert!((0..ranks).all(|a| (a + 1..ranks).all(|b| met[a][b] == 1)), "{ranks}: {rounds:?}");
        }
        assert_eq!(one_by_one(3), [[(0, 1)], [(0, 2)], [(1, 2)]]);
    }

    #[test]
    fn amounts_grow_towards_the_target_and_stay_bounded() {
        assert_eq!(grown(64 << 10, 1e-5), 512 << 10);
        assert_eq!(grown(1 << 20, 0.06), (2.4 * f64::from(1 << 20)) as usize);
        assert_eq!(grown(LARGEST / 2, 1e-4), LARGEST);
    }
}
