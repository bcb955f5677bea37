//! A capture under way: which memory it uses, and, on devices without a driver that records, what it would do.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
};

use super::{
    Fill, Launch,
    block::Block,
    heap::{GraphMemory, Home},
};
use crate::{Error, Result};

/// What a software device does at a replay.
pub(super) enum Step {
    Launch {
        image: &'static str,
        kernel: &'static str,
        launch: Launch,
        args: Vec<Arg>,
        bytes: usize,
    },
    Copy {
        target: usize,
        source: usize,
        bytes: usize,
    },
    Fill {
        target: usize,
        fill: Fill,
        bytes: usize,
    },
    /// Scratch under test is made NaN anew, as an allocation does outside a capture.
    Poison {
        target: usize,
        bytes: usize,
    },
}

/// A kernel argument's bytes, aligned to 16: enough for any of the types that emulated kernels take, tensor maps included.
#[derive(Clone)]
pub(super) struct Arg(Vec<u128>);

impl Arg {
    pub fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0u128; bytes.len().div_ceil(size_of::<u128>()).max(1)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self(words)
    }

    pub fn as_mut_ptr(&mut self) -> *mut std::ffi::c_void {
        self.0.as_mut_ptr().cast()
    }
}

/// A block from outside that a graph uses, kept for as long as the graph lives.
pub(super) struct Held(Arc<Block>);

impl Held {
    fn new(block: &Arc<Block>) -> Self {
        block.enter_graph();
        Self(block.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.leave_graph();
    }
}

pub(super) struct Capture {
    thread: ThreadId,
    memory: Arc<GraphMemory>,
    /// Blocks from outside the graph's memory, by address.
    held: Mutex<HashMap<usize, Held>>,
    steps: Mutex<Vec<Step>>,
}

impl Capture {
    /// A buffer's home inside this capture.
    pub fn home(&self) -> Home {
        Home::Graph(self.memory.clone())
    }

    pub fn memory(&self) -> &Arc<GraphMemory> {
        &self.memory
    }

    /// Whether a block was allocated inside this capture.
    pub fn owns(&self, block: &Block) -> bool {
        matches!(block.home(), Home::Graph(memory) if Arc::ptr_eq(memory, &self.memory))
    }

    /// Keeps a block that launches use for as long as the graph lives, if it comes from outside. Its own must not be
    /// kept, or scratch would never serve twice.
    pub fn hold(&self, block: &Arc<Block>) {
        if self.owns(block) {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(block.address()).or_insert_with(|| Held::new(block));
    }

    pub fn record(&self, step: Step) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// What was held, by address, and what was recorded.
    pub fn take(&self) -> (HashMap<usize, Held>, Vec<Step>) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        let steps = std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner));
        (held, steps)
    }
}

/// A device's capture under way, if there is one.
#[derive(Default)]
pub(super) struct Captures {
    /// Whether `current` is set: what every launch asks, without the lock.
    active: AtomicBool,
    current: Mutex<Option<Arc<Capture>>>,
}

impl Captures {
    /// Errors where a capture is under way.
    pub fn begin(&self, parent: Home) -> Result<Arc<Capture>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_some() {
            let message = "a capture is under way on this device; end it before the next begins";
            return Err(Error::Graph(message.into()));
        }
        let capture = Arc::new(Capture {
            thread: thread::current().id(),
            memory: Arc::new(GraphMemory::new(parent)),
            held: Mutex::default(),
            steps: Mutex::default(),
        });
        *current = Some(capture.clone());
        self.active.store(true, Ordering::Release);
        Ok(capture)
    }

    pub fn end(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.active.store(false, Ordering::Release);
    }

    /// The capture under way on this thread. Another thread's work would be recorded into it, so that is an error.
    pub fn current(&self) -> Result<Option<Arc<Capture>>> {
        if !self.active.load(Ordering::Acquire) {
            return Ok(None);
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match current {
            Some(capture) if capture.thread != thread::current().id() => {
                let message = "another thread captures on this device; use the device from one thread until that ends";
                Err(Error::Graph(message.into()))
            }
            current => Ok(current),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_any_size_are_kept_whole_and_aligned() {
        for size in [1, 4, 8, 16, 24, 128, 200] {
            let bytes: Vec<u8> = (0..size).map(|i| i as u8 + 1).collect();
            // A clone is what a replay passes.
            let mut arg = Arg::new(&bytes).clone();
            let address = arg.as_mut_ptr().cast::<u8>();
            assert!(address.addr().is_multiple_of(16), "{size} bytes");
            // SAFETY: the argument holds so many bytes.
            assert_eq!(unsafe { std::slice::from_raw_parts(address, size) }, bytes);
        }
    }
}
