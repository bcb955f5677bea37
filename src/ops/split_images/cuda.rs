//! Launches of `kernels/split_images.cu`.

use half::bf16;

use super::OP;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, Out, Val},
};

kernels! { "split_images";
    /// Reads a run of images.
    fn split_images_take<T in f32 | f64 | bf16>(whole: In<T>, part: Out<T>, offset: Val<i32>, count: Val<i32>);
    /// Writes a run of images, and zeros elsewhere.
    fn split_images_give<T in f32 | f64 | bf16>(
        part: In<T>, whole: Out<T>, offset: Val<i32>, count: Val<i32>, total: Val<i32>
    );
    /// Adds to a run of images.
    fn split_images_add<T in f32 | f64 | bf16>(part: In<T>, whole: Inout<T>, offset: Val<i32>, count: Val<i32>);
}

pub(super) fn take<T: Element>(whole: &Tensor, shape: &[usize], offset: usize) -> Result<Tensor> {
    let mut part = Tensor::empty(shape, T::DTYPE, whole.device())?;
    // Offsets are at most the number of elements, which the kernel indexes with 32 bits.
    Launch::linear(OP, whole.len())?;
    let (launch, count) = (Launch::linear(OP, part.len())?, part.len() as i32);
    // SAFETY: the caller checked that the part lies in the whole; the launch covers it.
    unsafe { split_images_take::<T>(whole.device(), launch, whole, &mut part, offset as i32, count)? };
    Ok(part)
}

pub(super) fn give<T: Element>(
    part: &Tensor,
    shape: &[usize],
    offset: usize,
    accumulate: Option<Tensor>,
) -> Result<Tensor> {
    let device = part.device();
    let (offset, count) = (offset as i32, part.len() as i32);
    if let Some(mut sum) = accumulate {
        Launch::linear(OP, sum.len())?;
        // SAFETY: `sum` has the shape of the whole, in which the part lies from `offset` on; the launch covers the part.
        unsafe { split_images_add::<T>(device, Launch::linear(OP, part.len())?, part, &mut sum, offset, count)? };
        return Ok(sum);
    }
    let mut whole = Tensor::empty(shape, T::DTYPE, device)?;
    let (launch, total) = (Launch::linear(OP, whole.len())?, whole.len() as i32);
    // SAFETY: the part lies in the whole from `offset` on; the launch covers the whole.
    unsafe { split_images_give::<T>(device, launch, part, &mut whole, offset, count, total)? };
    Ok(whole)
}
