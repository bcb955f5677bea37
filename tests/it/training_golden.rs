//! Ten steps of the whole method on the CPU in f32 against PyTorch (tools/training_golden.py): network, all loss terms,
//! dynamic labels, calibration, gradients, SGD and schedule. Weights and inputs come from the generator that the
//! script states.

use crate::common::golden::Golden;
use crate::common::{Rng, wide};
use bicl::{
    DType, Device, Tensor,
    adapt::{MethodConfig, PairOutput, adaptation_step},
    models::{Backbone, DeepLab, DeepLabConfig, FeatureKind, Layout},
    nn::{Domain, Forward, Normalization, ParameterId, Parameters, Precision, Role},
    ops::{SgdItem, SgdSpec, sgd_step},
    train::{OptimizerConfig, Schedule},
};

const SEED: u64 = 14;
const STEPS: u64 = 10;
const PAIRS: usize = 2;
const HEIGHT: usize = 49;
const WIDTH: usize = 65;
const CLASSES: usize = 7;
const BASE_RATE: f64 = 0.0003;
const OPTIMIZER: OptimizerConfig =
    OptimizerConfig { momentum: 0.9, weight_decay: 5e-4, head_multiplier: 10.0, power: 0.9, horizon: 1.2 };

/// `count` values in [-bound, bound), rounded to f32.
fn symmetric(rng: &mut Rng, count: usize, bound: f64) -> Vec<f32> {
    (0..count).map(|_| (rng.symmetric() * bound) as f32).collect()
}

/// Filters in order of their names: uniform, with He's variance over the fan-out; the head's up to 0.2.
fn fill(parameters: &mut Parameters) {
    let mut rng = Rng(SEED);
    let mut filters: Vec<ParameterId> = parameters.ids().filter(|&id| parameters.get(id).shape().len() == 4).collect();
    filters.sort_by(|&a, &b| parameters.name(a).cmp(parameters.name(b)));
    for id in filters {
        let [k, r, s, _] = parameters.get(id).dims("test").unwrap();
        let bound = match parameters.role(id) {
            Role::Head => 0.2,
            _ => (6.0 / (k * r * s) as f64).sqrt(),
        };
        let shape = parameters.get(id).shape().to_vec();
        let values = symmetric(&mut rng, shape.iter().product(), bound);
        parameters.set(id, Tensor::from_vec(values, &shape, &Device::cpu()).unwrap()).unwrap();
    }
}

/// Images [N,H,W,3] and labels [N,H,W]: a grid of 12 x 16 pixel blocks, each of one class and its colour.
fn scene(rng: &mut Rng, shift: f64) -> (Tensor, Vec<u8>) {
    let mut labels = vec![0u8; PAIRS * HEIGHT * WIDTH];
    for n in 0..PAIRS {
        for top in (0..HEIGHT).step_by(12) {
            for left in (0..WIDTH).step_by(16) {
                let class = rng.below(CLASSES) as u8;
                for y in top..(top + 12).min(HEIGHT) {
                    labels[(n * HEIGHT + y) * WIDTH..][left..(left + 16).min(WIDTH)].fill(class);
                }
            }
        }
    }
    let noise = symmetric(rng, PAIRS * HEIGHT * WIDTH * 3, 0.4);
    let colour = |label: u8, k: usize| ((usize::from(label) * (3 + 2 * k)) % CLASSES) as f64 / 3.0 - 1.0;
    let pixel = |(i, &noise): (usize, &f32)| (colour(labels[i / 3], i % 3) + shift + f64::from(noise)) as f32;
    let images: Vec<f32> = noise.iter().enumerate().map(pixel).collect();
    (Tensor::from_vec(images, &[PAIRS, HEIGHT, WIDTH, 3], &Device::cpu()).unwrap(), labels)
}

/// Turns the labels at which `ignored(y, x)` holds into 255.
fn with_ignored(mut labels: Vec<u8>, ignored: impl Fn(usize, usize) -> bool) -> Tensor {
    for (i, label) in labels.iter_mut().enumerate() {
        if ignored(i / WIDTH % HEIGHT, i % WIDTH) {
            *label = 255;
        }
    }
    Tensor::from_vec(labels, &[PAIRS, HEIGHT, WIDTH], &Device::cpu()).unwrap()
}

