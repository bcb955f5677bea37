//! Launches of `kernels/cross_entropy.cu`.

use half::bf16;

use super::OP;
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "cross_entropy";
    /// The sum and the number of the labelled pixels of each block.
    fn cross_entropy_sums<T in f32 | f64 | bf16>(
        x: In<T>, labels: In<u8>, sums: Out<f64>, numbers: Out<u32>, classes: Val<i32>, count: Val<i32>);
    /// The mean, and the number of labelled pixels.
    fn cross_entropy_finish<T in f32 | f64>(
        sums: In<f64>, numbers: In<u32>, loss: Out<T>, labelled: Out<u32>, blocks: Val<i32>);
    /// (softmax - onehot) * seed / labelled.
    fn cross_entropy_backward<T in f32 | f64 | bf16>(
        x: In<T>, labels: In<u8>, labelled: In<u32>, seed: In<T::Accumulator>, dx: Out<T>, classes: Val<i32>,
        count: Val<i32>);
}

/// Blocks whose sums are added at the end: a pixel a thread, at most two blocks on each multiprocessor of a big GPU.
pub(crate) fn blocks_of(pixels: usize) -> usize {
    pixels.div_ceil(256).clamp(1, 264)
}

/// The loss, and the number of labelled pixels for [`backward`].
pub(super) fn forward<T: Element>(logits: &Tensor, labels: &Tensor, classes: usize) -> Result<(Tensor, Tensor)> {
    let device = logits.device();
    let (blocks, count) = (blocks_of(labels.len()), labels.len() as i32);
    Launch::linear(OP, logits.len())?;
    let mut sums = Tensor::empty(&[blocks], DType::F64, device)?;
    let mut numbers = Tensor::empty(&[blocks], DType::U32, device)?;
    let mut loss = Tensor::empty(&[], T::Accumulator::DTYPE, device)?;
    let mut labelled = Tensor::empty(&[], DType::U32, device)?;
    // SAFETY: `count` pixels of `classes` logits and one label each, below 2^31; one sum and number a block.
    unsafe {
        let launch = Launch::blocks(OP, blocks, 256)?;
        cross_entropy_sums::<T>(device, launch, logits, labels, &mut sums, &mut numbers, classes as i32, count)?;
        let launch = Launch::blocks(OP, 1, 256)?;
        let blocks = blocks as i32;
        cross_entropy_finish::<T::Accumulator>(device, launch, &sums, &numbers, &mut loss, &mut labelled, blocks)?;
    }
    Ok((loss, labelled))
}

pub(super) fn backward<T: Element>(
    logits: &Tensor,
    labels: &Tensor,
    labelled: &Tensor,
    classes: usize,
    seed: &Tensor,
) -> Result<Tensor> {
    let mut dx = logits.empty_like()?;
    let (launch, count, classes) = (Launch::linear(OP, labels.len())?, labels.len() as i32, classes as i32);
    // SAFETY: as in `forward`; the launch covers the pixels.
    unsafe {
        cross_entropy_backward::<T>(logits.device(), launch, logits, labels, labelled, seed, &mut dx, classes, count)?
    };
    Ok(dx)
}
