//! Batch normalisation, alone and fused with a residual and ReLU.

use crate::common::{
    self, Rng, Tolerance, all_devices, assert_close, assert_same_bits, check_devices, check_gradients, kernel_devices,
    of_dtype, value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    nn::{BatchNorm, Forward, Parameters, Precision},
    ops::{self, BatchNormMode, BatchNormSpec},
};
use proptest::prelude::*;

const EPSILON: f64 = 1e-5;
const BATCH: BatchNormMode<'static> = BatchNormMode::Batch { epsilon: EPSILON, groups: 1 };

/// Inputs x, scale, shift and, where there is one more, the residual.
fn fused(v: &[Var], mode: BatchNormMode<'_>, relu: bool) -> Result<Var> {
    let spec = BatchNormSpec { mode, residual: v.get(3), relu, moments: None };
    Ok(ops::batch_norm_with(&v[0], &v[1], &v[2], &spec)?.y)
}

fn cpu(data: &[f64], shape: &[usize]) -> Tensor {
    of_dtype(data, shape, DType::F64, &Device::cpu())
}

fn assert_all_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance, "{g} is not {w}");
    }
}

#[test]
fn known_values() {
    for device in all_devices() {
        let tape = Tape::new(&device);
        let constant = |data: &[f64], shape: &[usize]| tape.constant(of_dtype(data, shape, DType::F32, &device));
        // Channel 0: 1, 2, 3, 6 (mean 3, squares 14); channel 1 constant.
        let x = constant(&[1.0, 5.0, 2.0, 5.0, 3.0, 5.0, 6.0, 5.0], &[2, 2, 1, 2]);
        let (scale, shift) = (constant(&[2.0, 3.0], &[2]), constant(&[1.0, -1.0], &[2]));
        let out = ops::batch_norm(&x, &scale, &shift, BatchNormMode::Batch { epsilon: 0.5, groups: 1 }).unwrap();
        assert_all_close(&wide(&out.mean), &[3.0, 5.0], 1e-6);
        assert_all_close(&wide(&out.variance), &[14.0 / 3.0, 0.0], 1e-6);
        let r = 1.0 / (14.0f64 / 4.0 + 0.5).sqrt();
        let want = [-2.0 * 2.0 * r + 1.0, -1.0, -2.0 * r + 1.0, -1.0, 1.0, -1.0, 3.0 * 2.0 * r + 1.0, -1.0];
        assert_all_close(&wide(out.y.value()), &want, 1e-6);

        let (mean, variance) =
            (of_dtype(&[1.0, 5.0], &[2], DType::F32, &device), of_dtype(&[3.0, 0.0], &[2], DType::F32, &device));
        let mode = BatchNormMode::Running { mean: &mean, variance: &variance, epsilon: 1.0 };
        let out = ops::batch_norm_with(
            &x,
            &scale,
            &shift,
            &BatchNormSpec { mode, residual: Some(&x), relu: true, moments: None },
        );
        let out = out.unwrap();
        assert_all_close(&wide(out.y.value()), &[2.0, 4.0, 4.0, 4.0, 6.0, 4.0, 12.0, 4.0], 1e-6);
        assert_same_bits(&out.variance, &variance, "the variance that was given");
    }
}

/// f64, small: every combination of mode, ReLU, residual.
#[test]
fn gradients_match_differences() {
    let device = Device::cpu();
    let mut rng = Rng(3);
    let mean = rng.reals(&[5], DType::F64, &device);
    let variance = cpu(&[0.3, 1.0, 2.0, 0.1, 0.7], &[5]);
    let running = BatchNormMode::Running { mean: &mean, variance: &variance, epsilon: EPSILON };
    let image = [2, 3, 4, 5];
    for mode in [BATCH, running] {
        for relu in [false, true] {
            let mut inputs = vec![rng.reals(&image, DType::F64, &device)];
            inputs.extend([rng.reals(&[5], DType::F64, &device), rng.reals(&[5], DType::F64, &device)]);
            check_gradients(|v| fused(v, mode, relu), &inputs, &mut rng, 200);
            inputs.push(rng.reals(&image, DType::F64, &device));
            check_gradients(|v| fused(v, mode, relu), &inputs, &mut rng, 200);
        }
    }
}

