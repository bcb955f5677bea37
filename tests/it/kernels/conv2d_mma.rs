//! Convolution on tensor cores: bf16, and f32 rounded to tf32.

use crate::common::{
    self, Rng, Tolerance, all_devices, assert_close, assert_same_bits, bytes_of, kernel_devices, of_dtype, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, Conv2dSpec},
};

/// N, H, W, C; K, R, S; the spec.
type Case = ([usize; 4], [usize; 3], Conv2dSpec);

fn case(x: [usize; 4], w: [usize; 3], stride: usize, padding: usize, dilation: usize) -> Case {
    (x, w, Conv2dSpec { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] })
}

/// One of each kind of shape, with channels in whole chunks of 16 bytes.
fn kinds() -> Vec<Case> {
    let uneven = Conv2dSpec { stride: [1, 3], padding: [2, 0], dilation: [2, 4] };
    vec![
        case([2, 5, 7, 8], [16, 3, 3], 1, 1, 1),      // odd sizes, channels below a slice
        case([1, 9, 10, 40], [72, 3, 3], 2, 1, 1),    // stride, channels off every tile
        case([1, 5, 4, 16], [24, 3, 3], 1, 24, 24),   // dilation beyond the image
        case([1, 1, 1, 32], [8, 1, 1], 1, 0, 1),      // one pixel
        case([1, 12, 13, 200], [136, 1, 1], 1, 0, 1), // more slices than stages
        case([1, 8, 6, 16], [32, 2, 2], 2, 0, 1),     // taps that no two pixels share
        case([1, 10, 9, 8], [8, 1, 1], 3, 0, 1),      // pixels that no tap hits
        case([1, 6, 5, 64], [19, 3, 3], 1, 6, 6),     // 19 filters: only the forward pass has whole chunks
        ([2, 7, 12, 8], [16, 3, 2], uneven),
    ]
}

/// Images of few channels: the stem; odd extents and an even padding; a window with room to spare; 1 channel; no padding.
fn few_channels() -> Vec<Case> {
    let uneven = Conv2dSpec { stride: [1, 4], padding: [0, 2], dilation: [3, 1] };
    vec![
        case([2, 22, 26, 3], [64, 7, 7], 2, 3, 1),
        case([1, 13, 15, 3], [16, 7, 7], 2, 3, 1),
        case([1, 9, 11, 4], [72, 5, 8], 2, 0, 1),
        ([2, 10, 13, 1], [24, 3, 3], uneven),
        case([1, 7, 9, 2], [19, 3, 3], 2, 1, 1),
    ]
}

/// Enough tiles that the large and the medium ones are chosen in every direction.
fn large_kinds() -> Vec<Case> {
    [(8, 72), (72, 8), (8, 40), (40, 8)].map(|(c, k)| case([4, 92, 92, c], [k, 1, 1], 1, 0, 1)).to_vec()
}

/// Sums of many slices and few tiles, which are cut into parts.
fn deep_kinds() -> Vec<Case> {
    let uneven = Conv2dSpec { stride: [1, 3], padding: [2, 0], dilation: [2, 4] };
    vec![
        case([1, 5, 7, 264], [40, 3, 3], 1, 1, 1),  // parts that begin inside a tap
        case([1, 9, 8, 72], [136, 3, 3], 1, 1, 1),  // enough rows and columns for the large tile
        case([1, 6, 5, 520], [19, 1, 1], 1, 0, 1),  // 19 filters: no whole chunks in y
        case([1, 9, 10, 40], [264, 3, 3], 2, 1, 1), // phases of 1, 2, 2 and 4 taps
        case([1, 10, 9, 8], [520, 1, 1], 3, 0, 1),  // pixels that no tap hits
        case([1, 2, 3, 640], [640, 1, 1], 1, 0, 1), // less than a tile
        ([1, 7, 12, 264], [264, 3, 2], uneven),
    ]
}

/// f32 means tf32.
const DTYPES: [DType; 2] = [DType::Bf16, DType::F32];

struct Problem {
    inputs: Vec<Tensor>,
    dy: Tensor,
    spec: Conv2dSpec,
}

