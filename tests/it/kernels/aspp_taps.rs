//! Atrous spatial pyramid pooling as one product of all taps (kernels/aspp_taps.cu), on the emulator, on GPUs that have products by
//! warpgroups, and on plans.

use crate::common::{self, Rng, Tolerance, assert_close, assert_same_bits, kernel_devices, wide};
use bicl::{
    DType, Device, Tensor,
    autograd::{Tape, Var},
    device::PlanCounts,
    ops::{self, AsppBranch, BatchNormMode, BatchNormSpec},
};

const BRANCHES: usize = 4;

/// N, H, W, C; K, R, S; a dilation for each branch.
type Case = ([usize; 4], [usize; 3], [usize; BRANCHES]);

/// So few channels that sums of small integers over them are exact in bf16.
const CASES: [Case; 5] = [
    ([2, 9, 7, 64], [19, 3, 3], [6, 12, 18, 24]), // the published head in small: 684 columns of 688
    ([1, 5, 37, 64], [3, 3, 3], [1, 2, 3, 100]),  // a dilation beyond the image; several runs in a row
    ([2, 5, 4, 72], [20, 1, 3], [1, 2, 3, 4]),    // taps that differ; channels off the slices
    ([1, 7, 3, 64], [7, 5, 1], [1, 2, 3, 1]),     // neighbours of different taps
    ([1, 1, 1, 64], [15, 1, 1], [1, 1, 1, 1]),    // one pixel, one tap, as few columns as warpgroups take
];

/// The built-in choice, which is no product by warpgroups for images as small as these, and two of those.
const CONFIGS: [usize; 3] = [0, 1, 4];

/// Those that run kernels, by warpgroups where they can.
fn devices() -> Vec<Device> {
    let mut devices = kernel_devices();
    devices.iter_mut().for_each(|device| *device = device.with(|options| options.warpgroups = Some(true)));
    devices
}

/// One schedule of the emulator, and GPUs.
fn few_devices() -> Vec<Device> {
    let devices = devices();
    let emulated = devices.iter().find(|device| device.is_emulated()).cloned();
    emulated.into_iter().chain(devices.into_iter().filter(Device::is_cuda)).collect()
}

/// x, the filters and the biases.
fn shapes((x, [k, r, s], _): &Case) -> Vec<Vec<usize>> {
    let mut shapes = vec![x.to_vec()];
    shapes.extend(vec![vec![*k, *r, *s, x[3]]; BRANCHES]);
    shapes.extend(vec![vec![*k]; BRANCHES]);
    shapes
}

/// Inputs and the output's gradient, on the CPU.
fn problem(case: &Case, mut draw: impl FnMut(&[usize]) -> Tensor) -> (Vec<Tensor>, Tensor) {
    let inputs = shapes(case).iter().map(|shape| draw(shape)).collect();
    let ([n, h, w, _], [k, ..], _) = case;
    (inputs, draw(&[*n, *h, *w, BRANCHES * k]))
}

fn head(v: &[Var], dilations: &[usize; BRANCHES]) -> Var {
    let branch = |b: usize| AsppBranch { filter: &v[1 + b], bias: &v[1 + BRANCHES + b], dilation: dilations[b] };
    ops::aspp(&v[0], &[0, 1, 2, 3].map(branch)).unwrap()
}

/// y, and the gradients of those inputs that `tracked` names.
fn run(
    case: &Case,
    (inputs, dy): &(Vec<Tensor>, Tensor),
    tracked: impl Fn(usize) -> bool,
    device: &Device,
) -> (Tensor, Vec<Option<Tensor>>) {
    let tape = Tape::new(device);
    let place = |(i, tensor): (usize, &Tensor)| {
        let tensor = tensor.to_device(device).unwrap();
        if tracked(i) { tape.variable(tensor) } else { tape.constant(tensor) }
    };
    let vars: Vec<Var> = inputs.iter().enumerate().map(place).collect();
    let y = head(&vars, &case.2);
    let gradients = tape.backward_with(&y, dy.to_device(device).unwrap()).unwrap();
    (y.value().clone(), vars.iter().map(|var| gradients.get(var).cloned()).collect())
}

