//! The page of a simulation.

use super::outcome::{Mean, Outcome, Variant};
use crate::report::page::Page;
use crate::report::plot::{Band, Extent, Series, banded, bars, lines, points};

/// The whole page.
pub(crate) fn page(outcome: &Outcome, command: &str) -> String {
    let lead = format!(
        "Federated learning in virtual time: {} strategies side by side on the same clients, the same data and the same \
         delays. Lines are means over seeds, bands 95 % intervals of the mean.",
        outcome.variants.first().map_or(0, |variant| variant.strategies.len())
    );
    let mut page = Page::new(&outcome.name, &lead);
    if let Some(plot) = cost(outcome).filter(|_| outcome.comparable) {
        page.section("What accuracy costs");
        let caption = "Each point is one setting; seconds are of processor time, for each update that was inverted.";
        page.plots(&[(plot, caption.to_owned())]);
    }
    for variant in &outcome.variants {
        if !variant.label.is_empty() {
            page.section(&variant.label);
        }
        of_variant(&mut page, variant);
    }
    page.html(&format!("{command} · {:.0} s on {} threads", outcome.seconds, outcome.threads))
}

/// Accuracy against what an inversion takes, where there are several settings of it.
fn cost(outcome: &Outcome) -> Option<String> {
    let averaged = |variant: &Variant, name: &str| variant.mean(name, |record| record.averaged(&variant.affected));
    let (mut bands, mut level): (Vec<Band>, Option<(String, f64)>) = (Vec::new(), None);
    for variant in &outcome.variants {
        for name in &variant.strategies {
            let Mean { mean, margin } = averaged(variant, name);
            let best = level.as_ref().map_or(f64::NEG_INFINITY, |(_, best)| *best);
            match variant.seconds_each(name) {
                Some(seconds) => {
                    let known = bands.iter().position(|band| band.name == *name);
                    let at = known.unwrap_or_else(|| {
                        bands.push(Band { name: name.clone(), colour: bands.len(), points: Vec::new() });
                        bands.len() - 1
                    });
                    bands[at].points.push((seconds, mean, margin));
                }
                // What nobody's staleness holds back is no rival.
                None if mean > best && !variant.fresh.contains(name) => {
                    level = Some((format!("{name}, the best without inversion"), mean));
                }
                None => {}
            }
        }
    }
    bands.iter_mut().for_each(|band| band.points.sort_by(|one, other| one.0.total_cmp(&other.0)));
    let several = bands.iter().map(|band| band.points.len()).sum::<usize>() > 1;
    let text = match outcome.variants.first().map(|variant| variant.affected.as_slice()) {
        Some([]) | None => "accuracy, run-averaged",
        Some(_) => "affected classes, run-averaged",
    };
    let level = level.as_ref().map(|(name, level)| (name.as_str(), *level));
    several.then(|| points(["Accuracy against cost", "seconds an inversion", text], Extent::Unit, &bands, level))
}

fn of_variant(page: &mut Page, variant: &Variant) {
    page.section("Accuracy");
    let mut plots = vec![(
        accuracy(variant, "All classes", &[]),
        "On the test set, after each version that was scored.".to_owned(),
    )];
    if !variant.affected.is_empty() {
        let classes: Vec<String> = variant.affected.iter().map(u8::to_string).collect();
        let title = format!("Class {}", classes.join(", "));
        let caption = "The classes that slow clients hold: what staleness costs shows here.";
        plots.push((accuracy(variant, &title, &variant.affected), caption.to_owned()));
    }
    page.plots(&plots);
    table(page, variant);

    page.section("Class by class, at the end");
    let members: Vec<&str> = variant.strategies.iter().map(String::as_str).collect();
    let classes = variant.records.first().and_then(|record| record.evaluations.last()).map_or(0, |at| at.classes.len());
    let groups: Vec<(String, Vec<f64>)> = (0..classes.min(32))
        .map(|class| {
            let of = |name: &String| variant.mean(name, |record| record.last(&[class as u8])).mean;
            (class.to_string(), variant.strategies.iter().map(of).collect())
        })
        .collect();
    let classes_plot = bars("Accuracy by class", "accuracy", Extent::Unit, &members, &groups);
    page.plots(&[
        (classes_plot, "Mean over seeds, after the last version.".to_owned()),
        (staleness(variant), "Updates by the versions that they were late, first seed.".to_owned()),
    ]);
    if variant.records.iter().any(|record| record.tally.inverted > 0) {
        inversions(page, variant);
    }
}

fn accuracy(variant: &Variant, title: &str, of: &[u8]) -> String {
    let band = |(colour, name): (usize, &String)| {
        let versions: Vec<u64> = variant
            .of(name)
            .next()
            .map(|record| record.evaluations.iter().map(|at| at.version).collect())
            .unwrap_or_default();
        let at = |number: usize, version: u64| {
            let values: Vec<f64> = variant
                .of(name)
                .filter_map(|record| record.evaluations.get(number))
                .map(|at| at.accuracy(of))
                .collect();
            let Mean { mean, margin } = Mean::of(&values);
            (version as f64, mean, margin)
        };
        let points = versions.iter().enumerate().map(|(number, version)| at(number, *version)).collect();
        Band { name: name.clone(), colour, points }
    };
    let bands: Vec<Band> = variant.strategies.iter().enumerate().map(band).collect();
    banded(title, "version", "accuracy", Extent::Unit, &bands)
}

