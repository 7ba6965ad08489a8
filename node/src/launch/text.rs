//! From the files that a person has to files of tokens: written once, beside the results, and read by every rank.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use ring::digest;
use swarmloom_trainer::causal::samples::Width;
use swarmloom_trainer::tokenizer;

use super::file::{BYTES, DataTable};
use crate::hex;
use crate::runs::Usage;

/// Files of tokens to learn from and to measure on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    /// To learn from.
    pub(crate) training: Text,
    /// Held out, where there is any.
    pub(crate) validation: Option<Text>,
}

/// One file of tokens, there or to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Where it is.
    pub(crate) tokens: PathBuf,
    /// Text files that it is made of; none where it is a person's own.
    sources: Vec<PathBuf>,
}

impl Texts {
    /// What a training file names. Paths are relative to `folder`; what is made goes to `cache`.
    ///
    /// # Errors
    /// [`Usage`] where a file is not there, or a tokenizer is none.
    pub(crate) fn find(data: &DataTable, folder: &Path, cache: &Path) -> anyhow::Result<Self> {
        if data.tokenizer != BYTES {
            let message = format!(
                "data.tokenizer is {:?}: only {BYTES:?} is done here; give tokens of another one as a file, data.tokens",
                data.tokenizer
            );
            return Err(Usage(message).into());
        }
        let text = |text: &[PathBuf], tokens: Option<&PathBuf>| match tokens {
            Some(path) => {
                let tokens = folder.join(path);
                fs::metadata(&tokens).map_err(|error| Usage(format!("{}: {error}", tokens.display())))?;
                Ok(Text { tokens, sources: Vec::new() })
            }
            None => Text::made_of(text.iter().map(|path| folder.join(path)).collect(), &data.tokenizer, cache),
        };
        let training = text(&data.text, data.tokens.as_ref())?;
        let validation = match (data.validation.is_empty(), &data.validation_tokens) {
            (true, None) => None,
            (_, tokens) => Some(text(&data.validation, tokens.as_ref())?),
        };
        Ok(Self { training, validation })
    }

    /// Makes what is not there yet.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        [Some(&self.training), self.validation.as_ref()].into_iter().flatten().try_for_each(Text::make)
    }
}

impl Text {
    /// The name says what it is made of: other files, or the same ones changed, are another one.
    fn made_of(sources: Vec<PathBuf>, tokenizer: &str, cache: &Path) -> anyhow::Result<Self> {
        let mut sum = digest::Context::new(&digest::SHA256);
        sum.update(tokenizer.as_bytes());
        for path in &sources {
            let about = fs::metadata(path).map_err(|error| Usage(format!("{}: {error}", path.display())))?;
            let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            sum.update(format!("\n{}\n{}\n{changed:?}", path.display(), about.len()).as_bytes());
        }
        let name = format!("{}.tokens", hex::encode(&sum.finish().as_ref()[..12]));
        Ok(Self { tokens: cache.join(name), sources })
    }

    fn make(&self) -> anyhow::Result<()> {
        if self.sources.is_empty() || self.tokens.exists() {
            return Ok(());
        }
        let folder = self.tokens.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let unfinished = self.tokens.with_extension("unfinished");
        self.write(&unfinished).inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        fs::rename(&unfinished, &self.tokens).with_context(|| self.tokens.display().to_string())
    }

    /// Every file's bytes after a mark that it begins.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut bytes = vec![0; 1 << 20];
        for source in &self.sources {
            let named = || source.display().to_string();
            let mut input = File::open(source).with_context(named)?;
            out.write_all(&(tokenizer::BOS as u16).to_le_bytes()).with_context(|| path.display().to_string())?;
            loop {
                let read = input.read(&mut bytes).with_context(named)?;
                if read == 0 {
                    break;
                }
                let wide: Vec<u8> = bytes[..read].iter().flat_map(|byte| u16::from(*byte).to_le_bytes()).collect();
                out.write_all(&wide).with_context(|| path.display().to_string())?;
            }
        }
        let file = out.into_inner().map_err(|error| error.into_error()).with_context(|| path.display().to_string())?;
        file.sync_all().with_context(|| path.display().to_string())
    }
}

/// Bytes of a token in these files.
pub(crate) fn width(vocabulary: usize) -> Width {
    Width::of(vocabulary)
}

#[cfg(test)]
mod tests {
    use swarmloom_trainer::causal::samples::{Order, TokenFile};

    use super::*;

    fn table(text: &[&str]) -> DataTable {
        DataTable {
            text: text.iter().map(PathBuf::from).collect(),
            tokens: None,
            validation: Vec::new(),
            validation_tokens: None,
            tokenizer: BYTES.into(),
            order: Order::Shuffled,
        }
    }

    #[test]
    fn bytes_follow_a_mark_and_changed_files_are_read_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.txt"), "ab").expect("written");
        fs::write(folder.path().join("b.txt"), [0xff]).expect("written");
        let cache = folder.path().join("cache");
        let find = |files: &[&str]| Texts::find(&table(files), folder.path(), &cache);
        let texts = find(&["a.txt", "b.txt"]).expect("found");
        texts.make().expect("made");
        let file = TokenFile::open(&texts.training.tokens, Width::Two).expect("opened");
        assert_eq!(file.read(0, 5, 258).expect("read"), [256, 97, 98, 256, 255]);
        assert_eq!(find(&["a.txt", "b.txt"]).expect("found"), texts);
        fs::write(folder.path().join("b.txt"), "longer").expect("written");
        assert_ne!(find(&["a.txt", "b.txt"]).expect("found"), texts);
        let error = find(&["c.txt"]).expect_err("no such file").to_string();
        assert!(error.contains("c.txt: No such file"), "{error}");
    }
}
