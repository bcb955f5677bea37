//! Launches of `kernels/sgd.cu`.

use half::bf16;

use super::{FINITE, OP, SgdItem};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, Val},
    with_float,
};

kernels! { "sgd";
    /// One step for one parameter.
    fn sgd_step<T in f32 | f64>(
        p: Inout<T>, m: Inout<T>, g: In<T>, momentum: Val<f64>, rate: Val<f64>, decay: Val<f64>, count: Val<i32>
    );
    /// Whether pieces hold NaN or infinities.
    fn all_finite<T in f32 | f64 | bf16>(x: In<T>, bad: Inout<u32>, offset: Val<i32>, count: Val<i32>);
}

/// Elements of a piece, as in the kernel file.
const PIECE: usize = 4096;

pub(super) fn step<T: Element>(item: &mut SgdItem<'_>, momentum: f64) -> Result<()> {
    let (device, count) = (item.value.device().clone(), item.value.len());
    let launch = Launch::linear(OP, count)?;
    let (rate, decay) = (item.learning_rate, item.weight_decay);
    // SAFETY: the caller checked that all three hold `count` elements, which the launch covers.
    unsafe {
        let (p, m, g) = (&mut *item.value, &mut *item.momentum, item.gradient);
        sgd_step::<T>(&device, launch, p, m, g, momentum, rate, decay, count as i32)
    }
}

/// All tensors, of one device, are looked at before the one wait for the answer.
pub(super) fn finite(tensors: &[&Tensor]) -> Result<bool> {
    let pieces: usize = tensors.iter().map(|tensor| tensor.len().div_ceil(PIECE)).sum();
    let Some(first) = tensors.iter().find(|tensor| !tensor.is_empty()) else { return Ok(true) };
    Launch::blocks(FINITE, pieces, 256)?;
    let mut bad = Tensor::empty(&[pieces], DType::U32, first.device())?;
    let mut offset = 0;
    for tensor in tensors.iter().filter(|tensor| !tensor.is_empty()) {
        Launch::linear(FINITE, tensor.len())?;
        let blocks = tensor.len().div_ceil(PIECE);
        let launch = Launch::blocks(FINITE, blocks, 256)?;
        let count = tensor.len() as i32;
        // SAFETY: one block a piece of the `count` elements; `bad` has room for the pieces of all tensors.
        with_float!(tensor.dtype(), FINITE, T => unsafe {
            all_finite::<T>(first.device(), launch, tensor, &mut bad, offset as i32, count)
        })?;
        offset += blocks;
    }
    Ok(bad.to_vec::<u32>()?.iter().all(|&bad| bad == 0))
}
