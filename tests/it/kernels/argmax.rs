//! Argmax over classes.

use crate::common::{Rng, all_devices, assert_same_bits, kernel_devices, of_dtype, wide};
use bicl::{DType, Device, Tensor, ops};

const FLOATS: [DType; 3] = [DType::F32, DType::F64, DType::Bf16];

#[test]
fn first_maximum_wins() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let data = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, -inf, -inf, -inf, 0.0, nan, 5.0, nan, nan, inf];
    for (dtype, device) in FLOATS.into_iter().flat_map(|dtype| all_devices().into_iter().map(move |d| (dtype, d))) {
        let x = of_dtype(&data, &[1, 1, 5, 3], dtype, &device);
        assert_eq!(wide(&ops::argmax(&x).unwrap()), [1.0, 0.0, 0.0, 1.0, 0.0], "{dtype} on {device}");
    }
}

#[test]
fn agrees_with_a_search() {
    let x = Rng(5).reals(&[2, 67, 71, 19], DType::F32, &Device::cpu());
    let got = ops::argmax(&x).unwrap();
    assert_eq!((got.shape(), got.dtype()), (&[2, 67, 71][..], DType::U8));
    for (x, got) in wide(&x).chunks(19).zip(wide(&got)) {
        assert!(x.iter().all(|&value| value <= x[got as usize]));
    }
}

#[test]
fn kernels_match_the_cpu() {
    for (dtype, classes) in FLOATS.into_iter().flat_map(|dtype| [1, 19, 255].map(|classes| (dtype, classes))) {
        // Integers, so that there are ties.
        let x = Rng(6).integers(&[2, 11, 13, classes], dtype, &Device::cpu());
        let want = ops::argmax(&x).unwrap();
        for device in kernel_devices() {
            assert_same_bits(&ops::argmax(&x.to_device(&device).unwrap()).unwrap(), &want, "labels");
        }
    }
}

#[test]
fn too_many_classes_are_refused() {
    let wide = Tensor::zeros(&[1, 1, 1, 256], DType::F32, &Device::cpu()).unwrap();
    let error = ops::argmax(&wide).unwrap_err().to_string();
    assert_eq!(error, "argmax: 256 classes; 8-bit labels allow 1 to 255");
    assert!(ops::argmax(&Tensor::zeros(&[3], DType::F32, &Device::cpu()).unwrap()).is_err());
}
