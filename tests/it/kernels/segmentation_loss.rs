//! The fused loss: upsampling, cross entropy and entropy in one pass.

use crate::common::{
    self, Rng, Tolerance, all_devices, assert_close, assert_same_bits, check_devices, check_devices_at,
    check_gradients, of_dtype, value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, DomainPair, SegmentationWeights},
};
use proptest::prelude::*;

const BOTH: SegmentationWeights = SegmentationWeights { cross_entropy: 0.7, entropy: 0.4 };

/// The loss of logits on any device against labels on the CPU.
fn fused(x: &Var, labels: &Tensor) -> Result<Var> {
    Ok(ops::segmentation_loss(x, &labels.to_device(x.value().device())?, BOTH)?.total)
}

/// The same function by the separate operations: value and gradient of the logits.
fn composition(x: &Tensor, labels: &Tensor) -> (f64, f64, Tensor) {
    let size = labels.shape();
    let up = |v: &[Var]| ops::upsample_bilinear(&v[0], size[1], size[2]);
    let (ce, d_ce) = value_and_gradients(|v| ops::cross_entropy(&up(v)?, labels), std::slice::from_ref(x), None);
    let (h, d_h) = value_and_gradients(|v| ops::entropy(&up(v)?), std::slice::from_ref(x), None);
    let gradient: Vec<f64> = wide(&d_ce[0]).iter().zip(wide(&d_h[0])).map(|(a, b)| 0.7 * a + 0.4 * b).collect();
    (wide(&ce)[0], wide(&h)[0], of_dtype(&gradient, x.shape(), x.dtype(), x.device()))
}

#[test]
fn known_values() {
    // Between ln 3 and 0 lies ln 3 / 2: probabilities 3/4, sqrt 3 / (1 + sqrt 3), 1/2 of class 0.
    let device = Device::cpu();
    let x = of_dtype(&[3f64.ln(), 0.0, 0.0, 0.0], &[1, 1, 2, 2], DType::F64, &device);
    let labels = Tensor::from_vec(vec![0u8, 1, 255], &[1, 1, 3], &device).unwrap();
    let tape = Tape::new(&device);
    let loss = ops::segmentation_loss(&tape.variable(x), &labels, BOTH).unwrap();
    let root = 3f64.sqrt();
    let probabilities = [0.75, root / (1.0 + root), 0.5];
    let ce = (-0.75f64.ln() + (1.0 + root).ln()) / 2.0;
    let h = probabilities.iter().map(|p| -p * f64::ln(*p) - (1.0 - p) * f64::ln(1.0 - p)).sum::<f64>() / 3.0;
    assert!((loss.cross_entropy.item().unwrap() - ce).abs() < 1e-14);
    assert!((loss.entropy.item().unwrap() - h).abs() < 1e-14);
    assert!((loss.total.value().item().unwrap() - 0.7 * ce - 0.4 * h).abs() < 1e-14);
    assert!(loss.total.value().shape().is_empty());
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(8);
    let device = Device::cpu();
    for (h, w, height, width, classes) in
        [(3, 4, 10, 19, 5), (5, 6, 3, 2, 3), (1, 1, 4, 5, 4), (4, 3, 4, 3, 1), (2, 5, 33, 1, 6)]
    {
        let x = rng.reals(&[2, h, w, classes], DType::F64, &device);
        let labels = rng.labels(&[2, height, width], classes, 4, &device);
        check_gradients(|v| fused(&v[0], &labels), &[x], &mut rng, 200);
    }
}

