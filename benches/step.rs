//! A whole training step (forward, losses, backward, SGD), and the losses alone at the published size.
//!
//! ```text
//! cargo bench --bench step                      the CPU
//! cargo bench --bench step -- --device cuda     a GPU: the published step, fp32 and bf16
//! ... --threads 2 --filter contrastive --json figures.jsonl
//! ```
//!
//! Every row is first verified (finite losses; the same bits from the same start twice), warmed up, then timed.
//! A JSON line holds op, shape, direction, dtype, device (the key that tools/bench_pytorch.py shares, so that
//! tools/join_bench.py can set both side by side), and ms (the median), least_ms, reps, threads, peak_mib; a training step also
//! its floating-point operations and, on a GPU, what each kernel launches and moves, of which join_bench.py makes the breakdown
//! by operation.
//! Inputs come from a seeded generator: normal pixels and features; labels in 9 x 9 regions of a random class, one in ten
//! of them 255. Steps are timed by the wall clock around the synchronised device, uploads of the batch included; on a GPU
//! the losses are timed by events.

#[path = "step/work.rs"]
mod work;

use std::{io::Write, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use bicl::{
    DType, Device, Tensor,
    autograd::Tape,
    data::Batch,
    models::Backbone,
    nn::Precision,
    ops::{self, ContrastSpec, DomainPair, LabelPlaces, PrototypeScope, SegmentationWeights},
    tensor::Rng,
    train::{Config, Network, Preset, Stepper},
};
use clap::Parser;
use serde_json::{Value, json};

/// Regions of labels along each side of an image.
const REGIONS: usize = 9;

/// Classes of the losses alone.
const CLASSES: usize = 19;

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
    /// Only rows whose name (op, shape, direction, dtype) contains this text.
    #[arg(long, default_value = "")]
    filter: String,
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
    threads: usize,
    json: Option<std::fs::File>,
    rows: usize,
}

/// Milliseconds of one call.
type Timed<'a> = dyn FnMut() -> Result<f64> + 'a;

impl Bench {
    fn device(&self) -> Result<Device> {
        // A device of its own for each row: its peak of memory is then the row's.
        let device: Device = self.args.device.parse()?;
        device.set_autotune(!self.args.no_autotune);
        Ok(device)
    }

    fn wants(&self, row: &Row) -> bool {
        row.name().contains(&self.args.filter)
    }

    /// Warms `run` up, measures it, prints and writes the row.
    fn measure(&mut self, row: &Row, device: &Device, run: &mut Timed) -> Result<()> {
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
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let peak = device.as_cuda().map(|cuda| cuda.peak_bytes() >> 20);
        let memory = peak.map(|mib| format!("  peak {mib} MiB")).unwrap_or_default();
        println!("{:<84} {median:>10.3} ms  (best {:.3}, {} runs){memory}", row.name(), times[0], times.len());
        self.rows += 1;
        if let Some(file) = &mut self.json {
            let line = json!({
                "op": row.op, "shape": row.shape, "direction": row.direction, "dtype": row.dtype.to_string(),
                "device": if device.is_cuda() { "cuda" } else { "cpu" }, "ms": median, "least_ms": times[0],
                "reps": times.len(), "threads": self.threads, "peak_mib": peak,
                "operations": row.work["operations"], "kernels": row.work["kernels"],
            });
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    /// Steps of the trainer: `target` tells adaptation (pairs) from warm-up (source alone).
    fn step(&mut self, op: &'static str, config: &Config, [height, width]: [usize; 2], adapt: bool) -> Result<()> {
        let images = if adapt { config.data.batch } else { config.warmup.batch };
        let count = if adapt { format!("{images}+{images}") } else { images.to_string() };
        let model = &config.model;
        let shape = format!("{} w{} C{} {count}x{height}x{width}", model.backbone, model.width, model.classes);
        let mut row = Row { op, shape, direction: "step", dtype: config.precision.dtype(), work: Value::Null };
        if !self.wants(&row) {
            return Ok(());
        }
        let device = self.device()?;
        let rng = &mut Rng::new(1);
        let source = batch(rng, [images, height, width], config.model.classes);
        let target = batch(rng, [images, height, width], config.model.classes);
        let start = || Network::new(&config.model, config.precision, config.seed, &device);
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
            "kernels": if adapt && device.is_cuda() { work::kernels(config, &device)? } else { Value::Null },
        });
        let again = once(&mut network, &mut stepper)?;
        ensure!(first.iter().all(|(_, loss)| loss.is_finite()), "{}: losses {first:?}", row.name());
        ensure!(first == again, "{}: {first:?} and {again:?} from the same start", row.name());
        self.measure(&row, &device, &mut || {
            // Copies of the batch are the harness's, not the step's.
            let (source, target) = (source.clone(), target.clone());
            device.synchronize()?;
            let start = Instant::now();
            match adapt {
                true => stepper.adapt(&mut network, config, source, target, 1e-6)?,
                false => stepper.warmup(&mut network, config, source, 1e-6)?,
            };
            device.synchronize()?;
            Ok(1e3 * start.elapsed().as_secs_f64())
        })
    }

