//! An endpoint of libfabric with all that belongs to it: opened, used by one thread at a time, and closed in order.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use super::library::{Infos, Library};
use super::object::{Block, Handle};
use super::open::{Limits, Opened, Ways, open};
use super::peer::Remote;
use super::sys::*;
use super::wire::{HEAD, PACKET_BYTES};
use crate::fabric::Raw;
use crate::fault::Fault;
use crate::plan::Rank;

/// Something that the completion queue had.
#[derive(Debug)]
pub(super) enum Event {
    /// A put has landed, with this data.
    Landed(u64),
    /// A message is in this slot, and so long; the slot is to be posted again.
    Message { slot: usize, bytes: usize },
    /// Something has left.
    Sent(Flight),
    /// Something went wrong.
    Failed { flight: Option<Flight>, why: String },
}

/// Why something was not sent.
#[derive(Debug)]
pub(super) struct Refused {
    /// Whether the peer is to blame rather than the call.
    pub(super) peer: bool,
    pub(super) why: String,
}

/// What is under way: one context and one place for a message each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) peer: Rank,
    /// A put, or a message.
    pub(super) put: bool,
}

/// Bytes of a message with the longest packet.
const SLOT: usize = HEAD + PACKET_BYTES;
const CONTEXT: usize = size_of::<FiContext2>();
/// Bits of a key that tell the regions of an epoch apart: keys of 32 bits suit every provider.
const KEY_BITS: u32 = 20;
/// Completions that are taken at a time.
const BATCH: usize = 16;
/// Addresses are short; the longest is that of an IPv6 socket or a name.
pub(super) const MAX_ADDRESS: usize = 256;

/// An endpoint, its completion queue and its memory.
#[derive(Debug)]
pub(super) struct Endpoint {
    library: &'static Library,
    // In the order in which they are closed.
    scratch_region: Handle<FidMr>,
    ep: Handle<FidEp>,
    buffers_region: Option<Handle<FidMr>>,
    sources: Vec<Source>,
    cq: Handle<FidCq>,
    av: Handle<FidAv>,
    domain: Handle<FidDomain>,
    _fabric: Handle<FidFabric>,
    _infos: Infos,
    scratch: Block,
    /// Slots to receive into, then one for each flight to send from.
    buffers: Block,
    /// Contexts in the same order.
    contexts: Block,
    slots: usize,
    flights: Vec<Flight>,
    free: Vec<usize>,
    /// Slots that could not be posted yet.
    unposted: Vec<usize>,
    limits: Limits,
    /// Where puts of this operation are likely to come from.
    expected: [Raw; 2],
    epoch: u64,
    keys: u64,
    #[cfg(test)]
    pub(super) disorder: Option<super::disorder::Disorder>,
}

/// Memory that is written from, registered because the provider wants it.
#[derive(Debug)]
struct Source {
    at: usize,
    bytes: usize,
    /// It stays until the end of the operation, not only until the puts to `peer` have left.
    lasts: bool,
    peer: Rank,
    region: Handle<FidMr>,
}

impl Endpoint {
    /// Opens one, with scratch of so many bytes that others can write.
    pub(super) fn open(
        provider: Option<&str>,
        epoch: u64,
        ranks: usize,
        scratch_bytes: usize,
        ways: Ways,
    ) -> Result<Self, Fault> {
        let Opened { library, infos, limits, fabric, domain, av, cq, ep } = open(provider, ranks, ways)?;
        let Limits { slots, flights: max_flights, .. } = limits;
        let count = slots + max_flights;
        let mut endpoint = Self {
            library,
            scratch_region: Handle::NONE,
            ep,
            buffers_region: None,
            sources: Vec::new(),
            cq,
            av,
            domain,
            _fabric: fabric,
            _infos: infos,
            scratch: Block::new(scratch_bytes)?,
            buffers: Block::new(count * SLOT)?,
            contexts: Block::new(count * CONTEXT)?,
            slots,
            flights: vec![Flight { peer: 0, put: false }; max_flights],
            free: (0..max_flights).rev().collect(),
            unposted: (0..slots).rev().collect(),
            limits,
            expected: [Raw::EMPTY; 2],
            epoch,
            keys: 0,
            #[cfg(test)]
            disorder: None,
        };
        endpoint.scratch_region = endpoint.register(endpoint.scratch.raw(), FI_WRITE | FI_REMOTE_WRITE)?;
        if endpoint.limits.local {
            let region = endpoint.register(endpoint.buffers.raw(), FI_SEND | FI_RECV)?;
            endpoint.buffers_region = Some(region);
        }
        endpoint.post_slots()?;
        Ok(endpoint)
    }

