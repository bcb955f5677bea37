//! Launching a kernel that g++ compiled: the emulator supplies the symbols, this file the call.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::{Mutex, PoisonError},
};

use super::{
    Launch,
    capture::{Captures, Step},
    semaphores::HostArrivals,
};
use crate::{Error, Result};

/// The order in which the emulator runs a block's threads, and the blocks of a grid.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By rising index.
    Forward = 0,
    /// By falling index.
    Reverse = 1,
    /// Shuffled at every switch.
    Random = 2,
    /// The highest that can run: the last warp runs ahead to its next barrier before the others start.
    Ahead = 3,
}

/// How the emulator schedules a launch. Outputs must not depend on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Order of the threads.
    pub order: Order,
    /// 1: asynchronous copies happen as late as their waits allow; 0: at once.
    pub late_copies: u32,
    /// Seed of [`Order::Random`].
    pub seed: u64,
    /// OS threads over which blocks are spread; 0 for one a core.
    pub workers: u32,
    /// A synchronisation that kernels leave out, numbered by the emulator; 0 for none. It proves that tests need it.
    pub skipped_site: u32,
    /// 1: bank conflicts of shared memory are counted, which takes time; 0: not.
    pub count_banks: u32,
}

/// A compiled kernel: returns 0, or writes one line of at most `error_capacity` bytes with its NUL.
pub type EmulatedEntry = unsafe extern "C" fn(
    launch: *const Launch,
    args: *mut *mut c_void,
    schedule: *const Schedule,
    error: *mut c_char,
    error_capacity: usize,
) -> i32;

pub(super) struct Emulated {
    pub lookup: fn(&str) -> Option<EmulatedEntry>,
    pub schedule: Schedule,
    pub captures: Captures,
    pub semaphores: HostArrivals,
    /// Held by a launch: as on a stream, one follows the other.
    pub launching: Mutex<()>,
}

impl Emulated {
    /// Does what a capture recorded, in order.
    ///
    /// # Safety
    /// The blocks behind all recorded addresses are alive, and nobody reads or writes them meanwhile.
    pub unsafe fn replay(&self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Step::Launch { image, kernel, launch, args, .. } => {
                    // Fresh copies: a kernel may change its parameters.
                    let mut args = args.clone();
                    let mut pointers: Vec<*mut c_void> = args.iter_mut().map(|arg| arg.as_mut_ptr()).collect();
                    // SAFETY: the bytes that a typed launch passed, whose buffers are alive.
                    unsafe { self.launch(image, kernel, *launch, &mut pointers)? };
                }
                // SAFETY: two buffers of at least this size; they overlap where one is copied onto itself.
                &Step::Copy { target, source, bytes } => unsafe {
                    std::ptr::copy(source as *const u8, target as *mut u8, bytes);
                },
                &Step::Fill { target, fill, bytes } => {
                    // SAFETY: a buffer of this size, which nobody else uses.
                    fill.write(unsafe { std::slice::from_raw_parts_mut(target as *mut u8, bytes) });
                }
                // SAFETY: as above.
                &Step::Poison { target, bytes } => unsafe { std::ptr::write_bytes(target as *mut u8, 0xFF, bytes) },
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`super::Device::launch`].
    pub unsafe fn launch(
        &self,
        image: &'static str,
        kernel: &'static str,
        launch: Launch,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        let entry = (self.lookup)(kernel).ok_or(Error::MissingKernel { kernel, image })?;
        let mut text = [0u8; 1024];
        let _turn = self.launching.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the arguments are the caller's promise; `text` outlives the call and its size is passed along.
        let code = unsafe { entry(&launch, args.as_mut_ptr(), &self.schedule, text.as_mut_ptr().cast(), text.len()) };
        if code == 0 {
            return Ok(());
        }
        self.semaphores.reset();
        let message = CStr::from_bytes_until_nul(&text)
            .map_or_else(|_| "the message was not terminated".to_owned(), |line| line.to_string_lossy().into_owned());
        Err(Error::Emulator { kernel, message })
    }
}
