//! From measurements to lines: which figures compare, and by how much they differ. Pure.
//!
//! Figures compare only within one round and one placement class. A ratio is the fastest peer's time over ours, so that
//! more is better; a line has the median of its rounds' ratios. A round in which the class's best peer was not measured in
//! this class does not count: the ratio to a slower one would flatter.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use swarmloom_collectives::bench::{Op, Record};

use super::super::{median, spread};
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
    /// The bare program's p50, and its share of ours: 1 where ours is as fast.
    pub(super) floor: Option<(f64, f64)>,
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
    let mut lines = Vec::new();
    for (key, rounds) in &groups {
        for (index, entrant) in entrants.iter().enumerate() {
            if let Role::Ours { registered } = entrant.role
                && rounds.values().any(|round| round.contains_key(&index))
            {
                let wrong = samples.iter().filter(|one| one.entrant == index && point(&one.record) == point_of(key));
                let wrong = wrong.map(|one| one.record.wrong).sum();
                lines.push(line(entrants, *key, rounds, (index, registered), wrong));
            }
        }
    }
    (lines, disturbed)
}

fn point(record: &Record) -> (usize, Op, usize) {
    (record.ranks, record.op, record.bytes)
}

fn point_of((_, ranks, op, bytes, _): &Key) -> (usize, Op, usize) {
    (*ranks, *op, *bytes)
}

fn line(entrants: &[Entrant], key: Key, rounds: &Rounds<'_>, (ours, registered): (usize, bool), wrong: u64) -> Line {
    let (wire, ranks, op, bytes, class) = key;
    let of = |entrant: usize, figure: fn(&Record) -> f64| -> Vec<f64> {
        rounds.values().filter_map(|round| round.get(&entrant)).map(|record| figure(record)).collect()
    };
    let present: BTreeSet<usize> = rounds.values().flat_map(|round| round.keys().copied()).collect();
    let is_peer = |index: &usize| entrants[*index].role == Role::Peer;
    // Buffers in shared memory are no answer to what takes any buffer.
    let is_floor = |index: &usize| match entrants[*index].role {
        Role::Floor { registered: shared } => registered || !shared,
        _ => false,
    };
    let p50 = |index: usize| median(of(index, |record| record.p50_us));
    let best = present.iter().copied().filter(is_peer).min_by(|a, b| p50(*a).total_cmp(&p50(*b)));
    let fastest = |round: &BTreeMap<usize, &Record>, which: &dyn Fn(&usize) -> bool| {
        round.iter().filter(|(index, _)| which(index)).map(|(_, record)| record.p50_us).min_by(f64::total_cmp)
    };
    let (mut ratios, mut shares, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    for round in rounds.values() {
        let Some(mine) = round.get(&ours).map(|record| record.p50_us) else { continue };
        if best.is_some_and(|best| round.contains_key(&best)) {
            ratios.extend(fastest(round, &is_peer).map(|theirs| theirs / mine));
        }
        if let Some(floor) = fastest(round, &is_floor) {
            floors.push(floor);
            shares.push(floor / mine);
        }
    }
    Line {
        wire,
        ranks,
        op,
        bytes,
        registered,
        class,
        p10_us: median(of(ours, |record| record.p10_us)),
        p50_us: p50(ours),
        p90_us: median(of(ours, |record| record.p90_us)),
        one_way_ns: median(of(ours, |record| record.one_way_ns)),
        best: best.map(|best| (entrants[best].name.clone(), p50(best))),
        ratio: (!ratios.is_empty()).then(|| (median(ratios.clone()), spread(&ratios))),
        rounds: ratios.len(),
        floor: (!floors.is_empty()).then(|| (median(floors), median(shares))),
        everybody: present.iter().map(|index| (entrants[*index].name.clone(), p50(*index))).collect(),
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
    fn ratios_are_of_rounds_and_classes() {
        let samples = [
            // Near, three rounds; the third lacks the best peer.
            sample(0, 0, 1.0, 70.0),
            sample(0, 2, 2.0, 70.0),
            sample(0, 3, 5.0, 70.0),
            sample(0, 4, 0.5, 70.0),
            sample(0, 5, 0.25, 70.0),
            sample(1, 0, 2.0, 70.0),
            sample(1, 2, 3.0, 70.0),
            sample(1, 4, 1.8, 70.0),
            sample(2, 0, 1.5, 70.0),
            sample(2, 3, 6.0, 70.0),
            // Far: another line.
            sample(1, 0, 10.0, 250.0),
            sample(1, 3, 5.0, 250.0),
            // Disturbed.
            sample(2, 2, 0.1, 900.0),
        ];
        let (lines, disturbed) = lines(&entrants(), &samples);
        assert_eq!((lines.len(), disturbed), (2, 1));
        let near = &lines[0];
        assert_eq!((near.class, near.p50_us, near.p90_us, near.one_way_ns), (Class::Near, 1.5, 3.0, 70.0));
        assert_eq!(near.best, Some(("one".into(), 3.0)));
        // 2/1 and 3/2; of two the upper is the median.
        assert_eq!((near.ratio, near.rounds), (Some((2.0, [1.5, 2.0])), 2));
        // 0.5/1 and 1.8/2; buffers in shared memory do not count.
        assert_eq!(near.floor, Some((1.8, 0.9)));
        let names: Vec<&str> = near.everybody.keys().map(String::as_str).collect();
        assert_eq!(names, ["floor", "floor-direct", "one", "other", "shm"]);
        let far = &lines[1];
        assert_eq!(
            (far.class, far.ratio, &far.best),
            (Class::Far, Some((0.5, [0.5, 0.5])), &Some(("other".into(), 5.0)))
        );
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
        assert_eq!((line.ranks, line.p50_us), (4, 5.0));
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
