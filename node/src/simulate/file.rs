//! The simulation file: what is simulated, and where in the file it is wrong.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use swarmloom_classifiers::{ClassifierError, Inversion, LocalSpec};
use swarmloom_datasets::Source;
use swarmloom_federated::compatible::{self, Choice};
use swarmloom_federated::compress::Compression;
use swarmloom_federated::privacy::Protection;
use swarmloom_federated::{Combine, Rule, secagg};
use swarmloom_population::{Mode, Partition, Selection, Spec};
use swarmloom_simulation::{Attackers, Drift, Entry, Transform};
use toml::{Table, Value};

use super::model::ModelTable;
use super::trace::{TraceTable, Traces};
use crate::config::{ConfigErrors, Located, locate};

/// A simulation file, read and checked as far as that is possible without the data.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// For people.
    pub(crate) name: String,
    /// How many versions are made.
    pub(crate) rounds: u64,
    /// One run of each strategy for each.
    pub(crate) seeds: Vec<u64>,
    /// What there is to learn.
    pub(crate) data: DataTable,
    /// What learns it.
    pub(crate) model: ModelTable,
    /// How clients train.
    pub(crate) local: LocalSpec,
    /// What clients are like; without what its trace says, which [`Self::read_traces`] puts in.
    pub(crate) population: Spec,
    /// Files that say what clients are like.
    trace: Option<TraceTable>,
    /// Of those files, once they are read; empty without any.
    pub(crate) traced: String,
    /// When accuracy is measured, and on what.
    pub(crate) evaluation: EvaluationTable,
    /// What is compared.
    pub(crate) strategies: Vec<Entry>,
    /// Values that are tried one after the other, by the key that they are for.
    pub(crate) sweep: BTreeMap<String, Vec<Value>>,
    /// The file itself, for sweeps.
    table: Table,
}

/// `[data]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataTable {
    /// Where data come from.
    pub(crate) source: Source,
    /// How they are shared out.
    #[serde(default = "iid")]
    pub(crate) partition: Partition,
    /// Samples of a client; all that there are, dealt out, when absent.
    pub(crate) samples_per_client: Option<u32>,
    /// How they change.
    pub(crate) drift: Option<Drift>,
    /// How many test samples are scored; all when absent.
    pub(crate) test_samples: Option<usize>,
}

fn iid() -> Partition {
    Partition::Iid {}
}

/// `[evaluation]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EvaluationTable {
    /// Rounds between evaluations.
    pub(crate) every: u64,
    /// Classes whose accuracy is reported apart; those of `population.slow` when absent.
    pub(crate) affected_classes: Option<Vec<u8>>,
    /// Accuracy, 0 to 1, to which time and bytes are reported.
    pub(crate) target: Option<f64>,
    /// The strategy that the others are compared with, by its name; the first that inverts when absent.
    pub(crate) reference: Option<String>,
}

impl Default for EvaluationTable {
    fn default() -> Self {
        Self { every: 5, affected_classes: None, target: None, reference: None }
    }
}

/// Keys at the top.
const KEYS: [&str; 13] = [
    "name",
    "rounds",
    "seeds",
    "data",
    "model",
    "local",
    "population",
    "server",
    "evaluation",
    "inversion",
    "attackers",
    "strategy",
    "sweep",
];

/// A part of the file that is read at a time, so that what is wrong with it can be found.
struct Part<'a> {
    file: &'a str,
    text: &'a str,
    errors: Vec<Located>,
}

impl Part<'_> {
    fn wrong(&mut self, path: &str, message: &str) {
        self.errors.push(locate(self.file, self.text, path, message));
    }

    fn optional<T: DeserializeOwned>(&mut self, path: &str, value: Option<Value>) -> Option<T> {
        value.and_then(|value| self.read(path, value))
    }

    fn read<T: DeserializeOwned>(&mut self, path: &str, value: Value) -> Option<T> {
        match T::deserialize(value.clone()) {
            Ok(read) => Some(read),
            Err(error) => {
                let message = error.message().trim().to_owned();
                let place = blame::<T>(&value, &message).map_or_else(|| path.to_owned(), |key| format!("{path}.{key}"));
                self.wrong(&place, &message);
                None
            }
        }
    }
}

