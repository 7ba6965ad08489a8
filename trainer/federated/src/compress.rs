//! Updates that travel in fewer bytes.
//!
//! An encoding is what would be sent, byte for byte: its length is what a simulation counts. Numbers are little-endian.
//! What a lossy encoding that is biased leaves out is kept at the client and added to its next update (error feedback): Seide
//! et al. 2014; Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory" (arXiv 1809.07599).

mod bits;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use swarmloom_kernels::quantise::{Format, Scheme, dequantise, quantise};
use swarmloom_kernels::{norms, sparsify};

use crate::rule::{RuleError, check};
use bits::{Reader, Writer};
use swarmloom_kernels::random;

/// How updates are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "compress", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Compression {
    /// Each bucket of `bucket` values as its length and, for each value, one of `levels` parts of that length, rounded up or
    /// down at random so that the mean is right: Alistarh et al., "QSGD" (arXiv 1610.02132), section 3.1. Codes have a fixed
    /// number of bits, where the paper has Elias' code. Unbiased: nothing is kept.
    Qsgd {
        /// The paper's `s`.
        #[serde(default = "seven")]
        levels: u32,
        /// Values that share a length.
        #[serde(default = "bucket")]
        bucket: u32,
    },
    /// The largest magnitudes alone, with their indices (arXiv 1809.07599, algorithm 1); the rest is kept.
    TopK {
        /// The part of the values that is sent; at least one.
        part: f64,
    },
    /// The sign of every value and the mean magnitude of each block: Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback
    /// Fixes SignSGD" (arXiv 1901.09847), algorithm 1; the rest is kept.
    Sign {
        /// Values that share a magnitude: a multiple of 64, at most 4096. The paper has one for each layer.
        #[serde(default = "block")]
        block: u32,
    },
}

fn seven() -> u32 {
    7
}

fn bucket() -> u32 {
    512
}

fn block() -> u32 {
    4096
}

/// Bytes that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Too few or too many.
    #[error("an encoding of {values} values has {wanted} bytes, not {found}")]
    Length {
        /// Values that it stands for.
        values: usize,
        /// Its bytes.
        found: usize,
        /// Those that it should have.
        wanted: usize,
    },
    /// An index outside of the update.
    #[error("index {index} is outside of an update of {values} values")]
    Index {
        /// The index.
        index: u32,
        /// The update's values.
        values: usize,
    },
    /// A code that stands for nothing.
    #[error("code {code} is above the {most} that there are")]
    Code {
        /// The code.
        code: u32,
        /// The largest one.
        most: u32,
    },
}

impl Compression {
    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// [`RuleError`] with the setting.
    pub fn check(&self) -> Result<(), RuleError> {
        let check = |what, found: f64, holds, allowed| check("compress", what, found, holds, allowed);
        match *self {
            Self::Qsgd { levels, bucket } => {
                check("levels", levels.into(), (1..=32_767).contains(&levels), "there are 1 to 32767")?;
                check("bucket", bucket.into(), bucket > 0, "there is at least one value in it")
            }
            Self::TopK { part } => check("part", part, part > 0.0 && part <= 1.0, "a part is above 0 and at most 1"),
            Self::Sign { block } => {
                let allowed = "it is a multiple of 64, at most 4096";
                check("block", block.into(), Scheme::new(Format::Sign, block as usize).is_some(), allowed)
            }
        }
    }

    /// Whether something is kept for the next update.
    pub fn keeps(&self) -> bool {
        !matches!(self, Self::Qsgd { .. })
    }

    /// What an update is sent as. `residual` is what the client has kept: empty, or of the update's length; afterwards it is
    /// what it keeps now. Randomness follows from the seed.
    pub fn encode(&self, delta: &[f32], residual: &mut Vec<f32>, seed: u64) -> Vec<u8> {
        let length = delta.len();
        if self.keeps() {
            residual.resize(length, 0.0);
        } else {
            residual.clear();
        }
        match *self {
            Self::Qsgd { levels, bucket } => qsgd(delta, levels, bucket as usize, seed),
            Self::TopK { .. } => {
                let kept = self.sent(length);
                let (mut indices, mut values) = (vec![0; kept], vec![0.0; kept]);
                sparsify::top_k(delta, residual, &mut indices, &mut values);
                let indices = indices.iter().flat_map(|index| index.to_le_bytes());
                indices.chain(values.iter().flat_map(|value| value.to_le_bytes())).collect()
            }
            Self::Sign { .. } => {
                for (kept, value) in residual.iter_mut().zip(delta) {
                    *kept += value;
                }
                let scheme = self.signs();
                let (mut codes, mut scales) = (vec![0; scheme.code_bytes(length)], vec![0.0; scheme.blocks(length)]);
                quantise(scheme, residual.as_slice(), &mut codes, &mut scales);
                let mut sent = vec![0.0; length];
                dequantise(scheme, &codes, &scales, &mut sent);
                for (kept, sent) in residual.iter_mut().zip(&sent) {
                    *kept -= sent;
                }
                scales.iter().flat_map(|scale| scale.to_le_bytes()).chain(codes).collect()
            }
        }
    }

