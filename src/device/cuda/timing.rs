//! How long work takes on the GPU, and the tuner that goes by it.

use std::{env, io, io::Write};

use cudarc::driver::{CudaEvent, sys};

use super::{CudaDevice, failed};
use crate::{
    Device, Error, Result,
    device::{
        IMAGES,
        tune_cache::{self, Origin, TuneCache},
        tuner::Tuner,
    },
};

/// Milliseconds that one measurement should last: the events' resolution is half a microsecond.
const SPAN: f32 = 0.5;
const MOST_REPEATS: usize = 64;
/// Of so many measurements the least counts.
const ROUNDS: usize = 3;

impl CudaDevice {
    /// Milliseconds that the GPU spends on what `work` launches, by events. Work of some microseconds on an idle GPU takes as
    /// long as the host needs to launch it: see [`CudaDevice::time_each`].
    ///
    /// Errors: inside a capture; what `work` returns.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f32> {
        let mut work = Some(work);
        let times = self.time_each(|| Ok(()), 1, || work.take().map_or(Ok(()), |work| work()))?;
        times.first().copied().ok_or_else(|| Error::Internal("one call gave no time".into()))
    }

    /// Milliseconds that the GPU spends on what each of `count` calls of `work` launches, by events between them. `lead` comes
    /// first and is not timed: while the GPU does that, the host gets ahead with the launches that are timed.
    ///
    /// Errors: inside a capture; what `lead` or `work` returns; a kernel that failed.
    pub fn time_each(
        &self,
        lead: impl FnOnce() -> Result<()>,
        count: usize,
        mut work: impl FnMut() -> Result<()>,
    ) -> Result<Vec<f32>> {
        if self.captures.current()?.is_some() {
            return Err(Error::Graph("time inside a capture: nothing runs; time the replays".into()));
        }
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let events: Vec<CudaEvent> = (0..=count)
            .map(|_| self.context.new_event(flags).map_err(failed("cuEventCreate")))
            .collect::<Result<_>>()?;
        lead()?;
        for (i, event) in events.iter().enumerate() {
            if i > 0 {
                work()?;
            }
            event.record(&self.stream).map_err(failed("cuEventRecord"))?;
        }
        events[count].synchronize().map_err(failed("cuEventSynchronize"))?;
        events.windows(2).map(|pair| pair[0].elapsed_ms(&pair[1]).map_err(failed("cuEventElapsedTime"))).collect()
    }

    /// Milliseconds of one `work`, which is done often enough to tell: as a graph, so that the host's launches do not count,
    /// where it can be captured. `device` is this one.
    ///
    /// Errors: what `work` returns; a kernel that failed.
    pub(in crate::device) fn measure(&self, device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        // Loads the kernels and takes memory that then lies ready.
        work()?;
        let once = self.time(&mut work)?;
        let repeats = ((SPAN / once) as usize).clamp(1, MOST_REPEATS);
        let mut all = || (0..repeats).try_for_each(|_| work());
        let times = match device.capture(&mut all) {
            Ok((graph, ())) => self.time_each(|| graph.replay(), ROUNDS, || graph.replay())?,
            Err(_) => self.time_each(|| Ok(()), ROUNDS, all)?,
        };
        let least = times.into_iter().fold(f32::INFINITY, f32::min);
        Ok(f64::from(least) / repeats as f64)
    }

    /// With the tune cache of this card, driver and build.
    pub(in crate::device) fn tuner(&self) -> &Tuner {
        self.tuner.get_or_init(|| {
            let (name, driver) = (self.name(), self.driver_version());
            let warn = |text: &str| {
                let _ = writeln!(io::stderr().lock(), "warning: {text}");
            };
            let known = name.is_ok() && driver.is_ok();
            let folder = tune_cache::folder(|name| env::var_os(name)).filter(|_| known);
            if folder.is_none() {
                warn("tune cache: no folder to keep them in; kernels are timed anew by every process; set BICL_CACHE");
            }
            let origin = Origin::new(&name.unwrap_or_default(), driver.unwrap_or_default(), IMAGES);
            Tuner::new(TuneCache::open(folder.as_deref(), origin, warn))
        })
    }
}
