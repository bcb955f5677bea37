//! What all rows share: arguments, what a row is, table and JSON lines.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bicl::{DType, Device, Error, Result, Tensor, autograd::Var};
use serde_json::{Value, json};

use super::{
    case::{self, Case},
    ceilings::{Ceiling, Ceilings},
    clock::{Timing, Work, measure},
    rows::{self, Filters, Rows},
};

/// Inputs of one timing rotate through at least this many bytes: more than any last-level cache here.
const ROTATION: usize = 192 << 20;
const MOST_SETS: usize = 16;
/// Seconds that a row is measured for, unless the command line says otherwise.
const SECONDS: f64 = 0.3;

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
    /// Floating-point operations of the forward pass, and of the gradient of one factor; 0 for work bound by memory.
    pub operations: f64,
    /// Bytes that one pass moves besides operands and output: labels that `run` holds, what it writes on the way.
    pub more_bytes: usize,
    pub run: &'a dyn Fn(&[Var]) -> Result<Var>,
}

impl Problem<'_> {
    /// The type of operand `i` where the operation runs in `dtype`.
    pub fn stored(&self, i: usize, dtype: DType) -> DType {
        if i < self.sums_from { dtype } else { dtype.accumulator() }
    }

    /// Floating-point operations of a pass; the gradients of both factors are two products.
    fn operations(&self, pass: Pass) -> f64 {
        if pass == Pass::Backward { 2.0 * self.operations } else { self.operations }
    }
}

