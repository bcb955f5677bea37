//! Running out of memory on the host: one line and an exit status, where Rust would abort.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{self, Write},
};

unsafe extern "C" {
    fn _exit(status: i32) -> !;
}

/// The system's allocator; where it has no memory the program ends with a line that says how much was wanted and what lowers
/// it. What a run has saved stays: checkpoints are written beside their place.
pub struct SayingAllocator;

/// Ends the program without running destructors, which might allocate.
#[cold]
fn end(bytes: usize) -> ! {
    // Neither the message nor the unbuffered stream allocates.
    let _ = writeln!(
        io::stderr(),
        "error: out of memory: {} MiB more were wanted at once; lower data.batch and data.crop (for the first stage \
         warmup.batch and warmup.crop), data.eval_short_side or --short-side for whole images, data.threads or data.cache_mib",
        bytes.div_ceil(1 << 20)
    );
    // SAFETY: it ends the process and does nothing else.
    unsafe { _exit(1) }
}

fn found(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() { end(bytes) } else { block }
}

// SAFETY: every call goes to the system's allocator as it came, and what it gives is passed on.
unsafe impl GlobalAlloc for SayingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        found(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        found(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        found(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}
