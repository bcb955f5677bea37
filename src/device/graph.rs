//! Work captured once and replayed: one call to the driver for the hundreds of launches of a training step.

use std::{collections::HashMap, sync::Arc};

use super::{
    Buffer, Device, Fill, Place,
    capture::{Capture, Captures, Held, Step},
    cuda::CudaGraph,
    heap::{GraphMemory, Home},
};
use crate::{Error, Result};

/// Work that [`Device::capture`] recorded, to be done again and again.
///
/// It keeps all memory alive that it uses: its own scratch, and every tensor from outside that a launch in the capture
/// read or wrote. What it cannot know is whether those tensors still mean the same to the caller, hence the contract:
///
/// - A replay reads and writes *the memory* of the capture. New inputs are written into the same tensors
///   ([`crate::Tensor::write_from`], [`crate::Tensor::copy_from`], [`super::Uploader`]); a variable that is given another
///   tensor is no longer seen. [`crate::Tensor::is_used_by`] tells.
/// - A replay writes although tensors are borrowed or cloned elsewhere: a clone of a parameter made between replays
///   shares its memory and changes with it. [`crate::Tensor::duplicate`] makes a copy that stays.
/// - What the capture creates, each replay creates anew. State that is carried on (momentum, running averages) exists
///   before the capture and is changed in place.
/// - Numbers passed by value (sizes, a learning rate given as `f64`) stay what they were in the capture.
/// - Control flow of the host ran once, in the capture.
/// - Replays are ordered with the device's other work. On the emulator they run at once, and no other thread may read
///   the graph's tensors meanwhile.
pub struct Graph {
    device: Device,
    program: Program,
    /// Before the memory: dropped after the program, which writes there.
    held: HashMap<usize, Held>,
    memory: Arc<GraphMemory>,
}

enum Program {
    Steps(Vec<Step>),
    Cuda(CudaGraph),
}

