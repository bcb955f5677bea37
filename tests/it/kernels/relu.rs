//! Rectified linear unit.

use crate::common::{Rng, all_devices, check_devices, check_gradients, value_and_gradients, wide};
use bicl::{DType, Device, Tensor, autograd::Tape, ops};

#[test]
fn known_values() {
    for device in all_devices() {
        let x = Tensor::from_vec(vec![-2.0f32, -0.0, 0.0, 3.0, f32::NAN, f32::INFINITY], &[6], &device).unwrap();
        let (y, dx) = value_and_gradients(|v| ops::relu(&v[0]), &[x], None);
        assert_eq!(wide(&y)[..4], [0.0, 0.0, 0.0, 3.0]);
        assert!(wide(&y)[4].is_nan(), "NaN must show");
        assert_eq!(wide(&y)[5], f64::INFINITY);
        assert_eq!(wide(&dx[0]), [0.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(1);
    let x = rng.reals(&[2, 3, 5, 7], DType::F64, &Device::cpu());
    check_gradients(|v| ops::relu(&v[0]), &[x], &mut rng, 1000);
}

#[test]
fn kernels_match_the_cpu() {
    let dtypes = [DType::F32, DType::F64, DType::Bf16];
    check_devices(|v| ops::relu(&v[0]), &[&[3, 5, 7, 11]], &dtypes, true);
    check_devices(|v| ops::relu(&v[0]), &[&[1]], &dtypes, true);
}

#[test]
fn labels_are_refused() {
    let device = Device::cpu();
    let labels = Tape::new(&device).constant(Tensor::from_vec(vec![1u8], &[1], &device).unwrap());
    let error = ops::relu(&labels).err().expect("u8 is no float").to_string();
    assert_eq!(error, "relu: dtype u8 is not supported; use f32 or f64");
}
