//! The card's memory.

use cudarc::driver::{result, sys};

use super::{CudaDevice, failed};
use crate::{
    Result,
    device::{Fill, heap::Memory},
};

impl Memory for CudaDevice {
    fn allocate(&self, class: usize) -> Result<usize> {
        if let Some(address) = self.pool.take(class) {
            return Ok(address);
        }
        self.bind()?;
        // SAFETY: plain allocation; the pool or `Drop` frees it.
        let first = unsafe { result::malloc_sync(class) };
        let address = match first {
            Ok(address) => Ok(address),
            // Inside a capture the stream cannot be waited for: that would end the capture.
            Err(error) if self.is_capturing() => Err(error),
            Err(_) => {
                // Out of memory with blocks of other sizes lying idle: give those back and try once more.
                self.synchronize()?;
                self.free_all();
                // SAFETY: as above.
                unsafe { result::malloc_sync(class) }
            }
        };
        address.map(|address| address as usize).map_err(|error| {
            self.pool.abandon(class);
            failed(format!("cuMemAlloc of {} MiB; use a smaller crop or batch", class >> 20))(error)
        })
    }

    fn release(&self, class: usize, address: usize) {
        // One stream: work launched later cannot run before what still uses the block.
        let _kept = self.pool.give(class, address, usize::MAX);
    }

    fn upload(&self, target: usize, source: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the buffer has this size. From pageable memory the driver copies before it returns.
        unsafe { result::memcpy_htod_async(target as sys::CUdeviceptr, source, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyHtoD"))
    }

    fn download(&self, target: &mut [u8], source: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the buffer has this size; the synchronisation below ends the copy before `target` is used.
        unsafe { result::memcpy_dtoh_async(target, source as sys::CUdeviceptr, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyDtoH"))?;
        self.synchronize()
    }

    fn copy(&self, target: usize, source: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        let (target, source) = (target as sys::CUdeviceptr, source as sys::CUdeviceptr);
        // SAFETY: both buffers have this size and belong to this device.
        unsafe { result::memcpy_dtod_async(target, source, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyDtoD"))
    }

    fn fill(&self, target: usize, fill: Fill, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        let (target, stream) = (target as sys::CUdeviceptr, self.stream.cu_stream());
        // SAFETY (all): the buffer has this size, and blocks are aligned for any pattern.
        let done = unsafe {
            match fill {
                Fill::U8(value) => sys::cuMemsetD8Async(target, value, bytes, stream),
                Fill::U16(value) => sys::cuMemsetD16Async(target, value, bytes / 2, stream),
                Fill::U32(value) => sys::cuMemsetD32Async(target, value, bytes / 4, stream),
                // Of doubles first the low words, then the high ones: rows of one word, 8 bytes apart.
                Fill::U64(value) => {
                    let (low, high) = (value as u32, (value >> 32) as u32);
                    sys::cuMemsetD2D32Async(target, 8, low, 1, bytes / 8, stream)
                        .result()
                        .and_then(|()| sys::cuMemsetD2D32Async(target + 4, 8, high, 1, bytes / 8, stream).result())
                        .map_err(failed("cuMemsetD2D32"))?;
                    return Ok(());
                }
            }
        };
        done.result().map_err(failed("cuMemset"))
    }
}
