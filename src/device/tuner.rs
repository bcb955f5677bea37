//! Picks among several configs to compute the same by trying them: once for a problem, and from then on from memory.

use std::sync::{Mutex, PoisonError};

use serde::{Serialize, de::DeserializeOwned};

use super::{Device, Place, tune_cache::TuneCache};
use crate::{Error, Result};

/// A config must take less than this share of the heuristic's time: below that lies the noise of timing, and other configs
/// mean other roundings.
const WORTH: f64 = 0.97;

/// What distinguishes the configs.
pub(crate) trait Config: Copy + PartialEq + Serialize + DeserializeOwned {}

impl<W: Copy + PartialEq + Serialize + DeserializeOwned> Config for W {}

/// The tune cache of one device. A problem is timed once for as long as it lives, and once for the file behind it.
pub(super) struct Tuner(Mutex<TuneCache>);

impl Tuner {
    pub fn new(cache: TuneCache) -> Self {
        Self(Mutex::new(cache))
    }

    /// The config for a problem: the one that is known; else the fastest by `measure`, which says how long a config takes, or
    /// nothing where it cannot run; else, where this may not be timed now or nothing works, the heuristic's, which is then not
    /// kept.
    ///
    /// Errors, naming problem and config: what `measure` returns, after which nothing more is timed.
    fn choose<W: Config>(
        &self,
        problem: String,
        heuristic: W,
        others: &[W],
        may_time: bool,
        mut measure: impl FnMut(W) -> Result<Option<f64>>,
    ) -> Result<W> {
        // Held while this times: nobody else disturbs that, or times the same.
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A file may name configs that a launch would refuse.
        let sound = |config: &W| *config == heuristic || others.contains(config);
        if let Some(known) = cache.get(&problem).filter(sound) {
            return Ok(known);
        }
        if !may_time {
            return Ok(heuristic);
        }
        let found =
            fastest(heuristic, others, |config| measure(config).map_err(|error| blame(&problem, config, &error)))?;
        if let Some(found) = &found {
            cache.put(problem, found);
        }
        Ok(found.unwrap_or(heuristic))
    }
}

/// The config that takes least; one that cannot run is passed over. `None` if none can.
fn fastest<W: Copy>(
    heuristic: W,
    others: &[W],
    mut measure: impl FnMut(W) -> Result<Option<f64>>,
) -> Result<Option<W>> {
    let mut time = |config| Ok::<_, Error>(measure(config)?.filter(|time| time.is_finite()));
    let mut best = time(heuristic)?.map(|time| (WORTH * time, heuristic));
    for &config in others {
        if let Some(time) = time(config)?
            && best.is_none_or(|(least, _)| time < least)
        {
            best = Some((time, config));
        }
    }
    Ok(best.map(|(_, config)| config))
}

/// The time of a config; `None` where it failed and the device goes on, as after a launch that was refused. `synchronize` waits
/// for the device.
///
/// Errors: a device that fails again when it is asked a second time. The first answer may be an old failure that is over.
fn judge(time: Result<f64>, mut synchronize: impl FnMut() -> Result<()>) -> Result<Option<f64>> {
    let state = synchronize().or_else(|_| synchronize());
    state.map(|()| time.ok())
}

/// The device's failure, with what was timed.
fn blame(problem: &str, config: impl Serialize, error: &Error) -> Error {
    let config = serde_json::to_string(&config).unwrap_or_else(|_| "a config without a name".into());
    let message = match error {
        Error::Cuda { op, message } => format!("{op}: {message}"),
        other => other.to_string(),
    };
    let advice = "the GPU works only in a new process: use --no-autotune or BICL_WARPGROUPS=off, and report it";
    Error::Cuda { op: format!("{problem}, timed by config {config}"), message: format!("{message}; {advice}") }
}

