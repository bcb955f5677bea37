//! Training steps captured as a graph: replays must do what direct steps do, to the bit.

use crate::common::{self, Rng, all_devices, assert_same_bits, kernel_devices};
use bicl::{
    Device,
    data::Batch,
    nn::Precision,
    train::{Architecture, Config, Network, Preset, Stepper, plan_step},
};

fn batch(rng: &mut Rng, side: usize, classes: usize) -> Batch {
    Batch {
        images: (0..side * side * 3).map(|_| rng.symmetric() as f32).collect(),
        labels: (0..side * side).map(|_| if rng.below(9) == 0 { 255 } else { rng.below(classes) as u8 }).collect(),
        count: 1,
        height: side,
        width: side,
        names: Vec::new(),
        position: 0,
    }
}

fn config(precision: Precision) -> Config {
    let mut config = Preset::Miniature.config();
    config.precision = precision;
    config.model.width = 8;
    config
}

/// Devices that capture.
fn devices() -> Vec<Device> {
    all_devices().into_iter().filter(|device| !device.is_cpu()).collect()
}

#[track_caller]
fn assert_equal(a: &(Network, Stepper), b: &(Network, Stepper)) {
    for ((name, tensor), (_, other)) in a.0.parameters.iter().zip(b.0.parameters.iter()) {
        assert_same_bits(tensor, other, name);
    }
    if let (Some(a), Some(b)) = (a.1.calibration(), b.1.calibration()) {
        assert_same_bits(a, b, "calibration");
    }
}

/// Other images, another rate each step, and one step of another size, which cannot be a replay.
#[test]
fn replays_are_steps() {
    for device in devices() {
        for precision in Precision::ALL {
            let config = config(precision);
            let network = || Network::new(&config.model, precision, 3, &device).unwrap();
            let mut direct = (network(), Stepper::new().captured(false));
            let mut replayed = (network(), Stepper::new().captured(true));
            let mut rng = Rng(8);
            let mut captured = Vec::new();
            for (k, side) in [24, 24, 24, 32, 32, 24].into_iter().enumerate() {
                let pair = [(); 2].map(|()| batch(&mut rng, side, config.model.classes));
                let rate = 0.02 / (k + 1) as f64;
                let mut losses = Vec::new();
                for (network, stepper) in [&mut direct, &mut replayed] {
                    let [source, target] = pair.clone();
                    losses.push(stepper.adapt(network, &config, source, target, rate).unwrap());
                }
                assert_eq!(losses[0], losses[1], "step {k}, {precision} on {device}");
                captured.push(replayed.1.is_captured());
                assert!(!direct.1.is_captured());
            }
            assert!(!captured[0] && captured[1..].iter().all(|&captured| captured), "{captured:?}");
            assert_equal(&direct, &replayed);
        }
    }
}

#[test]
fn warm_up_steps_are_replayed_too() {
    for device in devices() {
        let config = config(Precision::Bf16);
        let network = || Network::new(&config.model, config.precision, 4, &device).unwrap();
        let mut direct = (network(), Stepper::new().captured(false));
        let mut replayed = (network(), Stepper::new().captured(true));
        let mut rng = Rng(9);
        for k in 0..3 {
            let source = batch(&mut rng, 24, config.model.classes);
            for (network, stepper) in [&mut direct, &mut replayed] {
                stepper.warmup(network, &config, source.clone(), 0.01).unwrap();
            }
            // A parameter that is replaced lies elsewhere: the next step must see it.
            if k == 1 {
                for (network, _) in [&mut direct, &mut replayed] {
                    let id = network.parameters.find("conv1.weight").unwrap();
                    let other = network.parameters.get(id).duplicate().unwrap();
                    network.parameters.set(id, other).unwrap();
                }
            }
        }
        assert_equal(&direct, &replayed);
    }
}

/// A NaN in an image: the losses say so, and nothing has changed, whether anyone looks at them or not.
#[test]
fn a_step_with_a_bad_loss_changes_nothing() {
    for device in devices().into_iter().chain([Device::cpu()]) {
        let config = config(Precision::Fp32);
        let capture = !device.is_cpu();
        let mut spoilt =
            (Network::new(&config.model, config.precision, 5, &device).unwrap(), Stepper::new().captured(capture));
        let mut clean =
            (Network::new(&config.model, config.precision, 5, &device).unwrap(), Stepper::new().captured(capture));
        let mut rng = Rng(10);
        for k in 0..4 {
            let [mut source, target] = [(); 2].map(|()| batch(&mut rng, 24, config.model.classes));
            if k == 2 {
                source.images[7] = f32::NAN;
                let losses = spoilt.1.adapt(&mut spoilt.0, &config, source, target, 0.01).unwrap();
                assert!(losses.iter().any(|(_, value)| value.is_nan()), "{losses:?}");
                continue;
            }
            spoilt.1.adapt(&mut spoilt.0, &config, source.clone(), target.clone(), 0.01).unwrap();
            clean.1.adapt(&mut clean.0, &config, source, target, 0.01).unwrap();
        }
        assert_equal(&spoilt, &clean);
    }
}

/// All losses of captured steps, and what they make of a network.
fn captured_steps(count: u32, device: &Device) -> (Vec<f64>, (Network, Stepper)) {
    let config = config(Precision::Bf16);
    let mut run = (Network::new(&config.model, config.precision, 6, device).unwrap(), Stepper::new().captured(true));
    let mut rng = Rng(11);
    let losses = (0..count).flat_map(|k| {
        let [source, target] = [(); 2].map(|()| batch(&mut rng, 16, config.model.classes));
        let rate = 0.01 * (1.0 - f64::from(k) / f64::from(count));
        let losses = run.1.adapt(&mut run.0, &config, source, target, rate).unwrap();
        losses.into_iter().map(|(_, loss)| loss).collect::<Vec<_>>()
    });
    (losses.collect(), run)
}

/// Fifty steps on one GPU, and fifteen in the emulator under different orders of the threads; with products by warps.
#[test]
fn three_runs_have_the_same_bits() {
    check_three_runs(false);
}

/// And with products by warpgroups, in the layers that are wide enough.
#[test]
fn three_runs_by_warpgroups_have_the_same_bits() {
    check_three_runs(true);
    let plan = plan_step(&config(Precision::Bf16), Architecture::Hopper).unwrap();
    assert!(plan.counts.kernels.keys().any(|kernel| kernel.starts_with("conv2d_wgmma_")), "{:?}", plan.counts.kernels);
}

fn check_three_runs(warpgroups: bool) {
    let devices = devices();
    let emulated: Vec<Device> = kernel_devices().into_iter().filter(Device::is_emulated).take(3).collect();
    let gpus = devices.into_iter().filter(Device::is_cuda).map(|device| vec![device; 3]);
    for mut devices in gpus.chain(Some(emulated).filter(|_| !common::gpu_alone())) {
        devices.iter_mut().for_each(|device| *device = device.with(|options| options.warpgroups = Some(warpgroups)));
        let steps = if devices.iter().all(Device::is_cuda) { 50 } else { 15 };
        let runs: Vec<_> = devices.iter().map(|device| captured_steps(steps, device)).collect();
        assert_eq!(runs.len(), 3);
        let (first, others) = runs.split_first().unwrap();
        assert!(first.0.len() > steps as usize && first.0.iter().all(|loss| loss.is_finite()), "{:?}", first.0);
        for other in others {
            assert_eq!(first.0, other.0, "losses");
            assert_equal(&first.1, &other.1);
        }
    }
}
