//! The device that counts instead of computing, and what `--profile-plan` says with it.

use crate::common::trainer::trainer;
use bicl::{
    DType, Device, Tensor,
    autograd::Tape,
    device::KernelCount,
    nn::Precision,
    ops::{self, Conv2dSpec},
    train::{
        Architecture::{Ampere, Hopper},
        Preset, plan_step,
    },
};

fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Tensor {
    Tensor::zeros(shape, dtype, device).unwrap()
}

#[test]
fn launches_and_bytes_are_counted() {
    let device = Device::plan();
    let plan = device.as_plan().unwrap();
    let tape = Tape::new(&device);
    let x = tape.constant(zeros(&[2, 8, 8, 32], DType::Bf16, &device));
    let w = tape.constant(zeros(&[64, 3, 3, 32], DType::Bf16, &device));
    plan.start();
    let spec = Conv2dSpec { padding: [1, 1], ..Conv2dSpec::default() };
    let y = ops::conv2d(&x, &w, None, &spec).unwrap();
    ops::relu(&ops::relu(&y).unwrap()).unwrap();
    let counts = plan.counts();
    let elements = 2 * 8 * 8 * 64;
    let of = |launches, elements: usize| KernelCount { launches, bytes: 2 * elements as u64 };
    assert_eq!(counts.kernels.len(), 2, "{counts:?}");
    assert_eq!(counts.kernels["conv2d_mma_forward_small_bf16"], of(1, 2 * 8 * 8 * 32 + 64 * 9 * 32 + elements));
    assert_eq!(counts.kernels["relu_forward_bf16"], of(2, 4 * elements));
    assert_eq!((counts.uploads.launches, counts.downloads.launches), (0, 0));
    assert_eq!(counts.products, 2 * (2 * 8 * 8 * 32 + 64 * 9 * 32 + elements as u64));
    // What is read back is 0, and counted.
    assert!(y.value().to_vec::<half::bf16>().unwrap().iter().all(|y| y.to_f32() == 0.0));
    assert_eq!(plan.counts().downloads, of(1, elements));
    plan.start();
    assert!(plan.counts().kernels.is_empty());
}

#[test]
fn memory_is_what_is_alive_together() {
    let device = Device::plan();
    let mega = |device: &Device| zeros(&[1 << 20], DType::F32, device);
    for _ in 0..3 {
        drop(mega(&device));
    }
    assert_eq!(device.as_plan().unwrap().peak_bytes(), 4 << 20, "a freed block is used again");
    let kept = [mega(&device), mega(&device)];
    assert_eq!(device.as_plan().unwrap().peak_bytes(), 8 << 20);
    drop(kept);
    assert_ne!(device, Device::plan(), "each plan counts for itself");
}

/// A plan launches what the emulator launches: the same kernels exist, and a step that runs there is counted here.
#[test]
fn a_step_is_counted_whole() {
    let mut config = Preset::Miniature.config();
    config.model.width = 4;
    let kernels = bicl_emulator::kernels();
    for precision in Precision::ALL {
        config.precision = precision;
        let plan = plan_step(&config, Ampere).unwrap();
        for kernel in plan.counts.kernels.keys() {
            assert!(kernels.iter().any(|known| known == kernel), "{kernel} is no kernel");
        }
        let named = |part: &str| plan.counts.kernels.keys().any(|kernel| kernel.contains(part));
        for part in ["contrastive_tiles", "segmentation_", "sgd_step", "batch_norm_backward", "update_calibration"] {
            assert!(named(part), "{precision}: no {part} in {:?}", plan.counts.kernels);
        }
        assert_eq!(named("conv2d_mma"), precision != Precision::Fp32, "{precision}");
        // One launch for all parameters, no conversion but of the images, and nothing that the host waits for.
        let launches = |part: &str| {
            let counts = plan.counts.kernels.iter().filter(|(kernel, _)| kernel.contains(part));
            counts.map(|(_, count)| count.launches).sum::<u64>()
        };
        assert_eq!(launches("sgd_steps"), 1, "{precision}");
        assert_eq!(launches("cast_"), u64::from(precision == Precision::Bf16), "{precision}");
        assert_eq!(plan.counts.downloads.launches, 0, "{precision}");
        // Parameters and momentum in f32, and something to compute with.
        assert!(plan.peak_bytes > 8 * plan.parameters, "{} {}", plan.peak_bytes, plan.parameters);
        // Each product at its least: what there is to compare is more, and not far more.
        let least = plan.least_bytes();
        assert!(least < plan.bytes() && 20 * least > plan.bytes(), "{precision}: {least} of {}", plan.bytes());
        assert_eq!(plan.counts, plan_step(&config, Ampere).unwrap().counts, "the same step costs the same");
    }
    let whole = plan_step(&config, Ampere).unwrap();
    config.method.forward_weight = 0.0;
    config.method.backward_weight = 0.0;
    config.method.dynamic_labels = false;
    let part = plan_step(&config, Ampere).unwrap();
    assert!(part.launches() < whole.launches() && part.peak_bytes <= whole.peak_bytes);
}

