//! A whole training step (forward, losses, backward, SGD), and the losses alone at the published size.
//!
//! ```text
//! cargo bench --bench step                      the CPU
//! cargo bench --bench step -- --device cuda     a GPU: the published step, fp32 and bf16
//! ... --threads 2 --filter contrastive --filter segmentation_loss --dtype bf16 --json figures.jsonl
//! ```
//!
//! A row that fails becomes a JSON line with its key, `error` and no times, and the bench goes on; it then ends with status 1.
//! Only a GPU that no longer works ends it at once.
//!
//! Every row is first verified (finite losses; the same bits from the same start twice), warmed up, then timed.
//! A JSON line holds op, shape, direction, dtype, device (the key that tools/bench_pytorch.py shares, so that
//! tools/join_bench.py can set both side by side), and ms (the median), least_ms, timed, reps, threads, peak_mib; a training
//! step also its floating-point operations and, on a GPU, what each kernel launches and moves, of which join_bench.py makes the
//! breakdown by operation.
//! Inputs come from a seeded generator: normal pixels and features; labels in 9 x 9 regions of a random class, one in ten
//! of them 255. Steps are timed by the wall clock around the synchronised device, uploads of the batch included, on a GPU
//! several one after the other, as in training; there the losses are timed as a graph of calls (benches/kernels/clock.rs).

#[path = "kernels/clock.rs"]
mod clock;
#[path = "kernels/rows.rs"]
mod rows;
#[path = "step/work.rs"]
mod work;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use bicl::{
    DType, Device, Tensor,
    autograd::Tape,
    data::Batch,
    device::DeviceOptions,
    models::Backbone,
    nn::Precision,
    ops::{self, ContrastSpec, DomainPair, LabelSampling, PrototypeScope, SegmentationWeights},
    tensor::Rng,
    train::{Config, Network, PendingLosses, Preset, Stepper},
};
use clap::Parser;
use clock::{By, Call, Timing, Work};
use rows::{Filters, Rows};
use serde_json::{Value, json};

/// Regions of labels along each side of an image.
const REGIONS: usize = 9;

/// Classes of the losses alone.
const CLASSES: usize = 19;

/// Steps of one timing on a GPU, one after the other as in training.
const STEPS: usize = 16;

/// Share of the regions that are 255.
const IGNORED: f64 = 0.1;

/// Times training steps and their losses.
#[derive(Parser)]
struct Args {
    /// cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Take the built-in kernels instead of timing what suits each shape.
    #[arg(long)]
    no_autotune: bool,
    /// Only rows whose name (op, shape, direction, dtype) contains this text, or another that is given so.
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Only rows of this dtype: bf16 or f32.
    #[arg(long, value_parser = rows::dtype)]
    dtype: Option<DType>,
    /// Threads on the CPU; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Write one JSON object a row into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds that a row is measured for, after its warm-up.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a row is about.
struct Row {
    op: &'static str,
    shape: String,
    direction: &'static str,
    dtype: DType,
    /// What is known of its work beside its time: `operations` and `kernels`.
    work: Value,
}

impl Row {
    fn name(&self) -> String {
        format!("{} {} {} {}", self.op, self.shape, self.direction, self.dtype)
    }
}

struct Bench {
    args: Args,
    filters: Filters,
    threads: usize,
    rows: Rows,
}

/// Seconds of one call.
type Timed<'a> = dyn FnMut() -> Result<f64> + 'a;

/// A device of its own for each row: its peak of memory is then the row's.
fn open(args: &Args) -> bicl::Result<Device> {
    Device::open(&args.device, &DeviceOptions { autotune: !args.no_autotune, ..DeviceOptions::default() })
}

impl Bench {
    /// Runs `body`, if the row is asked for.
    ///
    /// Errors: as [`Rows::settle`]; a row that fails is recorded.
    fn row(&mut self, mut row: Row, body: impl FnOnce(&mut Self, &mut Row, &Device) -> Result<()>) -> Result<()> {
        if !self.filters.pass(&row.name(), row.dtype) {
            return Ok(());
        }
        let device = open(&self.args)?;
        let outcome = body(self, &mut row, &device);
        let key = self.key(&row);
        self.rows.settle(&key, outcome, || rows::alive(&open(&self.args)?))?;
        Ok(())
    }

