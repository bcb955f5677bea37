//! Launches of `kernels/calibration.cu`.

use super::{DomainPrototypes, OP};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, OptIn, Out, Real, Val},
};

kernels! { "calibration";
    /// rho + xi.
    fn calibrate<T in f32 | f64>(xi: In<T>, rho: In<T>, out: Out<T>, block: Val<i32>, count: Val<i32>);
    /// xi towards the difference of the prototypes.
    fn update_calibration<T in f32 | f64>(
        xi: Inout<T>, rho_s: In<T>, rho_t: OptIn<T>, counts_s: In<u32>, counts_t: OptIn<u32>, losses: OptIn<f32>,
        keep: Val<T>, take: Val<T>, pairs: Val<i32>, classes: Val<i32>, depth: Val<i32>, loss_count: Val<i32>);
}

pub(super) fn add<T: Element>(xi: &Tensor, rho: &Tensor, out: &mut Tensor) -> Result<()> {
    let (launch, block, count) = (Launch::linear(OP, out.len())?, xi.len() as i32, out.len() as i32);
    // SAFETY: rho and out hold `count` elements, a multiple of xi's `block`; the launch covers them.
    unsafe { calibrate::<T>(xi.device(), launch, xi, rho, out, block, count) }
}

pub(super) fn update<T: Real>(
    xi: &mut Tensor,
    from: &DomainPrototypes,
    momentum: f64,
    losses: Option<&Tensor>,
) -> Result<()> {
    let (device, launch) = (xi.device().clone(), Launch::linear(OP, xi.len())?);
    let [pairs, classes, depth] = from.extents.map(|extent| extent as i32);
    let (keep, take, loss_count) = (T::of(momentum), T::of(1.0 - momentum), losses.map_or(0, Tensor::len) as i32);
    let [(rho_s, rho_t), (counts_s, counts_t)] =
        [&from.vectors, &from.counts].map(|halves| (&halves.first, halves.second.as_ref()));
    // SAFETY: the operation checked all shapes; a thread an element of xi.
    unsafe {
        update_calibration::<T>(
            &device, launch, xi, rho_s, rho_t, counts_s, counts_t, losses, keep, take, pairs, classes, depth,
            loss_count,
        )
    }
}
