//! The optimiser's step, and the check that gradients are finite.

mod common;

use bicl::{
    DType, Device, Tensor,
    ops::{self, SgdItem, all_finite, sgd_step},
};
use common::{Rng, Tolerance, all_devices, assert_close, assert_same_bits, kernel_devices, of_dtype, wide};

fn item<'a>(value: &'a mut Tensor, momentum: &'a mut Tensor, gradient: &'a Tensor) -> SgdItem<'a> {
    SgdItem { value, momentum, gradient, learning_rate: 0.1, weight_decay: 0.01 }
}

/// Two steps by hand: PyTorch's rule, whose first step sets the momentum to the gradient.
#[test]
fn two_steps_by_hand() {
    for device in all_devices() {
        for dtype in [DType::F32, DType::F64] {
            let mut p = of_dtype(&[1.0, -2.0], &[2], dtype, &device);
            let mut m = Tensor::zeros(&[2], dtype, &device).unwrap();
            let g = of_dtype(&[0.5, 0.25], &[2], dtype, &device);
            let (mut want_p, mut want_m) = ([1.0f64, -2.0], [0.0f64; 2]);
            for _ in 0..2 {
                sgd_step(&mut [item(&mut p, &mut m, &g)], 0.9).unwrap();
                for i in 0..2 {
                    want_m[i] = 0.9 * want_m[i] + ([0.5, 0.25][i] + 0.01 * want_p[i]);
                    want_p[i] -= 0.1 * want_m[i];
                }
            }
            let tolerance = if dtype == DType::F32 { 1e-6 } else { 1e-15 };
            for (got, want) in wide(&p).into_iter().chain(wide(&m)).zip(want_p.into_iter().chain(want_m)) {
                assert!((got - want).abs() <= tolerance, "{got} is not {want}");
            }
        }
    }
}

#[test]
fn kernels_match_the_cpu() {
    for dtype in [DType::F32, DType::F64] {
        for shape in [&[1][..], &[70_001], &[3, 5, 7, 9]] {
            let run = |device: &Device| {
                let mut rng = Rng(31);
                let mut draw = || rng.reals(shape, dtype, &Device::cpu()).to_device(device).unwrap();
                let (mut p, mut m, g) = (draw(), draw(), draw());
                sgd_step(&mut [item(&mut p, &mut m, &g)], 0.9).unwrap();
                (p, m)
            };
            let (want_p, want_m) = run(&Device::cpu());
            for device in kernel_devices() {
                let (p, m) = run(&device);
                let tolerance = if dtype == DType::F32 { Tolerance::new(1e-6, 1e-6) } else { Tolerance::of(dtype) };
                assert_close(&p, &want_p, tolerance, "parameter");
                assert_close(&m, &want_m, tolerance, "momentum");
            }
        }
    }
}

/// A tensor that shares its memory keeps its values.
#[test]
fn a_step_leaves_copies_alone() {
    for device in all_devices() {
        let mut p = of_dtype(&[1.0, 2.0], &[2], DType::F32, &device);
        let before = p.clone();
        let mut m = Tensor::zeros(&[2], DType::F32, &device).unwrap();
        let g = of_dtype(&[1.0, 1.0], &[2], DType::F32, &device);
        sgd_step(&mut [item(&mut p, &mut m, &g)], 0.9).unwrap();
        assert_eq!(wide(&before), [1.0, 2.0]);
        assert!(wide(&p)[0] < 1.0);
    }
}

#[test]
fn threads_do_not_matter() {
    let run = |threads: usize| {
        let mut rng = Rng(32);
        let mut draw = || rng.reals(&[100_003], DType::F32, &Device::cpu());
        let (mut p, mut m, g) = (draw(), draw(), draw());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sgd_step(&mut [item(&mut p, &mut m, &g)], 0.9)).unwrap();
        p
    };
    assert_same_bits(&run(1), &run(3), "threads");
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu();
    let full = |shape: &[usize], dtype| Tensor::full(shape, 1.0, dtype, &device).unwrap();
    let (mut p, mut m) = (full(&[3], DType::F32), full(&[3], DType::F32));
    let refused = |p: &mut Tensor, m: &mut Tensor, g: &Tensor| {
        sgd_step(&mut [item(p, m, g)], 0.9).expect_err("refused").to_string()
    };
    assert!(refused(&mut p, &mut m, &full(&[4], DType::F32)).contains("the gradient must have shape [3]"));
    assert!(refused(&mut p, &mut m, &full(&[3], DType::F64)).contains("convert one"));
    assert!(refused(&mut p, &mut full(&[2], DType::F32), &full(&[3], DType::F32)).contains("the momentum"));
    let (mut half, mut half_m) = (full(&[3], DType::Bf16), full(&[3], DType::Bf16));
    assert!(refused(&mut half, &mut half_m, &full(&[3], DType::Bf16)).contains("bf16"));
    assert_eq!(wide(&p), [1.0; 3], "a refused step changes nothing");
}

/// A single NaN or infinity is found wherever it lies; large finite values are not mistaken for one.
#[test]
fn one_bad_value_is_found() {
    for device in all_devices() {
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            let count = 9001;
            let fine = Tensor::full(&[count], 1e38, dtype, &device).unwrap();
            let empty = Tensor::full(&[0], 1.0, dtype, &device).unwrap();
            assert!(all_finite(&[&fine, &empty, &fine]).unwrap());
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for at in [0, 1, 255, 256, 4095, 4096, count - 1] {
                    let mut data = vec![1e38; count];
                    data[at] = bad;
                    let broken = of_dtype(&data, &[count], dtype, &device);
                    assert!(!all_finite(&[&broken]).unwrap(), "{bad} at {at} on {device}");
                    assert!(!all_finite(&[&fine, &broken, &fine]).unwrap(), "{bad} at {at} on {device}");
                }
            }
        }
    }
    assert!(all_finite(&[]).unwrap());
    let labels = Tensor::from_vec(vec![1u8], &[1], &Device::cpu()).unwrap();
    assert!(ops::all_finite(&[&labels]).unwrap_err().to_string().contains("u8"));
}
