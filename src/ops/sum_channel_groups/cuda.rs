//! Launches of `kernels/sum_channel_groups.cu`.

use half::bf16;

use super::OP;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, Out, Val},
};

kernels! { "sum_channel_groups";
    /// y[row][k] = sum over groups of x[row][g channels + k].
    fn sum_channel_groups_forward<T in f32 | f64 | bf16>(
        x: In<T>, y: Out<T>, channels: Val<i32>, groups: Val<i32>, count: Val<i32>
    );
    /// dx[row][g channels + k] = dy[row][k].
    fn sum_channel_groups_backward<T in f32 | f64 | bf16>(
        dy: In<T>, dx: Out<T>, channels: Val<i32>, groups: Val<i32>, count: Val<i32>
    );
    /// dx[row][g channels + k] += dy[row][k].
    fn sum_channel_groups_add<T in f32 | f64 | bf16>(
        dy: In<T>, dx: Inout<T>, channels: Val<i32>, groups: Val<i32>, count: Val<i32>
    );
}

pub(super) fn forward<T: Element>(x: &Tensor, groups: usize) -> Result<Tensor> {
    let [n, h, w, total] = x.dims(OP)?;
    let mut y = Tensor::empty(&[n, h, w, total / groups], T::DTYPE, x.device())?;
    Launch::linear(OP, x.len())?;
    let [channels, g, count] = [total / groups, groups, y.len()].map(|extent| extent as i32);
    // SAFETY: x has the rows of y and `groups` times its channels; the launch covers y.
    unsafe {
        sum_channel_groups_forward::<T>(x.device(), Launch::linear(OP, y.len())?, x, &mut y, channels, g, count)?;
    }
    Ok(y)
}

pub(super) fn backward<T: Element>(dy: &Tensor, groups: usize, accumulate: Option<Tensor>) -> Result<Tensor> {
    let [n, h, w, channels] = dy.dims(OP)?;
    let (device, adds) = (dy.device(), accumulate.is_some());
    let mut dx = match accumulate {
        Some(accumulate) => accumulate,
        None => Tensor::empty(&[n, h, w, groups * channels], T::DTYPE, device)?,
    };
    let launch = Launch::packs(OP, dx.len(), T::DTYPE.size())?;
    let [channels, g, count] = [channels, groups, dx.len()].map(|extent| extent as i32);
    // SAFETY: dx has the rows of dy and `groups` times its channels; the launch covers dx.
    unsafe {
        match adds {
            true => sum_channel_groups_add::<T>(device, launch, dy, &mut dx, channels, g, count)?,
            false => sum_channel_groups_backward::<T>(device, launch, dy, &mut dx, channels, g, count)?,
        }
    }
    Ok(dx)
}
