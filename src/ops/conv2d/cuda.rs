//! Launches of `kernels/conv2d.cu`.

use half::bf16;

use super::{
    ConvParams, OP,
    algorithm::{Algorithm, Direction, SimtTile, choose, extents, ranges},
};
use crate::{
    DType, Error, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, OptIn, Out, Val},
};

kernels! { "conv2d";
    /// y = x * w + bias, 64 filters a tile.
    fn conv2d_forward_wide<T in f32 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, params: Val<ConvParams>);
    /// As `conv2d_forward_wide`, 32 filters a tile.
    fn conv2d_forward_narrow<T in f32 | f64 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, params: Val<ConvParams>);
    /// dx from dy and w, 64 channels a tile.
    fn conv2d_data_gradient_wide<T in f32 | bf16>(dy: In<T>, w: In<T>, dx: Out<T>, params: Val<ConvParams>);
    /// As `conv2d_data_gradient_wide`, 32 channels a tile.
    fn conv2d_data_gradient_narrow<T in f32 | f64 | bf16>(dy: In<T>, w: In<T>, dx: Out<T>, params: Val<ConvParams>);
    /// Sums of dw over ranges of pixels, 64 columns a tile.
    fn conv2d_weight_gradient_wide<T in f32 | bf16>(dy: In<T>, x: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
    /// As `conv2d_weight_gradient_wide`, 32 columns a tile.
    fn conv2d_weight_gradient_narrow<T in f32 | bf16>(dy: In<T>, x: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
    /// As `conv2d_weight_gradient_narrow`, in f64.
    fn conv2d_weight_gradient_narrow_f64(dy: In<f64>, x: In<f64>, partial: Out<f64>, params: Val<ConvParams>, range: Val<i32>);
    /// Sums of db over ranges of pixels.
    fn conv2d_bias_gradient<T in f32 | bf16>(dy: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
    /// As `conv2d_bias_gradient`, in f64.
    fn conv2d_bias_gradient_f64(dy: In<f64>, partial: Out<f64>, params: Val<ConvParams>, range: Val<i32>);
    /// The sums over ranges, added in order.
    fn conv2d_reduce<T in f32 | bf16>(partial: In<f32>, out: Out<T>, count: Val<i32>, ranges: Val<i32>);
    /// As `conv2d_reduce`, in f64.
    fn conv2d_reduce_f64(partial: In<f64>, out: Out<f64>, count: Val<i32>, ranges: Val<i32>);
}

/// Threads of a block of the tiled kernels (CONV_THREADS).
const THREADS: u32 = 128;

/// `tiles` blocks, for each of `layers` in z.
fn tiled(tiles: usize, layers: usize, block: [u32; 3]) -> Result<Launch> {
    if layers > 65_535 {
        return Err(Error::shape(
            OP,
            format!("{layers} phases (stride x stride) exceed the grid; use a smaller stride"),
        ));
    }
    let mut launch = Launch::blocks(OP, tiles, THREADS)?;
    launch.grid[2] = layers as u32;
    Ok(Launch { block, ..launch })
}

fn tile_of(direction: Direction, params: &ConvParams, dtype: DType) -> (SimtTile, usize) {
    let Algorithm::Simt(tile) = choose(direction, params, dtype);
    let (rows, columns) = extents(direction, params);
    (tile, tile.count(rows, columns))
}

pub(super) fn forward<T: Element>(
    params: &ConvParams,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = Tensor::empty(&params.output(), T::DTYPE, x.device())?;
    let (tile, tiles) = tile_of(Direction::Forward, params, T::DTYPE);
    let launch = tiled(tiles, 1, [THREADS, 1, 1])?;
    // SAFETY: the tensors have the extents of `params`, which the caller checked; the grid covers y in tiles.
    unsafe {
        match tile {
            SimtTile::Wide => conv2d_forward_wide::<T>(x.device(), launch, x, w, bias, &mut y, *params)?,
            SimtTile::Narrow => conv2d_forward_narrow::<T>(x.device(), launch, x, w, bias, &mut y, *params)?,
        }
    }
    Ok(y)
}

pub(super) fn data_gradient<T: Element>(params: &ConvParams, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::empty(&params.input(), T::DTYPE, dy.device())?;
    let (tile, tiles) = tile_of(Direction::DataGradient, params, T::DTYPE);
    let phases = params.stride[0] as usize * params.stride[1] as usize;
    let launch = tiled(tiles, phases, [THREADS, 1, 1])?;
    // SAFETY: the tensors have the extents of `params`; the grid covers the largest phase in tiles, and every phase.
    unsafe {
        match tile {
            SimtTile::Wide => conv2d_data_gradient_wide::<T>(dy.device(), launch, dy, w, &mut dx, *params)?,
            SimtTile::Narrow => conv2d_data_gradient_narrow::<T>(dy.device(), launch, dy, w, &mut dx, *params)?,
        }
    }
    Ok(dx)
}

pub(super) fn weight_gradient<T: Element>(params: &ConvParams, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let device = dy.device();
    let (tile, tiles) = tile_of(Direction::WeightGradient, params, T::DTYPE);
    let (layers, range) = ranges(tiles, pixels(params));
    let launch = tiled(tiles, layers, [THREADS, 1, 1])?;
    let shape = params.filter();
    let mut partial = partial(layers, &shape, dy)?;
    let range = range as i32;
    // SAFETY: the tensors have the extents of `params`; the grid covers the filter in tiles and the pixels in ranges,
    // one layer of `partial` each.
    unsafe {
        match (tile, T::DTYPE) {
            (_, DType::F64) => {
                conv2d_weight_gradient_narrow_f64(device, launch, dy, x, &mut partial, *params, range)?;
            }
            (SimtTile::Wide, _) => {
                conv2d_weight_gradient_wide::<T>(device, launch, dy, x, &mut partial, *params, range)?;
            }
            (SimtTile::Narrow, _) => {
                conv2d_weight_gradient_narrow::<T>(device, launch, dy, x, &mut partial, *params, range)?;
            }
        }
    }
    reduce::<T>(&partial, &shape, layers)
}

pub(super) fn bias_gradient<T: Element>(params: &ConvParams, dy: &Tensor) -> Result<Tensor> {
    let shape = [params.k as usize];
    let blocks = shape[0].div_ceil(32);
    let (layers, range) = ranges(blocks, pixels(params));
    let launch = tiled(blocks, layers, [32, 8, 1])?;
    let mut partial = partial(layers, &shape, dy)?;
    // SAFETY: dy has the extents of `params`; the grid covers its channels and, in ranges, its pixels, one layer of
    // `partial` each.
    unsafe {
        if T::DTYPE == DType::F64 {
            conv2d_bias_gradient_f64(dy.device(), launch, dy, &mut partial, *params, range as i32)?;
        } else {
            conv2d_bias_gradient::<T>(dy.device(), launch, dy, &mut partial, *params, range as i32)?;
        }
    }
    reduce::<T>(&partial, &shape, layers)
}

/// Pixels of the output.
fn pixels(params: &ConvParams) -> usize {
    params.output()[..3].iter().product()
}

/// Workspace for sums over `layers` ranges.
fn partial(layers: usize, shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::empty(&[&[layers], shape].concat(), like.dtype().accumulator(), like.device())
}

fn reduce<T: Element>(partial: &Tensor, shape: &[usize], layers: usize) -> Result<Tensor> {
    let device = partial.device();
    let mut out = Tensor::empty(shape, T::DTYPE, device)?;
    let launch = Launch::linear(OP, out.len())?;
    let (count, layers) = (out.len() as i32, layers as i32);
    // SAFETY: `partial` holds `layers` times `count` elements, `out` `count`, which the launch covers.
    unsafe {
        if T::DTYPE == DType::F64 {
            conv2d_reduce_f64(device, launch, partial, &mut out, count, layers)?;
        } else {
            conv2d_reduce::<T>(device, launch, partial, &mut out, count, layers)?;
        }
    }
    Ok(out)
}
