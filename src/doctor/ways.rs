//! Every way that a GPU may take for a convolution in bf16, on a shape that gives each block many tiles, against products by warps on
//! the same GPU: the CPU would take too long.

use std::{cell::OnceCell, rc::Rc};

use super::{
    check::{Check, Trouble},
    compare::{Bound, Inputs, expect},
    convolution::{Direction, Problem, Shape},
};
use crate::{DType, Device, Result, Tensor};

/// As many ways as any product of the network has.
pub const WAYS: usize = 15;

/// A layer of the published network: 33,856 pixels, 265 tiles of 128 x 256.
const ON_A_GPU: Shape = ([4, 92, 92, 256], [256, 3], [1, 2, 2]);
/// Several tiles for each of the emulator's few multiprocessors.
const EMULATED: Shape = ([1, 20, 15, 72], [136, 3], [1, 2, 2]);

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
    // `Check::run` has switched warpgroups off.
    if reference.get().is_none() {
        let _ = reference.set(Reference::new(device)?);
    }
    let Some(Reference { problem, results }) = reference.get() else {
        return Err(Trouble::Wrong("there is nothing to compare with".into()));
    };
    device.set_warpgroup_products(true);
    device.force_way(way);
    for (direction, want) in Direction::ALL.into_iter().zip(results) {
        expect(direction.name(), &problem.run(direction)?, want, Bound::Exact)?;
    }
    let by = if device.has_warpgroup_products() { "warpgroups" } else { "warps" };
    Ok(format!("by {by}: forward and both gradients exact"))
}

pub(super) fn checks() -> Vec<Check> {
    let reference: Rc<OnceCell<Reference>> = Rc::default();
    let way = |way: usize| {
        let reference = reference.clone();
        let name = if way == 0 { "conv, built-in way".to_owned() } else { format!("conv, way {way}") };
        Check::new("ways", name, super::NO_WARPGROUPS, move |device| check(way, &reference, device))
    };
    (0..=WAYS).map(way).collect()
}
