//! Which tokens each step learns from: a pure function of the seed and the step, whatever the mesh.
//!
//! A file of tokens is cut into windows of one length. Every epoch goes through all windows once, in an order of its own;
//! step `s` takes the samples `s * global_batch` and on. So no sample is skipped or repeated, whoever computes it and
//! wherever a run was interrupted.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::CausalError;
use super::worker::Batches;

/// A file of tokens, little-endian, without a header: as nanoGPT and others write it.
#[derive(Debug)]
pub struct TokenFile {
    file: File,
    path: PathBuf,
    width: Width,
    tokens: u64,
}

/// Bytes of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// For vocabularies of up to 65,536.
    Two,
    /// For larger ones.
    Four,
}

impl Width {
    /// What a vocabulary needs.
    pub fn of(vocabulary: usize) -> Self {
        if vocabulary <= 1 << 16 { Self::Two } else { Self::Four }
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

impl TokenFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`CausalError::Samples`] where it cannot be read, or ends within a token.
    pub fn open(path: &Path, width: Width) -> Result<Self, CausalError> {
        let wrong = |why: String| CausalError::Samples(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
        if !bytes.is_multiple_of(width.bytes()) {
            return Err(wrong(format!("{bytes} bytes are no whole number of tokens of {} bytes", width.bytes())));
        }
        Ok(Self { file, path: path.to_owned(), width, tokens: bytes / width.bytes() })
    }

    /// How many there are.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens from `start` on. Read where they lie: the system keeps what is used often.
    ///
    /// # Errors
    /// [`CausalError::Samples`] where they cannot be read, or one is none of the vocabulary.
    pub fn read(&self, start: u64, count: usize, vocabulary: usize) -> Result<Vec<i64>, CausalError> {
        let wrong = |why: String| CausalError::Samples(format!("{}: {why}", self.path.display()));
        let mut bytes = vec![0; count * self.width.bytes() as usize];
        let read = self.file.read_exact_at(&mut bytes, start * self.width.bytes());
        read.map_err(|error| wrong(format!("{count} tokens from {start} on: {error}")))?;
        let found: Vec<i64> = match self.width {
            Width::Two => bytes.as_chunks().0.iter().map(|two| i64::from(u16::from_le_bytes(*two))).collect(),
            Width::Four => bytes.as_chunks().0.iter().map(|four| i64::from(u32::from_le_bytes(*four))).collect(),
        };
        match found.iter().position(|token| *token >= vocabulary as i64) {
            Some(at) => {
                let (token, at) = (found[at], start + at as u64);
                Err(wrong(format!("token {at} is {token}, but the model's vocabulary has {vocabulary}")))
            }
            None => Ok(found),
        }
    }
}

/// In which order windows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Another one in every epoch, by the seed.
    Shuffled,
    /// As they lie.
    Sequential,
}

/// The samples of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Windows that there are.
    pub windows: u64,
    /// In which order they come.
    pub order: Order,
    /// Of the order.
    pub seed: u64,
}

impl Sampling {
    /// Over `tokens`, in windows of `length` inputs and as many targets, one token later.
    pub fn over(tokens: u64, length: usize, order: Order, seed: u64) -> Self {
        Self { windows: tokens.saturating_sub(1) / length.max(1) as u64, order, seed }
    }

    /// The window of a sample, counted from the run's first.
    ///
    /// # Panics
    /// If there are no windows.
    pub fn window(&self, sample: u64) -> u64 {
        let (epoch, within) = (sample / self.windows, sample % self.windows);
        match self.order {
            Order::Sequential => within,
            Order::Shuffled => shuffled(within, self.windows, mixed(self.seed ^ mixed(epoch))),
        }
    }
}

/// Where `index` of `len` goes in the permutation of that key: four rounds of a Feistel network over the next power of
/// four (Luby and Rackoff 1988), again as long as the result is outside (Black and Rogaway 2002, "cycle walking").
fn shuffled(index: u64, len: u64, key: u64) -> u64 {
    let half = (64 - len.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mixed(right ^ key.rotate_left(round * 16)) & mask));
        }
        at = left << half | right;
        if at < len {
            return at;
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood 2014).
fn mixed(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// The part of a global batch that a replica has: contiguous, the first ones one more where it does not divide.
pub fn share(batch: usize, replica: usize, replicas: usize) -> Range<usize> {
    let start = |replica: usize| replica * (batch / replicas) + replica.min(batch % replicas);
    start(replica)..start(replica + 1)
}

/// The micro-batches of one replica's part of a step.
#[derive(Debug)]
pub struct Share<'a> {
    /// Where tokens come from.
    pub file: &'a TokenFile,
    /// Which windows.
    pub sampling: Sampling,
    /// The samples, counted from the run's first.
    pub samples: Range<u64>,
    /// Sequences of a micro-batch at most.
    pub micro_batch: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Tokens that the model knows.
    pub vocabulary: usize,
}

