//! Launches of `kernels/entropy.cu`.

use half::bf16;

use super::OP;
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::cross_entropy::cuda::blocks_of,
    tensor::{Element, In, Out, Val},
};

kernels! { "entropy";
    /// The sum over the pixels of each block.
    fn entropy_sums<T in f32 | f64 | bf16>(x: In<T>, sums: Out<f64>, classes: Val<i32>, count: Val<i32>);
    /// The mean.
    fn entropy_finish<T in f32 | f64>(sums: In<f64>, loss: Out<T>, blocks: Val<i32>, pixels: Val<i32>);
    /// -p (x - m - u) * seed / pixels.
    fn entropy_backward<T in f32 | f64 | bf16>(
        x: In<T>, seed: In<T::Accumulator>, dx: Out<T>, classes: Val<i32>, count: Val<i32>);
}

pub(super) fn forward<T: Element>(logits: &Tensor, classes: usize) -> Result<Tensor> {
    let (device, pixels) = (logits.device(), logits.len() / classes);
    if pixels == 0 {
        return Tensor::zeros(&[], T::Accumulator::DTYPE, device);
    }
    Launch::linear(OP, logits.len())?;
    let blocks = blocks_of(pixels);
    let mut sums = Tensor::empty(&[blocks], DType::F64, device)?;
    let mut loss = Tensor::empty(&[], T::Accumulator::DTYPE, device)?;
    // SAFETY: `pixels` pixels of `classes` logits each, below 2^31; one sum a block.
    unsafe {
        let launch = Launch::blocks(OP, blocks, 256)?;
        entropy_sums::<T>(device, launch, logits, &mut sums, classes as i32, pixels as i32)?;
        let launch = Launch::blocks(OP, 1, 256)?;
        entropy_finish::<T::Accumulator>(device, launch, &sums, &mut loss, blocks as i32, pixels as i32)?;
    }
    Ok(loss)
}

pub(super) fn backward<T: Element>(logits: &Tensor, classes: usize, seed: &Tensor) -> Result<Tensor> {
    let mut dx = logits.empty_like()?;
    let pixels = logits.len() / classes;
    let launch = Launch::linear(OP, pixels)?;
    // SAFETY: as in `forward`; the launch covers the pixels.
    unsafe { entropy_backward::<T>(logits.device(), launch, logits, seed, &mut dx, classes as i32, pixels as i32)? };
    Ok(dx)
}