    /// The update of `length` values that bytes stand for.
    ///
    /// # Errors
    /// [`DecodeError`] where they stand for none. Values may be anything.
    pub fn decode(&self, bytes: &[u8], length: usize) -> Result<Vec<f32>, DecodeError> {
        let wanted = self.bytes(length);
        if bytes.len() != wanted {
            return Err(DecodeError::Length { values: length, found: bytes.len(), wanted });
        }
        match *self {
            Self::Qsgd { levels, bucket } => un_qsgd(bytes, length, levels, bucket as usize),
            Self::TopK { .. } => {
                let (indices, values) = bytes.split_at(bytes.len() / 2);
                let indices: Vec<u32> = indices.as_chunks().0.iter().map(|index| u32::from_le_bytes(*index)).collect();
                let mut out = vec![0.0; length];
                sparsify::scatter_add(&indices, &floats(values), &mut out)
                    .map_err(|error| DecodeError::Index { index: error.index, values: length })?;
                Ok(out)
            }
            Self::Sign { .. } => {
                let scheme = self.signs();
                let (scales, codes) = bytes.split_at(4 * scheme.blocks(length));
                let mut out = vec![0.0; length];
                dequantise(scheme, codes, &floats(scales), &mut out);
                Ok(out)
            }
        }
    }

    /// Bytes of an encoding of `length` values.
    pub fn bytes(&self, length: usize) -> usize {
        match *self {
            Self::Qsgd { levels, bucket } => {
                4 * length.div_ceil(bucket as usize) + (length * code_bits(levels) as usize).div_ceil(8)
            }
            Self::TopK { .. } => 8 * self.sent(length),
            Self::Sign { .. } => {
                let scheme = self.signs();
                4 * scheme.blocks(length) + scheme.code_bytes(length)
            }
        }
    }

    /// Values that top-k sends.
    fn sent(&self, length: usize) -> usize {
        match *self {
            Self::TopK { part } => ((part * length as f64).round() as usize).max(1).min(length),
            _ => 0,
        }
    }

    /// Signs by blocks; what [`Compression::check`] refuses is taken for the largest.
    fn signs(&self) -> Scheme {
        const LARGEST: Scheme = match Scheme::new(Format::Sign, Scheme::LARGEST_BLOCK) {
            Some(scheme) => scheme,
            None => panic!("the largest block is one"),
        };
        match *self {
            Self::Sign { block } => Scheme::new(Format::Sign, block as usize).unwrap_or(LARGEST),
            _ => LARGEST,
        }
    }
}

/// Bits of a code from `-levels` to `levels`.
fn code_bits(levels: u32) -> u32 {
    u32::BITS - (2 * levels).leading_zeros()
}

fn qsgd(delta: &[f32], levels: u32, bucket: usize, seed: u64) -> Vec<u8> {
    let mut lengths = Vec::new();
    let mut codes = Writer::default();
    for (number, values) in delta.chunks(bucket).enumerate() {
        let length = norms::l2(values) as f32;
        lengths.extend(length.to_le_bytes());
        for (at, value) in values.iter().enumerate() {
            // Zero for a bucket of zeros; the length says where one is no number.
            let parts = f64::from(value.abs()) / f64::from(length) * f64::from(levels);
            let parts = if parts.is_finite() { parts.min(f64::from(levels)) } else { 0.0 };
            let up = random::unit(seed, (number * bucket + at) as u64) < parts.fract();
            let level = parts as u32 + u32::from(up);
            codes.write(if value.is_sign_negative() { levels - level } else { levels + level }, code_bits(levels));
        }
    }
    lengths.extend(codes.finish());
    lengths
}

fn un_qsgd(bytes: &[u8], length: usize, levels: u32, bucket: usize) -> Result<Vec<f32>, DecodeError> {
    let (lengths, codes) = bytes.split_at(4 * length.div_ceil(bucket));
    let lengths = floats(lengths);
    let mut codes = Reader::new(codes);
    let value = |at: usize| {
        let code = codes.read(code_bits(levels));
        if code > 2 * levels {
            return Err(DecodeError::Code { code, most: 2 * levels });
        }
        let level = f64::from(code) - f64::from(levels);
        Ok((f64::from(lengths[at / bucket]) * level / f64::from(levels)) as f32)
    };
    (0..length).map(value).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
