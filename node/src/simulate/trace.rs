//! `[population.trace]`: files of what was recorded of real devices, put into the population.

use std::fs::File as Opened;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use serde::{Deserialize, Serialize};
use swarmloom_population::{Availability, Deal, DeviceTrace, Recorded, Spec, TraceError, times};
use toml::{Table, Value};

use crate::config::{Located, located};
use crate::hex;

/// Longest file, bytes. A week of 100,000 phones has some 100 MB.
const FILE_MOST: u64 = 512 << 20;

/// `[population.trace]`. Paths are relative to the folder that the program was started in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceTable {
    /// A table of devices, one a line.
    devices: Option<PathBuf>,
    /// A table of times at which devices can be reached.
    availability: Option<PathBuf>,
    /// After how many seconds these begin again.
    #[serde(default = "week")]
    period_s: f64,
    /// Whose each device is.
    #[serde(default)]
    deal: Deal,
}

fn week() -> f64 {
    604_800.0
}

impl TraceTable {
    /// Whether it goes with the population's other keys, as they stand in the file.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(crate) fn check(&self, population: &Table) -> Result<(), (&'static str, String)> {
        if self.devices.is_none() && self.availability.is_none() {
            return Err(("trace", "it takes `devices`, `availability` or both: paths of tables".into()));
        }
        if !(1e-3..=1e9).contains(&self.period_s) {
            return Err(("trace.period_s", format!("{} is not a number from 0.001 to 1000000000", self.period_s)));
        }
        if self.availability.is_some() && population.contains_key("availability") {
            return Err(("availability", "`trace.availability` says that too; leave one of them out".into()));
        }
        Ok(())
    }
}

/// What the files of a table say.
#[derive(Debug, Clone)]
pub(crate) struct Traced {
    devices: Option<Recorded>,
    availability: Option<Availability>,
    /// Of the files' bytes.
    pub(crate) digest: String,
}

/// Files that were read: each once, however many variants of a sweep name it.
#[derive(Debug, Default)]
pub(crate) struct Traces(Vec<(TraceTable, Traced)>);

impl Traces {
    /// Puts what a table's files say into a population. `population` is the population's table as it stands in the file.
    ///
    /// # Errors
    /// The file, the line, and what is wrong there.
    pub(crate) fn put(&mut self, table: &TraceTable, spec: &mut Spec, population: &Table) -> Result<String, Located> {
        let known = self.0.iter().find(|(known, _)| known == table).map(|(_, traced)| traced.clone());
        let traced = match known {
            Some(traced) => traced,
            None => {
                let traced = read(table)?;
                self.0.push((table.clone(), traced.clone()));
                traced
            }
        };
        if let (Some(recorded), Some(path)) = (&traced.devices, &table.devices) {
            let twice = |name: &&str| {
                let mut keys = name.split('.');
                let of = keys.next().and_then(|key| population.get(key)).and_then(Value::as_table);
                of.zip(keys.next()).is_some_and(|(of, key)| of.contains_key(key))
            };
            if let Some(name) = recorded.trace.says().find(twice) {
                let message =
                    format!("a column gives `population.{name}`, which the simulation file gives too; leave one out");
                return Err(located(&path.display().to_string(), (1, 1), &message));
            }
        }
        spec.recorded = traced.devices;
        if let Some(availability) = traced.availability {
            spec.availability = availability;
        }
        Ok(traced.digest)
    }
}

fn read(table: &TraceTable) -> Result<Traced, Located> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut parsed = |path: &Path| -> Result<Vec<u8>, Located> {
        let bytes = bytes(path, FILE_MOST)?;
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
        Ok(bytes)
    };
    let wrong = |path: &Path| {
        let name = path.display().to_string();
        move |error: TraceError| located(&name, (error.line, 1), &error.message)
    };
    let devices = match &table.devices {
        Some(path) => Some(Arc::new(DeviceTrace::parse(&parsed(path)?).map_err(wrong(path))?)),
        None => None,
    };
    let availability = match &table.availability {
        Some(path) => {
            let named = devices.as_deref().filter(|devices| devices.named());
            let rows = times(&parsed(path)?, table.period_s, named).map_err(wrong(path))?;
            let with_devices = named.is_some();
            let (rows, period_s, deal) = (Arc::new(rows), table.period_s, table.deal);
            Some(Availability::Trace { rows, period_s, deal, with_devices })
        }
        None => None,
    };
    let devices = devices.map(|trace| Recorded { trace, deal: table.deal });
    Ok(Traced { devices, availability, digest: hex::encode(hash.finish().as_ref()) })
}

