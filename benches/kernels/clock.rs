//! How long a call takes.
//!
//! On a GPU many calls are captured as one graph and events stand around its replays: what is measured is the GPU's work, and not
//! the host's launches, which take longer than a short kernel. What cannot be captured (a read-back) stands between two events
//! behind other work, so that the host gets ahead. On the CPU the clock counts.

use std::{hint::black_box, time::Instant};

use bicl::{
    DType, Device, Error, Result, Tensor,
    device::{CudaDevice, Graph},
};

/// Seconds that one replay should last: the events' resolution is half a microsecond.
const SPAN: f64 = 1e-3;
const MOST_CALLS: usize = 256;
/// What the operands that prepared calls keep may take, at most, in bytes.
const MOST_BYTES: usize = 8 << 30;
/// Replays that count.
const REPLAYS: [usize; 2] = [7, 500];
/// Replays before them, at most.
const MOST_WARM: usize = 100;
/// Bytes of a copy that takes an H100 about 200 us: more than the host needs to launch a pass.
const BUSY: usize = 256 << 20;

/// A call, ready to run, and its results.
pub type Call<'a> = Box<dyn FnOnce() -> Result<Vec<Tensor>> + 'a>;

/// What is timed.
pub struct Work<'a> {
    /// Sets of inputs, through which the calls go in turn.
    pub sets: usize,
    /// Bytes of a set.
    pub bytes: usize,
    /// How long to measure.
    pub seconds: f64,
    /// Makes a call on the set with this index ready; that is not timed.
    pub prepare: &'a dyn Fn(usize) -> Result<Call<'a>>,
}

/// Seconds of a call, and how they were found.
pub struct Timing {
    pub median: f64,
    pub least: f64,
    /// Times of which these are: of one call, or of a replay divided by its calls.
    pub runs: usize,
    pub by: By,
}

pub enum By {
    Graph,
    /// And why not as a graph.
    Events(String),
    Clock,
}

impl By {
    /// As JSON lines hold it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::Events(_) => "events",
            Self::Clock => "clock",
        }
    }

    /// What a table should say beside the time.
    pub fn remark(&self) -> String {
        match self {
            Self::Events(reason) => format!("  by events: {reason}"),
            Self::Graph | Self::Clock => String::new(),
        }
    }
}

impl Timing {
    /// The median and the least of some times, in seconds.
    pub fn of(mut times: Vec<f64>, by: By) -> Result<Self> {
        times.sort_by(f64::total_cmp);
        let (Some(&median), Some(&least)) = (times.get(times.len() / 2), times.first()) else {
            return Err(Error::Internal("nothing was timed".into()));
        };
        if least <= 0.0 || !times.iter().all(|time| time.is_finite()) {
            return Err(Error::Internal(format!("times from {least} to {:?} s", times.last())));
        }
        Ok(Self { median, least, runs: times.len(), by })
    }
}

pub fn measure(device: &Device, work: &Work) -> Result<Timing> {
    match device.as_cuda() {
        Some(cuda) => by_graph(device, cuda, work),
        None => Timing::of(
            each(work, |call, results| {
                let start = Instant::now();
                *results = call()?;
                Ok(start.elapsed().as_secs_f64())
            })?,
            By::Clock,
        ),
    }
}

/// Times of single calls, after two that warm up.
fn each<'a>(work: &Work<'a>, mut time: impl FnMut(Call<'a>, &mut Vec<Tensor>) -> Result<f64>) -> Result<Vec<f64>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 12 || (times.len() < 200 && start.elapsed().as_secs_f64() < work.seconds) {
        let call = (work.prepare)(times.len() % work.sets)?;
        let mut results = Vec::new();
        times.push(time(call, &mut results)?);
        black_box(results);
    }
    Ok(times.split_off(2))
}

fn by_graph(device: &Device, cuda: &CudaDevice, work: &Work) -> Result<Timing> {
    // Loads the kernels and takes memory that then lies ready.
    for set in 0..2 {
        black_box((work.prepare)(set % work.sets)?()?);
    }
    let most = MOST_CALLS.min(MOST_BYTES / work.bytes.max(1)) / work.sets * work.sets;
    let mut calls = work.sets;
    let (graph, span) = loop {
        let graph = match capture(device, work, calls)? {
            Ok(graph) => graph,
            Err(reason) => return by_events(device, cuda, work, reason.to_string()),
        };
        let mut spans = cuda.time_each(|| graph.replay(), 3, || graph.replay())?;
        spans.sort_by(f32::total_cmp);
        let span = 1e-3 * f64::from(spans[1]).max(1e-6);
        // Every set as often as the others.
        let rounds = (SPAN / span * calls as f64 / work.sets as f64).ceil() as usize;
        let wanted = (rounds * work.sets).min(most);
        if calls > work.sets || wanted <= calls {
            break (graph, span);
        }
        calls = wanted;
    };
    let count = ((work.seconds / span) as usize).clamp(REPLAYS[0], REPLAYS[1]);
    let warm = ((0.1 * work.seconds / span) as usize).clamp(1, MOST_WARM);
    let times = cuda.time_each(|| (0..warm).try_for_each(|_| graph.replay()), count, || graph.replay())?;
    Timing::of(times.into_iter().map(|time| 1e-3 * f64::from(time) / calls as f64).collect(), By::Graph)
}

/// The graph of so many calls, or why there can be none. Results are dropped in it, so that their memory serves the next call.
fn capture(device: &Device, work: &Work, calls: usize) -> Result<Result<Graph>> {
    let ready: Vec<Call> = (0..calls).map(|call| (work.prepare)(call % work.sets)).collect::<Result<_>>()?;
    let run = |call: Call| call().map(|results| drop(black_box(results)));
    Ok(device.capture(|| ready.into_iter().try_for_each(run)).map(|(graph, ())| graph))
}

fn by_events(device: &Device, cuda: &CudaDevice, work: &Work, reason: String) -> Result<Timing> {
    let busy = Tensor::zeros(&[BUSY], DType::U8, device)?;
    let times = each(work, |call, results| {
        let (mut call, lead) = (Some(call), || busy.duplicate().map(drop));
        let times = cuda.time_each(lead, 1, || {
            if let Some(call) = call.take() {
                *results = call()?;
            }
            Ok(())
        })?;
        Ok(times.iter().map(|&time| 1e-3 * f64::from(time)).sum())
    })?;
    Timing::of(times, By::Events(reason))
}
