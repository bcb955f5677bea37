//! Fused upsampling, softmax maximum and argmax.

use crate::common::{Rng, Tolerance, all_devices, assert_close, assert_same_bits, kernel_devices, of_dtype, wide};
use bicl::{
    DType, Device, Tensor,
    autograd::Tape,
    ops::{self, PredictSpec},
};
use proptest::prelude::*;

#[test]
fn known_values() {
    for device in all_devices() {
        known_values_on(&device);
    }
}

fn known_values_on(device: &Device) {
    let x = of_dtype(&[3f64.ln(), 0.0, 0.0, 3f64.ln()], &[1, 1, 2, 2], DType::F32, device);
    let spec = PredictSpec { confidence: true, thresholds: Some(&[0.9, 0.7]) };
    let got = ops::predict(&x, 2, 3, spec).unwrap();
    assert_eq!(wide(&got.labels), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let confidence = wide(got.confidence.as_ref().unwrap());
    for (got, want) in confidence.iter().zip([0.75, 0.5, 0.75, 0.75, 0.5, 0.75]) {
        assert!((got - want).abs() < 1e-6);
    }
    assert_eq!(wide(got.reaches.as_ref().unwrap()), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let plain = ops::predict(&x, 2, 3, PredictSpec::default()).unwrap();
    assert!(plain.confidence.is_none() && plain.reaches.is_none());
    assert_same_bits(&plain.labels, &got.labels, "labels");
}

#[test]
fn kernels_match_the_cpu() {
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        for (h, w, height, width, classes) in [(3, 4, 9, 13, 19), (5, 5, 2, 3, 3), (1, 1, 3, 2, 255), (4, 1, 4, 1, 1)] {
            let x = Rng(4).reals(&[2, h, w, classes], dtype, &Device::cpu());
            let thresholds = vec![0.06f32; classes];
            let spec = PredictSpec { confidence: true, thresholds: Some(&thresholds) };
            let want = ops::predict(&x, height, width, spec).unwrap();
            for device in kernel_devices() {
                let got = ops::predict(&x.to_device(&device).unwrap(), height, width, spec).unwrap();
                assert_same_bits(&got.labels, &want.labels, "labels");
                assert_same_bits(got.reaches.as_ref().unwrap(), want.reaches.as_ref().unwrap(), "reaches");
                let (got, want) = (got.confidence.unwrap(), want.confidence.as_ref().unwrap());
                assert_close(&got, want, Tolerance::of(DType::F32), "confidence");
            }
        }
    }
}

#[test]
fn bad_operands_are_refused() {
    let x = Tensor::zeros(&[1, 2, 2, 3], DType::F32, &Device::cpu()).unwrap();
    let spec = PredictSpec { confidence: false, thresholds: Some(&[0.5]) };
    let error = ops::predict(&x, 4, 4, spec).unwrap_err().to_string();
    assert_eq!(error, "predict: 1 thresholds for 3 classes; give one a class");
    assert!(ops::predict(&x, 0, 4, PredictSpec::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The labels are exactly argmax over upsample_bilinear; the confidence is the softmax there.
    #[test]
    fn equals_the_composition(
        n in 1usize..3, h in 1usize..6, w in 1usize..6, height in 1usize..30, width in 1usize..40, c in 1usize..22,
        seed: u64, scale in 0.1f64..1e4,
    ) {
        let device = Device::cpu();
        let mut rng = Rng(seed);
        let data: Vec<f64> = (0..n * h * w * c).map(|_| rng.symmetric() * scale).collect();
        for dtype in [DType::F32, DType::F64] {
            let x = of_dtype(&data, &[n, h, w, c], dtype, &device);
            let up = ops::upsample_bilinear(&Tape::new(&device).constant(x.clone()), height, width).unwrap();
            let got = ops::predict(&x, height, width, PredictSpec { confidence: true, thresholds: None }).unwrap();
            assert_same_bits(&got.labels, &ops::argmax(up.value()).unwrap(), "labels");
            for (got, x) in wide(got.confidence.as_ref().unwrap()).iter().zip(wide(up.value()).chunks(c)) {
                let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let want = 1.0 / x.iter().map(|x| (x - max).exp()).sum::<f64>();
                prop_assert!((got - want).abs() < 2e-6, "{got} {want}");
            }
        }
    }
}