/// y and all gradients.
fn all(case: &Case, problem: &(Vec<Tensor>, Tensor), device: &Device) -> Vec<Tensor> {
    let (y, gradients) = run(case, problem, |_| true, device);
    std::iter::once(y)
        .chain(gradients.into_iter().map(|gradient| gradient.expect("a variable has a gradient")))
        .collect()
}

/// The same on the CPU in f64.
fn exact(case: &Case, (inputs, dy): &(Vec<Tensor>, Tensor)) -> Vec<Tensor> {
    let double = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    all(case, &(inputs.iter().map(double).collect(), double(dy)), &Device::cpu())
}

#[test]
fn small_integers_are_exact() {
    for case in CASES {
        let mut rng = Rng(53);
        let problem = problem(&case, |shape| rng.integers(shape, DType::Bf16, &Device::cpu()));
        let want: Vec<Tensor> = exact(&case, &problem).iter().map(|want| want.to_dtype(DType::Bf16).unwrap()).collect();
        for device in few_devices() {
            for config in CONFIGS {
                let device = &device.with(|options| options.config = config);
                for (i, (got, want)) in all(&case, &problem, device).iter().zip(&want).enumerate() {
                    assert_close(got, want, Tolerance::EXACT, &format!("{case:?} config {config}: result {i}"));
                }
            }
        }
    }
}

#[test]
fn reals_are_as_close_to_f64_as_their_factors_allow() {
    // In one pixel the biases' gradients are exact.
    for case in &CASES[..4] {
        let mut rng = Rng(59);
        let problem = problem(case, |shape| rng.reals(shape, DType::Bf16, &Device::cpu()));
        let want = exact(case, &problem);
        for config in CONFIGS {
            let mut first: Option<Vec<Tensor>> = None;
            for device in devices() {
                let device = &device.with(|options| options.config = config);
                let got = all(case, &problem, device);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let want = wide(want);
                    let difference: f64 = wide(got).iter().zip(&want).map(|(got, want)| (got - want).powi(2)).sum();
                    let distance = (difference / want.iter().map(|want| want * want).sum::<f64>()).sqrt();
                    assert!(
                        (1e-4..=1e-2).contains(&distance),
                        "{case:?} config {config}, {i} on {device}: {distance:e}"
                    );
                }
                if device.is_emulated() {
                    let first = first.get_or_insert_with(|| got.clone());
                    first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                }
            }
        }
    }
}

/// The products of the taps are what is rounded: 1 + 2^-8 of one tap is 1 and of another's difference nothing is left, where sums in
/// f32 keep 2^-8. It tells this config from the other, which a plan alone would not say of the emulator.
#[test]
fn each_tap_is_rounded() {
    let case: Case = ([1, 1, 2, 64], [19, 1, 3], [1, 1, 1, 1]);
    // Channels 0 and 1 of both pixels; the middle tap has 1 + 2^-8 of its pixel, the right one -1 of its own.
    let ones = |at: &dyn Fn(usize) -> f64, shape: &[usize]| {
        let data: Vec<f64> = (0..shape.iter().product()).map(at).collect();
        common::of_dtype(&data, shape, DType::Bf16, &Device::cpu())
    };
    let shapes = shapes(&case);
    let mut inputs: Vec<Tensor> = shapes.iter().map(|shape| ones(&|_| 0.0, shape)).collect();
    inputs[0] = ones(&|i| if i % 64 < 2 { 1.0 } else { 0.0 }, &shapes[0]);
    let tap = |i: usize| match (i / 64 % 3, i % 64) {
        (1, 0) => 1.0,
        (1, 1) => 1.0 / 256.0,
        (2, 0) => -1.0,
        _ => 0.0,
    };
    inputs[1..=BRANCHES].fill(ones(&tap, &shapes[1]));
    let dy = ones(&|_| 0.0, &[1, 1, 2, BRANCHES * 19]);
    let problem = (inputs, dy);
    for device in devices().into_iter().filter(Device::is_emulated) {
        for warpgroups in [true, false] {
            let device = &device.with(|options| options.warpgroups = Some(warpgroups));
            let (y, _) = run(&case, &problem, |_| true, device);
            let first = if warpgroups { 0.0 } else { 1.0 / 256.0 };
            assert!(wide(&y)[..BRANCHES * 19].iter().all(|&y| y == first), "{warpgroups}: {:?}", wide(&y));
        }
    }
}