impl Device {
    /// The config to compute a problem. `describe` gives its name, which says all that the configs' times depend on, and what could
    /// be done instead of `heuristic`; `run` does it. Off GPUs, without leave, and for what is first met inside a capture,
    /// where nothing runs, the answer is `heuristic`.
    ///
    /// Errors: a config after which the GPU does not work any more; one that is merely refused is passed over.
    pub(crate) fn tuned<W: Config>(
        &self,
        heuristic: W,
        describe: impl FnOnce() -> (String, Vec<W>),
        mut run: impl FnMut(W) -> Result<()>,
    ) -> Result<W> {
        let forced = if self.is_cpu() { 0 } else { self.options().config };
        if forced > 0 {
            let others = describe().1;
            let number = forced % (others.len() + 1);
            return Ok(number.checked_sub(1).and_then(|i| others.get(i)).copied().unwrap_or(heuristic));
        }
        if let Place::Cuda(cuda) = &self.0
            && self.autotune()
        {
            let (problem, others) = describe();
            let may_time = matches!(self.capturing(), Ok(None));
            let measure = |config| judge(cuda.measure(self, || run(config)), || cuda.synchronize());
            return cuda.tuner().choose(problem, heuristic, &others, may_time, measure);
        }
        Ok(heuristic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tune_cache::Origin;

    fn tuner() -> Tuner {
        Tuner::new(TuneCache::open(None, Origin::new("card", 1, &[]), |_| {}))
    }

    /// Configs 0, 1, ... take so long; negative ones are refused. Config 0 is the heuristic's.
    fn best_of(times: &[f64]) -> Option<usize> {
        let others: Vec<usize> = (1..times.len()).collect();
        fastest(0, &others, |config| Ok(Some(times[config]).filter(|&time| time >= 0.0 || time.is_nan()))).unwrap()
    }

    #[test]
    fn the_fastest_wins() {
        assert_eq!(best_of(&[3.0, 2.0, 1.0, 2.5]), Some(2));
        assert_eq!(best_of(&[1.0, 2.0, 3.0]), Some(0));
        assert_eq!(best_of(&[1.0]), Some(0));
    }

    #[test]
    fn ties_go_to_the_heuristic() {
        assert_eq!(best_of(&[1.0, 1.0, 1.0]), Some(0));
        assert_eq!(best_of(&[1.0, 0.98, 0.99]), Some(0), "within the noise");
        assert_eq!(best_of(&[1.0, 0.9, 0.9]), Some(1), "then to the first");
    }

    #[test]
    fn what_is_refused_is_passed_over() {
        assert_eq!(best_of(&[2.0, -1.0, 1.0]), Some(2));
        assert_eq!(best_of(&[-1.0, 3.0, 2.0]), Some(2));
        assert_eq!(best_of(&[2.0, f64::NAN, f64::INFINITY]), Some(0));
        assert_eq!(best_of(&[-1.0, -1.0]), None);
    }

    /// The choice among 0, 1 and 2, where 1 is the fastest, and how many were timed.
    fn choose(tuner: &Tuner, problem: &str, may_time: bool) -> (usize, usize) {
        let mut timed = 0;
        let config = tuner.choose(problem.to_owned(), 0usize, &[1, 2], may_time, |config| {
            timed += 1;
            Ok(Some([2.0, 1.0, 3.0][config]))
        });
        (config.unwrap(), timed)
    }

    #[test]
    fn a_problem_is_timed_once() {
        let tuner = tuner();
        assert_eq!(choose(&tuner, "a", true), (1, 3));
        assert_eq!(choose(&tuner, "a", true), (1, 0));
        assert_eq!(choose(&tuner, "b", true), (1, 3));
    }

    #[test]
    fn inside_a_capture_nothing_is_timed_or_kept() {
        let tuner = tuner();
        assert_eq!(choose(&tuner, "a", false), (0, 0));
        assert_eq!(choose(&tuner, "a", true), (1, 3), "it was not kept as timed");
        assert_eq!(choose(&tuner, "a", false), (1, 0), "what is known serves captures too");
    }

    #[test]
    fn what_cannot_be_launched_is_not_taken_from_a_file() {
        let tuner = tuner();
        tuner.0.lock().unwrap().put("a".into(), &9);
        assert_eq!(choose(&tuner, "a", false), (0, 0));
        assert_eq!(choose(&tuner, "a", true), (1, 3));
    }

    #[test]
    fn where_all_fail_the_built_in_way_is_taken_and_not_kept() {
        let tuner = tuner();
        assert_eq!(tuner.choose("a".into(), 0usize, &[1, 2], true, |_| Ok(None)).unwrap(), 0);
        assert_eq!(choose(&tuner, "a", true), (1, 3));
    }

    fn failure(message: &str) -> Error {
        Error::Cuda { op: "cuStreamSynchronize".into(), message: message.into() }
    }

    #[test]
    fn a_way_that_breaks_the_device_is_an_error_with_its_name() {
        let (tuner, mut timed) = (tuner(), 0);
        let breaking = |config| {
            timed += 1;
            if config == 1 { Err(failure("CUDA_ERROR_ILLEGAL_ADDRESS")) } else { Ok(Some(1.0)) }
        };
        let error = tuner.choose("conv2d forward".into(), 0usize, &[1, 2], true, breaking).unwrap_err().to_string();
        for part in ["conv2d forward", "config 1", "cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS", "--no-autotune"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!((timed, error.lines().count()), (2, 1), "nothing is timed on a broken device");
        assert_eq!(choose(&tuner, "conv2d forward", true), (1, 3), "nothing was kept");
    }

    #[test]
    fn a_failure_is_the_ways_own_where_the_device_goes_on() {
        let refused = || Err(failure("CUDA_ERROR_INVALID_VALUE"));
        assert_eq!(judge(Ok(2.0), || Ok(())).unwrap(), Some(2.0));
        assert_eq!(judge(refused(), || Ok(())).unwrap(), None);
        // What an earlier call left behind is told once.
        let mut told = false;
        let once = || if std::mem::replace(&mut told, true) { Ok(()) } else { Err(failure("an old one")) };
        assert_eq!(judge(Ok(2.0), once).unwrap(), Some(2.0));
        for time in [Ok(2.0), refused()] {
            let error = judge(time, || Err(failure("CUDA_ERROR_ILLEGAL_ADDRESS"))).unwrap_err();
            assert!(error.to_string().contains("ILLEGAL_ADDRESS"), "{error}");
        }
    }

    #[test]
    fn devices_without_a_clock_keep_to_the_heuristic() {
        for device in [Device::cpu(), Device::plan()] {
            assert!(device.options().autotune && !device.autotune());
            let config = device.tuned(0, || unreachable!("nothing is asked"), |_| unreachable!("nothing is run"));
            assert_eq!(config.unwrap(), 0);
        }
    }
}
