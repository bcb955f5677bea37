//! The contrastive loss: against its definition at full resolution (docs/method.md, "The two contrastive terms"), known
//! cases, gradients, kernels.

use crate::common::golden::Golden;
use crate::common::{
    self, Rng, all_devices, assert_same_bits, bytes_of, check_devices_at, check_gradients, of_dtype,
    value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops,
};
use ops::Prototypes;
use proptest::prelude::*;

/// Features [N,h,w,d], the features' and the other domain's labels [N,H,W], and the other domain's features.
#[derive(Clone, Debug)]
struct Case {
    extents: [usize; 6], // N, h, w, d, H, W
    classes: usize,
    temperature: f64,
    features: Vec<f64>,
    labels: Vec<u8>,
    other_features: Vec<f64>,
    other_labels: Vec<u8>,
}

impl Case {
    fn random(seed: u64, extents: [usize; 6], classes: usize) -> Self {
        let mut rng = Rng(seed);
        let [n, h, w, d, rows, columns] = extents;
        let mut reals = |count| (0..count).map(|_| rng.symmetric()).collect::<Vec<_>>();
        let (features, other_features) = (reals(n * h * w * d), reals(n * h * w * d));
        let mut labels = || wide(&rng.labels(&[n * rows * columns], classes, 4, &Device::cpu()));
        let bytes = |labels: Vec<f64>| labels.into_iter().map(|label| label as u8).collect();
        let (labels, other_labels) = (bytes(labels()), bytes(labels()));
        Case { extents, classes, temperature: 0.1, features, labels, other_features, other_labels }
    }

    fn inputs(&self, dtype: DType, device: &Device) -> [Tensor; 2] {
        let [n, h, w, d, ..] = self.extents;
        [&self.features, &self.other_features].map(|data| of_dtype(data, &[n, h, w, d], dtype, device))
    }

    fn label_maps(&self, device: &Device) -> [Tensor; 2] {
        let [n, _, _, _, rows, columns] = self.extents;
        [&self.labels, &self.other_labels]
            .map(|labels| Tensor::from_slice(labels, &[n, rows, columns], device).unwrap())
    }

    /// Prototypes of the other domain, then the loss of this one's pixels against them.
    fn loss(&self, vars: &[Var]) -> Result<Var> {
        let [_, h, w, ..] = self.extents;
        let device = vars[0].value().device();
        let [labels, other_labels] = self.label_maps(device);
        let small = ops::resize_labels_nearest(&labels, h, w)?;
        let own = ops::masked_average_pool(&vars[0].detach(), &small, self.classes)?;
        let small = ops::resize_labels_nearest(&other_labels, h, w)?;
        let other = ops::masked_average_pool(&vars[1], &small, self.classes)?;
        let overlap = ops::class_overlap(&own.counts, &other.counts)?;
        ops::contrastive_loss(&vars[0], &labels, &other, &overlap, self.temperature)
    }

    /// docs/method.md, "The two contrastive terms", to the letter: every full-resolution label pixel with its
    /// own softmax over all classes.
    fn reference(&self) -> f64 {
        let [n, h, w, d, rows, columns] = self.extents;
        let small = |labels: &[u8], pair: usize, y: usize, x: usize| {
            labels[(pair * rows + y * rows / h) * columns + x * columns / w]
        };
        let mut total = 0.0;
        for pair in 0..n {
            let mut rho = vec![vec![0.0; d]; self.classes];
            let (mut own, mut other) = (vec![0; self.classes], vec![0; self.classes]);
            for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                let cell = (pair * h + y) * w + x;
                if let Some(count) = own.get_mut(usize::from(small(&self.labels, pair, y, x))) {
                    *count += 1;
                }
                let label = usize::from(small(&self.other_labels, pair, y, x));
                if label < self.classes {
                    other[label] += 1;
                    (0..d).for_each(|k| rho[label][k] += self.other_features[cell * d + k]);
                }
            }
            for (rho, &count) in rho.iter_mut().zip(&other) {
                rho.iter_mut().for_each(|rho| *rho /= f64::from(count.max(1)));
            }
            let (mut sum, mut weight) = (0.0, 0.0);
            for (qy, qx) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                let label = usize::from(self.labels[(pair * rows + qy) * columns + qx]);
                if label >= self.classes || own[label] == 0 || other[label] == 0 {
                    continue;
                }
                let cell = (pair * h + qy * h / rows) * w + qx * w / columns;
                let f = &self.features[cell * d..][..d];
                let norm = |v: &[f64]| {
                    let largest = v.iter().fold(1e-300f64, |m, x| m.max(x.abs()));
                    (largest * v.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt()).max(1e-12)
                };
                let s = |class: usize| -> f64 {
                    if other[class] == 0 {
                        return -1.0;
                    }
                    let (u, v) = (norm(f), norm(&rho[class]));
                    f.iter().zip(&rho[class]).map(|(f, rho)| (f / u) * (rho / v)).sum()
                };
                let z: Vec<f64> = (0..self.classes).map(|class| s(class) / self.temperature).collect();
                let largest = z.iter().copied().fold(f64::MIN, f64::max);
                let log_sum = largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
                sum += log_sum - z[label];
                weight += 1.0;
            }
            total += if weight > 0.0 { sum / weight } else { 0.0 };
        }
        total / n as f64
    }
}

