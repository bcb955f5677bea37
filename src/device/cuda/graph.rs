//! Stream capture: the driver records what is launched on the stream, and a graph of it is launched as one.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, result, sys};

use super::{CudaDevice, failed};
use crate::{Error, Result};

/// An instantiated graph (a `CUgraphExec`). The driver does not guard it against use from two threads, so a lock does.
pub(in crate::device) struct CudaGraph {
    context: Arc<CudaContext>,
    instance: Mutex<usize>,
}

impl CudaDevice {
    pub(in crate::device) fn begin_capture(&self) -> Result<()> {
        // Relaxed, because work inside may call cuMemAlloc and, for a kernel not used before, cuModuleLoadData. The stricter
        // modes refuse both on this thread, lest they wait for a stream that is only recorded. Here they do not: the
        // context's other streams are non-blocking, and nothing frees memory while a capture is under way (see
        // `allocate`). What would wait (copies from pageable memory, synchronisation) the device refuses itself.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed("cuStreamBeginCapture"))
    }

    pub(super) fn is_capturing(&self) -> bool {
        !matches!(self.captures.current(), Ok(None))
    }

    pub(in crate::device) fn end_capture(&self) -> Result<CudaGraph> {
        let graph = self.end_recording()?;
        // SAFETY: the graph is valid and not used again after it is destroyed; an instance does not need it.
        let (made, _) = unsafe {
            let flags = sys::CUgraphInstantiate_flags(0);
            (result::graph::instantiate(graph, flags), result::graph::destroy(graph))
        };
        let instance = Mutex::new(made.map_err(failed("cuGraphInstantiate"))? as usize);
        Ok(CudaGraph { context: self.context.clone(), instance })
    }

    /// Ends a capture whose work failed; the stream then works as before.
    pub(in crate::device) fn abandon_capture(&self) {
        if let Ok(graph) = self.end_recording() {
            // SAFETY: the graph is valid and used nowhere. A failure leaves nothing to do.
            let _ = unsafe { result::graph::destroy(graph) };
        }
    }

    fn end_recording(&self) -> Result<sys::CUgraph> {
        self.bind()?;
        // SAFETY: the stream is valid. The call ends the capture even where it fails because the capture was broken.
        let graph =
            unsafe { result::stream::end_capture(self.stream.cu_stream()) }.map_err(failed("cuStreamEndCapture"))?;
        match graph.is_null() {
            true => Err(Error::Internal("a capture ended without a graph".into())),
            false => Ok(graph),
        }
    }

    pub(in crate::device) fn replay(&self, graph: &CudaGraph) -> Result<()> {
        self.bind()?;
        let instance = graph.instance.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the instance is alive, and so is all memory that it uses: the owner of `graph` holds it.
        unsafe { result::graph::launch(*instance as sys::CUgraphExec, self.stream.cu_stream()) }
            .map_err(failed("cuGraphLaunch"))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        let instance = *self.instance.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: made by `end_capture` and used nowhere else. The driver lets a replay that is under way finish first. A
        // failure leaves nothing to do.
        let _ = unsafe { result::graph::exec_destroy(instance as sys::CUgraphExec) };
    }
}