#[test]
fn no_labelled_pixel_leaves_the_entropy() {
    let device = Device::cpu();
    let x = Rng(1).reals(&[1, 3, 3, 4], DType::F32, &device);
    let labels = Tensor::from_vec(vec![255u8; 63], &[1, 7, 9], &device).unwrap();
    let alone = SegmentationWeights { cross_entropy: 1.0, entropy: 0.0 };
    let (loss, dx) = value_and_gradients(
        |v| Ok(ops::segmentation_loss(&v[0], &labels, alone)?.total),
        std::slice::from_ref(&x),
        None,
    );
    assert_eq!(wide(&loss), [0.0]);
    assert!(wide(&dx[0]).iter().all(|&g| g == 0.0));
    let (loss, dx) = value_and_gradients(|v| fused(&v[0], &labels), &[x], None);
    assert!(wide(&loss)[0] > 0.0 && wide(&dx[0]).iter().any(|&g| g != 0.0));
}

#[test]
fn huge_logits_stay_finite() {
    let device = Device::cpu();
    let x = of_dtype(&[1e4, -1e4, -1e4, 1e4], &[1, 1, 2, 2], DType::F32, &device);
    let labels = Tensor::from_vec(vec![1u8, 0, 0], &[1, 1, 3], &device).unwrap();
    let (loss, dx) = value_and_gradients(|v| fused(&v[0], &labels), &[x], None);
    // The middle pixel is undecided.
    assert!((wide(&loss)[0] - (0.7 * (4e4 + 2f64.ln()) + 0.4 * 2f64.ln()) / 3.0).abs() < 1e-2);
    assert!(wide(&dx[0]).iter().all(|g| g.is_finite()));
}

#[test]
fn a_nan_shows() {
    let device = Device::cpu();
    let x = of_dtype(&[0.0, f64::NAN, 1.0, 2.0], &[1, 1, 2, 2], DType::F32, &device);
    let labels = Tensor::from_vec(vec![0u8; 3], &[1, 1, 3], &device).unwrap();
    let (loss, _) = value_and_gradients(|v| fused(&v[0], &labels), &[x], None);
    assert!(wide(&loss)[0].is_nan());
}

#[test]
fn the_gradient_scales_with_its_seed() {
    let device = Device::cpu();
    let x = Rng(1).reals(&[1, 3, 3, 4], DType::F32, &device);
    let labels = Rng(2).labels(&[1, 7, 9], 4, 5, &device);
    let (_, once) = value_and_gradients(|v| fused(&v[0], &labels), std::slice::from_ref(&x), None);
    let seed = of_dtype(&[4.0], &[], DType::F32, &device);
    let (_, four) = value_and_gradients(|v| fused(&v[0], &labels), &[x], Some(&seed));
    let want: Vec<f64> = wide(&once[0]).iter().map(|g| 4.0 * g).collect();
    assert_eq!(wide(&four[0]), want);
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let device = Device::cpu();
    let x = Rng(9).reals(&[2, 9, 11, 19], DType::F32, &device);
    let labels = Rng(10).labels(&[2, 70, 83], 19, 6, &device);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| value_and_gradients(|v| fused(&v[0], &labels), std::slice::from_ref(&x), None))
    };
    let (loss, dx) = run(1);
    for threads in [2, 3, 7] {
        let (other, d_other) = run(threads);
        assert_same_bits(&other, &loss, "loss");
        assert_same_bits(&d_other[0], &dx[0], "gradient");
    }
}

#[test]
fn kernels_match_the_cpu() {
    let cases = [
        // Two tiles a row, a ragged last one; the paper's classes.
        ([2, 3, 9, 19], [11, 150]),
        // Cells wider than a block; then fewer labels than logits; single pixels.
        ([1, 2, 2, 4], [3, 300]),
        ([1, 9, 11, 5], [4, 3]),
        ([1, 1, 1, 3], [5, 7]),
        ([2, 4, 3, 1], [1, 1]),
        // Too many classes for a thread's registers.
        ([1, 2, 3, 25], [5, 9]),
        ([1, 2, 2, 255], [3, 3]),
    ];
    for ([n, h, w, classes], [height, width]) in cases {
        let labels = Rng(3).labels(&[n, height, width], classes, 3, &Device::cpu());
        let op = |v: &[Var]| ops::scale(&fused(&v[0], &labels)?, (n * h * w) as f64);
        check_devices(op, &[&[n, h, w, classes]], &[DType::F32, DType::F64, DType::Bf16], false);
    }
}