/// With a constant scale and shift less is stored; the gradients that remain must not change.
#[test]
fn constants_change_no_other_gradient() {
    for device in all_devices() {
        let mut rng = Rng(4);
        let image = [2, 3, 5, 4];
        let inputs: Vec<Tensor> = [&image[..], &[4], &[4], &image]
            .into_iter()
            .map(|shape| rng.reals(shape, DType::F32, &Device::cpu()).to_device(&device).unwrap())
            .collect();
        let mean = of_dtype(&[0.1; 4], &[4], DType::F32, &device);
        let variance = of_dtype(&[0.5; 4], &[4], DType::F32, &device);
        let running = BatchNormMode::Running { mean: &mean, variance: &variance, epsilon: EPSILON };
        for mode in [BATCH, running] {
            for (relu, used) in [(false, 3), (true, 3), (false, 4), (true, 4)] {
                let (_, all) = value_and_gradients(|v| fused(v, mode, relu), &inputs[..used], None);
                for kept in 0..1usize << used {
                    let tape = Tape::new(&device);
                    let bind = |(i, t): (usize, &Tensor)| match kept >> i & 1 {
                        1 => tape.variable(t.clone()),
                        _ => tape.constant(t.clone()),
                    };
                    let vars: Vec<Var> = inputs[..used].iter().enumerate().map(bind).collect();
                    let y = fused(&vars, mode, relu).unwrap();
                    assert_eq!(y.is_tracked(), kept != 0);
                    if kept == 0 {
                        continue;
                    }
                    let seed = Tensor::full(y.value().shape(), 1.0, DType::F32, &device).unwrap();
                    let gradients = tape.backward_with(&y, seed).unwrap();
                    for (i, var) in vars.iter().enumerate() {
                        match gradients.get(var) {
                            Some(gradient) => assert_close(gradient, &all[i], Tolerance::new(1e-6, 1e-6), "gradient"),
                            None => assert_eq!(kept >> i & 1, 0, "gradient {i} is missing"),
                        }
                    }
                }
            }
        }
    }
}

/// Fused and separate operations agree to the bit.
#[test]
fn fusing_changes_nothing() {
    for device in all_devices() {
        let mut rng = Rng(5);
        let image = [2, 5, 7, 12];
        for dtype in [DType::F32, DType::F64] {
            let shapes = [&image[..], &[12], &[12], &image];
            let inputs: Vec<Tensor> =
                shapes.map(|shape| rng.reals(shape, dtype, &Device::cpu()).to_device(&device).unwrap()).to_vec();
            let seed = rng.reals(&image, dtype, &Device::cpu()).to_device(&device).unwrap();
            let separate = |v: &[Var]| {
                let y = ops::batch_norm(&v[0], &v[1], &v[2], BATCH)?.y;
                let y = if v.len() == 4 { ops::add(&y, &v[3])? } else { y };
                ops::relu(&y)
            };
            for used in [3, 4] {
                let (a, da) = value_and_gradients(|v| fused(v, BATCH, true), &inputs[..used], Some(&seed));
                let (b, db) = value_and_gradients(separate, &inputs[..used], Some(&seed));
                assert_same_bits(&a, &b, "fused and separate");
                da.iter().zip(&db).for_each(|(a, b)| assert_same_bits(a, b, "fused and separate gradients"));
            }
        }
    }
}

