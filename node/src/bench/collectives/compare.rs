//! From measurements to lines: which figures compare, and by how much they differ. Pure.
//!
//! Figures compare only within one round and one placement class. A ratio is the fastest peer's time over ours, so that
//! more is better; a line has the median of its rounds' ratios. Nothing may flatter: a round in which the class's best peer
//! was not measured in this class does not count, and where a peer that is among the best elsewhere was never measured in
//! this class, there is no ratio at all.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use swarmloom_collectives::bench::{Op, Record};

use super::super::spread;
use super::entrants::{Entrant, Role, Wire};

/// How far apart the two processors are, by the one-way time of a cache line: on a virtual machine that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Class {
    /// At most [`NEAR_NS`].
    Near,
    /// At least [`FAR_NS`].
    Far,
    /// Not two ranks: it is not measured.
    Any,
}

const NEAR_NS: f64 = 120.0;
const FAR_NS: f64 = 150.0;
/// Above this, something else had one of the processors.
const DISTURBED_NS: f64 = 400.0;
/// A peer is among the best where it takes at most so many times the best one's time.
const AMONG_THE_BEST: f64 = 1.5;

impl Class {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Any => "any",
        }
    }

    /// Of one time; `None` between the classes and beyond them.
    pub(super) fn of(one_way_ns: f64) -> Option<Self> {
        match one_way_ns {
            ns if ns < 0.0 => Some(Self::Any),
            ns if ns <= NEAR_NS => Some(Self::Near),
            ns if (FAR_NS..=DISTURBED_NS).contains(&ns) => Some(Self::Far),
            _ => None,
        }
    }

    /// Of a figure, before and after which the time was taken: only where both say the same.
    pub(super) fn of_record(record: &Record) -> Option<Self> {
        Self::of(record.one_way_before_ns).filter(|before| Self::of(record.one_way_ns) == Some(*before))
    }
}

/// A measurement, and when it was taken.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) round: usize,
    /// Index of the entrant.
    pub(super) entrant: usize,
    pub(super) record: Record,
}

/// Ours at one point of the grid, in one class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) wire: Wire,
    pub(super) ranks: usize,
    pub(super) op: Op,
    pub(super) bytes: usize,
    pub(super) registered: bool,
    pub(super) class: Class,
    /// Medians over the rounds, of ours.
    pub(super) p10_us: f64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) one_way_ns: f64,
    /// The best peer of the class and the median of its p50.
    pub(super) best: Option<(String, f64)>,
    /// Theirs over ours: median, smallest and largest of the rounds.
    pub(super) ratio: Option<(f64, [f64; 2])>,
    /// Rounds that the ratio is of.
    pub(super) rounds: usize,
    /// Peers that are among the best of another class and were not measured in this one: then there is no ratio.
    pub(super) absent: Vec<String>,
    /// The bare program's p50, and its share of ours: 1 where ours is as fast.
    pub(super) floor: Option<(f64, f64)>,
    /// Ours without what guards it: its p50, and its share of ours. Not with registered memory.
    pub(super) unguarded: Option<(f64, f64)>,
    /// Everybody's median p50 in the class.
    pub(super) everybody: BTreeMap<String, f64>,
    /// Elements that ours got wrong, over all rounds and classes.
    pub(super) wrong: u64,
}

/// By round, by entrant.
type Rounds<'a> = BTreeMap<usize, BTreeMap<usize, &'a Record>>;

/// A point in a class.
type Key = (Wire, usize, Op, usize, Class);

