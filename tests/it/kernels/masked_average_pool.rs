//! Prototypes, class overlap, and nearest-neighbour resizing of labels.

use crate::common::golden::Golden;
use crate::common::{
    Rng, all_devices, assert_same_bits, check_devices_at, check_gradients, kernel_devices, of_dtype,
    value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, PrototypeScope},
};
use proptest::prelude::*;

fn labels_on(device: &Device, labels: &Tensor) -> Tensor {
    labels.to_device(device).unwrap()
}

fn pool(v: &[Var], labels: &Tensor, classes: usize, scope: PrototypeScope) -> Result<Var> {
    let labels = labels_on(v[0].value().device(), labels);
    Ok(ops::masked_average_pool_scoped(&v[0], &labels, classes, scope)?.vectors)
}

#[test]
fn known_means() {
    for device in all_devices() {
        let tape = Tape::new(&device);
        let features = of_dtype(&[1.0, 2.0, 3.0, 6.0, -1.0, 5.0, 9.0, 9.0], &[2, 1, 2, 2], DType::F32, &device);
        let labels = Tensor::from_vec(vec![1u8, 1, 255, 0], &[2, 1, 2], &device).unwrap();
        let features = tape.variable(features);
        let pair = ops::masked_average_pool(&features, &labels, 3).unwrap();
        assert_eq!(wide(pair.vectors.value()), [0.0, 0.0, 2.0, 4.0, 0.0, 0.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(wide(&pair.counts), [0.0, 2.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(wide(&pair.present().unwrap()), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        let batch = ops::masked_average_pool_scoped(&features, &labels, 3, PrototypeScope::Batch).unwrap();
        let both = [9.0, 9.0, 2.0, 4.0, 0.0, 0.0];
        assert_eq!(wide(batch.vectors.value()), [both, both].concat());
        assert_eq!(wide(&batch.counts), [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
        let seed = of_dtype(&(1..=12).map(f64::from).collect::<Vec<_>>(), &[2, 3, 2], DType::F32, &device);
        let gradients = tape.backward_with(&batch.vectors, seed).unwrap();
        // Class 1 got (3, 4) and (9, 10), halved; class 0 (1, 2) and (7, 8).
        assert_eq!(wide(gradients.get(&features).unwrap()), [6.0, 7.0, 6.0, 7.0, 0.0, 0.0, 8.0, 10.0]);
    }
}

#[test]
fn overlap_needs_both() {
    for device in all_devices() {
        let s = Tensor::from_vec(vec![0u32, 3, 0, 1], &[2, 2], &device).unwrap();
        let t = Tensor::from_vec(vec![0u32, 1, 9, 0], &[2, 2], &device).unwrap();
        assert_eq!(ops::class_overlap(&s, &t).unwrap().to_vec::<u8>().unwrap(), [0, 1, 0, 0]);
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(1);
    let x = rng.reals(&[2, 3, 4, 5], DType::F64, &Device::cpu());
    let labels = rng.labels(&[2, 3, 4], 4, 3, &Device::cpu());
    for scope in [PrototypeScope::Pair, PrototypeScope::Batch] {
        check_gradients(|v| pool(v, &labels, 4, scope), std::slice::from_ref(&x), &mut rng, 1000);
    }
}

#[test]
fn kernels_match_the_cpu() {
    let mut rng = Rng(2);
    for (shape, classes) in
        [([2, 9, 17, 70], 6), ([3, 11, 13, 150], 19), ([1, 25, 23, 300], 3), ([1, 5, 6, 20], 255), ([1, 1, 1, 1], 1)]
    {
        let labels = rng.labels(&shape[..3], classes, 4, &Device::cpu());
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            let x = rng.reals(&shape, dtype, &Device::cpu());
            for scope in [PrototypeScope::Pair, PrototypeScope::Batch] {
                check_devices_at(|v| pool(v, &labels, classes, scope), std::slice::from_ref(&x));
            }
        }
        // Sums of small integers are exact in every order, and the counts are integers anyway.
        let x = rng.integers(&shape, DType::F32, &Device::cpu());
        let on = |device: &Device| {
            let tape = Tape::new(device);
            let x = tape.constant(x.to_device(device).unwrap());
            ops::masked_average_pool(&x, &labels_on(device, &labels), classes).unwrap()
        };
        let want = on(&Device::cpu());
        for device in kernel_devices() {
            let got = on(&device);
            assert_same_bits(got.vectors.value(), want.vectors.value(), "means of integers");
            assert_same_bits(&got.counts, &want.counts, "counts");
        }
    }
}

#[test]
fn pytorch_agrees() {
    let golden = Golden::open("masked_average_pool");
    for name in golden.cases() {
        let case = golden.case(&name);
        for (device, dtype) in all_devices().into_iter().flat_map(|d| [(d.clone(), DType::F64), (d, DType::F32)]) {
            let tape = Tape::new(&device);
            let features = tape.variable(case.real("features", dtype).to_device(&device).unwrap());
            let labels = labels_on(&device, &case.bytes("labels"));
            let prototypes = ops::masked_average_pool(&features, &labels, case.shape("vectors")[1]).unwrap();
            case.expect("vectors", prototypes.vectors.value());
            case.expect("counts", &prototypes.counts);
            let seed = case.real("seed", dtype).to_device(&device).unwrap();
            let gradients = tape.backward_with(&prototypes.vectors, seed).unwrap();
            case.expect("dfeatures", gradients.get(&features).unwrap());
        }
    }
}

#[test]
fn resizing_takes_the_floor() {
    let mut rng = Rng(3);
    let cpu = Device::cpu();
    for (from, to) in [([5, 7], [3, 4]), ([3, 4], [5, 7]), ([730, 73], [92, 10]), ([1, 1], [4, 3]), ([6, 6], [6, 6])] {
        let labels = rng.labels(&[2, from[0], from[1]], 9, 3, &cpu);
        let source = labels.to_vec::<u8>().unwrap();
        let mut want = Vec::new();
        for (n, y, x) in (0..2).flat_map(|n| (0..to[0]).flat_map(move |y| (0..to[1]).map(move |x| (n, y, x)))) {
            want.push(source[(n * from[0] + y * from[0] / to[0]) * from[1] + x * from[1] / to[1]]);
        }
        for device in all_devices() {
            let resized = ops::resize_labels_nearest(&labels_on(&device, &labels), to[0], to[1]).unwrap();
            assert_eq!(resized.to_vec::<u8>().unwrap(), want, "{from:?} to {to:?} on {device}");
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let x = tape.variable(Tensor::zeros(&[1, 2, 2, 3], DType::F32, &device).unwrap());
    let labels = Tensor::from_vec(vec![0u8; 4], &[1, 2, 2], &device).unwrap();
    let message = |labels: &Tensor, classes| ops::masked_average_pool(&x, labels, classes).err().unwrap().to_string();
    assert!(message(&labels, 0).contains("1 to 255"));
    assert!(message(&labels, 256).contains("1 to 255"));
    assert!(message(&labels.reshape(&[1, 4, 1]).unwrap(), 2).contains("the labels must have shape [1, 2, 2]"));
    assert!(message(&Tensor::zeros(&[1, 2, 2], DType::F32, &device).unwrap(), 2).contains("u8 for the labels"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn means_and_their_gradient(
        seed in any::<u64>(),
        shape in [1usize..4, 1..9, 1..9, 1..40],
        classes in 1usize..8,
        ignore_every in 1usize..4,
    ) {
        let mut rng = Rng(seed);
        let device = Device::cpu();
        let [n, h, w, d] = shape;
        let x = rng.reals(&shape, DType::F64, &device);
        let labels = rng.labels(&shape[..3], classes, ignore_every, &device);
        let seeds = rng.reals(&[n, classes, d], DType::F64, &device);
        let run = |v: &[Var]| pool(v, &labels, classes, PrototypeScope::Pair);
        let (rho, dx) = value_and_gradients(run, std::slice::from_ref(&x), Some(&seeds));
        let (x, y, rho, dx, seeds) = (wide(&x), wide(&labels), wide(&rho), wide(&dx[0]), wide(&seeds));
        for (pair, c, k) in (0..n).flat_map(|n| (0..classes).flat_map(move |c| (0..d).map(move |k| (n, c, k)))) {
            let of_class: Vec<usize> = (pair * h * w..(pair + 1) * h * w).filter(|&p| y[p] == c as f64).collect();
            let mean = of_class.iter().map(|p| x[p * d + k]).sum::<f64>() / of_class.len().max(1) as f64;
            let at = (pair * classes + c) * d + k;
            prop_assert!((rho[at] - mean).abs() < 1e-12);
            for p in &of_class {
                prop_assert!((dx[p * d + k] - seeds[at] / of_class.len() as f64).abs() < 1e-12);
            }
        }
        for p in (0..n * h * w).filter(|&p| y[p] == 255.0) {
            prop_assert!(dx[p * d..][..d].iter().all(|&g| g == 0.0));
        }
    }
}
