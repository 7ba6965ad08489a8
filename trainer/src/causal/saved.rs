//! Checkpoints of a run on many ranks: every rank writes what it updates, beside its training, and any mesh can go on.
//!
//! A checkpoint is a folder. Each rank's file, `rank-00000.safetensors`, holds its parts of the parameters and moments, `f32`,
//! and says in its metadata which elements of which of the model's tensors they are; so a rank of another mesh finds its own.
//! The folder gets its name once all files are durable: what a crash leaves is called `unfinished-`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ring::digest::{Context, SHA256};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorView};
use serde::{Deserialize, Serialize};

use super::layout::{Layout, Piece};
use super::optimizer::{Sharded, Shards};
use crate::model::ModelConfig;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// The file system says so.
    #[error("{path}: {source}")]
    File {
        /// Of what.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{path} is damaged ({why}): remove its folder to go on from the checkpoint before it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that is known.
        why: String,
    },
    /// Another model's.
    #[error("{path} is a checkpoint of a model {found}, and this one is {wanted}: give another folder, or --restart")]
    OtherModel {
        /// The folder.
        path: PathBuf,
        /// What it is of.
        found: String,
        /// What is trained.
        wanted: String,
    },
    /// Some elements are in no file.
    #[error("{path} lacks {missing} elements of {name}: are the files of all ranks there?")]
    Lacking {
        /// The folder.
        path: PathBuf,
        /// A tensor.
        name: String,
        /// How many.
        missing: usize,
    },
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of the files.
    pub format: u32,
    /// Updates made.
    pub step: u64,
    /// Of the optimizer.
    pub updates: u64,
    /// Ranks that wrote it.
    pub ranks: usize,
    /// The model's shape.
    pub model: ModelConfig,
    /// What the run keeps with it.
    pub run: serde_json::Value,
}

const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const PIECES: &str = "pieces";
const DIGEST: &str = "sha256";
/// Most bytes of the part of a file that describes the rest.
const MAX_HEADER: u64 = 100 << 20;

/// A part of a tensor in a rank's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    name: String,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Which of those elements, row by row.
    elements: Range<usize>,
    /// Where they begin in the file's tensors.
    at: usize,
}

/// A rank's part of a checkpoint, copied and not yet written.
#[derive(Debug)]
pub struct Snapshot {
    parts: Vec<Part>,
    /// Parameters and both moments.
    values: [Vec<f32>; 3],
}

/// The names of the file's tensors: parameters and both moments. The format writes them by name, and the digest counts on it.
const TENSORS: [&str; 3] = ["master", "moment_1", "moment_2"];

impl Snapshot {
    /// Copies what a rank updates. `own` are its parameters, bucket after bucket.
    pub fn new(layout: &Layout, optimizer: &Sharded, own: Vec<f32>) -> Self {
        let parts = parts(layout, optimizer.shards());
        Self { parts, values: [own, optimizer.first.clone(), optimizer.second.clone()] }
    }

    /// Writes it on a thread of its own.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn write(self, folder: PathBuf, rank: usize) -> io::Result<Writing> {
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || self.put(&folder, rank))?;
        Ok(Writing(thread))
    }

    fn put(self, folder: &Path, rank: usize) -> Result<(), SavedError> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let path = folder.join(file_name(rank));
        let wrong = |why: String| SavedError::Damaged { path: path.clone(), why };
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let all = self.values.each_ref().map(|values| bytes(values));
        let mut digest = Context::new(&SHA256);
        all.iter().for_each(|bytes| digest.update(bytes));
        let digest = hex(digest.finish().as_ref());
        let shape = vec![self.values[0].len()];
        let views = TENSORS.iter().zip(&all).map(|(name, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| ((*name).to_owned(), view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
        let pieces = serde_json::to_string(&self.parts).map_err(|error| wrong(error.to_string()))?;
        let notes = HashMap::from([(PIECES.to_owned(), pieces), (DIGEST.to_owned(), digest)]);
        let file = safetensors::serialize(views, Some(notes)).map_err(|error| wrong(error.to_string()))?;
        let written = File::create(&path).and_then(|mut open| {
            open.write_all(&file)?;
            open.sync_all()
        });
        written.map_err(at(&path))
    }
}

/// A rank's file on its way to the disk.
#[derive(Debug)]
pub struct Writing(JoinHandle<Result<(), SavedError>>);

impl Writing {
    /// Whether it is over, well or not.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// How it ended; waits for that.
    ///
    /// # Errors
    /// What kept it from being written.
    pub fn end(self) -> Result<(), SavedError> {
        let panicked = |_| {
            let source = io::Error::other("the thread that wrote it panicked");
            Err(SavedError::File { path: PathBuf::from("a checkpoint"), source })
        };
        self.0.join().unwrap_or_else(panicked)
    }
}

/// Which elements of which tensors a rank updates, in the order of its state.
fn parts(layout: &Layout, shards: &Shards) -> Vec<Part> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for bucket in 0..layout.buckets.len() {
        for (piece, elements) in within(&layout.pieces, &shards.own(bucket)) {
            let part = Part {
                name: piece.name.clone(),
                rows: piece.rows.clone(),
                columns: piece.columns.clone(),
                at,
                elements: elements.clone(),
            };
            at += elements.len();
            parts.push(part);
        }
    }
    parts
}

