//! What a simulation file works on, read and checked as a whole before anything is computed.

use swarmloom_classifiers::Model;
use swarmloom_datasets::{Limits, Source, Split};
use swarmloom_simulation::{Course, Data, SimulationError};

use super::file::File;
use super::model::{Built, Wrong};
use super::setup;
use crate::config::{ConfigErrors, locate};

/// What a file works on.
pub(super) struct Prepared {
    /// What clients hold.
    pub(super) data: Data,
    /// Who naturally holds which sample.
    pub(super) groups: Option<Vec<u32>>,
    /// What learns them.
    pub(super) model: Box<dyn Model>,
    /// What the file does not say of model and data: digests of what they were read from.
    pub(super) stamp: String,
}

/// Reads data; the variants of a sweep mostly have the same.
#[derive(Default)]
pub(super) struct Loader {
    last: Option<(Source, Split)>,
}

impl Loader {
    /// Reads what a file names, and checks that all of it goes together; `again` where others will want the same data.
    ///
    /// # Errors
    /// What cannot be read, or what in the file does not go together and where.
    pub(super) fn prepare(&mut self, file: &File, (name, text): (&str, &str), again: bool) -> anyhow::Result<Prepared> {
        let known =
            self.last.as_ref().filter(|(source, _)| *source == file.data.source).map(|(_, split)| split.clone());
        let split = match known {
            Some(split) => split,
            None => swarmloom_datasets::load(&file.data.source, &Limits::default())?,
        };
        if again && self.last.as_ref().is_none_or(|(source, _)| *source != file.data.source) {
            self.last = Some((file.data.source.clone(), split.clone()));
        }
        let wrong = |place: &str, why: &str| ConfigErrors(vec![locate(name, text, place, why)]);
        if let Some(Err(why)) = file.data.drift.map(|drift| drift.check(split.train.shape)) {
            return Err(wrong("data.drift", &why).into());
        }
        let (data, groups) = data(file, split);
        if let Some(class) = file.affected().iter().find(|class| usize::from(**class) >= data.classes) {
            let why = format!("there are {} classes, counted from 0, and none is {class}", data.classes);
            let own = file.evaluation.affected_classes.is_some();
            return Err(wrong(if own { "evaluation.affected_classes" } else { "population.slow" }, &why).into());
        }
        let built = file.model.build(data.shape, data.classes);
        let refuse = |(key, why): Wrong| match key {
            "" => wrong("model", &why),
            key => wrong(&format!("model.{key}"), &why),
        };
        let Built { model, stamp } = built.map_err(refuse)?;
        for (number, entry) in file.strategies.iter().enumerate() {
            let setup = setup(file, model.as_ref(), &data, groups.as_deref());
            let place = |error: &SimulationError| match error {
                SimulationError::Partition(_) => "data.partition".to_owned(),
                SimulationError::Population(_) => "population".to_owned(),
                SimulationError::Timeline(_) => "server".to_owned(),
                _ => format!("strategy.{number}"),
            };
            Course::new(&setup, entry.clone(), file.seeds[0])
                .map_err(|error| wrong(&place(&error), &error.to_string()))?;
        }
        let stamp = format!("{stamp}{:016x}", data.fingerprint());
        Ok(Prepared { data, groups, model, stamp })
    }
}

/// The data as a file wants them, and who naturally holds which sample.
fn data(file: &File, split: Split) -> (Data, Option<Vec<u32>>) {
    let Split { train, mut test } = split;
    let all = test.labels.len();
    if let Some(wanted) = file.data.test_samples.filter(|wanted| *wanted < all) {
        // At even distances, for files may be sorted by class.
        let width = test.shape.iter().product::<usize>();
        for at in 0..wanted {
            let from = (at as u64 * all as u64 / wanted as u64) as usize;
            test.features.copy_within(from * width..(from + 1) * width, at * width);
            test.labels[at] = test.labels[from];
        }
        test.features.truncate(wanted * width);
        test.labels.truncate(wanted);
    }
    let data = Data {
        features: train.features.into(),
        labels: train.labels.into(),
        shape: train.shape,
        classes: train.classes,
        test_features: test.features.into(),
        test_labels: test.labels.into(),
    };
    let data = match &file.data.drift {
        Some(drift) => data.drifted(drift),
        None => data,
    };
    (data, train.groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("example.toml");

    fn prepare(text: &str) -> anyhow::Result<Prepared> {
        let file = File::parse("x.toml", text)?;
        Loader::default().prepare(&file, ("x.toml", text), false)
    }

    /// A file that is sorted by class has samples of all classes among those that are tested.
    #[test]
    fn test_samples_are_taken_at_even_distances() {
        let text = FILE.replace("samples_per_client = 28", "samples_per_client = 28\ntest_samples = 30");
        let file = File::parse("x.toml", &text).expect("sound");
        let mut split = swarmloom_datasets::digits();
        split.test.labels.sort_unstable();
        let (test, width) = (split.test.clone(), 64);
        let found = super::data(&file, split).0;
        assert_eq!(found.test_labels.len(), 30);
        for (at, label) in found.test_labels.iter().enumerate() {
            let from = at * test.labels.len() / 30;
            assert_eq!(*label, test.labels[from]);
            assert_eq!(found.test_features[at * width..][..width], test.features[from * width..][..width]);
        }
        assert!((0..10).all(|class| found.test_labels.contains(&class)));
    }

    #[test]
    fn what_the_data_contradict_is_found_at_its_line() {
        let refuse = |from: &str, to: &str| prepare(&FILE.replacen(from, to, 1)).err().expect("refused").to_string();
        let found = refuse("every = 5", "every = 5\naffected_classes = [12]");
        assert!(found.contains("there are 10 classes") && found.contains("x.toml:3"), "{found}");
        let found = refuse("rule = \"direct\"", "rule = \"direct\"\ncombine = { by = { krum = { f = 0.4 } } }");
        assert!(found.contains("needs at least 11, and 10 arrived") && found.contains("direct"), "{found}");
        assert!(prepare(FILE).is_ok());
    }
}
