//! libfabric's C interface, as far as it is used: structures, tables of operations and constants.
//!
//! libfabric is a few exported functions; the rest are calls through tables that its objects point to. Fields and
//! operations that are not used stand here as words, so that those behind them are where they belong. Structures only
//! ever grow at their ends: those that the library makes may be longer than here, and those that we make for it have
//! room to spare. `layout.rs` compares all of this with an installed header.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

/// A pointer or operation that is not used.
pub(super) type Unused = usize;
/// What addresses are turned into.
pub(super) type FiAddr = u64;

pub(super) const fn version(major: u32, minor: u32) -> u32 {
    major << 16 | minor
}

pub(super) const FI_MSG: u64 = 1 << 1;
pub(super) const FI_RMA: u64 = 1 << 2;
pub(super) const FI_WRITE: u64 = 1 << 9;
pub(super) const FI_RECV: u64 = 1 << 10;
pub(super) const FI_SEND: u64 = 1 << 11;
pub(super) const FI_TRANSMIT: u64 = FI_SEND;
pub(super) const FI_REMOTE_WRITE: u64 = 1 << 13;
pub(super) const FI_REMOTE_CQ_DATA: u64 = 1 << 17;
pub(super) const FI_COMPLETION: u64 = 1 << 24;
pub(super) const FI_DELIVERY_COMPLETE: u64 = 1 << 28;
pub(super) const FI_CONTEXT: u64 = 1 << 59;
pub(super) const FI_CONTEXT2: u64 = 1 << 52;

pub(super) const FI_MR_LOCAL: c_int = 1 << 2;
pub(super) const FI_MR_VIRT_ADDR: c_int = 1 << 4;
pub(super) const FI_MR_ALLOCATED: c_int = 1 << 5;
pub(super) const FI_MR_PROV_KEY: c_int = 1 << 6;
pub(super) const FI_MR_ENDPOINT: c_int = 1 << 9;

pub(super) const FI_EP_RDM: c_int = 3;
pub(super) const FI_THREAD_DOMAIN: c_int = 3;
pub(super) const FI_RM_ENABLED: c_int = 2;
pub(super) const FI_AV_TABLE: c_int = 2;
pub(super) const FI_CQ_FORMAT_DATA: c_int = 3;
pub(super) const FI_WAIT_NONE: c_int = 0;
/// The command of `control` that brings an endpoint or a memory region to life.
pub(super) const FI_ENABLE: c_int = 6;
pub(super) const FI_ADDR_UNSPEC: FiAddr = u64::MAX;

pub(super) const FI_EAGAIN: isize = 11;
pub(super) const FI_EINVAL: isize = 22;
pub(super) const FI_ENOSYS: isize = 38;
pub(super) const FI_EMSGSIZE: isize = 90;
pub(super) const FI_EOPNOTSUPP: isize = 95;
pub(super) const FI_ECANCELED: isize = 125;
pub(super) const FI_EAVAIL: isize = 259;

/// What every object begins with.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Fid {
    pub(super) fclass: usize,
    pub(super) context: *mut c_void,
    pub(super) ops: *const FiOps,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOps {
    pub(super) size: usize,
    pub(super) close: unsafe extern "C" fn(*mut Fid) -> c_int,
    pub(super) bind: unsafe extern "C" fn(*mut Fid, *mut Fid, u64) -> c_int,
    pub(super) control: unsafe extern "C" fn(*mut Fid, c_int, *mut c_void) -> c_int,
}

/// An object of the library: it begins with a [`Fid`].
///
/// # Safety
/// Only for structures whose first field is a [`Fid`].
pub(super) unsafe trait Object {}

macro_rules! objects {
    ($($name:ident)*) => { $(
        // SAFETY: its first field is a `Fid`, as is seen below.
        unsafe impl Object for $name {}
    )* };
}
objects!(FidFabric FidDomain FidAv FidCq FidEp FidMr);