impl Problem {
    /// On the CPU.
    fn new((x, w, spec): &Case, dtype: DType, mut draw: impl FnMut(&[usize], DType) -> Tensor) -> Self {
        let filter = [w[0], w[1], w[2], x[3]];
        let extent =
            |i: usize| (x[1 + i] + 2 * spec.padding[i] - spec.dilation[i] * (w[1 + i] - 1) - 1) / spec.stride[i] + 1;
        let output = [x[0], extent(0), extent(1), w[0]];
        let inputs = vec![draw(x, dtype), draw(&filter, dtype), draw(&w[..1], dtype)];
        Self { inputs, dy: draw(&output, dtype), spec: *spec }
    }

    fn integers(case: &Case, dtype: DType) -> Self {
        let mut rng = Rng(17);
        Self::new(case, dtype, |shape, dtype| rng.integers(shape, dtype, &Device::cpu()))
    }

    /// Output, dx, dw, db on `device`.
    fn run(&self, device: &Device) -> Result<Vec<Tensor>> {
        let tape = Tape::new(device).with_tf32();
        let variable = |tensor: &Tensor| Ok(tape.variable(tensor.to_device(device)?));
        let vars: Vec<Var> = self.inputs.iter().map(variable).collect::<Result<_>>()?;
        let y = ops::conv2d(&vars[0], &vars[1], Some(&vars[2]), &self.spec)?;
        let gradients = tape.backward_with(&y, self.dy.to_device(device)?)?;
        let all = vars.iter().map(|var| gradients.get(var).cloned().expect("a variable has a gradient"));
        Ok(std::iter::once(y.value().clone()).chain(all).collect())
    }
}

/// Small integers are exact in bf16 and tf32, and so are their sums in f32.
fn check_exact(case: &Case, devices: &[Device]) {
    for dtype in DTYPES {
        let problem = Problem::integers(case, dtype);
        let want = problem.run(&Device::cpu()).unwrap();
        for device in devices.iter().filter(|device| !device.is_cpu()) {
            let got = problem.run(device).unwrap();
            for (what, (got, want)) in ["y", "dx", "dw", "db"].iter().zip(got.iter().zip(&want)) {
                assert_close(got, want, Tolerance::EXACT, &format!("{case:?} {dtype}: {what}"));
            }
        }
    }
}

#[test]
fn small_integers_are_exact() {
    let devices = kernel_devices();
    kinds().iter().chain(&few_channels()).for_each(|case| check_exact(case, &devices));
}

#[test]
fn small_integers_are_exact_in_large_tiles() {
    let devices = all_devices();
    large_kinds().iter().for_each(|case| check_exact(case, &devices));
}

/// As many configs as a GPU would time: other tiles, numbers of ranges, and splits where sums are long. No problem has more.
const CONFIGS: usize = 12;
const WAYS_OF_LONG_SUMS: usize = 24;

#[test]
fn every_config_is_exact_on_small_integers() {
    let devices = all_devices();
    for config in 0..=WAYS_OF_LONG_SUMS {
        let devices: Vec<Device> =
            devices.iter().map(|device| device.with(|options| options.config = config)).collect();
        deep_kinds().iter().for_each(|case| check_exact(case, &devices));
        if config <= CONFIGS {
            kinds().iter().chain(&few_channels()).for_each(|case| check_exact(case, &devices));
        }
    }
}

/// The configs are those that are meant: each tile, whole and in parts, in both directions.
#[test]
fn every_kernel_of_parts_is_among_the_configs() {
    if common::gpu_alone() {
        return;
    }
    let plan = Device::plan();
    for config in 0..=WAYS_OF_LONG_SUMS {
        let plan = &plan.with(|options| options.config = config);
        for (case, dtype) in deep_kinds().iter().flat_map(|case| DTYPES.map(|dtype| (case, dtype))) {
            Problem::integers(case, dtype).run(plan).unwrap();
        }
    }
    let counts = plan.as_plan().unwrap().counts();
    let split: Vec<String> =
        bicl_emulator::kernels().into_iter().filter(|name| name.starts_with("conv2d_split_")).collect();
    assert_eq!(split.len(), 18);
    for kernel in split {
        assert!(counts.kernels.contains_key(&*kernel), "{kernel} is in none of the configs");
    }
    let mut depths: Vec<u32> = counts.launches.iter().map(|planned| planned.launch.grid[1]).collect();
    depths.sort_unstable();
    depths.dedup();
    assert_eq!(depths, [1, 2, 3, 4, 6, 8, 12]);
}