#[test]
fn a_known_case() {
    // One cell per label pixel, prototypes e0 and e1, similarities 0.6 and 0.8 for the one counted pixel.
    for device in all_devices() {
        let tape = Tape::new(&device);
        let f = |data: Vec<f32>, shape: &[usize]| Tensor::from_vec(data, shape, &device).unwrap();
        let u8s = |data: Vec<u8>, shape: &[usize]| Tensor::from_vec(data, shape, &device).unwrap();
        let other = tape.variable(f(vec![2.0, 0.0, 0.0, 5.0], &[1, 1, 2, 2]));
        let prototypes = ops::masked_average_pool(&other, &u8s(vec![0, 1], &[1, 1, 2]), 3).unwrap();
        let features = tape.variable(f(vec![3.0, 4.0, 7.0, 0.0], &[1, 1, 2, 2]));
        let overlap = u8s(vec![1, 1, 0], &[1, 3]);
        let labels = u8s(vec![1, 255], &[1, 1, 2]);
        let loss = ops::contrastive_loss(&features, &labels, &prototypes, &overlap, 0.5).unwrap();
        let terms = [0.6f64 / 0.5, 0.8 / 0.5, -1.0 / 0.5].map(f64::exp);
        let expected = -(terms[1] / terms.iter().sum::<f64>()).ln();
        assert!((loss.value().item().unwrap() - expected).abs() < 1e-6, "on {device}");
        let gradients = tape.backward(&loss).unwrap();
        let df = wide(gradients.get(&features).unwrap());
        // dL/ds0 = softmax_0 / tau; ds0/df = (e0 - 0.6 f^) / 5, ds1/df = (e1 - 0.8 f^) / 5.
        let softmax = terms.map(|term| term / terms.iter().sum::<f64>());
        let (g0, g1) = (softmax[0] / 0.5, (softmax[1] - 1.0) / 0.5);
        let expected = [
            (g0 * (1.0 - 0.36) - g1 * 0.48) / 5.0, //
            (-g0 * 0.48 + g1 * (1.0 - 0.64)) / 5.0,
            0.0,
            0.0,
        ];
        for (got, want) in df.iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{df:?} on {device}, not {expected:?}");
        }
    }
}

#[test]
fn nothing_counted_is_zero() {
    for device in all_devices() {
        let all_ignored = Case { labels: vec![255; 2 * 7 * 9], ..Case::random(1, [2, 3, 4, 5, 7, 9], 4) };
        let no_overlap = Case {
            labels: vec![0; 2 * 7 * 9],
            other_labels: vec![1; 2 * 7 * 9],
            ..Case::random(2, [2, 3, 4, 5, 7, 9], 4)
        };
        for case in [all_ignored, no_overlap] {
            let (loss, gradients) = value_and_gradients(|v| case.loss(v), &case.inputs(DType::F32, &device), None);
            assert_eq!(wide(&loss), [0.0]);
            assert!(gradients.iter().all(|gradient| wide(gradient).iter().all(|&g| g == 0.0)), "on {device}");
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let case = Case::random(3, [1, 2, 2, 3, 4, 4], 2);
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let features = tape.variable(case.inputs(DType::F32, &device)[0].clone());
    let labels = Tensor::from_vec(vec![0u8; 4], &[1, 2, 2], &device).unwrap();
    let prototypes = ops::masked_average_pool(&features, &labels, 2).unwrap();
    let overlap = prototypes.present().unwrap();
    let message = |labels: &Tensor, overlap: &Tensor, temperature: f64| {
        ops::contrastive_loss(&features, labels, &prototypes, overlap, temperature).err().unwrap().to_string()
    };
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(&labels, &overlap, temperature).contains("temperature"));
    }
    assert!(message(&overlap, &overlap, 0.1).contains("3 dimensions"));
    assert!(message(&labels, &labels, 0.1).contains("the overlap must have shape [1, 2]"));
    let two = Tensor::from_vec(vec![0u8; 8], &[2, 2, 2], &device).unwrap();
    assert!(message(&two, &overlap, 0.1).contains("do not fit"));
}

