//! A convolution that normalises its output by given statistics.

use crate::common::{self, Rng, all_devices, assert_same_bits, bytes_of, kernel_devices};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, BatchNormMode, BatchNormSpec, Conv2dSpec, conv2d_batch_norm},
};

struct Case {
    image: [usize; 4],
    /// K, R, S.
    filter: [usize; 3],
    spec: Conv2dSpec,
    bias: bool,
    residual: bool,
    relu: bool,
}

fn spec(stride: usize, padding: usize) -> Conv2dSpec {
    Conv2dSpec { stride: [stride; 2], padding: [padding; 2], dilation: [1; 2] }
}

/// Whether batch norm is told that its scale is a constant, which is when its pass can be spared.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Constant,
    Variable,
}

/// y and the gradients of x, w and, where there are any, bias and residual; in one operation or in two.
fn run(case: &Case, dtype: DType, device: &Device, fused: bool, scale: Scale) -> Result<Vec<Tensor>> {
    let mut rng = Rng(91);
    let ([n, h, w, c], [k, r, s]) = (case.image, case.filter);
    let extent = |extent: usize, taps: usize| (extent + 2 * case.spec.padding[0] - taps) / case.spec.stride[0] + 1;
    let output = [n, extent(h, r), extent(w, s), k];
    let tape = Tape::new(device).with_tf32();
    let mut real = |shape: &[usize], dtype| rng.reals(shape, dtype, device);
    let x = tape.variable(real(&case.image, dtype));
    let filter = tape.variable(real(&[k, r, s, c], dtype));
    let bias = case.bias.then(|| tape.variable(real(&[k], dtype)));
    let residual = case.residual.then(|| tape.variable(real(&output, dtype)));
    let (mean, variance) = (real(&[k], DType::F32), real(&[k], DType::F32));
    let variance = ops::scale(&tape.constant(variance), 0.5)?;
    let variance = ops::add(&variance, &tape.constant(Tensor::full(&[k], 1.0, DType::F32, device)?))?;
    let vectors = [real(&[k], DType::F32), real(&[k], DType::F32)];
    let dy = real(&output, dtype);
    let [a, b] = match scale {
        Scale::Constant => vectors.map(|vector| tape.constant(vector)),
        Scale::Variable => vectors.map(|vector| tape.variable(vector)),
    };
    let mode = BatchNormMode::Running { mean: &mean, variance: variance.value(), epsilon: 1e-5 };
    let norm = BatchNormSpec { mode, residual: residual.as_ref(), relu: case.relu, moments: None };
    let y = if fused {
        conv2d_batch_norm(&x, &filter, bias.as_ref(), &case.spec, [&a, &b], &norm)?.y
    } else {
        let z = ops::conv2d(&x, &filter, bias.as_ref(), &case.spec)?;
        ops::batch_norm_with(&z, &a, &b, &norm)?.y
    };
    let mut gradients = tape.backward_with(&y, dy)?;
    let variables: Vec<&Var> =
        [Some(&x), Some(&filter), bias.as_ref(), residual.as_ref()].into_iter().flatten().collect();
    let gradients = variables.into_iter().map(|var| gradients.take(var).expect("a variable"));
    Ok([y.value().clone()].into_iter().chain(gradients).collect())
}

const CASE: Case = Case {
    image: [2, 7, 9, 16],
    filter: [40, 3, 3],
    spec: Conv2dSpec { stride: [1; 2], padding: [1; 2], dilation: [1; 2] },
    bias: false,
    residual: true,
    relu: true,
};

/// Every tile, edges that end inside tiles, the stem's window; channels off the chunks and the CPU, where it is two passes anyway.
#[test]
fn the_bits_are_those_of_two_passes() {
    let cases = [
        CASE,
        Case { residual: false, ..CASE },
        Case { relu: false, bias: true, ..CASE },
        Case { filter: [24, 1, 1], spec: spec(1, 0), ..CASE },
        Case { filter: [72, 1, 1], spec: spec(2, 0), ..CASE },
        Case { image: [1, 92, 92, 8], filter: [200, 1, 1], spec: spec(1, 0), ..CASE },
        Case { image: [1, 22, 26, 3], filter: [64, 7, 7], spec: spec(2, 3), residual: false, ..CASE },
        Case { image: [1, 22, 26, 3], filter: [16, 7, 7], spec: spec(2, 3), ..CASE },
        Case { filter: [6, 3, 3], ..CASE },
    ];
    for (number, case) in cases.iter().enumerate() {
        for dtype in [DType::Bf16, DType::F32] {
            for device in all_devices() {
                let [got, want] = [true, false].map(|fused| run(case, dtype, &device, fused, Scale::Constant).unwrap());
                for (part, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_same_bits(got, want, &format!("case {number}, {dtype}, part {part} on {device}"));
                }
            }
        }
    }
}

