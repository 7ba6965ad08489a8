//! The demo's page and its JSON: what was measured, against what, in plots and in words.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::plan::{DemoPeer, Plan, UNMODIFIED};
use super::story::{Evaluation, Story};
use crate::report::page::Page;
use crate::report::plot::{Extent, Series, bars, lines, matrix};

/// All that the demo measured.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// What was planned.
    pub(crate) plan: Plan,
    /// In the swarm, in the plan's order.
    pub(crate) swarm: Vec<Story>,
    /// Alone, in the plan's order.
    pub(crate) alone: Vec<Story>,
    /// Wall-clock seconds from the first process to the last.
    pub(crate) seconds: f64,
}

/// Start and end of a curve; `None` where nothing was measured.
type Ends = (Option<f64>, Option<f64>);

impl Measured {
    /// First and mean of the last two evaluations: one evaluation of few questions is noisy.
    fn ends(story: &Story, keep: impl Fn(&str) -> bool) -> Ends {
        let means: Vec<f64> = story.evaluations.iter().filter_map(|one| one.mean(&keep)).collect();
        let last = &means[means.len().saturating_sub(2).max(usize::from(means.len() > 1))..];
        (means.first().copied(), (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64))
    }

    /// The `--json` document; `report` is the page's path.
    pub(crate) fn json(&self, report: &str) -> Value {
        let peers: Vec<Value> = self
            .plan
            .peers
            .iter()
            .zip(self.swarm.iter().zip(&self.alone))
            .map(|(peer, (swarm, alone))| {
                let ends = |story: &Story, keep: &dyn Fn(&str) -> bool| {
                    let (start, end) = Self::ends(story, keep);
                    json!({ "start": start, "end": end })
                };
                // The unmodified task stands apart, in `tasks`: everywhere else it is left out, as on the page.
                let learnable = |label: &str| label != UNMODIFIED;
                let own = |label: &str| label == peer.specialty;
                let other = |label: &str| label != peer.specialty && learnable(label);
                let tasks: serde_json::Map<String, Value> = self
                    .plan
                    .run
                    .tasks
                    .iter()
                    .map(|task| {
                        let only = |label: &str| label == task.label;
                        (task.label.clone(), json!({ "swarm": ends(swarm, &only), "alone": ends(alone, &only) }))
                    })
                    .collect();
                let mut control = ends(alone, &learnable);
                control["own"] = ends(alone, &own);
                control["other"] = ends(alone, &other);
                json!({
                    "peer": swarm.peer, "name": peer.name, "model": peer.model, "specialty": peer.specialty,
                    "held_out": ends(swarm, &learnable), "own": ends(swarm, &own), "other": ends(swarm, &other),
                    "alone": control, "tasks": tasks,
                    "groups_out": swarm.acknowledged_by.values().sum::<u64>(),
                    "groups_in": swarm.stored_from.values().sum::<u64>(),
                })
            })
            .collect();
        json!({
            "peers": peers,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "bytes_shared": self.bytes_shared(),
            "bytes_per_group": self.bytes_per_group(),
            "report": report,
        })
    }

    /// Bytes of group bodies that went from one peer to another.
    pub(crate) fn bytes_shared(&self) -> u64 {
        self.swarm.iter().map(|story| story.bytes_in).sum()
    }

    fn bytes_per_group(&self) -> Option<u64> {
        let groups: u64 = self.swarm.iter().flat_map(|story| story.stored_from.values()).sum();
        (groups > 0).then(|| self.bytes_shared() / groups)
    }

    /// Held-out reward over steps: every peer in the swarm, and alone as a dashed line.
    pub(crate) fn headline(&self) -> String {
        let series = self.both(|at, one| Some((one.step as f64, one.mean(|label| label != UNMODIFIED)?, at)));
        lines("Held-out reward: swarm (solid), alone (dashed)", "training steps", "mean reward", Extent::Unit, &series)
    }

    fn both(&self, point: impl Fn(usize, &Evaluation) -> Option<(f64, f64, usize)>) -> Vec<Series> {
        let curve = |name: String, colour, dashed, story: &Story| Series {
            name,
            colour,
            dashed,
            points: story.evaluations.iter().filter_map(|one| point(colour, one)).map(|(x, y, _)| (x, y)).collect(),
        };
        let mut series = Vec::new();
        for (at, peer) in self.plan.peers.iter().enumerate() {
            series.push(curve(peer.name.to_owned(), at, false, &self.swarm[at]));
            series.push(curve(format!("{} alone", peer.name), at, true, &self.alone[at]));
        }
        series
    }

