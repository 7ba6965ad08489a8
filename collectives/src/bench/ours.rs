//! Ours, under the clock.

use swarmloom_kernels::Dtype;
use swarmloom_kernels::reduce::ReduceOp;

use super::BenchError;
use super::buffer::Buffer;
use super::grid::{Op, Operator};
use crate::fabric::Raw;
use crate::fabric::region::Region;
use crate::group::Group;
use crate::plan::Collective;

/// A group, its buffers and the operation of a point.
#[derive(Debug)]
pub(super) struct Ours {
    group: Group,
    memory: Memory,
    collective: Collective,
}

#[derive(Debug)]
enum Memory {
    Any { input: Buffer, output: Buffer },
    Registered { input: Region, output: Region },
}

impl Ours {
    /// With room for points of `bytes`.
    pub(super) fn new(group: Group, registered: bool, bytes: usize) -> Result<Self, BenchError> {
        let memory = if registered {
            let region = || -> Result<Region, BenchError> {
                let region = group.region(bytes)?;
                // SAFETY: the region has that many bytes, and no peer knows of it yet.
                unsafe { region.raw().at.write_bytes(0, bytes) };
                Ok(region)
            };
            Memory::Registered { input: region()?, output: region()? }
        } else {
            Memory::Any { input: Buffer::new(bytes)?, output: Buffer::new(bytes)? }
        };
        Ok(Self { group, memory, collective: Collective::Barrier })
    }

    #[inline]
    fn at(&self) -> (*mut u8, *mut u8) {
        match &self.memory {
            Memory::Any { input, output } => (input.at(), output.at()),
            Memory::Registered { input, output } => (input.raw().at, output.raw().at),
        }
    }
}

impl Ours {
    /// As with the other libraries, a broadcast's root has one buffer.
    #[inline]
    fn in_place(&self) -> bool {
        matches!(self.collective, Collective::Broadcast { root, .. } if root == self.group.rank())
    }
}

impl Operator for Ours {
    fn begin(&mut self, op: Op, count: usize) -> Result<bool, BenchError> {
        let ranks = self.group.ranks();
        let parts = || vec![count / ranks; ranks];
        self.collective = match op {
            Op::AllReduce => Collective::AllReduce { count },
            Op::AllGather => Collective::AllGather { parts: parts() },
            Op::ReduceScatter => Collective::ReduceScatter { parts: parts() },
            Op::Broadcast => Collective::Broadcast { root: 0, count },
            Op::AllToAll => Collective::AllToAll { counts: vec![parts(); ranks] },
            Op::Reduce => Collective::Reduce { root: 0, count },
        };
        Ok(true)
    }

    fn input(&self) -> *mut f32 {
        self.at().0.cast()
    }

    fn output(&self) -> *const f32 {
        let (input, output) = self.at();
        (if self.in_place() { input } else { output }).cast_const().cast()
    }

    #[inline]
    fn run(&mut self) -> Result<(), BenchError> {
        let (rank, collective) = (self.group.rank(), &self.collective);
        let bytes = |elements: usize| elements * size_of::<f32>();
        let (input, output) = self.at();
        let input = Raw { at: input, bytes: bytes(collective.input_len(rank)) };
        let at = if self.in_place() { input.at } else { output };
        let output = Raw { at, bytes: bytes(collective.output_len(rank)) };
        let registered = matches!(self.memory, Memory::Registered { .. });
        // SAFETY: two buffers of this process with room for the point, of which this thread alone gives out addresses;
        // registered ones are in regions of this group.
        unsafe { self.group.run_raw(collective, Dtype::F32, ReduceOp::Sum, input, output, registered)? };
        Ok(())
    }
}