fn staleness(variant: &Variant) -> String {
    let seed = variant.records.first().map(|record| record.seed);
    let series = |(colour, name): (usize, &String)| {
        let record = variant.of(name).find(|record| Some(record.seed) == seed);
        let counts = record.map(|record| record.tally.staleness.as_slice()).unwrap_or_default();
        let points = counts.iter().enumerate().map(|(late, count)| (late as f64, *count as f64)).collect();
        Series { name: name.clone(), colour, dashed: false, points }
    };
    let series: Vec<Series> = variant.strategies.iter().enumerate().map(series).collect();
    lines("Staleness", "versions late", "updates", Extent::FromZero, &series)
}

fn table(page: &mut Page, variant: &Variant) {
    let mut head = vec!["strategy", "all classes, run-averaged %", "all classes, last %"];
    if !variant.affected.is_empty() {
        head.extend(["affected, run-averaged %", "affected, last %"]);
    }
    let ahead = variant.reference.as_ref().map(|name| format!("{name} ahead by, points"));
    head.extend(ahead.as_deref());
    if variant.target.is_some() {
        head.extend(["seconds to target", "MB to target"]);
    }
    let row = |name: &String| {
        let mut row = vec![format!("{name}{}", variant.remarks(name))];
        row.push(variant.mean(name, |record| record.averaged(&[])).percent());
        row.push(variant.mean(name, |record| record.last(&[])).percent());
        if !variant.affected.is_empty() {
            row.push(variant.mean(name, |record| record.averaged(&variant.affected)).percent());
            row.push(variant.mean(name, |record| record.last(&variant.affected)).percent());
        }
        if variant.reference.is_some() {
            row.push(variant.behind(name).map(|behind| behind.percent()).unwrap_or_default());
        }
        if let Some(target) = variant.target {
            let reached: Vec<_> = variant.of(name).map(|record| record.reached(&[], target)).collect();
            let all: Option<Vec<_>> = reached.iter().copied().collect();
            let of = |value: fn(&swarmloom_simulation::Evaluation) -> f64| match &all {
                Some(all) => format!("{:.1}", Mean::of(&all.iter().map(|at| value(at)).collect::<Vec<_>>()).mean),
                None => format!("not reached by {}", reached.iter().filter(|at| at.is_none()).count()),
            };
            row.push(of(|at| at.seconds));
            row.push(of(|at| (at.bytes_down + at.bytes_up) as f64 / 1e6));
        }
        row
    };
    let later = |name: &String| {
        let (name, mean) = variant.ceiling(name)?;
        let mut row = vec![String::new(); head.len()];
        (row[0], row[3]) = (name, mean.percent());
        Some(row)
    };
    let rows: Vec<Vec<String>> =
        variant.strategies.iter().flat_map(|name| std::iter::once(row(name)).chain(later(name))).collect();
    page.table(&head, &rows);
    if let Some((name, _)) = variant.strategies.iter().find_map(|name| variant.ceiling(name)) {
        page.text(&format!(
            "{name}: what the others can reach at best where only late updates teach a class, and all else is as good."
        ));
    }
}

fn inversions(page: &mut Page, variant: &Variant) {
    page.section("What inversions cost and give");
    let rows: Vec<Vec<String>> = variant
        .strategies
        .iter()
        .filter(|name| variant.of(name).any(|record| record.tally.inverted > 0))
        .map(|name| {
            let each = |value: fn(&swarmloom_simulation::Record) -> f64| {
                variant.mean(name, |record| value(record) / record.tally.inverted.max(1) as f64).mean
            };
            vec![
                name.clone(),
                format!("{:.0}", variant.mean(name, |record| record.tally.inverted as f64).mean),
                format!("{:.3}", each(|record| record.inversion_seconds)),
                format!("{:.0}", each(|record| record.tally.iterations as f64)),
                format!("{:.3}", each(|record| record.tally.cosine)),
                format!("{:.2}", each(|record| record.tally.norm)),
                format!("{:.2}", each(|record| record.tally.revealed.labels)),
                format!("{:.2}", each(|record| record.tally.revealed.classified)),
                format!("{:.2}", each(|record| record.tally.revealed.nearness)),
            ]
        })
        .collect();
    page.table(
        &[
            "strategy",
            "inversions a run",
            "seconds each",
            "steps each",
            "cosine to the update",
            "length to the update's",
            "labels told, 0 to 1",
            "the model takes it for its class, 0 to 1",
            "distance, 1: as to strangers' of the class",
        ],
        &rows,
    );
}
