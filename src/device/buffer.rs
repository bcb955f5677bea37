//! A block of memory on the host or on a GPU, returned to its pool when dropped.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    sync::Arc,
};

use super::{
    CudaDevice, Plan,
    pool::{Pool, size_class},
};
use crate::Result;

/// Alignment of host blocks: a cache line, and the widest vector load.
const ALIGN: usize = 64;
/// Host memory kept for reuse at most.
const HOST_LIMIT: usize = 6 << 30;

static HOST_POOL: std::sync::LazyLock<Pool> = std::sync::LazyLock::new(Pool::default);

/// Untyped memory. Its content is defined (never uninitialised in Rust's sense) but arbitrary when taken.
pub struct Buffer {
    address: usize,
    bytes: usize,
    home: Home,
}

enum Home {
    Host,
    Cuda(Arc<CudaDevice>),
    Plan(Arc<Plan>),
}

fn layout(class: usize) -> Layout {
    Layout::from_size_align(class, ALIGN).expect("a size class is below isize::MAX: the allocator was asked for it")
}

impl Buffer {
    pub(super) fn host(bytes: usize) -> Self {
        let class = size_class(bytes);
        let address = HOST_POOL.take(class).unwrap_or_else(|| {
            let layout = layout(class);
            // SAFETY: a size class is never zero.
            let block = unsafe { alloc_zeroed(layout) };
            if block.is_null() {
                handle_alloc_error(layout);
            }
            block as usize
        });
        Self { address, bytes, home: Home::Host }
    }

    pub(super) fn cuda(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self> {
        let address = device.allocate(size_class(bytes))?;
        Ok(Self { address, bytes, home: Home::Cuda(device.clone()) })
    }

    pub(super) fn plan(plan: &Arc<Plan>, bytes: usize) -> Self {
        Self { address: plan.allocate(bytes), bytes, home: Home::Plan(plan.clone()) }
    }

    /// Size in bytes as asked for.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address: of the host, or of the GPU's memory.
    pub(crate) fn address(&self) -> usize {
        self.address
    }

    /// The bytes, of a buffer on the host.
    ///
    /// # Panics
    /// Never for tensors: they ask their device first.
    pub(crate) fn as_host(&self) -> &[u8] {
        assert!(matches!(self.home, Home::Host), "GPU memory read as host memory");
        // SAFETY: the block has at least `bytes` bytes, was zeroed when allocated, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.bytes) }
    }

    /// The bytes, of a buffer on the host, to be written.
    pub(crate) fn as_host_mut(&mut self) -> &mut [u8] {
        assert!(matches!(self.home, Home::Host), "GPU memory written as host memory");
        // SAFETY: as in `as_host`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.bytes) }
    }

    /// Copies `source` into the buffer, wherever it lives.
    pub(crate) fn write(&mut self, source: &[u8]) -> Result<()> {
        assert_eq!(source.len(), self.bytes, "a buffer is written whole");
        match &self.home {
            Home::Host => self.as_host_mut().copy_from_slice(source),
            Home::Cuda(device) => device.upload(self.address, source)?,
            Home::Plan(plan) => plan.uploaded(self.bytes),
        }
        Ok(())
    }

    /// Copies the buffer into `target`, after all launched work.
    pub(crate) fn read(&self, target: &mut [u8]) -> Result<()> {
        assert_eq!(target.len(), self.bytes, "a buffer is read whole");
        match &self.home {
            Home::Host => target.copy_from_slice(self.as_host()),
            Home::Cuda(device) => device.download(target, self.address)?,
            Home::Plan(plan) => {
                plan.downloaded(self.bytes);
                target.fill(0);
            }
        }
        Ok(())
    }

    /// Copies from a buffer of the same device.
    pub(crate) fn copy_from(&mut self, source: &Buffer) -> Result<()> {
        match &self.home {
            Home::Host => self.write(source.as_host()),
            Home::Cuda(device) => device.copy(self.address, source.address, self.bytes),
            Home::Plan(plan) => {
                plan.filled(2 * self.bytes);
                Ok(())
            }
        }
    }

    /// Sets every byte.
    pub(crate) fn fill_bytes(&mut self, byte: u8) -> Result<()> {
        match &self.home {
            Home::Host => {
                self.as_host_mut().fill(byte);
                Ok(())
            }
            Home::Cuda(device) => device.fill(self.address, byte, self.bytes),
            Home::Plan(plan) => {
                plan.filled(self.bytes);
                Ok(())
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let class = size_class(self.bytes);
        match &self.home {
            Home::Host => {
                if let Some(address) = HOST_POOL.give(class, self.address, HOST_LIMIT) {
                    // SAFETY: allocated in `host` with this layout, and no longer referenced.
                    unsafe { dealloc(address as *mut u8, layout(class)) };
                }
            }
            Home::Cuda(device) => device.release(class, self.address),
            Home::Plan(plan) => plan.release(class, self.address),
        }
    }
}

/// The most host memory that buffers held at one time, in bytes.
pub fn host_peak() -> usize {
    HOST_POOL.peak()
}
