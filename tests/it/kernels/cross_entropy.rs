//! Softmax cross entropy over labelled pixels.

use crate::common::{
    Rng, Tolerance, all_devices, assert_close, check_devices, check_gradients, of_dtype, value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops,
};
use proptest::prelude::*;

fn labels(data: &[u8], shape: &[usize]) -> Tensor {
    Tensor::from_vec(data.to_vec(), shape, &Device::cpu()).unwrap()
}

/// The loss of logits on any device against labels on the CPU.
fn loss_of(x: &Var, labels: &Tensor) -> Result<Var> {
    ops::cross_entropy(x, &labels.to_device(x.value().device())?)
}

#[test]
fn known_values() {
    // Two classes: the loss is ln(1 + e^(other - own)).
    let x = of_dtype(&[1.0, 3.0, 2.0, 2.0, 9.0, -9.0], &[1, 1, 3, 2], DType::F64, &Device::cpu());
    let y = labels(&[0, 1, 255], &[1, 1, 3]);
    let (loss, dx) = value_and_gradients(|v| ops::cross_entropy(&v[0], &y), &[x], None);
    let want = ((1.0 + 2f64.exp()).ln() + 2f64.ln()) / 2.0;
    assert!((wide(&loss)[0] - want).abs() < 1e-14);
    assert!(loss.shape().is_empty());
    let p = 1.0 / (1.0 + 2f64.exp());
    for (got, want) in wide(&dx[0]).iter().zip([(p - 1.0) / 2.0, (1.0 - p) / 2.0, 0.25, -0.25, 0.0, 0.0]) {
        assert!((got - want).abs() < 1e-14, "{got} {want}");
    }
}

#[test]
fn no_labelled_pixel_gives_zero() {
    for device in all_devices() {
        let x = Rng(1).reals(&[1, 2, 3, 4], DType::F32, &device);
        let y = labels(&[255; 6], &[1, 2, 3]);
        let (loss, dx) = value_and_gradients(|v| loss_of(&v[0], &y), &[x], None);
        assert_eq!(wide(&loss), [0.0]);
        assert!(wide(&dx[0]).iter().all(|&g| g == 0.0));
    }
}

#[test]
fn huge_logits_stay_finite() {
    for device in all_devices() {
        let x = of_dtype(&[1e4, -1e4, 0.0, 1e4], &[1, 1, 2, 2], DType::F32, &device);
        let (loss, dx) = value_and_gradients(|v| loss_of(&v[0], &labels(&[1, 1], &[1, 1, 2])), &[x], None);
        assert_eq!(wide(&loss), [1e4]);
        assert_eq!(wide(&dx[0]), [0.5, -0.5, 0.0, 0.0]);
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(2);
    let x = rng.reals(&[2, 3, 5, 7], DType::F64, &Device::cpu());
    let y = rng.labels(&[2, 3, 5], 7, 4, &Device::cpu());
    check_gradients(|v| ops::cross_entropy(&v[0], &y), &[x], &mut rng, 1000);
}

#[test]
fn kernels_match_the_cpu() {
    for (shape, classes) in [([2, 7, 9], 19), ([1, 1, 1], 1), ([1, 30, 29], 3), ([1, 2, 3], 255)] {
        let y = Rng(3).labels(&shape, classes, 3, &Device::cpu());
        let scale = y.len() as f64;
        let [n, h, w] = shape;
        let op = |v: &[Var]| ops::scale(&loss_of(&v[0], &y)?, scale);
        check_devices(op, &[&[n, h, w, classes]], &[DType::F32, DType::F64, DType::Bf16], false);
    }
}

#[test]
fn kernels_ignore_labels_that_name_no_class() {
    let x = Rng(1).reals(&[1, 2, 2, 3], DType::F32, &Device::cpu());
    let (want, d_want) =
        value_and_gradients(|v| loss_of(&v[0], &labels(&[0, 255, 2, 255], &[1, 2, 2])), std::slice::from_ref(&x), None);
    for device in all_devices().into_iter().filter(|device| !device.is_cpu()) {
        let x = x.to_device(&device).unwrap();
        let (got, d_got) = value_and_gradients(|v| loss_of(&v[0], &labels(&[0, 3, 2, 254], &[1, 2, 2])), &[x], None);
        assert_close(&got, &want, Tolerance::of(DType::F32), "loss");
        assert_close(&d_got[0], &d_want[0], Tolerance::of(DType::F32), "gradient");
    }
}

#[test]
fn bad_operands_are_refused() {
    let device = Device::cpu();
    let x = Tape::new(&device).constant(Tensor::zeros(&[1, 1, 2, 3], DType::F32, &device).unwrap());
    let error = ops::cross_entropy(&x, &labels(&[0, 3], &[1, 1, 2])).err().expect("no class 3").to_string();
    assert_eq!(error, "cross_entropy: label 3 is neither a class (0 to 2) nor 255 (ignore)");
    assert!(ops::cross_entropy(&x, &labels(&[0, 1], &[1, 2, 1])).is_err());
    let wide = Tape::new(&device).constant(Tensor::zeros(&[1, 1, 1, 256], DType::F32, &device).unwrap());
    assert!(ops::cross_entropy(&wide, &labels(&[0], &[1, 1, 1])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The gradients of a pixel add up to 0, and to 0 each where the label is 255.
    #[test]
    fn gradients_add_up_to_zero(h in 1usize..7, w in 1usize..7, c in 1usize..22, seed: u64, scale in 0.1f64..1e4) {
        let mut rng = Rng(seed);
        let data: Vec<f64> = (0..h * w * c).map(|_| rng.symmetric() * scale).collect();
        let x = of_dtype(&data, &[1, h, w, c], DType::F64, &Device::cpu());
        let y = rng.labels(&[1, h, w], c, 3, &Device::cpu());
        let (loss, dx) = value_and_gradients(|v| ops::cross_entropy(&v[0], &y), &[x], None);
        prop_assert!(wide(&loss)[0] >= 0.0);
        for (pixel, label) in wide(&dx[0]).chunks(c).zip(wide(&y)) {
            prop_assert!(pixel.iter().sum::<f64>().abs() < 1e-12);
            prop_assert!(label != 255.0 || pixel.iter().all(|&g| g == 0.0));
        }
    }
}
