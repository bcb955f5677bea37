//! Untyped memory on the host or on a GPU, returned to its pool when nobody uses it.

use std::sync::Arc;

use super::{
    Fill,
    block::Block,
    heap::{HOST_POOL, Home},
};
use crate::Result;

/// Untyped memory. Its content is defined (never uninitialised in Rust's sense) but arbitrary when taken.
pub struct Buffer {
    block: Arc<Block>,
    bytes: usize,
}

impl Buffer {
    pub(super) fn new(home: Home, bytes: usize) -> Result<Self> {
        Ok(Self { block: Arc::new(Block::new(home, bytes)?), bytes })
    }

    /// Size in bytes as asked for.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether a graph was captured that uses it: a replay may then change it.
    pub(crate) fn is_in_graph(&self) -> bool {
        self.block.is_in_graph()
    }

    /// The address: of the host, or of the GPU's memory.
    pub(crate) fn address(&self) -> usize {
        self.block.address()
    }

    /// The memory, which may outlive the buffer in the hands of a graph.
    pub(super) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    fn is_host(&self) -> bool {
        self.block.home().device().is_none()
    }

    /// The bytes, of a buffer on the host.
    ///
    /// # Panics
    /// Never for tensors: they ask their device first.
    pub(crate) fn as_host(&self) -> &[u8] {
        assert!(self.is_host(), "GPU memory read as host memory");
        // SAFETY: the block has at least `bytes` bytes, was zeroed when allocated, and lives as long as `self`. Replays
        // write behind Rust's back, but never while this is borrowed: tensors lend no slices of memory in a graph.
        unsafe { std::slice::from_raw_parts(self.address() as *const u8, self.bytes) }
    }

    /// The bytes, of a buffer on the host, to be written.
    pub(crate) fn as_host_mut(&mut self) -> &mut [u8] {
        assert!(self.is_host(), "GPU memory written as host memory");
        // SAFETY: as in `as_host`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address() as *mut u8, self.bytes) }
    }

    /// Copies `source` into the buffer, wherever it lives.
    pub(super) fn write(&mut self, source: &[u8]) -> Result<()> {
        assert_eq!(source.len(), self.bytes, "a buffer is written whole");
        match self.block.home().device() {
            Some(memory) => memory.upload(self.address(), source),
            None => {
                self.as_host_mut().copy_from_slice(source);
                Ok(())
            }
        }
    }

    /// Copies the buffer into `target`, after all launched work.
    pub(super) fn read(&self, target: &mut [u8]) -> Result<()> {
        assert_eq!(target.len(), self.bytes, "a buffer is read whole");
        match self.block.home().device() {
            Some(memory) => memory.download(target, self.address()),
            None => {
                target.copy_from_slice(self.as_host());
                Ok(())
            }
        }
    }

    /// Copies from a buffer of the same device.
    pub(super) fn copy_from(&mut self, source: &Buffer) -> Result<()> {
        assert_eq!(source.len(), self.bytes, "a buffer is copied whole");
        match self.block.home().device() {
            Some(memory) => memory.copy(self.address(), source.address(), self.bytes),
            None => {
                self.as_host_mut().copy_from_slice(source.as_host());
                Ok(())
            }
        }
    }

    /// Repeats the pattern over the whole buffer.
    pub(super) fn fill(&mut self, fill: Fill) -> Result<()> {
        match self.block.home().device() {
            Some(memory) => memory.fill(self.address(), fill, self.bytes),
            None => {
                fill.write(self.as_host_mut());
                Ok(())
            }
        }
    }
}

/// The most host memory that buffers held at one time, in bytes.
pub fn host_peak() -> usize {
    HOST_POOL.peak()
}