#[test]
fn only_wanted_gradients_are_made() {
    let case = CASES[2];
    let mut rng = Rng(61);
    let problem = problem(&case, |shape| rng.integers(shape, DType::Bf16, &Device::cpu()));
    for device in few_devices() {
        let whole = all(&case, &problem, &device);
        // x; the third filter and the last bias; a bias alone.
        for wanted in [&[0][..], &[3, 8], &[5]] {
            let (_, gradients) = run(&case, &problem, |i| wanted.contains(&i), &device);
            for (i, gradient) in gradients.iter().enumerate() {
                assert_eq!(gradient.is_some(), wanted.contains(&i), "gradient of parent {i} of {wanted:?}");
                if let Some(gradient) = gradient {
                    assert_same_bits(gradient, &whole[1 + i], &format!("gradient of parent {i} of {wanted:?}"));
                }
            }
        }
    }
}

/// Adds to the gradient of another use of x where it writes its own: the same bits as a sum afterwards.
#[test]
fn the_input_gradient_is_added_where_it_is_written() {
    let case = CASES[0];
    let mut rng = Rng(67);
    let (inputs, dy) = problem(&case, |shape| rng.reals(shape, DType::Bf16, &Device::cpu()));
    for device in few_devices() {
        for config in CONFIGS {
            let device = &device.with(|options| options.config = config);
            let tape = Tape::new(device);
            let vars: Vec<Var> = inputs.iter().map(|tensor| tape.variable(tensor.to_device(device).unwrap())).collect();
            let dy = dy.to_device(device).unwrap();
            let gradient = |y: &Var| tape.backward_with(y, dy.clone()).unwrap().get(&vars[0]).unwrap().clone();
            let other = || {
                let x = ops::scale(&vars[0], 0.37).unwrap();
                head(&[&[x], &vars[1..]].concat(), &case.2)
            };
            let [alone, mut sum] = [gradient(&head(&vars, &case.2)), gradient(&other())];
            sum.accumulate(&alone).unwrap();
            let y = head(&vars, &case.2);
            assert_same_bits(&gradient(&ops::add(&y, &other()).unwrap()), &sum, &format!("config {config}"));
        }
    }
}

/// Gradients of x, scale and shift of a batch norm before the head. Without `fused` an operation stands between the two that hands
/// gradients through.
fn through_norm(groups: usize, fused: bool, device: &Device) -> [Tensor; 3] {
    let case: Case = ([4, 9, 7, 64], [19, 3, 3], [1, 2, 3, 4]);
    let mut rng = Rng(71);
    let tape = Tape::new(device);
    let mut vars: Vec<Var> =
        shapes(&case).iter().map(|shape| tape.variable(rng.integers(shape, DType::Bf16, device))).collect();
    let [scale, shift] = [(); 2].map(|()| tape.variable(rng.reals(&[64], DType::F32, device)));
    let mode = BatchNormMode::Batch { epsilon: 1e-5, groups };
    let spec = BatchNormSpec { mode, residual: None, relu: true, moments: None };
    let y = ops::batch_norm_with(&vars[0], &scale, &shift, &spec).unwrap().y;
    let y = if fused { y } else { ops::scale(&y, 1.0).unwrap() };
    let x = std::mem::replace(&mut vars[0], y);
    let y = head(&vars, &case.2);
    let dy = rng.integers(y.value().shape(), DType::Bf16, device);
    let mut gradients = tape.backward_with(&y, dy).unwrap();
    [&x, &scale, &shift].map(|var| gradients.take(var).unwrap())
}

