//! Both contrastive terms in few launches, against the same composed of single operations on the CPU.

use crate::common::{
    self, Rng, bytes_of, check_devices_at, check_gradients, kernel_devices, value_and_gradients, wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, ContrastSpec, DomainPair, LabelSampling, PrototypeScope},
};

const SPEC: ContrastSpec = ContrastSpec {
    classes: 4,
    forward_weight: 0.1,
    backward_weight: 0.2,
    temperature: 0.1,
    transfer_threshold: Some(0.3),
    scope: PrototypeScope::Pair,
    sampling: LabelSampling::Nearest,
};

/// Inputs of a step of `pairs` pairs, on the CPU.
#[derive(Clone)]
struct Case {
    /// Of both domains, [2N,h,w,d].
    features: Tensor,
    labels: [Tensor; 2],
    xi: Option<Tensor>,
    spec: ContrastSpec,
}

impl Case {
    /// `extents`: N, h, w, d and the rows and columns of labels. Features gather around one direction a class, so that transfer
    /// finds labels far from its threshold.
    fn new(seed: u64, extents: [usize; 6], dtype: DType, spec: ContrastSpec) -> Self {
        let [n, h, w, d, rows, columns] = extents;
        let (mut rng, cpu) = (Rng(seed), Device::cpu());
        let features = rng.reals(&[2 * n, h, w, d], dtype, &cpu);
        let [source, target] = [5, 2].map(|ignore| rng.labels(&[n, rows, columns], spec.classes, ignore, &cpu));
        let xi = wide(&rng.reals(&[spec.classes, d], DType::F64, &cpu)).iter().map(|x| 0.1 * x).collect::<Vec<_>>();
        let xi = Some(common::of_dtype(&xi, &[spec.classes, d], dtype.accumulator(), &cpu));
        Self { features, labels: [source, target], xi, spec }
    }

    /// The features as one variable, or as the halves of one.
    fn inputs(&self, together: bool) -> Vec<Tensor> {
        if together {
            return vec![self.features.clone()];
        }
        let both = Tape::new(&Device::cpu()).constant(self.features.clone());
        let n = self.features.shape()[0] / 2;
        ops::split_images(&both, &[n, n]).unwrap().iter().map(|part| part.value().clone()).collect()
    }

    fn run(&self, v: &[Var]) -> Result<ops::Contrast> {
        let device = v[0].value().device();
        let features = match v {
            [both] => DomainPair::Together(both.clone()),
            _ => DomainPair::Apart([v[0].clone(), v[1].clone()]),
        };
        let labels = [self.labels[0].to_device(device)?, self.labels[1].to_device(device)?];
        let xi = self.xi.as_ref().map(|xi| xi.to_device(device)).transpose()?;
        ops::bidirectional_contrast(&features, [&labels[0], &labels[1]], xi.as_ref(), &self.spec)
    }

    fn total(&self, v: &[Var]) -> Result<Var> {
        Ok(self.run(v)?.total.expect("a weight is not 0"))
    }

    /// Terms, dynamic labels, and the calibration after the step.
    fn rest(&self, together: bool, device: &Device) -> Vec<Tensor> {
        let tape = Tape::new(device);
        let inputs = self.inputs(together);
        let v: Vec<Var> = inputs.iter().map(|input| tape.constant(input.to_device(device).unwrap())).collect();
        let contrast = self.run(&v).unwrap();
        let xi = self.xi.as_ref().map(|xi| {
            let mut xi = xi.to_device(device).unwrap();
            contrast.prototypes.update_calibration(&mut xi, 0.75, None).unwrap();
            xi
        });
        [contrast.forward, contrast.backward, contrast.dynamic_labels, xi].into_iter().flatten().collect()
    }

    #[track_caller]
    fn check(&self) {
        for together in [true, false] {
            let inputs = self.inputs(together);
            check_devices_at(|v| self.total(v), &inputs);
            let want = self.rest(together, &Device::cpu());
            for device in kernel_devices() {
                let got = self.rest(together, &device);
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(&want) {
                    let bound = if want.dtype() == DType::U8 { 0.0 } else { 2e-5 };
                    for (got, want) in wide(got).iter().zip(wide(want)) {
                        assert!((got - want).abs() <= bound * want.abs().max(1.0), "{got}, not {want} on {device}");
                    }
                }
            }
        }
    }
}

#[test]
fn kernels_match_the_single_operations() {
    for (extents, classes) in [
        ([2, 9, 17, 70, 30, 41], 40),
        ([1, 12, 11, 150, 90, 80], 5),
        ([3, 3, 4, 76, 25, 31], 19),
        ([1, 1, 1, 1, 1, 1], 1),
    ] {
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            Case::new(1, extents, dtype, ContrastSpec { classes, ..SPEC }).check();
        }
    }
}

