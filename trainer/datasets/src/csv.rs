//! Tables as text: one sample a line, numbers with a delimiter between them, a column of labels among them.
//!
//! Fields may be quoted as RFC 4180 says, but hold no line ends.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Split};
use crate::error::{DatasetError, Place};
use crate::input::{Input, Limits, too_large};

/// Longest line.
const LINE_BYTES: usize = 16 << 20;
/// Labels are bytes.
const MOST_CLASSES: usize = 256;

/// A column, by its name in the header or by its number: 0 the first, -1 the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Column {
    /// Its number.
    Number(i64),
    /// Its name.
    Name(String),
}

/// A table to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The file, packed by gzip or not.
    pub file: PathBuf,
    /// A second file of the same columns that is the test set. When absent, `test_share` of the first is.
    pub test_file: Option<PathBuf>,
    /// The column of labels. Whole numbers to 255 are the classes; other texts are numbered as they sort.
    pub label: Column,
    /// The column that says whose a sample is; any texts, numbered as they come.
    pub group: Option<Column>,
    /// Whether the first line names the columns. When absent, it does where a column is given by name or where one of
    /// its values is no number.
    pub header: Option<bool>,
    /// What stands between fields.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// What each value is divided by, so that it is from 0 to 1: 255 for bytes.
    pub divide_by: Option<f64>,
    /// Instead: each column's lowest value in the training set becomes 0 and its highest 1. Values of the test set
    /// beyond these become 0 or 1, and a column with one value 0.
    #[serde(default)]
    pub minmax: bool,
    /// Channels, height and width; 1, 1 and the number of columns when absent.
    pub shape: Option<[usize; 3]>,
    /// How many classes there are; one more than the highest label when absent.
    pub classes: Option<u16>,
    /// The share of each class (of each group, where there are groups) that is the test set.
    #[serde(default = "crate::source::fifth")]
    pub test_share: f64,
}

fn comma() -> char {
    ','
}

/// Rows as they are read: labels and groups are numbers of distinct texts.
struct Rows {
    features: Vec<f32>,
    labels: Vec<u32>,
    groups: Vec<u32>,
    /// The line of each row's file that rows begin after: for messages.
    first_line: u64,
}

/// Distinct texts in the order they come.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, u32>,
}

impl Texts {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

/// Reads the table; `classes` and `test_share` have been checked.
pub(crate) fn load(name: &str, table: &Table, limits: &Limits) -> Result<Split, DatasetError> {
    let bad = |field, message: &str| Err(DatasetError::Field { field, message: message.to_owned() });
    let delimiter = table.delimiter;
    if !delimiter.is_ascii() || delimiter.is_ascii_alphanumeric() || "\"\r\n.+-".contains(delimiter) {
        return bad("delimiter", "one ASCII character that is in no number: a comma, a semicolon, a tab, a space");
    }
    if table.minmax && table.divide_by.is_some() {
        return bad("divide_by", "either divide_by or minmax");
    }
    if table.divide_by.is_some_and(|value| !value.is_finite() || value <= 0.0) {
        return bad("divide_by", "a number above 0");
    }
    let (mut classes, mut groups) = (Texts::default(), Texts::default());
    let mut reader = Reader { table, limits, columns: None, classes: &mut classes, groups: &mut groups };
    let mut train = reader.file(&table.file)?;
    let mut test = table.test_file.as_ref().map(|file| reader.file(file)).transpose()?;
    let width = reader.columns.map_or(0, |columns| columns.width);
    let shape = table.shape.unwrap_or([1, 1, width]);
    if shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size)) != Some(width) {
        return bad("shape", &format!("three numbers whose product is {width}, the number of columns that are values"));
    }
    if table.minmax {
        minmax(width, &mut train.features, test.as_mut().map(|rows| rows.features.as_mut_slice()));
    }
    let numbers = class_numbers(&classes);
    let highest = numbers.iter().copied().max().map_or(0, usize::from);
    let count = table.classes.map_or(highest + 1, usize::from);
    let dataset = |rows: Rows, file: &Path| {
        let labels: Vec<u8> = rows.labels.iter().filter_map(|&label| numbers.get(label as usize).copied()).collect();
        if let Some(row) = labels.iter().position(|&label| usize::from(label) >= count) {
            return Err(DatasetError::Format {
                file: file.to_owned(),
                place: Place::Line { line: rows.first_line + row as u64, field: 0 },
                found: format!("label {}", labels.get(row).copied().unwrap_or_default()),
                right: format!("a label below {count}, the number of classes"),
            });
        }
        let groups = table.group.is_some().then_some(rows.groups);
        Ok(Dataset { name: name.to_owned(), features: rows.features, labels, classes: count, shape, groups })
    };
    let train = dataset(train, &table.file)?;
    match (test, &table.test_file) {
        (Some(test), Some(file)) => Ok(Split { train, test: dataset(test, file)? }),
        _ => Ok(train.divide(table.test_share)),
    }
}