/// A large mean beside a small deviation, and a long sum: the sums of f32 must stay close to those of f64.
#[test]
fn statistics_are_stable() {
    let shape = [4, 64, 96, 64];
    let mut rng = Rng(6);
    for (offset, deviation) in [(0.0, 1.0), (100.0, 0.5)] {
        let data: Vec<f64> =
            (0..shape.iter().product()).map(|_| f64::from((offset + deviation * rng.symmetric()) as f32)).collect();
        let run = |dtype: DType| {
            let device = Device::cpu();
            let tape = Tape::new(&device);
            let x = tape.variable(of_dtype(&data, &shape, dtype, &device));
            let scale = tape.variable(Tensor::full(&[64], 1.5, dtype, &device).unwrap());
            let shift = tape.variable(Tensor::full(&[64], 0.5, dtype, &device).unwrap());
            let out = ops::batch_norm(&x, &scale, &shift, BATCH).unwrap();
            let seed = rng_seed(&shape, dtype);
            let gradients = tape.backward_with(&out.y, seed).unwrap();
            let get = |v: &Var| gradients.get(v).unwrap().clone();
            [out.mean, out.variance, out.y.value().clone(), get(&x), get(&scale), get(&shift)]
        };
        let (narrow, exact) = (run(DType::F32), run(DType::F64));
        // The sums of gradients have 24576 terms of order 1, so their own scale is about 100.
        // A mean of 100 rounded to f32 is off by up to 4e-6, which the division by the deviation turns into 2e-5.
        let bounds = [1e-7 * (1.0 + offset), 1e-6, 6e-5, 6e-5, 1e-2, 2e-3];
        for ((got, want), bound) in narrow.iter().zip(&exact).zip(bounds) {
            assert_close(got, want, Tolerance::new(bound, 1e-5), &format!("offset {offset}"));
        }
    }
}

/// Of however many chunks of rows: nothing is lost to rounding where they are joined.
#[test]
fn a_constant_channel_is_its_mean() {
    let shape = [2, 160, 130, 3];
    let mut rng = Rng(13);
    let data: Vec<f64> =
        (0..shape.iter().product()).map(|i: usize| if i % 3 == 1 { 5.5 } else { rng.symmetric() }).collect();
    for device in all_devices() {
        for groups in [1, 2] {
            let tape = Tape::new(&device);
            let x = tape.constant(of_dtype(&data, &shape, DType::F32, &device));
            let vector = tape.constant(Tensor::full(&[3], 1.0, DType::F32, &device).unwrap());
            let mode = BatchNormMode::Batch { epsilon: EPSILON, groups };
            let out = ops::batch_norm(&x, &vector, &vector, mode).unwrap();
            for group in 0..groups {
                let at = group * 3 + 1;
                assert_eq!((wide(&out.mean)[at], wide(&out.variance)[at]), (5.5, 0.0), "{device} {groups}");
            }
        }
    }
}

fn rng_seed(shape: &[usize], dtype: DType) -> Tensor {
    Rng(77).reals(shape, dtype, &Device::cpu())
}

#[test]
fn threads_do_not_matter() {
    let mut rng = Rng(8);
    let image = [3, 37, 41, 24];
    let inputs: Vec<Tensor> =
        [&image[..], &[24], &[24], &image].map(|shape| rng.reals(shape, DType::F32, &Device::cpu())).to_vec();
    let seed = rng.reals(&image, DType::F32, &Device::cpu());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| value_and_gradients(|v| fused(v, BATCH, true), &inputs, Some(&seed)))
    };
    let (y, gradients) = run(1);
    for threads in [2, 5] {
        let (other, others) = run(threads);
        assert_same_bits(&other, &y, "threads");
        gradients.iter().zip(&others).for_each(|(a, b)| assert_same_bits(a, b, "threads"));
    }
}

