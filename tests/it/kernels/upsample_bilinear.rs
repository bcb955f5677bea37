//! Bilinear resizing.

use crate::common::{
    Rng, Tolerance, all_devices, assert_close, assert_same_bits, check_devices, check_gradients, of_dtype,
    value_and_gradients, wide,
};
use bicl::{DType, Device, Tensor, autograd::Tape, ops};
use proptest::prelude::*;

fn resized(x: &Tensor, height: usize, width: usize) -> Tensor {
    ops::upsample_bilinear(&Tape::new(x.device()).constant(x.clone()), height, width).unwrap().value().clone()
}

#[test]
fn known_values() {
    for device in all_devices() {
        known_values_on(&device);
    }
}

fn known_values_on(device: &Device) {
    let x = of_dtype(&[0.0, 4.0, 8.0, 12.0], &[1, 2, 2, 1], DType::F32, device);
    assert_eq!(wide(&resized(&x, 3, 3)), [0.0, 2.0, 4.0, 4.0, 6.0, 8.0, 8.0, 10.0, 12.0]);
    assert_eq!(wide(&resized(&x, 1, 1)), [0.0]);
    assert_eq!(wide(&resized(&x, 1, 2)), [0.0, 4.0]);
    let one = of_dtype(&[3.0], &[1, 1, 1, 1], DType::F32, device);
    assert_eq!(wide(&resized(&one, 2, 3)), [3.0; 6]);
    // Downwards: every other pixel.
    let ramp = of_dtype(&(0..5).map(f64::from).collect::<Vec<_>>(), &[1, 1, 5, 1], DType::F32, device);
    assert_eq!(wide(&resized(&ramp, 1, 3)), [0.0, 2.0, 4.0]);
}

#[test]
fn equal_size_is_the_identity() {
    let x = Rng(3).reals(&[2, 5, 7, 3], DType::F32, &Device::cpu());
    let (y, dx) = value_and_gradients(|v| ops::upsample_bilinear(&v[0], 5, 7), std::slice::from_ref(&x), Some(&x));
    assert_same_bits(&y, &x, "forward");
    assert_same_bits(&dx[0], &x, "backward");
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(4);
    for (h, w, height, width) in [(3, 4, 10, 7), (5, 6, 3, 2), (1, 3, 4, 9), (4, 1, 1, 5), (2, 2, 2, 17), (6, 5, 1, 1)]
    {
        let x = rng.reals(&[2, h, w, 3], DType::F64, &Device::cpu());
        check_gradients(|v| ops::upsample_bilinear(&v[0], height, width), &[x], &mut rng, 200);
    }
}

#[test]
fn kernels_match_the_cpu() {
    let dtypes = [DType::F32, DType::F64, DType::Bf16];
    // Steps of 1/2 and 1/4 are exact in every type.
    check_devices(|v| ops::upsample_bilinear(&v[0], 5, 9), &[&[2, 3, 3, 3]], &dtypes, true);
    for (h, w, height, width) in [(4, 5, 13, 17), (9, 7, 4, 3), (1, 3, 5, 1), (3, 1, 1, 6), (4, 4, 4, 4), (1, 1, 1, 1)]
    {
        check_devices(|v| ops::upsample_bilinear(&v[0], height, width), &[&[2, h, w, 3]], &dtypes, false);
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let flat = tape.constant(Tensor::zeros(&[4], DType::F32, &device).unwrap());
    assert!(ops::upsample_bilinear(&flat, 2, 2).is_err());
    let x = tape.constant(Tensor::zeros(&[1, 2, 2, 1], DType::F32, &device).unwrap());
    let error = ops::upsample_bilinear(&x, 0, 3).err().expect("no rows").to_string();
    assert_eq!(error, "upsample_bilinear: cannot resize 2 pixels to 0; both must be positive");
    assert!(ops::upsample_bilinear(&x, usize::MAX, 3).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// <up(x), g> = <x, up'(g)>, and a constant stays one.
    #[test]
    fn backward_is_the_transpose(
        n in 1usize..3, h in 1usize..9, w in 1usize..9, height in 1usize..40, width in 1usize..40, c in 1usize..5, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let device = Device::cpu();
        let x = rng.reals(&[n, h, w, c], DType::F64, &device);
        let g = rng.reals(&[n, height, width, c], DType::F64, &device);
        let (y, dx) = value_and_gradients(|v| ops::upsample_bilinear(&v[0], height, width), std::slice::from_ref(&x), Some(&g));
        let dot = |a: &Tensor, b: &Tensor| wide(a).iter().zip(wide(b)).map(|(a, b)| a * b).sum::<f64>();
        let (left, right) = (dot(&y, &g), dot(&x, &dx[0]));
        prop_assert!((left - right).abs() <= 1e-9 * (1.0 + left.abs()), "{left} {right}");
        let ones = Tensor::full(&[n, h, w, c], 1.0, DType::F64, &device).unwrap();
        let want = Tensor::full(&[n, height, width, c], 1.0, DType::F64, &device).unwrap();
        assert_close(&resized(&ones, height, width), &want, Tolerance::EXACT, "constant");
    }
}