#[test]
fn every_setting_matches() {
    let plain = Case::new(2, [2, 7, 8, 20, 51, 60], DType::F32, SPEC);
    plain.check();
    let with = |spec: ContrastSpec| Case { spec, ..plain.clone() };
    with(ContrastSpec { scope: PrototypeScope::Batch, ..SPEC }).check();
    with(ContrastSpec { sampling: LabelSampling::Aligned, ..SPEC }).check();
    with(ContrastSpec { sampling: LabelSampling::Aligned, scope: PrototypeScope::Batch, ..SPEC }).check();
    with(ContrastSpec { transfer_threshold: None, ..SPEC }).check();
    with(ContrastSpec { forward_weight: 0.0, ..SPEC }).check();
    with(ContrastSpec { backward_weight: 0.0, ..SPEC }).check();
    Case { xi: None, ..plain.clone() }.check();
    // Labels coarser than the features, so that some feature pixels have none.
    Case::new(3, [2, 9, 7, 12, 5, 4], DType::F32, SPEC).check();
}

#[test]
fn nothing_to_compare_is_zero() {
    let filled = |label: u8| Tensor::from_vec(vec![label; 2 * 20 * 22], &[2, 20, 22], &Device::cpu()).unwrap();
    let spec = ContrastSpec { transfer_threshold: None, ..SPEC };
    let plain = Case::new(4, [2, 5, 6, 8, 20, 22], DType::F32, spec);
    for labels in [[255, 255], [255, 1], [1, 255], [0, 1]].map(|labels| labels.map(filled)) {
        let case = Case { labels, ..plain.clone() };
        case.check();
        for device in kernel_devices() {
            let input = case.features.to_device(&device).unwrap();
            let (total, gradients) = value_and_gradients(|v| case.total(v), &[input], None);
            assert_eq!(wide(&total), [0.0], "on {device}");
            assert!(wide(&gradients[0]).iter().all(|&g| g == 0.0), "on {device}");
        }
    }
    // Without source labels nothing can be transferred either.
    Case { labels: [255, 255].map(filled), spec: SPEC, ..plain.clone() }.check();
    let zeros = Tensor::zeros(plain.features.shape(), DType::F32, &Device::cpu()).unwrap();
    Case { features: zeros, xi: None, ..plain }.check();
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(5);
    for scope in [PrototypeScope::Pair, PrototypeScope::Batch] {
        let case = Case::new(6, [2, 3, 4, 5, 7, 9], DType::F64, ContrastSpec { scope, ..SPEC });
        // In place of the transferred labels, which jump.
        let case = Case { spec: ContrastSpec { transfer_threshold: None, ..case.spec }, ..case };
        for together in [true, false] {
            check_gradients(|v| case.total(v), &case.inputs(together), &mut rng, 120);
        }
    }
}

/// A forward and a backward pass; an error instead of a panic, as barrier checks want it.
fn bytes(case: &Case, device: &Device) -> Result<Vec<u8>> {
    let tape = Tape::new(device);
    let features = tape.variable(case.features.to_device(device)?);
    let contrast = case.run(std::slice::from_ref(&features))?;
    let total = contrast.total.expect("a weight is not 0");
    let gradients = tape.backward(&total)?;
    let gradient = gradients.get(&features).cloned().expect("it is a variable");
    Ok(bytes_of(&[total.value().clone(), contrast.dynamic_labels.expect("transfer is on"), gradient]))
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let case = Case::new(7, [1, 18, 17, 150, 36, 40], DType::F32, SPEC);
    for file in [
        "kernels/masked_average_pool.cu",
        "kernels/contrastive_loss.cu",
        "kernels/transfer_labels.cu",
        "kernels/cosine.cu",
    ] {
        bicl_emulator::check_barriers(file, |device| bytes(&case, device)).unwrap();
    }
}

#[test]
fn bad_arguments_are_named() {
    let case = Case::new(8, [2, 2, 3, 4, 5, 6], DType::F32, SPEC);
    let message = |case: &Case| {
        let features = Tape::new(&Device::cpu()).constant(case.features.clone());
        case.run(&[features]).err().unwrap().to_string()
    };
    let cpu = Device::cpu();
    let odd = Case { features: Tensor::zeros(&[3, 2, 3, 4], DType::F32, &cpu).unwrap(), ..case.clone() };
    assert!(message(&odd).contains("no source and target of as many images"));
    let few = Tensor::zeros(&[1, 5, 6], DType::U8, &cpu).unwrap();
    let fewer = Case { labels: [case.labels[0].clone(), few], ..case.clone() };
    assert!(message(&fewer).contains("the labels must have shape"));
    let cold = Case { spec: ContrastSpec { temperature: 0.0, ..SPEC }, ..case.clone() };
    assert!(message(&cold).contains("temperature"));
    let none = Case { spec: ContrastSpec { classes: 0, ..SPEC }, ..case.clone() };
    assert!(message(&none).contains("1 to 255"));
    let narrow = Case { xi: Some(Tensor::zeros(&[4, 3], DType::F32, &cpu).unwrap()), ..case };
    assert!(message(&narrow).contains("the calibration must have shape [4, 4]"));
}