#[test]
fn gradients_through_prototypes_and_loss_match_differences() {
    let mut rng = Rng(5);
    for (seed, extents, classes) in
        [(1, [2, 3, 4, 5, 7, 9], 3), (2, [1, 4, 3, 17, 4, 3], 5), (3, [2, 2, 3, 4, 1, 2], 2)]
    {
        let case = Case::random(seed, extents, classes);
        let inputs = case.inputs(DType::F64, &Device::cpu());
        check_gradients(|v| case.loss(v), &inputs, &mut rng, 200);
        // Both directions at once, as training has them: each feature map is pixel and prototype.
        let back = Case { labels: case.other_labels.clone(), other_labels: case.labels.clone(), ..case.clone() };
        let both = |v: &[Var]| ops::add(&case.loss(v)?, &back.loss(&[v[1].clone(), v[0].clone()])?);
        check_gradients(both, &inputs, &mut rng, 200);
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let case = Case::random(4, [2, 37, 41, 13, 90, 100], 7);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| value_and_gradients(|v| case.loss(v), &case.inputs(DType::F32, &Device::cpu()), None))
    };
    let (loss, gradients) = run(1);
    let (other, others) = run(5);
    assert_same_bits(&loss, &other, "loss");
    gradients.iter().zip(&others).for_each(|(a, b)| assert_same_bits(a, b, "gradient"));
}

/// Runs a forward and a backward pass on any device; an error instead of a panic, as barrier checks want it.
fn run_on(case: &Case, device: &Device, dtype: DType) -> Result<Vec<u8>> {
    let tape = Tape::new(device);
    let vars = case.inputs(dtype, device).map(|input| tape.variable(input));
    let loss = case.loss(&vars)?;
    let gradients = tape.backward(&loss)?;
    let [a, b] = [0, 1].map(|i| gradients.get(&vars[i]).cloned().unwrap());
    Ok(bytes_of(&[loss.value().clone(), a, b]))
}

#[test]
fn kernels_match_the_cpu() {
    // More than one tile of pixels, channels, classes and chunks; then less than one of each.
    for (extents, classes) in [
        ([2, 9, 17, 70, 30, 41], 40),
        ([1, 17, 18, 33, 60, 70], 5),
        ([2, 3, 4, 76, 25, 31], 19),
        ([1, 1, 1, 1, 1, 1], 1),
    ] {
        let case = Case::random(11, extents, classes);
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            check_devices_at(|v| case.loss(v), &case.inputs(dtype, &Device::cpu()));
        }
    }
    let many = Case::random(12, [1, 8, 9, 10, 33, 20], 255);
    check_devices_at(|v| many.loss(v), &many.inputs(DType::F32, &Device::cpu()));
}

