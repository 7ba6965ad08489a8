//! The work that everybody does: written to a folder that swarmloom and its peers read.

use std::path::Path;

use anyhow::Context;
use serde_json::json;
use swarmloom_classifiers::{Model, Network};
use swarmloom_datasets::{Dataset, Limits, Nothing, Source};
use swarmloom_kernels::random;
use swarmloom_simulation::{Course, Data, Entry, Setup};

use crate::simulate::file::File;

/// Clients.
pub(super) const CLIENTS: usize = 100;
/// That train in a round.
pub(super) const PER_ROUND: usize = 10;
/// Of each client.
pub(super) const SAMPLES: usize = 600;
/// Samples that accuracy is measured on.
pub(super) const TEST: usize = 2000;
/// Rounds of the run with many clients.
pub(super) const MANY_ROUNDS: usize = 10;

/// Width and height of an image.
const SIZE: usize = 28;
/// Of the digits.
const SMALL: usize = 8;

/// What `swarmloom simulate` is given, but for the number of rounds.
const FILE: &str = r#"
[data]
source = { kind = "idx", dir = "." }
samples_per_client = 600

[model]
kind = "lenet5"

[local]
epochs = 1
batch_size = 32
learning_rate = 0.1

[server]
kind = "synchronous"
per_round = 10
selection = "round_robin"

[evaluation]
every = 1000

[[strategy]]
rule = "fedavg"
"#;

/// Ten thousand clients that hold six samples each; one trains in a round.
const MANY: &str = r#"
rounds = 10

[data]
source = { kind = "idx", dir = "." }
test_samples = 500

[model]
kind = "lenet5"

[local]
epochs = 1
batch_size = 32

[population]
clients = 10000

[server]
kind = "synchronous"
per_round = 1

[evaluation]
every = 1000

[[strategy]]
rule = "fedavg"
"#;

/// The setting of the reference program: clients with one class each, those of class 5 forty versions late.
const INVERSION: &str = r#"
rounds = 50

[data]
source = { kind = "idx", dir = "." }
partition = { kind = "sorted", shards = 1 }
samples_per_client = 100
test_samples = 500

[model]
kind = "reference-cnn"

[local]
epochs = 5
batch_size = 0
learning_rate = 0.05

[population]
slow = { classes = [5], count = 10, staleness = 20 }

[server]
kind = "semi_asynchronous"
per_round = 10
selection = "round_robin"

[evaluation]
every = 1000

[[strategy]]
rule = "inversion"
threshold = -1.0
gate = 0.0
"#;

/// The digits that ship inside, enlarged, moved about and disturbed.
#[derive(Debug)]
pub(super) struct Work {
    /// What `swarmloom simulate` is given.
    text: String,
    file: File,
    data: Data,
}

impl Work {
    /// For so many rounds.
    ///
    /// # Errors
    /// Where the digits cannot be read.
    pub(super) fn new(rounds: usize) -> anyhow::Result<Self> {
        let text = format!("rounds = {rounds}\n{FILE}");
        let file = File::parse("work.toml", &text)?;
        let split = swarmloom_datasets::load(&Source::Digits(Nothing {}), &Limits::default())?;
        let (features, labels) = enlarged(&split.train, CLIENTS * SAMPLES, 1);
        let (test_features, test_labels) = enlarged(&split.test, TEST, 2);
        let plain = |bytes: Vec<u8>| bytes.into_iter().map(|byte| f32::from(byte) / 255.0).collect::<Vec<_>>();
        let data = Data {
            features: plain(features).into(),
            labels: labels.into(),
            shape: [1, SIZE, SIZE],
            classes: 10,
            test_features: plain(test_features).into(),
            test_labels: test_labels.into(),
        };
        Ok(Self { text, file, data })
    }

    /// What is trained.
    pub(super) fn network(&self) -> Network {
        Network::lenet5(1, SIZE, 10)
    }

    /// What the file says, with this model.
    pub(super) fn setup<'a>(&'a self, model: &'a dyn Model) -> Setup<'a> {
        crate::simulate::setup(&self.file, model, &self.data, None)
    }

    /// Its strategy.
    ///
    /// # Errors
    /// Where the file has none.
    pub(super) fn entry(&self) -> anyhow::Result<Entry> {
        self.file.strategies.first().cloned().context("work.toml has no strategy")
    }