    /// The page.
    pub(crate) fn page(&self, command: &str) -> String {
        let names: Vec<String> = self.plan.peers.iter().map(|peer| peer.name.to_owned()).collect();
        let mut page = Page::new(
            "A swarm of four, and the same four alone",
            &format!(
                "Four processes found each other over libp2p, trained their own policies by reinforcement learning, and \
                 shared rollouts, in {:.0} s on this machine. Each was shown one task at the start and little of the others.",
                self.seconds
            ),
        );
        page.text(&self.verdict());
        page.section("Held-out reward").text(
            "Fixed questions that no training ever sees, the same for all; two sampled completions of the peer's own policy each. \
             Others' completions play no part in these numbers. The unmodified task has a plot of its own below.",
        );
        let over_completions =
            self.both(|at, one| Some((one.completions as f64, one.mean(|label| label != UNMODIFIED)?, at)));
        let over_time = self.both(|at, one| Some((one.seconds, one.mean(|label| label != UNMODIFIED)?, at)));
        page.plots(&[
            (
                self.headline(),
                "Over training steps. Dashed: the same peer, questions and start, learning alone.".into(),
            ),
            (
                lines(
                    "Over generated completions",
                    "own completions generated",
                    "mean reward",
                    Extent::Unit,
                    &over_completions,
                ),
                "A peer in the swarm generates fewer completions per step: others' groups stand in.".into(),
            ),
            (
                lines("Over time", "seconds since the first evaluation", "mean reward", Extent::Unit, &over_time),
                "All eight processes shared this machine's cores, so seconds compare only with each other.".into(),
            ),
        ]);
        page.section("What each knew, and what it learnt");
        let mut rows = Vec::new();
        for (at, peer) in self.plan.peers.iter().enumerate() {
            rows.push(self.row(peer, "swarm", &self.swarm[at]));
            rows.push(self.row(peer, "alone", &self.alone[at]));
        }
        page.table(
            &["peer", "", "model", "shown", "all: start", "end", "own: start", "end", "other: start", "end"],
            &rows,
        );
        let mut plots = Vec::new();
        for (at, peer) in self.plan.peers.iter().enumerate() {
            let series = self.per_task(at);
            plots.push((
                lines(&format!("{} by task", peer.name), "training steps", "mean reward", Extent::Unit, &series),
                format!("{} was shown {}. Solid: in the swarm. Dashed: alone.", peer.name, peer.specialty),
            ));
        }
        page.plots(&plots);
        page.section("Rewards in training: own and others' groups apart").text(
            "Rewards of the completions that entered the updates, as scored by the peer that trained on them. Others' groups were \
             chosen for holding a correct answer, so their mean says nothing about a policy: the held-out plots do.",
        );
        let rewards = |title, pick: fn(&super::story::Step) -> Option<f64>| {
            let series: Vec<Series> = self
                .swarm
                .iter()
                .enumerate()
                .map(|(at, story)| Series {
                    name: names[at].clone(),
                    colour: at,
                    dashed: false,
                    points: smooth(story.steps.iter().filter_map(|step| Some((step.step as f64, pick(step)?)))),
                })
                .collect();
            (
                lines(title, "training steps", "mean reward", Extent::Unit, &series),
                "Means over windows of ten steps.".to_owned(),
            )
        };
        page.plots(&[rewards("Own groups", |step| step.own), rewards("Groups of others", |step| step.external)]);
        page.section("Who gave to whom").text(&format!(
            "Groups acknowledged: stored durably by the receiver after it regenerated the question and scored every completion \
             itself. {} group bodies crossed, {} of them in all, {} a group.",
            self.swarm.iter().flat_map(|story| story.stored_from.values()).sum::<u64>(),
            bytes(self.bytes_shared()),
            bytes(self.bytes_per_group().unwrap_or(0)),
        ));
        let gave: Vec<Vec<f64>> = self
            .swarm
            .iter()
            .map(|giver| {
                self.swarm.iter().map(|taker| taker.stored_from.get(&giver.peer).copied().unwrap_or(0) as f64).collect()
            })
            .collect();
        let received: Vec<(String, Vec<f64>)> =
            names.iter().zip(&self.swarm).map(|(name, story)| (name.clone(), vec![story.bytes_in as f64])).collect();
        page.plots(&[
            (matrix("Groups given and taken", "gave", "took", &names, &gave), "Row gave, column took.".into()),
            (
                bars("Bytes of group bodies received", "bytes", Extent::FromZero, &["received"], &received),
                "Without transport overhead.".into(),
            ),
            (self.staleness(), "Versions between a group's policy and its author's newest when it was used.".into()),
        ]);
        page.section("What was dropped");
        let reasons: BTreeSet<&String> = self.swarm.iter().flat_map(|story| story.dropped.keys()).collect();
        if reasons.is_empty() {
            page.text(
                "Nothing: every group that arrived was stored, and none left the buffer for another reason than use.",
            );
        } else {
            let rows: Vec<Vec<String>> = reasons
                .iter()
                .map(|reason| {
                    let counts =
                        self.swarm.iter().map(|story| story.dropped.get(*reason).copied().unwrap_or(0).to_string());
                    std::iter::once((*reason).clone()).chain(counts).collect()
                })
                .collect();
            let head: Vec<&str> = std::iter::once("reason").chain(names.iter().map(String::as_str)).collect();
            page.table(&head, &rows);
        }
        page.section("One published task, unmodified").text(
            "calendar_arithmetic of reasoning-gym with rl-swarm's configuration, its long prompt and the scorer's partial credit \
             (a constant \"No\" earns about 0.18, measured over 5000 questions). Policies this small are not expected to solve it; it is here so that the easier tasks above \
             are not mistaken for it.",
        );
        let unmodified = self.both(|at, one| Some((one.step as f64, *one.rewards.get(UNMODIFIED)?, at)));
        page.plots(&[(
            lines(UNMODIFIED, "training steps", "mean reward", Extent::Unit, &unmodified),
            "Solid: in the swarm. Dashed: alone.".into(),
        )]);
        page.section("How this was measured").text(&format!(
            "Start is the first evaluation after the supervised warm start of {} steps; end is the mean of the last two. {} held-out \
             questions per task, two sampled completions each, so one point has a standard error of up to {:.2}. Every peer asks itself \
             every task, its own most often, in the swarm as alone, from the same initial weights and with the same key. In the swarm a peer \
             trains on 4 own groups of 8 completions per step (GRPO, clip 0.2/0.28, no KL) and imitates one verified-correct completion \
             from each of up to 32 groups of others; alone it trains on 8 own groups per step. Each side uses the learning rate that \
             served it best when the rules were compared ({:.0e} in the swarm, {:.0e} alone; {:.0e} for {} in both). The imitation rule is not \
             SAPO's own update, which trains on others' groups as if they were own: `rule = \"paper\"` in a run file selects that.",
            self.plan.warm_steps,
            self.plan.questions,
            0.5 / f64::from(self.plan.questions).sqrt(),
            self.plan.peers[1].learning_rate(false),
            self.plan.peers[1].learning_rate(true),
            self.plan.peers[0].learning_rate(false),
            self.plan.peers[0].model,
        ));
        page.html(&format!("Made by `{command}`."))
    }

