//! Runs the kernels of `kernels/*.cu` on the CPU, for tests on machines without a GPU.
//!
//! [`device`] is a [`bicl::Device`] like any other. Under another [`Schedule`] ([`device_with`], [`schedules`]) the same
//! launch must give the same bits; a missing barrier shows because it does not. [`check_barriers`] proves for a kernel
//! file that its tests would notice the loss of any barrier. See `README.md` beside this crate.

mod banks;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt,
};

use bicl::{
    Device, Result,
    device::{EmulatedEntry, Launch, Order, Schedule},
};

pub use banks::{BankUse, bank_use};

unsafe extern "C" {
    fn emu_find(name: *const c_char) -> Option<EmulatedEntry>;
    fn emu_kernel(index: usize) -> *const c_char;
    fn emu_site(index: usize, kind: *mut *const c_char, file: *mut *const c_char, line: *mut c_int) -> bool;
    fn emu_new_skip(index: usize) -> u32;
    fn emu_times_skipped(number: u32) -> u64;
}

/// The schedule of [`device`]: threads in rising order, asynchronous copies as late as their waits allow.
pub const DEFAULT: Schedule =
    Schedule { order: Order::Forward, late_copies: 1, seed: 1, workers: 1, skipped_site: 0, count_banks: 0 };

/// A device whose kernels run on the CPU, under [`DEFAULT`].
pub fn device() -> Device {
    device_with(DEFAULT)
}

/// A device whose kernels run on the CPU, under this schedule.
pub fn device_with(schedule: Schedule) -> Device {
    Device::emulated(find, schedule)
}

/// Schedules under which a sound kernel gives the same bits: forward, reverse and shuffled thread orders, one where the
/// last warp runs ahead, asynchronous copies both late and early, blocks on one OS thread and on two. The first is
/// [`DEFAULT`].
pub fn schedules() -> Vec<Schedule> {
    vec![
        DEFAULT,
        Schedule { order: Order::Reverse, late_copies: 0, ..DEFAULT },
        Schedule { order: Order::Random, late_copies: 1, seed: 11, workers: 2, ..DEFAULT },
        Schedule { order: Order::Random, late_copies: 0, seed: 12, ..DEFAULT },
        Schedule { order: Order::Ahead, ..DEFAULT },
    ]
}

/// The names of all kernels that were compiled for the emulator, sorted.
pub fn kernels() -> Vec<String> {
    let mut names: Vec<String> = (0..)
        // SAFETY: any index may be asked for; the names are literals.
        .map(|index| unsafe { emu_kernel(index) })
        .take_while(|name| !name.is_null())
        // SAFETY: not null, and terminated.
        .map(|name| unsafe { text(name) })
        .collect();
    names.sort();
    names
}

/// A call that a launch can leave out: `__syncthreads`, `__syncwarp`, `cp_async_wait`, or the address of an `ldmatrix`.
///
/// Of Hopper kernels also `mbarrier_init_fence`, `mbarrier_arrive`, `mbarrier_arrive_at`, `mbarrier_expect`,
/// `mbarrier_wait`, `cluster_sync`, `tma_store_commit`, `tma_store_wait_read`, `proxy_fence`, `wgmma_fence`, `wgmma_commit`, `wgmma_wait`,
/// `warpgroup_sync`, and the swizzle of a `wgmma_operand`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// Path from the repository root, such as `kernels/conv2d.cu`.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Which call.
    pub kind: String,
    index: usize,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{}", self.kind, self.file, self.line)
    }
}

/// Every barrier that a launch of this process has passed so far, in the order of first arrival.
pub fn barriers_seen() -> Vec<Barrier> {
    let mut seen = Vec::new();
    for index in 0.. {
        let (mut kind, mut file, mut line) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: any index may be asked for; all three are written.
        if !unsafe { emu_site(index, &mut kind, &mut file, &mut line) } {
            break;
        }
        // SAFETY: the site exists, so both are terminated literals.
        let (kind, file) = unsafe { (text(kind), text(file)) };
        seen.push(Barrier { file, line: line as u32, kind, index });
    }
    seen
}

include!(concat!(env!("OUT_DIR"), "/barriers.rs"));

/// Every barrier that the kernels' text holds, as file and line of [`Barrier`].
pub fn barriers_written() -> &'static [(&'static str, u32)] {
    WRITTEN
}

