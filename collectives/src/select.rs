//! Which algorithm a collective takes: a pure function of what it is, of who can reach whom, and of what was measured.

use serde::{Deserialize, Serialize};

use crate::error::CollectiveError;
use crate::plan::build::{self, Tuning};
use crate::plan::verify;
use crate::plan::{Algorithm, Collective, Layout, Plan};

/// How algorithms are chosen. The same on every rank of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    /// Always this one, where it exists for the collective.
    pub forced: Option<Algorithm>,
    /// Chunks and thresholds of the builders.
    pub tuning: Tuning,
    /// Plans of one's own, each taken for its collective and size of elements. They are verified before they run, as all
    /// are.
    pub plans: Vec<Plan>,
    /// What was measured on this kind of machine; where it says nothing, [`choose`] decides.
    pub table: Option<Table>,
}

/// A collective without its lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "they are those of `Collective`")]
pub enum Kind {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
    Reduce,
    AllToAll,
    Barrier,
    Send,
}

impl Kind {
    /// Those whose algorithms are measured: the others' follow from them.
    pub const TUNED: [Self; 5] =
        [Self::AllReduce, Self::ReduceScatter, Self::AllGather, Self::Broadcast, Self::AllToAll];

    /// Of a collective.
    pub fn of(collective: &Collective) -> Self {
        match collective {
            Collective::AllReduce { .. } => Self::AllReduce,
            Collective::ReduceScatter { .. } => Self::ReduceScatter,
            Collective::AllGather { .. } => Self::AllGather,
            Collective::Broadcast { .. } => Self::Broadcast,
            Collective::Reduce { .. } => Self::Reduce,
            Collective::AllToAll { .. } => Self::AllToAll,
            Collective::Barrier => Self::Barrier,
            Collective::Send { .. } => Self::Send,
        }
    }

    /// One whose larger side has `count` elements on each rank, as evenly divided as it goes.
    pub fn sample(self, count: usize, ranks: usize) -> Collective {
        let part = |rank: usize| count * (rank + 1) / ranks - count * rank / ranks;
        let parts: Vec<usize> = (0..ranks).map(part).collect();
        match self {
            Self::AllReduce => Collective::AllReduce { count },
            Self::ReduceScatter => Collective::ReduceScatter { parts },
            Self::AllGather => Collective::AllGather { parts },
            Self::Broadcast => Collective::Broadcast { root: 0, count },
            Self::Reduce => Collective::Reduce { root: 0, count },
            // Rows and columns add up to the same.
            Self::AllToAll => Collective::AllToAll {
                counts: (0..ranks).map(|from| (0..ranks).map(|to| part((from + to) % ranks)).collect()).collect(),
            },
            Self::Barrier => Collective::Barrier,
            Self::Send => Collective::Send { from: 0, to: 1 % ranks.max(2), count },
        }
    }
}

/// What was found to be the fastest from a size on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunedRow {
    /// For which collectives.
    pub kind: Kind,
    /// From so many bytes on (of the larger side of a rank), up to the next row of its kind.
    pub from_bytes: usize,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Its chunks in bytes.
    pub chunk_bytes: usize,
}

/// Measured choices, ascending by size within a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// In no particular order of kinds.
    pub rows: Vec<TunedRow>,
}

impl Table {
    /// The row for a size: of the measured sizes, the nearest one by ratio.
    pub fn row(&self, kind: Kind, bytes: usize) -> Option<&TunedRow> {
        let distance = |row: &&TunedRow| {
            let (one, other) = (row.from_bytes.max(1) as u128, bytes.max(1) as u128);
            // The larger over the smaller, scaled: compared, never shown.
            (one.max(other) << 32) / one.min(other)
        };
        self.rows.iter().filter(|row| row.kind == kind).min_by_key(distance)
    }
}

impl Selector {
    /// The plan of a collective, verified.
    ///
    /// # Errors
    /// Where no algorithm fits, or the one that was forced does not.
    pub fn plan(
        &self,
        collective: &Collective,
        layout: &Layout,
        element_bytes: usize,
    ) -> Result<Plan, CollectiveError> {
        if let Some(own) = self.own(collective, element_bytes) {
            verify::verify(own, layout)?;
            return Ok(own.clone());
        }
        let (algorithm, tuning) = self.choice(collective, layout, element_bytes);
        let plan = build::build(collective, algorithm, layout, element_bytes, &tuning)?;
        verify::verify(&plan, layout)?;
        Ok(plan)
    }