#[test]
fn sums_of_a_batch_norm_are_those_of_a_pass_over_the_gradient() {
    for groups in [1, 2, 4] {
        for config in CONFIGS {
            let mut first: Option<[Tensor; 3]> = None;
            for device in devices() {
                let device = &device.with(|options| options.config = config);
                let [got, want] = [true, false].map(|fused| through_norm(groups, fused, device));
                // Sums of integers are exact in any order; one that differs in its last bit may round a bf16 differently.
                let close = |i: usize, absolute: f64, relative: f64| {
                    let most = wide(&want[i]).iter().fold(0.0f64, |most, v| most.max(v.abs()));
                    let what = format!("{groups} groups, config {config}: {i}");
                    assert_close(&got[i], &want[i], Tolerance::new(absolute * most, relative), &what);
                };
                close(0, 1e-3, 1e-2);
                close(1, 1e-5, 1e-5);
                close(2, 0.0, 0.0);
                if device.is_emulated() {
                    let first = first.get_or_insert_with(|| got.clone());
                    first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
                }
            }
        }
    }
    let passes = |fused: bool| {
        let plan = plan(true);
        through_norm(2, fused, &plan);
        plan.as_plan().unwrap().counts().kernels.get("batch_norm_sums_bf16").map_or(0, |count| count.launches)
    };
    assert_eq!((passes(true), passes(false)), (0, 1));
}

fn plan(warpgroups: bool) -> Device {
    Device::plan().with(|options| options.warpgroups = Some(warpgroups))
}

/// What a forward and a backward pass launch.
fn launches(case: &Case, dtype: DType, warpgroups: bool, tracked: impl Fn(usize) -> bool) -> PlanCounts {
    let plan = plan(warpgroups);
    let problem = problem(case, |shape| Tensor::zeros(shape, dtype, &plan).unwrap());
    plan.as_plan().unwrap().start();
    run(case, &problem, tracked, &plan);
    plan.as_plan().unwrap().counts()
}

const MOVES: [&str; 4] = ["aspp_stack_bf16", "aspp_gather_bf16", "aspp_spread_bf16", "aspp_unstack_bf16"];

#[test]
fn the_published_head_goes_by_warpgroups() {
    let case = ([4, 92, 92, 2048], [19, 3, 3], [6, 12, 18, 24]);
    let counts = launches(&case, DType::Bf16, true, |_| true);
    for kernel in MOVES {
        assert_eq!(counts.kernels[kernel].launches, 1, "{kernel}");
    }
    for part in ["forward", "data_gradient", "weight_gradient"] {
        let prefix = format!("conv2d_wgmma_{part}_");
        let launched: u64 =
            counts.kernels.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, c)| c.launches).sum();
        // The parts of a weight gradient are added up by another launch.
        assert_eq!(launched, if part == "weight_gradient" { 2 } else { 1 }, "{part}");
    }
    assert!(!counts.kernels.keys().any(|name| name.starts_with("aspp_forward") || name.contains("mma_forward_slim")));
    // What the products cannot do without: factors and results once each, and none of the workspace.
    let [x, w, y] = [4 * 92 * 92 * 2048, 4 * 19 * 9 * 2048, 4 * 92 * 92 * 4 * 19];
    assert_eq!(counts.products, 2 * 3 * (x + w + y));
}

#[test]
fn what_warpgroups_do_not_take_goes_as_before() {
    let small = CASES[0];
    let moves = |case: &Case, dtype, warpgroups| {
        let counts = launches(case, dtype, warpgroups, |_| true);
        MOVES.iter().filter(|kernel| counts.kernels.contains_key(**kernel)).count()
    };
    assert_eq!(moves(&small, DType::Bf16, true), 4);
    assert_eq!(moves(&small, DType::Bf16, false), 0, "no warpgroups");
    assert_eq!(moves(&small, DType::F32, true), 0, "f32");
    assert_eq!(moves(&([2, 9, 7, 40], small.1, small.2), DType::Bf16, true), 0, "few channels");
    assert_eq!(moves(&([2, 9, 7, 68], small.1, small.2), DType::Bf16, true), 0, "channels off the chunks");
    assert_eq!(moves(&(small.0, [14, 1, 1], small.2), DType::Bf16, true), 0, "few columns");
}

#[test]
fn nothing_is_launched_for_gradients_that_nobody_wants() {
    let launched = |wanted: &[usize]| {
        let counts = launches(&CASES[0], DType::Bf16, true, |i| wanted.contains(&i));
        ["aspp_spread", "data_gradient", "aspp_unstack", "bias_gradient"]
            .map(|part| counts.kernels.keys().any(|name| name.contains(part)))
    };
    assert_eq!(launched(&[0]), [true, true, false, false], "x");
    assert_eq!(launched(&[2]), [true, false, true, false], "a filter");
    assert_eq!(launched(&[5]), [false, false, false, true], "a bias");
}
