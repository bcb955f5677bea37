//! Launches of `kernels/concat_channels.cu`.

use half::bf16;

use super::OP;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, Out, Val},
};

kernels! { "concat_channels";
    /// Writes a run of channels.
    fn concat_channels_put<T in f32 | f64 | bf16>(
        narrow: In<T>, wide: Inout<T>, channels: Val<i32>, total: Val<i32>, offset: Val<i32>, count: Val<i32>
    );
    /// Reads a run of channels.
    fn concat_channels_take<T in f32 | f64 | bf16>(
        wide: In<T>, narrow: Out<T>, channels: Val<i32>, total: Val<i32>, offset: Val<i32>, count: Val<i32>
    );
}

pub(super) fn forward<T: Element>(parts: &[&Tensor], shape: &[usize; 4]) -> Result<Tensor> {
    let device = parts[0].device();
    let mut y = Tensor::empty(shape, T::DTYPE, device)?;
    // Offsets and totals are at most the number of elements, which the kernels index with 32 bits.
    Launch::linear(OP, y.len())?;
    let mut offset = 0;
    for part in parts {
        let (channels, count) = (part.shape()[3], part.len());
        let [c, total, o, n] = [channels, shape[3], offset, count].map(|extent| extent as i32);
        if count > 0 {
            // SAFETY: the part has the rows of y, and its channels lie in y from `offset` on; the launch covers it.
            unsafe { concat_channels_put::<T>(device, Launch::linear(OP, count)?, part, &mut y, c, total, o, n)? };
        }
        offset += channels;
    }
    Ok(y)
}

pub(super) fn slice<T: Element>(x: &Tensor, from: usize, channels: usize) -> Result<Tensor> {
    let [n, h, w, total] = x.dims(OP)?;
    let mut y = Tensor::empty(&[n, h, w, channels], T::DTYPE, x.device())?;
    if y.is_empty() {
        return Ok(y);
    }
    Launch::linear(OP, x.len())?;
    let launch = Launch::linear(OP, y.len())?;
    let [c, total, from, count] = [channels, total, from, y.len()].map(|extent| extent as i32);
    // SAFETY: y has the rows of x, which holds the channels asked for; the launch covers y.
    unsafe { concat_channels_take::<T>(x.device(), launch, x, &mut y, c, total, from, count)? };
    Ok(y)
}
