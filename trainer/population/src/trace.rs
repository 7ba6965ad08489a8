//! Traces as text: what was recorded of real devices, and when they could be reached.
//!
//! Both are tables with commas between fields, none of them quoted, and a first line that names the columns, in any order.
//! Lines without anything are passed over. Reading is a function of the text; whoever calls it bounds how long that is.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::device::{Device, LEAST_BYTES_PER_S, MOST_BYTES_PER_S, MOST_S};
use crate::random::{Purpose, place};

/// What is wrong with a trace, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TraceError {
    /// From 1.
    pub line: usize,
    /// What it is and what it may be.
    pub message: String,
}

/// Which row of a trace is a client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deal {
    /// Rows are dealt out like cards, by the seed: with more clients than rows all are used equally often, give or take
    /// one; with fewer, each client has another one.
    #[default]
    Shuffled,
    /// Client `i` has row `i` modulo the number of rows.
    InOrder,
}

impl Deal {
    /// The row of `client`, one of `clients`; 0 where there are none.
    pub(crate) fn row(self, seed: u64, purpose: Purpose, client: u32, clients: u32, rows: usize) -> usize {
        let place = match (self, u32::try_from(rows)) {
            (_, Ok(0..=1)) => 0,
            (Self::Shuffled, Ok(rows)) => place(seed, purpose, client, clients.max(rows)),
            _ => client,
        };
        place as usize % rows.max(1)
    }
}

/// What can be recorded of a device, in the order of [`DeviceTrace`]'s columns: what a population calls it, the names of the
/// columns that give it, and what those names' unit is divided by.
const QUANTITIES: [(&str, &[(&str, f64)]); 5] = [
    ("devices.seconds_per_sample", &[("seconds_per_sample", 1.0)]),
    ("devices.overhead_s", &[("overhead_s", 1.0)]),
    ("network.down_bytes_per_s", &[("down_bytes_per_s", 1.0), ("down_bits_per_s", 8.0)]),
    ("network.up_bytes_per_s", &[("up_bytes_per_s", 1.0), ("up_bits_per_s", 8.0)]),
    ("network.latency_s", &[("latency_s", 1.0)]),
];
/// The column that says which device a row is of.
const ID: &str = "device";
/// Most devices of a trace.
const DEVICES_MOST: usize = 10_000_000;
/// Most times at which devices of a trace can be reached.
const TIMES_MOST: usize = 20_000_000;
/// Longest line, bytes.
const LINE_MOST: usize = 4096;

/// Recorded devices.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceTrace {
    /// By quantity; none where the trace has no such column.
    columns: [Option<Vec<f64>>; QUANTITIES.len()],
    /// Row by the device's name, where the trace has names.
    ids: Option<HashMap<String, u32>>,
    devices: usize,
}

/// Recorded devices, and whose each is.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The devices. What they do not say is drawn from the distributions.
    pub trace: Arc<DeviceTrace>,
    /// How they are dealt out.
    pub deal: Deal,
}

/// For each row the times `[from, to)`, in seconds, at which it can be reached, in order and apart.
pub type Times = Vec<Vec<[f64; 2]>>;

