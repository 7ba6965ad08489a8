//! A device with the kernels loaded, and its stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

use crate::compile::{Arch, compile, supported};
use crate::error::GpuError;
use crate::launch::Launch;
use crate::library;

/// One device, the kernels on it, and a stream of work. Cheap to clone; clones share the stream.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    capability: u32,
    name: String,
}

impl Gpu {
    /// Opens a device by its number, from 0, and compiles the kernels for it: seconds the first time in a process.
    ///
    /// # Errors
    /// [`GpuError::Missing`], [`GpuError::Usage`] where there is no such device, [`GpuError::Driver`],
    /// [`GpuError::Compile`].
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        let (context, capability) = context(ordinal)?;
        let known = supported()?;
        let arch = Arch::for_device(capability, &known).ok_or_else(|| GpuError::Compile {
            arch: format!("sm_{capability}"),
            log: format!("this NVRTC knows nothing before sm_{}", known.first().copied().unwrap_or(0)),
        })?;
        Self::load(context, capability, &compile(arch)?)
    }

    /// Opens a device with kernels that [`compile`] has made for it before.
    ///
    /// # Errors
    /// As [`Gpu::open`]; [`GpuError::Driver`] where the code does not fit the device.
    pub fn open_with(ordinal: usize, image: &[u8]) -> Result<Self, GpuError> {
        let (context, capability) = context(ordinal)?;
        Self::load(context, capability, image)
    }

    fn load(context: Arc<CudaContext>, capability: u32, image: &[u8]) -> Result<Self, GpuError> {
        let name = context.name().map_err(GpuError::driver("asking for the device's name"))?;
        let module = context.load_module(Ptx::from_binary(image.to_vec()));
        let module = module.map_err(GpuError::driver("loading the kernels"))?;
        // SAFETY: no memory of the bindings' own kind is ever made in this context, so that there is none whose events
        // would be missed.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(GpuError::driver("making a stream"))?;
        Ok(Self(Arc::new(Inner { context, stream, module, functions: Mutex::default(), capability, name })))
    }

    /// A second stream on the same device, with the same kernels. Its work runs beside this one's.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn beside(&self) -> Result<Self, GpuError> {
        let inner = &*self.0;
        let stream = inner.context.new_stream().map_err(GpuError::driver("making a stream"))?;
        Ok(Self(Arc::new(Inner {
            context: inner.context.clone(),
            stream,
            module: inner.module.clone(),
            functions: Mutex::default(),
            capability: inner.capability,
            name: inner.name.clone(),
        })))
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.0.context.ordinal()
    }

    /// What its maker calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What no other device has.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn uuid(&self) -> Result<[u8; 16], GpuError> {
        let uuid = self.0.context.uuid().map_err(GpuError::driver("asking for the device's identity"))?;
        Ok(uuid.bytes.map(|byte| byte as u8))
    }

    /// Its compute capability: 90 for 9.0.
    pub fn capability(&self) -> u32 {
        self.0.capability
    }

    /// Its stream as CUDA's libraries take it: a `CUstream`, which is a `cudaStream_t` too. Valid as long as this is.
    pub fn stream(&self) -> *mut std::ffi::c_void {
        self.0.stream.cu_stream().cast()
    }

    /// Makes the device the calling thread's, as CUDA's libraries expect it.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn enter(&self) -> Result<(), GpuError> {
        self.0.context.bind_to_thread().map_err(GpuError::driver("entering the device"))
    }

    /// Waits until all that was called is done.
    ///
    /// # Errors
    /// [`GpuError::Driver`], also for work that was called before.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.0.stream.synchronize().map_err(GpuError::driver("waiting for the device"))
    }

    /// Marks the end of what was called so far.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn mark(&self) -> Result<Mark, GpuError> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let event = self.0.stream.record_event(flags).map_err(GpuError::driver("marking work"))?;
        Ok(Mark { gpu: self.clone(), event })
    }

    pub(crate) fn same_as(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn cu_stream(&self) -> sys::CUstream {
        self.0.stream.cu_stream()
    }

    /// Calls a kernel.
    ///
    /// # Safety
    /// Its addresses must be those of memory of this device, large enough for the counts it is given, that nobody else
    /// uses until the work is done.
    pub(crate) unsafe fn launch(&self, mut launch: Launch) -> Result<(), GpuError> {
        self.enter()?;
        let mut functions = self.0.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if !functions.contains_key(&launch.name) {
            let function = self.0.module.load_function(&launch.name).map_err(GpuError::driver("finding a kernel"))?;
            functions.insert(launch.name.clone(), function);
        }
        let function = functions[&launch.name].cu_function();
        drop(functions);
        let (grid, block) = ((launch.grid, 1, 1), (launch.block, 1, 1));
        let mut arguments = launch.arguments();
        // SAFETY: the arguments are those of the kernel of that name, which `calls` makes; the driver copies them during
        // the call. The rest is the caller's promise.
        let called = unsafe { result::launch_kernel(function, grid, block, 0, self.cu_stream(), &mut arguments) };
        called.map_err(GpuError::driver("calling a kernel"))
    }
}

/// A point in a stream of work.
#[derive(Debug)]
pub struct Mark {
    gpu: Gpu,
    event: cudarc::driver::CudaEvent,
}

impl Mark {
    /// Whether all before it is done.
    ///
    /// # Errors
    /// [`GpuError::Driver`] where that work failed.
    pub fn reached(&self) -> Result<bool, GpuError> {
        self.gpu.enter()?;
        // SAFETY: the event lives as long as this does.
        match unsafe { result::event::query(self.event.cu_event()) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(source) => Err(GpuError::Driver { what: "waiting for the device", source }),
        }
    }

    /// Waits until all before it is done, at most so long; false where it is not.
    ///
    /// # Errors
    /// As [`Mark::reached`].
    pub fn wait_for(&self, timeout: Duration) -> Result<bool, GpuError> {
        let deadline = Instant::now() + timeout;
        while !self.reached()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::yield_now();
        }
        Ok(true)
    }
}

fn context(ordinal: usize) -> Result<(Arc<CudaContext>, u32), GpuError> {
    let count = library::count()?;
    if ordinal >= count {
        return Err(GpuError::Usage { call: "open", why: format!("device {ordinal} of {count}") });
    }
    let context = CudaContext::new(ordinal).map_err(GpuError::driver("opening the device"))?;
    let (major, minor) = context.compute_capability().map_err(GpuError::driver("asking what the device can"))?;
    Ok((context, major.unsigned_abs() * 10 + minor.unsigned_abs()))
}
