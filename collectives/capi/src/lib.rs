//! The collectives as a C library: `include/swarmloom_collectives.h` says what each function does.
//!
//! Nothing unwinds into C: a panic becomes a failure with its message.

use std::ffi::{CStr, c_char, c_void};
use std::net::ToSocketAddrs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use swarmloom_collectives::bootstrap::Rendezvous;
use swarmloom_collectives::fabric::Raw;
use swarmloom_collectives::fabric::region::Region;
use swarmloom_collectives::fault::Fault;
use swarmloom_collectives::plan::Collective;
use swarmloom_collectives::{CollectiveError, Group, GroupConfig, Transport};
use swarmloom_kernels::Dtype;
use swarmloom_kernels::reduce::ReduceOp;

const OK: i32 = 0;
const USAGE: i32 = 1;
const LOST: i32 = 2;
const TIMEOUT: i32 = 3;
const ABORTED: i32 = 4;
const MISMATCH: i32 = 5;
const SETUP: i32 = 6;
const FAILED: i32 = 7;

/// What C has a pointer to.
#[derive(Debug)]
pub struct SwlGroup {
    group: Option<Group>,
    error: String,
    missing: i64,
}

/// Memory that C has a pointer to.
#[derive(Debug)]
pub struct SwlRegion(Region);

impl SwlGroup {
    fn note(&mut self, done: Result<(), CollectiveError>) -> i32 {
        let Err(error) = done else { return OK };
        self.error = error.to_string();
        self.missing = error.missing().and_then(|rank| i64::try_from(rank).ok()).unwrap_or(-1);
        match error {
            CollectiveError::Usage { .. } | CollectiveError::Build(_) => USAGE,
            CollectiveError::Failed { fault: Fault::Lost { .. }, .. } => LOST,
            CollectiveError::Failed { fault: Fault::Timeout { .. }, .. } => TIMEOUT,
            CollectiveError::Failed { fault: Fault::Aborted { .. }, .. } => ABORTED,
            CollectiveError::Failed { fault: Fault::Mismatch { .. }, .. } => MISMATCH,
            CollectiveError::Bootstrap(_) | CollectiveError::Setup { .. } => SETUP,
            _ => FAILED,
        }
    }

    fn usage(&mut self, why: &str) -> i32 {
        self.error = why.to_owned();
        self.missing = -1;
        USAGE
    }
}

/// Calls `body` with the group behind the pointer.
///
/// # Safety
/// `group` is null or came from [`swl_group_join`] and is used by this thread alone.
unsafe fn with(group: *mut SwlGroup, body: impl FnOnce(&mut SwlGroup) -> i32) -> i32 {
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { group.as_mut() }) else { return USAGE };
    match catch_unwind(AssertUnwindSafe(|| body(group))) {
        Ok(status) => status,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            group.error = format!("a mistake in this library: {}", text.unwrap_or("no message"));
            group.missing = -1;
            FAILED
        }
    }
}

fn dtype(number: i32) -> Option<Dtype> {
    usize::try_from(number).ok().and_then(|number| Dtype::ALL.get(number).copied())
}

fn op(number: i32) -> Option<ReduceOp> {
    usize::try_from(number).ok().and_then(|number| ReduceOp::ALL.get(number).copied())
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

/// # Safety
/// As the header says.
unsafe fn run(
    group: *mut SwlGroup,
    (input, output): (*const c_void, *mut c_void),
    (number, operation): (i32, i32),
    registered: bool,
    collective: impl FnOnce(usize) -> Option<Collective>,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(group, |state| {
            let (Some(dtype), Some(op)) = (dtype(number), op(operation)) else {
                return state.usage("there is no such dtype or operation");
            };
            let Some(group) = &mut state.group else { return state.usage("there is no group: joining it failed") };
            let Some(collective) = collective(group.ranks()) else { return state.usage("a null pointer") };
            if let Err(wrong) = group.check(&collective) {
                return state.note(Err(wrong));
            }
            let rank = group.rank();
            let bytes = |elements: usize| elements.checked_mul(dtype.size());
            let lengths = (bytes(collective.input_len(rank)), bytes(collective.output_len(rank)));
            let (Some(input_bytes), Some(output_bytes)) = lengths else {
                return state.usage("more bytes than there can be");
            };
            if (input_bytes > 0 && input.is_null()) || (output_bytes > 0 && output.is_null()) {
                return state.usage("a null pointer");
            }
            let from = Raw { at: input.cast_mut().cast(), bytes: input_bytes };
            let to = Raw { at: output.cast(), bytes: output_bytes };
            if from.at == to.at && input_bytes > 0 {
                if registered || !matches!(collective, Collective::AllReduce { .. }) {
                    return state
                        .usage("input and output are the same memory: only all_reduce of any memory takes that");
                }
                let done = group.all_reduce_in_place_raw(dtype, op, to);
                return state.note(done);
            }
            let done = group.run_raw(&collective, dtype, op, from, to, registered);
            state.note(done)
        })
    }
}

