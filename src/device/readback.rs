//! A copy to the host for which nobody waits yet.

use super::{Buffer, Device, Place, cuda::CudaReadback};
use crate::Result;

/// The copy, complete or under way.
pub(crate) struct Readback(State);

enum State {
    Done(Vec<u8>),
    Cuda(CudaReadback),
}

impl Readback {
    /// Bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            State::Done(bytes) => bytes.len(),
            State::Cuda(copy) => copy.len(),
        }
    }

    /// Waits for the copy alone and hands it over; `target` has its size.
    pub fn wait(self, target: &mut [u8]) -> Result<()> {
        match self.0 {
            State::Done(bytes) => target.copy_from_slice(&bytes),
            State::Cuda(copy) => copy.wait(target)?,
        }
        Ok(())
    }
}

impl Device {
    /// Begins to copy the buffer to the host, after all launched work.
    pub(crate) fn download_later(&self, op: &str, source: &Buffer) -> Result<Readback> {
        let advice =
            "nothing has run that could be read; return the tensor from the capture and read it after a replay";
        self.expect_no_capture(op, advice)?;
        Ok(Readback(match &self.0 {
            Place::Cuda(cuda) => State::Cuda(cuda.download_later(source.address(), source.len())?),
            Place::Plan(plan) => {
                plan.downloaded_later(source.len());
                State::Done(vec![0; source.len()])
            }
            Place::Cpu | Place::Emulated(_) => State::Done(source.as_host().to_vec()),
        }))
    }
}
