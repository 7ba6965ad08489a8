//! All-reduce of `f32` in fewer bytes: values travel as codes of a few bits with a scale for each block.
//!
//! Every rank quantises its input and gives each rank its part; each adds up its part in the order of the ranks, quantises
//! the sum again and gives it to all. Everybody, also who made it, takes the values from the same codes, so that all ranks
//! have identical bits. (Quantise, exchange, reduce, quantise, gather: as in PCCL, arXiv 2505.14065, and torchft.)
//!
//! What the first rounding loses can be kept and added next time (error feedback, Seide et al. 2014, 1-bit SGD).

use swarmloom_kernels::fused::{Quantised, reduce_quantised};
use swarmloom_kernels::quantise::{Scheme, dequantise, quantise};
use swarmloom_kernels::reduce::ReduceOp;

use crate::error::CollectiveError;
use crate::group::Group;
use crate::plan::Collective;

/// What a quantised all-reduce works with; keep it, and its buffers are made once.
#[derive(Debug, Default)]
pub struct QuantisedBuffers {
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    gathered: Vec<u8>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    shifted: Vec<f32>,
}

/// What becomes of the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// It is the result.
    Sum,
    /// It is divided by the number of ranks.
    Mean,
}

/// Elements that rank `part` of `ranks` reduces: whole blocks, as even as they come.
fn part(scheme: Scheme, count: usize, ranks: usize, part: usize) -> std::ops::Range<usize> {
    let blocks = scheme.blocks(count);
    let at = |part: usize| (blocks * part / ranks * scheme.block()).min(count);
    at(part)..at(part + 1)
}

/// Bytes that `count` elements travel in: scales (`f32`, little endian), then codes.
fn wire_bytes(scheme: Scheme, count: usize) -> usize {
    4 * scheme.blocks(count) + scheme.code_bytes(count)
}

fn pack(scheme: Scheme, x: &[f32], codes: &mut Vec<u8>, scales: &mut Vec<f32>, to: &mut [u8]) {
    codes.resize(scheme.code_bytes(x.len()), 0);
    scales.resize(scheme.blocks(x.len()), 0.0);
    quantise(scheme, x, codes, scales);
    write(scales, codes, to);
}

fn write(scales: &[f32], codes: &[u8], to: &mut [u8]) {
    let (head, tail) = to.split_at_mut(4 * scales.len());
    for (bytes, scale) in head.chunks_exact_mut(4).zip(scales) {
        bytes.copy_from_slice(&scale.to_le_bytes());
    }
    tail.copy_from_slice(codes);
}

fn read_scales(scheme: Scheme, count: usize, from: &[u8], scales: &mut Vec<f32>) {
    let bytes = &from[..4 * scheme.blocks(count)];
    scales.extend(bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
}

impl Group {
    /// Adds up the inputs of all ranks, in codes of `scheme`. Identical bits on all ranks; each element is off by the two
    /// roundings that `scheme` states. With `residual` (as long as the input, zero at first), what this rank's rounding
    /// loses is kept there and added to its next input. On an error it is as it was.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_quantised(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        (scheme, result): (Scheme, Combine),
        residual: Option<&mut [f32]>,
        buffers: &mut QuantisedBuffers,
    ) -> Result<(), CollectiveError> {
        let count = input.len();
        let lengths = [Some(output.len()), residual.as_ref().map(|residual| residual.len())];
        if lengths.into_iter().flatten().any(|length| length != count) {
            let why = format!("input, output and residual have {count}, {lengths:?} elements");
            return Err(CollectiveError::Usage { collective: "all_reduce_quantised", why });
        }
        let (ranks, rank) = (self.ranks(), self.rank());
        let QuantisedBuffers { outgoing, incoming, gathered, codes, scales, shifted } = buffers;
        let source = match &residual {
            Some(residual) => {
                shifted.clear();
                shifted.extend(input.iter().zip(residual.iter()).map(|(value, lost)| value + lost));
                &shifted[..]
            }
            None => input,
        };
        let parts: Vec<usize> =
            (0..ranks).map(|one| wire_bytes(scheme, part(scheme, count, ranks, one).len())).collect();
        let whole: usize = parts.iter().sum();
        outgoing.resize(whole, 0);
        let mut at = 0;
        for (one, bytes) in parts.iter().enumerate() {
            let range = part(scheme, count, ranks, one);
            pack(scheme, &source[range], codes, scales, &mut outgoing[at..at + bytes]);
            at += bytes;
        }
        let mine = part(scheme, count, ranks, rank).len();
        incoming.resize(ranks * parts[rank], 0);
        let exchange = Collective::AllToAll { counts: vec![parts.clone(); ranks] };
        self.run(&exchange, outgoing, incoming, ReduceOp::Sum)?;
        let divisor = if result == Combine::Mean { ranks as u32 } else { 1 };
        let mut own = vec![0; parts[rank]];
        if mine > 0 {
            scales.clear();
            incoming.chunks_exact(parts[rank]).for_each(|bytes| read_scales(scheme, mine, bytes, scales));
            let blocks = scheme.blocks(mine);
            let sources: Vec<Quantised<'_>> = incoming
                .chunks_exact(parts[rank])
                .zip(scales.chunks_exact(blocks))
                .map(|(bytes, scales)| Quantised { codes: &bytes[4 * blocks..], scales })
                .collect();
            codes.resize(scheme.code_bytes(mine), 0);
            let mut reduced = vec![0.0; blocks];
            reduce_quantised(scheme, mine, &sources, divisor, codes, &mut reduced);
            write(&reduced, codes, &mut own);
        }
        gathered.resize(whole, 0);
        self.run(&Collective::AllGather { parts: parts.clone() }, &own, gathered, ReduceOp::Sum)?;
        let mut at = 0;
        for (one, bytes) in parts.iter().enumerate() {
            let range = part(scheme, count, ranks, one);
            unpack(scheme, &gathered[at..at + bytes], scales, &mut output[range]);
            at += bytes;
        }
        if let Some(residual) = residual {
            // Only now: an operation that fails leaves it as it was.
            let mut at = 0;
            for (one, bytes) in parts.iter().enumerate() {
                let range = part(scheme, count, ranks, one);
                unpack(scheme, &outgoing[at..at + bytes], scales, &mut residual[range]);
                at += bytes;
            }
            residual.iter_mut().zip(&shifted[..]).for_each(|(sent, value)| *sent = value - *sent);
        }
        Ok(())
    }
}