/// # Safety
/// `text` is null or ends with a zero.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// # Safety
/// `numbers` is null or has `count`.
unsafe fn numbers(numbers: *const usize, count: usize) -> Option<Vec<usize>> {
    // SAFETY: the caller's promise.
    (!numbers.is_null()).then(|| unsafe { std::slice::from_raw_parts(numbers, count) }.to_vec())
}

/// See the header.
///
/// # Safety
/// Pointers are valid for what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_group_join(
    address: *const c_char,
    token: *const u8,
    token_bytes: usize,
    rank: u32,
    ranks: u32,
    timeout_s: f64,
    transport: i32,
    group: *mut *mut SwlGroup,
) -> i32 {
    if group.is_null() {
        return USAGE;
    }
    let state = Box::into_raw(Box::new(SwlGroup { group: None, error: String::new(), missing: -1 }));
    // SAFETY: `group` is writable, says the caller; `state` was just made; `address` and `token` are as the header says.
    unsafe {
        group.write(state);
        with(state, |state| {
            let parsed = text(address).and_then(|address| address.to_socket_addrs().ok()?.next());
            let transport = match transport {
                0 => Some(Transport::Auto),
                1 => Some(Transport::Shm),
                2 => Some(Transport::Tcp),
                3 => Some(Transport::Ofi),
                _ => None,
            };
            let (Some(address), Some(timeout), Some(transport)) = (parsed, seconds(timeout_s), transport) else {
                return state.usage(
                    "an address is HOST:PORT and its host is known here, a timeout is positive, a transport is 0 to 3",
                );
            };
            if token.is_null() && token_bytes > 0 {
                return state.usage("a null pointer");
            }
            let token = if token_bytes == 0 { &[] } else { std::slice::from_raw_parts(token, token_bytes) };
            let (rank, ranks) = (rank as usize, ranks as usize);
            let at = Rendezvous { address, token: token.to_vec(), rank, ranks, timeout };
            let joined = Group::join(at, GroupConfig { transport, timeout, ..GroupConfig::default() });
            let done = joined.map(|group| state.group = Some(group));
            state.note(done)
        })
    }
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_group_free(group: *mut SwlGroup) {
    if !group.is_null() {
        // SAFETY: the caller's promise.
        let group = unsafe { Box::from_raw(group) };
        // Its message was printed; there is nobody to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(group)));
    }
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_rank(group: *const SwlGroup) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { group.as_ref() }.and_then(|state| state.group.as_ref()).map_or(0, |group| group.rank() as u32)
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_ranks(group: *const SwlGroup) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { group.as_ref() }.and_then(|state| state.group.as_ref()).map_or(0, |group| group.ranks() as u32)
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`]; `members` has room for as many as [`swl_ranks`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_members(group: *const SwlGroup, members: *mut u32) {
    // SAFETY: the caller's promise.
    let Some(group) = unsafe { group.as_ref() }.and_then(|state| state.group.as_ref()) else { return };
    for (at, member) in group.members().iter().enumerate() {
        // SAFETY: as many as ranks, says the caller.
        unsafe { members.add(at).write(*member as u32) };
    }
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_epoch(group: *const SwlGroup) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { group.as_ref() }.and_then(|state| state.group.as_ref()).map_or(0, Group::epoch)
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`]; `to` has `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_error(group: *const SwlGroup, to: *mut c_char, bytes: usize) -> usize {
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { group.as_ref() }) else { return 0 };
    if !to.is_null() && bytes > 0 {
        let length = state.error.len().min(bytes - 1);
        // SAFETY: `bytes` are writable, says the caller, and the text has `length`.
        unsafe {
            std::ptr::copy_nonoverlapping(state.error.as_ptr(), to.cast(), length);
            to.add(length).write(0);
        }
    }
    state.error.len()
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_missing(group: *const SwlGroup) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { group.as_ref() }.map_or(-1, |state| state.missing)
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_set_timeout(group: *mut SwlGroup, timeout_s: f64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(group, |state| match (seconds(timeout_s), &mut state.group) {
            (Some(timeout), Some(group)) => {
                group.set_timeout(timeout);
                OK
            }
            _ => state.usage("a timeout is positive, and there has to be a group"),
        })
    }
}

macro_rules! collectives {
    ($($name:ident ( $($argument:ident : $kind:ty),* ) $dtype:ident, $op:expr, $registered:literal, $ranks:ident => $collective:expr;)*) => {$(
        /// See the header.
        ///
        /// # Safety
        /// Pointers are valid for what the header says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            group: *mut SwlGroup, input: *const c_void, output: *mut c_void, $($argument: $kind),*
        ) -> i32 {
            // SAFETY: the caller's promise.
            unsafe { run(group, (input, output), ($dtype, $op), $registered, |$ranks| $collective) }
        }
    )*};
}

collectives! {
    swl_all_reduce(count: usize, dtype: i32, op: i32) dtype, op, false, _ranks => Some(Collective::AllReduce { count });
    swl_all_reduce_registered(count: usize, dtype: i32, op: i32) dtype, op, true, _ranks
        => Some(Collective::AllReduce { count });
    swl_reduce_scatter(parts: *const usize, dtype: i32, op: i32) dtype, op, false, ranks
        => numbers(parts, ranks).map(|parts| Collective::ReduceScatter { parts });
    swl_all_gather(parts: *const usize, dtype: i32) dtype, 0, false, ranks
        => numbers(parts, ranks).map(|parts| Collective::AllGather { parts });
    swl_broadcast(count: usize, root: u32, dtype: i32) dtype, 0, false, _ranks
        => Some(Collective::Broadcast { root: root as usize, count });
    swl_reduce(count: usize, root: u32, dtype: i32, op: i32) dtype, op, false, _ranks
        => Some(Collective::Reduce { root: root as usize, count });
    swl_all_to_all(counts: *const usize, dtype: i32) dtype, 0, false, ranks
        => numbers(counts, ranks * ranks)
            .map(|counts| Collective::AllToAll { counts: counts.chunks(ranks).map(<[usize]>::to_vec).collect() });
    swl_send(count: usize, from: u32, to: u32, dtype: i32) dtype, 0, false, _ranks
        => Some(Collective::Send { from: from as usize, to: to as usize, count });
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_barrier(group: *mut SwlGroup) -> i32 {
    // SAFETY: the caller's promise; a barrier touches no memory.
    unsafe { run(group, (std::ptr::null(), std::ptr::null_mut()), (0, 0), false, |_| Some(Collective::Barrier)) }
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_region_new(group: *mut SwlGroup, bytes: usize) -> *mut SwlRegion {
    let mut made = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    let _status = unsafe {
        with(group, |state| {
            let Some(group) = &mut state.group else { return state.usage("there is no group: joining it failed") };
            let done = group.region(bytes).map(|region| made = Box::into_raw(Box::new(SwlRegion(region))));
            state.note(done)
        })
    };
    made
}

/// See the header.
///
/// # Safety
/// `region` is null or came from [`swl_region_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_region_data(region: *const SwlRegion) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { region.as_ref() }.map_or(std::ptr::null_mut(), |region| region.0.raw().at.cast())
}