    /// The plan of a collective, and others that may be faster, all verified: which one is, depends on what the choice does
    /// not know, so that it is tried. Never empty; the same on every rank.
    ///
    /// # Errors
    /// As [`Selector::plan`].
    pub fn plans(
        &self,
        collective: &Collective,
        layout: &Layout,
        element_bytes: usize,
    ) -> Result<Vec<Plan>, CollectiveError> {
        let chosen = self.plan(collective, layout, element_bytes)?;
        let bytes = largest(collective, layout.ranks()).saturating_mul(element_bytes);
        let rival = rival(&chosen, layout, bytes).filter(|_| self.forced.is_none());
        let rival = rival.filter(|_| self.own(collective, element_bytes).is_none());
        let mut plans = vec![chosen];
        if let Some(rival) = rival.filter(|one| build::algorithms(collective, layout, element_bytes).contains(one)) {
            let plan = build::build(collective, rival, layout, element_bytes, &self.tuning)?;
            verify::verify(&plan, layout)?;
            plans.push(plan);
        }
        Ok(plans)
    }

    fn own(&self, collective: &Collective, element_bytes: usize) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.element_bytes == element_bytes && plan.collective == *collective)
    }

    /// The algorithm and its chunks, of what is built.
    pub fn choice(&self, collective: &Collective, layout: &Layout, element_bytes: usize) -> (Algorithm, Tuning) {
        let bytes = largest(collective, layout.ranks()).saturating_mul(element_bytes);
        let possible = build::algorithms(collective, layout, element_bytes);
        let mut tuning = self.tuning;
        if !layout.near.load_scratch && collective.reduces() && tuning == Tuning::default() {
            tuning.chunk_bytes = WIRE_CHUNK_BYTES;
        }
        if let Some(forced) = self.forced.filter(|forced| possible.contains(forced)) {
            return (forced, tuning);
        }
        let tuned = self.table.as_ref().and_then(|table| table.row(Kind::of(collective), bytes));
        match tuned.filter(|row| possible.contains(&row.algorithm) && !layout.near.reduce_user) {
            Some(row) => (row.algorithm, Tuning { chunk_bytes: row.chunk_bytes, ..tuning }),
            None => (choose(collective, layout, element_bytes), tuning),
        }
    }
}

/// Elements of the larger side of the rank that has most.
fn largest(collective: &Collective, ranks: usize) -> usize {
    let sides = (0..ranks).map(|rank| collective.input_len(rank).max(collective.output_len(rank)));
    sides.max().unwrap_or(0)
}

/// From here on two halves of the work are less than twice the whole.
const ONE_SHOT_BYTES: usize = 64 << 10;
/// The same for two ranks that have only a wire: both move as much, and one takes a turn less.
const WIRE_ONE_SHOT_BYTES: usize = 1 << 20;
/// Chunks where nothing but a wire is there and something is reduced: fewer calls of the system in between.
const WIRE_CHUNK_BYTES: usize = 256 << 10;
/// From here on registered memory is read where it is. Up to [`DIRECT_SURELY`] it depends on how far apart the cores are:
/// a line that its writer has just changed is dear to read from afar, and cheaper to be sent past the caches.
const DIRECT_FROM: usize = 1 << 10;
const DIRECT_SURELY: usize = 16 << 10;

/// From here on one copy by the kernel may be faster than two through shared memory. Never where something is reduced: then
/// it is a third.
const SINGLE_COPY_FROM: usize = 64 << 10;

/// What may be faster than what was chosen.
fn rival(chosen: &Plan, layout: &Layout, bytes: usize) -> Option<Algorithm> {
    let copies = !chosen.collective.reduces() && layout.near.copy_user && bytes >= SINGLE_COPY_FROM;
    match chosen.algorithm {
        _ if !layout.near.load_scratch || layout.hosts.iter().any(|host| *host != layout.hosts[0]) => None,
        Algorithm::Direct if layout.near.reduce_user && bytes < DIRECT_SURELY => Some(Algorithm::OneShot),
        Algorithm::OneShot if copies => Some(Algorithm::Direct),
        _ => None,
    }
}

