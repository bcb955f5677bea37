//! Memory and where it goes when nobody holds it any more.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    CudaDevice, Plan,
    graph_memory::GraphMemory,
    pool::{Pool, size_class},
};
use crate::Result;

/// Alignment of host blocks: a cache line, and the widest vector load.
const ALIGN: usize = 64;
/// Host memory kept for reuse at most.
const HOST_LIMIT: usize = 6 << 30;

pub(super) static HOST_POOL: std::sync::LazyLock<Pool> = std::sync::LazyLock::new(Pool::default);

/// The pool from which a block comes and to which it returns.
#[derive(Clone)]
pub(super) enum Home {
    Host,
    Cuda(Arc<CudaDevice>),
    Plan(Arc<Plan>),
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
            Self::Cuda(device) => device.allocate(class),
            Self::Plan(plan) => Ok(plan.allocate(class)),
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
            Self::Cuda(device) => device.release(class, address),
            Self::Plan(plan) => plan.release(class, address),
            Self::Graph(memory) => memory.give(class, address),
        }
    }

    /// The place behind it: never a graph's memory.
    pub fn root(&self) -> &Home {
        match self {
            Self::Graph(memory) => memory.parent(),
            place => place,
        }
    }
}

/// One block. A buffer holds it, and so does every captured graph that uses it; the last of them returns it.
pub(super) struct Block {
    address: usize,
    class: usize,
    home: Home,
    /// Graphs that may write to it.
    graphs: AtomicUsize,
}

impl Block {
    /// At least `bytes` bytes.
    pub fn new(home: Home, bytes: usize) -> Result<Self> {
        let class = size_class(bytes);
        Ok(Self { address: home.take(class)?, class, home, graphs: AtomicUsize::new(0) })
    }

    pub fn address(&self) -> usize {
        self.address
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Notes one more graph that uses it.
    pub fn enter_graph(&self) {
        self.graphs.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a graph which uses it is gone.
    pub fn leave_graph(&self) {
        self.graphs.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a replay can change it.
    pub fn is_in_graph(&self) -> bool {
        let lives_in_one = matches!(&self.home, Home::Graph(memory) if memory.is_live());
        lives_in_one || self.graphs.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.home.give(self.class, self.address);
    }
}
