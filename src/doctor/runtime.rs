//! What surrounds the kernels: loading them, memory, copies beside computation, graphs, timing.

use std::time::Duration;

use super::{
    check::{Check, Outcome, Trouble},
    compare::{Bound, Inputs, expect, expect_values, wide},
    convolution::{Direction, Problem},
};
use crate::{
    DType, Device, Tensor,
    device::{IMAGES, Uploader},
};

const LOADING: &str = "a kernel that does not load is damaged or was compiled for other cards, or the driver is older than the nvcc that \
                       compiled it: update the driver (CUDA 13 needs 580 or newer), or build again with tools/setup-cuda.sh";

pub(super) fn checks() -> Vec<Check> {
    let check = |name, run: fn(&Device) -> Outcome| Check::new("runtime", name, super::REPORT, run);
    vec![
        // On cards without code of their own the driver compiles all kernels here, once.
        Check::new("runtime", "kernels load", LOADING, kernels_load).within(Duration::from_secs(20)),
        check("memory", memory),
        check("uploads beside computation", uploads),
        check("read-back beside computation", read_back),
        check("graph", graph),
        check("autotuned convolution", autotuned),
    ]
}

fn is_for_hopper_alone(image: &str) -> bool {
    IMAGES.iter().any(|candidate| candidate.name == image && candidate.is_for_hopper_alone())
}

/// Every kernel that an operation declares; those for warpgroups only where there are such.
fn kernels_load(device: &Device) -> Outcome {
    let Some(cuda) = device.as_cuda() else { return Err(Trouble::Skipped("only a GPU loads kernels".into())) };
    let device = device.with(|options| options.warpgroups = Some(true));
    let here = |image: &str| device.has_warpgroup_products() || !is_for_hopper_alone(image);
    let mut count = 0;
    for declaration in super::kernel_declarations().iter().filter(|declaration| here(declaration.image)) {
        cuda.expect_kernel(declaration.image, declaration.symbol)?;
        count += 1;
    }
    Ok(format!("{count} kernels"))
}

/// Filled, copied to and fro, added up in place.
fn memory(device: &Device) -> Outcome {
    let values: Vec<f32> = (0..300_000).map(|i| i as f32).collect();
    let x = Tensor::from_slice(&values, &[values.len()], device)?;
    let mut sum = x.duplicate()?;
    sum.accumulate(&Tensor::full(&[values.len()], 0.5, DType::F32, device)?)?;
    sum.accumulate(&Tensor::zeros(&[values.len()], DType::F32, device)?)?;
    let want: Vec<f64> = values.iter().map(|&value| f64::from(value) + 0.5).collect();
    expect_values("sum", &wide(&sum)?, &want, Bound::Exact)?;
    let mut narrow = Tensor::full(&[1001], 1.5, DType::Bf16, device)?;
    narrow.accumulate(&Tensor::full(&[1001], 2.0, DType::Bf16, device)?)?;
    expect_values("sum in bf16", &wide(&narrow)?, &[3.5; 1001], Bound::Exact)?;
    Ok("fills, copies, sums".into())
}

/// Batches written one ahead reach the work that they are for.
fn uploads(device: &Device) -> Outcome {
    const LENGTH: usize = 100_000;
    let mut uploader = Uploader::new(device)?;
    let [mut input, mut total] =
        [Tensor::zeros(&[LENGTH], DType::F32, device)?, Tensor::zeros(&[LENGTH], DType::F32, device)?];
    for step in 1..=7u8 {
        let batch: Vec<f32> = (0..LENGTH).map(|i| f32::from(step) * (i % 17) as f32).collect();
        input.write_through(&mut uploader, &batch)?;
        total.accumulate(&input)?;
    }
    let want: Vec<f64> = (0..LENGTH).map(|i| 28.0 * (i % 17) as f64).collect();
    expect_values("total", &wide(&total)?, &want, Bound::Exact)?;
    Ok("7 batches through page-locked memory".into())
}

/// A copy holds what was there when it was asked for.
fn read_back(device: &Device) -> Outcome {
    let mut total = Tensor::zeros(&[5000], DType::F32, device)?;
    let one = Tensor::full(&[5000], 1.0, DType::F32, device)?;
    let mut pending = Vec::new();
    for _ in 0..5 {
        total.accumulate(&one)?;
        pending.push(total.read_later::<f32>()?);
    }
    for (step, copy) in (1u8..).zip(pending) {
        let got: Vec<f64> = copy.wait()?.into_iter().map(f64::from).collect();
        expect_values(&format!("after step {step}"), &got, &[f64::from(step); 5000], Bound::Exact)?;
    }
    Ok("5 copies, nobody waiting".into())
}

/// Captured once, replayed with other content in the same memory.
fn graph(device: &Device) -> Outcome {
    let mut draw = Inputs::new(51);
    let shape = ([1, 9, 10, 40], [72, 3], [1, 1, 1]);
    let problem = Problem::new(shape, false, |shape| draw.integers(shape, DType::Bf16))?;
    let want = problem.run(Direction::Forward)?;
    let there = problem.to_device(device)?;
    // Loads the kernels, as a capture asks for.
    expect("direct", &there.run(Direction::Forward)?, &want, Bound::Exact)?;
    let mut added = Tensor::zeros(&[4], DType::F32, device)?;
    let mut input = Tensor::zeros(&[4], DType::F32, device)?;
    added.accumulate(&input)?;
    let (graph, y) = device.capture(|| {
        added.accumulate(&input)?;
        there.run(Direction::Forward)
    })?;
    for step in 1..=3u8 {
        input.write_from(&[f32::from(step); 4])?;
        graph.replay()?;
        expect(&format!("replay {step}"), &y, &want, Bound::Exact)?;
    }
    expect_values("sums of the inputs", &wide(&added)?, &[6.0; 4], Bound::Exact)?;
    Ok("captured, replayed three times".into())
}

/// Timed when its shape is first met, and right whichever way won.
fn autotuned(device: &Device) -> Outcome {
    let device = device.with(|options| (options.autotune, options.warpgroups) = (true, Some(true)));
    if !device.autotune() {
        return Err(Trouble::Skipped("only a GPU has a clock".into()));
    }
    let mut draw = Inputs::new(52);
    let shape = ([2, 23, 19, 64], [136, 3], [1, 1, 1]);
    let problem = Problem::new(shape, false, |shape| draw.integers(shape, DType::Bf16))?;
    let there = problem.to_device(&device)?;
    for direction in Direction::ALL {
        expect(direction.name(), &there.run(direction)?, &problem.run(direction)?, Bound::Exact)?;
    }
    Ok::<_, Trouble>("timed and exact, in three directions".into())
}
