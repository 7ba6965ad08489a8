//! The kernels' source, run on the processor and (where there is one) on a GPU, beside the crate it has to agree with.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use swarmloom_kernels::{Bf16, Dtype, Element, F16, Float};

use crate::buffer::Buffer;
use crate::calls::Address;
use crate::device::Gpu;
use crate::launch::Launch;

mod formats;
mod reductions;
mod steps;
mod typed;

type Call = unsafe extern "C" fn(*const c_char, u32, u32, *mut *mut c_void, c_int) -> c_int;
type Name = unsafe extern "C" fn(u32) -> *const c_char;

/// The source as a library for the processor. It runs one launch at a time.
struct Processor {
    call: Call,
    names: Vec<String>,
    _library: libloading::Library,
}

impl Processor {
    fn get() -> &'static Mutex<Self> {
        static PROCESSOR: OnceLock<Mutex<Processor>> = OnceLock::new();
        PROCESSOR.get_or_init(|| Mutex::new(Self::build()))
    }

    fn build() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kernels.so");
        compile_shim("shim.cpp", &file);
        // SAFETY: the library was just built from the source above, whose constructors fill a list of kernels.
        let library = unsafe { libloading::Library::new(&file) }.expect("the library");
        // SAFETY: these are the types that the shim gives these functions.
        let (call, name) = unsafe {
            (*library.get::<Call>(b"launch\0").expect("launch"), *library.get::<Name>(b"kernel_name\0").expect("names"))
        };
        let name = |index| {
            // SAFETY: any index may be asked for; the answer is null or a static text.
            let name = unsafe { name(index) };
            // SAFETY: as above.
            (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
        };
        let names = (0..).map_while(name).collect();
        Self { call, names, _library: library }
    }
}

/// Makes a library of a file beside this one, which includes the kernels.
fn compile_shim(source: &str, to: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let built = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC", "-I"])
        .arg(&folder)
        .arg("-o")
        .args([to, &folder.join("twin").join(source)])
        .output()
        .unwrap_or_else(|error| panic!("{compiler:?} cannot be started: {error}"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// The names of all kernels.
pub(crate) fn names_in_source() -> Vec<String> {
    Processor::get().lock().unwrap_or_else(PoisonError::into_inner).names.clone()
}

/// Where kernels run.
enum Place {
    /// The threads of a block, and the blocks, from the first or from the last: what a barrier does not order must not
    /// matter. And backwards in a small grid, of which each block has to go on to what others would do.
    Processor {
        backwards: bool,
    },
    Gpu(Gpu),
}

/// A place with memory.
struct Machine {
    place: Place,
    host: Vec<Vec<u128>>,
    device: Vec<Buffer<u8>>,
}

/// All places, one after the other.
fn everywhere(mut test: impl FnMut(&mut Machine)) {
    for backwards in [false, true] {
        test(&mut Machine { place: Place::Processor { backwards }, host: Vec::new(), device: Vec::new() });
    }
    if let Some(gpu) = gpu() {
        test(&mut Machine { place: Place::Gpu(gpu), host: Vec::new(), device: Vec::new() });
    }
}

/// The first device, or a line that says why there is none.
fn gpu() -> Option<Gpu> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            println!("skipped on a GPU: {error}");
            None
        }
    }
}

/// How far from 16 bytes a buffer of the tests may lie.
const MOST_ASTRAY: usize = 16;

impl Machine {
    /// A copy of the elements, which begins `astray` elements after a multiple of 16 bytes.
    fn put<T: Element>(&mut self, elements: &[T], astray: usize) -> Address {
        let (bytes, astray) = (bytes_of(elements), astray * size_of::<T>());
        assert!(astray <= MOST_ASTRAY, "the memory is too small");
        match &self.place {
            Place::Processor { .. } => {
                let mut memory = vec![0_u128; (bytes.len() + MOST_ASTRAY).div_ceil(16)];
                let at = memory.as_mut_ptr().cast::<u8>().wrapping_add(astray);
                // SAFETY: there is so much memory behind it.
                unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                self.host.push(memory);
                at as Address
            }
            Place::Gpu(gpu) => {
                let mut padded = vec![0_u8; bytes.len() + MOST_ASTRAY];
                padded[astray..astray + bytes.len()].copy_from_slice(bytes);
                let buffer = gpu.upload(&padded).expect("memory");
                let at = buffer.address() + astray as Address;
                self.device.push(buffer);
                at
            }
        }
    }