/// The key below a table that an error is about, with the dot before it; empty where it is about none.
fn key_of(error: &ClassifierError) -> String {
    match error {
        ClassifierError::Value { what, .. } => format!(".{what}"),
        _ => String::new(),
    }
}

/// The key, with those above it, that an error is about: where reading says something else without it. Tables that say by
/// one of their keys what they are lose the places of the others.
fn blame<T: DeserializeOwned>(value: &Value, message: &str) -> Option<String> {
    fn without(value: &Value, path: &[String]) -> Option<Value> {
        let mut changed = value.clone();
        let (last, above) = path.split_last()?;
        let mut at = &mut changed;
        for key in above {
            at = at.get_mut(key.as_str())?;
        }
        at.as_table_mut()?.remove(last.as_str())?;
        Some(changed)
    }
    let mut found: Vec<String> = Vec::new();
    loop {
        let mut at = value;
        for key in &found {
            at = at.get(key.as_str())?;
        }
        let keys: Vec<String> = at.as_table().map(|table| table.keys().cloned().collect()).unwrap_or_default();
        let guilty = keys.into_iter().find(|key| {
            let path: Vec<String> = found.iter().chain([key]).cloned().collect();
            let says =
                |value| T::deserialize(value).err().map(|error: toml::de::Error| error.message().trim().to_owned());
            without(value, &path).is_some_and(|changed| says(changed).as_deref() != Some(message))
        });
        match guilty {
            Some(key) => found.push(key),
            None => break,
        }
    }
    (!found.is_empty()).then(|| found.join("."))
}

