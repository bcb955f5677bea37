//! Every config that a GPU may take for a convolution: by warps on small shapes against the CPU, then in bf16 on one that gives each block
//! many tiles, against products by warps on the same GPU, since the CPU would take too long.

use std::{cell::OnceCell, rc::Rc};

use super::{
    check::{Check, Trouble},
    compare::{Bound, Inputs, expect},
    convolution::{Direction, Problem, Shape},
};
use crate::{DType, Device, Result, Tensor};

/// As many configs as any direction of [`ON_A_GPU`] has, by warpgroups and by warps.
const CONFIGS: usize = 24;
/// As many as any of [`DEEP`] has by warps.
const CONFIGS_OF_WARPS: usize = 24;

/// Sums of many slices and few tiles, which may be cut into parts: parts that begin inside a tap; rows and columns for the large tile;
/// 19 filters; phases of 1, 2, 2 and 4 taps; few channels in the data gradient; few in the weight gradient.
const DEEP: [Shape; 6] = [
    ([1, 5, 7, 264], [40, 3], [1, 1, 1]),
    ([1, 9, 8, 72], [136, 3], [1, 1, 1]),
    ([1, 6, 5, 520], [19, 1], [1, 0, 1]),
    ([1, 9, 10, 40], [264, 3], [2, 1, 1]),
    ([1, 5, 6, 16], [264, 3], [1, 1, 1]),
    ([1, 10, 9, 8], [40, 1], [1, 0, 1]),
];

/// A layer of the published network: 33,856 pixels, 265 tiles of 128 x 256.
const ON_A_GPU: Shape = ([4, 92, 92, 256], [256, 3], [1, 2, 2]);
/// Several tiles for the emulator's few multiprocessors, and pixels enough to cut those of the weight gradient.
const EMULATED: Shape = ([1, 22, 25, 136], [136, 2], [1, 1, 2]);

/// The problem, and y, dx and dw by warps by the heuristic.
struct Reference {
    problem: Problem,
    results: Vec<Tensor>,
}

impl Reference {
    fn new(device: &Device) -> Result<Self> {
        let mut draw = Inputs::new(41);
        let shape = if device.is_cuda() { ON_A_GPU } else { EMULATED };
        let problem = Problem::new(shape, false, |shape| draw.integers(shape, DType::Bf16))?.to_device(device)?;
        let results = Direction::ALL.iter().map(|&direction| problem.run(direction)).collect::<Result<_>>()?;
        Ok(Self { problem, results })
    }
}

fn check(config: usize, reference: &OnceCell<Reference>, device: &Device) -> Result<String, Trouble> {
    // By warps: `Check::run` has switched warpgroups off.
    if reference.get().is_none() {
        let _ = reference.set(Reference::new(device)?);
    }
    let Some(Reference { problem, results }) = reference.get() else {
        return Err(Trouble::Wrong("there is nothing to compare with".into()));
    };
    let device = device.with(|options| (options.warpgroups, options.config) = (Some(true), config));
    let problem = problem.to_device(&device)?;
    for (direction, want) in Direction::ALL.into_iter().zip(results) {
        expect(direction.name(), &problem.run(direction)?, want, Bound::Exact)?;
    }
    Ok("forward and both gradients exact".into())
}

fn check_warps(dtype: DType, direction: Direction, device: &Device) -> Result<String, Trouble> {
    for shape in DEEP {
        let mut draw = Inputs::new(43);
        let problem = Problem::new(shape, true, |shape| draw.integers(shape, dtype))?;
        let (there, want) = (problem.to_device(device)?, problem.run(direction)?);
        for config in 0..=CONFIGS_OF_WARPS {
            let there = there.to_device(&device.with(|options| options.config = config))?;
            expect(&format!("{shape:?}, config {config}"), &there.run(direction)?, &want, Bound::Exact)?;
        }
    }
    Ok(format!("{} configs on {} shapes, exact", CONFIGS_OF_WARPS + 1, DEEP.len()))
}

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, dtype) in [("conv tf32 by warps", DType::F32), ("conv bf16 by warps", DType::Bf16)] {
        for direction in Direction::ALL {
            let name = format!("{name}, {}", direction.name());
            let check = move |device: &Device| check_warps(dtype, direction, device);
            checks.push(Check::new("configs", name, super::REPORT, check));
        }
    }
    let reference: Rc<OnceCell<Reference>> = Rc::default();
    let config = |config: usize| {
        let reference = reference.clone();
        let name = if config == 0 { "conv, heuristic".to_owned() } else { format!("conv, config {config}") };
        Check::new("configs", name, super::NO_WARPGROUPS, move |device| check(config, &reference, device))
    };
    checks.extend((0..=CONFIGS).map(config));
    checks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a direction launches on an H100 in these configs.
    fn launched(direction: Direction, configs: impl Iterator<Item = usize>) -> BTreeSet<String> {
        let device = Device::plan().with(|options| options.warpgroups = Some(true));
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::Bf16, &device);
        let problem = Problem::new(ON_A_GPU, false, zeros).unwrap();
        let plan = device.as_plan().unwrap();
        plan.start();
        for config in configs {
            let device = device.with(|options| options.config = config);
            problem.to_device(&device).unwrap().run(direction).unwrap();
        }
        plan.counts()
            .launches
            .iter()
            .map(|launch| format!("{} {:?} {:?}", launch.kernel, launch.launch, launch.work))
            .collect()
    }

    #[test]
    fn there_are_no_more_configs() {
        for direction in Direction::ALL {
            let known = launched(direction, 0..=CONFIGS);
            assert!(known.len() > CONFIGS / 2, "{known:?}");
            let more = launched(direction, 0..=3 * CONFIGS);
            assert_eq!(more.len(), known.len(), "{}", direction.name());
        }
    }
}