fn unpack(scheme: Scheme, from: &[u8], scales: &mut Vec<f32>, out: &mut [f32]) {
    scales.clear();
    read_scales(scheme, out.len(), from, scales);
    dequantise(scheme, &from[4 * scheme.blocks(out.len())..], scales, out);
}

#[cfg(test)]
mod tests {
    use swarmloom_kernels::quantise::Format;

    use super::*;
    use crate::group::tests::with_group;
    use crate::{GroupConfig, Transport};

    fn value(rank: usize, index: usize) -> f32 {
        (((index * 7919 + rank * 104_729) % 2003) as f32 / 1001.5 - 1.0) * (1.0 + rank as f32)
    }

    #[test]
    fn all_ranks_have_identical_bits_within_the_bound() {
        for (transport, ranks) in [(Transport::Shm, 3), (Transport::Tcp, 2)] {
            for count in [0, 1, 63, 64, 65, 1000, 20_011] {
                for format in Format::ALL {
                    let scheme = Scheme::new(format, 64).expect("a block of 64");
                    let config = GroupConfig { transport, ..GroupConfig::default() };
                    let outputs = with_group(ranks, &config, |mut group| {
                        let rank = group.rank();
                        let input: Vec<f32> = (0..count).map(|index| value(rank, index)).collect();
                        let mut output = vec![f32::NAN; count];
                        let (way, mut buffers) = ((scheme, Combine::Mean), QuantisedBuffers::default());
                        group.all_reduce_quantised(&input, &mut output, way, None, &mut buffers).expect("reduced");
                        output
                    });
                    assert!(
                        outputs
                            .windows(2)
                            .all(|pair| pair[0].iter().zip(&pair[1]).all(|(a, b)| a.to_bits() == b.to_bits()))
                    );
                    if format != Format::Int8 {
                        continue;
                    }
                    for (index, got) in outputs[0].iter().enumerate() {
                        let wanted = (0..ranks).map(|rank| value(rank, index)).sum::<f32>() / ranks as f32;
                        // Half a step of at most (largest value / 127) for each rank and for the sum.
                        let bound = (1..=ranks).sum::<usize>() as f32 / ranks as f32 * 2.0 * 0.5 / 127.0 + 1e-5;
                        assert!((got - wanted).abs() <= bound, "{index}: {got} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_rounding_loses_comes_back() {
        let rounds = 200;
        with_group(2, &GroupConfig::default(), |mut group| {
            let scheme = Scheme::new(Format::Int4, 64).expect("a block of 64");
            let input: Vec<f32> = (0..64).map(|index| value(group.rank(), index)).collect();
            let (mut residual, mut buffers) = (vec![0.0; 64], QuantisedBuffers::default());
            let (mut output, mut plain) = (vec![0.0; 64], vec![0.0; 64]);
            let (mut kept, mut lost) = (vec![0.0_f64; 64], vec![0.0_f64; 64]);
            for _ in 0..rounds {
                let way = (scheme, Combine::Sum);
                group
                    .all_reduce_quantised(&input, &mut output, way, Some(&mut residual), &mut buffers)
                    .expect("reduced");
                group.all_reduce_quantised(&input, &mut plain, way, None, &mut buffers).expect("reduced");
                kept.iter_mut().zip(&output).for_each(|(sum, value)| *sum += f64::from(*value));
                lost.iter_mut().zip(&plain).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let wanted = |index: usize| f64::from(value(0, index)) + f64::from(value(1, index));
            let off = |sums: &[f64]| -> f64 {
                sums.iter().enumerate().map(|(index, sum)| (sum / f64::from(rounds) - wanted(index)).abs()).sum()
            };
            assert!(off(&kept) < off(&lost) * 0.6, "{} {}", off(&kept), off(&lost));
        });
    }
}
