//! Where training runs, and getting libtorch ready for it.
//!
//! One program serves machines with and without a GPU: libtorch's CUDA half is loaded at run time, and
//! only where a driver is. It must be loaded before libtorch is first used, because libtorch remembers
//! that there was no CUDA. So a program calls [`prepare`] before anything else of this crate.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// A place to train on, as a person names it: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The first CUDA device if there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a device.
    #[error("\"{0}\" is no device: use auto, cpu, cuda or cuda:N with a number N, as in cuda:1")]
    Unknown(String),
    /// There is no such CUDA device.
    #[error("{asked} was asked for, but libtorch sees {found} CUDA device(s){reason}: use another number, or cpu")]
    Missing {
        /// What was asked for.
        asked: Device,
        /// How many there are.
        found: usize,
        /// Why there are none, where that is known.
        reason: String,
    },
}

/// The libtorch that the bindings are made for; another one does not build.
pub const LIBTORCH: &str = "2.11.0";

/// How loading libtorch's CUDA half ended. Loading happens once in a process.
static CUDA_HALF: OnceLock<Result<(), String>> = OnceLock::new();

/// Makes libtorch see the CUDA devices, where there are any. Call it before anything else of this crate:
/// later they would not be seen. It takes up to half a second with a GPU, and next to nothing without.
pub fn prepare() {
    if let Err(reason) = CUDA_HALF.get_or_init(load_cuda_half) {
        tracing::debug!(reason, "training on the processor");
    }
}

/// How many threads libtorch uses for one operation on the processor, from now on.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

/// Number of CUDA devices that can be trained on.
pub fn cuda_devices() -> usize {
    prepare();
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

/// The devices of this machine, one text each, the processor first.
pub fn describe() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found = vec![format!("cpu ({cores} threads)")];
    found.extend((0..cuda_devices()).map(|number| Device::Cuda(number).to_string()));
    found
}

impl Device {
    /// Settles [`Device::Auto`], and checks that a CUDA device is there.
    ///
    /// # Errors
    /// If a CUDA device was named and there is no such. [`Device::Auto`] and [`Device::Cpu`] never fail.
    pub fn resolve(self) -> Result<Self, DeviceError> {
        match self {
            Self::Cpu => Ok(Self::Cpu),
            Self::Auto if cuda_devices() > 0 => Ok(Self::Cuda(0)),
            Self::Auto => Ok(Self::Cpu),
            Self::Cuda(number) if number < cuda_devices() => Ok(self),
            Self::Cuda(_) => {
                let reason = CUDA_HALF.get().and_then(|loaded| loaded.as_ref().err());
                let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                Err(DeviceError::Missing { asked: self, found: cuda_devices(), reason })
            }
        }
    }

    /// The same for libtorch; [`Device::Auto`] counts as the processor unless it was resolved.
    pub(crate) fn torch(self) -> tch::Device {
        match self {
            Self::Auto | Self::Cpu => tch::Device::Cpu,
            Self::Cuda(number) => tch::Device::Cuda(number),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").and_then(number) {
                Some(number) => Ok(Self::Cuda(number)),
                None => Err(DeviceError::Unknown(text.to_owned())),
            },
        }
    }
}

/// Loads libtorch's CUDA half if a driver is there: without one it would only cost memory, 230 MB a process.
#[cfg(target_os = "linux")]
fn load_cuda_half() -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
    let load = |name: &str, flags| {
        // SAFETY: loading a library runs its initialisers. The driver's and libtorch's may run in any
        // process and thread; those of libtorch register CUDA with libtorch_cpu, which this program is
        // linked with. No symbol is taken from either here, and neither is unloaded.
        #[allow(unsafe_code)]
        let library = unsafe { Library::open(Some(name), flags) };
        library.map(std::mem::forget).map_err(|error| error.to_string())
    };
    load("libcuda.so.1", RTLD_NOW | RTLD_LOCAL).map_err(|error| format!("no CUDA driver: {error}"))?;
    load("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL).map_err(|error| format!("this libtorch is without CUDA: {error}"))
}

#[cfg(not(target_os = "linux"))]
fn load_cuda_half() -> Result<(), String> {
    Err("CUDA is looked for on Linux only".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for (text, device) in [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>().expect(text), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().expect("cuda"), Device::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "CPU", "cuda:99999999999999999999"] {
            let error = text.parse::<Device>().expect_err(text).to_string();
            assert!(error.contains("use auto, cpu, cuda or cuda:N"), "{error}");
        }
    }

    #[test]
    fn the_processor_is_always_there_and_a_missing_device_is_explained() {
        assert_eq!(Device::Cpu.resolve().expect("cpu"), Device::Cpu);
        assert_ne!(Device::Auto.resolve().expect("auto never fails"), Device::Auto);
        let error = Device::Cuda(4096).resolve().expect_err("no such device").to_string();
        assert!(error.starts_with("cuda:4096 was asked for, but libtorch sees "), "{error}");
        assert!(describe()[0].starts_with("cpu ("));
        assert_eq!(describe().len(), 1 + cuda_devices());
    }
}
