//! What people and scripts see of a comparison: tables with nccl-tests' columns, rows, and a plot.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use swarmloom_collectives::bench::{Limit, Op};

use super::super::{figure, median, spread};
use super::compare::{Class, Line};
use super::entrants::{Entrant, Missing, Role};
use crate::report::plot::{Panel, Series, panels};

/// All that came of a run.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) lines: Vec<Line>,
    /// By class.
    pub(super) limits: Vec<(Class, Limit)>,
    pub(super) missing: Vec<Missing>,
    /// Who failed, and its last words.
    pub(super) failed: Vec<(String, String)>,
    pub(super) disturbed: usize,
    pub(super) measured: usize,
    pub(super) rounds: usize,
}

/// The document of `--json`.
pub(super) fn document(findings: &Findings) -> Value {
    let rows: Vec<Value> = findings.lines.iter().map(row).collect();
    let limit = |(class, limit): &(Class, Limit)| json!({ "what": limit.limit, "class": class, "unit": limit.unit, "min": limit.min, "p50": limit.p50, "max": limit.max });
    let failed = |(name, words): &(String, String)| json!({ "name": name, "last_words": words });
    json!({
        "rows": rows,
        "limits": findings.limits.iter().map(limit).collect::<Vec<_>>(),
        "missing": findings.missing,
        "failed": findings.failed.iter().map(failed).collect::<Vec<_>>(),
        "rounds": findings.rounds,
        "measured": findings.measured,
        "disturbed": findings.disturbed,
        "notes": notes(findings),
    })
}

fn row(line: &Line) -> Value {
    let (floor_us, floor_share) = line.floor.unzip();
    let (peer, theirs) = line.best.clone().unzip();
    let (ratio, spread) = line.ratio.unzip();
    json!({
        "what": format!("{} {}, {}", line.op.name(), size(line.bytes), place(line)),
        "ours": line.p50_us,
        "theirs": theirs,
        "peer": peer.unwrap_or_else(|| "none in this class".into()),
        "ratio": ratio,
        "unit": "us",
        "spread": spread,
        "op": line.op,
        "bytes": line.bytes,
        "count": line.count(),
        "dtype": "float",
        "transport": line.wire,
        "ranks": line.ranks,
        "registered": line.registered,
        "class": line.class,
        "one_way_ns": line.one_way_ns,
        "p10_us": line.p10_us,
        "p90_us": line.p90_us,
        "algbw": line.algbw(),
        "busbw": line.busbw(),
        "floor_us": floor_us,
        "floor_share": floor_share,
        "rounds": line.rounds,
        "absent": line.absent,
        "everybody": line.everybody,
        "wrong": line.wrong,
        "error": (line.wrong > 0).then(|| format!("{} elements of the result were wrong", line.wrong)),
    })
}

/// Tables: one for each collective, transport, number of ranks, kind of buffer and class.
pub(super) fn tables(findings: &Findings) -> String {
    let mut groups: BTreeMap<_, Vec<&Line>> = BTreeMap::new();
    for line in &findings.lines {
        groups.entry((line.op, line.wire, line.ranks, line.registered, line.class)).or_default().push(line);
    }
    let mut text = Vec::new();
    for lines in groups.values() {
        text.push(format!("# {}, {}", lines[0].op.name(), place(lines[0])));
        text.push(format!(
            "# {:>9} {:>10} {:>6} {:>9} {:>8} {:>8}   {:<15} {:>9} {:>6}  {:<14} {:>6} {:>7}",
            "size",
            "count",
            "type",
            "time",
            "algbw",
            "busbw",
            "best peer",
            "time",
            "ratio",
            "spread",
            "floor",
            "one way"
        ));
        text.push(format!(
            "# {:>9} {:>10} {:>6} {:>9} {:>8} {:>8}   {:<15} {:>9} {:>6}  {:<14} {:>6} {:>7}",
            "(B)", "(elements)", "", "(us)", "(GB/s)", "(GB/s)", "", "(us)", "", "(of rounds)", "share", "(ns)"
        ));
        text.extend(lines.iter().map(|line| text_row(line)));
        text.push(String::new());
    }
    if !findings.limits.is_empty() {
        text.push("# limits: smallest, median and largest".into());
        let limit = |(class, one): &(Class, Limit)| {
            let [min, p50, max] = [one.min, one.p50, one.max].map(figure);
            format!("  {:<60} {:<5} {min:>8} {p50:>8} {max:>8} {}", one.limit, class.name(), one.unit)
        };
        text.extend(findings.limits.iter().map(limit));
        text.push(String::new());
    }
    text.extend(notes(findings).iter().map(|note| format!("- {note}")));
    text.join("\n")
}

