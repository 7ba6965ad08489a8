//! When each stage works on what: a lane for each stage, time from left to right.

use std::fmt::Write as _;

use super::seconds;
use crate::schedule::{Pass, Schedule};
use crate::timeline::Timeline;

/// Longer schedules are drawn in part.
const MOST_STAGES: usize = 32;
const MOST_OPS: usize = 4000;

/// Sizes in pixels.
const LANE: usize = 30;
const LEFT: usize = 70;
const TOP: usize = 84;
const WIDTH: f64 = 1100.0;

/// Name, colour, and what the legend says.
const PASSES: [(&str, &str, &str); 4] = [
    ("F", "#9cc7ee", "forward"),
    ("B", "#b9e3b4", "backward"),
    ("D", "#a8e0dc", "gradients of inputs"),
    ("W", "#f8cf95", "gradients of weights"),
];

/// A schedule as it happens. Numbers are micro-batches, where there is room; a darker edge below marks chunks other than the
/// first. Beyond 32 stages or 4000 pieces of work the picture ends early, which it says.
pub fn svg_schedule(schedule: &Schedule, timeline: &Timeline) -> String {
    let stages = timeline.ops.len().min(MOST_STAGES);
    let lanes = &timeline.ops[..stages];
    let each = MOST_OPS / stages.max(1);
    // Until which time every lane is whole.
    let whole = lanes.iter().filter_map(|ops| ops.get(each)).map(|span| span.start_s);
    let until = whole.fold(timeline.makespan_s, f64::min);
    let scale = if until > 0.0 { WIDTH / until } else { 0.0 };
    let x = |time_s: f64| LEFT as f64 + time_s * scale;
    let (width, height) = (LEFT + WIDTH as usize + 30, TOP + stages * LANE + 40);

    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="11">
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="10" y="22" font-size="15">{}: {} stages, {} micro-batches{}, {}, {:.1}% idle</text>"##,
        schedule.kind.name(),
        schedule.stages,
        schedule.micro_batches,
        if schedule.chunks > 1 { format!(", {} chunks", schedule.chunks) } else { String::new() },
        seconds(timeline.makespan_s),
        100.0 * timeline.bubble
    );
    for (index, (name, fill, what)) in PASSES.iter().enumerate() {
        let x = 10 + index * 170;
        let _ = writeln!(
            text,
            r##"<rect x="{x}" y="34" width="14" height="12" fill="{fill}" stroke="#777"/><text x="{}" y="44">{name}: {what}</text>"##,
            x + 19
        );
    }
    let count = |ops: &[crate::timeline::Span]| ops.iter().filter(|span| span.start_s < until).count();
    let all: usize = timeline.ops.iter().map(Vec::len).sum();
    let drawn: usize = lanes.iter().map(|ops| count(ops)).sum();
    if drawn < all {
        let _ = writeln!(
            text,
            r##"<text x="10" y="66" fill="#b00">{} of {all} pieces of work are left out: shown are {stages} of {} stages until {}</text>"##,
            all - drawn,
            timeline.ops.len(),
            seconds(until)
        );
    }
    for (stage, ops) in lanes.iter().enumerate() {
        let y = TOP + stage * LANE;
        let _ = writeln!(
            text,
            r##"<text x="10" y="{}">stage {stage}</text><rect x="{LEFT}" y="{y}" width="{WIDTH}" height="{}" fill="#f3f3f3"/>"##,
            y + LANE / 2 + 4,
            LANE - 4
        );
        for span in ops.iter().filter(|span| span.start_s < until) {
            let (name, fill, _) = PASSES[pass(span.op.pass)];
            let (left, right) = (x(span.start_s), x(span.end_s.min(until)));
            let box_width = (right - left).max(0.3);
            let _ = write!(
                text,
                r##"<rect x="{left:.2}" y="{y}" width="{box_width:.2}" height="{}" fill="{fill}" stroke="#777" stroke-width="0.4"><title>{name} of micro-batch {}, chunk {}: {} to {}</title></rect>"##,
                LANE - 4,
                span.op.micro_batch,
                span.op.chunk,
                seconds(span.start_s),
                seconds(span.end_s)
            );
            if span.op.chunk > 0 {
                let _ = write!(
                    text,
                    r##"<rect x="{left:.2}" y="{}" width="{box_width:.2}" height="3" fill="#567"/>"##,
                    y + LANE - 7
                );
            }
            if box_width >= 15.0 {
                let _ = write!(
                    text,
                    r##"<text x="{:.2}" y="{}" text-anchor="middle" font-size="9">{}</text>"##,
                    (left + right) / 2.0,
                    y + LANE / 2 + 1,
                    span.op.micro_batch
                );
            }
            text.push('\n');
        }
    }
    let y = TOP + stages * LANE + 4;
    let _ = writeln!(text, r##"<line x1="{LEFT}" y1="{y}" x2="{}" y2="{y}" stroke="#555"/>"##, LEFT as f64 + WIDTH);
    for tick in 0..=8 {
        let time_s = until * f64::from(tick) / 8.0;
        let at = x(time_s);
        let _ = writeln!(
            text,
            r##"<line x1="{at:.1}" y1="{y}" x2="{at:.1}" y2="{}" stroke="#555"/><text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"##,
            y + 5,
            y + 18,
            seconds(time_s)
        );
    }
    text.push_str("</svg>\n");
    text
}

fn pass(pass: Pass) -> usize {
    match pass {
        Pass::Forward => 0,
        Pass::Backward => 1,
        Pass::InputGradient => 2,
        Pass::WeightGradient => 3,
    }
}
