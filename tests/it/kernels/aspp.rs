//! Atrous spatial pyramid pooling, and the sum over its branches.

use crate::common::{
    self, Rng, Tolerance, all_devices, assert_close, bytes_of, check_devices, check_gradients, kernel_devices,
    of_dtype, value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, AsppBranch},
};

/// N, H, W, C; K, R, S; a dilation for each branch.
type Case<'a> = ([usize; 4], [usize; 3], &'a [usize]);

/// The published head in small; a dilation beyond the image; K that fills chunks; taps that differ; several ranges and tiles.
const CASES: [Case<'_>; 5] = [
    ([2, 9, 7, 16], [19, 3, 3], &[6, 12, 18, 24]),
    ([1, 5, 4, 8], [3, 3, 3], &[1, 2, 3, 100]),
    ([1, 6, 6, 40], [32, 3, 3], &[2, 1, 2, 1]),
    ([1, 4, 9, 8], [20, 1, 3], &[1, 2, 3, 4]),
    ([2, 17, 15, 72], [19, 3, 3], &[1, 2, 4, 6]),
];

/// Shapes of x, the filters and the biases.
fn shapes((x, w, dilations): &Case<'_>) -> Vec<Vec<usize>> {
    let mut shapes = vec![x.to_vec()];
    shapes.extend(dilations.iter().map(|_| vec![w[0], w[1], w[2], x[3]]));
    shapes.extend(dilations.iter().map(|_| vec![w[0]]));
    shapes
}

fn run(v: &[Var], dilations: &[usize]) -> Result<Var> {
    let (filters, biases) = v[1..].split_at(dilations.len());
    let branch = |((filter, bias), &dilation)| AsppBranch { filter, bias, dilation };
    ops::aspp(&v[0], &filters.iter().zip(biases).zip(dilations).map(branch).collect::<Vec<_>>())
}

/// Output and all gradients on `device`, with leave to use tf32.
fn all(inputs: &[Tensor], dy: &Tensor, dilations: &[usize], device: &Device) -> Result<Vec<Tensor>> {
    let tape = Tape::new(device).with_tf32();
    let variable = |tensor: &Tensor| Ok(tape.variable(tensor.to_device(device)?));
    let vars: Vec<Var> = inputs.iter().map(variable).collect::<Result<_>>()?;
    let y = run(&vars, dilations)?;
    let gradients = tape.backward_with(&y, dy.to_device(device)?)?;
    let each = vars.iter().map(|var| gradients.get(var).cloned().expect("a variable has a gradient"));
    Ok(std::iter::once(y.value().clone()).chain(each).collect())
}

/// Inputs and the output's gradient, on the CPU.
fn problem(case: &Case<'_>, mut draw: impl FnMut(&[usize]) -> Tensor) -> (Vec<Tensor>, Tensor) {
    let inputs = shapes(case).iter().map(|shape| draw(shape)).collect();
    let ([n, h, w, _], [k, ..], dilations) = case;
    (inputs, draw(&[*n, *h, *w, dilations.len() * k]))
}

/// What exact sums, rounded once, give: the CPU in f64. (The CPU rounds bf16 after each branch.)
fn exact(inputs: &[Tensor], dy: &Tensor, dilations: &[usize]) -> Vec<Tensor> {
    let double = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let inputs: Vec<Tensor> = inputs.iter().map(double).collect();
    let results = all(&inputs, &double(dy), dilations, &Device::cpu()).unwrap();
    results.iter().map(|result| result.to_dtype(dy.dtype()).unwrap()).collect()
}

#[test]
fn small_integers_are_exact_on_tensor_cores() {
    let devices = kernel_devices();
    for (case, dtype) in CASES.iter().flat_map(|case| [(case, DType::Bf16), (case, DType::F32)]) {
        let mut rng = Rng(29);
        let (inputs, dy) = problem(case, |shape| rng.integers(shape, dtype, &Device::cpu()));
        let want = exact(&inputs, &dy, case.2);
        for device in &devices {
            let got = all(&inputs, &dy, case.2, device).unwrap();
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_close(got, want, Tolerance::EXACT, &format!("{case:?} {dtype}: result {i}"));
            }
        }
    }
}

/// The large tile of the input's gradient.
#[test]
fn large_tiles_are_exact() {
    let case: Case<'_> = ([4, 92, 92, 72], [8, 1, 1], &[1, 1, 1, 1]);
    for dtype in [DType::Bf16, DType::F32] {
        let mut rng = Rng(31);
        let (inputs, dy) = problem(&case, |shape| rng.integers(shape, dtype, &Device::cpu()));
        let want = exact(&inputs, &dy, case.2);
        for device in all_devices().iter().filter(|device| !device.is_cpu()) {
            let got = all(&inputs, &dy, case.2, device).unwrap();
            got.iter().zip(&want).for_each(|(got, want)| assert_close(got, want, Tolerance::EXACT, "large"));
        }
    }
}

/// Without tensor cores, and with other numbers of branches, it is a convolution for each.
#[test]
fn other_types_and_branches_are_convolutions() {
    for case in [([1, 6, 5, 3], [5, 3, 3], &[1, 2][..]), ([1, 6, 5, 6], [4, 3, 3], &[1, 2, 3, 4])] {
        let shapes = shapes(&case);
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        check_devices(|v| run(v, case.2), &shapes, &[DType::F32, DType::F64, DType::Bf16], true);
    }
}