/// What stands between the network and its gradients, in order: no launch that another could have done.
#[test]
fn the_losses_take_few_launches() {
    let mut config = Preset::Miniature.config();
    config.model.width = 4;
    config.precision = Precision::Bf16;
    (config.method.forward_weight, config.method.backward_weight) = (0.1, 0.1);
    assert!(config.method.dynamic_labels && config.method.calibration);
    let launches = plan_step(&config, Ampere).unwrap().counts.launches;
    let names: Vec<&str> = launches.iter().map(|launch| launch.kernel).collect();
    let at = |name: &str| names.iter().position(|known| known.starts_with(name)).unwrap();
    let between = &names[at("sum_channel_groups_forward") + 1..=at("sum_channel_groups_add")];
    let want = [
        "pool_partial",
        "pool_finish",
        "transfer_tiles",
        "pool_partial",
        "pool_finish",
        "contrastive_tiles",
        "contrastive_finish",
        "segmentation_count",
        "segmentation_small",
        "segmentation_finish",
        "segmentation_gradient",
        "cosine_vectors",
        "cosine_vectors_finish",
        "cosine_features",
        "sum_channel_groups_add",
    ];
    assert_eq!(between.len(), want.len(), "{between:?}");
    assert!(between.iter().zip(want).all(|(kernel, want)| kernel.starts_with(want)), "{between:?}");
    let updates = names.iter().filter(|name| name.starts_with("update_calibration")).count();
    assert_eq!(updates, 1, "{names:?}");
}

#[test]
fn the_command_prints_what_the_library_counts() {
    let output = trainer(&["--profile-plan", "--demo", "--json", "--set", "model.width=4"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut config = Preset::Miniature.config();
    config.model.width = 4;
    let plan = plan_step(&config, Hopper).unwrap();
    assert_eq!(printed["launches"], plan.launches());
    assert_eq!(printed["bytes"], plan.bytes());
    assert_eq!(printed["least_bytes"], plan.least_bytes());
    assert_eq!(printed["peak_bytes"], plan.peak_bytes);
    let text = trainer(&["--profile-plan", "--preset", "miniature"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("sgd_steps_f32") && text.contains("peak memory"), "{text}");
    assert_eq!(trainer(&["--profile-plan", "--resume", "x"]).status.code(), Some(2));
    // For GPUs without products by warpgroups it counts other kernels; others it does not know.
    let wide = [
        "--preset",
        "paper",
        "--precision",
        "bf16",
        "--set",
        "model.backbone=resnet50",
        "--set",
        "data.crop=[168,168]",
    ];
    let kernels_for = |gpu: &str| {
        let output = trainer(&[&[&*format!("--profile-plan={gpu}")], &wide[..]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let [hopper, ampere] = ["hopper", "ampere"].map(kernels_for);
    assert!(hopper.contains("conv2d_wgmma_forward") && !ampere.contains("conv2d_wgmma"), "{hopper}\n{ampere}");
    assert!(ampere.contains("conv2d_mma_forward"), "{ampere}");
    let unknown = trainer(&["--profile-plan=volta"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("use ampere or hopper"));
}
