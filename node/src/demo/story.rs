//! What a peer's events tell: curves and counts, read from the JSON lines it wrote.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// One peer's course through a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Story {
    /// Its id.
    pub(crate) peer: String,
    /// Trainable parameters.
    pub(crate) parameters: u64,
    /// Held-out evaluations in order.
    pub(crate) evaluations: Vec<Evaluation>,
    /// Training steps in order.
    pub(crate) steps: Vec<Step>,
    /// Groups stored here, by the id of the peer that gave them.
    pub(crate) stored_from: BTreeMap<String, u64>,
    /// Acknowledgements of own groups, by the id of the peer that took them.
    pub(crate) acknowledged_by: BTreeMap<String, u64>,
    /// Groups refused or dropped, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Bytes of group bodies stored here.
    pub(crate) bytes_in: u64,
    /// Staleness in versions of each use, counted.
    pub(crate) staleness: BTreeMap<u64, u64>,
}

/// One held-out evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Evaluation {
    /// Training steps before it.
    pub(crate) step: u64,
    /// Completions generated for training before it.
    pub(crate) completions: u64,
    /// Seconds since the run's first evaluation.
    pub(crate) seconds: f64,
    /// Mean reward by task label.
    pub(crate) rewards: BTreeMap<String, f64>,
}

/// One training step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Step {
    /// Its number, from 1.
    pub(crate) step: u64,
    /// Mean reward of own completions.
    pub(crate) own: Option<f64>,
    /// Mean reward of others' completions.
    pub(crate) external: Option<f64>,
}

impl Evaluation {
    /// Mean over the labels that `keep` lets through; `None` where there are none.
    pub(crate) fn mean(&self, keep: impl Fn(&str) -> bool) -> Option<f64> {
        let kept: Vec<f64> = self.rewards.iter().filter(|(label, _)| keep(label)).map(|(_, reward)| *reward).collect();
        (!kept.is_empty()).then(|| kept.iter().sum::<f64>() / kept.len() as f64)
    }
}

/// Reads a peer's event files, the older one first.
///
/// # Errors
/// Where the current file cannot be read.
pub(crate) fn read(events: &Path) -> std::io::Result<Story> {
    let mut older = events.to_owned().into_os_string();
    older.push(".1");
    let mut text = std::fs::read_to_string(older).unwrap_or_default();
    text.push_str(&std::fs::read_to_string(events)?);
    Ok(tell(&text))
}

/// The story in a peer's events. Lines that are no events are passed over.
pub(crate) fn tell(events: &str) -> Story {
    let mut story = Story::default();
    let mut first_ms = None;
    for event in events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let whole = |key: &str| event[key].as_u64().unwrap_or_default();
        match event["event"].as_str().unwrap_or_default() {
            "started" => {
                story.peer = text("peer");
                story.parameters = whole("parameters");
            }
            "evaluated" => {
                let at = whole("at_ms");
                let first = *first_ms.get_or_insert(at);
                let rewards = event["tasks"].as_object().into_iter().flatten();
                story.evaluations.push(Evaluation {
                    step: whole("step"),
                    completions: whole("completions"),
                    seconds: at.saturating_sub(first) as f64 / 1000.0,
                    rewards: rewards
                        .filter_map(|(label, task)| Some((label.clone(), task["reward"].as_f64()?)))
                        .collect(),
                });
            }
            "step" => {
                let step = Step {
                    step: whole("step"),
                    own: event["own_reward"].as_f64(),
                    external: event["external_reward"].as_f64(),
                };
                story.steps.push(step);
                for (versions, uses) in event["staleness"].as_object().into_iter().flatten() {
                    if let Ok(versions) = versions.parse() {
                        *story.staleness.entry(versions).or_default() += uses.as_u64().unwrap_or(0);
                    }
                }
            }
            "group_stored" => {
                *story.stored_from.entry(text("from")).or_default() += 1;
                story.bytes_in += whole("bytes");
            }
            "group_acknowledged" => *story.acknowledged_by.entry(text("by")).or_default() += 1,
            "group_refused" | "group_dropped" => *story.dropped.entry(text("reason")).or_default() += 1,
            _ => {}
        }
    }
    story
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_curves_and_counts() {
        let story = tell(concat!(
            "{\"at_ms\":1000,\"event\":\"started\",\"peer\":\"A\",\"parameters\":12}\n",
            "{\"at_ms\":2000,\"event\":\"evaluated\",\"step\":0,\"completions\":0,\"tasks\":{\"m\":{\"reward\":0.25},\"s\":{\"reward\":0.75}}}\n",
            "half a line\n",
            "{\"at_ms\":2500,\"event\":\"step\",\"step\":1,\"own_reward\":0.5,\"external_reward\":null,\"staleness\":{\"2\":3}}\n",
            "{\"at_ms\":2600,\"event\":\"group_stored\",\"from\":\"B\",\"bytes\":300}\n",
            "{\"at_ms\":2700,\"event\":\"group_refused\",\"from\":\"C\",\"reason\":\"stale\"}\n",
            "{\"at_ms\":4000,\"event\":\"evaluated\",\"step\":1,\"completions\":64,\"tasks\":{\"m\":{\"reward\":0.5},\"s\":{\"reward\":1.0}}}\n",
        ));
        assert_eq!((story.peer.as_str(), story.parameters, story.bytes_in), ("A", 12, 300));
        assert_eq!(story.evaluations[1].seconds, 2.0);
        assert_eq!(story.evaluations[0].mean(|_| true), Some(0.5));
        assert_eq!(story.evaluations[1].mean(|label| label == "m"), Some(0.5));
        assert_eq!(story.evaluations[1].mean(|_| false), None);
        assert_eq!(story.steps, [Step { step: 1, own: Some(0.5), external: None }]);
        assert_eq!(story.staleness[&2], 3);
        assert_eq!((story.stored_from["B"], story.dropped["stale"]), (1, 1));
    }
}
