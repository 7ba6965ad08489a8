//! What a simulation has found: as JSON, as a table, as text.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use swarmloom_simulation::Record;

use super::report;
use super::write_whole;

/// All of a file.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of the file.
    pub(crate) name: String,
    /// One, or one for each combination of a sweep.
    pub(crate) variants: Vec<Variant>,
    /// Whether they differ in how inversions go about it and in nothing else, so that their costs can be compared.
    pub(crate) comparable: bool,
    /// Wall-clock seconds.
    pub(crate) seconds: f64,
    /// That computed.
    pub(crate) threads: usize,
}

/// All strategies with all seeds.
#[derive(Debug)]
pub(crate) struct Variant {
    /// What the sweep has changed; empty without one.
    pub(crate) label: String,
    /// Name and size.
    pub(crate) model: String,
    /// Classes that are reported apart.
    pub(crate) affected: Vec<u8>,
    /// Accuracy to which time and bytes are reported.
    pub(crate) target: Option<f64>,
    /// The strategy that the others are compared with, seed by seed.
    pub(crate) reference: Option<String>,
    /// In the order of the file.
    pub(crate) strategies: Vec<String>,
    /// Those of them that nobody is late for.
    pub(crate) fresh: Vec<String>,
    /// How many versions late the others' slow clients are, where that is one number.
    pub(crate) late: Option<u64>,
    /// By seed, then by strategy.
    pub(crate) records: Vec<Record>,
    /// Client updates that were computed in this run of the program.
    pub(crate) updates: u64,
    /// Wall-clock seconds.
    pub(crate) seconds: f64,
}

/// Mean and half the width of its 95 % interval, of one value for each seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mean {
    /// The mean.
    pub(crate) mean: f64,
    /// Student's interval; 0 for one seed.
    pub(crate) margin: f64,
}

/// Student's t for 95 %, two-sided, by degrees of freedom from 1 on; more than 30 take the last.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

impl Mean {
    /// Of these values.
    pub(crate) fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        if values.len() < 2 {
            return Self { mean, margin: 0.0 };
        }
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let student = STUDENT[(values.len() - 2).min(STUDENT.len() - 1)];
        Self { mean, margin: student * (variance / count).sqrt() }
    }

    /// In per cent.
    pub(crate) fn percent(&self) -> String {
        match self.margin {
            0.0 => format!("{:.1}", 100.0 * self.mean),
            margin => format!("{:.1} ± {:.1}", 100.0 * self.mean, 100.0 * margin),
        }
    }
}

impl Variant {
    /// A strategy's records, by seed.
    pub(crate) fn of<'a>(&'a self, strategy: &'a str) -> impl Iterator<Item = &'a Record> + Clone {
        self.records.iter().filter(move |record| record.strategy == strategy)
    }

    /// Mean over seeds of something of a strategy's records.
    pub(crate) fn mean(&self, strategy: &str, value: impl Fn(&Record) -> f64) -> Mean {
        Mean::of(&self.of(strategy).map(value).collect::<Vec<_>>())
    }

    /// Seconds of processor time for each update that a strategy has inverted; `None` where it has inverted none.
    pub(crate) fn seconds_each(&self, strategy: &str) -> Option<f64> {
        let sum = |(seconds, count): (f64, u64), record: &Record| {
            (seconds + record.inversion_seconds, count + record.tally.inverted)
        };
        let (seconds, count) = self.of(strategy).fold((0.0, 0), sum);
        (count > 0).then(|| seconds / count as f64)
    }

    /// What the others can reach at best on the affected classes, run-averaged: a strategy that nobody is late for, as many
    /// versions later as their updates. By its name.
    pub(crate) fn ceiling(&self, strategy: &str) -> Option<(String, Mean)> {
        let by = self.late.filter(|_| !self.affected.is_empty() && self.fresh.iter().any(|name| name == strategy))?;
        let mean = self.mean(strategy, |record| record.averaged_late(&self.affected, by));
        Some((format!("{strategy}, {by} later"), mean))
    }

