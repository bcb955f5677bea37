//! Inputs from fixed seeds, and how results are held against what they must be.

use half::bf16;

use super::check::Trouble;
use crate::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    tensor::Rng,
};

/// Seeded inputs, on the CPU.
pub(super) struct Inputs(Rng);

impl Inputs {
    pub fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn symmetric(&mut self) -> f64 {
        2.0 * self.0.uniform() - 1.0
    }

    /// Integers in -3..=3, whose small sums of products are exact in every float type.
    pub fn integers(&mut self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product();
        of_floats((0..count).map(|_| self.below(7) as f32 - 3.0), shape, dtype)
    }

    /// Reals in [-1, 1).
    pub fn reals(&mut self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product();
        of_floats((0..count).map(|_| self.symmetric() as f32), shape, dtype)
    }

    /// Labels below `classes`, with 255 in about one of `ignore_every`.
    pub fn labels(&mut self, shape: &[usize], classes: usize, ignore_every: usize) -> Result<Tensor> {
        let mut label = || if self.below(ignore_every) == 0 { 255 } else { self.below(classes) as u8 };
        let data: Vec<u8> = (0..shape.iter().product()).map(|_| label()).collect();
        Tensor::from_vec(data, shape, &Device::cpu())
    }
}

/// f32 or bf16, on the CPU.
pub(super) fn of_floats(data: impl Iterator<Item = f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    match dtype {
        DType::Bf16 => Tensor::from_vec(data.map(bf16::from_f32).collect(), shape, &Device::cpu()),
        _ => Tensor::from_vec(data.collect(), shape, &Device::cpu())?.to_dtype(dtype),
    }
}

/// The elements as f64.
pub(super) fn wide(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(match tensor.dtype() {
        DType::F32 => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
        DType::F64 => tensor.to_vec()?,
        DType::Bf16 => tensor.to_vec::<bf16>()?.into_iter().map(f64::from).collect(),
        DType::U8 => tensor.to_vec::<u8>()?.into_iter().map(f64::from).collect(),
        DType::U32 => tensor.to_vec::<u32>()?.into_iter().map(f64::from).collect(),
    })
}

/// How far a result may lie from what it must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// Not at all.
    Exact,
    /// Each element by so much of the largest magnitude.
    Share(f64),
    /// In all by so much of what it must be, by the Euclidean norm.
    Distance(f64),
}

impl Bound {
    /// Of values and gradients in `dtype` that are made of some hundred terms.
    pub fn of(dtype: DType) -> Self {
        Self::Share(if dtype == DType::Bf16 { 1e-2 } else { 2e-5 })
    }
}

/// Errors unless `got` is `want` within the bound. NaN is never.
pub(super) fn expect(what: &str, got: &Tensor, want: &Tensor, bound: Bound) -> Result<(), Trouble> {
    if (got.shape(), got.dtype()) != (want.shape(), want.dtype()) {
        return Err(Trouble::Wrong(format!("{what}: got {got:?}, not {want:?}")));
    }
    expect_values(what, &wide(got)?, &wide(want)?, bound)
}

/// The same of elements.
pub(super) fn expect_values(what: &str, got: &[f64], want: &[f64], bound: Bound) -> Result<(), Trouble> {
    if got.len() != want.len() {
        return Err(Trouble::Wrong(format!("{what}: {} elements, not {}", got.len(), want.len())));
    }
    let largest = want.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let most = match bound {
        Bound::Exact => 0.0,
        Bound::Share(share) => share * largest,
        Bound::Distance(distance) => {
            let difference: f64 = got.iter().zip(want).map(|(got, want)| (got - want).powi(2)).sum();
            let found = (difference / want.iter().map(|want| want * want).sum::<f64>()).sqrt();
            return match found <= distance {
                true => Ok(()),
                false => Err(Trouble::Wrong(format!("{what} is off by {found:.1e} of its norm, at most {distance:e}"))),
            };
        }
    };
    let is_wrong = |&(_, (got, want)): &(usize, (&f64, &f64))| {
        // No comparison with NaN holds.
        let is_near = (got - want).abs() <= most;
        got != want && !is_near
    };
    let mut wrong = got.iter().zip(want).enumerate().filter(is_wrong);
    let Some((first, (got, want))) = wrong.next() else { return Ok(()) };
    let others = wrong.count();
    let bound = if most > 0.0 { format!(" (bound {most:.1e})") } else { String::new() };
    Err(Trouble::Wrong(format!("{what}: element {first} is {got}, not {want}{bound}; {others} more are wrong")))
}

