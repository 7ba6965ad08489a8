//! A file that is read once, from its beginning, packed by gzip or not, with every error naming it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{DatasetError, Place};

/// How much may be read and kept. What a file says about its own size is believed only as far as the file reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one file, as it is on disk.
    pub file_bytes: u64,
    /// Bytes of one file, unpacked.
    pub unpacked_bytes: u64,
    /// Values of one data set: samples times values of each. They take four bytes each.
    pub values: u64,
}

impl Default for Limits {
    /// 4 GiB on disk, 8 GiB unpacked, 2^30 values (4 GiB).
    fn default() -> Self {
        Self { file_bytes: 4 << 30, unpacked_bytes: 8 << 30, values: 1 << 30 }
    }
}

/// Deflate never makes one byte of more than 1,032 (zlib's technical notes).
pub(crate) const MOST_DEFLATED: u64 = 1032;
/// Bytes that are read at a time.
pub(crate) const CHUNK: usize = 64 << 10;

/// An open file, or bytes that a name stands for.
pub(crate) struct Input<'a> {
    file: PathBuf,
    reader: Box<dyn BufRead + 'a>,
    packed: bool,
    /// Bytes that were read, unpacked.
    at: u64,
    /// Bytes that there can be, unpacked.
    most: u64,
    /// Bytes that may be set aside before they are read.
    likely: u64,
    limits: Limits,
}

impl<'a> Input<'a> {
    /// Opens a file; `fix` says what to do where there is none.
    pub(crate) fn open(file: &Path, limits: &Limits, fix: &str) -> Result<Self, DatasetError> {
        let (opened, bytes) = open(file, limits, fix)?;
        Self::new(file, Box::new(BufReader::with_capacity(CHUNK, opened)), bytes, limits)
    }

    /// Bytes in memory, with a name for errors.
    pub(crate) fn of(file: &Path, bytes: &'a [u8], limits: &Limits) -> Result<Self, DatasetError> {
        Self::new(file, Box::new(bytes), bytes.len() as u64, limits)
    }

    fn new(file: &Path, mut reader: Box<dyn BufRead + 'a>, bytes: u64, limits: &Limits) -> Result<Self, DatasetError> {
        let head = reader.fill_buf().map_err(|source| DatasetError::Io { file: file.into(), source })?;
        let packed = head.starts_with(&[0x1f, 0x8b]);
        let most = if packed { bytes.saturating_mul(MOST_DEFLATED).min(limits.unpacked_bytes) } else { bytes };
        let likely = if packed { bytes.saturating_mul(8).min(most) } else { bytes };
        let reader =
            if packed { Box::new(BufReader::with_capacity(CHUNK, MultiGzDecoder::new(reader))) } else { reader };
        Ok(Self { file: file.into(), reader, packed, at: 0, most, likely, limits: *limits })
    }

    /// The file's name.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Bytes that can still follow: what is left of a plain file, a bound for a packed one.
    pub(crate) fn remaining(&self) -> u64 {
        self.most.saturating_sub(self.at)
    }

    /// How many of `count` values, of a byte each, to set memory aside for before any is read.
    pub(crate) fn likely(&self, count: u64) -> usize {
        usize::try_from(self.likely.min(count)).unwrap_or_default()
    }

    /// Whether `remaining` is what follows, and not only a bound.
    pub(crate) fn is_plain(&self) -> bool {
        !self.packed
    }

    /// Where the next byte stands.
    pub(crate) fn place(&self) -> Place {
        if self.packed { Place::Unpacked(self.at) } else { Place::Byte(self.at) }
    }

    /// What is wrong here.
    pub(crate) fn wrong(&self, found: impl Into<String>, right: impl Into<String>) -> DatasetError {
        self.wrong_at(self.place(), found, right)
    }

    /// What is wrong at another place.
    pub(crate) fn wrong_at(&self, place: Place, found: impl Into<String>, right: impl Into<String>) -> DatasetError {
        DatasetError::Format { file: self.file.clone(), place, found: found.into(), right: right.into() }
    }

    /// Reads until `buffer` is full or the file ends; how much was read.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, DatasetError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.count(count)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    /// Fills `buffer` with `what`, or says that the file ends early.
    pub(crate) fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), DatasetError> {
        let start = self.place();
        let read = self.read(buffer)?;
        if read < buffer.len() {
            let found = format!("the end of the file after {read} bytes");
            return Err(self.wrong_at(start, found, format!("{} bytes of {what}", buffer.len())));
        }
        Ok(())
    }

    /// Reads one line without its end (`\n` or `\r\n`), as far as `most` bytes; `None` at the end of the file. The flag
    /// says whether the line had an end.
    pub(crate) fn line(&mut self, most: usize) -> Result<Option<(Vec<u8>, bool)>, DatasetError> {
        let mut line = Vec::new();
        loop {
            let part = match self.reader.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            if part.is_empty() {
                return Ok((!line.is_empty()).then_some((line, false)));
            }
            let end = part.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(part.len(), |end| end + 1);
            if line.len() + used > most {
                return Err(self.wrong(format!("a line of more than {most} bytes"), "a shorter one"));
            }
            line.extend(part.iter().take(end.unwrap_or(used)));
            self.reader.consume(used);
            self.count(used)?;
            if end.is_some() {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some((line, true)));
            }
        }
    }

    /// Checks that nothing follows `what`. A packed file's checksum stands at its end and is compared here.
    pub(crate) fn end(&mut self, what: &str) -> Result<(), DatasetError> {
        let place = self.place();
        if self.read(&mut [0])? == 0 {
            return Ok(());
        }
        Err(self.wrong_at(place, "more bytes", format!("the end of the file after {what}")))
    }

    /// Counts bytes that were read.
    fn count(&mut self, bytes: usize) -> Result<(), DatasetError> {
        self.at += bytes as u64;
        let limit = self.limits.unpacked_bytes;
        if self.at > limit {
            return Err(too_large(&self.file, "bytes, unpacked", self.at, limit));
        }
        Ok(())
    }

    /// A packed file that is cut short or corrupt makes the decoder fail, not the operating system.
    fn failed(&self, error: io::Error) -> DatasetError {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match error.kind() {
            UnexpectedEof if self.packed => {
                self.wrong("the end of the file inside packed data", "a whole gzip file; this one is cut short")
            }
            InvalidData | InvalidInput if self.packed => {
                self.wrong(format!("packed data that cannot be right ({error})"), "a sound gzip file")
            }
            _ => DatasetError::Io { file: self.file.clone(), source: error },
        }
    }
}

/// Opens a file within the limits, and says how long it is.
pub(crate) fn open(file: &Path, limits: &Limits, fix: &str) -> Result<(File, u64), DatasetError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DatasetError::Missing { file: file.into(), fix: fix.into() },
        _ => DatasetError::Io { file: file.into(), source },
    };
    // Looked at before it is opened: opening a named pipe would wait for somebody to write.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(DatasetError::Format {
            file: file.into(),
            place: Place::Whole,
            found: "a folder or a special file".into(),
            right: "a file".into(),
        });
    }
    let opened = File::open(file).map_err(failed)?;
    let bytes = opened.metadata().map_err(failed)?.len();
    if bytes > limits.file_bytes {
        return Err(too_large(file, "bytes", bytes, limits.file_bytes));
    }
    Ok((opened, bytes))
}

/// More than a limit allows.
pub(crate) fn too_large(file: &Path, what: &'static str, found: u64, limit: u64) -> DatasetError {
    DatasetError::TooLarge { file: file.into(), what, found, limit }
}
