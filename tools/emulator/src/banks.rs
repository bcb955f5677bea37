//! Bank conflicts of shared memory, by the model of `banks.h`.

use std::{
    ffi::{c_char, c_int},
    fmt,
    sync::{Mutex, PoisonError},
};

use bicl::device::Schedule;

use crate::{DEFAULT, text};

unsafe extern "C" {
    fn emu_forget_banks();
    fn emu_bank_site(
        index: usize,
        kind: *mut *const c_char,
        file: *mut *const c_char,
        line: *mut c_int,
        counts: *mut [u64; 3],
    ) -> bool;
}

/// What the accesses to shared memory of one line took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankUse {
    /// Path from the repository root, such as `kernels/include/conv_mma.cuh`.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
    /// `cp.async`, `ldmatrix`, `ldmatrix.trans`, `load_shared` or `store_shared`.
    pub kind: String,
    /// Accesses of whole warps.
    pub accesses: u64,
    /// Wavefronts that they took.
    pub wavefronts: u64,
    /// Wavefronts that they would take without conflicts.
    pub least: u64,
}

impl fmt::Display for BankUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, kind, accesses, wavefronts, least } = self;
        write!(f, "{kind} at {file}:{line}: {accesses} accesses in {wavefronts} wavefronts, {least} without conflicts")
    }
}

/// What the launches of `run` with the given schedule take, for every line that accesses shared memory by `cp_async`,
/// `ldmatrix`, `load_shared` or `store_shared`. Accesses through plain pointers are not counted.
pub fn bank_use(run: impl FnOnce(Schedule)) -> Vec<BankUse> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: sets counters that only launches with `count_banks` change.
    unsafe { emu_forget_banks() };
    run(Schedule { count_banks: 1, ..DEFAULT });
    let mut all = Vec::new();
    for index in 0.. {
        let (mut kind, mut file, mut line) = (std::ptr::null(), std::ptr::null(), 0);
        let mut counts = [0; 3];
        // SAFETY: any index may be asked for; all four are written.
        if !unsafe { emu_bank_site(index, &mut kind, &mut file, &mut line, &mut counts) } {
            break;
        }
        // SAFETY: the site exists, so both are terminated literals.
        let (kind, file) = unsafe { (text(kind), text(file)) };
        let [accesses, wavefronts, least] = counts;
        all.push(BankUse { file, line: line as u32, kind, accesses, wavefronts, least });
    }
    all.retain(|used| used.accesses > 0);
    all
}
