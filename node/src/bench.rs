//! `bench`: ratios against a peer program or a limit, measured in the same run.

mod collectives;
mod kernels;
mod launch;
mod rollouts;
mod simulate;
mod tasks;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use crate::cli::BenchVerb;
use crate::say;

/// One measured line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Median of ours.
    pub(crate) ours: f64,
    /// Median of the peer's or the limit; `None` where it is not installed.
    pub(crate) theirs: Option<f64>,
    /// Who the peer is.
    pub(crate) peer: String,
    /// Ours over theirs where more is better.
    pub(crate) ratio: Option<f64>,
    /// Of both numbers.
    pub(crate) unit: &'static str,
    /// Smallest and largest ratio of a round, or of ours where there is no peer.
    pub(crate) spread: [f64; 2],
}

/// Carries out a benchmark.
///
/// # Errors
/// Where a peer program gives no sensible answer, or ours does not agree with it.
pub(crate) fn run(verb: &BenchVerb, as_json: bool) -> anyhow::Result<()> {
    let (rows, notes) = match verb {
        BenchVerb::Tasks(args) => tasks::run(args).context("bench tasks")?,
        BenchVerb::Rollouts(args) => rollouts::run(args).context("bench rollouts")?,
        BenchVerb::Simulate(args) => simulate::run(args).context("bench simulate")?,
        BenchVerb::Launch(args) => launch::run(args).context("bench launch")?,
        BenchVerb::Kernels(args) => kernels::run(args).context("bench kernels")?,
        // Has tables of its own.
        BenchVerb::Collectives(args) => return collectives::run(args, as_json).context("bench collectives"),
        BenchVerb::CollectiveRank(args) => return collectives::rank(args),
    };
    say(as_json, &json!({ "rows": rows, "notes": notes }), || table(&rows, &notes))
}

/// The middle value; of an even number, the upper middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Smallest and largest.
pub(crate) fn spread(values: &[f64]) -> [f64; 2] {
    values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(*value), high.max(*value)])
}

fn table(rows: &[Row], notes: &[String]) -> String {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0).max(4);
    let mut lines =
        vec![format!("{:width$} {:>10} {:>10} {:>7}  {:<17} unit, peer", "what", "ours", "theirs", "ratio", "spread")];
    for row in rows {
        let or_none = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), figure);
        let spread = format!("{} to {}", figure(row.spread[0]), figure(row.spread[1]));
        lines.push(format!(
            "{:width$} {:>10} {:>10} {:>7}  {spread:<17} {}, {}",
            row.what,
            figure(row.ours),
            or_none(row.theirs),
            or_none(row.ratio),
            row.unit,
            row.peer
        ));
    }
    lines.extend(notes.iter().map(|note| format!("- {note}")));
    lines.join("\n")
}

/// Three digits that matter, or a whole number.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_keep_what_matters() {
        assert_eq!([1_234_567.8, 77.25, 0.346].map(super::figure), ["1234568", "77.2", "0.35"]);
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::spread(&[3.0, 1.0, 2.0]), [1.0, 3.0]);
        assert!(super::median(Vec::new()).is_nan());
    }
}