/// A device whose kernels run without this barrier, as if the call were not there.
pub fn device_skipping(barrier: &Barrier, schedule: Schedule) -> Device {
    device_with(schedule_skipping(barrier, schedule))
}

/// The schedule with which kernels run without this barrier.
pub fn schedule_skipping(barrier: &Barrier, schedule: Schedule) -> Schedule {
    Schedule { skipped_site: new_skip(barrier), ..schedule }
}

fn new_skip(barrier: &Barrier) -> u32 {
    // SAFETY: any index may be asked for.
    unsafe { emu_new_skip(barrier.index) }
}

/// Proves that a kernel's test notices the loss of any barrier.
///
/// `run` launches kernels of `file` (as in [`Barrier::file`]) on the given device and returns all output bits. It runs
/// under all [`schedules`], which must agree; then again without each [`Barrier`] of `file` that it passes, which must
/// change the bits or end in an error under one schedule at least. Shapes should be small but take every path: more
/// than one tile in every loop.
///
/// Errors, as one line: the schedules disagree, `run` fails, `run` does not pass a barrier that the file's text holds,
/// or barriers whose loss goes unnoticed. Such a barrier is superfluous, or the run too small to need it.
pub fn check_barriers(file: &str, run: impl Fn(&Device) -> Result<Vec<u8>>) -> Result<(), String> {
    check_barriers_with(file, |schedule| run(&device_with(schedule)).map_err(|error| error.to_string()))
}

/// [`check_barriers`] for kernels that are launched with [`launch`].
pub fn check_barriers_with(file: &str, run: impl Fn(Schedule) -> Result<Vec<u8>, String>) -> Result<(), String> {
    let run_sound = |schedule| run(schedule).map_err(|error| format!("{file}: {schedule:?}: {error}"));
    let want = run_sound(DEFAULT)?;
    for schedule in schedules() {
        if run_sound(schedule)? != want {
            return Err(format!("{file}: the output differs between the default schedule and {schedule:?}"));
        }
    }
    let (mut passed, mut unnoticed) = (Vec::new(), Vec::new());
    for barrier in barriers_seen().into_iter().filter(|barrier| barrier.file == file) {
        let skipped_site = new_skip(&barrier);
        let noticed = schedules().into_iter().any(|s| run(Schedule { skipped_site, ..s }).as_ref() != Ok(&want));
        // Barriers that only other tests of this process passed were never skipped here, and do not count.
        // SAFETY: any number may be asked for.
        if unsafe { emu_times_skipped(skipped_site) } > 0 {
            passed.push(barrier.line);
            if !noticed {
                unnoticed.push(barrier.to_string());
            }
        }
    }
    if !unnoticed.is_empty() {
        return Err(format!("nothing changes without {}", unnoticed.join(", or without ")));
    }
    let mut written = WRITTEN.iter().filter(|(name, _)| *name == file);
    match written.find(|(_, line)| !passed.contains(line)) {
        Some((_, line)) => Err(format!("{file}: the run does not pass the barrier in line {line}")),
        None if passed.is_empty() => Err(format!("{file} holds no barrier; name it as kernels/NAME.cu")),
        None => Ok(()),
    }
}

/// Launches a kernel by name, without a device or typed arguments; the error is one line.
///
/// # Safety
/// `args` point to values of the kernel's parameter types, in order, and the kernel stays inside the buffers behind
/// its pointers.
pub unsafe fn launch(kernel: &str, launch: Launch, args: &mut [*mut c_void], schedule: Schedule) -> Result<(), String> {
    let entry = find(kernel).ok_or_else(|| format!("no emulated kernel {kernel}"))?;
    let mut error = [0u8; 1024];
    let (text, capacity) = (error.as_mut_ptr().cast(), error.len());
    // SAFETY: the caller's promise; the error's size is passed along.
    let code = unsafe { entry(&launch, args.as_mut_ptr(), &schedule, text, capacity) };
    let line = CStr::from_bytes_until_nul(&error).unwrap_or_default();
    if code == 0 { Ok(()) } else { Err(line.to_string_lossy().into_owned()) }
}

fn find(kernel: &str) -> Option<EmulatedEntry> {
    let name = CString::new(kernel).ok()?;
    // SAFETY: the name is terminated and only read; the entries have the signature of `EmulatedEntry` (dev.cuh).
    unsafe { emu_find(name.as_ptr()) }
}

/// # Safety
/// `literal` is not null and terminated.
unsafe fn text(literal: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(literal) }.to_string_lossy().into_owned()
}
