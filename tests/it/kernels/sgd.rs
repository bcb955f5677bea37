//! The optimiser's step, and the check that gradients are finite.

use crate::common::{Rng, Tolerance, all_devices, assert_close, assert_same_bits, kernel_devices, of_dtype, wide};
use bicl::{
    DType, Device, Result, Tensor,
    ops::{AverageItem, SgdItem, SgdSpec, move_running_averages, sgd_step},
};

fn item<'a>(value: &'a mut Tensor, momentum: &'a mut Tensor, gradient: &'a Tensor) -> SgdItem<'a> {
    SgdItem { value, momentum, gradient, copy: None, multiplier: 0.5, weight_decay: 0.01 }
}

/// At rate 0.2 and momentum 0.9.
fn step(items: &mut [SgdItem<'_>]) -> Result<()> {
    step_unless(items, None)
}

fn step_unless(items: &mut [SgdItem<'_>], found_inf: Option<&Tensor>) -> Result<()> {
    let rate = &Tensor::from_vec(vec![0.2f64], &[1], items[0].value.device())?;
    sgd_step(items, &SgdSpec { momentum: 0.9, rate, found_inf })
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
                step(&mut [item(&mut p, &mut m, &g)]).unwrap();
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
                step(&mut [item(&mut p, &mut m, &g)]).unwrap();
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

/// Several launches' worth of parameters of all sizes, some with copies and gradients in bf16: what each alone would be.
#[test]
fn many_parameters_go_together() {
    let sizes: Vec<usize> = (0..131).map(|i| [1, 4, 5, 2047, 2048, 2049, 4100][i % 7]).collect();
    // Without copy; with a copy and a gradient in f32; with both in bf16.
    let run = |device: &Device, losses: Option<f32>| -> Vec<Tensor> {
        let losses = losses.map(|loss| Tensor::from_vec(vec![1.0, loss, 0.5], &[3], device).unwrap());
        let mut rng = Rng(33);
        let mut draw = |size, dtype| rng.integers(&[size], dtype, &Device::cpu()).to_device(device).unwrap();
        let mut all: Vec<(Tensor, Tensor, Tensor, Tensor)> = sizes
            .iter()
            .enumerate()
            .map(|(i, &size)| {
                let narrow = if i % 3 == 2 { DType::Bf16 } else { DType::F32 };
                (draw(size, DType::F32), draw(size, DType::F32), draw(size, narrow), draw(size, DType::Bf16))
            })
            .collect();
        let mut items: Vec<SgdItem<'_>> = all
            .iter_mut()
            .enumerate()
            .map(|(i, (value, momentum, gradient, copy))| SgdItem {
                value,
                momentum,
                gradient,
                copy: (i % 3 > 0).then_some(copy),
                // Exact in f32, so that rounding is the same everywhere.
                multiplier: [1.0, 0.25][i % 2],
                weight_decay: 0.5,
            })
            .collect();
        let rate = &Tensor::from_vec(vec![0.5f64], &[1], device).unwrap();
        sgd_step(&mut items, &SgdSpec { momentum: 0.5, rate, found_inf: losses.as_ref() }).unwrap();
        all.into_iter().flat_map(|(value, momentum, _, copy)| [value, momentum, copy]).collect()
    };
    let want = run(&Device::cpu(), None);
    let before = run(&Device::cpu(), Some(f32::NAN));
    assert!(want.iter().zip(&before).any(|(a, b)| wide(a) != wide(b)));
    // The copies are the values, rounded.
    for (i, of) in want.chunks(3).enumerate().filter(|(i, _)| i % 3 > 0) {
        assert_same_bits(&of[2], &of[0].to_dtype(DType::Bf16).unwrap(), &format!("copy {i}"));
    }
    for device in kernel_devices() {
        for (losses, want) in
            [(None, &want), (Some(2.0), &want), (Some(f32::NAN), &before), (Some(f32::INFINITY), &before)]
        {
            let got = run(&device, losses);
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                assert_same_bits(got, want, &format!("tensor {i}, losses {losses:?}"));
            }
        }
    }
}

/// Rows of several, more than one launch of them, and found_inf.
#[test]
fn running_averages() {
    for device in all_devices() {
        let full = |value: f64, shape: &[usize]| Tensor::full(shape, value, DType::F32, &device).unwrap();
        let rows = of_dtype(&[9.0, 9.0, 9.0, 2.0, 2.0, 4.0], &[2, 3], DType::F32, &device);
        for (losses, moved) in
            [(None, true), (Some(1.0), true), (Some(f64::NAN), false), (Some(f64::NEG_INFINITY), false)]
        {
            let losses = losses.map(|loss| full(loss, &[]));
            let mut averages: Vec<Tensor> = (0..300).map(|i| full(f64::from(i), &[3])).collect();
            let mut items: Vec<_> =
                averages.iter_mut().map(|average| AverageItem { average, x: &rows, row: 1 }).collect();
            move_running_averages(&mut items, 0.25, losses.as_ref()).unwrap();
            for (i, average) in averages.iter().enumerate() {
                let i = i as f64;
                let want = if moved { [2.0, 2.0, 4.0].map(|x| 0.75 * i + 0.25 * x) } else { [i; 3] };
                assert_eq!(wide(average), want, "{device}");
            }
        }
        // Weight 1 puts x in place of any shape.
        let (mut average, x) = (full(1.0, &[2, 3]), full(5.0, &[2, 3]));
        move_running_averages(&mut [AverageItem { average: &mut average, x: &x, row: 0 }], 1.0, None).unwrap();
        assert_eq!(wide(&average), [5.0; 6]);
        for (shape, row) in [(&[2, 3][..], 2), (&[4], 0), (&[3], 1), (&[1, 1, 3], 0)] {
            let (mut average, x) = (full(1.0, &[3]), full(0.0, shape));
            let item = AverageItem { average: &mut average, x: &x, row };
            let error = move_running_averages(&mut [item], 0.5, None).unwrap_err().to_string();
            assert!(error.contains("does not move an average") && !error.contains('\n'), "{error}");
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
        step(&mut [item(&mut p, &mut m, &g)]).unwrap();
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
        pool.install(|| step(&mut [item(&mut p, &mut m, &g)])).unwrap();
        p
    };
    assert_same_bits(&run(1), &run(3), "threads");
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu();
    let full = |shape: &[usize], dtype| Tensor::full(shape, 1.0, dtype, &device).unwrap();
    let (mut p, mut m) = (full(&[3], DType::F32), full(&[3], DType::F32));
    let refused =
        |p: &mut Tensor, m: &mut Tensor, g: &Tensor| step(&mut [item(p, m, g)]).expect_err("refused").to_string();
    assert!(refused(&mut p, &mut m, &full(&[4], DType::F32)).contains("the gradient must have shape [3]"));
    assert!(refused(&mut p, &mut m, &full(&[3], DType::F64)).contains("convert it"));
    assert!(refused(&mut p, &mut full(&[2], DType::F32), &full(&[3], DType::F32)).contains("the momentum"));
    let (mut half, mut half_m) = (full(&[3], DType::Bf16), full(&[3], DType::Bf16));
    assert!(refused(&mut half, &mut half_m, &full(&[3], DType::Bf16)).contains("bf16"));
    let mut copy = full(&[3], DType::F32);
    let with_copy = SgdItem { copy: Some(&mut copy), ..item(&mut p, &mut m, &half) };
    assert!(step(&mut [with_copy]).unwrap_err().to_string().contains("the copy has dtype f32"));
    assert!(refused(&mut p, &mut m, &half).contains("the gradient has dtype bf16"), "a copy is needed");
    let g = full(&[3], DType::F32);
    let losses = full(&[1], DType::F64);
    assert!(
        step_unless(&mut [item(&mut p, &mut m, &g)], Some(&losses))
            .unwrap_err()
            .to_string()
            .contains("f32 for found_inf")
    );
    assert_eq!(wide(&p), [1.0; 3], "a refused step changes nothing");
}
