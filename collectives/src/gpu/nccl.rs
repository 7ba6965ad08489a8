//! NCCL itself: opened when it is first needed, and one communicator of it, which never waits without a deadline.
//!
//! The functions are looked up here and not through the bindings that the kernels use, because those do not look for
//! `libnccl.so.2`, the name under which it is installed without its headers, and panic where a function is missing.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use swarmloom_gpu::Gpu;
use swarmloom_kernels::Dtype;
use swarmloom_kernels::reduce::ReduceOp;

use crate::fault::Fault;
use crate::patience::Abort;
use crate::plan::{Collective, Rank};

const NAME: &str = "libnccl.so.2";
/// The first version whose calls need not block, with all that is used here: 2.18.
const OLDEST: c_int = 21_800;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; Self::BYTES]);

impl UniqueId {
    pub(super) const BYTES: usize = 128;
}

/// `ncclConfig_t` as of [`OLDEST`]: newer libraries read as much of it as `size` says.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    cluster: c_int,
    fewest_blocks: c_int,
    most_blocks: c_int,
    net: *const c_char,
    share_on_split: c_int,
}

/// `NCCL_CONFIG_UNDEF_INT`.
const UNSET: c_int = c_int::MIN;
const MAGIC: u32 = 0xcafe_beef;

type Status = c_int;
const SUCCESS: Status = 0;
const IN_PROGRESS: Status = 7;

type Handle = *mut c_void;
type Stream = *mut c_void;
type Reduces = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> Status;
type ToRoot = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Handle, Stream) -> Status;
type FromRoot = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> Status;
type Gathers = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, Stream) -> Status;
type Sends = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Handle, Stream) -> Status;
type Receives = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Handle, Stream) -> Status;

/// The exported functions. The library stays loaded: it has threads of its own.
#[derive(Debug)]
pub(super) struct Library {
    version: c_int,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    init: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> Status,
    finalize: unsafe extern "C" fn(Handle) -> Status,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    abort: unsafe extern "C" fn(Handle) -> Status,
    state: unsafe extern "C" fn(Handle, *mut Status) -> Status,
    error_text: unsafe extern "C" fn(Status) -> *const c_char,
    last_error: unsafe extern "C" fn(Handle) -> *const c_char,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    all_reduce: Reduces,
    reduce_scatter: Reduces,
    reduce: ToRoot,
    broadcast: FromRoot,
    all_gather: Gathers,
    send: Sends,
    recv: Receives,
    _library: libloading::Library,
}