    /// The elements that are at an address now.
    fn get<T: Element>(&self, at: Address, len: usize) -> Vec<T> {
        let bytes = len * size_of::<T>();
        let mut to: Vec<T> = Vec::with_capacity(len);
        let copy = |from: *const u8, to: &mut Vec<T>| {
            // SAFETY: `bytes` are there on both sides; every pattern is a value.
            unsafe {
                to.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from, bytes);
                to.set_len(len);
            }
        };
        match &self.place {
            Place::Processor { .. } => copy(at as *const u8, &mut to),
            Place::Gpu(_) => {
                let holds =
                    |buffer: &&Buffer<u8>| (buffer.address()..buffer.address() + buffer.len() as u64).contains(&at);
                let buffer = self.device.iter().find(holds).expect("a buffer");
                let mut all = vec![0; buffer.len()];
                buffer.read(&mut all).expect("its bytes");
                copy(all[(at - buffer.address()) as usize..].as_ptr(), &mut to);
            }
        }
        to
    }

    fn run(&mut self, mut launch: Launch) {
        match &self.place {
            Place::Processor { backwards } => {
                let processor = Processor::get().lock().unwrap_or_else(PoisonError::into_inner);
                let name = CString::new(launch.name.clone()).expect("a name");
                let most = if *backwards { 2 } else { u32::MAX };
                let (grid, block) = (launch.grid.min(most), launch.block);
                let mut arguments = launch.arguments();
                // SAFETY: the arguments are those of the kernel of that name, and its addresses are memory of this machine
                // of the lengths that the test gives.
                let found = unsafe {
                    (processor.call)(name.as_ptr(), grid, block, arguments.as_mut_ptr(), (*backwards).into())
                };
                assert_eq!(found, 0, "there is no kernel {name:?}");
            }
            // SAFETY: as above.
            Place::Gpu(gpu) => unsafe { gpu.launch(launch) }.expect("a launch"),
        }
    }

    /// Forgets all memory.
    fn clear(&mut self) {
        self.host.clear();
        self.device.clear();
    }
}

fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: elements are plain numbers without padding.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// A small generator (Steele, Lea and Flood's SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[-scale, scale)`.
    fn value(&mut self, scale: f32) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    }

    fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.value(scale)).collect()
    }

    /// Elements of any pattern, most of them ordinary numbers: NaNs, infinities, subnormal numbers and zeros among them.
    fn elements<T: Element>(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| self.element()).collect()
    }

    fn element<T: Element>(&mut self) -> T {
        let random = self.next();
        let wide = if random.is_multiple_of(4) {
            let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-40, -1e-45, 1.0, -1.0];
            special[(random >> 8) as usize % special.len()]
        } else {
            self.value(4.0)
        };
        let any = self.next();
        // Now and then, any pattern.
        let odd = any >> 32 & 7 == 0;
        let bits = match T::DTYPE {
            Dtype::F32 if !odd => u64::from(wide.to_bits()),
            Dtype::F64 if !odd => f64::from(wide).to_bits(),
            Dtype::Bf16 if !odd => Bf16::from_f32(wide).0.into(),
            Dtype::F16 if !odd => F16::from_f32(wide).0.into(),
            _ => any,
        };
        // SAFETY: an element has at most eight bytes, and every pattern is a value.
        unsafe { std::ptr::from_ref(&bits).cast::<T>().read_unaligned() }
    }
}

/// Whether the bits are equal; any NaN equals any NaN.
fn same<T: Float>(a: &[T], b: &[T]) -> bool {
    let wide = |x: &T| {
        let (mut word, bytes) = ([0; 4], bytes_of(std::slice::from_ref(x)));
        word[..bytes.len()].copy_from_slice(bytes);
        let bits = u32::from_le_bytes(word);
        match T::DTYPE {
            Dtype::Bf16 => (bits, Bf16(bits as u16).to_f32().is_nan()),
            Dtype::F16 => (bits, F16(bits as u16).to_f32().is_nan()),
            _ => (bits, f32::from_bits(bits).is_nan()),
        }
    };
    let equal = |(a, b): (&T, &T)| {
        let (a, b) = (wide(a), wide(b));
        a.0 == b.0 || (a.1 && b.1)
    };
    a.len() == b.len() && a.iter().zip(b).all(equal)
}
