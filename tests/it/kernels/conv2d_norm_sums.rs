//! The first half of a batch norm's backward pass, done by the convolution after it.

use crate::common::{self, Rng, Tolerance, assert_close, assert_same_bits, bytes_of, kernel_devices, wide};
use bicl::{
    DType, Device, Tensor,
    autograd::{Tape, Var},
    ops::{self, BatchNormMode, BatchNormSpec, Conv2dSpec},
};

struct Case {
    /// Of the batch norm and of the convolution after it.
    image: [usize; 4],
    /// K, R, S.
    filter: [usize; 3],
    stride: usize,
    groups: usize,
    residual: bool,
    relu: bool,
    /// Whether something beside the convolution reads y, and so contributes to its gradient first.
    read_twice: bool,
    /// Whether it is the head, of four branches, that reads y.
    head: bool,
}

/// x, residual, filter, scale, shift, and the gradient of the convolution's output.
type Inputs = [Tensor; 6];

fn inputs(case: &Case, dtype: DType, device: &Device) -> Inputs {
    let mut rng = Rng(77);
    let [n, h, w, c] = case.image;
    let [k, r, s] = case.filter;
    let out = |extent: usize| (extent - 1) / case.stride + 1;
    [
        rng.integers(&case.image, dtype, device),
        rng.integers(&case.image, dtype, device),
        rng.integers(&[k, r, s, c], dtype, device),
        rng.reals(&[c], DType::F32, device),
        rng.reals(&[c], DType::F32, device),
        rng.integers(&[n, out(h), out(w), if case.head { 4 * k } else { k }], dtype, device),
    ]
}

/// Gradients of x, of the residual, of scale and of shift. Without `fused` an operation stands between the two that hands
/// gradients through.
fn gradients(case: &Case, inputs: &Inputs, fused: bool) -> Vec<Tensor> {
    let tape = Tape::new(inputs[0].device()).with_tf32();
    let [x, residual, w, scale, shift, dy] = inputs;
    let [x, residual, w, scale, shift] = [x, residual, w, scale, shift].map(|tensor| tape.variable(tensor.clone()));
    let spec = BatchNormSpec {
        mode: BatchNormMode::Batch { epsilon: 1e-5, groups: case.groups },
        residual: case.residual.then_some(&residual),
        relu: case.relu,
        moments: None,
    };
    let y = ops::batch_norm_with(&x, &scale, &shift, &spec).unwrap().y;
    let y = if fused { y } else { ops::scale(&y, 1.0).unwrap() };
    let spec = Conv2dSpec { stride: [case.stride; 2], padding: [case.filter[1] / 2; 2], ..Conv2dSpec::default() };
    let mut out = if case.head {
        let bias = tape.constant(Tensor::zeros(&case.filter[..1], x.value().dtype(), x.value().device()).unwrap());
        let branch = |dilation| ops::AsppBranch { filter: &w, bias: &bias, dilation };
        ops::aspp(&y, &[1, 2, 3, 4].map(branch)).unwrap()
    } else {
        ops::conv2d(&y, &w, None, &spec).unwrap()
    };
    if case.read_twice {
        out = ops::add(&out, &y).unwrap();
    }
    let mut gradients = tape.backward_with(&out, dy.clone()).unwrap();
    let wanted: Vec<&Var> = [&x, &scale, &shift].into_iter().chain(case.residual.then_some(&residual)).collect();
    wanted.into_iter().map(|var| gradients.take(var).unwrap()).collect()
}

const CASE: Case = Case {
    image: [4, 9, 7, 16],
    filter: [24, 3, 3],
    stride: 1,
    groups: 1,
    residual: false,
    relu: true,
    read_twice: false,
    head: false,
};

/// Every tile; groups that end inside a tile; strides, of which 1 x 1 leave phases that no tap hits; both masks and none.
#[test]
fn sums_are_those_of_a_pass_over_the_gradient() {
    let cases = [
        CASE,
        Case { groups: 2, ..CASE },
        Case { groups: 4, residual: true, ..CASE },
        Case { residual: true, read_twice: true, filter: [16, 1, 1], ..CASE },
        Case { relu: false, ..CASE },
        Case { relu: false, residual: true, groups: 2, ..CASE },
        Case { stride: 2, groups: 2, ..CASE },
        Case { stride: 2, residual: true, filter: [40, 1, 1], ..CASE },
        Case { image: [2, 5, 5, 72], filter: [8, 1, 1], groups: 2, ..CASE },
        Case { image: [2, 92, 92, 40], filter: [8, 1, 1], groups: 2, ..CASE },
        Case { image: [4, 92, 92, 72], filter: [8, 1, 1], groups: 2, residual: true, ..CASE },
        Case { image: [1, 1, 2, 8], filter: [8, 3, 3], ..CASE },
        Case { head: true, groups: 2, residual: true, ..CASE },
        Case { head: true, image: [2, 70, 70, 136], filter: [3, 1, 1], groups: 2, ..CASE },
    ];
    for (number, case) in cases.iter().enumerate() {
        for dtype in [DType::Bf16, DType::F32] {
            let mut first: Option<Vec<Tensor>> = None;
            let devices = kernel_devices();
            // The largest under one schedule.
            let few = if case.image[1] > 50 { 1 } else { devices.len() };
            for device in devices.iter().take(few).chain(devices.iter().skip(few).filter(|device| device.is_cuda())) {
                let inputs = inputs(case, dtype, device);
                let (got, want) = (gradients(case, &inputs, true), gradients(case, &inputs, false));
                for (part, (got, want)) in ["x", "scale", "shift", "residual"].iter().zip(got.iter().zip(&want)) {
                    let what = format!("case {number}, {dtype}: d {part} on {device}");
                    let most = wide(want).iter().fold(0.0f64, |most, v| most.max(v.abs()));
                    match *part {
                        // Sums of integers, and the gradient itself, are exact in any order.
                        "shift" | "residual" => assert_same_bits(got, want, &what),
                        "scale" => assert_close(got, want, Tolerance::new(1e-5 * most, 1e-5), &what),
                        // A sum that differs in its last bit may round a bf16 differently.
                        _ if dtype == DType::Bf16 => assert_close(got, want, Tolerance::new(1e-3 * most, 1e-2), &what),
                        _ => assert_close(got, want, Tolerance::new(1e-5 * most, 1e-5), &what),
                    }
                }
                if device.is_emulated() {
                    let first = first.get_or_insert_with(|| got.clone());
                    first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                }
            }
        }
    }
}

