//! The small operations: add, scale, weighted_sum, cast, sum, mean, concat_channels.

use crate::common::{
    self, Rng, all_devices, assert_same_bits, check_devices, check_gradients, kernel_devices, of_dtype,
    value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops,
};
use proptest::prelude::*;

const FLOATS: [DType; 3] = [DType::F32, DType::F64, DType::Bf16];

fn scalars(v: &[Var]) -> Result<Var> {
    ops::weighted_sum(&[(&ops::sum(&v[0])?, 0.5), (&ops::mean(&v[1])?, -2.0), (&ops::sum(&v[1])?, 1.0)])
}

fn concat(v: &[Var]) -> Result<Var> {
    ops::concat_channels(&v.iter().collect::<Vec<_>>())
}

/// A gradient that is there already is added to where the groups' own is written.
#[test]
fn channel_groups_add_to_a_gradient() {
    let op = |v: &[Var]| {
        let groups = ops::sum_channel_groups(&v[0], 3)?;
        let other = ops::scale(&v[0], 2.0)?;
        ops::add(&ops::sum(&groups)?, &ops::sum(&other)?)
    };
    check_devices(op, &[&[2, 3, 2, 12]], &[DType::F32, DType::F64, DType::Bf16], true);
    for device in common::all_devices() {
        let x = Tensor::zeros(&[1, 1, 1, 6], DType::F32, &device).unwrap();
        assert_eq!(wide(&value_and_gradients(op, &[x], None).1[0]), [3.0; 6], "on {device}");
    }
}

#[test]
fn known_values() {
    for device in all_devices() {
        let tensor = |data: &[f64], shape: &[usize]| of_dtype(data, shape, DType::F32, &device);
        let (a, b) = (tensor(&[1.0, -2.0, f64::NAN], &[3]), tensor(&[2.0, -3.0, 1.0], &[3]));
        let (y, _) = value_and_gradients(|v| ops::add(&v[0], &v[1]), &[a.clone(), b.clone()], None);
        assert_eq!(wide(&y)[..2], [3.0, -5.0]);
        let (y, d) = value_and_gradients(|v| ops::add_relu(&v[0], &v[1]), &[a, b.clone()], None);
        assert_eq!((wide(&y)[0], wide(&y)[1]), (3.0, 0.0));
        assert!(wide(&y)[2].is_nan(), "NaN must show");
        assert_eq!(wide(&d[1])[..2], [1.0, 0.0]);

        let (y, d) = value_and_gradients(|v| ops::scale(&v[0], -3.0), std::slice::from_ref(&b), None);
        assert_eq!((wide(&y), wide(&d[0])), (vec![-6.0, 9.0, -3.0], vec![-3.0; 3]));
        let (y, d) = value_and_gradients(|v| ops::sum(&v[0]), std::slice::from_ref(&b), None);
        assert_eq!((y.shape(), wide(&y), wide(&d[0])), (&[][..], vec![0.0], vec![1.0; 3]));
        let (y, d) = value_and_gradients(|v| ops::mean(&v[0]), &[tensor(&[1.0, 2.0, 3.0, 6.0], &[2, 2])], None);
        assert_eq!((wide(&y), wide(&d[0])), (vec![3.0], vec![0.25; 4]));
        let (y, d) = value_and_gradients(scalars, &[tensor(&[4.0, 2.0], &[2]), tensor(&[1.0, 3.0], &[2])], None);
        assert_eq!((wide(&y), wide(&d[0]), wide(&d[1])), (vec![3.0], vec![0.5; 2], vec![0.0; 2]));

        let parts = [tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 2, 1, 2]), tensor(&[5.0, 6.0], &[1, 2, 1, 1])];
        let seed = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1, 2, 1, 3]);
        let (y, d) = value_and_gradients(concat, &parts, Some(&seed));
        assert_eq!(wide(&y), [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
        assert_eq!((wide(&d[0]), wide(&d[1])), (vec![1.0, 2.0, 4.0, 5.0], vec![3.0, 6.0]));
    }
}

#[test]
fn casts_round_and_come_back() {
    for device in all_devices() {
        // 1 + 2^-8 lies halfway between two bf16 values: to even, which is 1.
        let x = Tensor::from_vec(vec![1.0f32 + 1.0 / 256.0, -2.5], &[2], &device).unwrap();
        let seed = of_dtype(&[3.0, 4.0], &[2], DType::Bf16, &device);
        let (y, d) = value_and_gradients(|v| ops::cast(&v[0], DType::Bf16), &[x], Some(&seed));
        assert_eq!((y.dtype(), wide(&y)), (DType::Bf16, vec![1.0, -2.5]));
        assert_eq!((d[0].dtype(), wide(&d[0])), (DType::F32, vec![3.0, 4.0]));
    }
}

