//! Dynamic labels by similarity with prototypes, and hybrid labels.

use crate::common::golden::Golden;
use crate::common::{self, Rng, all_devices, kernel_devices, of_dtype, wide};
use bicl::{DType, Device, Tensor, ops};
use proptest::prelude::*;

fn transfer(device: &Device, [features, vectors, present]: [&Tensor; 3], tau: f64, threshold: f64) -> Vec<u8> {
    let [features, vectors, present] = [features, vectors, present].map(|tensor| tensor.to_device(device).unwrap());
    ops::transfer_labels(&features, &vectors, &present, tau, threshold).unwrap().to_vec().unwrap()
}

/// docs/method.md, "Dynamic pseudo labels", to the letter: the label, and how far the decision is from its margins.
fn reference(f: &[f64], rho: &[f64], present: &[u8], tau: f64, threshold: f64) -> (u8, f64) {
    let d = f.len();
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    let s = rho.chunks_exact(d).zip(present).map(|(rho, &is)| match is {
        0 => -1.0,
        _ => f.iter().zip(rho).map(|(f, rho)| f * rho).sum::<f64>() / (norm(f) * norm(rho)),
    });
    let exponentials: Vec<f64> = s.map(|s| (s / tau).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    let mut best: Option<usize> = None;
    for c in (0..present.len()).filter(|&c| present[c] > 0) {
        if best.is_none_or(|best| exponentials[c] > exponentials[best]) {
            best = Some(c);
        }
    }
    let Some(best) = best else { return (255, 1.0) };
    let share = exponentials[best] / sum;
    let rival = (0..present.len()).filter(|&c| c != best && present[c] > 0).map(|c| exponentials[c] / sum);
    let margin = (share - threshold).abs().min(rival.map(|rival| share - rival).fold(1.0, f64::min));
    (if share > threshold { best as u8 } else { 255 }, margin)
}

#[test]
fn known_labels() {
    for device in all_devices() {
        let features = of_dtype(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, -1.0, 0.0], &[1, 1, 4, 2], DType::F32, &device);
        let vectors = of_dtype(&[2.0, 0.0, 0.0, 3.0, -1.0, 0.0], &[1, 3, 2], DType::F32, &device);
        let labels = |present: [u8; 3], threshold: f64| {
            let present = Tensor::from_vec(present.to_vec(), &[1, 3], &device).unwrap();
            transfer(&device, [&features, &vectors, &present], 0.1, threshold)
        };
        assert_eq!(labels([1, 1, 1], 0.8), [0, 255, 255, 2], "between two classes, and without direction: none");
        // The last pixel is opposite to class 0: s = -1 there and for the absent classes, a third each.
        assert_eq!(labels([1, 0, 0], 0.8), [0, 0, 0, 255]);
        assert_eq!(labels([1, 0, 0], 0.3), [0, 0, 0, 0]);
        assert_eq!(labels([1, 1, 0], 0.3)[1], 0, "the lowest of equal classes");
        assert_eq!(labels([0, 0, 0], 0.0), [255; 4], "an absent class is never assigned");
        assert_eq!(labels([1, 1, 1], 1.0), [255; 4], "strictly above");
    }
}

#[test]
fn unusable_features_get_no_label() {
    for device in all_devices() {
        let features = of_dtype(&[f64::NAN, 1.0, f64::INFINITY, 1.0], &[1, 1, 2, 2], DType::F32, &device);
        let vectors = of_dtype(&[2.0, 0.0], &[1, 1, 2], DType::F32, &device);
        let present = Tensor::from_vec(vec![1u8], &[1, 1], &device).unwrap();
        assert_eq!(transfer(&device, [&features, &vectors, &present], 0.1, 0.5), [255, 255], "on {device}");
    }
}

