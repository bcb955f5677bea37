//! What the tests of the operations share: the devices present, comparison, gradient checks, random data.

pub mod golden;
pub mod trainer;
mod tree;

pub use tree::files_under;

use std::sync::OnceLock;

use approx::{abs_diff_eq, relative_eq};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    tensor::Element,
};
use half::bf16;

/// Whether only the GPU is tested: BICL_TEST_DEVICES=gpu, for hosts whose time on a card is short. Tests of the emulator and of
/// plans, which every machine can run, then return at once.
pub fn gpu_alone() -> bool {
    let alone = std::env::var_os("BICL_TEST_DEVICES").is_some_and(|value| value == "gpu");
    if alone {
        println!("BICL_TEST_DEVICES=gpu: no emulator");
    }
    alone
}

/// The GPU, where there is one. Without one this prints `skipped: no GPU`; with REQUIRE_GPU=1 that is a failure.
pub fn gpu() -> Option<Device> {
    // The last device that is dropped would take the context with it, and the next one make it anew: a third of a second.
    static KEPT: OnceLock<Option<Device>> = OnceLock::new();
    KEPT.get_or_init(|| Device::cuda(0).ok());
    match Device::cuda(0) {
        Ok(device) => {
            // The tests mean the heuristic's kernels, and there is no time for hundreds of shapes (tests/it/kernels/autotune.rs
            // has the others); and those that every GPU has: the tests of Hopper's own ask for them.
            Some(device.with(|options| (options.autotune, options.warpgroups) = (false, Some(false))))
        }
        Err(error) if std::env::var_os("REQUIRE_GPU").is_some_and(|value| value == "1") => {
            panic!("REQUIRE_GPU=1: {error}")
        }
        Err(_) => {
            println!("skipped: no GPU");
            None
        }
    }
}

/// Every device that runs kernels here: the emulator under each schedule, and the GPU where there is one.
pub fn kernel_devices() -> Vec<Device> {
    let mut devices = Vec::new();
    if !gpu_alone() {
        devices.extend(bicl_emulator::schedules().into_iter().map(bicl_emulator::device_with));
    }
    devices.extend(gpu());
    devices
}

/// The CPU, one schedule of the emulator, and the GPU where there is one: for tests of behaviour.
pub fn all_devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu()];
    let kernels = kernel_devices();
    devices.extend(kernels.iter().find(|device| device.is_emulated()).cloned());
    devices.extend(kernels.into_iter().filter(Device::is_cuda));
    devices
}

/// How far two results may lie apart: |a - b| <= absolute + relative * |b|.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    pub const EXACT: Self = Self { absolute: 0.0, relative: 0.0 };

    pub fn new(absolute: f64, relative: f64) -> Self {
        Self { absolute, relative }
    }

    /// For sums of a few hundred terms of order 1 in `dtype`.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::new(1e-11, 1e-11),
            DType::Bf16 => Self::new(2e-2, 1e-2),
            _ => Self::new(2e-5, 1e-5),
        }
    }

    /// Whether `a` is equal to `b` or near enough. NaN is near nothing, and nothing finite is near an infinity.
    pub fn admits(self, a: f64, b: f64) -> bool {
        relative_eq!(a, b, epsilon = self.absolute + self.relative * b.abs(), max_relative = 0.0)
    }
}

/// The elements of any tensor as f64.
pub fn wide(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect(),
        DType::F64 => tensor.to_vec().unwrap(),
        DType::Bf16 => tensor.to_vec::<bf16>().unwrap().into_iter().map(f64::from).collect(),
        DType::U8 => tensor.to_vec::<u8>().unwrap().into_iter().map(f64::from).collect(),
        DType::U32 => tensor.to_vec::<u32>().unwrap().into_iter().map(f64::from).collect(),
    }
}

/// Fails unless every element is within the tolerance. NaN fails, except against NaN.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor, tolerance: Tolerance, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}: shape");
    for (i, (g, w)) in wide(got).into_iter().zip(wide(want)).enumerate() {
        let same = (g.is_nan() && w.is_nan()) || tolerance.admits(g, w);
        assert!(same, "{what} on {}: element {i} of {:?} is {g}, not {w} ({tolerance:?})", got.device(), got.shape());
    }
}

/// Fails unless both hold the same bits.
#[track_caller]
pub fn assert_same_bits(a: &Tensor, b: &Tensor, what: &str) {
    assert_close(a, b, Tolerance::EXACT, what);
}