/// See the header.
///
/// # Safety
/// `region` is null or came from [`swl_region_new`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_region_free(region: *mut SwlRegion) {
    if !region.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(region) });
    }
}

/// See the header.
///
/// # Safety
/// `group` came from [`swl_group_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swl_shrink(group: *mut SwlGroup, timeout_s: f64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with(group, |state| {
            let Some(timeout) = seconds(timeout_s) else { return state.usage("a timeout is positive") };
            let Some(group) = state.group.take() else { return state.usage("there is no group to shrink") };
            let done = group.shrink(timeout).map(|group| state.group = Some(group));
            state.note(done)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::net::TcpListener;

    use super::*;

    const F32: i32 = Dtype::F32 as i32;
    const SUM: i32 = ReduceOp::Sum as i32;

    /// Runs `body` on both ranks of a group.
    fn with_pair(body: impl Fn(*mut SwlGroup) + Sync) {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (address, body) = (&CString::new(address.to_string()).expect("text"), &body);
        std::thread::scope(|scope| {
            for rank in 0..2 {
                scope.spawn(move || {
                    let mut group = std::ptr::null_mut();
                    let token = b"token";
                    // SAFETY: pointers to what lives on.
                    unsafe {
                        let joined =
                            swl_group_join(address.as_ptr(), token.as_ptr(), 5, rank, 2, 20.0, 1, &raw mut group);
                        assert_eq!(joined, OK);
                        body(group);
                        swl_group_free(group);
                    }
                });
            }
        });
    }

    #[test]
    fn input_and_output_may_be_the_same_memory_in_an_all_reduce_alone() {
        with_pair(|group| {
            // One byte off: C promises no alignment.
            let mut bytes = [0_u8; 1 + 3 * 4];
            let data: *mut c_void = bytes[1..].as_mut_ptr().cast();
            let mut error = [0; 200];
            // SAFETY: three elements at `data`, and a group that joined.
            unsafe {
                for (index, value) in [1.0_f32, 2.0, 3.0].into_iter().enumerate() {
                    data.cast::<f32>().add(index).write_unaligned(value + 10.0 * swl_rank(group) as f32);
                }
                assert_eq!(swl_all_reduce(group, data, data, 3, F32, SUM), OK);
                let at = |index: usize| data.cast::<f32>().add(index).read_unaligned();
                assert_eq!([at(0), at(1), at(2)], [12.0, 14.0, 16.0]);

                assert_eq!(swl_broadcast(group, data, data, 3, swl_rank(group), F32), USAGE);
                assert_eq!(swl_all_reduce_registered(group, data, data, 3, F32, SUM), USAGE);
                assert!(swl_error(group, error.as_mut_ptr(), error.len()) > 0);
                let error = CStr::from_ptr(error.as_ptr()).to_string_lossy();
                assert!(error.contains("the same memory"), "{error}");
                assert_eq!([at(0), at(1), at(2)], [12.0, 14.0, 16.0]);
            }
        });
    }
}