impl Library {
    /// The library, loaded at the first call.
    ///
    /// # Errors
    /// [`Fault::System`] where it is missing, is none, or is too old.
    pub(super) fn get() -> Result<&'static Self, Fault> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        let loaded = LIBRARY.get_or_init(|| {
            let library = Self::load().map_err(|error| error.to_string())?;
            if library.version < OLDEST {
                return Err(format!("it is version {}, and 2.18 or newer is needed", library.version()));
            }
            Ok(library)
        });
        loaded.as_ref().map_err(|why| Fault::System { what: "opening NCCL", why: why.clone() })
    }

    fn load() -> Result<Self, libloading::Error> {
        // SAFETY: NCCL only sets itself up when it is loaded, as for any program that is linked with it.
        let library = unsafe { libloading::Library::new(NAME) }?;
        // SAFETY: these are the types that its header gives these functions; they are called while `library` lives, for
        // it is kept beside them and never unloaded.
        unsafe {
            let version = *library.get::<unsafe extern "C" fn(*mut c_int) -> Status>(b"ncclGetVersion\0")?;
            let mut number = 0;
            // Where it fails, the number stays too small.
            version(&mut number);
            Ok(Self {
                version: number,
                unique_id: *library.get(b"ncclGetUniqueId\0")?,
                init: *library.get(b"ncclCommInitRankConfig\0")?,
                finalize: *library.get(b"ncclCommFinalize\0")?,
                destroy: *library.get(b"ncclCommDestroy\0")?,
                abort: *library.get(b"ncclCommAbort\0")?,
                state: *library.get(b"ncclCommGetAsyncError\0")?,
                error_text: *library.get(b"ncclGetErrorString\0")?,
                last_error: *library.get(b"ncclGetLastError\0")?,
                group_start: *library.get(b"ncclGroupStart\0")?,
                group_end: *library.get(b"ncclGroupEnd\0")?,
                all_reduce: *library.get(b"ncclAllReduce\0")?,
                reduce_scatter: *library.get(b"ncclReduceScatter\0")?,
                reduce: *library.get(b"ncclReduce\0")?,
                broadcast: *library.get(b"ncclBroadcast\0")?,
                all_gather: *library.get(b"ncclAllGather\0")?,
                send: *library.get(b"ncclSend\0")?,
                recv: *library.get(b"ncclRecv\0")?,
                _library: library,
            })
        }
    }

    /// Its version, as its users write it.
    pub(super) fn version(&self) -> String {
        format!("{}.{}.{}", self.version / 10_000, self.version / 100 % 100, self.version % 100)
    }

    /// What one rank makes and all others need.
    pub(super) fn unique_id(&self) -> Result<UniqueId, Fault> {
        let mut id = UniqueId([0; UniqueId::BYTES]);
        // SAFETY: an identity to write to.
        self.check("making an identity of NCCL", unsafe { (self.unique_id)(&mut id) })?;
        Ok(id)
    }

    /// What goes on is no error.
    fn check(&self, what: &'static str, status: Status) -> Result<(), Fault> {
        if matches!(status, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: any number may be asked for, and no communicator; the texts are static or of this thread's last call.
        let (why, last) = unsafe { (text((self.error_text)(status)), text((self.last_error)(std::ptr::null_mut()))) };
        Err(Fault::System { what, why: if last.is_empty() { why } else { format!("{why}: {last}") } })
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

/// Who ends a wait: the clock, or the group.
pub(super) struct Limit<'a> {
    pub(super) abort: &'a Abort,
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    /// Ranks whose leaving ends the wait.
    peers: usize,
}

impl<'a> Limit<'a> {
    pub(super) fn new(abort: &'a Abort, timeout: Duration) -> Self {
        Self { abort, timeout, deadline: Instant::now() + timeout, peers: 0 }
    }

    /// For what needs all of so many ranks. One that has left well has done its part of what is under way; if that does
    /// not end soon, it was not all of it.
    pub(super) fn with_peers(self, peers: usize) -> Self {
        Self { peers, ..self }
    }

    /// Asks until the answer is yes.
    pub(super) fn wait(&self, mut done: impl FnMut() -> Result<bool, Fault>) -> Result<(), Fault> {
        let mut rounds = 0_u32;
        let mut left: Option<(Rank, Instant)> = None;
        loop {
            match done() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // A peer's death shows here too, and the control connections know whose it was.
                Err(fault) => return Err(self.reason(VERDICT).unwrap_or(fault)),
            }
            if let Some(reason) = self.abort.reason() {
                return Err(reason);
            }
            if Instant::now() >= self.deadline {
                return Err(Fault::Timeout { after: self.timeout });
            }
            left = left.or_else(|| Some(((0..self.peers).find(|rank| self.abort.has_left(*rank))?, Instant::now())));
            if let Some((rank, since)) = left
                && since.elapsed() >= GOODBYE
            {
                return Err(Fault::Lost { rank, how: "it has left the group".into() });
            }
            rounds += 1;
            if rounds < 1000 {
                std::thread::yield_now();
            } else {
                std::thread::park_timeout(Duration::from_micros(50));
            }
        }
    }

    /// Why the group was aborted, if it says so within this time.
    fn reason(&self, within: Duration) -> Option<Fault> {
        let end = Instant::now() + within;
        loop {
            match self.abort.reason() {
                None if Instant::now() < end => std::thread::park_timeout(Duration::from_millis(1)),
                reason => return reason,
            }
        }
    }
}

/// Control connections say what is wrong within this time, or say nothing.
const VERDICT: Duration = Duration::from_millis(200);
/// How long a communicator that has ended well may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// One rank's side of a communicator.
#[derive(Debug)]
pub(super) struct Communicator {
    library: &'static Library,
    handle: Handle,
    gpu: Gpu,
    rank: Rank,
    broken: bool,
}

// SAFETY: NCCL's calls on one communicator may come from any thread, one at a time, and this is borrowed exclusively.
unsafe impl Send for Communicator {}

/// A call's buffers: addresses on the device, 0 where there is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) dtype: Dtype,
    pub(super) op: ReduceOp,
    pub(super) input: u64,
    pub(super) output: u64,
}