/// Parts are added up in order, whatever the schedule.
#[test]
fn every_config_gives_the_same_bits_again() {
    if common::gpu_alone() {
        return;
    }
    // A card has its own roundings.
    let devices: Vec<Device> = kernel_devices().into_iter().filter(Device::is_emulated).collect();
    let case = &deep_kinds()[3];
    for dtype in DTYPES {
        let mut rng = Rng(29);
        let problem = Problem::new(case, dtype, |shape, dtype| rng.reals(shape, dtype, &Device::cpu()));
        let of_config = |config: usize| {
            let mut first: Option<Vec<Tensor>> = None;
            for device in &devices {
                let device = &device.with(|options| options.config = config);
                let got = problem.run(device).unwrap();
                let first = first.get_or_insert_with(|| got.clone());
                first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, &format!("config {config}")));
            }
            // y and dx: their sums are those that are cut into parts.
            bytes_of(&first.unwrap()[..2])
        };
        let heuristic = of_config(0);
        let differs = (1..=CONFIGS).filter(|&config| of_config(config) != heuristic).count();
        assert!(differs > 0, "{dtype}: no config has another order of summation");
    }
}

/// |got - want| / |want|, Euclidean.
fn distance(got: &Tensor, want: &[f64]) -> f64 {
    let difference: f64 = wide(got).iter().zip(want).map(|(got, want)| (got - want).powi(2)).sum();
    (difference / want.iter().map(|want| want * want).sum::<f64>()).sqrt()
}

#[test]
fn reals_are_as_close_to_f64_as_their_factors_allow() {
    let case = case([2, 11, 9, 96], [72, 3, 3], 1, 2, 2);
    for (dtype, bound, least) in [(DType::Bf16, 1e-2, 1e-4), (DType::F32, 1e-3, 1e-6)] {
        let mut rng = Rng(19);
        let exact = Problem::new(&case, DType::F64, |shape, _| {
            // Numbers that the dtype holds, so that only the products are compared.
            let drawn = rng.reals(shape, dtype, &Device::cpu());
            of_dtype(&wide(&drawn), shape, DType::F64, &Device::cpu())
        });
        let cast = |tensor: &Tensor| of_dtype(&wide(tensor), tensor.shape(), dtype, &Device::cpu());
        let problem =
            Problem { inputs: exact.inputs.iter().map(cast).collect(), dy: cast(&exact.dy), spec: exact.spec };
        let want = exact.run(&Device::cpu()).unwrap();
        let mut first: Option<Vec<Tensor>> = None;
        for device in kernel_devices() {
            let got = problem.run(&device).unwrap();
            for (what, (got, want)) in ["y", "dx", "dw"].iter().zip(got.iter().zip(&want)) {
                let distance = distance(got, &wide(want));
                assert!(distance <= bound, "{dtype} {what} on {device}: {distance:e}");
                // f32 products would be nearer: the tensor cores' rounding must show.
                assert!(distance >= least, "{dtype} {what} on {device}: {distance:e} is too near");
            }
            if device.is_emulated() {
                let first = first.get_or_insert_with(|| got.clone());
                first.iter().zip(&got).for_each(|(a, b)| assert_same_bits(a, b, "schedules"));
            }
        }
    }
}

/// Where the input has another use, the kernel adds to that one's gradient: the same bits as a sum afterwards. Its last configs
/// cut the sums into parts.
#[test]
fn the_input_gradient_is_added_where_it_is_written() {
    (0..4).for_each(check_added_gradient);
}