/// Gradients of scale need the convolution's output: two passes then.
#[test]
fn a_variable_scale_is_left_to_batch_norm() {
    for device in kernel_devices() {
        let [got, want] = [true, false].map(|fused| run(&CASE, DType::Bf16, &device, fused, Scale::Variable).unwrap());
        got.iter().zip(&want).for_each(|(got, want)| assert_same_bits(got, want, "variable scale"));
    }
    let passes = |scale| {
        let device = Device::plan();
        device.as_plan().unwrap().start();
        run(&CASE, DType::Bf16, &device, true, scale).unwrap();
        device.as_plan().unwrap().counts().kernels.get("batch_norm_forward_bf16").map_or(0, |count| count.launches)
    };
    assert_eq!((passes(Scale::Constant), passes(Scale::Variable)), (0, 1));
}

/// Two of them, one behind the other: the second's data gradient masks and scales that of the first, where that has a residual
/// masks it alone. Gradients of x, both filters and the residual.
fn chain(residual: bool, relu: bool, fused: bool, device: &Device, dtype: DType) -> Vec<Tensor> {
    let mut rng = Rng(92);
    let tape = Tape::new(device).with_tf32();
    let mut real = |shape: &[usize], dtype| rng.reals(shape, dtype, device);
    let x = tape.variable(real(&[2, 7, 9, 16], dtype));
    let w = [(); 2].map(|()| tape.variable(real(&[16, 3, 3, 16], dtype)));
    let other = tape.variable(real(&[2, 7, 9, 16], dtype));
    let vector = Tensor::full(&[16], 1.5, DType::F32, device).unwrap();
    let (scale, shift) = (tape.constant(real(&[16], DType::F32)), tape.constant(real(&[16], DType::F32)));
    let dy = real(&[2, 7, 9, 16], dtype);
    let norm = |residual| BatchNormSpec {
        mode: BatchNormMode::Running { mean: &vector, variance: &vector, epsilon: 1e-5 },
        residual,
        relu,
        moments: None,
    };
    let y =
        conv2d_batch_norm(&x, &w[0], None, &spec(1, 1), [&scale, &shift], &norm(residual.then_some(&other))).unwrap().y;
    // Something that hands the gradient through leaves it to a pass of its own.
    let y = if fused { y } else { ops::scale(&y, 1.0).unwrap() };
    let y = conv2d_batch_norm(&y, &w[1], None, &spec(1, 1), [&scale, &shift], &norm(None)).unwrap().y;
    let mut gradients = tape.backward_with(&y, dy).unwrap();
    [&x, &w[0], &w[1], &other].into_iter().filter_map(|var| gradients.take(var)).collect()
}

#[test]
fn gradients_are_masked_and_scaled_on_the_way() {
    for device in all_devices() {
        for (residual, relu) in [(false, true), (true, true), (false, false), (true, false)] {
            for dtype in [DType::Bf16, DType::F32] {
                let [got, want] = [true, false].map(|fused| chain(residual, relu, fused, &device, dtype));
                assert_eq!(got.len(), 3 + usize::from(residual));
                for (part, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_same_bits(
                        got,
                        want,
                        &format!("residual {residual}, relu {relu}, {dtype}, part {part} on {device}"),
                    );
                }
            }
        }
    }
    let passes = |residual, fused| {
        let device = Device::plan();
        device.as_plan().unwrap().start();
        chain(residual, true, fused, &device, DType::Bf16);
        device.as_plan().unwrap().counts().kernels.get("batch_norm_backward_bf16").map_or(0, |count| count.launches)
    };
    // The last of the chain has nobody behind it.
    assert_eq!((passes(false, true), passes(false, false), passes(true, true)), (1, 2, 2));
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in all_devices() {
        let tape = Tape::new(&device);
        let zeros = |shape: &[usize], dtype| tape.constant(Tensor::zeros(shape, dtype, &device).unwrap());
        let (x, w) = (zeros(&[1, 4, 4, 8], DType::Bf16), zeros(&[16, 3, 3, 8], DType::Bf16));
        let refused = |channels: usize, residual: &[usize]| {
            let vector = zeros(&[channels], DType::F32);
            let residual = zeros(residual, DType::Bf16);
            let mode = BatchNormMode::Running { mean: vector.value(), variance: vector.value(), epsilon: 1e-5 };
            let norm = BatchNormSpec { mode, residual: Some(&residual), relu: true, moments: None };
            conv2d_batch_norm(&x, &w, None, &spec(1, 1), [&vector, &vector], &norm).err().map(|error| error.to_string())
        };
        assert_eq!(refused(16, &[1, 4, 4, 16]), None);
        assert!(refused(15, &[1, 4, 4, 16]).unwrap().contains("scale"), "on {device}");
        assert!(refused(16, &[1, 4, 5, 16]).unwrap().contains("the residual"), "on {device}");
    }
}

#[test]
fn shared_memory_has_no_bank_conflicts() {
    if common::gpu_alone() {
        return;
    }
    let used = bicl_emulator::bank_use(|schedule| {
        let device = bicl_emulator::device_with(schedule);
        for dtype in [DType::Bf16, DType::F32] {
            assert!(!bytes_of(&run(&CASE, dtype, &device, true, Scale::Constant).unwrap()).is_empty());
        }
    });
    let used: Vec<_> = used.iter().filter(|used| used.file.contains("conv_")).collect();
    assert!(!used.is_empty());
    used.iter().for_each(|used| assert_eq!(used.wavefronts, used.least, "{used}"));
}