    /// Writes everything that ours and the peers read.
    ///
    /// # Errors
    /// Where the folder cannot be written to.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())
        };
        write("train-images-idx3-ubyte", &images(&self.data.features))?;
        write("train-labels-idx1-ubyte", &idx(&[self.data.labels.len()], &self.data.labels))?;
        write("t10k-images-idx3-ubyte", &images(&self.data.test_features))?;
        write("t10k-labels-idx1-ubyte", &idx(&[TEST], &self.data.test_labels))?;
        let network = self.network();
        let setup = self.setup(&network);
        let course = Course::new(&setup, self.entry()?, 0)?;
        let held = (0..CLIENTS).flat_map(|client| course.samples_of(client as u32).iter());
        write("clients.u32", &held.flat_map(|index| index.to_le_bytes()).collect::<Vec<_>>())?;
        write("weights.f32", &course.parameters().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
        let settings = json!({
            "clients": CLIENTS,
            "per_round": PER_ROUND,
            "rounds": self.file.rounds,
            "batch_size": self.file.local.batch_size,
            "learning_rate": self.file.local.learning_rate,
        });
        write("settings.json", settings.to_string().as_bytes())?;
        write("work.toml", self.text.as_bytes())?;
        write("many.toml", MANY.as_bytes())?;
        write("inversion.toml", INVERSION.as_bytes())
    }
}

fn images(features: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = features.iter().map(|value| (value * 255.0).round() as u8).collect();
    idx(&[features.len() / (SIZE * SIZE), SIZE, SIZE], &bytes)
}

/// Bytes with their shape before them, as MNIST has them.
fn idx(shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, shape.len() as u8];
    file.extend(shape.iter().flat_map(|size| (*size as u32).to_be_bytes()));
    file.extend_from_slice(bytes);
    file
}

/// `count` samples, `[count, 28, 28]` with their labels: digits drawn at random, by linear interpolation between pixels,
/// shifted by up to two pixels and with noise of up to an eighth.
fn enlarged(digits: &Dataset, count: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut images, mut labels) = (Vec::with_capacity(count * SIZE * SIZE), Vec::with_capacity(count));
    for number in 0..count as u64 {
        let draw = |index: u64| random::unit(random::bits(seed, number), index);
        let which = ((draw(0) * digits.len() as f64) as usize).min(digits.len().saturating_sub(1));
        let shift = [1, 2].map(|index| (draw(index) * 5.0).floor() - 2.0);
        let sample = digits.sample(which);
        labels.push(digits.labels[which]);
        let scale = SMALL as f64 / SIZE as f64;
        for row in 0..SIZE {
            for column in 0..SIZE {
                let y = (row as f64 + 0.5 - shift[0]) * scale - 0.5;
                let x = (column as f64 + 0.5 - shift[1]) * scale - 0.5;
                let noise = draw(3 + (row * SIZE + column) as u64) / 8.0;
                images.push(((between(sample, y, x) + noise).min(1.0) * 255.0) as u8);
            }
        }
    }
    (images, labels)
}

/// The value between four pixels; 0 outside.
fn between(sample: &[f32], y: f64, x: f64) -> f64 {
    let at = |row: f64, column: f64| {
        let inside = |value: f64| (0.0..SMALL as f64).contains(&value);
        match inside(row) && inside(column) {
            true => f64::from(sample[row as usize * SMALL + column as usize]),
            false => 0.0,
        }
    };
    let (top, left) = (y.floor(), x.floor());
    let (down, right) = (y - top, x - left);
    let above = at(top, left) * (1.0 - right) + at(top, left + 1.0) * right;
    let below = at(top + 1.0, left) * (1.0 - right) + at(top + 1.0, left + 1.0) * right;
    above * (1.0 - down) + below * down
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_sound_and_clients_hold_all_that_there_is() {
        let work = Work::new(3).expect("digits");
        let network = work.network();
        let setup = work.setup(&network);
        let course = Course::new(&setup, work.entry().expect("a strategy"), 0).expect("a course");
        let mut held: Vec<u32> = (0..CLIENTS as u32).flat_map(|client| course.samples_of(client).to_vec()).collect();
        held.sort_unstable();
        assert!(held.iter().copied().eq(0..(CLIENTS * SAMPLES) as u32));
        assert_eq!(course.samples_of(7).len(), SAMPLES);
        for text in [MANY, INVERSION] {
            assert!(File::parse("other.toml", text).is_ok());
        }
    }

    #[test]
    fn pixels_are_interpolated() {
        let mut sample = [0.0; SMALL * SMALL];
        (sample[0], sample[1]) = (1.0, 0.5);
        assert_eq!(between(&sample, 0.0, 0.0), 1.0);
        assert_eq!(between(&sample, 0.0, 0.5), 0.75);
        assert_eq!(between(&sample, 0.5, 0.5), 0.375);
        assert_eq!(between(&sample, -0.5, 0.0), 0.5);
        assert_eq!(between(&sample, -9.0, 0.0), 0.0);
    }

    #[test]
    fn images_have_their_shape_before_them() {
        assert_eq!(idx(&[2, 3], &[7; 6]), [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 7, 7, 7, 7, 7, 7]);
    }
}