#[test]
fn ten_steps_match_pytorch() {
    let golden = Golden::open("training");
    let device = Device::cpu();
    let mut parameters = Parameters::new(&device);
    let config = DeepLabConfig {
        backbone: Backbone::ResNet18,
        layout: Layout::Torchvision,
        width: 8,
        stem_width: None,
        classes: CLASSES,
        feature: FeatureKind::Aspp,
        domain_stem: false,
        domain_statistics: false,
    };
    let model = DeepLab::new(&mut parameters, &config, 0).unwrap();
    fill(&mut parameters);
    let mut rng = Rng(SEED + 1);
    let (source_images, source_labels) = scene(&mut rng, 0.0);
    let (target_images, truth) = scene(&mut rng, 0.25);
    let source_labels = with_ignored(source_labels, |y, _| y < HEIGHT / 8);
    let static_labels = with_ignored(truth, |_, x| x >= WIDTH * 2 / 5);
    let method = MethodConfig { transfer_threshold: 0.4, ..MethodConfig::default() };
    let schedule = Schedule::new(&OPTIMIZER, BASE_RATE, STEPS);
    let zeros = |tensor: &Tensor| Tensor::zeros(tensor.shape(), tensor.dtype(), &device).unwrap();
    let mut momenta: Vec<Tensor> = parameters.ids().map(|id| zeros(parameters.get(id))).collect();
    let mut calibration = Tensor::zeros(&[CLASSES, 4 * CLASSES], DType::F32, &device).unwrap();

    for step in 0..STEPS {
        let pass = Forward::train(&parameters, Normalization::Batch, true, Precision::Fp32);
        let source = model.forward(&pass, &source_images, &[Domain::Source]).unwrap();
        let target = model.forward(&pass, &target_images, &[Domain::Target]).unwrap();
        let pairs = PairOutput::apart(source, target);
        let result = adaptation_step(&method, &pairs, &source_labels, &static_labels, &calibration).unwrap();
        assert_eq!(result.parts.len(), 7, "every term is there");
        for (name, value) in &result.parts {
            let want = golden.get(&format!("losses/{name}")).1[step as usize];
            let got = value.item().unwrap();
            let error = (got - want).abs() / want;
            println!("step {step}: {name} {got:.6}, relative difference {error:.1e}");
            assert!(error <= 1e-5, "step {step}: {name} is {got}, PyTorch gives {want} (relative {error:.1e})");
        }
        let mut gradients = pass.tape().backward(&result.loss).unwrap();
        let prototypes = result.calibration.expect("calibration is on");
        prototypes.update_calibration(&mut calibration, method.calibration_momentum, None).unwrap();
        drop((result.loss, pairs));
        let (gradients, statistics) = pass.finish(&mut gradients);
        let ids: Vec<ParameterId> = gradients.iter().map(|(id, _)| *id).collect();
        let multipliers: Vec<f64> = ids
            .iter()
            .map(|&id| if parameters.role(id) == Role::Head { OPTIMIZER.head_multiplier } else { 1.0 })
            .collect();
        let mut own: Vec<Tensor> = ids.iter().map(|id| momenta[id.index()].clone()).collect();
        let values = parameters.get_many_mut(&ids).unwrap();
        let mut items: Vec<SgdItem<'_>> = values
            .into_iter()
            .zip(&mut own)
            .zip(gradients.iter().zip(multipliers))
            .map(|(((value, copy), momentum), ((_, gradient), multiplier))| SgdItem {
                value,
                momentum,
                gradient,
                copy,
                multiplier,
                weight_decay: OPTIMIZER.weight_decay,
            })
            .collect();
        let rate = &Tensor::from_vec(vec![schedule.rate(step)], &[1], &device).unwrap();
        sgd_step(&mut items, &SgdSpec { momentum: OPTIMIZER.momentum, rate, found_inf: None }).unwrap();
        drop(items);
        for (id, momentum) in ids.iter().zip(own) {
            momenta[id.index()] = momentum;
        }
        statistics.apply(&mut parameters, None).unwrap();
    }

    // The end state: weights, running statistics, calibration.
    let mut compared = 0;
    for name in golden.names().filter_map(|name| name.strip_prefix("end/")) {
        let got = match name {
            "calibration" => &calibration,
            name => parameters.get(parameters.find(name).unwrap()),
        };
        let (shape, want) = golden.get(&format!("end/{name}"));
        assert_eq!(got.shape(), shape.as_slice(), "{name}");
        let scale = want.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        for (i, (got, want)) in wide(got).into_iter().zip(want).enumerate() {
            let error = (got - want).abs() / scale;
            assert!(error <= 1e-4, "{name}, element {i}: {got}, PyTorch has {want} (relative {error:.1e})");
        }
        compared += 1;
    }
    assert_eq!(compared, 7);
}