fn text_row(line: &Line) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let (peer, theirs) = line.best.clone().unzip();
    let (ratio, spread) = line.ratio.unzip();
    let spread = spread.map(|[low, high]| format!("{} to {}", figure(low), figure(high)));
    let text = format!(
        "  {:>9} {:>10} {:>6} {:>9} {:>8} {:>8}   {:<15} {:>9} {:>6}  {:<14} {:>6} {:>7}",
        line.bytes,
        line.count(),
        "float",
        figure(line.p50_us),
        bandwidth(line.algbw()),
        bandwidth(line.busbw()),
        or_dash(peer),
        or_dash(theirs.map(figure)),
        or_dash(ratio.map(figure)),
        or_dash(spread),
        or_dash(line.floor.map(|(_, share)| figure(share))),
        or_dash((line.one_way_ns >= 0.0).then(|| figure(line.one_way_ns))),
    );
    if line.wrong > 0 { format!("{text}  ERROR: {} wrong elements", line.wrong) } else { text.trim_end().to_owned() }
}

/// Small ones have digits, too.
fn bandwidth(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { figure(value) }
}

fn place(line: &Line) -> String {
    let registered = if line.registered { ", registered memory" } else { "" };
    let class = if line.class == Class::Any { String::new() } else { format!(", {}", line.class.name()) };
    format!("{}{registered}, {} ranks{class}", line.wire.name(), line.ranks)
}

fn notes(findings: &Findings) -> Vec<String> {
    let mut notes = vec![
        format!(
            "p50 over the iterations, median over at most {} rounds in which everybody took turns; ratio: the fastest peer's \
             time over ours, above 1 where ours is faster",
            findings.rounds
        ),
        "floor share: the bare program's time over ours, 1 where ours is as fast".into(),
        format!(
            "{} of {} figures lie between the classes or beyond them (near: a cache line takes at most 120 ns, far: 150 to \
             400) and were left out",
            findings.disturbed, findings.measured
        ),
    ];
    if findings.lines.iter().any(|line| !line.absent.is_empty()) {
        notes.push(
            "some lines have no ratio, for a peer that is among the best in the other class was not measured in theirs: more \
             rounds may help"
                .into(),
        );
    }
    notes.extend(findings.missing.iter().map(|one| format!("without {}: {}", one.family, one.why)));
    notes.extend(findings.failed.iter().map(|(name, words)| format!("{name} failed: {words}")));
    notes
}

/// `8 B`, `64 KiB`.
fn size(bytes: usize) -> String {
    match bytes {
        whole if whole >= 1 << 20 && whole % (1 << 20) == 0 => format!("{} MiB", whole >> 20),
        whole if whole >= 1 << 10 && whole % (1 << 10) == 0 => format!("{} KiB", whole >> 10),
        other => format!("{other} B"),
    }
}

/// Medians of what repeated runs said of the limits, by class.
pub(super) fn limits(said: &[Limit]) -> Vec<(Class, Limit)> {
    let mut names: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<(usize, Class), Vec<&Limit>> = BTreeMap::new();
    for limit in said {
        let Some(class) = Class::of(limit.one_way_ns) else { continue };
        let at = names.iter().position(|name| *name == limit.limit).unwrap_or(names.len());
        if at == names.len() {
            names.push(&limit.limit);
        }
        groups.entry((at, class)).or_default().push(limit);
    }
    let merged = |((_, class), group): ((usize, Class), Vec<&Limit>)| {
        let all = |figure: fn(&Limit) -> f64| group.iter().map(|one| figure(one)).collect::<Vec<f64>>();
        let p50 = median(all(|one| one.p50));
        let [min, max] = [spread(&all(|one| one.min))[0], spread(&all(|one| one.max))[1]];
        (class, Limit { min, p50, max, ..group[0].clone() })
    };
    groups.into_iter().map(merged).collect()
}

/// Time over size, both on logarithmic axes: a panel for each collective, transport, number of ranks and class.
pub(super) fn plot(lines: &[Line], entrants: &[Entrant]) -> String {
    let mut groups: BTreeMap<_, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        groups.entry((line.op, line.wire, line.ranks, line.class)).or_default().push(line);
    }
    let panel = |((op, _, _, _), lines): (&(Op, _, _, _), &Vec<&Line>)| {
        let mut series: BTreeMap<usize, Series> = BTreeMap::new();
        for line in lines {
            for (index, entrant) in entrants.iter().enumerate() {
                let Some(p50) = line.everybody.get(&entrant.name) else { continue };
                let (colour, dashed) = look(entrant);
                let one = series.entry(index).or_insert_with(|| Series {
                    name: entrant.name.clone(),
                    colour,
                    dashed,
                    points: Vec::new(),
                });
                // Lines of any and of registered memory have the same others.
                if one.points.last().is_none_or(|(bytes, _)| *bytes != line.bytes as f64) {
                    one.points.push((line.bytes as f64, *p50));
                }
            }
        }
        for one in series.values_mut() {
            one.points.sort_by(|a, b| a.0.total_cmp(&b.0));
            one.points.dedup_by(|a, b| a.0 == b.0);
        }
        let (mut of_any, title) = (lines[0].clone(), op.name());
        of_any.registered = false;
        Panel { title: format!("{title}, {}", place(&of_any)), series: series.into_values().collect() }
    };
    panels("bytes", "us", &groups.iter().map(panel).collect::<Vec<_>>())
}

