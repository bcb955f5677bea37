//! Batches of images taken apart.

use crate::common::{self, Rng, all_devices, assert_same_bits, check_devices, check_gradients, wide};
use bicl::{DType, Device, Tensor, autograd::Tape, ops};

#[test]
fn parts_are_the_images_in_order() {
    let mut rng = Rng(1);
    for device in all_devices() {
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            let parts = [1usize, 3, 2].map(|n| rng.reals(&[n, 2, 3, 5], dtype, &device));
            let whole: Vec<f64> = parts.iter().flat_map(wide).collect();
            let whole = common::of_dtype(&whole, &[6, 2, 3, 5], dtype, &device);
            let split = ops::split_images(&Tape::new(&device).constant(whole), &[1, 3, 2]).unwrap();
            split.iter().zip(&parts).for_each(|(got, want)| assert_same_bits(got.value(), want, "a part"));
        }
    }
}

/// Each part weighs differently, and one image goes nowhere.
#[test]
fn gradients_go_home() {
    let weigh = |v: &[bicl::autograd::Var]| {
        let parts = ops::split_images(&v[0], &[2, 1, 1])?;
        let sums = [ops::sum(&ops::relu(&parts[0])?)?, ops::sum(&ops::scale(&parts[2], 3.0)?)?];
        ops::weighted_sum(&[(&sums[0], 2.0), (&sums[1], 1.0)])
    };
    let mut rng = Rng(2);
    check_gradients(weigh, &[rng.reals(&[4, 2, 2, 3], DType::F64, &Device::cpu())], &mut rng, 100);
    check_devices(weigh, &[&[4, 2, 2, 3]], &[DType::F32, DType::F64], true);
    // A single part: zeros elsewhere.
    check_devices(
        |v| Ok(ops::split_images(&v[0], &[1, 2, 1])?.swap_remove(1)),
        &[&[4, 3, 1, 2]],
        &[DType::F32, DType::F64, DType::Bf16],
        true,
    );
}

#[test]
fn counts_must_add_up() {
    let tape = Tape::new(&Device::cpu());
    let x = tape.constant(Tensor::zeros(&[3, 1, 1, 1], DType::F32, &Device::cpu()).unwrap());
    for counts in [&[][..], &[1, 1], &[2, 2], &[usize::MAX, 4]] {
        let error = ops::split_images(&x, counts).err().unwrap().to_string();
        assert!(error.contains("do not make up x [3, 1, 1, 1]") && !error.contains('\n'), "{error}");
    }
    assert_eq!(ops::split_images(&x, &[0, 3]).unwrap()[0].value().len(), 0);
    let labels = tape.constant(Tensor::from_vec(vec![1u8; 3], &[3, 1, 1], &Device::cpu()).unwrap());
    assert!(ops::split_images(&labels, &[3]).is_err());
}