/// Which passes over the gradient are left, as a plan counts them.
fn passes(case: &Case, fused: bool) -> u64 {
    let device = Device::plan();
    let inputs = inputs(case, DType::Bf16, &device);
    device.as_plan().unwrap().start();
    gradients(case, &inputs, fused);
    let counts = device.as_plan().unwrap().counts();
    counts.kernels.get("batch_norm_sums_bf16").map_or(0, |count| count.launches)
}

#[test]
fn the_pass_is_spared_where_the_convolution_comes_last() {
    assert_eq!(passes(&CASE, true), 0);
    assert_eq!(passes(&CASE, false), 1);
    assert_eq!(passes(&Case { head: true, ..CASE }, true), 0);
    // The sum comes later in the forward pass, so its contribution is there before.
    assert_eq!(passes(&Case { read_twice: true, filter: [16, 3, 3], ..CASE }, true), 0);
    // Channels off the chunks stay off the tensor cores.
    assert_eq!(passes(&Case { filter: [6, 3, 3], ..CASE }, true), 1);
}

/// A contribution that comes after the convolution's must not be lost.
#[test]
fn a_gradient_that_is_not_whole_is_left_alone() {
    for device in kernel_devices() {
        let inputs = inputs(&Case { filter: [16, 3, 3], ..CASE }, DType::Bf16, &device);
        let run = |scaled_first: bool| {
            let tape = Tape::new(&device);
            let [x, _, w, scale, shift, dy] = &inputs;
            let [x, w, scale, shift] = [x, w, scale, shift].map(|tensor| tape.variable(tensor.clone()));
            let mode = BatchNormMode::Batch { epsilon: 1e-5, groups: 1 };
            let spec = BatchNormSpec { mode, residual: None, relu: true, moments: None };
            let y = ops::batch_norm_with(&x, &scale, &shift, &spec).unwrap().y;
            let twice = || ops::scale(&y, 2.0).unwrap();
            let conv = || ops::conv2d(&y, &w, None, &Conv2dSpec { padding: [1, 1], ..Conv2dSpec::default() }).unwrap();
            let (a, b) = if scaled_first {
                (twice(), conv())
            } else {
                let conv = conv();
                (twice(), conv)
            };
            let out = ops::add(&a, &b).unwrap();
            let mut gradients = tape.backward_with(&out, dy.clone()).unwrap();
            [&shift, &scale, &x].map(|var| gradients.take(var).unwrap())
        };
        let (first, last) = (run(true), run(false));
        assert_same_bits(&first[0], &last[0], "d shift");
        let most = wide(&first[1]).iter().fold(0.0f64, |most, v| most.max(v.abs()));
        assert_close(&first[1], &last[1], Tolerance::new(1e-5 * most, 1e-5), "d scale");
        let most = wide(&first[2]).iter().fold(0.0f64, |most, v| most.max(v.abs()));
        assert_close(&first[2], &last[2], Tolerance::new(1e-3 * most, 1e-2), "d x");
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let run = |device: &Device| Ok(bytes_of(&gradients(&CASE, &inputs(&CASE, DType::Bf16, device), true)));
    bicl_emulator::check_barriers("kernels/include/conv_norm_sums.cuh", run).unwrap();
}

#[test]
fn shared_memory_has_no_bank_conflicts() {
    if common::gpu_alone() {
        return;
    }
    let used = bicl_emulator::bank_use(|schedule| {
        let device = bicl_emulator::device_with(schedule);
        let cases = [CASE, Case { image: [2, 70, 70, 136], filter: [8, 1, 1], ..CASE }];
        for (case, dtype) in cases.iter().flat_map(|case| [(case, DType::Bf16), (case, DType::F32)]) {
            gradients(case, &inputs(case, dtype, &device), true);
        }
    });
    let used: Vec<_> = used.iter().filter(|used| used.file.contains("conv_")).collect();
    assert!(used.iter().any(|used| used.file.contains("conv_norm_sums")));
    used.iter().for_each(|used| assert_eq!(used.wavefronts, used.least, "{used}"));
}