fn bytes(path: &Path, most: u64) -> Result<Vec<u8>, Located> {
    let wrong = |message: &str| located(&path.display().to_string(), (0, 0), message);
    let mut bytes = Vec::new();
    // One more than is possible shows that it is longer, also where its length is not known before.
    let read = Opened::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(wrong(&format!("it has more than {most} bytes, which are possible")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn population(text: &str) -> Table {
        text.parse().expect("a table")
    }

    #[test]
    fn files_are_put_into_the_population() {
        let folder = tempfile::tempdir().expect("a folder");
        let (devices, times) = (folder.path().join("d.csv"), folder.path().join("t.csv"));
        fs::write(&devices, "device,seconds_per_sample\nb,0.5\na,0.25\n").expect("written");
        fs::write(&times, "device,from_seconds,to_seconds\na,1,2\nb,3,4\n").expect("written");
        let (devices, times) = (devices.display().to_string(), times.display().to_string());
        let table = |text: &str| -> TraceTable { toml::from_str(text).expect("a table") };
        let both = table(&format!("devices = '{devices}'\navailability = '{times}'\ndeal = 'in_order'"));
        let (mut traces, mut spec) = (Traces::default(), Spec::default());
        let first = traces.put(&both, &mut spec, &population("clients = 2")).expect("sound");
        let recorded = spec.recorded.clone().expect("devices");
        assert_eq!((recorded.deal, recorded.trace.devices()), (Deal::InOrder, 2));
        let rows = Arc::new(vec![vec![[3.0, 4.0]], vec![[1.0, 2.0]]]);
        let expected = Availability::Trace { rows, period_s: 604_800.0, deal: Deal::InOrder, with_devices: true };
        assert_eq!(spec.availability, expected);
        // Read once: a file that changes counts from the next start on.
        fs::write(&devices, "device,seconds_per_sample\nb,0.5\na,0.5\n").expect("written");
        assert_eq!(traces.put(&both, &mut spec, &population("clients = 2")).expect("sound"), first);
        assert_ne!(Traces::default().put(&both, &mut spec, &population("")).expect("sound"), first);

        let alone = table(&format!("devices = '{devices}'"));
        let twice = population("[devices]\nseconds_per_sample = { kind = 'constant', value = 1 }");
        let error = Traces::default().put(&alone, &mut spec, &twice).expect_err("said twice").to_string();
        assert!(
            error.starts_with(&format!("{devices}:1:1: a column gives `population.devices.seconds_per_sample`")),
            "{error}"
        );
        let other = population("[devices]\noverhead_s = { kind = 'constant', value = 1 }");
        Traces::default().put(&alone, &mut spec, &other).expect("what the trace does not say is drawn");

        fs::write(&devices, "device,seconds_per_sample\nb,0.5\na,fast\n").expect("written");
        let error = Traces::default().put(&alone, &mut spec, &population("")).expect_err("no number").to_string();
        assert!(
            error.starts_with(&format!("{devices}:3:1: `seconds_per_sample`: \"fast\" is not a number from 0")),
            "{error}"
        );
        let nowhere = table("availability = '/nowhere.csv'");
        let error = Traces::default().put(&nowhere, &mut spec, &population("")).expect_err("no file").to_string();
        assert!(error.starts_with("/nowhere.csv: it cannot be read: No such file"), "{error}");
        let endless = bytes(Path::new("/dev/zero"), 1000).expect_err("too long").to_string();
        assert_eq!(endless, "/dev/zero: it has more than 1000 bytes, which are possible");
    }
}