/// All lines, in the order of the grid, and how many figures were disturbed.
pub(super) fn lines(entrants: &[Entrant], samples: &[Sample]) -> (Vec<Line>, usize) {
    let mut groups: BTreeMap<Key, Rounds<'_>> = BTreeMap::new();
    let mut disturbed = 0;
    for sample in samples {
        let record = &sample.record;
        let Some(class) = Class::of_record(record) else {
            disturbed += 1;
            continue;
        };
        let key = (entrants[sample.entrant].wire, record.ranks, record.op, record.bytes, class);
        groups.entry(key).or_default().entry(sample.round).or_default().insert(sample.entrant, record);
    }
    let is_peer = |index: usize| entrants[index].role == Role::Peer;
    // Of every point, in whatever class.
    let mut contenders: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for ((wire, ranks, op, bytes, _), rounds) in &groups {
        let times: Vec<(usize, f64)> =
            present(rounds).filter(|one| is_peer(*one)).map(|one| (one, p50(rounds, one))).collect();
        let best = times.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min);
        let among = times.into_iter().filter(|(_, time)| *time <= AMONG_THE_BEST * best).map(|(index, _)| index);
        contenders.entry((*wire, *ranks, *op, *bytes)).or_default().extend(among);
    }
    let mut lines = Vec::new();
    for (key, rounds) in &groups {
        let (wire, ranks, op, bytes, _) = *key;
        let here: BTreeSet<usize> = present(rounds).collect();
        let absent: Vec<usize> = contenders[&(wire, ranks, op, bytes)].difference(&here).copied().collect();
        for index in here {
            if let Role::Ours { registered } = entrants[index].role {
                let is_point = |record: &Record| (record.ranks, record.op, record.bytes) == (ranks, op, bytes);
                let of_point = samples.iter().filter(|one| one.entrant == index && is_point(&one.record));
                let wrong = of_point.map(|one| one.record.wrong).sum();
                lines.push(line(entrants, *key, rounds, (index, registered), (&absent, wrong)));
            }
        }
    }
    (lines, disturbed)
}

/// Who was measured, each once.
fn present(rounds: &Rounds<'_>) -> impl Iterator<Item = usize> {
    rounds.values().flat_map(|round| round.keys().copied()).collect::<BTreeSet<usize>>().into_iter()
}

/// The middle of a figure over the rounds.
fn of(rounds: &Rounds<'_>, entrant: usize, figure: fn(&Record) -> f64) -> f64 {
    middle(rounds.values().filter_map(|round| round.get(&entrant)).map(|record| figure(record)).collect())
}

fn p50(rounds: &Rounds<'_>, entrant: usize) -> f64 {
    of(rounds, entrant, |record| record.p50_us)
}

/// The middle value; of an even number, between the two in the middle: with few rounds the upper one would flatter.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.as_slice() {
        [] => f64::NAN,
        odd if odd.len() % 2 == 1 => odd[half],
        even => f64::midpoint(even[half - 1], even[half]),
    }
}

/// The best of `who` over all rounds, and in each round where it and ours were measured: the fastest of `who`, and that
/// over ours.
fn against(rounds: &Rounds<'_>, ours: usize, who: impl Fn(usize) -> bool) -> (Option<usize>, Vec<(f64, f64)>) {
    let best = present(rounds).filter(|one| who(*one)).min_by(|a, b| p50(rounds, *a).total_cmp(&p50(rounds, *b)));
    let pairs = rounds.values().filter_map(|round| {
        let (mine, _) = (round.get(&ours)?.p50_us, round.get(&best?)?);
        let times = round.iter().filter(|(index, _)| who(**index)).map(|(_, record)| record.p50_us);
        let fastest = times.min_by(f64::total_cmp)?;
        Some((fastest, fastest / mine))
    });
    (best, pairs.collect())
}

/// Of times and shares; `None` where there are none.
fn middles(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    let (times, shares): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    (!pairs.is_empty()).then(|| (middle(times), middle(shares)))
}

fn line(
    entrants: &[Entrant],
    (wire, ranks, op, bytes, class): Key,
    rounds: &Rounds<'_>,
    (ours, registered): (usize, bool),
    (absent, wrong): (&[usize], u64),
) -> Line {
    let name = |index: usize| entrants[index].name.clone();
    let (best, pairs) = against(rounds, ours, |index| entrants[index].role == Role::Peer);
    let ratios: Vec<f64> = pairs.into_iter().map(|(_, ratio)| ratio).collect();
    // Buffers in shared memory are no answer to what takes any buffer.
    let (_, floors) = against(rounds, ours, |index| match entrants[index].role {
        Role::Floor { registered: shared } => registered || !shared,
        _ => false,
    });
    let (_, unguarded) = against(rounds, ours, |index| !registered && entrants[index].role == Role::Unguarded);
    Line {
        wire,
        ranks,
        op,
        bytes,
        registered,
        class,
        p10_us: of(rounds, ours, |record| record.p10_us),
        p50_us: p50(rounds, ours),
        p90_us: of(rounds, ours, |record| record.p90_us),
        one_way_ns: of(rounds, ours, |record| record.one_way_ns),
        best: best.map(|best| (name(best), p50(rounds, best))),
        ratio: (!ratios.is_empty() && absent.is_empty()).then(|| (middle(ratios.clone()), spread(&ratios))),
        rounds: ratios.len(),
        absent: absent.iter().map(|index| name(*index)).collect(),
        floor: middles(&floors),
        unguarded: middles(&unguarded),
        everybody: present(rounds).map(|index| (name(index), p50(rounds, index))).collect(),
        wrong,
    }
}

