//! Where the stages of a plan lie: clusters, hosts and ranks.

use std::fmt::Write as _;

use super::{escape, rate, seconds, size, stage_colour};
use crate::plan::Plan;
use crate::topology::{Link, Topology};

/// Larger topologies are drawn in part.
const MOST_CLUSTERS: usize = 8;
const MOST_HOSTS: usize = 16;
const MOST_RANKS: usize = 16;

/// Sizes in pixels.
const RANK: (usize, usize) = (64, 34);
const GAP: usize = 8;
const RANKS_A_ROW: usize = 4;
const HOSTS_A_ROW: usize = 2;
const LEFT: usize = 16;
const TOP: usize = 96;
const BETWEEN: usize = 170;

/// The clusters as boxes with their hosts and ranks, each rank in the colour of its stage, and between neighbouring boxes the link
/// with what a step sends over it. Of more than 8 clusters, 16 hosts of a cluster or 16 ranks of a host the rest is left out, which
/// the picture says.
pub fn svg_placement(plan: &Plan, topology: &Topology) -> String {
    let mut stage_of = vec![0; topology.ranks.len()];
    let mut logical = vec![0; topology.ranks.len()];
    let stage_size = plan.mesh.stage_size().max(1);
    for (position, &rank) in plan.order.iter().enumerate().filter(|(_, rank)| **rank < topology.ranks.len()) {
        stage_of[rank] = position / stage_size;
        logical[rank] = position;
    }
    // Clusters in the order in which the stages meet them.
    let mut shown: Vec<usize> = Vec::new();
    for &rank in &plan.order {
        if let Some(machine) = topology.ranks.get(rank)
            && !shown.contains(&machine.cluster)
        {
            shown.push(machine.cluster);
        }
    }
    let clusters = shown.len();
    shown.truncate(MOST_CLUSTERS);
    let boxes: Vec<Cluster> = shown.iter().map(|&cluster| Cluster::new(topology, cluster)).collect();
    let inner: usize = boxes.iter().map(|it| it.width).sum();
    let width = (2 * LEFT + inner + boxes.len().saturating_sub(1) * BETWEEN).max(700);
    let tallest = boxes.iter().map(|it| it.height).max().unwrap_or(0);
    let legend = plan.mesh.pipeline.min(64).div_ceil(8) * 22;
    let height = TOP + tallest + legend + 30;

    let mut text = String::new();
    let layout = if plan.mesh.pipeline == 1 { "replicas only" } else { plan.layout.name() };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="11">
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="{LEFT}" y="24" font-size="15">{} ({layout}), {} with {} micro-batches of {}</text>
<text x="{LEFT}" y="44" fill="#555">step {}, {:.0} tokens/s, {:.1}% of the pipeline idle</text>"##,
        plan.mesh,
        plan.schedule.name(),
        plan.micro_batches,
        plan.micro_batch,
        seconds(plan.predicted.step_s),
        plan.predicted.tokens_per_s,
        100.0 * plan.predicted.bubble
    );
    let left_out = clusters - boxes.len() + boxes.iter().map(|it| it.left_out).sum::<usize>();
    if left_out > 0 {
        let _ = writeln!(
            text,
            r##"<text x="{LEFT}" y="64" fill="#b00">left out: what is beyond {MOST_CLUSTERS} clusters, {MOST_HOSTS} hosts of a cluster, {MOST_RANKS} ranks of a host</text>"##
        );
    }
    let mut x = LEFT;
    for (index, it) in boxes.iter().enumerate() {
        it.draw(&mut text, topology, x, &stage_of, &logical);
        if let Some(next) = boxes.get(index + 1) {
            let (from, to) = (x + it.width, x + it.width + BETWEEN);
            draw_link(&mut text, plan, topology, (it.index, next.index), (from, to));
        }
        x += it.width + BETWEEN;
    }
    for (stage, held) in plan.stages.iter().enumerate().take(64) {
        let (x, y) = (LEFT + stage % 8 * 160, TOP + tallest + 18 + stage / 8 * 22);
        let layers: Vec<String> =
            held.layers.iter().map(|it| format!("{}–{}", it.start, it.end.saturating_sub(1))).collect();
        let _ = writeln!(
            text,
            r##"<rect x="{x}" y="{y}" width="14" height="12" rx="2" fill="{}" stroke="#777"/><text x="{}" y="{}">stage {stage}: layers {}</text>"##,
            stage_colour(stage),
            x + 19,
            y + 10,
            layers.join(", ")
        );
    }
    text.push_str("</svg>\n");
    text
}

/// A cluster's box.
#[derive(Debug)]
struct Cluster {
    index: usize,
    /// Each with its ranks.
    hosts: Vec<(usize, Vec<usize>)>,
    width: usize,
    height: usize,
    host: (usize, usize),
    left_out: usize,
}

