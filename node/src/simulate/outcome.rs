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
    /// In the order of the file.
    pub(crate) strategies: Vec<String>,
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
                    "inversions": {
                        "count": tally.inverted, "mean_cosine": tally.cosine / count, "mean_norm": tally.norm / count,
                        "mean_iterations": tally.iterations as f64 / count,
                        "seconds_each": record.inversion_seconds / count,
                        "labels_told": tally.revealed.labels / count,
                        "look_like_their_class": tally.revealed.classified / count,
                        "distance_to_the_clients": tally.revealed.nearness / count,
                    },
                    "epsilon": record.epsilon,
                    "evaluations": record.evaluations,
                })
            };
            json!({ "name": name, "seeds": self.of(name).map(seed).collect::<Vec<_>>() })
        };
        json!({
            "sweep": self.label,
            "model": self.model,
            "strategies": self.strategies.iter().map(strategy).collect::<Vec<_>>(),
            "updates_per_s": self.updates as f64 / self.seconds.max(1e-9),
            "seconds": self.seconds,
        })
    }

    /// One line for each strategy.
    fn text(&self) -> String {
        let mut text = String::new();
        let width = self.strategies.iter().map(String::len).max().unwrap_or(0).max(8);
        let affected = match self.affected.as_slice() {
            [] => String::new(),
            classes => format!(
                "  class {} run-averaged, last",
                classes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
            ),
        };
        let _ = writeln!(text, "{:width$}  accuracy run-averaged, last{affected}", "strategy");
        for name in &self.strategies {
            let all = [self.mean(name, |record| record.averaged(&[])), self.mean(name, |record| record.last(&[]))];
            let _ = write!(text, "{name:width$}  {:>14} {:>14}", all[0].percent(), all[1].percent());
            if !self.affected.is_empty() {
                let of = &self.affected;
                let ours = [self.mean(name, |record| record.averaged(of)), self.mean(name, |record| record.last(of))];
                let _ = write!(text, "  {:>14} {:>14}", ours[0].percent(), ours[1].percent());
            }
            text.push('\n');
        }
        text
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

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
