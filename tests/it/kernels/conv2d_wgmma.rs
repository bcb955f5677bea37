//! Convolution by warpgroups (kernels/conv2d_sm90.cu), on the emulator and on GPUs that have them.

use std::{collections::BTreeSet, ops::RangeInclusive};

use crate::common::{self, Rng, Tolerance, assert_close, assert_same_bits, bytes_of, kernel_devices, wide};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, BatchNormMode, BatchNormSpec, Conv2dSpec, conv2d_batch_norm},
};
use half::bf16;

/// N, H, W, C; K, R; stride, padding, dilation.
type Case = ([usize; 4], [usize; 2], [usize; 3]);

/// Each kind of shape of the published network, smaller, and odd ones besides.
const KINDS: [Case; 11] = [
    ([2, 9, 11, 72], [136, 3], [1, 2, 2]), // dilation 2; channels off every slice and tile; odd sizes
    ([1, 9, 8, 128], [64, 3], [1, 4, 4]),  // dilation 4
    ([2, 10, 13, 72], [264, 1], [1, 0, 1]), // 1 x 1, more columns than a tile
    ([1, 12, 11, 1544], [136, 1], [1, 0, 1]), // 1 x 1, long sums
    ([1, 17, 15, 64], [72, 3], [2, 1, 1]), // stride 2
    ([2, 9, 10, 64], [136, 1], [2, 0, 1]), // stride 2 without a neighbour
    ([1, 5, 4, 64], [64, 3], [1, 24, 24]), // dilation beyond the image
    ([1, 1, 1, 64], [64, 1], [1, 0, 1]),   // one pixel
    ([1, 26, 31, 136], [128, 1], [1, 0, 1]), // more tiles than multiprocessors; 13 slices of pixels, which no cut divides
    ([3, 8, 9, 80], [96, 2], [1, 0, 3]),     // an even window, no padding
    ([1, 6, 7, 64], [128, 1], [1, 2, 1]),    // 1 x 1 with padding
];

/// As many configs as any of them has that go by warpgroups.
const CONFIGS: usize = 15;

/// Those that run kernels, by warpgroups where they can.
fn devices() -> Vec<Device> {
    let mut devices = kernel_devices();
    devices.iter_mut().for_each(|device| *device = device.with(|options| options.warpgroups = Some(true)));
    devices
}

/// One schedule of the emulator, and GPUs.
fn few_devices() -> Vec<Device> {
    let mut emulated = 0;
    let mut devices = devices();
    devices.retain(|device| {
        emulated += usize::from(device.is_emulated());
        !device.is_emulated() || emulated == 1
    });
    devices
}

fn plan() -> Device {
    Device::plan().with(|options| options.warpgroups = Some(true))
}

fn spec([stride, padding, dilation]: [usize; 3]) -> Conv2dSpec {
    Conv2dSpec { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] }
}

fn output((x, [k, r], [stride, padding, dilation]): Case) -> [usize; 4] {
    let extent = |extent: usize| (extent + 2 * padding - dilation * (r - 1) - 1) / stride + 1;
    [x[0], extent(x[1]), extent(x[2]), k]
}

/// x, w, bias and dy on the CPU.
fn draw(case: Case, mut random: impl FnMut(&[usize]) -> Tensor) -> [Tensor; 4] {
    let (x, [k, r], _) = case;
    [random(&x), random(&[k, r, r, x[3]]), random(&[k]), random(&output(case))]
}

/// y, dx, dw.
fn run(case: Case, inputs: &[Tensor; 4], device: &Device) -> Result<Vec<Tensor>> {
    let tape = Tape::new(device);
    let [x, w, bias] = [0, 1, 2].map(|i: usize| inputs[i].to_device(device).map(|tensor| tape.variable(tensor)));
    let (x, w, bias) = (x?, w?, bias?);
    let y = ops::conv2d(&x, &w, Some(&bias), &spec(case.2))?;
    let gradients = tape.backward_with(&y, inputs[3].to_device(device)?)?;
    let gradient = |var: &Var| gradients.get(var).cloned().expect("a variable has a gradient");
    Ok(vec![y.value().clone(), gradient(&x), gradient(&w)])
}