    /// Prototypes of both domains, label transfer where `labels`, both contrastive terms, and the gradients of all features.
    fn contrastive(&mut self, [n, h, w, d]: [usize; 4], full: usize, dtype: DType, labels: bool) -> Result<()> {
        let op = if labels { "contrastive_labels" } else { "contrastive" };
        let row = Row {
            op,
            shape: format!("{n}x{h}x{w}x{d} {full}x{full} C{CLASSES}"),
            direction: "both",
            dtype,
            work: Value::Null,
        };
        if !self.wants(&row) {
            return Ok(());
        }
        let device = self.device()?;
        let (rng, classes) = (&mut Rng::new(2), CLASSES);
        let features = [floats(rng, &[n, h, w, d], dtype, &device)?, floats(rng, &[n, h, w, d], dtype, &device)?];
        let [ys, yt] = [(); 2].map(|()| labels_of(rng, [n, full, full], classes));
        let ys = Tensor::from_vec(ys, &[n, full, full], &device)?;
        let yt = Tensor::from_vec(yt, &[n, full, full], &device)?;
        let bias = Tensor::zeros(&[classes, d], DType::F32, &device)?;
        let spec = ContrastSpec {
            classes,
            forward_weight: 0.1,
            backward_weight: 0.1,
            temperature: 0.1,
            transfer_threshold: labels.then_some(0.8),
            scope: PrototypeScope::Pair,
            places: LabelPlaces::Nearest,
        };
        let run = || -> Result<[Tensor; 3]> {
            let tape = Tape::new(&device);
            let [source, target] = features.each_ref().map(|features| tape.variable(features.clone()));
            let pair = DomainPair::Apart([source.clone(), target.clone()]);
            let contrast = ops::bidirectional_contrast(&pair, [&ys, &yt], labels.then_some(&bias), &spec)?;
            let loss = contrast.total.context("both weights are 0")?;
            if labels {
                contrast.prototypes.update_calibration(&mut bias.clone(), 0.99, None)?;
            }
            let mut gradients = tape.backward(&loss)?;
            let mut gradient = |var| gradients.take(var).context("a gradient is missing");
            Ok([loss.value().clone(), gradient(&source)?, gradient(&target)?])
        };
        verify(&row, &run()?, &run()?)?;
        self.measure(&row, &device, &mut || time(&device, || run().map(drop)))
    }

    /// Upsampling, cross entropy, entropy and the gradient of the logits, of one domain.
    fn segmentation(&mut self, [n, h, w, c]: [usize; 4], full: usize, dtype: DType) -> Result<()> {
        let shape = format!("{n}x{h}x{w}x{c} {full}x{full}");
        let row = Row { op: "segmentation_loss", shape, direction: "both", dtype, work: Value::Null };
        if !self.wants(&row) {
            return Ok(());
        }
        let device = self.device()?;
        let rng = &mut Rng::new(3);
        let logits = floats(rng, &[n, h, w, c], dtype, &device)?;
        let labels = Tensor::from_vec(labels_of(rng, [n, full, full], c), &[n, full, full], &device)?;
        let run = || -> Result<[Tensor; 2]> {
            let tape = Tape::new(&device);
            let logits = tape.variable(logits.clone());
            let weights = SegmentationWeights { cross_entropy: 1.0, entropy: 0.4 };
            let loss = ops::segmentation_loss(&logits, &labels, weights)?.total;
            let mut gradients = tape.backward(&loss)?;
            Ok([loss.value().clone(), gradients.take(&logits).context("the gradient is missing")?])
        };
        verify(&row, &run()?, &run()?)?;
        self.measure(&row, &device, &mut || time(&device, || run().map(drop)))
    }
}

/// Milliseconds of `run`: by events on a GPU, by the wall clock elsewhere.
fn time(device: &Device, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    if let Some(cuda) = device.as_cuda() {
        let mut failure = None;
        let elapsed = cuda.time(|| {
            failure = run().err();
            Ok(())
        })?;
        return failure.map_or(Ok(f64::from(elapsed)), Err);
    }
    let start = Instant::now();
    run()?;
    Ok(1e3 * start.elapsed().as_secs_f64())
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

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let json = match &args.json {
        Some(path) => Some(std::fs::File::create(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    let mut bench = Bench { args, threads: rayon::current_num_threads(), json, rows: 0 };
    let device = bench.device()?;
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
    ensure!(bench.rows > 0, "no row contains {:?}", bench.args.filter);
    Ok(())
}