impl DeviceTrace {
    /// Reads a table with one device a line. Columns: any of `seconds_per_sample`, `overhead_s`, `latency_s` (seconds),
    /// `down_bytes_per_s` or `down_bits_per_s`, `up_bytes_per_s` or `up_bits_per_s`, and `device`, any text, another one in
    /// each line.
    ///
    /// # Errors
    /// [`TraceError`] at the first line that is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, TraceError> {
        let (mut rows, header) = Rows::open(text)?;
        let mut columns: [Option<Vec<f64>>; QUANTITIES.len()] = Default::default();
        let mut ids = None;
        let mut kinds = Vec::new();
        for name in header {
            let quantity = |(_, names): &(&str, &[(&str, f64)])| names.iter().any(|(known, _)| *known == name);
            if let Some(at) = QUANTITIES.iter().position(quantity) {
                let per = QUANTITIES[at].1.iter().find(|(known, _)| *known == name).map_or(1.0, |(_, per)| *per);
                if columns[at].replace(Vec::new()).is_some() {
                    return Err(rows.wrong(format!("{name:?} gives what a column before it gives")));
                }
                kinds.push(Some((at, name, per)));
            } else if name == ID && ids.replace(HashMap::new()).is_none() {
                kinds.push(None);
            } else {
                return Err(rows.wrong(format!("{:?} twice, or no column; columns are {}", cut(name), names())));
            }
        }
        if columns.iter().all(Option::is_none) {
            return Err(rows.wrong(format!("no column says what devices are like; columns are {}", names())));
        }
        let mut devices = 0;
        while let Some(fields) = rows.next(kinds.len())? {
            if devices == DEVICES_MOST {
                return Err(rows.wrong(format!("more devices than {DEVICES_MOST}, which are possible")));
            }
            for (field, kind) in fields.into_iter().zip(&kinds) {
                let Some((at, name, per)) = *kind else {
                    let other = ids.as_mut().and_then(|ids| ids.insert(field.to_owned(), devices as u32));
                    if field.is_empty() || other.is_some() {
                        let message = format!("`{ID}`: {:?}; it takes a text that no line before has", cut(field));
                        return Err(rows.wrong(message));
                    }
                    continue;
                };
                let (least, most) =
                    if at == 2 || at == 3 { (LEAST_BYTES_PER_S, MOST_BYTES_PER_S) } else { (0.0, MOST_S) };
                let value = rows.number(name, field, least * per, most * per)?;
                if let Some(column) = &mut columns[at] {
                    column.push(value / per);
                }
            }
            devices += 1;
        }
        if devices == 0 {
            return Err(
                rows.wrong("no device; it takes a line for each, after the one that names the columns".to_owned())
            );
        }
        Ok(Self { columns, ids, devices })
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// Whether devices have names, so that a trace of times can be of the same devices.
    pub fn named(&self) -> bool {
        self.ids.is_some()
    }

    /// What the trace says of devices, by the names that a population's distributions have.
    pub fn says(&self) -> impl Iterator<Item = &'static str> {
        QUANTITIES.iter().zip(&self.columns).filter(|(_, column)| column.is_some()).map(|((name, _), _)| *name)
    }
}

impl Recorded {
    /// The device of `client`, one of `clients`, where `drawn` is what distributions say.
    pub(crate) fn device(&self, drawn: Device, seed: u64, client: u32, clients: u32) -> Device {
        let row = self.deal.row(seed, Purpose::Device, client, clients, self.trace.devices);
        let value = |at: usize, drawn: f64| {
            let column = self.trace.columns.get(at).and_then(Option::as_ref);
            column.and_then(|column| column.get(row)).copied().unwrap_or(drawn)
        };
        Device {
            seconds_per_sample: value(0, drawn.seconds_per_sample),
            overhead_s: value(1, drawn.overhead_s),
            down_bytes_per_s: value(2, drawn.down_bytes_per_s),
            up_bytes_per_s: value(3, drawn.up_bytes_per_s),
            latency_s: value(4, drawn.latency_s),
        }
    }
}

