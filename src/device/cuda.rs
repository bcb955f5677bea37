//! An NVIDIA GPU through the driver API: one context, one stream, a table of loaded kernels, a memory pool.

mod graph;
mod maps;
mod memory;
mod pinned;
mod staging;
mod survey;
mod timing;

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::{IMAGES, Launch, capture::Captures, options, pool::Pool, semaphores, tuner::Tuner};
use crate::{Error, Result};

pub(super) use graph::CudaGraph;
pub(super) use pinned::Readback as CudaReadback;
pub(super) use staging::Staging;
pub use survey::{Card, driver_version};

/// Dynamic shared memory above this needs the kernel's consent.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// A GPU with its kernels.
pub struct CudaDevice {
    index: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    table: Mutex<Table>,
    pool: Pool,
    /// Page-locked host memory.
    pinned: Pool,
    captures: Captures,
    tuner: OnceLock<Tuner>,
    /// Whether it has the kernels for warpgroups.
    warpgroups: bool,
    semaphores: usize,
    maps: maps::Maps,
}

#[derive(Default)]
struct Table {
    modules: HashMap<&'static str, usize>,
    functions: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: usize,
    /// Dynamic shared memory that launches may ask for, in bytes.
    shared_bytes: u32,
}

fn failed(op: impl Into<String>) -> impl FnOnce(DriverError) -> Error {
    let op = op.into();
    move |error| Error::Cuda { op, message: error.to_string() }
}

impl CudaDevice {
    pub(super) fn open(index: usize) -> Result<Arc<Self>> {
        survey::expect_card(index)?;
        if IMAGES.is_empty() {
            return Err(Error::NoKernels);
        }
        let context = CudaContext::new(index).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        // cudarc's own buffers would be tracked by events, and its first stream would wait for all of the context: there are no
        // such buffers here, and another device of this process may be capturing.
        // SAFETY: only `CudaSlice` needs the events, and none is made.
        unsafe { context.disable_event_tracking() };
        let capability = context.compute_capability().map_err(failed("cuDeviceGetAttribute"))?;
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        Ok(Arc::new(Self {
            index,
            context,
            table: Mutex::default(),
            pool: Pool::default(),
            pinned: Pool::default(),
            captures: Captures::default(),
            tuner: OnceLock::new(),
            warpgroups: options::may_use_warpgroups(capability),
            semaphores: Self::zeros(&stream, 4 * semaphores::COUNT)?,
            stream,
            maps: maps::Maps::default(),
        }))
    }

    /// Memory that is zero for all work of the stream from now on.
    fn zeros(stream: &CudaStream, bytes: usize) -> Result<usize> {
        stream.context().bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: plain allocation, which `Drop` frees, and has this size.
        unsafe {
            let address = result::malloc_sync(bytes).map_err(failed("cuMemAlloc"))?;
            sys::cuMemsetD8Async(address, 0, bytes, stream.cu_stream()).result().map_err(failed("cuMemset"))?;
            Ok(address as usize)
        }
    }

    /// The GPU's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The card's name as the driver gives it.
    pub fn name(&self) -> Result<String> {
        self.context.name().map_err(failed("cuDeviceGetName"))
    }

    /// Compute capability, (9, 0) for Hopper.
    pub fn compute_capability(&self) -> Result<(i32, i32)> {
        self.context.compute_capability().map_err(failed("cuDeviceGetAttribute"))
    }

    /// The number of multiprocessors.
    pub fn multiprocessors(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.context.attribute(attribute).map_err(failed("cuDeviceGetAttribute"))?;
        Ok(count.max(1) as usize)
    }

    /// Driver version as the driver reports it, 13000 for 13.0.
    pub fn driver_version(&self) -> Result<i32> {
        survey::driver_version()
    }