/// A seeded generator (SplitMix64; Steele, Lea, Flood 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [-1, 1).
    pub fn symmetric(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Reals in [-1, 1).
    pub fn reals(&mut self, shape: &[usize], dtype: DType, device: &Device) -> Tensor {
        let data: Vec<f64> = (0..shape.iter().product()).map(|_| self.symmetric()).collect();
        of_dtype(&data, shape, dtype, device)
    }

    /// Integers in -3..=3, whose small sums of products are exact in every float type.
    pub fn integers(&mut self, shape: &[usize], dtype: DType, device: &Device) -> Tensor {
        let data: Vec<f64> = (0..shape.iter().product()).map(|_| self.below(7) as f64 - 3.0).collect();
        of_dtype(&data, shape, dtype, device)
    }

    /// Labels below `classes`, with 255 in about one of `ignore_every`.
    pub fn labels(&mut self, shape: &[usize], classes: usize, ignore_every: usize, device: &Device) -> Tensor {
        let mut label = || if self.below(ignore_every) == 0 { 255 } else { self.below(classes) as u8 };
        let data: Vec<u8> = (0..shape.iter().product()).map(|_| label()).collect();
        Tensor::from_vec(data, shape, device).unwrap()
    }
}

/// A tensor of a float dtype from f64 values.
pub fn of_dtype(data: &[f64], shape: &[usize], dtype: DType, device: &Device) -> Tensor {
    fn build<T: Element>(data: &[f64], shape: &[usize], device: &Device, f: impl Fn(f64) -> T) -> Tensor {
        Tensor::from_vec(data.iter().map(|&x| f(x)).collect(), shape, device).unwrap()
    }
    match dtype {
        DType::F64 => build(data, shape, device, |x| x),
        DType::F32 => build(data, shape, device, |x| x as f32),
        DType::Bf16 => build(data, shape, device, bf16::from_f64),
        other => panic!("{other} is no float"),
    }
}

/// Output and gradients of `op` at `inputs`, with the output's gradient `seed` (ones where `None`).
pub fn value_and_gradients(
    op: impl Fn(&[Var]) -> Result<Var>,
    inputs: &[Tensor],
    seed: Option<&Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let tape = Tape::new(inputs[0].device());
    let vars: Vec<Var> = inputs.iter().map(|input| tape.variable(input.clone())).collect();
    let output = op(&vars).unwrap();
    let ones = || Tensor::full(output.value().shape(), 1.0, output.value().dtype(), output.value().device()).unwrap();
    let gradients = tape.backward_with(&output, seed.cloned().unwrap_or_else(ones)).unwrap();
    let gradients = vars.iter().zip(inputs).map(|(var, input)| {
        let zeros = || Tensor::zeros(input.shape(), input.dtype(), input.device()).unwrap();
        gradients.get(var).cloned().unwrap_or_else(zeros)
    });
    let gradients = gradients.collect();
    (output.value().clone(), gradients)
}