/// Value and gradients of `op` at `inputs`, with the output's gradient `seed` (ones where `None`).
fn value_and_gradients(
    op: &impl Fn(&[Var]) -> Result<Var>,
    inputs: &[Tensor],
    seed: Option<&Tensor>,
    device: &Device,
) -> Result<Vec<Tensor>> {
    let tape = Tape::new(device);
    let place = |input: &Tensor| Ok(tape.variable(input.to_device(device)?));
    let vars: Vec<Var> = inputs.iter().map(place).collect::<Result<_>>()?;
    let output = op(&vars)?;
    let seed = match seed {
        Some(seed) => seed.to_device(device)?,
        None => Tensor::full(output.value().shape(), 1.0, output.value().dtype(), device)?,
    };
    let gradients = tape.backward_with(&output, seed)?;
    let mut all = vec![output.value().clone()];
    for (var, input) in vars.iter().zip(inputs) {
        let zeros = || Tensor::zeros(input.shape(), input.dtype(), device);
        all.push(gradients.get(var).cloned().map_or_else(zeros, Ok)?);
    }
    Ok(all)
}

/// Errors unless `op` has the same value and gradients on `device` as on the CPU, for reals within a bound: at `inputs`, with the
/// output's gradient `seed`.
pub(super) fn expect_cpu(
    what: &str,
    device: &Device,
    op: impl Fn(&[Var]) -> Result<Var>,
    inputs: &[Tensor],
    seed: Option<&Tensor>,
    bound: Option<Bound>,
) -> Result<(), Trouble> {
    let want = value_and_gradients(&op, inputs, seed, &Device::cpu())?;
    let got = value_and_gradients(&op, inputs, seed, device)?;
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let part = if i == 0 { "value".to_owned() } else { format!("gradient {i}") };
        let what = format!("{what} {}, {part}", inputs[0].dtype());
        expect(&what, got, want, bound.unwrap_or(Bound::of(want.dtype())))?;
    }
    Ok(())
}

/// [`expect_cpu`] at small integers, exactly, and at reals, in f32 and bf16. `output` is the output's shape.
pub(super) fn expect_cpu_both(
    what: &str,
    device: &Device,
    op: impl Fn(&[Var]) -> Result<Var>,
    shapes: &[&[usize]],
    output: &[usize],
    integers: Bound,
) -> Result<(), Trouble> {
    for dtype in [DType::F32, DType::Bf16] {
        let mut draw = Inputs::new(7);
        let inputs: Vec<Tensor> = shapes.iter().map(|shape| draw.integers(shape, dtype)).collect::<Result<_>>()?;
        let seed = draw.integers(output, dtype)?;
        expect_cpu(&format!("{what} of integers,"), device, &op, &inputs, Some(&seed), Some(integers))?;
        let inputs: Vec<Tensor> = shapes.iter().map(|shape| draw.reals(shape, dtype)).collect::<Result<_>>()?;
        let seed = draw.reals(output, dtype)?;
        expect_cpu(&format!("{what} of reals,"), device, &op, &inputs, Some(&seed), None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<(), Trouble>) -> String {
        match result {
            Err(Trouble::Wrong(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_wrong_element_is_found_and_counted() {
        let want: Vec<f64> = (0..1000).map(f64::from).collect();
        let mut got = want.clone();
        for bound in [Bound::Exact, Bound::Share(1e-5), Bound::Distance(1e-6)] {
            expect_values("x", &got, &want, bound).unwrap();
        }
        got[999] += 0.02;
        got[3] = 3.5;
        let error = text(expect_values("x", &got, &want, Bound::Exact));
        assert_eq!(error, "x: element 3 is 3.5, not 3; 1 more are wrong");
        assert!(text(expect_values("x", &got, &want, Bound::Share(1e-5))).contains("1 more"));
        expect_values("x", &got, &want, Bound::Share(1e-3)).unwrap();
        assert!(text(expect_values("x", &got, &want, Bound::Distance(1e-6))).contains("of its norm"));
    }

    #[test]
    fn nan_and_missing_elements_fail() {
        for bound in [Bound::Exact, Bound::Share(1e9), Bound::Distance(1e9)] {
            text(expect_values("x", &[1.0, f64::NAN], &[1.0, 2.0], bound));
            text(expect_values("x", &[1.0, 2.0], &[1.0, f64::NAN], bound));
            text(expect_values("x", &[1.0], &[1.0, 2.0], bound));
        }
        // Nothing but zeros leaves no room.
        text(expect_values("x", &[1e-30], &[0.0], Bound::Share(1.0)));
    }

    #[test]
    fn shapes_and_dtypes_must_agree() {
        let [a, b] = [[2, 3], [3, 2]].map(|shape| Inputs::new(1).reals(&shape, DType::F32).unwrap());
        assert!(text(expect("x", &a, &b, Bound::Exact)).contains("[2, 3]"));
        let narrow = a.to_dtype(DType::Bf16).unwrap();
        assert!(text(expect("x", &narrow, &a, Bound::Share(1.0))).contains("bf16"));
    }
}