#[test]
fn pytorch_agrees() {
    let golden = Golden::open("transfer_labels");
    for name in golden.cases() {
        let case = golden.case(&name);
        for (device, dtype) in all_devices().into_iter().flat_map(|d| [(d.clone(), DType::F64), (d, DType::F32)]) {
            let real = |name: &str| case.real(name, dtype).to_device(&device).unwrap();
            let present = case.bytes("present").to_device(&device).unwrap();
            let labels = ops::transfer_labels(&real("features"), &real("vectors"), &present, 0.1, 0.8).unwrap();
            case.expect("labels", &labels);
        }
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let mut rng = Rng(4);
    let cpu = Device::cpu();
    let (features, vectors) = (rng.reals(&[1, 9, 9, 40], DType::F32, &cpu), rng.reals(&[1, 36, 40], DType::F32, &cpu));
    let present = Tensor::from_vec(vec![1u8; 36], &[1, 36], &cpu).unwrap();
    let run = |device: &Device| {
        let [f, rho, present] = [&features, &vectors, &present].map(|tensor| tensor.to_device(device).unwrap());
        ops::transfer_labels(&f, &rho, &present, 0.1, 0.0)?.to_vec::<u8>()
    };
    bicl_emulator::check_barriers("kernels/transfer_labels.cu", run).unwrap();
}

#[test]
fn hybrid_labels_fill_what_is_open() {
    let mut rng = Rng(5);
    let cpu = Device::cpu();
    for ([rows, columns], [h, w]) in [([13, 10], [4, 3]), ([2, 3], [5, 7]), ([8, 8], [8, 8]), ([1, 1], [1, 1])] {
        let (fixed, dynamic) = (rng.labels(&[2, rows, columns], 9, 2, &cpu), rng.labels(&[2, h, w], 9, 3, &cpu));
        let (a, b) = (fixed.to_vec::<u8>().unwrap(), dynamic.to_vec::<u8>().unwrap());
        let filled = |i: usize| {
            let (n, y, x) = (i / columns / rows, i / columns % rows, i % columns);
            if a[i] == 255 { b[(n * h + y * h / rows) * w + x * w / columns] } else { a[i] }
        };
        let want: Vec<u8> = (0..a.len()).map(filled).collect();
        for device in all_devices() {
            let [fixed, dynamic] = [&fixed, &dynamic].map(|labels| labels.to_device(&device).unwrap());
            assert_eq!(ops::hybrid_labels(&fixed, &dynamic).unwrap().to_vec::<u8>().unwrap(), want, "on {device}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every pixel that is not within rounding of a margin has the definition's label, on every device.
    #[test]
    fn the_definition(
        seed in any::<u64>(),
        shape in [1usize..3, 1..9, 1..9, 1..40],
        classes in 1usize..9,
        tau in prop::sample::select(vec![0.1, 1.0]),
        threshold in prop::sample::select(vec![0.8, 0.3]),
    ) {
        let mut rng = Rng(seed);
        let [n, h, w, d] = shape;
        let cpu = Device::cpu();
        let (features, vectors) =
            (rng.reals(&shape, DType::F32, &cpu), rng.reals(&[n, classes, d], DType::F32, &cpu));
        let present: Vec<u8> = (0..n * classes).map(|_| rng.below(3).min(1) as u8).collect();
        let presence = Tensor::from_vec(present.clone(), &[n, classes], &cpu).unwrap();
        let (f, rho) = (wide(&features), wide(&vectors));
        for device in [cpu.clone()].into_iter().chain(kernel_devices()) {
            let labels = transfer(&device, [&features, &vectors, &presence], tau, threshold);
            for (p, &label) in labels.iter().enumerate() {
                let pair = p / (h * w);
                let (want, margin) = reference(
                    &f[p * d..][..d],
                    &rho[pair * classes * d..][..classes * d],
                    &present[pair * classes..][..classes],
                    tau,
                    threshold,
                );
                prop_assert!(label == want || margin < 1e-4, "pixel {p} is {label}, not {want} (margin {margin})");
            }
        }
    }
}