/// The class of each distinct label: itself where all are whole numbers to 255, else its place among them sorted.
fn class_numbers(texts: &Texts) -> Vec<u8> {
    let mut numbers = vec![0; texts.numbers.len()];
    let sorted: BTreeMap<&str, u32> = texts.numbers.iter().map(|(text, &number)| (text.as_str(), number)).collect();
    let whole = |text: &str| {
        let value = text.parse::<f64>().ok()?;
        ((0.0..=255.0).contains(&value) && value.fract() == 0.0).then_some(value as u8)
    };
    let all: Option<Vec<u8>> = sorted.keys().map(|text| whole(text)).collect();
    let places: Vec<u8> = all.unwrap_or_else(|| (0..=u8::MAX).take(sorted.len()).collect());
    for (&number, place) in sorted.values().zip(places) {
        if let Some(slot) = numbers.get_mut(number as usize) {
            *slot = place;
        }
    }
    numbers
}

/// Each column from 0 to 1, by the training set's lowest and highest.
fn minmax(width: usize, train: &mut [f32], test: Option<&mut [f32]>) {
    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); width];
    for row in train.chunks_exact(width.max(1)) {
        for ((low, high), &value) in ranges.iter_mut().zip(row) {
            (*low, *high) = (low.min(value), high.max(value));
        }
    }
    for values in [Some(train), test].into_iter().flatten() {
        for row in values.chunks_exact_mut(width.max(1)) {
            for (value, &(low, high)) in row.iter_mut().zip(&ranges) {
                // In f64: the distance of two f32 may be more than an f32 holds.
                let distance = f64::from(high) - f64::from(low);
                let along = if distance > 0.0 { (f64::from(*value) - f64::from(low)) / distance } else { 0.0 };
                *value = along.clamp(0.0, 1.0) as f32;
            }
        }
    }
}

/// Which column is what, counted from 0.
#[derive(Clone, Copy, PartialEq)]
struct Columns {
    all: usize,
    label: usize,
    group: Option<usize>,
    /// Columns that are values.
    width: usize,
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} columns, labels in number {}", self.all, self.label)?;
        self.group.map_or(Ok(()), |group| write!(f, ", groups in number {group}"))
    }
}

/// Reads the files of one table, with one numbering of labels and groups.
struct Reader<'a> {
    table: &'a Table,
    limits: &'a Limits,
    columns: Option<Columns>,
    classes: &'a mut Texts,
    groups: &'a mut Texts,
}

