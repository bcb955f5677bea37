//! Where a Hopper GPU's copies and products put their elements: what `trainer doctor` asks a card, asked of the emulator under every
//! schedule, and of the card where there is one.

use crate::common::{bytes_of, kernel_devices};
use bicl::{
    DType, Device, Tensor,
    doctor::layouts::{Probe, probe, probes},
};

/// The devices that have warpgroup products, the emulator's told so.
fn devices() -> Vec<Device> {
    let mut devices = kernel_devices();
    devices.retain(|device| device.as_cuda().is_none_or(|cuda| cuda.compute_capability().unwrap() == (9, 0)));
    devices.iter_mut().for_each(|device| *device = device.with(|options| options.warpgroups = Some(true)));
    devices
}

#[test]
fn every_layout_is_as_the_kernels_assume() {
    for device in devices() {
        for probe in probes() {
            let cases = probe.cases(&device).unwrap();
            assert!(!cases.is_empty(), "{} asks nothing", probe.name);
            for case in cases {
                case.expect().unwrap_or_else(|trouble| panic!("{} on {device}: {trouble:?}", probe.name));
            }
        }
    }
}

#[test]
fn devices_without_warpgroup_products_refuse() {
    for device in [Device::plan(), bicl_emulator::device(), Device::cpu()] {
        let x = Tensor::zeros(&[20, 128], DType::Bf16, &device).unwrap();
        let error = probe::tma_swizzle(&x).unwrap_err().to_string();
        assert_eq!(error, format!("layouts: {device} has no warpgroup products"));
    }
    let plan = Device::plan();
    let plan = &plan.with(|options| options.warpgroups = Some(true));
    let x = Tensor::zeros(&[20, 128], DType::Bf16, plan).unwrap();
    probe::tma_swizzle(&x).unwrap();
    let counts = plan.as_plan().unwrap().counts();
    assert_eq!(counts.kernels["layout_tma_swizzle"].bytes, (20 * 128 + 16 * 64) * 2);
}

#[test]
fn every_barrier_counts() {
    let run = |device: &Device| {
        let device = &device.with(|options| options.warpgroups = Some(true));
        let mut outputs = Vec::new();
        // A graph repeats what the others do.
        for probe in probes().iter().filter(|probe: &&Probe| probe.name != "maps in a graph") {
            // One launch of each kind is enough for its barriers.
            outputs.extend(probe.cases(device)?.into_iter().take(2).map(|case| case.got));
        }
        Ok(bytes_of(&outputs))
    };
    bicl_emulator::check_barriers("kernels/layouts_sm90.cu", run).unwrap();
}
