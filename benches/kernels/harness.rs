//! What all rows share: arguments, verification, timing, ceilings, table and JSON lines.

use std::{fs::File, hint::black_box, io::Write, time::Instant};

use bicl::{
    DType, Device, Error, Result, Tensor,
    autograd::{Tape, Var},
};
use half::bf16;

use super::ceilings::Ceilings;

/// Inputs and results of one timing rotate through at least this many bytes: more than any last-level cache here.
const ROTATION: usize = 192 << 20;
const MOST_SETS: usize = 16;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The operation, without a tape.
    Forward,
    /// The gradient of one input, by its index.
    Gradient(usize),
    /// The gradients of all inputs together.
    Backward,
}

/// One operation at one shape.
pub struct Problem<'a> {
    pub op: &'a str,
    /// As the table shows it.
    pub shape: String,
    /// Shapes of the operands.
    pub inputs: Vec<Vec<usize>>,
    pub dtype: DType,
    /// From this operand on they are stored as sums are: prototypes, f32 beside bf16 features.
    pub sums_from: usize,
    /// What to time, with the name of the row.
    pub passes: &'a [(&'a str, Pass)],
    /// Floating-point operations of one pass; 0 for work bound by memory.
    pub operations: f64,
    /// Bytes that one pass moves besides operands and output: labels that `run` holds, what it writes on the way.
    pub more_bytes: usize,
    pub run: &'a dyn Fn(&[Var]) -> Result<Var>,
}

impl Problem<'_> {
    /// The type of operand `i` where the operation runs in `dtype`.
    fn stored(&self, i: usize, dtype: DType) -> DType {
        if i < self.sums_from { dtype } else { dtype.accumulator() }
    }
}

pub struct Bench {
    pub device: Device,
    filter: String,
    json: Option<(String, File)>,
    /// None on a plan, where nothing is timed.
    ceilings: Option<Ceilings>,
}

/// A tensor that `run` holds, where the bench runs and where it is verified.
pub struct Held {
    host: Tensor,
    device: Tensor,
}

impl Held {
    pub fn new(host: Tensor, bench: &Bench) -> Result<Self> {
        Ok(Self { device: host.to_device(&bench.device)?, host })
    }

    /// The copy that lies where `operand` does.
    pub fn beside(&self, operand: &Var) -> &Tensor {
        if operand.value().device().is_cpu() { &self.host } else { &self.device }
    }

    pub fn bytes(&self) -> usize {
        self.host.len() * self.host.dtype().size()
    }
}

/// The shape as rows name it.
pub fn by(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// Deterministic reals in [-1, 1).
pub fn random(shape: &[usize], dtype: DType, seed: u64, device: &Device) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    let tensor = match dtype {
        DType::F64 => Tensor::from_vec(values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), shape, device)?,
        DType::Bf16 => Tensor::from_vec(values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>(), shape, device)?,
        _ => Tensor::from_vec(values, shape, device)?,
    };
    Ok(tensor)
}

pub fn wide(tensor: &Tensor) -> Result<Vec<f64>> {
    match tensor.dtype() {
        DType::U8 => Ok(tensor.to_vec::<u8>()?.into_iter().map(f64::from).collect()),
        DType::U32 => Ok(tensor.to_vec::<u32>()?.into_iter().map(f64::from).collect()),
        _ => tensor.to_device(&Device::cpu())?.to_dtype(DType::F64)?.to_vec(),
    }
}

