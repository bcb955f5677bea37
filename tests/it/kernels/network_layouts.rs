//! The network in Caffe's and torchvision's layout against PyTorch, forward and backward: tests/golden/layouts.safetensors,
//! made by tools/layout_goldens.py.

use bicl::{
    Device, Tensor,
    models::{Backbone, DeepLab, DeepLabConfig, FeatureKind, Layout},
    nn::{Domain, Forward, Normalization, Parameters, Precision},
    tensor::Rng,
};

use crate::common::{all_devices, golden::Golden, wide};

const SEED: u64 = 21;
const CLASSES: usize = 5;
/// The largest difference from PyTorch, over the largest magnitude of the tensor.
const TOLERANCE: f64 = 1e-4;

fn symmetric(rng: &mut Rng, count: usize, bound: f64) -> Vec<f32> {
    (0..count).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect()
}

/// The same numbers as `fill` in tools/layout_goldens.py.
fn fill(parameters: &mut Parameters) {
    let rng = &mut Rng::new(SEED);
    let mut names: Vec<String> = parameters.iter().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in names {
        let id = parameters.find(&name).unwrap();
        let shape = parameters.get(id).shape().to_vec();
        let count = shape.iter().product();
        let values = match *shape {
            [k, r, s, _] => symmetric(rng, count, (6.0 / (k * r * s) as f64).sqrt()),
            _ if name.ends_with("running_var") || name.ends_with("weight") => {
                symmetric(rng, count, 0.5).into_iter().map(|x| 1.0 + x).collect()
            }
            _ => symmetric(rng, count, 0.2),
        };
        parameters.set(id, Tensor::from_vec(values, &shape, &Device::cpu()).unwrap()).unwrap();
    }
}

#[track_caller]
fn expect(golden: &Golden, name: &str, got: &Tensor) {
    let (shape, want) = golden.get(name);
    assert_eq!(got.shape(), shape.as_slice(), "{name}");
    let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert!(largest > 1e-3, "{name} is 0 everywhere");
    let error = wide(got).iter().zip(want).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    println!("{name} on {}: {:.1e}", got.device(), error / largest);
    assert!(error <= TOLERANCE * largest, "{name} on {}: {error:e} of {largest:e}", got.device());
}

fn matches_pytorch(case: &str, backbone: Backbone, width: usize, stem_width: usize, layout: Layout) {
    let golden = Golden::open("layouts");
    for device in all_devices() {
        let mut parameters = Parameters::new(&device);
        let config = DeepLabConfig {
            backbone,
            layout,
            width,
            stem_width: Some(stem_width),
            classes: CLASSES,
            feature: FeatureKind::Aspp,
            domain_stem: false,
            domain_statistics: false,
        };
        let model = DeepLab::new(&mut parameters, &config, 0).unwrap();
        fill(&mut parameters);
        let mut rng = Rng::new(SEED + 1);
        let image = Tensor::from_vec(symmetric(&mut rng, 45 * 59 * 3, 1.0), &[1, 45, 59, 3], &device).unwrap();
        let pass = Forward::train(&parameters, Normalization::Running, true, Precision::Fp32);
        let logits = model.forward(&pass, &image, &[Domain::Source]).unwrap().logits;
        expect(&golden, &format!("{case}/logits"), logits.value());
        let shape = logits.value().shape().to_vec();
        let seed = Tensor::from_vec(symmetric(&mut rng, logits.value().len(), 1.0), &shape, &device).unwrap();
        let mut gradients = pass.tape().backward_with(&logits, seed).unwrap();
        let (gradients, _) = pass.finish(&mut gradients);
        let prefix = format!("{case}/d");
        let mut compared = 0;
        for name in golden.names().filter_map(|name| name.strip_prefix(&prefix)) {
            let id = parameters.find(name).unwrap();
            let gradient = &gradients.iter().find(|(of, _)| *of == id).unwrap().1;
            expect(&golden, &format!("{prefix}{name}"), gradient);
            compared += 1;
        }
        assert_eq!(compared, 5);
    }
}

#[test]
fn resnet18_in_caffes_layout() {
    matches_pytorch("resnet18-caffe", Backbone::ResNet18, 4, 4, Layout::Caffe);
}

#[test]
fn resnet18_in_torchvisions_layout() {
    matches_pytorch("resnet18-torchvision", Backbone::ResNet18, 4, 4, Layout::Torchvision);
}

#[test]
fn resnet50_in_caffes_layout() {
    matches_pytorch("resnet50-caffe", Backbone::ResNet50, 4, 4, Layout::Caffe);
}

#[test]
fn resnet50_in_torchvisions_layout() {
    matches_pytorch("resnet50-torchvision", Backbone::ResNet50, 4, 4, Layout::Torchvision);
}

#[test]
fn a_stem_wider_than_its_blocks() {
    matches_pytorch("thin-resnet50-caffe", Backbone::ResNet50, 2, 6, Layout::Caffe);
}
