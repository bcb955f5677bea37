//! Class-wise domain bias of the prototypes.

use crate::common::golden::Golden;
use crate::common::{Rng, all_devices, assert_same_bits, kernel_devices, of_dtype, wide};
use bicl::{DType, Device, Tensor, ops};

#[test]
fn known_update() {
    for device in all_devices() {
        let real = |data: &[f64], shape: &[usize]| of_dtype(data, shape, DType::F64, &device);
        let counts = |data: [u32; 6]| Tensor::from_vec(data.to_vec(), &[2, 3], &device).unwrap();
        let mut xi = real(&[4.0, 4.0, 4.0], &[3, 1]);
        let rho_s = real(&[1.0, 2.0, 3.0, 5.0, 0.0, 9.0], &[2, 3, 1]);
        let rho_t = real(&[2.0, 0.0, 7.0, 8.0, 6.0, 9.0], &[2, 3, 1]);
        // Class 0: both pairs, differences 1 and 3; class 1: never both; class 2: only the first pair, 4.
        let (counts_s, counts_t) = (counts([1, 1, 5, 1, 0, 0]), counts([7, 0, 1, 1, 1, 1]));
        ops::update_calibration(&mut xi, &rho_s, &counts_s, &rho_t, &counts_t, 0.75).unwrap();
        assert_eq!(wide(&xi), [3.5, 4.0, 4.0], "on {device}");
        assert_eq!(wide(&ops::calibrate(&xi, &rho_s).unwrap()), [4.5, 6.0, 7.0, 8.5, 4.0, 13.0], "on {device}");
    }
}

#[test]
fn a_shared_bias_is_not_written_through() {
    let device = Device::cpu();
    let mut xi = of_dtype(&[1.0], &[1, 1], DType::F32, &device);
    let before = xi.clone();
    let rho = of_dtype(&[0.0], &[1, 1, 1], DType::F32, &device);
    let counts = Tensor::from_vec(vec![1u32], &[1, 1], &device).unwrap();
    ops::update_calibration(&mut xi, &rho, &counts, &rho, &counts, 0.5).unwrap();
    assert_eq!((wide(&before), wide(&xi)), (vec![1.0], vec![0.5]));
}

#[test]
fn kernels_match_the_cpu_exactly() {
    let mut rng = Rng(1);
    for (pairs, classes, depth) in [(2, 19, 76), (3, 5, 1), (1, 1, 300)] {
        let cpu = Device::cpu();
        let mut reals = |shape: &[usize]| rng.integers(shape, DType::F32, &cpu);
        let (xi, rho_s, rho_t) =
            (reals(&[classes, depth]), reals(&[pairs, classes, depth]), reals(&[pairs, classes, depth]));
        let mut counts = || {
            let data = (0..pairs * classes).map(|_| rng.below(3) as u32).collect();
            Tensor::from_vec(data, &[pairs, classes], &cpu).unwrap()
        };
        let (counts_s, counts_t) = (counts(), counts());
        let on = |device: &Device| {
            let [rho_s, rho_t, counts_s, counts_t] =
                [&rho_s, &rho_t, &counts_s, &counts_t].map(|tensor| tensor.to_device(device).unwrap());
            let mut xi = xi.to_device(device).unwrap();
            ops::update_calibration(&mut xi, &rho_s, &counts_s, &rho_t, &counts_t, 0.5).unwrap();
            [ops::calibrate(&xi, &rho_s).unwrap(), xi]
        };
        let want = on(&cpu);
        for device in kernel_devices() {
            // Up to three pairs: a third is no binary fraction, but both sides divide alike, in one order.
            on(&device).iter().zip(&want).for_each(|(got, want)| assert_same_bits(got, want, "calibration"));
        }
    }
}

#[test]
fn pytorch_agrees() {
    let golden = Golden::open("calibration");
    let start = golden.case("in");
    for (device, dtype) in all_devices().into_iter().flat_map(|d| [(d.clone(), DType::F64), (d, DType::F32)]) {
        let mut xi = start.real("bias", dtype).to_device(&device).unwrap();
        let [counts_s, counts_t] =
            ["present_source", "present_target"].map(|name| start.counts(name).to_device(&device).unwrap());
        for name in ["step0", "step1", "step2"] {
            let step = golden.case(name);
            let [s, t] = ["source", "target"].map(|name| step.real(name, dtype).to_device(&device).unwrap());
            ops::update_calibration(&mut xi, &s, &counts_s, &t, &counts_t, 0.99).unwrap();
            step.expect("bias", &xi);
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let device = Device::cpu();
    let mut xi = of_dtype(&[1.0], &[1, 1], DType::F32, &device);
    let rho = of_dtype(&[0.0], &[1, 1, 1], DType::F32, &device);
    let counts = Tensor::from_vec(vec![1u32], &[1, 1], &device).unwrap();
    for momentum in [-0.1, 1.5, f64::NAN] {
        let error = ops::update_calibration(&mut xi, &rho, &counts, &rho, &counts, momentum).unwrap_err();
        assert!(error.to_string().contains("0..=1"));
    }
    let wide_rho = of_dtype(&[0.0, 0.0], &[1, 1, 2], DType::F32, &device);
    assert!(ops::calibrate(&xi, &wide_rho).unwrap_err().to_string().contains("xi must have shape [1, 2]"));
    let double = of_dtype(&[0.0], &[1, 1, 1], DType::F64, &device);
    assert!(ops::calibrate(&xi, &double).unwrap_err().to_string().contains("convert one"));
}
