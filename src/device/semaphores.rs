//! Counters by which blocks of a launch learn which of them comes last: zero before a launch, and left so by it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Device, Place};
use crate::{Error, Result};

/// How many a device has: more than eight for each multiprocessor of any GPU.
pub(super) const COUNT: usize = 4096;

/// Those of a device whose memory is the host's.
pub(super) struct HostArrivals(Box<[AtomicU32]>);

impl HostArrivals {
    /// After a launch that ended half-way.
    pub fn reset(&self) {
        self.0.iter().for_each(|arrival| arrival.store(0, Ordering::Relaxed));
    }
}

impl Default for HostArrivals {
    fn default() -> Self {
        Self((0..COUNT).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Device {
    /// The address of at least `count` counters, of 32 bits each. They live as long as the device; launches, which follow each
    /// other, all use the same.
    pub(crate) fn semaphores(&self, kernel: &'static str, count: usize) -> Result<usize> {
        if count > COUNT {
            return Err(Error::Internal(format!("{kernel}: {count} counters; a device has {COUNT}")));
        }
        match &self.0 {
            Place::Cuda(cuda) => Ok(cuda.semaphores()),
            Place::Emulated(emulated) => Ok(emulated.semaphores.0.as_ptr() as usize),
            // Nothing runs.
            Place::Plan(_) | Place::Cpu => Ok(0),
        }
    }
}
