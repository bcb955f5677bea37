//! Two-dimensional convolution.

use crate::common::{
    self, Rng, Tolerance, all_devices, assert_close, assert_same_bits, check_devices, check_gradients, of_dtype,
    value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, Conv2dSpec},
};
use proptest::prelude::*;

/// A problem: shapes and spec.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// N, H, W, C.
    x: [usize; 4],
    /// K, R, S.
    w: [usize; 3],
    spec: Conv2dSpec,
    bias: bool,
}

/// Square spec.
fn case(x: [usize; 4], w: [usize; 3], stride: usize, padding: usize, dilation: usize, bias: bool) -> Case {
    let spec = Conv2dSpec { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
    Case { x, w, spec, bias }
}

impl Case {
    fn filter(&self) -> [usize; 4] {
        [self.w[0], self.w[1], self.w[2], self.x[3]]
    }

    fn output(&self) -> [usize; 4] {
        let extent = |i: usize| {
            let window = self.spec.dilation[i] * (self.w[1 + i] - 1) + 1;
            (self.x[1 + i] + 2 * self.spec.padding[i] - window) / self.spec.stride[i] + 1
        };
        [self.x[0], extent(0), extent(1), self.w[0]]
    }

    fn inputs(&self, mut draw: impl FnMut(&[usize]) -> Tensor) -> Vec<Tensor> {
        let mut inputs = vec![draw(&self.x), draw(&self.filter())];
        if self.bias {
            inputs.push(draw(&self.w[..1]));
        }
        inputs
    }

    fn run(&self, v: &[Var]) -> Result<Var> {
        ops::conv2d(&v[0], &v[1], v.get(2), &self.spec)
    }

    /// Output and gradients by the definition, in f64, for the output's gradient `dy`.
    fn naive(&self, inputs: &[Vec<f64>], dy: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let ([_, h, width, c], [k, r, s, _], [n, p, q, _]) = (self.x, self.filter(), self.output());
        let mut y = vec![0.0; n * p * q * k];
        let mut gradients: Vec<Vec<f64>> = inputs.iter().map(|input| vec![0.0; input.len()]).collect();
        for (at, y) in y.iter_mut().enumerate() {
            let (filter, column, row, image) = (at % k, at / k % q, at / k / q % p, at / k / q / p);
            if self.bias {
                *y += inputs[2][filter];
                gradients[2][filter] += dy[at];
            }
            for tap in 0..r * s {
                let i =
                    (row * self.spec.stride[0] + tap / s * self.spec.dilation[0]).wrapping_sub(self.spec.padding[0]);
                let j =
                    (column * self.spec.stride[1] + tap % s * self.spec.dilation[1]).wrapping_sub(self.spec.padding[1]);
                if i >= h || j >= width {
                    continue;
                }
                for channel in 0..c {
                    let from = ((image * h + i) * width + j) * c + channel;
                    let weight = (filter * r * s + tap) * c + channel;
                    *y += inputs[0][from] * inputs[1][weight];
                    gradients[0][from] += dy[at] * inputs[1][weight];
                    gradients[1][weight] += dy[at] * inputs[0][from];
                }
            }
        }
        (y, gradients)
    }

    /// Holds the CPU path, in `dtype`, exactly against the definition on small integers.
    fn check_cpu(&self, dtype: DType) {
        let device = Device::cpu();
        let mut rng = Rng(3);
        let inputs = self.inputs(|shape| rng.integers(shape, dtype, &device));
        let dy = rng.integers(&self.output(), dtype, &device);
        let wide_inputs: Vec<_> = inputs.iter().map(wide).collect();
        let (y, gradients) = self.naive(&wide_inputs, &wide(&dy));
        let (got, got_gradients) = value_and_gradients(|v| self.run(v), &inputs, Some(&dy));
        let exact = |got: &Tensor, want: &[f64], what: &str| {
            let want = of_dtype(want, got.shape(), dtype, &device);
            assert_close(got, &want, Tolerance::EXACT, &format!("{self:?}: {what}"));
        };
        exact(&got, &y, "output");
        for (i, (got, want)) in got_gradients.iter().zip(&gradients).enumerate() {
            exact(got, want, &format!("gradient {i}"));
        }
    }
}

/// One of each kind: odd sizes, channels off the tiles, uneven strides, dilation beyond the image, one pixel.
fn kinds() -> Vec<Case> {
    vec![
        case([2, 5, 7, 3], [4, 3, 3], 1, 1, 1, true),
        case([1, 6, 5, 16], [19, 3, 3], 1, 6, 6, true),
        case([1, 5, 4, 8], [19, 3, 3], 1, 24, 24, false),
        case([2, 9, 11, 5], [33, 3, 3], 2, 1, 1, true),
        case([1, 8, 6, 4], [3, 2, 2], 2, 0, 1, false),
        case([1, 10, 9, 3], [2, 1, 1], 3, 0, 1, true),
        case([2, 7, 5, 70], [67, 1, 1], 1, 0, 1, true),
        case([1, 20, 19, 3], [20, 7, 7], 2, 3, 1, false),
        case([1, 1, 1, 1], [1, 1, 1], 1, 0, 1, true),
        case([1, 1, 1, 6], [5, 3, 3], 1, 1, 1, false),
        case([1, 13, 12, 40], [24, 3, 3], 2, 2, 2, false),
        Case {
            x: [2, 7, 12, 6],
            w: [9, 3, 2],
            spec: Conv2dSpec { stride: [1, 3], padding: [2, 0], dilation: [2, 4] },
            bias: true,
        },
    ]
}

#[test]
fn the_cpu_matches_the_definition() {
    for case in kinds() {
        for dtype in [DType::F32, DType::F64] {
            case.check_cpu(dtype);
        }
    }
    // Several blocks of depth, rows and columns; the direct path; a weight gradient in several ranges.
    case([1, 20, 20, 72], [40, 3, 3], 1, 1, 1, true).check_cpu(DType::F32);
    case([3, 24, 24, 24], [17, 1, 1], 1, 0, 1, false).check_cpu(DType::F32);
    case([1, 4, 4, 600], [130, 1, 1], 1, 0, 1, false).check_cpu(DType::F32);
    case([2, 24, 24, 4], [12, 3, 3], 1, 1, 1, false).check_cpu(DType::F32);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_cpu_matches_the_definition_for_any_shape(
        n in 1usize..3, h in 1usize..12, w in 1usize..12, c in 1usize..20, k in 1usize..40, r in 1usize..4, s in 1usize..4,
        stride in [1usize..4, 1usize..4], padding in [0usize..5, 0usize..5], dilation in [1usize..5, 1usize..5],
        bias: bool, double: bool,
    ) {
        prop_assume!(h + 2 * padding[0] > dilation[0] * (r - 1) && w + 2 * padding[1] > dilation[1] * (s - 1));
        let case = Case { x: [n, h, w, c], w: [k, r, s], spec: Conv2dSpec { stride, padding, dilation }, bias };
        case.check_cpu(if double { DType::F64 } else { DType::F32 });
    }
}

#[test]
fn known_values() {
    all_devices().iter().for_each(known_values_on);
}

fn known_values_on(device: &Device) {
    let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], &[1, 3, 3, 1], device).unwrap();
    let w = Tensor::from_vec(vec![1.0f32, 10.0, 100.0, 1000.0], &[1, 2, 2, 1], device).unwrap();
    let bias = Tensor::from_vec(vec![0.5f32], &[1], device).unwrap();
    let dilated = Conv2dSpec { dilation: [2, 2], ..Conv2dSpec::default() };
    let (y, gradients) = value_and_gradients(|v| ops::conv2d(&v[0], &v[1], v.get(2), &dilated), &[x, w, bias], None);
    assert_eq!(wide(&y), [9731.5]);
    assert_eq!(wide(&gradients[0]), [1.0, 0.0, 10.0, 0.0, 0.0, 0.0, 100.0, 0.0, 1000.0]);
    assert_eq!(wide(&gradients[1]), [1.0, 3.0, 7.0, 9.0]);
    assert_eq!(wide(&gradients[2]), [1.0]);
}