impl Cluster {
    fn new(topology: &Topology, index: usize) -> Self {
        let mut hosts: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut left_out = 0;
        for (rank, machine) in topology.ranks.iter().enumerate().filter(|(_, it)| it.cluster == index) {
            match hosts.iter().position(|host| host.0 == machine.host) {
                Some(host) if hosts[host].1.len() < MOST_RANKS => hosts[host].1.push(rank),
                None if hosts.len() < MOST_HOSTS => hosts.push((machine.host, vec![rank])),
                _ => left_out += 1,
            }
        }
        let ranks = hosts.iter().map(|host| host.1.len()).max().unwrap_or(1);
        let columns = ranks.min(RANKS_A_ROW);
        let host = (columns * (RANK.0 + GAP) + GAP, ranks.div_ceil(RANKS_A_ROW) * (RANK.1 + GAP) + GAP + 16);
        let (across, down) = (hosts.len().clamp(1, HOSTS_A_ROW), hosts.len().div_ceil(HOSTS_A_ROW));
        let width = (across * (host.0 + GAP) + GAP).max(210);
        Self { index, hosts, width, height: down * (host.1 + GAP) + GAP + 40, host, left_out }
    }

    fn draw(&self, text: &mut String, topology: &Topology, x: usize, stage_of: &[usize], logical: &[usize]) {
        let net = &topology.clusters[self.index];
        let _ = writeln!(
            text,
            r##"<rect x="{x}" y="{TOP}" width="{}" height="{}" rx="8" fill="#f6f7f9" stroke="#889"/><text x="{}" y="{}" font-size="13">{}</text><text x="{}" y="{}" fill="#555">{}</text>"##,
            self.width,
            self.height,
            x + 10,
            TOP + 19,
            escape(&net.name),
            x + 10,
            TOP + 35,
            link_name(&net.link)
        );
        for (at, (host, ranks)) in self.hosts.iter().enumerate() {
            let left = x + GAP + at % HOSTS_A_ROW * (self.host.0 + GAP);
            let top = TOP + 42 + at / HOSTS_A_ROW * (self.host.1 + GAP);
            let _ = writeln!(
                text,
                r##"<rect x="{left}" y="{top}" width="{}" height="{}" rx="5" fill="#fff" stroke="#bbc"/><text x="{}" y="{}" fill="#555" font-size="9">host {host}, {}</text>"##,
                self.host.0,
                self.host.1,
                left + GAP,
                top + 12,
                topology.hosts[*host].class.name()
            );
            for (place, &rank) in ranks.iter().enumerate() {
                let left = left + GAP + place % RANKS_A_ROW * (RANK.0 + GAP);
                let top = top + 17 + place / RANKS_A_ROW * (RANK.1 + GAP);
                let machine = &topology.ranks[rank];
                let _ = writeln!(
                    text,
                    r##"<g><title>rank {rank}, logical rank {}, stage {}, {} of speed {:.2}</title><rect x="{left}" y="{top}" width="{}" height="{}" rx="4" fill="{}" stroke="#777"/><text x="{}" y="{}" text-anchor="middle">rank {rank}</text><text x="{}" y="{}" text-anchor="middle" font-size="9" fill="#444">stage {}</text></g>"##,
                    logical[rank],
                    stage_of[rank],
                    escape(if machine.device.is_empty() { "machine" } else { &machine.device }),
                    machine.speed,
                    RANK.0,
                    RANK.1,
                    stage_colour(stage_of[rank]),
                    left + RANK.0 / 2,
                    top + 15,
                    left + RANK.0 / 2,
                    top + 27,
                    stage_of[rank]
                );
            }
        }
    }
}

fn draw_link(text: &mut String, plan: &Plan, topology: &Topology, ends: (usize, usize), at: (usize, usize)) {
    let link = topology.between[ends.0][ends.1];
    let pair = (ends.0.min(ends.1), ends.0.max(ends.1));
    let bytes: f64 = plan.predicted.bytes.iter().filter(|it| it.clusters == pair).map(|it| it.bytes).sum();
    let (y, middle) = (TOP + 60, (at.0 + at.1) / 2);
    let _ = writeln!(
        text,
        r##"<line x1="{}" y1="{y}" x2="{}" y2="{y}" stroke="#b5651d" stroke-width="3"/><text x="{middle}" y="{}" text-anchor="middle">{}</text><text x="{middle}" y="{}" text-anchor="middle" fill="#555">{} one way</text><text x="{middle}" y="{}" text-anchor="middle" fill="#555">{} a step</text>"##,
        at.0,
        at.1,
        y - 8,
        link_name(&link),
        y + 18,
        seconds(link.latency_s),
        y + 33,
        size(bytes)
    );
}

fn link_name(link: &Link) -> String {
    format!("{} {}{}", link.class.name(), rate(link.bandwidth), if link.shared { ", shared" } else { "" })
}