    fn row(&self, peer: &DemoPeer, side: &str, story: &Story) -> Vec<String> {
        let learnable = |label: &str| label != UNMODIFIED;
        let ends = [
            Self::ends(story, learnable),
            Self::ends(story, |label| label == peer.specialty),
            Self::ends(story, |label| label != peer.specialty && learnable(label)),
        ];
        let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.2}"));
        let mut row = vec![
            peer.name.to_owned(),
            side.to_owned(),
            format!("{} ({}k)", peer.model, story.parameters / 1000),
            peer.specialty.to_owned(),
        ];
        row.extend(ends.into_iter().flat_map(|(start, end)| [number(start), number(end)]));
        row
    }

    fn per_task(&self, at: usize) -> Vec<Series> {
        let mut series = Vec::new();
        for (colour, task) in self.plan.run.tasks.iter().filter(|task| task.label != UNMODIFIED).enumerate() {
            for (dashed, story) in [(false, &self.swarm[at]), (true, &self.alone[at])] {
                series.push(Series {
                    name: task.label.clone(),
                    colour,
                    dashed,
                    points: story
                        .evaluations
                        .iter()
                        .filter_map(|one| Some((one.step as f64, *one.rewards.get(&task.label)?)))
                        .collect(),
                });
            }
        }
        series
    }

    fn staleness(&self) -> String {
        let bounds = [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, u64::MAX)];
        let groups: Vec<(String, Vec<f64>)> = bounds
            .iter()
            .map(|(low, high)| {
                let uses: u64 = self
                    .swarm
                    .iter()
                    .flat_map(|story| story.staleness.range(*low..=*high))
                    .map(|(_, uses)| *uses)
                    .sum();
                let name = match (low, high) {
                    (low, high) if low == high => low.to_string(),
                    (low, &u64::MAX) => format!("{low}+"),
                    (low, high) => format!("{low}–{high}"),
                };
                (name, vec![uses as f64])
            })
            .collect();
        bars("Staleness of the groups used", "uses", Extent::FromZero, &["versions"], &groups)
    }

    /// What the numbers say, in two sentences that hold only what was measured.
    fn verdict(&self) -> String {
        if self.plan.questions < self.plan.run.held_out {
            return "A short form, for checks: too few steps and questions for a claim about learning.".into();
        }
        let learnable = |label: &str| label != UNMODIFIED;
        let risen = self
            .swarm
            .iter()
            .filter(|story| matches!(Self::ends(story, learnable), (Some(start), Some(end)) if end > start))
            .count();
        let mut learnt = Vec::new();
        for (at, peer) in self.plan.peers.iter().enumerate() {
            for task in self.plan.run.tasks.iter().filter(|task| task.label != peer.specialty && learnable(&task.label))
            {
                let only = |label: &str| label == task.label;
                let ends = (Self::ends(&self.swarm[at], only), Self::ends(&self.alone[at], only));
                if let ((Some(start), Some(end)), (Some(_), Some(control))) = ends
                    && end - start >= 0.15
                    && control < end
                {
                    learnt.push(format!("{} {} ({start:.2} to {end:.2}; alone {control:.2})", peer.name, task.label));
                }
            }
        }
        let learnt = if learnt.is_empty() {
            "No peer gained 0.15 or more on a task that only others were shown while its control stayed below."
                .to_owned()
        } else {
            format!(
                "On tasks that were mostly shown to others, up by 0.15 or more and above the control: {}.",
                learnt.join("; ")
            )
        };
        format!("Held-out reward rose for {risen} of {} peers in the swarm. {learnt}", self.swarm.len())
    }
}

