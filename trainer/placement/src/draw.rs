//! Plans for people: a table for a terminal, pictures for a page.

mod placement;
#[cfg(test)]
mod tests;
mod timeline;

use std::fmt::Write as _;

use crate::plan::{Plan, Ranking};
use crate::topology::Topology;

pub use placement::svg_placement;
pub use timeline::svg_schedule;

/// Refused placements of which the table speaks.
const REFUSED: usize = 5;

/// Clusters, the best placement with its reasons, those that follow, and some that cannot be, by lines of text.
pub fn table(ranking: &Ranking, topology: &Topology) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (index, cluster) in topology.clusters.iter().enumerate() {
        let ranks: Vec<usize> =
            (0..topology.ranks.len()).filter(|&rank| topology.ranks[rank].cluster == index).collect();
        let mut hosts: Vec<usize> = ranks.iter().map(|&rank| topology.ranks[rank].host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let link = &cluster.link;
        let _ = writeln!(
            text,
            "cluster {}: {} ranks on {} hosts, {} {}",
            cluster.name,
            ranks.len(),
            hosts.len(),
            link.class.name(),
            rate(link.bandwidth)
        );
    }
    let _ = writeln!(text);
    let rows: Vec<[String; 8]> = std::iter::once(&ranking.best).chain(&ranking.runners_up).map(row).collect();
    let head = ["mesh", "layout", "schedule", "micro-batch", "step", "tokens/s", "idle", "slowest links"];
    let head = head.map(String::from);
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(&rows);
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text, "\nThe first, because:");
    ranking.best.why.iter().for_each(|why| {
        let _ = writeln!(text, "  {why}");
    });
    if !ranking.refused.is_empty() {
        let _ = writeln!(text, "\nNot possible, of {} considered:", ranking.considered);
        for (what, why) in ranking.refused.iter().take(REFUSED) {
            let _ = writeln!(text, "  {what}: {why}");
        }
        if ranking.refused.len() > REFUSED {
            let _ = writeln!(text, "  and {} more", ranking.refused.len() - REFUSED);
        }
    }
    text
}

fn row(plan: &Plan) -> [String; 8] {
    let slowest = plan.predicted.bytes.first();
    let layout = if plan.mesh.pipeline == 1 { "replicas only" } else { plan.layout.name() };
    let chunks = if plan.chunks > 1 { format!(" x{}", plan.chunks) } else { String::new() };
    [
        plan.mesh.to_string(),
        layout.into(),
        format!("{}{chunks}", plan.schedule.name()),
        format!("{} x {}", plan.micro_batches, plan.micro_batch),
        seconds(plan.predicted.step_s),
        format!("{:.0}", plan.predicted.tokens_per_s),
        format!("{:.1}%", 100.0 * plan.predicted.bubble),
        slowest.map_or(String::from("none"), |it| format!("{} {}", it.over, size(it.bytes))),
    ]
}

/// A time with a unit that suits it.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        0.0 => "0 s".into(),
        s => format!("{:.1} us", s * 1e6),
    }
}

/// A number of bytes with a unit that suits it.
fn size(bytes: f64) -> String {
    match bytes {
        b if b >= 1e12 => format!("{:.1} TB", b / 1e12),
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

/// A bandwidth in bits, as networks are named.
fn rate(bandwidth: f64) -> String {
    let bits = bandwidth * 8.0;
    if bits >= 1e9 { format!("{:.0} Gbit/s", bits / 1e9) } else { format!("{:.0} Mbit/s", bits / 1e6) }
}

/// Text that may stand in an SVG.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Other control characters are not allowed in XML at all.
            it if it.is_control() => escaped.push(' '),
            it => escaped.push(it),
        }
    }
    escaped
}

/// Colours for stages, used again after the last.
fn stage_colour(stage: usize) -> &'static str {
    const COLOURS: [&str; 8] = ["#9cc7ee", "#b9e3b4", "#f8cf95", "#d9c2ec", "#f2b6b6", "#a8e0dc", "#ece59a", "#c9cdd2"];
    COLOURS[stage % COLOURS.len()]
}