impl Share<'_> {
    /// How many micro-batches there are.
    pub fn micro_batches(&self) -> usize {
        (self.samples.end - self.samples.start).div_ceil(self.micro_batch.max(1) as u64) as usize
    }

    fn samples(&self, micro_batch: usize) -> Range<u64> {
        let start = self.samples.start + (micro_batch * self.micro_batch) as u64;
        start.min(self.samples.end)..(start + self.micro_batch as u64).min(self.samples.end)
    }
}

impl Batches for Share<'_> {
    fn micro_batch(&mut self, micro_batch: usize) -> Result<(Tensor, Tensor), CausalError> {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        let samples = self.samples(micro_batch);
        let rows = (samples.end - samples.start) as i64;
        for sample in samples {
            let start = self.sampling.window(sample) * self.length as u64;
            let tokens = self.file.read(start, self.length + 1, self.vocabulary)?;
            inputs.extend_from_slice(&tokens[..self.length]);
            targets.extend_from_slice(&tokens[1..]);
        }
        let shaped = |tokens: &[i64]| Tensor::f_from_slice(tokens)?.f_view([rows, self.length as i64]);
        Ok((shaped(&inputs)?, shaped(&targets)?))
    }

    fn shape(&self, micro_batch: usize) -> (i64, i64) {
        let samples = self.samples(micro_batch);
        ((samples.end - samples.start) as i64, self.length as i64)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_epoch_has_every_window_once_in_an_order_of_its_own() {
        for windows in [1, 2, 3, 64, 100, 1023] {
            let sampling = Sampling { windows, order: Order::Shuffled, seed: 3 };
            let epoch = |epoch: u64| (0..windows).map(|i| sampling.window(epoch * windows + i)).collect::<Vec<_>>();
            let sorted = |mut all: Vec<u64>| {
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(epoch(0)), (0..windows).collect::<Vec<_>>());
            assert_eq!(sorted(epoch(5)), (0..windows).collect::<Vec<_>>());
            if windows > 60 {
                assert_ne!(epoch(0), epoch(1));
                let stay = epoch(0).iter().enumerate().filter(|(at, window)| *at as u64 == **window).count();
                assert!(stay < 8, "{stay} of {windows} stay where they are");
                let other = Sampling { seed: 4, ..sampling };
                assert_ne!(epoch(0), (0..windows).map(|i| other.window(i)).collect::<Vec<_>>());
            }
        }
        let plain = Sampling::over(1 + 40, 4, Order::Sequential, 0);
        assert_eq!((plain.windows, plain.window(3), plain.window(13)), (10, 3, 3));
        assert_eq!(Sampling::over(40, 4, Order::Sequential, 0).windows, 9, "the last target is missing");
    }

    #[test]
    fn shares_cover_a_batch_and_micro_batches_a_share() {
        let shares: Vec<_> = (0..3).map(|replica| share(8, replica, 3)).collect();
        assert_eq!(shares, [0..3, 3..6, 6..8]);
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let bytes: Vec<u8> = (0..41_u16).flat_map(u16::to_le_bytes).collect();
        file.write_all(&bytes).expect("written");
        let tokens = TokenFile::open(file.path(), Width::Two).expect("opened");
        assert_eq!(tokens.tokens(), 41);
        let sampling = Sampling::over(tokens.tokens(), 4, Order::Sequential, 0);
        let mut share = Share { file: &tokens, sampling, samples: 7..10, micro_batch: 2, length: 4, vocabulary: 41 };
        assert_eq!((share.micro_batches(), share.shape(0), share.shape(1)), (2, (2, 4), (1, 4)));
        let (inputs, targets) = share.micro_batch(0).expect("read");
        assert_eq!(Vec::<Vec<i64>>::try_from(&inputs).expect("rows"), [[28, 29, 30, 31], [32, 33, 34, 35]]);
        assert_eq!(Vec::<Vec<i64>>::try_from(&targets).expect("rows"), [[29, 30, 31, 32], [33, 34, 35, 36]]);
        let error = Share { vocabulary: 30, ..share }.micro_batch(0).expect_err("outside").to_string();
        assert!(error.ends_with("token 30 is 30, but the model's vocabulary has 30"), "{error}");
        file.write_all(&[1]).expect("written");
        let error = TokenFile::open(file.path(), Width::Two).expect_err("torn").to_string();
        assert!(error.ends_with("83 bytes are no whole number of tokens of 2 bytes"), "{error}");
    }
}
