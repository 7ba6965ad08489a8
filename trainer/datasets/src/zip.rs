//! Zip archives, as far as numpy writes them: members stored or deflated, found by the central directory.
//!
//! PKWARE, *.ZIP File Format Specification* (APPNOTE), sections 4.3.7 (local header), 4.3.12 (central directory) and
//! 4.3.16 (its end). Encryption, several disks and zip64 (4 GiB and more) are told, not read.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::bufread::DeflateDecoder;

use crate::error::{DatasetError, Place};
use crate::input::{Limits, MOST_DEFLATED, too_large};

/// Bytes of the record that ends an archive, without its comment.
const END_BYTES: usize = 22;
/// Bytes of a member's entry in the directory, without its name.
const ENTRY_BYTES: usize = 46;
/// Bytes of a member's own header, without its name.
const LOCAL_BYTES: usize = 30;
/// The largest directory that is read.
const DIRECTORY_BYTES: u64 = 16 << 20;

/// What the directory says about one member.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    unpacked: u64,
    at: u64,
}

/// An archive whose directory has been read.
pub(crate) struct Archive<R> {
    file: PathBuf,
    reader: R,
    entries: Vec<Entry>,
    /// Where the directory begins: members end before it.
    directory: u64,
    limits: Limits,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory of an archive of `bytes` bytes.
    pub(crate) fn open(file: &Path, mut reader: R, bytes: u64, limits: &Limits) -> Result<Self, DatasetError> {
        let wrong = |place, found: String, right: &str| DatasetError::Format {
            file: file.into(),
            place,
            found,
            right: right.into(),
        };
        let tail_bytes = bytes.min((END_BYTES + usize::from(u16::MAX)) as u64);
        let tail_at = bytes - tail_bytes;
        let tail = read_at(file, &mut reader, tail_at, tail_bytes)?;
        // The last one whose comment ends where the file does.
        let end = (0..=tail.len().saturating_sub(END_BYTES)).rev().find_map(|at| {
            let end = tail.get(at..at + END_BYTES)?;
            let comment = usize::from(u16_at(end, 20)?);
            (end.starts_with(b"PK\x05\x06") && at + END_BYTES + comment == tail.len()).then_some((at, end))
        });
        let Some((end_at, end)) = end else {
            let right = "a zip archive (.npz); this is none, or it was cut short";
            return Err(wrong(Place::Whole, format!("{bytes} bytes without a directory at their end"), right));
        };
        let end_at = tail_at + end_at as u64;
        let [disk, directory_disk, here, all] = [4, 6, 8, 10].map(|at| u16_at(end, at).unwrap_or_default());
        let [size, directory] = [12, 16].map(|at| u32_at(end, at).unwrap_or_default());
        if all == u16::MAX || size == u32::MAX || directory == u32::MAX {
            let right = "an archive below 4 GiB: save fewer or smaller arrays per file";
            return Err(wrong(Place::Byte(end_at), "a zip64 archive".into(), right));
        }
        let (size, directory) = (u64::from(size), u64::from(directory));
        if (disk, directory_disk) != (0, 0) || here != all || directory + size != end_at || size > DIRECTORY_BYTES {
            let found = format!("a directory of {all} members and {size} bytes at byte {directory}");
            return Err(wrong(Place::Byte(end_at), found, "a directory that ends here, on one disk, below 16 MiB"));
        }
        let bytes = read_at(file, &mut reader, directory, size)?;
        let mut entries = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let at = directory + (bytes.len() - rest.len()) as u64;
            let Some((entry, after)) = entry(rest) else {
                let right = "an entry of the directory with a name in UTF-8";
                return Err(wrong(Place::Byte(at), "something else".into(), right));
            };
            entries.push(entry);
            rest = after;
        }
        if entries.len() != usize::from(all) {
            return Err(wrong(Place::Byte(end_at), format!("{} members", entries.len()), "as many as the record says"));
        }
        Ok(Self { file: file.into(), reader, entries, directory, limits: *limits })
    }

    /// The file's name.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The members' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Opens a member; `None` if there is none of this name.
    pub(crate) fn member(&mut self, name: &str) -> Result<Option<Member<'_>>, DatasetError> {
        let Some(entry) = self.entries.iter().find(|entry| entry.name == name).cloned() else { return Ok(None) };
        let wrong = |found: String, right: &str| DatasetError::Format {
            file: self.file.clone(),
            place: Place::Member { name: entry.name.clone(), byte: 0 },
            found,
            right: right.into(),
        };
        if entry.flags & 1 != 0 {
            return Err(wrong("an encrypted member".into(), "one that is not"));
        }
        if [entry.packed, entry.unpacked, entry.at].contains(&u64::from(u32::MAX)) {
            return Err(wrong("a member of 4 GiB or more".into(), "a smaller one"));
        }
        if entry.unpacked > self.limits.unpacked_bytes {
            return Err(too_large(&self.file, "bytes, unpacked", entry.unpacked, self.limits.unpacked_bytes));
        }
        let possible = match entry.method {
            0 => entry.unpacked == entry.packed,
            8 => entry.unpacked <= entry.packed.saturating_mul(MOST_DEFLATED),
            other => return Err(wrong(format!("compression method {other}"), "0 (stored) or 8 (deflated)")),
        };
        let head = (entry.at + LOCAL_BYTES as u64 <= self.directory)
            .then(|| read_at(&self.file, &mut self.reader, entry.at, LOCAL_BYTES as u64))
            .transpose()?
            .filter(|head| head.starts_with(b"PK\x03\x04"));
        let Some(head) = head else {
            return Err(wrong(format!("no header at byte {}", entry.at), "a member's header"));
        };
        let [name_bytes, extra_bytes] = [26, 28].map(|at| u64::from(u16_at(&head, at).unwrap_or_default()));
        let start = entry.at + LOCAL_BYTES as u64 + name_bytes + extra_bytes;
        if !possible || start + entry.packed > self.directory {
            let found = format!("{} bytes that are {} unpacked, from byte {start}", entry.packed, entry.unpacked);
            return Err(wrong(found, "a member that ends before the directory"));
        }
        let local_name = read_at(&self.file, &mut self.reader, entry.at + LOCAL_BYTES as u64, name_bytes)?;
        if local_name != entry.name.as_bytes() || u16_at(&head, 8) != Some(entry.method) {
            return Err(wrong("another name or method in the member's header".into(), "the directory's"));
        }
        let failed = |source| DatasetError::Io { file: self.file.clone(), source };
        self.reader.seek(SeekFrom::Start(start)).map_err(failed)?;
        let packed = BufReader::new((&mut self.reader as &mut dyn Read).take(entry.packed));
        let reader: Box<dyn Read + '_> =
            if entry.method == 8 { Box::new(BufReader::new(DeflateDecoder::new(packed))) } else { Box::new(packed) };
        Ok(Some(Member {
            file: self.file.clone(),
            name: entry.name,
            reader,
            at: 0,
            bytes: entry.unpacked,
            expected: entry.crc,
            crc: flate2::Crc::new(),
        }))
    }
}

