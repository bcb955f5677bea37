//! The kernels of `kernels/conv2d_split_k.cu`: forward pass and data gradient with split-K.

use half::bf16;

use super::{THREADS, partial, tiled};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    ops::conv2d::{
        ConvProblem, OP,
        mma_tiling::{MmaTile, Tiling},
        problem::{Direction, extents},
    },
    tensor::{Element, In, OptIn, Out, Val},
};

kernels! { "conv2d_split_k";
    /// Parts of the sums of y.
    fn conv2d_split_k_forward<T in f32 | bf16; MmaTile in [large medium small slim]>(
        x: In<T>, w: In<T>, partial: Out<f32>, problem: Val<ConvProblem>
    );
    /// Parts of the sums of dx.
    fn conv2d_split_k_data_gradient<T in f32 | bf16; MmaTile in [large medium small slim]>(
        dy: In<T>, w: In<T>, partial: Out<f32>, problem: Val<ConvProblem>
    );
    /// The parts, added in order, plus a bias, plus what there is to accumulate.
    fn conv2d_split_k_reduce<T in f32 | bf16>(
        partial: In<f32>, bias: OptIn<T>, accumulate: OptIn<T>, out: Out<T>, count: Val<i32>, channels: Val<i32>,
        splits: Val<i32>
    );
}

/// A block for each tile of each phase, and for each part.
fn launch(tiling: Tiling, direction: Direction, problem: &ConvProblem, phases: usize) -> Result<Launch> {
    let (m, n) = extents(direction, problem);
    let mut launch = tiled(tiling.tile.count(m, n), phases, [THREADS, 1, 1])?;
    launch.grid[1] = tiling.split_k as u32;
    Ok(Launch { shared_bytes: tiling.tile.shared_bytes(), ..launch })
}

pub(super) fn forward<T: Element>(
    tiling: Tiling,
    problem: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (device, p, shape) = (x.device(), *problem, problem.output());
    let launch = launch(tiling, Direction::Forward, problem, 1)?;
    let mut sums = partial(tiling.split_k, &shape, x)?;
    // SAFETY: the tensors have the extents of `problem`, which the caller checked; the grid covers y in tiles, for each layer of
    // `sums`; the shared memory is the tile's, and so are the channels that it takes.
    unsafe { conv2d_split_k_forward::<T>(device, launch, tiling.tile, x, w, &mut sums, p)? };
    sum::<T>(&sums, bias, None, &shape)
}

pub(super) fn data_gradient<T: Element>(
    tiling: Tiling,
    problem: &ConvProblem,
    dy: &Tensor,
    w: &Tensor,
    accumulate: Option<&Tensor>,
) -> Result<Tensor> {
    let (device, p, shape) = (dy.device(), *problem, problem.input());
    let phases = problem.stride[0] as usize * problem.stride[1] as usize;
    let launch = launch(tiling, Direction::DataGradient, problem, phases)?;
    let mut sums = partial(tiling.split_k, &shape, dy)?;
    // SAFETY: the tensors have the extents of `problem`; the grid covers the largest phase in tiles, and every phase, for each
    // layer of `sums`; the shared memory is the tile's, and so are the channels that it takes.
    unsafe { conv2d_split_k_data_gradient::<T>(device, launch, tiling.tile, dy, w, &mut sums, p)? };
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
        conv2d_split_k_reduce::<T>(
            partial.device(),
            launch,
            partial,
            bias,
            accumulate,
            &mut out,
            count,
            channels,
            parts,
        )?;
    }
    Ok(out)
}