#[test]
fn kernels_match_the_cpu() {
    for case in kinds() {
        let (x, filter) = (case.x, case.filter());
        let mut shapes: Vec<&[usize]> = vec![&x, &filter];
        if case.bias {
            shapes.push(&case.w[..1]);
        }
        check_devices(|v| case.run(v), &shapes, &[DType::F32, DType::F64, DType::Bf16], true);
    }
}

/// Enough tiles for the wide kernels in every direction, and several ranges of the weight gradient.
#[test]
fn wide_kernels_match_the_cpu() {
    let cases = [
        case([4, 130, 66, 4], [64, 1, 1], 1, 0, 1, true),
        case([4, 130, 66, 64], [4, 1, 1], 1, 0, 1, false),
        case([2, 9, 8, 30], [40, 3, 3], 1, 1, 1, false),
    ];
    for case in cases {
        let mut rng = Rng(11);
        let inputs = case.inputs(|shape| rng.integers(shape, DType::F32, &Device::cpu()));
        let dy = rng.integers(&case.output(), DType::F32, &Device::cpu());
        let (y, gradients) = value_and_gradients(|v| case.run(v), &inputs, Some(&dy));
        for device in all_devices().iter().filter(|device| !device.is_cpu()) {
            let moved: Vec<_> = inputs.iter().map(|input| input.to_device(device).unwrap()).collect();
            let seed = dy.to_device(device).unwrap();
            let (got, got_gradients) = value_and_gradients(|v| case.run(v), &moved, Some(&seed));
            assert_close(&got, &y, Tolerance::EXACT, "output");
            got_gradients.iter().zip(&gradients).for_each(|(a, b)| assert_close(a, b, Tolerance::EXACT, "gradient"));
        }
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let case = case([1, 12, 12, 20], [36, 3, 3], 1, 1, 1, true);
    let run = |device: &Device| {
        let mut rng = Rng(13);
        let inputs = case.inputs(|shape| rng.reals(shape, DType::F32, device));
        let dy = rng.reals(&case.output(), DType::F32, device);
        let tape = Tape::new(device);
        let vars: Vec<Var> = inputs.into_iter().map(|input| tape.variable(input)).collect();
        let y = case.run(&vars)?;
        let gradients = tape.backward_with(&y, dy)?;
        let mut bits = Vec::new();
        for tensor in std::iter::once(y.value()).chain(vars.iter().filter_map(|var| gradients.get(var))) {
            bits.extend(tensor.to_vec::<f32>()?.iter().flat_map(|value| value.to_ne_bytes()));
        }
        Ok(bits)
    };
    for file in ["kernels/include/conv_simt.cuh", "kernels/conv2d.cu"] {
        bicl_emulator::check_barriers(file, run).unwrap();
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(5);
    for case in [
        case([2, 5, 4, 3], [4, 3, 3], 1, 1, 1, true),
        case([1, 7, 6, 2], [3, 3, 3], 2, 1, 1, true),
        case([1, 6, 7, 3], [2, 3, 3], 1, 2, 2, false),
        case([1, 5, 5, 4], [3, 1, 1], 2, 0, 1, true),
    ] {
        let inputs = case.inputs(|shape| rng.reals(shape, DType::F64, &Device::cpu()));
        check_gradients(|v| case.run(v), &inputs, &mut rng, 60);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = Rng(9);
    for case in [
        case([2, 33, 29, 24], [40, 3, 3], 1, 2, 2, true),
        case([2, 33, 29, 24], [40, 3, 3], 2, 1, 1, true),
        case([1, 30, 30, 64], [32, 1, 1], 1, 0, 1, true),
    ] {
        let inputs = case.inputs(|shape| rng.reals(shape, DType::F32, &Device::cpu()));
        let dy = rng.reals(&case.output(), DType::F32, &Device::cpu());
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| value_and_gradients(|v| case.run(v), &inputs, Some(&dy)))
        };
        let (y, gradients) = with(1);
        for threads in [2, 3, 7] {
            let (other, others) = with(threads);
            assert_same_bits(&other, &y, "threads");
            gradients.iter().zip(&others).for_each(|(a, b)| assert_same_bits(b, a, "threads"));
        }
    }
}

#[test]
fn bad_operands_are_refused() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let var = |shape: &[usize]| tape.constant(Tensor::zeros(shape, DType::F32, &device).unwrap());
    let refused = |x: &Var, w: &Var, bias: Option<&Var>, spec: Conv2dSpec, part: &str| {
        let message = ops::conv2d(x, w, bias, &spec).err().expect(part).to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message:?} does not say {part:?}");
    };
    let (x, plain) = (var(&[1, 4, 4, 3]), Conv2dSpec::default());
    refused(&x, &var(&[2, 3, 3, 4]), None, plain, "has 3 channels");
    refused(&x, &var(&[2, 5, 3, 3]), None, plain, "covers 5 pixels");
    refused(&x, &var(&[2, 3, 3, 3]), None, Conv2dSpec { dilation: [1, 2], ..plain }, "covers 5 pixels");
    refused(&x, &var(&[2, 3, 3, 3]), None, Conv2dSpec { stride: [0, 1], ..plain }, "at least 1");
    refused(&x, &var(&[2, 3, 3, 3]), None, Conv2dSpec { dilation: [1, 0], ..plain }, "at least 1");
    refused(&x, &var(&[2, 3, 3, 3]), None, Conv2dSpec { padding: [usize::MAX, 0], ..plain }, "32-bit");
    refused(&x, &var(&[2, 3, 3, 3]), None, Conv2dSpec { padding: [100_000, 100_000], ..plain }, "2^31 - 1");
    refused(&x, &var(&[2, 3, 3]), None, plain, "expected 4 dimensions");
    refused(&var(&[1, 4, 4, 0]), &var(&[2, 3, 3, 0]), None, plain, "empty");
    refused(&x, &var(&[2, 3, 3, 3]), Some(&var(&[3])), plain, "the bias must have shape [2]");
    let double = tape.constant(Tensor::zeros(&[2, 3, 3, 3], DType::F64, &device).unwrap());
    refused(&x, &double, None, plain, "dtype f32 and f64");
    let labels = tape.constant(Tensor::from_vec(vec![0u8; 48], &[1, 4, 4, 3], &device).unwrap());
    let filter = tape.constant(Tensor::from_vec(vec![0u8; 3], &[1, 1, 1, 3], &device).unwrap());
    refused(&labels, &filter, None, plain, "dtype u8 is not supported");
    let elsewhere = Tensor::zeros(&[2, 3, 3, 3], DType::F32, &bicl_emulator::device()).unwrap();
    refused(&x, &tape.constant(elsewhere), None, plain, "operands are on cpu and emulated");
}