#[test]
fn only_wanted_gradients_are_made() {
    let case = CASES[1];
    let mut rng = Rng(37);
    let (inputs, dy) = problem(&case, |shape| rng.integers(shape, DType::Bf16, &Device::cpu()));
    for device in all_devices() {
        let tape = Tape::new(&device);
        let whole = all(&inputs, &dy, case.2, &device).unwrap();
        // The third filter and the last bias.
        let tracked = [3, 8];
        let vars: Vec<Var> = (0..inputs.len())
            .map(|i| {
                let tensor = inputs[i].to_device(&device).unwrap();
                if tracked.contains(&i) { tape.variable(tensor) } else { tape.constant(tensor) }
            })
            .collect();
        let y = run(&vars, case.2).unwrap();
        let gradients = tape.backward_with(&y, dy.to_device(&device).unwrap()).unwrap();
        for (i, var) in vars.iter().enumerate() {
            match gradients.get(var) {
                Some(gradient) if tracked.contains(&i) => {
                    assert_close(gradient, &whole[1 + i], Tolerance::EXACT, "wanted gradient")
                }
                gradient => assert!(gradient.is_none() && !tracked.contains(&i), "gradient of parent {i}"),
            }
        }
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let mut rng = Rng(41);
    let problems = [DType::Bf16, DType::F32].map(|dtype| {
        problem(&([1, 12, 12, 40], [19, 3, 3], &[1, 2, 3, 4]), |shape| rng.reals(shape, dtype, &Device::cpu()))
    });
    let run = |device: &Device| {
        let mut bytes = Vec::new();
        for (inputs, dy) in &problems {
            bytes.extend(bytes_of(&all(inputs, dy, &[1, 2, 3, 4], device)?));
        }
        Ok(bytes)
    };
    bicl_emulator::check_barriers("kernels/aspp.cu", run).unwrap();
}

#[test]
fn shared_memory_has_no_bank_conflicts() {
    if common::gpu_alone() {
        return;
    }
    let used = bicl_emulator::bank_use(|schedule| {
        let device = bicl_emulator::device_with(schedule);
        for (case, dtype) in CASES.iter().flat_map(|case| [(case, DType::Bf16), (case, DType::F32)]) {
            let mut rng = Rng(43);
            let (inputs, dy) = problem(case, |shape| rng.integers(shape, dtype, &Device::cpu()));
            all(&inputs, &dy, case.2, &device).unwrap();
        }
    });
    assert!(used.iter().any(|used| used.kind == "ldmatrix" && used.accesses > 100), "{used:?}");
    used.iter().for_each(|used| assert_eq!(used.wavefronts, used.least, "{used}"));
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(47);
    let case: Case<'_> = ([1, 4, 5, 2], [3, 3, 3], &[1, 2, 3]);
    let (inputs, _) = problem(&case, |shape| Rng(47).reals(shape, DType::F64, &Device::cpu()));
    check_gradients(|v| run(v, case.2), &inputs, &mut rng, 40);
    let groups = [rng.reals(&[1, 2, 3, 8], DType::F64, &Device::cpu())];
    check_gradients(|v| ops::sum_channel_groups(&v[0], 4), &groups, &mut rng, 60);
}

#[test]
fn groups_add_up() {
    for groups in [1, 2, 3, 6] {
        check_devices(
            |v| ops::sum_channel_groups(&v[0], groups),
            &[&[2, 3, 5, 6]],
            &[DType::F32, DType::F64, DType::Bf16],
            true,
        );
    }
    for device in all_devices() {
        let x = of_dtype(&[1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0], &[1, 1, 2, 4], DType::F32, &device);
        let seed = of_dtype(&[5.0, 6.0, 7.0, 8.0], &[1, 1, 2, 2], DType::F32, &device);
        let (y, dx) = value_and_gradients(|v| ops::sum_channel_groups(&v[0], 2), &[x], Some(&seed));
        assert_eq!(wide(&y), [11.0, 22.0, 33.0, 44.0]);
        assert_eq!(wide(&dx[0]), [5.0, 6.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0]);
    }
}

#[test]
fn bad_operands_are_refused() {
    let tape = Tape::new(&Device::cpu());
    let var = |shape: &[usize]| tape.constant(Tensor::zeros(shape, DType::F32, &Device::cpu()).unwrap());
    let x = var(&[1, 4, 4, 8]);
    let refused = |filters: &[Var], bias: &Var, dilation: usize, part: &str| {
        let branches: Vec<_> = filters.iter().map(|filter| AsppBranch { filter, bias, dilation }).collect();
        let message = ops::aspp(&x, &branches).err().expect(part).to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message:?} does not say {part:?}");
    };
    let bias = var(&[2]);
    refused(&[], &bias, 1, "at least one");
    refused(&[var(&[2, 3, 3, 8]), var(&[2, 1, 1, 8])], &bias, 1, "each filter");
    refused(&[var(&[2, 2, 3, 8])], &bias, 1, "use odd R and S");
    refused(&[var(&[2, 3, 3, 8])], &bias, 0, "at least 1");
    refused(&[var(&[2, 3, 3, 8])], &bias, usize::MAX, "32-bit");
    refused(&[var(&[2, 3, 3, 7])], &bias, 1, "8 channels");
    refused(&[var(&[2, 3, 3, 8])], &var(&[3]), 1, "bias");
    let message = ops::sum_channel_groups(&x, 3).err().expect("8 channels are no 3 groups").to_string();
    assert!(message.contains("no 3 groups"), "{message}");
    assert!(ops::sum_channel_groups(&x, 0).is_err());
}
