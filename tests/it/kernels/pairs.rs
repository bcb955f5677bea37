//! Source and target as one batch: what kernels do in one pass, the CPU does in two.

use crate::common::{self, Rng, wide};
use bicl::{
    Device,
    adapt::{LabelSampling, PrototypeScope},
    data::Batch,
    models::FeatureKind,
    nn::{Normalization, Precision},
    train::{Architecture, Config, Network, Preset, Stepper, plan_step},
};

const SIDE: usize = 40;

fn batch(rng: &mut Rng) -> Batch {
    // Squares of a class each, in a colour that tells it.
    let label = |i: usize| ((i / SIDE / 10 * 3 + i % SIDE / 14) % 5) as u8;
    let labels: Vec<u8> = (0..2 * SIDE * SIDE).map(|i| label(i % (SIDE * SIDE))).collect();
    let images = labels.iter().flat_map(|&label| [0.5, 0.2, -0.3].map(|c| c * f32::from(label) - 0.5));
    let images = images.map(|value| value + 0.3 * rng.symmetric() as f32).collect();
    Batch { images, labels, count: 2, height: SIDE, width: SIDE, names: Vec::new(), position: 0 }
}

/// The losses of three steps, then the parameters and running statistics.
type Outcome = (Vec<f64>, Vec<(String, Vec<f64>)>);

fn run(config: &Config, device: &Device) -> Outcome {
    let mut network = Network::new(&config.model, config.precision, 3, device).unwrap();
    let (mut stepper, mut rng, mut losses) = (Stepper::new(), Rng(5), Vec::new());
    for _ in 0..3 {
        let (source, target) = (batch(&mut rng), batch(&mut rng));
        losses.extend(stepper.adapt(&mut network, config, source, target, 0.01).unwrap().into_iter().map(|(_, v)| v));
    }
    (losses, network.parameters.iter().map(|(name, tensor)| (name.to_owned(), wide(tensor))).collect())
}

fn config() -> Config {
    let mut config = Preset::Miniature.config();
    config.precision = Precision::Fp32;
    config.model.width = 4;
    config.data.batch = 2;
    config.method.transfer_threshold = 0.3;
    (config.method.forward_weight, config.method.backward_weight) = (0.1, 0.1);
    config
}

#[track_caller]
fn check(config: &Config, what: &str) {
    let (want_losses, want) = run(config, &Device::cpu());
    for device in common::all_devices().iter().filter(|device| !device.is_cpu()) {
        let (losses, got) = run(config, device);
        for (got, want) in losses.iter().zip(&want_losses) {
            assert!((got - want).abs() <= 1e-4 * want.abs().max(1e-3), "{what} on {device}: {got} is not {want}");
        }
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            let scale = want.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
            let error = got.iter().zip(want).fold(0.0f64, |most, (g, w)| most.max((g - w).abs())) / scale;
            assert!(error <= 1e-3, "{what} on {device}: {name} differs by {error:.1e}");
        }
    }
}

#[test]
fn one_batch_of_both_domains_trains_like_two() {
    for domain_statistics in [true, false] {
        let mut config = config();
        config.model.domain_statistics = domain_statistics;
        check(&config, &format!("domain statistics {domain_statistics}"));
    }
}

#[test]
fn labels_in_place_train_alike_too() {
    let mut config = config();
    config.method.label_sampling = LabelSampling::Aligned;
    // A label by transfer that rounding tips over its threshold would change all that follows.
    config.method.dynamic_labels = false;
    check(&config, "labels in place");
}

/// Fifty steps on a GPU, twenty in the emulator: each precision's losses follow those of the CPU in f32. Rounded factors part from it
/// where the loss falls fastest.
#[test]
fn every_precision_learns_alike() {
    let total = |precision: Precision, device: &Device| -> Vec<f64> {
        let steps = if device.is_emulated() { 20 } else { 50 };
        let mut config = config();
        config.precision = precision;
        let mut network = Network::new(&config.model, precision, 3, device).unwrap();
        let (mut stepper, mut rng) = (Stepper::new(), Rng(6));
        let mut step = || {
            let (source, target) = (batch(&mut rng), batch(&mut rng));
            stepper.adapt(&mut network, &config, source, target, 0.02).unwrap()[0].1
        };
        (0..steps).map(|_| step()).collect()
    };
    let want = total(Precision::Fp32, &Device::cpu());
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&want[40..]) < 0.8 * mean(&want[..10]), "the network learns: {want:?}");
    for device in common::all_devices().iter().filter(|device| !device.is_cpu()) {
        for (precision, bound) in [(Precision::Fp32, 5e-3), (Precision::Tf32, 5e-2), (Precision::Bf16, 1e-1)] {
            let got = total(precision, device);
            let errors: Vec<f64> = got.iter().zip(&want).map(|(got, want)| (got - want).abs() / want).collect();
            assert!(errors.iter().all(|error| *error <= bound), "{precision} on {device}: {errors:.5?}");
        }
    }
}

/// Where the channels suffice, products by warpgroups take the place of those by warps: the same losses within the rounding of
/// bf16, and the same bits whatever the schedule.
#[test]
fn warpgroups_train_like_warps() {
    let mut config = config();
    config.precision = Precision::Bf16;
    config.model.width = 16;
    // A label that rounding tips over a threshold would change all that follows.
    config.method.dynamic_labels = false;
    let launched = plan_step(&config, Architecture::Hopper).unwrap().counts.kernels;
    for part in ["conv2d_wgmma_forward", "conv2d_wgmma_data_gradient", "conv2d_wgmma_weight_gradient"] {
        assert!(launched.keys().any(|kernel| kernel.starts_with(part)), "no {part} in {launched:?}");
    }
    let devices = || common::kernel_devices().into_iter().enumerate().filter(|(i, device)| *i < 2 || device.is_cuda());
    let mut first: Option<Outcome> = None;
    for (_, device) in devices() {
        let device = &device.with(|options| options.warpgroups = Some(true));
        let got = run(&config, device);
        let device = &device.with(|options| options.warpgroups = Some(false));
        let (want, _) = run(&config, device);
        for (got, want) in got.0.iter().zip(&want) {
            assert!((got - want).abs() <= 3e-2 * want.abs().max(1e-2), "on {device}: {got} is not {want}");
        }
        if device.is_emulated() {
            assert_ne!(got.0, want, "sums in another order: these are other kernels");
            assert_eq!(&got, first.get_or_insert_with(|| got.clone()), "schedules");
        }
    }
}

/// What cannot go as one batch goes as two.
#[test]
fn other_networks_train_too() {
    let mut stems = config();
    stems.model.domain_stem = true;
    stems.model.domain_statistics = false;
    check(&stems, "a stem for each domain");
    let mut frozen = config();
    frozen.batch_norm.statistics = Normalization::Running;
    frozen.method.prototype_scope = PrototypeScope::Pair;
    for domain_statistics in [true, false] {
        frozen.model.domain_statistics = domain_statistics;
        check(&frozen, &format!("running statistics, by domain {domain_statistics}"));
    }
    frozen.model.feature = FeatureKind::Backbone;
    check(&frozen, "the backbone's features");
}