    /// The most memory in use at one time, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.pool.peak()
    }

    /// Memory of the card that nobody has allocated, and all of it, in bytes. What this process keeps idle for reuse counts
    /// as allocated.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().map_err(failed("cuMemGetInfo"))
    }

    pub(super) fn captures(&self) -> &Captures {
        &self.captures
    }

    pub(super) fn has_warpgroups(&self) -> bool {
        self.warpgroups
    }

    /// The address of `semaphores::COUNT` counters.
    pub(super) fn semaphores(&self) -> usize {
        self.semaphores
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("cuStreamSynchronize"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))
    }

    fn free_all(&self) {
        for (_, address) in self.pool.drain() {
            // SAFETY: allocated by `allocate`, in no one's hands. A failure here leaves nothing to do.
            let _ = unsafe { result::free_sync(address as sys::CUdeviceptr) };
        }
    }

    /// The kernel, ready for launches with so much dynamic shared memory.
    fn function(&self, image: &'static str, kernel: &'static str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.functions.get(kernel).copied();
        if let Some(function) = known
            && function.shared_bytes >= shared_bytes
        {
            return Ok(function.handle as sys::CUfunction);
        }
        let mut function = match known {
            Some(function) => function,
            None => Function { handle: Self::load(&mut table, image, kernel)?, shared_bytes: DEFAULT_SHARED_BYTES },
        };
        if shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let handle = function.handle as sys::CUfunction;
            // SAFETY: a loaded function of this context.
            unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) }
                .map_err(failed(format!("cuFuncSetAttribute of {kernel}")))?;
            function.shared_bytes = shared_bytes;
        }
        table.functions.insert(kernel, function);
        Ok(function.handle as sys::CUfunction)
    }

    fn load(table: &mut Table, image: &'static str, kernel: &'static str) -> Result<usize> {
        let missing = || Error::MissingKernel { kernel, image };
        let module = match table.modules.get(image) {
            Some(&module) => module,
            None => {
                let bytes = IMAGES.iter().find(|candidate| candidate.name == image).ok_or_else(missing)?.bytes;
                // SAFETY: a fatbin made by nvcc; it carries its own length. The module stays loaded for good.
                let module = unsafe { result::module::load_data(bytes.as_ptr().cast()) }
                    .map_err(failed(format!("cuModuleLoadData of {image}")))?;
                table.modules.insert(image, module as usize);
                module as usize
            }
        };
        let name = CString::new(kernel).map_err(|_| missing())?;
        // SAFETY: the module is loaded in this context.
        let function = unsafe { result::module::get_function(module as sys::CUmodule, name) }.map_err(|_| missing())?;
        Ok(function as usize)
    }

    /// # Safety
    /// As [`super::Device::launch`].
    pub(super) unsafe fn launch(
        &self,
        image: &'static str,
        kernel: &'static str,
        launch: Launch,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        self.bind()?;
        let function = self.function(image, kernel, launch.shared_bytes)?;
        let stream = self.stream.cu_stream();
        let done = if launch.cluster > 1 {
            // SAFETY: the caller vouches for the arguments.
            unsafe { launch_clusters(function, launch, stream, args) }
        } else {
            let (grid, block) = (launch.grid.into(), launch.block.into());
            // SAFETY: the caller vouches for the arguments.
            unsafe { result::launch_kernel(function, grid, block, launch.shared_bytes, stream, args) }
        };
        done.map_err(failed(kernel))
    }
}

/// # Safety
/// As `result::launch_kernel`.
unsafe fn launch_clusters(
    function: sys::CUfunction,
    launch: Launch,
    stream: sys::CUstream,
    args: &mut [*mut c_void],
) -> std::result::Result<(), DriverError> {
    let dimension = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: launch.cluster, y: 1, z: 1 };
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { clusterDim: dimension },
    };
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
    let config = sys::CUlaunchConfig {
        gridDimX: grid_x,
        gridDimY: grid_y,
        gridDimZ: grid_z,
        blockDimX: block_x,
        blockDimY: block_y,
        blockDimZ: block_z,
        sharedMemBytes: launch.shared_bytes,
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the caller vouches for the function and its arguments; the driver has read `config` when it returns.
    unsafe { sys::cuLaunchKernelEx(&config, function, args.as_mut_ptr(), std::ptr::null_mut()) }.result()
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.bind().is_ok() && self.synchronize().is_ok() {
            self.free_all();
            self.free_pinned();
            // SAFETY: allocated by `open`, and all work is done. A failure here leaves nothing to do.
            let _ = unsafe { result::free_sync(self.semaphores as sys::CUdeviceptr) };
        }
    }
}