/// One member, read from its beginning.
pub(crate) struct Member<'a> {
    file: PathBuf,
    name: String,
    reader: Box<dyn Read + 'a>,
    at: u64,
    bytes: u64,
    expected: u32,
    crc: flate2::Crc,
}

impl Member<'_> {
    /// Bytes that follow, as the directory says.
    pub(crate) fn remaining(&self) -> u64 {
        self.bytes.saturating_sub(self.at)
    }

    /// The file it is in.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// What is wrong here.
    pub(crate) fn wrong(&self, found: impl Into<String>, right: impl Into<String>) -> DatasetError {
        self.wrong_at(self.at, found, right)
    }

    /// What is wrong at another byte.
    pub(crate) fn wrong_at(&self, byte: u64, found: impl Into<String>, right: impl Into<String>) -> DatasetError {
        let place = Place::Member { name: self.name.clone(), byte };
        DatasetError::Format { file: self.file.clone(), place, found: found.into(), right: right.into() }
    }

    /// How many bytes were read.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Fills `buffer` with `what`.
    pub(crate) fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), DatasetError> {
        if buffer.len() as u64 > self.remaining() {
            let found = format!("{} bytes", self.remaining());
            return Err(self.wrong(found, format!("{} bytes of {what}", buffer.len())));
        }
        self.reader.read_exact(buffer).map_err(|error| self.failed(error))?;
        self.crc.update(buffer);
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// Checks that the member ends here and that its checksum is right.
    pub(crate) fn end(mut self) -> Result<(), DatasetError> {
        let more = self.reader.read(&mut [0]).map_err(|error| self.failed(error))?;
        if self.remaining() > 0 || more > 0 {
            return Err(self.wrong("more bytes", "the end of the member"));
        }
        if self.crc.sum() != self.expected {
            let found = format!("checksum {:08x}", self.crc.sum());
            return Err(self.wrong(found, format!("{:08x}, as the directory says: the file is corrupt", self.expected)));
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> DatasetError {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match error.kind() {
            InvalidData | InvalidInput | UnexpectedEof => {
                self.wrong(format!("packed data that cannot be right ({error})"), "a sound member")
            }
            _ => DatasetError::Io { file: self.file.clone(), source: error },
        }
    }
}

/// One entry of the directory and what follows it.
fn entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_BYTES)?;
    if !head.starts_with(b"PK\x01\x02") {
        return None;
    }
    let [name, extra, comment] = [u16_at(head, 28)?, u16_at(head, 30)?, u16_at(head, 32)?].map(usize::from);
    let (name, rest) = rest.split_at_checked(name)?;
    let (_, rest) = rest.split_at_checked(extra + comment)?;
    let entry = Entry {
        name: str::from_utf8(name).ok()?.to_owned(),
        flags: u16_at(head, 8)?,
        method: u16_at(head, 10)?,
        crc: u32_at(head, 16)?,
        packed: u32_at(head, 20)?.into(),
        unpacked: u32_at(head, 24)?.into(),
        at: u32_at(head, 42)?.into(),
    };
    Some((entry, rest))
}

fn read_at(file: &Path, reader: &mut (impl Read + Seek), at: u64, count: u64) -> Result<Vec<u8>, DatasetError> {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(usize::MAX)];
    let read = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(&mut bytes));
    read.map_err(|source| DatasetError::Io { file: file.into(), source })?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