#[test]
fn kernels_match_the_cpu() {
    let dtypes = [DType::F32, DType::F64, DType::Bf16];
    // The third has more rows than the emulator's threads hold at one time, the others many chunks of rows.
    for image in [[2, 5, 7, 16], [1, 9, 5, 19], [2, 33, 32, 64], [1, 160, 130, 4], [1, 160, 130, 5]] {
        let vector = [image[3]];
        let shapes = [&image[..], &vector, &vector, &image];
        for dtype in dtypes {
            let accumulator = dtype.accumulator();
            // The vectors of a bf16 image are f32.
            let op = |v: &[Var]| {
                let (scale, shift) = (ops::cast(&v[1], accumulator)?, ops::cast(&v[2], accumulator)?);
                let mut v = v.to_vec();
                (v[1], v[2]) = (scale, shift);
                fused(&v, BATCH, v.len() == 4)
            };
            check_devices(op, &shapes, &[dtype], false);
            check_devices(op, &shapes[..3], &[dtype], false);
        }
    }
}

/// Groups are batches of their own, to the bit; their gradients of scale and shift add up.
#[test]
fn groups_are_batches_of_their_own() {
    for device in kernel_devices().into_iter().chain([Device::cpu()]) {
        for (dtype, channels) in [(DType::F32, 12), (DType::Bf16, 24), (DType::F64, 5)] {
            let mut rng = Rng(11);
            let mut draw = |shape: &[usize], dtype| rng.reals(shape, dtype, &Device::cpu()).to_device(&device).unwrap();
            let image = [6, 13, 9, channels];
            let (x, residual, seed) = (draw(&image, dtype), draw(&image, dtype), draw(&image, dtype));
            let vector = [channels];
            let (scale, shift) = (draw(&vector, dtype.accumulator()), draw(&vector, dtype.accumulator()));
            // Value, statistics, then the gradients.
            let run = |x: &Tensor, residual: &Tensor, seed: &Tensor, groups: usize, relu: bool| {
                let tape = Tape::new(&device);
                let vars = [x, &scale, &shift, residual].map(|tensor| tape.variable(tensor.clone()));
                let mode = BatchNormMode::Batch { epsilon: EPSILON, groups };
                let spec = BatchNormSpec { mode, residual: Some(&vars[3]), relu, moments: None };
                let out = ops::batch_norm_with(&vars[0], &vars[1], &vars[2], &spec).unwrap();
                let gradients = tape.backward_with(&out.y, seed.clone()).unwrap();
                let mut all = vec![out.y.value().clone(), out.mean, out.variance];
                all.extend(vars.iter().map(|var| gradients.get(var).unwrap().clone()));
                all.iter().map(wide).collect::<Vec<_>>()
            };
            for relu in [true, false] {
                let together = run(&x, &residual, &seed, 3, relu);
                let part = |tensor: &Tensor, group: usize| {
                    let parts = ops::split_images(&Tape::new(&device).constant(tensor.clone()), &[2; 3]).unwrap();
                    parts[group].value().clone()
                };
                let apart: Vec<_> =
                    (0..3).map(|g| run(&part(&x, g), &part(&residual, g), &part(&seed, g), 1, relu)).collect();
                for (i, got) in together.iter().enumerate() {
                    let want: Vec<f64> = match i {
                        // Scale and shift.
                        4 | 5 => (0..channels)
                            .map(|c| match dtype {
                                DType::F64 => apart.iter().map(|of| of[i][c]).sum(),
                                _ => f64::from(apart.iter().map(|of| of[i][c] as f32).sum::<f32>()),
                            })
                            .collect(),
                        _ => apart.iter().flat_map(|of| of[i].clone()).collect(),
                    };
                    assert_eq!(*got, want, "{device} {dtype}: {i}");
                }
            }
        }
    }
    let tape = Tape::new(&Device::cpu());
    let constant = |shape: &[usize]| tape.constant(Tensor::full(shape, 1.0, DType::F32, &Device::cpu()).unwrap());
    for (groups, part) in [(2, "3 images do not divide into 2 groups"), (0, "0 groups"), (3, "two values a channel")] {
        let mode = BatchNormMode::Batch { epsilon: EPSILON, groups };
        let error = ops::batch_norm(&constant(&[3, 1, 1, 4]), &constant(&[4]), &constant(&[4]), mode).err().unwrap();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn gradients_through_groups_match_differences() {
    let mut rng = Rng(12);
    let image = [4, 2, 3, 5];
    let mode = BatchNormMode::Batch { epsilon: EPSILON, groups: 2 };
    let shapes = [&image[..], &[5], &[5], &image];
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| rng.reals(shape, DType::F64, &Device::cpu())).collect();
    for relu in [false, true] {
        check_gradients(|v| fused(v, mode, relu), &inputs, &mut rng, 200);
    }
    check_devices(|v| fused(v, mode, true), &shapes, &[DType::F32, DType::F64], false);
}

/// Every barrier of the kernels is needed.
#[test]
fn barriers_are_needed() {
    if common::gpu_alone() {
        return;
    }
    // More than one chunk of rows, channel group and row a thread; vector and scalar accesses.
    let run = |device: &Device| {
        let mut bytes = Vec::new();
        for (image, groups) in [([3, 20, 30, 40], 1), ([1, 40, 40, 37], 1), ([4, 20, 30, 40], 2), ([5, 9, 9, 8], 5)] {
            let mut rng = Rng(9);
            let shapes = [&image[..], &image[3..], &image[3..], &image];
            let mut draw = |shape: &[usize]| rng.reals(shape, DType::F32, &Device::cpu()).to_device(device);
            let inputs = shapes.into_iter().map(&mut draw).collect::<Result<Vec<_>>>()?;
            let tape = Tape::new(device);
            let vars: Vec<Var> = inputs.into_iter().map(|input| tape.variable(input)).collect();
            let y = fused(&vars, BatchNormMode::Batch { epsilon: EPSILON, groups }, true)?;
            let gradients = tape.backward_with(&y, draw(&image)?)?;
            let tensors = vars.iter().filter_map(|var| gradients.get(var)).chain([y.value()]);
            tensors.for_each(|tensor| bytes.extend(wide(tensor).into_iter().flat_map(f64::to_le_bytes)));
        }
        Ok(bytes)
    };
    bicl_emulator::check_barriers("kernels/batch_norm.cu", run).unwrap();
}

#[test]
fn one_value_a_channel_is_refused() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let constant = |shape: &[usize]| tape.constant(Tensor::full(shape, 1.0, DType::F32, &device).unwrap());
    let error = ops::batch_norm(&constant(&[1, 1, 1, 3]), &constant(&[3]), &constant(&[3]), BATCH).err().unwrap();
    assert!(error.to_string().contains("two values a channel"), "{error}");
    // With running statistics one pixel is as good as many.
    let (mean, variance) = (constant(&[3]), constant(&[3]));
    let mode = BatchNormMode::Running { mean: mean.value(), variance: variance.value(), epsilon: 0.0 };
    let out = ops::batch_norm(&constant(&[1, 1, 1, 3]), &constant(&[3]), &constant(&[3]), mode).unwrap();
    assert_eq!(wide(out.y.value()), [1.0; 3]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let constant = |shape: &[usize], dtype| tape.constant(Tensor::full(shape, 1.0, dtype, &device).unwrap());
    let x = constant(&[2, 2, 2, 3], DType::F32);
    let good = constant(&[3], DType::F32);
    let refused = |x: &Var, scale: &Var, shift: &Var, residual: Option<&Var>, part: &str| {
        let spec = BatchNormSpec { mode: BATCH, residual, relu: true, moments: None };
        let error = ops::batch_norm_with(x, scale, shift, &spec).err().expect(part).to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(&x, &constant(&[4], DType::F32), &good, None, "scale must have shape [3]");
    refused(&x, &good, &constant(&[3], DType::F64), None, "shift is f64");
    refused(&x, &good, &good, Some(&constant(&[2, 2, 3, 2], DType::F32)), "the residual must have shape");
    refused(&x, &good, &good, Some(&constant(&[2, 2, 2, 3], DType::F64)), "the residual is f64");
    refused(&good, &good, &good, None, "expected 4 dimensions");
    refused(
        &constant(&[2, 2, 2, 0], DType::F32),
        &constant(&[0], DType::F32),
        &constant(&[0], DType::F32),
        None,
        "no channels",
    );
    let labels = Tensor::from_vec(vec![1u8; 24], &[2, 2, 2, 3], &device).unwrap();
    refused(&tape.constant(labels), &good, &good, None, "u8");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any shape: the output has mean `shift` and deviation `scale` in each channel, and kernels agree with the CPU.
    #[test]
    fn normalises_any_shape(n in 1usize..3, h in 1usize..9, w in 2usize..12, c in 1usize..40, seed: u64) {
        let mut rng = Rng(seed);
        let x = rng.reals(&[n, h, w, c], DType::F64, &Device::cpu());
        let run = |device: &Device| {
            let tape = Tape::new(device);
            let full = |value| tape.constant(Tensor::full(&[c], value, DType::F64, device).unwrap());
            let x = tape.constant(x.to_device(device).unwrap());
            ops::batch_norm(&x, &full(2.0), &full(3.0), BatchNormMode::Batch { epsilon: 1e-12, groups: 1 }).unwrap()
        };
        let out = run(&Device::cpu());
        let y = wide(out.y.value());
        let rows = (n * h * w) as f64;
        for channel in 0..c {
            let values: Vec<f64> = y.iter().skip(channel).step_by(c).copied().collect();
            let mean = values.iter().sum::<f64>() / rows;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / rows).sqrt();
            prop_assert!((mean - 3.0).abs() < 1e-9, "mean {mean}");
            prop_assert!((deviation - 2.0).abs() < 1e-4, "deviation {deviation}");
        }
        for device in all_devices() {
            let other = run(&device);
            assert_close(other.y.value(), out.y.value(), Tolerance::new(1e-9, 1e-9), "y");
            assert_close(&other.mean, &out.mean, Tolerance::new(1e-12, 1e-12), "mean");
            assert_close(&other.variance, &out.variance, Tolerance::new(1e-12, 1e-12), "variance");
        }
    }
}

#[test]
fn statistics_at_weight_one_over_k_are_the_mean_over_the_batches_whatever_was_there() {
    let images: Vec<Vec<f32>> =
        (1..=3).map(|k| (0..4 * 5 * 2).map(|i| k as f32 * ((i * 7 + k * k) % 11) as f32).collect()).collect();
    for device in all_devices() {
        let mut parameters = Parameters::new(&device);
        let norm = BatchNorm::new(&mut parameters, "bn1", 2, false).unwrap();
        let mut measure = |image: &[f32], weight: f64| {
            let image = Tensor::from_vec(image.to_vec(), &[1, 4, 5, 2], &device).unwrap();
            let pass = Forward::measure(&parameters, Precision::Fp32);
            norm.forward(&pass, &pass.input(&image).unwrap()).unwrap();
            pass.statistics().apply_with(&mut parameters, weight).unwrap();
            let read = |name| wide(parameters.get(parameters.find(name).unwrap()));
            [read("bn1.running_mean"), read("bn1.running_var")].concat()
        };
        let alone: Vec<Vec<f64>> = images.iter().map(|image| measure(image, 1.0)).collect();
        let mut together = Vec::new();
        for (k, image) in images.iter().enumerate() {
            together = measure(image, 1.0 / (k + 1) as f64);
        }
        for (statistic, got) in together.into_iter().enumerate() {
            let of = |image: usize| alone[image][statistic];
            assert!(of(0) < of(1) && of(1) < of(2), "the images differ");
            let want = (of(0) + of(1) + of(2)) / 3.0;
            assert!((got - want).abs() <= 1e-5 * want, "{device:?} {statistic}: {got}, {want}");
        }
    }
}
