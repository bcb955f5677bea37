//! One problem with its inputs: how its passes run, and whether they agree with the CPU.
//!
//! The CPU computes a problem once for all of its passes: it takes longer than the GPU's measurements.

use bicl::{
    DType, Device, Error, Result, Tensor,
    autograd::{Tape, Var},
    tensor::Rng,
};
use rayon::prelude::*;

use super::{
    clock::Call,
    harness::{Pass, Problem},
};

/// Elements that one task draws.
const CHUNK: usize = 1 << 15;
/// Blocks of memory that are made NaN for each output: an operation's scratch of the same size may take one of them.
const POISONED: usize = 3;

/// Deterministic reals in [-1, 1), drawn on all cores.
pub fn random(shape: &[usize], dtype: DType, seed: u64, device: &Device) -> Result<Tensor> {
    let start = Rng::new(seed.wrapping_mul(0xD134_2543_DE82_EF95));
    let value = |i: usize| (start.clone().after(i as u64).next_u64() >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
    let mut drawn = Tensor::empty(shape, DType::F32, &Device::cpu())?;
    drawn.as_mut_slice::<f32>()?.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, part)| {
        for (i, element) in part.iter_mut().enumerate() {
            *element = value(chunk * CHUNK + i);
        }
    });
    drawn.to_dtype(dtype)?.to_device(device)
}

/// The largest difference, in units of the largest value wanted; infinite where either is NaN.
pub fn difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    want.expect_shape(got.shape(), "verification", "what the CPU computes")?;
    let wide = |tensor: &Tensor| tensor.to_device(&Device::cpu())?.to_dtype(DType::F64);
    let (got, want) = (wide(got)?, wide(want)?);
    let (got, want) = (got.as_slice::<f64>()?, want.as_slice::<f64>()?);
    let scale = want.par_iter().map(|value| value.abs()).reduce(|| 1e-30, f64::max);
    let of = |(got, want): (&f64, &f64)| {
        let error = (got - want).abs() / scale;
        if error.is_nan() { f64::INFINITY } else { error }
    };
    Ok(got.par_iter().zip(want).map(of).reduce(|| 0.0, f64::max))
}

/// What a difference may be.
pub fn bound(rounded: bool) -> f64 {
    if rounded { 1e-2 } else { 1e-4 }
}

/// How many labels or counts differ.
fn wrong(got: &Tensor, want: &Tensor) -> Result<usize> {
    want.expect_shape(got.shape(), "verification", "what the CPU computes")?;
    fn count<T: PartialEq>(got: &[T], want: &[T]) -> usize {
        got.iter().zip(want).filter(|(got, want)| got != want).count()
    }
    Ok(match got.dtype() {
        DType::U8 => count(&got.to_vec::<u8>()?, &want.to_vec()?),
        _ => count(&got.to_vec::<u32>()?, &want.to_vec()?),
    })
}

/// The CPU's output, and its gradients of the inputs that some pass asks for.
struct Reference {
    output: Tensor,
    gradients: Vec<Option<Tensor>>,
}

pub struct Case<'a> {
    pub problem: &'a Problem<'a>,
    device: Device,
    /// On the device.
    inputs: Vec<Tensor>,
    /// The gradient of the output, on the device, where a pass needs one.
    seed: Option<Tensor>,
    reference: Reference,
}

fn tracked(pass: Pass, input: usize) -> bool {
    pass == Pass::Backward || pass == Pass::Gradient(input)
}

/// The operands of a pass, on a tape of their own.
fn operands(inputs: &[Tensor], tracked: impl Fn(usize) -> bool) -> (Tape, Vec<Var>) {
    let tape = Tape::new(inputs[0].device());
    let var = |(i, input): (usize, &Tensor)| {
        if tracked(i) { tape.variable(input.clone()) } else { tape.constant(input.clone()) }
    };
    let vars = inputs.iter().enumerate().map(var).collect();
    (tape, vars)
}

impl<'a> Case<'a> {
    /// Draws the inputs and has the CPU compute what `passes` will be held against: in f32 for a GPU, in f64 for the CPU.
    pub fn new(problem: &'a Problem<'a>, device: &Device, passes: &[Pass]) -> Result<Self> {
        let cpu = Device::cpu();
        let exact = if device.is_cpu() || problem.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let (mut inputs, mut wide) = (Vec::new(), Vec::new());
        for (i, shape) in problem.inputs.iter().enumerate() {
            // Drawn in the dtype of the row, so that both sides of the comparison see the same numbers.
            let drawn = random(shape, problem.dtype, i as u64 + 1, &cpu)?;
            inputs.push(drawn.to_dtype(problem.stored(i, problem.dtype))?.to_device(device)?);
            wide.push(drawn.to_dtype(problem.stored(i, exact))?);
        }
        let (tape, vars) = operands(&wide, |i| passes.iter().any(|&pass| tracked(pass, i)));
        drop(wide);
        let output = (problem.run)(&vars)?;
        let (mut gradients, mut seed) = (vec![None; vars.len()], None);
        if vars.iter().any(Var::is_tracked) {
            let drawn = random(output.value().shape(), problem.dtype, 99, &cpu)?;
            let mut all = tape.backward_with(&output, drawn.to_dtype(output.value().dtype())?)?;
            gradients = vars.iter().map(|var| all.take(var)).collect();
            seed = Some(drawn.to_device(device)?);
        }
        let reference = Reference { output: output.value().clone(), gradients };
        Ok(Self { problem, device: device.clone(), inputs, seed, reference })
    }