#[test]
fn both_domains_are_the_sum_of_each() {
    let weights = [BOTH, SegmentationWeights { cross_entropy: 0.3, entropy: 0.25 }];
    let labels = [4, 5].map(|seed| Rng(seed).labels(&[2, 11, 150], 19, 3, &Device::cpu()));
    let cpu = Device::cpu();
    let pair = |v: &[Var]| match v {
        [both, _] => DomainPair::Together(both.clone()),
        _ => DomainPair::Apart([v[0].clone(), v[1].clone()]),
    };
    let losses = |v: &[Var]| {
        let moved = labels.each_ref().map(|labels| labels.to_device(v[0].value().device()).unwrap());
        ops::segmentation_losses(&pair(v), moved.each_ref(), weights, v.last())
    };
    let plus = || of_dtype(&[2.5], &[], DType::F32, &cpu);
    for dtype in [DType::F32, DType::Bf16] {
        let both = Rng(6).reals(&[4, 3, 9, 19], dtype, &cpu);
        let parts = ops::split_images(&Tape::new(&cpu).constant(both.clone()), &[2, 2]).unwrap();
        let [source, target] = [0, 1].map(|i| parts[i].value().clone());
        let seed = of_dtype(&[10.0], &[], DType::F32, &cpu);
        let scaled = |v: &[Var]| ops::weighted_sum(&[(&losses(v)?.total, 10.0)]);
        check_devices_at(scaled, &[both.clone(), plus()]);
        check_devices_at(scaled, &[source.clone(), target.clone(), plus()]);
        for device in all_devices() {
            let on = |tensor: &Tensor| tensor.to_device(&device).unwrap();
            let together = [on(&both), on(&plus())];
            let (total, gradients) = value_and_gradients(|v| Ok(losses(v)?.total), &together, Some(&on(&seed)));
            let alone = |x: &Tensor, i: usize| {
                let op = |v: &[Var]| Ok(ops::segmentation_loss(&v[0], &on(&labels[i]), weights[i])?.total);
                let (total, mut gradients) = value_and_gradients(op, &[on(x)], Some(&on(&seed)));
                (wide(&total)[0], gradients.swap_remove(0))
            };
            let ((s, ds), (t, dt)) = (alone(&source, 0), alone(&target, 1));
            assert!((wide(&total)[0] - (s + t + 2.5)).abs() < 1e-5, "on {device}");
            assert_eq!(wide(&gradients[0]), [wide(&ds), wide(&dt)].concat(), "on {device}");
            assert_eq!(wide(&gradients[1]), [10.0], "on {device}");
        }
    }
}

#[test]
fn kernels_give_the_unweighted_terms() {
    let x = Rng(5).reals(&[1, 3, 4, 6], DType::F32, &Device::cpu());
    let labels = Rng(6).labels(&[1, 10, 14], 6, 3, &Device::cpu());
    let (ce, entropy, _) = composition(&x, &labels);
    for device in all_devices() {
        // A constant: no gradient is computed.
        let x = Tape::new(&device).constant(x.to_device(&device).unwrap());
        let loss = ops::segmentation_loss(&x, &labels.to_device(&device).unwrap(), BOTH).unwrap();
        assert!((loss.cross_entropy.item().unwrap() - ce).abs() < 1e-5, "{device}");
        assert!((loss.entropy.item().unwrap() - entropy).abs() < 1e-5, "{device}");
    }
}