#[derive(Debug)]
#[repr(C)]
pub(super) struct FidFabric {
    pub(super) fid: Fid,
    pub(super) ops: *const FiOpsFabric,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsFabric {
    pub(super) size: usize,
    pub(super) domain:
        unsafe extern "C" fn(*mut FidFabric, *mut FiInfo, *mut Option<NonNull<FidDomain>>, *mut c_void) -> c_int,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FidDomain {
    pub(super) fid: Fid,
    pub(super) ops: *const FiOpsDomain,
    pub(super) mr: *const FiOpsMr,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsDomain {
    pub(super) size: usize,
    pub(super) av_open:
        unsafe extern "C" fn(*mut FidDomain, *mut FiAvAttr, *mut Option<NonNull<FidAv>>, *mut c_void) -> c_int,
    pub(super) cq_open:
        unsafe extern "C" fn(*mut FidDomain, *mut FiCqAttr, *mut Option<NonNull<FidCq>>, *mut c_void) -> c_int,
    pub(super) endpoint:
        unsafe extern "C" fn(*mut FidDomain, *mut FiInfo, *mut Option<NonNull<FidEp>>, *mut c_void) -> c_int,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsMr {
    pub(super) size: usize,
    /// Of the domain: memory, its length, who may what, offset, the key asked for, flags; the region; context.
    pub(super) reg: unsafe extern "C" fn(
        *mut Fid,
        *const c_void,
        usize,
        u64,
        u64,
        u64,
        u64,
        *mut Option<NonNull<FidMr>>,
        *mut c_void,
    ) -> c_int,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FidMr {
    pub(super) fid: Fid,
    pub(super) mem_desc: *mut c_void,
    pub(super) key: u64,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FidAv {
    pub(super) fid: Fid,
    pub(super) ops: *const FiOpsAv,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsAv {
    pub(super) size: usize,
    pub(super) insert: unsafe extern "C" fn(*mut FidAv, *const c_void, usize, *mut FiAddr, u64, *mut c_void) -> c_int,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FidCq {
    pub(super) fid: Fid,
    pub(super) ops: *const FiOpsCq,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsCq {
    pub(super) size: usize,
    pub(super) read: unsafe extern "C" fn(*mut FidCq, *mut c_void, usize) -> isize,
    pub(super) readfrom: Unused,
    pub(super) readerr: unsafe extern "C" fn(*mut FidCq, *mut FiCqErrEntry, u64) -> isize,
    pub(super) sread: Unused,
    pub(super) sreadfrom: Unused,
    pub(super) signal: Unused,
    pub(super) strerror: unsafe extern "C" fn(*mut FidCq, c_int, *const c_void, *mut c_char, usize) -> *const c_char,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FidEp {
    pub(super) fid: Fid,
    pub(super) ops: Unused,
    pub(super) cm: *const FiOpsCm,
    pub(super) msg: *const FiOpsMsg,
    pub(super) rma: *const FiOpsRma,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsCm {
    pub(super) size: usize,
    pub(super) setname: Unused,
    pub(super) getname: unsafe extern "C" fn(*mut Fid, *mut c_void, *mut usize) -> c_int,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsMsg {
    pub(super) size: usize,
    pub(super) recv: unsafe extern "C" fn(*mut FidEp, *mut c_void, usize, *mut c_void, FiAddr, *mut c_void) -> isize,
    pub(super) recvv: Unused,
    pub(super) recvmsg: Unused,
    pub(super) send: unsafe extern "C" fn(*mut FidEp, *const c_void, usize, *mut c_void, FiAddr, *mut c_void) -> isize,
    pub(super) sendv: Unused,
    pub(super) sendmsg: Unused,
    pub(super) inject: unsafe extern "C" fn(*mut FidEp, *const c_void, usize, FiAddr) -> isize,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiOpsRma {
    pub(super) size: usize,
    pub(super) read: Unused,
    pub(super) readv: Unused,
    pub(super) readmsg: Unused,
    pub(super) write: Unused,
    pub(super) writev: Unused,
    pub(super) writemsg: unsafe extern "C" fn(*mut FidEp, *const FiMsgRma, u64) -> isize,
    pub(super) inject: Unused,
    /// Memory, its length and descriptor; data; to whom, where, with which key; context.
    pub(super) writedata: unsafe extern "C" fn(
        *mut FidEp,
        *const c_void,
        usize,
        *mut c_void,
        u64,
        FiAddr,
        u64,
        u64,
        *mut c_void,
    ) -> isize,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiInfo {
    pub(super) next: *mut FiInfo,
    pub(super) caps: u64,
    pub(super) mode: u64,
    pub(super) addr_format: u32,
    pub(super) src_addrlen: usize,
    pub(super) dest_addrlen: usize,
    pub(super) src_addr: *mut c_void,
    pub(super) dest_addr: *mut c_void,
    pub(super) handle: *mut Fid,
    pub(super) tx_attr: *mut FiTxAttr,
    pub(super) rx_attr: *mut FiRxAttr,
    pub(super) ep_attr: *mut FiEpAttr,
    pub(super) domain_attr: *mut FiDomainAttr,
    pub(super) fabric_attr: *mut FiFabricAttr,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiTxAttr {
    pub(super) caps: u64,
    pub(super) mode: u64,
    pub(super) op_flags: u64,
    pub(super) msg_order: u64,
    pub(super) comp_order: u64,
    pub(super) inject_size: usize,
    pub(super) size: usize,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiRxAttr {
    pub(super) caps: u64,
    pub(super) mode: u64,
    pub(super) op_flags: u64,
    pub(super) msg_order: u64,
    pub(super) comp_order: u64,
    pub(super) total_buffered_recv: usize,
    pub(super) size: usize,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiEpAttr {
    pub(super) kind: c_int,
    pub(super) protocol: u32,
    pub(super) protocol_version: u32,
    pub(super) max_msg_size: usize,
    pub(super) msg_prefix_size: usize,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiDomainAttr {
    pub(super) domain: *mut FidDomain,
    pub(super) name: *mut c_char,
    pub(super) threading: c_int,
    pub(super) control_progress: c_int,
    pub(super) data_progress: c_int,
    pub(super) resource_mgmt: c_int,
    pub(super) av_type: c_int,
    pub(super) mr_mode: c_int,
    pub(super) mr_key_size: usize,
    pub(super) cq_data_size: usize,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiFabricAttr {
    pub(super) fabric: *mut FidFabric,
    pub(super) name: *mut c_char,
    pub(super) prov_name: *mut c_char,
    pub(super) prov_version: u32,
    pub(super) api_version: u32,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiAvAttr {
    pub(super) kind: c_int,
    pub(super) rx_ctx_bits: c_int,
    pub(super) count: usize,
    pub(super) ep_per_node: usize,
    pub(super) name: *const c_char,
    pub(super) map_addr: *mut c_void,
    pub(super) flags: u64,
    pub(super) newer: [u64; 8],
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiCqAttr {
    pub(super) size: usize,
    pub(super) flags: u64,
    pub(super) format: c_int,
    pub(super) wait_obj: c_int,
    pub(super) signaling_vector: c_int,
    pub(super) wait_cond: c_int,
    pub(super) wait_set: *mut c_void,
    pub(super) newer: [u64; 8],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct FiCqDataEntry {
    pub(super) op_context: *mut c_void,
    pub(super) flags: u64,
    pub(super) len: usize,
    pub(super) buf: *mut c_void,
    pub(super) data: u64,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiCqErrEntry {
    pub(super) op_context: *mut c_void,
    pub(super) flags: u64,
    pub(super) len: usize,
    pub(super) buf: *mut c_void,
    pub(super) data: u64,
    pub(super) tag: u64,
    pub(super) olen: usize,
    pub(super) err: c_int,
    pub(super) prov_errno: c_int,
    pub(super) err_data: *mut c_void,
    pub(super) err_data_size: usize,
    pub(super) newer: [u64; 8],
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiRmaIov {
    pub(super) addr: u64,
    pub(super) len: usize,
    pub(super) key: u64,
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct FiMsgRma {
    pub(super) msg_iov: *const libc::iovec,
    pub(super) desc: *mut *mut c_void,
    pub(super) iov_count: usize,
    pub(super) addr: FiAddr,
    pub(super) rma_iov: *const FiRmaIov,
    pub(super) rma_iov_count: usize,
    pub(super) context: *mut c_void,
    pub(super) data: u64,
}

/// Room that an operation's owner lends to the library until it has completed.
#[derive(Debug)]
#[repr(C)]
pub(super) struct FiContext2 {
    pub(super) internal: [*mut c_void; 8],
}