    fn key(&self, row: &Row) -> Value {
        json!({
            "op": row.op, "shape": row.shape, "direction": row.direction, "dtype": row.dtype.to_string(),
            "device": if self.args.device.starts_with("cuda") { "cuda" } else { "cpu" },
        })
    }

    /// Warms `run` up and measures it.
    fn by_clock(&self, run: &mut Timed) -> Result<Timing> {
        let start = Instant::now();
        let mut warm = 0;
        while warm < 2 || (warm < 20 && start.elapsed().as_secs_f64() < 0.2 * self.args.seconds) {
            run()?;
            warm += 1;
        }
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 5 || (times.len() < 200 && start.elapsed().as_secs_f64() < self.args.seconds) {
            times.push(run()?);
        }
        Ok(Timing::of(times, By::Clock)?)
    }

    /// Measures a loss alone, whose results `run` gives.
    fn loss(&self, device: &Device, run: &dyn Fn() -> bicl::Result<Vec<Tensor>>) -> Result<Timing> {
        if device.is_cuda() {
            let prepare = |_| Ok(Box::new(run) as Call);
            // Calls are prepared with nothing.
            let work = Work { sets: 1, bytes: 1, seconds: self.args.seconds, prepare: &prepare };
            return Ok(clock::measure(device, &work)?);
        }
        self.by_clock(&mut || {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    /// Prints and writes the row.
    fn report(&mut self, row: &Row, device: &Device, timing: &Timing) -> Result<()> {
        let (median, least, reps) = (1e3 * timing.median, 1e3 * timing.least, timing.runs);
        let peak = device.as_cuda().map(|cuda| cuda.peak_bytes() >> 20);
        let memory = peak.map(|mib| format!("  peak {mib} MiB")).unwrap_or_default();
        let remark = timing.by.remark();
        println!("{:<84} {median:>10.3} ms  (best {least:.3}, {reps} runs){memory}{remark}", row.name());
        let mut line = self.key(row);
        let more = json!({
            "ms": median, "least_ms": least, "timed": timing.by.name(), "reps": reps, "threads": self.threads,
            "peak_mib": peak, "operations": row.work["operations"], "kernels": row.work["kernels"],
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            line[field] = value.clone();
        }
        Ok(self.rows.write(&line)?)
    }

    /// Steps of the trainer: `target` tells adaptation (pairs) from warm-up (source alone).
    fn step(&mut self, op: &'static str, config: &Config, [height, width]: [usize; 2], adapt: bool) -> Result<()> {
        let images = if adapt { config.data.batch } else { config.warmup.batch };
        let count = if adapt { format!("{images}+{images}") } else { images.to_string() };
        let model = &config.model;
        let shape = format!("{} w{} C{} {count}x{height}x{width}", model.backbone, model.width, model.classes);
        let row = Row { op, shape, direction: "step", dtype: config.precision.dtype(), work: Value::Null };
        self.row(row, |bench, row, device| bench.time_step(row, device, config, [height, width], adapt))
    }

    fn time_step(
        &mut self,
        row: &mut Row,
        device: &Device,
        config: &Config,
        [height, width]: [usize; 2],
        adapt: bool,
    ) -> Result<()> {
        let images = if adapt { config.data.batch } else { config.warmup.batch };
        let rng = &mut Rng::new(1);
        let source = batch(rng, [images, height, width], config.model.classes);
        let target = batch(rng, [images, height, width], config.model.classes);
        let start = || Network::new(&config.model, config.precision, config.seed, device);
        let once = |network: &mut Network, stepper: &mut Stepper| -> Result<Vec<(&'static str, f64)>> {
            // A small rate: the weights stay near their start for as long as the measurement takes.
            let rate = 1e-6;
            Ok(match adapt {
                true => stepper.adapt(network, config, source.clone(), target.clone(), rate)?,
                false => stepper.warmup(network, config, source.clone(), rate)?,
            })
        };
        let first = once(&mut start()?, &mut Stepper::new())?;
        let (mut network, mut stepper) = (start()?, Stepper::new());
        let domains = if adapt { 2 } else { 1 };
        row.work = json!({
            "operations": work::operations(&network.parameters, domains * images, [height, width]),
            "kernels": if adapt && device.is_cuda() { work::kernels(config, device)? } else { Value::Null },
        });
        let again = once(&mut network, &mut stepper)?;
        ensure!(first.iter().all(|(_, loss)| loss.is_finite()), "{}: losses {first:?}", row.name());
        ensure!(first == again, "{}: {first:?} and {again:?} from the same start", row.name());
        // As in training: while a GPU computes one step, the batch of the next one is copied there.
        let steps = if device.is_cuda() { STEPS } else { 1 };
        let timing = self.by_clock(&mut || {
            // Copies of the batch are the harness's, not the step's.
            let batches: Vec<_> = (0..steps).map(|_| (source.clone(), target.clone())).collect();
            device.synchronize()?;
            let start = Instant::now();
            let mut launched: Option<PendingLosses> = None;
            for (source, target) in batches {
                let now = match adapt {
                    true => stepper.launch_adapt(&mut network, config, source, target, 1e-6)?,
                    false => stepper.launch_warmup(&mut network, config, source, 1e-6)?,
                };
                // One step late, as in training.
                if let Some(last) = launched.replace(now) {
                    last.wait()?;
                }
            }
            if let Some(last) = launched {
                last.wait()?;
            }
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64() / steps as f64)
        })?;
        self.report(row, device, &timing)
    }

    /// Prototypes of both domains, label transfer where `labels`, both contrastive terms, and the gradients of all features.
    fn contrastive(&mut self, [n, h, w, d]: [usize; 4], full: usize, dtype: DType, labels: bool) -> Result<()> {
        let op = if labels { "contrastive_labels" } else { "contrastive" };
        let shape = format!("{n}x{h}x{w}x{d} {full}x{full} C{CLASSES}");
        let row = Row { op, shape, direction: "both", dtype, work: Value::Null };
        self.row(row, |bench, row, device| {
            let (rng, classes) = (&mut Rng::new(2), CLASSES);
            let features = [floats(rng, &[n, h, w, d], dtype, device)?, floats(rng, &[n, h, w, d], dtype, device)?];
            let [ys, yt] = [(); 2].map(|()| labels_of(rng, [n, full, full], classes));
            let ys = Tensor::from_vec(ys, &[n, full, full], device)?;
            let yt = Tensor::from_vec(yt, &[n, full, full], device)?;
            let bias = Tensor::zeros(&[classes, d], DType::F32, device)?;
            let spec = ContrastSpec {
                classes,
                forward_weight: 0.1,
                backward_weight: 0.1,
                temperature: 0.1,
                transfer_threshold: labels.then_some(0.8),
                scope: PrototypeScope::Pair,
                sampling: LabelSampling::Nearest,
            };
            let run = || -> bicl::Result<Vec<Tensor>> {
                let tape = Tape::new(device);
                let [source, target] = features.each_ref().map(|features| tape.variable(features.clone()));
                let pair = DomainPair::Apart([source.clone(), target.clone()]);
                let contrast = ops::bidirectional_contrast(&pair, [&ys, &yt], labels.then_some(&bias), &spec)?;
                let loss = contrast.total.ok_or_else(|| missing("loss: both weights are 0"))?;
                if labels {
                    contrast.prototypes.update_calibration(&mut bias.duplicate()?, 0.99, None)?;
                }
                let mut gradients = tape.backward(&loss)?;
                let mut gradient = |var| gradients.take(var).ok_or_else(|| missing("gradient"));
                Ok(vec![loss.value().clone(), gradient(&source)?, gradient(&target)?])
            };
            verify(row, &run()?, &run()?)?;
            let timing = bench.loss(device, &run)?;
            bench.report(row, device, &timing)
        })
    }

    /// Upsampling, cross entropy, entropy and the gradient of the logits, of one domain.
    fn segmentation(&mut self, [n, h, w, c]: [usize; 4], full: usize, dtype: DType) -> Result<()> {
        let shape = format!("{n}x{h}x{w}x{c} {full}x{full}");
        let row = Row { op: "segmentation_loss", shape, direction: "both", dtype, work: Value::Null };
        self.row(row, |bench, row, device| {
            let rng = &mut Rng::new(3);
            let logits = floats(rng, &[n, h, w, c], dtype, device)?;
            let labels = Tensor::from_vec(labels_of(rng, [n, full, full], c), &[n, full, full], device)?;
            let run = || -> bicl::Result<Vec<Tensor>> {
                let tape = Tape::new(device);
                let logits = tape.variable(logits.clone());
                let weights = SegmentationWeights { cross_entropy: 1.0, entropy: 0.4 };
                let loss = ops::segmentation_loss(&logits, &labels, weights)?.total;
                let mut gradients = tape.backward(&loss)?;
                Ok(vec![loss.value().clone(), gradients.take(&logits).ok_or_else(|| missing("gradient"))?])
            };
            verify(row, &run()?, &run()?)?;
            let timing = bench.loss(device, &run)?;
            bench.report(row, device, &timing)
        })
    }
}

fn missing(what: &str) -> bicl::Error {
    bicl::Error::Internal(format!("no {what}"))
}

/// Holds two runs against each other: finite, not all zero, and equal to the bit.
fn verify(row: &Row, first: &[Tensor], second: &[Tensor]) -> Result<()> {
    for (which, (a, b)) in first.iter().zip(second).enumerate() {
        let [a, b] = [a, b].map(|tensor| tensor.to_dtype(DType::F32).and_then(|tensor| tensor.to_vec::<f32>()));
        let (a, b) = (a?, b?);
        ensure!(a.iter().all(|x| x.is_finite()), "{}: output {which} is not finite", row.name());
        ensure!(a.iter().any(|&x| x != 0.0), "{}: output {which} is all zero", row.name());
        ensure!(a == b, "{}: output {which} differs between two runs", row.name());
    }
    Ok(())
}

fn floats(rng: &mut Rng, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
}

/// Labels [N,H,W] in regions of one class each.
fn labels_of(rng: &mut Rng, [n, height, width]: [usize; 3], classes: usize) -> Vec<u8> {
    let mut region = || match rng.uniform() < IGNORED {
        true => 255,
        false => (rng.next_u64() % classes as u64) as u8,
    };
    let regions: Vec<u8> = (0..n * REGIONS * REGIONS).map(|_| region()).collect();
    let mut labels = Vec::with_capacity(n * height * width);
    for (image, y) in (0..n).flat_map(|image| (0..height).map(move |y| (image, y))) {
        let row = (image * REGIONS + y * REGIONS / height) * REGIONS;
        labels.extend((0..width).map(|x| regions[row + x * REGIONS / width]));
    }
    labels
}

fn batch(rng: &mut Rng, [count, height, width]: [usize; 3], classes: usize) -> Batch {
    let images = (0..count * height * width * 3).map(|_| rng.normal() as f32).collect();
    let labels = labels_of(rng, [count, height, width], classes);
    Batch { images, labels, count, height, width, names: Vec::new(), position: 0 }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The causes too, and in one line, whatever RUST_BACKTRACE says.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = Args::parse();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let (rows, threads) = (Rows::new(args.json.take())?, rayon::current_num_threads());
    let filters = Filters { texts: std::mem::take(&mut args.filter), dtype: args.dtype };
    // Kept to the end: the context that all rows share then stays.
    let device = open(&args)?;
    let mut bench = Bench { args, filters, threads, rows };
    println!("step: {device}, {} threads", bench.threads);

    let miniature = Preset::Miniature.config();
    bench.step("warmup_step", &miniature, miniature.warmup.crop, false)?;
    bench.step("training_step", &miniature, miniature.data.crop, true)?;
    let mut published = Preset::Paper.config();
    if device.is_cuda() {
        for precision in [Precision::Fp32, Precision::Bf16] {
            published.precision = precision;
            bench.step("training_step", &published, published.data.crop, true)?;
        }
    } else {
        published.model.backbone = Backbone::ResNet50;
        bench.step("training_step", &published, [256, 256], true)?;
    }
    let dtypes: &[DType] = if device.is_cuda() { &[DType::F32, DType::Bf16] } else { &[DType::F32] };
    for &dtype in dtypes {
        bench.contrastive([2, 92, 92, 76], 730, dtype, false)?;
        bench.contrastive([2, 92, 92, 76], 730, dtype, true)?;
        bench.segmentation([2, 92, 92, 19], 730, dtype)?;
    }
    Ok(bench.rows.finish(&bench.filters)?)
}