#[test]
fn kernels_take_every_label_ignored() {
    for device in all_devices() {
        let x = Rng(1).reals(&[1, 3, 3, 4], DType::F32, &device);
        let labels = Tensor::from_vec(vec![255u8; 63], &[1, 7, 9], &device).unwrap();
        let alone = SegmentationWeights { cross_entropy: 1.0, entropy: 0.0 };
        let (loss, dx) = value_and_gradients(|v| Ok(ops::segmentation_loss(&v[0], &labels, alone)?.total), &[x], None);
        assert_eq!(wide(&loss), [0.0]);
        assert!(wide(&dx[0]).iter().all(|&g| g == 0.0));
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    // Ten classes pass shared memory in two groups; cells of 300 columns take three turns of a block.
    let x = Rng(7).reals(&[1, 2, 2, 10], DType::F32, &Device::cpu());
    let labels = Rng(8).labels(&[1, 3, 300], 10, 3, &Device::cpu());
    let run = |device: &Device| {
        let (loss, dx) = value_and_gradients(|v| fused(&v[0], &labels), &[x.to_device(device)?], None);
        Ok([loss, dx[0].clone()].iter().flat_map(|t| t.to_vec::<f32>().unwrap()).flat_map(f32::to_le_bytes).collect())
    };
    for file in ["kernels/segmentation_loss.cu", "kernels/include/dev.cuh"] {
        bicl_emulator::check_barriers(file, run).unwrap();
    }
}

#[test]
fn bad_operands_are_refused() {
    let device = Device::cpu();
    let x = Tape::new(&device).constant(Tensor::zeros(&[1, 2, 2, 3], DType::F32, &device).unwrap());
    let labels = |data: Vec<u8>, shape: &[usize]| Tensor::from_vec(data, shape, &device).unwrap();
    let error = fused(&x, &labels(vec![7; 16], &[1, 4, 4])).err().expect("no class 7").to_string();
    assert_eq!(error, "segmentation_loss: label 7 is neither a class (0 to 2) nor 255 (ignore)");
    assert!(fused(&x, &labels(vec![0; 32], &[2, 4, 4])).is_err());
    assert!(fused(&x, &labels(vec![], &[1, 0, 4])).is_err());
    assert!(fused(&x, &Tensor::zeros(&[1, 4, 4], DType::F32, &device).unwrap()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_the_composition(
        n in 1usize..3, h in 1usize..6, w in 1usize..6, height in 1usize..40, width in 1usize..40, c in 1usize..22,
        seed: u64, large: bool, ignore_every in 1usize..6,
    ) {
        let device = Device::cpu();
        let mut rng = Rng(seed);
        let scale = if large { 1e4 } else { 3.0 };
        let data: Vec<f64> = (0..n * h * w * c).map(|_| rng.symmetric() * scale).collect();
        let labels = rng.labels(&[n, height, width], c, ignore_every, &device);
        for (dtype, bound) in [(DType::F64, 1e-11), (DType::F32, 5e-6)] {
            let x = of_dtype(&data, &[n, h, w, c], dtype, &device);
            let (ce, entropy, d_want) = composition(&x, &labels);
            let tape = Tape::new(&device);
            let variable = tape.variable(x);
            let loss = ops::segmentation_loss(&variable, &labels, BOTH).unwrap();
            let close = |got: f64, want: f64| (got - want).abs() <= bound * (1.0 + want.abs());
            let (got_ce, got_h) = (loss.cross_entropy.item().unwrap(), loss.entropy.item().unwrap());
            prop_assert!(close(got_ce, ce), "{dtype} cross entropy {got_ce} {ce}");
            prop_assert!(close(got_h, entropy), "{dtype} entropy {got_h} {entropy}");
            let gradients = tape.backward(&loss.total).unwrap();
            // At 1e4 a rounding of the logits moves the softmax: f32 cannot agree closely.
            if !(large && dtype == DType::F32) {
                let tolerance = Tolerance::new(bound, 10.0 * bound);
                assert_close(gradients.get(&variable).unwrap(), &d_want, tolerance, "gradient");
            }
        }
    }
}
