//! Where tensors live and kernels run: the CPU, an NVIDIA GPU, or the emulator of the test suite.
//!
//! This is the only module that speaks to the CUDA driver. A [`Device`] hands out memory from a caching pool and
//! launches kernels by name; everything above sees typed tensors and typed launches. [`Device::capture`] records a step
//! as a [`Graph`]; an [`Uploader`] feeds it.

mod block;
mod buffer;
mod capture;
mod cuda;
mod emulated;
mod fill;
mod graph;
mod heap;
mod images;
mod libc_version;
mod options;
mod plan;
mod pool;
mod readback;
mod saying_allocator;
mod semaphores;
mod tensor_map;
mod tune_cache;
mod tuner;
mod uploader;

use std::{env, ffi::c_void, fmt, path::PathBuf, str::FromStr, sync::Arc};

pub use buffer::{Buffer, host_peak};
pub use cuda::{Card, CudaDevice, driver_version};
pub use emulated::{EmulatedEntry, Order, Schedule};
pub use fill::Fill;
pub use graph::Graph;
pub use images::{IMAGES, Image, NVCC_RELEASE};
pub use libc_version::glibc_version;
pub use options::DeviceOptions;
pub use plan::{KernelCount, Plan, PlanCounts, PlannedLaunch, PlannedWork};
pub(crate) use readback::Readback;
pub use saying_allocator::SayingAllocator;
pub(crate) use tensor_map::{MapAccess, MapSpec, TensorMap};
pub use uploader::Uploader;

use crate::{Error, Result};
use capture::{Arg, Step};
use emulated::Emulated;

/// A place to compute, and options of how. Cheap to clone; equal when it is the same place.
///
/// ```
/// let device: bicl::Device = "cpu".parse()?;
/// assert_eq!(device.to_string(), "cpu");
/// # Ok::<(), bicl::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Place, DeviceOptions);

#[derive(Clone)]
enum Place {
    Cpu,
    Cuda(Arc<CudaDevice>),
    Emulated(Arc<Emulated>),
    Plan(Arc<Plan>),
}

/// The extent of a launch: blocks, threads a block, and dynamic shared memory in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads a block in x, y, z; at most 1024 together.
    pub block: [u32; 3],
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
    /// Blocks along x that run at the same time and reach each other's shared memory, 1 to 8; more than 1 only on a GPU of
    /// compute capability 9.0 or newer.
    pub cluster: u32,
}

/// The folder that keeps which kernels were the fastest: `$BICL_CACHE`, or `bicl` in the user's folder for caches; `None` where
/// neither is known.
pub fn cache_folder() -> Option<PathBuf> {
    tune_cache::folder(|name| env::var_os(name))
}

/// Multiprocessors of an H100 or H200.
pub(crate) const H100_MULTIPROCESSORS: usize = 132;

/// The most bytes that a thread of a GPU moves in one access.
pub(crate) const PACK_BYTES: usize = 16;

impl Launch {
    /// One thread for each of `items`, in blocks of 256; kernels check the bound themselves.
    ///
    /// Kernels that are launched so index with 32 bits, so `items` is held below 2^31.
    pub fn linear(op: &'static str, items: usize) -> Result<Self> {
        if items > i32::MAX as usize {
            return Err(Error::shape(op, format!("{items} elements exceed the 2^31 - 1 that a kernel indexes")));
        }
        Ok(Self { grid: [(items.div_ceil(256)).max(1) as u32, 1, 1], block: [256, 1, 1], shared_bytes: 0, cluster: 1 })
    }

    /// One thread for each 16 bytes of `items` elements of `size` bytes, in blocks of 256.
    pub fn packs(op: &'static str, items: usize, size: usize) -> Result<Self> {
        Self::linear(op, items)?;
        Self::linear(op, items.div_ceil(PACK_BYTES / size))
    }