/// Holds the gradients of `op` in f64 against central differences of <op(x), seed> along every input element
/// (at most `most` of them an input, spread evenly). The relative error must stay below 1e-6: a gradient wrong
/// by a factor of 1.01 fails by four orders of magnitude.
#[track_caller]
pub fn check_gradients(op: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor], rng: &mut Rng, most: usize) {
    const STEP: f64 = 1e-5;
    let device = inputs[0].device().clone();
    let probe = {
        let tape = Tape::new(&device);
        let vars: Vec<Var> = inputs.iter().map(|input| tape.constant(input.clone())).collect();
        op(&vars).unwrap().value().clone()
    };
    assert_eq!(probe.dtype(), DType::F64, "gradient checks run in f64");
    let seed = rng.reals(probe.shape(), DType::F64, &device);
    let weights = wide(&seed);
    let (_, gradients) = value_and_gradients(&op, inputs, Some(&seed));
    let evaluate = |inputs: &[Tensor]| -> f64 {
        let tape = Tape::new(&device);
        let vars: Vec<Var> = inputs.iter().map(|input| tape.constant(input.clone())).collect();
        wide(op(&vars).unwrap().value()).iter().zip(&weights).map(|(y, w)| y * w).sum()
    };
    for (which, (input, gradient)) in inputs.iter().zip(&gradients).enumerate() {
        let (values, analytic) = (wide(input), wide(gradient));
        let scale = analytic.iter().fold(1e-3f64, |scale, g| scale.max(g.abs()));
        for i in (0..values.len()).step_by(values.len().div_ceil(most).max(1)) {
            let at = |delta: f64| {
                let mut moved = values.clone();
                moved[i] += delta;
                let mut inputs = inputs.to_vec();
                inputs[which] = of_dtype(&moved, input.shape(), DType::F64, &device);
                evaluate(&inputs)
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let (analytic, shape) = (analytic[i], input.shape());
            assert!(
                abs_diff_eq!(numeric, analytic, epsilon = 1e-6 * scale),
                "input {which} {shape:?}, element {i}: gradient {analytic}, differences give {numeric} (scale {scale})"
            );
        }
    }
}

/// Runs `op` on the CPU and on every device with kernels, for each dtype: small integers must agree exactly,
/// random reals within the dtype's tolerance; all schedules of the emulator must agree bit for bit.
#[track_caller]
pub fn check_devices(op: impl Fn(&[Var]) -> Result<Var>, shapes: &[&[usize]], dtypes: &[DType], exact_integers: bool) {
    let devices = kernel_devices();
    for &dtype in dtypes {
        for integers in [true, false] {
            let mut rng = Rng(7);
            let mut draw = |shape: &[usize], dtype| match integers {
                true => rng.integers(shape, dtype, &Device::cpu()),
                false => rng.reals(shape, dtype, &Device::cpu()),
            };
            let inputs: Vec<Tensor> = shapes.iter().map(|shape| draw(shape, dtype)).collect();
            let tape = Tape::new(&Device::cpu());
            let vars: Vec<Var> = inputs.iter().map(|input| tape.constant(input.clone())).collect();
            let output = op(&vars).unwrap().value().clone();
            let seed = draw(output.shape(), output.dtype());
            let (want, want_gradients) = value_and_gradients(&op, &inputs, Some(&seed));
            let tolerance = if integers && exact_integers { Tolerance::EXACT } else { Tolerance::of(dtype) };
            let mut first: Option<(Tensor, Vec<Tensor>)> = None;
            for device in &devices {
                let moved: Vec<Tensor> = inputs.iter().map(|input| input.to_device(device).unwrap()).collect();
                let seed = seed.to_device(device).unwrap();
                let (got, gradients) = value_and_gradients(&op, &moved, Some(&seed));
                assert_close(&got, &want, tolerance, &format!("{dtype} output, integers: {integers}"));
                for (i, (got, want)) in gradients.iter().zip(&want_gradients).enumerate() {
                    assert_close(got, want, tolerance, &format!("{dtype} gradient {i}, integers: {integers}"));
                }
                if device.is_emulated() {
                    match &first {
                        None => first = Some((got, gradients)),
                        Some((value, earlier)) => {
                            assert_same_bits(&got, value, "schedules");
                            gradients.iter().zip(earlier).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                        }
                    }
                }
            }
        }
    }
}

/// Runs `op` at `inputs` (on the CPU, of any float dtypes) there and on every device with kernels: value and gradients
/// must agree within 2e-5 (f32), 1e-11 (f64) or 1e-2 (bf16) of their largest magnitude, and all schedules of the
/// emulator bit for bit. `op` moves whatever else it needs to the device of the variables.
#[track_caller]
pub fn check_devices_at(op: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) {
    let all = |inputs: &[Tensor]| {
        let (value, mut gradients) = value_and_gradients(&op, inputs, None);
        gradients.push(value);
        gradients
    };
    let want = all(inputs);
    let mut first: Option<Vec<Tensor>> = None;
    for device in kernel_devices() {
        let moved: Vec<Tensor> = inputs.iter().map(|input| input.to_device(&device).unwrap()).collect();
        let got = all(&moved);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let share = match want.dtype() {
                DType::F64 => 1e-11,
                DType::Bf16 => 1e-2,
                _ => 2e-5,
            };
            let bound = share * wide(want).iter().fold(0.0f64, |most, v| most.max(v.abs()));
            let what = if i < inputs.len() { format!("gradient {i}") } else { "value".to_owned() };
            assert_eq!(got.dtype(), want.dtype(), "{what}");
            assert_close(got, want, Tolerance::new(bound, 0.0), &what);
        }
        if device.is_emulated() {
            match &first {
                None => first = Some(got),
                Some(first) => first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules")),
            }
        }
    }
}

/// The bytes of tensors in host memory, one after the other: what barrier checks compare.
pub fn bytes_of(tensors: &[Tensor]) -> Vec<u8> {
    tensors.iter().flat_map(|tensor| wide(tensor).into_iter().flat_map(f64::to_le_bytes)).collect()
}