#[test]
fn every_config_is_exact_on_small_integers() {
    let devices = few_devices();
    for case in KINDS {
        let mut rng = Rng(17);
        let inputs = draw(case, |shape| rng.integers(shape, DType::Bf16, &Device::cpu()));
        let want = run(case, &inputs, &Device::cpu()).unwrap();
        for device in &devices {
            for config in 0..=CONFIGS {
                let device = &device.with(|options| options.config = config);
                let got = run(case, &inputs, device).unwrap();
                for (what, (got, want)) in ["y", "dx", "dw"].iter().zip(got.iter().zip(&want)) {
                    assert_close(got, want, Tolerance::EXACT, &format!("{case:?} config {config}: {what}"));
                }
            }
        }
    }
}

/// So many tiles that each block of a real GPU has several: phases of the ring in pingpong, tiles of the tail before
/// whole ones, clusters that go on. Integers, so every config has the bits of the products by warps on the same GPU, each time.
#[test]
fn every_config_is_exact_over_many_tiles_of_a_block() {
    let Some(device) = common::gpu() else { return };
    if device.as_cuda().unwrap().compute_capability().unwrap() != (9, 0) {
        println!("skipped: {device} has no products by warpgroups");
        return;
    }
    let cases: [Case; 3] = [
        ([4, 92, 92, 256], [256, 3], [1, 2, 2]),
        ([4, 92, 92, 256], [1024, 1], [1, 0, 1]),
        ([2, 92, 92, 512], [512, 3], [1, 4, 4]),
    ];
    const REPEATS: usize = 6;
    let bits = |tensors: Vec<Tensor>| tensors.iter().map(|t| t.to_vec::<bf16>().unwrap()).collect::<Vec<_>>();
    for case in cases {
        let mut rng = Rng(41);
        let inputs = draw(case, |shape| rng.integers(shape, DType::Bf16, &device));
        let device = &device.with(|options| options.warpgroups = Some(false));
        let device = &device.with(|options| options.config = 0);
        let want = bits(run(case, &inputs, device).unwrap());
        let device = &device.with(|options| options.warpgroups = Some(true));
        for config in 1..=CONFIGS {
            let device = &device.with(|options| options.config = config);
            for repeat in 0..REPEATS {
                let got = bits(run(case, &inputs, device).unwrap());
                for (what, (got, want)) in ["y", "dx", "dw"].iter().zip(got.iter().zip(&want)) {
                    let wrong = got.iter().zip(want).filter(|(got, want)| got != want).count();
                    let first = got.iter().zip(want).position(|(got, want)| got != want);
                    assert_eq!(
                        wrong, 0,
                        "{case:?} config {config}, repeat {repeat}: {what}, {wrong} differ, first {first:?}"
                    );
                }
            }
        }
    }
}

/// The configs are those that are meant: each tile in each direction, whole tiles and cut ones.
#[test]
fn every_kernel_is_among_the_configs() {
    let plan = plan();
    let cases = KINDS.map(|case| (case, draw(case, |shape| Tensor::zeros(shape, DType::Bf16, &plan).unwrap())));
    plan.as_plan().unwrap().start();
    for config in 0..=CONFIGS {
        let plan = &plan.with(|options| options.config = config);
        for (case, inputs) in &cases {
            run(*case, inputs, plan).unwrap();
        }
    }
    let counts = plan.as_plan().unwrap().counts();
    let wide = counts.launches.iter().filter(|launch| launch.kernel == "conv2d_wgmma_forward_wide_bf16");
    let works: BTreeSet<(u32, usize)> =
        wide.filter_map(|launch| Some((launch.launch.cluster, launch.work?.items))).collect();
    // Two tiles, by single blocks or a cluster: data parallel, stream-K, in four strips each, and stream-K of those.
    for cluster in [1, 2] {
        let some = |items: RangeInclusive<usize>| works.iter().any(|work| work.0 == cluster && items.contains(&work.1));
        assert!([2..=2, 3..=6, 8..=8, 9..=32].into_iter().all(some), "{works:?}");
    }
    let kernels: Vec<String> =
        bicl_emulator::kernels().into_iter().filter(|name| name.starts_with("conv2d_wgmma_")).collect();
    assert_eq!(kernels.len(), 13);
    for kernel in kernels {
        assert!(counts.kernels.contains_key(&*kernel), "{kernel} is in none of the configs");
        // The narrow tile has too few columns to share.
        let paired = counts.launches.iter().any(|launch| launch.kernel == kernel && launch.launch.cluster == 2);
        let alone = kernel.contains("narrow") || kernel.contains("fixup");
        assert_eq!(paired, !alone, "{kernel} by pairs");
    }
}