impl File {
    /// Reads a file; `name` is what it is called in errors.
    ///
    /// # Errors
    /// [`ConfigErrors`] with everything that is wrong.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let table: Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map_or((0, 0), |span| crate::config::place(text, span.start));
                return Err(ConfigErrors(vec![crate::config::located(name, at, error.message())]));
            }
        };
        Self::read(name, text, table)
    }

    /// The file with some values changed, by their keys.
    ///
    /// # Errors
    /// [`ConfigErrors`] with everything that is wrong then.
    pub(crate) fn with(&self, name: &str, text: &str, values: &[(String, Value)]) -> Result<Self, ConfigErrors> {
        let mut table = self.table.clone();
        table.remove("sweep");
        for (path, value) in values {
            let mut keys: Vec<&str> = path.split('.').collect();
            let last = keys.pop().unwrap_or_default();
            let mut at = Some(&mut table);
            for key in keys {
                at = at.and_then(|table| table.entry(key).or_insert_with(|| Value::Table(Table::new())).as_table_mut());
            }
            match at {
                Some(table) => _ = table.insert(last.to_owned(), value.clone()),
                None => {
                    let message = format!("`{path}` is not a key of a table");
                    return Err(ConfigErrors(vec![locate(name, text, "sweep", &message)]));
                }
            }
        }
        Self::read(name, text, table)
    }

    fn read(name: &str, text: &str, table: Table) -> Result<Self, ConfigErrors> {
        let mut part = Part { file: name, text, errors: Vec::new() };
        for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            part.wrong(key, &format!("unknown key `{key}`, expected one of {}", KEYS.join(", ")));
        }
        let get = |key: &str| table.get(key).cloned();
        let or_empty = |key: &str| get(key).unwrap_or_else(|| Value::Table(Table::new()));
        let label = get("name").map_or(Some("simulation".to_owned()), |value| part.read("name", value));
        let rounds = match get("rounds") {
            Some(value) => part.read("rounds", value),
            None => {
                part.wrong("", "`rounds` is missing: how many versions the server makes");
                None
            }
        };
        let seeds = match get("seeds") {
            None => Some(vec![0]),
            Some(Value::Integer(count)) if (1..=1000).contains(&count) => Some((0..count.unsigned_abs()).collect()),
            Some(value @ Value::Array(_)) => part.read("seeds", value),
            Some(_) => {
                part.wrong("seeds", "a number of seeds from 1 to 1000, or a list of them");
                None
            }
        };
        let data: Option<DataTable> = part.read("data", or_empty("data"));
        let model: Option<ModelTable> = part.read("model", or_empty("model"));
        let local: Option<LocalSpec> = part.read("local", or_empty("local"));
        let (population, trace) = Self::population(&mut part, or_empty("population"));
        let evaluation: Option<EvaluationTable> = part.read("evaluation", or_empty("evaluation"));
        let inversion: Option<Inversion> = part.read("inversion", or_empty("inversion"));
        let strategies = Self::strategies(&mut part, &table, inversion.unwrap_or_default());
        let sweep: Option<BTreeMap<String, Vec<Value>>> = part.read("sweep", or_empty("sweep"));
        if seeds.as_ref().is_some_and(Vec::is_empty) {
            part.wrong("seeds", "at least one is needed");
        }
        if rounds == Some(0) {
            part.wrong("rounds", "at least one is needed");
        }
        if let Some(local) = &local {
            if !(local.learning_rate > 0.0 && local.learning_rate.is_finite()) {
                part.wrong("local.learning_rate", "a learning rate is above 0");
            }
            if !(0.0..1.0).contains(&local.momentum) {
                part.wrong("local.momentum", "momentum is at least 0 and below 1");
            }
            if !(local.proximal >= 0.0 && local.proximal.is_finite()) {
                part.wrong("local.proximal", "it is at least 0");
            }
            if !(1..=10_000).contains(&local.epochs) {
                part.wrong("local.epochs", "1 to 10000 are possible");
            }
        }
        if data.as_ref().is_some_and(|data| data.test_samples == Some(0)) {
            part.wrong("data.test_samples", "at least one is needed");
        }
        if let Some(evaluation) = &evaluation {
            if evaluation.every == 0 {
                part.wrong("evaluation.every", "at least 1");
            }
            if evaluation.target.is_some_and(|target| !(0.0..=1.0).contains(&target)) {
                part.wrong("evaluation.target", "an accuracy is from 0 to 1");
            }
            let known = |name: &String| strategies.iter().flatten().any(|entry| entry.name == *name);
            if let Some(name) = evaluation.reference.as_ref().filter(|name| !known(name)) {
                part.wrong("evaluation.reference", &format!("there is no strategy {name:?}"));
            }
        }
        if let Some(Err((key, why))) = model.as_ref().map(ModelTable::check) {
            part.wrong(&format!("model.{key}"), &why);
        }
        if let (Some(data), Some(model)) = (&data, &model) {
            Self::characters(&mut part, data, model, strategies.as_deref().unwrap_or_default());
        }
        if let Some(Err(error)) = inversion.map(|inversion| inversion.check()) {
            part.wrong(&format!("inversion{}", key_of(&error)), &error.to_string());
        }
        let all = (label, rounds, seeds, data, model, local, population, evaluation, strategies, sweep);
        match all {
            (
                Some(name),
                Some(rounds),
                Some(seeds),
                Some(data),
                Some(model),
                Some(local),
                Some(population),
                Some(evaluation),
                Some(strategies),
                Some(sweep),
            ) if part.errors.is_empty() => {
                let traced = String::new();
                Ok(Self {
                    name,
                    rounds,
                    seeds,
                    data,
                    model,
                    local,
                    population,
                    trace,
                    traced,
                    evaluation,
                    strategies,
                    sweep,
                    table,
                })
            }
            _ => Err(ConfigErrors(part.errors)),
        }
    }

    /// What does not go together with text, whose values are numbers of characters.
    fn characters(part: &mut Part<'_>, data: &DataTable, model: &ModelTable, strategies: &[Entry]) {
        let text = matches!(data.source, Source::Text(_));
        if model.reads() && !text {
            part.wrong("model.kind", "it takes text: data.source has kind = \"text\"");
        }
        if !text {
            return;
        }
        if data.drift.is_some_and(|drift| drift.transform != Transform::Mirror) {
            part.wrong("data.drift", "characters can be mirrored and nothing else");
        }
        let inverts = |entry: &Entry| matches!(entry.rule, Rule::Inversion(_));
        for (number, entry) in strategies.iter().enumerate().filter(|(_, entry)| inverts(entry)) {
            let why = "data of kind \"text\" are not inverted: there is nothing between two characters";
            part.wrong(&format!("strategy.{number}.rule"), &format!("{:?}: {why}", entry.name));
        }
    }

    /// `[population]`, and `[population.trace]` in it.
    fn population(part: &mut Part<'_>, mut value: Value) -> (Option<Spec>, Option<TraceTable>) {
        let trace = value.as_table_mut().and_then(|table| table.remove("trace"));
        let trace: Option<TraceTable> = part.optional("population.trace", trace);
        let checked = trace.as_ref().zip(value.as_table()).map(|(trace, table)| trace.check(table));
        if let Some(Err((key, message))) = checked {
            part.wrong(&format!("population.{key}"), &message);
        }
        (part.read("population", value), trace)
    }

    /// Reads the files of `[population.trace]`, if there are any.
    ///
    /// # Errors
    /// The file, the line, and what is wrong there.
    pub(crate) fn read_traces(&mut self, traces: &mut Traces) -> Result<(), ConfigErrors> {
        let Some(trace) = &self.trace else { return Ok(()) };
        let empty = Table::new();
        let table = self.table.get("population").and_then(Value::as_table).unwrap_or(&empty);
        let traced = traces.put(trace, &mut self.population, table);
        self.traced = traced.map_err(|error| ConfigErrors(vec![error]))?;
        Ok(())
    }

    /// `[[strategy]]`: each with what `[server]`, `[inversion]` and `[attackers]` say, unless it says otherwise.
    fn strategies(part: &mut Part<'_>, table: &Table, inversion: Inversion) -> Option<Vec<Entry>> {
        let found = match table.get("strategy") {
            Some(Value::Array(found)) if !found.is_empty() => found,
            _ => {
                part.wrong("strategy", "at least one `[[strategy]]` is needed: what the server does with updates");
                return None;
            }
        };
        let mut entries: Vec<Entry> = Vec::new();
        let server = table.get("server").map(|server| Self::server(part, "server", server.clone()));
        let shared: Option<Attackers> = part.optional("attackers", table.get("attackers").cloned());
        if let Some(Err(error)) = shared.map(|shared| shared.check()) {
            part.wrong("attackers", &error);
        }
        for (number, value) in found.iter().enumerate() {
            let path = format!("strategy.{number}");
            let Value::Table(mut own) = value.clone() else {
                part.wrong(&path, "it is a table: [[strategy]]");
                continue;
            };
            let name = own.remove("name");
            let combine = own.remove("combine").unwrap_or_else(|| Value::Table(Table::new()));
            let fresh = own.remove("fresh");
            let own_inversion = own.remove("inversion");
            let mut optional = |key: &str| own.remove(key);
            let (attack, protection, compression, secure) =
                (optional("attackers"), optional("privacy"), optional("compression"), optional("secure"));
            let (mode, selection) = match (own.remove("server"), &server) {
                (Some(own), _) => Self::server(part, &format!("{path}.server"), own),
                (None, Some(shared)) => shared.clone(),
                (None, None) => {
                    part.wrong(&path, "`[server]` is missing: kind = \"synchronous\" with per_round = 10, for example");
                    (None, None)
                }
            };
            let rule: Option<Rule> = part.read(&path, Value::Table(own));
            let combine: Option<Combine> = part.read(&format!("{path}.combine"), combine);
            let inversion = match own_inversion {
                Some(value) => part.read(&format!("{path}.inversion"), value).inspect(|own: &Inversion| {
                    if let Err(error) = own.check() {
                        part.wrong(&format!("{path}.inversion{}", key_of(&error)), &error.to_string());
                    }
                }),
                None => Some(inversion),
            };
            let fresh = fresh.map_or(Some(false), |value| part.read(&format!("{path}.fresh"), value));
            let attackers: Option<Attackers> = part.optional(&format!("{path}.attackers"), attack).or(shared);
            let protection: Option<Protection> = part.optional(&format!("{path}.privacy"), protection);
            let compression: Option<Compression> = part.optional(&format!("{path}.compression"), compression);
            let secure: Option<secagg::Settings> = part.optional(&format!("{path}.secure"), secure);
            let name = match (name, &rule) {
                (Some(value), _) => part.read(&format!("{path}.name"), value),
                (None, Some(rule)) => Some(rule.name().to_owned()),
                _ => None,
            };
            let (Some(name), Some(rule), Some(combine), Some(mode), Some(selection), Some(inversion), Some(fresh)) =
                (name, rule, combine, mode, selection, inversion, fresh)
            else {
                continue;
            };
            if entries.iter().any(|entry| entry.name == name) {
                part.wrong(&path, &format!("there is a strategy {name:?} before it; give it a `name` of its own"));
            }
            if let Err(error) = swarmloom_federated::strategy(&rule, &combine) {
                part.wrong(&path, &error.to_string());
            }
            let checks = [
                ("attackers", attackers.map(|one| one.check())),
                ("privacy", protection.map(|one| one.check().map_err(|error| error.to_string()))),
                ("compression", compression.map(|one| one.check().map_err(|error| error.to_string()))),
            ];
            for (key, checked) in checks {
                if let Some(Err(error)) = checked {
                    part.wrong(&format!("{path}.{key}"), &error);
                }
            }
            let (protects, compresses, sums) = (protection.as_ref(), compression.as_ref(), secure.as_ref());
            let choice =
                Choice { rule: &rule, combine: &combine, protection: protects, compression: compresses, secure: sums };
            for conflict in compatible::check(&choice).err().unwrap_or_default() {
                part.wrong(&path, &conflict.to_string());
            }
            entries.push(Entry {
                name,
                rule,
                combine,
                mode,
                selection,
                inversion,
                fresh,
                attackers,
                protection,
                compression,
                secure,
            });
        }
        Some(entries)
    }

    /// A table that says how the server works, at `path`.
    fn server(part: &mut Part<'_>, path: &str, mut server: Value) -> (Option<Mode>, Option<Selection>) {
        let selection = server.as_table_mut().and_then(|table| table.remove("selection"));
        let selection =
            selection.map_or(Some(Selection::default()), |value| part.read(&format!("{path}.selection"), value));
        (part.read(path, server), selection)
    }

    /// The strategy that the others are compared with.
    pub(crate) fn reference(&self) -> Option<String> {
        let inverts = |entry: &&Entry| matches!(entry.rule, Rule::Inversion(_));
        let first = || self.strategies.iter().find(inverts).map(|entry| entry.name.clone());
        self.evaluation.reference.clone().or_else(first)
    }

    /// Classes whose accuracy is reported apart.
    pub(crate) fn affected(&self) -> Vec<u8> {
        let slow = || self.population.slow.as_ref().map(|slow| slow.classes.clone()).unwrap_or_default();
        self.evaluation.affected_classes.clone().unwrap_or_else(slow)
    }
}

#[cfg(test)]
mod tests;
