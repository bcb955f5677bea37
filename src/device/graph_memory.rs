//! Memory that belongs to one captured graph.
//!
//! A graph's launches hold addresses, so what lay at them during the capture must lie there at every replay. Scratch that
//! is dropped inside the capture returns here and serves later launches of the same capture; nothing outside gets it,
//! because a replay would write over it. All of it returns to the device's pool when the graph is gone, and with it the
//! last tensor that the capture returned.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{block::Home, pool::Pool};
use crate::Result;

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

    pub fn parent(&self) -> &Home {
        &self.parent
    }

    /// Whether a replay can write to it.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// The graph is gone: what is still held is ordinary memory.
    pub fn retire(&self) {
        self.live.store(false, Ordering::Relaxed);
    }

    pub fn take(&self, class: usize) -> Result<usize> {
        match self.pool.take(class) {
            Some(address) => Ok(address),
            // Idle blocks of the device's pool serve as well: they are free once earlier work of the stream is done, and
            // replays are later work of the same stream.
            None => self.parent.take(class).inspect_err(|_| self.pool.abandon(class)),
        }
    }

    pub fn give(&self, class: usize, address: usize) {
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