    /// Bytes that a pass moves at least: every operand, and the output or its gradient.
    pub fn bytes(&self) -> Result<usize> {
        let size = |shape: &Vec<usize>| shape.iter().product::<usize>() * self.problem.dtype.size();
        let (_, vars) = operands(&self.inputs, |_| false);
        let output = (self.problem.run)(&vars)?;
        let output = output.value().len() * output.value().dtype().size();
        Ok(self.problem.inputs.iter().map(size).sum::<usize>() + output + self.problem.more_bytes)
    }

    /// So many sets of the inputs, with the same numbers in other memory.
    pub fn sets(&self, count: usize) -> Result<Vec<Vec<Tensor>>> {
        let mut sets = vec![self.inputs.clone()];
        for _ in 1..count {
            sets.push(self.inputs.iter().map(Tensor::duplicate).collect::<Result<_>>()?);
        }
        Ok(sets)
    }

    /// Does everything before the pass; what comes back runs it.
    pub fn prepare<'b>(&'b self, pass: Pass, inputs: &'b [Tensor]) -> Result<Call<'b>> {
        prepare(self.problem, pass, inputs, self.seed.as_ref())
    }

    fn run(&self, pass: Pass) -> Result<Vec<Tensor>> {
        self.prepare(pass, &self.inputs)?()
    }

    /// Fills memory that the outputs will probably lie in with NaN: what is not written then shows.
    fn poison(&self, wanted: &[&Tensor]) -> Result<()> {
        let mut blocks = Vec::new();
        for size in [DType::U8, DType::Bf16, DType::F32].map(DType::size) {
            for tensor in wanted {
                // A pattern of two bytes, which is NaN in f32 too, and no class as a label.
                let shape = [(tensor.len() * size).div_ceil(DType::Bf16.size())];
                for _ in 0..POISONED {
                    blocks.push(Tensor::full(&shape, f64::NAN, DType::Bf16, &self.device)?);
                }
            }
        }
        Ok(())
    }

    /// Errors where a pass does not compute what the CPU does.
    pub fn verify(&self, pass: Pass) -> Result<()> {
        let Reference { output, gradients } = &self.reference;
        let wanted: Vec<&Tensor> = match pass {
            Pass::Forward => vec![output],
            Pass::Gradient(input) => gradients[input].iter().collect(),
            Pass::Backward => gradients.iter().flatten().collect(),
        };
        if !self.device.is_cpu() {
            // Kernels that are timed now leave right answers in the memory that comes next.
            drop(self.run(pass)?);
        }
        self.poison(&wanted)?;
        let all = self.run(pass)?;
        if all.len() != wanted.len() {
            return Err(Error::Internal(format!("{} results, where the CPU has {}", all.len(), wanted.len())));
        }
        for (got, want) in all.iter().zip(wanted) {
            if !got.dtype().is_float() {
                // Two classes may lie so close that rounding decides between them.
                let (wrong, all) = (wrong(got, want)?, want.len());
                if wrong * 1000 > all {
                    return Err(Error::Internal(format!("{wrong} of {all} differ from the CPU")));
                }
                continue;
            }
            let error = difference(got, want)?;
            if error > bound(self.problem.dtype == DType::Bf16 || got.dtype() == DType::Bf16) {
                return Err(Error::Internal(format!("differs from the CPU by {error:.1e} of the largest value")));
            }
        }
        Ok(())
    }
}

/// As [`Case::prepare`]; `seed` is the output's gradient, ones where it is `None`.
pub fn prepare<'a>(
    problem: &'a Problem<'a>,
    pass: Pass,
    inputs: &'a [Tensor],
    seed: Option<&Tensor>,
) -> Result<Call<'a>> {
    let (tape, vars) = operands(inputs, |i| tracked(pass, i));
    if pass == Pass::Forward {
        return Ok(Box::new(move || Ok(vec![(problem.run)(&vars)?.value().clone()])));
    }
    let output = (problem.run)(&vars)?;
    let (value, device) = (output.value(), tape.device());
    let seed = match seed {
        Some(seed) => seed.to_dtype(value.dtype())?,
        None => Tensor::full(value.shape(), 1.0, value.dtype(), device)?,
    };
    Ok(Box::new(move || {
        let mut gradients = tape.backward_with(&output, seed)?;
        Ok(vars.iter().filter_map(|var| gradients.take(var)).collect())
    }))
}