#[test]
fn reals_are_as_close_to_f64_as_their_factors_allow() {
    let case = KINDS[0];
    let mut rng = Rng(19);
    let inputs = draw(case, |shape| rng.reals(shape, DType::Bf16, &Device::cpu()));
    let exact = [0, 1, 2, 3].map(|i: usize| inputs[i].to_dtype(DType::F64).unwrap());
    let want = run(case, &exact, &Device::cpu()).unwrap();
    for config in [0, 1, 4, 6, 9] {
        let mut first: Option<Vec<Tensor>> = None;
        for device in devices() {
            let device = &device.with(|options| options.config = config);
            let got = run(case, &inputs, device).unwrap();
            for (what, (got, want)) in ["y", "dx", "dw"].iter().zip(got.iter().zip(&want)) {
                let want = wide(want);
                let difference: f64 = wide(got).iter().zip(&want).map(|(got, want)| (got - want).powi(2)).sum();
                let distance = (difference / want.iter().map(|want| want * want).sum::<f64>()).sqrt();
                assert!((1e-4..=1e-2).contains(&distance), "config {config}, {what} on {device}: {distance:e}");
            }
            if device.is_emulated() {
                let first = first.get_or_insert_with(|| got.clone());
                first
                    .iter()
                    .zip(&got)
                    .for_each(|(a, b)| assert_same_bits(a, b, &format!("config {config}: schedules")));
            }
        }
    }
}

/// Adds to the gradient of another use of x where it writes its own: the same bits as a sum afterwards.
#[test]
fn the_input_gradient_is_added_where_it_is_written() {
    let case = KINDS[0];
    let mut rng = Rng(27);
    let inputs = draw(case, |shape| rng.reals(shape, DType::Bf16, &Device::cpu()));
    for device in few_devices() {
        for config in 1..=CONFIGS {
            let device = &device.with(|options| options.config = config);
            let tape = Tape::new(device);
            let [x, w, _, dy] = [0, 1, 2, 3].map(|i: usize| inputs[i].to_device(device).unwrap());
            let [x, w] = [x, w].map(|tensor| tape.variable(tensor));
            let gradient = |y: &Var| tape.backward_with(y, dy.clone()).unwrap().get(&x).unwrap().clone();
            let conv = || ops::conv2d(&x, &w, None, &spec(case.2)).unwrap();
            let other = || ops::conv2d(&ops::scale(&x, 0.37).unwrap(), &w, None, &spec(case.2)).unwrap();
            let [alone, mut sum] = [gradient(&conv()), gradient(&other())];
            sum.accumulate(&alone).unwrap();
            let y = conv();
            assert_same_bits(&gradient(&ops::add(&y, &other()).unwrap()), &sum, &format!("config {config}"));
        }
    }
}

/// Groups that end inside a tile, inside a piece, and within one piece.
const GROUPED: [(Case, usize); 4] = [
    (([4, 9, 11, 64], [72, 3], [1, 1, 1]), 2),
    (([6, 5, 3, 64], [136, 1], [1, 0, 1]), 6),
    (([2, 13, 12, 72], [264, 1], [1, 0, 1]), 1),
    (([2, 12, 13, 264], [64, 1], [1, 0, 1]), 2),
];