/// The pieces of a range of the flat buffer, and which of their elements are in it.
fn within<'a>(pieces: &'a [Piece], own: &Range<usize>) -> impl Iterator<Item = (&'a Piece, Range<usize>)> {
    let own = own.clone();
    pieces.iter().filter_map(move |piece| {
        let (from, to) = (piece.offset.max(own.start), piece.range().end.min(own.end));
        (from < to).then(|| (piece, from - piece.offset..to - piece.offset))
    })
}

/// The folder that ranks write to before [`commit`].
pub fn unfinished(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("unfinished-{}", name(step)))
}

/// Gives a checkpoint its name, once all ranks' files are written: for one rank of each host to call. Removes older ones
/// than the `keep` newest, and what crashes have left.
///
/// # Errors
/// [`SavedError::File`].
pub fn commit(folder: &Path, state: &State, keep: usize) -> Result<PathBuf, SavedError> {
    let (from, to) = (unfinished(folder, state.step), folder.join(name(state.step)));
    // On a folder that hosts share another one may have been first.
    if from.exists() {
        let path = from.join(STATE);
        let text = serde_json::to_vec_pretty(&State { format: FORMAT, ..state.clone() }).unwrap_or_default();
        let written = File::create(&path).and_then(|mut open| {
            open.write_all(&text)?;
            open.sync_all()
        });
        written.map_err(at(&path))?;
        if to.exists() {
            fs::remove_dir_all(&to).map_err(at(&to))?;
        }
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(at(&from))?,
        }
        File::open(folder).and_then(|open| open.sync_all()).map_err(at(folder))?;
    }
    let old = list(folder)?;
    for (_, path) in old.iter().rev().skip(keep.max(1)) {
        remove(path)?;
    }
    for path in entries(folder)? {
        let left = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix("unfinished-"));
        if left.and_then(step_of).is_some_and(|step| step < state.step) {
            remove(&path)?;
        }
    }
    Ok(to)
}

/// The newest checkpoint in a folder, with what it says of itself.
///
/// # Errors
/// [`SavedError`] where it cannot be read.
pub fn newest(folder: &Path) -> Result<Option<(PathBuf, State)>, SavedError> {
    let Some((_, path)) = list(folder)?.pop() else { return Ok(None) };
    let file = path.join(STATE);
    let mut text = Vec::new();
    let open = File::open(&file).map_err(at(&file))?;
    open.take(MAX_HEADER).read_to_end(&mut text).map_err(at(&file))?;
    let state: State = serde_json::from_slice(&text)
        .map_err(|error| SavedError::Damaged { path: file.clone(), why: error.to_string() })?;
    if state.format != FORMAT {
        let why = format!("it is of format {}, and this program reads {FORMAT}", state.format);
        return Err(SavedError::Damaged { path: file, why });
    }
    Ok(Some((path, state)))
}

/// Files of a checkpoint, opened.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    files: Vec<RankFile>,
}

#[derive(Debug)]
struct RankFile {
    path: PathBuf,
    file: File,
    parts: Vec<Part>,
    /// Where its tensors begin.
    starts: [u64; 3],
}

impl Saved {
    /// Opens a checkpoint of a model.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn open(path: &Path, state: &State, model: &ModelConfig) -> Result<Self, SavedError> {
        let shape = |config: &ModelConfig| ModelConfig { max_position_embeddings: 1, ..config.clone() };
        if shape(&state.model) != shape(model) {
            let (found, wanted) = (state.model.tag(), model.tag());
            return Err(SavedError::OtherModel { path: path.to_owned(), found, wanted });
        }
        let files = (0..state.ranks).filter_map(|rank| RankFile::open(&path.join(file_name(rank))).transpose());
        Ok(Self { path: path.to_owned(), files: files.collect::<Result<_, _>>()? })
    }

    /// Reads what a rank updates: its parameters and both moments, in the order of its state.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn read(&self, layout: &Layout, shards: &Shards) -> Result<[Vec<f32>; 3], SavedError> {
        let len = shards.len();
        let mut values = [vec![0.0; len], vec![0.0; len], vec![0.0; len]];
        for part in parts(layout, shards) {
            let mut missing = vec![true; part.elements.len()];
            for file in &self.files {
                for source in file.parts.iter().filter(|source| source.name == part.name) {
                    file.copy(source, &part, &mut missing, &mut values)?;
                }
            }
            let missing = missing.into_iter().filter(|missing| *missing).count();
            if missing > 0 {
                return Err(SavedError::Lacking { path: self.path.clone(), name: part.name, missing });
            }
        }
        Ok(values)
    }
}

