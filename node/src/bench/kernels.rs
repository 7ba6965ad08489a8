//! `bench kernels`: bytes a second of the flat-buffer kernels beside a copy of the same bytes, and fused chains beside
//! their steps one after the other, on buffers larger than the caches.

use swarmloom_kernels::bench::{Options, measure};

use super::Row;
use crate::cli::BenchArgs;

const GIGA: f64 = 1e9;

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let whole = Options::default();
    let options = if args.quick { Options { elements: whole.elements / 2, rounds: 1, ..whole } } else { whole };
    let mut rows = Vec::new();
    measure(options, |row| {
        eprintln!("{}", row.what);
        let ours = row.bytes_per_s / GIGA;
        rows.push(Row {
            what: row.what.clone(),
            ours,
            theirs: Some(row.copy_bytes_per_s / GIGA),
            peer: "a copy of the same bytes".into(),
            ratio: Some(row.bytes_per_s / row.copy_bytes_per_s),
            unit: "GB/s",
            spread: [ours * (1.0 - row.spread / 2.0), ours * (1.0 + row.spread / 2.0)],
        });
        if let Some(unfused) = &row.unfused {
            rows.push(Row {
                what: format!("{}: fused over unfused", row.what),
                ours: unfused.speed_up,
                theirs: Some(unfused.allowed),
                peer: "the ratio of bytes moved".into(),
                ratio: Some(unfused.share()),
                unit: "times",
                spread: [
                    unfused.speed_up * (1.0 - unfused.spread / 2.0),
                    unfused.speed_up * (1.0 + unfused.spread / 2.0),
                ],
            });
        }
    });
    let notes = vec![
        format!("medians of {} interleaved rounds over {} Mi elements", options.rounds, options.elements >> 20),
        "fused over unfused: how many times faster one pass is than its steps; beside it what the bytes that it saves would \
         allow, and the share of that which was reached"
            .into(),
    ];
    Ok((rows, notes))
}
