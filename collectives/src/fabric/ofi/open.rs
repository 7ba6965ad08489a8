//! From the name of a provider to an enabled endpoint, and what that provider can do.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use super::library::{Info, Infos, Library, is_preferred, preference};
use super::object::Handle;
use super::sys::*;
use super::wire::WINDOW;
use crate::fault::Fault;

/// How an endpoint is used. What a provider needs is found out; tests ask for the ways that ours do not need.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ways {
    /// Register what is written from.
    pub(super) local: bool,
    /// At most so many bytes of completion data.
    pub(super) data_bytes: Option<usize>,
}

/// What a provider can do, and wants.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) provider: String,
    /// Puts and longer messages that may be under way.
    pub(super) flights: usize,
    /// Messages that may wait to be read.
    pub(super) slots: usize,
    /// Messages up to so many bytes need no completion.
    pub(super) inject_bytes: usize,
    /// Puts are at most so long.
    pub(super) put_bytes: usize,
    /// Bytes of completion data that come with a put; 0 where puts come without any.
    pub(super) data_bytes: usize,
    /// `FI_MR_...`: what is wanted of registered memory.
    pub(super) mr_mode: c_int,
    /// What is written from has to be registered by us.
    pub(super) local: bool,
}

/// An enabled endpoint and what it is made of.
pub(super) struct Opened {
    pub(super) library: &'static Library,
    pub(super) ep: Handle<FidEp>,
    pub(super) cq: Handle<FidCq>,
    pub(super) av: Handle<FidAv>,
    pub(super) domain: Handle<FidDomain>,
    pub(super) fabric: Handle<FidFabric>,
    pub(super) infos: Infos,
    pub(super) limits: Limits,
}

const MAX_FLIGHTS: usize = 256;
const MAX_SLOTS: usize = 512;
const MAX_PUT: usize = 1 << 30;

/// Opens an endpoint of that provider, or of the best one there is.
///
/// # Errors
/// [`Fault::System`].
pub(super) fn open(provider: Option<&str>, ranks: usize, ways: Ways) -> Result<Opened, Fault> {
    let library = Library::get()?;
    // Most providers register by themselves what is written from, with a cache: better than we could.
    let infos = match library.find(provider, ways.local) {
        Err(_) if !ways.local => library.find(provider, true)?,
        found => found?,
    };
    let choice = infos.iter().filter(|info| provider.is_some() || is_preferred(&info.name()));
    let chosen = choice.min_by_key(|info| preference(&info.name())).ok_or_else(|| Fault::System {
        what: "choosing a provider of libfabric",
        why: "none of those that leave this host is here: ask for one by its name".into(),
    })?;
    let (info, limits) = (chosen.info, limits(&chosen, ranks, ways));
    let mut fabric = None;
    // SAFETY: the attributes are of the list, which outlives the fabric; the result goes to a local variable.
    let result = unsafe { (library.fabric)(info.as_ref().fabric_attr, &raw mut fabric, ptr::null_mut()) };
    library.check("opening a fabric", result)?;
    let fabric = Handle::new("opening a fabric", fabric)?;
    let domain = open_domain(library, &fabric, info)?;
    let av = open_av(library, &domain, ranks)?;
    let cq = open_cq(library, &domain, limits.flights + limits.slots + ranks * WINDOW as usize)?;
    let ep = open_ep(library, &domain, info, &av, &cq)?;
    Ok(Opened { library, ep, cq, av, domain, fabric, infos, limits })
}