/// Mean and variance by group, y, and the convolution's output; by the convolution's moments, or by a pass of their own.
fn normalized(case: Case, inputs: &[Tensor; 4], groups: usize, fused: bool, device: &Device) -> Result<Vec<Tensor>> {
    let tape = Tape::new(device);
    let [x, w, bias] = [0, 1, 2].map(|i: usize| tape.constant(inputs[i].to_device(device).unwrap()));
    let (y, moments) = ops::conv2d_with_moments(&x, &w, Some(&bias), &spec(case.2), groups)?;
    let vector = |value| tape.constant(Tensor::full(&case.1[..1], value, DType::F32, device).unwrap());
    let mode = BatchNormMode::Batch { epsilon: 1e-5, groups };
    let moments = moments.filter(|_| fused);
    let spec = BatchNormSpec { mode, residual: None, relu: false, moments: moments.as_ref() };
    let out = ops::batch_norm_with(&y, &vector(1.5), &vector(0.5), &spec)?;
    Ok(vec![out.mean, out.variance, out.y.value().clone(), y.value().clone()])
}

#[test]
fn moments_are_those_of_a_pass_over_the_output() {
    for (case, groups) in GROUPED {
        let mut rng = Rng(31);
        let inputs = draw(case, |shape| {
            let shifted: Vec<f64> = (0..shape.iter().product()).map(|_| 1.0 + 0.25 * rng.symmetric()).collect();
            common::of_dtype(&shifted, shape, DType::Bf16, &Device::cpu())
        });
        for config in 1..=CONFIGS {
            let mut first: Option<Vec<Tensor>> = None;
            let devices = if config % 4 == 1 { devices() } else { few_devices() };
            for device in devices {
                let device = &device.with(|options| options.config = config);
                let [got, want] = [true, false].map(|fused| normalized(case, &inputs, groups, fused, device).unwrap());
                let what = format!("{case:?} in {groups}, config {config}");
                let scale = wide(&want[0]).iter().fold(0.0f64, |most, v| most.max(v.abs()));
                assert_close(&got[0], &want[0], Tolerance::new(1e-6 * scale, 0.0), &format!("{what}: mean"));
                assert_close(&got[1], &want[1], Tolerance::new(1e-6 * scale, 1e-4), &format!("{what}: variance"));
                assert_close(&got[2], &want[2], Tolerance::new(2e-2, 1e-2), &format!("{what}: y"));
                assert_same_bits(&got[3], &want[3], &format!("{what}: moments change no output"));
                if device.is_emulated() {
                    let first = first.get_or_insert_with(|| got.clone());
                    first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                }
            }
        }
    }
}

/// Integers whose means and deviations f32 holds: the statistics are exact, so they come from each piece's own mean.
#[test]
fn constant_channels_have_no_variance() {
    for device in few_devices() {
        let device = &device.with(|options| options.config = 1);
        let case = ([4, 7, 9, 64], [72, 1], [1, 0, 1]);
        let x = Tensor::full(&case.0, 2.0, DType::Bf16, device).unwrap();
        let w: Vec<f64> = (0..72 * 64).map(|i| (i / 64 % 9) as f64 - 4.0).collect();
        let w = common::of_dtype(&w, &[72, 1, 1, 64], DType::Bf16, device);
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::Bf16, device).unwrap();
        let got = normalized(case, &[x, w, zeros(&[72]), zeros(&output(case))], 2, true, device).unwrap();
        let want: Vec<f64> = (0..144).map(|i| 128.0 * (f64::from(i % 72 % 9) - 4.0)).collect();
        assert_eq!(wide(&got[0]), want, "{device}");
        assert!(wide(&got[1]).iter().all(|&variance| variance == 0.0), "{device}");
    }
}

/// y and the gradients of x and w of a convolution with a batch norm by given statistics behind it, in one pass or two.
fn by_given(case: Case, residual: bool, fused: bool, device: &Device) -> Result<Vec<Tensor>> {
    let mut rng = Rng(91);
    let tape = Tape::new(device);
    let mut real = |shape: &[usize], dtype| rng.reals(shape, dtype, device);
    let [k, r] = case.1;
    let (x, w) = (tape.variable(real(&case.0, DType::Bf16)), tape.variable(real(&[k, r, r, case.0[3]], DType::Bf16)));
    let other = tape.variable(real(&output(case), DType::Bf16));
    let variance = Tensor::full(&[k], 1.5, DType::F32, device).unwrap();
    let mean = real(&[k], DType::F32);
    let [scale, shift] = [(); 2].map(|()| tape.constant(real(&[k], DType::F32)));
    let dy = real(&output(case), DType::Bf16);
    let mode = BatchNormMode::Running { mean: &mean, variance: &variance, epsilon: 1e-5 };
    let norm = BatchNormSpec { mode, residual: residual.then_some(&other), relu: true, moments: None };
    let y = match fused {
        true => conv2d_batch_norm(&x, &w, None, &spec(case.2), [&scale, &shift], &norm)?.y,
        false => {
            let z = ops::conv2d(&x, &w, None, &spec(case.2))?;
            ops::batch_norm_with(&z, &scale, &shift, &norm)?.y
        }
    };
    let gradients = tape.backward_with(&y, dy)?;
    Ok([y.value().clone()].into_iter().chain([&x, &w].map(|var| gradients.get(var).unwrap().clone())).collect())
}

