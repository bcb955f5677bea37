//! Where memory comes from, and where it goes when nobody holds it any more: the host, a device, or a captured graph.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Fill, pool::Pool};
use crate::Result;

/// Alignment of host blocks: a cache line, and the widest vector load.
const ALIGN: usize = 64;
/// Host memory kept for reuse at most.
const HOST_LIMIT: usize = 6 << 30;

pub(super) static HOST_POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

/// Memory that is not the host's, by addresses in it. Work happens in the order of the calls, after what was launched before.
pub(super) trait Memory: Send + Sync {
    /// A block of `class` bytes, a size class.
    fn allocate(&self, class: usize) -> Result<usize>;
    /// Takes a block back that `allocate` gave out.
    fn release(&self, class: usize, address: usize);
    /// Copies from the host.
    fn upload(&self, target: usize, source: &[u8]) -> Result<()>;
    /// Copies to the host, and waits until that is done.
    fn download(&self, target: &mut [u8], source: usize) -> Result<()>;
    /// Copies inside the device.
    fn copy(&self, target: usize, source: usize, bytes: usize) -> Result<()>;
    /// Repeats the pattern, of whose size `bytes` is a multiple.
    fn fill(&self, target: usize, fill: Fill, bytes: usize) -> Result<()>;
}

/// The pool from which a block comes and to which it returns.
#[derive(Clone)]
pub(super) enum Home {
    Host,
    Device(Arc<dyn Memory>),
    /// Memory of a captured graph, itself taken from one of the others.
    Graph(Arc<GraphMemory>),
}

fn layout(class: usize) -> Layout {
    Layout::from_size_align(class, ALIGN).expect("a size class is below isize::MAX: the allocator was asked for it")
}

impl Home {
    /// A block of `class` bytes, a size class.
    pub fn take(&self, class: usize) -> Result<usize> {
        match self {
            Self::Host => Ok(HOST_POOL.take(class).unwrap_or_else(|| {
                let layout = layout(class);
                // SAFETY: a size class is never zero.
                let block = unsafe { alloc_zeroed(layout) };
                if block.is_null() {
                    handle_alloc_error(layout);
                }
                block as usize
            })),
            Self::Device(memory) => memory.allocate(class),
            Self::Graph(memory) => memory.take(class),
        }
    }

    /// Takes a block back that `take` gave out.
    pub fn give(&self, class: usize, address: usize) {
        match self {
            Self::Host => {
                if let Some(address) = HOST_POOL.give(class, address, HOST_LIMIT) {
                    // SAFETY: allocated in `take` with this layout, and no longer referenced.
                    unsafe { dealloc(address as *mut u8, layout(class)) };
                }
            }
            Self::Device(memory) => memory.release(class, address),
            Self::Graph(memory) => memory.give(class, address),
        }
    }

    /// The device's memory behind it; none where that is the host's.
    pub fn device(&self) -> Option<&dyn Memory> {
        match self {
            Self::Host => None,
            Self::Device(memory) => Some(&**memory),
            Self::Graph(memory) => memory.parent.device(),
        }
    }
}

/// Memory that belongs to one captured graph.
///
/// A graph's launches hold addresses, so what lay at them during the capture must lie there at every replay. Scratch that
/// is dropped inside the capture returns here and serves later launches of the same capture; nothing outside gets it,
/// because a replay would write over it. All of it returns to the device's pool when the graph is gone, and with it the
/// last tensor that the capture returned.
pub(super) struct GraphMemory {
    parent: Home,
    pool: Pool,
    live: AtomicBool,
}

impl GraphMemory {
    /// Takes its blocks from `parent`, which is no graph's memory.
    pub fn new(parent: Home) -> Self {
        Self { parent, pool: Pool::default(), live: AtomicBool::new(true) }
    }

    /// Whether a replay can write to it.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// The graph is gone: what is still held is ordinary memory.
    pub fn retire(&self) {
        self.live.store(false, Ordering::Relaxed);
    }

    fn take(&self, class: usize) -> Result<usize> {
        match self.pool.take(class) {
            Some(address) => Ok(address),
            // Idle blocks of the device's pool serve as well: they are free once earlier work of the stream is done, and
            // replays are later work of the same stream.
            None => self.parent.take(class).inspect_err(|_| self.pool.abandon(class)),
        }
    }

    fn give(&self, class: usize, address: usize) {
        let _kept = self.pool.give(class, address, usize::MAX);
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        // Every block that was handed out kept this alive, so all are here.
        for (class, address) in self.pool.drain() {
            self.parent.give(class, address);
        }
    }
}
