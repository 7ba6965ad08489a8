//! A plan as a picture: a lane for each rank, time from left to right.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::headline;
use crate::plan::{Plan, Rank, Step};

/// Larger plans are drawn in part.
const MOST_RANKS: usize = 16;
const MOST_COLUMNS: usize = 60;

/// Sizes in pixels.
const COLUMN: usize = 112;
const LANE: usize = 64;
const BOX: (usize, usize) = (98, 30);
const LEFT: usize = 70;
const TOP: usize = 86;

/// The plan as SVG. A step stands as far left as what it waits for allows; arrows lead from signals and puts to the waits
/// that take them. A step that is never reached is red, where the plan blocks. Of a plan with more than 16 ranks or 60
/// columns the rest is left out, which the picture says.
pub fn svg(plan: &Plan) -> String {
    let times = Times::new(plan);
    let ranks = plan.ranks().min(MOST_RANKS);
    let shown = |rank: Rank, step: usize| rank < ranks && times.column(rank, step) < MOST_COLUMNS;
    let all: usize = plan.programs.iter().map(Vec::len).sum();
    let steps: Vec<(Rank, usize)> = (0..ranks)
        .flat_map(|rank| (0..plan.programs[rank].len()).map(move |step| (rank, step)))
        .filter(|&(rank, step)| shown(rank, step))
        .collect();
    let columns = steps.iter().map(|&(rank, step)| times.column(rank, step) + 1).max().unwrap_or(1);
    let (width, height) = ((LEFT + columns * COLUMN + 10).max(780), TOP + ranks * LANE + 10);

    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="11">
<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#456"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="10" y="20" font-size="14">{}</text>"##,
        headline(plan)
    );
    legend(&mut text);
    if steps.len() < all {
        let left = all - steps.len();
        let _ = writeln!(
            text,
            r##"<text x="10" y="74" fill="#b00">{left} of {all} steps are left out: shown are ranks 0 to {} and {columns} columns</text>"##,
            ranks.saturating_sub(1)
        );
    }
    for rank in 0..ranks {
        let y = middle(rank);
        let _ = writeln!(
            text,
            r##"<text x="10" y="{}">rank {rank}</text><line x1="{LEFT}" y1="{y}" x2="{}" y2="{y}" stroke="#ddd"/>"##,
            y + 4,
            width - 10
        );
    }
    for arrow in times.arrows.iter().filter(|arrow| shown(arrow.from.0, arrow.from.1) && shown(arrow.to.0, arrow.to.1))
    {
        draw_arrow(&mut text, &times, arrow);
    }
    for &(rank, step) in &steps {
        draw_step(&mut text, &plan.programs[rank][step], rank, &times, step);
    }
    text.push_str("</svg>\n");
    text
}

/// From a step to the wait that takes it.
#[derive(Debug)]
struct Arrow {
    from: (Rank, usize),
    to: (Rank, usize),
    /// A put whose signal is a later one.
    late: bool,
}

/// When each step can happen, counted in steps from the beginning.
struct Times {
    /// By rank and step; shorter than the program where the rank is blocked.
    columns: Vec<Vec<usize>>,
    arrows: Vec<Arrow>,
}

/// What is sent, each kind counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Channel {
    Signal,
    Packet,
    Expose,
}

/// A step that sent something, and the puts before it that had no signal of their own.
struct Sent {
    step: usize,
    puts: Vec<usize>,
}

impl Times {
    fn new(plan: &Plan) -> Self {
        let mut columns: Vec<Vec<usize>> = vec![Vec::new(); plan.ranks()];
        let mut arrows = Vec::new();
        let mut sent: HashMap<(Channel, Rank, Rank), Vec<Sent>> = HashMap::new();
        let mut taken: HashMap<(Channel, Rank, Rank), usize> = HashMap::new();
        let mut puts: HashMap<(Rank, Rank), Vec<usize>> = HashMap::new();
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for (rank, program) in plan.programs.iter().enumerate() {
                while let Some(step) = program.get(columns[rank].len()) {
                    let index = columns[rank].len();
                    let mut column = columns[rank].last().map_or(0, |last| last + 1);
                    if let Some((channel, from)) = awaited(step) {
                        let key = (channel, from, rank);
                        let next = taken.entry(key).or_default();
                        let Some(sent) = sent.get(&key).and_then(|sent| sent.get(*next)) else { break };
                        *next += 1;
                        column = column.max(columns[from][sent.step] + 1);
                        arrows.push(Arrow { from: (from, sent.step), to: (rank, index), late: false });
                        let late = |put: &usize| Arrow { from: (from, *put), to: (rank, index), late: true };
                        arrows.extend(sent.puts.iter().map(late));
                    }
                    if let Some((channel, to)) = told(step) {
                        let carried = if channel == Channel::Signal { puts.remove(&(rank, to)) } else { None };
                        let it = Sent { step: index, puts: carried.unwrap_or_default() };
                        sent.entry((channel, rank, to)).or_default().push(it);
                    }
                    if let Step::Put { to, signal: false, .. } = step {
                        puts.entry((rank, to.rank)).or_default().push(index);
                    }
                    columns[rank].push(column);
                    moved = true;
                }
            }
        }
        Self { columns, arrows }
    }

    /// Steps that are never reached stand behind the last one that is.
    fn column(&self, rank: Rank, step: usize) -> usize {
        let columns = &self.columns[rank];
        match columns.get(step) {
            Some(column) => *column,
            None => columns.last().map_or(0, |last| last + 1) + step - columns.len(),
        }
    }

    fn reached(&self, rank: Rank, step: usize) -> bool {
        step < self.columns[rank].len()
    }
}