#[test]
fn a_batch_norm_by_given_statistics_has_the_bits_of_two_passes() {
    for device in few_devices() {
        for (case, residual) in [(KINDS[0], true), (KINDS[2], false), (KINDS[4], true)] {
            for config in 1..=CONFIGS {
                let device = &device.with(|options| options.config = config);
                let [got, want] = [true, false].map(|fused| by_given(case, residual, fused, device).unwrap());
                for (part, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_same_bits(got, want, &format!("{case:?} config {config}, part {part}"));
                }
            }
        }
    }
}

/// What the batch norm before the convolution gets: gradients of its input, scale, shift and residual.
fn before(case: Case, groups: usize, residual: bool, fused: bool, device: &Device) -> Result<Vec<Tensor>> {
    let mut rng = Rng(77);
    let tape = Tape::new(device);
    let ([k, r], c) = (case.1, case.0[3]);
    let images = [(); 2].map(|()| tape.variable(rng.integers(&case.0, DType::Bf16, device)));
    let w = tape.variable(rng.integers(&[k, r, r, c], DType::Bf16, device));
    let vectors = [(); 2].map(|()| tape.variable(rng.reals(&[c], DType::F32, device)));
    let dy = rng.integers(&output(case), DType::Bf16, device);
    let ([x, other], [scale, shift]) = (&images, &vectors);
    let mode = BatchNormMode::Batch { epsilon: 1e-5, groups };
    let norm = BatchNormSpec { mode, residual: residual.then_some(other), relu: true, moments: None };
    let y = ops::batch_norm_with(x, scale, shift, &norm)?.y;
    let y = if fused { y } else { ops::scale(&y, 1.0)? };
    let out = ops::conv2d(&y, &w, None, &spec(case.2))?;
    let gradients = tape.backward_with(&out, dy)?;
    let wanted = [x, scale, shift].into_iter().chain(residual.then_some(other));
    Ok(wanted.map(|var| gradients.get(var).unwrap().clone()).collect())
}

#[test]
fn sums_for_the_batch_norm_before_are_those_of_a_pass_over_the_gradient() {
    for (number, (case, groups)) in GROUPED.into_iter().enumerate() {
        for config in 1..=CONFIGS {
            let mut first: Option<Vec<Tensor>> = None;
            let devices = if config % 4 == 1 { devices() } else { few_devices() };
            for device in devices {
                let device = &device.with(|options| options.config = config);
                let [got, want] =
                    [true, false].map(|fused| before(case, groups, number % 2 == 0, fused, device).unwrap());
                for (part, (got, want)) in ["x", "scale", "shift", "residual"].iter().zip(got.iter().zip(&want)) {
                    let what = format!("{case:?} in {groups}, config {config}: d {part}");
                    let most = wide(want).iter().fold(0.0f64, |most, v| most.max(v.abs()));
                    match *part {
                        "shift" | "residual" => assert_same_bits(got, want, &what),
                        "scale" => assert_close(got, want, Tolerance::new(1e-5 * most, 1e-5), &what),
                        _ => assert_close(got, want, Tolerance::new(1e-3 * most, 1e-2), &what),
                    }
                }
                if device.is_emulated() {
                    let first = first.get_or_insert_with(|| got.clone());
                    first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                }
            }
        }
    }
}

