//! What measured programs say, one JSON line each: ours and the peers' alike.

use serde::{Deserialize, Serialize};

use super::grid::Op;

/// One point of the grid, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub peer: String,
    /// What.
    pub op: Op,
    /// The larger side of the operation on one rank.
    pub bytes: usize,
    /// Ranks.
    pub ranks: usize,
    /// Timed iterations.
    pub iters: usize,
    /// One-way time of a cache line just before; negative where there are not two ranks.
    pub one_way_before_ns: f64,
    /// And just after.
    pub one_way_ns: f64,
    /// The fastest iteration, in microseconds, and percentiles.
    pub min_us: f64,
    /// Tenth percentile.
    pub p10_us: f64,
    /// Median.
    pub p50_us: f64,
    /// Ninetieth percentile.
    pub p90_us: f64,
    /// Elements found wrong, over all ranks.
    pub wrong: u64,
}

/// What this machine can do at best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// What was measured.
    pub limit: String,
    /// Of the three figures.
    pub unit: String,
    /// Smallest of the repeats.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// Largest.
    pub max: f64,
    /// One-way time of a cache line just after; negative where there are not two ranks.
    pub one_way_ns: f64,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Said {
    /// A point.
    Point(Record),
    /// A limit.
    Limit(Limit),
}

/// Four decimals of a microsecond are a tenth of a nanosecond: more is not there.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