impl Device {
    /// Records what `f` launches, without running it; `f` itself runs once, now.
    ///
    /// Tensors that `f` allocates live in memory of the graph, which is used again inside the capture but never outside,
    /// so that replays find it undisturbed. Those that `f` returns hold what the last replay wrote, and nothing sensible
    /// before the first. They stay valid after the graph is dropped.
    ///
    /// Run the same work once before: kernels are then loaded, and the idle memory of the device serves the graph.
    /// See [`Graph`] for what the caller promises.
    ///
    /// On a plan, nothing is counted until the graph is replayed; the memory is.
    ///
    /// ```
    /// use bicl::{DType, Device, Tensor};
    /// let device = Device::plan(); // or a GPU
    /// let mut total = Tensor::zeros(&[4], DType::F32, &device)?;
    /// let one = Tensor::full(&[4], 1.0, DType::F32, &device)?;
    /// let (graph, ()) = device.capture(|| total.accumulate(&one))?;
    /// for _ in 0..3 {
    ///     graph.replay()?; // total += 1
    /// }
    /// let counts = device.as_plan().expect("it is one").counts();
    /// assert_eq!((counts.graph_launches, counts.kernels["accumulate_f32"].launches), (3, 3));
    /// # Ok::<(), bicl::Error>(())
    /// ```
    ///
    /// Errors: on the CPU; inside another capture; what `f` returns. Inside `f`, each with one line that says what to do
    /// instead: reading back, uploading, synchronising, replaying a graph, and copy-on-write of a tensor from outside. The
    /// device works as before after any of them.
    pub fn capture<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let recording = Recording::begin(self)?;
        let value = f()?;
        Ok((recording.finish()?, value))
    }

    /// The capture under way here on this thread, if any.
    pub(super) fn capturing(&self) -> Result<Option<Arc<Capture>>> {
        self.captures().map_or(Ok(None), Captures::current)
    }

    fn captures(&self) -> Option<&Captures> {
        match &self.0 {
            Place::Cpu => None,
            Place::Cuda(cuda) => Some(cuda.captures()),
            Place::Emulated(emulated) => Some(&emulated.captures),
            Place::Plan(plan) => Some(&plan.captures),
        }
    }

    /// Errors inside a capture; `advice` says why, and what to do.
    pub(super) fn expect_no_capture(&self, op: &str, advice: &str) -> Result<()> {
        match self.capturing()? {
            Some(_) => Err(Error::Graph(format!("{op} inside a capture: {advice}"))),
            None => Ok(()),
        }
    }

    /// Tells a capture under way that a launch uses this memory.
    pub(crate) fn note_use(&self, buffer: &Buffer) -> Result<()> {
        if let Some(capture) = self.capturing()? {
            capture.hold(buffer.block());
        }
        Ok(())
    }

    /// Errors where the copy that precedes a write to shared memory would take a tensor away from where replays write.
    pub(crate) fn expect_may_copy(&self, buffer: &Buffer) -> Result<()> {
        match self.capturing()? {
            Some(capture) if !capture.owns(buffer.block()) => Err(Error::Graph(
                "a write inside a capture to a tensor from outside whose memory is shared would go to a copy, which no one \
                 sees after a replay; drop what shares it (clones, the tape) before the write, or write to a duplicate()"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    /// Copies between buffers of this device.
    pub(crate) fn copy(&self, target: &mut Buffer, source: &Buffer) -> Result<()> {
        if let Some(capture) = self.capturing()? {
            capture.hold(target.block());
            capture.hold(source.block());
            if !self.is_cuda() {
                assert_eq!(target.len(), source.len(), "a buffer is copied whole");
                let (target, source, bytes) = (target.address(), source.address(), source.len());
                capture.record(Step::Copy { target, source, bytes });
                return Ok(());
            }
        }
        target.copy_from(source)
    }

    /// Repeats the pattern over the whole buffer.
    pub(crate) fn fill(&self, target: &mut Buffer, fill: Fill) -> Result<()> {
        if let Some(capture) = self.capturing()? {
            capture.hold(target.block());
            if !self.is_cuda() {
                capture.record(Step::Fill { target: target.address(), fill, bytes: target.len() });
                return Ok(());
            }
        }
        target.fill(fill)
    }
}

impl Graph {
    /// Does the captured work, after what was launched before, and does not wait for it.
    ///
    /// Errors: inside a capture; a failing launch.
    pub fn replay(&self) -> Result<()> {
        self.device.expect_no_capture("replay", "graphs do not nest; capture all of the work in one")?;
        match (&self.program, &self.device.0) {
            (Program::Cuda(graph), Place::Cuda(cuda)) => cuda.replay(graph),
            // SAFETY: the graph holds every block that its steps use, lends no slices of them (`Buffer::is_in_graph`), and
            // its contract keeps other threads away.
            (Program::Steps(steps), Place::Emulated(emulated)) => unsafe { emulated.replay(steps) },
            (Program::Steps(steps), Place::Plan(plan)) => {
                plan.replayed(steps);
                Ok(())
            }
            _ => Err(Error::Internal("a graph of another device".into())),
        }
    }

    /// Whether a replay can read or write this memory.
    pub(crate) fn uses(&self, buffer: &Buffer) -> bool {
        let own = matches!(buffer.block().home(), Home::Graph(memory) if Arc::ptr_eq(memory, &self.memory));
        own || self.held.contains_key(&buffer.address())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.memory.retire();
    }
}

/// Ends the capture whatever happens to `f`.
struct Recording {
    device: Device,
    capture: Arc<Capture>,
    open: bool,
}

impl Recording {
    fn begin(device: &Device) -> Result<Self> {
        let (Some(captures), parent) = (device.captures(), device.home()) else {
            return Err(Error::Graph("a graph needs a GPU; run the work directly, or use --device cuda".into()));
        };
        let capture = captures.begin(parent)?;
        let mut recording = Self { device: device.clone(), capture, open: false };
        if let Place::Cuda(cuda) = &device.0 {
            cuda.begin_capture()?;
        }
        recording.open = true;
        Ok(recording)
    }

    fn finish(mut self) -> Result<Graph> {
        self.open = false;
        let cuda = match &self.device.0 {
            Place::Cuda(cuda) => Some(cuda.end_capture()?),
            _ => None,
        };
        let (held, steps) = self.capture.take();
        let program = cuda.map_or(Program::Steps(steps), Program::Cuda);
        Ok(Graph { device: self.device.clone(), program, held, memory: self.capture.memory().clone() })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.open
            && let Place::Cuda(cuda) = &self.device.0
        {
            cuda.abandon_capture();
        }
        if let Some(captures) = self.device.captures() {
            captures.end();
        }
    }
}

impl Device {
    /// Where memory outside captures comes from.
    fn home(&self) -> Home {
        match &self.0 {
            Place::Cpu | Place::Emulated(_) => Home::Host,
            Place::Cuda(cuda) => Home::Device(cuda.clone()),
            Place::Plan(plan) => Home::Device(plan.clone()),
        }
    }

    /// A buffer of `bytes` bytes, of the graph's memory inside a capture.
    pub(super) fn take(&self, bytes: usize) -> Result<(Buffer, Option<Arc<Capture>>)> {
        // Another thread's capture is no business of this one's memory.
        let capture = self.capturing().unwrap_or(None);
        let home = capture.as_ref().map_or_else(|| self.home(), |capture| capture.home());
        Ok((Buffer::new(home, bytes)?, capture))
    }
}
