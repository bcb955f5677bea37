//! The statistics of batch norm, taken by the convolution before it.

use crate::common::{self, Rng, Tolerance, assert_close, assert_same_bits, kernel_devices};
use bicl::{
    DType, Device, Tensor,
    autograd::{Tape, Var},
    ops::{self, BatchNormMode, BatchNormSpec, Conv2dSpec},
};

/// Mean and variance by group, y, and the convolution's output.
fn run(x: &Tensor, w: &Tensor, spec: &Conv2dSpec, groups: usize, fused: bool) -> Vec<Tensor> {
    let device = x.device();
    let tape = Tape::new(device).with_tf32();
    let [x, w] = [x, w].map(|tensor| tape.constant(tensor.clone()));
    let (y, moments) = ops::conv2d_with_moments(&x, &w, None, spec, groups).unwrap();
    let plain = ops::conv2d(&x, &w, None, spec).unwrap();
    assert_same_bits(y.value(), plain.value(), "moments change no output");
    let k = [w.value().shape()[0]];
    let vector = |value| tape.constant(Tensor::full(&k, value, DType::F32, device).unwrap());
    let mode = BatchNormMode::Batch { epsilon: 1e-5, groups };
    let moments = moments.filter(|_| fused);
    assert_eq!(moments.is_some(), fused, "the kernel takes moments");
    let spec = BatchNormSpec { mode, residual: None, relu: false, moments: moments.as_ref() };
    let out = ops::batch_norm_with(&y, &vector(1.5), &vector(0.5), &spec).unwrap();
    vec![out.mean, out.variance, out.y.value().clone(), y.value().clone()]
}

/// Groups that end inside a tile, inside a piece, and within one piece; every tile; the stem's window. A large mean beside
/// small deviations.
#[test]
fn moments_are_those_of_a_pass_over_the_output() {
    let plain = Conv2dSpec { padding: [1, 1], ..Conv2dSpec::default() };
    let point = Conv2dSpec::default();
    let stem = Conv2dSpec { stride: [2, 2], padding: [3, 3], ..Conv2dSpec::default() };
    let cases = [
        ([4, 9, 11, 16], [72, 3, 3], plain, 2),
        ([6, 5, 3, 24], [40, 3, 3], plain, 6),
        ([3, 13, 12, 40], [136, 1, 1], point, 1),
        ([2, 92, 92, 8], [40, 1, 1], point, 2),
        ([4, 92, 92, 8], [72, 1, 1], point, 2),
        ([2, 22, 26, 3], [64, 7, 7], stem, 2),
        ([2, 22, 26, 3], [40, 7, 7], stem, 1),
    ];
    for (image, [k, r, s], spec, groups) in cases {
        for dtype in [DType::Bf16, DType::F32] {
            let mut rng = Rng(31);
            let mut draw = |shape: &[usize]| {
                let shifted: Vec<f64> = (0..shape.iter().product()).map(|_| 1.0 + 0.25 * rng.symmetric()).collect();
                common::of_dtype(&shifted, shape, dtype, &Device::cpu())
            };
            let (x, w) = (draw(&image), draw(&[k, r, s, image[3]]));
            let mut first: Option<Vec<Tensor>> = None;
            let devices = kernel_devices();
            // The largest under one schedule.
            let few = if image[1] > 50 { 1 } else { devices.len() };
            for device in devices.iter().take(few).chain(devices.iter().skip(few).filter(|device| device.is_cuda())) {
                let (x, w) = (x.to_device(device).unwrap(), w.to_device(device).unwrap());
                let (got, want) = (run(&x, &w, &spec, groups, true), run(&x, &w, &spec, groups, false));
                let what = format!("{image:?} {k} {dtype} in {groups}");
                let scale = common::wide(&want[0]).iter().fold(0.0f64, |most, v| most.max(v.abs()));
                assert_close(&got[0], &want[0], Tolerance::new(1e-6 * scale, 0.0), &format!("{what}: mean"));
                // Of values near `scale`, f32 resolves squared deviations of this size.
                let least = 1e-6 * scale;
                assert_close(&got[1], &want[1], Tolerance::new(least, 1e-4), &format!("{what}: variance"));
                assert_close(&got[2], &want[2], Tolerance::new(2e-2, 1e-2), &format!("{what}: y"));
                if device.is_emulated() {
                    let first = first.get_or_insert_with(|| got.clone());
                    first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                }
            }
        }
    }
}

/// Integers whose means and deviations f32 holds: the statistics are exact.
#[test]
fn constant_channels_have_no_variance() {
    for device in kernel_devices() {
        let x = Tensor::full(&[4, 7, 9, 8], 2.0, DType::Bf16, &device).unwrap();
        let w: Vec<f64> = (0..40 * 8).map(|i| (i / 8) as f64 - 10.0).collect();
        let w = common::of_dtype(&w, &[40, 1, 1, 8], DType::Bf16, &device);
        let got = run(&x, &w, &Conv2dSpec::default(), 2, true);
        let want: Vec<f64> = (0..80).map(|i| 16.0 * (f64::from(i % 40) - 10.0)).collect();
        assert_eq!(common::wide(&got[0]), want, "{device}");
        assert!(common::wide(&got[1]).iter().all(|&variance| variance == 0.0), "{device}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    if common::gpu_alone() {
        return;
    }
    let device = Device::plan();
    let tape = Tape::new(&device);
    let zeros = |shape: &[usize], dtype| tape.constant(Tensor::zeros(shape, dtype, &device).unwrap());
    let (x, w) = (zeros(&[4, 6, 6, 8], DType::Bf16), zeros(&[48, 1, 1, 8], DType::Bf16));
    let spec = Conv2dSpec::default();
    for groups in [0, 3] {
        let error = ops::conv2d_with_moments(&x, &w, None, &spec, groups).err().unwrap().to_string();
        assert!(error.contains(&format!("4 images do not divide into {groups} groups")), "{error}");
    }
    let (y, moments) = ops::conv2d_with_moments(&x, &w, None, &spec, 2).unwrap();
    let vector = zeros(&[48], DType::F32);
    let refused = |y: &Var, groups: usize| {
        let mode = BatchNormMode::Batch { epsilon: 1e-5, groups };
        let spec = BatchNormSpec { mode, residual: None, relu: true, moments: moments.as_ref() };
        ops::batch_norm_with(y, &vector, &vector, &spec).err().map(|error| error.to_string())
    };
    assert_eq!(refused(&y, 2), None);
    assert!(refused(&y, 1).unwrap().contains("of another image"));
    assert!(refused(&zeros(&[4, 6, 7, 48], DType::Bf16), 2).unwrap().contains("of another image"));
    // Sums in parts, the slimmest tile, the SIMT kernels and the CPU leave the statistics to batch norm.
    let (deep, long) = (zeros(&[2, 23, 23, 512], DType::Bf16), zeros(&[512, 3, 3, 512], DType::Bf16));
    assert!(ops::conv2d_with_moments(&deep, &long, None, &spec, 2).unwrap().1.is_none());
    let kernels = device.as_plan().unwrap().counts().kernels;
    assert!(kernels.keys().any(|kernel| kernel.starts_with("conv2d_split_k_forward")), "{kernels:?}");
    let slim = zeros(&[32, 1, 1, 8], DType::Bf16);
    assert!(ops::conv2d_with_moments(&x, &slim, None, &spec, 2).unwrap().1.is_none());
    let (x, w) = (zeros(&[4, 6, 6, 8], DType::F32), zeros(&[16, 1, 1, 8], DType::F32));
    assert!(ops::conv2d_with_moments(&x, &w, None, &spec, 2).unwrap().1.is_none());
}
