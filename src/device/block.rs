//! A block of memory, and who holds it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{heap::Home, pool::size_class};
use crate::Result;

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