fn limits(chosen: &Info<'_>, ranks: usize, ways: Ways) -> Limits {
    let (provider, mr_mode) = (chosen.name(), chosen.domain().mr_mode);
    // Slingshot's provider says that it has completion data, and has it for messages but, unless it is new and told so,
    // not for writes.
    let data_bytes = if provider.starts_with("cxi") { 0 } else { chosen.domain().cq_data_size };
    Limits {
        provider,
        flights: chosen.tx().size.clamp(1, MAX_FLIGHTS),
        slots: chosen.rx().size.min(64 + 16 * ranks).clamp(1, MAX_SLOTS),
        inject_bytes: chosen.tx().inject_size,
        put_bytes: chosen.ep().max_msg_size.clamp(1, MAX_PUT),
        data_bytes: ways.data_bytes.map_or(data_bytes, |most| most.min(data_bytes)),
        mr_mode,
        local: ways.local || mr_mode & FI_MR_LOCAL != 0,
    }
}

fn open_domain(
    library: &Library,
    fabric: &Handle<FidFabric>,
    info: NonNull<FiInfo>,
) -> Result<Handle<FidDomain>, Fault> {
    let mut domain = None;
    // SAFETY: an open fabric and what it was opened for; the result goes to a local variable.
    let result = unsafe {
        let open = (*(*fabric.at()).ops).domain;
        open(fabric.at(), info.as_ptr(), &raw mut domain, ptr::null_mut())
    };
    library.check("opening a domain", result)?;
    Handle::new("opening a domain", domain)
}

fn open_av(library: &Library, domain: &Handle<FidDomain>, ranks: usize) -> Result<Handle<FidAv>, Fault> {
    let mut attr = FiAvAttr {
        kind: FI_AV_TABLE,
        rx_ctx_bits: 0,
        count: ranks,
        ep_per_node: 0,
        name: ptr::null(),
        map_addr: ptr::null_mut(),
        flags: 0,
        newer: [0; 8],
    };
    let mut av = None;
    // SAFETY: an open domain; attributes and result are local variables.
    let result = unsafe {
        let open = (*(*domain.at()).ops).av_open;
        open(domain.at(), &raw mut attr, &raw mut av, ptr::null_mut())
    };
    library.check("opening an address vector", result)?;
    Handle::new("opening an address vector", av)
}

fn open_cq(library: &Library, domain: &Handle<FidDomain>, size: usize) -> Result<Handle<FidCq>, Fault> {
    let mut attr = FiCqAttr {
        size,
        flags: 0,
        format: FI_CQ_FORMAT_DATA,
        wait_obj: FI_WAIT_NONE,
        signaling_vector: 0,
        wait_cond: 0,
        wait_set: ptr::null_mut(),
        newer: [0; 8],
    };
    let mut cq = None;
    // SAFETY: as above.
    let result = unsafe {
        let open = (*(*domain.at()).ops).cq_open;
        open(domain.at(), &raw mut attr, &raw mut cq, ptr::null_mut())
    };
    library.check("opening a completion queue", result)?;
    Handle::new("opening a completion queue", cq)
}

fn open_ep(
    library: &Library,
    domain: &Handle<FidDomain>,
    info: NonNull<FiInfo>,
    av: &Handle<FidAv>,
    cq: &Handle<FidCq>,
) -> Result<Handle<FidEp>, Fault> {
    let mut ep = None;
    // SAFETY: an open domain and what it was opened for; the result goes to a local variable.
    let result = unsafe {
        let open = (*(*domain.at()).ops).endpoint;
        open(domain.at(), info.as_ptr(), &raw mut ep, ptr::null_mut())
    };
    library.check("opening an endpoint", result)?;
    let ep = Handle::<FidEp>::new("opening an endpoint", ep)?;
    // SAFETY: all are open, of one domain.
    let results = unsafe {
        let ops = &*(*ep.fid()).ops;
        [
            (ops.bind)(ep.fid(), av.fid(), 0),
            (ops.bind)(ep.fid(), cq.fid(), FI_TRANSMIT | FI_RECV),
            (ops.control)(ep.fid(), FI_ENABLE, ptr::null_mut()),
        ]
    };
    for (what, result) in
        ["binding addresses", "binding a completion queue", "enabling an endpoint"].iter().zip(results)
    {
        library.check(what, result)?;
    }
    Ok(ep)
}