/// When each step happens.
#[cfg(test)]
pub(super) fn columns(plan: &Plan) -> Vec<Vec<usize>> {
    Times::new(plan).columns
}

fn awaited(step: &Step) -> Option<(Channel, Rank)> {
    match step {
        Step::Wait { from } => Some((Channel::Signal, *from)),
        Step::WaitPacket { from } => Some((Channel::Packet, *from)),
        Step::Meet { from } => Some((Channel::Expose, *from)),
        _ => None,
    }
}

fn told(step: &Step) -> Option<(Channel, Rank)> {
    match step {
        Step::Put { to, signal: true, .. } => Some((Channel::Signal, to.rank)),
        Step::Signal { to } => Some((Channel::Signal, *to)),
        Step::Packet { to, .. } => Some((Channel::Packet, *to)),
        Step::Expose { to } => Some((Channel::Expose, *to)),
        _ => None,
    }
}

/// Name, colour, and what the legend says.
const KINDS: [(&str, &str, &str); 6] = [
    ("put", "#9cc7ee", "put, packet"),
    ("signal", "#d6e8f8", "signal, expose"),
    ("wait", "#e4e4e4", "wait, meet"),
    ("copy", "#b9e3b4", "copy"),
    ("reduce", "#f8cf95", "reduce"),
    ("never", "#f2a0a0", "never reached"),
];

fn colour(step: &Step) -> &'static str {
    let kind = match step {
        Step::Put { .. } | Step::Packet { .. } => 0,
        Step::Signal { .. } | Step::Expose { .. } => 1,
        Step::Wait { .. } | Step::WaitPacket { .. } | Step::Meet { .. } => 2,
        Step::Copy { .. } => 3,
        Step::Reduce { .. } => 4,
    };
    KINDS[kind].1
}

/// What the two lines of a box say.
fn label(step: &Step, rank: Rank) -> (String, String) {
    let elsewhere = |other: Rank| if other == rank { String::new() } else { format!(" of {other}") };
    match step {
        Step::Put { from, to, .. } => (format!("put to {}", to.rank), from.to_string()),
        Step::Signal { to } => (format!("signal {to}"), String::new()),
        Step::Wait { from } => (format!("wait {from}"), String::new()),
        Step::Packet { from, to } => (format!("packet to {to}"), from.to_string()),
        Step::WaitPacket { from } => (format!("wait packet {from}"), String::new()),
        Step::Expose { to } => (format!("expose {to}"), String::new()),
        Step::Meet { from } => (format!("meet {from}"), String::new()),
        Step::Copy { from, to } => (format!("copy{}", elsewhere(from.rank)), to.to_string()),
        Step::Reduce { from, to } => {
            (format!("reduce {}", from.len()), to.first().map(|place| place.slice.to_string()).unwrap_or_default())
        }
    }
}

fn middle(rank: Rank) -> usize {
    TOP + rank * LANE + LANE / 2
}

fn left(column: usize) -> usize {
    LEFT + column * COLUMN
}

fn legend(text: &mut String) {
    for (i, (_, fill, what)) in KINDS.iter().enumerate() {
        let x = 10 + i * 118;
        let _ = writeln!(
            text,
            r##"<rect x="{x}" y="32" width="14" height="12" fill="{fill}" stroke="#777"/><text x="{}" y="42">{what}</text>"##,
            x + 19
        );
    }
    let _ = writeln!(
        text,
        r##"<text x="10" y="60">solid: what a wait takes; dashed: a put that it lets be seen as well. The full steps are in each box's title.</text>"##
    );
}

fn draw_arrow(text: &mut String, times: &Times, arrow: &Arrow) {
    let (from, to) = (arrow.from, arrow.to);
    let down = to.0 > from.0;
    let edge = |rank: Rank, below: bool| if below { middle(rank) + BOX.1 / 2 } else { middle(rank) - BOX.1 / 2 };
    let (x1, y1) = (left(times.column(from.0, from.1)) + BOX.0 / 2, edge(from.0, down));
    let (x2, y2) = (left(times.column(to.0, to.1)) + BOX.0 / 2, edge(to.0, !down));
    let dash = if arrow.late { r##" stroke-dasharray="4 3""## } else { "" };
    let _ = writeln!(
        text,
        r##"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#456"{dash} marker-end="url(#head)"/>"##
    );
}

fn draw_step(text: &mut String, step: &Step, rank: Rank, times: &Times, index: usize) {
    let (x, y) = (left(times.column(rank, index)), middle(rank) - BOX.1 / 2);
    let fill = if times.reached(rank, index) { colour(step) } else { KINDS[5].1 };
    let (first, second) = label(step, rank);
    let x_text = x + BOX.0 / 2;
    let y_text = if second.is_empty() { y + 19 } else { y + 13 };
    let _ = writeln!(
        text,
        r##"<g><title>rank {rank}, step {index}: {}</title><rect x="{x}" y="{y}" width="{}" height="{}" rx="3" fill="{fill}" stroke="#777"/><text x="{x_text}" y="{y_text}" text-anchor="middle">{first}</text><text x="{x_text}" y="{}" text-anchor="middle" font-size="8">{second}</text></g>"##,
        step.to_string().replace("->", "to"),
        BOX.0,
        BOX.1,
        y + 25
    );
}
