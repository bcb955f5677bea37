//! A device that computes nothing and counts everything: what a step would launch, move and hold on a GPU.
//!
//! Memory has addresses and no content, so that a step of any size can be counted on any machine. What is read back is 0.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Fill, Launch,
    capture::{Captures, Step},
    heap::Memory,
    pool::Pool,
};
use crate::Result;

/// Launches of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCount {
    /// How often it was launched.
    pub launches: u64,
    /// Bytes of the tensors that it reads and writes, each counted once a launch (twice where it does both). What a kernel
    /// reads more than once comes from the caches, if all goes well.
    pub bytes: u64,
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedLaunch {
    /// Its symbol.
    pub kernel: &'static str,
    /// Blocks, threads and dynamic shared memory.
    pub launch: Launch,
    /// Bytes of the tensors that it reads and writes, as in [`KernelCount::bytes`].
    pub bytes: usize,
    /// Of persistent blocks, which compute one tile after the other: what the grid does not tell.
    pub work: Option<PlannedWork>,
}

/// The work of a launch whose blocks take one tile after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedWork {
    /// Tiles, or parts of tiles.
    pub items: usize,
    /// Cycles of a multiprocessor that the choice of the tile expected.
    pub cycles: usize,
}

/// What happened on a plan since [`Plan::start`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// In order.
    pub launches: Vec<PlannedLaunch>,
    /// By kernel, in alphabetical order.
    pub kernels: BTreeMap<&'static str, KernelCount>,
    /// Copies from the host, and their bytes.
    pub uploads: KernelCount,
    /// Copies to the host, each of which waits for all work before it, and their bytes.
    pub downloads: KernelCount,
    /// Copies to the host for which nobody waits before they are asked for ([`crate::Tensor::read_later`]).
    pub later_downloads: KernelCount,
    /// Fills and copies on the device, and their bytes.
    pub fills: KernelCount,
    /// Replays of graphs. What a replay does is counted in the other fields as if it had been launched one by one; what
    /// is recorded during a capture is counted when it is replayed.
    pub graph_launches: u64,
    /// Bytes of the factors and results of all convolutions, each once for each product, whatever computes it: what is left to
    /// move if all else happens on the way.
    pub products: u64,
}

/// The memory and the counters of a [`super::Device::plan`].
#[derive(Default)]
pub struct Plan {
    counts: Mutex<PlanCounts>,
    pool: Pool,
    allocated: AtomicUsize,
    pub(super) captures: Captures,
}

impl Plan {
    fn counts_mut(&self) -> MutexGuard<'_, PlanCounts> {
        // Nothing that panics runs under the lock.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was counted; the memory in use stays.
    pub fn start(&self) {
        *self.counts_mut() = PlanCounts::default();
    }

    /// What was counted.
    pub fn counts(&self) -> PlanCounts {
        self.counts_mut().clone()
    }

    /// The most memory in use at one time, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.pool.peak()
    }

    pub(super) fn launched(&self, kernel: &'static str, launch: Launch, bytes: usize) {
        let mut counts = self.counts_mut();
        counts.launches.push(PlannedLaunch { kernel, launch, bytes, work: None });
        counts.kernels.entry(kernel).or_default().add(bytes);
    }

    /// Says more of the last launch.
    pub(crate) fn describe(&self, work: PlannedWork) {
        if let Some(last) = self.counts_mut().launches.last_mut() {
            last.work = Some(work);
        }
    }

    /// A convolution's product has factors and a result of so many bytes.
    pub(crate) fn product(&self, bytes: usize) {
        self.counts_mut().products += bytes as u64;
    }

    pub(super) fn uploaded(&self, bytes: usize) {
        self.counts_mut().uploads.add(bytes);
    }

    pub(super) fn downloaded(&self, bytes: usize) {
        self.counts_mut().downloads.add(bytes);
    }

    pub(super) fn downloaded_later(&self, bytes: usize) {
        self.counts_mut().later_downloads.add(bytes);
    }

    pub(super) fn replayed(&self, steps: &[Step]) {
        self.counts_mut().graph_launches += 1;
        for step in steps {
            match *step {
                Step::Launch { kernel, launch, bytes, .. } => self.launched(kernel, launch, bytes),
                Step::Copy { bytes, .. } => self.filled(2 * bytes),
                Step::Fill { bytes, .. } => self.filled(bytes),
                Step::Poison { .. } => {}
            }
        }
    }

    pub(super) fn filled(&self, bytes: usize) {
        self.counts_mut().fills.add(bytes);
    }
}

impl Memory for Plan {
    fn allocate(&self, class: usize) -> Result<usize> {
        // Addresses are as far apart as blocks would be, and never 0.
        Ok(self.pool.take(class).unwrap_or_else(|| 512 + self.allocated.fetch_add(class, Ordering::Relaxed)))
    }

    fn release(&self, class: usize, address: usize) {
        let _kept = self.pool.give(class, address, usize::MAX);
    }

    fn upload(&self, _: usize, source: &[u8]) -> Result<()> {
        self.uploaded(source.len());
        Ok(())
    }

    fn download(&self, target: &mut [u8], _: usize) -> Result<()> {
        self.downloaded(target.len());
        target.fill(0);
        Ok(())
    }

    fn copy(&self, _: usize, _: usize, bytes: usize) -> Result<()> {
        self.filled(2 * bytes);
        Ok(())
    }

    fn fill(&self, _: usize, _: Fill, bytes: usize) -> Result<()> {
        self.filled(bytes);
        Ok(())
    }
}

impl KernelCount {
    fn add(&mut self, bytes: usize) {
        self.launches += 1;
        self.bytes += bytes as u64;
    }
}