    /// `blocks` blocks of `threads` threads.
    pub fn blocks(op: &'static str, blocks: usize, threads: u32) -> Result<Self> {
        if blocks > i32::MAX as usize {
            return Err(Error::shape(op, format!("{blocks} blocks exceed the grid's 2^31 - 1")));
        }
        Ok(Self { grid: [blocks.max(1) as u32, 1, 1], block: [threads, 1, 1], shared_bytes: 0, cluster: 1 })
    }
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        Self(Place::Cpu, DeviceOptions::default())
    }

    /// GPU number `index`. Errors say whether the driver, the GPU or the kernels are missing.
    pub fn cuda(index: usize) -> Result<Self> {
        Ok(Self(Place::Cuda(CudaDevice::open(index)?), DeviceOptions::default()))
    }

    /// The kernels run on the CPU by the emulator in `tools/emulator`, under the given schedule.
    pub fn emulated(lookup: fn(&str) -> Option<EmulatedEntry>, schedule: Schedule) -> Self {
        let emulated = Emulated {
            lookup,
            schedule,
            captures: Default::default(),
            semaphores: Default::default(),
            launching: Default::default(),
        };
        Self(Place::Emulated(Arc::new(emulated)), DeviceOptions::default())
    }

    /// A GPU that computes nothing and counts what it would have to do: see [`Plan`].
    pub fn plan() -> Self {
        Self(Place::Plan(Arc::default()), DeviceOptions::default())
    }

    /// The counters behind this device, if it is a plan.
    pub fn as_plan(&self) -> Option<&Plan> {
        match &self.0 {
            Place::Plan(plan) => Some(plan),
            _ => None,
        }
    }

    /// The first GPU where there is one with kernels for it, else the CPU.
    pub fn best() -> Self {
        Self::cuda(0).unwrap_or_else(|_| Self::cpu())
    }

    /// Whether operations run as Rust code rather than as kernels.
    pub fn is_cpu(&self) -> bool {
        matches!(self.0, Place::Cpu)
    }

    /// Blocks that run at the same time if each fills a multiprocessor. A plan stands for an H100 or H200; the emulator for a
    /// card so small that little work takes several rounds.
    pub(crate) fn multiprocessors(&self) -> Result<usize> {
        match &self.0 {
            Place::Cuda(cuda) => cuda.multiprocessors(),
            Place::Plan(_) => Ok(H100_MULTIPROCESSORS),
            Place::Emulated(_) => Ok(4),
            Place::Cpu => Ok(1),
        }
    }

    /// Whether this is a GPU.
    pub fn is_cuda(&self) -> bool {
        matches!(self.0, Place::Cuda(_))
    }

    /// Whether kernels run under the emulator.
    pub fn is_emulated(&self) -> bool {
        matches!(self.0, Place::Emulated(_))
    }

    /// The GPU behind this device, for events and figures.
    pub fn as_cuda(&self) -> Option<&Arc<CudaDevice>> {
        match &self.0 {
            Place::Cuda(cuda) => Some(cuda),
            _ => None,
        }
    }

    /// Waits until all launched work is done.
    ///
    /// Errors: inside a capture; when a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.expect_no_capture("synchronize", "nothing runs that could be waited for; wait after the replay")?;
        match &self.0 {
            Place::Cuda(cuda) => cuda.synchronize(),
            _ => Ok(()),
        }
    }

    /// Memory of `bytes` bytes with old content; poisoned with NaN bit patterns where kernels are under test.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let (mut buffer, capture) = self.take(bytes)?;
        if self.is_emulated() {
            match capture {
                Some(capture) => capture.record(Step::Poison { target: buffer.address(), bytes }),
                None => buffer.as_host_mut().fill(0xFF),
            }
        }
        Ok(buffer)
    }

    /// Copies `source` into the buffer.
    pub(crate) fn upload(&self, op: &str, target: &mut Buffer, source: &[u8]) -> Result<()> {
        let advice = "host memory may be gone at a replay; make the tensor before the capture, and give it new content \
                      between replays with write_from";
        self.expect_no_capture(op, advice)?;
        target.write(source)
    }

    /// Copies the buffer into `target`, after all launched work.
    pub(crate) fn download(&self, op: &str, source: &Buffer, target: &mut [u8]) -> Result<()> {
        let advice =
            "nothing has run that could be read; return the tensor from the capture and read it after a replay";
        self.expect_no_capture(op, advice)?;
        source.read(target)
    }

    /// Launches `kernel` of the kernel file `image`, which reads and writes tensors of `bytes` bytes.
    ///
    /// # Safety
    /// `args` point to values of the types that the kernel declares, in order, of `sizes` bytes without padding, and the
    /// kernel stays inside the buffers behind its pointers for this launch. Inside a capture, [`Device::note_use`] was
    /// called for each of these buffers.
    pub(crate) unsafe fn launch(
        &self,
        image: &'static str,
        kernel: &'static str,
        launch: Launch,
        args: &mut [*mut c_void],
        sizes: &[usize],
        bytes: usize,
    ) -> Result<()> {
        if let Some(capture) = self.capturing()?
            && !self.is_cuda()
        {
            // SAFETY: each argument has its size, by the caller's contract.
            let copy = |(&arg, &size): (&*mut c_void, &usize)| unsafe {
                Arg::new(std::slice::from_raw_parts(arg as *const u8, size))
            };
            let args = args.iter().zip(sizes).map(copy).collect();
            capture.record(Step::Launch { image, kernel, launch, args, bytes });
            return Ok(());
        }
        match &self.0 {
            Place::Plan(plan) => {
                plan.launched(kernel, launch, bytes);
                Ok(())
            }
            Place::Cpu => Err(Error::Internal(format!("kernel {kernel} was launched on the CPU device"))),
            // SAFETY: the caller's contract is the same.
            Place::Cuda(cuda) => unsafe { cuda.launch(image, kernel, launch, args) },
            // SAFETY: the caller's contract is the same; emulated buffers are host memory.
            Place::Emulated(emulated) => unsafe { emulated.launch(image, kernel, launch, args) },
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Place::Cpu, Place::Cpu) => true,
            (Place::Cuda(a), Place::Cuda(b)) => a.index() == b.index(),
            (Place::Emulated(a), Place::Emulated(b)) => a.schedule == b.schedule,
            (Place::Plan(a), Place::Plan(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Device {}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Cpu => f.write_str("cpu"),
            Place::Cuda(cuda) => write!(f, "cuda:{}", cuda.index()),
            Place::Emulated(_) => f.write_str("emulated"),
            Place::Plan(_) => f.write_str("plan"),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self})")
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda` or `cuda:N`. An explicit `cuda` never falls back to the CPU.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::cpu()),
            None if text == "cuda" => Self::cuda(0),
            Some(("cuda", index)) => match index.parse() {
                Ok(index) => Self::cuda(index),
                Err(_) => Err(Error::Config(format!("device {text:?}: {index:?} is not a number; use cuda:0"))),
            },
            _ => Err(Error::Config(format!("unknown device {text:?}; use cpu, cuda or cuda:N"))),
        }
    }
}
