//! Device memory that all ranks of one host read directly: CUDA IPC.
//!
//! Every rank reads all others' buffers and reduces them in the order of the ranks, so that all get the same bits. The host
//! group's barriers order it: nobody reads before all have written, and nobody writes before all have read.

use swarmloom_gpu::{Buffer, Gpu, GpuError, Handle, Shared, Source};
use swarmloom_kernels::Element;
use swarmloom_kernels::reduce::ReduceOp;

use super::{GpuGroup, Limit, nccl};
use crate::error::CollectiveError;
use crate::fault::Fault;

/// A buffer of this rank that all others can read, and theirs. Made by [`GpuGroup::expose`], ended by
/// [`GpuGroup::withdraw`]. If it is dropped otherwise, its memory stays taken until the process ends, because another rank
/// may still read it.
#[derive(Debug)]
pub struct Exposed<T: Element> {
    /// `None` once it was given back.
    own: Option<Buffer<T>>,
    /// By rank; nothing for this one.
    peers: Vec<Option<Shared>>,
    /// Which group of survivors: others have other ranks.
    epoch: u64,
}

impl<T: Element> Exposed<T> {
    /// This rank's buffer.
    pub fn buffer(&self) -> Option<&Buffer<T>> {
        self.own.as_ref()
    }

    /// This rank's buffer, to be written to between calls of the group.
    pub fn buffer_mut(&mut self) -> Option<&mut Buffer<T>> {
        self.own.as_mut()
    }
}

impl<T: Element> Drop for Exposed<T> {
    fn drop(&mut self) {
        self.peers.clear();
        // Giving memory back that another process has open is undefined.
        std::mem::forget(self.own.take());
    }
}

impl GpuGroup {
    /// Lets all ranks read this rank's buffer: as long on every rank, and not empty. The ranks must be processes of one
    /// host whose GPUs reach each other. On an error, on all ranks alike, the buffer's memory stays taken.
    ///
    /// # Errors
    /// [`CollectiveError::Setup`] where one rank cannot share or open memory, [`CollectiveError::Usage`] where lengths differ
    /// or ranks are on several hosts, and errors of the host group.
    pub fn expose<T: Element>(&mut self, buffer: Buffer<T>) -> Result<Exposed<T>, CollectiveError> {
        let usage = |why: &str| CollectiveError::Usage { collective: "expose", why: why.into() };
        let hosts = &self.group.layout().hosts;
        if hosts.iter().any(|host| *host != hosts[0]) {
            return Err(usage("the ranks are on several hosts"));
        }
        let (rank, ranks) = (self.rank(), self.ranks());
        let (len, epoch) = (buffer.len(), self.group.epoch());
        let mut exposed = Exposed { own: None, peers: Vec::new(), epoch };
        let handle = buffer.share();
        exposed.own = Some(buffer);
        let setup = |fault| CollectiveError::Setup { what: "sharing device memory", fault };

        // Length, whether there is a handle, and the handle.
        let mut own = [0; 9 + Handle::BYTES];
        own[..8].copy_from_slice(&(len as u64).to_le_bytes());
        if let Ok(handle) = &handle {
            own[8] = 1;
            own[9..].copy_from_slice(&handle.0);
        }
        let mut all = vec![0; own.len() * ranks];
        self.group.all_gather(&own, &mut all, &vec![own.len(); ranks])?;
        let cards: Vec<&[u8]> = all.chunks(own.len()).collect();
        if cards.iter().any(|card| card[..8] != own[..8]) {
            return Err(usage("the ranks' buffers differ in length"));
        }
        if let Some(missing) = cards.iter().position(|card| card[8] != 1) {
            let why = handle.err().map_or_else(|| format!("rank {missing} cannot share"), |error| error.to_string());
            return Err(setup(Fault::System { what: "CUDA IPC", why }));
        }
        let bytes = len * size_of::<T>();
        let opened: Result<Vec<_>, GpuError> = cards
            .iter()
            .enumerate()
            .map(|(peer, card)| (peer != rank).then(|| open(&self.gpu, card, bytes)).transpose())
            .collect();
        let mut everywhere = [0_u8];
        let agreed = self.group.all_reduce(&[u8::from(opened.is_ok())], &mut everywhere, ReduceOp::Min);
        let opened = match opened {
            Ok(peers) => {
                exposed.peers = peers;
                None
            }
            Err(error) => Some(error),
        };
        agreed?;
        match opened {
            Some(error) => Err(setup(nccl::device(error))),
            None if everywhere == [0] => {
                Err(setup(Fault::System { what: "CUDA IPC", why: "another rank cannot open this one's memory".into() }))
            }
            None => Ok(exposed),
        }
    }