/// The algorithm for a collective, where nothing was measured.
pub fn choose(collective: &Collective, layout: &Layout, element_bytes: usize) -> Algorithm {
    let possible = build::algorithms(collective, layout, element_bytes);
    let bytes = largest(collective, layout.ranks()).saturating_mul(element_bytes);
    let hosts = layout.hosts.iter().any(|host| *host != layout.hosts[0]);
    let order: &[Algorithm] = match bytes {
        _ if hosts => &[Algorithm::Packet, Algorithm::Hierarchical],
        DIRECT_FROM.. if layout.near.reduce_user => &[Algorithm::Direct],
        0..ONE_SHOT_BYTES => &[Algorithm::Packet, Algorithm::OneShot],
        0..=WIRE_ONE_SHOT_BYTES if layout.ranks() == 2 && !layout.near.load_scratch => &[Algorithm::OneShot],
        _ if collective.reduces() => &[Algorithm::TwoShot, Algorithm::OneShot],
        _ => &[Algorithm::OneShot],
    };
    let preferred = order.iter().find(|one| possible.contains(one));
    preferred.or(possible.first()).copied().unwrap_or(Algorithm::OneShot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Reach;

    fn shm(ranks: usize) -> Layout {
        Layout::single(ranks, Reach { load_scratch: true, packet_bytes: 104, ..Reach::default() }, 4 << 20)
    }

    #[test]
    fn sizes_decide_where_nothing_was_measured() {
        let of = |count| choose(&Collective::AllReduce { count }, &shm(2), 4);
        assert_eq!(
            [2, 26, 27, 16_383, 16_384].map(of),
            [Algorithm::Packet, Algorithm::Packet, Algorithm::OneShot, Algorithm::OneShot, Algorithm::TwoShot]
        );
    }

    #[test]
    fn a_wire_has_larger_chunks_and_two_ranks_go_at_once() {
        let selector = Selector::default();
        let of = |ranks, count| {
            let wire = Layout::single(ranks, Reach { packet_bytes: 256, ..Reach::default() }, 4 << 20);
            let (algorithm, tuning) = selector.choice(&Collective::AllReduce { count }, &wire, 4);
            (algorithm, tuning.chunk_bytes)
        };
        assert_eq!(of(2, 1 << 18), (Algorithm::OneShot, 256 << 10));
        assert_eq!(of(2, (1 << 18) + 1), (Algorithm::TwoShot, 256 << 10));
        assert_eq!(of(3, 1 << 17), (Algorithm::TwoShot, 256 << 10));
    }

    #[test]
    fn a_table_is_asked_for_the_nearest_size_by_ratio() {
        let row =
            |from_bytes, algorithm| TunedRow { kind: Kind::AllReduce, from_bytes, algorithm, chunk_bytes: from_bytes };
        let table = Table { rows: vec![row(1 << 10, Algorithm::OneShot), row(16 << 10, Algorithm::Ring)] };
        let selector = Selector { table: Some(table), ..Selector::default() };
        let of = |bytes: usize| selector.choice(&Collective::AllReduce { count: bytes / 4 }, &shm(2), 4);
        assert_eq!(of(3 << 10).0, Algorithm::OneShot);
        assert_eq!((of(5 << 10).0, of(5 << 10).1.chunk_bytes), (Algorithm::Ring, 16 << 10));
        assert_eq!(of(1 << 30).0, Algorithm::Ring);
        let other = selector.choice(&Collective::AllGather { parts: vec![1 << 20; 2] }, &shm(2), 4);
        assert_eq!(other.0, Algorithm::OneShot, "no row of its kind");
    }

    #[test]
    fn own_plans_are_taken_and_proved() {
        let layout = Layout { near: Reach { load_scratch: true, ..Reach::default() }, ..shm(2) };
        let collective = Collective::AllReduce { count: 100 };
        let mut own = build::build(&collective, Algorithm::Ring, &layout, 4, &Tuning::default()).expect("a plan");
        let with = |own: &Plan| Selector { plans: vec![own.clone()], ..Selector::default() };
        let plan = |own: &Plan, collective| with(own).plans(collective, &layout, 4).map(|plans| plans[0].algorithm);
        assert_eq!(plan(&own, &collective).expect("its own"), Algorithm::Ring);
        assert_eq!(plan(&own, &Collective::AllReduce { count: 101 }).expect("another"), Algorithm::OneShot);
        own.programs[1].pop();
        assert!(matches!(plan(&own, &collective), Err(CollectiveError::Refused(_))), "{:?}", plan(&own, &collective));
    }

    #[test]
    fn samples_have_the_size_asked_for() {
        for kind in Kind::TUNED {
            for (count, ranks) in [(10, 3), (1, 4), (4096, 2)] {
                let sample = kind.sample(count, ranks);
                assert_eq!(Kind::of(&sample), kind);
                assert_eq!(largest(&sample, ranks), count, "{sample:?}");
            }
        }
    }
}
