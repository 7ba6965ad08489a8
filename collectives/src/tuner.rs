//! Measuring which algorithm is the fastest for which size, and keeping it by the kind of machine.
//!
//! The group tries every algorithm that its ranks can use on a ladder of sizes. One that gives a wrong result is reported
//! and never chosen; of the others, the one whose slowest rank is fastest wins. The table is plain data: a [`Selector`]
//! takes it, and it is the same on every rank.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use swarmloom_kernels::reduce::ReduceOp;

use crate::error::CollectiveError;
use crate::group::Group;
use crate::plan::build::{self, Tuning};
use crate::plan::{Algorithm, Collective};
use crate::reference;
use crate::select::{Kind, Selector, Table, TunedRow};

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TuneConfig {
    /// Sizes in bytes, in ascending order.
    pub sizes: Vec<usize>,
    /// Chunks that are tried, in bytes.
    pub chunks: Vec<usize>,
    /// Operations of each candidate and size that are timed, after as many that are not. The median counts.
    pub repeats: usize,
}

impl Default for TuneConfig {
    fn default() -> Self {
        Self {
            sizes: (3..=24).step_by(3).map(|bits| 1 << bits).collect(),
            chunks: vec![16 << 10, 64 << 10, 256 << 10],
            repeats: 15,
        }
    }
}

/// The machine, as far as it decides what is fast: rows of another kind say nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostKind {
    /// The processor's name for itself.
    pub processor: String,
    /// Cores that may be used.
    pub cores: usize,
    /// Ranks of the group.
    pub ranks: usize,
    /// Its transport.
    pub transport: String,
}

/// What was measured of one candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What kind of collective.
    pub kind: Kind,
    /// Bytes of the larger side of a rank.
    pub bytes: usize,
    /// How.
    pub algorithm: Algorithm,
    /// In chunks of so many bytes.
    pub chunk_bytes: usize,
    /// Median over the operations of the slowest rank's time, in seconds; `None` where the result was wrong.
    pub seconds: Option<f64>,
}

/// All that tuning found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// For which machines.
    pub host: HostKind,
    /// What a selector needs.
    pub table: Table,
    /// Everything that was measured.
    pub measured: Vec<Measured>,
}

/// Measures. Every rank calls it with the same arguments; `progress` hears of each candidate as it begins.
///
/// # Errors
/// [`CollectiveError`] of the group.
pub fn tune(
    group: &mut Group,
    config: &TuneConfig,
    mut progress: impl FnMut(Kind, usize, Algorithm),
) -> Result<Tuned, CollectiveError> {
    let before = group.selector().clone();
    let tuned = measure_all(group, config, &mut progress);
    group.set_selector(before);
    tuned
}

fn measure_all(
    group: &mut Group,
    config: &TuneConfig,
    progress: &mut dyn FnMut(Kind, usize, Algorithm),
) -> Result<Tuned, CollectiveError> {
    let mut measured = Vec::new();
    for kind in Kind::TUNED {
        for &bytes in &config.sizes {
            let collective = kind.sample(bytes / 4, group.ranks());
            for algorithm in build::algorithms(&collective, group.layout(), 4) {
                if algorithm == Algorithm::Direct && !group.layout().near.copy_user {
                    continue;
                }
                progress(kind, bytes, algorithm);
                for &chunk_bytes in &config.chunks {
                    if chunk_bytes > config.chunks[0] && bytes < chunk_bytes {
                        continue;
                    }
                    let tuning = Tuning { chunk_bytes, ..Tuning::default() };
                    group.set_selector(Selector { forced: Some(algorithm), tuning, ..Selector::default() });
                    let Some(seconds) = measure(group, &collective, config.repeats)? else { continue };
                    let seconds = seconds.is_finite().then_some(seconds);
                    measured.push(Measured { kind, bytes, algorithm, chunk_bytes, seconds });
                }
            }
        }
    }
    let host = HostKind {
        processor: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        ranks: group.ranks(),
        transport: group.transport().into(),
    };
    Ok(Tuned { host, table: best(&measured), measured })
}

/// The table of the fastest right candidates: a pure function of what was measured.
pub fn best(measured: &[Measured]) -> Table {
    let mut rows: Vec<TunedRow> = Vec::new();
    let mut points: Vec<(Kind, usize)> = measured.iter().map(|one| (one.kind, one.bytes)).collect();
    points.dedup();
    for (kind, bytes) in points {
        let of_point = measured.iter().filter(|one| (one.kind, one.bytes) == (kind, bytes));
        let right = of_point.filter_map(|one| Some((one, one.seconds?)));
        if let Some((one, _)) = right.min_by(|(_, one), (_, other)| one.total_cmp(other)) {
            rows.push(TunedRow { kind, from_bytes: bytes, algorithm: one.algorithm, chunk_bytes: one.chunk_bytes });
        }
    }
    Table { rows }
}