impl Line {
    /// Bytes over time, in GB/s, as nccl-tests counts them.
    pub(super) fn algbw(&self) -> f64 {
        self.bytes as f64 / self.p50_us / 1e3
    }

    /// What an ideal algorithm would move through the busiest link in that time, in GB/s.
    pub(super) fn busbw(&self) -> f64 {
        self.algbw() * self.op.bus_factor(self.ranks)
    }

    /// Elements, as nccl-tests counts them: of one rank's part where there are parts.
    pub(super) fn count(&self) -> usize {
        let count = self.bytes / size_of::<f32>();
        if self.op.is_parted() { count / self.ranks } else { count }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn entrants() -> Vec<Entrant> {
        let entrant = |name: &str, role, wire| Entrant {
            name: name.into(),
            family: name.into(),
            role,
            wire,
            starter: None,
            quick: true,
        };
        vec![
            entrant("shm", Role::Ours { registered: false }, Wire::Shm),
            entrant("registered", Role::Ours { registered: true }, Wire::Shm),
            entrant("one", Role::Peer, Wire::Shm),
            entrant("other", Role::Peer, Wire::Shm),
            entrant("floor", Role::Floor { registered: false }, Wire::Shm),
            entrant("floor-direct", Role::Floor { registered: true }, Wire::Shm),
            entrant("tcp", Role::Ours { registered: false }, Wire::Tcp),
            entrant("shm-unguarded", Role::Unguarded, Wire::Shm),
        ]
    }

    pub(crate) fn sample(round: usize, entrant: usize, p50_us: f64, one_way_ns: f64) -> Sample {
        let record = Record {
            peer: String::new(),
            op: Op::AllReduce,
            bytes: 64,
            ranks: if one_way_ns < 0.0 { 4 } else { 2 },
            iters: 100,
            one_way_before_ns: one_way_ns,
            one_way_ns,
            min_us: p50_us / 2.0,
            p10_us: p50_us * 0.75,
            p50_us,
            p90_us: p50_us * 2.0,
            wrong: 0,
        };
        Sample { round, entrant, record }
    }

    #[test]
    fn classes_have_a_gap_between_them_and_an_end() {
        let classes = [-1.0, 30.0, 120.0, 121.0, 149.0, 150.0, 400.0, 401.0].map(Class::of);
        let (near, far) = (Some(Class::Near), Some(Class::Far));
        assert_eq!(classes, [Some(Class::Any), near, near, None, None, far, far, None]);
        let mut moved = sample(0, 0, 1.0, 70.0).record;
        assert_eq!(Class::of_record(&moved), near);
        moved.one_way_before_ns = 250.0;
        assert_eq!(Class::of_record(&moved), None, "it moved in between");
    }

    #[test]
    fn ratios_are_of_rounds_in_which_the_best_peer_took_part() {
        let samples = [
            sample(0, 0, 1.0, 70.0),
            sample(0, 2, 2.0, 70.0),
            sample(0, 3, 5.0, 70.0),
            sample(0, 4, 0.5, 70.0),
            sample(0, 5, 0.25, 70.0),
            sample(1, 0, 2.0, 70.0),
            sample(1, 2, 3.0, 70.0),
            sample(1, 4, 1.8, 70.0),
            // Without the best peer.
            sample(2, 0, 1.5, 70.0),
            sample(2, 3, 6.0, 70.0),
            // Disturbed.
            sample(2, 2, 0.1, 900.0),
        ];
        let (lines, disturbed) = lines(&entrants(), &samples);
        assert_eq!((lines.len(), disturbed), (1, 1));
        let near = &lines[0];
        assert_eq!((near.class, near.p50_us, near.p90_us, near.one_way_ns), (Class::Near, 1.5, 3.0, 70.0));
        assert_eq!(near.best, Some(("one".into(), 2.5)));
        // Between 2/1 and 3/2.
        assert_eq!((near.ratio, near.rounds), (Some((1.75, [1.5, 2.0])), 2));
        // Between 0.5/1 and 1.8/2; buffers in shared memory do not count.
        let (time, share) = near.floor.expect("a floor");
        assert!((time - 1.15).abs() < 1e-12 && (share - 0.7).abs() < 1e-12, "{time} {share}");
        let names: Vec<&str> = near.everybody.keys().map(String::as_str).collect();
        assert_eq!(names, ["floor", "floor-direct", "one", "other", "shm"]);
    }

    #[test]
    fn there_is_no_ratio_where_somebody_is_absent_that_is_among_the_best_elsewhere() {
        let mut samples = vec![
            sample(0, 0, 1.0, 70.0),
            sample(0, 2, 2.0, 70.0),
            sample(0, 3, 3.5, 70.0),
            sample(1, 0, 10.0, 250.0),
            sample(1, 3, 50.0, 250.0),
        ];
        let (both, _) = lines(&entrants(), &samples);
        assert_eq!((both[0].ratio, both[0].absent.len()), (Some((2.0, [2.0, 2.0])), 0));
        assert_eq!(
            (both[1].class, both[1].ratio, both[1].absent.as_slice()),
            (Class::Far, None, &["one".to_owned()][..])
        );
        samples.push(sample(1, 2, 40.0, 250.0));
        let (both, _) = lines(&entrants(), &samples);
        assert_eq!((both[1].ratio, both[1].absent.len()), (Some((4.0, [4.0, 4.0])), 0));
        // Slower than that elsewhere: nobody misses it.
        samples.truncate(3);
        samples.extend([sample(1, 0, 10.0, 250.0), sample(1, 2, 20.0, 250.0)]);
        assert_eq!(lines(&entrants(), &samples).0[1].ratio, Some((2.0, [2.0, 2.0])));
    }

    #[test]
    fn what_guards_cost_is_no_peer_and_stands_beside_ours() {
        let samples = [sample(0, 0, 1.0, 70.0), sample(0, 1, 1.0, 70.0), sample(0, 7, 0.9, 70.0)];
        let (lines, _) = lines(&entrants(), &samples);
        assert_eq!((lines[0].unguarded, &lines[0].best), (Some((0.9, 0.9)), &None));
        assert_eq!((lines[1].registered, lines[1].unguarded), (true, None));
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between() {
        assert_eq!([vec![3.0, 1.0, 2.0], vec![4.0, 1.0], vec![5.0]].map(middle), [2.0, 2.5, 5.0]);
        assert!(middle(Vec::new()).is_nan());
    }

    #[test]
    fn registered_buffers_are_a_line_of_their_own_beside_every_floor() {
        let (lines, _) = lines(
            &entrants(),
            &[sample(0, 1, 1.0, 70.0), sample(0, 4, 0.9, 70.0), sample(0, 5, 0.6, 70.0), sample(0, 2, 3.0, 70.0)],
        );
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].registered, lines[0].floor, lines[0].ratio),
            (true, Some((0.6, 0.6)), Some((3.0, [3.0, 3.0])))
        );
    }

    #[test]
    fn without_two_ranks_there_is_one_class_and_without_peers_no_ratio() {
        let (lines, disturbed) = lines(&entrants(), &[sample(0, 0, 4.0, -1.0), sample(1, 0, 5.0, -1.0)]);
        assert_eq!((lines.len(), disturbed), (1, 0));
        let line = &lines[0];
        assert_eq!((line.class, line.ratio, &line.best, line.floor), (Class::Any, None, &None, None));
        assert_eq!((line.ranks, line.p50_us), (4, 4.5));
    }

    #[test]
    fn wrong_elements_count_whatever_their_class() {
        let mut bad = sample(0, 0, 4.0, 900.0);
        bad.record.wrong = 3;
        let (lines, _) = lines(&entrants(), &[bad, sample(1, 0, 5.0, 70.0)]);
        assert_eq!(lines[0].wrong, 3);
    }

    #[test]
    fn bandwidths_and_counts_are_those_of_nccl_tests() {
        let (lines, _) = lines(&entrants(), &[sample(0, 0, 2.0, -1.0)]);
        let mut line = lines[0].clone();
        // 64 bytes in 2 us; of all_reduce over four ranks 1.5 times as much goes through a link.
        assert_eq!((line.algbw(), line.busbw(), line.count()), (0.032, 0.048, 16));
        line.op = Op::AllGather;
        assert_eq!((line.busbw(), line.count()), (0.024, 4));
    }
}