/// Seconds of `work` on the device.
pub fn time(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    if let Some(cuda) = device.as_cuda() {
        return Ok(f64::from(cuda.time(work)?) * 1e-3);
    }
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

impl Bench {
    pub fn from_arguments() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let (mut device, mut filter, mut json) = (Device::best(), String::new(), None);
        let (mut autotune, mut warpgroups) = (true, None);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Error::Config(format!("{argument} needs a value")));
            match argument.as_str() {
                "--device" => {
                    let name = value()?;
                    device = if name == "plan" { Device::plan() } else { name.parse()? };
                }
                "--filter" => filter = value()?,
                "--json" => {
                    let path = value()?;
                    let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
                    json = Some((path, file));
                }
                "--no-autotune" => autotune = false,
                "--warpgroups" => {
                    let answer = value()?;
                    warpgroups = Some(match answer.as_str() {
                        "on" => true,
                        "off" => false,
                        _ => return Err(Error::Config(format!("--warpgroups {answer:?}; use on or off"))),
                    });
                }
                // Cargo passes this one.
                "--bench" => {}
                other => {
                    let known = "--device, --filter, --json, --no-autotune and --warpgroups";
                    return Err(Error::Config(format!("unknown argument {other:?}; {known} are known")));
                }
            }
        }
        device.set_autotune(autotune);
        // A plan counts for Hopper unless told otherwise.
        if let Some(on) = warpgroups.or(device.as_plan().map(|_| true)) {
            device.set_warpgroup_products(on);
        }
        let mut bench = Self { device, filter, json, ceilings: None };
        if bench.device.as_plan().is_some() {
            println!("launches of every row, counted on no device; tools/predict.py makes times of them");
            println!(
                "{:<18} {:<9} {:<36} {:<5} {:<42} {:>7} {:>9}",
                "op", "pass", "shape", "dtype", "kernel", "blocks", "MB"
            );
            return Ok(bench);
        }
        let ceilings = Ceilings::measure(&bench.device)?;
        println!("device {}", bench.name()?);
        for row in ceilings.rows(&bench.device) {
            let [op, shape, dtype] = ["op", "shape", "dtype"].map(|field| row[field].as_str().unwrap_or_default());
            match (row["bytes_per_second"].as_f64(), row["operations_per_second"].as_f64()) {
                (Some(rate), _) => println!("{op} of {shape}: {:.0} GB/s (read + write)", rate / 1e9),
                (_, rate) => println!("{op} {shape} {dtype}: {:.3} TFLOP/s", rate.unwrap_or_default() / 1e12),
            }
            bench.write(&row)?;
        }
        bench.ceilings = Some(ceilings);
        println!(
            "{:<18} {:<9} {:<36} {:<5} {:>10} {:>9} {:>9} {:>6}",
            "op", "pass", "shape", "dtype", "median us", "GB/s", "GFLOP/s", "of max"
        );
        Ok(bench)
    }

    fn name(&self) -> Result<String> {
        self.device.as_cuda().map_or_else(|| Ok(self.device.to_string()), |cuda| cuda.name())
    }

    fn write(&mut self, row: &serde_json::Value) -> Result<()> {
        match &mut self.json {
            Some((path, file)) => writeln!(file, "{row}").map_err(|error| Error::io(&*path, error)),
            None => Ok(()),
        }
    }

    /// Verifies and times every pass of a problem.
    pub fn problem(&mut self, problem: &Problem) -> Result<()> {
        for &(name, pass) in problem.passes {
            let label = format!("{} {name} {} {}", problem.op, problem.shape, problem.dtype);
            if !label.contains(&self.filter) {
                continue;
            }
            if self.device.as_plan().is_some() {
                self.count(problem, name, pass)?;
            } else {
                self.verify(problem, pass, &label)?;
                self.measure(problem, name, pass)?;
            }
        }
        Ok(())
    }

    /// What the pass would launch on a GPU.
    fn count(&mut self, problem: &Problem, name: &str, pass: Pass) -> Result<()> {
        let empty =
            |(i, shape): (usize, &Vec<usize>)| Tensor::empty(shape, problem.stored(i, problem.dtype), &self.device);
        let inputs: Vec<Tensor> = problem.inputs.iter().enumerate().map(empty).collect::<Result<_>>()?;
        let plan = self.device.as_plan().ok_or_else(|| Error::Internal("a plan is no plan".into()))?;
        plan.start();
        if pass == Pass::Forward {
            drop(self.forward(problem, &inputs)?);
        } else {
            let work = self.prepare(problem, pass, &inputs, None)?;
            plan.start();
            drop(work()?);
        }
        let launches = plan.counts().launches;
        for launch in &launches {
            let blocks: u64 = launch.launch.grid.iter().map(|&extent| u64::from(extent)).product();
            println!(
                "{:<18} {name:<9} {:<36} {:<5} {:<42} {blocks:>7} {:>9.1}",
                problem.op,
                problem.shape,
                problem.dtype.to_string(),
                launch.kernel,
                launch.bytes as f64 / 1e6,
            );
        }
        let launches: Vec<_> = launches
            .iter()
            .map(|planned| {
                let launch = planned.launch;
                serde_json::json!({
                    "kernel": planned.kernel, "bytes": planned.bytes, "grid": launch.grid, "block": launch.block,
                    "shared_bytes": launch.shared_bytes, "items": planned.work.map(|work| work.items),
                    "cycles": planned.work.map(|work| work.cycles),
                })
            })
            .collect();
        self.write(&serde_json::json!({
            "op": problem.op, "shape": problem.shape, "direction": name, "dtype": problem.dtype.to_string(),
            "operations": problem.operations, "launches": launches,
        }))
    }

    fn inputs(&self, problem: &Problem, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        let draw = |(i, shape): (usize, &Vec<usize>)| {
            // Drawn in the stored type, so that both sides of the comparison see the same numbers.
            let drawn = random(shape, problem.dtype, i as u64 + 1, &Device::cpu())?;
            drawn.to_dtype(problem.stored(i, dtype))?.to_device(device)
        };
        problem.inputs.iter().enumerate().map(draw).collect()
    }

    /// The gradient of an output.
    fn seed(&self, problem: &Problem, value: &Tensor) -> Result<Tensor> {
        random(value.shape(), problem.dtype, 99, &Device::cpu())?.to_dtype(value.dtype())?.to_device(value.device())
    }

    /// Everything before the pass; what comes back runs it. `seed` is the output's gradient, drawn where it is `None`.
    fn prepare(
        &self,
        problem: &Problem,
        pass: Pass,
        inputs: &[Tensor],
        seed: Option<&Tensor>,
    ) -> Result<Box<dyn FnOnce() -> Result<Vec<Tensor>>>> {
        let tape = Tape::new(inputs[0].device());
        let tracked = |i: usize| pass == Pass::Backward || pass == Pass::Gradient(i);
        let var = |(i, input): (usize, &Tensor)| {
            if tracked(i) { tape.variable(input.clone()) } else { tape.constant(input.clone()) }
        };
        let vars: Vec<Var> = inputs.iter().enumerate().map(var).collect();
        let output = (problem.run)(&vars)?;
        let seed = seed.map_or_else(|| self.seed(problem, output.value()), |seed| Ok(seed.clone()))?;
        Ok(Box::new(move || {
            let mut gradients = tape.backward_with(&output, seed)?;
            Ok(vars.iter().filter_map(|var| gradients.take(var)).collect())
        }))
    }

    fn forward(&self, problem: &Problem, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let tape = Tape::new(inputs[0].device());
        let vars: Vec<Var> = inputs.iter().map(|input| tape.constant(input.clone())).collect();
        Ok(vec![(problem.run)(&vars)?.value().clone()])
    }

    fn results(&self, problem: &Problem, pass: Pass, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if pass == Pass::Forward { self.forward(problem, inputs) } else { self.prepare(problem, pass, inputs, None)?() }
    }

    /// Against the CPU in f32 (a GPU) or f64 (the CPU).
    fn verify(&self, problem: &Problem, pass: Pass, label: &str) -> Result<()> {
        let reference = if self.device.is_cpu() || problem.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let got = self.results(problem, pass, &self.inputs(problem, problem.dtype, &self.device)?)?;
        let want = self.results(problem, pass, &self.inputs(problem, reference, &Device::cpu())?)?;
        for (got, want) in got.iter().zip(&want) {
            let rounded = problem.dtype == DType::Bf16 || got.dtype() == DType::Bf16;
            let bound = if rounded { 1e-2 } else { 1e-4 };
            let labels = !got.dtype().is_float();
            let (got, want) = (wide(got)?, wide(want)?);
            if labels {
                // Two classes may lie so close that rounding decides between them.
                let wrong = got.iter().zip(&want).filter(|(g, w)| g != w).count();
                if wrong * 1000 > want.len() {
                    let all = want.len();
                    return Err(Error::Internal(format!("{label}: {wrong} of {all} differ from the CPU")));
                }
                continue;
            }
            let scale = want.iter().fold(1e-30f64, |scale, value| scale.max(value.abs()));
            let error = got
                .iter()
                .zip(&want)
                .map(|(g, w)| (g - w).abs() / scale)
                .fold(0.0, |a: f64, b| if b.is_nan() { f64::INFINITY } else { a.max(b) });
            if error > bound {
                return Err(Error::Internal(format!(
                    "{label}: differs from the CPU by {error:.1e} of the largest value"
                )));
            }
        }
        Ok(())
    }

    fn measure(&mut self, problem: &Problem, name: &str, pass: Pass) -> Result<()> {
        let first = self.inputs(problem, problem.dtype, &self.device)?;
        let output = self.forward(problem, &first)?.swap_remove(0);
        let seed = if pass == Pass::Forward { None } else { Some(self.seed(problem, &output)?) };
        let size = |shape: &Vec<usize>| shape.iter().product::<usize>() * problem.dtype.size();
        // Every operand, and the output or its gradient, pass once.
        let output = output.len() * output.dtype().size();
        let bytes = problem.inputs.iter().map(size).sum::<usize>() + output + problem.more_bytes;
        let sets = ROTATION.div_ceil(bytes).clamp(2, MOST_SETS);
        let mut inputs = vec![first];
        for _ in 1..sets {
            // Other memory is what counts, not other numbers.
            inputs.push(inputs[0].iter().map(Tensor::duplicate).collect::<Result<_>>()?);
        }
        let mut times = Vec::new();
        let start = Instant::now();
        // The first two rounds warm up.
        while times.len() < 12 || (start.elapsed().as_secs_f64() < 0.3 && times.len() < 200) {
            let inputs = &inputs[times.len() % sets];
            let mut results = Vec::new();
            times.push(if pass == Pass::Forward {
                time(&self.device, || self.forward(problem, inputs).map(|all| results = all))?
            } else {
                let work = self.prepare(problem, pass, inputs, seed.as_ref())?;
                self.device.synchronize()?;
                time(&self.device, || work().map(|all| results = all))?
            });
            black_box(results);
        }
        let mut times = times.split_off(2);
        times.sort_by(f64::total_cmp);
        self.report(problem, name, times[times.len() / 2], times[0], bytes as f64)
    }

    fn report(&mut self, problem: &Problem, name: &str, seconds: f64, least: f64, bytes: f64) -> Result<()> {
        let (bandwidth, rate) = (bytes / seconds, problem.operations / seconds);
        let products = problem.operations > 0.0;
        let ceilings = self.ceilings.as_ref();
        let of_copy = ceilings.and_then(Ceilings::copy).map(|most| bandwidth / most);
        let of_matrix = ceilings.and_then(|all| all.matrix(problem.dtype)).filter(|_| products).map(|most| rate / most);
        let share = of_matrix.unwrap_or(0.0).max(of_copy.unwrap_or(0.0));
        println!(
            "{:<18} {name:<9} {:<36} {:<5} {:>10.1} {:>9.1} {:>9.1} {:>5.0}%",
            problem.op,
            problem.shape,
            problem.dtype.to_string(),
            seconds * 1e6,
            bandwidth / 1e9,
            rate / 1e9,
            share * 100.0,
        );
        // The first line is the key that tools/bench_pytorch.py shares, so that tools/join_bench.py joins both.
        self.write(&serde_json::json!({
            "op": problem.op, "shape": problem.shape, "direction": name, "dtype": problem.dtype.to_string(),
            "device": if self.device.is_cuda() { "cuda" } else { "cpu" },
            "ms": seconds * 1e3, "least_ms": least * 1e3, "bytes_per_second": bandwidth,
            "operations_per_second": products.then_some(rate), "share_of_copy": of_copy, "share_of_matrix": of_matrix,
        }))
    }
}
