//! Softmax entropy.

use crate::common::{Rng, all_devices, check_devices, check_gradients, of_dtype, value_and_gradients, wide};
use bicl::{
    DType, Device, Tensor,
    autograd::{Tape, Var},
    ops,
};
use proptest::prelude::*;

#[test]
fn known_values() {
    // A uniform pixel has ln 2; the other has probabilities 1/4 and 3/4.
    let x = of_dtype(&[5.0, 5.0, 0.0, 3f64.ln()], &[1, 1, 2, 2], DType::F64, &Device::cpu());
    let (loss, dx) = value_and_gradients(|v| ops::entropy(&v[0]), &[x], None);
    let entropy = 4f64.ln() - 0.75 * 3f64.ln();
    assert!((wide(&loss)[0] - (2f64.ln() + entropy) / 2.0).abs() < 1e-14);
    // -p (ln p + H) / 2
    let low = -0.25 * (0.25f64.ln() + entropy) / 2.0;
    for (got, want) in wide(&dx[0]).iter().zip([0.0, 0.0, low, -low]) {
        assert!((got - want).abs() < 1e-14, "{got} {want}");
    }
}

#[test]
fn certain_pixels_have_none() {
    for device in all_devices() {
        let x = of_dtype(&[1e4, -1e4, 0.0, 1e4], &[1, 1, 2, 2], DType::F32, &device);
        let (loss, dx) = value_and_gradients(|v| ops::entropy(&v[0]), &[x], None);
        assert_eq!(wide(&loss), [0.0]);
        assert!(wide(&dx[0]).iter().all(|&g| g == 0.0));
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(2);
    let x = rng.reals(&[2, 3, 5, 7], DType::F64, &Device::cpu());
    check_gradients(|v| ops::entropy(&v[0]), &[x], &mut rng, 1000);
}

#[test]
fn kernels_match_the_cpu() {
    for shape in [[2, 7, 9, 19], [1, 1, 1, 1], [1, 30, 29, 3], [1, 2, 3, 255]] {
        let pixels = (shape[0] * shape[1] * shape[2]) as f64;
        let op = |v: &[Var]| ops::scale(&ops::entropy(&v[0])?, pixels);
        check_devices(op, &[&shape], &[DType::F32, DType::F64, DType::Bf16], false);
    }
}

#[test]
fn no_class_is_refused() {
    let device = Device::cpu();
    let x = Tape::new(&device).constant(Tensor::zeros(&[1, 1, 2, 0], DType::F32, &device).unwrap());
    assert!(ops::entropy(&x).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lies_between_zero_and_ln_c(h in 1usize..7, w in 1usize..7, c in 1usize..22, seed: u64, scale in 0.0f64..1e4) {
        let mut rng = Rng(seed);
        let data: Vec<f64> = (0..h * w * c).map(|_| rng.symmetric() * scale).collect();
        let x = of_dtype(&data, &[1, h, w, c], DType::F64, &Device::cpu());
        let (loss, dx) = value_and_gradients(|v| ops::entropy(&v[0]), &[x], None);
        prop_assert!((-1e-12..=(c as f64).ln() + 1e-12).contains(&wide(&loss)[0]));
        for pixel in wide(&dx[0]).chunks(c) {
            prop_assert!(pixel.iter().sum::<f64>().abs() < 1e-12);
        }
    }
}