/// Means over windows of ten.
fn smooth(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = points.collect();
    points
        .chunks(10)
        .map(|window| {
            let mean = window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64;
            (window[window.len() - 1].0, mean)
        })
        .collect()
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::plan::plan;

    fn story(peer: &str, rewards: &[f64]) -> Story {
        let evaluations = rewards
            .iter()
            .enumerate()
            .map(|(at, reward)| Evaluation {
                step: at as u64 * 10,
                completions: at as u64 * 640,
                seconds: at as f64,
                rewards: ["matrix", "spell", "bits", "sort"]
                    .iter()
                    .map(|label| ((*label).to_owned(), *reward))
                    .collect(),
            })
            .collect();
        let mut story = Story { peer: peer.into(), evaluations, ..Story::default() };
        story.stored_from.insert("B".into(), 2);
        story.bytes_in = 700;
        story
    }

    fn measured() -> Measured {
        let swarm = ["A", "B", "C", "D"].map(|peer| story(peer, &[0.2, 0.3, 0.4, 0.6]));
        let alone = ["A", "B", "C", "D"].map(|peer| story(peer, &[0.2, 0.2, 0.2, 0.3]));
        Measured { plan: plan(1, 20, 30, 10, 48), swarm: swarm.into(), alone: alone.into(), seconds: 12.34 }
    }

    #[test]
    fn the_document_holds_starts_and_ends() {
        let json = measured().json("out/report.html");
        let first = &json["peers"][0];
        assert_eq!((first["held_out"]["start"].as_f64(), first["held_out"]["end"].as_f64()), (Some(0.2), Some(0.5)));
        assert_eq!(first["alone"]["end"].as_f64(), Some(0.25));
        assert_eq!((first["groups_in"].as_u64(), json["bytes_shared"].as_u64()), (Some(2), Some(2800)));
        assert_eq!(json["bytes_per_group"].as_u64(), Some(350));
        assert_eq!(json["seconds"].as_f64(), Some(12.3));
    }

    #[test]
    fn the_page_says_what_was_learnt_and_draws_every_plot() {
        let html = measured().page("swarmloom demo");
        assert!(html.contains("rose for 4 of 4 peers"));
        assert!(html.contains("ada spell (0.20 to 0.50; alone 0.25)"));
        assert_eq!(html.matches("<svg").count(), 13);
        assert!(!html.contains("could not be drawn"));
    }
}