fn check_added_gradient(config: usize) {
    let spec = Conv2dSpec { padding: [1, 1], ..Conv2dSpec::default() };
    for dtype in DTYPES {
        let mut rng = Rng(27);
        let mut draw = |shape: &[usize]| rng.reals(shape, dtype, &Device::cpu());
        let [x, w, dy] = [draw(&[2, 9, 7, 24]), draw(&[40, 3, 3, 24]), draw(&[2, 9, 7, 40])];
        let plan = Device::plan();
        let mut devices = kernel_devices();
        devices.push(plan.clone());
        for device in &devices {
            let device = &device.with(|options| options.config = config);
            let tape = Tape::new(device).with_tf32();
            let [x, w] = [&x, &w].map(|tensor| tape.variable(tensor.to_device(device).unwrap()));
            let dy = dy.to_device(device).unwrap();
            let gradient = |y: &Var| tape.backward_with(y, dy.clone()).unwrap().get(&x).unwrap().clone();
            let conv = || ops::conv2d(&x, &w, None, &spec).unwrap();
            // A second, weaker use of x, whose gradient comes first: it is recorded last.
            let other = || ops::conv2d(&ops::scale(&x, 0.37).unwrap(), &w, None, &spec).unwrap();
            let [alone, mut sum] = [gradient(&conv()), gradient(&other())];
            sum.accumulate(&alone).unwrap();
            let y = conv();
            let both = ops::add(&y, &other()).unwrap();
            plan.as_plan().unwrap().start();
            let got = gradient(&both);
            if device == &plan {
                // The one that is left adds up the gradients of w.
                let counts = plan.as_plan().unwrap().counts().kernels;
                let sums = counts.iter().filter(|(kernel, _)| kernel.starts_with("accumulate"));
                assert_eq!(sums.map(|(_, count)| count.launches).sum::<u64>(), 1, "{counts:?}");
            } else {
                assert_same_bits(&got, &sum, &format!("{dtype}"));
            }
        }
    }
}

#[test]
fn f32_stays_f32_without_leave() {
    let problem = Problem::new(&case([1, 4, 4, 8], [8, 1, 1], 1, 0, 1), DType::F32, |shape, dtype| {
        // 1 + 2^-12 is no tf32 number.
        Tensor::full(shape, 1.0 + 2.0f64.powi(-12), dtype, &Device::cpu()).unwrap()
    });
    for device in all_devices() {
        let tape = Tape::new(&device);
        let [x, w] = [0, 1].map(|i: usize| tape.constant(problem.inputs[i].to_device(&device).unwrap()));
        let y = ops::conv2d(&x, &w, None, &problem.spec).unwrap();
        assert!(wide(y.value()).iter().all(|y| *y > 8.0), "f32 was rounded on {device}");
    }
}

/// Every tile shape, in every direction.
#[test]
fn shared_memory_has_no_bank_conflicts() {
    if common::gpu_alone() {
        return;
    }
    let cases = [
        case([2, 12, 12, 40], [72, 3, 3], 1, 1, 1),
        case([1, 9, 9, 16], [24, 1, 1], 1, 0, 1),
        case([1, 9, 9, 72], [144, 1, 1], 1, 0, 1),
    ];
    let deep = case([1, 5, 7, 264], [72, 3, 3], 1, 1, 1);
    let used = bicl_emulator::bank_use(|schedule| {
        let device = bicl_emulator::device_with(schedule);
        for case in cases.iter().chain(&large_kinds()).chain(&few_channels()) {
            DTYPES.iter().for_each(|dtype| drop(Problem::integers(case, *dtype).run(&device).unwrap()));
        }
        for config in (1..=WAYS_OF_LONG_SUMS).step_by(4) {
            let device = &device.with(|options| options.config = config);
            DTYPES.iter().for_each(|dtype| drop(Problem::integers(&deep, *dtype).run(device).unwrap()));
        }
    });
    for kind in ["cp.async", "ldmatrix", "ldmatrix.trans", "load_shared", "store_shared"] {
        assert!(used.iter().any(|used| used.kind == kind && used.accesses > 100), "no {kind} was counted");
    }
    for used in used {
        assert_eq!(used.wavefronts, used.least, "{used}");
    }
}

#[test]
fn every_barrier_and_wait_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let problems = DTYPES.map(|dtype| {
        let mut rng = Rng(23);
        Problem::new(&case([1, 12, 12, 40], [72, 3, 3], 1, 1, 1), dtype, |shape, dtype| {
            rng.reals(shape, dtype, &Device::cpu())
        })
    });
    let run = |device: &Device| {
        let mut bytes = Vec::new();
        for problem in &problems {
            bytes.extend(bytes_of(&problem.run(device)?));
        }
        Ok(bytes)
    };
    bicl_emulator::check_barriers("kernels/include/conv_mma.cuh", run).unwrap();
    bicl_emulator::check_barriers("kernels/include/conv_store.cuh", run).unwrap();
}