    /// By how much the reference is ahead of a strategy in run-averaged accuracy, on the affected classes where there are
    /// such: the mean of the differences of runs with the same seed. `None` for the reference itself.
    pub(crate) fn behind(&self, strategy: &str) -> Option<Mean> {
        let reference = self.reference.as_deref().filter(|name| *name != strategy)?;
        let difference = |one: &Record| {
            let other = self.of(strategy).find(|record| record.seed == one.seed)?;
            Some(one.averaged(&self.affected) - other.averaged(&self.affected))
        };
        Some(Mean::of(&self.of(reference).filter_map(difference).collect::<Vec<_>>()))
    }

    fn json(&self) -> Value {
        let strategy = |name: &String| {
            let seed = |record: &Record| {
                let affected = (!self.affected.is_empty()).then(|| {
                    let of = &self.affected;
                    json!({ "classes": of, "final": record.last(of), "run_averaged": record.averaged(of) })
                });
                let reached = self.target.map(|target| {
                    record.reached(&[], target).map(|at| {
                        json!({ "version": at.version, "seconds": at.seconds, "bytes": at.bytes_down + at.bytes_up })
                    })
                });
                let tally = &record.tally;
                let count = tally.inverted.max(1) as f64;
                json!({
                    "seed": record.seed,
                    "final_accuracy": record.last(&[]),
                    "run_averaged_accuracy": record.averaged(&[]),
                    "affected_class": affected,
                    "reached_target": reached,
                    "updates": tally.updates,
                    "dropped": tally.dropped,
                    "late": tally.late,
                    "versions_without_enough_updates": tally.skipped,
                    "inversions": {
                        "count": tally.inverted, "mean_cosine": tally.cosine / count, "mean_norm": tally.norm / count,
                        "mean_iterations": tally.iterations as f64 / count,
                        "seconds_each": record.inversion_seconds / count,
                        "labels_told": tally.revealed.labels / count,
                        "look_like_their_class": tally.revealed.classified / count,
                        "distance_to_the_clients": tally.revealed.nearness / count,
                    },
                    "diverged_at": record.diverged,
                    "epsilon": record.epsilon.map(|epsilon| match epsilon.is_finite() {
                        true => json!(epsilon),
                        false => json!("infinite"),
                    }),
                    "evaluations": record.evaluations,
                })
            };
            let behind = self.behind(name).map(|Mean { mean, margin }| json!({ "mean": mean, "margin": margin }));
            let later = self.ceiling(name).map(|(_, Mean { mean, margin })| json!({ "mean": mean, "margin": margin }));
            json!({
                "name": name,
                "seeds": self.of(name).map(seed).collect::<Vec<_>>(),
                "behind_reference": behind,
                "affected_class_as_much_later_as_others": later,
            })
        };
        json!({
            "sweep": self.label,
            "model": self.model,
            "reference": self.reference,
            "strategies": self.strategies.iter().map(strategy).collect::<Vec<_>>(),
            "updates_per_s": self.updates as f64 / self.seconds.max(1e-9),
            "seconds": self.seconds,
        })
    }