/// Reads when devices can be reached: columns `device`, any text, `from_seconds` and `to_seconds`, from 0 to `period_s`.
/// Lines of a device may stand anywhere; its times do not overlap. Rows are in the order in which devices come first; with
/// `devices`, which must be [named](DeviceTrace::named), they are those of that trace in its order, and one that has no line
/// here can never be reached.
///
/// # Errors
/// [`TraceError`] at the line that is wrong.
pub fn times(text: &[u8], period_s: f64, devices: Option<&DeviceTrace>) -> Result<Times, TraceError> {
    const COLUMNS: [&str; 3] = [ID, "from_seconds", "to_seconds"];
    let (mut rows, header) = Rows::open(text)?;
    let mut places = [0; 3];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        match header.iter().position(|name| *name == column) {
            Some(at) if header.len() == COLUMNS.len() => *place = at,
            _ => {
                let found = cut(&header.join(", ")).to_owned();
                return Err(rows.wrong(format!("columns {found:?}; they are {}", COLUMNS.join(", "))));
            }
        }
    }
    let known = devices.and_then(|devices| devices.ids.as_ref());
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut all: Vec<Vec<(f64, f64, usize)>> = vec![Vec::new(); known.map_or(0, HashMap::len)];
    let mut count = 0;
    while let Some(fields) = rows.next(COLUMNS.len())? {
        count += 1;
        if count > TIMES_MOST {
            return Err(rows.wrong(format!("more times than {TIMES_MOST}, which are possible")));
        }
        let [device, from, to] = places.map(|place| fields[place]);
        let row = match known {
            _ if device.is_empty() => return Err(rows.wrong(format!("`{ID}`: nothing; it takes a text"))),
            Some(known) => known.get(device).map(|row| *row as usize).ok_or_else(|| {
                rows.wrong(format!(
                    "`{ID}`: {:?} is none of the {} devices of the trace of devices",
                    cut(device),
                    known.len()
                ))
            })?,
            None => {
                let next = numbers.len();
                *numbers.entry(device).or_insert(next)
            }
        };
        let from = rows.number(COLUMNS[1], from, 0.0, period_s)?;
        let to = rows.number(COLUMNS[2], to, from, period_s)?;
        if row == all.len() {
            all.push(Vec::new());
        }
        if let Some(times) = all.get_mut(row) {
            times.push((from, to, rows.line));
        }
    }
    if count == 0 {
        return Err(rows.wrong("no times; it takes a line for each, after the one that names the columns".to_owned()));
    }
    let apart = |mut times: Vec<(f64, f64, usize)>| {
        times.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for pair in times.windows(2) {
            let [(_, end, before), (from, _, line)] = [pair[0], pair[1]];
            if from < end {
                let message = format!("from {from} on: line {before} says that of the same device up to {end}");
                return Err(TraceError { line, message });
            }
        }
        Ok(times.into_iter().map(|(from, to, _)| [from, to]).collect())
    };
    all.into_iter().map(apart).collect()
}

fn names() -> String {
    let all: Vec<&str> = QUANTITIES.iter().flat_map(|(_, names)| names.iter().map(|(name, _)| *name)).collect();
    format!("{ID}, {}", all.join(", "))
}

/// So much of a field as a message shows.
fn cut(field: &str) -> &str {
    field.char_indices().nth(40).map_or(field, |(end, _)| &field[..end])
}

/// The lines of a table.
struct Rows<'a> {
    rest: &'a [u8],
    /// The line that was read last, from 1.
    line: usize,
}

impl<'a> Rows<'a> {
    /// The table, and the names of its columns.
    fn open(text: &'a [u8]) -> Result<(Self, Vec<&'a str>), TraceError> {
        let mut rows = Self { rest: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text), line: 0 };
        match rows.full()? {
            Some(header) => Ok((rows, header.split(',').map(str::trim).collect())),
            None => Err(rows.wrong("nothing; the first line names the columns".to_owned())),
        }
    }

    fn wrong(&self, message: String) -> TraceError {
        TraceError { line: self.line.max(1), message }
    }

    /// The next line that has something.
    fn full(&mut self) -> Result<Option<&'a str>, TraceError> {
        while !self.rest.is_empty() {
            let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
            let (line, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            self.line += 1;
            if line.len() > LINE_MOST {
                return Err(self.wrong(format!("{} bytes; a line has {LINE_MOST} at most", line.len())));
            }
            let line = std::str::from_utf8(line).map_err(|_| self.wrong("it is not text (UTF-8)".to_owned()))?.trim();
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// The fields of the next line that has something: `count`.
    fn next(&mut self, count: usize) -> Result<Option<Vec<&'a str>>, TraceError> {
        let Some(line) = self.full()? else { return Ok(None) };
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != count {
            return Err(self.wrong(format!("{} fields; there are {count} columns", fields.len())));
        }
        Ok(Some(fields))
    }

    fn number(&self, column: &str, field: &str, least: f64, most: f64) -> Result<f64, TraceError> {
        match field.parse::<f64>() {
            Ok(value) if (least..=most).contains(&value) => Ok(value),
            _ => Err(self.wrong(format!("`{column}`: {:?} is not a number from {least} to {most}", cut(field)))),
        }
    }
}

#[cfg(test)]
mod tests;
