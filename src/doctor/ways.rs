//! Every way that a GPU may take for a convolution: by warps on small shapes against the CPU, then in bf16 on one that gives each block
//! many tiles, against products by warps on the same GPU, since the CPU would take too long.

use std::{cell::OnceCell, rc::Rc};

use super::{
    check::{Check, Trouble},
    compare::{Bound, Inputs, expect},
    convolution::{Direction, Problem, Shape},
};
use crate::{DType, Device, Result, Tensor};

/// As many ways as any direction of [`ON_A_GPU`] has, by warpgroups and by warps.
const WAYS: usize = 24;
/// As many as any of [`DEEP`] has by warps.
const WAYS_OF_WARPS: usize = 24;

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

/// The problem, and y, dx and dw by warps in the built-in way.
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

fn check(way: usize, reference: &OnceCell<Reference>, device: &Device) -> Result<String, Trouble> {
    // By warps: `Check::run` has switched warpgroups off.
    if reference.get().is_none() {
        let _ = reference.set(Reference::new(device)?);
    }
    let Some(Reference { problem, results }) = reference.get() else {
        return Err(Trouble::Wrong("there is nothing to compare with".into()));
    };
    let device = device.with(|options| (options.warpgroups, options.config) = (Some(true), way));
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
        for way in 0..=WAYS_OF_WARPS {
            let there = there.to_device(&device.with(|options| options.config = way))?;
            expect(&format!("{shape:?}, way {way}"), &there.run(direction)?, &want, Bound::Exact)?;
        }
    }
    Ok(format!("{} ways on {} shapes, exact", WAYS_OF_WARPS + 1, DEEP.len()))
}

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, dtype) in [("conv tf32 by warps", DType::F32), ("conv bf16 by warps", DType::Bf16)] {
        for direction in Direction::ALL {
            let name = format!("{name}, {}", direction.name());
            let check = move |device: &Device| check_warps(dtype, direction, device);
            checks.push(Check::new("ways", name, super::REPORT, check));
        }
    }
    let reference: Rc<OnceCell<Reference>> = Rc::default();
    let way = |way: usize| {
        let reference = reference.clone();
        let name = if way == 0 { "conv, built-in way".to_owned() } else { format!("conv, way {way}") };
        Check::new("ways", name, super::NO_WARPGROUPS, move |device| check(way, &reference, device))
    };
    checks.extend((0..=WAYS).map(way));
    checks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a direction launches on an H100 in these ways.
    fn launched(direction: Direction, ways: impl Iterator<Item = usize>) -> BTreeSet<String> {
        let device = Device::plan().with(|options| options.warpgroups = Some(true));
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::Bf16, &device);
        let problem = Problem::new(ON_A_GPU, false, zeros).unwrap();
        let plan = device.as_plan().unwrap();
        plan.start();
        for way in ways {
            let device = device.with(|options| options.config = way);
            problem.to_device(&device).unwrap().run(direction).unwrap();
        }
        plan.counts()
            .launches
            .iter()
            .map(|launch| format!("{} {:?} {:?}", launch.kernel, launch.launch, launch.work))
            .collect()
    }

    #[test]
    fn there_are_no_more_ways() {
        for direction in Direction::ALL {
            let known = launched(direction, 0..=WAYS);
            assert!(known.len() > WAYS / 2, "{known:?}");
            let more = launched(direction, 0..=3 * WAYS);
            assert_eq!(more.len(), known.len(), "{}", direction.name());
        }
    }
}