/// The median of the slowest rank's times; infinite where a result was wrong; `None` where there is no such plan.
fn measure(group: &mut Group, collective: &Collective, repeats: usize) -> Result<Option<f64>, CollectiveError> {
    let (rank, ranks) = (group.rank(), group.ranks());
    let value = |rank: usize, index: usize| ((index * 31 + rank * 17) % 251) as f32;
    let inputs: Vec<Vec<f32>> =
        (0..ranks).map(|rank| (0..collective.input_len(rank)).map(|index| value(rank, index)).collect()).collect();
    let mut output = vec![f32::NAN; collective.output_len(rank)];
    match group.run(collective, &inputs[rank], &mut output, ReduceOp::Sum) {
        // Every rank finds the same: nothing has been sent.
        Err(CollectiveError::Build(_) | CollectiveError::Refused(_)) => return Ok(None),
        other => other?,
    }
    // Small whole numbers: their sums are exact in any order.
    let right = output == reference::output(collective, rank, &inputs, ReduceOp::Sum);
    let mut times = Vec::with_capacity(repeats);
    for time in 0..2 * repeats {
        group.barrier()?;
        let began = Instant::now();
        group.run(collective, &inputs[rank], &mut output, ReduceOp::Sum)?;
        if time >= repeats {
            times.push(began.elapsed());
        }
    }
    let mut slowest = vec![0.0; repeats];
    let own: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    group.all_reduce(&own, &mut slowest, ReduceOp::Max)?;
    let mut all_right = [0_u8];
    group.all_reduce(&[u8::from(right)], &mut all_right, ReduceOp::Min)?;
    slowest.sort_by(f64::total_cmp);
    let median = slowest.get(repeats / 2).copied().unwrap_or(f64::INFINITY);
    Ok(Some(if all_right == [1] { median } else { f64::INFINITY }))
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::with_group;
    use crate::{GroupConfig, Transport};

    #[test]
    fn the_fastest_right_candidate_is_kept_for_each_size() {
        let one = |bytes, algorithm, chunk_bytes, seconds| Measured {
            kind: Kind::AllReduce,
            bytes,
            algorithm,
            chunk_bytes,
            seconds,
        };
        let table = best(&[
            one(64, Algorithm::Packet, 16, Some(2e-6)),
            one(64, Algorithm::OneShot, 16, Some(1e-6)),
            one(64, Algorithm::Ring, 16, None),
            one(4096, Algorithm::TwoShot, 16, Some(5e-6)),
            one(4096, Algorithm::TwoShot, 64, Some(4e-6)),
            one(8192, Algorithm::Ring, 64, None),
        ]);
        let row =
            |from_bytes, algorithm, chunk_bytes| TunedRow { kind: Kind::AllReduce, from_bytes, algorithm, chunk_bytes };
        assert_eq!(table.rows, [row(64, Algorithm::OneShot, 16), row(4096, Algorithm::TwoShot, 64)]);
    }

    #[test]
    fn a_group_measures_itself_and_all_ranks_find_the_same() {
        let config = TuneConfig { sizes: vec![64, 32 << 10], chunks: vec![16 << 10], repeats: 3 };
        for transport in [Transport::Shm, Transport::Tcp] {
            let found = with_group(2, &GroupConfig { transport, ..GroupConfig::default() }, |mut group| {
                let tuned = tune(&mut group, &config, |_, _, _| {}).expect("measured");
                let text = serde_json::to_string(&tuned).expect("a table");
                assert_eq!(serde_json::from_str::<Tuned>(&text).expect("the same"), tuned);
                group.set_selector(Selector { table: Some(tuned.table.clone()), ..Selector::default() });
                let mut sum = [0.0_f32; 16];
                group.all_reduce(&[1.5; 16], &mut sum, ReduceOp::Sum).expect("by the table");
                assert_eq!(sum, [3.0; 16]);
                tuned
            });
            assert_eq!(found[0].table, found[1].table);
            assert!(found[0].measured.iter().all(|one| one.seconds.is_some()), "{:?}", found[0].measured);
            assert!(found[0].table.rows.len() >= 2 * Kind::TUNED.len(), "{:?}", found[0].table);
        }
    }
}