impl Reader<'_> {
    fn file(&mut self, file: &Path) -> Result<Rows, DatasetError> {
        self.read(&mut Input::open(file, self.limits, "name a table that exists")?)
    }

    fn read(&mut self, input: &mut Input<'_>) -> Result<Rows, DatasetError> {
        let mut rows = Rows { features: Vec::new(), labels: Vec::new(), groups: Vec::new(), first_line: 1 };
        let mut number = 0;
        while let Some((line, ended)) = input.line(LINE_BYTES)? {
            number += 1;
            let at = |field| Place::Line { line: number, field };
            let text = str::from_utf8(&line).map_err(|_| input.wrong_at(at(0), "bytes that are no UTF-8", "text"))?;
            let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
            if !ended {
                let right = "a line end, so that a file that was cut short is noticed; add one if the file is whole";
                return Err(input.wrong_at(at(0), "the end of the file inside the line", right));
            }
            let fields = split(text, self.table.delimiter)
                .map_err(|(field, found)| input.wrong_at(at(field), found, "a quote around the whole field"))?;
            if number == 1 {
                let (columns, header) = self.columns_of(input, &fields)?;
                if let Some(before) = self.columns.filter(|before| *before != columns) {
                    let right = format!("{before}, as in {}", self.table.file.display());
                    return Err(input.wrong_at(at(0), columns.to_string(), right));
                }
                self.columns = Some(columns);
                if header {
                    rows.first_line = 2;
                    continue;
                }
            }
            let Some(columns) = self.columns else { continue };
            self.row(input, number, columns, &fields, &mut rows)?;
        }
        if rows.labels.is_empty() {
            return Err(input.wrong_at(Place::Whole, "no sample", "at least one line of values"));
        }
        Ok(rows)
    }

    /// Columns from the first line, and whether that line is a header.
    fn columns_of(&self, input: &Input<'_>, first: &[Cow<str>]) -> Result<(Columns, bool), DatasetError> {
        let named = [Some(&self.table.label), self.table.group.as_ref()].into_iter().flatten();
        let by_name = named.clone().any(|column| matches!(column, Column::Name(_)));
        if by_name && self.table.header == Some(false) {
            let message = "true or absent where a column is given by name".to_owned();
            return Err(DatasetError::Field { field: "header", message });
        }
        let find = |field: &'static str, column: &Column| {
            let all = first.len();
            let found = match column {
                Column::Number(number) => {
                    let from_end = number.checked_add(all as i64).filter(|_| *number < 0);
                    usize::try_from(from_end.unwrap_or(*number)).ok().filter(|&index| index < all)
                }
                Column::Name(name) => first.iter().position(|field| field.trim() == name),
            };
            found.ok_or_else(|| {
                let shown: Vec<&str> = first.iter().take(12).map(Cow::as_ref).collect();
                let more = if all > shown.len() { ", …" } else { "" };
                let found = format!("{all} columns: {}{more}", shown.join(", "));
                let right = match column {
                    Column::Number(number) => format!("`{field} = {number}` to be one of them"),
                    Column::Name(name) => format!("one that is called {name:?}, as `{field}` says"),
                };
                input.wrong_at(Place::Line { line: 1, field: 0 }, found, right)
            })
        };
        let label = find("label", &self.table.label)?;
        let group = self.table.group.as_ref().map(|column| find("group", column)).transpose()?;
        let width = first.len() - 1 - usize::from(group.is_some());
        if group == Some(label) || width == 0 {
            let right = "a column of labels, one of groups if `group` is given, and at least one of values";
            return Err(input.wrong_at(Place::Line { line: 1, field: 0 }, format!("{} columns", first.len()), right));
        }
        let is_value = |&(index, _): &(usize, &Cow<str>)| index != label && Some(index) != group;
        let words = first.iter().enumerate().filter(is_value).any(|(_, field)| field.trim().parse::<f32>().is_err());
        let header = by_name || self.table.header.unwrap_or(words);
        Ok((Columns { all: first.len(), label, group, width }, header))
    }

    fn row(
        &mut self,
        input: &Input<'_>,
        line: u64,
        columns: Columns,
        fields: &[Cow<str>],
        rows: &mut Rows,
    ) -> Result<(), DatasetError> {
        let at = |field| Place::Line { line, field };
        if fields.len() != columns.all {
            let right = format!("{}, as in the first line", columns.all);
            return Err(input.wrong_at(at(0), format!("{} fields", fields.len()), right));
        }
        let divisor = self.table.divide_by.unwrap_or(1.0);
        for (index, field) in fields.iter().enumerate() {
            let text = field.trim();
            let place = at(index + 1);
            if index == columns.label || Some(index) == columns.group {
                if text.is_empty() {
                    let what = if index == columns.label { "a label" } else { "a group" };
                    return Err(input.wrong_at(place, "an empty field", what));
                }
                continue;
            }
            let value = text.parse::<f64>().ok().map(|value| value / divisor).filter(|value| value.is_finite());
            let Some(value) = value else {
                return Err(input.wrong_at(place, format!("{text:?}"), "a number"));
            };
            if !self.table.minmax && !(0.0..=1.0).contains(&value) {
                let right = "a value from 0 to 1; set divide_by (255 for bytes) or minmax = true".to_owned();
                let divided = if divisor == 1.0 { String::new() } else { format!(" divided by {divisor}") };
                return Err(input.wrong_at(place, format!("{text}{divided}"), right));
            }
            // A finite f64 may be infinite as f32.
            rows.features.push((value as f32).clamp(f32::MIN, f32::MAX));
        }
        let text = |index: usize| fields.get(index).map_or("", |field| field.trim());
        rows.labels.push(self.classes.number(text(columns.label)));
        if self.classes.numbers.len() > MOST_CLASSES {
            let right = format!("at most {MOST_CLASSES}; is this column the labels?");
            return Err(input.wrong_at(at(columns.label + 1), "a 257th label", right));
        }
        if let Some(group) = columns.group {
            rows.groups.push(self.groups.number(text(group)));
        }
        let values = rows.features.len() as u64;
        if values > self.limits.values {
            return Err(too_large(input.file(), "values", values, self.limits.values));
        }
        Ok(())
    }
}

/// Divides a line into fields. The error is a field's number and what is wrong with it.
fn split(line: &str, delimiter: char) -> Result<Vec<Cow<'_, str>>, (usize, &'static str)> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted).ok_or((fields.len() + 1, "a quote without an end"))?;
            fields.push(Cow::Owned(field));
            after
        } else {
            let (field, after) = rest.split_at(rest.find(delimiter).unwrap_or(rest.len()));
            fields.push(Cow::Borrowed(field));
            after
        };
        match after.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err((fields.len(), "text after a closing quote")),
        }
    }
}

/// What stands before the closing quote, two quotes being one, and what after it.
fn quoted_field(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests;
