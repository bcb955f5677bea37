//! Page-locked host memory, which the GPU copies from and to on its own, and read-backs into it.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, result, sys};

use super::{CudaDevice, failed};
use crate::{Result, device::pool::size_class};

/// A block of page-locked memory, returned to the device's pool when dropped: locking pages takes milliseconds.
///
/// Whoever starts a copy waits for its end before this is read, written or dropped.
pub(super) struct Pinned {
    device: Arc<CudaDevice>,
    address: usize,
    bytes: usize,
}

impl Pinned {
    pub fn new(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self> {
        let class = size_class(bytes);
        let address = match device.pinned.take(class) {
            Some(address) => address,
            None => {
                device.bind()?;
                // SAFETY: plain allocation; `free_pinned` frees it.
                let block = unsafe { result::malloc_host(class, 0) }.map_err(|error| {
                    device.pinned.abandon(class);
                    failed(format!("cuMemHostAlloc of {} MiB", class >> 20))(error)
                })?;
                // SAFETY: a fresh block of this size. Zeroed, so that it is never uninitialised in Rust's sense.
                unsafe { std::ptr::write_bytes(block.cast::<u8>(), 0, class) };
                block as usize
            }
        };
        Ok(Self { device: device.clone(), address, bytes })
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the block has this size, was zeroed when allocated, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.bytes) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _kept = self.device.pinned.give(size_class(self.bytes), self.address, usize::MAX);
    }
}

/// A copy from the GPU under way.
pub(in crate::device) struct Readback {
    memory: Pinned,
    done: CudaEvent,
}

impl Readback {
    pub fn len(&self) -> usize {
        self.memory.bytes
    }

    /// Waits for the copy and hands it over.
    pub fn wait(self, target: &mut [u8]) -> Result<()> {
        self.done.synchronize().map_err(failed("cuEventSynchronize"))?;
        target.copy_from_slice(self.memory.as_slice());
        Ok(())
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        // The GPU may still write to the memory that is given back next. A failure leaves nothing to do.
        let _ = self.done.synchronize();
    }
}

impl CudaDevice {
    /// Begins to copy `bytes` bytes to the host, after all work launched so far.
    pub(in crate::device) fn download_later(self: &Arc<Self>, source: usize, bytes: usize) -> Result<Readback> {
        let mut memory = Pinned::new(self, bytes)?;
        let done = self.context.new_event(None).map_err(failed("cuEventCreate"))?;
        // SAFETY: both have this size; `Readback` keeps `memory` until the event after the copy has passed. The source may
        // be dropped: its block is used again by later work of the same stream only.
        let copied = unsafe {
            let source = source as sys::CUdeviceptr;
            result::memcpy_dtoh_async(memory.as_mut_slice(), source, self.stream.cu_stream())
        };
        copied.map_err(failed("cuMemcpyDtoH"))?;
        if let Err(error) = done.record(&self.stream) {
            // Without the event nobody would wait.
            self.synchronize()?;
            return Err(failed("cuEventRecord")(error));
        }
        Ok(Readback { memory, done })
    }

    pub(super) fn free_pinned(&self) {
        for (_, address) in self.pinned.drain() {
            // SAFETY: allocated by `Pinned::new`, in no one's hands. A failure here leaves nothing to do.
            let _ = unsafe { result::free_host(address as *mut std::ffi::c_void) };
        }
    }
}