#[test]
fn gradients_match_differences() {
    let device = Device::cpu();
    let mut rng = Rng(21);
    let mut draw = |shape: &[usize]| rng.reals(shape, DType::F64, &device);
    let (a, b) = (draw(&[2, 3, 4, 5]), draw(&[2, 3, 4, 5]));
    let narrow = draw(&[2, 3, 4, 2]);
    let mut rng = Rng(22);
    check_gradients(|v| ops::add(&v[0], &v[1]), &[a.clone(), b.clone()], &mut rng, 100);
    check_gradients(|v| ops::add_relu(&v[0], &v[1]), &[a.clone(), b.clone()], &mut rng, 200);
    check_gradients(|v| ops::scale(&v[0], 0.37), std::slice::from_ref(&a), &mut rng, 100);
    check_gradients(scalars, &[a.clone(), b.clone()], &mut rng, 100);
    check_gradients(concat, &[a, narrow, b], &mut rng, 100);
}

#[test]
fn kernels_match_the_cpu() {
    for shape in [&[1][..], &[3, 5, 7, 11], &[9001]] {
        check_devices(|v| ops::add(&v[0], &v[1]), &[shape, shape], &FLOATS, true);
        check_devices(|v| ops::add_relu(&v[0], &v[1]), &[shape, shape], &FLOATS, true);
        check_devices(|v| ops::scale(&v[0], 0.5), &[shape], &FLOATS, true);
        check_devices(|v| ops::sum(&v[0]), &[shape], &[DType::F64], true);
    }
    for dtype in FLOATS {
        // A sum of bf16 is f32.
        check_devices(|v| ops::cast(&scalars(v)?, dtype), &[&[3, 5, 7], &[4, 4]], &[dtype], false);
    }
    check_devices(concat, &[&[2, 3, 5, 19], &[2, 3, 5, 1], &[2, 3, 5, 19]], &FLOATS, true);
}

/// The sum of many f32 values stays close to the sum in f64, on every device.
#[test]
fn long_sums_are_accurate() {
    let x = Rng(23).reals(&[1 << 20], DType::F32, &Device::cpu());
    let exact: f64 = wide(&x).iter().map(|x| x + 1.0).sum();
    for device in all_devices() {
        let moved: Vec<f64> = wide(&x).iter().map(|x| f64::from((x + 1.0) as f32)).collect();
        let tape = Tape::new(&device);
        let sum = ops::sum(&tape.constant(of_dtype(&moved, &[1 << 20], DType::F32, &device))).unwrap();
        let relative = (sum.value().item().unwrap() - exact).abs() / exact;
        assert!(relative < 3e-7, "{device}: {relative:e}");
    }
}

#[test]
fn threads_do_not_matter() {
    let mut rng = Rng(24);
    let x = rng.reals(&[123_457], DType::F32, &Device::cpu());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| value_and_gradients(|v| ops::mean(&v[0]), std::slice::from_ref(&x), None))
    };
    let (y, d) = run(1);
    for threads in [2, 7] {
        let (other, others) = run(threads);
        assert_same_bits(&other, &y, "threads");
        assert_same_bits(&others[0], &d[0], "threads");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let full = |shape: &[usize], dtype| tape.constant(Tensor::full(shape, 1.0, dtype, &device).unwrap());
    let (a, b) = (full(&[1, 2, 2, 3], DType::F32), full(&[1, 2, 2, 3], DType::F64));
    let labels = tape.constant(Tensor::from_vec(vec![1u8], &[1], &device).unwrap());
    let text = |result: Result<Var>| result.err().expect("refused").to_string();
    assert!(text(ops::add(&a, &full(&[12], DType::F32))).contains("must have shape [1, 2, 2, 3], got [12]"));
    assert!(text(ops::add(&a, &b)).contains("convert one"));
    assert!(text(ops::concat_channels(&[])).contains("no parts"));
    assert!(text(ops::concat_channels(&[&a, &b])).contains("convert one"));
    assert!(text(ops::concat_channels(&[&a, &full(&[1, 2, 3, 3], DType::F32)])).contains("each part"));
    assert!(text(ops::weighted_sum(&[])).contains("no terms"));
    assert!(text(ops::weighted_sum(&[(&a, 1.0)])).contains("each term"));
    assert!(text(ops::mean(&full(&[0], DType::F32))).contains("no elements"));
    assert!(text(ops::cast(&a, DType::U8)).contains("u8"));
    assert!(text(ops::cast(&labels, DType::F32)).contains("u8"));
    assert!(text(ops::sum(&labels)).contains("u8"));
    assert!(text(ops::scale(&labels, 2.0)).contains("u8"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is put together comes apart again, of any widths, on every device.
    #[test]
    fn concatenation_keeps_every_value(
        widths in prop::collection::vec(1usize..9, 1..5), n in 1usize..3, h in 1usize..5, w in 1usize..5, seed: u64
    ) {
        let mut rng = Rng(seed);
        let parts: Vec<Tensor> = widths.iter().map(|&c| rng.reals(&[n, h, w, c], DType::F32, &Device::cpu())).collect();
        for device in kernel_devices().into_iter().chain([Device::cpu()]) {
            let moved: Vec<Tensor> = parts.iter().map(|part| part.to_device(&device).unwrap()).collect();
            let (y, _) = value_and_gradients(concat, &moved, None);
            // With y itself as the gradient, the gradients are the parts.
            let (_, back) = value_and_gradients(concat, &moved, Some(&y));
            for (part, back) in parts.iter().zip(&back) {
                assert_same_bits(back, part, "part");
            }
        }
    }
}
