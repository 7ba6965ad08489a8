//! From the source to machine code, by NVRTC.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::nvrtc::{result, sys};

use crate::error::GpuError;
use crate::library;

/// All kernels.
pub(crate) const SOURCE: &str = include_str!("kernels.cu");

/// No short cuts in arithmetic: these are what makes results those of the processor.
const EXACT: [&str; 5] = ["--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--std=c++17"];

/// What to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Machine code of a compute capability (90 for 9.0): runs there and on later minor versions of the same major one.
    Real(u32),
    /// Portable assembly (PTX) for that capability and later ones, which the driver compiles.
    Virtual(u32),
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Real(capability) => write!(f, "sm_{capability}"),
            Arch::Virtual(capability) => write!(f, "compute_{capability}"),
        }
    }
}

impl Arch {
    /// The best for a device of this capability, of those that the compiler knows (in ascending order): code for the device
    /// itself, or portable assembly of the newest one before it.
    pub(crate) fn for_device(capability: u32, known: &[u32]) -> Option<Self> {
        if known.contains(&capability) {
            return Some(Arch::Real(capability));
        }
        known.iter().rfind(|one| **one < capability).map(|one| Arch::Virtual(*one))
    }
}

/// The compiler's version, major and minor.
///
/// # Errors
/// [`GpuError::Missing`].
pub fn compiler_version() -> Result<(u32, u32), GpuError> {
    library::nvrtc()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two numbers to write to.
    let done = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    done.result().map_err(|error| refused("any device", &format!("{error:?}")))?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// Compute capabilities that the compiler knows, ascending: 90 for 9.0.
///
/// # Errors
/// [`GpuError::Missing`].
pub fn supported() -> Result<Vec<u32>, GpuError> {
    library::nvrtc()?;
    let wrong = |error| refused("any device", &format!("{error:?}"));
    let mut count = 0;
    // SAFETY: a number to write to.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().map_err(wrong)?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: room for as many numbers as it said.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().map_err(wrong)?;
    let mut known: Vec<u32> = known.into_iter().map(i32::unsigned_abs).collect();
    known.sort_unstable();
    Ok(known)
}

/// Compiles all kernels, once in a process for each `arch`: seconds the first time. The result is a cubin, or PTX that
/// ends with a zero: what [`Gpu::open_with`](crate::Gpu::open_with) takes, so that a caller may keep it.
///
/// # Errors
/// [`GpuError::Missing`], [`GpuError::Compile`].
pub fn compile(arch: Arch) -> Result<Arc<[u8]>, GpuError> {
    static DONE: Mutex<Option<HashMap<Arch, Arc<[u8]>>>> = Mutex::new(None);
    library::nvrtc()?;
    // Others that want the same wait for it.
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let done = done.get_or_insert_default();
    if let Some(image) = done.get(&arch) {
        return Ok(image.clone());
    }
    let image: Arc<[u8]> = compile_source(SOURCE, arch)?.into();
    done.insert(arch, image.clone());
    Ok(image)
}

fn refused(arch: &str, log: &str) -> GpuError {
    GpuError::Compile { arch: arch.to_owned(), log: log.to_owned() }
}

/// A program of the compiler, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made by `nvrtcCreateProgram`, and nobody else has it. It cannot fail for such a one.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn compile_source(source: &str, arch: Arch) -> Result<Vec<u8>, GpuError> {
    let name = arch.to_string();
    let wrong = |error: result::NvrtcError| refused(&name, &format!("{error:?}"));
    let source = CString::new(source).map_err(|_| refused(&name, "the source has a zero in it"))?;
    let program = Program(result::create_program(&source, Some(c"kernels.cu")).map_err(wrong)?);
    let target = format!("--gpu-architecture={arch}");
    let options: Vec<&str> = EXACT.into_iter().chain([target.as_str()]).collect();
    // SAFETY: the program lives.
    if let Err(error) = unsafe { result::compile_program(program.0, &options) } {
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program.0) }.map_err(wrong)?;
        return Err(refused(&name, &format!("{error:?}: {}", text(&log))));
    }
    match arch {
        Arch::Virtual(_) => {
            // SAFETY: it has been compiled.
            let ptx = unsafe { result::get_ptx(program.0) }.map_err(wrong)?;
            Ok(ptx.into_iter().map(|byte| byte as u8).collect())
        }
        Arch::Real(_) => {
            let mut bytes = 0;
            // SAFETY: it has been compiled for a real architecture; a number to write to.
            unsafe { sys::nvrtcGetCUBINSize(program.0, &mut bytes) }.result().map_err(wrong)?;
            let mut image = vec![0_u8; bytes];
            // SAFETY: room for as many bytes as it said.
            unsafe { sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()) }.result().map_err(wrong)?;
            Ok(image)
        }
    }
}

fn text(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|byte| *byte as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_its_own_code_or_portable_one_of_before() {
        let known = [75, 80, 90];
        assert_eq!(Arch::for_device(80, &known), Some(Arch::Real(80)));
        assert_eq!(Arch::for_device(86, &known), Some(Arch::Virtual(80)));
        assert_eq!(Arch::for_device(120, &known), Some(Arch::Virtual(90)));
        assert_eq!(Arch::for_device(70, &known), None);
        assert_eq!([Arch::Real(90), Arch::Virtual(75)].map(|arch| arch.to_string()), ["sm_90", "compute_75"]);
    }

    /// The kernels compile for old and new devices, and a mistake is reported with its line.
    #[test]
    fn the_source_compiles_wherever_the_compiler_is() {
        let known = match supported() {
            Ok(known) => known,
            Err(error) => {
                assert!(matches!(error, GpuError::Missing { .. }), "{error}");
                println!("skipped: {error}");
                return;
            }
        };
        let (major, minor) = compiler_version().expect("a version");
        let names = crate::twin::names_in_source();
        // Each takes seconds: all of them where that is asked for.
        let wanted: Vec<u32> = match std::env::var("SWARMLOOM_CUDA_ARCHS") {
            Ok(_) => known.iter().copied().filter(|one| (70..=121).contains(one)).collect(),
            Err(_) => [75, 90].into_iter().filter(|one| known.contains(one)).collect(),
        };
        assert!(!wanted.is_empty(), "{known:?}");
        for capability in wanted {
            let code = compile(Arch::Real(capability)).expect("machine code");
            assert!(code.starts_with(b"\x7fELF"), "sm_{capability}");
            println!("NVRTC {major}.{minor}: sm_{capability} {} bytes", code.len());
        }
        let portable = compile(Arch::Virtual(known[known.len() - 1])).expect("PTX");
        let portable =
            CStr::from_bytes_with_nul(&portable).expect("PTX ends with a zero").to_string_lossy().into_owned();
        for name in &names {
            assert!(portable.contains(&format!(".entry {name}(")), "{name} is missing");
        }
        assert_eq!(portable.matches(".entry ").count(), names.len());
        // Nothing is contracted or approximate: the written multiply-adds alone.
        for inexact in [".ftz", ".approx", "div.full"] {
            assert!(!portable.contains(inexact), "{inexact}");
        }
        let error = compile_source("not a program", Arch::Real(90)).expect_err("nonsense");
        assert!(error.to_string().contains("kernels.cu(1)"), "{error}");
    }
}
