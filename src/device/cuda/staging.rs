//! Copies from the host on a second stream, beside the work of the compute stream.
//!
//! The way of one batch, where `=>` waits for an event of the other stream:
//!
//! ```text
//! host            data -> pinned
//! copy stream     [=> the way was used up]  pinned -> staged
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

/// Bytes that a thread copies at a time: one alone is slower than the way to the card.
const PIECE: usize = 1 << 20;
/// Ways for each target: one on which a batch travels, one for the batch before.
const WAYS: usize = 2;

pub(in crate::device) struct Staging {
    device: Arc<CudaDevice>,
    stream: Arc<CudaStream>,
    /// By the target's address and size.
    ways: HashMap<(usize, usize), Ways>,
}

struct Ways {
    ways: Vec<Way>,
    /// Whose turn it is.
    next: usize,
}

/// Where a batch passes.
struct Way {
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
        Ok(Self { device: device.clone(), stream, ways: HashMap::new() })
    }

    /// Begins to copy the parts of `source` into `target`, of their size together: after what was launched so far, before what comes.
    pub fn start(&mut self, target: &mut Buffer, source: &[&[u8]]) -> Result<()> {
        let bytes = source.iter().map(|part| part.len()).sum();
        assert_eq!(target.len(), bytes, "a buffer is written whole");
        let (device, stream) = (&self.device, &self.stream);
        let ways = self.ways.entry((target.address(), target.len())).or_insert(Ways { ways: Vec::new(), next: 0 });
        if ways.ways.len() < WAYS {
            ways.next = ways.ways.len();
            ways.ways.push(Way::new(device, bytes)?);
        }
        let way = &mut ways.ways[ways.next];
        ways.next = (ways.next + 1) % WAYS;

        // Passed at once for a way that was never used, as its event was never recorded.
        way.arrived.synchronize().map_err(failed("cuEventSynchronize"))?;
        let mut rest = way.pinned.as_mut_slice();
        for part in source {
            let (here, behind) = rest.split_at_mut(part.len());
            here.par_chunks_mut(PIECE).zip(part.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
            rest = behind;
        }
        stream.wait(&way.used).map_err(failed("cuStreamWaitEvent"))?;
        let staged = way.staged.address();
        // SAFETY: both have this size. `pinned` is next written after `arrived`, and dropped after the stream has come to
        // rest (`Staging::drop`).
        unsafe {
            result::memcpy_htod_async(staged as sys::CUdeviceptr, way.pinned.as_slice(), stream.cu_stream())
                .map_err(failed("cuMemcpyHtoD"))?;
        }
        way.arrived.record(stream).map_err(failed("cuEventRecord"))?;
        device.stream.wait(&way.arrived).map_err(failed("cuStreamWaitEvent"))?;
        device.copy(target.address(), staged, bytes)?;
        way.used.record(&device.stream).map_err(failed("cuEventRecord"))
    }
}

impl Way {
    fn new(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self> {
        let event = || device.context.new_event(None).map_err(failed("cuEventCreate"));
        let way = Self {
            pinned: Pinned::new(device, bytes)?,
            staged: Buffer::new(Home::Device(device.clone()), bytes)?,
            arrived: event()?,
            used: event()?,
        };
        // `staged` may be a block that launched work of the compute stream still uses.
        way.used.record(&device.stream).map_err(failed("cuEventRecord"))?;
        Ok(way)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The copy stream still reads `pinned` and writes `staged`, which return to pools that know nothing of it. A
        // failure leaves nothing to do.
        let _ = self.stream.synchronize();
    }
}