impl RankFile {
    /// Opens and checks a file; `None` where there is none, as on hosts that share no folder.
    fn open(path: &Path) -> Result<Option<Self>, SavedError> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(at(path))?,
        };
        let wrong = |why: &dyn std::fmt::Display| SavedError::Damaged { path: path.to_owned(), why: why.to_string() };
        let mut start = [0; 8];
        file.read_exact(&mut start).map_err(at(path))?;
        let header = u64::from_le_bytes(start);
        if header > MAX_HEADER {
            return Err(wrong(&"its header is too long"));
        }
        let mut bytes = Vec::new();
        (&mut file).take(header).read_to_end(&mut bytes).map_err(at(path))?;
        let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?;
        let note = |key: &str| metadata.metadata().as_ref().and_then(|notes| notes.get(key)).cloned();
        let parts: Vec<Part> = note(PIECES)
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(|| wrong(&"it does not say which elements it holds"))?;
        let elements = parts.iter().map(|part| part.elements.len()).sum::<usize>();
        let mut starts = [0; 3];
        for (name, start) in TENSORS.iter().zip(&mut starts) {
            let info = metadata.info(name).ok_or_else(|| wrong(&format!("it has no {name}")))?;
            if info.dtype != Dtype::F32 || info.shape != [elements] {
                return Err(wrong(&format!("{name} is not f32 of {elements} elements")));
            }
            *start = 8 + header + info.data_offsets.0 as u64;
        }
        let mut sum = Context::new(&SHA256);
        let mut chunk = vec![0; 1 << 20];
        loop {
            match file.read(&mut chunk).map_err(at(path))? {
                0 => break,
                read => sum.update(&chunk[..read]),
            }
        }
        if note(DIGEST).as_deref() != Some(&hex(sum.finish().as_ref())) {
            return Err(wrong(&"its contents have changed since they were written"));
        }
        Ok(Some(Self { path: path.to_owned(), file, parts, starts }))
    }

    /// Copies what `source` has of `part` and is still missing.
    fn copy(
        &self,
        source: &Part,
        part: &Part,
        missing: &mut [bool],
        values: &mut [Vec<f32>; 3],
    ) -> Result<(), SavedError> {
        let (width, from_width) = (part.columns.len(), source.columns.len());
        let columns = part.columns.start.max(source.columns.start)..part.columns.end.min(source.columns.end);
        let whole_rows = part.columns == source.columns;
        let (mut at_element, end) = (part.elements.start, part.elements.end);
        while at_element < end {
            // A run of elements that lie one after the other on both sides: all of them where the columns agree.
            let (row, column) = (part.rows.start + at_element / width, part.columns.start + at_element % width);
            let row_end = (at_element / width + 1) * width;
            let stop = if whole_rows { end } else { end.min(row_end) };
            if source.rows.contains(&row) || whole_rows {
                let (first, last) = if whole_rows {
                    (at_element, stop)
                } else {
                    let skip = columns.start.saturating_sub(column);
                    let left = columns.end.saturating_sub(column);
                    (at_element + skip.min(stop - at_element), at_element + left.min(stop - at_element))
                };
                // In the source's own count of elements.
                let there = |element: usize| {
                    let (row, column) = (part.rows.start + element / width, part.columns.start + element % width);
                    (row as i64 - source.rows.start as i64) * from_width as i64
                        + (column as i64 - source.columns.start as i64)
                };
                let shift = there(first) - first as i64;
                let low = (source.elements.start as i64 - shift).max(first as i64);
                let high = (source.elements.end as i64 - shift).min(last as i64);
                if low < high {
                    let (low, high) = (low as usize, high as usize);
                    let from = source.at + ((low as i64 + shift) as usize - source.elements.start);
                    self.read(from, low..high, part, missing, values)?;
                }
            }
            at_element = stop;
        }
        Ok(())
    }

    fn read(
        &self,
        from: usize,
        elements: Range<usize>,
        part: &Part,
        missing: &mut [bool],
        values: &mut [Vec<f32>; 3],
    ) -> Result<(), SavedError> {
        let relative = elements.start - part.elements.start..elements.end - part.elements.start;
        if !missing[relative.clone()].iter().any(|missing| *missing) {
            return Ok(());
        }
        let mut bytes = vec![0; 4 * elements.len()];
        let into = part.at + relative.start..part.at + relative.end;
        for (start, values) in self.starts.iter().zip(values) {
            self.file.read_exact_at(&mut bytes, start + 4 * from as u64).map_err(at(&self.path))?;
            for (value, four) in values[into.clone()].iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*four);
            }
        }
        missing[relative].fill(false);
        Ok(())
    }
}

fn file_name(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

fn name(step: u64) -> String {
    format!("step-{step:012}")
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    (digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// The checkpoints in a folder, oldest first.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, SavedError> {
    let step = |path: PathBuf| Some((step_of(path.file_name()?.to_str()?)?, path));
    let mut found: Vec<_> = entries(folder)?.into_iter().filter_map(step).collect();
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SavedError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    entries.map(|entry| Ok(entry.map_err(at(folder))?.path())).collect()
}

fn remove(path: &Path) -> Result<(), SavedError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at(path)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SavedError {
    move |source| SavedError::File { path: path.to_owned(), source }
}
