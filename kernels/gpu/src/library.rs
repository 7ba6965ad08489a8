//! Whether the driver and the compiler are there. What is asked here first never ends in a panic of the bindings.

use std::sync::OnceLock;

use cudarc::{driver, nvrtc};

use crate::error::GpuError;

/// What this crate calls of the driver. The bindings load functions one by one and panic where one is missing.
const OF_DRIVER: [&str; 33] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuGetErrorString",
    "cuInit",
    "cuIpcCloseMemHandle",
    "cuIpcGetMemHandle",
    "cuIpcOpenMemHandle_v2",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
];

const OF_COMPILER: [&str; 12] = [
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetPTX",
    "nvrtcGetPTXSize",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcGetSupportedArchs",
    "nvrtcVersion",
];

/// Whether NVIDIA's driver (`libcuda.so.1`) is there. It says nothing of devices: see [`count`].
///
/// # Errors
/// [`GpuError::Missing`].
pub fn driver() -> Result<(), GpuError> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: the driver's library only sets itself up when it is loaded, as for any program that is linked with it.
        if !unsafe { driver::sys::is_culib_present() } {
            return Err("libcuda.so.1 was not found; it comes with NVIDIA's driver".into());
        }
        // SAFETY: it is there, so that this finds it too.
        let library = unsafe { driver::sys::culib() };
        // SAFETY: the symbols are looked up and not used.
        all_of(|name| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok(), &OF_DRIVER)
    });
    found.clone().map_err(|why| GpuError::Missing { library: "the CUDA driver", why })
}

/// Whether the compiler (`libnvrtc`) is there.
///
/// # Errors
/// [`GpuError::Missing`].
pub fn nvrtc() -> Result<(), GpuError> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: as in `driver`.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return Err(
                "libnvrtc.so was not found; it comes with the CUDA toolkit and, for pip, as nvidia-cuda-nvrtc \
                        (its folder has to be in LD_LIBRARY_PATH)"
                    .into(),
            );
        }
        // SAFETY: it is there, so that this finds it too.
        let library = unsafe { nvrtc::sys::culib() };
        // SAFETY: the symbols are looked up and not used.
        all_of(|name| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok(), &OF_COMPILER)
    });
    found.clone().map_err(|why| GpuError::Missing { library: "the CUDA compiler NVRTC", why })
}

/// How many devices this process may use.
///
/// # Errors
/// [`GpuError::Missing`]; [`GpuError::Driver`] where the driver is there and does not start, for want of a device too.
pub fn count() -> Result<usize, GpuError> {
    driver()?;
    driver::result::init().map_err(GpuError::driver("starting the CUDA driver"))?;
    let count = driver::result::device::get_count().map_err(GpuError::driver("counting GPUs"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn all_of(has: impl Fn(&str) -> bool, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| !has(name)) {
        Some(missing) => Err(format!("it has no {missing}: it is too old")),
        None => Ok(()),
    }
}
