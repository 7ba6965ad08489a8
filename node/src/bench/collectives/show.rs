//! What people and scripts see of a comparison: tables with nccl-tests' columns, rows, and a plot.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use swarmloom_collectives::bench::Limit;

use super::super::{figure, median, spread};
use super::compare::{Class, Line};
use super::entrants::{Entrant, FAMILIES, Missing, Role};
use crate::report::plot::{Panel, Series, panels};

/// What guards cost is told in words up to this size: above it, nobody would find it.
const GUARDS_TOLD_TO: usize = 1 << 10;

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
    let (unguarded_us, unguarded_share) = line.unguarded.unzip();
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
        "unguarded_us": unguarded_us,
        "guards_cost": unguarded_share.map(|share| 1.0 / share - 1.0),
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
    for line in findings.lines.iter().filter(|line| line.bytes <= GUARDS_TOLD_TO) {
        if let Some((_, share)) = line.unguarded {
            let (op, size, percent) = (line.op.name(), size(line.bytes), figure((1.0 / share - 1.0) * 100.0));
            notes.push(format!("deadlines, abort words and epochs cost {percent} % at {op} {size}, {}", place(line)));
        }
    }
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

/// Time over size, both on logarithmic axes: a panel for each collective, transport, number of ranks and class. Of each
/// library, and of the bare programs, the fastest at each size.
pub(super) fn plot(lines: &[Line], entrants: &[Entrant]) -> String {
    let mut groups: BTreeMap<_, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        groups.entry((line.op, line.wire, line.ranks, line.class)).or_default().push(line);
    }
    panels("bytes", "us", &groups.values().map(|lines| panel(lines, entrants)).collect::<Vec<_>>())
}

fn panel(lines: &[&Line], entrants: &[Entrant]) -> Panel {
    // By look, then by size. Lines of any and of registered memory name the same others.
    let mut fastest: BTreeMap<(usize, bool, &str), BTreeMap<usize, f64>> = BTreeMap::new();
    for line in lines {
        for entrant in entrants {
            if let (Some(look), Some(time)) = (look(entrant), line.everybody.get(&entrant.name)) {
                let kept = fastest.entry(look).or_default().entry(line.bytes).or_insert(*time);
                *kept = kept.min(*time);
            }
        }
    }
    let series = fastest.into_iter().map(|((colour, dashed, name), times)| Series {
        name: name.to_owned(),
        colour,
        dashed,
        points: times.into_iter().map(|(bytes, time)| (bytes as f64, time)).collect(),
    });
    let series = series.collect();
    let mut first = lines[0].clone();
    first.registered = false;
    Panel { title: format!("{}, {}", first.op.name(), place(&first)), series }
}

/// Colour, whether the line is dashed, and its name.
fn look(entrant: &Entrant) -> Option<(usize, bool, &str)> {
    match entrant.role {
        Role::Ours { registered: false } => Some((0, false, "swarmloom")),
        Role::Ours { registered: true } => Some((0, true, "swarmloom, registered")),
        Role::Floor { registered: false } => Some((6, false, "bare program")),
        Role::Floor { registered: true } => Some((6, true, "bare program, registered")),
        Role::Unguarded => None,
        Role::Peer => {
            let at = FAMILIES.iter().position(|name| entrant.family.starts_with(name)).unwrap_or(0);
            Some((1 + at, false, FAMILIES[at]))
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
    fn a_plot_has_a_line_for_each_library_and_for_the_fastest_bare_program() {
        let svg = plot(&findings().lines, &entrants());
        assert!(svg.starts_with("<svg") && svg.contains("all_reduce, shm, 2 ranks, near"));
        for name in ["swarmloom", "swarmloom, registered", "bare program", "Open MPI"] {
            assert_eq!(svg.matches(&format!("\n{name}\n")).count(), 1, "{name}");
        }
    }

    #[test]
    fn what_guards_cost_is_told_in_words() {
        let mut findings = findings();
        findings.lines[0].unguarded = Some((0.8, 0.8));
        assert!(tables(&findings).contains("- deadlines, abort words and epochs cost 25.0 % at all_reduce 64 B, shm"));
        let cost = document(&findings)["rows"][0]["guards_cost"].as_f64();
        assert!(cost.is_some_and(|cost| (cost - 0.25).abs() < 1e-12));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!([8, 1000, 4096, 64 << 20].map(size), ["8 B", "1000 B", "4 KiB", "64 MiB"]);
    }
}
