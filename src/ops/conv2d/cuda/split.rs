//! The kernels of `kernels/conv2d_split.cu`: forward pass and data gradient with their sums cut into parts.

use half::bf16;

use super::{THREADS, partial, tiled};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    ops::conv2d::{
        ConvParams, OP,
        problem::{Direction, extents},
        tiling::{
            MmaTile::{Large, Medium, Slim, Small},
            Tiling,
        },
    },
    tensor::{Element, In, OptIn, Out, Val},
};

kernels! { "conv2d_split";
    /// Parts of the sums of y, tiles of 128 x 128.
    fn conv2d_split_forward_large<T in f32 | bf16>(x: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of y, tiles of 128 x 64.
    fn conv2d_split_forward_medium<T in f32 | bf16>(x: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of y, tiles of 64 x 64.
    fn conv2d_split_forward_small<T in f32 | bf16>(x: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of y, tiles of 128 x 32.
    fn conv2d_split_forward_slim<T in f32 | bf16>(x: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of dx, tiles of 128 x 128.
    fn conv2d_split_data_gradient_large<T in f32 | bf16>(dy: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of dx, tiles of 128 x 64.
    fn conv2d_split_data_gradient_medium<T in f32 | bf16>(dy: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of dx, tiles of 64 x 64.
    fn conv2d_split_data_gradient_small<T in f32 | bf16>(dy: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// Parts of the sums of dx, tiles of 128 x 32.
    fn conv2d_split_data_gradient_slim<T in f32 | bf16>(dy: In<T>, w: In<T>, partial: Out<f32>, params: Val<ConvParams>);
    /// The parts, added in order, plus a bias, plus what there is to accumulate.
    fn conv2d_split_sum<T in f32 | bf16>(
        partial: In<f32>, bias: OptIn<T>, accumulate: OptIn<T>, out: Out<T>, count: Val<i32>, channels: Val<i32>,
        parts: Val<i32>
    );
}

/// A block for each tile of each phase, and for each part.
fn launch(tiling: Tiling, direction: Direction, params: &ConvParams, phases: usize) -> Result<Launch> {
    let (rows, columns) = extents(direction, params);
    let mut launch = tiled(tiling.tile.count(rows, columns), phases, [THREADS, 1, 1])?;
    launch.grid[1] = tiling.split as u32;
    Ok(Launch { shared_bytes: tiling.tile.shared_bytes(), ..launch })
}

pub(super) fn forward<T: Element>(
    tiling: Tiling,
    params: &ConvParams,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (device, p, shape) = (x.device(), *params, params.output());
    let launch = launch(tiling, Direction::Forward, params, 1)?;
    let mut sums = partial(tiling.split, &shape, x)?;
    let to = &mut sums;
    // SAFETY: the tensors have the extents of `params`, which the caller checked; the grid covers y in tiles, for each layer of
    // `sums`; the shared memory is the tile's, and so are the channels that it takes.
    unsafe {
        match tiling.tile {
            Large => conv2d_split_forward_large::<T>(device, launch, x, w, to, p)?,
            Medium => conv2d_split_forward_medium::<T>(device, launch, x, w, to, p)?,
            Small => conv2d_split_forward_small::<T>(device, launch, x, w, to, p)?,
            Slim => conv2d_split_forward_slim::<T>(device, launch, x, w, to, p)?,
        }
    }
    sum::<T>(&sums, bias, None, &shape)
}

pub(super) fn data_gradient<T: Element>(
    tiling: Tiling,
    params: &ConvParams,
    dy: &Tensor,
    w: &Tensor,
    accumulate: Option<&Tensor>,
) -> Result<Tensor> {
    let (device, p, shape) = (dy.device(), *params, params.input());
    let phases = params.stride[0] as usize * params.stride[1] as usize;
    let launch = launch(tiling, Direction::DataGradient, params, phases)?;
    let mut sums = partial(tiling.split, &shape, dy)?;
    let to = &mut sums;
    // SAFETY: the tensors have the extents of `params`; the grid covers the largest phase in tiles, and every phase, for each
    // layer of `sums`; the shared memory is the tile's, and so are the channels that it takes.
    unsafe {
        match tiling.tile {
            Large => conv2d_split_data_gradient_large::<T>(device, launch, dy, w, to, p)?,
            Medium => conv2d_split_data_gradient_medium::<T>(device, launch, dy, w, to, p)?,
            Small => conv2d_split_data_gradient_small::<T>(device, launch, dy, w, to, p)?,
            Slim => conv2d_split_data_gradient_slim::<T>(device, launch, dy, w, to, p)?,
        }
    }
    sum::<T>(&sums, None, accumulate, &shape)
}

/// The layers of `partial` added up, plus `bias` for each pixel, plus `accumulate` of the same `shape`.
fn sum<T: Element>(
    partial: &Tensor,
    bias: Option<&Tensor>,
    accumulate: Option<&Tensor>,
    shape: &[usize; 4],
) -> Result<Tensor> {
    let mut out = Tensor::empty(shape, T::DTYPE, partial.device())?;
    let launch = Launch::linear(OP, out.len().div_ceil(16 / T::DTYPE.size()))?;
    let [count, channels, parts] = [out.len(), shape[3], partial.shape()[0]].map(|extent| extent as i32);
    // SAFETY: `partial` holds `parts` layers of `out`, the bias its channels, `accumulate` as much as `out`, whose chunks the
    // launch covers.
    unsafe {
        conv2d_split_sum::<T>(partial.device(), launch, partial, bias, accumulate, &mut out, count, channels, parts)?;
    }
    Ok(out)
}