/// No pass for what the convolution does on the config.
#[test]
fn the_passes_are_spared() {
    let plan = plan();
    let count = |kernel: &str| plan.as_plan().unwrap().counts().kernels.get(kernel).map_or(0, |count| count.launches);
    let plan = &plan.with(|options| options.config = 1);
    plan.as_plan().unwrap().start();
    before(GROUPED[0].0, 2, true, true, plan).unwrap();
    by_given(KINDS[0], true, true, plan).unwrap();
    assert_eq!((count("batch_norm_sums_bf16"), count("batch_norm_forward_bf16")), (0, 1));
    let launched = plan.as_plan().unwrap().counts().kernels;
    assert!(launched.keys().any(|kernel| kernel.starts_with("conv2d_wgmma_data_gradient")), "{launched:?}");
}

/// Every direction of some shapes, by some configs: whole tiles and cut ones, of both warpgroups and of each.
fn everything(device: &Device) -> Result<Vec<u8>> {
    let device = &device.with(|options| options.warpgroups = Some(true));
    let mut bytes = Vec::new();
    for config in [1, 4, 5, 9, 12] {
        let device = &device.with(|options| options.config = config);
        for case in [KINDS[0], KINDS[8]] {
            let mut rng = Rng(23);
            let inputs = draw(case, |shape| rng.reals(shape, DType::Bf16, &Device::cpu()));
            bytes.extend(bytes_of(&run(case, &inputs, device)?));
        }
    }
    Ok(bytes)
}

/// What else is done where results are stored: moments, sums, and batch norms by given statistics.
fn every_ending(device: &Device) -> Result<Vec<u8>> {
    let device = &device.with(|options| options.warpgroups = Some(true));
    let mut bytes = everything(device)?;
    for config in [1, 5, 12] {
        let device = &device.with(|options| options.config = config);
        let (case, groups) = GROUPED[0];
        let mut rng = Rng(24);
        let inputs = draw(case, |shape| rng.reals(shape, DType::Bf16, &Device::cpu()));
        bytes.extend(bytes_of(&normalized(case, &inputs, groups, true, device)?));
        bytes.extend(bytes_of(&before(case, groups, true, true, device)?));
        for residual in [true, false] {
            bytes.extend(bytes_of(&by_given(case, residual, true, device)?));
        }
    }
    // Two tiles with enough K tiles for many units: a block has several, and tells its producer of each which blocks it stores.
    for config in [2, 5, 8] {
        let device = &device.with(|options| options.config = config);
        bytes.extend(bytes_of(&before(([2, 9, 11, 136], [136, 3], [1, 1, 1]), 1, true, true, device)?));
    }
    Ok(bytes)
}

#[test]
fn every_wait_and_fence_of_the_main_loop_is_needed() {
    if common::gpu_alone() {
        return;
    }
    bicl_emulator::check_barriers("kernels/include/conv_wgmma.cuh", everything).unwrap();
}

#[test]
fn every_wait_and_fence_of_the_results_is_needed() {
    if common::gpu_alone() {
        return;
    }
    bicl_emulator::check_barriers("kernels/include/conv_wgmma_epilogue_loads.cuh", every_ending).unwrap();
    bicl_emulator::check_barriers("kernels/include/conv_wgmma_fixup.cuh", every_ending).unwrap();
    bicl_emulator::check_barriers("kernels/include/conv_wgmma_epilogue.cuh", every_ending).unwrap();
}

#[test]
fn every_barrier_of_the_sums_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let (case, groups) = GROUPED[0];
    let run = |device: &Device| {
        let device = &device.with(|options| options.warpgroups = Some(false));
        Ok(bytes_of(&before(case, groups, true, true, device)?))
    };
    bicl_emulator::check_barriers("kernels/include/conv_norm_sums.cuh", run).unwrap();
}

#[test]
fn shared_memory_has_no_bank_conflicts() {
    if common::gpu_alone() {
        return;
    }
    let used = bicl_emulator::bank_use(|schedule| {
        every_ending(&bicl_emulator::device_with(schedule)).unwrap();
    });
    let used: Vec<_> = used.iter().filter(|used| used.file.contains("conv_")).collect();
    assert!(used.iter().any(|used| used.file.contains("conv_wgmma_epilogue")));
    used.iter().for_each(|used| assert_eq!(used.wavefronts, used.least, "{used}"));
}