    /// Reduces the exposed buffers of all ranks, in the order of the ranks, into everybody's output. Every rank reads all of
    /// every other's: best for what is small.
    ///
    /// # Errors
    /// As [`GpuGroup::run`].
    pub fn all_reduce_exposed<T: Element>(
        &mut self,
        input: &Exposed<T>,
        output: &mut Buffer<T>,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        const CALL: &str = "all_reduce_exposed";
        let usage = |why: &str| CollectiveError::Usage { collective: CALL, why: why.into() };
        let Some(own) = &input.own else { return Err(usage("the buffer was withdrawn")) };
        if input.epoch != self.group.epoch() {
            return Err(usage("the buffer was exposed to a group of other ranks"));
        }
        if own.len() != output.len() {
            return Err(usage("input and output differ in length"));
        }
        self.sequence += 1;
        let abort = self.group.aborter();
        let limit = Limit::new(&abort, self.config.timeout);
        // This rank's own writes to its buffer have to be done before others may read it.
        let written = self.end_of_work(&limit);
        written.map_err(|fault| self.failed(CALL, "this rank's GPU", fault))?;
        self.group.barrier()?;
        let sources: Vec<Source<'_, T>> =
            input.peers.iter().map(|peer| peer.as_ref().map_or(Source::Own(own), Source::Of)).collect();
        // SAFETY: nobody writes to its buffer before the barrier below, which comes after the work: a rank that fails
        // never passes it, and keeps its memory.
        let called = unsafe { self.gpu.reduce_shared(op, &sources, output) };
        let read = called.map_err(nccl::device).and_then(|()| self.end_of_work(&limit));
        read.map_err(|fault| self.failed(CALL, "this rank's GPU", fault))?;
        self.group.barrier()
    }

    pub(super) fn end_of_work(&self, limit: &Limit<'_>) -> Result<(), Fault> {
        let mark = self.gpu.mark().map_err(nccl::device)?;
        limit.wait(|| mark.reached().map_err(nccl::device))
    }

    /// Ends the reading of an exposed buffer on all ranks, and gives it back.
    ///
    /// # Errors
    /// Errors of the host group, or [`CollectiveError::Usage`] after it has shrunk: then the memory stays taken.
    pub fn withdraw<T: Element>(&mut self, mut exposed: Exposed<T>) -> Result<Buffer<T>, CollectiveError> {
        if exposed.epoch != self.group.epoch() {
            // A rank that was left out and lives may still read it: dropping it keeps the memory.
            let why = "the buffer was exposed to a group of other ranks, of which one may still have it open".into();
            return Err(CollectiveError::Usage { collective: "withdraw", why });
        }
        exposed.peers.clear();
        // After it, no rank has any of them open.
        self.group.barrier()?;
        let why = || CollectiveError::Usage { collective: "withdraw", why: "it was withdrawn before".into() };
        exposed.own.take().ok_or_else(why)
    }
}

fn open(gpu: &Gpu, card: &[u8], bytes: usize) -> Result<Shared, GpuError> {
    let mut handle = Handle([0; Handle::BYTES]);
    handle.0.copy_from_slice(&card[9..]);
    // SAFETY: the rank made it of a buffer of that length, which all agreed on, and it keeps the buffer until all have
    // closed it (`withdraw`), or for ever (`drop`).
    unsafe { gpu.open_shared(&handle, bytes) }
}