pub struct Bench {
    pub device: Device,
    filters: Filters,
    seconds: f64,
    rows: Rows,
    /// None on a plan, where nothing is timed.
    ceilings: Option<Ceilings>,
    start: Instant,
    /// What the CPU took to compute the same, and the comparisons.
    verified: Duration,
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

impl Bench {
    pub fn from_arguments() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let (mut device, mut filters, mut json, mut seconds) = (None, Filters::default(), None, SECONDS);
        let (mut autotune, mut warpgroups) = (true, None);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Error::Config(format!("{argument} needs a value")));
            match argument.as_str() {
                "--device" => {
                    let name = value()?;
                    device = Some(if name == "plan" { Device::plan() } else { name.parse()? });
                }
                "--filter" => filters.texts.push(value()?),
                "--dtype" => filters.dtype = Some(rows::dtype(&value()?)?),
                "--seconds" => {
                    let text = value()?;
                    let known = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
                    let wrong = || Error::Config(format!("--seconds {text:?}; use a number above 0, like 0.3"));
                    seconds = known.ok_or_else(wrong)?;
                }
                "--json" => json = Some(PathBuf::from(value()?)),
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
                    let known = "--device, --filter, --dtype, --seconds, --json, --no-autotune and --warpgroups";
                    return Err(Error::Config(format!("unknown argument {other:?}; {known} are known")));
                }
            }
        }
        let device = device.unwrap_or_else(Device::best);
        // A plan counts for Hopper unless told otherwise.
        let warpgroups = warpgroups.or(device.as_plan().map(|_| true));
        let device = device.with(|options| (options.autotune, options.warpgroups) = (autotune, warpgroups));
        let (rows, start, verified) = (Rows::new(json)?, Instant::now(), Duration::ZERO);
        let mut bench = Self { device, filters, seconds, rows, ceilings: None, start, verified };
        if bench.device.as_plan().is_some() {
            println!("launches of every row, counted on no device; tools/predict.py makes times of them");
            println!(
                "{:<18} {:<9} {:<36} {:<5} {:<42} {:>7} {:>9}",
                "op", "pass", "shape", "dtype", "kernel", "blocks", "MB"
            );
            return Ok(bench);
        }
        println!("device {}", bench.name()?);
        bench.ceilings = Some(bench.measure_ceilings()?);
        println!(
            "{:<18} {:<9} {:<36} {:<5} {:>10} {:>9} {:>9} {:>6}",
            "op", "pass", "shape", "dtype", "median us", "GB/s", "GFLOP/s", "of max"
        );
        Ok(bench)
    }

    fn name(&self) -> Result<String> {
        self.device.as_cuda().map_or_else(|| Ok(self.device.to_string()), |cuda| cuda.name())
    }

    fn measure_ceilings(&mut self) -> Result<Ceilings> {
        let mut ceilings = Ceilings::default();
        for ceiling in Ceiling::all(&self.device, &self.filters) {
            match ceiling.measure(&self.device, self.seconds) {
                Ok((rate, row)) => {
                    ceilings.set(ceiling, rate);
                    let [op, shape, dtype] = ["op", "shape", "dtype"].map(|field| row[field].as_str().unwrap_or("?"));
                    match ceiling {
                        Ceiling::Copy => println!("{op} of {shape}: {:.0} GB/s (read + write)", rate / 1e9),
                        Ceiling::MatrixProduct(_) => println!("{op} {shape} {dtype}: {:.3} TFLOP/s", rate / 1e12),
                    }
                    self.rows.write(&row)?;
                }
                Err(error) => {
                    self.rows.fail(&ceiling.key(&self.device), &error, || rows::alive(&self.device))?;
                }
            }
        }
        Ok(ceilings)
    }

    /// What distinguishes a row; tools/bench_pytorch.py shares it, so that tools/join_bench.py joins both.
    fn key(&self, problem: &Problem, name: &str) -> Value {
        let device = if self.device.is_cuda() { "cuda" } else { "cpu" };
        let (op, shape, dtype) = (problem.op, &problem.shape, problem.dtype.to_string());
        match self.device.as_plan() {
            Some(_) => json!({ "op": op, "shape": shape, "direction": name, "dtype": dtype }),
            None => json!({ "op": op, "shape": shape, "direction": name, "dtype": dtype, "device": device }),
        }
    }

    /// Verifies and times every pass of a problem that is asked for.
    ///
    /// Errors: as [`Rows::settle`]; a row that fails is recorded.
    pub fn problem(&mut self, problem: &Problem) -> Result<()> {
        let wanted = |name: &str| {
            let label = format!("{} {name} {} {}", problem.op, problem.shape, problem.dtype);
            self.filters.pass(&label, problem.dtype)
        };
        let passes: Vec<(&str, Pass)> = problem.passes.iter().copied().filter(|(name, _)| wanted(name)).collect();
        if passes.is_empty() {
            return Ok(());
        }
        let planned = self.device.as_plan().is_some();
        let start = Instant::now();
        let case = match planned {
            true => None,
            false => Some(Case::new(problem, &self.device, &passes.iter().map(|&(_, pass)| pass).collect::<Vec<_>>())),
        };
        self.verified += start.elapsed();
        for (name, pass) in passes {
            let outcome = match &case {
                None => self.count(problem, name, pass),
                Some(Ok(case)) => self.row(case, name, pass),
                Some(Err(error)) => Err(Error::Internal(format!("its inputs or the CPU's answer: {error}"))),
            };
            let key = self.key(problem, name);
            self.rows.settle(&key, outcome, || rows::alive(&self.device))?;
        }
        Ok(())
    }

    /// The last line. Errors if a row has failed, or none has run.
    pub fn finish(&self) -> Result<()> {
        if self.device.as_plan().is_none() {
            let (all, verified) = (self.start.elapsed().as_secs_f64(), self.verified.as_secs_f64());
            println!("{all:.1} s, of which verification took {verified:.1} s");
        }
        self.rows.finish(&self.filters)
    }

    /// What the pass would launch on a GPU.
    fn count(&mut self, problem: &Problem, name: &str, pass: Pass) -> Result<()> {
        let empty =
            |(i, shape): (usize, &Vec<usize>)| Tensor::empty(shape, problem.stored(i, problem.dtype), &self.device);
        let inputs: Vec<Tensor> = problem.inputs.iter().enumerate().map(empty).collect::<Result<_>>()?;
        let plan = self.device.as_plan().ok_or_else(|| Error::Internal("a plan is no plan".into()))?;
        let call = case::prepare(problem, pass, &inputs, None)?;
        plan.start();
        drop(call()?);
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
                json!({
                    "kernel": planned.kernel, "bytes": planned.bytes, "grid": launch.grid, "block": launch.block,
                    "shared_bytes": launch.shared_bytes, "items": planned.work.map(|work| work.items),
                    "cycles": planned.work.map(|work| work.cycles),
                })
            })
            .collect();
        let mut row = self.key(problem, name);
        row["operations"] = json!(problem.operations(pass));
        row["launches"] = json!(launches);
        self.rows.write(&row)
    }

    fn row(&mut self, case: &Case, name: &str, pass: Pass) -> Result<()> {
        let start = Instant::now();
        let verified = case.verify(pass);
        self.verified += start.elapsed();
        verified?;
        let bytes = case.bytes()?;
        let sets = case.sets(ROTATION.div_ceil(bytes.max(1)).clamp(2, MOST_SETS))?;
        let prepare = |set: usize| case.prepare(pass, &sets[set]);
        let work = Work { sets: sets.len(), bytes, seconds: self.seconds, prepare: &prepare };
        let timing = measure(&self.device, &work)?;
        self.report(case.problem, name, pass, &timing, bytes as f64)
    }

    fn report(&mut self, problem: &Problem, name: &str, pass: Pass, timing: &Timing, bytes: f64) -> Result<()> {
        let (seconds, operations) = (timing.median, problem.operations(pass));
        let (bandwidth, rate) = (bytes / seconds, operations / seconds);
        let products = operations > 0.0;
        let ceilings = self.ceilings.as_ref();
        let of_copy = ceilings.and_then(Ceilings::copy).map(|most| bandwidth / most);
        let of_matrix = ceilings.and_then(|all| all.matrix(problem.dtype)).filter(|_| products).map(|most| rate / most);
        let share = of_matrix.unwrap_or(0.0).max(of_copy.unwrap_or(0.0));
        println!(
            "{:<18} {name:<9} {:<36} {:<5} {:>10.1} {:>9.1} {:>9.1} {:>5.0}%{}",
            problem.op,
            problem.shape,
            problem.dtype.to_string(),
            seconds * 1e6,
            bandwidth / 1e9,
            rate / 1e9,
            share * 100.0,
            timing.by.remark(),
        );
        let mut row = self.key(problem, name);
        row["ms"] = json!(seconds * 1e3);
        row["least_ms"] = json!(timing.least * 1e3);
        row["timed"] = timing.by.name().into();
        row["reps"] = json!(timing.runs);
        row["bytes_per_second"] = json!(bandwidth);
        row["operations_per_second"] = json!(products.then_some(rate));
        row["share_of_copy"] = json!(of_copy);
        row["share_of_matrix"] = json!(of_matrix);
        self.rows.write(&row)
    }
}
