//! How long work takes on the GPU, and the tuner that goes by it.

use std::{env, io, io::Write, sync::atomic::Ordering};

use cudarc::driver::sys;

use super::{CudaDevice, failed};
use crate::{
    Error, Result,
    device::{
        IMAGES,
        choices::{self, Choices, Origin},
        tuner::Tuner,
    },
};

/// Milliseconds that one measurement should last: the events' resolution is half a microsecond, and the first launch of several
/// waits for the host.
const SPAN: f32 = 0.5;
const MOST_REPEATS: usize = 32;
/// Of so many measurements the least counts.
const ROUNDS: usize = 3;

impl CudaDevice {
    /// Milliseconds that the GPU spends on what `work` launches, by events.
    ///
    /// Errors: inside a capture; what `work` returns.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f32> {
        if self.captures.current()?.is_some() {
            return Err(Error::Graph("time inside a capture: nothing runs; time the replays".into()));
        }
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.context.new_event(flags).map_err(failed("cuEventCreate"))?;
        let end = self.context.new_event(flags).map_err(failed("cuEventCreate"))?;
        start.record(&self.stream).map_err(failed("cuEventRecord"))?;
        work()?;
        end.record(&self.stream).map_err(failed("cuEventRecord"))?;
        end.synchronize().map_err(failed("cuEventSynchronize"))?;
        start.elapsed_ms(&end).map_err(failed("cuEventElapsedTime"))
    }

    /// Milliseconds of one `work`, which is done often enough to tell.
    pub(in crate::device) fn measure(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        // Loads the kernels and takes memory that then lies ready.
        work()?;
        let once = self.time(&mut work)?;
        let repeats = ((SPAN / once) as usize).clamp(1, MOST_REPEATS);
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            let all = self.time(|| (0..repeats).try_for_each(|_| work()))?;
            least = least.min(f64::from(all) / repeats as f64);
        }
        Ok(least)
    }

    pub(in crate::device) fn set_autotune(&self, on: bool) {
        self.autotune.store(on, Ordering::Relaxed);
    }

    pub(in crate::device) fn autotune(&self) -> bool {
        self.autotune.load(Ordering::Relaxed)
    }

    /// With the choices of this card, driver and build.
    pub(in crate::device) fn tuner(&self) -> &Tuner {
        self.tuner.get_or_init(|| {
            let (name, driver) = (self.name(), self.driver_version());
            let warn = |text: &str| {
                let _ = writeln!(io::stderr().lock(), "warning: {text}");
            };
            let known = name.is_ok() && driver.is_ok();
            let folder = choices::folder(|name| env::var_os(name)).filter(|_| known);
            if folder.is_none() {
                warn("kernel choices: no folder to keep them in; kernels are timed anew by every process; set BICL_CACHE");
            }
            let origin = Origin::new(&name.unwrap_or_default(), driver.unwrap_or_default(), IMAGES);
            Tuner::new(Choices::open(folder.as_deref(), origin, warn))
        })
    }
}