    /// One line for each strategy.
    fn text(&self) -> String {
        let mut text = String::new();
        let ceilings = self.strategies.iter().filter_map(|name| Some(self.ceiling(name)?.0));
        let width = self.strategies.iter().cloned().chain(ceilings).map(|name| name.len()).max().unwrap_or(0).max(8);
        let affected = match self.affected.as_slice() {
            [] => String::new(),
            classes => format!(
                "  class {} run-averaged, last",
                classes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
            ),
        };
        let ahead = self.reference.as_ref().map(|name| format!("  {name} ahead by")).unwrap_or_default();
        let _ = writeln!(text, "{:width$}  accuracy run-averaged, last{affected}{ahead}", "strategy");
        for name in &self.strategies {
            let all = [self.mean(name, |record| record.averaged(&[])), self.mean(name, |record| record.last(&[]))];
            let _ = write!(text, "{name:width$}  {:>14} {:>14}", all[0].percent(), all[1].percent());
            if !self.affected.is_empty() {
                let of = &self.affected;
                let ours = [self.mean(name, |record| record.averaged(of)), self.mean(name, |record| record.last(of))];
                let _ = write!(text, "  {:>14} {:>14}", ours[0].percent(), ours[1].percent());
            }
            let behind = self.behind(name).map(|behind| behind.percent());
            let _ = write!(text, "  {:>14}", behind.unwrap_or_default());
            if let Some(seconds) = self.seconds_each(name) {
                let _ = write!(text, "  {seconds:.3} s an inversion");
            }
            text.truncate(text.trim_end().len());
            text += &self.remarks(name);
            text.push('\n');
            if let Some((name, mean)) = self.ceiling(name) {
                let _ = writeln!(text, "{name:width$}  {:>14} {:>14}  {:>14}", "", "", mean.percent());
            }
        }
        text
    }

    /// What else there is to say of a strategy's runs: which ended in values that are no numbers, in how many versions nothing
    /// was done for want of updates, and the largest epsilon.
    pub(crate) fn remarks(&self, strategy: &str) -> String {
        let diverged = self.of(strategy).filter_map(|record| Some((record.seed, record.diverged?)));
        let told: Vec<String> = diverged.map(|(seed, version)| format!("seed {seed} at version {version}")).collect();
        let mut remarks = Vec::new();
        if !told.is_empty() {
            remarks.push(format!("diverged: {}", told.join(", ")));
        }
        let skipped = self.mean(strategy, |record| record.tally.skipped as f64).mean;
        if skipped > 0.0 {
            remarks.push(format!("{skipped:.0} versions without enough updates"));
        }
        match self.of(strategy).filter_map(|record| record.epsilon).reduce(f64::max) {
            Some(epsilon) if epsilon.is_finite() => remarks.push(format!("epsilon {epsilon:.2}")),
            Some(_) => remarks.push("epsilon infinite: nothing is hidden".into()),
            None => {}
        }
        remarks.iter().map(|remark| format!("  {remark}")).collect()
    }
}

impl Outcome {
    /// Writes the report, the table and the JSON, each whole or not at all.
    ///
    /// # Errors
    /// Where the folder cannot be written to.
    pub(crate) fn write(&self, out: &Path, command: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let page = out.join("report.html");
        write_whole(&page, report::page(self, command).as_bytes())?;
        write_whole(&out.join("results.csv"), self.csv().as_bytes())?;
        write_whole(&out.join("results.json"), serde_json::to_string_pretty(&self.json(&page))?.as_bytes())
    }

    /// The one document of `--json`.
    pub(crate) fn json(&self, page: &Path) -> Value {
        let mut document = match self.variants.as_slice() {
            [only] => only.json(),
            many => json!({ "variants": many.iter().map(Variant::json).collect::<Vec<_>>() }),
        };
        document["name"] = json!(self.name);
        document["seconds"] = json!(self.seconds);
        document["threads"] = json!(self.threads);
        document["report"] = json!(page);
        document
    }

    /// For the terminal.
    pub(crate) fn text(&self, page: &Path) -> String {
        let mut text = String::new();
        for variant in &self.variants {
            if !variant.label.is_empty() {
                let _ = writeln!(text, "{}", variant.label);
            }
            text += &variant.text();
            let rate = variant.updates as f64 / variant.seconds.max(1e-9);
            let _ = writeln!(
                text,
                "{} client updates of {} in {:.1} s: {rate:.0} a second on {} threads\n",
                variant.updates, variant.model, variant.seconds, self.threads
            );
        }
        let _ = write!(text, "plots: {}", page.display());
        text
    }

