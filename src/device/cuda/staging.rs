//! Copies from the host on a second stream, beside the work of the compute stream.
//!
//! The way of one batch, where `=>` waits for an event of the other stream:
//!
//! ```text
//! host            data -> pinned
//! copy stream     [=> the slot was used up]  pinned -> staged
//! compute stream  ...work launched before...  [=> staged is there]  staged -> target  ...work launched later...
//! ```

use std::{collections::HashMap, sync::Arc};

use cudarc::driver::{CudaEvent, CudaStream, result, sys};
use rayon::prelude::*;

use super::{CudaDevice, failed, pinned::Pinned};
use crate::{
    Result,
    device::{
        Buffer,
        heap::{Home, Memory},
    },
};

/// Bytes that a thread copies at a time: one alone is slower than the bus to the card.
const PIECE: usize = 1 << 20;
/// Slots for each target: one on which a batch travels, one for the batch before.
const SLOTS: usize = 2;

pub(in crate::device) struct Staging {
    device: Arc<CudaDevice>,
    stream: Arc<CudaStream>,
    /// By the target's address and size.
    slots: HashMap<(usize, usize), Slots>,
}

struct Slots {
    slots: Vec<Slot>,
    /// Whose turn it is.
    next: usize,
}

/// Where a batch passes.
struct Slot {
    pinned: Pinned,
    staged: Buffer,
    /// The copy stream has read `pinned` and written `staged`.
    arrived: CudaEvent,
    /// The compute stream has read `staged`.
    used: CudaEvent,
}

impl Staging {
    pub fn new(device: &Arc<CudaDevice>) -> Result<Self> {
        let stream = device.context.new_stream().map_err(failed("cuStreamCreate"))?;
        Ok(Self { device: device.clone(), stream, slots: HashMap::new() })
    }

    /// Begins to copy the parts of `source` into `target`, of their size together: after what was launched so far, before what comes.
    pub fn start(&mut self, target: &mut Buffer, source: &[&[u8]]) -> Result<()> {
        let bytes = source.iter().map(|part| part.len()).sum();
        assert_eq!(target.len(), bytes, "a buffer is written whole");
        let (device, stream) = (&self.device, &self.stream);
        let slots = self.slots.entry((target.address(), target.len())).or_insert(Slots { slots: Vec::new(), next: 0 });
        if slots.slots.len() < SLOTS {
            slots.next = slots.slots.len();
            slots.slots.push(Slot::new(device, bytes)?);
        }
        let slot = &mut slots.slots[slots.next];
        slots.next = (slots.next + 1) % SLOTS;

        // Passed at once for a slot that was never used, as its event was never recorded.
        slot.arrived.synchronize().map_err(failed("cuEventSynchronize"))?;
        let mut rest = slot.pinned.as_mut_slice();
        for part in source {
            let (here, behind) = rest.split_at_mut(part.len());
            here.par_chunks_mut(PIECE).zip(part.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
            rest = behind;
        }
        stream.wait(&slot.used).map_err(failed("cuStreamWaitEvent"))?;
        let staged = slot.staged.address();
        // SAFETY: both have this size. `pinned` is next written after `arrived`, and dropped after the stream has come to
        // rest (`Staging::drop`).
        unsafe {
            result::memcpy_htod_async(staged as sys::CUdeviceptr, slot.pinned.as_slice(), stream.cu_stream())
                .map_err(failed("cuMemcpyHtoD"))?;
        }
        slot.arrived.record(stream).map_err(failed("cuEventRecord"))?;
        device.stream.wait(&slot.arrived).map_err(failed("cuStreamWaitEvent"))?;
        device.copy(target.address(), staged, bytes)?;
        slot.used.record(&device.stream).map_err(failed("cuEventRecord"))
    }
}

impl Slot {
    fn new(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self> {
        let event = || device.context.new_event(None).map_err(failed("cuEventCreate"));
        let slot = Self {
            pinned: Pinned::new(device, bytes)?,
            staged: Buffer::new(Home::Device(device.clone()), bytes)?,
            arrived: event()?,
            used: event()?,
        };
        // `staged` may be a block that launched work of the compute stream still uses.
        slot.used.record(&device.stream).map_err(failed("cuEventRecord"))?;
        Ok(slot)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The copy stream still reads `pinned` and writes `staged`, which return to pools that know nothing of it. A
        // failure leaves nothing to do.
        let _ = self.stream.synchronize();
    }
}