#[test]
fn kernels_take_zero_and_huge_vectors() {
    let mut case = Case::random(13, [2, 5, 7, 40, 11, 13], 4);
    case.features.iter_mut().take(17 * 40).for_each(|x| *x *= 1e30);
    case.features[..80].fill(0.0);
    case.other_features.iter_mut().for_each(|x| *x *= 1e25);
    // Sizes so far apart have no common scale: finite gradients of the CPU's, each within its own.
    let [want, got] = [Device::cpu(), bicl_emulator::device()]
        .map(|device| value_and_gradients(|v| case.loss(v), &case.inputs(DType::F32, &device), None));
    assert!((wide(&want.0)[0] - wide(&got.0)[0]).abs() < 1e-5);
    for (want, got) in want.1.iter().zip(&got.1) {
        for (want, got) in wide(want).chunks(40).zip(wide(got).chunks(40)) {
            let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
            want.iter().zip(got).for_each(|(want, got)| assert!((want - got).abs() <= 1e-4 * size + 1e-42));
        }
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let case = Case::random(14, [2, 9, 9, 40, 20, 23], 36);
    for file in ["kernels/contrastive_loss.cu", "kernels/include/tile_product.cuh"] {
        bicl_emulator::check_barriers(file, |device| run_on(&case, device, DType::F32)).unwrap();
    }
}

#[test]
fn pytorch_agrees() {
    let golden = Golden::open("contrastive_loss");
    for name in golden.cases() {
        let case = golden.case(&name);
        for (device, dtype) in all_devices().into_iter().flat_map(|d| [(d.clone(), DType::F64), (d, DType::F32)]) {
            let tape = Tape::new(&device);
            let variable = |name: &str| tape.variable(case.real(name, dtype).to_device(&device).unwrap());
            let bytes = |name: &str| case.bytes(name).to_device(&device).unwrap();
            let (features, vectors) = (variable("features"), variable("vectors"));
            let counts = case.counts("present").to_device(&device).unwrap();
            let prototypes = Prototypes { vectors: vectors.clone(), counts };
            let loss = ops::contrastive_loss(&features, &bytes("labels"), &prototypes, &bytes("overlap"), 0.1).unwrap();
            case.expect("loss", loss.value());
            let gradients = tape.backward(&loss).unwrap();
            case.expect("dfeatures", gradients.get(&features).unwrap());
            case.expect("dvectors", gradients.get(&vectors).unwrap());
        }
    }
}

#[test]
fn pytorch_agrees_in_both_directions() {
    let golden = Golden::open("bidirectional");
    for name in golden.cases() {
        let case = golden.case(&name);
        for (device, dtype) in all_devices().into_iter().flat_map(|d| [(d.clone(), DType::F64), (d, DType::F32)]) {
            let tape = Tape::new(&device);
            let variable = |name: &str| tape.variable(case.real(name, dtype).to_device(&device).unwrap());
            let bytes = |name: &str| case.bytes(name).to_device(&device).unwrap();
            let vars = [variable("source"), variable("target")];
            let labels = [bytes("source_labels"), bytes("target_labels")];
            let [_, h, w, _] = vars[0].value().dims("test").unwrap();
            let overlap = bytes("overlap");
            let low = labels.each_ref().map(|labels| ops::resize_labels_nearest(labels, h, w).unwrap());
            case.expect("source_low", &low[0]);
            case.expect("target_low", &low[1]);
            let prototypes = [0, 1].map(|i| ops::masked_average_pool(&vars[i], &low[i], overlap.shape()[1]).unwrap());
            let shared = ops::class_overlap(&prototypes[0].counts, &prototypes[1].counts).unwrap();
            case.expect("overlap", &shared);
            let term =
                |i: usize| ops::contrastive_loss(&vars[i], &labels[i], &prototypes[1 - i], &shared, 0.1).unwrap();
            let (forward, backward) = (term(1), term(0));
            case.expect("forward", forward.value());
            case.expect("backward", backward.value());
            let scaled = ops::weighted_sum(&[(&forward, 0.1), (&backward, 0.2)]).unwrap();
            let gradients = tape.backward(&scaled).unwrap();
            case.expect("total", scaled.value());
            case.expect("dsource", gradients.get(&vars[0]).unwrap());
            case.expect("dtarget", gradients.get(&vars[1]).unwrap());
        }
    }
}

fn hold_against_reference(case: &Case, device: &Device, dtype: DType, tolerance: f64) {
    let (loss, gradients) = value_and_gradients(|v| case.loss(v), &case.inputs(dtype, device), None);
    let (got, want) = (wide(&loss)[0], case.reference());
    assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{got}, not {want}: {case:?}");
    assert!(gradients.iter().all(|gradient| wide(gradient).iter().all(|g| g.is_finite())), "{case:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Odd sizes, labels finer, coarser and not a multiple, one pixel, missing classes, zero and huge vectors.
    #[test]
    fn the_definition_at_full_resolution(
        seed in any::<u64>(),
        extents in [1usize..3, 1..7, 1..7, 1..20, 1..17, 1..17],
        classes in 1usize..6,
        scale in prop::sample::select(vec![1.0, 1e-6, 1e30]),
        zeros in any::<bool>(),
        temperature in prop::sample::select(vec![0.1, 1.0, 0.001]),
    ) {
        let mut case = Case { temperature, ..Case::random(seed, extents, classes) };
        case.features.iter_mut().for_each(|x| *x *= scale);
        if zeros {
            let depth = extents[3];
            case.features[..depth].fill(0.0);
            case.other_features.chunks_mut(depth).step_by(2).for_each(|row| row.fill(0.0));
        }
        hold_against_reference(&case, &Device::cpu(), DType::F64, 1e-10);
        // At a temperature of 0.001 the loss is a thousandfold the similarities' error.
        hold_against_reference(&case, &Device::cpu(), DType::F32, 2e-6 / temperature);
    }
}