    /// A line for each evaluation.
    fn csv(&self) -> String {
        let mut csv = String::new();
        let classes = self.variants.iter().flat_map(|one| &one.records).flat_map(|one| &one.evaluations);
        let classes = classes.map(|one| one.classes.len()).max().unwrap_or(0);
        csv += "sweep,strategy,seed,version,seconds,bytes_down,bytes_up,loss,accuracy,affected_accuracy";
        (0..classes).for_each(|class| _ = write!(csv, ",accuracy_of_class_{class}"));
        csv.push('\n');
        for variant in &self.variants {
            for record in &variant.records {
                for at in &record.evaluations {
                    let affected = match variant.affected.as_slice() {
                        [] => String::new(),
                        of => at.accuracy(of).to_string(),
                    };
                    let _ = write!(
                        csv,
                        "{},{},{},{},{},{},{},{},{},{affected}",
                        quoted(&variant.label),
                        quoted(&record.strategy),
                        record.seed,
                        at.version,
                        at.seconds,
                        at.bytes_down,
                        at.bytes_up,
                        at.loss,
                        at.accuracy(&[]),
                    );
                    for [right, all] in &at.classes {
                        let _ = write!(csv, ",{}", f64::from(*right) / f64::from((*all).max(1)));
                    }
                    csv.push('\n');
                }
            }
        }
        csv
    }
}

/// A field of a table that may hold commas and quotes (RFC 4180).
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        // Of 1, 2, 3: the standard error is 1 / sqrt 3, and t for two degrees of freedom 4.303.
        let mean = Mean::of(&[1.0, 2.0, 3.0]);
        assert_eq!(mean.mean, 2.0);
        assert!((mean.margin - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(Mean::of(&[0.5]), Mean { mean: 0.5, margin: 0.0 });
        assert_eq!((mean.percent(), Mean::of(&[0.5]).percent()), ("200.0 ± 248.4".into(), "50.0".into()));
    }

    fn record(strategy: &str, seed: u64, right: u32) -> Record {
        let evaluation = swarmloom_simulation::Evaluation {
            version: 1,
            seconds: 1.0,
            bytes_down: 0,
            bytes_up: 0,
            classes: vec![[0, 10], [right, 10]],
            loss: 0.0,
        };
        Record {
            strategy: strategy.into(),
            seed,
            evaluations: vec![evaluation],
            tally: Default::default(),
            inversion_seconds: 0.0,
            diverged: (strategy == "theirs" && seed == 1).then_some(7),
            epsilon: None,
        }
    }

    #[test]
    fn strategies_are_compared_seed_by_seed_and_on_the_affected_classes() {
        let of = |reference: Option<&str>, affected: &[u8]| Variant {
            label: String::new(),
            model: "a model".into(),
            affected: affected.to_vec(),
            target: None,
            reference: reference.map(Into::into),
            strategies: vec!["ours".into(), "theirs".into()],
            fresh: vec!["theirs".into()],
            late: Some(1),
            records: vec![record("ours", 0, 5), record("theirs", 0, 4), record("theirs", 1, 6), record("ours", 1, 8)],
            updates: 0,
            seconds: 1.0,
        };
        let variant = of(Some("ours"), &[1]);
        // Differences of .1 and .2; Student's t for one degree of freedom is 12.706, the standard error .05.
        let behind = variant.behind("theirs").expect("another strategy");
        assert!((behind.mean - 0.15).abs() < 1e-9 && (behind.margin - 12.706 * 0.05).abs() < 1e-9, "{behind:?}");
        assert_eq!(variant.behind("ours"), None);
        assert_eq!(of(None, &[1]).behind("theirs"), None);
        // The one evaluation is at version 1, and before there was none.
        let (name, late) = variant.ceiling("theirs").expect("nobody is late for it");
        assert_eq!((name.as_str(), late.mean), ("theirs, 1 later", 0.0));
        assert!(variant.ceiling("ours").is_none() && of(None, &[]).ceiling("theirs").is_none());
        let over_all = of(Some("ours"), &[]).behind("theirs").expect("another strategy");
        assert!((over_all.mean - 0.075).abs() < 1e-9, "{over_all:?}");
        assert!(
            variant.text().contains("ours ahead by") && variant.text().contains("15.0 ± 63.5"),
            "{}",
            variant.text()
        );
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