    /// What the provider can do.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn scratch(&self) -> Raw {
        self.scratch.raw()
    }

    /// What others need to write to the scratch: the key, and what its first byte is called.
    pub(super) fn key(&self) -> (u64, u64) {
        // SAFETY: the region is open.
        let key = unsafe { (*self.scratch_region.at()).key };
        (key, if self.limits.mr_mode & FI_MR_VIRT_ADDR != 0 { self.scratch.raw().at as u64 } else { 0 })
    }

    /// The address under which others reach this endpoint.
    pub(super) fn address(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0_u8; MAX_ADDRESS];
        let mut length = bytes.len();
        // SAFETY: an enabled endpoint, and memory of that length.
        let result = unsafe {
            let cm = (*self.ep.at()).cm;
            ((*cm).getname)(self.ep.fid(), bytes.as_mut_ptr().cast(), &raw mut length)
        };
        self.library.check("asking for an endpoint's address", result)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Makes a peer's address known.
    pub(super) fn insert(&self, address: &[u8]) -> Result<FiAddr, Fault> {
        // The provider knows how long its addresses are: it reads no further than that.
        let mut padded = [0_u8; MAX_ADDRESS];
        let length = address.len().min(MAX_ADDRESS);
        padded[..length].copy_from_slice(&address[..length]);
        let mut known = FI_ADDR_UNSPEC;
        // SAFETY: an open address vector, and memory for one address and one result.
        let result = unsafe {
            let av = self.av.at();
            ((*(*av).ops).insert)(av, padded.as_ptr().cast(), 1, &raw mut known, 0, ptr::null_mut())
        };
        let count = self.library.check("a peer's address", result)?;
        if count == 1 && known != FI_ADDR_UNSPEC {
            Ok(known)
        } else {
            Err(Fault::System { what: "a peer's address", why: "the provider does not take it".into() })
        }
    }

    /// Begins a put, with data if there is any. `false`: not now.
    ///
    /// # Safety
    /// `bytes` from `from` stay readable until its [`Event::Sent`], or until the endpoint is closed.
    pub(super) unsafe fn write(
        &mut self,
        peer: Rank,
        to: Remote,
        from: *const u8,
        bytes: usize,
        offset: usize,
        data: Option<u64>,
    ) -> Result<bool, Refused> {
        #[cfg(test)]
        if let Some(disorder) = &mut self.disorder
            && disorder.keeps(super::disorder::Put { peer, to, from, bytes, offset, data })
        {
            return Ok(true);
        }
        let Some(flight) = self.free.pop() else { return Ok(false) };
        let mut desc = match self.descriptor(from, bytes, peer) {
            Ok(desc) => desc,
            Err(fault) => {
                self.free.push(flight);
                return Err(Refused { peer: false, why: fault.to_string() });
            }
        };
        self.flights[flight] = Flight { peer, put: true };
        let context = self.contexts.at((self.slots + flight) * CONTEXT).cast();
        let at = to.base + offset as u64;
        let ep = self.ep.at();
        // SAFETY: an enabled endpoint; the source stays, says the caller; the context is free and stays as long as the
        // endpoint. Whether the target may be written is for the peer's registration to say.
        let result = unsafe {
            let rma = &*(*ep).rma;
            match data {
                Some(data) => (rma.writedata)(ep, from.cast(), bytes, desc, data, to.address, at, to.key, context),
                None => {
                    let piece = libc::iovec { iov_base: from.cast_mut().cast(), iov_len: bytes };
                    let target = FiRmaIov { addr: at, len: bytes, key: to.key };
                    let message = FiMsgRma {
                        msg_iov: &raw const piece,
                        desc: &raw mut desc,
                        iov_count: 1,
                        addr: to.address,
                        rma_iov: &raw const target,
                        rma_iov_count: 1,
                        context,
                        data: 0,
                    };
                    (rma.writemsg)(ep, &raw const message, FI_COMPLETION | FI_DELIVERY_COMPLETE)
                }
            }
        };
        self.posted(result, Some(flight))
    }

    /// Sends a message: a head, and `bytes` of a packet. `false`: not now. The memory may change at once.
    ///
    /// # Safety
    /// `bytes` from `packet` are readable, and at most [`PACKET_BYTES`].
    pub(super) unsafe fn send(
        &mut self,
        peer: Rank,
        to: Remote,
        head: &[u8; HEAD],
        packet: *const u8,
        bytes: usize,
    ) -> Result<bool, Refused> {
        let length = HEAD + bytes.min(PACKET_BYTES);
        let fill = |at: *mut u8| {
            // SAFETY: `at` has place for a slot; the packet is readable, says the caller.
            unsafe {
                at.copy_from_nonoverlapping(head.as_ptr(), HEAD);
                at.add(HEAD).copy_from_nonoverlapping(packet, length - HEAD);
            }
        };
        let ep = self.ep.at();
        if length <= self.limits.inject_bytes {
            let mut wire = [0_u8; SLOT];
            fill(wire.as_mut_ptr());
            // SAFETY: an enabled endpoint; the memory may change when this returns.
            let result = unsafe { ((*(*ep).msg).inject)(ep, wire.as_ptr().cast(), length, to.address) };
            return self.posted(result, None);
        }
        let Some(flight) = self.free.pop() else { return Ok(false) };
        self.flights[flight] = Flight { peer, put: false };
        let place = self.slots + flight;
        let (at, context) = (self.buffers.at(place * SLOT), self.contexts.at(place * CONTEXT).cast());
        fill(at);
        // SAFETY: an enabled endpoint; the flight's place and context are free, and stay as long as the endpoint.
        let result = unsafe {
            ((*(*ep).msg).send)(ep, at.cast_const().cast(), length, self.buffer_descriptor(), to.address, context)
        };
        self.posted(result, Some(flight))
    }

    fn posted(&mut self, result: isize, flight: Option<usize>) -> Result<bool, Refused> {
        if result == 0 {
            return Ok(true);
        }
        self.free.extend(flight);
        match -result {
            FI_EAGAIN => Ok(false),
            error => {
                let call = matches!(error, FI_EINVAL | FI_ENOSYS | FI_EMSGSIZE | FI_EOPNOTSUPP);
                Err(Refused { peer: !call, why: self.library.why(error) })
            }
        }
    }

    /// Takes what the completion queue has now. This is what drives the provider.
    pub(super) fn look(&mut self, events: &mut Vec<Event>) -> Result<(), Fault> {
        let looked = self.read(events);
        #[cfg(test)]
        self.stir(events);
        looked
    }

    fn read(&mut self, events: &mut Vec<Event>) -> Result<(), Fault> {
        if !self.unposted.is_empty() {
            self.post_slots()?;
        }
        let mut entries = [const { MaybeUninit::<FiCqDataEntry>::uninit() }; BATCH];
        let cq = self.cq.at();
        // SAFETY: an open queue of this format, and place for so many entries.
        let count = unsafe { ((*(*cq).ops).read)(cq, entries.as_mut_ptr().cast(), BATCH) };
        match count {
            0.. => {
                for entry in entries.iter().take(count as usize) {
                    // SAFETY: the queue has written so many entries.
                    let entry = unsafe { entry.assume_init_ref() };
                    events.extend(self.event(entry));
                }
                Ok(())
            }
            error if -error == FI_EAGAIN => Ok(()),
            error if -error == FI_EAVAIL => {
                events.extend(self.failure());
                Ok(())
            }
            error => Err(Fault::System { what: "reading a completion queue", why: self.library.why(error) }),
        }
    }

    fn event(&mut self, entry: &FiCqDataEntry) -> Option<Event> {
        match self.place(entry.op_context) {
            Some(place) if place >= self.slots => {
                let flight = place - self.slots;
                self.free.push(flight);
                Some(Event::Sent(self.flights[flight]))
            }
            _ if entry.flags & FI_REMOTE_CQ_DATA != 0 => Some(Event::Landed(entry.data)),
            Some(slot) => Some(Event::Message { slot, bytes: entry.len.min(SLOT) }),
            None => None,
        }
    }

    fn failure(&mut self) -> Option<Event> {
        // SAFETY: all zeros is a value of this type: numbers and pointers that are null.
        let mut error = unsafe { MaybeUninit::<FiCqErrEntry>::zeroed().assume_init() };
        let cq = self.cq.at();
        // SAFETY: an open queue, and room for an entry, also of newer versions of the library.
        let count = unsafe { ((*(*cq).ops).readerr)(cq, &raw mut error, 0) };
        if count < 1 {
            return None;
        }
        let mut room = [0_u8; 128];
        // SAFETY: as above; the text, if any, is in `room` or static, and ends with a zero.
        let detail = unsafe {
            let text = room.as_mut_ptr().cast::<c_char>();
            let text = ((*(*cq).ops).strerror)(cq, error.prov_errno, error.err_data, text, room.len() - 1);
            super::library::text(text)
        };
        let why = match self.library.why(error.err as isize) {
            why if detail.is_empty() || detail == why => why,
            why => format!("{why} ({detail})"),
        };
        match self.place(error.op_context) {
            Some(place) if place >= self.slots => {
                let flight = place - self.slots;
                self.free.push(flight);
                Some(Event::Failed { flight: Some(self.flights[flight]), why })
            }
            Some(slot) => {
                self.unposted.push(slot);
                let harmless = error.err as isize == FI_ECANCELED;
                (!harmless).then_some(Event::Failed { flight: None, why })
            }
            None => Some(Event::Failed { flight: None, why }),
        }
    }

    /// Which of ours a context is.
    fn place(&self, context: *mut c_void) -> Option<usize> {
        let offset = (context as usize).checked_sub(self.contexts.at(0) as usize)?;
        Some(offset / CONTEXT).filter(|place| *place < self.slots + self.flights.len())
    }

    /// The message in a slot: so many bytes of it can be read until the slot is posted again.
    pub(super) fn message(&self, slot: usize) -> *const u8 {
        self.buffers.at(slot * SLOT)
    }

    /// Posts a slot again.
    pub(super) fn repost(&mut self, slot: usize) -> Result<(), Fault> {
        self.unposted.push(slot);
        self.post_slots()
    }

    fn post_slots(&mut self) -> Result<(), Fault> {
        while let Some(slot) = self.unposted.pop() {
            let (at, context) = (self.buffers.at(slot * SLOT), self.contexts.at(slot * CONTEXT).cast());
            let ep = self.ep.at();
            // SAFETY: an enabled endpoint; the slot and its context are free, and stay as long as the endpoint.
            let result =
                unsafe { ((*(*ep).msg).recv)(ep, at.cast(), SLOT, self.buffer_descriptor(), FI_ADDR_UNSPEC, context) };
            if -result == FI_EAGAIN {
                self.unposted.push(slot);
                return Ok(());
            }
            if let Err(fault) = self.library.check("posting a buffer", result as i64) {
                self.unposted.push(slot);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Messages and puts that have not left.
    pub(super) fn under_way(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    fn register(&mut self, memory: Raw, access: u64) -> Result<Handle<FidMr>, Fault> {
        // Where keys are ours to choose, they differ between epochs and regions. The first two stay; of the rest there
        // are never so many at a time that one could come twice.
        let key = (self.epoch & 0xFFF) << KEY_BITS | self.keys;
        self.keys = if self.keys + 1 < 1 << KEY_BITS { self.keys + 1 } else { 2 };
        let mut region = None;
        // SAFETY: an open domain; the memory is there, says whoever gives it, until the region is closed.
        let result = unsafe {
            let reg = (*(*self.domain.at()).mr).reg;
            let (at, result) = (memory.at.cast_const().cast(), &raw mut region);
            reg(self.domain.fid(), at, memory.bytes, access, 0, key, 0, result, ptr::null_mut())
        };
        self.library.check("registering memory", result)?;
        let region = Handle::<FidMr>::new("registering memory", region)?;
        if self.limits.mr_mode & FI_MR_ENDPOINT != 0 {
            // SAFETY: both are open, of the same domain.
            let (bound, enabled) = unsafe {
                let ops = &*(*region.fid()).ops;
                let bound = (ops.bind)(region.fid(), self.ep.fid(), 0);
                (bound, if bound == 0 { (ops.control)(region.fid(), FI_ENABLE, ptr::null_mut()) } else { 0 })
            };
            self.library.check("binding memory to an endpoint", bound)?;
            self.library.check("enabling memory", enabled)?;
        }
        Ok(region)
    }

    fn buffer_descriptor(&self) -> *mut c_void {
        // SAFETY: an open region.
        self.buffers_region.as_ref().map_or(ptr::null_mut(), |region| unsafe { (*region.at()).mem_desc })
    }

    /// What the provider wants to have beside the address of a source.
    fn descriptor(&mut self, from: *const u8, bytes: usize, peer: Rank) -> Result<*mut c_void, Fault> {
        if !self.limits.local {
            return Ok(ptr::null_mut());
        }
        let (at, whole) = (from as usize, self.scratch.raw());
        let within = |start: usize, length: usize| at >= start && at - start + bytes <= length;
        let region = if within(whole.at as usize, whole.bytes) {
            &self.scratch_region
        } else {
            // What another peer's puts come from may be forgotten before this one has left.
            let known = |source: &Source| (source.lasts || source.peer == peer) && within(source.at, source.bytes);
            let known = self.sources.iter().position(known);
            let known = match known {
                Some(known) => known,
                None => {
                    let lasting = self.expected.iter().find(|memory| within(memory.at as usize, memory.bytes)).copied();
                    let memory = lasting.unwrap_or(Raw { at: from.cast_mut(), bytes });
                    let region = self.register(memory, FI_WRITE)?;
                    let (at, bytes, lasts) = (memory.at as usize, memory.bytes, lasting.is_some());
                    self.sources.push(Source { at, bytes, lasts, peer, region });
                    self.sources.len() - 1
                }
            };
            &self.sources[known].region
        };
        // SAFETY: an open region.
        Ok(unsafe { (*region.at()).mem_desc })
    }

    /// An operation begins: most of its puts come from there.
    ///
    /// # Safety
    /// That memory can be read until [`Endpoint::forget`] of all.
    pub(super) unsafe fn expect(&mut self, memory: [Raw; 2]) {
        self.expected = memory;
    }

    /// No put to that peer (`None`: to anybody) is under way: what they came from may go.
    pub(super) fn forget(&mut self, peer: Option<Rank>) {
        if peer.is_none() {
            self.expected = [Raw::EMPTY; 2];
        }
        if !self.sources.is_empty() {
            self.sources.retain(|source| peer.is_some_and(|peer| source.lasts || source.peer != peer));
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Nobody can write here any more when these are closed; the rest follows in the order of the fields.
        let scratch = self.scratch_region.close();
        let endpoint = self.ep.close();
        if !(scratch && endpoint) {
            self.scratch.leak();
            self.buffers.leak();
            self.contexts.leak();
        }
    }
}