impl Communicator {
    /// Meets the other ranks, which all have the same identity.
    pub(super) fn new(
        library: &'static Library,
        gpu: &Gpu,
        id: UniqueId,
        (rank, ranks): (Rank, usize),
        limit: &Limit<'_>,
    ) -> Result<Self, Fault> {
        gpu.enter().map_err(device)?;
        let mut config = Config {
            size: size_of::<Config>(),
            magic: MAGIC,
            version: OLDEST as u32,
            blocking: 0,
            cluster: UNSET,
            fewest_blocks: UNSET,
            most_blocks: UNSET,
            net: std::ptr::null(),
            share_on_split: UNSET,
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: a handle to write to, and a configuration that is read during the call.
        let begun = unsafe { (library.init)(&mut handle, ranks as c_int, id, rank as c_int, &mut config) };
        if handle.is_null() {
            library.check("joining NCCL", begun)?;
            return Err(Fault::System { what: "joining NCCL", why: "it gave no communicator".into() });
        }
        // From here on it is aborted when dropped.
        let mut made = Self { library, handle, gpu: gpu.clone(), rank, broken: true };
        library.check("joining NCCL", begun)?;
        made.settle("joining NCCL", limit)?;
        made.broken = false;
        Ok(made)
    }

    /// Waits until what was called last has been taken in.
    fn settle(&self, what: &'static str, limit: &Limit<'_>) -> Result<(), Fault> {
        limit.wait(|| self.ready(what))
    }

    /// Whether nothing is being set up; an error that happened meanwhile.
    fn ready(&self, what: &'static str) -> Result<bool, Fault> {
        let mut state = SUCCESS;
        // SAFETY: the communicator lives; a number to write to.
        self.library.check(what, unsafe { (self.library.state)(self.handle, &mut state) })?;
        self.library.check(what, state)?;
        Ok(state != IN_PROGRESS)
    }

    /// Carries a collective out and waits for its end. After an error the communicator is of no use.
    ///
    /// # Safety
    /// The addresses are memory of this device of the lengths that the collective has for this rank, and nobody else uses
    /// them meanwhile.
    pub(super) unsafe fn run(&mut self, collective: &Collective, work: Work, limit: &Limit<'_>) -> Result<(), Fault> {
        self.gpu.enter().map_err(device)?;
        self.broken = true;
        // SAFETY: the caller's promise.
        let called = unsafe { self.call(collective, work) };
        self.library.check("calling NCCL", called)?;
        self.settle("calling NCCL", limit)?;
        let mark = self.gpu.mark().map_err(device)?;
        limit.wait(|| {
            let reached = mark.reached().map_err(device)?;
            if !reached {
                self.ready("waiting for NCCL")?;
            }
            Ok(reached)
        })?;
        self.broken = false;
        Ok(())
    }

    /// Calls what the collective consists of, as one.
    unsafe fn call(&self, collective: &Collective, work: Work) -> Status {
        let Self { library, handle, rank, .. } = self;
        let (dtype, op, stream) = (number(work.dtype), reduction(work.op), self.gpu.stream());
        let size = work.dtype.size();
        let input = |element: usize| (work.input as usize + element * size) as *const c_void;
        let output = |element: usize| (work.output as usize + element * size) as *mut c_void;
        // SAFETY: the addresses are within the caller's buffers, because offsets are sums of the collective's own counts;
        // what a rank does not take part in has a count of 0 or is not called.
        unsafe {
            let mut first = (library.group_start)();
            let mut then = |status: Status| {
                if matches!(first, SUCCESS | IN_PROGRESS) {
                    first = status;
                }
            };
            match collective {
                Collective::AllReduce { count } => {
                    then((library.all_reduce)(input(0), output(0), *count, dtype, op, *handle, stream));
                }
                Collective::ReduceScatter { parts } if equal(parts) => {
                    then((library.reduce_scatter)(input(0), output(0), parts[0], dtype, op, *handle, stream));
                }
                Collective::ReduceScatter { parts } => {
                    for (root, (begin, count)) in spans(parts) {
                        let root = root as c_int;
                        then((library.reduce)(input(begin), output(0), count, dtype, op, root, *handle, stream));
                    }
                }
                Collective::AllGather { parts } if equal(parts) => {
                    then((library.all_gather)(input(0), output(0), parts[0], dtype, *handle, stream));
                }
                Collective::AllGather { parts } => {
                    for (root, (begin, count)) in spans(parts) {
                        let from = if root == *rank { input(0) } else { output(begin).cast_const() };
                        then((library.broadcast)(from, output(begin), count, dtype, root as c_int, *handle, stream));
                    }
                }
                Collective::Broadcast { root, count } => {
                    let from = if root == rank { input(0) } else { output(0).cast_const() };
                    then((library.broadcast)(from, output(0), *count, dtype, *root as c_int, *handle, stream));
                }
                Collective::Reduce { root, count } => {
                    let root = *root as c_int;
                    then((library.reduce)(input(0), output(0), *count, dtype, op, root, *handle, stream));
                }
                Collective::AllToAll { counts } => {
                    for (to, (begin, count)) in spans(&counts[*rank]) {
                        then((library.send)(input(begin), count, dtype, to as c_int, *handle, stream));
                    }
                    let mine: Vec<usize> = counts.iter().map(|row| row[*rank]).collect();
                    for (from, (begin, count)) in spans(&mine) {
                        then((library.recv)(output(begin), count, dtype, from as c_int, *handle, stream));
                    }
                }
                Collective::Send { from, to, count } => {
                    if from == rank {
                        then((library.send)(input(0), *count, dtype, *to as c_int, *handle, stream));
                    } else if to == rank {
                        then((library.recv)(output(0), *count, dtype, *from as c_int, *handle, stream));
                    }
                }
                // The group's own connections do it.
                Collective::Barrier => {}
            }
            // The group is closed in any case: this thread may call NCCL again.
            let end = (library.group_end)();
            if matches!(first, SUCCESS | IN_PROGRESS) { end } else { first }
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if self.gpu.enter().is_err() {
            return;
        }
        let abort = Abort::default();
        let ended = !self.broken && {
            // SAFETY: the communicator lives, and nothing of it is under way.
            let status = unsafe { (self.library.finalize)(self.handle) };
            let said = self.library.check("leaving NCCL", status);
            said.and_then(|()| self.settle("leaving NCCL", &Limit::new(&abort, GOODBYE))).is_ok()
        };
        // SAFETY: the communicator lives, and is not used after this. An error leaves nothing to do.
        unsafe {
            if ended {
                (self.library.destroy)(self.handle);
            } else {
                // Ends what still runs on the device, too.
                (self.library.abort)(self.handle);
            }
        }
    }
}

/// A device's error as a fault.
pub(super) fn device(error: swarmloom_gpu::GpuError) -> Fault {
    Fault::System { what: "the GPU", why: error.to_string() }
}

fn equal(parts: &[usize]) -> bool {
    parts.iter().all(|part| *part == parts[0])
}

/// Each rank's begin and count, without those that have none.
fn spans(parts: &[usize]) -> impl Iterator<Item = (Rank, (usize, usize))> + '_ {
    let mut at = 0;
    let begin = move |count: &usize| {
        at += count;
        (at - count, *count)
    };
    parts.iter().map(begin).enumerate().filter(|(_, (_, count))| *count > 0)
}

/// `ncclDataType_t`.
fn number(dtype: Dtype) -> c_int {
    match dtype {
        Dtype::I8 => 0,
        Dtype::U8 => 1,
        Dtype::I32 => 2,
        Dtype::I64 => 4,
        Dtype::F16 => 6,
        Dtype::F32 => 7,
        Dtype::F64 => 8,
        Dtype::Bf16 => 9,
    }
}

/// `ncclRedOp_t`.
fn reduction(op: ReduceOp) -> c_int {
    match op {
        ReduceOp::Sum => 0,
        ReduceOp::Product => 1,
        ReduceOp::Max => 2,
        ReduceOp::Min => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_configuration_is_laid_out_as_in_the_header() {
        assert_eq!(size_of::<UniqueId>(), 128);
        assert_eq!([offset_of!(Config, magic), offset_of!(Config, version), offset_of!(Config, blocking)], [8, 12, 16]);
        assert_eq!([offset_of!(Config, net), offset_of!(Config, share_on_split), size_of::<Config>()], [32, 40, 48]);
    }

    #[test]
    fn spans_leave_out_who_has_nothing() {
        assert_eq!(spans(&[3, 0, 2]).collect::<Vec<_>>(), [(0, (0, 3)), (2, (3, 2))]);
        assert!(equal(&[4, 4]) && !equal(&[4, 5]));
    }

    #[test]
    fn the_library_loads_where_it_is_and_is_a_fault_elsewhere() {
        match Library::get() {
            Ok(library) => {
                println!("NCCL {}", library.version());
                let refused = library.check("a call", 5).expect_err("a number of an error");
                assert!(refused.to_string().contains("invalid usage"), "{refused}");
            }
            Err(fault) => {
                println!("skipped: {fault}");
                assert!(fault.to_string().contains("NCCL"), "{fault}");
            }
        }
    }

    #[test]
    fn a_wait_ends_by_the_clock_or_by_the_group() {
        let abort = Abort::default();
        let short = Duration::from_millis(20);
        assert!(
            matches!(Limit::new(&abort, short).wait(|| Ok(false)), Err(Fault::Timeout { after }) if after == short)
        );
        let lost = Fault::Lost { rank: 2, how: "its process has ended".into() };
        abort.raise(lost.clone());
        let limit = Limit::new(&abort, Duration::from_secs(100));
        assert_eq!(limit.wait(|| Ok(false)), Err(lost.clone()));
        // What NCCL says of a dead peer is less than what the group knows.
        let vague = Fault::System { what: "NCCL", why: "remote error".into() };
        assert_eq!(limit.wait(|| Err(vague.clone())), Err(lost));
        let calm = Abort::default();
        assert_eq!(Limit::new(&calm, Duration::from_secs(100)).wait(|| Err(vague.clone())), Err(vague));
    }
}