/// Colour and line: ours stand out, peers are told apart by library.
fn look(entrant: &Entrant) -> (usize, bool) {
    let family = ["Open MPI", "MPICH", "Intel MPI", "oneCCL", "gloo"];
    match entrant.role {
        Role::Ours { registered } => (0, registered),
        Role::Floor { .. } => (6, true),
        Role::Peer => {
            let at = family.iter().position(|name| entrant.family.starts_with(name)).unwrap_or(family.len());
            (1 + at.min(4), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::lines;
    use super::super::compare::tests::{entrants, sample};
    use super::*;

    fn findings() -> Findings {
        let samples = [
            sample(0, 0, 1.0, 70.0),
            sample(0, 1, 0.5, 70.0),
            sample(0, 2, 2.5, 70.0),
            sample(0, 4, 0.75, 70.0),
            sample(0, 0, 9.0, 900.0),
        ];
        let (lines, disturbed) = lines(&entrants(), &samples);
        let limit = Limit { limit: "copy".into(), unit: "GB/s".into(), min: 7.0, p50: 8.0, max: 9.0, one_way_ns: 70.0 };
        let other = Limit { min: 6.0, p50: 8.5, max: 8.75, ..limit.clone() };
        Findings {
            lines,
            limits: limits(&[limit, other]),
            missing: vec![Missing { family: "oneCCL".into(), why: "not installed".into() }],
            failed: vec![("other".into(), "no such interface".into())],
            disturbed,
            measured: samples.len(),
            rounds: 1,
        }
    }

    #[test]
    fn rows_hold_what_scripts_rely_on() {
        let document = document(&findings());
        let row = &document["rows"][0];
        assert_eq!(row["what"], "all_reduce 64 B, shm, 2 ranks, near");
        assert_eq!(
            ["ours", "theirs", "ratio", "floor_share", "busbw"].map(|key| row[key].as_f64()),
            [Some(1.0), Some(2.5), Some(2.5), Some(0.75), Some(0.064)]
        );
        assert_eq!((&row["peer"], &row["unit"], &row["spread"]), (&json!("one"), &json!("us"), &json!([2.5, 2.5])));
        assert_eq!(document["rows"][1]["registered"], true);
        assert_eq!(document["missing"][0]["family"], "oneCCL");
        assert_eq!(document["failed"][0]["last_words"], "no such interface");
        assert_eq!(document["limits"][0]["p50"], 8.5);
        assert_eq!((&document["limits"][0]["min"], &document["limits"][0]["max"]), (&json!(6.0), &json!(9.0)));
    }

    #[test]
    fn a_table_has_the_columns_in_order() {
        let text = tables(&findings());
        let words: Vec<&str> =
            text.lines().find(|line| line.starts_with("  ")).expect("a row").split_whitespace().collect();
        let wanted = [
            "64", "16", "float", "1.00", "0.0640", "0.0640", "one", "2.50", "2.50", "2.50", "to", "2.50", "0.75",
            "70.0",
        ];
        assert_eq!(words, wanted);
        assert!(text.contains("# all_reduce, shm, registered memory, 2 ranks, near"));
        assert!(text.contains("- without oneCCL: not installed") && text.contains("- other failed: no such interface"));
        assert!(text.contains("1 of 5 figures"));
    }

    #[test]
    fn a_wrong_result_is_an_error_in_its_row() {
        let mut findings = findings();
        findings.lines[0].wrong = 7;
        assert!(tables(&findings).contains("ERROR: 7 wrong elements"));
        assert_eq!(document(&findings)["rows"][0]["error"], "7 elements of the result were wrong");
    }

    #[test]
    fn a_plot_names_everybody_once() {
        let svg = plot(&findings().lines, &entrants());
        assert!(svg.starts_with("<svg") && svg.contains("all_reduce, shm, 2 ranks, near"));
        assert_eq!(svg.matches(">\nregistered\n<").count() + svg.matches(">registered<").count(), 1, "{svg}");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!([8, 1000, 4096, 64 << 20].map(size), ["8 B", "1000 B", "4 KiB", "64 MiB"]);
    }
}
